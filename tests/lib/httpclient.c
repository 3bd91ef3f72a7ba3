#ifdef NIB_HAVE_SERVER
#include "httpclient.h"
#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the server ---- */

nib_server_params test_serve_params(const char *model_path) {
    nib_server_params p = nib_server_defaults();
    p.port = 0;
    p.model_path = model_path;
    p.model_name = model_path ? "tiny" : NULL;
    p.engine = (nib_engine_params){.n_threads = 1, .n_seq = 4, .ignore_memory = true};
    p.rate = 0;
    p.max_seconds = p.max_wait = TEST_PATIENCE;
    p.store = ":memory:";
    p.grace = 0.2;
    return p;
}

static void *run(void *arg) {
    nib_error e;
    test_ok(nib_server_run(((test_server *)arg)->server, &e), &e);
    return NULL;
}

test_server *test_serve(const nib_server_params *p) {
    nib_error e;
    test_server *s = calloc(1, sizeof *s);
    pthread_t *t = malloc(sizeof *t);
    test_ok(nib_server_new(&s->server, p, &e), &e);
    s->port = nib_server_port(s->server);
    s->thread = t;
    assert_int_equal(pthread_create(t, NULL, run, s), 0);
    double until = nib_now() + TEST_PATIENCE;
    while (p->model_path && nib_server_get_state(s->server) == NIB_SERVER_LOADING) {
        assert_true(nib_now() < until);
        usleep(1000);
    }
    return s;
}

void test_serve_stop(test_server *s) {
    nib_server_stop(s->server);
    pthread_join(*(pthread_t *)s->thread, NULL);
    nib_server_free(s->server);
    free(s->thread);
    free(s);
}

/* ---- the client ---- */

int test_connect(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

void test_send(int fd, const char *p, size_t n) {
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0) return; /* it hung up: what it said counts */
        p += k;
        n -= (size_t)k;
    }
}

/* More of the connection into b; false at its end. */
static bool more(int fd, nib_buf *b) {
    char some[16384];
    struct pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, TEST_PATIENCE * 1000) <= 0) return false;
    ssize_t n = recv(fd, some, sizeof some, 0);
    return n > 0 && nib_buf_put(b, some, (size_t)n);
}

const char *test_header(const test_reply *r, const char *name) {
    static _Thread_local char value[512];
    size_t n = strlen(name);
    for (const char *p = r->head.data; p && *p;) {
        const char *end = strstr(p, "\r\n");
        if (!end) break;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1;
            while (*p == ' ') p++;
            snprintf(value, sizeof value, "%.*s", (int)(end - p), p);
            return value;
        }
        p = end + 2;
    }
    return NULL;
}

static bool read_chunks(int fd, test_reply *r, nib_buf *raw) {
    size_t at = 0;
    for (;;) {
        char *nl;
        while (!(nl = raw->len > at ? strstr(raw->data + at, "\r\n") : NULL))
            if (!more(fd, raw)) return false;
        size_t n = strtoul(raw->data + at, NULL, 16);
        at = (size_t)(nl - raw->data) + 2;
        while (raw->len < at + n + 2)
            if (!more(fd, raw)) return false;
        nib_buf_put(&r->body, raw->data + at, n);
        at += n + 2;
        if (n == 0) return true;
        r->n_chunks++;
    }
}

void test_receive(int fd, test_reply *r) {
    nib_buf raw = {0}, rest = {0};
    nib_buf_clear(&r->head);
    nib_buf_clear(&r->body);
    r->status = 0;
    r->n_chunks = -1;
    char *end;
    while (!(end = raw.len ? strstr(raw.data, "\r\n\r\n") : NULL))
        if (!more(fd, &raw)) goto out;
    size_t head = (size_t)(end - raw.data) + 4;
    nib_buf_put(&r->head, raw.data, head);
    nib_buf_put(&rest, raw.data + head, raw.len - head);
    nib_buf_puts(&r->body, "");
    int status = 0;
    if (sscanf(r->head.data, "HTTP/1.%*d %d", &status) != 1) goto out;
    const char *length = test_header(r, "Content-Length"),
               *coding = test_header(r, "Transfer-Encoding");
    bool ok = true;
    if (coding) {
        r->n_chunks = 0;
        nib_buf_puts(&rest, "");
        ok = read_chunks(fd, r, &rest);
    } else {
        size_t n = (length = test_header(r, "Content-Length")) ? strtoul(length, NULL, 10) : 0;
        if (!length && status != 204)
            while (more(fd, &rest)) n = rest.len;
        while (ok && rest.len < n) ok = more(fd, &rest);
        nib_buf_put(&r->body, rest.len ? rest.data : "", NIB_MIN(n, rest.len));
    }
    if (ok) r->status = status;
out:
    nib_buf_free(&raw);
    nib_buf_free(&rest);
}

void test_reply_free(test_reply *r) {
    nib_buf_free(&r->head);
    nib_buf_free(&r->body);
}

static _Thread_local test_reply last;
static _Thread_local json_t *last_json;

test_reply *test_ask(int port, const char *method, const char *path, const char *headers,
                     const char *body) {
    nib_buf b = {0};
    nib_buf_printf(&b, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s", method, path, port,
                   headers ? headers : "");
    if (body) nib_buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
    nib_buf_puts(&b, "\r\n");
    if (body) nib_buf_puts(&b, body);
    int fd = test_connect(port);
    test_send(fd, b.data, b.len);
    nib_buf_free(&b);
    test_reply_free(&last);
    last = (test_reply){0};
    test_receive(fd, &last);
    close(fd);
    return &last;
}

test_reply *test_get(int port, const char *path) {
    return test_ask(port, "GET", path, NULL, NULL);
}
test_reply *test_post(int port, const char *path, const char *json) {
    return test_ask(port, "POST", path, "Content-Type: application/json\r\n", json);
}

static json_t *walk(json_t *v, const char *path) {
    char name[64];
    while (v && *path) {
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        v = json_is_array(v) ? json_array_get(v, strtoul(name, NULL, 10))
                             : json_object_get(v, name);
        path += n + (path[n] == '.');
    }
    return v;
}

json_t *test_json(const test_reply *r, const char *path) {
    json_decref(last_json);
    last_json = json_loadb(r->body.data, r->body.len, JSON_ALLOW_NUL, NULL);
    return walk(last_json, path);
}
const char *test_json_text(const test_reply *r, const char *path) {
    const char *s = json_string_value(test_json(r, path));
    return s ? s : "";
}
int64_t test_json_int(const test_reply *r, const char *path) {
    const json_t *v = test_json(r, path);
    return json_is_number(v) ? (int64_t)json_number_value(v) : -1;
}

char *test_sse_text(const test_reply *r, const char *path) {
    nib_buf out = {0};
    nib_buf_puts(&out, "");
    for (const char *p = r->body.data; p && *p;) {
        const char *end = strchr(p, '\n');
        size_t n = end ? (size_t)(end - p) : strlen(p);
        if (n > 6 && strncmp(p, "data: ", 6) == 0) {
            json_t *v = json_loadb(p + 6, n - 6, JSON_ALLOW_NUL, NULL);
            const char *text = json_string_value(walk(v, path));
            if (text) nib_buf_puts(&out, text);
            json_decref(v);
        }
        p += n + 1;
        if (!end) break;
    }
    return out.data;
}
#else
typedef int nib_no_server;
#endif
