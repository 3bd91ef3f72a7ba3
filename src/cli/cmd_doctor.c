/* nib doctor: what this machine has, what nib makes of it, and what could be better. */
#include <jansson.h>
#include <langinfo.h>
#include <stdlib.h>
#include "cli/cli.h"
#include "cli/watch.h"
#include "kernels/kernels.h"

static bool as_json;
const nib_option nib_opts_doctor[] = {
    NIB_OPT_SWITCH("json", 0, &as_json, "print JSON"),
    NIB_OPT_END,
};

typedef struct feature {
    const char *name, *package, *what;
    bool built_in;
} feature;
static const feature features[] = {
#define NIB_FEATURE(name, have, package, what) {#name, package, what, have},
#include "features.def"
#undef NIB_FEATURE
};

/* What a person should know: one sentence a problem. */
static void find_hints(const nib_sysinfo *m, nib_buf *out) {
    const nib_kernels *k = nib_kernels_get();
    const char *limit = getenv("NIB_CPU");
    if (limit && *limit)
        nib_buf_printf(out, "NIB_CPU=%s limits the instruction sets: unset it for full speed\n",
                       limit);
    else if (!k->name || strcmp(k->name, "scalar") == 0)
        nib_buf_puts(out, "no vector instructions nib knows (AVX2 with FMA and F16C, AVX-512 VNNI, "
                          "NEON with dot products): "
                          "everything works, but slowly\n");
    if (m->mem_available < 1000000000)
        nib_buf_printf(out,
                       "only %s of memory are available: close programs, or use models below %s\n",
                       nib_bytes_text(m->mem_available), nib_bytes_text(m->mem_available / 2));
    if (m->cgroup_limit)
        nib_buf_printf(out, "a container or service limit of %s applies, below this machine's %s\n",
                       nib_bytes_text(m->cgroup_limit), nib_bytes_text(m->mem_total));
    const char *set = getenv("LC_ALL");
    if (!set || !*set) set = getenv("LC_CTYPE");
    if (!set || !*set) set = getenv("LANG");
    if (set && *set && strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        nib_buf_printf(
            out, "the locale '%s' is not UTF-8: set LANG=C.UTF-8 or your language's UTF-8 locale\n",
            set);
    for (size_t i = 0; i < NIB_ARRAY_LEN(features); i++)
        if (!features[i].built_in)
            nib_buf_printf(out, "%s is not built in: install %s and build nib again\n",
                           features[i].what, features[i].package);
}

static nib_status print_json(const nib_sysinfo *m, const char *hints, nib_error *e) {
    const nib_kernels *k = nib_kernels_get();
    json_t *parts = json_array(), *lines = json_array();
    for (size_t i = 0; i < NIB_ARRAY_LEN(features); i++)
        json_array_append_new(parts, json_pack("{s:s, s:b, s:s, s:s}", "name", features[i].name,
                                               "built_in", features[i].built_in, "package",
                                               features[i].package, "what", features[i].what));
    for (const char *p = hints; *p;) {
        size_t n = strcspn(p, "\n");
        json_array_append_new(lines, json_stringn(p, n));
        p += n + (p[n] == '\n');
    }
    return nib_print_json(
        json_pack("{s:s, s:{s:s, s:s, s:s, s:i, s:i}, s:i, s:{s:I, s:I, s:I, s:I, s:I}, s:o, s:o}",
                  "version", nib_version(), "cpu", "name", m->cpu_name, "features",
                  nib_cpu_features(), "kernels", k->name ? k->name : "scalar", "cores", m->n_core,
                  "logical", m->n_cpu, "threads", m->n_core, "memory", "total",
                  (json_int_t)m->mem_total, "available", (json_int_t)m->mem_available,
                  "cgroup_limit", (json_int_t)m->cgroup_limit, "rss", (json_int_t)nib_rss(),
                  "stops_below", (json_int_t)nib_watch_default(m), "optional", parts, "hints",
                  lines),
        e);
}

static void row(const char *name) {
    const nib_style *st = nib_style_of(stdout);
    printf("%s%-11s%s", st->bold, name, st->reset);
}

nib_status nib_cmd_doctor(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 0, "nothing", e));
    nib_sysinfo m;
    nib_sysinfo_read(&m);
    nib_buf hints = {0};
    find_hints(&m, &hints);
    const char *lines = hints.data ? hints.data : "";
    nib_status s = NIB_OK;
    if (as_json) {
        s = print_json(&m, lines, e);
        goto out;
    }
    const nib_style *st = nib_style_of(stdout);
    const nib_kernels *k = nib_kernels_get();
    int columns = nib_columns(stdout), width = columns ? columns : 100;
    row("nib"), printf("%s\n", nib_version());
    row("processor"), printf("%s\n", m.cpu_name);
    row("features"), nib_print_wrapped(stdout, nib_cpu_features(), 11, 11, width);
    row("kernels"), printf("%s\n", k->name ? k->name : "scalar");
    row("threads"),
        printf("%d (physical cores; %d logical processors usable)\n", m.n_core, m.n_cpu);
    row("memory"),
        printf("%s, %s available", nib_bytes_text(m.mem_total), nib_bytes_text(m.mem_available));
    if (m.cgroup_limit) printf(", limited to %s", nib_bytes_text(m.cgroup_limit));
    printf("\n");
    row(""), printf("a run is stopped when less than %s stay free (--min-free-mem)\n",
                    nib_bytes_text(nib_watch_default(&m)));
    for (size_t i = 0; i < NIB_ARRAY_LEN(features); i++) {
        row(i ? "" : "libraries");
        printf("%s%s%s %s: %s\n", features[i].built_in ? st->green : st->red,
               features[i].built_in ? "yes" : "no ", st->reset, features[i].name, features[i].what);
    }
    if (hints.len) printf("\n");
    for (const char *p = lines; *p;) {
        size_t n = strcspn(p, "\n");
        char line[512];
        snprintf(line, sizeof line, "%.*s", (int)n, p);
        printf("%s*%s ", st->cyan, st->reset);
        nib_print_wrapped(stdout, line, 2, 2, width);
        p += n + (p[n] == '\n');
    }
out:
    nib_buf_free(&hints);
    return s;
}
