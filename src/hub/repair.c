/* The damage nobody noticed: the disk holds exactly what was received, and the hash is wrong.
 *
 * A hub gives one hash of the whole file, so what is wrong cannot be known beforehand. Chunk after
 * chunk is fetched once more, alone and in order, and where the server now says something else it
 * is written over what is here. After each replacement the rest of the file, as it is, is hashed on
 * from there: when that gives the right hash, nothing further is fetched. */
#include "hub/internal.h"

static nib_status put_rest(const nib_hub *h, const nib_part *p, size_t from, nib_digest *d,
                           char *piece, nib_error *e) {
    for (size_t i = from; i < p->n_chunks; i++) {
        size_t n = (size_t)nib_part_chunk_len(p, i);
        NIB_TRY(nib_part_read(p, (uint64_t)i * p->chunk_bytes, piece, n, e));
        nib_digest_put(d, piece, n);
        if (nib_hub_cancelled(h)) return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
    }
    return NIB_OK;
}

/* The chunk as the server has it now; replaces what is here where they differ. */
static nib_status fetch_again(const nib_hub *h, nib_part *p, size_t i, nib_buf *now, char *piece,
                              bool *changed, nib_error *e) {
    uint64_t at = (uint64_t)i * p->chunk_bytes;
    size_t n = (size_t)nib_part_chunk_len(p, i);
    char range[64];
    nib_http_head head;
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)at,
             (unsigned long long)at + n - 1);
    NIB_TRY(nib_http_get(h, p->job->url, range, p->job->name, n, now, &head, e));
    if (now->len != n || !head.has_range || head.from != at)
        return nib_fail(e, NIB_ERR_IO, "%s: the server sent another range than was asked for",
                        p->job->name);
    NIB_TRY(nib_part_read(p, at, piece, n, e));
    *changed = memcmp(piece, now->data, n) != 0;
    if (!*changed) return NIB_OK;
    nib_part_forget(p, i);
    NIB_TRY(nib_part_write(p, at, now->data, n, e));
    return nib_part_note(p, i, e);
}

nib_status nib_repair(const nib_hub *h, nib_part *p, char digest[65], nib_error *e) {
    nib_digest sum = {0}, rest = {0};
    nib_buf now = {.max = (size_t)p->chunk_bytes + 64};
    nib_hub_progress report = {
        .stage = NIB_HUB_REPAIRING, .file = p->job->name, .total = p->job->total};
    nib_status s;
    char *piece = nib_alloc((size_t)p->chunk_bytes);
    if (!piece) NIB_TRY_OUT(nib_fail_nomem(e, (size_t)p->chunk_bytes, "repairing a download"));
    NIB_TRY_OUT(nib_digest_start(&sum, p->job->digest, p->job->size, e));
    for (size_t i = 0; i < p->n_chunks; i++) {
        bool changed;
        report.done = p->job->before + (uint64_t)i * p->chunk_bytes;
        if (h->progress) h->progress(h->progress_arg, &report);
        NIB_TRY_OUT(fetch_again(h, p, i, &now, piece, &changed, e));
        nib_digest_put(&sum, now.data, now.len);
        if (!changed) continue;
        nib_log(NIB_LOG_WARN, "%s: chunk %zu of %zu was damaged and is replaced", p->job->name,
                i + 1, p->n_chunks);
        NIB_TRY_OUT(nib_digest_copy(&rest, &sum, e));
        NIB_TRY_OUT(put_rest(h, p, i + 1, &rest, piece, e));
        nib_digest_end(&rest, digest);
        if (strcmp(digest, p->job->digest) == 0) break;
    }
    s = NIB_OK;
out:
    nib_digest_free(&sum);
    nib_digest_free(&rest);
    nib_buf_free(&now);
    nib_free(piece);
    return s;
}
