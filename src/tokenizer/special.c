/* Finding special tokens in a text, in time linear in the text whatever the tokens are.
 *
 * The wanted cut is leftmost-longest. "The longest token that starts at i", for every i, is what an
 * Aho-Corasick automaton (Aho, Corasick 1975) of the reversed tokens gives when the text is read
 * from its end: its state is the longest string that stands at i and ends some token, and the
 * longest token among that string's prefixes is found by following failure links, which is done
 * once, when the automaton is built. The caller then walks the hits from the left and skips those
 * that begin inside a token already taken.
 *
 * Almost every step of ordinary text stays in the root, which is one table look-up: a byte leaves
 * the root only when it is the last byte of a special token. */
#include "tokenizer/internal.h"

static bool is_control(uint8_t type) {
    return type == NIB_TOKEN_CONTROL || type == NIB_TOKEN_UNKNOWN;
}

static uint32_t next_state(const tok_special *s, uint32_t node, uint8_t byte) {
    for (;;) {
        uint32_t child = tok_trie_step(&s->trie, node, byte);
        if (child || !node) return child;
        node = s->fail[node];
    }
}

/* Failure links need shorter strings first. A node is created after its parent, so its depth is
 * known when it is reached; counting sort by depth gives the order. */
static nib_status link_nodes(nib_tokenizer *t, nib_error *e) {
    tok_special *s = &t->special;
    uint32_t n = s->trie.n_nodes;
    uint32_t *depth = nib_calloc(n, sizeof *depth),
             *start = nib_calloc((size_t)n + 1, sizeof *start);
    uint32_t *order = nib_calloc(n, sizeof *order);
    s->fail = nib_calloc(n, sizeof *s->fail);
    s->any = nib_calloc(n, sizeof *s->any);
    s->user = nib_calloc(n, sizeof *s->user);
    nib_status st = NIB_OK;
    if (!depth || !start || !order || !s->fail || !s->any || !s->user) {
        st = nib_fail_nomem(e, n * 24, "special tokens");
        goto out;
    }
    for (uint32_t i = 1; i < n; i++) depth[i] = depth[s->trie.parent[i] >> 8] + 1;
    for (uint32_t i = 0; i < n; i++) start[depth[i] + 1]++;
    for (uint32_t d = 1; d < n; d++) start[d] += start[d - 1];
    for (uint32_t i = 0; i < n; i++) order[start[depth[i]]++] = i;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = order[k], up = s->trie.parent[i] >> 8;
        if (i && up) s->fail[i] = next_state(s, s->fail[up], (uint8_t)s->trie.parent[i]);
        int32_t id = s->trie.value[i];
        s->any[i] = id >= 0 ? id : i ? s->any[s->fail[i]] : -1;
        s->user[i] = id >= 0 && !is_control(t->type[id]) ? id : i ? s->user[s->fail[i]] : -1;
    }
out:
    nib_free(depth);
    nib_free(start);
    nib_free(order);
    return st;
}

nib_status nib_tok_special_init(nib_tokenizer *t, nib_error *e) {
    tok_special *s = &t->special;
    for (int32_t id = 0; id < t->info.n_vocab; id++) {
        bool user = t->type[id] == NIB_TOKEN_USER;
        nib_str text = tok_text(t, id);
        if (!(user || is_control(t->type[id])) || !text.n) continue;
        s->has_user |= user;
        if (!nib_tok_trie_add(&s->trie, text.p, text.n, true, id))
            return nib_fail(
                e, NIB_ERR_LIMIT,
                "tokenizer.ggml.tokens: out of memory for special tokens, more than 16 MiB "
                "of them, or made to collide");
    }
    return s->trie.n_nodes ? link_nodes(t, e) : NIB_OK;
}

void nib_tok_special_free(tok_special *s) {
    nib_tok_trie_free(&s->trie);
    nib_free(s->fail);
    nib_free(s->any);
    nib_free(s->user);
    *s = (tok_special){0};
}

bool nib_tok_special_find(const nib_tokenizer *t, const char *p, size_t n, bool control,
                          tok_hits *hits) {
    const tok_special *s = &t->special;
    if (!s->trie.n_nodes || !(control || s->has_user)) return true;
    const int32_t *best = control ? s->any : s->user;
    uint32_t root[256];
    for (int b = 0; b < 256; b++) root[b] = tok_trie_step(&s->trie, 0, (uint8_t)b);
    uint32_t node = 0;
    for (size_t i = n; i-- > 0;) {
        uint8_t byte = (uint8_t)p[i];
        node = node ? next_state(s, node, byte) : root[byte];
        if (!node || best[node] < 0) continue;
        if (hits->len == hits->cap) {
            size_t cap = hits->cap ? hits->cap * 2 : 64;
            tok_hit *more = nib_realloc(hits->data, cap * sizeof *more);
            if (!more) return false;
            hits->data = more, hits->cap = cap;
        }
        hits->data[hits->len++] = (tok_hit){(uint32_t)i, best[node]};
    }
    return true;
}
