/* The layout of the key/value cache: see kernels.h. */
#include "kernels/internal.h"

size_t nib_kv_head_bytes(nib_kv_type t, int d) {
    if (d <= 0) return 0;
    switch (t) {
    case NIB_KV_I16:
        if (d % 4 || d > NIB_KV_I16_MAX_D) return 0;
        return NIB_KV_I16_HEAD + (size_t)NIB_PAGE * NIB_ROUND_UP((size_t)d, 16) * 2;
    case NIB_KV_F16: return (size_t)NIB_PAGE * (size_t)d * 2;
    case NIB_KV_F32: return (size_t)NIB_PAGE * (size_t)d * 4;
    case NIB_KV_Q8_0: return d % 32 ? 0 : (size_t)NIB_PAGE * (size_t)(d / 32) * 34;
    case NIB_KV_BF16:
        return d > NIB_KV_BF16_MAX_D ? 0 : (size_t)NIB_PAGE * NIB_ROUND_UP((size_t)d, 32) * 2;
    case NIB_KV_AUTO:
    case NIB_KV_N_TYPES: break;
    }
    return 0;
}

size_t nib_attn_scratch(int d, int dv) {
    const size_t k = NIB_ROUND_UP((size_t)d, 64), v = NIB_ROUND_UP((size_t)dv, 64);
    return NIB_ATTN_GROUP * ((NIB_ATTN_ROW + v) * sizeof(float) + k * 2);
}

bool nib_kv_suits_machine(nib_kv_type t) {
    return t != NIB_KV_BF16 || nib_kernels_get()->kv == NIB_KV_BF16;
}

const char *nib_kv_name(nib_kv_type t) {
    static const char *const names[] = {
#define X(T, name) [NIB_KV_##T] = name,
        NIB_KV_TYPES(X)
#undef X
    };
    return names[t];
}
