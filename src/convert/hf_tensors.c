/* Tensors: the rows of tensor_map.def, followed in both directions. */
#include <stdlib.h>
#include "convert/internal.h"

enum { KEEP, PAIR_Q, PAIR_K, QKV, FLIP, PLUS_ONE, STACK };
typedef struct map_row {
    unsigned families;
    const char *hf, *gguf;
    int how;
} map_row;
static const map_row rows[] = {
#define NIB_TENSOR(families, hf, gguf, how) {families, hf, gguf, how},
#define NIB_TENSOR_IGNORE(families, part)
#include "convert/tensor_map.def"
#undef NIB_TENSOR
#undef NIB_TENSOR_IGNORE
};
static const struct {
    unsigned families;
    const char *part;
} ignored[] = {
#define NIB_TENSOR(families, hf, gguf, how)
#define NIB_TENSOR_IGNORE(families, part) {families, part},
#include "convert/tensor_map.def"
#undef NIB_TENSOR
#undef NIB_TENSOR_IGNORE
};
enum { MAX_LAYERS = 4096 };

/* Matches 'name' with a pattern in which '#' is a number below MAX_LAYERS; what follows the pattern
 * is left in *rest. */
static bool match(const char *pattern, const char *name, int *layer, const char **rest) {
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*pattern != *name++) return false;
            continue;
        }
        int v = 0, digits = 0;
        while (*name >= '0' && *name <= '9' && digits++ < 5) v = v * 10 + (*name++ - '0');
        if (!digits || v >= MAX_LAYERS) return false;
        *layer = v;
    }
    *rest = name;
    return true;
}

/* The pattern with the layer's number, and what follows. */
static void fill(char *buf, size_t n, const char *prefix, const char *pattern, int layer,
                 const char *rest) {
    const char *hash = strchr(pattern, '#');
    if (hash)
        snprintf(buf, n, "%s%.*s%d%s%s", prefix, (int)(hash - pattern), pattern, layer, hash + 1,
                 rest);
    else
        snprintf(buf, n, "%s%s%s", prefix, pattern, rest);
}

static int64_t heads_of(const map_row *r, int64_t n_head, int64_t n_kv) {
    return r->how == PAIR_K ? n_kv : n_head;
}

static nib_status head_counts(int64_t *n_head, int64_t *n_kv, const nib_gguf_kv *a,
                              const nib_gguf_kv *b, nib_error *e) {
    const nib_gguf_kv *kvs[] = {a, b ? b : a};
    int64_t *out[] = {n_head, n_kv};
    for (int i = 0; i < 2; i++) {
        *out[i] = !kvs[i]                        ? 0
                  : kvs[i]->type != NIB_GGUF_ARR ? kvs[i]->i
                  : kvs[i]->arr_n > 0 && kvs[i]->arr_type != NIB_GGUF_STR
                      ? nib_gguf_arr_i64(kvs[i], 0)
                      : 0;
        if (*out[i] < 1 || *out[i] > 1 << 20)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "attention.head_count or head_count_kv is missing "
                            "or out of range");
    }
    return NIB_OK;
}

/* How the rows go over; the error says why they cannot. */
static nib_status set_order(conv_tensor *t, const map_row *r, int64_t n_head, int64_t n_kv,
                            bool back, nib_error *e) {
    int64_t n = t->n_dims == 1 ? t->ne[0] : t->ne[1], parts = 0;
    t->heads = heads_of(r, n_head, n_kv);
    switch (r->how) {
    case PAIR_Q:
    case PAIR_K:
        t->order = back ? CONV_HALVES : CONV_PAIRS;
        parts = 2;
        break;
    case QKV:
        t->order = back ? CONV_HEADS_QKV : CONV_QKV;
        parts = 3;
        break;
    case FLIP:
        if (t->n_dims == 2) t->order = CONV_TRANSPOSE;
        break;
    case PLUS_ONE: t->add = back ? -1 : 1; break;
    default: break;
    }
    if (parts && (t->n_dims > 2 || n % (t->heads * parts)))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tensor '%s' has %lld rows: expected a multiple of %lld (%lld heads)",
                        t->name, (long long)n, (long long)(t->heads * parts), (long long)t->heads);
    return NIB_OK;
}

/* ---- in ---- */

/* Names of wrapped models begin with one or more of these. */
static const char *without_prefix(const conv_family *f, const char *name) {
    static const char *const prefixes[] = {"language_model.", "model.", "bert.", "transformer.",
                                           "gpt_neox."};
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < NIB_ARRAY_LEN(prefixes); i++) {
            size_t n = strlen(prefixes[i]);
            if (strncmp(name, prefixes[i], n) != 0) continue;
            if (i > 1 && strcmp(prefixes[i], f->prefix) != 0 && f->bit != BERT) continue;
            name += n;
            again = true;
        }
    }
    return name;
}

static bool is_ignored(const conv_family *f, const char *name) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(ignored); i++)
        if (ignored[i].families & f->bit && strstr(name, ignored[i].part)) return true;
    return false;
}

/* BERT checkpoints of 2018 call a norm's weight gamma and its bias beta. */
static const char *suffix_of(const char *rest) {
    if (strcmp(rest, ".gamma") == 0) return ".weight";
    if (strcmp(rest, ".beta") == 0) return ".bias";
    return strcmp(rest, ".weight") == 0 || strcmp(rest, ".bias") == 0 ? rest : NULL;
}

static nib_status from_source(conv_tensor *t, const nib_st_tensor *s, nib_error *e) {
    if (!s->is_float)
        return nib_fail(
            e, NIB_ERR_UNSUPPORTED,
            "tensor '%s' is %s: expected F32, F16 or BF16; weights that another program "
            "quantised must be expanded by it first",
            s->name, s->format);
    if (s->n_dims < 1 || s->n_dims > 2 || s->count < 1)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tensor '%s' has %d dimensions and %lld weights: expected 1 or 2, and some",
                        s->name, s->n_dims, (long long)s->count);
    t->n_dims = s->n_dims;
    for (int d = 0; d < NIB_MAX_DIMS; d++)
        t->ne[d] = d < s->n_dims ? s->shape[s->n_dims - 1 - d] : 1;
    t->src_type = s->dtype;
    t->src = s->data;
    t->src_bytes = s->bytes;
    return NIB_OK;
}

/* One vector a head becomes the rows of one matrix. They are small: copied now. */
static nib_status stack(conv_model *m, const map_row *r, const char *name, int layer,
                        const nib_st_tensor *first, int64_t n_head, nib_error *e) {
    char buf[320], out[160];
    int64_t width = first->count;
    int64_t head = 0;
    conv_tensor t = {.n_dims = 2};
    NIB_TRY(from_source(&t, first, e));
    if (first->n_dims != 1 || width > 1 << 16)
        return nib_fail(e, NIB_ERR_FORMAT, "tensor '%s': expected a vector", first->name);
    const char *norms = strstr(name, ".norms.");
    size_t stem = (size_t)(norms - name) + strlen(".norms.");
    /* heads 0, 1, ... until one is missing; the count must then be that of q or of k and v */
    float *f = nib_arena_alloc(&m->arena, (size_t)(n_head * width) * sizeof *f);
    if (!f) return nib_fail_nomem(e, (size_t)(n_head * width) * sizeof *f, name);
    for (; head < n_head; head++) {
        snprintf(buf, sizeof buf, "%.*s%lld.weight", (int)stem, name, (long long)head);
        const nib_st_tensor *s = nib_st_find(m->st, buf);
        if (!s) break;
        if (!s->is_float || s->count != width)
            return nib_fail(e, NIB_ERR_FORMAT, "tensor '%s' differs from '%s'", buf, first->name);
        nib_dtype_get(s->dtype)->to_f32(s->data, f + head * width, width);
    }
    fill(out, sizeof out, "", r->gguf, layer, ".weight");
    t = (conv_tensor){.name = out,
                      .n_dims = 2,
                      .ne = {width, head, 1, 1},
                      .src_type = NIB_F32,
                      .src = f,
                      .src_bytes = (size_t)(head * width) * sizeof *f};
    return conv_add_tensor(m, &t, e);
}

static nib_status one_tensor(conv_model *m, const conv_hf *h, const nib_st_tensor *s,
                             int64_t n_head, int64_t n_kv, nib_error *e) {
    const char *name = without_prefix(h->family, s->name), *rest, *suffix;
    if (is_ignored(h->family, s->name)) return NIB_OK;
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        const map_row *r = &rows[i];
        int layer = -1;
        if (!(r->families & h->family->bit) || !match(r->hf + (*r->hf == '/'), name, &layer, &rest))
            continue;
        if (r->how == STACK && strncmp(rest, ".norms.", 7) == 0) {
            if (strcmp(rest, ".norms.0.weight") != 0) return NIB_OK; /* with the first one */
            return stack(m, r, s->name, layer, s, n_head, e);
        }
        if (!(suffix = suffix_of(rest))) continue;
        char out[160];
        conv_tensor t = {.name = out};
        fill(out, sizeof out, "", r->gguf, layer, suffix);
        NIB_TRY(from_source(&t, s, e));
        NIB_TRY(set_order(&t, r, n_head, n_kv, false, e));
        if (t.order == CONV_TRANSPOSE) {
            int64_t n = t.ne[0];
            t.ne[0] = t.ne[1];
            t.ne[1] = n;
        }
        return conv_add_tensor(m, &t, e);
    }
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "tensor '%.120s' is none that nib knows of architecture %s", s->name,
                    h->family->arch);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Two names of a source may become one: "model.x" beside "x". */
static nib_status check_unique(const conv_model *m, nib_error *e) {
    const char **names = nib_alloc(m->n_tensors * sizeof *names);
    if (!names) return nib_fail_nomem(e, m->n_tensors * sizeof *names, "names");
    for (size_t i = 0; i < m->n_tensors; i++) names[i] = m->tensors[i].name;
    qsort(names, m->n_tensors, sizeof *names, by_name);
    nib_status s = NIB_OK;
    for (size_t i = 1; i < m->n_tensors && s == NIB_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            s = nib_fail(e, NIB_ERR_FORMAT, "two tensors of the source become '%s'", names[i]);
    nib_free(names);
    return s;
}

nib_status conv_hf_tensors(conv_model *m, const conv_hf *h, nib_error *e) {
    char a[96], b[96];
    int64_t n_head, n_kv;
    snprintf(a, sizeof a, "%s.attention.head_count", h->family->arch);
    snprintf(b, sizeof b, "%s.attention.head_count_kv", h->family->arch);
    NIB_TRY(head_counts(&n_head, &n_kv, conv_find(m, a), conv_find(m, b), e));
    for (int64_t i = 0; i < nib_st_n_tensors(m->st); i++)
        NIB_TRY(one_tensor(m, h, nib_st_tensor_at(m->st, i), n_head, n_kv, e));
    return check_unique(m, e);
}

/* ---- out ---- */

static conv_tensor of_gguf(const nib_tensor *g) {
    conv_tensor t = {
        .n_dims = g->n_dims, .src_type = g->dtype, .src = g->data, .src_bytes = g->bytes};
    for (int d = 0; d < NIB_MAX_DIMS; d++) t.ne[d] = g->ne[d];
    return t;
}

static const map_row *row_of(const conv_hf_out *o, const char *name, int *layer,
                             const char **rest) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++)
        if (rows[i].families & o->family->bit && match(rows[i].gguf, name, layer, rest) &&
            (strcmp(*rest, ".weight") == 0 || strcmp(*rest, ".bias") == 0))
            return &rows[i];
    return NULL;
}

static nib_status add_out(const conv_hf_out *o, conv_model *m, conv_tensor *t, const map_row *r,
                          int layer, const char *rest, nib_error *e) {
    char name[200];
    bool root = *r->hf == '/';
    fill(name, sizeof name, root ? "" : o->family->prefix, r->hf + root, layer, rest);
    t->name = name;
    nib_status s = conv_add_tensor(m, t, e); /* copies the name */
    t->name = NULL;
    return s;
}

/* Rows [from, from + n) of t as a tensor of their own. */
static conv_tensor slice(const conv_tensor *t, int64_t from, int64_t n) {
    conv_tensor s = *t;
    size_t row = nib_dtype_bytes(t->src_type, t->n_dims == 1 ? 1 : t->ne[0]);
    s.ne[t->n_dims == 1 ? 0 : 1] = n;
    s.src = (const uint8_t *)t->src + (size_t)from * row;
    s.src_bytes = (size_t)n * row;
    return s;
}

/* A fused q, k, v of a family whose tensors are separate in safetensors. */
static nib_status split_qkv(const conv_hf_out *o, conv_model *m, const conv_tensor *t, int layer,
                            const char *rest, int64_t n_head, int64_t n_kv, nib_error *e) {
    static const char *const parts[] = {"attn_q", "attn_k", "attn_v"};
    int64_t n = t->n_dims == 1 ? t->ne[0] : t->ne[1], heads = n_head + 2 * n_kv, at = 0;
    if (n % heads || nib_dtype_get(t->src_type)->block_len > (t->n_dims == 1 ? 1 : t->ne[0]))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "layer %d's attn_qkv has %lld rows: expected a multiple "
                        "of %lld",
                        layer, (long long)n, (long long)heads);
    for (int i = 0; i < 3; i++) {
        char name[160];
        int64_t rows_n = n / heads * (i ? n_kv : n_head);
        snprintf(name, sizeof name, "blk.%d.%s%s", layer, parts[i], rest);
        const map_row *r = row_of(o, name, &layer, &rest);
        if (!r)
            return nib_fail(e, NIB_ERR_UNSUPPORTED, "a %s has no place for '%s'", o->family->arch,
                            name);
        conv_tensor s = slice(t, at, rows_n);
        s.name = name;
        NIB_TRY(set_order(&s, r, n_head, n_kv, true, e));
        NIB_TRY(add_out(o, m, &s, r, layer, rest, e));
        at += rows_n;
    }
    return NIB_OK;
}

static nib_status unstack(const conv_hf_out *o, conv_model *m, const conv_tensor *t,
                          const map_row *r, int layer, nib_error *e) {
    char rest[40];
    if (t->n_dims != 2 || nib_dtype_get(t->src_type)->block_len != 1)
        return nib_fail(e, NIB_ERR_FORMAT, "layer %d: the norms of heads are no matrix", layer);
    for (int64_t i = 0; i < t->ne[1]; i++) {
        conv_tensor s = slice(t, i, 1);
        s.n_dims = 1;
        snprintf(rest, sizeof rest, ".norms.%lld.weight", (long long)i);
        NIB_TRY(add_out(o, m, &s, r, layer, rest, e));
    }
    return NIB_OK;
}

static nib_status one_out(conv_hf_out *o, conv_model *m, const nib_tensor *g, int64_t n_head,
                          int64_t n_kv, nib_error *e) {
    int layer = -1;
    const char *rest;
    conv_tensor t = of_gguf(g);
    t.name = g->name;
    if (strncmp(g->name, "rope_", 5) == 0) return NIB_OK; /* in config.json */
    const map_row *r = row_of(o, g->name, &layer, &rest);
    if (!r && match("blk.#.attn_qkv", g->name, &layer, &rest))
        return split_qkv(o, m, &t, layer, rest, n_head, n_kv, e);
    if (!r)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "tensor '%.120s' has no name in safetensors that nib knows for "
                        "architecture %s",
                        g->name, o->family->arch);
    if (g->n_dims > 2)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "tensor '%.120s' has %d dimensions: expected 1 or 2", g->name, g->n_dims);
    if (r->how == STACK) return unstack(o, m, &t, r, layer, e);
    NIB_TRY(set_order(&t, r, n_head, n_kv, true, e));
    if (t.order == CONV_TRANSPOSE) {
        if (nib_dtype_get(t.src_type)->block_len != 1)
            return nib_fail(e, NIB_ERR_UNSUPPORTED,
                            "tensor '%.120s' is %s and lies transposed in safetensors: make it F16 "
                            "first (nib quantize FILE OUT f16)",
                            g->name, nib_dtype_get(t.src_type)->name);
        int64_t n = t.ne[0];
        t.ne[0] = t.ne[1];
        t.ne[1] = n;
    }
    return add_out(o, m, &t, r, layer, rest, e);
}

nib_status conv_out_tensors(conv_hf_out *o, conv_model *m, nib_error *e) {
    int64_t n_head, n_kv;
    NIB_TRY(head_counts(&n_head, &n_kv, conv_out_key(o, "attention.head_count"),
                        conv_out_key(o, "attention.head_count_kv"), e));
    for (int64_t i = 0; i < nib_gguf_n_tensors(o->g); i++)
        NIB_TRY(one_out(o, m, nib_gguf_tensor_at(o->g, i), n_head, n_kv, e));
    const nib_gguf_kv *layers = conv_out_key(o, "block_count");
    const nib_tensor *embd = nib_gguf_tensor(o->g, "token_embd.weight");
    if (!layers || !embd) return nib_fail(e, NIB_ERR_FORMAT, "no block_count or no token_embd");
    json_object_set_new(o->config, "vocab_size", json_integer(embd->ne[1]));
    json_object_set_new(o->config, "tie_word_embeddings",
                        json_boolean(!nib_gguf_tensor(o->g, "output.weight")));
    return NIB_OK;
}
