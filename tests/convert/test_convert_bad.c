/* Folders that lie, break off or do not fit together, and places that cannot be written: one line
 * that says what is wrong, and no file under the final name. */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "convert/convert.h"
#include "hffolder.h"
#include "tinymodel.h"

enum { E = 32 };
static const hf_tensor tensors[] = {
    {"model.embed_tokens.weight", 260, E, 0},
    {"model.layers.0.input_layernorm.weight", 0, E, 1},
    {"model.layers.0.self_attn.q_proj.weight", E, E, 0},
    {"model.layers.0.self_attn.k_proj.weight", E, E, 0},
    {"model.layers.0.self_attn.v_proj.weight", E, E, 0},
    {"model.layers.0.self_attn.o_proj.weight", E, E, 0},
    {"model.layers.0.post_attention_layernorm.weight", 0, E, 1},
    {"model.layers.0.mlp.gate_proj.weight", 2 * E, E, 0},
    {"model.layers.0.mlp.up_proj.weight", 2 * E, E, 0},
    {"model.layers.0.mlp.down_proj.weight", E, 2 * E, 0},
    {"model.norm.weight", 0, E, 1},
};
#define SIZES                                                                                      \
    "\"hidden_size\":32,\"intermediate_size\":64,\"num_attention_heads\":2,"                       \
    "\"num_key_value_heads\":2,\"num_hidden_layers\":1,\"max_position_embeddings\":64,"            \
    "\"vocab_size\":260"
#define CLASS "\"architectures\":[\"LlamaForCausalLM\"],"

static void good_folder(const char *name, const char *config) {
    char *tok = hf_bpe_json(HF_BYTELEVEL, "", "");
    hf_text(name, "tokenizer.json", tok);
    hf_text(name, "config.json", config);
    hf_weights(name, NIB_F32, tensors, NIB_ARRAY_LEN(tensors));
    nib_free(tok);
}

static nib_status try(const char *folder, const char *out, const nib_convert_params *p,
                      nib_error *e) {
    *e = (nib_error){0};
    nib_status s = nib_convert_to_gguf(hf_path(folder), out, p, NULL, e);
    if (s != NIB_OK) {
        assert_true(e->message[0] && !strchr(e->message, '\n'));
        assert_int_equal(access(out, F_OK), -1);
    }
    return s;
}

static void refused(const char *folder, const char *says) {
    nib_error e;
    nib_status s = try(folder, hf_path("refused.gguf"), NULL, &e);
    if (s == NIB_OK || !strstr(e.message, says))
        fail_msg("%s: expected '%s', found '%s'", folder, says,
                 s == NIB_OK ? "success" : e.message);
}

static void test_bad_configs(void **state) {
    (void)state;
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{" CLASS SIZES "}", NULL},
        {"{", "JSON"},
        {"[]", "JSON object"},
        {"{" SIZES "}", "architectures"},
        {"{\"architectures\":[]," SIZES "}", "architectures"},
        {"{\"architectures\":[7]," SIZES "}", "architectures"},
        {"{\"architectures\":[\"MambaForCausalLM\"]," SIZES "}", "MambaForCausalLM"},
        {"{" CLASS "\"hidden_size\":32}", "is missing"},
        {"{" CLASS SIZES ",\"hidden_size\":32}", "duplicate"},
        {"{" CLASS SIZES ",\"head_dim\":-16}", "head_dim"},
        {"{" CLASS SIZES ",\"head_dim\":1e300}", "head_dim"},
        {"{" CLASS SIZES ",\"head_dim\":16.5}", "head_dim"},
        {"{" CLASS SIZES ",\"head_dim\":\"16\"}", "head_dim"},
        {"{" CLASS SIZES ",\"head_dim\":[16]}", "head_dim"},
        {"{" CLASS SIZES ",\"rms_norm_eps\":1e300}", "rms_norm_eps"},
        {"{" CLASS SIZES ",\"rms_norm_eps\":\"small\"}", "rms_norm_eps"},
        {"{" CLASS SIZES ",\"rope_theta\":-1}", "rope"},
        {"{" CLASS SIZES ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor"},
        {"{" CLASS SIZES ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}", "original"},
        {"{" CLASS SIZES ",\"rope_scaling\":{\"type\":\"magic\",\"factor\":2}}", "magic"},
        {"{" CLASS SIZES ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1]}}",
         "short_factor"},
        {"{" CLASS SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0}}", "llama3"},
        {"{" CLASS SIZES ",\"rope_scaling\":7}", NULL},
        {"{" CLASS SIZES ",\"partial_rotary_factor\":9}", "rope"},
        {"{\"architectures\":[\"Olmo3ForCausalLM\"]," SIZES
         ",\"sliding_window\":8,\"layer_types\":[\"a\",\"b\"]}",
         "layer_types"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e;
        char folder[16];
        snprintf(folder, sizeof folder, "cfg%zu", i);
        good_folder(folder, cases[i].config);
        if (cases[i].says) {
            refused(folder, cases[i].says);
            continue;
        }
        test_ok(try(folder, hf_path("good.gguf"), NULL, &e), &e);
    }
}

/* Sizes that the weights contradict: found before the file appears. */
static void test_contradictions(void **state) {
    (void)state;
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{" CLASS SIZES ",\"head_dim\":8}", "shape"},
        {"{" CLASS "\"hidden_size\":64,\"intermediate_size\":64,\"num_attention_heads\":2,"
         "\"num_hidden_layers\":1,\"max_position_embeddings\":64,\"vocab_size\":260}",
         "shape"},
        {"{" CLASS "\"hidden_size\":32,\"intermediate_size\":64,\"num_attention_heads\":2,"
         "\"num_hidden_layers\":2,\"max_position_embeddings\":64,\"vocab_size\":260}",
         "blk.1"},
        {"{" CLASS "\"hidden_size\":32,\"intermediate_size\":64,\"num_attention_heads\":3,"
         "\"num_hidden_layers\":1,\"max_position_embeddings\":64,\"vocab_size\":260}",
         "heads"},
        {"{" CLASS "\"hidden_size\":32,\"intermediate_size\":64,\"num_attention_heads\":2,"
         "\"num_hidden_layers\":1,\"max_position_embeddings\":64,\"vocab_size\":300}",
         "tokens"},
        {"{" CLASS "\"hidden_size\":32,\"intermediate_size\":64,\"num_attention_heads\":2,"
         "\"num_hidden_layers\":1,\"max_position_embeddings\":64,\"vocab_size\":100}",
         "vocab_size"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        char folder[16];
        snprintf(folder, sizeof folder, "con%zu", i);
        good_folder(folder, cases[i].config);
        refused(folder, cases[i].says);
    }
}

static void test_bad_weights(void **state) {
    (void)state;
    nib_error e;
    hf_tensor t[NIB_ARRAY_LEN(tensors) + 1];
    memcpy(t, tensors, sizeof tensors);
    good_folder("weights", "{" CLASS SIZES "}");
    t[NIB_ARRAY_LEN(tensors)] = (hf_tensor){"model.layers.0.mlp.experts.w1.weight", 2, 2, 0};
    hf_weights("weights", NIB_F32, t, NIB_ARRAY_LEN(t));
    refused("weights", "experts.w1");
    t[NIB_ARRAY_LEN(tensors)] = (hf_tensor){"embed_tokens.weight", 260, E, 0};
    hf_weights("weights", NIB_F32, t, NIB_ARRAY_LEN(t));
    refused("weights", "two tensors");
    hf_weights("weights", NIB_F32, tensors, NIB_ARRAY_LEN(tensors) - 1);
    refused("weights", "output_norm");
    /* cut in the middle */
    char path[700];
    snprintf(path, sizeof path, "%s/model.safetensors", hf_path("weights"));
    hf_weights("weights", NIB_F32, tensors, NIB_ARRAY_LEN(tensors));
    assert_int_equal(truncate(path, 20000), 0);
    refused("weights", "damaged");
    unlink(path);
    refused("weights", "no weights");
    refused("nowhere-at-all", "config.json");
    (void)e;
}

/* Weights that are not finite are named and refused; so are those F16 cannot hold. */
static void test_not_finite(void **state) {
    (void)state;
    nib_error e;
    hf_tensor t[NIB_ARRAY_LEN(tensors)];
    memcpy(t, tensors, sizeof tensors);
    good_folder("nan", "{" CLASS SIZES "}");
    t[8].base = __builtin_nanf("");
    hf_weights("nan", NIB_F32, t, NIB_ARRAY_LEN(t));
    refused("nan", "'blk.0.ffn_up.weight' holds a weight that is not finite");
    nib_convert_params p = {.force = true, .type = "f16"};
    test_ok(try("nan", hf_path("forced.gguf"), &p, &e), &e);
    t[8].base = 70000;
    hf_weights("nan", NIB_F32, t, NIB_ARRAY_LEN(t));
    p.force = false;
    unlink(hf_path("forced.gguf"));
    assert_int_equal(try("nan", hf_path("forced.gguf"), &p, &e), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "bf16"));
    p.type = "bf16";
    test_ok(try("nan", hf_path("forced.gguf"), &p, &e), &e);
}

static void test_bad_places(void **state) {
    (void)state;
    nib_error e;
    char path[700], other[700];
    good_folder("places", "{" CLASS SIZES "}");
    snprintf(path, sizeof path, "%s/model.safetensors", hf_path("places"));
    assert_int_equal(nib_convert_to_gguf(hf_path("places"), path, NULL, NULL, &e),
                     NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "is the input"));
    assert_int_equal(nib_convert_to_gguf(hf_path("places"), hf_path("places"), NULL, NULL, &e),
                     NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "a folder"));
    snprintf(other, sizeof other, "%s/no/such/folder/x.gguf", test_tmp());
    assert_int_equal(try("places", other, NULL, &e), NIB_ERR_NOT_FOUND);
    nib_convert_params p = {.type = "q9_k"};
    assert_int_equal(try("places", hf_path("x.gguf"), &p, &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "q4_k_m"));
    if (geteuid() == 0) return; /* root may write anywhere */
    mkdir(hf_path("readonly"), 0555);
    snprintf(other, sizeof other, "%s/x.gguf", hf_path("readonly"));
    assert_int_equal(try("places", other, NULL, &e), NIB_ERR_IO);
}

/* A disk that is full in the middle, played by a limit on the size of files. */
static void test_disk_full(void **state) {
    (void)state;
    good_folder("full", "{" CLASS SIZES "}");
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        nib_error e = {0};
        struct rlimit l = {30000, 30000};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &l);
        nib_status s = nib_convert_to_gguf(hf_path("full"), hf_path("full.gguf"), NULL, NULL, &e);
        _exit(s == NIB_ERR_IO && strstr(e.message, "cannot write") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(access(hf_path("full.gguf"), F_OK), -1);
}

static void test_bad_gguf(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.arch = "mamba", .seed = 2};
    assert_int_equal(
        nib_convert_to_hf(test_tiny_model("mamba.gguf", &o), hf_path("m"), NULL, NULL, &e),
        NIB_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "mamba"));
    test_ok(nib_file_write(hf_path("file"), "x", 1, &e), &e);
    o.arch = "llama";
    assert_int_equal(
        nib_convert_to_hf(test_tiny_model("l.gguf", &o), hf_path("file"), NULL, NULL, &e),
        NIB_ERR_ARGUMENT);
    assert_int_not_equal(nib_convert_to_hf(hf_path("nothing.gguf"), hf_path("m"), NULL, NULL, &e),
                         NIB_OK);
}

/* Every allocation of a conversion failed in turn. */
static void test_no_memory(void **state) {
    (void)state;
    good_folder("mem", "{" CLASS SIZES "}");
    nib_convert_params p = {.n_threads = 1};
    long step = test_quick() ? 7 : 1;
    int failed = 0, survived = 0;
    nib_error e;
    long before = nib_alloc_count();
    test_ok(nib_convert_to_gguf(hf_path("mem"), hf_path("mem.gguf"), &p, NULL, &e), &e);
    long count = nib_alloc_count() - before;
    for (long n = 1; n <= count; n += step) {
        nib_alloc_fail_after(n);
        nib_status s = nib_convert_to_gguf(hf_path("mem"), hf_path("mem.gguf"), &p, NULL, &e);
        nib_alloc_fail_after(0);
        if (s != NIB_OK && !strstr(e.message, "memory"))
            fail_msg("allocation %ld: %s", n, e.message);
        failed += s != NIB_OK;
        survived += s == NIB_OK; /* what only makes matching faster may fail */
    }
    assert_true(failed > 50 / step && survived < 15);
    print_message("%d allocations failed in turn\n", failed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_configs), cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_bad_weights), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_bad_places),  cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_bad_gguf),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
