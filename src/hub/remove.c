/* Taking models away, clearing what pulls left unfinished, and hashing what is here again. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hub/internal.h"

/* Whether name is the model's file, or one of its parts. */
static bool is_of(const nib_hub_model *m, const char *name) {
    size_t stem, k;
    int part, parts, total;
    if (!*m->file) { /* a folder of safetensors: all but GGUF models */
        size_t n = strlen(name);
        return n < 5 || strcasecmp(name + n - 5, ".gguf") != 0;
    }
    if (strcmp(m->file, name) == 0) return true;
    return nib_hub_split_of(m->file, &stem, &part, &parts) &&
           nib_hub_split_of(name, &k, &part, &total) && k == stem && total == parts &&
           strncmp(name, m->file, stem) == 0;
}

/* ---- removing ---- */

typedef struct removal {
    const nib_hub *h;
    const nib_hub_model *m;
    char repo[NIB_HUB_PATH], snapshots[NIB_HUB_PATH];
    const char *file, *blob; /* being removed */
    bool needed;             /* by another file */
    uint64_t freed;
} removal;

/* The blob a link leads to: blobs/NAME of this repo; nothing else is ever removed. */
static bool blob_of(const removal *r, const char *link, char *blob) {
    char target[NIB_HUB_PATH];
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = 0;
    const char *base = strrchr(target, '/');
    if (!base || base - target < 5 || strncmp(base - 5, "blobs", 5) != 0) return false;
    return nib_hub_name_ok(base + 1, strlen(base + 1)) &&
           nib_hub_path(blob, NULL, "%s/blobs/%s", r->repo, base + 1) == NIB_OK;
}

static nib_status cannot_remove(const char *path, nib_error *e) {
    return nib_fail(e, NIB_ERR_IO, "cannot remove '%.300s': %s", path, strerror(errno));
}

/* Every link to the blob: those of the file go, in whatever commit; others keep the blob alive. */
static nib_status remove_links(void *arg, const char *path, const char *name, nib_error *e) {
    removal *r = arg;
    char blob[NIB_HUB_PATH];
    if (!blob_of(r, path, blob) || strcmp(blob, r->blob) != 0) return NIB_OK;
    const char *in = strchr(name, '/'); /* COMMIT/FILE */
    if (!in || strcmp(in + 1, r->file) != 0)
        r->needed = true;
    else if (unlink(path) != 0)
        return cannot_remove(path, e);
    return NIB_OK;
}

static nib_status remove_file(void *arg, const char *path, const char *name, nib_error *e) {
    removal *r = arg;
    char blob[NIB_HUB_PATH];
    struct stat st;
    if (!is_of(r->m, name) || lstat(path, &st) != 0) return NIB_OK;
    if (!S_ISLNK(st.st_mode)) {
        if (unlink(path) != 0) return cannot_remove(path, e);
        r->freed += (uint64_t)st.st_blocks * 512;
        return NIB_OK;
    }
    if (!blob_of(r, path, blob)) return NIB_OK;
    int lock;
    const char *base = strrchr(blob, '/') + 1;
    NIB_TRY(nib_hub_lock(r->h, r->m->repo, base, false, NULL, &lock, e));
    if (lock < 0) return nib_fail(e, NIB_ERR_IO, "%.100s is being pulled by another process", name);
    r->file = name;
    r->blob = blob;
    r->needed = false;
    nib_status s = nib_hub_walk(r->snapshots, remove_links, r, e);
    if (s == NIB_OK && !r->needed && lstat(blob, &st) == 0) {
        if (unlink(blob) != 0)
            s = cannot_remove(blob, e);
        else
            r->freed += (uint64_t)st.st_blocks * 512;
    }
    nib_hub_unlock(lock);
    return s;
}

/* Removes the folders under dir that hold nothing, and dir. */
static void remove_empty(const char *dir, int depth) {
    DIR *d = opendir(dir);
    for (struct dirent *item; d && depth && (item = readdir(d));) {
        char path[NIB_HUB_PATH];
        struct stat st;
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
        if (nib_hub_path(path, NULL, "%s/%s", dir, item->d_name) == NIB_OK &&
            lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
            remove_empty(path, depth - 1);
    }
    if (d) closedir(d);
    rmdir(dir); /* one with files in it stays */
}

static nib_status remove_ref(void *arg, const char *path, const char *name, nib_error *e) {
    (void)arg, (void)name, (void)e;
    unlink(path);
    return NIB_OK;
}

nib_status nib_hub_remove(const nib_hub *h, const nib_hub_model *m, uint64_t *freed, nib_error *e) {
    removal *r = nib_calloc(1, sizeof *r);
    char path[NIB_HUB_PATH];
    struct stat st;
    nib_status s;
    if (!r) return nib_fail_nomem(e, sizeof *r, "removing a model");
    r->h = h;
    r->m = m;
    NIB_TRY_OUT(nib_hub_repo_dir(h, m->repo, r->repo, e));
    NIB_TRY_OUT(nib_hub_path(r->snapshots, e, "%s/snapshots", r->repo));
    NIB_TRY_OUT(nib_hub_path(path, e, "%s/%s", r->snapshots, m->commit));
    NIB_TRY_OUT(nib_hub_walk(path, remove_file, r, e));
    remove_empty(r->snapshots, 8);
    if (stat(r->snapshots, &st) != 0) { /* nothing of the repo is left */
        NIB_TRY_OUT(nib_hub_path(path, e, "%s/refs", r->repo));
        NIB_TRY_OUT(nib_hub_walk(path, remove_ref, NULL, e));
        remove_empty(r->repo, 8);
    }
    *freed = r->freed;
out:
    nib_free(r);
    return s;
}

/* ---- unfinished downloads ---- */

typedef struct leftovers {
    const nib_hub *h;
    bool remove;
    uint64_t bytes;
    int n;
    char repo[NIB_HUB_NAME];
} leftovers;

static nib_status see_part(void *arg, const char *path, const char *name, nib_error *e) {
    leftovers *l = arg;
    struct stat st;
    const char *end = strstr(name, ".nib-part");
    if (!end || strchr(name, '/') || lstat(path, &st) != 0) return NIB_OK;
    char blob[NIB_HUB_NAME];
    int lock = -1;
    snprintf(blob, sizeof blob, "%.*s", (int)NIB_MIN((size_t)(end - name), sizeof blob - 1), name);
    if (l->remove) {
        NIB_TRY(nib_hub_lock(l->h, l->repo, blob, false, NULL, &lock, e));
        if (lock < 0) return NIB_OK; /* under way */
        nib_status s = unlink(path) == 0 ? NIB_OK : cannot_remove(path, e);
        nib_hub_unlock(lock);
        NIB_TRY(s);
    }
    l->bytes += (uint64_t)st.st_blocks * 512;
    l->n += strcmp(end, ".nib-part") == 0;
    return NIB_OK;
}

nib_status nib_hub_unfinished(const nib_hub *h, bool remove, uint64_t *bytes, int *n,
                              nib_error *e) {
    leftovers l = {.h = h, .remove = remove};
    nib_status s = NIB_OK;
    DIR *d = opendir(h->cache);
    for (struct dirent *item; d && s == NIB_OK && (item = readdir(d));) {
        char dir[NIB_HUB_PATH];
        if (strncmp(item->d_name, "models--", 8) != 0) continue;
        const char *from = item->d_name + 8, *cut = strstr(from, "--");
        if (!cut || nib_hub_path(dir, NULL, "%s/%s/blobs", h->cache, item->d_name) != NIB_OK)
            continue;
        snprintf(l.repo, sizeof l.repo, "%.*s/%s", (int)(cut - from), from, cut + 2);
        s = nib_hub_walk(dir, see_part, &l, e);
        if (l.remove && l.n) remove_empty(dir, 1);
    }
    if (d) closedir(d);
    if (s != NIB_OK) return s;
    *bytes = l.bytes;
    *n = l.n;
    return NIB_OK;
}

/* ---- hashing again ---- */

typedef struct check {
    const nib_hub *h;
    const nib_hub_model *m;
    nib_hub_progress progress;
    int known;
} check;

static nib_status hash_file(void *arg, const char *path, const char *name, nib_error *e) {
    check *c = arg;
    char blob[NIB_HUB_PATH], found[65];
    uint64_t size;
    if (!is_of(c->m, name)) return NIB_OK;
    if (!nib_hub_file_size(path, &size))
        return nib_fail(e, NIB_ERR_FORMAT, "%.200s: the link leads to nothing", name);
    /* The blob's name is the hash its bytes must have. */
    ssize_t n = readlink(path, blob, sizeof blob - 1);
    if (n <= 0) return NIB_OK;
    blob[n] = 0;
    const char *base = strrchr(blob, '/') ? strrchr(blob, '/') + 1 : blob;
    size_t digits = strlen(base);
    if ((digits != 64 && digits != 40) || !nib_is_hex(base, digits)) return NIB_OK;
    c->progress.file = name;
    NIB_TRY(nib_digest_file(c->h, path, base, &c->progress, found, e));
    c->known++;
    if (strcmp(found, base) == 0) return NIB_OK;
    return nib_fail(e, NIB_ERR_FORMAT,
                    "%.200s is damaged: expected the hash %.16s..., found %.16s...", name, base,
                    found);
}

nib_status nib_hub_verify(const nib_hub *h, const nib_hub_model *m, int *known, nib_error *e) {
    char repo[NIB_HUB_PATH], dir[NIB_HUB_PATH];
    check c = {.h = h, .m = m, .progress = {.stage = NIB_HUB_HASHING, .total = m->bytes}};
    NIB_TRY(nib_hub_repo_dir(h, m->repo, repo, e));
    NIB_TRY(nib_hub_path(dir, e, "%s/snapshots/%s", repo, m->commit));
    NIB_TRY(nib_hub_walk(dir, hash_file, &c, e));
    *known = c.known;
    return NIB_OK;
}
