/* sample - from logits to a token: a chain of steps, each one row of steps.def and one function.
 *
 * A sampler owns its window of recent tokens and its random counter; both can be rewound with the
 * sequence. NaN counts as minus infinity, plus infinity as the largest finite number. The same
 * logits, settings, seed and history give the same token. One thread at a time. No allocation in
 * pick. */
#ifndef NIB_SAMPLE_H
#define NIB_SAMPLE_H
#include "base/base.h"

typedef struct nib_logit_bias {
    int32_t token;
    float bias; /* -INFINITY bans */
} nib_logit_bias;

typedef struct nib_sample_params {
    float temperature;                                         /* <= 0: greedy */
    int32_t top_k;                                             /* 0: off */
    float top_p, min_p, typical_p;                             /* 1, 0, 1: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    int32_t penalty_window;  /* recent tokens looked at; 0 off, -1 whole context */
    int32_t no_repeat_ngram; /* 0: off */
    uint64_t seed;
    bool seed_given; /* false: taken from the system, readable afterwards with nib_sampler_seed */
    const nib_logit_bias *bias; /* copied by nib_sampler_new */
    int32_t n_bias;
} nib_sample_params;
nib_sample_params nib_sample_defaults(
    void); /* temp 0.8, top_k 40, top_p 0.95, min_p 0.05, penalties off, window 64 */
/* Every setting by its name ("temp", "top_k", ...), for command lines and /set: params.def rows.
 * Error names range. */
nib_status nib_sample_set(nib_sample_params *p, const char *name, const char *value, nib_error *e);
/* The setting's value as text that nib_sample_set takes ("0.8", "40", "random"); cut to n bytes. */
nib_status nib_sample_get(const nib_sample_params *p, const char *name, char *out, size_t n,
                          nib_error *e);

typedef struct nib_sampler nib_sampler;
nib_status nib_sampler_new(nib_sampler **out, const nib_sample_params *p, int32_t n_vocab,
                           nib_error *e);
void nib_sampler_free(nib_sampler *s);
/* logits [n_vocab] are not changed. Returns a valid id always (argmax of the raw logits when steps
 * leave none). */
int32_t nib_sampler_pick(nib_sampler *s, const float *logits);
/* Tells the sampler a token became part of the timeline (prompt or picked). */
nib_status nib_sampler_accept(nib_sampler *s, int32_t token, nib_error *e);
/* Keeps the first n accepted tokens. The window and the random counter (the number of accepted
 * tokens: a position's draw depends on seed and position alone) are as they were then, so the same
 * pick follows. */
void nib_sampler_rewind(nib_sampler *s, size_t n_keep);
/* Forgets every token and draws from this seed. */
void nib_sampler_restart(nib_sampler *s, uint64_t seed);
uint64_t nib_sampler_seed(const nib_sampler *s);
/* The n most probable candidates of the last pick after all steps, best first; returns how many.
 * logit: after bias and penalties; p: what was drawn with (greedy: over the whole vocabulary at
 * temperature 1). */
typedef struct nib_candidate {
    int32_t token;
    float logit, p;
} nib_candidate;
int32_t nib_sampler_top(const nib_sampler *s, nib_candidate *out, int32_t n);
#endif
