/* TQ1_0: 256 weights of -1, 0 or 1 times d, in 54 bytes: five in a byte, base 3, scaled so that the
 * digits come out from the top by multiplying: b = ceil(value 256 / 243), digit k = (b 3^k mod 256)
 * 3 / 256. Three pieces, first digits first: 32 bytes hold 160 weights, 16 bytes the next 80, 4
 * bytes (of four digits) the last 16. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t q[32], q2[16];
    uint8_t last[4];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, TQ1_0);

static void trits(const uint8_t *q, int n_bytes, int n_digits, float d, float *dst) {
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    for (int k = 0; k < n_digits; k++)
        for (int i = 0; i < n_bytes; i++)
            *dst++ = (float)(((uint8_t)(q[i] * pow3[k]) * 3 >> 8) - 1) * d;
}

void nib_tq1_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_TQ1_0_LEN, dst += NIB_TQ1_0_LEN, b++) {
        float d = load_f16(b->d);
        trits(b->q, 32, 5, d, dst);
        trits(b->q2, 16, 5, d, dst + 160);
        trits(b->last, 4, 4, d, dst + 240);
    }
}
