/* What every way of attention needs: what a query sees of a chunk, and how a chunk joins those
 * before it. Included after a lanes_<isa>.h and vecmath.h. */
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
#endif
