#include "tinymodel.h"
#include <math.h>

enum { HEAD = 32, FIRST_BYTE = 3, FIRST_PIECE = TEST_TINY_IM_END + 1 };

const char test_chatml[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

typedef struct writer {
    nib_gguf_writer *w;
    nib_error e;
    const char *arch;
    nib_dtype dtype;
    nib_rng rng;
    bool writing; /* the first pass over the tensors declares them, the second writes them */
} writer;

static void put_i64(writer *x, const char *key, int64_t v) {
    test_ok(nib_gguf_write_i64(x->w, key, NIB_GGUF_U32, v, &x->e), &x->e);
}
static void put_str(writer *x, const char *key, const char *v) {
    test_ok(nib_gguf_write_str(x->w, key, nib_str_c(v), &x->e), &x->e);
}
static void put_size(writer *x, const char *key, int64_t v) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", x->arch, key);
    put_i64(x, name, v);
}
static void put_array(writer *x, const char *key, nib_gguf_type type, const void *data,
                      const nib_str *strings) {
    nib_gguf_kv kv = {.key = nib_str_c(key),
                      .type = NIB_GGUF_ARR,
                      .arr_type = type,
                      .arr_n = TEST_TINY_VOCAB,
                      .arr_data = data,
                      .arr_str = strings};
    test_ok(nib_gguf_write_kv(x->w, &kv, &x->e), &x->e);
}

static void put_vocabulary(writer *x, const test_tiny *o) {
#define SPACE "\342\226\201"
    static const char *const words[] = {SPACE,        SPACE "the",  SPACE "a",     SPACE "once",
                                        SPACE "upon", SPACE "time", SPACE "was",   SPACE "little",
                                        SPACE "t",    SPACE "th",   SPACE "w",     "th",
                                        "he",         "on",         "ing",         "ed",
                                        "me",         "\303\251",   "\342\202\254"};
#undef SPACE
    static char text[TEST_TINY_VOCAB][16];
    static nib_str tokens[TEST_TINY_VOCAB];
    static float scores[TEST_TINY_VOCAB];
    static int32_t types[TEST_TINY_VOCAB];
    for (int i = 0; i < TEST_TINY_VOCAB; i++) {
        int at = i - FIRST_PIECE, word = at - ('~' - '!' + 1);
        types[i] = 1;
        scores[i] = word >= 0 ? -(float)(1 + word) : -100 - (float)i; /* words win over letters */
        if (i < FIRST_PIECE)
            snprintf(text[i], 16, "<0x%02X>", (unsigned)(i - FIRST_BYTE) & 255), types[i] = 6;
        else if (word < 0)
            snprintf(text[i], 16, "%c", '!' + at);
        else if (word < (int)NIB_ARRAY_LEN(words))
            snprintf(text[i], 16, "%s", words[word]);
        else
            snprintf(text[i], 16, "<unused%d>", i), types[i] = 5;
    }
    static const char *const special[][2] = {
        {"<unk>", "[UNK]"}, {"<s>", "[CLS]"}, {"</s>", "[SEP]"}};
    for (int i = 0; i < 3; i++) strcpy(text[i], special[i][o->embedder]), types[i] = i ? 3 : 2;
    strcpy(text[TEST_TINY_IM_START], "<|im_start|>"), types[TEST_TINY_IM_START] = 3;
    strcpy(text[TEST_TINY_IM_END], "<|im_end|>"), types[TEST_TINY_IM_END] = 3;
    for (int i = 0; i < TEST_TINY_VOCAB; i++) tokens[i] = nib_str_c(text[i]);
    put_str(x, "tokenizer.ggml.model", o->embedder ? "bert" : "llama");
    put_array(x, "tokenizer.ggml.tokens", NIB_GGUF_STR, NULL, tokens);
    put_array(x, "tokenizer.ggml.scores", NIB_GGUF_F32, scores, NULL);
    put_array(x, "tokenizer.ggml.token_type", NIB_GGUF_I32, types, NULL);
    put_i64(x, "tokenizer.ggml.unknown_token_id", 0);
    put_i64(x, "tokenizer.ggml.bos_token_id", 1);
    put_i64(x, "tokenizer.ggml.eos_token_id", 2);
    if (o->chat_template) put_str(x, "tokenizer.chat_template", o->chat_template);
}

/* rows 0: a vector, written in F32. */
static void tensor(writer *x, const char *name, int64_t rows, int64_t columns, float mean,
                   float deviation) {
    nib_dtype type = rows ? x->dtype : NIB_F32;
    int64_t n = columns * NIB_MAX(rows, 1);
    nib_tensor t = {.name = name,
                    .dtype = type,
                    .n_dims = rows ? 2 : 1,
                    .ne = {columns, NIB_MAX(rows, 1), 1, 1},
                    .bytes = nib_dtype_bytes(type, n)};
    if (!x->writing) {
        test_ok(nib_gguf_declare(x->w, &t, &x->e), &x->e);
        return;
    }
    float *v = nib_alloc((size_t)n * sizeof *v);
    void *blocks = nib_alloc(t.bytes);
    assert_true(v && blocks);
    for (int64_t i = 0; i < n; i++) v[i] = mean + deviation * nib_rng_normal(&x->rng);
    nib_dtype_get(type)->from_f32(v, blocks, n, NULL);
    test_ok(nib_gguf_write_data(x->w, blocks, t.bytes, &x->e), &x->e);
    nib_free(blocks);
    nib_free(v);
}
static void NIB_PRINTF(6, 7) part(writer *x, int64_t rows, int64_t columns, float mean,
                                  float deviation, const char *fmt, ...) {
    char name[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    tensor(x, name, rows, columns, mean, deviation);
}

static void put_llama(writer *x, int n_layer, int64_t e) {
    int64_t kv = e / 2, f = 2 * e;
    float wide = 1 / sqrtf((float)e), ff = 1 / sqrtf((float)f);
    tensor(x, "token_embd.weight", TEST_TINY_VOCAB, e, 0, 1);
    for (int i = 0; i < n_layer; i++) {
        part(x, 0, e, 1, 0.1f, "blk.%d.attn_norm.weight", i);
        part(x, e, e, 0, wide, "blk.%d.attn_q.weight", i);
        part(x, kv, e, 0, wide, "blk.%d.attn_k.weight", i);
        part(x, kv, e, 0, wide, "blk.%d.attn_v.weight", i);
        part(x, e, e, 0, wide, "blk.%d.attn_output.weight", i);
        part(x, 0, e, 1, 0.1f, "blk.%d.ffn_norm.weight", i);
        part(x, f, e, 0, wide, "blk.%d.ffn_gate.weight", i);
        part(x, f, e, 0, wide, "blk.%d.ffn_up.weight", i);
        part(x, e, f, 0, ff, "blk.%d.ffn_down.weight", i);
    }
    tensor(x, "output_norm.weight", 0, e, 1, 0.1f);
    tensor(x, "output.weight", TEST_TINY_VOCAB, e, 0, 3 * wide);
}

static void put_bert(writer *x, int64_t n_ctx, int64_t e) {
    static const char *const linears[] = {"attn_q", "attn_k", "attn_v", "attn_output"};
    static const char *const norms[] = {"attn_output_norm", "layer_output_norm"};
    int64_t f = 2 * e;
    float wide = 1 / sqrtf((float)e), ff = 1 / sqrtf((float)f);
    tensor(x, "token_embd.weight", TEST_TINY_VOCAB, e, 0, 1);
    tensor(x, "position_embd.weight", n_ctx, e, 0, 0.5f);
    tensor(x, "token_types.weight", 2, e, 0, 0.5f);
    tensor(x, "token_embd_norm.weight", 0, e, 1, 0.1f);
    tensor(x, "token_embd_norm.bias", 0, e, 0, 0.1f);
    for (size_t i = 0; i < NIB_ARRAY_LEN(linears); i++) {
        part(x, e, e, 0, wide, "blk.0.%s.weight", linears[i]);
        part(x, 0, e, 0, 0.1f, "blk.0.%s.bias", linears[i]);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(norms); i++) {
        part(x, 0, e, 1, 0.1f, "blk.0.%s.weight", norms[i]);
        part(x, 0, e, 0, 0.1f, "blk.0.%s.bias", norms[i]);
    }
    tensor(x, "blk.0.ffn_up.weight", f, e, 0, wide);
    tensor(x, "blk.0.ffn_up.bias", 0, f, 0, 0.1f);
    tensor(x, "blk.0.ffn_down.weight", e, f, 0, ff);
    tensor(x, "blk.0.ffn_down.bias", 0, e, 0, 0.1f);
}

const char *test_tiny_model(const char *name, const test_tiny *options) {
    static char ring[8][512];
    static int at;
    char *path = ring[at++ & 7];
    test_tiny o = options ? *options : (test_tiny){0};
    if (!o.arch) o.arch = o.embedder ? "bert" : "llama";
    if (!o.n_ctx) o.n_ctx = 512;
    if (!o.n_layer || o.embedder) o.n_layer = o.embedder ? 1 : 2;
    if (!o.n_embd) o.n_embd = 64;
    snprintf(path, sizeof ring[0], "%s/%s", test_tmp(), name);
    writer x = {.arch = o.arch, .dtype = o.dtype, .rng = {o.seed, 0}};
    test_ok(nib_gguf_writer_new(&x.w, path, &x.e), &x.e);
    put_str(&x, "general.architecture", o.arch);
    if (!o.name) o.name = o.embedder ? "tiny embedder" : "tiny model";
    put_str(&x, "general.name", o.name);
    put_size(&x, "context_length", o.n_ctx);
    put_size(&x, "embedding_length", o.n_embd);
    put_size(&x, "block_count", o.n_layer);
    put_size(&x, "feed_forward_length", 2 * o.n_embd);
    put_size(&x, "attention.head_count", o.n_embd / HEAD);
    put_size(&x, "attention.head_count_kv", o.n_embd / HEAD / (o.embedder ? 1 : 2));
    char key[96];
    snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", o.arch,
             o.embedder ? "" : "rms_");
    test_ok(nib_gguf_write_f32(x.w, key, 1e-5f, &x.e), &x.e);
    if (o.embedder) {
        put_size(&x, "pooling_type", 1);
        test_ok(nib_gguf_write_i64(x.w, "bert.attention.causal", NIB_GGUF_BOOL, 0, &x.e), &x.e);
    }
    put_vocabulary(&x, &o);
    for (int pass = 0; pass < 2; pass++) {
        x.writing = pass;
        if (pass) test_ok(nib_gguf_begin(x.w, &x.e), &x.e);
        if (o.embedder)
            put_bert(&x, o.n_ctx, o.n_embd);
        else
            put_llama(&x, o.n_layer, o.n_embd);
    }
    test_ok(nib_gguf_commit(x.w, &x.e), &x.e);
    return path;
}
