/* Fuzzes the tokenizer. The first byte chooses: below 'G' a small vocabulary of each kind, the
 * second byte the flags, the rest is text; 'G' and above: the whole input is a GGUF file whose
 * vocabulary, if it loads, tokenises itself.
 *
 * Beyond not crashing: ids are in range, what is streamed is UTF-8 and equals the pieces, and where
 * a vocabulary has every byte the text comes back. */
#include <stdlib.h>
#include "../tokenizer/tokvocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const tv_token special[] = {
    {"<|im_end|>", 0, NIB_TOKEN_CONTROL},
    {"  ", 0, NIB_TOKEN_USER},
    {"a", -1, NIB_TOKEN_NORMAL},
    {"aa", -2, NIB_TOKEN_NORMAL},
    {"\xe2\x96\x81", -3, NIB_TOKEN_NORMAL},
    {"\xe2\x96\x81"
     "a",
     -2, NIB_TOKEN_NORMAL},
    {"\xe2\x96\x81\xe2\x96\x81", -4, NIB_TOKEN_NORMAL},
    {"\xc3\xa9", -1, NIB_TOKEN_NORMAL},
    {"<unk>", 0, NIB_TOKEN_UNKNOWN},
};
static const char *const merges[] = {"a a", "aa aa", "\xc4\xa0 a",
                                     "h e", "l l",   "\xc3\x83 \xc2\xa9"};
static const char *const families[] = {"gpt-2",        "llama-bpe", "qwen2",  "gpt-4o",
                                       "deepseek-llm", "jais-2",    "falcon", "bloom"};
enum { N_FAMILIES = NIB_ARRAY_LEN(families), SPM = N_FAMILIES, WORDPIECE, N_KINDS };

static nib_tokenizer *make(int kind) {
    tokvocab v = {0};
    if (kind < N_FAMILIES) {
        tv_byte_level(&v, merges, NIB_ARRAY_LEN(merges), special, 2);
        tv_str(&v, "tokenizer.ggml.pre", families[kind]);
    } else {
        tv_str(&v, "tokenizer.ggml.model", kind == SPM ? "llama" : "bert");
        tv_tokens(&v, special, NIB_ARRAY_LEN(special), kind == SPM);
    }
    nib_buf f = tv_file(&v);
    nib_tokenizer *t = NULL;
    nib_error e;
    CHECK(tv_load(&t, f.data, f.len, &e) == NIB_OK);
    nib_buf_free(&f);
    return t;
}

static void exercise(const nib_tokenizer *t, const char *p, size_t n, unsigned flags,
                     bool lossless) {
    nib_error e;
    nib_ids ids = {0};
    nib_buf pieces = {0}, streamed = {0}, whole = {0}, want = {0};
    CHECK(nib_tokenize(t, p, n, flags, &ids, &e) == NIB_OK);
    nib_detok d = {0};
    for (size_t i = 0; i < ids.len; i++) {
        CHECK(ids.data[i] >= 0 && ids.data[i] < nib_tokenizer_get_info(t)->n_vocab);
        nib_str s = nib_token_piece(t, ids.data[i], true);
        nib_buf_put(&pieces, s.p, s.n);
        size_t before = streamed.len;
        CHECK(nib_detok_put(&d, t, ids.data[i], true, &streamed) == NIB_OK);
        if (streamed.len > before)
            CHECK(nib_utf8_valid(streamed.data + before, streamed.len - before));
    }
    CHECK(nib_detok_flush(&d, &streamed) == NIB_OK);
    CHECK(nib_detokenize(t, ids.data, ids.len, flags & 1, &whole, &e) == NIB_OK);
    nib_buf_put(&pieces, "", 0);
    for (size_t i = 0; i < pieces.len;) {
        int32_t cp;
        size_t k = nib_utf8_decode(pieces.data + i, pieces.len - i, &cp);
        if (cp < 0)
            nib_buf_puts(&want, "\xef\xbf\xbd");
        else
            nib_buf_put(&want, pieces.data + i, k);
        i += k;
    }
    CHECK(want.len == streamed.len &&
          (!want.len || memcmp(want.data, streamed.data, want.len) == 0));
    if (lossless) CHECK(pieces.len == n && memcmp(pieces.data, p, n) == 0);
    nib_ids_free(&ids);
    nib_buf_free(&pieces);
    nib_buf_free(&streamed);
    nib_buf_free(&whole);
    nib_buf_free(&want);
}

static void mutated_file(const uint8_t *data, size_t size) {
    void *copy = nib_alloc(size); /* aligned, as the reader wants it */
    nib_error e = {0};
    nib_tokenizer *t = NULL;
    if (!copy) return;
    memcpy(copy, data, size);
    if (tv_load(&t, copy, size, &e) == NIB_OK) {
        exercise(t, (const char *)data, NIB_MIN(size, (size_t)2000),
                 NIB_TOK_SPECIAL | NIB_TOK_PARSE, false);
        exercise(t, "a aa <|im_end|>  \xc3\xa9", 18, NIB_TOK_SPECIAL, false);
        nib_tokenizer_free(t);
    } else {
        CHECK(e.message[0]);
    }
    nib_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static nib_tokenizer *kinds[N_KINDS]; /* made once, never freed: still reachable */
    if (size < 2) return 0;
    if (data[0] >= 'G') {
        mutated_file(data, size);
        return 0;
    }
    int kind = data[0] % N_KINDS;
    if (!kinds[kind]) kinds[kind] = make(kind);
    const char *text = (const char *)data + 2;
    unsigned flags = data[1] & 7;
    size_t n = size - 2;
    bool repaired = kind == WORDPIECE || (kind != SPM && !nib_utf8_valid(text, n)) ||
                    kind == 2; /* qwen2: NFC */
    bool framed = flags & NIB_TOK_SPECIAL || (kind == SPM && !(flags & NIB_TOK_NO_PREFIX));
    /* SentencePiece puts spaces behind special tokens and cannot tell U+2581 from a space. */
    for (size_t i = 0; kind == SPM && i + 1 < n; i++)
        framed |= memcmp(text + i, "  ", 2) == 0 || text[i] == '<' || text[i] == '\xe2';
    exercise(kinds[kind], text, n, flags, !repaired && !framed);
    return 0;
}
