/* The pool of KV pages: one mapping, whose memory the system hands out as pages are first written.
 *
 * Pages are counted references: sequences that begin alike share the pages of their beginning, and
 * the prefix index (prefix.c) holds one reference to each page it knows. A page with more than one
 * reference is never written. */
#include "engine/internal.h"

nib_status nib_kv_pool_init(nib_kv_pool *out, size_t page_bytes, int64_t n_pages, nib_error *e) {
    nib_kv_pool p = {.page_bytes = page_bytes};
    if (n_pages < 1 || n_pages > INT32_MAX || !nib_mul_size(page_bytes, (size_t)n_pages, &p.bytes))
        return nib_fail(e, NIB_ERR_LIMIT, "a KV cache of %lld pages of %zu bytes is too large",
                        (long long)n_pages, page_bytes);
    p.n_pages = p.n_free = (int32_t)n_pages;
    p.free_list = nib_alloc((size_t)n_pages * sizeof *p.free_list);
    p.refs = nib_calloc((size_t)n_pages, sizeof *p.refs);
    p.slab = nib_alloc_pages(p.bytes);
    if (!p.free_list || !p.refs || !p.slab) {
        nib_kv_pool_free(&p);
        return nib_fail_nomem(e, p.bytes, "the KV cache");
    }
    for (int32_t i = 0; i < p.n_pages; i++) p.free_list[i] = p.n_pages - 1 - i; /* lowest first */
    *out = p;
    return NIB_OK;
}

void nib_kv_pool_free(nib_kv_pool *p) {
    nib_free(p->free_list);
    nib_free(p->refs);
    if (p->slab) nib_free_pages(p->slab, p->bytes);
    *p = (nib_kv_pool){0};
}

void nib_kv_pool_rest(nib_kv_pool *p) {
    for (int32_t i = 0, end; i < p->n_pages; i = end + 1) {
        for (end = i; end < p->n_pages && !p->refs[end];) end++;
        nib_drop_pages(nib_kv_page_at(p, i), (size_t)(end - i) * p->page_bytes);
    }
}

int32_t nib_kv_page_index(const nib_kv_pool *p, const uint8_t *page) {
    return (int32_t)((size_t)(page - p->slab) / p->page_bytes);
}

uint8_t *nib_kv_page_at(const nib_kv_pool *p, int32_t i) {
    return p->slab + (size_t)i * p->page_bytes;
}

uint8_t *nib_kv_page_take(nib_kv_pool *p) {
    if (!p->n_free) return NULL;
    int32_t i = p->free_list[--p->n_free];
    p->refs[i] = 1;
    return nib_kv_page_at(p, i);
}

uint8_t *nib_kv_page_share(nib_kv_pool *p, uint8_t *page) {
    p->refs[nib_kv_page_index(p, page)]++;
    return page;
}

void nib_kv_page_give(nib_kv_pool *p, uint8_t *page) {
    int32_t i = nib_kv_page_index(p, page);
    if (--p->refs[i] == 0) p->free_list[p->n_free++] = i;
}
