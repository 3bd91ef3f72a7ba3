/* Filters on single values and on text. Filters of sequences are in jinja_sequence.c. */
#include <math.h>
#include "chat/jinja_rows.h"

static nib_status self_text(jrun *j, const jcall *c, const jstring **out) {
    return jinja_to_string(j, c->self, out);
}

/* An argument as text; what it is not given as stays. */
static nib_status text_arg(jrun *j, const jcall *c, int i, const jstring **out) {
    if (!jv_given(c->arg[i]) || c->arg[i].type == J_NONE) return NIB_OK;
    return jinja_to_string(j, c->arg[i], out);
}
static nib_status int_arg(jrun *j, const jcall *c, int i, int64_t *out) {
    if (!jv_given(c->arg[i]) || c->arg[i].type == J_NONE) return NIB_OK;
    return jinja_to_index(j, c->arg[i], c->row->name, out);
}

/* ---- numbers ---- */

nib_status jrow_abs(jrun *j, const jcall *c, jvalue *out) {
    jvalue v = c->self;
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    if (!jinja_is_number(v))
        return jinja_fail(j, "bad operand type for abs(): '%s'", jinja_type_name(v));
    if (v.type == J_FLOAT) return *out = jv_float(fabs(v.f), v.taint), NIB_OK;
    if (v.type == J_INT && v.i < 0) return jinja_binary(j, OP_SUB, jv_int(0, TRUSTED), v, out);
    *out = jv_int(v.type == J_BOOL ? v.b : v.i, v.taint);
    return NIB_OK;
}

static bool float_to_int(double f, int64_t *out) {
    if (!(fabs(f) < 9223372036854775808.0)) return false;
    *out = (int64_t)f;
    return true;
}

nib_status jrow_to_int(jrun *j, const jcall *c, jvalue *out) {
    jvalue v = c->self;
    int64_t base = 10, i;
    double f;
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    NIB_TRY(int_arg(j, c, 1, &base));
    *out = jv_given(c->arg[0]) ? c->arg[0] : jv_int(0, TRUSTED);
    if (v.type == J_INT || v.type == J_BIG) *out = v;
    if (v.type == J_BOOL) *out = jv_int(v.b, v.taint);
    if (v.type == J_FLOAT && float_to_int(v.f, &i)) *out = jv_int(i, v.taint);
    if (v.type != J_STRING) return NIB_OK;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(v.s->n)));
    nib_str s = {v.s->p, v.s->n};
    if (base != 0 && (base < 2 || base > 36)) return NIB_OK;
    uint8_t taint = v.s->taint == TRUSTED ? TRUSTED : DATA;
    if (jinja_parse_int(s, (int)base, &i))
        *out = jv_int(i, taint);
    else if (jinja_parse_float(s, &f) && float_to_int(f, &i))
        *out = jv_int(i, taint);
    return NIB_OK;
}

nib_status jrow_to_float(jrun *j, const jcall *c, jvalue *out) {
    jvalue v = c->self;
    double f;
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    *out = jv_given(c->arg[0]) ? c->arg[0] : jv_float(0, TRUSTED);
    if (jinja_is_number(v)) *out = jv_float(jinja_to_double(v), v.taint);
    if (v.type != J_STRING) return NIB_OK;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(v.s->n)));
    if (jinja_parse_float((nib_str){v.s->p, v.s->n}, &f))
        *out = jv_float(f, v.s->taint == TRUSTED ? TRUSTED : DATA);
    return NIB_OK;
}

/* To the nearest, ties to even, as the decimal digits of the exact value have it. */
static double round_to(double f, int digits) {
    char buf[400];
    if (!isfinite(f) || digits > 22 + 300) return f;
    if (digits < 0) {
        double unit = pow(10, -digits);
        return digits < -308 ? 0 : rint(f / unit) * unit;
    }
    snprintf(buf, sizeof buf, "%.*f", digits > 60 ? 60 : digits, f);
    double r;
    return jinja_parse_float(nib_str_c(buf), &r) ? r : f;
}

nib_status jrow_round(jrun *j, const jcall *c, jvalue *out) {
    jvalue v = c->self;
    int64_t precision = 0;
    const jstring *method = NULL;
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    if (!jinja_is_number(v)) return jinja_fail(j, "type %s has no rounding", jinja_type_name(v));
    NIB_TRY(int_arg(j, c, 0, &precision));
    NIB_TRY(text_arg(j, c, 1, &method));
    nib_str how = method ? (nib_str){method->p, method->n} : NIB_STR("common");
    precision = NIB_MAX(-400, NIB_MIN(precision, 400));
    double f = jinja_to_double(v), unit = pow(10, (double)precision);
    if (nib_str_eq_c(how, "common")) {
        if (v.type == J_FLOAT)
            *out = jv_float(round_to(f, (int)precision), v.taint);
        else if (precision >= 0)
            *out = jv_int(v.type == J_BOOL ? v.b : v.i, v.taint);
        else
            *out = jv_int((int64_t)round_to(f, (int)precision), v.taint);
        return NIB_OK;
    }
    bool ceiling = nib_str_eq_c(how, "ceil");
    if (!ceiling && !nib_str_eq_c(how, "floor"))
        return jinja_fail(j, "method must be common, ceil or floor");
    if (unit == 0 || !isfinite(f * unit)) return jinja_fail(j, "numerical result out of range");
    *out = jv_float((ceiling ? ceil(f * unit) : floor(f * unit)) / unit, v.taint);
    return NIB_OK;
}

nib_status jrow_filesizeformat(jrun *j, const jcall *c, jvalue *out) {
    static const char prefixes[] = "kMGTPEZY";
    jvalue v = c->self;
    double bytes;
    if (v.type == J_STRING && jinja_parse_float((nib_str){v.s->p, v.s->n}, &bytes)) {
    } else if (jinja_is_number(v))
        bytes = jinja_to_double(v);
    else
        return jinja_fail(j, "could not convert %s to a number of bytes", jinja_type_name(v));
    bool binary = jv_given(c->arg[0]) && jinja_truth(c->arg[0]);
    double base = binary ? 1024 : 1000;
    char buf[400];
    if (bytes == 1)
        strcpy(buf, "1 Byte");
    else if (bytes < base)
        snprintf(buf, sizeof buf, "%.0f Bytes", trunc(bytes));
    else {
        double unit = base * base;
        int i = 0;
        while (i < 7 && bytes >= unit) unit *= base, i++;
        char letter = binary && i == 0 ? 'K' : prefixes[i];
        snprintf(buf, sizeof buf, "%.1f %c%sB", base * bytes / unit, letter, binary ? "i" : "");
    }
    jout o;
    jinja_out_init(&o, j);
    jinja_out_puts(&o, buf, DATA);
    return jinja_out_finish(&o, out);
}

/* ---- any value ---- */

nib_status jrow_default(jrun *j, const jcall *c, jvalue *out) {
    bool boolean = jv_given(c->arg[1]) && jinja_truth(c->arg[1]);
    *out = c->self;
    if (c->self.type != J_UNDEFINED && !(boolean && !jinja_truth(c->self))) return NIB_OK;
    if (!jv_given(c->arg[0])) return jinja_string(j, "", 0, 0, out);
    *out = c->arg[0];
    return NIB_OK;
}

nib_status jrow_attr(jrun *j, const jcall *c, jvalue *out) {
    if (c->arg[0].type != J_STRING) return jinja_fail(j, "attribute name must be string");
    if (c->self.type != J_DICT) return jinja_attr(j, c->self, c->arg[0].s, out);
    NIB_TRY(jinja_attr(j, c->self, c->arg[0].s, out)); /* attributes only: a key is none */
    if (out->type == J_METHOD) return NIB_OK;
    return jinja_undefined(j, U_ATTR, jinja_object_name(j, c->self), c->arg[0], out);
}

nib_status jrow_to_str(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    NIB_TRY(self_text(j, c, &s));
    *out = jv_string(s);
    return NIB_OK;
}

nib_status jrow_tojson(jrun *j, const jcall *c, jvalue *out) {
    jjson how = {.ascii = jv_given(c->arg[0]) && jinja_truth(c->arg[0]),
                 .sort_keys = jv_given(c->arg[3]) && jinja_truth(c->arg[3])};
    uint8_t taint = c->self.type == J_LIST   ? c->self.l->taint
                    : c->self.type == J_DICT ? c->self.d->taint
                                             : DATA;
    jvalue item_sep, key_sep, spaces;
    int64_t width;
    if (c->arg[1].type == J_STRING) {
        how.indent = c->arg[1].s;
    } else if (jv_given(c->arg[1]) && c->arg[1].type != J_NONE) {
        jout o;
        NIB_TRY(jinja_to_index(j, c->arg[1], "an indent", &width));
        jinja_out_init(&o, j);
        jinja_out_fill(&o, NIB_STR(" "), width, taint);
        NIB_TRY(jinja_out_finish(&o, &spaces));
        how.indent = spaces.s;
    }
    if (jv_given(c->arg[2]) && c->arg[2].type != J_NONE) {
        const jvalue *v;
        size_t n;
        NIB_TRY(jinja_items(j, c->arg[2], &v, &n));
        if (n != 2 || v[0].type != J_STRING || v[1].type != J_STRING)
            return jinja_fail(j, "expected two strings as tojson's separators");
        item_sep = v[0], key_sep = v[1];
    } else {
        NIB_TRY(jinja_cstring(j, how.indent ? "," : ", ", taint, &item_sep));
        NIB_TRY(jinja_cstring(j, ": ", taint, &key_sep));
    }
    how.item_sep = item_sep.s;
    how.key_sep = key_sep.s;
    return jinja_to_json(j, c->self, &how, out);
}

/* ---- text ---- */

nib_status jrow_filter_title(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    jout o;
    jvalue v;
    NIB_TRY(self_text(j, c, &s));
    jinja_out_init(&o, j);
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    for (size_t at = 0; at < s->n;) {
        /* words start behind white space and - ( { [ < */
        size_t start = at, end = at;
        int32_t cp;
        bool breaks = false;
        for (size_t n; end < s->n; end += n) {
            n = nib_utf8_decode(s->p + end, s->n - end, &cp);
            bool b = jinja_is_space(cp) || (cp < 0x80 && strchr("-({[<", cp) && cp);
            if (end == start)
                breaks = b;
            else if (b != breaks)
                break;
        }
        at = end;
        if (breaks) {
            jinja_out_sub(&o, s, start, end);
            continue;
        }
        size_t first = start + nib_utf8_decode(s->p + start, s->n - start, &cp);
        jvalue part;
        NIB_TRY(jinja_substring(j, s, start, first, &part));
        NIB_TRY(jinja_recase(j, part.s, CASE_UPPER, &v));
        jinja_out_string(&o, v.s);
        NIB_TRY(jinja_substring(j, s, first, end, &part));
        NIB_TRY(jinja_recase(j, part.s, CASE_LOWER, &v));
        jinja_out_string(&o, v.s);
    }
    return jinja_out_finish(&o, out);
}

static nib_status as_method(jrun *j, const jcall *c, jbuiltin method, jvalue *out) {
    jcall m = *c;
    const jstring *s;
    NIB_TRY(self_text(j, c, &s));
    m.self = jv_string(s);
    return method(j, &m, out);
}

nib_status jrow_trim(jrun *j, const jcall *c, jvalue *out) {
    return as_method(j, c, jrow_str_strip, out);
}

nib_status jrow_filter_center(jrun *j, const jcall *c, jvalue *out) {
    jcall m = *c;
    if (!jv_given(m.arg[0])) m.arg[0] = jv_int(80, TRUSTED);
    return as_method(j, &m, jrow_str_center, out);
}

nib_status jrow_filter_replace(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s, *from, *to;
    int64_t count = -1;
    NIB_TRY(self_text(j, c, &s));
    NIB_TRY(jinja_to_string(j, c->arg[0], &from));
    NIB_TRY(jinja_to_string(j, c->arg[1], &to));
    NIB_TRY(int_arg(j, c, 2, &count));
    return jinja_replace(j, s, from, to, count, out);
}

nib_status jrow_filter_format(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    jvalue args;
    NIB_TRY(self_text(j, c, &s));
    if (c->rest.n && c->rest.n_kw)
        return jinja_fail(j, "can't handle positional and keyword arguments at the same time");
    if (c->rest.n_kw) {
        NIB_TRY(jinja_dict(j, TRUSTED, &args));
        for (size_t i = 0; i < c->rest.n_kw; i++)
            NIB_TRY(jinja_dict_set(j, args.d, jv_string(c->rest.kw[i].name), c->rest.kw[i].value));
    } else {
        NIB_TRY(jinja_list(j, c->rest.n, K_TUPLE, TRUSTED, &args));
        if (c->rest.n) memcpy(args.l->v, c->rest.v, c->rest.n * sizeof *args.l->v);
    }
    return jinja_percent(j, s, args, out);
}

static const char *html_entity(char c) {
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&#34;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

static void put_escaped(jout *o, const jstring *s) {
    size_t plain = 0;
    if (o->st == NIB_OK) o->st = jinja_charge(o->j, JINJA_CHARS(s->n));
    for (size_t i = 0; i < s->n && o->st == NIB_OK; i++) {
        const char *entity = html_entity(s->p[i]);
        if (!entity) continue;
        jinja_out_sub(o, s, plain, i);
        jinja_out_puts(o, entity, jinja_taint_at(s, i));
        plain = i + 1;
    }
    jinja_out_sub(o, s, plain, s->n);
}

nib_status jrow_escape(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    jout o;
    NIB_TRY(self_text(j, c, &s));
    jinja_out_init(&o, j);
    put_escaped(&o, s);
    return jinja_out_finish(&o, out);
}

nib_status jrow_xmlattr(jrun *j, const jcall *c, jvalue *out) {
    jout o;
    if (c->self.type != J_DICT)
        return jinja_fail(j, "xmlattr expected a mapping, found '%s'", jinja_type_name(c->self));
    jinja_out_init(&o, j);
    bool space = !jv_given(c->arg[0]) || jinja_truth(c->arg[0]);
    for (uint32_t i = 0; i < c->self.d->n && o.st == NIB_OK; i++) {
        const jentry *e = &c->self.d->v[i];
        const jstring *k, *v;
        if (e->value.type == J_NONE || e->value.type == J_UNDEFINED) continue;
        NIB_TRY(jinja_to_string(j, e->key, &k));
        NIB_TRY(jinja_to_string(j, e->value, &v));
        for (uint32_t at = 0; at < k->n; at++)
            if (k->p[at] && strchr(" \t\n\r\f\v/>=", k->p[at]))
                return jinja_fail(j, "invalid character in attribute name");
        if (o.b.len || space) jinja_out_puts(&o, " ", TRUSTED);
        put_escaped(&o, k);
        jinja_out_puts(&o, "=\"", TRUSTED);
        put_escaped(&o, v);
        jinja_out_puts(&o, "\"", TRUSTED);
    }
    return jinja_out_finish(&o, out);
}

nib_status jrow_striptags(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    jout o;
    NIB_TRY(self_text(j, c, &s));
    /* without comments and tags; then runs of white space become one space */
    jinja_out_init(&o, j);
    size_t at = 0;
    while (at < s->n && o.st == NIB_OK) {
        const char *open = memchr(s->p + at, '<', s->n - at);
        size_t start = open ? (size_t)(open - s->p) : s->n;
        jinja_out_sub(&o, s, at, start);
        if (!open) break;
        bool comment = s->n - start >= 4 && !memcmp(open, "<!--", 4);
        const char *close =
            comment ? memmem(open, s->n - start, "-->", 3) : memchr(open, '>', s->n - start);
        if (!close) {
            jinja_out_sub(&o, s, start, s->n);
            break;
        }
        at = (size_t)(close - s->p) + (comment ? 3 : 1);
    }
    jvalue v, words, space;
    NIB_TRY(jinja_out_finish(&o, &v));
    jcall split = {.row = c->row, .self = v}, join = {.row = c->row};
    NIB_TRY(jrow_str_split(j, &split, &words));
    NIB_TRY(jinja_cstring(j, " ", TRUSTED, &space));
    join.self = space;
    join.arg[0] = words;
    return jrow_str_join(j, &join, out);
}

nib_status jrow_indent(jrun *j, const jcall *c, jvalue *out) {
    jvalue width = jv_given(c->arg[0]) ? c->arg[0] : jv_int(4, TRUSTED), lines;
    bool first = jv_given(c->arg[1]) && jinja_truth(c->arg[1]),
         blank = jv_given(c->arg[2]) && jinja_truth(c->arg[2]);
    int64_t n = 0;
    const jstring *s;
    if (c->self.type != J_STRING)
        return jinja_fail(j, "indent expected a string, found '%s'", jinja_type_name(c->self));
    s = c->self.s;
    if (width.type != J_STRING) NIB_TRY(jinja_to_index(j, width, "a width", &n));
    jvalue newline, with_end;
    NIB_TRY(jinja_cstring(j, "\n", s->taint == TRUSTED ? TRUSTED : DATA, &newline));
    NIB_TRY(jinja_concat(j, s, newline.s, &with_end)); /* so an empty last line counts */
    NIB_TRY(jinja_splitlines(j, with_end.s, false, &lines));
    jout o;
    jinja_out_init(&o, j);
    for (uint32_t i = 0; i < lines.l->n && o.st == NIB_OK; i++) {
        const jstring *line = lines.l->v[i].s;
        if (i) jinja_out_string(&o, newline.s);
        if (i ? blank || line->n : first) {
            if (width.type == J_STRING)
                jinja_out_string(&o, width.s);
            else
                jinja_out_fill(&o, NIB_STR(" "), n, TRUSTED);
        }
        jinja_out_string(&o, line);
    }
    return jinja_out_finish(&o, out);
}

nib_status jrow_truncate(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s, *end = &(const jstring){.p = "...", .n = 3, .n_chars = 3, .taint = TRUSTED};
    int64_t length = 255, leeway = 5;
    if (c->self.type == J_UNDEFINED) return *out = c->self, NIB_OK;
    if (c->self.type != J_STRING)
        return jinja_fail(j, "truncate expected a string, found '%s'", jinja_type_name(c->self));
    s = c->self.s;
    NIB_TRY(int_arg(j, c, 0, &length));
    NIB_TRY(text_arg(j, c, 2, &end));
    NIB_TRY(int_arg(j, c, 3, &leeway));
    int64_t n = (int64_t)jinja_n_chars(s), n_end = (int64_t)jinja_n_chars(end);
    if (length < n_end || leeway < 0)
        return jinja_fail(j,
                          "truncate expected a length of at least %lld and a leeway of at least 0",
                          (long long)n_end);
    if (leeway > n || n <= length + leeway) return *out = jv_string(s), NIB_OK;
    size_t cut = jinja_char_offset(s, (size_t)(length - n_end));
    if (!(jv_given(c->arg[1]) && jinja_truth(c->arg[1]))) {
        const char *space = memrchr(s->p, ' ', cut);
        if (space) cut = (size_t)(space - s->p);
    }
    jout o;
    jinja_out_init(&o, j);
    jinja_out_sub(&o, s, 0, cut);
    jinja_out_string(&o, end);
    return jinja_out_finish(&o, out);
}

static bool is_word_char(int32_t cp) {
    return cp == '_' || cp >= 0x80
               ? !jinja_is_space(cp)
               : (cp >= '0' && cp <= '9') || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z');
}

nib_status jrow_wordcount(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s;
    int64_t words = 0;
    bool inside = false;
    NIB_TRY(self_text(j, c, &s));
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    for (size_t at = 0, n; at < s->n; at += n) {
        int32_t cp;
        n = nib_utf8_decode(s->p + at, s->n - at, &cp);
        bool word = is_word_char(cp);
        words += word && !inside;
        inside = word;
    }
    *out = jv_int(words, DATA);
    return NIB_OK;
}

/* ---- URLs ---- */

static bool is_unreserved(char c, bool query) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
           (c && strchr("_.-~", c)) || (c == '/' && !query);
}

static void put_quoted(jout *o, const jstring *s, bool query) {
    static const char digit[] = "0123456789ABCDEF";
    size_t plain = 0;
    if (o->st == NIB_OK) o->st = jinja_charge(o->j, JINJA_CHARS(s->n));
    for (uint32_t i = 0; i < s->n && o->st == NIB_OK; i++) {
        unsigned char c = (unsigned char)s->p[i];
        if (is_unreserved((char)c, query)) continue;
        char hex[4] = {'%', digit[c >> 4], digit[c & 15], 0};
        jinja_out_sub(o, s, plain, i);
        jinja_out_puts(o, c == ' ' && query ? "+" : hex, jinja_taint_at(s, i));
        plain = i + 1;
    }
    jinja_out_sub(o, s, plain, s->n);
}

nib_status jrow_urlencode(jrun *j, const jcall *c, jvalue *out) {
    jvalue v = c->self;
    jout o;
    const jstring *s;
    jinja_out_init(&o, j);
    if (v.type == J_STRING || !jinja_iterable(v)) {
        NIB_TRY(self_text(j, c, &s));
        put_quoted(&o, s, false);
        return jinja_out_finish(&o, out);
    }
    const jvalue *pairs, *pair;
    size_t n, two;
    if (v.type == J_DICT) NIB_TRY(jinja_dict_view(j, v.d, K_ITEMS, &v));
    NIB_TRY(jinja_items(j, v, &pairs, &n));
    for (size_t i = 0; i < n && o.st == NIB_OK; i++) {
        NIB_TRY(jinja_items(j, pairs[i], &pair, &two));
        if (two != 2)
            return jinja_fail(j, "urlencode expected pairs, found an item of length %zu", two);
        if (i) jinja_out_puts(&o, "&", TRUSTED);
        for (int k = 0; k < 2; k++) {
            NIB_TRY(jinja_to_string(j, pair[k], &s));
            put_quoted(&o, s, true);
            if (!k) jinja_out_puts(&o, "=", TRUSTED);
        }
    }
    return jinja_out_finish(&o, out);
}
