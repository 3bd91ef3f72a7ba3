/* Q4_0: 32 weights in 18 bytes, w = d (q - 8) with q of 4 bits. The low nibbles hold weights 0..15,
 * the high ones 16..31. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q4_0);

void nib_q4_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q4_0_LEN, dst += NIB_Q4_0_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)((b->q[i] & 15) - 8) * d;
            dst[i + 16] = (float)((b->q[i] >> 4) - 8) * d;
        }
    }
}
