/* The cache type BF16: attention the way tiles of bfloat16 do it (x86_amx_vec.c), and the same in
 * plain C (attn_bf16.c), slow, to hold it to.
 *
 * Queries, keys and values are rounded to bfloat16, and so are the weights of a chunk. A product of
 * tiles takes 32 terms at a time: those of even and of odd index each in a chain of fused
 * multiply-adds from zero, then both together, then added to what there is; what is subnormal
 * counts as zero. That is what the instruction does, so it is the rule. */
#ifndef NIB_KERNELS_ATTN_BF16_H
#define NIB_KERNELS_ATTN_BF16_H
#include "kernels/internal.h"

/* Tiles of [16][16][2] bfloat16, the right operands of products:
 *   K  [NIB_PAGE/16][D/32]   16 pairs of columns, 16 positions; D padded with zeros
 *   V  [NIB_PAGE/32][Dv/16]  16 pairs of positions, 16 columns; Dv padded with anything
 * Pairs of positions stand in the order in which two registers of 16 scores, packed to one of 32
 * weights, leave them: quarters take turns. */
typedef uint16_t bf16_tile[16][32];
static inline int bf16_k_tiles(int d) {
    return (d + 31) / 32;
}
static inline int bf16_v_tiles(int dv) {
    return (dv + 15) / 16;
}
/* Where position p of 32 stands: its pair is row 0-15, p % 2 which of it. */
static inline int bf16_row(int p) {
    return p % 16 / 4 * 4 + p / 16 * 2 + p % 4 / 2;
}

/* A weight is 2^t by the first 7 bits of t behind the point: as a whole number n = 128 t + 127 *
 * 128, rounded to nearest even and held to 0..BF16_MOST, it is a bfloat16 whose exponent is right
 * and whose mantissa, m = n % 128, is too large by m - 128 (2^(m / 128) - 1): so bf16_less[m / 2]
 * is taken from n, that difference in the middle of two m, rounded. It counts from the score of the
 * first position that is seen: any will do, for bfloat16 spans more than 2^100 both ways. Where the
 * sum of weights is not below BF16_FAR, all count from the largest score instead, and NaN is what
 * there is when that is none. The sum is that of products of tiles, with ones. */
extern const uint8_t bf16_less[64];
#define BF16_LOG2E 0x1.715476p+7f /* 128 log2(e) */
#define BF16_ONE   16256.0f       /* n of 2^0 */
#define BF16_MOST  32767.0f       /* NaN as a bfloat16 */
#define BF16_FAR   0x1p64f

void nib_bf16_store(const float *k, int d, const float *v, int dv, int at, uint8_t *k_page,
                    uint8_t *v_page);
/* In place: D bfloat16, in the first half. */
void nib_bf16_query(float *q, int d);
void nib_bf16_attn(const nib_attn *a);
#endif
