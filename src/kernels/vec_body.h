/* The vector kernels but attention, on 16 lanes: each set includes lanes_<isa>.h, vecmath.h and
 * then this. */
#ifndef NIB_KERNELS_VEC_BODY_H
#define NIB_KERNELS_VEC_BODY_H
#include "kernels/vecmath.h"
#include "kernels/attn_parts.h"
#include "kernels/attn_body.h"
#include "kernels/attn_int.h"
#include "kernels/attn_bf16.h"

/* ---- norms and sums ---- */

static float vec_dot(const float *a, const float *b, int64_t n) {
    v16 s = v_set1(0);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) s = v_fma(v_load(a + i), v_load(b + i), s);
    /* lanes past n add 0 * 0, which changes no sum: none is ever -0 */
    if (i < n) s = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), s);
    return v_sum(s);
}

static void vec_rms_norm(const float *x, const float *w, float eps, int64_t n, float *y) {
    float mean = vec_dot(x, x, n) / (float)n;
    v16 f = v_set1(1.0f / sqrtf(mean + eps));
    for (int64_t i = 0; i < n; i += 16) {
        v16 v = v_mul(v_load_n(x + i, n - i), f);
        if (w) v = v_mul(v, v_load_n(w + i, n - i));
        v_store_n(y + i, v, n - i);
    }
}

static void vec_layer_norm(const float *x, const float *w, const float *b, float eps, int64_t n,
                           float *y) {
    v16 s = v_set1(0);
    for (int64_t i = 0; i < n; i += 16) s = v_add(s, v_load_n(x + i, n - i));
    v16 mean = v_set1(v_sum(s) / (float)n);
    v16 ss = v_set1(0);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v = v_sub(v_load(x + i), mean);
        ss = v_fma(v, v, ss);
    }
    if (i < n) {
        /* only the lanes below n: (0 - mean) must not count */
        float rest[16] = {0};
        v_store_n(rest, v_sub(v_load_n(x + i, n - i), mean), n - i);
        v16 v = v_load(rest);
        ss = v_fma(v, v, ss);
    }
    v16 f = v_set1(1.0f / sqrtf(v_sum(ss) / (float)n + eps));
    for (i = 0; i < n; i += 16) {
        v16 v = v_mul(v_sub(v_load_n(x + i, n - i), mean), f);
        if (w) v = v_mul(v, v_load_n(w + i, n - i));
        if (b) v = v_add(v, v_load_n(b + i, n - i));
        v_store_n(y + i, v, n - i);
    }
}

/* ---- element by element ---- */

#define FOR_EACH(p, n, expr)                                                                       \
    for (int64_t i = 0; i < (n); i += 16) {                                                        \
        v16 v = v_load_n((p) + i, (n)-i);                                                          \
        v_store_n((p) + i, (expr), (n)-i);                                                         \
    }

static void vec_add(float *y, const float *x, int64_t n) {
    FOR_EACH(y, n, v_add(v, v_load_n(x + i, n - i)))
}
static void vec_add_scaled(float *y, const float *x, float s, int64_t n) {
    FOR_EACH(y, n, v_fma(v_set1(s), v_load_n(x + i, n - i), v))
}
static void vec_scale(float *y, float s, int64_t n){FOR_EACH(y, n, v_mul(v, v_set1(s)))}
/* y = f(x), times u where there is one. */
#define ACTIVATION(name)                                                                           \
    static void vec_##name(float *y, const float *x, const float *u, int64_t n) {                  \
        for (int64_t i = 0; i < n; i += 16) {                                                      \
            v16 v = v_##name(v_load_n(x + i, n - i));                                              \
            if (u) v = v_mul(v, v_load_n(u + i, n - i));                                           \
            v_store_n(y + i, v, n - i);                                                            \
        }                                                                                          \
    }
ACTIVATION(silu) ACTIVATION(gelu_tanh)
    ACTIVATION(gelu_erf) static void vec_softcap(float *x, float cap, int64_t n) {
    FOR_EACH(x, n, v_softcap(v, cap))
}
static void vec_attn_finish(float *o, float s, int dv) {
    if (s == 0)
        memset(o, 0, (size_t)dv * sizeof *o);
    else
        FOR_EACH(o, dv, v_div(v, v_set1(s)))
}
static void vec_attn_merge(float *ma, float *sa, float *oa, float mb, float sb, const float *ob,
                           int dv) {
    if (mb == -INFINITY) return;
    if (*ma == -INFINITY) {
        *ma = mb, *sa = sb;
        memcpy(oa, ob, (size_t)dv * sizeof *oa);
        return;
    }
    float m = *ma > mb ? *ma : mb;
    float scale[16] = {*ma - m, mb - m};
    v_store(scale, v_exp(v_load(scale)));
    *ma = m;
    *sa = fmaf(sb, scale[1], *sa * scale[0]);
    FOR_EACH(oa, dv, v_fma(v_load_n(ob + i, dv - i), v_set1(scale[1]), v_mul(v, v_set1(scale[0]))))
}

/* ---- the rest ---- */

static int64_t vec_argmax(const float *x, int64_t n) {
    v16 best = v_set1(-INFINITY);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) best = v_max(v_load(x + i), best); /* NaN loses */
    float m = v_max_of(best);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    for (i = 0; i + 16 <= n; i += 16) {
        unsigned hit = v_equal(v_load(x + i), v_set1(m));
        if (hit) return i + __builtin_ctz(hit);
    }
    for (; i < n; i++)
        if (x[i] == m) return i;
    return 0;
}

static void vec_rope(float *x, const float *cs, int n_rot, nib_rope_kind kind) {
    const int half = n_rot / 2;
    if (kind == NIB_ROPE_NONE) return;
    for (int i = 0; i < half; i += 16) {
        /* up to 16 pairs are two loads when they lie side by side, of which the second may be empty
         */
        const int m = half - i, m2 = 2 * m - 16;
        const v16 zero = v_set1(0);
        v16 a, b, c, s;
        v_unzip(v_load_n(cs + 2 * i, 2 * m), m2 > 0 ? v_load_n(cs + 2 * i + 16, m2) : zero, &c, &s);
        if (kind == NIB_ROPE_PAIR)
            v_unzip(v_load_n(x + 2 * i, 2 * m), m2 > 0 ? v_load_n(x + 2 * i + 16, m2) : zero, &a,
                    &b);
        else
            a = v_load_n(x + i, m), b = v_load_n(x + half + i, m);
        v16 ra = v_fma(a, c, v_neg(v_mul(b, s)));
        v16 rb = v_fma(a, s, v_mul(b, c));
        if (kind == NIB_ROPE_PAIR) {
            v_zip(ra, rb, &a, &b);
            v_store_n(x + 2 * i, a, 2 * m);
            if (m2 > 0) v_store_n(x + 2 * i + 16, b, m2);
        } else {
            v_store_n(x + i, ra, m);
            v_store_n(x + half + i, rb, m);
        }
    }
}

/* ---- storing into the cache ---- */

/* 32 floats -> 8 bits each: x ~ d q with d = max|x| / 127 rounded to a half float, q =
 * nearest-even(x / d) within 127. A block that holds NaN, an infinity or more than a half float can
 * scale becomes NaN as a whole: d is not finite and q = 0. */
static uint16_t quantise_block(const float *x, int8_t *q) {
    uint32_t max = 0;
    for (int i = 0; i < 32; i++) {
        /* as integers NaN is above infinity, and the order of comparing does not matter */
        uint32_t u = nib_f32_bits(x[i]) & 0x7fffffffu;
        max = NIB_MAX(max, u);
    }
    uint16_t d = nib_f32_to_f16(nib_bits_f32(max) / 127.0f);
    float df = nib_f16_to_f32(d);
    if (!(df > 0 && df < INFINITY)) {
        memset(q, 0, 32);
        return d;
    }
    v16 inv = v_set1(1.0f / df), hi = v_set1(127.0f), lo = v_set1(-127.0f);
    v_store_i8(q, v_max(lo, v_min(hi, v_mul(v_load(x), inv))));
    v_store_i8(q + 16, v_max(lo, v_min(hi, v_mul(v_load(x + 16), inv))));
    return d;
}

static void store_q8(const float *k, int d, const float *v, int dv, int at, uint8_t *kp,
                     uint8_t *vp) {
    const int lane = at % 16;
    int8_t q[32];
    kp += (size_t)(at / 16) * (size_t)(d / 32) * 544;
    for (int b = 0; b < d / 32; b++, kp += 544) {
        uint16_t s = quantise_block(k + 32 * b, q);
        memcpy(kp + 2 * lane, &s, 2);
        for (int g = 0; g < 8; g++) memcpy(kp + 32 + 64 * g + 4 * lane, q + 4 * g, 4);
    }
    vp += (size_t)at * (size_t)(dv / 32) * 34;
    for (int b = 0; b < dv / 32; b++, vp += 34) {
        uint16_t s = quantise_block(v + 32 * b, q);
        memcpy(vp, &s, 2);
        memcpy(vp + 2, q, 32);
    }
}

static void store_f16(const float *k, int d, const float *v, int dv, int at, uint8_t *kp,
                      uint8_t *vp) {
    uint16_t h[16];
    kp += 2 * ((size_t)(at / 16) * 16 * (size_t)d + (size_t)(at % 16));
    for (int i = 0; i < d; i += 16) {
        v_store_f16(h, v_load_n(k + i, d - i));
        for (int j = 0; j < 16 && i + j < d; j++) memcpy(kp + 32 * (i + j), h + j, 2);
    }
    vp += 2 * (size_t)at * (size_t)dv;
    for (int i = 0; i < dv; i += 16) {
        v_store_f16(h, v_load_n(v + i, dv - i));
        memcpy(vp + 2 * i, h, 2 * (size_t)NIB_MIN(16, dv - i));
    }
}

static void vec_kv_store(nib_kv_type t, const float *k, int d, const float *v, int dv, int at,
                         uint8_t *k_page, uint8_t *v_page) {
    switch (t) {
    case NIB_KV_I16: store_i16(k, d, v, dv, at, k_page, v_page); return;
    case NIB_KV_BF16: nib_bf16_store(k, d, v, dv, at, k_page, v_page); return;
    case NIB_KV_AUTO:
    case NIB_KV_N_TYPES: return;
    case NIB_KV_F16: store_f16(k, d, v, dv, at, k_page, v_page); return;
    case NIB_KV_Q8_0: store_q8(k, d, v, dv, at, k_page, v_page); return;
    case NIB_KV_F32:
        k_page += 4 * ((size_t)(at / 16) * 16 * (size_t)d + (size_t)(at % 16));
        for (int i = 0; i < d; i++) memcpy(k_page + 64 * i, k + i, 4);
        memcpy(v_page + 4 * (size_t)at * (size_t)dv, v, 4 * (size_t)dv);
    }
}

static void vec_attn_query(nib_kv_type t, float *q, int d) {
    if (t == NIB_KV_I16) query_i16(q, d);
    if (t == NIB_KV_BF16) nib_bf16_query(q, d);
}
static void vec_attn(const nib_attn *a) {
    if (a->type == NIB_KV_I16)
        attn_int(a);
    else if (a->type == NIB_KV_BF16)
        nib_bf16_attn(a);
    else
        for (int q0 = 0; q0 < a->n_q; q0 += GROUP) attn_group(a, q0, NIB_MIN(GROUP, a->n_q - q0));
}

/* Fills in every vector slot. */
static void vec_all(nib_kernels *k) {
    k->rms_norm = vec_rms_norm;
    k->layer_norm = vec_layer_norm;
    k->add = vec_add;
    k->add_scaled = vec_add_scaled;
    k->scale = vec_scale;
    k->silu = vec_silu;
    k->gelu_tanh = vec_gelu_tanh;
    k->gelu_erf = vec_gelu_erf;
    k->softcap = vec_softcap;
    k->dot = vec_dot;
    k->rope = vec_rope;
    k->kv_store = vec_kv_store;
    k->kv = NIB_KV_I16;
    k->attn_query = vec_attn_query;
    k->attn = vec_attn;
    k->attn_merge = vec_attn_merge;
    k->attn_finish = vec_attn_finish;
    k->argmax = vec_argmax;
}
#endif
