/* The table of number formats, built from dtypes.def, and the few questions asked of it. */
#include <strings.h>
#include "tensor/internal.h"

#define ENCODER_RO(prefix) NULL
#define ENCODER_RW(prefix) nib_##prefix##_encode
static const nib_dtype_info infos[] = {
#define NIB_DTYPE(NAME, id, text, prefix, len, bytes, access)                                      \
    [id] = {text, len, bytes, nib_##prefix##_decode, ENCODER_##access(prefix)},
#include "tensor/dtypes.def"
#undef NIB_DTYPE
};

const nib_dtype_info *nib_dtype_get(uint32_t id) {
    return id < NIB_ARRAY_LEN(infos) && infos[id].name ? &infos[id] : NULL;
}

bool nib_dtype_parse(const char *name, nib_dtype *out) {
    for (uint32_t id = 0; id < NIB_ARRAY_LEN(infos); id++)
        if (infos[id].name && !strcasecmp(infos[id].name, name)) {
            *out = (nib_dtype)id;
            return true;
        }
    return false;
}

size_t nib_dtype_bytes(nib_dtype t, int64_t n) {
    const nib_dtype_info *info = nib_dtype_get((uint32_t)t);
    size_t bytes;
    if (!info || n < 0 || n % info->block_len) return 0;
    return nib_mul_size((size_t)(n / info->block_len), info->block_bytes, &bytes) ? bytes : 0;
}

int64_t nib_tensor_count(const nib_tensor *t) {
    return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
}
