/* IQ2_XXS: 256 weights in 66 bytes, in 8 groups of 32. A group is two 32-bit words: four codebook
 * indices of 8 bits (8 weights each); four sign fields of 7 bits and a scale s of 4. w = d (s +
 * 1/2) / 4 * level. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    struct {
        uint8_t index[4];
        uint8_t signs_scale[4]; /* bits 7 l .. 7 l + 6: signs of the l-th eight; 28..31: s */
    } group[8];
} block;
NIB_BLOCK_CHECK(block, IQ2_XXS);

void nib_iq2_xxs_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ2_XXS_LEN, dst += NIB_IQ2_XXS_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 8; g++) {
            uint32_t ss = nib_load_u32(b->group[g].signs_scale);
            float scale = d * (0.5f + (float)(ss >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++)
                iq2_expand(dst + 32 * g + 8 * l, scale, nib_iq2_xxs_grid[b->group[g].index[l]],
                           iq_even_signs(ss >> 7 * l & 127));
        }
    }
}
