/* backend - where operations run. The CPU first: a pool of threads that all run the same program
 * (SPMD), each taking its share of every operation and meeting at barriers. A program is an
 * ordinary C function that calls ops (ops/ops.h) with its nib_worker; nothing is queued,
 * interpreted or allocated.
 *
 * Work is shared in two ways, and neither changes a bit of the result:
 *   - static shares (nib_share): the same slice for a thread every time;
 *   - a phase counter (nib_phase): threads take chunks until none are left, which evens out noisy
 * neighbours. */
#ifndef NIB_BACKEND_H
#define NIB_BACKEND_H
#include "kernels/kernels.h"

typedef struct nib_backend nib_backend;

/* ---- where time goes ---- */
typedef enum nib_section {
#define NIB_SECTION(name, text) NIB_SECTION_##name,
#include "backend/sections.def"
#undef NIB_SECTION
    NIB_N_SECTIONS
} nib_section;
const char *nib_section_name(nib_section s);
/* One thread's share. */
typedef struct nib_profile {
    double seconds[NIB_N_SECTIONS];
    uint64_t n_barriers;
    nib_section now;
    double since;
} nib_profile;

/* ---- what flows through ----
 * Someone who looks at what matrices are given. Each thread is shown the same x [n_tok, width] and
 * does columns [c0, c1) of it, so that sums over tokens have one order whatever the number of
 * threads. Inputs are numbered as nib_model_input (engine.h) lists them. */
typedef struct nib_observer {
    void (*see)(void *arg, int64_t input, const float *x, int64_t n_tok, int64_t width, int64_t c0,
                int64_t c1);
    void *arg;
} nib_observer;

/* One thread's view of a running program. */
typedef struct nib_worker {
    nib_backend *be;
    const nib_kernels *k;
    int tid, n;           /* this thread, of how many */
    void *scratch;        /* this thread's own, as reserved, 64-byte aligned */
    uint64_t phase;       /* advances alike on every thread */
    nib_profile *profile; /* NULL: nobody asks where time goes */
} nib_worker;
typedef void (*nib_program)(nib_worker *w, void *arg);

/* n_threads 0: physical cores. */
nib_status nib_backend_new(nib_backend **out, int n_threads, nib_error *e);
void nib_backend_free(nib_backend *be);
int nib_backend_threads(const nib_backend *be);
/* Makes every thread's scratch at least 'bytes' large. Not while a program runs. */
nib_status nib_backend_reserve(nib_backend *be, size_t bytes, nib_error *e);
/* Gives the scratch's memory back until the next program. Not while a program runs. */
void nib_backend_rest(nib_backend *be);
/* From now on each thread adds its times to profiles[thread]; NULL ends it. Not while a program
 * runs. */
void nib_backend_profile(nib_backend *be, nib_profile *profiles);
/* Runs the program on all threads; returns when all are done. */
void nib_backend_run(nib_backend *be, nib_program program, void *arg);

/* -- inside a program -- */
/* What the thread does from here on, for the profile. */
void nib_section_start(nib_profile *p, nib_section s);
static inline void nib_at(nib_worker *w, nib_section s) {
    if (w->profile) nib_section_start(w->profile, s);
}
void nib_sync(nib_worker *w);
/* This thread's part [*lo, *hi) of [0, n). */
static inline void nib_share(const nib_worker *w, int64_t n, int64_t *lo, int64_t *hi) {
    *lo = n * w->tid / w->n;
    *hi = n * (w->tid + 1) / w->n;
}
/* The counter of the next phase: call once per phase on every thread. Threads may be at most one
 * barrier apart. */
nib_counter *nib_phase(nib_worker *w);

/* -- weights -- */
/* One matrix to bring into the form the kernels want: 'mat' describes rows as in the file and comes
 * back packed, in memory of its own, where its format packs; with f32, as packed floats. With 'as'
 * another format than mat's, the rows are quantised on the way. */
typedef struct nib_upload {
    nib_mat *mat;
    const char *name; /* of the tensor in the file, which owns it */
    bool pack;        /* false: leave the rows where they are (only looked up, never multiplied) */
    nib_dtype as;     /* mat's own, or one that it is to become */
    bool moved;       /* out: the matrix is no longer where it was, in the file */
    void *own;        /* out: memory to give back with nib_upload_free, or NULL; it may hold the */
    size_t own_bytes; /* other matrices of the same call too */
} nib_upload;
/* Whether the matrix can become t: rows of whole blocks, and a form the kernels multiply. */
bool nib_upload_can(const nib_upload *u, nib_dtype t);
/* Bytes of its own the matrix will take. */
size_t nib_upload_bytes(const nib_upload *u, bool f32);
/* 'done' is called from the calling thread after each part of a matrix with the raw bytes it was
 * made of; returning false cancels. NIB_ERR_FORMAT when a weight that is to be quantised is not
 * finite. On failure everything uploaded so far is given back; the
 * matrices are then unusable. */
typedef bool (*nib_upload_fn)(void *arg, const nib_upload *u, const void *raw, size_t raw_bytes);
nib_status nib_backend_upload(nib_backend *be, nib_upload *u, int64_t n, bool f32,
                              nib_upload_fn done, void *arg, nib_error *e);
void nib_upload_free(nib_upload *u);
#endif
