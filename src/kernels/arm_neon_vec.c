/* The vector and attention slots for NEON. */
#include "kernels/lanes_neon.h"
#define ATTN_Q        6 /* 24 of 32 registers hold sums */
#define ATTN_W        1
#define ATTN_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#include "kernels/vec_body.h"

void nib_arm_neon_vec(nib_kernels *k) {
    vec_all(k);
}
