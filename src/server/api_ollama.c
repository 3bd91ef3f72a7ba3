/* Ollama's API: /api/chat, /api/generate, /api/embed and what its clients ask about models.
 *
 * Streams are lines of JSON and are the default; times are nanoseconds. keep_alive says how long a
 * model stays loaded; a request without anything to answer only loads or unloads it. */
#include <time.h>
#include "server/api_openai.h"
#include "server/locals.h"

static long long ns(double seconds) {
    return (long long)(seconds * 1e9);
}

/* ---- reading ---- */

static nib_status set_predict(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "a whole number", v, e);
    if (json_integer_value(v) < 0) return NIB_OK; /* as much as there may be */
    return nib_set_max_tokens(a, name, v, e);
}

/* A sampler that is not there; 1 switches it off. */
static nib_status set_tail_free(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    (void)a;
    if (json_is_number(v) && json_number_value(v) == 1) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s' is not supported: leave it out", name);
}

static nib_status set_options(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    /* clang-format off */
    static const nib_field fields[] = {
        NIB_CALL("num_predict", set_predict),
        NIB_CALL("stop", nib_set_stop),
        NIB_IGNORE("num_ctx"), NIB_IGNORE("num_keep"), NIB_IGNORE("num_batch"),
        NIB_IGNORE("num_gpu"), NIB_IGNORE("main_gpu"), NIB_IGNORE("num_thread"),
        NIB_IGNORE("use_mmap"), NIB_IGNORE("use_mlock"), NIB_IGNORE("numa"),
        NIB_IGNORE("low_vram"), NIB_IGNORE("vocab_only"), NIB_IGNORE("f16_kv"),
        NIB_REFUSE("mirostat"), NIB_IGNORE("mirostat_tau"), NIB_IGNORE("mirostat_eta"),
        NIB_CALL("tfs_z", set_tail_free), NIB_IGNORE("penalize_newline"),
        NIB_FIELDS_END
    };
    /* clang-format on */
    const nib_field *const tables[] = {fields, nib_sampling_fields, NULL};
    if (!json_is_object(v)) return nib_expected(name, "an object", v, e);
    return nib_fields_read(a, v, tables, e);
}

static nib_status set_think(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (json_is_string(v)) return nib_set_effort(a, name, v, e);
    if (!json_is_boolean(v)) return nib_expected(name, "true, false or a level", v, e);
    a->q->p.think = json_is_true(v) ? NIB_THINK_ON : NIB_THINK_OFF;
    return NIB_OK;
}

static nib_status set_messages(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (json_is_array(v) && json_array_size(v) == 0) return NIB_OK; /* load or unload */
    return nib_set_messages(a, name, v, e);
}

static nib_status set_system(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_string(v)) return nib_expected(name, "a string", v, e);
    return nib_add_message(a, "system", json_string_value(v), NULL, e);
}

static nib_status set_raw(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_boolean(v)) return nib_expected(name, "true or false", v, e);
    a->q->p.raw = json_is_true(v);
    return NIB_OK;
}

/* clang-format off */
static const nib_field common_fields[] = {
    NIB_TEXT("model", model),
    NIB_SWITCH("stream", stream),
    NIB_CALL("options", set_options),
    NIB_CALL("think", set_think),
    NIB_CALL("keep_alive", nib_set_keep),
    NIB_REFUSE("format"),
    NIB_REFUSE("truncate"), /* nothing is ever cut without a word */
    NIB_REFUSE("shift"),
    NIB_FIELDS_END
};
static const nib_field chat_fields[] = {
    NIB_CALL("messages", set_messages),
    NIB_REFUSE("tools"),
    NIB_REFUSE("logprobs"),
    NIB_REFUSE("top_logprobs"),
    NIB_FIELDS_END
};
static const nib_field generate_fields[] = {
    NIB_CALL("prompt", nib_set_prompt),
    NIB_CALL("system", set_system),
    NIB_CALL("raw", set_raw),
    NIB_REFUSE("suffix"),
    NIB_REFUSE("template"),
    NIB_REFUSE("images"),
    NIB_REFUSE("context"),
    NIB_REFUSE("logprobs"),
    NIB_REFUSE("top_logprobs"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_ollama_chat_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {chat_fields, common_fields, NULL};
    a->stream = true;
    return nib_fields_read(a, body, tables, e);
}

nib_status nib_ollama_generate_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {generate_fields, common_fields, NULL};
    nib_request *q = a->q;
    a->stream = true;
    NIB_TRY(nib_fields_read(a, body, tables, e));
    if (q->ids.len || a->n_prompts)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'prompt': expected a string");
    a->param = "system";
    if (q->p.raw && q->p.system)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'system' has no place in a raw prompt: leave it out");
    a->param = NULL;
    if (q->p.raw || !q->text.len) return NIB_OK;
    return nib_messages_add(&q->messages, "user", q->text.data, NULL, e);
}

/* ---- replies ---- */

static void put_head(nib_said *x) {
    nib_buf_puts(&x->out, "{\"model\":");
    nib_put_json(&x->out, x->ask.model, strlen(x->ask.model));
    nib_buf_puts(&x->out, ",\"created_at\":\"");
    nib_put_time(&x->out);
    nib_buf_puts(&x->out, "\"");
}

static void put_text(nib_said *x, bool chat, const char *text, size_t n, const char *thinking,
                     size_t n_thinking) {
    nib_buf *b = &x->out;
    if (chat)
        nib_buf_puts(b, ",\"message\":{\"role\":\"assistant\",\"content\":");
    else
        nib_buf_puts(b, ",\"response\":");
    nib_put_json(b, text, n);
    if (n_thinking) {
        nib_buf_puts(b, ",\"thinking\":");
        nib_put_json(b, thinking, n_thinking);
    }
    if (chat) nib_buf_puts(b, "}");
}

static void put_done(nib_said *x) {
    const nib_choice *c = &x->choices[0];
    nib_buf_printf(
        &x->out,
        ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,"
        "\"load_duration\":%lld,\"prompt_eval_count\":%lld,\"prompt_eval_duration\":%lld,"
        "\"eval_count\":%lld,\"eval_duration\":%lld}",
        nib_finish_word(c), ns(nib_now() - x->start + nib_http_waited(x->r)),
        ns(nib_http_waited(x->r)), (long long)x->n_prompt, ns(c->prompt_seconds),
        (long long)c->n_generated, ns(c->generate_seconds));
}

static void say(nib_said *x, bool chat, const nib_piece *p) {
    bool thought = p->kind == NIB_PIECE_THOUGHT;
    put_head(x);
    put_text(x, chat, thought ? "" : p->text, thought ? 0 : p->len, p->text, thought ? p->len : 0);
    nib_buf_puts(&x->out, ",\"done\":false}");
    nib_said_line(x);
}

static void end(nib_said *x, bool chat) {
    put_head(x);
    put_text(x, chat, "", 0, "", 0);
    put_done(x);
    nib_said_line(x);
}

static void whole(nib_said *x, bool chat) {
    const nib_choice *c = &x->choices[0];
    put_head(x);
    put_text(x, chat, c->text.len ? c->text.data : "", c->text.len, c->thinking.data,
             c->thinking.len);
    put_done(x);
    nib_said_reply(x);
}

static void failed(nib_said *x, const nib_error *e) {
    nib_http_error_body(NIB_OLLAMA, 500, NULL, NULL, e->message, &x->out);
    nib_said_line(x);
}

static void chat_piece(nib_said *x, int index, const nib_piece *p) {
    (void)index;
    say(x, true, p);
}
static void chat_end(nib_said *x) {
    end(x, true);
}
static void chat_whole(nib_said *x) {
    whole(x, true);
}
static void generate_piece(nib_said *x, int index, const nib_piece *p) {
    (void)index;
    say(x, false, p);
}
static void generate_end(nib_said *x) {
    end(x, false);
}
static void generate_whole(nib_said *x) {
    whole(x, false);
}

static const nib_voice chat_voice = {.stream_type = "application/x-ndjson",
                                     .piece = chat_piece,
                                     .end = chat_end,
                                     .whole = chat_whole,
                                     .failed = failed};
static const nib_voice generate_voice = {.stream_type = "application/x-ndjson",
                                         .piece = generate_piece,
                                         .end = generate_end,
                                         .whole = generate_whole,
                                         .failed = failed};

/* ---- loading and unloading ---- */

static void put_empty(nib_http *r, const char *name, const char *why) {
    bool chat = r->path[strlen(r->path) - 1] == 't';
    nib_buf b = {0};
    nib_buf_puts(&b, "{\"model\":");
    nib_put_json(&b, name, strlen(name));
    nib_buf_puts(&b, ",\"created_at\":\"");
    nib_put_time(&b);
    nib_buf_printf(
        &b, "\",%s,\"done\":true,\"done_reason\":\"%s\"}",
        chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"\"}" : "\"response\":\"\"", why);
    nib_http_reply(r, 200, "application/json", b.data, b.len);
    nib_buf_free(&b);
}

/* keep_alive of a request that has no more to say: seconds. False: there is none, or *wrong, and
 * the client was told. */
static bool read_keep(nib_http *r, double *seconds, bool *wrong) {
    const json_t *v = json_object_get(nib_http_json(r), "keep_alive");
    nib_ask a = {0};
    nib_error e;
    *wrong = v && !json_is_null(v) && nib_set_keep(&a, "keep_alive", v, &e) != NIB_OK;
    *seconds = a.keep;
    if (*wrong) nib_http_fail(r, &e, "keep_alive");
    return a.keep_given;
}

static void tell_loaded(nib_http *r) {
    double keep;
    bool wrong;
    if (read_keep(r, &keep, &wrong)) nib_http_keep(r, keep);
    put_empty(r, nib_http_model_name(r), "load");
}

/* A request without anything to answer loads the model, or with keep_alive 0 unloads it. */
static void answer(nib_http *r, const char *field, nib_handler go_on) {
    enum { SHORT = 4096 }; /* others have something to answer */
    if (r->body.n > SHORT) {
        nib_http_with_model(r, go_on);
        return;
    }
    const json_t *body = nib_http_json(r), *v = json_object_get(body, field);
    double keep;
    bool wrong = false;
    nib_local *m = NULL;
    if (!body) return;
    bool empty = !v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0) ||
                 (json_is_string(v) && json_string_length(v) == 0);
    const char *name = json_string_value(json_object_get(body, "model"));
    if (empty && read_keep(r, &keep, &wrong) && keep == 0)
        m = nib_locals_find(r->server, name, true);
    if (wrong) return;
    if (!m) {
        nib_http_with_model(r, empty ? tell_loaded : go_on);
        return;
    }
    put_empty(r, m->name, "unload");
    if (m->state == NIB_LOCAL_READY) nib_local_keep(r->server, m, 0);
}

static void chat(nib_http *r) {
    nib_api_read(r, nib_ollama_chat_read, &chat_voice, "");
}
void nib_post_ollama_chat(nib_http *r) {
    answer(r, "messages", chat);
}

static void generate(nib_http *r) {
    nib_api_read(r, nib_ollama_generate_read, &generate_voice, "");
}
void nib_post_ollama_generate(nib_http *r) {
    answer(r, "prompt", generate);
}

/* ---- embeddings ---- */

static nib_status set_truncate(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    (void)a;
    if (json_is_false(v)) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "'%s': texts are never cut without a word: leave it out, or send less", name);
}

static nib_status embed_read(nib_ask *a, const json_t *body, nib_error *e) {
    /* clang-format off */
    static const nib_field fields[] = {
        NIB_TEXT("model", model),
        NIB_CALL("input", nib_set_texts),
        NIB_CALL("prompt", nib_set_texts), /* of the older /api/embeddings */
        NIB_WHOLE("dimensions", dimensions, 1, 1 << 20),
        NIB_CALL("truncate", set_truncate),
        NIB_IGNORE("options"),
        NIB_CALL("keep_alive", nib_set_keep),
        NIB_FIELDS_END
    };
    /* clang-format on */
    const nib_field *const tables[] = {fields, NULL};
    NIB_TRY(nib_fields_read(a, body, tables, e));
    if (a->q->n_texts) return NIB_OK;
    return nib_fail(e, NIB_ERR_ARGUMENT, "'input': expected a text or more, found none");
}

static void vectors(nib_said *x) {
    if (!nib_cut_vectors(x)) return;
    nib_buf_puts(&x->out, "{\"model\":");
    nib_put_json(&x->out, x->ask.model, strlen(x->ask.model));
    nib_buf_puts(&x->out, ",\"embeddings\":[");
    for (int i = 0; i < x->n; i++) {
        if (i) nib_buf_puts(&x->out, ",");
        nib_put_vector(&x->out, x->vectors[i], x->n_embd);
    }
    nib_buf_printf(&x->out,
                   "],\"total_duration\":%lld,\"load_duration\":%lld,\"prompt_eval_count\":%lld}",
                   ns(nib_now() - x->start + nib_http_waited(x->r)), ns(nib_http_waited(x->r)),
                   (long long)x->n_prompt);
    nib_said_reply(x);
}

static void one_vector(nib_said *x) {
    if (!nib_cut_vectors(x)) return;
    nib_buf_puts(&x->out, "{\"embedding\":");
    nib_put_vector(&x->out, x->vectors[0], x->n_embd);
    nib_buf_puts(&x->out, "}");
    nib_said_reply(x);
}

void nib_post_ollama_embed(nib_http *r) {
    static const nib_voice voice = {.whole = vectors};
    nib_api_read(r, embed_read, &voice, "");
}
void nib_post_ollama_embeddings(nib_http *r) {
    static const nib_voice voice = {.whole = one_vector};
    nib_api_read(r, embed_read, &voice, "");
}

/* ---- models ---- */

static json_t *details(const nib_local *m) {
    char size[32] = "";
    double n = (double)m->look.n_params;
    const char *arch = m->look.arch ? m->look.arch : "";
    if (n >= 1e9)
        snprintf(size, sizeof size, "%.1fB", n / 1e9);
    else if (n >= 1e6)
        snprintf(size, sizeof size, "%.1fM", n / 1e6);
    else if (n > 0)
        snprintf(size, sizeof size, "%.1fK", n / 1e3);
    return json_pack("{s:s, s:s, s:s, s:[s], s:s, s:s}", "parent_model", "", "format", "gguf",
                     "family", arch, "families", arch, "parameter_size", size, "quantization_level",
                     m->look.quant);
}

/* A moment in RFC 3339. */
static const char *moment(time_t t, char out[40]) {
    struct tm tm = {0};
    gmtime_r(&t, &tm);
    strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return out;
}

/* What stands for the model in lists. */
static json_t *entry(const nib_local *m, uint64_t bytes) {
    json_t *v = json_pack("{s:s, s:s, s:I, s:o}", "name", m->name, "model", m->name, "size",
                          (json_int_t)bytes, "details", details(m));
    if (*m->digest) json_object_set_new(v, "digest", json_string(m->digest));
    return v;
}

void nib_get_ollama_tags(nib_http *r) {
    json_t *list = json_array();
    char when[40];
    nib_locals_refresh(r->server);
    for (size_t i = 0; i < nib_locals_n(r->server); i++) {
        const nib_local *m = nib_locals_at(r->server, i);
        json_t *one = entry(m, m->bytes);
        json_object_set_new(one, "modified_at", json_string(moment(m->when, when)));
        json_array_append_new(list, one);
    }
    nib_http_json_reply(r, 200, json_pack("{s:o}", "models", list));
}

void nib_get_ollama_ps(nib_http *r) {
    json_t *list = json_array();
    char when[40];
    for (size_t i = 0; i < nib_locals_n(r->server); i++) {
        const nib_local *m = nib_locals_at(r->server, i);
        if (!m->sched) continue;
        json_t *one = entry(m, m->held);
        double left = m->n_users ? m->keep : m->keep - (nib_now() - m->idle_since);
        json_object_set_new(one, "expires_at",
                            json_string(m->keep < 0
                                            ? "2318-12-31T23:59:59Z"
                                            : moment(time(NULL) + (time_t)NIB_MAX(left, 0), when)));
        json_object_set_new(one, "size_vram", json_integer(0));
        json_object_set_new(one, "context_length", json_integer((json_int_t)m->n_ctx));
        json_array_append_new(list, one);
    }
    nib_http_json_reply(r, 200, json_pack("{s:o}", "models", list));
}

/* What the file's header says; nothing is loaded for it. */
void nib_post_ollama_show(nib_http *r) {
    const json_t *body = nib_http_json(r);
    const char *name = json_string_value(json_object_get(body, "model"));
    if (!body) return;
    if (!name) name = json_string_value(json_object_get(body, "name")); /* of older clients */
    const nib_local *m = nib_locals_find(r->server, name, true);
    nib_locals_refresh(r->server);
    if (!m) {
        nib_buf b = {0};
        nib_locals_put_names(r->server, &b);
        nib_http_error(r, 404, "model_not_found", "model", "model '%.100s' not found: %s",
                       name ? name : "", b.failed ? "" : b.data);
        nib_buf_free(&b);
        return;
    }
    const nib_look *i = &m->look;
    const char *arch = i->arch ? i->arch : "";
    json_t *keys = json_object(), *can = json_array();
    const struct {
        const char *name;
        int64_t value;
    } rows[] = {{"context_length", i->n_ctx_train},    {"embedding_length", i->n_embd},
                {"block_count", i->n_layer},           {"feed_forward_length", i->n_ff},
                {"attention.head_count", i->n_head},   {"attention.head_count_kv", i->n_head_kv},
                {"attention.key_length", i->head_dim}, {"vocab_size", i->n_vocab}};
    json_object_set_new(keys, "general.architecture", json_string(arch));
    json_object_set_new(keys, "general.parameter_count", json_integer((json_int_t)i->n_params));
    for (size_t k = 0; k < NIB_ARRAY_LEN(rows); k++) {
        char key[160];
        snprintf(key, sizeof key, "%.100s.%s", arch, rows[k].name);
        json_object_set_new(keys, key, json_integer((json_int_t)rows[k].value));
    }
    json_array_append_new(can, json_string(i->causal ? "completion" : "embedding"));
    if (i->chat_template && strstr(i->chat_template, "think"))
        json_array_append_new(can, json_string("thinking"));
    nib_http_json_reply(r, 200,
                        json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "license", "", "modelfile",
                                  "", "parameters", "", "template",
                                  i->chat_template ? i->chat_template : "", "details", details(m),
                                  "model_info", keys, "capabilities", can));
}

void nib_get_ollama_version(nib_http *r) {
    nib_http_json_reply(r, 200, json_pack("{s:s}", "version", nib_version()));
}
