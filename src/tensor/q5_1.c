/* Q5_1: 32 weights in 24 bytes, w = d q + m with q of 5 bits, laid out as in Q5_0. Two roundings:
 * of the product, of the sum. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t d[2], m[2]; /* f16 */
    uint8_t high[4];
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q5_1);

void nib_q5_1_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q5_1_LEN, dst += NIB_Q5_1_LEN, b++) {
        float d = load_f16(b->d), m = load_f16(b->m);
        uint32_t high = nib_load_u32(b->high);
        for (int i = 0; i < 16; i++) {
            int q0 = (b->q[i] & 15) | (int)(high >> i & 1) << 4;
            int q1 = b->q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
            dst[i] = (float)q0 * d + m;
            dst[i + 16] = (float)q1 * d + m;
        }
    }
}
