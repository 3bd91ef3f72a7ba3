/* Linear layers, activations and norms: how their work is shared. */
#include "ops/ops.h"

nib_rows nib_op_rows(const nib_worker *w, int64_t n_tok) {
    nib_rows r = {0, n_tok};
    if (n_tok > NIB_FEW) nib_share(w, n_tok, &r.t0, &r.t1);
    return r;
}

void nib_op_norm(nib_worker *w, nib_rows r, nib_norm_kind kind, const nib_norm *n, float eps,
                 const float *x, float *y, int64_t width) {
    nib_at(w, NIB_SECTION_NORM);
    for (int64_t t = r.t0; t < r.t1; t++) {
        if (kind == NIB_NORM_RMS)
            w->k->rms_norm(x + t * width, n->w, eps, width, y + t * width);
        else
            w->k->layer_norm(x + t * width, n->w, n->b, eps, width, y + t * width);
    }
}

static bool is_fast(const nib_act *a, const nib_mat *m) {
    return a->fast && nib_mat_can_fast(m->dtype, m->k);
}

void nib_op_quantise(nib_worker *w, nib_rows r, int n, const nib_linear *const *l, nib_act *a) {
    nib_at(w, NIB_SECTION_QUANTISE);
    unsigned kinds = 0;
    for (int i = 0; i < n; i++)
        if (l[i]->w.data) kinds |= is_fast(a, &l[i]->w) ? NIB_ACT_FAST : nib_mat_act(l[i]->w.dtype);
    if (r.t1 <= r.t0) return;
    if (kinds & NIB_ACT_Q8) w->k->quantise(a->x, a->ldx, r.t0, r.t1, a);
    if (kinds & NIB_ACT_Q8K) w->k->quantise_k(a->x, a->ldx, r.t0, r.t1, a);
    if (kinds & NIB_ACT_FAST) w->k->quantise_fast(a->x, a->ldx, r.t0, r.t1, a);
    if (kinds & NIB_ACT_F32) nib_act_tile(a, r.t0, r.t1);
}

void nib_op_lookup(nib_worker *w, nib_rows r, const nib_mat *m, const int32_t *ids, float scale,
                   float *y) {
    for (int64_t t = r.t0; t < r.t1; t++) {
        w->k->unpack_row(m, ids[t], y + t * m->k);
        if (scale != 1.0f) w->k->scale(y + t * m->k, scale, m->k);
    }
}

/* ---- panels shared out ----
 * Three quarters of the panels are dealt out beforehand, so that a thread reads the same memory
 * every time; the rest is taken in small chunks, which lets a thread that was held up fall behind
 * without stopping the others. Chunks are four panels, because the kernels for few tokens walk four
 * at once; what is then left is one smaller chunk a thread, so that all end together. A thread
 * takes its next chunk before it does the one it has, and asks memory for it. */
enum { CHUNK = 4 };
typedef void (*panel_fn)(nib_worker *w, const void *job, int64_t p0, int64_t p1);

static int64_t dealt_to_each(const nib_worker *w, int64_t n_panels) {
    return w->n == 1 ? n_panels : n_panels * 3 / 4 / (CHUNK * w->n) * CHUNK;
}

static void share_panels(nib_worker *w, int64_t n_panels, panel_fn fn,
                         void (*ask)(const void *job, int64_t p), const void *job) {
    nib_counter *next = nib_phase(w);
    int64_t each = dealt_to_each(w, n_panels), dealt = each * w->n;
    int64_t n_chunks = (n_panels - dealt) / (CHUNK * w->n) * w->n;
    int64_t last = dealt + n_chunks * CHUNK, small = (n_panels - last + w->n - 1) / w->n;
    int64_t p = each * w->tid, end = p + each;
    for (;;) {
        int64_t i = w->n == 1 ? 0 : nib_counter_take(next, 1);
        bool is_small = i >= n_chunks;
        int64_t then = is_small ? last + (i - n_chunks) * small : dealt + i * CHUNK;
        bool some = is_small ? small > 0 && then < n_panels : true;
        if (some) ask(job, then);
        if (p < end) fn(w, job, p, end);
        if (!some) return;
        p = then;
        end = NIB_MIN(then + (is_small ? small : CHUNK), n_panels);
    }
}

static int64_t panels_of(const nib_mat *m) {
    return (m->n + NIB_PANEL - 1) / NIB_PANEL;
}

static void add_bias(nib_worker *w, const nib_linear *l, int64_t n_tok, int64_t p0, int64_t p1,
                     float *y) {
    if (!l->bias) return;
    int64_t r0 = p0 * NIB_PANEL, r1 = NIB_MIN(p1 * NIB_PANEL, l->w.n);
    for (int64_t t = 0; t < n_tok; t++) w->k->add(y + t * l->w.n + r0, l->bias + r0, r1 - r0);
}

static void multiply(nib_worker *w, const nib_mat *m, const nib_act *a, int64_t p0, int64_t p1,
                     float *y, int64_t ldy) {
    (is_fast(a, m) ? w->k->matmul_fast : w->k->matmul)(m, a, p0, p1, y, ldy, w->scratch);
}

typedef struct linear_job {
    int n;
    const nib_linear *const *l;
    const nib_act *a;
    float *const *y;
} linear_job;

/* Panels are numbered through all the matrices. */
static void linear_panels(nib_worker *w, const void *job, int64_t p0, int64_t p1) {
    const linear_job *j = job;
    for (int i = 0; i < j->n && p1 > 0; i++) {
        int64_t np = panels_of(&j->l[i]->w);
        if (p0 < np) {
            int64_t end = NIB_MIN(p1, np);
            multiply(w, &j->l[i]->w, j->a, p0, end, j->y[i], j->l[i]->w.n);
            add_bias(w, j->l[i], j->a->n_tok, p0, end, j->y[i]);
        }
        p0 = NIB_MAX(p0 - np, 0);
        p1 -= np;
    }
}

static void linear_ask(const void *job, int64_t p) {
    const linear_job *j = job;
    for (int i = 0; i < j->n; i++) {
        int64_t np = panels_of(&j->l[i]->w);
        if (p < np) {
            nib_mat_ask(&j->l[i]->w, p, CHUNK);
            return;
        }
        p -= np;
    }
}

void nib_op_linear(nib_worker *w, int n, const nib_linear *const *l, const nib_act *a,
                   float *const *y) {
    linear_job j = {n, l, a, y};
    int64_t total = 0;
    for (int i = 0; i < n; i++) total += panels_of(&l[i]->w);
    share_panels(w, total, linear_panels, linear_ask, &j);
}

static void activate(nib_worker *w, nib_activation act, float *y, const float *x, const float *u,
                     int64_t n) {
    switch (act) {
    case NIB_ACTIVATION_SILU: w->k->silu(y, x, u, n); break;
    case NIB_ACTIVATION_GELU_TANH: w->k->gelu_tanh(y, x, u, n); break;
    case NIB_ACTIVATION_GELU_ERF: w->k->gelu_erf(y, x, u, n); break;
    }
}

typedef struct act_job {
    const nib_linear *gate, *up;
    nib_activation act;
    const nib_act *a;
    float *y;
} act_job;

/* Rows of the scratch that follows what matmul uses: [T][ACT_WIDTH], for gate and for up. */
enum { ACT_WIDTH = CHUNK * NIB_PANEL, AHEAD = 8 };

static void act_panels(nib_worker *w, const void *job, int64_t p0, int64_t p1) {
    const act_job *j = job;
    const int64_t n_tok = j->a->n_tok, ld = j->up->w.n;
    const nib_linear *l[] = {j->gate ? j->gate : j->up, j->up};
    float *tmp[2];
    tmp[0] = (float *)((char *)w->scratch + NIB_ROUND_UP(nib_matmul_scratch(n_tok, j->a->k), 64));
    tmp[1] = tmp[0] + n_tok * ACT_WIDTH;
    /* Some panels at a time, side by side in scratch, so that they are still near when they are
     * multiplied: rows of y may lie a power of two apart, where few fit a cache together. */
    for (int64_t p = p0; p < p1; p += CHUNK) {
        int64_t end = NIB_MIN(p + CHUNK, p1);
        int64_t r0 = p * NIB_PANEL, width = NIB_MIN(end * NIB_PANEL, ld) - r0;
        for (int i = 0; i < (j->gate ? 2 : 1); i++) {
            if (i == 0 && j->gate)
                nib_mat_ask(&j->up->w, p, CHUNK);
            else if (end < p1)
                nib_mat_ask(&l[0]->w, end, CHUNK);
            /* matmul writes y[t*ld + row]: the base is moved so that row r0 lands in tmp[i][0] */
            multiply(w, &l[i]->w, j->a, p, end, tmp[i] - r0, ACT_WIDTH);
            if (l[i]->bias)
                for (int64_t t = 0; t < n_tok; t++)
                    w->k->add(tmp[i] + t * ACT_WIDTH, l[i]->bias + r0, width);
        }
        for (int64_t t = 0; t < n_tok; t++) {
            /* lines of y are far apart: asked for some tokens ahead */
            float *y = j->y + t * ld + r0, *then = y + NIB_MIN(AHEAD, n_tok - 1 - t) * ld;
            for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(then + i, 1);
            activate(w, j->act, y, tmp[0] + t * ACT_WIDTH, j->gate ? tmp[1] + t * ACT_WIDTH : NULL,
                     width);
        }
    }
}

static void act_ask(const void *job, int64_t p) {
    const act_job *j = job;
    nib_mat_ask(j->gate ? &j->gate->w : &j->up->w, p, CHUNK);
}

void nib_op_linear_act(nib_worker *w, const nib_linear *gate, const nib_linear *up,
                       nib_activation act, const nib_act *a, float *y) {
    act_job j = {gate, up, act, a, y};
    share_panels(w, panels_of(&up->w), act_panels, act_ask, &j);
}

size_t nib_op_linear_scratch(int64_t n_tok, int64_t k) {
    return NIB_ROUND_UP(nib_matmul_scratch(n_tok, k), 64) +
           2 * (size_t)n_tok * ACT_WIDTH * sizeof(float);
}
