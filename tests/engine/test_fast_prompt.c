/* nib_engine_params.fast_prompt: prompts by weights rounded once more, and nothing else. */
#include <math.h>
#include "engine/engine.h"
#include "testlib.h"
#include "tinymodel.h"

static nib_error e;
enum { N = 100 };

typedef struct outcome {
    int64_t n_vocab;
    float *prompt, *step; /* logits after the prompt, and after one more token */
} outcome;

static outcome eval(nib_model *m, bool fast, int threads, int n) {
    nib_engine *en;
    nib_seq *s;
    nib_engine_params p = {.n_threads = threads, .n_ctx = 256, .batch = 64, .fast_prompt = fast};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    test_ok(nib_seq_new(&s, en, &e), &e);
    outcome o = {.n_vocab = nib_model_get_info(m)->n_vocab};
    size_t bytes = (size_t)o.n_vocab * sizeof(float);
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = (i * 37 + 11) % (int32_t)o.n_vocab;
    const float *logits;
    test_ok(nib_seq_eval(s, ids, n, &logits, &e), &e);
    o.prompt = memcpy(nib_alloc(bytes), logits, bytes);
    test_ok(nib_seq_eval(s, ids, 1, &logits, &e), &e);
    o.step = memcpy(nib_alloc(bytes), logits, bytes);
    nib_engine_free(en);
    return o;
}
static void free_outcome(outcome *o) {
    nib_free(o->prompt);
    nib_free(o->step);
}

static bool same(const outcome *a, const outcome *b) {
    size_t bytes = (size_t)a->n_vocab * sizeof(float);
    return !memcmp(a->prompt, b->prompt, bytes) && !memcmp(a->step, b->step, bytes);
}

/* Root mean square of a - b, of that of a. */
static double distance(const float *a, const float *b, int64_t n) {
    double d = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        d += pow((double)a[i] - (double)b[i], 2);
        size += pow((double)a[i], 2);
    }
    return sqrt(d / size);
}

static nib_model *open_type(nib_dtype t) {
    nib_model *m;
    char name[64];
    snprintf(name, sizeof name, "fast-%s.gguf", nib_dtype_get(t)->name);
    test_ok(nib_model_open(&m, test_tiny_model(name, &(test_tiny){.dtype = t, .n_embd = 256}), NULL,
                           &e),
            &e);
    return m;
}

static void prompts_come_close(void **state) {
    (void)state;
    static const nib_dtype types[] = {NIB_Q4_0, NIB_Q5_0, NIB_Q8_0, NIB_Q4_K, NIB_Q6_K};
    bool gains = nib_kernels_get()->matmul_fast;
    double worst = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(types); i++) {
        nib_model *m = open_type(types[i]);
        outcome exact = eval(m, false, 2, N), fast = eval(m, true, 1, N);
        assert_int_equal(same(&exact, &fast), !gains);
        double d = fmax(distance(exact.prompt, fast.prompt, exact.n_vocab),
                        distance(exact.step, fast.step, exact.n_vocab));
        if (!(d < 0.1)) fail_msg("%s: %g off", nib_dtype_get(types[i])->name, d);
        worst = fmax(worst, d);
        for (int threads = 2; threads <= 3; threads++) {
            outcome again = eval(m, true, threads, N);
            assert_true(same(&fast, &again));
            free_outcome(&again);
        }
        free_outcome(&exact);
        free_outcome(&fast);
        nib_model_release(m);
    }
    print_message("%s: fast prompts at most %.4f off\n", nib_kernels_get()->name, worst);
}

/* Few tokens, and float weights, are multiplied as ever. */
static void the_rest_stays_exact(void **state) {
    (void)state;
    static const nib_dtype types[] = {NIB_Q4_0, NIB_F16};
    for (int i = 0; i < 2; i++) {
        nib_model *m = open_type(types[i]);
        int n = i == 0 ? NIB_FAST_LEAST - 1 : N;
        outcome exact = eval(m, false, 2, n), fast = eval(m, true, 2, n);
        assert_true(same(&exact, &fast));
        free_outcome(&exact);
        free_outcome(&fast);
        nib_model_release(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_come_close),
        cmocka_unit_test(the_rest_stays_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
