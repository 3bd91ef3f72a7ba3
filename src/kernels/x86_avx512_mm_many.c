/* Products with many tokens. A piece of two panels, 512 columns, is expanded into the first cache;
 * then all tokens pass over it in tiles of 2 panels x NT tokens whose sums stay in registers.
 * Between pieces they wait in y.
 *
 * Weights that may be negative have 128 added, and the integer sum starts at the activation's bias,
 * -128 times the sum of its q: the addition costs nothing. */
#include "kernels/x86_avx512_mm.h"

/* What all tiles of two panels and a piece share. */
typedef struct job {
    const avx512_piece *w[2];
    const nib_act *a;
    int64_t g0; /* the piece's first group in the row */
    int n_groups;
    bool first; /* of the row: sums start at zero */
    float *y[2];
    int64_t ldy;
    __mmask16 rows[2];
} job;

/* Registers are so full here that a load moved up (compilers like to) makes others spill. */
#define KEEP_ORDER() __asm__ volatile("" ::: "memory")

enum { MOST = 7 }; /* tokens a tile: 2 x 7 floats, 2 x 7 integers, 3 operands fill the registers */
typedef __m512 floats[2][MOST];
typedef __m512i integers[2][MOST];

/* Integer sums over operands [j0, j0 + nj) of group g, on top of bias[t * stride]. */
INLINE void dots(int nr, int nt, const job *o, int g, int j0, int nj, const int8_t *q,
                 const int32_t *bias, int stride, integers sum) {
    UNROLL
    for (int t = 0; t < nt; t++)
        sum[0][t] = sum[1][t] = bias ? bcast32(bias + t * stride) : _mm512_setzero_si512();
    UNROLL
    for (int j = j0; j < j0 + nj; j++) {
        __m512i w[2];
        KEEP_ORDER();
        UNROLL
        for (int r = 0; r < nr; r++) w[r] = _mm512_load_si512(o->w[r]->w[g][j]);
        UNROLL
        for (int t = 0; t < nt; t++) {
            __m512i x = bcast32(q + 32 * t + 4 * j);
            UNROLL
            for (int r = 0; r < nr; r++) sum[r][t] = dpbusd(sum[r][t], w[r], x);
        }
    }
}

/* One group of PLAIN, MIN or MIN16. */
INLINE void add_group(mm_form form, int nr, int nt, const job *o, int g, int64_t at, floats acc) {
    const nib_act *a = o->a;
    integers sum;
    dots(nr, nt, o, g, 0, 8, a->q + at * 32, form == MM_PLAIN ? a->bias + at : NULL, 1, sum);
    UNROLL
    for (int t = 0; t < nt; t++) {
        const float *ds = a->ds + at + t, *dh = a->dh + 2 * (at + t);
        KEEP_ORDER();
        UNROLL
        for (int r = 0; r < nr; r++) {
            const avx512_piece *w = o->w[r];
            __m512 v = acc[r][t];
            if (form == MM_MIN)
                v = _mm512_fmadd_ps(_mm512_load_ps(w->m[g][0]), _mm512_set1_ps(*ds), v);
            if (form == MM_MIN16) {
                v = _mm512_fmadd_ps(_mm512_load_ps(w->m[g][0]), _mm512_set1_ps(dh[0]), v);
                v = _mm512_fmadd_ps(_mm512_load_ps(w->m[g][1]), _mm512_set1_ps(dh[1]), v);
            }
            __m512 s = _mm512_mul_ps(_mm512_load_ps(w->s[g][0]), _mm512_set1_ps(a->d[at + t]));
            acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][t]), s, v);
        }
    }
}

/* One group of HALF. */
INLINE void add_halves(int nr, int nt, const job *o, int g, int64_t at, floats acc) {
    const nib_act *a = o->a;
    integers sum;
    floats v;
    dots(nr, nt, o, g, 0, 4, a->q + at * 32, a->biash + 2 * at, 2, sum);
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int t = 0; t < nt; t++)
            v[r][t] =
                _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][t]), _mm512_load_ps(o->w[r]->s[g][0]));
    }
    dots(nr, nt, o, g, 4, 4, a->q + at * 32, a->biash + 2 * at + 1, 2, sum);
    UNROLL
    for (int r = 0; r < nr; r++) {
        __m512 s = _mm512_load_ps(o->w[r]->s[g][1]);
        UNROLL
        for (int t = 0; t < nt; t++) {
            v[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][t]), s, v[r][t]);
            acc[r][t] = _mm512_fmadd_ps(v[r][t], _mm512_set1_ps(a->d[at + t]), acc[r][t]);
        }
    }
}

/* nr panels x nt tokens from t0 on. */
INLINE void tile(mm_form form, int nr, int nt, const job *o, int64_t t0) {
    int64_t at = o->g0 * o->a->n_tok + t0;
    /* at the start of a row there is nothing to load: no lanes */
    __mmask16 rows[2] = {o->first ? 0 : o->rows[0], o->first ? 0 : o->rows[1]};
    floats acc;
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int t = 0; t < nt; t++)
            acc[r][t] = _mm512_maskz_loadu_ps(rows[r], o->y[r] + (t0 + t) * o->ldy);
    }
    for (int g = 0; g < o->n_groups; g++, at += o->a->n_tok) {
        if (form == MM_HALF)
            add_halves(nr, nt, o, g, at, acc);
        else
            add_group(form, nr, nt, o, g, at, acc);
    }
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int t = 0; t < nt; t++)
            _mm512_mask_storeu_ps(o->y[r] + (t0 + t) * o->ldy, o->rows[r], acc[r][t]);
    }
}

/* One function a form, number of panels and number of tokens. */
#define TILE(FORM, NR, NT)                                                                         \
    static void tile_##FORM##_##NR##_##NT(const job *o, int64_t t0) {                              \
        tile(MM_##FORM, NR, NT, o, t0);                                                            \
    }
#define TILES_4(FORM, NR) TILE(FORM, NR, 1) TILE(FORM, NR, 2) TILE(FORM, NR, 3) TILE(FORM, NR, 4)
#define TILES_7(FORM, NR) TILES_4(FORM, NR) TILE(FORM, NR, 5) TILE(FORM, NR, 6) TILE(FORM, NR, 7)
#define ROW_4(F, NR)                                                                               \
    tile_##F##_##NR##_1, tile_##F##_##NR##_2, tile_##F##_##NR##_3, tile_##F##_##NR##_4
#define ROW_7(F, NR) ROW_4(F, NR), tile_##F##_##NR##_5, tile_##F##_##NR##_6, tile_##F##_##NR##_7
TILES_7(PLAIN, 1)
TILES_7(PLAIN, 2)
TILES_7(MIN, 1)
TILES_7(MIN, 2)
TILES_7(MIN16, 1)
TILES_7(MIN16, 2)
TILES_4(HALF, 1)
TILES_4(HALF, 2)
enum { MOST_HALF = 4 }; /* a third set of sums: fewer tokens */
static void (*const tiles[4][2][MOST])(const job *o, int64_t t0) = {
    [MM_PLAIN] = {{ROW_7(PLAIN, 1)}, {ROW_7(PLAIN, 2)}},
    [MM_MIN] = {{ROW_7(MIN, 1)}, {ROW_7(MIN, 2)}},
    [MM_MIN16] = {{ROW_7(MIN16, 1)}, {ROW_7(MIN16, 2)}},
    [MM_HALF] = {{ROW_4(HALF, 1)}, {ROW_4(HALF, 2)}},
};

void nib_avx512_mm_many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                        int64_t ldy, void *scratch) {
    avx512_piece *pieces = nib_mm_work(w, scratch);
    mm_form form = nib_mm_format(w->dtype)->form;
    int64_t n_groups = w->k / 32;
    int64_t most = form == MM_HALF ? MOST_HALF : MOST;
    int64_t n_tiles = (a->n_tok + most - 1) / most;
    int together = w->packed ? 2 : 1;
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        const uint8_t *panel[2];
        job o = {.a = a, .ldy = ldy};
        for (int r = 0; r < nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.w[r] = &pieces[r];
            o.y[r] = y + (p + r) * NIB_PANEL;
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (int64_t g = 0; g < n_groups; g += AVX512_PIECE) {
            o.g0 = g;
            o.n_groups = (int)NIB_MIN(AVX512_PIECE, n_groups - g);
            o.first = g == 0;
            for (int r = 0; r < nr; r++)
                nib_avx512_expand(w, panel[r], g, o.n_groups, true, &pieces[r]);
            int64_t t0 = 0; /* tiles of nearly equal numbers of tokens waste least */
            for (int64_t i = 0; i < n_tiles; i++) {
                int64_t t1 = a->n_tok * (i + 1) / n_tiles;
                tiles[form][nr - 1][t1 - t0 - 1](&o, t0);
                t0 = t1;
            }
        }
    }
}
