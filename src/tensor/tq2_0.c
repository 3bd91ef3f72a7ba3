/* TQ2_0: 256 weights in 66 bytes, w = d (q - 1) with q of 2 bits: weight 128 h + 32 k + l is bits 2
 * k of byte 32 h + l. Writers use 0, 1 and 2 only. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t q[2][32];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, TQ2_0);

void nib_tq2_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_TQ2_0_LEN, dst += NIB_TQ2_0_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 256; i++)
            dst[i] = (float)((b->q[i / 128][i % 32] >> i / 32 % 4 * 2 & 3) - 1) * d;
    }
}
