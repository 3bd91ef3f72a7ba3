/* Q5_1: 32 weights in 24 bytes, w = d q + m with q of 5 bits, laid out as in Q5_0. Two roundings:
 * of the product, of the sum. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t d[2], m[2]; /* f16 */
    uint8_t high[4];
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q5_1);

void nib_q5_1_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q5_1_LEN, dst += NIB_Q5_1_LEN, b++) {
        float d = load_f16(b->d), m = load_f16(b->m);
        uint32_t high = nib_load_u32(b->high);
        for (int i = 0; i < 16; i++) {
            int q0 = (b->q[i] & 15) | (int)(high >> i & 1) << 4;
            int q1 = b->q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
            dst[i] = (float)q0 * d + m;
            dst[i + 16] = (float)q1 * d + m;
        }
    }
}

void nib_q5_1_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_ops *fit = nib_fit();
    block *b = dst;
    while (n > 0) {
        uint8_t code[FIT_BLOCKS * 32];
        uint16_t d[FIT_BLOCKS], m[FIT_BLOCKS];
        int n_blocks = (int)NIB_MIN(n / 32, FIT_BLOCKS);
        fit->affine(32, src, imatrix, n_blocks, d, m, code);
        for (int k = 0; k < n_blocks; k++, b++) {
            const uint8_t *c = code + 32 * k;
            memcpy(b->d, &d[k], 2);
            memcpy(b->m, &m[k], 2);
            uint32_t high = 0;
            for (int i = 0; i < 32; i++) high |= (uint32_t)(c[i] >> 4) << i;
            memcpy(b->high, &high, 4);
            for (int i = 0; i < 16; i++) b->q[i] = (uint8_t)((c[i] & 15) | (c[i + 16] & 15) << 4);
        }
        src += 32 * n_blocks, imatrix += imatrix ? 32 * n_blocks : 0, n -= 32 * n_blocks;
    }
}
