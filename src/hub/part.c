/* A file that is still arriving: its bytes in <part>, what is known of them in <part>.journal.
 *
 * The file is cut into chunks; of each, the bytes from its start on that have arrived are known by
 * their number and a fingerprint of what was received. The journal is text, one line a note:
 *
 *     nib-part 1 SIZE CHUNK_BYTES DIGEST-OR-ETAG
 *     INDEX GOT FINGERPRINT
 *
 * Notes are appended, a chunk's last one holds. Nothing relies on the order in which data and notes
 * reach the disk: whoever goes on with a part reads every noted chunk back, and a chunk whose
 * fingerprint differs (a power cut, a bad disk, another program) has not arrived. So a torn, stale
 * or damaged journal costs bytes to fetch again, never a wrong file. The fingerprint (FNV-1a, 64
 * bits) finds accidents; that the whole file is the hub's is for its SHA-256 to say. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hub/internal.h"

static const uint64_t print_start = 0xcbf29ce484222325u;

uint64_t nib_fingerprint(uint64_t print, const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t h = print ? print : print_start;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

uint64_t nib_part_chunk_len(const nib_part *p, size_t i) {
    uint64_t at = (uint64_t)i * p->chunk_bytes;
    return NIB_MIN(p->chunk_bytes, p->job->size - at);
}

void nib_part_forget(nib_part *p, size_t i) {
    p->chunks[i].got = 0;
    p->chunks[i].print = print_start;
}

static nib_status fail_write(const nib_part *p, int code, nib_error *e) {
    return nib_fail(e, NIB_ERR_IO, "cannot write '%.300s': %s%s", p->job->part, strerror(code),
                    code == ENOSPC || code == EDQUOT
                        ? " (make room, then run the same command: it goes on from here)"
                        : "");
}

nib_status nib_part_write(nib_part *p, uint64_t at, const void *bytes, size_t n, nib_error *e) {
    const char *from = bytes;
    nib_chunk *c = &p->chunks[at / p->chunk_bytes];
    for (size_t put = 0; put < n;) {
        ssize_t k = pwrite(p->fd, from + put, n - put, (off_t)(at + put));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return fail_write(p, k < 0 ? errno : EIO, e);
        put += (size_t)k;
    }
    c->print = nib_fingerprint(c->print, bytes, n);
    c->got += n;
    return NIB_OK;
}

nib_status nib_part_read(const nib_part *p, uint64_t at, void *bytes, size_t n, nib_error *e) {
    char *to = bytes;
    for (size_t got = 0; got < n;) {
        ssize_t k = pread(p->fd, to + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return nib_fail(e, NIB_ERR_IO, "cannot read '%.300s': %s", p->job->part,
                            k < 0 ? strerror(errno) : "it has become shorter");
        got += (size_t)k;
    }
    return NIB_OK;
}

/* ---- the journal ---- */

static const char *identity(const nib_fetch_job *job) {
    return *job->digest ? job->digest : *job->etag ? job->etag : "-";
}

static int format_head(const nib_part *p, char *out, size_t size) {
    return snprintf(out, size, "nib-part 1 %llu %llu %s\n", (unsigned long long)p->job->size,
                    (unsigned long long)p->chunk_bytes, identity(p->job));
}

static int format_note(const nib_part *p, size_t i, char *out, size_t size) {
    const nib_chunk *c = &p->chunks[i];
    return snprintf(out, size, "%zu %llu %016llx\n", i, (unsigned long long)c->got,
                    (unsigned long long)c->print);
}

nib_status nib_part_note(nib_part *p, size_t i, nib_error *e) {
    char line[80];
    if (p->chunks[i].noted == p->chunks[i].got) return NIB_OK;
    int n = format_note(p, i, line, sizeof line);
    if (write(p->journal, line, (size_t)n) != n) return fail_write(p, errno ? errno : EIO, e);
    p->chunks[i].noted = p->chunks[i].got;
    return NIB_OK;
}

/* Takes over what a journal says, as far as it is one of this very file: of one that has neither
 * hash nor ETag nobody can say. */
static void read_notes(nib_part *p, const nib_buf *text) {
    char head[512];
    if (strcmp(identity(p->job), "-") == 0) return;
    int n = format_head(p, head, sizeof head);
    if (n >= (int)sizeof head || text->len < (size_t)n || memcmp(text->data, head, (size_t)n) != 0)
        return;
    const char *end = text->data + text->len;
    for (const char *line = text->data + n, *stop; line < end; line = stop + 1) {
        stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) break; /* torn */
        unsigned long long index, got, print;
        char copy[80];
        snprintf(copy, sizeof copy, "%.*s", (int)NIB_MIN((size_t)(stop - line), sizeof copy - 1),
                 line);
        if (sscanf(copy, "%19llu %19llu %16llx", &index, &got, &print) != 3) continue;
        if (index >= p->n_chunks || got > nib_part_chunk_len(p, index)) continue;
        p->chunks[index].got = got;
        p->chunks[index].print = print;
    }
}

/* The journal anew, with the notes that hold. */
static nib_status write_journal(nib_part *p, const char *path, nib_error *e) {
    nib_buf text = {0};
    char line[512];
    format_head(p, line, sizeof line);
    nib_buf_puts(&text, line);
    for (size_t i = 0; i < p->n_chunks; i++) {
        p->chunks[i].noted = p->chunks[i].got;
        if (p->chunks[i].got == 0) continue;
        format_note(p, i, line, sizeof line);
        nib_buf_puts(&text, line);
    }
    nib_status s = text.failed ? nib_fail_nomem(e, text.len, "a journal")
                               : nib_file_write(path, text.data, text.len, e);
    nib_buf_free(&text);
    if (s != NIB_OK) return s;
    p->journal = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (p->journal < 0)
        return nib_fail(e, NIB_ERR_IO, "cannot open '%.300s': %s", path, strerror(errno));
    return NIB_OK;
}

/* ---- opening ---- */

nib_status nib_part_check(nib_part *p, const nib_hub *h, size_t *bad, nib_error *e) {
    enum { PIECE = 1 << 18 };
    nib_hub_progress report = {
        .stage = NIB_HUB_CHECKING, .file = p->job->name, .total = p->job->total};
    uint64_t seen = 0;
    char *piece = nib_alloc(PIECE);
    if (!piece) return nib_fail_nomem(e, PIECE, "checking what is here");
    nib_status s = NIB_OK;
    *bad = 0;
    for (size_t i = 0; i < p->n_chunks && s == NIB_OK; i++) {
        uint64_t print = print_start, at = (uint64_t)i * p->chunk_bytes;
        for (uint64_t k = 0; k < p->chunks[i].got && s == NIB_OK;) {
            size_t n = (size_t)NIB_MIN(p->chunks[i].got - k, (uint64_t)PIECE);
            s = nib_part_read(p, at + k, piece, n, e);
            print = nib_fingerprint(print, piece, n);
            k += n, seen += n;
            if (s == NIB_OK && nib_hub_cancelled(h))
                s = nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
            report.done = p->job->before + seen;
            if (h->progress) h->progress(h->progress_arg, &report);
        }
        if (s != NIB_OK || print == p->chunks[i].print) continue;
        nib_part_forget(p, i);
        ++*bad;
    }
    nib_free(piece);
    return s;
}

/* Chunks are small enough that a connection which breaks in one costs little, and few enough for a
 * short journal. */
static uint64_t choose_chunk(uint64_t size) {
    uint64_t chunk = 256 << 10;
    while (chunk < (uint64_t)8 << 20 && size / chunk >= 64) chunk *= 2;
    while (size / chunk >= 65536) chunk *= 2;
    return chunk;
}

/* Takes the room the file needs, so that a full disk is known now. Some file systems cannot. */
static nib_status take_room(nib_part *p, nib_error *e) {
    if (p->job->size == 0) return NIB_OK;
    int bad = fallocate(p->fd, 0, 0, (off_t)p->job->size) ? errno : 0;
    if (bad == EOPNOTSUPP || bad == ENOSYS || bad == EINVAL || bad == EINTR)
        bad = ftruncate(p->fd, (off_t)p->job->size) ? errno : 0;
    return bad ? fail_write(p, bad, e) : NIB_OK;
}

nib_status nib_part_open(nib_part *p, const nib_hub *h, const nib_fetch_job *job, nib_error *e) {
    nib_part fresh = {.job = job, .fd = -1, .journal = -1, .chunk_bytes = choose_chunk(job->size)};
    nib_buf text = {0};
    char path[NIB_HUB_PATH];
    nib_status s;
    fresh.n_chunks = (size_t)((job->size + fresh.chunk_bytes - 1) / fresh.chunk_bytes);
    NIB_TRY_OUT(nib_hub_path(path, e, "%s.journal", job->part));
    fresh.chunks = nib_calloc(fresh.n_chunks, sizeof *fresh.chunks);
    if (!fresh.chunks)
        NIB_TRY_OUT(nib_fail_nomem(e, fresh.n_chunks * sizeof *fresh.chunks, "a download"));
    for (size_t i = 0; i < fresh.n_chunks; i++) nib_part_forget(&fresh, i);
    fresh.fd = open(job->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fresh.fd < 0) {
        s = nib_fail(e, NIB_ERR_IO, "cannot write '%.300s': %s", job->part, strerror(errno));
        goto out;
    }
    struct stat st;
    bool whole = fstat(fresh.fd, &st) == 0 && (uint64_t)st.st_size == job->size;
    if (!whole && ftruncate(fresh.fd, 0)) NIB_TRY_OUT(fail_write(&fresh, errno, e));
    NIB_TRY_OUT(take_room(&fresh, e));
    size_t bad;
    if (whole && access(path, R_OK) == 0 && nib_file_read(path, 64 << 20, &text, NULL) == NIB_OK)
        read_notes(&fresh, &text);
    NIB_TRY_OUT(nib_part_check(&fresh, h, &bad, e));
    if (bad)
        nib_log(NIB_LOG_INFO, "%s: %zu chunks on the disk are damaged and fetched again", job->name,
                bad);
    NIB_TRY_OUT(write_journal(&fresh, path, e));
    nib_buf_free(&text);
    *p = fresh;
    return NIB_OK;
out:
    nib_buf_free(&text);
    nib_part_close(&fresh);
    return s;
}

void nib_part_close(nib_part *p) {
    if (p->fd >= 0) close(p->fd);
    if (p->journal >= 0) close(p->journal);
    nib_free(p->chunks);
    *p = (nib_part){.fd = -1, .journal = -1};
}
