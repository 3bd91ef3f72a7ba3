/* The server's manners: state, routing, guards, malformed requests, connections that behave badly,
 * stopping. */
#include "httpclient.h"
#include "scriptmodel.h"
#include "tinymodel.h"
#include <jansson.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char hello[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"temperature\":0,\"max_tokens\":8}";

/* Says "one two three ... " for ever. */
static const char *endless(void) {
    static const test_line lines[] = {{"\n", "one", 9},
                                      {"one", "two", 9},
                                      {"two", "three", 9},
                                      {"three", "one", 9},
                                      {NULL, NULL, 0}};
    return test_script_model("endless.gguf", test_chatml, 4096, lines);
}

static test_server *tiny(void) {
    nib_server_params p =
        test_serve_params(test_tiny_model("t.gguf", &(test_tiny){.chat_template = test_chatml}));
    return test_serve(&p);
}

static void health_and_routes(void **state) {
    (void)state;
    test_server *s = tiny();
    test_reply *r = test_get(s->port, "/health");
    assert_int_equal(r->status, 200);
    assert_string_equal(r->body.data, "{\"status\":\"ok\"}");
    assert_string_equal(test_header(r, "X-Content-Type-Options"), "nosniff");
    int fd = test_connect(s->port); /* HEAD: the length of a body, and none */
    char some[512] = "";
    test_send(fd, "HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 61);
    ssize_t n = recv(fd, some, sizeof some - 1, MSG_WAITALL);
    assert_true(n > 4 && strcmp(some + n - 4, "\r\n\r\n") == 0);
    assert_non_null(strstr(some, "Content-Length: 15"));
    close(fd);
    r = test_get(s->port, "/no/such");
    assert_int_equal(r->status, 404);
    assert_non_null(strstr(test_json_text(r, "error.message"), "/no/such"));
    r = test_get(s->port, "/api/nothing");
    assert_int_equal(r->status, 404);
    assert_non_null(strstr(test_json_text(r, "error"), "/api/nothing"));
    r = test_get(s->port, "/v1/chat/completions");
    assert_int_equal(r->status, 405);
    assert_string_equal(test_header(r, "Allow"), "POST");
    r = test_get(s->port, "/v1/models/tiny");
    assert_string_equal(test_json_text(r, "id"), "tiny");
    assert_int_equal(test_get(s->port, "/v1/models/other")->status, 404);
    test_serve_stop(s);
}

static void without_a_model(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(NULL);
    test_server *s = test_serve(&p);
    assert_string_equal(test_json_text(test_get(s->port, "/health"), "status"), "no model");
    test_reply *r = test_post(s->port, "/v1/chat/completions", hello);
    assert_int_equal(r->status, 503);
    assert_string_equal(test_json_text(r, "error.code"), "no_model");
    assert_non_null(test_header(r, "Retry-After"));
    test_serve_stop(s);
}

static void a_bad_model_is_an_error(void **state) {
    (void)state;
    nib_error e;
    nib_server *s;
    nib_server_params p = test_serve_params("/no/such.gguf");
    test_ok(nib_server_new(&s, &p, &e), &e);
    assert_int_equal(nib_server_run(s, &e), NIB_ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "/no/such.gguf"));
    nib_server_free(s);
}

/* ---- guards ---- */

static void outsiders_need_a_key(void **state) {
    (void)state;
    nib_error e;
    nib_server *s;
    nib_server_params p = test_serve_params(NULL);
    p.host = "0.0.0.0";
    assert_int_equal(nib_server_new(&s, &p, &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "--api-key-file"));
    p.key_file = "/no/such/keys";
    assert_int_not_equal(nib_server_new(&s, &p, &e), NIB_OK);
}

static void keys(void **state) {
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s/keys", test_tmp());
    test_ok(nib_file_write(path, "# mine\nsecret-1\r\nother\n", 23, NULL), NULL);
    nib_server_params p = test_serve_params(NULL);
    p.key_file = path;
    p.host = "0.0.0.0";
    test_server *s = test_serve(&p);
    assert_int_equal(test_get(s->port, "/health")->status, 200);
    test_reply *r = test_get(s->port, "/v1/models");
    assert_int_equal(r->status, 401);
    assert_string_equal(test_json_text(r, "error.type"), "authentication_error");
    assert_string_equal(test_header(r, "WWW-Authenticate"), "Bearer");
    static const struct {
        const char *header;
        int status;
    } tries[] = {
        {"Authorization: Bearer secret-1\r\n", 200},  {"Authorization: Bearer secret\r\n", 401},
        {"Authorization: Bearer secret-12\r\n", 401}, {"x-api-key: other\r\n", 200},
        {"Authorization: Bearer \r\n", 401},          {"Cookie: a=b; nib_key=other\r\n", 200},
        {"Authorization: Bearer # mine\r\n", 401},    {"x-api-key: secret-1secret-1\r\n", 401}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(tries); i++)
        assert_int_equal(test_ask(s->port, "GET", "/v1/models", tries[i].header, NULL)->status,
                         tries[i].status);
    test_serve_stop(s);
}

static int status_of(int port, const char *method, const char *host, const char *more) {
    char b[512];
    test_reply r = {0};
    int fd = test_connect(port);
    test_send(
        fd, b,
        (size_t)snprintf(b, sizeof b, "%s /v1/models HTTP/1.1\r\n%s%s\r\n", method, host, more));
    test_receive(fd, &r);
    close(fd);
    test_reply_free(&r);
    return r.status;
}

static void hosts_and_origins(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(NULL);
    p.cors = (const char *const[]){"https://friend.example", NULL};
    p.hosts = (const char *const[]){"nib.home", NULL};
    test_server *s = test_serve(&p);
    static const struct {
        const char *host, *more;
        int status;
    } rows[] = {
        {"Host: 127.0.0.1:1\r\n", "", 200},
        {"Host: localhost\r\n", "", 200},
        {"Host: [::1]:80\r\n", "", 200},
        {"Host: nib.home:8080\r\n", "", 200},
        {"Host: evil.example\r\n", "", 403},
        {"Host: 127.0.0.1.evil.example\r\n", "", 403},
        {"Host: \r\n", "", 403},
        {"Host: localhost\r\nHost: evil.example\r\n", "", 400},
        {"Host: localhost:80\r\n", "Origin: http://localhost:80\r\n", 200},
        {"Host: localhost:80\r\n", "Origin: http://localhost:81\r\n", 403},
        {"Host: localhost:80\r\n", "Origin: https://evil.example\r\n", 403},
        {"Host: localhost:80\r\n", "Origin: null\r\n", 403},
        {"Host: localhost:80\r\n", "Origin: https://friend.example\r\n", 200},
        {"Host: localhost:80\r\n", "Origin: https://friend.example.evil.example\r\n", 403},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++)
        assert_int_equal(status_of(s->port, "GET", rows[i].host, rows[i].more), rows[i].status);
    assert_int_equal(
        status_of(s->port, "DELETE", "Host: localhost\r\n", "Sec-Fetch-Site: cross-site\r\n"), 403);
    test_reply *r = test_ask(s->port, "OPTIONS", "/v1/chat/completions",
                             "Origin: https://friend.example\r\n"
                             "Access-Control-Request-Headers: authorization\r\n",
                             NULL);
    assert_int_equal(r->status, 204);
    assert_string_equal(test_header(r, "Access-Control-Allow-Origin"), "https://friend.example");
    assert_string_equal(test_header(r, "Access-Control-Allow-Headers"), "authorization");
    r = test_ask(s->port, "OPTIONS", "/v1/models", "Origin: https://evil.example\r\n", NULL);
    assert_int_equal(r->status, 403);
    assert_null(test_header(r, "Access-Control-Allow-Origin"));
    test_serve_stop(s);
}

static void rates(void **state) {
    (void)state;
    nib_server_params p =
        test_serve_params(test_tiny_model("t.gguf", &(test_tiny){.chat_template = test_chatml}));
    p.rate = 3;
    test_server *s = test_serve(&p);
    for (int i = 0; i < 3; i++)
        assert_int_equal(test_post(s->port, "/v1/chat/completions", hello)->status, 200);
    test_reply *r = test_post(s->port, "/v1/chat/completions", hello);
    assert_int_equal(r->status, 429);
    assert_non_null(test_header(r, "Retry-After"));
    assert_int_equal(test_get(s->port, "/v1/models")->status, 200);
    test_serve_stop(s);
}

/* ---- malformed ---- */

static int raw(int port, const char *text, size_t n, nib_buf *body) {
    test_reply r = {0};
    int fd = test_connect(port);
    test_send(fd, text, n);
    test_receive(fd, &r);
    close(fd);
    if (body && r.body.len) nib_buf_put(body, r.body.data, r.body.len);
    test_reply_free(&r);
    return r.status;
}

static void malformed_requests(void **state) {
    (void)state;
    nib_server_params p =
        test_serve_params(test_tiny_model("t.gguf", &(test_tiny){.chat_template = test_chatml}));
    p.max_body = 100000;
    test_server *s = test_serve(&p);
#define HEAD "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    static const char *const rows[] = {
        HEAD "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        HEAD "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD "Content-Length: -1\r\n\r\n",
        HEAD "Content-Length: 99999999999999999999\r\n\r\n",
        HEAD "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD "Content-Length: 2\r\n\r\n[]",
        HEAD "Content-Length: 2\r\n\r\n{\"",
        HEAD "Content-Length: 9\r\n\r\n{\"a\":NaN}",
        HEAD "Content-Length: 5\r\n\r\n\"\xff\xfe\xff\"",
        HEAD "Content-Length: 0\r\n\r\n",
        "BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        HEAD ": empty\r\n\r\n",
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        int status = raw(s->port, rows[i], strlen(rows[i]), NULL);
        if (status < 400 || status >= 600) fail_msg("row %zu: %d", i, status);
        if (i < 11 && status >= 500) fail_msg("row %zu: %d", i, status);
    }
    nib_buf b = {0};
    nib_buf_puts(&b, "GET /health HTTP/1.1\r\nX: ");
    for (int i = 0; i < 100000; i++) nib_buf_putc(&b, 'a');
    nib_buf_puts(&b, "\r\n\r\n");
    int status = raw(s->port, b.data, b.len, NULL);
    assert_true(status == 0 || (status >= 400 && status < 500)); /* may hang up on it */
    nib_buf_clear(&b);
    nib_buf_puts(&b, HEAD "Content-Length: 120000\r\n\r\n{\"a\":\"");
    while (b.len < 120000 + 80) nib_buf_putc(&b, 'a');
    assert_int_equal(raw(s->port, b.data, b.len, NULL), 413);
    /* deep nesting */
    nib_buf_clear(&b);
    for (int i = 0; i < 5000; i++) nib_buf_puts(&b, "{\"a\":[");
    assert_int_equal(test_post(s->port, "/v1/chat/completions", b.data)->status, 400);
    nib_buf_free(&b);
    /* wrong types and values name their field */
    static const struct {
        const char *json, *param;
    } fields[] = {
        {"{\"messages\":[]}", "messages"},
        {"{}", "messages"},
        {"{\"messages\":\"hi\"}", "messages"},
        {"{\"messages\":[1]}", "messages"},
        {"{\"messages\":[{\"role\":\"king\",\"content\":\"a\"}]}", "messages"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"temperature\":\"hot\"}",
         "temperature"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"top_p\":7}", "top_p"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"n\":1000}", "n"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":0}", "max_tokens"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"seed\":1e400}", ""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"stop\":[1]}", "stop"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logit_bias\":{\"x\":1}}",
         "logit_bias"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}]}", "tools"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"no_such_field\":1}",
         "no_such_field"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":"
         "\"json_object\"}}",
         "response_format"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}", ""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logit_bias\":{\"99999\":1}}", ""},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(fields); i++) {
        test_reply *r = test_post(s->port, "/v1/chat/completions", fields[i].json);
        if (r->status != 400) fail_msg("%s: %d %s", fields[i].json, r->status, r->body.data);
        assert_true(*test_json_text(r, "error.message"));
        assert_string_equal(test_json_text(r, "error.param"), fields[i].param);
    }
    assert_int_equal(test_post(s->port, "/v1/chat/completions", hello)->status, 200);
    test_serve_stop(s);
}

/* ---- connections ---- */

static int64_t running(test_server *s) {
    nib_sched_stats st;
    nib_sched_get_stats(nib_server_sched(s->server), &st);
    return st.n_running + st.n_waiting;
}
static void wait_idle(test_server *s) {
    double until = nib_now() + TEST_PATIENCE;
    while (running(s)) {
        assert_true(nib_now() < until);
        usleep(1000);
    }
}
static void start_stream(int fd, const char *json) {
    nib_buf b = {0};
    nib_buf_printf(&b,
                   "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                   "Content-Length: %zu\r\n\r\n%s",
                   strlen(json), json);
    test_send(fd, b.data, b.len);
    nib_buf_free(&b);
}

static const char forever[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"temperature\":0,"
    "\"max_tokens\":2000,\"stream\":true}";

static void disconnects_cancel(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(endless());
    test_server *s = test_serve(&p);
    char some[512];
    for (int how = 0; how < 4; how++) {
        int fd = test_connect(s->port);
        start_stream(fd, how == 3 ? "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                                    "\"temperature\":0,\"max_tokens\":2000}"
                                  : forever);
        if (how != 3) assert_true(recv(fd, some, sizeof some, 0) > 0);
        if (how == 3) usleep(20000);
        if (how == 1) shutdown(fd, SHUT_WR);
        if (how == 2) { /* pipelined, then gone */
            test_send(fd, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 42);
            struct linger hard = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        }
        if (how != 1) close(fd);
        wait_idle(s);
        if (how == 1) close(fd);
    }
    nib_sched_stats st;
    nib_sched_get_stats(nib_server_sched(s->server), &st);
    assert_true(st.n_cancelled >= 3);
    assert_int_equal(test_post(s->port, "/v1/chat/completions", hello)->status, 200);
    test_serve_stop(s);
}

static void pipelined_requests_are_answered_in_order(void **state) {
    (void)state;
    test_server *s = tiny();
    nib_buf b = {0};
    for (int i = 0; i < 3; i++)
        nib_buf_printf(&b,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                       "Content-Length: %zu\r\n\r\n%sGET /v1/models/tiny HTTP/1.1\r\nHost: "
                       "localhost\r\n\r\n",
                       strlen(hello), hello);
    int fd = test_connect(s->port);
    /* one after another, on one connection */
    for (int i = 0; i < 3; i++) {
        test_reply r = {0};
        start_stream(fd, hello);
        test_receive(fd, &r);
        assert_int_equal(r.status, 200);
        assert_string_equal(test_json_text(&r, "object"), "chat.completion");
        test_reply_free(&r);
    }
    test_send(fd, b.data, b.len); /* all at once */
    test_reply r = {0};
    test_receive(fd, &r);
    assert_int_equal(r.status, 200);
    test_reply_free(&r);
    close(fd);
    nib_buf_free(&b);
    wait_idle(s);
    test_serve_stop(s);
}

static void slow_senders_do_not_hold_others(void **state) {
    (void)state;
    test_server *s = tiny();
    int fds[50];
    for (int i = 0; i < 50; i++) {
        fds[i] = test_connect(s->port);
        test_send(fds[i], "POST /v1/chat/comple", 20);
    }
    for (int i = 0; i < 50; i++) test_send(fds[i], "t", 1);
    assert_int_equal(test_post(s->port, "/v1/chat/completions", hello)->status, 200);
    for (int i = 0; i < 50; i++) close(fds[i]);
    test_serve_stop(s);
}

/* A byte now and then does not keep a connection; work that takes long does. */
static void requests_must_come_in_time(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(endless());
    p.max_wait = 0.5;
    p.max_seconds = 2.5;
    p.max_tokens = 1 << 24;
    p.engine.n_ctx = 1 << 16;
    test_server *s = test_serve(&p);
    int slow = test_connect(s->port), idle = test_connect(s->port), busy = test_connect(s->port);
    start_stream(busy, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                       "\"temperature\":0}");
    test_send(slow, "POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ", 45);
    double start = nib_now();
    char some[512];
    while (recv(slow, some, sizeof some, MSG_DONTWAIT) < 0) {
        assert_true(nib_now() - start < TEST_PATIENCE);
        test_send(slow, "a", 1);
        usleep(50000);
    }
    assert_int_equal(recv(idle, some, sizeof some, 0), 0);
    test_reply r = {0};
    test_receive(busy, &r);
    assert_int_equal(r.status, 200);
    assert_string_equal(test_json_text(&r, "choices.0.finish_reason"), "length");
    test_reply_free(&r);
    close(slow);
    close(idle);
    close(busy);
    test_serve_stop(s);
}

static void connections_have_a_limit(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(NULL);
    p.max_connections = 8;
    test_server *s = test_serve(&p);
    int fds[8];
    for (int i = 0; i < 8; i++) fds[i] = test_connect(s->port);
    usleep(50000);
    int late = test_connect(s->port); /* the kernel has it */
    test_send(late, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 42);
    char some[8];
    usleep(100000);
    assert_int_equal(recv(late, some, 1, MSG_DONTWAIT), -1);
    for (int i = 0; i < 8; i++) close(fds[i]);
    test_reply r = {0};
    test_receive(late, &r);
    assert_int_equal(r.status, 200);
    test_reply_free(&r);
    close(late);
    test_serve_stop(s);
}

/* A reader that takes nothing makes its reply rest, not the server's memory grow. */
static void slow_readers_rest(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(endless());
    p.engine.n_ctx = 8192;
    p.max_tokens = 1 << 20;
    p.max_seconds = 0;
    test_server *s = test_serve(&p);
    int fd = test_connect(s->port), size = 64 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    start_stream(fd, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                     "\"temperature\":0,\"max_tokens\":3000,\"stream\":true,"
                     "\"logprobs\":true,\"top_logprobs\":20}"); /* 6 MB of text */
    nib_slot_info x = {0};
    int64_t before = -1;
    double until = nib_now() + TEST_PATIENCE;
    do { /* until it rests */
        before = x.n_generated;
        usleep(300000);
        assert_true(nib_now() < until);
        assert_true(nib_sched_slot(nib_server_sched(s->server), 0, &x));
    } while (x.n_generated == 0 || x.n_generated != before);
    assert_true(x.busy && x.n_generated < 3000);
    assert_int_equal(test_post(s->port, "/v1/chat/completions", hello)->status, 200);
    test_reply r = {0};
    test_receive(fd, &r);
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body.data, "[DONE]"));
    char *text = test_sse_text(&r, "choices.0.delta.content");
    assert_int_equal(strlen(text), 3000 / 3 * strlen("onetwothree"));
    free(text);
    test_reply_free(&r);
    close(fd);
    test_serve_stop(s);
}

/* ---- stopping ---- */

static void stopping_marks_partial_replies(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(endless());
    p.max_tokens = 100000;
    p.engine.n_ctx = 4096;
    p.grace = 0.05;
    test_server *s = test_serve(&p);
    int fds[3];
    for (int i = 0; i < 3; i++) {
        char some[64];
        fds[i] = test_connect(s->port);
        start_stream(fds[i], "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
                             "\"temperature\":0,\"max_tokens\":100000,\"stream\":true}");
        assert_true(recv(fds[i], some, sizeof some, MSG_PEEK) > 0);
    }
    nib_server_stop(s->server);
    for (int i = 0; i < 3; i++) {
        test_reply r = {0};
        test_receive(fds[i], &r);
        assert_int_equal(r.status, 200);
        assert_non_null(strstr(r.body.data, "\"finish_reason\":\"length\""));
        assert_non_null(strstr(r.body.data, "data: [DONE]"));
        test_reply_free(&r);
        close(fds[i]);
    }
    test_serve_stop(s);
}

/* What a connection sends reaches nobody else, even when it got the number of one that was just
 * closed. */
static void connections_do_not_share(void **state) {
    (void)state;
    enum { BODY = 200000, ROUNDS = 5 };
    nib_server_params p = test_serve_params(test_tiny_model("apart.gguf", NULL));
    test_server *s = test_serve(&p);
    nib_buf body = {0}, head = {0};
    nib_buf_puts(&body, "{\"content\":\"");
    while (body.len < BODY) nib_buf_puts(&body, "abc ");
    nib_buf_puts(&body, "\"}");
    for (int i = 0; i < 2 * ROUNDS; i++) {
        bool keep = i % 2;
        nib_buf_clear(&head);
        nib_buf_printf(
            &head, "POST /tokenize HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %zu\r\n\r\n",
            keep ? "" : "Connection: close\r\n", body.len);
        int fd = test_connect(s->port);
        test_reply r = {0};
        test_send(fd, head.data, head.len);
        test_send(fd, body.data, body.len);
        test_receive(fd, &r);
        assert_int_equal(r.status, 200);
        test_reply_free(&r);
        close(fd);
    }
    nib_buf_free(&body);
    nib_buf_free(&head);
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(health_and_routes),
        cmocka_unit_test(without_a_model),
        cmocka_unit_test(a_bad_model_is_an_error),
        cmocka_unit_test(outsiders_need_a_key),
        cmocka_unit_test(keys),
        cmocka_unit_test(hosts_and_origins),
        cmocka_unit_test(rates),
        cmocka_unit_test(malformed_requests),
        cmocka_unit_test(disconnects_cancel),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(slow_senders_do_not_hold_others),
        cmocka_unit_test(requests_must_come_in_time),
        cmocka_unit_test(connections_have_a_limit),
        cmocka_unit_test(connections_do_not_share),
        cmocka_unit_test(slow_readers_rest),
        cmocka_unit_test(stopping_marks_partial_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
