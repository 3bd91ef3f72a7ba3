/* Hashes and authentication codes, and what tells one model from another.
 *
 * A model is told by all bytes of its files, through GMAC under the disk's own key: as fast as
 * memory, and nobody who does not know the key can make two files that are equal to it. Reading
 * gigabytes again with every start would be felt, so the result is written down under the files'
 * stamps (device, inode, size, times): a file that is written to, or replaced, has another. */
#include <fcntl.h>
#include <openssl/evp.h>
#include <time.h>
#include <unistd.h>
#include "kvdisk/internal.h"

void kv_hash(const kv_piece *pieces, size_t n, uint8_t out[16]) {
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    uint8_t all[EVP_MAX_MD_SIZE] = {0};
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;
    for (size_t i = 0; i < n && ok; i++) ok = EVP_DigestUpdate(c, pieces[i].p, pieces[i].n) == 1;
    ok = ok && EVP_DigestFinal_ex(c, all, NULL) == 1;
    EVP_MD_CTX_free(c);
    for (int i = 0; !ok && i < 2; i++) { /* out of memory: what nothing can match */
        uint64_t r = nib_entropy();
        memcpy(all + (size_t)8 * (size_t)i, &r, sizeof r);
    }
    memcpy(out, all, 16);
}

typedef struct seal {
    EVP_CIPHER_CTX *c;
    bool ok;
} seal;

static void seal_start(seal *s, const uint8_t key[16], const uint8_t nonce[12]) {
    s->c = EVP_CIPHER_CTX_new();
    s->ok = s->c && EVP_EncryptInit_ex(s->c, EVP_aes_128_gcm(), NULL, key, nonce) == 1;
}

static void seal_put(seal *s, const void *p, size_t n) {
    const uint8_t *at = p;
    while (n && s->ok) {
        int got, some = (int)NIB_MIN(n, (size_t)1 << 20);
        s->ok = EVP_EncryptUpdate(s->c, NULL, &got, at, some) == 1;
        at += some, n -= (size_t)some;
    }
}

static bool seal_end(seal *s, uint8_t out[16]) {
    int got;
    uint8_t none[16];
    s->ok = s->ok && EVP_EncryptFinal_ex(s->c, none, &got) == 1 &&
            EVP_CIPHER_CTX_ctrl(s->c, EVP_CTRL_GCM_GET_TAG, 16, out) == 1;
    EVP_CIPHER_CTX_free(s->c);
    return s->ok;
}

bool kv_seal(const uint8_t key[16], const uint8_t nonce[12], const kv_piece *pieces, size_t n,
             uint8_t out[16]) {
    seal s;
    seal_start(&s, key, nonce);
    for (size_t i = 0; i < n; i++) seal_put(&s, pieces[i].p, pieces[i].n);
    return seal_end(&s, out);
}

void kv_hex(const uint8_t *p, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", p[i]);
}

/* ---- models ---- */

typedef struct note {
    uint8_t hash[16], check[16]; /* check: a hash of name and hash under the key */
} note;

static void note_check(const nib_kvdisk *d, const uint8_t name[16], note *n) {
    kv_piece pieces[] = {{"model", 5}, {d->mac_key, 16}, {name, 16}, {n->hash, 16}};
    kv_hash(pieces, NIB_ARRAY_LEN(pieces), n->check);
}

static bool note_read(const nib_kvdisk *d, const char *path, const uint8_t name[16],
                      uint8_t out[16]) {
    note n, right;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return false;
    bool ok = kv_read_all(fd, &n, sizeof n);
    close(fd);
    if (!ok) return false;
    right = n;
    note_check(d, name, &right);
    if (memcmp(&n, &right, sizeof n) != 0) return false;
    memcpy(out, n.hash, 16);
    return true;
}

static void note_write(const nib_kvdisk *d, const char *path, const uint8_t name[16],
                       const uint8_t hash[16]) {
    note n;
    char temp[4096];
    memcpy(n.hash, hash, 16);
    note_check(d, name, &n);
    if (snprintf(temp, sizeof temp, "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof temp) return;
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    bool ok = kv_write_all(fd, &n, sizeof n);
    if (close(fd) || !ok || rename(temp, path)) unlink(temp);
}

/* Whether all files are still what was opened, and were not written to just before, within what
 * the clock of the file system can tell apart. */
static bool settled(const nib_gguf *g, bool *changed) {
    struct timespec now;
    bool old = true;
    clock_gettime(CLOCK_REALTIME, &now);
    *changed = false;
    for (int64_t i = 0; i < nib_gguf_n_parts(g); i++) {
        const char *path;
        const nib_filestamp *was = &nib_gguf_part(g, i, &path)->stamp;
        nib_filestamp is;
        /* gone or replaced: what is mapped is still what was opened */
        if (nib_file_stamp(path, &is, NULL) != NIB_OK || is.ino != was->ino || is.dev != was->dev)
            continue;
        *changed |= memcmp(&is, was, sizeof is) != 0;
        old &= was->ctime_ns / 1000000000u + 2 < (uint64_t)now.tv_sec;
    }
    return old && !*changed;
}

/* All bytes of all files, and how many there are in each. */
static nib_status hash_files(const nib_kvdisk *d, const nib_gguf *g, nib_kvdisk_progress progress,
                             void *arg, uint8_t out[16], nib_error *e) {
    enum { STEP = 8 << 20 };
    static const uint8_t nonce[12] = {0};
    const char *file;
    uint64_t done = 0, total = nib_gguf_file_bytes(g);
    bool go_on = true;
    seal s;
    seal_start(&s, d->mac_key, nonce);
    for (int64_t i = 0; i < nib_gguf_n_parts(g); i++) {
        const nib_filemap *map = nib_gguf_part(g, i, &file);
        uint64_t n = map->size;
        seal_put(&s, &n, sizeof n);
        for (size_t at = 0; at < map->size && go_on; at += STEP) {
            size_t some = NIB_MIN((size_t)STEP, map->size - at);
            seal_put(&s, map->data + at, some);
            nib_gguf_drop(g, map->data + at, some); /* the system has it, or it is not needed */
            go_on = !progress || progress(arg, done += some, total);
        }
    }
    if (!seal_end(&s, out)) return nib_fail(e, NIB_ERR_UNSUPPORTED, "OpenSSL has no AES-GCM here");
    return go_on ? NIB_OK : nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
}

nib_status kv_model_hash(nib_kvdisk *d, const nib_gguf *g, nib_kvdisk_progress progress, void *arg,
                         uint8_t out[16], nib_error *e) {
    nib_buf stamps = {0};
    uint8_t name[16];
    char path[4096], hex[33];
    const char *file;
    bool changed, fits = true;
    nib_buf_puts(&stamps, "stamps");
    for (int64_t i = 0; i < nib_gguf_n_parts(g); i++) {
        const nib_filestamp *stamp = &nib_gguf_part(g, i, &file)->stamp;
        nib_buf_put(&stamps, stamp, sizeof *stamp);
        fits &= stamp->ino != 0; /* no file, no stamp */
    }
    kv_hash(&(kv_piece){stamps.data, stamps.len}, 1, name);
    bool failed = stamps.failed;
    nib_buf_free(&stamps);
    if (failed) return nib_fail_nomem(e, 1, "a model's hash");
    kv_hex(name, 16, hex);
    fits &= snprintf(path, sizeof path, "%s/%s.model", d->folder, hex) < (int)sizeof path;
    if (fits && note_read(d, path, name, out)) return NIB_OK;
    NIB_TRY(hash_files(d, g, progress, arg, out, e));
    bool old = settled(g, &changed);
    if (changed)
        return nib_fail(e, NIB_ERR_IO, "'%s' was written to while it was open", nib_gguf_path(g));
    if (old && fits) note_write(d, path, name, out);
    return NIB_OK;
}
