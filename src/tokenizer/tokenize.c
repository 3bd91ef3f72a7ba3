/* One call of nib_tokenize: special tokens cut the text into fragments, the kind encodes each
 * fragment.
 *
 * Words repeat, so what a word became is remembered for the length of the call: a slot holds where
 * the word stands in the text and where its ids stand in the output, and nothing is copied. The
 * table is direct-mapped and as large as the text deserves, so a short text pays nothing and memory
 * stays bounded. */
#include "tokenizer/internal.h"

enum { MAX_CACHED_BYTES = 48, MAX_WORDS = 1 << 14 };

static nib_status full(const tok_call *c) {
    return nib_fail(c->e, NIB_ERR_LIMIT, "the text has more tokens than fit: %zu so far",
                    c->out->len);
}

nib_status nib_tok_put(tok_call *c, int32_t id) {
    return id < 0 || nib_ids_push(c->out, id) ? NIB_OK : full(c);
}

nib_status nib_tok_cached_word(tok_call *c, const char *p, size_t n, tok_word_fn fn) {
    if (n > MAX_CACHED_BYTES || !c->n_words) return fn(c, p, n);
    uint64_t h = nib_hash(p, n, 0);
    tok_word *w = &c->words[(h ^ h >> 32) & (c->n_words - 1)];
    if (w->p && w->n == n && memcmp(w->p, p, n) == 0) {
        int32_t ids[MAX_CACHED_BYTES]; /* at most one a byte */
        for (uint32_t i = 0; i < w->n_ids; i++) ids[i] = c->out->data[w->at + i];
        return nib_ids_append(c->out, ids, w->n_ids) ? NIB_OK : full(c);
    }
    size_t at = c->out->len;
    NIB_TRY(fn(c, p, n));
    size_t n_ids = c->out->len - at;
    if (n_ids <= MAX_CACHED_BYTES && at <= UINT32_MAX)
        *w = (tok_word){p, (uint32_t)n, (uint32_t)at, (uint32_t)n_ids};
    return NIB_OK;
}

static nib_status encode_fragments(tok_call *c, const char *p, size_t n, unsigned flags,
                                   tok_hits *hits) {
    const nib_tokenizer *t = c->t;
    bool prefixed = !(flags & NIB_TOK_NO_PREFIX);
    size_t at = 0;
    while (at < n) {
        while (hits->len && hits->data[hits->len - 1].at < at) hits->len--;
        size_t end = hits->len ? hits->data[hits->len - 1].at : n;
        if (end > at) {
            NIB_TRY(t->kind->encode(c, p + at, end - at, prefixed));
            prefixed = false;
        }
        at = end;
        if (hits->len) {
            int32_t id = hits->data[--hits->len].id;
            NIB_TRY(nib_tok_put(c, id));
            prefixed = true;
            at += tok_text(t, id).n;
        }
    }
    return NIB_OK;
}

/* Special tokens of the text, the last first: user-defined ones anywhere, control tokens inside a
 * run that is parsed. */
static bool find_special(const nib_tokenizer *t, const char *text, size_t n,
                         const nib_tok_run *runs, size_t n_runs, tok_hits *hits) {
    bool some = false, all = true;
    for (size_t r = 0; r < n_runs; r++) {
        some = some || runs[r].parse;
        all = all && runs[r].parse;
    }
    if (!some || all) return nib_tok_special_find(t, text, n, some, hits);
    size_t i = 0, start = n;
    tok_hits any = {0}, user = {0};
    bool ok = nib_tok_special_find(t, text, n, true, &any) &&
              nib_tok_special_find(t, text, n, false, &user);
    hits->data = ok && any.len ? nib_alloc(any.len * sizeof *any.data) : NULL;
    hits->cap = any.len;
    ok = ok && (!any.len || hits->data);
    for (size_t k = 0; ok && k < any.len; k++) {
        /* Wherever a user-defined token starts, any has a hit. */
        tok_hit hit = any.data[k];
        while (start > hit.at) start -= runs[--n_runs].len;
        bool plain = t->type[hit.id] == NIB_TOKEN_USER,
             at_user = i < user.len && user.data[i].at == hit.at;
        bool inside =
            runs[n_runs].parse && hit.at + tok_text(t, hit.id).n <= start + runs[n_runs].len;
        if (plain || inside)
            hits->data[hits->len++] = hit;
        else if (at_user)
            hits->data[hits->len++] = user.data[i];
        i += at_user;
    }
    nib_free(any.data);
    nib_free(user.data);
    return ok;
}

nib_status nib_tokenize(const nib_tokenizer *t, const char *text, size_t n, unsigned flags,
                        nib_ids *out, nib_error *e) {
    nib_tok_run whole = {n, flags & NIB_TOK_PARSE};
    return nib_tokenize_runs(t, text, &whole, 1, flags, out, e);
}

nib_status nib_tokenize_runs(const nib_tokenizer *t, const char *text, const nib_tok_run *runs,
                             size_t n_runs, unsigned flags, nib_ids *out, nib_error *e) {
    size_t n = 0;
    for (size_t i = 0; i < n_runs && n <= TOK_MAX_TEXT; i++)
        n += NIB_MIN(runs[i].len, (size_t)TOK_MAX_TEXT + 1);
    if (n > TOK_MAX_TEXT)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "the text has %zu bytes; at most %d can be tokenised at once", n,
                        TOK_MAX_TEXT);
    tok_call c = {.out = out, .e = e, .t = t};
    tok_hits hits = {0};
    const size_t before = out->len;
    nib_arena_init(&c.keep, 0);
    nib_status s = NIB_OK;
    if (n >= 256) {
        c.n_words = 64;
        while (c.n_words < MAX_WORDS && c.n_words < n / 8) c.n_words *= 2;
        if (!(c.words = nib_calloc(c.n_words, sizeof *c.words))) {
            s = nib_fail_nomem(e, c.n_words * sizeof *c.words, "a table of words");
            goto out;
        }
    }
    if (!find_special(t, text, n, runs, n_runs, &hits)) {
        s = nib_fail_nomem(e, hits.cap * 2 * sizeof *hits.data, "the special tokens of a text");
        goto out;
    }
    bool around = flags & NIB_TOK_SPECIAL;
    if (around && t->info.add_bos) NIB_TRY_OUT(nib_tok_put(&c, t->info.bos));
    NIB_TRY_OUT(encode_fragments(&c, text, n, flags, &hits));
    if (around && t->info.add_eos) NIB_TRY_OUT(nib_tok_put(&c, t->info.eos));
    if (around && t->add_sep) NIB_TRY_OUT(nib_tok_put(&c, t->info.sep));
out:
    if (s != NIB_OK) out->len = before;
    nib_free(hits.data);
    nib_free(c.words);
    nib_tok_merge_free(&c.merge);
    nib_free(c.cps.data);
    nib_free(c.marks.data);
    nib_tok_match_free(&c);
    nib_arena_free(&c.keep);
    return s;
}
