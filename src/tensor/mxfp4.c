/* MXFP4 (OCP Microscaling): 32 weights in 17 bytes, 4-bit floats (E2M1) times a power of two, 2^(e
 * - 127). Nibbles as in Q4_0. The levels are stored doubled, so the scale is halved. e = 255, by
 * the specification NaN, reads as 2^128 / 2 like everywhere in GGUF. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t e;
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, MXFP4);

void nib_mxfp4_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_MXFP4_LEN, dst += NIB_MXFP4_LEN, b++) {
        float d = b->e < 2 ? nib_bits_f32(0x00200000u << b->e) : nib_bits_f32((b->e - 1u) << 23);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)nib_e2m1_levels[b->q[i] & 15] * d;
            dst[i + 16] = (float)nib_e2m1_levels[b->q[i] >> 4] * d;
        }
    }
}
