/* Filters of sequences: choosing, ordering, grouping and adding up.
 *
 * Those that are lazy in Jinja are LAZY rows: what they give here is what going through their
 * generator gives. */
#include "chat/jinja_rows.h"

/* ---- attributes of items ---- */

static bool is_index(nib_str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return s.n > 0;
}

/* item.a.0.b for the path "a.0.b"; a number is an index. */
static nib_status walk_path(jrun *j, jvalue item, jvalue path, jvalue otherwise, jvalue *out) {
    if (path.type == J_NONE || path.type == J_ABSENT) return *out = item, NIB_OK;
    if (path.type != J_STRING) {
        NIB_TRY(jinja_item(j, item, path, out));
        if (out->type == J_UNDEFINED && jv_given(otherwise)) *out = otherwise;
        return NIB_OK;
    }
    const jstring *s = path.s;
    for (size_t at = 0; at <= s->n;) {
        const char *dot = memchr(s->p + at, '.', s->n - at);
        size_t end = dot ? (size_t)(dot - s->p) : s->n;
        int64_t i;
        jvalue key;
        nib_str part = {s->p + at, end - at};
        if (is_index(part) && jinja_parse_int(part, 10, &i))
            key = jv_int(i, TRUSTED);
        else
            NIB_TRY(jinja_substring(j, s, at, end, &key));
        NIB_TRY(jinja_item(j, item, key, &item));
        if (item.type == J_UNDEFINED && jv_given(otherwise)) item = otherwise;
        at = end + 1;
    }
    *out = item;
    return NIB_OK;
}

static nib_status ignore_case(jrun *j, jvalue *v, bool case_sensitive) {
    return case_sensitive || v->type != J_STRING ? NIB_OK : jinja_recase(j, v->s, CASE_LOWER, v);
}

static bool flag(const jcall *c, int i) {
    return jv_given(c->arg[i]) && jinja_truth(c->arg[i]);
}

static nib_status self_items(jrun *j, const jcall *c, const jvalue **v, size_t *n) {
    if (!jinja_iterable(c->self))
        return jinja_fail(j, "'%s' object is not iterable", jinja_type_name(c->self));
    return jinja_items(j, c->self, v, n);
}

/* ---- length, first, last, list, reverse, join, items ---- */

nib_status jrow_length(jrun *j, const jcall *c, jvalue *out) {
    size_t n;
    NIB_TRY(jinja_length(j, c->self, &n));
    *out = jv_int((int64_t)n, DATA);
    return NIB_OK;
}

nib_status jrow_first(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    if (c->self.type == J_STRING && c->self.s->n)
        return jinja_item(j, c->self, jv_int(0, TRUSTED), out);
    NIB_TRY(self_items(j, c, &v, &n));
    if (n) return *out = v[0], NIB_OK;
    return jinja_undefined(j, U_HINT, "No first item, sequence was empty.", jv_none(TRUSTED), out);
}

nib_status jrow_last(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    if (c->self.type == J_STRING && c->self.s->n)
        return jinja_item(j, c->self, jv_int(-1, TRUSTED), out);
    if (c->self.type == J_LIST && (c->self.l->kind == K_GENERATOR || c->self.l->kind == K_ITERATOR))
        return jinja_fail(j, "'%s' object is not reversible", jinja_type_name(c->self));
    NIB_TRY(self_items(j, c, &v, &n));
    if (n) return *out = v[n - 1], NIB_OK;
    return jinja_undefined(j, U_HINT, "No last item, sequence was empty.", jv_none(TRUSTED), out);
}

static uint8_t taint_of(jvalue v) {
    return v.type == J_LIST ? v.l->taint : v.type == J_DICT ? v.d->taint : DATA;
}

nib_status jrow_to_list(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_list(j, n, K_LIST, taint_of(c->self), out));
    if (n) memcpy(out->l->v, v, n * sizeof *v);
    return NIB_OK;
}

nib_status jrow_reverse(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    if (c->self.type == J_STRING) {
        jslice how = {jv_none(TRUSTED), jv_none(TRUSTED), jv_int(-1, TRUSTED)};
        return jinja_item(j, c->self, (jvalue){.type = J_SLICE, .slice = &how}, out);
    }
    bool generator =
        c->self.type == J_LIST && (c->self.l->kind == K_GENERATOR || c->self.l->kind == K_ITERATOR);
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_list(j, n, generator ? K_LIST : K_ITERATOR, taint_of(c->self), out));
    for (size_t i = 0; i < n; i++) out->l->v[i] = v[n - 1 - i];
    return NIB_OK;
}

nib_status jrow_join(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    const jstring *d = NULL;
    size_t n;
    jvalue item;
    if (jv_given(c->arg[0])) NIB_TRY(jinja_to_string(j, c->arg[0], &d));
    NIB_TRY(self_items(j, c, &v, &n));
    jout o;
    jinja_out_init(&o, j);
    for (size_t i = 0; i < n && o.st == NIB_OK; i++) {
        NIB_TRY(walk_path(j, v[i], c->arg[1], (jvalue){0}, &item));
        if (i && d) jinja_out_string(&o, d);
        jinja_out_str(&o, item);
    }
    return jinja_out_finish(&o, out);
}

nib_status jrow_items_of(jrun *j, const jcall *c, jvalue *out) {
    if (c->self.type == J_UNDEFINED) return jinja_list(j, 0, K_LIST, TRUSTED, out);
    if (c->self.type != J_DICT) return jinja_fail(j, "Can only get item pairs from a mapping.");
    return jinja_dict_view(j, c->self.d, K_ITEMS, out);
}

/* ---- map, select, reject ---- */

static const jkwarg *keyword(const jargs *a, const char *name) {
    for (size_t i = 0; i < a->n_kw; i++)
        if (nib_str_eq_c((nib_str){a->kw[i].name->p, a->kw[i].name->n}, name)) return &a->kw[i];
    return NULL;
}

static nib_status find_row(jrun *j, jvalue name, bool test, const jrow **out) {
    nib_str s = name.type == J_STRING ? (nib_str){name.s->p, name.s->n} : NIB_STR("?");
    const jrow *row = test ? jinja_find_test(s) : jinja_find_filter(s);
    if (!row)
        return jinja_fail(j, "no %s named '%.*s'", test ? "test" : "filter",
                          (int)NIB_MIN(s.n, 100u), s.p);
    *out = row;
    return NIB_OK;
}

nib_status jrow_map(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    const jargs *a = &c->rest;
    const jrow *row = NULL;
    const jkwarg *path = a->n ? NULL : keyword(a, "attribute"), *otherwise = keyword(a, "default");
    jargs rest = {a->n ? a->v + 1 : NULL, a->kw, a->n ? a->n - 1 : 0, a->n_kw};
    if (!jinja_truth(c->self))
        return jinja_list(j, 0, K_LIST, DATA, out); /* none is as good as empty */
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_list(j, n, K_LIST, DATA, out));
    jvalue *to = out->l->v;
    if (!n) return NIB_OK;
    if (path) {
        if (a->n_kw > 1u + (otherwise != NULL))
            return jinja_fail(j, "map got an unexpected keyword argument");
    } else {
        if (!a->n) return jinja_fail(j, "map requires a filter argument");
        NIB_TRY(find_row(j, a->v[0], false, &row));
    }
    jvalue d = otherwise && otherwise->value.type != J_NONE ? otherwise->value : (jvalue){0};
    for (size_t i = 0; i < n; i++) {
        if (path)
            NIB_TRY(walk_path(j, v[i], path->value, d, &to[i]));
        else
            NIB_TRY(jinja_call_row(j, row, v[i], &rest, &to[i]));
    }
    return NIB_OK;
}

static nib_status choose(jrun *j, const jcall *c, bool by_attr, bool want, jvalue *out) {
    const jvalue *v;
    size_t n;
    const jargs *a = &c->rest;
    const jrow *row = NULL;
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    if (!jinja_truth(c->self)) return NIB_OK; /* none is as good as empty */
    NIB_TRY(self_items(j, c, &v, &n));
    if (by_attr && !a->n) return jinja_fail(j, "Missing parameter for attribute name");
    if (a->n > by_attr) NIB_TRY(find_row(j, a->v[by_attr], true, &row));
    size_t used = (size_t)by_attr + (row != NULL);
    jargs rest = {used ? a->v + used : a->v, a->kw, a->n - used, a->n_kw};
    for (size_t i = 0; i < n; i++) {
        jvalue x = v[i];
        if (by_attr) NIB_TRY(walk_path(j, x, a->v[0], (jvalue){0}, &x));
        if (row) NIB_TRY(jinja_call_row(j, row, x, &rest, &x));
        if (jinja_truth(x) == want) NIB_TRY(jinja_push(j, out->l, v[i]));
    }
    return NIB_OK;
}
nib_status jrow_select(jrun *j, const jcall *c, jvalue *out) {
    return choose(j, c, false, true, out);
}
nib_status jrow_reject(jrun *j, const jcall *c, jvalue *out) {
    return choose(j, c, false, false, out);
}
nib_status jrow_selectattr(jrun *j, const jcall *c, jvalue *out) {
    return choose(j, c, true, true, out);
}
nib_status jrow_rejectattr(jrun *j, const jcall *c, jvalue *out) {
    return choose(j, c, true, false, out);
}

/* ---- order ---- */

typedef struct keyed {
    jvalue key, value;
} keyed;

/* Sorts by key, stably: a merge from the bottom up. */
static nib_status sort_keyed(jrun *j, keyed *a, size_t n, bool reverse) {
    keyed *b, *from = a;
    NIB_TRY(jinja_alloc(j, n, sizeof *b, &b));
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = NIB_MIN(lo + width, n), hi = NIB_MIN(mid + width, n);
            for (size_t l = lo, r = mid, k = lo; k < hi; k++) {
                int order = 0;
                if (l < mid && r < hi) {
                    if (reverse)
                        NIB_TRY(jinja_compare(j, from[l].key, from[r].key, "<", &order));
                    else
                        NIB_TRY(jinja_compare(j, from[r].key, from[l].key, "<", &order));
                }
                b[k] = l < mid && (r >= hi || order >= 0) ? from[l++] : from[r++];
            }
        }
        keyed *t = from;
        from = b, b = t;
    }
    if (from != a && n) memcpy(a, from, n * sizeof *a);
    return NIB_OK;
}

/* The tuple of an item's attributes named in "a.b,c"; the item itself when there is no path. */
static nib_status sort_key(jrun *j, jvalue item, jvalue path, bool case_sensitive, jvalue *out) {
    bool many = path.type == J_STRING && memchr(path.s->p, ',', path.s->n);
    jvalue v;
    if (!many) {
        NIB_TRY(walk_path(j, item, path, (jvalue){0}, out));
        return ignore_case(j, out, case_sensitive);
    }
    NIB_TRY(jinja_list(j, 0, K_TUPLE, DATA, out));
    jlist *l = out->l;
    const jstring *s = path.s;
    for (size_t at = 0; at <= s->n;) {
        const char *comma = memchr(s->p + at, ',', s->n - at);
        size_t end = comma ? (size_t)(comma - s->p) : s->n;
        jvalue part;
        NIB_TRY(jinja_substring(j, s, at, end, &part));
        NIB_TRY(walk_path(j, item, part, (jvalue){0}, &v));
        NIB_TRY(ignore_case(j, &v, case_sensitive));
        NIB_TRY(jinja_push(j, l, v));
        at = end + 1;
    }
    return NIB_OK;
}

nib_status jrow_sort(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    keyed *k;
    size_t n;
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_alloc(j, n, sizeof *k, &k));
    for (size_t i = 0; i < n; i++) {
        k[i].value = v[i];
        NIB_TRY(sort_key(j, v[i], c->arg[2], flag(c, 1), &k[i].key));
    }
    NIB_TRY(sort_keyed(j, k, n, flag(c, 0)));
    NIB_TRY(jinja_list(j, n, K_LIST, taint_of(c->self), out));
    for (size_t i = 0; i < n; i++) out->l->v[i] = k[i].value;
    return NIB_OK;
}

nib_status jrow_dictsort(jrun *j, const jcall *c, jvalue *out) {
    keyed *k;
    jvalue items;
    if (c->self.type != J_DICT)
        return jinja_fail(j, "dictsort expected a mapping, found '%s'", jinja_type_name(c->self));
    nib_str by =
        c->arg[1].type == J_STRING ? (nib_str){c->arg[1].s->p, c->arg[1].s->n} : NIB_STR("key");
    bool by_value = nib_str_eq_c(by, "value");
    if (!by_value && !nib_str_eq_c(by, "key"))
        return jinja_fail(j, "You can only sort by either \"key\" or \"value\"");
    size_t n = c->self.d->n;
    NIB_TRY(jinja_dict_view(j, c->self.d, K_ITEMS, &items));
    NIB_TRY(jinja_alloc(j, n, sizeof *k, &k));
    for (size_t i = 0; i < n; i++) {
        k[i].value = items.l->v[i];
        k[i].key = by_value ? c->self.d->v[i].value : c->self.d->v[i].key;
        NIB_TRY(ignore_case(j, &k[i].key, flag(c, 0)));
    }
    NIB_TRY(sort_keyed(j, k, n, flag(c, 2)));
    for (size_t i = 0; i < n; i++) items.l->v[i] = k[i].value;
    items.l->kind = K_LIST;
    *out = items;
    return NIB_OK;
}

static nib_status extreme(jrun *j, const jcall *c, bool max, jvalue *out) {
    const jvalue *v;
    size_t n;
    jvalue best = {0}, key;
    NIB_TRY(self_items(j, c, &v, &n));
    if (!n)
        return jinja_undefined(j, U_HINT, "No aggregated item, sequence was empty.",
                               jv_none(TRUSTED), out);
    for (size_t i = 0; i < n; i++) {
        int order = -1;
        NIB_TRY(walk_path(j, v[i], c->arg[1], (jvalue){0}, &key));
        NIB_TRY(ignore_case(j, &key, flag(c, 0)));
        if (i && max)
            NIB_TRY(jinja_compare(j, best, key, "<", &order));
        else if (i)
            NIB_TRY(jinja_compare(j, key, best, "<", &order));
        if (order >= 0) continue;
        best = key;
        *out = v[i];
    }
    return NIB_OK;
}
nib_status jrow_max(jrun *j, const jcall *c, jvalue *out) {
    return extreme(j, c, true, out);
}
nib_status jrow_min(jrun *j, const jcall *c, jvalue *out) {
    return extreme(j, c, false, out);
}

nib_status jrow_unique(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v, *found;
    size_t n;
    jvalue seen, key;
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_dict(j, DATA, &seen));
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    for (size_t i = 0; i < n; i++) {
        NIB_TRY(walk_path(j, v[i], c->arg[1], (jvalue){0}, &key));
        NIB_TRY(ignore_case(j, &key, flag(c, 0)));
        NIB_TRY(jinja_dict_get(j, seen.d, key, &found));
        if (found) continue;
        NIB_TRY(jinja_dict_set(j, seen.d, key, jv_none(DATA)));
        NIB_TRY(jinja_push(j, out->l, v[i]));
    }
    return NIB_OK;
}

/* ---- groups ---- */

nib_status jrow_groupby(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    keyed *k;
    size_t n;
    jvalue otherwise = c->arg[1].type == J_NONE ? (jvalue){0} : c->arg[1];
    bool case_sensitive = flag(c, 2);
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_alloc(j, n, sizeof *k, &k));
    for (size_t i = 0; i < n; i++) {
        k[i].value = v[i];
        NIB_TRY(walk_path(j, v[i], c->arg[0], otherwise, &k[i].key));
        NIB_TRY(ignore_case(j, &k[i].key, case_sensitive));
    }
    NIB_TRY(sort_keyed(j, k, n, false));
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    jlist *groups = out->l;
    for (size_t i = 0; i < n;) {
        jvalue group, members;
        size_t first = i;
        bool same = true;
        NIB_TRY(jinja_list(j, 0, K_LIST, DATA, &members));
        while (i < n && same) {
            NIB_TRY(jinja_push(j, members.l, k[i++].value));
            if (i < n) NIB_TRY(jinja_equal(j, k[first].key, k[i].key, &same));
        }
        NIB_TRY(jinja_list(j, 2, K_GROUP, DATA, &group));
        NIB_TRY(walk_path(j, k[first].value, c->arg[0], otherwise, &group.l->v[0]));
        group.l->v[1] = members;
        NIB_TRY(jinja_push(j, groups, group));
    }
    return NIB_OK;
}

nib_status jrow_batch(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    int64_t size;
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_to_index(j, c->arg[0], "a batch's size", &size));
    if (size < 1)
        return jinja_fail(j, "batch expected a size of at least 1, found %lld", (long long)size);
    bool fill = jv_given(c->arg[1]) && c->arg[1].type != J_NONE;
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    jlist *batches = out->l;
    for (size_t i = 0; i < n;) {
        jvalue row;
        NIB_TRY(jinja_list(j, 0, K_LIST, DATA, &row));
        for (int64_t k = 0; k < size && (i < n || fill); k++) {
            NIB_TRY(jinja_push(j, row.l, i < n ? v[i] : c->arg[1]));
            if (i < n) i++;
        }
        NIB_TRY(jinja_push(j, batches, row));
    }
    return NIB_OK;
}

nib_status jrow_slice(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n, at = 0;
    int64_t slices;
    NIB_TRY(self_items(j, c, &v, &n));
    NIB_TRY(jinja_to_index(j, c->arg[0], "a number of slices", &slices));
    if (slices == 0) return jinja_fail(j, "division by zero");
    bool fill = jv_given(c->arg[1]) && c->arg[1].type != J_NONE;
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, out));
    jlist *parts = out->l;
    for (int64_t i = 0; i < slices; i++) {
        jvalue part;
        bool extra = i < (int64_t)(n % (size_t)slices);
        size_t size = n / (size_t)slices + extra;
        NIB_TRY(jinja_list(j, 0, K_LIST, DATA, &part));
        for (size_t k = 0; k < size; k++) NIB_TRY(jinja_push(j, part.l, v[at++]));
        if (fill && !extra) NIB_TRY(jinja_push(j, part.l, c->arg[1]));
        NIB_TRY(jinja_push(j, parts, part));
    }
    return NIB_OK;
}

nib_status jrow_sum(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *v;
    size_t n;
    jvalue item, all = jv_given(c->arg[1]) ? c->arg[1] : jv_int(0, TRUSTED);
    if (all.type == J_STRING)
        return jinja_fail(j, "sum() can't sum strings [use ''.join(seq) instead]");
    NIB_TRY(self_items(j, c, &v, &n));
    for (size_t i = 0; i < n; i++) {
        NIB_TRY(walk_path(j, v[i], c->arg[0], (jvalue){0}, &item));
        NIB_TRY(jinja_binary(j, OP_ADD, all, item, &all));
    }
    *out = all;
    return NIB_OK;
}
