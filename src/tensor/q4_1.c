/* Q4_1: 32 weights in 20 bytes, w = d q + m with q of 4 bits, nibbles as in Q4_0. Two roundings: of
 * the product, of the sum. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t d[2], m[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q4_1);

void nib_q4_1_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q4_1_LEN, dst += NIB_Q4_1_LEN, b++) {
        float d = load_f16(b->d), m = load_f16(b->m);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)(b->q[i] & 15) * d + m;
            dst[i + 16] = (float)(b->q[i] >> 4) * d + m;
        }
    }
}
