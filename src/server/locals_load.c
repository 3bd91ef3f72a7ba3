/* Loading a model: planned for before anything is taken, so that what cannot be loaded leaves
 * everything as it was.
 *
 * Beside others a model is loaded only when it fits as a whole and leaves the machine some memory;
 * alone it may have to do with a smaller cache. */
#include "server/internal.h"

static bool on_progress(void *arg, uint64_t done, uint64_t total) {
    nib_loading *l = arg;
    atomic_store(&l->total, total);
    atomic_store(&l->done, done);
    return !atomic_load(l->quit);
}

/* What must stay free when a further model comes. */
static uint64_t margin(void) {
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    return NIB_MIN(si.mem_total / 20, (uint64_t)2 << 30);
}

static nib_status check(nib_loading *l, const nib_model *m, nib_engine_params p, nib_error *e) {
    nib_plan plan;
    nib_engine_plan(m, &p, &plan);
    l->held = plan.total;
    if (!l->alone) {
        l->crowded =
            plan.total + margin() > plan.available || (l->most && plan.total + l->others > l->most);
        if (!l->crowded) return NIB_OK;
        return nib_fail(e, NIB_ERR_MEMORY_FIT, "there is no room beside other models");
    }
    if (p.ignore_memory) return NIB_OK;
    p.kv_tokens = plan.n_ctx; /* one whole context must fit; how many more, make_engine sees */
    return nib_engine_check(m, &p, e);
}

/* The engine with as many pages as asked for, or with fewer when memory does not suffice. */
static nib_status make_engine(nib_loading *l, nib_model *m, nib_engine_params p, nib_engine **out,
                              nib_error *e) {
    nib_status status = nib_engine_new(out, m, &p, e);
    if (status != NIB_ERR_MEMORY_FIT && status != NIB_ERR_NOMEM) return status;
    nib_plan plan;
    nib_engine_plan(m, &p, &plan);
    for (int64_t share = NIB_MAX(p.n_seq, 1) / 2; share >= 1; share /= 2) {
        nib_error inner;
        p.kv_tokens = plan.n_ctx * share;
        if (nib_engine_new(out, m, &p, &inner) != NIB_OK) continue;
        nib_log(NIB_LOG_WARN,
                "%s: memory holds the cache of %lld whole contexts, not %d: more replies at a time "
                "share it",
                l->name, (long long)share, p.n_seq);
        return NIB_OK;
    }
    return status;
}

void nib_locals_load(nib_loading *l) {
    nib_error *e = &l->error;
    nib_model *m = NULL;
    nib_engine *en = NULL;
    nib_model_params mp = l->params;
    nib_engine_params p = l->engine;
    double start = nib_now();
    mp.plan_only = true;
    mp.progress = on_progress;
    mp.progress_arg = l;
    nib_status s = nib_model_open(&m, l->path, &mp, e);
    if (s == NIB_OK && !nib_model_get_info(m)->causal) p.n_seq = 1;
    if (s == NIB_OK) s = check(l, m, p, e);
    if (s == NIB_OK) s = nib_model_load(m, &mp, e);
    if (s == NIB_OK) s = make_engine(l, m, p, &en, e);
    if (s == NIB_OK) nib_web_attach(l->server, en);
    nib_sched_params sp = {.n_queue = l->n_queue};
    if (s == NIB_OK) s = nib_sched_new(&l->sched, en, &sp, e);
    nib_model_release(m);
    l->seconds = nib_now() - start;
    l->status = s;
}
