/* Generations and the I/O thread: what the scheduler's threads say becomes mail, and mail is read
 * on the I/O thread, in order.
 *
 * A box stands between a request and its job, since either may go first: when the request goes, the
 * job is cancelled and its mail is thrown away until END; END frees the box. The letters of one
 * turn of the loop are read together, so a step of many replies wakes the I/O thread once.
 *
 * A request with several prompts has as many boxes. Its handler hears of them as of one job: their
 * replies are numbered one after the other, END comes when all have ended, or the first failed. */
#include "server/internal.h"

struct nib_box {
    nib_server *server;
    nib_http *r; /* NULL: it has gone */
    nib_job *job;
    nib_local *local; /* the job's; the box is its user */
    nib_box *next;    /* of r */
    int first;        /* its first reply's number */
    nib_http_event_fn fn;
    nib_listener listen; /* instead of fn: the job is no request's */
    void *arg;
    size_t n_embd;
};

/* One event, with all it points to. */
struct nib_mail {
    nib_mail *next;
    nib_box *box;
    nib_event ev;
    nib_piece piece;
    nib_reply reply;
    nib_error error;
    void *data; /* texts, odds or vector */
    char *stop;
};

static void mail_free(nib_mail *m) {
    nib_free(m->data);
    nib_free(m->stop);
    nib_free(m);
}

static char *joined(const char *a, size_t n, const char *b, size_t m) {
    char *p = nib_alloc(n + m + 2);
    if (!p) return NULL;
    memcpy(p, a, n);
    p[n] = 0;
    memcpy(p + n + 1, b, m);
    p[n + m + 1] = 0;
    return p;
}

/* A copy that outlives the call; NULL when out of memory. */
static nib_mail *copy(nib_box *box, const nib_event *ev) {
    nib_mail *m = nib_calloc(1, sizeof *m);
    bool ok = m != NULL;
    if (!ok) return NULL;
    m->box = box;
    m->ev = *ev;
    if (ev->piece) {
        m->piece = *ev->piece;
        m->ev.piece = &m->piece;
        if (ev->piece->odds) {
            ok = (m->data = nib_alloc(sizeof *ev->piece->odds)) != NULL;
            if (ok) m->piece.odds = memcpy(m->data, ev->piece->odds, sizeof *ev->piece->odds);
        } else {
            m->data = joined(ev->piece->text, ev->piece->len, "", 0);
            ok = (m->piece.text = m->data) != NULL;
        }
    }
    if (ev->reply) {
        const char *think = ev->reply->thinking ? ev->reply->thinking : "";
        if (ev->reply->stop) m->stop = nib_strdup(ev->reply->stop);
        m->reply = *ev->reply;
        m->ev.reply = &m->reply;
        m->reply.stop = m->stop;
        m->data = joined(ev->reply->text, strlen(ev->reply->text), think, strlen(think));
        ok = (m->reply.text = m->data) != NULL;
        if (ok && ev->reply->thinking)
            m->reply.thinking = m->reply.text + strlen(m->reply.text) + 1;
    }
    if (ev->error) {
        m->error = *ev->error;
        m->ev.error = &m->error;
    }
    if (ev->vector) {
        size_t bytes = box->n_embd * sizeof(float);
        ok = (m->data = nib_alloc(bytes)) != NULL;
        if (ok) m->ev.vector = memcpy(m->data, ev->vector, bytes);
    }
    if (ok) return m;
    mail_free(m);
    return NULL;
}

/* On a thread of the scheduler. */
static void on_event(void *arg, const nib_event *ev) {
    nib_box *box = arg;
    nib_server *s = box->server;
    if (ev->piece && ev->piece->kind == NIB_PIECE_PROMPT && ev->piece->done < ev->piece->total &&
        ev->piece->total < 1024)
        return; /* progress worth telling only of long prompts */
    nib_mail *m;
    while (!(m = copy(box, ev)) && ev->kind == NIB_EVENT_END) { /* END must arrive */
        struct timespec t = {0, 10000000};
        nanosleep(&t, NULL);
    }
    if (!m) {
        nib_job_cancel(box->job);
        return;
    }
    pthread_mutex_lock(&s->mail_lock);
    *s->mail_end = m;
    s->mail_end = &m->next;
    bool tell = !s->mail_told;
    s->mail_told = true;
    pthread_mutex_unlock(&s->mail_lock);
    if (tell) event_active(s->mail_event, EV_READ, 0);
}

static void take_out(nib_http *r, const nib_box *box) {
    nib_box **at = &r->own->box;
    while (*at != box) at = &(*at)->next;
    *at = box->next;
}

void nib_mail_deliver(nib_server *s) {
    pthread_mutex_lock(&s->mail_lock);
    nib_mail *m = s->mail;
    s->mail = NULL;
    s->mail_end = &s->mail;
    s->mail_told = false;
    pthread_mutex_unlock(&s->mail_lock);
    while (m) {
        nib_mail *next = m->next;
        nib_box *box = m->box;
        nib_http *r = box->r;
        bool last = m->ev.kind == NIB_EVENT_END;
        m->ev.index += box->first;
        if (r && m->ev.kind == NIB_EVENT_READY) r->own->n_prompt += m->ev.n_prompt;
        if (r && m->ev.reply) r->own->n_generated += m->ev.reply->n_generated;
        if (r && last) take_out(r, box);
        if (r && last && m->ev.status != NIB_OK) nib_box_drop(r);
        if (r && (!last || !r->own->box)) box->fn(r, &m->ev);
        if (box->listen) box->listen(box->arg, &m->ev);
        if (last) {
            nib_job_release(box->job);
            nib_local_leave(s, box->local);
            nib_free(box);
        }
        mail_free(m);
        m = next;
    }
}

/* Takes over q, also on failure. */
static nib_status submit(nib_server *s, nib_local *l, nib_request *q, nib_box b, nib_box **out,
                         nib_error *e) {
    nib_box *box = nib_calloc(1, sizeof *box);
    nib_status status;
    if (!box) {
        status = nib_fail_nomem(e, sizeof *box, "a request");
    } else {
        *box = b;
        box->server = s;
        box->local = l;
        box->n_embd = (size_t)nib_model_get_info(nib_sched_model(l->sched))->n_embd;
        status = nib_sched_submit(l->sched, q, on_event, box, &box->job, e);
    }
    if (status == NIB_OK) {
        nib_local_enter(l);
        *out = box;
        return NIB_OK;
    }
    nib_free(box);
    nib_request_free(q);
    return status;
}

bool nib_http_generate(nib_http *r, nib_request *q, nib_http_event_fn fn) {
    return nib_http_generate_more(r, q, 0, fn);
}

bool nib_http_generate_more(nib_http *r, nib_request *q, int first, nib_http_event_fn fn) {
    nib_error e;
    nib_box box = {.r = r, .next = r->own->box, .first = first, .fn = fn};
    q->client = r->client;
    if (r->own->gone) {
        nib_request_free(q);
        return false;
    }
    if (submit(r->server, r->own->local, q, box, &r->own->box, &e) == NIB_OK) return true;
    nib_box_drop(r);
    nib_http_fail(r, &e, NULL);
    return false;
}

nib_status nib_server_generate(nib_server *s, nib_local *m, nib_request *q, nib_listener fn,
                               void *arg, nib_box **out, nib_error *e) {
    return submit(s, m, q, (nib_box){.listen = fn, .arg = arg}, out, e);
}

void nib_box_finish(nib_box *b) {
    nib_job_finish(b->job);
}

void nib_box_leave(nib_http *r) {
    for (nib_box *b = r->own->box; b; b = b->next) b->r = NULL;
    r->own->box = NULL;
}

void nib_box_drop(nib_http *r) {
    nib_box *box = r->own->box;
    nib_box_leave(r);
    for (; box; box = box->next) nib_job_cancel(box->job);
}

void nib_box_pause(nib_http *r, bool pause) {
    for (nib_box *b = r->own->box; b; b = b->next) nib_job_pause(b->job, pause);
}

void nib_http_finish(nib_http *r) {
    for (nib_box *b = r->own->box; b; b = b->next) nib_job_finish(b->job);
}

nib_request *nib_http_request_new(nib_http *r) {
    nib_request *q = nib_request_new(nib_http_model(r));
    if (!q) {
        nib_http_error(r, 503, NULL, NULL, "out of memory for the request");
        return NULL;
    }
    q->p.max_tokens = r->server->p.max_tokens;
    q->p.max_seconds = r->server->p.max_seconds;
    return q;
}
