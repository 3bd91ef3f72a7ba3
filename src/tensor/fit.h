/* fit - choosing scales: the search that the quantisers share (fit_search.h).
 *
 * In all of these x are floats (what is not finite gives some valid block), w their importances or
 * NULL (all equal), and the code of x[i] goes to code[i]. What is made small is the sum of w (x -
 * x')^2, x' being what the stored numbers decode to. A scale too large for f16 becomes the largest
 * there is. A block's bytes depend on nothing but its own x and w. Any thread. */
#ifndef NIB_TENSOR_FIT_H
#define NIB_TENSOR_FIT_H
#include "tensor/internal.h"

/* What codes 0 .. n-1 stand for before scaling: first, first + 1, ... or 16 ascending values. */
typedef struct fit_levels {
    int n, first;
    const int8_t *values; /* NULL: evenly spaced */
} fit_levels;

enum {
    FIT_BLOCKS = 16,
    FIT_MAX_LEN = 64
}; /* how many blocks are worth giving at once; the longest */

typedef struct fit_ops {
    /* x' = d * level: a d for each of n_blocks blocks of len. */
    void (*scale)(const fit_levels *lv, int len, const float *x, const float *w, int n_blocks,
                  uint16_t *d, uint8_t *code);
    /* x' = scale * level, each block's scale one of n_try given ones ([n_blocks][n_try]): choice
     * tells which. */
    void (*choose)(const fit_levels *lv, int len, const float *x, const float *w, int n_blocks,
                   int n_try, const float *scale, uint8_t *choice, uint8_t *code);
    /* x' = d * q + m, q < n_levels: d and m for each of n_blocks blocks of 32. */
    void (*affine)(int n_levels, const float *x, const float *w, int n_blocks, uint16_t *d,
                   uint16_t *m, uint8_t *code);
    /* 256 weights in groups of len (16 or 32): x' = d * s * level, s of each group in s_min ..
     * s_max. */
    void (*super_scale)(const fit_levels *lv, int len, int s_min, int s_max, const float *x,
                        const float *w, uint16_t *d, int8_t *s, uint8_t *code);
    /* 256 weights in groups of len (16 or 32): x' = d * s * q - dmin * m, q < n_levels, s and m in
     * 0 .. s_max. */
    void (*super_affine)(int n_levels, int len, int s_max, const float *x, const float *w,
                         uint16_t *d, uint16_t *dmin, uint8_t *s, uint8_t *m, uint8_t *code);
} fit_ops;

/* The fastest set that this machine has; all give the same bytes. */
const fit_ops *nib_fit(void);
extern const fit_ops nib_fit_narrow; /* 4 lanes, any machine */
extern const fit_ops nib_fit_avx2;   /* 8 lanes, x86-64 only */
extern const fit_ops nib_fit_avx512; /* 16 lanes, x86-64 only */

/* v as f16, saturated; what is within a factor of eight of the smallest f16 becomes that rather
 * than 0. */
uint16_t nib_fit_f16(float v);
#endif
