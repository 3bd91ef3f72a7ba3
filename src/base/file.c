/* Files: mapped for reading, read whole, written beside the final name and renamed. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/base.h"

static const char *kind_name(mode_t m) {
    if (S_ISDIR(m)) return "a directory";
    if (S_ISFIFO(m)) return "a pipe";
    if (S_ISCHR(m) || S_ISBLK(m)) return "a device";
    if (S_ISSOCK(m)) return "a socket";
    return "no regular file";
}

static nib_status fail_errno(nib_error *e, const char *what, const char *path) {
    int n = errno;
    return nib_fail(e,
                    n == ENOENT   ? NIB_ERR_NOT_FOUND
                    : n == ENOMEM ? NIB_ERR_NOMEM
                                  : NIB_ERR_IO,
                    "cannot %s '%s': %s", what, path, strerror(n));
}

static nib_filestamp stamp_of(const struct stat *st) {
    return (nib_filestamp){
        .dev = (uint64_t)st->st_dev,
        .ino = (uint64_t)st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec,
        .ctime_ns = (uint64_t)st->st_ctim.tv_sec * 1000000000u + (uint64_t)st->st_ctim.tv_nsec};
}

nib_status nib_file_stamp(const char *path, nib_filestamp *out, nib_error *e) {
    struct stat st;
    if (stat(path, &st)) return fail_errno(e, "examine", path);
    *out = stamp_of(&st);
    return NIB_OK;
}

nib_status nib_filemap_open(nib_filemap *m, const char *path, nib_error *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang us */
    if (fd < 0) return fail_errno(e, "open", path);
    struct stat st;
    nib_filemap fresh = {.data = (const uint8_t *)""};
    nib_status s = NIB_OK;
    if (fstat(fd, &st)) {
        s = fail_errno(e, "examine", path);
    } else if (!S_ISREG(st.st_mode)) {
        s = nib_fail(e, NIB_ERR_IO, "'%s' is %s: expected a file", path, kind_name(st.st_mode));
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            s = fail_errno(e, "map", path);
        else
            fresh = (nib_filemap){.data = p, .size = (size_t)st.st_size};
    }
    if (s == NIB_OK) fresh.stamp = stamp_of(&st);
    close(fd);
    if (s == NIB_OK) *m = fresh;
    return s;
}

void nib_filemap_close(nib_filemap *m) {
    if (m->size) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (nib_filemap){0};
}

nib_status nib_file_read(const char *path, size_t max, nib_buf *out, nib_error *e) {
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(e, "open", path);
    nib_status s = NIB_OK;
    struct stat st;
    if (!standard && !fstat(fd, &st) && S_ISDIR(st.st_mode)) {
        s = nib_fail(e, NIB_ERR_IO, "'%s' is a directory: expected a file", path);
        goto out;
    }
    size_t total = 0;
    for (;;) {
        char chunk[16384];
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            s = fail_errno(e, "read", path);
            break;
        }
        if (n == 0) break;
        total += (size_t)n;
        if (total > max) {
            s = nib_fail(e, NIB_ERR_LIMIT, "'%s' holds more than the %zu bytes accepted here", path,
                         max);
            break;
        }
        if (!nib_buf_put(out, chunk, (size_t)n)) {
            s = nib_fail_nomem(e, total, path);
            break;
        }
    }
    if (s == NIB_OK && !out->data && !nib_buf_put(out, "", 0)) s = nib_fail_nomem(e, 1, path);
out:
    if (!standard) close(fd);
    return s;
}

nib_status nib_outfile_open(nib_outfile *o, const char *path, nib_error *e) {
    nib_outfile fresh = {0};
    nib_buf name = {0};
    nib_buf_printf(&name, "%s.part-%ld", path, (long)getpid());
    fresh.path = nib_strdup(path);
    fresh.temp = name.data;
    if (name.failed || !fresh.path) {
        nib_free(fresh.path);
        nib_buf_free(&name);
        return nib_fail_nomem(e, strlen(path), "a file name");
    }
    fresh.f = fopen(fresh.temp, "wbe");
    if (!fresh.f) {
        nib_status s = fail_errno(e, "write", path);
        nib_free(fresh.path);
        nib_free(fresh.temp);
        return s;
    }
    *o = fresh;
    return NIB_OK;
}

void nib_outfile_abort(nib_outfile *o) {
    if (o->f) fclose(o->f);
    if (o->temp) unlink(o->temp);
    nib_free(o->path);
    nib_free(o->temp);
    *o = (nib_outfile){0};
}

nib_status nib_outfile_commit(nib_outfile *o, nib_error *e) {
    nib_status s = NIB_OK;
    bool bad = ferror(o->f) || fflush(o->f) || fsync(fileno(o->f));
    if (bad) s = fail_errno(e, "write", o->path);
    if (fclose(o->f) && s == NIB_OK) s = fail_errno(e, "write", o->path);
    o->f = NULL;
    if (s == NIB_OK && rename(o->temp, o->path)) s = fail_errno(e, "rename to", o->path);
    if (s == NIB_OK) {
        nib_free(o->temp);
        o->temp = NULL;
    }
    nib_outfile_abort(o);
    return s;
}

nib_status nib_file_write(const char *path, const void *p, size_t n, nib_error *e) {
    nib_outfile o;
    NIB_TRY(nib_outfile_open(&o, path, e));
    if (n && fwrite(p, 1, n, o.f) != n) {
        nib_status s = fail_errno(e, "write", path);
        nib_outfile_abort(&o);
        return s;
    }
    return nib_outfile_commit(&o, e);
}
