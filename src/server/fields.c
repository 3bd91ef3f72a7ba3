/* From JSON to a request: fields are rows of tables, and a field that no table knows is refused by
 * name, so that nobody takes for granted what was ignored. */
#include <math.h>
#include "server/api.h"

static const char *kind_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    default: return "null";
    }
}

nib_status nib_expected(const char *name, const char *what, const json_t *found, nib_error *e) {
    return nib_fail(e, NIB_ERR_ARGUMENT, "'%.60s': expected %s, found %s", name, what,
                    found ? kind_of(found) : "nothing");
}

char *nib_keep_text(nib_ask *a, const char *p, size_t n) {
    return nib_arena_strndup(&a->q->arena, p, n);
}

static nib_status out_of_range(const nib_field *f, const char *what, nib_error *e) {
    return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected %s from %g to %g", f->name, what, f->min,
                    f->max);
}

static bool is_empty(const json_t *v) {
    return json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

static nib_status read_field(nib_ask *a, const nib_field *f, const json_t *v, nib_error *e) {
    char *q = (char *)a->q, *x = (char *)a;
    double number = json_number_value(v);
    switch (f->kind) {
    case NIB_FIELD_FLOAT:
        if (!json_is_number(v)) return nib_expected(f->name, "a number", v, e);
        if (!(number >= f->min && number <= f->max)) return out_of_range(f, "a number", e);
        *(float *)(void *)(q + f->at) = (float)number;
        return NIB_OK;
    case NIB_FIELD_INT:
        if (!json_is_integer(v)) return nib_expected(f->name, "a whole number", v, e);
        if (!(number >= f->min && number <= f->max)) return out_of_range(f, "a whole number", e);
        *(int32_t *)(void *)(q + f->at) = (int32_t)json_integer_value(v);
        return NIB_OK;
    case NIB_FIELD_SWITCH:
        if (!json_is_boolean(v)) return nib_expected(f->name, "true or false", v, e);
        *(bool *)(x + f->at) = json_is_true(v);
        return NIB_OK;
    case NIB_FIELD_WHOLE:
        if (!json_is_integer(v)) return nib_expected(f->name, "a whole number", v, e);
        if (!(number >= f->min && number <= f->max)) return out_of_range(f, "a whole number", e);
        *(int64_t *)(void *)(x + f->at) = json_integer_value(v);
        return NIB_OK;
    case NIB_FIELD_TEXT:
        if (!json_is_string(v)) return nib_expected(f->name, "a string", v, e);
        *(const char **)(void *)(x + f->at) =
            nib_arena_strndup(a->arena, json_string_value(v), json_string_length(v));
        return *(const char **)(void *)(x + f->at) ? NIB_OK : nib_fail_nomem(e, 1, f->name);
    case NIB_FIELD_CALL: return f->set(a, f->name, v, e);
    case NIB_FIELD_IGNORE: return NIB_OK;
    case NIB_FIELD_REFUSE:
        if (is_empty(v)) return NIB_OK;
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s' is not supported: leave it out", f->name);
    }
    return NIB_OK;
}

static const nib_field *find(const nib_field *const *tables, const char *name) {
    for (; *tables; tables++)
        for (const nib_field *f = *tables; f->name; f++)
            if (strcmp(f->name, name) == 0) return f;
    return NULL;
}

nib_status nib_fields_read(nib_ask *a, const json_t *object, const nib_field *const *tables,
                           nib_error *e) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)object, name, v) {
        const nib_field *f = find(tables, name);
        a->param = f ? f->name : nib_arena_strndup(a->arena, name, strlen(name));
        if (json_is_null(v)) continue;
        if (!f)
            return nib_fail(e, NIB_ERR_UNSUPPORTED,
                            "'%.60s' is not supported: leave it out (docs/SERVER.md lists the "
                            "fields that are)",
                            name);
        NIB_TRY(read_field(a, f, v, e));
    }
    a->param = NULL;
    return NIB_OK;
}

bool nib_ask_init(nib_ask *a, nib_http *r) {
    const nib_server_params *p = nib_server_params_of(r->server);
    *a = (nib_ask){
        .max_tokens = p->max_tokens, .max_messages = p->max_messages, .n = 1, .arena = &r->arena};
    return (a->q = nib_http_request_new(r)) != NULL;
}

void nib_ask_free(nib_ask *a) {
    nib_request_free(a->q);
    for (size_t i = 1; a->more && i < a->n_prompts; i++) nib_request_free(a->more[i - 1]);
    a->more = NULL;
    json_decref(a->metadata);
    a->q = NULL;
    a->metadata = NULL;
}

/* ---- sampling ---- */

/* clang-format off */
const nib_field nib_sampling_fields[] = {
    NIB_FLOAT("temperature", p.sampling.temperature, 0, 100),
    NIB_FLOAT("top_p", p.sampling.top_p, 0, 1),
    NIB_INT("top_k", p.sampling.top_k, 0, INT32_MAX),
    NIB_FLOAT("min_p", p.sampling.min_p, 0, 1),
    NIB_FLOAT("typical_p", p.sampling.typical_p, 0, 1),
    NIB_FLOAT("repeat_penalty", p.sampling.repeat_penalty, 0.01, 100),
    NIB_INT("repeat_last_n", p.sampling.penalty_window, -1, INT32_MAX),
    NIB_FLOAT("presence_penalty", p.sampling.presence_penalty, -100, 100),
    NIB_FLOAT("frequency_penalty", p.sampling.frequency_penalty, -100, 100),
    NIB_CALL("seed", nib_set_seed),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_set_seed(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "a whole number", v, e);
    a->q->p.sampling.seed = (uint64_t)json_integer_value(v);
    a->q->p.sampling.seed_given = json_integer_value(v) != -1;
    return NIB_OK;
}

nib_status nib_set_stop(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > 16) return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': at most 16 texts", name);
    const char **list = nib_arena_calloc(&a->q->arena, n + 1, sizeof *list);
    if (!list) return nib_fail_nomem(e, n, name);
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s)) return nib_expected(name, "a string or a list of strings", s, e);
        if (json_string_length(s) == 0) continue;
        if (json_string_length(s) > 1024)
            return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': a text has at most 1024 bytes", name);
        list[n_out++] = nib_keep_text(a, json_string_value(s), json_string_length(s));
        if (!list[n_out - 1]) return nib_fail_nomem(e, 1, name);
    }
    a->q->p.stop = list;
    return NIB_OK;
}

static nib_status read_bias(const char *name, int64_t id, const json_t *value, nib_logit_bias *out,
                            nib_error *e) {
    double bias = json_is_false(value) ? -100 : json_number_value(value);
    if (!json_is_number(value) && !json_is_false(value))
        return nib_expected(name, "numbers", value, e);
    if (!(bias >= -100 && bias <= 100))
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected numbers from -100 to 100", name);
    *out = (nib_logit_bias){(int32_t)id, bias <= -100 ? -INFINITY : (float)bias};
    return NIB_OK;
}

/* {"15043": 1.5}, or as llama.cpp has it [[15043, 1.5], [15043, false]]. */
nib_status nib_set_logit_bias(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    const char *key;
    json_t *value;
    bool pairs = json_is_array(v);
    if (!json_is_object(v) && !pairs)
        return nib_expected(name, "an object of token ids and numbers", v, e);
    size_t n = pairs ? json_array_size(v) : json_object_size(v);
    if (n > 1024) return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': at most 1024 tokens", name);
    nib_logit_bias *list = nib_arena_calloc(&a->q->arena, n, sizeof *list);
    if (!list && n) return nib_fail_nomem(e, n * sizeof *list, name);
    int at = 0;
    for (size_t i = 0; pairs && i < n; i++) {
        const json_t *pair = json_array_get(v, i), *id = json_array_get(pair, 0);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX || json_array_size(pair) != 2)
            return nib_expected(name, "pairs of a token id and a number", pair, e);
        NIB_TRY(read_bias(name, json_integer_value(id), json_array_get(pair, 1), &list[at++], e));
    }
    json_object_foreach((json_t *)v, key, value) {
        int64_t id;
        if (nib_parse_int(name, key, 0, INT32_MAX, &id, NULL) != NIB_OK)
            return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected a token id, found '%.40s'", name,
                            key);
        NIB_TRY(read_bias(name, id, value, &list[at++], e));
    }
    a->q->p.sampling.bias = list;
    a->q->p.sampling.n_bias = at;
    return NIB_OK;
}

nib_status nib_set_max_tokens(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "a whole number", v, e);
    int64_t n = json_integer_value(v);
    if (n < 1)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected 1 or more, found %lld", name,
                        (long long)n);
    a->q->p.max_tokens = a->max_tokens > 0 ? NIB_MIN(n, a->max_tokens) : n;
    return NIB_OK;
}

nib_status nib_set_keep(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (json_is_number(v))
        a->keep = json_number_value(v);
    else if (json_is_string(v))
        NIB_TRY(nib_parse_keep(name, json_string_value(v), &a->keep, e));
    else
        return nib_expected(name, "seconds, or a time such as \"5m\"", v, e);
    a->keep_given = true;
    return NIB_OK;
}

/* ---- thinking ---- */

nib_status nib_set_effort(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    int i;
    if (!json_is_string(v)) return nib_expected(name, "a string", v, e);
    NIB_TRY(nib_parse_choice(name, json_string_value(v), "none|minimal|low|medium|high|xhigh|max",
                             &i, e));
    a->q->p.think = i <= 1 ? NIB_THINK_OFF : NIB_THINK_ON;
    return NIB_OK;
}

static nib_status set_enable_thinking(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->p.think = json_is_true(v) ? NIB_THINK_ON : NIB_THINK_OFF;
    return NIB_OK;
}

nib_status nib_set_template_kwargs(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    static const nib_field fields[] = {NIB_CALL("enable_thinking", set_enable_thinking),
                                       NIB_CALL("thinking", set_enable_thinking), NIB_FIELDS_END};
    const nib_field *const tables[] = {fields, NULL};
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    return nib_fields_read(a, v, tables, e);
}

/* ---- messages ---- */

nib_status nib_content_text(const json_t *v, const char *what, nib_buf *out, nib_error *e) {
    if (!v || json_is_null(v)) return NIB_OK;
    if (json_is_string(v)) {
        if (nib_buf_put(out, json_string_value(v), json_string_length(v))) return NIB_OK;
        return nib_fail_nomem(e, json_string_length(v), what);
    }
    if (!json_is_array(v)) return nib_expected(what, "a string or a list of parts", v, e);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *part = json_array_get(v, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type ||
            (strcmp(type, "text") && strcmp(type, "input_text") && strcmp(type, "output_text")))
            return nib_fail(e, NIB_ERR_UNSUPPORTED,
                            "'%s': parts of type '%.40s' are not supported, only text", what,
                            type ? type : "?");
        if (!json_is_string(text)) return nib_expected(what, "parts with a text", part, e);
        if (!nib_buf_put(out, json_string_value(text), json_string_length(text)))
            return nib_fail_nomem(e, json_string_length(text), what);
    }
    return NIB_OK;
}

nib_status nib_add_message(nib_ask *a, const char *role, const char *text, const char *thinking,
                           nib_error *e) {
    nib_request *q = a->q;
    if (strcmp(role, "developer") == 0) role = "system";
    if (strcmp(role, "function") == 0) role = "tool";
    static const char *const known[] = {"system", "user", "assistant", "tool"};
    bool ok = false;
    for (size_t i = 0; i < NIB_ARRAY_LEN(known); i++) ok |= strcmp(role, known[i]) == 0;
    if (!ok)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'role': expected system, user, assistant or tool, found '%.40s'", role);
    if (strcmp(role, "system") != 0 || q->messages.n)
        return nib_messages_add(&q->messages, role, text, thinking, e);
    nib_buf joined = {0};
    if (q->p.system) nib_buf_printf(&joined, "%s\n\n", q->p.system);
    nib_buf_puts(&joined, text);
    q->p.system = joined.failed ? NULL : nib_keep_text(a, joined.data, joined.len);
    nib_buf_free(&joined);
    return q->p.system ? NIB_OK : nib_fail_nomem(e, strlen(text), "a system text");
}

nib_status nib_prepend_system(nib_ask *a, const char *text, nib_error *e) {
    nib_buf joined = {0};
    nib_buf_puts(&joined, text);
    if (a->q->p.system) nib_buf_printf(&joined, "\n\n%s", a->q->p.system);
    a->q->p.system =
        joined.failed ? NULL : nib_keep_text(a, joined.data ? joined.data : "", joined.len);
    nib_buf_free(&joined);
    return a->q->p.system ? NIB_OK : nib_fail_nomem(e, strlen(text), "a system text");
}

static nib_status read_message(nib_ask *a, size_t i, const json_t *m, nib_error *e) {
    static const char *const known[] = {
        "role",      "content", "name",         "refusal", "thinking",   "reasoning_content",
        "reasoning", "audio",   "tool_call_id", "images",  "tool_calls", "tool_name"};
    static const char *const refused[] = {"audio", "images", "tool_calls"};
    const char *key;
    json_t *v;
    if (!json_is_object(m)) return nib_expected("messages", "objects", m, e);
    json_object_foreach((json_t *)m, key, v) {
        bool ok = false;
        for (size_t k = 0; k < NIB_ARRAY_LEN(known); k++) ok |= strcmp(key, known[k]) == 0;
        for (size_t k = 0; k < NIB_ARRAY_LEN(refused); k++)
            ok &= strcmp(key, refused[k]) != 0 || json_is_null(v) || is_empty(v);
        if (!ok)
            return nib_fail(e, NIB_ERR_UNSUPPORTED, "'messages[%zu].%.40s' is not supported", i,
                            key);
    }
    const char *role = json_string_value(json_object_get(m, "role")), *thinking = NULL;
    static const char *const thoughts[] = {"reasoning_content", "reasoning", "thinking"};
    for (size_t k = 0; k < NIB_ARRAY_LEN(thoughts); k++)
        if (!thinking) thinking = json_string_value(json_object_get(m, thoughts[k]));
    if (!role) return nib_fail(e, NIB_ERR_ARGUMENT, "'messages[%zu].role': expected a string", i);
    nib_buf text = {0};
    char what[40];
    snprintf(what, sizeof what, "messages[%zu].content", i);
    const json_t *content = json_object_get(m, "content");
    if ((!content || json_is_null(content)) && strcmp(role, "assistant") != 0)
        return nib_expected(what, "a string or a list of parts", content, e);
    nib_status s = nib_content_text(content, what, &text, e);
    if (s == NIB_OK)
        s = nib_add_message(a, role, text.data ? text.data : "",
                            thinking && *thinking ? thinking : NULL, e);
    nib_buf_free(&text);
    return s;
}

nib_status nib_set_messages(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_array(v)) return nib_expected(name, "a list of messages", v, e);
    size_t n = json_array_size(v);
    if (n == 0) return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected one message or more", name);
    if (a->max_messages > 0 && n > (size_t)a->max_messages)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': %zu messages, at most %d are taken", name, n,
                        a->max_messages);
    for (size_t i = 0; i < n; i++) NIB_TRY(read_message(a, i, json_array_get(v, i), e));
    return NIB_OK;
}

/* ---- prompts and texts ---- */

static bool is_ids(const json_t *v) {
    if (!json_is_array(v) || json_array_size(v) == 0) return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_integer(json_array_get(v, i))) return false;
    return true;
}

static nib_status put_ids(const json_t *v, nib_ids *out, const char *name, nib_error *e) {
    for (size_t i = 0; i < json_array_size(v); i++) {
        json_int_t id = json_integer_value(json_array_get(v, i));
        if (id < 0 || id > INT32_MAX)
            return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': %lld is no token id", name, (long long)id);
        if (!nib_ids_push(out, (int32_t)id)) return nib_fail_nomem(e, i, name);
    }
    return NIB_OK;
}

nib_status nib_set_prompt(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    enum { MOST = 64 };
    if (json_is_array(v) && !is_ids(v)) {
        a->n_prompts = json_array_size(v);
        if (a->n_prompts == 0 || a->n_prompts > MOST)
            return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected 1 to %d prompts, found %zu", name,
                            (int)MOST, a->n_prompts);
        v = json_array_get(v, a->which);
    }
    if (is_ids(v)) return put_ids(v, &a->q->ids, name, e);
    if (!json_is_string(v))
        return nib_expected(name, "a string, a list of token ids, or a list of these", v, e);
    if (nib_buf_put(&a->q->text, json_string_value(v), json_string_length(v))) return NIB_OK;
    return nib_fail_nomem(e, json_string_length(v), name);
}

nib_status nib_set_texts(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    bool list = json_is_array(v) && !is_ids(v);
    size_t n = list ? json_array_size(v) : 1;
    if (n == 0) return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected one text or more", name);
    if (n > 2048) return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': at most 2048 texts", name);
    a->q->texts = nib_arena_calloc(&a->q->arena, n, sizeof *a->q->texts);
    if (!a->q->texts) return nib_fail_nomem(e, n * sizeof *a->q->texts, name);
    a->q->n_texts = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *t = list ? json_array_get(v, i) : v;
        if (is_ids(t)) {
            NIB_TRY(put_ids(t, &a->q->texts[i].ids, name, e));
            continue;
        }
        if (!json_is_string(t)) return nib_expected(name, "strings or lists of token ids", t, e);
        if (json_string_length(t) == 0)
            return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': text %zu is empty", name, i);
        char *copy = nib_keep_text(a, json_string_value(t), json_string_length(t));
        if (!copy) return nib_fail_nomem(e, json_string_length(t), name);
        a->q->texts[i].text = (nib_str){copy, json_string_length(t)};
    }
    return NIB_OK;
}
