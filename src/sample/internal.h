/* What the files of the sample room share: the sampler and its chain. */
#ifndef NIB_SAMPLE_INTERNAL_H
#define NIB_SAMPLE_INTERNAL_H
#include "sample/sample.h"

typedef struct nib_cand {
    int32_t token;
    float logit;
    float p;
    float key; /* what a step ranks by: higher is better, equal keys by lower token */
} nib_cand;

struct nib_sampler {
    nib_sample_params p;
    nib_logit_bias *bias;
    int32_t n_vocab;
    nib_ids history; /* every accepted token */
    int32_t
        *count; /* [n_vocab] how often a token stands in the window; NULL when nothing penalises */
    int32_t *seen;    /* the n_seen distinct tokens of the window, in no order */
    int32_t *seen_at; /* [n_vocab] where in seen, valid while count > 0 */
    int32_t n_seen;
    float *score;   /* [n_vocab] the last pick's logits after the ALL steps */
    nib_cand *cand; /* [n_vocab] the first n_cand are candidates, in no order */
    int32_t n_cand;
    int32_t picked; /* by draw; -1: nothing to draw from */
};

static inline bool nib_sample_penalises(const nib_sample_params *p) {
    return p->penalty_window != 0 &&
           (p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0);
}

/* Fills s->score and runs the ALL steps; then, unless greedy, the LIST steps (steps.c). */
void nib_sample_chain(nib_sampler *s, const float *logits, bool greedy);
/* Fills p of the list from its logits: softmax (steps.c). */
void nib_sample_softmax(nib_cand *c, int32_t n);
/* NIB_ERR_ARGUMENT naming the setting that is out of range (params.c). */
nib_status nib_sample_check(const nib_sample_params *p, nib_error *e);
#endif
