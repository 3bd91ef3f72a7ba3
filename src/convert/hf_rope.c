/* Rotation: what config.json says of it in a dozen spellings, as GGUF's keys and tensors.
 *
 * transformers keeps the base in rope_theta or inside rope_parameters, scaling in rope_scaling or
 * rope_parameters, with a type linear, yarn, llama3, longrope (once "su"), dynamic or default. GGUF
 * has keys for linear and yarn; llama3's formula is evaluated into the tensor rope_freqs (factors
 * that divide the frequencies), longrope's two lists are tensors.
 *
 * The other way round a rope_freqs that no llama3 formula with usual numbers gives is written as a
 * longrope whose two lists are the same, which says just that. */
#include <math.h>
#include "convert/internal.h"

enum { MAX_ROT = 4096 };

typedef struct rope_in {
    const json_t *p; /* rope_parameters or rope_scaling, of full attention; may be NULL */
    const char *type;
    double theta; /* 0: not said */
    int64_t n_embd, n_head, head, n_rot;
} rope_in;

static double number_of(const json_t *o, const char *name, double fallback) {
    const json_t *v = json_object_get(o, name);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

static nib_status bad(const conv_hf *h, const char *what, nib_error *e) {
    return nib_fail(e, NIB_ERR_FORMAT, "'%s/config.json': rope: %s", h->folder, what);
}

static nib_status read_rope(const conv_hf *h, rope_in *r, nib_error *e) {
    *r = (rope_in){0};
    const json_t *all = conv_hf_value(h, "rope_parameters|rope_scaling");
    const json_t *full = json_object_get(all, "full_attention");
    r->p = json_is_object(full) ? full : all;
    r->type = json_string_value(json_object_get(r->p, "rope_type"));
    if (!r->type) r->type = json_string_value(json_object_get(r->p, "type"));
    if (!r->type) r->type = "default";
    r->theta = h->family->rope_theta;
    NIB_TRY(conv_hf_num(h, "rope_theta|rotary_emb_base", false, &r->theta, e));
    r->theta = number_of(r->p, "rope_theta", r->theta);
    NIB_TRY(conv_hf_int(h, "hidden_size|n_embd", 1, 1 << 24, true, &r->n_embd, e));
    NIB_TRY(conv_hf_int(h, "num_attention_heads|n_head", 1, 1 << 20, true, &r->n_head, e));
    r->head = r->n_embd / r->n_head;
    if (h->family->bit != GRANITE)
        NIB_TRY(conv_hf_int(h, "head_dim", 1, MAX_ROT, false, &r->head, e));
    double part = 1;
    if (h->family->bit & PHI2) part = 0.5;
    if (h->family->bit & (STABLELM | GPTNEOX)) part = 0.25;
    NIB_TRY(conv_hf_num(h, "partial_rotary_factor|rotary_pct|rope_pct", false, &part, e));
    part = number_of(r->p, "partial_rotary_factor", part);
    /* the product of a rounded share and a width may end up just below a whole number */
    double n_rot = h->family->bit & (PHI2 | PHI3)
                       ? floor(part * (double)r->n_embd + 1e-4) / (double)r->n_head
                       : part * (double)r->head + 1e-4;
    if (!(part >= 0 && part <= 1) || r->head < 1 || n_rot > MAX_ROT)
        return bad(h, "the share of a head that is rotated is out of range", e);
    r->n_rot = (int64_t)n_rot;
    return NIB_OK;
}

static nib_status add_factors(conv_model *m, const char *name, const float *f, int64_t n,
                              nib_error *e) {
    conv_tensor t = {.name = name,
                     .n_dims = 1,
                     .ne = {n, 1, 1, 1},
                     .src_type = NIB_F32,
                     .src = f,
                     .src_bytes = (size_t)n * 4};
    conv_set_type(&t, NIB_F32);
    return conv_add_tensor(m, &t, e);
}

/* Llama 3.1's scaling: low frequencies are slowed down by 'factor', high ones stay, between them it
 * is blended. Evaluated in the precision and order of the peers, so that the bits agree. */
static void llama3_factors(float *out, int64_t n_rot, double theta, double factor, double low,
                           double high, double n_ctx) {
    double low_length = n_ctx / low, high_length = n_ctx / high;
    for (int64_t i = 0; i < n_rot / 2; i++) {
        float freq = 1.0f / powf((float)theta, (float)(2 * i) / (float)n_rot);
        double length = (double)((float)(2 * 3.14159265358979323846) / freq);
        if (length < high_length) {
            out[i] = 1;
        } else if (length > low_length) {
            out[i] = (float)factor;
        } else {
            float smooth = ((float)n_ctx / (float)length - (float)low) / (float)(high - low);
            out[i] = 1 / ((1 - smooth) / (float)factor + smooth);
        }
    }
}

static nib_status put_llama3(conv_model *m, const conv_hf *h, const rope_in *r, nib_error *e) {
    double factor = number_of(r->p, "factor", 8), low = number_of(r->p, "low_freq_factor", 1),
           high = number_of(r->p, "high_freq_factor", 4),
           n_ctx = number_of(r->p, "original_max_position_embeddings", 8192);
    if (!(factor >= 1 && factor < 1e6) || !(low > 0) || !(high > low) || !(high < 1e6) ||
        !(n_ctx >= 1 && n_ctx < 1e9) || !(r->theta > 1))
        return bad(h, "llama3's factors are out of range", e);
    float *f = nib_arena_alloc(&m->arena, (size_t)MAX_ROT / 2 * sizeof *f);
    if (!f) return nib_fail_nomem(e, MAX_ROT * 2, "rope factors");
    llama3_factors(f, r->head, r->theta, factor, low, high, n_ctx);
    return add_factors(m, "rope_freqs.weight", f, r->head / 2, e);
}

static nib_status list_of(conv_model *m, const conv_hf *h, const rope_in *r, const char *name,
                          int64_t n, const float **out, nib_error *e) {
    const json_t *list = json_object_get(r->p, name);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s/config.json': rope: '%s': expected %lld numbers, found %zu", h->folder,
                        name, (long long)n, json_array_size(list));
    float *f = nib_arena_alloc(&m->arena, (size_t)n * sizeof *f + 1);
    if (!f) return nib_fail_nomem(e, (size_t)n * 4, name);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        f[i] = (float)json_number_value(v);
        if (!json_is_number(v) || !(f[i] > 0) || !isfinite(f[i]))
            return bad(h, "expected positive factors", e);
    }
    *out = f;
    return NIB_OK;
}

static nib_status put_phi3(conv_model *m, const conv_hf *h, const rope_in *r, nib_error *e) {
    int64_t n_ctx, orig;
    const char *arch = h->family->arch;
    NIB_TRY(conv_hf_int(h, "max_position_embeddings|n_positions", 1, 1 << 28, true, &n_ctx, e));
    orig = n_ctx;
    NIB_TRY(conv_hf_int(h, "original_max_position_embeddings", 1, 1 << 28, false, &orig, e));
    orig = (int64_t)number_of(r->p, "original_max_position_embeddings", (double)orig);
    if (orig < 1 || orig > 1 << 28) return bad(h, "the original context is out of range", e);
    NIB_TRY(conv_put_int(m, arch, "rope.scaling.original_context_length", NIB_GGUF_U32, orig, e));
    if (!json_array_size(json_object_get(r->p, "long_factor"))) return NIB_OK;
    double scale = (double)n_ctx / (double)orig, factor = 1;
    if (scale > 1)
        factor = strcmp(r->type, "yarn") == 0 ? 0.1 * log(scale) + 1
                                              : sqrt(1 + log(scale) / log((double)orig));
    NIB_TRY(conv_put_f32(m, arch, "rope.scaling.attn_factor", factor, e));
    const float *f = NULL;
    NIB_TRY(list_of(m, h, r, "long_factor", r->n_rot / 2, &f, e));
    NIB_TRY(add_factors(m, "rope_factors_long.weight", f, r->n_rot / 2, e));
    NIB_TRY(list_of(m, h, r, "short_factor", r->n_rot / 2, &f, e));
    return add_factors(m, "rope_factors_short.weight", f, r->n_rot / 2, e);
}

static nib_status put_yarn(conv_model *m, const conv_hf *h, const rope_in *r, nib_error *e) {
    static const char *const table[][2] = {{"extrapolation_factor", "rope.scaling.yarn_ext_factor"},
                                           {"attention_factor", "rope.scaling.yarn_attn_factor"},
                                           {"attn_factor", "rope.scaling.yarn_attn_factor"},
                                           {"beta_fast", "rope.scaling.yarn_beta_fast"},
                                           {"beta_slow", "rope.scaling.yarn_beta_slow"}};
    double orig = number_of(r->p, "original_max_position_embeddings", 0);
    if (!(orig >= 1 && orig < 1 << 28))
        return bad(h, "yarn needs original_max_position_embeddings", e);
    NIB_TRY(conv_put_int(m, h->family->arch, "rope.scaling.original_context_length", NIB_GGUF_U32,
                         (int64_t)orig, e));
    for (size_t i = NIB_ARRAY_LEN(table); i-- > 0;) {
        double f = number_of(r->p, table[i][0], NAN);
        if (isfinite((float)f)) NIB_TRY(conv_put_f32(m, h->family->arch, table[i][1], f, e));
    }
    return NIB_OK;
}

static nib_status put_scaling(conv_model *m, const conv_hf *h, const rope_in *r, nib_error *e) {
    const char *arch = h->family->arch, *type = r->type;
    double factor = number_of(r->p, "factor", 0);
    bool linear = strcmp(type, "linear") == 0, yarn = strcmp(type, "yarn") == 0;
    if (strcmp(type, "default") == 0 || strcmp(type, "none") == 0) return NIB_OK;
    if (h->family->bit == PHI3) return NIB_OK; /* by put_phi3 */
    if (linear || yarn) {
        if (!(factor >= 1 && factor < 1e6)) return bad(h, "'factor' is missing or out of range", e);
        NIB_TRY(conv_put_str(m, arch, "rope.scaling.type", nib_str_c(type), e));
        NIB_TRY(conv_put_f32(m, arch, "rope.scaling.factor", factor, e));
        return yarn ? put_yarn(m, h, r, e) : NIB_OK;
    }
    if (strcmp(type, "llama3") == 0) return put_llama3(m, h, r, e);
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        const float *a = NULL, *b = NULL;
        NIB_TRY(list_of(m, h, r, "short_factor", r->n_rot / 2, &a, e));
        NIB_TRY(list_of(m, h, r, "long_factor", r->n_rot / 2, &b, e));
        if (memcmp(a, b, (size_t)(r->n_rot / 2) * sizeof *a) == 0)
            return add_factors(m, "rope_freqs.weight", a, r->n_rot / 2, e);
    }
    if (strcmp(type, "dynamic") == 0) {
        nib_log(NIB_LOG_WARN,
                "'%s': dynamic rope scaling only matters beyond the context the model "
                "was trained with, and is left out",
                h->folder);
        return NIB_OK;
    }
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "'%s/config.json': rope_type '%.40s': nib knows default, linear, yarn, llama3, "
                    "and longrope for phi3",
                    h->folder, type);
}

nib_status conv_hf_rope(conv_model *m, const conv_hf *h, nib_error *e) {
    const char *arch = h->family->arch;
    unsigned bit = h->family->bit;
    if (bit & (GPT2 | BERT)) return NIB_OK;
    rope_in r;
    NIB_TRY(read_rope(h, &r, e));
    if (!(r.theta > 1 && r.theta < 1e30)) return bad(h, "rope_theta is out of range", e);
    if (bit & (LLAMA | SMOLLM3 | GRANITE))
        NIB_TRY(conv_put_int(m, arch, "rope.dimension_count", NIB_GGUF_U32, r.head, e));
    if (bit & (PHI2 | PHI3 | STABLELM | GPTNEOX))
        NIB_TRY(conv_put_int(m, arch, "rope.dimension_count", NIB_GGUF_U32, r.n_rot, e));
    /* the peers leave the usual base out for these */
    bool silent = bit & (PHI2 | STABLELM | GPTNEOX | GEMMA2);
    if (!silent || r.theta != 10000) NIB_TRY(conv_put_f32(m, arch, "rope.freq_base", r.theta, e));
    if (bit == GEMMA3) {
        const json_t *all = conv_hf_value(h, "rope_parameters|rope_scaling");
        double local = 0;
        NIB_TRY(conv_hf_num(h, "rope_local_base_freq", false, &local, e));
        local = number_of(json_object_get(all, "sliding_attention"), "rope_theta", local);
        if (local > 0) NIB_TRY(conv_put_f32(m, arch, "rope.freq_base_swa", local, e));
    }
    if (bit == PHI3) return put_phi3(m, h, &r, e);
    return put_scaling(m, h, &r, e);
}

/* ---- out ---- */

static json_t *list_json(const float *f, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real((double)f[i]));
    return list;
}

static const float *tensor_floats(const conv_hf_out *o, conv_model *m, const char *name,
                                  int64_t *n) {
    const nib_tensor *t = nib_gguf_tensor(o->g, name);
    if (!t || nib_dtype_get(t->dtype)->block_len != 1 || nib_tensor_count(t) > MAX_ROT) return NULL;
    *n = nib_tensor_count(t);
    float *f = nib_arena_alloc(&m->arena, (size_t)*n * sizeof *f);
    if (f) nib_dtype_get(t->dtype)->to_f32(t->data, f, *n);
    return f;
}

/* rope_freqs as the formula it came from, when that gives the same bits; else as lists. */
static json_t *freqs_json(const float *f, int64_t n, double theta) {
    static const double contexts[] = {8192, 4096, 2048, 16384, 32768};
    float again[MAX_ROT / 2];
    for (size_t i = 0; i < NIB_ARRAY_LEN(contexts) && n <= MAX_ROT / 2; i++) {
        llama3_factors(again, 2 * n, theta, (double)f[n - 1], 1, 4, contexts[i]);
        if (memcmp(again, f, (size_t)n * sizeof *f) != 0) continue;
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
                         (double)f[n - 1], "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                         "original_max_position_embeddings", (json_int_t)contexts[i]);
    }
    return json_pack("{s:s, s:f, s:o, s:o}", "rope_type", "longrope", "attention_factor", 1.0,
                     "short_factor", list_json(f, n), "long_factor", list_json(f, n));
}

static json_t *scaling_json(const conv_hf_out *o) {
    nib_str type;
    char name[160];
    snprintf(name, sizeof name, "%s.rope.scaling.type", o->family->arch);
    if (nib_gguf_str(o->g, name, &type, NULL) != NIB_OK) type = NIB_STR("");
    bool yarn = nib_str_eq_c(type, "yarn");
    const nib_gguf_kv *factor = conv_out_key(o, "rope.scaling.factor");
    if ((!yarn && !nib_str_eq_c(type, "linear")) || !factor) return NULL;
    json_t *v = json_pack("{s:s, s:f}", "rope_type", yarn ? "yarn" : "linear", "factor", factor->f);
    static const char *const table[][2] = {{"rope.scaling.yarn_ext_factor", "extrapolation_factor"},
                                           {"rope.scaling.yarn_attn_factor", "attention_factor"},
                                           {"rope.scaling.yarn_beta_fast", "beta_fast"},
                                           {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    const nib_gguf_kv *orig = conv_out_key(o, "rope.scaling.original_context_length");
    if (orig) json_object_set_new(v, "original_max_position_embeddings", json_integer(orig->i));
    for (size_t i = 0; i < NIB_ARRAY_LEN(table); i++) {
        const nib_gguf_kv *kv = conv_out_key(o, table[i][0]);
        if (kv) json_object_set_new(v, table[i][1], json_real(kv->f));
    }
    return v;
}

nib_status conv_out_rope(conv_hf_out *o, conv_model *m, nib_error *e) {
    unsigned bit = o->family->bit;
    if (bit & (GPT2 | BERT)) return NIB_OK;
    const nib_gguf_kv *theta = conv_out_key(o, "rope.freq_base"),
                      *n_rot = conv_out_key(o, "rope.dimension_count"),
                      *local = conv_out_key(o, "rope.freq_base_swa"),
                      *orig = conv_out_key(o, "rope.scaling.original_context_length"),
                      *embd = conv_out_key(o, "embedding_length"),
                      *heads = conv_out_key(o, "attention.head_count");
    double base = theta ? theta->f : 10000;
    json_object_set_new(o->config, bit & (GPTNEOX | NOMIC) ? "rotary_emb_base" : "rope_theta",
                        json_real(base));
    if (local) json_object_set_new(o->config, "rope_local_base_freq", json_real(local->f));
    if (bit & (PHI2 | PHI3 | STABLELM | GPTNEOX) && embd && heads && heads->type != NIB_GGUF_ARR &&
        heads->i > 0 && embd->i >= heads->i) {
        int64_t width = embd->i / heads->i;
        json_object_set_new(o->config, bit == GPTNEOX ? "rotary_pct" : "partial_rotary_factor",
                            json_real(n_rot ? (double)n_rot->i / (double)width : 1));
    }
    int64_t n = 0, n_long = 0;
    const float *f = tensor_floats(o, m, "rope_freqs.weight", &n);
    json_t *scaling = f && n > 0 ? freqs_json(f, n, base) : scaling_json(o);
    if (bit == PHI3) {
        const float *s = tensor_floats(o, m, "rope_factors_short.weight", &n),
                    *l = tensor_floats(o, m, "rope_factors_long.weight", &n_long);
        if (orig)
            json_object_set_new(o->config, "original_max_position_embeddings",
                                json_integer(orig->i));
        if (s && l) {
            json_decref(scaling);
            scaling = json_pack("{s:s, s:o, s:o}", "type", "longrope", "short_factor",
                                list_json(s, n), "long_factor", list_json(l, n_long));
        }
    }
    if (scaling && json_object_set_new(o->config, "rope_scaling", scaling))
        return nib_fail_nomem(e, 64, "JSON");
    return NIB_OK;
}
