/* Functions every template has, the tests, and the methods of lists, dicts, loops and cyclers. */
#include <time.h>
#include "chat/jinja_rows.h"

/* ---- globals ---- */

nib_status jrow_raise_exception(jrun *j, const jcall *c, jvalue *out) {
    (void)out;
    const jstring *s;
    NIB_TRY(jinja_to_string(j, c->arg[0], &s));
    return nib_fail(j->e, NIB_ERR_TEMPLATE, "%.*s", (int)NIB_MIN(s->n, 10000u), s->p);
}

nib_status jrow_make_range(jrun *j, const jcall *c, jvalue *out) {
    jrange *r;
    int64_t v[3] = {0, 0, 1};
    uint8_t taint = 0;
    NIB_TRY(JINJA_NEW(j, r));
    for (int i = 0; i < 3; i++) {
        if (!jv_given(c->arg[i])) continue;
        NIB_TRY(jinja_to_index(j, c->arg[i], "an argument of range()", &v[i]));
        taint |= c->arg[i].taint;
    }
    if (!jv_given(c->arg[1])) v[1] = v[0], v[0] = 0;
    if (v[2] == 0) return jinja_fail(j, "range() arg 3 must not be zero");
    *r = (jrange){.start = v[0], .stop = v[1], .step = v[2]};
    bool any = v[2] > 0 ? v[0] < v[1] : v[0] > v[1];
    uint64_t span = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : -(uint64_t)v[2];
    uint64_t n = any ? (span - 1) / step + 1 : 0;
    if (n > JINJA_MAX_RANGE)
        return jinja_limit(j, "a range of more than %d items", JINJA_MAX_RANGE);
    r->n = (int64_t)n;
    *out = (jvalue){.type = J_RANGE, .taint = taint & DATA ? DATA : TRUSTED, .range = r};
    return NIB_OK;
}

/* dict(mapping or pairs, key=value, ...) into d. */
static nib_status fill_dict(jrun *j, const jcall *c, jdict *d) {
    if (c->rest.n > 1)
        return jinja_fail(j, "%s expected at most 1 argument, got %zu", c->row->name, c->rest.n);
    if (c->rest.n && c->rest.v[0].type == J_DICT) {
        const jdict *from = c->rest.v[0].d;
        d->taint |= from->taint;
        for (uint32_t i = 0; i < from->n; i++)
            NIB_TRY(jinja_dict_set(j, d, from->v[i].key, from->v[i].value));
    } else if (c->rest.n) {
        const jvalue *items, *pair;
        size_t n, two;
        NIB_TRY(jinja_items(j, c->rest.v[0], &items, &n));
        for (size_t i = 0; i < n; i++) {
            NIB_TRY(jinja_items(j, items[i], &pair, &two));
            if (two != 2) return jinja_fail(j, "expected pairs, found an item of length %zu", two);
            NIB_TRY(jinja_dict_set(j, d, pair[0], pair[1]));
        }
    }
    d->taint = d->taint & DATA ? DATA : TRUSTED;
    for (size_t i = 0; i < c->rest.n_kw; i++)
        NIB_TRY(jinja_dict_set(j, d, jv_string(c->rest.kw[i].name), c->rest.kw[i].value));
    return NIB_OK;
}

nib_status jrow_make_dict(jrun *j, const jcall *c, jvalue *out) {
    NIB_TRY(jinja_dict(j, TRUSTED, out));
    return fill_dict(j, c, out->d);
}
nib_status jrow_make_namespace(jrun *j, const jcall *c, jvalue *out) {
    NIB_TRY(jrow_make_dict(j, c, out));
    out->type = J_NAMESPACE;
    return NIB_OK;
}

nib_status jrow_make_cycler(jrun *j, const jcall *c, jvalue *out) {
    jcycler *y;
    if (!c->rest.n) return jinja_fail(j, "at least one item has to be provided");
    NIB_TRY(JINJA_NEW(j, y));
    *y = (jcycler){c->rest.v, c->rest.n, 0};
    *out = (jvalue){.type = J_CYCLER, .cycler = y};
    return NIB_OK;
}

nib_status jrow_make_joiner(jrun *j, const jcall *c, jvalue *out) {
    jjoiner *y;
    NIB_TRY(JINJA_NEW(j, y));
    *y = (jjoiner){.sep = c->arg[0]};
    if (!jv_given(y->sep)) NIB_TRY(jinja_cstring(j, ", ", TRUSTED, &y->sep));
    *out = (jvalue){.type = J_JOINER, .joiner = y};
    return NIB_OK;
}

static void local_time(int64_t now, struct tm *out) {
    time_t t = now == NIB_NOW ? time(NULL) : (time_t)now;
    struct tm *ok = now == NIB_NOW ? localtime_r(&t, out) : gmtime_r(&t, out);
    if (!ok) *out = (struct tm){.tm_mday = 1, .tm_year = 70};
}

nib_status jrow_strftime_now(jrun *j, const jcall *c, jvalue *out) {
    if (c->arg[0].type != J_STRING)
        return jinja_fail(j, "strftime_now() expected a string, found '%s'",
                          jinja_type_name(c->arg[0]));
    const jstring *s = c->arg[0].s;
    struct tm now;
    jout o;
    local_time(j->now, &now);
    jinja_out_init(&o, j);
    size_t plain = 0;
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    for (size_t at = 0; at + 1 < s->n; at++) {
        if (s->p[at] != '%') continue;
        /* one conversion at a time, without a width, so that its text is short */
        bool flag = at + 2 < s->n && strchr("-_0^#", s->p[at + 1]);
        char conversion[4] = {'%', s->p[at + 1], flag ? s->p[at + 2] : 0, 0}, text[128];
        char letter = flag ? conversion[2] : conversion[1];
        if (!letter || !strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%", letter)) continue;
        jinja_out_sub(&o, s, plain, at);
        jinja_out_put(&o, text, strftime(text, sizeof text, conversion, &now),
                      jinja_taint_at(s, at));
        at += flag ? 2 : 1;
        plain = at + 1;
    }
    jinja_out_sub(&o, s, plain, s->n);
    return jinja_out_finish(&o, out);
}

/* ---- tests ---- */

static nib_status answer(bool yes, jvalue *out) {
    *out = jv_bool(yes);
    return NIB_OK;
}
#define SIMPLE_TEST(fn, yes)                                                                       \
    nib_status jrow_##fn(jrun *j, const jcall *c, jvalue *out) {                                   \
        (void)j;                                                                                   \
        jvalue v = c->self;                                                                        \
        return answer(yes, out);                                                                   \
    }
static nib_str text_of(jvalue v) {
    return v.type == J_STRING ? (nib_str){v.s->p, v.s->n} : NIB_STR("");
}

SIMPLE_TEST(is_boolean, v.type == J_BOOL)
SIMPLE_TEST(is_callable, v.type == J_FUNCTION || v.type == J_METHOD || v.type == J_MACRO ||
                             v.type == J_LOOP || v.type == J_JOINER || v.type == J_UNDEFINED)
SIMPLE_TEST(is_defined, v.type != J_UNDEFINED)
SIMPLE_TEST(is_escaped, v.type == J_ABSENT) /* there is no Markup */
SIMPLE_TEST(is_false, v.type == J_BOOL && !v.b)
SIMPLE_TEST(is_filter, jinja_find_filter(text_of(v)) != NULL)
SIMPLE_TEST(is_float, v.type == J_FLOAT)
SIMPLE_TEST(is_integer, v.type == J_INT || v.type == J_BIG)
SIMPLE_TEST(is_iterable, jinja_iterable(v))
SIMPLE_TEST(is_mapping, v.type == J_DICT)
SIMPLE_TEST(is_none, v.type == J_NONE)
SIMPLE_TEST(is_number, jinja_is_number(v) || v.type == J_BIG)
SIMPLE_TEST(is_sequence, v.type == J_STRING || v.type == J_DICT || v.type == J_RANGE ||
                             v.type == J_UNDEFINED || (v.type == J_LIST && v.l->kind <= K_GROUP))
SIMPLE_TEST(is_string, v.type == J_STRING)
SIMPLE_TEST(is_test, jinja_find_test(text_of(v)) != NULL)
SIMPLE_TEST(is_true, v.type == J_BOOL && v.b)
SIMPLE_TEST(is_undefined, v.type == J_UNDEFINED)

static nib_status remainder_is(jrun *j, jvalue v, jvalue by, int64_t want, jvalue *out) {
    jvalue rest;
    bool same;
    NIB_TRY(jinja_binary(j, OP_MOD, v, by, &rest));
    NIB_TRY(jinja_equal(j, rest, jv_int(want, DATA), &same));
    return answer(same, out);
}
nib_status jrow_is_odd(jrun *j, const jcall *c, jvalue *out) {
    return remainder_is(j, c->self, jv_int(2, DATA), 1, out);
}
nib_status jrow_is_even(jrun *j, const jcall *c, jvalue *out) {
    return remainder_is(j, c->self, jv_int(2, DATA), 0, out);
}
nib_status jrow_is_divisibleby(jrun *j, const jcall *c, jvalue *out) {
    return remainder_is(j, c->self, c->arg[0], 0, out);
}

nib_status jrow_is_eq(jrun *j, const jcall *c, jvalue *out) {
    bool same;
    NIB_TRY(jinja_equal(j, c->self, c->arg[0], &same));
    return answer(same, out);
}
nib_status jrow_is_ne(jrun *j, const jcall *c, jvalue *out) {
    bool same;
    NIB_TRY(jinja_equal(j, c->self, c->arg[0], &same));
    return answer(!same, out);
}
nib_status jrow_is_lt(jrun *j, const jcall *c, jvalue *out) {
    int order;
    NIB_TRY(jinja_compare(j, c->self, c->arg[0], "<", &order));
    return answer(order < 0, out);
}
nib_status jrow_is_le(jrun *j, const jcall *c, jvalue *out) {
    int order;
    NIB_TRY(jinja_compare(j, c->self, c->arg[0], "<=", &order));
    return answer(order <= 0, out);
}
nib_status jrow_is_gt(jrun *j, const jcall *c, jvalue *out) {
    int order;
    NIB_TRY(jinja_compare(j, c->self, c->arg[0], ">", &order));
    return answer(order > 0, out);
}
nib_status jrow_is_ge(jrun *j, const jcall *c, jvalue *out) {
    int order;
    NIB_TRY(jinja_compare(j, c->self, c->arg[0], ">=", &order));
    return answer(order >= 0, out);
}
nib_status jrow_is_in(jrun *j, const jcall *c, jvalue *out) {
    bool in;
    NIB_TRY(jinja_contains(j, c->arg[0], c->self, &in));
    return answer(in, out);
}
/* Identity: what has no address in Python compares by value, as its small values and literals do.
 */
nib_status jrow_is_sameas(jrun *j, const jcall *c, jvalue *out) {
    jvalue a = c->self, b = c->arg[0];
    bool same = a.type == b.type;
    if (same && (a.type <= J_FLOAT || a.type == J_STRING))
        NIB_TRY(jinja_equal(j, a, b, &same));
    else if (same)
        same = a.l == b.l;
    return answer(same, out);
}

/* ---- methods of lists and dicts ---- */

nib_status jrow_str_format(jrun *j, const jcall *c, jvalue *out) {
    return jinja_format(j, c->self.s, &c->rest, out);
}

nib_status jrow_copy(jrun *j, const jcall *c, jvalue *out) {
    (void)j;
    *out = c->self; /* values do not change */
    return NIB_OK;
}

nib_status jinja_dict_view(jrun *j, const jdict *d, uint8_t kind, jvalue *out) {
    NIB_TRY(jinja_list(j, d->n, kind, d->taint, out));
    for (uint32_t i = 0; i < d->n; i++) {
        jvalue *item = &out->l->v[i];
        if (kind == K_KEYS)
            *item = d->v[i].key;
        else if (kind == K_VALUES)
            *item = d->v[i].value;
        else {
            NIB_TRY(jinja_list(j, 2, K_TUPLE, d->taint, item));
            item->l->v[0] = d->v[i].key;
            item->l->v[1] = d->v[i].value;
        }
    }
    return NIB_OK;
}
nib_status jrow_dict_keys(jrun *j, const jcall *c, jvalue *out) {
    return jinja_dict_view(j, c->self.d, K_KEYS, out);
}
nib_status jrow_dict_values(jrun *j, const jcall *c, jvalue *out) {
    return jinja_dict_view(j, c->self.d, K_VALUES, out);
}
nib_status jrow_dict_items(jrun *j, const jcall *c, jvalue *out) {
    return jinja_dict_view(j, c->self.d, K_ITEMS, out);
}

nib_status jrow_get(jrun *j, const jcall *c, jvalue *out) {
    const jvalue *found;
    NIB_TRY(jinja_dict_get(j, c->self.d, c->arg[0], &found));
    *out = found ? *found : jv_given(c->arg[1]) ? c->arg[1] : jv_none(TRUSTED);
    return NIB_OK;
}

nib_status jrow_list_count(jrun *j, const jcall *c, jvalue *out) {
    int64_t n = 0;
    for (uint32_t i = 0; i < c->self.l->n; i++) {
        bool same;
        NIB_TRY(jinja_equal(j, c->self.l->v[i], c->arg[0], &same));
        n += same;
    }
    *out = jv_int(n, DATA);
    return NIB_OK;
}

nib_status jrow_list_index(jrun *j, const jcall *c, jvalue *out) {
    int64_t n = c->self.l->n, start = 0, stop = n;
    if (jv_given(c->arg[1])) NIB_TRY(jinja_to_index(j, c->arg[1], "a start", &start));
    if (jv_given(c->arg[2])) NIB_TRY(jinja_to_index(j, c->arg[2], "a stop", &stop));
    if (start < 0) start = NIB_MAX(start + n, 0);
    if (stop < 0) stop += n;
    for (int64_t i = start; i < NIB_MIN(stop, n); i++) {
        bool same;
        NIB_TRY(jinja_equal(j, c->self.l->v[i], c->arg[0], &same));
        if (same) return *out = jv_int(i, DATA), NIB_OK;
    }
    return jinja_fail(j, "the value is not in the list");
}

/* ---- loops and cyclers ---- */

nib_status jrow_loop_cycle(jrun *j, const jcall *c, jvalue *out) {
    if (!c->rest.n) return jinja_fail(j, "no items for cycling given");
    *out = c->rest.v[c->self.loop->at % c->rest.n];
    return NIB_OK;
}

nib_status jrow_loop_changed(jrun *j, const jcall *c, jvalue *out) {
    jvalue now;
    bool same = false;
    jloop *l = c->self.loop;
    NIB_TRY(jinja_list(j, c->rest.n, K_TUPLE, DATA, &now));
    if (c->rest.n) memcpy(now.l->v, c->rest.v, c->rest.n * sizeof *now.l->v);
    if (jv_given(l->changed)) NIB_TRY(jinja_equal(j, l->changed, now, &same));
    l->changed = now;
    return answer(!same, out);
}

nib_status jrow_cycler_next(jrun *j, const jcall *c, jvalue *out) {
    (void)j;
    jcycler *y = c->self.cycler;
    *out = y->v[y->at];
    y->at = (y->at + 1) % y->n;
    return NIB_OK;
}
nib_status jrow_cycler_reset(jrun *j, const jcall *c, jvalue *out) {
    (void)j;
    c->self.cycler->at = 0;
    *out = jv_none(TRUSTED);
    return NIB_OK;
}
