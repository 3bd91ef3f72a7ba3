/* OpenAI's /v1/responses: a conversation that the server remembers.
 *
 * A response that is stored can be gone on from by previous_response_id, read and deleted. What is
 * kept is the conversation up to and with the reply, and the response as JSON, beside the
 * conversations of the pages (store/responses.c), before the response is told. Only whoever made a
 * response (the same key, or without keys the same address) can see it. */
#include "server/api_openai.h"
#include "server/web.h"

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

/* ---- what is kept ---- */

/* The conversation that was asked about, and the reply. In the store's lane. */
static void keep(nib_said *x) {
    const nib_choice *c = &x->choices[0];
    nib_messages *m = &x->messages;
    nib_buf list = {0}, body = {0};
    nib_error e;
    nib_status s = nib_messages_add(m, "assistant", c->text.len ? c->text.data : "", NULL, &e);
    for (size_t i = 0; i < m->n; i++) {
        nib_buf_puts(&list, i ? ",{\"role\":" : "[{\"role\":");
        nib_put_json(&list, m->v[i].role, strlen(m->v[i].role));
        nib_buf_puts(&list, ",\"content\":");
        nib_put_json(&list, m->v[i].content, strlen(m->v[i].content));
        nib_buf_puts(&list, "}");
    }
    nib_buf_puts(&list, "]");
    put_response(&body, x, false, NULL);
    if (list.failed || body.failed) s = nib_fail_nomem(&e, list.len + body.len, "a response");
    nib_response row = {x->id, x->r->client, x->ask.n_before, list.data, body.data};
    if (s == NIB_OK) s = nib_response_put(web_store(x->r), &row, &e);
    if (s != NIB_OK) nib_log(NIB_LOG_WARN, "a response is not kept: %s", e.message);
    nib_buf_free(&list);
    nib_buf_free(&body);
}

static nib_status copy_messages(nib_messages *to, const nib_messages *from, nib_error *e) {
    for (size_t i = 0; i < from->n; i++)
        NIB_TRY(nib_messages_add(to, from->v[i].role, from->v[i].content, from->v[i].thinking, e));
    return NIB_OK;
}

/* Puts the earlier conversation before the new messages. */
static nib_status go_on_from(nib_ask *a, const nib_response *before, nib_error *e) {
    json_t *list = NULL;
    nib_messages added = a->q->messages;
    char *system = (char *)a->q->p.system;
    NIB_TRY(nib_json_parse(before->messages, strlen(before->messages), &list, e));
    a->q->messages = (nib_messages){0};
    a->q->p.system = NULL;
    nib_status s = NIB_OK;
    for (size_t i = 0; s == NIB_OK && i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(m, "role")),
                   *content = json_string_value(json_object_get(m, "content"));
        s = role && content ? nib_add_message(a, role, content, NULL, e)
                            : nib_fail(e, NIB_ERR_FORMAT, "'%s' is damaged", before->id);
    }
    a->n_before = (int64_t)a->q->messages.n;
    json_decref(list);
    if (s == NIB_OK && system) s = nib_add_message(a, "system", system, NULL, e);
    if (s == NIB_OK) s = copy_messages(&a->q->messages, &added, e);
    nib_messages_free(&added);
    if (s == NIB_OK && a->max_messages > 0 && a->q->messages.n > (size_t)a->max_messages)
        s = nib_fail(e, NIB_ERR_ARGUMENT, "the conversation has %zu messages, at most %d are taken",
                     a->q->messages.n, a->max_messages);
    return s;
}

/* ---- POST /v1/responses ---- */

static const nib_voice voice = {.stream_type = "text/event-stream",
                                .begin = begin,
                                .piece = piece,
                                .end = end,
                                .whole = whole,
                                .failed = failed,
                                .keep = keep};

static void drop_ask(nib_http *r) {
    nib_ask_free(r->state);
}

static void answer(nib_http *r) {
    nib_ask a = *(nib_ask *)r->state;
    nib_error e;
    nib_messages copy = {0};
    nib_status s = NIB_OK;
    *(nib_ask *)r->state = (nib_ask){0};
    /* the system text of the messages is part of the conversation, instructions are not */
    if (a.store && a.q->p.system) {
        s = nib_messages_add(&copy, "system", a.q->p.system, NULL, &e);
        a.n_before += a.n_before > 0;
    }
    if (s == NIB_OK && a.store) s = copy_messages(&copy, &a.q->messages, &e);
    if (s == NIB_OK && a.system) s = nib_prepend_system(&a, a.system, &e);
    if (s == NIB_OK) {
        nib_said_start_with(r, &a, &voice, "resp_", &copy);
        return;
    }
    nib_messages_free(&copy);
    nib_http_fail(r, &e, a.param);
    nib_ask_free(&a);
}

static void find_previous(nib_http *r) {
    nib_ask *a = r->state;
    nib_response before = {0};
    nib_error e;
    nib_status s = nib_response_get(web_store(r), a->previous, r->client, &before, &e);
    if (s == NIB_OK) s = go_on_from(a, &before, &e);
    if (s == NIB_OK)
        nib_http_next(r, NIB_LANE_IO, answer);
    else
        nib_http_fail(r, &e, "previous_response_id");
    nib_response_free(&before);
}

static void read_it(nib_http *r) {
    nib_ask *a = r->state;
    nib_error e;
    const json_t *body = nib_http_json(r);
    if (!body || !nib_ask_init(a, r)) return;
    if (nib_responses_read(a, body, &e) != NIB_OK)
        nib_http_fail(r, &e, a->param);
    else if (a->previous)
        nib_http_next(r, NIB_LANE_STORE, find_previous);
    else
        nib_http_next(r, NIB_LANE_IO, answer);
}

void nib_post_openai_responses(nib_http *r) {
    r->state = nib_arena_calloc(&r->arena, 1, sizeof(nib_ask));
    if (!r->state) {
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the request");
        return;
    }
    r->on_gone = drop_ask;
    nib_http_next(r, nib_api_lane(r), read_it);
}

/* ---- GET and DELETE /v1/responses/ID, and its input_items ---- */

/* A message that was asked, as an item of a list. */
static json_t *input_item(const nib_response *x, size_t i, const json_t *m) {
    char id[80];
    const char *role = json_string_value(json_object_get(m, "role"));
    bool reply = role && strcmp(role, "assistant") == 0;
    snprintf(id, sizeof id, "msg_%.48s_%zu", strncmp(x->id, "resp_", 5) ? x->id : x->id + 5, i);
    return json_pack("{s:s, s:s, s:s, s:s, s:[{s:s, s:O}]}", "id", id, "type", "message", "status",
                     "completed", "role", role ? role : "user", "content", "type",
                     reply ? "output_text" : "input_text", "text", json_object_get(m, "content"));
}

/* A page of a list: order, limit and after of the query, as all of OpenAI's lists have them. */
static void list_items(nib_http *r, const nib_response *x) {
    json_t *list = NULL, *data = json_array();
    nib_error e;
    int64_t limit = 20;
    const char *order = nib_http_query(r, "order"), *after = nib_http_query(r, "after"),
               *most = nib_http_query(r, "limit");
    bool rising = order && strcmp(order, "asc") == 0, more = false, begun = !after;
    nib_status s = most ? nib_parse_int("limit", most, 1, 100, &limit, &e) : NIB_OK;
    if (s == NIB_OK && order && !rising && strcmp(order, "desc") != 0)
        s = nib_fail(&e, NIB_ERR_ARGUMENT, "order: expected asc or desc, found '%.40s'", order);
    if (s == NIB_OK) s = nib_json_parse(x->messages, strlen(x->messages), &list, &e);
    if (s != NIB_OK) {
        nib_http_fail(r, &e, NULL);
        json_decref(data);
        return;
    }
    size_t first = (size_t)x->n_before, n = json_array_size(list);
    n = n > first ? n - first - 1 : 0; /* the last is the reply */
    for (size_t k = 0; k < n; k++) {
        size_t i = first + (rising ? k : n - 1 - k);
        json_t *item = input_item(x, i, json_array_get(list, i));
        const char *id = json_string_value(json_object_get(item, "id"));
        more = begun && (int64_t)json_array_size(data) == limit;
        if (more || !item) {
            json_decref(item);
            break;
        }
        bool here = after && id && strcmp(id, after) == 0;
        if (begun) json_array_append(data, item);
        json_decref(item);
        begun |= here;
    }
    json_decref(list);
    size_t shown = json_array_size(data);
    json_t *from = shown ? json_object_get(json_array_get(data, 0), "id") : NULL,
           *to = shown ? json_object_get(json_array_get(data, shown - 1), "id") : NULL;
    nib_http_json_reply(r, 200,
                        json_pack("{s:s, s:O?, s:O?, s:b, s:o}", "object", "list", "first_id", from,
                                  "last_id", to, "has_more", (int)more, "data", data));
}

void nib_get_openai_response(nib_http *r) {
    nib_response x = {0};
    nib_error e;
    size_t n = strcspn(r->rest, "/");
    bool items = strcmp(r->rest + n, "/input_items") == 0;
    char id[64];
    const char *stream = nib_http_query(r, "stream");
    snprintf(id, sizeof id, "%.*s", (int)NIB_MIN(n, sizeof id - 1), r->rest);
    if (r->rest[n] && !items)
        nib_http_error(r, 404, "not_found", NULL, "nothing is served at %.200s", r->path);
    else if (stream && strcmp(stream, "true") == 0)
        nib_http_error(r, 400, "unsupported", "stream",
                       "'stream' is not supported here: leave it out");
    else if (nib_response_get(web_store(r), id, r->client, &x, &e) != NIB_OK)
        nib_http_fail(r, &e, "response_id");
    else if (items)
        list_items(r, &x);
    else
        nib_http_reply(r, 200, "application/json", x.body, strlen(x.body));
    nib_response_free(&x);
}

void nib_delete_openai_response(nib_http *r) {
    nib_error e;
    if (nib_response_delete(web_store(r), r->rest, r->client, &e) == NIB_OK)
        nib_http_json_reply(r, 200,
                            json_pack("{s:s, s:s, s:b}", "id", r->rest, "object",
                                      "response.deleted", "deleted", true));
    else
        nib_http_fail(r, &e, "response_id");
}
