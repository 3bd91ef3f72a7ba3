/* BF16: the upper half of an IEEE 754 single. */
#include "tensor/internal.h"

void nib_bf16_decode(const void *src, float *dst, int64_t n) {
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) dst[i] = nib_bf16_to_f32(nib_load_u16(p + 2 * i));
}

void nib_bf16_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    uint8_t *p = dst;
    (void)imatrix;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = nib_f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &h, 2);
    }
}
