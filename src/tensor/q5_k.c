/* Q5_K: 256 weights in 176 bytes: Q4_K with a fifth bit of q, for weight i bit i / 32 of high[i %
 * 32]. The same three roundings. */
#include "tensor/internal.h"

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
