/* nib.h - the public interface of libnib, and the only public header.
 *
 * Opaque handles; every fallible call returns a nib_status and, on failure, fills the caller's
 * nib_error (may be NULL). Outputs are untouched on failure. The library never prints, exits or
 * aborts on input. Unless a call says otherwise, a handle may be used by one thread at a time; a
 * nib_model may be shared. Strings are UTF-8. This header compiles alone as C11 and as C++. */
#ifndef NIB_H
#define NIB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NIB_API __attribute__((visibility("default")))
#else
#define NIB_API
#endif

/* Status codes: X(name, short text). The codes are stable; new ones are added at the end. */
#define NIB_STATUS_LIST(X)                                                                         \
    X(OK, "ok")                                                                                    \
    X(ERR_NOMEM, "out of memory")                                                                  \
    X(ERR_IO, "input/output error")                                                                \
    X(ERR_NOT_FOUND, "not found")                                                                  \
    X(ERR_FORMAT, "malformed data")                                                                \
    X(ERR_UNSUPPORTED, "not supported")                                                            \
    X(ERR_ARGUMENT, "invalid argument")                                                            \
    X(ERR_LIMIT, "limit exceeded")                                                                 \
    X(ERR_CONTEXT, "context length exceeded")                                                      \
    X(ERR_CANCELLED, "cancelled")                                                                  \
    X(ERR_TEMPLATE, "template error")                                                              \
    X(ERR_MEMORY_FIT, "does not fit in memory")                                                    \
    X(ERR_INTERNAL, "internal error")

typedef enum nib_status {
#define NIB_STATUS_ENUM(name, text) NIB_##name,
    NIB_STATUS_LIST(NIB_STATUS_ENUM)
#undef NIB_STATUS_ENUM
} nib_status;

/* One line that says what was expected, what was found and what to do. */
typedef struct nib_error {
    nib_status code;
    char message[500];
} nib_error;

/* The short text of a status; never NULL. */
NIB_API const char *nib_status_text(nib_status s);
/* The library's version, as "0.1.0". */
NIB_API const char *nib_version(void);

/* Frees what the library handed out where a call says so. NULL is allowed. */
NIB_API void nib_free(void *p);

/* ---- models ---- */

/* A model: weights, tokenizer, template. Immutable; any number of sessions and chats, in any
 * threads, may share it. */
typedef struct nib_model nib_model;

/* Opens a GGUF file (of a split model, any part) and makes its weights ready: seconds for large
 * models. */
NIB_API nib_status nib_open(nib_model **out, const char *path, nib_error *e);
/* Gives the model back. Sessions and chats on it keep it alive until they are closed. NULL is
 * allowed. */
NIB_API void nib_close(nib_model *m);
/* What it is called and what family it is of ("llama", "qwen3", ...); as long as the model lives.
 */
NIB_API const char *nib_model_name(const nib_model *m);
NIB_API const char *nib_model_family(const nib_model *m);
NIB_API int64_t nib_model_n_vocab(const nib_model *m); /* tokens there are */
NIB_API int64_t nib_model_n_embd(const nib_model *m);  /* floats of an embedding */
NIB_API int64_t nib_model_n_ctx(const nib_model *m);   /* tokens it was trained to take in */

/* ---- text and tokens ---- */

enum {
    NIB_ENCODE_SPECIAL = 1, /* add the tokens the model wants around a text (BOS, EOS) */
    NIB_ENCODE_CONTROL =
        2 /* take control tokens spelled in the text for those tokens: never for text of users */
};
/* The token ids of text[0..n), which may be any bytes. Free *ids with nib_free. */
NIB_API nib_status nib_encode(const nib_model *m, const char *text, size_t n, unsigned flags,
                              int32_t **ids, size_t *n_ids, nib_error *e);
/* The text of ids; control tokens stay out. NUL-terminated, of *n_text bytes. Free *text with
 * nib_free. */
NIB_API nib_status nib_decode(const nib_model *m, const int32_t *ids, size_t n, char **text,
                              size_t *n_text, nib_error *e);
/* Whether a token ends a reply. */
NIB_API bool nib_is_end(const nib_model *m, int32_t id);

/* ---- how to run ---- */

typedef enum nib_cache {
    NIB_CACHE_AUTO,
    NIB_CACHE_I16,
    NIB_CACHE_F16,
    NIB_CACHE_F32,
    NIB_CACHE_Q8_0,
    NIB_CACHE_BF16 /* processors with AMX only */
} nib_cache;
enum { NIB_CONTEXT_AUTO = -1 }; /* the largest context that fits in memory */
/* Zeros are the defaults; so is a NULL pointer to it. */
typedef struct nib_config {
    int64_t n_ctx;   /* tokens the context holds: 0 is 4096, or the model's own limit when less */
    nib_cache cache; /* format of the key/value cache */
    int n_threads;   /* 0: as many as physical cores */
    int n_batch;     /* tokens of a prompt computed together; 0: 512 */
} nib_config;

/* ---- sessions: tokens in, scores out ---- */

/* One timeline of tokens. NIB_ERR_MEMORY_FIT names the configurations that would fit. */
typedef struct nib_session nib_session;
NIB_API nib_status nib_session_open(nib_session **out, nib_model *m, const nib_config *config,
                                    nib_error *e);
NIB_API void nib_session_close(nib_session *s);
NIB_API int64_t nib_session_n_ctx(const nib_session *s);  /* tokens it may hold */
NIB_API int64_t nib_session_length(const nib_session *s); /* tokens it holds */
/* Appends tokens and computes them. *logits (logits may be NULL): the model's scores [n_vocab] for
 * the token that comes next, valid until the session computes again. NIB_ERR_CONTEXT when they do
 * not fit. */
NIB_API nib_status nib_session_eval(nib_session *s, const int32_t *ids, size_t n,
                                    const float **logits, nib_error *e);
/* Keeps the first n tokens: what follows is as if the others had never been. */
NIB_API void nib_session_rewind(nib_session *s, int64_t n);
/* Sets how tokens are drawn, by name: "temp", "top_k", "top_p", "seed", ... ('nib run --help' lists
 * them under Sampling). The random numbers start anew. */
NIB_API nib_status nib_session_set(nib_session *s, const char *name, const char *value,
                                   nib_error *e);
/* Draws the next token from the scores of the last eval. The same seed and the same tokens before
 * give the same token. */
NIB_API nib_status nib_session_pick(nib_session *s, int32_t *token, nib_error *e);
/* The vector [n_embd] of a text, of length 1. The session's tokens are not touched. */
NIB_API nib_status nib_session_embed(nib_session *s, const char *text, size_t n, float *out,
                                     nib_error *e);
/* From any thread: what the session computes now ends with NIB_ERR_CANCELLED. */
NIB_API void nib_session_cancel(nib_session *s);

/* ---- chats: messages in, replies out ---- */

/* A conversation, rendered by the model's own template. */
typedef struct nib_chat nib_chat;
NIB_API nib_status nib_chat_open(nib_chat **out, nib_model *m, const nib_config *config,
                                 nib_error *e);
NIB_API void nib_chat_close(nib_chat *c);
/* Sets how replies are made, by name: "system", "temp", "max_tokens", "stop", "think", ... ('nib
 * chat --help' lists them). From the next reply on. */
NIB_API nib_status nib_chat_set(nib_chat *c, const char *name, const char *value, nib_error *e);

/* Told of a reply as it grows: whole characters, not NUL-terminated; thought: the model is
 * thinking, this is no part of the answer. Return false to stop the reply, which is kept as far as
 * it went. */
typedef bool (*nib_text_fn)(void *arg, const char *text, size_t n, bool thought);
typedef struct nib_answer {
    const char *text;     /* the whole answer; until the chat's next call */
    const char *thinking; /* the thoughts before it; NULL when there were none */
    const char *finish;   /* "stop", "length", "time", "sentences", "interrupted", "context" */
    int64_t n_prompt, n_cached,
        n_generated; /* tokens: the prompt's, of them known from before, the reply's */
    double prompt_seconds, generate_seconds;
    uint64_t seed; /* with which this reply can be had again */
} nib_answer;
/* Adds a message of the user and generates the reply. fn and out may be NULL. NIB_ERR_CONTEXT when
 * the conversation no longer fits; nothing is added then. */
NIB_API nib_status nib_chat_say(nib_chat *c, const char *message, nib_text_fn fn, void *arg,
                                nib_answer *out, nib_error *e);
/* Replaces the last reply by a new one. */
NIB_API nib_status nib_chat_again(nib_chat *c, nib_text_fn fn, void *arg, nib_answer *out,
                                  nib_error *e);
/* Continues a text as it is: no template, no conversation. */
NIB_API nib_status nib_chat_complete(nib_chat *c, const char *text, nib_text_fn fn, void *arg,
                                     nib_answer *out, nib_error *e);
NIB_API bool
nib_chat_undo(nib_chat *c); /* drops the last message and its reply; false when there is none */
NIB_API void nib_chat_clear(nib_chat *c);
/* The conversation as JSON, [{"role", "content", "thinking"?}, ...], and back. Free *json with
 * nib_free. */
NIB_API nib_status nib_chat_messages(const nib_chat *c, char **json, nib_error *e);
NIB_API nib_status nib_chat_set_messages(nib_chat *c, const char *json, nib_error *e);
/* From any thread: the reply under way stops and is kept. */
NIB_API void nib_chat_cancel(nib_chat *c);

#ifdef __cplusplus
}
#endif
#endif
