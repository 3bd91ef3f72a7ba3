/* From ids back to text: the whole at once, or a stream.
 *
 * The whole follows llama_detokenize, so that texts compare: SentencePiece's leading space goes,
 * and families whose Hugging Face configuration says clean_up_tokenization_spaces lose the space
 * before punctuation and some contractions. A stream does no such tidying (it cannot take back what
 * was shown) but keeps characters whole. */
#include "tokenizer/internal.h"

/* Three passes, each over what the one before left; a space is only looked for right in front. */
static size_t tidy(char *p, size_t n) {
    size_t w = 0;
    for (size_t i = 0; i < n; i++) {
        bool after_space = i && p[i - 1] == ' ';
        if (after_space && strchr("?!.,", p[i]) && p[i]) w--;
        p[w++] = p[i];
    }
    n = w, w = 0;
    for (size_t i = 0; i < n; i++) { /* " ' " -> "'" */
        char x = p[i];
        if (i && x == '\'' && i + 1 < n && p[i - 1] == ' ' && p[i + 1] == ' ') {
            w--;
            p[++i] = 0; /* so that what follows sees no space */
        }
        p[w++] = x;
    }
    n = w, w = 0;
    for (size_t i = 0; i < n; i++) { /* " 's", " 'm", " 're", " 've" */
        if (i && p[i] == '\'' && p[i - 1] == ' ' && i + 1 < n) {
            char a = p[i + 1], b = i + 2 < n ? p[i + 2] : 0;
            if (a == 's' || a == 'm' || ((a == 'r' || a == 'v') && b == 'e')) w--;
        }
        p[w++] = p[i];
    }
    return w;
}

nib_status nib_detokenize(const nib_tokenizer *t, const int32_t *ids, size_t n, bool special,
                          nib_buf *out, nib_error *e) {
    const size_t before = out->len;
    bool strip = t->add_prefix;
    if (!special && t->info.add_bos && n && ids[0] == t->info.bos) strip = false, ids++, n--;
    if (!special && t->info.add_eos && n && ids[n - 1] == t->info.eos) n--;
    for (size_t i = 0; i < n; i++) {
        nib_str piece = nib_token_piece(t, ids[i], special);
        if (strip && piece.n && piece.p[0] == ' ') piece.p++, piece.n--;
        strip = false;
        if (!nib_buf_put(out, piece.p, piece.n)) {
            out->len = before;
            return nib_fail(e, NIB_ERR_LIMIT, "the text of %zu tokens does not fit in the buffer",
                            n);
        }
    }
    if (t->tidy_spaces && out->len > before) {
        out->len = before + tidy(out->data + before, out->len - before);
        out->data[out->len] = 0;
    }
    return NIB_OK;
}

/* Valid characters as they are, each invalid sequence as U+FFFD. */
static bool emit(nib_buf *out, const char *p, size_t n) {
    while (n) {
        int32_t cp;
        size_t len = nib_utf8_decode(p, n, &cp);
        if (!(cp < 0 ? nib_buf_puts(out, "\xef\xbf\xbd") : nib_buf_put(out, p, len))) return false;
        p += len, n -= len;
    }
    return true;
}

nib_status nib_detok_put(nib_detok *d, const nib_tokenizer *t, int32_t id, bool special,
                         nib_buf *out) {
    nib_str piece = nib_token_piece(t, id, special);
    if (!piece.n) return NIB_OK;
    if (d->at_start && t->add_prefix && piece.p[0] == ' ') piece.p++, piece.n--;
    d->at_start = false;
    const char *p = piece.p;
    size_t n = piece.n;
    while (n && d->n_held) {
        d->held[d->n_held++] = *p++, n--;
        size_t whole = nib_utf8_complete(d->held, d->n_held);
        if (!emit(out, d->held, whole)) return NIB_ERR_LIMIT;
        d->n_held -= (unsigned)whole;
        memmove(d->held, d->held + whole, d->n_held);
    }
    size_t whole = nib_utf8_complete(p, n);
    if (!emit(out, p, whole)) return NIB_ERR_LIMIT;
    memcpy(d->held + d->n_held, p + whole, n - whole);
    d->n_held += (unsigned)(n - whole);
    return NIB_OK;
}

nib_status nib_detok_flush(nib_detok *d, nib_buf *out) {
    unsigned n = d->n_held;
    d->n_held = 0;
    return emit(out, d->held, n) ? NIB_OK : NIB_ERR_LIMIT;
}
