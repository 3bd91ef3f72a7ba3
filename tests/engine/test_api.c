/* The public interface, as a program uses it: only nib.h is included for what is tested. */
#include <nib.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "tinymodel.h"

static nib_error e;
static nib_model *model;

static int open_model(void **state) {
    (void)state;
    test_ok(
        nib_open(&model,
                 test_tiny_model("api.gguf", &(test_tiny){.seed = 4, .chat_template = test_chatml}),
                 &e),
        &e);
    return 0;
}
static int close_model(void **state) {
    (void)state;
    nib_close(model);
    return 0;
}

static void models(void **state) {
    (void)state;
    assert_string_equal(nib_model_name(model), "tiny model");
    assert_string_equal(nib_model_family(model), "llama");
    assert_int_equal(nib_model_n_vocab(model), TEST_TINY_VOCAB);
    assert_int_equal(nib_model_n_embd(model), 64);
    assert_int_equal(nib_model_n_ctx(model), 512);
    assert_true(nib_is_end(model, 2));
    assert_false(nib_is_end(model, 5));
    nib_model *none = NULL;
    assert_int_equal(nib_open(&none, "/nonexistent", &e), NIB_ERR_NOT_FOUND);
    assert_null(none); /* untouched on failure */
    nib_close(NULL);
    nib_free(NULL);
}

static void tokens(void **state) {
    (void)state;
    int32_t *ids;
    size_t n, n_text;
    char *text;
    test_ok(nib_encode(model, "the <|im_end|>", 14, NIB_ENCODE_SPECIAL, &ids, &n, &e), &e);
    assert_int_equal(ids[0], 1);
    for (size_t i = 0; i < n; i++) assert_int_not_equal(ids[i], TEST_TINY_IM_END);
    test_ok(nib_decode(model, ids, n, &text, &n_text, &e), &e);
    assert_string_equal(text, " the <|im_end|>");
    assert_int_equal(n_text, 15);
    nib_free(ids);
    nib_free(text);
    test_ok(nib_encode(model, "<|im_end|>", 10, NIB_ENCODE_CONTROL, &ids, &n, &e), &e);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], TEST_TINY_IM_END);
    nib_free(ids);
    test_ok(nib_encode(model, "", 0, 0, &ids, &n, &e), &e);
    assert_int_equal(n, 0);
    test_ok(nib_decode(model, ids, 0, &text, &n_text, &e), &e);
    assert_string_equal(text, "");
    nib_free(ids);
    nib_free(text);
    assert_int_equal(nib_encode(model, "x", 1, 64, &ids, &n, &e), NIB_ERR_ARGUMENT);
}

/* Greedy and drawn tokens repeat after a rewind; a rewound session gives the scores of a fresh one.
 */
static void sessions(void **state) {
    (void)state;
    nib_session *s;
    const float *logits;
    int32_t ids[] = {1, 270, 280}, a[20], b[20];
    test_ok(nib_session_open(&s, model,
                             &(nib_config){.n_ctx = 100, .n_threads = 2, .cache = NIB_CACHE_Q8_0},
                             &e),
            &e);
    assert_int_equal(nib_session_n_ctx(s), 100);
    int32_t token;
    assert_int_equal(nib_session_pick(s, &token, &e), NIB_ERR_ARGUMENT); /* nothing was computed */
    test_ok(nib_session_set(s, "temp", "0.9", &e), &e);
    test_ok(nib_session_set(s, "seed", "11", &e), &e);
    assert_int_equal(nib_session_set(s, "tmep", "1", &e), NIB_ERR_ARGUMENT);
    float *first = malloc(TEST_TINY_VOCAB * sizeof *first);
    for (int round = 0; round < 2; round++) {
        int32_t *out = round ? b : a;
        test_ok(nib_session_eval(s, ids + (round ? 2 : 0), round ? 1 : 3, &logits, &e), &e);
        assert_int_equal(nib_session_length(s), 3);
        if (round)
            assert_memory_equal(first, logits, TEST_TINY_VOCAB * sizeof *first);
        else
            memcpy(first, logits, TEST_TINY_VOCAB * sizeof *first);
        for (int i = 0; i < 20; i++) {
            test_ok(nib_session_pick(s, &out[i], &e), &e);
            test_ok(nib_session_eval(s, &out[i], 1, NULL, &e), &e);
        }
        nib_session_rewind(s, 2);
        assert_int_equal(nib_session_length(s), 2);
    }
    assert_memory_equal(a, b, sizeof a);
    free(first);
    int32_t many[200] = {0};
    assert_int_equal(nib_session_eval(s, many, 200, NULL, &e), NIB_ERR_CONTEXT);
    assert_int_equal(nib_session_length(s), 2);
    int32_t wild = 99999;
    assert_int_equal(nib_session_eval(s, &wild, 1, NULL, &e), NIB_ERR_ARGUMENT);
    nib_session_rewind(s, -5);
    assert_int_equal(nib_session_length(s), 0);
    float vector[64], sum = 0;
    test_ok(nib_session_embed(s, "the time", 8, vector, &e), &e);
    for (int i = 0; i < 64; i++) sum += vector[i] * vector[i];
    assert_true(fabsf(sum - 1) < 1e-4f);
    nib_session_close(s);
    nib_session_close(NULL);
    assert_int_equal(nib_session_open(&s, model, &(nib_config){.n_threads = -1}, &e),
                     NIB_ERR_ARGUMENT);
    assert_int_equal(nib_session_open(&s, model, &(nib_config){.n_ctx = -7}, &e), NIB_ERR_ARGUMENT);
}

static bool collect(void *arg, const char *text, size_t n, bool thought) {
    assert_false(thought);
    return nib_buf_put(arg, text, n);
}
static bool stop_at_once(void *arg, const char *text, size_t n, bool thought) {
    (void)text, (void)n, (void)thought;
    ++*(int *)arg;
    return false;
}

static void chats(void **state) {
    (void)state;
    nib_chat *c;
    nib_answer r;
    nib_buf text = {0};
    char *json, *again;
    test_ok(nib_chat_open(&c, model, NULL, &e), &e);
    test_ok(nib_chat_set(c, "max_tokens", "15", &e), &e);
    test_ok(nib_chat_set(c, "logit_bias", "2=-inf", &e), &e);
    test_ok(nib_chat_set(c, "logit_bias", "260=-inf", &e), &e);
    test_ok(nib_chat_set(c, "seed", "3", &e), &e);
    assert_int_equal(nib_chat_set(c, "max_token", "1", &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "max_tokens"));
    test_ok(nib_chat_say(c, "hello", collect, &text, &r, &e), &e);
    assert_string_equal(r.text, text.data);
    assert_null(r.thinking);
    assert_string_equal(r.finish, "length");
    assert_int_equal(r.n_generated, 15);
    assert_int_equal(r.seed, 3);
    char *said = strdup(r.text);
    test_ok(nib_chat_messages(c, &json, &e), &e);
    assert_non_null(strstr(json, "\"hello\""));
    assert_true(nib_chat_undo(c));
    assert_false(nib_chat_undo(c));
    test_ok(nib_chat_say(c, "hello", NULL, NULL, &r, &e),
            &e); /* nothing is left of the first time */
    assert_string_equal(r.text, said);
    test_ok(nib_chat_again(c, NULL, NULL, &r, &e), &e);
    assert_string_not_equal(r.text, said);
    nib_chat_clear(c);
    test_ok(nib_chat_messages(c, &again, &e), &e);
    assert_string_equal(again, "[]");
    nib_free(again);
    test_ok(nib_chat_set_messages(c, json, &e), &e);
    test_ok(nib_chat_messages(c, &again, &e), &e);
    assert_string_equal(again, json);
    assert_int_equal(nib_chat_set_messages(c, "[{]", &e), NIB_ERR_FORMAT);
    assert_int_equal(nib_chat_set_messages(c, "[{\"role\": 1}]", &e), NIB_ERR_FORMAT);
    int calls = 0;
    test_ok(nib_chat_say(c, "stop", stop_at_once, &calls, &r, &e), &e);
    assert_int_equal(calls, 1);
    assert_string_equal(r.finish, "interrupted");
    test_ok(nib_chat_complete(c, "once upon", NULL, NULL, &r, &e), &e);
    assert_int_equal(r.n_generated, 15);
    test_ok(nib_chat_say(c, "x", NULL, NULL, NULL, &e), &e);
    nib_free(json);
    nib_free(again);
    free(said);
    nib_buf_free(&text);
    nib_chat_close(c);
    nib_chat_close(NULL);
}

/* The model may be closed first; chats in several threads share it and do not disturb each other.
 */
static void *talk(void *arg) {
    nib_chat *c;
    nib_answer r;
    nib_error inner;
    char **out = arg;
    if (nib_chat_open(&c, model, &(nib_config){.n_threads = 1, .n_ctx = 200}, &inner)) return NULL;
    nib_chat_set(c, "seed", "9", NULL);
    nib_chat_set(c, "max_tokens", "40", NULL);
    if (nib_chat_say(c, "hello", NULL, NULL, &r, &inner) == NIB_OK) *out = strdup(r.text);
    nib_chat_close(c);
    return NULL;
}
static void shared_model(void **state) {
    (void)state;
    pthread_t t[4];
    char *said[4] = {0};
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, talk, &said[i]);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < 4; i++) {
        assert_non_null(said[i]);
        assert_string_equal(said[i], said[0]);
    }
    for (int i = 0; i < 4; i++) free(said[i]);
    nib_model *m;
    nib_session *s;
    test_ok(nib_open(&m, test_tiny_model("api2.gguf", NULL), &e), &e);
    test_ok(nib_session_open(&s, m, NULL, &e), &e);
    nib_close(m);
    int32_t id = 1;
    test_ok(nib_session_eval(s, &id, 1, NULL, &e), &e);
    nib_session_close(s);
}

static void *cancel_soon(void *arg) {
    struct timespec t = {0, 100000000};
    nanosleep(&t, NULL);
    nib_chat_cancel(arg);
    return NULL;
}
static void cancelling(void **state) {
    (void)state;
    nib_model *m;
    nib_chat *c;
    nib_answer r;
    pthread_t t;
    test_ok(nib_open(&m,
                     test_tiny_model("slow.gguf",
                                     &(test_tiny){.n_embd = 512, .n_layer = 6, .n_ctx = 8192}),
                     &e),
            &e);
    test_ok(nib_chat_open(&c, m, &(nib_config){.n_ctx = 8192}, &e), &e);
    nib_close(m);
    test_ok(nib_chat_set(c, "logit_bias", "2=-inf", &e), &e);
    pthread_create(&t, NULL, cancel_soon, c);
    test_ok(nib_chat_say(c, "x", NULL, NULL, &r, &e), &e);
    pthread_join(t, NULL);
    assert_string_equal(r.finish, "interrupted");
    nib_chat_close(c);
}

static void embedders(void **state) {
    (void)state;
    nib_model *m;
    nib_chat *c;
    nib_session *s;
    float a[64], b[64];
    test_ok(nib_open(&m, test_tiny_model("bert.gguf", &(test_tiny){.embedder = true}), &e), &e);
    assert_int_equal(nib_chat_open(&c, m, NULL, &e), NIB_ERR_UNSUPPORTED);
    test_ok(nib_session_open(&s, m, NULL, &e), &e);
    test_ok(nib_session_embed(s, "a time", 6, a, &e), &e);
    test_ok(nib_session_embed(s, "a time", 6, b, &e), &e);
    assert_memory_equal(a, b, sizeof a);
    int32_t token;
    assert_int_equal(nib_session_pick(s, &token, &e), NIB_ERR_ARGUMENT);
    nib_session_close(s);
    nib_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models),    cmocka_unit_test(tokens),       cmocka_unit_test(sessions),
        cmocka_unit_test(chats),     cmocka_unit_test(shared_model), cmocka_unit_test(cancelling),
        cmocka_unit_test(embedders),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
