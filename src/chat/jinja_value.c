/* Values: making them, comparing them, looking into them. Python's rules throughout: 1 == 1.0 ==
 * True, lists compare item by item, dicts keep the order of insertion, a string is a row of code
 * points.
 *
 * Whatever walks a nested value counts its depth (values can be built deeper than any source nests)
 * and charges steps for what it visits (a value of a few bytes can be shared into an exponentially
 * large tree). */
#include "chat/jinja.h"
#include <jansson.h>
#include <math.h>

/* ---- strings ---- */

nib_status jinja_string(jrun *j, const char *p, size_t n, uint8_t taint, jvalue *out) {
    jstring *s;
    NIB_TRY(JINJA_NEW(j, s));
    if (n > INT32_MAX) return jinja_limit(j, "a string of %zu bytes", n);
    *s = (jstring){.p = p, .n = (uint32_t)n, .n_chars = -1, .taint = n ? taint : 0};
    *out = jv_string(s);
    return NIB_OK;
}

nib_status jinja_cstring(jrun *j, const char *s, uint8_t taint, jvalue *out) {
    return jinja_string(j, s, strlen(s), taint, out);
}

size_t jinja_n_chars(const jstring *s) {
    if (s->n_chars >= 0) return (size_t)s->n_chars;
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) n += (s->p[i] & 0xc0) != 0x80;
    ((jstring *)s)->n_chars = (int32_t)n; /* strings of a template were counted when parsed */
    return n;
}

size_t jinja_char_offset(const jstring *s, size_t i) {
    if (jinja_n_chars(s) == s->n) return i;
    size_t at = 0;
    for (; at < s->n; at++)
        if ((s->p[at] & 0xc0) != 0x80 && i-- == 0) break;
    return at;
}

uint8_t jinja_taint_at(const jstring *s, size_t byte) {
    return s->map ? s->map[byte] : s->taint;
}

nib_status jinja_substring(jrun *j, const jstring *s, size_t from, size_t to, jvalue *out) {
    if (from == 0 && to == s->n) {
        *out = jv_string(s);
        return NIB_OK;
    }
    if (to - from == 1 && (unsigned char)s->p[from] < 0x80 && !s->map) {
        const jstring **one = &j->chars[s->taint == DATA][(unsigned char)s->p[from]];
        if (!*one) {
            jvalue v;
            NIB_TRY(jinja_string(j, s->p + from, 1, s->taint, &v));
            ((jstring *)v.s)->n_chars = 1;
            *one = v.s;
        }
        *out = jv_string(*one);
        return NIB_OK;
    }
    NIB_TRY(jinja_string(j, s->p + from, to - from, s->taint, out));
    jstring *sub = (jstring *)out->s;
    if (s->n_chars == (int32_t)s->n) sub->n_chars = (int32_t)sub->n;
    if (s->map && sub->n) {
        const uint8_t *map = s->map + from;
        NIB_TRY(jinja_charge(j, JINJA_BYTES(sub->n)));
        if (memchr(map, map[0] ^ MIXED, sub->n))
            sub->map = map;
        else
            sub->taint = map[0];
    }
    return NIB_OK;
}

nib_status jinja_concat(jrun *j, const jstring *a, const jstring *b, jvalue *out) {
    if (!b->n || !a->n) {
        *out = jv_string(a->n ? a : b);
        return NIB_OK;
    }
    size_t n = (size_t)a->n + b->n;
    uint8_t taint = a->taint | b->taint;
    NIB_TRY(jinja_charge(j, JINJA_BYTES(b->n)));
    jstrbuf *buf = a->buf; /* strings with a buffer start where it does */
    if (!buf || buf->len != a->n || buf->cap - buf->len < b->n) {
        NIB_TRY(jinja_charge(j, JINJA_BYTES(a->n)));
        NIB_TRY(JINJA_NEW(j, buf));
        *buf = (jstrbuf){.len = a->n, .cap = n + n / 2 + 48};
        NIB_TRY(jinja_alloc(j, buf->cap, 1, &buf->p));
        memcpy(buf->p, a->p, a->n);
    }
    if (taint == MIXED) {
        if (!buf->map) {
            NIB_TRY(jinja_alloc(j, buf->cap, 1, &buf->map));
            if (a->map)
                memcpy(buf->map, a->map, a->n);
            else
                memset(buf->map, a->taint, a->n);
        }
        if (b->map)
            memcpy(buf->map + buf->len, b->map, b->n);
        else
            memset(buf->map + buf->len, b->taint, b->n);
    }
    memcpy(buf->p + buf->len, b->p, b->n);
    buf->len += b->n;
    NIB_TRY(jinja_string(j, buf->p, n, taint, out));
    jstring *s = (jstring *)out->s;
    s->buf = buf;
    s->map = buf->map;
    if (a->n_chars >= 0 && b->n_chars >= 0) s->n_chars = a->n_chars + b->n_chars;
    return NIB_OK;
}

/* ---- lists ---- */

nib_status jinja_list(jrun *j, size_t n, uint8_t kind, uint8_t taint, jvalue *out) {
    jlist *l;
    NIB_TRY(JINJA_NEW(j, l));
    *l = (jlist){.n = (uint32_t)n, .kind = kind, .taint = taint};
    NIB_TRY(jinja_charge(j, n));
    if (n) NIB_TRY(jinja_alloc(j, n, sizeof *l->v, &l->v));
    *out = (jvalue){.type = J_LIST, .l = l};
    return NIB_OK;
}

nib_status jinja_push(jrun *j, jlist *l, jvalue v) {
    NIB_TRY(jinja_charge(j, 1));
    jlistbuf *buf = l->buf;
    if (!buf || buf->len != l->n || buf->len == buf->cap) {
        size_t cap = l->n ? (size_t)l->n * 2 : 4;
        NIB_TRY(JINJA_NEW(j, buf));
        *buf = (jlistbuf){.len = l->n, .cap = cap};
        NIB_TRY(jinja_alloc(j, cap, sizeof *buf->v, &buf->v));
        if (l->n) memcpy(buf->v, l->v, l->n * sizeof *buf->v);
        l->v = buf->v;
        l->buf = buf;
    }
    buf->v[buf->len++] = v;
    l->n++;
    return NIB_OK;
}

nib_status jinja_list_concat(jrun *j, const jlist *a, const jlist *b, jvalue *out) {
    jlist *l;
    NIB_TRY(JINJA_NEW(j, l));
    *l = *a;
    l->taint = (a->taint | b->taint) & DATA ? DATA : TRUSTED;
    for (uint32_t i = 0; i < b->n; i++) NIB_TRY(jinja_push(j, l, b->v[i]));
    *out = (jvalue){.type = J_LIST, .l = l};
    return NIB_OK;
}

/* ---- dicts ---- */

nib_status jinja_dict(jrun *j, uint8_t taint, jvalue *out) {
    jdict *d;
    NIB_TRY(JINJA_NEW(j, d));
    *d = (jdict){.taint = taint};
    *out = (jvalue){.type = J_DICT, .d = d};
    return NIB_OK;
}

bool jinja_is_number(jvalue v) {
    return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT;
}
double jinja_to_double(jvalue v) {
    return v.type == J_FLOAT ? v.f : v.type == J_BOOL ? v.b : (double)v.i;
}

/* Equal values have equal hashes, as 1, 1.0 and True must. */
static nib_status hash(jrun *j, jvalue v, uint64_t *out) {
    NIB_TRY(jinja_charge(j, 1));
    double f;
    int64_t i;
    switch (v.type) {
    case J_UNDEFINED:
    case J_NONE: *out = v.type; return NIB_OK;
    case J_BOOL: *out = nib_hash(&(int64_t){v.b}, sizeof(int64_t), 1); return NIB_OK;
    case J_INT: *out = nib_hash(&v.i, sizeof v.i, 1); return NIB_OK;
    case J_FLOAT:
        f = v.f;
        if (f >= -9e18 && f <= 9e18 && f == (double)(i = (int64_t)f))
            *out = nib_hash(&i, sizeof i, 1);
        else
            *out = nib_hash(&f, sizeof f, 2);
        return NIB_OK;
    case J_STRING:
    case J_BIG:
        NIB_TRY(jinja_charge(j, JINJA_BYTES(v.s->n)));
        *out = nib_hash(v.s->p, v.s->n, v.type);
        return NIB_OK;
    case J_LIST:
        if (v.l->kind == K_TUPLE || v.l->kind == K_GROUP) {
            uint64_t h = 7, one = 0;
            NIB_TRY(jinja_enter_value(j));
            for (uint32_t k = 0; k < v.l->n; k++) {
                NIB_TRY(hash(j, v.l->v[k], &one));
                h = nib_hash(&one, sizeof one, h);
            }
            j->value_depth--;
            *out = h;
            return NIB_OK;
        }
        if (v.l->kind == K_LIST) return jinja_fail(j, "unhashable type: 'list'");
        break;
    case J_DICT: return jinja_fail(j, "unhashable type: 'dict'");
    }
    *out = nib_hash(&v.l, sizeof v.l, v.type);
    return NIB_OK;
}

enum { SMALL_DICT = 8 };

/* Finds key: *at is its entry, or n. For large dicts *slot is where it is or would be. */
static nib_status find(jrun *j, const jdict *d, jvalue key, uint64_t h, uint32_t *at,
                       uint32_t *slot) {
    uint32_t mask = d->n_slots - 1, i = (uint32_t)h & mask;
    for (uint32_t k = 0;; k++) {
        uint32_t e = d->slots ? d->slots[i] : k < d->n ? k + 1 : 0;
        *slot = i;
        *at = d->n;
        if (!e) return NIB_OK;
        if (k > 16) NIB_TRY(jinja_charge(j, 1));
        if (d->v[e - 1].hash == h) {
            bool same;
            NIB_TRY(jinja_equal(j, d->v[e - 1].key, key, &same));
            if (same) return *at = e - 1, NIB_OK;
        }
        i = (i + 1) & mask;
    }
}

static nib_status reindex(jrun *j, jdict *d) {
    d->n_slots = d->cap * 2;
    NIB_TRY(jinja_alloc(j, d->n_slots, sizeof *d->slots, &d->slots));
    memset(d->slots, 0, d->n_slots * sizeof *d->slots);
    for (uint32_t e = 0; e < d->n; e++) {
        uint32_t i = (uint32_t)d->v[e].hash & (d->n_slots - 1);
        while (d->slots[i]) i = (i + 1) & (d->n_slots - 1);
        d->slots[i] = e + 1;
    }
    return NIB_OK;
}

nib_status jinja_dict_set(jrun *j, jdict *d, jvalue key, jvalue value) {
    uint64_t h = 0;
    uint32_t at, slot;
    NIB_TRY(hash(j, key, &h));
    NIB_TRY(find(j, d, key, h, &at, &slot));
    if (at < d->n) {
        d->v[at].value = value;
        return NIB_OK;
    }
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? d->cap * 2 : SMALL_DICT;
        jentry *v;
        NIB_TRY(jinja_charge(j, d->n));
        NIB_TRY(jinja_alloc(j, cap, sizeof *v, &v));
        if (d->n) memcpy(v, d->v, d->n * sizeof *v);
        d->v = v;
        d->cap = cap;
        if (cap > SMALL_DICT) {
            NIB_TRY(reindex(j, d));
            NIB_TRY(find(j, d, key, h, &at, &slot));
        }
    }
    d->v[d->n] = (jentry){key, value, h};
    d->n++;
    if (d->slots) d->slots[slot] = d->n;
    return NIB_OK;
}

nib_status jinja_dict_get(jrun *j, const jdict *d, jvalue key, const jvalue **out) {
    uint64_t h = 0;
    uint32_t at, slot;
    NIB_TRY(hash(j, key, &h));
    NIB_TRY(find(j, d, key, h, &at, &slot));
    *out = at < d->n ? &d->v[at].value : NULL;
    return NIB_OK;
}

nib_status jinja_dict_get_str(jrun *j, const jdict *d, nib_str key, const jvalue **out) {
    jstring s = {.p = key.p, .n = (uint32_t)key.n, .n_chars = -1};
    return jinja_dict_get(j, d, jv_string(&s), out);
}

/* ---- undefined ---- */

nib_status jinja_undefined(jrun *j, int kind, const char *owner, jvalue name, jvalue *out) {
    jundef *u;
    NIB_TRY(JINJA_NEW(j, u));
    u->kind = kind;
    u->owner = owner;
    u->name = name;
    *out = (jvalue){.type = J_UNDEFINED, .taint = TRUSTED, .u = u};
    return NIB_OK;
}

nib_status(jinja_fail_undefined)(jrun *j, jvalue v) {
    const jundef *u = v.u;
    jout text;
    jvalue s;
    if (u->kind == U_HINT) return jinja_fail(j, "%s", u->owner);
    jinja_out_init(&text, j);
    text.max = 200;
    jinja_out_repr(&text, u->name);
    NIB_TRY(jinja_out_finish(&text, &s));
    int n = (int)s.s->n;
    if (u->kind == U_NAME) return jinja_fail(j, "%.*s is undefined", n, s.s->p);
    if (u->kind == U_ITEM) return jinja_fail(j, "%s has no element %.*s", u->owner, n, s.s->p);
    return jinja_fail(j, "'%s' has no attribute %.*s", u->owner, n, s.s->p);
}

/* ---- questions ---- */

static const char *const list_types[] = {
    [K_LIST] = "list",           [K_TUPLE] = "tuple",       [K_GROUP] = "tuple",
    [K_GENERATOR] = "generator", [K_ITERATOR] = "iterator", [K_KEYS] = "dict_keys",
    [K_VALUES] = "dict_values",  [K_ITEMS] = "dict_items",
};

const char *jinja_type_name(jvalue v) {
    static const char *const names[] = {
        [J_UNDEFINED] = "Undefined",
        [J_NONE] = "NoneType",
        [J_BOOL] = "bool",
        [J_INT] = "int",
        [J_BIG] = "int",
        [J_FLOAT] = "float",
        [J_STRING] = "str",
        [J_DICT] = "dict",
        [J_RANGE] = "range",
        [J_SLICE] = "slice",
        [J_NAMESPACE] = "Namespace",
        [J_MACRO] = "Macro",
        [J_FUNCTION] = "function",
        [J_METHOD] = "method",
        [J_LOOP] = "LoopContext",
        [J_CYCLER] = "Cycler",
        [J_JOINER] = "Joiner",
    };
    if (v.type == J_LIST) return list_types[v.l->kind];
    return v.type < NIB_ARRAY_LEN(names) && names[v.type] ? names[v.type] : "object";
}

const char *jinja_object_name(jrun *j, jvalue v) {
    if (v.type == J_NONE) return "None";
    const char *type = jinja_type_name(v);
    char *s;
    if (jinja_alloc(j, strlen(type) + 8, 1, &s) != NIB_OK) return type;
    strcat(strcpy(s, type), " object");
    return s;
}

bool jinja_truth(jvalue v) {
    switch (v.type) {
    case J_ABSENT:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STRING: return v.s->n != 0;
    case J_LIST: return v.l->kind == K_GENERATOR || v.l->kind == K_ITERATOR || v.l->n != 0;
    case J_DICT: return v.d->n != 0;
    case J_RANGE: return v.range->n != 0;
    default: return true;
    }
}

static bool is_row(jvalue v, bool tuple) {
    if (v.type != J_LIST) return false;
    return tuple ? v.l->kind == K_TUPLE || v.l->kind == K_GROUP : v.l->kind == K_LIST;
}

static bool string_eq(const jstring *a, const jstring *b) {
    return a->n == b->n && (a->p == b->p || !memcmp(a->p, b->p, a->n));
}

/* An int and a double compare exactly, though not every int is a double. */
static int compare_numbers(jvalue a, jvalue b, bool *unordered) {
    *unordered = false;
    if (a.type != J_FLOAT && b.type != J_FLOAT) {
        int64_t x = a.type == J_BOOL ? a.b : a.i, y = b.type == J_BOOL ? b.b : b.i;
        return x < y ? -1 : x > y;
    }
    double x = jinja_to_double(a), y = jinja_to_double(b);
    if (isnan(x) || isnan(y)) return *unordered = true, 0;
    if (x != y || (a.type == J_FLOAT && b.type == J_FLOAT)) return x < y ? -1 : x > y;
    if (fabs(x) >= 9223372036854775808.0) return a.type == J_FLOAT ? 1 : -1;
    int64_t p = a.type == J_FLOAT ? (int64_t)x : a.type == J_BOOL ? a.b : a.i;
    int64_t q = b.type == J_FLOAT ? (int64_t)y : b.type == J_BOOL ? b.b : b.i;
    return p < q ? -1 : p > q;
}

static nib_status equal_lists(jrun *j, const jlist *a, const jlist *b, bool *out) {
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) NIB_TRY(jinja_equal(j, a->v[i], b->v[i], out));
    return NIB_OK;
}

static nib_status equal_dicts(jrun *j, const jdict *a, const jdict *b, bool *out) {
    *out = a->n == b->n;
    for (uint32_t i = 0; *out && i < a->n; i++) {
        const jvalue *other;
        NIB_TRY(jinja_dict_get(j, b, a->v[i].key, &other));
        if (!other)
            *out = false;
        else
            NIB_TRY(jinja_equal(j, a->v[i].value, *other, out));
    }
    return NIB_OK;
}

nib_status jinja_equal(jrun *j, jvalue a, jvalue b, bool *out) {
    NIB_TRY(jinja_charge(j, 1));
    if (jinja_is_number(a) && jinja_is_number(b)) {
        bool unordered;
        *out = compare_numbers(a, b, &unordered) == 0 && !unordered;
        return NIB_OK;
    }
    *out = false;
    if (a.type != b.type) return NIB_OK;
    nib_status s = NIB_OK;
    switch (a.type) {
    case J_UNDEFINED:
    case J_NONE: *out = true; break;
    case J_STRING:
    case J_BIG:
        if (a.s->n == b.s->n) NIB_TRY(jinja_charge(j, JINJA_BYTES(a.s->n)));
        *out = string_eq(a.s, b.s);
        break;
    case J_LIST:
        if (!(is_row(a, true) && is_row(b, true)) && !(is_row(a, false) && is_row(b, false))) {
            *out = a.l == b.l;
            break;
        }
        NIB_TRY(jinja_enter_value(j));
        s = equal_lists(j, a.l, b.l, out);
        j->value_depth--;
        break;
    case J_DICT:
        NIB_TRY(jinja_enter_value(j));
        s = equal_dicts(j, a.d, b.d, out);
        j->value_depth--;
        break;
    case J_RANGE:
        *out = a.range->n == b.range->n &&
               (!a.range->n || (a.range->start == b.range->start &&
                                (a.range->n == 1 || a.range->step == b.range->step)));
        break;
    default: *out = a.l == b.l; /* identity */
    }
    return s;
}

nib_status jinja_compare(jrun *j, jvalue a, jvalue b, const char *op, int *out) {
    NIB_TRY(jinja_charge(j, 1));
    if (a.type == J_UNDEFINED) return jinja_fail_undefined(j, a);
    if (b.type == J_UNDEFINED) return jinja_fail_undefined(j, b);
    if (jinja_is_number(a) && jinja_is_number(b)) {
        bool unordered;
        *out = compare_numbers(a, b, &unordered);
        if (unordered) *out = strchr(op, '<') ? 1 : -1; /* a comparison with NaN is false */
        return NIB_OK;
    }
    if (a.type == J_STRING && b.type == J_STRING) {
        size_t n = NIB_MIN(a.s->n, b.s->n);
        NIB_TRY(jinja_charge(j, JINJA_BYTES(n)));
        int c = memcmp(a.s->p, b.s->p, n); /* UTF-8 sorts as its code points do */
        *out = c ? c : a.s->n < b.s->n ? -1 : a.s->n > b.s->n;
        return NIB_OK;
    }
    for (int tuple = 0; tuple < 2; tuple++) {
        if (!is_row(a, tuple) || !is_row(b, tuple)) continue;
        NIB_TRY(jinja_enter_value(j));
        size_t n = NIB_MIN(a.l->n, b.l->n);
        for (size_t i = 0; i < n; i++) {
            bool same;
            NIB_TRY(jinja_equal(j, a.l->v[i], b.l->v[i], &same));
            if (same) continue;
            NIB_TRY(jinja_compare(j, a.l->v[i], b.l->v[i], op, out));
            j->value_depth--;
            return NIB_OK;
        }
        j->value_depth--;
        *out = a.l->n < b.l->n ? -1 : a.l->n > b.l->n;
        return NIB_OK;
    }
    return jinja_fail(j, "'%s' not supported between instances of '%s' and '%s'", op,
                      jinja_type_name(a), jinja_type_name(b));
}

nib_status jinja_contains(jrun *j, jvalue container, jvalue item, bool *out) {
    *out = false;
    const jvalue *v;
    size_t n;
    switch (container.type) {
    case J_STRING:
        if (item.type == J_UNDEFINED) return jinja_fail_undefined(j, item);
        if (item.type != J_STRING)
            return jinja_fail(j, "'in <string>' requires string as left operand, not %s",
                              jinja_type_name(item));
        NIB_TRY(jinja_charge(j, JINJA_BYTES(container.s->n)));
        *out = !item.s->n || memmem(container.s->p, container.s->n, item.s->p, item.s->n);
        return NIB_OK;
    case J_DICT:
        NIB_TRY(jinja_dict_get(j, container.d, item, &v));
        *out = v != NULL;
        return NIB_OK;
    default:
        if (!jinja_iterable(container))
            return jinja_fail(j, "argument of type '%s' is not iterable",
                              jinja_type_name(container));
        NIB_TRY(jinja_items(j, container, &v, &n));
        for (size_t i = 0; i < n && !*out; i++) NIB_TRY(jinja_equal(j, v[i], item, out));
        return NIB_OK;
    }
}

nib_status jinja_length(jrun *j, jvalue v, size_t *out) {
    switch (v.type) {
    case J_UNDEFINED: *out = 0; return NIB_OK;
    case J_STRING:
        NIB_TRY(jinja_charge(j, JINJA_BYTES(v.s->n)));
        *out = jinja_n_chars(v.s);
        return NIB_OK;
    case J_LIST:
        if (v.l->kind == K_GENERATOR || v.l->kind == K_ITERATOR) break;
        *out = v.l->n;
        return NIB_OK;
    case J_DICT: *out = v.d->n; return NIB_OK;
    case J_RANGE: *out = (size_t)v.range->n; return NIB_OK;
    case J_LOOP: *out = v.loop->n; return NIB_OK;
    }
    return jinja_fail(j, "object of type '%s' has no len()", jinja_type_name(v));
}

bool jinja_iterable(jvalue v) {
    return v.type == J_UNDEFINED || v.type == J_STRING || v.type == J_LIST || v.type == J_DICT ||
           v.type == J_RANGE;
}

nib_status jinja_items(jrun *j, jvalue v, const jvalue **items, size_t *n) {
    jvalue list;
    switch (v.type) {
    case J_UNDEFINED:
        *items = NULL;
        *n = 0;
        return NIB_OK;
    case J_LIST:
        if (v.l->later && !v.l->spent) {
            v.l->spent = true;
            NIB_TRY(jinja_enter(j));
            NIB_TRY(v.l->later->row->fn(j, v.l->later, &list));
            j->depth--;
            *items = list.l->v;
            *n = list.l->n;
            return NIB_OK;
        }
        *items = v.l->v;
        *n = v.l->spent ? 0 : v.l->n;
        v.l->spent |= v.l->kind == K_GENERATOR || v.l->kind == K_ITERATOR;
        return NIB_OK;
    case J_STRING:
        NIB_TRY(jinja_charge(j, JINJA_BYTES(v.s->n)));
        NIB_TRY(jinja_list(j, jinja_n_chars(v.s), K_LIST, DATA, &list));
        for (size_t i = 0, at = 0; i < list.l->n; i++) {
            size_t end = at + 1;
            while (end < v.s->n && (v.s->p[end] & 0xc0) == 0x80) end++;
            NIB_TRY(jinja_substring(j, v.s, at, end, &list.l->v[i]));
            at = end;
        }
        break;
    case J_DICT:
        NIB_TRY(jinja_list(j, v.d->n, K_LIST, DATA, &list));
        for (uint32_t i = 0; i < v.d->n; i++) list.l->v[i] = v.d->v[i].key;
        break;
    case J_RANGE:
        NIB_TRY(jinja_list(j, (size_t)v.range->n, K_LIST, DATA, &list));
        for (int64_t i = 0; i < v.range->n; i++)
            list.l->v[i] = jv_int(v.range->start + i * v.range->step, v.taint);
        break;
    default: return jinja_fail(j, "'%s' object is not iterable", jinja_type_name(v));
    }
    *items = list.l->v;
    *n = list.l->n;
    return NIB_OK;
}

nib_status jinja_to_index(jrun *j, jvalue v, const char *what, int64_t *out) {
    if (v.type == J_UNDEFINED) return jinja_fail_undefined(j, v);
    if (v.type != J_INT && v.type != J_BOOL)
        return jinja_fail(j, "expected an integer as %s, found '%s'", what, jinja_type_name(v));
    *out = v.type == J_BOOL ? v.b : v.i;
    return NIB_OK;
}

/* ---- from JSON ---- */

nib_status jinja_from_json(jrun *j, const json_t *v, uint8_t taint, jvalue *out) {
    NIB_TRY(jinja_charge(j, 1));
    switch (json_typeof(v)) {
    case JSON_NULL: *out = jv_none(taint); return NIB_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = (jvalue){.type = J_BOOL, .taint = taint, .b = json_is_true(v)};
        return NIB_OK;
    case JSON_INTEGER: *out = jv_int(json_integer_value(v), taint); return NIB_OK;
    case JSON_REAL: *out = jv_float(json_real_value(v), taint); return NIB_OK;
    case JSON_STRING:
        return jinja_string(j, json_string_value(v), json_string_length(v), taint, out);
    case JSON_ARRAY: {
        NIB_TRY(jinja_enter_value(j));
        NIB_TRY(jinja_list(j, json_array_size(v), K_LIST, taint, out));
        jvalue *items = out->l->v;
        for (size_t i = 0, n = json_array_size(v); i < n; i++)
            NIB_TRY(jinja_from_json(j, json_array_get(v, i), taint, &items[i]));
        j->value_depth--;
        return NIB_OK;
    }
    case JSON_OBJECT: {
        NIB_TRY(jinja_enter_value(j));
        jvalue d, key, value;
        NIB_TRY(jinja_dict(j, taint, &d));
        void *it = json_object_iter((json_t *)v);
        for (; it; it = json_object_iter_next((json_t *)v, it)) {
            const char *k = json_object_iter_key(it);
            NIB_TRY(jinja_string(j, k, json_object_iter_key_len(it), taint, &key));
            NIB_TRY(jinja_from_json(j, json_object_iter_value(it), taint, &value));
            NIB_TRY(jinja_dict_set(j, d.d, key, value));
        }
        j->value_depth--;
        *out = d;
        return NIB_OK;
    }
    }
    return jinja_fail(j, "expected a JSON value");
}
