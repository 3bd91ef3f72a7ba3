/* Q5_K: 256 weights in 176 bytes: Q4_K with a fifth bit of q, for weight i bit i / 32 of high[i %
 * 32]. The same three roundings. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t d[2], dmin[2]; /* f16 */
    uint8_t scale[12];
    uint8_t high[32];
    uint8_t q[128];
} block;
NIB_BLOCK_CHECK(block, Q5_K);

void nib_q5_k_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q5_K_LEN, dst += NIB_Q5_K_LEN, b++) {
        float d = load_f16(b->d), dmin = load_f16(b->dmin);
        for (int g = 0; g < 8; g++) {
            const uint8_t *q = b->q + 32 * (g / 2);
            int s, m, shift = g % 2 * 4;
            k_scale_min(b->scale, g, &s, &m);
            float scale = d * (float)s, min = dmin * (float)m;
            for (int i = 0; i < 32; i++) {
                int v = (q[i] >> shift & 15) | (b->high[i] >> g & 1) << 4;
                dst[32 * g + i] = scale * (float)v - min;
            }
        }
    }
}

void nib_q5_k_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256], s[8], m[8];
        uint16_t d, dmin;
        fit->super_affine(32, 32, 63, src, imatrix, &d, &dmin, s, m, code);
        memcpy(b->d, &d, 2), memcpy(b->dmin, &dmin, 2);
        k_pack_scale_min(b->scale, s, m);
        for (int i = 0; i < 128; i++) {
            const uint8_t *c = code + 64 * (i / 32) + i % 32;
            b->q[i] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
        }
        memset(b->high, 0, sizeof b->high);
        for (int i = 0; i < 256; i++) b->high[i % 32] |= (uint8_t)(code[i] >> 4 << i / 32);
    }
}
