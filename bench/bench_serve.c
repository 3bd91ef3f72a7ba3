/* What HTTP costs: bench_serve MODEL [sequences] [tokens] [rounds]
 *
 * The same requests given to the scheduler alone and through the server on loopback, in turn:
 * tokens a second of all sequences together. And what lies between a first token's making and its
 * arrival at the client. One client thread reads all streams. */
#include <stdio.h>
#ifndef NIB_HAVE_SERVER
int main(void) {
    fputs("built without the server\n", stderr);
    return 1;
}
#else
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/server.h"

enum { MAX = 64 };
static int n_seq = 8, n_tokens = 64, n_rounds = 5;
static nib_error e;

static void must(nib_status s) {
    if (s == NIB_OK) return;
    fprintf(stderr, "%s\n", e.message);
    exit(1);
}

/* ---- the scheduler alone ---- */

static atomic_int ended;
static void count(void *arg, const nib_event *ev) {
    (void)arg;
    if (ev->kind == NIB_EVENT_END) atomic_fetch_add(&ended, 1);
}

static double alone(nib_sched *s, int round) {
    nib_job *jobs[MAX];
    atomic_store(&ended, 0);
    double start = nib_now();
    for (int i = 0; i < n_seq; i++) {
        nib_request *q = nib_request_new(nib_sched_model(s));
        q->p.raw = q->p.ignore_end = true;
        q->p.sampling.temperature = 0;
        q->p.max_tokens = n_tokens;
        nib_buf_printf(&q->text, "%d %d", round, i);
        must(nib_sched_submit(s, q, count, NULL, &jobs[i], &e));
    }
    while (atomic_load(&ended) < n_seq) usleep(200);
    double t = nib_now() - start;
    for (int i = 0; i < n_seq; i++) nib_job_release(jobs[i]);
    return n_seq * n_tokens / t;
}

/* ---- through HTTP ---- */

static double first_sum;
static int n_first;

static double over_http(int port, int round) {
    struct pollfd fds[MAX];
    char text[65536];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    double start = nib_now();
    bool seen[MAX] = {0};
    for (int i = 0; i < n_seq; i++) {
        char body[256];
        int n = snprintf(body, sizeof body,
                         "{\"prompt\":\"%d %d\",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":"
                         "true,\"stream\":true}",
                         round, i, n_tokens);
        fds[i] = (struct pollfd){socket(AF_INET, SOCK_STREAM, 0), POLLIN, 0};
        if (connect(fds[i].fd, (struct sockaddr *)&a, sizeof a)) exit(1);
        n = snprintf(text, sizeof text,
                     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     "Content-Length: %d\r\n\r\n%s",
                     n, body);
        if (send(fds[i].fd, text, (size_t)n, 0) != n) exit(1);
    }
    for (int left = n_seq; left > 0;) {
        poll(fds, (nfds_t)n_seq, -1);
        for (int i = 0; i < n_seq; i++) {
            if (fds[i].fd < 0 || !fds[i].revents) continue;
            ssize_t n = recv(fds[i].fd, text, sizeof text - 1, 0);
            text[n > 0 ? n : 0] = 0;
            if (!seen[i] && strstr(text, "\"choices\"")) {
                seen[i] = true;
                first_sum += nib_now() - start;
                n_first++;
            }
            if (n > 0) continue;
            close(fds[i].fd);
            fds[i].fd = -1;
            left--;
        }
    }
    return n_seq * n_tokens / (nib_now() - start);
}

static void *run(void *server) {
    must(nib_server_run(server, &e));
    return NULL;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fputs("usage: bench_serve MODEL [sequences] [tokens] [rounds]\n", stderr);
        return 2;
    }
    if (argc > 2) n_seq = NIB_MIN(atoi(argv[2]), (int)MAX);
    if (argc > 3) n_tokens = atoi(argv[3]);
    if (argc > 4) n_rounds = NIB_MIN(atoi(argv[4]), (int)MAX);
    nib_server_params p = nib_server_defaults();
    p.port = 0;
    p.model_path = argv[1];
    p.engine.n_seq = n_seq;
    p.engine.n_ctx = 512;
    p.rate = 0;
    nib_server *s;
    pthread_t thread;
    uint64_t empty = nib_rss();
    must(nib_server_new(&s, &p, &e));
    pthread_create(&thread, NULL, run, s);
    while (nib_server_get_state(s) == NIB_SERVER_LOADING) usleep(10000);
    nib_sched *sched = nib_server_sched(s);
    const nib_model_info *info = nib_model_get_info(nib_sched_model(sched));
    double idle = (double)(nib_rss() - empty) - (double)info->weight_bytes;
    double direct[MAX], http[MAX];
    alone(sched, -1);
    for (int r = 0; r < n_rounds; r++) {
        nib_sched_stats before, after;
        direct[r] = alone(sched, 2 * r);
        nib_sched_get_stats(sched, &before);
        double sum = first_sum;
        http[r] = over_http(nib_server_port(s), 2 * r + 1);
        nib_sched_get_stats(sched, &after);
        double made = after.first_token.sum - before.first_token.sum;
        printf(
            "round %d: scheduler %.1f tok/s, http %.1f tok/s; first token to first byte %.2f ms\n",
            r, direct[r], http[r], (first_sum - sum - made) / n_seq * 1e3);
    }
    qsort(direct, (size_t)n_rounds, sizeof *direct, by_value);
    qsort(http, (size_t)n_rounds, sizeof *http, by_value);
    double d = direct[n_rounds / 2], h = http[n_rounds / 2];
    printf("median of %d: scheduler %.1f tok/s, http %.1f tok/s, overhead %.1f %%; resident beyond "
           "the weights when idle %.1f MB\n",
           n_rounds, d, h, (1 - h / d) * 100, idle / 1e6);
    nib_server_stop(s);
    pthread_join(thread, NULL);
    nib_server_free(s);
    return 0;
}
#endif
