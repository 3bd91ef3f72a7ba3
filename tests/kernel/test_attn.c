/* The cache and attention kernels: what is stored against the layout kernels.h draws, attention
 * against a plain softmax in double precision, every set against scalar bit for bit, each query
 * alone against the same query in a crowd bit for bit, and chunks merged against the whole.
 * Positions that no query may see hold NaN throughout. */
#include <math.h>
#include <stdlib.h>
#include "testlib.h"
#include "kernels/kernels.h"

static const char *const names[] = {"scalar", "x86_avx2", "x86_avx512", "x86_amx", "arm_neon"};
static const nib_kernels *sets[NIB_ARRAY_LEN(names)]; /* [0] is scalar */
static int n_sets;

static int find_sets(void **state) {
    (void)state;
    for (size_t i = 0; i < NIB_ARRAY_LEN(names); i++)
        if (nib_kernels_upto(names[i])) sets[n_sets++] = nib_kernels_upto(names[i]);
    return n_sets ? 0 : -1;
}

/* Sanitizers look for overruns, which a few small crowds show as well. */

/* ---- a cache of one head, and what stands in it ---- */

enum { MAX_PAGES = 16 };
typedef struct cache {
    nib_kv_type type;
    int d, dv, n_pages;
    uint8_t *k[MAX_PAGES],
        *v[MAX_PAGES];        /* each page its own allocation: overruns show under ASan */
    float *given_k, *given_v; /* what was put there; NaN: nothing */
} cache;

static void cache_make(cache *c, nib_kv_type type, int d, int dv, int n_pages) {
    *c = (cache){.type = type, .d = d, .dv = dv, .n_pages = n_pages};
    const size_t n = (size_t)n_pages * NIB_PAGE;
    assert_non_null(c->given_k = nib_alloc(n * (size_t)d * sizeof(float)));
    assert_non_null(c->given_v = nib_alloc(n * (size_t)dv * sizeof(float)));
    memset(c->given_k, 0xff, n * (size_t)d * sizeof(float));
    memset(c->given_v, 0xff, n * (size_t)dv * sizeof(float));
    for (int i = 0; i < n_pages; i++) {
        size_t nk = nib_kv_head_bytes(type, d), nv = nib_kv_head_bytes(type, dv);
        assert_non_null(c->k[i] = nib_alloc(nk));
        assert_non_null(c->v[i] = nib_alloc(nv));
        memset(c->k[i], 0xff, nk); /* NaN as floats, halves and scales */
        memset(c->v[i], 0xff, nv);
    }
}
static void cache_free(cache *c) {
    for (int i = 0; i < c->n_pages; i++) nib_free(c->k[i]), nib_free(c->v[i]);
    nib_free(c->given_k), nib_free(c->given_v);
}
static void cache_put(cache *c, const nib_kernels *s, int pos, const float *k, const float *v) {
    int page = pos / NIB_PAGE;
    memcpy(c->given_k + (size_t)pos * (size_t)c->d, k, (size_t)c->d * sizeof *k);
    memcpy(c->given_v + (size_t)pos * (size_t)c->dv, v, (size_t)c->dv * sizeof *v);
    s->kv_store(c->type, k, c->d, v, c->dv, pos % NIB_PAGE, c->k[page], c->v[page]);
}

static float bf16_at(const uint8_t *p) {
    return nib_bits_f32((uint32_t)nib_load_u16(p) << 16);
}
/* Reads by the layout's letter. */
static float cache_k(const cache *c, int pos, int i) {
    const uint8_t *p = c->k[pos / NIB_PAGE];
    const int tile = pos % NIB_PAGE / 16, lane = pos % 16, at = (tile * c->d + i) * 16 + lane;
    if (c->type == NIB_KV_F16) return nib_f16_to_f32(nib_load_u16(p + 2 * at));
    if (c->type == NIB_KV_F32) return nib_bits_f32(nib_load_u32(p + 4 * at));
    if (c->type == NIB_KV_I16)
        return nib_bits_f32(nib_load_u32(p + 4 * (pos % NIB_PAGE))) *
               (int16_t)nib_load_u16(p + 256 + 4 * ((tile * c->d / 2 + i / 2) * 16 + lane) +
                                     2 * (i % 2));
    if (c->type == NIB_KV_BF16)
        return bf16_at(p + 1024 * (tile * ((c->d + 31) / 32) + i / 32) + 64 * (i % 32 / 2) +
                       4 * lane + 2 * (i % 2));
    p += (tile * (c->d / 32) + i / 32) * (32 + 512);
    return nib_f16_to_f32(nib_load_u16(p + 2 * lane)) *
           (int8_t)p[32 + (i % 32 / 4 * 16 + lane) * 4 + i % 4];
}
static float cache_v(const cache *c, int pos, int i) {
    const uint8_t *p = c->v[pos / NIB_PAGE];
    const int at = pos % NIB_PAGE * c->dv + i;
    if (c->type == NIB_KV_F16) return nib_f16_to_f32(nib_load_u16(p + 2 * at));
    if (c->type == NIB_KV_F32) return nib_bits_f32(nib_load_u32(p + 4 * at));
    if (c->type == NIB_KV_I16)
        return nib_bits_f32(nib_load_u32(p + 4 * (pos % NIB_PAGE))) *
               (int16_t)nib_load_u16(p + 256 +
                                     4 * (pos % NIB_PAGE / 2 * ((c->dv + 15) / 16 * 16) + i) +
                                     2 * (pos % 2));
    if (c->type == NIB_KV_BF16) {
        /* pairs of positions: 0 1 of 16, 0 1 of the next 16, 2 3 of 16 ... */
        static const int row[] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
        return bf16_at(p + 1024 * (pos % NIB_PAGE / 32 * ((c->dv + 15) / 16) + i / 16) +
                       64 * row[pos % 32 / 2] + 4 * (i % 16) + 2 * (pos % 2));
    }
    p += (pos % NIB_PAGE * (c->dv / 32) + i / 32) * 34;
    return nib_f16_to_f32(nib_load_u16(p)) * (int8_t)p[2 + i % 32];
}

/* What a query meets: as stored, but of I16, whose keys are turned, as given. */
static double met_k(const cache *c, int pos, int i) {
    return (double)(c->type == NIB_KV_I16 ? c->given_k[pos * c->d + i] : cache_k(c, pos, i));
}
static double met_v(const cache *c, int pos, int i) {
    return (double)(c->type == NIB_KV_I16 ? c->given_v[pos * c->dv + i] : cache_v(c, pos, i));
}

static void fill(nib_rng *r, float *x, int n, float size) {
    for (int i = 0; i < n; i++) x[i] = size * nib_rng_normal(r);
}
static void cache_fill(cache *c, nib_rng *r, int lo, int hi) {
    float k[512], v[512];
    for (int p = lo; p < hi; p++) {
        fill(r, k, c->d, 1);
        fill(r, v, c->dv, 1);
        cache_put(c, sets[0], p, k, v);
    }
}

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(nib_kv_head_bytes(NIB_KV_F32, 64), 64 * 64 * 4);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_F16, 80), 64 * 80 * 2);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_Q8_0, 128), 64 * 4 * 34);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_Q8_0, 80), 0);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_I16, 72), 256 + 64 * 80 * 2);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_I16, 66), 0);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_I16, 516), 0);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_BF16, 64), 64 * 64 * 2);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_BF16, 65), 64 * 96 * 2);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_BF16, 513), 0);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_F16, 0), 0);
    assert_int_equal(nib_kv_head_bytes(NIB_KV_F16, -16), 0);
}

/* Stored = rounded once (f16, bf16), or within half a step (q8_0, and i16, whose keys are turned
 * first: they keep their length); the other positions are not touched. */
static void test_store(void **state) {
    (void)state;
    static const int dims[] = {8, 16, 33, 64, 80, 128, 256};
    nib_rng r = {.seed = 3};
    long cases = 0;
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++)
        for (size_t j = 0; j < NIB_ARRAY_LEN(dims); j++)
            for (int at = 0; at < NIB_PAGE; at += 1 + (int)(nib_rng_u64(&r) % 7)) {
                const int d = dims[j], dv = dims[(j * 3 + (size_t)at) % NIB_ARRAY_LEN(dims)];
                if (!nib_kv_head_bytes((nib_kv_type)t, d) || !nib_kv_head_bytes((nib_kv_type)t, dv))
                    continue;
                float k[256], v[256];
                fill(&r, k, d, at % 3 ? 1.0f : 1e-3f);
                fill(&r, v, dv, at % 3 ? 1.0f : 1e3f);
                cache c[NIB_ARRAY_LEN(names)];
                for (int s = 0; s < n_sets; s++, cases++) {
                    cache_make(&c[s], (nib_kv_type)t, d, dv, 1);
                    cache_put(&c[s], sets[s], at, k, v);
                    assert_memory_equal(c[s].k[0], c[0].k[0], nib_kv_head_bytes((nib_kv_type)t, d));
                    assert_memory_equal(c[s].v[0], c[0].v[0],
                                        nib_kv_head_bytes((nib_kv_type)t, dv));
                }
                for (int side = 0; side < 2; side++) {
                    const float *x = side ? v : k;
                    const int nx = side ? dv : d;
                    double length = 0, kept = 0;
                    for (int i = 0; i < nx; i++) {
                        float got = side ? cache_v(&c[0], at, i) : cache_k(&c[0], at, i);
                        length += (double)x[i] * x[i], kept += (double)got * got;
                    }
                    const double slack = t == NIB_KV_Q8_0   ? 0.03
                                         : t == NIB_KV_BF16 ? 8e-3
                                         : t == NIB_KV_I16  ? 1e-4
                                                            : 2e-3;
                    assert_true(fabs(kept - length) <= slack * length);
                    for (int p = 0; p < NIB_PAGE; p++)
                        for (int i = 0; i < (side ? dv : d); i++) {
                            float got = side ? cache_v(&c[0], p, i) : cache_k(&c[0], p, i), max = 0;
                            if (p != at) {
                                assert_true(isnan(got));
                                continue;
                            }
                            for (int b = i / 32 * 32; b < i / 32 * 32 + 32; b++)
                                if (t == NIB_KV_Q8_0) max = fmaxf(max, fabsf(x[b]));
                            float step = nib_f16_to_f32(nib_f32_to_f16(max / 127));
                            if (t == NIB_KV_I16)
                                assert_true(!side || fabs(got - x[i]) <=
                                                         0.501 * sqrt(length) / NIB_KV_I16_MOST);
                            else if (t == NIB_KV_Q8_0)
                                assert_true(fabsf(got - x[i]) <= 0.565f * step);
                            else if (t == NIB_KV_F32)
                                assert_true(got == x[i]);
                            else if (t == NIB_KV_BF16)
                                assert_true(fabsf(got - x[i]) <= fabsf(x[i]) / 256);
                            else
                                assert_true(got == nib_f16_to_f32(nib_f32_to_f16(x[i])));
                        }
                }
                for (int s = 0; s < n_sets; s++) cache_free(&c[s]);
            }
    print_message("kv_store: %ld pages, 0 differ\n", cases);
}

/* Blocks that 8 bits cannot hold become NaN as a whole; tiny ones become 0; ties go to even. */
static void test_store_extremes(void **state) {
    (void)state;
    for (int s = 0; s < n_sets; s++) {
        static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
        cache c;
        cache_make(&c, NIB_KV_Q8_0, 64, 64, 1);
        for (int b = 0; b < 4; b++) {
            float x[64] = {1, 2, 3};
            x[17] = bad[b];
            x[40] = 127, x[41] = 2.5f, x[42] = -3.5f, x[43] = -0.5f, x[44] = 0.49f, x[45] = -127;
            cache_put(&c, sets[s], b, x, x);
            for (int i = 0; i < 32; i++)
                assert_true(isnan(cache_k(&c, b, i)) && isnan(cache_v(&c, b, i)));
            static const float want[] = {127, 2, -4, 0, 0, -127};
            for (int i = 0; i < 6; i++)
                assert_true(cache_k(&c, b, 40 + i) == want[i] && cache_v(&c, b, 40 + i) == want[i]);
        }
        float x[64] = {1e-30f, -1e-38f, 0, -0.0f};
        cache_put(&c, sets[s], 9, x, x);
        for (int i = 0; i < 64; i++) assert_true(cache_k(&c, 9, i) == 0 && cache_v(&c, 9, i) == 0);
        cache_free(&c);

        static const float halves[] = {NAN,   INFINITY, -INFINITY, 65504, 65519, 65520,
                                       6e-8f, 1e-9f,    -0.0f,     2049,  2051};
        float y[16] = {0};
        memcpy(y, halves, sizeof halves);
        cache_make(&c, NIB_KV_F16, 16, 16, 1);
        cache_put(&c, sets[s], 5, y, y);
        for (int i = 0; i < 16; i++) {
            uint32_t a = nib_f32_bits(nib_f16_to_f32(nib_f32_to_f16(y[i])));
            assert_int_equal(a, nib_f32_bits(cache_k(&c, 5, i)));
            assert_int_equal(a, nib_f32_bits(cache_v(&c, 5, i)));
        }
        cache_free(&c);
    }
}

/* Lengths whose squares floats do not hold are kept all the same; below 2^-100 is 0, and what is
 * no number makes the whole position NaN. */
static void test_store_i16_extremes(void **state) {
    (void)state;
    static const float sizes[] = {1e-28f, 1e-18f, 1, 1e15f, 1e25f, 1e37f};
    enum { D = 64 };
    float x[D], ones[D];
    nib_rng r = {.seed = 17};
    for (int i = 0; i < D; i++) ones[i] = 1;
    for (int s = 0; s < n_sets; s++) {
        cache c;
        cache_make(&c, NIB_KV_I16, D, D, 1);
        for (int j = 0; j < (int)NIB_ARRAY_LEN(sizes); j++) {
            fill(&r, x, D, sizes[j]);
            cache_put(&c, sets[s], j, x, x);
            double given = 0, k = 0, v = 0;
            for (int i = 0; i < D; i++) {
                given += (double)x[i] * x[i];
                k += (double)cache_k(&c, j, i) * (double)cache_k(&c, j, i);
                v += (double)cache_v(&c, j, i) * (double)cache_v(&c, j, i);
            }
            assert_true(fabs(k / given - 1) < 0.01 && fabs(v / given - 1) < 0.01);
        }
        for (int i = 0; i < D; i++) x[i] = 1e-32f;
        cache_put(&c, sets[s], 20, x, x);
        for (int i = 0; i < D; i++) assert_true(cache_k(&c, 20, i) == 0 && cache_v(&c, 20, i) == 0);
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        for (int b = 0; b < 3; b++)
            for (int side = 0; side < 2; side++) {
                memcpy(x, ones, sizeof x);
                x[5] = bad[b];
                cache_put(&c, sets[s], 30, side ? ones : x, side ? x : ones);
                for (int i = 0; i < D; i++) assert_true(isnan(cache_k(&c, 30, i)));
            }
        cache_free(&c);
    }
}

/* ---- one chunk ---- */

enum { MAX_Q = 200, MAX_D = 320 };
typedef struct result {
    float m[MAX_Q], s[MAX_Q], o[MAX_Q * MAX_D];
} result;

/* Queries [first, first + n) of the caller's. */
static void attend(const nib_kernels *set, const cache *c, int64_t pos0, int first, int n,
                   const float *const *q, const int64_t *lo, const int64_t *hi, float softcap,
                   bool more, result *out) {
    const size_t scratch_bytes = NIB_ROUND_UP(nib_attn_scratch(c->d, c->dv), 64);
    float *scratch = aligned_alloc(64, scratch_bytes);
    assert_non_null(scratch);
    memset(scratch, 0xff, scratch_bytes);
    if (!more) memset(out, 0xff, sizeof *out);
    /* queries as the cache's type wants them, each its own allocation */
    const float *mine[MAX_Q];
    for (int i = 0; i < n; i++) {
        float *x = nib_alloc((size_t)c->d * sizeof *x);
        assert_non_null(x);
        memcpy(x, q[first + i], (size_t)c->d * sizeof *x);
        set->attn_query(c->type, x, c->d);
        mine[i] = x;
    }
    nib_attn a = {.type = c->type,
                  .d = c->d,
                  .dv = c->dv,
                  .pos0 = pos0,
                  .n_q = n,
                  .q = mine,
                  .lo = lo + first,
                  .hi = hi + first,
                  .softcap = softcap,
                  .m = out->m,
                  .s = out->s,
                  .o = out->o,
                  .more = more,
                  .scratch = scratch};
    /* pages that none of these queries sees are not there */
    int64_t from = INT64_MAX, to = 0;
    for (int i = first; i < first + n; i++)
        if (lo[i] < hi[i]) from = NIB_MIN(from, lo[i]), to = NIB_MAX(to, hi[i]);
    for (int p = 0; p < NIB_ATTN_PAGES; p++) {
        int64_t start = pos0 + p * NIB_PAGE;
        if (start >= to || start + NIB_PAGE <= from) continue;
        a.k[p] = c->k[start / NIB_PAGE], a.v[p] = c->v[start / NIB_PAGE];
    }
    set->attn(&a);
    for (int i = 0; i < n; i++) nib_free((void *)(uintptr_t)mine[i]);
    free(scratch);
}

/* Softmax over [lo, hi) in double: m, s, o as attn gives them. */
static void attend_ref(const cache *c, int lo, int hi, const float *q, float softcap, double *m,
                       double *s, double *o) {
    static double w[MAX_PAGES * NIB_PAGE];
    *m = -INFINITY, *s = 0;
    for (int p = lo; p < hi; p++) {
        w[p] = 0;
        for (int i = 0; i < c->d; i++) w[p] += (double)q[i] * met_k(c, p, i);
        if (softcap > 0) w[p] = softcap * tanh(w[p] / softcap);
        *m = fmax(*m, w[p]);
    }
    for (int i = 0; i < c->dv; i++) o[i] = 0;
    for (int p = lo; p < hi; p++) {
        double e = exp(w[p] - *m);
        *s += e;
        for (int i = 0; i < c->dv; i++) o[i] += e * met_v(c, p, i);
    }
}

/* Queries of unit variance scaled by 1/sqrt(D) against K of unit variance: a score errs by some
 * 1e-6, so do the weights, and o / s by that times |v|. The integers of I16 err by some 1e-4 of the
 * largest weight; with BF16 queries and weights have 8 significant bits: some 2e-3. */
static double slack_of(nib_kv_type t) {
    return t == NIB_KV_BF16 ? 2e-2 : t == NIB_KV_I16 ? 1e-3 : 1e-5;
}
static void compare_ref(const cache *c, int lo, int hi, const float *q, float softcap, float m,
                        float s, const float *o, double *worst) {
    double dm, ds, d_o[MAX_D];
    attend_ref(c, lo, hi, q, softcap, &dm, &ds, d_o);
    if (lo >= hi) {
        assert_true(m == -INFINITY && s == 0);
        for (int i = 0; i < c->dv; i++) assert_true(o[i] == 0);
        return;
    }
    const double slack = slack_of(c->type);
    /* BF16 may count from another score than the largest */
    assert_true(c->type == NIB_KV_BF16 || fabs(m - dm) <= slack);
    assert_true(fabs((double)s * exp((double)m - dm) - ds) <= slack * ds);
    for (int i = 0; i < c->dv; i++) {
        double err = fabs(o[i] / (double)s - d_o[i] / ds);
        *worst = fmax(*worst, err);
        if (!(err <= slack))
            fail_msg("o[%d] = %g, not %g (d %d)", i, o[i] / (double)s, d_o[i] / ds, c->d);
    }
}

typedef enum ranges { CAUSAL, STACKED, WINDOW, WHOLE, MIXED, N_RANGES } ranges;
static void draw_range(ranges kind, nib_rng *r, int i, int n, int64_t pos0, int64_t *lo,
                       int64_t *hi) {
    const int C = NIB_ATTN_CHUNK;
    int at = (int)(nib_rng_u64(r) % 1000);
    *lo = 0;
    switch (kind) {
    case CAUSAL: *hi = pos0 + 100 - n + i + 1; break; /* the first may see nothing here */
    case STACKED: *hi = pos0 + C - 20 + i / 4; break; /* 4 heads a token */
    case WINDOW: *hi = pos0 + 60 + i, *lo = *hi - 37; break;
    case WHOLE: *hi = pos0 + 5 * C; break;
    default:
        *lo = pos0 - 10 + at % C, *hi = pos0 - 20 + at * 7 % (C + 40);
        break; /* anything, also nothing */
    }
    if (*lo < 0) *lo = 0;
    if (*hi < 0) *hi = 0;
}

static void test_chunk(void **state) {
    (void)state;
    static const struct {
        int d, dv;
    } dims[] = {{64, 64}, {8, 8},     {32, 96},   {80, 80},   {33, 17},
                {96, 40}, {128, 128}, {192, 128}, {256, 256}, {320, 64}};
    static const int counts[] = {1, 2, 3, 4, 5, 7, 8, 12, 13, 32, 48, 49, 100, 130};
    static float q_mem[MAX_Q * MAX_D];
    static result crowd, other, alone;
    const float *q[MAX_Q];
    int64_t lo[MAX_Q], hi[MAX_Q];
    nib_rng r = {.seed = 5};
    long n_ref = 0, n_same = 0, n_alone = 0;
    double worst = 0;
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++)
        for (size_t j = 0; j < NIB_ARRAY_LEN(dims); j++) {
            const int d = dims[j].d, dv = dims[j].dv;
            if (!nib_kv_head_bytes((nib_kv_type)t, d) || !nib_kv_head_bytes((nib_kv_type)t, dv))
                continue;
            for (int kind = 0; kind < N_RANGES; kind++) {
                if (test_quick() && (kind + (int)j + t) % 3) continue;
                int n = test_quick() && d != 8 ? counts[nib_rng_u64(&r) % 9]
                                               : counts[nib_rng_u64(&r) % NIB_ARRAY_LEN(counts)];
                const int64_t pos0 = kind % 2 ? NIB_ATTN_CHUNK : 0;
                const float softcap = nib_rng_u64(&r) % 3 ? 0 : 2;
                fill(&r, q_mem, n * d, 1 / sqrtf((float)d));
                int64_t first = pos0 + NIB_ATTN_CHUNK, last = 0;
                for (int i = 0; i < n; i++) {
                    q[i] = q_mem + i * d;
                    draw_range((ranges)kind, &r, i, n, pos0, &lo[i], &hi[i]);
                    if (lo[i] < hi[i]) first = NIB_MIN(first, lo[i]), last = NIB_MAX(last, hi[i]);
                }
                cache c;
                cache_make(&c, (nib_kv_type)t, d, dv, 2 * NIB_ATTN_PAGES);
                /* what someone sees is written, the rest stays NaN */
                cache_fill(&c, &r, (int)NIB_MAX(first, pos0),
                           (int)NIB_MIN(last, pos0 + NIB_ATTN_CHUNK));

                attend(sets[0], &c, pos0, 0, n, q, lo, hi, softcap, false, &crowd);
                for (int i = 0; i < n; i++, n_ref++)
                    compare_ref(&c, (int)NIB_MAX(lo[i], pos0),
                                (int)NIB_MIN(hi[i], pos0 + NIB_ATTN_CHUNK), q[i], softcap,
                                crowd.m[i], crowd.s[i], crowd.o + i * dv, &worst);
                for (int s = 0; s < n_sets; s++) {
                    attend(sets[s], &c, pos0, 0, n, q, lo, hi, softcap, false, &other);
                    n_same += n;
                    assert_memory_equal(other.m, crowd.m, sizeof crowd.m);
                    assert_memory_equal(other.s, crowd.s, sizeof crowd.s);
                    assert_memory_equal(other.o, crowd.o, sizeof crowd.o);
                    for (int i = 0; i < n; i += n < 20 ? 1 : 7) {
                        const int some = NIB_MIN(1 + i % 3, n - i);
                        attend(sets[s], &c, pos0, i, some, q, lo, hi, softcap, false, &alone);
                        n_alone += some;
                        assert_memory_equal(alone.m, crowd.m + i, (size_t)some * 4);
                        assert_memory_equal(alone.s, crowd.s + i, (size_t)some * 4);
                        assert_memory_equal(alone.o, crowd.o + i * dv, (size_t)(some * dv) * 4);
                    }
                }
                cache_free(&c);
            }
        }
    print_message("attention: %ld queries against double (worst %.1e), %ld against scalar, %ld "
                  "alone; 0 differ\n",
                  n_ref, worst, n_same, n_alone);
}

/* Scores so far apart that weights counted from the first overflow: still every set as scalar, and
 * whoever wins has won. */
static void test_far(void **state) {
    (void)state;
    enum { D = 64, N = 37 };
    static float q_mem[N * D];
    static result want, got;
    const float *q[N];
    int64_t lo[N], hi[N];
    nib_rng r = {.seed = 31};
    long n_far = 0;
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++) {
        cache c;
        cache_make(&c, (nib_kv_type)t, D, D, NIB_ATTN_PAGES);
        cache_fill(&c, &r, 0, NIB_ATTN_CHUNK);
        for (int i = 0; i < N; i++) {
            q[i] = q_mem + i * D, lo[i] = i * 5, hi[i] = NIB_ATTN_CHUNK - i;
            fill(&r, q_mem + i * D, D, i % 3 ? 4 * (float)(i + 1) : 0.1f);
        }
        for (int s = 0; s < n_sets; s++) {
            attend(sets[s], &c, 0, 0, N, q, lo, hi, 0, false, s ? &got : &want);
            if (s) assert_memory_equal(&got, &want, sizeof got);
        }
        for (int i = 0; i < N; i++) {
            double m, sum, o[D], first;
            attend_ref(&c, (int)lo[i], (int)hi[i], q[i], 0, &m, &sum, o);
            attend_ref(&c, (int)lo[i], (int)lo[i] + 1, q[i], 0, &first, &sum, o);
            assert_true(isfinite(want.s[i]) && want.s[i] > 0);
            if (m - first < 60) continue;
            assert_true(fabs((double)want.m[i] - m) <= 1e-2 * m);
            n_far++;
        }
        cache_free(&c);
    }
    assert_true(n_far > 50);
}

/* ---- chunks merged ---- */

static void test_merge(void **state) {
    (void)state;
    static const struct {
        int64_t lo, hi;
    } spans[] = {{0, 1},     {0, 256},   {0, 257},   {0, 1000}, {300, 900},
                 {255, 257}, {700, 701}, {512, 512}, {900, 40}};
    enum { D = 64, DV = 48 };
    nib_rng r = {.seed = 9};
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++) {
        cache c;
        if (!nib_kv_head_bytes((nib_kv_type)t, DV)) continue;
        cache_make(&c, (nib_kv_type)t, D, DV, MAX_PAGES);
        cache_fill(&c, &r, 0, MAX_PAGES * NIB_PAGE);
        for (size_t j = 0; j < NIB_ARRAY_LEN(spans); j++)
            for (int s = 0; s < n_sets; s++) {
                static result both;
                float q[D], o[DV], m = -INFINITY, sum = 0;
                const float *qs = q;
                fill(&r, q, D,
                     s % 2 ? 4.0f : 0.125f); /* also sharp ones: some chunks weigh nothing */
                memset(o, 0xff, sizeof o);   /* nothing there yet, and not read */
                for (int64_t p = 0; p < MAX_PAGES * NIB_PAGE; p += NIB_ATTN_CHUNK) {
                    static result part; /* a chunk alone */
                    attend(sets[s], &c, p, 0, 1, &qs, &spans[j].lo, &spans[j].hi, 0, false, &part);
                    sets[s]->attn_merge(&m, &sum, o, part.m[0], part.s[0], part.o, DV);
                    attend(sets[s], &c, p, 0, 1, &qs, &spans[j].lo, &spans[j].hi, 0, p > 0, &both);
                }
                if (m == -INFINITY) memset(o, 0, sizeof o);
                /* joined by the kernel itself, the same */
                assert_memory_equal(&both.m[0], &m, sizeof m);
                assert_memory_equal(&both.s[0], &sum, sizeof sum);
                assert_memory_equal(both.o, o, sizeof o);
                double dm, ds, d_o[DV];
                attend_ref(&c, (int)spans[j].lo, (int)spans[j].hi, q, 0, &dm, &ds, d_o);
                sets[s]->attn_finish(o, sum, DV);
                for (int i = 0; i < DV; i++)
                    assert_true(fabs(o[i] - (ds > 0 ? d_o[i] / ds : 0)) <=
                                15 * slack_of((nib_kv_type)t));
            }
        cache_free(&c);
    }
}

/* Something seen that cannot be weighed is NaN, never silently nothing; a window of NaN keys
 * poisons only those that see it. */
static void test_nan(void **state) {
    (void)state;
    enum { D = 32 };
    nib_rng r = {.seed = 21};
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++) {
        cache c;
        cache_make(&c, (nib_kv_type)t, D, D, NIB_ATTN_PAGES);
        float none[D];
        for (int i = 0; i < D; i++) none[i] = NAN;
        cache_fill(&c, &r, 0, 20);
        for (int i = 20; i < 30; i++) cache_put(&c, sets[0], i, none, none);
        cache_fill(&c, &r, 30, 64);
        float q_mem[16 * D];
        const float *q[16];
        int64_t lo[16], hi[16];
        fill(&r, q_mem, 16 * D, 0.1f);
        for (int i = 0; i < 16; i++) q[i] = q_mem + i * D, lo[i] = i == 5 ? 22 : 0, hi[i] = 12 + i;
        for (int s = 0; s < n_sets; s++) {
            static result out;
            attend(sets[s], &c, 0, 0, 16, q, lo, hi, 0, false, &out);
            for (int i = 0; i < 16; i++) {
                if (lo[i] >= hi[i])
                    assert_true(out.m[i] == -INFINITY && out.s[i] == 0 && out.o[i * D] == 0);
                else
                    assert_true(isnan(out.s[i]) == (hi[i] > 20) &&
                                isnan(out.o[i * D]) == (hi[i] > 20));
                float m = 1, sum = 1, o[D] = {0};
                sets[s]->attn_merge(&m, &sum, o, out.m[i], out.s[i], out.o + i * D, D);
                sets[s]->attn_finish(o, sum, D);
                assert_true(isnan(o[3]) == (lo[i] < hi[i] && hi[i] > 20));
            }
            int64_t l = 24, h = 28; /* nothing but NaN */
            attend(sets[s], &c, 0, 0, 1, q, &l, &h, 0, false, &out);
            assert_true(isnan(out.m[0]) && isnan(out.s[0]) && isnan(out.o[0]));
        }
        cache_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),          cmocka_unit_test(test_store),
        cmocka_unit_test(test_store_extremes), cmocka_unit_test(test_store_i16_extremes),
        cmocka_unit_test(test_chunk),          cmocka_unit_test(test_far),
        cmocka_unit_test(test_merge),          cmocka_unit_test(test_nan),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}
