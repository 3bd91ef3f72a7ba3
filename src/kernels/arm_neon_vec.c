/* The vector and attention slots for NEON.
 *
 * spills: attn_int 6 -- the softmax has two sums and the steps of 2^x, four registers each, beside
 * eight constants; a few of them wait on the stack, once for 16 weights. */
#include "kernels/lanes_neon.h"
#define ATTN_Q        5 /* 20 of 32 registers hold sums; with 24 gcc 12 spills */
#define ATTN_W        1
#define SOFT_ROWS     1
#define ATTN_CASES(X) X(1) X(2) X(3) X(4) X(5)
#include "kernels/vec_body.h"

void nib_arm_neon_vec(nib_kernels *k) {
    vec_all(k);
}
