/* Attention of one chunk in integers, for the cache type I16: included by vec_body.h behind
 * attn_body.h, whose register blocks it shares (ATTN_Q queries, ATTN_W vectors).
 *
 * Queries, keys and values are 12-bit integers with one float scale a vector, and so are the
 * weights of a chunk, which the scale of the value they meet has been multiplied into: so sums over
 * D and over the positions of a chunk are exact in 32 bits, and neither their order nor the zeros
 * of what a query does not see matter. That is what lets sets multiply as suits them: pairs of 16
 * bits, or planes of 8 (x86_amx_vec.c). What lies between the products, softmax_int, is one recipe
 * in floats.
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

/* x ~ scale * q, |q| <= NIB_KV_I16_TOP; q has room for whole 16s. NaN, and zeros, when something is
 * not finite; 0 below 2^-100. */
static float to_int(const float *x, int n, int16_t *q) {
    uint32_t max = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = nib_f32_bits(x[i]) & 0x7fffffffu;
        max = NIB_MAX(max, u);
    }
    const float top = nib_bits_f32(max);
    if (!(top < INFINITY) || top < 0x1p-100f) {
        memset(q, 0, NIB_ROUND_UP((size_t)n, 16) * sizeof *q);
        return top < 1 ? 0 : NAN;
    }
    const v16 inv = v_set1(NIB_KV_I16_TOP / top);
    for (int i = 0; i < n; i += 16) v_store_i16(q + i, v_mul(v_load_n(x + i, n - i), inv));
    return top / NIB_KV_I16_TOP;
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
static float query_scale(const nib_attn *a, int i) {
    return nib_bits_f32(nib_load_u32((const uint8_t *)a->q[i] + (size_t)a->d * 2));
}

/* ---- the softmax of one query ---- */

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

/* The scales of the chunk's keys or values, of the COLS positions each that hold [lo, hi). */
static void gather_scales(const uint8_t *const *pages, int lo, int hi, float *out) {
    for (int p = lo / COLS * COLS; p < hi; p += COLS)
        memcpy(out + p, pages[p / NIB_PAGE] + 4 * (p % NIB_PAGE), COLS * sizeof *out);
}

/* ---- products of pairs ---- */

/* 'k' at the first tile's first pair of columns. */
LANE void score_int(int nq, const int16_t *q, int row, const int16_t *k, int d, const float *scale,
                    float *scores, soon v) {
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
        v_store(scores + i * CHUNK + 16 * t, v_mul(w_floats(sum[i][t]), v_load(scale + 16 * t)));
}

typedef struct mix_job {
    const uint8_t *const *pages;
    int dv, width; /* columns, and those between rows */
    int lo, hi;    /* pairs of positions */
} mix_job;

/* nt * 16 columns from c0 on. */
LANE void mix_int(int nq, int nt, const mix_job *j, int c0, const int16_t *u, const float *unit,
                  float *o) {
    w16 sum[ATTN_Q][ATTN_W];
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < nt; t++) sum[i][t] = w_zero();
    for (int p = j->lo, end; p < j->hi; p = end) {
        const int in_page = p % (NIB_PAGE / 2), step = 2 * j->width;
        end = NIB_MIN(p - in_page + NIB_PAGE / 2, j->hi);
        const int16_t *v =
            (const int16_t *)(const void *)(j->pages[p / (NIB_PAGE / 2)] + NIB_KV_I16_HEAD) +
            in_page * step + 2 * c0;
        for (; p < end; p++, v += step) {
            line16 l[ATTN_W];
            UNROLL for (int t = 0; t < nt; t++) l[t] = w_line(v + 32 * t);
            UNROLL for (int i = 0; i < nq; i++) {
                const pair16 x = w_pair(u + i * CHUNK + 2 * p);
                UNROLL for (int t = 0; t < nt; t++) sum[i][t] = w_dot(sum[i][t], x, l[t]);
            }
        }
    }
    UNROLL for (int i = 0; i < nq; i++) UNROLL for (int t = 0; t < nt; t++)
        v_store_n(o + i * j->dv + c0 + 16 * t, v_mul(w_floats(sum[i][t]), v_set1(unit[i])),
                  j->dv - c0 - 16 * t);
}

__attribute__((noinline)) static void score_block_int(int n, const int16_t *q, int row,
                                                      const int16_t *k, int d, const float *scale,
                                                      float *scores, soon v) {
    switch (n) {
#define X(N)                                                                                       \
    case N: score_int(N, q, row, k, d, scale, scores, v); break;
        ATTN_CASES(X)
#undef X
    }
}
__attribute__((noinline)) static void mix_block_int(int n, const mix_job *j, int c0,
                                                    const int16_t *u, const float *unit, float *o) {
    switch (n) {
#define X(N)                                                                                       \
    case N: mix_int(N, ATTN_W, j, c0, u, unit, o); break;
        ATTN_CASES(X)
#undef X
    }
}
/* What is left of columns: fewer vectors than a block is wide. */
__attribute__((noinline)) static void mix_tail_int(int n, const mix_job *j, int c0,
                                                   const int16_t *u, const float *unit, float *o) {
    for (int i = 0; i < n; i++)
        for (int c = c0; c < j->dv; c += 16)
            mix_int(1, 1, j, c, u + i * CHUNK, unit + i, o + i * j->dv);
}

static void attn_group_int(const nib_attn *a, int q0, int n) {
    _Alignas(64) int16_t packed[ATTN_Q * INT_ROW], u[ATTN_Q * CHUNK];
    _Alignas(64) float k_scale[CHUNK], v_scale[CHUNK];
    float unit[ATTN_Q];
    const int row = a->d + 32;
    const size_t v_width = NIB_ROUND_UP((size_t)a->dv, 16);
    span s[GROUP], all = {CHUNK, 0};
    for (int i = 0; i < n; i++) all = join(all, s[i] = query_span(a, q0 + i));
    if (all.lo < all.hi) {
        gather_scales(a->k, all.lo, all.hi, k_scale);
        gather_scales(a->v, all.lo, all.hi, v_scale);
    }
    for (int first = 0, nq; first < n; first += nq) {
        span seen = {CHUNK, 0};
        float *scores = a->scores + (size_t)(q0 + first) * CHUNK;
        nq = NIB_MIN(ATTN_Q, n - first);
        for (int i = 0; i < nq; i++) {
            seen = join(seen, s[first + i]);
            memcpy(packed + i * row, a->q[q0 + first + i], (size_t)a->d * 2);
        }
        for (int p = seen.lo / COLS * COLS; p < seen.hi; p += COLS) {
            const uint8_t *page = a->k[p / NIB_PAGE] + NIB_KV_I16_HEAD;
            const int tile = p % NIB_PAGE / 16;
            /* while K is multiplied, the V of the same positions comes in */
            const soon v = {a->v[p / NIB_PAGE] + NIB_KV_I16_HEAD +
                                (size_t)(p % NIB_PAGE) * v_width * 2,
                            v_width * COLS * 4 / (size_t)a->d};
            score_block_int(nq, packed, row, (const int16_t *)(const void *)page + tile * a->d * 16,
                            a->d, k_scale + p, scores + p, v);
        }
        /* pairs that no query of the block sees are not read */
        const mix_job j = {a->v, a->dv, (int)v_width, seen.lo / 2, (seen.hi + 1) / 2};
        for (int i = 0; i < nq; i++) {
            const int at = q0 + first + i;
            const span own = s[first + i];
            a->m[at] = -INFINITY, a->s[at] = 0, unit[i] = 0;
            if (seen.lo < seen.hi)
                memset(u + i * CHUNK + (seen.lo & ~15), 0,
                       (size_t)(((seen.hi + 15) & ~15) - (seen.lo & ~15)) * sizeof *u);
            if (own.lo >= own.hi) continue;
            weighed w = softmax_int(scores + i * CHUNK, own, query_scale(a, at), a->softcap,
                                    v_scale, u + i * CHUNK);
            a->m[at] = w.m, a->s[at] = w.s, unit[i] = w.unit;
        }
        float *o = a->o + (int64_t)(q0 + first) * a->dv;
        int c0 = 0;
        for (; c0 + COLS <= (int)v_width; c0 += COLS) mix_block_int(nq, &j, c0, u, unit, o);
        if (c0 < (int)v_width) mix_tail_int(nq, &j, c0, u, unit, o);
    }
}
#endif
