/* Small vocabularies as GGUF files in memory, for the tokenizer's tests and fuzz target. The bytes
 * are laid out here and not by the writer, so that a test may also write what no writer would. */
#ifndef TOKVOCAB_H
#define TOKVOCAB_H
#include "tokenizer/tokenizer.h"

typedef struct tokvocab {
    nib_buf b; /* the keys so far */
    uint64_t n_kv;
} tokvocab;

static inline void tv_u32(nib_buf *b, uint32_t v) {
    nib_buf_put(b, &v, 4);
}
static inline void tv_u64(nib_buf *b, uint64_t v) {
    nib_buf_put(b, &v, 8);
}
static inline void tv_text(nib_buf *b, nib_str s) {
    tv_u64(b, s.n);
    nib_buf_put(b, s.p, s.n);
}
static inline void tv_key(tokvocab *v, const char *key, nib_gguf_type type) {
    tv_text(&v->b, nib_str_c(key));
    tv_u32(&v->b, type);
    v->n_kv++;
}
static inline void tv_str(tokvocab *v, const char *key, const char *value) {
    tv_key(v, key, NIB_GGUF_STR);
    tv_text(&v->b, nib_str_c(value));
}
static inline void tv_id(tokvocab *v, const char *key, uint32_t value) {
    tv_key(v, key, NIB_GGUF_U32);
    tv_u32(&v->b, value);
}
static inline void tv_bool(tokvocab *v, const char *key, bool value) {
    tv_key(v, key, NIB_GGUF_BOOL);
    nib_buf_putc(&v->b, value);
}
static inline void tv_array(tokvocab *v, const char *key, nib_gguf_type of, size_t n) {
    tv_key(v, key, NIB_GGUF_ARR);
    tv_u32(&v->b, of);
    tv_u64(&v->b, n);
}
static inline void tv_strings(tokvocab *v, const char *key, const nib_str *s, size_t n) {
    tv_array(v, key, NIB_GGUF_STR, n);
    for (size_t i = 0; i < n; i++) tv_text(&v->b, s[i]);
}
static inline void tv_floats(tokvocab *v, const char *key, const float *f, size_t n) {
    tv_array(v, key, NIB_GGUF_F32, n);
    nib_buf_put(&v->b, f, n * sizeof *f);
}
static inline void tv_ints(tokvocab *v, const char *key, const int32_t *x, size_t n) {
    tv_array(v, key, NIB_GGUF_I32, n);
    nib_buf_put(&v->b, x, n * sizeof *x);
}

/* The file: v's keys behind a header. Frees v. */
static inline nib_buf tv_file(tokvocab *v) {
    nib_buf f = {0};
    nib_buf_put(&f, "GGUF\3\0\0\0", 8);
    tv_u64(&f, 0);
    tv_u64(&f, v->n_kv);
    nib_buf_put(&f, v->b.data, v->b.len);
    nib_buf_free(&v->b);
    v->n_kv = 0;
    return f;
}

static inline nib_status tv_load(nib_tokenizer **out, const void *p, size_t n, nib_error *e) {
    nib_gguf *g;
    NIB_TRY(nib_gguf_open_memory(&g, p, n, e));
    nib_status s = nib_tokenizer_from_gguf(out, g, e);
    nib_gguf_close(g);
    return s;
}

/* One entry a row: text, score, type. */
typedef struct tv_token {
    const char *text;
    float score;
    int32_t type;
} tv_token;

/* tokens, scores and types of rows[0..n), and before them the 256 byte tokens "<0x00>".. when
 * 'bytes'. */
static inline void tv_tokens(tokvocab *v, const tv_token *rows, size_t n, bool bytes) {
    static char spelled[256][7];
    nib_str text[1024];
    float score[1024];
    int32_t type[1024];
    size_t k = 0;
    for (int i = 0; bytes && i < 256; i++, k++) {
        snprintf(spelled[i], sizeof spelled[i], "<0x%02X>", (unsigned)i);
        text[k] = nib_str_c(spelled[i]), score[k] = 0, type[k] = NIB_TOKEN_BYTE;
    }
    for (size_t i = 0; i < n && k < 1024; i++, k++)
        text[k] = nib_str_c(rows[i].text), score[k] = rows[i].score, type[k] = rows[i].type;
    tv_strings(v, "tokenizer.ggml.tokens", text, k);
    tv_floats(v, "tokenizer.ggml.scores", score, k);
    tv_ints(v, "tokenizer.ggml.token_type", type, k);
}

/* The character that spells byte b in byte-level BPE. */
static inline const char *tv_spell(int b) {
    static char out[256][4];
    if (!out[0][0]) {
        for (int i = 0, next = 256; i < 256; i++) {
            bool itself = (i > 32 && i < 127) || (i > 160 && i != 173);
            char c[4];
            size_t n = nib_utf8_encode(itself ? i : next++, c);
            memcpy(out[i], c, n);
        }
    }
    return out[b & 255];
}

/* A byte-level vocabulary: the 256 bytes in order, then rows of "left right" merges in the alphabet
 * (with 'Ġ' for a space), whose joins become tokens, then control and user-defined tokens. */
static inline void tv_byte_level(tokvocab *v, const char *const *merges, size_t n_merges,
                                 const tv_token *rows, size_t n) {
    static char join[256][64];
    nib_str text[1024], merge[256];
    int32_t type[1024];
    size_t k = 0;
    for (; k < 256; k++) text[k] = nib_str_c(tv_spell((int)k)), type[k] = NIB_TOKEN_NORMAL;
    for (size_t i = 0; i < n_merges && i < 256; i++) {
        merge[i] = nib_str_c(merges[i]);
        size_t left = strcspn(merges[i], " ");
        snprintf(join[i], sizeof join[i], "%.*s%s", (int)left, merges[i], merges[i] + left + 1);
        bool known = false;
        for (size_t j = 256; j < k; j++) known |= nib_str_eq_c(text[j], join[i]);
        if (!known) text[k] = nib_str_c(join[i]), type[k++] = NIB_TOKEN_NORMAL;
    }
    for (size_t i = 0; i < n && k < 1024; i++, k++)
        text[k] = nib_str_c(rows[i].text), type[k] = rows[i].type;
    tv_str(v, "tokenizer.ggml.model", "gpt2");
    tv_strings(v, "tokenizer.ggml.tokens", text, k);
    tv_ints(v, "tokenizer.ggml.token_type", type, k);
    tv_strings(v, "tokenizer.ggml.merges", merge, n_merges);
}
#endif
