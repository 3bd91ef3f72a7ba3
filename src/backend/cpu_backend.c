/* The CPU backend: threads, their scratch, phase counters, and packing of weights. */
#include <float.h>
#include <math.h>
#include "backend/backend.h"

/* A counter is used by one phase and reset half a turn of the ring later: threads are never that
 * far apart. */
enum { N_COUNTERS = 64 };

struct nib_backend {
    nib_counter counters[N_COUNTERS];
    nib_pool *pool;
    const nib_kernels *k;
    int n;
    void *scratch; /* n parts */
    size_t scratch_each;
    nib_program program;
    void *arg;
    uint64_t phase;
    nib_profile *profiles;
};

/* ---- where time goes ---- */

const char *nib_section_name(nib_section s) {
    static const char *const names[] = {
#define NIB_SECTION(name, text) text,
#include "backend/sections.def"
#undef NIB_SECTION
    };
    return names[s];
}

void nib_section_start(nib_profile *p, nib_section s) {
    double now = nib_now();
    p->seconds[p->now] += now - p->since;
    p->now = s;
    p->since = now;
}

void nib_backend_profile(nib_backend *be, nib_profile *profiles) {
    be->profiles = profiles;
}

/* ---- threads ---- */

nib_status nib_backend_new(nib_backend **out, int n_threads, nib_error *e) {
    if (n_threads == 0) {
        nib_sysinfo si;
        nib_sysinfo_read(&si);
        n_threads = si.n_core;
    }
    nib_backend *be = nib_alloc_pages(sizeof *be);
    if (!be) return nib_fail_nomem(e, sizeof *be, "the backend");
    nib_status s = nib_pool_create(&be->pool, n_threads, e);
    if (s != NIB_OK) {
        nib_free_pages(be, sizeof *be);
        return s;
    }
    be->n = n_threads;
    be->k = nib_kernels_get();
    *out = be;
    return NIB_OK;
}

void nib_backend_free(nib_backend *be) {
    if (!be) return;
    nib_pool_free(be->pool);
    nib_free_pages(be->scratch, be->scratch_each * (size_t)be->n);
    nib_free_pages(be, sizeof *be);
}

int nib_backend_threads(const nib_backend *be) {
    return be->n;
}

nib_status nib_backend_reserve(nib_backend *be, size_t bytes, nib_error *e) {
    if (bytes <= be->scratch_each) return NIB_OK;
    size_t each = NIB_ROUND_UP(bytes, 4096), all;
    if (!nib_mul_size(each, (size_t)be->n, &all)) return nib_fail_nomem(e, bytes, "scratch");
    void *p = nib_alloc_pages(all);
    if (!p) return nib_fail_nomem(e, all, "scratch");
    nib_free_pages(be->scratch, be->scratch_each * (size_t)be->n);
    be->scratch = p;
    be->scratch_each = each;
    return NIB_OK;
}

void nib_backend_rest(nib_backend *be) {
    nib_drop_pages(be->scratch, be->scratch_each * (size_t)be->n);
}

static void start(void *arg, int tid, int n) {
    nib_backend *be = arg;
    nib_worker w = {.be = be, .k = be->k, .tid = tid, .n = n, .phase = be->phase};
    if (be->scratch) w.scratch = (char *)be->scratch + be->scratch_each * (size_t)tid;
    if (be->profiles) {
        w.profile = &be->profiles[tid];
        w.profile->now = NIB_SECTION_OTHER;
        w.profile->since = nib_now();
    }
    be->program(&w, be->arg);
    nib_at(&w, NIB_SECTION_OTHER);
    nib_sync(&w); /* nobody may still be reading be->phase when it changes */
    if (tid == 0) be->phase = w.phase;
    nib_at(&w, NIB_SECTION_OTHER);
}

void nib_backend_run(nib_backend *be, nib_program program, void *arg) {
    be->program = program;
    be->arg = arg;
    nib_pool_run(be->pool, start, be);
}

void nib_sync(nib_worker *w) {
    nib_profile *p = w->profile;
    if (!p) {
        nib_pool_barrier(w->be->pool);
        return;
    }
    nib_section s = p->now;
    nib_section_start(p, NIB_SECTION_WAIT);
    p->n_barriers++;
    nib_pool_barrier(w->be->pool);
    nib_section_start(p, s);
}

nib_counter *nib_phase(nib_worker *w) {
    uint64_t p = w->phase++;
    if (w->tid == 0)
        atomic_store_explicit(&w->be->counters[(p + N_COUNTERS / 2) % N_COUNTERS].v, 0,
                              memory_order_relaxed);
    return &w->be->counters[p % N_COUNTERS];
}

/* ---- packing ---- */

/* The f32 reference wins over quantising; tables that are only looked up stay as they are then. */
static nib_dtype packed_dtype(const nib_upload *u, bool f32) {
    return !f32 ? u->as : u->pack ? NIB_F32 : u->mat->dtype;
}

bool nib_upload_can(const nib_upload *u, nib_dtype t) {
    const nib_dtype_info *info = nib_dtype_get(t);
    return info && info->from_f32 && u->mat->k % info->block_len == 0 &&
           (!u->pack || nib_mat_can_pack(t, u->mat->k));
}

size_t nib_upload_bytes(const nib_upload *u, bool f32) {
    nib_dtype t = packed_dtype(u, f32);
    size_t n = (size_t)u->mat->n, bytes, each = nib_dtype_bytes(t, u->mat->k);
    if (u->pack) {
        if (!nib_mat_can_pack(t, u->mat->k)) return 0;
        n = (n + NIB_PANEL - 1) / NIB_PANEL;
        each = nib_mat_panel_bytes(t, u->mat->k);
    } else if (t == u->mat->dtype) {
        return 0;
    }
    return nib_mul_size(n, each, &bytes) ? bytes : SIZE_MAX;
}

typedef struct pack_job {
    const nib_mat *raw;
    nib_mat *packed; /* or rows of another format, when not packed */
    int64_t p0, p1;  /* panels */
    atomic_bool odd; /* a weight to be quantised is not finite */
} pack_job;

/* A panel's rows as floats, and those in their new format, in 'tmp': first the floats, behind them
 * the rows, unless these go to 'rows' at once. */
static void requantise(pack_job *j, const uint8_t *raw, int n_rows, float *tmp, void *rows) {
    const nib_dtype_info *from = nib_dtype_get(j->raw->dtype),
                         *to = nib_dtype_get(j->packed->dtype);
    size_t row_bytes = nib_dtype_bytes(j->packed->dtype, j->raw->k);
    bool odd = false;
    for (int r = 0; r < n_rows; r++) {
        float *f = tmp + r * j->raw->k;
        from->to_f32(raw + (size_t)r * j->raw->stride, f, j->raw->k);
        if (j->packed->dtype == NIB_F32) continue;
        for (int64_t i = 0; i < j->raw->k; i++) odd |= !(fabsf(f[i]) <= FLT_MAX);
        to->from_f32(f, (uint8_t *)rows + (size_t)r * row_bytes, j->raw->k, NULL);
    }
    if (odd) atomic_store(&j->odd, true);
}

static void pack_program(nib_worker *w, void *arg) {
    pack_job *j = arg;
    nib_counter *next = nib_phase(w);
    nib_dtype t = j->packed->dtype;
    size_t row_bytes = nib_dtype_bytes(t, j->raw->k);
    enum { CHUNK = 8 };
    for (int64_t p; (p = j->p0 + nib_counter_take(next, CHUNK)) < j->p1;) {
        for (int64_t i = p; i < NIB_MIN(p + CHUNK, j->p1); i++) {
            int64_t row = i * NIB_PANEL;
            int n_rows = (int)NIB_MIN(j->raw->n - row, NIB_PANEL);
            const uint8_t *rows = j->raw->data + (size_t)row * j->raw->stride;
            size_t step = j->packed->packed ? j->packed->stride : j->packed->stride * NIB_PANEL;
            uint8_t *panel = (uint8_t *)(uintptr_t)j->packed->data + (size_t)i * step;
            if (t == j->raw->dtype) {
                w->k->pack(t, rows, j->raw->stride, n_rows, j->raw->k, panel);
                continue;
            }
            float *tmp = w->scratch;
            void *made = t == NIB_F32 ? tmp : tmp + NIB_PANEL * j->raw->k;
            requantise(j, rows, n_rows, tmp, j->packed->packed ? made : panel);
            if (j->packed->packed) w->k->pack(t, made, row_bytes, n_rows, j->raw->k, panel);
        }
    }
}

/* Packs a slice at a time: what lies in memory twice, once raw and once packed, is one slice. to:
 * nib_upload_bytes bytes. */
static nib_status upload_one(nib_backend *be, nib_upload *u, bool f32, void *to, nib_upload_fn done,
                             void *arg, nib_error *e) {
    enum { SLICE_BYTES = 16 << 20 };
    size_t bytes = nib_upload_bytes(u, f32);
    nib_mat raw = *u->mat;
    int64_t n_panels = (raw.n + NIB_PANEL - 1) / NIB_PANEL, step = n_panels;
    if (bytes) {
        nib_dtype t = packed_dtype(u, f32);
        size_t row = nib_dtype_bytes(t, raw.k);
        if (t != raw.dtype)
            NIB_TRY(nib_backend_reserve(be, ((size_t)raw.k * 4 + row) * NIB_PANEL, e));
        u->moved = true;
        *u->mat =
            (nib_mat){t, u->pack, raw.n, raw.k, to, u->pack ? nib_mat_panel_bytes(t, raw.k) : row};
        step = NIB_MAX(SLICE_BYTES / (int64_t)(raw.stride * NIB_PANEL), 1);
    }
    for (int64_t p = 0; p < n_panels; p += step) {
        int64_t end = NIB_MIN(p + step, n_panels), row = p * NIB_PANEL;
        if (bytes) {
            pack_job job = {&raw, u->mat, p, end, false};
            nib_backend_run(be, pack_program, &job);
            if (atomic_load(&job.odd))
                return nib_fail(e, NIB_ERR_FORMAT,
                                "tensor '%s' holds a weight that is not finite: it cannot be "
                                "quantised",
                                u->name);
        }
        size_t n_rows = (size_t)(NIB_MIN(end * NIB_PANEL, raw.n) - row);
        if (done && !done(arg, u, raw.data + (size_t)row * raw.stride, n_rows * raw.stride))
            return nib_fail(e, NIB_ERR_CANCELLED, "loading was cancelled");
    }
    return NIB_OK;
}

nib_status nib_backend_upload(nib_backend *be, nib_upload *u, int64_t n, bool f32,
                              nib_upload_fn done, void *arg, nib_error *e) {
    /* One piece of memory for all: small matrices get large pages too. */
    size_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        u[i].own = NULL;
        u[i].own_bytes = 0;
        u[i].moved = false;
        size_t bytes = nib_upload_bytes(&u[i], f32);
        if (bytes > SIZE_MAX / 2 - total) return nib_fail_nomem(e, bytes, "weights");
        total += NIB_ROUND_UP(bytes, (size_t)64);
    }
    if (total) {
        if (!(u->own = nib_alloc_pages(total))) return nib_fail_nomem(e, total, "weights");
        u->own_bytes = total;
    }
    char *to = u->own;
    nib_status s = NIB_OK;
    for (int64_t i = 0; i < n && s == NIB_OK; i++) {
        size_t bytes = nib_upload_bytes(&u[i], f32);
        s = upload_one(be, &u[i], f32, to, done, arg, e);
        if (bytes) to += NIB_ROUND_UP(bytes, (size_t)64);
    }
    if (s != NIB_OK && total) nib_upload_free(u);
    return s;
}

void nib_upload_free(nib_upload *u) {
    nib_free_pages(u->own, u->own_bytes);
    u->own = NULL;
    u->own_bytes = 0;
}
