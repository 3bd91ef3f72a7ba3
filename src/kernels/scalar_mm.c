/* Matrix products in plain C: the truth that every instruction set is held to, bit for bit. The
 * order of sums and the meaning of each format's scales stand in mm.h; this file is that text as
 * code, and fast only where that is free. */
#include <float.h>
#include <math.h>
#include "kernels/mm.h"
#include "kernels/internal.h"

/* ---- activations ---- */

static float tame(float x) {
    if (x != x) return 0;
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

static void quantise(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t t = t0; t < t1; t++) {
        for (int64_t b = 0; b < a->k / 32; b++) {
            const float *src = x + t * ldx + b * 32;
            float max = 0;
            for (int i = 0; i < 32; i++) max = fmaxf(max, fabsf(tame(src[i])));
            bool some = max >= 0x1p-100f; /* below, 127 / max would overflow or lose bits */
            float d = some ? max / 127 : 0, inverse = some ? 127 / max : 0;
            int64_t at = b * a->n_tok + t;
            int32_t sum[2] = {0, 0};
            for (int i = 0; i < 32; i++) {
                int q = (int)lrintf(tame(src[i]) * inverse);
                a->q[at * 32 + i] = (int8_t)q;
                sum[i / 16] += q;
            }
            nib_mm_act_sums(a, at, d, sum);
        }
    }
}

/* ---- weights: one group of 32 columns of a panel ---- */

typedef struct group {
    int16_t w[NIB_PANEL][32];
    float s[NIB_PANEL][2]; /* one scale, or one for each half */
    float m[NIB_PANEL][2]; /* what stands before ds or dh */
} group;

static int code(const mm_format *f, const uint8_t *codes, int r, int k) {
    int v = 0, up = 0;
    for (int i = 0; i < 2 && f->plane[i].bits; i++) {
        int bits = f->plane[i].bits, per = 8 / bits, quad = k / 4;
        int c = codes[64 * (quad / per) + 4 * r + k % 4] >> bits * (quad % per);
        v |= (c & ((1 << bits) - 1)) << up;
        up += bits;
        codes += 64 * bits;
    }
    return v;
}

/* The 6-bit scales and minima of Q4_K and Q5_K; s: scale bytes of a block, [12][16 rows]. */
static int sc6(const uint8_t *s, int r, int j) {
    if (j < 4) return s[16 * j + r] & 63;
    return (s[16 * (j + 4) + r] & 15) | s[16 * (j - 4) + r] >> 6 << 4;
}
static int min6(const uint8_t *s, int r, int j) {
    if (j < 4) return s[16 * (j + 4) + r] & 63;
    return s[16 * (j + 4) + r] >> 4 | s[16 * j + r] >> 6 << 4;
}
/* The 6-bit scales of Q3_K, less 32. */
static int sc3(const uint8_t *s, int r, int j) {
    int low = s[16 * (j % 8) + r] >> (j < 8 ? 0 : 4) & 15;
    return (low | (s[16 * (8 + j % 4) + r] >> 2 * (j / 4) & 3) << 4) - 32;
}

/* 2^(e - 128): the block scale of MXFP4, halved because its table is doubled. */
static float e8m0_half(uint8_t e) {
    return nib_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* scales: of the block that group b lies in. */
static void decode(nib_dtype t, const mm_format *f, const uint8_t *codes, const uint8_t *scales,
                   int j, group *g) {
    const uint8_t *u8 = scales + 2 * NIB_PANEL * f->n_u16;
    for (int r = 0; r < NIB_PANEL; r++) {
        int q[32];
        for (int k = 0; k < 32; k++) q[k] = code(f, codes, r, k);
        float d = f->n_u16 > 0 ? nib_f16_to_f32(nib_load_u16(scales + 2 * r)) : 0;
        float d2 = f->n_u16 > 1 ? nib_f16_to_f32(nib_load_u16(scales + 2 * NIB_PANEL + 2 * r)) : 0;
        float *s = g->s[r], *m = g->m[r];
        int16_t *w = g->w[r];
        s[0] = d;
        switch (t) {
        case NIB_Q4_0:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)(q[k] - 8);
            break;
        case NIB_Q5_0:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)(q[k] - 16);
            break;
        case NIB_Q8_0:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)(q[k] - 128);
            break;
        case NIB_Q4_1:
        case NIB_Q5_1:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)q[k];
            m[0] = d2;
            break;
        case NIB_Q4_K:
        case NIB_Q5_K:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)q[k];
            s[0] = d * (float)sc6(u8, r, j);
            m[0] = -(d2 * (float)min6(u8, r, j));
            break;
        case NIB_Q6_K:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)(q[k] - 32);
            for (int h = 0; h < 2; h++) s[h] = d * (float)(int8_t)u8[16 * (2 * j + h) + r];
            break;
        case NIB_Q3_K:
            for (int k = 0; k < 32; k++) w[k] = (int16_t)(sc3(u8, r, 2 * j + k / 16) * (4 - q[k]));
            s[0] = -d;
            break;
        case NIB_Q2_K:
            for (int k = 0; k < 32; k++)
                w[k] = (int16_t)((u8[16 * (2 * j + k / 16) + r] & 15) * q[k]);
            for (int h = 0; h < 2; h++) m[h] = -(d2 * (float)(u8[16 * (2 * j + h) + r] >> 4));
            break;
        case NIB_IQ4_NL:
            for (int k = 0; k < 32; k++) w[k] = nib_mm_iq4[q[k]];
            break;
        case NIB_IQ4_XS: {
            /* the second 16-bit field holds the scales' upper bits, two a group */
            int hi = nib_load_u16(scales + 2 * NIB_PANEL + 2 * r) >> 2 * j & 3;
            int lo = u8[16 * (j / 2) + r] >> 4 * (j % 2) & 15;
            for (int k = 0; k < 32; k++) w[k] = nib_mm_iq4[q[k]];
            s[0] = d * (float)((lo | hi << 4) - 32);
            break;
        }
        default: /* MXFP4 */
            for (int k = 0; k < 32; k++) w[k] = nib_mm_fp4[q[k]];
            s[0] = e8m0_half(u8[r]);
            break;
        }
    }
}

/* ---- products ---- */

static int32_t dot(const int16_t *w, const int8_t *a, int n) {
    int32_t s = 0;
    for (int i = 0; i < n; i++) s += w[i] * a[i];
    return s;
}

/* One group of one row and one token. at: of the activation's arrays. */
static float step(mm_form form, const group *g, int r, const nib_act *a, int64_t at, float acc) {
    const int16_t *w = g->w[r];
    const float *s = g->s[r], *m = g->m[r];
    const int8_t *q = a->q + at * 32;
    float d = a->d[at];
    if (form == MM_HALF) {
        float t = (float)dot(w, q, 16) * s[0];
        t = fmaf((float)dot(w + 16, q + 16, 16), s[1], t);
        return fmaf(t, d, acc);
    }
    if (form == MM_MIN) acc = fmaf(m[0], a->ds[at], acc);
    if (form == MM_MIN16) {
        acc = fmaf(m[0], a->dh[2 * at], acc);
        acc = fmaf(m[1], a->dh[2 * at + 1], acc);
    }
    return fmaf((float)dot(w, q, 32), s[0] * d, acc);
}

static void panel_quant(const nib_mat *w, const mm_format *f, const uint8_t *panel, int n_rows,
                        const nib_act *a, float *y, int64_t ldy) {
    int groups = (int)nib_dtype_get(w->dtype)->block_len / 32; /* a block */
    const uint8_t *scales = panel + (size_t)(w->k / 32) * f->code_bytes;
    for (int64_t b = 0; b < w->k / 32; b++) {
        group g;
        decode(w->dtype, f, panel + (size_t)b * f->code_bytes,
               scales + (size_t)(b / groups) * f->scale_bytes, (int)(b % groups), &g);
        for (int64_t t = 0; t < a->n_tok; t++)
            for (int r = 0; r < n_rows; r++)
                y[t * ldy + r] = step(f->form, &g, r, a, b * a->n_tok + t, y[t * ldy + r]);
    }
}

/* Columns [k0, k0+n) of a panel of floats [n][16]. */
static void panel_f32(const float *w, int64_t k0, int64_t n, int n_rows, const nib_act *a, float *y,
                      int64_t ldy) {
    for (int64_t t = 0; t < a->n_tok; t++) {
        const float *x = a->x + t * a->ldx + k0;
        for (int r = 0; r < n_rows; r++) {
            float acc = y[t * ldy + r];
            for (int64_t k = 0; k < n; k++) acc = fmaf(w[k * NIB_PANEL + r], x[k], acc);
            y[t * ldy + r] = acc;
        }
    }
}

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    const mm_format *f = nib_mm_format(w->dtype);
    float floats[MM_EXPAND_K * NIB_PANEL];
    for (int64_t p = p0; p < p1; p++) {
        int n_rows = nib_mm_rows(w, p);
        float *out = y + p * NIB_PANEL;
        for (int64_t t = 0; t < a->n_tok; t++)
            for (int r = 0; r < n_rows; r++) out[t * ldy + r] = 0;
        if (f) {
            panel_quant(w, f, nib_mm_panel(w, p, scratch), n_rows, a, out, ldy);
            continue;
        }
        size_t size = nib_dtype_get(w->dtype)->block_bytes;
        for (int64_t k0 = 0; k0 < w->k; k0 += MM_EXPAND_K) {
            int n = (int)NIB_MIN(MM_EXPAND_K, w->k - k0);
            if (w->packed)
                nib_dtype_get(w->dtype)->to_f32(w->data + (size_t)p * w->stride +
                                                    size * NIB_PANEL * (size_t)k0,
                                                floats, (int64_t)n * NIB_PANEL);
            else
                nib_mm_expand_f32(w, p, k0, n, floats);
            panel_f32(floats, k0, n, n_rows, a, out, ldy);
        }
    }
}

void nib_scalar_mm(nib_kernels *k) {
    nib_scalar_mm_pack(k);
    k->quantise = quantise;
    k->matmul = matmul;
}
