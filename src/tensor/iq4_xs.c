/* IQ4_XS: 256 weights in 136 bytes, in 8 groups of 32: w = (d (s - 32)) level, the levels and
 * nibbles of IQ4_NL, s of 6 bits. */
#include "tensor/fit.h"
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2];          /* f16 */
    uint8_t scale_high[2]; /* bits 2 g .. 2 g + 1: top of s of group g */
    uint8_t scale_low[4];  /* a nibble a group */
    uint8_t q[8][16];
} block;
NIB_BLOCK_CHECK(block, IQ4_XS);

void nib_iq4_xs_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ4_XS_LEN, b++) {
        float d = load_f16(b->d);
        unsigned high = nib_load_u16(b->scale_high);
        for (int g = 0; g < 8; g++, dst += 32) {
            int s = (b->scale_low[g / 2] >> g % 2 * 4 & 15) | (int)(high >> 2 * g & 3) << 4;
            float scale = d * (float)(s - 32);
            for (int i = 0; i < 16; i++) {
                dst[i] = scale * (float)nib_iq4_levels[b->q[g][i] & 15];
                dst[i + 16] = scale * (float)nib_iq4_levels[b->q[g][i] >> 4];
            }
        }
    }
}

void nib_iq4_xs_encode(const float *src, void *dst, int64_t n, const float *imatrix) {
    const fit_levels levels = {.n = 16, .values = nib_iq4_levels};
    const fit_ops *fit = nib_fit();
    for (block *b = dst; n > 0; n -= 256, src += 256, imatrix += imatrix ? 256 : 0, b++) {
        uint8_t code[256];
        int8_t s[8];
        uint16_t d, high = 0;
        fit->super_scale(&levels, 32, -32, 31, src, imatrix, &d, s, code);
        memcpy(b->d, &d, 2);
        memset(b->scale_low, 0, sizeof b->scale_low);
        for (int g = 0; g < 8; g++) {
            const uint8_t *c = code + 32 * g;
            int v = s[g] + 32;
            b->scale_low[g / 2] |= (uint8_t)((v & 15) << g % 2 * 4);
            high |= (uint16_t)(v >> 4 << 2 * g);
            for (int i = 0; i < 16; i++) b->q[g][i] = (uint8_t)(c[i] | c[i + 16] << 4);
        }
        memcpy(b->scale_high, &high, 2);
    }
}
