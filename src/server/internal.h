/* What the server's own files share. Handlers need server.h alone. */
#ifndef NIB_SERVER_INTERNAL_H
#define NIB_SERVER_INTERNAL_H
#include <event2/event.h>
#include <event2/http.h>
#include <pthread.h>
#include "server/locals.h"

/* Work for a lane (work.c): 'work' there, then 'done' on the I/O thread, which may free it. */
typedef struct nib_task {
    nib_lane lane;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
    struct nib_task *next;
} nib_task;
enum { NIB_LANE_MOST = 256 /* requests that may wait for one */ };

struct nib_http_private {
    struct evhttp_request *req; /* NULL once it is evhttp's alone */
    struct evhttp_connection *conn;
    nib_http *prev, *next; /* all that are under way */
    struct json_t *json;
    nib_box *box; /* of its generation; one for each prompt */
    double start;
    int status;
    bool streaming, done, events, resting; /* events: text/event-stream */
    double wrote;                          /* when something was last written to the stream */
    int64_t n_prompt, n_generated;         /* for the log */
    struct nib_pair {
        const char *name, *value;
        struct nib_pair *next;
    } * query, *form;
    bool query_read, form_read;
    char peer[64];
    const char *token; /* of the pages' forms (web_session.c) */
    /* where it is: with the I/O thread, or with a lane (nib_http_next) */
    nib_lane lane, next_lane;
    nib_handler step, next_step;
    struct nib_task task;
    bool gone;    /* the client went while it was with a lane */
    nib_buf kept; /* the reply made there, sent on the I/O thread */
    const char *kept_type;
    bool kept_reply;
    /* the model it is about */
    nib_local *local; /* r is its user */
    nib_wish wish;
    nib_handler go_on;                 /* once the wish is granted */
    double waited;                     /* seconds for that */
    const struct web_choices *choices; /* what a page's handler knows of models (web_models.c) */
};

typedef struct nib_mail nib_mail;

/* A connection, from when it was accepted (conns.c). */
typedef struct nib_conn {
    struct bufferevent *bev;
    double since; /* when it was accepted, or its last reply ended */
    bool busy;    /* a request is being answered */
} nib_conn;

typedef struct nib_bucket {
    uint64_t client;
    double level, at;
} nib_bucket;
enum { NIB_BUCKETS_KEPT = 1024 };

struct nib_server {
    nib_server_params p;
    nib_arena arena; /* what p points to */
    struct event_base *base;
    struct evhttp *http;
    struct evconnlistener *listener;
    struct event *mail_event, *stop_event, *tick;
    int port;
    double started;
    struct nib_locals *locals;
    _Atomic(nib_sched *) sched; /* of the model loaded last, for nib_server_sched */
    atomic_int state;           /* nib_server_state */
    nib_error load_error;       /* of the first model */
    atomic_bool load_failed;
    /* generations: mail from the scheduler's threads */
    pthread_mutex_t mail_lock;
    nib_mail *mail, **mail_end;
    bool mail_told;
    /* work.c */
    pthread_mutex_t lane_lock;
    struct nib_queue {
        pthread_t thread;
        pthread_cond_t wake;
        nib_task *first, **end;
        int n; /* waiting or at work */
        bool started;
    } lanes[NIB_N_LANES];
    nib_task *over, **over_end; /* done, not yet told */
    bool over_told, lanes_end;
    /* requests */
    nib_http *live;
    int n_live;
    nib_conn *conns;
    size_t n_conns, cap_conns;
    bool listener_off;
    nib_str *keys;
    size_t n_keys;
    nib_bucket buckets[NIB_BUCKETS_KEPT];
    int stop_pipe[2];
    int n_stops;
    double stop_at;
    uint64_t n_http, n_http_errors;    /* replies, and of them with a status from 400 on */
    uint64_t n_loads, n_load_failures; /* of models */
    struct nib_web *web;               /* what pages keep */
};

/* server.c */
void nib_server_set_state(nib_server *s);
/* mail.c */
void nib_mail_deliver(nib_server *s); /* on the I/O thread */
void nib_box_drop(nib_http *r);       /* r is gone: its generation is cancelled */
void nib_box_leave(nib_http *r);      /* r hears no more of it */
void nib_box_pause(nib_http *r, bool pause);
/* work.c */
void nib_lanes_init(nib_server *s);
void nib_task_start(nib_server *s, nib_task *t); /* on the I/O thread; never refused */
bool nib_lane_full(nib_server *s, nib_lane lane);
nib_lane nib_lane_now(void);           /* of this thread */
void nib_lanes_deliver(nib_server *s); /* on the I/O thread */
void nib_lanes_end(nib_server *s);     /* all is done when it returns */
void nib_lanes_free(nib_server *s);
/* guard.c: false when the request was refused, and answered. */
nib_status nib_guard_init(nib_server *s, nib_error *e);
bool nib_guard(nib_http *r);
void nib_guard_cors(nib_http *r); /* headers for an allowed origin */
/* http.c */
void nib_http_on_request(struct evhttp_request *req, void *server);
/* As nib_http_with_model, with a model that is known. */
void nib_http_with(nib_http *r, nib_local *m, nib_handler go_on);
void nib_http_ping(nib_http *r);    /* a sign of life, when the stream was silent for long */
void nib_http_abandon(nib_http *r); /* the server ends before the reply does */
/* conns.c */
struct bufferevent *nib_conn_new(struct event_base *base, void *server);
void nib_conn_busy(nib_server *s, struct bufferevent *bev, bool busy);
void nib_conns_sweep(nib_server *s);
void nib_conns_free(nib_server *s);
/* form.c */
struct nib_pair *nib_form_parse(nib_arena *a, const char *p, size_t n);
/* web.c: opens the conversations; closes them once nothing is generated any more. */
nib_status nib_web_open(nib_server *s, nib_error *e);
void nib_web_close(nib_server *s);
/* An engine that is new: conversations' pages come from disk and go there. Any thread. */
void nib_web_attach(nib_server *s, nib_engine *en);
/* web_page.c: a whole page that says what is wrong, or a note for a page that is there already. */
void nib_web_error(nib_http *r, int status, const char *message, nib_buf *out);
/* web_models.c: on the I/O thread, for handlers that run elsewhere. */
void web_take_choices(nib_http *r);
#endif
