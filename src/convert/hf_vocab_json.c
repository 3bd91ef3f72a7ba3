/* tokenizer.json: the vocabulary and merges of its "model".
 *
 * BPE over bytes (a ByteLevel pre-tokenizer or decoder) is GGUF's "gpt2". BPE with byte_fallback is
 * SentencePiece's algorithm in other clothes, GGUF's "llama": there a piece has a score and the
 * pair that makes the best piece is merged first, so a piece's score is minus the place of its
 * merge. WordPiece is "bert". */
#include "convert/internal.h"

static const char *type_of(const json_t *o) {
    const char *t = json_string_value(json_object_get(o, "type"));
    return t ? t : "";
}

/* Whether o, or a part of it, is of the type. */
static bool has_type(const json_t *o, const char *parts, const char *type) {
    if (strcmp(type_of(o), type) == 0) return true;
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(o, parts), i,
                       v) if (strcmp(type_of(v), type) == 0) return true;
    return false;
}

static nib_status read_tokens(conv_vocab *v, const json_t *vocab, int64_t n_config, nib_error *e) {
    const char *key;
    json_t *id;
    int64_t most = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return nib_fail(e, NIB_ERR_FORMAT, "model.vocab: token '%.40s' has no id", key);
        most = NIB_MAX(most, json_integer_value(id));
    }
    if (n_config && most >= n_config)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "model.vocab has the id %lld, but config.json's vocab_size is %lld",
                        (long long)most, (long long)n_config);
    NIB_TRY(conv_vocab_init(v, n_config ? n_config : most + 1, e));
    json_object_foreach((json_t *)(uintptr_t)vocab, key, id) {
        nib_str *t = &v->tokens[json_integer_value(id)];
        size_t n = strlen(key); /* keys with NUL inside were refused by the parser */
        if (t->p)
            return nib_fail(e, NIB_ERR_FORMAT, "model.vocab: '%.40s' and '%.40s' have the same id",
                            t->p, key);
        *t = (nib_str){nib_arena_strndup(&v->m->arena, key, n), n};
        if (!t->p) return nib_fail_nomem(e, n, "a token");
        v->types[json_integer_value(id)] = 1;
        v->scores[json_integer_value(id)] = -1000;
    }
    return NIB_OK;
}

/* "a b" or ["a", "b"]; a space inside a part (only the pairs can have one) is spelled as byte-level
 * BPE spells it. */
static nib_status read_merge(conv_vocab *v, const json_t *merge, nib_str *out, nib_error *e) {
    nib_buf b = {0};
    if (json_is_string(merge)) {
        nib_buf_put(&b, json_string_value(merge), json_string_length(merge));
    } else {
        for (size_t i = 0; i < 2; i++) {
            const json_t *part = json_array_get(merge, i);
            if (json_array_size(merge) != 2 || !json_is_string(part)) goto bad;
            if (i) nib_buf_putc(&b, ' ');
            const char *p = json_string_value(part);
            for (size_t k = 0; k < json_string_length(part); k++) {
                if (p[k] == ' ')
                    nib_buf_puts(&b, "\xc4\xa0");
                else
                    nib_buf_putc(&b, p[k]);
            }
        }
    }
    if (!b.failed && b.len) {
        *out = (nib_str){nib_arena_strndup(&v->m->arena, b.data, b.len), b.len};
        nib_buf_free(&b);
        return out->p ? NIB_OK : nib_fail_nomem(e, 8, "a merge");
    }
    if (b.failed) {
        nib_buf_free(&b);
        return nib_fail_nomem(e, 16, "a merge");
    }
bad:
    nib_buf_free(&b);
    return nib_fail(e, NIB_ERR_FORMAT, "model.merges: expected pairs of tokens");
}

static nib_status read_merges(conv_vocab *v, const json_t *merges, nib_error *e) {
    size_t n = json_array_size(merges), i;
    json_t *m;
    if (!json_is_array(merges)) return nib_fail(e, NIB_ERR_FORMAT, "model.merges is no list");
    v->merges = nib_arena_alloc(&v->m->arena, n * sizeof *v->merges + 1);
    if (!v->merges) return nib_fail_nomem(e, n * sizeof *v->merges, "merges");
    json_array_foreach(merges, i, m) NIB_TRY(read_merge(v, m, &v->merges[i], e));
    v->n_merges = (int64_t)n;
    return NIB_OK;
}

/* Scores from the order of merges. */
static nib_status score_merges(conv_vocab *v, nib_error *e) {
    nib_strmap ids = {0};
    nib_buf whole = {0};
    nib_status s = NIB_OK;
    for (int64_t i = 0; i < v->n && s == NIB_OK; i++) {
        if (!v->tokens[i].p) continue;
        v->scores[i] = 0;
        if (!nib_strmap_set(&ids, v->tokens[i], (uint32_t)i)) s = nib_fail_nomem(e, 16, "tokens");
        int byte;
        char end;
        if (v->tokens[i].n == 6 && sscanf(v->tokens[i].p, "<0x%2x%c", (unsigned *)&byte, &end) == 2)
            v->types[i] = 6;
    }
    for (int64_t i = 0; i < v->n_merges && s == NIB_OK; i++) {
        nib_str m = v->merges[i];
        uint32_t id;
        nib_buf_clear(&whole);
        for (size_t k = 0; k < m.n; k++)
            if (m.p[k] != ' ') nib_buf_putc(&whole, m.p[k]);
        if (whole.failed) s = nib_fail_nomem(e, m.n, "a merge");
        if (s == NIB_OK && whole.data &&
            nib_strmap_get(&ids, (nib_str){whole.data, whole.len}, &id) && v->scores[id] == 0)
            v->scores[id] = -(float)(i + 1);
    }
    nib_strmap_free(&ids);
    nib_buf_free(&whole);
    return s;
}

nib_status conv_vocab_json(conv_vocab *v, const conv_hf *h, int64_t n_config, nib_error *e) {
    const json_t *t = h->tokenizer, *model = json_object_get(t, "model"),
                 *vocab = json_object_get(model, "vocab");
    const char *type = type_of(model);
    bool pieces = strcmp(type, "WordPiece") == 0, unigram = strcmp(type, "Unigram") == 0;
    if (!*type) { /* older files have no type */
        pieces = json_object_get(model, "continuing_subword_prefix") &&
                 !json_object_get(model, "merges");
        type = pieces ? "WordPiece" : "BPE";
    }
    if (unigram || (!pieces && strcmp(type, "BPE") != 0))
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "the tokenizer is of type '%.40s': nib knows BPE and WordPiece", type);
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return nib_fail(e, NIB_ERR_FORMAT, "expected model.vocab, an object of tokens");
    /* added tokens may lie beyond the vocabulary */
    int64_t n = n_config;
    size_t i;
    json_t *a;
    if (!n) {
        n = (int64_t)json_object_size(vocab);
        json_array_foreach(json_object_get(t, "added_tokens"), i, a) {
            json_int_t id = json_integer_value(json_object_get(a, "id"));
            if (id >= n && id < 1 << 24) n = id + 1;
        }
    }
    NIB_TRY(read_tokens(v, vocab, n, e));
    if (pieces) {
        v->model = "bert";
        v->phantom = true;
        return NIB_OK;
    }
    const json_t *merges = json_object_get(model, "merges");
    if (merges) NIB_TRY(read_merges(v, merges, e));
    bool bytes = has_type(json_object_get(t, "pre_tokenizer"), "pretokenizers", "ByteLevel") ||
                 has_type(json_object_get(t, "decoder"), "decoders", "ByteLevel");
    if (!bytes && !json_is_true(json_object_get(model, "byte_fallback")))
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "BPE that is neither over bytes nor falls back to bytes");
    v->model = bytes ? "gpt2" : "llama";
    return bytes ? NIB_OK : score_merges(v, e);
}
