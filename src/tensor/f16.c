/* F16: IEEE 754 half precision: sign, 5 bits of exponent, 10 of fraction. */
#include "tensor/internal.h"

/* Every case is computed and one selected, so that a loop over this has no branches. */
static inline uint16_t round_f16(float f) {
    uint32_t u = nib_f32_bits(f), sign = u >> 16 & 0x8000u, mag = u & 0x7fffffffu;
    /* Normal: exponent bias 127 -> 15, then 13 bits of fraction off, ties to even. */
    uint32_t normal = (mag - (112u << 23) + 0xfffu + (mag >> 13 & 1)) >> 13;
    /* Below 2^-14: adding 1/2, whose unit in the last place is 2^-24, the subnormal step, rounds in
     * hardware. */
    uint32_t sub = nib_f32_bits(nib_bits_f32(mag < 0x38800000u ? mag : 0) + 0.5f) - 0x3f000000u;
    uint32_t h = mag < 0x38800000u ? sub : normal;
    h = mag >= 0x477ff000u ? 0x7c00u : h; /* 65520 and above round to infinity */
    h = mag > 0x7f800000u ? 0x7e00u | (mag >> 13 & 0x3ffu) : h;
    return (uint16_t)(sign | h);
}

uint16_t nib_f32_to_f16(float f) {
    return round_f16(f);
}

void nib_f16_decode(const void *src, float *dst, int64_t n) {
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) dst[i] = nib_f16_to_f32(nib_load_u16(p + 2 * i));
}

void nib_f16_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    uint8_t *p = dst;
    (void)imatrix;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = round_f16(src[i]);
        memcpy(p + 2 * i, &h, 2);
    }
}
