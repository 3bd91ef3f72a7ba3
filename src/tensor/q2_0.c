/* Q2_0: 64 weights in 18 bytes, w = d (q - 1) with q of 2 bits, four consecutive weights a byte. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q2_0);

void nib_q2_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q2_0_LEN, dst += NIB_Q2_0_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 64; i++) dst[i] = (float)((b->q[i / 4] >> i % 4 * 2 & 3) - 1) * d;
    }
}
