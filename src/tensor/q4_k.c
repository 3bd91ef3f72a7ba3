/* Q4_K: 256 weights in 144 bytes, in 8 groups of 32: w = (d s) q - (dmin m) with q of 4 bits and,
 * per group, s and m of 6 bits (k_scale_min). Three roundings: of both products with q and m, and
 * of the difference. Groups 2c and 2c + 1 are the low and the high nibbles of bytes 32 c .. 32 c
 * + 31. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t d[2], dmin[2]; /* f16 */
    uint8_t scale[12];
    uint8_t q[128];
} block;
NIB_BLOCK_CHECK(block, Q4_K);

void nib_q4_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q4_K_LEN, dst += NIB_Q4_K_LEN, b++) {
        float d = load_f16(b->d), dmin = load_f16(b->dmin);
        for (int g = 0; g < 8; g++) {
            const uint8_t *q = b->q + 32 * (g / 2);
            int s, m, shift = g % 2 * 4;
            k_scale_min(b->scale, g, &s, &m);
            float scale = d * (float)s, min = dmin * (float)m;
            for (int i = 0; i < 32; i++)
                dst[32 * g + i] = scale * (float)(q[i] >> shift & 15) - min;
        }
    }
}

void nib_q4_k_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256], s[8], m[8];
        uint16_t d, dmin;
        fit->super_affine(16, 32, 63, src, imatrix, &d, &dmin, s, m, code);
        memcpy(b->d, &d, 2), memcpy(b->dmin, &dmin, 2);
        k_pack_scale_min(b->scale, s, m);
        for (int i = 0; i < 128; i++) {
            const uint8_t *c = code + 64 * (i / 32) + i % 32;
            b->q[i] = (uint8_t)(c[0] | c[32] << 4);
        }
    }
}
