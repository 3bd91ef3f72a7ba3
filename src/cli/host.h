/* host - a model made ready by the options of a command line: opened, planned, watched,
 * interruptible. */
#ifndef NIB_CLI_HOST_H
#define NIB_CLI_HOST_H
#include "cli/cli.h"
#include "engine/engine.h"

/* --ctx, --kv, --threads, --batch, --min-free-mem, --ignore-memory. */
extern const nib_option nib_host_options[];
/* What they said (defaults where they said nothing). */
const nib_engine_params *nib_host_params(void);
/* The cache's format where --kv does not say. */
void nib_host_default_kv(nib_kv_type t);
/* The context where --ctx does not say. */
void nib_host_default_ctx(int64_t n);
/* Starts the memory watch as the options say; nib_watch_stop ends it. */
nib_status nib_host_watch(nib_error *e);

/* The file that MODEL means (cli/models.h), and how the options say it is to be opened. */
typedef struct nib_found {
    char *path;
    nib_model_params params;
    struct nib_requant *requant; /* what params points to */
} nib_found;
nib_status nib_host_find(nib_found *out, const char *model, nib_error *e);
void nib_found_free(nib_found *f);

typedef struct nib_host {
    nib_model *model;
    nib_engine *engine;
} nib_host;

/* Finds the model (cli/models.h), opens it with a progress bar, plans memory, makes the engine and
 * starts the memory watch. Errors name the file, and the alternatives when it does not fit. */
nib_status nib_host_open(nib_host *h, const char *model, nib_error *e);
void nib_host_close(nib_host *h);

/* Ctrl-C and the memory watch both stop the engine through one flag, nib_cancel. */
extern atomic_bool nib_cancel;
/* From now on Ctrl-C, SIGTERM, SIGHUP and SIGQUIT set nib_cancel instead of ending the process; the
 * third in a row, when nothing has reacted, ends it. */
void nib_interrupt_catch(void);
/* Called from the signal handler before it ends the process; may be NULL. */
extern void (*nib_forced_exit)(void);
/* A pipe that is readable after a signal, for whoever waits in poll; nib_wake makes it so, from a
 * handler too. */
int nib_wake_fd(void);
void nib_wake(void);
void nib_wake_drain(void);
/* Whether Ctrl-C came since the last clear. */
bool nib_interrupted(void);
/* The signal that asks nib to end (SIGTERM, SIGHUP, SIGQUIT), or 0. It is never cleared. */
int nib_ending(void);
/* Ready for the next run: clears nib_cancel and the interrupt, unless the watch has fired. */
void nib_interrupt_clear(void);
/* What a cancelled run becomes: the watch's error (exit status 1), or "interrupted" (128 + signal).
 */
nib_status nib_host_cancelled(nib_cli *c, nib_error *e);

/* A progress bar on standard error, when that is a terminal and the work takes more than a second
 * (progress.c). */
typedef struct nib_progress {
    const char *label;
    bool bytes; /* the numbers are bytes */
    bool rate;  /* show the speed too, and tell the time left from it; set after the start */
    double start, shown, speed;
    uint64_t
        last; /* done, when it was last shown; with rate: set it to what was there at the start */
} nib_progress;
void nib_progress_start(nib_progress *p, const char *label, bool bytes);
void nib_progress_show(nib_progress *p, uint64_t done, uint64_t total);
void nib_progress_end(nib_progress *p); /* wipes it */
#endif
