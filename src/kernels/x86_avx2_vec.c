/* The vector and attention slots for AVX2. */
#include "kernels/lanes_avx2.h"
#define ATTN_Q        6 /* 12 of 16 registers hold sums */
#define ATTN_W        1
#define SOFT_ROWS     1
#define ATTN_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#include "kernels/vec_body.h"

void nib_x86_avx2_vec(nib_kernels *k) {
    vec_all(k);
}
