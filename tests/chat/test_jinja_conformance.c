/* Every case of the shared chat template suite: 83 templates over 44 conversations, with what
 * Jinja2 makes of them.
 *
 * An expected error is met by an error (the same message, where the template raised it); where
 * Jinja2 fails inside without the template having asked for it, rendering something is tolerable,
 * and counted. */
#include <jansson.h>
#include <time.h>
#include "chat/chat.h"
#include "testlib.h"

typedef struct suite {
    json_t *root;
    int64_t now;
    int n, n_differ, n_tolerated;
} suite;

static json_t *load(const char *path) {
    nib_error e;
    nib_buf text = {0};
    json_t *v;
    test_ok(nib_file_read(path, 64 << 20, &text, &e), &e);
    test_ok(nib_json_parse(text.data, text.len, &v, &e), &e);
    nib_buf_free(&text);
    return v;
}

static const char *text_at(const json_t *v, const char *key) {
    return json_string_value(json_object_get(v, key));
}

/* The variables that apply_chat_template passes. */
static json_t *variables(const json_t *c, const json_t *template, const json_t *conversation) {
    json_t *vars = json_object();
    static const char *const of_conversation[] = {"tools", "documents"}, *const of_template[] = {
                                                                             "bos_token",
                                                                             "eos_token"};
    json_object_set(vars, "messages", json_object_get(conversation, "messages"));
    json_object_set(vars, "add_generation_prompt", json_object_get(c, "add_generation_prompt"));
    for (int i = 0; i < 2; i++) {
        json_t *v = json_object_get(conversation, of_conversation[i]);
        json_object_set_new(vars, of_conversation[i], v ? json_incref(v) : json_null());
        v = json_object_get(template, of_template[i]);
        if (v && !json_is_null(v)) json_object_set(vars, of_template[i], v);
    }
    json_t *more = json_object_get(c, "vars");
    if (more) json_object_update(vars, more);
    return vars;
}

/* The text of the last message, for continue_final_message. */
static json_t *final_text(const json_t *conversation) {
    json_t *messages = json_object_get(conversation, "messages");
    json_t *content =
        json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content");
    for (size_t i = json_array_size(content); i-- > 0;) {
        json_t *text = json_object_get(json_array_get(content, i), "text");
        if (text) return text;
    }
    return content;
}

static void check_spans(const nib_rendered *r) {
    size_t at = 0;
    for (size_t i = 0; i < r->n_spans; i++) {
        assert_int_equal(r->spans[i].start, at);
        assert_true(r->spans[i].len > 0);
        if (i) assert_true(r->spans[i].trusted != r->spans[i - 1].trusted);
        at += r->spans[i].len;
    }
    assert_int_equal(at, r->text.len);
}

static bool same_text(const nib_rendered *r, const json_t *want) {
    return json_is_string(want) && r->text.len == json_string_length(want) &&
           !memcmp(r->text.data, json_string_value(want), r->text.len);
}

static void run_case(suite *s, const json_t *c, const nib_template *t) {
    const char *name = text_at(c, "template"), *conversation_name = text_at(c, "conversation");
    json_t *conversation =
        json_object_get(json_object_get(s->root, "conversations"), conversation_name);
    json_t *vars =
        variables(c, json_object_get(json_object_get(s->root, "templates"), name), conversation);
    const char *const trusted[] = {"bos_token", "eos_token", NULL};
    nib_render_options o = {.now = s->now, .trusted = trusted};
    nib_rendered r = {0};
    nib_error e = {0};
    nib_status got = nib_template_render(t, vars, &o, &r, &e);
    if (got == NIB_OK) check_spans(&r);
    if (got == NIB_OK && json_is_true(json_object_get(c, "continue_final_message"))) {
        json_t *last = final_text(conversation);
        got = nib_rendered_continue(&r, json_string_value(last), json_string_length(last), &e);
        if (got == NIB_OK) check_spans(&r);
    }
    const char *error = text_at(c, "error"), *kind = text_at(c, "error_kind");
    bool ok;
    if (!error) {
        ok = got == NIB_OK && (same_text(&r, json_object_get(c, "output")) ||
                               same_text(&r, json_object_get(c, "alt_output")));
    } else if (!strcmp(kind, "raised")) {
        ok = got == NIB_ERR_TEMPLATE && !strncmp(e.message, error, sizeof e.message - 1);
    } else {
        ok = got != NIB_OK || strcmp(kind, "RecursionError") != 0;
        s->n_tolerated += got == NIB_OK;
    }
    s->n++;
    if (!ok && s->n_differ++ < 20) {
        print_message("%s / %s (%s): ", name, conversation_name, nib_status_text(got));
        if (got != NIB_OK)
            print_message("%s\n", e.message);
        else
            print_message("\n  got  %.2000s\n  want %.2000s\n", r.text.len ? r.text.data : "",
                          error ? error : text_at(c, "output"));
    }
    nib_rendered_free(&r);
    json_decref(vars);
}

static void every_case(void **state) {
    (void)state;
    if (!test_shared()) test_skip("no shared data");
    suite s = {.root = load(test_shared_path("conformance/chat/cases.json"))};
    struct tm tm = {0};
    assert_non_null(strptime(text_at(s.root, "now"), "%Y-%m-%dT%H:%M:%S", &tm));
    s.now = timegm(&tm);
    const char *name;
    json_t *meta, *c;
    size_t i;
    int n_templates = 0;
    json_object_foreach(json_object_get(s.root, "templates"), name, meta) {
        nib_buf src = {0};
        nib_error e;
        nib_template *t;
        test_ok(nib_file_read(test_shared_path("conformance/chat/%s", text_at(meta, "file")),
                              1 << 20, &src, &e),
                &e);
        nib_status parsed = nib_template_parse(&t, src.data, src.len, &e);
        if (parsed != NIB_OK) fail_msg("%s: %s", name, e.message);
        json_array_foreach(json_object_get(s.root, "cases"), i, c) {
            if (!strcmp(text_at(c, "template"), name)) run_case(&s, c, t);
        }
        nib_template_free(t);
        nib_buf_free(&src);
        n_templates++;
    }
    print_message(
        "chat templates: %d templates, %d cases, %d differ (%d rendered where Jinja2 fails)\n",
        n_templates, s.n, s.n_differ, s.n_tolerated);
    assert_int_equal(s.n, json_array_size(json_object_get(s.root, "cases")));
    assert_int_equal(s.n_differ, 0);
    json_decref(s.root);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_case)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
