/* What a run needs, reckoned before anything is taken, and what this machine has. */
#include "engine/internal.h"

int64_t nib_resolve_batch(const nib_model *m, const nib_engine_params *p, int64_t n_ctx) {
    int64_t n = p->batch > 0 ? p->batch : 512;
    if (!m->desc.causal) n = n_ctx; /* an encoder sees its whole text at once */
    return NIB_MIN(n, n_ctx);
}

int64_t nib_resolve_pages(const nib_engine_params *p, int64_t n_ctx) {
    int64_t one = (n_ctx + NIB_PAGE - 1) / NIB_PAGE;
    if (p->kv_tokens <= 0) return one * NIB_MAX(p->n_seq, 1);
    return NIB_MAX(one, (p->kv_tokens + NIB_PAGE - 1) / NIB_PAGE);
}

/* The longest context the model itself allows: learnt positions end, rotations only get worse. */
static int64_t model_limit(const nib_model *m) {
    return m->desc.pos_embd.data ? m->desc.pos_embd.n : (int64_t)1 << 24;
}

static void needs(const nib_model *m, const nib_engine_params *p, nib_kv_type kv, int64_t n_ctx,
                  nib_plan *out) {
    size_t memory = 0, scratch = 0, page = nib_decoder_page_bytes(&m->desc, kv);
    nib_decoder_measure(&m->desc, nib_resolve_batch(m, p, n_ctx), &memory, &scratch);
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    uint64_t threads = (uint64_t)(p->n_threads > 0 ? p->n_threads : si.n_core);
    uint64_t pages = (uint64_t)nib_resolve_pages(p, n_ctx);
    out->n_ctx = n_ctx;
    out->weights = 0;
    for (int64_t i = 0; i < m->n_uploads && !m->loaded; i++) {
        const nib_upload *u = &m->uploads[i];
        uint64_t own = nib_upload_bytes(
            u, false); /* else it stays in the file's mapping, which must be held too */
        out->weights += own ? own : (uint64_t)u->mat->stride * (uint64_t)u->mat->n;
    }
    out->kv = pages * page;
    out->scratch = memory + scratch * threads +
                   (uint64_t)NIB_MAX((int)NIB_LOGIT_ROWS, p->n_seq) * (uint64_t)m->desc.n_vocab *
                       sizeof(float);
    out->total = out->weights + out->kv + out->scratch;
}

/* The largest context, a multiple of 256, that fits what is available; 0 when not even 256 does. */
static int64_t largest(const nib_model *m, const nib_engine_params *p, nib_kv_type kv,
                       uint64_t available) {
    if (!nib_decoder_page_bytes(&m->desc, kv)) return 0;
    int64_t limit = NIB_MIN(m->desc.n_ctx_train, model_limit(m)), lo = 0, hi = (limit + 255) / 256;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        nib_plan plan;
        needs(m, p, kv, NIB_MIN(mid * 256, limit), &plan);
        if (plan.total <= available)
            lo = mid;
        else
            hi = mid - 1;
    }
    return NIB_MIN(lo * 256, limit);
}

/* Not the last byte: the system and other programs live here too. */
static uint64_t available_bytes(void) {
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    uint64_t keep = NIB_MIN(si.mem_total / 20, (uint64_t)1 << 30);
    return si.mem_available > keep ? si.mem_available - keep : 0;
}

int64_t nib_resolve_ctx(const nib_model *m, const nib_engine_params *p) {
    int64_t n = p->n_ctx;
    if (n == NIB_CTX_AUTO)
        n = NIB_MAX(largest(m, p, p->kv, available_bytes()), 256);
    else if (n <= 0)
        n = NIB_MIN((int64_t)NIB_CTX_DEFAULT, m->desc.n_ctx_train);
    return NIB_MIN(n, model_limit(m));
}

void nib_engine_plan(const nib_model *m, const nib_engine_params *p, nib_plan *out) {
    uint64_t available = available_bytes();
    needs(m, p, p->kv, nib_resolve_ctx(m, p), out);
    out->available = available;
    out->fits = out->total <= available;
    out->ctx_fits = largest(m, p, p->kv, available);
    out->ctx_fits_q8_0 = largest(m, p, NIB_KV_Q8_0, available);
}
