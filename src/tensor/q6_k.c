/* Q6_K: 256 weights in 210 bytes, in 16 groups of 16: w = (d s) (q - 32) with q of 6 bits and s a
 * signed byte. Two roundings: of d s, of the product with q. Weight 128 h + 32 k + l: its low four
 * bits are nibble k / 2 of low[64 h + 32 (k % 2) + l], its high two are bits 2 k of high[32 h + l].
 */
#include "tensor/fit.h"

typedef struct block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scale[16];
    uint8_t d[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, Q6_K);

void nib_q6_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q6_K_LEN, dst += NIB_Q6_K_LEN, b++) {
        float d = load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            int half = g / 8, k = g / 2 % 4, l = 16 * (g % 2);
            const uint8_t *low = b->low + 64 * half + 32 * (k % 2) + l,
                          *high = b->high + 32 * half + l;
            float scale = d * (float)b->scale[g];
            for (int i = 0; i < 16; i++) {
                int q = (low[i] >> k / 2 * 4 & 15) | (high[i] >> 2 * k & 3) << 4;
                dst[16 * g + i] = scale * (float)(q - 32);
            }
        }
    }
}

void nib_q6_k_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    static const fit_levels levels = {.n = 64, .first = -32};
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256];
        uint16_t d;
        fit->super_scale(&levels, 16, -128, 127, src, imatrix, &d, b->scale, code);
        memcpy(b->d, &d, 2);
        for (int i = 0; i < 64; i++) {
            const uint8_t *c = code + 128 * (i / 32) + i % 32;
            uint8_t *low = b->low + 64 * (i / 32) + i % 32;
            low[0] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            low[32] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            b->high[i] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
    }
}
