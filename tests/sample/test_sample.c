/* The sample room: each step against distributions worked out by hand, draws against a chi-square
 * bound, selection against a full sort, limits, broken logits, rewind, seeds. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include "sample/sample.h"
#include "testlib.h"

static nib_sample_params plain(void) {
    nib_sample_params p = nib_sample_defaults();
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    p.seed = 1;
    p.seed_given = true;
    return p;
}

static nib_sampler *make(const nib_sample_params *p, int32_t n_vocab) {
    nib_sampler *s = NULL;
    nib_error e = {0};
    test_ok(nib_sampler_new(&s, p, n_vocab, &e), &e);
    return s;
}

static void accept(nib_sampler *s, int32_t t) {
    nib_error e = {0};
    test_ok(nib_sampler_accept(s, t, &e), &e);
}

/* After one pick from the logs of 'probs', the candidates must be exactly the tokens with want[i] >
 * 0, with these probabilities. */
static void expect(const nib_sample_params *p, const float *probs, int32_t n, const float *want) {
    float logits[64];
    for (int32_t i = 0; i < n; i++) logits[i] = logf(probs[i]);
    nib_sampler *s = make(p, n);
    int32_t t = nib_sampler_pick(s, logits);
    assert_true(want[t] > 0);
    nib_candidate c[64];
    int32_t m = nib_sampler_top(s, c, 64), n_want = 0;
    for (int32_t i = 0; i < n; i++) n_want += want[i] > 0;
    assert_int_equal(m, n_want);
    for (int32_t i = 0; i < m; i++) {
        assert_float_equal(c[i].p, want[c[i].token], 1e-6);
        if (i) assert_true(c[i - 1].p >= c[i].p);
    }
    nib_sampler_free(s);
}

static const float five[5] = {0.1f, 0.4f, 0.05f, 0.25f, 0.2f};

static void steps_give_hand_computed_distributions(void **state) {
    (void)state;
    nib_sample_params p = plain();
    expect(&p, five, 5, five);
    p.top_k = 2;
    expect(&p, five, 5, (float[]){0, 0.4f / 0.65f, 0, 0.25f / 0.65f, 0});
    p = plain(), p.top_p = 0.6f; /* 0.4 is short of it, 0.65 is not */
    expect(&p, five, 5, (float[]){0, 0.4f / 0.65f, 0, 0.25f / 0.65f, 0});
    p.top_p = 0.66f;
    expect(&p, five, 5, (float[]){0, 0.4f / 0.85f, 0, 0.25f / 0.85f, 0.2f / 0.85f});
    p = plain(), p.min_p = 0.3f; /* of 0.4: 0.12 */
    expect(&p, five, 5, (float[]){0, 0.4f / 0.85f, 0, 0.25f / 0.85f, 0.2f / 0.85f});
    p = plain(), p.temperature = 0.5f; /* squares: 1 16 0.25 6.25 4, of 27.5 */
    expect(&p, five, 5, (float[]){1 / 27.5f, 16 / 27.5f, 0.25f / 27.5f, 6.25f / 27.5f, 4 / 27.5f});
    /* The entropy is 1.415; surprises 2.30 0.92 3.00 1.39 1.61 are 0.89 0.50 1.58 0.03 0.19 from
     * it. */
    p = plain(), p.typical_p = 0.2f;
    expect(&p, five, 5, (float[]){0, 0, 0, 1, 0});
    p.typical_p = 0.4f;
    expect(&p, five, 5, (float[]){0, 0, 0, 0.25f / 0.45f, 0.2f / 0.45f});
    p.typical_p = 0.8f;
    expect(&p, five, 5, (float[]){0, 0.4f / 0.85f, 0, 0.25f / 0.85f, 0.2f / 0.85f});
    /* In order: top-k leaves 0.4 0.25 0.2; of it 0.47 0.29 0.24, top-p 0.7 leaves two; squares at
     * temperature 0.5. */
    p = plain(), p.top_k = 3, p.top_p = 0.7f, p.temperature = 0.5f;
    expect(&p, five, 5, (float[]){0, 16 / 22.25f, 0, 6.25f / 22.25f, 0});
}

static void bias_bans_and_lifts(void **state) {
    (void)state;
    nib_sample_params p = plain();
    p.bias = (nib_logit_bias[]){{1, -INFINITY}, {2, 1.3862944f /* log 4 */}};
    p.n_bias = 2; /* 0.1 0 0.2 0.25 0.2, of 0.75 */
    expect(&p, five, 5, (float[]){0.1f / 0.75f, 0, 0.2f / 0.75f, 0.25f / 0.75f, 0.2f / 0.75f});
    p.temperature = 0;
    p.bias = (nib_logit_bias[]){{2, 100}};
    p.n_bias = 1;
    float logits[5] = {1, 2, 0, 1, 1};
    nib_sampler *s = make(&p, 5);
    assert_int_equal(nib_sampler_pick(s, logits), 2);
    nib_sampler_free(s);
    p.bias = (nib_logit_bias[]){{2, INFINITY}};
    s = make(&p, 5);
    assert_int_equal(nib_sampler_pick(s, logits), 2);
    nib_sampler_free(s);
}

/* The logits (before the draw) that penalties give, as nib_sampler_top reports them. */
static float logit_of(nib_sampler *s, int32_t token) {
    nib_candidate c[64];
    int32_t n = nib_sampler_top(s, c, 64);
    for (int32_t i = 0; i < n; i++)
        if (c[i].token == token) return c[i].logit;
    return -INFINITY;
}

static void penalties_look_at_the_window(void **state) {
    (void)state;
    nib_sample_params p = plain();
    p.repeat_penalty = 2;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    p.penalty_window = 3;
    const float logits[4] = {4, -1, 2, 1};
    nib_sampler *s = make(&p, 4);
    accept(s, 3);
    accept(s, 0);
    accept(s, 0);
    accept(s, 1); /* 3 has left the window */
    nib_sampler_pick(s, logits);
    assert_float_equal(logit_of(s, 0), 4 / 2. - 0.5 - 0.5, 0);
    assert_float_equal(logit_of(s, 1), -1 * 2. - 0.5 - 0.25, 0);
    assert_float_equal(logit_of(s, 2), 2, 0);
    assert_float_equal(logit_of(s, 3), 1, 0);
    nib_sampler_rewind(s, 2); /* 3 is back */
    nib_sampler_pick(s, logits);
    assert_float_equal(logit_of(s, 0), 4 / 2. - 0.5 - 0.25, 0);
    assert_float_equal(logit_of(s, 1), -1, 0);
    assert_float_equal(logit_of(s, 3), 1 / 2. - 0.5 - 0.25, 0);
    nib_sampler_free(s);

    p.temperature = 0; /* greedy still penalises */
    s = make(&p, 4);
    assert_int_equal(nib_sampler_pick(s, logits), 0);
    accept(s, 0);
    assert_int_equal(nib_sampler_pick(s, logits), 2);
    nib_sampler_free(s);
}

/* Whatever was accepted and rewound, a sampler behaves as one that was told its timeline afresh. */
static void rewind_equals_a_fresh_history(void **state) {
    (void)state;
    enum { V = 30 };
    nib_rng r = {.seed = 7};
    const int windows[] = {1, 5, 64, -1, 0};
    long n_checked = 0;
    for (size_t w = 0; w < NIB_ARRAY_LEN(windows); w++) {
        nib_sample_params p = plain();
        p.repeat_penalty = 1.3f;
        p.frequency_penalty = 0.1f;
        p.penalty_window = windows[w];
        p.no_repeat_ngram = 3;
        nib_sampler *s = make(&p, V);
        int32_t line[400];
        size_t n = 0;
        for (int round = 0; round < 200; round++) {
            size_t add = (size_t)(nib_rng_double(&r) * 20);
            for (size_t i = 0; i < add && n < 390; i++)
                accept(s, line[n++] = (int32_t)(nib_rng_double(&r) * V));
            n = (size_t)(nib_rng_double(&r) * (double)(n + 1));
            nib_sampler_rewind(s, n);
            nib_sampler *fresh = make(&p, V);
            for (size_t i = 0; i < n; i++) accept(fresh, line[i]);
            float logits[V];
            for (int i = 0; i < V; i++) logits[i] = nib_rng_normal(&r);
            int32_t a = nib_sampler_pick(s, logits);
            assert_int_equal(a, nib_sampler_pick(fresh, logits));
            for (int32_t t = 0; t < V; t++) {
                float x = logit_of(s, t), y = logit_of(fresh, t);
                assert_true(x == y || (isinf(x) && isinf(y)));
            }
            nib_sampler_free(fresh);
            n_checked++;
        }
        nib_sampler_free(s);
    }
    print_message("rewind: %ld timelines, 0 differ\n", n_checked);
}

static void ngrams_do_not_repeat(void **state) {
    (void)state;
    nib_sample_params p = plain();
    p.temperature = 0;
    const float logits[4] = {4, 3, 2, 1};
    const int32_t line[] = {0, 1, 0, 1};
    const struct {
        int n;
        int32_t want;
    } cases[] = {
        {1, 2}, /* 0 and 1 were seen */
        {2, 1}, /* "1 0" was seen, "1 1" not */
        {3, 1}, /* "0 1 0" was seen */
        {4, 0}, /* "1 0 1 0" was not */
        {5, 0}, {1024, 0},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        p.no_repeat_ngram = cases[i].n;
        nib_sampler *s = make(&p, 4);
        for (size_t k = 0; k < NIB_ARRAY_LEN(line); k++) accept(s, line[k]);
        assert_int_equal(nib_sampler_pick(s, logits), cases[i].want);
        nib_sampler_free(s);
    }
    p.no_repeat_ngram = 1; /* nothing left: the raw best */
    nib_sampler *s = make(&p, 4);
    for (int32_t t = 0; t < 4; t++) accept(s, t);
    assert_int_equal(nib_sampler_pick(s, logits), 0);
    nib_sampler_free(s);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    /* 99.9 % points of chi-square with 4, 3 and 1 degrees of freedom. */
    const struct {
        int top_k;
        float temp;
        double limit;
    } cases[] = {{0, 1, 18.47}, {4, 1, 16.27}, {2, 0.7f, 10.83}};
    float logits[5];
    for (int i = 0; i < 5; i++) logits[i] = logf(five[i]) + 3;
    for (size_t k = 0; k < NIB_ARRAY_LEN(cases); k++) {
        nib_sample_params p = plain();
        p.top_k = cases[k].top_k;
        p.temperature = cases[k].temp;
        nib_sampler *s = make(&p, 5);
        long seen[5] = {0};
        for (int i = 0; i < DRAWS; i++) {
            int32_t t = nib_sampler_pick(s, logits);
            seen[t]++;
            accept(s, t);
        }
        nib_candidate c[5];
        int32_t n = nib_sampler_top(s, c, 5);
        double chi = 0;
        long total = 0;
        for (int32_t i = 0; i < n; i++) {
            double want = (double)c[i].p * DRAWS, d = (double)seen[c[i].token] - want;
            chi += d * d / want;
            total += seen[c[i].token];
        }
        assert_int_equal(total, DRAWS);
        if (chi > cases[k].limit)
            fail_msg("case %zu: chi-square %.2f over %.2f", k, chi, cases[k].limit);
        nib_sampler_free(s);
    }
}

static const float *sort_by;
static int by_value(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (sort_by[x] != sort_by[y]) return sort_by[x] > sort_by[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

/* Selection must agree with a full sort, on shapes that defeat naive pivots and with many ties. */
static void selection_equals_a_full_sort(void **state) {
    (void)state;
    enum { V = 5000 };
    static float logits[V];
    static int32_t order[V];
    static nib_candidate c[V];
    nib_rng r = {.seed = 3};
    long n_checked = 0;
    for (int shape = 0; shape < 6; shape++) {
        for (int i = 0; i < V; i++) {
            float x = nib_rng_normal(&r) * 3;
            logits[i] = shape == 0   ? x
                        : shape == 1 ? (float)i * 1e-3f
                        : shape == 2 ? (float)-i * 1e-3f
                        : shape == 3 ? floorf(x)
                        : shape == 4 ? 1
                                     : (float)(i < V / 2 ? i : V - i) * 1e-3f;
            order[i] = i;
        }
        sort_by = logits;
        qsort(order, V, sizeof *order, by_value);
        double sum = 0, max = (double)logits[order[0]];
        for (int i = 0; i < V; i++) sum += exp((double)logits[order[i]] - max);
        const int ks[] = {1, 2, 40, 127, 128, 129, 1000, 2499, 2500, V - 1, V, 2 * V};
        for (size_t k = 0; k < NIB_ARRAY_LEN(ks); k++) {
            nib_sample_params p = plain();
            p.top_k = ks[k];
            nib_sampler *s = make(&p, V);
            nib_sampler_pick(s, logits);
            int32_t n = nib_sampler_top(s, c, V);
            assert_int_equal(n, NIB_MIN(ks[k], V));
            for (int32_t i = 0; i < n; i++) assert_int_equal(c[i].token, order[i]);
            nib_sampler_free(s);
            n_checked++;
        }
        const float ps[] = {0, 0.01f, 0.5f, 0.9f, 0.999f};
        for (size_t k = 0; k < NIB_ARRAY_LEN(ps); k++) {
            nib_sample_params p = plain();
            p.top_p = ps[k];
            nib_sampler *s = make(&p, V);
            nib_sampler_pick(s, logits);
            int32_t n = nib_sampler_top(s, c, V);
            double before = 0, all; /* rounding may move the edge by one of many equal tokens */
            for (int32_t i = 0; i < n; i++) {
                assert_int_equal(c[i].token, order[i]);
                if (i < n - 1) before += exp((double)logits[order[i]] - max) / sum;
            }
            all = before + exp((double)logits[order[n - 1]] - max) / sum;
            assert_true(before <= (double)ps[k] + 1e-4 && all >= (double)ps[k] - 1e-4);
            nib_sampler_free(s);
            n_checked++;
        }
    }
    print_message("selection: %ld cases, 0 differ\n", n_checked);
}

static void ties_go_to_the_lower_token(void **state) {
    (void)state;
    const float logits[6] = {1, 2, 2, 2, 0, 2};
    nib_sample_params p = plain();
    for (float temp = 0; temp < 2; temp++) {
        p.temperature = temp;
        p.top_k = 1;
        nib_sampler *s = make(&p, 6);
        assert_int_equal(nib_sampler_pick(s, logits), 1);
        nib_sampler_free(s);
    }
    p.top_k = 0, p.top_p = 0;
    nib_sampler *s = make(&p, 6);
    assert_int_equal(nib_sampler_pick(s, logits), 1);
    nib_sampler_free(s);
}

static void broken_logits_give_a_valid_token(void **state) {
    (void)state;
    enum { V = 300 };
    const float wild[] = {NAN, -NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0, 1, FLT_MIN};
    nib_rng r = {.seed = 5};
    long n_checked = 0;
    for (int round = 0; round < 400; round++) {
        nib_sample_params p = plain();
        const float temps[] = {0, 1e-38f, 0.7f, 1, 100};
        p.temperature = temps[round % 5];
        p.top_k = round % 3 ? (int)(nib_rng_double(&r) * 50) : 0;
        p.top_p = round % 2 ? 1 : nib_rng_double(&r) < 0.5 ? 0 : 0.9f;
        p.min_p = round % 7 ? 0 : 1;
        p.typical_p = round % 4 ? 1 : nib_rng_double(&r) < 0.5 ? 0 : 0.5f;
        p.repeat_penalty = round % 3 ? 1 : round % 2 ? 100 : 0.01f;
        p.presence_penalty = round % 5 ? 0 : 100;
        p.no_repeat_ngram = round % 6 ? 0 : 1;
        nib_sampler *s = make(&p, V);
        float logits[V];
        int n_wild = round % 4 + 1;
        for (int i = 0; i < V; i++)
            logits[i] = round % 11 == 0 ? wild[round % 4]
                        : nib_rng_double(&r) < 0.1 * n_wild
                            ? wild[(int)(nib_rng_double(&r) * (double)NIB_ARRAY_LEN(wild))]
                            : nib_rng_normal(&r);
        for (int i = 0; i < 20; i++) {
            int32_t t = nib_sampler_pick(s, logits);
            assert_in_range(t, 0, V - 1);
            nib_candidate c[V];
            int32_t n = nib_sampler_top(s, c, V);
            for (int32_t k = 0; k < n; k++) assert_true(c[k].p >= 0 && c[k].p <= 1.0001f);
            /* A NaN is never picked while a number can be. */
            if (isnan(logits[t]))
                for (int k = 0; k < V && n > 0; k++)
                    assert_true(isnan(logits[k]) || logits[k] == -INFINITY);
            accept(s, t);
            n_checked++;
        }
        nib_sampler_free(s);
    }
    print_message("broken logits: %ld picks, all valid\n", n_checked);
    nib_sample_params p = plain();
    float v[3] = {-1, INFINITY, 5};
    nib_sampler *s = make(&p, 3);
    assert_int_equal(nib_sampler_pick(s, v), 1);
    nib_sampler_free(s);
}

static void limits_of_every_setting(void **state) {
    (void)state;
#define NIB_SAMPLE_PARAM(field, kind, name, aliases, min, max, help)                               \
    {name, aliases, #kind, min, max, help},
    static const struct {
        const char *name, *aliases, *kind;
        double min, max;
        const char *help;
    } rows[] = {
#include "sample/params.def"
    };
#undef NIB_SAMPLE_PARAM
    enum { V = 50 };
    float logits[V];
    nib_rng r = {.seed = 9};
    for (int i = 0; i < V; i++) logits[i] = nib_rng_normal(&r);
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        assert_true(strlen(rows[i].help) > 10);
        if (strcmp(rows[i].kind, "SEED") == 0) continue;
        const double ends[2] = {rows[i].min, rows[i].max};
        for (int k = 0; k < 2; k++) {
            nib_sample_params p = plain();
            nib_error e = {0};
            char text[64], back[64];
            snprintf(text, sizeof text, "%.10g", ends[k]);
            test_ok(nib_sample_set(&p, rows[i].name, text, &e), &e);
            test_ok(nib_sample_get(&p, rows[i].name, back, sizeof back, &e), &e);
            assert_float_equal(atof(back), ends[k], 1e-6);
            nib_sampler *s = make(&p, V);
            for (int n = 0; n < 60; n++) {
                int32_t t = nib_sampler_pick(s, logits);
                assert_in_range(t, 0, V - 1);
                accept(s, t);
            }
            nib_sampler_free(s);
            snprintf(text, sizeof text, "%.10g", ends[k] + (k ? 1 : -1) * (1 + fabs(ends[k])));
            assert_int_equal(nib_sample_set(&p, rows[i].name, text, &e), NIB_ERR_ARGUMENT);
            assert_non_null(strstr(e.message, rows[i].name));
            assert_non_null(strstr(e.message, "expected"));
        }
        nib_sample_params p = plain();
        nib_error e = {0};
        const char *bad[] = {"", "x", "1x", "nan", "inf", "-inf"};
        for (size_t k = 0; k < NIB_ARRAY_LEN(bad); k++)
            assert_int_equal(nib_sample_set(&p, rows[i].name, bad[k], &e), NIB_ERR_ARGUMENT);
        if (strcmp(rows[i].kind, "INT") == 0)
            assert_int_equal(nib_sample_set(&p, rows[i].name, "1.5", &e), NIB_ERR_ARGUMENT);
    }
}

static void settings_by_name(void **state) {
    (void)state;
    nib_sample_params p = nib_sample_defaults();
    nib_error e = {0};
    test_ok(nib_sample_set(&p, "temperature", "0.25", &e), &e);
    assert_float_equal(p.temperature, 0.25, 0);
    test_ok(nib_sample_set(&p, "top-k", "7", &e), &e);
    assert_int_equal(p.top_k, 7);
    test_ok(nib_sample_set(&p, "repeat-last-n", "-1", &e), &e);
    assert_int_equal(p.penalty_window, -1);
    test_ok(nib_sample_set(&p, "typ_p", "0.5", &e), &e);
    assert_float_equal(p.typical_p, 0.5, 0);
    test_ok(nib_sample_set(&p, "seed", "18446744073709551615", &e), &e);
    assert_true(p.seed_given && p.seed == UINT64_MAX);
    char text[32];
    test_ok(nib_sample_get(&p, "seed", text, sizeof text, &e), &e);
    assert_string_equal(text, "18446744073709551615");
    test_ok(nib_sample_set(&p, "seed", "random", &e), &e);
    assert_false(p.seed_given);
    const char *bad[] = {"18446744073709551616", "-2", "1.5", "", "x", " 1"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_int_equal(nib_sample_set(&p, "seed", bad[i], &e), NIB_ERR_ARGUMENT);
    assert_int_equal(nib_sample_set(&p, "tmep", "1", &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "'temp'"));
    assert_int_equal(nib_sample_set(&p, "typical_", "1", &e), NIB_ERR_ARGUMENT);
}

static void bad_settings_are_refused(void **state) {
    (void)state;
    nib_error e = {0};
    nib_sampler *s = NULL;
    nib_sample_params p = plain();
    p.top_p = NAN;
    assert_int_equal(nib_sampler_new(&s, &p, 10, &e), NIB_ERR_ARGUMENT);
    p = plain(), p.top_k = -1;
    assert_int_equal(nib_sampler_new(&s, &p, 10, &e), NIB_ERR_ARGUMENT);
    p = plain(), p.bias = (nib_logit_bias[]){{10, 1}}, p.n_bias = 1;
    assert_int_equal(nib_sampler_new(&s, &p, 10, &e), NIB_ERR_ARGUMENT);
    p.bias = (nib_logit_bias[]){{-1, 1}};
    assert_int_equal(nib_sampler_new(&s, &p, 10, &e), NIB_ERR_ARGUMENT);
    p.bias = (nib_logit_bias[]){{1, NAN}};
    assert_int_equal(nib_sampler_new(&s, &p, 10, &e), NIB_ERR_ARGUMENT);
    p = plain();
    assert_int_equal(nib_sampler_new(&s, &p, 0, &e), NIB_ERR_ARGUMENT);
    assert_null(s);
    p.temperature = -3; /* below zero is greedy, not an error */
    s = make(&p, 10);
    assert_int_equal(nib_sampler_accept(s, 10, &e), NIB_ERR_ARGUMENT);
    assert_int_equal(nib_sampler_accept(s, -1, &e), NIB_ERR_ARGUMENT);
    nib_sampler_free(s);
    for (long n = 1; n < 8; n++) { /* every allocation of a sampler may fail */
        p.repeat_penalty = 2;
        s = NULL;
        nib_alloc_fail_after(n);
        nib_status st = nib_sampler_new(&s, &p, 100, &e);
        nib_alloc_fail_after(0);
        assert_int_equal(st, n <= 7 ? NIB_ERR_NOMEM : NIB_OK);
        assert_null(s);
    }
}

static void seeds_decide_and_picks_do_not_allocate(void **state) {
    (void)state;
    enum { V = 1000, N = 200 };
    static float logits[V];
    nib_rng r = {.seed = 11};
    for (int i = 0; i < V; i++) logits[i] = nib_rng_normal(&r);
    nib_sample_params p = nib_sample_defaults();
    p.repeat_penalty = 1.1f;
    p.no_repeat_ngram = 4;
    p.typical_p = 0.95f;
    int32_t runs[3][N];
    for (int run = 0; run < 3; run++) {
        p.seed_given = true;
        p.seed = run < 2 ? 42 : 43;
        nib_sampler *s = make(&p, V);
        assert_true(nib_sampler_seed(s) == p.seed);
        for (int i = 0; i < N; i++) {
            long before = nib_alloc_count();
            runs[run][i] = nib_sampler_pick(s, logits);
            assert_int_equal(nib_sampler_pick(s, logits),
                             runs[run][i]); /* a pick changes nothing */
            assert_int_equal(nib_alloc_count(), before);
            accept(s, runs[run][i]);
        }
        nib_sampler_rewind(s, 50);
        for (int i = 50; i < N; i++) {
            assert_int_equal(nib_sampler_pick(s, logits), runs[run][i]);
            accept(s, runs[run][i]);
        }
        nib_sampler_free(s);
    }
    assert_memory_equal(runs[0], runs[1], sizeof runs[0]);
    int n_same = 0;
    for (int i = 0; i < N; i++) n_same += runs[0][i] == runs[2][i];
    assert_true(n_same < N / 2);
    p.seed_given = false; /* from the system: two samplers differ */
    nib_sampler *a = make(&p, V), *b = make(&p, V);
    assert_true(nib_sampler_seed(a) != nib_sampler_seed(b));
    nib_sampler_free(a);
    nib_sampler_free(b);
}

/* A pick from a large vocabulary must cost little beside a decoding step, whatever is switched on.
 */
static void large_vocabularies_are_fast(void **state) {
    (void)state;
    enum { V = 128256, N = 20 };
    float *logits = nib_alloc(V * sizeof *logits);
    assert_non_null(logits);
    nib_rng r = {.seed = 13};
    for (int i = 0; i < V; i++) logits[i] = nib_rng_normal(&r) * 2;
    const struct {
        const char *name;
        int top_k;
        float top_p, typical;
    } cases[] = {{"top-k 40, top-p 0.95", 40, 0.95f, 1},
                 {"top-p 0.95 alone", 0, 0.95f, 1},
                 {"typical 0.9 alone", 0, 1, 0.9f}};
    for (size_t k = 0; k < NIB_ARRAY_LEN(cases); k++) {
        nib_sample_params p = plain();
        p.top_k = cases[k].top_k, p.top_p = cases[k].top_p, p.typical_p = cases[k].typical;
        p.repeat_penalty = 1.1f, p.penalty_window = -1;
        nib_sampler *s = make(&p, V);
        for (int i = 0; i < 4000; i++) accept(s, i);
        double t = nib_now();
        for (int i = 0; i < N; i++) nib_sampler_pick(s, logits);
        t = (nib_now() - t) / N;
        print_message("pick of %d, %s: %.2f ms\n", V, cases[k].name, t * 1e3);
        assert_true(t < 1); /* far above what it takes, so that a busy machine passes */
        nib_sampler_free(s);
    }
    nib_free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_give_hand_computed_distributions),
        cmocka_unit_test(bias_bans_and_lifts),
        cmocka_unit_test(penalties_look_at_the_window),
        cmocka_unit_test(rewind_equals_a_fresh_history),
        cmocka_unit_test(ngrams_do_not_repeat),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(selection_equals_a_full_sort),
        cmocka_unit_test(ties_go_to_the_lower_token),
        cmocka_unit_test(broken_logits_give_a_valid_token),
        cmocka_unit_test(limits_of_every_setting),
        cmocka_unit_test(settings_by_name),
        cmocka_unit_test(bad_settings_are_refused),
        cmocka_unit_test(seeds_decide_and_picks_do_not_allocate),
        cmocka_unit_test(large_vocabularies_are_fast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
