/* Merging neighbours by rank: the loop at the heart of byte-pair encoding and of SentencePiece's
 * BPE.
 *
 * Symbols form a linked list. The next merge is the pair of the smallest (rank, position), and that
 * pair is always a local minimum: no pair that overlaps it comes before it. So the heap holds only
 * local minima, each as one 64-bit number, rank above, position below; a run of equal characters
 * keeps a heap of one. A merge changes two pairs and may make local minima of those two and of the
 * two beside them. Entries of pairs that have changed since stay in the heap and are recognised
 * when they come up: the symbol's present rank is another. A word of n symbols costs O(n log n) at
 * worst. The heap is 4-ary: half the levels, and the children share a cache line. */
#include "tokenizer/internal.h"

bool nib_tok_merge_push(tok_merge *m, uint32_t at, uint32_t n, int32_t id) {
    if (m->n_sym == m->cap_sym) {
        size_t cap = m->cap_sym ? m->cap_sym * 2 : 64;
        tok_sym *sym = nib_realloc(m->sym, cap * sizeof *sym);
        if (!sym) return false;
        m->sym = sym, m->cap_sym = cap;
    }
    int32_t i = (int32_t)m->n_sym++;
    m->sym[i] = (tok_sym){.at = at,
                          .n = n,
                          .prev = i - 1,
                          .next = -1,
                          .id = id,
                          .rank = TOK_NO_PAIR,
                          .queued = TOK_NO_PAIR};
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

static void sift_down(uint64_t *h, size_t n) {
    size_t i = 0;
    uint64_t v = h[0];
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

/* Looks at the pair (i, its next) anew. */
static void look(tok_merge *m, int32_t i, tok_pair_fn pair, const void *arg) {
    tok_sym *a = &m->sym[i];
    a->rank = a->next < 0 ? TOK_NO_PAIR : pair(arg, a, &m->sym[a->next], &a->merged);
}

/* Queues the pair at i if it is a local minimum that is not queued yet. */
static bool offer(tok_merge *m, int32_t i) {
    if (i < 0) return true;
    tok_sym *a = &m->sym[i];
    if (a->rank == TOK_NO_PAIR || a->queued == a->rank) return true;
    if (a->prev >= 0 && m->sym[a->prev].rank <= a->rank) return true;
    if (m->sym[a->next].rank < a->rank) return true;
    if (m->n_heap == m->cap_heap) {
        size_t cap = m->cap_heap ? m->cap_heap * 2 : 64;
        uint64_t *heap = nib_realloc(m->heap, cap * sizeof *heap);
        if (!heap) return false;
        m->heap = heap, m->cap_heap = cap;
    }
    a->queued = a->rank;
    m->heap[m->n_heap] = (uint64_t)a->rank << 32 | (uint32_t)i;
    sift_up(m->heap, m->n_heap++);
    return true;
}

bool nib_tok_merge_run(tok_merge *m, tok_pair_fn pair, const void *arg) {
    m->n_heap = 0;
    for (size_t i = 0; i < m->n_sym; i++) look(m, (int32_t)i, pair, arg);
    for (size_t i = 0; i < m->n_sym; i++)
        if (!offer(m, (int32_t)i)) return false;
    while (m->n_heap) {
        uint64_t top = m->heap[0];
        m->heap[0] = m->heap[--m->n_heap];
        sift_down(m->heap, m->n_heap);
        __builtin_prefetch(&m->sym[(uint32_t)m->heap[0]]); /* most likely the next one */
        int32_t i = (int32_t)(uint32_t)top;
        tok_sym *a = &m->sym[i];
        if (a->queued == (uint32_t)(top >> 32)) a->queued = TOK_NO_PAIR;
        if (a->rank != (uint32_t)(top >> 32)) continue;
        tok_sym *b = &m->sym[a->next];
        a->n += b->n;
        a->id = a->merged;
        a->next = b->next;
        b->n = 0;
        b->rank = TOK_NO_PAIR;
        if (a->next >= 0) m->sym[a->next].prev = i;
        look(m, i, pair, arg);
        if (a->prev >= 0) look(m, a->prev, pair, arg);
        if (!offer(m, a->next) || !offer(m, i) || !offer(m, a->prev)) return false;
        if (a->prev >= 0 && !offer(m, m->sym[a->prev].prev)) return false;
    }
    return true;
}

void nib_tok_merge_free(tok_merge *m) {
    nib_free(m->sym);
    nib_free(m->heap);
    *m = (tok_merge){0};
}
