/* nib perplexity: how well a model predicts a text. */
#include <jansson.h>
#include "cli/host.h"
#include "cli/watch.h"
#include "eval/eval.h"

static const char *file;
static int64_t chunks;
static bool as_json;
const nib_option nib_opts_perplexity[] = {
    NIB_OPT_TEXT("file", 'f', "FILE", &file, "read the text from FILE (- for standard input)"),
    NIB_OPT_INT("chunks", 0, "N", &chunks, 1, INT32_MAX, "use at most N chunks of the text"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print one JSON object"),
    NIB_OPT_GROUP("Model and memory (--ctx: the length of a chunk, 512 unless said)",
                  nib_host_options),
    NIB_OPT_END,
};

static void on_progress(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
}

nib_status nib_cmd_perplexity(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1 << 20, "MODEL", e));
    nib_host h = {0};
    nib_buf text = {0};
    nib_progress bar;
    nib_perplexity r;
    nib_status s;
    NIB_TRY_OUT(nib_read_text(c, 1, file, "the text", &text, e));
    nib_interrupt_catch();
    bool given = nib_host_params()->n_ctx != 0;
    nib_host_default_ctx(nib_chunk_length(NULL, NULL));
    NIB_TRY_OUT(nib_host_open(&h, c->argv[0], e));
    nib_eval_params p = {.n_ctx = given ? nib_engine_n_ctx(h.engine) : 0,
                         .n_chunks = chunks,
                         .progress = on_progress,
                         .progress_arg = &bar};
    nib_progress_start(&bar, "Reading the text", false);
    s = nib_perplexity_measure(h.engine, text.data, text.len, &p, &r, e);
    nib_progress_end(&bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s != NIB_OK) goto out;
    const nib_model_info *m = nib_model_get_info(h.model);
    if (as_json)
        s = nib_print_json(json_pack("{s:o, s:s, s:f, s:f, s:I, s:I, s:I, s:f}", "model",
                                     nib_json_text(m->name, strlen(m->name)), "quant", m->quant,
                                     "perplexity", r.perplexity.value, "error", r.perplexity.error,
                                     "tokens_scored", (json_int_t)r.n_tokens, "chunks",
                                     (json_int_t)r.n_chunks, "ctx", (json_int_t)r.n_ctx,
                                     "tok_per_s", r.tok_per_s),
                           e);
    else
        printf("%s, %s: perplexity %.6g ± %.2g (%lld tokens scored, in %lld chunk%s of %lld; %.0f "
               "tok/s)\n",
               m->name, m->quant, r.perplexity.value, r.perplexity.error, (long long)r.n_tokens,
               (long long)r.n_chunks, r.n_chunks == 1 ? "" : "s", (long long)r.n_ctx, r.tok_per_s);
out:
    nib_watch_stop();
    nib_host_close(&h);
    nib_buf_free(&text);
    return s;
}
