/* IQ3_XXS: 256 weights in 98 bytes. Each four has a codebook index of 8 bits; every 32 a word of
 * four sign fields of 7 bits (8 weights each) and a scale s of 4 bits: w = d (s + 1/2) / 2 * level.
 */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t index[64];
    uint8_t signs_scale[8][4]; /* bits 7 l .. 7 l + 6: signs of the l-th eight; 28..31: s */
} block;
NIB_BLOCK_CHECK(block, IQ3_XXS);

void nib_iq3_xxs_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ3_XXS_LEN, dst += NIB_IQ3_XXS_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 8; g++) {
            uint32_t ss = nib_load_u32(b->signs_scale[g]);
            float scale = d * (0.5f + (float)(ss >> 28)) * 0.5f;
            for (int l = 0; l < 8; l++)
                iq3_expand(dst + 32 * g + 4 * l, scale, nib_iq3_xxs_levels,
                           nib_iq3_xxs_grid[b->index[8 * g + l]],
                           iq_even_signs(ss >> l / 2 * 7 & 127) >> l % 2 * 4);
        }
    }
}
