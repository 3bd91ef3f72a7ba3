/* Q1_0: 128 weights in 18 bytes: d where the weight's bit is set, else -d. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q1_0);

void nib_q1_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q1_0_LEN, dst += NIB_Q1_0_LEN, b++) {
        float d = load_f16(b->d), w[2] = {-d, d}; /* looked up: nobody could predict a branch */
        for (int i = 0; i < 128; i++) dst[i] = w[b->q[i / 8] >> i % 8 & 1];
    }
}
