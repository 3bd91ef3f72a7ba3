/* nib perplexity, compare-quality and imatrix as a user types them. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <unistd.h>
#include "testcmd.h"
#include "tinymodel.h"

static char whole[512], small[512], text[512];

static int set_up(void **state) {
    (void)state;
    nib_error e;
    snprintf(whole, sizeof whole, "%s", test_tiny_model("whole.gguf", NULL));
    snprintf(small, sizeof small, "%s",
             test_tiny_model("small.gguf", &(test_tiny){.dtype = NIB_Q4_0}));
    snprintf(text, sizeof text, "%s/text", test_tmp());
    nib_buf b = {0};
    for (int i = 0; i < 60; i++) nib_buf_printf(&b, "%d gulls sat on the radar. ", i);
    test_ok(nib_file_write(text, b.data, b.len, &e), &e);
    nib_buf_free(&b);
    return 0;
}

static json_t *output(void) {
    json_t *v;
    nib_error e;
    test_ok(nib_json_parse(ran.out.data, ran.out.len, &v, &e), &e);
    return v;
}

static double number(const json_t *v, const char *a, const char *b) {
    const json_t *x = json_object_get(v, a);
    if (b) x = json_object_get(x, b);
    if (!json_is_number(x)) fail_msg("no number %s.%s", a, b ? b : "");
    return json_number_value(x);
}

static void test_perplexity(void **state) {
    (void)state;
    test_nib(NULL, "perplexity %s -f %s --ctx 128", whole, text);
    test_status(0);
    test_out_has("tiny model, F32: perplexity ");
    test_out_has("chunks of 128");
    test_nib("Words from standard input, enough of them.", "perplexity %s --json", whole);
    test_status(0);
    json_t *v = output();
    assert_true(number(v, "perplexity", NULL) > 1 && number(v, "chunks", NULL) == 1);
    assert_true(number(v, "tokens_scored", NULL) == floor((number(v, "ctx", NULL) - 1) / 2));
    json_decref(v);
    test_nib(NULL, "perplexity %s short", whole);
    test_failed(1, "at least 8 tokens");
    test_nib(NULL, "perplexity");
    test_failed(2, "MODEL is missing");
}

static void test_compare_quality(void **state) {
    (void)state;
    test_nib(NULL, "compare-quality %s %s --text %s --ctx 64 --no-speed", whole, small, text);
    test_status(0);
    static const char *const rows[] = {
        "reference",  "F32",      "Q4_0",       "size",
        "perplexity", "KL, mean", "KL, median", "KL, 99.9th percentile",
        "same first", "±",        "memory"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) test_out_has(rows[i]);
    assert_null(strstr(ran.out.data, "generating"));
    assert_null(strchr(ran.out.data, '\033'));
    test_nib(NULL, "compare-quality %s %s --chunks 2 --one-at-a-time --json", whole, small);
    test_status(0); /* the sample */
    json_t *v = output();
    assert_true(number(v, "kl", "mean") > 0 && number(v, "kl", "p99_9") >= number(v, "kl", "p99"));
    assert_true(number(v, "text", "chunks") == 2 && number(v, "same_top", "value") > 0);
    assert_true(number(json_object_get(v, "other"), "generate_tok_per_s", NULL) > 0);
    assert_true(json_is_true(json_object_get(v, "one_at_a_time")));
    json_decref(v);
    test_nib(NULL, "compare-quality %s", whole);
    test_failed(2, "OTHER is missing");
    test_nib(NULL, "compare-quality %s %s --text /nonexistent", whole, small);
    test_failed(1, "/nonexistent");
}

static void test_imatrix(void **state) {
    (void)state;
    char out[600];
    snprintf(out, sizeof out, "%s/small.imatrix.gguf", test_tmp());
    test_nib(NULL, "imatrix %s %s -o %s --ctx 64", small, text, out);
    test_status(0);
    test_err_has("14 matrices");
    assert_int_equal(ran.out.len, 0);
    test_nib(NULL, "imatrix --show %s", out);
    test_status(0);
    test_out_has("14 matrices");
    test_out_has("| blk.1.ffn_down.weight | 128 |");
    test_nib(NULL, "imatrix %s %s -o %s --chunks 1 --output-matrix", small, text, out);
    test_err_has("15 matrices, 1 chunk of 512"); /* written over */
    test_nib(NULL, "imatrix %s %s -o %s", small, text, text);
    test_failed(1, "is what is read");
    test_nib(NULL, "imatrix %s %s -o %s/no/such/folder", small, text, test_tmp());
    test_failed(1, "no/such/folder");
    test_nib(NULL, "imatrix %s", small);
    test_failed(2, "TEXT-FILE is missing");
    test_nib(NULL, "imatrix --show %s", small);
    test_failed(1, "importance matrix");
}

/* Quantise with a receipt: the table, the same as JSON beside the model, and in --json. */
static void test_receipt(void **state) {
    (void)state;
    char out[600], path[640];
    nib_error e;
    snprintf(out, sizeof out, "%s/q8.gguf", test_tmp());
    snprintf(path, sizeof path, "%s.receipt.json", out);
    test_nib(NULL, "quantize %s %s q8_0 --receipt --text %s", whole, out, text);
    test_status(0);
    test_out_has("bits a weight");
    test_out_has("KL, 99.9th percentile");
    nib_buf b = {0};
    json_t *v;
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    test_ok(nib_json_parse(b.data, b.len, &v, &e), &e);
    double kl = number(v, "kl", "mean");
    assert_true(kl > 0 && kl < 0.1 && number(v, "same_top", "value") > 0.9);
    assert_string_equal(json_string_value(json_object_get(json_object_get(v, "other"), "path")),
                        out);
    json_decref(v);
    nib_buf_free(&b);
    unlink(path);
    test_nib(NULL, "quantize %s %s q8_0 --receipt --text %s --json --threads 1", whole, out, text);
    test_status(0);
    v = output();
    assert_true(number(json_object_get(v, "receipt"), "kl", "mean") == kl);
    json_decref(v);
    assert_int_equal(access(path, F_OK), 0);
    test_nib(NULL, "quantize %s %s q8_0 --text %s", whole, out, text);
    test_failed(2, "--receipt");
    test_nib(NULL, "quantize %s %s/never.gguf q8_0 --receipt --text /nonexistent", whole,
             test_tmp());
    test_failed(1, "/nonexistent");
    snprintf(path, sizeof path, "%s/never.gguf", test_tmp());
    assert_int_not_equal(access(path, F_OK), 0); /* said before the work */
}

/* What imatrix writes, quantize takes. */
static void test_importance(void **state) {
    (void)state;
    char im[600], out[600];
    snprintf(im, sizeof im, "%s/im.gguf", test_tmp());
    snprintf(out, sizeof out, "%s/im-q4.gguf", test_tmp());
    test_nib(NULL, "imatrix %s %s -o %s", whole, text, im);
    test_status(0);
    test_nib(NULL, "quantize %s %s q4_0 --imatrix %s --json", whole, out, im);
    test_status(0);
    json_t *v = output();
    assert_true(number(v, "imatrix_tensors", NULL) == 14);
    json_decref(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity), cmocka_unit_test(test_compare_quality),
        cmocka_unit_test(test_imatrix),    cmocka_unit_test(test_receipt),
        cmocka_unit_test(test_importance),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
