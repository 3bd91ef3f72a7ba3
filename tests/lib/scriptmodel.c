#include "scriptmodel.h"
#include <stdlib.h>
#include "formats/formats.h"

/* Embeddings are one-hot, attention and feed-forward add nothing, so the output matrix is the
 * table. */
enum {
    WIDTH = 512,
    HEADS = 16,
    FIRST_BYTE = 3,
    IM_START = 259,
    IM_END = 260,
    FIRST_CHAR = 261,
    FIRST_OWN = FIRST_CHAR + 95
};

typedef struct script {
    nib_gguf_writer *w;
    nib_error e;
    char text[WIDTH][48];
    int32_t type[WIDTH];
    int n;
} script;

/* The vocabulary spells a space as U+2581. */
static void spell(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (; *text && n + 4 < size; text++) {
        if (*text == ' ') {
            memcpy(out + n, "\xe2\x96\x81", 3);
            n += 3;
        } else {
            out[n++] = *text;
        }
    }
    out[n] = 0;
}

static int token(script *s, const char *text) {
    char want[48];
    bool control = text[0] == '+' && text[1];
    spell(text + control, want, sizeof want);
    unsigned char c = (unsigned char)text[0];
    if (!text[1] && (c < ' ' || c >= 0x7f)) return FIRST_BYTE + c;
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->text[i], want) == 0) return i;
    if (s->n == WIDTH) fail_msg("the script has too many tokens");
    strcpy(s->text[s->n], want);
    s->type[s->n] = control ? 3 : 1;
    return s->n++;
}

static void start_vocabulary(script *s) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    for (int i = 0; i < 3; i++) strcpy(s->text[i], special[i]), s->type[i] = i ? 3 : 2;
    for (int i = 0; i < 256; i++)
        snprintf(s->text[FIRST_BYTE + i], 16, "<0x%02X>", (unsigned)i), s->type[FIRST_BYTE + i] = 6;
    strcpy(s->text[IM_START], "<|im_start|>"), s->type[IM_START] = 3;
    strcpy(s->text[IM_END], "<|im_end|>"), s->type[IM_END] = 3;
    for (int i = 0; i < 95; i++) {
        char one[2] = {(char)(' ' + i), 0};
        spell(one, s->text[FIRST_CHAR + i], 8);
        s->type[FIRST_CHAR + i] = 1;
    }
    s->n = FIRST_OWN;
}

static void put_vocabulary(script *s) {
    static float scores[WIDTH];
    static nib_str tokens[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        if (i >= s->n) snprintf(s->text[i], 16, "<unused%d>", i), s->type[i] = 5;
        tokens[i] = nib_str_c(s->text[i]);
        scores[i] = -(float)i;
    }
    const struct {
        const char *key;
        nib_gguf_type type;
        const void *data;
        const nib_str *strings;
    } arrays[] = {{"tokenizer.ggml.tokens", NIB_GGUF_STR, NULL, tokens},
                  {"tokenizer.ggml.scores", NIB_GGUF_F32, scores, NULL},
                  {"tokenizer.ggml.token_type", NIB_GGUF_I32, s->type, NULL}};
    test_ok(nib_gguf_write_str(s->w, "tokenizer.ggml.model", NIB_STR("llama"), &s->e), &s->e);
    for (size_t i = 0; i < NIB_ARRAY_LEN(arrays); i++) {
        nib_gguf_kv kv = {.key = nib_str_c(arrays[i].key),
                          .type = NIB_GGUF_ARR,
                          .arr_type = arrays[i].type,
                          .arr_n = WIDTH,
                          .arr_data = arrays[i].data,
                          .arr_str = arrays[i].strings};
        test_ok(nib_gguf_write_kv(s->w, &kv, &s->e), &s->e);
    }
}

static void number(script *s, const char *key, int64_t v) {
    test_ok(nib_gguf_write_i64(s->w, key, NIB_GGUF_U32, v, &s->e), &s->e);
}

const char *test_script_model(const char *name, const char *chat_template, int64_t n_ctx,
                              const test_line *lines) {
    static char ring[8][512];
    static int at;
    static script s;
    char *path = ring[at++ & 7];
    s = (script){0};
    snprintf(path, sizeof ring[0], "%s/%s", test_tmp(), name);
    start_vocabulary(&s);
    float *table = nib_calloc((size_t)WIDTH * WIDTH, sizeof *table),
          *one_hot = nib_calloc((size_t)WIDTH * WIDTH, sizeof *one_hot),
          *zero = nib_calloc((size_t)WIDTH * WIDTH, sizeof *zero), ones[WIDTH];
    bool *has = nib_calloc(WIDTH, sizeof *has);
    assert_true(table && one_hot && zero && has);
    for (const test_line *l = lines; l->from; l++) {
        int from = token(&s, l->from), to = token(&s, l->to);
        table[(size_t)to * WIDTH + (size_t)from] = l->weight;
        has[from] = true;
    }
    for (int i = 0; i < WIDTH; i++) {
        one_hot[(size_t)i * WIDTH + (size_t)i] = 1;
        ones[i] = 1;
        if (!has[i]) table[(size_t)2 * WIDTH + (size_t)i] = 1;
    }
    test_ok(nib_gguf_writer_new(&s.w, path, &s.e), &s.e);
    test_ok(nib_gguf_write_str(s.w, "general.architecture", NIB_STR("llama"), &s.e), &s.e);
    test_ok(nib_gguf_write_str(s.w, "general.name", nib_str_c(name), &s.e), &s.e);
    number(&s, "llama.context_length", n_ctx);
    number(&s, "llama.embedding_length", WIDTH);
    number(&s, "llama.block_count", 1);
    number(&s, "llama.feed_forward_length", WIDTH);
    number(&s, "llama.attention.head_count", HEADS);
    number(&s, "llama.attention.head_count_kv", 1);
    test_ok(nib_gguf_write_f32(s.w, "llama.attention.layer_norm_rms_epsilon", 1e-5f, &s.e), &s.e);
    put_vocabulary(&s);
    number(&s, "tokenizer.ggml.unknown_token_id", 0);
    number(&s, "tokenizer.ggml.bos_token_id", 1);
    number(&s, "tokenizer.ggml.eos_token_id", 2);
    if (chat_template)
        test_ok(nib_gguf_write_str(s.w, "tokenizer.chat_template", nib_str_c(chat_template), &s.e),
                &s.e);
    const struct {
        const char *name;
        int64_t rows;
        const float *data;
    } tensors[] = {{"token_embd.weight", WIDTH, one_hot},
                   {"output.weight", WIDTH, table},
                   {"output_norm.weight", 0, ones},
                   {"blk.0.attn_norm.weight", 0, ones},
                   {"blk.0.ffn_norm.weight", 0, ones},
                   {"blk.0.attn_q.weight", WIDTH, zero},
                   {"blk.0.attn_k.weight", WIDTH / HEADS, zero},
                   {"blk.0.attn_v.weight", WIDTH / HEADS, zero},
                   {"blk.0.attn_output.weight", WIDTH, zero},
                   {"blk.0.ffn_gate.weight", WIDTH, zero},
                   {"blk.0.ffn_up.weight", WIDTH, zero},
                   {"blk.0.ffn_down.weight", WIDTH, zero}};
    for (int pass = 0; pass < 2; pass++) {
        if (pass) test_ok(nib_gguf_begin(s.w, &s.e), &s.e);
        for (size_t i = 0; i < NIB_ARRAY_LEN(tensors); i++) {
            int64_t rows = tensors[i].rows, n = NIB_MAX(rows, 1) * WIDTH;
            nib_tensor t = {.name = tensors[i].name,
                            .dtype = NIB_F32,
                            .n_dims = rows ? 2 : 1,
                            .ne = {WIDTH, NIB_MAX(rows, 1), 1, 1},
                            .bytes = (uint64_t)n * sizeof(float)};
            if (pass)
                test_ok(nib_gguf_write_data(s.w, tensors[i].data, t.bytes, &s.e), &s.e);
            else
                test_ok(nib_gguf_declare(s.w, &t, &s.e), &s.e);
        }
    }
    test_ok(nib_gguf_commit(s.w, &s.e), &s.e);
    nib_free(table);
    nib_free(one_hot);
    nib_free(zero);
    nib_free(has);
    return path;
}
