/* The search of fit_search.h with 16 lanes: the same source, compiled for AVX-512. Super-blocks of
 * eight groups do not fill 16 lanes and go to the 8. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))),        \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl")
#endif
#define FIT_MAX(a, b) ((fv)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define FIT_MIN(a, b) ((fv)_mm512_min_ps((__m512)(a), (__m512)(b)))
enum { LANES = 16 };
#include "tensor/fit_search.h"

static void super_scale(const fit_levels *lv, int len, int s_min, int s_max, const float *x,
                        const float *w, uint16_t *d, int8_t *s, uint8_t *code) {
    (len == 16 ? fit_super_scale : nib_fit_avx2.super_scale)(lv, len, s_min, s_max, x, w, d, s,
                                                             code);
}
static void super_affine(int n_levels, int len, int s_max, const float *x, const float *w,
                         uint16_t *d, uint16_t *dmin, uint8_t *s, uint8_t *m, uint8_t *code) {
    (len == 16 ? fit_super_affine : nib_fit_avx2.super_affine)(n_levels, len, s_max, x, w, d, dmin,
                                                               s, m, code);
}

const fit_ops nib_fit_avx512 = {fit_scale, fit_choose, fit_affine, super_scale, super_affine};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
