/* The sampler: its history of tokens, the window that penalties look at, and picking.
 *
 * Counts of the window are kept as tokens come and go, so a pick touches only the distinct tokens
 * in it, however long it is, and a rewind undoes one token at a time. Everything a pick needs is
 * allocated by nib_sampler_new. */
#include <math.h>
#include "sample/internal.h"

static nib_status check_bias(const nib_sample_params *p, int32_t n_vocab, nib_error *e) {
    if (p->n_bias < 0 || (p->n_bias > 0 && !p->bias))
        return nib_fail(e, NIB_ERR_ARGUMENT, "logit bias: expected a list, found a count of %d",
                        (int)p->n_bias);
    for (int32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || p->bias[i].token >= n_vocab)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "logit bias: expected a token from 0 to %d, found %d", (int)n_vocab - 1,
                            (int)p->bias[i].token);
        if (isnan(p->bias[i].bias))
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "logit bias: expected a number for token %d, found NaN",
                            (int)p->bias[i].token);
    }
    return NIB_OK;
}

nib_status nib_sampler_new(nib_sampler **out, const nib_sample_params *p, int32_t n_vocab,
                           nib_error *e) {
    nib_sample_params q = *p;
    if (q.temperature < 0) q.temperature = 0;
    NIB_TRY(nib_sample_check(&q, e));
    if (n_vocab <= 0)
        return nib_fail(e, NIB_ERR_ARGUMENT, "sampler: expected a vocabulary, found %d tokens",
                        (int)n_vocab);
    NIB_TRY(check_bias(&q, n_vocab, e));
    size_t n = (size_t)n_vocab;
    nib_sampler *s = nib_calloc(1, sizeof *s);
    if (!s) return nib_fail_nomem(e, sizeof *s, "the sampler");
    s->n_vocab = n_vocab;
    s->picked = -1;
    s->bias = nib_calloc((size_t)q.n_bias, sizeof *s->bias);
    s->score = nib_calloc(n, sizeof *s->score);
    s->cand = nib_calloc(n, sizeof *s->cand);
    bool ok = s->bias && s->score && s->cand;
    if (nib_sample_penalises(&q)) {
        s->count = nib_calloc(n, sizeof *s->count);
        s->seen = nib_calloc(n, sizeof *s->seen);
        s->seen_at = nib_calloc(n, sizeof *s->seen_at);
        ok = ok && s->count && s->seen && s->seen_at;
    }
    if (!ok) {
        nib_sampler_free(s);
        return nib_fail_nomem(e, n * sizeof *s->cand, "the sampler's candidates");
    }
    if (q.n_bias) memcpy(s->bias, q.bias, (size_t)q.n_bias * sizeof *s->bias);
    q.bias = s->bias;
    if (!q.seed_given) q.seed = nib_entropy();
    s->p = q;
    *out = s;
    return NIB_OK;
}

void nib_sampler_free(nib_sampler *s) {
    if (!s) return;
    nib_ids_free(&s->history);
    nib_free(s->bias);
    nib_free(s->count);
    nib_free(s->seen);
    nib_free(s->seen_at);
    nib_free(s->score);
    nib_free(s->cand);
    nib_free(s);
}

uint64_t nib_sampler_seed(const nib_sampler *s) {
    return s->p.seed;
}

/* ---- the window ---- */

static void enters(nib_sampler *s, int32_t t) {
    if (s->count[t]++ > 0) return;
    s->seen_at[t] = s->n_seen;
    s->seen[s->n_seen++] = t;
}
static void leaves(nib_sampler *s, int32_t t) {
    if (--s->count[t] > 0) return;
    int32_t last = s->seen[--s->n_seen];
    s->seen[s->seen_at[t]] = last;
    s->seen_at[last] = s->seen_at[t];
}
/* The token that stands just outside the window when the timeline is n long; -1 when all are
 * inside. */
static int32_t outside(const nib_sampler *s, size_t n) {
    size_t w = s->p.penalty_window < 0 ? SIZE_MAX : (size_t)s->p.penalty_window;
    return n > w ? s->history.data[n - w - 1] : -1;
}

nib_status nib_sampler_accept(nib_sampler *s, int32_t token, nib_error *e) {
    if (token < 0 || token >= s->n_vocab)
        return nib_fail(e, NIB_ERR_ARGUMENT, "sampler: expected a token from 0 to %d, found %d",
                        (int)s->n_vocab - 1, (int)token);
    if (!nib_ids_push(&s->history, token)) {
        s->history.failed = false; /* there may be memory again */
        return nib_fail_nomem(e, s->history.len * sizeof token, "the sampler's history");
    }
    if (s->count) {
        enters(s, token);
        int32_t out = outside(s, s->history.len);
        if (out >= 0) leaves(s, out);
    }
    return NIB_OK;
}

void nib_sampler_rewind(nib_sampler *s, size_t n_keep) {
    while (s->history.len > n_keep) {
        if (s->count) {
            int32_t back = outside(s, s->history.len);
            if (back >= 0) enters(s, back);
            leaves(s, s->history.data[s->history.len - 1]);
        }
        s->history.len--;
    }
}

void nib_sampler_restart(nib_sampler *s, uint64_t seed) {
    nib_sampler_rewind(s, 0);
    s->p.seed = seed;
}

/* ---- picking ---- */

/* The lowest of the best tokens; -1 when all are minus infinity or NaN. */
static int32_t argmax(const float *v, int32_t n) {
    int32_t best = -1;
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        if (v[i] > max) max = v[i], best = i;
    return best;
}

int32_t nib_sampler_pick(nib_sampler *s, const float *logits) {
    bool greedy = s->p.temperature <= 0;
    nib_sample_chain(s, logits, greedy);
    int32_t t = greedy ? argmax(s->score, s->n_vocab) : s->picked;
    if (t < 0) t = argmax(logits, s->n_vocab);
    return NIB_MAX(t, 0);
}

static bool ranks_before(const nib_candidate *a, const nib_candidate *b) {
    return a->logit != b->logit ? a->logit > b->logit : a->token < b->token;
}

int32_t nib_sampler_top(const nib_sampler *s, nib_candidate *out, int32_t n) {
    bool greedy = s->p.temperature <= 0;
    int32_t total = greedy ? s->n_vocab : s->n_cand, n_out = 0;
    for (int32_t i = 0; i < total && n > 0; i++) {
        nib_candidate c = {.token = i, .logit = s->score[i]};
        if (!greedy)
            c = (nib_candidate){s->cand[i].token, s->score[s->cand[i].token], s->cand[i].p};
        if (c.logit == -INFINITY) continue;
        if (n_out == n && !ranks_before(&c, &out[n - 1])) continue;
        if (n_out < n) n_out++;
        int32_t at = n_out - 1;
        for (; at > 0 && ranks_before(&c, &out[at - 1]); at--) out[at] = out[at - 1];
        out[at] = c;
    }
    if (greedy && n_out > 0) { /* as if drawn at temperature 1 */
        double sum = 0;
        for (int32_t i = 0; i < s->n_vocab; i++)
            sum += exp((double)s->score[i] - (double)out[0].logit);
        for (int32_t i = 0; i < n_out; i++)
            out[i].p = (float)(exp((double)out[i].logit - (double)out[0].logit) / sum);
    }
    return n_out;
}
