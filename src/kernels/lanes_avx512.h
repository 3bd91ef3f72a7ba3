/* Sixteen floats in one AVX-512 register. What each function means: lanes_scalar.h. */
#ifndef NIB_KERNELS_LANES_H
#define NIB_KERNELS_LANES_H
#include <immintrin.h>
#include <math.h>
#include "kernels/internal.h"

/* At every optimisation level: debug builds would spend their time in calls. */
#define LANE static inline __attribute__((always_inline))

typedef __m512 v16;

LANE __mmask16 first_n(int64_t n) {
    return (__mmask16)_bzhi_u32(0xffff, (unsigned)NIB_MIN(n, 16));
}

LANE v16 v_set1(float x) {
    return _mm512_set1_ps(x);
}
LANE v16 v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
LANE v16 v_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(first_n(n), p);
}
LANE void v_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
LANE void v_store_n(float *p, v16 a, int64_t n) {
    _mm512_mask_storeu_ps(p, first_n(n), a);
}

LANE v16 v_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
LANE v16 v_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
LANE v16 v_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
LANE v16 v_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
LANE v16 v_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
LANE v16 v_neg(v16 a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
LANE v16 v_abs(v16 a) {
    return _mm512_abs_ps(a);
}
LANE v16 v_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
LANE v16 v_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
LANE v16 v_copysign(v16 size, v16 sign) {
    const __m512 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, size), _mm512_and_ps(bit, sign));
}
LANE v16 v_if_negative(v16 x, v16 a, v16 b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
LANE v16 v_scale2(v16 p, v16 n) {
    return _mm512_scalef_ps(p, n);
}

LANE float v_sum(v16 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
LANE float v_max_of(v16 a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
LANE unsigned v_equal(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

LANE void v_unzip(v16 a, v16 b, v16 *even, v16 *odd) {
    const __m512i i = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, i, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(i, _mm512_set1_epi32(1)), b);
}
LANE void v_zip(v16 even, v16 odd, v16 *a, v16 *b) {
    const __m512i i = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *a = _mm512_permutex2var_ps(even, i, odd);
    *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(i, _mm512_set1_epi32(8)), odd);
}

LANE v16 v_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
LANE v16 v_set1_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)nib_load_u16(p)));
}
LANE v16 v_load_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
LANE void v_store_f16(uint16_t *p, v16 a) {
    _mm256_storeu_si256((void *)p,
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
LANE v16 v_load_i8(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
LANE void v_store_i8(int8_t *p, v16 a) {
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
LANE void v_load_i8_quads(const void *p, v16 scale, v16 out[4]) {
    /* Each byte alone at the top of its 32 bits is one instruction, and 2^24 times too much. */
    const __m512i x = _mm512_loadu_si512(p), next = _mm512_set1_epi32(0x01000000);
    __m512i pick =
        _mm512_broadcast_i32x4(_mm_setr_epi32(0x00808080, 0x04808080, 0x08808080, 0x0c808080));
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(0x1p-24f));
    for (int j = 0; j < 4; j++, pick = _mm512_add_epi32(pick, next))
        out[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(x, pick)), scale);
}

LANE v16 v_round(v16 a) {
    /* two plain additions; vrndscaleps takes two steps of its own, and longer */
    const __m512 magic = _mm512_set1_ps(0x1.8p23f);
    return _mm512_sub_ps(_mm512_add_ps(a, magic), magic);
}
LANE void v_store_i16(int16_t *p, v16 a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a)));
}

typedef __m512i w16, line16, pair16;
LANE w16 w_zero(void) {
    return _mm512_setzero_si512();
}
LANE line16 w_line(const int16_t *p) {
    return _mm512_loadu_si512(p);
}
LANE pair16 w_pair(const int16_t *p) {
    return _mm512_set1_epi32((int)nib_load_u32(p));
}
LANE w16 w_dot(w16 sum, pair16 x, line16 l) {
    /* gcc copies what the intrinsic adds to, back and forth, until registers run out */
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(l));
    return sum;
}
LANE v16 w_floats(w16 a) {
    return _mm512_cvtepi32_ps(a);
}
#endif
