/* IQ1_S: 256 weights in 50 bytes. Each eight has a codebook index of 11 bits; every 32 a scale s of
 * 3 bits and a shift of +-1/8: w = d (2 s + 1) * (level + shift). */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t index[32];
    uint8_t high[8][2]; /* bits 3 l .. 3 l + 2: top of the l-th index; 12..14: s; 15: the shift is
                           negative */
} block;
NIB_BLOCK_CHECK(block, IQ1_S);

void nib_iq1_s_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ1_S_LEN, dst += NIB_IQ1_S_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 8; g++) {
            unsigned high = nib_load_u16(b->high[g]);
            float scale = d * (float)(2 * (high >> 12 & 7) + 1),
                  shift = high >> 15 ? -0.125f : 0.125f;
            for (int l = 0; l < 4; l++)
                iq1_expand(dst + 32 * g + 8 * l, scale,
                           nib_iq1_grid[b->index[4 * g + l] | (high >> 3 * l & 7) << 8], shift);
        }
    }
}
