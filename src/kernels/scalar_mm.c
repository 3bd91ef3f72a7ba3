/* Matrix products in plain C: the truth that every instruction set is held to, bit for bit. The
 * order of sums and the meaning of each format's scales stand in mm.h; this file is that text as
 * code, and fast only where that is free. */
#include "kernels/lanes_scalar.h"
#define MM_PANELS 1
#include "kernels/mm_body.h"

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

/* 2^(e - 128): the block scale of MXFP4, halved because its table is doubled. */
static float e8m0_half(uint8_t e) {
    return nib_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* scales: of the block that the group lies in, as group j. */
static void decode(nib_dtype t, const mm_format *f, const uint8_t *codes, const uint8_t *scales,
                   int j, group *g) {
    mm_super u = {0};
    mm_super_scales(t, scales, &u);
    for (int r = 0; r < NIB_PANEL; r++) {
        float d = f->n_u16 > 0 ? nib_f16_to_f32(nib_load_u16(scales + 2 * r)) : 0;
        float d2 = f->n_u16 > 1 ? nib_f16_to_f32(nib_load_u16(scales + 2 * NIB_PANEL + 2 * r)) : 0;
        float *s = g->s[r], *m = g->m[r];
        s[0] = d;
        switch (t) {
        case NIB_Q4_1:
        case NIB_Q5_1: m[0] = d2; break;
        case NIB_Q4_K:
        case NIB_Q5_K:
            s[0] = d * u.sc[j][r];
            m[0] = -(d2 * u.min[j][r]);
            break;
        case NIB_Q6_K:
            for (int h = 0; h < 2; h++) s[h] = d * u.sc[2 * j + h][r];
            break;
        case NIB_Q3_K: s[0] = -d; break;
        case NIB_Q2_K:
            for (int h = 0; h < 2; h++) m[h] = -(d2 * u.min[2 * j + h][r]);
            break;
        case NIB_IQ4_XS: s[0] = d * u.sc[j][r]; break;
        case NIB_MXFP4: s[0] = e8m0_half(scales[r]); break;
        default: break;
        }
        for (int k = 0; k < 32; k++) {
            int q = code(f, codes, r, k), sc = u.sc[2 * j + k / 16][r];
            switch (t) {
            case NIB_Q4_0: q -= 8; break;
            case NIB_Q5_0: q -= 16; break;
            case NIB_Q8_0: q -= 128; break;
            case NIB_Q6_K: q -= 32; break;
            case NIB_Q3_K: q = sc * (4 - q); break;
            case NIB_Q2_K: q *= sc; break;
            case NIB_IQ4_NL:
            case NIB_IQ4_XS: q = nib_mm_iq4[q]; break;
            case NIB_MXFP4: q = nib_mm_fp4[q]; break;
            default: break;
            }
            g->w[r][k] = (int16_t)q;
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
    k->matmul = matmul;
}
