/* Attention of one chunk in integers, for the cache type I16: included by vec_body.h behind
 * attn_body.h, whose register blocks it shares (ATTN_Q queries, ATTN_W vectors).
 *
 * Queries, keys and values are 16-bit integers with one float scale a vector, and so are the
 * weights of a chunk, which the scale of the value they meet has been multiplied into. Sums over D
 * and over the positions of a chunk are exact in 32 bits: so neither their order nor the zeros of
 * what a query does not see matter. What lies between the products (weigh) is one recipe in floats.
 * A set says how many queries' softmax it takes side by side (SOFT_ROWS).
 *
 * Queries and keys are turned by a Hadamard transform first, which leaves their products alone and
 * spreads a few large columns, such as many models' keys have, over all of them. */
#ifndef NIB_KERNELS_ATTN_INT_H
#define NIB_KERNELS_ATTN_INT_H

enum { INT_ROW = NIB_KV_I16_MAX_D + 32 }; /* between packed queries of the widest heads */

/* ---- vectors to integers ---- */

/* x -> H x / sqrt(n), n a power of two from 32 on: the butterfly that takes neighbours and leaves
 * sums in the first half and differences in the second, as often as n has bits. */
static void hadamard(float *x, int n) {
    float y[NIB_KV_I16_MAX_D], *from = x, *to = y;
    const v16 scale = v_set1(1.0f / sqrtf((float)n));
    for (int i = 1; i < n; i *= 2) {
        for (int j = 0; j < n / 2; j += 16) {
            v16 a, b;
            v_unzip(v_load(from + 2 * j), v_load(from + 2 * j + 16), &a, &b);
            v_store(to + j, v_add(a, b));
            v_store(to + n / 2 + j, v_sub(a, b));
        }
        float *t = from;
        from = to, to = t;
    }
    for (int j = 0; j < n; j += 16) v_store(x + j, v_mul(v_load(from + j), scale));
}
/* Where D is no power of two, the largest that fits, over the first and over the last columns. */
static void turn(float *x, int d) {
    int n = 32;
    if (d < n) return;
    while (2 * n <= d) n *= 2;
    hadamard(x, n);
    if (n < d) hadamard(x + d - n, n);
}

/* NaN when one is. */
static float largest_of(const float *x, int n) {
    v16 max = v_set1(0);
    unsigned numbers = 0xffff; /* NaN is lost in a maximum */
    for (int i = 0; i < n; i += 16) {
        const v16 y = v_load_n(x + i, n - i);
        max = v_max(v_abs(y), max);
        numbers &= v_equal(y, y);
    }
    return numbers == 0xffff ? v_max_of(max) : NAN;
}
/* Of x times unit. */
static float length_of(const float *x, int n, float unit) {
    v16 sum = v_set1(0);
    for (int i = 0; i < n; i += 16) {
        const v16 y = v_mul(v_load_n(x + i, n - i), v_set1(unit));
        sum = v_fma(y, y, sum);
    }
    return sqrtf(v_sum(sum));
}

/* x ~ scale * q, returns scale; q has room for whole 16s. NaN, and zeros, when something is not
 * finite; 0 below 2^-100. */
static float to_int(const float *x, int n, int16_t *q) {
    const float length = length_of(x, n, 1);
    float scale = length / NIB_KV_I16_MOST, unit = NIB_KV_I16_MOST / length;
    if (!(length > 0x1p-40f && length < 0x1p40f)) { /* its square may not be a float */
        const float top = largest_of(x, n);
        if (!(top < INFINITY) || top < 0x1p-100f) {
            memset(q, 0, NIB_ROUND_UP((size_t)n, 16) * sizeof *q);
            return top < 1 ? 0 : NAN;
        }
        scale = top / NIB_KV_I16_MOST;
        scale *= length_of(x, n, 1 / scale) / NIB_KV_I16_MOST;
        unit = 1 / scale;
    }
    for (int i = 0; i < n; i += 16) v_store_i16(q + i, v_mul(v_load_n(x + i, n - i), v_set1(unit)));
    return scale;
}

static void store_i16(const float *k, int d, const float *v, int dv, int at, uint8_t *kp,
                      uint8_t *vp) {
    float x[NIB_KV_I16_MAX_D];
    int16_t q[NIB_KV_I16_MAX_D];
    memcpy(x, k, (size_t)d * sizeof *x);
    turn(x, d);
    float k_scale = to_int(x, d, q);
    uint8_t *to = kp + NIB_KV_I16_HEAD + (size_t)(at / 16) * (size_t)d * 32 + 4 * (at % 16);
    for (int i = 0; i < d; i += 2) memcpy(to + 32 * i, q + i, 4);

    float v_scale = to_int(v, dv, q);
    if (isnan(v_scale)) k_scale = NAN, v_scale = 0; /* who sees the position gets NaN */
    to = vp + NIB_KV_I16_HEAD + (size_t)(at / 2) * NIB_ROUND_UP((size_t)dv, 16) * 4 + 2 * (at % 2);
    for (int i = 0; i < dv; i++) memcpy(to + 4 * i, q + i, 2);
    memcpy(kp + 4 * at, &k_scale, 4);
    memcpy(vp + 4 * at, &v_scale, 4);
}

/* In place: D integers, then the scale. */
static void query_i16(float *q, int d) {
    int16_t x[NIB_KV_I16_MAX_D];
    turn(q, d);
    float scale = to_int(q, d, x);
    memcpy(q, x, (size_t)d * sizeof *x);
    memcpy((uint8_t *)q + (size_t)d * sizeof *x, &scale, sizeof scale);
}

/* ---- the softmax of integer scores ---- */

LANE float query_scale(const nib_attn *a, int i) {
    return nib_bits_f32(nib_load_u32((const uint8_t *)a->q[i] + (size_t)a->d * 2));
}

/* 2^x for x <= 0, relative error 1e-4 (our own fit); 0 below -150. */
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
        factor[i] = some ? NIB_KV_I16_MOST / all[i] : 0;
        w->unit[i] = some ? all[i] / NIB_KV_I16_MOST : sum[i] < INFINITY ? 0 : NAN;
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

/* ---- products of pairs ---- */

/* 'k' at the first tile's first pair of columns. */
LANE void score_int(int nq, const int16_t *q, int row, const int16_t *k, int d, float *scores,
                    soon v) {
    w16 sum[ATTN_Q][ATTN_W];
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < ATTN_W; t++) sum[i][t] =
        w_zero();
    for (int j = 0; j < d; j += 2, k += 32, q += 2, v.p += v.step) {
        __builtin_prefetch(v.p, 0, 2);
        line16 l[ATTN_W];
        UNROLL for (int t = 0; t < ATTN_W; t++) l[t] = w_line(k + t * d * 16);
        UNROLL for (int i = 0; i < nq; i++) {
            const pair16 x = w_pair(q + i * row);
            UNROLL for (int t = 0; t < ATTN_W; t++) sum[i][t] = w_dot(sum[i][t], x, l[t]);
        }
    }
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < ATTN_W; t++)
        v_store(scores + i * ROW + 16 * t, w_floats(sum[i][t]));
}

/* nt * 16 columns from c0 on; pairs of positions that nobody sees are not read. 'width': columns
 * between pairs. */
LANE void mix_int(int nq, int nt, const nib_attn *a, int q0, span seen, int width, int c0,
                  const int16_t *u, const blend *w) {
    w16 sum[ATTN_Q][ATTN_W];
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < nt; t++) sum[i][t] = w_zero();
    for (int p = seen.lo / 2, end; p < (seen.hi + 1) / 2; p = end) {
        const int in_page = p % (NIB_PAGE / 2), step = 2 * width;
        end = NIB_MIN(p - in_page + NIB_PAGE / 2, (seen.hi + 1) / 2);
        const int16_t *v = ints_of(a->v[p / (NIB_PAGE / 2)]) + in_page * step + 2 * c0;
        for (; p < end; p++, v += step) {
            line16 l[ATTN_W];
            UNROLL for (int t = 0; t < nt; t++) l[t] = w_line(v + 32 * t);
            UNROLL for (int i = 0; i < nq; i++) {
                const pair16 x = w_pair(u + i * ROW + 2 * p);
                UNROLL for (int t = 0; t < nt; t++) sum[i][t] = w_dot(sum[i][t], x, l[t]);
            }
        }
    }
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < nt; t++)
        join_out(a, q0 + i, c0 + 16 * t, v_mul(w_floats(sum[i][t]), v_set1(w->unit[i])), w, i);
}

/* Not inlined: gcc finds registers for one of these at a time. */
#define STAGE __attribute__((noinline)) static
STAGE void score_block_int(int n, const int16_t *q, int row, const int16_t *k, int d, float *scores,
                           soon v) {
    switch (n) {
#define X(N)                                                                                       \
    case N: score_int(N, q, row, k, d, scores, v); break;
        ATTN_CASES(X)
#undef X
    }
}
STAGE void mix_block_int(int n, const nib_attn *a, int q0, span seen, int width, int c0,
                         const int16_t *u, const blend *w) {
    switch (n) {
#define X(N)                                                                                       \
    case N: mix_int(N, ATTN_W, a, q0, seen, width, c0, u, w); break;
        ATTN_CASES(X)
#undef X
    }
}
/* What is left of columns: fewer vectors than a block is wide. */
STAGE void mix_tail_int(int n, const nib_attn *a, int q0, span seen, int width, int c0,
                        const int16_t *u, const blend *w) {
    for (int i = 0; i < n; i++) {
        const blend one = {{w->unit[i]}, {w->before[i]}, {w->now[i]}};
        for (int c = c0; c < a->dv; c += 16)
            mix_int(1, 1, a, q0 + i, seen, width, c, u + i * ROW, &one);
    }
}

/* Integer weights of what a query sees, and zeros at what else is 'seen'. */
static void to_weights(const float *x, float factor, span own, span seen, int16_t *u) {
    if (seen.lo < seen.hi)
        memset(u + (seen.lo & ~15), 0,
               (size_t)(((seen.hi + 15) & ~15) - (seen.lo & ~15)) * sizeof *u);
    if (factor == 0) return;
    for (int i = own.lo & ~15; i < own.hi; i += 16)
        v_store_i16(u + i, v_mul(v_load(x + i), v_set1(factor)));
}

static void attn_int(const nib_attn *a) {
    _Alignas(64) int16_t packed[ATTN_Q * INT_ROW], u[ATTN_Q * ROW];
    _Alignas(64) float k_scale[CHUNK], v_scale[CHUNK];
    const int row = a->d + 32, width = (int)NIB_ROUND_UP((size_t)a->dv, 16);
    float *scores = a->scratch;
    gather_scales(a, k_scale, v_scale);
    for (int q0 = 0, n; q0 < a->n_q; q0 += n) {
        span s[ATTN_Q], seen = {CHUNK, 0};
        n = NIB_MIN(ATTN_Q, a->n_q - q0);
        for (int i = 0; i < n; i++) {
            seen = join(seen, s[i] = query_span(a, q0 + i));
            memcpy(packed + i * row, a->q[q0 + i], (size_t)a->d * 2);
        }
        for (int p = seen.lo / COLS * COLS; p < seen.hi; p += COLS) {
            const int in_page = p % NIB_PAGE;
            /* while K is multiplied, the V of the same positions comes in */
            const soon v = {a->v[p / NIB_PAGE] + NIB_KV_I16_HEAD + in_page * width * 2,
                            (size_t)(width * COLS * 4 / a->d)};
            score_block_int(n, packed, row, ints_of(a->k[p / NIB_PAGE]) + in_page * a->d, a->d,
                            scores + p, v);
        }
        blend w;
        float factor[16];
        weigh(a, q0, n, s, scores, k_scale, v_scale, factor, &w);
        for (int i = 0; i < n; i++)
            to_weights(scores + i * ROW, factor[i], s[i], seen, u + i * ROW);
        int c0 = 0;
        for (; c0 + COLS <= width; c0 += COLS) mix_block_int(n, a, q0, seen, width, c0, u, &w);
        if (c0 < width) mix_tail_int(n, a, q0, seen, width, c0, u, &w);
    }
}
#endif
