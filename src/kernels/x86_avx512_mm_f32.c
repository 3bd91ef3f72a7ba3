/* Products in floats: F32, F16 and BF16 panels, and formats without a packed form, expanded to
 * floats.
 *
 * Tiles of 4 panels x 6 tokens: an output is one chain of fused multiply-adds over k, so a tile
 * needs many outputs to keep the units busy, and four panels keep four streams of memory open when
 * there is one token. With few tokens the panels are read where they are; with many, a piece of
 * them is expanded to floats in the first cache and used by all. */
#include "kernels/x86_avx512_mm.h"

enum {
    PANELS = 4,
    MOST = 6,
    PIECE_K = 128
}; /* panels and tokens a tile; columns of an expanded piece */
_Static_assert(PANELS *MM_EXPAND_K *NIB_PANEL * sizeof(float) <= MM_SCRATCH,
               "the scratch holds the pieces");

typedef struct job {
    const uint8_t *w[PANELS]; /* at column k0 */
    const nib_act *a;
    int64_t k0, n;
    bool first;
    float *y; /* of the first panel */
    int64_t ldy;
    __mmask16 last; /* rows of the last panel */
} job;

INLINE __m512 weights(nib_dtype t, const uint8_t *p) {
    if (t == NIB_F16) return f16x16(p);
    if (t == NIB_BF16)
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
    return _mm512_loadu_ps(p);
}

INLINE void tile(nib_dtype t, int nr, int nt, const job *o, int64_t t0) {
    const float *x = o->a->x + t0 * o->a->ldx + o->k0;
    int64_t ldx = o->a->ldx, n = o->n;
    size_t line = t == NIB_F32 ? 64 : 32;
    const uint8_t *w[PANELS];
    __m512 acc[PANELS][MOST];
    UNROLL
    for (int r = 0; r < nr; r++) {
        w[r] = o->w[r];
        /* at the start of a row there is nothing to load: no lanes */
        __mmask16 rows = o->first ? 0 : r == nr - 1 ? o->last : 0xffff;
        UNROLL
        for (int i = 0; i < nt; i++)
            acc[r][i] = _mm512_maskz_loadu_ps(rows, o->y + (t0 + i) * o->ldy + r * NIB_PANEL);
    }
    for (int64_t k = 0; k < n; k++) {
        __m512 v[PANELS];
        UNROLL
        for (int r = 0; r < nr; r++) v[r] = weights(t, w[r] + (size_t)k * line);
        UNROLL
        for (int i = 0; i < nt; i++) {
            __m512 xi = _mm512_set1_ps(x[i * ldx + k]);
            UNROLL
            for (int r = 0; r < nr; r++) acc[r][i] = _mm512_fmadd_ps(v[r], xi, acc[r][i]);
        }
    }
    UNROLL
    for (int r = 0; r < nr; r++) {
        __mmask16 rows = r == nr - 1 ? o->last : 0xffff;
        UNROLL
        for (int i = 0; i < nt; i++)
            _mm512_mask_storeu_ps(o->y + (t0 + i) * o->ldy + r * NIB_PANEL, rows, acc[r][i]);
    }
}

#define TILE(T, NR, NT)                                                                            \
    static void tile_##T##_##NR##_##NT(const job *o, int64_t t0) {                                 \
        tile(NIB_##T, NR, NT, o, t0);                                                              \
    }
#define TILES(T, NR)                                                                               \
    TILE(T, NR, 1) TILE(T, NR, 2) TILE(T, NR, 3) TILE(T, NR, 4) TILE(T, NR, 5) TILE(T, NR, 6)
#define ROW(T, NR)                                                                                 \
    {                                                                                              \
        tile_##T##_##NR##_1, tile_##T##_##NR##_2, tile_##T##_##NR##_3, tile_##T##_##NR##_4,        \
            tile_##T##_##NR##_5, tile_##T##_##NR##_6                                               \
    }
TILES(F32, 1)
TILES(F32, PANELS)
TILES(F16, 1)
TILES(F16, PANELS)
TILES(BF16, 1)
TILES(BF16, PANELS)
typedef void (*const tile_fn)(const job *o, int64_t t0);
static tile_fn f32_tiles[2][MOST] = {ROW(F32, 1), ROW(F32, PANELS)};
static tile_fn f16_tiles[2][MOST] = {ROW(F16, 1), ROW(F16, PANELS)};
static tile_fn bf16_tiles[2][MOST] = {ROW(BF16, 1), ROW(BF16, PANELS)};

/* Columns [k0, k0+n) of a panel as floats. */
static void expand(const nib_mat *w, int64_t p, int64_t k0, int n, float *out) {
    if (!w->packed) {
        nib_mm_expand_f32(w, p, k0, n, out);
        return;
    }
    const uint8_t *from = w->data + (size_t)p * w->stride + (size_t)k0 * 32;
    for (int k = 0; k < n; k++, out += NIB_PANEL, from += 32)
        _mm512_store_ps(out, weights(w->dtype, from));
}

void nib_avx512_mm_f32(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    float *pieces = nib_mm_work(w, scratch);
    bool few = a->n_tok <= MOST;
    bool direct = w->packed && (few || w->dtype == NIB_F32);
    int64_t step = !w->packed ? MM_EXPAND_K : few ? w->k : PIECE_K;
    tile_fn(*tiles)[MOST] = !direct || w->dtype == NIB_F32 ? f32_tiles
                            : w->dtype == NIB_F16          ? f16_tiles
                                                           : bf16_tiles;
    int64_t n_tiles = (a->n_tok + MOST - 1) / MOST;
    for (int64_t p = p0, n_panels; p < p1; p += n_panels) {
        n_panels = p1 - p >= PANELS ? PANELS : 1;
        job o = {.a = a, .ldy = ldy, .y = y + p * NIB_PANEL};
        o.last = (__mmask16)((1u << nib_mm_rows(w, p + n_panels - 1)) - 1);
        for (int64_t k0 = 0; k0 < w->k; k0 += step) {
            o.k0 = k0;
            o.n = NIB_MIN(step, w->k - k0);
            o.first = k0 == 0;
            for (int64_t r = 0; r < n_panels; r++) {
                float *piece = pieces + r * step * NIB_PANEL;
                size_t size = w->dtype == NIB_F32 ? 4 : 2;
                o.w[r] = direct
                             ? w->data + (size_t)(p + r) * w->stride + (size_t)k0 * size * NIB_PANEL
                             : (const uint8_t *)piece;
                if (!direct) expand(w, p + r, k0, (int)o.n, piece);
            }
            int64_t t0 = 0;
            for (int64_t i = 0; i < n_tiles; i++) {
                int64_t t1 = a->n_tok * (i + 1) / n_tiles;
                tiles[n_panels > 1][t1 - t0 - 1](&o, t0);
                t0 = t1;
            }
        }
    }
}
