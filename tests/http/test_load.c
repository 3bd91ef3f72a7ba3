/* 200 streams at a time, each of which must say what its prompt alone would have said; memory is
 * the same after many rounds; nothing stays behind. */
#include "httpclient.h"
#include "tinymodel.h"
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { N = 200, DISTINCT = 20, TOKENS = 12 };
static nib_error e;
static char *expected[DISTINCT];

static void prompt(char *out, size_t n, int i) {
    snprintf(out, n, "Stream %d says: %c%c", i % DISTINCT, 'a' + i % DISTINCT, 'A' + i % DISTINCT);
}

static void learn(const char *path) {
    nib_model *m;
    nib_engine *en;
    nib_dialog *d;
    nib_reply r;
    char user[64];
    test_ok(nib_model_open(&m, path, NULL, &e), &e);
    nib_engine_params p = {.n_threads = 1, .ignore_memory = true};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_dialog_params q = nib_dialog_defaults(m);
    q.sampling.temperature = 0;
    q.max_tokens = TOKENS;
    test_ok(nib_dialog_new(&d, en, &q, &e), &e);
    for (int i = 0; i < DISTINCT; i++) {
        prompt(user, sizeof user, i);
        nib_dialog_clear(d);
        test_ok(nib_dialog_say(d, user, NULL, NULL, &r, &e), &e);
        expected[i] = strdup(r.text);
    }
    nib_dialog_free(d);
    nib_engine_free(en);
    nib_model_release(m);
}

static void round_of(test_server *s, int n) {
    int fds[N];
    char user[64], head[512], body[256];
    for (int i = 0; i < n; i++) {
        prompt(user, sizeof user, i);
        int k = snprintf(body, sizeof body,
                         "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"temperature\":0,"
                         "\"max_tokens\":%d,\"stream\":true}",
                         user, TOKENS);
        fds[i] = test_connect(s->port);
        test_send(fds[i], head,
                  (size_t)snprintf(head, sizeof head,
                                   "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                                   "Content-Length: %d\r\n\r\n%s",
                                   k, body));
    }
    for (int i = 0; i < n; i++) {
        test_reply r = {0};
        test_receive(fds[i], &r);
        close(fds[i]);
        if (r.status != 200) fail_msg("stream %d: %d %s", i, r.status, r.body.data);
        assert_non_null(strstr(r.body.data, "data: [DONE]\n\n"));
        char *text = test_sse_text(&r, "choices.0.delta.content");
        assert_string_equal(text, expected[i % DISTINCT]);
        free(text);
        test_reply_free(&r);
    }
}

static void two_hundred_streams(void **state) {
    (void)state;
    const char *path = test_tiny_model("load.gguf", &(test_tiny){.chat_template = test_chatml});
    learn(path);
    nib_server_params p = test_serve_params(path);
    p.engine.n_seq = 8;
    p.n_queue = N;
    test_server *s = test_serve(&p);
    round_of(s, N);
    uint64_t before = nib_rss();
    for (int i = 0; i < (test_quick() ? 1 : 5); i++) round_of(s, N);
    uint64_t after = nib_rss();
    if (!test_quick() && after > before + (8 << 20))
        fail_msg("memory grew from %llu to %llu", (unsigned long long)before,
                 (unsigned long long)after);
    nib_sched_stats st;
    nib_sched_get_stats(nib_server_sched(s->server), &st);
    assert_int_equal(st.n_errors + st.n_cancelled + st.n_refused, 0);
    assert_true(st.cached_tokens == 0 || st.cached_tokens % NIB_PAGE == 0);
    test_serve_stop(s);
    for (int i = 0; i < DISTINCT; i++) free(expected[i]);
}

/* Idle connections cost little and are all closed. */
static void idle_connections(void **state) {
    (void)state;
    enum { MANY = 400 };
    nib_server_params p = test_serve_params(NULL);
    test_server *s = test_serve(&p);
    int fds[MANY];
    for (int i = 0; i < MANY; i++) fds[i] = test_connect(s->port);
    assert_int_equal(test_get(s->port, "/health")->status, 200);
    for (int i = 0; i < MANY; i++) close(fds[i]);
    double until = nib_now() + 10;
    for (;;) { /* the last gauge counts the asker's own connection */
        const char *at = strstr(test_get(s->port, "/metrics")->body.data, "\nnib_connections ");
        assert_non_null(at);
        if (strtod(at + 17, NULL) <= 3) break;
        assert_true(nib_now() < until);
        usleep(50000);
    }
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_hundred_streams),
        cmocka_unit_test(idle_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
