/* /benchmark: how fast this model reads a prompt and writes a reply here.
 *
 * On a second engine over the same weights, so that the conversation keeps its cache. */
#include "cli/repl.h"
#include "eval/eval.h"

enum { RUNS = 5, PROMPT = 512, GENERATE = 64 };

static nib_status measure(nib_repl *r, const nib_bench_test *t, nib_bench_result *out,
                          nib_error *e) {
    nib_engine_params p = *nib_host_params();
    nib_engine *engine;
    p.n_ctx = nib_bench_context(t);
    p.n_seq = t->batch;
    NIB_TRY(nib_engine_new(&engine, r->host.model, &p, e));
    nib_engine_set_cancel(engine, &nib_cancel);
    nib_status s = nib_bench_run(engine, t, RUNS, NULL, out, e);
    nib_engine_free(engine);
    return s;
}

nib_status nib_repl_benchmark(nib_repl *r, nib_error *e) {
    const nib_style *st = nib_style_of(stdout);
    const nib_model_info *m = nib_model_get_info(r->host.model);
    int64_t n_ctx = nib_engine_n_ctx(r->host.engine);
    const struct {
        const char *name;
        nib_bench_test test;
    } rows[] = {{"prompt", {NIB_BENCH_PROMPT, NIB_MIN((int64_t)PROMPT, n_ctx - 1), 0, 1}},
                {"generation", {NIB_BENCH_GENERATE, NIB_MIN((int64_t)GENERATE, n_ctx - 1), 0, 1}}};
    printf("%s, %s, %d threads: mean of %d runs after a warm-up\n", m->name, m->quant,
           nib_engine_threads(r->host.engine), RUNS);
    nib_interrupt_clear();
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        nib_bench_result result;
        if (r->interactive) printf("%smeasuring ...%s", st->dim, st->reset);
        fflush(stdout);
        nib_status s = measure(r, &rows[i].test, &result, e);
        if (r->interactive) printf("\r\033[K");
        if (s == NIB_ERR_CANCELLED) return nib_host_cancelled(r->cli, e);
        NIB_TRY(s);
        printf("%s%-10s%s %4lld tokens  %8.1f +- %.1f tok/s\n", st->cyan, rows[i].name, st->reset,
               (long long)result.test.n, result.mean, result.deviation);
    }
    printf("%s%-10s%s %s used by nib\n", st->cyan, "memory", st->reset, nib_bytes_text(nib_rss()));
    return NIB_OK;
}
