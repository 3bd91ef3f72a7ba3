/* Perplexity, and two models side by side. */
#include <math.h>
#include <stdlib.h>
#include "eval/score.h"

/* ---- estimates ---- */

/* exp of a mean, its error by the first derivative. */
static nib_estimate perplexity_of(nib_estimate nll) {
    double p = exp(nll.value);
    return (nib_estimate){p, p * nll.error};
}

nib_status nib_perplexity_measure(nib_engine *en, const char *text, size_t len,
                                  const nib_eval_params *p, nib_perplexity *out, nib_error *e) {
    nib_chunks chunks;
    NIB_TRY(nib_chunks_make(&chunks, nib_engine_model(en), text, len, p, e));
    int64_t n = nib_score_count(&chunks);
    nib_score_job j = {.chunks = &chunks,
                       .engine = {en},
                       .out = nib_calloc((size_t)n, sizeof(nib_scored)),
                       .progress = p ? p->progress : NULL,
                       .progress_arg = p ? p->progress_arg : NULL};
    nib_status s = NIB_OK;
    if (!j.out) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)n * sizeof(nib_scored), "scores"));
    NIB_TRY_OUT(nib_score(&j, e));
    *out = (nib_perplexity){
        .perplexity = perplexity_of(
            nib_mean_of(j.out[0].nll, n, (int64_t)(sizeof(nib_scored) / sizeof(double)))),
        .n_tokens = n,
        .n_chunks = chunks.n,
        .n_ctx = chunks.n_ctx,
        .tok_per_s = (double)(chunks.n * chunks.n_ctx) / NIB_MAX(j.seconds[0], 1e-9)};
out:
    nib_free(j.out);
    nib_chunks_free(&chunks);
    return s;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int64_t n, double share) {
    int64_t i = (int64_t)ceil(share * (double)n) - 1;
    return sorted[NIB_MIN(NIB_MAX(i, (int64_t)0), n - 1)];
}

static nib_status summarise(const nib_scored *r, int64_t n, nib_quality *q, nib_error *e) {
    double *v = nib_alloc((size_t)n * sizeof *v);
    if (!v) return nib_fail_nomem(e, (size_t)n * sizeof *v, "scores");
    nib_estimate nll[2];
    for (int m = 0; m < 2; m++) {
        for (int64_t i = 0; i < n; i++) v[i] = r[i].nll[m];
        nll[m] = nib_mean_of(v, n, 1);
        q->side[m].perplexity = perplexity_of(nll[m]);
    }
    /* The two err together: the change is surer than either. Var(b - a) of pb nll_b - pa nll_a. */
    double pa = q->side[0].perplexity.value, pb = q->side[1].perplexity.value;
    for (int64_t i = 0; i < n; i++) v[i] = pb * r[i].nll[1] - pa * r[i].nll[0];
    q->perplexity_change = (nib_estimate){pb - pa, nib_mean_of(v, n, 1).error};
    for (int64_t i = 0; i < n; i++) v[i] = r[i].top[0] == r[i].top[1];
    q->same_top = nib_mean_of(v, n, 1);
    for (int64_t i = 0; i < n; i++) v[i] = r[i].kl;
    q->kl = nib_mean_of(v, n, 1);
    qsort(v, (size_t)n, sizeof *v, ascending);
    q->kl_median = quantile(v, n, 0.5);
    q->kl_p99 = quantile(v, n, 0.99);
    q->kl_p999 = quantile(v, n, 0.999);
    q->kl_max = v[n - 1];
    nib_free(v);
    return NIB_OK;
}

/* ---- two models ---- */

typedef struct pair {
    const nib_quality_params *p;
    nib_model *model[2];
    nib_engine *engine[2];
    nib_chunks chunks;
    nib_score_job job;
    const char *stage;
} pair;

static bool cancelled(const pair *x) {
    return x->p->cancel && atomic_load_explicit(x->p->cancel, memory_order_relaxed);
}

static void on_score(void *arg, uint64_t done, uint64_t total) {
    pair *x = arg;
    if (x->p->progress) x->p->progress(x->p->progress_arg, x->stage, done, total);
}

static bool on_load(void *arg, uint64_t done, uint64_t total) {
    on_score(arg, done, total);
    return !cancelled(arg);
}

/* The same tokens must mean the same in both. */
static nib_status same_vocabulary(nib_model *const *m, nib_error *e) {
    const nib_tokenizer *a = nib_model_tokenizer(m[0]), *b = nib_model_tokenizer(m[1]);
    const nib_tokenizer_info *ia = nib_tokenizer_get_info(a), *ib = nib_tokenizer_get_info(b);
    static const char advice[] = "only models with one vocabulary can be compared";
    int64_t va = nib_model_get_info(m[0])->n_vocab, vb = nib_model_get_info(m[1])->n_vocab;
    if (strcmp(ia->kind, ib->kind) != 0 || strcmp(ia->pre, ib->pre) != 0)
        return nib_fail(e, NIB_ERR_ARGUMENT, "the tokenizers differ: %s %s and %s %s; %s", ia->kind,
                        ia->pre, ib->kind, ib->pre, advice);
    if (ia->n_vocab != ib->n_vocab || va != vb)
        return nib_fail(e, NIB_ERR_ARGUMENT, "the vocabularies differ: %lld and %lld tokens; %s",
                        (long long)va, (long long)vb, advice);
    for (int32_t i = 0; i < ia->n_vocab; i++) {
        nib_str x = nib_token_text(a, i), y = nib_token_text(b, i);
        if (!nib_str_eq(x, y) || nib_token_get_type(a, i) != nib_token_get_type(b, i))
            return nib_fail(
                e, NIB_ERR_ARGUMENT, "the vocabularies differ: token %d is '%.*s' and '%.*s'; %s",
                i, (int)NIB_MIN(x.n, (size_t)40), x.p, (int)NIB_MIN(y.n, (size_t)40), y.p, advice);
    }
    return NIB_OK;
}

static nib_engine_params engine_params(const pair *x) {
    nib_engine_params ep = x->p->engine;
    ep.n_ctx = x->chunks.n_ctx;
    ep.n_seq = 1;
    return ep;
}

static nib_status load(pair *x, int m, nib_error *e) {
    nib_model_params mp = {
        .n_threads = x->p->engine.n_threads, .progress = on_load, .progress_arg = x};
    nib_engine_params ep = engine_params(x);
    x->stage = m ? "Loading the second model" : "Loading the first model";
    NIB_TRY(nib_model_load(x->model[m], &mp, e));
    NIB_TRY(nib_engine_new(&x->engine[m], x->model[m], &ep, e));
    nib_engine_set_cancel(x->engine[m], x->p->cancel);
    x->job.engine[m] = x->engine[m];
    return NIB_OK;
}

static void unload(pair *x, int m) {
    nib_engine_free(x->engine[m]);
    nib_model_release(x->model[m]);
    x->engine[m] = x->job.engine[m] = NULL;
    x->model[m] = NULL;
}

/* How fast it generates: of that little, for the text takes its time already. */
static nib_status time_generation(pair *x, int m, nib_quality *q, nib_error *e) {
    enum { TOKENS = 16, RUNS = 3 };
    nib_bench_test t = {NIB_BENCH_GENERATE, NIB_MIN((int64_t)TOKENS, x->chunks.n_ctx - 1), 0, 1};
    nib_bench_result r;
    if (x->p->no_speed) return NIB_OK;
    x->stage = "Timing generation";
    on_score(x, 0, 1);
    NIB_TRY(nib_bench_run(x->engine[m], &t, RUNS, NULL, &r, e));
    q->side[m].generate_per_s = r.median;
    return NIB_OK;
}

static nib_status both(pair *x, nib_quality *q, nib_error *e) {
    for (int m = 0; m < 2; m++) NIB_TRY(load(x, m, e));
    x->stage = "Comparing";
    NIB_TRY(nib_score(&x->job, e));
    for (int m = 0; m < 2; m++) NIB_TRY(time_generation(x, m, q, e));
    return NIB_OK;
}

static nib_status one_after_the_other(pair *x, nib_quality *q, nib_error *e) {
    nib_logfile file = {0};
    nib_status s;
    NIB_TRY_OUT(nib_logfile_open(&file, nib_score_count(&x->chunks),
                                 nib_model_get_info(x->model[0])->n_vocab, e));
    NIB_TRY_OUT(load(x, 0, e));
    x->stage = "Reading with the first model";
    x->job.to = &file;
    NIB_TRY_OUT(nib_score(&x->job, e));
    NIB_TRY_OUT(time_generation(x, 0, q, e));
    unload(x, 0);
    NIB_TRY_OUT(load(x, 1, e));
    NIB_TRY_OUT(nib_logfile_rewind(&file, e));
    x->stage = "Reading with the second model";
    x->job.to = NULL;
    x->job.from = &file;
    NIB_TRY_OUT(nib_score(&x->job, e));
    NIB_TRY_OUT(time_generation(x, 1, q, e));
out:
    nib_logfile_close(&file);
    return s;
}

static void describe(const pair *x, int m, nib_quality_side *out) {
    const nib_model_info *info = nib_model_get_info(x->model[m]);
    nib_engine_params ep = x->p->engine;
    nib_plan plan;
    ep.n_ctx = 0;
    nib_engine_plan(x->model[m], &ep, &plan);
    snprintf(out->name, sizeof out->name, "%s", info->name);
    snprintf(out->path, sizeof out->path, "%s", info->path);
    snprintf(out->quant, sizeof out->quant, "%s", info->quant);
    out->file_bytes = info->file_bytes;
    out->memory = plan.total;
}

/* Whether memory holds both at once; NIB_ERR_MEMORY_FIT when not even one. */
static nib_status plan(const pair *x, bool *together, nib_error *e) {
    nib_engine_params ep = engine_params(x);
    nib_plan plan[2];
    *together = !x->p->one_at_a_time;
    if (ep.ignore_memory) return NIB_OK;
    for (int m = 0; m < 2; m++) {
        NIB_TRY(nib_engine_check(x->model[m], &ep, e));
        nib_engine_plan(x->model[m], &ep, &plan[m]);
    }
    uint64_t beside = nib_score_memory(nib_model_get_info(x->model[0])->n_vocab);
    if (plan[0].total + plan[1].total + beside > plan[0].available) *together = false;
    return NIB_OK;
}

static nib_status open_pair(pair *x, const char *const *paths, nib_error *e) {
    nib_model_params mp = {.plan_only = true};
    for (int m = 0; m < 2; m++) {
        NIB_TRY(nib_model_open(&x->model[m], paths[m], &mp, e));
        if (!nib_model_get_info(x->model[m])->causal)
            return nib_fail(e, NIB_ERR_UNSUPPORTED,
                            "'%s' is an embedding model: it predicts no tokens", paths[m]);
    }
    return same_vocabulary(x->model, e);
}

nib_status nib_quality_compare(const char *reference, const char *other, const char *text,
                               size_t len, const nib_quality_params *p, nib_quality *out,
                               nib_error *e) {
    static const nib_quality_params none;
    const char *const paths[2] = {reference, other};
    pair x = {.p = p ? p : &none};
    nib_quality q = {0};
    nib_status s;
    NIB_TRY_OUT(open_pair(&x, paths, e));
    nib_eval_params ep = x.p->eval;
    if (!ep.n_ctx)
        ep.n_ctx = NIB_MIN(nib_chunk_length(x.model[0], &ep), nib_chunk_length(x.model[1], &ep));
    NIB_TRY_OUT(nib_chunks_make(&x.chunks, x.model[0], text, len, &ep, e));
    int64_t n = nib_score_count(&x.chunks);
    x.job = (nib_score_job){.chunks = &x.chunks,
                            .out = nib_calloc((size_t)n, sizeof(nib_scored)),
                            .progress = on_score,
                            .progress_arg = &x};
    if (!x.job.out) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)n * sizeof(nib_scored), "scores"));
    for (int m = 0; m < 2; m++) describe(&x, m, &q.side[m]);
    bool together;
    NIB_TRY_OUT(plan(&x, &together, e));
    q.one_at_a_time = !together;
    NIB_TRY_OUT(together ? both(&x, &q, e) : one_after_the_other(&x, &q, e));
    q.n_tokens = n;
    q.n_chunks = x.chunks.n;
    q.n_ctx = x.chunks.n_ctx;
    for (int m = 0; m < 2; m++)
        q.side[m].read_per_s =
            (double)(x.chunks.n * x.chunks.n_ctx) / NIB_MAX(x.job.seconds[m], 1e-9);
    NIB_TRY_OUT(summarise(x.job.out, n, &q, e));
    *out = q;
out:
    for (int m = 0; m < 2; m++) unload(&x, m);
    nib_chunks_free(&x.chunks);
    nib_free(x.job.out);
    return s;
}
