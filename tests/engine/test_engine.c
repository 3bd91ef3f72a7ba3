/* Sequences: rewinding, several together, limits, cancelling, formats of the cache; on a model the
 * test writes. */
#include <math.h>
#include "engine/engine.h"
#include "ops/ops.h"
#include "testlib.h"
#include "tinymodel.h"

static nib_error e;
static nib_model *model;
static int64_t n_vocab;

static int open_model(void **state) {
    (void)state;
    test_ok(nib_model_open(&model, test_tiny_model("engine.gguf", &(test_tiny){.n_embd = 128}),
                           NULL, &e),
            &e);
    n_vocab = nib_model_get_info(model)->n_vocab;
    return 0;
}
static int close_model(void **state) {
    (void)state;
    nib_model_release(model);
    return 0;
}

static nib_engine *engine(nib_kv_type kv, int threads, int n_seq, int64_t n_ctx) {
    nib_engine *en;
    nib_engine_params p = {
        .kv = kv, .n_threads = threads, .n_seq = n_seq, .n_ctx = n_ctx, .batch = 32};
    test_ok(nib_engine_new(&en, model, &p, &e), &e);
    return en;
}

static void some_tokens(int32_t *ids, int n, uint64_t seed) {
    nib_rng r = {seed, 0};
    for (int i = 0; i < n; i++) ids[i] = (int32_t)(nib_rng_u64(&r) % (uint64_t)n_vocab);
}

static void expect_same(const float *a, const float *b) {
    assert_memory_equal(a, b, (size_t)n_vocab * sizeof *a);
}

static float *copy(const float *a) {
    float *p = nib_alloc((size_t)n_vocab * sizeof *p);
    memcpy(p, a, (size_t)n_vocab * sizeof *p);
    return p;
}

/* A rewound sequence continues with the bits of one that never went the other way, at every cut. */
static void rewind_is_exact(void **state) {
    (void)state;
    static const nib_kv_type kinds[] = {NIB_KV_I16, NIB_KV_F16, NIB_KV_F32, NIB_KV_Q8_0,
                                        NIB_KV_BF16};
    int32_t ids[150], other[60];
    some_tokens(ids, 150, 1);
    some_tokens(other, 60, 2);
    for (size_t k = 0; k < NIB_ARRAY_LEN(kinds); k++) {
        if (!nib_kv_suits_machine(kinds[k])) continue;
        nib_engine *en = engine(kinds[k], 2, 2, 256);
        nib_seq *a, *b;
        const float *logits;
        test_ok(nib_seq_new(&a, en, &e), &e);
        test_ok(nib_seq_new(&b, en, &e), &e);
        static const int cuts[] = {0, 1, 15, 16, 63, 64, 65, 128, 149};
        for (size_t c = 0; c < NIB_ARRAY_LEN(cuts); c++) {
            nib_seq_rewind(a, 0);
            nib_seq_rewind(b, 0);
            test_ok(nib_seq_eval(b, ids, 150, &logits, &e), &e);
            float *want = copy(logits);
            if (cuts[c]) test_ok(nib_seq_eval(a, ids, cuts[c], NULL, &e), &e);
            test_ok(nib_seq_eval(a, other, 60, NULL, &e), &e);
            nib_seq_rewind(a, cuts[c]);
            assert_int_equal(nib_seq_len(a), cuts[c]);
            test_ok(nib_seq_eval(a, ids + cuts[c], 150 - cuts[c], &logits, &e), &e);
            expect_same(logits, want);
            assert_memory_equal(nib_seq_tokens(a), ids, sizeof ids);
            nib_free(want);
        }
        nib_engine_free(en);
    }
}

/* Sequences that share a step get what they get alone, whoever sits beside them. */
static void company_changes_nothing(void **state) {
    (void)state;
    enum { N = 5 };
    nib_engine *en = engine(NIB_KV_I16, 2, N + 1, 128);
    nib_seq *s[N], *alone;
    int32_t ids[N][40];
    test_ok(nib_seq_new(&alone, en, &e), &e);
    for (int i = 0; i < N; i++) {
        test_ok(nib_seq_new(&s[i], en, &e), &e);
        some_tokens(ids[i], 40, 10 + (uint64_t)i);
        if (i) test_ok(nib_seq_eval(s[i], ids[i], i * 3, NULL, &e), &e);
    }
    for (int round = 0; round < 6; round++) {
        nib_step steps[N];
        for (int i = 0; i < N; i++) {
            /* prompts and single tokens mixed */
            int64_t n = (round + i) % 3 == 0 ? 4 : 1;
            steps[i] = (nib_step){.seq = s[i], .ids = ids[i] + nib_seq_len(s[i]), .n = n};
        }
        test_ok(nib_engine_step(en, steps, N, &e), &e);
        float *got[N];
        for (int i = 0; i < N; i++) got[i] = copy(steps[i].logits);
        for (int i = 0; i < N; i++) {
            const float *logits;
            nib_seq_rewind(alone, 0);
            test_ok(nib_seq_eval(alone, ids[i], nib_seq_len(s[i]), &logits, &e), &e);
            expect_same(got[i], logits);
            nib_free(got[i]);
        }
    }
    nib_engine_free(en);
}

/* One token far into the context, its cache shared out among threads in several waves: the bits of
 * a prompt that ends there. */
static void far_tokens_are_exact(void **state) {
    (void)state;
    enum { FAR = NIB_ATTN_CHUNK * NIB_ATTN_WAVE + 300 };
    static const int64_t lengths[] = {NIB_ATTN_CHUNK, 2 * NIB_ATTN_CHUNK - 1, FAR};
    nib_model *keep = model;
    test_tiny o = {.n_layer = 2, .n_ctx = FAR + 1}; /* one kv head */
    test_ok(nib_model_open(&model, test_tiny_model("far.gguf", &o), NULL, &e), &e);
    int32_t *ids = nib_alloc((FAR + 1) * sizeof *ids);
    some_tokens(ids, FAR + 1, 5);
    float *want[NIB_ARRAY_LEN(lengths)];
    for (int threads = 1; threads <= 3; threads++) {
        nib_engine *en = engine(NIB_KV_I16, threads, 1, FAR + 1);
        nib_seq *s;
        const float *logits;
        test_ok(nib_seq_new(&s, en, &e), &e);
        for (size_t i = 0; i < NIB_ARRAY_LEN(lengths); i++) {
            int64_t n = lengths[i], from = nib_seq_len(s);
            if (threads == 1) {
                test_ok(nib_seq_eval(s, ids + from, n + 1 - from, &logits, &e), &e);
                want[i] = copy(logits);
                nib_seq_rewind(s, n);
            } else {
                test_ok(nib_seq_eval(s, ids + from, n - from, NULL, &e), &e);
            }
            test_ok(nib_seq_eval(s, ids + n, 1, &logits, &e), &e);
            expect_same(logits, want[i]);
        }
        nib_engine_free(en);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(lengths); i++) nib_free(want[i]);
    nib_free(ids);
    nib_model_release(model);
    model = keep;
}

/* A message behind a kept prefix, whose three kv heads do not go round evenly: cut by tokens, even
 * where there are fewer than threads, it has the bits of one thread. */
static void messages_are_exact(void **state) {
    (void)state;
    enum { KEPT = NIB_ATTN_CHUNK + 44, MOST = 27 };
    static const int64_t lengths[] = {2, 3, NIB_FEW, NIB_FEW + 1, MOST};
    nib_model *keep = model;
    test_tiny o = {.n_embd = 192, .n_ctx = KEPT + MOST};
    test_ok(nib_model_open(&model, test_tiny_model("message.gguf", &o), NULL, &e), &e);
    int32_t ids[KEPT + MOST];
    some_tokens(ids, KEPT + MOST, 6);
    float *want[NIB_ARRAY_LEN(lengths)];
    for (int threads = 1; threads <= 4; threads++) {
        nib_engine *en = engine(NIB_KV_I16, threads, 1, KEPT + MOST);
        nib_seq *s;
        const float *logits;
        test_ok(nib_seq_new(&s, en, &e), &e);
        test_ok(nib_seq_eval(s, ids, KEPT, NULL, &e), &e);
        for (size_t i = 0; i < NIB_ARRAY_LEN(lengths); i++) {
            test_ok(nib_seq_eval(s, ids + KEPT, lengths[i], &logits, &e), &e);
            if (threads == 1)
                want[i] = copy(logits);
            else
                expect_same(logits, want[i]);
            nib_seq_rewind(s, KEPT);
        }
        nib_engine_free(en);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(lengths); i++) nib_free(want[i]);
    nib_model_release(model);
    model = keep;
}

/* Memory given back between passes: what follows has the same bits. */
static void rest_changes_nothing(void **state) {
    (void)state;
    enum { N = 130 };
    int32_t ids[N];
    some_tokens(ids, N, 5);
    float *want[2];
    for (int rest = 0; rest < 2; rest++) {
        nib_engine *en = engine(NIB_KV_F16, 2, 3, 256);
        nib_seq *a, *b, *c;
        const float *logits;
        test_ok(nib_seq_new(&a, en, &e), &e);
        test_ok(nib_seq_new(&b, en, &e), &e);
        test_ok(nib_seq_new(&c, en, &e), &e);
        test_ok(nib_seq_eval(b, ids, 70, NULL, &e), &e); /* pages that are free, between others */
        test_ok(nib_seq_eval(a, ids, N - 1, NULL, &e), &e);
        nib_seq_publish(a);
        nib_seq_free(b);
        if (rest) nib_engine_rest(en);
        test_ok(nib_seq_eval(a, ids + N - 1, 1, &logits, &e), &e);
        float *first = copy(logits);
        int64_t known = nib_seq_adopt(c, ids, N - 1);
        assert_int_equal(known, 128);
        if (rest) nib_engine_rest(en);
        test_ok(nib_seq_eval(c, ids + known, N - known, &logits, &e), &e);
        expect_same(logits, first);
        want[rest] = first;
        nib_engine_free(en);
    }
    expect_same(want[1], want[0]);
    nib_free(want[0]);
    nib_free(want[1]);
}

static void limits_are_errors(void **state) {
    (void)state;
    nib_engine *en = engine(NIB_KV_I16, 1, 1, 100);
    nib_seq *s, *t;
    int32_t ids[101];
    const float *logits;
    some_tokens(ids, 101, 3);
    test_ok(nib_seq_new(&s, en, &e), &e);
    assert_int_equal(nib_seq_eval(s, ids, 101, NULL, &e), NIB_ERR_CONTEXT);
    assert_int_equal(nib_seq_len(s), 0);
    test_ok(nib_seq_eval(s, ids, 100, &logits, &e), &e);
    assert_int_equal(nib_seq_eval(s, ids, 1, &logits, &e), NIB_ERR_CONTEXT);
    /* the pool holds one sequence's pages */
    test_ok(nib_seq_new(&t, en, &e), &e);
    assert_int_equal(nib_seq_eval(t, ids, 1, &logits, &e), NIB_ERR_LIMIT);
    nib_seq_rewind(s, 0);
    test_ok(nib_seq_eval(t, ids, 1, &logits, &e), &e);
    ids[0] = -1;
    assert_int_equal(nib_seq_eval(t, ids, 1, &logits, &e), NIB_ERR_ARGUMENT);
    ids[0] = (int32_t)n_vocab;
    assert_int_equal(nib_seq_eval(t, ids, 1, &logits, &e), NIB_ERR_ARGUMENT);
    nib_engine_free(en);
    nib_engine_params p = {.n_ctx = (int64_t)1 << 40};
    assert_int_equal(nib_engine_new(&en, model, &p, &e), NIB_ERR_LIMIT);
    p = (nib_engine_params){.n_ctx = 1 << 24, .n_seq = 1000};
    assert_int_equal(nib_engine_new(&en, model, &p, &e), NIB_ERR_MEMORY_FIT);
    assert_non_null(strstr(e.message, "--ctx"));
}

static void cancel_keeps_whole_chunks(void **state) {
    (void)state;
    nib_engine *en = engine(NIB_KV_I16, 2, 1, 256);
    atomic_bool stop = true;
    nib_seq *s;
    int32_t ids[90];
    some_tokens(ids, 90, 4);
    test_ok(nib_seq_new(&s, en, &e), &e);
    nib_engine_set_cancel(en, &stop);
    assert_int_equal(nib_seq_eval(s, ids, 90, NULL, &e), NIB_ERR_CANCELLED);
    assert_int_equal(nib_seq_len(s) % 32, 0);
    atomic_store(&stop, false);
    int64_t len = nib_seq_len(s);
    test_ok(nib_seq_eval(s, ids + len, 90 - len, NULL, &e), &e);
    nib_engine_free(en);
}

/* A decode step allocates nothing. */
static void steps_do_not_allocate(void **state) {
    (void)state;
    nib_engine *en = engine(NIB_KV_I16, 2, 1, 256);
    nib_seq *s;
    int32_t ids[100];
    const float *logits;
    some_tokens(ids, 100, 5);
    test_ok(nib_seq_new(&s, en, &e), &e);
    test_ok(nib_seq_eval(s, ids, 70, &logits, &e), &e);
    long before = nib_alloc_count();
    for (int i = 70; i < 100; i++) test_ok(nib_seq_eval(s, ids + i, 1, &logits, &e), &e);
    assert_int_equal(nib_alloc_count(), before);
    nib_engine_free(en);
}

static bool stop_loading(void *arg, uint64_t done, uint64_t total) {
    (void)done;
    (void)total;
    return --*(int *)arg > 0;
}

/* Loading may be cancelled, and every allocation may fail, without a leak or a crash. */
static void loading_may_fail_anywhere(void **state) {
    (void)state;
    const char *path = test_tiny_model("fails.gguf", &(test_tiny){.n_layer = 1});
    nib_model *m;
    int left = 3;
    nib_model_params p = {.n_threads = 1, .progress = stop_loading, .progress_arg = &left};
    assert_int_equal(nib_model_open(&m, path, &p, &e), NIB_ERR_CANCELLED);
    p.progress = NULL;
    long n = 1;
    for (;; n++) {
        nib_alloc_fail_after(n);
        nib_status s = nib_model_open(&m, path, &p, &e);
        nib_engine *en = NULL;
        nib_seq *seq;
        const float *logits;
        if (s == NIB_OK) {
            nib_engine_params ep = {.n_threads = 1, .n_ctx = 64};
            s = nib_engine_new(&en, m, &ep, &e);
            if (s == NIB_OK) s = nib_seq_new(&seq, en, &e);
            if (s == NIB_OK) s = nib_seq_eval(seq, (int32_t[]){1, 5, 9}, 3, &logits, &e);
            nib_engine_free(en);
            nib_model_release(m);
        }
        nib_alloc_fail_after(0);
        if (s == NIB_OK) break;
        if (s != NIB_ERR_NOMEM && s != NIB_ERR_LIMIT) fail_msg("allocation %ld: %s", n, e.message);
        assert_true(n < 100000);
    }
    assert_true(n > 20); /* weights are one piece of memory, however many matrices */
}

static void plan_counts_kv(void **state) {
    (void)state;
    /* 2 layers, 2 kv heads of 32 (4 query heads): K and V in f16 */
    assert_int_equal(nib_model_kv_bytes(model, NIB_KV_F16, 64), 64 * 2 * 2 * 32 * 2 * 2);
    assert_int_equal(nib_model_kv_bytes(model, NIB_KV_F32, 64), 64 * 2 * 2 * 32 * 2 * 4);
    nib_plan plan;
    nib_engine_params p = {.n_ctx = 512};
    nib_engine_plan(model, &p, &plan);
    assert_true(plan.fits && plan.ctx_fits >= 512);
    assert_int_equal(plan.kv, nib_model_kv_bytes(model, NIB_KV_F16, 512));
}

static void embedding_has_length_one(void **state) {
    (void)state;
    nib_engine *en = engine(NIB_KV_I16, 2, 1, 128);
    float v[128], w[128];
    int32_t ids[90];
    some_tokens(ids, 90, 6);
    test_ok(nib_engine_embed(en, ids, 90, true, v, &e), &e);
    double sum = 0;
    for (int i = 0; i < 128; i++) sum += (double)v[i] * (double)v[i];
    assert_true(fabs(sum - 1) < 1e-5);
    test_ok(nib_engine_embed(en, ids, 90, true, w, &e), &e);
    assert_memory_equal(v, w, sizeof v);
    nib_engine_free(en);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rewind_is_exact),       cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(far_tokens_are_exact),  cmocka_unit_test(messages_are_exact),
        cmocka_unit_test(limits_are_errors),     cmocka_unit_test(cancel_keeps_whole_chunks),
        cmocka_unit_test(steps_do_not_allocate), cmocka_unit_test(loading_may_fail_anywhere),
        cmocka_unit_test(plan_counts_kv),        cmocka_unit_test(embedding_has_length_one),
        cmocka_unit_test(rest_changes_nothing),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
