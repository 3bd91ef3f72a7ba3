/* From events to an API's reply: collects what is said, and lets the voice of the API say it, piece
 * by piece or whole. */
#include <sys/time.h>
#include <time.h>
#include "server/api.h"

void nib_make_id(char *out, size_t n, const char *prefix) {
    snprintf(out, n, "%s%016llx%08x", prefix, (unsigned long long)nib_entropy(),
             (unsigned)nib_entropy());
}

void nib_put_time(nib_buf *b) {
    struct timeval t;
    struct tm tm;
    char text[32];
    gettimeofday(&t, NULL);
    gmtime_r(&t.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    nib_buf_printf(b, "%s.%06ldZ", text, (long)t.tv_usec);
}

const char *nib_finish_word(const nib_choice *c) {
    const char *f = c->finish ? c->finish : "stop";
    return strcmp(f, "stop") == 0 || strcmp(f, "sentences") == 0 ? "stop" : "length";
}

int64_t nib_said_generated(const nib_said *x) {
    int64_t n = 0;
    for (int i = 0; i < x->n; i++) n += x->choices[i].n_generated;
    return n;
}

/* Of the prompts, each of which counts once however many replies there are. */
int64_t nib_said_cached(const nib_said *x) {
    int64_t n = 0;
    for (int i = 0; i < x->n; i += x->n_each) n += x->choices[i].n_cached;
    return n;
}

const nib_tokenizer *nib_said_tokenizer(const nib_said *x) {
    return nib_model_tokenizer(nib_http_model(x->r));
}

void nib_put_token_text(nib_buf *b, const nib_tokenizer *t, int32_t id) {
    nib_str s = nib_token_piece(t, id, true);
    nib_put_json(b, s.p ? s.p : "", s.n);
}

void nib_said_sse(nib_said *x, const char *event) {
    if (!x->out.failed) nib_http_sse(x->r, event, x->out.data, x->out.len);
    nib_buf_clear(&x->out);
}

void nib_said_line(nib_said *x) {
    nib_buf_putc(&x->out, '\n');
    if (!x->out.failed) nib_http_write(x->r, x->out.data, x->out.len);
    nib_buf_clear(&x->out);
}

void nib_said_reply(nib_said *x) {
    if (x->out.failed)
        nib_http_error(x->r, 503, "out_of_memory", NULL, "out of memory for the reply");
    else
        nib_http_reply(x->r, 200, "application/json", x->out.data, x->out.len);
}

static void free_answer(nib_http *r) {
    nib_said *x = r->state;
    for (int i = 0; i < x->n; i++) {
        nib_choice *c = &x->choices[i];
        nib_buf_free(&c->text);
        nib_buf_free(&c->thinking);
        nib_buf_free(&c->odds);
        nib_buf_free(&c->unsent_odds);
        if (x->vectors) nib_free(x->vectors[i]);
    }
    nib_free(x->choices);
    nib_free(x->vectors);
    nib_free(x->vector_tokens);
    nib_ask_free(&x->ask);
    nib_messages_free(&x->messages);
    nib_buf_free(&x->out);
    nib_free(x);
}

static void on_piece(nib_said *x, int index, const nib_piece *p) {
    nib_choice *c = &x->choices[index];
    if (p->kind == NIB_PIECE_ODDS) {
        if (x->voice->odds) x->voice->odds(x, index, p->odds);
        return;
    }
    if (p->kind == NIB_PIECE_ANSWER) nib_buf_put(&c->text, p->text, p->len);
    if (p->kind == NIB_PIECE_THOUGHT) nib_buf_put(&c->thinking, p->text, p->len);
    if (p->kind == NIB_PIECE_PROMPT || !x->ask.stream) return;
    if (x->voice->piece) x->voice->piece(x, index, p);
    c->spoke |= p->kind == NIB_PIECE_ANSWER;
    c->thought |= p->kind == NIB_PIECE_THOUGHT;
}

static void on_reply(nib_said *x, int index, const nib_reply *r) {
    nib_choice *c = &x->choices[index];
    c->finish = r->finish;
    c->n_prompt = r->n_prompt;
    c->n_cached = r->n_cached;
    c->n_generated = r->n_generated;
    c->n_thought = r->n_thought;
    if (r->stop) c->stop = nib_arena_strndup(&x->r->arena, r->stop, strlen(r->stop));
    c->prompt_seconds = r->prompt_seconds;
    c->generate_seconds = r->generate_seconds;
    c->first_token_seconds = r->first_token_seconds;
    c->seed = r->seed;
    if (x->ask.stream && x->voice->reply) x->voice->reply(x, index);
}

static void tell_all(nib_http *r) {
    nib_said *x = r->state;
    if (!nib_http_streaming(r)) {
        x->voice->whole(x);
        return;
    }
    if (x->voice->end) x->voice->end(x);
    nib_http_end(r);
}

static void keep(nib_http *r) {
    nib_said *x = r->state;
    x->voice->keep(x);
    nib_http_next(r, NIB_LANE_IO, tell_all);
}

static void on_end(nib_said *x, nib_status status, const nib_error *e) {
    nib_http *r = x->r;
    if (status == NIB_OK && x->voice->keep && x->ask.store) {
        nib_http_next(r, NIB_LANE_STORE, keep);
    } else if (status == NIB_OK) {
        tell_all(r);
    } else if (!nib_http_streaming(r)) {
        nib_http_fail(r, e, x->ask.param);
    } else {
        if (x->voice->failed) x->voice->failed(x, e);
        nib_http_end(r);
    }
}

static void on_event(nib_http *r, const nib_event *ev) {
    nib_said *x = r->state;
    switch (ev->kind) {
    case NIB_EVENT_READY:
        x->n_prompt += ev->n_prompt;
        for (int i = 0; i < x->n_each && ev->index + i < x->n; i++)
            x->choices[ev->index + i].n_prompt = ev->n_prompt;
        if (!x->ask.stream || nib_http_streaming(r)) break;
        nib_http_stream(r, 200, x->voice->stream_type);
        if (x->voice->begin) x->voice->begin(x);
        break;
    case NIB_EVENT_PIECE: on_piece(x, ev->index, ev->piece); break;
    case NIB_EVENT_REPLY: on_reply(x, ev->index, ev->reply); break;
    case NIB_EVENT_VECTOR: {
        size_t bytes = x->n_embd * sizeof(float);
        if ((x->vectors[ev->index] = nib_alloc(bytes)))
            memcpy(x->vectors[ev->index], ev->vector, bytes);
        x->vector_tokens[ev->index] = ev->n_prompt;
        break;
    }
    case NIB_EVENT_END: on_end(x, ev->status, ev->error); break;
    }
}

void nib_said_start(nib_http *r, nib_ask *ask, const nib_voice *voice, const char *id_prefix) {
    nib_messages none = {0};
    nib_said_start_with(r, ask, voice, id_prefix, &none);
}

void nib_said_start_with(nib_http *r, nib_ask *ask, const nib_voice *voice, const char *id_prefix,
                         nib_messages *messages) {
    nib_said *x = nib_calloc(1, sizeof *x);
    size_t n_more = ask->n_prompts > 1 ? ask->n_prompts - 1 : 0;
    size_t n = ask->q->n_texts ? ask->q->n_texts : (size_t)ask->n * (n_more + 1);
    bool ok = x && (x->choices = nib_calloc(n, sizeof *x->choices));
    if (ok && ask->q->n_texts)
        ok = (x->vectors = nib_calloc(n, sizeof *x->vectors)) &&
             (x->vector_tokens = nib_calloc(n, sizeof *x->vector_tokens));
    if (!ok) {
        if (x) {
            nib_free(x->choices);
            nib_free(x->vectors);
        }
        nib_free(x);
        nib_messages_free(messages);
        nib_ask_free(ask);
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the request");
        return;
    }
    x->r = r;
    x->messages = *messages;
    x->ask = *ask;
    x->voice = voice;
    x->n = (int)n;
    x->n_each = (int)NIB_MAX(ask->n, 1);
    x->start = nib_now();
    x->created = (int64_t)time(NULL);
    nib_make_id(x->id, sizeof x->id, id_prefix);
    if (ask->keep_given) nib_http_keep(r, ask->keep);
    nib_request *q = x->ask.q;
    x->ask.q = NULL; /* the scheduler's from here on */
    q->n = x->n_each;
    x->ask.model = nib_http_model_name(r);
    x->n_embd = (size_t)nib_model_get_info(nib_http_model(r))->n_embd;
    r->state = x;
    r->on_gone = free_answer;
    ok = nib_http_generate(r, q, on_event);
    for (size_t i = 0; ok && i < n_more; i++) {
        q = x->ask.more[i];
        x->ask.more[i] = NULL;
        q->n = x->n_each;
        ok = nib_http_generate_more(r, q, (int)(i + 1) * x->n_each, on_event);
    }
}

/* A request that is being read. */
typedef struct reading {
    nib_ask ask;
    nib_read_fn read;
    const nib_voice *voice;
    const char *id_prefix;
} reading;

static void drop_reading(nib_http *r) {
    nib_ask_free(&((reading *)r->state)->ask);
}

static void start(nib_http *r) {
    reading *x = r->state;
    nib_ask ask = x->ask;
    x->ask = (nib_ask){0};
    nib_said_start(r, &ask, x->voice, x->id_prefix);
}

/* The prompts after the first. False: the client was told why not. */
static bool read_more(nib_http *r, reading *x, const json_t *body) {
    nib_ask *a = &x->ask;
    nib_error e;
    size_t n = a->n_prompts;
    a->more = nib_arena_calloc(&r->arena, n, sizeof *a->more);
    a->echoes = nib_arena_calloc(&r->arena, n, sizeof *a->echoes);
    if (!a->more || !a->echoes) {
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the prompts");
        return false;
    }
    a->echoes[0] = a->system;
    for (size_t i = 1; i < n; i++) {
        nib_ask one;
        if (!nib_ask_init(&one, r)) return false;
        one.which = i;
        nib_status s = x->read(&one, body, &e);
        a->more[i - 1] = one.q;
        a->echoes[i] = one.system;
        one.q = NULL;
        nib_ask_free(&one);
        if (s == NIB_OK) continue;
        nib_http_fail(r, &e, one.param);
        return false;
    }
    return true;
}

static void read_it(nib_http *r) {
    reading *x = r->state;
    nib_error e;
    const json_t *body = nib_http_json(r);
    if (!body || !nib_ask_init(&x->ask, r)) return;
    if (x->read(&x->ask, body, &e) != NIB_OK)
        nib_http_fail(r, &e, x->ask.param);
    else if (x->ask.n_prompts <= 1 || read_more(r, x, body))
        nib_http_next(r, NIB_LANE_IO, start);
}

nib_lane nib_api_lane(const nib_http *r) {
    enum { LONG = 32 << 10 }; /* bytes: a third of a millisecond */
    return r->body.n > LONG ? NIB_LANE_TEXT : NIB_LANE_IO;
}

void nib_api_read(nib_http *r, nib_read_fn read, const nib_voice *v, const char *id_prefix) {
    reading *x = nib_arena_calloc(&r->arena, 1, sizeof *x);
    if (!x) {
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the request");
        return;
    }
    *x = (reading){.read = read, .voice = v, .id_prefix = id_prefix};
    r->state = x;
    r->on_gone = drop_reading;
    nib_http_next(r, nib_api_lane(r), read_it);
}
