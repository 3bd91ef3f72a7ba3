/* Products with many tokens, blocks of 32. A piece of two panels, 512 columns, is expanded into the
 * first cache; then all tokens pass over it in tiles of 2 panels x NT tokens whose sums stay in
 * registers. Between pieces they wait in scratch: rows of y are powers of two apart and would fall
 * on the same few lines of the cache.
 *
 * Weights that may be negative have 128 added, and the integer sum starts at the activation's bias,
 * -128 times the sum of its q: the addition costs nothing. */
#include "kernels/x86_avx512_mm.h"

/* What all tiles of a piece share. */
typedef struct job {
    const avx512_piece *w; /* two */
    const nib_act *a;
    int64_t g0; /* the piece's first group in the row */
    int n_groups;
    float *sums; /* [T][2][16] */
} job;

/* Registers are so full here that a load moved up (compilers like to) makes others spill. */
#define KEEP_ORDER() __asm__ volatile("" ::: "memory")

enum { MOST = 7 }; /* tokens a tile: 2 x 7 floats, 2 x 7 integers, 3 operands fill the registers */

INLINE void tile(bool min, int nt, const job *o, int64_t t0) {
    int64_t n_tok = o->a->n_tok, at = o->g0 * n_tok + t0;
    const int8_t *q = o->a->q + at * 32;
    const float *d = o->a->d + at, *ds = o->a->ds + at;
    const int32_t *bias = o->a->bias + at;
    const avx512_piece *w = o->w;
    float *sums = o->sums + t0 * 2 * NIB_PANEL;
    __m512 acc[2][MOST];
    UNROLL
    for (int t = 0; t < nt; t++) {
        acc[0][t] = _mm512_load_ps(sums + t * 32);
        acc[1][t] = _mm512_load_ps(sums + t * 32 + 16);
    }
    for (int g = 0; g < o->n_groups; g++) {
        __m512i sum[2][MOST];
        UNROLL
        for (int t = 0; t < nt; t++)
            sum[0][t] = sum[1][t] = min ? _mm512_setzero_si512() : bcast32(bias + t);
        UNROLL
        for (int j = 0; j < 8; j++) {
            __m512i w0, w1;
            KEEP_ORDER();
            w0 = _mm512_load_si512(w[0].w[g][j]);
            w1 = _mm512_load_si512(w[1].w[g][j]);
            UNROLL
            for (int t = 0; t < nt; t++) {
                __m512i x = bcast32(q + 32 * t + 4 * j);
                sum[0][t] = dpbusd(sum[0][t], w0, x);
                sum[1][t] = dpbusd(sum[1][t], w1, x);
            }
        }
        UNROLL
        for (int r = 0; r < 2; r++) {
            __m512 s = _mm512_load_ps(w[r].s[g]);
            KEEP_ORDER();
            UNROLL
            for (int t = 0; t < nt; t++) {
                if (min)
                    acc[r][t] = _mm512_fmadd_ps(_mm512_load_ps(w[r].m[g]), _mm512_set1_ps(ds[t]),
                                                acc[r][t]);
                acc[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][t]),
                                            _mm512_mul_ps(s, _mm512_set1_ps(d[t])), acc[r][t]);
            }
        }
        q += n_tok * 32;
        d += n_tok;
        ds += n_tok;
        bias += n_tok;
    }
    UNROLL
    for (int t = 0; t < nt; t++) {
        _mm512_store_ps(sums + t * 32, acc[0][t]);
        _mm512_store_ps(sums + t * 32 + 16, acc[1][t]);
    }
}

#define TILE(FORM, NT)                                                                             \
    static void tile_##FORM##_##NT(const job *o, int64_t t0) {                                     \
        tile(MM_##FORM == MM_MIN, NT, o, t0);                                                      \
    }
#define TILES(FORM)                                                                                \
    TILE(FORM, 1)                                                                                  \
    TILE(FORM, 2) TILE(FORM, 3) TILE(FORM, 4) TILE(FORM, 5) TILE(FORM, 6) TILE(FORM, 7)
#define ROW(F)                                                                                     \
    [MM_##F] = {tile_##F##_1, tile_##F##_2, tile_##F##_3, tile_##F##_4,                            \
                tile_##F##_5, tile_##F##_6, tile_##F##_7}
TILES(PLAIN)
TILES(MIN)
static void (*const tiles[][MOST])(const job *o, int64_t t0) = {ROW(PLAIN), ROW(MIN)};

void nib_avx512_mm_many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                        int64_t ldy, void *scratch) {
    avx512_piece *pieces = nib_mm_work(w, scratch);
    mm_form form = nib_mm_format(w->dtype)->form;
    int64_t n_groups = w->k / 32, n_tiles = (a->n_tok + MOST - 1) / MOST;
    job o = {.w = pieces, .a = a, .sums = nib_mm_sums(w, scratch)};
    int together = w->packed ? 2 : 1;
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        const uint8_t *panel[2];
        for (int r = 0; r < nr; r++) panel[r] = nib_mm_panel(w, p + r, scratch);
        memset(o.sums, 0, sizeof(float) * (size_t)(a->n_tok * 2 * NIB_PANEL));
        for (o.g0 = 0; o.g0 < n_groups; o.g0 += AVX512_PIECE) {
            o.n_groups = (int)NIB_MIN(AVX512_PIECE, n_groups - o.g0);
            /* a lone panel is multiplied twice: rare, and not worth code of its own */
            for (int r = 0; r < 2; r++)
                nib_avx512_expand(w, panel[r % nr], o.g0, o.n_groups, true, &pieces[r]);
            int64_t t0 = 0; /* tiles of nearly equal numbers of tokens waste least */
            for (int64_t i = 0; i < n_tiles; i++) {
                int64_t t1 = a->n_tok * (i + 1) / n_tiles;
                tiles[form][t1 - t0 - 1](&o, t0);
                t0 = t1;
            }
        }
        nib_avx512_put(w, o.sums, a->n_tok, p, nr, y, ldy);
    }
}
