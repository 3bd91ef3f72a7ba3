/* Safetensors, writing: the mirror of safetensors.c, one file at a time.
 *
 * Tensors are described first, the header is written, and their bytes are streamed in the same
 * order, so that a model larger than memory can be written. The header is padded with spaces to a
 * multiple of 8 bytes, as other writers do; the file has its final name only when whole. */
#include <errno.h>
#include "formats/internal.h"

struct nib_st_writer {
    nib_outfile file;
    char *path;
    nib_buf header;
    uint64_t declared, written;
    bool begun;
};

nib_status nib_st_writer_new(nib_st_writer **out, const char *path, nib_error *e) {
    nib_st_writer *w = nib_calloc(1, sizeof *w);
    if (!w) return nib_fail_nomem(e, sizeof *w, "writing a safetensors file");
    nib_status s;
    w->path = nib_strdup(path);
    if (!w->path || !nib_buf_puts(&w->header, "{\"__metadata__\":{\"format\":\"pt\"}")) {
        s = nib_fail_nomem(e, strlen(path), "a file name");
        goto out;
    }
    NIB_TRY_OUT(nib_outfile_open(&w->file, path, e));
    *out = w;
    return NIB_OK;
out:
    nib_st_writer_abort(w);
    return s;
}

void nib_st_writer_abort(nib_st_writer *w) {
    if (!w) return;
    nib_outfile_abort(&w->file);
    nib_buf_free(&w->header);
    nib_free(w->path);
    nib_free(w);
}

nib_status nib_st_declare(nib_st_writer *w, const char *name, nib_dtype t, int n_dims,
                          const int64_t *shape, nib_error *e) {
    size_t n = 1, bytes = 0, each = t == NIB_F32 ? 4 : 2;
    bool plain = *name && strlen(name) <= GGUF_MAX_NAME && nib_utf8_valid(name, strlen(name));
    for (const char *p = name; *p; p++)
        plain &= (unsigned char)*p >= 0x20 && *p != '"' && *p != '\\';
    if (w->begun || !plain || (t != NIB_F32 && t != NIB_F16 && t != NIB_BF16) || n_dims < 0 ||
        n_dims > NIB_ST_MAX_DIMS)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': tensor '%.64s': expected, before the data, a printable name, F32, "
                        "F16 or BF16, and at most %d dimensions",
                        w->path, name, NIB_ST_MAX_DIMS);
    nib_buf_printf(&w->header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name,
                   nib_dtype_get(t)->name);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0 || !nib_mul_size(n, (size_t)shape[i], &n)) n = SIZE_MAX;
        nib_buf_printf(&w->header, "%s%lld", i ? "," : "", (long long)shape[i]);
    }
    if (!nib_mul_size(n, each, &bytes) || bytes > (size_t)1 << 60)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s': tensor '%.64s' is too large", w->path, name);
    unsigned long long from = w->declared;
    w->declared += bytes;
    nib_buf_printf(&w->header, "],\"data_offsets\":[%llu,%llu]}", from,
                   (unsigned long long)w->declared);
    return w->header.failed ? nib_fail_nomem(e, w->header.len, "the header") : NIB_OK;
}

static nib_status put(nib_st_writer *w, const void *p, size_t n, nib_error *e) {
    if (fwrite(p, 1, n, w->file.f) == n) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", w->path, strerror(errno));
}

nib_status nib_st_begin(nib_st_writer *w, nib_error *e) {
    nib_buf_putc(&w->header, '}');
    while (w->header.len % 8 && nib_buf_putc(&w->header, ' ')) {
    }
    if (w->header.failed) return nib_fail_nomem(e, w->header.len, "the header");
    uint64_t n = w->header.len;
    w->begun = true;
    NIB_TRY(put(w, &n, sizeof n, e));
    return put(w, w->header.data, w->header.len, e);
}

nib_status nib_st_write_data(nib_st_writer *w, const void *p, size_t n, nib_error *e) {
    if (!w->begun || n > w->declared - w->written)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': expected at most %llu bytes of data more, found %zu", w->path,
                        (unsigned long long)(w->declared - w->written), n);
    w->written += n;
    return put(w, p, n, e);
}

nib_status nib_st_commit(nib_st_writer *w, nib_error *e) {
    nib_status s =
        w->begun && w->written == w->declared
            ? nib_outfile_commit(&w->file, e)
            : nib_fail(e, NIB_ERR_ARGUMENT, "'%s': expected %llu bytes of data, found %llu",
                       w->path, (unsigned long long)w->declared, (unsigned long long)w->written);
    nib_st_writer_abort(w);
    return s;
}
