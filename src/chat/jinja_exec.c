/* Statements, scopes and macros.
 *
 * Scopes: a loop's round, a macro's body, a block (with, set, call, filter, generation) each have
 * their own; "if" has none. An assignment goes into the innermost scope, so a loop's body cannot
 * change a variable outside it (that is what namespaces are for). A macro sees the scope it was
 * written in, not the one it is called from. */
#include "chat/jinja.h"

/* ---- variables ---- */

nib_status jinja_lookup(jrun *j, uint32_t name, jvalue *out) {
    uint32_t seen = 0;
    for (const jscope *s = j->scope; s->parent; s = s->parent, seen++) {
        for (uint32_t i = s->n; i-- > 0;) {
            if (s->v[i].name != name) continue;
            *out = s->v[i].value;
            return NIB_OK;
        }
        seen += s->n;
    }
    if (seen > 32) NIB_TRY(jinja_charge(j, seen / 32));
    const jname *n = &j->t->names[name];
    if (jv_given(j->root[name])) {
        *out = j->root[name];
        return NIB_OK;
    }
    if (n->global) {
        *out = (jvalue){.type = J_FUNCTION, .fn = n->global};
        return NIB_OK;
    }
    return jinja_undefined(j, U_NAME, NULL, jv_string(n->s), out);
}

nib_status jinja_assign(jrun *j, uint32_t name, jvalue v) {
    jscope *s = j->scope;
    if (!s->parent) {
        j->root[name] = v;
        return NIB_OK;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->v[i].name != name) continue;
        s->v[i].value = v;
        return NIB_OK;
    }
    NIB_TRY(jinja_charge(j, JINJA_BYTES(s->n)));
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 4;
        jvar *grown;
        NIB_TRY(jinja_alloc(j, cap, sizeof *grown, &grown));
        if (s->n) memcpy(grown, s->v, s->n * sizeof *grown);
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->n++] = (jvar){name, v};
    return NIB_OK;
}

static nib_status push_scope(jrun *j, jscope *parent) {
    jscope *s;
    NIB_TRY(JINJA_NEW(j, s));
    *s = (jscope){.parent = parent};
    j->scope = s;
    return NIB_OK;
}

static nib_status assign_target(jrun *j, const jnode *target, jvalue v) {
    if (target->kind == N_NAME) return jinja_assign(j, target->name, v);
    if (target->kind == N_NSREF) {
        jvalue ns;
        NIB_TRY(jinja_lookup(j, target->nsref.name, &ns));
        if (ns.type == J_UNDEFINED) return jinja_fail_undefined(j, ns);
        if (ns.type != J_NAMESPACE)
            return jinja_fail(j, "cannot assign attribute on non-namespace object");
        return jinja_dict_set(j, ns.d, jv_string(target->nsref.attr), v);
    }
    const jvalue *items;
    size_t n;
    if (!jinja_iterable(v))
        return jinja_fail(j, "cannot unpack non-iterable %s object", jinja_type_name(v));
    NIB_TRY(jinja_items(j, v, &items, &n));
    if (n != target->list.n)
        return jinja_fail(j, "%s values to unpack (expected %u, got %zu)",
                          n < target->list.n ? "not enough" : "too many", target->list.n, n);
    for (uint32_t i = 0; i < target->list.n; i++)
        NIB_TRY(assign_target(j, target->list.v[i], items[i]));
    return NIB_OK;
}

/* ---- output ---- */

/* What b writes, as a string. */
static nib_status capture(jrun *j, const jblock *b, jvalue *out) {
    jout o, *outer = j->out;
    jinja_out_init(&o, j);
    j->out = &o;
    NIB_TRY(jinja_exec(j, b));
    j->out = outer;
    return jinja_out_finish(&o, out);
}

/* ---- loops ---- */

/* The items for which the loop's condition holds. */
static nib_status filter_items(jrun *j, const jnode *n, jscope *scope, const jvalue **items,
                               size_t *n_items) {
    jvalue kept, holds;
    NIB_TRY(jinja_list(j, 0, K_LIST, DATA, &kept));
    for (size_t i = 0; i < *n_items; i++) {
        NIB_TRY(push_scope(j, scope));
        NIB_TRY(assign_target(j, n->loop.target, (*items)[i]));
        NIB_TRY(jinja_undefined(j, U_NAME, NULL, jv_string(j->t->names[NAME_LOOP].s), &holds));
        NIB_TRY(jinja_assign(j, NAME_LOOP, holds));
        NIB_TRY(jinja_eval(j, n->loop.test, &holds));
        if (jinja_truth(holds)) NIB_TRY(jinja_push(j, kept.l, (*items)[i]));
    }
    *items = kept.l->v;
    *n_items = kept.l->n;
    return NIB_OK;
}

static nib_status run_loop(jrun *j, const jnode *n, jvalue iterable, jscope *scope,
                           uint32_t depth0) {
    const jvalue *items;
    size_t n_items;
    if (!jinja_iterable(iterable))
        return jinja_fail(j, "'%s' object is not iterable", jinja_type_name(iterable));
    NIB_TRY(jinja_items(j, iterable, &items, &n_items));
    if (n->loop.test) NIB_TRY(filter_items(j, n, scope, &items, &n_items));
    jloop *l;
    NIB_TRY(JINJA_NEW(j, l));
    *l = (jloop){.v = items, .node = n, .scope = scope, .n = (uint32_t)n_items, .depth0 = depth0};
    NIB_TRY(push_scope(j, scope));
    jscope *inner = j->scope;
    for (; l->at < l->n && j->flow != FLOW_BREAK; l->at++) {
        j->flow = FLOW_ON;
        if (inner->captured) {
            NIB_TRY(push_scope(j, scope));
            inner = j->scope;
        }
        j->scope = inner;
        inner->n = 0;
        NIB_TRY(assign_target(j, n->loop.target, items[l->at]));
        NIB_TRY(jinja_assign(j, NAME_LOOP, (jvalue){.type = J_LOOP, .loop = l}));
        NIB_TRY(jinja_exec(j, &n->loop.body));
    }
    j->flow = FLOW_ON;
    if (!n_items) {
        NIB_TRY(push_scope(j, scope));
        NIB_TRY(jinja_exec(j, &n->loop.otherwise));
    }
    return NIB_OK;
}

static nib_status exec_for(jrun *j, const jnode *n) {
    jscope *outer = j->scope;
    jvalue iterable;
    NIB_TRY(jinja_eval(j, n->loop.iter, &iterable));
    NIB_TRY(run_loop(j, n, iterable, outer, 0));
    j->scope = outer;
    return NIB_OK;
}

nib_status jinja_call_loop(jrun *j, const jloop *l, const jargs *args, jvalue *out) {
    if (!l->node->loop.recursive)
        return jinja_fail(j, "the loop must have the 'recursive' marker to be called recursively");
    if (args->n != 1 || args->n_kw)
        return jinja_fail(j, "loop() takes one argument, %zu given", args->n);
    jscope *outer = j->scope;
    jout o, *outer_out = j->out;
    jinja_out_init(&o, j);
    j->out = &o;
    NIB_TRY(jinja_enter(j));
    NIB_TRY(run_loop(j, l->node, args->v[0], l->scope, l->depth0 + 1));
    j->depth--;
    j->out = outer_out;
    j->scope = outer;
    return jinja_out_finish(&o, out);
}

/* ---- macros ---- */

static bool named(const jstring *a, const jstring *b) {
    return a->n == b->n && !memcmp(a->p, b->p, a->n);
}

/* Arguments by name: to parameters, to caller, or to the dict 'kwargs'. */
static nib_status bind_keywords(jrun *j, const jnode *m, const jargs *args, jvalue *given,
                                jvalue *caller, jdict *kwargs) {
    for (size_t k = 0; k < args->n_kw; k++) {
        const jstring *name = args->kw[k].name;
        uint32_t i = 0;
        while (i < m->macro.n_params && !named(name, m->macro.param_names[i])) i++;
        NIB_TRY(jinja_charge(j, 1 + i / 8));
        int n = (int)NIB_MIN(name->n, 100u);
        if (i < m->macro.n_params) {
            if (jv_given(given[i]))
                return jinja_fail(j, "the macro got several values for argument '%.*s'", n,
                                  name->p);
            given[i] = args->kw[k].value;
        } else if (m->macro.uses_caller && nib_str_eq_c((nib_str){name->p, name->n}, "caller")) {
            *caller = args->kw[k].value;
        } else if (m->macro.uses_kwargs) {
            NIB_TRY(jinja_dict_set(j, kwargs, jv_string(name), args->kw[k].value));
        } else {
            return jinja_fail(j, "macro '%.*s' takes no keyword argument '%.*s'",
                              (int)NIB_MIN(m->macro.name->n, 100u), m->macro.name->p, n, name->p);
        }
    }
    return NIB_OK;
}

static nib_status bind_macro(jrun *j, const jnode *m, const jargs *args) {
    uint32_t n = m->macro.n_params;
    jvalue *given = NULL, kwargs = {0}, varargs, caller = {0};
    if (n) NIB_TRY(jinja_alloc(j, n, sizeof *given, &given));
    for (uint32_t i = 0; i < n; i++) given[i] = i < args->n ? args->v[i] : (jvalue){0};
    if (args->n > n && !m->macro.uses_varargs)
        return jinja_fail(j, "macro '%.*s' takes not more than %u argument(s)",
                          (int)NIB_MIN(m->macro.name->n, 100u), m->macro.name->p, n);
    NIB_TRY(jinja_dict(j, TRUSTED, &kwargs));
    NIB_TRY(bind_keywords(j, m, args, given, &caller, kwargs.d));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_plain = n - m->macro.defaults.n;
        if (!jv_given(given[i])) {
            if (i >= n_plain) {
                NIB_TRY(jinja_eval(j, m->macro.defaults.v[i - n_plain], &given[i]));
            } else {
                char *hint;
                const jstring *name = m->macro.param_names[i];
                NIB_TRY(jinja_alloc(j, name->n + 40, 1, &hint));
                sprintf(hint, "parameter '%.*s' was not provided", (int)name->n, name->p);
                NIB_TRY(jinja_undefined(j, U_HINT, hint, jv_none(TRUSTED), &given[i]));
            }
        }
        NIB_TRY(jinja_assign(j, m->macro.params[i], given[i]));
    }
    if (m->macro.uses_caller) {
        if (!jv_given(caller))
            NIB_TRY(jinja_undefined(j, U_HINT, "No caller defined", jv_none(TRUSTED), &caller));
        NIB_TRY(jinja_assign(j, NAME_CALLER, caller));
    }
    if (m->macro.uses_kwargs) NIB_TRY(jinja_assign(j, NAME_KWARGS, kwargs));
    if (!m->macro.uses_varargs) return NIB_OK;
    size_t more = args->n > n ? args->n - n : 0;
    NIB_TRY(jinja_list(j, more, K_TUPLE, TRUSTED, &varargs));
    if (more) memcpy(varargs.l->v, args->v + n, more * sizeof *args->v);
    return jinja_assign(j, NAME_VARARGS, varargs);
}

nib_status jinja_call_macro(jrun *j, const jmacro *m, const jargs *args, jvalue *out) {
    jscope *outer = j->scope;
    NIB_TRY(jinja_enter(j));
    NIB_TRY(push_scope(j, m->scope));
    NIB_TRY(bind_macro(j, m->def, args));
    NIB_TRY(capture(j, &m->def->macro.body, out));
    j->scope = outer;
    j->depth--;
    return NIB_OK;
}

static nib_status make_macro(jrun *j, const jnode *def, jvalue *out) {
    jmacro *m;
    NIB_TRY(JINJA_NEW(j, m));
    *m = (jmacro){def, j->scope};
    for (jscope *s = j->scope; s && !s->captured; s = s->parent) s->captured = true;
    *out = (jvalue){.type = J_MACRO, .macro = m};
    return NIB_OK;
}

static nib_status exec_call_block(jrun *j, const jnode *n) {
    const jnode *call = n->callblock.call;
    jcallargs args = *call->call.args;
    jnode caller = {.kind = N_CONST, .line = n->line};
    NIB_TRY(make_macro(j, n->callblock.macro, &caller.value));
    /* the call with one more argument: caller=<the body> */
    jnode **v;
    const jstring **names;
    NIB_TRY(jinja_alloc(j, args.kw.n + 1, sizeof *v, &v));
    NIB_TRY(jinja_alloc(j, args.kw.n + 1, sizeof *names, &names));
    if (args.kw.n) memcpy(v, args.kw.v, args.kw.n * sizeof *v);
    if (args.kw.n) memcpy(names, args.kw_names, args.kw.n * sizeof *names);
    v[args.kw.n] = &caller;
    names[args.kw.n] = j->t->names[NAME_CALLER].s;
    args.kw = (jblock){v, args.kw.n + 1};
    args.kw_names = names;
    jnode with_caller = *call;
    with_caller.call.args = &args;
    jvalue text;
    NIB_TRY(jinja_eval(j, &with_caller, &text));
    jinja_out_str(j->out, text);
    return j->out->st;
}

/* ---- statements ---- */

static nib_status exec_if(jrun *j, const jnode *n) {
    for (uint32_t i = 0; i < n->branch.tests.n; i++) {
        jvalue v;
        NIB_TRY(jinja_eval(j, n->branch.tests.v[i], &v));
        if (jinja_truth(v)) return jinja_exec(j, &n->branch.bodies[i]);
    }
    return jinja_exec(j, &n->branch.otherwise);
}

static nib_status exec_set_block(jrun *j, const jnode *n) {
    jscope *outer = j->scope;
    jvalue v;
    NIB_TRY(push_scope(j, outer));
    NIB_TRY(capture(j, &n->set.body, &v));
    NIB_TRY(jinja_filter_chain(j, n->set.value, v, &v));
    j->scope = outer;
    return assign_target(j, n->set.target, v);
}

static nib_status exec_filter_block(jrun *j, const jnode *n) {
    jscope *outer = j->scope;
    jvalue v;
    NIB_TRY(push_scope(j, outer));
    NIB_TRY(capture(j, &n->filterblock.body, &v));
    NIB_TRY(jinja_filter_chain(j, n->filterblock.filters, v, &v));
    j->scope = outer;
    jinja_out_str(j->out, v);
    return j->out->st;
}

static nib_status exec_with(jrun *j, const jnode *n) {
    jscope *outer = j->scope, *inner;
    NIB_TRY(push_scope(j, outer));
    inner = j->scope;
    for (uint32_t i = 0; i < n->with.targets.n; i++) {
        jvalue v;
        j->scope = outer; /* the values do not see each other */
        NIB_TRY(jinja_eval(j, n->with.values.v[i], &v));
        j->scope = inner;
        NIB_TRY(assign_target(j, n->with.targets.v[i], v));
    }
    NIB_TRY(jinja_exec(j, &n->with.body));
    j->scope = outer;
    return NIB_OK;
}

static nib_status exec_scope(jrun *j, const jnode *n) {
    jscope *outer = j->scope;
    NIB_TRY(push_scope(j, outer));
    NIB_TRY(jinja_exec(j, &n->list));
    j->scope = outer;
    return NIB_OK;
}

static nib_status exec_node(jrun *j, const jnode *n) {
    jvalue v;
    switch (n->kind) {
    case N_TEXT: jinja_out_string(j->out, n->value.s); return j->out->st;
    case N_PRINT:
        NIB_TRY(jinja_eval(j, n->two.l, &v));
        jinja_out_str(j->out, v);
        return j->out->st;
    case N_FOR: return exec_for(j, n);
    case N_IF: return exec_if(j, n);
    case N_SET: NIB_TRY(jinja_eval(j, n->set.value, &v)); return assign_target(j, n->set.target, v);
    case N_SET_BLOCK: return exec_set_block(j, n);
    case N_MACRO: NIB_TRY(make_macro(j, n, &v)); return jinja_assign(j, n->macro.name_id, v);
    case N_CALL_BLOCK: return exec_call_block(j, n);
    case N_FILTER_BLOCK: return exec_filter_block(j, n);
    case N_WITH: return exec_with(j, n);
    case N_BREAK: j->flow = FLOW_BREAK; return NIB_OK;
    case N_CONTINUE: j->flow = FLOW_CONTINUE; return NIB_OK;
    case N_DO: return jinja_eval(j, n->two.l, &v);
    case N_SCOPE: return exec_scope(j, n);
    default: return nib_fail(j->e, NIB_ERR_INTERNAL, "template: no statement of kind %d", n->kind);
    }
}

nib_status jinja_exec(jrun *j, const jblock *b) {
    NIB_TRY(jinja_enter(j));
    for (uint32_t i = 0; i < b->n && j->flow == FLOW_ON; i++) {
        j->line = b->v[i]->line;
        NIB_TRY(exec_node(j, b->v[i]));
    }
    j->depth--;
    return NIB_OK;
}
