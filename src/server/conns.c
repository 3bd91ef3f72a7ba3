/* Connections: how many there may be, and how long one may sit without a whole request.
 *
 * evhttp 2.1 keeps no count and its timeouts begin anew with every byte, which a slow client can
 * draw out for ever. So the server makes the bufferevents itself and holds a reference to each: one
 * that evhttp has freed has no callbacks left, which the sweep finds. It runs four times a second
 * and when the limit is reached; at the limit the listener rests, and the kernel keeps newcomers in
 * its queue.
 *
 * The socket must live as long as its bufferevent: were it closed earlier, the next connection
 * would get its number, and what it sends would be read by both. */
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <sys/socket.h>
#include "server/internal.h"

struct bufferevent *nib_conn_new(struct event_base *base, void *server) {
    nib_server *s = server;
    struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) return NULL;
    /* the new one looks free until evhttp has it */
    if (s->n_conns + 1 >= (size_t)s->p.max_connections) nib_conns_sweep(s);
    if (s->n_conns == s->cap_conns) {
        size_t cap = s->cap_conns ? s->cap_conns * 2 : 64;
        nib_conn *v = nib_realloc(s->conns, cap * sizeof *v);
        if (!v) return bev; /* works, uncounted */
        s->conns = v;
        s->cap_conns = cap;
    }
    bufferevent_incref(bev);
    s->conns[s->n_conns++] = (nib_conn){.bev = bev, .since = nib_now()};
    if (s->n_conns >= (size_t)s->p.max_connections && !s->listener_off) {
        evconnlistener_disable(s->listener);
        s->listener_off = true;
    }
    return bev;
}

void nib_conn_busy(nib_server *s, struct bufferevent *bev, bool busy) {
    for (size_t i = 0; i < s->n_conns; i++)
        if (s->conns[i].bev == bev) {
            s->conns[i].busy = busy;
            s->conns[i].since = nib_now();
            return;
        }
}

static bool is_free(struct bufferevent *bev) {
    bufferevent_event_cb on_event = NULL;
    bufferevent_getcb(bev, NULL, NULL, &on_event, NULL);
    return !on_event;
}

void nib_conns_sweep(nib_server *s) {
    double now = nib_now();
    size_t n = 0;
    for (size_t i = 0; i < s->n_conns; i++) {
        nib_conn *c = &s->conns[i];
        if (is_free(c->bev)) {
            bufferevent_decref(c->bev);
            continue;
        }
        /* evhttp sees the end of the stream and tidies up */
        if (!c->busy && now - c->since > s->p.max_wait)
            shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);
        s->conns[n++] = *c;
    }
    s->n_conns = n;
    if (s->listener_off && s->n_conns < (size_t)s->p.max_connections && !s->n_stops) {
        evconnlistener_enable(s->listener);
        s->listener_off = false;
    }
}

void nib_conns_free(nib_server *s) {
    for (size_t i = 0; i < s->n_conns; i++) bufferevent_decref(s->conns[i].bev);
    nib_free(s->conns);
    s->conns = NULL;
    s->n_conns = 0;
}
