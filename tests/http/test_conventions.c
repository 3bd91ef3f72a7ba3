/* What clients of each API rely on, field by field: several prompts, log probabilities, the order
 * of a stream's events, times, and what is refused by name. The models say what a script tells
 * them. */
#include "httpclient.h"
#include "scriptmodel.h"
#include "tinymodel.h"
#include <jansson.h>
#include <stdlib.h>

/* "one two three one ..."; after "!" comes two, after "?" three */
static const test_line counting[] = {{"\n", "one", 9},    {"one", "two", 9}, {"two", "three", 9},
                                     {"three", "one", 9}, {"!", "two", 9},   {"?", "three", 9},
                                     {NULL, NULL, 0}};
static const test_line thinking[] = {{"\n", "<think>", 9},
                                     {"<think>", "hmm", 9},
                                     {"hmm", "</think>", 9},
                                     {"</think>", "yes", 9},
                                     {NULL, NULL, 0}};
static test_server *s, *thinker;

static int setup(void **state) {
    (void)state;
    nib_server_params p =
        test_serve_params(test_script_model("count.gguf", test_chatml, 1024, counting));
    s = test_serve(&p);
    p.model_path = test_script_model("think.gguf", test_chatml, 1024, thinking);
    thinker = test_serve(&p);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    test_serve_stop(s);
    test_serve_stop(thinker);
    return 0;
}

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}],\"temperature\":0"

static void has(const test_reply *r, const char *part) {
    if (!strstr(r->body.data, part)) fail_msg("'%s' is not in: %s", part, r->body.data);
}
static void text_is(const test_reply *r, const char *path, const char *expected) {
    assert_string_equal(test_json_text(r, path), expected);
}
/* The request is refused, and the field named. */
static void refused(const char *path, const char *body, const char *param) {
    test_reply *r = test_post(s->port, path, body);
    if (r->status != 400) fail_msg("%s %s: %d %s", path, body, r->status, r->body.data);
    if (!strstr(r->body.data, param)) fail_msg("%s is not named: %s", param, r->body.data);
}

/* ---- several prompts ---- */

static void several_prompts(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/completions",
                              "{\"prompt\":[\"one!\",\"two?\",\"!\"],\"max_tokens\":2,"
                              "\"temperature\":0,\"n\":2,\"echo\":true}");
    assert_int_equal(r->status, 200);
    static const char *const texts[] = {"one!twothree", "one!twothree", "two?threeone",
                                        "two?threeone", "!twothree",    "!twothree"};
    assert_int_equal(json_array_size(test_json(r, "choices")), 6);
    for (int i = 0; i < 6; i++) {
        char path[40];
        snprintf(path, sizeof path, "choices.%d.text", i);
        text_is(r, path, texts[i]);
        snprintf(path, sizeof path, "choices.%d.index", i);
        assert_int_equal(test_json_int(r, path), i);
    }
    assert_int_equal(test_json_int(r, "usage.completion_tokens"), 12);
    int64_t n_prompt = test_json_int(r, "usage.prompt_tokens");
    assert_true(n_prompt >= 3);
    /* lists of ids, and one list of ids */
    r = test_post(s->port, "/tokenize", "{\"content\":\"one!\",\"add_special\":true}");
    char ids[256], body[700];
    char *list = json_dumps(test_json(r, "tokens"), JSON_COMPACT);
    snprintf(ids, sizeof ids, "%s", list);
    free(list);
    snprintf(body, sizeof body, "{\"prompt\":[%s,%s],\"max_tokens\":1,\"temperature\":0}", ids,
             ids);
    r = test_post(s->port, "/v1/completions", body);
    text_is(r, "choices.0.text", "two");
    text_is(r, "choices.1.text", "two");
    snprintf(body, sizeof body, "{\"prompt\":%s,\"max_tokens\":1,\"temperature\":0}", ids);
    r = test_post(s->port, "/v1/completions", body);
    text_is(r, "choices.0.text", "two");
    assert_int_equal(json_array_size(test_json(r, "choices")), 1);
    /* streamed: each chunk says whose it is, and there is one end */
    r = test_post(
        s->port, "/v1/completions",
        "{\"prompt\":[\"one!\",\"two?\"],\"max_tokens\":2,\"temperature\":0,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true}}");
    assert_int_equal(r->status, 200);
    has(r, "\"index\":0,\"text\":\"two\"");
    has(r, "\"index\":1,\"text\":\"three\"");
    has(r, "\"completion_tokens\":4");
    const char *done = strstr(r->body.data, "data: [DONE]");
    assert_non_null(done);
    assert_null(strstr(done + 5, "data: [DONE]"));
    /* one that is wrong is an error of the request */
    snprintf(body, sizeof body, "{\"prompt\":[\"one\",[99999999]]}");
    assert_int_equal(test_post(s->port, "/v1/completions", body)->status, 400);
    nib_buf text = {0};
    nib_buf_puts(&text, "{\"max_tokens\":2,\"prompt\":[\"one\",\"");
    for (int i = 0; i < 3000; i++) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"]}");
    r = test_post(s->port, "/v1/completions", text.data);
    assert_int_equal(r->status, 400);
    text_is(r, "error.code", "context_length_exceeded");
    nib_buf_clear(&text);
    nib_buf_puts(&text, "{\"prompt\":[\"a\"");
    for (int i = 0; i < 64; i++) nib_buf_puts(&text, ",\"a\"");
    nib_buf_puts(&text, "]}");
    refused("/v1/completions", text.data, "prompt");
    nib_buf_free(&text);
    refused("/v1/completions", "{\"prompt\":[]}", "prompt");
    refused("/v1/completions", "{\"prompt\":[1,\"a\"]}", "prompt");
    refused("/api/generate", "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt");
    nib_sched_stats st;
    double until = nib_now() + 60;
    do { /* what was cancelled is over */
        assert_true(nib_now() < until);
        nib_sched_get_stats(nib_server_sched(s->server), &st);
    } while (st.n_running || st.n_waiting);
}

static void several_prompts_of_llama(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/completion",
                              "{\"prompt\":[\"one!\",\"!\"],\"n_predict\":2,\"temperature\":0}");
    assert_int_equal(r->status, 200);
    text_is(r, "0.content", "twothree");
    text_is(r, "1.content", "twothree");
    assert_int_equal(test_json_int(r, "1.index"), 1);
    assert_true(test_json_int(r, "1.tokens_evaluated") > 0);
    r = test_post(s->port, "/completion",
                  "{\"prompt\":[\"one!\",\"two?\"],\"n_predict\":1,\"temperature\":0,"
                  "\"stream\":true}");
    has(r, "{\"index\":1,\"content\":\"three\",");
    r = test_post(s->port, "/completion",
                  "{\"prompt\":[\"one!\"],\"n_predict\":1,\"temperature\":0}");
    text_is(r, "content", "two"); /* one prompt: no list */
}

static void log_probabilities(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/completions",
                              "{\"prompt\":\"one!\",\"max_tokens\":3,\"temperature\":0,"
                              "\"logprobs\":2}");
    assert_int_equal(r->status, 200);
    text_is(r, "choices.0.logprobs.tokens.2", "one");
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.0"), 0);
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.1"), 3);
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.2"), 8);
    assert_int_equal(json_object_size(test_json(r, "choices.0.logprobs.top_logprobs.0")), 2);
    r = test_post(s->port, "/v1/completions",
                  "{\"prompt\":\"one!\",\"max_tokens\":2,\"temperature\":0,\"logprobs\":0,"
                  "\"stream\":true}");
    has(r, "\"text_offset\":[3]");
    refused("/v1/completions", "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1}", "logprobs");
    refused("/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix");
    refused("/v1/completions", "{\"prompt\":\"a\",\"best_of\":3}", "best_of");
    refused("/v1/completions", "{\"prompt\":\"a\",\"best_of\":1,\"n\":2}", "best_of");
    assert_int_equal(test_post(s->port, "/v1/completions",
                               "{\"prompt\":\"a\",\"best_of\":2,\"n\":2,\"max_tokens\":1}")
                         ->status,
                     200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_prompts),
        cmocka_unit_test(several_prompts_of_llama),
        cmocka_unit_test(log_probabilities),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
