/* llama.cpp's own endpoints: /props, /slots, /tokenize, /detokenize, /apply-template, /completion.
 */
#include "server/api.h"

static const nib_model *model_of(nib_http *r) {
    return nib_http_model(r);
}

/* ---- what runs ---- */

static json_t *token_text(const nib_tokenizer *t, int32_t id) {
    nib_str s = id >= 0 ? nib_token_text(t, id) : (nib_str){0};
    json_t *v = json_stringn(s.p ? s.p : "", s.n);
    return v ? v : json_string("");
}

static json_t *sampling(nib_http *r) {
    const nib_sample_params p = nib_model_sampling(model_of(r));
    const nib_server_params *sp = nib_server_params_of(r->server);
    return json_pack("{s:f, s:i, s:f, s:f, s:f, s:f, s:i, s:f, s:f, s:I}", "temperature",
                     (double)p.temperature, "top_k", (int)p.top_k, "top_p", (double)p.top_p,
                     "min_p", (double)p.min_p, "typical_p", (double)p.typical_p, "repeat_penalty",
                     (double)p.repeat_penalty, "repeat_last_n", (int)p.penalty_window,
                     "presence_penalty", (double)p.presence_penalty, "frequency_penalty",
                     (double)p.frequency_penalty, "n_predict", (json_int_t)sp->max_tokens);
}

void nib_get_llama_props(nib_http *r) {
    nib_sched *s = nib_http_sched(r);
    const nib_model_info *info = nib_model_get_info(model_of(r));
    const nib_tokenizer *t = nib_model_tokenizer(model_of(r));
    const nib_tokenizer_info *ti = nib_tokenizer_get_info(t);
    nib_sched_stats st;
    nib_sched_get_stats(s, &st);
    nib_http_json_reply(r, 200,
                        json_pack("{s:{s:o, s:I}, s:i, s:s, s:s, s:s, s:o, s:o, s:s, s:{s:b, s:b}}",
                                  "default_generation_settings", "params", sampling(r), "n_ctx",
                                  (json_int_t)nib_sched_n_ctx(s), "total_slots", st.n_slots,
                                  "model_alias", nib_http_model_name(r), "model_path", info->path,
                                  "chat_template", info->chat_template ? info->chat_template : "",
                                  "bos_token", token_text(t, ti->bos), "eos_token",
                                  token_text(t, ti->eos), "build_info", nib_version(), "modalities",
                                  "vision", false, "audio", false));
}

void nib_get_llama_slots(nib_http *r) {
    nib_sched *s = nib_http_sched(r);
    json_t *list = json_array();
    nib_slot_info x;
    bool any = false;
    for (int i = 0; nib_sched_slot(s, i, &x); i++) {
        any |= !x.busy;
        json_array_append_new(list,
                              json_pack("{s:i, s:I, s:b, s:I, s:I, s:I, s:I}", "id", i, "n_ctx",
                                        (json_int_t)nib_sched_n_ctx(s), "is_processing", x.busy,
                                        "id_task", x.busy ? (json_int_t)x.job : -1, "n_prompt",
                                        (json_int_t)x.n_prompt, "n_past", (json_int_t)x.n_held,
                                        "n_decoded", (json_int_t)x.n_generated));
    }
    if (!any && nib_http_query(r, "fail_on_no_slot")) {
        json_decref(list);
        nib_http_error(r, 503, "no_slot", NULL, "no slot available");
        return;
    }
    nib_http_json_reply(r, 200, list);
}

/* ---- text and tokens ---- */

static nib_status set_content(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_string(v)) return nib_expected(name, "a string", v, e);
    if (nib_buf_put(&a->q->text, json_string_value(v), json_string_length(v))) return NIB_OK;
    return nib_fail_nomem(e, json_string_length(v), name);
}

static nib_status set_tokens(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_array(v)) return nib_expected(name, "a list of token ids", v, e);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);
        json_int_t n = json_integer_value(id);
        if (!json_is_integer(id) || n < 0 || n > INT32_MAX)
            return nib_expected(name, "token ids", id, e);
        if (!nib_ids_push(&a->q->ids, (int32_t)n)) return nib_fail_nomem(e, i, name);
    }
    return NIB_OK;
}

/* Reads the body by a table; the field 'needed' must be there. False: the client was told. */
static bool read_ask(nib_http *r, nib_ask *a, const nib_field *table, const char *needed) {
    const nib_field *const tables[] = {table, NULL};
    const json_t *body = nib_http_json(r);
    nib_error e;
    if (!body || !nib_ask_init(a, r)) return false;
    a->parse_special = true;
    nib_status s = nib_fields_read(a, body, tables, &e);
    if (s == NIB_OK && !json_object_get(body, needed)) {
        a->param = needed;
        s = nib_expected(needed, "a value", NULL, &e);
    }
    if (s == NIB_OK) return true;
    nib_http_fail(r, &e, a->param);
    nib_ask_free(a);
    return false;
}

static void send(nib_http *r, nib_status s, nib_buf *b, const nib_error *e, const char *param) {
    if (s == NIB_OK && b->failed)
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the reply");
    else if (s == NIB_OK)
        nib_http_reply(r, 200, "application/json", b->data, b->len);
    else
        nib_http_fail(r, e, param);
    nib_buf_free(b);
}

/* A token's text; of one that is only a part of a character, its bytes. */
static void put_token_piece(nib_buf *b, const nib_tokenizer *t, int32_t id) {
    nib_str s = nib_token_piece(t, id, true);
    const char *p = s.p ? s.p : "";
    if (nib_utf8_valid(p, s.n)) {
        nib_put_json(b, p, s.n);
        return;
    }
    for (size_t i = 0; i < s.n; i++) nib_buf_printf(b, "%c%d", i ? ',' : '[', (uint8_t)p[i]);
    nib_buf_putc(b, ']');
}

void nib_post_llama_tokenize(nib_http *r) {
    static const nib_field fields[] = {NIB_TEXT("model", model),
                                       NIB_CALL("content", set_content),
                                       NIB_SWITCH("add_special", add_special),
                                       NIB_SWITCH("parse_special", parse_special),
                                       NIB_SWITCH("with_pieces", with_pieces),
                                       NIB_FIELDS_END};
    nib_ask a;
    nib_error e;
    nib_ids ids = {0};
    nib_buf b = {0};
    if (!read_ask(r, &a, fields, "content")) return;
    const nib_tokenizer *t = nib_model_tokenizer(model_of(r));
    const nib_buf *text = &a.q->text;
    unsigned flags =
        (a.add_special ? NIB_TOK_SPECIAL : 0u) | (a.parse_special ? NIB_TOK_PARSE : 0u);
    nib_status s = nib_tokenize(t, text->len ? text->data : "", text->len, flags, &ids, &e);
    nib_buf_puts(&b, "{\"tokens\":[");
    for (size_t i = 0; s == NIB_OK && i < ids.len; i++) {
        if (i) nib_buf_puts(&b, ",");
        nib_buf_printf(&b, a.with_pieces ? "{\"id\":%d,\"piece\":" : "%d", (int)ids.data[i]);
        if (a.with_pieces) put_token_piece(&b, t, ids.data[i]);
        if (a.with_pieces) nib_buf_puts(&b, "}");
    }
    nib_buf_puts(&b, "]}");
    send(r, s, &b, &e, "content");
    nib_ids_free(&ids);
    nib_ask_free(&a);
}

void nib_post_llama_detokenize(nib_http *r) {
    static const nib_field fields[] = {NIB_TEXT("model", model), NIB_CALL("tokens", set_tokens),
                                       NIB_FIELDS_END};
    nib_ask a;
    nib_error e;
    nib_buf text = {0}, b = {0};
    if (!read_ask(r, &a, fields, "tokens")) return;
    const nib_ids *ids = &a.q->ids;
    int64_t n_vocab = nib_model_get_info(model_of(r))->n_vocab;
    nib_status s = NIB_OK;
    for (size_t i = 0; s == NIB_OK && i < ids->len; i++)
        if (ids->data[i] >= n_vocab)
            s = nib_fail(&e, NIB_ERR_ARGUMENT, "'tokens': expected ids from 0 to %lld, found %d",
                         (long long)n_vocab - 1, (int)ids->data[i]);
    if (s == NIB_OK)
        s = nib_detokenize(nib_model_tokenizer(model_of(r)), ids->data, ids->len, true, &text, &e);
    nib_buf_puts(&b, "{\"content\":");
    nib_put_json(&b, text.len ? text.data : "", text.len);
    nib_buf_puts(&b, "}");
    send(r, s, &b, &e, "tokens");
    nib_buf_free(&text);
    nib_ask_free(&a);
}

void nib_post_llama_template(nib_http *r) {
    /* clang-format off */
    static const nib_field fields[] = {
        NIB_TEXT("model", model),
        NIB_CALL("messages", nib_set_messages),
        NIB_CALL("chat_template_kwargs", nib_set_template_kwargs),
        NIB_FIELDS_END
    };
    /* clang-format on */
    nib_ask a;
    nib_error e;
    nib_rendered text = {0};
    nib_buf b = {0};
    if (!read_ask(r, &a, fields, "messages")) return;
    nib_prompt p = {.model = model_of(r),
                    .tmpl = nib_sched_template(nib_http_sched(r)),
                    .p = &a.q->p,
                    .messages = &a.q->messages};
    nib_status s = nib_prompt_render(&p, &text, &e);
    nib_buf_puts(&b, "{\"prompt\":");
    nib_put_json(&b, text.text.len ? text.text.data : "", text.text.len);
    nib_buf_puts(&b, "}");
    send(r, s, &b, &e, "messages");
    nib_rendered_free(&text);
    nib_ask_free(&a);
}

/* ---- /completion ---- */

static nib_status set_predict(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (json_is_integer(v) && json_integer_value(v) < 0) return NIB_OK;
    return nib_set_max_tokens(a, name, v, e);
}
static nib_status set_cache(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->no_cache = json_is_false(v);
    return NIB_OK;
}
static nib_status set_time(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "milliseconds", v, e);
    double seconds = (double)json_integer_value(v) / 1e3, most = a->q->p.max_seconds;
    if (seconds > 0) a->q->p.max_seconds = most > 0 ? NIB_MIN(most, seconds) : seconds;
    return NIB_OK;
}
static nib_status set_ignore_end(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->p.ignore_end = json_is_true(v);
    return NIB_OK;
}

/* clang-format off */
static const nib_field completion_fields[] = {
    NIB_TEXT("model", model),
    NIB_CALL("prompt", nib_set_prompt),
    NIB_SWITCH("stream", stream),
    NIB_CALL("n_predict", set_predict),
    NIB_CALL("max_tokens", set_predict),
    NIB_CALL("stop", nib_set_stop),
    NIB_CALL("cache_prompt", set_cache),
    NIB_CALL("ignore_eos", set_ignore_end),
    NIB_CALL("logit_bias", nib_set_logit_bias),
    NIB_CALL("t_max_predict_ms", set_time),
    NIB_WHOLE("n_probs", top_logprobs, 0, NIB_ODDS_MAX),
    NIB_IGNORE("id_slot"),
    NIB_IGNORE("timings_per_token"),
    NIB_IGNORE("n_keep"),
    NIB_IGNORE("n_cache_reuse"),
    NIB_REFUSE("grammar"),
    NIB_REFUSE("json_schema"),
    NIB_REFUSE("lora"),
    NIB_REFUSE("samplers"),
    NIB_REFUSE("n_indent"),
    NIB_REFUSE("min_keep"),
    NIB_REFUSE("return_tokens"),
    NIB_REFUSE("return_progress"),
    NIB_REFUSE("response_fields"),
    NIB_REFUSE("post_sampling_probs"),
    NIB_REFUSE("image_data"),
    /* samplers that are not there: 0 switches them off, and then their settings mean nothing */
    NIB_REFUSE("mirostat"),
    NIB_IGNORE("mirostat_tau"),
    NIB_IGNORE("mirostat_eta"),
    NIB_REFUSE("dynatemp_range"),
    NIB_IGNORE("dynatemp_exponent"),
    NIB_REFUSE("dry_multiplier"),
    NIB_IGNORE("dry_base"),
    NIB_IGNORE("dry_allowed_length"),
    NIB_IGNORE("dry_penalty_last_n"),
    NIB_IGNORE("dry_sequence_breakers"),
    NIB_REFUSE("xtc_probability"),
    NIB_IGNORE("xtc_threshold"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_llama_completion_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {completion_fields, nib_sampling_fields, NULL};
    a->q->p.raw = true;
    a->q->p.parse_special = true; /* as /apply-template writes them */
    NIB_TRY(nib_fields_read(a, body, tables, e));
    a->q->n_logprobs = a->top_logprobs ? (int)a->top_logprobs : -1;
    if (json_object_get(body, "prompt")) return NIB_OK;
    a->param = "prompt";
    return nib_fail(e, NIB_ERR_ARGUMENT, "'prompt': expected a text to continue, found none");
}

static void on_odds(nib_said *x, int index, const nib_odds *o) {
    nib_choice *c = &x->choices[index];
    const nib_tokenizer *t = nib_said_tokenizer(x);
    nib_buf *b = x->ask.stream ? &c->unsent_odds : &c->odds;
    nib_buf_printf(b, "%s{\"id\":%d,\"token\":", b->len ? "," : "", (int)o->token);
    nib_put_token_text(b, t, o->token);
    nib_buf_printf(b, ",\"logprob\":%.9g,\"top_logprobs\":[", o->logprob);
    for (int i = 0; i < o->n_top; i++) {
        nib_buf_printf(b, "%s{\"id\":%d,\"token\":", i ? "," : "", (int)o->top[i].token);
        nib_put_token_text(b, t, o->top[i].token);
        nib_buf_printf(b, ",\"logprob\":%.9g}", o->top[i].logprob);
    }
    nib_buf_puts(b, "]}");
}

static void put(nib_said *x, int index, const char *text, size_t n, nib_buf *odds, bool stop) {
    nib_buf *b = &x->out;
    nib_buf_printf(b, "{\"index\":%d,\"content\":", index);
    nib_put_json(b, text, n);
    if (odds->len) nib_buf_printf(b, ",\"completion_probabilities\":[%s]", odds->data);
    nib_buf_clear(odds);
    nib_buf_printf(b, ",\"tokens\":[],\"id_slot\":-1,\"stop\":%s,\"tokens_evaluated\":%lld",
                   stop ? "true" : "false", (long long)x->choices[index].n_prompt);
}

static void put_end(nib_said *x, int index) {
    nib_buf *b = &x->out;
    const nib_choice *c = &x->choices[index];
    const char *finish = c->finish ? c->finish : "stop";
    double ms = c->generate_seconds * 1e3, prompt_ms = c->prompt_seconds * 1e3;
    int64_t n = c->n_prompt - c->n_cached;
    nib_buf_puts(b, ",\"model\":");
    nib_put_json(b, x->ask.model, strlen(x->ask.model));
    nib_buf_printf(b, ",\"tokens_predicted\":%lld,\"tokens_cached\":%lld,\"truncated\":false,",
                   (long long)c->n_generated, (long long)c->n_cached);
    nib_buf_printf(b, "\"has_new_line\":%s,\"stop_type\":\"%s\",\"stopping_word\":",
                   c->text.len && strchr(c->text.data, '\n') ? "true" : "false",
                   c->stop                       ? "word"
                   : strcmp(finish, "stop") == 0 ? "eos"
                                                 : "limit");
    nib_put_json(b, c->stop ? c->stop : "", c->stop ? strlen(c->stop) : 0);
    nib_buf_printf(b,
                   ",\"timings\":{\"cache_n\":%lld,\"prompt_n\":%lld,\"prompt_ms\":%.3f,"
                   "\"prompt_per_second\":%.3f,\"predicted_n\":%lld,\"predicted_ms\":%.3f,"
                   "\"predicted_per_second\":%.3f}}",
                   (long long)c->n_cached, (long long)n, prompt_ms,
                   prompt_ms > 0 ? (double)n / prompt_ms * 1e3 : 0, (long long)c->n_generated, ms,
                   ms > 0 ? (double)c->n_generated / ms * 1e3 : 0);
}

static void piece(nib_said *x, int index, const nib_piece *p) {
    put(x, index, p->text, p->len, &x->choices[index].unsent_odds, false);
    nib_buf_puts(&x->out, "}");
    nib_said_sse(x, NULL);
}
static void reply(nib_said *x, int index) {
    put(x, index, "", 0, &x->choices[index].unsent_odds, true);
    put_end(x, index);
    nib_said_sse(x, NULL);
}
/* Several prompts are answered by a list. */
static void whole(nib_said *x) {
    bool list = x->ask.n_prompts > 1;
    if (list) nib_buf_putc(&x->out, '[');
    for (int i = 0; i < x->n; i++) {
        nib_choice *c = &x->choices[i];
        if (i) nib_buf_putc(&x->out, ',');
        put(x, i, c->text.len ? c->text.data : "", c->text.len, &c->odds, true);
        put_end(x, i);
    }
    if (list) nib_buf_putc(&x->out, ']');
    nib_said_reply(x);
}
static void failed(nib_said *x, const nib_error *e) {
    const char *code;
    int status = nib_http_status_of(e, &code);
    nib_http_error_body(NIB_OPENAI, status, code, NULL, e->message, &x->out);
    nib_said_sse(x, NULL);
}

void nib_post_llama_completion(nib_http *r) {
    static const nib_voice voice = {.stream_type = "text/event-stream",
                                    .piece = piece,
                                    .odds = on_odds,
                                    .reply = reply,
                                    .whole = whole,
                                    .failed = failed};
    nib_api_read(r, nib_llama_completion_read, &voice, "");
}
