/* nib ls: the models on this machine, or those there are short names for. */
#include <jansson.h>
#include "cli/models.h"

static bool as_json, aliases;
const nib_option nib_opts_ls[] = {
    NIB_OPT_SWITCH("aliases", 'a', &aliases,
                   "list the short names instead, with what they stand for"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print JSON"),
    NIB_OPT_END,
};

static bool is_here(const nib_hub *h, const nib_hub_alias *a) {
    nib_hub_ref r;
    char path[NIB_HUB_PATH];
    return nib_hub_parse(a->name, NULL, &r, NULL) == NIB_OK &&
           nib_hub_resolve(h, &r, path, NULL) == NIB_OK;
}

static nib_status list_aliases(const nib_hub *h, nib_error *e) {
    json_t *all = as_json ? json_array() : NULL;
    const nib_style *st = nib_style_of(stdout);
    if (!as_json)
        printf("%s%-16s %-9s %-9s %-15s %s%s\n", st->bold, "NAME", "SIZE", "CONTEXT", "LICENCE",
               "FROM", st->reset);
    for (size_t i = 0; i < nib_hub_n_aliases; i++) {
        const nib_hub_alias *a = &nib_hub_aliases[i];
        bool here = is_here(h, a);
        if (as_json)
            json_array_append_new(
                all, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:b}", "name", a->name, "repo",
                               a->repo, "want", a->want, "licence", a->licence, "context",
                               (json_int_t)a->n_ctx, "bytes", (json_int_t)a->bytes, "here", here));
        else
            printf("%s%-16s%s %-9s %-9lld %-15s %s:%s\n", here ? st->green : "", a->name,
                   here ? st->reset : "", nib_bytes_text(a->bytes), (long long)a->n_ctx, a->licence,
                   a->repo, a->want);
    }
    return as_json ? nib_print_json(all, e) : NIB_OK;
}

static nib_status print_json(const nib_hub_model *m, size_t n, nib_error *e) {
    json_t *all = json_array();
    for (size_t i = 0; i < n; i++) {
        const char *name = nib_hub_model_name(&m[i]);
        json_array_append_new(
            all,
            json_pack("{s:o, s:o, s:o, s:s, s:s, s:s, s:s*, s:i, s:I, s:I, s:o}", "name",
                      nib_json_text(name, strlen(name)), "repo",
                      nib_json_text(m[i].repo, strlen(m[i].repo)), "file",
                      nib_json_text(m[i].file, strlen(m[i].file)), "format",
                      *m[i].file ? "gguf" : "safetensors", "commit", m[i].commit, "quantisation",
                      m[i].quant, "alias", m[i].alias ? m[i].alias->name : NULL, "parts",
                      m[i].parts, "bytes", (json_int_t)m[i].bytes, "modified",
                      (json_int_t)m[i].when, "path", nib_json_text(m[i].path, strlen(m[i].path))));
    }
    return nib_print_json(all, e);
}

/* Names come from folders, which may be called anything. */
static void put_name(const char *name, int width) {
    size_t n = strlen(name);
    for (size_t i = 0; i < n;) {
        int32_t cp;
        char out[4];
        i += nib_utf8_decode(name + i, n - i, &cp);
        if (cp < 0 || (cp >= 0x20 && (cp < 0x7f || cp > 0x9f)))
            fwrite(out, 1, nib_utf8_encode(cp, out), stdout);
    }
    printf("%*s", NIB_MAX(width - nib_text_width(name, n), 0), "");
}

static void print_table(const nib_hub_model *m, size_t n, const char *cache) {
    const nib_style *st = nib_style_of(stdout);
    if (n == 0) {
        printf("No models in %s: 'nib pull %s' brings one, 'nib ls --aliases' lists more.\n", cache,
               nib_hub_alias_default()->name);
        return;
    }
    int width = 8;
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const char *name = nib_hub_model_name(&m[i]);
        width = NIB_MAX(width, nib_text_width(name, strlen(name)));
        total += m[i].bytes;
    }
    printf("%s%-*s  %-11s %-9s %-10s  %s%s\n", st->bold, width, "NAME", "QUANT", "SIZE", "SINCE",
           "FILE", st->reset);
    for (size_t i = 0; i < n; i++) {
        char day[16] = "";
        struct tm tm;
        if (localtime_r(&m[i].when, &tm)) strftime(day, sizeof day, "%Y-%m-%d", &tm);
        put_name(nib_hub_model_name(&m[i]), width);
        printf("  %-11s %-9s %-10s  ",
               *m[i].quant  ? m[i].quant
               : *m[i].file ? ""
                            : "safetensors",
               nib_bytes_text(m[i].bytes), day);
        put_name(*m[i].file ? m[i].file : m[i].repo, 0);
        printf("\n");
    }
    printf("%s%zu model%s, %s, in %s%s\n", st->dim, n, n == 1 ? "" : "s", nib_bytes_text(total),
           cache, st->reset);
}

nib_status nib_cmd_ls(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 0, "nothing", e));
    nib_models m;
    nib_hub_model *list = NULL;
    size_t n = 0;
    NIB_TRY(nib_models_open(&m, e));
    nib_status s;
    if (aliases) {
        s = list_aliases(&m.hub, e);
        goto out;
    }
    NIB_TRY_OUT(nib_hub_list(&m.hub, &list, &n, e));
    if (as_json) {
        s = print_json(list, n, e);
        goto out;
    }
    print_table(list, n, m.hub.cache);
    uint64_t bytes;
    int parts;
    if (nib_hub_unfinished(&m.hub, false, &bytes, &parts, NULL) == NIB_OK && parts)
        printf("%d unfinished download%s, %s: 'nib pull' goes on, 'nib rm --unfinished' clears\n",
               parts, parts == 1 ? "" : "s", nib_bytes_text(bytes));
out:
    nib_hub_list_free(list, n);
    nib_models_close(&m);
    return s;
}
