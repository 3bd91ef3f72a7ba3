/* Conversations written for people to read, or for programs: Markdown here, PDF in export_pdf.c,
 * JSON as /save writes it. */
#include <strings.h>
#include <time.h>
#include "cli/repl.h"

/* "> " in front of every line. */
static void put_quote(FILE *f, const char *text) {
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, "\n");
        fprintf(f, "> %.*s\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    fputc('\n', f);
}

static nib_status write_markdown(const nib_transcript *t, const char *path, nib_error *e) {
    nib_outfile o;
    NIB_TRY(nib_outfile_open(&o, path, e));
    fprintf(o.f, "# %s\n\n%s\n\n", t->title, t->date);
    if (t->system) {
        fprintf(o.f, "## System\n\n");
        fprintf(o.f, "%s\n\n", t->system);
    }
    for (size_t i = 0; i < t->messages->n; i++) {
        const nib_message *m = &t->messages->v[i];
        fprintf(o.f, "## %s\n\n", nib_transcript_speaker(t, m));
        if (m->thinking && *m->thinking) put_quote(o.f, m->thinking);
        fprintf(o.f, "%s\n\n", m->content);
    }
    return nib_outfile_commit(&o, e);
}

const char *nib_transcript_speaker(const nib_transcript *t, const nib_message *m) {
    if (strcmp(m->role, "user") == 0) return "You";
    if (strcmp(m->role, "assistant") == 0) return t->model;
    return m->role;
}

static const char *ending(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && !strchr(dot, '/') ? dot : "";
}

nib_status nib_repl_export(const nib_repl *r, const char *path, nib_error *e) {
    if (strcasecmp(ending(path), ".json") == 0) return nib_dialog_save(r->dialog, path, e);
    char title[256], date[64];
    time_t now = time(NULL);
    struct tm t;
    strftime(date, sizeof date, "%Y-%m-%d %H:%M", localtime_r(&now, &t));
    const char *model = nib_model_get_info(r->host.model)->name;
    snprintf(title, sizeof title, "Chat with %s", model);
    nib_transcript transcript = {title, model, date, r->settings.p.system,
                                 nib_dialog_messages(r->dialog)};
    if (strcasecmp(ending(path), ".md") == 0) return write_markdown(&transcript, path, e);
    if (strcasecmp(ending(path), ".pdf") == 0) return nib_export_pdf(&transcript, path, e);
    return nib_fail(
        e, NIB_ERR_ARGUMENT,
        "cannot tell what to write from the name '%.200s': it should end with .md, .json or .pdf",
        path);
}
