/* Comparing two models for people: progress, the table, the JSON. */
#include <jansson.h>
#include <stdlib.h>
#include "cli/models.h"
#include "cli/receipt.h"
#include "cli/watch.h"

typedef struct stages {
    const char *now;
    nib_progress bar;
} stages;

static void on_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    stages *g = arg;
    if (!g->now || strcmp(g->now, what) != 0) {
        if (g->now) nib_progress_end(&g->bar);
        nib_progress_start(&g->bar, what, strncmp(what, "Loading", 7) == 0);
        g->now = what;
    }
    nib_progress_show(&g->bar, done, total);
}

nib_status nib_receipt_make(nib_cli *c, const char *reference, const char *other, const char *text,
                            nib_quality_params *p, nib_quality *out, nib_error *e) {
    nib_buf b = {0};
    stages g = {0};
    char *found[2] = {0};
    if (text) NIB_TRY(nib_file_read(text, 1 << 30, &b, e));
    nib_interrupt_catch();
    nib_status s;
    NIB_TRY_OUT(nib_model_find(reference, &found[0], e));
    NIB_TRY_OUT(nib_model_find(other, &found[1], e));
    NIB_TRY_OUT(nib_host_watch(e));
    int given = p->engine.n_threads;
    p->engine = *nib_host_params();
    if (given) p->engine.n_threads = given;
    p->eval.n_ctx = NIB_MAX(p->engine.n_ctx, 0); /* auto: as if nothing was said */
    p->progress = on_progress;
    p->progress_arg = &g;
    p->cancel = &nib_cancel;
    s = nib_quality_compare(found[0], found[1], text ? b.data : nib_sample_text,
                            text ? b.len : strlen(nib_sample_text), p, out, e);
    if (g.now) nib_progress_end(&g.bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
out:
    nib_watch_stop();
    for (int i = 0; i < 2; i++) nib_free(found[i]);
    nib_buf_free(&b);
    return s;
}

/* ---- the table ---- */

enum { LABEL = 24, CELL = 20 };

static void cell(const char *text) {
    int pad = CELL - nib_text_width(text, strlen(text));
    printf("%*s%s", NIB_MAX(pad, 1), "", text);
}

static void row(const char *label, const char *a, const char *b, const char *change) {
    const nib_style *st = nib_style_of(stdout);
    printf("%s%-*s%s", st->cyan, LABEL, label, st->reset);
    cell(a);
    cell(b);
    if (*change) cell(change);
    printf("\n");
}

static const char *with_error(const nib_estimate *v, const char *format, double scale) {
    static char ring[4][64];
    static int at;
    char a[24], b[24], *out = ring[at++ % 4];
    /* broken and random models have perplexities of any size */
    bool wide = !(v->value * scale < 1e7 && v->value * scale > -1e7);
    snprintf(a, sizeof a, wide ? "%.4g" : format, v->value * scale);
    snprintf(b, sizeof b, "%.2g", v->error * scale);
    snprintf(out, sizeof ring[0], "%s ± %s", a, b);
    return out;
}

static void sizes_row(const char *label, uint64_t a, uint64_t b) {
    char share[32];
    snprintf(share, sizeof share, "%.1f %%", a ? 100 * (double)b / (double)a : 0);
    row(label, nib_bytes_text(a), nib_bytes_text(b), share);
}

static void speed_row(const char *label, double a, double b) {
    char x[32], y[32], ratio[32];
    if (!(a > 0 && b > 0)) return;
    snprintf(x, sizeof x, a < 1000 ? "%.1f tok/s" : "%.0f tok/s", a);
    snprintf(y, sizeof y, b < 1000 ? "%.1f tok/s" : "%.0f tok/s", b);
    snprintf(ratio, sizeof ratio, "x %.2f", b / a);
    row(label, x, y, ratio);
}

void nib_receipt_print(const nib_quality *q) {
    const nib_quality_side *a = &q->side[0], *b = &q->side[1];
    char v[32];
    printf("%s: %lld tokens scored, in %lld chunk%s of %lld\n\n", b->name, (long long)q->n_tokens,
           (long long)q->n_chunks, q->n_chunks == 1 ? "" : "s", (long long)q->n_ctx);
    row("", "reference", "other", "change");
    row("format", a->quant, b->quant, "");
    sizes_row("size", a->file_bytes, b->file_bytes);
    sizes_row("memory to run", a->memory, b->memory);
    speed_row("reading the text", a->read_per_s, b->read_per_s);
    speed_row("generating", a->generate_per_s, b->generate_per_s);
    row("perplexity", with_error(&a->perplexity, "%.4f", 1), with_error(&b->perplexity, "%.4f", 1),
        with_error(&q->perplexity_change, "%+.4f", 1));
    row("KL, mean", "", with_error(&q->kl, "%.6f", 1), "");
    snprintf(v, sizeof v, "%.6f", q->kl_median);
    row("KL, median", "", v, "");
    snprintf(v, sizeof v, "%.6f", q->kl_p999);
    row("KL, 99.9th percentile", "", v, "");
    row("same first choice", "", with_error(&q->same_top, "%.2f %%", 100), "");
}

/* ---- JSON ---- */

static json_t *estimate_json(const nib_estimate *v) {
    return json_pack("{s:f, s:f}", "value", v->value, "error", v->error);
}

static json_t *side_json(const nib_quality_side *x) {
    json_t *o = json_pack(
        "{s:o, s:o, s:s, s:I, s:I, s:o, s:f}", "model", nib_json_text(x->name, strlen(x->name)),
        "path", nib_json_text(x->path, strlen(x->path)), "quant", x->quant, "file_bytes",
        (json_int_t)x->file_bytes, "memory_bytes", (json_int_t)x->memory, "perplexity",
        estimate_json(&x->perplexity), "read_tok_per_s", x->read_per_s);
    if (o && x->generate_per_s > 0)
        json_object_set_new(o, "generate_tok_per_s", json_real(x->generate_per_s));
    return o;
}

json_t *nib_receipt_json(const nib_quality *q) {
    return json_pack(
        "{s:o, s:o, s:o, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:o, s:{s:I, s:I, s:I}, s:b}",
        "reference", side_json(&q->side[0]), "other", side_json(&q->side[1]), "perplexity_change",
        estimate_json(&q->perplexity_change), "kl", "mean", q->kl.value, "error", q->kl.error,
        "median", q->kl_median, "p99", q->kl_p99, "p99_9", q->kl_p999, "max", q->kl_max, "same_top",
        estimate_json(&q->same_top), "text", "tokens_scored", (json_int_t)q->n_tokens, "chunks",
        (json_int_t)q->n_chunks, "ctx", (json_int_t)q->n_ctx, "one_at_a_time", q->one_at_a_time);
}

nib_status nib_receipt_write(const nib_quality *q, const char *path, nib_error *e) {
    json_t *v = nib_receipt_json(q);
    char *text = v ? json_dumps(v, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    nib_status s = text ? nib_file_write(path, text, strlen(text), e)
                        : nib_fail(e, NIB_ERR_NOMEM, "out of memory for the receipt");
    free(text);
    json_decref(v);
    return s;
}
