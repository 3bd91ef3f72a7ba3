/* Sixteen floats in two AVX registers (AVX2, FMA, F16C). What each function means: lanes_scalar.h.
 */
#ifndef NIB_KERNELS_LANES_H
#define NIB_KERNELS_LANES_H
#include <immintrin.h>
#include <math.h>
#include "kernels/internal.h"

/* At every optimisation level: debug builds would spend their time in calls. */
#define LANE static inline __attribute__((always_inline))

typedef struct v16 {
    __m256 a, b; /* lanes 0-7, 8-15 */
} v16;

#define BOTH(f, x)        ((v16){f((x).a), f((x).b)})
#define BOTH2(f, x, y)    ((v16){f((x).a, (y).a), f((x).b, (y).b)})
#define BOTH3(f, x, y, z) ((v16){f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b)})

/* Lanes [from, from + 8) of a mask with n ones. */
LANE __m256i first_n(int64_t n, int from) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)NIB_MIN(n, 16) - from), lane);
}

LANE v16 v_set1(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
LANE v16 v_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
LANE v16 v_load_n(const float *p, int64_t n) {
    if (n >= 16) return v_load(p);
    return (v16){_mm256_maskload_ps(p, first_n(n, 0)), _mm256_maskload_ps(p + 8, first_n(n, 8))};
}
LANE void v_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
LANE void v_store_n(float *p, v16 x, int64_t n) {
    if (n >= 16) {
        v_store(p, x);
        return;
    }
    _mm256_maskstore_ps(p, first_n(n, 0), x.a);
    _mm256_maskstore_ps(p + 8, first_n(n, 8), x.b);
}

LANE v16 v_add(v16 x, v16 y) {
    return BOTH2(_mm256_add_ps, x, y);
}
LANE v16 v_sub(v16 x, v16 y) {
    return BOTH2(_mm256_sub_ps, x, y);
}
LANE v16 v_mul(v16 x, v16 y) {
    return BOTH2(_mm256_mul_ps, x, y);
}
LANE v16 v_div(v16 x, v16 y) {
    return BOTH2(_mm256_div_ps, x, y);
}
LANE v16 v_fma(v16 x, v16 y, v16 z) {
    return BOTH3(_mm256_fmadd_ps, x, y, z);
}
LANE v16 v_max(v16 x, v16 y) {
    return BOTH2(_mm256_max_ps, x, y);
}
LANE v16 v_min(v16 x, v16 y) {
    return BOTH2(_mm256_min_ps, x, y);
}
LANE v16 v_neg(v16 x) {
    const v16 bit = v_set1(-0.0f);
    return BOTH2(_mm256_xor_ps, x, bit);
}
LANE v16 v_abs(v16 x) {
    const v16 bit = v_set1(-0.0f);
    return BOTH2(_mm256_andnot_ps, bit, x);
}
LANE v16 v_copysign(v16 size, v16 sign) {
    const v16 bit = v_set1(-0.0f), s = BOTH2(_mm256_and_ps, bit, sign), m = v_abs(size);
    return BOTH2(_mm256_or_ps, m, s);
}
LANE __m256 if_negative8(__m256 x, __m256 a, __m256 b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}
LANE v16 v_if_negative(v16 x, v16 y, v16 z) {
    return BOTH3(if_negative8, x, y, z);
}

LANE __m256 pow2_8(__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
}
LANE __m256 scale2_8(__m256 p, __m256 n) {
    const __m256i e = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(e, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, pow2_8(half)), pow2_8(_mm256_sub_epi32(e, half)));
}
LANE v16 v_scale2(v16 p, v16 n) {
    return BOTH2(scale2_8, p, n);
}

LANE float v_sum(v16 x) {
    __m256 y = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
LANE float v_max_of(v16 x) {
    __m256 y = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
LANE unsigned v_equal(v16 x, v16 y) {
    unsigned lo = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ));
    unsigned hi = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
    return lo | hi << 8;
}

LANE void unzip8(__m256 a, __m256 b, __m256 *even, __m256 *odd) {
    /* within 128-bit halves, then the middle two quarters change places */
    const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)),
                  o = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
LANE void v_unzip(v16 x, v16 y, v16 *even, v16 *odd) {
    unzip8(x.a, x.b, &even->a, &odd->a);
    unzip8(y.a, y.b, &even->b, &odd->b);
}
LANE void zip8(__m256 even, __m256 odd, __m256 *a, __m256 *b) {
    const __m256 lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
    *a = _mm256_permute2f128_ps(lo, hi, 0x20);
    *b = _mm256_permute2f128_ps(lo, hi, 0x31);
}
LANE void v_zip(v16 even, v16 odd, v16 *x, v16 *y) {
    zip8(even.a, odd.a, &x->a, &x->b);
    zip8(even.b, odd.b, &y->a, &y->b);
}

LANE v16 v_load_f16(const void *p) {
    const __m128i *q = p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
LANE v16 v_set1_f16(const void *p) {
    const __m256 x = _mm256_cvtph_ps(_mm_set1_epi16((short)nib_load_u16(p)));
    return (v16){x, x};
}
LANE v16 v_load_bf16(const void *p) {
    const __m128i *q = p;
    const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128(q)),
                  b = _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
LANE void v_store_f16(uint16_t *p, v16 x) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
LANE v16 v_load_i8(const void *p) {
    const __m128i x = _mm_loadu_si128(p);
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
LANE void v_store_i8(int8_t *p, v16 x) {
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    w = _mm256_permute4x64_epi64(w, 0xd8);
    _mm_storeu_si128((void *)p,
                     _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
LANE void v_load_i8_quads(const void *p, v16 scale, v16 out[4]) {
    /* Each byte alone at the top of its 32 bits is one instruction, and 2^24 times too much. */
    const __m256i *q = p, a = _mm256_loadu_si256(q), b = _mm256_loadu_si256(q + 1);
    const __m256i next = _mm256_set1_epi32(0x01000000);
    __m256i pick =
        _mm256_broadcastsi128_si256(_mm_setr_epi32(0x00808080, 0x04808080, 0x08808080, 0x0c808080));
    scale = v_mul(scale, v_set1(0x1p-24f));
    for (int j = 0; j < 4; j++, pick = _mm256_add_epi32(pick, next)) {
        const v16 x = {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(a, pick)),
                       _mm256_cvtepi32_ps(_mm256_shuffle_epi8(b, pick))};
        out[j] = v_mul(x, scale);
    }
}

LANE __m256 round8(__m256 x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
LANE v16 v_round(v16 x) {
    return BOTH(round8, x);
}
LANE void v_store_i16(int16_t *p, v16 x) {
    const __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    _mm256_storeu_si256((void *)p, _mm256_permute4x64_epi64(w, 0xd8));
}

typedef struct w16 {
    __m256i a, b;
} w16;
typedef w16 line16;
typedef __m256i pair16;
LANE w16 w_zero(void) {
    return (w16){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
LANE line16 w_line(const int16_t *p) {
    const __m256i *q = (const void *)p;
    return (line16){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
LANE pair16 w_pair(const int16_t *p) {
    return _mm256_set1_epi32((int)nib_load_u32(p));
}
/* As one, or gcc makes the products of a whole block first and runs out of registers. */
LANE __m256i dot8(__m256i sum, __m256i x, __m256i l) {
    __m256i t;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(t) : "x"(x), "xm"(l));
    return sum;
}
LANE w16 w_dot(w16 sum, pair16 x, line16 l) {
    return (w16){dot8(sum.a, x, l.a), dot8(sum.b, x, l.b)};
}
LANE v16 w_floats(w16 x) {
    return (v16){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
#endif
