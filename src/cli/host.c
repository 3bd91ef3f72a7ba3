/* Opening a model for a command: options, progress, the memory plan, the watch, Ctrl-C. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include "cli/models.h"
#include "cli/requant.h"
#include "cli/watch.h"

static nib_engine_params params;
static uint64_t min_free;
static const char *quantize;
static double min_speed = 10;
static bool min_free_given, kv_given, f32;

static nib_status set_ctx(const nib_option *o, const char *value, nib_error *e) {
    if (strcmp(value, "auto") == 0) {
        params.n_ctx = NIB_CTX_AUTO;
        return NIB_OK;
    }
    if (nib_parse_int(o->name, value, 1, INT32_MAX, &params.n_ctx, NULL) != NIB_OK)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "ctx: expected a number of tokens or auto, found '%.60s'", value);
    return NIB_OK;
}

static nib_status set_kv(const nib_option *o, const char *value, nib_error *e) {
    int i;
    NIB_TRY(nib_parse_choice(o->name, value, o->arg, &i, e));
    params.kv = (nib_kv_type)i;
    kv_given = true;
    return NIB_OK;
}

static nib_status set_int(const nib_option *o, const char *value, nib_error *e) {
    int64_t v;
    NIB_TRY(nib_parse_int(o->name, value, o->min, o->max, &v, e));
    *(int *)o->to = (int)v;
    return NIB_OK;
}

static nib_status set_speed(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_num(o->name, value, o->min, o->max, &min_speed, e);
}

static nib_status set_min_free(const nib_option *o, const char *value, nib_error *e) {
    NIB_TRY(nib_parse_bytes(o->name, value, &min_free, e));
    min_free_given = true;
    return NIB_OK;
}

const nib_option nib_host_options[] = {
    {"ctx", 'c', "N|auto", set_ctx, NULL, 0, 0,
     "tokens the context holds; auto is the most that fits in memory (default: 4096, or the "
     "model's own limit when less)",
     NULL},
    {"kv", 0, NIB_KV_CHOICE, set_kv, NULL, 0, 0,
     "format of the key/value cache (default: i16, or bf16 with AMX, for quantised weights, else "
     "f16; q8_0 takes half)",
     NULL},
    {"threads", 't', "N", set_int, &params.n_threads, 1, 256, "threads (default: physical cores)",
     NULL},
    {"batch", 'b', "N", set_int, &params.batch, 1, 8192,
     "tokens of a prompt computed together (default: 512)", NULL},
    NIB_OPT_SWITCH("fast-prompt", 0, &params.fast_prompt,
                   "read prompts faster by rounding weights once more, to 8 bits; replies then "
                   "depend on how a prompt is cut"),
    {"min-free-mem", 0, "SIZE", set_min_free, NULL, 0, 0,
     "stop when less memory than this stays free, such as 800M; 0 is never (default: 2 GB or 5 %, "
     "whichever is less)",
     NULL},
    NIB_OPT_TEXT(
        "quantize", 0, "TYPE|auto", &quantize,
        "quantise the weights while loading, as nib quantize does (q8_0, q4_k_m, ...); auto "
        "is the widest that fits and is fast enough here"),
    {"min-speed", 0, "N", set_speed, NULL, 0, 1e6,
     "with --quantize auto: tokens a second that are fast enough (default: 10)", NULL},
    NIB_OPT_SWITCH("f32", 0, &f32,
                   "expand the weights to 32-bit floats: slow and large, for comparing numbers"),
    NIB_OPT_SWITCH("ignore-memory", 0, &params.ignore_memory,
                   "start even when the plan says that memory does not suffice"),
    NIB_OPT_END,
};

const nib_engine_params *nib_host_params(void) {
    return &params;
}
void nib_host_default_kv(nib_kv_type t) {
    if (!kv_given) params.kv = t;
}

void nib_host_default_ctx(int64_t n) {
    if (!params.n_ctx) params.n_ctx = n;
}

nib_status nib_host_watch(nib_error *e) {
    nib_sysinfo m;
    nib_sysinfo_read(&m);
    return nib_watch_start(&nib_cancel, min_free_given ? min_free : nib_watch_default(&m),
                           min_free_given, e);
}

/* ---- Ctrl-C ---- */

atomic_bool nib_cancel;
static atomic_int presses, ending;
static int wake[2] = {-1, -1};

int nib_wake_fd(void) {
    return wake[0];
}
void nib_wake(void) {
    int before = errno;
    if (write(wake[1], "", 1) < 0) {
    } /* full: it is awake already */
    errno = before;
}
void nib_wake_drain(void) {
    char some[64];
    while (read(wake[0], some, sizeof some) > 0) {
    }
}

void (*nib_forced_exit)(void);

/* Runs in the main thread: all others block signals. */
static void on_signal(int sig) {
    if (atomic_fetch_add(&presses, 1) >= 2) {
        if (nib_forced_exit) nib_forced_exit();
        _exit(128 + sig);
    }
    if (sig != SIGINT) atomic_store(&ending, sig);
    atomic_store(&nib_cancel, true);
    nib_wake();
}

void nib_interrupt_catch(void) {
    if (wake[0] < 0 && pipe2(wake, O_CLOEXEC | O_NONBLOCK)) wake[0] = wake[1] = -1;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < NIB_ARRAY_LEN(signals); i++) {
        struct sigaction old,
            a = {.sa_handler = on_signal}; /* no SA_RESTART: a read at the prompt must return */
        sigemptyset(&a.sa_mask);
        /* what nohup, or a shell's background, ignores stays ignored */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &a, NULL);
    }
}

bool nib_interrupted(void) {
    return atomic_load(&presses) > 0;
}
int nib_ending(void) {
    return atomic_load(&ending);
}

void nib_interrupt_clear(void) {
    if (nib_ending()) return;
    atomic_store(&presses, 0);
    if (!nib_watch_fired(NULL)) atomic_store(&nib_cancel, false);
}

nib_status nib_host_cancelled(nib_cli *c, nib_error *e) {
    if (nib_watch_fired(e)) return NIB_ERR_MEMORY_FIT;
    c->exit_code = 128 + (nib_ending() ? nib_ending() : SIGINT);
    return nib_fail(e, NIB_ERR_CANCELLED, nib_ending() ? "ended by a signal" : "interrupted");
}

/* ---- opening ---- */

static bool on_load(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
    return !atomic_load(&nib_cancel);
}

nib_status nib_host_find(nib_found *out, const char *model, nib_error *e) {
    nib_found f = {.params = {.n_threads = params.n_threads, .f32 = f32}};
    NIB_TRY(nib_model_find(model, &f.path, e));
    nib_status s = NIB_OK;
    if (quantize) s = nib_requant_choose(&f.requant, f.path, quantize, min_speed, &params, e);
    if (s != NIB_OK) {
        nib_found_free(&f);
        return s;
    }
    nib_requant_apply(f.requant, &f.params);
    *out = f;
    return NIB_OK;
}

void nib_found_free(nib_found *f) {
    nib_requant_free(f->requant);
    nib_free(f->path);
    *f = (nib_found){0};
}

nib_status nib_host_open(nib_host *h, const char *model, nib_error *e) {
    nib_host fresh = {0};
    nib_found found = {0};
    nib_progress bar;
    nib_status s;
    NIB_TRY_OUT(nib_host_find(&found, model, e));
    nib_model_params mp = found.params;
    const char *path = found.path;
    mp.plan_only = true;
    NIB_TRY_OUT(nib_model_open(&fresh.model, path, &mp, e));
    if (!params.ignore_memory) NIB_TRY_OUT(nib_engine_check(fresh.model, &params, e));
    nib_progress_start(&bar, "Loading", true);
    mp.progress = on_load;
    mp.progress_arg = &bar;
    s = nib_model_load(fresh.model, &mp, e);
    nib_progress_end(&bar);
    if (s != NIB_OK) goto out;
    NIB_TRY_OUT(nib_engine_new(&fresh.engine, fresh.model, &params, e));
    nib_engine_set_cancel(fresh.engine, &nib_cancel);
    NIB_TRY_OUT(nib_host_watch(e));
    *h = fresh;
    nib_found_free(&found);
    return NIB_OK;
out:
    nib_found_free(&found);
    nib_host_close(&fresh);
    return s;
}

void nib_host_close(nib_host *h) {
    nib_engine_free(h->engine);
    nib_model_release(h->model);
    *h = (nib_host){0};
}
