/* POST /v1/completions and /v1/embeddings, as OpenAI's clients speak them. */
#include <math.h>
#include "server/api_openai.h"

/* ---- completions ---- */

static nib_status set_logprobs(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    if (!json_is_integer(v)) return nib_expected(name, "a whole number", v, e);
    if (json_integer_value(v) < 0 || json_integer_value(v) > NIB_ODDS_MAX)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected 0 to %d", name, (int)NIB_ODDS_MAX);
    a->logprobs = true;
    a->top_logprobs = json_integer_value(v);
    return NIB_OK;
}

/* clang-format off */
static const nib_field completion_fields[] = {
    NIB_CALL("prompt", nib_set_prompt),
    NIB_SWITCH("echo", echo),
    NIB_CALL("logprobs", set_logprobs),
    NIB_WHOLE("best_of", best_of, 1, 20),
    NIB_REFUSE("suffix"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_openai_completion_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {completion_fields, nib_openai_fields, nib_sampling_fields,
                                       NULL};
    a->q->p.raw = true;
    NIB_TRY(nib_fields_read(a, body, tables, e));
    a->param = "prompt";
    if (!json_object_get(body, "prompt"))
        return nib_fail(e, NIB_ERR_ARGUMENT, "'prompt': expected a text to continue, found none");
    a->param = "echo";
    if (a->echo && a->q->ids.len)
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "'echo' needs a prompt that is text");
    a->param = "logprobs";
    if (a->echo && a->logprobs)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'logprobs' with 'echo' is not supported: those of a prompt are not known");
    a->param = "best_of";
    if (a->best_of && a->best_of < a->n)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'best_of': expected 'n' or more, found %lld",
                        (long long)a->best_of);
    if (a->best_of > a->n)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'best_of' beyond 'n' is not supported: every reply made is sent");
    a->param = NULL;
    a->q->n_logprobs = a->logprobs ? (int)a->top_logprobs : -1;
    if (a->echo && a->q->text.len)
        a->system = nib_arena_strndup(a->arena, a->q->text.data, a->q->text.len);
    return NIB_OK;
}

/* Four parallel lists; kept as rows until they are wanted. */
static void on_odds(nib_said *x, int index, const nib_odds *o) {
    nib_choice *c = &x->choices[index];
    const nib_tokenizer *t = nib_said_tokenizer(x);
    nib_buf *b = x->ask.stream ? &c->unsent_odds : &c->odds;
    if (b->len) nib_buf_putc(b, '\n');
    nib_put_token_text(b, t, o->token);
    nib_buf_printf(b, "\t%.9g\t{", o->logprob);
    for (int i = 0; i < o->n_top; i++) {
        if (i) nib_buf_puts(b, ",");
        nib_put_token_text(b, t, o->top[i].token);
        nib_buf_printf(b, ":%.9g", o->top[i].logprob);
    }
    nib_buf_printf(b, "}\t%lld", (long long)c->n_chars);
    nib_str s = nib_token_piece(t, o->token, true);
    for (size_t i = 0; i < s.n; i++) c->n_chars += ((unsigned char)s.p[i] & 0xc0) != 0x80;
}

static void put_column(nib_buf *b, const char *name, const nib_buf *rows, int column) {
    nib_buf_printf(b, "\"%s\":[", name);
    for (const char *p = rows->len ? rows->data : NULL; p && *p;) {
        const char *end = p + strcspn(p, "\n"), *cell = p;
        for (int i = 0; i < column; i++) cell += strcspn(cell, "\t") + 1;
        const char *tab = memchr(cell, '\t', (size_t)(end - cell));
        if (p != rows->data) nib_buf_puts(b, ",");
        nib_buf_put(b, cell, (size_t)((tab ? tab : end) - cell));
        p = *end ? end + 1 : NULL;
    }
    nib_buf_puts(b, "]");
}

static void put_odds(nib_buf *b, const nib_ask *a, const nib_buf *rows) {
    if (!a->logprobs) {
        nib_buf_puts(b, ",\"logprobs\":null");
        return;
    }
    nib_buf_puts(b, ",\"logprobs\":{");
    put_column(b, "tokens", rows, 0);
    nib_buf_puts(b, ",");
    put_column(b, "token_logprobs", rows, 1);
    nib_buf_puts(b, ",");
    put_column(b, "top_logprobs", rows, 2);
    nib_buf_puts(b, ",");
    put_column(b, "text_offset", rows, 3);
    nib_buf_puts(b, "}");
}

static void chunk(nib_said *x, int index, const char *text, size_t n, const char *finish) {
    nib_choice *c = &x->choices[index];
    nib_buf *b = &x->out;
    nib_openai_put_head(x, "text_completion", b);
    nib_buf_printf(b, ",\"choices\":[{\"index\":%d,\"text\":", index);
    nib_put_json(b, text, n);
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

/* What is echoed before a reply; NULL: nothing. */
static const char *echo_of(const nib_said *x, int index) {
    return x->ask.echoes ? x->ask.echoes[index / x->n_each] : x->ask.system;
}

static void begin(nib_said *x) {
    for (int i = 0; i < x->n; i++)
        if (echo_of(x, i)) chunk(x, i, echo_of(x, i), strlen(echo_of(x, i)), NULL);
}
static void piece(nib_said *x, int index, const nib_piece *p) {
    chunk(x, index, p->text, p->len, NULL);
}
static void reply(nib_said *x, int index) {
    chunk(x, index, "", 0, nib_finish_word(&x->choices[index]));
}
static void end(nib_said *x) {
    if (x->ask.include_usage) {
        nib_openai_put_head(x, "text_completion", &x->out);
        nib_buf_puts(&x->out, ",\"choices\":[],");
        nib_openai_put_usage(x, &x->out);
        nib_buf_puts(&x->out, "}");
        nib_said_sse(x, NULL);
    }
    nib_openai_end_stream(x);
}

static void whole(nib_said *x) {
    nib_buf *b = &x->out, text = {0};
    nib_openai_put_head(x, "text_completion", b);
    nib_buf_puts(b, ",\"choices\":[");
    for (int i = 0; i < x->n; i++) {
        nib_choice *c = &x->choices[i];
        nib_buf_printf(b, "%s{\"index\":%d,\"text\":", i ? "," : "", i);
        nib_buf_clear(&text);
        if (echo_of(x, i)) nib_buf_puts(&text, echo_of(x, i));
        if (c->text.len) nib_buf_put(&text, c->text.data, c->text.len);
        nib_put_json(b, text.len ? text.data : "", text.len);
        put_odds(b, &x->ask, &c->odds);
        nib_buf_printf(b, ",\"finish_reason\":\"%s\"}", nib_finish_word(c));
    }
    nib_buf_puts(b, "],");
    nib_openai_put_usage(x, b);
    nib_buf_puts(b, "}");
    b->failed |= text.failed;
    nib_buf_free(&text);
    nib_said_reply(x);
}

static const nib_voice completion_voice = {.stream_type = "text/event-stream",
                                           .begin = begin,
                                           .piece = piece,
                                           .odds = on_odds,
                                           .reply = reply,
                                           .end = end,
                                           .whole = whole,
                                           .failed = nib_openai_failed};

void nib_post_openai_completion(nib_http *r) {
    nib_api_read(r, nib_openai_completion_read, &completion_voice, "cmpl-");
}

/* ---- embeddings ---- */

static nib_status set_encoding(nib_ask *a, const char *name, const json_t *v, nib_error *e) {
    int i;
    if (!json_is_string(v)) return nib_expected(name, "a string", v, e);
    NIB_TRY(nib_parse_choice(name, json_string_value(v), "float|base64", &i, e));
    a->base64 = i == 1;
    return NIB_OK;
}

/* clang-format off */
static const nib_field embedding_fields[] = {
    NIB_TEXT("model", model),
    NIB_CALL("input", nib_set_texts),
    NIB_CALL("encoding_format", set_encoding),
    NIB_WHOLE("dimensions", dimensions, 1, 1 << 20),
    NIB_IGNORE("user"),
    NIB_FIELDS_END
};
/* clang-format on */

nib_status nib_openai_embedding_read(nib_ask *a, const json_t *body, nib_error *e) {
    const nib_field *const tables[] = {embedding_fields, NULL};
    NIB_TRY(nib_fields_read(a, body, tables, e));
    a->param = "input";
    if (!a->q->n_texts)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'input': expected a text or more, found none");
    a->param = NULL;
    return NIB_OK;
}

static void put_base64(nib_buf *b, const void *data, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    nib_buf_putc(b, '"');
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
                     (left > 2 ? p[i + 2] : 0);
        char out[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                       left > 2 ? digits[v & 63] : '='};
        nib_buf_put(b, out, 4);
    }
    nib_buf_putc(b, '"');
}

void nib_put_vector(nib_buf *b, const float *v, size_t n) {
    nib_buf_putc(b, '[');
    for (size_t i = 0; i < n; i++) nib_buf_printf(b, "%s%.9g", i ? "," : "", (double)v[i]);
    nib_buf_putc(b, ']');
}

bool nib_cut_vectors(nib_said *x) {
    size_t n = x->ask.dimensions ? (size_t)x->ask.dimensions : x->n_embd;
    bool whole_ = true;
    for (int k = 0; k < x->n; k++) whole_ &= x->vectors[k] != NULL;
    if (!whole_) {
        nib_http_error(x->r, 503, "out_of_memory", NULL, "out of memory for the vectors");
        return false;
    }
    if (n > x->n_embd) {
        nib_http_error(x->r, 400, "invalid_value", "dimensions",
                       "'dimensions': expected 1 to %zu, which is what the model has", x->n_embd);
        return false;
    }
    for (int k = 0; k < x->n && n < x->n_embd; k++) { /* the first n, of length 1 again */
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += (double)x->vectors[k][i] * (double)x->vectors[k][i];
        for (size_t i = 0; sum > 0 && i < n; i++) x->vectors[k][i] /= (float)sqrt(sum);
    }
    x->n_embd = n;
    return true;
}

static void vectors(nib_said *x) {
    nib_buf *b = &x->out;
    if (!nib_cut_vectors(x)) return;
    nib_buf_puts(b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < x->n; i++) {
        nib_buf_printf(b, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "",
                       i);
        if (x->ask.base64)
            put_base64(b, x->vectors[i], x->n_embd * sizeof(float));
        else
            nib_put_vector(b, x->vectors[i], x->n_embd);
        nib_buf_puts(b, "}");
    }
    nib_buf_puts(b, "],\"model\":");
    nib_put_json(b, x->ask.model, strlen(x->ask.model));
    nib_buf_printf(b, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
                   (long long)x->n_prompt, (long long)x->n_prompt);
    nib_said_reply(x);
}

void nib_post_openai_embedding(nib_http *r) {
    static const nib_voice voice = {.whole = vectors};
    nib_api_read(r, nib_openai_embedding_read, &voice, "embd-");
}
