/* nib convert and nib quantize as a person types them. */
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "testcmd.h"
#include "tinymodel.h"

static char *in_tmp(const char *name) {
    static char ring[8][300];
    static int at;
    char *p = ring[at++ & 7];
    snprintf(p, sizeof ring[0], "%s/%s", test_tmp(), name);
    return p;
}

static json_t *out_json(void) {
    nib_error e;
    json_t *v;
    test_ok(nib_json_parse(ran.out.data, ran.out.len, &v, &e), &e);
    return v;
}

static void test_there_and_back(void **state) {
    (void)state;
    test_tiny o = {.seed = 21, .chat_template = test_chatml};
    const char *model = test_tiny_model("tiny.gguf", &o);
    assert_int_equal(test_nib(NULL, "convert %s -o %s", model, in_tmp("folder")), 0);
    test_out_has("parameters, F32");
    assert_int_equal(access(in_tmp("folder/config.json"), F_OK), 0);
    assert_int_equal(access(in_tmp("folder/tokenizer.json"), F_OK), 0);
    assert_int_equal(test_nib(NULL, "convert %s --json", in_tmp("folder")), 0);
    json_t *v = out_json();
    assert_string_equal(json_string_value(json_object_get(v, "type")), "F32");
    assert_string_equal(json_string_value(json_object_get(v, "output")), in_tmp("folder.gguf"));
    json_decref(v);
    /* both say the same; a folder runs by itself, and is converted once */
    setenv("XDG_CACHE_HOME", in_tmp("cache"), 1);
    assert_int_equal(
        test_nib(NULL, "run %s --raw -p 'the time' -n 12 --temp 0 --ignore-memory", model), 0);
    char *said = nib_strdup(ran.out.data);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(test_nib(NULL, "run %s --raw -p 'the time' -n 12 --temp 0 --ignore-memory",
                                  in_tmp("folder")),
                         0);
        assert_string_equal(said, ran.out.data);
    }
    nib_free(said);
    assert_int_equal(test_nib(NULL, "show %s --template", in_tmp("folder")), 0);
    test_out_has("<|im_start|>");
}

static void test_convert_refuses(void **state) {
    (void)state;
    test_nib(NULL, "convert");
    test_failed(2, "DIR|MODEL");
    test_nib(NULL, "convert %s", in_tmp("nowhere"));
    test_failed(1, "nowhere");
    mkdir(in_tmp("empty"), 0777);
    test_nib(NULL, "convert %s -o %s", in_tmp("empty"), in_tmp("empty.gguf"));
    test_failed(1, "config.json");
    test_tiny o = {.seed = 22};
    const char *model = test_tiny_model("refuse.gguf", &o);
    test_nib(NULL, "convert %s -o %s --type q4_k_m", model, in_tmp("x"));
    test_failed(1, "safetensors hold");
    test_nib(NULL, "convert %s -o %s", model, model);
    test_failed(1, "no folder");
}

static void test_quantize_command(void **state) {
    (void)state;
    test_tiny o = {.seed = 23, .n_embd = 256};
    const char *model = test_tiny_model("big.gguf", &o);
    assert_int_equal(test_nib(NULL, "quantize %s %s q4_k_m", model, in_tmp("small.gguf")), 0);
    test_out_has("bits a weight");
    assert_int_equal(test_nib(NULL, "show %s", in_tmp("small.gguf")), 0);
    test_out_has("Q4_K_M");
    assert_int_equal(test_nib(NULL, "quantize %s Q3_K_M --dry-run", model), 0);
    test_out_has("blk.0.attn_v.weight");
    test_out_has("Q5_K");
    assert_int_equal(test_nib(NULL, "quantize %s %s q4_k_m -n --json --tensor-type attn_k=q8_0",
                              model, in_tmp("never.gguf")),
                     0);
    json_t *v = out_json();
    uint64_t sum = 0;
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(v, "tensors"), i, t) {
        sum += (uint64_t)json_integer_value(json_object_get(t, "bytes"));
        if (strstr(json_string_value(json_object_get(t, "name")), "attn_k"))
            assert_string_equal(json_string_value(json_object_get(t, "to")), "Q8_0");
    }
    assert_true(sum == (uint64_t)json_integer_value(json_object_get(v, "bytes")));
    json_decref(v);
    assert_int_equal(access(in_tmp("never.gguf"), F_OK), -1);
    /* a folder, in one step */
    assert_int_equal(test_nib(NULL, "convert %s -o %s", model, in_tmp("qfolder")), 0);
    assert_int_equal(test_nib(NULL, "quantize %s %s q8_0", in_tmp("qfolder"), in_tmp("from.gguf")),
                     0);
    assert_int_equal(test_nib(NULL, "show %s", in_tmp("from.gguf")), 0);
    test_out_has("Q8_0");
}

static void test_quantize_refuses(void **state) {
    (void)state;
    test_tiny o = {.seed = 24, .n_embd = 256};
    const char *model = test_tiny_model("q.gguf", &o);
    test_nib(NULL, "quantize %s q4_k_m", model);
    test_failed(2, "IN OUT TYPE");
    test_nib(NULL, "quantize %s %s q4_k_x", model, in_tmp("o.gguf"));
    test_failed(1, "did you mean");
    test_nib(NULL, "quantize %s %s q8_0", model, model);
    test_failed(1, "is the input");
    test_nib(NULL, "quantize %s %s q8_0 --imatrix %s", model, in_tmp("o.gguf"), model);
    test_failed(1, "q.gguf");
    test_nib(NULL, "quantize %s %s/no/o.gguf q8_0", model, test_tmp());
    test_failed(1, "No such file");
    assert_int_equal(test_nib(NULL, "quantize %s %s q8_0", model, in_tmp("q8.gguf")), 0);
    test_nib(NULL, "quantize %s %s q4_k_m", in_tmp("q8.gguf"), in_tmp("o.gguf"));
    test_failed(1, "--requantize");
    assert_int_equal(access(in_tmp("o.gguf"), F_OK), -1);
    assert_int_equal(
        test_nib(NULL, "quantize %s %s q4_k_m --requantize", in_tmp("q8.gguf"), in_tmp("o.gguf")),
        0);
    test_err_has("quantised before");
}

static void test_quantize_at_load(void **state) {
    (void)state;
    test_tiny o = {.seed = 25, .n_embd = 256, .dtype = NIB_F16};
    const char *model = test_tiny_model("load.gguf", &o);
    static const char args[] = "run %s --raw -p 'the time' -n 12 --temp 0 --ignore-memory%s";
    assert_int_equal(test_nib(NULL, "quantize %s %s q3_k_m", model, in_tmp("loaded.gguf")), 0);
    assert_int_equal(test_nib(NULL, args, in_tmp("loaded.gguf"), ""), 0);
    char *said = nib_strdup(ran.out.data);
    assert_int_equal(test_nib(NULL, args, model, " --quantize q3_k_m"), 0);
    assert_string_equal(said, ran.out.data);
    assert_int_equal(test_nib(NULL, args, in_tmp("loaded.gguf"), " --quantize q8_0"), 0);
    test_err_has("quantised before");
    /* fast enough as it is; and too slow at any width, where the narrowest is taken */
    assert_int_equal(test_nib(NULL, args, model, ""), 0);
    nib_free(said);
    said = nib_strdup(ran.out.data);
    assert_int_equal(test_nib(NULL, args, model, " --quantize auto --min-speed 1"), 0);
    assert_string_equal(said, ran.out.data);
    assert_int_equal(test_nib(NULL, "quantize %s %s q2_k", model, in_tmp("narrow.gguf")), 0);
    assert_int_equal(test_nib(NULL, args, in_tmp("narrow.gguf"), ""), 0);
    nib_free(said);
    said = nib_strdup(ran.out.data);
    assert_int_equal(test_nib(NULL, args, model, " --quantize auto --min-speed 1000000"), 0);
    assert_string_equal(said, ran.out.data);
    nib_free(said);
    test_nib(NULL, args, model, " --quantize q9");
    test_failed(1, "q8_0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),   cmocka_unit_test(test_convert_refuses),
        cmocka_unit_test(test_quantize_command), cmocka_unit_test(test_quantize_refuses),
        cmocka_unit_test(test_quantize_at_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
