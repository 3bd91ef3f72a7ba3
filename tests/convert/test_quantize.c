/* Quantising: the formats of each mix, their error against the peers', rules, importance, and what
 * is refused. */
#include <math.h>
#include <unistd.h>
#include "convert/convert.h"
#include "engine/engine.h"
#include "hffolder.h"
#include "tinymodel.h"

static nib_gguf *open_gguf(const char *path) {
    nib_error e;
    nib_gguf *g;
    test_ok(nib_gguf_open(&g, path, &e), &e);
    return g;
}

static nib_status quantize(const char *in, const char *out, const char *type, nib_error *e) {
    nib_quantize_params p = {.type = type, .n_threads = 2};
    return nib_quantize(in, out, &p, NULL, e);
}

static double error_of(const nib_gguf *g, const nib_gguf *reference) {
    double sum = 0;
    for (int64_t i = 0; i < nib_gguf_n_tensors(reference); i++) {
        const nib_tensor *a = nib_gguf_tensor_at(reference, i), *b = nib_gguf_tensor(g, a->name);
        assert_non_null(b);
        float x[256], y[256];
        for (int64_t k = 0; k < nib_tensor_count(a); k += 256) {
            int64_t n = NIB_MIN(256, nib_tensor_count(a) - k);
            nib_dtype_get(a->dtype)->to_f32((const char *)a->data + nib_dtype_bytes(a->dtype, k), x,
                                            n);
            nib_dtype_get(b->dtype)->to_f32((const char *)b->data + nib_dtype_bytes(b->dtype, k), y,
                                            n);
            for (int64_t j = 0; j < n; j++) sum += (double)(x[j] - y[j]) * (double)(x[j] - y[j]);
        }
    }
    return sum;
}

/* The reference files were written by llama-quantize: every tensor must have the same format, and
 * the sum of squared errors must not be larger. */
static void test_as_the_peers(void **state) {
    (void)state;
    static const char *const types[] = {"q4_0",   "q4_1",   "q5_0",   "q5_1",   "q8_0",   "q2_k",
                                        "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s",
                                        "q5_k_m", "q6_k",   "iq4_nl", "iq4_xs", "bf16"};
    if (!test_shared()) test_skip("no shared data");
    char source[1024];
    snprintf(source, sizeof source, "%s", test_shared_path("golden/quant-f16/model.gguf"));
    nib_gguf *f16 = open_gguf(source);
    for (size_t i = 0; i < NIB_ARRAY_LEN(types); i++) {
        nib_error e;
        test_ok(quantize(source, hf_path("ours.gguf"), types[i], &e), &e);
        nib_gguf *ours = open_gguf(hf_path("ours.gguf")),
                 *theirs = open_gguf(test_shared_path("golden/quant-%s/model.gguf", types[i]));
        assert_int_equal(nib_gguf_n_tensors(ours), nib_gguf_n_tensors(theirs));
        for (int64_t k = 0; k < nib_gguf_n_tensors(theirs); k++) {
            const nib_tensor *t = nib_gguf_tensor_at(theirs, k),
                             *o = nib_gguf_tensor(ours, t->name);
            if (!o || o->dtype != t->dtype)
                fail_msg("%s: %s is %s, theirs %s", types[i], t->name,
                         o ? nib_dtype_get(o->dtype)->name : "missing",
                         nib_dtype_get(t->dtype)->name);
        }
        int64_t a, b;
        test_ok(nib_gguf_i64(ours, "general.file_type", 0, 99, &a, &e), &e);
        test_ok(nib_gguf_i64(theirs, "general.file_type", 0, 99, &b, &e), &e);
        assert_int_equal(a, b);
        double mine = error_of(ours, f16), other = error_of(theirs, f16);
        if (mine > other * 1.001) /* theirs were made from F32, a hair away from the F16 */
            fail_msg("%s: squared error %g, theirs %g", types[i], mine, other);
        nib_gguf_close(ours);
        nib_gguf_close(theirs);
    }
    nib_gguf_close(f16);
    print_message("%zu types: formats as llama-quantize's, errors at most its\n",
                  NIB_ARRAY_LEN(types));
}

/* Every type of every mix writes a file that loads and computes. */
static void test_all_types_run(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 256, .n_layer = 4, .seed = 7};
    const char *in = test_tiny_model("all.gguf", &o);
    size_t n = 0;
    for (const char *type; (type = nib_quantize_type_at(n)); n++) {
        nib_model *m;
        nib_engine *en;
        nib_seq *seq;
        const float *logits;
        const int32_t ids[] = {1, 50, 270, 300};
        nib_engine_params ep = {.n_threads = 1, .n_ctx = 64, .ignore_memory = true};
        nib_model_params mp = {.n_threads = 1};
        test_ok(quantize(in, hf_path("run.gguf"), type, &e), &e);
        test_ok(nib_model_open(&m, hf_path("run.gguf"), &mp, &e), &e);
        test_ok(nib_engine_new(&en, m, &ep, &e), &e);
        test_ok(nib_seq_new(&seq, en, &e), &e);
        test_ok(nib_seq_eval(seq, ids, 4, &logits, &e), &e);
        for (int i = 0; i < TEST_TINY_VOCAB; i++) assert_true(isfinite(logits[i]));
        nib_engine_free(en);
        nib_model_release(m);
        /* and again from what is quantised: only when asked to, or to a float format */
        bool quantised = strchr(type, '_') || strcmp(type, "mxfp4") == 0;
        nib_status s = quantize(hf_path("run.gguf"), hf_path("again.gguf"), "q5_1", &e);
        assert_int_equal(s, quantised && strcmp(type, "q5_1") != 0 ? NIB_ERR_ARGUMENT : NIB_OK);
        if (s != NIB_OK) assert_non_null(strstr(e.message, "--requantize"));
        test_ok(quantize(hf_path("run.gguf"), hf_path("again.gguf"), "f16", &e), &e);
    }
    assert_int_equal(n, 20);
}

static bool as_reported(void *arg, const char *tensor, nib_dtype *type) {
    const nib_quantize_report *r = arg;
    for (size_t i = 0; i < r->n_tensors; i++)
        if (strcmp(r->tensors[i].name, tensor) == 0) {
            *type = r->tensors[i].to;
            return true;
        }
    return false;
}

static uint64_t logits_hash(const char *path, const nib_model_params *mp) {
    nib_error e;
    nib_model *m;
    nib_engine *en;
    nib_seq *seq;
    const float *logits;
    const int32_t ids[] = {1, 50, 17, 4, 99, 260, 3};
    nib_engine_params ep = {.n_threads = 2, .n_ctx = 64, .ignore_memory = true};
    nib_plan before, after;
    test_ok(nib_model_open(&m, path, mp, &e), &e);
    nib_engine_plan(m, &ep, &before);
    test_ok(nib_model_load(m, mp, &e), &e);
    nib_engine_plan(m, &ep, &after);
    assert_true(before.weights > 0 && after.weights == 0);
    test_ok(nib_engine_new(&en, m, &ep, &e), &e);
    test_ok(nib_seq_new(&seq, en, &e), &e);
    test_ok(nib_seq_eval(seq, ids, NIB_ARRAY_LEN(ids), &logits, &e), &e);
    uint64_t h = nib_hash(logits, (size_t)nib_model_get_info(m)->n_vocab * 4, 0);
    nib_engine_free(en);
    nib_model_release(m);
    return h;
}

/* Quantising while loading gives the bits of loading what was quantised. */
static void test_while_loading(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 256, .seed = 14, .dtype = NIB_F16};
    const char *in = test_tiny_model("load.gguf", &o);
    static const char *const types[] = {"q8_0", "q4_k_m", "q2_k", "q5_1", "iq4_xs", "bf16"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(types); i++) {
        nib_quantize_params p = {.type = types[i]};
        nib_quantize_report r;
        test_ok(nib_quantize(in, hf_path("loaded.gguf"), &p, &r, &e), &e);
        nib_model_params plain = {.n_threads = 2, .plan_only = true}, mp = plain;
        mp.retype = as_reported;
        mp.retype_arg = &r;
        if (logits_hash(in, &mp) != logits_hash(hf_path("loaded.gguf"), &plain))
            fail_msg("%s: other bits", types[i]);
        assert_true(logits_hash(in, &mp) != logits_hash(in, &plain));
        nib_quantize_report_free(&r);
    }
}

/* Threads and windows change no byte. */
static void test_threads(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 512, .seed = 8};
    const char *in = test_tiny_model("threads.gguf", &o);
    uint64_t first = 0;
    for (int n = 1; n <= 3; n++) {
        nib_quantize_params p = {.type = "q4_k_m", .n_threads = n};
        nib_buf file = {0};
        test_ok(nib_quantize(in, hf_path("t.gguf"), &p, NULL, &e), &e);
        test_ok(nib_file_read(hf_path("t.gguf"), 1 << 26, &file, &e), &e);
        uint64_t h = nib_hash(file.data, file.len, 0);
        if (n == 1) first = h;
        assert_true(h == first);
        nib_buf_free(&file);
    }
}

/* Rows of 64 hold no blocks of 256. */
static void test_fallback_and_plan(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 64, .seed = 9};
    const char *in = test_tiny_model("narrow.gguf", &o);
    static const struct {
        const char *type;
        nib_dtype to;
    } cases[] = {{"q2_k", NIB_Q4_0},   {"q3_k_s", NIB_Q4_0}, {"q4_k_s", NIB_Q5_0},
                 {"q5_k_s", NIB_Q5_1}, {"q6_k", NIB_Q8_0},   {"iq4_xs", NIB_IQ4_NL},
                 {"q4_0", NIB_Q4_0}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_quantize_params p = {.type = cases[i].type};
        nib_quantize_report r;
        test_ok(nib_quantize(in, NULL, &p, &r, &e), &e);
        bool found = false;
        uint64_t bytes = 0;
        for (size_t k = 0; k < r.n_tensors; k++) {
            bytes += r.tensors[k].bytes_after;
            if (strcmp(r.tensors[k].name, "blk.0.attn_q.weight") != 0) continue;
            assert_int_equal(r.tensors[k].to, cases[i].to);
            found = true;
        }
        assert_true(found && bytes == r.bytes_after && r.bytes_before > bytes);
        assert_true(r.n_fallback > 0); /* q4_0: of the output matrix, which is to be q6_k */
        nib_quantize_report_free(&r);
        /* what the plan says is what is written */
        test_ok(quantize(in, hf_path("narrow-out.gguf"), cases[i].type, &e), &e);
        nib_gguf *g = open_gguf(hf_path("narrow-out.gguf"));
        uint64_t written = 0;
        for (int64_t k = 0; k < nib_gguf_n_tensors(g); k++)
            written += nib_gguf_tensor_at(g, k)->bytes;
        assert_true(written == bytes);
        nib_gguf_close(g);
    }
}

static void test_rules(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 256, .n_layer = 3, .seed = 10};
    const char *in = test_tiny_model("rules.gguf", &o);
    const char *rules[] = {"blk\\.[01]\\.attn_v=q8_0", "attn_v=f16", "ffn_(up|gate)=Q5_K"};
    nib_quantize_params p = {.type = "q4_k_s", .rules = rules, .n_rules = 3};
    test_ok(nib_quantize(in, hf_path("ruled.gguf"), &p, NULL, &e), &e);
    nib_gguf *g = open_gguf(hf_path("ruled.gguf"));
    assert_int_equal(nib_gguf_tensor(g, "blk.1.attn_v.weight")->dtype, NIB_Q8_0);
    assert_int_equal(nib_gguf_tensor(g, "blk.2.attn_v.weight")->dtype, NIB_F16);
    assert_int_equal(nib_gguf_tensor(g, "blk.2.ffn_up.weight")->dtype, NIB_Q5_K);
    assert_int_equal(nib_gguf_tensor(g, "blk.2.ffn_down.weight")->dtype, NIB_Q4_K);
    assert_int_equal(nib_gguf_tensor(g, "blk.2.ffn_norm.weight")->dtype, NIB_F32);
    nib_gguf_close(g);
    static const struct {
        const char *rule, *says;
    } bad[] = {{"attn_v", "PATTERN=TYPE"},
               {"=q8_0", "PATTERN=TYPE"},
               {"attn_v=q9", "'q9'"},
               {"attn_v=iq1_s", "iq1_s"},
               {"attn_(v=q8_0", "regular expression"},
               {"no_such_tensor=q8_0", "matches no matrix"}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++) {
        p.rules = &bad[i].rule;
        p.n_rules = 1;
        assert_int_equal(nib_quantize(in, hf_path("no.gguf"), &p, NULL, &e), NIB_ERR_ARGUMENT);
        if (!strstr(e.message, bad[i].says)) fail_msg("rule %zu: %s", i, e.message);
        assert_int_equal(access(hf_path("no.gguf"), F_OK), -1);
    }
}

/* ---- importance ---- */

enum { K = 256 };
static const char hot[] = "blk.0.attn_q.weight";

/* Every eighth column matters a hundred times more. */
static float importance_at(int i) {
    return i % 8 ? 0.01f : 1;
}

static const float *importance(void *arg, const char *tensor, int64_t *n) {
    static float values[K];
    for (int i = 0; i < K; i++) values[i] = importance_at(i);
    *n = *(int64_t *)arg;
    return strcmp(tensor, hot) == 0 ? values : NULL;
}

static double weighted_error(const nib_gguf *g, const nib_gguf *reference) {
    const nib_tensor *a = nib_gguf_tensor(reference, hot), *b = nib_gguf_tensor(g, hot);
    double sum = 0;
    for (int64_t r = 0; r < a->ne[1]; r++) {
        float y[K];
        const float *x = (const float *)a->data + r * K;
        nib_dtype_get(b->dtype)->to_f32((const char *)b->data + nib_dtype_bytes(b->dtype, r * K), y,
                                        K);
        for (int i = 0; i < K; i++)
            sum += (double)importance_at(i) * (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
    }
    return sum;
}

static void test_imatrix(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = K, .seed = 11};
    const char *in = test_tiny_model("important.gguf", &o);
    nib_gguf *reference = open_gguf(in);
    test_ok(quantize(in, hf_path("plain.gguf"), "q3_k_s", &e), &e);
    nib_gguf *plain = open_gguf(hf_path("plain.gguf"));
    nib_quantize_report r;
    int64_t n = K;
    nib_quantize_params p = {.type = "q3_k_s",
                             .importance = importance,
                             .importance_arg = &n,
                             .importance_file = "a.imatrix"};
    test_ok(nib_quantize(in, hf_path("imp.gguf"), &p, &r, &e), &e);
    assert_int_equal(r.n_important, 1);
    nib_quantize_report_free(&r);
    nib_gguf *g = open_gguf(hf_path("imp.gguf"));
    assert_true(weighted_error(g, reference) < 0.8 * weighted_error(plain, reference));
    nib_str name;
    test_ok(nib_gguf_str(g, "quantize.imatrix.file", &name, &e), &e);
    assert_true(nib_str_eq_c(name, "a.imatrix"));
    nib_gguf_close(g);
    nib_gguf_close(plain);
    nib_gguf_close(reference);
    n = K / 2; /* of another model */
    assert_int_equal(nib_quantize(in, hf_path("no.gguf"), &p, NULL, &e), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "another model"));
}

/* ---- refused ---- */

static void test_bad_input(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.n_embd = 256, .seed = 13};
    const char *in = test_tiny_model("bad.gguf", &o);
    assert_int_equal(quantize(in, in, "q8_0", &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "is the input"));
    assert_int_equal(symlink(in, hf_path("link.gguf")), 0);
    assert_int_equal(quantize(in, hf_path("link.gguf"), "q8_0", &e), NIB_ERR_ARGUMENT);
    assert_int_equal(quantize(in, hf_path("out.gguf"), "q4_k_n", &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "did you mean 'q4_k_"));
    assert_int_not_equal(quantize(hf_path("nowhere.gguf"), hf_path("out.gguf"), "q8_0", &e),
                         NIB_OK);
    /* one weight that is not a number */
    nib_buf file = {0};
    test_ok(nib_file_read(in, 1 << 26, &file, &e), &e);
    nib_gguf *g = open_gguf(in);
    const nib_tensor *t = nib_gguf_tensor(g, "blk.1.ffn_up.weight");
    const nib_tensor *first = nib_gguf_tensor(g, "token_embd.weight");
    size_t from_end = 0; /* data lie in the order of declaration: count back from the end */
    bool seen = false;
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *x = nib_gguf_tensor_at(g, i);
        seen |= x == t;
        if (seen) from_end += NIB_ROUND_UP(x->bytes, (size_t)32);
    }
    assert_non_null(first);
    float nan = __builtin_nanf("");
    memcpy(file.data + file.len - from_end + 4 * 1000, &nan, 4);
    nib_gguf_close(g);
    test_ok(nib_file_write(hf_path("nan.gguf"), file.data, file.len, &e), &e);
    nib_buf_free(&file);
    assert_int_equal(quantize(hf_path("nan.gguf"), hf_path("out.gguf"), "q4_k_m", &e),
                     NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "'blk.1.ffn_up.weight' holds a weight that is not finite"));
    assert_int_equal(access(hf_path("out.gguf"), F_OK), -1);
    nib_quantize_params p = {.type = "q4_k_m", .force = true};
    test_ok(nib_quantize(hf_path("nan.gguf"), hf_path("out.gguf"), &p, NULL, &e), &e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_the_peers),      cmocka_unit_test(test_all_types_run),
        cmocka_unit_test(test_while_loading),     cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fallback_and_plan), cmocka_unit_test(test_rules),
        cmocka_unit_test(test_imatrix),           cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
