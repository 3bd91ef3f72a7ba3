/* Names and values: queries, posted forms (application/x-www-form-urlencoded), cookies. */
#include "server/internal.h"

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decoded into the arena; a NUL in the text ends it. Wrong escapes stay as they are. */
static const char *decode(nib_arena *a, const char *p, size_t n) {
    char *out = nib_arena_alloc(a, n + 1), *to = out;
    for (size_t i = 0; out && i < n; i++) {
        int hi = p[i] == '%' && i + 2 < n ? hex(p[i + 1]) : -1, lo = hi >= 0 ? hex(p[i + 2]) : -1;
        if (lo >= 0) {
            *to++ = (char)(hi * 16 + lo);
            i += 2;
        } else {
            *to++ = p[i] == '+' ? ' ' : p[i];
        }
    }
    if (out) *to = 0;
    return out;
}

struct nib_pair *nib_form_parse(nib_arena *a, const char *p, size_t n) {
    struct nib_pair *first = NULL, **end = &first;
    for (size_t at = 0; at < n;) {
        const char *amp = memchr(p + at, '&', n - at);
        size_t len = amp ? (size_t)(amp - (p + at)) : n - at;
        const char *eq = memchr(p + at, '=', len);
        size_t name = eq ? (size_t)(eq - (p + at)) : len;
        struct nib_pair *v = len ? nib_arena_calloc(a, 1, sizeof *v) : NULL;
        if (v) {
            v->name = decode(a, p + at, name);
            v->value = decode(a, eq ? eq + 1 : "", eq ? len - name - 1 : 0);
            if (!v->name || !v->value) break;
            *end = v;
            end = &v->next;
        }
        at += len + 1;
    }
    return first;
}

static const char *find(const struct nib_pair *v, const char *name) {
    for (; v; v = v->next)
        if (strcmp(v->name, name) == 0) return v->value;
    return NULL;
}

const char *nib_http_query(nib_http *r, const char *name) {
    struct nib_http_private *o = r->own;
    if (!o->query_read && o->req) {
        const char *q = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(o->req));
        o->query = q ? nib_form_parse(&r->arena, q, strlen(q)) : NULL;
        o->query_read = true;
    }
    return find(o->query, name);
}

const char *nib_http_form(nib_http *r, const char *name) {
    struct nib_http_private *o = r->own;
    if (!o->form_read) {
        const char *type = nib_http_header(r, "Content-Type");
        if (type && strncasecmp(type, "application/x-www-form-urlencoded", 33) == 0)
            o->form = nib_form_parse(&r->arena, r->body.p, r->body.n);
        o->form_read = true;
    }
    return find(o->form, name);
}

const char *nib_http_cookie(nib_http *r, const char *name) {
    const char *p = nib_http_header(r, "Cookie");
    size_t n = strlen(name);
    while (p && *p) {
        while (*p == ' ' || *p == ';') p++;
        size_t len = strcspn(p, ";");
        if (len > n && p[n] == '=' && strncmp(p, name, n) == 0)
            return nib_arena_strndup(&r->arena, p + n + 1, len - n - 1);
        p += len;
    }
    return NULL;
}
