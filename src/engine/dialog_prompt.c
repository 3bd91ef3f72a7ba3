/* What of a conversation is sent.
 *
 * When the history does not fit and the user did not fix what is sent, the oldest exchanges are
 * left out. How many is a function of the messages alone, and rises in steps: a prompt whose
 * beginning changes has to be computed anew, so it should not change with every message. */
#include "engine/dialog_internal.h"

/* The prompt when messages[first..) are sent. */
static nib_status build(nib_dialog *d, size_t first, nib_ids *out, bool *opened, nib_error *e) {
    nib_prompt q = {.model = nib_engine_model(d->en),
                    .tmpl = d->tmpl,
                    .p = &d->applied,
                    .messages = &d->messages,
                    .first = first};
    return nib_prompt_build(&q, out, opened, e);
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
