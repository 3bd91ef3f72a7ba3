/* /export: the conversation as a file, of the form that its name says. */
#include <strings.h>
#include <time.h>
#include "cli/repl.h"
#include "store/store.h"

static const char *ending(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && !strchr(dot, '/') ? dot : "";
}

nib_status nib_repl_export(const nib_repl *r, const char *path, nib_error *e) {
    if (strcasecmp(ending(path), ".json") == 0) return nib_dialog_save(r->dialog, path, e);
    bool md = strcasecmp(ending(path), ".md") == 0;
    if (!md && strcasecmp(ending(path), ".pdf") != 0)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "cannot tell what to write from the name '%.200s': it should end with .md, "
                        ".json or .pdf",
                        path);
    char title[256];
    const char *model = nib_model_get_info(r->host.model)->name;
    snprintf(title, sizeof title, "Chat with %s", model);
    nib_transcript t = {title, model, r->settings.p.system, (double)time(NULL),
                        nib_dialog_messages(r->dialog)};
    nib_buf b = {0};
    nib_status s = md ? nib_transcript_markdown(&t, &b, e) : nib_transcript_pdf(&t, &b, e);
    if (s == NIB_OK) s = nib_file_write(path, b.data, b.len, e);
    nib_buf_free(&b);
    return s;
}
