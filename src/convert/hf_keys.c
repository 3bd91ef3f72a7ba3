/* config.json to GGUF's keys and back: the rows of keys.def, and what rows cannot say.
 *
 * Which keys a family gets, and their names, is what llama.cpp's convert_hf_to_gguf.py writes;
 * docs/CONVERT.md lists the differences. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include "convert/internal.h"

/* What a row does when config.json has none of its names; plain numbers stand for themselves. */
enum { NEED = -1, NONE = -2, HEADS = -3, HEAD_WIDTH = -4, FOUR = -5, EPS = -6 };
static const struct key_row {
    unsigned families;
    nib_gguf_type type;
    const char *key, *names;
    int absent;
} rows[] = {
#define NIB_KEY(families, key, type, names, absent) {families, NIB_GGUF_##type, key, names, absent},
#include "convert/keys.def"
#undef NIB_KEY
};
enum { MAX_INT = 1 << 28 };

/* ---- in ---- */

static nib_status absent_int(const conv_hf *h, const struct key_row *r, int64_t *v, nib_error *e) {
    int64_t width = 0, heads = 1;
    *v = r->absent;
    if (r->absent == HEADS || r->absent == HEAD_WIDTH)
        NIB_TRY(conv_hf_int(h, "num_attention_heads|n_head|n_heads", 1, MAX_INT, true, &heads, e));
    if (r->absent == HEAD_WIDTH || r->absent == FOUR)
        NIB_TRY(conv_hf_int(h, "hidden_size|n_embd|dim", 1, MAX_INT, true, &width, e));
    if (r->absent == HEADS) *v = heads;
    if (r->absent == HEAD_WIDTH && heads > 0) *v = width / heads;
    if (r->absent == FOUR) *v = 4 * width;
    return NIB_OK;
}

static nib_status put_row(conv_model *m, const conv_hf *h, const struct key_row *r, nib_error *e) {
    const char *arch = h->family->arch;
    const json_t *given = conv_hf_value(h, r->names);
    if (!given && r->absent == NONE) return NIB_OK;
    if (r->type == NIB_GGUF_F32) {
        double f = r->absent == EPS ? h->family->eps : r->absent;
        NIB_TRY(conv_hf_num(h, r->names, r->absent == NEED, &f, e));
        return conv_put_f32(m, arch, r->key, f, e);
    }
    int64_t v = 0;
    if (r->type == NIB_GGUF_BOOL) {
        if (given && !json_is_boolean(given))
            return nib_fail(e, NIB_ERR_FORMAT, "'%s/config.json': '%s': expected true or false",
                            h->folder, r->names);
        v = given ? json_is_true(given) : r->absent;
    } else if (!given && r->absent != NEED) {
        NIB_TRY(absent_int(h, r, &v, e));
    } else {
        NIB_TRY(conv_hf_int(h, r->names, 0, MAX_INT, true, &v, e));
    }
    return conv_put_int(m, arch, r->key, r->type, v, e);
}

/* Olmo 3: which layers see a window only. */
static nib_status put_windows(conv_model *m, const conv_hf *h, nib_error *e) {
    if (h->family->bit != OLMO2 || !conv_hf_value(h, "sliding_window")) return NIB_OK;
    int64_t n;
    NIB_TRY(conv_hf_int(h, "num_hidden_layers", 1, 4096, true, &n, e));
    const json_t *types = conv_hf_value(h, "layer_types");
    uint8_t *windowed = nib_arena_alloc(&m->arena, (size_t)n);
    if (!windowed) return nib_fail_nomem(e, (size_t)n, "layer_types");
    if (types && json_array_size(types) != (size_t)n)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s/config.json': 'layer_types' has %zu entries, expected %lld", h->folder,
                        json_array_size(types), (long long)n);
    for (int64_t i = 0; i < n; i++) {
        const char *t = json_string_value(json_array_get(types, (size_t)i));
        windowed[i] = types ? t && strcmp(t, "sliding_attention") == 0 : (i + 1) % 4 != 0;
    }
    return conv_put(m,
                    &(nib_gguf_kv){.key = NIB_STR("olmo2.attention.sliding_window_pattern"),
                                   .type = NIB_GGUF_ARR,
                                   .arr_type = NIB_GGUF_BOOL,
                                   .arr_n = n,
                                   .arr_data = windowed},
                    e);
}

/* Sentence-transformers say in files of their own how vectors are pooled. */
static nib_status put_pooling(conv_model *m, const conv_hf *h, nib_error *e) {
    if (!(h->family->bit & (BERT | NOMIC | QWEN2 | QWEN3))) return NIB_OK;
    json_t *v = NULL;
    NIB_TRY(conv_hf_json(h, "1_Pooling/config.json", &v, e));
    static const struct {
        const char *name;
        int value;
    } modes[] = {{"pooling_mode_mean_tokens", 1},
                 {"pooling_mode_cls_token", 2},
                 {"pooling_mode_lasttoken", 3}};
    nib_status s = NIB_OK;
    for (size_t i = 0; i < NIB_ARRAY_LEN(modes) && s == NIB_OK; i++) {
        if (!json_is_true(json_object_get(v, modes[i].name))) continue;
        s = conv_put_int(m, h->family->arch, "pooling_type", NIB_GGUF_U32, modes[i].value, e);
        break;
    }
    json_decref(v);
    return s;
}

/* nomic-embed-text 1 and 1.5 claim 8192 positions by scaling the rotation, but were trained with
 * 2048; the converter of the peers writes what they were trained with. */
static nib_status put_nomic(conv_model *m, const conv_hf *h, nib_error *e) {
    int64_t n, trained = 2048;
    NIB_TRY(conv_hf_int(h, "n_positions", 1, MAX_INT, true, &n, e));
    NIB_TRY(conv_hf_int(h, "max_trained_positions", 1, MAX_INT, false, &trained, e));
    const json_t *moe = conv_hf_value(h, "moe_every_n_layers");
    if (json_number_value(moe) > 0)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'%s' has experts (nomic-embed-text-v2-moe): nib "
                        "runs versions 1 and 1.5",
                        h->folder);
    return conv_put_int(m, h->family->arch, "context_length", NIB_GGUF_U32, NIB_MIN(n, trained), e);
}

/* "smollm2-135m" is shown as "Smollm2 135m". */
static nib_status put_name(conv_model *m, const conv_hf *h, nib_error *e) {
    const char *p = json_string_value(json_object_get(h->config, "_name_or_path"));
    bool titled = json_is_string(json_object_get(h->config, "nib_name"));
    if (titled) p = json_string_value(json_object_get(h->config, "nib_name"));
    size_t slashes = 0;
    for (const char *q = p ? p : ""; *q; q++) slashes += *q == '/';
    char *real = NULL;
    if (!p || !*p || (!titled && slashes > 1)) p = real = realpath(h->folder, NULL);
    if (!p) p = h->folder;
    const char *slash = titled ? NULL : strrchr(p, '/');
    nib_buf name = {.max = 1024};
    for (const char *q = slash ? slash + 1 : p; *q;) {
        size_t n = titled ? strlen(q) : strcspn(q, "- ");
        bool lower = !titled && !isdigit((unsigned char)*q);
        for (size_t i = 0; i < n; i++) lower &= !isupper((unsigned char)q[i]);
        if (n && name.len) nib_buf_putc(&name, ' ');
        for (size_t i = 0; i < n; i++)
            nib_buf_putc(&name, i == 0 && lower ? (char)toupper((unsigned char)q[i]) : q[i]);
        q += n;
        if (*q) q++;
    }
    nib_status s = name.failed
                       ? nib_fail_nomem(e, 64, "the model's name")
                       : conv_put_str(m, NULL, "general.name", (nib_str){name.data, name.len}, e);
    nib_buf_free(&name);
    free(real); /* of the C library */
    return s;
}

/* What generation_config.json says of sampling. */
static nib_status put_sampling(conv_model *m, const conv_hf *h, nib_error *e) {
    static const struct {
        const char *name, *key;
        bool integer;
    } table[] = {{"temperature", "general.sampling.temp", false},
                 {"top_k", "general.sampling.top_k", true},
                 {"top_p", "general.sampling.top_p", false},
                 {"min_p", "general.sampling.min_p", false},
                 {"repetition_penalty", "general.sampling.penalty_repeat", false}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(table); i++) {
        const json_t *v = json_object_get(h->generation, table[i].name);
        double f = json_number_value(v);
        if (!json_is_number(v) || !(fabs(f) < 1e9)) continue;
        if (table[i].integer)
            NIB_TRY(conv_put_int(m, NULL, table[i].key, NIB_GGUF_I32, (int64_t)f, e));
        else
            NIB_TRY(conv_put_f32(m, NULL, table[i].key, f, e));
    }
    return NIB_OK;
}

nib_status conv_hf_keys(conv_model *m, const conv_hf *h, nib_error *e) {
    const conv_family *f = h->family;
    NIB_TRY(conv_put_str(m, NULL, "general.architecture", nib_str_c(f->arch), e));
    NIB_TRY(conv_put_str(m, NULL, "general.type", NIB_STR("model"), e));
    NIB_TRY(put_name(m, h, e));
    NIB_TRY(put_sampling(m, h, e));
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++)
        if (rows[i].families & f->bit) NIB_TRY(put_row(m, h, &rows[i], e));
    if (f->bit & (BERT | NOMIC))
        NIB_TRY(conv_put_int(m, f->arch, "attention.causal", NIB_GGUF_BOOL, 0, e));
    if (f->bit == NOMIC) NIB_TRY(put_nomic(m, h, e));
    NIB_TRY(put_windows(m, h, e));
    NIB_TRY(put_pooling(m, h, e));
    return conv_hf_rope(m, h, e);
}

/* ---- out ---- */

const nib_gguf_kv *conv_out_key(const conv_hf_out *o, const char *key) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", o->family->arch, key);
    return nib_gguf_find(o->g, name);
}

static json_t *as_json(const nib_gguf_kv *kv) {
    switch (kv->type) {
    case NIB_GGUF_BOOL: return json_boolean(kv->i);
    case NIB_GGUF_F32:
    case NIB_GGUF_F64: return json_real(kv->f); /* NULL when not finite */
    case NIB_GGUF_STR:
    case NIB_GGUF_ARR: return NULL;
    default: return json_integer(kv->i);
    }
}

static nib_status set(json_t *object, const char *name, json_t *v, nib_error *e) {
    if (v && json_object_set_new(object, name, v) == 0) return NIB_OK;
    return nib_fail(e, NIB_ERR_FORMAT, "'%s' has no value that JSON can hold", name);
}

static nib_status out_row(conv_hf_out *o, const struct key_row *r, nib_error *e) {
    const nib_gguf_kv *kv = conv_out_key(o, r->key);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(r->names, "|"), r->names);
    if (kv && kv->type != NIB_GGUF_ARR) return set(o->config, name, as_json(kv), e);
    if (kv && kv->arr_n > 0 && kv->arr_type != NIB_GGUF_STR) /* one value a layer: all alike */
        return set(o->config, name, json_integer(nib_gguf_arr_i64(kv, 0)), e);
    return NIB_OK;
}

static nib_status out_windows(conv_hf_out *o, nib_error *e) {
    const nib_gguf_kv *kv = conv_out_key(o, "attention.sliding_window_pattern");
    if (o->family->bit != OLMO2 || !kv || kv->type != NIB_GGUF_ARR || kv->arr_type == NIB_GGUF_STR)
        return NIB_OK;
    json_t *list = json_array();
    for (int64_t i = 0; i < kv->arr_n; i++)
        json_array_append_new(
            list, json_string(nib_gguf_arr_i64(kv, i) ? "sliding_attention" : "full_attention"));
    NIB_TRY(set(o->config, "layer_types", list, e));
    NIB_TRY(set(o->config, "architectures", json_pack("[s]", "Olmo3ForCausalLM"), e));
    return set(o->config, "model_type", json_string("olmo3"), e);
}

static nib_status out_pooling(conv_hf_out *o, nib_error *e) {
    const nib_gguf_kv *kv = conv_out_key(o, "pooling_type");
    if (!kv || kv->i < 1 || kv->i > 3) return NIB_OK;
    json_t *v =
        json_pack("{s:b, s:b, s:b}", "pooling_mode_cls_token", kv->i == 2,
                  "pooling_mode_mean_tokens", kv->i == 1, "pooling_mode_lasttoken", kv->i == 3);
    json_t *modules =
        json_pack("[{s:i, s:s, s:s, s:s}, {s:i, s:s, s:s, s:s}]", "idx", 0, "name", "0", "path", "",
                  "type", "sentence_transformers.models.Transformer", "idx", 1, "name", "1", "path",
                  "1_Pooling", "type", "sentence_transformers.models.Pooling");
    nib_status s = v && modules ? conv_out_json(o, "1_Pooling/config.json", v, e)
                                : nib_fail_nomem(e, 64, "JSON");
    if (s == NIB_OK) s = conv_out_json(o, "modules.json", modules, e);
    json_decref(v);
    json_decref(modules);
    return s;
}

static nib_status out_sampling(conv_hf_out *o, nib_error *e) {
    static const char *const table[][2] = {
        {"general.sampling.temp", "temperature"},
        {"general.sampling.top_k", "top_k"},
        {"general.sampling.top_p", "top_p"},
        {"general.sampling.min_p", "min_p"},
        {"general.sampling.penalty_repeat", "repetition_penalty"}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(table); i++) {
        const nib_gguf_kv *kv = nib_gguf_find(o->g, table[i][0]);
        if (kv) NIB_TRY(set(o->generation, table[i][1], as_json(kv), e));
    }
    return NIB_OK;
}

nib_status conv_out_keys(conv_hf_out *o, nib_error *e) {
    const conv_family *f = o->family;
    nib_str name;
    NIB_TRY(set(o->config, "architectures",
                json_pack("[s#]", f->classes, (int)strcspn(f->classes, "|")), e));
    NIB_TRY(set(o->config, "model_type", json_string(f->model_type), e));
    if (nib_gguf_str(o->g, "general.name", &name, NULL) == NIB_OK && nib_utf8_valid(name.p, name.n))
        NIB_TRY(set(o->config, "nib_name", json_stringn(name.p, name.n), e));
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++)
        if (rows[i].families & f->bit) NIB_TRY(out_row(o, &rows[i], e));
    if (f->bit == NOMIC) {
        static const char *const off[] = {"causal",       "qkv_proj_bias",
                                          "mlp_fc1_bias", "mlp_fc2_bias",
                                          "prenorm",      "rotary_emb_interleaved"};
        const nib_gguf_kv *n = conv_out_key(o, "context_length");
        int64_t ctx_n = n ? n->i : 2048;
        /* as nomic-embed-text has it: scaled to four times what it was trained with */
        NIB_TRY(set(o->config, "n_positions", json_integer(ctx_n == 2048 ? 8192 : ctx_n), e));
        NIB_TRY(set(o->config, "max_trained_positions", json_integer(ctx_n), e));
        NIB_TRY(set(o->config, "activation_function", json_string("swiglu"), e));
        NIB_TRY(set(o->config, "rotary_emb_fraction", json_real(1), e));
        NIB_TRY(set(o->config, "rotary_emb_scale_base", json_null(), e));
        for (size_t i = 0; i < NIB_ARRAY_LEN(off); i++)
            NIB_TRY(set(o->config, off[i], json_false(), e));
    }
    const json_t *ctx = json_object_get(o->config, "max_position_embeddings");
    if (f->bit == PHI3 && ctx) /* conv_out_rope knows better where it differs */
        NIB_TRY(set(o->config, "original_max_position_embeddings",
                    json_integer(json_integer_value(ctx)), e));
    ctx = json_object_get(o->config, "n_positions");
    if (f->bit == GPT2 && ctx)
        NIB_TRY(set(o->config, "n_ctx", json_integer(json_integer_value(ctx)), e));
    NIB_TRY(out_windows(o, e));
    NIB_TRY(out_pooling(o, e));
    return out_sampling(o, e);
}
