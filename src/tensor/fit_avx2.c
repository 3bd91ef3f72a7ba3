/* The search of fit_search.h with 8 lanes: the same source, compiled for AVX2. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#define FIT_MAX(a, b) ((fv)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define FIT_MIN(a, b) ((fv)_mm256_min_ps((__m256)(a), (__m256)(b)))
enum { LANES = 8 };
#include "tensor/fit_search.h"

const fit_ops nib_fit_avx2 = {fit_scale, fit_choose, fit_affine, fit_super_scale, fit_super_affine};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
