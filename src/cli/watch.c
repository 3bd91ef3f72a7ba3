/* The memory watch: a thread that looks at MemAvailable while a model runs.
 *
 * nib plans its own memory before it starts; this is for what others do to the machine meanwhile.
 * Weights are mapped from the file, so a machine short of memory would not fail but crawl: stopping
 * early is the kinder end. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include "cli/cli.h"
#include "cli/watch.h"

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool running, stop;
    uint64_t min_free;
    atomic_bool *cancel;
    _Atomic uint64_t seen; /* what was free when it fired; UINT64_MAX: it has not */
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER, .seen = UINT64_MAX};

uint64_t nib_watch_default(const nib_sysinfo *m) {
    uint64_t total = m->cgroup_limit ? m->cgroup_limit : m->mem_total;
    return NIB_MIN((uint64_t)2000000000, total / 20);
}

static void *look(void *arg) {
    (void)arg;
    pthread_mutex_lock(&watch.lock);
    while (!watch.stop) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += 500000000;
        if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&watch.wake, &watch.lock, &t);
        if (watch.stop) break;
        pthread_mutex_unlock(&watch.lock);
        nib_sysinfo m;
        nib_sysinfo_read(&m);
        pthread_mutex_lock(&watch.lock);
        if (m.mem_available < watch.min_free) {
            atomic_store(&watch.seen, m.mem_available);
            atomic_store(watch.cancel, true);
            break;
        }
    }
    pthread_mutex_unlock(&watch.lock);
    return NULL;
}

nib_status nib_watch_start(atomic_bool *cancel, uint64_t min_free, bool given, nib_error *e) {
    nib_watch_stop();
    if (min_free == 0) return NIB_OK;
    nib_sysinfo m;
    nib_sysinfo_read(&m);
    if (given && m.mem_available < min_free)
        return nib_fail(e, NIB_ERR_MEMORY_FIT,
                        "only %s of memory are free, less than the %s of --min-free-mem",
                        nib_bytes_text(m.mem_available), nib_bytes_text(min_free));
    if (!given) min_free = NIB_MIN(min_free, m.mem_available / 2);
    watch.min_free = min_free;
    watch.cancel = cancel;
    watch.stop = false;
    atomic_store(&watch.seen, UINT64_MAX);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&watch.wake, &a);
    pthread_condattr_destroy(&a);
    sigset_t all, before; /* Ctrl-C is for the thread that reads the terminal */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&watch.thread, NULL, look, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&watch.wake);
        return nib_fail(e, NIB_ERR_IO, "cannot start the memory watch: %s", strerror(failed));
    }
    watch.running = true;
    return NIB_OK;
}

void nib_watch_stop(void) {
    if (!watch.running) return;
    pthread_mutex_lock(&watch.lock);
    watch.stop = true;
    pthread_cond_signal(&watch.wake);
    pthread_mutex_unlock(&watch.lock);
    pthread_join(watch.thread, NULL);
    pthread_cond_destroy(&watch.wake);
    watch.running = false;
}

bool nib_watch_fired(nib_error *e) {
    uint64_t seen = atomic_load(&watch.seen);
    if (seen == UINT64_MAX) return false;
    nib_fail(e, NIB_ERR_MEMORY_FIT,
             "stopped: only %s of memory were left, below the limit of %s; close other programs, "
             "or use a smaller model, "
             "--ctx or --kv q8_0 (--min-free-mem sets the limit)",
             nib_bytes_text(seen), nib_bytes_text(watch.min_free));
    return true;
}
