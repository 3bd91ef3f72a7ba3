/* IQ4_NL: 32 weights in 18 bytes: Q4_0 with sixteen unevenly spaced levels (nib_iq4_levels) in
 * place of q - 8. */
#include "tensor/iq_tables.h"

typedef struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
} block;
NIB_BLOCK_CHECK(block, IQ4_NL);

void nib_iq4_nl_decode(const void *src, float *dst, int64_t n) {
    for (const block *b = src; n > 0; n -= NIB_IQ4_NL_LEN, dst += NIB_IQ4_NL_LEN, b++) {
        float d = load_f16(b->d);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)nib_iq4_levels[b->q[i] & 15];
            dst[i + 16] = d * (float)nib_iq4_levels[b->q[i] >> 4];
        }
    }
}
