/* The vector and attention slots in plain C: the truth the other sets are held to. */
#include "kernels/lanes_scalar.h"
#define ATTN_Q        1
#define ATTN_W        1
#define SOFT_ROWS     1
#define ATTN_CASES(X) X(1)
#include "kernels/vec_body.h"

void nib_scalar_vec(nib_kernels *k) {
    vec_all(k);
}
