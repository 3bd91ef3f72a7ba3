/* GGUF from bytes: whatever opens must be readable to its last byte, in every way a caller may read
 * it. */
#include <stdlib.h>
#include "formats/formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* keeps the reads */

static void read_bytes(const void *p, size_t n) {
    const uint8_t *bytes = p;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += bytes[i];
    sink += sum;
}

static void read_key(const nib_gguf *g, const nib_gguf_kv *kv) {
    nib_error e;
    read_bytes(kv->key.p, kv->key.n);
    if (kv->type == NIB_GGUF_STR) read_bytes(kv->str.p, kv->str.n);
    bool strings = kv->type == NIB_GGUF_ARR && kv->arr_type == NIB_GGUF_STR;
    nib_gguf_strs it = strings ? nib_gguf_strs_of(kv) : (nib_gguf_strs){0};
    for (int64_t i = 0; kv->type == NIB_GGUF_ARR && i < kv->arr_n; i++) {
        nib_str one = nib_gguf_strs_next(&it);
        if (strings)
            read_bytes(one.p, one.n);
        else
            sink += (uint64_t)nib_gguf_arr_i64(kv, i) + (nib_gguf_arr_f64(kv, i) > 0);
    }
    char *name = nib_strndup(kv->key.p, kv->key.n);
    if (!name) return;
    int64_t v;
    float f;
    bool yes;
    nib_str s;
    const nib_gguf_kv *arr;
    if (strlen(name) == kv->key.n && nib_gguf_find(g, name) != kv) abort();
    (void)nib_gguf_i64(g, name, -1, 1000, &v, &e);
    (void)nib_gguf_f32(g, name, &f, &e);
    (void)nib_gguf_bool(g, name, &yes, &e);
    (void)nib_gguf_str(g, name, &s, &e);
    (void)nib_gguf_arr(g, name, true, &arr, &e);
    (void)nib_gguf_arr(g, name, false, &arr, &e);
    nib_free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_error e = {0};
    nib_gguf *g = NULL;
    if (nib_gguf_open_memory(&g, data, size, &e) != NIB_OK) {
        if (g || !e.message[0] || strchr(e.message, '\n'))
            abort(); /* one line, and nothing half open */
        return 0;
    }
    for (int64_t i = 0; i < nib_gguf_n_kv(g); i++) read_key(g, nib_gguf_kv_at(g, i));
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        if (nib_gguf_tensor(g, t->name) != t) abort();
        if (nib_dtype_bytes(t->dtype, nib_tensor_count(t)) != t->bytes) abort();
        read_bytes(t->data, t->bytes);
    }
    nib_gguf_close(g);
    return 0;
}
