/* A model's distributions in a file, for when two models do not fit in memory together.
 *
 * A row: the largest logit minus the smallest, as f32, divided by 65535 is the step; then for each
 * token of the vocabulary u16 steps above the smallest. Constants drop out of a softmax. With a
 * range of 30 a logit is off by at most 0.00023, which adds about 1e-8 to a divergence. */
#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "eval/score.h"

size_t nib_logfile_row_bytes(int64_t n_vocab) {
    return sizeof(float) + (size_t)n_vocab * sizeof(uint16_t);
}

nib_status nib_logfile_open(nib_logfile *l, int64_t n_rows, int64_t n_vocab, nib_error *e) {
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder) folder = "/var/tmp"; /* /tmp is often memory */
    struct statvfs fs;
    size_t bytes, row = nib_logfile_row_bytes(n_vocab);
    bool known = statvfs(folder, &fs) == 0;
    uint64_t available = known ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
    if (!nib_mul_size((size_t)n_rows, row, &bytes) || (known && bytes > available))
        return nib_fail(e, NIB_ERR_IO,
                        "the reference's probabilities take %.0f MB in '%.200s', where %.0f MB are "
                        "free: use fewer --chunks, or set TMPDIR to another folder",
                        (double)n_rows * (double)row / 1e6, folder, (double)available / 1e6);
    nib_buf name = {0};
    nib_buf_printf(&name, "%s/nib-logits-XXXXXX", folder);
    if (name.failed) return nib_fail_nomem(e, strlen(folder), "a file name");
    nib_status s = NIB_OK;
    int fd = mkstemp(name.data);
    if (fd >= 0) unlink(name.data); /* goes away with this process, whatever ends it */
    l->f = fd >= 0 ? fdopen(fd, "w+b") : NULL;
    l->row_bytes = row;
    if (!l->f) {
        s = nib_fail(e, NIB_ERR_IO, "cannot make a temporary file in '%.200s': %s", folder,
                     strerror(errno));
        if (fd >= 0) close(fd);
    }
    nib_buf_free(&name);
    return s;
}

void nib_logfile_close(nib_logfile *l) {
    if (l->f) fclose(l->f);
    *l = (nib_logfile){0};
}

void nib_logfile_encode(const float *logits, int64_t n_vocab, void *row) {
    float min = logits[0], max = logits[0];
    for (int64_t v = 1; v < n_vocab; v++) {
        min = logits[v] < min ? logits[v] : min;
        max = logits[v] > max ? logits[v] : max;
    }
    float range = max - min, scale = range > 0 && range < 1e30f ? 65535 / range : 0;
    uint8_t *p = row;
    memcpy(p, &range, sizeof range);
    p += sizeof range;
    for (int64_t v = 0; v < n_vocab; v++) {
        float steps = (logits[v] - min) * scale + 0.5f;
        uint16_t code = steps > 0 && steps < 65536 ? (uint16_t)steps : 0; /* NaN: 0 */
        memcpy(p + v * 2, &code, sizeof code);
    }
}

void nib_logfile_decode(const void *row, int64_t n_vocab, float *logits) {
    float range;
    memcpy(&range, row, sizeof range);
    const uint8_t *p = (const uint8_t *)row + sizeof range;
    float step = range / 65535;
    for (int64_t v = 0; v < n_vocab; v++) logits[v] = (float)nib_load_u16(p + v * 2) * step;
}

nib_status nib_logfile_write(nib_logfile *l, const void *p, int64_t n, nib_error *e) {
    if (fwrite(p, l->row_bytes, (size_t)n, l->f) == (size_t)n) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "cannot write the temporary file of probabilities: %s",
                    strerror(errno));
}

nib_status nib_logfile_rewind(nib_logfile *l, nib_error *e) {
    if (fseeko(l->f, 0, SEEK_SET) == 0) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "cannot write the temporary file of probabilities: %s",
                    strerror(errno));
}

nib_status nib_logfile_read(nib_logfile *l, void *p, int64_t n, nib_error *e) {
    if (fread(p, l->row_bytes, (size_t)n, l->f) == (size_t)n) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "cannot read the temporary file of probabilities");
}
