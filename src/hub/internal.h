/* What the files of hub share. */
#ifndef NIB_HUB_INTERNAL_H
#define NIB_HUB_INTERNAL_H
#include <curl/curl.h>
#include <sys/types.h>
#include "hub/hub.h"

/* ---- paths (env.c) ---- */

/* Prints into out[NIB_HUB_PATH]; NIB_ERR_LIMIT when it does not fit. */
nib_status nib_hub_path(char *out, nib_error *e, const char *fmt, ...) NIB_PRINTF(3, 4);
/* CACHE/models--USER--REPO */
nib_status nib_hub_repo_dir(const nib_hub *h, const char *repo, char *out, nib_error *e);
/* Creates the folder and those above it. */
nib_status nib_hub_mkdirs(const char *dir, nib_error *e);
/* The same for the folder path lies in. */
nib_status nib_hub_mkdirs_above(const char *path, nib_error *e);
bool nib_hub_cancelled(const nib_hub *h);
/* Waits in small steps; NIB_ERR_CANCELLED when that is asked for. */
nib_status nib_hub_sleep(const nib_hub *h, double seconds, nib_error *e);

/* ---- HTTP (http.c) ---- */

/* What the last reply's head said; replies that redirect are in 'linked' only. */
typedef struct nib_http_head {
    bool has_length, has_range;
    uint64_t length, from, total; /* total: of Content-Range; UINT64_MAX unknown */
    char etag[256];               /* as sent, with quotes */
    char linked[80];              /* x-linked-etag of any hop, without quotes */
    char code[64];                /* x-error-code */
} nib_http_head;

typedef struct nib_http {
    const nib_hub *hub;
    CURL *easy;
    struct curl_slist *headers;
    nib_http_head head;
    char host[256];
    char why[CURL_ERROR_SIZE];
} nib_http;
/* Makes t ready to GET url (an easy handle is made or reused); range: "0-99", or NULL; if_range: an
 * ETag, or NULL. The caller sets where the body goes. */
nib_status nib_http_prepare(nib_http *t, const nib_hub *h, const char *url, const char *range,
                            const char *if_range, nib_error *e);
void nib_http_free(nib_http *t);
/* What came of it: NIB_OK for 200 and 206. *again: a later try may succeed; *wait: seconds the
 * server asks for, or 0. 'what' is named in the error. */
nib_status nib_http_outcome(nib_http *t, CURLcode rc, const char *what, bool *again, double *wait,
                            nib_error *e);
/* The pause after the n-th failure in a row (n from 1). */
double nib_http_pause(const nib_hub *h, int n);
/* GETs a small body (at most max bytes), with retries. head may be NULL; body NULL: only the head
 * is wanted. */
nib_status nib_http_get(const nib_hub *h, const char *url, const char *range, const char *what,
                        size_t max, nib_buf *body, nib_http_head *head, nib_error *e);
/* Appends text with all but unreserved characters (and '/' when keep_slash) as %XX. */
void nib_http_escape(nib_buf *b, const char *text, bool keep_slash);

/* ---- digests (digest.c) ---- */

/* SHA-256, or, when expected has 40 digits, git's SHA-1 of a blob. */
typedef struct nib_digest {
    struct evp_md_ctx_st *ctx;
} nib_digest;
nib_status nib_digest_start(nib_digest *d, const char *expected, uint64_t size, nib_error *e);
void nib_digest_put(nib_digest *d, const void *p, size_t n);
nib_status nib_digest_copy(nib_digest *to, const nib_digest *from, nib_error *e);
/* The hex of it; ends d. */
void nib_digest_end(nib_digest *d, char out[65]);
void nib_digest_free(nib_digest *d);
bool nib_is_hex(const char *s, size_t n);
/* The SHA-256 that a link into blobs/ names: "" when it names none. */
void nib_hub_blob_digest(const char *path, char out[65]);
/* The digest of a file, of the kind that 'expected' has. */
nib_status nib_digest_file(const nib_hub *h, const char *path, const char *expected,
                           nib_hub_progress *p, char out[65], nib_error *e);

/* ---- one file (fetch.c, repair.c) ---- */

typedef struct nib_fetch_job {
    const char *url, *name; /* name: for messages */
    const char *part;       /* where the bytes go; the journal is <part>.journal */
    uint64_t size;
    const char *digest;     /* expected, or "" */
    const char *etag;       /* of plain URLs: what the bytes must belong to, or "" */
    uint64_t before, total; /* of the pull: bytes of files done before, of all */
} nib_fetch_job;
/* Brings the file to 'part', whole and right, and its hash to 'digest'. The caller renames it and
 * then removes the journal. */
nib_status nib_fetch(const nib_hub *h, const nib_fetch_job *job, char digest[65], nib_error *e);

/* A chunk: a range of the file with what has arrived of it, from its start. */
typedef struct nib_chunk {
    uint64_t got;   /* bytes */
    uint64_t print; /* fingerprint of them */
    uint64_t noted; /* got, as the journal has it */
    bool busy;      /* a transfer is at it */
} nib_chunk;
typedef struct nib_part {
    const nib_fetch_job *job;
    int fd, journal;
    uint64_t chunk_bytes;
    nib_chunk *chunks;
    size_t n_chunks;
} nib_part;
/* Opens or creates the part file and its journal (part.c). Chunks that the journal has are held to
 * what is on the disk; those that differ count as missing. */
nib_status nib_part_open(nib_part *p, const nib_hub *h, const nib_fetch_job *job, nib_error *e);
void nib_part_close(nib_part *p);
uint64_t nib_part_chunk_len(const nib_part *p, size_t i);
/* Writes n bytes at 'at', within chunk at/chunk_bytes, which has all before them. */
nib_status nib_part_write(nib_part *p, uint64_t at, const void *bytes, size_t n, nib_error *e);
nib_status nib_part_read(const nib_part *p, uint64_t at, void *bytes, size_t n, nib_error *e);
/* Notes in the journal what chunk i has, if that is news. */
nib_status nib_part_note(nib_part *p, size_t i, nib_error *e);
void nib_part_forget(nib_part *p, size_t i); /* chunk i has nothing */
/* Reads every chunk back; those that differ from what was received are forgotten. *bad: how many.
 */
nib_status nib_part_check(nib_part *p, const nib_hub *h, size_t *bad, nib_error *e);
uint64_t nib_fingerprint(uint64_t print, const void *p, size_t n);

/* The hash was wrong although the disk holds what was received: fetches chunk after chunk once
 * more, replaces those that differ, until the hash is right (repair.c). */
nib_status nib_repair(const nib_hub *h, nib_part *p, char digest[65], nib_error *e);

/* ---- the cache (cache.c) ---- */

/* The size a path of the cache has, following links; false when it is no regular file. */
bool nib_hub_file_size(const char *path, uint64_t *size);
/* Calls fn for every file under dir (links not followed into folders), at most 6 folders deep, with
 * its path relative to dir. */
typedef nib_status (*nib_hub_walk_fn)(void *arg, const char *path, const char *name, nib_error *e);
nib_status nib_hub_walk(const char *dir, nib_hub_walk_fn fn, void *arg, nib_error *e);
/* The lock that pulls of one file take; released by nib_hub_unlock. wait false: *fd -1 when taken.
 */
nib_status nib_hub_lock(const nib_hub *h, const char *repo, const char *blob, bool wait,
                        nib_hub_progress *p, int *fd, nib_error *e);
void nib_hub_unlock(int fd);
#endif
