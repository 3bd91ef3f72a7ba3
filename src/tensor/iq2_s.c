/* IQ2_S: 256 weights in 82 bytes. Each eight has a codebook index of 10 bits and a byte of signs;
 * every sixteen a scale s of 4 bits: w = d (s + 1/2) / 4 * level. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t index[32];
    uint8_t signs[32];
    uint8_t high[8];  /* top two bits of four indices */
    uint8_t scale[8]; /* low nibble: first sixteen of 32 */
} block;
NIB_BLOCK_CHECK(block, IQ2_S);

void nib_iq2_s_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ2_S_LEN, dst += NIB_IQ2_S_LEN, b++) {
        float d = load_f16(b->d);
        for (int l = 0; l < 32; l++) {
            unsigned index = b->index[l] | (b->high[l / 4] >> l % 4 * 2 & 3u) << 8;
            unsigned s = b->scale[l / 4] >> l / 2 % 2 * 4 & 15;
            float scale = d * (0.5f + (float)s) * 0.25f;
            iq2_expand(dst + 8 * l, scale, nib_iq2_s_grid[index], b->signs[l]);
        }
    }
}
