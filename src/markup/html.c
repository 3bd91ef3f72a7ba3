/* Escaping, and formats that escape. */
#include "markup/markup.h"

void nib_put_html(nib_buf *b, const char *p, size_t n) {
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        const char *with = p[i] == '&'    ? "&amp;"
                           : p[i] == '<'  ? "&lt;"
                           : p[i] == '>'  ? "&gt;"
                           : p[i] == '"'  ? "&quot;"
                           : p[i] == '\'' ? "&#39;"
                           : p[i] == 0    ? "\xef\xbf\xbd"
                                          : NULL;
        if (!with) continue;
        nib_buf_put(b, p + from, i - from);
        nib_buf_puts(b, with);
        from = i + 1;
    }
    nib_buf_put(b, p + from, n - from);
}

bool nib_html(nib_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    for (const char *p = fmt; *p;) {
        size_t n = strcspn(p, "%");
        nib_buf_put(b, p, n);
        p += n;
        if (!*p) break;
        size_t len = 1 + strspn(p + 1, "0123456789.lz");
        char spec[16], text[64];
        snprintf(spec, sizeof spec, "%.*s", (int)len + 1, p);
        const char *s;
        text[0] = 0;
        switch (p[len]) {
        case 's':
            s = va_arg(ap, const char *);
            if (s) nib_put_html(b, s, strlen(s));
            break;
            /* the formats are literals of ours, checked by the compiler at each call */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        case 'd':
            if (strstr(spec, "ll"))
                snprintf(text, sizeof text, spec, va_arg(ap, long long));
            else
                snprintf(text, sizeof text, spec, va_arg(ap, int));
            break;
        case 'u': snprintf(text, sizeof text, spec, va_arg(ap, size_t)); break;
        case 'f': snprintf(text, sizeof text, spec, va_arg(ap, double)); break;
#pragma GCC diagnostic pop
        default: snprintf(text, sizeof text, "%c", p[len]); break;
        }
        nib_buf_puts(b, text);
        p += len + (p[len] != 0);
    }
    va_end(ap);
    return !b->failed;
}
