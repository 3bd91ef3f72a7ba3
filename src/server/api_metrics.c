/* GET /metrics: counts and times in Prometheus' text format. */
#include "server/api.h"
#include "server/web.h"

static void put(nib_buf *b, const char *name, const char *type, const char *help, double value) {
    nib_buf_printf(b, "# HELP nib_%s %s\n# TYPE nib_%s %s\nnib_%s %.17g\n", name, help, name, type,
                   name, value);
}

static void put_histogram(nib_buf *b, const char *name, const char *help, const nib_histogram *h) {
    static const char *const bounds[] = {
#define NIB_BUCKET_TEXT(x) #x,
        NIB_BUCKETS(NIB_BUCKET_TEXT)
#undef NIB_BUCKET_TEXT
    };
    nib_buf_printf(b, "# HELP nib_%s %s\n# TYPE nib_%s histogram\n", name, help, name);
    for (size_t i = 0; i < NIB_N_BUCKETS; i++)
        nib_buf_printf(b, "nib_%s_bucket{le=\"%s\"} %llu\n", name, bounds[i],
                       (unsigned long long)h->n[i]);
    nib_buf_printf(b, "nib_%s_bucket{le=\"+Inf\"} %llu\nnib_%s_sum %.9g\nnib_%s_count %llu\n", name,
                   (unsigned long long)h->count, name, h->sum, name, (unsigned long long)h->count);
}

void nib_get_metrics(nib_http *r) {
    nib_server *s = r->server;
    nib_buf b = {0};
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
    nib_sched *sched = nib_server_sched(s);
    if (sched) {
        nib_sched_stats t;
        nib_sched_get_stats(sched, &t);
        const struct {
            const char *name, *type, *help;
            double value;
        } rows[] = {
            {"requests_total", "counter", "Requests for generations", (double)t.n_requests},
            {"requests_failed_total", "counter", "Of them, failed", (double)t.n_errors},
            {"requests_cancelled_total", "counter", "Of them, cancelled", (double)t.n_cancelled},
            {"requests_refused_total", "counter", "Requests refused because the queue was full",
             (double)t.n_refused},
            {"replies_total", "counter", "Replies made", (double)t.n_replies},
            {"replies_preempted_total", "counter", "Times a reply gave up its cache for others",
             (double)t.n_preempted},
            {"prompt_tokens_total", "counter", "Tokens of prompts", (double)t.prompt_tokens},
            {"prompt_tokens_cached_total", "counter", "Of them, known from before",
             (double)t.cached_tokens},
            {"generated_tokens_total", "counter", "Tokens generated", (double)t.generated_tokens},
            {"prompt_seconds_total", "counter", "Time replies took for their prompts",
             t.prompt_seconds},
            {"generation_seconds_total", "counter", "Time replies took to be generated",
             t.generate_seconds},
            {"engine_steps_total", "counter", "Steps computed", (double)t.n_steps},
            {"engine_busy_seconds_total", "counter", "Time spent computing", t.busy_seconds},
            {"requests_processing", "gauge", "Replies under way", (double)t.n_running},
            {"requests_deferred", "gauge", "Requests that wait", (double)t.n_waiting},
            {"slots", "gauge", "Replies possible at a time", (double)t.n_slots},
            {"kv_pages", "gauge", "Pages of the KV cache", (double)t.kv.n_pages},
            {"kv_pages_free", "gauge", "Of them, free", (double)t.kv.n_free},
            {"kv_pages_kept", "gauge", "Of them, kept for later requests", (double)t.kv.n_kept},
        };
        for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++)
            put(&b, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
        put_histogram(&b, "time_to_first_token_seconds",
                      "From the request to the first token of its reply", &t.first_token);
        put_histogram(&b, "inter_token_seconds", "Between two tokens of a reply",
                      &t.between_tokens);
    }
    if (b.failed)
        nib_http_error(r, 503, "out_of_memory", NULL, "out of memory for the metrics");
    else
        nib_http_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    nib_buf_free(&b);
}
