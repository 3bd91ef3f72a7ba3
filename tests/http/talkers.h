/* The servers that tests of the APIs ask: one counts, one thinks first. What they say is a script,
 * so texts are known. setup and teardown are the group's. */
#ifndef NIB_TESTS_TALKERS_H
#define NIB_TESTS_TALKERS_H
#include "httpclient.h"
#include "scriptmodel.h"
#include "tinymodel.h"

/* "one two three one ...": 8 tokens are onetwothreeonetwothreeonetwo; after "!" comes two, after
 * "?" three */
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
#endif
