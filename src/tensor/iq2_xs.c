/* IQ2_XS: 256 weights in 74 bytes. Each eight is a 16-bit word: a codebook index of 9 bits and 7
 * bits of signs. Every sixteen have a scale s of 4 bits: w = d (s + 1/2) / 4 * level. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[32][2];
    uint8_t scale[8]; /* low nibble: first sixteen of 32 */
} block;
NIB_BLOCK_CHECK(block, IQ2_XS);

void nib_iq2_xs_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ2_XS_LEN, dst += NIB_IQ2_XS_LEN, b++) {
        float d = load_f16(b->d);
        for (int l = 0; l < 32; l++) {
            unsigned q = nib_load_u16(b->q[l]), s = b->scale[l / 4] >> l / 2 % 2 * 4 & 15;
            float scale = d * (0.5f + (float)s) * 0.25f;
            iq2_expand(dst + 8 * l, scale, nib_iq2_xs_grid[q & 511], iq_even_signs(q >> 9));
        }
    }
}
