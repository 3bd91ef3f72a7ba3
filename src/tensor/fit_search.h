/* The search itself, compiled once per vector width: LANES is 4, 8 or 16 where this is included,
 * and, where the machine has an instruction for it, FIT_MAX(a, b) is a > b ? a : b in each lane (so
 * b where either is NaN) and FIT_MIN(a, b) a < b ? a : b.
 *
 * Given the codes, the best scale (and offset) is the least-squares solution of a few sums over the
 * group; given the scale, the best codes are the nearest ones. So each search tries a fan of
 * scales, takes from each the sums of its codes, solves for the scale that suits those codes, and
 * keeps the best. Where scales are small integers times a scale of 256 weights, the integers around
 * each group's ideal are then tried against the scale as stored, that scale is solved again from
 * all groups, and so on while it helps.
 *
 * A group (or block) lies in each lane of a vector (tile): sums run down the lanes, every decision
 * is a select, and lanes never mix but in sums over a super-block, taken in order; so the width
 * changes nothing but time. Values are divided by their largest magnitude on the way in: one fan
 * suits all, and nothing overflows. */
#include "tensor/fit.h"

typedef float fv __attribute__((vector_size(4 * LANES)));
typedef int32_t iv __attribute__((vector_size(4 * LANES)));
typedef uint8_t bv __attribute__((vector_size(LANES)));
enum { MAX_TILES = 16 / LANES, MAX_ROUNDS = 3 };

typedef struct tile {
    int len;
    bool weighted;
    fv x[FIT_MAX_LEN], w[FIT_MAX_LEN];
    fv sw, sx, sxx; /* sums of w, w x, w x^2 */
} tile;

static inline fv splat(float v) {
    return (fv){0} + v;
}
static inline fv pick(iv mask, fv a, fv b) {
    return (fv)((mask & (iv)a) | (~mask & (iv)b));
}
#if !defined(FIT_MAX)
#define FIT_MAX(a, b) pick((a) > (b), a, b)
#define FIT_MIN(a, b) pick((a) < (b), a, b)
#endif
static inline fv at_least(fv a, fv b) {
    return FIT_MAX(a, b);
} /* b where a is NaN */
static inline fv at_most(fv a, fv b) {
    return FIT_MIN(a, b);
}
static inline fv magnitude(fv v) {
    return (fv)((iv)v & 0x7fffffff);
}
/* To the nearest integer, ties to even; |v| < 2^22. */
static inline fv nearest(fv v) {
    return (v + 0x1.8p23f) - 0x1.8p23f;
}
/* The nearest integer in first .. last. */
static inline fv within(fv v, fv first, fv last) {
    return nearest(at_most(at_least(v, first), last));
}
static inline fv code_for(fv v, fv last) {
    return within(v, splat(0), last);
}
/* a / b, but 0 where |b| is next to nothing or b is no number. */
static inline fv ratio(fv a, fv b) {
    iv ok = magnitude(b) > 1e-30f;
    return (fv)(ok & (iv)(a / pick(ok, b, splat(1))));
}
static inline fv root(fv v) {
    for (int l = 0; l < LANES; l++) v[l] = __builtin_sqrtf(v[l]);
    return v;
}
static inline fv inverse(fv v) {
    return ratio(splat(1), v);
}
static float top_lane(fv v) {
    float top = v[0];
    for (int l = 1; l < LANES; l++) top = v[l] > top ? v[l] : top;
    return top;
}
static inline float ratio1(float a, float b) {
    return b > 1e-30f || b < -1e-30f ? a / b : 0;
}
/* 1 / top; 0 when there is nothing to represent, or no number. */
static inline fv norm_of(fv top) {
    return (fv)((top < 1e37f) & (iv)inverse(top));
}

/* Lane l holds the len floats at x + l * len and their weights; lanes from n_groups on are empty.
 * Gives the largest magnitude and weight of each lane. */
static void load(tile *t, const float *x, const float *w, int n_groups, int len, fv *x_top,
                 fv *w_top) {
    *x_top = *w_top = splat(0);
    t->len = len, t->weighted = w;
    if (n_groups < LANES) memset(t->x, 0, sizeof t->x), memset(t->w, 0, sizeof t->w);
    for (int l = 0; l < n_groups; l++)
        for (int i = 0; i < len; i++) t->x[i][l] = x[l * len + i];
    for (int i = 0; i < len; i++) *x_top = at_least(magnitude(t->x[i]), *x_top);
    if (!w) return;
    for (int l = 0; l < n_groups; l++)
        for (int i = 0; i < len; i++) t->w[i][l] = w[l * len + i];
    for (int i = 0; i < len; i++) *w_top = at_least(t->w[i], *w_top);
}

/* Divides by the tops. A weight of nothing still counts for a little, so that its codes are not
 * arbitrary; when no weight is any, all are 1. */
static void normalise(tile *t, fv x_norm, fv w_norm) {
    fv least = pick(w_norm > 0, splat(1e-9f), splat(1)), one = splat(1);
    t->sw = t->sx = t->sxx = splat(0);
    for (int i = 0; i < t->len; i++) {
        t->x[i] *= x_norm;
        t->w[i] = t->weighted ? at_least(t->w[i] * w_norm, least) : one;
        fv wx = t->w[i] * t->x[i];
        t->sw += t->w[i];
        t->sx += wx;
        t->sxx += wx * t->x[i];
    }
}

static void store_codes(fv code, uint8_t *out, int stride, int n_groups) {
    bv c = __builtin_convertvector(__builtin_convertvector(code, iv), bv);
    uint8_t lane[LANES];
    memcpy(lane, &c, sizeof lane);
    for (int l = 0; l < n_groups; l++) out[l * stride] = lane[l];
}

/* ---- a scale alone ---- */

/* The levels as the inner loops want them. */
typedef struct scan {
    bool table;
    float first, last;
    fv edge[15], step[15]; /* table: halfway from level k to k + 1, and how far that is */
} scan;

static void scan_init(scan *s, const fit_levels *lv) {
    s->table = lv->values;
    s->first = (float)(s->table ? lv->values[0] : lv->first);
    s->last = (float)(s->table ? lv->values[15] : lv->first + lv->n - 1);
    for (int k = 0; s->table && k < 15; k++) {
        s->edge[k] = splat(0.5f * (float)(lv->values[k] + lv->values[k + 1]));
        s->step[k] = splat((float)(lv->values[k + 1] - lv->values[k]));
    }
}

/* scale_sums, with what does not change in the loop known to the compiler. */
static inline __attribute__((always_inline)) void scale_sums_of(const tile *t, const scan *s,
                                                                bool table, bool weighted, fv inv,
                                                                fv *out_xl, fv *out_ll) {
    fv xl = splat(0), ll = splat(0), first = splat(s->first), last = splat(s->last);
    for (int i = 0; i < t->len; i++) {
        fv v = t->x[i] * inv, level = first;
        if (table)
            for (int k = 0; k < 15; k++) level += (fv)((v > s->edge[k]) & (iv)s->step[k]);
        else
            level = within(v, first, last);
        fv wl = weighted ? t->w[i] * level : level;
        xl += wl * t->x[i];
        ll += wl * level;
    }
    *out_xl = xl, *out_ll = ll;
}

/* Of the levels nearest to x * inv: sums of w x level and w level^2. */
static void scale_sums(const tile *t, const scan *s, fv inv, fv *out_xl, fv *out_ll) {
    if (s->table)
        scale_sums_of(t, s, true, true, inv, out_xl, out_ll);
    else if (t->weighted)
        scale_sums_of(t, s, false, true, inv, out_xl, out_ll);
    else
        scale_sums_of(t, s, false, false, inv, out_xl, out_ll);
}

static void scale_codes(const tile *t, const scan *s, fv inv, uint8_t *code, int n_groups) {
    for (int i = 0; i < t->len; i++) {
        fv v = t->x[i] * inv, c = splat(0);
        if (s->table)
            for (int k = 0; k < 15; k++) c += (fv)((v > s->edge[k]) & (iv)splat(1));
        else
            c = within(v, splat(s->first), splat(s->last)) - s->first;
        store_codes(c, code + i, t->len, n_groups);
    }
}

/* The best real scale of each lane. The fan takes the largest magnitude to 1.1, 1.05, 1 ... 0.7 of
 * the first level and of the last: above 1 it clips, for the good of the others; below 1 the steps
 * are coarser, but may fall better. With weights the largest may not matter, so a second fan
 * takes 1.8, 2.2 ... 3.4 times the weighted root mean square to the end levels (which suit 2 to 6
 * bits of something bell-shaped), and the codes are chosen once more for the scale found. Denser
 * fans were measured to gain less than 1 % of the error. */
static fv best_scale(const tile *t, const scan *s) {
    enum { FAN = 18, WEIGHTED_FAN = FAN + 10 };
    fv top = t->x[0], best = splat(0), scale = splat(0), inv, xl, ll;
    for (int i = 1; i < t->len; i++) top = pick(magnitude(t->x[i]) > magnitude(top), t->x[i], top);
    fv per_top = inverse(top), per_rms = inverse(root(ratio(t->sxx, t->sw)));
    for (int k = 0; k < (t->weighted ? WEIGHTED_FAN + 1 : FAN); k++) {
        float end = k % 2 ? s->last : s->first;
        if (k < FAN)
            inv = per_top * (end * (1.1f - 0.05f * (float)(k / 2)));
        else if (k < WEIGHTED_FAN)
            inv = per_rms * (end / (1.8f + 0.4f * (float)((k - FAN) / 2)));
        else
            inv = inverse(scale);
        scale_sums(t, s, inv, &xl, &ll);
        fv a = ratio(xl, ll);
        iv better = a * xl > best;
        best = pick(better, a * xl, best), scale = pick(better, a, scale);
    }
    return scale;
}

static inline int at_once(int n_blocks) {
    return n_blocks < LANES ? n_blocks : LANES;
}

static void fit_scale(const fit_levels *lv, int len, const float *x, const float *w, int n_blocks,
                      uint16_t *d, uint8_t *code) {
    scan s;
    scan_init(&s, lv);
    for (int i = 0; i < n_blocks; i += LANES, d += LANES, code += LANES * len) {
        tile t;
        fv x_top, w_top;
        int n = at_once(n_blocks - i);
        load(&t, x + i * len, w ? w + i * len : NULL, n, len, &x_top, &w_top);
        fv norm = norm_of(x_top);
        normalise(&t, norm, norm_of(w_top));
        fv scale = best_scale(&t, &s) * x_top, stored = splat(0);
        for (int l = 0; l < n; l++) {
            d[l] = nib_fit_f16(scale[l]);
            stored[l] = nib_f16_to_f32(d[l]);
        }
        scale_codes(&t, &s, inverse(stored * norm), code, n);
    }
}

static void fit_choose(const fit_levels *lv, int len, const float *x, const float *w, int n_blocks,
                       int n_try, const float *scale, uint8_t *choice, uint8_t *code) {
    scan s;
    scan_init(&s, lv);
    for (int i = 0; i < n_blocks;
         i += LANES, scale += LANES * n_try, choice += LANES, code += LANES * len) {
        tile t;
        fv x_top, w_top, best = splat(-1e30f), best_a = splat(0), best_k = splat(0), xl, ll;
        int n = at_once(n_blocks - i);
        load(&t, x + i * len, w ? w + i * len : NULL, n, len, &x_top, &w_top);
        fv norm = norm_of(x_top);
        normalise(&t, norm, norm_of(w_top));
        for (int k = 0; k < n_try; k++) {
            fv a = splat(0);
            for (int l = 0; l < n; l++) a[l] = scale[l * n_try + k];
            a *= norm;
            scale_sums(&t, &s, inverse(a), &xl, &ll);
            fv gain = a * (2 * xl - a * ll);
            iv better = gain > best;
            best = pick(better, gain, best), best_a = pick(better, a, best_a);
            best_k = pick(better, splat((float)k), best_k);
        }
        store_codes(best_k, choice, 1, n);
        scale_codes(&t, &s, inverse(best_a), code, n);
    }
}

/* ---- a scale and an offset: x' = a q - b ---- */

typedef struct affine_sums {
    fv q, qq, xq; /* of w q, w q^2, w x q */
    fv err;       /* of w (x - x')^2 */
} affine_sums;

static inline __attribute__((always_inline)) void
affine_try_of(const tile *t, bool weighted, fv last_code, fv a, fv b, affine_sums *out) {
    affine_sums s = {0};
    fv inv = inverse(a);
    for (int i = 0; i < t->len; i++) {
        fv y = t->x[i] + b, q = code_for(y * inv, last_code), e = y - a * q;
        fv wq = weighted ? t->w[i] * q : q;
        s.q += wq;
        s.qq += wq * q;
        s.xq += wq * t->x[i];
        s.err += (weighted ? t->w[i] * e : e) * e;
    }
    *out = s;
}

/* Of the codes nearest to (x + b) / a. */
static inline __attribute__((always_inline)) void affine_try(const tile *t, fv last_code, fv a,
                                                             fv b, affine_sums *out) {
    if (t->weighted)
        affine_try_of(t, true, last_code, a, b, out);
    else
        affine_try_of(t, false, last_code, a, b, out);
}

static void affine_codes(const tile *t, fv last_code, fv a, fv b, uint8_t *code, int n_groups) {
    fv inv = inverse(a);
    for (int i = 0; i < t->len; i++)
        store_codes(code_for((t->x[i] + b) * inv, last_code), code + i, t->len, n_groups);
}

/* The least-squares a and b for the codes that gave s (b >= 0 where positive); returns their error.
 */
static inline fv affine_solve(const tile *t, const affine_sums *s, bool positive, fv *out_a,
                              fv *out_b) {
    fv det = t->sw * s->qq - s->q * s->q;
    fv a = ratio(t->sw * s->xq - s->q * t->sx, det), b = (a * s->q - t->sx) / t->sw;
    if (positive) {
        iv below = b < 0;
        a = pick(below, ratio(s->xq, s->qq), a), b = pick(below, splat(0), b);
    }
    *out_a = a, *out_b = b;
    return t->sxx + b * (b * t->sw + 2 * t->sx) + a * (a * s->qq - 2 * (s->xq + b * s->q));
}

/* The best real a and b of each lane. The fan spreads the range over one code more than there are,
 * half a code more, none, half a code less, one less, held at either end. With weights a second fan
 * centres the codes on the weighted mean and spans 1.5 .. 3 standard deviations either way, and the
 * codes are chosen once more for what was found. */
static void best_affine(const tile *t, fv last_code, bool positive, fv *best_a, fv *best_b) {
    enum { FAN = 10, WEIGHTED_FAN = FAN + 4 };
    fv low = t->x[0], high = t->x[0], best = splat(1e30f), a, b;
    affine_sums s;
    for (int i = 1; i < t->len; i++) low = at_most(t->x[i], low), high = at_least(t->x[i], high);
    if (positive) low = at_most(low, splat(0));
    fv mean = t->sx / t->sw, spread = root(at_least(t->sxx / t->sw - mean * mean, splat(0)));
    *best_a = splat(0), *best_b = -low;
    for (int k = 0; k < (t->weighted ? WEIGHTED_FAN + 1 : FAN); k++) {
        if (k < FAN) {
            a = (high - low) / (last_code + 1 - 0.5f * (float)(k / 2));
            b = k % 2 ? a * last_code - high : -low;
        } else if (k < WEIGHTED_FAN) {
            fv half = spread * (1.5f + 0.5f * (float)(k - FAN));
            a = 2 * half / last_code;
            b = half - mean;
            if (positive) b = at_least(b, splat(0));
        } else {
            a = *best_a, b = *best_b;
        }
        affine_try(t, last_code, a, b, &s);
        fv err = affine_solve(t, &s, positive, &a, &b);
        iv better = err < best;
        best = pick(better, err, best);
        *best_a = pick(better, a, *best_a), *best_b = pick(better, b, *best_b);
    }
}

static void fit_affine(int n_levels, const float *x, const float *w, int n_blocks, uint16_t *d,
                       uint16_t *m, uint8_t *code) {
    fv last_code = splat((float)(n_levels - 1));
    for (int i = 0; i < n_blocks; i += LANES, d += LANES, m += LANES, code += LANES * 32) {
        tile t;
        fv x_top, w_top, a, b;
        int n = at_once(n_blocks - i);
        load(&t, x + i * 32, w ? w + i * 32 : NULL, n, 32, &x_top, &w_top);
        fv norm = norm_of(x_top);
        normalise(&t, norm, norm_of(w_top));
        best_affine(&t, last_code, false, &a, &b);
        a *= x_top, b *= x_top;
        for (int l = 0; l < n; l++) {
            d[l] = nib_fit_f16(a[l]), m[l] = nib_fit_f16(-b[l]);
            a[l] = nib_f16_to_f32(d[l]), b[l] = -nib_f16_to_f32(m[l]);
        }
        affine_codes(&t, last_code, a * norm, b * norm, code, n);
    }
}

/* ---- 256 weights whose groups have integer scales ---- */

typedef struct super {
    int n_tiles;
    tile t[MAX_TILES];
    float norm, top; /* x here = x outside * norm = x outside / top */
} super;

static void super_load(super *u, const float *x, const float *w, int len) {
    fv x_top = splat(0), w_top = splat(0), xt, wt;
    u->n_tiles = 256 / (LANES * len);
    for (int k = 0; k < u->n_tiles; k++) {
        int at = k * LANES * len;
        load(&u->t[k], x + at, w ? w + at : NULL, LANES, len, &xt, &wt);
        x_top = at_least(xt, x_top), w_top = at_least(wt, w_top);
    }
    u->top = top_lane(x_top);
    fv norm = norm_of(splat(u->top)), w_norm = norm_of(splat(top_lane(w_top)));
    u->norm = norm[0];
    for (int k = 0; k < u->n_tiles; k++) normalise(&u->t[k], norm, w_norm);
}

/* The f16 for v, which is in normalised units, and what that comes to in them. */
static uint16_t super_f16(const super *u, float v, float *stored) {
    uint16_t h = u->norm > 0 ? nib_fit_f16(v * u->top) : 0;
    *stored = nib_f16_to_f32(h) * u->norm;
    return h;
}

/* Tries integer scales s; lanes where they do better than *gain (the error that they take off) keep
 * them. */
static void scale_step(const tile *t, const scan *sc, float d, fv s, fv *best_s, fv *best_xl,
                       fv *best_ll, fv *best_gain) {
    fv xl, ll, a = s * d;
    scale_sums(t, sc, inverse(a), &xl, &ll);
    fv gain = a * (2 * xl - a * ll);
    iv better = gain > *best_gain;
    *best_s = pick(better, s, *best_s), *best_gain = pick(better, gain, *best_gain);
    *best_xl = pick(better, xl, *best_xl), *best_ll = pick(better, ll, *best_ll);
}

static void fit_super_scale(const fit_levels *lv, int len, int s_min, int s_max, const float *x,
                            const float *w, uint16_t *d, int8_t *s, uint8_t *code) {
    super u;
    scan sc;
    fv a[MAX_TILES] = {{0}}, best[MAX_TILES] = {{0}}, low = splat((float)s_min),
       high = splat((float)s_max);
    float top = 0, best_gain = 0, dn, best_dn = 0;
    super_load(&u, x, w, len);
    scan_init(&sc, lv);
    for (int k = 0; k < u.n_tiles; k++) {
        a[k] = best_scale(&u.t[k], &sc);
        best[k] = splat(0);
        for (int l = 0; l < LANES; l++) top = a[k][l] * a[k][l] > top * top ? a[k][l] : top;
    }
    *d = 0;
    uint16_t h = super_f16(&u, top / (float)s_min, &dn);
    for (int round = 0; round < MAX_ROUNDS; round++) {
        float gain = 0, xl = 0, ll = 0;
        fv now[MAX_TILES] = {{0}};
        for (int k = 0; k < u.n_tiles; k++) {
            fv k_xl = splat(0), k_ll = splat(0), k_gain = splat(0);
            fv ideal = nearest(at_most(at_least(a[k] * ratio1(1, dn), low), high));
            now[k] = splat(0);
            for (int step = -2; step <= 2; step++)
                scale_step(&u.t[k], &sc, dn, at_most(at_least(ideal + (float)step, low), high),
                           &now[k], &k_xl, &k_ll, &k_gain);
            fv s_xl = now[k] * k_xl, s_ll = now[k] * now[k] * k_ll;
            for (int l = 0; l < LANES; l++) gain += k_gain[l], xl += s_xl[l], ll += s_ll[l];
            a[k] = now[k] * dn;
        }
        if (!(gain > best_gain)) break;
        best_gain = gain, *d = h, best_dn = dn;
        memcpy(best, now, sizeof best);
        uint16_t next = super_f16(&u, ratio1(xl, ll), &dn);
        if (next == h) break;
        h = next;
    }
    for (int k = 0; k < u.n_tiles; k++) {
        for (int l = 0; l < LANES; l++) s[k * LANES + l] = (int8_t)best[k][l];
        scale_codes(&u.t[k], &sc, inverse(best[k] * best_dn), code + k * LANES * len, LANES);
    }
}

/* Tries integers s and m under d and dmin; lanes where they do better than best keep them. */
static void affine_step(const tile *t, fv last_code, float d, float dmin, fv s, fv m, fv *best_s,
                        fv *best_m, affine_sums *best) {
    affine_sums a;
    affine_try(t, last_code, s * d, m * dmin, &a);
    iv better = a.err < best->err;
    *best_s = pick(better, s, *best_s), *best_m = pick(better, m, *best_m);
    best->q = pick(better, a.q, best->q), best->qq = pick(better, a.qq, best->qq);
    best->xq = pick(better, a.xq, best->xq), best->err = pick(better, a.err, best->err);
}

/* The integers of one tile: around those that a and b ask for, scales one up and down, each with
 * the offset that suits its codes, then offsets one up and down. */
static void affine_integers(const tile *t, fv last_code, fv s_max, float d, float dmin, fv a, fv b,
                            fv *s, fv *m, affine_sums *best) {
    float id = ratio1(1, d), im = ratio1(1, dmin);
    *best = (affine_sums){.err = splat(1e30f)};
    *s = *m = splat(0);
    affine_step(t, last_code, d, dmin, code_for(a * id, s_max), code_for(b * im, s_max), s, m,
                best);
    fv s0 = *s;
    for (int step = -1; step <= 1; step++) {
        fv near_s = code_for(s0 + (float)step, s_max);
        affine_sums q;
        affine_try(t, last_code, near_s * d, *m * dmin, &q);
        fv suits = (near_s * d * q.q - t->sx) / t->sw;
        affine_step(t, last_code, d, dmin, near_s, code_for(suits * im, s_max), s, m, best);
    }
    fv m0 = *m;
    for (int step = -1; step <= 1; step += 2)
        affine_step(t, last_code, d, dmin, *s, code_for(m0 + (float)step, s_max), s, m, best);
}

/* One choice of d and dmin, and all that follows from it. */
typedef struct affine_fit {
    uint16_t d, dmin;
    float dn, mn, err; /* what they come to in normalised units */
    fv s[MAX_TILES], m[MAX_TILES];
    float next_d, next_m; /* what would suit these integers and codes better, normalised */
} affine_fit;

static void affine_round(const super *u, fv last_code, fv s_max, float d, float dmin, const fv *a,
                         const fv *b, affine_fit *f) {
    float ss = 0, sm = 0, mm = 0, sx = 0, mx = 0;
    f->d = super_f16(u, d, &f->dn), f->dmin = super_f16(u, dmin, &f->mn), f->err = 0;
    for (int k = 0; k < u->n_tiles; k++) {
        affine_sums got;
        affine_integers(&u->t[k], last_code, s_max, f->dn, f->mn, a[k], b[k], &f->s[k], &f->m[k],
                        &got);
        fv vs = f->s[k], vm = f->m[k], v_ss = vs * vs * got.qq, v_sm = vs * vm * got.q,
           v_mm = vm * vm * u->t[k].sw, v_sx = vs * got.xq, v_mx = vm * u->t[k].sx;
        for (int l = 0; l < LANES; l++)
            f->err += got.err[l], ss += v_ss[l], sm += v_sm[l], mm += v_mm[l], sx += v_sx[l],
                mx += v_mx[l];
    }
    /* The sum of w (x - d s q + dmin m)^2 is least where its derivatives by d and dmin are 0. */
    float det = ss * mm - sm * sm;
    if (!(det > 1e-6f * ss * mm)) det = 0;
    f->next_d = ratio1(sx * mm - mx * sm, det), f->next_m = ratio1(sx * sm - mx * ss, det);
    if (!(f->next_d > 0 && f->next_m > 0)) f->next_d = ratio1(sx, ss), f->next_m = 0;
}

static void fit_super_affine(int n_levels, int len, int s_max, const float *x, const float *w,
                             uint16_t *d, uint16_t *dmin, uint8_t *s, uint8_t *m, uint8_t *code) {
    super u;
    fv a[MAX_TILES] = {{0}}, b[MAX_TILES] = {{0}}, top_a = splat(0), top_b = splat(0);
    fv last_code = splat((float)(n_levels - 1)), s_top = splat((float)s_max);
    affine_fit best = {.err = 1e30f}, now = {0};
    super_load(&u, x, w, len);
    for (int k = 0; k < u.n_tiles; k++) {
        best_affine(&u.t[k], last_code, true, &a[k], &b[k]);
        top_a = at_least(a[k], top_a), top_b = at_least(b[k], top_b);
    }
    /* With few scales a group of outliers makes the shared steps too coarse for the rest: try finer
     * ones too. */
    for (int start = 0; start < (s_max < 16 ? 2 : 1); start++) {
        float part = (start ? 0.7f : 1) / (float)s_max;
        fv near_a[MAX_TILES], near_b[MAX_TILES];
        memcpy(near_a, a, sizeof a), memcpy(near_b, b, sizeof b);
        now.next_d = top_lane(top_a) * part, now.next_m = top_lane(top_b) * part;
        for (int round = 0; round < MAX_ROUNDS; round++) {
            affine_round(&u, last_code, s_top, now.next_d, now.next_m, near_a, near_b, &now);
            if (!(now.err < best.err)) break;
            best = now;
            for (int k = 0; k < u.n_tiles; k++)
                near_a[k] = now.s[k] * now.dn, near_b[k] = now.m[k] * now.mn;
        }
    }
    *d = best.d, *dmin = best.dmin;
    for (int k = 0; k < u.n_tiles; k++) {
        store_codes(best.s[k], s + k * LANES, 1, LANES);
        store_codes(best.m[k], m + k * LANES, 1, LANES);
        affine_codes(&u.t[k], last_code, best.s[k] * best.dn, best.m[k] * best.mn,
                     code + k * LANES * len, LANES);
    }
}
