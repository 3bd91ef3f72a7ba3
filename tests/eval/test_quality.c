/* Perplexity and divergence: against sums made the plain way, for both ways of holding two models,
 * at any number of threads; and that quality falls with the bits. */
#include <math.h>
#include <stdlib.h>
#include "eval/score.h"
#include "testlib.h"
#include "tinymodel.h"

static nib_error e;
/* Bytes of the sample: a token each, or so. */
static size_t some_text(void) {
    return test_quick() ? 420 : 1500;
}

static const char *model_of(const char *name, nib_dtype t, uint64_t seed) {
    return test_tiny_model(name, &(test_tiny){.dtype = t, .n_embd = 256, .seed = seed});
}

static nib_engine *engine_of(const char *path, int threads, int64_t n_ctx) {
    nib_model *m;
    nib_engine *en;
    nib_engine_params p = {.n_threads = threads, .n_ctx = n_ctx};
    test_ok(nib_model_open(&m, path, NULL, &e), &e);
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_model_release(m);
    return en;
}

/* ---- by hand ---- */

typedef struct plain {
    int64_t n_vocab;
    double *p; /* [n, n_vocab] probabilities */
} plain;

static void softmax(void *arg, int64_t i, const float *logits) {
    plain *x = arg;
    double max = -INFINITY, sum = 0, *p = x->p + i * x->n_vocab;
    for (int64_t v = 0; v < x->n_vocab; v++) max = fmax(max, (double)logits[v]);
    for (int64_t v = 0; v < x->n_vocab; v++) sum += p[v] = exp((double)logits[v] - max);
    for (int64_t v = 0; v < x->n_vocab; v++) p[v] /= sum;
}

/* Probabilities after every token of a chunk. */
static double *probabilities(nib_engine *en, const int32_t *ids, int64_t n) {
    plain x = {.n_vocab = nib_model_get_info(nib_engine_model(en))->n_vocab};
    x.p = nib_alloc((size_t)(n * x.n_vocab) * sizeof *x.p);
    nib_seq *s;
    test_ok(nib_seq_new(&s, en, &e), &e);
    test_ok(nib_seq_eval_all(s, ids, n, softmax, &x, &e), &e);
    nib_seq_free(s);
    return x.p;
}

static int64_t best(const double *p, int64_t n) {
    int64_t k = 0;
    for (int64_t v = 1; v < n; v++)
        if (p[v] > p[k]) k = v;
    return k;
}

typedef struct by_hand {
    double nll[2], kl, same, kl_max;
    int64_t n;
} by_hand;

/* The plain way, with tokens cut by hand: BOS in front of each chunk, the second half scored. */
static by_hand compare_by_hand(const char *a, const char *b, int64_t n_ctx) {
    nib_engine *en[2] = {engine_of(a, 2, n_ctx), engine_of(b, 2, n_ctx)};
    int64_t n_vocab = nib_model_get_info(nib_engine_model(en[0]))->n_vocab;
    nib_ids ids = {0};
    by_hand r = {0};
    test_ok(nib_tokenize(nib_model_tokenizer(nib_engine_model(en[0])), nib_sample_text, some_text(),
                         NIB_TOK_SPECIAL, &ids, &e),
            &e);
    for (int64_t at = 0; at + n_ctx <= (int64_t)ids.len; at += n_ctx) {
        int32_t *chunk = ids.data + at;
        chunk[0] = 1;
        double *p = probabilities(en[0], chunk, n_ctx), *q = probabilities(en[1], chunk, n_ctx);
        for (int64_t t = n_ctx / 2; t < n_ctx - 1; t++) {
            double *pt = p + t * n_vocab, *qt = q + t * n_vocab, kl = 0;
            for (int64_t v = 0; v < n_vocab; v++) kl += pt[v] * log(pt[v] / qt[v]);
            r.nll[0] -= log(pt[chunk[t + 1]]);
            r.nll[1] -= log(qt[chunk[t + 1]]);
            r.same += best(pt, n_vocab) == best(qt, n_vocab);
            r.kl += kl;
            r.kl_max = fmax(r.kl_max, kl);
            r.n++;
        }
        nib_free(p), nib_free(q);
    }
    nib_ids_free(&ids);
    for (int i = 0; i < 2; i++) nib_engine_free(en[i]);
    return r;
}

static nib_quality compare(const char *a, const char *b, const nib_quality_params *p) {
    nib_quality q;
    test_ok(nib_quality_compare(a, b, nib_sample_text, some_text(), p, &q, &e), &e);
    return q;
}

static void near(double got, double want, double relative, const char *what) {
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%s: want %.12g, got %.12g", what, want, got);
}

static void numbers_are_those_made_by_hand(void **state) {
    (void)state;
    const char *a = model_of("a.gguf", NIB_F16, 0), *b = model_of("b.gguf", NIB_Q4_K, 0);
    nib_quality_params p = {.eval = {.n_ctx = 100}, .no_speed = true};
    by_hand want = compare_by_hand(a, b, 100);
    nib_quality q = compare(a, b, &p);
    assert_int_equal(q.n_tokens, want.n);
    assert_int_equal(q.n_chunks * (100 - 1 - 50), want.n);
    near(q.kl.value, want.kl / (double)want.n, 1e-6, "KL");
    near(q.kl_max, want.kl_max, 1e-5, "largest KL");
    near(q.same_top.value, want.same / (double)want.n, 1e-12, "equal first choices");
    for (int m = 0; m < 2; m++)
        near(q.side[m].perplexity.value, exp(want.nll[m] / (double)want.n), 1e-9, "perplexity");
    assert_true(q.kl_median <= q.kl_p99 && q.kl_p99 <= q.kl_p999 && q.kl_p999 <= q.kl_max);
    assert_true(q.kl.error > 0 && q.same_top.error > 0 && q.perplexity_change.error > 0);
    /* the two err together */
    assert_true(q.perplexity_change.error < q.side[0].perplexity.error);
    assert_string_equal(q.side[1].quant, "Q4_K");
    assert_true(q.side[1].file_bytes < q.side[0].file_bytes && q.side[1].memory > 0);

    nib_engine *en = engine_of(a, 1, 100);
    nib_perplexity r;
    test_ok(nib_perplexity_measure(en, nib_sample_text, some_text(), &p.eval, &r, &e), &e);
    assert_true(r.perplexity.value == q.side[0].perplexity.value);
    assert_true(r.perplexity.error == q.side[0].perplexity.error && r.n_tokens == q.n_tokens);
    nib_engine_free(en);
}

static void errors_of_means_are_right(void **state) {
    (void)state;
    static const double v[] = {1, 9, 2, 9, 3, 9, 6, 9};
    nib_estimate m = nib_mean_of(v, 4, 2);
    assert_true(m.value == 3);
    near(m.error, sqrt(14.0 / 3 / 4), 1e-12, "standard error");
    assert_true(nib_mean_of(v, 1, 1).error == 0);
}

/* ---- promises ---- */

static void a_model_is_itself(void **state) {
    (void)state;
    const char *a = model_of("self.gguf", NIB_Q4_0, 0);
    nib_quality q = compare(a, a, &(nib_quality_params){.eval = {.n_ctx = 64}, .no_speed = true});
    assert_true(q.kl.value == 0 && q.kl_max == 0 && q.same_top.value == 1);
    assert_true(q.perplexity_change.value == 0 && q.perplexity_change.error == 0);
}

static void the_way_of_computing_changes_nothing(void **state) {
    (void)state;
    const char *a = model_of("way-a.gguf", NIB_F32, 0), *b = model_of("way-b.gguf", NIB_Q3_K, 0);
    nib_quality first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        nib_quality_params p = {
            .eval = {.n_ctx = 128}, .engine = {.n_threads = threads}, .no_speed = true};
        nib_quality q = compare(a, b, &p);
        if (threads == 1) first = q;
        assert_memory_equal(&q.kl, &first.kl, sizeof q.kl);
        assert_memory_equal(&q.perplexity_change, &first.perplexity_change, sizeof q.kl);
        assert_true(q.kl_p999 == first.kl_p999 && !q.one_at_a_time);
        p.one_at_a_time = true; /* 16 bits a probability: all but the same */
        nib_quality alone = compare(a, b, &p);
        assert_true(alone.one_at_a_time);
        near(alone.kl.value, q.kl.value, 1e-5, "KL, one at a time");
        near(alone.kl_p999, q.kl_p999, 1e-4, "99.9 % KL, one at a time");
        assert_memory_equal(&alone.same_top, &q.same_top, sizeof q.same_top);
        for (int m = 0; m < 2; m++)
            assert_memory_equal(&alone.side[m].perplexity, &q.side[m].perplexity, sizeof q.kl);
    }
}

static void rows_in_files_are_close(void **state) {
    (void)state;
    enum { V = 1000 };
    static float x[V], y[V];
    static uint8_t row[4 + 2 * V + 1];
    nib_rng r = {1, 0};
    assert_int_equal(nib_logfile_row_bytes(V), 4 + 2 * V);
    for (int round = 0; round < 20; round++) {
        float wide = round ? expf((float)(round - 10)) : 0, lowest = INFINITY, highest = -INFINITY;
        for (int i = 0; i < V; i++) {
            x[i] = -3 + wide * nib_rng_normal(&r);
            lowest = fminf(lowest, x[i]), highest = fmaxf(highest, x[i]);
        }
        nib_logfile_encode(x, V, row + 1); /* at an odd address */
        nib_logfile_decode(row + 1, V, y);
        for (int i = 0; i < V; i++)
            if (!(fabsf(x[i] - lowest - y[i]) <= (highest - lowest) * (0.51f / 65535)))
                fail_msg("round %d: %g became %g", round, (double)(x[i] - lowest), (double)y[i]);
    }
    x[3] = NAN, x[5] = INFINITY; /* must not crash */
    nib_logfile_encode(x, V, row);
    nib_logfile_decode(row, V, y);
}

/* The promise of quantising: more bits, less divergence; each format beside its neighbours. */
static void quality_falls_with_the_bits(void **state) {
    (void)state;
    static const nib_dtype ladder[] = {NIB_F16,  NIB_BF16, NIB_Q8_0, NIB_Q6_K, NIB_Q5_K,
                                       NIB_Q5_0, NIB_Q4_K, NIB_Q4_0, NIB_Q3_K, NIB_Q2_K};
    char reference[512]; /* paths live in a ring */
    snprintf(reference, sizeof reference, "%s", model_of("reference.gguf", NIB_F32, 0));
    nib_quality_params p = {.eval = {.n_ctx = 128, .n_chunks = 3}, .no_speed = true};
    double last = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(ladder); i += test_quick() ? 3 : 1) {
        nib_quality q = compare(reference, model_of("ladder.gguf", ladder[i], 0), &p);
        if (!(q.kl.value > last))
            fail_msg("%s: %g after %g", nib_dtype_get(ladder[i])->name, q.kl.value, last);
        last = q.kl.value;
    }
}

/* ---- what may be wrong ---- */

static void expect_failure(nib_status code, const char *part, const char *a, const char *b,
                           const nib_quality_params *p, const char *text) {
    nib_quality q;
    assert_int_equal(nib_quality_compare(a, b, text, strlen(text), p, &q, &e), code);
    if (!strstr(e.message, part)) fail_msg("expected '%s' in '%s'", part, e.message);
}

static void unlike_models_are_refused(void **state) {
    (void)state;
    nib_quality_params p = {.eval = {.n_ctx = 64}, .no_speed = true};
    const char *a = model_of("ok.gguf", NIB_F16, 0), *text = nib_sample_text;
    const char *embedder = test_tiny_model("bert.gguf", &(test_tiny){.embedder = true});
    expect_failure(NIB_ERR_UNSUPPORTED, "embedding model", a, embedder, &p, text);
    expect_failure(NIB_ERR_NOT_FOUND, "/nonexistent", a, "/nonexistent", &p, text);
    expect_failure(NIB_ERR_FORMAT, "8 tokens", a, a, &p, "short");
    nib_quality_params tiny = {.eval = {.n_ctx = 4}};
    expect_failure(NIB_ERR_ARGUMENT, "chunks of at least 8", a, a, &tiny, text);
    /* one token spelled otherwise */
    nib_buf b = {0};
    char path[512];
    test_ok(nib_file_read(a, 1 << 28, &b, &e), &e);
    char *at = memmem(b.data, b.len, "<|im_end|>", 10);
    assert_non_null(at);
    at[2] = 'I';
    snprintf(path, sizeof path, "%s/spelled.gguf", test_tmp());
    test_ok(nib_file_write(path, b.data, b.len, &e), &e);
    expect_failure(NIB_ERR_ARGUMENT, "token 260 is '<|im_end|>' and '<|Im_end|>'", a, path, &p,
                   text);
    nib_buf_free(&b);
    if (!test_shared()) return;
    expect_failure(NIB_ERR_ARGUMENT, "only models with one vocabulary", a,
                   test_shared_path("golden/qwen2/model.gguf"), &p, text);
}

static void broken_weights_are_named(void **state) {
    (void)state;
    const char *a = model_of("fine.gguf", NIB_F32, 0);
    nib_buf b = {0};
    char path[512];
    nib_gguf *g;
    test_ok(nib_file_read(a, 1 << 28, &b, &e), &e);
    test_ok(nib_gguf_open(&g, a, &e), &e);
    const nib_tensor *t = nib_gguf_tensor(g, "output_norm.weight");
    char *at = memmem(b.data, b.len, t->data, t->bytes);
    nib_gguf_close(g);
    assert_non_null(at);
    float inf = INFINITY;
    memcpy(at, &inf, sizeof inf);
    snprintf(path, sizeof path, "%s/broken.gguf", test_tmp());
    test_ok(nib_file_write(path, b.data, b.len, &e), &e);
    nib_quality_params p = {.eval = {.n_ctx = 64}, .no_speed = true};
    expect_failure(NIB_ERR_FORMAT, "not finite", a, path, &p, nib_sample_text);
    p.one_at_a_time = true;
    expect_failure(NIB_ERR_FORMAT, "not finite", path, a, &p, nib_sample_text);
    nib_buf_free(&b);
}

static void nowhere_to_put_the_file(void **state) {
    (void)state;
    const char *a = model_of("tmpdir.gguf", NIB_F16, 0), *before = getenv("TMPDIR");
    char *kept = before ? nib_strdup(before) : NULL;
    nib_quality_params p = {.eval = {.n_ctx = 64}, .no_speed = true, .one_at_a_time = true};
    setenv("TMPDIR", "/nonexistent", 1);
    expect_failure(NIB_ERR_IO, "/nonexistent", a, a, &p, nib_sample_text);
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    nib_free(kept);
    nib_logfile l = {0};
    assert_int_equal(nib_logfile_open(&l, INT64_MAX / 4, 1 << 20, &e), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "--chunks"));
}

static void count_stages(void *arg, const char *what, uint64_t done, uint64_t total) {
    assert_true(done <= total);
    char *seen = arg;
    if (!strstr(seen, what)) strcat(seen, what);
}

static void says_where_it_is_and_stops_when_told(void **state) {
    (void)state;
    const char *a = model_of("stages.gguf", NIB_Q8_0, 0);
    char seen[512] = "";
    atomic_bool stop = false;
    nib_quality_params p = {.eval = {.n_ctx = 64, .n_chunks = 2},
                            .one_at_a_time = true,
                            .progress = count_stages,
                            .progress_arg = seen,
                            .cancel = &stop};
    nib_quality q = compare(a, a, &p);
    assert_true(q.side[0].generate_per_s > 0 && q.side[1].read_per_s > 0);
    assert_string_equal(seen, "Loading the first modelReading with the first modelTiming "
                              "generationLoading the second modelReading with the second model");
    stop = true;
    expect_failure(NIB_ERR_CANCELLED, "", a, a, &p, nib_sample_text);
}

static void memory_may_run_out(void **state) {
    (void)state;
    const char *a = test_tiny_model("nomem.gguf", NULL);
    for (int way = 0; way < 2; way++) {
        nib_quality_params p = {.eval = {.n_ctx = 32, .n_chunks = 1},
                                .engine = {.n_threads = 1},
                                .no_speed = true,
                                .one_at_a_time = way};
        nib_status s = NIB_ERR_NOMEM;
        long n = 1, step = test_quick() ? 149 : 17;
        for (; s != NIB_OK && n < 100000; n += step) {
            nib_quality q;
            nib_alloc_fail_after(n);
            s = nib_quality_compare(a, a, nib_sample_text, 500, &p, &q, &e);
            nib_alloc_fail_after(0);
            if (s == NIB_OK || s == NIB_ERR_NOMEM || s == NIB_ERR_LIMIT) continue;
            fail_msg("allocation %d: %s", (int)n, e.message);
        }
        assert_true(s == NIB_OK && n > 20);
    }
}

/* A trained model beside its quantised selves, where there is one. */
static void a_trained_model(void **state) {
    (void)state;
    if (!test_shared()) {
        test_skip("no reference data");
        return;
    }
    nib_quality_params p = {.eval = {.n_ctx = 256}, .no_speed = true};
    const char *whole = test_shared_path("golden/stories260k/model.gguf");
    nib_quality q8 = compare(whole, test_shared_path("golden/stories260k-q8_0/model.gguf"), &p);
    nib_quality q4 = compare(whole, test_shared_path("golden/stories260k-q4_0/model.gguf"), &p);
    assert_true(q8.kl.value > 0 && q8.kl.value < 0.01 && q4.kl.value > 10 * q8.kl.value);
    assert_true(q8.same_top.value > 0.95 && q4.same_top.value < q8.same_top.value);
    assert_true(q8.side[0].perplexity.value == q4.side[0].perplexity.value);
    print_message("stories260k: KL %.5f at Q8_0, %.5f at Q4_0\n", q8.kl.value, q4.kl.value);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_made_by_hand),
        cmocka_unit_test(errors_of_means_are_right),
        cmocka_unit_test(a_model_is_itself),
        cmocka_unit_test(the_way_of_computing_changes_nothing),
        cmocka_unit_test(rows_in_files_are_close),
        cmocka_unit_test(quality_falls_with_the_bits),
        cmocka_unit_test(unlike_models_are_refused),
        cmocka_unit_test(broken_weights_are_named),
        cmocka_unit_test(nowhere_to_put_the_file),
        cmocka_unit_test(says_where_it_is_and_stops_when_told),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(a_trained_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
