/* What the two files of importance matrices share. */
#ifndef NIB_EVAL_IMATRIX_H
#define NIB_EVAL_IMATRIX_H
#include "eval/eval.h"

struct nib_imatrix {
    nib_arena arena; /* names, numbers, the dataset's name */
    nib_imatrix_tensor *tensors;
    size_t n, cap;
    nib_strmap index;
    nib_imatrix_info info;
};

nib_imatrix *nib_imatrix_make(void); /* NULL when out of memory */
/* Adds a tensor, whose sums and counts are copied from bytes at any address. Checks every number;
 * a name may come once. */
nib_status nib_imatrix_add(nib_imatrix *im, nib_str name, int64_t n, int64_t n_mat,
                           const void *sums, const void *counts, nib_error *e);
/* The last step: sorts, makes the index. */
nib_status nib_imatrix_finish(nib_imatrix *im, nib_error *e);
#endif
