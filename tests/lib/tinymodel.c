#include <math.h>
#include "tinymodel.h"

enum {
    EMBD = 64,
    HEAD = 32,
    HEADS = 2,
    KV = 1,
    FF = 96,
    LAYERS = 2,
    BYTES_AT = 3,
    IM_START = 259,
    IM_END = 260
};

const char test_chatml[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

typedef struct writer {
    nib_gguf_writer *w;
    nib_error e;
    const char *arch;
} writer;

static void put_int(writer *w, const char *key, int64_t v) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", w->arch, key);
    test_ok(nib_gguf_write_i64(w->w, name, NIB_GGUF_U32, v, &w->e), &w->e);
}
static void put_str(writer *w, const char *key, const char *v) {
    test_ok(nib_gguf_write_str(w->w, key, nib_str_c(v), &w->e), &w->e);
}

static void vocabulary(writer *w, const test_tiny *o) {
    static char text[TEST_TINY_VOCAB][16];
    static nib_str tokens[TEST_TINY_VOCAB];
    static float scores[TEST_TINY_VOCAB];
    static int32_t types[TEST_TINY_VOCAB];
    static const char *const words[] = {"\342\226\201the",
                                        "\342\226\201a",
                                        "th",
                                        "he",
                                        "\342\226\201t",
                                        "in",
                                        "er",
                                        "an",
                                        "\342\226\201s",
                                        "on",
                                        "or",
                                        "nd"};
    for (int i = 0; i < TEST_TINY_VOCAB; i++) {
        int at = i - IM_END - 1, word = at - 27;
        types[i] = 1;
        scores[i] = -(float)i;
        if (i >= BYTES_AT && i < IM_START)
            snprintf(text[i], 16, "<0x%02X>", i - BYTES_AT), types[i] = 6;
        else if (at == 0)
            snprintf(text[i], 16, "\342\226\201");
        else if (at > 0 && at <= 26)
            snprintf(text[i], 16, "%c", 'a' + at - 1);
        else if (word >= 0 && word < (int)NIB_ARRAY_LEN(words))
            snprintf(text[i], 16, "%s", words[word]);
        else
            snprintf(text[i], 16, "\342\226\201w%d", i);
    }
    strcpy(text[0], o->embedder ? "[UNK]" : "<unk>"), types[0] = 2;
    strcpy(text[1], o->embedder ? "[CLS]" : "<s>"), types[1] = 3;
    strcpy(text[2], o->embedder ? "[SEP]" : "</s>"), types[2] = 3;
    strcpy(text[IM_START], "<|im_start|>"), types[IM_START] = 3;
    strcpy(text[IM_END], "<|im_end|>"), types[IM_END] = 3;
    for (int i = 0; i < TEST_TINY_VOCAB; i++) tokens[i] = nib_str_c(text[i]);
    nib_gguf_kv kv = {.key = NIB_STR("tokenizer.ggml.tokens"),
                      .type = NIB_GGUF_ARR,
                      .arr_type = NIB_GGUF_STR,
                      .arr_n = TEST_TINY_VOCAB,
                      .arr_str = tokens};
    test_ok(nib_gguf_write_kv(w->w, &kv, &w->e), &w->e);
    kv = (nib_gguf_kv){.key = NIB_STR("tokenizer.ggml.scores"),
                       .type = NIB_GGUF_ARR,
                       .arr_type = NIB_GGUF_F32,
                       .arr_n = TEST_TINY_VOCAB,
                       .arr_data = scores};
    test_ok(nib_gguf_write_kv(w->w, &kv, &w->e), &w->e);
    kv = (nib_gguf_kv){.key = NIB_STR("tokenizer.ggml.token_type"),
                       .type = NIB_GGUF_ARR,
                       .arr_type = NIB_GGUF_I32,
                       .arr_n = TEST_TINY_VOCAB,
                       .arr_data = types};
    test_ok(nib_gguf_write_kv(w->w, &kv, &w->e), &w->e);
    put_str(w, "tokenizer.ggml.model", o->embedder ? "bert" : "llama");
    static const char *const ids[][2] = {{"bos", "\1"}, {"eos", "\2"}};
    for (size_t i = 0; i < 2; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i][0]);
        test_ok(nib_gguf_write_i64(w->w, key, NIB_GGUF_U32, ids[i][1][0], &w->e), &w->e);
    }
    if (o->chat_template) put_str(w, "tokenizer.chat_template", o->chat_template);
}

/* One pass declares the tensors, a second writes them: the same list both times. */
typedef struct tensors {
    writer *w;
    nib_rng rng;
    bool writing;
} tensors;

static void tensor(tensors *t, const char *name, int64_t rows, int64_t columns, float mean,
                   float deviation) {
    nib_tensor d = {
        .name = name, .dtype = NIB_F32, .n_dims = rows > 1 ? 2 : 1, .ne = {columns, rows, 1, 1}};
    d.bytes = (size_t)(rows * columns) * sizeof(float);
    if (!t->writing) {
        test_ok(nib_gguf_declare(t->w->w, &d, &t->w->e), &t->w->e);
        return;
    }
    float *v = nib_alloc(d.bytes);
    assert_non_null(v);
    for (int64_t i = 0; i < rows * columns; i++) v[i] = mean + deviation * nib_rng_normal(&t->rng);
    test_ok(nib_gguf_write_data(t->w->w, v, d.bytes, &t->w->e), &t->w->e);
    nib_free(v);
}

static void block(tensors *t, int layer, const char *part, int64_t rows, int64_t columns,
                  float mean, float deviation) {
    char name[96];
    snprintf(name, sizeof name, "blk.%d.%s", layer, part);
    tensor(t, name, rows, columns, mean, deviation);
}

static void llama_tensors(tensors *t, int n_layer) {
    float wide = 1 / sqrtf(EMBD), ff = 1 / sqrtf(FF);
    tensor(t, "token_embd.weight", TEST_TINY_VOCAB, EMBD, 0, 1);
    for (int i = 0; i < n_layer; i++) {
        block(t, i, "attn_norm.weight", 1, EMBD, 1, 0.1f);
        block(t, i, "attn_q.weight", HEADS * HEAD, EMBD, 0, wide);
        block(t, i, "attn_k.weight", KV * HEAD, EMBD, 0, wide);
        block(t, i, "attn_v.weight", KV * HEAD, EMBD, 0, wide);
        block(t, i, "attn_output.weight", EMBD, HEADS * HEAD, 0, wide);
        block(t, i, "ffn_norm.weight", 1, EMBD, 1, 0.1f);
        block(t, i, "ffn_gate.weight", FF, EMBD, 0, wide);
        block(t, i, "ffn_up.weight", FF, EMBD, 0, wide);
        block(t, i, "ffn_down.weight", EMBD, FF, 0, ff);
    }
    tensor(t, "output_norm.weight", 1, EMBD, 1, 0.1f);
    tensor(t, "output.weight", TEST_TINY_VOCAB, EMBD, 0, 3 * wide);
}

static void bert_tensors(tensors *t, int64_t n_ctx) {
    static const char *const linears[] = {"attn_q", "attn_k", "attn_v", "attn_output"};
    static const char *const norms[] = {"attn_output_norm", "layer_output_norm"};
    float wide = 1 / sqrtf(EMBD), ff = 1 / sqrtf(FF);
    char part[64];
    tensor(t, "token_embd.weight", TEST_TINY_VOCAB, EMBD, 0, 1);
    tensor(t, "position_embd.weight", n_ctx, EMBD, 0, 0.5f);
    tensor(t, "token_types.weight", 2, EMBD, 0, 0.5f);
    tensor(t, "token_embd_norm.weight", 1, EMBD, 1, 0.1f);
    tensor(t, "token_embd_norm.bias", 1, EMBD, 0, 0.1f);
    for (size_t i = 0; i < NIB_ARRAY_LEN(linears); i++) {
        snprintf(part, sizeof part, "%s.weight", linears[i]);
        block(t, 0, part, EMBD, EMBD, 0, wide);
        snprintf(part, sizeof part, "%s.bias", linears[i]);
        block(t, 0, part, 1, EMBD, 0, 0.1f);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(norms); i++) {
        snprintf(part, sizeof part, "%s.weight", norms[i]);
        block(t, 0, part, 1, EMBD, 1, 0.1f);
        snprintf(part, sizeof part, "%s.bias", norms[i]);
        block(t, 0, part, 1, EMBD, 0, 0.1f);
    }
    block(t, 0, "ffn_up.weight", FF, EMBD, 0, wide);
    block(t, 0, "ffn_up.bias", 1, FF, 0, 0.1f);
    block(t, 0, "ffn_down.weight", EMBD, FF, 0, ff);
    block(t, 0, "ffn_down.bias", 1, EMBD, 0, 0.1f);
}

const char *test_tiny_model(const char *name, const test_tiny *options) {
    static char ring[8][256];
    static int at;
    char *path = ring[at++ & 7];
    test_tiny o = options ? *options : (test_tiny){0};
    if (!o.n_ctx) o.n_ctx = 256;
    if (!o.n_layer) o.n_layer = LAYERS;
    snprintf(path, sizeof ring[0], "%s/%s", test_tmp(), name);
    writer w = {.arch = o.embedder ? "bert" : "llama"};
    test_ok(nib_gguf_writer_new(&w.w, path, &w.e), &w.e);
    put_str(&w, "general.architecture", w.arch);
    put_str(&w, "general.name", o.embedder ? "tiny embedder" : "tiny llama");
    put_int(&w, "context_length", o.n_ctx);
    put_int(&w, "embedding_length", EMBD);
    put_int(&w, "block_count", o.embedder ? 1 : o.n_layer);
    put_int(&w, "feed_forward_length", FF);
    put_int(&w, "attention.head_count", HEADS);
    put_int(&w, "attention.head_count_kv", o.embedder ? HEADS : KV);
    const char *epsilon =
        o.embedder ? "bert.attention.layer_norm_epsilon" : "llama.attention.layer_norm_rms_epsilon";
    test_ok(nib_gguf_write_f32(w.w, epsilon, 1e-5f, &w.e), &w.e);
    if (o.embedder) {
        put_int(&w, "pooling_type", 1);
        test_ok(nib_gguf_write_i64(w.w, "bert.attention.causal", NIB_GGUF_BOOL, 0, &w.e), &w.e);
    }
    vocabulary(&w, &o);
    tensors t = {.w = &w, .rng = {o.seed, 0}};
    for (int pass = 0; pass < 2; pass++) {
        t.writing = pass;
        if (pass) test_ok(nib_gguf_begin(w.w, &w.e), &w.e);
        if (o.embedder)
            bert_tensors(&t, o.n_ctx);
        else
            llama_tensors(&t, o.n_layer);
    }
    test_ok(nib_gguf_commit(w.w, &w.e), &w.e);
    return path;
}
