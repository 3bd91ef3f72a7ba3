/* The life of a request: taken from evhttp, guarded, routed, answered, logged, forgotten.
 *
 * Who frees what: evhttp frees its request once the reply has been sent. When the connection ends
 * before our reply is complete, evhttp lets go of the request and it is ours to free. So 'req' is
 * ours exactly until the reply is handed over (done), and every way out ends in forget().
 *
 * While a request is answered the socket stays readable, so that the client's end is seen at once;
 * what else it sends waits in a buffer with a bound. */
#include <assert.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/keyvalq_struct.h>
#include <jansson.h>
#include <math.h>
#include <sys/socket.h>
#include "server/internal.h"

enum {
    OUTPUT_HIGH = 256 << 10, /* bytes waiting to be sent: the generation rests */
    LONG_BODY = 32 << 10,    /* bytes that take a third of a millisecond to read */
    PING_SECONDS = 15        /* of silence in a stream of events, before proxies take it for dead */
};

const nib_route nib_routes[] = {
#define NIB_ROUTE(method, path, handler, flags, dialect, summary)                                  \
    {#method, path, handler, flags, dialect, summary},
#include "server/routes.def"
#undef NIB_ROUTE
};
const size_t nib_n_routes = NIB_ARRAY_LEN(nib_routes);

/* ---- what came ---- */

const char *nib_http_header(const nib_http *r, const char *name) {
    if (!r->own->req) return NULL;
    return evhttp_find_header(evhttp_request_get_input_headers(r->own->req), name);
}

bool nib_http_wants_html(const nib_http *r) {
    const char *accept = nib_http_header(r, "Accept");
    return accept && strstr(accept, "text/html");
}

struct json_t *nib_http_json(nib_http *r) {
    nib_error e;
    struct nib_http_private *o = r->own;
    if (o->json) return o->json;
    if (r->body.n == 0)
        nib_http_error(r, 400, NULL, NULL, "expected a JSON object as the body, found nothing");
    else if (nib_json_parse(r->body.p, r->body.n, &o->json, &e) != NIB_OK)
        nib_http_error(r, 400, "invalid_json", NULL, "the body is not valid JSON: %s", e.message);
    else if (!json_is_object(o->json))
        nib_http_error(r, 400, "invalid_json", NULL, "expected a JSON object as the body");
    return o->status ? NULL : o->json;
}

/* ---- the end ---- */

static void log_line(const nib_http *r) {
    const struct nib_http_private *o = r->own;
    char tokens[64] = "";
    if (o->n_prompt)
        snprintf(tokens, sizeof tokens, ", %lld + %lld tokens", (long long)o->n_prompt,
                 (long long)o->n_generated);
    nib_log(NIB_LOG_INFO, "%s %s %.100s %d %.0f ms%s%s", o->peer, r->method, r->path, o->status,
            (nib_now() - o->start) * 1e3, tokens, o->done ? "" : " (client left)");
}

static void forget(nib_http *r) {
    struct nib_http_private *o = r->own;
    nib_server *s = r->server;
    log_line(r);
    s->n_http++;
    s->n_http_errors += o->status >= 400;
    nib_local *local = o->local;
    nib_box_drop(r);
    nib_wish_drop(s, &o->wish);
    if (r->on_gone) r->on_gone(r);
    json_decref(o->json);
    nib_buf_free(&o->kept);
    if (o->prev)
        o->prev->own->next = o->next;
    else
        s->live = o->next;
    if (o->next) o->next->own->prev = o->prev;
    s->n_live--;
    nib_arena_free(&r->arena);
    nib_free(o);
    nib_free(r);
    if (local) nib_local_leave(s, local);
    if (s->n_stops && !s->n_live) event_active(s->stop_event, EV_TIMEOUT, 0);
}

/* The client has gone, and nobody works on it. */
static void forget_request(nib_http *r) {
    struct evhttp_request *req = r->own->done ? NULL : r->own->req;
    forget(r);
    if (req) evhttp_request_free(req);
}

static void on_gone(struct evhttp_connection *c, void *arg) {
    (void)c;
    nib_http *r = arg;
    struct nib_http_private *o = r->own;
    o->gone = true;
    if (o->lane == NIB_LANE_IO) forget_request(r); /* else when it comes back from there */
}

void nib_http_abandon(nib_http *r) {
    evhttp_connection_set_closecb(r->own->conn, NULL, NULL);
    forget(r);
}

/* evhttp has sent everything, and frees its request next. */
static void on_sent(struct evhttp_request *req, void *arg) {
    nib_http *r = arg;
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    if (c) {
        struct bufferevent *bev = evhttp_connection_get_bufferevent(c);
        evhttp_connection_set_closecb(c, NULL, NULL);
        evhttp_connection_set_timeout(c, (int)r->server->p.max_wait + 1);
        bufferevent_setwatermark(bev, EV_READ, 0, 0);
        nib_conn_busy(r->server, bev, false);
    }
    forget(r);
}

/* ---- replies ---- */

static const char *reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 303: return "See Other";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    default: return "Status";
    }
}

/* Whether anything said to r can still be heard. */
static bool is_open(const nib_http *r) {
    return r->own->req && !r->own->done && !r->own->gone;
}

void nib_http_set(nib_http *r, const char *name, const char *value) {
    if (r->own->req) evhttp_add_header(evhttp_request_get_output_headers(r->own->req), name, value);
}

static void start(nib_http *r, int status, const char *type) {
    struct nib_http_private *o = r->own;
    o->status = status;
    if (type) nib_http_set(r, "Content-Type", type);
    nib_http_set(r, "X-Content-Type-Options", "nosniff");
    nib_guard_cors(r);
    if (r->server->n_stops) nib_http_set(r, "Connection", "close");
}

static void reply(nib_http *r, int status, const char *type, const void *body, size_t n) {
    struct nib_http_private *o = r->own;
    start(r, status, type);
    struct evbuffer *b = evbuffer_new();
    if (evhttp_request_get_command(o->req) == EVHTTP_REQ_HEAD) {
        char length[24];
        snprintf(length, sizeof length, "%zu", n);
        nib_http_set(r, "Content-Length", length);
    } else if (b && n) {
        evbuffer_add(b, body, n);
    }
    o->done = true;
    evhttp_send_reply(o->req, status, reason(status), b);
    if (b) evbuffer_free(b);
}

void nib_http_reply(nib_http *r, int status, const char *type, const void *body, size_t n) {
    struct nib_http_private *o = r->own;
    if (o->status) return;
    if (o->lane == NIB_LANE_IO) {
        if (is_open(r)) reply(r, status, type, body, n);
        return;
    }
    o->kept_reply = true;
    o->kept_type = type;
    o->status = status;
    if (n && !nib_buf_put(&o->kept, body, n)) {
        o->status = 503;
        o->kept_type = "text/plain; charset=utf-8";
    }
}

void nib_http_json_reply(nib_http *r, int status, json_t *v) {
    nib_buf b = {0};
    nib_error e;
    if (v && nib_json_write(v, &b, &e) == NIB_OK)
        nib_http_reply(r, status, "application/json", b.data, b.len);
    else
        nib_http_error(r, 500, NULL, NULL, "out of memory for the reply");
    nib_buf_free(&b);
    json_decref(v);
}

void nib_http_redirect(nib_http *r, const char *to) {
    nib_http_set(r, "Location", to);
    nib_http_reply(r, 303, "text/plain; charset=utf-8", "", 0);
}

/* The words that clients of an API look for. */
static const char *type_of(nib_dialect d, int status) {
    if (d == NIB_ANTHROPIC) {
        switch (status) {
        case 401: return "authentication_error";
        case 403: return "permission_error";
        case 404: return "not_found_error";
        case 413: return "request_too_large";
        case 429: return "rate_limit_error";
        case 503: return "overloaded_error";
        default: return status < 500 ? "invalid_request_error" : "api_error";
        }
    }
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "unavailable_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static void put_or_null(nib_buf *b, const char *text) {
    if (text)
        nib_put_json(b, text, strlen(text));
    else
        nib_buf_puts(b, "null");
}

void nib_http_error_body(nib_dialect d, int status, const char *code, const char *param,
                         const char *message, nib_buf *out) {
    switch (d) {
    case NIB_OLLAMA:
        nib_buf_puts(out, "{\"error\":");
        nib_put_json(out, message, strlen(message));
        nib_buf_puts(out, "}");
        break;
    case NIB_ANTHROPIC:
        nib_buf_printf(
            out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type_of(d, status));
        nib_put_json(out, message, strlen(message));
        nib_buf_puts(out, "}}");
        break;
    default:
        nib_buf_puts(out, "{\"error\":{\"message\":");
        nib_put_json(out, message, strlen(message));
        nib_buf_printf(out, ",\"type\":\"%s\",\"param\":", type_of(d, status));
        put_or_null(out, param);
        nib_buf_puts(out, ",\"code\":");
        put_or_null(out, code);
        nib_buf_puts(out, "}}");
    }
}

void nib_http_error(nib_http *r, int status, const char *code, const char *param, const char *fmt,
                    ...) {
    char message[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    nib_dialect d = r->route ? r->route->dialect : NIB_OPENAI;
    nib_buf b = {0};
    if (status == 429 || status == 503) nib_http_set(r, "Retry-After", "1");
    if (d == NIB_HTML) {
        nib_web_error(r, status, message, &b);
        nib_http_reply(r, status, "text/html; charset=utf-8", b.data, b.len);
    } else {
        nib_http_error_body(d, status, code, param, message, &b);
        nib_http_reply(r, status, "application/json", b.data, b.len);
    }
    nib_buf_free(&b);
}

int nib_http_status_of(const nib_error *e, const char **code) {
    const char *none;
    if (!code) code = &none;
    *code = NULL;
    switch (e->code) {
    case NIB_ERR_CONTEXT: *code = "context_length_exceeded"; return 400;
    case NIB_ERR_UNSUPPORTED: *code = "unsupported"; return 400;
    case NIB_ERR_ARGUMENT:
    case NIB_ERR_FORMAT: *code = "invalid_value"; return 400;
    case NIB_ERR_TEMPLATE: *code = "template_error"; return 400;
    case NIB_ERR_NOT_FOUND: *code = "not_found"; return 404;
    case NIB_ERR_LIMIT: *code = "rate_limit_exceeded"; return 429;
    case NIB_ERR_CANCELLED: *code = "shutting_down"; return 503;
    case NIB_ERR_NOMEM:
    case NIB_ERR_MEMORY_FIT: *code = "out_of_memory"; return 503;
    default: *code = "internal_error"; return 500;
    }
}

void nib_http_fail(nib_http *r, const nib_error *e, const char *param) {
    const char *code;
    int status = nib_http_status_of(e, &code);
    bool anthropic = r->route && r->route->dialect == NIB_ANTHROPIC;
    /* the words by which that API's programs know that they must shorten a conversation */
    const char *said = anthropic && e->code == NIB_ERR_CONTEXT ? "prompt is too long: " : "";
    nib_http_error(r, status, code, param, "%s%s", said, e->message);
}

/* ---- from lane to lane ---- */

static void come_back(void *arg);

static void step(void *arg) {
    nib_http *r = arg;
    r->own->step(r);
}

static void go(nib_http *r, nib_lane lane, nib_handler fn) {
    struct nib_http_private *o = r->own;
    if (lane == NIB_LANE_IO) {
        fn(r); /* r may be gone */
        return;
    }
    bool fresh = !o->status && !o->n_prompt; /* what was generated already is not thrown away */
    if (fresh && nib_lane_full(r->server, lane)) {
        nib_http_error(r, 429, "rate_limit_exceeded", NULL, "too many requests wait already");
        return;
    }
    o->lane = lane;
    o->step = fn;
    o->task = (nib_task){.lane = lane, .work = step, .done = come_back, .arg = r};
    nib_task_start(r->server, &o->task);
}

void nib_http_next(nib_http *r, nib_lane lane, nib_handler fn) {
    if (r->own->lane == NIB_LANE_IO) {
        go(r, lane, fn);
        return;
    }
    r->own->next_lane = lane;
    r->own->next_step = fn;
}

static void come_back(void *arg) {
    nib_http *r = arg;
    struct nib_http_private *o = r->own;
    nib_handler fn = o->next_step;
    bool gone = o->gone, replies = o->kept_reply;
    o->lane = NIB_LANE_IO;
    o->next_step = NULL;
    if (fn && (!gone || o->next_lane == NIB_LANE_IO)) {
        go(r, o->next_lane, fn); /* when somebody is there and hears it, r may be gone */
        if (!gone && !replies) return;
    }
    if (o->lane != NIB_LANE_IO) return;
    if (gone)
        forget_request(r);
    else if (replies)
        reply(r, o->status, o->kept_type, o->kept.data, o->kept.len);
}

/* ---- streams ---- */

void nib_http_stream(nib_http *r, int status, const char *type) {
    struct nib_http_private *o = r->own;
    assert(o->lane == NIB_LANE_IO);
    if (!is_open(r) || o->status) return;
    nib_http_set(r, "Cache-Control", "no-cache");
    nib_http_set(r, "X-Accel-Buffering", "no"); /* proxies hand on what they get */
    start(r, status, type);
    o->streaming = true;
    o->events = type && strncmp(type, "text/event-stream", 17) == 0;
    o->wrote = nib_now();
    evhttp_send_reply_start(o->req, status, reason(status));
}

bool nib_http_streaming(const nib_http *r) {
    return r->own->streaming;
}

static void on_drained(struct evhttp_connection *c, void *arg) {
    (void)c;
    nib_http *r = arg;
    r->own->resting = false;
    nib_box_pause(r, false);
}

void nib_http_write(nib_http *r, const void *p, size_t n) {
    struct nib_http_private *o = r->own;
    if (!is_open(r) || !o->streaming || !n) return;
    if (evhttp_request_get_command(o->req) == EVHTTP_REQ_HEAD) return;
    struct evbuffer *b = evbuffer_new();
    if (!b) return;
    evbuffer_add(b, p, n);
    o->wrote = nib_now();
    struct bufferevent *bev = evhttp_connection_get_bufferevent(o->conn);
    if (!o->resting && evbuffer_get_length(bufferevent_get_output(bev)) + n > OUTPUT_HIGH) {
        o->resting = true;
        nib_box_pause(r, true);
    }
    evhttp_send_reply_chunk_with_cb(o->req, b, o->resting ? on_drained : NULL, r);
    evbuffer_free(b);
}

void nib_http_sse(nib_http *r, const char *event, const char *data, size_t n) {
    nib_buf b = {0};
    if (event) nib_buf_printf(&b, "event: %s\n", event);
    for (size_t at = 0; at <= n;) {
        const char *nl = at < n ? memchr(data + at, '\n', n - at) : NULL;
        size_t len = nl ? (size_t)(nl - (data + at)) : n - at;
        nib_buf_puts(&b, "data: ");
        nib_buf_put(&b, data + at, len);
        nib_buf_putc(&b, '\n');
        at += len + 1;
    }
    nib_buf_putc(&b, '\n');
    if (!b.failed) nib_http_write(r, b.data, b.len);
    nib_buf_free(&b);
}

size_t nib_http_waiting(const nib_http *r) {
    if (!is_open(r)) return 0;
    struct bufferevent *bev = evhttp_connection_get_bufferevent(r->own->conn);
    return evbuffer_get_length(bufferevent_get_output(bev));
}

void nib_http_ping(nib_http *r) {
    const struct nib_http_private *o = r->own;
    if (o->events && !o->done && nib_now() - o->wrote > PING_SECONDS)
        nib_http_write(r, ": ping\n\n", 8);
}

void nib_http_end(nib_http *r) {
    struct nib_http_private *o = r->own;
    if (!is_open(r) || !o->streaming) return;
    o->done = true;
    evhttp_send_reply_end(o->req);
}

/* ---- models ---- */

nib_sched *nib_http_sched(const nib_http *r) {
    return r->own->local->sched;
}
const nib_model *nib_http_model(const nib_http *r) {
    return nib_sched_model(nib_http_sched(r));
}
const char *nib_http_model_name(const nib_http *r) {
    return r->own->local->name;
}
double nib_http_waited(const nib_http *r) {
    return r->own->waited;
}

void nib_http_keep(nib_http *r, double seconds) {
    nib_local_keep(r->server, r->own->local, seconds);
}

static void on_model(nib_wish *w, nib_local *m, const nib_error *e) {
    nib_http *r = w->arg;
    r->own->waited = nib_now() - r->own->start;
    if (m) {
        r->own->local = m;
        r->own->go_on(r);
    } else if (e->code == NIB_ERR_NOT_FOUND) {
        nib_http_error(r, 404, "model_not_found", "model", "%s", e->message);
    } else if (e->code == NIB_ERR_IO) {
        nib_http_error(r, 500, "model_load_failed", "model", "%s", e->message);
    } else {
        nib_http_fail(r, e, "model");
    }
}

void nib_http_with(nib_http *r, nib_local *m, nib_handler go_on) {
    if (r->own->gone) return;
    r->own->go_on = go_on;
    r->own->wish.fn = on_model;
    r->own->wish.arg = r;
    nib_wish_for(r->server, &r->own->wish, m);
}

/* On the I/O thread, the body read. */
static void choose_model(nib_http *r) {
    nib_server *s = r->server;
    struct nib_http_private *o = r->own;
    bool post = strcmp(r->method, "POST") == 0;
    const char *name = nib_http_query(r, "model");
    if (o->gone) return;
    if (post) {
        const json_t *body = nib_http_json(r), *v = json_object_get(body, "model");
        if (!body) return;
        if (json_is_string(v))
            name = json_string_value(v); /* else the handler says what is wrong */
    }
    nib_local *m = post ? NULL : name ? nib_locals_find(s, name, true) : nib_locals_latest(s);
    if (post || (name && !m)) {
        o->wish.fn = on_model;
        o->wish.arg = r;
        nib_wish_by_name(s, &o->wish, name);
    } else if (m && m->state == NIB_LOCAL_READY) {
        nib_http_with(r, m, o->go_on);
    } else if (m) { /* who looks loads nothing */
        nib_http_error(r, 503, "model_not_loaded", "model", "model '%.100s' is not loaded",
                       m->name);
    } else {
        nib_http_error(r, 503, "model_not_loaded", "model", "no model is loaded");
    }
}

static void read_body(nib_http *r) {
    if (nib_http_json(r)) nib_http_next(r, NIB_LANE_IO, choose_model);
}

void nib_http_with_model(nib_http *r, nib_handler go_on) {
    nib_server_state state = nib_server_get_state(r->server);
    r->own->go_on = go_on;
    if (state == NIB_SERVER_LOADING)
        nib_http_error(r, 503, "loading", NULL, "Loading model");
    else if (state == NIB_SERVER_NO_MODEL)
        nib_http_error(r, 503, "no_model", NULL,
                       "the server has no model: start it as nib serve MODEL");
    else if (r->body.n > LONG_BODY)
        nib_http_next(r, NIB_LANE_TEXT, read_body);
    else
        choose_model(r);
}

/* ---- routing ---- */

static bool matches(const nib_route *t, const char *path, const char **rest) {
    size_t n = strlen(t->path);
    bool open = t->path[n - 1] == '*';
    if (open ? strncmp(path, t->path, n - 1) : strcmp(path, t->path)) return false;
    *rest = open ? path + n - 1 : "";
    return true;
}

static const char *method_of(enum evhttp_cmd_type c) {
    switch (c) {
    case EVHTTP_REQ_GET: return "GET";
    case EVHTTP_REQ_POST: return "POST";
    case EVHTTP_REQ_HEAD: return "HEAD";
    case EVHTTP_REQ_PUT: return "PUT";
    case EVHTTP_REQ_DELETE: return "DELETE";
    case EVHTTP_REQ_OPTIONS: return "OPTIONS";
    case EVHTTP_REQ_PATCH: return "PATCH";
    default: return "?";
    }
}

/* The row for path and method. NULL: none; *other then names the methods that there are. */
static const nib_route *find(nib_http *r, char *other, size_t n) {
    const char *method = strcmp(r->method, "HEAD") == 0 ? "GET" : r->method;
    const nib_route *near = NULL;
    other[0] = 0;
    for (size_t i = 0; i < nib_n_routes; i++) {
        const char *rest;
        if (!matches(&nib_routes[i], r->path, &rest)) continue;
        if (strcmp(nib_routes[i].method, method) == 0) {
            r->rest = rest;
            return &nib_routes[i];
        }
        if (!near) near = &nib_routes[i];
        size_t used = strlen(other);
        snprintf(other + used, n - used, "%s%s", used ? ", " : "", nib_routes[i].method);
    }
    r->route = near; /* for the dialect of the refusal */
    return NULL;
}

/* The dialect of paths nobody serves. */
static const nib_route nowhere_ollama = {.dialect = NIB_OLLAMA}, nowhere = {.dialect = NIB_OPENAI};

static void handle(nib_http *r) {
    const nib_route *t = r->route;
    if (t->flags & NIB_ROUTE_STORE) web_take_choices(r);
    nib_http_next(r,
                  t->flags & NIB_ROUTE_STORE  ? NIB_LANE_STORE
                  : t->flags & NIB_ROUTE_TEXT ? NIB_LANE_TEXT
                                              : NIB_LANE_IO,
                  t->handle);
}

static void route(nib_http *r) {
    char other[80];
    const nib_route *t = find(r, other, sizeof other);
    if (!r->route) r->route = strncmp(r->path, "/api/", 5) == 0 ? &nowhere_ollama : &nowhere;
    if (t) r->route = t;
    if (!nib_guard(r)) return;
    if (strcmp(r->method, "OPTIONS") == 0 && (t || other[0])) { /* the guard knows the origin */
        nib_http_set(r, "Allow", other[0] ? other : "GET, POST");
        nib_http_reply(r, 204, NULL, "", 0);
        return;
    }
    if (!t && other[0]) {
        nib_http_set(r, "Allow", other);
        nib_http_error(r, 405, "method_not_allowed", NULL, "%s answers %s, not %s", r->path, other,
                       r->method);
        return;
    }
    if (!t) {
        nib_http_error(
            r, 404, "not_found", NULL,
            "nothing is served at %.200s (docs/SERVER.md and /openapi.json list what is)", r->path);
        return;
    }
    if (t->flags & NIB_ROUTE_MODEL)
        nib_http_with_model(r, handle);
    else
        handle(r);
}

/* So that the end of the connection is seen while the reply is made. What the client sends
 * meanwhile must not reach evhttp, which expects nothing now. */
static void listen_for_end(nib_http *r) {
    struct bufferevent *bev = evhttp_connection_get_bufferevent(r->own->conn);
    bufferevent_data_cb on_write;
    bufferevent_event_cb on_event;
    void *arg;
    bufferevent_getcb(bev, NULL, &on_write, &on_event, &arg);
    bufferevent_setcb(bev, NULL, on_write, on_event, arg);
    bufferevent_setwatermark(bev, EV_READ, 0, 64 << 10);
    /* Client and server may be silent for long; only who takes nothing for a minute is cut off. */
    struct timeval minute = {60, 0};
    evhttp_connection_set_timeout(r->own->conn, 24 * 3600);
    bufferevent_set_timeouts(bev, NULL, &minute);
    bufferevent_enable(bev, EV_READ);
}

void nib_http_on_request(struct evhttp_request *req, void *server) {
    nib_server *s = server;
    nib_http *r = nib_calloc(1, sizeof *r);
    struct nib_http_private *o = nib_calloc(1, sizeof *o);
    if (!r || !o) {
        nib_free(r);
        nib_free(o);
        evhttp_send_error(req, 503, "out of memory");
        return;
    }
    r->server = s;
    r->own = o;
    nib_arena_init(&r->arena, (size_t)64 << 20);
    o->req = req;
    o->conn = evhttp_request_get_connection(req);
    o->start = nib_now();
    o->next = s->live;
    if (o->next) o->next->own->prev = r;
    s->live = r;
    s->n_live++;
    char *address = NULL;
    ev_uint16_t port = 0;
    evhttp_connection_get_peer(o->conn, &address, &port);
    snprintf(o->peer, sizeof o->peer, "%s", address ? address : "?");
    r->method = method_of(evhttp_request_get_command(req));
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t n = 0;
    char *plain = evhttp_uridecode(path && *path ? path : "/", 0, &n);
    r->path = plain ? nib_arena_strndup(&r->arena, plain, strlen(plain)) : NULL;
    if (!r->path) r->path = "/";
    r->rest = "";
    free(plain);
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    r->body.n = evbuffer_get_length(in);
    r->body.p = r->body.n ? (const char *)evbuffer_pullup(in, -1) : "";
    evhttp_connection_set_closecb(o->conn, on_gone, r);
    evhttp_request_set_on_complete_cb(req, on_sent, r);
    nib_conn_busy(s, evhttp_connection_get_bufferevent(o->conn), true);
    listen_for_end(r);
    if (s->n_stops)
        nib_http_error(r, 503, "shutting_down", NULL, "the server is shutting down");
    else
        route(r);
}
