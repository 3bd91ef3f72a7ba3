/* The public interface (nib.h) over the engine: handles that own an engine each, and names for
 * settings.
 *
 * What a caller may misuse is checked here: NULL handles are not, as in the C library. */
#include <jansson.h>
#include "engine/engine.h"

struct nib_session {
    nib_engine *engine;
    nib_seq *seq;
    nib_sampler *sampler;
    nib_sample_params sampling;
    const float *logits; /* of the last eval; NULL before and after a rewind */
    atomic_bool cancel;
};

struct nib_chat {
    nib_engine *engine;
    nib_dialog *dialog;
    nib_settings settings;
    atomic_bool cancel;
};

_Static_assert((int)NIB_ENCODE_SPECIAL == (int)NIB_TOK_SPECIAL &&
                   (int)NIB_ENCODE_CONTROL == (int)NIB_TOK_PARSE,
               "");
#define SAME(T, name)                                                                              \
    _Static_assert((int)NIB_CACHE_##T == (int)NIB_KV_##T, "nib.h's caches are the engine's");
NIB_KV_TYPES(SAME)
#undef SAME
_Static_assert((int)NIB_CONTEXT_AUTO == NIB_CTX_AUTO, "");

/* ---- models ---- */

nib_status nib_open(nib_model **out, const char *path, nib_error *e) {
    return nib_model_open(out, path, NULL, e);
}
void nib_close(nib_model *m) {
    nib_model_release(m);
}
const char *nib_model_name(const nib_model *m) {
    return nib_model_get_info(m)->name;
}
const char *nib_model_family(const nib_model *m) {
    return nib_model_get_info(m)->arch;
}
int64_t nib_model_n_vocab(const nib_model *m) {
    return nib_model_get_info(m)->n_vocab;
}
int64_t nib_model_n_embd(const nib_model *m) {
    return nib_model_get_info(m)->n_embd;
}
int64_t nib_model_n_ctx(const nib_model *m) {
    return nib_model_get_info(m)->n_ctx_train;
}

nib_status nib_encode(const nib_model *m, const char *text, size_t n, unsigned flags, int32_t **out,
                      size_t *n_out, nib_error *e) {
    if (flags & ~(unsigned)(NIB_ENCODE_SPECIAL | NIB_ENCODE_CONTROL))
        return nib_fail(e, NIB_ERR_ARGUMENT, "nib_encode: unknown flags %#x", flags);
    nib_ids ids = {0};
    nib_status s = nib_tokenize(nib_model_tokenizer(m), text, n, flags, &ids, e);
    if (s == NIB_OK && !ids.data && !(ids.data = nib_alloc(0)))
        s = nib_fail_nomem(e, 0, "token ids");
    if (s != NIB_OK) {
        nib_ids_free(&ids);
        return s;
    }
    *out = ids.data;
    *n_out = ids.len;
    return NIB_OK;
}

nib_status nib_decode(const nib_model *m, const int32_t *ids, size_t n, char **text, size_t *n_text,
                      nib_error *e) {
    nib_buf b = {0};
    nib_status s = nib_detokenize(nib_model_tokenizer(m), ids, n, false, &b, e);
    if (s == NIB_OK && !nib_buf_put(&b, "", 0)) s = nib_fail_nomem(e, 1, "text");
    if (s != NIB_OK) {
        nib_buf_free(&b);
        return s;
    }
    *text = b.data;
    *n_text = b.len;
    return NIB_OK;
}

bool nib_is_end(const nib_model *m, int32_t id) {
    return nib_token_is_eog(nib_model_tokenizer(m), id);
}

static nib_status new_engine(nib_engine **out, nib_model *m, const nib_config *c,
                             const atomic_bool *cancel, nib_error *e) {
    nib_engine_params p = {0};
    if (c) {
        if (c->n_threads < 0 || c->n_threads > 256 || c->n_batch < 0 ||
            c->n_ctx < NIB_CONTEXT_AUTO || (int)c->cache < 0 ||
            (int)c->cache >= (int)NIB_KV_N_TYPES)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "nib_config: expected 0 to 256 threads, a context of -1 or more, a "
                            "batch of 0 or more and a known "
                            "cache; found %d, %lld, %d and %d",
                            c->n_threads, (long long)c->n_ctx, c->n_batch, (int)c->cache);
        p = (nib_engine_params){.n_threads = c->n_threads,
                                .n_ctx = c->n_ctx,
                                .kv = (nib_kv_type)c->cache,
                                .batch = c->n_batch};
    }
    NIB_TRY(nib_engine_new(out, m, &p, e));
    nib_engine_set_cancel(*out, cancel);
    return NIB_OK;
}

/* ---- sessions ---- */

static nib_status new_sampler(nib_session *s, const nib_sample_params *p, nib_error *e) {
    nib_sampler *fresh;
    NIB_TRY(nib_sampler_new(&fresh, p,
                            (int32_t)nib_model_get_info(nib_engine_model(s->engine))->n_vocab, e));
    const int32_t *ids = nib_seq_tokens(s->seq);
    nib_status status = NIB_OK;
    for (int64_t i = 0; i < nib_seq_len(s->seq) && status == NIB_OK; i++)
        status = nib_sampler_accept(fresh, ids[i], e);
    if (status != NIB_OK) {
        nib_sampler_free(fresh);
        return status;
    }
    nib_sampler_free(s->sampler);
    s->sampler = fresh;
    s->sampling = *p;
    return NIB_OK;
}

nib_status nib_session_open(nib_session **out, nib_model *m, const nib_config *config,
                            nib_error *e) {
    nib_session *s = nib_calloc(1, sizeof *s);
    if (!s) return nib_fail_nomem(e, sizeof *s, "a session");
    nib_status status = new_engine(&s->engine, m, config, &s->cancel, e);
    if (status == NIB_OK) status = nib_seq_new(&s->seq, s->engine, e);
    nib_sample_params p = nib_model_sampling(m);
    if (status == NIB_OK && nib_model_get_info(m)->causal) status = new_sampler(s, &p, e);
    if (status != NIB_OK) {
        nib_session_close(s);
        return status;
    }
    *out = s;
    return NIB_OK;
}

void nib_session_close(nib_session *s) {
    if (!s) return;
    nib_sampler_free(s->sampler);
    nib_engine_free(s->engine);
    nib_free(s);
}

int64_t nib_session_n_ctx(const nib_session *s) {
    return nib_engine_n_ctx(s->engine);
}
int64_t nib_session_length(const nib_session *s) {
    return nib_seq_len(s->seq);
}
void nib_session_cancel(nib_session *s) {
    atomic_store(&s->cancel, true);
}

/* The sampler sees what the sequence holds: after a cancelled eval, whole chunks may have stayed.
 */
nib_status nib_session_eval(nib_session *s, const int32_t *ids, size_t n, const float **logits,
                            nib_error *e) {
    int64_t before = nib_seq_len(s->seq);
    const float *scores = NULL;
    atomic_store(&s->cancel, false);
    s->logits = NULL;
    nib_status status = nib_seq_eval(s->seq, ids, (int64_t)n, &scores, e);
    for (int64_t i = before; i < nib_seq_len(s->seq) && s->sampler; i++) {
        nib_status accepted = nib_sampler_accept(s->sampler, nib_seq_tokens(s->seq)[i], e);
        if (status == NIB_OK) status = accepted;
    }
    if (status != NIB_OK) return status;
    s->logits = scores;
    if (logits) *logits = scores;
    return NIB_OK;
}

void nib_session_rewind(nib_session *s, int64_t n) {
    n = n < 0 ? 0 : NIB_MIN(n, nib_seq_len(s->seq));
    if (n == nib_seq_len(s->seq)) return;
    nib_seq_rewind(s->seq, n);
    if (s->sampler) nib_sampler_rewind(s->sampler, (size_t)n);
    s->logits = NULL;
}

nib_status nib_session_set(nib_session *s, const char *name, const char *value, nib_error *e) {
    nib_sample_params p = s->sampling;
    NIB_TRY(nib_sample_set(&p, name, value, e));
    return new_sampler(s, &p, e);
}

nib_status nib_session_pick(nib_session *s, int32_t *token, nib_error *e) {
    if (!s->logits || !s->sampler)
        return nib_fail(
            e, NIB_ERR_ARGUMENT,
            "nib_session_pick: there are no scores to draw from: call nib_session_eval first");
    *token = nib_sampler_pick(s->sampler, s->logits);
    return NIB_OK;
}

nib_status nib_session_embed(nib_session *s, const char *text, size_t n, float *out, nib_error *e) {
    nib_ids ids = {0};
    atomic_store(&s->cancel, false);
    s->logits = NULL; /* the engine computes anew */
    nib_status status = nib_tokenize(nib_model_tokenizer(nib_engine_model(s->engine)), text, n,
                                     NIB_TOK_SPECIAL, &ids, e);
    if (status == NIB_OK)
        status = nib_engine_embed(s->engine, ids.data, (int64_t)ids.len, true, out, e);
    nib_ids_free(&ids);
    return status;
}

/* ---- chats ---- */

nib_status nib_chat_open(nib_chat **out, nib_model *m, const nib_config *config, nib_error *e) {
    if (!nib_model_get_info(m)->causal)
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "'%s' is an embedding model: it cannot chat",
                        nib_model_name(m));
    nib_chat *c = nib_calloc(1, sizeof *c);
    if (!c) return nib_fail_nomem(e, sizeof *c, "a chat");
    c->settings.p = nib_dialog_defaults(m);
    nib_status s = new_engine(&c->engine, m, config, &c->cancel, e);
    if (s == NIB_OK) s = nib_dialog_new(&c->dialog, c->engine, &c->settings.p, e);
    if (s != NIB_OK) {
        nib_chat_close(c);
        return s;
    }
    *out = c;
    return NIB_OK;
}

void nib_chat_close(nib_chat *c) {
    if (!c) return;
    nib_dialog_free(c->dialog);
    nib_engine_free(c->engine);
    nib_settings_free(&c->settings);
    nib_free(c);
}

nib_status nib_chat_set(nib_chat *c, const char *name, const char *value, nib_error *e) {
    return nib_settings_set(&c->settings, name, value, e);
}

typedef struct listener {
    nib_text_fn fn;
    void *arg;
} listener;

static bool on_piece(void *arg, const nib_piece *p) {
    const listener *l = arg;
    if (p->kind == NIB_PIECE_PROMPT || !p->len || !l->fn) return true;
    return l->fn(l->arg, p->text, p->len, p->kind == NIB_PIECE_THOUGHT);
}

/* The settings as they are now, before every reply. */
static nib_status ready(nib_chat *c, nib_error *e) {
    atomic_store(&c->cancel, false);
    NIB_TRY(nib_settings_ready(&c->settings, e));
    *nib_dialog_params_of(c->dialog) = c->settings.p;
    return nib_dialog_params_changed(c->dialog, e);
}

static void answer(const nib_reply *r, nib_answer *out) {
    if (!out) return;
    *out = (nib_answer){.text = r->text,
                        .thinking = r->thinking,
                        .finish = r->finish,
                        .n_prompt = r->n_prompt,
                        .n_cached = r->n_cached,
                        .n_generated = r->n_generated,
                        .prompt_seconds = r->prompt_seconds,
                        .generate_seconds = r->generate_seconds,
                        .seed = r->seed};
}

nib_status nib_chat_say(nib_chat *c, const char *message, nib_text_fn fn, void *arg,
                        nib_answer *out, nib_error *e) {
    nib_reply r;
    NIB_TRY(ready(c, e));
    NIB_TRY(nib_dialog_say(c->dialog, message, on_piece, &(listener){fn, arg}, &r, e));
    answer(&r, out);
    return NIB_OK;
}

nib_status nib_chat_again(nib_chat *c, nib_text_fn fn, void *arg, nib_answer *out, nib_error *e) {
    nib_reply r;
    NIB_TRY(ready(c, e));
    NIB_TRY(nib_dialog_regenerate(c->dialog, on_piece, &(listener){fn, arg}, &r, e));
    answer(&r, out);
    return NIB_OK;
}

nib_status nib_chat_complete(nib_chat *c, const char *text, nib_text_fn fn, void *arg,
                             nib_answer *out, nib_error *e) {
    nib_reply r;
    NIB_TRY(ready(c, e));
    NIB_TRY(
        nib_dialog_complete(c->dialog, text, strlen(text), on_piece, &(listener){fn, arg}, &r, e));
    answer(&r, out);
    return NIB_OK;
}

bool nib_chat_undo(nib_chat *c) {
    return nib_dialog_undo(c->dialog);
}
void nib_chat_clear(nib_chat *c) {
    nib_dialog_clear(c->dialog);
}
void nib_chat_cancel(nib_chat *c) {
    atomic_store(&c->cancel, true);
}

nib_status nib_chat_messages(const nib_chat *c, char **json, nib_error *e) {
    json_t *v;
    nib_buf b = {0};
    NIB_TRY(nib_messages_to_json(nib_dialog_messages(c->dialog), &v, e));
    nib_status s = nib_json_write(v, &b, e);
    json_decref(v);
    if (s != NIB_OK)
        nib_buf_free(&b);
    else
        *json = b.data;
    return s;
}

nib_status nib_chat_set_messages(nib_chat *c, const char *json, nib_error *e) {
    json_t *v;
    nib_messages m = {0};
    NIB_TRY(nib_json_parse(json, strlen(json), &v, e));
    nib_status s = nib_messages_from_json(&m, v, e);
    if (s == NIB_OK) s = nib_dialog_set_messages(c->dialog, &m, e);
    nib_messages_free(&m);
    json_decref(v);
    return s;
}
