/* server - the engine over HTTP, on libevent's evhttp.
 *
 * One I/O thread runs everything in this room: handlers, timers, replies. The scheduler's threads
 * compute; what they have to say is carried over to the I/O thread. So a handler needs no locks,
 * and must not block. What takes long, or touches files, is done in a lane: a thread of its own
 * that the request is handed to and comes back from (nib_http_next, or a flag of the route).
 *
 * Adding an endpoint: one row of routes.def and one handler, in the file of its API (api_*.c) or of
 * its pages (web_*.c). A handler is called when the whole request is there and has passed the guard
 * (host, origin, key, rate, size: guard.c). It answers at once (nib_http_reply, _json, _error), or
 * later: by starting a generation (nib_http_generate) whose events come to it on the I/O thread, or
 * by keeping r until r->on_gone is called. r and everything in r->arena live until then.
 *
 *     void nib_page_hello(nib_http *r) {
 *         const char *name = nib_http_query(r, "name");
 *         nib_buf b = {0};
 *         nib_buf_printf(&b, "Hello %s", name ? name : "you");
 *         nib_http_reply(r, 200, "text/plain; charset=utf-8", b.data, b.len);
 *         nib_buf_free(&b);
 *     }
 *
 * A streamed reply: nib_http_stream, then nib_http_write or nib_http_sse any number of times, then
 * nib_http_end. What is written goes out at the end of the current turn of the loop. When the
 * client cannot take more for now, r's generation rests until it can. When it has gone, the
 * generation is cancelled and on_gone is called; nothing needs to be done but freeing r->state. */
#ifndef NIB_SERVER_H
#define NIB_SERVER_H
#include "kvdisk/kvdisk.h"
#include "markup/markup.h"
struct json_t;

/* ---- the server (server.c) ---- */

typedef struct nib_server nib_server;
/* A model that is named from the start. */
typedef struct nib_server_model {
    const char *path;
    const char *name;        /* what clients call it; NULL: the file's name without .gguf */
    nib_model_params params; /* how it is opened; what it points to outlives the server */
} nib_server_model;
typedef struct nib_server_params {
    const char *host;               /* NULL: 127.0.0.1 */
    int port;                       /* 0: any that is free */
    const char *model_path;         /* is loaded at the start; NULL: none is */
    const char *model_name;         /* what clients call it; NULL: the file's name without .gguf */
    nib_model_params model;         /* how it is opened */
    const nib_server_model *models; /* further ones, loaded when they are asked for */
    size_t n_models;
    const char *const *folders; /* with further ones; NULL-terminated, or NULL */
    const char *cache;          /* the folder of pulled ones (hub.h); or NULL */
    const char *digests;        /* a file where digests are remembered; or NULL */
    int max_models;             /* loaded at a time; 0: 1 */
    uint64_t model_memory;      /* bytes that several loaded ones may take; 0: what there is */
    double keep;                /* seconds a model stays without being used; < 0: for ever */
    nib_engine_params engine;   /* n_seq: replies at once */
    int n_queue;                /* requests that may wait; 0: 64 */
    const char *key_file;       /* one key a line; NULL: none is asked for */
    const char *const *cors; /* origins allowed beside the server's own; NULL-terminated, or NULL */
    const char *const *hosts; /* names allowed in Host beside localhost and addresses; the same */
    int64_t max_tokens;       /* of a reply: the default, and the most that can be asked for */
    double max_seconds;       /* of a reply */
    size_t max_body;          /* bytes */
    int max_messages;
    int max_connections;
    double max_wait;   /* seconds from a connection, or its last reply, to the next whole request */
    int rate;          /* generations a client may start in a minute; 0: any number */
    const char *store; /* file of the pages' conversations; NULL: the user's, as 'nib chat' has */
    uint64_t kv_disk; /* bytes that their caches may take beside that file; NIB_KVDISK_AUTO; 0: none
                         are kept */
    double grace;     /* seconds that replies may take to end when the server stops */
    const atomic_bool *quit; /* looked at four times a second: true stops the server; or NULL */
} nib_server_params;
nib_server_params nib_server_defaults(void);

/* Listens; answers nothing until nib_server_run. NIB_ERR_ARGUMENT: an address of the outside world
 * without keys. */
nib_status nib_server_new(nib_server **out, const nib_server_params *p, nib_error *e);
void nib_server_free(nib_server *s);
int nib_server_port(const nib_server *s);
size_t nib_server_n_models(const nib_server *s); /* that it knows; before nib_server_run */
/* Loads the model in a thread of its own, and answers until nib_server_stop. An error of loading
 * ends it. */
nib_status nib_server_run(nib_server *s, nib_error *e);
/* Any thread, and signal handlers: no new requests, what is under way may end within the grace
 * time. A second call ends that time. */
void nib_server_stop(nib_server *s);

/* For handlers. */
const nib_server_params *nib_server_params_of(const nib_server *s);
/* Any thread: of the model that was loaded last; NULL: none is loaded. It may go at any time: for
 * programs with one model that they know to stay. */
nib_sched *nib_server_sched(nib_server *s);
typedef enum nib_server_state {
    NIB_SERVER_LOADING, /* its first model */
    NIB_SERVER_READY,
    NIB_SERVER_NO_MODEL /* and knows none that it could load */
} nib_server_state;
nib_server_state nib_server_get_state(const nib_server *s);
double nib_server_started(const nib_server *s);    /* nib_now() then */
struct event_base *nib_server_base(nib_server *s); /* for timers of one's own */

/* ---- requests (http.c) ---- */

typedef struct nib_http nib_http;
typedef void (*nib_handler)(nib_http *r);

/* Where something is done. A lane does one thing at a time, in order. */
typedef enum nib_lane {
    NIB_LANE_IO,    /* the I/O thread */
    NIB_LANE_STORE, /* what reads and writes the conversations' file: this lane alone does */
    NIB_LANE_TEXT,  /* long texts: tokens, templates */
    NIB_LANE_PAPER, /* PDF */
    NIB_LANE_LOAD,  /* models come and go */
    NIB_LANE_FIND,  /* folders are looked through for models */
    NIB_LANE_HASH,  /* digests of files, when nothing else wants the processor */
    NIB_N_LANES
} nib_lane;
/* After the handler that runs now, fn handles r in that lane. A handler in a lane other than the
 * I/O thread may block; it may read the request, set headers and reply (which is sent when no
 * further handler follows, or by the one on the I/O thread that follows), but neither stream nor
 * generate. When the client has gone meanwhile only a handler for the I/O thread still runs: it
 * must not count on being heard. */
void nib_http_next(nib_http *r, nib_lane lane, nib_handler fn);

/* How errors look to the client. */
typedef enum nib_dialect { NIB_OPENAI, NIB_OLLAMA, NIB_ANTHROPIC, NIB_HTML } nib_dialect;
enum {
    NIB_ROUTE_OPEN = 1,   /* no key is asked for */
    NIB_ROUTE_MODEL = 2,  /* called once the model that the request names is loaded */
    NIB_ROUTE_COSTLY = 4, /* counts against the client's rate */
    NIB_ROUTE_STORE = 8,  /* handled in NIB_LANE_STORE */
    NIB_ROUTE_TEXT = 16,  /* handled in NIB_LANE_TEXT */
};
typedef struct nib_route {
    const char *method, *path; /* a path that ends in '*' stands for all that begin so */
    nib_handler handle;
    unsigned flags;
    nib_dialect dialect;
    const char *summary;
} nib_route;
#define NIB_ROUTE(method, path, handler, flags, dialect, summary) void handler(struct nib_http *r);
#include "server/routes.def"
#undef NIB_ROUTE
extern const nib_route nib_routes[];
extern const size_t nib_n_routes;

struct nib_http {
    nib_server *server;
    nib_arena arena; /* of this request */
    const nib_route *route;
    const char *method, *path; /* path: decoded, without the query */
    const char *rest;          /* what stands for the '*' of the route's path, or "" */
    nib_str body;
    uint64_t client; /* who asks: by key, else by address */
    void *state;     /* the handler's own */
    /* Called once, when the reply has been sent or the client has gone; frees state. */
    void (*on_gone)(nib_http *r);
    struct nib_http_private *own;
};

/* NULL when there is none. Values live as long as r. */
const char *nib_http_header(const nib_http *r, const char *name);
const char *nib_http_query(nib_http *r, const char *name); /* ?name=value, decoded */
const char *nib_http_form(nib_http *r, const char *name);  /* the same of a posted form */
const char *nib_http_cookie(nib_http *r, const char *name);
bool nib_http_wants_html(const nib_http *r); /* a browser, by Accept */
/* The model of a request whose route has MODEL. It stays loaded until r is answered. */
nib_sched *nib_http_sched(const nib_http *r);
const nib_model *nib_http_model(const nib_http *r);
const char *nib_http_model_name(const nib_http *r);
double nib_http_waited(const nib_http *r); /* seconds, for it to be loaded */
/* Brings such a model, the one that the request names, then calls go_on. When there is none the
 * client is told. What MODEL does by itself. */
void nib_http_with_model(nib_http *r, nib_handler go_on);
/* How long that model stays once it has no users: seconds, < 0 for ever. */
void nib_http_keep(nib_http *r, double seconds);
/* A time as people write it: "5m", "1h30m", "300ms", "90" (seconds); "-1" and all below 0: for
 * ever. */
nib_status nib_parse_keep(const char *what, const char *text, double *seconds, nib_error *e);
/* The body as JSON, which r owns. NULL: it is none, and the client was told so. */
struct json_t *nib_http_json(nib_http *r);

/* ---- replies ---- */

void nib_http_set(nib_http *r, const char *name,
                  const char *value); /* a header; before the reply */
void nib_http_reply(nib_http *r, int status, const char *type, const void *body, size_t n);
void nib_http_json_reply(nib_http *r, int status, struct json_t *v); /* releases v; NULL: 500 */
/* An error in the route's dialect. code: a word for programs, or NULL for the status's own; param:
 * the field it is about, or NULL. */
void nib_http_error(nib_http *r, int status, const char *code, const char *param, const char *fmt,
                    ...) NIB_PRINTF(5, 6);
/* What a failed call becomes. */
void nib_http_fail(nib_http *r, const nib_error *e, const char *param);
/* The body of such an error, for streams that have begun. Appends one line of JSON. */
void nib_http_error_body(nib_dialect d, int status, const char *code, const char *param,
                         const char *message, nib_buf *out);
int nib_http_status_of(const nib_error *e, const char **code);
void nib_http_redirect(nib_http *r, const char *to); /* 303 See Other */

void nib_http_stream(nib_http *r, int status, const char *type);
bool nib_http_streaming(const nib_http *r); /* the stream has begun */
void nib_http_write(nib_http *r, const void *p, size_t n);
/* One event of a text/event-stream: event NULL has no name; lines of data are told apart. */
void nib_http_sse(nib_http *r, const char *event, const char *data, size_t n);
void nib_http_end(nib_http *r);
size_t nib_http_waiting(const nib_http *r); /* bytes that the client has not taken yet */

/* ---- generations (mail.c) ---- */

/* Events of a generation, on the I/O thread; what they point to is gone afterwards. */
typedef void (*nib_http_event_fn)(nib_http *r, const nib_event *ev);
/* Submits q, which it takes over, for r. False: it could not be, and the client was told so (429
 * when the queue is full). END is the last event; an END with an error before anything was sent is
 * answered by the handler with nib_http_fail. */
bool nib_http_generate(nib_http *r, nib_request *q, nib_http_event_fn fn);
/* One prompt more of the same request, whose first reply has that number. READY comes for each; END
 * once, when all have ended or one has failed. When it returns false all are cancelled. */
bool nib_http_generate_more(nib_http *r, nib_request *q, int first, nib_http_event_fn fn);
/* Ends it; what was said so far becomes the reply. */
void nib_http_finish(nib_http *r);
/* A request with the server's limits as defaults. NULL: out of memory, and the client was told. */
nib_request *nib_http_request_new(nib_http *r);

/* The same without a request, for a user of model m (locals.h): nobody's leaving ends it. fn hears
 * until END, after which *out is gone; q is taken over, also on failure. */
typedef struct nib_box nib_box;
typedef void (*nib_listener)(void *arg, const nib_event *ev);
struct nib_local;
nib_status nib_server_generate(nib_server *s, struct nib_local *m, nib_request *q, nib_listener fn,
                               void *arg, nib_box **out, nib_error *e);
void nib_box_finish(nib_box *b);

/* ---- text ---- */

/* A JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
void nib_put_json(nib_buf *b, const char *p, size_t n);
#endif
