/* Importance matrices from bytes, of both kinds: what is read is finite and can be read to its end.
 */
#include <math.h>
#include <stdlib.h>
#include "eval/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double sink; /* keeps the reads */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_error e = {0};
    nib_imatrix *im = NULL;
    if (nib_imatrix_read_memory(&im, data, size, &e) != NIB_OK) {
        if (im || !e.message[0] || strchr(e.message, '\n')) abort();
        return 0;
    }
    nib_imatrix_info info = nib_imatrix_get_info(im);
    if (info.n_tensors < 1) abort();
    double sum = (double)strlen(info.dataset);
    for (int64_t i = 0; i < info.n_tensors; i++) {
        const nib_imatrix_tensor *t = nib_imatrix_at(im, i);
        if (nib_imatrix_find(im, t->name) != t) abort();
        for (int64_t k = 0; k < t->n * t->n_mat; k++) {
            if (!(t->sums[k] >= 0 && isfinite(t->means[k]))) abort();
            sum += (double)t->means[k];
        }
    }
    sink += sum;
    nib_imatrix_free(im);
    return 0;
}
