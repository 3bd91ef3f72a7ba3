/* Who may ask what: checked before any handler runs.
 *
 * - Host: a page of another site whose name was made to point here (DNS rebinding) sends its own
 *   name; only addresses, localhost and configured names pass.
 * - Origin: a browser says which page asks. Only the server's own pages and configured origins
 * pass; others get no answer they could read and cause no work. This is also what protects forms.
 * - Key: on every route but those marked open, compared in constant time.
 * - Size and shape: two Content-Length headers, or one beside Transfer-Encoding, are how requests
 *   are smuggled past proxies.
 * - Rate: a bucket for each client, filled evenly, of which each generation takes one. */
#include <arpa/inet.h>
#include <event2/keyvalq_struct.h>
#include "server/internal.h"

/* ---- keys ---- */

/* Takes the same time wherever they differ. */
static bool same(nib_str a, const char *b, size_t n) {
    unsigned char differ = a.n != n;
    for (size_t i = 0; i < n; i++) differ |= (unsigned char)(b[i] ^ (a.n ? a.p[i % a.n] : 0));
    return !differ;
}

static nib_status read_keys(nib_server *s, nib_error *e) {
    nib_buf text = {0};
    NIB_TRY(nib_file_read(s->p.key_file, 1 << 20, &text, e));
    size_t n_lines = 1;
    for (size_t i = 0; i < text.len; i++) n_lines += text.data[i] == '\n';
    s->keys = nib_arena_calloc(&s->arena, n_lines, sizeof *s->keys);
    char *copy = nib_arena_strndup(&s->arena, text.len ? text.data : "", text.len);
    size_t len = text.len;
    nib_buf_free(&text);
    if (!s->keys || !copy) return nib_fail_nomem(e, len, "the keys");
    for (char *line = copy; *line;) {
        size_t n = strcspn(line, "\r\n");
        if (n && *line != '#') s->keys[s->n_keys++] = (nib_str){line, n};
        line += n;
        while (*line == '\r' || *line == '\n') line++;
    }
    if (s->n_keys) return NIB_OK;
    return nib_fail(e, NIB_ERR_ARGUMENT, "'%s' holds no key: expected one a line", s->p.key_file);
}

static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0) return true;
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

nib_status nib_guard_init(nib_server *s, nib_error *e) {
    if (s->p.key_file) NIB_TRY(read_keys(s, e));
    if (!s->n_keys && !is_loopback(s->p.host))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "%s can be reached from other machines: give --api-key-file FILE (one key "
                        "a line), or listen on 127.0.0.1",
                        s->p.host);
    return NIB_OK;
}

static bool check_key(nib_http *r) {
    nib_server *s = r->server;
    const char *given = nib_http_header(r, "Authorization");
    if (given && strncasecmp(given, "Bearer ", 7) == 0)
        given += 7;
    else if ((given = nib_http_header(r, "x-api-key")) == NULL)
        given = nib_http_cookie(r, "nib_key");
    if (!s->n_keys) return true;
    size_t n = given ? strlen(given) : 0;
    bool ok = false;
    for (size_t i = 0; i < s->n_keys; i++) ok |= same(s->keys[i], given ? given : "", n);
    if (ok) r->client = nib_hash(given, n, 1);
    return ok;
}

/* ---- where it comes from ---- */

static bool listed(const char *const *list, const char *what, size_t n) {
    for (; list && *list; list++)
        if (strcmp(*list, "*") == 0 || (strlen(*list) == n && strncasecmp(*list, what, n) == 0))
            return true;
    return false;
}

/* The name in "name:port", "[address]:port" or alone. */
static nib_str host_name(const char *host) {
    if (*host == '[') return (nib_str){host + 1, strcspn(host + 1, "]")};
    return (nib_str){host, strcspn(host, ":")};
}

static bool check_host(const nib_http *r) {
    const char *host = nib_http_header(r, "Host");
    char name[256];
    struct in6_addr any;
    if (!host) return true; /* HTTP/1.0 */
    nib_str h = host_name(host);
    if (h.n == 0 || h.n >= sizeof name) return false;
    memcpy(name, h.p, h.n);
    name[h.n] = 0;
    return strcasecmp(name, "localhost") == 0 || strcasecmp(name, r->server->p.host) == 0 ||
           inet_pton(AF_INET, name, &any) == 1 || inet_pton(AF_INET6, name, &any) == 1 ||
           listed(r->server->p.hosts, name, h.n);
}

static bool same_origin(const nib_http *r, const char *origin) {
    const char *host = nib_http_header(r, "Host"), *at = strstr(origin, "://");
    return host && at && strcasecmp(at + 3, host) == 0;
}

static bool check_origin(const nib_http *r) {
    const char *origin = nib_http_header(r, "Origin"), *site = nib_http_header(r, "Sec-Fetch-Site");
    bool safe = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
    if (!origin) return safe || !site || strcmp(site, "cross-site") != 0;
    return same_origin(r, origin) || listed(r->server->p.cors, origin, strlen(origin));
}

void nib_guard_cors(nib_http *r) {
    const char *origin = nib_http_header(r, "Origin");
    if (!origin || same_origin(r, origin) || !listed(r->server->p.cors, origin, strlen(origin)))
        return;
    nib_http_set(r, "Access-Control-Allow-Origin", origin);
    nib_http_set(r, "Vary", "Origin");
    if (strcmp(r->method, "OPTIONS") != 0) return;
    const char *wanted = nib_http_header(r, "Access-Control-Request-Headers");
    nib_http_set(r, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
    if (wanted) nib_http_set(r, "Access-Control-Allow-Headers", wanted);
    nib_http_set(r, "Access-Control-Max-Age", "600");
}

/* ---- shape and rate ---- */

static bool check_shape(nib_http *r) {
    struct evkeyvalq *headers = evhttp_request_get_input_headers(r->own->req);
    int n_length = 0, n_host = 0, n_coding = 0;
    for (const struct evkeyval *h = headers->tqh_first; h; h = h->next.tqe_next) {
        n_length += strcasecmp(h->key, "Content-Length") == 0;
        n_coding += strcasecmp(h->key, "Transfer-Encoding") == 0;
        n_host += strcasecmp(h->key, "Host") == 0;
    }
    if (n_length <= 1 && n_host <= 1 && n_coding <= 1 && (!n_length || !n_coding)) return true;
    nib_http_set(r, "Connection", "close");
    nib_http_error(r, 400, "bad_request", NULL,
                   n_host > 1 ? "two Host headers"
                              : "two headers give the length of the body: expected one");
    return false;
}

static bool check_rate(nib_http *r) {
    nib_server *s = r->server;
    double now = nib_now(), most = s->p.rate;
    if (s->p.rate <= 0) return true;
    nib_bucket *b = NULL, *oldest = &s->buckets[0];
    for (size_t i = 0; i < NIB_BUCKETS_KEPT && !b; i++) {
        if (s->buckets[i].client == r->client && s->buckets[i].at > 0) b = &s->buckets[i];
        if (s->buckets[i].at < oldest->at) oldest = &s->buckets[i];
    }
    if (!b) {
        b = oldest;
        *b = (nib_bucket){r->client, most, now};
    }
    b->level = NIB_MIN(most, b->level + (now - b->at) * most / 60);
    b->at = now;
    if (b->level >= 1) {
        b->level -= 1;
        return true;
    }
    nib_http_error(r, 429, "rate_limit_exceeded", NULL,
                   "more than %d generations a minute: wait %.0f s (--rate sets the limit)",
                   s->p.rate, (1 - b->level) * 60 / most + 1);
    return false;
}

bool nib_guard(nib_http *r) {
    r->client = nib_hash(r->own->peer, strlen(r->own->peer), 0);
    unsigned flags = r->route ? r->route->flags : 0;
    if (!check_shape(r)) return false;
    if (!check_host(r)) {
        nib_http_error(r, 403, "forbidden_host", NULL,
                       "the Host '%.100s' is not served here (--allow-host NAME serves it)",
                       nib_http_header(r, "Host"));
        return false;
    }
    if (!check_origin(r)) {
        const char *origin = nib_http_header(r, "Origin");
        nib_http_error(r, 403, "forbidden_origin", NULL,
                       "pages of '%.100s' may not ask this server (--cors ORIGIN lets them)",
                       origin ? origin : "another site");
        return false;
    }
    bool preflight = strcmp(r->method, "OPTIONS") == 0;
    if (!preflight && !check_key(r) && !(flags & NIB_ROUTE_OPEN)) {
        nib_http_set(r, "WWW-Authenticate", "Bearer");
        nib_http_error(r, 401, "invalid_api_key", NULL,
                       "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
        return false;
    }
    if (r->body.n > r->server->p.max_body) {
        nib_http_error(r, 413, "request_too_large", NULL,
                       "a body of %zu bytes: at most %zu are taken", r->body.n,
                       r->server->p.max_body);
        return false;
    }
    return !(flags & NIB_ROUTE_COSTLY) || check_rate(r);
}
