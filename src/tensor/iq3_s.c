/* IQ3_S: 256 weights in 110 bytes. Each four has a codebook index of 9 bits and 4 bits of signs;
 * every 32 a scale s of 4 bits: w = d (2 s + 1) * level. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t index[64];
    uint8_t high[8];   /* ninth bits of eight indices */
    uint8_t signs[32]; /* of eight weights each */
    uint8_t scale[4];  /* low nibble: first 32 of 64 */
} block;
NIB_BLOCK_CHECK(block, IQ3_S);

void nib_iq3_s_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ3_S_LEN, dst += NIB_IQ3_S_LEN, b++) {
        float d = load_f16(b->d);
        for (int l = 0; l < 64; l++) {
            unsigned index = b->index[l] | (b->high[l / 8] >> l % 8 & 1u) << 8;
            unsigned s = b->scale[l / 16] >> l / 8 % 2 * 4 & 15;
            iq3_expand(dst + 4 * l, d * (float)(2 * s + 1), nib_iq3_s_levels, nib_iq3_s_grid[index],
                       b->signs[l / 2] >> l % 2 * 4);
        }
    }
}
