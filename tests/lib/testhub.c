#include "testhub.h"
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

test_hub_state test_hub;
test_hub_file test_hub_files[TEST_MAX_FILES];
static int n_files, listeners[2], ports[2], under_way;
static bool running;
static atomic_int busy;     /* connections that answer a request */
static atomic_bool closing; /* they are to stop */
static char cache[600];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct request {
    int fd;
    bool store;
    char head[8192], path[2048];
    bool ranged, token;
    size_t from, to;
} request;

int test_hub_port(bool store) {
    return ports[store];
}
const char *test_hub_cache(void) {
    return cache;
}
size_t test_hub_sent(void) {
    pthread_mutex_lock(&lock);
    size_t n = test_hub.sent;
    pthread_mutex_unlock(&lock);
    return n;
}

static bool send_all(int fd, const void *p, size_t n) {
    for (const char *b = p; n;) {
        ssize_t k = send(fd, b, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        b += k, n -= (size_t)k;
    }
    return true;
}

static bool answer(int fd, int status, const char *headers, const char *body) {
    char head[2048];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n%s\r\n", status,
                     strlen(body), headers);
    return send_all(fd, head, (size_t)n) && send_all(fd, body, strlen(body));
}

static void hash(const test_hub_file *f, const EVP_MD *md, char *out) {
    unsigned char d[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    char head[40];
    EVP_DigestInit_ex(c, md, NULL);
    if (md == EVP_sha1())
        EVP_DigestUpdate(c, head, (size_t)snprintf(head, sizeof head, "blob %zu", f->n) + 1);
    EVP_DigestUpdate(c, f->data, f->n);
    EVP_DigestFinal_ex(c, d, &n);
    EVP_MD_CTX_free(c);
    for (unsigned i = 0; i < n; i++) snprintf(out + (size_t)2 * i, 3, "%02x", d[i]);
}

static bool serve_list(int fd) {
    char *text = NULL;
    size_t n_text = 0;
    FILE *b = open_memstream(&text, &n_text); /* no allocation that tests count or fail */
    char code[128] = "";
    pthread_mutex_lock(&lock);
    test_hub.n_api++;
    int status = test_hub.api_status ? test_hub.api_status : 200;
    if (test_hub.api_code) snprintf(code, sizeof code, "X-Error-Code: %s\r\n", test_hub.api_code);
    if (test_hub.api_text) {
        fputs(test_hub.api_text, b);
    } else {
        fprintf(b,
                "{\"id\": \"USER/REPO\", \"sha\": \"%s\", \"gated\": false, \"cardData\": "
                "{\"license\": \"mit\"}, \"siblings\": [",
                TEST_COMMIT);
        for (int i = 0; i < n_files; i++) {
            const test_hub_file *f = &test_hub_files[i];
            char git[65];
            hash(f, EVP_sha1(), git);
            fprintf(b, "%s{\"rfilename\": \"%s\", \"size\": %zu, \"blobId\": \"%s\"", i ? "," : "",
                    f->name, f->n, git);
            if (!f->small)
                fprintf(b, ", \"lfs\": {\"sha256\": \"%s\", \"size\": %zu}", f->sha256, f->n);
            fputs("}", b);
        }
        fputs("]}", b);
    }
    pthread_mutex_unlock(&lock);
    fclose(b);
    bool ok = answer(fd, status, code, text);
    free(text);
    return ok;
}

static bool take(int *n) {
    pthread_mutex_lock(&lock);
    bool yes = *n > 0;
    if (yes) --*n;
    pthread_mutex_unlock(&lock);
    return yes;
}

static bool send_body(int fd, const test_hub_file *f, size_t from, size_t n, size_t limit) {
    enum { STEP = 16384 };
    double start = nib_now();
    for (size_t k = 0; k < n;) {
        uint8_t piece[STEP];
        size_t step = NIB_MIN(n - k, (size_t)STEP);
        if (test_hub.per_second) step = NIB_MIN(step, NIB_MAX(test_hub.per_second / 50, 1));
        if (k >= limit || atomic_load(&closing)) return false;
        step = NIB_MIN(step, limit - k);
        memcpy(piece, f->data + from + k, step);
        if (test_hub.flip_at >= from + k && test_hub.flip_at < from + k + step &&
            take(&test_hub.flips))
            piece[test_hub.flip_at - from - k] ^= 0xff;
        if (!send_all(fd, piece, step)) return false;
        k += step;
        pthread_mutex_lock(&lock);
        test_hub.sent += step;
        pthread_mutex_unlock(&lock);
        if (test_hub.per_second) {
            double late = (double)k / (double)test_hub.per_second - (nib_now() - start);
            if (late > 0) usleep((useconds_t)(1e6 * late));
        }
    }
    return true;
}

static bool serve_file(const request *r, const test_hub_file *f) {
    char head[512], more[128] = "";
    size_t from = 0, n = f->n;
    int status = 200;
    if (take(&test_hub.fails)) {
        if (test_hub.retry_after)
            snprintf(more, sizeof more, "Retry-After: %d\r\n", test_hub.retry_after);
        return answer(r->fd, test_hub.fail_status, more, "no");
    }
    const char *same = strcasestr(r->head, "\r\nIf-Range:");
    bool changed = same && !strstr(same, f->sha256);
    if (r->ranged && !test_hub.no_ranges && !changed && r->from < f->n) {
        status = 206;
        from = r->from;
        n = NIB_MIN(r->to, f->n - 1) - from + 1;
        if (test_hub.wrong_range && from > 0) from--;
        snprintf(more, sizeof more, "Content-Range: bytes %zu-%zu/%zu\r\n", from, from + n - 1,
                 f->n);
    }
    int k = snprintf(head, sizeof head,
                     "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nETag: \"%s\"\r\n%s\r\n", status, n,
                     f->sha256, more);
    if (!send_all(r->fd, head, (size_t)k)) return false;
    if (take(&test_hub.hangs)) {
        struct pollfd p = {r->fd, POLLIN, 0};
        while (!atomic_load(&closing) && poll(&p, 1, 20) == 0) { /* until the client goes away */
        }
        return false;
    }
    pthread_mutex_lock(&lock);
    if (++under_way > test_hub.most) test_hub.most = under_way;
    pthread_mutex_unlock(&lock);
    bool ok = send_body(r->fd, f, from, n, take(&test_hub.cuts) ? test_hub.cut_after : SIZE_MAX);
    pthread_mutex_lock(&lock);
    under_way--;
    pthread_mutex_unlock(&lock);
    return ok;
}

static bool handle(request *r) {
    const char *name = strrchr(r->path, '/') + 1;
    const test_hub_file *f = NULL;
    for (int i = 0; i < n_files; i++) { /* files in folders are found by their ends */
        const char *base = strrchr(test_hub_files[i].name, '/');
        if (strcmp(base ? base + 1 : test_hub_files[i].name, name) == 0) f = &test_hub_files[i];
    }
    pthread_mutex_lock(&lock);
    *(r->store ? &test_hub.token_at_store : &test_hub.token_at_hub) |= r->token;
    pthread_mutex_unlock(&lock);
    bool wanted = !r->store && test_hub.token && !strstr(r->head, test_hub.token);
    if (wanted) return answer(r->fd, 401, "X-Error-Code: GatedRepo\r\n", "no");
    if (strncmp(r->path, "/api/models/USER/REPO/revision/", 31) == 0) return serve_list(r->fd);
    if (!f) return answer(r->fd, 404, "X-Error-Code: EntryNotFound\r\n", "no");
    pthread_mutex_lock(&lock);
    ++*(r->store ? &test_hub.n_store : &test_hub.n_resolve);
    pthread_mutex_unlock(&lock);
    if (!r->store && !test_hub.no_redirect) {
        char more[512];
        snprintf(more, sizeof more,
                 "Location: http://127.0.0.1:%d/store/%s\r\nX-Linked-Etag: \"%s\"\r\n", ports[1],
                 name, f->sha256);
        return answer(r->fd, 302, more, "there");
    }
    return serve_file(r, f);
}

static bool read_request(request *r) {
    size_t n = 0;
    r->head[0] = 0;
    while (!strstr(r->head, "\r\n\r\n")) {
        if (n + 1 >= sizeof r->head) return false;
        ssize_t k = recv(r->fd, r->head + n, sizeof r->head - 1 - n, 0);
        if (k <= 0) return false;
        n += (size_t)k;
        r->head[n] = 0;
    }
    const char *p = strchr(r->head, ' ');
    if (!p) return false;
    p++;
    if (strncmp(p, "http://", 7) == 0) { /* as to a proxy */
        test_hub.through_proxy = true;
        p += 7 + strcspn(p + 7, "/");
    }
    snprintf(r->path, sizeof r->path, "%.*s", (int)strcspn(p, " ?"), p);
    const char *range = strcasestr(r->head, "\r\nRange: bytes=");
    r->ranged = range && sscanf(range + 15, "%zu-%zu", &r->from, &r->to) == 2;
    r->token = strcasestr(r->head, "\r\nAuthorization:") != NULL;
    return strchr(r->path, '/') != NULL;
}

static void *connection(void *arg) {
    request *r = arg;
    for (bool open = true; open;) {
        open = read_request(r);
        if (!open) break;
        atomic_fetch_add(&busy, 1);
        open = !atomic_load(&closing) && handle(r);
        atomic_fetch_sub(&busy, 1);
    }
    close(r->fd);
    free(r);
    return NULL;
}

static void *serve(void *arg) {
    (void)arg;
    for (;;) {
        struct pollfd p[2] = {{listeners[0], POLLIN, 0}, {listeners[1], POLLIN, 0}};
        poll(p, 2, -1);
        for (int i = 0; i < 2; i++) {
            int fd = p[i].revents ? accept(listeners[i], NULL, NULL) : -1;
            if (fd < 0) continue;
            request *r = calloc(1, sizeof *r);
            pthread_t t;
            r->fd = fd;
            r->store = i == 1;
            if (pthread_create(&t, NULL, connection, r) == 0) pthread_detach(t);
        }
    }
    return NULL;
}

static void start(void) {
    pthread_t t;
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        socklen_t n = sizeof a;
        listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(listeners[i], (struct sockaddr *)&a, n) || listen(listeners[i], 64) ||
            getsockname(listeners[i], (struct sockaddr *)&a, &n))
            fail_msg("no server: %s", strerror(errno));
        ports[i] = ntohs(a.sin_port);
    }
    signal(SIGPIPE, SIG_IGN);
    if (pthread_create(&t, NULL, serve, NULL)) fail_msg("no server thread");
    pthread_detach(t);
    running = true;
}

void test_hub_reset(void) {
    static int number;
    static const char *const clean[] = {
        "HF_TOKEN",       "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE",
        "http_proxy",     "HUGGINGFACE_HUB_CACHE",  "SSL_CERT_FILE", "TRANSFORMERS_OFFLINE",
        "CURL_CA_BUNDLE", "XDG_CACHE_HOME"};
    char endpoint[64], home[600];
    if (!running) start();
    atomic_store(&closing, true);
    while (atomic_load(&busy)) usleep(1000);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_files; i++) free(test_hub_files[i].data);
    n_files = 0;
    test_hub = (test_hub_state){0};
    pthread_mutex_unlock(&lock);
    atomic_store(&closing, false);
    for (size_t i = 0; i < NIB_ARRAY_LEN(clean); i++) unsetenv(clean[i]);
    snprintf(home, sizeof home, "%s/home%d", test_tmp(), number);
    snprintf(cache, sizeof cache, "%s/cache%d", test_tmp(), number++);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", ports[0]);
    setenv("HF_ENDPOINT", endpoint, 1);
    setenv("HF_HUB_CACHE", cache, 1);
    setenv("HF_HOME", home, 1);
    setenv("no_proxy", "*", 1);
}

test_hub_file *test_hub_add(const char *name, size_t n, bool small) {
    test_hub_file *f = &test_hub_files[n_files++];
    *f = (test_hub_file){.name = name, .n = n, .small = small, .data = malloc(n ? n : 1)};
    nib_rng r = {.seed = nib_hash(name, strlen(name), 7)};
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = nib_rng_u64(&r);
        memcpy(f->data + i, &v, NIB_MIN(n - i, (size_t)8));
    }
    hash(f, EVP_sha256(), f->sha256);
    return f;
}

test_hub_file *test_hub_add_bytes(const char *name, const void *p, size_t n) {
    test_hub_file *f = test_hub_add(name, n, false);
    memcpy(f->data, p, n);
    hash(f, EVP_sha256(), f->sha256);
    return f;
}
