/* Ollama's API: /api/chat, /api/generate, /api/embed and what its clients ask about models.
 *
 * Streams are lines of JSON and are the default; times are nanoseconds. There is one model:
 * whatever name a client uses, it is meant, as with a model that was pulled under that name. */
#include <math.h>
#include <sys/stat.h>
#include <time.h>
#include "server/api_openai.h"

static long long ns(double seconds) {
    return (long long)(seconds * 1e9);
}

/* ---- reading ---- */

static nib_status set_predict(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "a whole number", v, e);
    if (json_integer_value(v) < 0) return NIB_OK; /* as much as there may be */
    return nib_set_max_tokens(a, name, v, e);
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
        NIB_REFUSE("tfs_z"), NIB_IGNORE("penalize_newline"),
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
    NIB_IGNORE("keep_alive"),
    NIB_REFUSE("format"),
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
    nib_buf_printf(&x->out,
                   ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%lld,"
                   "\"load_duration\":0,\"prompt_eval_count\":%lld,\"prompt_eval_duration\":%lld,"
                   "\"eval_count\":%lld,\"eval_duration\":%lld}",
                   nib_finish_word(c), ns(nib_now() - x->start), (long long)x->n_prompt,
                   ns(c->prompt_seconds), (long long)c->n_generated, ns(c->generate_seconds));
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

/* A request without anything to answer loads the model, which is loaded, or unloads it, which a
 * server of one model does not. False: it is none. */
static bool is_load(nib_http *r, const char *field, bool chat) {
    enum { SHORT = 4096 }; /* others have something to answer */
    const json_t *body = r->body.n <= SHORT ? nib_http_json(r) : NULL;
    if (!body) return r->body.n <= SHORT; /* told */
    const json_t *v = json_object_get(body, field), *keep = json_object_get(body, "keep_alive");
    bool empty = !v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0) ||
                 (json_is_string(v) && json_string_length(v) == 0);
    bool unload = json_is_number(keep) && json_number_value(keep) == 0;
    if (!empty) return false;
    nib_buf b = {0};
    nib_buf_puts(&b, "{\"model\":");
    nib_put_json(&b, nib_server_model_name(r->server), strlen(nib_server_model_name(r->server)));
    nib_buf_puts(&b, ",\"created_at\":\"");
    nib_put_time(&b);
    nib_buf_printf(&b, "\",%s,\"done\":true,\"done_reason\":\"%s\"}",
                   chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"\"}"
                        : "\"response\":\"\"",
                   unload ? "unload" : "load");
    nib_http_reply(r, 200, "application/json", b.data, b.len);
    nib_buf_free(&b);
    return true;
}

void nib_post_ollama_chat(nib_http *r) {
    if (!is_load(r, "messages", true)) nib_api_read(r, nib_ollama_chat_read, &chat_voice, "");
}

void nib_post_ollama_generate(nib_http *r) {
    if (!is_load(r, "prompt", false))
        nib_api_read(r, nib_ollama_generate_read, &generate_voice, "");
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
        NIB_IGNORE("keep_alive"),
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
                   "],\"total_duration\":%lld,\"load_duration\":0,\"prompt_eval_count\":%lld}",
                   ns(nib_now() - x->start), (long long)x->n_prompt);
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

static json_t *details(const nib_model_info *info) {
    char size[32];
    double n = (double)info->n_params;
    if (n >= 1e9)
        snprintf(size, sizeof size, "%.1fB", n / 1e9);
    else if (n >= 1e6)
        snprintf(size, sizeof size, "%.1fM", n / 1e6);
    else
        snprintf(size, sizeof size, "%.1fK", n / 1e3);
    return json_pack("{s:s, s:s, s:s, s:[s], s:s, s:s}", "parent_model", "", "format", "gguf",
                     "family", info->arch, "families", info->arch, "parameter_size", size,
                     "quantization_level", info->quant);
}

/* What stands for the model in lists: its digest would be the file's SHA-256, which takes long to
 * know; this one changes with path, size and time of change. */
static json_t *entry(nib_http *r) {
    nib_sched *s = nib_server_sched(r->server);
    if (!s) return NULL;
    const nib_model_info *info = nib_model_get_info(nib_sched_model(s));
    const char *name = nib_server_model_name(r->server);
    struct stat st = {0};
    char digest[65], changed[40];
    struct tm tm;
    if (stat(info->path, &st)) st.st_mtime = 0;
    uint64_t h =
        nib_hash(info->path, strlen(info->path), (uint64_t)st.st_mtime ^ (info->file_bytes << 20));
    for (int i = 0; i < 4; i++) {
        snprintf(digest + 16 * i, 17, "%016llx", (unsigned long long)h);
        h = nib_hash(&h, sizeof h, (uint64_t)i);
    }
    gmtime_r(&st.st_mtime, &tm);
    strftime(changed, sizeof changed, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:o}", "name", name, "model", name, "modified_at",
                     changed, "size", (json_int_t)info->file_bytes, "digest", digest, "details",
                     details(info));
}

void nib_get_ollama_tags(nib_http *r) {
    json_t *list = json_array(), *one = entry(r);
    if (one) json_array_append_new(list, one);
    nib_http_json_reply(r, 200, json_pack("{s:o}", "models", list));
}

void nib_get_ollama_ps(nib_http *r) {
    json_t *list = json_array(), *one = entry(r);
    if (one) {
        json_object_del(one, "modified_at");
        json_object_set_new(one, "expires_at", json_string("2318-12-31T23:59:59Z"));
        json_object_set_new(one, "size_vram", json_integer(0));
        json_object_set_new(one, "context_length",
                            json_integer((json_int_t)nib_sched_n_ctx(nib_server_sched(r->server))));
        json_array_append_new(list, one);
    }
    nib_http_json_reply(r, 200, json_pack("{s:o}", "models", list));
}

void nib_post_ollama_show(nib_http *r) {
    const nib_model *m = nib_sched_model(nib_server_sched(r->server));
    const nib_model_info *i = nib_model_get_info(m);
    json_t *keys = json_object(), *can = json_array();
    const struct {
        const char *name;
        int64_t value;
    } rows[] = {{"context_length", i->n_ctx_train},    {"embedding_length", i->n_embd},
                {"block_count", i->n_layer},           {"feed_forward_length", i->n_ff},
                {"attention.head_count", i->n_head},   {"attention.head_count_kv", i->n_head_kv},
                {"attention.key_length", i->head_dim}, {"vocab_size", i->n_vocab}};
    json_object_set_new(keys, "general.architecture", json_string(i->arch));
    json_object_set_new(keys, "general.parameter_count", json_integer((json_int_t)i->n_params));
    for (size_t k = 0; k < NIB_ARRAY_LEN(rows); k++) {
        char key[128];
        snprintf(key, sizeof key, "%s.%s", i->arch, rows[k].name);
        json_object_set_new(keys, key, json_integer((json_int_t)rows[k].value));
    }
    json_array_append_new(can, json_string(i->causal ? "completion" : "embedding"));
    if (i->chat_template && strstr(i->chat_template, "think"))
        json_array_append_new(can, json_string("thinking"));
    nib_http_json_reply(r, 200,
                        json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "license", "", "modelfile",
                                  "", "parameters", "", "template",
                                  i->chat_template ? i->chat_template : "", "details", details(i),
                                  "model_info", keys, "capabilities", can));
}

void nib_get_ollama_version(nib_http *r) {
    nib_http_json_reply(r, 200, json_pack("{s:s}", "version", nib_version()));
}
