/* tensor - number formats and views of arrays.
 *
 * A format ("dtype") is one row of dtypes.def and one file: its block layout, block -> floats and,
 * where it can be written, floats -> block. These are the scalar truth every kernel is held to.
 * GGUF stores a tensor's dimensions fastest first: ne[0] is the length of a row (K), ne[1] the
 * number of rows (N). */
#ifndef NIB_TENSOR_H
#define NIB_TENSOR_H
#include "base/base.h"

typedef enum nib_dtype {
#define NIB_DTYPE(NAME, id, text, prefix, len, bytes, access) NIB_##NAME = id,
#include "tensor/dtypes.def"
#undef NIB_DTYPE
} nib_dtype;

typedef struct nib_dtype_info {
    const char *name;
    uint32_t block_len, block_bytes;
    /* n weights (a multiple of block_len) from whole blocks, which may lie at any address. What the
     * format says, rounded where its own arithmetic rounds. Any thread. */
    void (*to_f32)(const void *src, float *dst, int64_t n);
    /* n weights (a multiple of block_len) into blocks; imatrix: importance of each of the n
     * weights, or NULL. Made small is the sum of importance * (weight - stored)^2. Not finite
     * weights give some valid block: refuse them before. A block's bytes depend on its own weights
     * only, so a tensor may be cut anywhere between blocks. Any thread. NULL where nib cannot
     * write the format. */
    void (*from_f32)(const float *src, void *dst, int64_t n, const float *imatrix);
} nib_dtype_info;

/* NULL for an unknown id. */
const nib_dtype_info *nib_dtype_get(uint32_t id);
/* By name, any case; false when unknown. */
bool nib_dtype_parse(const char *name, nib_dtype *out);
/* Bytes of n weights; 0 when n is no multiple of the block length or the product overflows. */
size_t nib_dtype_bytes(nib_dtype t, int64_t n);

#define NIB_MAX_DIMS 4
/* A view of an array that someone else owns. */
typedef struct nib_tensor {
    const char *name;
    nib_dtype dtype;
    int n_dims;
    int64_t ne[NIB_MAX_DIMS]; /* fastest first; unused ones are 1 */
    const void *data;
    size_t bytes;
} nib_tensor;
int64_t nib_tensor_count(const nib_tensor *t); /* product of ne: checked when the tensor was made */

/* ---- 16-bit floats, exact; from f32 rounds to nearest even ---- */
static inline float nib_bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t nib_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float nib_bf16_to_f32(uint16_t h) {
    return nib_bits_f32((uint32_t)h << 16);
}
static inline uint16_t nib_f32_to_bf16(float f) {
    uint32_t u = nib_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 64); /* quiet NaN */
    return (uint16_t)((u + (0x7fffu + (u >> 16 & 1))) >> 16);
}
static inline float nib_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = h & 0x7fffu;
    /* The exponent's bias goes from 15 to 127, the topmost exponent to the topmost. A subnormal is
     * read as if it had the leading one and loses it again: no subnormal single is ever touched,
     * which processors are slow at. Selects by mask, so that loops over this have no branches. */
    uint32_t is_top = 0u - (mag >= 0x7c00u), is_sub = 0u - (mag < 0x400u);
    uint32_t normal = (mag << 13) + (112u << 23) + (is_top & 112u << 23);
    uint32_t sub = nib_f32_bits(nib_bits_f32((mag << 13) + (113u << 23)) - 0x1p-14f);
    return nib_bits_f32(sign | (normal & ~is_sub) | (sub & is_sub));
}
uint16_t nib_f32_to_f16(float f);
/* Unaligned little-endian loads, for block bytes. */
static inline uint16_t nib_load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t nib_load_u32(const void *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
#endif
