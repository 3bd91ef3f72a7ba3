/* A conversation: its history, its settings, and the calls that add to it.
 *
 * Every call that generates leaves the history as it was when it fails. A reply interrupted after
 * something was shown counts as said. */
#include "engine/dialog_internal.h"

nib_dialog_params nib_dialog_defaults(const nib_model *m) {
    return (nib_dialog_params){.sampling = nib_model_sampling(m), .retention = -1, .now = NIB_NOW};
}

/* ---- settings ---- */

static const char *const *copy_list(nib_arena *a, const char *const *list) {
    size_t n = 0;
    while (list[n]) n++;
    const char **copy = nib_arena_calloc(a, n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++)
        if (!(copy[i] = nib_arena_strndup(a, list[i], strlen(list[i])))) return NULL;
    return copy;
}

/* Copies what *p points to into a. */
static nib_status own_params(nib_dialog_params *p, nib_arena *a, nib_error *e) {
    bool ok = true;
    if (p->system) ok = (p->system = nib_arena_strndup(a, p->system, strlen(p->system))) != NULL;
    if (ok && p->stop) ok = (p->stop = copy_list(a, p->stop)) != NULL;
    size_t bytes;
    if (ok && p->sampling.bias && p->sampling.n_bias > 0) {
        ok = nib_mul_size((size_t)p->sampling.n_bias, sizeof *p->sampling.bias, &bytes);
        nib_logit_bias *bias = ok ? nib_arena_alloc(a, bytes) : NULL;
        ok = bias != NULL;
        if (ok) p->sampling.bias = memcpy(bias, p->sampling.bias, bytes);
    }
    return ok ? NIB_OK : nib_fail_nomem(e, 1, "a dialog's settings");
}

static nib_status check_params(const nib_dialog_params *p, nib_error *e) {
    if (p->max_tokens < 0 || p->think_budget < 0 || p->stop_sentences < 0 || !(p->max_seconds >= 0))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected caps that are not negative, found %lld tokens, %g seconds, %d "
                        "sentences, %lld tokens of thought",
                        (long long)p->max_tokens, p->max_seconds, p->stop_sentences,
                        (long long)p->think_budget);
    if ((unsigned)p->think > NIB_THINK_OFF)
        return nib_fail(e, NIB_ERR_ARGUMENT, "thinking: expected auto, on or off, found %d",
                        (int)p->think);
    return NIB_OK;
}

static nib_status apply(nib_dialog *d, nib_dialog_params p, nib_error *e) {
    nib_arena own;
    nib_arena_init(&own, 0);
    nib_template *tmpl = NULL;
    nib_sampler *sampler = NULL;
    nib_status s;
    NIB_TRY_OUT(check_params(&p, e));
    NIB_TRY_OUT(own_params(&p, &own, e));
    if (!p.raw && !d->tmpl && d->info->chat_template) {
        s = nib_template_parse(&tmpl, d->info->chat_template, strlen(d->info->chat_template), e);
        if (s != NIB_OK) s = nib_fail_in(e, s, "%s: chat template", d->info->path);
        if (s != NIB_OK) goto out;
    }
    NIB_TRY_OUT(nib_sampler_new(&sampler, &p.sampling, (int32_t)d->info->n_vocab, e));
    if (tmpl) d->tmpl = tmpl;
    tmpl = NULL;
    nib_sampler_free(d->sampler);
    d->sampler = sampler;
    nib_arena_free(&d->own);
    d->own = own;
    d->p = d->applied = p;
    return NIB_OK;
out:
    nib_template_free(tmpl);
    nib_arena_free(&own);
    return s;
}

nib_dialog_params *nib_dialog_params_of(nib_dialog *d) {
    return &d->p;
}

nib_status nib_dialog_params_changed(nib_dialog *d, nib_error *e) {
    nib_status s = apply(d, d->p, e);
    if (s != NIB_OK) d->p = d->applied;
    return s;
}

nib_status nib_dialog_new(nib_dialog **out, nib_engine *en, const nib_dialog_params *p,
                          nib_error *e) {
    nib_model *m = nib_engine_model(en);
    const nib_model_info *info = nib_model_get_info(m);
    if (!info->causal)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'%s' is an embedding model (%s): it cannot write; use nib embed",
                        info->name, info->arch);
    nib_dialog *d = nib_calloc(1, sizeof *d);
    if (!d) return nib_fail_nomem(e, sizeof *d, "a dialog");
    d->en = en;
    d->info = info;
    d->tok = nib_model_tokenizer(m);
    nib_arena_init(&d->own, 0);
    nib_status s;
    NIB_TRY_OUT(apply(d, p ? *p : nib_dialog_defaults(m), e));
    NIB_TRY_OUT(nib_seq_new(&d->seq, en, e));
    *out = d;
    return NIB_OK;
out:
    nib_dialog_free(d);
    return s;
}

void nib_dialog_free(nib_dialog *d) {
    if (!d) return;
    nib_seq_free(d->seq);
    nib_sampler_free(d->sampler);
    nib_template_free(d->tmpl);
    nib_messages_free(&d->messages);
    nib_gen_free(d->gen);
    nib_arena_free(&d->own);
    nib_free(d);
}

/* ---- history ---- */

const nib_messages *nib_dialog_messages(const nib_dialog *d) {
    return &d->messages;
}
int64_t nib_dialog_context_used(const nib_dialog *d) {
    return nib_seq_len(d->seq);
}

int64_t nib_dialog_restore(nib_dialog *d, int64_t owner) {
    nib_ids prompt = {0};
    bool opened;
    int64_t n_dropped, same = 0, held = nib_seq_len(d->seq);
    const int32_t *has = nib_seq_tokens(d->seq);
    if (d->messages.n && nib_dialog_prompt(d, &prompt, &opened, &n_dropped, NULL) == NIB_OK) {
        while (same < held && same < (int64_t)prompt.len && has[same] == prompt.data[same]) same++;
        nib_seq_rewind(d->seq, same - same % NIB_PAGE);
        held = nib_seq_restore(d->seq, prompt.data, (int64_t)prompt.len, owner);
    }
    nib_ids_free(&prompt);
    return held;
}

void nib_dialog_keep(const nib_dialog *d, int64_t owner) {
    nib_seq_keep(d->seq, owner);
}

void nib_dialog_clear(nib_dialog *d) {
    nib_messages_truncate(&d->messages, 0);
    d->attempt = 0;
    d->told_dropped = 0;
}

bool nib_dialog_undo(nib_dialog *d) {
    for (size_t i = d->messages.n; i-- > 0;)
        if (strcmp(d->messages.v[i].role, "user") == 0) {
            nib_messages_truncate(&d->messages, i);
            d->attempt = 0;
            return true;
        }
    return false;
}

nib_status nib_dialog_set_messages(nib_dialog *d, const nib_messages *m, nib_error *e) {
    nib_messages fresh = {0};
    nib_status s = NIB_OK;
    size_t first = m->n && strcmp(m->v[0].role, "system") == 0;
    for (size_t i = first; i < m->n; i++)
        NIB_TRY_OUT(nib_messages_add(&fresh, m->v[i].role, m->v[i].content, m->v[i].thinking, e));
    if (first) {
        nib_dialog_params p = d->applied;
        p.system = m->v[0].content;
        NIB_TRY_OUT(apply(d, p, e));
    }
    nib_messages_free(&d->messages);
    d->messages = fresh;
    d->attempt = 0;
    d->told_dropped = 0;
    return NIB_OK;
out:
    nib_messages_free(&fresh);
    return s;
}

/* ---- replies ---- */

enum { PROMPT_STEP = 128 }; /* tokens between two looks at the clock and the cancel flag */

static uint64_t seed_of_reply(const nib_dialog *d) {
    return d->applied.sampling.seed_given ? d->applied.sampling.seed + d->attempt : nib_entropy();
}

/* One reply to q's prompt, reusing what the sequence holds of it. A full context and the engine's
 * cancel flag end it. */
static nib_status generate(nib_dialog *d, nib_gen_start *q, const nib_ids *prompt, nib_reply *out,
                           nib_error *e) {
    nib_gen *g;
    q->engine = d->en;
    q->seq = d->seq;
    q->sampler = d->sampler;
    q->p = &d->applied;
    q->prompt = prompt->data;
    q->n_prompt = prompt->len;
    q->n_logprobs = -1;
    NIB_TRY(nib_gen_new(&g, q, e));
    nib_gen_free(d->gen);
    d->gen = g;
    while (!nib_gen_finished(g)) {
        const int32_t *ids;
        const float *logits = NULL;
        int64_t n = NIB_MIN(nib_gen_pending(g, &ids), (int64_t)PROMPT_STEP);
        nib_status s = nib_seq_eval(d->seq, ids, n, &logits, e);
        if (s == NIB_ERR_CANCELLED)
            nib_gen_stop(g, "interrupted");
        else if (s == NIB_ERR_CONTEXT && nib_seq_len(d->seq) >= (int64_t)prompt->len)
            nib_gen_stop(g, "context");
        else
            NIB_TRY(s);
        if (s == NIB_OK) NIB_TRY(nib_gen_feed(g, logits, e));
    }
    return nib_gen_end(g, out, e);
}

/* Generates from the history as it stands and adds the reply to it, unless nothing came. */
static nib_status answer(nib_dialog *d, double start, nib_piece_fn fn, void *arg, nib_reply *out,
                         bool *added, nib_error *e) {
    nib_ids prompt = {0};
    nib_reply reply;
    int64_t n_dropped = 0;
    nib_gen_start q = {
        .raw = d->applied.raw, .seed = seed_of_reply(d), .start = start, .fn = fn, .arg = arg};
    nib_status s;
    NIB_TRY_OUT(nib_dialog_prompt(d, &prompt, &q.opened, &n_dropped, e));
    NIB_TRY_OUT(generate(d, &q, &prompt, &reply, e));
    bool said = *reply.text || reply.thinking || strcmp(reply.finish, "interrupted") != 0;
    if (said)
        NIB_TRY_OUT(nib_messages_add(&d->messages, "assistant", reply.text, reply.thinking, e));
    *added = said;
    reply.n_dropped = n_dropped;
    *out = reply;
out:
    nib_ids_free(&prompt);
    return s;
}

static nib_status add_user(nib_dialog *d, const char *user, nib_error *e) {
    const nib_dialog_params *p = &d->applied;
    if (!p->autocorrect_input || !p->dictionary)
        return nib_messages_add(&d->messages, "user", user, NULL, e);
    nib_buf fixed = {0};
    nib_status s = nib_autocorrect(p->dictionary, user, strlen(user), &fixed, e);
    if (s == NIB_OK)
        s = nib_messages_add(&d->messages, "user", fixed.len ? fixed.data : "", NULL, e);
    nib_buf_free(&fixed);
    return s;
}

nib_status nib_dialog_say(nib_dialog *d, const char *user, nib_piece_fn fn, void *arg,
                          nib_reply *out, nib_error *e) {
    double start = nib_now();
    size_t before = d->messages.n;
    uint64_t attempt = d->attempt;
    bool added = false;
    NIB_TRY(add_user(d, user, e));
    d->attempt = 0;
    nib_status s = answer(d, start, fn, arg, out, &added, e);
    if (added) return s;
    nib_messages_truncate(&d->messages, before);
    d->attempt = attempt;
    return s;
}

nib_status nib_dialog_regenerate(nib_dialog *d, nib_piece_fn fn, void *arg, nib_reply *out,
                                 nib_error *e) {
    double start = nib_now();
    size_t n = d->messages.n;
    bool replaces = n > 0 && strcmp(d->messages.v[n - 1].role, "assistant") == 0, added = false;
    if (n == 0 || (replaces && n == 1))
        return nib_fail(e, NIB_ERR_ARGUMENT, "there is no reply to generate again: say something");
    nib_message old = {0};
    if (replaces) old = d->messages.v[--d->messages.n]; /* its place stays free for it */
    d->attempt += replaces;
    nib_status s = answer(d, start, fn, arg, out, &added, e);
    if (!replaces) return s;
    if (added) {
        nib_free(old.role);
        nib_free(old.content);
        nib_free(old.thinking);
    } else {
        d->messages.v[d->messages.n++] = old;
        d->attempt--;
    }
    return s;
}

nib_status nib_dialog_complete(nib_dialog *d, const char *prompt, size_t len, nib_piece_fn fn,
                               void *arg, nib_reply *out, nib_error *e) {
    nib_ids ids = {0};
    nib_gen_start q = {
        .raw = true, .seed = seed_of_reply(d), .start = nib_now(), .fn = fn, .arg = arg};
    nib_status s;
    NIB_TRY_OUT(
        nib_prompt_text(nib_engine_model(d->en), prompt, len, d->applied.parse_special, &ids, e));
    long long n_ctx = (long long)nib_engine_n_ctx(d->en);
    if ((long long)ids.len >= n_ctx) {
        s = nib_fail(e, NIB_ERR_CONTEXT,
                     "the prompt is %zu tokens but the context holds %lld: shorten it, or use a "
                     "larger context (--ctx; this model was trained with %lld)",
                     ids.len, n_ctx, (long long)d->info->n_ctx_train);
        goto out;
    }
    NIB_TRY_OUT(generate(d, &q, &ids, out, e));
out:
    nib_ids_free(&ids);
    return s;
}
