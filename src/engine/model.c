/* A model: the mapped file, its description, its weights in kernel form, its tokenizer. */
#include <stdlib.h>
#include "engine/internal.h"

/* ---- what it is called ---- */

/* A name from a file may hold anything: what is shown of it is one line of at most 200 bytes of
 * UTF-8. */
static char *clean_name(nib_arena *a, nib_str name) {
    char out[200];
    size_t n = 0;
    for (size_t i = 0; i < name.n && n + 4 < sizeof out;) {
        int32_t cp;
        i += nib_utf8_decode(name.p + i, name.n - i, &cp);
        if (cp >= 0 && (cp < 0x20 || (cp >= 0x7f && cp <= 0x9f)))
            continue; /* would steer a terminal */
        n += nib_utf8_encode(cp, out + n);
    }
    return nib_arena_strndup(a, out, n);
}

static nib_status set_name(nib_model *m, const char *path, nib_error *e) {
    nib_str name;
    nib_gguf *g = m->gguf;
    if (!nib_gguf_find(g, "general.name") ||
        nib_gguf_str(g, "general.name", &name, NULL) != NIB_OK || !name.n) {
        const char *slash = strrchr(path, '/');
        name = nib_str_c(slash ? slash + 1 : path);
    }
    m->info.path = nib_arena_strndup(&m->arena, path, strlen(path));
    m->info.name = clean_name(&m->arena, name);
    return m->info.path && m->info.name ? NIB_OK : nib_fail_nomem(e, name.n, "the model's name");
}

/* What the file says it is, else the format most weights have. */
void nib_model_quant(const nib_gguf *g, char out[32]) {
    static const struct {
        int id;
        const char *name;
    } types[] = {/* general.file_type, as GGUF numbers them */
                 {0, "F32"},      {1, "F16"},      {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},
                 {8, "Q5_0"},     {9, "Q5_1"},     {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"},
                 {13, "Q3_K_L"},  {14, "Q4_K_S"},  {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"},
                 {18, "Q6_K"},    {19, "IQ2_XXS"}, {20, "IQ2_XS"}, {21, "Q2_K_S"}, {22, "IQ3_XS"},
                 {23, "IQ3_XXS"}, {24, "IQ1_S"},   {25, "IQ4_NL"}, {26, "IQ3_S"},  {27, "IQ3_M"},
                 {28, "IQ2_S"},   {29, "IQ2_M"},   {30, "IQ4_XS"}, {31, "IQ1_M"},  {32, "BF16"},
                 {36, "TQ1_0"},   {37, "TQ2_0"},   {38, "MXFP4"}};
    uint64_t by_type[256] = {0}, most = 0;
    const char *main_type = "none";
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        uint64_t *sum = &by_type[(unsigned)t->dtype & 255];
        if (t->n_dims > 1) *sum += t->bytes;
        if (*sum > most) most = *sum, main_type = nib_dtype_get(t->dtype)->name;
    }
    int64_t id;
    if (nib_gguf_i64(g, "general.file_type", 0, 1023, &id, NULL) == NIB_OK)
        for (size_t i = 0; i < NIB_ARRAY_LEN(types); i++)
            /* writers that leave the key at 0 or 1 while quantising exist: believe the weights then
             */
            if (types[i].id == id && (id > 1 || strcmp(types[i].name, main_type) == 0))
                main_type = types[i].name;
    snprintf(out, 32, "%s", main_type);
}

static void set_info(nib_model *m) {
    nib_model_info *info = &m->info;
    const nib_desc *d = &m->desc;
    info->file_bytes = nib_gguf_file_bytes(m->gguf);
    for (int64_t i = 0; i < nib_gguf_n_tensors(m->gguf); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(m->gguf, i);
        info->n_params += (uint64_t)nib_tensor_count(t);
        info->weight_bytes += t->bytes;
    }
    info->arch = d->arch;
    info->n_ctx_train = d->n_ctx_train;
    info->n_embd = d->n_embd;
    info->n_layer = d->n_layer;
    info->n_head = d->n_head;
    info->n_head_kv = d->n_kv;
    info->head_dim = d->d;
    info->n_ff = d->n_ff;
    info->n_vocab = d->n_vocab;
    info->causal = d->causal;
    info->has_weights = d->n_layer > 0;
    info->chat_template = nib_tokenizer_get_info(m->tokenizer)->chat_template;
    nib_model_quant(m->gguf, info->quant);
}

/* ---- opening ---- */

typedef struct load {
    nib_model *m;
    const nib_model_params *p;
    uint64_t done, total;
} load;

static bool loaded(void *arg, const nib_upload *u, const void *raw, size_t raw_bytes) {
    load *l = arg;
    if (u->moved) nib_gguf_drop(l->m->gguf, raw, raw_bytes); /* never held twice */
    l->done += raw_bytes;
    return !l->p->progress || l->p->progress(l->p->progress_arg, l->done, l->total);
}

nib_status nib_model_load(nib_model *m, const nib_model_params *params, nib_error *e) {
    const nib_model_params none = {0}, *p = params ? params : &none;
    if (m->loaded || !m->desc.n_layer) return NIB_OK;
    nib_backend *be;
    NIB_TRY(nib_backend_new(&be, p->n_threads, e));
    load l = {m, p, 0, 0};
    for (int64_t i = 0; i < m->n_uploads; i++)
        l.total += (uint64_t)m->uploads[i].mat->stride * (uint64_t)m->uploads[i].mat->n;
    nib_status s = nib_backend_upload(be, m->uploads, m->n_uploads, p->f32, loaded, &l, e);
    nib_backend_free(be);
    if (s != NIB_OK) return s;
    /* What was read to get here, small tensors and the keys with their vocabulary, is of no use
     * any more; rows that stay in the file come back as they are looked up. */
    nib_gguf_drop_all(m->gguf);
    m->loaded = true;
    m->f32 = p->f32;
    if (m->desc.tied) m->desc.tok_embd = m->desc.head.w; /* one table, looked up and multiplied */
    return NIB_OK;
}

static nib_pooling pooling_of(const nib_model *m) {
    int64_t v;
    char key[96];
    snprintf(key, sizeof key, "%s.pooling_type", m->desc.arch ? m->desc.arch : "");
    if (nib_gguf_i64(m->gguf, key, 0, 4, &v, NULL) != NIB_OK) return NIB_POOL_MEAN;
    return v == 2 ? NIB_POOL_CLS : v == 3 ? NIB_POOL_LAST : NIB_POOL_MEAN;
}

static void retype(nib_model *m, const nib_model_params *p) {
    for (int64_t i = 0; i < m->n_uploads && p->retype; i++) {
        nib_upload *u = &m->uploads[i];
        nib_dtype t;
        if (p->retype(p->retype_arg, u->name, &t) && nib_upload_can(u, t)) u->as = t;
    }
    if (p->retype && p->retyped_as)
        snprintf(m->info.quant, sizeof m->info.quant, "%s", p->retyped_as);
}

nib_status nib_model_open(nib_model **out, const char *path, const nib_model_params *params,
                          nib_error *e) {
    nib_model_params p = params ? *params : (nib_model_params){0};
    nib_model *m = nib_calloc(1, sizeof *m);
    if (!m) return nib_fail_nomem(e, sizeof *m, "the model");
    atomic_init(&m->refs, 1);
    nib_arena_init(&m->arena, (size_t)4 << 30);
    nib_reader r = {0};
    nib_status s;
    NIB_TRY_OUT(nib_gguf_open(&m->gguf, path, e));
    NIB_TRY_OUT(set_name(m, path, e));
    bool weights = !p.vocab_only && nib_gguf_n_tensors(m->gguf) > 0;
    if (!weights && !p.vocab_only) {
        s = nib_fail(e, NIB_ERR_FORMAT,
                     "'%s' holds a vocabulary but no weights: it can tokenise, not run", path);
        goto out;
    }
    if (weights && (s = nib_desc_read(&m->desc, &r, m->gguf, &m->arena, e)) != NIB_OK) {
        nib_fail_in(e, s, "'%s'", path);
        goto out;
    }
    if ((s = nib_tokenizer_from_gguf(&m->tokenizer, m->gguf, e)) != NIB_OK) {
        nib_fail_in(e, s, "'%s'", path);
        goto out;
    }
    set_info(m);
    m->pooling = pooling_of(m);
    m->uploads = r.uploads;
    m->n_uploads = r.n_uploads;
    retype(m, &p);
    if (!p.plan_only) NIB_TRY_OUT(nib_model_load(m, &p, e));
    *out = m;
    return NIB_OK;
out:
    nib_model_release(m);
    return s;
}

nib_model *nib_model_retain(nib_model *m) {
    atomic_fetch_add(&m->refs, 1);
    return m;
}

void nib_model_release(nib_model *m) {
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    for (int64_t i = 0; i < m->n_uploads; i++) nib_upload_free(&m->uploads[i]);
    nib_tokenizer_free(m->tokenizer);
    nib_gguf_close(m->gguf);
    nib_arena_free(&m->arena);
    nib_free(m);
    nib_alloc_trim();
}

const nib_model_info *nib_model_get_info(const nib_model *m) {
    return &m->info;
}
const nib_gguf *nib_model_gguf(const nib_model *m) {
    return m->gguf;
}
const nib_tokenizer *nib_model_tokenizer(const nib_model *m) {
    return m->tokenizer;
}

uint64_t nib_model_kv_bytes(const nib_model *m, nib_kv_type t, int64_t n_ctx) {
    if (!m->desc.n_layer || n_ctx <= 0) return 0;
    uint64_t pages = ((uint64_t)n_ctx + NIB_PAGE - 1) / NIB_PAGE;
    return pages * nib_decoder_page_bytes(&m->desc, t);
}

int64_t nib_model_n_inputs(const nib_model *m) {
    return (int64_t)m->desc.n_layer * NIB_INPUTS + 1;
}

nib_model_input nib_model_get_input(const nib_model *m, int64_t i) {
    const nib_desc *d = &m->desc;
    int64_t layer = i / NIB_INPUTS;
    const nib_linear *all[3] = {layer < d->n_layer ? NULL : &d->head};
    if (layer < d->n_layer) {
        const nib_layer *l = &d->layers[layer];
        switch ((nib_input_kind)(i % NIB_INPUTS)) {
        case NIB_INPUT_ATTN: all[0] = &l->q, all[1] = &l->k, all[2] = &l->v; break;
        case NIB_INPUT_ATTN_OUT: all[0] = &l->o; break;
        case NIB_INPUT_FFN: all[0] = &l->up, all[1] = &l->gate; break;
        case NIB_INPUT_FFN_OUT: all[0] = &l->down; break;
        case NIB_INPUTS: break;
        }
    }
    nib_model_input in = {0};
    for (int k = 0; k < 3 && all[k]; k++) {
        if (!all[k]->w.data || (in.n_tensors && in.tensors[in.n_tensors - 1] == all[k]->name))
            continue;
        in.tensors[in.n_tensors++] = all[k]->name;
        in.width = all[k]->w.k;
    }
    return in;
}

nib_sample_params nib_model_sampling(const nib_model *m) {
    nib_sample_params p = nib_sample_defaults();
    /* what newer converters take over from generation_config.json */
    static const struct {
        const char *key;
        size_t at;
        bool integer;
    } rows[] = {
        {"general.sampling.temp", offsetof(nib_sample_params, temperature), false},
        {"general.sampling.top_k", offsetof(nib_sample_params, top_k), true},
        {"general.sampling.top_p", offsetof(nib_sample_params, top_p), false},
        {"general.sampling.min_p", offsetof(nib_sample_params, min_p), false},
        {"general.sampling.penalty_repeat", offsetof(nib_sample_params, repeat_penalty), false},
        {"general.sampling.penalty_last_n", offsetof(nib_sample_params, penalty_window), true}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        float f;
        int64_t n;
        if (rows[i].integer) {
            if (nib_gguf_i64(m->gguf, rows[i].key, -1, INT32_MAX, &n, NULL) == NIB_OK)
                *(int32_t *)(void *)((char *)&p + rows[i].at) = (int32_t)n;
        } else if (nib_gguf_f32(m->gguf, rows[i].key, &f, NULL) == NIB_OK) {
            *(float *)(void *)((char *)&p + rows[i].at) = f;
        }
    }
    return p;
}
