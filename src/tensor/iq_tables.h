/* Codebooks and levels shared by the formats whose values are not evenly spaced (iq_tables.c). */
#ifndef NIB_TENSOR_IQ_TABLES_H
#define NIB_TENSOR_IQ_TABLES_H
#include "tensor/internal.h"

/* 8 weights an entry, 2 bits each: magnitudes nib_iq2_levels[code]. */
extern const uint16_t nib_iq2_xxs_grid[256], nib_iq2_xs_grid[512], nib_iq2_s_grid[1024];
extern const uint8_t nib_iq2_levels[4];
/* 4 weights an entry, 3 bits each: magnitudes nib_iq3_*_levels[code]. */
extern const uint16_t nib_iq3_xxs_grid[256], nib_iq3_s_grid[512];
extern const uint8_t nib_iq3_xxs_levels[8], nib_iq3_s_levels[8];
/* 8 weights an entry, 2 bits each: code - 1. */
extern const uint16_t nib_iq1_grid[2048];
/* 4-bit codes: IQ4_NL and IQ4_XS; MXFP4 and NVFP4 (twice the value, so that they are integers). */
extern const int8_t nib_iq4_levels[16], nib_e2m1_levels[16];
/* The E2M1 levels in ascending order with 0 twice, and the code of each. */
extern const int8_t nib_e2m1_sorted[16];
extern const uint8_t nib_e2m1_codes[16];

/* Eight signs in seven bits: the eighth makes the number of minuses even. Bit j is weight j's. */
static inline unsigned iq_even_signs(unsigned s7) {
    return s7 | (unsigned)__builtin_parity(s7) << 7;
}
/* -w where bit 0 is set, without a branch that nobody could predict. */
static inline float iq_sign(float w, unsigned bit) {
    return nib_bits_f32(nib_f32_bits(w) ^ (uint32_t)(bit & 1) << 31);
}
/* Eight weights of an IQ2 format: scale * level, negative where signs says so. */
static inline void iq2_expand(float *dst, float scale, uint16_t entry, unsigned signs) {
    for (int j = 0; j < 8; j++) {
        float w = scale * (float)nib_iq2_levels[entry >> 2 * j & 3];
        dst[j] = iq_sign(w, signs >> j);
    }
}
/* Four weights of an IQ3 format. */
static inline void iq3_expand(float *dst, float scale, const uint8_t levels[8], uint16_t entry,
                              unsigned signs) {
    for (int j = 0; j < 4; j++) {
        float w = scale * (float)levels[entry >> 3 * j & 7];
        dst[j] = iq_sign(w, signs >> j);
    }
}
/* Eight weights of an IQ1 format: scale * (-1, 0 or 1 plus delta). */
static inline void iq1_expand(float *dst, float scale, uint16_t entry, float delta) {
    for (int j = 0; j < 8; j++) dst[j] = scale * ((float)((entry >> 2 * j & 3) - 1) + delta);
}
#endif
