/* Messages: a conversation as a list, to and from JSON, and what of it a model is sent.
 *
 * nib_chat_render hands the conversation to the model's template. Some templates refuse a system
 * message (they raise) and some drop it without a word; then its text goes in front of the first
 * user message instead, and the log says so. */
#include <ctype.h>
#include <jansson.h>
#include "chat/chat.h"

/* ---- the list ---- */

static void message_free(nib_message *v) {
    nib_free(v->role);
    nib_free(v->content);
    nib_free(v->thinking);
}

nib_status nib_messages_add(nib_messages *m, const char *role, const char *content,
                            const char *thinking, nib_error *e) {
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 16, bytes;
        nib_message *v = nib_mul_size(cap, sizeof *v, &bytes) ? nib_realloc(m->v, bytes) : NULL;
        if (!v) return nib_fail_nomem(e, cap * sizeof *v, "a conversation");
        m->v = v;
        m->cap = cap;
    }
    nib_message v = {nib_strdup(role), nib_strdup(content ? content : ""),
                     thinking ? nib_strdup(thinking) : NULL};
    if (!v.role || !v.content || (thinking && !v.thinking)) {
        message_free(&v);
        return nib_fail_nomem(e, content ? strlen(content) : 1, "a message");
    }
    m->v[m->n++] = v;
    return NIB_OK;
}

void nib_messages_truncate(nib_messages *m, size_t n) {
    while (m->n > n) message_free(&m->v[--m->n]);
}

void nib_messages_free(nib_messages *m) {
    nib_messages_truncate(m, 0);
    nib_free(m->v);
    *m = (nib_messages){0};
}

size_t nib_messages_window(const nib_messages *m, int n_exchanges) {
    if (n_exchanges < 0) return 0;
    if (n_exchanges == 0) n_exchanges = 1;
    for (size_t i = m->n; i-- > 0;)
        if (!strcmp(m->v[i].role, "user") && --n_exchanges == 0) return i;
    return 0;
}

/* ---- JSON ---- */

/* A JSON string is valid UTF-8: what is not becomes U+FFFD. NULL when out of memory. */
static json_t *json_text(const char *p, size_t n) {
    if (nib_utf8_valid(p, n)) return json_stringn_nocheck(p, n);
    nib_buf b = {0};
    for (size_t at = 0; at < n;) {
        int32_t cp;
        size_t len = nib_utf8_decode(p + at, n - at, &cp);
        if (cp < 0)
            nib_buf_put(&b, "\xef\xbf\xbd", 3);
        else
            nib_buf_put(&b, p + at, len);
        at += len;
    }
    json_t *v = b.failed ? NULL : json_stringn_nocheck(b.data, b.len);
    nib_buf_free(&b);
    return v;
}

static bool set_text(json_t *object, const char *key, const char *text) {
    return json_object_set_new(object, key, json_text(text, strlen(text))) == 0;
}

static bool append_message(json_t *list, const char *role, const char *content,
                           const char *thinking, const char *const *thinking_keys) {
    json_t *v = json_object();
    bool ok = v && set_text(v, "role", role) && set_text(v, "content", content);
    for (; ok && thinking && *thinking_keys; thinking_keys++)
        ok = set_text(v, *thinking_keys, thinking);
    if (ok) return json_array_append_new(list, v) == 0;
    json_decref(v);
    return false;
}

nib_status nib_messages_to_json(const nib_messages *m, json_t **out, nib_error *e) {
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < m->n; i++)
        ok = append_message(list, m->v[i].role, m->v[i].content, m->v[i].thinking,
                            (const char *const[]){"thinking", NULL});
    if (!ok) {
        json_decref(list);
        return nib_fail_nomem(e, m->n, "a conversation as JSON");
    }
    *out = list;
    return NIB_OK;
}

nib_status nib_messages_from_json(nib_messages *m, const json_t *v, nib_error *e) {
    nib_messages fresh = {0};
    nib_status s = NIB_OK;
    if (!json_is_array(v)) return nib_fail(e, NIB_ERR_FORMAT, "expected a list of messages");
    for (size_t i = 0; i < json_array_size(v) && s == NIB_OK; i++) {
        const json_t *item = json_array_get(v, i), *content = json_object_get(item, "content"),
                     *thinking = json_object_get(item, "thinking");
        const char *role = json_string_value(json_object_get(item, "role"));
        bool content_ok = !content || json_is_null(content) || json_is_string(content);
        bool thinking_ok = !thinking || json_is_null(thinking) || json_is_string(thinking);
        if (!role || !content_ok || !thinking_ok)
            s = nib_fail(
                e, NIB_ERR_FORMAT,
                "message %zu: expected an object with the strings role and content (and thinking)",
                i);
        else
            s = nib_messages_add(&fresh, role, json_string_value(content),
                                 json_string_value(thinking), e);
    }
    if (s != NIB_OK) {
        nib_messages_free(&fresh);
        return s;
    }
    nib_messages_free(m);
    *m = fresh;
    return NIB_OK;
}

/* ---- rendering ---- */

typedef struct request {
    const char *system; /* or NULL */
    const nib_messages *m;
    size_t first;
    bool generate;
    const char *bos, *eos;
    const json_t *extra;
} request;

/* system: how it is sent. */
typedef enum system_as { AS_MESSAGE, AS_USER_TEXT, LEFT_OUT } system_as;

static json_t *request_vars(const request *r, system_as how) {
    static const char *const thinking_keys[] = {"reasoning_content", "thinking", NULL};
    json_t *vars = json_object(), *list = json_array();
    bool ok = vars && list, pending = how == AS_USER_TEXT;
    if (ok && r->system && how == AS_MESSAGE)
        ok = append_message(list, "system", r->system, NULL, thinking_keys);
    for (size_t i = r->first; ok && i < r->m->n; i++) {
        const nib_message *v = &r->m->v[i];
        nib_buf joined = {0};
        const char *content = v->content;
        if (pending && !strcmp(v->role, "user")) {
            pending = false;
            ok = nib_buf_puts(&joined, r->system) && nib_buf_puts(&joined, "\n\n") &&
                 nib_buf_puts(&joined, content);
            content = joined.data;
        }
        ok = ok && append_message(list, v->role, content, v->thinking, thinking_keys);
        nib_buf_free(&joined);
    }
    ok = ok && json_object_set(vars, "messages", list) == 0 &&
         json_object_set_new(vars, "add_generation_prompt", json_boolean(r->generate)) == 0 &&
         json_object_set_new(vars, "tools", json_null()) == 0 &&
         json_object_set_new(vars, "documents", json_null()) == 0 &&
         (!r->bos || set_text(vars, "bos_token", r->bos)) &&
         (!r->eos || set_text(vars, "eos_token", r->eos)) &&
         (!r->extra || json_object_update(vars, (json_t *)r->extra) == 0);
    json_decref(list);
    if (ok) return vars;
    json_decref(vars);
    return NULL;
}

static nib_status render_as(const nib_template *t, const request *r, system_as how, int64_t now,
                            nib_rendered *out, nib_error *e) {
    static const char *const trusted[] = {"bos_token", "eos_token", NULL};
    nib_render_options o = {.now = now, .trusted = trusted};
    json_t *vars = request_vars(r, how);
    if (!vars) return nib_fail_nomem(e, r->m->n, "a template's variables");
    nib_status s = nib_template_render(t, vars, &o, out, e);
    json_decref(vars);
    return s;
}

static bool contains(const nib_buf *b, const char *s) {
    return !*s || (b->len && memmem(b->data, b->len, s, strlen(s)));
}

/* Whether the template takes no notice of a system message: it writes the same without one. */
static bool drops_system(const nib_template *t, const request *r, int64_t now,
                         const nib_rendered *with) {
    nib_rendered without;
    if (contains(&with->text, r->system) ||
        render_as(t, r, LEFT_OUT, now, &without, NULL) != NIB_OK)
        return false;
    bool same = without.text.len == with->text.len &&
                (!with->text.len || !memcmp(without.text.data, with->text.data, with->text.len));
    nib_rendered_free(&without);
    return same;
}

static nib_status render_with(const nib_template *t, const request *r, int64_t now,
                              nib_rendered *out, nib_error *e) {
    nib_rendered first = {0}, merged;
    nib_status s = render_as(t, r, AS_MESSAGE, now, &first, e);
    bool has_user = false;
    for (size_t i = r->first; i < r->m->n; i++) has_user |= !strcmp(r->m->v[i].role, "user");
    bool refused = s == NIB_ERR_TEMPLATE;
    if (r->system && has_user && (refused || (s == NIB_OK && drops_system(t, r, now, &first))) &&
        render_as(t, r, AS_USER_TEXT, now, &merged, NULL) == NIB_OK) {
        nib_log(NIB_LOG_WARN,
                "the model's chat template %s system messages: the system text goes before the "
                "first user message",
                refused ? "refuses" : "ignores");
        nib_rendered_free(&first);
        first = merged;
        s = NIB_OK;
    }
    if (s == NIB_OK) *out = first;
    return s;
}

/* ---- without a template ---- */

typedef struct plain {
    nib_rendered r;
    bool failed;
} plain;

static void put(plain *p, const char *text, size_t n, bool trusted) {
    nib_rendered *r = &p->r;
    if (!n || p->failed) return;
    nib_span *last = r->n_spans ? &r->spans[r->n_spans - 1] : NULL;
    size_t start = r->text.len;
    p->failed = !nib_buf_put(&r->text, text, n);
    if (last && last->trusted == trusted)
        last->len += n;
    else
        r->spans[r->n_spans++] = (nib_span){start, n, trusted};
}

static void put_label(plain *p, const char *role) {
    char first = (char)toupper((unsigned char)role[0]);
    bool known = !strcmp(role, "user") || !strcmp(role, "assistant");
    put(p, &first, role[0] != 0, known);
    put(p, role + (role[0] != 0), strlen(role + (role[0] != 0)), known);
    put(p, ":", 1, true);
}

static nib_status render_plain(const request *r, nib_rendered *out, nib_error *e) {
    plain p = {.r.spans = nib_calloc((r->m->n - r->first) * 4 + 4, sizeof(nib_span))};
    if (!p.r.spans) return nib_fail_nomem(e, r->m->n * sizeof(nib_span), "a prompt");
    if (r->system && *r->system) {
        put(&p, r->system, strlen(r->system), false);
        put(&p, "\n\n", 2, true);
    }
    for (size_t i = r->first; i < r->m->n; i++) {
        const nib_message *v = &r->m->v[i];
        put_label(&p, v->role);
        put(&p, " ", 1, true);
        put(&p, v->content, strlen(v->content), false);
        if (i + 1 < r->m->n || r->generate) put(&p, "\n", 1, true);
    }
    if (r->generate) put(&p, "Assistant:", 10, true);
    if (p.failed) {
        nib_rendered_free(&p.r);
        return nib_fail_nomem(e, 1, "a prompt");
    }
    *out = p.r;
    return NIB_OK;
}

nib_status nib_chat_render(const nib_template *t, const char *system, const nib_messages *m,
                           size_t first, bool add_generation_prompt, const char *bos,
                           const char *eos, const json_t *extra, int64_t now, nib_rendered *out,
                           nib_error *e) {
    request r = {system, m, NIB_MIN(first, m->n), add_generation_prompt, bos, eos, extra};
    if (extra && !json_is_object(extra))
        return nib_fail(e, NIB_ERR_ARGUMENT, "expected an object of template variables");
    return t ? render_with(t, &r, now, out, e) : render_plain(&r, out, e);
}
