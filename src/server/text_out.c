/* Text for those who parse it: JSON strings. */
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
