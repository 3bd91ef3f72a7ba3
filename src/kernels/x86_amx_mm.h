/* The ways to multiply many tokens with AMX. */
#ifndef NIB_KERNELS_X86_AMX_MM_H
#define NIB_KERNELS_X86_AMX_MM_H
#include "kernels/x86_amx.h"
#include "kernels/x86_avx512_mm.h"

/* Blocks of 256 (x86_amx_mm_k.c). */
void nib_amx_mm_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                  void *scratch);
/* FAST (x86_amx_mm_fast.c): the slot of the AMX set. */
void nib_amx_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                         int64_t ldy, void *scratch);
#endif
