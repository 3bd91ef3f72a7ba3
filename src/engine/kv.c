/* The pool of KV pages: one mapping, whose memory the system hands out as pages are first written.
 */
#include "engine/internal.h"

nib_status nib_kv_pool_init(nib_kv_pool *out, size_t page_bytes, int64_t n_pages, nib_error *e) {
    nib_kv_pool p = {.page_bytes = page_bytes};
    if (n_pages < 1 || n_pages > INT32_MAX || !nib_mul_size(page_bytes, (size_t)n_pages, &p.bytes))
        return nib_fail(e, NIB_ERR_LIMIT, "a KV cache of %lld pages of %zu bytes is too large",
                        (long long)n_pages, page_bytes);
    p.n_pages = p.n_free = (int32_t)n_pages;
    p.free_list = nib_alloc((size_t)n_pages * sizeof *p.free_list);
    p.slab = nib_alloc_pages(p.bytes);
    if (!p.free_list || !p.slab) {
        nib_free(p.free_list);
        nib_free_pages(p.slab, p.bytes);
        return nib_fail_nomem(e, p.bytes, "the KV cache");
    }
    for (int32_t i = 0; i < p.n_pages; i++) p.free_list[i] = p.n_pages - 1 - i; /* lowest first */
    *out = p;
    return NIB_OK;
}

void nib_kv_pool_free(nib_kv_pool *p) {
    nib_free(p->free_list);
    nib_free_pages(p->slab, p->bytes);
    *p = (nib_kv_pool){0};
}

uint8_t *nib_kv_page_take(nib_kv_pool *p) {
    return p->n_free ? p->slab + (size_t)p->free_list[--p->n_free] * p->page_bytes : NULL;
}

void nib_kv_page_give(nib_kv_pool *p, uint8_t *page) {
    p->free_list[p->n_free++] = (int32_t)((size_t)(page - p->slab) / p->page_bytes);
}
