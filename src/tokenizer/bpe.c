/* Byte-level BPE (GPT-2 and its many heirs): words of a pre-splitter, whose bytes are merged by
 * rank.
 *
 * The vocabulary spells bytes in an alphabet of 256 printable characters: a byte that is a
 * printable Latin-1 character is itself, the other 68 are U+0100 and up, in order. That spelling
 * matters only at load: merges become pairs of ids and words are merged as bytes. A merge whose
 * parts or result are no tokens can never be used and is left out. Source: Sennrich et al. 2016;
 * Radford et al. 2019 (encoder.py for the alphabet). */
#include "tokenizer/internal.h"

/* A slot of the pairs is 64 bits: left and right, id_bits each, above the rank; all ones when free.
 * What a merge makes stands in a list by rank. */
typedef struct bpe {
    const tok_family *family;
    tok_presplit *presplit;
    uint64_t *pairs;
    uint32_t n_pairs; /* slots, at most 2/3 of them in use */
    int id_bits, rank_bits;
    int32_t *made;         /* the token of a merge, by its rank */
    char spelling[256][3]; /* of a byte: 1 or 2 bytes of UTF-8, NUL-terminated */
} bpe;

static bool is_itself(int b) {
    return (b > 32 && b < 127) || (b > 160 && b != 173);
}

static void spell_bytes(bpe *k) {
    for (int b = 0, next = 256; b < 256; b++) {
        char buf[4];
        size_t n = nib_utf8_encode(is_itself(b) ? b : next++, buf);
        memcpy(k->spelling[b], buf, n);
        k->spelling[b][n] = 0;
    }
}

/* A character outside the alphabet stands for itself. */
static size_t piece_of(char *out, nib_str text) {
    static const uint8_t others[68] = {
        0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,
        17,  18,  19,  20,  21,  22,  23,  24,  25,  26,  27,  28,  29,  30,  31,  32,  127,
        128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144,
        145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 173};
    size_t len = 0;
    for (size_t i = 0; i < text.n;) {
        if ((uint8_t)text.p[i] < 0x80) {
            out[len++] = text.p[i++];
            continue;
        }
        int32_t cp;
        size_t n = nib_utf8_decode(text.p + i, text.n - i, &cp);
        if (cp >= 256 && cp < 256 + 68) {
            out[len++] = (char)others[cp - 256];
        } else if (cp >= 0 && cp < 256 && is_itself(cp)) {
            out[len++] = (char)cp;
        } else {
            memcpy(out + len, text.p + i, n);
            len += n;
        }
        i += n;
    }
    return len;
}

static uint64_t pair_key(const bpe *k, int32_t left, int32_t right) {
    return (uint64_t)left << k->id_bits | (uint32_t)right;
}

static uint32_t pair_place(const bpe *k, uint64_t key) {
    uint64_t hash = key * 0x9e3779b97f4a7c15u;
    return (uint32_t)((hash >> 32) * k->n_pairs >> 32);
}

/* The slot of a pair, or the free one where it would go; NULL: neither within TOK_MAX_PROBES. */
static uint64_t *slot_for(const bpe *k, uint64_t key) {
    uint32_t i = pair_place(k, key);
    for (int probe = 0; probe < TOK_MAX_PROBES; probe++) {
        uint64_t *p = &k->pairs[i];
        if (*p == UINT64_MAX || *p >> k->rank_bits == key) return p;
        if (++i == k->n_pairs) i = 0;
    }
    return NULL;
}

/* The token spelled as left and right together, or -1. Merges stand in the order of the tokens they
 * make, so it is mostly the last one again or the one behind it, which needs no look-up. */
static int32_t find_joined(const nib_tokenizer *t, int32_t last, nib_str left, nib_str right,
                           nib_buf *join) {
    for (int32_t id = NIB_MAX(last, 0); id <= last + 1 && id < t->info.n_vocab; id++) {
        nib_str s = tok_text(t, id);
        if (s.n == left.n + right.n && memcmp(s.p, left.p, left.n) == 0 &&
            memcmp(s.p + left.n, right.p, right.n) == 0 && tok_is_plain(t, id))
            return id;
    }
    nib_buf_clear(join);
    if (!nib_buf_put(join, left.p, left.n) || !nib_buf_put(join, right.p, right.n)) return -1;
    return tok_find_plain(t, join->data, join->len);
}

static nib_status split_merge(nib_str m, int64_t i, nib_str half[2], nib_error *e) {
    const char *space = m.n > 1 ? memchr(m.p + 1, ' ', m.n - 1) : NULL;
    if (!space)
        return nib_fail(
            e, NIB_ERR_FORMAT,
            "tokenizer.ggml.merges: entry %lld, '%.*s', is not two tokens separated by a space",
            (long long)i, (int)NIB_MIN(m.n, (size_t)60), m.p);
    half[0] = (nib_str){m.p, (size_t)(space - m.p)};
    half[1] = (nib_str){space + 1, m.n - half[0].n - 1};
    return NIB_OK;
}

/* Room for n merges, if ids and ranks fit a slot: up to 2 million tokens with 4 million merges. */
static nib_status new_pairs(bpe *k, int32_t n_vocab, int64_t n, nib_error *e) {
    while (n_vocab >> k->id_bits) k->id_bits++;
    k->rank_bits = 64 - 2 * k->id_bits;
    if (k->rank_bits < 31 && n >> k->rank_bits)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "tokenizer.ggml.merges has %lld entries: with %d tokens nib takes up to "
                        "%lld",
                        (long long)n, n_vocab, (1ll << k->rank_bits) - 1);
    size_t cap = (size_t)n + (size_t)n / 2 + 16;
    k->pairs = nib_alloc(cap * sizeof *k->pairs);
    k->made = nib_alloc((size_t)n * sizeof *k->made);
    if (!k->pairs || !k->made) return nib_fail_nomem(e, cap * sizeof *k->pairs, "the merges");
    memset(k->pairs, 0xff, cap * sizeof *k->pairs);
    k->n_pairs = (uint32_t)cap;
    return NIB_OK;
}

static nib_status load_merges(nib_tokenizer *t, bpe *k, const nib_gguf *g, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(nib_gguf_arr(g, "tokenizer.ggml.merges", true, &kv, e));
    if (kv->arr_n > INT32_MAX / 4)
        return nib_fail(e, NIB_ERR_FORMAT, "tokenizer.ggml.merges has %lld entries",
                        (long long)kv->arr_n);
    NIB_TRY(new_pairs(k, t->info.n_vocab, kv->arr_n, e));
    nib_gguf_strs it = nib_gguf_strs_of(kv);
    nib_buf join = {0};
    nib_status s = NIB_OK;
    int32_t last = -1;
    int64_t n_useless = 0;
    for (int64_t i = 0; i < kv->arr_n;) {
        nib_str halves[TOK_BATCH];
        int32_t ids[TOK_BATCH];
        int64_t n = NIB_MIN(kv->arr_n - i, TOK_BATCH / 2);
        for (int64_t j = 0; j < n; j++)
            NIB_TRY_OUT(split_merge(nib_gguf_strs_next(&it), i + j, halves + 2 * j, e));
        nib_tok_find_batch(t, halves, ids, (size_t)n * 2);
        for (int64_t j = 0; j < n; j++)
            if (ids[2 * j] >= 0 && ids[2 * j + 1] >= 0)
                __builtin_prefetch(
                    &k->pairs[pair_place(k, pair_key(k, ids[2 * j], ids[2 * j + 1]))], 1);
        for (int64_t j = 0; j < n; j++, i++) {
            int32_t left = ids[2 * j], right = ids[2 * j + 1], id = -1;
            if (left >= 0 && right >= 0 && tok_is_plain(t, left) && tok_is_plain(t, right))
                id = find_joined(t, last, halves[2 * j], halves[2 * j + 1], &join);
            if (id < 0) {
                n_useless++;
                continue;
            }
            last = id;
            uint64_t key = pair_key(k, left, right), *p = slot_for(k, key);
            if (!p) {
                s = nib_fail(e, NIB_ERR_LIMIT,
                             "tokenizer.ggml.merges: entry %lld hashes like %d others",
                             (long long)i, TOK_MAX_PROBES);
                goto out;
            }
            k->made[i] = id;
            if (*p == UINT64_MAX) *p = key << k->rank_bits | (uint64_t)i;
        }
    }
    if (n_useless)
        nib_log(NIB_LOG_WARN,
                "tokenizer.ggml.merges: %lld of %lld entries name no tokens and are left out",
                (long long)n_useless, (long long)kv->arr_n);
out:
    nib_buf_free(&join);
    return s;
}

/* Files older than tokenizer.ggml.pre, or written as "default" by converters that did not know
 * better, go by their architecture. */
static const tok_family *choose_family(const nib_tokenizer *t, const nib_gguf *g) {
    nib_str name = nib_str_c(t->pre ? t->pre : ""), arch = {0};
    const char *key = "tokenizer.ggml.pre";
    if (!name.n || nib_str_eq_c(name, "default")) {
        nib_error ignored;
        if (nib_gguf_str(g, "general.architecture", &arch, &ignored) == NIB_OK) name = arch;
        key = "no tokenizer.ggml.pre; general.architecture";
    }
    const tok_family *f = nib_tok_family(name);
    if (f) return f;
    nib_log(NIB_LOG_WARN,
            "%s '%.*s' is not known: splitting text as GPT-2 does, which may differ from the "
            "model's way",
            key, (int)NIB_MIN(name.n, (size_t)60), name.p ? name.p : "");
    return nib_tok_family(NIB_STR("gpt-2"));
}

static void fini(nib_tokenizer *t) {
    bpe *k = t->own;
    nib_tok_presplit_free(k->presplit);
    nib_free(k->pairs);
    nib_free(k->made);
    nib_free(k);
}

static nib_status init(nib_tokenizer *t, const nib_gguf *g, nib_error *e) {
    bpe *k = t->own = nib_calloc(1, sizeof *k);
    if (!k) return nib_fail_nomem(e, sizeof *k, "a tokenizer");
    k->family = choose_family(t, g);
    t->info.add_bos = k->family->flags & TOK_ADD_BOS;
    t->tidy_spaces = !(k->family->flags & TOK_KEEP_SPACES);
    spell_bytes(k);
    NIB_TRY(nib_tok_fill_pieces(t, piece_of, e));
    for (int b = 0; b < 256; b++)
        t->byte_id[b] = tok_find_plain(t, k->spelling[b], strlen(k->spelling[b]));
    NIB_TRY(nib_tok_presplit_new(&k->presplit, k->family, e));
    return load_merges(t, k, g, e);
}

static uint32_t pair_rank(const void *arg, const tok_sym *a, const tok_sym *b, int32_t *id) {
    const bpe *k = arg;
    const uint64_t *p = slot_for(k, pair_key(k, a->id, b->id));
    if (!p || *p == UINT64_MAX) return TOK_NO_PAIR;
    uint32_t rank = (uint32_t)(*p & ((1ull << k->rank_bits) - 1));
    *id = k->made[rank];
    return rank;
}

/* The token that is the whole word, or -1. */
static int32_t find_word(const nib_tokenizer *t, const bpe *k, const char *p, size_t n) {
    char text[256];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (len + 2 > sizeof text) return -1;
        const char *s = k->spelling[(uint8_t)p[i]];
        while (*s) text[len++] = *s++;
    }
    return tok_find_plain(t, text, len);
}

static nib_status encode_word(tok_call *c, const char *p, size_t n) {
    const nib_tokenizer *t = c->t;
    const bpe *k = t->own;
    if (k->family->flags & TOK_WHOLE_WORDS) {
        int32_t id = find_word(t, k, p, n);
        if (id >= 0) return nib_tok_put(c, id);
    }
    c->merge.n_sym = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(uint8_t)p[i]];
        /* A byte without a token is left out, as the models' own tokenizers do. */
        if (id >= 0 && !nib_tok_merge_push(&c->merge, (uint32_t)i, 1, id))
            return nib_fail_nomem(c->e, n * sizeof(tok_sym), "a long word");
    }
    if (!c->merge.n_sym) return NIB_OK;
    if (!nib_tok_merge_run(&c->merge, pair_rank, k))
        return nib_fail_nomem(c->e, n * sizeof(tok_sym), "a long word");
    for (int32_t i = 0; i >= 0; i = c->merge.sym[i].next)
        NIB_TRY(nib_tok_put(c, c->merge.sym[i].id));
    return NIB_OK;
}

static nib_status encode(tok_call *c, const char *p, size_t n, bool prefixed) {
    (void)prefixed;
    const bpe *k = c->t->own;
    NIB_TRY(nib_tok_clean(c, &p, &n, k->family->flags & TOK_NFC));
    return nib_tok_presplit_run(k->presplit, c, p, n, encode_word);
}

const tok_kind nib_tok_bpe = {"gpt2", "bpe", init, fini, encode};
