/* Safetensors from bytes: what opens must be readable to its last byte. */
#include <stdlib.h>
#include "formats/formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* keeps the reads */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_error e = {0};
    nib_st *st = NULL;
    if (nib_st_open_memory(&st, data, size, &e) != NIB_OK) {
        if (st || !e.message[0] || strchr(e.message, '\n')) abort();
        return 0;
    }
    for (int64_t i = 0; i < nib_st_n_tensors(st); i++) {
        const nib_st_tensor *t = nib_st_tensor_at(st, i);
        const uint8_t *p = t->data;
        int64_t n = 1;
        if (nib_st_find(st, t->name) != t) abort();
        if (t->bytes && (p < data || p + t->bytes > data + size)) abort();
        for (size_t k = 0; k < t->bytes; k++) sink += p[k];
        for (int d = 0; d < t->n_dims; d++) n *= t->shape[d];
        if (n != t->count) abort();
    }
    nib_st_close(st);
    return 0;
}
