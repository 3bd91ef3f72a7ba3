/* Prompts of real templates with real vocabularies: tokenised in runs, where people's text is never
 * parsed, they are the same tokens as when the whole is parsed at once, which is how the models
 * were trained. */
#include <jansson.h>
#include "engine/engine.h"
#include "testlib.h"

static json_t *load(const char *path) {
    nib_error e;
    nib_buf text = {0};
    json_t *v;
    test_ok(nib_file_read(path, 64 << 20, &text, &e), &e);
    test_ok(nib_json_parse(text.data, text.len, &v, &e), &e);
    nib_buf_free(&text);
    return v;
}

/* The conversation when it is one of plain texts; else false. */
static bool plain_messages(const json_t *conversation, nib_messages *m) {
    nib_error e;
    const json_t *list = json_object_get(conversation, "messages");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        const char *role = json_string_value(json_object_get(v, "role"));
        const char *content = json_string_value(json_object_get(v, "content"));
        if (!role || !content || json_object_get(v, "tool_calls")) return false;
        test_ok(nib_messages_add(m, role, content, NULL, &e), &e);
    }
    return m->n > 0;
}

static void tokenise(const nib_tokenizer *t, const char *p, size_t n, unsigned flags,
                     nib_ids *out) {
    nib_error e;
    out->len = 0;
    test_ok(nib_tokenize(t, p, n, flags, out, &e), &e);
}

/* Whether someone's text spells a control token. */
static bool spells_control(const nib_tokenizer *t, const nib_rendered *r) {
    nib_ids a = {0}, b = {0};
    bool spells = false;
    for (size_t i = 0; i < r->n_spans && !spells; i++) {
        if (r->spans[i].trusted) continue;
        tokenise(t, r->text.data + r->spans[i].start, r->spans[i].len, 0, &a);
        tokenise(t, r->text.data + r->spans[i].start, r->spans[i].len, NIB_TOK_PARSE, &b);
        spells = a.len != b.len || memcmp(a.data, b.data, a.len * sizeof *a.data) != 0;
    }
    nib_ids_free(&a);
    nib_ids_free(&b);
    return spells;
}

static long n_cases, n_spelled, n_differ;

static void check(const nib_tokenizer *t, const nib_rendered *r, const char *what) {
    nib_error e;
    nib_ids whole = {0}, runs_ids = {0};
    nib_tok_run *runs = nib_calloc(r->n_spans + 1, sizeof *runs);
    assert_non_null(runs);
    for (size_t i = 0; i < r->n_spans; i++)
        runs[i] = (nib_tok_run){r->spans[i].len, r->spans[i].trusted};
    test_ok(nib_tokenize_runs(t, r->text.data, runs, r->n_spans, 0, &runs_ids, &e), &e);
    if (spells_control(t, r)) {
        n_spelled++;
    } else {
        tokenise(t, r->text.data, r->text.len, NIB_TOK_PARSE, &whole);
        n_cases++;
        if (whole.len != runs_ids.len ||
            memcmp(whole.data, runs_ids.data, whole.len * sizeof *whole.data) != 0) {
            n_differ++;
            print_message("differs: %s: %zu and %zu tokens\n", what, whole.len, runs_ids.len);
        }
    }
    nib_free(runs);
    nib_ids_free(&whole);
    nib_ids_free(&runs_ids);
}

static void prompts_are_tokenised_as_in_training(void **state) {
    (void)state;
    if (!test_shared()) {
        test_skip("no reference data");
        return;
    }
    static const struct {
        const char *tmpl, *vocab;
    } pairs[] = {
        {"llama-2-chat", "llama-spm"},
        {"tinyllama", "llama-spm"},
        {"mistral-7b-instruct-v0.2", "llama-spm"},
        {"vicuna-13b-v1.1", "llama-spm"},
        {"zephyr-7b-beta", "llama-spm"},
        {"phi-3", "phi-3"},
        {"microsoft-Phi-3.5-mini-instruct", "phi-3"},
        {"llama-3-8b-instruct", "llama-bpe"},
        {"meta-llama-Llama-3.2-3B-Instruct", "llama-bpe"},
        {"smollm2", "smollm2"},
        {"smollm3", "smollm3"},
        {"qwen3", "qwen2"},
        {"Qwen-Qwen2.5-7B-Instruct", "qwen2"},
        {"chatml", "qwen2"},
        {"stablelm-2-zephyr", "stablelm2"},
        {"granite-3.0-8b-instruct", "gpt-2"},
        {NULL, "llama-spm"},
        {NULL, "phi-2"}, /* the fallback */
    };
    nib_error e;
    json_t *root = load(test_shared_path("conformance/chat/cases.json"));
    const json_t *conversations = json_object_get(root, "conversations"), *conversation;
    for (size_t i = 0; i < NIB_ARRAY_LEN(pairs); i++) {
        nib_gguf *g = NULL;
        nib_tokenizer *t = NULL;
        nib_template *tmpl = NULL;
        test_ok(
            nib_gguf_open(
                &g, test_shared_path("conformance/tokenizers/%s/vocab.gguf", pairs[i].vocab), &e),
            &e);
        test_ok(nib_tokenizer_from_gguf(&t, g, &e), &e);
        nib_gguf_close(g);
        if (pairs[i].tmpl) {
            nib_buf src = {0};
            test_ok(nib_file_read(test_shared_path("conformance/chat/%s.jinja", pairs[i].tmpl),
                                  1 << 20, &src, &e),
                    &e);
            test_ok(nib_template_parse(&tmpl, src.data, src.len, &e), &e);
            nib_buf_free(&src);
        }
        const char *name;
        json_object_foreach((json_t *)conversations, name, *(json_t **)&conversation) {
            nib_messages m = {0};
            nib_rendered r = {0};
            char what[200];
            snprintf(what, sizeof what, "%s, %s, %s", pairs[i].tmpl ? pairs[i].tmpl : "fallback",
                     pairs[i].vocab, name);
            bool system = false;
            if (plain_messages(conversation, &m)) {
                system = strcmp(m.v[0].role, "system") == 0;
                if (nib_chat_render(tmpl, system ? m.v[0].content : NULL, &m, system, true, "<s>",
                                    "</s>", NULL, 1700000000, &r, &e) == NIB_OK) {
                    if (r.text.len) check(t, &r, what);
                    nib_rendered_free(&r);
                }
            }
            nib_messages_free(&m);
        }
        nib_template_free(tmpl);
        nib_tokenizer_free(t);
    }
    json_decref(root);
    print_message(
        "prompts in runs: %ld cases, %ld differ (%ld more spell control tokens and must differ)\n",
        n_cases, n_differ, n_spelled);
    assert_true(n_cases > 300);
    assert_int_equal(n_differ, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(prompts_are_tokenised_as_in_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
