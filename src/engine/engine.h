/* engine - models that run: weights, KV cache, sequences, and the dialog loop on top.
 *
 * nib_model   immutable once open; shared and reference-counted.
 * nib_engine  a model ready to run: threads, KV pages, scratch. One thread uses it at a time.
 * nib_sched   owns an engine and makes many replies at once.
 * nib_seq     one timeline of tokens with its KV pages; belongs to an engine. Rewind is
 * first-class.
 *
 * The promise: a token's logits are the same bits whatever the thread count, how the prompt was
 * chunked, what else was in the batch, and whether the positions before it were computed now or
 * kept from earlier. Only fast_prompt, which is asked for, trades it away. */
#ifndef NIB_ENGINE_H
#define NIB_ENGINE_H
#include "backend/backend.h"
#include "tokenizer/tokenizer.h"
#include "sample/sample.h"
#include "chat/chat.h"

/* ---- model (model.c) ---- */
typedef struct nib_model nib_model;

typedef struct nib_model_params {
    int n_threads;   /* for repacking; 0 = physical cores */
    bool f32;        /* dequantise all weights first: the float-activation reference */
    bool vocab_only; /* no weights: tokenizer and keys only; every call that needs weights then
                        fails */
    bool plan_only;  /* weights come later, with nib_model_load: until then the model can be
                        described and planned for */
    /* Weights in another format than the file's: true and *type for a matrix (by its tensor's name)
     * that is to be quantised while it is loaded; where its rows do not suit the type it stays.
     * retyped_as: what info.quant then says. NULL: as in the file. */
    bool (*retype)(void *arg, const char *tensor, nib_dtype *type);
    void *retype_arg;
    const char *retyped_as;
    /* Told as loading goes on, done of total bytes; return false to stop (NIB_ERR_CANCELLED). May
     * be NULL. */
    bool (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
} nib_model_params;
nib_status nib_model_open(nib_model **out, const char *path, const nib_model_params *p,
                          nib_error *e);
/* Brings the weights of a model opened with plan_only, by p's threads, f32 and progress; before
 * anyone else has the model. */
nib_status nib_model_load(nib_model *m, const nib_model_params *p, nib_error *e);
nib_model *nib_model_retain(nib_model *m);
void nib_model_release(nib_model *m);

typedef struct nib_model_info {
    const char *path, *arch, *name; /* name: general.name or the file's, printable */
    uint64_t n_params, file_bytes, weight_bytes;
    char quant[32]; /* the mix in brief: "Q4_K_M", "Q8_0", ... */
    int64_t n_ctx_train, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff, n_vocab;
    bool causal; /* false: an embedder */
    bool has_weights;
    const char *chat_template; /* NULL when none */
} nib_model_info;
const nib_model_info *nib_model_get_info(const nib_model *m);
const nib_gguf *nib_model_gguf(const nib_model *m);
/* The mix in brief, of any file: info.quant. */
void nib_model_quant(const nib_gguf *g, char out[32]);
const nib_tokenizer *nib_model_tokenizer(const nib_model *m);
uint64_t nib_model_kv_bytes(const nib_model *m, nib_kv_type t,
                            int64_t n_ctx); /* of one sequence of n_ctx tokens */
/* What an observer (backend.h) is shown: the inputs of matrices, several of which may share one. */
typedef struct nib_model_input {
    const char *tensors[3]; /* names in the file; fused ones once */
    int n_tensors;          /* 0: the model has no such matrix */
    int64_t width;
} nib_model_input;
int64_t nib_model_n_inputs(const nib_model *m); /* four a layer, and last the output matrix's */
nib_model_input nib_model_get_input(const nib_model *m, int64_t i);
/* Sampling defaults: nib's own, overridden by what the model file says. */
nib_sample_params nib_model_sampling(const nib_model *m);

/* ---- engine and sequences (engine.c, kv.c) ---- */
typedef struct nib_engine nib_engine;
typedef struct nib_seq nib_seq;

typedef struct nib_engine_params {
    int n_threads; /* 0 = physical cores */
    int64_t n_ctx; /* tokens a sequence may hold; 0 = NIB_CTX_DEFAULT or the model's limit,
                      NIB_CTX_AUTO = largest that fits */
    nib_kv_type kv;
    int n_seq;          /* sequences that share the KV pool; 0 = 1 */
    int64_t kv_tokens;  /* tokens the pool holds for all of them; 0 = n_ctx for each */
    int batch;          /* tokens computed together in prefill; 0 = 512 */
    bool ignore_memory; /* skip the check against this machine's memory */
    /* Batches of NIB_FAST_LEAST tokens and more multiply by weights rounded once more, to 8 bits,
     * where this machine gains by it. Results, and KV pages kept of them, then depend on how a
     * prompt is cut and on the kernel set. Off by default. */
    bool fast_prompt;
} nib_engine_params;
enum { NIB_CTX_DEFAULT = 4096 };
#define NIB_CTX_AUTO (-1)

/* What a run needs, and what this machine has. */
typedef struct nib_plan {
    int64_t n_ctx;
    uint64_t weights, kv, scratch,
        total; /* bytes beyond what the process holds: weights 0 once loaded */
    uint64_t available;
    bool fits;
    int64_t ctx_fits;      /* largest context that fits with this kv type; 0: none */
    int64_t ctx_fits_q8_0; /* the same with kv q8_0 */
} nib_plan;
void nib_engine_plan(const nib_model *m, const nib_engine_params *p, nib_plan *out);
/* The plan as an answer: NIB_ERR_MEMORY_FIT, with the alternatives that fit, when it does not.
 * Weights count while they are not loaded. */
nib_status nib_engine_check(const nib_model *m, const nib_engine_params *p, nib_error *e);

/* NIB_ERR_MEMORY_FIT names the alternatives that fit. The engine retains the model. */
nib_status nib_engine_new(nib_engine **out, nib_model *m, const nib_engine_params *p, nib_error *e);
void nib_engine_free(nib_engine *en); /* frees its sequences too */
nib_model *nib_engine_model(const nib_engine *en);
int64_t nib_engine_n_ctx(const nib_engine *en);
int nib_engine_threads(const nib_engine *en);
nib_kv_type nib_engine_kv_type(const nib_engine *en); /* never AUTO */
/* Checked between the steps of every evaluation; set it (from any thread or a signal handler) to
 * stop with NIB_ERR_CANCELLED. */
void nib_engine_set_cancel(nib_engine *en, const atomic_bool *flag);
/* From now on every computation shows o what matrices are given; NULL ends it. */
void nib_engine_observe(nib_engine *en, const nib_observer *o);
/* From now on adds up where time goes: profiles[threads]; NULL ends it. */
void nib_engine_profile(nib_engine *en, nib_profile *profiles);

nib_status nib_seq_new(nib_seq **out, nib_engine *en, nib_error *e);
void nib_seq_free(nib_seq *s);
int64_t nib_seq_len(const nib_seq *s);
const int32_t *nib_seq_tokens(const nib_seq *s);
/* Keeps the first n tokens (0 <= n <= len). */
void nib_seq_rewind(nib_seq *s, int64_t n_keep);
/* Appends tokens and computes them. *logits (may be NULL): [n_vocab] of the last one, valid until
 * the engine computes again. NIB_ERR_CONTEXT when they do not fit; NIB_ERR_ARGUMENT for an id out
 * of range. On failure or cancellation the sequence is as before the call, except that whole chunks
 * already computed stay when cancelled. */
nib_status nib_seq_eval(nib_seq *s, const int32_t *ids, int64_t n, const float **logits,
                        nib_error *e);
/* The same with logits of every token: calls each(arg, index, logits). */
typedef void (*nib_logits_fn)(void *arg, int64_t index, const float *logits);
nib_status nib_seq_eval_all(nib_seq *s, const int32_t *ids, int64_t n, nib_logits_fn each,
                            void *arg, nib_error *e);

/* One step of several sequences at once (continuous batching): each item appends n tokens to its
 * sequence. */
typedef struct nib_step {
    nib_seq *seq;
    const int32_t *ids;
    int64_t n;
    bool silent;         /* its logits are not wanted */
    const float *logits; /* out: of its last token */
} nib_step;
nib_status nib_engine_step(nib_engine *en, nib_step *items, int n_items, nib_error *e);
int64_t nib_engine_batch(const nib_engine *en); /* the most tokens of a step */
int nib_engine_n_seq(const nib_engine *en);

/* -- sharing: pages are kept after their sequences, and used again by those that begin alike -- */

/* Makes room for n more tokens: what follows cannot fail for want of pages. Pages that are only
 * kept are given up for it, those not used for longest first. NIB_ERR_CONTEXT: the sequence would
 * be longer than the context; NIB_ERR_LIMIT: every page is in use by sequences. */
nib_status nib_seq_reserve(nib_seq *s, int64_t n, nib_error *e);
/* An empty sequence takes the longest known beginning of ids[0..n), in whole pages; returns how
 * many tokens that is. */
int64_t nib_seq_adopt(nib_seq *s, const int32_t *ids, int64_t n);
/* Keeps the sequence's whole pages for others. */
void nib_seq_publish(nib_seq *s);
/* An empty sequence becomes the first n tokens of another; nothing is computed or copied before one
 * of them writes. */
nib_status nib_seq_fork(nib_seq *s, const nib_seq *from, int64_t n, nib_error *e);

/* -- pages beyond memory: a place where they outlive the engine (kvdisk.h has one) -- */

/* Stands for a page's tokens and all before them. */
typedef struct nib_page_key {
    uint8_t bytes[16];
} nib_page_key;
/* tokens: the NIB_PAGE of the page. owner: whose pages they are, for the store to tell apart. */
typedef struct nib_page_store {
    void *arg;
    /* The key of what follows the page 'before' (all zero: nothing is before it). Any thread. */
    void (*name)(void *arg, const nib_page_key *before, const int32_t *tokens, nib_page_key *out);
    /* Fills page with what keep was given, bit for bit, by an engine of equal nib_engine_kv_traits
     * and the same model; false: it is not there. */
    bool (*fetch)(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                  void *page);
    /* On a thread of its own, beside fetch. False: it is not kept. */
    bool (*keep)(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                 const void *page);
} nib_page_store;
/* p is copied; its arg must outlive the engine. Once for an engine. */
nib_status nib_engine_set_store(nib_engine *en, const nib_page_store *p, nib_error *e);
bool nib_engine_has_store(const nib_engine *en);
/* Appends all that the bits of a page depend on, beside the bytes of the model's files and its
 * tokens. */
void nib_engine_kv_traits(const nib_engine *en, nib_buf *out);
size_t nib_engine_page_bytes(const nib_engine *en);
/* A sequence that holds whole pages of ids[0..n), or none, takes further ones from the store, which
 * then are known as if published. Returns its length. */
int64_t nib_seq_restore(nib_seq *s, const int32_t *ids, int64_t n, int64_t owner);
/* The sequence's whole pages go to the store, in the background: the call does not wait.
 * nib_engine_free does. */
void nib_seq_keep(const nib_seq *s, int64_t owner);
void nib_engine_flush_store(nib_engine *en); /* waits until they are there */

typedef struct nib_kv_usage {
    int64_t n_pages, n_free, n_kept; /* n_kept: in no sequence, but known */
} nib_kv_usage;
nib_kv_usage nib_engine_kv(const nib_engine *en);
/* Forgets every kept page. */
void nib_engine_forget(nib_engine *en);
/* Gives back the memory that only passes need: buffers, logits, free pages. The next pass takes it
 * again, which costs it some milliseconds; logits that were handed out are lost. */
void nib_engine_rest(nib_engine *en);

/* Last hidden states of a text's tokens, out [n, n_embd]. */
nib_status nib_engine_hidden(nib_engine *en, const int32_t *ids, int64_t n, float *out,
                             nib_error *e);
/* Pooled vector of a text's tokens [n_embd], as the model pools (mean where it does not say);
 * normalised to length 1 when asked. For embedders and decoders. */
typedef enum nib_pooling { NIB_POOL_MEAN, NIB_POOL_CLS, NIB_POOL_LAST } nib_pooling;
nib_status nib_engine_embed(nib_engine *en, const int32_t *ids, int64_t n, bool normalise,
                            float *out, nib_error *e);

/* ---- dialog (dialog*.c): a conversation with a model ----
 *
 * One dialog owns one sequence. The system text stands apart from the history of messages; what of
 * the history reaches the model is decided anew for each reply, as a function of settings and
 * messages alone, so a reply does not depend on what happened to be cached. Free a dialog before
 * its engine. */
typedef struct nib_dialog nib_dialog;

typedef struct nib_dialog_params {
    nib_sample_params sampling;
    const char *system;      /* NULL: none */
    int64_t max_tokens;      /* a reply's cap; 0 = until the context is full */
    double max_seconds;      /* 0 = none */
    const char *const *stop; /* NULL-terminated; or NULL */
    int stop_sentences;      /* 0 off */
    int retention;           /* exchanges that reach the model; < 0 all that fit: then the oldest
                                are left out, and said so, when the context is full */
    enum { NIB_THINK_AUTO, NIB_THINK_ON, NIB_THINK_OFF } think; /* what the template is told */
    int64_t think_budget; /* tokens of thought, then the thought is closed; 0 = none */
    /* Live correction: each finished sentence or line is cleaned (nib_text_cleanup), and the model
     * goes on from the cleaned text. The reply then streams by sentences and lines; the same with
     * autocorrect_output. */
    bool correct;
    const nib_dictionary *dictionary; /* autocorrect, NULL = off; not owned */
    bool autocorrect_input, autocorrect_output;
    bool raw;           /* no template: system text and messages are joined and continued */
    bool parse_special; /* control tokens spelled in raw text are those tokens */
    bool ignore_end;    /* tokens that end a reply do not */
    int64_t now;        /* for templates; NIB_NOW */
} nib_dialog_params;
nib_dialog_params nib_dialog_defaults(const nib_model *m);

typedef enum nib_piece_kind {
    NIB_PIECE_ANSWER,
    NIB_PIECE_THOUGHT,
    NIB_PIECE_PROMPT, /* prefill progress */
    NIB_PIECE_ODDS    /* a token was chosen; only when asked for */
} nib_piece_kind;

/* How probable a token was, and which were most probable: natural logarithms, of the model's own
 * distribution (temperature 1, before bias and penalties); at least -9999. */
enum { NIB_ODDS_MAX = 20 };
typedef struct nib_odds {
    int32_t token;
    double logprob;
    bool thought;
    int n_top;
    struct {
        int32_t token;
        double logprob;
    } top[NIB_ODDS_MAX];
} nib_odds;
typedef struct nib_piece {
    nib_piece_kind kind;
    const char *text; /* whole characters, NUL-terminated; "" for progress */
    size_t len;
    int64_t done, total;  /* progress of the prompt, tokens */
    const nib_odds *odds; /* of NIB_PIECE_ODDS */
} nib_piece;
/* Return false to stop the reply here (what was shown is kept). */
typedef bool (*nib_piece_fn)(void *arg, const nib_piece *p);

typedef struct nib_reply {
    const char *text,
        *thinking;      /* owned by the dialog until its next call; thinking NULL when none */
    const char *finish; /* "stop" | "length" | "time" | "sentences" | "interrupted" | "context" */
    int64_t n_prompt, n_cached,
        n_generated;     /* tokens: prompt in all, of it kept from before, generated */
    int64_t n_thought;   /* of the generated, those of thoughts */
    const char *stop;    /* the stop text that ended it; NULL: none did */
    int64_t n_dropped;   /* exchanges left out because the context is full */
    int64_t n_corrected; /* pieces that live correction changed */
    double prompt_seconds, generate_seconds, first_token_seconds;
    uint64_t seed; /* gives this reply again */
} nib_reply;

/* -- prompts (prompt.c) -- */

/* What becomes a prompt. */
typedef struct nib_prompt {
    const nib_model *model;
    const nib_template *tmpl;   /* NULL: "User: ...\nAssistant:" */
    const nib_dialog_params *p; /* system, think, raw, parse_special, now */
    const nib_messages *messages;
    size_t first; /* messages[first..) are sent */
    bool go_on;   /* the reply continues the last message */
} nib_prompt;
/* Its tokens, in place of what out held. *opened: it ends inside a thought. */
nib_status nib_prompt_build(const nib_prompt *q, nib_ids *out, bool *opened, nib_error *e);
/* Its text, of which the template wrote the trusted spans. */
nib_status nib_prompt_render(const nib_prompt *q, nib_rendered *out, nib_error *e);
/* Appends the tokens of a text to be continued; BOS as the model wants. */
nib_status nib_prompt_text(const nib_model *m, const char *text, size_t n, bool parse_special,
                           nib_ids *out, nib_error *e);

/* -- one reply (generate.c) -- */

/* A generation says what is to be computed next, is told the logits, and tells what it says. */
typedef struct nib_gen nib_gen;
typedef struct nib_gen_start {
    nib_engine *engine;
    nib_seq *seq;               /* what it holds of the prompt is used, the rest dropped */
    nib_sampler *sampler;       /* restarted with the seed */
    const nib_dialog_params *p; /* these three must stay as long as the generation */
    const int32_t *prompt;
    size_t n_prompt;
    bool raw;    /* neither thoughts nor space at the ends are taken out */
    bool opened; /* the prompt ends inside a thought */
    uint64_t seed;
    int n_logprobs; /* -1: none are told; else how many alternatives */
    double start;   /* when the call began: times count from there */
    nib_piece_fn fn;
    void *arg;
} nib_gen_start;
nib_status nib_gen_new(nib_gen **out, const nib_gen_start *q, nib_error *e);
void nib_gen_free(nib_gen *g);
/* The tokens that its sequence lacks: compute some or all of them, then call nib_gen_feed. */
int64_t nib_gen_pending(const nib_gen *g, const int32_t **ids);
/* logits: of the last token that was computed; may be NULL when more are pending. */
nib_status nib_gen_feed(nib_gen *g, const float *logits, nib_error *e);
/* Whether logits are wanted after computing n of the pending tokens. */
bool nib_gen_wants_logits(const nib_gen *g, int64_t n);
int64_t nib_gen_n_generated(const nib_gen *g);
void nib_gen_stop(nib_gen *g, const char *why); /* a word of nib_reply.finish */
const char *nib_gen_finished(const nib_gen *g); /* why; NULL while it goes on */
/* Once finished: tells what was held back, and fills *out, whose texts are the generation's. */
nib_status nib_gen_end(nib_gen *g, nib_reply *out, nib_error *e);

/* -- conversations -- */

/* p NULL: the defaults. What p points to is copied, except the dictionary. */
nib_status nib_dialog_new(nib_dialog **out, nib_engine *en, const nib_dialog_params *p,
                          nib_error *e);
void nib_dialog_free(nib_dialog *d);
/* Settings may change between replies: change the struct, then call nib_dialog_params_changed,
 * which copies what it points to. When that fails the settings are as before. */
nib_dialog_params *nib_dialog_params_of(nib_dialog *d);
nib_status nib_dialog_params_changed(nib_dialog *d, nib_error *e);
/* Adds the user's message and generates the reply, which joins the history: what was shown of it
 * when it was interrupted. An error (NIB_ERR_CONTEXT: what does not fit, what to do), or an
 * interruption before anything was shown, leaves the history as it was. */
nib_status nib_dialog_say(nib_dialog *d, const char *user, nib_piece_fn fn, void *arg,
                          nib_reply *out, nib_error *e);
/* Replaces the last reply by another one: of the next seed when one is given. */
nib_status nib_dialog_regenerate(nib_dialog *d, nib_piece_fn fn, void *arg, nib_reply *out,
                                 nib_error *e);
/* Continues a raw prompt (no template, no history); BOS as the model wants. */
nib_status nib_dialog_complete(nib_dialog *d, const char *prompt, size_t len, nib_piece_fn fn,
                               void *arg, nib_reply *out, nib_error *e);
bool nib_dialog_undo(nib_dialog *d); /* drops the last exchange; false when there is none */
void nib_dialog_clear(nib_dialog *d);
const nib_messages *nib_dialog_messages(const nib_dialog *d);
/* Copies m. A system message at its start becomes the system text. */
nib_status nib_dialog_set_messages(nib_dialog *d, const nib_messages *m, nib_error *e);
int64_t nib_dialog_context_used(const nib_dialog *d);
/* What the history takes of the context is fetched from the engine's page store, as far as it is
 * there, so that the next reply need not compute it. Returns how many tokens are held now. */
int64_t nib_dialog_restore(nib_dialog *d, int64_t owner);
/* Sends what is held there (nib_seq_keep). */
void nib_dialog_keep(const nib_dialog *d, int64_t owner);
/* A conversation as a JSON file: version, model, system text, settings, messages. Written whole or
 * not at all; loading checks everything before it changes the dialog, and keeps its dictionary.
 * A file made with another model loads with a warning. A list of messages, alone or as "messages"
 * of an object, loads too, as other programs write them. */
nib_status nib_dialog_save(const nib_dialog *d, const char *path, nib_error *e);
nib_status nib_dialog_load(nib_dialog *d, const char *path, nib_error *e);

/* ---- requests and the scheduler (request.c, scheduler.c): many replies at once ----
 *
 * A scheduler owns an engine: its thread alone computes. Each step carries the next token of every
 * reply under way, and as much of waiting prompts as leaves the step short. Requests wait in a
 * bounded queue, in order, but whoever has fewer replies under way goes first. When the KV pool is
 * full, pages kept for later go first; then the newest reply steps back, and is computed again when
 * there is room, with the same result. Prompts are rendered and tokenised by a thread of their own.
 */
typedef struct nib_request {
    nib_arena arena;     /* what p and the rest point to may lie here */
    nib_dialog_params p; /* p.raw: 'text' or 'ids' is continued; else 'messages' are answered */
    nib_messages messages;
    nib_buf text;
    nib_ids ids;
    bool go_on;      /* the reply continues the last message */
    bool no_cache;   /* compute the prompt anew */
    bool dry;        /* READY is all that is wanted */
    int n;           /* replies; 0 is 1. With a seed the i-th has seed + i */
    int n_logprobs;  /* -1: none; else how many alternatives to each token */
    uint64_t client; /* whose it is, for fairness */
    int64_t keep;    /* > 0: the owner by which its pages go to and come from the page store */
    /* Embeddings instead: the texts, each its tokens. */
    struct nib_request_text {
        nib_str text; /* tokens instead when p is NULL */
        nib_ids ids;
    } * texts;
    size_t n_texts;
} nib_request;
/* Defaults of a model (NULL: nib's own), one reply; NULL when out of memory. */
nib_request *nib_request_new(const nib_model *m);
void nib_request_free(nib_request *q);

typedef enum nib_event_kind {
    NIB_EVENT_READY,  /* the prompt is understood and fits: n_prompt */
    NIB_EVENT_PIECE,  /* reply 'index' grew: piece */
    NIB_EVENT_REPLY,  /* reply 'index' is whole: reply */
    NIB_EVENT_VECTOR, /* the text 'index' is embedded: vector, n_prompt tokens of it */
    NIB_EVENT_END     /* the last: status, error. NIB_ERR_CANCELLED when cancelled */
} nib_event_kind;
typedef struct nib_event {
    nib_event_kind kind;
    int index;
    int64_t n_prompt;
    const nib_piece *piece;
    const nib_reply *reply;
    const float *vector; /* [n_embd], of length 1 */
    nib_status status;
    const nib_error *error;
} nib_event;
/* Called on threads of the scheduler; what ev points to is gone afterwards. Must not block. */
typedef void (*nib_event_fn)(void *arg, const nib_event *ev);

typedef struct nib_sched nib_sched;
typedef struct nib_job nib_job; /* a request under way */
typedef struct nib_sched_params {
    int n_parallel;  /* replies at once; 0 = the engine's n_seq */
    int n_queue;     /* requests that may wait; 0 = 64 */
    int chunk;       /* tokens of prompts in a step beside others' tokens; 0 = 64 */
    int chunk_alone; /* the same when no reply is under way; 0 = 256 */
} nib_sched_params;
/* Takes over the engine, also when it fails. */
nib_status nib_sched_new(nib_sched **out, nib_engine *en, const nib_sched_params *p, nib_error *e);
/* Ends what is under way with NIB_ERR_CANCELLED, and frees the engine. */
void nib_sched_free(nib_sched *s);
nib_model *nib_sched_model(const nib_sched *s);
const nib_template *nib_sched_template(const nib_sched *s); /* NULL: the model has none */
int64_t nib_sched_n_ctx(const nib_sched *s);
/* Any thread. Takes over q when it succeeds; NIB_ERR_LIMIT: the queue is full. fn is called from
 * now on, until END. */
nib_status nib_sched_submit(nib_sched *s, nib_request *q, nib_event_fn fn, void *arg, nib_job **out,
                            nib_error *e);
/* Any thread, until nib_job_release. */
void nib_job_cancel(nib_job *j);
/* A listener that cannot take more for now: the job's replies rest meanwhile. */
void nib_job_pause(nib_job *j, bool pause);
/* Ends what is under way: what was said becomes the whole reply, of finish "interrupted". */
void nib_job_finish(nib_job *j);
/* The submitter needs it no more. What is under way goes on. */
void nib_job_release(nib_job *j);

/* Counts since the start, and the state now. Histograms: how many were at most NIB_BUCKETS' bound.
 */
#define NIB_BUCKETS(X)                                                                             \
    X(0.001)                                                                                       \
    X(0.002) X(0.005) X(0.01) X(0.02) X(0.05) X(0.1) X(0.2) X(0.5) X(1) X(2) X(5) X(10) X(30)
#define NIB_BUCKET_ONE(bound) +1
enum { NIB_N_BUCKETS = 0 NIB_BUCKETS(NIB_BUCKET_ONE) };
typedef struct nib_histogram {
    uint64_t n[NIB_N_BUCKETS], count;
    double sum;
} nib_histogram;
typedef struct nib_sched_stats {
    uint64_t n_requests, n_replies, n_errors, n_cancelled, n_refused, n_preempted, n_steps;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    double busy_seconds, prompt_seconds, generate_seconds;
    nib_histogram first_token, between_tokens; /* seconds; first_token from submission */
    int n_waiting, n_running, n_slots;
    nib_kv_usage kv;
} nib_sched_stats;
void nib_sched_get_stats(nib_sched *s, nib_sched_stats *out);
/* What runs in a slot now; false when there is no such slot. */
typedef struct nib_slot_info {
    bool busy;
    uint64_t job;
    int index;
    int64_t n_prompt, n_held, n_generated;
} nib_slot_info;
bool nib_sched_slot(nib_sched *s, int i, nib_slot_info *out);

/* ---- settings (settings.c): nib_dialog_params by name, for people ---- */

/* Owns what p points to. Zero-initialise, set p from nib_dialog_defaults. */
typedef struct nib_settings {
    nib_dialog_params p;
    bool hide_thoughts; /* for whoever shows replies */
    char *system, *dictionary_path;
    char **stop; /* NULL-terminated */
    size_t n_stop;
    nib_logit_bias *bias;
    nib_dictionary *dictionary;
} nib_settings;
/* Sets one by name ('-' serves for '_'), sampling settings included. The error names the range, or
 * the nearest name. */
nib_status nib_settings_set(nib_settings *s, const char *name, const char *value, nib_error *e);
/* Appends the value, for people. */
nib_status nib_settings_get(const nib_settings *s, const char *name, nib_buf *out, nib_error *e);
/* All names: the i-th, or NULL. */
const char *nib_settings_name(size_t i);
/* Takes over p's values, copying what they point to; the dictionary stays. */
nib_status nib_settings_take(nib_settings *s, const nib_dialog_params *p, nib_error *e);
/* Loads the dictionary when autocorrect wants one: before a reply. */
nib_status nib_settings_ready(nib_settings *s, nib_error *e);
void nib_settings_free(nib_settings *s);
#endif
