/* Conversations written for people to read, or for programs: Markdown and JSON here, PDF in
 * transcript_pdf.c. */
#include <jansson.h>
#include <time.h>
#include "store/store.h"

const char *nib_transcript_speaker(const nib_transcript *t, const nib_message *m) {
    if (strcmp(m->role, "user") == 0) return "You";
    if (strcmp(m->role, "assistant") == 0) return t->model ? t->model : "Assistant";
    return m->role;
}

void nib_transcript_date(const nib_transcript *t, char *out, size_t size) {
    time_t when = (time_t)t->when;
    struct tm tm;
    strftime(out, size, "%Y-%m-%d %H:%M", localtime_r(&when, &tm));
}

/* "> " in front of every line. */
static void put_quote(nib_buf *b, const char *text) {
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, "\n");
        nib_buf_puts(b, "> ");
        nib_buf_put(b, p, n);
        nib_buf_putc(b, '\n');
        p += n + (p[n] == '\n');
    }
    nib_buf_putc(b, '\n');
}

nib_status nib_transcript_markdown(const nib_transcript *t, nib_buf *out, nib_error *e) {
    char date[64];
    nib_transcript_date(t, date, sizeof date);
    nib_buf_printf(out, "# %s\n\n%s\n\n", t->title, date);
    if (t->system && *t->system) nib_buf_printf(out, "## System\n\n%s\n\n", t->system);
    for (size_t i = 0; i < t->messages->n; i++) {
        const nib_message *m = &t->messages->v[i];
        nib_buf_printf(out, "## %s\n\n", nib_transcript_speaker(t, m));
        if (m->thinking && *m->thinking) put_quote(out, m->thinking);
        nib_buf_printf(out, "%s\n\n", m->content);
    }
    return out->failed ? nib_fail_nomem(e, out->len, "a transcript") : NIB_OK;
}

nib_status nib_transcript_json(const nib_transcript *t, nib_buf *out, nib_error *e) {
    json_t *messages = NULL;
    NIB_TRY(nib_messages_to_json(t->messages, &messages, e));
    json_t *root =
        json_pack("{s:s, s:i, s:s, s:s?, s:s?, s:o}", "format", "nib-dialog", "version", 1, "title",
                  t->title, "model", t->model, "system", t->system, "messages", messages);
    if (!root) /* json_pack released the messages */
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "the conversation cannot be written as JSON: its texts are not UTF-8");
    nib_status s = nib_json_write(root, out, e);
    json_decref(root);
    if (s == NIB_OK && !nib_buf_putc(out, '\n')) s = nib_fail_nomem(e, out->len, "a transcript");
    return s;
}
