/* Attention over the paged cache, and positions.
 *
 * Two phases. Prepare: per token and kv head, norm and rotate its query heads and its key, put key
 * and value into the cache. Attend: a task is a block of tokens of one run and one kv head; the
 * query heads that share it are stacked, so each key is read once for all of them. Chunks of the
 * cache start at fixed positions and are merged in ascending order, which makes a token's result
 * independent of everything around it. One token alone whose kv heads do not divide among the
 * threads shares out its chunks instead, and merges what all of them left. */
#include <assert.h>
#include <math.h>
#include "ops/ops.h"

enum {
    MAX_Q = 384,  /* query vectors a task stacks, which share what is read of K and V */
    TOKENS = 16,  /* tokens a prepare task takes */
    ASK_MOST = 16 /* query vectors for which memory is asked for a chunk */
};

void nib_op_rope_table(nib_rows r, const nib_rope *rope, const int64_t *pos, float *cs) {
    int half = rope->n_rot / 2;
    for (int64_t t = r.t0; t < r.t1; t++) {
        for (int i = 0; i < half; i++) {
            double angle = (double)pos[t] * rope->freq[i];
            float *p = cs + (t * half + i) * 2;
            p[0] = (float)(cos(angle) * (double)rope->mscale);
            p[1] = (float)(sin(angle) * (double)rope->mscale);
        }
    }
}

typedef struct scratch {
    float *m, *s, *o, *scores;
    const float **q;
    int64_t *lo, *hi;
} scratch;

/* Lays the parts out from base; returns the bytes they take (base may be NULL). */
static size_t carve(scratch *x, char *base, int d, int dv) {
    size_t at = 0;
#define NIB_CARVE(field, count)                                                                    \
    do {                                                                                           \
        if (base) x->field = (void *)(base + at);                                                  \
        at += NIB_ROUND_UP((size_t)(count) * sizeof *x->field, 64);                                \
    } while (0)
    NIB_CARVE(m, MAX_Q);
    NIB_CARVE(s, MAX_Q);
    NIB_CARVE(o, MAX_Q * dv);
    NIB_CARVE(scores, nib_attn_scratch(d, dv) / sizeof *x->scores);
    NIB_CARVE(q, MAX_Q);
    NIB_CARVE(lo, MAX_Q);
    NIB_CARVE(hi, MAX_Q);
#undef NIB_CARVE
    return at;
}

size_t nib_op_attention_scratch(int d, int dv) {
    scratch x;
    return carve(&x, NULL, d, dv);
}

static void norm_head(nib_worker *w, const nib_attention *a, const nib_norm *n, int64_t step,
                      int head, float *x) {
    if (!n->w) return;
    const float *weight = n->w + head * step, *bias = n->b ? n->b + head * step : NULL;
    if (a->qk_kind == NIB_NORM_RMS)
        w->k->rms_norm(x, weight, a->eps, a->d, x);
    else
        w->k->layer_norm(x, weight, bias, a->eps, a->d, x);
}

/* One norm over the whole width needs all heads at once, so it is a phase of its own. */
static void norm_full(nib_worker *w, const nib_attention *a, int64_t n_tok, float *q, float *k) {
    nib_rows r;
    nib_share(w, n_tok, &r.t0, &r.t1);
    if (a->q_norm.w)
        nib_op_norm(w, r, a->qk_kind, &a->q_norm, a->eps, q, q, (int64_t)a->n_head * a->d);
    if (a->k_norm.w)
        nib_op_norm(w, r, a->qk_kind, &a->k_norm, a->eps, k, k, (int64_t)a->n_kv * a->d);
    nib_sync(w);
}

static uint8_t *head_page(const nib_attention *a, const nib_run *run, int64_t page, int kv) {
    return run->pages[page] + a->layer_offset + (size_t)kv * (a->k_bytes + a->v_bytes);
}

/* Tokens [t, t+n) of the batch, all of one run; one kv head. */
static void prepare(nib_worker *w, const nib_attention *a, const nib_run *run, int64_t t, int64_t n,
                    int kv, float *q, float *k, const float *v) {
    int group = a->n_head / a->n_kv;
    for (int64_t i = t; i < t + n; i++) {
        const float *cs = a->rope ? a->cs + i * a->rope->n_rot : NULL;
        float *key = k + (i * a->n_kv + kv) * a->d;
        if (!a->qk_full) norm_head(w, a, &a->k_norm, a->k_norm_step, kv, key);
        if (cs) w->k->rope(key, cs, a->rope->n_rot, a->rope->kind);
        for (int g = 0; g < group; g++) {
            int head = kv * group + g;
            float *query = q + (i * a->n_head + head) * a->d;
            if (!a->qk_full) norm_head(w, a, &a->q_norm, a->q_norm_step, head, query);
            if (cs) w->k->rope(query, cs, a->rope->n_rot, a->rope->kind);
            w->k->scale(query, a->scale, a->d);
            w->k->attn_query(a->kv, query, a->d);
        }
        int64_t pos = run->pos0 + (i - run->t0);
        uint8_t *page = head_page(a, run, pos / NIB_PAGE, kv);
        w->k->kv_store(a->kv, key, a->d, v + (i * a->n_kv + kv) * a->dv, a->dv,
                       (int)(pos % NIB_PAGE), page, page + a->k_bytes);
    }
}

/* What token t of the batch sees: positions [*lo, *hi). */
static void visible(const nib_attention *a, const nib_run *run, int64_t t, int64_t *lo,
                    int64_t *hi) {
    int64_t pos = run->pos0 + (t - run->t0);
    *hi = a->causal ? pos + 1 : run->pos0 + run->n;
    *lo = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

/* Few queries are done with a chunk sooner than memory brings it: its pages are asked for side by
 * side, for a processor reads four streams faster than one. */
static void ask_for(const nib_attention *a, const nib_attn *job) {
    for (size_t at = 0; at < a->k_bytes + a->v_bytes; at += 64)
        for (int p = 0; p < NIB_ATTN_PAGES; p++)
            if (job->k[p]) __builtin_prefetch(job->k[p] + at, 0, 2);
}

/* The queries in x against chunk c of one kv head, of which positions before 'last' are seen. */
static void attend_chunk(nib_worker *w, const nib_attention *a, const nib_run *run, int64_t c,
                         int64_t last, int kv, int n_q, const scratch *x, bool more, float *m,
                         float *s, float *o) {
    nib_attn job = {.type = a->kv,
                    .d = a->d,
                    .dv = a->dv,
                    .pos0 = c * NIB_ATTN_CHUNK,
                    .n_q = n_q,
                    .q = x->q,
                    .lo = x->lo,
                    .hi = x->hi,
                    .softcap = a->softcap,
                    .m = m,
                    .s = s,
                    .o = o,
                    .more = more,
                    .scratch = x->scores};
    for (int p = 0; p < NIB_ATTN_PAGES; p++) {
        int64_t page = c * NIB_ATTN_PAGES + p;
        if (page * NIB_PAGE >= last) break;
        job.k[p] = head_page(a, run, page, kv);
        job.v[p] = job.k[p] + a->k_bytes;
    }
    if (n_q <= ASK_MOST) ask_for(a, &job);
    w->k->attn(&job);
}

/* Tokens [t, t+n) against query heads [h0, h1) of one kv head; (h1 - h0) * n <= MAX_Q. The results
 * go to out from row 'to' on. */
static void attend(nib_worker *w, const nib_attention *a, const nib_run *run, int64_t t, int64_t n,
                   int kv, int h0, int h1, const float *q, float *out, int64_t to, scratch *x) {
    int n_heads = h1 - h0, n_q = (int)n * n_heads;
    int64_t first = INT64_MAX, last = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t lo, hi;
        visible(a, run, t + i, &lo, &hi);
        first = NIB_MIN(first, lo);
        last = NIB_MAX(last, hi);
        for (int h = 0; h < n_heads; h++) {
            int at = (int)i * n_heads + h;
            x->q[at] = q + ((t + i) * a->n_head + h0 + h) * a->d;
            x->lo[at] = lo;
            x->hi[at] = hi;
        }
    }
    int64_t c0 = first / NIB_ATTN_CHUNK;
    for (int64_t c = c0; c * NIB_ATTN_CHUNK < last; c++)
        attend_chunk(w, a, run, c, last, kv, n_q, x, c > c0, x->m, x->s, x->o);
    for (int64_t i = 0; i < n; i++) {
        for (int h = 0; h < n_heads; h++) {
            int at = (int)i * n_heads + h;
            w->k->attn_finish(x->o + at * a->dv, x->s[at], a->dv);
            memcpy(out + ((to + i) * a->n_head + h0 + h) * a->dv, x->o + at * a->dv,
                   (size_t)a->dv * sizeof *out);
        }
    }
}

/* ---- tasks ----
 * Runs are cut into blocks of tokens, each block comes 'each' times, and threads take one after
 * another. The last blocks of a run see the most positions: they come first. A token attends to
 * what others of its run, in any task, put into the cache: a barrier stands between the two phases.
 */

typedef struct queue {
    nib_counter *next;
    const nib_run *runs;
    int n_runs;
    int64_t step; /* tokens of a block, at most */
    int each;
    bool together; /* what comes of i, of all blocks, is taken together: it reads the same */
    int64_t whole; /* from this task on each is cut into as many pieces as there are threads */
    int run;       /* where the search stands, and the tasks of all runs before it */
    int64_t before;
} queue;
typedef struct task {
    const nib_run *run;
    int64_t t, n; /* of the run's tokens */
    int i;        /* below 'each' */
} task;

static int64_t blocks_of(const queue *s, int run) {
    return (s->runs[run].n + s->step - 1) / s->step;
}

/* Tasks that are left when all the others have gone round evenly are cut by tokens, for threads to
 * end together: three kv heads and two threads are one head and a half each. */
static void cut_last(const nib_worker *w, queue *s) {
    int64_t n = 0;
    for (int r = 0; r < s->n_runs; r++) n += blocks_of(s, r) * s->each;
    s->whole = n - n % w->n;
}

static bool take(const nib_worker *w, queue *s, task *out) {
    for (;;) {
        int64_t i = nib_counter_take(s->next, 1), piece = 0, pieces = 1, n_blocks = 0;
        if (i >= s->whole) {
            pieces = w->n, piece = (i - s->whole) % pieces;
            i = s->whole + (i - s->whole) / pieces;
        }
        for (; s->run < s->n_runs; s->run++) {
            n_blocks = blocks_of(s, s->run);
            if (i - s->before < n_blocks * s->each) break;
            s->before += n_blocks * s->each;
        }
        if (s->run >= s->n_runs) return false;
        const nib_run *run = &s->runs[s->run];
        i -= s->before;
        int64_t block = s->together ? i % n_blocks : i / s->each;
        int64_t t = (n_blocks - 1 - block) * s->step;
        int64_t n = NIB_MIN(s->step, run->n - t), from = n * piece / pieces,
                to = n * (piece + 1) / pieces;
        if (from == to) continue; /* fewer tokens than threads */
        *out = (task){run, t + from, to - from, (int)(s->together ? i / n_blocks : i % s->each)};
        return true;
    }
}

/* ---- one token, its chunks shared out ----
 * A wave of chunks leaves m, s and o of every head in a->parts; between waves they are merged into
 * the first chunk's, in ascending order, by whoever has the head. */

size_t nib_op_attention_parts(int n_head, int dv) {
    return (size_t)n_head * NIB_ATTN_WAVE * (size_t)(dv + 2) * sizeof(float);
}

typedef struct part {
    float *m, *s, *o;
} part;
static part part_of(const nib_attention *a, int head, int64_t i) {
    int64_t at = i * a->n_head + head, all = (int64_t)a->n_head * NIB_ATTN_WAVE;
    return (part){a->parts + at, a->parts + all + at, a->parts + 2 * all + at * a->dv};
}

static void attend_split(nib_worker *w, const nib_attention *a, const nib_run *run, const float *q,
                         float *out, scratch *x) {
    int group = a->n_head / a->n_kv;
    int64_t lo, hi, h0, h1;
    visible(a, run, run->t0, &lo, &hi);
    nib_share(w, a->n_head, &h0, &h1);
    for (int i = 0; i < group; i++) x->lo[i] = lo, x->hi[i] = hi;
    int64_t c0 = lo / NIB_ATTN_CHUNK, c1 = (hi + NIB_ATTN_CHUNK - 1) / NIB_ATTN_CHUNK;
    for (int64_t c = c0; c < c1;) {
        /* after the first wave, part 0 holds what was merged so far */
        int64_t first = c == c0 ? 0 : 1, n = NIB_MIN(NIB_ATTN_WAVE - first, c1 - c);
        nib_counter *next = nib_phase(w);
        for (int64_t i; (i = nib_counter_take(next, 1)) < n * a->n_kv;) {
            int kv = (int)(i % a->n_kv);
            for (int g = 0; g < group; g++)
                x->q[g] = q + (run->t0 * a->n_head + kv * group + g) * a->d;
            part p = part_of(a, kv * group, first + i / a->n_kv);
            attend_chunk(w, a, run, c + i / a->n_kv, hi, kv, group, x, false, p.m, p.s, p.o);
        }
        nib_sync(w);
        for (int head = (int)h0; head < h1; head++) {
            part sum = part_of(a, head, 0);
            for (int64_t i = 1; i < first + n; i++) {
                part p = part_of(a, head, i);
                w->k->attn_merge(sum.m, sum.s, sum.o, *p.m, *p.s, p.o, a->dv);
            }
        }
        c += n;
        if (c < c1) nib_sync(w);
    }
    for (int head = (int)h0; head < h1; head++) {
        part sum = part_of(a, head, 0);
        w->k->attn_finish(sum.o, *sum.s, a->dv);
        memcpy(out + (run->out0 * a->n_head + head) * a->dv, sum.o, (size_t)a->dv * sizeof *out);
    }
}

void nib_op_attention(nib_worker *w, const nib_attention *a, const nib_run *runs, int n_runs,
                      const nib_run *wanted, int n_wanted, int64_t n_tok, float *q, float *k,
                      const float *v, float *out) {
    scratch x;
    assert(w->scratch);
    carve(&x, w->scratch, a->d, a->dv);
    int group = a->n_head / a->n_kv;
    if (a->qk_full && (a->q_norm.w || a->k_norm.w)) norm_full(w, a, n_tok, q, k);
    nib_at(w, NIB_SECTION_ATTENTION);

    bool one = n_tok == 1 && n_wanted == 1 && group <= MAX_Q;
    bool deep = runs[0].pos0 >= NIB_ATTN_CHUNK, uneven = a->n_kv * n_runs % w->n != 0;
    bool split = one && uneven && deep, cut = n_runs == 1 && uneven && deep;
    if (n_tok <= NIB_FEW && a->n_kv * n_runs >= w->n && group <= MAX_Q && !cut) {
        /* A thread owns whole kv heads of runs: what it attends to is what it has just put there;
         * no barrier between. (Where they do not go round evenly and there is much to attend to, a
         * barrier costs less, behind which a head may be cut by tokens.) */
        int64_t i0, i1, step = MAX_Q / group;
        nib_share(w, (int64_t)a->n_kv * n_runs, &i0, &i1);
        for (int64_t i = i0; i < i1; i++) {
            const nib_run *run = &runs[i / a->n_kv];
            int kv = (int)(i % a->n_kv);
            prepare(w, a, run, run->t0, run->n, kv, q, k, v);
            for (int64_t t = 0; t < run->n; t += step)
                attend(w, a, run, run->t0 + t, NIB_MIN(step, run->n - t), kv, kv * group,
                       (kv + 1) * group, q, out, run->out0 + t, &x);
        }
        return;
    }

    task t;
    int heads = NIB_MIN(group, MAX_Q), parts = (group + heads - 1) / heads;
    queue todo = {.next = nib_phase(w),
                  .runs = runs,
                  .n_runs = n_runs,
                  .step = TOKENS,
                  .each = a->n_kv,
                  .whole = INT64_MAX};
    while (take(w, &todo, &t)) prepare(w, a, t.run, t.run->t0 + t.t, t.n, t.i, q, k, v);
    nib_sync(w);
    if (split) {
        attend_split(w, a, wanted, q, out, &x);
        return;
    }

    todo = (queue){.next = nib_phase(w),
                   .runs = wanted,
                   .n_runs = n_wanted,
                   .step = MAX_Q / heads,
                   .each = a->n_kv * parts,
                   .together = true};
    cut_last(w, &todo);
    while (take(w, &todo, &t)) {
        int kv = t.i / parts, h0 = kv * group + t.i % parts * heads;
        int h1 = NIB_MIN(h0 + heads, (kv + 1) * group);
        attend(w, a, t.run, t.run->t0 + t.t, t.n, kv, h0, h1, q, out, t.run->out0 + t.t, &x);
    }
}
