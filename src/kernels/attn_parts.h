/* What every way of attention needs: what a query sees of a chunk, the softmax over integer scores,
 * and how a chunk joins those before it. Included after a lanes_<isa>.h and vecmath.h, and after
 * the set has said how many queries' softmax it takes side by side (SOFT_ROWS). */
#ifndef NIB_KERNELS_ATTN_PARTS_H
#define NIB_KERNELS_ATTN_PARTS_H

enum {
    CHUNK = NIB_ATTN_CHUNK,
    ROW = NIB_ATTN_ROW /* floats between rows of scores */
};

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

/* 2^x for x <= 0, relative error 1e-4 (our own fit), which 8 bits do not see; 0 below -150. */
LANE v16 v_exp2(v16 x) {
    x = v_max(v_set1(-150.0f), x); /* in this order of arguments NaN passes */
    const v16 n = v_round(x), f = v_sub(x, n);
    v16 p = v_fma(v_set1(0x1.c2a226p-5f), f, v_set1(0x1.f00c84p-3f));
    p = v_fma(p, f, v_set1(0x1.62f5fcp-1f));
    return v_scale2(v_fma(p, f, v_set1(1.0f)), n);
}

/* The steps of the softmax take r queries at a time, for each is a chain of sums. They see the same
 * 16s [t0, t1); x: their rows of ROW. */

/* One block of 16, of which the lanes [lo, hi) are seen. */
LANE v16 scale_edge(float *x, const float *k, int lo, int hi) {
    static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const v16 none = v_set1(-INFINITY), at = v_load(lanes);
    v16 y = v_mul(v_load(x), v_load(k));
    y = v_if_negative(v_sub(at, v_set1((float)lo)), none, y);
    y = v_if_negative(v_sub(at, v_set1((float)hi)), y, none);
    v_store(x, y);
    return y;
}
/* Sums of products become scores, -INFINITY where nothing is seen; top: the largest of each, NaN
 * left out. */
LANE void scale_keys(int r, const span *s, float *x, int t0, int t1, const float *k, float *out) {
    v16 top[SOFT_ROWS];
    bool edge0 = false, edge1 = false;
    for (int j = 0; j < r; j++) edge0 |= s[j].lo > t0, edge1 |= s[j].hi < t1;
    edge1 &= t1 - t0 > 16 || !edge0;
    UNROLL for (int j = 0; j < r; j++) {
        float *row = x + j * ROW, *last = row + t1 - 16;
        top[j] = v_set1(-INFINITY);
        if (edge0) {
            top[j] = v_max(scale_edge(row + t0, k + t0, s[j].lo - t0, s[j].hi - t0), top[j]);
        }
        if (edge1) {
            top[j] = v_max(scale_edge(last, k + t1 - 16, 0, s[j].hi - (t1 - 16)), top[j]);
        }
    }
    for (int i = t0 + 16 * edge0; i < t1 - 16 * edge1; i += 16) {
        const v16 scale = v_load(k + i);
        UNROLL for (int j = 0; j < r; j++) {
            float *at = x + j * ROW + i;
            const v16 y = v_mul(v_load(at), scale);
            top[j] = v_max(y, top[j]);
            v_store(at, y);
        }
    }
    UNROLL for (int j = 0; j < r; j++) out[j] = v_max_of(top[j]);
}
/* Scores become weights 2^(bits * x - from) times the scales v of the values they meet; sum, all:
 * [r] of weights, and of what they became. */
LANE void soften(int r, float *x, int t0, int t1, const float *bits_, const float *from_,
                 const float *v, float *sum_out, float *all_out) {
    v16 sum[SOFT_ROWS], all[SOFT_ROWS], bits[SOFT_ROWS], from[SOFT_ROWS];
    UNROLL for (int j = 0; j < r; j++) {
        sum[j] = all[j] = v_set1(0);
        bits[j] = v_set1(bits_[j]), from[j] = v_set1(-from_[j]);
    }
    for (int i = t0; i < t1; i += 16) {
        const v16 scale = v_load(v + i);
        UNROLL for (int j = 0; j < r; j++) {
            float *at = x + j * ROW + i;
            const v16 p = v_exp2(v_fma(v_load(at), bits[j], from[j])), w = v_mul(p, scale);
            sum[j] = v_add(sum[j], p);
            all[j] = v_add(all[j], w);
            v_store(at, w);
        }
    }
    UNROLL for (int j = 0; j < r; j++) {
        sum_out[j] = v_sum(sum[j]);
        all_out[j] = v_sum(all[j]);
    }
}

/* r queries from q on, which see s[0..r) and the same 16s of them. x: sums of products; they become
 * scores, of which m is the largest, and which are weighed as 2^(bits * x - from). */
LANE void scores_of(int r, const nib_attn *a, int q, const span *s, float *x, const float *k,
                    float *m, float *bits, float *from) {
    _Alignas(64) float ones[CHUNK];
    const int t0 = s[0].lo & ~15, t1 = (s[0].hi + 15) & ~15;
    float scale[SOFT_ROWS];
    for (int j = 0; j < r; j++) scale[j] = query_scale(a, q + j);
    if (a->softcap > 0) {
        for (int i = t0; i < t1; i += 16) {
            v_store(ones + i, v_set1(1));
            for (int j = 0; j < r; j++) {
                const v16 y =
                    v_mul(v_mul(v_load(x + j * ROW + i), v_load(k + i)), v_set1(scale[j]));
                v_store(x + j * ROW + i, v_softcap(y, a->softcap));
            }
        }
        for (int j = 0; j < r; j++) scale[j] = 1;
        k = ones;
    }
    scale_keys(r, s, x, t0, t1, k, m);
    for (int j = 0; j < r; j++) {
        if (m[j] == -INFINITY) m[j] = NAN; /* seen, but not to be weighed */
        bits[j] = scale[j] != 0 ? scale[j] * 0x1.715476p+0f : 1;
        from[j] = m[j] * bits[j];
        m[j] *= scale[j];
    }
}

/* A weight times its value's scale, as the whole number that 'factor' makes of it. */
LANE v16 weight_int(v16 x, float factor) {
    const v16 magic = v_set1(0x1.8p23f); /* adding it leaves no fraction */
    return v_sub(v_fma(x, v_set1(factor), magic), magic);
}

/* Queries [q0, q0 + n), n <= 16, see s. Their sums of products, rows of ROW, become weights times
 * the scales of values, of which a query's integers are what factor[i] makes of them; 0, and all of
 * them, where there is nothing finite to weigh. k, v: the scales of keys and values. */
LANE void weigh(const nib_attn *a, int q0, int n, const span *s, float *scores, const float *k,
                const float *v, float *factor, blend *w) {
    float m[16], sum[16], all[16], bits[16], from[16];
    int r[16]; /* that many from here on go side by side */
    for (int i = 0; i < n; i += r[i]) {
        r[i] = 1;
        m[i] = -INFINITY, sum[i] = all[i] = 0;
        if (s[i].lo >= s[i].hi) continue;
        const int t0 = s[i].lo & ~15, t1 = (s[i].hi + 15) & ~15;
        while (r[i] < SOFT_ROWS && i + r[i] < n && s[i + r[i]].lo < s[i + r[i]].hi &&
               (s[i + r[i]].lo & ~15) == t0 && ((s[i + r[i]].hi + 15) & ~15) == t1)
            r[i]++;
        if (r[i] == SOFT_ROWS) {
            scores_of(SOFT_ROWS, a, q0 + i, s + i, scores + i * ROW, k, m + i, bits + i, from + i);
        } else {
            r[i] = 1;
            scores_of(1, a, q0 + i, s + i, scores + i * ROW, k, m + i, bits + i, from + i);
        }
    }
    for (int i = 0; i < n; i += r[i]) {
        if (s[i].lo >= s[i].hi) continue;
        const int t0 = s[i].lo & ~15, t1 = (s[i].hi + 15) & ~15;
        float *x = scores + i * ROW;
        if (r[i] == SOFT_ROWS)
            soften(SOFT_ROWS, x, t0, t1, bits + i, from + i, v, sum + i, all + i);
        else
            soften(1, x, t0, t1, bits + i, from + i, v, sum + i, all + i);
    }
    for (int i = 0; i < n; i++) {
        const bool some = sum[i] < INFINITY && all[i] > 0x1p-100f;
        factor[i] = some ? NIB_KV_I16_WEIGHTS / all[i] : 0;
        w->unit[i] = some ? all[i] / NIB_KV_I16_WEIGHTS : sum[i] < INFINITY ? 0 : NAN;
    }
    join_chunk(a, q0, n, m, sum, w);
}

/* ---- the cache ---- */

LANE const int16_t *ints_of(const uint8_t *page) {
    return (const int16_t *)(const void *)(page + NIB_KV_I16_HEAD);
}
/* The scales of keys and values of the 32s of positions that someone sees. What nobody sees may
 * hold anything: a value's scale meets a weight of 0 there, and has to be a number. */
LANE void gather_scales(const nib_attn *a, float *k, float *v) {
    span all = {CHUNK, 0};
    for (int i = 0; i < a->n_q; i++) all = join(all, query_span(a, i));
    for (int p = all.lo / 32 * 32; p < all.hi; p += 32) {
        memcpy(k + p, a->k[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *k);
        memcpy(v + p, a->v[p / NIB_PAGE] + 4 * (p % NIB_PAGE), 32 * sizeof *v);
        for (int i = p; i < p + 32; i += 16)
            v_store(v + i, v_min(v_max(v_load(v + i), v_set1(0)), v_set1(0x1p127f)));
    }
}
#endif
