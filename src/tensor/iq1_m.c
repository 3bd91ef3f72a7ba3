/* IQ1_M: 256 weights in 56 bytes. Each eight has a codebook index of 11 bits and a shift of +-1/8;
 * every sixteen a scale s of 3 bits: w = d (2 s + 1) * (level + shift). d, an f16, is spread over
 * the top nibbles of the four scale words, lowest first. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t index[32];
    uint8_t high[16];    /* a nibble an index: its top three bits; bit 3: the shift is negative */
    uint8_t scale[4][2]; /* bits 3 k .. 3 k + 2: s of the k-th sixteen of 64; 12..15: of d */
} block;
NIB_BLOCK_CHECK(block, IQ1_M);

void nib_iq1_m_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ1_M_LEN, dst += NIB_IQ1_M_LEN, b++) {
        unsigned word[4], bits = 0;
        for (int k = 0; k < 4; k++) {
            word[k] = nib_load_u16(b->scale[k]);
            bits |= word[k] >> 12 << 4 * k;
        }
        float d = nib_f16_to_f32((uint16_t)bits);
        for (int l = 0; l < 32; l++) {
            unsigned high = b->high[l / 2] >> l % 2 * 4, s = word[l / 8] >> l / 2 % 4 * 3 & 7;
            iq1_expand(dst + 8 * l, d * (float)(2 * s + 1),
                       nib_iq1_grid[b->index[l] | (high & 7) << 8], high & 8 ? -0.125f : 0.125f);
        }
    }
}
