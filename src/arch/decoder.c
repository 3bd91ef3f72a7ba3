/* The forward pass of every family, once. Decoders and encoders, prefill and decode, one sequence
 * or many: the same program, run by all workers together (ops.h).
 *
 * With few tokens each worker keeps its own copy of the residual stream x and of everything
 * element-wise, so that barriers stand only where rows of a matrix product, or heads, come
 * together: five a layer. With many tokens x is shared and each worker looks after its tokens. */
#include <math.h>
#include "arch/arch.h"

/* ---- memory ---- */

static int64_t widest_input(const nib_desc *d) {
    return NIB_MAX(NIB_MAX(d->n_embd, d->n_ff), (int64_t)d->n_head * d->dv);
}

/* A worker's own part: x, xn for few tokens, their quantised form, and rotation tables. */
typedef struct own {
    float *x, *xn, *cs[NIB_ROPE_TABLES];
    void *act;
} own;

static size_t take(size_t *at, size_t bytes) {
    size_t from = *at;
    *at += NIB_ROUND_UP(bytes, 64);
    return from;
}

static size_t own_layout(own *o, uintptr_t base, const nib_desc *d) {
    size_t at = 0, row = (size_t)d->n_embd * sizeof(float), p;
    p = take(&at, NIB_FEW * row), o->x = (float *)(base + p);
    p = take(&at, NIB_FEW * row), o->xn = (float *)(base + p);
    p = take(&at, nib_act_bytes(NIB_FEW, widest_input(d))), o->act = (void *)(base + p);
    for (int i = 0; i < NIB_ROPE_TABLES; i++) {
        p = take(&at, NIB_FEW * (size_t)d->rope[i].n_rot * sizeof(float));
        o->cs[i] = (float *)(base + p);
    }
    return at;
}

/* Where everything shared lies, from base on; returns the bytes. */
static size_t shared_layout(nib_decoder *x, uintptr_t base, const nib_desc *d, int64_t max_tok) {
    size_t at = 0, t = (size_t)max_tok * sizeof(float), p;
    size_t hd = (size_t)d->n_head * (size_t)d->d, kd = (size_t)d->n_kv * (size_t)d->d;
    size_t hv = (size_t)d->n_head * (size_t)d->dv, kv = (size_t)d->n_kv * (size_t)d->dv;
    struct {
        float **to;
        size_t width;
    } parts[] = {{&x->x, (size_t)d->n_embd},
                 {&x->xn, (size_t)d->n_embd},
                 {&x->q, hd},
                 {&x->k, kd},
                 {&x->v, kv},
                 {&x->att, hv},
                 {&x->y, (size_t)d->n_embd},
                 {&x->y2, (size_t)d->n_embd},
                 {&x->h, (size_t)d->n_ff}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(parts); i++) {
        p = take(&at, t * parts[i].width);
        *parts[i].to = (float *)(base + p);
    }
    for (int i = 0; i < NIB_ROPE_TABLES; i++) {
        p = take(&at, t * (size_t)d->rope[i].n_rot);
        x->cs[i] = (float *)(base + p);
    }
    p = take(&at, nib_act_bytes(max_tok, widest_input(d)));
    x->act_memory = (void *)(base + p);
    p = take(&at, nib_op_attention_parts(d->n_head, d->dv));
    x->parts = (float *)(base + p);
    return at;
}

static size_t ops_scratch(const nib_desc *d, int64_t max_tok) {
    size_t a = nib_op_linear_scratch(max_tok, widest_input(d)),
           b = nib_op_attention_scratch(d->d, d->dv);
    return NIB_ROUND_UP(NIB_MAX(a, b), 64);
}

void nib_decoder_measure(const nib_desc *d, int64_t max_tok, size_t *memory, size_t *scratch) {
    nib_decoder x = {0};
    own o;
    *memory = shared_layout(&x, 0, d, max_tok);
    *scratch = ops_scratch(d, max_tok) + own_layout(&o, 0, d);
}

nib_kv_type nib_decoder_kv(const nib_desc *d, nib_kv_type kv) {
    if (kv != NIB_KV_AUTO) return kv;
    /* with float activations attention should not be what rounds most */
    if (!d->n_layer || nib_mat_act(d->layers[0].down.w.dtype) == NIB_ACT_F32) return NIB_KV_F16;
    /* the 8 bits of bfloat16 are few for short heads: their rounding averages out less */
    kv = d->d < 64 ? NIB_KV_I16 : nib_kernels_get()->kv;
    bool suits = nib_kv_head_bytes(kv, d->d) && nib_kv_head_bytes(kv, d->dv);
    return suits ? kv : NIB_KV_F16;
}

size_t nib_decoder_page_bytes(const nib_desc *d, nib_kv_type kv) {
    kv = nib_decoder_kv(d, kv);
    size_t k = nib_kv_head_bytes(kv, d->d), v = nib_kv_head_bytes(kv, d->dv);
    return k && v ? (k + v) * (size_t)d->n_kv * (size_t)d->n_layer : 0;
}

/* ---- rotation ----
 * YaRN (Peng et al. 2023): dimensions that turn often keep their frequency, those that turn less
 * than once in the original context are interpolated, with a ramp between; scores get a temperature
 * through mscale. */
static double yarn_dim(double turns, const nib_rope_desc *p) {
    return p->n_rot * log((double)p->n_ctx_orig / (turns * 2 * 3.14159265358979323846)) /
           (2 * log(p->base));
}

static void rope_init(nib_rope *r, double *freq, const nib_rope_desc *p, int64_t n_ctx) {
    r->freq = freq;
    r->kind = p->kind;
    r->n_rot = p->n_rot;
    double mscale = (double)p->attn_factor, low = 0, high = 0;
    if (p->yarn) {
        low = fmax(0, floor(yarn_dim((double)p->yarn_beta_fast, p)));
        high = fmin(p->n_rot - 1, ceil(yarn_dim((double)p->yarn_beta_slow, p)));
        if (p->yarn_ext != 0) mscale *= 1 + 0.1 * log(1 / p->scale);
    }
    r->mscale = (float)mscale;
    const float *factors = p->factors_long && n_ctx > p->n_ctx_orig ? p->factors_long : p->factors;
    for (int i = 0; i < p->n_rot / 2; i++) {
        double f = pow(p->base, -2.0 * i / p->n_rot);
        if (factors) f /= (double)factors[i];
        double mix = 0;
        if (p->yarn) {
            double y = (i - low) / fmax(0.001, high - low);
            mix = (1 - fmin(1, fmax(0, y))) * (double)p->yarn_ext;
        }
        freq[i] = f * p->scale * (1 - mix) + f * mix;
    }
}

nib_status nib_decoder_new(nib_decoder *out, const nib_desc *d, nib_kv_type kv, int64_t n_ctx,
                           int64_t max_tok, nib_error *e) {
    nib_decoder x = {.d = d, .kv = nib_decoder_kv(d, kv), .max_tok = max_tok};
    kv = x.kv;
    x.k_bytes = nib_kv_head_bytes(kv, d->d);
    x.v_bytes = nib_kv_head_bytes(kv, d->dv);
    if (!x.k_bytes || !x.v_bytes)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "a %s cache does not suit heads that are %d wide: use --kv f16",
                        nib_kv_name(kv), d->d);
    x.layer_bytes = (x.k_bytes + x.v_bytes) * (size_t)d->n_kv;
    nib_decoder_measure(d, max_tok, &x.memory_bytes, &x.scratch_bytes);
    x.own_offset = ops_scratch(d, max_tok);
    size_t n_freq = 0;
    for (int i = 0; i < NIB_ROPE_TABLES; i++) n_freq += (size_t)d->rope[i].n_rot / 2;
    x.memory = nib_alloc_pages(x.memory_bytes);
    x.freqs = nib_alloc(n_freq * sizeof *x.freqs);
    if (!x.memory || !x.freqs) {
        nib_decoder_free(&x);
        return nib_fail_nomem(e, x.memory_bytes, "buffers");
    }
    shared_layout(&x, (uintptr_t)x.memory, d, max_tok);
    double *freq = x.freqs;
    for (int i = 0; i < NIB_ROPE_TABLES; freq += d->rope[i++].n_rot / 2)
        if (d->rope[i].n_rot) rope_init(&x.rope[i], freq, &d->rope[i], n_ctx);
    *out = x;
    return NIB_OK;
}

void nib_decoder_free(nib_decoder *x) {
    nib_free_pages(x->memory, x->memory_bytes);
    nib_free(x->freqs);
    *x = (nib_decoder){0};
}

void nib_decoder_rest(nib_decoder *x) {
    nib_drop_pages(x->memory, x->memory_bytes);
}

/* ---- the program ---- */

typedef struct pass {
    const nib_decoder *x;
    const nib_batch *b;
} pass;

/* One worker's view of the pass. */
typedef struct view {
    nib_worker *w;
    const nib_decoder *x;
    const nib_desc *d;
    const nib_batch *b;
    nib_rows r;
    bool few;
    float *res, *norm; /* residual stream and a place for its normalised form: [T, E] */
    const float *cs[NIB_ROPE_TABLES];
    void *act_memory;
    int64_t n_tok;           /* in res: the batch's, or those wanted once narrowed */
    nib_run wanted[NIB_FEW]; /* one a token, when the last layer narrows */
} view;

/* Shows x, which is whole on every worker, to who looks. */
static void observe(const view *p, int64_t id, const float *x, int64_t n_tok, int64_t width) {
    const nib_observer *o = p->b->observer;
    if (!o) return;
    int64_t c0, c1;
    nib_share(p->w, width, &c0, &c1);
    o->see(o->arg, id, x, n_tok, width, c0, c1);
}

/* The input, number id, of matrices l[0..n): in [T, width], quantised as they want it. Waits when
 * tokens are shared out. */
static nib_act input(view *p, int64_t id, const float *in, int64_t width, int n,
                     const nib_linear *const *l) {
    nib_act a;
    nib_act_bind(&a, p->act_memory, p->n_tok, width);
    a.x = in;
    a.ldx = width;
    a.fast = p->b->fast && p->n_tok >= NIB_FAST_LEAST;
    nib_op_quantise(p->w, p->r, n, l, &a);
    if (!p->few) nib_sync(p->w);
    observe(p, id, in, p->n_tok, width);
    return a;
}

/* x += scale * norm(y) for this worker's tokens, then x = sum_norm(x) where a family has one. */
static void add_residual(view *p, const float *y, const nib_norm *post, const nib_norm *sum_norm) {
    const nib_desc *d = p->d;
    int64_t from = p->r.t0 * d->n_embd, n = (p->r.t1 - p->r.t0) * d->n_embd;
    nib_at(p->w, NIB_SECTION_NORM);
    if (post && post->w) {
        nib_op_norm(p->w, p->r, d->norm, post, d->eps, y, p->norm, d->n_embd);
        y = p->norm;
    }
    if (d->residual_scale == 1)
        p->w->k->add(p->res + from, y + from, n);
    else
        p->w->k->add_scaled(p->res + from, y + from, d->residual_scale, n);
    if (sum_norm && sum_norm->w)
        nib_op_norm(p->w, p->r, d->norm, sum_norm, d->eps, p->res, p->res, d->n_embd);
}

static const float *normed(view *p, const nib_norm *n) {
    if (!n->w) return p->res;
    nib_op_norm(p->w, p->r, p->d->norm, n, p->d->eps, p->res, p->norm, p->d->n_embd);
    return p->norm;
}

/* Whether tokens whose logits nobody wants can be left behind in the last layer, once their keys
 * and values are in the cache. */
static bool narrows(const view *p) {
    return p->d->causal && !p->few && p->b->n_out <= NIB_FEW;
}

/* The wanted tokens as runs of one. */
static int wanted_runs(view *p) {
    const nib_batch *b = p->b;
    const nib_run *run = b->runs;
    for (int64_t i = 0; i < b->n_out; i++) {
        int64_t t = b->outputs[i];
        while (t >= run->t0 + run->n) run++;
        p->wanted[i] = (nib_run){t, 1, run->pos0 + (t - run->t0), run->pages, i};
    }
    return (int)b->n_out;
}

/* From here on T is the number of wanted tokens, few: each worker takes copies of their rows of the
 * residual stream and of *in. */
static void narrow(view *p, const float **in) {
    const nib_batch *b = p->b;
    size_t row = (size_t)p->d->n_embd * sizeof(float);
    own o;
    own_layout(&o, (uintptr_t)p->w->scratch + p->x->own_offset, p->d);
    for (int64_t i = 0; i < b->n_out; i++) {
        memcpy(o.x + i * p->d->n_embd, p->res + b->outputs[i] * p->d->n_embd, row);
        memcpy(o.xn + i * p->d->n_embd, *in + b->outputs[i] * p->d->n_embd, row);
    }
    *in = *in == p->res ? o.x : o.xn;
    p->res = o.x;
    p->norm = o.xn;
    p->act_memory = o.act;
    p->few = true;
    p->n_tok = b->n_out;
    p->r = nib_op_rows(p->w, p->n_tok);
}

/* y [T, E] = attention over *in */
static void attention(view *p, int layer, const float **in) {
    const nib_decoder *x = p->x;
    const nib_desc *d = p->d;
    const nib_layer *l = &d->layers[layer];
    const nib_linear *const qkv[] = {&l->q, &l->k, &l->v}, *const o[] = {&l->o};
    float *const to_qkv[] = {x->q, x->k, x->v}, *const to_y[] = {x->y};

    nib_act a = input(p, layer * NIB_INPUTS + NIB_INPUT_ATTN, *in, d->n_embd, 3, qkv);
    nib_at(p->w, NIB_SECTION_QKV);
    nib_op_linear(p->w, 3, qkv, &a, to_qkv);
    nib_sync(p->w);
    nib_attention job = {
        .n_head = d->n_head,
        .n_kv = d->n_kv,
        .d = d->d,
        .dv = d->dv,
        .kv = x->kv,
        .layer_offset = (size_t)layer * x->layer_bytes,
        .k_bytes = x->k_bytes,
        .v_bytes = x->v_bytes,
        .scale = d->attn_scale,
        .softcap = d->attn_softcap,
        .window = l->window,
        .causal = d->causal,
        .qk_kind = d->qk_norm,
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .qk_full = d->qk_full,
        .q_norm_step = d->qk_per_head ? d->d : 0,
        .k_norm_step = d->qk_per_head ? d->d : 0,
        .eps = d->eps,
        .parts = x->parts,
    };
    if (l->rope >= 0 && x->rope[l->rope].n_rot) {
        job.rope = &x->rope[l->rope];
        job.cs = p->cs[l->rope];
    }
    bool narrowing = layer == d->n_layer - 1 && narrows(p);
    const nib_run *runs = p->b->runs, *wanted = narrowing ? p->wanted : runs;
    int n_runs = p->b->n_runs, n_wanted = narrowing ? wanted_runs(p) : n_runs;
    nib_op_attention(p->w, &job, runs, n_runs, wanted, n_wanted, p->n_tok, x->q, x->k, x->v,
                     x->att);
    nib_sync(p->w);
    if (narrowing) narrow(p, in);
    if (!p->n_tok) return;
    a = input(p, layer * NIB_INPUTS + NIB_INPUT_ATTN_OUT, x->att, (int64_t)d->n_head * d->dv, 1, o);
    nib_at(p->w, NIB_SECTION_ATTN_OUT);
    nib_op_linear(p->w, 1, o, &a, to_y);
    nib_sync(p->w);
}

/* y2 [T, E] = feed-forward over in */
static void feed_forward(view *p, int layer, const float *in) {
    const nib_decoder *x = p->x;
    const nib_layer *l = &p->d->layers[layer];
    const nib_linear *const first[] = {&l->up, &l->gate}, *const down[] = {&l->down};
    float *const to_y2[] = {x->y2};
    nib_act a = input(p, layer * NIB_INPUTS + NIB_INPUT_FFN, in, p->d->n_embd, 2, first);
    nib_at(p->w, NIB_SECTION_FFN_IN);
    nib_op_linear_act(p->w, l->gate.w.data ? &l->gate : NULL, &l->up, p->d->act, &a, x->h);
    nib_sync(p->w);
    a = input(p, layer * NIB_INPUTS + NIB_INPUT_FFN_OUT, x->h, p->d->n_ff, 1, down);
    nib_at(p->w, NIB_SECTION_FFN_OUT);
    nib_op_linear(p->w, 1, down, &a, to_y2);
    nib_sync(p->w);
}

static void layer(view *p, int i) {
    const nib_desc *d = p->d;
    const nib_layer *l = &d->layers[i];
    const float *in = normed(p, &l->attn_norm);
    attention(p, i, &in);
    if (!p->n_tok) return; /* only the cache was wanted */
    if (!d->parallel) add_residual(p, p->x->y, &l->attn_post_norm, &l->attn_sum_norm);
    /* side by side, without a norm of its own the feed-forward takes what attention took, which is
     * still there */
    if (!d->parallel || l->ffn_norm.w) in = normed(p, &l->ffn_norm);
    feed_forward(p, i, in);
    if (d->parallel) add_residual(p, p->x->y, NULL, NULL);
    add_residual(p, p->x->y2, &l->ffn_post_norm, &l->ffn_sum_norm);
}

static void embed(view *p) {
    const nib_desc *d = p->d;
    nib_op_lookup(p->w, p->r, &d->tok_embd, p->b->ids, d->embd_scale, p->res);
    for (int64_t t = p->r.t0; t < p->r.t1; t++) {
        float *row = p->res + t * d->n_embd;
        if (d->pos_embd.data) {
            p->w->k->unpack_row(&d->pos_embd, p->b->pos[t], p->norm + t * d->n_embd);
            p->w->k->add(row, p->norm + t * d->n_embd, d->n_embd);
        }
        if (d->type_embd) p->w->k->add(row, d->type_embd, d->n_embd);
    }
    if (d->embd_norm.w)
        nib_op_norm(p->w, p->r, d->norm, &d->embd_norm, d->eps, p->res, p->res, d->n_embd);
}

/* logits [n, V] of in [n, E], normed, which every worker can see. */
static void score(view *p, const float *in, int64_t n, void *act_memory, float *logits) {
    const nib_desc *d = p->d;
    nib_worker *w = p->w;
    nib_act a;
    nib_act_bind(&a, act_memory, n, d->n_embd);
    a.x = in;
    a.ldx = d->n_embd;
    const nib_linear *const head[] = {&d->head};
    nib_op_quantise(w, nib_op_rows(w, n), 1, head, &a);
    if (n > NIB_FEW) nib_sync(w);
    float *const to[] = {logits};
    nib_at(w, NIB_SECTION_HEAD);
    nib_op_linear(w, 1, head, &a, to);
    if (d->logit_scale == 1 && d->final_softcap <= 0) return;
    nib_sync(w);
    int64_t v0, v1;
    nib_share(w, d->n_vocab, &v0, &v1);
    for (int64_t i = 0; i < n; i++) {
        float *row = logits + i * d->n_vocab + v0;
        if (d->logit_scale != 1) w->k->scale(row, d->logit_scale, v1 - v0);
        if (d->final_softcap > 0) w->k->softcap(row, d->final_softcap, v1 - v0);
    }
}

/* The wanted tokens' hidden states and logits. From here on T is their number. */
static void outputs(view *p) {
    const nib_desc *d = p->d;
    const nib_batch *b = p->b;
    nib_worker *w = p->w;
    if (!b->n_out) return;
    bool narrowed = p->n_tok != b->n_tok; /* then the wanted tokens are all there are */
    nib_at(w, NIB_SECTION_NORM);
    if (!p->few) nib_sync(w); /* other workers' tokens */
    nib_rows r = nib_op_rows(w, b->n_out);
    bool few = b->n_out <= NIB_FEW;
    own o;
    own_layout(&o, (uintptr_t)w->scratch + p->x->own_offset, d);
    /* with few outputs of many tokens each worker normalises into its own memory */
    float *out = few ? o.xn : p->x->xn;
    for (int64_t i = r.t0; i < r.t1; i++) {
        const float *from = p->res + (narrowed ? i : b->outputs[i]) * d->n_embd;
        float *to = out + i * d->n_embd;
        if (d->out_norm.w && d->norm == NIB_NORM_RMS)
            w->k->rms_norm(from, d->out_norm.w, d->eps, d->n_embd, to);
        else if (d->out_norm.w)
            w->k->layer_norm(from, d->out_norm.w, d->out_norm.b, d->eps, d->n_embd, to);
        else
            memmove(to, from, (size_t)d->n_embd * sizeof *to);
    }
    if (!few) nib_sync(w);
    if (b->hidden && w->tid == 0)
        memcpy(b->hidden, out, (size_t)(b->n_out * d->n_embd) * sizeof *out);
    if (d->head.w.data) observe(p, d->n_layer * NIB_INPUTS, out, b->n_out, d->n_embd);
    if (b->logits) score(p, out, b->n_out, few ? o.act : p->x->act_memory, b->logits);
}

static void forward(nib_worker *w, void *arg) {
    const pass *ps = arg;
    const nib_decoder *x = ps->x;
    const nib_desc *d = x->d;
    view p = {
        .w = w, .x = x, .d = d, .b = ps->b, .few = ps->b->n_tok <= NIB_FEW, .n_tok = ps->b->n_tok};
    own o;
    own_layout(&o, (uintptr_t)w->scratch + x->own_offset, d);
    p.r = nib_op_rows(w, p.b->n_tok);
    p.res = p.few ? o.x : x->x;
    p.norm = p.few ? o.xn : x->xn;
    p.act_memory = p.few ? o.act : x->act_memory;
    nib_at(w, NIB_SECTION_EMBED);
    for (int i = 0; i < NIB_ROPE_TABLES; i++) {
        float *cs = p.few ? o.cs[i] : x->cs[i];
        p.cs[i] = cs;
        if (x->rope[i].n_rot) nib_op_rope_table(p.r, &x->rope[i], p.b->pos, cs);
    }
    embed(&p);
    for (int i = 0; i < d->n_layer; i++) layer(&p, i);
    outputs(&p);
}

void nib_decoder_run(const nib_decoder *x, nib_backend *be, const nib_batch *b) {
    pass ps = {x, b};
    nib_backend_run(be, forward, &ps);
}

static void head_only(nib_worker *w, void *arg) {
    const pass *ps = arg;
    view p = {.w = w, .x = ps->x, .d = ps->x->d, .b = ps->b};
    own o;
    own_layout(&o, (uintptr_t)w->scratch + ps->x->own_offset, p.d);
    bool few = ps->b->n_out <= NIB_FEW;
    score(&p, ps->b->hidden, ps->b->n_out, few ? o.act : ps->x->act_memory, ps->b->logits);
}

void nib_decoder_head(const nib_decoder *x, nib_backend *be, float *hidden, int64_t n,
                      float *logits) {
    nib_batch b = {.hidden = hidden, .n_out = n, .logits = logits};
    pass ps = {x, &b};
    nib_backend_run(be, head_only, &ps);
}
