/* What every way of attention needs: what a query sees of a chunk, the softmax over integer scores,
 * and how a chunk joins those before it. Included after a lanes_<isa>.h and vecmath.h. */
#ifndef NIB_KERNELS_ATTN_PARTS_H
#define NIB_KERNELS_ATTN_PARTS_H

enum { CHUNK = NIB_ATTN_CHUNK /* floats between rows of scores */ };

typedef struct span {
    int lo, hi; /* positions within the chunk; empty when hi <= lo */
} span;

LANE span query_span(const nib_attn *a, int i) {
    int64_t lo = a->lo[i] - a->pos0, hi = a->hi[i] - a->pos0;
    return (span){(int)NIB_MIN(NIB_MAX(lo, 0), CHUNK), (int)NIB_MAX(NIB_MIN(hi, CHUNK), 0)};
}

/* Both, and what lies between. */
LANE span join(span a, span b) {
    if (b.lo >= b.hi) return a;
    return (span){NIB_MIN(a.lo, b.lo), NIB_MAX(a.hi, b.hi)};
}

/* ---- joining what came before ---- */

/* Up to 16 queries: a chunk's output counts 'unit' times as integers, and its floats 'now' times
 * beside 'before' times what earlier chunks gave. */
typedef struct blend {
    float unit[16], before[16], now[16];
} blend;

/* Queries [q0, q0 + n), n <= 16, have m and s [16] in this chunk: a's become those of both. */
/* Not inlined: its constants would push out the registers of what is around it. */
__attribute__((noinline)) static void join_chunk(const nib_attn *a, int q0, int n, const float *m,
                                                 const float *s, blend *w) {
    if (!a->more) {
        memcpy(a->m + q0, m, (size_t)n * sizeof *m);
        memcpy(a->s + q0, s, (size_t)n * sizeof *s);
        return;
    }
    const v16 ma = v_load_n(a->m + q0, n), mb = v_load_n(m, n), top = v_max(ma, mb);
    /* where neither saw anything: -inf - -inf is not what is meant */
    const v16 from = v_max(v_set1(-3.40282347e+38f), top);
    const v16 fa = v_exp(v_sub(ma, from)), fb = v_exp(v_sub(mb, from));
    v_store_n(a->m + q0, top, n);
    v_store_n(a->s + q0, v_fma(v_load_n(s, n), fb, v_mul(v_load_n(a->s + q0, n), fa)), n);
    v_store(w->before, fa);
    v_store(w->now, fb);
}
/* Columns c .. c + 15 of query q, the i-th of w. */
LANE void join_out(const nib_attn *a, int q, int c, v16 x, const blend *w, int i) {
    float *o = a->o + (int64_t)q * a->dv + c;
    const int n = a->dv - c;
    if (a->more) x = v_fma(x, v_set1(w->now[i]), v_mul(v_load_n(o, n), v_set1(w->before[i])));
    v_store_n(o, x, n);
}

/* ---- the softmax of one query's integer scores ---- */

LANE float query_scale(const nib_attn *a, int i) {
    return nib_bits_f32(nib_load_u32((const uint8_t *)a->q[i] + (size_t)a->d * 2));
}

/* 2^x for x <= 0, relative error 7e-6 (our own fit); 0 below -150. */
LANE v16 v_exp2(v16 x) {
    x = v_max(v_set1(-150.0f), x); /* in this order of arguments NaN passes */
    const v16 n = v_round(x), f = v_sub(x, n);
    v16 p = v_fma(v_set1(0x1.3c6e5cp-7f), f, v_set1(0x1.c96d5ep-5f));
    p = v_fma(p, f, v_set1(0x1.ebfb3ep-3f));
    p = v_fma(p, f, v_set1(0x1.62e2d2p-1f));
    return v_scale2(v_fma(p, f, v_set1(1.0f)), n);
}

/* What a chunk's scores became. */
typedef struct weighed {
    float m, s; /* as nib_attn says */
    float unit; /* of what the integer weights add up to */
} weighed;

/* x: sums of products times the scale of their key, of the positions [s.lo, s.hi) and those that
 * fill up their 16s; destroyed. q: the query's scale; v: the scales of values. u: integer weights,
 * of whole 16s. */
LANE weighed softmax_int(float *x, span s, float q, float softcap, const float *v, int16_t *u) {
    const int t0 = s.lo & ~15, t1 = (s.hi + 15) & ~15;
    weighed r;
    if (softcap > 0) {
        for (int i = t0; i < t1; i += 16)
            v_store(x + i, v_softcap(v_mul(v_load(x + i), v_set1(q)), softcap));
        q = 1;
    }
    for (int i = t0; i < s.lo; i++) x[i] = -INFINITY;
    for (int i = s.hi; i < t1; i++) x[i] = -INFINITY;
    v16 top = v_set1(-INFINITY), sum = v_set1(0);
    for (int i = t0; i < t1; i += 16) top = v_max(v_load(x + i), top);
    float m = v_max_of(top);
    if (m == -INFINITY) m = NAN; /* seen, but not to be weighed */
    r.m = m * q;
    const v16 vm = v_set1(m), in_bits = v_set1(q * 0x1.715476p+0f);
    top = v_set1(0);
    for (int i = t0; i < t1; i += 16) {
        const v16 p = v_exp2(v_mul(v_sub(v_load(x + i), vm), in_bits)), w = v_mul(p, v_load(v + i));
        sum = v_add(sum, p);
        top = v_max(w, top);
        v_store(x + i, w);
    }
    r.s = v_sum(sum);
    m = v_max_of(top);
    if (!(r.s < INFINITY) || !(m > 0x1p-100f)) {
        memset(u + t0, 0, (size_t)(t1 - t0) * sizeof *u);
        r.unit = r.s < INFINITY ? 0 : NAN;
        return r;
    }
    /* the scale of a value that is not seen may be anything */
    for (int i = t0; i < s.lo; i++) x[i] = 0;
    for (int i = s.hi; i < t1; i++) x[i] = 0;
    const v16 inv = v_set1(NIB_KV_I16_WEIGHTS / m);
    for (int i = t0; i < t1; i += 16) v_store_i16(u + i, v_mul(v_load(x + i), inv));
    r.unit = m / NIB_KV_I16_WEIGHTS;
    return r;
}

/* Queries [q0, q0 + n), n <= 16, see s, together 'seen'. Rows of scores become rows of integer
 * weights, which are 0 at what a query does not see of the 64s that hold 'seen'. */
LANE void weigh(const nib_attn *a, int q0, int n, const span *s, span seen, float *scores,
                const float *v_scale, int16_t *u, blend *w) {
    float m[16], sum[16];
    const int z0 = seen.lo & ~63, z1 = (seen.hi + 63) & ~63;
    for (int i = 0; i < n; i++, scores += CHUNK, u += CHUNK) {
        weighed x = {-INFINITY, 0, 0};
        if (z0 < z1) memset(u + z0, 0, (size_t)(z1 - z0) * sizeof *u);
        if (s[i].lo < s[i].hi)
            x = softmax_int(scores, s[i], query_scale(a, q0 + i), a->softcap, v_scale, u);
        m[i] = x.m, sum[i] = x.s, w->unit[i] = x.unit;
    }
    join_chunk(a, q0, n, m, sum, w);
}

/* ---- the cache ---- */

LANE const int16_t *ints_of(const uint8_t *page) {
    return (const int16_t *)(const void *)(page + NIB_KV_I16_HEAD);
}
/* What all queries see together. */
LANE span seen_by_all(const nib_attn *a) {
    span all = {CHUNK, 0};
    for (int i = 0; i < a->n_q; i++) all = join(all, query_span(a, i));
    return all;
}
/* The scales of keys and values of the 32s of positions that someone sees. */
LANE void gather_scales(const nib_attn *a, float *k, float *v) {
    const span all = seen_by_all(a);
    for (int p = all.lo / 32 * 32; p < all.hi; p += 32) {
        memcpy(k + p, a->k[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *k);
        memcpy(v + p, a->v[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *v);
    }
}
#endif
