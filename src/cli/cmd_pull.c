/* nib pull: a model from the hub or a URL, verified, into the shared cache. */
#include <jansson.h>
#include <unistd.h>
#include "cli/models.h"

static bool as_json, dry_run, source;
static const char *sha256;
static int64_t connections, timeout, retries = -1;
const nib_option nib_opts_pull[] = {
    NIB_OPT_SWITCH(
        "source", 0, &source,
        "pull the safetensors of a repo, with tokenizer and settings, instead of a GGUF"),
    NIB_OPT_TEXT("sha256", 0, "HEX", &sha256, "what the file of a plain URL must hash to"),
    NIB_OPT_SWITCH("dry-run", 'n', &dry_run, "say what would be pulled, and pull nothing"),
    NIB_OPT_INT("connections", 0, "N", &connections, 1, 16, "ranges fetched at once (default: 4)"),
    NIB_OPT_INT("timeout", 0, "SECONDS", &timeout, 1, 3600,
                "how long a silent connection is waited for (default: 20)"),
    NIB_OPT_INT("retries", 0, "N", &retries, 0, 1000,
                "pauses in a row that bring nothing before giving up (default: 8)"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print what was pulled as JSON"),
    NIB_OPT_END,
};

static nib_status print_json(const nib_hub_plan *p, const char *path, nib_error *e) {
    json_t *files = json_array();
    for (size_t i = 0; i < p->files.n; i++) {
        const nib_hub_file *f = &p->files.files[i];
        json_array_append_new(files,
                              json_pack("{s:o, s:I, s:s, s:b}", "name",
                                        nib_json_text(f->name, strlen(f->name)), "bytes",
                                        (json_int_t)f->size, "hash", f->digest, "here", f->here));
    }
    return nib_print_json(
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:o, s:o}", "repo", p->ref.repo, "revision",
                  p->ref.revision, "commit", p->files.commit, "licence", p->files.licence, "gated",
                  p->files.gated, "bytes", (json_int_t)p->bytes, "missing", (json_int_t)p->missing,
                  "files", files, "path", path ? nib_json_text(path, strlen(path)) : json_null()),
        e);
}

static nib_status print_plan(const nib_hub_plan *p, nib_error *e) {
    if (as_json) return print_json(p, NULL, e);
    for (size_t i = 0; i < p->files.n; i++)
        printf("%-9s %s%s\n", nib_bytes_text(p->files.files[i].size), p->files.files[i].name,
               p->files.files[i].here ? " (here)" : "");
    printf("%-9s to fetch\n", nib_bytes_text(p->missing));
    return NIB_OK;
}

static nib_status say_path(const char *path) {
    printf("%s\n", path);
    return NIB_OK;
}

static nib_status pull(nib_models *m, const nib_hub_ref *r, nib_error *e) {
    nib_hub_plan plan = {0};
    char path[NIB_HUB_PATH];
    nib_status s = nib_hub_plan_make(&m->hub, r, source, sha256, &plan, e);
    if (s != NIB_OK) {
        /* The hub cannot be asked: a copy that is here is what there is. */
        bool asked = s != NIB_ERR_IO && s != NIB_ERR_UNSUPPORTED;
        if (asked || dry_run || as_json || nib_hub_resolve(&m->hub, r, path, NULL) != NIB_OK)
            return s;
        if (!m->hub.offline && e) nib_warn("%s: using the copy that is here", e->message);
        return say_path(path);
    }
    if (dry_run) {
        s = print_plan(&plan, e);
        goto out;
    }
    NIB_TRY_OUT(nib_models_pull(m, &plan, path, e));
    s = as_json ? print_json(&plan, path, e) : say_path(path);
out:
    nib_hub_plan_free(&plan);
    return s;
}

nib_status nib_cmd_pull(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "MODEL", e));
    nib_models m;
    nib_hub_ref r;
    nib_status s;
    if (sha256 && (strlen(sha256) != 64 || strspn(sha256, "0123456789abcdef") != 64))
        return nib_cli_usage(c, e, "pull: --sha256 wants 64 digits of 0-9 and a-f");
    nib_interrupt_catch();
    NIB_TRY(nib_models_open(&m, e));
    if (connections) m.hub.connections = (int)connections;
    if (timeout) m.hub.timeout = (double)timeout;
    if (retries >= 0) m.hub.retries = (int)retries;
    s = nib_models_ref(&m, c->argv[0], &r, e);
    if (s != NIB_OK) {
        c->usage = true;
        goto out;
    }
    if (sha256 && !*r.url) {
        s = nib_cli_usage(c, e, "pull: --sha256 goes with a URL: the hub states its hashes itself");
        goto out;
    }
    s = pull(&m, &r, e);
    if (s == NIB_ERR_CANCELLED) c->exit_code = 128 + (nib_ending() ? nib_ending() : 2);
out:
    nib_models_close(&m);
    return s;
}
