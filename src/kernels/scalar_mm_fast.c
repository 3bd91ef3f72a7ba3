/* FAST products (mm.h) in plain C: the truth for those sets that have them. */
#include <float.h>
#include "kernels/lanes_scalar.h"
#include "kernels/mm_fast_body.h"

static float tame(float x) {
    return x != x ? 0 : x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

void nib_scalar_quantise_fast(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t t = t0; t < t1; t++)
        for (int64_t g = 0; g < nib_fast_groups(a->k); g++) {
            int64_t from = nib_fast_group(a->k, g) * 64, to = nib_fast_group(a->k, g + 1) * 64;
            const float *src = x + t * ldx;
            float max = 0;
            int32_t sum = 0;
            for (int64_t k = from; k < to; k++) max = fmaxf(max, fabsf(tame(src[k])));
            bool some = max >= 0x1p-100f; /* below, 127 / max would overflow or lose bits */
            float inverse = some ? 127 / max : 0;
            for (int64_t k = from; k < to; k++) {
                float whole = tame(src[k]) * inverse + 0x1.8p23f - 0x1.8p23f; /* nearest even */
                a->kq[(k / 64 * a->n_tok + t) * 64 + k % 64] = (int8_t)whole;
                sum += (int32_t)whole;
            }
            a->kd[g * a->n_tok + t] = some ? max / 127 : 0;
            a->kbias[g * a->n_tok + t] = -128 * sum;
        }
}

/* Scales and minima of a group that starts at block b, n blocks of a panel's scales. */
static void read_scales(nib_dtype t, const mm_format *f, fast_format ff, const uint8_t *p, int n,
                        fast_scales *o) {
    bool super = nib_dtype_get(t)->block_len == 256;
    mm_super u;
    if (super) mm_super_scales(t, p, &u);
    for (int j = 0; j < n; j++)
        for (int r = 0; r < NIB_PANEL; r++) {
            const uint8_t *at = p + (super ? 0 : (size_t)j * f->scale_bytes) + 2 * r;
            float d = nib_f16_to_f32(nib_load_u16(at));
            o->mul[j][r] = super ? d * u.sc[j][r] : d;
            if (!ff.min) continue;
            float m = nib_f16_to_f32(nib_load_u16(at + 2 * NIB_PANEL));
            o->add[j][r] = super ? -m * u.min[j][r] : m;
        }
}

static int8_t round_weight(nib_dtype t, fast_format f, int code, float mul, float add) {
    if (!f.wide) {
        uint16_t v = (uint16_t)(code * (int32_t)mul + (int32_t)add);
        return (int8_t)(v >> 8);
    }
    int value = t == NIB_Q8_0 ? NIB_MAX(code - 128, -127) : nib_mm_iq4[code];
    return (int8_t)((value * (int32_t)mul + (1 << 14)) >> 15);
}

void nib_scalar_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                            int64_t ldy, void *scratch) {
    const mm_format *f = nib_mm_format(w->dtype);
    const fast_format ff = fast_format_of(w->dtype);
    int64_t block = nib_dtype_get(w->dtype)->block_len;
    for (int64_t p = p0; p < p1; p++) {
        const uint8_t *panel = nib_mm_panel(w, p, scratch);
        const uint8_t *scales = panel + (size_t)(w->k / 32) * f->code_bytes;
        int n_rows = nib_mm_rows(w, p);
        for (int64_t g = 0; g < nib_fast_groups(w->k); g++) {
            int64_t from = nib_fast_group(w->k, g), to = nib_fast_group(w->k, g + 1);
            int n = (int)(to - from) * 64;
            int8_t w8[NIB_PANEL][256];
            fast_scales s;
            read_scales(w->dtype, f, ff, scales + (size_t)(from * 64 / block) * f->scale_bytes,
                        n / ff.part, &s);
            fast_requantise(ff, n / ff.part, &s);
            for (int r = 0; r < n_rows; r++)
                for (int k = 0; k < n; k += 32) {
                    int16_t code[32];
                    nib_mm_codes(f, panel + (size_t)(2 * from + k / 32) * f->code_bytes, r, code);
                    for (int i = 0; i < 32; i++) {
                        int j = (k + i) / ff.part;
                        w8[r][k + i] = round_weight(w->dtype, ff, code[i], s.mul[j][r],
                                                    ff.wide ? 0 : s.add[j][r]);
                    }
                }
            for (int64_t t = 0; t < a->n_tok; t++)
                for (int r = 0; r < n_rows; r++) {
                    int32_t isum = 0;
                    for (int k = 0; k < n; k++)
                        isum += w8[r][k] * a->kq[((from + k / 64) * a->n_tok + t) * 64 + k % 64];
                    float *acc = y + t * ldy + p * NIB_PANEL + r, v = (float)isum * s.s[r];
                    *acc = fmaf(v, a->kd[g * a->n_tok + t], g ? *acc : 0);
                }
        }
    }
}
