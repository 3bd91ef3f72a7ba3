/* Merging neighbours by rank: the loop at the heart of byte-pair encoding and of SentencePiece's
 * BPE.
 *
 * Symbols form a linked list; a heap holds one 64-bit number for each pair that may merge, rank
 * above, position below, so that the smallest is the next merge and equal ranks go left to right.
 * Entries of pairs that have changed since stay in the heap and are recognised when they come up:
 * the symbol's present rank is another. Each merge adds two entries at most, so a word of n symbols
 * costs O(n log n). The heap is 4-ary: half the levels, and the children share a cache line. */
#include "tokenizer/internal.h"

bool nib_tok_merge_push(tok_merge *m, uint32_t at, uint32_t n, int32_t id) {
    if (m->n_sym == m->cap_sym) {
        size_t cap = m->cap_sym ? m->cap_sym * 2 : 64;
        tok_sym *sym = nib_realloc(m->sym, cap * sizeof *sym);
        if (!sym) return false;
        m->sym = sym, m->cap_sym = cap;
    }
    int32_t i = (int32_t)m->n_sym++;
    m->sym[i] =
        (tok_sym){.at = at, .n = n, .prev = i - 1, .next = -1, .id = id, .rank = TOK_NO_PAIR};
    if (i) m->sym[i - 1].next = i;
    return true;
}

static void sift_up(uint64_t *h, size_t i) {
    uint64_t v = h[i];
    while (i && h[(i - 1) / 4] > v) {
        h[i] = h[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    h[i] = v;
}

static void sift_down(uint64_t *h, size_t n, size_t i) {
    uint64_t v = h[i];
    for (;;) {
        size_t child = i * 4 + 1, least = child;
        if (child >= n) break;
        size_t end = NIB_MIN(child + 4, n);
        for (size_t k = child + 1; k < end; k++)
            if (h[k] < h[least]) least = k;
        if (h[least] >= v) break;
        h[i] = h[least];
        i = least;
    }
    h[i] = v;
}

/* Looks at the pair (i, its next) anew. The heap has room: see nib_tok_merge_run. */
static void look(tok_merge *m, int32_t i, tok_pair_fn pair, const void *arg) {
    tok_sym *a = &m->sym[i];
    a->rank = a->next < 0 ? TOK_NO_PAIR : pair(arg, a, &m->sym[a->next], &a->merged);
    if (a->rank == TOK_NO_PAIR) return;
    m->heap[m->n_heap++] = (uint64_t)a->rank << 32 | (uint32_t)i;
}

bool nib_tok_merge_run(tok_merge *m, tok_pair_fn pair, const void *arg) {
    /* n - 1 pairs at first; each of at most n - 1 merges takes one entry out and puts two in. */
    size_t need = m->n_sym * 2 + 2;
    if (need > m->cap_heap) {
        uint64_t *heap = nib_realloc(m->heap, need * sizeof *heap);
        if (!heap) return false;
        m->heap = heap, m->cap_heap = need;
    }
    m->n_heap = 0;
    for (size_t i = 0; i < m->n_sym; i++) look(m, (int32_t)i, pair, arg);
    for (size_t i = m->n_heap / 4 + 1; i-- > 0;)
        if (i < m->n_heap) sift_down(m->heap, m->n_heap, i);
    while (m->n_heap) {
        uint64_t top = m->heap[0];
        m->heap[0] = m->heap[--m->n_heap];
        sift_down(m->heap, m->n_heap, 0);
        int32_t i = (int32_t)(uint32_t)top;
        tok_sym *a = &m->sym[i];
        if (a->rank != (uint32_t)(top >> 32)) continue;
        tok_sym *b = &m->sym[a->next];
        a->n += b->n;
        a->id = a->merged;
        a->next = b->next;
        b->n = 0;
        b->rank = TOK_NO_PAIR;
        if (a->next >= 0) m->sym[a->next].prev = i;
        for (int k = 0; k < 2; k++) {
            size_t before = m->n_heap;
            int32_t at = k ? a->prev : i;
            if (at >= 0) look(m, at, pair, arg);
            if (m->n_heap > before) sift_up(m->heap, before);
        }
    }
    return true;
}

void nib_tok_merge_free(tok_merge *m) {
    nib_free(m->sym);
    nib_free(m->heap);
    *m = (tok_merge){0};
}
