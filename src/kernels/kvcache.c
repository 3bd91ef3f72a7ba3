/* The layout of the key/value cache: see kernels.h. */
#include "kernels/internal.h"

size_t nib_kv_head_bytes(nib_kv_type t, int d) {
    if (d <= 0) return 0;
    switch (t) {
    case NIB_KV_F16: return (size_t)NIB_PAGE * (size_t)d * 2;
    case NIB_KV_F32: return (size_t)NIB_PAGE * (size_t)d * 4;
    case NIB_KV_Q8_0: return d % 32 ? 0 : (size_t)NIB_PAGE * (size_t)(d / 32) * 34;
    }
    return 0;
}
