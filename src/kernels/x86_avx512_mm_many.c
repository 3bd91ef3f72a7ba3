/* Products with many tokens, blocks of 32: pieces of 512 columns.
 *
 * Weights that may be negative have 128 added, and the integer sum starts at the activation's bias,
 * -128 times the sum of its q: the addition costs nothing. */
#include "kernels/x86_avx512_mm.h"

enum { MOST = 7 }; /* tokens a tile: 2 x 7 floats, 2 x 7 integers, 3 operands fill the registers */

INLINE void tile(bool min, int nt, const avx512_job *o, int64_t t0) {
    int64_t n_tok = o->a->n_tok, g0 = o->piece * AVX512_PIECE, at = g0 * n_tok + t0;
    int n_groups = (int)NIB_MIN(AVX512_PIECE, o->a->k / 32 - g0);
    const int8_t *q = o->a->q + at * 32;
    const float *d = o->a->d + at, *ds = o->a->ds + at;
    const int32_t *bias = o->a->bias + at;
    const avx512_piece *w = o->w;
    __m512 acc[2][MOST];
    UNROLL
    for (int t = 0; t < nt; t++) {
        acc[0][t] = sums_before(o, t0 + t, 0);
        acc[1][t] = sums_before(o, t0 + t, 1);
    }
    for (int g = 0; g < n_groups; g++) {
        __m512i sum[2][MOST];
        if (g < nt) ask_for_sums(o, t0 + g);
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
        keep_sums(o, t0 + t, 0, acc[0][t]);
        keep_sums(o, t0 + t, 1, acc[1][t]);
    }
}

#define TILE(FORM, NT)                                                                             \
    static void tile_##FORM##_##NT(const avx512_job *o, int64_t t0) {                              \
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
static const avx512_tile tiles[][MOST] = {ROW(PLAIN), ROW(MIN)};

static void expand(const nib_mat *w, const uint8_t *panel, int64_t piece, void *out) {
    int64_t g0 = piece * AVX512_PIECE;
    avx512_piece *o = out;
    nib_avx512_expand(w, panel, g0, (int)NIB_MIN(AVX512_PIECE, w->k / 32 - g0), true,
                      &(avx512_expanded){o->w, o->s, o->m});
}

void nib_avx512_mm_many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                        int64_t ldy, void *scratch) {
    avx512_way way = {.n_pieces = (w->k / 32 + AVX512_PIECE - 1) / AVX512_PIECE,
                      .columns = 32 * AVX512_PIECE,
                      .bytes = sizeof(avx512_piece),
                      .expand = expand,
                      .tiles = tiles[nib_mm_format(w->dtype)->form],
                      .most = MOST};
    nib_avx512_walk(&way, w, a, p0, p1, y, ldy, scratch);
}
