/* What was computed before and may be used again: an index over full pages.
 *
 * A known page stands for 64 tokens behind the page before them, so the pages form a tree whose
 * paths from the root are beginnings of texts; a path is found by hashing (page before, tokens) and
 * comparing both. Since a position's keys and values are the same bits whenever and however they
 * were computed, a sequence that takes pages from here continues exactly as if it had computed
 * them.
 *
 * A page is in the tree at most once, so nodes are numbered as pages are. The index holds one
 * reference to each; when the pool is empty, the leaf that was not used for longest goes, unless a
 * sequence holds it. A sequence that holds a page holds all before it, so what is on a path to a
 * page in use is never taken. */
#include "engine/internal.h"

enum { NONE = -1, ABSENT = -2 };

typedef struct node {
    int32_t tokens[NIB_PAGE];
    int32_t before; /* NONE: the text begins here; ABSENT: this page is not known */
    int32_t n_after, next;
    uint64_t used;
} node;

struct nib_prefix {
    node *nodes;
    int32_t *heads; /* chains of nodes by hash */
    uint32_t n_heads;
    int32_t n_pages, n_known;
    uint64_t clock;
};

nib_prefix *nib_prefix_new(int32_t n_pages) {
    nib_prefix *x = nib_calloc(1, sizeof *x);
    if (!x) return NULL;
    x->n_pages = n_pages;
    x->n_heads = 16;
    while (x->n_heads < (uint32_t)n_pages) x->n_heads *= 2;
    x->nodes = nib_calloc((size_t)n_pages, sizeof *x->nodes);
    x->heads = nib_alloc(x->n_heads * sizeof *x->heads);
    if (!x->nodes || !x->heads) {
        nib_prefix_free(x);
        return NULL;
    }
    for (int32_t i = 0; i < n_pages; i++) x->nodes[i].before = ABSENT;
    for (uint32_t i = 0; i < x->n_heads; i++) x->heads[i] = NONE;
    return x;
}

void nib_prefix_free(nib_prefix *x) {
    if (!x) return;
    nib_free(x->nodes);
    nib_free(x->heads);
    nib_free(x);
}

static int32_t *head_of(const nib_prefix *x, int32_t before, const int32_t *tokens) {
    uint64_t h = nib_hash(tokens, NIB_PAGE * sizeof *tokens, (uint64_t)(int64_t)before);
    return &x->heads[h & (x->n_heads - 1)];
}

int32_t nib_prefix_find(nib_prefix *x, int32_t before, const int32_t *tokens) {
    if (!x) return NONE;
    for (int32_t i = *head_of(x, before, tokens); i != NONE; i = x->nodes[i].next) {
        node *n = &x->nodes[i];
        if (n->before != before || memcmp(n->tokens, tokens, sizeof n->tokens) != 0) continue;
        n->used = ++x->clock;
        return i;
    }
    return NONE;
}

void nib_prefix_add(nib_prefix *x, int32_t page, int32_t before, const int32_t *tokens) {
    node *n = &x->nodes[page];
    int32_t *head = head_of(x, before, tokens);
    memcpy(n->tokens, tokens, sizeof n->tokens);
    n->before = before;
    n->n_after = 0;
    n->used = ++x->clock;
    n->next = *head;
    *head = page;
    if (before != NONE) x->nodes[before].n_after++;
    x->n_known++;
}

static void forget(nib_prefix *x, int32_t page) {
    node *n = &x->nodes[page];
    int32_t *at = head_of(x, n->before, n->tokens);
    while (*at != page) at = &x->nodes[*at].next;
    *at = n->next;
    if (n->before != NONE) x->nodes[n->before].n_after--;
    n->before = ABSENT;
    x->n_known--;
}

bool nib_prefix_evict(nib_prefix *x, nib_kv_pool *pool) {
    int32_t oldest = NONE;
    for (int32_t i = 0; x && x->n_known && i < x->n_pages; i++) {
        const node *n = &x->nodes[i];
        if (n->before == ABSENT || n->n_after || pool->refs[i] > 1) continue;
        if (oldest == NONE || n->used < x->nodes[oldest].used) oldest = i;
    }
    if (oldest == NONE) return false;
    forget(x, oldest);
    nib_kv_page_give(pool, nib_kv_page_at(pool, oldest));
    return true;
}

int32_t nib_prefix_spare(const nib_prefix *x, const nib_kv_pool *pool) {
    int32_t n = 0;
    for (int32_t i = 0; x && x->n_known && i < x->n_pages; i++)
        n += x->nodes[i].before != ABSENT && pool->refs[i] == 1;
    return n;
}
