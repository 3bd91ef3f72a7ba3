/* nib imatrix: which columns of each matrix matter, found out with a text. */
#include <stdlib.h>
#include <sys/stat.h>
#include "cli/host.h"
#include "cli/watch.h"
#include "eval/eval.h"

static const char *out_path, *show_path;
static int64_t chunks;
static bool head;
const nib_option nib_opts_imatrix[] = {
    NIB_OPT_TEXT("out", 'o', "FILE", &out_path,
                 "where it goes (default: the model's name and .imatrix.gguf, here)"),
    NIB_OPT_INT("chunks", 0, "N", &chunks, 1, INT32_MAX, "use at most N chunks of the text"),
    NIB_OPT_SWITCH("output-matrix", 0, &head,
                   "also for the output matrix, which is better kept wide and left out otherwise"),
    NIB_OPT_TEXT("show", 0, "FILE", &show_path, "print what FILE, which was made before, says"),
    NIB_OPT_GROUP("Model and memory (--ctx: the length of a chunk, 512 unless said)",
                  nib_host_options),
    NIB_OPT_END,
};

static void on_progress(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
}

/* "dir/model-f16.gguf" -> "model-f16.imatrix.gguf" */
static nib_status default_name(const char *model, nib_buf *out, nib_error *e) {
    const char *slash = strrchr(model, '/'), *base = slash ? slash + 1 : model;
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) n -= 5;
    nib_buf_put(out, base, n);
    nib_buf_puts(out, ".imatrix.gguf");
    return out->failed ? nib_fail_nomem(e, n, "a file name") : NIB_OK;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Before an hour of work: that the result can be written at its end. */
static nib_status check_output(const char *path, const char *model, const char *text,
                               nib_error *e) {
    if (same_file(path, text) || same_file(path, model))
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s' is what is read: choose another name with -o",
                        path);
    nib_outfile probe;
    NIB_TRY(nib_outfile_open(&probe, path, e));
    nib_outfile_abort(&probe);
    return NIB_OK;
}

/* ---- --show ---- */

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* A line a matrix: how many inputs it saw, their mean square, and which share of it the largest
 * hundredth of the columns has. */
static nib_status show(const nib_imatrix *im, nib_error *e) {
    nib_imatrix_info info = nib_imatrix_get_info(im);
    printf("%lld matrices, %lld chunks", (long long)info.n_tensors, (long long)info.n_chunks);
    if (info.n_ctx) printf(" of %lld tokens", (long long)info.n_ctx);
    if (*info.dataset) printf(", from %s", info.dataset);
    printf("\n\n| matrix | columns | inputs | mean square | largest 1 %% of columns |\n"
           "|---|---:|---:|---:|---:|\n");
    for (int64_t i = 0; i < info.n_tensors; i++) {
        const nib_imatrix_tensor *t = nib_imatrix_at(im, i);
        int64_t n = t->n * t->n_mat;
        float *v = nib_alloc((size_t)n * sizeof *v);
        if (!v) return nib_fail_nomem(e, (size_t)n * sizeof *v, "columns");
        memcpy(v, t->means, (size_t)n * sizeof *v);
        qsort(v, (size_t)n, sizeof *v, descending);
        double sum = 0, top = 0, seen = 0;
        for (int64_t k = n - 1; k >= 0; k--) {
            sum += (double)v[k];
            if (k < (n + 99) / 100) top += (double)v[k];
        }
        for (int64_t k = 0; k < t->n_mat; k++) seen += (double)t->counts[k];
        printf("| %s | %lld | %.0f | %.4g | %.1f %% |\n", t->name, (long long)n, seen,
               sum / (double)n, sum > 0 ? 100 * top / sum : 0.0);
        nib_free(v);
    }
    return NIB_OK;
}

static nib_status show_file(nib_error *e) {
    nib_imatrix *im;
    NIB_TRY(nib_imatrix_read(&im, show_path, e));
    nib_status s = show(im, e);
    nib_imatrix_free(im);
    return s;
}

nib_status nib_cmd_imatrix(nib_cli *c, nib_error *e) {
    if (show_path) {
        NIB_TRY(nib_cli_operands(c, 0, 0, "nothing", e));
        return show_file(e);
    }
    NIB_TRY(nib_cli_operands(c, 2, 2, c->argc ? "TEXT-FILE" : "MODEL", e));
    nib_host h = {0};
    nib_buf text = {0}, name = {0};
    nib_imatrix *im = NULL;
    nib_progress bar;
    nib_status s;
    NIB_TRY_OUT(nib_file_read(c->argv[1], 1 << 30, &text, e));
    nib_interrupt_catch();
    bool given = nib_host_params()->n_ctx != 0;
    nib_host_default_ctx(nib_chunk_length(NULL, NULL));
    NIB_TRY_OUT(nib_host_open(&h, c->argv[0], e));
    const char *model = nib_model_get_info(h.model)->path;
    NIB_TRY_OUT(default_name(model, &name, e));
    const char *out = out_path ? out_path : name.data;
    NIB_TRY_OUT(check_output(out, model, c->argv[1], e));
    nib_eval_params p = {.n_ctx = given ? nib_engine_n_ctx(h.engine) : 0,
                         .n_chunks = chunks,
                         .progress = on_progress,
                         .progress_arg = &bar};
    nib_progress_start(&bar, "Running the text through", false);
    double start = nib_now();
    s = nib_imatrix_collect(&im, h.engine, text.data, text.len, c->argv[1], head, &p, e);
    nib_progress_end(&bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s == NIB_OK) s = nib_imatrix_write(im, out, e);
    if (s != NIB_OK) goto out;
    nib_imatrix_info info = nib_imatrix_get_info(im);
    fprintf(stderr, "%s: %lld matrices, %lld chunk%s of %lld tokens, %.1f s\n", out,
            (long long)info.n_tensors, (long long)info.n_chunks, info.n_chunks == 1 ? "" : "s",
            (long long)info.n_ctx, nib_now() - start);
out:
    nib_watch_stop();
    nib_imatrix_free(im);
    nib_host_close(&h);
    nib_buf_free(&text);
    nib_buf_free(&name);
    return s;
}
