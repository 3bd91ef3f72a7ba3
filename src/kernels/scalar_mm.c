/* Matrix products in plain C: the truth that every instruction set is held to, bit for bit. The
 * order of sums and the meaning of each format's scales stand in mm.h; this file is that text as
 * code, and fast only where that is free. */
#include "kernels/lanes_scalar.h"
#define MM_PANELS 1
#include "kernels/mm_body.h"
#include "kernels/mm_round_body.h"

/* ---- weights: one block of a panel ---- */

typedef struct block {
    int16_t w[NIB_PANEL][256];        /* with integer scales multiplied in */
    uint8_t min[NIB_PANEL][256 / 16]; /* of 16 columns each, where blocks are of 256 */
    float s[NIB_PANEL], m[NIB_PANEL];
} block;

void nib_mm_codes(const mm_format *f, const uint8_t *from, int r, int16_t w[32]) {
    memset(w, 0, 32 * sizeof *w);
    int up = 0;
    for (int i = 0; i < 2 && f->plane[i].bits; i++) {
        int bits = f->plane[i].bits, per = 8 / bits;
        for (int k = 0; k < 32; k++) {
            int quad = k / 4;
            int c = from[64 * (quad / per) + 4 * r + k % 4] >> bits * (quad % per);
            w[k] = (int16_t)(w[k] | (c & ((1 << bits) - 1)) << up);
        }
        up += bits;
        from += 64 * bits;
    }
}

/* 2^(e - 128): the block scale of MXFP4, halved because its table is doubled. */
static float e8m0_half(uint8_t e) {
    return nib_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* What a code stands for. sc: the integer scale of its columns. */
static int weight(nib_dtype t, int code, int sc) {
    switch (t) {
    case NIB_Q4_0: return code - 8;
    case NIB_Q5_0: return code - 16;
    case NIB_Q8_0: return code - 128;
    case NIB_IQ4_NL: return nib_mm_iq4[code];
    case NIB_MXFP4: return nib_mm_fp4[code];
    case NIB_Q4_K:
    case NIB_Q5_K:
    case NIB_Q2_K: return sc * code;
    case NIB_Q6_K: return sc * (code - 32);
    case NIB_Q3_K: return sc * (4 - code);
    case NIB_IQ4_XS: return sc * nib_mm_iq4[code];
    default: return code;
    }
}

static void decode(nib_dtype t, const mm_format *f, int len, const uint8_t *from,
                   const uint8_t *scales, block *o) {
    mm_super u = {0};
    mm_super_scales(t, scales, &u);
    /* scales and minima belong to 32 columns each, or to 16 */
    int each = t == NIB_Q6_K || t == NIB_Q3_K || t == NIB_Q2_K ? 16 : 32;
    for (int r = 0; r < NIB_PANEL; r++) {
        float d = f->n_u16 > 0 ? nib_f16_to_f32(nib_load_u16(scales + 2 * r)) : 0;
        float d2 = f->n_u16 > 1 ? nib_f16_to_f32(nib_load_u16(scales + 2 * NIB_PANEL + 2 * r)) : 0;
        o->s[r] = t == NIB_MXFP4 ? e8m0_half(scales[r]) : t == NIB_Q3_K ? -d : d;
        o->m[r] = len == 256 ? -d2 : d2;
        for (int g = 0; g < len / 32; g++)
            nib_mm_codes(f, from + (size_t)g * f->code_bytes, r, o->w[r] + 32 * g);
        for (int k = 0; k < len; k++)
            o->w[r][k] = (int16_t)weight(t, o->w[r][k], u.sc[k / each][r]);
        for (int i = 0; i < len / 16; i++) o->min[r][i] = u.min[16 * i / each][r];
    }
}

/* ---- products ---- */

static int32_t dot(const int16_t *w, const int8_t *a, int n) {
    int32_t s = 0;
    for (int i = 0; i < n; i++) s += w[i] * a[i];
    return s;
}

/* One block of 32 columns of one row and one token. at: of the activation's arrays. */
static float step(mm_form form, const block *w, int r, const nib_act *a, int64_t at, float acc) {
    if (form == MM_MIN) acc = fmaf(w->m[r], a->ds[at], acc);
    return fmaf((float)dot(w->w[r], a->q + at * 32, 32), w->s[r] * a->d[at], acc);
}

/* The same of 256 columns; b: which block, t: which token. */
static float step_k(mm_form form, const block *w, int r, const nib_act *a, int64_t b, int64_t t,
                    float acc) {
    int32_t isum = 0, imin = 0;
    for (int i = 0; i < 4; i++)
        isum += dot(w->w[r] + 64 * i, a->kq + ((4 * b + i) * a->n_tok + t) * 64, 64);
    int64_t at = b * a->n_tok + t;
    float v = (float)isum * w->s[r];
    if (form == MM_MIN) {
        for (int i = 0; i < 16; i++) imin += w->min[r][i] * a->ks16[at * 16 + i];
        v = fmaf((float)imin, w->m[r], v);
    }
    return fmaf(v, a->kd[at], acc);
}

static void panel_quant(const nib_mat *w, const mm_format *f, const uint8_t *panel, int n_rows,
                        const nib_act *a, float *y, int64_t ldy) {
    int len = (int)nib_dtype_get(w->dtype)->block_len;
    const uint8_t *scales = panel + (size_t)(w->k / 32) * f->code_bytes;
    for (int64_t b = 0; b < w->k / len; b++) {
        block o;
        decode(w->dtype, f, len, panel + (size_t)(b * len / 32) * f->code_bytes,
               scales + (size_t)b * f->scale_bytes, &o);
        for (int64_t t = 0; t < a->n_tok; t++)
            for (int r = 0; r < n_rows; r++) {
                float *acc = y + t * ldy + r;
                *acc = len == 32 ? step(f->form, &o, r, a, b * a->n_tok + t, *acc)
                                 : step_k(f->form, &o, r, a, b, t, *acc);
            }
    }
}

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    const mm_format *f = nib_mm_format(w->dtype);
    if (!f) {
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
        return;
    }
    for (int64_t p = p0; p < p1; p++) {
        int n_rows = nib_mm_rows(w, p);
        float *out = y + p * NIB_PANEL;
        for (int64_t t = 0; t < a->n_tok; t++)
            memset(out + t * ldy, 0, sizeof(float) * (size_t)n_rows);
        panel_quant(w, f, nib_mm_panel(w, p, scratch), n_rows, a, out, ldy);
    }
}

void nib_scalar_mm(nib_kernels *k) {
    nib_scalar_mm_pack(k);
    k->quantise = quantise;
    k->quantise_k = quantise_k;
    k->quantise_fast = nib_scalar_quantise_fast;
    k->matmul = matmul;
    k->matmul_fast = nib_scalar_matmul_fast;
}
