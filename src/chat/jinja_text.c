/* Text: a growing buffer with provenance, and what Python's str(), repr() and json.dumps() make of
 * a value.
 *
 * The bytes of a string keep their provenance wherever they go; what an escape makes of a byte has
 * that byte's. Digits, quotes and brackets have the provenance of the value they stand for. */
#include "chat/jinja.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

/* ---- the buffer ---- */

void jinja_out_init(jout *o, jrun *j) {
    *o = (jout){.j = j, .max = INT32_MAX};
}

static bool reserve(jout *o, size_t n, uint8_t taint) {
    if (o->st != NIB_OK) return false;
    jstrbuf *b = &o->b;
    if (n > o->max - b->len) {
        o->st = jinja_limit(o->j, "more than %zu bytes of text", o->max);
        return false;
    }
    if ((o->st = jinja_charge(o->j, JINJA_BYTES(n))) != NIB_OK) return false;
    bool mixed = (o->taint | taint) == MIXED;
    if (n > b->cap - b->len) {
        size_t cap = NIB_MAX(b->cap * 2, b->len + n);
        char *p;
        uint8_t *map = NULL;
        if (cap < 64) cap = 64;
        if ((o->st = jinja_alloc(o->j, cap, 1, &p)) != NIB_OK) return false;
        if (b->map && (o->st = jinja_alloc(o->j, cap, 1, &map)) != NIB_OK) return false;
        if (b->len) memcpy(p, b->p, b->len);
        if (map) memcpy(map, b->map, b->len);
        *b = (jstrbuf){p, map, b->len, cap};
    }
    if (mixed && !b->map) {
        if ((o->st = jinja_alloc(o->j, b->cap, 1, &b->map)) != NIB_OK) return false;
        memset(b->map, o->taint, b->len);
    }
    o->taint |= taint;
    assert(!n || b->p);
    return true;
}

void jinja_out_put(jout *o, const char *p, size_t n, uint8_t taint) {
    if (!n || !reserve(o, n, taint)) return;
    /* NOLINTNEXTLINE(clang-analyzer-core*): alloc has set it */
    memcpy(o->b.p + o->b.len, p, n);
    if (o->b.map) memset(o->b.map + o->b.len, taint, n);
    o->b.len += n;
}

void jinja_out_puts(jout *o, const char *s, uint8_t taint) {
    jinja_out_put(o, s, strlen(s), taint);
}

void jinja_out_fill(jout *o, nib_str what, int64_t times, uint8_t taint) {
    size_t total;
    if (times <= 0 || !what.n || o->st != NIB_OK) return;
    if (!nib_mul_size(what.n, (size_t)times, &total)) total = SIZE_MAX;
    if (!reserve(o, total, taint)) return;
    char *p = o->b.p + o->b.len;
    if (what.n == 1)
        memset(p, what.p[0], total);
    else
        for (int64_t i = 0; i < times; i++, p += what.n) memcpy(p, what.p, what.n);
    if (o->b.map) memset(o->b.map + o->b.len, taint, total);
    o->b.len += total;
}

void jinja_out_sub(jout *o, const jstring *s, size_t from, size_t to) {
    if (!s->map) {
        jinja_out_put(o, s->p + from, to - from, s->taint);
        return;
    }
    if (from == to || !reserve(o, to - from, MIXED)) return;
    assert(o->b.map); /* of MIXED bytes */
    memcpy(o->b.p + o->b.len, s->p + from, to - from);
    /* NOLINTNEXTLINE(clang-analyzer-core*): alloc has set it */
    memcpy(o->b.map + o->b.len, s->map + from, to - from);
    o->b.len += to - from;
}

void jinja_out_string(jout *o, const jstring *s) {
    jinja_out_sub(o, s, 0, s->n);
}

nib_status jinja_out_finish(jout *o, jvalue *out) {
    NIB_TRY(o->st);
    NIB_TRY(jinja_string(o->j, o->b.p ? o->b.p : "", o->b.len, o->taint, out));
    jstring *s = (jstring *)out->s;
    if (o->taint == MIXED) s->map = o->b.map;
    if (!o->b.len) return NIB_OK;
    NIB_TRY(JINJA_NEW(o->j, s->buf)); /* what is appended to it goes into the spare room */
    *s->buf = o->b;
    return NIB_OK;
}

/* ---- numbers ---- */

size_t jinja_float_repr(double f, char out[40]) {
    if (isnan(f)) return strlen(strcpy(out, "nan"));
    if (isinf(f)) return strlen(strcpy(out, f < 0 ? "-inf" : "inf"));
    char e[40];
    int precision =
        fabs(f) < 0x1p-1022 ? 1 : 15; /* every 15 digits come back, except of subnormals */
    do snprintf(e, sizeof e, "%.*e", precision - 1, f);
    while (strtod(e, NULL) != f && precision++ < 17);
    /* e is [-]d.ddde[+-]xx */
    char digit[20] = {0};
    int n = 0, exponent = atoi(strchr(e, 'e') + 1);
    for (const char *p = e; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digit[n++] = *p;
    while (n > 1 && digit[n - 1] == '0') n--;
    char *o = out;
    if (signbit(f)) *o++ = '-';
    if (exponent < -4 || exponent >= 16) {
        *o++ = digit[0];
        if (n > 1) *o++ = '.';
        memcpy(o, digit + 1, (size_t)n - 1);
        o += n - 1;
        o += sprintf(o, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return (size_t)(o - out);
    }
    if (exponent < 0) {
        o += sprintf(o, "0.%0*d", -exponent - 1, 0);
        if (exponent == -1) o--; /* "%00d" writes one digit all the same */
        memcpy(o, digit, (size_t)n);
        return (size_t)(o + n - out);
    }
    for (int i = 0; i <= exponent || i < n; i++) {
        if (i == exponent + 1) *o++ = '.';
        *o++ = i < n ? digit[i] : '0';
    }
    if (n <= exponent + 1) *o++ = '.', *o++ = '0';
    return (size_t)(o - out);
}

static nib_str trimmed(nib_str s) {
    size_t end = jinja_rstrip(s, NULL), start = jinja_lstrip((nib_str){s.p, end}, NULL);
    return (nib_str){s.p + start, end - start};
}

/* Copies digits to buf without single underscores between them; false when they are misplaced or
 * too many. */
static bool without_underscores(nib_str s, char *buf, size_t cap) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '_') {
            bool between = i > 0 && i + 1 < s.n && s.p[i - 1] != '_' && s.p[i + 1] != '_';
            if (!between) return false;
            continue;
        }
        if (!s.p[i] || n + 1 >= cap) return false;
        buf[n++] = s.p[i];
    }
    buf[n] = 0;
    return n > 0;
}

bool jinja_parse_float(nib_str s, double *out) {
    char buf[400], *end;
    s = trimmed(s);
    if (!without_underscores(s, buf, sizeof buf)) return false;
    const char *p = buf + (buf[0] == '-' || buf[0] == '+');
    if (p[0] == '0' && (p[1] | 0x20) == 'x')
        return false; /* C reads hexadecimal floats, Python does not */
    if (!strncasecmp(p, "nan(", 4)) return false;
    if (*p == ' ' || (*p >= '\t' && *p <= '\r') || *p == '-' || *p == '+') return false;
    *out = strtod(buf, &end);
    return !*end;
}

bool jinja_parse_int(nib_str s, int base, int64_t *out) {
    char buf[400];
    s = trimmed(s);
    if (!without_underscores(s, buf, sizeof buf)) return false;
    const char *p = buf;
    bool minus = *p == '-';
    if (*p == '-' || *p == '+') p++;
    char prefix = p[0] == '0' ? p[1] | 0x20 : 0;
    int named = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (named && (base == 0 || base == named))
        p += 2, base = named;
    else if (base == 0)
        base = 10;
    if (!*p) return false;
    int64_t v = 0;
    for (; *p; p++) {
        int c = *p | 0x20;
        int d = *p >= '0' && *p <= '9' ? *p - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (d >= base) return false;
        if (__builtin_mul_overflow(v, base, &v) ||
            __builtin_sub_overflow(v, d, &v)) /* downwards: there is one more below */
            return false;
    }
    if (!minus && v == INT64_MIN) return false;
    *out = minus ? v : -v;
    return true;
}

/* ---- str and repr ---- */

bool jinja_is_printable(int32_t cp) {
    if (cp == ' ') return true;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static void repr_string(jout *o, const jstring *s) {
    uint8_t edge = s->n ? jinja_taint_at(s, 0) : TRUSTED;
    char quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    jinja_out_put(o, &quote, 1, edge);
    size_t plain = 0; /* start of what needs no escape */
    if (o->st == NIB_OK) o->st = jinja_charge(o->j, JINJA_CHARS(s->n));
    for (size_t i = 0; i < s->n && o->st == NIB_OK;) {
        int32_t cp;
        size_t n = nib_utf8_decode(s->p + i, s->n - i, &cp);
        bool backslash = cp == '\\' || cp == quote;
        if (!backslash && (cp < 0x7f ? cp >= ' ' : jinja_is_printable(cp))) {
            i += n;
            continue;
        }
        jinja_out_sub(o, s, plain, i);
        char e[16];
        const char *named = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : NULL;
        if (named)
            strcpy(e, named);
        else if (backslash)
            snprintf(e, sizeof e, "\\%c", (char)cp);
        else if (cp < 0x100)
            snprintf(e, sizeof e, "\\x%02x", (unsigned)cp);
        else if (cp < 0x10000)
            snprintf(e, sizeof e, "\\u%04x", (unsigned)cp);
        else
            snprintf(e, sizeof e, "\\U%08x", (unsigned)cp);
        jinja_out_puts(o, e, jinja_taint_at(s, i));
        i += n;
        plain = i;
    }
    jinja_out_sub(o, s, plain, s->n);
    jinja_out_put(o, &quote, 1, edge);
}

static void repr_items(jout *o, const jlist *l, const char *open, const char *close) {
    jinja_out_puts(o, open, l->taint);
    for (uint32_t i = 0; i < l->n && o->st == NIB_OK; i++) {
        if (i) jinja_out_puts(o, ", ", l->taint);
        jinja_out_repr(o, l->v[i]);
    }
    jinja_out_puts(o, close, l->taint);
}

static void repr_list(jout *o, const jlist *l) {
    switch (l->kind) {
    case K_LIST: repr_items(o, l, "[", "]"); break;
    case K_TUPLE:
    case K_GROUP: repr_items(o, l, "(", l->n == 1 ? ",)" : ")"); break;
    case K_KEYS: repr_items(o, l, "dict_keys([", "])"); break;
    case K_VALUES: repr_items(o, l, "dict_values([", "])"); break;
    case K_ITEMS: repr_items(o, l, "dict_items([", "])"); break;
    case K_GENERATOR: jinja_out_puts(o, "<generator object>", TRUSTED); break;
    default: jinja_out_puts(o, "<iterator object>", TRUSTED);
    }
}

static void repr_dict(jout *o, const jdict *d) {
    jinja_out_puts(o, "{", d->taint);
    for (uint32_t i = 0; i < d->n && o->st == NIB_OK; i++) {
        if (i) jinja_out_puts(o, ", ", d->taint);
        jinja_out_repr(o, d->v[i].key);
        jinja_out_puts(o, ": ", d->taint);
        jinja_out_repr(o, d->v[i].value);
    }
    jinja_out_puts(o, "}", d->taint);
}

static void repr_nested(jout *o, jvalue v) {
    if (o->st != NIB_OK || (o->st = jinja_enter_value(o->j)) != NIB_OK) return;
    if (v.type == J_LIST) {
        repr_list(o, v.l);
    } else {
        if (v.type == J_NAMESPACE) jinja_out_puts(o, "<Namespace ", TRUSTED);
        repr_dict(o, v.d);
        if (v.type == J_NAMESPACE) jinja_out_puts(o, ">", TRUSTED);
    }
    o->j->value_depth--;
}

void jinja_out_repr(jout *o, jvalue v) {
    char buf[400];
    size_t n = 0;
    if (o->st != NIB_OK || (o->st = jinja_charge(o->j, 2)) != NIB_OK) return;
    switch (v.type) {
    case J_STRING: repr_string(o, v.s); return;
    case J_BIG: jinja_out_string(o, v.s); return;
    case J_LIST:
    case J_DICT:
    case J_NAMESPACE: repr_nested(o, v); return;
    case J_UNDEFINED: jinja_out_puts(o, "Undefined", TRUSTED); return;
    case J_NONE: jinja_out_puts(o, "None", v.taint); return;
    case J_BOOL: jinja_out_puts(o, v.b ? "True" : "False", v.taint); return;
    case J_INT: n = (size_t)snprintf(buf, sizeof buf, "%lld", (long long)v.i); break;
    case J_FLOAT:
        if ((o->st = jinja_charge(o->j, 20)) != NIB_OK) return;
        n = jinja_float_repr(v.f, buf);
        break;
    case J_RANGE:
        n = (size_t)snprintf(buf, sizeof buf, "range(%lld, %lld", (long long)v.range->start,
                             (long long)v.range->stop);
        if (v.range->step != 1)
            n += (size_t)snprintf(buf + n, sizeof buf - n, ", %lld", (long long)v.range->step);
        buf[n++] = ')';
        break;
    case J_MACRO:
        jinja_out_puts(o, "<Macro ", TRUSTED);
        repr_string(o, v.macro->def->macro.name);
        jinja_out_puts(o, ">", TRUSTED);
        return;
    case J_LOOP:
        n = (size_t)snprintf(buf, sizeof buf, "<LoopContext %u/%u>", v.loop->at + 1, v.loop->n);
        break;
    case J_FUNCTION: n = (size_t)snprintf(buf, sizeof buf, "<function %s>", v.fn->name); break;
    case J_METHOD:
        n = (size_t)snprintf(buf, sizeof buf, "<built-in method %s>", v.method->row->name);
        break;
    default: n = (size_t)snprintf(buf, sizeof buf, "<%s object>", jinja_type_name(v));
    }
    jinja_out_put(o, buf, n, v.taint ? v.taint : TRUSTED);
}

void jinja_out_str(jout *o, jvalue v) {
    if (v.type == J_STRING)
        jinja_out_string(o, v.s);
    else if (v.type != J_UNDEFINED)
        jinja_out_repr(o, v);
}

nib_status jinja_to_string(jrun *j, jvalue v, const jstring **out) {
    if (v.type != J_STRING) {
        jout o;
        jinja_out_init(&o, j);
        jinja_out_str(&o, v);
        NIB_TRY(jinja_out_finish(&o, &v));
    }
    *out = v.s;
    return NIB_OK;
}

/* ---- JSON, as Python's json.dumps ---- */

typedef struct json_writer {
    jout o;
    const jjson *how;
    uint32_t level;
} json_writer;

static void json_escape(jout *o, const jstring *s, bool ascii) {
    uint8_t edge = s->n ? jinja_taint_at(s, 0) : TRUSTED;
    size_t plain = 0;
    jinja_out_put(o, "\"", 1, edge);
    if (o->st == NIB_OK) o->st = jinja_charge(o->j, JINJA_CHARS(s->n));
    for (size_t i = 0; i < s->n && o->st == NIB_OK;) {
        unsigned char c = (unsigned char)s->p[i];
        if (c >= ' ' && c != '"' && c != '\\' && (c < 0x80 || !ascii)) {
            i++;
            continue;
        }
        jinja_out_sub(o, s, plain, i);
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *named = c ? strchr(from, c) : NULL;
        int32_t cp;
        size_t n = nib_utf8_decode(s->p + i, s->n - i, &cp);
        char e[16];
        if (named)
            snprintf(e, sizeof e, "\\%c", to[named - from]);
        else if (cp < 0x10000)
            snprintf(e, sizeof e, "\\u%04x", (unsigned)cp);
        else
            snprintf(e, sizeof e, "\\u%04x\\u%04x", 0xd800u + (unsigned)((cp - 0x10000) >> 10),
                     0xdc00u + (unsigned)((cp - 0x10000) & 0x3ff));
        jinja_out_puts(o, e, jinja_taint_at(s, i));
        i += n;
        plain = i;
    }
    jinja_out_sub(o, s, plain, s->n);
    jinja_out_put(o, "\"", 1, edge);
}

static void json_number(jout *o, double f, uint8_t taint) {
    char buf[40];
    if (o->st == NIB_OK) o->st = jinja_charge(o->j, 20);
    if (isnan(f))
        jinja_out_puts(o, "NaN", taint);
    else if (isinf(f))
        jinja_out_puts(o, f < 0 ? "-Infinity" : "Infinity", taint);
    else
        jinja_out_put(o, buf, jinja_float_repr(f, buf), taint);
}

static void json_line(json_writer *w, uint8_t taint) {
    if (!w->how->indent) return;
    jinja_out_put(&w->o, "\n", 1, taint);
    if (!w->how->indent->n) return;
    for (uint32_t i = 0; i < w->level; i++) jinja_out_string(&w->o, w->how->indent);
}

static nib_status json_value(json_writer *w, jvalue v);

static nib_status json_key(json_writer *w, jvalue k) {
    jout *o = &w->o;
    if (k.type == J_STRING) {
        json_escape(o, k.s, w->how->ascii);
    } else if (jinja_is_number(k) || k.type == J_NONE) {
        jinja_out_put(o, "\"", 1, k.taint);
        NIB_TRY(json_value(w, k));
        jinja_out_put(o, "\"", 1, k.taint);
    } else {
        return jinja_fail(o->j, "keys must be str, int, float, bool or None, not %s",
                          jinja_type_name(k));
    }
    return o->st;
}

/* The order of entries by key: insertion sort would be quadratic, so a merge. */
static nib_status sorted_entries(jrun *j, const jdict *d, const jentry ***out) {
    const jentry **a, **b;
    NIB_TRY(jinja_alloc(j, d->n, sizeof *a, &a));
    NIB_TRY(jinja_alloc(j, d->n, sizeof *b, &b));
    for (uint32_t i = 0; i < d->n; i++) a[i] = &d->v[i];
    for (uint32_t width = 1; width < d->n; width *= 2) {
        for (uint32_t lo = 0; lo < d->n; lo += 2 * width) {
            uint32_t mid = NIB_MIN(lo + width, d->n), hi = NIB_MIN(mid + width, d->n);
            for (uint32_t l = lo, r = mid, k = lo; k < hi; k++) {
                int c = 0;
                if (l < mid && r < hi) NIB_TRY(jinja_compare(j, a[r]->key, a[l]->key, "<", &c));
                b[k] = l < mid && (r >= hi || c >= 0) ? a[l++] : a[r++];
            }
        }
        const jentry **t = a;
        a = b, b = t;
    }
    *out = a;
    return NIB_OK;
}

static nib_status json_items(json_writer *w, jvalue v) {
    bool is_dict = v.type == J_DICT;
    uint32_t n = is_dict ? v.d->n : v.l->n;
    uint8_t taint = is_dict ? v.d->taint : v.l->taint;
    const jentry **sorted = NULL;
    if (is_dict && w->how->sort_keys) NIB_TRY(sorted_entries(w->o.j, v.d, &sorted));
    jinja_out_puts(&w->o, is_dict ? "{" : "[", taint);
    w->level++;
    for (uint32_t i = 0; i < n; i++) {
        if (i) jinja_out_string(&w->o, w->how->item_sep);
        json_line(w, taint);
        if (is_dict) {
            const jentry *e = sorted ? sorted[i] : &v.d->v[i];
            NIB_TRY(json_key(w, e->key));
            jinja_out_string(&w->o, w->how->key_sep);
            NIB_TRY(json_value(w, e->value));
        } else {
            NIB_TRY(json_value(w, v.l->v[i]));
        }
    }
    w->level--;
    if (n) json_line(w, taint);
    jinja_out_puts(&w->o, is_dict ? "}" : "]", taint);
    return w->o.st;
}

static nib_status json_value(json_writer *w, jvalue v) {
    jrun *j = w->o.j;
    NIB_TRY(jinja_charge(j, 1));
    switch (v.type) {
    case J_NONE: jinja_out_puts(&w->o, "null", v.taint); break;
    case J_BOOL: jinja_out_puts(&w->o, v.b ? "true" : "false", v.taint); break;
    case J_INT:
    case J_BIG: jinja_out_repr(&w->o, v); break;
    case J_FLOAT: json_number(&w->o, v.f, v.taint); break;
    case J_STRING: json_escape(&w->o, v.s, w->how->ascii); break;
    case J_LIST:
        if (v.l->kind > K_GROUP)
            return jinja_fail(j, "Object of type %s is not JSON serializable", jinja_type_name(v));
        /* fall through */
    case J_DICT:
        NIB_TRY(jinja_enter_value(j));
        NIB_TRY(json_items(w, v));
        j->value_depth--;
        break;
    default: return jinja_fail(j, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
    return w->o.st;
}

nib_status jinja_to_json(jrun *j, jvalue v, const jjson *how, jvalue *out) {
    json_writer w = {.how = how};
    jinja_out_init(&w.o, j);
    NIB_TRY(json_value(&w, v));
    return jinja_out_finish(&w.o, out);
}
