/* A text as chunks of tokens: what imatrix, perplexity and comparing have in common. */
#include "eval/eval.h"

enum { CHUNK = 512, SHORTEST = 8 };

int64_t nib_chunk_length(const nib_model *m, const nib_eval_params *p) {
    if (p && p->n_ctx) return p->n_ctx;
    return m ? NIB_MIN((int64_t)CHUNK, nib_model_get_info(m)->n_ctx_train) : CHUNK;
}

nib_status nib_chunks_make(nib_chunks *out, const nib_model *m, const char *text, size_t len,
                           const nib_eval_params *p, nib_error *e) {
    const nib_tokenizer *t = nib_model_tokenizer(m);
    const nib_tokenizer_info *info = nib_tokenizer_get_info(t);
    nib_chunks c = {.n_ctx = nib_chunk_length(m, p), .bos = info->add_bos ? info->bos : -1};
    if (c.n_ctx < SHORTEST)
        return nib_fail(e, NIB_ERR_ARGUMENT, "expected chunks of at least %d tokens, found %lld",
                        SHORTEST, (long long)c.n_ctx);
    nib_status s = nib_tokenize(t, text, len, NIB_TOK_SPECIAL, &c.ids, e);
    int64_t n = (int64_t)c.ids.len;
    if (s == NIB_OK && n < SHORTEST)
        s = nib_fail(e, NIB_ERR_FORMAT, "expected a text of at least %d tokens, found %lld",
                     SHORTEST, (long long)n);
    if (s != NIB_OK) {
        nib_ids_free(&c.ids);
        return s;
    }
    c.n_ctx = NIB_MIN(c.n_ctx, n);
    c.n = n / c.n_ctx;
    if (p && p->n_chunks > 0) c.n = NIB_MIN(c.n, p->n_chunks);
    *out = c;
    return NIB_OK;
}

void nib_chunks_free(nib_chunks *c) {
    nib_ids_free(&c->ids);
    *c = (nib_chunks){0};
}

void nib_chunk_get(const nib_chunks *c, int64_t i, int32_t *out) {
    memcpy(out, c->ids.data + i * c->n_ctx, (size_t)c->n_ctx * sizeof *out);
    if (c->bos >= 0) out[0] = c->bos;
}
