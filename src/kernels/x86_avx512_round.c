/* Rounding activations to 8 bits with AVX-512, to the numbers of mm_round_body.h.
 *
 * Integers make it short: sizes of floats order as integers do, NaN and infinities last, and
 * vpdpbusd with ones adds up quads of what was rounded. Blocks of 32 are taken eight at a time, for
 * then scales and sums are vectors too. Packing 16 numbers out of each of four registers into bytes
 * leaves quads in the order of a matrix read by columns, hence 'order'. */
#include <float.h>
#include "kernels/x86_avx512_mm.h"

/* NaN as 0, infinities as the largest float: rare, hence apart. */
static __attribute__((noinline)) const float *tame(const float *x, int n, float *out) {
    for (int i = 0; i < n; i++)
        out[i] = x[i] != x[i] ? 0 : NIB_MAX(NIB_MIN(x[i], FLT_MAX), -FLT_MAX);
    return out;
}
enum { WILD = 0x7f800000 }; /* the size of infinity, as an integer; NaN is above */

/* Blocks whose largest size is smaller count as zeros: 127 / max would overflow or lose bits. */
#define LEAST 0x1p-100f

INLINE __m512i size_of(__m512 v) {
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}
INLINE __m512i order(void) {
    return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
INLINE __m512i to_int(__m512 v, __m512 inverse) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
}
/* The sum of each quad of bytes. */
INLINE __m512i quads(__m512i q) {
    return dpbusd(_mm512_setzero_si512(), set8(1), q);
}
INLINE __m512i add_pairs(__m512i words) {
    return _mm512_madd_epi16(words, _mm512_set1_epi16(1));
}

/* ---- blocks of 256, and FAST groups ---- */

static int32_t largest(const float *x, int n) {
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) most = _mm512_max_epi32(most, size_of(_mm512_loadu_ps(x + i)));
    return _mm512_reduce_max_epi32(most);
}

/* The scale of n columns, what they are multiplied with, and the columns, tame. */
INLINE float scale(const float **x, int n, float *tamed, __m512 *inverse) {
    int32_t bits = largest(*x, n);
    if (bits >= WILD) {
        *x = tame(*x, n, tamed);
        bits = largest(tamed, n);
    }
    float max = nib_bits_f32((uint32_t)bits);
    bool some = max >= LEAST;
    *inverse = _mm512_set1_ps(some ? 127 / max : 0);
    return some ? max / 127 : 0;
}

INLINE __m512i round_64(const float *x, __m512 inverse) {
    __m512i q[4];
    UNROLL
    for (int i = 0; i < 4; i++) q[i] = to_int(_mm512_loadu_ps(x + 16 * i), inverse);
    q[0] = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    return _mm512_permutexvar_epi32(order(), q[0]);
}

/* Quads of 256 columns to sums of 16, which stand in an order of their own. */
INLINE __m512i sixteens(const __m512i quad[4]) {
    __m512i a = add_pairs(_mm512_packs_epi32(quad[0], quad[1]));
    __m512i b = add_pairs(_mm512_packs_epi32(quad[2], quad[3]));
    return add_pairs(_mm512_packs_epi32(a, b));
}

/* Words as pairs of bfloat16: multiples of 16, and what is left. */
INLINE __m512i split(__m256i s16) {
    __m512i s = _mm512_cvtepi16_epi32(s16), low = _mm512_and_si512(s, _mm512_set1_epi32(15));
    __m512 high = _mm512_cvtepi32_ps(_mm512_sub_epi32(s, low));
    return _mm512_or_si512(_mm512_castps_si512(_mm512_cvtepi32_ps(low)),
                           _mm512_srli_epi32(_mm512_castps_si512(high), 16));
}

INLINE void round_256(const float *x, nib_act *a, int64_t b, int64_t t) {
    float tamed[256];
    __m512 inverse;
    int64_t at = b * a->n_tok + t;
    a->kd[at] = scale(&x, 256, tamed, &inverse);
    __m512i sum[4], size[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i q = round_64(x + 64 * i, inverse);
        _mm512_store_si512(a->kq + ((4 * b + i) * a->n_tok + t) * 64, q);
        sum[i] = quads(q);
        size[i] = quads(_mm512_abs_epi8(q));
    }
    __m256i s16 = _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order(), sixteens(sum)));
    __m256i s32 = _mm256_madd_epi16(s16, _mm256_set1_epi16(1));
    _mm256_store_si256((__m256i *)(a->ks16 + at * 16), s16);
    _mm_store_si128((__m128i *)(a->ks32 + at * 8), _mm256_cvtepi32_epi16(s32));
    _mm512_store_si512(a->ksbf + at * 16, split(s16));
    a->calm[at] = !_mm512_cmpgt_epi32_mask(sixteens(size), _mm512_set1_epi32(NIB_CALM));
}

/* So many tokens have a block rounded before the next block: what is written for them lies side by
 * side, in lines that threads would otherwise take from each other again and again. */
enum { TOGETHER = 16 };

void nib_avx512_quantise_k(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t first = t0, end; first < t1; first = end) {
        end = NIB_MIN(first + TOGETHER, t1);
        for (int64_t b = 0; b < a->k / 256; b++)
            for (int64_t t = first; t < end; t++) round_256(x + t * ldx + b * 256, a, b, t);
    }
}

void nib_avx512_quantise_fast(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t t = t0; t < t1; t++)
        for (int64_t g = 0; g < nib_fast_groups(a->k); g++) {
            int64_t from = nib_fast_group(a->k, g), to = nib_fast_group(a->k, g + 1);
            const float *src = x + t * ldx + from * 64;
            float tamed[256];
            __m512 inverse;
            a->kd[g * a->n_tok + t] = scale(&src, (int)(to - from) * 64, tamed, &inverse);
            __m512i sum = _mm512_setzero_si512();
            for (int64_t i = from; i < to; i++, src += 64) {
                __m512i q = round_64(src, inverse);
                sum = dpbusd(sum, set8(1), q);
                _mm512_store_si512(a->kq + (i * a->n_tok + t) * 64, q);
            }
            a->kbias[g * a->n_tok + t] = -128 * _mm512_reduce_add_epi32(sum);
        }
}

/* ---- blocks of 32 ---- */

enum { EIGHT = 8 };

/* The largest of each of eight. */
INLINE __m256i largest_of(const __m512i v[EIGHT]) {
    __m512i half[4], quarter[2];
    UNROLL
    for (int i = 0; i < 4; i++) /* i, i + 4 */
        half[i] = _mm512_max_epi32(_mm512_shuffle_i64x2(v[i], v[i + 4], 0x44),
                                   _mm512_shuffle_i64x2(v[i], v[i + 4], 0xee));
    UNROLL
    for (int i = 0; i < 2; i++) /* i, i + 4, i + 2, i + 6 */
        quarter[i] = _mm512_max_epi32(_mm512_shuffle_i32x4(half[i], half[i + 2], 0x88),
                                      _mm512_shuffle_i32x4(half[i], half[i + 2], 0xdd));
    __m512i m = _mm512_max_epi32(_mm512_unpacklo_epi32(quarter[0], quarter[1]),
                                 _mm512_unpackhi_epi32(quarter[0], quarter[1]));
    m = _mm512_max_epi32(m, _mm512_shuffle_epi32(m, _MM_PERM_BADC));
    const __m512i pick = _mm512_setr_epi32(0, 1, 8, 9, 4, 5, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(pick, m));
}

/* n blocks, up to eight, which stand side by side in the arrays, from number at on. */
static void round_32s(const float *x[EIGHT], int n, nib_act *a, int64_t at) {
    float tamed[EIGHT][32];
    for (int i = n; i < EIGHT; i++) x[i] = x[0];
    __m512 v[EIGHT][2];
    __m512i size[EIGHT];
    __m256i most;
    for (;;) {
        UNROLL
        for (int i = 0; i < EIGHT; i++) {
            v[i][0] = _mm512_loadu_ps(x[i]), v[i][1] = _mm512_loadu_ps(x[i] + 16);
            size[i] = _mm512_max_epi32(size_of(v[i][0]), size_of(v[i][1]));
        }
        most = largest_of(size);
        if (!_mm256_cmpge_epi32_mask(most, _mm256_set1_epi32(WILD))) break;
        for (int i = 0; i < EIGHT; i++) x[i] = tame(x[i], 32, tamed[i]);
    }
    __m256 max = _mm256_castsi256_ps(most), top = _mm256_set1_ps(127);
    __mmask8 some = _mm256_cmp_ps_mask(max, _mm256_set1_ps(LEAST), _CMP_GE_OQ);
    _Alignas(32) float inverse[EIGHT];
    _mm256_store_ps(inverse, _mm256_maskz_div_ps(some, top, max));
    __m512i quad[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i w[2];
        UNROLL
        for (int j = 0; j < 2; j++) {
            __m512 by = _mm512_set1_ps(inverse[2 * i + j]);
            w[j] = _mm512_packs_epi32(to_int(v[2 * i + j][0], by), to_int(v[2 * i + j][1], by));
        }
        __m512i q = _mm512_packs_epi16(w[0], w[1]);
        quad[i] = quads(q);
        int left = n - 2 * i;
        __mmask16 kept = left >= 2 ? 0xffff : left == 1 ? 0x00ff : 0;
        _mm512_mask_storeu_epi32(a->q + (at + 2 * i) * 32, kept,
                                 _mm512_permutexvar_epi32(order(), q));
    }
    /* words: in each quarter the sums of eight columns of all eight blocks */
    __m512i sums = _mm512_packs_epi32(add_pairs(_mm512_packs_epi32(quad[0], quad[1])),
                                      add_pairs(_mm512_packs_epi32(quad[2], quad[3])));
    __m256i of_16 =
        _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    __m256i sum = _mm256_cvtepi16_epi32(
        _mm_add_epi16(_mm256_castsi256_si128(of_16), _mm256_extracti128_si256(of_16, 1)));
    __m256 d = _mm256_maskz_div_ps(some, max, top);
    __mmask8 kept = (__mmask8)((1u << n) - 1);
    _mm256_mask_storeu_ps(a->d + at, kept, d);
    _mm256_mask_storeu_ps(a->ds + at, kept, _mm256_mul_ps(d, _mm256_cvtepi32_ps(sum)));
    _mm256_mask_storeu_epi32(a->bias + at, kept,
                             _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sum, 7)));
}

void nib_avx512_quantise(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    const float *some[EIGHT];
    for (int64_t first = t0, end; first < t1; first = end) {
        end = NIB_MIN(first + TOGETHER, t1);
        bool all = end - first == a->n_tok; /* then a block of the first follows one of the last */
        int n = 0;
        for (int64_t b = 0; b < a->k / 32; b++)
            for (int64_t t = first; t < end; t++) {
                some[n++] = x + t * ldx + b * 32;
                bool last = t == end - 1 && (!all || b == a->k / 32 - 1);
                if (n < EIGHT && !last) continue;
                round_32s(some, n, a, b * a->n_tok + t + 1 - n);
                n = 0;
            }
    }
}
