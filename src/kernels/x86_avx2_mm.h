/* How AVX2 reads a packed panel: codes of 8 rows, scales into floats. The format is a parameter
 * that is constant wherever these are inlined. */
#ifndef NIB_KERNELS_X86_AVX2_MM_H
#define NIB_KERNELS_X86_AVX2_MM_H
#include <immintrin.h>
#include "kernels/mm.h"

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE __m256i bcast32(const void *p) {
    return _mm256_set1_epi32((int)nib_load_u32(p));
}
INLINE __m256i set8(int v) {
    return _mm256_set1_epi8((char)v);
}
INLINE __m256i shift16(__m256i v, int left) { /* within words: mask afterwards */
    return left > 0 ? _mm256_slli_epi16(v, left) : _mm256_srli_epi16(v, -left);
}
INLINE __m256i bits(__m256i v, int left, int mask) {
    return _mm256_and_si256(shift16(v, left), set8(mask));
}

INLINE bool is_5bit(nib_dtype t) {
    return t == NIB_Q5_0 || t == NIB_Q5_1 || t == NIB_Q5_K;
}
INLINE bool is_level(nib_dtype t) {
    return t == NIB_IQ4_NL || t == NIB_IQ4_XS;
}
INLINE bool is_signed(nib_dtype t) {
    return t == NIB_Q8_0 || is_level(t);
}
INLINE bool has_min(nib_dtype t) {
    return t == NIB_Q4_1 || t == NIB_Q5_1 || t == NIB_Q4_K || t == NIB_Q5_K || t == NIB_Q2_K;
}
/* Of blocks of 256: scales belong to 16 columns each, not 32. */
INLINE bool has_16(nib_dtype t) {
    return t == NIB_Q6_K || t == NIB_Q3_K || t == NIB_Q2_K;
}

/* Codes of columns 4j to 4j + 3 of 8 rows, those from byte 'p' of each line on. MXFP4's levels have
 * 16 added. */
INLINE __m256i code(nib_dtype t, const uint8_t *p, int j) {
    if (t == NIB_Q8_0) return _mm256_xor_si256(load256(p + 64 * j), set8(-128));
    if (t == NIB_Q2_K || t == NIB_Q3_K) {
        __m256i w = bits(load256(p + 64 * (j / 4)), -2 * (j % 4), 3);
        return t == NIB_Q2_K ? w : _mm256_or_si256(w, bits(load256(p + 128), 2 - j, 4));
    }
    __m256i w = bits(load256(p + 64 * (j / 2)), -4 * (j % 2), 15);
    if (is_5bit(t)) w = _mm256_or_si256(w, bits(load256(p + 256), 4 - j, 16));
    if (t == NIB_Q6_K)
        w = _mm256_or_si256(w, bits(load256(p + 256 + 64 * (j / 4)), 4 - 2 * (j % 4), 48));
    if (is_level(t) || t == NIB_MXFP4) {
        __m128i levels =
            _mm_loadu_si128((const __m128i *)(t == NIB_MXFP4 ? nib_mm_fp4 : nib_mm_iq4));
        if (t == NIB_MXFP4) levels = _mm_add_epi8(levels, _mm_set1_epi8(16));
        w = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), w);
    }
    return w;
}

INLINE __m256 f16x8(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m256 negate(__m256 v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

/* The scales of 8 rows of a block of 32. p: the block's scales; r: the first row. */
typedef struct scales8 {
    __m256 s, m;
} scales8;

INLINE scales8 scales_of_8(nib_dtype t, const uint8_t *p, int r) {
    scales8 g = {0};
    if (t == NIB_MXFP4) {
        /* 2^(e - 128) by its bits; the two smallest are subnormal */
        __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + r)));
        __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        g.s = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny));
        return g;
    }
    g.s = f16x8(p + 2 * r);
    if (has_min(t)) g.m = f16x8(p + 2 * NIB_PANEL + 2 * r);
    return g;
}

/* How many steps of 4 columns a 16-bit sum can take. */
INLINE int steps(nib_dtype t) {
    if (is_signed(t)) return 1;
    return t == NIB_Q6_K ? 2 : is_5bit(t) || t == NIB_MXFP4 || has_16(t) ? 4 : 8;
}
/* How far codes lie above weights in blocks of 32 without minima: 128 >> down; 0: not at all. */
INLINE int down(nib_dtype t) {
    return t == NIB_Q4_0 ? 4 : t == NIB_Q5_0 || t == NIB_MXFP4 ? 3 : 0;
}
INLINE __m256i dot(nib_dtype t, __m256i w, __m256i x) {
    return is_signed(t) ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        : _mm256_maddubs_epi16(w, x);
}

/* What comes next of the same panel: left to themselves, loads wait for memory while nothing is
 * multiplied. */
INLINE void fetch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* One token (x86_avx2_mm_one.c). */
void nib_avx2_mm_one(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                     void *scratch);
#endif
