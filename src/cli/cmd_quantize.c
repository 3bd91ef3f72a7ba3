/* nib quantize: a model as a smaller one. */
#include <errno.h>
#include <jansson.h>
#include <unistd.h>
#include "cli/models.h"
#include "cli/receipt.h"
#include "convert/convert.h"

enum { MAX_RULES = 64 };
static const char *imatrix_path, *text, *rules[MAX_RULES];
static int64_t threads, n_rules;
static bool dry_run, force, requantize, as_json, receipt;

static nib_status add_rule(const nib_option *o, const char *value, nib_error *e) {
    if (n_rules == MAX_RULES)
        return nib_fail(e, NIB_ERR_LIMIT, "%s: expected at most %d rules", o->name, MAX_RULES);
    rules[n_rules++] = value;
    return NIB_OK;
}

const nib_option nib_opts_quantize[] = {
    NIB_OPT_TEXT("imatrix", 0, "FILE", &imatrix_path,
                 "an importance matrix: which columns matter most, measured on a text"),
    {"tensor-type", 0, "PATTERN=TYPE", add_rule, NULL, 0, 0,
     "tensors whose name the regular expression finds get this format; may be given several times, "
     "the first that fits decides",
     NULL},
    NIB_OPT_SWITCH("dry-run", 'n', &dry_run, "only list each tensor's format and size"),
    NIB_OPT_SWITCH("receipt", 0, &receipt,
                   "afterwards compare both models, as nib compare-quality does, and keep the "
                   "numbers in OUT.receipt.json"),
    NIB_OPT_TEXT("text", 'f', "FILE", &text,
                 "with --receipt: the text they read (default: a small one of English and code)"),
    NIB_OPT_SWITCH("requantize", 0, &requantize,
                   "quantise weights that are quantised already: worse than from the original"),
    NIB_OPT_SWITCH("force", 0, &force, "write weights that are not finite all the same"),
    NIB_OPT_INT("threads", 't', "N", &threads, 1, 256, "threads (default: physical cores)"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print what was done as JSON, tensor by tensor"),
    NIB_OPT_END,
};

static void on_progress(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
}

/* For nib_quantize: the means of a tensor's columns. */
static const float *importance(void *arg, const char *tensor, int64_t *n) {
    const nib_imatrix_tensor *t = nib_imatrix_find(arg, tensor);
    if (!t) return NULL;
    *n = t->n * t->n_mat;
    return t->means;
}

static nib_status make_receipt(nib_cli *c, const char *in, const char *out, nib_quality *q,
                               nib_error *e) {
    nib_quality_params p = {.engine = {.n_threads = (int)threads}};
    NIB_TRY(nib_receipt_make(c, in, out, text, &p, q, e));
    nib_buf path = {0};
    nib_buf_printf(&path, "%s.receipt.json", out);
    nib_status s = path.failed ? nib_fail_nomem(e, path.len, "a file name")
                               : nib_receipt_write(q, path.data, e);
    nib_buf_free(&path);
    return s;
}

static const char *type_name(nib_dtype t) {
    return nib_dtype_get(t)->name;
}

static void print_tensors(const nib_quantize_report *r) {
    for (size_t i = 0; i < r->n_tensors; i++) {
        const nib_quantize_tensor *t = &r->tensors[i];
        char shape[64], note[64] = "";
        int64_t rows = t->ne[1] * t->ne[2] * t->ne[3];
        snprintf(shape, sizeof shape, "%lld x %lld", (long long)t->ne[0], (long long)rows);
        if (t->n_dims == 1) snprintf(shape, sizeof shape, "%lld", (long long)t->ne[0]);
        if (t->to != t->wanted)
            snprintf(note, sizeof note, "  (%s does not fit)", type_name(t->wanted));
        printf("%-40s %-16s %-7s -> %-7s %9s%s\n", t->name, shape, type_name(t->from),
               type_name(t->to), nib_bytes_text(t->bytes_after), note);
    }
}

static json_t *report_json(const nib_quantize_report *r, const char *out, const char *type,
                           double seconds) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->n_tensors; i++) {
        const nib_quantize_tensor *t = &r->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer(t->ne[d]));
        json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:s, s:s, s:I, s:I, s:b}", "name",
                                              nib_json_text(t->name, strlen(t->name)), "shape",
                                              shape, "from", type_name(t->from), "to",
                                              type_name(t->to), "wanted", type_name(t->wanted),
                                              "bytes_before", (json_int_t)t->bytes_before, "bytes",
                                              (json_int_t)t->bytes_after, "imatrix", t->important));
    }
    return json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "output",
                     out ? nib_json_text(out, strlen(out)) : json_null(), "type", type,
                     "parameters", (json_int_t)r->n_params, "bytes_before",
                     (json_int_t)r->bytes_before, "bytes", (json_int_t)r->bytes_after, "fallbacks",
                     (json_int_t)r->n_fallback, "imatrix_tensors", (json_int_t)r->n_important,
                     "seconds", seconds, "tensors", list);
}

static void print_summary(const nib_quantize_report *r, const char *out, const char *type,
                          double seconds) {
    if (r->n_fallback)
        nib_warn(
            "%zu of %zu tensors have rows that %s cannot hold and got another format (--dry-run "
            "lists them)",
            r->n_fallback, r->n_tensors, type);
    printf("%s%s%s -> %s, %.2f bits a weight", out ? out : "", out ? ": " : "",
           nib_bytes_text(r->bytes_before), nib_bytes_text(r->bytes_after),
           8.0 * (double)r->bytes_after / (double)NIB_MAX(r->n_params, 1));
    if (out) printf(", in %.1f s", seconds);
    putchar('\n');
}

nib_status nib_cmd_quantize(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, dry_run ? 2 : 3, 3, "IN OUT TYPE", e));
    const char *in = c->argv[0], *out = c->argc == 3 ? c->argv[1] : NULL,
               *type = c->argv[c->argc - 1];
    nib_progress bar;
    nib_imatrix *im = NULL;
    nib_quantize_report r = {0};
    char *found = NULL;
    nib_status s = NIB_OK;
    if (text && !receipt) return nib_cli_usage(c, e, "quantize: --text goes with --receipt");
    if (text && access(text, R_OK) != 0) /* said before the work, not after it */
        return nib_fail(e, NIB_ERR_IO, "cannot read '%s': %s", text, strerror(errno));
    if (access(in, F_OK) != 0) {
        NIB_TRY_OUT(nib_model_find(in, &found, e));
        in = found;
    }
    if (imatrix_path) NIB_TRY_OUT(nib_imatrix_read(&im, imatrix_path, e));
    nib_quantize_params p = {.type = type,
                             .rules = rules,
                             .n_rules = (size_t)n_rules,
                             .importance = im ? importance : NULL,
                             .importance_arg = im,
                             .importance_file = imatrix_path,
                             .n_threads = (int)threads,
                             .force = force,
                             .requantize = requantize,
                             .progress = on_progress,
                             .progress_arg = &bar,
                             .cancel = &nib_cancel};
    double start = nib_now();
    nib_interrupt_catch();
    nib_progress_start(&bar, "Quantising", true);
    s = nib_quantize(in, dry_run ? NULL : out, &p, &r, e);
    nib_progress_end(&bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s != NIB_OK) goto out;
    double seconds = nib_now() - start;
    if (im && !r.n_important)
        nib_warn("'%s' has no entry for any of the tensors: was it made with this model?",
                 imatrix_path);
    if (r.n_requantized)
        nib_warn("%zu tensors were quantised before: expect worse than from the original",
                 r.n_requantized);
    bool both = receipt && !dry_run;
    nib_quality q;
    if (!as_json) {
        if (dry_run) print_tensors(&r);
        print_summary(&r, dry_run ? NULL : out, type, seconds);
        fflush(stdout);
    }
    if (both) NIB_TRY_OUT(make_receipt(c, in, out, &q, e));
    if (as_json) {
        json_t *o = report_json(&r, dry_run ? NULL : out, type, seconds);
        if (both) json_object_set_new(o, "receipt", nib_receipt_json(&q));
        s = nib_print_json(o, e);
    } else if (both) {
        printf("\n");
        nib_receipt_print(&q);
    }
out:
    nib_free(found);
    nib_imatrix_free(im);
    nib_quantize_report_free(&r);
    return s;
}
