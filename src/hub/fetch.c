/* One file, by several ranges at once, hashed as it grows.
 *
 * One thread runs all transfers (libcurl's multi interface) and writes what they bring; another
 * hashes the contiguous beginning of the file from the page cache, so that the hash is ready when
 * the last byte is. Transfers take runs of consecutive missing chunks in ascending order. The first
 * answer tells whether the server knows ranges; one that does not is read as one stream, from the
 * start each time. A transfer that fails gives its chunks back with what they have; pauses between
 * tries double, end early on success, and are as long as the server asks for (429, Retry-After).
 * Giving up needs several pauses in a row without a single new byte. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include "hub/internal.h"

enum { MAX_TRANSFERS = 16, MAX_RUN = 16, HASH_PIECE = 1 << 20 };

typedef struct transfer {
    struct fetch *f;
    nib_http http;
    bool active, checked;
    uint64_t start, at, end; /* asked for [start, end); the next byte is at */
    const char *bad;         /* why the answer is no good, when libcurl has no complaint */
} transfer;

typedef struct hasher {
    const nib_part *part;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool running, stop, ended;
    uint64_t ready, hashed; /* bytes of the file's beginning that have arrived; that are hashed */
    nib_digest digest;
    nib_status status;
    nib_error error;
} hasher;

typedef struct fetch {
    const nib_hub *h;
    const nib_fetch_job *job;
    nib_part part;
    hasher hash;
    CURLM *multi;
    transfer t[MAX_TRANSFERS];
    int n_allowed, n_active;
    bool ranges, no_ranges; /* known to be understood; known not to be */
    bool restart;           /* no_ranges was just found out */
    size_t prefix;          /* chunks that are whole, from the first on */
    uint64_t done, best;    /* bytes that are here, the most there have been */
    int failures;
    double not_before, noted;
    nib_status fatal;
    nib_error error;  /* of fatal */
    nib_error reason; /* of the last failure */
} fetch;

/* ---- hashing ---- */

static void *hash_thread(void *arg) {
    hasher *k = arg;
    char *piece = nib_alloc(HASH_PIECE);
    nib_error e = {0};
    nib_status s = piece ? NIB_OK : nib_fail_nomem(&e, HASH_PIECE, "hashing");
    pthread_mutex_lock(&k->lock);
    while (s == NIB_OK && !k->stop && k->hashed < k->part->job->size) {
        if (k->hashed == k->ready) {
            pthread_cond_wait(&k->news, &k->lock);
            continue;
        }
        uint64_t at = k->hashed;
        size_t n = (size_t)NIB_MIN(k->ready - at, (uint64_t)HASH_PIECE);
        pthread_mutex_unlock(&k->lock);
        s = nib_part_read(k->part, at, piece, n, &e);
        if (s == NIB_OK) nib_digest_put(&k->digest, piece, n);
        pthread_mutex_lock(&k->lock);
        k->hashed = at + n;
    }
    k->status = s;
    k->error = e;
    k->ended = true;
    pthread_cond_broadcast(&k->news);
    pthread_mutex_unlock(&k->lock);
    nib_free(piece);
    return NULL;
}

static nib_status hash_start(hasher *k, const nib_part *part, nib_error *e) {
    k->part = part;
    k->stop = k->ended = false;
    k->ready = k->hashed = 0;
    NIB_TRY(nib_digest_start(&k->digest, part->job->digest, part->job->size, e));
    sigset_t all, before;
    sigfillset(&all); /* signals are for the caller's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int bad = pthread_create(&k->thread, NULL, hash_thread, k);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (bad) {
        nib_digest_free(&k->digest);
        return nib_fail(e, NIB_ERR_NOMEM, "cannot start a thread: %s", strerror(bad));
    }
    k->running = true;
    return NIB_OK;
}

static void hash_ready(hasher *k, uint64_t bytes) {
    pthread_mutex_lock(&k->lock);
    k->ready = bytes;
    pthread_cond_broadcast(&k->news);
    pthread_mutex_unlock(&k->lock);
}

/* Ends the thread, finished or not. */
static void hash_stop(hasher *k) {
    if (!k->running) return;
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_broadcast(&k->news);
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->thread, NULL);
    k->running = false;
}

static void report(fetch *f, nib_hub_stage stage, uint64_t done, const char *why) {
    nib_hub_progress p = {stage, f->job->name, f->job->before + done, f->job->total, why};
    if (f->h->progress) f->h->progress(f->h->progress_arg, &p);
}

/* All bytes are here: waits for the hash. */
static nib_status hash_finish(fetch *f, char digest[65], nib_error *e) {
    hasher *k = &f->hash;
    hash_ready(k, f->job->size);
    nib_status s = NIB_OK;
    pthread_mutex_lock(&k->lock);
    while (!k->ended && s == NIB_OK) {
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_nsec += 100000000;
        if (end.tv_nsec >= 1000000000) end.tv_nsec -= 1000000000, end.tv_sec++;
        pthread_cond_timedwait(&k->news, &k->lock, &end);
        uint64_t hashed = k->hashed;
        pthread_mutex_unlock(&k->lock);
        report(f, NIB_HUB_HASHING, hashed, NULL);
        if (nib_hub_cancelled(f->h)) s = nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
        pthread_mutex_lock(&k->lock);
    }
    pthread_mutex_unlock(&k->lock);
    hash_stop(k);
    if (s == NIB_OK && k->status != NIB_OK) {
        if (e) *e = k->error;
        s = k->status;
    }
    if (s == NIB_OK)
        nib_digest_end(&k->digest, digest);
    else
        nib_digest_free(&k->digest);
    return s;
}

/* ---- what arrives ---- */

/* The answer's head against what was asked: false ends the transfer. */
static bool check_head(transfer *t) {
    fetch *f = t->f;
    const nib_http_head *h = &t->http.head;
    long status = 0;
    curl_easy_getinfo(t->http.easy, CURLINFO_RESPONSE_CODE, &status);
    uint64_t size = f->job->size;
    if (status == 206) {
        if (!h->has_range || h->from != t->start) {
            t->bad = "the server sent another range than was asked for";
            return false;
        }
        if (h->total != UINT64_MAX && h->total != size) {
            f->fatal =
                nib_fail(&f->error, NIB_ERR_FORMAT,
                         "%s has %llu bytes at the server: expected %llu (has it just been "
                         "replaced? run the command again)",
                         f->job->name, (unsigned long long)h->total, (unsigned long long)size);
            return false;
        }
        f->ranges = true;
        return true;
    }
    if (h->has_length && h->length != size) {
        f->fatal = nib_fail(&f->error, NIB_ERR_FORMAT,
                            "%s has %llu bytes at the server: expected %llu (has it just been "
                            "replaced? run the command again)",
                            f->job->name, (unsigned long long)h->length, (unsigned long long)size);
        return false;
    }
    /* The whole file, from its first byte: this server has no ranges, or the file has changed. */
    if (!f->no_ranges && (f->done > 0 || f->n_active > 1)) {
        f->no_ranges = f->restart = true;
        return false;
    }
    f->no_ranges = true;
    t->end = size;
    return true;
}

static size_t on_body(char *p, size_t unit, size_t n, void *arg) {
    transfer *t = arg;
    fetch *f = t->f;
    (void)unit; /* always 1 */
    if (f->fatal != NIB_OK || (!t->checked && !check_head(t))) return 0;
    t->checked = true;
    if (n > t->end - t->at) {
        t->bad = "the server sent more than was asked for";
        return 0;
    }
    for (size_t left = n; left;) {
        size_t i = (size_t)(t->at / f->part.chunk_bytes);
        uint64_t chunk_end = (uint64_t)i * f->part.chunk_bytes + nib_part_chunk_len(&f->part, i);
        size_t k = (size_t)NIB_MIN((uint64_t)left, chunk_end - t->at);
        f->part.chunks[i].busy = true;
        f->fatal = nib_part_write(&f->part, t->at, p, k, &f->error);
        if (f->fatal == NIB_OK && t->at + k == chunk_end)
            f->fatal = nib_part_note(&f->part, i, &f->error);
        if (f->fatal != NIB_OK) return 0;
        t->at += k, p += k, left -= k, f->done += k;
    }
    if (f->done > f->best) {
        f->best = f->done;
        f->failures = 0;
    }
    return n;
}

/* ---- transfers ---- */

/* The next run of missing chunks; false when there is none. The last ones are dealt out singly, so
 * that all connections end together. */
static bool next_run(fetch *f, size_t *first, size_t *end) {
    nib_part *p = &f->part;
    size_t i = f->prefix;
    while (i < p->n_chunks && (p->chunks[i].busy || p->chunks[i].got == nib_part_chunk_len(p, i)))
        i++;
    if (i == p->n_chunks) return false;
    size_t share = (p->n_chunks - i) / (size_t)(2 * f->n_allowed);
    size_t most = f->no_ranges ? p->n_chunks : NIB_MIN(NIB_MAX(share, 1), (size_t)MAX_RUN);
    *first = i++;
    while (i < p->n_chunks && i - *first < most && !p->chunks[i].busy && p->chunks[i].got == 0) i++;
    *end = i;
    return true;
}

static nib_status begin(fetch *f, transfer *t, size_t first, size_t end, nib_error *e) {
    nib_part *p = &f->part;
    char range[64];
    t->start = t->at = (uint64_t)first * p->chunk_bytes + p->chunks[first].got;
    t->end = NIB_MIN((uint64_t)end * p->chunk_bytes, f->job->size);
    t->checked = false;
    t->bad = NULL;
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)t->start,
             (unsigned long long)t->end - 1);
    NIB_TRY(nib_http_prepare(&t->http, f->h, f->job->url, f->no_ranges ? NULL : range,
                             f->job->etag[0] == '"' ? f->job->etag : NULL, e));
    curl_easy_setopt(t->http.easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->http.easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->http.easy, CURLOPT_PRIVATE, t);
    if (curl_multi_add_handle(f->multi, t->http.easy) != CURLM_OK)
        return nib_fail_nomem(e, 0, "a transfer");
    for (size_t i = first; i < end; i++) p->chunks[i].busy = true;
    t->active = true;
    f->n_active++;
    return NIB_OK;
}

/* Gives its chunks back. */
static void end_transfer(fetch *f, transfer *t) {
    if (!t->active) return;
    curl_multi_remove_handle(f->multi, t->http.easy);
    size_t from = (size_t)(t->start / f->part.chunk_bytes);
    for (size_t i = from; i < f->part.n_chunks && i * f->part.chunk_bytes < t->end; i++)
        f->part.chunks[i].busy = false;
    t->active = false;
    f->n_active--;
}

static nib_status start_transfers(fetch *f, nib_error *e) {
    int most = f->no_ranges || !f->ranges ? 1 : f->n_allowed;
    if (nib_now() < f->not_before) return NIB_OK;
    for (int i = 0; i < f->h->connections && i < MAX_TRANSFERS && f->n_active < most; i++) {
        size_t first, end;
        if (f->t[i].active) continue;
        if (!next_run(f, &first, &end)) break;
        NIB_TRY(begin(f, &f->t[i], first, end, e));
    }
    return NIB_OK;
}

static nib_status finish(fetch *f, transfer *t, CURLcode rc, nib_error *e) {
    bool again = true, whole = t->at == t->end;
    double wait = 0;
    nib_error why = {0};
    long status = 0;
    curl_easy_getinfo(t->http.easy, CURLINFO_RESPONSE_CODE, &status);
    nib_status s = t->bad ? nib_fail(&why, NIB_ERR_IO, "%s: %s", t->http.host, t->bad)
                          : nib_http_outcome(&t->http, rc, f->job->name, &again, &wait, &why);
    end_transfer(f, t);
    if (f->fatal != NIB_OK) {
        if (e) *e = f->error;
        return f->fatal;
    }
    if (f->restart || (s == NIB_OK && whole)) return NIB_OK;
    if (s == NIB_OK) nib_fail(&why, NIB_ERR_IO, "%s ended the connection early", t->http.host);
    f->reason = why;
    if (s == NIB_ERR_CANCELLED || !again) {
        if (e) *e = why;
        return s;
    }
    if (status == 429 || status == 503) f->n_allowed = NIB_MAX(f->n_allowed / 2, 1);
    /* What fails while others already wait is the same trouble, not a further one. */
    if (nib_now() >= f->not_before && ++f->failures > f->h->retries)
        return nib_fail(e, s == NIB_OK ? NIB_ERR_IO : s,
                        "gave up after %d %s: %.300s (what has arrived is kept: the same command "
                        "goes on from there)",
                        f->failures, f->failures == 1 ? "try" : "tries", why.message);
    double until = nib_now() + NIB_MAX(wait, nib_http_pause(f->h, f->failures));
    f->not_before = NIB_MAX(f->not_before, until);
    return NIB_OK;
}

/* A server without ranges: everything is read anew, from the first byte. */
static nib_status restart_stream(fetch *f, nib_error *e) {
    for (int i = 0; i < MAX_TRANSFERS; i++) end_transfer(f, &f->t[i]);
    hash_stop(&f->hash);
    nib_digest_free(&f->hash.digest);
    for (size_t i = 0; i < f->part.n_chunks; i++) nib_part_forget(&f->part, i);
    f->done = 0;
    f->prefix = 0;
    f->restart = false;
    return hash_start(&f->hash, &f->part, e);
}

static void advance(fetch *f) {
    nib_part *p = &f->part;
    while (f->prefix < p->n_chunks && p->chunks[f->prefix].got == nib_part_chunk_len(p, f->prefix))
        f->prefix++;
    uint64_t ready = (uint64_t)f->prefix * p->chunk_bytes;
    if (f->prefix < p->n_chunks) ready += p->chunks[f->prefix].got;
    hash_ready(&f->hash, NIB_MIN(ready, f->job->size));
}

/* Twice a second what unfinished chunks have is noted too: a kill costs little. */
static nib_status note_progress(fetch *f, nib_error *e) {
    if (nib_now() - f->noted < 0.5) return NIB_OK;
    f->noted = nib_now();
    for (int i = 0; i < MAX_TRANSFERS; i++) {
        size_t at = (size_t)(f->t[i].at / f->part.chunk_bytes);
        if (f->t[i].active && at < f->part.n_chunks) NIB_TRY(nib_part_note(&f->part, at, e));
    }
    return NIB_OK;
}

static nib_status transfer_all(fetch *f, nib_error *e) {
    while (f->done < f->job->size) {
        if (nib_hub_cancelled(f->h)) return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
        if (f->no_ranges && f->n_active == 0 && f->done > 0) NIB_TRY(restart_stream(f, e));
        NIB_TRY(start_transfers(f, e));
        int running, left;
        if (curl_multi_perform(f->multi, &running) != CURLM_OK)
            return nib_fail(e, NIB_ERR_INTERNAL, "libcurl cannot go on with its transfers");
        for (CURLMsg *m; (m = curl_multi_info_read(f->multi, &left));) {
            transfer *t = NULL;
            if (m->msg != CURLMSG_DONE) continue;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
            NIB_TRY(finish(f, t, m->data.result, e));
        }
        if (f->restart) NIB_TRY(restart_stream(f, e));
        advance(f);
        NIB_TRY(note_progress(f, e));
        bool waiting = f->n_active == 0 && nib_now() < f->not_before;
        report(f, waiting ? NIB_HUB_RETRYING : NIB_HUB_FETCHING, f->done,
               waiting ? f->reason.message : NULL);
        if (f->done < f->job->size) curl_multi_poll(f->multi, NULL, 0, 100, NULL);
    }
    return NIB_OK;
}

/* Counts what is here, fetches what is not, hashes. */
static nib_status round_of(fetch *f, char digest[65], nib_error *e) {
    f->done = 0;
    for (size_t i = 0; i < f->part.n_chunks; i++) f->done += f->part.chunks[i].got;
    f->best = f->done;
    f->prefix = 0;
    f->failures = 0;
    NIB_TRY(hash_start(&f->hash, &f->part, e));
    advance(f);
    nib_status s = transfer_all(f, e);
    for (int i = 0; i < MAX_TRANSFERS; i++) end_transfer(f, &f->t[i]);
    if (s == NIB_OK) return hash_finish(f, digest, e);
    hash_stop(&f->hash);
    nib_digest_free(&f->hash.digest);
    for (size_t i = 0; i < f->part.n_chunks; i++) nib_part_note(&f->part, i, NULL);
    return s;
}

static nib_status wrong_hash(const nib_fetch_job *job, const char *found, nib_error *e) {
    return nib_fail(
        e, NIB_ERR_FORMAT,
        "%s arrived damaged twice: expected the hash %.16s..., found %.16s... (what has "
        "arrived is kept; the same command compares it with the server's once more)",
        job->name, job->digest, found);
}

nib_status nib_fetch(const nib_hub *h, const nib_fetch_job *job, char digest[65], nib_error *e) {
    fetch *f = nib_calloc(1, sizeof *f);
    if (!f) return nib_fail_nomem(e, sizeof *f, "a download");
    char found[65];
    nib_status s;
    f->h = h;
    f->job = job;
    f->n_allowed = NIB_MAX(NIB_MIN(h->connections, MAX_TRANSFERS), 1);
    f->part.fd = f->part.journal = -1;
    pthread_mutex_init(&f->hash.lock, NULL);
    pthread_cond_init(&f->hash.news, NULL);
    for (int i = 0; i < MAX_TRANSFERS; i++) f->t[i].f = f;
    NIB_TRY_OUT(nib_part_open(&f->part, h, job, e));
    f->multi = curl_multi_init();
    if (!f->multi) NIB_TRY_OUT(nib_fail_nomem(e, 0, "a download"));
    NIB_TRY_OUT(round_of(f, found, e));
    if (*job->digest && strcmp(found, job->digest) != 0) {
        size_t bad;
        nib_log(NIB_LOG_WARN, "%s: the hash is wrong, looking for the damage", job->name);
        NIB_TRY_OUT(
            nib_part_check(&f->part, h, &bad, e)); /* did the disk keep what was received? */
        if (bad) NIB_TRY_OUT(round_of(f, found, e));
        if (strcmp(found, job->digest) != 0 && f->no_ranges) {
            for (size_t i = 0; i < f->part.n_chunks; i++) nib_part_forget(&f->part, i);
            NIB_TRY_OUT(round_of(f, found, e));
        } else if (strcmp(found, job->digest) != 0) {
            NIB_TRY_OUT(nib_repair(h, &f->part, found, e));
        }
        if (strcmp(found, job->digest) != 0) NIB_TRY_OUT(wrong_hash(job, found, e));
    }
    if (fdatasync(f->part.fd))
        NIB_TRY_OUT(
            nib_fail(e, NIB_ERR_IO, "cannot write '%.300s': %s", job->part, strerror(errno)));
    memcpy(digest, found, sizeof found);
    s = NIB_OK;
out:
    for (int i = 0; i < MAX_TRANSFERS; i++) nib_http_free(&f->t[i].http);
    curl_multi_cleanup(f->multi);
    nib_part_close(&f->part);
    pthread_mutex_destroy(&f->hash.lock);
    pthread_cond_destroy(&f->hash.news);
    nib_free(f);
    return s;
}
