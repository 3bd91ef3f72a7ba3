/* The AMX instructions that nib uses. */
#ifndef NIB_KERNELS_X86_AMX_H
#define NIB_KERNELS_X86_AMX_H
#include "kernels/internal.h"

/* They read and write memory behind the compiler's back, hence "memory". */
#define TILE_LOAD(tile, p, stride)                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(p), "r"((long)(stride)) : "memory")
#define TILE_LOAD_ONCE(tile, p, stride) /* what the first cache need not keep */                   \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile ::"r"(p), "r"((long)(stride))            \
                     : "memor"                                                                     \
                       "y")
#define TILE_STORE_ROWS(tile, p, stride)                                                           \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(p), "r"((long)(stride))          \
                     : "memory")
#define TILE_LOAD_EACH(tile, p) /* the same line for all rows */                                   \
    __asm__ volatile("tileloadd (%0), %%tmm" #tile ::"r"(p) : "memory")
#define TILE_STORE(tile, p) TILE_STORE_ROWS(tile, p, 64)
#define TILE_ZERO(tile)     __asm__ volatile("tilezero %%tmm" #tile ::: "memory")
#define TILE_RELEASE()      __asm__ volatile("tilerelease" ::: "memory")
#define TILE_DOT(c, a, b)   /* c += a . b, signed bytes */                                         \
    __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define TILE_DOT_U(c, a, b) /* c += a . b, b of unsigned bytes */                                  \
    __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define TILE_DOT_BF16(c, a, b) /* c += a . b, pairs of bfloat16, sums of floats */                 \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")

typedef struct tile_config {
    uint8_t palette, start_row, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
#endif
