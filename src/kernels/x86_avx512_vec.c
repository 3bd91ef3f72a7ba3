/* The vector and attention slots for AVX-512. */
#include "kernels/lanes_avx512.h"
#define ATTN_Q        12 /* 24 of 32 registers hold sums */
#define ATTN_W        2
#define SOFT_ROWS     4
#define ATTN_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#include "kernels/vec_body.h"

void nib_avx512_attn(const nib_attn *a) {
    vec_attn(a);
}
void nib_x86_avx512_vec(nib_kernels *k) {
    vec_all(k);
}
