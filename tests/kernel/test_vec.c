/* The vector kernels: against double precision with stated bounds, and every instruction set
 * against the scalar one bit for bit, at all short lengths and offsets, on ordinary and on extreme
 * values, without touching what lies around. */
#include <math.h>
#include "testlib.h"
#include "kernels/kernels.h"

static const char *const names[] = {"x86_avx2", "x86_avx512", "arm_neon"};
static const nib_kernels *truth;
static const nib_kernels *sets[NIB_ARRAY_LEN(names)];
static int n_sets;

static int find_sets(void **state) {
    (void)state;
    truth = nib_kernels_upto("scalar");
    for (size_t i = 0; i < NIB_ARRAY_LEN(names); i++)
        if (nib_kernels_upto(names[i])) sets[n_sets++] = nib_kernels_upto(names[i]);
    return truth ? 0 : -1;
}

/* Sanitizers look for overruns, which a quarter of the offsets shows as well. */

enum { N_MAX = 5000, PAD = 16 };
typedef enum values { ORDINARY, WIDE, TINY, WILD, N_VALUES } values;

/* Numbers around 1; of many sizes; subnormal and near; with infinities and NaN among them. */
static float draw(nib_rng *r, values kind) {
    static const float wild[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f};
    float f = nib_rng_normal(r);
    switch (kind) {
    case WIDE: return ldexpf(f, (int)(nib_rng_u64(r) % 60) - 30);
    case TINY: return ldexpf(f, -126 - (int)(nib_rng_u64(r) % 30));
    case WILD: return nib_rng_u64(r) % 4 ? f : wild[nib_rng_u64(r) % NIB_ARRAY_LEN(wild)];
    default: return f;
    }
}
static void fill(nib_rng *r, values kind, float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = draw(r, kind);
}

/* NaNs have many spellings, and which one comes out of two is nobody's promise. */
static void same(const float *a, const float *b, int64_t n, const char *what, const char *set,
                 int64_t len) {
    for (int64_t i = 0; i < n; i++) {
        bool both_nan = isnan(a[i]) && isnan(b[i]);
        if (!both_nan && nib_f32_bits(a[i]) != nib_f32_bits(b[i]))
            fail_msg("%s, %s, length %lld: [%lld] is %a, not %a", what, set, (long long)len,
                     (long long)i, (double)b[i], (double)a[i]);
    }
}

/* ---- the slots in one shape: y [n] is changed, x and w are read ---- */

#define RUN(name, call)                                                                            \
    static void run_##name(const nib_kernels *k, float *y, const float *x, const float *w,         \
                           int64_t n) {                                                            \
        (void)x, (void)w, (void)n;                                                                 \
        call;                                                                                      \
    }
RUN(rms_norm, k->rms_norm(x, w, 1e-5f, n, y))
RUN(rms_norm_plain, k->rms_norm(y, NULL, 1e-6f, n, y))
RUN(layer_norm, k->layer_norm(y, w, x, 1e-5f, n, y))
RUN(layer_norm_plain, k->layer_norm(x, NULL, NULL, 1e-5f, n, y))
RUN(add, k->add(y, x, n))
RUN(add_scaled, k->add_scaled(y, x, w[0], n))
RUN(scale, k->scale(y, w[0], n))
RUN(silu, k->silu(y, y, NULL, n))
RUN(silu_times, k->silu(y, x, w, n))
RUN(gelu_tanh, k->gelu_tanh(y, y, NULL, n))
RUN(gelu_tanh_times, k->gelu_tanh(y, x, w, n))
RUN(gelu_erf, k->gelu_erf(y, y, NULL, n))
RUN(gelu_erf_times, k->gelu_erf(y, x, w, n))
RUN(softcap, k->softcap(y, 30.0f, n))
RUN(dot, y[0] = k->dot(x, w, n))
RUN(argmax, y[0] = (float)k->argmax(x, n))
RUN(rope_pair, k->rope(y, x, (int)(n & ~1), NIB_ROPE_PAIR))
RUN(rope_neox, k->rope(y, x, (int)(n & ~1), NIB_ROPE_NEOX))
RUN(attn_finish, k->attn_finish(y, w[0], (int)n))
static void run_attn_merge(const nib_kernels *k, float *y, const float *x, const float *w,
                           int64_t n) {
    float m = w[0], s = 1.5f;
    k->attn_merge(&m, &s, y, w[1], 2.5f, x, (int)n);
    if (n > 1) y[0] = m, y[1] = s;
}

typedef void (*run_fn)(const nib_kernels *, float *, const float *, const float *, int64_t);
#define SLOT(name)                                                                                 \
    { #name, run_##name }
static const struct {
    const char *name;
    run_fn run;
} slots[] = {SLOT(rms_norm),
             SLOT(rms_norm_plain),
             SLOT(layer_norm),
             SLOT(layer_norm_plain),
             SLOT(add),
             SLOT(add_scaled),
             SLOT(scale),
             SLOT(silu_times),
             SLOT(gelu_tanh_times),
             SLOT(gelu_erf_times),
             SLOT(silu),
             SLOT(gelu_tanh),
             SLOT(gelu_erf),
             SLOT(softcap),
             SLOT(dot),
             SLOT(argmax),
             SLOT(rope_pair),
             SLOT(rope_neox),
             SLOT(attn_finish),
             SLOT(attn_merge)};

/* Also: nothing outside y[0, n) changes, in any set. */
static void test_bits(void **state) {
    (void)state;
    enum { ALL = N_MAX + 3 * PAD };
    static float x[ALL], w[ALL], y[ALL], a[ALL], b[ALL];
    static const int64_t longer[] = {191, 255, 256, 576, 1023, 4096, 4999};
    const int64_t n_longer = (int64_t)NIB_ARRAY_LEN(longer);
    long cases = 0;
    nib_rng r = {.seed = 7};
    for (int64_t len = 1; len <= 130 + n_longer; len++) {
        const int64_t n = len <= 130 ? len : longer[len - 131];
        for (int i = 0; i < N_VALUES * 4; i++) {
            const int off = i / N_VALUES, x_off = (off * 7) % 5, w_off = (off * 3) % 4;
            const int64_t total = n + off + PAD;
            if (test_quick() && off != len % 4) continue;
            fill(&r, (values)(i % N_VALUES), x, total + PAD);
            fill(&r, (values)(i % N_VALUES), w, total + PAD);
            fill(&r, (values)(i % N_VALUES), y, total + PAD);
            for (size_t f = 0; f < NIB_ARRAY_LEN(slots); f++) {
                const char *what = slots[f].name;
                memcpy(a, y, (size_t)total * sizeof *a);
                slots[f].run(truth, a + off, x + x_off, w + w_off, n);
                same(y, a, off, what, "scalar, before", n);
                same(y + off + n, a + off + n, PAD, what, "scalar, after", n);
                for (int s = 0; s < n_sets; s++, cases++) {
                    memcpy(b, y, (size_t)total * sizeof *b);
                    slots[f].run(sets[s], b + off, x + x_off, w + w_off, n);
                    same(a, b, total, what, sets[s]->name, n);
                }
            }
        }
    }
    print_message("vectors: %ld runs of %d sets against scalar, 0 differ\n", cases, n_sets);
}

/* Length 0 reads and writes nothing. */
static void test_empty(void **state) {
    (void)state;
    float y[2] = {1, 2};
    for (int s = -1; s < n_sets; s++) {
        const nib_kernels *k = s < 0 ? truth : sets[s];
        assert_true(k->dot(NULL, NULL, 0) == 0);
        assert_int_equal(k->argmax(NULL, 0), 0);
        k->add(y, NULL, 0);
        k->add_scaled(y, NULL, 2, 0);
        k->scale(y, 2, 0);
        k->silu(y, NULL, NULL, 0);
        k->gelu_tanh(y, NULL, NULL, 0);
        k->gelu_erf(y, NULL, NULL, 0);
        k->softcap(y, 2, 0);
        k->rope(y, NULL, 0, NIB_ROPE_PAIR);
        k->rope(y, NULL, 0, NIB_ROPE_NEOX);
        assert_true(y[0] == 1 && y[1] == 2);
    }
}

/* ---- truth against double precision ---- */

static double silu_ref(double x) {
    return x / (1 + exp(-x));
}
static double gelu_tanh_ref(double x) {
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
static double gelu_erf_ref(double x) {
    return x / 2 * erfc(-x / sqrt(2));
}
static double cap_ref(double x) {
    return 30 * tanh(x / 30);
}
static double ulp_of(double x) {
    return x == 0 ? 0x1p-149 : ldexp(1, NIB_MAX(ilogb(x), -126) - 23);
}

/* |error| <= ulps * ulp(reference) + absolute * max(1, |x|): half an ulp for the last rounding
 * where the rest is an absolute bound, since x sigmoid(y) falls to 0 on the negative side faster
 * than its argument is known. */
static void test_functions(void **state) {
    (void)state;
    static const struct {
        const char *name;
        run_fn run;
        double (*ref)(double);
        double ulps, absolute;
    } f[] = {{"silu", run_silu, silu_ref, 2.5, 1e-30},
             {"gelu_tanh", run_gelu_tanh, gelu_tanh_ref, 0.5, 2e-7},
             {"gelu_erf", run_gelu_erf, gelu_erf_ref, 0.5, 1.5e-7},
             {"softcap", run_softcap, cap_ref, 5.5, 1e-43}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(f); i++) {
        double worst = 0;
        /* every 1009th float below 80 in size (fewer when sanitized), both signs */
        for (uint32_t u = 0; u < nib_f32_bits(80.0f); u += 1009 * 16 * (test_quick() ? 10 : 1)) {
            float x[32], y[32];
            for (uint32_t j = 0; j < 16; j++) x[j] = nib_bits_f32(u + 1009 * j), x[16 + j] = -x[j];
            memcpy(y, x, sizeof y);
            f[i].run(truth, y, NULL, NULL, 32);
            for (int j = 0; j < 32; j++) {
                double want = f[i].ref(x[j]), err = fabs(y[j] - want);
                double bound =
                    f[i].ulps * ulp_of(want) + f[i].absolute * fmax(1, fabs((double)x[j]));
                worst = fmax(worst, err / bound);
                if (!(err <= bound))
                    fail_msg("%s(%a) = %a, not %a", f[i].name, (double)x[j], (double)y[j], want);
            }
        }
        print_message("%s: worst error %.2f of its bound\n", f[i].name, worst);
    }
}

/* Where cap is 1, softcap is tanh itself. */
static void test_tanh_near_0(void **state) {
    (void)state;
    for (uint32_t u = 0; u < nib_f32_bits(0.5f); u += 4099 * 16 * (test_quick() ? 10 : 1)) {
        float x[16], y[16];
        for (uint32_t j = 0; j < 16; j++) x[j] = nib_bits_f32(u + 4099 * j);
        memcpy(y, x, sizeof y);
        truth->softcap(y, 1, 16);
        for (int j = 0; j < 16; j++)
            assert_true(fabs(y[j] - tanh((double)x[j])) <= 4 * ulp_of(tanh((double)x[j])));
    }
}

static void test_limits(void **state) {
    (void)state;
    const float x[] = {INFINITY, NAN, 1e30f, -1e30f, 0.0f, -0.0f, -200.0f, 200.0f};
    const run_fn fn[] = {run_silu, run_gelu_tanh, run_gelu_erf};
    float y[8];
    for (int i = 0; i < 3; i++) {
        memcpy(y, x, sizeof y);
        fn[i](truth, y, NULL, NULL, 8);
        assert_true(y[0] == INFINITY && isnan(y[1]) && y[2] == 1e30f && y[3] == 0);
        assert_true(y[4] == 0 && !signbit(y[4]) && y[5] == 0 && signbit(y[5]));
        assert_true(y[6] == 0 && y[7] == 200);
    }
    memcpy(y, x, sizeof y);
    run_softcap(truth, y, NULL, NULL, 8);
    assert_true(y[0] == 30 && isnan(y[1]) && y[2] == 30 && y[3] == -30);
    assert_true(y[4] == 0 && y[5] == 0 && signbit(y[5]));
}

/* A sum of n products in 16 lanes and a tree errs by at most (n/16 + 6) 2^-24 sum|products|. */
static void test_sums(void **state) {
    (void)state;
    static float a[N_MAX], b[N_MAX], y[N_MAX];
    nib_rng r = {.seed = 11};
    for (int64_t n = 1; n <= 4999; n += n < 200 ? 1 : 479) {
        fill(&r, WIDE, a, n);
        fill(&r, ORDINARY, b, n);
        double dot = 0, size = 0;
        for (int64_t i = 0; i < n; i++)
            dot += (double)a[i] * b[i], size += fabs((double)a[i] * b[i]);
        assert_true(fabs(truth->dot(a, b, n) - dot) <= ((double)n / 16 + 6) * 0x1p-24 * size);

        fill(&r, ORDINARY, a, n);
        double ss = 0, mean = 0, var = 0;
        for (int64_t i = 0; i < n; i++) ss += (double)a[i] * a[i], mean += a[i];
        mean /= (double)n;
        for (int64_t i = 0; i < n; i++) var += (a[i] - mean) * (a[i] - mean);
        truth->rms_norm(a, b, 1e-5f, n, y);
        for (int64_t i = 0; i < n; i++) {
            double want = a[i] / sqrt(ss / (double)n + 1e-5) * b[i];
            assert_true(fabs(y[i] - want) <= 2e-6 * fabs(want));
        }
        /* the mean's rounding weighs more the smaller the spread is */
        double sd = sqrt(var / (double)n + 1e-5);
        truth->layer_norm(a, b, b, 1e-5f, n, y);
        for (int64_t i = 0; i < n; i++) {
            double z = (a[i] - mean) / sd, want = z * b[i] + b[i];
            double bound = 2e-6 * (1 + fabs(z) + (fabs(mean) + 1) / sd) * fabs((double)b[i]);
            assert_true(fabs(y[i] - want) <= bound);
        }
    }
}

/* Rule 3 by the letter, so that what it promises does not rest on the sets agreeing. */
static void test_rule_3(void **state) {
    (void)state;
    float a[200], b[200];
    nib_rng r = {.seed = 13};
    for (int64_t n = 1; n < 200; n++) {
        float lane[16] = {0};
        fill(&r, WIDE, a, n);
        fill(&r, WIDE, b, n);
        for (int64_t i = 0; i < n; i++) lane[i % 16] = fmaf(a[i], b[i], lane[i % 16]);
        for (int i = 0; i < 8; i++) lane[i] += lane[i + 8];
        for (int i = 0; i < 4; i++) lane[i] += lane[i + 4];
        float want = (lane[0] + lane[2]) + (lane[1] + lane[3]), got = truth->dot(a, b, n);
        assert_memory_equal(&got, &want, 4);
    }
}

static void test_rope(void **state) {
    (void)state;
    nib_rng r = {.seed = 17};
    for (int n = 2; n <= 256; n += 2) {
        float x[256], cs[256], p[256], q[256];
        fill(&r, ORDINARY, x, n);
        for (int i = 0; i < n / 2; i++) {
            double angle = 100 * nib_rng_double(&r);
            cs[2 * i] = (float)cos(angle), cs[2 * i + 1] = (float)sin(angle);
        }
        memcpy(p, x, (size_t)n * 4);
        truth->rope(p, cs, n, NIB_ROPE_NONE);
        assert_memory_equal(p, x, (size_t)n * 4);
        truth->rope(p, cs, n, NIB_ROPE_PAIR);
        memcpy(q, x, (size_t)n * 4);
        truth->rope(q, cs, n, NIB_ROPE_NEOX);
        for (int i = 0; i < n / 2; i++) {
            double c = cs[2 * i], s = cs[2 * i + 1], a = x[2 * i], b = x[2 * i + 1];
            double bound = 0x1p-22 * (fabs(a) + fabs(b));
            assert_true(fabs(p[2 * i] - (a * c - b * s)) <= bound);
            assert_true(fabs(p[2 * i + 1] - (a * s + b * c)) <= bound);
            a = x[i], b = x[i + n / 2], bound = 0x1p-22 * (fabs(a) + fabs(b));
            assert_true(fabs(q[i] - (a * c - b * s)) <= bound);
            assert_true(fabs(q[i + n / 2] - (a * s + b * c)) <= bound);
        }
    }
}

static void test_argmax(void **state) {
    (void)state;
    float x[100];
    for (int s = -1; s < n_sets; s++) {
        const nib_kernels *k = s < 0 ? truth : sets[s];
        for (int n = 1; n <= 100; n++)
            for (int at = 0; at < n; at++) {
                for (int i = 0; i < n; i++) x[i] = i % 3 ? -5.0f : NAN;
                x[at] = x[n - 1] = 1; /* an equal one later */
                assert_int_equal(k->argmax(x, n), at);
                for (int i = 0; i < n; i++) x[i] = NAN;
                assert_int_equal(k->argmax(x, n), 0);
                x[at] = -INFINITY;
                assert_int_equal(k->argmax(x, n), at);
            }
        x[0] = -0.0f, x[1] = 0.0f;
        assert_int_equal(k->argmax(x, 2), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_functions),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_tanh_near_0), cmocka_unit_test(test_sums),
        cmocka_unit_test(test_rule_3),      cmocka_unit_test(test_rope),
        cmocka_unit_test(test_argmax),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}
