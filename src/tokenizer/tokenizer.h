/* tokenizer - text to token ids and back, as the model was trained.
 *
 * One kind per row of kinds.def (SentencePiece-style BPE, byte-level BPE, WordPiece), one
 * pre-splitter per row of presplit.def. A tokenizer is immutable once made and may be used by any
 * number of threads. Time is linear in the text (n log n at worst), whatever the text. */
#ifndef NIB_TOKENIZER_H
#define NIB_TOKENIZER_H
#include "base/base.h"
#include "formats/formats.h"

typedef struct nib_tokenizer nib_tokenizer;

/* Copies what it needs: g may be closed afterwards. Bounds and types of every key it reads are
 * checked: NIB_ERR_FORMAT names the key and what is wrong. An unknown tokenizer.ggml.model is
 * NIB_ERR_UNSUPPORTED; an unknown tokenizer.ggml.pre is logged and splits like GPT-2. */
nib_status nib_tokenizer_from_gguf(nib_tokenizer **out, const nib_gguf *g, nib_error *e);
void nib_tokenizer_free(nib_tokenizer *t);

typedef enum nib_token_type { /* values as in GGUF */
                              NIB_TOKEN_NORMAL = 1,
                              NIB_TOKEN_UNKNOWN = 2,
                              NIB_TOKEN_CONTROL = 3,
                              NIB_TOKEN_USER = 4,
                              NIB_TOKEN_UNUSED = 5,
                              NIB_TOKEN_BYTE = 6
} nib_token_type;

typedef struct nib_tokenizer_info {
    const char *kind, *pre; /* "spm", "bpe", "wordpiece"; pre-splitter name or "" */
    int32_t n_vocab;
    int32_t bos, eos, eot, unk, sep, pad, cls, mask; /* -1 when the model has none */
    bool add_bos, add_eos;
    const char *chat_template; /* NULL when the model has none; owned by the tokenizer */
} nib_tokenizer_info;
const nib_tokenizer_info *nib_tokenizer_get_info(const nib_tokenizer *t);

enum {
    NIB_TOK_SPECIAL = 1, /* add BOS/EOS (CLS/SEP) as the model wants */
    NIB_TOK_PARSE = 2, /* control tokens spelled in the text become those tokens: for template text,
                          never users' */
    NIB_TOK_NO_PREFIX =
        4 /* the text continues earlier text: no space put in front (SentencePiece) */
};
/* Appends the ids of text[0..n) to out. Any bytes are accepted: those that are not UTF-8 become
 * byte tokens where the kind has them (SentencePiece), else U+FFFD. At most 1 GiB. */
nib_status nib_tokenize(const nib_tokenizer *t, const char *text, size_t n, unsigned flags,
                        nib_ids *out, nib_error *e);

/* The same for a text of which only parts may be parsed: control tokens are found inside runs with
 * 'parse' only, and the text between them is tokenised as one, across the borders of runs. The runs
 * cover text in order. */
typedef struct nib_tok_run {
    size_t len;
    bool parse;
} nib_tok_run;
nib_status nib_tokenize_runs(const nib_tokenizer *t, const char *text, const nib_tok_run *runs,
                             size_t n_runs, unsigned flags, nib_ids *out, nib_error *e);

/* The bytes a token stands for in running text (not NUL-terminated; empty for control tokens unless
 * 'special'). id out of range: empty. Owned by the tokenizer. */
nib_str nib_token_piece(const nib_tokenizer *t, int32_t id, bool special);
nib_str nib_token_text(const nib_tokenizer *t, int32_t id); /* as the vocabulary spells it */
nib_token_type nib_token_get_type(const nib_tokenizer *t, int32_t id);
/* Ends a generation: EOS, EOT, EOM and what templates use as end of turn (ends.def). */
bool nib_token_is_eog(const nib_tokenizer *t, int32_t id);
/* The id of a token spelled exactly so, or -1. */
int32_t nib_token_find(const nib_tokenizer *t, nib_str text);

/* Whole text at once, with the model family's clean-up of spaces, as llama_detokenize does it.
 * Bytes are given back as they are, valid UTF-8 or not. special: keep control tokens as text; else
 * leave out those and the BOS and EOS that NIB_TOK_SPECIAL adds. */
nib_status nib_detokenize(const nib_tokenizer *t, const int32_t *ids, size_t n, bool special,
                          nib_buf *out, nib_error *e);

/* A stream: feed ids, take text that ends on character boundaries. What is held back comes with the
 * next ids or with flush. Invalid bytes come out as U+FFFD. Nothing is tidied, since what was shown
 * cannot be taken back. Zero-initialise; at_start = true drops the leading space that SentencePiece
 * puts before the first word. On failure (out is full) the id is partly written. */
typedef struct nib_detok {
    char held[8];
    unsigned n_held;
    bool at_start;
} nib_detok;
nib_status nib_detok_put(nib_detok *d, const nib_tokenizer *t, int32_t id, bool special,
                         nib_buf *out);
nib_status nib_detok_flush(nib_detok *d, nib_buf *out);
#endif
