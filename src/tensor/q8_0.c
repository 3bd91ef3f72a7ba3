/* Q8_0: 32 weights in 34 bytes, w = d q with q a signed byte. */
#include "tensor/internal.h"

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
