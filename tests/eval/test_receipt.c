/* A round trip through every type that nib quantize makes, with what it cost: the divergence falls
 * as bits are added, and importance matrices lower it. */
#include <math.h>
#include <stdlib.h>
#include "convert/convert.h"
#include "eval/eval.h"
#include "testlib.h"
#include "tinymodel.h"

enum { MAX_TYPES = 64 };
typedef struct made {
    const char *type;
    double bits; /* a weight */
    nib_quality q;
} made;

static nib_error e;
static char out[512];

static const float *importance(void *arg, const char *tensor, int64_t *n) {
    const nib_imatrix_tensor *t = nib_imatrix_find(arg, tensor);
    if (t) *n = t->n * t->n_mat;
    return t ? t->means : NULL;
}

static made make(const char *source, const char *type, nib_imatrix *im, size_t text) {
    made m = {.type = type};
    nib_quantize_report r;
    nib_quantize_params p = {
        .type = type, .n_threads = 2, .importance = im ? importance : NULL, .importance_arg = im};
    nib_quality_params qp = {.eval = {.n_ctx = 128}, .no_speed = true};
    snprintf(out, sizeof out, "%s/quantised.gguf", test_tmp());
    test_ok(nib_quantize(source, out, &p, &r, &e), &e);
    m.bits = 8 * (double)r.bytes_after / (double)r.n_params;
    nib_quantize_report_free(&r);
    test_ok(nib_quality_compare(source, out, nib_sample_text, text, &qp, &m.q, &e), &e);
    return m;
}

static int more_bits_first(const void *a, const void *b) {
    double x = ((const made *)a)->bits, y = ((const made *)b)->bits;
    return (x < y) - (x > y);
}

/* Every type; 'apart': from so many bits a weight more, the divergence must be less. */
static size_t all_types(const char *source, double apart, size_t text) {
    if (test_quick()) text = 400;
    made m[MAX_TYPES];
    size_t n = 0;
    for (const char *type; (type = nib_quantize_type_at(n)); n++) {
        assert_true(n < MAX_TYPES);
        m[n] = make(source, type, NULL, text);
        const nib_quality *q = &m[n].q;
        bool whole = strcmp(type, "f32") == 0;
        assert_true(whole ? q->kl.value == 0 : q->kl.value > 0);
        assert_true(q->kl_max >= q->kl_p999 && isfinite(q->kl_max));
        assert_true(q->side[0].perplexity.value > 1 && q->side[1].perplexity.value > 1);
        if (!(q->same_top.value > (strchr(type, '8') || strchr(type, '6') ? 0.9 : 0.3)))
            fail_msg("%s: %.2f bits, first choices %g", type, m[n].bits, q->same_top.value);
    }
    qsort(m, n, sizeof *m, more_bits_first);
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++)
            if (m[i].bits - m[k].bits > apart && !(m[i].q.kl.value < m[k].q.kl.value))
                fail_msg("%s (%.2f bits) has KL %g, %s (%.2f bits) has %g", m[i].type, m[i].bits,
                         m[i].q.kl.value, m[k].type, m[k].bits, m[k].q.kl.value);
    for (size_t i = 0; i < n; i++)
        print_message("%-7s %5.2f bits, KL %.6f, first choices %5.1f %%\n", m[i].type, m[i].bits,
                      m[i].q.kl.value, 100 * m[i].q.same_top.value);
    return n;
}

static void random_weights(void **state) {
    (void)state;
    char source[512];
    snprintf(source, sizeof source, "%s",
             test_tiny_model("source.gguf",
                             &(test_tiny){.n_embd = 256, .n_layer = test_quick() ? 2 : 3}));
    assert_true(all_types(source, 0.5, 700) >= 20);
}

static void trained_weights(void **state) {
    (void)state;
    if (!test_shared()) {
        test_skip("no reference data");
        return;
    }
    /* rows of 64 and 172: K-quants fall back, so fewer sizes differ */
    all_types(test_shared_path("golden/stories260k/model.gguf"), 0.5, 2500);
}

/* The text's own importance helps on the text. */
static void importance_helps(void **state) {
    (void)state;
    if (!test_shared()) {
        test_skip("no reference data");
        return;
    }
    char source[512];
    snprintf(source, sizeof source, "%s", test_shared_path("golden/stories260k/model.gguf"));
    nib_model *m;
    nib_engine *en;
    nib_imatrix *im;
    nib_engine_params p = {.n_ctx = 128};
    nib_eval_params ep = {.n_ctx = 128};
    test_ok(nib_model_open(&m, source, NULL, &e), &e);
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    test_ok(nib_imatrix_collect(&im, en, nib_sample_text, 2500, "", false, &ep, &e), &e);
    static const char *const types[] = {"q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"};
    for (size_t i = 0; i < (test_quick() ? 1 : NIB_ARRAY_LEN(types)); i++) {
        made plain = make(source, types[i], NULL, 2500), with = make(source, types[i], im, 2500);
        print_message("%-7s KL %.5f, with importance %.5f\n", types[i], plain.q.kl.value,
                      with.q.kl.value);
        assert_true(with.q.kl.value < plain.q.kl.value);
    }
    nib_imatrix_free(im);
    nib_engine_free(en);
    nib_model_release(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_weights),
        cmocka_unit_test(trained_weights),
        cmocka_unit_test(importance_helps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
