/* The AMX instructions that nib uses, and the two ways to multiply many tokens with them. */
#ifndef NIB_KERNELS_X86_AMX_MM_H
#define NIB_KERNELS_X86_AMX_MM_H
#include "kernels/x86_avx512_mm.h"

/* They read and write memory behind the compiler's back, hence "memory". */
#define TILE_LOAD(tile, p, stride)                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(p), "r"((long)(stride)) : "memory")
#define TILE_STORE(tile, p)                                                                        \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(p), "r"(64L) : "memory")
#define TILE_ZERO(tile)   __asm__ volatile("tilezero %%tmm" #tile ::: "memory")
#define TILE_RELEASE()    __asm__ volatile("tilerelease" ::: "memory")
#define TILE_DOT(c, a, b) /* c += a . b, signed bytes */                                           \
    __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define TILE_DOT_U(c, a, b) /* c += a . b, b of unsigned bytes */                                  \
    __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")

typedef struct tile_config {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Blocks of 256 (x86_amx_mm_k.c). */
void nib_amx_mm_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                  void *scratch);
/* FAST (x86_amx_mm_fast.c): the slot of the AMX set. */
void nib_amx_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                         int64_t ldy, void *scratch);
#endif
