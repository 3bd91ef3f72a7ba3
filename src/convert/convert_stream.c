/* The stream: tensors are made and written one after the other, a window of rows at a time, all
 * threads making rows of the same window. Memory is a window and a few rows a thread, and the
 * source's pages are given back as soon as they were read: a model of any size passes through.
 *
 * A row is: rows of the source in their new order, as floats, checked to be finite, plus a
 * constant, in the format to write. Rows that change neither format nor order are copied. */
#include <errno.h>
#include <libgen.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "arch/arch.h"
#include "convert/internal.h"
#include "tokenizer/tokenizer.h"

enum {
    WINDOW_BYTES = 32 << 20, /* of what is written */
    CHUNK_FLOATS =
        64 << 10, /* that a thread makes at a time: they stay in its second-level cache */
};

typedef enum row_fault { FAULT_NONE, FAULT_NAN, FAULT_RANGE } row_fault;

struct conv_stream {
    const conv_model *m;
    const nib_convert_params *p;
    nib_pool *pool;
    uint8_t *window;
    size_t window_bytes;
    float **floats; /* a thread's rows */
    size_t *n_floats;
    int n_threads;
    uint64_t done, total;
    /* of the window being made */
    const conv_tensor *t;
    int64_t first, n_rows, chunk, width;
    size_t row_bytes;
    nib_counter next;
    atomic_int fault;
    atomic_llong fault_row;
    atomic_bool nomem;
};

/* Rows and their width: of a vector whose elements change order, every element is a row. */
static void rows_of(const conv_tensor *t, int64_t *n, int64_t *width) {
    bool elements = t->n_dims == 1 && t->order != CONV_AS_IS;
    *width = elements ? 1 : t->ne[0];
    *n = elements ? t->ne[0] : t->ne[1] * t->ne[2] * t->ne[3];
}

/* Which row of the source is row r. */
static int64_t source_row(const conv_tensor *t, int64_t r, int64_t n) {
    int64_t d, h, i;
    switch (t->order) {
    case CONV_PAIRS: /* [head][i][half] from [head][half][i] */
        d = n / t->heads, h = r / d, i = r % d;
        return h * d + i % 2 * (d / 2) + i / 2;
    case CONV_HALVES:
        d = n / t->heads, h = r / d, i = r % d;
        return h * d + i % (d / 2) * 2 + i / (d / 2);
    case CONV_QKV: /* [part][head][i] from [head][part][i] */
        d = n / t->heads / 3, h = r / d % t->heads, i = r / d / t->heads;
        return (h * 3 + i) * d + r % d;
    case CONV_HEADS_QKV:
        d = n / t->heads / 3, h = r / d / 3, i = r / d % 3;
        return (i * t->heads + h) * d + r % d;
    default: return r;
    }
}

/* Rows [r, r + n) as floats. */
static void read_rows(const conv_tensor *t, int64_t r, int64_t n, int64_t n_all, int64_t width,
                      float *out) {
    const nib_dtype_info *info = nib_dtype_get(t->src_type);
    const uint8_t *src = t->src;
    if (t->order == CONV_TRANSPOSE) { /* the source is [width][n_all] */
        for (int64_t c = 0; c < width; c++) {
            const uint8_t *p = src + (size_t)(c * n_all + r) * info->block_bytes;
            for (int64_t i = 0; i < n; i++)
                info->to_f32(p + (size_t)i * info->block_bytes, out + i * width + c, 1);
        }
    } else if (t->order == CONV_AS_IS) {
        size_t row = nib_dtype_bytes(t->src_type, width);
        info->to_f32(src + (size_t)r * row, out, n * width);
    } else {
        size_t row = nib_dtype_bytes(t->src_type, width);
        for (int64_t i = 0; i < n; i++)
            info->to_f32(src + (size_t)source_row(t, r + i, n_all) * row, out + i * width, width);
    }
    if (t->add != 0)
        for (int64_t i = 0; i < n * width; i++) out[i] += t->add;
}

static row_fault check(const float *p, int64_t n, nib_dtype to) {
    /* Without their sign the bits of floats are in the order of their magnitudes, infinity and NaN
     * last. Sixteen at a time, so that compilers use vectors. */
    enum { WIDE = 16 };
    int32_t most[WIDE] = {0}, bits[WIDE], top = 0;
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        memcpy(bits, p + i, sizeof bits);
        for (int l = 0; l < WIDE; l++) {
            int32_t b = bits[l] & INT32_MAX;
            most[l] = b > most[l] ? b : most[l];
        }
    }
    for (; i < n; i++) most[0] = NIB_MAX(most[0], (int32_t)(nib_f32_bits(p[i]) & INT32_MAX));
    for (int l = 0; l < WIDE; l++) top = NIB_MAX(top, most[l]);
    if (top >= (int32_t)nib_f32_bits(INFINITY)) return FAULT_NAN;
    /* what rounds to infinity in a half */
    return to == NIB_F16 && top >= (int32_t)nib_f32_bits(65520) ? FAULT_RANGE : FAULT_NONE;
}

static void make_chunk(conv_stream *s, int64_t from, int64_t n, float *f) {
    const conv_tensor *t = s->t;
    const nib_dtype_info *to = nib_dtype_get(t->type);
    int64_t n_all, width, r = s->first + from;
    rows_of(t, &n_all, &width);
    uint8_t *out = s->window + (size_t)from * s->row_bytes;
    bool same = t->type == t->src_type && t->add == 0 && t->order != CONV_TRANSPOSE;
    if (same) {
        for (int64_t i = 0; i < n; i++)
            memcpy(out + (size_t)i * s->row_bytes,
                   (const uint8_t *)t->src + (size_t)source_row(t, r + i, n_all) * s->row_bytes,
                   s->row_bytes);
        if (to->block_len > 1) return; /* blocks: were finite when they were made */
        to->to_f32(out, f, n * width);
    } else {
        read_rows(t, r, n, n_all, width, f);
    }
    row_fault fault = check(f, n * width, same ? NIB_F32 : t->type);
    if (fault != FAULT_NONE && !s->p->force) {
        atomic_store(&s->fault_row, r);
        atomic_store(&s->fault, fault);
    }
    if (same) return;
    if (!t->importance) {
        to->from_f32(f, out, n * width, NULL);
        return;
    }
    int64_t rows_a_part = t->ne[1];
    for (int64_t i = 0; i < n; i++) {
        int64_t part = t->n_importance > width ? (r + i) / rows_a_part : 0;
        to->from_f32(f + i * width, out + (size_t)i * s->row_bytes, width,
                     t->importance + part * width);
    }
}

static void make_window(void *arg, int tid, int n_threads) {
    (void)n_threads;
    conv_stream *s = arg;
    size_t want = (size_t)(s->chunk * s->width);
    if (s->n_floats[tid] < want) {
        float *f = nib_realloc(s->floats[tid], want * sizeof *f);
        if (!f) {
            atomic_store(&s->nomem, true);
            return;
        }
        s->floats[tid] = f;
        s->n_floats[tid] = want;
    }
    for (;;) {
        int64_t from = nib_counter_take(&s->next, s->chunk);
        if (from >= s->n_rows || (s->p->cancel && atomic_load(s->p->cancel))) return;
        make_chunk(s, from, NIB_MIN(s->chunk, s->n_rows - from), s->floats[tid]);
    }
}

nib_status conv_stream_new(conv_stream **out, const conv_model *m, const nib_convert_params *p,
                           nib_error *e) {
    conv_stream *s = nib_calloc(1, sizeof *s);
    if (!s) return nib_fail_nomem(e, sizeof *s, "a conversion");
    nib_sysinfo sys;
    nib_sysinfo_read(&sys);
    s->m = m;
    s->p = p;
    s->n_threads = p->n_threads > 0 ? p->n_threads : sys.n_core;
    for (size_t i = 0; i < m->n_tensors; i++) s->total += m->tensors[i].src_bytes;
    nib_status st = NIB_OK;
    s->floats = nib_calloc((size_t)s->n_threads, sizeof *s->floats);
    s->n_floats = nib_calloc((size_t)s->n_threads, sizeof *s->n_floats);
    if (!s->floats || !s->n_floats)
        st = nib_fail_nomem(e, 64, "a conversion");
    else
        st = nib_pool_create(&s->pool, s->n_threads, e);
    if (st != NIB_OK) {
        conv_stream_free(s);
        return st;
    }
    *out = s;
    return NIB_OK;
}

void conv_stream_free(conv_stream *s) {
    if (!s) return;
    nib_pool_free(s->pool);
    for (int i = 0; i < s->n_threads && s->floats; i++) nib_free(s->floats[i]);
    nib_free(s->floats);
    nib_free(s->n_floats);
    nib_free(s->window);
    nib_free(s);
}

static nib_status fault_error(const conv_stream *s, nib_error *e) {
    const char *name = s->t->name;
    long long row = atomic_load(&s->fault_row);
    if (atomic_load(&s->fault) == FAULT_RANGE)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "tensor '%s' holds a weight that F16 cannot, near row %lld: use bf16 or "
                        "f32, or --force to write it as infinite",
                        name, row);
    return nib_fail(e, NIB_ERR_FORMAT,
                    "tensor '%s' holds a weight that is not finite, near row %lld: the model is "
                    "broken, or its training was; --force writes it all the same",
                    name, row);
}

/* Gives back the source's pages that rows up to here came from: all of them when rows were in
 * order, else at the end. */
static void drop(const conv_stream *s, const conv_tensor *t, int64_t from, int64_t n, bool last) {
    const uint8_t *p = t->src;
    size_t bytes = t->src_bytes;
    if (t->order == CONV_AS_IS) {
        size_t row = nib_dtype_bytes(t->src_type, t->ne[0]);
        p += (size_t)from * row;
        bytes = (size_t)n * row;
    } else if (!last) {
        return;
    }
    if (s->m->st) nib_st_drop(s->m->st, p, bytes);
    if (s->m->gguf) nib_gguf_drop(s->m->gguf, p, bytes);
}

nib_status conv_stream_tensor(conv_stream *s, const conv_tensor *t, conv_sink sink, void *arg,
                              nib_error *e) {
    int64_t n, width;
    rows_of(t, &n, &width);
    s->t = t;
    s->width = width;
    s->row_bytes = nib_dtype_bytes(t->type, width);
    int64_t rows = NIB_MAX(WINDOW_BYTES / (int64_t)s->row_bytes, 1);
    rows = NIB_MIN(rows, n);
    s->chunk = NIB_MAX(CHUNK_FLOATS / width, 1);
    size_t want = (size_t)rows * s->row_bytes;
    if (want > s->window_bytes) {
        uint8_t *w = nib_realloc(s->window, want);
        if (!w) return nib_fail_nomem(e, want, "rows of a tensor");
        s->window = w;
        s->window_bytes = want;
    }
    for (int64_t r = 0; r < n; r += rows) {
        s->first = r;
        s->n_rows = NIB_MIN(rows, n - r);
        atomic_store(&s->next.v, 0);
        nib_pool_run(s->pool, make_window, s);
        if (s->p->cancel && atomic_load(s->p->cancel))
            return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
        if (atomic_load(&s->nomem)) return nib_fail_nomem(e, want, "rows of a tensor");
        if (atomic_load(&s->fault)) return fault_error(s, e);
        NIB_TRY(sink(arg, s->window, (size_t)s->n_rows * s->row_bytes, e));
        drop(s, t, r, s->n_rows, r + rows >= n);
        if (s->p->progress)
            s->p->progress(
                s->p->progress_arg,
                s->done + (uint64_t)((double)t->src_bytes * (double)(r + s->n_rows) / (double)n),
                s->total);
    }
    s->done += t->src_bytes;
    return NIB_OK;
}

/* ---- files ---- */

nib_status conv_check_space(const char *path, uint64_t bytes, nib_error *e) {
    char *copy = nib_strdup(path);
    struct statvfs v;
    if (!copy) return nib_fail_nomem(e, strlen(path), "a file name");
    int bad = statvfs(dirname(copy), &v);
    nib_free(copy);
    if (bad) return NIB_OK; /* writing will say what is wrong */
    uint64_t left = (uint64_t)v.f_bavail * (uint64_t)v.f_frsize;
    if (left >= bytes) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "'%s' needs %.2f GB, but its disk has %.2f GB left", path,
                    (double)bytes / 1e9, (double)left / 1e9);
}

bool conv_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static nib_status refuse_sources(const conv_model *m, const char *path, nib_error *e) {
    bool same = m->gguf && conv_same_file(path, nib_gguf_path(m->gguf));
    for (int64_t i = 0; m->st && i < nib_st_n_files(m->st); i++)
        same |= conv_same_file(path, nib_st_file_at(m->st, i));
    if (!same) return NIB_OK;
    return nib_fail(e, NIB_ERR_ARGUMENT, "'%s' is the input: expected another file for the output",
                    path);
}

static nib_status to_writer(void *arg, const void *p, size_t n, nib_error *e) {
    return nib_gguf_write_data(arg, p, n, e);
}

static nib_status write_all(conv_model *m, const char *path, const nib_convert_params *p,
                            nib_error *e) {
    nib_gguf_writer *w = NULL;
    conv_stream *stream = NULL;
    nib_status s;
    NIB_TRY(nib_gguf_writer_new(&w, path, e));
    for (size_t i = 0; i < m->n_kv; i++) NIB_TRY_OUT(nib_gguf_write_kv(w, &m->kvs[i], e));
    for (size_t i = 0; i < m->n_tensors; i++) {
        const conv_tensor *t = &m->tensors[i];
        nib_tensor g = {.name = t->name, .dtype = t->type, .n_dims = t->n_dims};
        memcpy(g.ne, t->ne, sizeof g.ne);
        NIB_TRY_OUT(nib_gguf_declare(w, &g, e));
    }
    NIB_TRY_OUT(nib_gguf_begin(w, e));
    NIB_TRY_OUT(conv_stream_new(&stream, m, p, e));
    for (size_t i = 0; i < m->n_tensors; i++)
        NIB_TRY_OUT(conv_stream_tensor(stream, &m->tensors[i], to_writer, w, e));
    s = nib_gguf_commit(w, e);
    w = NULL;
out:
    conv_stream_free(stream);
    nib_gguf_writer_abort(w);
    return s;
}

/* What was written must be a model that nib runs. */
static nib_status check_runs(const char *path, nib_error *e) {
    nib_gguf *g = NULL;
    nib_tokenizer *t = NULL;
    nib_arena arena;
    nib_desc d;
    nib_reader r;
    nib_arena_init(&arena, 0);
    nib_status s = nib_gguf_open(&g, path, e);
    if (s == NIB_OK) s = nib_desc_read(&d, &r, g, &arena, e);
    if (s == NIB_OK) s = nib_tokenizer_from_gguf(&t, g, e);
    nib_tokenizer_free(t);
    nib_gguf_close(g);
    nib_arena_free(&arena);
    return s;
}

nib_status conv_write_gguf(conv_model *m, const char *path, const nib_convert_params *p, bool check,
                           nib_error *e) {
    uint64_t bytes = 1 << 20;
    struct stat st;
    for (size_t i = 0; i < m->n_tensors; i++) bytes += m->tensors[i].bytes;
    NIB_TRY(refuse_sources(m, path, e));
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%s' is %s: expected the name of a file", path,
                        S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
    NIB_TRY(conv_check_space(path, bytes, e));
    if (!check) return write_all(m, path, p, e);
    nib_outfile probe; /* what cannot be written is said of this name */
    NIB_TRY(nib_outfile_open(&probe, path, e));
    nib_outfile_abort(&probe);
    nib_buf draft = {0};
    nib_status s;
    if (!nib_buf_printf(&draft, "%s.unchecked-%ld", path, (long)getpid()))
        return nib_fail_nomem(e, strlen(path), "a file name");
    s = write_all(m, draft.data, p, e);
    if (s == NIB_OK && (s = check_runs(draft.data, e)) != NIB_OK)
        nib_fail_in(e, s, "the source does not make a model that runs");
    if (s == NIB_OK && rename(draft.data, path))
        s = nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    if (s != NIB_OK) unlink(draft.data);
    nib_buf_free(&draft);
    return s;
}
