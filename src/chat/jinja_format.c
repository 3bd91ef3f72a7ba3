/* Formatting: '%s' % x (C's conversions over Python values) and '{}'.format(x) (fields with a
 * specification). Text of the format keeps its provenance, each argument its own. Widths are
 * bounded by the limit on text. */
#include "chat/jinja.h"
#include <math.h>

typedef struct spec {
    const char *fill; /* one character */
    size_t fill_n;
    char align, sign, grouping, type; /* 0 when not given */
    bool alternate, zero;
    int64_t width, precision; /* -1 when not given */
    uint8_t taint;            /* of the padding */
} spec;

/* ---- numbers as text ---- */

/* Inserts a separator between groups of three digits of the number in buf, from its first digit to
 * a '.' or 'e'. */
static void group(char *buf, size_t cap, char separator) {
    size_t start = strspn(buf, "+- "), n = strspn(buf + start, "0123456789");
    size_t extra = n ? (n - 1) / 3 : 0, len = strlen(buf);
    if (len + extra + 1 > cap) return;
    memmove(buf + start + n + extra, buf + start + n, len - start - n + 1);
    for (size_t from = start + n, to = from + extra, k = 0; from > start; k++) {
        if (k && k % 3 == 0) buf[--to] = separator;
        buf[--to] = buf[--from];
    }
}

static void put_sign(char **p, bool negative, char sign) {
    if (negative)
        *(*p)++ = '-';
    else if (sign == '+' || sign == ' ')
        *(*p)++ = sign;
}

static void integer_text(int64_t v, const spec *f, char *buf, size_t cap) {
    uint64_t m = v < 0 ? -(uint64_t)v : (uint64_t)v;
    char *p = buf;
    put_sign(&p, v < 0, f->sign);
    switch (f->type) {
    case 'x':
    case 'X':
    case 'o':
    case 'b':
        if (f->alternate) *p++ = '0', *p++ = f->type;
        if (f->type == 'b') {
            int top = m ? 63 - __builtin_clzll(m) : 0;
            for (int i = top; i >= 0; i--) *p++ = (char)('0' + (m >> i & 1));
            *p = 0;
        } else {
            const char *conversion = f->type == 'x' ? "%llx" : f->type == 'X' ? "%llX" : "%llo";
            snprintf(p, cap - (size_t)(p - buf), conversion, (unsigned long long)m);
        }
        return;
    default: snprintf(p, cap - (size_t)(p - buf), "%llu", (unsigned long long)m);
    }
    if (f->grouping) group(buf, cap, f->grouping);
}

static nib_status float_text(jrun *j, double v, const spec *f, char *buf, size_t cap) {
    char conversion[16];
    char *p = buf;
    int64_t precision = f->precision < 0 ? 6 : f->precision;
    if (precision > 300) return jinja_limit(j, "a precision of %lld digits", (long long)precision);
    char type = f->type ? f->type : 'g';
    bool percent = type == '%';
    if (percent) v *= 100, type = 'f';
    put_sign(&p, signbit(v) && !isnan(v), f->sign);
    snprintf(conversion, sizeof conversion, "%%%s.*%c", f->alternate ? "#" : "", type);
    snprintf(p, cap - (size_t)(p - buf), conversion, (int)precision, fabs(v));
    if (f->grouping) group(buf, cap, f->grouping);
    if (percent) strcat(buf, "%");
    return NIB_OK;
}

/* ---- padding ---- */

/* Puts text in a field: align is '<', '>', '^', or '=' (padding between a number's sign and
 * digits). */
static void put_padded(jout *o, const jstring *s, const spec *f, char align) {
    int64_t n = (int64_t)jinja_n_chars(s), missing = f->width > n ? f->width - n : 0;
    int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    nib_str fill = f->fill_n ? (nib_str){f->fill, f->fill_n} : NIB_STR(" ");
    size_t sign = 0;
    if (align == '=' && s->n && strchr("+- ", s->p[0])) sign = 1;
    if (align == '=' && s->n > sign + 1 && s->p[sign] == '0' && strchr("xXob", s->p[sign + 1]))
        sign += 2;
    jinja_out_sub(o, s, 0, sign);
    jinja_out_fill(o, fill, left, f->taint);
    jinja_out_sub(o, s, sign, s->n);
    jinja_out_fill(o, fill, missing - left, f->taint);
}

static void put_number(jout *o, const char *text, uint8_t taint, const spec *f) {
    jstring s = {.p = text, .n = (uint32_t)strlen(text), .n_chars = -1, .taint = taint};
    spec g = *f;
    if (g.zero && !g.fill_n) g.fill = "0", g.fill_n = 1;
    put_padded(o, &s, &g, g.align ? g.align : g.zero ? '=' : '>');
}

static nib_status put_text(jrun *j, jout *o, const jstring *s, const spec *f) {
    jvalue cut = jv_string(s);
    if (f->precision >= 0 && (uint64_t)f->precision < jinja_n_chars(s))
        NIB_TRY(jinja_substring(j, s, 0, jinja_char_offset(s, (size_t)f->precision), &cut));
    put_padded(o, cut.s, f, f->align ? f->align : '<');
    return o->st;
}

static nib_status repr_of(jrun *j, jvalue v, const jstring **out) {
    jout o;
    jvalue s;
    jinja_out_init(&o, j);
    jinja_out_repr(&o, v);
    NIB_TRY(jinja_out_finish(&o, &s));
    *out = s.s;
    return NIB_OK;
}

/* ---- % ---- */

typedef struct percent {
    jrun *j;
    const jstring *fmt;
    size_t at;
    jvalue args;
    const jvalue *v; /* positional */
    size_t n, used;
} percent;

static nib_status next_arg(percent *p, jvalue *out) {
    if (p->used >= p->n) return jinja_fail(p->j, "not enough arguments for format string");
    *out = p->v[p->used++];
    return NIB_OK;
}

/* A number of the format, or the next argument for '*'. */
static nib_status percent_number(percent *p, int64_t *out) {
    const jstring *s = p->fmt;
    if (p->at < s->n && s->p[p->at] == '*') {
        jvalue v;
        p->at++;
        NIB_TRY(next_arg(p, &v));
        return jinja_to_index(p->j, v, "a width", out);
    }
    int64_t v = 0;
    for (; p->at < s->n && s->p[p->at] >= '0' && s->p[p->at] <= '9'; p->at++)
        v = NIB_MIN(v * 10 + (s->p[p->at] - '0'), INT32_MAX);
    *out = v;
    return NIB_OK;
}

static nib_status percent_value(percent *p, jout *o, spec *f, char type, jvalue v) {
    jrun *j = p->j;
    const jstring *s;
    char buf[700];
    f->type = type;
    switch (type) {
    case 's':
    case 'r':
    case 'a':
        if (type == 's')
            NIB_TRY(jinja_to_string(j, v, &s));
        else
            NIB_TRY(repr_of(j, v, &s));
        f->zero = false;
        if (!f->align) f->align = '>';
        return put_text(j, o, s, f);
    case 'c':
        if (v.type == J_STRING && jinja_n_chars(v.s) == 1) return put_text(j, o, v.s, f);
        if (v.type == J_INT && v.i >= 0 && v.i < 0x110000) {
            char utf8[4];
            jstring one = {.p = utf8,
                           .n = (uint32_t)nib_utf8_encode((int32_t)v.i, utf8),
                           .n_chars = 1,
                           .taint = v.taint};
            return put_text(j, o, &one, f);
        }
        return jinja_fail(j, "%%c requires int or char");
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        if (v.type == J_FLOAT && strchr("diu", type) && fabs(v.f) < 9e18)
            v = jv_int((int64_t)v.f, v.taint);
        if (v.type == J_BOOL) v = jv_int(v.b, v.taint);
        if (v.type != J_INT)
            return jinja_fail(j, "%%%c format: a number is required, not %s", type,
                              jinja_type_name(v));
        if (f->precision > 300)
            return jinja_limit(j, "a precision of %lld digits", (long long)f->precision);
        integer_text(v.i, f, buf, sizeof buf);
        if (f->precision > 0) { /* at least so many digits */
            size_t sign = strspn(buf, "+- "), n = strlen(buf + sign), want = (size_t)f->precision;
            if (n < want) {
                memmove(buf + sign + want - n, buf + sign, n + 1);
                memset(buf + sign, '0', want - n);
            }
        }
        put_number(o, buf, v.taint, f);
        return o->st;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (!jinja_is_number(v))
            return jinja_fail(j, "must be real number, not %s", jinja_type_name(v));
        NIB_TRY(float_text(j, jinja_to_double(v), f, buf, sizeof buf));
        put_number(o, buf, v.taint, f);
        return o->st;
    default: return jinja_fail(j, "unsupported format character 0x%02x", (unsigned char)type);
    }
}

/* One conversion; at is behind its '%'. */
static nib_status percent_field(percent *p, jout *o) {
    const jstring *s = p->fmt;
    spec f = {.precision = -1, .taint = TRUSTED};
    jvalue v = {0};
    if (p->at < s->n && s->p[p->at] == '(') {
        const char *close = memchr(s->p + p->at, ')', s->n - p->at);
        if (!close) return jinja_fail(p->j, "incomplete format key");
        if (p->args.type != J_DICT) return jinja_fail(p->j, "format requires a mapping");
        size_t from = p->at + 1, to = (size_t)(close - s->p);
        const jvalue *found;
        NIB_TRY(jinja_dict_get_str(p->j, p->args.d, (nib_str){s->p + from, to - from}, &found));
        if (!found)
            return jinja_fail(p->j, "format key '%.*s' not found", (int)NIB_MIN(to - from, 100u),
                              s->p + from);
        v = *found;
        p->at = to + 1;
        p->used = p->n;
    }
    for (; p->at < s->n && s->p[p->at] && strchr("-+ 0#", s->p[p->at]); p->at++) {
        char c = s->p[p->at];
        if (c == '-')
            f.align = '<';
        else if (c == '0')
            f.zero = true;
        else if (c == '#')
            f.alternate = true;
        else if (f.sign != '+')
            f.sign = c;
    }
    NIB_TRY(percent_number(p, &f.width));
    if (f.width < 0) f.align = '<', f.width = -NIB_MAX(f.width, -INT32_MAX);
    if (p->at < s->n && s->p[p->at] == '.') {
        p->at++;
        NIB_TRY(percent_number(p, &f.precision));
        f.precision = NIB_MAX(f.precision, 0);
    }
    while (p->at < s->n && s->p[p->at] && strchr("hlL", s->p[p->at])) p->at++;
    if (p->at == s->n) return jinja_fail(p->j, "incomplete format");
    char type = s->p[p->at++];
    if (type == '%') {
        jinja_out_sub(o, s, p->at - 1, p->at);
        return o->st;
    }
    if (f.align == '<') f.zero = false;
    if (!jv_given(v)) NIB_TRY(next_arg(p, &v));
    return percent_value(p, o, &f, type, v);
}

nib_status jinja_percent(jrun *j, const jstring *fmt, jvalue args, jvalue *out) {
    percent p = {.j = j, .fmt = fmt, .args = args, .v = &p.args, .n = 1};
    bool tuple = args.type == J_LIST && (args.l->kind == K_TUPLE || args.l->kind == K_GROUP);
    if (tuple) p.v = args.l->v, p.n = args.l->n;
    jout o;
    jinja_out_init(&o, j);
    NIB_TRY(jinja_charge(j, JINJA_BYTES(fmt->n)));
    while (p.at < fmt->n) {
        const char *percent_sign = memchr(fmt->p + p.at, '%', fmt->n - p.at);
        size_t end = percent_sign ? (size_t)(percent_sign - fmt->p) : fmt->n;
        jinja_out_sub(&o, fmt, p.at, end);
        p.at = end;
        if (!percent_sign) break;
        p.at++;
        NIB_TRY(percent_field(&p, &o));
        NIB_TRY(jinja_charge(j, 1));
    }
    /* anything that has items may be left over, as Python takes it for a mapping */
    bool may_be_left = args.type == J_DICT || args.type == J_RANGE || args.type == J_UNDEFINED ||
                       (args.type == J_LIST && args.l->kind == K_LIST);
    if (p.used < p.n && !may_be_left)
        return jinja_fail(j, "not all arguments converted during string formatting");
    return jinja_out_finish(&o, out);
}

/* ---- str.format ---- */

static bool parse_count(const char *p, size_t n, size_t *at, int64_t *out) {
    size_t from = *at;
    int64_t v = 0;
    for (; *at < n && p[*at] >= '0' && p[*at] <= '9'; ++*at)
        v = NIB_MIN(v * 10 + (p[*at] - '0'), INT32_MAX);
    if (*at > from) *out = v;
    return *at > from;
}

static bool is_align(char c) {
    return c && strchr("<>=^", c);
}

static nib_status parse_spec(jrun *j, const jstring *s, spec *f) {
    const char *p = s->p;
    size_t at = 0, n = s->n;
    *f = (spec){.precision = -1, .taint = s->taint == TRUSTED || !s->taint ? TRUSTED : DATA};
    int32_t cp;
    size_t first = n ? nib_utf8_decode(p, n, &cp) : 0;
    if (first && first < n && is_align(p[first])) {
        f->fill = p, f->fill_n = first;
        f->align = p[first];
        at = first + 1;
    } else if (n && is_align(p[0])) {
        f->align = p[at++];
    }
    if (at < n && p[at] && strchr("+- ", p[at])) f->sign = p[at++];
    if (at < n && p[at] == '#') f->alternate = true, at++;
    if (at < n && p[at] == '0') f->zero = true, at++;
    parse_count(p, n, &at, &f->width);
    if (at < n && (p[at] == ',' || p[at] == '_')) f->grouping = p[at++];
    if (at < n && p[at] == '.') {
        at++;
        if (!parse_count(p, n, &at, &f->precision))
            return jinja_fail(j, "format specifier missing precision");
    }
    if (at < n) f->type = p[at++];
    if (at < n) return jinja_fail(j, "invalid format specifier");
    return NIB_OK;
}

/* A float without a type: as str() writes it, or %g with a precision but never without a point. */
static nib_status plain_float(jrun *j, jvalue v, spec *f, char *buf, size_t cap) {
    char *p = buf;
    if (f->precision >= 0) {
        f->type = 'g';
        NIB_TRY(float_text(j, v.f, f, buf, cap));
        f->type = 0;
        if (isfinite(v.f) && !strpbrk(buf, ".e")) strcat(buf, ".0");
        return NIB_OK;
    }
    put_sign(&p, signbit(v.f) && !isnan(v.f), f->sign);
    p[jinja_float_repr(fabs(v.f), p)] = 0;
    if (f->grouping) group(buf, cap, f->grouping);
    return NIB_OK;
}

static nib_status format_value(jrun *j, jout *o, jvalue v, const jstring *how) {
    spec f;
    const jstring *s;
    char buf[1000];
    NIB_TRY(parse_spec(j, how, &f));
    if (!jinja_is_number(v) || (v.type == J_BOOL && !how->n)) {
        if (v.type != J_STRING && how->n)
            return jinja_fail(j, "unsupported format string passed to %s.__format__",
                              jinja_type_name(v));
        if (f.type && f.type != 's')
            return jinja_fail(j, "unknown format code '%c' for object of type '%s'", f.type,
                              jinja_type_name(v));
        if (f.zero && !f.fill_n) f.fill = "0", f.fill_n = 1;
        if (f.align == '=')
            return jinja_fail(j, "'=' alignment not allowed in string format specifier");
        NIB_TRY(jinja_to_string(j, v, &s));
        return put_text(j, o, s, &f);
    }
    bool is_float = v.type == J_FLOAT || (f.type && strchr("eEfFgG%", f.type));
    if (!is_float && (!f.type || strchr("dxXobn", f.type))) {
        integer_text(v.type == J_BOOL ? v.b : v.i, &f, buf, sizeof buf);
    } else if (!is_float && f.type == 'c') {
        return percent_value(&(percent){.j = j}, o, &f, 'c', v);
    } else if (is_float && !f.type) {
        NIB_TRY(plain_float(j, v, &f, buf, sizeof buf));
    } else if (is_float && strchr("eEfFgG%", f.type)) {
        NIB_TRY(float_text(j, jinja_to_double(v), &f, buf, sizeof buf));
    } else {
        return jinja_fail(j, "unknown format code '%c' for object of type '%s'", f.type,
                          jinja_type_name(v));
    }
    put_number(o, buf, v.taint, &f);
    return o->st;
}

typedef struct formatter {
    jrun *j;
    const jargs *args;
    size_t next; /* argument of the next field without a name */
    bool manual, automatic;
} formatter;

static bool is_number_text(nib_str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return s.n > 0 && s.n < 10;
}

static nib_status format_arg(formatter *m, nib_str name, jvalue *out) {
    int64_t i = 0;
    if (!name.n || is_number_text(name)) {
        m->automatic |= !name.n;
        m->manual |= name.n > 0;
        if (m->automatic && m->manual)
            return jinja_fail(
                m->j, "cannot mix automatic field numbering and manual field specification");
        if (name.n)
            jinja_parse_int(name, 10, &i);
        else
            i = (int64_t)m->next++;
        if ((size_t)i >= m->args->n)
            return jinja_fail(m->j, "Replacement index %lld out of range for positional args tuple",
                              (long long)i);
        *out = m->args->v[i];
        return NIB_OK;
    }
    for (size_t k = 0; k < m->args->n_kw; k++) {
        const jstring *s = m->args->kw[k].name;
        if (!nib_str_eq((nib_str){s->p, s->n}, name)) continue;
        *out = m->args->kw[k].value;
        return NIB_OK;
    }
    return jinja_fail(m->j, "format argument '%.*s' is missing", (int)NIB_MIN(name.n, 100u),
                      name.p);
}

/* name.attr[index]... */
static nib_status format_field(formatter *m, nib_str f, jvalue *out) {
    size_t at = 0;
    while (at < f.n && f.p[at] != '.' && f.p[at] != '[') at++;
    jvalue v, key;
    NIB_TRY(format_arg(m, (nib_str){f.p, at}, &v));
    while (at < f.n) {
        bool dot = f.p[at++] == '.';
        size_t from = at;
        while (at < f.n && (dot ? f.p[at] != '.' && f.p[at] != '[' : f.p[at] != ']')) at++;
        nib_str part = {f.p + from, at - from};
        int64_t i;
        if (!dot && at++ == f.n) return jinja_fail(m->j, "expected ']' in a format field");
        NIB_TRY(jinja_string(m->j, part.p, part.n, DATA, &key));
        if (dot)
            NIB_TRY(jinja_attr(m->j, v, key.s, &v));
        else if (is_number_text(part) && jinja_parse_int(part, 10, &i))
            NIB_TRY(jinja_item(m->j, v, jv_int(i, DATA), &v));
        else
            NIB_TRY(jinja_item(m->j, v, key, &v));
    }
    *out = v;
    return NIB_OK;
}

static nib_status format_text(formatter *m, const jstring *s, int level, jout *o);

/* The field {s[from, to)}. */
static nib_status replacement(formatter *m, const jstring *s, size_t from, size_t to, int level,
                              jout *o) {
    size_t name_end = from, brackets = 0;
    while (name_end < to) {
        char c = s->p[name_end];
        if (c == '[') brackets = 1;
        if (c == ']') brackets = 0;
        if (!brackets && (c == '!' || c == ':')) break;
        name_end++;
    }
    size_t at = name_end;
    char conversion = 0;
    jvalue v, sub, how;
    const jstring *text;
    if (at < to && s->p[at] == '!') {
        if (at + 1 >= to || (at + 2 < to && s->p[at + 2] != ':'))
            return jinja_fail(m->j, "expected one character and ':' after '!' in a format field");
        conversion = s->p[at + 1];
        at += 2;
    }
    NIB_TRY(format_field(m, (nib_str){s->p + from, name_end - from}, &v));
    if (conversion == 'r' || conversion == 'a')
        NIB_TRY(repr_of(m->j, v, &text));
    else if (conversion == 's')
        NIB_TRY(jinja_to_string(m->j, v, &text));
    else if (conversion)
        return jinja_fail(m->j, "unknown conversion specifier '%c'", conversion);
    if (conversion) v = jv_string(text);
    NIB_TRY(jinja_substring(m->j, s, NIB_MIN(at + 1, to), to, &sub));
    if (memchr(sub.s->p, '{', sub.s->n)) { /* a specification may hold fields of its own */
        jout inner;
        jinja_out_init(&inner, m->j);
        NIB_TRY(format_text(m, sub.s, level + 1, &inner));
        NIB_TRY(jinja_out_finish(&inner, &how));
        sub = how;
    }
    return format_value(m->j, o, v, sub.s);
}

static nib_status format_text(formatter *m, const jstring *s, int level, jout *o) {
    if (level > 1) return jinja_fail(m->j, "format fields nested too deeply");
    NIB_TRY(jinja_charge(m->j, JINJA_CHARS(s->n)));
    size_t plain = 0, at = 0;
    while (at < s->n && o->st == NIB_OK) {
        char c = s->p[at];
        if (c != '{' && c != '}') {
            at++;
            continue;
        }
        if (at + 1 < s->n && s->p[at + 1] == c) { /* doubled: itself */
            jinja_out_sub(o, s, plain, at + 1);
            plain = at += 2;
            continue;
        }
        if (c == '}') return jinja_fail(m->j, "single '}' encountered in format string");
        jinja_out_sub(o, s, plain, at);
        size_t end = at + 1, depth = 1;
        for (; end < s->n && depth; end++)
            depth += s->p[end] == '{' ? 1 : s->p[end] == '}' ? (size_t)-1 : 0;
        if (depth) return jinja_fail(m->j, "expected '}' before end of string");
        NIB_TRY(replacement(m, s, at + 1, end - 1, level, o));
        plain = at = end;
    }
    jinja_out_sub(o, s, plain, s->n);
    return o->st;
}

nib_status jinja_format(jrun *j, const jstring *fmt, const jargs *args, jvalue *out) {
    formatter m = {.j = j, .args = args};
    jout o;
    jinja_out_init(&o, j);
    NIB_TRY(format_text(&m, fmt, 0, &o));
    return jinja_out_finish(&o, out);
}
