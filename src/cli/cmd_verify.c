/* nib verify: hashes pulled models again. */
#include <jansson.h>
#include "cli/models.h"

static bool as_json;
const nib_option nib_opts_verify[] = {
    NIB_OPT_SWITCH("json", 0, &as_json, "print JSON"),
    NIB_OPT_END,
};

typedef struct tally {
    json_t *list;
    int damaged;
} tally;

static nib_status verify_one(nib_models *m, const nib_hub_model *model, tally *t, nib_error *e) {
    int known = 0;
    nib_error why = {0};
    nib_status s = nib_hub_verify(&m->hub, model, &known, &why);
    if (m->started) nib_progress_end(&m->bar);
    m->started = false;
    if (s != NIB_OK && s != NIB_ERR_FORMAT) {
        if (e) *e = why;
        return s;
    }
    const char *name = nib_hub_model_name(model);
    const char *result = s != NIB_OK ? "damaged" : known ? "ok" : "unknown";
    t->damaged += s != NIB_OK;
    if (as_json) {
        json_array_append_new(t->list,
                              json_pack("{s:o, s:o, s:s, s:i, s:s*}", "name",
                                        nib_json_text(name, strlen(name)), "path",
                                        nib_json_text(model->path, strlen(model->path)), "result",
                                        result, "hashed", known, "why", s ? why.message : NULL));
        return NIB_OK;
    }
    const nib_style *st = nib_style_of(stdout);
    printf("%s%-8s%s %s", s ? st->red : known ? st->green : st->dim, result, st->reset, name);
    if (s != NIB_OK)
        printf(": %s ('nib rm' it, then 'nib pull' it again)", why.message);
    else if (!known)
        printf(": its hash is not known");
    printf("\n");
    fflush(stdout);
    return NIB_OK;
}

nib_status nib_cmd_verify(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 1 << 10, "MODEL", e));
    nib_models m;
    nib_hub_model *list = NULL;
    size_t n = 0;
    tally t = {as_json ? json_array() : NULL, 0};
    nib_status s;
    nib_interrupt_catch();
    NIB_TRY_OUT(nib_models_open(&m, e));
    if (c->argc == 0) NIB_TRY_OUT(nib_hub_list(&m.hub, &list, &n, e));
    for (size_t i = 0; i < n; i++) NIB_TRY_OUT(verify_one(&m, &list[i], &t, e));
    for (int i = 0; i < c->argc; i++) {
        nib_hub_ref r;
        nib_hub_model model;
        NIB_TRY_OUT(nib_models_ref(&m, c->argv[i], &r, e));
        NIB_TRY_OUT(nib_hub_find(&m.hub, &r, false, &model, e));
        s = verify_one(&m, &model, &t, e);
        nib_hub_model_free(&model);
        if (s != NIB_OK) goto out;
    }
    if (as_json) {
        s = nib_print_json(t.list, e);
        t.list = NULL;
    }
    if (s == NIB_OK && t.damaged)
        s = nib_fail(e, NIB_ERR_FORMAT, "%d model%s damaged", t.damaged,
                     t.damaged == 1 ? " is" : "s are");
out:
    if (s == NIB_ERR_CANCELLED) c->exit_code = 130;
    json_decref(t.list);
    nib_hub_list_free(list, n);
    nib_models_close(&m);
    return s;
}
