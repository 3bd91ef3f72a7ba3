/* Whether HTML is what we write: tags from a list, closed in order, attributes in double quotes,
 * nothing that runs. Stricter than HTML: what our own pages keep to. For tests and fuzzing. */
#ifndef NIB_HTMLCHECK_H
#define NIB_HTMLCHECK_H
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { HTML_DEPTH = 400 };

static inline bool html_in(const char *list, const char *p, size_t n) {
    for (const char *at = list; (at = strstr(at, " ")) != NULL;) {
        at++;
        if (strncmp(at, p, n) == 0 && at[n] == ' ') return true;
    }
    return false;
}

/* NULL when all is well; else what is not, in a static buffer. tags: " a b " of those allowed;
 * NULL: any. */
static inline const char *html_wrong(const char *p, const char *tags) {
    static char why[200];
    static const char empty[] = " area base br col hr img input link meta source wbr !doctype path "
                                "circle rect line polyline ";
    struct {
        const char *p;
        size_t n;
    } open[HTML_DEPTH];
    int depth = 0;
    const char *all = p;
#define HTML_WRONG(...)                                                                            \
    do {                                                                                           \
        int used_ = snprintf(why, sizeof why, __VA_ARGS__);                                        \
        snprintf(why + used_, sizeof why - (size_t)used_, " at %zu: %.60s", (size_t)(p - all), p); \
        return why;                                                                                \
    } while (0)
    while (*p) {
        if (*p == '>') HTML_WRONG("a bare >");
        if (*p == '&') {
            size_t n =
                1 +
                strspn(p + 1, "#abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
            if (n < 2 || p[n] != ';') HTML_WRONG("a bare &");
            p += n;
            continue;
        }
        if (*p != '<') {
            p++;
            continue;
        }
        const char *at = p++;
        bool closing = *p == '/';
        p += closing;
        size_t n = strcspn(p, " \n/>\"'<&=");
        const char *name = p;
        if (!n) {
            p = at;
            HTML_WRONG("a bare <");
        }
        if (tags && !html_in(tags, name, n)) HTML_WRONG("tag <%.*s>", (int)n, name);
        p += n;
        bool is_empty = html_in(empty, name, n);
        while (!closing && *p != '>') {
            while (*p == ' ' || *p == '\n') p++;
            if (*p == '/' && p[1] == '>') {
                is_empty = true;
                p++;
                break;
            }
            if (*p == '>') break;
            size_t k = strcspn(p, " =>\"'<&\n");
            const char *attr = p;
            if (!k) HTML_WRONG("an attribute without a name");
            if (k > 2 && strncasecmp(attr, "on", 2) == 0) HTML_WRONG("an event handler");
            if (k == 5 && strncasecmp(attr, "style", 5) == 0) HTML_WRONG("inline style");
            p += k;
            if (*p != '=') continue;
            p++;
            if (*p != '"') HTML_WRONG("an attribute without quotes");
            const char *value = ++p;
            size_t v = strcspn(p, "\"<");
            if (p[v] != '"') HTML_WRONG("an attribute that does not end");
            bool link = (k == 4 && strncmp(attr, "href", 4) == 0) ||
                        (k == 3 && strncmp(attr, "src", 3) == 0) ||
                        (k == 6 && strncmp(attr, "action", 6) == 0);
            bool good = *value == '/' || *value == '#' || *value == '?' ||
                        strncasecmp(value, "http://", 7) == 0 ||
                        strncasecmp(value, "https://", 8) == 0 ||
                        strncasecmp(value, "mailto:", 7) == 0;
            if (link && !good) HTML_WRONG("an address that leads to %.20s", value);
            p += v + 1;
        }
        if (*p != '>') HTML_WRONG("a tag that does not end");
        p++;
        if (closing) {
            if (!depth || open[depth - 1].n != n || memcmp(open[depth - 1].p, name, n) != 0)
                HTML_WRONG("</%.*s> closes %.*s", (int)n, name, depth ? (int)open[depth - 1].n : 4,
                           depth ? open[depth - 1].p : "none");
            depth--;
        } else if (!is_empty) {
            if (depth == HTML_DEPTH) HTML_WRONG("too deep");
            open[depth].p = name;
            open[depth++].n = n;
        }
    }
    if (depth) HTML_WRONG("<%.*s> stays open", (int)open[depth - 1].n, open[depth - 1].p);
#undef HTML_WRONG
    return NULL;
}

/* What Markdown may become. */
static const char html_of_markdown[] = " a blockquote br button code del div em figcaption figure "
                                       "h3 h4 h5 h6 hr input li ol p pre span "
                                       "strong table tbody td th thead tr ul ";
#endif
