/* Python's string methods that look for, cut and join. Positions are code points outside and bytes
 * inside: a valid UTF-8 needle found in a valid UTF-8 string always starts and ends on a character.
 * Searches are linear (memmem); those from the end run over reversed copies. */
#include "chat/jinja_rows.h"

bool jinja_is_space(int32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* ---- strip ---- */

static bool in_set(const nib_str *chars, const char *p, size_t n, int32_t cp) {
    if (!chars) return jinja_is_space(cp);
    return n == 1 ? memchr(chars->p, *p, chars->n) != NULL
                  : memmem(chars->p, chars->n, p, n) != NULL;
}

size_t jinja_lstrip(nib_str s, const nib_str *chars) {
    size_t at = 0;
    while (at < s.n) {
        int32_t cp;
        size_t n = nib_utf8_decode(s.p + at, s.n - at, &cp);
        if (!in_set(chars, s.p + at, n, cp)) break;
        at += n;
    }
    return at;
}

size_t jinja_rstrip(nib_str s, const nib_str *chars) {
    size_t end = s.n;
    while (end > 0) {
        size_t at = end - 1;
        int32_t cp;
        while (at > 0 && (s.p[at] & 0xc0) == 0x80) at--;
        nib_utf8_decode(s.p + at, end - at, &cp);
        if (!in_set(chars, s.p + at, end - at, cp)) break;
        end = at;
    }
    return end;
}

static nib_status strip(jrun *j, const jcall *c, bool left, bool right, jvalue *out) {
    const jstring *s = c->self.s;
    nib_str v = {s->p, s->n}, set, *chars = NULL;
    if (jv_given(c->arg[0]) && c->arg[0].type != J_NONE) {
        if (c->arg[0].type != J_STRING) return jinja_fail(j, "strip arg must be None or str");
        set = (nib_str){c->arg[0].s->p, c->arg[0].s->n};
        chars = &set;
        NIB_TRY(jinja_charge(j, set.n > 64 ? JINJA_BYTES(set.n) * s->n
                                           : 1)); /* each may look at all of the set */
    }
    size_t end = right ? jinja_rstrip(v, chars) : v.n;
    size_t start = left ? jinja_lstrip((nib_str){v.p, end}, chars) : 0;
    NIB_TRY(jinja_charge(j, JINJA_CHARS(start + s->n - end)));
    return jinja_substring(j, s, start, end, out);
}

nib_status jrow_str_strip(jrun *j, const jcall *c, jvalue *out) {
    return strip(j, c, true, true, out);
}
nib_status jrow_str_lstrip(jrun *j, const jcall *c, jvalue *out) {
    return strip(j, c, true, false, out);
}
nib_status jrow_str_rstrip(jrun *j, const jcall *c, jvalue *out) {
    return strip(j, c, false, true, out);
}

/* ---- arguments ---- */

static nib_status string_arg(jrun *j, const jcall *c, int i, const jstring **out) {
    *out = c->arg[i].s;
    if (c->arg[i].type == J_STRING) return NIB_OK;
    if (c->arg[i].type == J_UNDEFINED) return jinja_fail_undefined(j, c->arg[i]);
    return jinja_fail(j, "%s() expected a string, found '%s'", c->row->name,
                      jinja_type_name(c->arg[i]));
}

static nib_status int_arg(jrun *j, const jcall *c, int i, int64_t otherwise, int64_t *out) {
    *out = otherwise;
    if (!jv_given(c->arg[i]) || c->arg[i].type == J_NONE) return NIB_OK;
    return jinja_to_index(j, c->arg[i], c->row->name, out);
}

/* The bytes of self between the characters that arguments i and i+1 name; *found is false when
 * there are none. */
static nib_status byte_range(jrun *j, const jcall *c, int i, size_t *from, size_t *to,
                             bool *found) {
    const jstring *s = c->self.s;
    int64_t n = (int64_t)jinja_n_chars(s), start, end;
    NIB_TRY(jinja_charge(j, n == s->n ? 1 : JINJA_CHARS(s->n)));
    NIB_TRY(int_arg(j, c, i, 0, &start));
    NIB_TRY(int_arg(j, c, i + 1, n, &end));
    if (start < 0) start = NIB_MAX(start + n, 0);
    if (end < 0) end = NIB_MAX(end + n, 0);
    end = NIB_MIN(end, n);
    *found = start <= end;
    if (*found) {
        *from = jinja_char_offset(s, (size_t)start);
        *to = jinja_char_offset(s, (size_t)end);
    }
    return NIB_OK;
}

static int64_t chars_before(const jstring *s, size_t byte) {
    if (jinja_n_chars(s) == s->n) return (int64_t)byte;
    int64_t n = 0;
    for (size_t i = 0; i < byte; i++) n += (s->p[i] & 0xc0) != 0x80;
    return n;
}

/* ---- searches ---- */

static nib_status reversed(jrun *j, const char *p, size_t n, nib_str *out) {
    char *r;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(n)));
    NIB_TRY(jinja_alloc(j, n, 1, &r));
    for (size_t i = 0; i < n; i++) r[i] = p[n - 1 - i];
    *out = (nib_str){r, n};
    return NIB_OK;
}

/* The byte at which the first or last needle in s[from, to) starts, or SIZE_MAX. */
static nib_status search(jrun *j, const jstring *s, const jstring *needle, size_t from, size_t to,
                         bool last, size_t *out) {
    *out = SIZE_MAX;
    if (needle->n > to - from) return NIB_OK;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(to - from)));
    const char *p;
    if (!last) {
        p = needle->n ? memmem(s->p + from, to - from, needle->p, needle->n) : s->p + from;
        if (p) *out = (size_t)(p - s->p);
        return NIB_OK;
    }
    nib_str text, what;
    NIB_TRY(reversed(j, s->p + from, to - from, &text));
    NIB_TRY(reversed(j, needle->p, needle->n, &what));
    p = needle->n ? memmem(text.p, text.n, what.p, what.n) : text.p;
    if (p) *out = to - (size_t)(p - text.p) - needle->n;
    return NIB_OK;
}

static nib_status find(jrun *j, const jcall *c, bool last, bool must, jvalue *out) {
    const jstring *needle;
    size_t from, to, at = SIZE_MAX;
    bool found;
    NIB_TRY(string_arg(j, c, 0, &needle));
    NIB_TRY(byte_range(j, c, 1, &from, &to, &found));
    if (found) NIB_TRY(search(j, c->self.s, needle, from, to, last, &at));
    if (at == SIZE_MAX && must) return jinja_fail(j, "substring not found");
    *out = jv_int(at == SIZE_MAX ? -1 : chars_before(c->self.s, at), DATA);
    return NIB_OK;
}
nib_status jrow_str_find(jrun *j, const jcall *c, jvalue *out) {
    return find(j, c, false, false, out);
}
nib_status jrow_str_rfind(jrun *j, const jcall *c, jvalue *out) {
    return find(j, c, true, false, out);
}
nib_status jrow_str_index(jrun *j, const jcall *c, jvalue *out) {
    return find(j, c, false, true, out);
}
nib_status jrow_str_rindex(jrun *j, const jcall *c, jvalue *out) {
    return find(j, c, true, true, out);
}

nib_status jrow_str_count(jrun *j, const jcall *c, jvalue *out) {
    const jstring *needle, *s = c->self.s;
    size_t from, to;
    bool found;
    int64_t n = 0;
    NIB_TRY(string_arg(j, c, 0, &needle));
    NIB_TRY(byte_range(j, c, 1, &from, &to, &found));
    if (found && !needle->n) n = chars_before(s, to) - chars_before(s, from) + 1;
    while (found && needle->n && from < to) {
        const char *p = memmem(s->p + from, to - from, needle->p, needle->n);
        if (!p) break;
        from = (size_t)(p - s->p) + needle->n;
        n++;
    }
    *out = jv_int(n, DATA);
    return NIB_OK;
}

static nib_status has_affix(jrun *j, const jcall *c, bool at_end, jvalue *out) {
    jvalue what = c->arg[0];
    const jvalue *v = &what;
    size_t n = 1, from, to;
    bool found, has = false;
    if (what.type == J_UNDEFINED) return jinja_fail_undefined(j, what);
    if (what.type == J_LIST && what.l->kind == K_TUPLE) v = what.l->v, n = what.l->n;
    NIB_TRY(byte_range(j, c, 1, &from, &to, &found));
    for (size_t i = 0; i < n; i++) {
        if (v[i].type != J_STRING)
            return jinja_fail(j, "%s first arg must be str or a tuple of str, not %s", c->row->name,
                              jinja_type_name(v[i]));
        const jstring *a = v[i].s;
        NIB_TRY(jinja_charge(j, JINJA_BYTES(a->n)));
        if (!found || a->n > to - from || has) continue;
        has = !memcmp(c->self.s->p + (at_end ? to - a->n : from), a->p, a->n);
    }
    *out = jv_bool(has);
    return NIB_OK;
}
nib_status jrow_str_startswith(jrun *j, const jcall *c, jvalue *out) {
    return has_affix(j, c, false, out);
}
nib_status jrow_str_endswith(jrun *j, const jcall *c, jvalue *out) {
    return has_affix(j, c, true, out);
}

nib_status jrow_str_removeprefix(jrun *j, const jcall *c, jvalue *out) {
    const jstring *a, *s = c->self.s;
    NIB_TRY(string_arg(j, c, 0, &a));
    NIB_TRY(jinja_charge(j, JINJA_BYTES(a->n)));
    bool has = a->n <= s->n && !memcmp(s->p, a->p, a->n);
    return jinja_substring(j, s, has ? a->n : 0, s->n, out);
}
nib_status jrow_str_removesuffix(jrun *j, const jcall *c, jvalue *out) {
    const jstring *a, *s = c->self.s;
    NIB_TRY(string_arg(j, c, 0, &a));
    NIB_TRY(jinja_charge(j, JINJA_BYTES(a->n)));
    bool has = a->n <= s->n && !memcmp(s->p + s->n - a->n, a->p, a->n);
    return jinja_substring(j, s, 0, has ? s->n - a->n : s->n, out);
}

/* ---- split ---- */

static nib_status push_part(jrun *j, jlist *l, const jstring *s, size_t from, size_t to) {
    jvalue part;
    NIB_TRY(jinja_substring(j, s, from, to, &part));
    return jinja_push(j, l, part);
}

static nib_status split_at(jrun *j, const jstring *s, const jstring *sep, int64_t max, jlist *l) {
    size_t at = 0;
    for (; max != 0; max--) {
        const char *p = memmem(s->p + at, s->n - at, sep->p, sep->n);
        if (!p) break;
        NIB_TRY(push_part(j, l, s, at, (size_t)(p - s->p)));
        at = (size_t)(p - s->p) + sep->n;
    }
    return push_part(j, l, s, at, s->n);
}

static void reverse_items(jlist *l) {
    for (uint32_t i = 0; i < l->n / 2; i++) {
        jvalue t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
}

static nib_status rsplit_at(jrun *j, const jstring *s, const jstring *sep, int64_t max, jlist *l) {
    nib_str text, what;
    NIB_TRY(reversed(j, s->p, s->n, &text));
    NIB_TRY(reversed(j, sep->p, sep->n, &what));
    size_t at = 0; /* in text; s ends n - at there */
    for (; max != 0; max--) {
        const char *p = memmem(text.p + at, text.n - at, what.p, what.n);
        if (!p) break;
        size_t found = (size_t)(p - text.p);
        NIB_TRY(push_part(j, l, s, s->n - found, s->n - at));
        at = found + what.n;
    }
    NIB_TRY(push_part(j, l, s, 0, s->n - at));
    reverse_items(l);
    return NIB_OK;
}

/* The end of the run of characters from 'at' that are (not) white space. */
static size_t run_of(nib_str s, size_t at, bool space) {
    while (at < s.n) {
        int32_t cp;
        size_t n = nib_utf8_decode(s.p + at, s.n - at, &cp);
        if (jinja_is_space(cp) != space) break;
        at += n;
    }
    return at;
}

static nib_status split_words(jrun *j, const jstring *s, int64_t max, jlist *l) {
    nib_str v = {s->p, s->n};
    for (size_t at = run_of(v, 0, true), end; at < v.n; at = run_of(v, end, true)) {
        end = max-- == 0 ? v.n : run_of(v, at, false); /* the rest keeps its trailing space */
        NIB_TRY(push_part(j, l, s, at, end));
    }
    return NIB_OK;
}

static nib_status rsplit_words(jrun *j, const jstring *s, int64_t max, jlist *l) {
    for (size_t end = jinja_rstrip((nib_str){s->p, s->n}, NULL), at; end > 0;
         end = jinja_rstrip((nib_str){s->p, at}, NULL)) {
        at = max-- == 0 ? 0 : end;
        while (at > 0) {
            size_t before = at - 1;
            int32_t cp;
            while (before > 0 && (s->p[before] & 0xc0) == 0x80) before--;
            nib_utf8_decode(s->p + before, at - before, &cp);
            if (jinja_is_space(cp)) break;
            at = before;
        }
        NIB_TRY(push_part(j, l, s, at, end));
    }
    reverse_items(l);
    return NIB_OK;
}

static nib_status split(jrun *j, const jcall *c, bool from_end, jvalue *out) {
    const jstring *s = c->self.s, *sep;
    int64_t max;
    NIB_TRY(int_arg(j, c, 1, -1, &max));
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    bool words = !jv_given(c->arg[0]) || c->arg[0].type == J_NONE;
    NIB_TRY(jinja_charge(j, words ? JINJA_CHARS(s->n) : JINJA_BYTES(s->n)));
    if (words) return from_end ? rsplit_words(j, s, max, out->l) : split_words(j, s, max, out->l);
    NIB_TRY(string_arg(j, c, 0, &sep));
    if (!sep->n) return jinja_fail(j, "empty separator");
    return from_end ? rsplit_at(j, s, sep, max, out->l) : split_at(j, s, sep, max, out->l);
}
nib_status jrow_str_split(jrun *j, const jcall *c, jvalue *out) {
    return split(j, c, false, out);
}
nib_status jrow_str_rsplit(jrun *j, const jcall *c, jvalue *out) {
    return split(j, c, true, out);
}

static nib_status partition(jrun *j, const jcall *c, bool last, jvalue *out) {
    const jstring *s = c->self.s, *sep;
    size_t at;
    NIB_TRY(string_arg(j, c, 0, &sep));
    if (!sep->n) return jinja_fail(j, "empty separator");
    NIB_TRY(search(j, s, sep, 0, s->n, last, &at));
    NIB_TRY(jinja_list(j, 3, K_TUPLE, DATA, out));
    jvalue *v = out->l->v;
    size_t head = at != SIZE_MAX ? at : last ? 0 : s->n, tail = at != SIZE_MAX ? at + sep->n : head;
    NIB_TRY(jinja_substring(j, s, 0, head, &v[0]));
    NIB_TRY(jinja_substring(j, s, head, tail, &v[1]));
    return jinja_substring(j, s, tail, s->n, &v[2]);
}
nib_status jrow_str_partition(jrun *j, const jcall *c, jvalue *out) {
    return partition(j, c, false, out);
}
nib_status jrow_str_rpartition(jrun *j, const jcall *c, jvalue *out) {
    return partition(j, c, true, out);
}

nib_status jinja_splitlines(jrun *j, const jstring *s, bool keep_ends, jvalue *out) {
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    size_t start = 0;
    for (size_t at = 0; at < s->n;) {
        int32_t cp;
        size_t n = nib_utf8_decode(s->p + at, s->n - at, &cp);
        bool ends = (cp >= '\n' && cp <= '\r') || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                    cp == 0x2028 || cp == 0x2029;
        size_t end = at;
        at += n;
        if (!ends) continue;
        if (cp == '\r' && at < s->n && s->p[at] == '\n') at++;
        NIB_TRY(push_part(j, out->l, s, start, keep_ends ? at : end));
        start = at;
    }
    return start < s->n ? push_part(j, out->l, s, start, s->n) : NIB_OK;
}
nib_status jrow_str_splitlines(jrun *j, const jcall *c, jvalue *out) {
    return jinja_splitlines(j, c->self.s, jinja_truth(c->arg[0]), out);
}

/* ---- join, replace, pad ---- */

nib_status jrow_str_join(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    NIB_TRY(jinja_items(j, c->arg[0], &v, &n));
    jout o;
    jinja_out_init(&o, j);
    for (size_t i = 0; i < n && o.st == NIB_OK; i++) {
        if (v[i].type != J_STRING)
            return jinja_fail(j, "sequence item %zu: expected str instance, %s found", i,
                              jinja_type_name(v[i]));
        if (i) jinja_out_string(&o, c->self.s);
        jinja_out_string(&o, v[i].s);
    }
    return jinja_out_finish(&o, out);
}

nib_status jinja_replace(jrun *j, const jstring *s, const jstring *from, const jstring *to,
                         int64_t count, jvalue *out) {
    size_t at = 0;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(s->n)));
    if (from->n && (count == 0 || !memmem(s->p, s->n, from->p, from->n)))
        return *out = jv_string(s), NIB_OK;
    jout o;
    jinja_out_init(&o, j);
    for (; count != 0 && o.st == NIB_OK; count--) {
        size_t found;
        if (from->n) {
            const char *p = memmem(s->p + at, s->n - at, from->p, from->n);
            if (!p) break;
            found = (size_t)(p - s->p);
            jinja_out_sub(&o, s, at, found);
            jinja_out_string(&o, to);
            at = found + from->n;
        } else { /* before every character and at the end */
            jinja_out_string(&o, to);
            if (at == s->n) break;
            found = at + 1;
            while (found < s->n && (s->p[found] & 0xc0) == 0x80) found++;
            jinja_out_sub(&o, s, at, found);
            at = found;
        }
    }
    jinja_out_sub(&o, s, at, s->n);
    return jinja_out_finish(&o, out);
}

nib_status jrow_str_replace(jrun *j, const jcall *c, jvalue *out) {
    const jstring *from, *to;
    int64_t count;
    NIB_TRY(string_arg(j, c, 0, &from));
    NIB_TRY(string_arg(j, c, 1, &to));
    NIB_TRY(int_arg(j, c, 2, -1, &count));
    return jinja_replace(j, c->self.s, from, to, count, out);
}

static nib_status pad(jrun *j, const jcall *c, int left_of_2, jvalue *out) {
    const jstring *s = c->self.s, *fill = NULL;
    int64_t width;
    NIB_TRY(jinja_to_index(j, c->arg[0], "a width", &width));
    if (jv_given(c->arg[1])) NIB_TRY(string_arg(j, c, 1, &fill));
    if (fill && jinja_n_chars(fill) != 1)
        return jinja_fail(j, "the fill character must be exactly one character long");
    int64_t n = (int64_t)jinja_n_chars(s), missing = width > n ? width - n : 0;
    int64_t left = left_of_2 == 0   ? 0
                   : left_of_2 == 2 ? missing
                                    : missing / 2 + (missing & width & 1);
    nib_str what = fill ? (nib_str){fill->p, fill->n} : NIB_STR(" ");
    uint8_t taint = fill ? fill->taint : TRUSTED;
    jout o;
    jinja_out_init(&o, j);
    jinja_out_fill(&o, what, left, taint);
    jinja_out_string(&o, s);
    jinja_out_fill(&o, what, missing - left, taint);
    return jinja_out_finish(&o, out);
}
nib_status jrow_str_ljust(jrun *j, const jcall *c, jvalue *out) {
    return pad(j, c, 0, out);
}
nib_status jrow_str_center(jrun *j, const jcall *c, jvalue *out) {
    return pad(j, c, 1, out);
}
nib_status jrow_str_rjust(jrun *j, const jcall *c, jvalue *out) {
    return pad(j, c, 2, out);
}

nib_status jrow_str_zfill(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s = c->self.s;
    int64_t width, n = (int64_t)jinja_n_chars(s);
    NIB_TRY(jinja_to_index(j, c->arg[0], "a width", &width));
    size_t sign = s->n && (s->p[0] == '-' || s->p[0] == '+');
    jout o;
    jinja_out_init(&o, j);
    jinja_out_sub(&o, s, 0, sign);
    jinja_out_fill(&o, NIB_STR("0"), width > n ? width - n : 0, TRUSTED);
    jinja_out_sub(&o, s, sign, s->n);
    return jinja_out_finish(&o, out);
}

nib_status jrow_str_expandtabs(jrun *j, const jcall *c, jvalue *out) {
    const jstring *s = c->self.s;
    int64_t size, column = 0;
    NIB_TRY(int_arg(j, c, 0, 8, &size));
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    jout o;
    jinja_out_init(&o, j);
    size_t plain = 0;
    for (size_t i = 0; i < s->n && o.st == NIB_OK; i++) {
        if (s->p[i] == '\n' || s->p[i] == '\r')
            column = 0;
        else if (s->p[i] != '\t')
            column += (s->p[i] & 0xc0) != 0x80;
        else {
            int64_t n = size > 0 ? size - column % size : 0;
            jinja_out_sub(&o, s, plain, i);
            jinja_out_fill(&o, NIB_STR(" "), n, jinja_taint_at(s, i));
            column += n;
            plain = i + 1;
        }
    }
    jinja_out_sub(&o, s, plain, s->n);
    return jinja_out_finish(&o, out);
}
