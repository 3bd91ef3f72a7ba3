/* The parser: tokens to a tree, by recursive descent with two tokens in hand.
 *
 * Grammar, loosest binding first:
 *   x if c else y | or | and | not | comparisons, in | + - | ~ | * / // % | ** | unary - + |
 * primary, then .a [i] (args), then |filter and "is test". As in Jinja (unlike Python), ** leans
 * left and binds looser than unary minus.
 *
 * Invariants: recursion is bounded by JINJA_MAX_NESTING, the height of every expression by
 * JINJA_MAX_HEIGHT (long operator chains are built without recursion but evaluated with it), the
 * size of the tree by the arena. A filter or test that does not exist is only an error when it is
 * evaluated, as in Jinja: templates guard them with "if".
 *
 * Source: Jinja 3.1's documentation ("Expressions", "List of Control Structures") and behaviour. */
#include "chat/jinja.h"
#include <errno.h>
#include <stdlib.h>

typedef struct parser {
    nib_template *t;
    nib_arena *a;
    nib_error *e;
    jlexer x;
    jtoken cur, ahead;
    nib_strmap ids;
    uint32_t cap_names;
    int depth, n_loops;
    uint32_t open_line; /* of the statement whose body is being parsed */
    jnode *macro;       /* the one being parsed */
} parser;

static nib_status fail_at(parser *p, uint32_t line, const char *fmt, ...) NIB_PRINTF(3, 4);
static nib_status fail_at(parser *p, uint32_t line, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return nib_fail(p->e, NIB_ERR_TEMPLATE, "template line %u: %s", line, text);
}

/* ---- tokens ---- */

static nib_status next(parser *p) {
    p->cur = p->ahead;
    if (p->ahead.kind == T_EOF) return NIB_OK;
    return jinja_lex(&p->x, &p->ahead);
}

static bool is_op(const jtoken *t, uint16_t op) {
    return t->kind == T_OP && t->op == op;
}
static bool is_word(const jtoken *t, const char *word) {
    return t->kind == T_NAME && nib_str_eq_c(t->text, word);
}
#define OP1(c) JINJA_OP(c, 0)

static const char *describe(const jtoken *t, char buf[80]) {
    static const char *const names[] = {
        [T_EOF] = "the end of the template",
        [T_DATA] = "text",
        [T_VAR_BEGIN] = "{{",
        [T_VAR_END] = "}}",
        [T_BLOCK_BEGIN] = "{%",
        [T_BLOCK_END] = "%}",
    };
    if (t->kind < NIB_ARRAY_LEN(names) && names[t->kind]) return names[t->kind];
    snprintf(buf, 80, "'%.*s'", (int)NIB_MIN(t->text.n, 60), t->text.p);
    return buf;
}

static nib_status unexpected(parser *p, const char *expected) {
    char buf[80];
    return fail_at(p, p->cur.line, "expected %s, found %s", expected, describe(&p->cur, buf));
}

static nib_status expect_op(parser *p, char c) {
    if (is_op(&p->cur, OP1(c))) return next(p);
    return unexpected(p, (char[]){'\'', c, '\'', 0});
}
static nib_status expect_word(parser *p, const char *word) {
    return is_word(&p->cur, word) ? next(p) : unexpected(p, word);
}

/* ---- nodes ---- */

static nib_status alloc(parser *p, size_t n, size_t size, void *out) {
    void *v = nib_arena_calloc(p->a, n, size);
    if (!v) {
        nib_fail(p->e, NIB_ERR_LIMIT, "the template's tree needs more than %d MiB",
                 JINJA_MAX_TREE >> 20);
        return NIB_ERR_LIMIT;
    }
    memcpy(out, &v, sizeof v);
    return NIB_OK;
}

static nib_status node(parser *p, jkind kind, uint32_t line, jnode **out) {
    jnode *n;
    NIB_TRY(alloc(p, 1, sizeof *n, &n));
    n->kind = (uint8_t)kind;
    n->line = line;
    *out = n;
    return NIB_OK;
}

/* Makes parent as high as its child demands. */
static nib_status above(parser *p, jnode *parent, const jnode *child) {
    if (!child || child->height < parent->height) return NIB_OK;
    if (child->height >= JINJA_MAX_HEIGHT)
        return fail_at(p, parent->line, "expression nested deeper than %d operations",
                       JINJA_MAX_HEIGHT);
    parent->height = (uint16_t)(child->height + 1);
    return NIB_OK;
}

/* Appends, doubling: a block's array has room up to the next power of two. */
static nib_status push(parser *p, jblock *b, jnode *n) {
    if (!(b->n & (b->n - 1))) {
        jnode **v;
        NIB_TRY(alloc(p, b->n ? (size_t)b->n * 2 : 1, sizeof *v, &v));
        if (b->n) memcpy(v, b->v, b->n * sizeof *v);
        b->v = v;
    }
    b->v[b->n++] = n;
    return NIB_OK;
}

static nib_status make_string(parser *p, nib_str s, const jstring **out) {
    jstring *v;
    NIB_TRY(alloc(p, 1, sizeof *v, &v));
    /* NOLINTNEXTLINE(clang-analyzer-core*): alloc has set it */
    *v = (jstring){.p = s.p, .n = (uint32_t)s.n, .n_chars = -1, .taint = s.n ? TRUSTED : 0};
    v->n_chars = (int32_t)jinja_n_chars(v); /* now: a template is shared by threads */
    *out = v;
    return NIB_OK;
}

static nib_status intern(parser *p, nib_str s, uint32_t *id) {
    if (nib_strmap_get(&p->ids, s, id)) return NIB_OK;
    nib_template *t = p->t;
    if (t->n_names == p->cap_names) {
        uint32_t cap = p->cap_names ? p->cap_names * 2 : 32;
        jname *v;
        NIB_TRY(alloc(p, cap, sizeof *v, &v));
        if (t->n_names) memcpy(v, t->names, t->n_names * sizeof *v);
        t->names = v;
        p->cap_names = cap;
    }
    *id = t->n_names;
    NIB_TRY(make_string(p, s, &t->names[*id].s));
    t->names[*id].global = jinja_find_global(s);
    if (!nib_strmap_set(&p->ids, s, *id)) return nib_fail_nomem(p->e, s.n, "a template's names");
    t->n_names++;
    return NIB_OK;
}

static nib_status enter(parser *p) {
    if (p->depth == JINJA_MAX_NESTING)
        return fail_at(p, p->cur.line, "nested deeper than %d levels", JINJA_MAX_NESTING);
    p->depth++;
    return NIB_OK;
}

/* ---- expressions ---- */

static nib_status expression(parser *p, jnode **out);
static nib_status unary(parser *p, bool with_filters, jnode **out);
static nib_status or_expr(parser *p, jnode **out);

static nib_status name_node(parser *p, const jtoken *t, jnode **out) {
    NIB_TRY(node(p, N_NAME, t->line, out));
    NIB_TRY(intern(p, t->text, &(*out)->name));
    if (p->macro) {
        p->macro->macro.uses_caller |= (*out)->name == NAME_CALLER;
        p->macro->macro.uses_varargs |= (*out)->name == NAME_VARARGS;
        p->macro->macro.uses_kwargs |= (*out)->name == NAME_KWARGS;
    }
    return NIB_OK;
}

static nib_status constant(parser *p, uint32_t line, jvalue v, jnode **out) {
    NIB_TRY(node(p, N_CONST, line, out));
    (*out)->value = v;
    return NIB_OK;
}

/* Without the underscores, which Jinja's numbers may have. */
static nib_status plain_digits(parser *p, nib_str s, char **out) {
    char *d;
    NIB_TRY(alloc(p, s.n + 1, 1, &d));
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '_') d[n++] = s.p[i];
    *out = d;
    return NIB_OK;
}

static nib_status number(parser *p, const jtoken *t, jnode **out) {
    char *d;
    NIB_TRY(plain_digits(p, t->text, &d));
    if (t->kind == T_FLOAT) return constant(p, t->line, jv_float(strtod(d, NULL), TRUSTED), out);
    char prefix = d[0] == '0' ? d[1] | 0x20 : 0;
    int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
    if (d[0] == '0' && base == 10 && strspn(d, "0") < strlen(d))
        return fail_at(p, t->line, "expected a number without leading zeros, found '%.40s'", d);
    errno = 0;
    long long v = strtoll(base == 10 ? d : d + 2, NULL, base);
    if (!errno) return constant(p, t->line, jv_int(v, TRUSTED), out);
    if (base != 10) return fail_at(p, t->line, "the number '%.40s' needs more than 64 bits", d);
    jvalue big = {.type = J_BIG};
    NIB_TRY(make_string(p, nib_str_c(d), &big.s));
    return constant(p, t->line, big, out);
}

/* Adjacent string literals are one. */
static nib_status string(parser *p, jnode **out) {
    uint32_t line = p->cur.line;
    nib_str whole;
    NIB_TRY(jinja_lex_string(&p->x, &p->cur, &whole));
    NIB_TRY(next(p));
    if (p->cur.kind == T_STRING) {
        nib_buf b = {0};
        nib_status s = NIB_OK;
        nib_buf_put(&b, whole.p, whole.n);
        while (p->cur.kind == T_STRING && s == NIB_OK) {
            s = jinja_lex_string(&p->x, &p->cur, &whole);
            if (s == NIB_OK) nib_buf_put(&b, whole.p, whole.n);
            if (s == NIB_OK) s = next(p);
        }
        char *copy = b.failed ? NULL : nib_arena_strndup(p->a, b.data, b.len);
        whole = (nib_str){copy, b.len};
        nib_buf_free(&b);
        NIB_TRY(s);
        if (!copy) return nib_fail_nomem(p->e, whole.n, "a template's string");
    }
    jvalue v = {.type = J_STRING};
    NIB_TRY(make_string(p, whole, &v.s));
    return constant(p, line, v, out);
}

/* Whether what follows a comma ends a tuple. 'stop': a word that does ("in" of for), or NULL. */
static bool tuple_ends(const parser *p, const char *stop) {
    return p->cur.kind == T_VAR_END || p->cur.kind == T_BLOCK_END || is_op(&p->cur, OP1(')')) ||
           (stop && is_word(&p->cur, stop));
}

static nib_status target_item(parser *p, bool with_namespace, jnode **out);
typedef enum tuple_of { OF_EXPRESSIONS, OF_UNCONDITIONAL, OF_TARGETS, OF_NS_TARGETS } tuple_of;

/* a | a, | a, b, c. In brackets it may be empty. */
static nib_status tuple(parser *p, tuple_of of, const char *stop, bool in_brackets, jnode **out) {
    uint32_t line = p->cur.line;
    jblock items = {0};
    bool is_tuple = false;
    jnode *n;
    while (!tuple_ends(p, stop)) {
        if (of == OF_EXPRESSIONS)
            NIB_TRY(expression(p, &n));
        else if (of == OF_UNCONDITIONAL)
            NIB_TRY(or_expr(p, &n));
        else
            NIB_TRY(target_item(p, of == OF_NS_TARGETS, &n));
        NIB_TRY(push(p, &items, n));
        if (!is_op(&p->cur, OP1(','))) break;
        is_tuple = true;
        NIB_TRY(next(p));
    }
    if (!is_tuple && items.n) {
        *out = items.v[0];
        return NIB_OK;
    }
    if (!items.n && !in_brackets) return unexpected(p, "an expression");
    NIB_TRY(node(p, N_TUPLE, line, out));
    (*out)->list = items;
    for (uint32_t i = 0; i < items.n; i++) NIB_TRY(above(p, *out, items.v[i]));
    return NIB_OK;
}

static nib_status list_or_dict(parser *p, bool is_dict, jnode **out) {
    char close = is_dict ? '}' : ']';
    NIB_TRY(node(p, is_dict ? N_DICT : N_LIST, p->cur.line, out));
    NIB_TRY(next(p));
    while (!is_op(&p->cur, OP1(close))) {
        jnode *n;
        for (int half = 0; half <= is_dict; half++) {
            if (half) NIB_TRY(expect_op(p, ':'));
            NIB_TRY(expression(p, &n));
            NIB_TRY(push(p, &(*out)->list, n));
            NIB_TRY(above(p, *out, n));
        }
        if (is_op(&p->cur, OP1(close))) break;
        NIB_TRY(expect_op(p, ','));
    }
    return next(p);
}

static nib_status primary(parser *p, jnode **out) {
    jtoken t = p->cur;
    if (t.kind == T_STRING) return string(p, out);
    if (is_op(&t, OP1('['))) return list_or_dict(p, false, out);
    if (is_op(&t, OP1('{'))) return list_or_dict(p, true, out);
    if (t.kind != T_NAME && t.kind != T_INT && t.kind != T_FLOAT && !is_op(&t, OP1('(')))
        return unexpected(p, "an expression");
    NIB_TRY(next(p));
    if (t.kind == T_OP) {
        NIB_TRY(tuple(p, OF_EXPRESSIONS, NULL, true, out));
        return expect_op(p, ')');
    }
    if (t.kind != T_NAME) return number(p, &t, out);
    jvalue v = jv_none(TRUSTED);
    bool is_true = is_word(&t, "true") || is_word(&t, "True");
    if (is_true || is_word(&t, "false") || is_word(&t, "False"))
        v = (jvalue){.type = J_BOOL, .taint = TRUSTED, .b = is_true};
    else if (!is_word(&t, "none") && !is_word(&t, "None"))
        return name_node(p, &t, out);
    return constant(p, t.line, v, out);
}

/* One item between [ and ]: an expression or a slice. */
static nib_status subscript_item(parser *p, jnode **out) {
    uint32_t line = p->cur.line;
    jnode *part[3] = {0};
    int n_parts = 0;
    if (!is_op(&p->cur, OP1(':'))) {
        NIB_TRY(expression(p, &part[0]));
        if (!is_op(&p->cur, OP1(':'))) {
            *out = part[0];
            return NIB_OK;
        }
    }
    while (++n_parts < 3 && is_op(&p->cur, OP1(':'))) {
        NIB_TRY(next(p));
        if (!is_op(&p->cur, OP1(':')) && !is_op(&p->cur, OP1(']')) && !is_op(&p->cur, OP1(',')))
            NIB_TRY(expression(p, &part[n_parts]));
    }
    NIB_TRY(node(p, N_SLICE, line, out));
    (*out)->slice.from = part[0], (*out)->slice.to = part[1], (*out)->slice.step = part[2];
    for (int i = 0; i < 3; i++) NIB_TRY(above(p, *out, part[i]));
    return NIB_OK;
}

static nib_status subscript(parser *p, jnode *obj, jnode **out) {
    uint32_t line = p->cur.line;
    bool dot = is_op(&p->cur, OP1('.'));
    NIB_TRY(next(p));
    if (dot && p->cur.kind == T_NAME) {
        NIB_TRY(node(p, N_ATTR, line, out));
        (*out)->attr.obj = obj;
        NIB_TRY(make_string(p, p->cur.text, &(*out)->attr.name));
        NIB_TRY(above(p, *out, obj));
        return next(p);
    }
    jnode *index;
    if (dot) {
        jtoken t = p->cur;
        if (t.kind != T_INT) return unexpected(p, "a name or number after '.'");
        NIB_TRY(next(p));
        NIB_TRY(number(p, &t, &index));
    } else {
        jblock items = {0};
        while (!is_op(&p->cur, OP1(']'))) {
            NIB_TRY(subscript_item(p, &index));
            NIB_TRY(push(p, &items, index));
            if (!is_op(&p->cur, OP1(']'))) NIB_TRY(expect_op(p, ','));
        }
        NIB_TRY(next(p));
        if (items.n != 1) {
            NIB_TRY(node(p, N_TUPLE, line, &index));
            index->list = items;
            for (uint32_t i = 0; i < items.n; i++) NIB_TRY(above(p, index, items.v[i]));
        }
    }
    NIB_TRY(node(p, N_ITEM, line, out));
    (*out)->item.obj = obj;
    (*out)->item.index = index;
    NIB_TRY(above(p, *out, obj));
    return above(p, *out, index);
}

/* "(" arguments ")" for 'call', whose height follows. */
static nib_status call_args(parser *p, jnode *call, const jcallargs **out) {
    jcallargs *a;
    NIB_TRY(alloc(p, 1, sizeof *a, &a));
    uint32_t line = p->cur.line;
    NIB_TRY(expect_op(p, '('));
    while (!is_op(&p->cur, OP1(')'))) {
        bool star = is_op(&p->cur, OP1('*')), star_star = is_op(&p->cur, JINJA_OP('*', '*'));
        jtoken t = p->cur;
        jnode *v;
        if (star || star_star) {
            if (a->star_star || (star && a->star)) return fail_at(p, line, "misplaced * in a call");
            NIB_TRY(next(p));
            NIB_TRY(expression(p, &v));
            *(star ? &a->star : &a->star_star) = v;
        } else if (t.kind == T_NAME && is_op(&p->ahead, OP1('='))) {
            if (a->star_star) return fail_at(p, line, "expected no argument after ** in a call");
            NIB_TRY(next(p));
            NIB_TRY(next(p));
            NIB_TRY(expression(p, &v));
            if (!(a->kw.n & (a->kw.n - 1))) { /* the names grow as the values do */
                const jstring **names;
                NIB_TRY(alloc(p, a->kw.n ? (size_t)a->kw.n * 2 : 1, sizeof *names, &names));
                if (a->kw.n) memcpy(names, a->kw_names, a->kw.n * sizeof *names);
                a->kw_names = names;
            }
            NIB_TRY(make_string(p, t.text, &a->kw_names[a->kw.n]));
            for (uint32_t i = 0; i < a->kw.n && a->kw.n < 64; i++)
                if (nib_str_eq((nib_str){a->kw_names[i]->p, a->kw_names[i]->n}, t.text))
                    return fail_at(p, t.line, "argument '%.*s' given twice",
                                   (int)NIB_MIN(t.text.n, 60), t.text.p);
            NIB_TRY(push(p, &a->kw, v));
        } else {
            if (a->star || a->star_star || a->kw.n)
                return fail_at(p, line, "expected arguments by position before those by name");
            NIB_TRY(expression(p, &v));
            NIB_TRY(push(p, &a->pos, v));
        }
        NIB_TRY(above(p, call, v));
        if (!is_op(&p->cur, OP1(')'))) NIB_TRY(expect_op(p, ','));
    }
    *out = a;
    return next(p);
}

static nib_status postfix(parser *p, jnode *n, jnode **out) {
    for (;;) {
        if (is_op(&p->cur, OP1('.')) || is_op(&p->cur, OP1('['))) {
            NIB_TRY(subscript(p, n, &n));
        } else if (is_op(&p->cur, OP1('('))) {
            jnode *call;
            NIB_TRY(node(p, N_CALL, p->cur.line, &call));
            call->call.callee = n;
            NIB_TRY(above(p, call, n));
            NIB_TRY(call_args(p, call, &call->call.args));
            n = call;
        } else {
            *out = n;
            return NIB_OK;
        }
    }
}

/* A filter's or test's name, with dots allowed inside. */
static nib_status row_name(parser *p, nib_str *out) {
    if (p->cur.kind != T_NAME) return unexpected(p, "a name");
    nib_str s = p->cur.text;
    NIB_TRY(next(p));
    while (is_op(&p->cur, OP1('.')) && p->ahead.kind == T_NAME) {
        NIB_TRY(next(p));
        s.n = (size_t)(p->cur.text.p + p->cur.text.n - s.p);
        NIB_TRY(next(p));
    }
    *out = s;
    return NIB_OK;
}

static const jcallargs no_args;

/* name(args) applied to n; the "|" is behind us. */
static nib_status filter(parser *p, jnode *n, jnode **out) {
    jnode *f;
    NIB_TRY(node(p, N_FILTER, p->cur.line, &f));
    nib_str name;
    NIB_TRY(row_name(p, &name));
    NIB_TRY(make_string(p, name, &f->call.name));
    f->call.row = jinja_find_filter(name);
    f->call.callee = n;
    f->call.args = &no_args;
    NIB_TRY(above(p, f, n));
    if (is_op(&p->cur, OP1('('))) NIB_TRY(call_args(p, f, &f->call.args));
    *out = f;
    return NIB_OK;
}

static bool starts_test_argument(const parser *p) {
    const jtoken *t = &p->cur;
    if (t->kind == T_NAME) return !is_word(t, "else") && !is_word(t, "or") && !is_word(t, "and");
    return t->kind == T_STRING || t->kind == T_INT || t->kind == T_FLOAT || is_op(t, OP1('[')) ||
           is_op(t, OP1('{'));
}

static nib_status test(parser *p, jnode *n, jnode **out) {
    jnode *t;
    NIB_TRY(next(p)); /* is */
    NIB_TRY(node(p, N_TEST, p->cur.line, &t));
    bool negated = is_word(&p->cur, "not");
    if (negated) NIB_TRY(next(p));
    nib_str name;
    NIB_TRY(row_name(p, &name));
    NIB_TRY(make_string(p, name, &t->call.name));
    t->call.row = jinja_find_test(name);
    t->call.callee = n;
    t->call.args = &no_args;
    NIB_TRY(above(p, t, n));
    if (is_op(&p->cur, OP1('('))) {
        NIB_TRY(call_args(p, t, &t->call.args));
    } else if (starts_test_argument(p)) {
        if (is_word(&p->cur, "is")) return fail_at(p, t->line, "tests cannot be chained with 'is'");
        jcallargs *a;
        jnode *arg;
        NIB_TRY(alloc(p, 1, sizeof *a, &a));
        NIB_TRY(primary(p, &arg));
        NIB_TRY(postfix(p, arg, &arg));
        NIB_TRY(push(p, &a->pos, arg));
        NIB_TRY(above(p, t, arg));
        t->call.args = a;
    }
    if (negated) {
        NIB_TRY(node(p, N_NOT, t->line, out));
        (*out)->two.l = t;
        return above(p, *out, t);
    }
    *out = t;
    return NIB_OK;
}

static nib_status unary(parser *p, bool with_filters, jnode **out) {
    jnode *n;
    bool minus = is_op(&p->cur, OP1('-'));
    if (minus || is_op(&p->cur, OP1('+'))) {
        NIB_TRY(enter(p));
        NIB_TRY(node(p, minus ? N_NEG : N_POS, p->cur.line, &n));
        NIB_TRY(next(p));
        NIB_TRY(unary(p, false, &n->two.l));
        NIB_TRY(above(p, n, n->two.l));
        p->depth--;
    } else {
        NIB_TRY(primary(p, &n));
    }
    NIB_TRY(postfix(p, n, &n));
    while (with_filters) {
        if (is_op(&p->cur, OP1('|'))) {
            NIB_TRY(next(p));
            NIB_TRY(filter(p, n, &n));
        } else if (is_word(&p->cur, "is")) {
            NIB_TRY(test(p, n, &n));
        } else if (is_op(&p->cur, OP1('('))) {
            NIB_TRY(postfix(p, n, &n));
        } else {
            break;
        }
    }
    *out = n;
    return NIB_OK;
}

static nib_status two(parser *p, jkind kind, jop op, jnode *l, jnode *r, jnode **out) {
    NIB_TRY(node(p, kind, l->line, out));
    (*out)->op = (uint8_t)op;
    (*out)->two.l = l;
    (*out)->two.r = r;
    NIB_TRY(above(p, *out, l));
    return above(p, *out, r);
}

static nib_status power(parser *p, jnode **out) {
    jnode *l, *r;
    NIB_TRY(unary(p, true, &l));
    while (is_op(&p->cur, JINJA_OP('*', '*'))) {
        NIB_TRY(next(p));
        NIB_TRY(unary(p, true, &r));
        NIB_TRY(two(p, N_BINARY, OP_POW, l, r, &l));
    }
    *out = l;
    return NIB_OK;
}

static nib_status product(parser *p, jnode **out) {
    jnode *l, *r;
    NIB_TRY(power(p, &l));
    for (;;) {
        jop op;
        if (is_op(&p->cur, OP1('*')))
            op = OP_MUL;
        else if (is_op(&p->cur, OP1('/')))
            op = OP_DIV;
        else if (is_op(&p->cur, JINJA_OP('/', '/')))
            op = OP_FLOORDIV;
        else if (is_op(&p->cur, OP1('%')))
            op = OP_MOD;
        else
            break;
        NIB_TRY(next(p));
        NIB_TRY(power(p, &r));
        NIB_TRY(two(p, N_BINARY, op, l, r, &l));
    }
    *out = l;
    return NIB_OK;
}

static nib_status concat(parser *p, jnode **out) {
    jnode *n, *all = NULL;
    NIB_TRY(product(p, &n));
    while (is_op(&p->cur, OP1('~'))) {
        if (!all) {
            NIB_TRY(node(p, N_CONCAT, n->line, &all));
            NIB_TRY(push(p, &all->list, n));
            NIB_TRY(above(p, all, n));
        }
        NIB_TRY(next(p));
        NIB_TRY(product(p, &n));
        NIB_TRY(push(p, &all->list, n));
        NIB_TRY(above(p, all, n));
    }
    *out = all ? all : n;
    return NIB_OK;
}

static nib_status sum(parser *p, jnode **out) {
    jnode *l, *r;
    NIB_TRY(concat(p, &l));
    while (is_op(&p->cur, OP1('+')) || is_op(&p->cur, OP1('-'))) {
        jop op = is_op(&p->cur, OP1('+')) ? OP_ADD : OP_SUB;
        NIB_TRY(next(p));
        NIB_TRY(concat(p, &r));
        NIB_TRY(two(p, N_BINARY, op, l, r, &l));
    }
    *out = l;
    return NIB_OK;
}

/* The comparison operator at hand: its tokens are counted, not taken. */
static int comparison_op(const parser *p, uint8_t *op) {
    static const struct {
        uint16_t token;
        uint8_t op;
    } ops[] = {
        {JINJA_OP('=', '='), OP_EQ}, {JINJA_OP('!', '='), OP_NE}, {OP1('<'), OP_LT},
        {JINJA_OP('<', '='), OP_LE}, {OP1('>'), OP_GT},           {JINJA_OP('>', '='), OP_GE},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(ops); i++)
        if (is_op(&p->cur, ops[i].token)) return *op = ops[i].op, 1;
    if (is_word(&p->cur, "in")) return *op = OP_IN, 1;
    if (is_word(&p->cur, "not") && is_word(&p->ahead, "in")) return *op = OP_NOTIN, 2;
    return 0;
}

static nib_status comparison(parser *p, jnode **out) {
    jnode *n, *chain = NULL;
    NIB_TRY(sum(p, &n));
    uint8_t op, *ops = NULL;
    for (int n_tokens; (n_tokens = comparison_op(p, &op));) {
        if (!chain) {
            NIB_TRY(node(p, N_COMPARE, n->line, &chain));
            NIB_TRY(push(p, &chain->compare.v, n));
            NIB_TRY(above(p, chain, n));
        }
        uint32_t at = chain->compare.v.n - 1;
        if (!(at & (at - 1))) {
            uint8_t *grown;
            NIB_TRY(alloc(p, at ? (size_t)at * 2 : 1, 1, &grown));
            /* NOLINTNEXTLINE(clang-analyzer-core*): alloc has set it */
            if (at) memcpy(grown, ops, at);
            chain->compare.ops = ops = grown;
        }
        /* NOLINTNEXTLINE(clang-analyzer-core*): alloc has set it */
        ops[at] = op;
        while (n_tokens--) NIB_TRY(next(p));
        NIB_TRY(sum(p, &n));
        NIB_TRY(push(p, &chain->compare.v, n));
        NIB_TRY(above(p, chain, n));
    }
    *out = chain ? chain : n;
    return NIB_OK;
}

static nib_status not_expr(parser *p, jnode **out) {
    if (!is_word(&p->cur, "not")) return comparison(p, out);
    NIB_TRY(enter(p));
    NIB_TRY(node(p, N_NOT, p->cur.line, out));
    NIB_TRY(next(p));
    jnode *inner;
    NIB_TRY(not_expr(p, &inner));
    (*out)->two.l = inner;
    p->depth--;
    return above(p, *out, inner);
}

static nib_status and_expr(parser *p, jnode **out) {
    jnode *l, *r;
    NIB_TRY(not_expr(p, &l));
    while (is_word(&p->cur, "and")) {
        NIB_TRY(next(p));
        NIB_TRY(not_expr(p, &r));
        NIB_TRY(two(p, N_AND, 0, l, r, &l));
    }
    *out = l;
    return NIB_OK;
}

static nib_status or_expr(parser *p, jnode **out) {
    jnode *l, *r;
    NIB_TRY(and_expr(p, &l));
    while (is_word(&p->cur, "or")) {
        NIB_TRY(next(p));
        NIB_TRY(and_expr(p, &r));
        NIB_TRY(two(p, N_OR, 0, l, r, &l));
    }
    *out = l;
    return NIB_OK;
}

static nib_status expression(parser *p, jnode **out) {
    NIB_TRY(enter(p));
    jnode *n;
    NIB_TRY(or_expr(p, &n));
    while (is_word(&p->cur, "if")) {
        jnode *cond;
        NIB_TRY(node(p, N_COND, n->line, &cond));
        NIB_TRY(next(p));
        cond->cond.yes = n;
        NIB_TRY(or_expr(p, &cond->cond.test));
        if (is_word(&p->cur, "else")) {
            NIB_TRY(next(p));
            NIB_TRY(expression(p, &cond->cond.no));
        }
        NIB_TRY(above(p, cond, n));
        NIB_TRY(above(p, cond, cond->cond.test));
        NIB_TRY(above(p, cond, cond->cond.no));
        n = cond;
    }
    p->depth--;
    *out = n;
    return NIB_OK;
}

/* ---- targets of assignment ---- */

static nib_status target_item(parser *p, bool with_namespace, jnode **out) {
    jtoken t = p->cur;
    if (is_op(&t, OP1('('))) {
        NIB_TRY(enter(p));
        NIB_TRY(next(p));
        NIB_TRY(tuple(p, OF_TARGETS, NULL, true, out));
        p->depth--;
        return expect_op(p, ')');
    }
    static const char *const reserved[] = {"true", "True", "false", "False", "none", "None"};
    bool assignable = t.kind == T_NAME;
    for (size_t i = 0; i < NIB_ARRAY_LEN(reserved); i++) assignable &= !is_word(&t, reserved[i]);
    if (!assignable) return unexpected(p, "a name to assign to");
    NIB_TRY(next(p));
    if (!with_namespace || !is_op(&p->cur, OP1('.'))) {
        NIB_TRY(node(p, N_NAME, t.line, out));
        return intern(p, t.text, &(*out)->name);
    }
    NIB_TRY(next(p));
    if (p->cur.kind != T_NAME) return unexpected(p, "a namespace's attribute");
    NIB_TRY(node(p, N_NSREF, t.line, out));
    NIB_TRY(intern(p, t.text, &(*out)->nsref.name));
    NIB_TRY(make_string(p, p->cur.text, &(*out)->nsref.attr));
    return next(p);
}

/* ---- statements ---- */

/* Parses to {% word %} with word one of ends (NULL-terminated), which is taken; *which is its
 * index. */
static nib_status body(parser *p, const char *const *ends, jblock *out, int *which);

static nib_status block_end(parser *p) {
    return p->cur.kind == T_BLOCK_END ? next(p) : unexpected(p, "%}");
}

static nib_status body_to(parser *p, const char *end, jblock *out) {
    int which;
    NIB_TRY(block_end(p));
    return body(p, (const char *const[]){end, NULL}, out, &which);
}

static nib_status for_stmt(parser *p, uint32_t line, jnode **out) {
    jnode *n;
    NIB_TRY(node(p, N_FOR, line, &n));
    NIB_TRY(tuple(p, OF_TARGETS, "in", false, &n->loop.target));
    NIB_TRY(expect_word(p, "in"));
    /* "for x in a if c": the condition belongs to the loop, so no inline if in the iterable */
    NIB_TRY(tuple(p, OF_UNCONDITIONAL, "recursive", false, &n->loop.iter));
    if (is_word(&p->cur, "if")) {
        NIB_TRY(next(p));
        NIB_TRY(expression(p, &n->loop.test));
    }
    if (is_word(&p->cur, "recursive")) {
        n->loop.recursive = true;
        NIB_TRY(next(p));
    }
    NIB_TRY(block_end(p));
    int which, outer = p->n_loops;
    p->n_loops++;
    NIB_TRY(body(p, (const char *const[]){"endfor", "else", NULL}, &n->loop.body, &which));
    p->n_loops = outer;
    if (which) NIB_TRY(body_to(p, "endfor", &n->loop.otherwise));
    *out = n;
    return NIB_OK;
}

static nib_status if_stmt(parser *p, uint32_t line, jnode **out) {
    jnode *n;
    NIB_TRY(node(p, N_IF, line, &n));
    int which = 1;
    while (which == 1) {
        jnode *cond;
        NIB_TRY(tuple(p, OF_UNCONDITIONAL, NULL, false, &cond));
        NIB_TRY(block_end(p));
        uint32_t at = n->branch.tests.n;
        if (!(at & (at - 1))) {
            jblock *bodies;
            NIB_TRY(alloc(p, at ? (size_t)at * 2 : 1, sizeof *bodies, &bodies));
            if (at) memcpy(bodies, n->branch.bodies, at * sizeof *bodies);
            n->branch.bodies = bodies;
        }
        NIB_TRY(push(p, &n->branch.tests, cond));
        NIB_TRY(body(p, (const char *const[]){"endif", "elif", "else", NULL}, &n->branch.bodies[at],
                     &which));
    }
    if (which == 2) NIB_TRY(body_to(p, "endif", &n->branch.otherwise));
    *out = n;
    return NIB_OK;
}

/* A chain of filters from the name at hand, applied to nothing yet (the innermost callee is NULL).
 */
static nib_status filter_chain(parser *p, jnode **out) {
    jnode *n = NULL;
    NIB_TRY(filter(p, n, &n));
    while (is_op(&p->cur, OP1('|'))) {
        NIB_TRY(next(p));
        NIB_TRY(filter(p, n, &n));
    }
    *out = n;
    return NIB_OK;
}

static nib_status set_stmt(parser *p, uint32_t line, jnode **out) {
    jnode *n;
    NIB_TRY(node(p, N_SET, line, &n));
    NIB_TRY(tuple(p, OF_NS_TARGETS, NULL, false, &n->set.target));
    *out = n;
    if (is_op(&p->cur, OP1('='))) {
        NIB_TRY(next(p));
        return tuple(p, OF_EXPRESSIONS, NULL, false, &n->set.value);
    }
    n->kind = N_SET_BLOCK;
    if (is_op(&p->cur, OP1('|'))) {
        NIB_TRY(next(p));
        NIB_TRY(filter_chain(p, &n->set.value));
    }
    return body_to(p, "endset", &n->set.body);
}

/* "(a, b=1)" of a macro or call block; may be absent for a call block. */
static nib_status signature(parser *p, jnode *m) {
    jblock params = {0};
    NIB_TRY(expect_op(p, '('));
    while (!is_op(&p->cur, OP1(')'))) {
        jnode *param, *value;
        NIB_TRY(target_item(p, false, &param));
        if (param->kind != N_NAME) return fail_at(p, param->line, "expected a parameter's name");
        NIB_TRY(push(p, &params, param));
        if (is_op(&p->cur, OP1('='))) {
            NIB_TRY(next(p));
            NIB_TRY(expression(p, &value));
            NIB_TRY(push(p, &m->macro.defaults, value));
        } else if (m->macro.defaults.n) {
            return fail_at(p, param->line,
                           "expected parameters with a default after those without");
        }
        if (!is_op(&p->cur, OP1(')'))) NIB_TRY(expect_op(p, ','));
    }
    uint32_t *ids;
    const jstring **names;
    NIB_TRY(alloc(p, params.n, sizeof *ids, &ids));
    NIB_TRY(alloc(p, params.n, sizeof *names, &names));
    for (uint32_t i = 0; i < params.n; i++) {
        ids[i] = params.v[i]->name;
        names[i] = p->t->names[ids[i]].s;
    }
    m->macro.params = ids;
    m->macro.param_names = names;
    m->macro.n_params = params.n;
    return next(p);
}

/* The body of m, up to 'end'. */
static nib_status macro_body(parser *p, jnode *m, const char *end) {
    jnode *outer = p->macro;
    int loops = p->n_loops;
    p->macro = m;
    p->n_loops = 0;
    NIB_TRY(body_to(p, end, &m->macro.body));
    p->macro = outer;
    p->n_loops = loops;
    return NIB_OK;
}

static nib_status macro_stmt(parser *p, uint32_t line, jnode **out) {
    NIB_TRY(node(p, N_MACRO, line, out));
    jnode *name;
    NIB_TRY(target_item(p, false, &name));
    if (name->kind != N_NAME) return fail_at(p, line, "expected a macro's name");
    (*out)->macro.name_id = name->name;
    (*out)->macro.name = p->t->names[name->name].s;
    NIB_TRY(signature(p, *out));
    return macro_body(p, *out, "endmacro");
}

static nib_status call_stmt(parser *p, uint32_t line, jnode **out) {
    jnode *n, *m;
    NIB_TRY(node(p, N_CALL_BLOCK, line, &n));
    NIB_TRY(node(p, N_MACRO, line, &m));
    n->callblock.macro = m;
    m->macro.name_id = NAME_CALLER;
    m->macro.name = p->t->names[NAME_CALLER].s;
    if (is_op(&p->cur, OP1('('))) NIB_TRY(signature(p, m));
    NIB_TRY(expression(p, &n->callblock.call));
    if (n->callblock.call->kind != N_CALL)
        return fail_at(p, line, "expected a call in a call block");
    *out = n;
    return macro_body(p, m, "endcall");
}

static nib_status with_stmt(parser *p, uint32_t line, jnode **out) {
    jnode *n, *v;
    NIB_TRY(node(p, N_WITH, line, &n));
    while (p->cur.kind != T_BLOCK_END) {
        if (n->with.values.n) NIB_TRY(expect_op(p, ','));
        NIB_TRY(target_item(p, false, &v));
        NIB_TRY(push(p, &n->with.targets, v));
        NIB_TRY(expect_op(p, '='));
        NIB_TRY(expression(p, &v));
        NIB_TRY(push(p, &n->with.values, v));
    }
    *out = n;
    return body_to(p, "endwith", &n->with.body);
}

static nib_status filter_stmt(parser *p, uint32_t line, jnode **out) {
    NIB_TRY(node(p, N_FILTER_BLOCK, line, out));
    NIB_TRY(filter_chain(p, &(*out)->filterblock.filters));
    return body_to(p, "endfilter", &(*out)->filterblock.body);
}

static nib_status do_stmt(parser *p, uint32_t line, jnode **out) {
    NIB_TRY(node(p, N_DO, line, out));
    return tuple(p, OF_EXPRESSIONS, NULL, false, &(*out)->two.l);
}

/* The text an assistant is trained on; for rendering, only a scope. */
static nib_status generation_stmt(parser *p, uint32_t line, jnode **out) {
    NIB_TRY(node(p, N_SCOPE, line, out));
    return body_to(p, "endgeneration", &(*out)->list);
}

static nib_status break_stmt(parser *p, uint32_t line, jnode **out) {
    if (!p->n_loops) return fail_at(p, line, "'break' outside a loop");
    return node(p, N_BREAK, line, out);
}
static nib_status continue_stmt(parser *p, uint32_t line, jnode **out) {
    if (!p->n_loops) return fail_at(p, line, "'continue' outside a loop");
    return node(p, N_CONTINUE, line, out);
}

static const struct {
    const char *word;
    nib_status (*parse)(parser *p, uint32_t line, jnode **out);
} statements[] = {
    {"for", for_stmt},
    {"if", if_stmt},
    {"set", set_stmt},
    {"macro", macro_stmt},
    {"call", call_stmt},
    {"with", with_stmt},
    {"do", do_stmt},
    {"filter", filter_stmt},
    {"generation", generation_stmt},
    {"break", break_stmt},
    {"continue", continue_stmt},
};

static nib_status statement(parser *p, jnode **out) {
    char buf[80];
    for (size_t i = 0; i < NIB_ARRAY_LEN(statements); i++) {
        if (!is_word(&p->cur, statements[i].word)) continue;
        uint32_t line = p->cur.line, outer = p->open_line;
        NIB_TRY(enter(p));
        NIB_TRY(next(p));
        p->open_line = line;
        NIB_TRY(statements[i].parse(p, line, out));
        p->open_line = outer;
        p->depth--;
        return block_end(p);
    }
    static const char *const absent[] = {"include", "import", "from", "extends", "block"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(absent); i++)
        if (is_word(&p->cur, absent[i]))
            return fail_at(p, p->cur.line,
                           "'%s' needs other templates, which a chat template has not", absent[i]);
    return fail_at(p, p->cur.line, "expected a statement (for, if, set, macro, ...), found %s",
                   describe(&p->cur, buf));
}

static nib_status body(parser *p, const char *const *ends, jblock *out, int *which) {
    jblock b = {0};
    for (;;) {
        jnode *n = NULL;
        switch (p->cur.kind) {
        case T_EOF:
            if (!ends) {
                *out = b;
                return NIB_OK;
            }
            return fail_at(p, p->open_line, "expected {%% %s %%} to close a block, found the end",
                           ends[0]);
        case T_DATA:
            if (p->cur.text.n) {
                NIB_TRY(node(p, N_TEXT, p->cur.line, &n));
                n->value.type = J_STRING;
                NIB_TRY(make_string(p, p->cur.text, &n->value.s));
            }
            NIB_TRY(next(p));
            break;
        case T_VAR_BEGIN:
            NIB_TRY(node(p, N_PRINT, p->cur.line, &n));
            NIB_TRY(next(p));
            NIB_TRY(tuple(p, OF_EXPRESSIONS, NULL, false, &n->two.l));
            if (p->cur.kind != T_VAR_END) return unexpected(p, "}}");
            NIB_TRY(next(p));
            break;
        case T_BLOCK_BEGIN:
            NIB_TRY(next(p));
            for (int i = 0; ends && ends[i]; i++) {
                if (!is_word(&p->cur, ends[i])) continue;
                *which = i;
                *out = b;
                return next(p);
            }
            NIB_TRY(statement(p, &n));
            break;
        default: return unexpected(p, "text or a tag");
        }
        if (n) NIB_TRY(push(p, &b, n));
    }
}

nib_status jinja_parse(nib_template *t, const char *src, size_t n, nib_error *e) {
    parser p = {.t = t, .a = &t->arena, .e = e};
    nib_status s;
    NIB_TRY_OUT(jinja_lex_init(&p.x, p.a, src, n, e));
    static const char *const fixed[] = {[NAME_LOOP] = "loop",
                                        [NAME_CALLER] = "caller",
                                        [NAME_VARARGS] = "varargs",
                                        [NAME_KWARGS] = "kwargs"};
    for (size_t i = 0; i < N_FIXED_NAMES; i++) {
        uint32_t id;
        NIB_TRY_OUT(intern(&p, nib_str_c(fixed[i]), &id));
    }
    NIB_TRY_OUT(jinja_lex(&p.x, &p.ahead));
    NIB_TRY_OUT(next(&p));
    NIB_TRY_OUT(body(&p, NULL, &t->body, NULL));
out:
    nib_strmap_free(&p.ids);
    return s;
}
