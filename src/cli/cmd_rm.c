/* nib rm: takes models out of the cache. */
#include <unistd.h>
#include "cli/models.h"

static bool yes, unfinished;
const nib_option nib_opts_rm[] = {
    NIB_OPT_SWITCH("yes", 'y', &yes, "do not ask"),
    NIB_OPT_SWITCH("unfinished", 0, &unfinished, "remove what interrupted pulls left"),
    NIB_OPT_END,
};

static nib_status remove_unfinished(nib_models *m, nib_error *e) {
    uint64_t bytes;
    int n;
    NIB_TRY(nib_hub_unfinished(&m->hub, true, &bytes, &n, e));
    printf("removed %d unfinished download%s, %s\n", n, n == 1 ? "" : "s", nib_bytes_text(bytes));
    return NIB_OK;
}

static nib_status remove_model(nib_cli *c, nib_models *m, const char *name, nib_error *e) {
    nib_hub_ref r;
    nib_hub_model model = {0};
    uint64_t freed;
    NIB_TRY(nib_models_ref(m, name, &r, e));
    NIB_TRY(nib_hub_find(&m->hub, &r, true, &model, e));
    const char *shown = nib_hub_model_name(&model);
    nib_status s = NIB_OK;
    if (!yes && !isatty(STDIN_FILENO)) {
        s = nib_cli_usage(c, e, "rm: removing %s without asking needs --yes", shown);
    } else if (yes || nib_confirm(false, "Remove %s (%s, %s)?", shown,
                                  *model.file ? model.file : "its safetensors",
                                  nib_bytes_text(model.bytes))) {
        s = nib_hub_remove(&m->hub, &model, &freed, e);
        if (s == NIB_OK) printf("removed %s, %s freed\n", shown, nib_bytes_text(freed));
    }
    nib_hub_model_free(&model);
    return s;
}

nib_status nib_cmd_rm(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, unfinished ? 0 : 1, 1 << 10, "MODEL", e));
    nib_models m;
    nib_status s = NIB_OK;
    NIB_TRY(nib_models_open(&m, e));
    for (int i = 0; i < c->argc && s == NIB_OK; i++) s = remove_model(c, &m, c->argv[i], e);
    if (s == NIB_OK && unfinished) s = remove_unfinished(&m, e);
    nib_models_close(&m);
    return s;
}
