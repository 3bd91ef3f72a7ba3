/* The templates' face: parsing, rendering, limits, and the spans of trusted text that come out.
 *
 * What is trusted: the template's own text; the variables the caller names (bos_token); and a
 * message's role where it is one of the names roles have, because templates build control tokens
 * from it ('<|' + message.role + '|>'). Every other variable is data. */
#include "chat/jinja.h"
#include <jansson.h>
#include <locale.h>

/* ---- limits and errors ---- */

nib_status(jinja_fail)(jrun *j, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return nib_fail(j->e, NIB_ERR_TEMPLATE, "template line %u: %s", j->line, text);
}

nib_status(jinja_limit)(jrun *j, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return nib_fail(j->e, NIB_ERR_LIMIT, "template line %u: over the limit: %s", j->line, text);
}

nib_status jinja_charge(jrun *j, uint64_t n) {
    if (n <= j->max_steps - j->steps) {
        j->steps += n;
        return NIB_OK;
    }
    return jinja_limit(j, "more than %llu steps", (unsigned long long)j->max_steps);
}

nib_status jinja_alloc(jrun *j, size_t n, size_t size, void *out) {
    size_t bytes;
    void *p = NULL;
    if (nib_mul_size(n, size, &bytes))
        p = nib_arena_alloc(&j->arena, bytes);
    else
        bytes = SIZE_MAX;
    if (!p) {
        if (bytes > JINJA_MAX_MEMORY || j->arena.used > JINJA_MAX_MEMORY - bytes)
            return jinja_limit(j, "more than %d MiB of memory", JINJA_MAX_MEMORY >> 20);
        return nib_fail_nomem(j->e, bytes, "a template's values");
    }
    memcpy(out, &p, sizeof p);
    return NIB_OK;
}

nib_status jinja_enter(jrun *j) {
    if (++j->depth > JINJA_MAX_DEPTH)
        return jinja_limit(j,
                           "evaluation nested deeper than %d levels (a macro that calls itself?)",
                           JINJA_MAX_DEPTH);
    return jinja_charge(j, 1);
}

nib_status jinja_enter_value(jrun *j) {
    if (++j->value_depth <= JINJA_MAX_VALUE_DEPTH) return NIB_OK;
    return jinja_limit(j, "a value nested deeper than %d levels", JINJA_MAX_VALUE_DEPTH);
}

/* ---- parsing ---- */

/* Numbers are read and written as in C, whatever locale the program chose. */
static locale_t c_locale(void) {
    return uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
}

nib_status nib_template_parse(nib_template **out, const char *src, size_t n, nib_error *e) {
    nib_template *t = nib_calloc(1, sizeof *t);
    if (!t) return nib_fail_nomem(e, sizeof *t, "a template");
    nib_arena_init(&t->arena, JINJA_MAX_TREE);
    locale_t outer = c_locale();
    nib_status s = jinja_parse(t, src, n, e);
    uselocale(outer);
    if (s != NIB_OK) {
        nib_template_free(t);
        return s;
    }
    *out = t;
    return NIB_OK;
}

void nib_template_free(nib_template *t) {
    if (!t) return;
    nib_arena_free(&t->arena);
    nib_free(t);
}

/* ---- variables ---- */

static bool is_trusted(const nib_render_options *o, nib_str name) {
    for (const char *const *t = o ? o->trusted : NULL; t && *t; t++)
        if (nib_str_eq_c(name, *t)) return true;
    return false;
}

/* messages[i].role becomes trusted text where it is the name of a role. */
static nib_status trust_roles(jrun *j, jvalue messages) {
    static const char *const roles[] = {
        "system",        "user",           "assistant",   "tool",      "developer", "function",
        "model",         "ipython",        "environment", "documents", "document",  "tool_call",
        "tool_response", "tool_responses", "tools",       "human",     "gpt",       "control",
    };
    if (messages.type != J_LIST) return NIB_OK;
    for (uint32_t i = 0; i < messages.l->n; i++) {
        jvalue m = messages.l->v[i];
        const jvalue *role = NULL;
        if (m.type == J_DICT) NIB_TRY(jinja_dict_get_str(j, m.d, NIB_STR("role"), &role));
        if (!role || role->type != J_STRING) continue;
        for (size_t k = 0; k < NIB_ARRAY_LEN(roles); k++)
            if (nib_str_eq_c((nib_str){role->s->p, role->s->n}, roles[k]))
                ((jstring *)role->s)->taint = TRUSTED;
    }
    return NIB_OK;
}

static nib_status set_variables(jrun *j, const json_t *vars, const nib_render_options *o) {
    if (!json_is_object(vars))
        return nib_fail(j->e, NIB_ERR_ARGUMENT, "a template's variables must be an object");
    for (uint32_t i = 0; i < j->t->n_names; i++) {
        const jstring *n = j->t->names[i].s;
        nib_str name = {n->p, n->n};
        const json_t *v = json_object_getn(vars, name.p, name.n);
        if (!v) continue;
        NIB_TRY(jinja_from_json(j, v, is_trusted(o, name) ? TRUSTED : DATA, &j->root[i]));
        if (nib_str_eq_c(name, "messages")) NIB_TRY(trust_roles(j, j->root[i]));
    }
    return NIB_OK;
}

/* ---- rendering ---- */

void nib_rendered_free(nib_rendered *r) {
    nib_buf_free(&r->text);
    nib_free(r->spans);
    *r = (nib_rendered){0};
}

/* The end of the run of equal provenance that starts at 'from'. */
static size_t run_end(const jstring *s, size_t from) {
    if (!s->map) return s->n;
    const uint8_t *end = memchr(s->map + from, s->map[from] ^ MIXED, s->n - from);
    return end ? (size_t)(end - s->map) : s->n;
}

static nib_status to_rendered(const jstring *s, nib_rendered *out, nib_error *e) {
    nib_rendered r = {.text.max = JINJA_MAX_MEMORY};
    size_t n_spans = 0;
    for (size_t at = 0; at < s->n; at = run_end(s, at)) n_spans++;
    r.spans = nib_calloc(n_spans ? n_spans : 1, sizeof *r.spans);
    if (!r.spans || !nib_buf_put(&r.text, s->p, s->n)) {
        nib_rendered_free(&r);
        return nib_fail_nomem(e, s->n, "a rendered template");
    }
    for (size_t at = 0, end; at < s->n; at = end) {
        end = run_end(s, at);
        r.spans[r.n_spans++] = (nib_span){at, end - at, jinja_taint_at(s, at) == TRUSTED};
    }
    *out = r;
    return NIB_OK;
}

nib_status nib_template_render(const nib_template *t, const json_t *vars,
                               const nib_render_options *o, nib_rendered *out, nib_error *e) {
    jrun *j = nib_calloc(1, sizeof *j);
    if (!j) return nib_fail_nomem(e, sizeof *j, "rendering a template");
    j->t = t;
    j->e = e;
    j->max_steps = o && o->max_steps ? o->max_steps : JINJA_MAX_STEPS;
    j->now = o ? o->now : NIB_NOW;
    j->scope = &j->top;
    nib_arena_init(&j->arena, JINJA_MAX_MEMORY);
    jout text;
    jvalue result;
    nib_status s;
    locale_t outer = c_locale();
    jinja_out_init(&text, j);
    text.max = o && o->max_output ? o->max_output : JINJA_MAX_OUTPUT;
    j->out = &text;
    NIB_TRY_OUT(jinja_alloc(j, t->n_names, sizeof *j->root, &j->root));
    memset(j->root, 0, t->n_names * sizeof *j->root);
    NIB_TRY_OUT(set_variables(j, vars, o));
    NIB_TRY_OUT(jinja_exec(j, &t->body));
    NIB_TRY_OUT(jinja_out_finish(&text, &result));
    s = to_rendered(result.s, out, e);
out:
    uselocale(outer);
    nib_arena_free(&j->arena);
    nib_free(j);
    return s;
}

/* ---- continuing a message ---- */

/* Where the last 'what' in text starts, or SIZE_MAX; linear, over reversed copies. */
static nib_status find_last(nib_str text, nib_str what, size_t *out, nib_error *e) {
    char *copy = nib_alloc(text.n + what.n);
    if (!copy) return nib_fail_nomem(e, text.n + what.n, "a search");
    char *needle = copy + text.n;
    for (size_t i = 0; i < text.n; i++) copy[i] = text.p[text.n - 1 - i];
    for (size_t i = 0; i < what.n; i++) needle[i] = what.p[what.n - 1 - i];
    const char *found = memmem(copy, text.n, needle, what.n);
    *out = found ? text.n - (size_t)(found - copy) - what.n : SIZE_MAX;
    nib_free(copy);
    return NIB_OK;
}

nib_status nib_rendered_continue(nib_rendered *r, const char *content, size_t n, nib_error *e) {
    nib_str text = {r->text.data, r->text.len}, all = {content, n};
    size_t start = jinja_lstrip(all, NULL), end = jinja_rstrip(all, NULL), at = SIZE_MAX;
    nib_str core = {content + start, end > start ? end - start : 0};
    NIB_TRY(find_last(text, core, &at, e));
    if (at == SIZE_MAX)
        return nib_fail(e, NIB_ERR_NOT_FOUND,
                        "the last message's content is not in the rendered prompt: this template "
                        "changes it, so it cannot be continued");
    /* what follows it stays when the template kept it */
    size_t keep = at + core.n, with_tail = n - start;
    if (with_tail <= text.n - at && start == 0 && n && !memcmp(text.p + at, content, n))
        keep = at + n;
    r->text.len = keep;
    if (r->text.data) r->text.data[keep] = 0;
    while (r->n_spans && r->spans[r->n_spans - 1].start >= keep) r->n_spans--;
    if (r->n_spans) r->spans[r->n_spans - 1].len = keep - r->spans[r->n_spans - 1].start;
    return NIB_OK;
}
