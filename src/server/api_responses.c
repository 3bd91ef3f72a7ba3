/* OpenAI's /v1/responses: a conversation that the server remembers.
 *
 * A response that is stored can be gone on from by previous_response_id, read and deleted. What is
 * kept is the conversation up to and with the reply, and the response as JSON; bounded in number
 * and bytes, the one not used for longest goes first. It is in memory only, and only whoever made a
 * response (the same key, or without keys the same address) can see it. */
#include "server/api_openai.h"
#include "server/internal.h"

enum { MAX_KEPT = 256, MAX_BYTES = 64 << 20 };

typedef struct kept {
    char id[48];
    uint64_t client, used;
    nib_messages messages;
    nib_buf json;
    size_t bytes;
} kept;
typedef struct memory {
    kept v[MAX_KEPT];
    int n;
    size_t bytes;
    uint64_t clock;
} memory;

/* ---- memory ---- */

static void drop(memory *m, int i) {
    m->bytes -= m->v[i].bytes;
    nib_messages_free(&m->v[i].messages);
    nib_buf_free(&m->v[i].json);
    m->v[i] = m->v[--m->n];
}

void nib_apis_free(nib_server *s) {
    memory *m = s->apis;
    while (m && m->n) drop(m, m->n - 1);
    nib_free(m);
    s->apis = NULL;
}

static kept *find(nib_http *r, const char *id) {
    memory *m = r->server->apis;
    for (int i = 0; m && i < m->n; i++)
        if (strcmp(m->v[i].id, id) == 0 && m->v[i].client == r->client) {
            m->v[i].used = ++m->clock;
            return &m->v[i];
        }
    return NULL;
}

static void not_found(nib_http *r, const char *id) {
    nib_http_error(r, 404, "not_found", "previous_response_id",
                   "Response with id '%.60s' not found: it was never stored, or has been forgotten",
                   id);
}

/* Takes over messages and json. */
static void keep(nib_http *r, const char *id, nib_messages *messages, nib_buf *json) {
    nib_server *s = r->server;
    if (!s->apis) s->apis = nib_calloc(1, sizeof(memory));
    memory *m = s->apis;
    size_t bytes = json->cap;
    for (size_t i = 0; i < messages->n; i++)
        bytes += strlen(messages->v[i].content) + sizeof *messages->v;
    if (!m || bytes > MAX_BYTES) {
        nib_messages_free(messages);
        nib_buf_free(json);
        return;
    }
    while (m->n == MAX_KEPT || m->bytes + bytes > MAX_BYTES) {
        int oldest = 0;
        for (int i = 1; i < m->n; i++)
            if (m->v[i].used < m->v[oldest].used) oldest = i;
        drop(m, oldest);
    }
    kept *k = &m->v[m->n++];
    *k = (kept){.client = r->client,
                .used = ++m->clock,
                .messages = *messages,
                .json = *json,
                .bytes = bytes};
    snprintf(k->id, sizeof k->id, "%s", id);
    m->bytes += bytes;
}

/* ---- reading ---- */

static nib_status read_item(nib_ask *a, size_t i, const json_t *item, nib_error *e) {
    const char *type = json_string_value(json_object_get(item, "type")),
               *role = json_string_value(json_object_get(item, "role"));
    char what[40];
    snprintf(what, sizeof what, "input[%zu].content", i);
    if (!json_is_object(item)) return nib_expected("input", "a string or a list of items", item, e);
    if (type && strcmp(type, "reasoning") == 0) return NIB_OK; /* thoughts are not sent again */
    if (type && strcmp(type, "message") != 0)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'input': items of type '%.40s' are not supported, only messages", type);
    if (!role) return nib_fail(e, NIB_ERR_ARGUMENT, "'input[%zu].role': expected a string", i);
    nib_buf text = {0};
    nib_status s = nib_content_text(json_object_get(item, "content"), what, &text, e);
    if (s == NIB_OK) s = nib_add_message(a, role, text.len ? text.data : "", NULL, e);
    nib_buf_free(&text);
    return s;
}

static nib_status set_input(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (json_is_string(v))
        return nib_messages_add(&a->q->messages, "user", json_string_value(v), NULL, e);
    if (!json_is_array(v)) return nib_expected(name, "a string or a list of items", v, e);
    if (a->max_messages > 0 && json_array_size(v) > (size_t)a->max_messages)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': %zu items, at most %d are taken", name,
                        json_array_size(v), a->max_messages);
    for (size_t i = 0; i < json_array_size(v); i++)
        NIB_TRY(read_item(a, i, json_array_get(v, i), e));
    return NIB_OK;
}

static nib_status set_effort(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    /* clang-format off */
    static const nib_field fields[] = {
        NIB_CALL("effort", nib_set_effort), NIB_IGNORE("summary"), NIB_IGNORE("generate_summary"),
        NIB_FIELDS_END
    };
    /* clang-format on */
    const nib_field *const tables[] = {fields, NULL};
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    return nib_fields_read(a, v, tables, e);
}

static nib_status set_text(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    const json_t *format = json_object_get(v, "format");
    const char *type = json_string_value(json_object_get(format, "type"));
    (void)a;
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    if (!format || (type && strcmp(type, "text") == 0)) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "'text.format': only {\"type\": \"text\"} is supported");
}

static nib_status set_truncation(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    const char *word = json_string_value(v);
    (void)a;
    if (word && strcmp(word, "disabled") == 0) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s': only \"disabled\" is supported", name);
}

static nib_status set_tool_choice(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    const char *word = json_string_value(v);
    (void)a;
    if (word && (strcmp(word, "none") == 0 || strcmp(word, "auto") == 0)) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s': tools are not supported", name);
}

static nib_status set_metadata(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    json_decref(a->metadata);
    a->metadata = json_incref((json_t *)v);
    return NIB_OK;
}

/* clang-format off */
static const nib_field fields[] = {
    NIB_TEXT("model", model),
    NIB_CALL("input", set_input),
    NIB_TEXT("instructions", system),
    NIB_TEXT("previous_response_id", previous),
    NIB_SWITCH("store", store),
    NIB_SWITCH("stream", stream),
    NIB_IGNORE("stream_options"),
    NIB_CALL("max_output_tokens", nib_set_max_tokens),
    NIB_CALL("reasoning", set_effort),
    NIB_CALL("text", set_text),
    NIB_CALL("truncation", set_truncation),
    NIB_CALL("tool_choice", set_tool_choice),
    NIB_CALL("metadata", set_metadata),
    NIB_REFUSE("tools"),
    NIB_REFUSE("background"),
    NIB_REFUSE("prompt"),
    NIB_REFUSE("conversation"),
    NIB_REFUSE("top_logprobs"),
    NIB_IGNORE("parallel_tool_calls"),
    NIB_IGNORE("max_tool_calls"),
    NIB_IGNORE("include"),
    NIB_IGNORE("user"),
    NIB_IGNORE("service_tier"),
    NIB_IGNORE("safety_identifier"),
    NIB_IGNORE("prompt_cache_key"),
    NIB_IGNORE("prompt_cache_retention"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_responses_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {fields, nib_sampling_fields, NULL};
    a->store = true;
    NIB_TRY(nib_fields_read(a, body, tables, e));
    a->param = "input";
    if (!a->q->messages.n)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'input': expected a text or messages, found none");
    a->param = NULL;
    return NIB_OK;
}

/* ---- the response object ---- */

static const char *status_of(const nib_said *x) {
    const nib_choice *c = &x->choices[0];
    if (!c->finish) return "in_progress";
    return strcmp(nib_finish_word(c), "stop") == 0 ? "completed" : "incomplete";
}

static void put_text_part(nib_buf *b, const nib_buf *text) {
    nib_buf_puts(b, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":");
    nib_put_json(b, text->len ? text->data : "", text->len);
    nib_buf_puts(b, "}");
}

static void put_message(nib_buf *b, const nib_said *x, bool done) {
    nib_buf_printf(b,
                   "{\"id\":\"msg_%s\",\"type\":\"message\",\"status\":\"%s\",\"role\":"
                   "\"assistant\",\"content\":[",
                   x->id + 5, done ? status_of(x) : "in_progress");
    if (done) put_text_part(b, &x->choices[0].text);
    nib_buf_puts(b, "]}");
}

static void put_reasoning(nib_buf *b, const nib_said *x, bool done) {
    nib_buf_printf(b, "{\"id\":\"rs_%s\",\"type\":\"reasoning\",\"summary\":[],\"content\":[",
                   x->id + 5);
    if (done) {
        nib_buf_puts(b, "{\"type\":\"reasoning_text\",\"text\":");
        nib_put_json(b, x->choices[0].thinking.data, x->choices[0].thinking.len);
        nib_buf_puts(b, "}");
    }
    nib_buf_printf(b, "],\"status\":\"%s\"}", done ? "completed" : "in_progress");
}

static void put_string_or_null(nib_buf *b, const char *name, const char *text) {
    nib_buf_printf(b, ",\"%s\":", name);
    if (text)
        nib_put_json(b, text, strlen(text));
    else
        nib_buf_puts(b, "null");
}

static void put_response(nib_buf *b, const nib_said *x, bool failed, const char *message) {
    const nib_choice *c = &x->choices[0];
    const char *status = failed ? "failed" : status_of(x);
    nib_error e;
    nib_buf_printf(b,
                   "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\"",
                   x->id, (long long)x->created, status);
    if (failed) {
        nib_buf_puts(b, ",\"error\":{\"code\":\"server_error\",\"message\":");
        nib_put_json(b, message, strlen(message));
        nib_buf_puts(b, "}");
    } else {
        nib_buf_puts(b, ",\"error\":null");
    }
    nib_buf_puts(b, strcmp(status, "incomplete") == 0
                        ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                        : ",\"incomplete_details\":null");
    put_string_or_null(b, "instructions", x->ask.system);
    put_string_or_null(b, "previous_response_id", x->ask.previous);
    put_string_or_null(b, "model", x->ask.model);
    nib_buf_puts(b, ",\"metadata\":");
    if (!x->ask.metadata || nib_json_write(x->ask.metadata, b, &e) != NIB_OK) nib_buf_puts(b, "{}");
    nib_buf_puts(b, ",\"output\":[");
    if (c->finish && c->thinking.len) {
        put_reasoning(b, x, true);
        nib_buf_puts(b, ",");
    }
    if (c->finish) put_message(b, x, true);
    nib_buf_printf(b,
                   "],\"store\":%s,\"parallel_tool_calls\":true,\"tool_choice\":\"auto\","
                   "\"tools\":[],\"truncation\":\"disabled\",\"text\":{\"format\":{\"type\":"
                   "\"text\"}},\"reasoning\":{\"effort\":null,\"summary\":null}",
                   x->ask.store ? "true" : "false");
    if (!c->finish) {
        nib_buf_puts(b, ",\"usage\":null}");
        return;
    }
    nib_buf_printf(b,
                   ",\"usage\":{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":"
                   "%lld},\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":"
                   "%lld},\"total_tokens\":%lld}}",
                   (long long)x->n_prompt, (long long)c->n_cached, (long long)c->n_generated,
                   (long long)c->n_thought, (long long)x->n_prompt + (long long)c->n_generated);
}

/* ---- streams ---- */

/* {"type":...,"sequence_number":N, rest}; the rest is put by the caller up to send(). */
static nib_buf *start_event(nib_said *x, const char *type) {
    nib_buf_printf(&x->out, "{\"type\":\"%s\",\"sequence_number\":%lld", type,
                   (long long)x->n_events++);
    return &x->out;
}
static void send_event(nib_said *x, const char *type) {
    nib_buf_puts(&x->out, "}");
    nib_said_sse(x, type);
}

static void send_response(nib_said *x, const char *type, bool failed, const char *message) {
    nib_buf_puts(start_event(x, type), ",\"response\":");
    put_response(&x->out, x, failed, message);
    send_event(x, type);
}

enum { NOTHING, THOUGHTS, TEXT }; /* x->part */

static void put_where(nib_said *x) {
    nib_buf_printf(&x->out, ",\"item_id\":\"%s_%s\",\"output_index\":%d,\"content_index\":0",
                   x->part == TEXT ? "msg" : "rs", x->id + 5, x->n_parts);
}

static void close_item(nib_said *x) {
    nib_choice *c = &x->choices[0];
    const nib_buf *said = x->part == TEXT ? &c->text : &c->thinking;
    const char *type;
    if (x->part == NOTHING) return;
    type = x->part == TEXT ? "response.output_text.done" : "response.reasoning_text.done";
    start_event(x, type);
    put_where(x);
    nib_buf_puts(&x->out, ",\"text\":");
    nib_put_json(&x->out, said->len ? said->data : "", said->len);
    if (x->part == TEXT) nib_buf_puts(&x->out, ",\"logprobs\":[]");
    send_event(x, type);
    if (x->part == TEXT) {
        type = "response.content_part.done";
        start_event(x, type);
        put_where(x);
        nib_buf_puts(&x->out, ",\"part\":");
        put_text_part(&x->out, &c->text);
        send_event(x, type);
    }
    type = "response.output_item.done";
    nib_buf_printf(start_event(x, type), ",\"output_index\":%d,\"item\":", x->n_parts++);
    if (x->part == TEXT)
        put_message(&x->out, x, true);
    else
        put_reasoning(&x->out, x, true);
    send_event(x, type);
    x->part = NOTHING;
}

static void open_item(nib_said *x, int part) {
    static const nib_buf nothing = {0};
    const char *type = "response.output_item.added";
    if (x->part == part) return;
    close_item(x);
    x->part = part;
    nib_buf_printf(start_event(x, type), ",\"output_index\":%d,\"item\":", x->n_parts);
    if (part == TEXT)
        put_message(&x->out, x, false);
    else
        put_reasoning(&x->out, x, false);
    send_event(x, type);
    if (part != TEXT) return;
    type = "response.content_part.added";
    start_event(x, type);
    put_where(x);
    nib_buf_puts(&x->out, ",\"part\":");
    put_text_part(&x->out, &nothing);
    send_event(x, type);
}

static void begin(nib_said *x) {
    send_response(x, "response.created", false, NULL);
    send_response(x, "response.in_progress", false, NULL);
}

static void piece(nib_said *x, int index, const nib_piece *p) {
    bool thought = p->kind == NIB_PIECE_THOUGHT;
    const char *type = thought ? "response.reasoning_text.delta" : "response.output_text.delta";
    (void)index;
    open_item(x, thought ? THOUGHTS : TEXT);
    start_event(x, type);
    put_where(x);
    nib_buf_puts(&x->out, ",\"delta\":");
    nib_put_json(&x->out, p->text, p->len);
    if (!thought) nib_buf_puts(&x->out, ",\"logprobs\":[]");
    send_event(x, type);
}

static void end(nib_said *x) {
    if (x->part != TEXT) open_item(x, TEXT); /* be it empty */
    close_item(x);
    send_response(
        x, strcmp(status_of(x), "completed") == 0 ? "response.completed" : "response.incomplete",
        false, NULL);
}

static void failed(nib_said *x, const nib_error *e) {
    send_response(x, "response.failed", true, e->message);
}

static void whole(nib_said *x) {
    put_response(&x->out, x, false, NULL);
    nib_said_reply(x);
}

/* ---- endpoints ---- */

/* The conversation that was asked about, for the memory: the request's own is the scheduler's. */
static void done(nib_said *x) {
    nib_messages *m = &x->messages;
    nib_buf json = {0};
    if (!x->ask.store) return;
    const nib_choice *c = &x->choices[0];
    if (nib_messages_add(m, "assistant", c->text.len ? c->text.data : "", NULL, NULL) != NIB_OK)
        return;
    put_response(&json, x, false, NULL);
    if (json.failed) {
        nib_buf_free(&json);
        return;
    }
    keep(x->r, x->id, m, &json);
    *m = (nib_messages){0};
}

static nib_status copy_messages(nib_messages *to, const nib_messages *from, nib_error *e) {
    for (size_t i = 0; i < from->n; i++)
        NIB_TRY(nib_messages_add(to, from->v[i].role, from->v[i].content, from->v[i].thinking, e));
    return NIB_OK;
}

/* Puts the earlier conversation before the new messages. */
static nib_status go_on_from(nib_ask *a, const kept *k, nib_error *e) {
    nib_messages all = {0};
    nib_status s = copy_messages(&all, &k->messages, e);
    if (s == NIB_OK) s = copy_messages(&all, &a->q->messages, e);
    if (s == NIB_OK && a->max_messages > 0 && all.n > (size_t)a->max_messages)
        s = nib_fail(e, NIB_ERR_ARGUMENT, "the conversation has %zu messages, at most %d are taken",
                     all.n, a->max_messages);
    if (s != NIB_OK) {
        nib_messages_free(&all);
        return s;
    }
    nib_messages_free(&a->q->messages);
    a->q->messages = all;
    return NIB_OK;
}

void nib_post_openai_responses(nib_http *r) {
    static const nib_voice voice = {.stream_type = "text/event-stream",
                                    .begin = begin,
                                    .piece = piece,
                                    .end = end,
                                    .whole = whole,
                                    .failed = failed,
                                    .done = done};
    nib_ask a;
    nib_error e;
    nib_messages copy = {0};
    const json_t *body = nib_http_json(r);
    if (!body || !nib_ask_init(&a, r)) return;
    nib_status s = nib_responses_read(&a, body, &e);
    const kept *k = s == NIB_OK && a.previous ? find(r, a.previous) : NULL;
    if (s == NIB_OK && a.previous && !k) {
        not_found(r, a.previous);
        nib_ask_free(&a);
        return;
    }
    if (k) s = go_on_from(&a, k, &e);
    if (s == NIB_OK && a.system) s = nib_prepend_system(&a, a.system, &e);
    if (s == NIB_OK && a.store) s = copy_messages(&copy, &a.q->messages, &e);
    if (s == NIB_OK) {
        nib_said_start_with(r, &a, &voice, "resp_", &copy);
        return;
    }
    nib_messages_free(&copy);
    nib_http_fail(r, &e, a.param);
    nib_ask_free(&a);
}

void nib_get_openai_response(nib_http *r) {
    const kept *k = find(r, r->rest);
    if (k)
        nib_http_reply(r, 200, "application/json", k->json.data, k->json.len);
    else
        not_found(r, r->rest);
}

void nib_delete_openai_response(nib_http *r) {
    memory *m = r->server->apis;
    kept *k = find(r, r->rest);
    if (!k) {
        not_found(r, r->rest);
        return;
    }
    nib_http_json_reply(
        r, 200,
        json_pack("{s:s, s:s, s:b}", "id", k->id, "object", "response.deleted", "deleted", true));
    drop(m, (int)(k - m->v));
}
