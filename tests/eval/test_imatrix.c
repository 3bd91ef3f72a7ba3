/* Importance matrices: the sums against ones made by hand, threads, files of both kinds, bad files.
 */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "eval/eval.h"
#include "testlib.h"
#include "tinymodel.h"

static nib_error e;
static const char text[] =
    "The moon does not lift the water so much as stretch the earth. It pulls "
    "hardest at the side that faces it, less at the centre, least beyond.";

static nib_engine *engine_of(const char *path, int threads, int batch, int64_t n_ctx) {
    nib_model *m;
    nib_engine *en;
    nib_engine_params p = {.n_threads = threads, .batch = batch, .n_ctx = n_ctx};
    test_ok(nib_model_open(&m, path, NULL, &e), &e);
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_model_release(m);
    return en;
}

static nib_imatrix *collect(nib_engine *en, int64_t n_ctx, bool head) {
    nib_imatrix *im;
    nib_eval_params p = {.n_ctx = n_ctx};
    test_ok(nib_imatrix_collect(&im, en, text, strlen(text), "a text", head, &p, &e), &e);
    return im;
}

static const nib_imatrix_tensor *find(const nib_imatrix *im, const char *name) {
    const nib_imatrix_tensor *t = nib_imatrix_find(im, name);
    if (!t) fail_msg("no '%s'", name);
    return t;
}

static void close_to(const float *got, const double *want, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= 1e-5 * want[i] + 1e-12))
            fail_msg("%s, column %d: want %g, got %g", what, (int)i, want[i], (double)got[i]);
}

/* The first layer's input is the normed embedding, the output matrix's the last hidden state: both
 * can be had without an observer. */
static void sums_are_those_made_by_hand(void **state) {
    (void)state;
    enum { CTX = 32 };
    nib_engine *en = engine_of(test_tiny_model("sums.gguf", NULL), 2, 16, CTX);
    const nib_model *m = nib_engine_model(en);
    const nib_gguf *g = nib_model_gguf(m);
    int64_t width = nib_model_get_info(m)->n_embd;
    nib_eval_params p = {.n_ctx = CTX};
    nib_chunks c;
    test_ok(nib_chunks_make(&c, m, text, strlen(text), &p, &e), &e);
    assert_true(c.n >= 2);
    const float *table = nib_gguf_tensor(g, "token_embd.weight")->data;
    const float *norm = nib_gguf_tensor(g, "blk.0.attn_norm.weight")->data;
    double *first = nib_calloc((size_t)width, 8), *last = nib_calloc((size_t)width, 8);
    float *hidden = nib_alloc((size_t)(CTX * width) * 4);
    for (int64_t i = 0; i < c.n; i++) {
        int32_t ids[CTX];
        nib_chunk_get(&c, i, ids);
        assert_int_equal(ids[0], 1); /* BOS */
        test_ok(nib_engine_hidden(en, ids, CTX, hidden, &e), &e);
        for (int t = 0; t < CTX; t++) {
            const float *x = table + ids[t] * width;
            double mean = 1e-5;
            for (int64_t k = 0; k < width; k++) mean += (double)x[k] * (double)x[k] / (double)width;
            for (int64_t k = 0; k < width; k++) {
                double v = (double)x[k] / sqrt(mean) * (double)norm[k];
                double h = (double)hidden[t * width + k];
                first[k] += v * v;
                last[k] += h * h;
            }
        }
    }
    nib_imatrix *im = collect(en, CTX, true);
    static const char *const same[] = {"blk.0.attn_q.weight", "blk.0.attn_k.weight",
                                       "blk.0.attn_v.weight"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(same); i++)
        close_to(find(im, same[i])->sums, first, width, same[i]);
    const nib_imatrix_tensor *out = find(im, "output.weight");
    close_to(out->sums, last, width, "output.weight");
    assert_true(out->counts[0] == (float)(c.n * CTX) && out->n == width && out->n_mat == 1);
    for (int64_t i = 0; i < width; i++) assert_true(out->means[i] == out->sums[i] / out->counts[0]);
    nib_imatrix_info info = nib_imatrix_get_info(im);
    assert_int_equal(info.n_tensors, 2 * 7 + 1);
    assert_int_equal(info.n_chunks, c.n);
    assert_int_equal(info.n_ctx, CTX);
    nib_imatrix_free(im);
    im = collect(en, CTX, false);
    assert_null(nib_imatrix_find(im, "output.weight"));
    nib_imatrix_free(im);
    nib_chunks_free(&c);
    nib_free(first), nib_free(last), nib_free(hidden);
    nib_engine_free(en);
}

static void same_numbers(const nib_imatrix *a, const nib_imatrix *b) {
    int64_t n = nib_imatrix_get_info(a).n_tensors;
    assert_int_equal(n, nib_imatrix_get_info(b).n_tensors);
    for (int64_t i = 0; i < n; i++) {
        const nib_imatrix_tensor *x = nib_imatrix_at(a, i), *y = nib_imatrix_at(b, i);
        assert_string_equal(x->name, y->name);
        assert_true(x->n == y->n && x->n_mat == y->n_mat);
        assert_memory_equal(x->sums, y->sums, (size_t)(x->n * x->n_mat) * 4);
        assert_memory_equal(x->counts, y->counts, (size_t)x->n_mat * 4);
    }
}

static void threads_and_batches_change_no_bit(void **state) {
    (void)state;
    const char *path = test_tiny_model("threads.gguf", &(test_tiny){.dtype = NIB_Q8_0});
    nib_imatrix *first = NULL;
    for (int threads = 1; threads <= 3; threads++)
        for (int batch = 5; batch <= 45; batch += 20) { /* few and many tokens; uneven ends */
            nib_engine *en = engine_of(path, threads, batch, 45);
            nib_imatrix *im = collect(en, 45, true);
            if (first) {
                same_numbers(first, im);
                nib_imatrix_free(im);
            } else {
                first = im;
            }
            nib_engine_free(en);
        }
    nib_imatrix_free(first);
}

/* Every family: each matrix of the file's layers is there, under its name, as wide as it is. */
static int all_matrices_of(const char *path) {
    nib_model *probe;
    test_ok(nib_model_open(&probe, path, &(nib_model_params){.vocab_only = true}, &e), &e);
    nib_model_release(probe);
    nib_engine *en = engine_of(path, 2, 0, 64);
    const nib_gguf *g = nib_model_gguf(nib_engine_model(en));
    nib_imatrix *im = collect(en, 32, true);
    int n = 0;
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        if (t->n_dims != 2 || !strncmp(t->name, "token_", 6) || !strncmp(t->name, "position_", 9) ||
            strstr(t->name, "_norm"))
            continue;
        const nib_imatrix_tensor *x = nib_imatrix_find(im, t->name);
        if (!x) fail_msg("%s: no '%s'", path, t->name);
        assert_int_equal(x->n, t->ne[0]);
        n++;
    }
    for (int64_t i = 0; i < nib_imatrix_get_info(im).n_tensors; i++) {
        const nib_imatrix_tensor *x = nib_imatrix_at(im, i);
        const nib_tensor *t = nib_gguf_tensor(g, x->name);
        if (!t || t->ne[0] != x->n) fail_msg("%s: '%s' is not in the file", path, x->name);
    }
    nib_imatrix_free(im);
    nib_engine_free(en);
    return n;
}

static void every_family(void **state) {
    (void)state;
    assert_int_equal(all_matrices_of(test_tiny_model("f.gguf", NULL)), 15);
    assert_int_equal(all_matrices_of(test_tiny_model("b.gguf", &(test_tiny){.embedder = true})), 6);
    if (!test_shared()) return;
    DIR *d = opendir(test_shared_path("golden"));
    assert_non_null(d);
    int n_models = 0, n = 0;
    for (struct dirent *x; (x = readdir(d));) {
        if (x->d_name[0] == '.' || !strncmp(x->d_name, "quant", 5)) continue;
        const char *path = test_shared_path("golden/%s/model.gguf", x->d_name);
        if (access(path, F_OK)) continue;
        n += all_matrices_of(path);
        n_models++;
    }
    closedir(d);
    print_message("imatrix: %d matrices of %d reference models\n", n, n_models);
    assert_true(n_models >= 20);
}

/* ---- files ---- */

static void files_give_back_what_was_written(void **state) {
    (void)state;
    nib_engine *en = engine_of(test_tiny_model("file.gguf", NULL), 2, 0, 32);
    nib_imatrix *im = collect(en, 32, true), *back;
    char path[512];
    snprintf(path, sizeof path, "%s/x.imatrix.gguf", test_tmp());
    test_ok(nib_imatrix_write(im, path, &e), &e);
    test_ok(nib_imatrix_read(&back, path, &e), &e);
    same_numbers(im, back);
    nib_imatrix_info a = nib_imatrix_get_info(im), b = nib_imatrix_get_info(back);
    assert_true(a.n_chunks == b.n_chunks && a.n_ctx == b.n_ctx);
    assert_string_equal(b.dataset, "a text");
    /* as the peers' loader wants it */
    nib_gguf *g;
    nib_str type;
    test_ok(nib_gguf_open(&g, path, &e), &e);
    test_ok(nib_gguf_str(g, "general.type", &type, &e), &e);
    assert_true(nib_str_eq_c(type, "imatrix"));
    assert_int_equal(nib_gguf_find(g, "imatrix.chunk_count")->type, NIB_GGUF_U32);
    const nib_tensor *sums = nib_gguf_tensor(g, "blk.1.ffn_down.weight.in_sum2");
    const nib_tensor *counts = nib_gguf_tensor(g, "blk.1.ffn_down.weight.counts");
    assert_true(sums->n_dims == 2 && sums->ne[0] == 128 && sums->ne[1] == 1);
    assert_true(counts->n_dims == 2 && counts->ne[0] == 1 && counts->ne[1] == 1);
    nib_gguf_close(g);
    assert_int_equal(nib_imatrix_write(im, "/nonexistent/x.gguf", &e), NIB_ERR_NOT_FOUND);
    nib_imatrix_free(im);
    nib_imatrix_free(back);
    nib_engine_free(en);
}

static void put_i32(nib_buf *b, int32_t v) {
    nib_buf_put(b, &v, sizeof v);
}

static void put_entry(nib_buf *b, const char *name, int32_t calls, int32_t n, const float *values) {
    put_i32(b, (int32_t)strlen(name));
    nib_buf_puts(b, name);
    put_i32(b, calls);
    put_i32(b, n);
    nib_buf_put(b, values, (size_t)n * 4);
}

static const float three[] = {2, 4, 0.5f};

static void dat(nib_buf *b) {
    put_i32(b, 2);
    put_entry(b, "blk.0.b", 2, 3, three);
    put_entry(b, "blk.0.a", 0, 2, three);
    put_i32(b, 7);
    put_i32(b, 4);
    nib_buf_puts(b, "text");
}

static void older_files_are_read(void **state) {
    (void)state;
    nib_buf b = {0};
    dat(&b);
    nib_imatrix *im;
    test_ok(nib_imatrix_read_memory(&im, b.data, b.len, &e), &e);
    assert_int_equal(nib_imatrix_get_info(im).n_chunks, 7);
    assert_string_equal(nib_imatrix_get_info(im).dataset, "text");
    assert_string_equal(nib_imatrix_at(im, 0)->name, "blk.0.a"); /* sorted */
    assert_true(nib_imatrix_at(im, 0)->means[1] == 1);           /* seen nothing: all alike */
    const float *means = find(im, "blk.0.b")->means;
    assert_true(means[0] == 1 && means[1] == 2 && means[2] == 0.25f);
    nib_imatrix_free(im);
    /* cut anywhere: an error while an entry is missing, without the name at the end after that */
    int n_ok = 0;
    for (size_t n = 0; n < b.len; n++) {
        im = NULL;
        nib_status s = nib_imatrix_read_memory(&im, b.data, n, &e);
        assert_true((s == NIB_OK) == (im != NULL));
        if (s != NIB_OK) assert_int_equal(s, NIB_ERR_FORMAT);
        n_ok += s == NIB_OK;
        nib_imatrix_free(im);
    }
    assert_int_equal(n_ok, 12);
    nib_buf_free(&b);
}

static void refused(nib_buf *b, const char *part) {
    nib_imatrix *im = NULL;
    assert_int_equal(nib_imatrix_read_memory(&im, b->data, b->len, &e), NIB_ERR_FORMAT);
    assert_null(im);
    if (!strstr(e.message, part)) fail_msg("expected '%s' in '%s'", part, e.message);
    nib_buf_free(b);
}

/* A GGUF with one pair of tensors. */
static void pair_file(nib_buf *b, const char *sums, const char *counts, int64_t n_counts,
                      const float *values) {
    char path[512];
    snprintf(path, sizeof path, "%s/pair.gguf", test_tmp());
    nib_gguf_writer *w;
    nib_tensor s = {.name = sums, .dtype = NIB_F32, .n_dims = 2, .ne = {3, 1, 1, 1}};
    nib_tensor c = {.name = counts, .dtype = NIB_F32, .n_dims = 2, .ne = {1, n_counts, 1, 1}};
    static const float two[] = {2, 2};
    test_ok(nib_gguf_writer_new(&w, path, &e), &e);
    test_ok(nib_gguf_declare(w, &s, &e), &e);
    test_ok(nib_gguf_declare(w, &c, &e), &e);
    test_ok(nib_gguf_begin(w, &e), &e);
    test_ok(nib_gguf_write_data(w, values, 12, &e), &e);
    test_ok(nib_gguf_write_data(w, two, (size_t)n_counts * 4, &e), &e);
    test_ok(nib_gguf_commit(w, &e), &e);
    test_ok(nib_file_read(path, 1 << 20, b, &e), &e);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    nib_buf b = {0};
    nib_imatrix *im;
    float bad[3] = {1, -1, 0};
    pair_file(&b, "a.in_sum2", "a.counts", 1, three);
    test_ok(nib_imatrix_read_memory(&im, b.data, b.len, &e), &e);
    assert_true(find(im, "a")->means[1] == 2);
    nib_imatrix_free(im);
    nib_buf_free(&b);
    pair_file(&b, "a.in_sum2", "a.counts", 1, bad), refused(&b, "not negative");
    bad[1] = NAN;
    pair_file(&b, "a.in_sum2", "a.counts", 1, bad), refused(&b, "finite");
    pair_file(&b, "a.in_sum2", "a.counts", 2, three), refused(&b, "2 counts");
    pair_file(&b, "a.in_sum2", "b.counts", 1, three), refused(&b, "'a.counts', found none");
    pair_file(&b, "a.sums", "b.counts", 1, three), refused(&b, "nib imatrix");
    pair_file(&b, ".in_sum2", "b.counts", 1, three), refused(&b, "nib imatrix");
    put_i32(&b, 2), put_entry(&b, "a", 1, 3, three), put_entry(&b, "a", 1, 3, three);
    refused(&b, "'a' twice");
    put_i32(&b, 1), put_entry(&b, "a", -1, 3, three), refused(&b, "-1 calls");
    put_i32(&b, 1), put_entry(&b, "a", 1, 3, bad), refused(&b, "finite");
    put_i32(&b, 1), put_i32(&b, 1 << 30), refused(&b, "a name of");
    put_i32(&b, -1), refused(&b, "-1 entries");
    put_i32(&b, INT32_MAX), put_entry(&b, "a", 1, 3, three), refused(&b, "ends too early");
    put_i32(&b, 1), put_i32(&b, 1), nib_buf_puts(&b, "a"), put_i32(&b, 1);
    put_i32(&b, INT32_MAX), refused(&b, "ends too early");
    nib_buf_puts(&b, "some words that are no model file"), refused(&b, "importance matrix");
    assert_int_equal(nib_imatrix_read(&im, "/nonexistent", &e), NIB_ERR_NOT_FOUND);
}

static void memory_may_run_out(void **state) {
    (void)state;
    nib_buf b = {0};
    dat(&b);
    nib_engine *en = engine_of(test_tiny_model("nomem.gguf", NULL), 1, 0, 32);
    nib_eval_params p = {.n_ctx = 32};
    for (int what = 0; what < 2; what++) {
        nib_status s = NIB_ERR_NOMEM;
        long n = 1;
        for (; s != NIB_OK && n < 1000; n++) {
            nib_imatrix *im = NULL;
            nib_alloc_fail_after(n);
            s = what ? nib_imatrix_collect(&im, en, text, strlen(text), "", true, &p, &e)
                     : nib_imatrix_read_memory(&im, b.data, b.len, &e);
            nib_alloc_fail_after(0);
            /* the tokenizer says that its ids do not fit */
            bool expected = s == NIB_ERR_NOMEM || s == NIB_ERR_LIMIT;
            if (s == NIB_OK ? !im : !expected || im) fail_msg("%d: %s", (int)n, e.message);
            nib_imatrix_free(im);
        }
        assert_true(s == NIB_OK && n > 5);
    }
    nib_engine_free(en);
    nib_buf_free(&b);
}

static void stops_when_told(void **state) {
    (void)state;
    nib_engine *en = engine_of(test_tiny_model("stop.gguf", NULL), 2, 0, 32);
    atomic_bool stop = true;
    nib_imatrix *im = NULL;
    nib_eval_params p = {.n_ctx = 32};
    nib_engine_set_cancel(en, &stop);
    assert_int_equal(nib_imatrix_collect(&im, en, text, strlen(text), "", true, &p, &e),
                     NIB_ERR_CANCELLED);
    assert_null(im);
    nib_engine_set_cancel(en, NULL);
    assert_int_equal(nib_imatrix_collect(&im, en, "too short", 3, "", true, &p, &e),
                     NIB_ERR_FORMAT);
    im = collect(en, 32, false); /* the engine is as before */
    nib_imatrix_free(im);
    nib_engine_free(en);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_made_by_hand),
        cmocka_unit_test(threads_and_batches_change_no_bit),
        cmocka_unit_test(every_family),
        cmocka_unit_test(files_give_back_what_was_written),
        cmocka_unit_test(older_files_are_read),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(stops_when_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
