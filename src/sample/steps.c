/* The sampling chain: one function a row of steps.def.
 *
 * The ALL steps change the scores of a few tokens in a dense copy of the logits. top_k then lists
 * candidates, and the LIST steps shrink that list. No step sorts the vocabulary: "the best k" and
 * "the best that hold p of the probability" are the same question asked with different weights,
 * answered by one selection in linear time (keep_best). Sums of probabilities are doubles, taken in
 * an order that depends on the input alone.
 *
 * Sources: top-p Holtzman et al. 2019; typical Meister et al. 2022; min-p Nguyen et al. 2024;
 * repetition penalty Keskar et al. 2019 (CTRL). */
#include <float.h>
#include <math.h>
#include "sample/internal.h"

/* ---- selection ---- */

static bool better(const nib_cand *a, const nib_cand *b) {
    return a->key != b->key ? a->key > b->key : a->token < b->token;
}
static void swap(nib_cand *a, nib_cand *b) {
    nib_cand t = *a;
    *a = *b;
    *b = t;
}
static double weight(const nib_cand *c, bool by_mass) {
    return by_mass ? (double)c->p : 1;
}

/* The middle of three spread over the range, each itself the middle of three when it is long:
 * sorted, reversed and organ-pipe input all split well. */
static nib_cand *middle(nib_cand *a, nib_cand *b, nib_cand *c) {
    if (better(b, a)) {
        nib_cand *t = a;
        a = b, b = t;
    }
    return better(b, c) ? b : better(c, a) ? a : c;
}
static nib_cand *pivot_of(nib_cand *c, int32_t n) {
    nib_cand *mid = c + n / 2, *last = c + n - 1;
    if (n < 200) return middle(c, mid, last);
    int32_t d = n / 8;
    return middle(middle(c, c + d, c + 2 * d), middle(mid - d, mid, mid + d),
                  middle(last - 2 * d, last - d, last));
}

/* Moves the best to the front: as few as have a total weight (probability, or 1 each) of at least
 * 'limit', but one at least. Returns how many; they are in no order. Quickselect: expected time
 * linear in n. */
static int32_t keep_best(nib_cand *c, int32_t n, double limit, bool by_mass) {
    int32_t lo = 0, hi = n; /* all before lo are kept, all from hi on are dropped */
    double kept = 0;
    while (hi - lo > 12) {
        swap(pivot_of(c + lo, hi - lo), &c[hi - 1]);
        nib_cand pivot = c[hi - 1];
        int32_t i = lo;
        double front = 0;
        for (int32_t j = lo; j < hi - 1; j++)
            if (better(&c[j], &pivot)) {
                front += weight(&c[j], by_mass);
                swap(&c[i++], &c[j]);
            }
        swap(&c[i], &c[hi - 1]);
        if (kept + front >= limit) {
            hi = i;
        } else {
            kept += front + weight(&pivot, by_mass);
            lo = i + 1;
            if (kept >= limit) return lo;
        }
    }
    for (int32_t i = lo + 1; i < hi; i++)
        for (int32_t j = i; j > lo && better(&c[j], &c[j - 1]); j--) swap(&c[j], &c[j - 1]);
    while (lo < hi && kept < limit) kept += weight(&c[lo++], by_mass);
    return NIB_MAX(lo, NIB_MIN(n, 1));
}

static float best_logit(const nib_cand *c, int32_t n) {
    float m = -INFINITY;
    for (int32_t i = 0; i < n; i++) m = c[i].logit > m ? c[i].logit : m;
    return m;
}

void nib_sample_softmax(nib_cand *c, int32_t n) {
    float max = best_logit(c, n);
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        c[i].p = expf(c[i].logit - max);
        sum += (double)c[i].p;
    }
    float scale = (float)(1 / sum);
    for (int32_t i = 0; i < n; i++) c[i].p *= scale;
}

/* ---- steps on all scores ---- */

/* Sums and products may leave the finite range; a ban (minus infinity) is kept. */
static float tame(float v) {
    return v != v ? -INFINITY : v > FLT_MAX ? FLT_MAX : v;
}

static void step_bias(nib_sampler *s) {
    for (int32_t i = 0; i < s->p.n_bias; i++) {
        float *v = &s->score[s->bias[i].token];
        *v = tame(*v + s->bias[i].bias);
    }
}

static void step_penalties(nib_sampler *s) {
    float repeat = s->p.repeat_penalty;
    for (int32_t i = 0; i < s->n_seen; i++) {
        int32_t t = s->seen[i];
        float v = s->score[t];
        v = v > 0 ? v / repeat : v * repeat;
        v -= s->p.presence_penalty + s->p.frequency_penalty * (float)s->count[t];
        s->score[t] = tame(v);
    }
}

static void step_no_repeat_ngram(nib_sampler *s) {
    size_t n = (size_t)s->p.no_repeat_ngram, len = s->history.len;
    const int32_t *h = s->history.data;
    if (len < n) return;
    const int32_t *tail = h + len - (n - 1); /* what the next token would follow */
    for (size_t i = 0; i + n <= len; i++)
        if (n == 1 ||
            (h[i + n - 2] == tail[n - 2] && memcmp(h + i, tail, (n - 1) * sizeof *h) == 0))
            s->score[h[i + n - 1]] = -INFINITY;
}

/* ---- steps on the list ---- */

static void step_top_k(nib_sampler *s) {
    int32_t k = s->p.top_k > 0 && s->p.top_k < s->n_vocab ? s->p.top_k : s->n_vocab;
    /* Listed are the tokens above 'floor'; when 'room' are, the best k stay and the floor rises to
     * the worst of them. A later token that equals the floor loses to the lower token it equals. */
    int32_t room = k < s->n_vocab / 2 ? NIB_MIN(NIB_MAX(2 * k, 256), s->n_vocab) : s->n_vocab;
    float floor = -INFINITY;
    int32_t n = 0;
    for (int32_t t = 0; t < s->n_vocab; t++) {
        if (!(s->score[t] > floor)) continue;
        s->cand[n++] = (nib_cand){.token = t, .logit = s->score[t], .key = s->score[t]};
        if (n < room || k == s->n_vocab) continue;
        n = keep_best(s->cand, n, k, false);
        floor = INFINITY;
        for (int32_t i = 0; i < n; i++) floor = s->cand[i].logit < floor ? s->cand[i].logit : floor;
    }
    s->n_cand = n > k ? keep_best(s->cand, n, k, false) : n;
}

static void step_typical(nib_sampler *s) {
    nib_sample_softmax(s->cand, s->n_cand);
    double entropy = 0;
    for (int32_t i = 0; i < s->n_cand; i++) {
        double p = (double)s->cand[i].p;
        if (p > 0) entropy -= p * log(p);
    }
    for (int32_t i = 0; i < s->n_cand; i++) {
        double p = (double)s->cand[i].p;
        s->cand[i].key = p > 0 ? (float)-fabs(-log(p) - entropy) : -INFINITY;
    }
    s->n_cand = keep_best(s->cand, s->n_cand, (double)s->p.typical_p, true);
}

static void step_top_p(nib_sampler *s) {
    nib_sample_softmax(s->cand, s->n_cand);
    for (int32_t i = 0; i < s->n_cand; i++) s->cand[i].key = s->cand[i].logit;
    s->n_cand = keep_best(s->cand, s->n_cand, (double)s->p.top_p, true);
}

static void step_min_p(nib_sampler *s) {
    /* p >= min_p * p_max, in logits: needs no probabilities. */
    float least = best_logit(s->cand, s->n_cand) + logf(s->p.min_p);
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_cand; i++)
        if (s->cand[i].logit >= least) s->cand[n++] = s->cand[i];
    s->n_cand = n;
}

static void step_temperature(nib_sampler *s) {
    /* Relative to the best, so that a tiny temperature gives 0 and minus infinity, never infinity
     * minus infinity. */
    float max = best_logit(s->cand, s->n_cand);
    for (int32_t i = 0; i < s->n_cand; i++)
        s->cand[i].logit = (s->cand[i].logit - max) / s->p.temperature;
}

static void step_draw(nib_sampler *s) {
    s->picked = -1;
    if (s->n_cand == 0) return;
    nib_sample_softmax(s->cand, s->n_cand);
    /* The draw of a position depends on the seed and the position alone, so rewinding needs no
     * bookkeeping. */
    nib_rng rng = {.seed = s->p.seed, .counter = s->history.len};
    double total = 0, at = 0;
    for (int32_t i = 0; i < s->n_cand; i++) total += (double)s->cand[i].p;
    double u = nib_rng_double(&rng) * total;
    for (int32_t i = 0; i < s->n_cand; i++) {
        if (s->cand[i].p <= 0) continue;
        s->picked = s->cand[i].token; /* the last possible one when rounding leaves u at the end */
        at += (double)s->cand[i].p;
        if (u < at) return;
    }
}

void nib_sample_chain(nib_sampler *s, const float *logits, bool greedy) {
    const nib_sample_params *p = &s->p;
    for (int32_t i = 0; i < s->n_vocab; i++) s->score[i] = tame(logits[i]);
    enum { ALL, LIST };
#define NIB_SAMPLE_STEP(name, stage, when)                                                         \
    if ((stage == ALL || !greedy) && (when)) step_##name(s);
#include "sample/steps.def"
#undef NIB_SAMPLE_STEP
}
