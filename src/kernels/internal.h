/* What the kernel files share among themselves. */
#ifndef NIB_KERNELS_INTERNAL_H
#define NIB_KERNELS_INTERNAL_H
#include "kernels/kernels.h"

/* Of loops of a few steps over arrays that should stay in registers. Not under clang's sanitizers,
 * which take minutes over what is unrolled, and where speed does not matter. */
#if !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 16")
#elif __has_feature(address_sanitizer)
#define UNROLL
#else
#define UNROLL _Pragma("clang loop unroll(full)")
#endif

/* Writes the names of the features found ("avx2 fma f16c ..."), as isa.def spells them. */
void nib_cpu_detect(char *out, size_t n);

/* Each set fills in the slots it has: nib_<prefix>_mm the matrix ones, nib_<prefix>_vec the vector
 * ones. */
#define NIB_ISA(prefix, cpu, flags, needs)                                                         \
    void nib_##prefix##_mm(nib_kernels *k);                                                        \
    void nib_##prefix##_vec(nib_kernels *k);
#include "kernels/isa.def"
#undef NIB_ISA

/* The packing part of the scalar set (scalar_mm_pack.c), and the pack slots. */
void nib_scalar_mm_pack(nib_kernels *k);
void nib_scalar_pack(nib_dtype t, const void *rows, size_t row_bytes, int n_rows, int64_t k,
                     uint8_t *panel);
void nib_avx2_pack(nib_dtype t, const void *rows, size_t row_bytes, int n_rows, int64_t k,
                   uint8_t *panel);
/* Slots of the scalar set (scalar_mm_fast.c). */
void nib_scalar_quantise_fast(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
void nib_scalar_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                            int64_t ldy, void *scratch);
/* Attention of the AVX-512 set, for what AMX leaves to it. */
void nib_avx512_attn(const nib_attn *a);
#endif
