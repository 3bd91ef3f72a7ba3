/* Importance matrices in files, as llama.cpp's tools write and read them.
 *
 * GGUF: general.type "imatrix"; imatrix.datasets (strings), .chunk_count, .chunk_size (u32); for
 * each matrix NAME two F32 tensors, NAME.in_sum2 [n, n_mat] and NAME.counts [1, n_mat].
 * Formerly (.dat), little-endian: i32 entries; each i32 length, the name, i32 calls, i32 values,
 * f32 values (the means times calls); then, perhaps, i32 chunks, i32 length and name of the
 * dataset. Everything read is hostile. */
#include "eval/imatrix.h"

enum { MAX_NAME = 1024 };
static const char sums_suffix[] = ".in_sum2", counts_suffix[] = ".counts";

/* ---- writing ---- */

static nib_status declare(nib_gguf_writer *w, const char *name, const char *suffix, int64_t n,
                          int64_t n_mat, nib_error *e) {
    nib_buf full = {.max = 1 << 16};
    nib_buf_printf(&full, "%s%s", name, suffix);
    nib_tensor t = {.name = full.data, .dtype = NIB_F32, .n_dims = 2, .ne = {n, n_mat, 1, 1}};
    nib_status s = full.failed ? nib_fail_nomem(e, full.len, "a name") : nib_gguf_declare(w, &t, e);
    nib_buf_free(&full);
    return s;
}

nib_status nib_imatrix_write(const nib_imatrix *im, const char *path, nib_error *e) {
    nib_gguf_writer *w;
    NIB_TRY(nib_gguf_writer_new(&w, path, e));
    nib_status s;
    nib_str dataset = nib_str_c(im->info.dataset);
    nib_gguf_kv datasets = {.key = NIB_STR("imatrix.datasets"),
                            .type = NIB_GGUF_ARR,
                            .arr_type = NIB_GGUF_STR,
                            .arr_n = 1,
                            .arr_str = &dataset};
    NIB_TRY_OUT(nib_gguf_write_str(w, "general.type", NIB_STR("imatrix"), e));
    NIB_TRY_OUT(nib_gguf_write_kv(w, &datasets, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "imatrix.chunk_count", NIB_GGUF_U32, im->info.n_chunks, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "imatrix.chunk_size", NIB_GGUF_U32, im->info.n_ctx, e));
    for (size_t i = 0; i < im->n; i++) {
        const nib_imatrix_tensor *t = &im->tensors[i];
        NIB_TRY_OUT(declare(w, t->name, sums_suffix, t->n, t->n_mat, e));
        NIB_TRY_OUT(declare(w, t->name, counts_suffix, 1, t->n_mat, e));
    }
    NIB_TRY_OUT(nib_gguf_begin(w, e));
    for (size_t i = 0; i < im->n; i++) {
        const nib_imatrix_tensor *t = &im->tensors[i];
        size_t n_mat = (size_t)t->n_mat, all = n_mat * (size_t)t->n;
        NIB_TRY_OUT(nib_gguf_write_data(w, t->sums, all * sizeof *t->sums, e));
        NIB_TRY_OUT(nib_gguf_write_data(w, t->counts, n_mat * sizeof *t->counts, e));
    }
    return nib_gguf_commit(w, e);
out:
    nib_gguf_writer_abort(w);
    return s;
}

/* ---- reading GGUF ---- */

/* The name of the matrix whose sums t holds, or NULL. */
static nib_str matrix_of(const nib_tensor *t) {
    size_t n = strlen(t->name), end = sizeof sums_suffix - 1;
    if (n <= end || strcmp(t->name + n - end, sums_suffix) != 0) return (nib_str){0};
    return (nib_str){t->name, n - end};
}

static nib_status read_sums(nib_imatrix *im, const nib_gguf *g, const nib_tensor *t, nib_str name,
                            nib_error *e) {
    char counts_name[MAX_NAME + sizeof counts_suffix];
    if (name.n > MAX_NAME)
        return nib_fail(e, NIB_ERR_LIMIT, "'%.100s': expected a name of at most %d bytes", t->name,
                        MAX_NAME);
    snprintf(counts_name, sizeof counts_name, "%.*s%s", (int)name.n, name.p, counts_suffix);
    const nib_tensor *c = nib_gguf_tensor(g, counts_name);
    if (!c) return nib_fail(e, NIB_ERR_FORMAT, "expected '%.200s', found none", counts_name);
    int64_t n_mat = nib_tensor_count(t) / NIB_MAX(t->ne[0], 1);
    if (t->dtype != NIB_F32 || c->dtype != NIB_F32 || nib_tensor_count(c) != n_mat)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%.200s': expected F32, and a count for each of %lld matrices, found %s "
                        "and %lld counts of %s",
                        t->name, (long long)n_mat, nib_dtype_get(t->dtype)->name,
                        (long long)nib_tensor_count(c), nib_dtype_get(c->dtype)->name);
    return nib_imatrix_add(im, name, t->ne[0], n_mat, t->data, c->data, e);
}

static nib_status read_gguf(nib_imatrix *im, const nib_gguf *g, nib_error *e) {
    nib_str type;
    if (nib_gguf_str(g, "general.type", &type, NULL) == NIB_OK && !nib_str_eq_c(type, "imatrix"))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected an importance matrix, found a GGUF of type %.*s",
                        (int)NIB_MIN(type.n, (size_t)40), type.p);
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        nib_str name = matrix_of(t);
        if (name.n) NIB_TRY(read_sums(im, g, t, name, e));
    }
    if (!im->n)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected an importance matrix (tensors NAME.in_sum2), found none: 'nib "
                        "imatrix' makes one");
    (void)nib_gguf_i64(g, "imatrix.chunk_count", 0, UINT32_MAX, &im->info.n_chunks, NULL);
    (void)nib_gguf_i64(g, "imatrix.chunk_size", 0, UINT32_MAX, &im->info.n_ctx, NULL);
    const nib_gguf_kv *sets;
    if (nib_gguf_arr(g, "imatrix.datasets", true, &sets, NULL) == NIB_OK && sets->arr_n) {
        nib_gguf_strs it = nib_gguf_strs_of(sets);
        nib_str name = nib_gguf_strs_next(&it);
        im->info.dataset = nib_arena_strndup(&im->arena, name.p, name.n);
        if (!im->info.dataset) return nib_fail_nomem(e, name.n, "a name");
    }
    return NIB_OK;
}

/* ---- reading .dat ---- */

typedef struct bytes {
    const uint8_t *p;
    size_t left;
} bytes;

static bool take(bytes *b, size_t n, const void **out) {
    if (n > b->left) return false;
    *out = b->p;
    b->p += n;
    b->left -= n;
    return true;
}

static bool take_i32(bytes *b, int32_t *out) {
    const void *p;
    if (!take(b, sizeof *out, &p)) return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static nib_status cut_short(nib_error *e) {
    return nib_fail(e, NIB_ERR_FORMAT,
                    "expected an importance matrix (GGUF, or .dat of older tools), found a file "
                    "that ends too early");
}

static nib_status read_entry(nib_imatrix *im, bytes *b, nib_error *e) {
    int32_t len, calls, n;
    const void *name, *values;
    if (!take_i32(b, &len)) return cut_short(e);
    if (len < 1 || len > MAX_NAME)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected an importance matrix (GGUF, or .dat of older tools), found a "
                        "name of %d bytes",
                        len);
    if (!take(b, (size_t)len, &name) || !take_i32(b, &calls) || !take_i32(b, &n))
        return cut_short(e);
    if (memchr(name, 0, (size_t)len))
        return nib_fail(e, NIB_ERR_FORMAT, "expected a name, found one with a NUL in it");
    if (calls < 0 || n < 1)
        return nib_fail(e, NIB_ERR_FORMAT, "'%.*s': expected values, found %d of %d calls",
                        NIB_MIN(len, 100), (const char *)name, n, calls);
    if (!take(b, (size_t)n * sizeof(float), &values)) return cut_short(e);
    float count = (float)calls;
    return nib_imatrix_add(im, (nib_str){name, (size_t)len}, n, 1, values, &count, e);
}

static nib_status read_dat(nib_imatrix *im, bytes b, nib_error *e) {
    int32_t n, chunks, len;
    const void *name;
    if (!take_i32(&b, &n)) return cut_short(e);
    if (n < 1)
        return nib_fail(e, NIB_ERR_FORMAT, "expected an importance matrix, found %d entries", n);
    for (int32_t i = 0; i < n; i++) NIB_TRY(read_entry(im, &b, e));
    if (!take_i32(&b, &chunks)) return NIB_OK;
    im->info.n_chunks = NIB_MAX(chunks, 0);
    if (!take_i32(&b, &len) || len < 0 || !take(&b, (size_t)len, &name)) return NIB_OK;
    im->info.dataset = nib_arena_strndup(&im->arena, name, (size_t)len);
    return im->info.dataset ? NIB_OK : nib_fail_nomem(e, (size_t)len, "a name");
}

/* ---- both ---- */

nib_status nib_imatrix_read_memory(nib_imatrix **out, const void *p, size_t n, nib_error *e) {
    nib_imatrix *im = nib_imatrix_make();
    if (!im) return nib_fail_nomem(e, sizeof *im, "an importance matrix");
    nib_gguf *g = NULL;
    nib_status s;
    if (n >= 4 && memcmp(p, "GGUF", 4) == 0) {
        NIB_TRY_OUT(nib_gguf_open_memory(&g, p, n, e));
        NIB_TRY_OUT(read_gguf(im, g, e));
    } else {
        NIB_TRY_OUT(read_dat(im, (bytes){p, n}, e));
    }
    NIB_TRY_OUT(nib_imatrix_finish(im, e));
    *out = im;
    im = NULL;
out:
    nib_gguf_close(g);
    nib_imatrix_free(im);
    return s;
}

nib_status nib_imatrix_read(nib_imatrix **out, const char *path, nib_error *e) {
    nib_filemap map;
    NIB_TRY(nib_filemap_open(&map, path, e));
    nib_status s = nib_imatrix_read_memory(out, map.data, map.size, e);
    nib_filemap_close(&map);
    if (s != NIB_OK) nib_fail_in(e, s, "'%s'", path);
    return s;
}
