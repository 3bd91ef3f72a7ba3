/* How long the server's I/O thread is kept from its work: bench_stalls MODEL [seconds] [streams]
 *
 * A timer in the server's own loop is due every 5 ms; how late it comes is how long everybody else
 * waits, too. Meanwhile many clients stream replies, and others ask for what takes long: a
 * conversation as PDF, its page, a search, a long text as tokens. First the same without the long
 * things, for what the machine itself does. */
#include <stdio.h>
#ifndef NIB_HAVE_SERVER
int main(void) {
    fputs("built without the server\n", stderr);
    return 1;
}
#else
#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/server.h"
#include "store/store.h"

enum { MAX = 400, PERIOD_US = 5000, MOST_LATE = 1 << 20 };
static int port;
static nib_error e;
static double until;

static void must(nib_status s) {
    if (s == NIB_OK) return;
    fprintf(stderr, "%s\n", e.message);
    exit(1);
}

/* ---- how late the loop is ---- */

static double late[MOST_LATE];
static int n_late;
static double due;

static void on_due(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    double now = nib_now();
    if (n_late < MOST_LATE) late[n_late++] = now - due;
    due = now + PERIOD_US * 1e-6;
    struct timeval t = {0, PERIOD_US};
    event_add(*(struct event **)arg, &t);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *what, long n_replies, long n_long) {
    qsort(late, (size_t)n_late, sizeof *late, by_value);
    if (n_late)
        printf("%s: late by %.1f ms (median), %.1f (1 of 100), %.1f (1 of 1000), %.1f ms (longest);"
               " %ld streams, %ld long requests\n",
               what, late[n_late / 2] * 1e3, late[n_late * 99 / 100] * 1e3,
               late[n_late * 999 / 1000] * 1e3, late[n_late - 1] * 1e3, n_replies, n_long);
    fflush(stdout);
}

/* ---- clients ---- */

static int ask(const char *method, const char *path, const char *body) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char head[512];
    int fd = socket(AF_INET, SOCK_STREAM, 0), n = (int)strlen(body);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) exit(1);
    int k = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close"
                     "\r\nContent-Length: %d\r\n\r\n",
                     method, path, n);
    if (send(fd, head, (size_t)k, 0) != k || send(fd, body, (size_t)n, 0) != n) exit(1);
    return fd;
}

static long stream_for(int n_streams) {
    struct pollfd fds[MAX];
    char text[16384], body[256];
    long n_done = 0, n_begun = 0;
    for (int i = 0; i < n_streams; i++) fds[i] = (struct pollfd){-1, POLLIN, 0};
    while (nib_now() < until) {
        for (int i = 0; i < n_streams; i++) {
            if (fds[i].fd >= 0) continue;
            snprintf(body, sizeof body,
                     "{\"prompt\":\"Stream %ld\",\"max_tokens\":40,\"ignore_eos\":true,"
                     "\"stream\":true}",
                     n_begun++);
            fds[i].fd = ask("POST", "/v1/completions", body);
        }
        poll(fds, (nfds_t)n_streams, 100);
        for (int i = 0; i < n_streams; i++) {
            if (!fds[i].revents || recv(fds[i].fd, text, sizeof text, 0) > 0) continue;
            close(fds[i].fd);
            fds[i].fd = -1;
            n_done++;
        }
    }
    for (int i = 0; i < n_streams; i++) close(fds[i].fd);
    return n_done;
}

static long n_long;
static void *ask_for_long(void *arg) {
    nib_buf text = {0};
    char some[16384];
    (void)arg;
    nib_buf_puts(&text, "{\"content\":\"");
    while (text.len < 500000) nib_buf_puts(&text, "Once upon a time there was a little girl. ");
    nib_buf_puts(&text, "\"}");
    const char *const paths[] = {"/ui/export/1?as=pdf", "/tokenize", "/c/1", "/ui/talks?q=garden"};
    for (int i = 0; nib_now() < until; i++, n_long++) {
        const char *path = paths[i % 4];
        bool posts = path[1] == 't';
        int fd = ask(posts ? "POST" : "GET", path, posts ? text.data : "");
        while (recv(fd, some, sizeof some, 0) > 0) continue;
        close(fd);
        usleep(20000);
    }
    nib_buf_free(&text);
    return NULL;
}

/* ---- all together ---- */

static void write_conversation(const char *path) {
    nib_store *store;
    nib_messages m = {0};
    nib_buf text = {0};
    int64_t id;
    while (text.len < 4000)
        nib_buf_puts(&text, "There was a garden behind the house, and *so on*. ");
    for (int i = 0; i < 100; i++)
        must(nib_messages_add(&m, i % 2 ? "assistant" : "user", text.data, NULL, &e));
    must(nib_store_open(&store, path, &e));
    must(nib_talk_new(store, "A long one", &id, &e));
    must(nib_turn_sync(store, id, &m, "model", &e));
    nib_store_close(store);
    nib_messages_free(&m);
    nib_buf_free(&text);
}

static void *run(void *server) {
    must(nib_server_run(server, &e));
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: bench_stalls MODEL [seconds] [streams]\n", stderr);
        return 2;
    }
    double seconds = argc > 2 ? atof(argv[2]) : 10;
    int n_streams = argc > 3 ? NIB_MIN(atoi(argv[3]), (int)MAX) : 200;
    char path[] = "/tmp/nib-stalls-XXXXXX";
    if (mkstemp(path) < 0) return 1;
    write_conversation(path);
    nib_server_params p = nib_server_defaults();
    p.port = 0;
    p.model_path = argv[1];
    p.engine.n_seq = 8;
    p.engine.n_ctx = 512;
    p.n_queue = MAX;
    p.rate = 0;
    p.store = path;
    nib_server *s;
    pthread_t thread, other;
    struct event *timer;
    must(nib_server_new(&s, &p, &e));
    port = nib_server_port(s);
    timer = event_new(nib_server_base(s), -1, 0, on_due, &timer);
    struct timeval t = {0, PERIOD_US};
    pthread_create(&thread, NULL, run, s);
    while (nib_server_get_state(s) == NIB_SERVER_LOADING) usleep(10000);
    due = nib_now() + PERIOD_US * 1e-6;
    event_add(timer, &t);
    for (int with = 0; with < 2; with++) {
        until = nib_now() + seconds;
        n_late = 0;
        if (with) pthread_create(&other, NULL, ask_for_long, NULL);
        long n_replies = stream_for(n_streams);
        if (with) pthread_join(other, NULL);
        report(with ? "streams and long requests" : "streams alone", n_replies, n_long);
    }
    nib_server_stop(s);
    pthread_join(thread, NULL);
    event_free(timer);
    nib_server_free(s);
    unlink(path);
    return 0;
}
#endif
