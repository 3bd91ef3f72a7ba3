/* What the format files share: prototypes and block sizes of every row of dtypes.def, and the bits
 * that two formats have in common. A block is a struct of bytes, so it has no padding and may lie
 * at any address. */
#ifndef NIB_TENSOR_INTERNAL_H
#define NIB_TENSOR_INTERNAL_H
#include "tensor/tensor.h"

#define PROTOTYPE_RO(prefix) void nib_##prefix##_decode(const void *src, float *dst, int64_t n);
#define PROTOTYPE_RW(prefix)                                                                       \
    PROTOTYPE_RO(prefix)                                                                           \
    void nib_##prefix##_encode(const float *src, void *dst, int64_t n, const float *imatrix);
#define NIB_DTYPE(NAME, id, text, prefix, len, bytes, access) PROTOTYPE_##access(prefix)
#include "tensor/dtypes.def"
#undef NIB_DTYPE

enum {
#define NIB_DTYPE(NAME, id, text, prefix, len, bytes, access)                                      \
    NIB_##NAME##_LEN = len, NIB_##NAME##_BYTES = bytes,
#include "tensor/dtypes.def"
#undef NIB_DTYPE
};
/* Holds a file's block struct to its row. */
#define NIB_BLOCK_CHECK(type, NAME)                                                                \
    _Static_assert(sizeof(type) == NIB_##NAME##_BYTES && _Alignof(type) == 1, #NAME " block")

static inline float load_f16(const uint8_t *p) {
    return nib_f16_to_f32(nib_load_u16(p));
}

/* Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit mins in 12 bytes: 0..3 in the low bits of
 * bytes 0..3 and 4..7; the low nibbles of 4..7 in bytes 8..11 (scale low, min high), their top two
 * bits above those of 0..3. */
static inline void k_scale_min(const uint8_t s[12], int j, int *scale, int *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}
static inline void k_pack_scale_min(uint8_t s[12], const uint8_t scale[8], const uint8_t min[8]) {
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
        s[j + 4] = (uint8_t)(min[j] | min[j + 4] >> 4 << 6);
        s[j + 8] = (uint8_t)((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
    }
}
#endif
