/* Running a model: sequences, and forward passes over their new tokens.
 *
 * A call's tokens are cut into chunks of at most 'batch'; tokens of several sequences share a
 * chunk. Everything a step needs was allocated when the engine was made; a decode step allocates
 * nothing but, every 64th token, takes a page.
 *
 * A page that others refer to is never written: grow() copies the last page of a sequence first
 * when it is shared. When the pool is empty, pages that are only kept for later (prefix.c) are
 * given up. */
#include <math.h>
#include "engine/internal.h"

struct nib_seq {
    nib_engine *en;
    nib_seq *prev, *next;
    nib_ids tokens;
    uint8_t **pages;
    int64_t n_pages, n_published; /* the first n_published pages are known */
};

struct nib_engine {
    nib_model *m;
    nib_backend *be;
    nib_decoder dec;
    nib_kv_pool pool;
    nib_prefix *prefix; /* NULL until something is published */
    nib_saver *saver;   /* NULL: no page store */
    nib_seq *seqs;
    int64_t n_ctx, batch;
    int n_seq;
    const atomic_bool *cancel;
    const nib_observer *observer;
    /* one pass */
    int32_t *ids;
    int64_t *pos, *outputs;
    nib_run *runs;
    int runs_cap;
    float *logits; /* [logit_rows, V] */
    int64_t logit_rows;
    bool fast; /* prompts may be multiplied by rounded weights */
    size_t logits_bytes;
};

nib_status nib_engine_check(const nib_model *m, const nib_engine_params *p, nib_error *e) {
    nib_plan plan;
    nib_engine_plan(m, p, &plan);
    if (plan.fits) return NIB_OK;
    char advice[160];
    if (plan.ctx_fits > 0 && plan.ctx_fits_q8_0 > plan.ctx_fits)
        snprintf(advice, sizeof advice, "--ctx %lld fits, or --ctx %lld with --kv q8_0",
                 (long long)plan.ctx_fits, (long long)plan.ctx_fits_q8_0);
    else if (plan.ctx_fits > 0)
        snprintf(advice, sizeof advice, "--ctx %lld fits", (long long)plan.ctx_fits);
    else if (plan.ctx_fits_q8_0 > 0)
        snprintf(advice, sizeof advice, "--ctx %lld with --kv q8_0 fits",
                 (long long)plan.ctx_fits_q8_0);
    else
        snprintf(advice, sizeof advice, "close other programs or use a smaller model");
    char weights[48] = "";
    if (plan.weights)
        snprintf(weights, sizeof weights, "%.0f MB weights, ", (double)plan.weights / 1e6);
    return nib_fail(e, NIB_ERR_MEMORY_FIT,
                    "a context of %lld tokens needs %.0f MB (%s%.0f MB KV, %.0f MB buffers) but "
                    "%.0f MB are free: %s",
                    (long long)plan.n_ctx, (double)plan.total / 1e6, weights, (double)plan.kv / 1e6,
                    (double)plan.scratch / 1e6, (double)plan.available / 1e6, advice);
}

nib_status nib_engine_new(nib_engine **out, nib_model *m, const nib_engine_params *params,
                          nib_error *e) {
    nib_engine_params p = params ? *params : (nib_engine_params){0};
    if (!m->loaded)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s' was opened without its weights", m->info.path);
    if (p.n_ctx > (int64_t)1 << 24)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "a context of %lld tokens is beyond what nib runs (16777216)",
                        (long long)p.n_ctx);
    if (m->desc.pos_embd.data && p.n_ctx > m->desc.pos_embd.n)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "this model has %lld positions: a context of %lld is not possible",
                        (long long)m->desc.pos_embd.n, (long long)p.n_ctx);
    if (!nib_kv_suits_machine(p.kv))
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "a bf16 cache is for processors with AMX, and this one runs %s: use --kv "
                        "i16, which is as large",
                        nib_kernels_get()->name);
    if (!nib_decoder_page_bytes(&m->desc, p.kv))
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "a %s cache does not suit heads that are %d wide: use --kv f16",
                        nib_kv_name(p.kv), m->desc.d);
    if (!p.ignore_memory) NIB_TRY(nib_engine_check(m, &p, e));
    nib_engine *en = nib_calloc(1, sizeof *en);
    if (!en) return nib_fail_nomem(e, sizeof *en, "the engine");
    nib_status s;
    en->m = nib_model_retain(m);
    en->n_ctx = nib_resolve_ctx(m, &p);
    en->batch = nib_resolve_batch(m, &p, en->n_ctx);
    en->n_seq = NIB_MAX(p.n_seq, 1);
    en->fast = p.fast_prompt && nib_kernels_get()->matmul_fast;
    en->runs_cap = (int)NIB_MIN(en->batch, (int64_t)4096);
    en->logit_rows = NIB_MAX((int64_t)NIB_LOGIT_ROWS, (int64_t)en->n_seq);
    en->logits_bytes = (size_t)en->logit_rows * (size_t)m->desc.n_vocab * sizeof(float);
    NIB_TRY_OUT(nib_backend_new(&en->be, p.n_threads, e));
    NIB_TRY_OUT(nib_decoder_new(&en->dec, &m->desc, p.kv, en->n_ctx, en->batch, e));
    NIB_TRY_OUT(nib_backend_reserve(en->be, en->dec.scratch_bytes, e));
    NIB_TRY_OUT(nib_kv_pool_init(&en->pool, nib_decoder_page_bytes(&m->desc, p.kv),
                                 nib_resolve_pages(&p, en->n_ctx), e));
    en->ids = nib_alloc((size_t)en->batch * sizeof *en->ids);
    en->pos = nib_alloc((size_t)en->batch * sizeof *en->pos);
    en->outputs = nib_alloc((size_t)en->batch * sizeof *en->outputs);
    en->runs = nib_alloc((size_t)en->runs_cap * sizeof *en->runs);
    en->logits = m->desc.head.w.data ? nib_alloc_pages(en->logits_bytes) : NULL;
    if (!en->ids || !en->pos || !en->outputs || !en->runs || (m->desc.head.w.data && !en->logits)) {
        s = nib_fail_nomem(e, en->logits_bytes, "the engine");
        goto out;
    }
    *out = en;
    return NIB_OK;
out:
    nib_engine_free(en);
    return s;
}

void nib_engine_free(nib_engine *en) {
    if (!en) return;
    nib_saver_free(en->saver);
    while (en->seqs) nib_seq_free(en->seqs);
    nib_free(en->ids);
    nib_free(en->pos);
    nib_free(en->outputs);
    nib_free(en->runs);
    nib_free_pages(en->logits, en->logits_bytes);
    nib_prefix_free(en->prefix);
    nib_kv_pool_free(&en->pool);
    nib_decoder_free(&en->dec);
    nib_backend_free(en->be);
    nib_model_release(en->m);
    nib_free(en);
}

nib_model *nib_engine_model(const nib_engine *en) {
    return en->m;
}
int64_t nib_engine_n_ctx(const nib_engine *en) {
    return en->n_ctx;
}
int64_t nib_engine_batch(const nib_engine *en) {
    return en->batch;
}
int nib_engine_n_seq(const nib_engine *en) {
    return en->n_seq;
}
nib_kv_type nib_engine_kv_type(const nib_engine *en) {
    return en->dec.kv;
}
int nib_engine_threads(const nib_engine *en) {
    return nib_backend_threads(en->be);
}

void nib_engine_profile(nib_engine *en, nib_profile *profiles) {
    nib_backend_profile(en->be, profiles);
}
void nib_engine_observe(nib_engine *en, const nib_observer *observer) {
    en->observer = observer;
}
void nib_engine_set_cancel(nib_engine *en, const atomic_bool *flag) {
    en->cancel = flag;
}

/* ---- sequences ---- */

nib_status nib_seq_new(nib_seq **out, nib_engine *en, nib_error *e) {
    nib_seq *s = nib_calloc(1, sizeof *s);
    size_t n = (size_t)((en->n_ctx + NIB_PAGE - 1) / NIB_PAGE);
    if (s) s->pages = nib_calloc(n, sizeof *s->pages);
    if (!s || !s->pages) {
        nib_free(s);
        return nib_fail_nomem(e, n * sizeof(void *), "a sequence");
    }
    s->en = en;
    s->next = en->seqs;
    if (s->next) s->next->prev = s;
    en->seqs = s;
    *out = s;
    return NIB_OK;
}

void nib_seq_free(nib_seq *s) {
    if (!s) return;
    nib_seq_rewind(s, 0);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->en->seqs = s->next;
    if (s->next) s->next->prev = s->prev;
    nib_ids_free(&s->tokens);
    nib_free(s->pages);
    nib_free(s);
}

int64_t nib_seq_len(const nib_seq *s) {
    return (int64_t)s->tokens.len;
}
const int32_t *nib_seq_tokens(const nib_seq *s) {
    return s->tokens.data;
}

void nib_seq_rewind(nib_seq *s, int64_t n_keep) {
    if (n_keep < 0) n_keep = 0;
    if (n_keep < (int64_t)s->tokens.len) s->tokens.len = (size_t)n_keep;
    int64_t need = ((int64_t)s->tokens.len + NIB_PAGE - 1) / NIB_PAGE;
    while (s->n_pages > need) nib_kv_page_give(&s->en->pool, s->pages[--s->n_pages]);
    s->n_published = NIB_MIN(s->n_published, (int64_t)s->tokens.len / NIB_PAGE);
}

static uint8_t *take_page(nib_engine *en) {
    uint8_t *page;
    while (!(page = nib_kv_page_take(&en->pool)) &&
           (nib_prefix_evict(en->prefix, &en->pool) || nib_saver_release(en->saver))) {
    }
    return page;
}

static nib_status no_page(const nib_engine *en, nib_error *e) {
    return nib_fail(e, NIB_ERR_LIMIT, "the KV cache is full: all %d pages of %d tokens are in use",
                    en->pool.n_pages, NIB_PAGE);
}

/* The page that the next token goes to must be the sequence's own. */
static nib_status own_last(nib_seq *s, nib_error *e) {
    nib_engine *en = s->en;
    int64_t last = (int64_t)s->tokens.len / NIB_PAGE;
    if (s->tokens.len % NIB_PAGE == 0 ||
        en->pool.refs[nib_kv_page_index(&en->pool, s->pages[last])] == 1)
        return NIB_OK;
    uint8_t *page = take_page(en);
    if (!page) return no_page(en, e);
    memcpy(page, s->pages[last], en->pool.page_bytes);
    nib_kv_page_give(&en->pool, s->pages[last]);
    s->pages[last] = page;
    return NIB_OK;
}

/* Room for n more tokens: pages, and the list of ids. The sequence's length does not change. */
static nib_status grow(nib_seq *s, int64_t n, nib_error *e) {
    nib_engine *en = s->en;
    int64_t len = (int64_t)s->tokens.len;
    if (n > en->n_ctx - len)
        return nib_fail(e, NIB_ERR_CONTEXT,
                        "the context is %lld tokens: %lld are in use and %lld more do not fit",
                        (long long)en->n_ctx, (long long)len, (long long)n);
    int64_t need = (len + n + NIB_PAGE - 1) / NIB_PAGE, had = s->n_pages;
    if (n > 0) NIB_TRY(own_last(s, e));
    while (s->n_pages < need) {
        uint8_t *page = take_page(en);
        if (!page) {
            while (s->n_pages > had) nib_kv_page_give(&en->pool, s->pages[--s->n_pages]);
            return no_page(en, e);
        }
        s->pages[s->n_pages++] = page;
    }
    return NIB_OK;
}

nib_status nib_seq_reserve(nib_seq *s, int64_t n, nib_error *e) {
    return grow(s, n, e);
}

/* ---- sharing ---- */

int64_t nib_seq_adopt(nib_seq *s, const int32_t *ids, int64_t n) {
    nib_engine *en = s->en;
    int32_t page = -1;
    if (s->tokens.len || s->n_pages || !en->prefix) return (int64_t)s->tokens.len;
    int64_t most = NIB_MIN(n, en->n_ctx) / NIB_PAGE;
    for (; s->n_pages < most; s->n_pages++) {
        const int32_t *tokens = ids + s->n_pages * NIB_PAGE;
        if ((page = nib_prefix_find(en->prefix, page, tokens)) < 0) break;
        if (!nib_ids_append(&s->tokens, tokens, NIB_PAGE)) {
            s->tokens.failed = false;
            break;
        }
        s->pages[s->n_pages] = nib_kv_page_share(&en->pool, nib_kv_page_at(&en->pool, page));
    }
    s->n_published = s->n_pages;
    return (int64_t)s->tokens.len;
}

void nib_seq_publish(nib_seq *s) {
    nib_engine *en = s->en;
    nib_kv_pool *pool = &en->pool;
    int64_t whole = (int64_t)s->tokens.len / NIB_PAGE;
    if (s->n_published >= whole || !en->m->desc.causal) return;
    if (!en->prefix && !(en->prefix = nib_prefix_new(pool->n_pages))) return;
    for (; s->n_published < whole; s->n_published++) {
        int64_t i = s->n_published;
        int32_t before = i ? nib_kv_page_index(pool, s->pages[i - 1]) : -1,
                page = nib_kv_page_index(pool, s->pages[i]);
        const int32_t *tokens = s->tokens.data + i * NIB_PAGE;
        int32_t known = nib_prefix_find(en->prefix, before, tokens);
        if (known >= 0 && known != page) { /* someone was faster: one copy is enough */
            nib_kv_page_give(pool, s->pages[i]);
            s->pages[i] = nib_kv_page_share(pool, nib_kv_page_at(pool, known));
        } else if (known < 0) {
            nib_prefix_add(en->prefix, page, before, tokens);
            nib_kv_page_share(pool, s->pages[i]);
        }
    }
}

nib_status nib_seq_fork(nib_seq *s, const nib_seq *from, int64_t n, nib_error *e) {
    if (s->tokens.len || s->en != from->en || n < 0 || n > (int64_t)from->tokens.len)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected an empty sequence of the same engine and at most %zu tokens, "
                        "found %lld",
                        from->tokens.len, (long long)n);
    if (!nib_ids_append(&s->tokens, from->tokens.data, (size_t)n)) {
        s->tokens.failed = false;
        return nib_fail_nomem(e, (size_t)n * sizeof *from->tokens.data, "tokens");
    }
    nib_kv_pool *pool = &s->en->pool;
    while (s->n_pages) nib_kv_page_give(pool, s->pages[--s->n_pages]); /* reserved, perhaps */
    for (; s->n_pages * NIB_PAGE < n; s->n_pages++)
        s->pages[s->n_pages] = nib_kv_page_share(pool, from->pages[s->n_pages]);
    s->n_published = NIB_MIN(from->n_published, n / NIB_PAGE);
    return NIB_OK;
}

/* ---- pages beyond memory ---- */

nib_status nib_engine_set_store(nib_engine *en, const nib_page_store *p, nib_error *e) {
    if (en->saver || !en->m->desc.causal)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected an engine of a model that writes, without a page store");
    return nib_saver_new(&en->saver, p, &en->pool, e);
}

bool nib_engine_has_store(const nib_engine *en) {
    return en->saver != NULL;
}

size_t nib_engine_page_bytes(const nib_engine *en) {
    return en->pool.page_bytes;
}

void nib_engine_kv_traits(const nib_engine *en, nib_buf *out) {
    const nib_model *m = en->m;
    nib_buf_printf(out, "pages %d of %d tokens, %zu bytes, type %d, floats %d, fast %d\n",
                   NIB_KV_VERSION, NIB_PAGE, en->pool.page_bytes, (int)en->dec.kv, m->f32,
                   en->fast);
    for (int64_t i = 0; i < m->n_uploads; i++)
        nib_buf_printf(out, "%s %d\n", m->uploads[i].name, (int)m->uploads[i].as);
    for (int i = 0; i < NIB_ROPE_TABLES; i++) { /* some models rotate by the context's length */
        const nib_rope *r = &en->dec.rope[i];
        nib_buf_printf(out, "rotation %d, %d, %a\n", (int)r->kind, r->n_rot, (double)r->mscale);
        if (r->n_rot) nib_buf_put(out, r->freq, (size_t)(r->n_rot / 2) * sizeof *r->freq);
    }
}

int64_t nib_seq_restore(nib_seq *s, const int32_t *ids, int64_t n, int64_t owner) {
    nib_engine *en = s->en;
    nib_page_key key = {{0}};
    int64_t most = NIB_MIN(n, en->n_ctx) / NIB_PAGE;
    if (!en->saver || s->n_pages * NIB_PAGE != (int64_t)s->tokens.len) return nib_seq_len(s);
    const nib_page_store *p = nib_saver_store(en->saver);
    for (int64_t i = 0; i < most; i++) {
        const int32_t *tokens = ids + i * NIB_PAGE;
        const nib_page_key before = key;
        p->name(p->arg, &before, tokens, &key);
        if (i < s->n_pages) continue;
        uint8_t *page = take_page(en);
        if (!page) break;
        if (!p->fetch(p->arg, owner, &key, tokens, page) ||
            !nib_ids_append(&s->tokens, tokens, NIB_PAGE)) {
            s->tokens.failed = false;
            nib_kv_page_give(&en->pool, page);
            break;
        }
        s->pages[s->n_pages++] = page;
    }
    nib_seq_publish(s);
    return nib_seq_len(s);
}

void nib_seq_keep(const nib_seq *s, int64_t owner) {
    if (s->en->saver)
        nib_saver_put(s->en->saver, owner, s->pages, s->tokens.data,
                      (int64_t)s->tokens.len / NIB_PAGE);
}

void nib_engine_flush_store(nib_engine *en) {
    nib_saver_flush(en->saver);
}

nib_kv_usage nib_engine_kv(const nib_engine *en) {
    nib_saver_reap(en->saver);
    return (nib_kv_usage){en->pool.n_pages, en->pool.n_free,
                          nib_prefix_spare(en->prefix, &en->pool)};
}

void nib_engine_forget(nib_engine *en) {
    while (nib_prefix_evict(en->prefix, &en->pool)) {
    }
}

void nib_engine_rest(nib_engine *en) {
    nib_decoder_rest(&en->dec);
    nib_backend_rest(en->be);
    nib_drop_pages(en->logits, en->logits ? en->logits_bytes : 0);
    nib_kv_pool_rest(&en->pool);
    nib_alloc_trim();
}

static nib_status check_ids(const nib_engine *en, const int32_t *ids, int64_t n, nib_error *e) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= en->m->desc.n_vocab)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "token id %d at position %lld is out of range: the vocabulary has %lld",
                            ids[i], (long long)i, (long long)en->m->desc.n_vocab);
    return NIB_OK;
}

static bool cancelled(const nib_engine *en) {
    return en->cancel && atomic_load_explicit(en->cancel, memory_order_relaxed);
}

/* ---- passes ---- */

/* The pass being put together. */
typedef struct build {
    nib_batch b;
    int64_t n;
} build;

/* Adds ids to the pass as the next tokens of s. Pages were grown. */
static void add_run(nib_engine *en, build *x, nib_seq *s, int64_t at, const int32_t *ids,
                    int64_t n) {
    en->runs[x->b.n_runs++] = (nib_run){x->n, n, at, s->pages, x->n};
    for (int64_t i = 0; i < n; i++) {
        en->ids[x->n] = ids[i];
        en->pos[x->n++] = at + i;
    }
}

static void run(nib_engine *en, build *x, float *hidden, bool logits) {
    x->b.n_tok = x->n;
    x->b.ids = en->ids;
    x->b.pos = en->pos;
    x->b.runs = en->runs;
    x->b.outputs = en->outputs;
    x->b.hidden = hidden;
    x->b.logits = logits ? en->logits : NULL;
    x->b.observer = en->observer;
    x->b.fast = en->fast;
    nib_decoder_run(&en->dec, en->be, &x->b);
}

static nib_status need_head(const nib_engine *en, nib_error *e) {
    if (en->logits) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "'%s' is an embedding model (%s): it has no logits; use nib embed",
                    en->m->info.name, en->m->info.arch);
}

/* Who wants logits of every token, and memory for it: a pass's hidden states, and logits of some of
 * them at a time, so that the pass itself need not be cut so small. */
typedef struct every {
    nib_logits_fn each;
    void *arg;
    float *hidden, *logits;
    int64_t rows; /* of logits */
} every;

static nib_status every_start(every *x, const nib_engine *en, int64_t n, nib_error *e) {
    enum { SLAB = 32 << 20 };
    size_t e_row = (size_t)en->m->desc.n_embd, v_row = (size_t)en->m->desc.n_vocab;
    int64_t n_tok = NIB_MIN(en->batch, n), fit = (int64_t)(SLAB / sizeof(float) / v_row);
    x->rows = NIB_MIN(NIB_MAX(fit, (int64_t)1), n_tok);
    size_t floats = (size_t)n_tok * e_row + (size_t)x->rows * v_row;
    x->hidden = nib_alloc(floats * sizeof(float));
    if (!x->hidden) return nib_fail_nomem(e, floats * sizeof(float), "logits");
    x->logits = x->hidden + (size_t)n_tok * e_row;
    return NIB_OK;
}

static void every_show(const every *x, nib_engine *en, int64_t first, int64_t n) {
    for (int64_t t = 0; t < n; t += x->rows) {
        int64_t rows = NIB_MIN(x->rows, n - t);
        nib_decoder_head(&en->dec, en->be, x->hidden + t * en->m->desc.n_embd, rows, x->logits);
        for (int64_t i = 0; i < rows; i++)
            x->each(x->arg, first + t + i, x->logits + i * en->m->desc.n_vocab);
    }
}

/* Prefill in chunks; 'all' may be NULL. */
static nib_status eval(nib_seq *s, const int32_t *ids, int64_t n, const float **logits, every *all,
                       nib_error *e) {
    nib_engine *en = s->en;
    NIB_TRY(need_head(en, e));
    NIB_TRY(check_ids(en, ids, n, e));
    if (n <= 0) return nib_fail(e, NIB_ERR_ARGUMENT, "no tokens to evaluate");
    int64_t step = NIB_MIN(en->batch, n), start = (int64_t)s->tokens.len;
    nib_status st = all ? every_start(all, en, n, e) : NIB_OK;
    if (st == NIB_OK) st = grow(s, n, e);
    for (int64_t i = 0; i < n && st == NIB_OK; i += step) {
        int64_t m = NIB_MIN(step, n - i);
        bool last = i + m == n;
        if (cancelled(en)) {
            nib_seq_rewind(s, (int64_t)s->tokens.len);
            st = nib_fail(e, NIB_ERR_CANCELLED, "interrupted after %lld of %lld tokens",
                          (long long)i, (long long)n);
            break;
        }
        if (!nib_ids_append(&s->tokens, ids + i, (size_t)m)) {
            s->tokens.failed = false;
            nib_seq_rewind(s, start);
            st = nib_fail_nomem(e, (size_t)m * sizeof *ids, "tokens");
            break;
        }
        build x = {0};
        add_run(en, &x, s, start + i, ids + i, m);
        if (all) {
            for (int64_t t = 0; t < m; t++) en->outputs[t] = t;
            x.b.n_out = m;
        } else if (last && logits) {
            en->outputs[0] = m - 1;
            x.b.n_out = 1;
        }
        run(en, &x, all ? all->hidden : NULL, !all && x.b.n_out > 0);
        if (all) every_show(all, en, i, m);
    }
    if (all) nib_free(all->hidden);
    if (st == NIB_OK && logits) *logits = en->logits;
    return st;
}

nib_status nib_seq_eval(nib_seq *s, const int32_t *ids, int64_t n, const float **logits,
                        nib_error *e) {
    return eval(s, ids, n, logits, NULL, e);
}

nib_status nib_seq_eval_all(nib_seq *s, const int32_t *ids, int64_t n, nib_logits_fn each,
                            void *arg, nib_error *e) {
    every all = {.each = each, .arg = arg};
    return eval(s, ids, n, NULL, &all, e);
}

nib_status nib_engine_step(nib_engine *en, nib_step *items, int n_items, nib_error *e) {
    NIB_TRY(need_head(en, e));
    int64_t total = 0;
    for (int i = 0; i < n_items; i++) {
        if (items[i].seq->en != en || items[i].n < 1)
            return nib_fail(e, NIB_ERR_ARGUMENT, "step item %d is empty or of another engine", i);
        NIB_TRY(check_ids(en, items[i].ids, items[i].n, e));
        for (int j = 0; j < i; j++)
            if (items[j].seq == items[i].seq)
                return nib_fail(e, NIB_ERR_ARGUMENT, "step items %d and %d are the same sequence",
                                j, i);
        total += items[i].n;
    }
    if (n_items < 1 || n_items > en->logit_rows || total > en->batch)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "a step of %d sequences, %lld tokens: expected 1 to %lld sequences, at "
                        "most %lld tokens",
                        n_items, (long long)total, (long long)en->logit_rows, (long long)en->batch);
    if (cancelled(en)) return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
    build x = {0};
    int i = 0;
    nib_status s = NIB_OK;
    for (; i < n_items; i++) {
        nib_step *it = &items[i];
        int64_t at = (int64_t)it->seq->tokens.len;
        NIB_TRY_OUT(grow(it->seq, it->n, e));
        if (!nib_ids_append(&it->seq->tokens, it->ids, (size_t)it->n)) {
            it->seq->tokens.failed = false;
            s = nib_fail_nomem(e, (size_t)it->n * sizeof *it->ids, "tokens");
            goto out;
        }
        add_run(en, &x, it->seq, at, it->ids, it->n);
        if (!it->silent) en->outputs[x.b.n_out++] = x.n - 1;
    }
    run(en, &x, NULL, x.b.n_out > 0);
    int64_t row = 0;
    for (i = 0; i < n_items; i++)
        items[i].logits = items[i].silent ? NULL : en->logits + row++ * en->m->desc.n_vocab;
    return NIB_OK;
out:
    while (i-- > 0) nib_seq_rewind(items[i].seq, (int64_t)items[i].seq->tokens.len - items[i].n);
    return s;
}

/* ---- embeddings ---- */

static void normalise_row(float *v, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    float scale = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
    for (int64_t i = 0; i < n; i++) v[i] *= scale;
}

nib_status nib_engine_hidden(nib_engine *en, const int32_t *ids, int64_t n, float *out,
                             nib_error *e) {
    NIB_TRY(check_ids(en, ids, n, e));
    if (n <= 0) return nib_fail(e, NIB_ERR_ARGUMENT, "no tokens to embed");
    nib_seq *s;
    NIB_TRY(nib_seq_new(&s, en, e));
    nib_status st = grow(s, n, e);
    int64_t width = en->m->desc.n_embd;
    for (int64_t i = 0; st == NIB_OK && i < n; i += en->batch) {
        if (cancelled(en)) {
            st = nib_fail(e, NIB_ERR_CANCELLED, "interrupted after %lld of %lld tokens",
                          (long long)i, (long long)n);
            break;
        }
        build x = {0};
        int64_t m = NIB_MIN(en->batch, n - i);
        add_run(en, &x, s, i, ids + i, m);
        for (int64_t t = 0; t < m; t++) en->outputs[t] = t;
        x.b.n_out = m;
        run(en, &x, out + i * width, false);
    }
    nib_seq_free(s);
    return st;
}

nib_status nib_engine_embed(nib_engine *en, const int32_t *ids, int64_t n, bool normalise,
                            float *out, nib_error *e) {
    size_t width = (size_t)en->m->desc.n_embd, bytes;
    if (n < 0 || !nib_mul_size((size_t)n * sizeof(float), width, &bytes))
        return nib_fail(e, NIB_ERR_ARGUMENT, "%lld tokens are too many to embed", (long long)n);
    float *hidden = nib_alloc(bytes);
    if (!hidden) return nib_fail_nomem(e, bytes, "hidden states");
    nib_status s = nib_engine_hidden(en, ids, n, hidden, e);
    if (s == NIB_OK) {
        const float *row = hidden + (en->m->pooling == NIB_POOL_LAST ? (size_t)(n - 1) * width : 0);
        memcpy(out, row, width * sizeof *out);
        if (en->m->pooling == NIB_POOL_MEAN) {
            for (int64_t t = 1; t < n; t++)
                for (size_t i = 0; i < width; i++) out[i] += hidden[(size_t)t * width + i];
            for (size_t i = 0; i < width; i++) out[i] /= (float)n;
        }
        if (normalise) normalise_row(out, (int64_t)width);
    }
    nib_free(hidden);
    return s;
}
