/* Many replies at once: one thread owns the engine, one prepares prompts.
 *
 * A job's way: incoming -> (preparing thread: template, tokenizer; READY or END) -> ready -> slots,
 * one for each reply wanted -> END when all are whole. Lists and counts are guarded by 'lock'; what
 * computes (slots, engine) belongs to the computing thread alone, which copies what others may ask
 * about under the lock after each step.
 *
 * A step takes the next token of every reply (they are what people wait for), then prompts in
 * pieces of 'chunk' tokens. Prompts share that evenly, and the oldest takes what the others leave,
 * so a short prompt does not wait for a long one, nor a long one for ever.
 *
 * Without a free page the newest reply steps back: its pages stay known while there is room, its
 * text and its random numbers stay, and the timeline is computed again later. The oldest never
 * steps back, so something always gets on. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include "engine/internal.h"

struct nib_job {
    nib_job *next;
    nib_sched *s;
    nib_request *q;
    nib_event_fn fn;
    void *arg;
    uint64_t id;
    atomic_int refs; /* the scheduler's and the submitter's */
    atomic_bool cancel, paused, finish;
    nib_ids prompt;
    bool opened;
    double submitted;
    uint64_t seed;
    int n, n_started, n_ended; /* replies (or texts) */
};

typedef struct slot {
    nib_job *job; /* NULL: free */
    int index;
    nib_gen *gen;
    nib_seq *seq;
    nib_sampler *sampler;
    uint64_t age; /* smaller is older */
    bool away;    /* stepped back: holds no pages */
    double last;  /* when its last token came */
    nib_step step;
    int at; /* of the engine's items */
    nib_error error;
} slot;

struct nib_sched {
    nib_engine *en;
    nib_model *model;
    nib_template *tmpl;
    nib_sched_params p;
    pthread_t computing, preparing;
    bool started[2];
    pthread_mutex_t lock;
    pthread_cond_t come, work; /* for the preparing and the computing thread */
    bool quit, rested;         /* memory for passes was given back since the last */
    nib_job *incoming, *ready; /* in order of arrival */
    int n_waiting;
    uint64_t next_id;
    nib_sched_stats stats;
    nib_slot_info *infos;
    /* the computing thread's */
    slot *slots;
    nib_step *steps;
    uint64_t age;
};

/* ---- requests ---- */

nib_request *nib_request_new(const nib_model *m) {
    nib_request *q = nib_calloc(1, sizeof *q);
    if (!q) return NULL;
    nib_arena_init(&q->arena, (size_t)256 << 20);
    q->p =
        m ? nib_dialog_defaults(m)
          : (nib_dialog_params){.sampling = nib_sample_defaults(), .retention = -1, .now = NIB_NOW};
    q->n_logprobs = -1;
    return q;
}

void nib_request_free(nib_request *q) {
    if (!q) return;
    nib_messages_free(&q->messages);
    nib_buf_free(&q->text);
    nib_ids_free(&q->ids);
    for (size_t i = 0; i < q->n_texts; i++) nib_ids_free(&q->texts[i].ids);
    nib_arena_free(&q->arena);
    nib_free(q);
}

/* ---- jobs ---- */

static void append(nib_job **list, nib_job *j) {
    j->next = NULL;
    while (*list) list = &(*list)->next;
    *list = j;
}

static void job_unref(nib_job *j) {
    if (!j || atomic_fetch_sub(&j->refs, 1) > 1) return;
    nib_request_free(j->q);
    nib_ids_free(&j->prompt);
    nib_free(j);
}

static void tell(nib_job *j, nib_event ev) {
    j->fn(j->arg, &ev);
}

static void wake(nib_sched *s) {
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->work);
    pthread_cond_broadcast(&s->come);
    pthread_mutex_unlock(&s->lock);
}

void nib_job_cancel(nib_job *j) {
    if (!atomic_exchange(&j->cancel, true)) wake(j->s);
}
void nib_job_finish(nib_job *j) {
    if (!atomic_exchange(&j->finish, true)) wake(j->s);
}
void nib_job_pause(nib_job *j, bool pause) {
    if (atomic_exchange(&j->paused, pause) && !pause) wake(j->s);
}
void nib_job_release(nib_job *j) {
    job_unref(j);
}

/* The last word on a job. s is NIB_OK, or *e says what went wrong. */
static void end_job(nib_sched *s, nib_job *j, nib_status status, const nib_error *e) {
    pthread_mutex_lock(&s->lock);
    s->stats.n_cancelled += status == NIB_ERR_CANCELLED;
    s->stats.n_errors += status != NIB_OK && status != NIB_ERR_CANCELLED;
    pthread_mutex_unlock(&s->lock);
    tell(j, (nib_event){.kind = NIB_EVENT_END, .status = status, .error = e});
    job_unref(j);
}

static void end_cancelled(nib_sched *s, nib_job *j) {
    nib_error e;
    end_job(s, j, nib_fail(&e, NIB_ERR_CANCELLED, "cancelled"), &e);
}

nib_status nib_sched_submit(nib_sched *s, nib_request *q, nib_event_fn fn, void *arg, nib_job **out,
                            nib_error *e) {
    nib_job *j = nib_calloc(1, sizeof *j);
    if (!j) return nib_fail_nomem(e, sizeof *j, "a request");
    *j = (nib_job){.s = s, .q = q, .fn = fn, .arg = arg, .submitted = nib_now()};
    atomic_init(&j->refs, 2);
    j->n = q->n_texts ? (int)q->n_texts : NIB_MAX(q->n, 1);
    pthread_mutex_lock(&s->lock);
    bool full = s->n_waiting >= s->p.n_queue;
    if (full) {
        s->stats.n_refused++;
    } else {
        j->id = ++s->next_id;
        *out = j; /* before anyone can hear of it */
        append(&s->incoming, j);
        s->n_waiting++;
        s->stats.n_requests++;
        pthread_cond_signal(&s->come);
    }
    pthread_mutex_unlock(&s->lock);
    if (!full) return NIB_OK;
    nib_free(j);
    return nib_fail(e, NIB_ERR_LIMIT, "%d requests are waiting already: try again in a moment",
                    s->p.n_queue);
}

/* ---- preparing: from messages to tokens ---- */

static nib_status too_long(const nib_sched *s, size_t n, nib_error *e) {
    return nib_fail(e, NIB_ERR_CONTEXT,
                    "This model's maximum context length is %lld tokens, but the request has %zu "
                    "tokens: shorten it, or start the server with a larger --ctx",
                    (long long)nib_engine_n_ctx(s->en), n);
}

static nib_status check_ids(const nib_sched *s, const nib_ids *ids, nib_error *e) {
    int64_t n_vocab = nib_model_get_info(s->model)->n_vocab;
    for (size_t i = 0; i < ids->len; i++)
        if (ids->data[i] < 0 || ids->data[i] >= n_vocab)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "token id %d at position %zu is out of range: the vocabulary has %lld",
                            ids->data[i], i, (long long)n_vocab);
    return NIB_OK;
}

static nib_status prepare_texts(nib_sched *s, nib_request *q, int64_t *total, nib_error *e) {
    int64_t n_ctx = nib_engine_n_ctx(s->en);
    for (size_t i = 0; i < q->n_texts; i++) {
        struct nib_request_text *t = &q->texts[i];
        if (t->text.p)
            NIB_TRY(nib_tokenize(nib_model_tokenizer(s->model), t->text.p, t->text.n,
                                 NIB_TOK_SPECIAL, &t->ids, e));
        NIB_TRY(check_ids(s, &t->ids, e));
        if (t->ids.len == 0)
            return nib_fail(e, NIB_ERR_ARGUMENT, "input %zu is empty: there is nothing to embed",
                            i);
        if ((int64_t)t->ids.len > n_ctx) return too_long(s, t->ids.len, e);
        *total += (int64_t)t->ids.len;
    }
    return NIB_OK;
}

static nib_status prepare(nib_sched *s, nib_job *j, int64_t *n, nib_error *e) {
    nib_request *q = j->q;
    if (q->n_texts) return prepare_texts(s, q, n, e);
    if (!nib_model_get_info(s->model)->causal)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'%s' is an embedding model: it cannot write, only embed",
                        nib_model_get_info(s->model)->name);
    if (!q->p.raw) {
        nib_prompt p = {.model = s->model,
                        .tmpl = s->tmpl,
                        .p = &q->p,
                        .messages = &q->messages,
                        .go_on = q->go_on};
        NIB_TRY(nib_prompt_build(&p, &j->prompt, &j->opened, e));
    } else if (q->ids.len) {
        NIB_TRY(check_ids(s, &q->ids, e));
        j->prompt = q->ids;
        q->ids = (nib_ids){0};
    } else {
        NIB_TRY(nib_prompt_text(s->model, q->text.data ? q->text.data : "", q->text.len,
                                q->p.parse_special, &j->prompt, e));
    }
    if ((int64_t)j->prompt.len >= nib_engine_n_ctx(s->en)) return too_long(s, j->prompt.len, e);
    if (j->prompt.len == 0)
        return nib_fail(e, NIB_ERR_ARGUMENT, "the prompt is empty: there is nothing to continue");
    j->seed = q->p.sampling.seed_given ? q->p.sampling.seed : nib_entropy();
    *n = (int64_t)j->prompt.len;
    return NIB_OK;
}

static void *prepare_all(void *arg) {
    nib_sched *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->quit && !s->incoming) pthread_cond_wait(&s->come, &s->lock);
        if (s->quit) break;
        nib_job *j = s->incoming;
        s->incoming = j->next;
        pthread_mutex_unlock(&s->lock);
        nib_error e;
        int64_t n = 0;
        nib_status status = atomic_load(&j->cancel) ? nib_fail(&e, NIB_ERR_CANCELLED, "cancelled")
                                                    : prepare(s, j, &n, &e);
        if (status == NIB_OK) tell(j, (nib_event){.kind = NIB_EVENT_READY, .n_prompt = n});
        pthread_mutex_lock(&s->lock);
        if (status == NIB_OK && !j->q->dry) {
            append(&s->ready, j);
            pthread_cond_signal(&s->work);
        } else {
            s->n_waiting--;
            pthread_mutex_unlock(&s->lock);
            end_job(s, j, status, &e);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- slots ---- */

static void count(nib_histogram *h, double seconds) {
    static const double bounds[] = {
#define NIB_BUCKET_BOUND(b) b,
        NIB_BUCKETS(NIB_BUCKET_BOUND)
#undef NIB_BUCKET_BOUND
    };
    for (size_t i = 0; i < NIB_N_BUCKETS; i++) h->n[i] += seconds <= bounds[i];
    h->count++;
    h->sum += seconds;
}

static bool on_piece(void *arg, const nib_piece *p) {
    slot *x = arg;
    tell(x->job, (nib_event){.kind = NIB_EVENT_PIECE, .index = x->index, .piece = p});
    return true;
}

static void slot_clear(slot *x) {
    nib_gen_free(x->gen);
    nib_seq_free(x->seq);
    nib_sampler_free(x->sampler);
    *x = (slot){0};
}

/* The slot's part of the job is over; the job too when it was the last. */
static void leave(nib_sched *s, slot *x, nib_status status, const nib_error *e) {
    nib_job *j = x->job;
    nib_error copy = e ? *e : (nib_error){0};
    slot_clear(x);
    j->n_ended++;
    if (status != NIB_OK) atomic_store(&j->cancel, true); /* its other replies */
    for (int i = 0; i < s->p.n_parallel; i++)
        if (s->slots[i].job == j) {
            if (status != NIB_OK) s->slots[i].error = copy;
            return;
        }
    pthread_mutex_lock(&s->lock); /* those not yet begun, of a job that failed */
    bool more = j->n_started < j->n;
    for (nib_job **at = &s->ready; more && *at; at = &(*at)->next)
        if (*at == j) {
            if (status == NIB_OK && !atomic_load(&j->cancel)) {
                pthread_mutex_unlock(&s->lock);
                return;
            }
            *at = j->next;
            s->n_waiting--;
            break;
        }
    pthread_mutex_unlock(&s->lock);
    end_job(s, j, status, &copy);
}

static void reply_done(nib_sched *s, slot *x) {
    nib_reply r;
    nib_error e;
    nib_seq_publish(x->seq);
    if (x->job->q->keep > 0) nib_seq_keep(x->seq, x->job->q->keep);
    nib_status status = nib_gen_end(x->gen, &r, &e);
    if (status == NIB_OK) {
        pthread_mutex_lock(&s->lock);
        s->stats.n_replies++;
        s->stats.prompt_tokens += (uint64_t)r.n_prompt;
        s->stats.cached_tokens += (uint64_t)r.n_cached;
        s->stats.generated_tokens += (uint64_t)r.n_generated;
        s->stats.prompt_seconds += r.prompt_seconds;
        s->stats.generate_seconds += r.generate_seconds;
        pthread_mutex_unlock(&s->lock);
        tell(x->job, (nib_event){.kind = NIB_EVENT_REPLY, .index = x->index, .reply = &r});
    }
    leave(s, x, status, &e);
}

/* A reply begins in slot x, from what is known of its prompt. */
static nib_status begin(nib_sched *s, slot *x, nib_job *j, int index, nib_error *e) {
    nib_request *q = j->q;
    *x = (slot){.job = j, .index = index, .age = ++s->age};
    if (q->n_texts) return NIB_OK;
    NIB_TRY(nib_seq_new(&x->seq, s->en, e));
    NIB_TRY(nib_sampler_new(&x->sampler, &q->p.sampling,
                            (int32_t)nib_model_get_info(s->model)->n_vocab, e));
    int64_t n = (int64_t)j->prompt.len;
    for (int i = 0; i < s->p.n_parallel; i++) { /* a reply beside it has computed the prompt */
        const slot *o = &s->slots[i];
        if (o != x && o->job == j && o->seq && nib_seq_len(o->seq) >= n) {
            NIB_TRY(nib_seq_fork(x->seq, o->seq, n - 1, e));
            break;
        }
    }
    if (!q->no_cache) {
        nib_seq_adopt(x->seq, j->prompt.data, n - 1);
        if (q->keep > 0) nib_seq_restore(x->seq, j->prompt.data, n - 1, q->keep);
    }
    nib_gen_start g = {.engine = s->en,
                       .seq = x->seq,
                       .sampler = x->sampler,
                       .p = &q->p,
                       .prompt = j->prompt.data,
                       .n_prompt = j->prompt.len,
                       .raw = q->p.raw,
                       .opened = j->opened,
                       .seed = j->seed + (uint64_t)index,
                       .n_logprobs = q->n_logprobs,
                       .start = nib_now(),
                       .fn = on_piece,
                       .arg = x};
    return nib_gen_new(&x->gen, &g, e);
}

static int n_running_of(const nib_sched *s, uint64_t client) {
    int n = 0;
    for (int i = 0; i < s->p.n_parallel; i++)
        n += s->slots[i].job && s->slots[i].job->q->client == client;
    return n;
}

/* Whether the job's next reply should wait until its first has computed the prompt. */
static bool waits_for_first(const nib_sched *s, const nib_job *j) {
    if (j->n_started == 0 || j->q->n_texts) return false;
    for (int i = 0; i < s->p.n_parallel; i++) {
        const slot *x = &s->slots[i];
        if (x->job == j && x->seq && nib_seq_len(x->seq) < (int64_t)j->prompt.len) return true;
    }
    return false;
}

/* The next job that may begin: of the client with the fewest replies under way, the oldest. With
 * the lock held. */
static nib_job **next_ready(nib_sched *s) {
    nib_job **best = NULL;
    int fewest = 0;
    for (nib_job **at = &s->ready; *at; at = &(*at)->next) {
        int n = n_running_of(s, (*at)->q->client);
        if ((best && n >= fewest) || waits_for_first(s, *at)) continue;
        best = at;
        fewest = n;
    }
    return best;
}

static bool crowded(const nib_sched *s) {
    for (int i = 0; i < s->p.n_parallel; i++)
        if (s->slots[i].job && s->slots[i].away) return true;
    return false;
}

/* Fills free slots from the ready list. With the lock held, which it lets go to tell of failures.
 */
static void admit(nib_sched *s) {
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        nib_job **at = x->job || crowded(s) ? NULL : next_ready(s);
        if (!at) continue;
        nib_job *j = *at;
        int index = j->n_started++;
        if (j->n_started == j->n || j->q->n_texts) {
            *at = j->next;
            s->n_waiting--;
        }
        pthread_mutex_unlock(&s->lock);
        nib_error e;
        nib_status status = begin(s, x, j, index, &e);
        if (status != NIB_OK) leave(s, x, status, &e);
        pthread_mutex_lock(&s->lock);
    }
}

/* Ends waiting jobs that were cancelled. With the lock held, which it lets go. */
static void drop_cancelled(nib_sched *s) {
    for (nib_job **at = &s->ready; *at;) {
        nib_job *j = *at;
        if (j->n_started || !atomic_load(&j->cancel)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        s->n_waiting--;
        pthread_mutex_unlock(&s->lock);
        end_cancelled(s, j);
        pthread_mutex_lock(&s->lock);
        at = &s->ready;
    }
}

/* ---- steps ---- */

static void step_back(nib_sched *s, slot *x) {
    nib_seq_publish(x->seq);
    nib_seq_rewind(x->seq, 0);
    x->away = true;
    pthread_mutex_lock(&s->lock);
    s->stats.n_preempted++;
    pthread_mutex_unlock(&s->lock);
}

static slot *newest(nib_sched *s) {
    slot *best = NULL;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (x->gen && !x->away && (!best || x->age > best->age)) best = x;
    }
    return best;
}

/* Room for n more tokens of x, if need be at the expense of newer replies; false: x itself had to
 * step back, or is over. */
static bool make_room(nib_sched *s, slot *x, int64_t n) {
    for (;;) {
        nib_error e;
        nib_status status = nib_seq_reserve(x->seq, n, &e);
        if (status == NIB_OK) return true;
        if (status == NIB_ERR_CONTEXT) {
            nib_gen_stop(x->gen, "context");
            return false;
        }
        slot *victim = newest(s);
        bool alone = true;
        for (int i = 0; i < s->p.n_parallel; i++)
            alone &= &s->slots[i] == x || !s->slots[i].gen || s->slots[i].away;
        if (alone) { /* the pool holds a whole context: not reached, but never a loop */
            nib_gen_stop(x->gen, "context");
            return false;
        }
        victim->step.n = 0;
        step_back(s, victim);
        if (victim == x) return false;
    }
}

/* Those that stepped back return, the oldest first, when there is room for what they held. */
static void bring_back(nib_sched *s) {
    nib_kv_usage kv = nib_engine_kv(s->en);
    for (;;) {
        slot *best = NULL;
        bool others = false;
        for (int i = 0; i < s->p.n_parallel; i++) {
            slot *x = &s->slots[i];
            others |= x->gen && !x->away;
            if (x->gen && x->away && (!best || x->age < best->age)) best = x;
        }
        if (!best) return;
        const int32_t *ids;
        int64_t need = nib_gen_pending(best->gen, &ids) / NIB_PAGE + 2;
        if (others && kv.n_free + kv.n_kept < need) return;
        best->away = false;
        nib_seq_adopt(best->seq, ids, nib_gen_pending(best->gen, &ids) - 1);
        kv = nib_engine_kv(s->en);
        kv.n_free -= need;
    }
}

static bool resting(const slot *x) {
    return !x->gen || x->away || atomic_load(&x->job->paused);
}

/* n more of what x lacks go into the next step. */
static void give(slot *x, int64_t n, int64_t *total) {
    nib_gen_pending(x->gen, &x->step.ids);
    x->step.n += n;
    *total += n;
}

/* The oldest slot whose prompt could take more than it was given; with 'fresh', of those that were
 * given nothing. */
static slot *oldest_prompt(const nib_sched *s, bool fresh) {
    slot *best = NULL;
    const int32_t *ids;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (resting(x) || (fresh && x->step.n) || (best && best->age < x->age)) continue;
        int64_t n = nib_gen_pending(x->gen, &ids);
        if (n > 1 && n > x->step.n) best = x;
    }
    return best;
}

/* Chooses what the next step computes: slot.step. Returns how many tokens. */
static int64_t plan(nib_sched *s) {
    int64_t total = 0, n_prompts = 0, most = nib_engine_batch(s->en);
    const int32_t *ids;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        x->step = (nib_step){.seq = x->seq};
        int64_t n = resting(x) ? 0 : nib_gen_pending(x->gen, &ids);
        n_prompts += n > 1;
        if (n == 1 && total < most) give(x, 1, &total);
    }
    if (!n_prompts) return total;
    int64_t budget = NIB_MIN(total ? s->p.chunk : s->p.chunk_alone, most - total),
            share = NIB_MAX(budget / n_prompts, 1), until = total + budget;
    slot *x;
    while (total < until && (x = oldest_prompt(s, true)))
        give(x, NIB_MIN(NIB_MIN(share, until - total), nib_gen_pending(x->gen, &ids)), &total);
    while (total < until && (x = oldest_prompt(s, false)))
        give(x, NIB_MIN(until - total, nib_gen_pending(x->gen, &ids) - x->step.n), &total);
    return total;
}

/* The oldest slot of the step that has no room yet. */
static slot *next_to_fit(const nib_sched *s, uint64_t after) {
    slot *best = NULL;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (x->step.n && x->age > after && (!best || x->age < best->age)) best = x;
    }
    return best;
}

/* What came of the step for one reply. */
static void digest(nib_sched *s, slot *x, const float *logits) {
    nib_error e;
    int64_t before = nib_gen_n_generated(x->gen);
    nib_status status = nib_gen_feed(x->gen, logits, &e);
    if (status != NIB_OK) {
        leave(s, x, status, &e);
        return;
    }
    int64_t now = nib_gen_n_generated(x->gen);
    if (now == before) return;
    double t = nib_now();
    if (before == 0) nib_seq_publish(x->seq); /* others may have the same prompt */
    pthread_mutex_lock(&s->lock);
    if (before == 0)
        count(&s->stats.first_token, t - x->job->submitted);
    else
        count(&s->stats.between_tokens, t - x->last);
    pthread_mutex_unlock(&s->lock);
    x->last = t;
}

/* The engine could not take the step. What is only kept goes, then the newest reply steps back;
 * when one is left alone with the failure, it ends. */
static void retreat(nib_sched *s, nib_status status, const nib_error *e) {
    slot *x = newest(s);
    nib_engine_forget(s->en);
    nib_log(NIB_LOG_WARN, "%s: the KV cache was cleared, and fewer replies go on at a time",
            e->message);
    bool alone = true;
    for (int i = 0; i < s->p.n_parallel; i++)
        alone &= &s->slots[i] == x || !s->slots[i].gen || s->slots[i].away;
    if (alone)
        leave(s, x, status, e);
    else
        step_back(s, x);
}

static bool step(nib_sched *s) {
    bring_back(s);
    if (!plan(s)) return false;
    uint64_t after = 0;
    for (slot *x; (x = next_to_fit(s, after)); after = x->age)
        if (!make_room(s, x, x->step.n)) x->step.n = 0;
    int n = 0;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (!x->step.n) continue;
        x->step.silent = !nib_gen_wants_logits(x->gen, x->step.n);
        x->at = n;
        s->steps[n++] = x->step;
    }
    if (!n) return true; /* somebody stepped back, or is over */
    nib_error e;
    double start = nib_now();
    nib_status status = nib_engine_step(s->en, s->steps, n, &e);
    pthread_mutex_lock(&s->lock);
    s->stats.n_steps++;
    s->stats.busy_seconds += nib_now() - start;
    pthread_mutex_unlock(&s->lock);
    if (status != NIB_OK) {
        retreat(s, status, &e);
        return true;
    }
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (x->step.n) digest(s, x, s->steps[x->at].logits);
    }
    return true;
}

/* One text to its vector. Without pages, later; false then. */
static bool embed(nib_sched *s, slot *x, bool others) {
    nib_job *j = x->job;
    const struct nib_request_text *t = &j->q->texts[x->index];
    nib_error e;
    size_t width = (size_t)nib_model_get_info(s->model)->n_embd;
    float *v = nib_alloc(width * sizeof *v);
    nib_status status = v ? nib_engine_embed(s->en, t->ids.data, (int64_t)t->ids.len, true, v, &e)
                          : nib_fail_nomem(&e, width * sizeof *v, "a vector");
    bool later = status == NIB_ERR_LIMIT && others;
    if (status == NIB_OK) {
        pthread_mutex_lock(&s->lock);
        s->stats.prompt_tokens += (uint64_t)t->ids.len;
        pthread_mutex_unlock(&s->lock);
        tell(j, (nib_event){.kind = NIB_EVENT_VECTOR,
                            .index = x->index,
                            .vector = v,
                            .n_prompt = (int64_t)t->ids.len});
        if (++x->index == j->n) leave(s, x, NIB_OK, NULL);
    } else if (!later) {
        leave(s, x, status, &e);
    }
    nib_free(v);
    return !later;
}

/* Everything once round: ends, texts, a step. False when nothing could be done. */
static bool turn(nib_sched *s) {
    bool moved = false, replies = false;
    for (int i = 0; i < s->p.n_parallel; i++) {
        slot *x = &s->slots[i];
        if (!x->job) continue;
        if (atomic_load(&x->job->cancel)) {
            nib_error e = x->error;
            if (!e.code) nib_fail(&e, NIB_ERR_CANCELLED, "cancelled");
            leave(s, x, e.code, &e);
            moved = true;
            continue;
        }
        if (!x->gen) continue;
        if (atomic_load(&x->job->finish)) nib_gen_stop(x->gen, "interrupted");
        if (nib_gen_finished(x->gen)) {
            reply_done(s, x);
            moved = true;
        } else {
            replies = true;
        }
    }
    for (int i = 0; i < s->p.n_parallel; i++)
        if (s->slots[i].job && !s->slots[i].gen) moved |= embed(s, &s->slots[i], replies);
    return step(s) || moved;
}

/* ---- the computing thread ---- */

/* With the lock held: what others may ask about. */
static int show_state(nib_sched *s) {
    int n = 0;
    for (int i = 0; i < s->p.n_parallel; i++) {
        const slot *x = &s->slots[i];
        s->infos[i] = (nib_slot_info){.busy = x->job != NULL};
        if (!x->job) continue;
        n++;
        s->infos[i].job = x->job->id;
        s->infos[i].index = x->index;
        s->infos[i].n_prompt = (int64_t)x->job->prompt.len;
        if (!x->gen) continue;
        s->infos[i].n_held = nib_seq_len(x->seq);
        s->infos[i].n_generated = nib_gen_n_generated(x->gen);
    }
    s->stats.n_running = n;
    s->stats.kv = nib_engine_kv(s->en);
    return n;
}

/* With the lock held and nothing to do: waits until somebody calls, or for some seconds. */
static bool wait_for(nib_sched *s, int seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    return pthread_cond_timedwait(&s->work, &s->lock, &until) != ETIMEDOUT;
}

/* The same without end; after a while memory that waiting does not need is given back. */
static void wait_idle(nib_sched *s) {
    enum { REST_AFTER = 5 };
    if (s->rested) {
        pthread_cond_wait(&s->work, &s->lock);
    } else if (!wait_for(s, REST_AFTER)) {
        s->rested = true;
        pthread_mutex_unlock(&s->lock);
        nib_engine_rest(s->en);
        pthread_mutex_lock(&s->lock);
    }
}

static void *compute_all(void *arg) {
    nib_sched *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        drop_cancelled(s);
        admit(s);
        int n = show_state(s);
        if (s->quit) break;
        if (!n) {
            if (!s->ready) wait_idle(s);
            continue;
        }
        s->rested = false;
        pthread_mutex_unlock(&s->lock);
        bool moved = turn(s);
        pthread_mutex_lock(&s->lock);
        if (!moved && !s->quit) wait_for(s, 1); /* every listener is full */
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static nib_status start(nib_sched *s, int i, void *(*main_)(void *), pthread_t *t, nib_error *e) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's business */
    int failed = pthread_create(t, NULL, main_, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return nib_fail(e, NIB_ERR_IO, "cannot start the scheduler's thread: %s", strerror(failed));
    s->started[i] = true;
    return NIB_OK;
}

nib_status nib_sched_new(nib_sched **out, nib_engine *en, const nib_sched_params *params,
                         nib_error *e) {
    nib_sched *s = nib_calloc(1, sizeof *s);
    nib_status status = NIB_OK;
    if (!s) {
        nib_engine_free(en);
        return nib_fail_nomem(e, sizeof *s, "the scheduler");
    }
    s->en = en;
    s->model = nib_engine_model(en);
    s->p = params ? *params : (nib_sched_params){0};
    if (s->p.n_parallel <= 0 || s->p.n_parallel > nib_engine_n_seq(en))
        s->p.n_parallel = nib_engine_n_seq(en);
    if (s->p.n_queue <= 0) s->p.n_queue = 64;
    if (s->p.chunk <= 0) s->p.chunk = 64;
    if (s->p.chunk_alone <= 0) s->p.chunk_alone = 256;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->come, NULL);
    pthread_cond_init(&s->work, NULL);
    size_t n = (size_t)s->p.n_parallel;
    s->slots = nib_calloc(n, sizeof *s->slots);
    s->steps = nib_calloc(n, sizeof *s->steps);
    s->infos = nib_calloc(n, sizeof *s->infos);
    const nib_model_info *info = nib_model_get_info(s->model);
    if (!s->slots || !s->steps || !s->infos)
        status = nib_fail_nomem(e, n * sizeof *s->slots, "the scheduler");
    if (status == NIB_OK && info->chat_template)
        status = nib_template_parse(&s->tmpl, info->chat_template, strlen(info->chat_template), e);
    if (status == NIB_OK) status = start(s, 0, compute_all, &s->computing, e);
    if (status == NIB_OK) status = start(s, 1, prepare_all, &s->preparing, e);
    if (status == NIB_OK)
        *out = s;
    else
        nib_sched_free(s);
    return status;
}

void nib_sched_free(nib_sched *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->come);
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (s->started[0]) pthread_join(s->computing, NULL);
    if (s->started[1]) pthread_join(s->preparing, NULL);
    for (int i = 0; s->slots && i < s->p.n_parallel; i++) {
        nib_error e;
        if (s->slots[i].job)
            leave(s, &s->slots[i], nib_fail(&e, NIB_ERR_CANCELLED, "cancelled"), &e);
    }
    for (nib_job *j; (j = s->ready ? s->ready : s->incoming);) {
        *(s->ready ? &s->ready : &s->incoming) = j->next;
        end_cancelled(s, j);
    }
    nib_engine_free(s->en);
    nib_template_free(s->tmpl);
    nib_free(s->slots);
    nib_free(s->steps);
    nib_free(s->infos);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->come);
    pthread_cond_destroy(&s->work);
    nib_free(s);
}

/* ---- asking ---- */

nib_model *nib_sched_model(const nib_sched *s) {
    return s->model;
}
const nib_template *nib_sched_template(const nib_sched *s) {
    return s->tmpl;
}
int64_t nib_sched_n_ctx(const nib_sched *s) {
    return nib_engine_n_ctx(s->en);
}

void nib_sched_get_stats(nib_sched *s, nib_sched_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->n_waiting = s->n_waiting;
    out->n_slots = s->p.n_parallel;
    pthread_mutex_unlock(&s->lock);
}

bool nib_sched_slot(nib_sched *s, int i, nib_slot_info *out) {
    if (i < 0 || i >= s->p.n_parallel) return false;
    pthread_mutex_lock(&s->lock);
    *out = s->infos[i];
    pthread_mutex_unlock(&s->lock);
    return true;
}
