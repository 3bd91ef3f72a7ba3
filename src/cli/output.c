/* What the commands print with: colours for terminals only, sizes people can read, wrapped text,
 * JSON. */
#include <jansson.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>
#include "cli/cli.h"

const nib_style *nib_style_of(FILE *f) {
    static const nib_style none = {"", "", "", "", "", ""};
    static const nib_style colours = {"\033[2m",  "\033[1m",  "\033[31m",
                                      "\033[32m", "\033[36m", "\033[0m"};
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if ((no && *no) || !term || strcmp(term, "dumb") == 0 || !isatty(fileno(f))) return &none;
    return &colours;
}

static const char *scaled(uint64_t n, const char *const *units, size_t n_units) {
    static char ring[16][24];
    static int at;
    char *out = ring[at++ & 15];
    double v = (double)n;
    size_t u = 0;
    while (v >= 999.5 && u + 1 < n_units) v /= 1000, u++;
    int decimals = u == 0 || v >= 99.5 ? 0 : v >= 9.95 ? 1 : 2;
    char digits[16];
    snprintf(digits, sizeof digits, "%.*f", decimals, v);
    if (decimals == 2 && digits[strlen(digits) - 1] == '0') digits[strlen(digits) - 1] = 0;
    snprintf(out, sizeof ring[0], "%s%s%s", digits, *units[u] ? " " : "", units[u]);
    return out;
}

const char *nib_bytes_text(uint64_t n) {
    static const char *const units[] = {"bytes", "KB", "MB", "GB", "TB", "PB"};
    return scaled(n, units, NIB_ARRAY_LEN(units));
}

const char *nib_count_text(uint64_t n) {
    static const char *const units[] = {"", "K", "M", "B", "T"};
    return scaled(n, units, NIB_ARRAY_LEN(units));
}

int nib_columns(FILE *f) {
    struct winsize ws;
    if (!isatty(fileno(f))) return 0;
    if (ioctl(fileno(f), TIOCGWINSZ, &ws) || ws.ws_col == 0) return 80;
    return ws.ws_col;
}

int nib_text_width(const char *text, size_t n) {
    int width = 0;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += nib_utf8_decode(text + i, n - i, &cp);
        int w = cp < 0 ? 1 : wcwidth((wchar_t)cp);
        if (w > 0) width += w;
    }
    return width;
}

void nib_print_wrapped(FILE *f, const char *text, int indent, int at, int width) {
    bool first = true;
    for (;;) {
        text += strspn(text, " ");
        size_t n = strcspn(text, " \n");
        int w = nib_text_width(text, n);
        if (n && !first && at + 1 + w > width) {
            fprintf(f, "\n%*s", indent, "");
            at = indent, first = true;
        }
        if (n) {
            fprintf(f, "%s%.*s", first ? "" : " ", (int)n, text);
            at += w + !first;
            first = false;
        }
        text += n;
        if (!*text) break;
        if (*text == '\n') {
            fputc('\n', f);
            if (text[1]) fprintf(f, "%*s", indent, "");
            at = indent, first = true;
            text++;
        }
    }
    fputc('\n', f);
}

static nib_status print_json(json_t *v, size_t form, nib_error *e) {
    if (!v) return nib_fail(e, NIB_ERR_NOMEM, "out of memory for JSON output");
    int bad = json_dumpf(v, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9) | form);
    json_decref(v);
    if (bad) return nib_fail(e, NIB_ERR_IO, "cannot write JSON to standard output");
    putchar('\n');
    return NIB_OK;
}

nib_status nib_print_json(json_t *v, nib_error *e) {
    return print_json(v, isatty(STDOUT_FILENO) ? JSON_INDENT(2) : 0, e);
}
nib_status nib_print_json_line(json_t *v, nib_error *e) {
    return print_json(v, 0, e);
}

void nib_warn(const char *fmt, ...) {
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    fprintf(stderr, "nib: warning: %s\n", line);
}
