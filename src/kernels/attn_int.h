/* Attention of one chunk in integers, for the cache type I16: included by vec_body.h behind
 * attn_body.h, whose register blocks it shares (ATTN_Q queries, ATTN_W vectors).
 *
 * Queries, keys and values are integers of some 12 bits with one float scale a vector, and so are
 * the weights of a chunk, which the scale of the value they meet has been multiplied into. Sums
 * over D and over the positions of a chunk stay below 2^24, and are exact: so neither their order
 * nor the zeros of what a query does not see matter, nor whether a processor adds integers or
 * floats. All but short keys are rounded to 8 significant bits, too, which makes each a bfloat16,
 * for units that multiply those (x86_amx_vec.c). What lies between the products (weigh,
 * attn_parts.h) is one recipe in floats.
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

typedef enum int_kind { QUERY, KEY, VALUE } int_kind;

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
static float to_int(int_kind kind, const float *x, int n, int16_t *q) {
    const float length = kind == VALUE ? 0 : length_of(x, n, 1);
    float scale = length / NIB_KV_I16_LENGTH, unit = NIB_KV_I16_LENGTH / length;
    if (!(length > 0x1p-40f && length < 0x1p40f)) { /* its square may not be a float */
        const float top = largest_of(x, n);
        if (!(top < INFINITY) || top < 0x1p-100f) {
            memset(q, 0, NIB_ROUND_UP((size_t)n, 16) * sizeof *q);
            return top < 1 ? 0 : NAN;
        }
        scale = top / NIB_KV_I16_TOP;
        if (kind != VALUE) scale *= length_of(x, n, 1 / scale) / NIB_KV_I16_LENGTH;
        unit = 1 / scale;
    }
    for (int i = 0; i < n; i += 16) {
        v16 y = v_round(v_mul(v_load_n(x + i, n - i), v_set1(unit)));
        if (kind != KEY || n >= NIB_KV_I16_SHORT_D) y = v_round_bf16(y);
        v_store_i16(q + i, y);
    }
    return scale;
}

static void store_i16(const float *k, int d, const float *v, int dv, int at, uint8_t *kp,
                      uint8_t *vp) {
    float x[NIB_KV_I16_MAX_D];
    int16_t q[NIB_KV_I16_MAX_D];
    memcpy(x, k, (size_t)d * sizeof *x);
    turn(x, d);
    float k_scale = to_int(KEY, x, d, q);
    uint8_t *to = kp + NIB_KV_I16_HEAD + (size_t)(at / 16) * (size_t)d * 32 + 4 * (at % 16);
    for (int i = 0; i < d; i += 2) memcpy(to + 32 * i, q + i, 4);

    float v_scale = to_int(VALUE, v, dv, q);
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
    float scale = to_int(QUERY, q, d, x);
    memcpy(q, x, (size_t)d * sizeof *x);
    memcpy((uint8_t *)q + (size_t)d * sizeof *x, &scale, sizeof scale);
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
        v_store_i16(u + i, v_round_bf16(weight_int(v_load(x + i), factor)));
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
