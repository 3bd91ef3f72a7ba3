/* The server: listens, loads the model, runs the loop, stops in good order.
 *
 * Stopping: the first call closes the listener and lets what is under way end; when the grace time
 * is over, or at the second call, replies end where they are, marked as cut off; when the last
 * request is answered, or two seconds later, the loop ends. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/listener.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/internal.h"

enum { BACKLOG = 4096, MAX_HEADERS = 32 << 10 };

nib_server_params nib_server_defaults(void) {
    return (nib_server_params){.port = 8080,
                               .engine = {.n_seq = 4},
                               .n_queue = 64,
                               .max_tokens = 2048,
                               .max_seconds = 30,
                               .max_body = 4 << 20,
                               .max_messages = 1024,
                               .max_connections = 1024,
                               .max_wait = 60,
                               .rate = 300,
                               .kv_disk = NIB_KVDISK_AUTO,
                               .max_models = 1,
                               .keep = -1,
                               .grace = 5};
}

/* ---- for handlers ---- */

const nib_server_params *nib_server_params_of(const nib_server *s) {
    return &s->p;
}
nib_sched *nib_server_sched(nib_server *s) {
    return atomic_load(&s->sched);
}
void nib_server_set_state(nib_server *s) {
    bool some = nib_locals_n(s) > 0;
    atomic_store(&s->state, some ? NIB_SERVER_READY : NIB_SERVER_NO_MODEL);
}
nib_server_state nib_server_get_state(const nib_server *s) {
    return (nib_server_state)atomic_load(&s->state);
}
double nib_server_started(const nib_server *s) {
    return s->started;
}
struct event_base *nib_server_base(nib_server *s) {
    return s->base;
}
size_t nib_server_n_models(const nib_server *s) {
    return nib_locals_n(s);
}
int nib_server_port(const nib_server *s) {
    return s->port;
}

/* ---- stopping ---- */

void nib_server_stop(nib_server *s) {
    int before = errno;
    if (write(s->stop_pipe[1], "", 1) < 0) {
    } /* full: it knows */
    errno = before;
}

static void close_listener(nib_server *s) {
    if (s->listener) evconnlistener_disable(s->listener);
    s->listener_off = true;
}

static void end_replies(nib_server *s) {
    for (nib_http *r = s->live, *next; r; r = next) {
        next = r->own->next;
        nib_http_finish(r);
    }
}

static void on_stop(evutil_socket_t fd, short what, void *arg) {
    nib_server *s = arg;
    char some[16];
    (void)fd;
    double now = nib_now();
    if (what & EV_READ) {
        ssize_t n;
        while ((n = read(s->stop_pipe[0], some, sizeof some)) > 0) s->n_stops += (int)n;
        if (!s->stop_at) s->stop_at = now + s->p.grace;
        if (s->n_stops > 1) s->stop_at = NIB_MIN(s->stop_at, now);
        close_listener(s);
        nib_locals_stop_wishes(s);
    }
    if (atomic_load(&s->load_failed)) event_base_loopbreak(s->base);
    if (!s->n_stops) return;
    if (now >= s->stop_at) end_replies(s);
    /* evhttp has still to write what was answered just now: the tick comes after that */
    if (now >= s->stop_at + 2) event_base_loopbreak(s->base);
    if (!s->n_live) event_base_loopexit(s->base, NULL);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    nib_server *s = arg;
    (void)fd, (void)what;
    nib_conns_sweep(s);
    nib_locals_tick(s);
    for (nib_http *r = s->live; r; r = r->own->next) nib_http_ping(r);
    if (s->p.quit && atomic_load(s->p.quit) && !s->n_stops) nib_server_stop(s);
    if (s->n_stops) on_stop(-1, 0, s);
}

static void on_mail(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    nib_mail_deliver(arg);
    nib_lanes_deliver(arg);
}

/* ---- making ---- */

/* All that are named from the start become s->p.models; how the first is opened is how those are
 * that turn up later, but for what is of the first alone. */
static nib_status copy_models(nib_server *s, nib_error *e) {
    size_t n = s->p.n_models + (s->p.model_path != NULL), at = 0;
    nib_server_model *v = nib_arena_calloc(&s->arena, n + 1, sizeof *v);
    if (v && s->p.model_path)
        v[at++] = (nib_server_model){s->p.model_path, s->p.model_name, s->p.model};
    for (size_t i = 0; v && i < s->p.n_models; i++) {
        nib_server_model *m = &v[at++];
        *m = s->p.models[i];
        m->path = nib_arena_strndup(&s->arena, m->path, strlen(m->path));
        if (m->name) m->name = nib_arena_strndup(&s->arena, m->name, strlen(m->name));
        if (!m->path || (s->p.models[i].name && !m->name)) v = NULL;
    }
    if (!v) return nib_fail_nomem(e, n * sizeof *v, "the server's settings");
    s->p.models = v;
    s->p.n_models = n;
    return NIB_OK;
}

static nib_status copy_params(nib_server *s, const nib_server_params *p, nib_error *e) {
    nib_server_params d = nib_server_defaults();
    s->p = *p;
    if (!s->p.host) s->p.host = "127.0.0.1";
    if (s->p.max_tokens <= 0) s->p.max_tokens = d.max_tokens;
    if (s->p.max_body == 0) s->p.max_body = d.max_body;
    if (s->p.max_messages <= 0) s->p.max_messages = d.max_messages;
    if (!(s->p.max_wait > 0)) s->p.max_wait = d.max_wait;
    if (s->p.max_models <= 0) s->p.max_models = d.max_models;
    if (s->p.n_queue <= 0) s->p.n_queue = d.n_queue;
    if (s->p.max_connections <= 0) s->p.max_connections = d.max_connections;
    const char **texts[] = {&s->p.host,  &s->p.model_path, &s->p.model_name, &s->p.key_file,
                            &s->p.store, &s->p.cache,      &s->p.digests};
    for (size_t i = 0; i < NIB_ARRAY_LEN(texts); i++)
        if (*texts[i] && !(*texts[i] = nib_arena_strndup(&s->arena, *texts[i], strlen(*texts[i]))))
            return nib_fail_nomem(e, 1, "the server's settings");
    const char *const **lists[] = {&s->p.cors, &s->p.hosts, &s->p.folders};
    for (size_t i = 0; i < NIB_ARRAY_LEN(lists); i++) {
        size_t n = 0;
        while (*lists[i] && (*lists[i])[n]) n++;
        const char **list = nib_arena_calloc(&s->arena, n + 1, sizeof *list);
        for (size_t k = 0; list && k < n; k++)
            if (!(list[k] = nib_arena_strndup(&s->arena, (*lists[i])[k], strlen((*lists[i])[k]))))
                list = NULL;
        if (!list) return nib_fail_nomem(e, n, "the server's settings");
        *lists[i] = list;
    }
    return copy_models(s, e);
}

static nib_status bind_at(nib_server *s, nib_error *e) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", s->p.port);
    int failed = getaddrinfo(s->p.host, port, &hints, &list);
    if (failed)
        return nib_fail(e, NIB_ERR_ARGUMENT, "cannot listen on '%s': %s", s->p.host,
                        gai_strerror(failed));
    s->listener = evconnlistener_new_bind(s->base, NULL, NULL,
                                          LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC |
                                              LEV_OPT_REUSEABLE | LEV_OPT_DISABLED,
                                          BACKLOG, list->ai_addr, (int)list->ai_addrlen);
    int reason = errno;
    freeaddrinfo(list);
    if (!s->listener)
        return nib_fail(e, NIB_ERR_IO, "cannot listen on %s port %d: %s%s", s->p.host, s->p.port,
                        strerror(reason),
                        reason == EADDRINUSE ? " (another program does; --port chooses one)" : "");
    int one = 1, fd = evconnlistener_get_fd(s->listener);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &n) == 0)
        s->port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&at)->sin6_port
                                                 : ((struct sockaddr_in *)(void *)&at)->sin_port);
    if (!evhttp_bind_listener(s->http, s->listener))
        return nib_fail(e, NIB_ERR_IO, "cannot listen on %s port %d", s->p.host, s->p.port);
    return NIB_OK;
}

/* As many files as connections need; where the system allows fewer, fewer connections. */
static void allow_files(nib_server *s) {
    enum { OTHERS = 128 };
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r)) return;
    rlim_t want = (rlim_t)s->p.max_connections + OTHERS;
    if (r.rlim_cur < want) {
        r.rlim_cur = NIB_MIN(want, r.rlim_max);
        setrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur < want)
        s->p.max_connections = r.rlim_cur > 2 * OTHERS ? (int)(r.rlim_cur - OTHERS) : OTHERS / 2;
}

static void on_libevent_log(int severity, const char *message) {
    nib_log(severity >= EVENT_LOG_ERR ? NIB_LOG_ERROR : NIB_LOG_DEBUG, "libevent: %s", message);
}

nib_status nib_server_new(nib_server **out, const nib_server_params *p, nib_error *e) {
    nib_server *s = nib_calloc(1, sizeof *s);
    if (!s) return nib_fail_nomem(e, sizeof *s, "the server");
    nib_status status;
    s->mail_end = &s->mail;
    s->stop_pipe[0] = s->stop_pipe[1] = -1;
    s->started = nib_now();
    pthread_mutex_init(&s->mail_lock, NULL);
    nib_lanes_init(s);
    nib_arena_init(&s->arena, 0);
    if ((status = copy_params(s, p, e)) != NIB_OK || (status = nib_guard_init(s, e)) != NIB_OK)
        goto out;
    atomic_store(&s->state, NIB_SERVER_LOADING);
    signal(SIGPIPE, SIG_IGN);
    event_set_log_callback(on_libevent_log);
    allow_files(s);
    if (evthread_use_pthreads() || !(s->base = event_base_new()) ||
        !(s->http = evhttp_new(s->base)) || pipe2(s->stop_pipe, O_CLOEXEC | O_NONBLOCK)) {
        status = nib_fail(e, NIB_ERR_NOMEM, "cannot start the server: %s", strerror(errno));
        goto out;
    }
    evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                            EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                            EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
    evhttp_set_max_headers_size(s->http, MAX_HEADERS);
    evhttp_set_max_body_size(s->http, (ev_ssize_t)(s->p.max_body + (64 << 10)));
    evhttp_set_timeout(s->http, (int)s->p.max_wait + 1);
    evhttp_set_gencb(s->http, nib_http_on_request, s);
    evhttp_set_bevcb(s->http, nib_conn_new, s);
    s->mail_event = event_new(s->base, -1, EV_PERSIST, on_mail, s);
    s->stop_event = event_new(s->base, s->stop_pipe[0], EV_READ | EV_PERSIST, on_stop, s);
    s->tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
    struct timeval quarter = {0, 250000};
    if (!s->mail_event || !s->stop_event || !s->tick || event_add(s->stop_event, NULL) ||
        event_add(s->tick, &quarter)) {
        status = nib_fail_nomem(e, 1, "the server's events");
        goto out;
    }
    if ((status = bind_at(s, e)) != NIB_OK || (status = nib_locals_open(s, e)) != NIB_OK ||
        (status = nib_web_open(s, e)) != NIB_OK)
        goto out;
    if (!s->p.model_path) nib_server_set_state(s);
    *out = s;
    return NIB_OK;
out:
    nib_server_free(s);
    return status;
}

nib_status nib_server_run(nib_server *s, nib_error *e) {
    evconnlistener_enable(s->listener);
    nib_locals_start(s);
    event_base_dispatch(s->base);
    nib_locals_end(s);
    if (atomic_load(&s->load_failed) && !s->n_stops) {
        if (e) *e = s->load_error;
        return s->load_error.code;
    }
    return NIB_OK;
}

void nib_server_free(nib_server *s) {
    if (!s) return;
    nib_locals_end(s);
    nib_lanes_end(s);
    for (nib_http *r = s->live; r; r = r->own->next) nib_box_leave(r);
    nib_locals_unload_all(s); /* their last words are mail */
    nib_mail_deliver(s);
    while (s->live) nib_http_abandon(s->live);
    if (s->http) evhttp_free(s->http);
    nib_conns_free(s);
    nib_web_close(s);
    nib_locals_close(s);
    if (s->mail_event) event_free(s->mail_event);
    if (s->stop_event) event_free(s->stop_event);
    if (s->tick) event_free(s->tick);
    if (s->base) event_base_free(s->base);
    if (s->stop_pipe[0] >= 0) close(s->stop_pipe[0]);
    if (s->stop_pipe[1] >= 0) close(s->stop_pipe[1]);
    pthread_mutex_destroy(&s->mail_lock);
    nib_lanes_free(s);
    nib_arena_free(&s->arena);
    nib_free(s);
}
