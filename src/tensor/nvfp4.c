/* NVFP4: 64 weights in 36 bytes, in 4 groups of 16: 4-bit floats (E2M1) times an unsigned 8-bit
 * float (E4M3, bias 7; codes 0 and 127 are 0, bit 7 is ignored elsewhere). In a group of 8 bytes
 * the low nibbles come first. The levels are stored doubled, so the scale is halved. */
#include <math.h>
#include "tensor/fit.h"
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

/* Scales tried: from the one after the first that reaches the largest magnitude down to half of
 * that, eight to a power of two. */
enum { N_TRY = 9 };

void nib_nvfp4_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_levels levels = {.n = 16, .values = nib_e2m1_sorted};
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 64, src += 64, imatrix += imatrix ? 64 : 0, b++) {
        uint8_t code[64], choice[4];
        float scale[4 * N_TRY];
        int first[4];
        for (int g = 0; g < 4; g++) {
            float top = 0;
            for (int i = 0; i < 16; i++)
                top = fabsf(src[16 * g + i]) > top ? fabsf(src[16 * g + i]) : top;
            int c = 0;
            for (int bit = 64; bit; bit >>= 1) /* the last code whose 6 does not reach top */
                if ((c | bit) < 127 && 6 * e4m3((unsigned)(c | bit)) < top) c |= bit;
            first[g] = NIB_MAX(NIB_MIN(c + 2, 126) - (N_TRY - 1), 0);
            for (int k = 0; k < N_TRY; k++)
                scale[N_TRY * g + k] = 0.5f * e4m3((unsigned)(first[g] + k));
        }
        fit->choose(&levels, 16, src, imatrix, 4, N_TRY, scale, choice, code);
        for (int g = 0; g < 4; g++) {
            const uint8_t *c = code + 16 * g;
            b->scale[g] = (uint8_t)(first[g] + choice[g]);
            for (int i = 0; i < 8; i++)
                b->q[g][i] = (uint8_t)(nib_e2m1_codes[c[i]] | nib_e2m1_codes[c[i + 8]] << 4);
        }
    }
}
