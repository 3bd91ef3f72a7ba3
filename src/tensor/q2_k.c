/* Q2_K: 256 weights in 84 bytes, in 16 groups of 16: w = (d s) q - (dmin m) with q of 2 bits and,
 * per group, s and m of 4 bits. Three roundings: of both products with q and m, and of the
 * difference. A byte of q holds one weight of each quarter of its half: weight 128 h + 32 k + l is
 * bits 2k of byte 32 h + l. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t scale[16]; /* low nibble s, high nibble m */
    uint8_t q[64];
    uint8_t d[2], dmin[2]; /* f16 */
} block;
NIB_BLOCK_CHECK(block, Q2_K);

void nib_q2_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q2_K_LEN, dst += NIB_Q2_K_LEN, b++) {
        float d = load_f16(b->d), dmin = load_f16(b->dmin);
        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b->q + 32 * (g / 8) + 16 * (g % 2);
            float scale = d * (float)(b->scale[g] & 15), min = dmin * (float)(b->scale[g] >> 4);
            int shift = g / 2 % 4 * 2;
            for (int i = 0; i < 16; i++) dst[16 * g + i] = scale * (float)(q[i] >> shift & 3) - min;
        }
    }
}

void nib_q2_k_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256], s[16], m[16];
        uint16_t d, dmin;
        fit->super_affine(4, 16, 15, src, imatrix, &d, &dmin, s, m, code);
        memcpy(b->d, &d, 2), memcpy(b->dmin, &dmin, 2);
        for (int g = 0; g < 16; g++) b->scale[g] = (uint8_t)(s[g] | m[g] << 4);
        for (int i = 0; i < 64; i++) {
            const uint8_t *c = code + 128 * (i / 32) + i % 32;
            b->q[i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
    }
}
