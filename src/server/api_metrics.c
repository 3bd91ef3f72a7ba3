/* GET /metrics: counts and times in Prometheus' text format. */
#include "server/api.h"
#include "server/web.h"

static void put_head(nib_buf *b, const char *name, const char *type, const char *help) {
    nib_buf_printf(b, "# HELP nib_%s %s\n# TYPE nib_%s %s\n", name, help, name, type);
}

static void put(nib_buf *b, const char *name, const char *type, const char *help, double value) {
    put_head(b, name, type, help);
    nib_buf_printf(b, "nib_%s %.17g\n", name, value);
}

/* What is told of each model that is loaded. */
typedef struct row {
    const char *name, *type, *help;
    double value;
} row;
#define COUNTER(name, help, value)                                                                 \
    { name, "counter", help, (double)(value) }
#define GAUGE(name, help, value)                                                                   \
    { name, "gauge", help, (double)(value) }
enum { N_ROWS = 19 };
static void fill(const nib_sched_stats *t, row rows[N_ROWS]) {
    const row all[] = {
        COUNTER("requests_total", "Requests for generations", t->n_requests),
        COUNTER("requests_failed_total", "Of them, failed", t->n_errors),
        COUNTER("requests_cancelled_total", "Of them, cancelled", t->n_cancelled),
        COUNTER("requests_refused_total", "Requests refused because the queue was full",
                t->n_refused),
        COUNTER("replies_total", "Replies made", t->n_replies),
        COUNTER("replies_preempted_total", "Times a reply gave up its cache for others",
                t->n_preempted),
        COUNTER("prompt_tokens_total", "Tokens of prompts", t->prompt_tokens),
        COUNTER("prompt_tokens_cached_total", "Of them, known from before", t->cached_tokens),
        COUNTER("generated_tokens_total", "Tokens generated", t->generated_tokens),
        COUNTER("prompt_seconds_total", "Time replies took for their prompts", t->prompt_seconds),
        COUNTER("generation_seconds_total", "Time replies took to be generated",
                t->generate_seconds),
        COUNTER("engine_steps_total", "Steps computed", t->n_steps),
        COUNTER("engine_busy_seconds_total", "Time spent computing", t->busy_seconds),
        GAUGE("requests_processing", "Replies under way", t->n_running),
        GAUGE("requests_deferred", "Requests that wait", t->n_waiting),
        GAUGE("slots", "Replies possible at a time", t->n_slots),
        GAUGE("kv_pages", "Pages of the KV cache", t->kv.n_pages),
        GAUGE("kv_pages_free", "Of them, free", t->kv.n_free),
        GAUGE("kv_pages_kept", "Of them, kept for later requests", t->kv.n_kept),
    };
    _Static_assert(NIB_ARRAY_LEN(all) == N_ROWS, "as many rows as there are");
    memcpy(rows, all, sizeof all);
}

/* A model that is loaded, and its label as Prometheus wants it. */
typedef struct loaded {
    nib_sched_stats t;
    row rows[N_ROWS];
    nib_buf label;
} loaded;

static void put_label(nib_buf *b, const char *name) {
    nib_buf_puts(b, "model=\"");
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') nib_buf_putc(b, '\\');
        nib_buf_putc(b, *name);
    }
    nib_buf_putc(b, '"');
}

static void put_histogram(nib_buf *b, const char *name, const char *label, const nib_histogram *h) {
    static const char *const bounds[] = {
#define NIB_BUCKET_TEXT(x) #x,
        NIB_BUCKETS(NIB_BUCKET_TEXT)
#undef NIB_BUCKET_TEXT
    };
    for (size_t i = 0; i < NIB_N_BUCKETS; i++)
        nib_buf_printf(b, "nib_%s_bucket{%s,le=\"%s\"} %llu\n", name, label, bounds[i],
                       (unsigned long long)h->n[i]);
    nib_buf_printf(b,
                   "nib_%s_bucket{%s,le=\"+Inf\"} %llu\nnib_%s_sum{%s} %.9g\n"
                   "nib_%s_count{%s} %llu\n",
                   name, label, (unsigned long long)h->count, name, label, h->sum, name, label,
                   (unsigned long long)h->count);
}

static void put_models(nib_buf *b, const loaded *v, size_t n) {
    for (size_t k = 0; n && k < N_ROWS; k++) {
        put_head(b, v[0].rows[k].name, v[0].rows[k].type, v[0].rows[k].help);
        for (size_t i = 0; i < n; i++)
            nib_buf_printf(b, "nib_%s{%s} %.17g\n", v[i].rows[k].name, v[i].label.data,
                           v[i].rows[k].value);
    }
    if (!n) return;
    put_head(b, "time_to_first_token_seconds", "histogram",
             "From the request to the first token of its reply");
    for (size_t i = 0; i < n; i++)
        put_histogram(b, "time_to_first_token_seconds", v[i].label.data, &v[i].t.first_token);
    put_head(b, "inter_token_seconds", "histogram", "Between two tokens of a reply");
    for (size_t i = 0; i < n; i++)
        put_histogram(b, "inter_token_seconds", v[i].label.data, &v[i].t.between_tokens);
}

void nib_get_metrics(nib_http *r) {
    nib_server *s = r->server;
    nib_buf b = {0};
    size_t n = 0, n_known = nib_locals_n(s);
    loaded *v = nib_calloc(n_known + 1, sizeof *v);
    for (size_t i = 0; v && i < n_known; i++) {
        const nib_local *m = nib_locals_at(s, i);
        if (m->state != NIB_LOCAL_READY && m->state != NIB_LOCAL_LEAVING) continue;
        nib_sched_get_stats(m->sched, &v[n].t);
        fill(&v[n].t, v[n].rows);
        put_label(&v[n].label, m->name);
        b.failed |= v[n].label.failed;
        n++;
    }
    nib_conns_sweep(s); /* those that have ended do not count */
    put(&b, "uptime_seconds", "gauge", "Since the server started", nib_now() - s->started);
    put(&b, "http_requests_total", "counter", "HTTP requests answered", (double)s->n_http);
    put(&b, "http_errors_total", "counter", "HTTP requests answered with 4xx or 5xx",
        (double)s->n_http_errors);
    put(&b, "connections", "gauge", "Connections open", (double)s->n_conns);
    put(&b, "resident_bytes", "gauge", "Resident memory of the process", (double)nib_rss());
    if (s->web->kv) {
        nib_kvdisk_stats t = nib_kvdisk_get_stats(s->web->kv);
        put(&b, "kv_disk_bytes", "gauge", "Conversations' caches on disk", (double)t.bytes);
        put(&b, "kv_disk_pages_read_total", "counter", "Pages taken from disk", (double)t.n_read);
        put(&b, "kv_disk_pages_written_total", "counter", "Pages written", (double)t.n_written);
        put(&b, "kv_disk_pages_refused_total", "counter", "Pages found damaged, and removed",
            (double)t.n_refused);
    }
    put(&b, "models", "gauge", "Models known", (double)n_known);
    put(&b, "models_loaded", "gauge", "Of them, loaded", (double)n);
    put(&b, "model_loads_total", "counter", "Times a model was loaded", (double)s->n_loads);
    put(&b, "model_load_failures_total", "counter", "Times one could not be",
        (double)s->n_load_failures);
    if (v && !b.failed) put_models(&b, v, n);
    if (b.failed || !v)
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the metrics");
    else
        nib_http_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    for (size_t i = 0; i < n; i++) nib_buf_free(&v[i].label);
    nib_free(v);
    nib_buf_free(&b);
}
