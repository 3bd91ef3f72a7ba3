/* What the dialog's files share: the conversation (dialog.c), what of it is sent
 * (dialog_prompt.c), files (dialog_file.c). */
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
    nib_gen *gen;         /* the last reply */
    uint64_t attempt;     /* how often the last reply was regenerated */
    int64_t told_dropped; /* the number of left-out exchanges last logged */
};

/* The prompt's tokens for the history as it stands. *opened: it ends inside a thought; *n_dropped:
 * exchanges left out of it. */
nib_status nib_dialog_prompt(nib_dialog *d, nib_ids *out, bool *opened, int64_t *n_dropped,
                             nib_error *e);
#endif
