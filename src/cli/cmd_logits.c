/* nib logits: the scores of every token after every position, as raw floats, for comparing engines.
 */
#include "cli/host.h"
#include "cli/watch.h"

static const char *tokens_path, *out_path;
const nib_option nib_opts_logits[] = {
    NIB_OPT_TEXT("tokens", 0, "FILE", &tokens_path,
                 "token ids, separated by white space or commas (- for standard input)"),
    NIB_OPT_TEXT("out", 'o', "FILE", &out_path, "where the float32 numbers [n_tokens, n_vocab] go"),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

typedef struct sink {
    FILE *f;
    size_t n_vocab;
    nib_progress bar;
    int64_t n;
    bool failed;
} sink;

static void on_logits(void *arg, int64_t index, const float *logits) {
    sink *s = arg;
    s->failed |= fwrite(logits, sizeof *logits, s->n_vocab, s->f) != s->n_vocab;
    nib_progress_show(&s->bar, (uint64_t)index + 1, (uint64_t)s->n);
}

nib_status nib_cmd_logits(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "MODEL", e));
    if (!tokens_path)
        return nib_cli_usage(c, e,
                             "logits: --tokens is missing ('nib logits --help' shows an example)");
    if (!out_path)
        return nib_cli_usage(c, e,
                             "logits: --out is missing ('nib logits --help' shows an example)");
    nib_host h = {0};
    nib_buf text = {0};
    nib_ids ids = {0};
    nib_seq *seq;
    nib_outfile out = {0};
    nib_status s;
    NIB_TRY_OUT(nib_file_read(tokens_path, 64 << 20, &text, e));
    if ((s = nib_parse_ids(text.data, text.len, &ids, e)) != NIB_OK) {
        nib_fail_in(e, s, "%s", tokens_path);
        goto out;
    }
    if (ids.len == 0) {
        s = nib_fail(e, NIB_ERR_FORMAT, "%s: expected token ids, found none", tokens_path);
        goto out;
    }
    nib_interrupt_catch();
    nib_host_default_kv(NIB_KV_F32); /* the numbers of the model, not of its cache */
    NIB_TRY_OUT(nib_host_open(&h, c->argv[0], e));
    const nib_model_info *m = nib_model_get_info(h.model);
    NIB_TRY_OUT(nib_check_ids(ids.data, ids.len, m->n_vocab, e));
    NIB_TRY_OUT(nib_seq_new(&seq, h.engine, e));
    NIB_TRY_OUT(nib_outfile_open(&out, out_path, e));
    sink k = {.f = out.f, .n_vocab = (size_t)m->n_vocab, .n = (int64_t)ids.len};
    nib_progress_start(&k.bar, "Computing", false);
    s = nib_seq_eval_all(seq, ids.data, (int64_t)ids.len, on_logits, &k, e);
    nib_progress_end(&k.bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s == NIB_OK && k.failed) s = nib_fail(e, NIB_ERR_IO, "cannot write '%s'", out_path);
    if (s == NIB_OK) s = nib_outfile_commit(&out, e);
out:
    nib_watch_stop();
    nib_outfile_abort(&out);
    nib_host_close(&h);
    nib_buf_free(&text);
    nib_ids_free(&ids);
    return s;
}
