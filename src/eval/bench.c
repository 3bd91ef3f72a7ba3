/* Speed: prompts and generation, at depth and in batches. The tokens are random (speed does not
 * depend on them), drawn from a fixed seed, never control tokens. */
#include <math.h>
#include <stdlib.h>
#include "eval/eval.h"

enum { MAX_REPS = 1000, MAX_BATCH = 256 };

const char *nib_bench_name(const nib_bench_test *t, char *buf, size_t n) {
    int len =
        snprintf(buf, n, "%s%lld", t->kind == NIB_BENCH_PROMPT ? "pp" : "tg", (long long)t->n);
    if (t->depth) len += snprintf(buf + len, n - (size_t)len, " @%lld", (long long)t->depth);
    if (t->batch > 1) snprintf(buf + len, n - (size_t)len, " x%d", t->batch);
    return buf;
}

int64_t nib_bench_context(const nib_bench_test *t) {
    return t->depth + t->n + 1;
}

uint64_t nib_bench_token_bytes(const nib_model *m) {
    const nib_gguf *g = nib_model_gguf(m);
    const nib_tensor *table = nib_gguf_tensor(g, "token_embd.weight");
    uint64_t all = nib_model_get_info(m)->weight_bytes;
    return table && nib_gguf_tensor(g, "output.weight") ? all - table->bytes : all;
}

static void draw(const nib_engine *en, int32_t *ids, int64_t n, uint64_t seed) {
    const nib_tokenizer *t = nib_model_tokenizer(nib_engine_model(en));
    int64_t n_vocab = nib_model_get_info(nib_engine_model(en))->n_vocab;
    nib_rng r = {seed, 0};
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(nib_rng_u64(&r) % (uint64_t)n_vocab);
        if (nib_token_get_type(t, ids[i]) == NIB_TOKEN_CONTROL) i--;
    }
}

static nib_status generate(nib_engine *en, const nib_bench_test *t, nib_seq **seqs,
                           const int32_t *ids, nib_error *e) {
    nib_step steps[MAX_BATCH];
    for (int64_t i = 0; i < t->n; i++) {
        for (int b = 0; b < t->batch; b++)
            steps[b] = (nib_step){.seq = seqs[b], .ids = &ids[(i + b) % t->n], .n = 1};
        NIB_TRY(nib_engine_step(en, steps, t->batch, e));
    }
    return NIB_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(double *v, int n, nib_bench_result *out) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += v[i];
    out->mean = sum / n;
    for (int i = 0; i < n; i++) squares += (v[i] - out->mean) * (v[i] - out->mean);
    out->deviation = n > 1 ? sqrt(squares / (n - 1)) : 0;
    qsort(v, (size_t)n, sizeof *v, ascending);
    out->median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    out->best = v[n - 1];
    out->reps = n;
}

nib_status nib_bench_run(nib_engine *en, const nib_bench_test *t, int reps, nib_profile *profiles,
                         nib_bench_result *out, nib_error *e) {
    if (t->n < 1 || t->depth < 0 || t->batch < 1 || t->batch > MAX_BATCH || reps < 1 ||
        reps > MAX_REPS)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected at least 1 token, 1 to %d sequences, 1 to %d repetitions",
                        MAX_BATCH, MAX_REPS);
    nib_seq *seqs[MAX_BATCH] = {0};
    double *speed = nib_alloc((size_t)reps * sizeof *speed);
    int64_t n_ids = NIB_MAX(t->n, t->depth);
    int32_t *ids = nib_alloc((size_t)n_ids * sizeof *ids);
    nib_status s = NIB_OK;
    if (!speed || !ids) {
        s = nib_fail_nomem(e, (size_t)n_ids * sizeof *ids, "the benchmark");
        goto out;
    }
    draw(en, ids, n_ids, 1);
    for (int b = 0; b < t->batch; b++) {
        NIB_TRY_OUT(nib_seq_new(&seqs[b], en, e));
        if (t->depth) NIB_TRY_OUT(nib_seq_eval(seqs[b], ids, t->depth, NULL, e));
    }
    for (int i = -1; i < reps; i++) {
        for (int b = 0; b < t->batch; b++) nib_seq_rewind(seqs[b], t->depth);
        if (i == 0) nib_engine_profile(en, profiles);
        double start = nib_now();
        const float *logits;
        if (t->kind == NIB_BENCH_PROMPT)
            NIB_TRY_OUT(nib_seq_eval(seqs[0], ids, t->n, &logits, e));
        else
            NIB_TRY_OUT(generate(en, t, seqs, ids, e));
        double seconds = nib_now() - start;
        if (i >= 0) speed[i] = (double)t->n * t->batch / seconds;
    }
    nib_bench_result r = {.test = *t};
    summarise(speed, reps, &r);
    *out = r;
out:
    nib_engine_profile(en, NULL);
    for (int b = 0; b < t->batch; b++) nib_seq_free(seqs[b]);
    nib_free(speed);
    nib_free(ids);
    return s;
}
