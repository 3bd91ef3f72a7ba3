/* Scoring a text, slab by slab: some rows of logits of each model at a time, then all threads go
 * over the rows, each row by one thread, so that sums have one order.
 *
 * The divergence needs one pass: with x = a - max a and y = b - max b,
 *   KL = sum of p (log p - log q) = sum of e^x (x - y) / A - log A + log B,
 * A and B being the sums of e^x and e^y. It is exactly 0 for equal logits. */
#include <math.h>
#include "eval/score.h"

enum { SLAB_BYTES = 64 << 20, MIN_ROWS = 16, MAX_ROWS = 512 };

int64_t nib_score_count(const nib_chunks *c) {
    return c->n * (c->n_ctx - 1 - c->n_ctx / 2);
}

static int64_t slab_rows(int64_t n_vocab) {
    int64_t n = SLAB_BYTES / (int64_t)sizeof(float) / n_vocab;
    return NIB_MIN(NIB_MAX(n, (int64_t)MIN_ROWS), (int64_t)MAX_ROWS);
}

size_t nib_score_memory(int64_t n_vocab) {
    size_t row = 2 * (size_t)n_vocab * sizeof(float) + nib_logfile_row_bytes(n_vocab);
    return (size_t)slab_rows(n_vocab) * row;
}

/* ---- rows ---- */

typedef struct slab {
    int64_t n, n_vocab;  /* rows */
    float *logits[2];    /* [n, n_vocab]; [1] NULL: no other model */
    uint8_t *encoded;    /* [n] rows of a logfile */
    bool encode, decode; /* from logits[0], into it */
    const int32_t *next; /* [n] the tokens that came */
    nib_scored *out;     /* [n] */
    const nib_kernels *k;
} slab;

/* log of the sum of e^(x - max), and which is max. */
static double log_sum(const slab *s, const float *x, int32_t *top) {
    *top = (int32_t)s->k->argmax(x, s->n_vocab);
    double sum = 0, max = (double)x[*top];
    for (int64_t v = 0; v < s->n_vocab; v++) sum += exp((double)x[v] - max);
    return log(sum);
}

static double divergence(const slab *s, const float *a, const float *b, int32_t top_a,
                         int32_t top_b, double log_b) {
    double max_a = (double)a[top_a], max_b = (double)b[top_b], sum = 0, weighted = 0;
    for (int64_t v = 0; v < s->n_vocab; v++) {
        double x = (double)a[v] - max_a, p = exp(x);
        sum += p;
        if (p > 0) weighted += p * (x - ((double)b[v] - max_b));
    }
    return weighted / sum - log(sum) + log_b;
}

static void one_row(const slab *s, int64_t i) {
    nib_scored *r = &s->out[i];
    float *a = s->logits[0] + i * s->n_vocab;
    const float *b = s->logits[1] ? s->logits[1] + i * s->n_vocab : NULL;
    size_t row = nib_logfile_row_bytes(s->n_vocab);
    int32_t top_a;
    if (s->encode) nib_logfile_encode(a, s->n_vocab, s->encoded + (size_t)i * row);
    if (s->decode) {
        nib_logfile_decode(s->encoded + (size_t)i * row, s->n_vocab, a);
        top_a = (int32_t)s->k->argmax(a, s->n_vocab);
    } else {
        double sum = log_sum(s, a, &top_a);
        r->top[0] = top_a;
        r->nll[0] = sum - ((double)a[s->next[i]] - (double)a[top_a]);
    }
    if (!b) return;
    double sum = log_sum(s, b, &r->top[1]);
    r->nll[1] = sum - ((double)b[s->next[i]] - (double)b[r->top[1]]);
    r->kl = divergence(s, a, b, top_a, r->top[1], sum);
}

static void rows(void *arg, int tid, int n_threads) {
    const slab *s = arg;
    for (int64_t i = tid; i < s->n; i += n_threads) one_row(s, i);
}

/* ---- models ---- */

typedef struct copy_to {
    float *to;
    int64_t n_vocab;
} copy_to;

static void copy_row(void *arg, int64_t index, const float *logits) {
    const copy_to *c = arg;
    memcpy(c->to + index * c->n_vocab, logits, (size_t)c->n_vocab * sizeof *logits);
}

/* Logits after tokens [t0, t0 + n) of a chunk; the sequence holds those before, or nothing. */
static nib_status read_tokens(nib_seq *q, const int32_t *ids, int64_t first, int64_t t0, int64_t n,
                              copy_to *c, double *seconds, nib_error *e) {
    double start = nib_now();
    if (t0 == first) {
        nib_seq_rewind(q, 0);
        NIB_TRY(nib_seq_eval(q, ids, first, NULL, e));
    }
    NIB_TRY(nib_seq_eval_all(q, ids + t0, n, copy_row, c, e));
    *seconds += nib_now() - start;
    return NIB_OK;
}

static nib_status check_finite(const slab *s, nib_error *e) {
    for (int64_t i = 0; i < s->n; i++) {
        const nib_scored *r = &s->out[i];
        if (!isfinite(r->nll[0]) || (s->logits[1] && !(isfinite(r->nll[1]) && isfinite(r->kl))))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "a model's scores are not finite: nothing can be said about it");
    }
    return NIB_OK;
}

static nib_status one_slab(nib_score_job *j, nib_seq *const *seqs, nib_pool *pool, slab *s,
                           const int32_t *ids, int64_t t0, nib_error *e) {
    int64_t first = j->chunks->n_ctx / 2;
    for (int m = 0; m < 2; m++) {
        copy_to c = {s->logits[m], s->n_vocab};
        if (seqs[m]) NIB_TRY(read_tokens(seqs[m], ids, first, t0, s->n, &c, &j->seconds[m], e));
    }
    s->next = ids + t0 + 1;
    if (j->from) NIB_TRY(nib_logfile_read(j->from, s->encoded, s->n, e));
    nib_pool_run(pool, rows, s);
    if (j->to) NIB_TRY(nib_logfile_write(j->to, s->encoded, s->n, e));
    return check_finite(s, e);
}

nib_status nib_score(nib_score_job *j, nib_error *e) {
    const nib_chunks *c = j->chunks;
    nib_engine *any = j->engine[0] ? j->engine[0] : j->engine[1];
    int64_t n_vocab = nib_model_get_info(nib_engine_model(any))->n_vocab;
    int64_t first = c->n_ctx / 2, last = c->n_ctx - 1, step = slab_rows(n_vocab), done = 0;
    size_t bytes = (size_t)step * (size_t)n_vocab * sizeof(float);
    slab s = {.n_vocab = n_vocab,
              .encode = j->to != NULL,
              .decode = j->from != NULL,
              .k = nib_kernels_get()};
    nib_seq *seqs[2] = {0};
    nib_pool *pool = NULL;
    nib_status st = NIB_OK;
#define TRY(call)                                                                                  \
    if ((st = (call)) != NIB_OK) goto out
    int32_t *ids = nib_alloc((size_t)c->n_ctx * sizeof *ids);
    for (int m = 0; m < 2; m++) {
        if (j->engine[m] || (m == 0 && j->from)) s.logits[m] = nib_alloc(bytes);
        if (j->engine[m]) TRY(nib_seq_new(&seqs[m], j->engine[m], e));
    }
    s.encoded = nib_alloc((size_t)step * nib_logfile_row_bytes(n_vocab));
    if (!ids || !s.logits[0] || (j->engine[1] && !s.logits[1]) || !s.encoded)
        TRY(nib_fail_nomem(e, bytes, "logits"));
    TRY(nib_pool_create(&pool, nib_engine_threads(any), e));
    for (int64_t i = 0; i < c->n; i++) {
        nib_chunk_get(c, i, ids);
        for (int64_t t = first; t < last; t += s.n) {
            s.n = NIB_MIN(step, last - t);
            s.out = j->out + done;
            TRY(one_slab(j, seqs, pool, &s, ids, t, e));
            done += s.n;
            if (j->progress)
                j->progress(j->progress_arg, (uint64_t)done, (uint64_t)nib_score_count(c));
        }
    }
out:
#undef TRY
    nib_pool_free(pool);
    for (int m = 0; m < 2; m++) {
        nib_seq_free(seqs[m]);
        nib_free(s.logits[m]);
    }
    nib_free(s.encoded);
    nib_free(ids);
    return st;
}

nib_estimate nib_mean_of(const double *v, int64_t n, int64_t step) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += v[i * step];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (v[i * step] - mean) * (v[i * step] - mean);
    return (nib_estimate){mean, n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0};
}
