/* POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients speak them.
 *
 * A reply is a list of blocks, thoughts before text. When the last message is the assistant's, the
 * reply continues it. */
#include "server/api.h"

/* ---- reading ---- */

/* The text of blocks; thoughts go to 'thinking' (NULL: they are no part of this message). */
static nib_status blocks(const json_t *v, const char *what, nib_buf *text, nib_buf *thinking,
                         nib_error *e) {
    if (!json_is_array(v)) return nib_content_text(v, what, text, e);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *block = json_array_get(v, i);
        const char *type = json_string_value(json_object_get(block, "type"));
        bool thought = type && thinking && strcmp(type, "thinking") == 0;
        if (type && thinking && strcmp(type, "redacted_thinking") == 0) continue;
        if (!type || (strcmp(type, "text") != 0 && !thought))
            return nib_fail(e, NIB_ERR_UNSUPPORTED,
                            "'%s': blocks of type '%.40s' are not supported, only text", what,
                            type ? type : "?");
        const json_t *s = json_object_get(block, thought ? "thinking" : "text");
        if (!json_is_string(s)) return nib_expected(what, "blocks with a text", block, e);
        if (!nib_buf_put(thought ? thinking : text, json_string_value(s), json_string_length(s)))
            return nib_fail_nomem(e, json_string_length(s), what);
    }
    return NIB_OK;
}

static nib_status set_messages(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_array(v) || json_array_size(v) == 0)
        return nib_expected(name, "a list of one message or more", v, e);
    if (a->max_messages > 0 && json_array_size(v) > (size_t)a->max_messages)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': %zu messages, at most %d are taken", name,
                        json_array_size(v), a->max_messages);
    const char *role = NULL;
    nib_buf text = {0}, thinking = {0};
    nib_status s = NIB_OK;
    for (size_t i = 0; s == NIB_OK && i < json_array_size(v); i++) {
        const json_t *m = json_array_get(v, i);
        char what[40];
        snprintf(what, sizeof what, "messages[%zu].content", i);
        role = json_string_value(json_object_get(m, "role"));
        if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0)) {
            s = nib_fail(e, NIB_ERR_ARGUMENT, "'messages[%zu].role': expected user or assistant",
                         i);
            break;
        }
        nib_buf_clear(&text);
        nib_buf_clear(&thinking);
        s = blocks(json_object_get(m, "content"), what, &text, &thinking, e);
        if (s == NIB_OK)
            s = nib_add_message(a, role, text.len ? text.data : "",
                                thinking.len ? thinking.data : NULL, e);
    }
    a->q->go_on = s == NIB_OK && role && strcmp(role, "assistant") == 0;
    nib_buf_free(&text);
    nib_buf_free(&thinking);
    return s;
}

static nib_status set_system(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    nib_buf text = {0};
    nib_status s = blocks(v, name, &text, NULL, e);
    if (s == NIB_OK && text.len && !(a->q->p.system = nib_keep_text(a, text.data, text.len)))
        s = nib_fail_nomem(e, text.len, name);
    nib_buf_free(&text);
    return s;
}

static nib_status set_thinking(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    int i;
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *budget = json_object_get(v, "budget_tokens");
    if (!type) return nib_expected(name, "an object with a type", v, e);
    NIB_TRY(nib_parse_choice("thinking.type", type, "enabled|disabled|adaptive", &i, e));
    a->q->p.think = i == 0 ? NIB_THINK_ON : i == 1 ? NIB_THINK_OFF : NIB_THINK_AUTO;
    if (!budget) return NIB_OK;
    if (!json_is_integer(budget) || json_integer_value(budget) < 1)
        return nib_expected("thinking.budget_tokens", "1 or more", budget, e);
    a->q->p.think_budget = json_integer_value(budget);
    return NIB_OK;
}

/* clang-format off */
static const nib_field fields[] = {
    NIB_TEXT("model", model),
    NIB_CALL("messages", set_messages),
    NIB_CALL("system", set_system),
    NIB_CALL("max_tokens", nib_set_max_tokens),
    NIB_FLOAT("temperature", p.sampling.temperature, 0, 1),
    NIB_FLOAT("top_p", p.sampling.top_p, 0, 1),
    NIB_INT("top_k", p.sampling.top_k, 0, INT32_MAX),
    NIB_CALL("stop_sequences", nib_set_stop),
    NIB_SWITCH("stream", stream),
    NIB_CALL("thinking", set_thinking),
    NIB_IGNORE("metadata"),
    NIB_IGNORE("service_tier"),
    NIB_REFUSE("tools"),
    NIB_REFUSE("tool_choice"),
    NIB_REFUSE("container"),
    NIB_REFUSE("mcp_servers"),
    NIB_REFUSE("context_management"),
    NIB_REFUSE("output_config"),
    NIB_REFUSE("output_format"),
    NIB_FIELDS_END
};
/* clang-format on */

static nib_status read_common(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {fields, NULL};
    NIB_TRY(nib_fields_read(a, body, tables, e));
    if (!a->q->messages.n)
        return nib_fail(e, NIB_ERR_ARGUMENT, "messages: expected a list of messages, found none");
    return NIB_OK;
}

nib_status nib_anthropic_read(nib_ask *a, const json_t *body, nib_error *e) {
    NIB_TRY(read_common(a, body, e));
    if (!json_object_get(body, "max_tokens"))
        return nib_fail(e, NIB_ERR_ARGUMENT, "max_tokens: expected a number, found none");
    return NIB_OK;
}

static nib_status read_count(nib_ask *a, const json_t *body, nib_error *e) {
    a->q->dry = true;
    return read_common(a, body, e);
}

/* ---- replies ---- */

static const char *stop_reason(const nib_choice *c) {
    if (c->stop) return "stop_sequence";
    return strcmp(nib_finish_word(c), "stop") == 0 ? "end_turn" : "max_tokens";
}

static void put_stop(nib_buf *b, const nib_choice *c) {
    nib_buf_printf(b, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(c));
    if (c->stop)
        nib_put_json(b, c->stop, strlen(c->stop));
    else
        nib_buf_puts(b, "null");
}

static void put_usage(nib_buf *b, const nib_said *x) {
    int64_t cached = nib_said_cached(x);
    nib_buf_printf(b,
                   "\"usage\":{\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,"
                   "\"cache_read_input_tokens\":%lld,\"output_tokens\":%lld}",
                   (long long)(x->n_prompt - cached), (long long)cached,
                   (long long)nib_said_generated(x));
}

static void put_head(nib_buf *b, const nib_said *x) {
    nib_buf_printf(b,
                   "\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", x->id);
    nib_put_json(b, x->ask.model, strlen(x->ask.model));
}

static void whole(nib_said *x) {
    nib_buf *b = &x->out;
    const nib_choice *c = &x->choices[0];
    nib_buf_puts(b, "{");
    put_head(b, x);
    nib_buf_puts(b, ",\"content\":[");
    if (c->thinking.len) {
        nib_buf_puts(b, "{\"type\":\"thinking\",\"thinking\":");
        nib_put_json(b, c->thinking.data, c->thinking.len);
        nib_buf_puts(b, ",\"signature\":\"\"}");
    }
    if (c->text.len || !c->thinking.len) {
        nib_buf_printf(b, "%s{\"type\":\"text\",\"text\":", c->thinking.len ? "," : "");
        nib_put_json(b, c->text.len ? c->text.data : "", c->text.len);
        nib_buf_puts(b, "}");
    }
    nib_buf_puts(b, "],");
    put_stop(b, c);
    nib_buf_puts(b, ",");
    put_usage(b, x);
    nib_buf_puts(b, "}");
    nib_said_reply(x);
}

static void begin(nib_said *x) {
    nib_buf_puts(&x->out, "{\"type\":\"message_start\",\"message\":{");
    put_head(&x->out, x);
    nib_buf_puts(&x->out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(&x->out, x);
    nib_buf_puts(&x->out, "}}");
    nib_said_sse(x, "message_start");
    nib_http_sse(x->r, "ping", "{\"type\":\"ping\"}", 15);
}

enum { NO_BLOCK, THOUGHTS, TEXT }; /* x->part */

static void close_block(nib_said *x) {
    if (x->part == THOUGHTS) {
        nib_buf_printf(&x->out,
                       "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":"
                       "\"signature_delta\",\"signature\":\"\"}}",
                       x->n_parts);
        nib_said_sse(x, "content_block_delta");
    }
    if (x->part != NO_BLOCK) {
        nib_buf_printf(&x->out, "{\"type\":\"content_block_stop\",\"index\":%d}", x->n_parts++);
        nib_said_sse(x, "content_block_stop");
    }
    x->part = NO_BLOCK;
}

static void open_block(nib_said *x, int kind) {
    if (x->part == kind) return;
    close_block(x);
    x->part = kind;
    nib_buf_printf(&x->out, "{\"type\":\"content_block_start\",\"index\":%d,\"content_block\":%s}",
                   x->n_parts,
                   kind == THOUGHTS ? "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}"
                                    : "{\"type\":\"text\",\"text\":\"\"}");
    nib_said_sse(x, "content_block_start");
}

static void piece(nib_said *x, int index, const nib_piece *p) {
    bool thought = p->kind == NIB_PIECE_THOUGHT;
    (void)index;
    open_block(x, thought ? THOUGHTS : TEXT);
    nib_buf_printf(&x->out,
                   "{\"type\":\"content_block_delta\",\"index\":%d,\"delta\":", x->n_parts);
    nib_buf_puts(&x->out, thought ? "{\"type\":\"thinking_delta\",\"thinking\":"
                                  : "{\"type\":\"text_delta\",\"text\":");
    nib_put_json(&x->out, p->text, p->len);
    nib_buf_puts(&x->out, "}}");
    nib_said_sse(x, "content_block_delta");
}

static void end(nib_said *x) {
    if (x->part == NO_BLOCK && !x->n_parts) open_block(x, TEXT); /* be it empty */
    close_block(x);
    nib_buf_puts(&x->out, "{\"type\":\"message_delta\",\"delta\":{");
    put_stop(&x->out, &x->choices[0]);
    nib_buf_puts(&x->out, "},");
    put_usage(&x->out, x);
    nib_buf_puts(&x->out, "}");
    nib_said_sse(x, "message_delta");
    nib_http_sse(x->r, "message_stop", "{\"type\":\"message_stop\"}", 23);
}

static void failed(nib_said *x, const nib_error *e) {
    nib_http_error_body(NIB_ANTHROPIC, nib_http_status_of(e, NULL), NULL, NULL, e->message,
                        &x->out);
    nib_said_sse(x, "error");
}

void nib_post_anthropic_messages(nib_http *r) {
    static const nib_voice voice = {.stream_type = "text/event-stream",
                                    .begin = begin,
                                    .piece = piece,
                                    .end = end,
                                    .whole = whole,
                                    .failed = failed};
    nib_api_read(r, nib_anthropic_read, &voice, "msg_");
}

static void tell_count(nib_said *x) {
    nib_buf_printf(&x->out, "{\"input_tokens\":%lld}", (long long)x->n_prompt);
    nib_said_reply(x);
}

void nib_post_anthropic_count(nib_http *r) {
    static const nib_voice voice = {.whole = tell_count};
    nib_api_read(r, read_count, &voice, "count_");
}
