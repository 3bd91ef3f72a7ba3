/* Q8_0: 32 weights in 34 bytes, w = d q with q a signed byte. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    int8_t q[32];
} block;
NIB_BLOCK_CHECK(block, Q8_0);

void nib_q8_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q8_0_LEN, dst += NIB_Q8_0_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 32; i++) dst[i] = (float)b->q[i] * d;
    }
}

void nib_q8_0_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    block *b = dst;
    (void)imatrix; /* at 8 bits the nearest code at full range is as good as it gets */
    for (; n > 0; n -= 32, src += 32, b++) {
        int32_t top =
            0; /* bits of the largest magnitude: integers compare alike, and side by side */
        for (int i = 0; i < 32; i++) {
            int32_t a = (int32_t)(nib_f32_bits(src[i]) & 0x7fffffffu);
            top = a > top ? a : top;
        }
        uint16_t h = nib_fit_f16(nib_bits_f32((uint32_t)top) / 127);
        float inv = h ? 1 / nib_f16_to_f32(h) : 0;
        memcpy(b->d, &h, 2);
        for (int i = 0; i < 32; i++) {
            float v = src[i] * inv;
            v = v > -127 ? v : -127, v = v < 127 ? v : 127;
            b->q[i] = (int8_t)((v + 0x1.8p23f) - 0x1.8p23f); /* nearest, ties to even */
        }
    }
}
