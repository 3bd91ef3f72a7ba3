/* WordPiece (BERT and the embedders made from it): words at spaces, punctuation and CJK characters,
 * each cut into the longest tokens from the left; a word that cannot be cut so, or has more than
 * 100 characters, is the unknown token.
 *
 * The vocabulary tells the beginning of a word from its continuation. GGUF files mark the beginning
 * with U+2581, the published ones the continuation with "##"; both are read, and the trie holds the
 * first spelling. Source: Devlin et al. 2018, tokenization.py (BasicTokenizer, WordpieceTokenizer).
 */
#include <utf8proc.h>
#include "tokenizer/internal.h"

enum { MAX_WORD_CHARS = 100 };
#define BEGIN "\xe2\x96\x81"

typedef struct wordpiece {
    tok_trie trie;
    bool lowercase, strip_accents;
} wordpiece;

/* The piece: a space in front of s, or none, without the first 'mark' bytes. */
static size_t piece(char *out, nib_str s, bool begins, size_t mark) {
    if (begins) *out++ = ' ';
    memcpy(out, s.p + mark, s.n - mark);
    return s.n - mark + begins;
}
static size_t piece_marked(char *out, nib_str s) {
    bool begins = nib_str_starts(s, NIB_STR(BEGIN));
    return piece(out, s, begins, begins ? 3 : 0);
}
static size_t piece_hashed(char *out, nib_str s) {
    bool goes_on = nib_str_starts(s, NIB_STR("##"));
    return piece(out, s, !goes_on, goes_on ? 2 : 0);
}

static void fini(nib_tokenizer *t) {
    wordpiece *k = t->own;
    nib_tok_trie_free(&k->trie);
    nib_free(k);
}

static nib_status init(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    wordpiece *k = t->own = nib_calloc(1, sizeof *k);
    if (!k) return nib_fail_nomem(e, sizeof *k, "a tokenizer");
    t->info.cls = 101, t->info.sep = 102, t->info.unk = 100, t->info.pad = 0, t->info.mask = 103;
    t->info.add_bos = t->add_sep = t->tidy_spaces = true;
    k->lowercase = true;
    if (nib_gguf_find(g, "tokenizer.ggml.normalizer.lowercase"))
        NIB_TRY(nib_gguf_bool(g, "tokenizer.ggml.normalizer.lowercase", &k->lowercase, e));
    k->strip_accents = k->lowercase;
    if (nib_gguf_find(g, "tokenizer.ggml.normalizer.strip_accents"))
        NIB_TRY(nib_gguf_bool(g, "tokenizer.ggml.normalizer.strip_accents", &k->strip_accents, e));
    bool marked = false;
    for (int32_t id = 0; id < t->info.n_vocab && !marked; id++)
        marked = nib_str_starts(tok_text(t, id), NIB_STR(BEGIN));
    NIB_TRY(nib_tok_fill_pieces(t, marked ? piece_marked : piece_hashed, e));
    nib_buf b = {0};
    bool ok = true;
    for (int32_t id = 0; id < t->info.n_vocab && ok; id++) {
        nib_str s = tok_text(t, id);
        if (t->type[id] != NIB_TOKEN_NORMAL || !s.n) continue;
        nib_buf_clear(&b);
        if (!marked && s.n > 2 && nib_str_starts(s, NIB_STR("##")))
            s.p += 2, s.n -= 2;
        else if (!marked)
            ok = nib_buf_puts(&b, BEGIN);
        ok =
            ok && nib_buf_put(&b, s.p, s.n) && nib_tok_trie_add(&k->trie, b.data, b.len, false, id);
    }
    nib_buf_free(&b);
    return ok ? NIB_OK
              : nib_fail(e, NIB_ERR_LIMIT,
                         "tokenizer.ggml.tokens: out of memory, more than 16 MiB of text, or made "
                         "to collide");
}

static nib_status encode_word(tok_call *c, const char *p, size_t n) {
    const wordpiece *k = c->t->own;
    size_t before = c->out->len, n_chars = 0;
    for (size_t i = 3; i < n; i++) n_chars += ((uint8_t)p[i] & 0xc0) != 0x80;
    for (size_t at = 0; at < n;) {
        int32_t best = -1;
        size_t end = at;
        uint32_t node = 0;
        for (size_t i = at; n_chars <= MAX_WORD_CHARS && i < n; i++) {
            if (!(node = tok_trie_step(&k->trie, node, (uint8_t)p[i]))) break;
            if (k->trie.value[node] >= 0) best = k->trie.value[node], end = i + 1;
        }
        if (best < 0) {
            c->out->len = before;
            return nib_tok_put(c, c->t->info.unk);
        }
        NIB_TRY(nib_tok_put(c, best));
        at = end;
    }
    return NIB_OK;
}

/* The blocks BERT treats as words of one character each, with the borders its published code has.
 */
static bool is_cjk(int32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

typedef enum char_class { LETTER, ALONE, SPACE, DROPPED } char_class;

static char_class classify(const wordpiece *k, int32_t c) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') return SPACE;
    if (c == 0 || c == 0xfffd) return DROPPED;
    if (c > 32 && c < 127) {
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        return alnum ? LETTER : ALONE;
    }
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CN: return DROPPED;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return SPACE;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return ALONE;
    case UTF8PROC_CATEGORY_MN: return k->strip_accents ? DROPPED : LETTER;
    default: return is_cjk(c) ? ALONE : LETTER;
    }
}

static nib_status encode(tok_call *c, const char *p, size_t n, bool prefixed) {
    (void)prefixed;
    const wordpiece *k = c->t->own;
    size_t n_cps, len = 0, start = 0;
    NIB_TRY(nib_tok_decompose(c, p, n, k->strip_accents, &n_cps));
    const int32_t *cps = c->cps.data;
    /* Each character in UTF-8, each word with its mark in front. */
    char *text = nib_arena_alloc(&c->keep, n_cps * 7 + 4);
    if (!text) return nib_fail_nomem(c->e, n_cps * 7, "a text");
    for (size_t i = 0; i <= n_cps; i++) {
        char_class what = i < n_cps ? classify(k, cps[i]) : SPACE;
        if (what == DROPPED) continue;
        if (what != LETTER && len > start) {
            NIB_TRY(nib_tok_cached_word(c, text + start, len - start, encode_word));
            start = len;
        }
        if (what == SPACE) continue;
        if (len == start) memcpy(text + len, BEGIN, 3), len += 3;
        len += nib_utf8_encode(k->lowercase ? utf8proc_tolower(cps[i]) : cps[i], text + len);
        if (what == ALONE) {
            NIB_TRY(nib_tok_cached_word(c, text + start, len - start, encode_word));
            start = len;
        }
    }
    return NIB_OK;
}

const tok_kind nib_tok_wordpiece = {"bert", "wordpiece", init, fini, encode};
