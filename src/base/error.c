/* Errors: one code, one line of text. */
#include "base/base.h"

const char *nib_status_text(nib_status s) {
    switch (s) {
#define NIB_STATUS_TEXT(name, text)                                                                \
    case NIB_##name: return text;
        NIB_STATUS_LIST(NIB_STATUS_TEXT)
#undef NIB_STATUS_TEXT
    }
    return "unknown status";
}

const char *nib_version(void) {
    return NIB_VERSION;
}

/* Text from a hostile file may hold control characters: an error is one printable line. */
static void clean_line(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = ' ';
}

nib_status(nib_fail)(nib_error *e, nib_status code, const char *fmt, ...) {
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->message, sizeof e->message, fmt, ap);
        va_end(ap);
        clean_line(e->message);
    }
    return code;
}

nib_status(nib_fail_in)(nib_error *e, nib_status code, const char *fmt, ...) {
    if (!e) return code;
    char inner[sizeof e->message];
    memcpy(inner, e->message, sizeof inner);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n + 2 < sizeof e->message) { /* what is too long is cut at the end */
        size_t at = (size_t)n + 2, len = strlen(inner), room = sizeof e->message - 1 - at;
        memcpy(e->message + n, ": ", 2);
        if (len > room) len = room;
        memcpy(e->message + at, inner, len);
        e->message[at + len] = 0;
    }
    clean_line(e->message);
    return e->code;
}

nib_status(nib_fail_nomem)(nib_error *e, size_t bytes, const char *what) {
    return nib_fail(e, NIB_ERR_NOMEM, "out of memory: %zu bytes for %s", bytes, what);
}
