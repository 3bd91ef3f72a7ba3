/* Names of models: references, quantisations in file names, which file is meant, the hub's list. */
#include <stdlib.h>
#include "hub/hub.h"
#include "testlib.h"

static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *text, *repo, *revision, *want;
    } good[] = {
        {"hf.co/USER/REPO", "USER/REPO", "main", ""},
        {"hf.co/USER/REPO:Q6_K", "USER/REPO", "main", "Q6_K"},
        {"hf:USER/RE-PO_1.5", "USER/RE-PO_1.5", "main", ""},
        {"hf://USER/REPO:q8_0", "USER/REPO", "main", "q8_0"},
        {"USER/REPO", "USER/REPO", "main", ""},
        {"USER/REPO:sub/file.gguf", "USER/REPO", "main", "sub/file.gguf"},
        {"USER/REPO@v1.0:Q4_0", "USER/REPO", "v1.0", "Q4_0"},
        {"USER/REPO@refs/pr/3", "USER/REPO", "refs/pr/3", ""},
        {"USER/REPO:latest", "USER/REPO", "main", ""},
        {"https://huggingface.co/USER/REPO", "USER/REPO", "main", ""},
        {"https://huggingface.co/USER/REPO/tree/dev", "USER/REPO", "dev", ""},
        {"https://huggingface.co/USER/REPO/resolve/main/a/b%20c.gguf?download=true", "USER/REPO",
         "main", "a/b c.gguf"},
        {"https://hf.co/USER/REPO/blob/main/x.gguf", "USER/REPO", "main", "x.gguf"},
        {"https://mirror.example/USER/REPO", "USER/REPO", "main", ""},
        {"tinyllama", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "main", "Q4_K_M"},
        {"TinyLlama:Q2_K", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "main", "Q2_K"},
    };
    nib_error e;
    nib_hub_ref r;
    for (size_t i = 0; i < NIB_ARRAY_LEN(good); i++) {
        test_ok(nib_hub_parse(good[i].text, "https://mirror.example", &r, &e), &e);
        assert_string_equal(r.repo, good[i].repo);
        assert_string_equal(r.revision, good[i].revision);
        assert_string_equal(r.want, good[i].want);
        assert_string_equal(r.url, "");
    }
    static const struct {
        const char *text;
        nib_status status;
    } bad[] = {
        {"", NIB_ERR_NOT_FOUND},
        {"nosuchmodel", NIB_ERR_NOT_FOUND},
        {"./model.gguf", NIB_ERR_NOT_FOUND},
        {"../USER/REPO", NIB_ERR_NOT_FOUND},
        {"/a/b", NIB_ERR_NOT_FOUND},
        {"models/model.gguf", NIB_ERR_NOT_FOUND},
        {"a/b/c", NIB_ERR_NOT_FOUND},
        {"hf.co/USER", NIB_ERR_ARGUMENT},
        {"hf.co/../REPO", NIB_ERR_ARGUMENT},
        {"hf.co/USER/..", NIB_ERR_ARGUMENT},
        {"hf.co/USER/RE--PO", NIB_ERR_ARGUMENT},
        {"hf.co/USER/REPO@../x", NIB_ERR_ARGUMENT},
        {"hf.co/USER/REPO:../x.gguf", NIB_ERR_ARGUMENT},
        {"hf.co/USER/REPO:", NIB_ERR_ARGUMENT},
        {"tinyllama:../x", NIB_ERR_ARGUMENT},
        {"https://huggingface.co/USER", NIB_ERR_ARGUMENT},
        {"https://huggingface.co/USER/REPO/resolve/main/%2e%2e/x.gguf", NIB_ERR_ARGUMENT},
        {"https://huggingface.co/USER/REPO/resolve/main/a%00.gguf", NIB_ERR_ARGUMENT},
        {"https://example.com", NIB_ERR_ARGUMENT},
        {"https://example.com/", NIB_ERR_ARGUMENT},
        {"https://example.com/a b.gguf", NIB_ERR_ARGUMENT},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++) {
        memset(&r, 7, sizeof r);
        assert_int_equal(nib_hub_parse(bad[i].text, NULL, &r, &e), bad[i].status);
        assert_int_equal(r.repo[0], 7); /* untouched */
    }
    char *huge = nib_alloc(20000);
    memset(huge, 'a', 19999);
    huge[19999] = 0;
    assert_int_equal(nib_hub_parse(huge, NULL, &r, &e), NIB_ERR_NOT_FOUND);
    memcpy(huge, "hf.co/a/", 8);
    assert_int_equal(nib_hub_parse(huge, NULL, &r, &e), NIB_ERR_ARGUMENT);
    memcpy(huge, "https://a/", 10);
    assert_int_equal(nib_hub_parse(huge, NULL, &r, &e), NIB_ERR_ARGUMENT);
    nib_free(huge);
    assert_int_equal(nib_hub_parse("smollm2-135", NULL, &r, &e), NIB_ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "did you mean 'smollm2-135m'"));
}

static void test_urls(void **state) {
    (void)state;
    nib_error e;
    nib_hub_ref a, b;
    test_ok(nib_hub_parse("https://example.com:8080/x/model.gguf?sig=1", NULL, &a, &e), &e);
    test_ok(nib_hub_parse("https://example.com:8080/x/model.gguf?sig=2", NULL, &b, &e), &e);
    assert_string_equal(a.repo, b.repo); /* a signature is no part of the place */
    assert_string_equal(a.want, "model.gguf");
    assert_int_equal(strncmp(a.repo, "example.com-8080/model-", 23), 0);
    test_ok(nib_hub_parse("https://example.com:8080/y/model.gguf", NULL, &b, &e), &e);
    assert_string_not_equal(a.repo, b.repo);
    test_ok(nib_hub_parse("http://xn--a--b.com/m--x.gguf", NULL, &b, &e), &e);
    assert_null(strstr(b.repo, "--"));
}

static void test_aliases(void **state) {
    (void)state;
    nib_error e;
    nib_hub_ref r;
    char quant[32];
    for (size_t i = 0; i < nib_hub_n_aliases; i++) {
        const nib_hub_alias *a = &nib_hub_aliases[i];
        test_ok(nib_hub_parse(a->name, NULL, &r, &e), &e);
        assert_ptr_equal(r.alias, a);
        char text[300];
        snprintf(text, sizeof text, "hf.co/%s:%s", a->repo, a->want);
        test_ok(nib_hub_parse(text, NULL, &r, &e), &e);
        nib_hub_quant_of(a->want, quant);
        assert_string_equal(quant, a->want);
        assert_true(a->n_ctx >= 512 && a->bytes > 1000000 && *a->licence);
        for (size_t k = 0; k < i; k++) assert_string_not_equal(nib_hub_aliases[k].name, a->name);
    }
    assert_non_null(nib_hub_alias_default());
    print_message("%zu aliases\n", nib_hub_n_aliases);
}

static void test_quants(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"SmolLM2-135M-Instruct-Q4_K_M.gguf", "Q4_K_M"},
        {"tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "Q4_K_M"},
        {"qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"},
        {"Phi-3-mini-4k-instruct-q4.gguf", "Q4"},
        {"Phi-3-mini-4k-instruct-fp16.gguf", "FP16"},
        {"gemma-3-1b-it-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"},
        {"model-IQ2_XXS.gguf", "IQ2_XXS"},
        {"model-iq4_nl.gguf", "IQ4_NL"},
        {"Q8_0/model-Q8_0-00001-of-00003.gguf", "Q8_0"},
        {"model-bf16.gguf", "BF16"},
        {"model-MXFP4_MOE.gguf", "MXFP4_MOE"},
        {"nomic-embed-text-v1.5.f32.gguf", "F32"},
        {"model_q5_1.gguf", "Q5_1"},
        {"model-Q4_K_M_v2.gguf", "Q4_K_M"},
        {"Qwen3-4B.gguf", ""},
        {"iq-test.gguf", ""},
        {"model-tq1_0.gguf", "TQ1_0"},
        {"", ""},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        char q[32];
        nib_hub_quant_of(cases[i][0], q);
        assert_string_equal(q, cases[i][1]);
    }
    static const char *const files[] = {"README.md",
                                        "m-F16.gguf",
                                        "m-Q4_K_M.gguf",
                                        "m-Q4_K_M-long.gguf",
                                        "mmproj-Q8_0.gguf",
                                        "m-Q6_K-00001-of-00002.gguf",
                                        "m-Q6_K-00002-of-00002.gguf",
                                        "m.imatrix.gguf"};
    size_t n = NIB_ARRAY_LEN(files);
    assert_int_equal(nib_hub_pick(files, n, ""), 2);
    assert_int_equal(nib_hub_pick(files, n, "f16"), 1);
    assert_int_equal(nib_hub_pick(files, n, "Q6_K"), 5);
    assert_int_equal(nib_hub_pick(files, n, "Q8_0"), -1);
    assert_int_equal(nib_hub_pick(files, n, "mmproj-Q8_0.gguf"), 4);
    assert_int_equal(nib_hub_pick(files, 2, ""), 1);
    assert_int_equal(nib_hub_pick(files, 1, ""), -1);
}

static void test_names(void **state) {
    (void)state;
    static const char *const bad[] = {"",    "/a",   "a//b", "..", "a/../b", "./a",
                                      "a/.", "a\\b", "a\nb", "a/", "\xff",   "a\x7f"};
    static const char *const good[] = {"a", "a/b.gguf", "..a", "a..", ".hidden", "a b", "\xc3\xa9"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_false(nib_hub_name_ok(bad[i], strlen(bad[i])));
    for (size_t i = 0; i < NIB_ARRAY_LEN(good); i++)
        assert_true(nib_hub_name_ok(good[i], strlen(good[i])));
    assert_false(nib_hub_name_ok("a\0b", 3));
    char huge[300];
    memset(huge, 'a', sizeof huge);
    assert_false(nib_hub_name_ok(huge, 256));
    assert_true(nib_hub_name_ok(huge, 255));
}

#define LIST(files)                                                                                \
    "{\"sha\": \"0123456789abcdef0123456789abcdef01234567\", \"siblings\": [" files "]}"

static void test_list(void **state) {
    (void)state;
    nib_error e;
    nib_hub_listing l;
    const char *text =
        LIST("{\"rfilename\": \"a.gguf\", \"size\": 5, \"lfs\": {\"size\": 77, \"sha256\": "
             "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}},"
             "{\"rfilename\": \"b\", \"size\": 9, \"blobId\": "
             "\"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"}, {\"rfilename\": \"c\"}");
    test_ok(nib_hub_listing_read(text, strlen(text), &l, &e), &e);
    assert_int_equal(l.n, 3);
    assert_int_equal(l.files[0].size, 77);
    assert_int_equal(strlen(l.files[0].digest), 64);
    assert_int_equal(strlen(l.files[1].digest), 40);
    assert_true(l.files[2].size == UINT64_MAX && !*l.files[2].digest);
    nib_hub_listing_free(&l);
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "null",
        "{\"sha\": \"short\", \"siblings\": []}",
        "{\"sha\": \"0123456789abcdef0123456789abcdef01234567\"}",
        "{\"sha\": \"0123456789abcdef0123456789abcdef01234567\", \"siblings\": {}}",
        LIST("3"),
        LIST("{}"),
        LIST("{\"rfilename\": 3}"),
        LIST("{\"rfilename\": \"../x\"}"),
        LIST("{\"rfilename\": \"/etc/passwd\"}"),
        LIST("{\"rfilename\": \"a\\u0000b\"}"),
        LIST("{\"rfilename\": \"a\", \"size\": -1}"),
        LIST("{\"rfilename\": \"a\", \"size\": 1e99}"),
        LIST("{\"rfilename\": \"a\", \"size\": 9223372036854775807}"),
        LIST("{\"rfilename\": \"a\", \"size\": \"5\"}"),
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_int_not_equal(nib_hub_listing_read(bad[i], strlen(bad[i]), &l, &e), NIB_OK);
    for (long n = 1; n < 40; n++) { /* every allocation may fail */
        nib_alloc_fail_after(n);
        nib_status s = nib_hub_listing_read(text, strlen(text), &l, &e);
        nib_alloc_fail_after(0);
        if (s == NIB_OK) nib_hub_listing_free(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),  cmocka_unit_test(test_urls),  cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_quants), cmocka_unit_test(test_names), cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
