/* From a conversation to the tokens of a prompt.
 *
 * The template's text and the people's text are kept apart up to the tokenizer: only the template
 * can spell control tokens, while ordinary text is tokenised across the seams, as in training.
 *
 * When the history does not fit and the user did not fix what is sent, the oldest exchanges are
 * left out. How many is a function of the messages alone, and rises in steps: a prompt whose
 * beginning changes has to be computed anew, so it should not change with every message. */
#include <jansson.h>
#include "engine/dialog_internal.h"

static json_t *variables(const nib_dialog *d) {
    bool on = d->applied.think == NIB_THINK_ON;
    if (d->applied.think == NIB_THINK_AUTO) return json_object();
    return json_pack("{s:b, s:b}", "enable_thinking", on, "thinking", on);
}

/* The token's spelling for templates into b; *text NULL when the model has none. */
static nib_status spelling(const nib_dialog *d, int32_t id, nib_buf *b, const char **text,
                           nib_error *e) {
    nib_str t = id >= 0 ? nib_token_text(d->tok, id) : (nib_str){0};
    *text = NULL;
    if (t.n == 0) return NIB_OK;
    if (!nib_buf_put(b, t.p, t.n)) return nib_fail_nomem(e, t.n, "a token's text");
    *text = b->data;
    return NIB_OK;
}

static nib_status tokenise_rendered(const nib_dialog *d, const nib_rendered *r, nib_ids *out,
                                    nib_error *e) {
    const nib_tokenizer_info *info = nib_tokenizer_get_info(d->tok);
    nib_tok_run *runs = nib_calloc(r->n_spans, sizeof *runs);
    if (!runs) return nib_fail_nomem(e, r->n_spans * sizeof *runs, "a prompt");
    for (size_t i = 0; i < r->n_spans; i++)
        runs[i] = (nib_tok_run){r->spans[i].len, r->spans[i].trusted};
    bool bos = info->add_bos && info->bos >= 0;
    nib_status s = NIB_OK;
    if (bos && !nib_ids_push(out, info->bos)) {
        s = nib_fail_nomem(e, sizeof *out->data, "a prompt");
        goto out;
    }
    NIB_TRY_OUT(
        nib_tokenize_runs(d->tok, r->text.data ? r->text.data : "", runs, r->n_spans, 0, out, e));
    if (bos && out->len > 1 && out->data[1] == info->bos) { /* the template wrote it too */
        memmove(out->data, out->data + 1, (out->len - 1) * sizeof *out->data);
        out->len--;
    }
out:
    nib_free(runs);
    return s;
}

nib_status nib_dialog_raw_prompt(nib_dialog *d, const char *text, size_t n, nib_ids *out,
                                 nib_error *e) {
    unsigned parse = d->applied.parse_special ? NIB_TOK_PARSE : 0;
    NIB_TRY(nib_tokenize(d->tok, text, n, NIB_TOK_SPECIAL | parse, out, e));
    const nib_tokenizer_info *info = nib_tokenizer_get_info(d->tok);
    if (info->add_eos && out->len > 1 && out->data[out->len - 1] == info->eos)
        out->len--; /* an end is no place to go on from */
    if (out->len == 0)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "nothing to continue: the prompt is empty and the model has no BOS token");
    return NIB_OK;
}

static nib_status joined(nib_dialog *d, size_t first, nib_ids *out, nib_error *e) {
    nib_buf text = {0};
    if (d->applied.system) nib_buf_puts(&text, d->applied.system);
    for (size_t i = first; i < d->messages.n; i++) nib_buf_puts(&text, d->messages.v[i].content);
    nib_status s = text.failed
                       ? nib_fail_nomem(e, text.len, "a prompt")
                       : nib_dialog_raw_prompt(d, text.data ? text.data : "", text.len, out, e);
    nib_buf_free(&text);
    return s;
}

/* The prompt when messages[first..) are sent. */
static nib_status build(nib_dialog *d, size_t first, nib_ids *out, bool *opened, nib_error *e) {
    out->len = 0;
    *opened = false;
    if (d->applied.raw) return joined(d, first, out, e);
    const nib_tokenizer_info *info = nib_tokenizer_get_info(d->tok);
    const char *system = d->applied.system && *d->applied.system ? d->applied.system : NULL;
    const char *bos_text, *eos_text;
    nib_buf bos = {0}, eos = {0};
    nib_rendered r = {0};
    json_t *extra = variables(d);
    nib_status s = extra ? NIB_OK : nib_fail_nomem(e, 1, "a template's variables");
    if (s != NIB_OK) goto out;
    NIB_TRY_OUT(spelling(d, info->bos, &bos, &bos_text, e));
    NIB_TRY_OUT(spelling(d, info->eos, &eos, &eos_text, e));
    NIB_TRY_OUT(nib_chat_render(d->tmpl, system, &d->messages, first, true, bos_text, eos_text,
                                extra, d->applied.now, &r, e));
    s = tokenise_rendered(d, &r, out, e);
    *opened = r.text.len && nib_think_open(r.text.data, r.text.len);
    nib_rendered_free(&r);
out:
    json_decref(extra);
    nib_buf_free(&bos);
    nib_buf_free(&eos);
    return s;
}

/* ---- what fits ---- */

/* The exchanges of messages[first..): where each begins. Returns how many; NULL when out of memory.
 */
static size_t *exchanges(const nib_messages *m, size_t first, size_t *n) {
    size_t *at = nib_calloc(m->n - first + 1, sizeof *at);
    *n = 0;
    for (size_t i = first; at && i < m->n; i++)
        if (i == first || strcmp(m->v[i].role, "user") == 0) at[(*n)++] = i;
    return at;
}

/* The fewest exchanges to leave out so that the prompt has at most 'limit' tokens; n when none. */
static nib_status fewest(nib_dialog *d, const size_t *at, size_t n, int64_t limit, nib_ids *ids,
                         size_t *found, nib_error *e) {
    size_t lo = 1, hi = n; /* all of them are known not to fit */
    bool opened;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        NIB_TRY(build(d, at[mid], ids, &opened, e));
        if ((int64_t)ids->len <= limit)
            hi = mid;
        else
            lo = mid + 1;
    }
    *found = lo;
    return NIB_OK;
}

static nib_status too_long(const nib_dialog *d, size_t n_tokens, size_t n_exchanges, nib_error *e) {
    long long n_ctx = (long long)nib_engine_n_ctx(d->en), train = (long long)d->info->n_ctx_train;
    char larger[80] = "";
    if (train > n_ctx)
        snprintf(larger, sizeof larger, ", or use a larger context (--ctx, up to %lld)", train);
    if (n_exchanges <= 1)
        return nib_fail(e, NIB_ERR_CONTEXT,
                        "the message, with system text and template, is %zu tokens but the context "
                        "holds %lld: shorten it%s",
                        n_tokens, n_ctx, larger);
    return nib_fail(e, NIB_ERR_CONTEXT,
                    "the last %zu exchanges are %zu tokens but the context holds %lld: keep fewer "
                    "(retention, now %d; -1 keeps what fits)%s",
                    n_exchanges, n_tokens, n_ctx, d->applied.retention, larger);
}

nib_status nib_dialog_prompt(nib_dialog *d, nib_ids *out, bool *opened, int64_t *n_dropped,
                             nib_error *e) {
    int64_t n_ctx = nib_engine_n_ctx(d->en), room = NIB_MAX(n_ctx / 4, (int64_t)1);
    if (d->applied.max_tokens > 0) room = NIB_MIN(room, d->applied.max_tokens);
    size_t first = nib_messages_window(&d->messages, d->applied.retention), n = 0;
    NIB_TRY(build(d, first, out, opened, e));
    *n_dropped = 0;
    if ((int64_t)out->len + room <= n_ctx) return NIB_OK;
    size_t *at = exchanges(&d->messages, first, &n);
    if (!at) return nib_fail_nomem(e, n * sizeof *at, "a prompt");
    nib_status s = NIB_OK;
    size_t drop = 0;
    if (d->applied.retention < 0 && n > 1) {
        NIB_TRY_OUT(fewest(d, at, n, n_ctx - room, out, &drop, e));
        if (drop < n) { /* in steps of about a quarter of what fits */
            size_t step = 1;
            while (step * 2 <= (n - drop) / 4) step *= 2;
            drop = NIB_ROUND_UP(drop, step);
        }
        drop = NIB_MIN(drop, n - 1);
        NIB_TRY_OUT(build(d, at[drop], out, opened, e));
    }
    if ((int64_t)out->len >= n_ctx) {
        s = too_long(d, out->len, n - drop, e);
        goto out;
    }
    *n_dropped = (int64_t)drop;
    if (drop > 0 && *n_dropped != d->told_dropped)
        nib_log(NIB_LOG_WARN,
                "the context is full (%lld tokens): the model no longer sees the first %zu of %zu "
                "exchanges",
                (long long)n_ctx, drop, n);
    d->told_dropped = *n_dropped;
out:
    nib_free(at);
    return s;
}
