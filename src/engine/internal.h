/* What the engine's files share. */
#ifndef NIB_ENGINE_INTERNAL_H
#define NIB_ENGINE_INTERNAL_H
#include "arch/arch.h"
#include "engine/engine.h"

struct nib_model {
    atomic_int refs;
    nib_gguf *gguf;
    nib_tokenizer *tokenizer;
    nib_arena arena; /* the description and all small tensors */
    nib_desc desc;   /* n_layer 0 when only the vocabulary was read */
    nib_upload *uploads;
    int64_t n_uploads;
    bool loaded; /* the weights are here */
    bool f32;    /* as floats */
    nib_model_info info;
    nib_pooling pooling;
};

/* Pages of KV: one slab, a free list, a count of references each. A page holds NIB_PAGE positions
 * of all layers of one sequence, or of several that begin alike. */
typedef struct nib_kv_pool {
    uint8_t *slab;
    size_t page_bytes, bytes;
    int32_t n_pages, n_free;
    int32_t *free_list, *refs;
} nib_kv_pool;
nib_status nib_kv_pool_init(nib_kv_pool *p, size_t page_bytes, int64_t n_pages, nib_error *e);
void nib_kv_pool_free(nib_kv_pool *p);
/* With one reference; NULL when all are taken. */
uint8_t *nib_kv_page_take(nib_kv_pool *p);
uint8_t *nib_kv_page_share(nib_kv_pool *p, uint8_t *page); /* one reference more; returns page */
void nib_kv_page_give(nib_kv_pool *p, uint8_t *page);      /* one less; without any it is free */
void nib_kv_pool_rest(nib_kv_pool *p);                     /* gives the memory of free pages back */
int32_t nib_kv_page_index(const nib_kv_pool *p, const uint8_t *page);
uint8_t *nib_kv_page_at(const nib_kv_pool *p, int32_t i);

/* The index of known beginnings (prefix.c). Pages by their number in the pool; 'before' is the page
 * before, or -1. */
typedef struct nib_prefix nib_prefix;
nib_prefix *nib_prefix_new(int32_t n_pages); /* NULL when out of memory */
void nib_prefix_free(nib_prefix *x);
/* The page that holds these NIB_PAGE tokens behind 'before', or -1; it counts as used now. */
int32_t nib_prefix_find(nib_prefix *x, int32_t before, const int32_t *tokens);
/* Makes a page known that is not; its reference is the caller's to give. */
void nib_prefix_add(nib_prefix *x, int32_t page, int32_t before, const int32_t *tokens);
/* Gives back the page that nobody used for longest; false when every known page is in use. */
bool nib_prefix_evict(nib_prefix *x, nib_kv_pool *pool);
/* How many pages could be given back so. */
int32_t nib_prefix_spare(const nib_prefix *x, const nib_kv_pool *pool);

/* Pages on their way to a page store (saver.c). All calls from the engine's thread. */
typedef struct nib_saver nib_saver;
nib_status nib_saver_new(nib_saver **out, const nib_page_store *store, nib_kv_pool *pool,
                         nib_error *e);
void nib_saver_free(nib_saver *v); /* once everything is written */
const nib_page_store *nib_saver_store(const nib_saver *v);
/* Pages of one timeline from its beginning, which get a reference until they are written. */
void nib_saver_put(nib_saver *v, int64_t owner, uint8_t *const *pages, const int32_t *tokens,
                   int64_t n);
/* Gives back references: of what is written, or else of what is not yet. False: there are none. */
bool nib_saver_release(nib_saver *v);
void nib_saver_reap(nib_saver *v);  /* references to what is written */
void nib_saver_flush(nib_saver *v); /* waits until everything is written */

/* The context an engine would run with, its largest batch, and the pages of its pool (plan.c). */
int64_t nib_resolve_ctx(const nib_model *m, const nib_engine_params *p);
int64_t nib_resolve_batch(const nib_model *m, const nib_engine_params *p, int64_t n_ctx);
int64_t nib_resolve_pages(const nib_engine_params *p, int64_t n_ctx);
/* Rows of logits kept for calls that want several at once. */
enum { NIB_LOGIT_ROWS = 16 };
#endif
