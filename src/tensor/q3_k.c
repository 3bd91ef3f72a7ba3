/* Q3_K: 256 weights in 110 bytes, in 16 groups of 16: w = (d (s - 32)) (q - 4) with q of 3 bits and
 * s of 6. The low two bits of q lie as in Q2_K; the third of weight i is bit i / 32 of high[i %
 * 32]. The low four bits of s[g] are a nibble of scale[g % 8] (low for g < 8), its high two are
 * bits 2 (g / 4) of scale[8 + g % 4]. */
#include "tensor/internal.h"

typedef struct block {
    uint8_t high[32];
    uint8_t q[64];
    uint8_t scale[12];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, Q3_K);

void nib_q3_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q3_K_LEN, dst += NIB_Q3_K_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b->q + 32 * (g / 8) + 16 * (g % 2), *high = b->high + 16 * (g % 2);
            int s = (b->scale[g % 8] >> g / 8 * 4 & 15) | (b->scale[8 + g % 4] >> g / 4 * 2 & 3)
                                                              << 4;
            float scale = d * (float)(s - 32);
            int shift = g / 2 % 4 * 2;
            for (int i = 0; i < 16; i++) {
                int v = (q[i] >> shift & 3) | (high[i] >> g / 2 & 1) << 2;
                dst[16 * g + i] = scale * (float)(v - 4);
            }
        }
    }
}
