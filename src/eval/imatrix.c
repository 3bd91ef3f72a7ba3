/* Importance matrices, collected: what a text sends into each matrix, squared and summed by column.
 *
 * An observer of the engine is shown every input (backend.h). Each thread sums its own columns, in
 * double, over tokens in their order, so the number of threads changes no bit. Matrices that share
 * an input share its sums until they are written down. */
#include <math.h>
#include <stdlib.h>
#include "eval/imatrix.h"

/* ---- the object ---- */

nib_imatrix *nib_imatrix_make(void) {
    nib_imatrix *im = nib_calloc(1, sizeof *im);
    if (!im) return NULL;
    nib_arena_init(&im->arena, 0);
    im->info.dataset = "";
    return im;
}

void nib_imatrix_free(nib_imatrix *im) {
    if (!im) return;
    nib_strmap_free(&im->index);
    nib_free(im->tensors);
    nib_arena_free(&im->arena);
    nib_free(im);
}

static nib_status bad(nib_str name, const char *what, double found, nib_error *e) {
    return nib_fail(e, NIB_ERR_FORMAT,
                    "'%.*s': expected %s that are finite and not negative, found %g",
                    (int)NIB_MIN(name.n, (size_t)100), name.p, what, found);
}

nib_status nib_imatrix_add(nib_imatrix *im, nib_str name, int64_t n, int64_t n_mat,
                           const void *sums, const void *counts, nib_error *e) {
    if (im->n == im->cap) {
        size_t cap = im->cap ? im->cap * 2 : 256;
        nib_imatrix_tensor *more = nib_realloc(im->tensors, cap * sizeof *more);
        if (!more) return nib_fail_nomem(e, cap * sizeof *more, "the list of tensors");
        im->tensors = more;
        im->cap = cap;
    }
    size_t all, bytes;
    if (n < 1 || n_mat < 1 || !nib_mul_size((size_t)n, (size_t)n_mat, &all) ||
        !nib_mul_size(all, sizeof(float), &bytes))
        return nib_fail(e, NIB_ERR_FORMAT, "'%.*s': expected columns, found %lld times %lld",
                        (int)NIB_MIN(name.n, (size_t)100), name.p, (long long)n, (long long)n_mat);
    float *s = nib_arena_alloc(&im->arena, bytes), *m = nib_arena_alloc(&im->arena, bytes);
    float *c = nib_arena_alloc(&im->arena, (size_t)n_mat * sizeof *c);
    char *copy = nib_arena_strndup(&im->arena, name.p, name.n);
    if (!s || !m || !c || !copy) return nib_fail_nomem(e, bytes, "an importance matrix");
    memcpy(s, sums, bytes);
    memcpy(c, counts, (size_t)n_mat * sizeof *c);
    for (int64_t k = 0; k < n_mat; k++) {
        if (!(c[k] >= 0 && isfinite(c[k]))) return bad(name, "counts", (double)c[k], e);
        for (int64_t i = k * n; i < (k + 1) * n; i++) {
            if (!(s[i] >= 0 && isfinite(s[i]))) return bad(name, "sums", (double)s[i], e);
            m[i] = c[k] > 0 ? s[i] / c[k] : 1;
            if (!isfinite(m[i])) return bad(name, "means", (double)m[i], e);
        }
    }
    im->tensors[im->n++] = (nib_imatrix_tensor){
        .name = copy, .n = n, .n_mat = n_mat, .sums = s, .counts = c, .means = m};
    return NIB_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const nib_imatrix_tensor *)a)->name, ((const nib_imatrix_tensor *)b)->name);
}

nib_status nib_imatrix_finish(nib_imatrix *im, nib_error *e) {
    if (!im->n)
        return nib_fail(e, NIB_ERR_FORMAT, "expected the importance of at least one matrix");
    qsort(im->tensors, im->n, sizeof *im->tensors, by_name);
    for (size_t i = 0; i < im->n; i++) {
        if (i && strcmp(im->tensors[i - 1].name, im->tensors[i].name) == 0)
            return nib_fail(e, NIB_ERR_FORMAT, "expected each matrix once, found '%.100s' twice",
                            im->tensors[i].name);
        if (!nib_strmap_set(&im->index, nib_str_c(im->tensors[i].name), (uint32_t)i))
            return nib_fail_nomem(e, im->n * sizeof(void *), "an index of matrices");
    }
    im->info.n_tensors = (int64_t)im->n;
    return NIB_OK;
}

nib_imatrix_info nib_imatrix_get_info(const nib_imatrix *im) {
    return im->info;
}
const nib_imatrix_tensor *nib_imatrix_at(const nib_imatrix *im, int64_t i) {
    return &im->tensors[i];
}
const nib_imatrix_tensor *nib_imatrix_find(const nib_imatrix *im, const char *name) {
    uint32_t i;
    return nib_strmap_get(&im->index, nib_str_c(name), &i) ? &im->tensors[i] : NULL;
}

/* ---- collecting ---- */

typedef struct column_sums {
    double *sums; /* [width]; NULL: not wanted */
    int64_t width;
    int64_t count; /* tokens seen; thread 0's, who does column 0 */
} column_sums;

static void see(void *arg, int64_t input, const float *x, int64_t n_tok, int64_t width, int64_t c0,
                int64_t c1) {
    column_sums *s = &((column_sums *)arg)[input];
    if (!s->sums) return;
    for (int64_t t = 0; t < n_tok; t++) {
        const float *row = x + t * width;
        for (int64_t i = c0; i < c1; i++) s->sums[i] += (double)row[i] * (double)row[i];
    }
    if (c0 == 0 && c1 > 0) s->count += n_tok;
}

/* Sums as floats, for every matrix that takes the input. */
static nib_status add_input(nib_imatrix *im, const nib_model_input *in, const column_sums *s,
                            float *row, nib_error *e) {
    float count = (float)s->count;
    for (int64_t i = 0; i < s->width; i++) row[i] = (float)s->sums[i];
    for (int k = 0; k < in->n_tensors; k++)
        NIB_TRY(nib_imatrix_add(im, nib_str_c(in->tensors[k]), s->width, 1, row, &count, e));
    return NIB_OK;
}

static nib_status run_chunks(nib_engine *en, const nib_chunks *c, const nib_eval_params *p,
                             nib_error *e) {
    size_t width = (size_t)nib_model_get_info(nib_engine_model(en))->n_embd, bytes;
    int32_t *ids = nib_alloc((size_t)c->n_ctx * sizeof *ids);
    float *hidden = NULL;
    nib_status s = NIB_OK;
    if (nib_mul_size((size_t)c->n_ctx * sizeof *hidden, width, &bytes)) hidden = nib_alloc(bytes);
    if (!ids || !hidden) s = nib_fail_nomem(e, bytes, "hidden states");
    for (int64_t i = 0; i < c->n && s == NIB_OK; i++) {
        nib_chunk_get(c, i, ids);
        s = nib_engine_hidden(en, ids, c->n_ctx, hidden, e);
        if (s == NIB_OK && p && p->progress)
            p->progress(p->progress_arg, (uint64_t)((i + 1) * c->n_ctx),
                        (uint64_t)(c->n * c->n_ctx));
    }
    nib_free(ids);
    nib_free(hidden);
    return s;
}

nib_status nib_imatrix_collect(nib_imatrix **out, nib_engine *en, const char *text, size_t len,
                               const char *dataset, bool head, const nib_eval_params *p,
                               nib_error *e) {
    const nib_model *m = nib_engine_model(en);
    int64_t n = nib_model_n_inputs(m), widest = 0;
    column_sums *sums = nib_calloc((size_t)n, sizeof *sums);
    nib_observer observer = {see, sums};
    nib_imatrix *im = nib_imatrix_make();
    nib_chunks chunks = {0};
    float *row = NULL;
    nib_status s = NIB_OK;
    if (!sums || !im) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)n * sizeof *sums, "sums"));
    NIB_TRY_OUT(nib_chunks_make(&chunks, m, text, len, p, e));
    for (int64_t i = 0; i < n; i++) {
        nib_model_input in = nib_model_get_input(m, i);
        if (!in.n_tensors || (i == n - 1 && !head)) continue;
        sums[i].width = in.width;
        widest = NIB_MAX(widest, in.width);
        sums[i].sums = nib_calloc((size_t)in.width, sizeof *sums[i].sums);
        if (!sums[i].sums) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)in.width * 8, "sums"));
    }
    nib_engine_observe(en, &observer);
    s = run_chunks(en, &chunks, p, e);
    nib_engine_observe(en, NULL);
    if (s != NIB_OK) goto out;
    row = nib_alloc((size_t)widest * sizeof *row);
    im->info.n_chunks = chunks.n;
    im->info.n_ctx = chunks.n_ctx;
    im->info.dataset = nib_arena_strndup(&im->arena, dataset, strlen(dataset));
    if (!row || !im->info.dataset) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)widest * 4, "sums"));
    for (int64_t i = 0; i < n; i++) {
        nib_model_input in = nib_model_get_input(m, i);
        if (sums[i].sums) NIB_TRY_OUT(add_input(im, &in, &sums[i], row, e));
    }
    NIB_TRY_OUT(nib_imatrix_finish(im, e));
    *out = im;
    im = NULL;
out:
    for (int64_t i = 0; sums && i < n; i++) nib_free(sums[i].sums);
    nib_free(sums);
    nib_free(row);
    nib_chunks_free(&chunks);
    nib_imatrix_free(im);
    return s;
}
