/* Hashes by which the hub knows its files: SHA-256 of large ones; of small ones what git calls a
 * blob, SHA-1 over "blob <size>", a NUL and the bytes. OpenSSL computes both. */
#include <fcntl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <unistd.h>
#include "hub/internal.h"

bool nib_is_hex(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!(s[i] >= '0' && s[i] <= '9') && !(s[i] >= 'a' && s[i] <= 'f')) return false;
    return s[n] == 0;
}

nib_status nib_digest_start(nib_digest *d, const char *expected, uint64_t size, nib_error *e) {
    bool git = strlen(expected) == 40;
    d->ctx = EVP_MD_CTX_new();
    if (!d->ctx || EVP_DigestInit_ex(d->ctx, git ? EVP_sha1() : EVP_sha256(), NULL) != 1) {
        nib_digest_free(d);
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "OpenSSL has no %s here",
                        git ? "SHA-1" : "SHA-256");
    }
    if (git) {
        char head[40];
        int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)size);
        nib_digest_put(d, head, (size_t)n + 1);
    }
    return NIB_OK;
}

void nib_digest_put(nib_digest *d, const void *p, size_t n) {
    EVP_DigestUpdate(d->ctx, p, n);
}

nib_status nib_digest_copy(nib_digest *to, const nib_digest *from, nib_error *e) {
    to->ctx = EVP_MD_CTX_new();
    if (!to->ctx || EVP_MD_CTX_copy_ex(to->ctx, from->ctx) != 1) {
        nib_digest_free(to);
        return nib_fail_nomem(e, 256, "a hash");
    }
    return NIB_OK;
}

void nib_digest_end(nib_digest *d, char out[65]) {
    unsigned char md[EVP_MAX_MD_SIZE] = {0};
    unsigned n = 0;
    EVP_DigestFinal_ex(d->ctx, md, &n);
    for (unsigned i = 0; i < n && i < 32; i++) snprintf(out + (size_t)2 * i, 3, "%02x", md[i]);
    nib_digest_free(d);
}

void nib_digest_free(nib_digest *d) {
    EVP_MD_CTX_free(d->ctx);
    d->ctx = NULL;
}

nib_status nib_digest_file(const nib_hub *h, const char *path, const char *expected,
                           nib_hub_progress *p, char out[65], nib_error *e) {
    enum { PIECE = 1 << 20 };
    uint64_t size;
    if (!nib_hub_file_size(path, &size))
        return nib_fail(e, NIB_ERR_NOT_FOUND, "cannot open '%.300s': %s", path, strerror(errno));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nib_fail(e, NIB_ERR_IO, "cannot open '%.300s': %s", path, strerror(errno));
    nib_digest d = {0};
    char *piece = nib_alloc(PIECE);
    nib_status s = piece ? nib_digest_start(&d, expected, size, e)
                         : nib_fail_nomem(e, PIECE, "reading a file");
    for (ssize_t n = 1; s == NIB_OK && n > 0;) {
        n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR) {
            n = 1;
            continue;
        }
        if (n < 0) {
            s = nib_fail(e, NIB_ERR_IO, "cannot read '%.300s': %s", path, strerror(errno));
        } else {
            nib_digest_put(&d, piece, (size_t)n);
            if (nib_hub_cancelled(h)) s = nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
            if (p) {
                p->done += (uint64_t)n;
                if (h->progress) h->progress(h->progress_arg, p);
            }
        }
    }
    if (s == NIB_OK) nib_digest_end(&d, out);
    nib_digest_free(&d);
    nib_free(piece);
    close(fd);
    return s;
}

void nib_hub_blob_digest(const char *path, char out[65]) {
    char blob[NIB_HUB_PATH];
    ssize_t n = readlink(path, blob, sizeof blob - 1);
    out[0] = 0;
    if (n <= 64) return;
    blob[n] = 0;
    const char *base = strrchr(blob, '/') ? strrchr(blob, '/') + 1 : blob;
    if (strlen(base) == 64 && nib_is_hex(base, 64)) memcpy(out, base, 65);
}

nib_status nib_hub_sha256(const char *path, const atomic_bool *cancel, char out[65], nib_error *e) {
    nib_hub h = {.cancel = cancel};
    return nib_digest_file(&h, path, "", NULL, out, e);
}
