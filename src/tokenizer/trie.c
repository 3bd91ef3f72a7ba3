/* A trie over bytes whose edges share one open-addressing hash table: as large as the strings
 * added, whatever the alphabet, and one probe a step. */
#include "tokenizer/internal.h"

enum { MAX_NODES = 1 << 24 }; /* (node, byte) is a 32-bit key */

static bool put_edge(tok_trie *t, tok_edge edge) {
    for (uint32_t k = 0; k < TOK_MAX_PROBES; k++) {
        tok_edge *e = &t->edges[tok_trie_place(t, edge.key, k)];
        if (e->child) continue;
        *e = edge;
        return true;
    }
    return false;
}

static bool grow_edges(tok_trie *t) {
    if (t->edges && t->n_nodes <= (t->mask + 1) / 2) return true;
    tok_trie wide = {.mask = t->edges ? t->mask * 2 + 1 : 255};
    wide.edges = nib_calloc((size_t)wide.mask + 1, sizeof *wide.edges);
    bool ok = wide.edges;
    for (uint32_t i = 0; ok && t->edges && i <= t->mask; i++)
        if (t->edges[i].child) ok = put_edge(&wide, t->edges[i]);
    if (!ok) {
        nib_free(wide.edges);
        return false;
    }
    nib_free(t->edges);
    t->edges = wide.edges, t->mask = wide.mask;
    return true;
}

static bool new_node(tok_trie *t, uint32_t parent) {
    if (t->n_nodes == t->cap) {
        if (t->cap >= MAX_NODES) return false;
        uint32_t cap = t->cap ? t->cap * 2 : 256;
        int32_t *value = nib_realloc(t->value, cap * sizeof *value);
        if (!value) return false;
        t->value = value;
        uint32_t *up = nib_realloc(t->parent, cap * sizeof *up);
        if (!up) return false;
        t->parent = up;
        t->cap = cap;
    }
    t->value[t->n_nodes] = -1;
    t->parent[t->n_nodes++] = parent;
    return true;
}

bool nib_tok_trie_add(tok_trie *t, const char *p, size_t n, bool reversed, int32_t value) {
    if (!t->n_nodes && !new_node(t, 0)) return false;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)p[reversed ? n - 1 - i : i];
        uint32_t child = tok_trie_step(t, node, byte);
        if (!child) {
            if (!grow_edges(t)) return false;
            child = t->n_nodes;
            if (!new_node(t, node << 8 | byte)) return false;
            if (!put_edge(t, (tok_edge){node << 8 | byte, child})) return false;
        }
        node = child;
    }
    t->value[node] = value;
    return true;
}

void nib_tok_trie_free(tok_trie *t) {
    nib_free(t->edges);
    nib_free(t->value);
    nib_free(t->parent);
    *t = (tok_trie){0};
}
