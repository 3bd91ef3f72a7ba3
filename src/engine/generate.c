/* One reply: the prompt into the KV cache, then token by token until something ends it.
 *
 * A generation says which tokens are to be computed next and is told of their logits; who computes
 * them, alone (dialog.c) or with those of other generations (scheduler.c), it does not know. What
 * is to be computed is always the timeline, prompt and reply, behind what the sequence holds: so a
 * generation whose sequence was emptied goes on after computing it again, with the same bits.
 *
 * Text takes one path: token -> bytes of whole characters ('text') -> thoughts and answer
 * (nib_think_put) -> what no stop can take back (nib_stops_check) -> shown. Nothing that was shown
 * is taken back, and the reply is what was shown.
 *
 * Live correction works on the answer by pieces: a finished sentence or line is corrected before it
 * is shown. When that changes it, the tokens behind the last one that agrees with the corrected
 * text are forgotten (sequence and sampler are rewound), the corrected text is evaluated in their
 * place, and the model goes on from there. A piece that vanishes ("!!" behind "!") would come back
 * for ever: the token that began it is barred from that place.
 *
 * Invariant: the sequence holds a beginning of the prompt and ids; the sampler has accepted the
 * prompt and all of ids. */
#include <math.h>
#include "engine/engine.h"

typedef struct nib_gen reply;
struct nib_gen {
    nib_seq *seq;
    nib_sampler *sampler;
    const nib_dialog_params *p;
    const nib_tokenizer *tok;
    int64_t n_vocab;
    nib_piece_fn fn;
    void *arg;
    nib_error *e; /* of the call under way */
    double start, began;
    bool raw;
    int n_logprobs;
    nib_reply out;
    nib_buf answer, thought;
    nib_stops stops;
    nib_detok detok;
    nib_think_split split;
    nib_buf text, scratch, fixed;
    nib_ids prompt, ids;         /* ids: the reply's tokens */
    nib_ids ends;                /* of each token: text's length behind it; -1 inside a character */
    size_t shown_thought, shown; /* bytes of thought and answer */
    size_t safe;                 /* bytes of the answer that no stop can take back */
    const char *finish;          /* NULL: goes on */
    bool prompted, stopped;      /* stopped: by its text: the answer is cut and shown */
    const float *logits;
    int64_t n_prompt, n_thought;
    bool by_piece, closed; /* closed: the budget has closed this thought */
    float *masked;
    nib_ids barred; /* tokens not to be picked at place barred_at */
    int64_t barred_at;
};

static double now_since(const reply *r) {
    return nib_now() - r->start;
}

/* ---- showing ---- */

static nib_status show(reply *r, nib_piece_kind kind, const char *p, size_t n) {
    if (n == 0) return NIB_OK;
    nib_buf_clear(&r->scratch);
    if (!nib_buf_put(&r->scratch, p, n)) return nib_fail_nomem(r->e, n, "a piece of text");
    nib_piece piece = {.kind = kind, .text = r->scratch.data, .len = n};
    if (r->fn && !r->fn(r->arg, &piece)) r->finish = "interrupted";
    return NIB_OK;
}

static nib_status show_thought(reply *r) {
    size_t n = r->thought.len - r->shown_thought;
    const char *p = n ? r->thought.data + r->shown_thought : "";
    r->shown_thought = r->thought.len;
    return show(r, NIB_PIECE_THOUGHT, p, n);
}

/* White space at the end may turn out to be the end of the reply. */
static size_t without_space(const reply *r, size_t end) {
    if (r->raw || !r->answer.data) return end;
    while (end > r->shown && strchr(" \t\r\n", r->answer.data[end - 1])) end--;
    return end;
}

static nib_status show_answer(reply *r, size_t end) {
    if (end <= r->shown) return NIB_OK;
    const char *p = r->answer.data + r->shown;
    size_t n = end - r->shown;
    r->shown = end;
    return show(r, NIB_PIECE_ANSWER, p, n);
}

/* ---- tokens ---- */

/* A NUL character would end C strings early: it becomes U+FFFD, as bytes that are no text do. */
static bool put_text(nib_buf *to, const char *p, size_t n) {
    for (size_t i = 0, k; i < n; i += k + 1) {
        k = strnlen(p + i, n - i);
        nib_buf_put(to, p + i, k);
        if (i + k < n) nib_buf_puts(to, "\xef\xbf\xbd");
    }
    return !to->failed;
}

/* Adds a token to the reply, and what it says to the text. */
static nib_status append(reply *r, int32_t id) {
    const nib_tokenizer *t = r->tok;
    NIB_TRY(nib_sampler_accept(r->sampler, id, r->e));
    /* Tags of thoughts may be control tokens, whose text is otherwise nothing. */
    bool tag = !r->raw && nib_token_get_type(t, id) == NIB_TOKEN_CONTROL &&
               nib_think_spells(nib_token_text(t, id));
    nib_buf_clear(&r->scratch);
    bool ok = nib_detok_put(&r->detok, t, id, tag, &r->scratch) == NIB_OK &&
              put_text(&r->text, r->scratch.data, r->scratch.len) && nib_ids_push(&r->ids, id) &&
              nib_ids_push(&r->ends, r->detok.n_held ? -1 : (int32_t)r->text.len);
    return ok ? NIB_OK : nib_fail_nomem(r->e, r->text.len, "a reply");
}

/* ---- live correction ---- */

/* r->fixed = the answer up to 'end', corrected. */
static nib_status correct(reply *r, size_t end) {
    const nib_dialog_params *p = r->p;
    nib_buf_clear(&r->fixed);
    const char *text = r->answer.data;
    size_t n = end;
    if (p->autocorrect_output && p->dictionary) {
        NIB_TRY(nib_autocorrect(p->dictionary, text, n, &r->fixed, r->e));
        if (!p->correct) return NIB_OK;
        nib_buf_clear(&r->scratch);
        if (!nib_buf_put(&r->scratch, r->fixed.data, r->fixed.len))
            return nib_fail_nomem(r->e, n, "a corrected text");
        text = r->scratch.data, n = r->scratch.len;
        nib_buf_clear(&r->fixed);
    }
    return nib_text_cleanup(text, n, &r->fixed, r->e);
}

static nib_status bar(reply *r, int32_t id) {
    int64_t at = r->n_prompt + (int64_t)r->ids.len;
    size_t bytes = (size_t)r->n_vocab * sizeof *r->masked;
    if (at != r->barred_at) r->barred.len = 0;
    r->barred_at = at;
    if (!r->masked) r->masked = nib_alloc(bytes);
    if (!r->masked || !nib_ids_push(&r->barred, id))
        return nib_fail_nomem(r->e, bytes, "barred tokens");
    return NIB_OK;
}

/* The timeline from the answer's byte 'from' on becomes 'with'; what was generated behind is
 * forgotten. */
static nib_status rewrite(reply *r, size_t from, const char *with, size_t n) {
    size_t base = r->text.len - r->split.held.len - (r->answer.len - from), k = 0, at = 0;
    size_t n_computed = (size_t)(nib_seq_len(r->seq) - r->n_prompt);
    for (size_t i = 0; i < r->ids.len && i < n_computed; i++) {
        if (r->ends.data[i] < 0 || (size_t)r->ends.data[i] > base) continue;
        k = i + 1;
        at = (size_t)r->ends.data[i];
    }
    int32_t began = k < r->ids.len ? r->ids.data[k] : -1;
    nib_seq_rewind(r->seq, r->n_prompt + (int64_t)k);
    nib_sampler_rewind(r->sampler, (size_t)(r->n_prompt + (int64_t)k));
    r->ids.len = r->ends.len = k;
    r->detok = (nib_detok){0};
    nib_buf_clear(&r->split.held);
    r->text.len = base;
    r->answer.len = from;
    if (!nib_buf_put(&r->text, with, n) || !nib_buf_put(&r->answer, with, n))
        return nib_fail_nomem(r->e, n, "a corrected text");
    nib_buf rest = {0};
    nib_ids ids = {0};
    nib_status s = NIB_OK;
    if (!nib_buf_put(&rest, r->text.data + at, r->text.len - at)) {
        s = nib_fail_nomem(r->e, r->text.len - at, "a corrected text");
        goto out;
    }
    r->text.len = at; /* append() brings it back */
    NIB_TRY_OUT(nib_tokenize(r->tok, rest.data, rest.len, NIB_TOK_NO_PREFIX, &ids, r->e));
    for (size_t i = 0; i < ids.len; i++) NIB_TRY_OUT(append(r, ids.data[i]));
    if (!ids.len) /* the last token is computed again, for its logits */
        nib_seq_rewind(r->seq, nib_seq_len(r->seq) - 1);
    if (n == 0 && at == base && began >= 0) NIB_TRY_OUT(bar(r, began));
out:
    nib_buf_free(&rest);
    nib_ids_free(&ids);
    return s;
}

/* Corrects and shows the finished pieces; with 'last', all that is left. */
static nib_status show_pieces(reply *r, bool last, bool *rewritten) {
    while (r->shown < r->safe) {
        size_t end = last ? r->safe : nib_piece_end(r->answer.data, r->safe, r->shown);
        if (end == SIZE_MAX) return NIB_OK;
        NIB_TRY(correct(r, end));
        size_t was = end - r->shown, now = was;
        const char *with = r->answer.data + r->shown;
        /* What was shown stays, whatever a correction makes of it with more behind. */
        if (r->fixed.len >= r->shown &&
            (r->shown == 0 || memcmp(r->fixed.data, r->answer.data, r->shown) == 0)) {
            now = r->fixed.len - r->shown;
            with = r->fixed.data + r->shown;
        }
        if (now != was || (now && memcmp(with, r->answer.data + r->shown, now) != 0)) {
            r->out.n_corrected++;
            if (last) { /* nothing is generated behind it: only the text counts */
                r->answer.len = r->shown;
                if (!nib_buf_put(&r->answer, with, now))
                    return nib_fail_nomem(r->e, now, "a corrected text");
            } else {
                NIB_TRY(rewrite(r, r->shown, with, now));
            }
            *rewritten = true;
            r->safe = r->answer.len;
            end = r->shown + now;
        }
        NIB_TRY(show_answer(r, last ? without_space(r, end) : end));
        if (last || r->finish || *rewritten) break;
    }
    return NIB_OK;
}

/* ---- from text to what is shown ---- */

/* Takes the text behind 'from' through thoughts, stops and correction. last: no more comes.
 * *rewritten: the timeline was replaced. */
static nib_status digest(reply *r, size_t from, bool last, bool *rewritten) {
    const char *p = r->text.len > from ? r->text.data + from : "";
    if (nib_think_put(&r->split, p, r->text.len - from, last, &r->thought, &r->answer) != NIB_OK)
        return nib_fail_nomem(r->e, r->text.len, "a reply");
    NIB_TRY(show_thought(r));
    if (r->finish && !last) return NIB_OK;
    nib_stop_result stop = nib_stops_check(&r->stops, r->answer.data ? r->answer.data : "",
                                           r->answer.len, r->safe, last);
    r->safe = stop.safe;
    if (stop.stopped) {
        for (const char *const *w = r->stops.strings; w && *w && !r->out.stop; w++)
            if (r->answer.data && r->answer.len - stop.safe >= strlen(*w) &&
                memcmp(r->answer.data + stop.safe, *w, strlen(*w)) == 0)
                r->out.stop = *w;
        r->answer.len = stop.safe;
        r->finish = stop.reason;
        r->stopped = last = true;
    }
    if (r->by_piece) return show_pieces(r, last, rewritten);
    return show_answer(r, without_space(r, r->safe));
}

/* ---- generating ---- */

static int32_t pick(reply *r) {
    if (!r->barred.len || r->barred_at != r->n_prompt + (int64_t)r->ids.len)
        return nib_sampler_pick(r->sampler, r->logits);
    memcpy(r->masked, r->logits, (size_t)r->n_vocab * sizeof *r->masked);
    for (size_t i = 0; i < r->barred.len; i++) r->masked[r->barred.data[i]] = -INFINITY;
    return nib_sampler_pick(r->sampler, r->masked);
}

/* The thought has used up its budget: the model is made to close it. */
static nib_status close_thought(reply *r) {
    nib_str tag = nib_think_closing(&r->split);
    nib_buf text = {0};
    nib_ids ids = {0};
    nib_status s = NIB_OK;
    r->closed = true;
    if (!nib_buf_printf(&text, "\n%.*s\n\n", (int)tag.n, tag.p)) {
        s = nib_fail_nomem(r->e, tag.n, "a tag");
        goto out;
    }
    NIB_TRY_OUT(
        nib_tokenize(r->tok, text.data, text.len, NIB_TOK_PARSE | NIB_TOK_NO_PREFIX, &ids, r->e));
    for (size_t i = 0; i < ids.len && !r->finish; i++) {
        size_t from = r->text.len;
        bool rewritten = false;
        NIB_TRY_OUT(append(r, ids.data[i]));
        NIB_TRY_OUT(digest(r, from, false, &rewritten));
        r->out.n_generated++;
    }
out:
    nib_buf_free(&text);
    nib_ids_free(&ids);
    return s;
}

static bool over_time(const reply *r) {
    return r->p->max_seconds > 0 && now_since(r) >= r->p->max_seconds;
}

/* A number also where the probability is none that a float could hold. */
static double logprob(float logit, double base) {
    double v = (double)logit - base;
    return v > -9999 ? v : -9999;
}

/* ln of the probability of a token, and of the most probable ones. */
static nib_status tell_odds(reply *r, int32_t id, bool thought) {
    nib_odds o = {.token = id, .thought = thought};
    float max = -INFINITY; /* compared, not fmax: gcc 12 for arm64 breaks down at that */
    double sum = 0;
    for (int64_t i = 0; i < r->n_vocab; i++)
        if (r->logits[i] > max) max = r->logits[i];
    for (int64_t i = 0; i < r->n_vocab; i++) sum += exp((double)r->logits[i] - (double)max);
    double base = (double)max + log(sum);
    o.logprob = logprob(r->logits[id], base);
    int most = NIB_MIN(r->n_logprobs, (int)NIB_ODDS_MAX);
    for (int64_t i = 0; i < r->n_vocab && most > 0; i++) {
        double v = logprob(r->logits[i], base);
        if (o.n_top == most && !(v > o.top[most - 1].logprob)) continue;
        int at = o.n_top < most ? o.n_top++ : most - 1;
        for (; at > 0 && v > o.top[at - 1].logprob; at--) o.top[at] = o.top[at - 1];
        o.top[at].token = (int32_t)i;
        o.top[at].logprob = v;
    }
    nib_piece piece = {.kind = NIB_PIECE_ODDS, .text = "", .odds = &o};
    if (r->fn && !r->fn(r->arg, &piece)) r->finish = "interrupted";
    return NIB_OK;
}

static nib_status step(reply *r) {
    const nib_dialog_params *p = r->p;
    int32_t id = pick(r);
    if (r->out.n_generated++ == 0) r->out.first_token_seconds = now_since(r);
    if (nib_token_is_eog(r->tok, id) && !p->ignore_end) {
        r->finish = "stop";
        return NIB_OK;
    }
    size_t from = r->text.len;
    bool rewritten = false;
    if (r->n_logprobs >= 0) NIB_TRY(tell_odds(r, id, r->split.inside));
    NIB_TRY(append(r, id));
    if (r->split.inside)
        r->n_thought++;
    else
        r->closed = false;
    NIB_TRY(digest(r, from, false, &rewritten));
    if (r->finish) return NIB_OK;
    if (p->max_tokens > 0 && r->out.n_generated >= p->max_tokens)
        r->finish = "length";
    else if (over_time(r))
        r->finish = "time";
    bool spent = p->think_budget > 0 && r->n_thought >= p->think_budget && !r->closed;
    if (!r->finish && r->split.inside && spent) NIB_TRY(close_thought(r));
    return NIB_OK;
}

nib_status nib_gen_new(nib_gen **out, const nib_gen_start *q, nib_error *e) {
    const nib_model *m = nib_engine_model(q->engine);
    reply *r = nib_calloc(1, sizeof *r);
    if (!r) return nib_fail_nomem(e, sizeof *r, "a reply");
    r->seq = q->seq;
    r->sampler = q->sampler;
    r->p = q->p;
    r->tok = nib_model_tokenizer(m);
    r->n_vocab = nib_model_get_info(m)->n_vocab;
    r->fn = q->fn;
    r->arg = q->arg;
    r->start = q->start;
    r->raw = q->raw;
    r->n_logprobs = q->n_logprobs;
    r->out.seed = q->seed;
    r->stops = (nib_stops){q->p->stop, q->p->stop_sentences};
    r->by_piece = q->p->correct || (q->p->autocorrect_output && q->p->dictionary);
    r->barred_at = -1;
    r->split.inside = q->opened;
    r->split.answering = q->raw;
    r->split.trim = !q->raw;
    int64_t n = (int64_t)q->n_prompt, keep = 0, held = nib_seq_len(r->seq);
    nib_status s = NIB_OK;
    if (!nib_ids_append(&r->prompt, q->prompt, q->n_prompt)) {
        s = nib_fail_nomem(e, q->n_prompt * sizeof *q->prompt, "a prompt");
        goto out;
    }
    nib_sampler_restart(r->sampler, q->seed);
    for (int64_t i = 0; i < n; i++) NIB_TRY_OUT(nib_sampler_accept(r->sampler, q->prompt[i], e));
    /* The last token is computed in any case: its logits are wanted. */
    const int32_t *has = nib_seq_tokens(r->seq);
    while (keep < held && keep < n - 1 && has[keep] == q->prompt[keep]) keep++;
    nib_seq_rewind(r->seq, keep);
    r->n_prompt = r->out.n_prompt = n;
    r->out.n_cached = keep;
    *out = r;
    return NIB_OK;
out:
    nib_gen_free(r);
    return s;
}

int64_t nib_gen_pending(const nib_gen *r, const int32_t **ids) {
    int64_t held = nib_seq_len(r->seq), done = held - r->n_prompt;
    if (r->finish) return 0;
    if (done < 0) {
        *ids = r->prompt.data + held;
        return -done;
    }
    *ids = r->ids.data + done;
    return (int64_t)r->ids.len - done;
}

static nib_status fed(reply *r) {
    int64_t held = nib_seq_len(r->seq);
    if (!r->prompted) {
        nib_piece piece = {
            .kind = NIB_PIECE_PROMPT, .text = "", .done = held, .total = r->n_prompt};
        if (r->fn && !r->fn(r->arg, &piece)) r->finish = "interrupted";
        if (!r->finish && over_time(r)) r->finish = "time";
        r->prompted = held >= r->n_prompt;
        r->out.prompt_seconds = r->began = now_since(r);
    }
    if (r->finish || held < r->n_prompt + (int64_t)r->ids.len) return NIB_OK;
    return step(r);
}

nib_status nib_gen_feed(nib_gen *r, const float *logits, nib_error *e) {
    r->e = e;
    r->logits = logits;
    return fed(r);
}

bool nib_gen_wants_logits(const nib_gen *r, int64_t n) {
    return nib_seq_len(r->seq) + n >= r->n_prompt + (int64_t)r->ids.len;
}

int64_t nib_gen_n_generated(const nib_gen *r) {
    return r->out.n_generated;
}

void nib_gen_stop(nib_gen *r, const char *why) {
    if (!r->finish) r->finish = why;
}

const char *nib_gen_finished(const nib_gen *r) {
    return r->finish;
}

nib_status nib_gen_end(nib_gen *r, nib_reply *out, nib_error *e) {
    r->e = e;
    /* What is held back is shown, or dropped when the listener has left. */
    if (!r->stopped && strcmp(r->finish, "interrupted") != 0) {
        size_t from = r->text.len;
        bool rewritten = false;
        /* Half a character is broken text when the model ends with it, and nothing when it was cut
         * off. */
        if (strcmp(r->finish, "stop") == 0 && nib_detok_flush(&r->detok, &r->text) != NIB_OK)
            return nib_fail_nomem(r->e, r->text.len, "a reply");
        NIB_TRY(digest(r, from, true, &rewritten));
    }
    r->answer.len = NIB_MIN(r->answer.len, r->shown);
    if (!nib_buf_puts(&r->answer, "") || !nib_buf_puts(&r->thought, ""))
        return nib_fail_nomem(e, 1, "a reply");
    r->out.generate_seconds = now_since(r) - r->began;
    r->out.finish = r->finish;
    r->out.n_thought = r->n_thought;
    r->out.text = r->answer.data;
    r->out.thinking = r->thought.len ? r->thought.data : NULL;
    *out = r->out;
    return NIB_OK;
}

void nib_gen_free(nib_gen *r) {
    if (!r) return;
    nib_think_free(&r->split);
    nib_buf_free(&r->answer);
    nib_buf_free(&r->thought);
    nib_buf_free(&r->text);
    nib_buf_free(&r->scratch);
    nib_buf_free(&r->fixed);
    nib_ids_free(&r->prompt);
    nib_ids_free(&r->ids);
    nib_ids_free(&r->ends);
    nib_ids_free(&r->barred);
    nib_free(r->masked);
    nib_free(r);
}
