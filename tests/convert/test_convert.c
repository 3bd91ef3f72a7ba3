/* Folders to GGUF and back: every family's tensors and keys, the order of rows against formulas of
 * their own, and models that give the same numbers afterwards. */
#include <math.h>
#include <stdlib.h>
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

static float at(const nib_gguf *g, const char *name, int64_t r, int64_t c) {
    const nib_tensor *t = nib_gguf_tensor(g, name);
    if (!t) fail_msg("no tensor '%s'", name);
    assert_int_equal(t->dtype, NIB_F32);
    assert_true(c < t->ne[0] && r < t->ne[1]);
    float f;
    memcpy(&f, (const char *)t->data + (size_t)(r * t->ne[0] + c) * 4, 4);
    return f;
}

static int64_t key_int(const nib_gguf *g, const char *key) {
    nib_error e;
    int64_t v;
    test_ok(nib_gguf_i64(g, key, INT64_MIN, INT64_MAX, &v, &e), &e);
    return v;
}
static bool key_bool(const nib_gguf *g, const char *key) {
    nib_error e;
    bool v;
    test_ok(nib_gguf_bool(g, key, &v, &e), &e);
    return v;
}
static double key_float(const nib_gguf *g, const char *key) {
    nib_error e;
    float v;
    test_ok(nib_gguf_f32(g, key, &v, &e), &e);
    return (double)v;
}
static void key_text(const nib_gguf *g, const char *key, const char *expected) {
    nib_error e;
    nib_str v;
    test_ok(nib_gguf_str(g, key, &v, &e), &e);
    if (!nib_str_eq_c(v, expected)) fail_msg("%s is '%.*s'", key, (int)v.n, v.p);
}

static nib_gguf *convert(const char *folder, const char *type) {
    nib_error e;
    char out[700];
    snprintf(out, sizeof out, "%s.gguf", hf_path(folder));
    nib_convert_params p = {.type = type, .n_threads = 2};
    nib_convert_result r;
    test_ok(nib_convert_to_gguf(hf_path(folder), out, &p, &r, &e), &e);
    nib_gguf *g = open_gguf(out);
    assert_int_equal(r.n_tensors, nib_gguf_n_tensors(g));
    return g;
}

/* ---- rows, against the definition ---- */

enum { E = 64, H = 4, KV = 2, D = 16, F = 96 };
static const char llama_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":96,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"num_hidden_layers\":1,"
    "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-05,\"vocab_size\":260,"
    "\"rope_theta\":500000.0,%s\"eos_token_id\":259}";
static const hf_tensor llama_tensors[] = {
    {"model.embed_tokens.weight", 260, E, 1},
    {"model.layers.0.input_layernorm.weight", 0, E, 2},
    {"model.layers.0.self_attn.q_proj.weight", E, E, 3},
    {"model.layers.0.self_attn.q_proj.bias", 0, E, 3.5f},
    {"model.layers.0.self_attn.k_proj.weight", KV *D, E, 4},
    {"model.layers.0.self_attn.k_proj.bias", 0, KV *D, 4.5f},
    {"model.layers.0.self_attn.v_proj.weight", KV *D, E, 5},
    {"model.layers.0.self_attn.v_proj.bias", 0, KV *D, 5.5f},
    {"model.layers.0.self_attn.o_proj.weight", E, E, 6},
    {"model.layers.0.post_attention_layernorm.weight", 0, E, 7},
    {"model.layers.0.mlp.gate_proj.weight", F, E, 8},
    {"model.layers.0.mlp.up_proj.weight", F, E, 9},
    {"model.layers.0.mlp.down_proj.weight", E, F, 10},
    {"model.norm.weight", 0, E, 11},
    {"lm_head.weight", 260, E, 12},
    {"model.layers.0.self_attn.rotary_emb.inv_freq", 0, 8, 13},
};

static void llama_folder(const char *name, const char *extra, nib_dtype type) {
    char config[1024];
    snprintf(config, sizeof config, llama_config, extra);
    char *tok = hf_bpe_json(HF_BYTELEVEL, "", "");
    hf_text(name, "config.json", config);
    hf_text(name, "tokenizer.json", tok);
    hf_text(name, "tokenizer_config.json",
            "{\"eos_token\":\"<|end|>\",\"add_bos_token\":false,\"chat_template\":\"{{ x }}\"}");
    hf_text(name, "generation_config.json", "{\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95}");
    hf_weights(name, type, llama_tensors, NIB_ARRAY_LEN(llama_tensors));
    nib_free(tok);
}

/* Rotation of pairs: within a head, component i of the first half becomes row 2i, of the second
 * half row 2i + 1. */
static void test_llama_rows(void **state) {
    (void)state;
    llama_folder("llama", "", NIB_F32);
    nib_gguf *g = convert("llama", NULL);
    assert_int_equal(nib_gguf_n_tensors(g), NIB_ARRAY_LEN(llama_tensors) - 1);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < D / 2; i++)
            for (int half = 0; half < 2; half++) {
                int to = h * D + 2 * i + half, from = h * D + half * D / 2 + i;
                assert_true(at(g, "blk.0.attn_q.weight", to, 5) ==
                            hf_value(&llama_tensors[2], from, 5));
                assert_true(at(g, "blk.0.attn_q.bias", 0, to) ==
                            hf_value(&llama_tensors[3], 0, from));
                if (h >= KV) continue;
                assert_true(at(g, "blk.0.attn_k.weight", to, 7) ==
                            hf_value(&llama_tensors[4], from, 7));
                assert_true(at(g, "blk.0.attn_k.bias", 0, to) ==
                            hf_value(&llama_tensors[5], 0, from));
            }
    assert_true(at(g, "blk.0.attn_v.weight", 9, 3) == hf_value(&llama_tensors[6], 9, 3));
    assert_true(at(g, "blk.0.ffn_down.weight", 3, 90) == hf_value(&llama_tensors[12], 3, 90));
    assert_true(at(g, "output.weight", 259, 63) == hf_value(&llama_tensors[14], 259, 63));
    key_text(g, "general.architecture", "llama");
    key_text(g, "general.type", "model");
    key_text(g, "general.name", "Llama");
    key_text(g, "tokenizer.ggml.model", "gpt2");
    key_text(g, "tokenizer.ggml.pre", "gpt-2");
    key_text(g, "tokenizer.chat_template", "{{ x }}");
    assert_int_equal(key_int(g, "general.file_type"), 0);
    assert_int_equal(key_int(g, "general.quantization_version"), 2);
    assert_int_equal(key_int(g, "llama.block_count"), 1);
    assert_int_equal(key_int(g, "llama.context_length"), 128);
    assert_int_equal(key_int(g, "llama.embedding_length"), E);
    assert_int_equal(key_int(g, "llama.feed_forward_length"), F);
    assert_int_equal(key_int(g, "llama.attention.head_count"), H);
    assert_int_equal(key_int(g, "llama.attention.head_count_kv"), KV);
    assert_int_equal(key_int(g, "llama.attention.key_length"), D);
    assert_int_equal(key_int(g, "llama.rope.dimension_count"), D);
    assert_int_equal(key_int(g, "llama.vocab_size"), 260);
    assert_true(key_float(g, "llama.rope.freq_base") == 500000);
    assert_true(key_float(g, "llama.attention.layer_norm_rms_epsilon") == (double)1e-5f);
    assert_int_equal(key_int(g, "tokenizer.ggml.eos_token_id"), 259);
    assert_false(key_bool(g, "tokenizer.ggml.add_bos_token"));
    assert_true(key_float(g, "general.sampling.temp") == (double)0.6f);
    assert_int_equal(key_int(g, "general.sampling.top_k"), 20);
    nib_gguf_close(g);
}

/* Of GPT-NeoX each head has its q, k, v rows together; GGUF wants all q, all k, all v. */
static void test_gptneox_rows(void **state) {
    (void)state;
    static const hf_tensor t[] = {
        {"gpt_neox.embed_in.weight", 260, E, 1},
        {"gpt_neox.layers.0.input_layernorm.weight", 0, E, 2},
        {"gpt_neox.layers.0.input_layernorm.bias", 0, E, 2},
        {"gpt_neox.layers.0.post_attention_layernorm.weight", 0, E, 2},
        {"gpt_neox.layers.0.post_attention_layernorm.bias", 0, E, 2},
        {"gpt_neox.layers.0.attention.query_key_value.weight", 3 * E, E, 3},
        {"gpt_neox.layers.0.attention.query_key_value.bias", 0, 3 * E, 4},
        {"gpt_neox.layers.0.attention.dense.weight", E, E, 5},
        {"gpt_neox.layers.0.attention.dense.bias", 0, E, 5},
        {"gpt_neox.layers.0.attention.bias", 8, 8, 6},
        {"gpt_neox.layers.0.mlp.dense_h_to_4h.weight", F, E, 7},
        {"gpt_neox.layers.0.mlp.dense_h_to_4h.bias", 0, F, 7},
        {"gpt_neox.layers.0.mlp.dense_4h_to_h.weight", E, F, 8},
        {"gpt_neox.layers.0.mlp.dense_4h_to_h.bias", 0, E, 8},
        {"gpt_neox.final_layer_norm.weight", 0, E, 9},
        {"gpt_neox.final_layer_norm.bias", 0, E, 9},
        {"embed_out.weight", 260, E, 10},
    };
    char *tok = hf_bpe_json(HF_BYTELEVEL, "", "\"normalizer\":{\"type\":\"NFC\"},");
    hf_text("neox", "tokenizer.json", tok);
    hf_text("neox", "config.json",
            "{\"architectures\":[\"GPTNeoXForCausalLM\"],\"hidden_size\":64,"
            "\"intermediate_size\":96,\"num_attention_heads\":4,\"num_hidden_layers\":1,"
            "\"max_position_embeddings\":128,\"layer_norm_eps\":1e-05,\"vocab_size\":260,"
            "\"rotary_pct\":0.25,\"rotary_emb_base\":10000,\"use_parallel_residual\":false}");
    hf_weights("neox", NIB_F32, t, NIB_ARRAY_LEN(t));
    nib_gguf *g = convert("neox", NULL);
    for (int part = 0; part < 3; part++)
        for (int h = 0; h < H; h++)
            for (int d = 0; d < D; d++) {
                int to = part * E + h * D + d, from = h * 3 * D + part * D + d;
                assert_true(at(g, "blk.0.attn_qkv.weight", to, 1) == hf_value(&t[5], from, 1));
                assert_true(at(g, "blk.0.attn_qkv.bias", 0, to) == hf_value(&t[6], 0, from));
            }
    key_text(g, "tokenizer.ggml.pre", "olmo");
    assert_int_equal(key_int(g, "gptneox.rope.dimension_count"), 4);
    assert_false(key_bool(g, "gptneox.use_parallel_residual"));
    nib_gguf_close(g);
    nib_free(tok);
}

/* GPT-2's matrices are transposed; its older files are vocab.json and merges.txt. */
static void test_gpt2_rows(void **state) {
    (void)state;
    static const hf_tensor t[] = {
        {"wte.weight", 260, E, 1},
        {"wpe.weight", 32, E, 2},
        {"h.0.ln_1.weight", 0, E, 3},
        {"h.0.ln_1.bias", 0, E, 3},
        {"h.0.attn.c_attn.weight", E, 3 * E, 4},
        {"h.0.attn.c_attn.bias", 0, 3 * E, 4},
        {"h.0.attn.c_proj.weight", E, E, 5},
        {"h.0.attn.c_proj.bias", 0, E, 5},
        {"h.0.attn.bias", 32, 32, 6},
        {"h.0.ln_2.weight", 0, E, 7},
        {"h.0.ln_2.bias", 0, E, 7},
        {"h.0.mlp.c_fc.weight", E, 4 * E, 8},
        {"h.0.mlp.c_fc.bias", 0, 4 * E, 8},
        {"h.0.mlp.c_proj.weight", 4 * E, E, 9},
        {"h.0.mlp.c_proj.bias", 0, E, 9},
        {"ln_f.weight", 0, E, 10},
        {"ln_f.bias", 0, E, 10},
    };
    nib_buf vocab = {0};
    nib_buf_putc(&vocab, '{');
    for (int i = 0; i < 259; i++) nib_buf_printf(&vocab, "%s\"t%d\":%d", i ? "," : "", i, i);
    nib_buf_puts(&vocab, ",\"<|endoftext|>\":259}");
    hf_file("gpt2", "vocab.json", vocab.data, vocab.len);
    nib_buf_free(&vocab);
    hf_text("gpt2", "merges.txt", "#version: 0.2\nt 1\nt1 2\r\n\n");
    hf_text("gpt2", "config.json",
            "{\"architectures\":[\"GPT2LMHeadModel\"],\"n_embd\":64,\"n_head\":4,\"n_layer\":1,"
            "\"n_positions\":32,\"n_ctx\":32,\"layer_norm_epsilon\":1e-05,\"vocab_size\":260,"
            "\"n_inner\":null,\"eos_token_id\":259}");
    hf_weights("gpt2", NIB_F32, t, NIB_ARRAY_LEN(t));
    nib_gguf *g = convert("gpt2", NULL);
    for (int r = 0; r < 3 * E; r += 7)
        for (int c = 0; c < E; c++)
            assert_true(at(g, "blk.0.attn_qkv.weight", r, c) == hf_value(&t[4], c, r));
    assert_true(at(g, "blk.0.ffn_down.weight", 5, 200) == hf_value(&t[13], 200, 5));
    assert_true(at(g, "blk.0.attn_qkv.bias", 0, 100) == hf_value(&t[5], 0, 100));
    assert_int_equal(key_int(g, "gpt2.feed_forward_length"), 4 * E);
    assert_int_equal(key_int(g, "tokenizer.ggml.eos_token_id"), 259);
    const nib_gguf_kv *merges = nib_gguf_find(g, "tokenizer.ggml.merges");
    assert_non_null(merges);
    assert_int_equal(merges->arr_n, 2);
    nib_gguf_strs it = nib_gguf_strs_of(merges);
    nib_gguf_strs_next(&it);
    assert_true(nib_str_eq_c(nib_gguf_strs_next(&it), "t1 2"));
    nib_gguf_close(g);
}

/* Formats: norms and vectors are F32 whatever the rest is; q8_0 and k-mixes are made on the way. */
static void test_types(void **state) {
    (void)state;
    static const struct {
        const char *type;
        nib_dtype matrix, down, output;
        int file_type;
    } cases[] = {
        {NULL, NIB_BF16, NIB_BF16, NIB_BF16, 32},     {"f16", NIB_F16, NIB_F16, NIB_F16, 1},
        {"f32", NIB_F32, NIB_F32, NIB_F32, 0},        {"q8_0", NIB_Q8_0, NIB_Q8_0, NIB_Q8_0, 7},
        {"q4_k_m", NIB_Q5_0, NIB_Q8_0, NIB_Q8_0, 15}, /* rows of 64 and 96: the fallbacks */
    };
    llama_folder("types", "", NIB_BF16);
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_gguf *g = convert("types", cases[i].type);
        assert_int_equal(nib_gguf_tensor(g, "blk.0.attn_q.weight")->dtype, cases[i].matrix);
        assert_int_equal(nib_gguf_tensor(g, "blk.0.ffn_down.weight")->dtype, cases[i].down);
        assert_int_equal(nib_gguf_tensor(g, "output.weight")->dtype, cases[i].output);
        assert_int_equal(nib_gguf_tensor(g, "blk.0.attn_norm.weight")->dtype, NIB_F32);
        assert_int_equal(nib_gguf_tensor(g, "blk.0.attn_q.bias")->dtype, NIB_F32);
        assert_int_equal(key_int(g, "general.file_type"), cases[i].file_type);
        nib_gguf_close(g);
    }
}

/* Llama 3.1's scaling becomes a tensor, as its formula says; and is found again. */
static void test_llama3_rope(void **state) {
    (void)state;
    llama_folder("rope3",
                 "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1."
                 "0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},",
                 NIB_F32);
    nib_gguf *g = convert("rope3", NULL);
    const nib_tensor *t = nib_gguf_tensor(g, "rope_freqs.weight");
    assert_non_null(t);
    assert_int_equal(t->ne[0], D / 2);
    for (int i = 0; i < D / 2; i++) {
        double length = 2 * 3.14159265358979 * pow(500000, 2.0 * i / D), want = 1;
        if (length > 8192)
            want = 32;
        else if (length >= 8192 / 4.0) {
            double smooth = (8192 / length - 1) / 3;
            want = 1 / ((1 - smooth) / 32 + smooth);
        }
        assert_true(fabs((double)at(g, "rope_freqs.weight", 0, i) - want) < 1e-4 * want);
    }
    nib_gguf_close(g);
    nib_error e;
    char gguf[700];
    snprintf(gguf, sizeof gguf, "%s.gguf", hf_path("rope3"));
    test_ok(nib_convert_to_hf(gguf, hf_path("rope3-back"), NULL, NULL, &e), &e);
    nib_buf config = {0};
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", hf_path("rope3-back"));
    test_ok(nib_file_read(path, 1 << 20, &config, &e), &e);
    assert_non_null(strstr(config.data, "\"llama3\""));
    nib_buf_free(&config);
}

/* ---- there and back ---- */

static bool same_tensor(const nib_tensor *a, const nib_tensor *b) {
    return a && b && a->dtype == b->dtype && a->n_dims == b->n_dims &&
           memcmp(a->ne, b->ne, sizeof a->ne) == 0 && memcmp(a->data, b->data, a->bytes) == 0;
}

/* phi2 with q, k, v fused: safetensors have them apart, and so has the GGUF made from them. */
static bool same_split(const nib_gguf *g, const nib_tensor *fused) {
    static const char *const parts[] = {"attn_q", "attn_k", "attn_v"};
    const char *at_name = strstr(fused->name, "attn_qkv");
    size_t from = 0;
    for (int i = 0; at_name && i < 3; i++) {
        char name[160];
        snprintf(name, sizeof name, "%.*s%s%s", (int)(at_name - fused->name), fused->name, parts[i],
                 at_name + 8);
        const nib_tensor *t = nib_gguf_tensor(g, name);
        if (!t || from + t->bytes > fused->bytes ||
            memcmp((const char *)fused->data + from, t->data, t->bytes) != 0)
            return false;
        from += t->bytes;
    }
    return at_name && from == fused->bytes;
}

/* Keys that the peers' converter does not write for some families, though others' files have them;
 * each has a default that is the same. */
static bool may_go(nib_str key) {
    static const char *const ends[] = {".vocab_size", ".rope.dimension_count",
                                       ".attention.head_count_kv"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(ends); i++) {
        size_t n = strlen(ends[i]);
        if (key.n > n && memcmp(key.p + key.n - n, ends[i], n) == 0) return true;
    }
    return nib_str_eq_c(key, "tokenizer.ggml.scores"); /* of WordPiece: meaningless */
}

static void compare_keys(const nib_gguf *a, const nib_gguf *b, const char *what, bool phi3) {
    for (int64_t i = 0; i < nib_gguf_n_kv(a); i++) {
        const nib_gguf_kv *x = nib_gguf_kv_at(a, i);
        char name[160];
        snprintf(name, sizeof name, "%.*s", (int)x->key.n, x->key.p);
        const nib_gguf_kv *y = nib_gguf_find(b, name);
        bool usual_base = strstr(name, "rope.freq_base") && x->f == 10000;
        if (!y && (may_go(x->key) || usual_base)) continue;
        /* phi-3's converter gives control tokens their type and score from tokenizer.json */
        if (phi3 && (strstr(name, "ggml.scores") || strstr(name, "ggml.token_type"))) continue;
        if (!y || x->type != y->type) fail_msg("%s: key %s is missing or another type", what, name);
        bool same = x->i == y->i && x->f == y->f;
        if (x->type == NIB_GGUF_STR) same = nib_str_eq(x->str, y->str);
        if (x->type == NIB_GGUF_ARR) {
            same = x->arr_type == y->arr_type && x->arr_n == y->arr_n;
            nib_gguf_strs xs = nib_gguf_strs_of(x), ys = nib_gguf_strs_of(y);
            for (int64_t k = 0; same && k < x->arr_n; k++)
                same = x->arr_type == NIB_GGUF_STR
                           ? nib_str_eq(nib_gguf_strs_next(&xs), nib_gguf_strs_next(&ys))
                           : nib_gguf_arr_f64(x, k) == nib_gguf_arr_f64(y, k);
        }
        if (!same) fail_msg("%s: key %s has changed", what, name);
    }
}

/* Bits of everything the model computes for a few tokens. */
static uint64_t run_hash(const char *path) {
    nib_error e;
    nib_model *m;
    nib_engine *en;
    nib_seq *seq;
    nib_engine_params p = {.n_threads = 1, .n_ctx = 64, .kv = NIB_KV_F32, .ignore_memory = true};
    nib_model_params mp = {.n_threads = 1};
    const int32_t ids[] = {5,  77, 201, 12,  9, 200, 41, 8,  17, 260,
                           33, 4,  99,  100, 7, 3,   64, 63, 62, 61};
    uint64_t h = 0;
    test_ok(nib_model_open(&m, path, &mp, &e), &e);
    const nib_model_info *info = nib_model_get_info(m);
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    if (info->causal) {
        const float *logits;
        test_ok(nib_seq_new(&seq, en, &e), &e);
        test_ok(nib_seq_eval(seq, ids, NIB_ARRAY_LEN(ids), &logits, &e), &e);
        h = nib_hash(logits, (size_t)info->n_vocab * 4, 0);
        nib_seq_free(seq);
    } else {
        float *v = nib_alloc((size_t)info->n_embd * 4);
        test_ok(nib_engine_embed(en, ids, NIB_ARRAY_LEN(ids), true, v, &e), &e);
        h = nib_hash(v, (size_t)info->n_embd * 4, 0);
        nib_free(v);
    }
    nib_engine_free(en);
    nib_model_release(m);
    return h;
}

static void there_and_back(const char *gguf, const char *name) {
    nib_error e;
    char folder[64], out[64];
    snprintf(folder, sizeof folder, "%s-there", name);
    snprintf(out, sizeof out, "%s-back.gguf", name);
    /* small files of weights: most models get several, and an index */
    nib_convert_params p = {.n_threads = 2, .shard_bytes = 200 << 10};
    test_ok(nib_convert_to_hf(gguf, hf_path(folder), &p, NULL, &e), &e);
    test_ok(nib_convert_to_gguf(hf_path(folder), hf_path(out), &p, NULL, &e), &e);
    nib_gguf *a = open_gguf(gguf), *b = open_gguf(hf_path(out));
    for (int64_t i = 0; i < nib_gguf_n_tensors(a); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(a, i);
        if (!same_tensor(t, nib_gguf_tensor(b, t->name)) && !same_split(b, t))
            fail_msg("%s: tensor %s has changed", name, t->name);
    }
    compare_keys(a, b, name, strstr(name, "phi3") != NULL);
    nib_gguf_close(a);
    nib_gguf_close(b);
    if (run_hash(gguf) != run_hash(hf_path(out))) fail_msg("%s: computes other numbers", name);
}

static void test_tiny_there_and_back(void **state) {
    (void)state;
    test_tiny o = {.chat_template = test_chatml, .seed = 3};
    there_and_back(test_tiny_model("tiny.gguf", &o), "tiny");
    test_tiny half = {.dtype = NIB_F16, .arch = "granite", .n_embd = 128, .seed = 5};
    there_and_back(test_tiny_model("tinyhalf.gguf", &half), "tinyhalf");
}

static void test_golden_there_and_back(void **state) {
    (void)state;
    static const char *const models[] = {"llama",        "llama-tied",   "llama-ropefreqs",
                                         "llama-linear", "llama-bias",   "smollm3",
                                         "qwen2",        "qwen2-yarn",   "qwen3",
                                         "phi2",         "phi3",         "phi3-longrope-long",
                                         "stablelm",     "stablelm-par", "gptneox",
                                         "gptneox-seq",  "gemma2",       "gemma3",
                                         "olmo2",        "olmo3",        "granite",
                                         "gpt2",         "bert",         "nomic-bert",
                                         "stories260k",  "quant-f16",    "quant-bf16"};
    if (!test_shared()) test_skip("no shared data");
    size_t n = 0;
    for (; n < NIB_ARRAY_LEN(models); n++)
        there_and_back(test_shared_path("golden/%s/model.gguf", models[n]), models[n]);
    print_message("%zu golden models to safetensors and back: tensors, keys, logits\n", n);
}

/* Quantised weights become F16, which holds their values up to its rounding. */
static void test_quantised_out(void **state) {
    (void)state;
    nib_error e;
    test_tiny o = {.dtype = NIB_Q8_0, .seed = 6};
    const char *path = test_tiny_model("tinyq.gguf", &o);
    test_ok(nib_convert_to_hf(path, hf_path("tinyq"), NULL, NULL, &e), &e);
    nib_st *st;
    test_ok(nib_st_open(&st, hf_path("tinyq"), &e), &e);
    const nib_st_tensor *t = nib_st_find(st, "model.layers.1.mlp.down_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, NIB_F16);
    nib_gguf *g = open_gguf(path);
    const nib_tensor *q = nib_gguf_tensor(g, "blk.1.ffn_down.weight");
    float a[128], b[128];
    nib_dtype_get(NIB_Q8_0)->to_f32(q->data, a, 128);
    nib_dtype_get(NIB_F16)->to_f32(t->data, b, 128);
    for (int i = 0; i < 128; i++) assert_true(fabsf(a[i] - b[i]) <= fabsf(a[i]) / 2048 + 1e-7f);
    nib_gguf_close(g);
    nib_st_close(st);
    nib_convert_params p = {.type = "q8_0"};
    assert_int_equal(nib_convert_to_hf(path, hf_path("tinyq2"), &p, NULL, &e), NIB_ERR_ARGUMENT);
    /* a folder that holds a model is not written over */
    assert_int_equal(nib_convert_to_hf(path, hf_path("tinyq"), NULL, NULL, &e), NIB_ERR_ARGUMENT);
    p = (nib_convert_params){.force = true, .type = "f32"};
    test_ok(nib_convert_to_hf(path, hf_path("tinyq"), &p, NULL, &e), &e);
}

/* The cache: made once, made again when the folder changes. */
static void test_cache(void **state) {
    (void)state;
    nib_error e;
    char *first, *again, *changed;
    struct stat a, b;
    setenv("XDG_CACHE_HOME", hf_path("cache"), 1);
    llama_folder("cached", "", NIB_F16);
    test_ok(nib_convert_cached(hf_path("cached"), NULL, &first, &e), &e);
    assert_int_equal(stat(first, &a), 0);
    test_ok(nib_convert_cached(hf_path("cached"), NULL, &again, &e), &e);
    assert_string_equal(first, again);
    assert_int_equal(stat(again, &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_true(nib_convert_is_hf(hf_path("cached")));
    assert_false(nib_convert_is_hf(first));
    hf_text("cached", "generation_config.json", "{\"temperature\":1.0}");
    test_ok(nib_convert_cached(hf_path("cached"), NULL, &changed, &e), &e);
    assert_string_not_equal(first, changed);
    nib_free(first);
    nib_free(again);
    nib_free(changed);
}

static bool count_progress(uint64_t *calls, uint64_t done, uint64_t total) {
    assert_true(done <= total);
    return ++*calls > 0;
}
static void on_progress(void *arg, uint64_t done, uint64_t total) {
    count_progress(arg, done, total);
}

static void test_progress_and_cancel(void **state) {
    (void)state;
    nib_error e;
    uint64_t calls = 0;
    atomic_bool cancel = false;
    llama_folder("progress", "", NIB_F32);
    nib_convert_params p = {.progress = on_progress, .progress_arg = &calls, .cancel = &cancel};
    test_ok(nib_convert_to_gguf(hf_path("progress"), hf_path("progress.gguf"), &p, NULL, &e), &e);
    assert_true(calls >= NIB_ARRAY_LEN(llama_tensors) - 1);
    atomic_store(&cancel, true);
    assert_int_equal(
        nib_convert_to_gguf(hf_path("progress"), hf_path("stopped.gguf"), &p, NULL, &e),
        NIB_ERR_CANCELLED);
    assert_int_equal(access(hf_path("stopped.gguf"), F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_rows),
        cmocka_unit_test(test_gptneox_rows),
        cmocka_unit_test(test_gpt2_rows),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_llama3_rope),
        cmocka_unit_test(test_tiny_there_and_back),
        cmocka_unit_test(test_golden_there_and_back),
        cmocka_unit_test(test_quantised_out),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_progress_and_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
