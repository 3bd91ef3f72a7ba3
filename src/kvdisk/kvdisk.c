/* The folder of pages: whose they are, how much there is, what goes when it is too much.
 *
 *   ROOT/v1.1-5e0c8a41/            of this format, this NIB_KV_VERSION and this secret; others go
 *     <hash of stamps>.model      the hash of a model's files (seal.c)
 *     17/<key>.kv                 a page of conversation 17 (pagefile.c)
 *
 * A page's file is written beside its place and renamed, so it is whole or not there; it is not
 * forced to the disk, since what a crash leaves of it is noticed. A conversation's folder is
 * touched whenever a page of it is written or read, so its time says how long it was not used. The
 * whole conversation goes at once: a page without those before it is of no use. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include "kvdisk/internal.h"

enum { PATH_ROOM = 4096 };

/* ---- names ---- */

static bool owner_path(const nib_kvdisk *d, int64_t owner, char out[PATH_ROOM]) {
    return snprintf(out, PATH_ROOM, "%s/%lld", d->folder, (long long)owner) < PATH_ROOM - 80;
}

static bool page_path(const nib_kvdisk *d, int64_t owner, const nib_page_key *key,
                      char out[PATH_ROOM]) {
    char hex[2 * sizeof key->bytes + 1];
    if (owner <= 0 || !owner_path(d, owner, out)) return false;
    kv_hex(key->bytes, sizeof key->bytes, hex);
    size_t n = strlen(out);
    snprintf(out + n, PATH_ROOM - n, "/%s.kv", hex);
    return true;
}

/* The owner that a folder is named after; 0: it is no owner's. */
static int64_t owner_of(const char *name) {
    size_t n = strspn(name, "0123456789");
    return n && n < 19 && !name[n] && name[0] != '0' ? strtoll(name, NULL, 10) : 0;
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Files that only we make. */
static bool is_ours(const char *name) {
    return ends_with(name, ".kv") || ends_with(name, ".tmp") || ends_with(name, ".model");
}

/* ---- what is there ---- */

/* A folder, but no link to one. */
static DIR *open_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0) close(fd);
    return dir;
}

/* Removes a folder with our files in it. */
static void remove_folder(const char *path) {
    DIR *dir = open_folder(path);
    if (!dir) return;
    for (struct dirent *f; (f = readdir(dir));)
        if (is_ours(f->d_name)) unlinkat(dirfd(dir), f->d_name, 0);
    closedir(dir);
    rmdir(path);
}

/* Files that were never finished: whoever wrote them has gone. */
static void remove_unfinished(const char *path) {
    enum { LONG_AGO = 600 };
    struct stat st;
    DIR *dir = open_folder(path);
    if (!dir) return;
    for (struct dirent *f; (f = readdir(dir));)
        if (ends_with(f->d_name, ".tmp") &&
            fstatat(dirfd(dir), f->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            time(NULL) - st.st_mtime > LONG_AGO)
            unlinkat(dirfd(dir), f->d_name, 0);
    closedir(dir);
}

typedef struct usage {
    int64_t owner;
    uint64_t bytes, used_ns;
} usage;

static void measure(const char *path, usage *u) {
    struct stat st;
    nib_filestamp stamp;
    if (nib_file_stamp(path, &stamp, NULL) == NIB_OK) u->used_ns = stamp.mtime_ns;
    DIR *dir = open_folder(path);
    if (!dir) return;
    for (struct dirent *f; (f = readdir(dir));)
        if (is_ours(f->d_name) && fstatat(dirfd(dir), f->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            u->bytes += (uint64_t)st.st_size;
    closedir(dir);
}

/* All owners with files. out: nib_alloc'ed. */
static size_t measure_all(const nib_kvdisk *d, usage **out) {
    char path[PATH_ROOM];
    usage *all = NULL;
    size_t n = 0, cap = 0;
    DIR *dir = open_folder(d->folder);
    *out = NULL;
    if (!dir) return 0;
    for (struct dirent *f; (f = readdir(dir));) {
        usage u = {.owner = owner_of(f->d_name)};
        if (!u.owner || !owner_path(d, u.owner, path)) continue;
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            usage *grown = nib_realloc(all, cap * sizeof *all);
            if (!grown) break;
            all = grown;
        }
        measure(path, &u);
        all[n++] = u;
    }
    closedir(dir);
    *out = all;
    return n;
}

static int by_use(const void *a, const void *b) {
    const usage *x = a, *y = b;
    return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

/* With the lock held: counts what is there, and makes room for 'need' bytes of 'owner', at the cost
 * of others. False: there is none. */
static bool make_room(nib_kvdisk *d, uint64_t need, int64_t owner) {
    char path[PATH_ROOM];
    usage *all;
    if (need > d->max_bytes) return false;
    if (d->counted && d->bytes <= d->max_bytes - need) return true;
    size_t n = measure_all(d, &all); /* other processes write here too */
    if (n) qsort(all, n, sizeof *all, by_use);
    d->bytes = 0;
    for (size_t i = 0; i < n; i++) d->bytes += all[i].bytes;
    for (size_t i = 0; i < n && d->bytes > d->max_bytes - need; i++) {
        if (all[i].owner == owner || !owner_path(d, all[i].owner, path)) continue;
        remove_folder(path);
        d->bytes -= all[i].bytes;
    }
    nib_free(all);
    d->counted = true;
    return d->bytes <= d->max_bytes - need;
}

static bool is_dead(const nib_kvdisk *d, int64_t owner) {
    for (size_t i = 0; i < d->n_dead; i++)
        if (d->dead[i] == owner) return true;
    return false;
}

/* ---- the page store ---- */

static void name_page(void *arg, const nib_page_key *before, const int32_t *tokens,
                      nib_page_key *out) {
    const kv_binding *b = arg;
    kv_piece pieces[] = {{b->identity, sizeof b->identity},
                         {before->bytes, sizeof before->bytes},
                         {tokens, NIB_PAGE * sizeof *tokens}};
    kv_hash(pieces, NIB_ARRAY_LEN(pieces), out->bytes);
}

static bool fetch_page(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                       void *page) {
    const kv_binding *b = arg;
    nib_kvdisk *d = b->disk;
    char path[PATH_ROOM];
    bool refused;
    if (!page_path(d, owner, key, path)) return false;
    bool found = kv_page_read(d, b, path, key, tokens, page, &refused);
    atomic_fetch_add(&d->n_refused, refused);
    atomic_fetch_add(&d->n_read, found);
    if (found && owner_path(d, owner, path)) utimensat(AT_FDCWD, path, NULL, 0);
    return found;
}

static void complain(nib_kvdisk *d, const char *why) {
    pthread_mutex_lock(&d->lock);
    bool again = d->complained;
    d->complained = true;
    pthread_mutex_unlock(&d->lock);
    if (!again) nib_log(NIB_LOG_WARN, "conversations' caches are not kept on disk: %s", why);
}

static bool keep_page(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                      const void *page) {
    static atomic_uint serial;
    const kv_binding *b = arg;
    nib_kvdisk *d = b->disk;
    char path[PATH_ROOM], temp[PATH_ROOM + 32];
    nib_error e;
    if (!page_path(d, owner, key, path)) return false;
    if (access(path, F_OK) == 0) return true;
    pthread_mutex_lock(&d->lock);
    bool may = !is_dead(d, owner) && make_room(d, kv_page_file_bytes(b), owner);
    if (may && owner_path(d, owner, temp) && mkdir(temp, 0700) && errno == ENOENT) {
        mkdir(d->folder, 0700); /* somebody tidied up */
        mkdir(temp, 0700);
    }
    pthread_mutex_unlock(&d->lock);
    if (!may) return false;
    snprintf(temp, sizeof temp, "%s.%ld-%u.tmp", path, (long)getpid(),
             atomic_fetch_add(&serial, 1));
    if (kv_page_write(d, b, temp, key, tokens, page, &e) != NIB_OK) {
        complain(d, e.message);
        return false;
    }
    pthread_mutex_lock(&d->lock);
    bool kept = !is_dead(d, owner) && rename(temp, path) == 0;
    if (kept) d->bytes += kv_page_file_bytes(b);
    if (!kept) unlink(temp);
    pthread_mutex_unlock(&d->lock);
    atomic_fetch_add(&d->n_written, kept);
    return kept;
}

nib_status nib_kvdisk_bind(nib_kvdisk *d, const uint8_t identity[16], size_t page_bytes,
                           nib_page_store *out, nib_error *e) {
    kv_binding *b = nib_calloc(1, sizeof *b);
    if (!b) return nib_fail_nomem(e, sizeof *b, "a page store");
    b->disk = d;
    b->page_bytes = page_bytes;
    memcpy(b->identity, identity, sizeof b->identity);
    pthread_mutex_lock(&d->lock);
    b->next = d->bindings;
    d->bindings = b;
    pthread_mutex_unlock(&d->lock);
    *out = (nib_page_store){b, name_page, fetch_page, keep_page};
    return NIB_OK;
}

nib_status nib_kvdisk_attach(nib_kvdisk *d, nib_engine *en, nib_kvdisk_progress progress, void *arg,
                             nib_error *e) {
    uint8_t model[16], identity[16];
    nib_page_store store;
    nib_buf traits = {0};
    NIB_TRY(kv_model_hash(d, nib_model_gguf(nib_engine_model(en)), progress, arg, model, e));
    nib_engine_kv_traits(en, &traits);
    if (traits.failed) {
        nib_buf_free(&traits);
        return nib_fail_nomem(e, 1, "a page store");
    }
    kv_piece pieces[] = {{"identity", 8}, {model, sizeof model}, {traits.data, traits.len}};
    kv_hash(pieces, NIB_ARRAY_LEN(pieces), identity);
    nib_buf_free(&traits);
    NIB_TRY(nib_kvdisk_bind(d, identity, nib_engine_page_bytes(en), &store, e));
    return nib_engine_set_store(en, &store, e);
}

/* ---- conversations that go ---- */

void nib_kvdisk_forget(nib_kvdisk *d, int64_t owner) {
    char path[PATH_ROOM];
    pthread_mutex_lock(&d->lock);
    if (d->n_dead == d->cap_dead) {
        size_t cap = d->cap_dead ? d->cap_dead * 2 : 16;
        int64_t *grown = nib_realloc(d->dead, cap * sizeof *grown);
        if (grown) d->dead = grown, d->cap_dead = cap;
    }
    if (d->n_dead < d->cap_dead) d->dead[d->n_dead++] = owner;
    if (owner > 0 && owner_path(d, owner, path)) remove_folder(path);
    d->counted = false;
    pthread_mutex_unlock(&d->lock);
}

void nib_kvdisk_sweep(nib_kvdisk *d, bool (*lives)(void *arg, int64_t owner), void *arg) {
    char path[PATH_ROOM];
    usage *all;
    pthread_mutex_lock(&d->lock);
    size_t n = measure_all(d, &all);
    for (size_t i = 0; i < n; i++) {
        if (!owner_path(d, all[i].owner, path)) continue;
        if (lives(arg, all[i].owner))
            remove_unfinished(path);
        else
            remove_folder(path);
    }
    nib_free(all);
    d->counted = false;
    make_room(d, 0, 0);
    pthread_mutex_unlock(&d->lock);
}

nib_kvdisk_stats nib_kvdisk_get_stats(nib_kvdisk *d) {
    pthread_mutex_lock(&d->lock);
    nib_kvdisk_stats s = {.bytes = d->bytes, .max_bytes = d->max_bytes};
    pthread_mutex_unlock(&d->lock);
    s.n_read = atomic_load(&d->n_read);
    s.n_written = atomic_load(&d->n_written);
    s.n_refused = atomic_load(&d->n_refused);
    return s;
}

/* ---- opening ---- */

/* Other versions' folders, and those of another secret: nothing in them can ever match again. */
static void remove_others(const nib_kvdisk *d) {
    char path[PATH_ROOM], inner[PATH_ROOM];
    const char *mine = strrchr(d->folder, '/') + 1;
    DIR *dir = open_folder(d->root);
    if (!dir) return;
    for (struct dirent *f; (f = readdir(dir));) {
        int tail = 0, end = 0;
        sscanf(f->d_name, "v%*u.%*u-%n%*8[0-9a-f]%n", &tail, &end);
        if (!end || end - tail != 8 || f->d_name[end] || strcmp(f->d_name, mine) == 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", d->root, f->d_name) >= (int)sizeof path - 32)
            continue;
        DIR *other = open_folder(path);
        for (struct dirent *g; other && (g = readdir(other));)
            if (owner_of(g->d_name) &&
                snprintf(inner, sizeof inner, "%s/%s", path, g->d_name) < (int)sizeof inner)
                remove_folder(inner);
        if (other) closedir(other);
        remove_folder(path);
    }
    closedir(dir);
}

nib_status nib_kvdisk_open(nib_kvdisk **out, const char *folder, const uint8_t secret[16],
                           uint64_t max_bytes, nib_error *e) {
    nib_kvdisk *d = nib_calloc(1, sizeof *d);
    nib_buf path = {0};
    uint8_t name[16];
    char hex[9];
    struct statvfs fs;
    if (!d) return nib_fail_nomem(e, sizeof *d, "conversations' caches");
    pthread_mutex_init(&d->lock, NULL);
    kv_hash((kv_piece[]){{"name", 4}, {secret, 16}}, 2, name);
    kv_hash((kv_piece[]){{"code", 4}, {secret, 16}}, 2, d->mac_key);
    kv_hex(name, 4, hex);
    nib_buf_printf(&path, "%s/v%d.%d-%s", folder, KV_FORMAT, NIB_KV_VERSION, hex);
    d->root = nib_strdup(folder);
    d->folder = path.data;
    nib_status s = NIB_OK;
    if (path.failed || !d->root) s = nib_fail_nomem(e, path.len, "conversations' caches");
    if (s == NIB_OK && strlen(folder) > PATH_ROOM - 256)
        s = nib_fail(e, NIB_ERR_ARGUMENT, "the folder's name is too long: '%.60s...'", folder);
    if (s == NIB_OK &&
        ((mkdir(folder, 0700) && errno != EEXIST) || (mkdir(d->folder, 0700) && errno != EEXIST)))
        s = nib_fail(e, NIB_ERR_IO, "cannot make the folder '%s': %s", d->folder, strerror(errno));
    if (s != NIB_OK) {
        nib_kvdisk_close(d);
        return s;
    }
    remove_others(d);
    d->max_bytes = max_bytes;
    if (max_bytes == NIB_KVDISK_AUTO) {
        d->max_bytes = (uint64_t)2 << 30;
        if (statvfs(d->folder, &fs) == 0)
            d->max_bytes = NIB_MIN(d->max_bytes, (uint64_t)fs.f_bavail * fs.f_frsize / 20);
    }
    *out = d;
    return NIB_OK;
}

void nib_kvdisk_close(nib_kvdisk *d) {
    if (!d) return;
    while (d->bindings) {
        kv_binding *next = d->bindings->next;
        nib_free(d->bindings);
        d->bindings = next;
    }
    pthread_mutex_destroy(&d->lock);
    nib_free(d->root);
    nib_free(d->folder);
    nib_free(d->dead);
    nib_free(d);
}
