/* What the dialog's files share: the conversation (dialog.c), what of it is sent
 * (dialog_prompt.c), one reply (dialog_reply.c), files (dialog_file.c). */
#ifndef NIB_DIALOG_INTERNAL_H
#define NIB_DIALOG_INTERNAL_H
#include "engine/engine.h"

struct nib_dialog {
    nib_engine *en;
    nib_seq *seq;
    const nib_model_info *info;
    const nib_tokenizer *tok;
    nib_template *tmpl;           /* NULL: none, or raw until now */
    nib_dialog_params p, applied; /* p may be in change; applied: what is in force */
    nib_arena own;                /* what applied points to */
    nib_sampler *sampler;
    nib_messages messages;
    nib_buf answer, thought; /* the last reply */
    uint64_t attempt;        /* how often the last reply was regenerated */
    int64_t told_dropped;    /* the number of left-out exchanges last logged */
};

/* The prompt's tokens for the history as it stands. *opened: it ends inside a thought; *n_dropped:
 * exchanges left out of it. */
nib_status nib_dialog_prompt(nib_dialog *d, nib_ids *out, bool *opened, int64_t *n_dropped,
                             nib_error *e);
/* A raw text's tokens. */
nib_status nib_dialog_raw_prompt(nib_dialog *d, const char *text, size_t n, nib_ids *out,
                                 nib_error *e);

typedef struct nib_reply_request {
    const nib_ids *prompt;
    bool raw;    /* neither thoughts nor space at the ends are taken out */
    bool opened; /* the prompt ends inside a thought */
    uint64_t seed;
    double start; /* when the call began: times count from there */
    nib_piece_fn fn;
    void *arg;
} nib_reply_request;
/* Evaluates the prompt, reusing what the sequence holds of it, and generates into d->answer and
 * d->thought. Fills out but n_dropped. */
nib_status nib_dialog_generate(nib_dialog *d, const nib_reply_request *r, nib_reply *out,
                               nib_error *e);
#endif
