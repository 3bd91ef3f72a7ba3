/* MXFP4 (OCP Microscaling): 32 weights in 17 bytes, 4-bit floats (E2M1) times a power of two, 2^(e
 * - 127). Nibbles as in Q4_0. The levels are stored doubled, so the scale is halved. e = 255, by
 * the specification NaN, reads as 2^128 / 2 like everywhere in GGUF. */
#include <math.h>
#include "tensor/fit.h"
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t e;
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, MXFP4);

static float half_scale(unsigned e) {
    return e < 2 ? nib_bits_f32(0x00200000u << e) : nib_bits_f32((e - 1) << 23);
}

void nib_mxfp4_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_MXFP4_LEN, dst += NIB_MXFP4_LEN, b++) {
        float d = half_scale(b->e);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)nib_e2m1_levels[b->q[i] & 15] * d;
            dst[i + 16] = (float)nib_e2m1_levels[b->q[i] >> 4] * d;
        }
    }
}

/* With 2^p the power of two at or below the largest magnitude, the largest level comes to 1.5 * 2^p
 * under the scale 2^(p - 2), and never clips under twice that; half of it serves where the small
 * weights matter more. */
enum { N_TRY = 3 };

void nib_mxfp4_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_levels levels = {.n = 16, .values = nib_e2m1_sorted};
    const fit_ops *fit = nib_fit();
    block *b = dst;
    while (n > 0) {
        uint8_t code[FIT_BLOCKS * 32], choice[FIT_BLOCKS], e[FIT_BLOCKS][N_TRY];
        float scale[FIT_BLOCKS * N_TRY];
        int n_blocks = (int)NIB_MIN(n / 32, FIT_BLOCKS);
        for (int k = 0; k < n_blocks; k++) {
            float top = 0;
            for (int i = 0; i < 32; i++)
                top = fabsf(src[32 * k + i]) > top ? fabsf(src[32 * k + i]) : top;
            int p = (int)(nib_f32_bits(top) >> 23); /* biased by 127, like e */
            for (int j = 0; j < N_TRY; j++) {
                e[k][j] = (uint8_t)NIB_MIN(NIB_MAX(p - 3 + j, 0), 254);
                scale[N_TRY * k + j] = half_scale(e[k][j]);
            }
        }
        fit->choose(&levels, 32, src, imatrix, n_blocks, N_TRY, scale, choice, code);
        for (int k = 0; k < n_blocks; k++, b++) {
            const uint8_t *c = code + 32 * k;
            b->e = e[k][choice[k]];
            for (int i = 0; i < 16; i++)
                b->q[i] = (uint8_t)(nib_e2m1_codes[c[i]] | nib_e2m1_codes[c[i + 16]] << 4);
        }
        src += 32 * n_blocks, imatrix += imatrix ? 32 * n_blocks : 0, n -= 32 * n_blocks;
    }
}
