/* Log lines go to one receiver, chosen by the program; the library itself stays silent. */
#include <pthread.h>
#include "base/base.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static nib_log_fn receiver;
static void *receiver_arg;
static atomic_int level_max = -1;

void nib_log_set(nib_log_fn fn, void *arg, nib_log_level max_level) {
    pthread_mutex_lock(&lock);
    receiver = fn;
    receiver_arg = arg;
    atomic_store(&level_max, fn ? (int)max_level : -1);
    pthread_mutex_unlock(&lock);
}

void nib_log(nib_log_level level, const char *fmt, ...) {
    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed)) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    if (receiver) receiver(receiver_arg, level, line);
    pthread_mutex_unlock(&lock);
}
