/* An HTTP client of raw sockets, so that tests can say what no decent client would. And a server in
 * a thread of the test, so that sanitizers see both sides. */
#ifndef NIB_TEST_HTTPCLIENT_H
#define NIB_TEST_HTTPCLIENT_H
#include "testlib.h"
#ifdef NIB_HAVE_SERVER
#include "server/server.h"

/* Seconds to wait for what must come: a machine may stand still for a minute. */
enum { TEST_PATIENCE = 300 };

/* ---- the server ---- */

typedef struct test_server {
    nib_server *server;
    int port;
    void *thread;
} test_server;
/* Starts one and waits until it is ready (or without a model). p.port 0. */
test_server *test_serve(const nib_server_params *p);
/* A server's defaults for tests: small, any port, no rate. */
nib_server_params test_serve_params(const char *model_path);
void test_serve_stop(test_server *s); /* stops, joins, frees */

/* ---- the client ---- */

typedef struct test_reply {
    int status; /* 0: the connection ended before a whole reply */
    nib_buf head, body;
    int n_chunks; /* of a chunked body; -1: Content-Length */
} test_reply;
int test_connect(int port);
void test_send(int fd, const char *p, size_t n);
/* Fills *r; blocks at most TEST_PATIENCE seconds without a byte. A chunked body is joined. */
void test_receive(int fd, test_reply *r);
/* The value of a header, or NULL; in a static buffer. */
const char *test_header(const test_reply *r, const char *name);
void test_reply_free(test_reply *r);
/* One request on a connection of its own; headers: whole lines with \r\n, or NULL. The reply is
 * kept until the next call in this thread. */
test_reply *test_ask(int port, const char *method, const char *path, const char *headers,
                     const char *body);
test_reply *test_get(int port, const char *path);
test_reply *test_post(int port, const char *path, const char *json);
/* A member of the reply's JSON by path, "choices.0.message.content"; NULL when there is none. The
 * value lives until the next call in this thread. */
struct json_t *test_json(const test_reply *r, const char *path);
const char *test_json_text(const test_reply *r, const char *path); /* "" when it is no string */
int64_t test_json_int(const test_reply *r, const char *path);      /* -1 when it is no number */
/* The texts of an SSE body joined: of every "data:" JSON, the string at path. */
char *test_sse_text(const test_reply *r, const char *path);
#endif
#endif
