/* Lanes: threads for what would keep the I/O thread from its work - files, long texts, paper.
 *
 * A lane is one thread that does its tasks in order; it begins with the first. A task's work runs
 * there, its done then on the I/O thread, together with the mail. What a task touches belongs to
 * the lane meanwhile, so nothing here needs locks but the queues. Once the server ends, what is
 * left is done, and further tasks are done at once by the thread that brings them. */
#include <assert.h>
#include <signal.h>
#include "server/internal.h"

static _Thread_local nib_lane here = NIB_LANE_IO;

nib_lane nib_lane_now(void) {
    return here;
}

static void put(nib_task ***end, nib_task *t) {
    t->next = NULL;
    **end = t;
    *end = &t->next;
}

static void do_task(nib_task *t) {
    nib_lane before = here;
    here = t->lane;
    t->work(t->arg);
    here = before;
}

typedef struct start {
    nib_server *server;
    nib_lane lane;
} start;

static void *work_on(void *arg) {
    nib_server *s = ((start *)arg)->server;
    struct nib_queue *q = &s->lanes[((start *)arg)->lane];
    nib_free(arg);
    pthread_mutex_lock(&s->lane_lock);
    for (;;) {
        while (!q->first && !s->lanes_end) pthread_cond_wait(&q->wake, &s->lane_lock);
        nib_task *t = q->first;
        if (!t) break;
        if (!(q->first = t->next)) q->end = &q->first;
        pthread_mutex_unlock(&s->lane_lock);
        do_task(t);
        pthread_mutex_lock(&s->lane_lock);
        q->n--;
        put(&s->over_end, t);
        bool tell = !s->over_told;
        s->over_told = true;
        if (tell) event_active(s->mail_event, EV_READ, 0);
    }
    pthread_mutex_unlock(&s->lane_lock);
    return NULL;
}

static bool begin(nib_server *s, nib_lane lane) {
    struct nib_queue *q = &s->lanes[lane];
    if (q->started) return true;
    start *arg = nib_alloc(sizeof *arg);
    sigset_t all, before;
    if (!arg) return false;
    *arg = (start){s, lane};
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    q->started = pthread_create(&q->thread, NULL, work_on, arg) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!q->started) nib_free(arg);
    return q->started;
}

void nib_lanes_init(nib_server *s) {
    pthread_mutex_init(&s->lane_lock, NULL);
    s->over_end = &s->over;
    for (int i = 0; i < NIB_N_LANES; i++) {
        s->lanes[i].end = &s->lanes[i].first;
        pthread_cond_init(&s->lanes[i].wake, NULL);
    }
}

bool nib_lane_full(nib_server *s, nib_lane lane) {
    pthread_mutex_lock(&s->lane_lock);
    bool full = s->lanes[lane].n >= NIB_LANE_MOST;
    pthread_mutex_unlock(&s->lane_lock);
    return full;
}

void nib_task_start(nib_server *s, nib_task *t) {
    assert(here == NIB_LANE_IO && t->lane != NIB_LANE_IO);
    if (s->lanes_end || !begin(s, t->lane)) {
        do_task(t);
        t->done(t->arg);
        return;
    }
    struct nib_queue *q = &s->lanes[t->lane];
    pthread_mutex_lock(&s->lane_lock);
    put(&q->end, t);
    q->n++;
    pthread_cond_signal(&q->wake);
    pthread_mutex_unlock(&s->lane_lock);
}

void nib_lanes_deliver(nib_server *s) {
    pthread_mutex_lock(&s->lane_lock);
    nib_task *t = s->over;
    s->over = NULL;
    s->over_end = &s->over;
    s->over_told = false;
    pthread_mutex_unlock(&s->lane_lock);
    while (t) {
        nib_task *next = t->next;
        t->done(t->arg); /* t may be gone, or wait again */
        t = next;
    }
}

void nib_lanes_end(nib_server *s) {
    pthread_mutex_lock(&s->lane_lock);
    s->lanes_end = true;
    for (int i = 0; i < NIB_N_LANES; i++) pthread_cond_signal(&s->lanes[i].wake);
    pthread_mutex_unlock(&s->lane_lock);
    for (int i = 0; i < NIB_N_LANES; i++) {
        if (s->lanes[i].started) pthread_join(s->lanes[i].thread, NULL);
        s->lanes[i].started = false;
    }
    while (s->over) nib_lanes_deliver(s);
}

void nib_lanes_free(nib_server *s) {
    for (int i = 0; i < NIB_N_LANES; i++) pthread_cond_destroy(&s->lanes[i].wake);
    pthread_mutex_destroy(&s->lane_lock);
}
