/* IQ4_XS: 256 weights in 136 bytes, in 8 groups of 32: w = (d (s - 32)) level, the levels and
 * nibbles of IQ4_NL, s of 6 bits. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2];          /* f16 */
    uint8_t scale_high[2]; /* bits 2 g .. 2 g + 1: top of s of group g */
    uint8_t scale_low[4];  /* a nibble a group */
    uint8_t q[8][16];
} block;
NIB_BLOCK_CHECK(block, IQ4_XS);

void nib_iq4_xs_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ4_XS_LEN, b++) {
        float d = load_f16(b->d);
        unsigned high = nib_load_u16(b->scale_high);
        for (int g = 0; g < 8; g++, dst += 32) {
            int s = (b->scale_low[g / 2] >> g % 2 * 4 & 15) | (int)(high >> 2 * g & 3) << 4;
            float scale = d * (float)(s - 32);
            for (int i = 0; i < 16; i++) {
                dst[i] = scale * (float)nib_iq4_levels[b->q[g][i] & 15];
                dst[i + 16] = scale * (float)nib_iq4_levels[b->q[g][i] >> 4];
            }
        }
    }
}
