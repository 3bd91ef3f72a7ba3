/* The pool: one program run by all threads at once (SPMD), with barriers inside.
 *
 * Starting a job and meeting at a barrier are the same mechanism: a generation number that advances
 * when the last thread arrives. A waiting thread spins for about 20 us (decode steps follow each
 * other faster than that), then sleeps on the number with a futex. Nobody wakes anybody unless
 * somebody sleeps. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include "base/base.h"

typedef struct meeting {
    _Alignas(64) atomic_uint generation; /* what the waiting look at */
    _Alignas(64) atomic_int n_arrived;
    atomic_int n_asleep;
} meeting;

struct nib_pool {
    meeting start, barrier;
    nib_pool_fn fn;
    void *arg;
    int n_threads;
    int spin; /* iterations that take about 20 us */
    bool quit;
    pthread_t threads[256];
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_past(meeting *m, unsigned old, int spin) {
    for (int i = 0; i < spin; i++) {
        if (atomic_load_explicit(&m->generation, memory_order_acquire) != old) return;
        relax();
    }
    atomic_fetch_add(&m->n_asleep, 1);
    while (atomic_load(&m->generation) == old)
        syscall(SYS_futex, &m->generation, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&m->n_asleep, 1);
}

static void advance(meeting *m) {
    atomic_fetch_add(&m->generation, 1);
    if (atomic_load(&m->n_asleep) > 0)
        syscall(SYS_futex, &m->generation, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
}

void nib_pool_barrier(nib_pool *p) {
    if (p->n_threads == 1) return;
    meeting *m = &p->barrier;
    unsigned old = atomic_load_explicit(&m->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&m->n_arrived, 1, memory_order_acq_rel) == p->n_threads - 1) {
        atomic_store_explicit(&m->n_arrived, 0, memory_order_relaxed);
        advance(m);
    } else {
        wait_past(m, old, p->spin);
    }
}

typedef struct worker_arg {
    nib_pool *pool;
    int tid;
} worker_arg;

static void *worker(void *arg) {
    worker_arg w = *(worker_arg *)arg;
    nib_free(arg);
    nib_pool *p = w.pool;
    unsigned seen = 0;
    for (;;) {
        wait_past(&p->start, seen, p->spin);
        seen++;
        if (p->quit) return NULL;
        p->fn(p->arg, w.tid, p->n_threads);
        nib_pool_barrier(p);
    }
}

/* One pause is 40 to 140 cycles, depending on the machine: measure it once. */
static int spin_count(void) {
    double t = nib_now();
    for (int i = 0; i < 2000; i++) relax();
    double each = (nib_now() - t) / 2000;
    double n = each > 0 ? 20e-6 / each : 500;
    return n < 50 ? 50 : n > 100000 ? 100000 : (int)n;
}

static void pin(pthread_t t, int nth) {
    cpu_set_t have, one;
    if (sched_getaffinity(0, sizeof have, &have)) return;
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &have)) continue;
        if (seen++ != nth) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(t, sizeof one, &one);
        return;
    }
}

nib_status nib_pool_create(nib_pool **out, int n_threads, nib_error *e) {
    if (n_threads < 1 || n_threads > 256)
        return nib_fail(e, NIB_ERR_ARGUMENT, "%d threads asked for: expected 1 to 256", n_threads);
    /* over-aligned members: take whole pages */
    nib_pool *p = nib_alloc_pages(sizeof *p);
    if (!p) return nib_fail_nomem(e, sizeof *p, "the thread pool");
    p->n_threads = 1;
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    p->spin = n_threads <= si.n_cpu ? spin_count() : 1; /* oversubscribed: sleep at once */
    /* Signals are the program's business: workers inherit a mask that lets none in. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int n_started = 1;
    for (; n_started < n_threads; n_started++) {
        worker_arg *w = nib_alloc(sizeof *w);
        if (!w) break;
        *w = (worker_arg){p, n_started};
        if (pthread_create(&p->threads[n_started], NULL, worker, w)) {
            nib_free(w);
            break;
        }
        /* The caller's thread is not ours to pin; the scheduler keeps it off the pinned cores. */
        if (n_threads <= si.n_cpu) pin(p->threads[n_started], n_started);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    p->n_threads = n_started;
    if (n_started < n_threads) {
        nib_pool_free(p);
        return nib_fail(e, NIB_ERR_NOMEM, "could only start %d of %d threads", n_started,
                        n_threads);
    }
    *out = p;
    return NIB_OK;
}

void nib_pool_free(nib_pool *p) {
    if (!p) return;
    p->quit = true;
    advance(&p->start);
    for (int i = 1; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    nib_free_pages(p, sizeof *p);
}

int nib_pool_size(const nib_pool *p) {
    return p->n_threads;
}

void nib_pool_run(nib_pool *p, nib_pool_fn fn, void *arg) {
    if (p->n_threads > 1) {
        p->fn = fn;
        p->arg = arg;
        advance(&p->start);
    }
    fn(arg, 0, p->n_threads);
    nib_pool_barrier(p);
}

int64_t nib_counter_take(nib_counter *c, int64_t n) {
    return atomic_fetch_add_explicit(&c->v, n, memory_order_relaxed);
}
