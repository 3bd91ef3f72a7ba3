/* Text for those who parse it: JSON strings and HTML. */
#include "server/server.h"

void nib_put_json(nib_buf *b, const char *p, size_t n) {
    static const char digits[] = "0123456789abcdef";
    nib_buf_putc(b, '"');
    size_t from = 0, i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)p[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            i++;
            continue;
        }
        int32_t cp = c;
        size_t len = c < 0x80 ? 1 : nib_utf8_decode(p + i, n - i, &cp);
        if (c >= 0x80 && cp >= 0) {
            i += len;
            continue;
        }
        nib_buf_put(b, p + from, i - from);
        if (cp < 0)
            nib_buf_puts(b, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            nib_buf_printf(b, "\\%c", c);
        else if (c == '\n')
            nib_buf_puts(b, "\\n");
        else if (c == '\r')
            nib_buf_puts(b, "\\r");
        else if (c == '\t')
            nib_buf_puts(b, "\\t");
        else
            nib_buf_printf(b, "\\u00%c%c", digits[c >> 4], digits[c & 15]);
        from = i += len;
    }
    nib_buf_put(b, p + from, n - from);
    nib_buf_putc(b, '"');
}

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
