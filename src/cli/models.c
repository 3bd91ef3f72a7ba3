/* Finding models: paths, what was pulled, and the offer to pull what was not. */
#include <unistd.h>
#include "cli/models.h"
#include "convert/convert.h"

/* ---- the hub, with a face ---- */

static void on_progress(void *arg, const nib_hub_progress *p) {
    nib_models *m = arg;
    static const char *const labels[] = {"Waiting for another pull", "Checking", "Pulling",
                                         "Waiting to retry",         "Hashing",  "Repairing"};
    if (!m->started || p->stage != m->stage) {
        if (m->started) nib_progress_end(&m->bar);
        double start = m->started ? m->bar.start : 0;
        nib_progress_start(&m->bar, labels[p->stage], true);
        if (start > 0) m->bar.start = start; /* one wait for the bar is enough */
        m->bar.rate = p->stage == NIB_HUB_FETCHING;
        m->bar.last = p->done;
        m->stage = p->stage;
        m->started = true;
    }
    if (p->stage == NIB_HUB_RETRYING && p->why &&
        strncmp(m->said, p->why, sizeof m->said - 1) != 0) {
        nib_progress_end(&m->bar);
        snprintf(m->said, sizeof m->said, "%s", p->why);
        nib_warn("%s: trying again", p->why);
    }
    nib_progress_show(&m->bar, p->done, p->total);
}

nib_status nib_models_open(nib_models *m, nib_error *e) {
    *m = (nib_models){0};
    NIB_TRY(nib_hub_open(&m->hub, e));
    m->hub.cancel = &nib_cancel;
    m->hub.progress = on_progress;
    m->hub.progress_arg = m;
    return NIB_OK;
}

void nib_models_close(nib_models *m) {
    if (m->started) nib_progress_end(&m->bar);
    nib_hub_close(&m->hub);
}

nib_status nib_models_ref(const nib_models *m, const char *text, nib_hub_ref *out, nib_error *e) {
    return nib_hub_parse(text, m->hub.endpoint, out, e);
}

/* What is about to come; and whether it will run here. */
static void introduce(const nib_hub_plan *p) {
    nib_sysinfo sys;
    nib_sysinfo_read(&sys);
    uint64_t need = p->bytes + p->bytes / 10; /* weights, and something for a short context */
    const nib_hub_file *first = &p->files.files[0];
    bool source = strstr(first->name, ".gguf") == NULL;
    fprintf(stderr, "%s: ", nib_hub_ref_text(&p->ref));
    if (p->files.n == 1)
        fprintf(stderr, "%s, ", first->name);
    else
        fprintf(stderr, "%zu files, ", p->files.n);
    fprintf(stderr, "%s", nib_bytes_text(p->bytes));
    const char *licence = p->ref.alias ? p->ref.alias->licence : p->files.licence;
    if (*licence) fprintf(stderr, ", licence %s", licence);
    fprintf(stderr, "\n");
    if (!source && need > sys.mem_available)
        nib_warn("running it takes about %s of memory; %s are available here", nib_bytes_text(need),
                 nib_bytes_text(sys.mem_available));
}

nib_status nib_models_pull(nib_models *m, nib_hub_plan *p, char *path, nib_error *e) {
    introduce(p);
    nib_status s = nib_hub_pull(&m->hub, p, path, e);
    if (m->started) nib_progress_end(&m->bar);
    m->started = false;
    if (s == NIB_ERR_CANCELLED)
        nib_fail(e, s,
                 "interrupted: what has arrived is kept, 'nib pull %.200s' goes on from there",
                 nib_hub_ref_text(&p->ref));
    return s;
}

/* ---- MODEL ---- */

static nib_status offer(nib_models *m, const nib_hub_ref *r, const char *missing, char *path,
                        nib_error *e) {
    char about[120] = "";
    if (r->alias)
        snprintf(about, sizeof about, " (%s, licence %s)", nib_bytes_text(r->alias->bytes),
                 r->alias->licence);
    if (m->hub.offline ||
        !nib_confirm(true, "%s%s is not on this machine. Pull it?", nib_hub_ref_text(r), about))
        return nib_fail(e, NIB_ERR_NOT_FOUND, "%s", missing);
    nib_interrupt_catch();
    nib_hub_plan plan;
    NIB_TRY(nib_hub_plan_make(&m->hub, r, false, NULL, &plan, e));
    nib_status s = nib_models_pull(m, &plan, path, e);
    nib_hub_plan_free(&plan);
    return s;
}

nib_status nib_model_path(const char *model, char **path, nib_error *e) {
    nib_models m = {0};
    nib_hub_ref r;
    nib_error why = {0};
    char found[NIB_HUB_PATH];
    nib_status s = NIB_OK;
    if (access(model, F_OK) == 0 || !*model) goto as_path;
    NIB_TRY_OUT(nib_models_open(&m, e));
    s = nib_models_ref(&m, model, &r, &why);
    if (s == NIB_ERR_NOT_FOUND) {
        size_t n = strlen(model);
        bool file = strchr(model, '/') || (n > 5 && strcmp(model + n - 5, ".gguf") == 0);
        if (!file) {
            s = nib_fail(e, s, "cannot open '%.100s': No such file; %.300s", model, why.message);
            goto out;
        }
        goto as_path; /* opening it says what is wrong */
    }
    if (s != NIB_OK) {
        if (e) *e = why;
        goto out;
    }
    s = nib_hub_resolve(&m.hub, &r, found, &why);
    if (s == NIB_ERR_NOT_FOUND)
        s = offer(&m, &r, why.message, found, e);
    else if (s != NIB_OK && e)
        *e = why;
    if (s == NIB_OK && !(*path = nib_strdup(found))) s = nib_fail_nomem(e, strlen(found), "a path");
out:
    nib_models_close(&m);
    return s;
as_path:
    nib_models_close(&m);
    *path = nib_strdup(model);
    return *path ? NIB_OK : nib_fail_nomem(e, strlen(model), "a path");
}

static void on_convert(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
}

nib_status nib_model_find(const char *model, char **path, nib_error *e) {
    char *found = NULL, *converted = NULL;
    nib_progress bar;
    nib_convert_params p = {.n_threads = nib_host_params()->n_threads,
                            .progress = on_convert,
                            .progress_arg = &bar,
                            .cancel = &nib_cancel};
    NIB_TRY(nib_model_path(model, &found, e));
    if (!nib_convert_is_hf(found)) {
        *path = found;
        return NIB_OK;
    }
    nib_progress_start(&bar, "Converting", true);
    nib_status s = nib_convert_cached(found, &p, &converted, e);
    nib_progress_end(&bar);
    nib_free(found);
    if (s == NIB_OK) *path = converted;
    return s;
}
