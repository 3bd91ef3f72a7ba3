/* The matrix kernels. Scalar is held to the formats' own to_f32 and to sums in double; every
 * instruction set that this machine has is held to scalar bit for bit, over odd shapes, extreme
 * codes and orderly nonsense. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include "testlib.h"
#include "kernels/kernels.h"

static const nib_dtype all[] = {
#define NIB_DTYPE(NAME, ...) NIB_##NAME,
#include "tensor/dtypes.def"
#undef NIB_DTYPE
};
static const char *const isas[] = {
#define NIB_ISA(prefix, ...) #prefix,
#include "kernels/isa.def"
#undef NIB_ISA
};

static nib_rng rng = {.seed = 2024};
static uint32_t random_below(uint32_t n) {
    return (uint32_t)(nib_rng_u64(&rng) % n);
}

static const nib_kernels *scalar(void) {
    const nib_kernels *k = nib_kernels_upto("scalar");
    assert_non_null(k);
    return k;
}

static void *take(size_t n) {
    void *p = nib_alloc_pages(n ? n : 1);
    assert_non_null(p);
    return p;
}

/* ---- matrices ---- */

/* WILD: any bytes at all; ONES: nearly every bit set; LOW: all bytes -128; all but WILD give values
 * below 100 */
typedef enum fill { TAME, WILD, ZEROS, ONES, LOW } fill;

static bool is_tame(const nib_dtype_info *info, const uint8_t *block) {
    float v[256];
    info->to_f32(block, v, info->block_len);
    for (uint32_t i = 0; i < info->block_len; i++)
        if (!(fabsf(v[i]) < 100)) return false;
    return true;
}

static void random_block(const nib_dtype_info *info, fill how, uint8_t *block) {
    do {
        uint64_t bits = 0, ones = 0;
        for (uint32_t i = 0; i < info->block_bytes; i++, bits >>= 8, ones >>= 3) {
            if (i % 8 == 0) bits = nib_rng_u64(&rng), ones = nib_rng_u64(&rng);
            block[i] = how == ZEROS              ? 0
                       : how == LOW              ? 0x80
                       : how == ONES && ones & 7 ? 0xff
                                                 : (uint8_t)bits;
        }
    } while (how != WILD && !is_tame(info, block));
}

/* Blocks drawn from a pool: tame ones are rare among random bytes. */
static void fill_blocks(const nib_dtype_info *info, fill how, uint8_t *p, size_t bytes) {
    static uint8_t pool[24][256];
    for (int i = 0; i < 24; i++) random_block(info, how, pool[i]);
    for (uint8_t *end = p + bytes; p < end; p += info->block_bytes)
        memcpy(p, pool[random_below(24)], info->block_bytes);
}

typedef struct matrix {
    nib_mat raw, packed;
    size_t raw_bytes, packed_bytes;
} matrix;

static matrix make_matrix(nib_dtype t, int64_t n, int64_t k, fill how) {
    const nib_dtype_info *info = nib_dtype_get(t);
    matrix m = {.raw = {.dtype = t, .n = n, .k = k, .stride = nib_dtype_bytes(t, k)}};
    assert_true(m.raw.stride > 0);
    m.raw_bytes = m.raw.stride * (size_t)n;
    uint8_t *raw = take(m.raw_bytes);
    fill_blocks(info, how, raw, m.raw_bytes);
    m.raw.data = raw;
    if (nib_mat_can_pack(t, k)) {
        m.packed = m.raw;
        m.packed.packed = true;
        m.packed.stride = nib_mat_panel_bytes(t, k);
        assert_int_equal(m.packed.stride, 16 * m.raw.stride);
        m.packed_bytes = (size_t)((n + 15) / 16) * m.packed.stride;
        uint8_t *panels = take(m.packed_bytes);
        for (int64_t p = 0; p * 16 < n; p++)
            scalar()->pack(t, raw + (size_t)p * 16 * m.raw.stride, m.raw.stride,
                           (int)NIB_MIN(16, n - p * 16), k, panels + (size_t)p * m.packed.stride);
        m.packed.data = panels;
    }
    return m;
}
static const nib_mat *best_form(const matrix *m) {
    return m->packed.data ? &m->packed : &m->raw;
}
static void free_matrix(matrix *m) {
    nib_free_pages((void *)(uintptr_t)m->raw.data, m->raw_bytes);
    if (m->packed.data) nib_free_pages((void *)(uintptr_t)m->packed.data, m->packed_bytes);
}

/* ---- activations ---- */

typedef struct acts {
    nib_act a;
    float *x;
    void *mem;
    size_t x_bytes, bytes;
    int64_t ldx;
} acts;

static float random_x(int how) {
    float x = nib_rng_normal(&rng);
    if (how == 1) { /* nonsense among it */
        static const float odd[] = {NAN,    INFINITY, -INFINITY, FLT_MAX, -FLT_MAX,
                                    1e-45f, -1e-38f,  0,         1e-31f,  -3e38f};
        if (random_below(16) == 0) return odd[random_below(NIB_ARRAY_LEN(odd))];
    }
    if (how >= 2) return how == 2 ? 1 : -1; /* every q is 127, or -127: the largest sums */
    return x;
}

static void quantise(const nib_kernels *k, nib_act_kind kind, const float *x, int64_t ldx,
                     int64_t t0, int64_t t1, nib_act *a) {
    if (kind == NIB_ACT_F32) {
        nib_act_tile(a, t0, t1);
        return;
    }
    (kind == NIB_ACT_FAST  ? k->quantise_fast
     : kind == NIB_ACT_Q8K ? k->quantise_k
                           : k->quantise)(x, ldx, t0, t1, a);
}

/* The FAST group of column c. */
static int64_t group_of(int64_t k, int64_t c) {
    int64_t g = 0;
    while (nib_fast_group(k, g + 1) * 64 <= c) g++;
    return g;
}

/* Activation number c of token t as the kernels see it. */
static double act_value(const acts *s, nib_act_kind kind, int64_t t, int64_t c) {
    const nib_act *a = &s->a;
    if (kind == NIB_ACT_F32) return (double)s->x[t * s->ldx + c];
    if (kind == NIB_ACT_Q8)
        return (double)a->d[c / 32 * a->n_tok + t] * a->q[(c / 32 * a->n_tok + t) * 32 + c % 32];
    int64_t g = kind == NIB_ACT_FAST ? group_of(a->k, c) : c / 256;
    return (double)a->kd[g * a->n_tok + t] * a->kq[(c / 64 * a->n_tok + t) * 64 + c % 64];
}

static acts make_acts(const nib_kernels *k, nib_act_kind kind, int64_t n_tok, int64_t cols,
                      int how) {
    acts s = {.ldx = cols + 3};
    s.x_bytes = (size_t)(n_tok * s.ldx) * 4;
    s.x = take(s.x_bytes);
    for (int64_t i = 0; i < n_tok * s.ldx; i++) s.x[i] = random_x(how);
    s.bytes = nib_act_bytes(n_tok, cols);
    s.mem = take(s.bytes);
    nib_act_bind(&s.a, s.mem, n_tok, cols);
    s.a.x = s.x;
    s.a.ldx = s.ldx;
    /* in two parts, as threads would */
    quantise(k, kind, s.x, s.ldx, 0, n_tok / 2, &s.a);
    quantise(k, kind, s.x, s.ldx, n_tok / 2, n_tok, &s.a);
    return s;
}
static void free_acts(acts *s) {
    nib_free_pages(s->x, s->x_bytes);
    nib_free_pages(s->mem, s->bytes);
}

/* ---- products ---- */

enum { GUARD = 0x7fc12345 }; /* a NaN no kernel makes: where nothing may be written */

/* [T, n + 5] with the last five columns as a fence; 'step' panels a call. */
typedef void (*matmul_fn)(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                          int64_t ldy, void *scratch);
static float *product_by(matmul_fn fn, const nib_mat *w, const nib_act *a, int64_t step) {
    int64_t ldy = w->n + 5, n_panels = (w->n + 15) / 16;
    float *y = take((size_t)(a->n_tok * ldy) * 4);
    for (int64_t i = 0; i < a->n_tok * ldy; i++) y[i] = nib_bits_f32(GUARD);
    size_t scratch_bytes = nib_matmul_scratch(a->n_tok, w->k);
    void *scratch = take(scratch_bytes);
    for (int64_t p = 0; p < n_panels; p += step)
        fn(w, a, p, NIB_MIN(p + step, n_panels), y, ldy, scratch);
    nib_free_pages(scratch, scratch_bytes);
    for (int64_t t = 0; t < a->n_tok; t++)
        for (int64_t i = w->n; i < ldy; i++) assert_int_equal(nib_f32_bits(y[t * ldy + i]), GUARD);
    return y;
}
static float *product(const nib_kernels *k, const nib_mat *w, const nib_act *a, int64_t step) {
    return product_by(k->matmul, w, a, step);
}
static void free_product(float *y, const nib_mat *w, int64_t n_tok) {
    nib_free_pages(y, (size_t)(n_tok * (w->n + 5)) * 4);
}

/* Bit for bit, but any NaN is as good as any other. */
static void same(const float *a, const float *b, int64_t n, const char *isa, const nib_mat *w,
                 int64_t n_tok, const char *what) {
    for (int64_t i = 0; i < n; i++) {
        if (nib_f32_bits(a[i]) == nib_f32_bits(b[i]) || (isnan(a[i]) && isnan(b[i]))) continue;
        fail_msg("%s, %s, %s, N %lld, K %lld, T %lld, output %lld: expected %.9g, found %.9g", what,
                 isa, nib_dtype_get(w->dtype)->name, (long long)w->n, (long long)w->k,
                 (long long)n_tok, (long long)i, (double)a[i], (double)b[i]);
    }
}
static void same_product(const float *a, const float *b, const nib_mat *w, int64_t n_tok,
                         const char *isa, const char *what) {
    for (int64_t t = 0; t < n_tok; t++)
        same(a + t * (w->n + 5), b + t * (w->n + 5), w->n, isa, w, n_tok, what);
}

/* Row lengths worth trying: one block, a few, odd numbers of blocks, past a cache block. */
static int lengths(nib_dtype t, int64_t out[8]) {
    static const int64_t of_1[] = {1, 7, 33, 256, 300, 515};
    static const int64_t of_32[] = {32, 64, 96, 288, 576, 1056};
    static const int64_t of_256[] = {256, 512, 768, 1280};
    uint32_t len = nib_dtype_get(t)->block_len;
    const int64_t *from = len == 1 ? of_1 : len <= 32 ? of_32 : of_256;
    int n = 0, count = len > 32 ? 4 : 6;
    for (int i = 0; i < count; i++)
        if (from[i] % len == 0) out[n++] = from[i];
    return n;
}

static void unpacking_gives_the_formats_own_floats(void **state) {
    (void)state;
    long rows = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        int64_t ks[8];
        int n_ks = lengths(all[i], ks);
        for (int j = 0; j < n_ks; j++) {
            static const int64_t ns[] = {1, 15, 16, 17, 40};
            int64_t n = ns[j == 0 ? 4 : random_below(5)], k = ks[n_ks - 1 - j];
            matrix m = make_matrix(all[i], n, k, WILD);
            float *want = take((size_t)k * 4), *got = take((size_t)k * 4);
            for (size_t s = 0; s < NIB_ARRAY_LEN(isas); s++) {
                const nib_kernels *set = nib_kernels_upto(isas[s]);
                if (!set) continue;
                for (int64_t r = 0; r < n; r++, rows++) {
                    nib_dtype_get(all[i])->to_f32(m.raw.data + (size_t)r * m.raw.stride, want, k);
                    set->unpack_row(&m.raw, r, got);
                    same(want, got, k, isas[s], &m.raw, 0, "raw row");
                    if (!m.packed.data) continue;
                    memset(got, 0x55, (size_t)k * 4);
                    set->unpack_row(&m.packed, r, got);
                    same(want, got, k, isas[s], &m.raw, 0, "packed row");
                }
                if (!m.packed.data) continue;
                uint8_t *panel = take(m.packed.stride);
                for (int64_t p = 0; p * 16 < n; p++) {
                    memset(panel, 0x55, m.packed.stride);
                    set->pack(all[i], m.raw.data + (size_t)p * 16 * m.raw.stride, m.raw.stride,
                              (int)NIB_MIN(16, n - p * 16), k, panel);
                    if (memcmp(panel, m.packed.data + (size_t)p * m.packed.stride, m.packed.stride))
                        fail_msg("%s packs %s differently", isas[s], nib_dtype_get(all[i])->name);
                }
                nib_free_pages(panel, m.packed.stride);
            }
            nib_free_pages(want, (size_t)k * 4);
            nib_free_pages(got, (size_t)k * 4);
            free_matrix(&m);
        }
    }
    print_message("unpack: %ld rows, 0 differ\n", rows);
}

static void activations_are_rounded_to_nearest(void **state) {
    (void)state;
    acts s = make_acts(scalar(), NIB_ACT_Q8, 5, 96, 0);
    memset(s.x + 32, 0, 128); /* a block of zeros */
    s.x[64] = NAN, s.x[65] = INFINITY, s.x[66] = -INFINITY;
    for (int i = 0; i < 32; i++) s.x[s.ldx + i] = 1e-31f; /* too small to matter */
    scalar()->quantise(s.x, s.ldx, 0, 5, &s.a);
    for (int64_t t = 0; t < 5; t++)
        for (int64_t b = 0; b < 3; b++) {
            int64_t at = b * 5 + t;
            const float *x = s.x + t * s.ldx + b * 32;
            const int8_t *q = s.a.q + at * 32;
            float d = s.a.d[at];
            int sum[2] = {0, 0};
            for (int i = 0; i < 32; i++) {
                assert_true(q[i] >= -127);
                sum[i / 16] += q[i];
                if (isfinite(x[i]) && d < 1e30f)
                    assert_true(fabs((double)x[i] - (double)d * q[i]) <=
                                0.5001 * (double)d + 1e-30);
            }
            assert_int_equal(s.a.bias[at], -128 * (sum[0] + sum[1]));
            assert_true(s.a.ds[at] == d * (float)(sum[0] + sum[1]));
        }
    assert_true(s.a.d[1 * 5] == 0 && s.a.q[5 * 32] == 0); /* zeros */
    assert_true(s.a.d[0 * 5 + 1] == 0 && s.a.q[32] == 0); /* dust */
    assert_true(s.a.d[2 * 5] == FLT_MAX / 127);           /* infinity */
    assert_int_equal(s.a.q[10 * 32], 0);                  /* NaN */
    assert_int_equal(s.a.q[10 * 32 + 1], 127);
    assert_int_equal(s.a.q[10 * 32 + 2], -127);
    free_acts(&s);
}

static void blocks_of_256_are_rounded_to_nearest(void **state) {
    (void)state;
    acts s = make_acts(scalar(), NIB_ACT_Q8K, 5, 768, 0);
    memset(s.x + 256, 0, 1024);
    s.x[512] = NAN, s.x[513] = INFINITY, s.x[700] = -INFINITY;
    scalar()->quantise_k(s.x, s.ldx, 0, 5, &s.a);
    for (int64_t t = 0; t < 5; t++)
        for (int64_t b = 0; b < 3; b++) {
            int64_t at = b * 5 + t;
            float d = s.a.kd[at];
            int sum = 0, most = 0, sizes = 0;
            bool calm = true;
            for (int i = 0; i < 256; i++) {
                float x = s.x[t * s.ldx + 256 * b + i];
                int q = s.a.kq[((4 * b + i / 64) * 5 + t) * 64 + i % 64];
                assert_true(q >= -127);
                most = NIB_MAX(most, abs(q));
                sum += q;
                sizes += abs(q);
                if (i % 16 == 15) {
                    calm &= sizes <= NIB_CALM;
                    sizes = 0;
                    assert_int_equal(s.a.ks16[at * 16 + i / 16], sum);
                    uint32_t pair = s.a.ksbf[at * 16 + i / 16];
                    assert_true(nib_bits_f32(pair << 16) + nib_bits_f32(pair & 0xffff0000u) ==
                                (float)sum);
                    if (i % 32 == 31)
                        assert_int_equal(s.a.ks32[at * 8 + i / 32],
                                         sum + s.a.ks16[at * 16 + i / 16 - 1]);
                    sum = 0;
                }
                if (isfinite(x) && d < 1e30f)
                    assert_true(fabs((double)x - (double)d * q) <= 0.5001 * (double)d + 1e-30);
            }
            assert_int_equal(most, t == 0 && b == 1 ? 0 : 127);
            assert_int_equal(s.a.calm[at], calm);
        }
    assert_true(s.a.kd[1 * 5] == 0);
    assert_true(s.a.kd[2 * 5] == FLT_MAX / 127); /* infinity, and NaN beside it is 0 */
    assert_int_equal(s.a.kq[8 * 5 * 64], 0);
    assert_int_equal(s.a.kq[8 * 5 * 64 + 1], 127);
    free_acts(&s);
}

static void quantise_is_the_same_everywhere(void **state) {
    (void)state;
    for (size_t s = 0; s < NIB_ARRAY_LEN(isas); s++) {
        const nib_kernels *set = nib_kernels_upto(isas[s]);
        if (!set) continue;
        for (int how = 0; how < 4; how++)
            for (int64_t k = 32; k <= 1024; k += 32)
                for (int kind = NIB_ACT_Q8; kind <= (k % 256 ? NIB_ACT_Q8 : NIB_ACT_Q8K); kind++) {
                    static const int64_t counts[] = {1, 7, 19};
                    int64_t n_tok = counts[k / 32 % 3], part = (k / 32 + how) % (n_tok + 1);
                    acts a = make_acts(scalar(), (nib_act_kind)kind, n_tok, k, how);
                    void *mem = take(a.bytes);
                    nib_act b;
                    nib_act_bind(&b, mem, n_tok, k);
                    quantise(set, (nib_act_kind)kind, a.x, a.ldx, 0, part, &b);
                    quantise(set, (nib_act_kind)kind, a.x, a.ldx, part, n_tok, &b);
                    if (memcmp(a.mem, mem, a.bytes)) fail_msg("%s quantises differently", isas[s]);
                    nib_free_pages(mem, a.bytes);
                    free_acts(&a);
                }
    }
}

/* Exact mode's bound: the roundings of the sum, relative to the sum of the magnitudes of what is
 * added. Formats with minima add two larger numbers of opposite sign, hence their factor. */
static void scalar_is_near_double(void **state) {
    (void)state;
    double worst = 0;
    long n_out = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        int64_t ks[8];
        int n_ks = lengths(all[i], ks);
        for (int j = 0; j < n_ks; j++) {
            bool floats = nib_mat_act(all[i]) == NIB_ACT_F32;
            /* floats: several tiles */
            int64_t n = 19, k = ks[j], n_tok = floats ? 29 : 3;
            matrix m = make_matrix(all[i], n, k, j % 2 ? ONES : TAME);
            const nib_mat *w = best_form(&m);
            acts s = make_acts(scalar(), nib_mat_act(all[i]), n_tok, k, j == 2 || j == 3 ? j : 0);
            float *y = product(scalar(), w, &s.a, 1), *row = take((size_t)k * 4);
            for (int64_t r = 0; r < n; r++) {
                nib_dtype_get(all[i])->to_f32(m.raw.data + (size_t)r * m.raw.stride, row, k);
                for (int64_t t = 0; t < n_tok; t++) {
                    double sum = 0, size = 0;
                    for (int64_t c = 0; c < k; c++) {
                        double x = act_value(&s, nib_mat_act(all[i]), t, c);
                        sum += (double)row[c] * x;
                        size += fabs((double)row[c] * x);
                    }
                    double steps = floats ? (double)k : (double)k / 32;
                    double bound = (floats ? 1 : 8) * (steps + 4) * 0x1p-24 * size + 1e-37;
                    double err = fabs(sum - (double)y[t * (n + 5) + r]);
                    if (!(err <= bound))
                        fail_msg("%s, K %lld: %.9g is %g from %.9g, bound %g",
                                 nib_dtype_get(all[i])->name, (long long)k,
                                 (double)y[t * (n + 5) + r], err, sum, bound);
                    worst = NIB_MAX(worst, err / bound);
                    n_out++;
                }
            }
            nib_free_pages(row, (size_t)k * 4);
            free_product(y, w, n_tok);
            free_acts(&s);
            free_matrix(&m);
        }
    }
    print_message("scalar against double: %ld outputs, worst %.2f of the bound\n", n_out, worst);
}

/* All sets, all formats: rows mod 16, K short and long, T from 1 to 33 and some more. */
static void every_set_equals_scalar(void **state) {
    (void)state;
    for (size_t s = 1; s < NIB_ARRAY_LEN(isas); s++) {
        const nib_kernels *set = nib_kernels_upto(isas[s]);
        if (!set) continue;
        long n_products = 0;
        for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
            int64_t ks[8];
            int n_ks = lengths(all[i], ks);
            for (int64_t n_tok = 1; n_tok <= 36; n_tok += test_quick() ? 5 : 1) {
                static const int64_t ns[] = {1, 16, 31, 48, 65, 80, 133};
                static const int64_t more[] = {64, 75, 130};
                int64_t tokens = n_tok <= 33 ? n_tok : more[n_tok - 34];
                /* formats without a packed form are all one, expanded to floats */
                if (!nib_mat_can_pack(all[i], ks[0]) && n_tok % 6 != 1) continue;
                int64_t n = ns[(size_t)(n_tok + (int64_t)i) % NIB_ARRAY_LEN(ns)];
                int64_t k = ks[(n_tok + (int64_t)i / 3) % n_ks];
                matrix m = make_matrix(all[i], n, k, (fill)(n_tok % 4));
                const nib_mat *w = best_form(&m);
                acts a = make_acts(scalar(), nib_mat_act(all[i]), tokens, k, (int)(n_tok / 4 % 4));
                float *want = product(scalar(), w, &a.a, 100);
                for (int64_t step = 1; step < 40; step = step * 5 + 1) {
                    float *got = product(set, w, &a.a, step);
                    same_product(want, got, w, tokens, isas[s], "matmul");
                    free_product(got, w, tokens);
                    n_products++;
                }
                if (w->packed && n_tok % 3 == 0) {
                    float *got = product(set, &m.raw, &a.a, 3);
                    same_product(want, got, w, tokens, isas[s], "matmul of file rows");
                    free_product(got, w, tokens);
                    n_products++;
                }
                free_product(want, w, tokens);
                free_acts(&a);
                free_matrix(&m);
            }
        }
        print_message("%s: %ld products, 0 differ from scalar\n", isas[s], n_products);
    }
}

/* Outputs too large for a cache, in rows of whole lines, which kernels may write past the caches;
 * columns of blocks of 256 in more than one piece. */
static void large_outputs(void **state) {
    (void)state;
    enum { T = 1000, LD = 528, N = 40, K = 7 * 256 };
    size_t bytes = (size_t)T * LD * sizeof(float);
    float *y[] = {take(bytes), take(bytes)};
    long n_products = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        if (nib_mat_act(all[i]) != NIB_ACT_Q8K || (test_quick() && i % 2)) continue;
        matrix m = make_matrix(all[i], N, K, TAME);
        const nib_mat *w = best_form(&m);
        acts a = make_acts(scalar(), NIB_ACT_Q8K, T, K, 0);
        size_t scratch_bytes = nib_matmul_scratch(T, K);
        void *scratch = take(scratch_bytes);
        for (size_t s = 0; s < NIB_ARRAY_LEN(isas); s++) {
            const nib_kernels *set = nib_kernels_upto(isas[s]);
            if (!set) continue;
            memset(y[s > 0], 0x5a, bytes);
            set->matmul(w, &a.a, 0, (N + NIB_PANEL - 1) / NIB_PANEL, y[s > 0], LD, scratch);
            if (s) assert_memory_equal(y[0], y[1], bytes);
            n_products += s > 0;
        }
        nib_free_pages(scratch, scratch_bytes);
        free_acts(&a);
        free_matrix(&m);
    }
    for (int i = 0; i < 2; i++) nib_free_pages(y[i], bytes);
    print_message("%ld products, 0 differ from scalar\n", n_products);
}

/* Sets walk several panels at once when tokens are few, and ask for what comes next: all numbers of
 * panels with all lengths of rows. */
static void few_tokens_in_every_shape(void **state) {
    (void)state;
    long n_products = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        int64_t ks[8];
        int n_ks = lengths(all[i], ks);
        if (!nib_mat_can_pack(all[i], ks[0])) continue;
        for (int j = 0; j < n_ks; j++)
            for (int64_t n_panels = 1; n_panels <= 9; n_panels += test_quick() ? 4 : 1) {
                static const int64_t counts[] = {1, 2, 7};
                matrix m = make_matrix(all[i], n_panels * NIB_PANEL - j % 3, ks[j], TAME);
                const nib_mat *w = best_form(&m);
                for (size_t c = 0; c < NIB_ARRAY_LEN(counts); c++) {
                    acts a = make_acts(scalar(), nib_mat_act(all[i]), counts[c], ks[j], 0);
                    float *want = product(scalar(), w, &a.a, 100);
                    for (size_t s = 1; s < NIB_ARRAY_LEN(isas); s++) {
                        const nib_kernels *set = nib_kernels_upto(isas[s]);
                        if (!set) continue;
                        float *got = product(set, w, &a.a, 100);
                        same_product(want, got, w, counts[c], isas[s], "matmul");
                        free_product(got, w, counts[c]);
                        n_products++;
                    }
                    free_product(want, w, counts[c]);
                    free_acts(&a);
                }
                free_matrix(&m);
            }
    }
    print_message("%ld products, 0 differ from scalar\n", n_products);
}

/* Blocks of 32, whole tiles of tokens and nearly so: all lengths of rows with all kinds of weights
 * (the largest sums among them), other numbers of panels and activations each time. */
static void many_tokens_in_every_shape(void **state) {
    (void)state;
    long n_products = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        int64_t ks[8];
        int n_ks = lengths(all[i], ks);
        if (nib_mat_act(all[i]) != NIB_ACT_Q8) continue;
        for (int j = 0; j < n_ks; j++)
            for (int f = TAME; f <= LOW; f++) {
                static const int64_t counts[] = {64, 28, 47, 32, 80, 31, 96};
                int64_t n_tok = counts[(i + (size_t)(j * 5 + f)) % NIB_ARRAY_LEN(counts)];
                matrix m = make_matrix(all[i], 16 + 9 * random_below(8), ks[j], (fill)f);
                const nib_mat *w = best_form(&m);
                acts a = make_acts(scalar(), NIB_ACT_Q8, n_tok, ks[j], f == LOW ? 2 : (j + f) % 4);
                float *want = product(scalar(), w, &a.a, 100);
                for (size_t s = 1; s < NIB_ARRAY_LEN(isas); s++) {
                    const nib_kernels *set = nib_kernels_upto(isas[s]);
                    if (!set) continue;
                    float *got = product(set, w, &a.a, 100);
                    same_product(want, got, w, n_tok, isas[s], "matmul");
                    free_product(got, w, n_tok);
                    n_products++;
                }
                free_product(want, w, n_tok);
                free_acts(&a);
                free_matrix(&m);
            }
    }
    print_message("%ld products, 0 differ from scalar\n", n_products);
}

/* Blocks as far from zero as calm ones get, a step farther, and as far as any: sums of integers
 * that only just fit what they are kept in. */
static void sums_at_their_largest(void **state) {
    (void)state;
    enum { N_TOK = 75, K = 512, N = 37 };
    long n_products = 0, n_calm = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        if (nib_mat_act(all[i]) != NIB_ACT_Q8K) continue;
        for (int f = TAME; f <= ONES; f++) {
            matrix m = make_matrix(all[i], N, K, (fill)f);
            acts a = make_acts(scalar(), NIB_ACT_Q8K, N_TOK, K, 0);
            for (int64_t at = 0; at < N_TOK * K / 16; at++) {
                float *x = a.x + at / (K / 16) * a.ldx + at % (K / 16) * 16;
                /* tokens 0 to 29 are calm throughout: whole tiles */
                int kind = at / (K / 16) < 30 ? 0 : (int)random_below(3);
                int sizes = kind == 2 ? 16 * 127 : NIB_CALM + kind, sign = random_below(2) ? 1 : -1;
                for (int j = 0; j < 16; j++) { /* 127 first, the rest evenly */
                    int size = j == 0 ? 127 : (sizes - 127 + j - 1) / 15;
                    x[j] = (float)(sign * size);
                }
            }
            quantise(scalar(), NIB_ACT_Q8K, a.x, a.ldx, 0, N_TOK, &a.a);
            for (int j = 0; j < N_TOK * K / 256; j++) n_calm += a.a.calm[j];
            float *want = product(scalar(), best_form(&m), &a.a, 100);
            for (size_t s = 1; s < NIB_ARRAY_LEN(isas); s++) {
                const nib_kernels *set = nib_kernels_upto(isas[s]);
                if (!set) continue;
                float *got = product(set, best_form(&m), &a.a, 100);
                same_product(want, got, best_form(&m), N_TOK, isas[s], "matmul");
                free_product(got, best_form(&m), N_TOK);
                n_products++;
            }
            free_product(want, best_form(&m), N_TOK);
            free_acts(&a);
            free_matrix(&m);
        }
    }
    assert_true(n_calm >= 30 * K / 256);
    print_message("%ld products, 0 differ from scalar\n", n_products);
}

/* A token's numbers do not depend on its neighbours, in any set. */
static void tokens_do_not_see_each_other(void **state) {
    (void)state;
    for (size_t s = 0; s < NIB_ARRAY_LEN(isas); s++) {
        const nib_kernels *set = nib_kernels_upto(isas[s]);
        if (!set) continue;
        for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
            int64_t k = 512, n = 85, n_tok = 21;
            matrix m = make_matrix(all[i], n, k, TAME);
            const nib_mat *w = best_form(&m);
            nib_act_kind kind = nib_mat_act(all[i]);
            acts a = make_acts(set, kind, n_tok, k, 0);
            float *want = product(set, w, &a.a, 2);
            for (int64_t t = 0; t < n_tok; t++) {
                acts one = make_acts(set, kind, 1, k, 0);
                memcpy(one.x, a.x + t * a.ldx, (size_t)k * 4);
                if (one.mem) quantise(set, kind, one.x, one.ldx, 0, 1, &one.a);
                float *got = product(set, w, &one.a, 5);
                same(want + t * (n + 5), got, n, isas[s], w, 1, "one token of many");
                free_product(got, w, 1);
                free_acts(&one);
            }
            free_product(want, w, n_tok);
            free_acts(&a);
            free_matrix(&m);
        }
    }
}

/* ---- FAST: weights rounded to 8 bits ---- */

/* Rows of one group and less, of uneven groups, of several. */
static int fast_lengths(nib_dtype t, int64_t out[8]) {
    static const int64_t from[] = {64, 192, 256, 320, 576, 768, 1088, 1280};
    int n = 0;
    for (int i = 0; i < 8; i++)
        if (nib_mat_can_fast(t, from[i])) out[n++] = from[i];
    return n;
}

static void fast_groups_cover_a_row(void **state) {
    (void)state;
    for (int64_t k = 64; k <= 64 * 200; k += 64) {
        int64_t n = nib_fast_groups(k);
        assert_int_equal(nib_fast_group(k, 0), 0);
        assert_int_equal(nib_fast_group(k, n) * 64, k);
        for (int64_t g = 0; g < n; g++) {
            int64_t tiles = nib_fast_group(k, g + 1) - nib_fast_group(k, g);
            assert_true(tiles >= 1 && tiles <= 4);
            if (k % 256 == 0) assert_int_equal(tiles, 4);
        }
    }
}

/* Of a row multiplied by unit vectors come its rounded weights, at most half a step from the
 * format's own. The step follows from the largest weight that could stand in the group, which among
 * random codes is not far from the largest that does. */
static void fast_weights_are_half_a_step_off(void **state) {
    (void)state;
    long n_weights = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
        int64_t ks[8];
        int n_ks = fast_lengths(all[i], ks);
        for (int j = 0; j < n_ks; j++) {
            int64_t n = 17, k = ks[j];
            if (k > 320) continue;
            matrix m = make_matrix(all[i], n, k, TAME);
            /* token c is 1 at column c and 0 elsewhere */
            acts a = make_acts(scalar(), NIB_ACT_FAST, k, k, 0);
            for (int64_t t = 0; t < k; t++)
                for (int64_t c = 0; c < k; c++) a.x[t * a.ldx + c] = t == c;
            quantise(scalar(), NIB_ACT_FAST, a.x, a.ldx, 0, k, &a.a);
            float *y = product_by(scalar()->matmul_fast, &m.packed, &a.a, 1);
            float *row = take((size_t)k * 4);
            for (int64_t r = 0; r < n; r++) {
                nib_dtype_get(all[i])->to_f32(m.raw.data + (size_t)r * m.raw.stride, row, k);
                for (int64_t g = 0; g < nib_fast_groups(k); g++) {
                    int64_t from = nib_fast_group(k, g) * 64, to = nib_fast_group(k, g + 1) * 64;
                    double most = 0, worst = 0;
                    for (int64_t c = from; c < to; c++) {
                        /* not fmax: gcc 12 for arm64 fails at it */
                        double got = (double)y[c * (n + 5) + r], want = (double)row[c];
                        if (fabs(want) > most) most = fabs(want);
                        if (!(fabs(got - want) <= worst)) worst = fabs(got - want);
                    }
                    n_weights += to - from;
                    if (!(worst <= 4 * 0.5 * most / 127 + 1e-30))
                        fail_msg("%s, K %lld, row %lld, group %lld: %g off where the largest is %g",
                                 nib_dtype_get(all[i])->name, (long long)k, (long long)r,
                                 (long long)g, worst, most);
                }
            }
            nib_free_pages(row, (size_t)k * 4);
            free_product(y, &m.packed, k);
            free_acts(&a);
            free_matrix(&m);
        }
    }
    print_message("fast: %ld weights at most half a step off\n", n_weights);
}

/* Weights that have one scale, and activations that are whole, lose nothing. */
static void fast_is_exact_where_scales_are_equal(void **state) {
    (void)state;
    enum { K = 576, N = 16, BLOCK = 34 };
    static uint8_t rows[N][K / 32 * BLOCK];
    for (int r = 0; r < N; r++)
        for (int b = 0; b < K / 32; b++) {
            uint16_t half = nib_f32_to_f16(0.5f);
            memcpy(rows[r] + b * BLOCK, &half, 2);
            for (int i = 0; i < 32; i++)
                rows[r][b * BLOCK + 2 + i] = (uint8_t)(int8_t)((int)random_below(255) - 127);
        }
    nib_mat w = {.dtype = NIB_Q8_0, .n = N, .k = K, .data = rows[0], .stride = sizeof rows[0]};
    acts a = make_acts(scalar(), NIB_ACT_FAST, 3, K, 0);
    for (int64_t t = 0; t < 3; t++)
        for (int64_t c = 0; c < K; c++)
            a.x[t * a.ldx + c] = c % 64 ? (float)((int)random_below(255) - 127) : 127;
    quantise(scalar(), NIB_ACT_FAST, a.x, a.ldx, 0, 3, &a.a);
    for (size_t s = 0; s < NIB_ARRAY_LEN(isas); s++) {
        const nib_kernels *set = nib_kernels_upto(isas[s]);
        if (!set || !set->matmul_fast) continue;
        float *y = product_by(set->matmul_fast, &w, &a.a, 1);
        for (int t = 0; t < 3; t++)
            for (int r = 0; r < N; r++) {
                double want = 0;
                for (int c = 0; c < K; c++)
                    want += 0.5 * (int8_t)rows[r][c / 32 * BLOCK + 2 + c % 32] *
                            (double)a.x[t * a.ldx + c];
                assert_true((double)y[t * (N + 5) + r] == want);
            }
        free_product(y, &w, 3);
    }
    free_acts(&a);
}

static void fast_sets_equal_scalar(void **state) {
    (void)state;
    for (size_t s = 1; s < NIB_ARRAY_LEN(isas); s++) {
        const nib_kernels *set = nib_kernels_upto(isas[s]);
        if (!set || !set->matmul_fast) continue;
        long n_products = 0;
        for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) {
            int64_t ks[8];
            int n_ks = fast_lengths(all[i], ks);
            if (!n_ks) continue;
            for (int64_t n_tok = 1; n_tok <= 37; n_tok += test_quick() ? 4 : 1) {
                static const int64_t ns[] = {1, 16, 31, 48, 65, 80, 133};
                static const int64_t more[] = {64, 75, 95, 130};
                int64_t tokens = n_tok <= 33 ? n_tok : more[n_tok - 34];
                int64_t n = ns[(size_t)(n_tok + (int64_t)i) % NIB_ARRAY_LEN(ns)];
                int64_t k = ks[(n_tok + (int64_t)i / 3) % n_ks];
                matrix m = make_matrix(all[i], n, k, (fill)(n_tok % 4));
                acts a = make_acts(scalar(), NIB_ACT_FAST, tokens, k, (int)(n_tok / 4 % 4));
                acts b = make_acts(set, NIB_ACT_FAST, tokens, k, 0);
                memcpy(b.x, a.x, a.x_bytes);
                quantise(set, NIB_ACT_FAST, b.x, b.ldx, 0, tokens, &b.a);
                if (memcmp(a.mem, b.mem, a.bytes)) fail_msg("%s quantises differently", isas[s]);
                float *want = product_by(scalar()->matmul_fast, &m.packed, &a.a, 100);
                for (int64_t step = 1; step < 40; step = step * 5 + 1) {
                    float *got = product_by(set->matmul_fast, &m.packed, &a.a, step);
                    same_product(want, got, &m.packed, tokens, isas[s], "fast matmul");
                    free_product(got, &m.packed, tokens);
                    n_products++;
                }
                if (n_tok % 3 == 0) {
                    float *got = product_by(set->matmul_fast, &m.raw, &a.a, 3);
                    same_product(want, got, &m.packed, tokens, isas[s], "fast, of file rows");
                    free_product(got, &m.packed, tokens);
                    n_products++;
                }
                free_product(want, &m.packed, tokens);
                free_acts(&a);
                free_acts(&b);
                free_matrix(&m);
            }
        }
        print_message("%s: %ld fast products, 0 differ from scalar\n", isas[s], n_products);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpacking_gives_the_formats_own_floats),
        cmocka_unit_test(activations_are_rounded_to_nearest),
        cmocka_unit_test(blocks_of_256_are_rounded_to_nearest),
        cmocka_unit_test(quantise_is_the_same_everywhere),
        cmocka_unit_test(scalar_is_near_double),
        cmocka_unit_test(every_set_equals_scalar),
        cmocka_unit_test(large_outputs),
        cmocka_unit_test(few_tokens_in_every_shape),
        cmocka_unit_test(many_tokens_in_every_shape),
        cmocka_unit_test(sums_at_their_largest),
        cmocka_unit_test(tokens_do_not_see_each_other),
        cmocka_unit_test(fast_groups_cover_a_row),
        cmocka_unit_test(fast_weights_are_half_a_step_off),
        cmocka_unit_test(fast_is_exact_where_scales_are_equal),
        cmocka_unit_test(fast_sets_equal_scalar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
