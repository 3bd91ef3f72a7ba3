/* Expressions: operators, attributes, items, slices and calls, by walking the tree.
 *
 * v.name looks for a method, then for a key; v['name'] for a key, then for a method, as Jinja's
 * sandbox does. Both give an undefined value rather than failing; using that value is what fails,
 * with the name of what was missing. */
#include "chat/jinja.h"
#include <math.h>

/* ---- operators ---- */

static const char *const op_text[] = {
    [OP_ADD] = "+", [OP_SUB] = "-",  [OP_MUL] = "*", [OP_DIV] = "/", [OP_FLOORDIV] = "//",
    [OP_MOD] = "%", [OP_POW] = "**", [OP_EQ] = "==", [OP_NE] = "!=", [OP_LT] = "<",
    [OP_LE] = "<=", [OP_GT] = ">",   [OP_GE] = ">=", [OP_IN] = "in", [OP_NOTIN] = "not in",
};

static nib_status unsupported(jrun *j, jop op, jvalue a, jvalue b) {
    if (a.type == J_UNDEFINED) return jinja_fail_undefined(j, a);
    if (b.type == J_UNDEFINED) return jinja_fail_undefined(j, b);
    if (op == OP_ADD && (a.type == J_STRING || a.type == J_LIST))
        return jinja_fail(j, "can only concatenate %s (not \"%s\") to %s", jinja_type_name(a),
                          jinja_type_name(b), jinja_type_name(a));
    return jinja_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op],
                      jinja_type_name(a), jinja_type_name(b));
}

static nib_status integer_overflow(jrun *j) {
    return jinja_limit(j, "an integer that needs more than 64 bits");
}

static nib_status int_power(jrun *j, int64_t base, int64_t exponent, int64_t *out) {
    int64_t v = 1;
    for (;;) {
        if ((exponent & 1) && __builtin_mul_overflow(v, base, &v)) return integer_overflow(j);
        exponent >>= 1;
        if (!exponent) break;
        if (__builtin_mul_overflow(base, base, &base)) return integer_overflow(j);
    }
    *out = v;
    return NIB_OK;
}

static nib_status int_op(jrun *j, jop op, int64_t a, int64_t b, uint8_t taint, jvalue *out) {
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case OP_FLOORDIV:
    case OP_MOD:
        if (b == 0) return jinja_fail(j, "division by zero");
        if (b == -1) { /* INT64_MIN / -1 traps */
            if (op == OP_FLOORDIV) over = __builtin_sub_overflow((int64_t)0, a, &v);
            break;
        }
        v = op == OP_MOD ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) v += op == OP_MOD ? b : -1; /* rounds down */
        break;
    default: NIB_TRY(int_power(j, a, b, &v));
    }
    if (over) return integer_overflow(j);
    *out = jv_int(v, taint);
    return NIB_OK;
}

static nib_status float_op(jrun *j, jop op, double a, double b, uint8_t taint, jvalue *out) {
    double v;
    switch (op) {
    case OP_ADD: v = a + b; break;
    case OP_SUB: v = a - b; break;
    case OP_MUL: v = a * b; break;
    case OP_POW:
        if (a == 0 && b < 0) return jinja_fail(j, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b))
            return jinja_fail(j, "a negative number has no real power %g", b);
        v = pow(a, b);
        if (isinf(v) && !isinf(a) && !isinf(b))
            return jinja_fail(j, "numerical result out of range");
        break;
    default:
        if (b == 0) return jinja_fail(j, "division by zero");
        if (op == OP_DIV) {
            v = a / b;
            break;
        }
        double mod = fmod(a, b);
        if (mod != 0 && (mod < 0) != (b < 0)) mod += b;
        v = op == OP_MOD ? (mod == 0 ? copysign(0, b) : mod) : floor((a - mod) / b + 0.5);
    }
    *out = jv_float(v, taint);
    return NIB_OK;
}

static nib_status repeat(jrun *j, jvalue v, jvalue count, jvalue *out) {
    int64_t times;
    NIB_TRY(jinja_to_index(j, count, "a factor", &times));
    if (v.type == J_STRING) {
        jout o;
        jinja_out_init(&o, j);
        if (!v.s->map) {
            jinja_out_fill(&o, (nib_str){v.s->p, v.s->n}, times, v.s->taint);
        } else {
            for (int64_t i = 0; i < times && o.st == NIB_OK; i++) jinja_out_string(&o, v.s);
        }
        return jinja_out_finish(&o, out);
    }
    NIB_TRY(jinja_list(j, 0, v.l->kind, v.l->taint, out));
    jlist *l = out->l;
    for (int64_t i = 0; i < times && v.l->n; i++)
        for (uint32_t k = 0; k < v.l->n; k++) NIB_TRY(jinja_push(j, l, v.l->v[k]));
    return NIB_OK;
}

static bool is_sequence(jvalue v) {
    return v.type == J_STRING || (v.type == J_LIST && v.l->kind <= K_GROUP);
}

nib_status jinja_binary(jrun *j, jop op, jvalue a, jvalue b, jvalue *out) {
    if (jinja_is_number(a) && jinja_is_number(b)) {
        uint8_t taint = (a.taint | b.taint) & DATA ? DATA : TRUSTED;
        bool floats = a.type == J_FLOAT || b.type == J_FLOAT || op == OP_DIV;
        int64_t x = a.type == J_BOOL ? a.b : a.i, y = b.type == J_BOOL ? b.b : b.i;
        if (floats || (op == OP_POW && y < 0))
            return float_op(j, op, jinja_to_double(a), jinja_to_double(b), taint, out);
        return int_op(j, op, x, y, taint, out);
    }
    if (op == OP_ADD) {
        if (a.type == J_STRING && b.type == J_STRING) return jinja_concat(j, a.s, b.s, out);
        if (a.type == J_LIST && b.type == J_LIST && a.l->kind <= K_GROUP && b.l->kind <= K_GROUP &&
            (a.l->kind == K_LIST) == (b.l->kind == K_LIST))
            return jinja_list_concat(j, a.l, b.l, out);
    }
    if (op == OP_MUL) {
        if (is_sequence(a) && (b.type == J_INT || b.type == J_BOOL)) return repeat(j, a, b, out);
        if (is_sequence(b) && (a.type == J_INT || a.type == J_BOOL)) return repeat(j, b, a, out);
    }
    if (op == OP_MOD && a.type == J_STRING) return jinja_percent(j, a.s, b, out);
    if (a.type == J_BIG || b.type == J_BIG) return integer_overflow(j);
    return unsupported(j, op, a, b);
}

static nib_status compare_op(jrun *j, jop op, jvalue a, jvalue b, bool *out) {
    int order;
    switch (op) {
    case OP_EQ: return jinja_equal(j, a, b, out);
    case OP_IN: return jinja_contains(j, b, a, out);
    case OP_NE: NIB_TRY(jinja_equal(j, a, b, out)); break;
    case OP_NOTIN: NIB_TRY(jinja_contains(j, b, a, out)); break;
    default:
        NIB_TRY(jinja_compare(j, a, b, op_text[op], &order));
        *out = op == OP_LT   ? order < 0
               : op == OP_LE ? order <= 0
               : op == OP_GT ? order > 0
                             : order >= 0;
        return NIB_OK;
    }
    *out = !*out;
    return NIB_OK;
}

static nib_status eval_compare(jrun *j, const jnode *n, jvalue *out) {
    const jblock *v = &n->compare.v;
    jvalue a, b;
    bool holds = true;
    NIB_TRY(jinja_eval(j, v->v[0], &a));
    for (uint32_t i = 1; i < v->n && holds; i++, a = b) {
        NIB_TRY(jinja_eval(j, v->v[i], &b));
        NIB_TRY(compare_op(j, n->compare.ops[i - 1], a, b, &holds));
    }
    *out = jv_bool(holds);
    return NIB_OK;
}

static nib_status eval_sign(jrun *j, const jnode *n, jvalue *out) {
    jvalue v;
    NIB_TRY(jinja_eval(j, n->two.l, &v));
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    if (v.type == J_BIG) return integer_overflow(j);
    if (!jinja_is_number(v))
        return jinja_fail(j, "bad operand type for unary %c: '%s'", n->kind == N_NEG ? '-' : '+',
                          jinja_type_name(v));
    jvalue zero = jv_int(0, TRUSTED);
    if (v.type == J_FLOAT)
        *out = n->kind == N_NEG ? jv_float(-v.f, v.taint) : v;
    else
        return jinja_binary(j, n->kind == N_NEG ? OP_SUB : OP_ADD, zero, v, out);
    return NIB_OK;
}

static nib_status eval_concat(jrun *j, const jnode *n, jvalue *out) {
    const jstring *part;
    jvalue v, all = {0};
    for (uint32_t i = 0; i < n->list.n; i++) {
        NIB_TRY(jinja_eval(j, n->list.v[i], &v));
        NIB_TRY(jinja_to_string(j, v, &part));
        if (i == 0)
            all = jv_string(part);
        else
            NIB_TRY(jinja_concat(j, all.s, part, &all));
    }
    *out = all;
    return NIB_OK;
}

/* ---- attributes ---- */

static nib_status bound(jrun *j, const jrow *row, jvalue self, jvalue *out) {
    jmethod *m;
    NIB_TRY(JINJA_NEW(j, m));
    *m = (jmethod){self, row};
    *out = (jvalue){.type = J_METHOD, .method = m};
    return NIB_OK;
}

static nib_status loop_attr(jrun *j, jloop *l, nib_str name, jvalue *out) {
    int64_t at = l->at, n = l->n;
    const struct {
        const char *name;
        int64_t v;
    } numbers[] = {
        {"index", at + 1},         {"index0", at}, {"revindex", n - at},
        {"revindex0", n - at - 1}, {"length", n},  {"depth", (int64_t)l->depth0 + 1},
        {"depth0", l->depth0},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(numbers); i++)
        if (nib_str_eq_c(name, numbers[i].name))
            return *out = jv_int(numbers[i].v, TRUSTED), NIB_OK;
    if (nib_str_eq_c(name, "first")) return *out = jv_bool(at == 0), NIB_OK;
    if (nib_str_eq_c(name, "last")) return *out = jv_bool(at + 1 == n), NIB_OK;
    bool previous = nib_str_eq_c(name, "previtem");
    if (!previous && !nib_str_eq_c(name, "nextitem")) return *out = (jvalue){0}, NIB_OK;
    if (previous ? at > 0 : at + 1 < n) return *out = l->v[previous ? at - 1 : at + 1], NIB_OK;
    return jinja_undefined(j, U_HINT,
                           previous ? "there is no previous item" : "there is no next item",
                           jv_none(TRUSTED), out);
}

static nib_status macro_attr(jrun *j, const jmacro *m, nib_str name, jvalue *out) {
    const jnode *def = m->def;
    *out = (jvalue){0};
    if (nib_str_eq_c(name, "name")) *out = jv_string(def->macro.name);
    if (nib_str_eq_c(name, "catch_kwargs")) *out = jv_bool(def->macro.uses_kwargs);
    if (nib_str_eq_c(name, "catch_varargs")) *out = jv_bool(def->macro.uses_varargs);
    if (nib_str_eq_c(name, "caller")) *out = jv_bool(def->macro.uses_caller);
    if (!nib_str_eq_c(name, "arguments")) return NIB_OK;
    NIB_TRY(jinja_list(j, def->macro.n_params, K_TUPLE, TRUSTED, out));
    for (uint32_t i = 0; i < def->macro.n_params; i++)
        out->l->v[i] = jv_string(def->macro.param_names[i]);
    return NIB_OK;
}

/* A method or field of v, not a key; *out is absent when there is none. */
static nib_status field(jrun *j, jvalue v, nib_str name, jvalue *out) {
    *out = (jvalue){0};
    if (jinja_is_mutator(v, name)) {
        static const char fmt[] = "access to attribute '%.*s' of '%s' object is unsafe.";
        char *hint;
        NIB_TRY(jinja_alloc(j, sizeof fmt + name.n + 16, 1, &hint));
        sprintf(hint, fmt, (int)name.n, name.p, jinja_type_name(v));
        return jinja_undefined(j, U_HINT, hint, jv_none(TRUSTED), out);
    }
    const jrow *row = jinja_find_method(v, name);
    if (row) return bound(j, row, v, out);
    const jvalue *found = NULL;
    switch (v.type) {
    case J_LOOP: return loop_attr(j, v.loop, name, out);
    case J_MACRO: return macro_attr(j, v.macro, name, out);
    case J_NAMESPACE:
        NIB_TRY(jinja_dict_get_str(j, v.d, name, &found));
        if (found) *out = *found;
        return NIB_OK;
    case J_CYCLER:
        if (nib_str_eq_c(name, "current")) *out = v.cycler->v[v.cycler->at];
        return NIB_OK;
    case J_LIST:
        if (v.l->kind != K_GROUP) return NIB_OK;
        if (nib_str_eq_c(name, "grouper")) *out = v.l->v[0];
        if (nib_str_eq_c(name, "list")) *out = v.l->v[1];
        return NIB_OK;
    default: return NIB_OK;
    }
}

nib_status jinja_attr(jrun *j, jvalue v, const jstring *name, jvalue *out) {
    nib_str s = {name->p, name->n};
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    NIB_TRY(field(j, v, s, out));
    if (jv_given(*out)) return NIB_OK;
    if (v.type == J_DICT) {
        const jvalue *found;
        NIB_TRY(jinja_dict_get(j, v.d, jv_string(name), &found));
        if (found) return *out = *found, NIB_OK;
    }
    return jinja_undefined(j, U_ATTR, jinja_object_name(j, v), jv_string(name), out);
}

/* ---- items and slices ---- */

typedef struct span3 {
    int64_t start, step, n;
} span3;

static nib_status slice_bounds(jrun *j, const jslice *s, int64_t len, span3 *out) {
    int64_t step = 1, start, stop;
    if (s->step.type != J_NONE) NIB_TRY(jinja_to_index(j, s->step, "a slice's step", &step));
    if (step == 0) return jinja_fail(j, "slice step cannot be zero");
    if (step < -INT64_MAX) step = -INT64_MAX;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
    int64_t *bound_of[] = {&start, &stop};
    const jvalue given[] = {s->start, s->stop};
    for (int i = 0; i < 2; i++) {
        int64_t v;
        if (given[i].type == J_NONE) {
            v = (i == 0) == (step > 0) ? low : high;
        } else {
            NIB_TRY(jinja_to_index(j, given[i], "a slice's bound", &v));
            if (v < 0) v = v < -len ? low : v + len;
            v = v < low ? low : v > high ? high : v;
        }
        *bound_of[i] = v;
    }
    int64_t n = step > 0 ? (stop > start ? (stop - start - 1) / step + 1 : 0)
                         : (stop < start ? (start - stop - 1) / -step + 1 : 0);
    *out = (span3){start, step, n};
    return NIB_OK;
}

static nib_status slice_string(jrun *j, const jstring *s, const jslice *how, jvalue *out) {
    span3 b;
    NIB_TRY(jinja_charge(j, jinja_n_chars(s) == s->n ? 1 : JINJA_CHARS(s->n)));
    NIB_TRY(slice_bounds(j, how, (int64_t)jinja_n_chars(s), &b));
    if (b.n == 0) return jinja_string(j, "", 0, 0, out);
    if (b.step == 1) {
        size_t from = jinja_char_offset(s, (size_t)b.start);
        return jinja_substring(j, s, from, jinja_char_offset(s, (size_t)(b.start + b.n)), out);
    }
    uint32_t *at; /* where each character starts */
    size_t n_chars = jinja_n_chars(s);
    NIB_TRY(jinja_alloc(j, n_chars + 1, sizeof *at, &at));
    for (uint32_t i = 0, k = 0; i < s->n; i++)
        if ((s->p[i] & 0xc0) != 0x80) at[k++] = i;
    at[n_chars] = s->n;
    jout o;
    jinja_out_init(&o, j);
    for (int64_t i = 0; i < b.n && o.st == NIB_OK; i++) {
        size_t c = (size_t)(b.start + i * b.step);
        jinja_out_sub(&o, s, at[c], at[c + 1]);
    }
    return jinja_out_finish(&o, out);
}

static nib_status slice_list(jrun *j, const jlist *l, const jslice *how, jvalue *out) {
    span3 b;
    NIB_TRY(slice_bounds(j, how, l->n, &b));
    uint8_t kind = l->kind == K_GROUP ? K_TUPLE : l->kind;
    if (b.step == 1) { /* shares the items */
        NIB_TRY(jinja_list(j, 0, kind, l->taint, out));
        out->l->n = (uint32_t)b.n;
        out->l->v = b.n ? l->v + b.start : NULL;
        return NIB_OK;
    }
    NIB_TRY(jinja_list(j, (size_t)b.n, kind, l->taint, out));
    for (int64_t i = 0; i < b.n; i++) out->l->v[i] = l->v[b.start + i * b.step];
    return NIB_OK;
}

/* Item i (negative: from the end) of a string, list or range; *out is absent when there is none. */
static nib_status index_item(jrun *j, jvalue v, int64_t i, jvalue *out) {
    size_t n;
    NIB_TRY(jinja_length(j, v, &n));
    if (i < 0) i += (int64_t)n;
    *out = (jvalue){0};
    if (i < 0 || i >= (int64_t)n) return NIB_OK;
    if (v.type == J_LIST) *out = v.l->v[i];
    if (v.type == J_RANGE) *out = jv_int(v.range->start + i * v.range->step, v.taint);
    if (v.type == J_STRING) {
        NIB_TRY(jinja_charge(j, n == v.s->n ? 1 : JINJA_CHARS(v.s->n)));
        size_t from = jinja_char_offset(v.s, (size_t)i), to = from + 1;
        while (to < v.s->n && (v.s->p[to] & 0xc0) == 0x80) to++;
        return jinja_substring(j, v.s, from, to, out);
    }
    return NIB_OK;
}

nib_status jinja_item(jrun *j, jvalue v, jvalue key, jvalue *out) {
    bool row = is_sequence(v) || v.type == J_RANGE;
    *out = (jvalue){0};
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    if (key.type == J_SLICE && v.type == J_STRING) return slice_string(j, v.s, key.slice, out);
    if (key.type == J_SLICE && row && v.type == J_LIST) return slice_list(j, v.l, key.slice, out);
    if (key.type == J_SLICE)
        return jinja_fail(j, "'%s' object cannot be sliced", jinja_type_name(v));
    if (row && (key.type == J_INT || key.type == J_BOOL)) {
        NIB_TRY(index_item(j, v, key.type == J_BOOL ? key.b : key.i, out));
    } else if (v.type == J_DICT && key.type != J_DICT &&
               !(key.type == J_LIST && key.l->kind == K_LIST)) {
        const jvalue *found;
        NIB_TRY(jinja_dict_get(j, v.d, key, &found));
        if (found) *out = *found;
    }
    if (!jv_given(*out) && key.type == J_STRING)
        NIB_TRY(field(j, v, (nib_str){key.s->p, key.s->n}, out));
    if (jv_given(*out)) return NIB_OK;
    return jinja_undefined(j, key.type == J_STRING ? U_ATTR : U_ITEM, jinja_object_name(j, v), key,
                           out);
}

static nib_status eval_slice(jrun *j, const jnode *n, jvalue *out) {
    jslice *s;
    NIB_TRY(JINJA_NEW(j, s));
    jvalue *part[] = {&s->start, &s->stop, &s->step};
    const jnode *node[] = {n->slice.from, n->slice.to, n->slice.step};
    for (int i = 0; i < 3; i++) {
        *part[i] = jv_none(TRUSTED);
        if (node[i]) NIB_TRY(jinja_eval(j, node[i], part[i]));
    }
    *out = (jvalue){.type = J_SLICE, .slice = s};
    return NIB_OK;
}

/* ---- calls ---- */

static nib_status eval_args(jrun *j, const jcallargs *a, jargs *out) {
    jvalue star = {0}, star_star = {0};
    const jvalue *more = NULL;
    size_t n_more = 0, n_kw = a->kw.n;
    jvalue *v = NULL;
    jkwarg *kw = NULL;
    if (a->pos.n) NIB_TRY(jinja_alloc(j, a->pos.n, sizeof *v, &v));
    for (uint32_t i = 0; i < a->pos.n; i++) NIB_TRY(jinja_eval(j, a->pos.v[i], &v[i]));
    if (a->kw.n) NIB_TRY(jinja_alloc(j, a->kw.n, sizeof *kw, &kw));
    for (uint32_t i = 0; i < a->kw.n; i++) {
        kw[i].name = a->kw_names[i];
        NIB_TRY(jinja_eval(j, a->kw.v[i], &kw[i].value));
    }
    if (a->star) {
        NIB_TRY(jinja_eval(j, a->star, &star));
        NIB_TRY(jinja_items(j, star, &more, &n_more));
        jvalue *all;
        NIB_TRY(jinja_charge(j, n_more));
        NIB_TRY(jinja_alloc(j, a->pos.n + n_more, sizeof *all, &all));
        if (a->pos.n) memcpy(all, v, a->pos.n * sizeof *all);
        if (n_more) memcpy(all + a->pos.n, more, n_more * sizeof *all);
        v = all;
    }
    if (a->star_star) {
        NIB_TRY(jinja_eval(j, a->star_star, &star_star));
        if (star_star.type != J_DICT)
            return jinja_fail(j, "argument after ** must be a mapping, not %s",
                              jinja_type_name(star_star));
        jkwarg *all;
        NIB_TRY(jinja_charge(j, star_star.d->n));
        NIB_TRY(jinja_alloc(j, n_kw + star_star.d->n, sizeof *all, &all));
        if (n_kw) memcpy(all, kw, n_kw * sizeof *all);
        for (uint32_t i = 0; i < star_star.d->n; i++) {
            const jentry *e = &star_star.d->v[i];
            if (e->key.type != J_STRING) return jinja_fail(j, "keywords must be strings");
            all[n_kw++] = (jkwarg){e->key.s, e->value};
        }
        kw = all;
    }
    *out = (jargs){v, kw, a->pos.n + n_more, n_kw};
    return NIB_OK;
}

nib_status jinja_call(jrun *j, jvalue callee, const jargs *args, jvalue *out) {
    switch (callee.type) {
    case J_FUNCTION: return jinja_call_row(j, callee.fn, jv_none(TRUSTED), args, out);
    case J_METHOD: return jinja_call_row(j, callee.method->row, callee.method->self, args, out);
    case J_MACRO: return jinja_call_macro(j, callee.macro, args, out);
    case J_LOOP: return jinja_call_loop(j, callee.loop, args, out);
    case J_JOINER:
        if (args->n || args->n_kw) return jinja_fail(j, "a joiner takes no arguments");
        if (callee.joiner->used) return *out = callee.joiner->sep, NIB_OK;
        callee.joiner->used = true;
        return jinja_string(j, "", 0, 0, out);
    case J_UNDEFINED: return jinja_fail_undefined(j, callee);
    default: return jinja_fail(j, "'%s' object is not callable", jinja_type_name(callee));
    }
}

static nib_status eval_call(jrun *j, const jnode *n, jvalue *out) {
    jvalue callee;
    jargs args;
    NIB_TRY(jinja_eval(j, n->call.callee, &callee));
    NIB_TRY(eval_args(j, n->call.args, &args));
    j->line = n->line;
    return jinja_call(j, callee, &args, out);
}

static nib_status apply(jrun *j, const jnode *n, jvalue self, jvalue *out) {
    jargs args;
    if (!n->call.row)
        return jinja_fail(j, "no %s named '%.*s'", n->kind == N_FILTER ? "filter" : "test",
                          (int)NIB_MIN(n->call.name->n, 100u), n->call.name->p);
    NIB_TRY(eval_args(j, n->call.args, &args));
    j->line = n->line;
    return jinja_call_row(j, n->call.row, self, &args, out);
}

nib_status jinja_filter_chain(jrun *j, const jnode *filters, jvalue v, jvalue *out) {
    if (!filters) return *out = v, NIB_OK;
    NIB_TRY(jinja_enter(j));
    NIB_TRY(jinja_filter_chain(j, filters->call.callee, v, &v));
    NIB_TRY(apply(j, filters, v, out));
    j->depth--;
    return NIB_OK;
}

/* ---- the walk ---- */

static nib_status eval_row(jrun *j, const jnode *n, jvalue *out) {
    NIB_TRY(jinja_list(j, n->list.n, n->kind == N_LIST ? K_LIST : K_TUPLE, TRUSTED, out));
    jvalue *v = out->l->v;
    for (uint32_t i = 0; i < n->list.n; i++) NIB_TRY(jinja_eval(j, n->list.v[i], &v[i]));
    return NIB_OK;
}

static nib_status eval_dict(jrun *j, const jnode *n, jvalue *out) {
    jvalue key, value;
    NIB_TRY(jinja_dict(j, TRUSTED, out));
    for (uint32_t i = 0; i < n->list.n; i += 2) {
        NIB_TRY(jinja_eval(j, n->list.v[i], &key));
        NIB_TRY(jinja_eval(j, n->list.v[i + 1], &value));
        NIB_TRY(jinja_dict_set(j, out->d, key, value));
    }
    return NIB_OK;
}

static nib_status eval_node(jrun *j, const jnode *n, jvalue *out) {
    jvalue a, b;
    switch (n->kind) {
    case N_CONST: *out = n->value; return NIB_OK;
    case N_NAME: return jinja_lookup(j, n->name, out);
    case N_LIST:
    case N_TUPLE: return eval_row(j, n, out);
    case N_DICT: return eval_dict(j, n, out);
    case N_COND:
        NIB_TRY(jinja_eval(j, n->cond.test, &a));
        if (jinja_truth(a)) return jinja_eval(j, n->cond.yes, out);
        if (n->cond.no) return jinja_eval(j, n->cond.no, out);
        return jinja_undefined(j, U_HINT, "the inline if was false and has no else",
                               jv_none(TRUSTED), out);
    case N_OR:
    case N_AND:
        NIB_TRY(jinja_eval(j, n->two.l, out));
        return jinja_truth(*out) == (n->kind == N_OR) ? NIB_OK : jinja_eval(j, n->two.r, out);
    case N_NOT:
        NIB_TRY(jinja_eval(j, n->two.l, &a));
        *out = jv_bool(!jinja_truth(a));
        return NIB_OK;
    case N_COMPARE: return eval_compare(j, n, out);
    case N_BINARY:
        NIB_TRY(jinja_eval(j, n->two.l, &a));
        NIB_TRY(jinja_eval(j, n->two.r, &b));
        j->line = n->line;
        return jinja_binary(j, n->op, a, b, out);
    case N_CONCAT: return eval_concat(j, n, out);
    case N_NEG:
    case N_POS: return eval_sign(j, n, out);
    case N_ATTR:
        NIB_TRY(jinja_eval(j, n->attr.obj, &a));
        return jinja_attr(j, a, n->attr.name, out);
    case N_ITEM:
        NIB_TRY(jinja_eval(j, n->item.obj, &a));
        NIB_TRY(jinja_eval(j, n->item.index, &b));
        return jinja_item(j, a, b, out);
    case N_SLICE: return eval_slice(j, n, out);
    case N_CALL: return eval_call(j, n, out);
    case N_FILTER:
    case N_TEST: NIB_TRY(jinja_eval(j, n->call.callee, &a)); return apply(j, n, a, out);
    default: return nib_fail(j->e, NIB_ERR_INTERNAL, "template: no expression of kind %d", n->kind);
    }
}

nib_status jinja_eval(jrun *j, const jnode *n, jvalue *out) {
    NIB_TRY(jinja_enter(j));
    j->line = n->line;
    NIB_TRY(eval_node(j, n, out));
    j->depth--;
    return NIB_OK;
}
