/* Products with many tokens, blocks of 256: the way of x86_avx512_mm_many.c, a block of two panels
 * at a time.
 *
 * Everything is integers until the block ends. Sums of some columns are multiplied with their scale
 * and added up. vpdpwssd does both at once, half the work of a multiplication of 32 bits, but takes
 * only words: so sums are kept small. Where codes lie above weights, a sum starts at what that
 * comes to, and 16 columns of Q6_K are at most 32 times the sizes of their q. Of any q that is too
 * much, of those in a calm block (kernels.h), nearly all there are, it is not; nor are 16 columns
 * of Q5_K, and of Q4_K 32. Tiles with a block that is not calm take smaller sums or the longer way.
 * Q2_K and Q3_K have their scales in the weight, which fits a byte.
 *
 * Minima come from the sums of the activations, once a block. */
#include "kernels/x86_avx512_mm.h"

_Static_assert(NIB_CALM * 2 * 15 < 1 << 15, "32 columns of Q4_K fit a word");
_Static_assert(NIB_CALM * 31 < 1 << 15 && NIB_CALM * 32 < 1 << 15, "16 of Q5_K, 16 of Q6_K");

typedef struct block {
    _Alignas(64) uint8_t w[64][64];
    int32_t sc[16][NIB_PANEL]; /* low words; the high ones are 0 */
    int32_t min[8][NIB_PANEL]; /* pairs of words */
    float s[NIB_PANEL], m[NIB_PANEL];
} block;
_Static_assert(2 * sizeof(block) <= MM_SCRATCH, "the scratch holds two blocks");

/* p: codes, s: scales of the block */
INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, block *o) {
    super plain;
    super_scales(t, s, &plain);
    for (int g = 0; g < 8; g++, p += code_bytes_of(t)) {
        __m512i w[8], high;
        codes(t, p, w);
        UNROLL
        for (int i = 0; i < 8; i++) {
            if (is_folded(t)) w[i] = fold(t, w[i], plain.sc[2 * g + i / 4], &high);
            if (t == NIB_Q3_K) w[i] = _mm512_xor_si512(w[i], set8(128));
            _mm512_store_si512(o->w[8 * g + i], w[i]);
        }
    }
    if (!is_folded(t))
        for (int i = 0; i < (has_16(t) ? 16 : 8); i++)
            _mm512_store_si512(o->sc[i], _mm512_maskz_mov_epi16(0x55555555u, s8x16(plain.sc[i])));
    if (has_min(t))
        for (int i = 0; i < (has_16(t) ? 8 : 4); i++)
            _mm512_store_si512(o->min[i], pairs(plain.min + 2 * i));
    _mm512_store_ps(o->s, super_s(t, s));
    if (has_min(t)) _mm512_store_ps(o->m, super_m(s));
}

enum { MOST = 7 };

/* Where the sums of a block start, of so many columns each: at what makes up for the excess. */
INLINE void starts(nib_dtype t, int columns, int nt, const nib_act *a, int64_t at,
                   int32_t start[MOST][16]) {
    const __m512i above = _mm512_set1_epi32(is_folded(t) ? -128 : -excess(t));
    UNROLL
    for (int i = 0; i < nt; i++) {
        __m512i sums = _mm512_cvtepi16_epi32(
            columns == 32
                ? _mm256_castsi128_si256(_mm_load_si128((const __m128i *)(a->ks32 + (at + i) * 8)))
                : _mm256_load_si256((const __m256i *)(a->ks16 + (at + i) * 16)));
        if (columns == 256) sums = _mm512_set1_epi32(_mm512_reduce_add_epi32(sums));
        _mm512_store_si512(start[i], _mm512_mullo_epi32(sums, above));
    }
}

/* Sums of so many columns, 256 where scales are in the weights. */
INLINE void tile(nib_dtype type, int columns, bool by_word, int nt, const avx512_job *o,
                 int64_t t0) {
    const nib_act *a = o->a;
    int64_t n_tok = a->n_tok, at = o->piece * n_tok + t0;
    const int8_t *q = a->kq + (o->piece * 4 * n_tok + t0) * 64;
    const block *w = o->w;
    const bool above = excess(type), min = has_min(type), folded = columns == 256;
    _Alignas(64) int32_t start[MOST][16];
    __m512i isum[2][MOST];
    if (above) starts(type, columns, nt, a, at, start);
    UNROLL
    for (int t = 0; t < nt; t++)
        isum[0][t] = isum[1][t] = folded && above ? bcast32(start[t]) : _mm512_setzero_si512();
    const int lines = NIB_MIN(columns / 4, 8);
    for (int g = 0; g < 64 / lines; g++) {
        __m512i sum[2][MOST];
        if (g < nt) ask_for_sums(o, t0 + g);
        UNROLL
        for (int t = 0; t < nt; t++)
            if (!folded)
                sum[0][t] = sum[1][t] = above ? bcast32(start[t] + g) : _mm512_setzero_si512();
        UNROLL
        for (int j = 0; j < lines; j++) {
            __m512i w0, w1;
            KEEP_ORDER();
            w0 = _mm512_load_si512(w[0].w[lines * g + j]);
            w1 = _mm512_load_si512(w[1].w[lines * g + j]);
            UNROLL
            for (int t = 0; t < nt; t++) {
                __m512i x = bcast32(q + 64 * t + 4 * j);
                if (folded) {
                    isum[0][t] = dpbusd(isum[0][t], w0, x);
                    isum[1][t] = dpbusd(isum[1][t], w1, x);
                } else {
                    sum[0][t] = dpbusd(sum[0][t], w0, x);
                    sum[1][t] = dpbusd(sum[1][t], w1, x);
                }
            }
        }
        if (g % (16 / lines) == 0) { /* the next tile's */
            UNROLL
            for (int t = 0; t < nt; t++) _mm_prefetch((const char *)q + 64 * (nt + t), _MM_HINT_T0);
        }
        q += (g + 1) % (16 / lines) ? 4 * lines : n_tok * 64 - 64 + 4 * lines;
        if (folded) continue;
        UNROLL
        for (int r = 0; r < 2; r++) {
            __m512i sc = _mm512_load_si512(w[r].sc[g * columns / (has_16(type) ? 16 : 32)]);
            if (!by_word) sc = _mm512_srai_epi32(_mm512_slli_epi32(sc, 16), 16);
            KEEP_ORDER();
            UNROLL
            for (int t = 0; t < nt; t++)
                isum[r][t] = by_word
                                 ? dpwssd(isum[r][t], sum[r][t], sc)
                                 : _mm512_add_epi32(isum[r][t], _mm512_mullo_epi32(sum[r][t], sc));
        }
    }
    int n_min = has_16(type) ? 8 : 4;
    const int16_t *ks = has_16(type) ? a->ks16 + at * 16 : a->ks32 + at * 8;
    UNROLL
    for (int r = 0; r < 2; r++) {
        UNROLL
        for (int t = 0; t < nt; t++) {
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[r][t]), _mm512_load_ps(w[r].s));
            if (min) {
                __m512i imin = _mm512_setzero_si512();
                UNROLL
                for (int i = 0; i < n_min; i++)
                    imin = dpwssd(imin, _mm512_load_si512(w[r].min[i]),
                                  bcast32(ks + 2 * (t * n_min + i)));
                v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imin), _mm512_load_ps(w[r].m), v);
            }
            v = _mm512_fmadd_ps(v, _mm512_set1_ps(a->kd[at + t]), sums_before(o, t0 + t, r));
            keep_sums(o, t0 + t, r, v);
        }
    }
}

INLINE bool is_calm(int nt, const avx512_job *o, int64_t t0) {
    const uint8_t *calm = o->a->calm + o->piece * o->a->n_tok + t0;
    uint8_t all = 1;
    UNROLL
    for (int t = 0; t < nt; t++) all &= calm[t];
    return all;
}

INLINE void tile_of(nib_dtype type, int nt, const avx512_job *o, int64_t t0) {
    if (is_folded(type))
        tile(type, 256, false, nt, o, t0);
    else if (type == NIB_IQ4_XS)
        tile(type, 32, false, nt, o, t0);
    else if (is_calm(nt, o, t0))
        tile(type, type == NIB_Q4_K ? 32 : 16, true, nt, o, t0);
    else
        tile(type, type == NIB_Q5_K ? 32 : 16, type == NIB_Q4_K, nt, o, t0);
}

/* One function a format and number of tokens. */
#define TILE(T, NT)                                                                                \
    static void tile_##T##_##NT(const avx512_job *o, int64_t t0) {                                 \
        tile_of(NIB_##T, NT, o, t0);                                                               \
    }
/* clang-format off */
#define NIB_P16(...)
#define NIB_P16K(T, ...) TILE(T, 1) TILE(T, 2) TILE(T, 3) TILE(T, 4) TILE(T, 5) TILE(T, 6) TILE(T, 7)
#include "kernels/p16.def"
static const avx512_tile tiles[][MOST] = {
#define NIB_P16(...)
#define NIB_P16K(T, ...)                                                                           \
    [NIB_##T] = {tile_##T##_1, tile_##T##_2, tile_##T##_3, tile_##T##_4, tile_##T##_5,             \
                 tile_##T##_6, tile_##T##_7},
#include "kernels/p16.def"
};
/* clang-format on */

#define NIB_P16(...)
#define NIB_P16K(T, ...)                                                                           \
    static void expand_##T(const uint8_t *p, const uint8_t *s, block *o) {                         \
        expand(NIB_##T, p, s, o);                                                                  \
    }
#include "kernels/p16.def"
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, block *o) = {
#define NIB_P16(...)
#define NIB_P16K(T, ...) [NIB_##T] = expand_##T,
#include "kernels/p16.def"
};

static void expand_block(const nib_mat *w, const uint8_t *panel, int64_t b, void *out) {
    const mm_format *f = nib_mm_format(w->dtype);
    const uint8_t *s = panel + (size_t)(w->k / 32) * f->code_bytes;
    expanders[w->dtype](panel + (size_t)b * 8 * f->code_bytes, s + (size_t)b * f->scale_bytes, out);
}

void nib_avx512_mm_many_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                          int64_t ldy, void *scratch) {
    avx512_way way = {.n_pieces = w->k / 256,
                      .columns = 256,
                      .bytes = sizeof(block),
                      .expand = expand_block,
                      .tiles = tiles[w->dtype],
                      .most = MOST};
    nib_avx512_walk(&way, w, a, p0, p1, y, ldy, scratch);
}
