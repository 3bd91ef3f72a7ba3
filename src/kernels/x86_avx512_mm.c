/* Matrix products with AVX-512 and VNNI: the choice between the ways to compute one, and the
 * activations.
 *
 * Few tokens (x86_avx512_mm_few.c): weights are read once and used straight from the packed panel;
 * memory is the limit, and four panels are walked at a time because one stream does not fill it.
 * Many (x86_avx512_mm_many.c, and ..._k.c for blocks of 256): a piece of two panels is expanded to
 * bytes in the first cache and all tokens pass over it in register tiles. Both follow the order of
 * sums in mm.h, so where one ends and the other begins is a matter of speed alone. */
#include "kernels/lanes_avx512.h"
#define MM_PANELS 4
#include "kernels/mm_body.h"
#include "kernels/x86_avx512_mm.h"

void nib_avx512_matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    if (!nib_mm_format(w->dtype))
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
    else if (a->n_tok <= AVX512_FEW)
        nib_avx512_mm_few(w, a, p0, p1, y, ldy, scratch);
    else if (nib_mat_act(w->dtype) == NIB_ACT_Q8K)
        nib_avx512_mm_many_k(w, a, p0, p1, y, ldy, scratch);
    else
        nib_avx512_mm_many(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_avx512_mm(nib_kernels *k) {
    k->quantise = quantise;
    k->quantise_k = quantise_k;
    k->quantise_fast = nib_avx512_quantise_fast;
    k->matmul = nib_avx512_matmul;
    k->matmul_fast = nib_avx512_matmul_fast;
}
