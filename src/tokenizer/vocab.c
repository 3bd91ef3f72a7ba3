/* The vocabulary of a GGUF file, checked once, so that the rest of the room trusts it.
 *
 * After loading: every id in [0, n_vocab) has a text, a piece and a known type; texts that are not
 * empty are unique; every special id is -1 or in range. What a kind needs beyond that (scores,
 * merges) it checks itself. Keys: ggml's docs/gguf.md, and what llama.cpp's converter writes beyond
 * it. */
#include "tokenizer/internal.h"

static const tok_kind *const kinds[] = {
#define NIB_TOK_KIND(name) &nib_tok_##name,
#include "tokenizer/kinds.def"
#undef NIB_TOK_KIND
};

static nib_status find_kind(const nib_gguf *g, const tok_kind **out, nib_error *e) {
    nib_str model;
    NIB_TRY(nib_gguf_str(g, "tokenizer.ggml.model", &model, e));
    for (size_t i = 0; i < NIB_ARRAY_LEN(kinds); i++) {
        if (nib_str_eq_c(model, kinds[i]->model)) {
            *out = kinds[i];
            return NIB_OK;
        }
    }
    return nib_fail(
        e, NIB_ERR_UNSUPPORTED,
        "tokenizer.ggml.model is '%.*s'; nib knows llama (SentencePiece), gpt2 (byte-level BPE) "
        "and bert (WordPiece)",
        (int)NIB_MIN(model.n, (size_t)40), model.p);
}

/* ---- texts ---- */

static uint32_t map_place(const tok_map *m, uint64_t hash) {
    return (uint32_t)((hash & UINT32_MAX) * m->n_slots >> 32);
}
/* What a slot holds of the hash, in place. */
static uint32_t map_tag(const tok_map *m, uint64_t hash) {
    return (uint32_t)(hash >> 32) >> m->id_bits << m->id_bits;
}
static uint32_t map_id(const tok_map *m, uint32_t slot) {
    return slot & ((1u << m->id_bits) - 1);
}

/* The slot of a text, or the free one where it would go; NULL: neither within TOK_MAX_PROBES. */
static uint32_t *map_slot(const nib_tokenizer *t, uint64_t hash, nib_str text) {
    const tok_map *m = &t->by_text;
    uint32_t i = map_place(m, hash), tag = map_tag(m, hash);
    for (int k = 0; k < TOK_MAX_PROBES; k++) {
        uint32_t *s = &m->slots[i];
        if (*s == UINT32_MAX) return s;
        uint32_t id = map_id(m, *s);
        if ((*s ^ id) == tag && nib_str_eq(tok_text(t, (int32_t)id), text)) return s;
        if (++i == m->n_slots) i = 0;
    }
    return NULL;
}

static int32_t find_hashed(const nib_tokenizer *t, uint64_t hash, nib_str text) {
    const uint32_t *s = map_slot(t, hash, text);
    return s && *s != UINT32_MAX ? (int32_t)map_id(&t->by_text, *s) : -1;
}

/* No id has all its bits set, so that no slot in use looks free. */
static nib_status new_map(tok_map *m, size_t n, nib_error *e) {
    while ((size_t)1 << m->id_bits <= n) m->id_bits++;
    size_t cap = n + n / 2 + 16;
    m->slots = nib_alloc(cap * sizeof *m->slots);
    if (!m->slots) return nib_fail_nomem(e, cap * sizeof *m->slots, "the vocabulary");
    memset(m->slots, 0xff, cap * sizeof *m->slots);
    m->n_slots = (uint32_t)cap;
    return NIB_OK;
}

static nib_status load_texts(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(nib_gguf_arr(g, "tokenizer.ggml.tokens", true, &kv, e));
    if (kv->arr_n < 1 || kv->arr_n > INT32_MAX / 4)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tokenizer.ggml.tokens has %lld entries: expected 1 to %d",
                        (long long)kv->arr_n, INT32_MAX / 4);
    size_t n = (size_t)kv->arr_n, bytes = n;
    nib_gguf_strs it = nib_gguf_strs_of(kv);
    for (size_t i = 0; i < n; i++) {
        size_t len = nib_gguf_strs_next(&it).n;
        if (len > INT32_MAX - bytes)
            return nib_fail(e, NIB_ERR_LIMIT, "tokenizer.ggml.tokens is larger than 2 GiB");
        bytes += len;
    }
    t->info.n_vocab = (int32_t)n;
    t->strings.data = nib_alloc(bytes);
    t->strings.at = nib_alloc((n + 1) * sizeof *t->strings.at);
    t->type = nib_alloc(n);
    if (!t->strings.data || !t->strings.at || !t->type)
        return nib_fail_nomem(e, bytes + n * 5, "the vocabulary");
    NIB_TRY(new_map(&t->by_text, n, e));
    size_t at = 0;
    it = nib_gguf_strs_of(kv);
    for (size_t i = 0; i < n; i++) {
        nib_str s = nib_gguf_strs_next(&it);
        t->strings.at[i] = (uint32_t)at;
        t->strings.data[at++] = 0; /* the piece is the text so far */
        if (!s.n) continue;        /* several empty entries are harmless: no text finds them */
        memcpy(t->strings.data + at, s.p, s.n);
        uint64_t hash = nib_hash(s.p, s.n, 0);
        uint32_t *slot = map_slot(t, hash, s);
        if (!slot)
            return nib_fail(e, NIB_ERR_LIMIT,
                            "tokenizer.ggml.tokens: entry %zu hashes like %d others", i,
                            TOK_MAX_PROBES);
        if (*slot != UINT32_MAX)
            return nib_fail(
                e, NIB_ERR_FORMAT, "tokenizer.ggml.tokens: entries %u and %zu are both '%.*s'",
                (unsigned)map_id(&t->by_text, *slot), i, (int)NIB_MIN(s.n, (size_t)60), s.p);
        *slot = map_tag(&t->by_text, hash) | (uint32_t)i;
        at += s.n;
    }
    t->strings.at[n] = (uint32_t)at;
    return NIB_OK;
}

int nib_tok_byte_value(nib_str s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s.p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static nib_status load_types(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    const int32_t n = t->info.n_vocab;
    memset(t->type, NIB_TOKEN_NORMAL, (size_t)n);
    if (!nib_gguf_find(g, "tokenizer.ggml.token_type")) {
        for (int32_t i = 0; i < n; i++)
            if (nib_tok_byte_value(tok_text(t, i)) >= 0) t->type[i] = NIB_TOKEN_BYTE;
        return NIB_OK;
    }
    const nib_gguf_kv *kv;
    NIB_TRY(nib_gguf_arr(g, "tokenizer.ggml.token_type", false, &kv, e));
    if (kv->arr_n != n)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tokenizer.ggml.token_type has %lld entries, the vocabulary %d",
                        (long long)kv->arr_n, n);
    for (int32_t i = 0; i < n; i++) {
        int64_t v = nib_gguf_arr_i64(kv, i);
        if (v < 0 || v > NIB_TOKEN_BYTE)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "tokenizer.ggml.token_type of entry %d is %lld: expected 0 to 6", i,
                            (long long)v);
        if (v == NIB_TOKEN_BYTE && nib_tok_byte_value(tok_text(t, i)) < 0)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "entry %d of the vocabulary has type byte, but its text is no <0xNN>",
                            i);
        t->type[i] = v == 0 ? NIB_TOKEN_UNUSED : (uint8_t)v;
    }
    return NIB_OK;
}

/* ---- special ids ---- */

static nib_status load_id(const nib_tokenizer *t, const nib_gguf *g, const char *key, int32_t *id,
                          nib_error *e) {
    if (!nib_gguf_find(g, key)) return NIB_OK;
    int64_t v;
    NIB_TRY(nib_gguf_i64(g, key, INT64_MIN, INT64_MAX, &v, e));
    if (v == -1 || v == UINT32_MAX) return NIB_OK; /* how some converters write "none" */
    if (v < 0 || v >= t->info.n_vocab)
        return nib_fail(e, NIB_ERR_FORMAT, "%s is %lld, but the vocabulary has %d tokens", key,
                        (long long)v, t->info.n_vocab);
    *id = (int32_t)v;
    return NIB_OK;
}

static nib_status load_flag(const nib_gguf *g, const char *key, bool *flag, nib_error *e) {
    return nib_gguf_find(g, key) ? nib_gguf_bool(g, key, flag, e) : NIB_OK;
}

/* The kind has set the defaults. */
static nib_status load_specials(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    nib_tokenizer_info *in = &t->info;
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &in->bos},
        {"tokenizer.ggml.eos_token_id", &in->eos},
        {"tokenizer.ggml.eot_token_id", &in->eot},
        {"tokenizer.ggml.unknown_token_id", &in->unk},
        {"tokenizer.ggml.seperator_token_id", &in->sep},
        {"tokenizer.ggml.cls_token_id", &in->cls},
        {"tokenizer.ggml.mask_token_id", &in->mask},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(ids); i++) {
        if (*ids[i].id >= in->n_vocab) *ids[i].id = -1;
        NIB_TRY(load_id(t, g, ids[i].key, ids[i].id, e));
    }
    /* Fine-tunes that added a padding token and dropped it again leave its id behind; nothing
     * depends on it. */
    if (in->pad >= in->n_vocab) in->pad = -1;
    nib_error ignored;
    if (load_id(t, g, "tokenizer.ggml.padding_token_id", &in->pad, &ignored) != NIB_OK)
        nib_log(NIB_LOG_WARN, "%s: ignored", ignored.message);
    NIB_TRY(load_flag(g, "tokenizer.ggml.add_bos_token", &in->add_bos, e));
    NIB_TRY(load_flag(g, "tokenizer.ggml.add_eos_token", &in->add_eos, e));
    NIB_TRY(load_flag(g, "tokenizer.ggml.add_sep_token", &t->add_sep, e));
    NIB_TRY(load_flag(g, "tokenizer.ggml.add_space_prefix", &t->add_prefix, e));
    if (in->bos < 0) in->bos = in->cls; /* what BERT puts in front */
    if (in->bos < 0) in->add_bos = false;
    if (in->eos < 0) in->add_eos = false;
    if (in->sep < 0) t->add_sep = false;
    return NIB_OK;
}

/* ---- ends of a generation ---- */

enum { TURN, TEXT, STOP };
static const struct {
    const char *text;
    int what;
} ends[] = {
#define NIB_TOK_END(text, what) {text, what},
#include "tokenizer/ends.def"
#undef NIB_TOK_END
};

static bool is_whole(const nib_tokenizer *t, int32_t id) {
    return id >= 0 && (t->type[id] == NIB_TOKEN_CONTROL || t->type[id] == NIB_TOKEN_USER);
}

_Static_assert(NIB_ARRAY_LEN(ends) + 3 <= NIB_ARRAY_LEN(((nib_tokenizer *)0)->ends),
               "every row of ends.def and three named tokens have a place");

static void add_end(nib_tokenizer *t, int32_t id) {
    if (id >= 0 && !nib_token_is_eog(t, id)) t->ends[t->n_ends++] = id;
}
static void drop_end(nib_tokenizer *t, int32_t id) {
    for (int i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id) t->ends[i] = t->ends[--t->n_ends];
}

static nib_status find_ends(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    nib_tokenizer_info *in = &t->info;
    int32_t eom = -1, first[3] = {-1, -1, -1};
    bool eos_turns = false;
    NIB_TRY(load_id(t, g, "tokenizer.ggml.eom_token_id", &eom, e));
    for (size_t i = 0; i < NIB_ARRAY_LEN(ends); i++) {
        int32_t id = nib_token_find(t, nib_str_c(ends[i].text));
        if (!is_whole(t, id)) continue;
        add_end(t, id);
        t->type[id] = NIB_TOKEN_CONTROL; /* never by what a user types, and not shown */
        if (first[ends[i].what] < 0) first[ends[i].what] = id;
        eos_turns |= id == in->eos && ends[i].what == TURN;
    }
    /* The harmony format ends a message with <|end|> and goes on; only <|return|> and <|call|> stop
     * it. */
    int32_t end = nib_token_find(t, NIB_STR("<|end|>"));
    int32_t ret = nib_token_find(t, NIB_STR("<|return|>")),
            call = nib_token_find(t, NIB_STR("<|call|>"));
    if (end >= 0 && is_whole(t, ret) && is_whole(t, call)) {
        drop_end(t, end); /* but stays a control token */
        if (first[TURN] == end) first[TURN] = ret;
    }
    if (in->eot < 0) in->eot = eos_turns ? in->eos : first[TURN] >= 0 ? first[TURN] : first[TEXT];
    add_end(t, in->eos);
    add_end(t, in->eot);
    add_end(t, eom);
    return NIB_OK;
}

/* ---- pieces ---- */

/* Writes what token id stands for. */
static size_t put_piece(const nib_tokenizer *t, int32_t id, nib_str text, tok_piece_fn fn,
                        char *out) {
    switch (t->type[id]) {
    case NIB_TOKEN_NORMAL: return fn(out, text);
    case NIB_TOKEN_BYTE: *out = (char)nib_tok_byte_value(text); return 1;
    case NIB_TOKEN_UNUSED: return 0;
    default: memcpy(out, text.p, text.n); return text.n;
    }
}

/* The block is written anew, each token's piece behind its text unless they are the same. */
nib_status nib_tok_fill_pieces(nib_tokenizer *t, tok_piece_fn fn, nib_error *e) {
    enum { LEAD = 1 + sizeof(uint32_t) };
    const int32_t n = t->info.n_vocab;
    tok_strings *strings = &t->strings;
    nib_buf b = {.max = UINT32_MAX};
    size_t was = strings->at[n];
    bool ok = nib_buf_reserve(&b, was + was / 2);
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    for (int32_t id = 0; ok && id < n; id++) {
        nib_str text = tok_text(t, id);
        strings->at[id] = (uint32_t)b.len;
        if (!(ok = nib_buf_reserve(&b, LEAD + 2 * text.n + 1))) break;
        char *at = b.data + b.len, *piece = at + 1 + text.n;
        memcpy(at + 1, text.p, text.n);
        size_t len = put_piece(t, id, text, fn, piece), lead = 1;
        if (t->type[id] == NIB_TOKEN_BYTE) t->byte_id[(uint8_t)*piece] = id;
        uint32_t own = (uint32_t)len + 1;
        if (len == text.n && memcmp(piece, text.p, len) == 0) own = 0, len = 0;
        if (own >= TOK_LONG_PIECE) {
            lead = LEAD;
            memmove(at + lead, at + 1, text.n + len);
            memcpy(at + 1, &own, sizeof own);
            own = TOK_LONG_PIECE;
        }
        *at = (char)own;
        b.len += lead + text.n + len;
    }
    char *fit = ok ? nib_realloc(b.data, b.len) : NULL;
    if (!fit) {
        nib_buf_free(&b);
        return nib_fail_nomem(e, was, "the pieces of the vocabulary");
    }
    strings->at[n] = (uint32_t)b.len;
    nib_free(strings->data);
    strings->data = fit;
    return NIB_OK;
}

/* ---- from a file ---- */

static nib_status copy_string(const nib_gguf *g, const char *key, char **out, nib_error *e) {
    if (!nib_gguf_find(g, key)) return NIB_OK;
    nib_str s;
    NIB_TRY(nib_gguf_str(g, key, &s, e));
    *out = nib_strndup(s.p, s.n);
    return *out ? NIB_OK : nib_fail_nomem(e, s.n, key);
}

static nib_status load(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    nib_tokenizer_info *in = &t->info;
    in->bos = in->eos = in->eot = in->unk = in->sep = in->pad = in->cls = in->mask = -1;
    NIB_TRY(find_kind(g, &t->kind, e));
    NIB_TRY(copy_string(g, "tokenizer.ggml.pre", &t->pre, e));
    NIB_TRY(copy_string(g, "tokenizer.chat_template", &t->chat_template, e));
    in->kind = t->kind->name;
    in->pre = t->pre ? t->pre : "";
    in->chat_template = t->chat_template;
    NIB_TRY(load_texts(t, g, e));
    NIB_TRY(load_types(t, g, e));
    NIB_TRY(t->kind->init(t, g, e));
    NIB_TRY(load_specials(t, g, e));
    NIB_TRY(find_ends(t, g, e));
    return nib_tok_special_init(t, e);
}

nib_status nib_tokenizer_from_gguf(nib_tokenizer **out, const nib_gguf *g, nib_error *e) {
    nib_tokenizer *t = nib_calloc(1, sizeof *t);
    if (!t) return nib_fail_nomem(e, sizeof *t, "a tokenizer");
    nib_status s = load(t, g, e);
    if (s == NIB_OK)
        *out = t;
    else
        nib_tokenizer_free(t);
    return s;
}

void nib_tokenizer_free(nib_tokenizer *t) {
    if (!t) return;
    if (t->own) t->kind->fini(t);
    nib_tok_special_free(&t->special);
    nib_free(t->by_text.slots);
    nib_free(t->strings.data);
    nib_free(t->strings.at);
    nib_free(t->type);
    nib_free(t->pre);
    nib_free(t->chat_template);
    nib_free(t);
}

/* ---- questions ---- */

const nib_tokenizer_info *nib_tokenizer_get_info(const nib_tokenizer *t) {
    return &t->info;
}

static bool in_range(const nib_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->info.n_vocab;
}

nib_str nib_token_piece(const nib_tokenizer *t, int32_t id, bool special) {
    if (!in_range(t, id)) return NIB_STR("");
    bool hidden = t->type[id] == NIB_TOKEN_CONTROL || t->type[id] == NIB_TOKEN_UNKNOWN;
    return hidden && !special ? NIB_STR("") : tok_spell(t, id).piece;
}

nib_str nib_token_text(const nib_tokenizer *t, int32_t id) {
    return in_range(t, id) ? tok_text(t, id) : NIB_STR("");
}

nib_token_type nib_token_get_type(const nib_tokenizer *t, int32_t id) {
    return in_range(t, id) ? (nib_token_type)t->type[id] : NIB_TOKEN_UNUSED;
}

bool nib_token_is_eog(const nib_tokenizer *t, int32_t id) {
    for (int i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id) return true;
    return false;
}

int32_t nib_token_find(const nib_tokenizer *t, nib_str text) {
    return text.n ? find_hashed(t, nib_hash(text.p, text.n, 0), text) : -1;
}

void nib_tok_find_batch(const nib_tokenizer *t, const nib_str *texts, int32_t *ids, size_t n) {
    uint64_t hash[TOK_BATCH];
    uint32_t first[TOK_BATCH]; /* the token in the first slot: most likely the wanted one */
    const tok_map *m = &t->by_text;
    for (size_t i = 0; i < n; i++) {
        hash[i] = nib_hash(texts[i].p, texts[i].n, 0);
        __builtin_prefetch(&m->slots[map_place(m, hash[i])]);
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t slot = m->slots[map_place(m, hash[i])];
        first[i] = slot == UINT32_MAX ? 0 : map_id(m, slot);
        __builtin_prefetch(&t->strings.at[first[i]]);
    }
    for (size_t i = 0; i < n; i++) __builtin_prefetch(t->strings.data + t->strings.at[first[i]]);
    for (size_t i = 0; i < n; i++) ids[i] = find_hashed(t, hash[i], texts[i]);
}
