/* Which format each tensor gets: the rows of quant_mixes.def, the user's own rules, and what
 * happens where a row does not fill a format's blocks. */
#include <ctype.h>
#include <regex.h>
#include <stdlib.h>
#include "convert/internal.h"

enum { OTHER, V = 1, DOWN, OUT, EMBD, OUTPUT };
enum { ALL = 1, MORE, EIGHTH, SIXTEENTH, FIRST_2, FIRST_4, GQA, PLAIN_EIGHTH, IMATRIX_EIGHTH };
struct conv_mix {
    const char *name;
    int file_type;
    nib_dtype base;
    struct {
        int part, when;
        nib_dtype type;
    } rules[6];
};
static const conv_mix mixes[] = {
#define NIB_MIX(name, id, base, ...) {name, id, NIB_##base, {__VA_ARGS__}},
#include "convert/quant_mixes.def"
#undef NIB_MIX
};

const char *conv_mix_name(const conv_mix *mix) {
    return mix->name;
}

const char *nib_quantize_type_at(size_t i) {
    return i < NIB_ARRAY_LEN(mixes) ? mixes[i].name : NULL;
}

nib_status conv_mix_find(const char *name, const conv_mix **out, nib_error *e) {
    const char *names[NIB_ARRAY_LEN(mixes)];
    char lower[32];
    size_t n = 0;
    for (; name[n] && n + 1 < sizeof lower; n++)
        lower[n] = name[n] == '-' ? '_' : (char)tolower((unsigned char)name[n]);
    lower[n] = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(mixes); i++) {
        names[i] = mixes[i].name;
        bool medium = strncmp(mixes[i].name, lower, n) == 0 && strcmp(mixes[i].name + n, "_m") == 0;
        if (strcmp(mixes[i].name, lower) != 0 && !medium) continue; /* "q4_k" is "q4_k_m" */
        *out = &mixes[i];
        return NIB_OK;
    }
    const char *near = nib_str_nearest(lower, names, NIB_ARRAY_LEN(mixes));
    nib_buf all = {0};
    for (size_t i = 0; i < NIB_ARRAY_LEN(mixes); i++)
        nib_buf_printf(&all, "%s%s", i ? " " : "", mixes[i].name);
    nib_fail(e, NIB_ERR_ARGUMENT, "type '%.40s' is not known%s%s%s; there are: %s", name,
             near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "",
             all.data ? all.data : "");
    nib_buf_free(&all);
    return NIB_ERR_ARGUMENT;
}

/* ---- a tensor's part, and its layer ---- */

static int part_of(const char *name, int *layer) {
    static const struct {
        const char *name;
        int part;
    } parts[] = {{"attn_v.weight", V},
                 {"attn_qkv.weight", V},
                 {"ffn_down.weight", DOWN},
                 {"ffn_down_exps.weight", DOWN},
                 {"attn_output.weight", OUT}};
    int end = 0;
    *layer = -1;
    if (strcmp(name, "output.weight") == 0) return OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0) return EMBD;
    if (sscanf(name, "blk.%4d.%n", layer, &end) < 1 || !end) return OTHER;
    for (size_t i = 0; i < NIB_ARRAY_LEN(parts); i++)
        if (strcmp(name + end, parts[i].name) == 0) return parts[i].part;
    return OTHER;
}

/* Matrices that stay as they are in every mix. */
static bool stays(const conv_tensor *t) {
    size_t n = strlen(t->name);
    static const char *const parts[] = {"_norm.weight", "ffn_gate_inp.weight", "position_embd",
                                        "token_types", "rope_f"};
    if (t->n_dims < 2 || n < 6 || strcmp(t->name + n - 6, "weight") != 0) return true;
    for (size_t i = 0; i < NIB_ARRAY_LEN(parts); i++)
        if (strstr(t->name, parts[i])) return true;
    return false;
}

typedef struct model_facts {
    int64_t n_layer, n_gqa;
    bool tied, imatrix, is_70b;
} model_facts;

static int64_t key_int(const conv_model *m, const char *arch, const char *key) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    const nib_gguf_kv *kv = conv_find(m, name);
    if (!kv) return 0;
    if (kv->type == NIB_GGUF_ARR)
        return kv->arr_n > 0 && kv->arr_type != NIB_GGUF_STR ? nib_gguf_arr_i64(kv, 0) : 0;
    return kv->type == NIB_GGUF_STR ? 0 : kv->i;
}

static model_facts find_facts(const conv_model *m, bool imatrix) {
    model_facts f = {.tied = true, .imatrix = imatrix};
    const nib_gguf_kv *kv = conv_find(m, "general.architecture");
    char arch[64] = "";
    if (kv && kv->type == NIB_GGUF_STR)
        snprintf(arch, sizeof arch, "%.*s", (int)NIB_MIN(kv->str.n, (size_t)63), kv->str.p);
    int64_t heads = key_int(m, arch, "attention.head_count"),
            n_kv = key_int(m, arch, "attention.head_count_kv");
    f.n_layer = key_int(m, arch, "block_count");
    f.n_gqa = n_kv > 0 ? heads / n_kv : 1;
    f.is_70b = strcmp(arch, "llama") == 0 && f.n_layer == 80 && heads != n_kv;
    for (size_t i = 0; i < m->n_tensors; i++)
        f.tied &= strcmp(m->tensors[i].name, "output.weight") != 0;
    return f;
}

static bool applies(int when, int64_t layer, const model_facts *f) {
    int64_t n = f->n_layer;
    switch (when) {
    case ALL: return true;
    case MORE: return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    case EIGHTH: return layer < n / 8;
    case SIXTEENTH: return layer < n / 16;
    case FIRST_2: return layer < 2;
    case FIRST_4: return layer < 4;
    case GQA: return f->n_gqa >= 4;
    case PLAIN_EIGHTH: return !f->imatrix && layer < n / 8;
    case IMATRIX_EIGHTH: return f->imatrix && layer < n / 8;
    default: return false;
    }
}

static nib_dtype wanted_of(const conv_mix *mix, const conv_tensor *t, const model_facts *f) {
    const nib_dtype_info *base = nib_dtype_get(mix->base);
    int layer, part = part_of(t->name, &layer);
    if (base->block_len == 1) return mix->base;
    if (part == OUTPUT || (part == EMBD && f->tied)) {
        bool eight = mix->base == NIB_Q8_0 || mix->base == NIB_MXFP4 || t->ne[0] % base->block_len;
        return eight ? NIB_Q8_0 : NIB_Q6_K;
    }
    nib_dtype type = mix->base;
    for (size_t i = 0; i < NIB_ARRAY_LEN(mix->rules) && mix->rules[i].part; i++) {
        if (mix->rules[i].part != part || !applies(mix->rules[i].when, layer, f)) continue;
        type = mix->rules[i].type;
        break;
    }
    /* eight heads share one attn_v there: it is small, and worth it */
    if (part == V && f->is_70b && (type == NIB_Q3_K || type == NIB_Q4_K)) type = NIB_Q5_K;
    return type;
}

/* A format of the same kind with blocks of 32, where rows are no multiple of 256; F16 where they
 * are not even of 32. */
static nib_dtype fallback(nib_dtype t) {
    switch (t) {
    case NIB_Q2_K:
    case NIB_Q3_K: return NIB_Q4_0;
    case NIB_IQ4_XS: return NIB_IQ4_NL;
    case NIB_Q4_K: return NIB_Q5_0;
    case NIB_Q5_K: return NIB_Q5_1;
    case NIB_Q6_K: return NIB_Q8_0;
    default: return NIB_F16;
    }
}

/* ---- the user's rules ---- */

typedef struct type_rule {
    regex_t re;
    nib_dtype type;
    bool used;
} type_rule;

static nib_status compile_rule(type_rule *r, const char *text, nib_error *e) {
    const char *eq = strrchr(text, '=');
    if (!eq || eq == text)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected PATTERN=TYPE, such as attn_v=q8_0, found "
                        "'%.60s'",
                        text);
    if (!nib_dtype_parse(eq + 1, &r->type) || !nib_dtype_get(r->type)->from_f32)
        return nib_fail(
            e, NIB_ERR_ARGUMENT,
            "'%.60s': '%.20s' is no format of tensors that nib writes: expected one such "
            "as q8_0, q6_k, q4_k or f16",
            text, eq + 1);
    char *pattern = nib_strndup(text, (size_t)(eq - text));
    if (!pattern) return nib_fail_nomem(e, strlen(text), "a pattern");
    int bad = regcomp(&r->re, pattern, REG_EXTENDED | REG_NOSUB);
    nib_free(pattern);
    if (!bad) return NIB_OK;
    char why[120];
    regerror(bad, &r->re, why, sizeof why);
    return nib_fail(e, NIB_ERR_ARGUMENT, "'%.60s': the pattern is no regular expression: %s", text,
                    why);
}

static nib_status compile_rules(type_rule **out, const char *const *texts, size_t n, nib_error *e) {
    type_rule *r = nib_calloc(n, sizeof *r);
    if (!r) return nib_fail_nomem(e, n * sizeof *r, "rules");
    for (size_t i = 0; i < n; i++) {
        nib_status s = compile_rule(&r[i], texts[i], e);
        if (s == NIB_OK) continue;
        while (i-- > 0) regfree(&r[i].re);
        nib_free(r);
        return s;
    }
    *out = r;
    return NIB_OK;
}

static bool ruled(type_rule *r, size_t n, conv_tensor *t) {
    for (size_t i = 0; i < n; i++) {
        if (regexec(&r[i].re, t->name, 0, NULL, 0) != 0) continue;
        r[i].used = true;
        t->wanted = r[i].type;
        return true;
    }
    return false;
}

nib_status conv_mix_apply(conv_model *m, const conv_mix *mix, const char *const *rules,
                          size_t n_rules, bool imatrix, nib_error *e) {
    model_facts f = find_facts(m, imatrix);
    type_rule *r = NULL;
    nib_status s = NIB_OK;
    NIB_TRY(compile_rules(&r, rules, n_rules, e));
    for (size_t i = 0; i < m->n_tensors && s == NIB_OK; i++) {
        conv_tensor *t = &m->tensors[i];
        if (stays(t))
            t->wanted = m->gguf && t->order != CONV_TRANSPOSE ? t->src_type : NIB_F32;
        else if (!ruled(r, n_rules, t))
            t->wanted = wanted_of(mix, t, &f);
        if (conv_set_type(t, t->wanted) || conv_set_type(t, fallback(t->wanted)) ||
            conv_set_type(t, NIB_F16))
            continue;
        s = nib_fail(e, NIB_ERR_FORMAT, "tensor '%s' is too large", t->name);
    }
    for (size_t i = 0; i < n_rules; i++) {
        if (!r[i].used && s == NIB_OK)
            s = nib_fail(e, NIB_ERR_ARGUMENT, "'%.60s' matches no matrix of this model", rules[i]);
        regfree(&r[i].re);
    }
    nib_free(r);
    if (s != NIB_OK) return s;
    NIB_TRY(conv_put_int(m, NULL, "general.quantization_version", NIB_GGUF_U32, 2, e));
    return conv_put_int(m, NULL, "general.file_type", NIB_GGUF_U32, mix->file_type, e);
}
