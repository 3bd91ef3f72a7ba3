/* A pull: what the reference means at the hub, what of it is missing, and bringing that here. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "hub/internal.h"

/* ---- what there is ---- */

static nib_status api_url(const nib_hub *h, const nib_hub_ref *r, nib_buf *url, nib_error *e) {
    nib_buf_printf(url, "%s/api/models/%s/revision/", h->endpoint, r->repo);
    nib_http_escape(url, r->revision, false);
    nib_buf_puts(url, "?blobs=true");
    return url->failed ? nib_fail_nomem(e, url->len, "a URL") : NIB_OK;
}

static bool belongs_to_source(const char *name) {
    static const char *const ends[] = {
        ".safetensors", ".safetensors.index.json", ".json", ".model", ".jinja", ".txt"};
    if (strchr(name, '/')) return false;
    size_t n = strlen(name);
    for (size_t i = 0; i < NIB_ARRAY_LEN(ends); i++)
        if (n > strlen(ends[i]) && strcmp(name + n - strlen(ends[i]), ends[i]) == 0) return true;
    return false;
}

/* Says what there is instead of what was asked for. */
static nib_status no_match(const nib_hub_ref *r, const nib_hub_listing *l, nib_error *e) {
    char have[256] = "", quant[32];
    size_t n = 0, n_safe = 0;
    for (size_t i = 0; i < l->n; i++) {
        const char *one[1] = {l->files[i].name};
        n_safe += strstr(one[0], ".safetensors") != NULL;
        if (nib_hub_pick(one, 1, "") < 0) continue;
        nib_hub_quant_of(one[0], quant);
        const char *name = *quant ? quant : one[0];
        if (strstr(have, name) || n + strlen(name) + 3 > sizeof have) continue;
        n += (size_t)snprintf(have + n, sizeof have - n, "%s%s", n ? ", " : "", name);
    }
    if (!*have)
        return nib_fail(e, NIB_ERR_NOT_FOUND, "%s has no GGUF file%s", r->repo,
                        n_safe ? ": its safetensors come with 'nib pull --source', then 'nib "
                                 "convert'"
                               : "");
    return nib_fail(e, NIB_ERR_NOT_FOUND, "%s has no '%.60s': it has %s", r->repo, r->want, have);
}

/* Leaves in l the files that are wanted: all parts of the model, or the source. */
static nib_status keep_wanted(const nib_hub_ref *r, bool source, nib_hub_listing *l, nib_error *e) {
    size_t n = 0, stem = 0;
    int part = 1, parts = 1;
    if (source) {
        bool weights = false;
        for (size_t i = 0; i < l->n; i++) {
            if (!belongs_to_source(l->files[i].name)) continue;
            weights |= strstr(l->files[i].name, ".safetensors") != NULL;
            l->files[n++] = l->files[i];
        }
        l->n = n;
        return weights ? NIB_OK : nib_fail(e, NIB_ERR_NOT_FOUND, "%s has no safetensors", r->repo);
    }
    const char **names = nib_arena_calloc(&l->arena, l->n, sizeof *names);
    if (!names) return nib_fail_nomem(e, l->n, "names of files");
    for (size_t i = 0; i < l->n; i++) names[i] = l->files[i].name;
    ptrdiff_t at = nib_hub_pick(names, l->n, r->want);
    if (at < 0) return no_match(r, l, e);
    const char *first = names[at];
    if (!nib_hub_split_of(first, &stem, &part, &parts)) {
        l->files[0] = l->files[at];
        l->n = 1;
        return NIB_OK;
    }
    nib_hub_file *all = nib_arena_calloc(&l->arena, l->n, sizeof *all);
    if (!all) return nib_fail_nomem(e, l->n, "the parts of a model");
    if ((size_t)parts <= l->n)
        for (size_t i = 0; i < l->n; i++) {
            size_t k;
            int p, total;
            if (!nib_hub_split_of(names[i], &k, &p, &total) || k != stem || total != parts ||
                strncmp(names[i], first, stem) != 0 || all[p - 1].name)
                continue;
            all[p - 1] = l->files[i];
            n++;
        }
    if (n != (size_t)parts)
        return nib_fail(e, NIB_ERR_FORMAT, "%s: the repo has %zu of the %d parts", first, n, parts);
    l->files = all;
    l->n = n;
    return NIB_OK;
}

static nib_status list_hub(const nib_hub *h, const nib_hub_ref *r, bool source, nib_hub_listing *l,
                           nib_error *e) {
    nib_buf url = {0}, text = {.max = 64 << 20};
    nib_status s;
    NIB_TRY_OUT(api_url(h, r, &url, e));
    NIB_TRY_OUT(nib_http_get(h, url.data, NULL, r->repo, 32 << 20, &text, NULL, e));
    NIB_TRY_OUT(nib_hub_listing_read(text.data ? text.data : "", text.len, l, e));
    s = keep_wanted(r, source, l, e);
    if (s != NIB_OK) nib_hub_listing_free(l);
out:
    nib_buf_free(&url);
    nib_buf_free(&text);
    return s;
}

/* A plain URL has no list: its head says how large the file is. */
static nib_status list_url(const nib_hub *h, const char *sha256, nib_hub_plan *p, nib_error *e) {
    const nib_hub_ref *r = &p->ref;
    nib_http_head head;
    NIB_TRY(nib_http_get(h, r->url, "0-0", r->want, 0, NULL, &head, e));
    uint64_t size = head.has_range ? head.total : head.has_length ? head.length : UINT64_MAX;
    if (size == UINT64_MAX || size > (uint64_t)1 << 50)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "the server does not say how large '%.100s' is: expected Content-Length",
                        r->want);
    nib_hub_listing fresh = {0};
    nib_arena_init(&fresh.arena, 1 << 20);
    fresh.files = nib_arena_calloc(&fresh.arena, 1, sizeof *fresh.files);
    char *name = nib_arena_strndup(&fresh.arena, r->want, strlen(r->want));
    if (!fresh.files || !name) {
        nib_arena_free(&fresh.arena);
        return nib_fail_nomem(e, 256, "the name of a file");
    }
    fresh.n = 1;
    fresh.files[0].name = name;
    fresh.files[0].size = size;
    if (sha256)
        snprintf(fresh.files[0].digest, sizeof fresh.files[0].digest, "%s", sha256);
    else if (strlen(head.linked) == 64 && nib_is_hex(head.linked, 64))
        memcpy(fresh.files[0].digest, head.linked, 65);
    /* There is one "commit" of a URL, named after it. */
    const char *hash = strrchr(r->repo, '-') + 1;
    snprintf(fresh.commit, sizeof fresh.commit, "%.16s%.16s%.8s", hash, hash, hash);
    p->files = fresh;
    memcpy(p->etag, head.etag, sizeof p->etag);
    return NIB_OK;
}

/* ---- what is here ---- */

typedef struct paths {
    char repo[NIB_HUB_PATH], snapshot[NIB_HUB_PATH], link[NIB_HUB_PATH], blob[NIB_HUB_PATH],
        part[NIB_HUB_PATH];
} paths;

/* blob: "" while the digest is not known. */
static nib_status find_paths(const nib_hub *h, const nib_hub_plan *p, const nib_hub_file *f,
                             paths *out, nib_error *e) {
    NIB_TRY(nib_hub_repo_dir(h, p->ref.repo, out->repo, e));
    NIB_TRY(nib_hub_path(out->snapshot, e, "%s/snapshots/%s", out->repo, p->files.commit));
    NIB_TRY(nib_hub_path(out->link, e, "%s/%s", out->snapshot, f->name));
    out->blob[0] = 0;
    if (*f->digest) NIB_TRY(nib_hub_path(out->blob, e, "%s/blobs/%s", out->repo, f->digest));
    return nib_hub_path(out->part, e, "%s/blobs/%s.nib-part", out->repo,
                        *f->digest ? f->digest : p->files.commit);
}

static bool is_here(const paths *at, const nib_hub_file *f) {
    uint64_t size;
    return (*at->blob && nib_hub_file_size(at->blob, &size) && size == f->size) ||
           (nib_hub_file_size(at->link, &size) && size == f->size);
}

nib_status nib_hub_plan_make(const nib_hub *h, const nib_hub_ref *ref, bool want_source,
                             const char *sha256, nib_hub_plan *out, nib_error *e) {
    nib_hub_plan p = {.ref = *ref};
    paths *at = nib_alloc(sizeof *at);
    nib_status s = NIB_OK;
    if (!at) return nib_fail_nomem(e, sizeof *at, "paths");
    NIB_TRY_OUT(*ref->url ? list_url(h, sha256, &p, e)
                          : list_hub(h, ref, want_source, &p.files, e));
    for (size_t i = 0; i < p.files.n; i++) {
        nib_hub_file *f = &p.files.files[i];
        struct stat st;
        if (f->size == UINT64_MAX)
            NIB_TRY_OUT(
                nib_fail(e, NIB_ERR_FORMAT, "the hub does not say how large '%.100s' is", f->name));
        NIB_TRY_OUT(find_paths(h, &p, f, at, e));
        f->here = is_here(at, f);
        p.bytes += f->size;
        if (f->here) continue;
        uint64_t part = stat(at->part, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
        p.missing += f->size - NIB_MIN(part, f->size);
    }
out:
    nib_free(at);
    if (s == NIB_OK)
        *out = p;
    else
        nib_hub_plan_free(&p);
    return s;
}

void nib_hub_plan_free(nib_hub_plan *p) {
    nib_hub_listing_free(&p->files);
    *p = (nib_hub_plan){0};
}

/* ---- bringing it here ---- */

static nib_status check_disk(const nib_hub *h, const nib_hub_plan *p, nib_error *e) {
    struct statvfs v;
    const uint64_t spare = 64 << 20; /* for the file system itself, and whoever else writes */
    if (statvfs(h->cache, &v) != 0) return NIB_OK;
    uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
    if (p->missing == 0 || room >= p->missing + spare) return NIB_OK;
    return nib_fail(
        e, NIB_ERR_LIMIT,
        "%.100s needs %.2f GB more on the disk of '%.150s', where %.2f GB are free: make "
        "room, or name another place with HF_HUB_CACHE",
        nib_hub_ref_text(&p->ref), (double)(p->missing + spare) / 1e9, h->cache,
        (double)room / 1e9);
}

/* The link from the snapshot to the blob: relative, so that the cache can be moved. Where there are
 * no links the file itself goes there. */
static nib_status put_link(const paths *at, const char *name, nib_error *e) {
    char target[NIB_HUB_PATH], temp[NIB_HUB_PATH], up[NIB_HUB_PATH] = "../..";
    size_t n = 5;
    uint64_t size, here;
    if (nib_hub_file_size(at->link, &here) && nib_hub_file_size(at->blob, &size) && here == size)
        return NIB_OK;
    NIB_TRY(nib_hub_mkdirs_above(at->link, e));
    for (const char *p = name; (p = strchr(p, '/')) && n + 4 < sizeof up; p++, n += 3)
        memcpy(up + n, "/..", 4);
    NIB_TRY(nib_hub_path(target, e, "%s/blobs/%s", up, strrchr(at->blob, '/') + 1));
    NIB_TRY(nib_hub_path(temp, e, "%s.nib-%ld", at->link, (long)getpid()));
    unlink(temp);
    if (symlink(target, temp) == 0) {
        if (rename(temp, at->link) == 0) return NIB_OK;
        int code = errno;
        unlink(temp);
        errno = code;
    } else if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS) {
        if (rename(at->blob, at->link) == 0) return NIB_OK;
    }
    return nib_fail(e, NIB_ERR_IO, "cannot write '%.300s': %s", at->link, strerror(errno));
}

static nib_status file_url(const nib_hub *h, const nib_hub_plan *p, const nib_hub_file *f,
                           nib_buf *url, nib_error *e) {
    if (*p->ref.url) {
        nib_buf_puts(url, p->ref.url);
    } else {
        nib_buf_printf(url, "%s/%s/resolve/%s/", h->endpoint, p->ref.repo, p->files.commit);
        nib_http_escape(url, f->name, true);
    }
    return url->failed ? nib_fail_nomem(e, url->len, "a URL") : NIB_OK;
}

/* Servers also answer with a page that says what went wrong, and call that success. */
static nib_status check_start(const nib_fetch_job *job, nib_error *e) {
    char start[13] = "";
    size_t n = strlen(job->name);
    if (*job->digest || n < 5 || strcasecmp(job->name + n - 5, ".gguf") != 0) return NIB_OK;
    FILE *f = fopen(job->part, "re");
    size_t got = f ? fread(start, 1, sizeof start - 1, f) : 0;
    if (f) fclose(f);
    if (got >= 4 && memcmp(start, "GGUF", 4) == 0) return NIB_OK;
    for (size_t i = 0; i < got; i++)
        if (start[i] < ' ' || start[i] > '~') start[i] = '?';
    unlink(job->part);
    return nib_fail(e, NIB_ERR_FORMAT,
                    "what the server sends for %.100s is no GGUF file: it begins with '%s'",
                    job->name, start);
}

/* One file that is missing, under its lock. */
static nib_status fetch_file(const nib_hub *h, const nib_hub_plan *p, nib_hub_file *f,
                             uint64_t before, paths *at, nib_error *e) {
    nib_buf url = {0};
    int lock = -1;
    char digest[65];
    nib_hub_progress waiting = {NIB_HUB_WAITING, f->name, before, p->bytes, NULL};
    nib_fetch_job job = {.name = f->name,
                         .part = at->part,
                         .size = f->size,
                         .digest = f->digest,
                         .etag = p->etag,
                         .before = before,
                         .total = p->bytes};
    nib_status s;
    NIB_TRY_OUT(file_url(h, p, f, &url, e));
    job.url = url.data;
    NIB_TRY_OUT(nib_hub_mkdirs_above(at->part, e));
    NIB_TRY_OUT(nib_hub_lock(h, p->ref.repo, *f->digest ? f->digest : p->files.commit, true,
                             &waiting, &lock, e));
    if (!is_here(at, f)) { /* whoever had the lock may have brought it */
        char journal[NIB_HUB_PATH];
        NIB_TRY_OUT(nib_hub_path(journal, e, "%s.journal", at->part));
        NIB_TRY_OUT(nib_fetch(h, &job, digest, e));
        if ((s = check_start(&job, e)) != NIB_OK) {
            unlink(journal);
            goto out;
        }
        if (!*at->blob) NIB_TRY_OUT(nib_hub_path(at->blob, e, "%s/blobs/%s", at->repo, digest));
        if (rename(at->part, at->blob) != 0)
            NIB_TRY_OUT(nib_fail(e, NIB_ERR_IO, "cannot rename to '%.300s': %s", at->blob,
                                 strerror(errno)));
        unlink(journal);
        memcpy(f->digest, digest, sizeof digest);
    }
    s = NIB_OK;
out:
    nib_hub_unlock(lock);
    nib_buf_free(&url);
    return s;
}

static nib_status put_ref(const nib_hub_plan *p, const char *repo_dir, nib_error *e) {
    char path[NIB_HUB_PATH];
    if (strlen(p->ref.revision) == 40 && nib_is_hex(p->ref.revision, 40)) return NIB_OK;
    NIB_TRY(nib_hub_path(path, e, "%s/refs/%s", repo_dir, p->ref.revision));
    NIB_TRY(nib_hub_mkdirs_above(path, e));
    return nib_file_write(path, p->files.commit, strlen(p->files.commit), e);
}

/* All files are here: the links and the ref that make them a model, under a lock of the repo's. */
static nib_status publish(const nib_hub *h, const nib_hub_plan *p, paths *at, nib_error *e) {
    int lock = -1;
    nib_status s = NIB_OK;
    NIB_TRY_OUT(nib_hub_lock(h, p->ref.repo, "nib-refs", true, NULL, &lock, e));
    for (size_t i = 0; i < p->files.n; i++) {
        const nib_hub_file *f = &p->files.files[i];
        uint64_t size;
        NIB_TRY_OUT(find_paths(h, p, f, at, e));
        if (*at->blob && nib_hub_file_size(at->blob, &size)) NIB_TRY_OUT(put_link(at, f->name, e));
    }
    s = put_ref(p, at->repo, e);
out:
    nib_hub_unlock(lock);
    return s;
}

nib_status nib_hub_pull(const nib_hub *h, nib_hub_plan *p, char *path, nib_error *e) {
    paths *at = nib_alloc(sizeof *at);
    uint64_t before = 0;
    nib_status s;
    if (!at) return nib_fail_nomem(e, sizeof *at, "paths");
    NIB_TRY_OUT(nib_hub_mkdirs(h->cache, e));
    NIB_TRY_OUT(check_disk(h, p, e));
    for (size_t i = 0; i < p->files.n; i++) {
        nib_hub_file *f = &p->files.files[i];
        NIB_TRY_OUT(find_paths(h, p, f, at, e));
        if (!f->here) NIB_TRY_OUT(fetch_file(h, p, f, before, at, e));
        before += f->size;
    }
    NIB_TRY_OUT(publish(h, p, at, e));
    NIB_TRY_OUT(find_paths(h, p, &p->files.files[0], at, e));
    size_t n = strlen(at->link);
    bool gguf = n > 5 && strcasecmp(at->link + n - 5, ".gguf") == 0;
    s = nib_hub_path(path, e, "%s", gguf ? at->link : at->snapshot);
out:
    nib_free(at);
    return s;
}
