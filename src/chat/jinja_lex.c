/* The lexer: template source to tokens.
 *
 * A template is text with tags in it: {{ expression }}, {% statement %}, {# comment #}. Text
 * becomes T_DATA tokens with the white space rules already applied, for the settings chat templates
 * are written for (trim_blocks and lstrip_blocks):
 *  - one newline right after a block or comment is dropped, unless it ends in "+%}";
 *  - blanks between the start of a line and a block or comment are dropped, unless it starts with
 * "{%+";
 *  - "-" at either end of any tag drops all white space on that side.
 * Inside a tag, "}}" and "%}" end it only where all brackets are closed: {{ {'a': {}} }}.
 *
 * Source: Jinja 3.1's documentation ("Whitespace Control") and behaviour. */
#include "chat/jinja.h"

static nib_status lex_fail(jlexer *x, const char *fmt, ...) NIB_PRINTF(2, 3);
static nib_status lex_fail(jlexer *x, const char *fmt, ...) {
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return nib_fail(x->e, NIB_ERR_TEMPLATE, "template line %u: %s", x->line, text);
}

nib_status jinja_lex_init(jlexer *x, nib_arena *a, const char *src, size_t n, nib_error *e) {
    if (n > JINJA_MAX_SOURCE)
        return nib_fail(e, NIB_ERR_LIMIT, "the template has %zu bytes; at most %d are read", n,
                        JINJA_MAX_SOURCE);
    if (!nib_utf8_valid(src, n))
        return nib_fail(e, NIB_ERR_TEMPLATE, "the template is not valid UTF-8");
    char *copy = nib_arena_alloc(a, n + 1);
    if (!copy) return nib_fail_nomem(e, n + 1, "a template's source");
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (src[i] == '\r') {
            copy[len++] = '\n';
            if (i + 1 < n && src[i + 1] == '\n') i++;
        } else {
            copy[len++] = src[i];
        }
    }
    if (len && copy[len - 1] == '\n') len--;
    *x = (jlexer){.arena = a, .e = e, .src = copy, .n = len, .line = 1, .mode = T_DATA};
    return NIB_OK;
}

static bool at(const jlexer *x, size_t pos, const char *what) {
    size_t n = strlen(what);
    return pos <= x->n && x->n - pos >= n && !memcmp(x->src + pos, what, n);
}

static size_t skip_space(const jlexer *x, size_t pos) {
    return pos + jinja_lstrip((nib_str){x->src + pos, x->n - pos}, NULL);
}

static void advance(jlexer *x, size_t to) {
    for (const char *p = x->src + x->pos, *end = x->src + to;
         (p = memchr(p, '\n', (size_t)(end - p))); p++)
        x->line++;
    x->pos = to;
}

/* Where the text that ends at 'end' ends once the tag there, with this sign, has taken its white
 * space. */
static size_t strip_before(const jlexer *x, size_t start, size_t end, char sign, bool is_variable) {
    if (sign == '-') return start + jinja_rstrip((nib_str){x->src + start, end - start}, NULL);
    if (sign == '+' || is_variable) return end;
    size_t line = end;
    while (line > start && x->src[line - 1] != '\n') line--;
    bool line_starts = line > start || start == 0 || x->src[start - 1] == '\n';
    return line_starts && skip_space(x, line) >= end ? line : end;
}

/* The position after a block's or comment's end "xx}" that starts at pos, with the white space it
 * takes. */
static size_t after_end(const jlexer *x, size_t pos, char sign) {
    if (sign == '-') return skip_space(x, pos);
    return sign != '+' && pos < x->n && x->src[pos] == '\n' ? pos + 1 : pos;
}

/* Finds the next "#}" from pos (with a sign before it): its start goes to *start, its sign to
 * *sign. */
static bool find_comment_end(const jlexer *x, size_t pos, size_t *start, char *sign) {
    const char *p = memmem(x->src + pos, x->n - pos, "#}", 2);
    if (!p) return false;
    *start = (size_t)(p - x->src);
    char before = *start > pos ? p[-1] : 0;
    *sign = before == '-' || before == '+' ? before : 0;
    return true;
}

/* {% raw %}: on success *body is where its text starts. */
static bool raw_begin(const jlexer *x, size_t pos, size_t *body) {
    size_t p = skip_space(x, pos);
    if (!at(x, p, "raw")) return false;
    p = skip_space(x, p + 3);
    if (at(x, p, "-%}")) return *body = skip_space(x, p + 3), true;
    return at(x, p, "%}") ? (*body = p + 2, true) : false;
}

/* The text of a raw block that starts at x->pos, up to {% endraw %}. */
static nib_status lex_raw(jlexer *x, jtoken *t) {
    size_t from = x->pos;
    for (size_t tag = from; tag < x->n; tag++) {
        const char *found = memmem(x->src + tag, x->n - tag, "{%", 2);
        if (!found) break;
        tag = (size_t)(found - x->src);
        char sign = tag + 2 < x->n ? x->src[tag + 2] : 0;
        if (sign != '-' && sign != '+') sign = 0;
        size_t p = skip_space(x, tag + 2 + (sign != 0));
        if (!at(x, p, "endraw")) continue;
        p = skip_space(x, p + 6);
        size_t after;
        if (at(x, p, "-%}"))
            after = after_end(x, p + 3, '-');
        else if (at(x, p, "+%}"))
            after = p + 3;
        else if (at(x, p, "%}"))
            after = after_end(x, p + 2, 0);
        else
            continue;
        t->kind = T_DATA;
        t->text = (nib_str){x->src + from, strip_before(x, from, tag, sign, false) - from};
        advance(x, after);
        return NIB_OK;
    }
    return lex_fail(x, "expected {%% endraw %%} to close a raw block, found the end");
}

static char sign_at(const jlexer *x, size_t pos) {
    char c = pos < x->n ? x->src[pos] : 0;
    return c == '-' || c == '+' ? c : 0;
}

static nib_status lex_data(jlexer *x, jtoken *t) {
    for (;;) {
        size_t from = x->pos, tag = from;
        t->line = x->line;
        while (tag < x->n) {
            const char *p = memchr(x->src + tag, '{', x->n - tag);
            tag = p ? (size_t)(p - x->src) : x->n;
            if (tag + 1 < x->n && memchr("{%#", x->src[tag + 1], 3)) break;
            if (tag < x->n) tag++;
        }
        if (tag >= x->n) {
            t->kind = from < x->n ? T_DATA : T_EOF;
            t->text = (nib_str){x->src + from, x->n - from};
            advance(x, x->n);
            return NIB_OK;
        }
        char what = x->src[tag + 1], sign = sign_at(x, tag + 2);
        size_t text = strip_before(x, from, tag, sign, what == '{') - from;
        if (text) { /* the tag is met again by the next call, with no text before it */
            t->kind = T_DATA;
            t->text = (nib_str){x->src + from, text};
            advance(x, tag);
            return NIB_OK;
        }
        size_t inner = tag + 2 + (sign != 0), body;
        advance(x, inner);
        if (what == '#') {
            size_t end;
            char end_sign;
            if (!find_comment_end(x, inner, &end, &end_sign))
                return lex_fail(x, "expected #} to close a comment, found the end");
            advance(x, after_end(x, end + 2, end_sign));
        } else if (what == '%' && raw_begin(x, inner, &body)) {
            advance(x, body);
            return lex_raw(x, t);
        } else {
            t->kind = x->mode = what == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN;
            return NIB_OK;
        }
    }
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_name(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (c & 0x80);
}
static int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

/* Digits of a base, with single underscores between them. */
static size_t digits(const jlexer *x, size_t pos, int base) {
    size_t p = pos;
    while (p < x->n) {
        size_t d = p + (p > pos && x->src[p] == '_');
        if (d >= x->n || digit_value(x->src[d]) >= base) break;
        p = d + 1;
    }
    return p;
}

static void lex_number(jlexer *x, jtoken *t) {
    size_t p = x->pos;
    t->kind = T_INT;
    char prefix = p + 1 < x->n && x->src[p] == '0' ? x->src[p + 1] | 0x20 : 0;
    int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
    size_t first = p + 2 + (base != 10 && p + 2 < x->n && x->src[p + 2] == '_');
    if (base != 10 && digits(x, first, base) > first) {
        p = digits(x, first, base);
    } else {
        bool after_dot = p > 0 && x->src[p - 1] == '.'; /* a.1.2 is an index twice */
        p = digits(x, p, 10);
        if (!after_dot) {
            size_t q = p;
            if (q < x->n && x->src[q] == '.' && digits(x, q + 1, 10) > q + 1)
                q = digits(x, q + 1, 10);
            size_t e = q;
            if (e < x->n && (x->src[e] | 0x20) == 'e') {
                e++;
                if (e < x->n && (x->src[e] == '+' || x->src[e] == '-')) e++;
                if (digits(x, e, 10) > e) q = digits(x, e, 10);
            }
            if (q > p) {
                t->kind = T_FLOAT;
                p = q;
            }
        }
    }
    t->text = (nib_str){x->src + x->pos, p - x->pos};
    x->pos = p;
}

static nib_status lex_quoted(jlexer *x, jtoken *t) {
    char quote = x->src[x->pos];
    for (size_t p = x->pos + 1; p < x->n; p++) {
        if (x->src[p] == '\\') {
            p++;
        } else if (x->src[p] == quote) {
            t->kind = T_STRING;
            t->text = (nib_str){x->src + x->pos, p + 1 - x->pos};
            advance(x, p + 1);
            return NIB_OK;
        }
    }
    return lex_fail(x, "expected %c to close a string, found the end", quote);
}

static nib_status lex_operator(jlexer *x, jtoken *t) {
    static const char two[][3] = {"//", "**", "==", "!=", ">=", "<="};
    char c = x->src[x->pos];
    t->kind = T_OP;
    for (size_t i = 0; i < NIB_ARRAY_LEN(two); i++) {
        if (!at(x, x->pos, two[i])) continue;
        t->op = JINJA_OP(c, two[i][1]);
        t->text = (nib_str){x->src + x->pos, 2};
        x->pos += 2;
        return NIB_OK;
    }
    if (!strchr("+-/*%~[](){}><=.:|,;", c) || !c) {
        if (c > ' ' && c < 0x7f) return lex_fail(x, "unexpected character '%c' in a tag", c);
        return lex_fail(x, "unexpected byte 0x%02x in a tag", (unsigned char)c);
    }
    const char *open = strchr("([{", c), *close = strchr(")]}", c);
    if (open) {
        if (x->n_open == JINJA_MAX_NESTING)
            return lex_fail(x, "brackets nested deeper than %d levels", JINJA_MAX_NESTING);
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (close) {
        if (!x->n_open) return lex_fail(x, "unexpected '%c'", c);
        if (x->open[--x->n_open] != c)
            return lex_fail(x, "expected '%c', found '%c'", x->open[x->n_open], c);
    }
    t->op = JINJA_OP(c, 0);
    t->text = (nib_str){x->src + x->pos, 1};
    x->pos++;
    return NIB_OK;
}

static nib_status lex_tag(jlexer *x, jtoken *t) {
    bool is_variable = x->mode == T_VAR_BEGIN;
    const char *close = is_variable ? "}}" : "%}";
    for (;;) {
        t->line = x->line;
        if (x->pos >= x->n) return lex_fail(x, "expected %s to close a tag, found the end", close);
        if (!x->n_open) {
            char sign = sign_at(x, x->pos);
            if (is_variable && sign == '+') sign = 0;
            size_t p = x->pos + (sign != 0);
            if (at(x, p, close)) {
                t->kind = is_variable ? T_VAR_END : T_BLOCK_END;
                if (!is_variable || sign == '-')
                    p = after_end(x, p + 2, sign);
                else
                    p += 2;
                advance(x, p);
                x->mode = T_DATA;
                return NIB_OK;
            }
        }
        size_t p = skip_space(x, x->pos);
        if (p == x->pos) break;
        advance(x, p);
    }
    char c = x->src[x->pos];
    if (is_digit(c)) {
        lex_number(x, t);
    } else if (is_name(c)) {
        size_t p = x->pos;
        while (p < x->n && is_name(x->src[p])) p++;
        t->kind = T_NAME;
        t->text = (nib_str){x->src + x->pos, p - x->pos};
        x->pos = p;
    } else if (c == '\'' || c == '"') {
        return lex_quoted(x, t);
    } else {
        return lex_operator(x, t);
    }
    return NIB_OK;
}

nib_status jinja_lex(jlexer *x, jtoken *t) {
    *t = (jtoken){.line = x->line};
    return x->mode == T_DATA ? lex_data(x, t) : lex_tag(x, t);
}

static int32_t number_in(const char *p, size_t n, int base) {
    int32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        int d = digit_value(p[i]);
        if (d >= base || v > 0x10ffff) return -1;
        v = v * base + d;
    }
    return v;
}

nib_status jinja_lex_string(jlexer *x, const jtoken *t, nib_str *out) {
    nib_str s = {t->text.p + 1, t->text.n - 2};
    if (!memchr(s.p, '\\', s.n)) {
        *out = s;
        return NIB_OK;
    }
    /* No escape is shorter than what it stands for. */
    char *p = nib_arena_alloc(x->arena, s.n + 1);
    if (!p) return nib_fail_nomem(x->e, s.n, "a template's string");
    size_t len = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '\\') {
            p[len++] = s.p[i];
            continue;
        }
        char c = s.p[++i]; /* the lexer saw a character behind every backslash */
        static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
        const char *simple = c ? strchr(from, c) : NULL;
        size_t n_hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (simple) {
            p[len++] = to[simple - from];
        } else if (c >= '0' && c <= '7') {
            size_t n = 1;
            while (n < 3 && i + n < s.n && s.p[i + n] >= '0' && s.p[i + n] <= '7') n++;
            char utf8[4];
            size_t k = nib_utf8_encode(number_in(s.p + i, n, 8), utf8);
            memcpy(p + len, utf8, k);
            len += k;
            i += n - 1;
        } else if (n_hex) {
            int32_t cp = s.n - i > n_hex ? number_in(s.p + i + 1, n_hex, 16) : -1;
            if (cp < 0 || cp > 0x10ffff)
                return nib_fail(
                    x->e, NIB_ERR_TEMPLATE,
                    "template line %u: expected %zu hexadecimal digits of a character after "
                    "\\%c in a string",
                    t->line, n_hex, c);
            char utf8[4];
            size_t k = nib_utf8_encode(cp, utf8);
            memcpy(p + len, utf8, k);
            len += k;
            i += n_hex;
        } else if (c != '\n') { /* an unknown escape stays as it is */
            p[len++] = '\\';
            p[len++] = c;
        }
    }
    *out = (nib_str){p, len};
    return NIB_OK;
}
