/* What every way of attention needs: what a query sees of a chunk, the softmax over integer scores,
 * and how a chunk joins those before it. Included after a lanes_<isa>.h and vecmath.h, and after
 * the set has said how many queries' softmax it takes side by side (SOFT_ROWS). */
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

/* Queries [q0, q0 + n), n <= 16, have m and s [16] in this chunk: a's become those of both. Not
 * inlined: its constants would push out the registers of what is around it. */
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

/* ---- the softmax of integer scores ---- */

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

/* The scores of r queries that see the same 16s [t0, t1), rows of CHUNK, become weights times the
 * scales v of the values they meet; sum, top: [r] of weights, and of what they became. Several at a
 * time, for each is a chain of sums. */
LANE void soften(int r, float *x, int t0, int t1, const float *m, const float *in_bits,
                 const float *v, float *sum_out, float *top_out) {
    v16 sum[SOFT_ROWS], top[SOFT_ROWS], vm[SOFT_ROWS], bits[SOFT_ROWS];
    UNROLL for (int j = 0; j < r; j++) {
        sum[j] = top[j] = v_set1(0);
        vm[j] = v_set1(m[j]), bits[j] = v_set1(in_bits[j]);
    }
    for (int i = t0; i < t1; i += 16) {
        const v16 scale = v_load(v + i);
        UNROLL for (int j = 0; j < r; j++) {
            float *at = x + j * CHUNK + i;
            const v16 p = v_exp2(v_mul(v_sub(v_load(at), vm[j]), bits[j])), w = v_mul(p, scale);
            sum[j] = v_add(sum[j], p);
            top[j] = v_max(w, top[j]);
            v_store(at, w);
        }
    }
    UNROLL for (int j = 0; j < r; j++) {
        sum_out[j] = v_sum(sum[j]);
        top_out[j] = v_max_of(top[j]);
    }
}
/* The largest score of each, NaN left out. */
LANE void largest(int r, const float *x, int t0, int t1, float *out) {
    v16 top[SOFT_ROWS];
    UNROLL for (int j = 0; j < r; j++) top[j] = v_set1(-INFINITY);
    for (int i = t0; i < t1; i += 16) {
        UNROLL for (int j = 0; j < r; j++) top[j] = v_max(v_load(x + j * CHUNK + i), top[j]);
    }
    UNROLL for (int j = 0; j < r; j++) out[j] = v_max_of(top[j]);
}

/* r queries from q on, which see s[0..r) and the same 16s of them. x: sums of products times the
 * scale of their key; they become weights times the scale of their value, 0 where nothing is seen.
 * m, sum: as nib_attn says; top: the largest of x. */
LANE void softmax_int(int r, const nib_attn *a, int q, const span *s, float *x, const float *v,
                      float *m, float *sum, float *top) {
    const int t0 = s[0].lo & ~15, t1 = (s[0].hi + 15) & ~15;
    float in_bits[SOFT_ROWS], scale[SOFT_ROWS];
    for (int j = 0; j < r; j++) {
        float *row = x + j * CHUNK;
        scale[j] = query_scale(a, q + j);
        if (a->softcap > 0) {
            for (int i = t0; i < t1; i += 16)
                v_store(row + i, v_softcap(v_mul(v_load(row + i), v_set1(scale[j])), a->softcap));
            scale[j] = 1;
        }
        for (int i = t0; i < s[j].lo; i++) row[i] = -INFINITY;
        for (int i = s[j].hi; i < t1; i++) row[i] = -INFINITY;
        in_bits[j] = scale[j] != 0 ? scale[j] * 0x1.715476p+0f : 1;
    }
    largest(r, x, t0, t1, m);
    for (int j = 0; j < r; j++)
        if (m[j] == -INFINITY) m[j] = NAN; /* seen, but not to be weighed */
    soften(r, x, t0, t1, m, in_bits, v, sum, top);
    for (int j = 0; j < r; j++) {
        float *row = x + j * CHUNK;
        m[j] *= scale[j];
        /* the scale of a value that is not seen may be anything */
        for (int i = t0; i < s[j].lo; i++) row[i] = 0;
        for (int i = s[j].hi; i < t1; i++) row[i] = 0;
    }
}

/* Queries [q0, q0 + n), n <= 16, see s. Their scores, rows of CHUNK, become weights times the
 * scales of values, of which a query's integers are what factor[i] makes of them; 0, and all of
 * them, where there is nothing finite to weigh. */
LANE void weigh(const nib_attn *a, int q0, int n, const span *s, float *scores, const float *v,
                float *factor, blend *w) {
    float m[16], sum[16];
    for (int i = 0, r; i < n; i += r) {
        float top[SOFT_ROWS] = {0};
        r = 1;
        if (s[i].lo >= s[i].hi) {
            m[i] = -INFINITY, sum[i] = 0;
        } else {
            const int t0 = s[i].lo & ~15, t1 = (s[i].hi + 15) & ~15;
            while (r < SOFT_ROWS && i + r < n && s[i + r].lo < s[i + r].hi &&
                   (s[i + r].lo & ~15) == t0 && ((s[i + r].hi + 15) & ~15) == t1)
                r++;
            if (r == SOFT_ROWS) {
                softmax_int(SOFT_ROWS, a, q0 + i, s + i, scores + i * CHUNK, v, m + i, sum + i,
                            top);
            } else {
                softmax_int(1, a, q0 + i, s + i, scores + i * CHUNK, v, m + i, sum + i, top);
                r = 1;
            }
        }
        for (int j = i; j < i + r; j++) {
            const bool some = sum[j] < INFINITY && top[j - i] > 0x1p-100f;
            factor[j] = some ? NIB_KV_I16_WEIGHTS / top[j - i] : 0;
            w->unit[j] = some ? top[j - i] / NIB_KV_I16_WEIGHTS : sum[j] < INFINITY ? 0 : NAN;
        }
    }
    join_chunk(a, q0, n, m, sum, w);
}

/* ---- the cache ---- */

LANE const int16_t *ints_of(const uint8_t *page) {
    return (const int16_t *)(const void *)(page + NIB_KV_I16_HEAD);
}
/* The scales of keys and values of the 32s of positions that someone sees. */
LANE void gather_scales(const nib_attn *a, float *k, float *v) {
    span all = {CHUNK, 0};
    for (int i = 0; i < a->n_q; i++) all = join(all, query_span(a, i));
    for (int p = all.lo / 32 * 32; p < all.hi; p += 32) {
        memcpy(k + p, a->k[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *k);
        memcpy(v + p, a->v[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *v);
    }
}
#endif
