/* What a GGUF value may be, and what a tensor may look like: the rules that reading and writing
 * share. */
#include "formats/internal.h"

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
#define NIB_GGUF_TYPE(NAME, c_type, size, text) {text, size},
#include "formats/gguf_types.def"
#undef NIB_GGUF_TYPE
};

const char *gguf_type_name(uint32_t type) {
    return type < NIB_ARRAY_LEN(types) ? types[type].name : NULL;
}

size_t gguf_type_bytes(uint32_t type) {
    return type < NIB_ARRAY_LEN(types) ? types[type].bytes : 0;
}

bool gguf_type_is_float(nib_gguf_type t) {
    return t == NIB_GGUF_F32 || t == NIB_GGUF_F64;
}

bool gguf_type_is_int(nib_gguf_type t) {
    return gguf_type_bytes(t) && !gguf_type_is_float(t);
}

bool gguf_alignment_ok(int64_t a) {
    return a >= 8 && a <= UINT32_MAX && (a & (a - 1)) == 0;
}

int64_t gguf_load_i64(nib_gguf_type t, const void *p) {
    switch (t) {
#define NIB_GGUF_TYPE(NAME, c_type, size, text)                                                    \
    case NIB_GGUF_##NAME: {                                                                        \
        c_type v;                                                                                  \
        memcpy(&v, p, sizeof v);                                                                   \
        return (int64_t)v;                                                                         \
    }
#include "formats/gguf_types.def"
#undef NIB_GGUF_TYPE
    }
    return 0;
}

nib_status gguf_check_shape(nib_tensor *t, nib_error *e) {
    const nib_dtype_info *d = nib_dtype_get(t->dtype);
    if (!d)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "expected a known number format, found type id %u; this nib cannot read "
                        "the file, or the file is damaged",
                        (unsigned)t->dtype);
    if (t->n_dims < 1 || t->n_dims > NIB_MAX_DIMS)
        return nib_fail(e, NIB_ERR_FORMAT, "expected 1 to %d dimensions, found %d", NIB_MAX_DIMS,
                        t->n_dims);
    size_t count = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->ne[i] < 1)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "expected dimension %d to be from 1 to 2^63-1, found %lld", i,
                            (long long)t->ne[i]);
        if (!nib_mul_size(count, (size_t)t->ne[i], &count) || count > INT64_MAX)
            return nib_fail(
                e, NIB_ERR_FORMAT,
                "expected fewer than 2^63 values, found dimensions %lld x %lld x %lld x "
                "%lld",
                (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2], (long long)t->ne[3]);
    }
    if (t->ne[0] % d->block_len)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected rows of whole %s blocks of %u values, found rows of %lld",
                        d->name, (unsigned)d->block_len, (long long)t->ne[0]);
    size_t bytes = nib_dtype_bytes(t->dtype, (int64_t)count);
    if (!bytes)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected a size below 2^64 bytes, found %zu values of %s", count, d->name);
    t->bytes = bytes;
    return NIB_OK;
}
