/* Reading a description: keys and tensors, checked against what the family says they are. */
#include <math.h>
#include "arch/internal.h"

typedef struct arch_row {
    const char *name;
    bool (*fill)(nib_reader *r);
} arch_row;
static const arch_row rows[] = {
#define NIB_ARCH(name, suffix, text) {name, nib_arch_##suffix},
#include "arch/archs.def"
#undef NIB_ARCH
};

const char *nib_arch_list(void) {
    static const char list[] =
#define NIB_ARCH(name, suffix, text) ", " name
#include "arch/archs.def"
#undef NIB_ARCH
        ;
    return list + 2;
}

/* ---- keys ---- */

static const char *key_name(const nib_reader *r, const char *key, char buf[160]) {
    snprintf(buf, 160, "%s.%s", r->arch, key);
    return buf;
}

bool nib_read_i64(nib_reader *r, const char *key, int64_t min, int64_t max, int64_t *out) {
    char name[160];
    return nib_gguf_i64(r->g, key_name(r, key, name), min, max, out, r->e) == NIB_OK;
}

bool nib_read_i64_or(nib_reader *r, const char *key, int64_t min, int64_t max, int64_t fallback,
                     int64_t *out) {
    char name[160];
    if (nib_gguf_find(r->g, key_name(r, key, name))) return nib_read_i64(r, key, min, max, out);
    *out = fallback;
    return true;
}

bool nib_read_f32_or(nib_reader *r, const char *key, float fallback, float *out) {
    char name[160];
    if (nib_gguf_find(r->g, key_name(r, key, name)))
        return nib_gguf_f32(r->g, name, out, r->e) == NIB_OK;
    *out = fallback;
    return true;
}

bool nib_read_bool_or(nib_reader *r, const char *key, bool fallback, bool *out) {
    char name[160];
    if (nib_gguf_find(r->g, key_name(r, key, name)))
        return nib_gguf_bool(r->g, name, out, r->e) == NIB_OK;
    *out = fallback;
    return true;
}

bool nib_read_eps(nib_reader *r) {
    const char *key = r->d->norm == NIB_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                 : "attention.layer_norm_epsilon";
    if (!nib_read_f32_or(r, key, -1, &r->d->eps)) return false;
    if (r->d->eps >= 0 && r->d->eps < 1) return true;
    nib_fail(r->e, NIB_ERR_FORMAT, "key '%s.%s' is missing or out of range: expected 0 to 1",
             r->arch, key);
    return false;
}

/* Counts that may be one number or one per layer (all equal, for the families nib runs). */
static bool read_count(nib_reader *r, const char *key, int64_t max, int64_t fallback,
                       int64_t *out) {
    char name[160];
    const nib_gguf_kv *kv = nib_gguf_find(r->g, key_name(r, key, name));
    if (!kv || kv->type != NIB_GGUF_ARR) {
        if (fallback > 0) return nib_read_i64_or(r, key, 1, max, fallback, out);
        return nib_read_i64(r, key, 1, max, out);
    }
    if (nib_gguf_arr(r->g, name, false, &kv, r->e) != NIB_OK) return false;
    int64_t first = kv->arr_n > 0 ? nib_gguf_arr_i64(kv, 0) : 0;
    for (int64_t i = 1; i < kv->arr_n; i++) {
        if (nib_gguf_arr_i64(kv, i) == first) continue;
        nib_fail(r->e, NIB_ERR_UNSUPPORTED,
                 "key '%s' differs from layer to layer: expected one value for all", name);
        return false;
    }
    if (first < 1 || first > max) {
        nib_fail(r->e, NIB_ERR_FORMAT, "key '%s' is %lld: expected 1 to %lld", name,
                 (long long)first, (long long)max);
        return false;
    }
    *out = first;
    return true;
}

/* ---- tensors ---- */

static const char *tensor_name(char buf[160], int layer, const char *name, const char *suffix) {
    if (layer < 0)
        snprintf(buf, 160, "%s%s", name, suffix);
    else
        snprintf(buf, 160, "blk.%d.%s%s", layer, name, suffix);
    return buf;
}

bool nib_has_tensor(const nib_reader *r, int layer, const char *name) {
    char buf[160];
    return nib_gguf_tensor(r->g, tensor_name(buf, layer, name, "")) != NULL;
}

static bool missing(nib_reader *r, const char *name) {
    nib_fail(r->e, NIB_ERR_FORMAT, "tensor '%s' is missing: a model of architecture '%s' needs it",
             name, r->arch);
    return false;
}

static bool shape_differs(nib_reader *r, const nib_tensor *t, int64_t k, int64_t n) {
    nib_fail(r->e, NIB_ERR_FORMAT,
             "tensor '%s' has shape [%lld, %lld, %lld, %lld]: expected [%lld, %lld]", t->name,
             (long long)t->ne[0], (long long)t->ne[1], (long long)t->ne[2], (long long)t->ne[3],
             (long long)k, (long long)n);
    return false;
}

/* n floats of tensor t, from element 'from'. NULL: the error is in r. */
static const float *floats_of(nib_reader *r, const nib_tensor *t, int64_t from, int64_t n) {
    const nib_dtype_info *info = nib_dtype_get(t->dtype);
    if (info->block_len != 1) {
        nib_fail(r->e, NIB_ERR_UNSUPPORTED, "tensor '%s' is %s: expected F32, F16 or BF16", t->name,
                 info->name);
        return NULL;
    }
    float *p = nib_arena_alloc(r->arena, (size_t)n * sizeof *p);
    if (!p) {
        nib_fail_nomem(r->e, (size_t)n * sizeof *p, t->name);
        return NULL;
    }
    info->to_f32((const uint8_t *)t->data + (size_t)from * info->block_bytes, p, n);
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(p[i])) continue;
        nib_fail(r->e, NIB_ERR_FORMAT, "tensor '%s' holds a value that is not finite, at %lld",
                 t->name, (long long)i);
        return NULL;
    }
    return p;
}

static bool bind_vector(nib_reader *r, const float **out, const char *name, int64_t n,
                        bool optional) {
    const nib_tensor *t = nib_gguf_tensor(r->g, name);
    if (!t) {
        *out = NULL;
        return optional || missing(r, name);
    }
    if (nib_tensor_count(t) != n) return shape_differs(r, t, n, 1);
    r->n_bound++;
    return (*out = floats_of(r, t, 0, n)) != NULL;
}

bool nib_bind_floats(nib_reader *r, const float **out, const char *name, int64_t n, int flags) {
    return bind_vector(r, out, name, n, flags & NIB_OPTIONAL);
}

bool nib_bind_norm(nib_reader *r, nib_norm *n, int layer, const char *name, int64_t width,
                   int flags) {
    char buf[160];
    if (!bind_vector(r, &n->w, tensor_name(buf, layer, name, ".weight"), width,
                     flags & NIB_OPTIONAL))
        return false;
    if (!n->w || !(flags & (NIB_BIAS | NIB_BIAS_OPTIONAL))) return true;
    return bind_vector(r, &n->b, tensor_name(buf, layer, name, ".bias"), width,
                       flags & NIB_BIAS_OPTIONAL);
}

static bool list_upload(nib_reader *r, nib_mat *m, const char *name, bool pack) {
    if (r->n_uploads == r->cap_uploads) {
        int64_t cap = r->cap_uploads ? r->cap_uploads * 2 : 64;
        nib_upload *p = nib_arena_calloc(r->arena, (size_t)cap, sizeof *p);
        if (!p) {
            nib_fail_nomem(r->e, (size_t)cap * sizeof *p, "the list of matrices");
            return false;
        }
        if (r->n_uploads) memcpy(p, r->uploads, (size_t)r->n_uploads * sizeof *p);
        r->uploads = p;
        r->cap_uploads = cap;
    }
    r->uploads[r->n_uploads++] = (nib_upload){.mat = m, .name = name, .pack = pack, .as = m->dtype};
    return true;
}

static nib_mat rows_of(const nib_tensor *t, int64_t from, int64_t n) {
    size_t row = nib_dtype_bytes(t->dtype, t->ne[0]);
    return (nib_mat){.dtype = t->dtype,
                     .n = n,
                     .k = t->ne[0],
                     .stride = row,
                     .data = (const uint8_t *)t->data + (size_t)from * row};
}

bool nib_bind_fused(nib_reader *r, int count, nib_linear *const *l, const int64_t *n, int layer,
                    const char *name, int64_t k, int flags) {
    char buf[160];
    const nib_tensor *t = nib_gguf_tensor(r->g, tensor_name(buf, layer, name, ".weight"));
    if (!t) return (flags & NIB_OPTIONAL) || missing(r, buf);
    int64_t rows_all = 0;
    for (int i = 0; i < count; i++) rows_all += n[i];
    if (t->ne[0] != k || t->ne[1] != rows_all || t->ne[2] != 1 || t->ne[3] != 1)
        return shape_differs(r, t, k, rows_all);
    r->n_bound++;
    const nib_tensor *b = NULL;
    if (flags & (NIB_BIAS | NIB_BIAS_OPTIONAL)) {
        b = nib_gguf_tensor(r->g, tensor_name(buf, layer, name, ".bias"));
        if (!b && (flags & NIB_BIAS)) return missing(r, buf);
        if (b && nib_tensor_count(b) != rows_all) return shape_differs(r, b, rows_all, 1);
        if (b) r->n_bound++;
    }
    int64_t from = 0;
    for (int i = 0; i < count; i++) {
        l[i]->w = rows_of(t, from, n[i]);
        l[i]->name = t->name;
        if (b && !(l[i]->bias = floats_of(r, b, from, n[i]))) return false;
        if (!list_upload(r, &l[i]->w, t->name, true)) return false;
        from += n[i];
    }
    return true;
}

bool nib_bind_linear(nib_reader *r, nib_linear *l, int layer, const char *name, int64_t n,
                     int64_t k, int flags) {
    return nib_bind_fused(r, 1, &l, &n, layer, name, k, flags);
}

/* A table rows are looked up in. */
static bool bind_table(nib_reader *r, nib_mat *m, const char *name, int64_t n, int64_t k) {
    const nib_tensor *t = nib_gguf_tensor(r->g, name);
    if (!t) return missing(r, name);
    if (t->ne[0] != k || t->ne[1] != n || t->ne[2] != 1 || t->ne[3] != 1)
        return shape_differs(r, t, k, n);
    r->n_bound++;
    *m = rows_of(t, 0, n);
    return true;
}

/* ---- what most families share ---- */

static bool bad_sizes(nib_reader *r, const char *what) {
    nib_fail(r->e, NIB_ERR_FORMAT, "architecture '%s': %s", r->arch, what);
    return false;
}

bool nib_read_common(nib_reader *r) {
    nib_desc *d = r->d;
    int64_t n_layer, n_head, n_kv, dk, dv;
    /* limits far above any model of this size class, far below what could overflow a product */
    if (!nib_read_i64(r, "block_count", 1, 4096, &n_layer)) return false;
    if (!nib_read_i64_or(r, "context_length", 1, 1 << 28, 2048, &d->n_ctx_train)) return false;
    if (!nib_read_i64(r, "embedding_length", 1, 1 << 20, &d->n_embd)) return false;
    if (!read_count(r, "feed_forward_length", 1 << 22, 0, &d->n_ff)) return false;
    if (!read_count(r, "attention.head_count", 1 << 14, 0, &n_head)) return false;
    if (!read_count(r, "attention.head_count_kv", 1 << 14, n_head, &n_kv)) return false;
    if (n_head % n_kv)
        return bad_sizes(r, "attention.head_count is no multiple of attention.head_count_kv");
    if (!nib_read_i64_or(r, "attention.key_length", 1, 4096, d->n_embd / n_head, &dk)) return false;
    if (!nib_read_i64_or(r, "attention.value_length", 1, 4096, d->n_embd / n_head, &dv))
        return false;
    if (dk < 1 || dv < 1) return bad_sizes(r, "more attention heads than embedding_length");
    d->n_layer = (int)n_layer;
    d->n_head = (int)n_head;
    d->n_kv = (int)n_kv;
    d->d = (int)dk;
    d->dv = (int)dv;

    const nib_tensor *embd = nib_gguf_tensor(r->g, "token_embd.weight");
    if (!embd) return missing(r, "token_embd.weight");
    d->n_vocab = embd->ne[1];
    if (d->n_vocab > 1 << 28) return bad_sizes(r, "the vocabulary has more than 2^28 tokens");
    const nib_gguf_kv *tokens = nib_gguf_find(r->g, "tokenizer.ggml.tokens");
    if (tokens && tokens->type == NIB_GGUF_ARR && tokens->arr_n > d->n_vocab) {
        nib_fail(r->e, NIB_ERR_FORMAT,
                 "tokenizer.ggml.tokens has %lld entries but token_embd.weight only %lld rows",
                 (long long)tokens->arr_n, (long long)d->n_vocab);
        return false;
    }
    if (!bind_table(r, &d->tok_embd, "token_embd.weight", d->n_vocab, d->n_embd)) return false;

    d->layers = nib_arena_calloc(r->arena, (size_t)n_layer, sizeof *d->layers);
    if (!d->layers) {
        nib_fail_nomem(r->e, (size_t)n_layer * sizeof *d->layers, "layers");
        return false;
    }
    /* what a family changes when it differs */
    d->causal = true;
    d->norm = d->qk_norm = NIB_NORM_RMS;
    d->act = NIB_ACTIVATION_SILU;
    d->attn_scale = 1.0f / sqrtf((float)d->d);
    d->embd_scale = d->residual_scale = d->logit_scale = 1;
    for (int i = 0; i < d->n_layer; i++) d->layers[i].rope = -1;
    return true;
}

bool nib_read_rope(nib_reader *r, nib_rope_kind kind) {
    nib_desc *d = r->d;
    nib_rope_desc *p = &d->rope[0];
    int64_t n_rot;
    float base, factor, scale;
    if (!nib_read_i64_or(r, "rope.dimension_count", 0, d->d, d->d, &n_rot)) return false;
    if (n_rot % 2) return bad_sizes(r, "rope.dimension_count is odd");
    if (!nib_read_f32_or(r, "rope.freq_base", 10000, &base)) return false;
    if (!nib_read_f32_or(r, "rope.scale_linear", 1, &scale)) return false;
    if (!nib_read_f32_or(r, "rope.scaling.factor", scale, &factor)) return false;
    if (!nib_read_f32_or(r, "rope.scaling.attn_factor", 1, &p->attn_factor)) return false;
    if (!nib_read_f32_or(r, "rope.scaling.yarn_ext_factor", 1, &p->yarn_ext)) return false;
    if (!nib_read_f32_or(r, "rope.scaling.yarn_beta_fast", 32, &p->yarn_beta_fast)) return false;
    if (!nib_read_f32_or(r, "rope.scaling.yarn_beta_slow", 1, &p->yarn_beta_slow)) return false;
    if (!nib_read_i64_or(r, "rope.scaling.original_context_length", 1, 1 << 28, d->n_ctx_train,
                         &p->n_ctx_orig))
        return false;
    if (!(base > 1) || !(factor >= 0))
        return bad_sizes(r, "rope.freq_base or rope.scaling.factor is out of range");
    char name[160];
    nib_str type = NIB_STR("");
    if (nib_gguf_find(r->g, key_name(r, "rope.scaling.type", name)) &&
        nib_gguf_str(r->g, name, &type, r->e) != NIB_OK)
        return false;
    bool linear = nib_str_eq_c(type, "linear") || !type.n;
    p->yarn = nib_str_eq_c(type, "yarn");
    if (!linear && !p->yarn && !nib_str_eq_c(type, "none") && !nib_str_eq_c(type, "longrope")) {
        nib_fail(r->e, NIB_ERR_UNSUPPORTED,
                 "rope.scaling.type is '%.*s': expected none, linear, yarn or longrope",
                 (int)NIB_MIN(type.n, (size_t)40), type.p);
        return false;
    }
    p->kind = kind;
    p->n_rot = (int)n_rot;
    p->base = (double)base;
    p->scale = (linear || p->yarn) && factor > 0 ? 1.0 / (double)factor : 1.0;
    for (int i = 0; i < d->n_layer; i++) d->layers[i].rope = 0;
    if (!n_rot) return true;
    if (!nib_bind_floats(r, &p->factors, "rope_freqs.weight", n_rot / 2, NIB_OPTIONAL))
        return false;
    if (p->factors) return true;
    return nib_bind_floats(r, &p->factors, "rope_factors_short.weight", n_rot / 2, NIB_OPTIONAL) &&
           nib_bind_floats(r, &p->factors_long, "rope_factors_long.weight", n_rot / 2,
                           NIB_OPTIONAL);
}

bool nib_bind_positions(nib_reader *r) {
    const nib_tensor *t = nib_gguf_tensor(r->g, "position_embd.weight");
    if (!t) return missing(r, "position_embd.weight");
    if (t->ne[1] < r->d->n_ctx_train)
        r->d->n_ctx_train = t->ne[1]; /* no position has a vector beyond */
    return bind_table(r, &r->d->pos_embd, "position_embd.weight", t->ne[1], r->d->n_embd);
}

bool nib_bind_head(nib_reader *r, int flags) {
    nib_desc *d = r->d;
    if (!nib_bind_norm(r, &d->out_norm, -1, "output_norm", d->n_embd, flags)) return false;
    if (nib_has_tensor(r, -1, "output.weight"))
        return nib_bind_linear(r, &d->head, -1, "output", d->n_vocab, d->n_embd, NIB_BIAS_OPTIONAL);
    d->tied = true;
    return true;
}

bool nib_bind_qkv(nib_reader *r, int layer, int flags) {
    nib_desc *d = r->d;
    nib_layer *l = &d->layers[layer];
    nib_linear *const parts[] = {&l->q, &l->k, &l->v};
    const int64_t n[] = {(int64_t)d->n_head * d->d, (int64_t)d->n_kv * d->d,
                         (int64_t)d->n_kv * d->dv};
    if (nib_has_tensor(r, layer, "attn_qkv.weight")) {
        if (!nib_bind_fused(r, 3, parts, n, layer, "attn_qkv", d->n_embd, flags)) return false;
    } else {
        static const char *const names[] = {"attn_q", "attn_k", "attn_v"};
        for (int i = 0; i < 3; i++)
            if (!nib_bind_linear(r, parts[i], layer, names[i], n[i], d->n_embd, flags))
                return false;
    }
    int o_flags = flags & ~NIB_BIAS;
    if (flags & NIB_BIAS)
        o_flags |= NIB_BIAS_OPTIONAL; /* families with q/k/v biases differ in this one */
    return nib_bind_linear(r, &l->o, layer, "attn_output", d->n_embd, (int64_t)d->n_head * d->dv,
                           o_flags);
}

bool nib_bind_ffn(nib_reader *r, int layer, bool gated, int flags) {
    nib_desc *d = r->d;
    nib_layer *l = &d->layers[layer];
    if (gated && !nib_has_tensor(r, layer, "ffn_gate.weight")) {
        nib_linear *const parts[] = {&l->gate, &l->up};
        const int64_t n[] = {d->n_ff, d->n_ff};
        if (!nib_bind_fused(r, 2, parts, n, layer, "ffn_up", d->n_embd, flags)) return false;
    } else {
        if (gated && !nib_bind_linear(r, &l->gate, layer, "ffn_gate", d->n_ff, d->n_embd, flags))
            return false;
        if (!nib_bind_linear(r, &l->up, layer, "ffn_up", d->n_ff, d->n_embd, flags)) return false;
    }
    return nib_bind_linear(r, &l->down, layer, "ffn_down", d->n_embd, d->n_ff, flags);
}

nib_status nib_desc_read(nib_desc *d, nib_reader *r, const nib_gguf *g, nib_arena *arena,
                         nib_error *e) {
    nib_error local;
    *d = (nib_desc){0};
    *r = (nib_reader){.g = g, .arena = arena, .d = d, .e = e ? e : &local};
    nib_str arch;
    NIB_TRY(nib_gguf_str(g, "general.architecture", &arch, r->e));
    const arch_row *row = NULL;
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows) && !row; i++)
        if (nib_str_eq_c(arch, rows[i].name)) row = &rows[i];
    if (!row)
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "architecture '%.*s' is not known: nib runs %s",
                        (int)NIB_MIN(arch.n, (size_t)60), arch.p, nib_arch_list());
    r->arch = d->arch = row->name;
    if (!nib_read_common(r) || !row->fill(r)) return r->e->code;
    /* Tied: the table is also the output matrix, so it is packed, once. */
    if (d->tied) {
        d->head.w = d->tok_embd;
        d->head.name = "token_embd.weight";
        if (!list_upload(r, &d->head.w, d->head.name, true)) return r->e->code;
    } else if (!list_upload(r, &d->tok_embd, "token_embd.weight", false)) {
        return r->e->code;
    }
    return NIB_OK;
}
