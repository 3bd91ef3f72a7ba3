/* Replies under way: each is written into the store, then shown to whoever watches.
 *
 * Text is shown five tokens or a tenth of a second at a time. A script that watches gets each piece
 * as an event (token, thinking) and, at most every 60 ms, the message as HTML, an unnamed event
 * that htmx puts in its place; a browser without scripts gets whole blocks of Markdown as they
 * come. Writing is the store's lane's; one task of a reply is there at a time, and what comes
 * meanwhile goes with the next. Since the HTML is always that of the whole message, a stream that
 * begins again has missed nothing, and the events of pieces go on where the id of the last one
 * says. */
#include <stdlib.h>
#include "server/web.h"

enum { FLUSH_TOKENS = 5, FLUSH_MS = 100, BEHIND = 512 << 10 /* bytes waiting: no more HTML */ };
static const double HTML_EVERY = 0.06; /* seconds */

typedef struct watcher {
    struct watcher *next;
    struct web_reply *reply; /* NULL: it is over */
    nib_http *r;
    size_t n_text, n_thought; /* told */
    double html_at;
    bool events;   /* server-sent events; else HTML that grows */
    nib_buf after; /* the rest of the page */
} watcher;

typedef struct web_reply {
    struct web_reply *next;
    nib_server *server;
    int64_t id, talk;
    nib_box *box;
    nib_wish wish;  /* for the model, which may have to be loaded */
    nib_request *q; /* until the model is there */
    float temp;     /* < 0: the model's own */
    int64_t n_ctx;  /* 0: not known (yet) */
    web_stub *stub;
    struct event *timer;
    nib_turn turn; /* its numbers and texts as they will be kept; owns them */
    nib_buf text, thought;
    size_t kept_text, kept_thought; /* of them in the store: what may be shown */
    nib_task task;                  /* what the store's lane does for it, and with what */
    char *new_text, *new_thought;
    size_t n_new_text, n_new_thought;
    nib_turns final; /* the whole message, as the store has it; empty when it was deleted */
    nib_error failure;
    bool writing, due, over;       /* due: another flush; over: the last one */
    int64_t n_tokens, done, total; /* done, total: of the prompt */
    int n_new;                     /* tokens since the last flush */
    double first;                  /* when the first token came; 0: not yet */
    bool behind;                   /* somebody has not seen all as HTML */
    nib_error error;
    watcher *watchers;
} web_reply;

static web_reply *find(nib_server *s, int64_t id) {
    web_reply *x = s->web->replies;
    while (x && x->id != id) x = x->next;
    return x;
}

/* ---- what watchers are told ---- */

static void put_event(nib_buf *b, const watcher *w, const char *name, const char *data, size_t n) {
    nib_buf_printf(b, "id: %zu.%zu\n", w->n_thought, w->n_text);
    if (name) nib_buf_printf(b, "event: %s\n", name);
    for (size_t at = 0; at <= n;) {
        const char *nl = at < n ? memchr(data + at, '\n', n - at) : NULL;
        size_t len = nl ? (size_t)(nl - (data + at)) : n - at;
        nib_buf_puts(b, "data: ");
        nib_buf_put(b, data + at, len);
        nib_buf_putc(b, '\n');
        at += len + 1;
    }
    nib_buf_putc(b, '\n');
}

static void put_piece(nib_buf *b, watcher *w, const char *name, const nib_buf *all, size_t kept,
                      size_t *told) {
    nib_buf data = {0};
    if (*told >= kept) return;
    nib_buf_puts(&data, "{\"text\":");
    nib_put_json(&data, all->data + *told, kept - *told);
    nib_buf_puts(&data, "}");
    *told = kept;
    put_event(b, w, name, data.data, data.len);
    nib_buf_free(&data);
}

static double speed(const web_reply *x) {
    double took = nib_now() - x->first;
    return x->first > 0 && took > 0.2 ? (double)x->n_tokens / took : 0;
}

static const char *phase(const web_reply *x) {
    return x->n_tokens     ? x->text.len ? "writing" : "thinking"
           : x->wish.waits ? "loading"
           : x->total      ? "reading"
                           : "waiting";
}

static void put_status(nib_buf *b, const watcher *w, const web_reply *x) {
    nib_buf data = {0};
    nib_buf_printf(&data,
                   "{\"phase\":\"%s\",\"tokens\":%lld,\"tokens_per_second\":%.1f,\"used\":%lld,"
                   "\"context\":%lld,\"prompt_done\":%lld,\"prompt\":%lld",
                   phase(x), (long long)x->n_tokens, speed(x),
                   (long long)x->turn.n_prompt + (long long)x->n_tokens, (long long)x->n_ctx,
                   (long long)x->done, (long long)x->total);
    if (x->wish.waits) {
        uint64_t done = 0, total = 0;
        const nib_local *m = x->wish.local;
        if (m->state == NIB_LOCAL_COMING) nib_locals_progress(x->server, &done, &total);
        nib_buf_puts(&data, ",\"model\":");
        nib_put_json(&data, m->name, strlen(m->name));
        nib_buf_printf(&data, ",\"load_done\":%llu,\"load\":%llu", (unsigned long long)done,
                       (unsigned long long)total);
    }
    nib_buf_puts(&data, "}");
    put_event(b, w, "status", data.data, data.len);
    nib_buf_free(&data);
}

static void put_live(const web_reply *x, nib_buf *b) {
    if (x->n_tokens) {
        nib_html(b, "%lld token%s", (long long)x->n_tokens, x->n_tokens == 1 ? "" : "s");
        if (speed(x) > 0) nib_html(b, " \xc2\xb7 %.1f tok/s", speed(x));
    } else if (x->wish.waits) {
        nib_buf text = {0};
        nib_local_put_progress(x->server, x->wish.local, &text);
        nib_html(b, "%s", text.failed ? "loading" : text.data);
        nib_buf_free(&text);
    } else if (x->total) {
        nib_html(b, "reading %lld of %lld tokens", (long long)x->done, (long long)x->total);
    } else {
        nib_buf_puts(b, "waiting");
    }
}

static const char *text_of(const nib_buf *b) {
    return b->len ? b->data : "";
}

/* The message as it stands. */
static void put_html(nib_buf *b, watcher *w, const web_reply *x) {
    nib_buf html = {0};
    char target[40];
    nib_markdown(text_of(&x->text), x->kept_text, &html);
    if (!x->kept_text) nib_buf_puts(&html, "<span class=\"waiting\" aria-hidden=\"true\"></span>");
    snprintf(target, sizeof target, "#m%lld-live", (long long)x->id);
    web_put_partial(&html, target, "innerHTML");
    put_live(x, &html);
    web_put_partial_end(&html);
    if (x->kept_thought) {
        snprintf(target, sizeof target, "#m%lld-thinking", (long long)x->id);
        web_put_partial(&html, target, "innerMorph");
        web_put_thoughts(x->thought.data, x->kept_thought, &html);
        web_put_partial_end(&html);
    }
    if (!html.failed) put_event(b, w, NULL, html.data, html.len);
    nib_buf_free(&html);
    w->html_at = nib_now();
}

size_t web_whole_blocks(const char *text, size_t from, size_t n) {
    size_t good = from;
    bool fence = false, blank = false;
    for (size_t at = from; at < n;) {
        const char *nl = memchr(text + at, '\n', n - at);
        if (!nl) break;
        size_t line = at, len = (size_t)(nl - text) - at, skip = 0;
        while (skip < len && text[line + skip] == ' ') skip++;
        at = (size_t)(nl - text) + 1;
        if (len - skip >= 3 && memchr("`~", text[line + skip], 2) &&
            text[line + skip] == text[line + skip + 1] &&
            text[line + skip] == text[line + skip + 2])
            fence = !fence;
        blank = skip == len;
        /* what is indented or a list's item may belong to the block before */
        bool open = at < n && memchr(" \t-*+>0123456789", text[at], 16);
        if (blank && !fence && at < n && !open) good = at;
    }
    return good;
}

static void tell(watcher *w, web_reply *x) {
    nib_buf b = {0};
    if (w->events) {
        put_piece(&b, w, "thinking", &x->thought, x->kept_thought, &w->n_thought);
        put_piece(&b, w, "token", &x->text, x->kept_text, &w->n_text);
        put_status(&b, w, x);
        bool due = nib_now() - w->html_at >= HTML_EVERY && nib_http_waiting(w->r) < BEHIND;
        if (due) put_html(&b, w, x);
        x->behind |= !due;
    } else {
        size_t to = web_whole_blocks(text_of(&x->text), w->n_text, x->kept_text);
        if (to > w->n_text) nib_markdown(x->text.data + w->n_text, to - w->n_text, &b);
        w->n_text = to;
    }
    if (b.len && !b.failed) nib_http_write(w->r, b.data, b.len);
    nib_buf_free(&b);
}

/* The whole message, and what of the page depends on its being whole. */
static void put_final(nib_http *r, const nib_turn *t, watcher *w, nib_buf *b) {
    nib_buf html = {0};
    char target[40];
    const nib_local *m = t->model ? nib_locals_find(r->server, t->model, false) : NULL;
    snprintf(target, sizeof target, "#m%lld", (long long)t->id);
    web_put_partial(&html, target, "innerMorph");
    web_put_message_inside(t, web_token(r), &html);
    if (t->state == NIB_TURN_WHOLE && m && m->state == NIB_LOCAL_READY && t->n_generated)
        nib_html(&html,
                 "<div class=\"suggestions\" hx-get=\"/ui/suggest/%lld\" hx-trigger=\"load\""
                 " hx-swap=\"outerHTML\"></div>",
                 (long long)t->id);
    web_put_partial_end(&html);
    if (t->n_prompt && m) {
        web_put_partial(&html, "#context", "innerHTML");
        web_put_context(m->n_ctx, t->n_prompt + t->n_generated, &html);
        web_put_partial_end(&html);
    }
    web_put_partial(&html, "#announce", "innerHTML");
    size_t shown = nib_utf8_complete(t->content, NIB_MIN(strlen(t->content), 2000));
    nib_buf_puts(&html, "<p>");
    nib_put_html(&html, t->content, shown);
    if (t->error) nib_html(&html, "%s", t->error);
    nib_buf_puts(&html, "</p>");
    web_put_partial_end(&html);
    if (!html.failed) put_event(b, w, NULL, html.data, html.len);
    nib_buf_free(&html);
}

/* kept: whether the message is in the store; else it was deleted meanwhile. */
static void tell_end(nib_http *r, watcher *w, const nib_turn *t, bool kept) {
    nib_buf b = {0}, data = {0};
    if (kept) put_final(r, t, w, &b);
    if (t->state == NIB_TURN_FAILED) {
        nib_buf_puts(&data, "{\"message\":");
        nib_put_json(&data, t->error ? t->error : "", t->error ? strlen(t->error) : 0);
        nib_buf_puts(&data, "}");
        put_event(&b, w, "error", data.data, data.len);
        nib_buf_clear(&data);
    }
    nib_buf_puts(&data, "{\"finish\":");
    nib_put_json(&data, t->finish ? t->finish : "error", strlen(t->finish ? t->finish : "error"));
    nib_buf_printf(&data, ",\"prompt\":%lld,\"cached\":%lld,\"tokens\":%lld,\"seconds\":%.3f}",
                   (long long)t->n_prompt, (long long)t->n_cached, (long long)t->n_generated,
                   t->seconds);
    put_event(&b, w, "done", data.data, data.len);
    if (!b.failed) nib_http_write(r, b.data, b.len);
    nib_http_end(r);
    nib_buf_free(&data);
    nib_buf_free(&b);
}

/* Without scripts: the rest of the text, its footer, the rest of the page. */
static void follow_end(watcher *w, const nib_turn *t) {
    nib_buf b = {0};
    const char *text = t->content ? t->content : "";
    size_t n = strlen(text);
    if (n > w->n_text) nib_markdown(text + w->n_text, n - w->n_text, &b);
    if (t->error) nib_html(&b, "<p class=\"wrong\" role=\"alert\">%s</p>", t->error);
    nib_buf_puts(&b, "</div>");
    web_put_footer(t, web_token(w->r), &b);
    nib_buf_puts(&b, "</article>");
    nib_buf_put(&b, text_of(&w->after), w->after.len);
    if (!b.failed) nib_http_write(w->r, b.data, b.len);
    nib_http_end(w->r);
    nib_buf_free(&b);
}

/* ---- a reply grows, and ends ---- */

static char *copy_from(const nib_buf *b, size_t from, size_t *n) {
    char *copy = b->len > from ? nib_strndup(b->data + from, b->len - from) : NULL;
    *n = copy ? b->len - from : 0;
    return copy;
}

/* In the store's lane. */
static void keep(void *arg) {
    web_reply *x = arg;
    x->failure.code =
        nib_turn_grow(x->server->web->store, x->id, x->new_text, x->new_thought, &x->failure);
}

static void finish(web_reply *x);
static void flush(web_reply *x);

static void tell_all(web_reply *x) {
    struct timeval wait = {0, FLUSH_MS * 1000};
    x->behind = false;
    for (watcher *w = x->watchers; w; w = w->next) tell(w, x);
    if ((x->behind || x->wish.waits) && !x->over) evtimer_add(x->timer, &wait);
}

static void kept(void *arg) {
    web_reply *x = arg;
    if (x->failure.code != NIB_OK)
        nib_log(NIB_LOG_WARN, "a reply is not kept: %s", x->failure.message);
    x->kept_text += x->n_new_text;
    x->kept_thought += x->n_new_thought;
    nib_free(x->new_text);
    nib_free(x->new_thought);
    x->new_text = x->new_thought = NULL;
    x->writing = false;
    tell_all(x);
    if (x->over)
        finish(x);
    else if (x->due)
        flush(x);
}

static void flush(web_reply *x) {
    x->due = x->writing;
    if (x->writing || x->over) return;
    x->n_new = 0;
    x->new_text = copy_from(&x->text, x->kept_text, &x->n_new_text);
    x->new_thought = copy_from(&x->thought, x->kept_thought, &x->n_new_thought);
    if (!x->new_text && !x->new_thought) {
        tell_all(x);
        return;
    }
    x->writing = true;
    x->task = (nib_task){.lane = NIB_LANE_STORE, .work = keep, .done = kept, .arg = x};
    nib_task_start(x->server, &x->task);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    flush(arg);
}

static void on_piece(web_reply *x, const nib_piece *p) {
    struct timeval wait = {0, FLUSH_MS * 1000};
    if (p->kind == NIB_PIECE_PROMPT) {
        x->done = p->done;
        x->total = p->total;
    } else if (p->kind == NIB_PIECE_ANSWER || p->kind == NIB_PIECE_THOUGHT) {
        nib_buf_put(p->kind == NIB_PIECE_ANSWER ? &x->text : &x->thought, p->text, p->len);
        x->n_tokens++;
        x->n_new++;
        if (x->first == 0) {
            x->first = nib_now();
            x->n_new = FLUSH_TOKENS;
        }
    }
    if (x->n_new >= FLUSH_TOKENS)
        flush(x);
    else if (!evtimer_pending(x->timer, NULL))
        evtimer_add(x->timer, &wait);
}

static void set(char **to, const char *text) {
    nib_free(*to);
    *to = text ? nib_strdup(text) : NULL;
}

static void forget(web_reply *x) {
    web_reply **at = &x->server->web->replies;
    while (*at != x) at = &(*at)->next;
    *at = x->next;
    if (x->timer) event_free(x->timer);
    nib_request_free(x->q);
    nib_turns_free(&x->final);
    nib_free(x->turn.content);
    nib_free(x->turn.thinking);
    nib_free(x->turn.model);
    nib_free(x->turn.finish);
    nib_free(x->turn.error);
    nib_free(x->turn.role);
    nib_buf_free(&x->text);
    nib_buf_free(&x->thought);
    nib_free(x);
}

/* In the store's lane. */
static void keep_whole(void *arg) {
    web_reply *x = arg;
    nib_store *store = x->server->web->store;
    nib_error e;
    x->failure.code = nib_turn_finish(store, &x->turn, &x->failure);
    if (nib_turn_get(store, x->id, &x->final, &e) != NIB_OK) x->final.n = 0;
}

static void kept_whole(void *arg) {
    web_reply *x = arg;
    if (x->failure.code != NIB_OK)
        nib_log(NIB_LOG_WARN, "a reply is not kept: %s", x->failure.message);
    const nib_turn *t = x->final.n ? &x->final.v[0] : &x->turn;
    while (x->watchers) {
        watcher *w = x->watchers;
        x->watchers = w->next;
        w->reply = NULL;
        if (w->events)
            tell_end(w->r, w, t, x->final.n != 0);
        else
            follow_end(w, t);
    }
    forget(x);
}

static void finish(web_reply *x) {
    x->task = (nib_task){.lane = NIB_LANE_STORE, .work = keep_whole, .done = kept_whole, .arg = x};
    nib_task_start(x->server, &x->task);
}

static void on_end(web_reply *x) {
    nib_turn *t = &x->turn;
    if (!t->content) set(&t->content, text_of(&x->text)); /* no REPLY came */
    if (!t->thinking && x->thought.len) set(&t->thinking, x->thought.data);
    t->state = NIB_TURN_WHOLE;
    if (x->error.code != NIB_OK) {
        set(&t->error,
            x->error.code == NIB_ERR_CANCELLED ? "The server was stopped." : x->error.message);
        set(&t->finish, "interrupted");
        t->state = NIB_TURN_FAILED;
    } else if (t->content && !*t->content) {
        bool stopped = t->finish && strcmp(t->finish, "interrupted") == 0;
        set(&t->error, stopped ? "Stopped before anything was said." : "The model said nothing.");
        t->state = NIB_TURN_FAILED;
    }
    x->over = true;
    nib_wish_drop(x->server, &x->wish);
    web_stub_free(x->stub);
    x->stub = NULL;
    if (x->timer) evtimer_del(x->timer);
    if (!x->writing) finish(x);
}

static void on_event(void *arg, const nib_event *ev) {
    web_reply *x = arg;
    switch (ev->kind) {
    case NIB_EVENT_READY: x->turn.n_prompt = x->total = ev->n_prompt; break;
    case NIB_EVENT_PIECE: on_piece(x, ev->piece); break;
    case NIB_EVENT_REPLY:
        set(&x->turn.content, ev->reply->text);
        set(&x->turn.thinking, ev->reply->thinking);
        set(&x->turn.finish, ev->reply->finish);
        x->turn.n_prompt = ev->reply->n_prompt;
        x->turn.n_cached = ev->reply->n_cached;
        x->turn.n_generated = ev->reply->n_generated;
        x->turn.seconds = ev->reply->generate_seconds;
        break;
    case NIB_EVENT_VECTOR: break;
    case NIB_EVENT_END:
        if (ev->status != NIB_OK)
            x->error = ev->error ? *ev->error : (nib_error){.code = ev->status};
        x->box = NULL;
        on_end(x);
    }
}

/* ---- beginning ---- */

static nib_status request_of(nib_http *r, const nib_talk *talk, const nib_turns *turns,
                             nib_request **out, nib_error *e) {
    nib_request *q = nib_request_new(NULL);
    if (!q) return nib_fail_nomem(e, sizeof *q, "a request");
    const nib_server_params *p = nib_server_params_of(r->server);
    nib_messages all = {0};
    nib_status s = nib_turns_messages(turns, &all, e);
    size_t first = s == NIB_OK ? nib_messages_window(&all, talk->retention) : 0;
    for (size_t i = first; i < all.n && s == NIB_OK; i++)
        s = nib_messages_add(&q->messages, all.v[i].role, all.v[i].content, all.v[i].thinking, e);
    nib_messages_free(&all);
    q->p.max_tokens = p->max_tokens;
    q->p.max_seconds = p->max_seconds;
    q->client = r->client;
    q->keep = talk->id;
    q->p.think = talk->think == 1   ? NIB_THINK_ON
                 : talk->think == 2 ? NIB_THINK_OFF
                                    : NIB_THINK_AUTO;
    if (talk->system && *talk->system && s == NIB_OK &&
        !(q->p.system = nib_arena_strndup(&q->arena, talk->system, strlen(talk->system))))
        s = nib_fail_nomem(e, 1, "a request");
    if (s == NIB_OK)
        *out = q;
    else
        nib_request_free(q);
    return s;
}

static void on_model(nib_wish *w, nib_local *m, const nib_error *e) {
    web_reply *x = w->arg;
    nib_server *s = x->server;
    nib_request *q = x->q;
    if (!m) {
        x->error = *e;
        on_end(x);
        return;
    }
    x->q = NULL;
    x->n_ctx = m->n_ctx;
    q->p.sampling = nib_model_sampling(nib_sched_model(m->sched));
    if (x->temp >= 0) q->p.sampling.temperature = x->temp;
    nib_error why = {.code = NIB_OK};
    if (nib_server_generate(s, m, q, on_event, x, &x->box, &why) != NIB_OK) {
        x->error = why;
        on_end(x);
    }
    nib_local_leave(s, m); /* the generation is its user now */
}

void web_reply_start(nib_http *r, const nib_talk *talk, const nib_turns *turns, int64_t id) {
    nib_server *s = r->server;
    const web_choice *c = web_choice_of(r, talk);
    web_reply *x = nib_calloc(1, sizeof *x);
    if (!x) return; /* the message stays growing, and is whole at the next start */
    *x = (web_reply){.next = s->web->replies,
                     .server = s,
                     .id = id,
                     .talk = talk->id,
                     .temp = (float)talk->temp,
                     .wish = {.fn = on_model, .arg = x}};
    s->web->replies = x;
    x->turn.id = id;
    x->turn.talk = talk->id;
    set(&x->turn.role, "assistant");
    set(&x->turn.model, c ? c->name : "stub");
    nib_error e = {.code = NIB_OK};
    nib_status st = NIB_OK;
    if (!(x->timer = evtimer_new(s->base, on_timer, x))) st = nib_fail_nomem(&e, 1, "a timer");
    if (st == NIB_OK && !c) {
        x->stub = web_stub_start(s, turns->n ? turns->v[turns->n - 1].content : "", on_event, x);
        if (!x->stub) st = nib_fail_nomem(&e, 1, "a reply");
    } else if (st == NIB_OK) {
        nib_local *m = nib_locals_find(s, c->name, false);
        st = m ? request_of(r, talk, turns, &x->q, &e)
               : nib_fail(&e, NIB_ERR_NOT_FOUND, "The model %s is no longer here.", c->name);
        if (st == NIB_OK) {
            struct timeval wait = {0, FLUSH_MS * 1000};
            x->n_ctx = m->n_ctx;
            evtimer_add(x->timer, &wait); /* to tell how far the loading is */
            nib_wish_for(s, &x->wish, m); /* x may be over now */
            return;
        }
    }
    if (st == NIB_OK) return;
    x->error = e;
    on_end(x);
}

static void stop(web_reply *x) {
    if (x->box) nib_box_finish(x->box);
    if (x->stub) web_stub_finish(x->stub);
    if (!x->wish.waits) return;
    set(&x->turn.finish, "interrupted");
    on_end(x);
}

void web_reply_stop(nib_server *s, int64_t id) {
    web_reply *x = find(s, id);
    if (x) stop(x);
}

void web_replies_stop(nib_server *s, int64_t talk) {
    for (web_reply *x = s->web->replies, *next; x; x = next) {
        next = x->next;
        if (x->talk == talk) stop(x);
    }
}

void web_replies_end(nib_server *s) { /* the lanes have ended: all is done at once */
    while (s->web->replies) {
        s->web->replies->error = (nib_error){.code = NIB_ERR_CANCELLED};
        on_end(s->web->replies);
    }
}

/* ---- watching ---- */

static void on_gone(nib_http *r) {
    watcher *w = r->state;
    if (w->reply) {
        watcher **at = &w->reply->watchers;
        while (*at != w) at = &(*at)->next;
        *at = w->next;
    }
    nib_buf_free(&w->after);
    nib_free(w);
}

static watcher *watch(nib_http *r, web_reply *x) {
    watcher *w = nib_calloc(1, sizeof *w);
    if (!w) return NULL;
    *w = (watcher){.reply = x, .r = r};
    if (x) {
        w->next = x->watchers;
        x->watchers = w;
    }
    r->state = w;
    r->on_gone = on_gone;
    return w;
}

/* A message that nobody writes any more, for whoever watches it. */
typedef struct looked_up {
    int64_t id;
    nib_turns one;
} looked_up;

static void drop_looked_up(nib_http *r) {
    nib_turns_free(&((looked_up *)r->state)->one);
}

static watcher *begin_events(nib_http *r, web_reply *x) {
    watcher *w = watch(r, x);
    if (!w) {
        nib_http_error(r, 503, NULL, NULL, "out of memory");
        return NULL;
    }
    w->events = true;
    const char *last = nib_http_header(r, "Last-Event-ID");
    if (!last) last = nib_http_query(r, "from");
    char *end = NULL;
    if (last) { /* "thought.text": how much of each was told */
        w->n_thought = strtoul(last, &end, 10);
        w->n_text = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
    }
    nib_http_stream(r, 200, "text/event-stream; charset=utf-8");
    return w;
}

static bool watch_growing(nib_http *r, int64_t id) {
    web_reply *x = find(r->server, id);
    watcher *w = x ? begin_events(r, x) : NULL;
    if (!w) return x != NULL;
    /* not in the middle of a character, whatever was asked for */
    if (w->n_text > x->kept_text || w->n_thought > x->kept_thought) w->n_text = w->n_thought = 0;
    tell(w, x);
    return true;
}

static void watch_whole(nib_http *r) {
    looked_up *m = r->state;
    nib_turns one = m->one;
    m->one = (nib_turns){0};
    watcher *w = watch_growing(r, m->id) ? NULL : begin_events(r, NULL);
    if (w) tell_end(r, w, &one.v[0], true);
    nib_turns_free(&one);
}

static void look_up(nib_http *r) {
    looked_up *m = r->state;
    nib_error e;
    if (nib_turn_get(web_store(r), m->id, &m->one, &e) == NIB_OK)
        nib_http_next(r, NIB_LANE_IO, watch_whole);
    else
        web_fail(r, &e);
}

void web_reply_watch(nib_http *r, int64_t id) {
    if (watch_growing(r, id)) return;
    looked_up *m = nib_arena_calloc(&r->arena, 1, sizeof *m);
    if (!m) {
        nib_http_error(r, 503, NULL, NULL, "out of memory");
        return;
    }
    m->id = id;
    r->state = m;
    r->on_gone = drop_looked_up;
    nib_http_next(r, NIB_LANE_STORE, look_up);
}

bool web_reply_follow(nib_http *r, const nib_turn *t, nib_buf *before, nib_buf *after) {
    web_reply *x = find(r->server, t->id);
    watcher *w = x ? watch(r, x) : NULL;
    if (!w) return false;
    nib_html(before, "<article id=\"m%lld\" class=\"msg reply\">", (long long)t->id);
    web_put_message_head(t, before);
    if (x->wish.waits)
        nib_html(before, "<p class=\"hint\">%s is being loaded first.</p>", x->wish.local->name);
    w->after = *after;
    *after = (nib_buf){0};
    web_begin_stream(r, before);
    tell(w, x);
    return true;
}
