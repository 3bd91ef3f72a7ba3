/* F32: IEEE 754 single precision, little-endian, as it stands. */
#include "tensor/internal.h"

void nib_f32_decode(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * 4);
}

void nib_f32_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    (void)imatrix;
    memcpy(dst, src, (size_t)n * 4);
}
