/* The search of fit_search.h with 4 lanes, which every machine has, and the choice between widths.
 */
enum { LANES = 4 };
#include "tensor/fit_search.h"

const fit_ops nib_fit_narrow = {fit_scale, fit_choose, fit_affine, fit_super_scale,
                                fit_super_affine};

const fit_ops *nib_fit(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return &nib_fit_avx512;
    if (__builtin_cpu_supports("avx2")) return &nib_fit_avx2;
#endif
    return &nib_fit_narrow;
}

uint16_t nib_fit_f16(float v) {
    uint16_t h = nib_f32_to_f16(v < 65504 ? (v > -65504 ? v : -65504) : 65504);
    if (h & 0x7fff || !(v >= 0x1p-27f || v <= -0x1p-27f)) return h;
    return h | 1;
}
