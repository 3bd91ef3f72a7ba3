/* clang-format off */
/* What the matrix kernels (scalar_mm*.c, x86_*_mm*.c, arm_neon_mm*.c) share: the packed layout and
 * the order of sums.
 *
 * P16, quantised. A panel is 16 rows: first the codes of all K columns, then the scales.
 *   codes   [K/32] groups, each the format's planes one after the other. A plane of b bits has b
 *           lines of 64 bytes; a line holds 8/b column quads (k/4) from the low bits up, at byte
 *           4*row + k%4. So "line & mask" and "line >> b & mask" are operands [16 rows][4 k] as the
 *           dot-product instructions take them. Q8_0 has 128 added, so its bytes are unsigned.
 *   scales  [K/block] times: the 16-bit fields, each [16 rows], then the scale bytes, each
 *           [16 rows], in file order.
 * Nothing but a permutation of the file's bits: a panel takes the bytes of its 16 rows, and
 * unpacking is exact. P16, float (F32, F16, BF16): [K][16 rows].
 *
 * The value of an output, for one row and one token, is the same sequence everywhere. Float formats:
 *   acc = 0;  for k ascending: acc = fmaf(w[k], x[k], acc)
 * Formats of blocks of 32, for each block ascending, isum the exact integer sum of the 32 products
 * of weights w and activations q:
 *   PLAIN  acc = fmaf(isum, s * d, acc)
 *   MIN    acc = fmaf(m, ds, acc), then as PLAIN
 * where d, ds belong to the activation (nib_act), s and m to the weights:
 *   Q4_0 Q5_0 Q8_0 IQ4_NL  s = d            w = code - 8, - 16, - 128, level
 *   MXFP4                  s = 2^(e - 128)  w = level, doubled
 *   Q4_1 Q5_1              s = d, m = m     w = code
 * Formats of blocks of 256, for each block ascending, isum the exact sum of all 256 products of
 * w and q, where w takes in the block's integer scales; imin the exact sum of minima times sums of
 * the q they stand for. Both fit 32 bits (at most 134 million) and are rounded once, to floats:
 *   PLAIN  v = isum * s;  acc = fmaf(v, d, acc)
 *   MIN    v = isum * s;  v = fmaf(imin, m, v);  acc = fmaf(v, d, acc)
 *   Q4_K Q5_K  s = d, m = -dmin  w = sc*code, 0..1953        sc, min per 32 columns
 *   Q2_K       s = d, m = -dmin  w = sc*code, 0..45          sc, min per 16
 *   Q6_K       s = d             w = sc*(code - 32)          sc per 16
 *   Q3_K       s = -d            w = (sc - 32)*(4 - code), -128..124   sc per 16
 *   IQ4_XS     s = d             w = (sc - 32)*level         sc per 32
 *
 * FAST (opt-in). A group of up to 256 columns (kernels.h) of a row has one scale S, and its weights
 * are rounded to whole w8, |w8| <= 127. For each group ascending, isum the exact sum of w8 and q:
 *   v = isum * S;  acc = fmaf(v, d, acc)
 * A weight of the group is scale[j] * (code - excess) + min[j] for a part j of 32 or 16 columns,
 * all floats (integer scales times d are exact); cmax is the largest |code - excess|, or code.
 *   bound = max over j of |scale[j]| * cmax;  with minima of |min[j]| and |fmaf(scale[j], cmax,
 *           min[j])|: the largest weight that codes could stand for
 *   S = bound / 127, NaN when any scale or minimum is no number
 *   r(x) = x * (127 * U / bound), held to -32768..32767, then rounded to nearest even
 * Codes of up to 6 bits, U = 256:  w8 = (code * r(scale[j]) + c) >> 8, modulo 2^16 before the shift,
 *                                  c = r(min[j]) + 128 - excess * r(scale[j])
 * Values of 8 bits (Q8_0, IQ4), U = 32768:  w8 = (value * r(scale[j]) + 2^14) >> 15, where Q8_0's
 *                                  -128 counts as -127 */
/* clang-format on */
#ifndef NIB_KERNELS_MM_H
#define NIB_KERNELS_MM_H
#include "kernels/internal.h"

#define INLINE static inline __attribute__((always_inline))

typedef enum mm_form { MM_PLAIN, MM_MIN } mm_form;

typedef struct mm_plane {
    uint8_t bits, at, run;
} mm_plane;

typedef struct mm_format {
    bool known;
    mm_form form;
    uint8_t n_u16, u16_at, n_u8, u8_at;
    mm_plane plane[2];
    size_t code_bytes;  /* of 32 columns of a panel */
    size_t scale_bytes; /* of a block of a panel */
} mm_format;

/* NULL where a format has no packed form, or is a float format. */
const mm_format *nib_mm_format(nib_dtype t);

/* The values of the 16 codes of IQ4_NL and IQ4_XS, and of MXFP4 (doubled). */
extern const int8_t nib_mm_iq4[16], nib_mm_fp4[16];

/* Formats without a packed form are expanded to floats so many columns at a time: a multiple of
 * every block length. */
enum { MM_EXPAND_K = 256 };
/* Scratch of a matmul: a whole panel as floats, then this many bytes of working space, then sums:
 * 16 floats for each of MM_PANELS_MOST panels and each token, tokens rounded up to 32. */
enum { MM_SCRATCH = 144 * 1024, MM_PANELS_MOST = 4 };

/* A panel as matmul wants it: packed already, or packed now into scratch (16 * K floats' worth of
 * bytes). */
const uint8_t *nib_mm_panel(const nib_mat *w, int64_t p, void *scratch);
/* The working space behind it: MM_SCRATCH bytes, 64-byte aligned. */
static inline void *nib_mm_work(const nib_mat *w, void *scratch) {
    uintptr_t at = (uintptr_t)scratch + NIB_PANEL * sizeof(float) * (size_t)w->k;
    return (void *)NIB_ROUND_UP(at, (uintptr_t)64);
}
/* And the sums behind that, 64-byte aligned. */
static inline float *nib_mm_sums(const nib_mat *w, void *scratch) {
    return (float *)((char *)nib_mm_work(w, scratch) + MM_SCRATCH);
}
/* Columns [k0, k0+n) of a panel of a matrix that is not packed, as floats [n][16], missing rows as
 * zeros. n <= MM_EXPAND_K, k0 a multiple of it. */
void nib_mm_expand_f32(const nib_mat *w, int64_t p, int64_t k0, int n, float *out);

/* What follows from a block's scale and its sum; at: block * n_tok + token. */
static inline void nib_mm_act_sums(nib_act *a, int64_t at, float d, int32_t sum) {
    a->d[at] = d;
    a->ds[at] = d * (float)sum;
    a->bias[at] = -128 * sum;
}

/* The codes of 32 columns of row r of a panel (scalar_mm.c). */
void nib_mm_codes(const mm_format *f, const uint8_t *from, int r, int16_t w[32]);

/* Rows of w in panel p: 16, or fewer in the last. */
static inline int nib_mm_rows(const nib_mat *w, int64_t p) {
    return (int)NIB_MIN(NIB_PANEL, w->n - p * NIB_PANEL);
}

/* ---- walking over packed panels (mat.c) ----
 * Panels take turns, a few groups of columns each, so that several streams of memory are open; the
 * sums of a block of tokens lie between the turns in acc. */
typedef struct mm_turn {
    const uint8_t *codes, *scales; /* of group g0, and of the block it starts */
    const nib_act *a;
    int64_t t0; /* the first token */
    int nt;
    int64_t g0, g1; /* groups of the row */
    float *acc;     /* [nt][16], 64-byte aligned */
} mm_turn;
enum { MM_STREAMS = 4 };
/* The product of a quantised matrix; turn does the arithmetic. most: tokens a block, at most 64. */
void nib_mm_walk(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                 void *scratch, int most, void (*turn)(const mm_turn *o));

/* ---- asking memory ----
 * With many tokens a piece of weights is expanded, and all tokens pass over it. The processor looks
 * ahead far less than that, so memory is asked for the next piece meanwhile, a few lines at a time:
 * all at once they would be in the way of what else is read. Inline, for a kernel's caller must not
 * run instructions of older sets: SSE beside full registers stops the processor for 140 ns. */
typedef struct mm_ask {
    const nib_mat *w;
    int64_t p1, together; /* the last panel and one; panels that are expanded together */
    int64_t k0, k1;       /* columns that are gone through before the next panels */
    int64_t calls;        /* of mm_ask_some, from a piece to the next */
    /* what is asked for: bytes, of each panel */
    const uint8_t *codes, *scales;
    size_t n_codes, n_scales, at, each;
    int64_t n_panels;
} mm_ask;
/* From now on n columns from k on of the panels from p on, or, past the last column, those of the
 * panels that come next. */
static inline void mm_ask_for(mm_ask *o, int64_t p, int64_t k, int64_t n) {
    const nib_mat *w = o->w;
    const mm_format *f = nib_mm_format(w->dtype);
    int64_t len = nib_dtype_get(w->dtype)->block_len;
    if (k >= o->k1) {
        k += o->k0 - o->k1;
        p += o->together;
    }
    n = NIB_MIN(n, o->k1 - k) / len;
    o->n_panels = w->packed && n > 0 ? NIB_MIN(o->together, o->p1 - p) : 0;
    o->at = o->n_codes = o->n_scales = 0;
    if (o->n_panels <= 0) return;
    const uint8_t *panel = w->data + (size_t)p * w->stride;
    o->codes = panel + (size_t)(k / 32) * f->code_bytes;
    o->scales = panel + (size_t)(w->k / 32) * f->code_bytes + (size_t)(k / len) * f->scale_bytes;
    o->n_codes = (size_t)(n * len / 32) * f->code_bytes;
    o->n_scales = (size_t)n * f->scale_bytes;
    o->each = NIB_ROUND_UP((o->n_codes + o->n_scales) / (size_t)o->calls + 1, (size_t)64);
}
static inline void mm_ask_some(mm_ask *o) {
    size_t end = NIB_MIN(o->at + o->each, o->n_codes + o->n_scales);
    for (; o->at < end; o->at += 64) {
        const uint8_t *line =
            o->at < o->n_codes ? o->codes + o->at : o->scales + (o->at - o->n_codes);
        for (int64_t r = 0; r < o->n_panels; r++, line += o->w->stride)
            __builtin_prefetch(line, 0, 2); /* into the second cache: the first is full */
    }
}

/* The bytes of a block's scales made plain, [group or half group][16 rows]: for the K formats and
 * IQ4_XS. Q3_K and IQ4_XS with 32 taken off. p: the block's scales. */
typedef struct mm_super {
    int8_t sc[16][NIB_PANEL];
    uint8_t min[16][NIB_PANEL];
} mm_super;
INLINE void mm_super_scales(nib_dtype t, const uint8_t *p, mm_super *o) {
    const uint8_t(*b)[NIB_PANEL] = (const uint8_t(*)[NIB_PANEL])(p + 2 * NIB_PANEL);
    switch (t) {
    case NIB_Q4_K:
    case NIB_Q5_K:
        b += 2; /* behind a second 16-bit field */
        for (int j = 0; j < 4; j++)
            for (int r = 0; r < NIB_PANEL; r++) {
                o->sc[j][r] = (int8_t)(b[j][r] & 63);
                o->min[j][r] = b[j + 4][r] & 63;
                o->sc[j + 4][r] = (int8_t)((b[j + 8][r] & 15) | b[j][r] >> 6 << 4);
                o->min[j + 4][r] = (uint8_t)(b[j + 8][r] >> 4 | b[j + 4][r] >> 6 << 4);
            }
        return;
    case NIB_Q6_K: memcpy(o->sc, b, sizeof o->sc); return;
    case NIB_Q3_K:
        for (int j = 0; j < 16; j++)
            for (int r = 0; r < NIB_PANEL; r++) {
                int low = b[j % 8][r] >> (j < 8 ? 0 : 4) & 15,
                    high = b[8 + j % 4][r] >> 2 * (j / 4);
                o->sc[j][r] = (int8_t)((low | (high & 3) << 4) - 32);
            }
        return;
    case NIB_Q2_K:
        b += 2;
        for (int j = 0; j < 16; j++)
            for (int r = 0; r < NIB_PANEL; r++) {
                o->sc[j][r] = (int8_t)(b[j][r] & 15);
                o->min[j][r] = b[j][r] >> 4;
            }
        return;
    case NIB_IQ4_XS:
        for (int j = 0; j < 8; j++)
            for (int r = 0; r < NIB_PANEL; r++) {
                int high = nib_load_u16(p + 2 * NIB_PANEL + 2 * r) >> 2 * j & 3;
                int low = b[2 + j / 2][r] >> 4 * (j % 2) & 15;
                o->sc[j][r] = (int8_t)((low | high << 4) - 32);
            }
        return;
    default: return;
    }
}
#endif
