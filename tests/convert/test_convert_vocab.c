/* Vocabularies: real ones there and back, and each kind of tokenizer file read as it should be. */
#include "convert/internal.h"
#include "hffolder.h"

static nib_gguf *open_gguf(const char *path) {
    nib_error e;
    nib_gguf *g;
    test_ok(nib_gguf_open(&g, path, &e), &e);
    return g;
}

static const nib_gguf_kv *arr(const nib_gguf *g, const char *key) {
    const nib_gguf_kv *kv = nib_gguf_find(g, key);
    if (kv) assert_int_equal(kv->type, NIB_GGUF_ARR);
    return kv;
}

/* ---- real vocabularies ---- */

/* Type 4 of a SentencePiece model reads back as 1 when no list of added tokens has it, as with the
 * peers; every other difference fails. Returns how many those were. */
static int64_t compare_vocab(const nib_gguf *g, const conv_model *m, const char *what) {
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
                                       "tokenizer.ggml.scores", "tokenizer.ggml.merges"};
    int64_t control = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(keys); i++) {
        const nib_gguf_kv *a = arr(g, keys[i]), *b = conv_find(m, keys[i]);
        const nib_gguf_kv *types = arr(g, "tokenizer.ggml.token_type");
        if (!a || !b) {
            /* scores of byte-level BPE and WordPiece mean nothing and are not written */
            if (a && i != 2) fail_msg("%s: %s is missing", what, keys[i]);
            continue;
        }
        if (a->arr_n != b->arr_n)
            fail_msg("%s: %s: %lld became %lld", what, keys[i], (long long)a->arr_n,
                     (long long)b->arr_n);
        nib_gguf_strs as = nib_gguf_strs_of(a), bs = nib_gguf_strs_of(b);
        for (int64_t k = 0; k < a->arr_n; k++) {
            bool same = a->arr_type == NIB_GGUF_STR
                            ? nib_str_eq(nib_gguf_strs_next(&as), nib_gguf_strs_next(&bs))
                            : nib_gguf_arr_f64(a, k) == nib_gguf_arr_f64(b, k);
            if (same) continue;
            int64_t t = nib_gguf_arr_i64(types, k);
            if (i > 0 && i < 3 && t >= 2 && t <= 4) { /* special tokens' scores and types */
                control++;
                continue;
            }
            fail_msg("%s: %s[%lld] of type %lld differs", what, keys[i], (long long)k,
                     (long long)t);
        }
    }
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "cls_token_id",
                                      "seperator_token_id", "mask_token_id"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(ids); i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s", ids[i]);
        const nib_gguf_kv *a = nib_gguf_find(g, key), *b = conv_find(m, key);
        if (a && (!b || a->i != b->i)) fail_msg("%s: %s is lost", what, key);
    }
    return control;
}

static int64_t vocab_there_and_back(const char *name, const char *arch) {
    nib_error e;
    nib_gguf *g = open_gguf(test_shared_path("conformance/tokenizers/%s/vocab.gguf", name));
    mkdir(hf_path(name), 0777);
    conv_hf_out o = {.folder = hf_path(name),
                     .g = g,
                     .family = conv_family_of_arch(nib_str_c(arch)),
                     .config = json_object(),
                     .tok_config = json_object(),
                     .generation = json_object()};
    test_ok(conv_out_vocab(&o, &e), &e);
    json_object_set_new(o.config, "architectures",
                        json_pack("[s#]", o.family->classes, (int)strcspn(o.family->classes, "|")));
    json_object_set_new(o.config, "vocab_size",
                        json_integer(arr(g, "tokenizer.ggml.tokens")->arr_n));
    test_ok(conv_out_json(&o, "config.json", o.config, &e), &e);
    conv_hf h;
    conv_model m;
    conv_model_init(&m);
    test_ok(conv_hf_open(&h, hf_path(name), &e), &e);
    test_ok(conv_hf_vocab(&m, &h, NULL, &e), &e);
    int64_t control = compare_vocab(g, &m, name);
    conv_hf_close(&h);
    conv_model_free(&m);
    json_decref(o.config);
    json_decref(o.tok_config);
    json_decref(o.generation);
    nib_gguf_close(g);
    return control;
}

static void test_real_there_and_back(void **state) {
    (void)state;
    static const struct {
        const char *name, *arch;
        int64_t most; /* special tokens whose type or score may change */
    } cases[] = {{"llama-spm", "llama", 0},    {"llama-bpe", "llama", 0},  {"smollm2", "llama", 0},
                 {"smollm3", "smollm3", 0},    {"phi-3", "phi3", 200},     {"phi-2", "phi2", 0},
                 {"gpt-2", "gpt2", 0},         {"gpt-neox", "gptneox", 0}, {"qwen2", "qwen2", 0},
                 {"stablelm2", "stablelm", 0}, {"bert-bge", "bert", 10}};
    if (!test_shared()) test_skip("no shared data");
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        int64_t n = vocab_there_and_back(cases[i].name, cases[i].arch);
        if (n > cases[i].most)
            fail_msg("%s: %lld special tokens changed", cases[i].name, (long long)n);
    }
    print_message("%zu real vocabularies to tokenizer files and back\n", NIB_ARRAY_LEN(cases));
}

/* ---- files written by hand ---- */

static nib_status read_vocab(const char *folder, const char *class, const char *config,
                             conv_model *m, nib_error *e) {
    char text[512];
    conv_hf h = {0};
    snprintf(text, sizeof text, "{\"architectures\":[\"%s\"]%s%s}", class, *config ? "," : "",
             config);
    hf_text(folder, "config.json", text);
    conv_model_init(m);
    nib_status s = conv_hf_open(&h, hf_path(folder), e);
    if (s == NIB_OK) s = conv_hf_vocab(m, &h, NULL, e);
    conv_hf_close(&h);
    return s;
}

static void check_token(const conv_model *m, int64_t id, const char *text, int type) {
    const nib_gguf_kv *tokens = conv_find(m, "tokenizer.ggml.tokens"),
                      *types = conv_find(m, "tokenizer.ggml.token_type");
    assert_non_null(tokens);
    assert_true(id < tokens->arr_n);
    nib_str t = tokens->arr_str[id];
    if (!nib_str_eq_c(t, text) || nib_gguf_arr_i64(types, id) != type)
        fail_msg("token %lld is '%.*s' of type %lld: expected '%s' of type %d", (long long)id,
                 (int)t.n, t.p, (long long)nib_gguf_arr_i64(types, id), text, type);
}
static void check_int(const conv_model *m, const char *key, int64_t v) {
    const nib_gguf_kv *kv = conv_find(m, key);
    if (!kv || kv->i != v)
        fail_msg("%s is %lld: expected %lld", key, kv ? (long long)kv->i : -999, (long long)v);
}
static void check_text(const conv_model *m, const char *key, const char *v) {
    const nib_gguf_kv *kv = conv_find(m, key);
    if (!kv || !nib_str_eq_c(kv->str, v))
        fail_msg("%s is '%.*s': expected '%s'", key, kv ? (int)kv->str.n : 0, kv ? kv->str.p : "",
                 v);
}

/* The pre-tokenizer's description, the family, and the name that comes of both. */
static void test_pretokenizers(void **state) {
    (void)state;
#define SPLIT(re)                                                                                  \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re   \
    "\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"use_regex\":false}" \
    "]}"
#define LLAMA3(digits)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits         \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
    static const char digits[] =
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}"
        ","
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]}";
    static const char nfc[] = "\"normalizer\":{\"type\":\"NFC\"},";
    static const struct {
        const char *class, *pre, *model, *extra, *name;
    } cases[] = {
        {"GPT2LMHeadModel", HF_BYTELEVEL, "", "", "gpt-2"},
        {"PhiForCausalLM", HF_BYTELEVEL, "", "", "phi-2"},
        {"GPTNeoXForCausalLM", HF_BYTELEVEL, "", nfc, "olmo"},
        {"LlamaForCausalLM", digits, "", "", "smollm"},
        {"GraniteForCausalLM", digits, "", "", "refact"},
        {"LlamaForCausalLM", SPLIT(LLAMA3("{1,3}")), "\"ignore_merges\":true,", "", "llama-bpe"},
        {"SmolLM3ForCausalLM", SPLIT(LLAMA3("{1,3}")), "\"ignore_merges\":true,", "", "smaug-bpe"},
        {"Olmo2ForCausalLM", SPLIT(LLAMA3("{1,3}")), "", "", "dbrx"},
        {"Qwen2ForCausalLM", SPLIT(LLAMA3("")), "", nfc, "qwen2"},
        {"StableLmForCausalLM", SPLIT(LLAMA3("")), "", nfc, "stablelm2"},
        {"LlamaForCausalLM", "{\"type\":\"ByteLevel\",\"use_regex\":false}", "", "", NULL},
        {"LlamaForCausalLM", SPLIT("[a-z]+"), "", "", NULL},
        {"LlamaForCausalLM", "null", "", "\"decoder\":{\"type\":\"ByteLevel\"},", NULL},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e;
        conv_model m;
        char folder[16];
        snprintf(folder, sizeof folder, "pre%zu", i);
        char *tok = hf_bpe_json(cases[i].pre, cases[i].model, cases[i].extra);
        hf_text(folder, "tokenizer.json", tok);
        nib_status s = read_vocab(folder, cases[i].class, "", &m, &e);
        if (cases[i].name) {
            test_ok(s, &e);
            check_text(&m, "tokenizer.ggml.pre", cases[i].name);
            check_token(&m, 256, "th", 1);
            check_token(&m, 259, "<|end|>", 3);
            assert_int_equal(conv_find(&m, "tokenizer.ggml.merges")->arr_n, 3);
        } else {
            assert_int_equal(s, NIB_ERR_UNSUPPORTED);
            assert_non_null(strstr(e.message, "--pre"));
        }
        conv_model_free(&m);
        nib_free(tok);
    }
}

/* A SentencePiece model's bytes, made by hand. */
static void put_piece(nib_buf *b, const char *text, float score, int type) {
    nib_buf p = {0};
    nib_buf_printf(&p, "\x0a%c%s\x15", (char)strlen(text), text);
    nib_buf_put(&p, &score, 4);
    if (type != 1) nib_buf_printf(&p, "\x18%c", (char)type);
    nib_buf_printf(b, "\x0a%c", (char)p.len);
    nib_buf_put(b, p.data, p.len);
    nib_buf_free(&p);
}

static void sentencepiece_folder(const char *folder) {
    nib_buf b = {0};
    put_piece(&b, "<unk>", 0, 2);
    put_piece(&b, "<s>", 0, 3);
    put_piece(&b, "</s>", 0, 3);
    put_piece(&b, "<0x0A>", 0, 6);
    put_piece(&b, "\xe2\x96\x81the", -1, 1);
    put_piece(&b, "user", -2, 4);
    nib_buf_put(&b, "\x12\x02\x18\x02", 4); /* trainer_spec */
    hf_file(folder, "tokenizer.model", b.data, b.len);
    nib_buf_free(&b);
}

static void test_sentencepiece(void **state) {
    (void)state;
    nib_error e;
    conv_model m;
    sentencepiece_folder("spm");
    hf_text("spm", "added_tokens.json", "{\"<|a|>\":6,\"beyond\":99}");
    hf_text("spm", "tokenizer_config.json",
            "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true},"
            "\"7\":{\"content\":\"\xe2\x96\x81x\",\"special\":false},"
            "\"6\":{\"content\":\"<|a|>\",\"special\":false}},\"bos_token\":{\"content\":\"<s>\"},"
            "\"eos_token\":\"</s>\",\"add_bos_token\":true,\"add_eos_token\":false,"
            "\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"tool_use\","
            "\"template\":\"T\"}]}");
    test_ok(read_vocab("spm", "LlamaForCausalLM", "\"vocab_size\":10,\"pad_token_id\":2", &m, &e),
            &e);
    check_text(&m, "tokenizer.ggml.model", "llama");
    check_text(&m, "tokenizer.ggml.pre", "default");
    check_token(&m, 0, "<unk>", 2);
    check_token(&m, 1, "<s>", 3);
    check_token(&m, 3, "<0x0A>", 6);
    check_token(&m, 4, "\xe2\x96\x81the", 1);
    check_token(&m, 5, "user", 1);
    check_token(&m, 6, "<|a|>", 3); /* looks like a control token */
    check_token(&m, 7, " x", 4);
    check_token(&m, 8, "[PAD8]", 5);
    const nib_gguf_kv *scores = conv_find(&m, "tokenizer.ggml.scores");
    assert_true(nib_gguf_arr_f64(scores, 1) == -1000);
    assert_true(nib_gguf_arr_f64(scores, 2) == 0);
    assert_true(nib_gguf_arr_f64(scores, 4) == -1);
    assert_true(nib_gguf_arr_f64(scores, 9) == -10000);
    check_int(&m, "tokenizer.ggml.bos_token_id", 1);
    check_int(&m, "tokenizer.ggml.eos_token_id", 2);
    check_int(&m, "tokenizer.ggml.padding_token_id", 2);
    check_int(&m, "tokenizer.ggml.add_bos_token", 1);
    check_int(&m, "tokenizer.ggml.add_eos_token", 0);
    check_text(&m, "tokenizer.chat_template", "D");
    check_text(&m, "tokenizer.chat_template.tool_use", "T");
    conv_model_free(&m);
    test_ok(read_vocab("spm", "Gemma2ForCausalLM", "\"vocab_size\":8", &m, &e), &e);
    check_int(&m, "tokenizer.ggml.add_space_prefix", 0);
    conv_model_free(&m);
}

/* BPE that falls back to bytes is SentencePiece's algorithm: merges become scores. */
static void test_byte_fallback(void **state) {
    (void)state;
    nib_error e;
    conv_model m;
    hf_text("fallback", "tokenizer.json",
            "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],\"model\":{"
            "\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<0x41>\":1,\"a\":2,"
            "\"b\":3,\"ab\":4,\"abb\":5},\"merges\":[\"a b\",\"ab b\"]}}");
    hf_text("fallback", "chat_template.jinja", "{{ from_file }}");
    test_ok(read_vocab("fallback", "LlamaForCausalLM", "", &m, &e), &e);
    check_text(&m, "tokenizer.ggml.model", "llama");
    check_text(&m, "tokenizer.chat_template", "{{ from_file }}");
    check_token(&m, 1, "<0x41>", 6);
    const nib_gguf_kv *scores = conv_find(&m, "tokenizer.ggml.scores");
    assert_true(nib_gguf_arr_f64(scores, 4) == -1);
    assert_true(nib_gguf_arr_f64(scores, 5) == -2);
    assert_null(conv_find(&m, "tokenizer.ggml.merges"));
    conv_model_free(&m);
}

static void test_wordpiece(void **state) {
    (void)state;
    nib_error e;
    conv_model m;
    hf_text("wp", "vocab.txt", "[PAD]\n[UNK]\n[CLS]\r\n[SEP]\n[MASK]\nthe\n##ing\n!\n");
    hf_text("wp", "tokenizer_config.json",
            "{\"cls_token\":\"[CLS]\",\"sep_token\":\"[SEP]\",\"unk_token\":\"[UNK]\"}");
    test_ok(read_vocab("wp", "BertModel", "\"vocab_size\":8,\"type_vocab_size\":2", &m, &e), &e);
    check_text(&m, "tokenizer.ggml.model", "bert");
    check_token(&m, 2, "[CLS]", 3);
    check_token(&m, 5, "\xe2\x96\x81the", 1);
    check_token(&m, 6, "ing", 1);
    check_int(&m, "tokenizer.ggml.cls_token_id", 2);
    check_int(&m, "tokenizer.ggml.seperator_token_id", 3);
    check_int(&m, "tokenizer.ggml.token_type_count", 2);
    conv_model_free(&m);
    /* the same as tokenizer.json, with what is put around a text */
    hf_text(
        "wpj", "tokenizer.json",
        "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":false},"
        "\"added_tokens\":[{\"id\":1,\"content\":\"[CLS]\",\"special\":true},{\"id\":2,"
        "\"content\":\"[SEP]\",\"special\":true}],\"post_processor\":{\"type\":"
        "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"[CLS]\"}},{\"Sequence\":"
        "{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"[SEP]\"}}],\"pair\":[]},\"model\":{\"type\":"
        "\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2,\"the\":3,\"##ing\":4}}}");
    hf_text("wpj", "tokenizer_config.json", "{\"cls_token\":\"[CLS]\",\"sep_token\":\"[SEP]\"}");
    test_ok(read_vocab("wpj", "BertModel", "", &m, &e), &e);
    check_token(&m, 1, "[CLS]", 3);
    check_token(&m, 3, "\xe2\x96\x81the", 1);
    check_token(&m, 4, "ing", 1);
    check_int(&m, "tokenizer.ggml.bos_token_id", 1);
    check_int(&m, "tokenizer.ggml.eos_token_id", 2);
    check_int(&m, "tokenizer.ggml.add_bos_token", 1);
    check_int(&m, "tokenizer.ggml.add_eos_token", 1);
    check_int(&m, "tokenizer.ggml.normalizer.lowercase", 0);
    conv_model_free(&m);
}

/* ---- hostile files ---- */

static void test_bad_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *file, *text, *says;
    } cases[] = {
        {"tokenizer.json", "{", "JSON"},
        {"tokenizer.json", "[]", "JSON object"},
        {"tokenizer.json", "{}", "model.vocab"},
        {"tokenizer.json", "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", "Unigram"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "model.vocab"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", "no id"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"}}}", "no id"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000000}}}",
         "4000000000000"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0}}}", "same id"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}",
         "merges"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "merges"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "bytes"},
        {"tokenizer.json",
         "{\"added_tokens\":[{\"content\":\"x\"}],\"model\":{\"type\":\"BPE\",\"byte_fallback\":"
         "true,"
         "\"vocab\":{\"a\":0}}}",
         "no id"},
        {"tokenizer.json",
         "{\"added_tokens\":[{\"id\":0}],\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
         "\"vocab\":{\"a\":0}}}",
         "no text"},
        {"tokenizer.model", "this is no protocol buffer", "SentencePiece"},
        {"tokenizer.model", "\x0a\x7fshort", "SentencePiece"},
        {"tokenizer.model", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "SentencePiece"},
        {"tokenizer.model", "\x0a\x02\x18\x09", "damaged"},
        {"tokenizer.model", "\x12\x01x", "no pieces"},
        {"vocab.json", "{\"a\":0.5}", "no id"},
        {"notes.txt", "", "no vocabulary"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e = {0};
        conv_model m;
        char folder[16];
        snprintf(folder, sizeof folder, "bad%zu", i);
        hf_text(folder, cases[i].file, cases[i].text);
        nib_status s = read_vocab(folder, "LlamaForCausalLM", "", &m, &e);
        conv_model_free(&m);
        if (s == NIB_OK || !strstr(e.message, cases[i].says))
            fail_msg("case %zu: expected '%s', found '%s'", i, cases[i].says,
                     s == NIB_OK ? "success" : e.message);
        assert_null(strchr(e.message, '\n'));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_there_and_back), cmocka_unit_test(test_pretokenizers),
        cmocka_unit_test(test_sentencepiece),       cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_wordpiece),           cmocka_unit_test(test_bad_tokenizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
