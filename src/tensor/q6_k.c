/* Q6_K: 256 weights in 210 bytes, in 16 groups of 16: w = (d s) (q - 32) with q of 6 bits and s a
 * signed byte. Two roundings: of d s, of the product with q. Weight 128 h + 32 k + l: its low four
 * bits are nibble k / 2 of low[64 h + 32 (k % 2) + l], its high two are bits 2 k of high[32 h + l].
 */
#include "tensor/internal.h"

typedef struct block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scale[16];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, Q6_K);

void nib_q6_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q6_K_LEN, dst += NIB_Q6_K_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            int half = g / 8, k = g / 2 % 4, l = 16 * (g % 2);
            const uint8_t *low = b->low + 64 * half + 32 * (k % 2) + l,
                          *high = b->high + 32 * half + l;
            float scale = d * (float)b->scale[g];
            for (int i = 0; i < 16; i++) {
                int q = (low[i] >> k / 2 * 4 & 15) | (high[i] >> 2 * k & 3) << 4;
                dst[16 * g + i] = scale * (float)(q - 32);
            }
        }
    }
}
