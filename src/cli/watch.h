/* watch - stops a run before the machine swaps. One watch a process. */
#ifndef NIB_CLI_WATCH_H
#define NIB_CLI_WATCH_H
#include "base/base.h"

/* The free memory below which a run is stopped, when the user says nothing: 2 GB or 5 % of what
 * this process may use, whichever is less. */
uint64_t nib_watch_default(const nib_sysinfo *m);
/* Starts a thread that reads the available memory twice a second and sets *cancel when less than
 * min_free bytes are left. 'given': the user named min_free, so it is taken literally, and
 * NIB_ERR_MEMORY_FIT says when it is so already; a default is lowered to half of what is free now,
 * so that it never fires at once. min_free 0: no watch. */
nib_status nib_watch_start(atomic_bool *cancel, uint64_t min_free, bool given, nib_error *e);
void nib_watch_stop(void);
/* Whether it fired; fills e with what happened. */
bool nib_watch_fired(nib_error *e);
#endif
