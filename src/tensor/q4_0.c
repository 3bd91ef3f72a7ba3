/* Q4_0: 32 weights in 18 bytes, w = d (q - 8) with q of 4 bits. The low nibbles hold weights 0..15,
 * the high ones 16..31. */
#include "tensor/fit.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, Q4_0);

void nib_q4_0_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_Q4_0_LEN, dst += NIB_Q4_0_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 16; i++) {
            dst[i] = (float)((b->q[i] & 15) - 8) * d;
            dst[i + 16] = (float)((b->q[i] >> 4) - 8) * d;
        }
    }
}

void nib_q4_0_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    static const fit_levels levels = {.n = 16, .first = -8};
    const fit_ops *fit = nib_fit();
    block *b = dst;
    while (n > 0) {
        uint8_t code[FIT_BLOCKS * 32];
        uint16_t d[FIT_BLOCKS];
        int n_blocks = (int)NIB_MIN(n / 32, FIT_BLOCKS);
        fit->scale(&levels, 32, src, imatrix, n_blocks, d, code);
        for (int k = 0; k < n_blocks; k++, b++) {
            const uint8_t *c = code + 32 * k;
            memcpy(b->d, &d[k], 2);
            for (int i = 0; i < 16; i++) b->q[i] = (uint8_t)(c[i] | c[i + 16] << 4);
        }
        src += 32 * n_blocks, imatrix += imatrix ? 32 * n_blocks : 0, n -= 32 * n_blocks;
    }
}
