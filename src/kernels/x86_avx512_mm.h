/* How AVX-512 reads a packed panel: codes into operands of vpdpbusd, scales into floats. Shared by
 * the products straight from the panel (few tokens), the ones over an expanded panel (many), and
 * AMX.
 *
 * The format is a parameter that is constant wherever these are inlined, so each switch is one case
 * at run time. */
#ifndef NIB_KERNELS_X86_AVX512_MM_H
#define NIB_KERNELS_X86_AVX512_MM_H
#include <immintrin.h>
#include "kernels/mm.h"

/* The slots that round activations. */
void nib_avx512_quantise(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
void nib_avx512_quantise_k(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
void nib_avx512_quantise_fast(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
/* The matmul slot of the AVX-512 set. */
void nib_avx512_matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch);
/* Up to so many tokens the panels are read where they are. */
enum { AVX512_FEW = 32 };
void nib_avx512_mm_few(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch);
void nib_avx512_mm_many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                        int64_t ldy, void *scratch);
void nib_avx512_mm_many_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                          int64_t ldy, void *scratch);

/* An expanded piece of one panel, blocks of 32: up to so many of them. s, m: one line a block. */
enum { AVX512_PIECE = 16 };
typedef struct avx512_piece {
    _Alignas(64) uint8_t w[AVX512_PIECE][8][64];
    float s[AVX512_PIECE][NIB_PANEL], m[AVX512_PIECE][NIB_PANEL];
} avx512_piece;
_Static_assert(2 * sizeof(avx512_piece) <= MM_SCRATCH, "the scratch holds two pieces");
/* n groups of a panel from group g on. add_128: see x86_avx512_mm_expand.c */
typedef struct avx512_expanded { /* where they go: m only of formats that have it */
    uint8_t (*w)[8][64];
    float (*s)[NIB_PANEL], (*m)[NIB_PANEL];
} avx512_expanded;
void nib_avx512_expand(const nib_mat *w, const uint8_t *panel, int64_t g, int n, bool add_128,
                       const avx512_expanded *out);

/* FAST: a group of one panel, its weights rounded. As unsigned bytes 128 is added. */
typedef struct avx512_fast {
    _Alignas(64) uint8_t w[64][64]; /* [columns / 4], as many as the group has */
    float s[NIB_PANEL];
} avx512_fast;
_Static_assert(4 * sizeof(avx512_fast) + 32 * 1024 <= MM_SCRATCH, "the scratch holds four groups");
/* Group g of a panel. */
void nib_avx512_fast_expand(const nib_mat *w, const uint8_t *panel, int64_t g, bool add_128,
                            avx512_fast *out);
void nib_avx512_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                            int64_t ldy, void *scratch);

/* ---- many tokens ----
 * A piece of two panels, some hundred columns, is expanded into the first cache; then all tokens
 * pass over it in tiles of 2 panels x a few tokens whose sums stay in registers. Between pieces
 * they wait in scratch: rows of y are powers of two apart and would fall on the same few lines of
 * the cache. The last piece writes them to y. */
typedef struct avx512_job { /* what all tiles of a piece share */
    const void *w;          /* two expanded pieces */
    const nib_act *a;
    int64_t piece;     /* which of the row */
    __mmask16 rows[2]; /* of either panel */
    __mmask16 some[2]; /* the same, or none in the first piece, when there are no sums yet */
    const float *sums; /* [T][2][16] */
    float *to;         /* where they go: the same, or y at these panels */
    int64_t ld;        /* between tokens there */
} avx512_job;
typedef void (*avx512_tile)(const avx512_job *o, int64_t t0);
typedef struct avx512_way {
    int64_t n_pieces, columns; /* a row's; and of one, at most */
    size_t bytes;              /* of an expanded piece */
    void (*expand)(const nib_mat *w, const uint8_t *panel, int64_t piece, void *out);
    const avx512_tile *tiles; /* by number of tokens less 1, up to most */
    int most;
} avx512_way;
void nib_avx512_walk(const avx512_way *way, const nib_mat *w, const nib_act *a, int64_t p0,
                     int64_t p1, float *y, int64_t ldy, void *scratch);

/* Registers are so full in a tile that a load moved up (compilers like to) makes others spill. */
#define KEEP_ORDER() __asm__ volatile("" ::: "memory")

/* gcc 12 copies the accumulator around the intrinsic; this is the one instruction. acc += u8 w . s8
 * x */
INLINE __m512i dpbusd(__m512i acc, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
}

/* acc += s16 pairs of w . s16 pairs of x */
INLINE __m512i dpwssd(__m512i acc, __m512i w, __m512i x) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
}
INLINE void fetch_to_write(const void *p) {
    __asm__ volatile("prefetchw %0" ::"m"(*(const char *)p));
}

INLINE __m512i load512(const void *p) {
    return _mm512_loadu_si512(p);
}
INLINE __m512i bcast32(const void *p) {
    return _mm512_set1_epi32((int)nib_load_u32(p));
}
INLINE __m512i set8(int v) {
    return _mm512_set1_epi8((char)v);
}
INLINE __m512i shift16(__m512i v, int left) { /* within words: mask afterwards */
    return left > 0 ? _mm512_slli_epi16(v, (unsigned)left) : _mm512_srli_epi16(v, (unsigned)-left);
}
INLINE __m512i or_and(__m512i a, __m512i b, __m512i mask) { /* a | (b & mask) */
    return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}
INLINE __m512i table(const int8_t *values, int add) {
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const __m128i *)values), _mm_set1_epi8((char)add));
    return _mm512_broadcast_i32x4(t);
}

INLINE __m512 negate(__m512 v) {
    return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
}

INLINE bool is_5bit(nib_dtype t) {
    return t == NIB_Q5_0 || t == NIB_Q5_1 || t == NIB_Q5_K;
}
INLINE bool has_super(nib_dtype t) {
    return t == NIB_Q2_K || t == NIB_Q3_K || t == NIB_Q4_K || t == NIB_Q5_K || t == NIB_Q6_K ||
           t == NIB_IQ4_XS;
}
INLINE bool has_min(nib_dtype t) {
    return t == NIB_Q4_1 || t == NIB_Q5_1 || t == NIB_Q4_K || t == NIB_Q5_K || t == NIB_Q2_K;
}
/* Of blocks of 256: scales belong to 16 columns each, not 32. */
INLINE bool has_16(nib_dtype t) {
    return t == NIB_Q6_K || t == NIB_Q3_K || t == NIB_Q2_K;
}
INLINE size_t code_bytes_of(nib_dtype t) {
    return 64u * (t == NIB_Q8_0   ? 8
                  : t == NIB_Q6_K ? 6
                  : is_5bit(t)    ? 5
                  : t == NIB_Q2_K ? 2
                  : t == NIB_Q3_K ? 3
                                  : 4);
}
INLINE size_t scale_bytes_of(nib_dtype t) {
    switch (t) {
    case NIB_Q4_1:
    case NIB_Q5_1: return 64;
    case NIB_Q2_K: return 320;
    case NIB_Q3_K: return 224;
    case NIB_Q4_K:
    case NIB_Q5_K: return 256;
    case NIB_Q6_K: return 288;
    case NIB_IQ4_XS: return 128;
    case NIB_MXFP4: return 16;
    default: return 32;
    }
}

/* What a code has above its weight, as a power of two; 0: weights are unsigned codes. Tables come
 * with 128 added. */
INLINE int excess(nib_dtype t) {
    switch (t) {
    case NIB_Q4_0: return 8;
    case NIB_Q5_0: return 16;
    case NIB_Q6_K: return 32;
    case NIB_Q3_K: return 4;
    case NIB_Q8_0:
    case NIB_IQ4_NL:
    case NIB_IQ4_XS:
    case NIB_MXFP4: return 128;
    default: return 0;
    }
}

INLINE int excess_bits(nib_dtype t) {
    return excess(t) == 128  ? 7
           : excess(t) == 32 ? 5
           : excess(t) == 16 ? 4
           : excess(t) == 8  ? 3
                             : 2;
}

/* 32 columns of 16 rows: operand j holds columns 4j..4j+3 of each row, as unsigned codes (tables:
 * value + 128). */
INLINE void codes(nib_dtype t, const uint8_t *p, __m512i w[8]) {
    if (t == NIB_Q8_0) {
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = load512(p + 64 * j);
        return;
    }
    if (t == NIB_Q2_K || t == NIB_Q3_K) {
        UNROLL
        for (int j = 0; j < 8; j++)
            w[j] = _mm512_and_si512(shift16(load512(p + 64 * (j / 4)), -2 * (j % 4)), set8(3));
        if (t == NIB_Q3_K) {
            __m512i high = load512(p + 128);
            UNROLL
            for (int j = 0; j < 8; j++) w[j] = or_and(w[j], shift16(high, 2 - j), set8(4));
        }
        return;
    }
    UNROLL
    for (int j = 0; j < 8; j += 2) {
        __m512i line = load512(p + 32 * j);
        w[j] = _mm512_and_si512(line, set8(15));
        w[j + 1] = _mm512_and_si512(shift16(line, -4), set8(15));
    }
    if (is_5bit(t)) {
        __m512i high = load512(p + 256);
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = or_and(w[j], shift16(high, 4 - j), set8(16));
    }
    if (t == NIB_Q6_K) {
        UNROLL
        for (int j = 0; j < 8; j++)
            w[j] =
                or_and(w[j], shift16(load512(p + 256 + 64 * (j / 4)), 4 - 2 * (j % 4)), set8(48));
    }
    if (t == NIB_IQ4_NL || t == NIB_IQ4_XS || t == NIB_MXFP4) {
        __m512i values = table(t == NIB_MXFP4 ? nib_mm_fp4 : nib_mm_iq4, 128);
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = _mm512_shuffle_epi8(values, w[j]);
    }
}

INLINE __m512 f16x16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Lines of y are far apart and not in the cache: a tile asks for them early, a token at a time, for
 * asked for at once they are in the way of what else it reads. */
INLINE void ask_for_sums(const avx512_job *o, int64_t t) {
    fetch_to_write(o->to + t * o->ld);
    fetch_to_write(o->to + t * o->ld + NIB_PANEL);
}
/* The sums of token t and panel r before and after a piece. */
INLINE __m512 sums_before(const avx512_job *o, int64_t t, int r) {
    return _mm512_maskz_load_ps(o->some[r], o->sums + (2 * t + r) * NIB_PANEL);
}
INLINE void keep_sums(const avx512_job *o, int64_t t, int r, __m512 v) {
    _mm512_mask_storeu_ps(o->to + t * o->ld + r * NIB_PANEL, o->rows[r], v);
}

/* ---- scales of blocks of 32 ---- */

typedef struct scales {
    __m512 s, m;
} scales;

/* p: the block's scales. */
INLINE scales block_scales(nib_dtype t, const uint8_t *p) {
    scales g = {0};
    if (t == NIB_MXFP4) {
        /* 2^(e - 128) by its bits; the two smallest are subnormal */
        __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
        __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
        __mmask16 tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        bits = _mm512_mask_sllv_epi32(bits, tiny, _mm512_set1_epi32(0x00200000), e);
        g.s = _mm512_castsi512_ps(bits);
        return g;
    }
    g.s = f16x16(p);
    if (has_min(t)) g.m = f16x16(p + 32);
    return g;
}

/* ---- scales of blocks of 256 ----
 * isum = sum of sc * (codes . q) - excess * sum of sc * (sum of q), over 32 or 16 columns each. */

/* Integer scales made plain, [32 or 16 columns][16 rows]; of Q3_K with the sign turned, for its
 * weights are. */
typedef struct super {
    _Alignas(64) int8_t sc[16][NIB_PANEL], min[16][NIB_PANEL];
} super;

/* p: the block's scales. Fills what the format has. */
INLINE void super_scales(nib_dtype t, const uint8_t *p, super *o) {
    if (t == NIB_Q4_K || t == NIB_Q5_K) {
        __m512i a = load512(p + 64), b = load512(p + 128), c = load512(p + 192);
        _mm512_store_si512(o->sc[0], _mm512_and_si512(a, set8(63)));
        _mm512_store_si512(o->min[0], _mm512_and_si512(b, set8(63)));
        __m512i top_a = _mm512_and_si512(shift16(a, -2), set8(48));
        __m512i top_b = _mm512_and_si512(shift16(b, -2), set8(48));
        _mm512_store_si512(o->sc[4], or_and(top_a, c, set8(15)));
        _mm512_store_si512(o->min[4], or_and(top_b, shift16(c, -4), set8(15)));
    }
    if (t == NIB_Q6_K) {
        UNROLL
        for (int i = 0; i < 4; i++) _mm512_store_si512(o->sc[4 * i], load512(p + 32 + 64 * i));
    }
    if (t == NIB_Q3_K) {
        __m512i a = load512(p + 32), b = load512(p + 96), c = load512(p + 160);
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m512i low = _mm512_and_si512(shift16(i & 1 ? b : a, i < 2 ? 0 : -4), set8(15));
            __m512i sc = or_and(low, shift16(c, 4 - 2 * i), set8(48));
            _mm512_store_si512(o->sc[4 * i], _mm512_sub_epi8(set8(32), sc));
        }
    }
    if (t == NIB_Q2_K) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m512i both = load512(p + 64 + 64 * i);
            _mm512_store_si512(o->sc[4 * i], _mm512_and_si512(both, set8(15)));
            _mm512_store_si512(o->min[4 * i], _mm512_and_si512(shift16(both, -4), set8(15)));
        }
    }
    if (t == NIB_IQ4_XS) {
        for (int j = 0; j < 8; j++) {
            __m256i high = _mm256_srl_epi16(_mm256_loadu_si256((const __m256i *)(p + 32)),
                                            _mm_cvtsi32_si128(2 * j));
            __m128i top = _mm_slli_epi16(
                _mm256_cvtepi16_epi8(_mm256_and_si256(high, _mm256_set1_epi16(3))), 4);
            __m128i low = _mm_srl_epi16(_mm_loadu_si128((const __m128i *)(p + 64 + 16 * (j / 2))),
                                        _mm_cvtsi32_si128(4 * (j % 2)));
            __m128i sc = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), top);
            _mm_store_si128((__m128i *)o->sc[j], _mm_sub_epi8(sc, _mm_set1_epi8(32)));
        }
    }
}

INLINE __m512i s8x16(const int8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)p));
}
/* Two neighbouring lines as pairs of words. */
INLINE __m512i pairs(const int8_t (*p)[NIB_PANEL]) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, s8x16(p[0]), _mm512_slli_epi32(s8x16(p[1]), 16));
}
/* Formats whose weights, scale and all, fit a byte. */
INLINE bool is_folded(nib_dtype t) {
    return t == NIB_Q2_K || t == NIB_Q3_K;
}
/* Codes of 4 columns of each row times their scale, without the excess: low bytes, and high ones.
 */
INLINE __m512i fold(nib_dtype t, __m512i w, const int8_t *sc, __m512i *high) {
    __m512i by = s8x16(sc);
    by = _mm512_mask_blend_epi16(0xaaaaaaaau, by, _mm512_slli_epi32(by, 16));
    __m512i even = _mm512_mullo_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), by);
    __m512i odd = _mm512_mullo_epi16(_mm512_srli_epi16(w, 8), by);
    if (excess(t)) {
        __m512i above = _mm512_mullo_epi16(by, _mm512_set1_epi16((short)excess(t)));
        even = _mm512_sub_epi16(even, above);
        odd = _mm512_sub_epi16(odd, above);
    }
    *high = _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, _mm512_srli_epi16(even, 8), odd);
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, even, _mm512_slli_epi16(odd, 8));
}

INLINE __m512 super_s(nib_dtype t, const uint8_t *p) {
    return t == NIB_Q3_K ? negate(f16x16(p)) : f16x16(p);
}
INLINE __m512 super_m(const uint8_t *p) {
    return negate(f16x16(p + 32));
}
#endif
