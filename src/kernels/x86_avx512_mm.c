/* Matrix products with AVX-512 and VNNI: the choice between the ways to compute one, and the
 * activations.
 *
 * Few tokens (x86_avx512_mm_few.c): weights are read once and used straight from the packed panel;
 * memory is the limit, and four panels are walked at a time because one stream does not fill it.
 * Many (x86_avx512_mm_many.c): a piece of two panels is expanded to bytes in the first cache and
 * all tokens pass over it in register tiles. Both follow the order of sums in mm.h, so where one
 * ends and the other begins is a matter of speed alone. */
#include "kernels/x86_avx512_mm.h"
#include "kernels/internal.h"

INLINE __m512 tame(__m512 x, __m512 most) {
    __mmask16 number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    __m512 v = _mm512_maskz_mov_ps(number, x);
    return _mm512_max_ps(_mm512_min_ps(v, most), negate(most));
}

static void quantise(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    __m512 most = _mm512_set1_ps(0x1.fffffep127f);
    for (int64_t t = t0; t < t1; t++) {
        for (int64_t b = 0; b < a->k / 32; b++) {
            const float *src = x + t * ldx + b * 32;
            __m512 v[2] = {tame(_mm512_loadu_ps(src), most), tame(_mm512_loadu_ps(src + 16), most)};
            float max =
                _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(v[0]), _mm512_abs_ps(v[1])));
            bool some = max >= 0x1p-100f;
            float d = some ? max / 127 : 0, inverse = some ? 127 / max : 0;
            int64_t at = b * a->n_tok + t;
            int32_t sum[2];
            for (int h = 0; h < 2; h++) {
                __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v[h], _mm512_set1_ps(inverse)));
                _mm_storeu_si128((__m128i *)(a->q + at * 32 + 16 * h), _mm512_cvtepi32_epi8(q));
                sum[h] = _mm512_reduce_add_epi32(q);
            }
            nib_mm_act_sums(a, at, d, sum);
        }
    }
}

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    if (!nib_mm_format(w->dtype))
        nib_avx512_mm_f32(w, a, p0, p1, y, ldy, scratch);
    else if (a->n_tok <= AVX512_FEW)
        nib_avx512_mm_few(w, a, p0, p1, y, ldy, scratch);
    else
        nib_avx512_mm_many(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_avx512_mm(nib_kernels *k) {
    k->quantise = quantise;
    k->matmul = matmul;
}
