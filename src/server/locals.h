/* models - which models a server knows, and which of them are loaded.
 *
 * A local model is a file: one named on the command line, one of a folder named there, one of the
 * cache that 'nib pull' fills. Clients choose by name, from this list alone: nothing that comes
 * over the network becomes a path. The list is made by a task (locals_find.c) and is looked through
 * again when somebody asks for it, or for a name that it lacks.
 *
 * Whoever needs a model makes a wish. It is granted at once when the model is loaded, else the
 * model is loaded by a task (locals_load.c), one at a time, in the order of the wishes. A model
 * that has users stays; when more are loaded than may be, or memory is short, the one not used for
 * longest takes no new users and leaves once the last has gone, so what is under way ends as it
 * would have. Where memory holds both, the new one is loaded beside the old one, which answers
 * meanwhile.
 *
 * Everything here happens on the I/O thread, but for the work of tasks. */
#ifndef NIB_SERVER_LOCALS_H
#define NIB_SERVER_LOCALS_H
#include <time.h>
#include "server/server.h"

/* What a file's header says. */
typedef struct nib_look {
    char *arch, *title, *chat_template; /* NULL: it does not say */
    char quant[32];
    uint64_t n_params;
    int64_t n_ctx_train, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff, n_vocab;
    bool causal;
} nib_look;
void nib_look_free(nib_look *l);

typedef enum nib_local_state {
    NIB_LOCAL_AWAY,
    NIB_LOCAL_COMING, /* being loaded */
    NIB_LOCAL_READY,
    NIB_LOCAL_LEAVING, /* takes no new users */
    NIB_LOCAL_GOING    /* being unloaded */
} nib_local_state;

typedef struct nib_local {
    char *name, *other; /* as clients call it; another name that is meant, or NULL */
    char *path;
    uint64_t bytes;
    time_t when;     /* the file was changed */
    char digest[65]; /* SHA-256; "" not known */
    bool given;      /* named on the command line */
    bool gone;       /* its file is no longer there */
    bool hashed;     /* its digest was asked for */
    bool looked;
    nib_look look;
    nib_model_params params;
    nib_local_state state;
    nib_sched *sched; /* READY, LEAVING */
    int n_users;
    uint64_t held;                   /* bytes of memory that loading it took */
    double keep, idle_since, latest; /* keep: seconds without users, < 0 for ever; nib_now() */
    int64_t n_ctx;                   /* when it was last loaded; 0: never */
} nib_local;

typedef struct nib_wish nib_wish;
/* m: loaded, and the caller is its user until nib_local_leave; or NULL and why. NIB_ERR_NOT_FOUND:
 * there is no such model; NIB_ERR_LIMIT: too many wait. */
typedef void (*nib_wish_fn)(nib_wish *w, nib_local *m, const nib_error *e);
struct nib_wish {
    nib_wish *prev, *next;
    nib_local *local; /* NULL: by name, once the list has been looked through */
    const char *name;
    nib_wish_fn fn;
    void *arg;
    bool waits;
};

nib_status nib_locals_open(nib_server *s, nib_error *e);
void nib_locals_start(nib_server *s); /* loads what is to be there from the start */
void nib_locals_tick(nib_server *s);  /* now and then */
void nib_locals_turn(nib_server *s);  /* something changed */
/* The end, in this order: no wish is granted any more; no task begins, and those under way end
 * soon; every model goes (once no task runs); the list. */
void nib_locals_stop_wishes(nib_server *s);
void nib_locals_end(nib_server *s);
void nib_locals_unload_all(nib_server *s);
void nib_locals_close(nib_server *s);
bool nib_locals_quit(const nib_server *s); /* any thread: what takes long is to end */
size_t nib_locals_n(const nib_server *s);
nib_local *nib_locals_at(const nib_server *s, size_t i);
/* The list is looked through again, unless that has just been done. */
void nib_locals_refresh(nib_server *s);
/* "there are 'a', 'b' and 3 more" */
void nib_locals_put_names(nib_server *s, nib_buf *b);

/* What a name means now: NULL, none. name NULL or "": the one meant when nothing is said. 'any': a
 * name that is not known may mean the one model that was named on the command line. */
nib_local *nib_locals_find(nib_server *s, const char *name, bool any);
/* The loaded one that was used last; NULL: none is. */
nib_local *nib_locals_latest(nib_server *s);
/* fn may be called before these return. w->fn and w->arg are set; w and name live until then. */
void nib_wish_by_name(nib_server *s, nib_wish *w, const char *name);
void nib_wish_for(nib_server *s, nib_wish *w, nib_local *m);
void nib_wish_drop(nib_server *s, nib_wish *w); /* harmless when it does not wait */
void nib_local_enter(nib_local *m);
void nib_local_leave(nib_server *s, nib_local *m);
/* How long it stays without users: seconds, < 0 for ever. */
void nib_local_keep(nib_server *s, nib_local *m, double seconds);
/* Of the model being loaded: bytes so far, and of all; 0 before that is known. */
void nib_locals_progress(const nib_server *s, uint64_t *done, uint64_t *total);
/* "loading NAME, 43 %" */
void nib_local_put_progress(const nib_server *s, const nib_local *m, nib_buf *b);

/* ---- what locals.c and its two helpers share ---- */

/* A file that was found. */
typedef struct nib_found_model {
    char *name, *longer, *other, *path; /* longer: a name with its folder, or NULL */
    char digest[65];
    uint64_t bytes;
    time_t when;
    bool looked;
    nib_look look;
} nib_found_model;
typedef struct nib_found_list {
    nib_found_model *v;
    size_t n, cap;
} nib_found_list;
/* Any thread. known: what was found before, whose headers are not read again while they stay as
 * they were; NULL: no header is read. */
void nib_locals_search(const nib_server_params *p, const nib_found_list *known,
                       const atomic_bool *quit, nib_found_list *out);
void nib_found_list_free(nib_found_list *l);
/* The digest of a plain file: from where it is remembered (may be NULL), else computed, and
 * remembered. */
bool nib_locals_digest(const char *digests, const char *path, uint64_t bytes, time_t when,
                       const atomic_bool *quit, char out[65]);
typedef struct nib_hashing {
    char *path, digest[65];
    const char *digests;
    uint64_t bytes;
    time_t when;
    const atomic_bool *quit;
    bool ok;
} nib_hashing;

/* One model being loaded. */
typedef struct nib_loading {
    nib_server *server;
    char *path, *name;
    nib_model_params params;
    nib_engine_params engine;
    int n_queue;
    bool alone;            /* nothing else is loaded: what fits must do */
    uint64_t others, most; /* bytes: what other models hold, what all may hold (0: any) */
    const atomic_bool *quit;
    atomic_uint_fast64_t done, total;
    /* the result */
    nib_status status;
    nib_error error;
    nib_sched *sched;
    uint64_t held;
    bool crowded; /* it may fit when others leave */
    double seconds;
} nib_loading;
/* On a thread of its own. */
void nib_locals_load(nib_loading *l);
#endif
