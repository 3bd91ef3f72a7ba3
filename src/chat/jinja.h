/* jinja.h - what the files jinja_*.c share: values, the syntax tree, one render.
 *
 * A template is parsed once to a tree in its own arena and never changes afterwards. A render owns
 * one arena; every value made on the way lives there until the end, so nothing is freed and nothing
 * is counted.
 *
 * Values are immutable, as in Jinja's ImmutableSandboxedEnvironment, except namespaces, loops,
 * cyclers and joiners. That makes sharing safe, and lets "a + b" write b behind a when a is the end
 * of its buffer: building a string or a list by repeated "+" is linear.
 *
 * Provenance: each byte of a string is TRUSTED (text of the template, or of a variable the caller
 * named) or DATA (everything else). A string is all one or the other, or has a map with one byte
 * per byte. Numbers, booleans, none and containers carry the same bit, for the characters that
 * printing them makes.
 *
 * Hostile input: a template is a program by a stranger. Steps, nesting, memory and output are
 * counted, and each operation that looks at n bytes or items charges for them before it does. */
#ifndef NIB_CHAT_JINJA_H
#define NIB_CHAT_JINJA_H
#include "chat/chat.h"

enum {
    JINJA_MAX_SOURCE = 1 << 20,  /* bytes of a template; the largest in use has 20 KB */
    JINJA_MAX_TREE = 96 << 20,   /* bytes of its tree */
    JINJA_MAX_NESTING = 100,     /* blocks and brackets in each other */
    JINJA_MAX_HEIGHT = 500,      /* of an expression's tree: "a + b + c + ..." leans to the left */
    JINJA_MAX_DEPTH = 1000,      /* evaluations in each other: macros that call themselves */
    JINJA_MAX_VALUE_DEPTH = 200, /* lists in lists, when printed, compared or hashed */
    JINJA_MAX_RANGE = 100000,    /* as Jinja's sandbox */
    JINJA_MAX_MEMORY = 256 << 20,
    JINJA_MAX_PARAMS = 6,
};
#define JINJA_MAX_STEPS  20000000u
#define JINJA_MAX_OUTPUT ((size_t)16 << 20)

/* ---- values ---- */

enum { TRUSTED = 1, DATA = 2, MIXED = TRUSTED | DATA };

typedef enum jtype {
    J_ABSENT, /* an argument that was not given; never seen by templates */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_BIG, /* an integer literal beyond 64 bits: can be printed and compared for identity, not
              computed with */
    J_FLOAT,
    J_STRING,
    J_LIST, /* and everything that is a row of values: see jlist */
    J_DICT,
    J_RANGE,
    J_SLICE,
    J_NAMESPACE,
    J_MACRO,
    J_FUNCTION,
    J_METHOD,
    J_LOOP,
    J_CYCLER,
    J_JOINER,
} jtype;

typedef struct jvalue {
    uint8_t type;
    uint8_t taint; /* of what printing it makes: TRUSTED or DATA. Strings, lists and dicts keep
                      their own */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstring *s; /* J_STRING, J_BIG (its digits) */
        struct jlist *l;
        struct jdict *d; /* J_DICT, J_NAMESPACE */
        const struct jundef *u;
        const struct jrange *range;
        const struct jslice *slice;
        const struct jmacro *macro;
        const struct jrow *fn;
        const struct jmethod *method;
        struct jloop *loop;
        struct jcycler *cycler;
        struct jjoiner *joiner;
    };
} jvalue;

/* Always valid UTF-8. */
typedef struct jstring {
    const char *p;
    const uint8_t *map;  /* one of TRUSTED, DATA per byte; NULL unless taint is MIXED */
    struct jstrbuf *buf; /* the buffer p lies in when it may grow, or NULL */
    uint32_t n;
    int32_t n_chars; /* code points; -1 when not yet counted */
    uint8_t taint;   /* 0 when empty */
} jstring;
typedef struct jstrbuf {
    char *p;
    uint8_t *map; /* or NULL */
    size_t len, cap;
} jstrbuf;

enum { /* kinds of J_LIST */
       K_LIST,
       K_TUPLE,
       K_GROUP,     /* a tuple with the names 'grouper' and 'list' */
       K_GENERATOR, /* what lazy filters give: can be gone through once */
       K_ITERATOR,  /* what reverse gives: the same under another name */
       K_KEYS,
       K_VALUES,
       K_ITEMS,
};
typedef struct jlist {
    jvalue *v;
    struct jlistbuf *buf;
    uint32_t n;
    uint8_t kind, taint;
    bool spent;                /* a generator that was gone through */
    const struct jcall *later; /* a generator's items are what this gives */
} jlist;
typedef struct jlistbuf {
    jvalue *v;
    size_t len, cap;
} jlistbuf;

typedef struct jentry {
    jvalue key, value;
    uint64_t hash;
} jentry;
typedef struct jdict {
    jentry *v;       /* in order of insertion */
    uint32_t *slots; /* hash index of entry+1, a power of two; NULL while small */
    uint32_t n, cap, n_slots;
    uint8_t taint;
} jdict;

typedef struct jundef {
    enum { U_NAME, U_ATTR, U_ITEM, U_HINT } kind;
    const char *owner; /* type name for ATTR and ITEM, the whole message for HINT */
    jvalue name;
} jundef;
typedef struct jrange {
    int64_t start, stop, step, n;
} jrange;
typedef struct jslice {
    jvalue start, stop, step;
} jslice; /* none where not given */
typedef struct jmacro {
    const struct jnode *def;
    struct jscope *scope; /* where it was defined */
} jmacro;
typedef struct jmethod {
    jvalue self;
    const struct jrow *row;
} jmethod;
typedef struct jcycler {
    const jvalue *v;
    size_t n, at;
} jcycler;
typedef struct jjoiner {
    jvalue sep;
    bool used;
} jjoiner;
typedef struct jloop {
    const jvalue *v;
    const struct jnode *node;
    struct jscope *scope; /* around the loop, for recursion */
    jvalue changed;       /* the arguments of the last changed(), or absent */
    uint32_t n, at, depth0;
} jloop;

/* ---- calls ---- */

typedef struct jkwarg {
    const jstring *name;
    jvalue value;
} jkwarg;
typedef struct jargs {
    const jvalue *v;
    const jkwarg *kw;
    size_t n, n_kw;
} jargs;
/* What a builtin sees: its arguments by position, as its row's 'params' names them. */
typedef struct jcall {
    const struct jrow *row;
    jvalue self;                  /* what the filter, test or method is applied to */
    jvalue arg[JINJA_MAX_PARAMS]; /* absent when not given */
    jargs rest;                   /* what "*" and "**" took */
} jcall;
typedef struct jrun jrun;
typedef nib_status (*jbuiltin)(jrun *j, const jcall *c, jvalue *out);
/* A filter, test, method or global. params: names in order, "name?" may be left out, "*" takes
 * further positional arguments, "**" further keyword arguments. */
typedef struct jrow {
    const char *name, *params;
    jbuiltin fn;
    uint8_t type; /* methods: of what */
    bool lazy;    /* gives a generator: fn, which gives a list, runs when that is gone through */
} jrow;

/* ---- the tree ---- */

/* clang-format off */
typedef enum jkind {
    /* expressions */
    N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_COND, N_OR, N_AND, N_NOT, N_COMPARE, N_BINARY,
    N_CONCAT, N_NEG, N_POS, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST,
    /* statements */
    N_TEXT, N_PRINT, N_FOR, N_IF, N_SET, N_SET_BLOCK, N_MACRO, N_CALL_BLOCK, N_FILTER_BLOCK,
    N_WITH, N_BREAK, N_CONTINUE, N_DO, N_SCOPE,
    N_NSREF, /* a target: namespace.attribute */
} jkind;
typedef enum jop {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW,
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOTIN,
} jop;

typedef struct jnode jnode;
typedef struct jblock {
    jnode **v;
    uint32_t n;
} jblock;
typedef struct jcallargs {
    jblock pos, kw; /* values by position and by name */
    const jstring **kw_names;
    jnode *star, *star_star; /* "*more" and "**more", or NULL */
} jcallargs;
struct jnode {
    uint8_t kind, op;
    uint16_t height; /* of the expression below it */
    uint32_t line;
    union {
        jvalue value;                                     /* CONST, TEXT */
        uint32_t name;                                    /* NAME: an index of nib_template.names */
        jblock list;                                      /* LIST, TUPLE, CONCAT, SCOPE; DICT: key, value, ... */
        struct { jnode *l, *r; } two;                     /* AND, OR, BINARY; NOT, NEG, POS, PRINT, DO: l */
        struct { jnode *test, *yes, *no; } cond;          /* no: may be NULL */
        struct { jblock v; const uint8_t *ops; } compare; /* ops[i] stands between v[i] and v[i+1] */
        struct { jnode *obj; const jstring *name; } attr;
        struct { jnode *obj, *index; } item;
        struct { jnode *from, *to, *step; } slice;        /* NULL where not given */
        struct {
            jnode *callee; /* FILTER, TEST: what it is applied to */
            const jcallargs *args;
            const jstring *name; /* FILTER, TEST */
            const jrow *row;     /* FILTER, TEST; NULL when there is none of that name */
        } call;
        struct { uint32_t name; const jstring *attr; } nsref;
        struct { jnode *target, *iter, *test; jblock body, otherwise; bool recursive; } loop;
        struct { jblock tests; jblock *bodies; jblock otherwise; } branch; /* IF with its elifs */
        struct { jnode *target, *value; jblock body; } set; /* SET_BLOCK: value is filters around NULL */
        struct {
            const jstring *name;
            uint32_t name_id, n_params;
            const uint32_t *params;
            const jstring **param_names;
            jblock defaults; /* of the last parameters */
            jblock body;
            bool uses_varargs, uses_kwargs, uses_caller;
        } macro;
        struct { jnode *macro, *call; } callblock; /* the body as a macro; the call it is handed to */
        struct { jnode *filters; jblock body; } filterblock;
        struct { jblock targets, values, body; } with;
    };
};
/* clang-format on */

enum { NAME_LOOP, NAME_CALLER, NAME_VARARGS, NAME_KWARGS, N_FIXED_NAMES };
typedef struct jname {
    const jstring *s;
    const jrow *global; /* the builtin of this name, or NULL */
} jname;
struct nib_template {
    nib_arena arena;
    jname *names; /* every variable the template mentions, by id */
    uint32_t n_names;
    jblock body;
};

/* ---- lexer (jinja_lex.c) ---- */

typedef enum jtoken_kind {
    T_EOF,
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OP,
} jtoken_kind;
typedef struct jtoken {
    uint8_t kind;
    uint16_t op; /* T_OP: its characters, JINJA_OP('*', '*') */
    uint32_t line;
    nib_str text;
} jtoken;
#define JINJA_OP(a, b) ((uint16_t)((unsigned char)(a) | (unsigned char)(b) << 8))
typedef struct jlexer {
    nib_arena *arena;
    nib_error *e;
    const char *src;
    size_t n, pos;
    uint32_t line;
    uint8_t mode; /* T_DATA, T_VAR_BEGIN or T_BLOCK_BEGIN */
    uint8_t n_open;
    char open[JINJA_MAX_NESTING + 1];
} jlexer;
/* Copies src with line ends made '\n' and the last one dropped. */
nib_status jinja_lex_init(jlexer *x, nib_arena *a, const char *src, size_t n, nib_error *e);
nib_status jinja_lex(jlexer *x, jtoken *t);
/* The value of a string token's text (with its quotes), escapes resolved. */
nib_status jinja_lex_string(jlexer *x, const jtoken *t, nib_str *out);

/* ---- one render ---- */

typedef struct jvar {
    uint32_t name;
    jvalue value;
} jvar;
typedef struct jscope {
    struct jscope *parent; /* NULL: the template's top, whose variables are in jrun.root */
    jvar *v;
    uint32_t n, cap;
    bool captured; /* a macro sees it: it lives on */
} jscope;

/* Text that grows, with provenance. Errors stay (st), so a chain of puts is checked once. */
typedef struct jout {
    jrun *j;
    jstrbuf b;
    size_t max;
    uint8_t taint;
    nib_status st;
} jout;

struct jrun {
    const nib_template *t;
    nib_arena arena;
    nib_error *e;
    uint64_t steps, max_steps;
    jvalue *root; /* by name; absent when unset */
    jscope top, *scope;
    jout *out;
    int64_t now;
    uint32_t line, depth, value_depth;
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
    const jstring *chars[2][128]; /* one-character strings, made when first needed */
};

/* Fails with "template line N: ...". */
nib_status jinja_fail(jrun *j, const char *fmt, ...) NIB_PRINTF(2, 3);
/* The same with NIB_ERR_LIMIT. */
nib_status jinja_limit(jrun *j, const char *fmt, ...) NIB_PRINTF(2, 3);
#define jinja_fail(...)  nib_failed(jinja_fail(__VA_ARGS__))
#define jinja_limit(...) nib_failed(jinja_limit(__VA_ARGS__))
/* Charges n steps; one is about 50 ns. Searching or copying n bytes costs JINJA_BYTES(n), going
 * through them character by character JINJA_CHARS(n). */
nib_status jinja_charge(jrun *j, uint64_t n);
#define JINJA_BYTES(n) ((uint64_t)(n) / 32 + 1)
#define JINJA_CHARS(n) ((uint64_t)(n) / 4 + 1)
/* From the render's arena; *out is a pointer. */
nib_status jinja_alloc(jrun *j, size_t n, size_t size, void *out);
#define JINJA_NEW(j, ptr) jinja_alloc(j, 1, sizeof *(ptr), &(ptr))
/* Counts nesting of evaluation; pair with j->depth--. */
nib_status jinja_enter(jrun *j);
nib_status jinja_enter_value(jrun *j); /* the same for nested values: j->value_depth-- */

/* ---- values (jinja_value.c) ---- */

static inline jvalue jv_none(uint8_t taint) {
    return (jvalue){.type = J_NONE, .taint = taint};
}
static inline jvalue jv_bool(bool b) {
    return (jvalue){.type = J_BOOL, .taint = DATA, .b = b};
}
static inline jvalue jv_int(int64_t i, uint8_t taint) {
    return (jvalue){.type = J_INT, .taint = taint, .i = i};
}
static inline jvalue jv_float(double f, uint8_t taint) {
    return (jvalue){.type = J_FLOAT, .taint = taint, .f = f};
}
static inline jvalue jv_string(const jstring *s) {
    return (jvalue){.type = J_STRING, .s = s};
}
static inline bool jv_given(jvalue v) {
    return v.type != J_ABSENT;
}

/* A string over bytes that outlive the render; not copied. map only with MIXED. */
nib_status jinja_string(jrun *j, const char *p, size_t n, uint8_t taint, jvalue *out);
/* Bytes [from, to) of s, sharing its bytes and provenance. */
nib_status jinja_substring(jrun *j, const jstring *s, size_t from, size_t to, jvalue *out);
nib_status jinja_concat(jrun *j, const jstring *a, const jstring *b, jvalue *out);
size_t jinja_n_chars(const jstring *s);
/* The byte at which character i starts; i may be n_chars. */
size_t jinja_char_offset(const jstring *s, size_t i);
uint8_t jinja_taint_at(const jstring *s, size_t byte);
/* A literal of ours. */
nib_status jinja_cstring(jrun *j, const char *s, uint8_t taint, jvalue *out);

nib_status jinja_list(jrun *j, size_t n, uint8_t kind, uint8_t taint,
                      jvalue *out); /* room for n items, n set */
nib_status jinja_list_concat(jrun *j, const jlist *a, const jlist *b, jvalue *out);
/* A list that grows while it is made: push, then take .l; starts as jinja_list(j, 0, ...). */
nib_status jinja_push(jrun *j, jlist *l, jvalue v);
nib_status jinja_dict(jrun *j, uint8_t taint, jvalue *out);
nib_status jinja_dict_view(jrun *j, const jdict *d, uint8_t kind,
                           jvalue *out); /* K_KEYS, K_VALUES, K_ITEMS */
nib_status jinja_dict_set(jrun *j, jdict *d, jvalue key, jvalue value);
/* *out stays NULL when the key is not there; fails when it cannot be a key. */
nib_status jinja_dict_get(jrun *j, const jdict *d, jvalue key, const jvalue **out);
nib_status jinja_dict_get_str(jrun *j, const jdict *d, nib_str key, const jvalue **out);
nib_status jinja_undefined(jrun *j, int kind, const char *owner, jvalue name, jvalue *out);
nib_status jinja_fail_undefined(jrun *j, jvalue v);
#define jinja_fail_undefined(...) nib_failed(jinja_fail_undefined(__VA_ARGS__))

bool jinja_truth(jvalue v);
bool jinja_is_number(jvalue v); /* bool, int, float */
double jinja_to_double(jvalue v);
nib_status jinja_equal(jrun *j, jvalue a, jvalue b, bool *out);
/* *out < 0, 0, > 0; fails for what has no order. */
nib_status jinja_compare(jrun *j, jvalue a, jvalue b, const char *op, int *out);
nib_status jinja_contains(jrun *j, jvalue container, jvalue item, bool *out);
/* len(): fails for what has none. */
nib_status jinja_length(jrun *j, jvalue v, size_t *out);
bool jinja_iterable(jvalue v);
/* The items that going through v gives, in an array that may be shared. */
nib_status jinja_items(jrun *j, jvalue v, const jvalue **items, size_t *n);
/* Python's name of the type: "str", "int", "list", ... */
const char *jinja_type_name(jvalue v);
/* Jinja's, for messages: "list object", "None". */
const char *jinja_object_name(jrun *j, jvalue v);
nib_status jinja_from_json(jrun *j, const struct json_t *v, uint8_t taint, jvalue *out);
/* As an index or count argument; fails with 'what' for other types. */
nib_status jinja_to_index(jrun *j, jvalue v, const char *what, int64_t *out);

/* ---- text (jinja_text.c) ---- */

void jinja_out_init(jout *o, jrun *j);
void jinja_out_put(jout *o, const char *p, size_t n, uint8_t taint);
void jinja_out_puts(jout *o, const char *s, uint8_t taint);
void jinja_out_fill(jout *o, nib_str what, int64_t times, uint8_t taint);
void jinja_out_sub(jout *o, const jstring *s, size_t from, size_t to);
void jinja_out_string(jout *o, const jstring *s);
void jinja_out_str(jout *o, jvalue v);  /* Python's str(v) */
void jinja_out_repr(jout *o, jvalue v); /* Python's repr(v) */
nib_status jinja_out_finish(jout *o, jvalue *out);
nib_status jinja_to_string(jrun *j, jvalue v, const jstring **out); /* str(v) */
typedef struct jjson {
    const jstring *item_sep, *key_sep, *indent; /* indent NULL: one line */
    bool ascii, sort_keys;
} jjson;
nib_status jinja_to_json(jrun *j, jvalue v, const jjson *o, jvalue *out);
/* Python's repr of a double: the shortest digits that read back the same. */
size_t jinja_float_repr(double f, char out[40]);
/* Python's float(s) and int(s, base): false when s is none. */
bool jinja_parse_float(nib_str s, double *out);
bool jinja_parse_int(nib_str s, int base, int64_t *out);

/* ---- strings (jinja_string.c, jinja_case.c, jinja_format.c) ---- */

bool jinja_is_space(int32_t cp); /* Python's str.isspace */
bool jinja_is_printable(int32_t cp);
/* The length of s without white space (chars NULL) or characters of chars at its start; at its end.
 */
size_t jinja_lstrip(nib_str s, const nib_str *chars);
size_t jinja_rstrip(nib_str s, const nib_str *chars);
typedef enum jcase {
    CASE_UPPER,
    CASE_LOWER,
    CASE_TITLE,
    CASE_CAPITALIZE,
    CASE_SWAP,
    CASE_FOLD
} jcase;
nib_status jinja_recase(jrun *j, const jstring *s, jcase how, jvalue *out);
nib_status jinja_replace(jrun *j, const jstring *s, const jstring *from, const jstring *to,
                         int64_t count, jvalue *out);
nib_status jinja_splitlines(jrun *j, const jstring *s, bool keep_ends, jvalue *out);
nib_status jinja_percent(jrun *j, const jstring *fmt, jvalue args, jvalue *out); /* fmt % args */
nib_status jinja_format(jrun *j, const jstring *fmt, const jargs *args,
                        jvalue *out); /* fmt.format(...) */

/* ---- builtins: tables made from the .def files ---- */

const jrow *jinja_find_filter(nib_str name);
const jrow *jinja_find_test(nib_str name);
const jrow *jinja_find_global(nib_str name);
const jrow *jinja_find_method(jvalue v, nib_str name);
/* Whether name would change a list or dict in place: the sandbox refuses those. */
bool jinja_is_mutator(jvalue v, nib_str name);
/* Binds args to the row's parameters and calls it. */
nib_status jinja_call_row(jrun *j, const jrow *row, jvalue self, const jargs *args, jvalue *out);

/* ---- evaluation (jinja_eval.c, jinja_exec.c) ---- */

nib_status jinja_eval(jrun *j, const jnode *n, jvalue *out);
nib_status jinja_call(jrun *j, jvalue callee, const jargs *args, jvalue *out);
nib_status jinja_call_macro(jrun *j, const jmacro *m, const jargs *args, jvalue *out);
nib_status jinja_call_loop(jrun *j, const jloop *l, const jargs *args, jvalue *out);
nib_status jinja_attr(jrun *j, jvalue v, const jstring *name, jvalue *out); /* v.name */
nib_status jinja_item(jrun *j, jvalue v, jvalue key, jvalue *out);          /* v[key] */
nib_status jinja_binary(jrun *j, jop op, jvalue a, jvalue b, jvalue *out);
nib_status jinja_exec(jrun *j, const jblock *b);
nib_status jinja_lookup(jrun *j, uint32_t name, jvalue *out);
nib_status jinja_assign(jrun *j, uint32_t name, jvalue v);
/* Applies a filter-block's chain of filters to v. */
nib_status jinja_filter_chain(jrun *j, const jnode *filters, jvalue v, jvalue *out);

nib_status jinja_parse(nib_template *t, const char *src, size_t n, nib_error *e);
#endif
