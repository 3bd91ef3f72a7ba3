/* A model as a smaller one: keys are kept, matrices get the formats of a mix. */
#include <math.h>
#include "convert/internal.h"

/* Keys of a split model speak of its parts. */
static bool is_split_key(nib_str key) {
    return nib_str_starts(key, NIB_STR("split."));
}

static nib_status gather_gguf(conv_model *m, const char *in, nib_error *e) {
    NIB_TRY(nib_gguf_open(&m->gguf, in, e));
    for (int64_t i = 0; i < nib_gguf_n_kv(m->gguf); i++) {
        const nib_gguf_kv *kv = nib_gguf_kv_at(m->gguf, i);
        if (!is_split_key(kv->key)) NIB_TRY(conv_put(m, kv, e));
    }
    if (!nib_gguf_n_tensors(m->gguf))
        return nib_fail(e, NIB_ERR_FORMAT, "'%s' holds a vocabulary but no weights", in);
    for (int64_t i = 0; i < nib_gguf_n_tensors(m->gguf); i++) {
        const nib_tensor *g = nib_gguf_tensor_at(m->gguf, i);
        conv_tensor t = {.name = g->name,
                         .n_dims = g->n_dims,
                         .src_type = g->dtype,
                         .src = g->data,
                         .src_bytes = g->bytes};
        memcpy(t.ne, g->ne, sizeof t.ne);
        NIB_TRY(conv_add_tensor(m, &t, e));
    }
    return NIB_OK;
}

/* Quantised twice is worse than once: said before it is done. */
static nib_status check_sources(const conv_model *m, const nib_quantize_params *p, nib_error *e) {
    for (size_t i = 0; i < m->n_tensors; i++) {
        const conv_tensor *t = &m->tensors[i];
        const nib_dtype_info *from = nib_dtype_get(t->src_type), *to = nib_dtype_get(t->type);
        if (!from->to_f32 || (t->type != t->src_type && !to->from_f32))
            return nib_fail(e, NIB_ERR_UNSUPPORTED, "tensor '%s': nib cannot make %s of %s",
                            t->name, to->name, from->name);
        if (from->block_len == 1 || to->block_len == 1 || t->type == t->src_type || p->requantize)
            continue;
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "tensor '%s' is %s already, and %s of it is worse than of the original: "
                        "quantise the F16 or BF16 file, or add --requantize",
                        t->name, from->name, to->name);
    }
    return NIB_OK;
}

static nib_status set_importance(conv_model *m, const nib_quantize_params *p, nib_error *e) {
    for (size_t i = 0; i < m->n_tensors && p->importance; i++) {
        conv_tensor *t = &m->tensors[i];
        int64_t n = 0;
        double sum = 0;
        if (nib_dtype_get(t->type)->block_len == 1 || t->type == t->src_type) continue;
        const float *v = p->importance(p->importance_arg, t->name, &n);
        if (!v) continue;
        if (n != t->ne[0] && n != t->ne[0] * t->ne[2])
            return nib_fail(e, NIB_ERR_FORMAT,
                            "the importance matrix has %lld values for '%s', whose rows have %lld: "
                            "it was made with another model",
                            (long long)n, t->name, (long long)t->ne[0]);
        for (int64_t k = 0; k < n; k++) {
            if (!(v[k] >= 0) || !isfinite(v[k]))
                return nib_fail(e, NIB_ERR_FORMAT,
                                "the importance matrix has a value for '%s' that is negative or "
                                "not finite, at %lld",
                                t->name, (long long)k);
            sum += (double)v[k];
        }
        if (sum <= 0) continue; /* nothing passed through */
        t->importance = v;
        t->n_importance = n;
    }
    return NIB_OK;
}

/* What was used, for whoever looks at the file later. */
static nib_status put_importance_keys(conv_model *m, const nib_quantize_params *p, nib_error *e) {
    int64_t n = 0;
    for (size_t i = 0; i < m->n_tensors; i++) n += m->tensors[i].importance != NULL;
    if (!n) return NIB_OK;
    if (p->importance_file)
        NIB_TRY(conv_put_str(m, NULL, "quantize.imatrix.file", nib_str_c(p->importance_file), e));
    return conv_put_int(m, NULL, "quantize.imatrix.entries_count", NIB_GGUF_U32, n, e);
}

static nib_status fill_report(const conv_model *m, nib_quantize_report *r, nib_error *e) {
    *r = (nib_quantize_report){0};
    nib_arena_init(&r->arena, 0);
    r->tensors = nib_arena_calloc(&r->arena, m->n_tensors, sizeof *r->tensors);
    if (!r->tensors) return nib_fail_nomem(e, m->n_tensors * sizeof *r->tensors, "a report");
    for (size_t i = 0; i < m->n_tensors; i++) {
        const conv_tensor *t = &m->tensors[i];
        nib_quantize_tensor *q = &r->tensors[i];
        *q = (nib_quantize_tensor){.name = nib_arena_strndup(&r->arena, t->name, strlen(t->name)),
                                   .n_dims = t->n_dims,
                                   .from = t->src_type,
                                   .to = t->type,
                                   .wanted = t->wanted,
                                   .bytes_before = t->src_bytes,
                                   .bytes_after = t->bytes,
                                   .important = t->importance != NULL};
        if (!q->name) return nib_fail_nomem(e, strlen(t->name), "a report");
        memcpy(q->ne, t->ne, sizeof q->ne);
        r->n_tensors++;
        r->n_params += (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
        r->bytes_before += t->src_bytes;
        r->bytes_after += t->bytes;
        r->n_fallback += t->type != t->wanted;
        r->n_important += q->important;
        r->n_requantized += t->type != t->src_type && nib_dtype_get(t->type)->block_len > 1 &&
                            nib_dtype_get(t->src_type)->block_len > 1;
    }
    return NIB_OK;
}

void nib_quantize_report_free(nib_quantize_report *r) {
    nib_arena_free(&r->arena);
    *r = (nib_quantize_report){0};
}

nib_status nib_quantize(const char *in, const char *out, const nib_quantize_params *p,
                        nib_quantize_report *report, nib_error *e) {
    conv_model m;
    conv_hf h = {0};
    nib_quantize_report made = {0};
    const conv_mix *mix;
    nib_status s;
    bool folder = nib_convert_is_hf(in);
    conv_model_init(&m);
    NIB_TRY_OUT(conv_mix_find(p->type, &mix, e));
    NIB_TRY_OUT(folder ? conv_hf_gather(&m, &h, in, NULL, e) : gather_gguf(&m, in, e));
    NIB_TRY_OUT(conv_mix_apply(&m, mix, p->rules, p->n_rules, p->importance != NULL, e));
    NIB_TRY_OUT(check_sources(&m, p, e));
    NIB_TRY_OUT(set_importance(&m, p, e));
    NIB_TRY_OUT(put_importance_keys(&m, p, e));
    NIB_TRY_OUT(fill_report(&m, &made, e));
    nib_convert_params c = {.n_threads = p->n_threads,
                            .force = p->force,
                            .progress = p->progress,
                            .progress_arg = p->progress_arg,
                            .cancel = p->cancel};
    if (out) NIB_TRY_OUT(conv_write_gguf(&m, out, &c, folder, e));
    if (report) {
        *report = made;
        made = (nib_quantize_report){0};
    }
out:
    nib_quantize_report_free(&made);
    conv_hf_close(&h);
    conv_model_free(&m);
    return s;
}
