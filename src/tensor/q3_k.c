/* Q3_K: 256 weights in 110 bytes, in 16 groups of 16: w = (d (s - 32)) (q - 4) with q of 3 bits and
 * s of 6. The low two bits of q lie as in Q2_K; the third of weight i is bit i / 32 of high[i %
 * 32]. The low four bits of s[g] are a nibble of scale[g % 8] (low for g < 8), its high two are
 * bits 2 (g / 4) of scale[8 + g % 4]. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t high[32];
    uint8_t q[64];
    uint8_t scale[12];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, Q3_K);

void nib_q3_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q3_K_LEN, dst += NIB_Q3_K_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b->q + 32 * (g / 8) + 16 * (g % 2), *high = b->high + 16 * (g % 2);
            int s = (b->scale[g % 8] >> g / 8 * 4 & 15) | (b->scale[8 + g % 4] >> g / 4 * 2 & 3)
                                                              << 4;
            float scale = d * (float)(s - 32);
            int shift = g / 2 % 4 * 2;
            for (int i = 0; i < 16; i++) {
                int v = (q[i] >> shift & 3) | (high[i] >> g / 2 & 1) << 2;
                dst[16 * g + i] = scale * (float)(v - 4);
            }
        }
    }
}

void nib_q3_k_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    static const fit_levels levels = {.n = 8, .first = -4};
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256];
        int8_t s[16];
        uint16_t d;
        fit->super_scale(&levels, 16, -32, 31, src, imatrix, &d, s, code);
        memcpy(b->d, &d, 2);
        memset(b->scale, 0, sizeof b->scale);
        for (int g = 0; g < 16; g++) {
            int v = s[g] + 32;
            b->scale[g % 8] |= (uint8_t)((v & 15) << g / 8 * 4);
            b->scale[8 + g % 4] |= (uint8_t)(v >> 4 << g / 4 * 2);
        }
        for (int i = 0; i < 64; i++) {
            const uint8_t *c = code + 128 * (i / 32) + i % 32;
            b->q[i] =
                (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
        memset(b->high, 0, sizeof b->high);
        for (int i = 0; i < 256; i++) b->high[i % 32] |= (uint8_t)(code[i] >> 2 << i / 32);
    }
}
