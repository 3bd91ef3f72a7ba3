/* POST /v1/chat/completions, as OpenAI's clients speak it.
 *
 * Beyond OpenAI's fields it takes the sampling names of other engines (top_k, min_p, ...), and
 * chat_template_kwargs.enable_thinking; thoughts come as reasoning_content. A stream is "data:
 * {...}" events and "data: [DONE]". */
#include "server/api_openai.h"

static nib_status set_stream_options(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    static const nib_field fields[] = {NIB_SWITCH("include_usage", include_usage),
                                       NIB_IGNORE("include_obfuscation"), NIB_FIELDS_END};
    const nib_field *const tables[] = {fields, NULL};
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    return nib_fields_read(a, v, tables, e);
}

static nib_status set_response_format(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    (void)a;
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && strcmp(type, "text") == 0) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s': only {\"type\": \"text\"} is supported", name);
}

static nib_status set_tool_choice(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    (void)a;
    const char *word = json_string_value(v);
    if (word && (strcmp(word, "none") == 0 || strcmp(word, "auto") == 0)) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s': tools are not supported", name);
}

static nib_status set_modalities(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    (void)a;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *word = json_string_value(json_array_get(v, i));
        if (!word || strcmp(word, "text") != 0)
            return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s': only text is supported", name);
    }
    return NIB_OK;
}

static nib_status set_no_cache(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->no_cache = json_is_false(v);
    return NIB_OK;
}

static nib_status set_go_on(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->go_on = json_is_true(v);
    return NIB_OK;
}

static nib_status set_ignore_end(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->p.ignore_end = json_is_true(v);
    return NIB_OK;
}

/* clang-format off */
const nib_field nib_openai_fields[] = {
    NIB_TEXT("model", model),
    NIB_SWITCH("stream", stream),
    NIB_CALL("stream_options", set_stream_options),
    NIB_CALL("max_tokens", nib_set_max_tokens),
    NIB_WHOLE("n", n, 1, 16),
    NIB_CALL("stop", nib_set_stop),
    NIB_CALL("logit_bias", nib_set_logit_bias),
    NIB_CALL("cache_prompt", set_no_cache),
    NIB_CALL("ignore_eos", set_ignore_end),
    NIB_IGNORE("user"),
    NIB_IGNORE("metadata"),
    NIB_IGNORE("service_tier"),
    NIB_IGNORE("safety_identifier"),
    NIB_IGNORE("prompt_cache_key"),
    NIB_IGNORE("prompt_cache_retention"),
    NIB_FIELDS_END
};
static const nib_field chat_fields[] = {
    NIB_CALL("messages", nib_set_messages),
    NIB_CALL("max_completion_tokens", nib_set_max_tokens),
    NIB_SWITCH("logprobs", logprobs),
    NIB_WHOLE("top_logprobs", top_logprobs, 0, NIB_ODDS_MAX),
    NIB_CALL("reasoning_effort", nib_set_effort),
    NIB_CALL("chat_template_kwargs", nib_set_template_kwargs),
    NIB_CALL("continue_final_message", set_go_on),
    NIB_CALL("response_format", set_response_format),
    NIB_CALL("tool_choice", set_tool_choice),
    NIB_CALL("modalities", set_modalities),
    NIB_REFUSE("tools"),
    NIB_REFUSE("functions"),
    NIB_REFUSE("function_call"),
    NIB_REFUSE("audio"),
    NIB_REFUSE("prediction"),
    NIB_REFUSE("web_search_options"),
    NIB_IGNORE("parallel_tool_calls"),
    NIB_IGNORE("store"),
    NIB_IGNORE("verbosity"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_openai_chat_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {chat_fields, nib_openai_fields, nib_sampling_fields, NULL};
    NIB_TRY(nib_fields_read(a, body, tables, e));
    a->param = "messages";
    if (!a->q->messages.n)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'messages': expected a list with a message of the user or more");
    a->param = "top_logprobs";
    if (a->top_logprobs && !a->logprobs)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'top_logprobs' needs logprobs: true");
    a->param = NULL;
    a->q->n_logprobs = a->logprobs ? (int)a->top_logprobs : -1;
    if (a->q->go_on && strcmp(a->q->messages.v[a->q->messages.n - 1].role, "assistant") != 0)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'continue_final_message': the last message is not the assistant's");
    return NIB_OK;
}

/* ---- replies ---- */

void nib_openai_put_usage(nib_said *x, nib_buf *b) {
    long long prompt = (long long)x->n_prompt, made = (long long)nib_said_generated(x), thought = 0;
    for (int i = 0; i < x->n; i++) thought += x->choices[i].n_thought;
    nib_buf_printf(b,
                   "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,"
                   "\"total_tokens\":%lld,\"prompt_tokens_details\":{\"cached_tokens\":%lld},"
                   "\"completion_tokens_details\":{\"reasoning_tokens\":%lld}}",
                   prompt, made, prompt + made, (long long)nib_said_cached(x), thought);
}

void nib_openai_put_head(nib_said *x, const char *object, nib_buf *b) {
    nib_buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", x->id, object,
                   (long long)x->created);
    nib_put_json(b, x->ask.model, strlen(x->ask.model));
    nib_buf_printf(b, ",\"system_fingerprint\":\"nib-%s\"", nib_version());
}

static void put_token(nib_buf *b, const nib_tokenizer *t, int32_t id, double logprob) {
    nib_str s = nib_token_piece(t, id, true);
    nib_buf_puts(b, "{\"token\":");
    nib_put_token_text(b, t, id);
    nib_buf_printf(b, ",\"logprob\":%.9g,\"bytes\":[", logprob);
    for (size_t i = 0; i < s.n; i++) nib_buf_printf(b, "%s%d", i ? "," : "", (unsigned char)s.p[i]);
    nib_buf_puts(b, "]");
}

static void on_odds(nib_said *x, int index, const nib_odds *o) {
    nib_choice *c = &x->choices[index];
    const nib_tokenizer *t = nib_said_tokenizer(x);
    if (o->thought) return;
    nib_buf *b = x->ask.stream ? &c->unsent_odds : &c->odds;
    if (b->len) nib_buf_puts(b, ",");
    put_token(b, t, o->token, o->logprob);
    nib_buf_puts(b, ",\"top_logprobs\":[");
    for (int i = 0; i < o->n_top; i++) {
        if (i) nib_buf_puts(b, ",");
        put_token(b, t, o->top[i].token, o->top[i].logprob);
        nib_buf_puts(b, "}");
    }
    nib_buf_puts(b, "]}");
}

static void put_odds(nib_buf *b, const nib_ask *a, const nib_buf *odds) {
    if (!a->logprobs)
        nib_buf_puts(b, ",\"logprobs\":null");
    else
        nib_buf_printf(b, ",\"logprobs\":{\"content\":[%s],\"refusal\":null}",
                       odds->len ? odds->data : "");
}

/* One chunk: delta is JSON without its braces. */
static void chunk(nib_said *x, int index, const char *delta, const char *text, size_t n,
                  const char *finish) {
    nib_choice *c = &x->choices[index];
    nib_buf *b = &x->out;
    nib_openai_put_head(x, "chat.completion.chunk", b);
    nib_buf_printf(b, ",\"choices\":[{\"index\":%d,\"delta\":{%s", index, delta);
    if (text) nib_put_json(b, text, n);
    nib_buf_puts(b, "}");
    put_odds(b, &x->ask, &c->unsent_odds);
    nib_buf_clear(&c->unsent_odds);
    if (finish)
        nib_buf_printf(b, ",\"finish_reason\":\"%s\"}]", finish);
    else
        nib_buf_puts(b, ",\"finish_reason\":null}]");
    if (x->ask.include_usage) nib_buf_puts(b, ",\"usage\":null");
    nib_buf_puts(b, "}");
    nib_said_sse(x, NULL);
}

static void begin(nib_said *x) {
    for (int i = 0; i < x->n; i++) chunk(x, i, "\"role\":\"assistant\",\"content\":", "", 0, NULL);
}

static void piece(nib_said *x, int index, const nib_piece *p) {
    bool thought = p->kind == NIB_PIECE_THOUGHT;
    chunk(x, index, thought ? "\"reasoning_content\":" : "\"content\":", p->text, p->len, NULL);
}

static void reply(nib_said *x, int index) {
    chunk(x, index, "", NULL, 0, nib_finish_word(&x->choices[index]));
}

void nib_openai_end_stream(nib_said *x) {
    nib_http_sse(x->r, NULL, "[DONE]", 6);
}

static void end(nib_said *x) {
    if (x->ask.include_usage) {
        nib_openai_put_head(x, "chat.completion.chunk", &x->out);
        nib_buf_puts(&x->out, ",\"choices\":[],");
        nib_openai_put_usage(x, &x->out);
        nib_buf_puts(&x->out, "}");
        nib_said_sse(x, NULL);
    }
    nib_openai_end_stream(x);
}

void nib_openai_failed(nib_said *x, const nib_error *e) {
    const char *code;
    int status = nib_http_status_of(e, &code);
    nib_http_error_body(NIB_OPENAI, status, code, NULL, e->message, &x->out);
    nib_said_sse(x, NULL);
}

static void whole(nib_said *x) {
    nib_buf *b = &x->out;
    nib_openai_put_head(x, "chat.completion", b);
    nib_buf_puts(b, ",\"choices\":[");
    for (int i = 0; i < x->n; i++) {
        nib_choice *c = &x->choices[i];
        nib_buf_printf(
            b, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "", i);
        nib_put_json(b, c->text.len ? c->text.data : "", c->text.len);
        if (c->thinking.len) {
            nib_buf_puts(b, ",\"reasoning_content\":");
            nib_put_json(b, c->thinking.data, c->thinking.len);
        }
        nib_buf_puts(b, ",\"refusal\":null}");
        put_odds(b, &x->ask, &c->odds);
        nib_buf_printf(b, ",\"finish_reason\":\"%s\"}", nib_finish_word(c));
    }
    nib_buf_puts(b, "],");
    nib_openai_put_usage(x, b);
    nib_buf_puts(b, "}");
    nib_said_reply(x);
}

static const nib_voice voice = {.stream_type = "text/event-stream",
                                .begin = begin,
                                .piece = piece,
                                .odds = on_odds,
                                .reply = reply,
                                .end = end,
                                .whole = whole,
                                .failed = nib_openai_failed};

void nib_post_openai_chat(nib_http *r) {
    nib_api_read(r, nib_openai_chat_read, &voice, "chatcmpl-");
}
