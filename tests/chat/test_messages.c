/* Conversations: the list, its JSON, the retention window, and the prompt they become. */
#include <jansson.h>
#include "chat/chat.h"
#include "testlib.h"

static char last_log[300];
static void keep_log(void *arg, nib_log_level level, const char *line) {
    (void)arg;
    (void)level;
    snprintf(last_log, sizeof last_log, "%s", line);
}

static nib_messages talk(const char *const *roles_and_contents) {
    nib_messages m = {0};
    nib_error e;
    for (const char *const *p = roles_and_contents; *p; p += 2)
        test_ok(nib_messages_add(&m, p[0], p[1], NULL, &e), &e);
    return m;
}
#define TALK(...) talk((const char *const[]){__VA_ARGS__, NULL})

/* Renders with a template's source (or NULL) and compares. */
static void expect(const char *src, const char *system, const nib_messages *m, size_t first,
                   bool generate, const char *want) {
    nib_template *t = NULL;
    nib_rendered r;
    nib_error e;
    if (src) test_ok(nib_template_parse(&t, src, strlen(src), &e), &e);
    last_log[0] = 0;
    test_ok(nib_chat_render(t, system, m, first, generate, "<s>", NULL, NULL, 0, &r, &e), &e);
    assert_string_equal(r.text.len ? r.text.data : "", want);
    size_t at = 0;
    for (size_t i = 0; i < r.n_spans; i++) {
        assert_int_equal(r.spans[i].start, at);
        at += r.spans[i].len;
    }
    assert_int_equal(at, r.text.len);
    nib_rendered_free(&r);
    nib_template_free(t);
}

static void list_grows_and_shrinks(void **state) {
    (void)state;
    nib_messages m = {0};
    nib_error e;
    char text[24];
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "text %d", i);
        test_ok(nib_messages_add(&m, i % 2 ? "assistant" : "user", text, i % 2 ? "hm" : NULL, &e),
                &e);
    }
    assert_int_equal(m.n, 100);
    assert_string_equal(m.v[99].content, "text 99");
    assert_string_equal(m.v[99].thinking, "hm");
    assert_null(m.v[98].thinking);
    nib_messages_truncate(&m, 3);
    nib_messages_truncate(&m, 5);
    assert_int_equal(m.n, 3);
    nib_messages_free(&m);
    assert_int_equal(m.n, 0);
}

static void window_counts_exchanges(void **state) {
    (void)state;
    nib_messages m = TALK("assistant", "welcome", "user", "1", "assistant", "a", "user", "2",
                          "tool", "t", "assistant", "b", "user", "3");
    static const struct {
        int n;
        size_t first;
    } cases[] = {{-1, 0}, {0, 6}, {1, 6}, {2, 3}, {3, 1}, {4, 0}, {99, 0}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++)
        assert_int_equal(nib_messages_window(&m, cases[i].n), cases[i].first);
    nib_messages_truncate(&m, 6); /* answered: the last exchange is the one of message 3 */
    assert_int_equal(nib_messages_window(&m, 1), 3);
    nib_messages_truncate(&m, 0);
    assert_int_equal(nib_messages_window(&m, 4), 0);
    nib_messages_free(&m);
}

static void json_both_ways(void **state) {
    (void)state;
    nib_messages m = {0};
    nib_error e;
    json_t *v;
    nib_buf text = {0};
    test_ok(nib_messages_add(&m, "user", "Größe \"?\"", NULL, &e), &e);
    test_ok(nib_messages_add(&m, "assistant", "bad \xff byte", "why", &e), &e);
    test_ok(nib_messages_to_json(&m, &v, &e), &e);
    test_ok(nib_json_write(v, &text, &e), &e);
    assert_string_equal(
        text.data,
        "[{\"role\":\"user\",\"content\":\"Größe \\\"?\\\"\"},{\"role\":\"assistant\",\"content\":"
        "\"bad \xef\xbf\xbd byte\",\"thinking\":\"why\"}]");
    test_ok(nib_messages_from_json(&m, v, &e), &e);
    assert_int_equal(m.n, 2);
    assert_string_equal(m.v[0].content, "Größe \"?\"");
    assert_string_equal(m.v[1].thinking, "why");
    json_decref(v);
    nib_buf_free(&text);
    static const char *const bad[] = {"{}",
                                      "[1]",
                                      "[{}]",
                                      "[{\"role\": 1, \"content\": \"\"}]",
                                      "[{\"role\": \"user\", \"content\": []}]",
                                      "[{\"role\": \"user\", \"content\": \"\", \"thinking\": 3}]"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++) {
        test_ok(nib_json_parse(bad[i], strlen(bad[i]), &v, &e), &e);
        assert_int_equal(nib_messages_from_json(&m, v, &e), NIB_ERR_FORMAT);
        assert_int_equal(m.n, 2); /* untouched */
        json_decref(v);
    }
    nib_messages_free(&m);
}

static const char turns[] =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}";
static const char no_system[] = "{% for m in messages %}{% if m.role == 'system' %}{{ "
                                "raise_exception('no system role') }}{% endif %}"
                                "[{{ m.role }}:{{ m.content }}]{% endfor %}";
static const char deaf[] = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}:{{ "
                           "m.content }}]{% endif %}{% endfor %}";
static const char picky[] = "{{ raise_exception('never') }}";

static void templates_get_the_conversation(void **state) {
    (void)state;
    nib_messages m = TALK("user", "hi", "assistant", "yes?", "user", "bye");
    expect(turns, NULL, &m, 0, true, "<s>[user:hi][assistant:yes?][user:bye][assistant:");
    expect(turns, "Be kind.", &m, 2, false, "<s>[system:Be kind.][user:bye]");
    expect(turns, "", &m, 2, false, "<s>[system:][user:bye]");
    expect(turns, NULL, &m, 9, true, "<s>[assistant:");
    expect("{{ tools is none }}{{ documents is none }}{{ eos_token is defined }}", NULL, &m, 0,
           false, "TrueTrueFalse");
    assert_string_equal(last_log, "");
    nib_messages_free(&m);
}

static void system_text_is_never_lost(void **state) {
    (void)state;
    nib_messages m = TALK("assistant", "welcome", "user", "hi", "user", "ho");
    nib_log_set(keep_log, NULL, NIB_LOG_WARN);
    expect(no_system, "Be kind.", &m, 0, false,
           "[assistant:welcome][user:Be kind.\n\nhi][user:ho]");
    assert_non_null(strstr(last_log, "refuses system messages"));
    expect(deaf, "Be kind.", &m, 0, false, "[assistant:welcome][user:Be kind.\n\nhi][user:ho]");
    assert_non_null(strstr(last_log, "ignores system messages"));
    expect(deaf, "welcome", &m, 0, false,
           "[assistant:welcome][user:hi][user:ho]"); /* there it is */
    expect(no_system, NULL, &m, 0, false, "[assistant:welcome][user:hi][user:ho]");
    /* a template that fails anyway fails with its own message */
    nib_template *t;
    nib_rendered r;
    nib_error e;
    test_ok(nib_template_parse(&t, picky, strlen(picky), &e), &e);
    assert_int_equal(nib_chat_render(t, "s", &m, 0, false, NULL, NULL, NULL, 0, &r, &e),
                     NIB_ERR_TEMPLATE);
    assert_string_equal(e.message, "never");
    nib_template_free(t);
    /* nothing to put it in front of */
    nib_messages_truncate(&m, 1);
    test_ok(nib_template_parse(&t, no_system, sizeof no_system - 1, &e), &e);
    assert_int_equal(nib_chat_render(t, "s", &m, 0, false, NULL, NULL, NULL, 0, &r, &e),
                     NIB_ERR_TEMPLATE);
    assert_string_equal(e.message, "no system role");
    nib_template_free(t);
    nib_log_set(NULL, NULL, NIB_LOG_ERROR);
    nib_messages_free(&m);
}

static void without_a_template(void **state) {
    (void)state;
    nib_messages m = TALK("user", "hi", "assistant", "yes?", "tool", "7", "user", "bye");
    expect(NULL, NULL, &m, 0, true, "User: hi\nAssistant: yes?\nTool: 7\nUser: bye\nAssistant:");
    expect(NULL, "Be kind.", &m, 3, true, "Be kind.\n\nUser: bye\nAssistant:");
    expect(NULL, "", &m, 0, false, "User: hi\nAssistant: yes?\nTool: 7\nUser: bye");
    nib_messages_truncate(&m, 0);
    expect(NULL, NULL, &m, 0, true, "Assistant:");
    nib_rendered r;
    nib_error e;
    test_ok(nib_chat_render(NULL, NULL, &m, 0, false, NULL, NULL, NULL, 0, &r, &e), &e);
    test_ok(nib_rendered_continue(&r, "", 0, &e), &e);
    assert_int_equal(nib_rendered_continue(&r, "x", 1, &e), NIB_ERR_NOT_FOUND);
    nib_rendered_free(&r);
    expect(NULL, NULL, &m, 0, false, "");
    nib_messages_free(&m);
}

static void extra_variables_override(void **state) {
    (void)state;
    nib_messages m = {0};
    nib_template *t;
    nib_rendered r;
    nib_error e;
    const char *src = "{{ enable_thinking }}{{ tools }}{{ messages[0].reasoning_content }}{{ "
                      "messages[0].thinking }}{{ eos_token }}";
    test_ok(nib_messages_add(&m, "assistant", "x", "why", &e), &e);
    json_t *extra = json_pack("{s:b, s:[i]}", "enable_thinking", 1, "tools", 5),
           *list = json_array();
    test_ok(nib_template_parse(&t, src, strlen(src), &e), &e);
    test_ok(nib_chat_render(t, NULL, &m, 0, false, NULL, "</s>", extra, 0, &r, &e), &e);
    assert_string_equal(r.text.data, "True[5]whywhy</s>");
    assert_true(r.spans[r.n_spans - 1].trusted);
    assert_false(r.spans[0].trusted);
    nib_rendered_free(&r);
    assert_int_equal(nib_chat_render(t, NULL, &m, 0, false, NULL, NULL, list, 0, &r, &e),
                     NIB_ERR_ARGUMENT);
    json_decref(extra);
    json_decref(list);
    nib_template_free(t);
    nib_messages_free(&m);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    nib_messages m = TALK("user", "a \xff b", "assistant", "c", "user", "d");
    nib_template *t;
    nib_error e;
    test_ok(nib_template_parse(&t, turns, sizeof turns - 1, &e), &e);
    for (int plain = 0; plain < 2; plain++) {
        long n = 1;
        for (nib_status s = NIB_ERR_NOMEM; s != NIB_OK; n++) {
            nib_rendered r = {0};
            nib_alloc_fail_after(n);
            s = nib_chat_render(plain ? NULL : t, "s", &m, 0, true, "<s>", NULL, NULL, 0, &r, &e);
            nib_alloc_fail_after(0);
            if (s != NIB_OK) assert_int_equal(s, NIB_ERR_NOMEM);
            nib_rendered_free(&r);
            assert_true(n < 100);
        }
        assert_true(n > 2);
    }
    nib_template_free(t);
    nib_messages_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_grows_and_shrinks),
        cmocka_unit_test(window_counts_exchanges),
        cmocka_unit_test(json_both_ways),
        cmocka_unit_test(templates_get_the_conversation),
        cmocka_unit_test(system_text_is_never_lost),
        cmocka_unit_test(without_a_template),
        cmocka_unit_test(extra_variables_override),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
