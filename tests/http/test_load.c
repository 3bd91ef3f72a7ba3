/* 200 streams at a time, each of which must say what its prompt alone would have said; memory is
 * the same after many rounds; nothing stays behind. */
#include "httpclient.h"
#include "store/store.h"
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
    /* the kept KV grows until its pool is full: first rounds do not count */
    const int rounds = test_quick() ? 1 : 6;
    for (int i = 0; i < rounds; i++) round_of(s, N);
    uint64_t before = nib_rss();
    for (int i = 0; i < rounds; i++) round_of(s, N);
    uint64_t after = nib_rss();
    if (!test_quick() && after > before + (4 << 20))
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
    double until = nib_now() + TEST_PATIENCE;
    for (;;) { /* the last gauge counts the asker's own connection */
        const char *at = strstr(test_get(s->port, "/metrics")->body.data, "\nnib_connections ");
        assert_non_null(at);
        if (strtod(at + 17, NULL) <= 3) break;
        assert_true(nib_now() < until);
        usleep(50000);
    }
    test_serve_stop(s);
}

/* ---- lanes ---- */

static const char *write_conversation(void) {
    static char path[4096];
    nib_store *store;
    nib_messages m = {0};
    int64_t id;
    snprintf(path, sizeof path, "%s/lanes.db", test_tmp());
    test_ok(nib_messages_add(&m, "user", "Tell me of the garden", NULL, &e), &e);
    test_ok(nib_messages_add(&m, "assistant", "There *was* one.", NULL, &e), &e);
    test_ok(nib_store_open(&store, path, &e), &e);
    test_ok(nib_talk_new(store, "A garden", &id, &e), &e);
    test_ok(nib_turn_sync(store, id, &m, "model", &e), &e);
    nib_store_close(store);
    nib_messages_free(&m);
    return path;
}

/* What takes long is done elsewhere: who asks for it may leave, too many are told so, and the rest
 * are answered as ever. */
static void slow_work_in_lanes(void **state) {
    (void)state;
    enum { MANY = 300, LEAVE = 40 };
    static const char *const paths[] = {"/ui/export/1?as=pdf", "/ui/export/1?as=md", "/c/1",
                                        "/ui/talks?q=garden", "/"};
    nib_server_params p = test_serve_params(
        test_tiny_model("lanes.gguf", &(test_tiny){.chat_template = test_chatml}));
    p.store = write_conversation();
    test_server *s = test_serve(&p);
    nib_buf text = {0};
    char head[256];
    int fds[MANY], n_good = 0;
    nib_buf_puts(&text, "{\"content\":\"");
    while (text.len < 300000) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"}");
    for (int i = 0; i < LEAVE; i++) {
        int fd = test_connect(s->port);
        const char *path = i % 6 < 5 ? paths[i % 6] : "/tokenize";
        const nib_buf *body = i % 6 < 5 ? NULL : &text;
        test_send(fd, head,
                  (size_t)snprintf(head, sizeof head,
                                   "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n"
                                   "Content-Length: %zu\r\n\r\n",
                                   body ? "POST" : "GET", path, body ? body->len : 0));
        if (body) test_send(fd, body->data, body->len);
        if (i % 3) assert_int_equal(test_get(s->port, "/health")->status, 200);
        close(fd);
    }
    for (int i = 0; i < MANY; i++) {
        fds[i] = test_connect(s->port);
        test_send(fds[i], head,
                  (size_t)snprintf(head, sizeof head,
                                   "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n"
                                   "\r\n",
                                   paths[i < MANY - 20 ? 0 : i % 5]));
    }
    for (int i = 0; i < MANY; i++) {
        test_reply r = {0};
        test_receive(fds[i], &r);
        close(fds[i]);
        if (r.status != 200 && r.status != 429 && r.status != 400)
            fail_msg("request %d: %d %s", i, r.status, r.body.data);
        n_good += r.status == 200;
        test_reply_free(&r);
    }
    assert_true(n_good >= 15);
    /* a long body is read in a lane, too */
    nib_buf_clear(&text);
    nib_buf_puts(&text, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    while (text.len < 300000) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"}]}");
    test_reply *r = test_post(s->port, "/v1/chat/completions", text.data);
    assert_int_equal(r->status, 400);
    assert_string_equal(test_json_text(r, "error.code"), "context_length_exceeded");
    r = test_post(s->port, "/api/chat", text.data);
    assert_int_equal(r->status, 400);
    r = test_post(s->port, "/v1/messages/count_tokens", text.data);
    assert_int_equal(r->status, 400);
    nib_buf_free(&text);
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_hundred_streams),
        cmocka_unit_test(idle_connections),
        cmocka_unit_test(slow_work_in_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
