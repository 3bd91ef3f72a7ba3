/* Products with many tokens, blocks of 256: the way of x86_avx512_mm_many.c, a block of two panels
 * at a time.
 *
 * Everything is integers until the block ends. Sums of 32 or 16 columns are multiplied with their
 * scale and added up; what codes lie above weights, and minima, come from the sums of the
 * activations, once a block. Q2_K and Q3_K have their scales in the weight, which fits a byte. */
#include "kernels/x86_avx512_mm.h"

/* How sums meet scales: each 32 columns, each 16, or not at all. BY_WORD: each 16 columns, whose
 * sum fits a signed word (15 * 127 * 16 does): one instruction multiplies and adds it. */
typedef enum how { BY_32, BY_16, BY_WORD, FOLDED } how;

typedef struct block {
    _Alignas(64) uint8_t w[64][64];
    int32_t sc[16][NIB_PANEL];
    int32_t side[8][NIB_PANEL]; /* pairs of words: minima, or what makes up for the excess */
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
            _mm512_store_si512(o->sc[i], s8x16(plain.sc[i]));
    for (int i = 0; i < (has_16(t) ? 8 : 4); i++) {
        __m512i v = t == NIB_Q3_K ? _mm512_set1_epi16(1)
                                  : pairs((has_min(t) ? plain.min : plain.sc) + 2 * i);
        if (!has_min(t))
            v = _mm512_mullo_epi16(v,
                                   _mm512_set1_epi16((short)(t == NIB_Q3_K ? -128 : -excess(t))));
        _mm512_store_si512(o->side[i], v);
    }
    _mm512_store_ps(o->s, super_s(t, s));
    if (has_min(t)) _mm512_store_ps(o->m, super_m(s));
}

enum { MOST = 7 };

INLINE void tile(how by, bool min, int nt, const avx512_job *o, int64_t t0) {
    int64_t n_tok = o->a->n_tok, at = o->piece * n_tok + t0;
    const int8_t *q = o->a->kq + (o->piece * 4 * n_tok + t0) * 64;
    const block *w = o->w;
    bool of_32 = by == BY_32 || by == BY_WORD;
    int n_side = of_32 ? 4 : 8;
    const int16_t *ks = of_32 ? o->a->ks32 + at * 8 : o->a->ks16 + at * 16;
    __m512i isum[2][MOST];
    ask_for_sums(o, t0, nt);
    UNROLL
    for (int t = 0; t < nt; t++) isum[0][t] = isum[1][t] = _mm512_setzero_si512();
    const int lines = by == BY_16 || by == BY_WORD ? 4 : 8;
    for (int g = 0; g < 64 / lines; g++) {
        __m512i sum[2][MOST];
        UNROLL
        for (int t = 0; t < nt; t++)
            if (by != FOLDED) sum[0][t] = sum[1][t] = _mm512_setzero_si512();
        UNROLL
        for (int j = 0; j < lines; j++) {
            __m512i w0, w1;
            KEEP_ORDER();
            w0 = _mm512_load_si512(w[0].w[lines * g + j]);
            w1 = _mm512_load_si512(w[1].w[lines * g + j]);
            UNROLL
            for (int t = 0; t < nt; t++) {
                __m512i x = bcast32(q + 64 * t + 4 * j);
                if (by == FOLDED) {
                    isum[0][t] = dpbusd(isum[0][t], w0, x);
                    isum[1][t] = dpbusd(isum[1][t], w1, x);
                } else {
                    sum[0][t] = dpbusd(sum[0][t], w0, x);
                    sum[1][t] = dpbusd(sum[1][t], w1, x);
                }
            }
        }
        q += (g + 1) % (16 / lines) ? 4 * lines : n_tok * 64 - 64 + 4 * lines;
        if (by == FOLDED) continue;
        UNROLL
        for (int r = 0; r < 2; r++) {
            __m512i sc = _mm512_load_si512(w[r].sc[by == BY_WORD ? g / 2 : g]);
            KEEP_ORDER();
            UNROLL
            for (int t = 0; t < nt; t++)
                isum[r][t] = by == BY_WORD
                                 ? dpwssd(isum[r][t], sum[r][t], sc)
                                 : _mm512_add_epi32(isum[r][t], _mm512_mullo_epi32(sum[r][t], sc));
        }
    }
    UNROLL
    for (int r = 0; r < 2; r++) {
        UNROLL
        for (int t = 0; t < nt; t++) {
            const int16_t *k = ks + t * (of_32 ? 8 : 16);
            __m512i side = min ? _mm512_setzero_si512() : isum[r][t];
            UNROLL
            for (int i = 0; i < n_side; i++)
                side = dpwssd(side, _mm512_load_si512(w[r].side[i]), bcast32(k + 2 * i));
            __m512 v =
                _mm512_mul_ps(_mm512_cvtepi32_ps(min ? isum[r][t] : side), _mm512_load_ps(w[r].s));
            if (min) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(side), _mm512_load_ps(w[r].m), v);
            v = _mm512_fmadd_ps(v, _mm512_set1_ps(o->a->kd[at + t]), sums_before(o, t0 + t, r));
            keep_sums(o, t0 + t, r, v);
        }
    }
}

/* One function a kind and number of tokens. */
#define TILE(NAME, HOW, MIN, NT)                                                                   \
    static void tile_##NAME##_##NT(const avx512_job *o, int64_t t0) {                              \
        tile(HOW, MIN, NT, o, t0);                                                                 \
    }
#define TILES(NAME, HOW, MIN)                                                                      \
    TILE(NAME, HOW, MIN, 1)                                                                        \
    TILE(NAME, HOW, MIN, 2)                                                                        \
    TILE(NAME, HOW, MIN, 3)                                                                        \
    TILE(NAME, HOW, MIN, 4)                                                                        \
    TILE(NAME, HOW, MIN, 5)                                                                        \
    TILE(NAME, HOW, MIN, 6)                                                                        \
    TILE(NAME, HOW, MIN, 7)
#define ROW(N)                                                                                     \
    {                                                                                              \
        tile_##N##_1, tile_##N##_2, tile_##N##_3, tile_##N##_4, tile_##N##_5, tile_##N##_6,        \
            tile_##N##_7                                                                           \
    }
TILES(word_min, BY_WORD, true)
TILES(min, BY_32, true)
TILES(by_32, BY_32, false)
TILES(by_16, BY_16, false)
TILES(folded_min, FOLDED, true)
TILES(folded, FOLDED, false)
static const avx512_tile tiles[][MOST] = {
    [NIB_Q4_K] = ROW(word_min), [NIB_Q5_K] = ROW(min),    [NIB_IQ4_XS] = ROW(by_32),
    [NIB_Q6_K] = ROW(by_16),    [NIB_Q3_K] = ROW(folded), [NIB_Q2_K] = ROW(folded_min),
};

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
                      .bytes = sizeof(block),
                      .expand = expand_block,
                      .tiles = tiles[w->dtype],
                      .most = MOST};
    nib_avx512_walk(&way, w, a, p0, p1, y, ldy, scratch);
}
