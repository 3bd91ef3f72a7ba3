/* Pages on their way out: a thread hands them to the page store while the engine computes on.
 *
 * What is to be kept is not copied: each page gets one reference more, and a page with more than
 * one is never written. References belong to the engine's thread, so the saver's thread only moves
 * what it is done with to another list, from which the engine's takes the references back. When the
 * engine wants pages and there are none, what still waits is given up, one timeline after the
 * other: its next reply tries again. */
#include <pthread.h>
#include <signal.h>
#include "engine/internal.h"

/* One timeline. */
typedef struct save {
    struct save *next;
    int64_t owner, n; /* pages */
    int32_t *pages;
    int32_t *tokens; /* [n, NIB_PAGE] */
} save;

struct nib_saver {
    nib_page_store store;
    nib_kv_pool *pool;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t come, went; /* something to do; something done */
    save *waiting, *now, *done;
    int n_waiting;
    bool quit, hurry; /* hurry: what is under way ends with the page it is at */
};

enum { MOST_WAITING = 64 };

static void append(save **list, save *x) {
    while (*list) list = &(*list)->next;
    x->next = NULL;
    *list = x;
}

static bool hurried(nib_saver *v) {
    pthread_mutex_lock(&v->lock);
    bool hurry = v->hurry;
    pthread_mutex_unlock(&v->lock);
    return hurry;
}

static void write_out(nib_saver *v, const save *x) {
    nib_page_key key = {{0}};
    for (int64_t i = 0; i < x->n && !hurried(v); i++) {
        const int32_t *tokens = x->tokens + i * NIB_PAGE;
        const nib_page_key before = key;
        v->store.name(v->store.arg, &before, tokens, &key);
        if (!v->store.keep(v->store.arg, x->owner, &key, tokens,
                           nib_kv_page_at(v->pool, x->pages[i])))
            return; /* nothing behind it could be found */
    }
}

static void *save_all(void *arg) {
    nib_saver *v = arg;
    pthread_mutex_lock(&v->lock);
    for (;;) {
        while (!v->waiting && !v->quit) pthread_cond_wait(&v->come, &v->lock);
        if (!v->waiting) break;
        v->now = v->waiting;
        v->waiting = v->now->next;
        v->n_waiting--;
        pthread_mutex_unlock(&v->lock);
        write_out(v, v->now);
        pthread_mutex_lock(&v->lock);
        append(&v->done, v->now);
        v->now = NULL;
        pthread_cond_broadcast(&v->went);
    }
    pthread_mutex_unlock(&v->lock);
    return NULL;
}

static void save_free(nib_saver *v, save *x, int64_t n_pinned) {
    for (int64_t i = 0; i < n_pinned; i++)
        nib_kv_page_give(v->pool, nib_kv_page_at(v->pool, x->pages[i]));
    nib_free(x->pages);
    nib_free(x->tokens);
    nib_free(x);
}

static void free_all(nib_saver *v, save *list) {
    while (list) {
        save *next = list->next;
        save_free(v, list, list->n);
        list = next;
    }
}

nib_status nib_saver_new(nib_saver **out, const nib_page_store *store, nib_kv_pool *pool,
                         nib_error *e) {
    nib_saver *v = nib_calloc(1, sizeof *v);
    if (!v) return nib_fail_nomem(e, sizeof *v, "a page store");
    v->store = *store;
    v->pool = pool;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->come, NULL);
    pthread_cond_init(&v->went, NULL);
    *out = v;
    return NIB_OK;
}

const nib_page_store *nib_saver_store(const nib_saver *v) {
    return &v->store;
}

void nib_saver_free(nib_saver *v) {
    if (!v) return;
    pthread_mutex_lock(&v->lock);
    v->quit = true;
    pthread_cond_signal(&v->come);
    pthread_mutex_unlock(&v->lock);
    if (v->started) pthread_join(v->thread, NULL);
    free_all(v, v->done);
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->come);
    pthread_cond_destroy(&v->went);
    nib_free(v);
}

/* The thread starts with the first page. */
static bool running(nib_saver *v) {
    sigset_t all, before;
    if (v->started) return true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's business */
    v->started = pthread_create(&v->thread, NULL, save_all, v) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return v->started;
}

void nib_saver_reap(nib_saver *v) {
    if (!v) return;
    pthread_mutex_lock(&v->lock);
    save *done = v->done;
    v->done = NULL;
    pthread_mutex_unlock(&v->lock);
    free_all(v, done);
}

void nib_saver_put(nib_saver *v, int64_t owner, uint8_t *const *pages, const int32_t *tokens,
                   int64_t n) {
    nib_saver_reap(v);
    if (n < 1 || !running(v)) return;
    save *x = nib_calloc(1, sizeof *x);
    if (!x) return;
    size_t bytes = (size_t)n * NIB_PAGE * sizeof *x->tokens;
    *x = (save){.owner = owner, .n = n};
    x->pages = nib_alloc((size_t)n * sizeof *x->pages);
    x->tokens = nib_alloc(bytes);
    pthread_mutex_lock(&v->lock);
    bool full = v->n_waiting >= MOST_WAITING;
    pthread_mutex_unlock(&v->lock);
    if (!x->pages || !x->tokens || full) { /* the next reply tries again */
        save_free(v, x, 0);
        return;
    }
    memcpy(x->tokens, tokens, bytes);
    for (int64_t i = 0; i < n; i++)
        x->pages[i] = nib_kv_page_index(v->pool, nib_kv_page_share(v->pool, pages[i]));
    pthread_mutex_lock(&v->lock);
    append(&v->waiting, x);
    v->n_waiting++;
    pthread_cond_signal(&v->come);
    pthread_mutex_unlock(&v->lock);
}

bool nib_saver_release(nib_saver *v) {
    if (!v) return false;
    pthread_mutex_lock(&v->lock);
    save **last = &v->waiting, *given_up = NULL;
    if (v->done) {
        /* enough for now */
    } else if (v->waiting) { /* the newest: the oldest is the next to be written */
        while ((*last)->next) last = &(*last)->next;
        given_up = *last;
        *last = NULL;
        v->n_waiting--;
    } else {
        v->hurry = true;
        while (v->now) pthread_cond_wait(&v->went, &v->lock);
        v->hurry = false;
    }
    bool any = given_up || v->done;
    pthread_mutex_unlock(&v->lock);
    free_all(v, given_up);
    nib_saver_reap(v);
    return any;
}

void nib_saver_flush(nib_saver *v) {
    if (!v) return;
    pthread_mutex_lock(&v->lock);
    while (v->waiting || v->now) pthread_cond_wait(&v->went, &v->lock);
    pthread_mutex_unlock(&v->lock);
    nib_saver_reap(v);
}
