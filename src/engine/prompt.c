/* From messages or a text to the tokens of a prompt.
 *
 * The template's text and the people's text are kept apart up to the tokenizer: only the template
 * can spell control tokens, while ordinary text is tokenised across the seams, as in training. */
#include <jansson.h>
#include "engine/engine.h"

static json_t *variables(const nib_dialog_params *p) {
    bool on = p->think == NIB_THINK_ON;
    if (p->think == NIB_THINK_AUTO) return json_object();
    return json_pack("{s:b, s:b}", "enable_thinking", on, "thinking", on);
}

/* The token's spelling for templates into b; *text NULL when the model has none. */
static nib_status spelling(const nib_tokenizer *tok, int32_t id, nib_buf *b, const char **text,
                           nib_error *e) {
    nib_str t = id >= 0 ? nib_token_text(tok, id) : (nib_str){0};
    *text = NULL;
    if (t.n == 0) return NIB_OK;
    if (!nib_buf_put(b, t.p, t.n)) return nib_fail_nomem(e, t.n, "a token's text");
    *text = b->data;
    return NIB_OK;
}

static nib_status tokenise(const nib_tokenizer *tok, const nib_rendered *r, nib_ids *out,
                           nib_error *e) {
    const nib_tokenizer_info *info = nib_tokenizer_get_info(tok);
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
        nib_tokenize_runs(tok, r->text.data ? r->text.data : "", runs, r->n_spans, 0, out, e));
    if (bos && out->len > 1 && out->data[1] == info->bos) { /* the template wrote it too */
        memmove(out->data, out->data + 1, (out->len - 1) * sizeof *out->data);
        out->len--;
    }
out:
    nib_free(runs);
    return s;
}

nib_status nib_prompt_render(const nib_prompt *q, nib_rendered *out, nib_error *e) {
    const nib_tokenizer *tok = nib_model_tokenizer(q->model);
    const nib_tokenizer_info *info = nib_tokenizer_get_info(tok);
    const nib_dialog_params *p = q->p;
    const char *system = p->system && *p->system ? p->system : NULL, *bos_text, *eos_text;
    nib_buf bos = {0}, eos = {0};
    nib_rendered r = {0};
    json_t *extra = variables(p);
    nib_status s = extra ? NIB_OK : nib_fail_nomem(e, 1, "a template's variables");
    if (s != NIB_OK) goto out;
    NIB_TRY_OUT(spelling(tok, info->bos, &bos, &bos_text, e));
    NIB_TRY_OUT(spelling(tok, info->eos, &eos, &eos_text, e));
    NIB_TRY_OUT(nib_chat_render(q->tmpl, system, q->messages, q->first, !q->go_on, bos_text,
                                eos_text, extra, p->now, &r, e));
    if (q->go_on) {
        const char *last = q->messages->v[q->messages->n - 1].content;
        NIB_TRY_OUT(nib_rendered_continue(&r, last, strlen(last), e));
    }
    *out = r;
    r = (nib_rendered){0};
out:
    nib_rendered_free(&r);
    json_decref(extra);
    nib_buf_free(&bos);
    nib_buf_free(&eos);
    return s;
}

nib_status nib_prompt_text(const nib_model *m, const char *text, size_t n, bool parse_special,
                           nib_ids *out, nib_error *e) {
    const nib_tokenizer *tok = nib_model_tokenizer(m);
    NIB_TRY(
        nib_tokenize(tok, text, n, NIB_TOK_SPECIAL | (parse_special ? NIB_TOK_PARSE : 0u), out, e));
    const nib_tokenizer_info *info = nib_tokenizer_get_info(tok);
    if (info->add_eos && out->len > 1 && out->data[out->len - 1] == info->eos)
        out->len--; /* an end is no place to go on from */
    if (out->len == 0)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "nothing to continue: the prompt is empty and the model has no BOS token");
    return NIB_OK;
}

static nib_status joined(const nib_prompt *q, nib_ids *out, nib_error *e) {
    nib_buf text = {0};
    if (q->p->system) nib_buf_puts(&text, q->p->system);
    for (size_t i = q->first; i < q->messages->n; i++)
        nib_buf_puts(&text, q->messages->v[i].content);
    nib_status s = text.failed ? nib_fail_nomem(e, text.len, "a prompt")
                               : nib_prompt_text(q->model, text.data ? text.data : "", text.len,
                                                 q->p->parse_special, out, e);
    nib_buf_free(&text);
    return s;
}

nib_status nib_prompt_build(const nib_prompt *q, nib_ids *out, bool *opened, nib_error *e) {
    out->len = 0;
    *opened = false;
    if (q->p->raw) return joined(q, out, e);
    nib_rendered r;
    NIB_TRY(nib_prompt_render(q, &r, e));
    nib_status s = tokenise(nib_model_tokenizer(q->model), &r, out, e);
    *opened = r.text.len && nib_think_open(r.text.data, r.text.len);
    nib_rendered_free(&r);
    return s;
}
