/* engine - models that run: weights, KV cache, sequences, and the dialog loop on top.
 *
 * nib_model   immutable once open; shared and reference-counted.
 * nib_engine  a model ready to run: threads, KV pages, scratch. One thread uses it at a time.
 * nib_seq     one timeline of tokens with its KV pages; belongs to an engine. Rewind is
 * first-class.
 *
 * The promise: a token's logits are the same bits whatever the thread count, how the prompt was
 * chunked, what else was in the batch, and whether the positions before it were computed now or
 * kept from earlier. */
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
const nib_tokenizer *nib_model_tokenizer(const nib_model *m);
uint64_t nib_model_kv_bytes(const nib_model *m, nib_kv_type t,
                            int64_t n_ctx); /* of one sequence of n_ctx tokens */
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
    int batch;          /* tokens computed together in prefill; 0 = 512 */
    bool ignore_memory; /* skip the check against this machine's memory */
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
/* Checked between the steps of every evaluation; set it (from any thread or a signal handler) to
 * stop with NIB_ERR_CANCELLED. */
void nib_engine_set_cancel(nib_engine *en, const atomic_bool *flag);
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
    const float *logits; /* out: of its last token */
} nib_step;
nib_status nib_engine_step(nib_engine *en, nib_step *items, int n_items, nib_error *e);

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
    int64_t now;        /* for templates; NIB_NOW */
} nib_dialog_params;
nib_dialog_params nib_dialog_defaults(const nib_model *m);

typedef enum nib_piece_kind {
    NIB_PIECE_ANSWER,
    NIB_PIECE_THOUGHT,
    NIB_PIECE_PROMPT /* prefill progress */
} nib_piece_kind;
typedef struct nib_piece {
    nib_piece_kind kind;
    const char *text; /* whole characters, NUL-terminated; "" for progress */
    size_t len;
    int64_t done, total; /* progress of the prompt, tokens */
} nib_piece;
/* Return false to stop the reply here (what was shown is kept). */
typedef bool (*nib_piece_fn)(void *arg, const nib_piece *p);

typedef struct nib_reply {
    const char *text,
        *thinking;      /* owned by the dialog until its next call; thinking NULL when none */
    const char *finish; /* "stop" | "length" | "time" | "sentences" | "interrupted" | "context" */
    int64_t n_prompt, n_cached,
        n_generated;     /* tokens: prompt in all, of it kept from before, generated */
    int64_t n_dropped;   /* exchanges left out because the context is full */
    int64_t n_corrected; /* pieces that live correction changed */
    double prompt_seconds, generate_seconds, first_token_seconds;
    uint64_t seed; /* gives this reply again */
} nib_reply;

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
/* A conversation as a JSON file: version, model, system text, settings, messages. Written whole or
 * not at all; loading checks everything before it changes the dialog, and keeps its dictionary.
 * A file made with another model loads with a warning. A list of messages, alone or as "messages"
 * of an object, loads too, as other programs write them. */
nib_status nib_dialog_save(const nib_dialog *d, const char *path, nib_error *e);
nib_status nib_dialog_load(nib_dialog *d, const char *path, nib_error *e);

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
