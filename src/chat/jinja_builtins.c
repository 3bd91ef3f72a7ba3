/* The tables of filters, tests, methods and globals, made from the .def files, and how arguments
 * reach their rows. */
#include "chat/jinja.h"
#include "chat/jinja_rows.h"

static const jrow filters[] = {
#define FILTER(name, fn, params) {name, params, jrow_##fn, 0, false},
#define LAZY(name, fn, params)   {name, params, jrow_##fn, 0, true},
#include "chat/jinja_filters.def"
#undef FILTER
#undef LAZY
};
static const jrow tests[] = {
#define TEST(name, fn, params) {name, params, jrow_##fn, 0, false},
#include "chat/jinja_tests.def"
#undef TEST
};
static const jrow globals[] = {
#define GLOBAL(name, fn, params) {name, params, jrow_##fn, 0, false},
#include "chat/jinja_globals.def"
#undef GLOBAL
};
static const jrow methods[] = {
#define METHOD(type, name, fn, params) {name, params, jrow_##fn, type, false},
#define MUTATOR(type, name)
#include "chat/jinja_methods.def"
#undef METHOD
#undef MUTATOR
};
static const struct {
    uint8_t type;
    const char *name;
} mutators[] = {
#define METHOD(type, name, fn, params)
#define MUTATOR(type, name) {type, name},
#include "chat/jinja_methods.def"
#undef METHOD
#undef MUTATOR
};

static const jrow *find(const jrow *rows, size_t n, uint8_t type, nib_str name) {
    for (size_t i = 0; i < n; i++)
        if (rows[i].type == type && nib_str_eq_c(name, rows[i].name)) return &rows[i];
    return NULL;
}
const jrow *jinja_find_filter(nib_str name) {
    return find(filters, NIB_ARRAY_LEN(filters), 0, name);
}
const jrow *jinja_find_test(nib_str name) {
    return find(tests, NIB_ARRAY_LEN(tests), 0, name);
}
const jrow *jinja_find_global(nib_str name) {
    return find(globals, NIB_ARRAY_LEN(globals), 0, name);
}

const jrow *jinja_find_method(jvalue v, nib_str name) {
    if (v.type == J_LIST && v.l->kind > K_GROUP) return NULL; /* views and iterators have none */
    return find(methods, NIB_ARRAY_LEN(methods), v.type, name);
}

bool jinja_is_mutator(jvalue v, nib_str name) {
    if (v.type == J_LIST && v.l->kind != K_LIST) return false;
    for (size_t i = 0; i < NIB_ARRAY_LEN(mutators); i++)
        if (mutators[i].type == v.type && nib_str_eq_c(name, mutators[i].name)) return true;
    return false;
}

/* The next word of a row's parameters; false at the end. */
static bool next_param(const char **p, nib_str *name, bool *optional) {
    while (**p == ' ') ++*p;
    name->p = *p;
    name->n = strcspn(*p, " ?");
    *p += name->n;
    *optional = **p == '?';
    if (*optional) ++*p;
    return name->n > 0;
}

static int short_len(nib_str s) {
    return (int)NIB_MIN(s.n, 100u);
}

/* A generator that makes the call when it is gone through. */
static nib_status defer(jrun *j, const jcall *c, jvalue *out) {
    jcall *later;
    NIB_TRY(JINJA_NEW(j, later));
    *later = *c;
    NIB_TRY(jinja_list(j, 0, K_GENERATOR, DATA, out));
    out->l->later = later;
    return NIB_OK;
}

nib_status jinja_call_row(jrun *j, const jrow *row, jvalue self, const jargs *args, jvalue *out) {
    jcall c = {.row = row, .self = self};
    const char *p = row->params;
    nib_str name;
    bool optional, rest = false, keywords = false;
    size_t i = 0, used_kw = 0;
    for (; next_param(&p, &name, &optional); i++) {
        rest |= nib_str_eq_c(name, "*");
        keywords |= nib_str_eq_c(name, "**");
        if (rest || keywords) continue;
        if (i < args->n) c.arg[i] = args->v[i];
        for (size_t k = 0; k < args->n_kw; k++) {
            if (!nib_str_eq((nib_str){args->kw[k].name->p, args->kw[k].name->n}, name)) continue;
            if (jv_given(c.arg[i]))
                return jinja_fail(j, "%s() got multiple values for argument '%.*s'", row->name,
                                  short_len(name), name.p);
            c.arg[i] = args->kw[k].value;
            used_kw++;
        }
        if (!jv_given(c.arg[i]) && !optional)
            return jinja_fail(j, "%s() missing required argument '%.*s'", row->name,
                              short_len(name), name.p);
    }
    if (rest)
        c.rest.v = args->v, c.rest.n = args->n;
    else if (args->n > i)
        return jinja_fail(j, "%s() takes at most %zu argument(s), %zu given", row->name, i,
                          args->n);
    if (keywords)
        c.rest.kw = args->kw, c.rest.n_kw = args->n_kw;
    else if (args->n_kw > used_kw)
        return jinja_fail(j, "%s() got an unexpected keyword argument", row->name);
    NIB_TRY(jinja_charge(j, 1));
    return row->lazy ? defer(j, &c, out) : row->fn(j, &c, out);
}
