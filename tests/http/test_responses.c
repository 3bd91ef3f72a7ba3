/* /v1/responses as a conversation that the server remembers: gone on from, listed, deleted, after a
 * restart too, and never by another client. */
#include "httpclient.h"
#include "scriptmodel.h"
#include "tinymodel.h"
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

/* "one two three one ..." */
static const test_line counting[] = {
    {"\n", "one", 9}, {"one", "two", 9}, {"two", "three", 9}, {"three", "one", 9}, {NULL, NULL, 0}};
static char id[64], store[4096];

static nib_server_params params(void) {
    nib_server_params p =
        test_serve_params(test_script_model("count.gguf", test_chatml, 1024, counting));
    snprintf(store, sizeof store, "%s/responses.db", test_tmp());
    p.store = store;
    return p;
}

static test_reply *respond(test_server *s, const char *headers, const char *fmt, ...)
    NIB_PRINTF(3, 4);
static test_reply *respond(test_server *s, const char *headers, const char *fmt, ...) {
    char body[2048];
    int n = snprintf(body, sizeof body, "{\"temperature\":0,\"max_output_tokens\":3,");
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(body + n, sizeof body - (size_t)n - 1, fmt, ap);
    va_end(ap);
    snprintf(body + n, sizeof body - (size_t)n, "}");
    test_reply *r = test_ask(s->port, "POST", "/v1/responses", headers, body);
    if (r->status == 200 && test_json(r, "id"))
        snprintf(id, sizeof id, "%s", test_json_text(r, "id"));
    return r;
}

static test_reply *look(test_server *s, const char *headers, const char *which, const char *rest) {
    char path[300];
    snprintf(path, sizeof path, "/v1/responses/%s%s", which, rest);
    return test_ask(s->port, "GET", path, headers, NULL);
}

static void survives_a_restart(void **state) {
    (void)state;
    nib_server_params p = params();
    test_server *s = test_serve(&p);
    char first[64];
    test_reply *r = respond(s, NULL,
                            "\"input\":[{\"role\":\"system\",\"content\":\"Be good\"},{\"role\":"
                            "\"user\",\"content\":\"Go\"}],\"instructions\":\"Now\"");
    assert_int_equal(r->status, 200);
    snprintf(first, sizeof first, "%s", id);
    int64_t n = test_json_int(r, "usage.input_tokens");
    test_serve_stop(s);

    s = test_serve(&p);
    r = look(s, NULL, first, "");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_json_text(r, "output.0.content.0.text"), "onetwothree");
    /* system text, question, reply and the new question, but not the instructions */
    r = respond(s, NULL, "\"input\":\"Go\",\"previous_response_id\":\"%s\",\"stream\":true", first);
    assert_int_equal(r->status, 200);
    char *previous = test_sse_text(r, "response.previous_response_id");
    assert_true(strncmp(previous, first, strlen(first)) == 0);
    free(previous);
    char *done = strstr(r->body.data, "event: response.incomplete");
    assert_non_null(done);
    char streamed[64];
    const char *at = strstr(done, "\"id\":\"") + 6;
    snprintf(streamed, sizeof streamed, "%.*s", (int)strcspn(at, "\""), at);
    const char *usage = strstr(done, "\"input_tokens\":");
    int64_t more = atoll(usage + 15);
    assert_true(more > n);
    r = respond(s, NULL,
                "\"store\":false,\"input\":[{\"role\":\"system\",\"content\":\"Be good\"},"
                "{\"role\":\"user\",\"content\":\"Go\"},{\"role\":\"assistant\",\"content\":"
                "\"onetwothree\"},{\"role\":\"user\",\"content\":\"Go\"}]");
    assert_int_equal(test_json_int(r, "usage.input_tokens"), more);
    assert_int_equal(look(s, NULL, id, "")->status, 404); /* store: false */

    /* what was streamed is kept too */
    r = look(s, NULL, streamed, "");
    assert_string_equal(test_json_text(r, "previous_response_id"), first);
    assert_string_equal(test_json_text(r, "status"), "incomplete");
    /* deleting the first leaves the second whole */
    char path[120];
    snprintf(path, sizeof path, "/v1/responses/%s", first);
    r = test_ask(s->port, "DELETE", path, NULL, NULL);
    assert_true(json_is_true(test_json(r, "deleted")));
    assert_int_equal(look(s, NULL, first, "")->status, 404);
    assert_int_equal(test_ask(s->port, "DELETE", path, NULL, NULL)->status, 404);
    r = respond(s, NULL, "\"input\":\"Go\",\"previous_response_id\":\"%s\"", streamed);
    assert_int_equal(r->status, 200);
    assert_true(test_json_int(r, "usage.input_tokens") > more);
    test_serve_stop(s);
}

static void input_items(void **state) {
    (void)state;
    nib_server_params p = params();
    test_server *s = test_serve(&p);
    assert_int_equal(respond(s, NULL,
                             "\"input\":[{\"role\":\"system\",\"content\":\"Be good\"},{\"role\":"
                             "\"user\",\"content\":\"a\"}]")
                         ->status,
                     200);
    test_reply *r = look(s, NULL, id, "/input_items?order=asc");
    assert_int_equal(r->status, 200);
    assert_int_equal(json_array_size(test_json(r, "data")), 2);
    assert_string_equal(test_json_text(r, "data.0.role"), "system");
    assert_string_equal(test_json_text(r, "data.1.content.0.text"), "a");
    assert_string_equal(test_json_text(r, "data.1.content.0.type"), "input_text");
    assert_int_equal(respond(s, NULL,
                             "\"previous_response_id\":\"%s\",\"input\":[{\"role\":\"user\","
                             "\"content\":\"b\"},{\"role\":\"assistant\",\"content\":\"c\"},"
                             "{\"role\":\"user\",\"content\":\"d\"}]",
                             id)
                         ->status,
                     200);
    r = look(s, NULL, id, "/input_items");
    assert_int_equal(json_array_size(test_json(r, "data")), 3);
    assert_string_equal(test_json_text(r, "data.0.content.0.text"), "d");
    assert_string_equal(test_json_text(r, "data.1.content.0.type"), "output_text");
    assert_true(json_is_false(test_json(r, "has_more")));
    r = look(s, NULL, id, "/input_items?limit=2");
    assert_true(json_is_true(test_json(r, "has_more")));
    char after[100], rest[160];
    snprintf(after, sizeof after, "%s", test_json_text(r, "last_id"));
    snprintf(rest, sizeof rest, "/input_items?limit=2&after=%s", after);
    r = look(s, NULL, id, rest);
    assert_int_equal(json_array_size(test_json(r, "data")), 1);
    assert_string_equal(test_json_text(r, "data.0.content.0.text"), "b");
    assert_int_equal(look(s, NULL, id, "/input_items?limit=0")->status, 400);
    assert_int_equal(look(s, NULL, id, "/input_items?order=up")->status, 400);
    assert_int_equal(look(s, NULL, id, "/other")->status, 404);
    assert_int_equal(look(s, NULL, id, "?stream=true")->status, 400);
    assert_int_equal(look(s, NULL, "resp_x", "/input_items")->status, 404);
    test_serve_stop(s);
}

static void others_do_not_see_them(void **state) {
    (void)state;
    static const char one[] = "Authorization: Bearer one\r\n",
                      two[] = "Authorization: Bearer two\r\n";
    char path[4096];
    nib_error e;
    snprintf(path, sizeof path, "%s/keys", test_tmp());
    test_ok(nib_file_write(path, "one\ntwo\n", 8, &e), &e);
    nib_server_params p = params();
    p.key_file = path;
    test_server *s = test_serve(&p);
    assert_int_equal(respond(s, one, "\"input\":\"Go\"")->status, 200);
    assert_int_equal(look(s, two, id, "")->status, 404);
    assert_int_equal(look(s, NULL, id, "")->status, 401);
    assert_int_equal(
        respond(s, two, "\"input\":\"Go\",\"previous_response_id\":\"%s\"", id)->status, 404);
    assert_int_equal(look(s, one, id, "")->status, 200);
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives_a_restart),
        cmocka_unit_test(input_items),
        cmocka_unit_test(others_do_not_see_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
