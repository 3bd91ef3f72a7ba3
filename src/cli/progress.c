/* The progress bar: how much is done, how fast, how long it will take. */
#include <langinfo.h>
#include <unistd.h>
#include "cli/host.h"

void nib_progress_start(nib_progress *p, const char *label, bool bytes) {
    *p = (nib_progress){.label = label, .bytes = bytes, .start = nib_now()};
}

void nib_progress_show(nib_progress *p, uint64_t done, uint64_t total) {
    double now = nib_now(), passed = now - p->start;
    if (passed < 1 || now - p->shown < 0.1 || total == 0) return;
    int columns = nib_columns(stderr);
    if (columns < 30) return;
    const nib_style *st = nib_style_of(stderr);
    bool utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    double share = done >= total ? 1 : (double)done / (double)total;
    char end[128];
    int n = snprintf(end, sizeof end, " %3.0f %%", 100 * share);
    if (p->bytes)
        n += snprintf(end + n, sizeof end - (size_t)n, "  %s of %s", nib_bytes_text(done),
                      nib_bytes_text(total));
    else
        n += snprintf(end + n, sizeof end - (size_t)n, "  %llu of %llu", (unsigned long long)done,
                      (unsigned long long)total);
    double left = share > 0 ? passed / share - passed : -1;
    if (p->rate) {
        /* Of late, for a line's speed changes; what was there at the start does not count. */
        double since = now - (p->shown > 0 ? p->shown : p->start);
        double speed = done > p->last && since > 0 ? (double)(done - p->last) / since : 0;
        p->speed = p->shown > 0 ? p->speed + NIB_MIN(since / 3, 1) * (speed - p->speed) : speed;
        p->last = done;
        left = p->speed >= 1 ? (double)(total - NIB_MIN(done, total)) / p->speed : -1;
        n +=
            snprintf(end + n, sizeof end - (size_t)n, "  %s/s", nib_bytes_text((uint64_t)p->speed));
    }
    if (left >= 0) {
        if (left < 100)
            snprintf(end + n, sizeof end - (size_t)n, "  %.0f s left", left);
        else
            snprintf(end + n, sizeof end - (size_t)n, "  %.0f min left", left / 60);
    }
    int width = columns - (int)strlen(p->label) - (int)strlen(end) - 4;
    width = NIB_MIN(width, 40);
    fprintf(stderr, "\r\033[2K%s ", p->label);
    for (int i = 0; i < width; i++) {
        bool full = (i + 0.5) / width < share;
        if (i == 0 || full != ((i - 0.5) / width < share)) fputs(full ? st->cyan : st->dim, stderr);
        fputs(utf8 ? (full ? "━" : "─") : full ? "#" : "-", stderr);
    }
    fprintf(stderr, "%s%s", st->reset, end);
    fflush(stderr);
    p->shown = now;
}

void nib_progress_end(nib_progress *p) {
    if (p->shown > 0) fputs("\r\033[2K", stderr);
    fflush(stderr);
    p->shown = 0;
}
