/* NVFP4: 64 weights in 36 bytes, in 4 groups of 16: 4-bit floats (E2M1) times an unsigned 8-bit
 * float (E4M3, bias 7; codes 0 and 127 are 0, bit 7 is ignored elsewhere). In a group of 8 bytes
 * the low nibbles come first. The levels are stored doubled, so the scale is halved. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t scale[4];
    uint8_t q[4][8];
} block;
NIB_BLOCK_CHECK(block, NVFP4);

static float e4m3(unsigned u) {
    unsigned exp = u >> 3 & 15, frac = u & 7;
    if (u == 127) return 0.0f;
    if (!exp) return (float)frac * 0x1p-9f;
    return nib_bits_f32((exp + 120) << 23 | frac << 20);
}

void nib_nvfp4_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_NVFP4_LEN, dst += NIB_NVFP4_LEN, b++) {
        for (int g = 0; g < 4; g++) {
            float d = 0.5f * e4m3(b->scale[g]);
            for (int i = 0; i < 8; i++) {
                dst[16 * g + i] = (float)nib_e2m1_levels[b->q[g][i] & 15] * d;
                dst[16 * g + i + 8] = (float)nib_e2m1_levels[b->q[g][i] >> 4] * d;
            }
        }
    }
}
