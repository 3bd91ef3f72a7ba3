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
    nib_model_info info;
    nib_pooling pooling;
};

/* Pages of KV: one slab, a free list. A page holds NIB_PAGE positions of all layers of one
 * sequence. */
typedef struct nib_kv_pool {
    uint8_t *slab;
    size_t page_bytes, bytes;
    int32_t n_pages, n_free;
    int32_t *free_list;
} nib_kv_pool;
nib_status nib_kv_pool_init(nib_kv_pool *p, size_t page_bytes, int64_t n_pages, nib_error *e);
void nib_kv_pool_free(nib_kv_pool *p);
/* NULL when all are taken. */
uint8_t *nib_kv_page_take(nib_kv_pool *p);
void nib_kv_page_give(nib_kv_pool *p, uint8_t *page);

/* The context an engine would run with, and its largest batch (plan.c). */
int64_t nib_resolve_ctx(const nib_model *m, const nib_engine_params *p);
int64_t nib_resolve_batch(const nib_model *m, const nib_engine_params *p, int64_t n_ctx);
/* Rows of logits kept for calls that want several at once. */
enum { NIB_LOGIT_ROWS = 16 };
#endif
