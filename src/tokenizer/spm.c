/* SentencePiece's BPE (Llama 1 and 2, Mistral, Gemma, Phi-3): neighbours merge when their join is a
 * token, the best score first; characters without a token fall back to byte tokens. Spaces are
 * spelled U+2581, and one is put in front of a text and behind every special token, where the model
 * wants it.
 *
 * The whole text is one word to SentencePiece. It may still be cut, exactly, wherever two
 * neighbouring characters stand together in no token: no merge can ever span that place. In
 * ordinary vocabularies that is every border of a word, so the pieces are short and repeat. The set
 * of pairs is a bit map indexed by a hash; a false hit only means a longer piece. Source: Kudo,
 * Richardson 2018; ggml's docs/gguf.md for the keys. */
#include "tokenizer/internal.h"

enum { PAIR_BITS = 1 << 20 };

typedef struct spm {
    uint32_t *rank; /* of an id: its place in the order of scores, 0 first; equal scores share it */
    size_t longest; /* bytes of the longest token: longer joins need no look-up */
    uint8_t *together; /* pairs of characters that stand together in some token */
} spm;

static size_t piece_of(char *out, nib_str text) {
    size_t len = 0;
    for (size_t i = 0; i < text.n;) {
        bool space = i + 3 <= text.n && memcmp(text.p + i, "\xe2\x96\x81", 3) == 0;
        out[len++] = space ? ' ' : text.p[i];
        i += space ? 3 : 1;
    }
    return len;
}

/* Invalid bytes count as characters of their own. */
static size_t next_char(const char *p, size_t n, uint32_t *unit) {
    int32_t cp;
    size_t len = nib_utf8_decode(p, n, &cp);
    *unit = cp >= 0 ? (uint32_t)cp : 0x110000u + (uint8_t)p[0];
    return len;
}

static uint32_t pair_bit(uint32_t a, uint32_t b) {
    return ((a * 0x9e3779b1u) ^ (b * 0x85ebca6bu + (b >> 7))) >> 12 & (PAIR_BITS - 1);
}

static nib_status load_scores(nib_tokenizer *t, spm *k, const nib_gguf *g, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(nib_gguf_arr(g, "tokenizer.ggml.scores", false, &kv, e));
    if (kv->arr_n != t->info.n_vocab)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tokenizer.ggml.scores has %lld entries, the vocabulary %d",
                        (long long)kv->arr_n, t->info.n_vocab);
    k->rank = nib_alloc((size_t)kv->arr_n * sizeof *k->rank);
    if (!k->rank) return nib_fail_nomem(e, (size_t)kv->arr_n * sizeof *k->rank, "the scores");
    for (int64_t i = 0; i < kv->arr_n; i++) {
        float score = (float)nib_gguf_arr_f64(kv, i);
        if (score != score)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "tokenizer.ggml.scores of entry %lld is not a number", (long long)i);
        /* The bits of a float order like an integer once negative ones are turned over; then higher
         * first. */
        uint32_t u = nib_f32_bits(score + 0.0f);
        k->rank[i] = ~(u & 0x80000000u ? ~u : u | 0x80000000u);
    }
    return NIB_OK;
}

static void fini(nib_tokenizer *t) {
    spm *k = t->own;
    nib_free(k->rank);
    nib_free(k->together);
    nib_free(k);
}

static nib_status init(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    spm *k = t->own = nib_calloc(1, sizeof *k);
    if (!k || !(k->together = nib_calloc(PAIR_BITS / 8, 1)))
        return nib_fail_nomem(e, PAIR_BITS / 8, "a tokenizer");
    t->info.bos = 1, t->info.eos = 2, t->info.unk = 0;
    t->info.add_bos = t->add_prefix = true;
    NIB_TRY(nib_tok_fill_pieces(t, piece_of, e));
    NIB_TRY(load_scores(t, k, g, e));
    for (int32_t id = 0; id < t->info.n_vocab; id++) {
        nib_str s = tok_text(t, id);
        if (tok_find_plain(t, s.p, s.n) != id) continue;
        k->longest = NIB_MAX(k->longest, s.n);
        uint32_t a = 0, b;
        for (size_t i = 0; i < s.n; a = b) {
            size_t len = next_char(s.p + i, s.n - i, &b);
            uint32_t bit = pair_bit(a, b);
            if (i) k->together[bit / 8] |= (uint8_t)(1u << bit % 8);
            i += len;
        }
    }
    return NIB_OK;
}

typedef struct word {
    const nib_tokenizer *t;
    const spm *k;
    const char *p;
} word;

static uint32_t pair_rank(const void *arg, const tok_sym *a, const tok_sym *b, int32_t *id) {
    const word *w = arg;
    size_t n = (size_t)a->n + b->n;
    if (n > w->k->longest) return TOK_NO_PAIR;
    *id = tok_find_plain(w->t, w->p + a->at, n);
    if (*id < 0) return TOK_NO_PAIR;
    return NIB_MIN(w->k->rank[*id], TOK_NO_PAIR - 1);
}

static nib_status put_symbol(tok_call *c, const char *p, const tok_sym *s) {
    const nib_tokenizer *t = c->t;
    int32_t id = s->id >= 0 ? s->id : tok_find_plain(t, p + s->at, s->n);
    if (id >= 0) return nib_tok_put(c, id);
    for (uint32_t i = 0; i < s->n; i++) {
        id = t->byte_id[(uint8_t)p[s->at + i]];
        if (id < 0) return nib_tok_put(c, t->info.unk);
        NIB_TRY(nib_tok_put(c, id));
    }
    return NIB_OK;
}

static nib_status encode_word(tok_call *c, const char *p, size_t n) {
    const word w = {c->t, c->t->own, p};
    c->merge.n_sym = 0;
    for (size_t i = 0; i < n;) {
        uint32_t unit;
        size_t len = next_char(p + i, n - i, &unit);
        if (!nib_tok_merge_push(&c->merge, (uint32_t)i, (uint32_t)len, -1))
            return nib_fail_nomem(c->e, n * sizeof(tok_sym), "a long word");
        i += len;
    }
    if (!nib_tok_merge_run(&c->merge, pair_rank, &w))
        return nib_fail_nomem(c->e, n * sizeof(tok_sym), "a long word");
    for (int32_t i = 0; i >= 0; i = c->merge.sym[i].next)
        NIB_TRY(put_symbol(c, p, &c->merge.sym[i]));
    return NIB_OK;
}

static nib_status encode(tok_call *c, const char *p, size_t n, bool prefixed) {
    const spm *k = c->t->own;
    size_t n_spaces = prefixed && c->t->add_prefix, len = 0;
    for (size_t i = 0; i < n; i++) n_spaces += p[i] == ' ';
    char *text = nib_arena_alloc(&c->keep, n + n_spaces * 3);
    if (!text) return nib_fail_nomem(c->e, n + n_spaces * 3, "a text");
    if (prefixed && c->t->add_prefix) memcpy(text, "\xe2\x96\x81", 3), len = 3;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == ' ')
            memcpy(text + len, "\xe2\x96\x81", 3), len += 3;
        else
            text[len++] = p[i];
    }
    size_t start = 0;
    uint32_t a = 0, b;
    for (size_t i = 0; i < len; a = b) {
        size_t step = next_char(text + i, len - i, &b);
        uint32_t bit = pair_bit(a, b);
        if (i > start && !(k->together[bit / 8] >> bit % 8 & 1)) {
            NIB_TRY(nib_tok_cached_word(c, text + start, i - start, encode_word));
            start = i;
        }
        i += step;
    }
    return nib_tok_cached_word(c, text + start, len - start, encode_word);
}

const tok_kind nib_tok_spm = {"llama", "spm", init, fini, encode};
