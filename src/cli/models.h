/* models - from what a person types for MODEL to a file on this machine. */
#ifndef NIB_CLI_MODELS_H
#define NIB_CLI_MODELS_H
#include "cli/host.h"
#include "hub/hub.h"

/* The file that MODEL means: a path, or the alias or reference of a model that was pulled. On a
 * terminal offers to pull one that was not. A Hugging Face folder is converted, once. Release *path
 * with nib_free. */
nib_status nib_model_find(const char *model, char **path, nib_error *e);
/* The same without converting: of a folder the folder. */
nib_status nib_model_path(const char *model, char **path, nib_error *e);

/* The hub as the environment says, with a progress bar on standard error and Ctrl-C. */
typedef struct nib_models {
    nib_hub hub;
    nib_progress bar;
    nib_hub_stage stage;
    bool started;
    char said[200]; /* the last reason for a pause that was printed */
} nib_models;
nib_status nib_models_open(nib_models *m, nib_error *e);
void nib_models_close(nib_models *m);
/* Pulls what the plan says, with a line about it, and a warning when it will not fit in memory. */
nib_status nib_models_pull(nib_models *m, nib_hub_plan *p, char *path, nib_error *e);
/* Parses a reference; what is none is an error. */
nib_status nib_models_ref(const nib_models *m, const char *text, nib_hub_ref *out, nib_error *e);
#endif
