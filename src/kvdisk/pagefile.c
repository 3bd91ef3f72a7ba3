/* The file of one page: a head, then the page.
 *
 *   magic     8  "nib-kv1\n"
 *   identity 16  of model and engine
 *   key      16  of the page; its hexadecimal form is the file's name
 *   nonce    12  random
 *   tokens    4  their number, NIB_PAGE
 *   bytes     8  of the page
 *   ids     256  the tokens
 *   code     16  GMAC of everything else, under the disk's key
 *
 * in this machine's order of bytes. Everything in the head is known to whoever reads it: the file
 * is the right one, or it is nothing. Nothing is taken from it, no size and no place, before the
 * code agrees, and then only the page. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kvdisk/internal.h"

typedef struct head {
    char magic[8];
    uint8_t identity[16], key[16], nonce[12];
    uint32_t n_tokens;
    uint64_t page_bytes;
    int32_t ids[NIB_PAGE];
    uint8_t code[16];
} head;
_Static_assert(sizeof(head) == 8 + 16 + 16 + 12 + 4 + 8 + 4 * NIB_PAGE + 16, "no padding");
static const char magic[8] = {'n', 'i', 'b', '-', 'k', 'v', '0' + KV_FORMAT, '\n'};

uint64_t kv_page_file_bytes(const kv_binding *b) {
    return sizeof(head) + (uint64_t)b->page_bytes;
}

bool kv_write_all(int fd, const void *p, size_t n) {
    for (const uint8_t *at = p; n;) {
        ssize_t k = write(fd, at, n);
        if (k <= 0) return false;
        at += k, n -= (size_t)k;
    }
    return true;
}

bool kv_read_all(int fd, void *p, size_t n) {
    for (uint8_t *at = p; n;) {
        ssize_t k = read(fd, at, n);
        if (k <= 0) return false;
        at += k, n -= (size_t)k;
    }
    return true;
}

static head head_of(const kv_binding *b, const nib_page_key *key, const int32_t *tokens) {
    head h = {.n_tokens = NIB_PAGE, .page_bytes = b->page_bytes};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.identity, b->identity, sizeof h.identity);
    memcpy(h.key, key->bytes, sizeof h.key);
    memcpy(h.ids, tokens, sizeof h.ids);
    return h;
}

static bool seal_of(const nib_kvdisk *d, const head *h, const void *page, size_t n,
                    uint8_t out[16]) {
    kv_piece pieces[] = {{h, offsetof(head, code)}, {page, n}};
    return kv_seal(d->mac_key, h->nonce, pieces, NIB_ARRAY_LEN(pieces), out);
}

static bool same(const uint8_t *a, const uint8_t *b, size_t n) {
    unsigned diff = 0;
    for (size_t i = 0; i < n; i++) diff |= (unsigned)(a[i] ^ b[i]);
    return diff == 0;
}

bool kv_page_read(const nib_kvdisk *d, const kv_binding *b, const char *path,
                  const nib_page_key *key, const int32_t *tokens, void *page, bool *refused) {
    struct stat st;
    head is, want = head_of(b, key, tokens);
    uint8_t code[16];
    *refused = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
              (uint64_t)st.st_size == kv_page_file_bytes(b) && kv_read_all(fd, &is, sizeof is);
    if (ok) {
        memcpy(want.nonce, is.nonce, sizeof want.nonce);
        ok = memcmp(&is, &want, offsetof(head, code)) == 0 && kv_read_all(fd, page, b->page_bytes);
    }
    close(fd);
    ok = ok && seal_of(d, &is, page, b->page_bytes, code) && same(code, is.code, sizeof code);
    *refused = !ok;
    if (!ok) unlink(path);
    return ok;
}

nib_status kv_page_write(const nib_kvdisk *d, const kv_binding *b, const char *temp,
                         const nib_page_key *key, const int32_t *tokens, const void *page,
                         nib_error *e) {
    head h = head_of(b, key, tokens);
    uint64_t random[2] = {nib_entropy(), nib_entropy()};
    memcpy(h.nonce, random, sizeof h.nonce);
    if (!seal_of(d, &h, page, b->page_bytes, h.code))
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "OpenSSL has no AES-GCM here");
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", temp, strerror(errno));
    bool ok = kv_write_all(fd, &h, sizeof h) && kv_write_all(fd, page, b->page_bytes);
    int reason = errno;
    ok = close(fd) == 0 && ok;
    if (ok) return NIB_OK;
    unlink(temp);
    return nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", temp, strerror(reason));
}
