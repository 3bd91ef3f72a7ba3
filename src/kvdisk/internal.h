/* What the files of kvdisk share. */
#ifndef NIB_KVDISK_INTERNAL_H
#define NIB_KVDISK_INTERNAL_H
#include <pthread.h>
#include "kvdisk/kvdisk.h"

enum { KV_FORMAT = 1 }; /* of the files; raised when they change */

typedef struct kv_binding {
    struct kv_binding *next;
    nib_kvdisk *disk;
    uint8_t identity[16];
    size_t page_bytes;
} kv_binding;

struct nib_kvdisk {
    char *root, *folder; /* folder: root's part for this version and secret */
    uint8_t mac_key[16]; /* of files */
    uint64_t max_bytes;
    pthread_mutex_t lock; /* what follows, and renaming and removing files */
    kv_binding *bindings;
    uint64_t bytes;
    bool counted, complained;
    int64_t *dead; /* owners that were forgotten */
    size_t n_dead, cap_dead;
    atomic_ullong n_read, n_written, n_refused;
};

/* ---- hashes and codes (seal.c) ---- */

/* SHA-256's first 16 bytes, of the pieces one after the other. */
typedef struct kv_piece {
    const void *p;
    size_t n;
} kv_piece;
void kv_hash(const kv_piece *pieces, size_t n, uint8_t out[16]);
/* An authentication code (GMAC: AES-GCM without anything to encrypt) over pieces; 8 GB/s. */
bool kv_seal(const uint8_t key[16], const uint8_t nonce[12], const kv_piece *pieces, size_t n,
             uint8_t out[16]);
/* The hash of all files of a model under the disk's key: remembered, or computed. */
nib_status kv_model_hash(nib_kvdisk *d, const nib_gguf *g, nib_kvdisk_progress progress, void *arg,
                         uint8_t out[16], nib_error *e);

/* ---- one page's file (pagefile.c) ---- */

/* False: there is none; one that is not what it should be is removed, and *refused is set. */
bool kv_page_read(const nib_kvdisk *d, const kv_binding *b, const char *path,
                  const nib_page_key *key, const int32_t *tokens, void *page, bool *refused);
/* Writes it beside its place, under 'temp'. */
nib_status kv_page_write(const nib_kvdisk *d, const kv_binding *b, const char *temp,
                         const nib_page_key *key, const int32_t *tokens, const void *page,
                         nib_error *e);
uint64_t kv_page_file_bytes(const kv_binding *b);
/* All n bytes, or false. */
bool kv_write_all(int fd, const void *p, size_t n);
bool kv_read_all(int fd, void *p, size_t n);
void kv_hex(const uint8_t *p, size_t n, char *out); /* out: 2n + 1 */
#endif
