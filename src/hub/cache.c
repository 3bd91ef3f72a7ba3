/* What is in the cache: models found by walking snapshots, references resolved among them, and the
 * lock that pulls take.
 *
 * Nothing is remembered elsewhere: the folders are the truth, whoever filled them. The lock is the
 * one the hub's own library takes (CACHE/.locks/models--USER--REPO/<blob>.lock, by flock), so two
 * tools do not write the same blob at once. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hub/internal.h"

bool nib_hub_file_size(const char *path, uint64_t *size) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return false;
    *size = (uint64_t)st.st_size;
    return true;
}

/* ---- the lock ---- */

nib_status nib_hub_lock(const nib_hub *h, const char *repo, const char *blob, bool wait,
                        nib_hub_progress *p, int *fd, nib_error *e) {
    char dir[NIB_HUB_PATH], path[NIB_HUB_PATH];
    NIB_TRY(nib_hub_repo_dir(h, repo, dir, e));
    NIB_TRY(nib_hub_path(path, e, "%s/.locks/%s/%s.lock", h->cache, strrchr(dir, '/') + 1, blob));
    NIB_TRY(nib_hub_mkdirs_above(path, e));
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0)
        return nib_fail(e, NIB_ERR_IO, "cannot write '%.300s': %s", path, strerror(errno));
    nib_status s = NIB_OK;
    while (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) break; /* a file system without locks: go on without */
        if (!wait) {
            close(lock);
            *fd = -1;
            return NIB_OK;
        }
        if (p && h->progress) h->progress(h->progress_arg, p);
        if ((s = nib_hub_sleep(h, 0.2, e)) != NIB_OK) break;
    }
    if (s != NIB_OK)
        close(lock);
    else
        *fd = lock;
    return s;
}

void nib_hub_unlock(int fd) {
    if (fd >= 0) close(fd);
}

/* ---- walking ---- */

static nib_status walk(const char *dir, size_t skip, int depth, nib_hub_walk_fn fn, void *arg,
                       nib_error *e) {
    DIR *d = opendir(dir);
    if (!d) return NIB_OK; /* not there, or not ours to read */
    nib_status s = NIB_OK;
    for (struct dirent *item; s == NIB_OK && (item = readdir(d));) {
        char path[NIB_HUB_PATH];
        struct stat st;
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
        if (nib_hub_path(path, NULL, "%s/%s", dir, item->d_name) != NIB_OK) continue;
        if (lstat(path, &st) != 0) continue;
        if (S_ISDIR(st.st_mode)) {
            if (depth > 1) s = walk(path, skip, depth - 1, fn, arg, e);
        } else {
            s = fn(arg, path, path + skip, e);
        }
    }
    closedir(d);
    return s;
}

nib_status nib_hub_walk(const char *dir, nib_hub_walk_fn fn, void *arg, nib_error *e) {
    return walk(dir, strlen(dir) + 1, 6, fn, arg, e);
}

/* ---- models ---- */

typedef struct gather {
    const char *repo, *snapshot; /* where the walk is */
    char commit[41];
    bool current; /* this snapshot is what refs/main says */
    nib_hub_model *models;
    dev_t *devices; /* of models: what file it is, for two snapshots often share one */
    ino_t *inodes;
    size_t n, cap;
    bool config, weights; /* seen in this snapshot */
    uint64_t weight_bytes;
    time_t when;
} gather;

static nib_status grow(gather *g, nib_error *e) {
    if (g->n < g->cap) return NIB_OK;
    size_t cap = g->cap ? 2 * g->cap : 32;
    nib_hub_model *m = nib_realloc(g->models, cap * sizeof *m);
    if (m) g->models = m;
    dev_t *d = m ? nib_realloc(g->devices, cap * sizeof *d) : NULL;
    if (d) g->devices = d;
    ino_t *i = d ? nib_realloc(g->inodes, cap * sizeof *i) : NULL;
    if (i) g->inodes = i;
    if (!i) return nib_fail_nomem(e, cap * sizeof *m, "the list of models");
    g->cap = cap;
    return NIB_OK;
}

void nib_hub_model_free(nib_hub_model *m) {
    nib_free(m->repo);
    nib_free(m->file);
    nib_free(m->path);
    *m = (nib_hub_model){0};
}

static const nib_hub_alias *alias_of(const nib_hub_model *m) {
    for (size_t i = 0; i < nib_hub_n_aliases; i++) {
        const nib_hub_alias *a = &nib_hub_aliases[i];
        if (strcmp(a->repo, m->repo) == 0 && strcasecmp(a->want, m->quant) == 0) return a;
    }
    return NULL;
}

static nib_status add(gather *g, const char *path, const char *file, uint64_t bytes, int parts,
                      const struct stat *st, nib_error *e) {
    size_t at = 0;
    while (at < g->n &&
           !(strcmp(g->models[at].file, file) == 0 && *file && g->devices[at] == st->st_dev &&
             g->inodes[at] == st->st_ino && strcmp(g->models[at].repo, g->repo) == 0))
        at++;
    if (at < g->n && !g->current) return NIB_OK;
    nib_hub_model m = {.repo = nib_strdup(g->repo),
                       .file = nib_strdup(file),
                       .path = nib_strdup(path),
                       .bytes = bytes,
                       .parts = parts,
                       .when = st->st_mtime};
    nib_status s =
        m.repo && m.file && m.path ? grow(g, e) : nib_fail_nomem(e, 256, "a model's name");
    if (s != NIB_OK) {
        nib_hub_model_free(&m);
        return s;
    }
    memcpy(m.commit, g->commit, sizeof m.commit);
    nib_hub_quant_of(file, m.quant);
    nib_hub_blob_digest(path, m.digest);
    m.alias = alias_of(&m);
    if (at == g->n)
        g->n++;
    else
        nib_hub_model_free(&g->models[at]);
    g->models[at] = m;
    g->devices[at] = st->st_dev;
    g->inodes[at] = st->st_ino;
    return NIB_OK;
}

static nib_status see(void *arg, const char *path, const char *name, nib_error *e) {
    gather *g = arg;
    struct stat st;
    size_t n = strlen(name), stem;
    int part = 1, parts = 1;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return NIB_OK; /* a link to nothing */
    if (strcmp(name, "config.json") == 0) g->config = true;
    if (n > 12 && strcmp(name + n - 12, ".safetensors") == 0 && !strchr(name, '/')) {
        g->weights = true;
        g->weight_bytes += (uint64_t)st.st_size;
        g->when = st.st_mtime;
    }
    if (n <= 5 || strcasecmp(name + n - 5, ".gguf") != 0) return NIB_OK;
    uint64_t bytes = (uint64_t)st.st_size;
    if (nib_hub_split_of(name, &stem, &part, &parts)) {
        if (part != 1) return NIB_OK;
        for (int k = 2; k <= parts; k++) {
            char other[NIB_HUB_PATH];
            uint64_t size;
            if (nib_hub_path(other, NULL, "%s/%.*s-%05d-of-%05d.gguf", g->snapshot, (int)stem, name,
                             k, parts) != NIB_OK ||
                !nib_hub_file_size(other, &size))
                return NIB_OK;
            bytes += size;
        }
    }
    return add(g, path, name, bytes, parts, &st, e);
}

/* refs/<revision> of a repo's folder: a commit; "" when there is none. */
static void read_ref(const char *dir, const char *revision, char commit[41]) {
    char path[NIB_HUB_PATH];
    nib_buf text = {0};
    commit[0] = 0;
    if (nib_hub_path(path, NULL, "%s/refs/%s", dir, revision) == NIB_OK &&
        nib_file_read(path, 256, &text, NULL) == NIB_OK && text.len >= 40) {
        text.data[40] = 0;
        if (nib_is_hex(text.data, 40)) memcpy(commit, text.data, 41);
    }
    nib_buf_free(&text);
}

static nib_status see_repo(gather *g, const char *dir, nib_error *e) {
    char snapshots[NIB_HUB_PATH], now[41];
    NIB_TRY(nib_hub_path(snapshots, e, "%s/snapshots", dir));
    read_ref(dir, "main", now);
    DIR *d = opendir(snapshots);
    if (!d) return NIB_OK;
    nib_status s = NIB_OK;
    for (struct dirent *item; s == NIB_OK && (item = readdir(d));) {
        char path[NIB_HUB_PATH];
        struct stat st;
        if (item->d_name[0] == '.' || strlen(item->d_name) > 40) continue;
        if (nib_hub_path(path, NULL, "%s/%s", snapshots, item->d_name) != NIB_OK) continue;
        snprintf(g->commit, sizeof g->commit, "%.40s", item->d_name);
        g->current = strcmp(now, item->d_name) == 0;
        g->snapshot = path;
        g->config = g->weights = false;
        g->weight_bytes = 0;
        s = nib_hub_walk(path, see, g, e);
        if (s == NIB_OK && g->config && g->weights && stat(path, &st) == 0) {
            st.st_mtime = g->when;
            s = add(g, path, "", g->weight_bytes, 1, &st, e);
        }
    }
    closedir(d);
    g->snapshot = NULL;
    return s;
}

static int by_name(const void *a, const void *b) {
    const nib_hub_model *x = a, *y = b;
    int c = strcasecmp(x->repo, y->repo);
    if (c == 0) c = strcmp(x->file, y->file);
    return c ? c : strcmp(x->commit, y->commit);
}

/* What was gathered, sorted; or nothing, when s is an error. */
static nib_status finish(gather *g, nib_status s, nib_hub_model **out, size_t *n) {
    nib_free(g->devices);
    nib_free(g->inodes);
    if (s != NIB_OK) {
        nib_hub_list_free(g->models, g->n);
        return s;
    }
    if (g->n) qsort(g->models, g->n, sizeof *g->models, by_name);
    *out = g->models;
    *n = g->n;
    return NIB_OK;
}

static nib_status list_repo(const nib_hub *h, const char *repo, nib_hub_model **out, size_t *n,
                            nib_error *e) {
    gather g = {.repo = repo};
    char dir[NIB_HUB_PATH];
    NIB_TRY(nib_hub_repo_dir(h, repo, dir, e));
    return finish(&g, see_repo(&g, dir, e), out, n);
}

nib_status nib_hub_list(const nib_hub *h, nib_hub_model **out, size_t *n, nib_error *e) {
    gather g = {0};
    nib_status s = NIB_OK;
    DIR *d = opendir(h->cache);
    for (struct dirent *item; d && s == NIB_OK && (item = readdir(d));) {
        char name[NIB_HUB_NAME], dir[NIB_HUB_PATH];
        if (strncmp(item->d_name, "models--", 8) != 0) continue;
        if (nib_hub_path(dir, NULL, "%s/%s", h->cache, item->d_name) != NIB_OK) continue;
        const char *from = item->d_name + 8, *cut = strstr(from, "--");
        if (cut)
            snprintf(name, sizeof name, "%.*s/%s", (int)(cut - from), from, cut + 2);
        else
            snprintf(name, sizeof name, "%s", from);
        g.repo = name;
        s = see_repo(&g, dir, e);
    }
    if (d) closedir(d);
    g.repo = NULL;
    return finish(&g, s, out, n);
}

void nib_hub_list_free(nib_hub_model *m, size_t n) {
    for (size_t i = 0; i < n; i++) nib_hub_model_free(&m[i]);
    nib_free(m);
}

const char *nib_hub_model_name(const nib_hub_model *m) {
    static _Thread_local char ring[4][2 * NIB_HUB_NAME + 1024];
    static _Thread_local int at;
    if (m->alias) return m->alias->name;
    char *out = ring[at++ & 3];
    const char *slash = strrchr(m->file, '/');
    snprintf(out, sizeof ring[0], "%s%s%s", m->repo, *m->file ? ":" : "",
             *m->quant ? m->quant
             : slash   ? slash + 1
                       : m->file);
    return out;
}

/* ---- resolving ---- */

/* Among the models of one commit (NULL: of any), the one that is meant; -1: none. */
static ptrdiff_t pick_of(const nib_hub_model *m, size_t n, const char *commit, const char *want) {
    const char **names = nib_alloc((n + 1) * sizeof *names);
    size_t *index = nib_alloc((n + 1) * sizeof *index), k = 0;
    ptrdiff_t at = -1;
    for (size_t i = 0; names && index && i < n; i++) {
        if (!*m[i].file || (commit && strcmp(m[i].commit, commit) != 0)) continue;
        names[k] = m[i].file;
        index[k++] = i;
    }
    if (names && index) at = nib_hub_pick(names, k, want);
    if (index && at >= 0) at = (ptrdiff_t)index[at];
    for (size_t i = 0; at < 0 && !*want && i < n; i++) /* a folder of safetensors, then */
        if (!*m[i].file && (!commit || strcmp(m[i].commit, commit) == 0)) at = (ptrdiff_t)i;
    nib_free(names);
    nib_free(index);
    return at;
}

/* Several models that the reference does not tell apart, as a list. */
static nib_status ambiguous(const nib_hub_ref *r, const nib_hub_model *m, size_t n, nib_error *e) {
    char names[256] = "";
    for (size_t i = 0, k = 0; i < n && k + 40 < sizeof names; i++)
        k += (size_t)snprintf(names + k, sizeof names - k, "%s%.36s", k ? ", " : "",
                              *m[i].quant  ? m[i].quant
                              : *m[i].file ? m[i].file
                                           : "safetensors");
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s: which of %s? Put it behind a colon", r->repo, names);
}

nib_status nib_hub_find(const nib_hub *h, const nib_hub_ref *ref, bool single, nib_hub_model *out,
                        nib_error *e) {
    nib_hub_model *m = NULL;
    size_t n = 0;
    char dir[NIB_HUB_PATH], commit[41] = "";
    NIB_TRY(nib_hub_repo_dir(h, ref->repo, dir, e));
    NIB_TRY(list_repo(h, ref->repo, &m, &n, e));
    bool exact = strlen(ref->revision) == 40 && nib_is_hex(ref->revision, 40);
    if (exact)
        memcpy(commit, ref->revision, 41);
    else
        read_ref(dir, ref->revision, commit);
    ptrdiff_t at = *commit ? pick_of(m, n, commit, ref->want) : -1;
    /* An older commit of "main" serves as well; of a revision that was asked for it does not. */
    if (at < 0 && strcmp(ref->revision, "main") == 0) at = pick_of(m, n, NULL, ref->want);
    nib_status s = NIB_OK;
    if (at < 0 || !m) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND, "%s is not on this machine: nib pull %s",
                     nib_hub_ref_text(ref), nib_hub_ref_text(ref));
    } else if (single && n > 1 && !*ref->want) {
        s = ambiguous(ref, m, n, e);
    } else {
        *out = m[at];
        m[at] = (nib_hub_model){0};
    }
    nib_hub_list_free(m, n);
    return s;
}

nib_status nib_hub_resolve(const nib_hub *h, const nib_hub_ref *ref, char *path, nib_error *e) {
    nib_hub_model m;
    NIB_TRY(nib_hub_find(h, ref, false, &m, e));
    nib_status s = nib_hub_path(path, e, "%s", m.path);
    nib_hub_model_free(&m);
    return s;
}
