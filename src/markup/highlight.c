/* Code in colours: one scanner for all languages, which differ by a row of languages.def.
 *
 * It knows comments, strings, numbers, words that are keywords and words that are called. What it
 * takes for something else is plain text: the code always stands there whole. Every piece is looked
 * at once. */
#include "markup/markup.h"

typedef struct language {
    const char *names, *line, *open, *close, *quotes, *keywords;
} language;
static const language languages[] = {
#define NIB_LANGUAGE(names, line, open, close, quotes, keywords)                                   \
    {names, line, open, close, quotes, keywords},
#include "markup/languages.def"
#undef NIB_LANGUAGE
};

/* Whether word stands in list between separators. */
static bool listed(const char *list, char separator, const char *word, size_t n) {
    for (const char *p = list; *p;) {
        const char *end = strchr(p, separator);
        size_t len = end ? (size_t)(end - p) : strlen(p);
        if (len == n && memcmp(p, word, n) == 0) return true;
        p += len + (end != NULL);
    }
    return false;
}

static const language *find(nib_str lang) {
    char name[24];
    if (lang.n == 0 || lang.n >= sizeof name) return NULL;
    for (size_t i = 0; i < lang.n; i++)
        name[i] = (char)(lang.p[i] >= 'A' && lang.p[i] <= 'Z' ? lang.p[i] | 32 : lang.p[i]);
    for (size_t i = 0; i < NIB_ARRAY_LEN(languages); i++)
        if (listed(languages[i].names + 1, '|', name, lang.n)) return &languages[i];
    return NULL;
}

static bool is_word(char c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static void put(nib_buf *out, char kind, const char *p, size_t n) {
    nib_buf_printf(out, "<span class=\"%c\">", kind);
    nib_put_html(out, p, n);
    nib_buf_puts(out, "</span>");
}

static bool starts(const char *p, size_t n, const char *what, size_t len) {
    return len && len <= n && memcmp(p, what, len) == 0;
}

/* To the end of the line. */
static size_t rest_of_line(const char *p, size_t n) {
    const char *nl = memchr(p, '\n', n);
    return nl ? (size_t)(nl - p) : n;
}

/* The length of the comment that begins at p; 0: none does. */
static size_t comment(const language *l, const char *p, size_t n, bool at_word) {
    for (const char *line = l->line; line && *line;) {
        size_t len = strcspn(line, " ");
        /* '#' begins a comment only where a word could begin: not in $#, a#b */
        if (starts(p, n, line, len) && !(*line == '#' && at_word)) return rest_of_line(p, n);
        line += len + (line[len] == ' ');
    }
    if (!l->open || !starts(p, n, l->open, strlen(l->open))) return 0;
    size_t skip = strlen(l->open), close = strlen(l->close);
    const char *end = n > skip ? memmem(p + skip, n - skip, l->close, close) : NULL;
    return end ? (size_t)(end - p) + close : n;
}

static size_t string(const language *l, const char *p, size_t n) {
    char q = *p;
    if (!q || !strchr(l->quotes, q)) return 0;
    if (strstr(l->quotes, "\"\"") && n >= 3 && p[1] == q && p[2] == q) {
        char three[3] = {q, q, q};
        const char *end = memmem(p + 3, n - 3, three, 3);
        return end ? (size_t)(end - p) + 3 : n;
    }
    for (size_t i = 1; i < n; i++) {
        if (p[i] == '\\')
            i++;
        else if (p[i] == q)
            return i + 1;
        else if (p[i] == '\n' && q != '`')
            return i;
    }
    return n;
}

static size_t word(const language *l, const char *p, size_t n, nib_buf *out) {
    size_t len = 1;
    bool number = *p >= '0' && *p <= '9';
    while (len < n && (is_word(p[len]) || (number && p[len] == '.'))) len++;
    size_t next = len;
    while (next < n && p[next] == ' ') next++;
    if (number)
        put(out, 'n', p, len);
    else if (listed(l->keywords, ' ', p, len))
        put(out, 'k', p, len);
    else if (next < n && p[next] == '(')
        put(out, 'f', p, len);
    else
        nib_put_html(out, p, len);
    return len;
}

/* <name ... > of HTML: the name is a keyword. */
static size_t tag(const char *p, size_t n, nib_buf *out) {
    size_t i = 1 + (n > 1 && (p[1] == '/' || p[1] == '!' || p[1] == '?')), from = i;
    while (i < n && (is_word(p[i]) || p[i] == '-' || p[i] == ':')) i++;
    nib_put_html(out, p, from);
    if (i > from) put(out, 'k', p + from, i - from);
    return i;
}

void nib_highlight(nib_str lang, const char *code, size_t n, nib_buf *out) {
    const language *l = find(lang);
    bool html = l && l->open && strcmp(l->open, "<!--") == 0, inside = false, at_word = false;
    if (!l) nib_put_html(out, code, n);
    for (size_t i = 0; l && i < n && !out->failed;) {
        const char *p = code + i;
        size_t left = n - i, len = comment(l, p, left, at_word);
        at_word = is_word(*p) || *p == '$';
        if (len) {
            put(out, 'c', p, len);
        } else if (html && *p == '<') {
            len = tag(p, left, out);
            inside = true;
        } else if ((!html || inside) && (len = string(l, p, left)) > 0) {
            put(out, 's', p, len);
        } else if (!html && is_word(*p)) {
            len = word(l, p, left, out);
        } else {
            if (*p == '>') inside = false;
            nib_put_html(out, p, len = 1);
        }
        i += len;
    }
}
