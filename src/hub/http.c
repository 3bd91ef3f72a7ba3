/* HTTP, by libcurl: how requests are made, what their outcomes mean, which are worth another try.
 *
 * The token is a header of requests whose URL lies under the endpoint; where a reply redirects to
 * another host, port or protocol libcurl leaves it out. A secure endpoint never redirects to an
 * insecure one. */
#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include "hub/internal.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void start(void) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- requests ---- */

static bool value_of(const char *line, size_t n, const char *name, nib_str *out) {
    size_t k = strlen(name);
    if (n <= k || line[k] != ':' || strncasecmp(line, name, k) != 0) return false;
    for (k++; k < n && isspace((unsigned char)line[k]);) k++;
    while (n > k && isspace((unsigned char)line[n - 1])) n--;
    *out = (nib_str){line + k, n - k};
    return true;
}

/* An ETag without W/ and quotes, when it fits. */
static void put_bare(char *out, size_t size, nib_str v) {
    if (v.n > 2 && strncmp(v.p, "W/", 2) == 0) v.p += 2, v.n -= 2;
    if (v.n >= 2 && v.p[0] == '"' && v.p[v.n - 1] == '"') v.p++, v.n -= 2;
    if (v.n < size) snprintf(out, size, "%.*s", (int)v.n, v.p);
}

static size_t on_header(char *line, size_t size, size_t n, void *arg) {
    nib_http *t = arg;
    nib_http_head *h = &t->head;
    nib_str v;
    (void)size;                                     /* always 1 */
    if (n >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* another hop */
        h->has_length = h->has_range = false;
        h->etag[0] = 0;
    } else if (value_of(line, n, "content-length", &v)) {
        char digits[24];
        snprintf(digits, sizeof digits, "%.*s", (int)NIB_MIN(v.n, sizeof digits - 1), v.p);
        char *end;
        h->length = strtoull(digits, &end, 10);
        h->has_length = isdigit((unsigned char)digits[0]) && *end == 0;
    } else if (value_of(line, n, "content-range", &v)) {
        char text[80];
        unsigned long long from, to, total;
        snprintf(text, sizeof text, "%.*s", (int)NIB_MIN(v.n, sizeof text - 1), v.p);
        int got = sscanf(text, "bytes %20llu-%20llu/%20llu", &from, &to, &total);
        h->has_range = got >= 2 && from <= to;
        h->from = got >= 2 ? from : 0;
        h->total = got == 3 ? total : UINT64_MAX;
    } else if (value_of(line, n, "etag", &v)) {
        if (v.n < sizeof h->etag) snprintf(h->etag, sizeof h->etag, "%.*s", (int)v.n, v.p);
    } else if (value_of(line, n, "x-linked-etag", &v)) {
        put_bare(h->linked, sizeof h->linked, v);
    } else if (value_of(line, n, "x-error-code", &v)) {
        put_bare(h->code, sizeof h->code, v);
    }
    return n;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    const nib_hub *h = arg;
    (void)a, (void)b, (void)c, (void)d;
    return nib_hub_cancelled(h);
}

static bool under_endpoint(const nib_hub *h, const char *url) {
    size_t n = strlen(h->endpoint);
    return strncmp(url, h->endpoint, n) == 0 && url[n] == '/';
}

static void set_protocols(CURL *c, bool secure) {
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS,
                     (long)(secure ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static nib_status add_header(nib_http *t, const char *name, const char *value, nib_error *e) {
    nib_buf line = {0};
    struct curl_slist *more = NULL;
    if (nib_buf_printf(&line, "%s: %s", name, value))
        more = curl_slist_append(t->headers, line.data);
    size_t n = line.len;
    nib_buf_free(&line);
    if (!more) return nib_fail_nomem(e, n, "a request");
    t->headers = more;
    return NIB_OK;
}

nib_status nib_http_prepare(nib_http *t, const nib_hub *h, const char *url, const char *range,
                            const char *if_range, nib_error *e) {
    pthread_once(&once, start);
    if (t->easy)
        curl_easy_reset(t->easy);
    else
        t->easy = curl_easy_init();
    if (!t->easy) return nib_fail_nomem(e, 0, "a transfer");
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    t->hub = h;
    t->head = (nib_http_head){.total = UINT64_MAX};
    t->why[0] = 0;
    const char *host = strstr(url, "://");
    host = host ? host + 3 : url;
    snprintf(t->host, sizeof t->host, "%.*s",
             (int)NIB_MIN(strcspn(host, "/?#"), sizeof t->host - 1), host);
    if (h->offline)
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "HF_HUB_OFFLINE is set: nothing is fetched from %s",
                        t->host);
    CURL *c = t->easy;
    NIB_TRY(add_header(t, "Accept-Encoding", "identity", e));
    if (h->token && under_endpoint(h, url)) {
        nib_buf value = {0};
        nib_status s = nib_buf_printf(&value, "Bearer %s", h->token)
                           ? add_header(t, "Authorization", value.data, e)
                           : nib_fail_nomem(e, 64, "a request");
        nib_buf_free(&value);
        NIB_TRY(s);
    }
    if (range && if_range && *if_range) NIB_TRY(add_header(t, "If-Range", if_range, e));
    bool ok = curl_easy_setopt(c, CURLOPT_URL, url) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK &&
              curl_easy_setopt(c, CURLOPT_RANGE, range) == CURLE_OK;
    if (!ok) return nib_fail_nomem(e, 0, "a request");
    curl_easy_setopt(c, CURLOPT_USERAGENT, "nib/" NIB_VERSION);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(c, CURLOPT_UNRESTRICTED_AUTH, 0L);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 256L * 1024);
    /* Parallel ranges want connections of their own, not streams of one. */
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)(1000 * h->timeout));
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 100L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, NIB_MAX((long)h->timeout, 1));
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->why);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, (void *)(uintptr_t)h);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    if (h->ca_file) curl_easy_setopt(c, CURLOPT_CAINFO, h->ca_file);
    set_protocols(c, strncmp(url, "https:", 6) == 0);
    return NIB_OK;
}

void nib_http_free(nib_http *t) {
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    t->easy = NULL;
    t->headers = NULL;
}

/* ---- outcomes ---- */

static nib_status refused(nib_http *t, long status, const char *what, nib_error *e) {
    bool token = t->hub->token != NULL;
    const char *code = t->head.code, *at = t->host;
    if (strcmp(code, "GatedRepo") == 0 || status == 403 || (status == 401 && token))
        return nib_fail(e, NIB_ERR_NOT_FOUND, "%s refuses %s (%ld): %s", at, what, status,
                        token ? "accept the licence at its page there with the account HF_TOKEN is "
                                "of, or check the name and the token"
                              : "it is gated: accept the licence at its page there, and set "
                                "HF_TOKEN to a token of your account");
    if (status == 401)
        return nib_fail(e, NIB_ERR_NOT_FOUND,
                        "%s refuses %s (401): there is no such model, or it is private or gated; "
                        "check the name, or accept its licence at its page there and set HF_TOKEN",
                        at, what);
    return nib_fail(e, NIB_ERR_NOT_FOUND, "%s has no %s (404): check the name%s", at, what,
                    strcmp(code, "RevisionNotFound") == 0 ? " of the revision behind '@'" : "");
}

static nib_status failed_status(nib_http *t, long status, const char *what, bool *again,
                                double *wait, nib_error *e) {
    curl_off_t after = 0;
    if (curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &after) == CURLE_OK && after > 0)
        *wait = (double)after;
    if (status == 401 || status == 403 || status == 404 || status == 410)
        return refused(t, status, what, e);
    if (status == 429) {
        *again = *wait <= t->hub->max_wait;
        return nib_fail(e, NIB_ERR_IO, "%s has had too many requests (429)%s", t->host,
                        *again ? "" : ": it asks to come back later than nib waits");
    }
    *again = status >= 500 || status == 408;
    return nib_fail(e, NIB_ERR_IO, "%s answers %ld for %s", t->host, status, what);
}

nib_status nib_http_outcome(nib_http *t, CURLcode rc, const char *what, bool *again, double *wait,
                            nib_error *e) {
    long status = 0;
    *again = false;
    *wait = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (nib_hub_cancelled(t->hub)) return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
    if (status >= 400 && (rc == CURLE_OK || rc == CURLE_HTTP_RETURNED_ERROR))
        return failed_status(t, status, what, again, wait, e);
    const char *why = *t->why ? t->why : curl_easy_strerror(rc);
    switch (rc) {
    case CURLE_OK:
        if (status == 200 || status == 206) return NIB_OK;
        return nib_fail(e, NIB_ERR_IO, "%s answers %ld for %s: expected 200", t->host, status,
                        what);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
        *again = true;
        return nib_fail(e, NIB_ERR_IO,
                        "cannot reach %s: %s (no network here, or it needs HTTPS_PROXY?)", t->host,
                        why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return nib_fail(e, NIB_ERR_IO,
                        "%s cannot prove who it is: %s (is the package ca-certificates installed, "
                        "or SSL_CERT_FILE needed?)",
                        t->host, why);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_TOO_MANY_REDIRECTS: return nib_fail(e, NIB_ERR_IO, "%s: %s", t->host, why);
    default:
        *again = true;
        return nib_fail(e, NIB_ERR_IO, "the connection to %s failed: %s", t->host, why);
    }
}

double nib_http_pause(const nib_hub *h, int n) {
    double pause = h->pause;
    for (int i = 1; i < n && pause < 30 * h->pause; i++) pause *= 2;
    return NIB_MIN(pause, 30 * h->pause);
}

/* ---- small bodies ---- */

typedef struct sink {
    nib_buf *body;
    size_t max;
    bool too_much;
} sink;

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    sink *k = arg;
    (void)size;
    if (!k->body) return 0; /* the head was all */
    if (n > k->max - k->body->len || !nib_buf_put(k->body, p, n)) {
        k->too_much = true;
        return 0;
    }
    return n;
}

nib_status nib_http_get(const nib_hub *h, const char *url, const char *range, const char *what,
                        size_t max, nib_buf *body, nib_http_head *head, nib_error *e) {
    nib_http t = {0};
    nib_status s;
    nib_hub_progress p = {.stage = NIB_HUB_RETRYING, .file = what};
    for (int failures = 0;;) {
        sink k = {body, max, false};
        if (body) nib_buf_clear(body);
        NIB_TRY_OUT(nib_http_prepare(&t, h, url, range, NULL, e));
        curl_easy_setopt(t.easy, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(t.easy, CURLOPT_WRITEDATA, &k);
        CURLcode rc = curl_easy_perform(t.easy);
        if (k.too_much) {
            s = nib_fail(e, NIB_ERR_LIMIT, "%s sends more than %zu bytes for %s", t.host, max,
                         what);
            break;
        }
        if (rc == CURLE_WRITE_ERROR && !body) rc = CURLE_OK;
        bool again;
        double wait;
        nib_error why = {0};
        s = nib_http_outcome(&t, rc, what, &again, &wait, &why);
        if (s == NIB_OK) break;
        if (e) *e = why;
        /* No network is said at once, not after minutes. */
        bool unreachable = rc == CURLE_COULDNT_RESOLVE_HOST || rc == CURLE_COULDNT_RESOLVE_PROXY ||
                           rc == CURLE_COULDNT_CONNECT;
        if (!again || unreachable || ++failures > h->retries) break;
        p.why = why.message;
        if (h->progress) h->progress(h->progress_arg, &p);
        NIB_TRY_OUT(nib_hub_sleep(h, NIB_MAX(wait, nib_http_pause(h, failures)), e));
    }
    if (s == NIB_OK && head) *head = t.head;
out:
    nib_http_free(&t);
    return s;
}

void nib_http_escape(nib_buf *b, const char *text, bool keep_slash) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (isalnum(c) || strchr("-_.~", c) || (c == '/' && keep_slash))
            nib_buf_putc(b, (char)c);
        else
            nib_buf_printf(b, "%%%02X", c);
    }
}
