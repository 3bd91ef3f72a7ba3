/* What is to be written: keys and tensors, gathered before anything is. */
#include "convert/internal.h"

void conv_model_init(conv_model *m) {
    *m = (conv_model){0};
    nib_arena_init(&m->arena, (size_t)4 << 30);
}

void conv_model_free(conv_model *m) {
    nib_free(m->kvs);
    nib_free(m->tensors);
    nib_gguf_close(m->gguf);
    nib_st_close(m->st);
    nib_arena_free(&m->arena);
}

/* Room for one more in a growing array. */
static bool grow(void **p, size_t n, size_t *cap, size_t each) {
    if (n < *cap) return true;
    size_t fresh = *cap ? *cap * 2 : 64;
    void *q = nib_realloc(*p, fresh * each);
    if (!q) return false;
    *p = q;
    *cap = fresh;
    return true;
}

const nib_gguf_kv *conv_find(const conv_model *m, const char *key) {
    for (size_t i = 0; i < m->n_kv; i++)
        if (nib_str_eq_c(m->kvs[i].key, key)) return &m->kvs[i];
    return NULL;
}

nib_status conv_put(conv_model *m, const nib_gguf_kv *kv, nib_error *e) {
    for (size_t i = 0; i < m->n_kv; i++) {
        if (!nib_str_eq(m->kvs[i].key, kv->key)) continue;
        nib_str key = m->kvs[i].key;
        m->kvs[i] = *kv;
        m->kvs[i].key = key;
        return NIB_OK;
    }
    void *p = m->kvs;
    char *key = nib_arena_strndup(&m->arena, kv->key.p, kv->key.n);
    if (!key || !grow(&p, m->n_kv, &m->cap_kv, sizeof *m->kvs))
        return nib_fail_nomem(e, sizeof *m->kvs, "a key");
    m->kvs = p;
    m->kvs[m->n_kv] = *kv;
    m->kvs[m->n_kv++].key = (nib_str){key, kv->key.n};
    return NIB_OK;
}

/* "<arch>.<key>" in buf. */
static nib_str key_name(char buf[160], const char *arch, const char *key) {
    snprintf(buf, 160, "%s%s%s", arch ? arch : "", arch ? "." : "", key);
    return nib_str_c(buf);
}

nib_status conv_put_int(conv_model *m, const char *arch, const char *key, nib_gguf_type t,
                        int64_t v, nib_error *e) {
    char buf[160];
    return conv_put(m, &(nib_gguf_kv){.key = key_name(buf, arch, key), .type = t, .i = v}, e);
}
nib_status conv_put_f32(conv_model *m, const char *arch, const char *key, double v, nib_error *e) {
    char buf[160];
    return conv_put(
        m, &(nib_gguf_kv){.key = key_name(buf, arch, key), .type = NIB_GGUF_F32, .f = v}, e);
}
nib_status conv_put_str(conv_model *m, const char *arch, const char *key, nib_str v, nib_error *e) {
    char buf[160];
    nib_str copy = {nib_arena_strndup(&m->arena, v.n ? v.p : "", v.n), v.n};
    if (!copy.p) return nib_fail_nomem(e, v.n, key);
    return conv_put(
        m, &(nib_gguf_kv){.key = key_name(buf, arch, key), .type = NIB_GGUF_STR, .str = copy}, e);
}

nib_status conv_add_tensor(conv_model *m, const conv_tensor *t, nib_error *e) {
    void *p = m->tensors;
    char *name = nib_arena_strndup(&m->arena, t->name, strlen(t->name));
    if (!name || !grow(&p, m->n_tensors, &m->cap_tensors, sizeof *m->tensors))
        return nib_fail_nomem(e, sizeof *m->tensors, "a tensor");
    m->tensors = p;
    m->tensors[m->n_tensors] = *t;
    m->tensors[m->n_tensors++].name = name;
    return NIB_OK;
}

bool conv_set_type(conv_tensor *t, nib_dtype type) {
    int64_t rows = t->ne[1] * t->ne[2] * t->ne[3];
    size_t row = nib_dtype_bytes(type, t->ne[0]), bytes;
    if (!row || !nib_mul_size(row, (size_t)rows, &bytes)) return false;
    t->type = type;
    t->bytes = bytes;
    return true;
}

void conv_result(const conv_model *m, nib_convert_result *out) {
    uint64_t bytes[256] = {0}, most = 0;
    *out = (nib_convert_result){.n_tensors = m->n_tensors};
    snprintf(out->type, sizeof out->type, "F32");
    for (size_t i = 0; i < m->n_tensors; i++) {
        const conv_tensor *t = &m->tensors[i];
        out->bytes += t->bytes;
        out->n_params += (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
        uint64_t *sum = &bytes[(unsigned)t->type & 255];
        *sum += t->bytes;
        if (*sum <= most) continue;
        most = *sum;
        snprintf(out->type, sizeof out->type, "%s", nib_dtype_get(t->type)->name);
    }
}
