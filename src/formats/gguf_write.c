/* GGUF, writing: version 3, the mirror of gguf_read.c.
 *
 * Keys and tensor descriptions are gathered in an arena (copied: the caller's may go),
 * nib_gguf_begin writes them, and then the tensors' bytes are streamed, so that a model larger than
 * memory can be written. The writer knows the size of every tensor and so pads between them by
 * itself; what it writes, the reader accepts.
 *
 * Invariants: keys and names are unique and inside the reader's limits; exactly the declared bytes
 * are written; the file has its final name only when whole (nib_outfile). */
#include <errno.h>
#include "formats/internal.h"

#define MAX_TENSOR_BYTES ((size_t)1 << 62)

struct nib_gguf_writer {
    nib_outfile file;
    nib_arena arena;
    const char *path;
    nib_gguf_kv *kvs;
    size_t n_kv, cap_kv;
    nib_tensor *tensors;
    size_t n_tensors, cap_tensors;
    nib_strmap kv_index, tensor_index;
    bool begun;
    size_t total; /* bytes of all tensors, without padding */
    size_t alignment;
    size_t current; /* the tensor being written */
    size_t left;    /* its bytes still to come */
};

nib_status nib_gguf_writer_new(nib_gguf_writer **out, const char *path, nib_error *e) {
    nib_gguf_writer *w = nib_calloc(1, sizeof *w);
    if (!w) return nib_fail_nomem(e, sizeof *w, "writing a model file");
    nib_arena_init(&w->arena, 0);
    nib_status s;
    w->path = nib_arena_strndup(&w->arena, path, strlen(path));
    if (!w->path) {
        s = nib_fail_nomem(e, strlen(path), "a file name");
        goto out;
    }
    NIB_TRY_OUT(nib_outfile_open(&w->file, path, e));
    *out = w;
    return NIB_OK;
out:
    nib_gguf_writer_abort(w);
    return s;
}

void nib_gguf_writer_abort(nib_gguf_writer *w) {
    if (!w) return;
    nib_outfile_abort(&w->file);
    nib_strmap_free(&w->kv_index);
    nib_strmap_free(&w->tensor_index);
    nib_free(w->kvs);
    nib_free(w->tensors);
    nib_arena_free(&w->arena);
    nib_free(w);
}

/* Makes room for one more item in a growing array. */
static bool grow(void **p, size_t n, size_t *cap, size_t each) {
    if (n < *cap) return true;
    size_t fresh = *cap ? *cap * 2 : 32, bytes;
    void *q = nib_mul_size(fresh, each, &bytes) ? nib_realloc(*p, bytes) : NULL;
    if (!q) return false;
    *p = q;
    *cap = fresh;
    return true;
}

static nib_status refuse_after_begin(const nib_gguf_writer *w, nib_error *e) {
    if (!w->begun) return NIB_OK;
    return nib_fail(
        e, NIB_ERR_ARGUMENT,
        "'%s': expected keys and tensors before the data, found one after nib_gguf_begin", w->path);
}

/* ---- keys ---- */

/* A copy of s in the arena; p NULL when out of memory. */
static nib_str copy_str(nib_gguf_writer *w, nib_str s) {
    return (nib_str){nib_arena_strndup(&w->arena, s.n ? s.p : "", s.n), s.n};
}

static nib_status copy_value(nib_gguf_writer *w, nib_gguf_kv *kv, nib_error *e) {
    size_t bytes = 0;
    bool strings = kv->type == NIB_GGUF_ARR && kv->arr_type == NIB_GGUF_STR;
    if (kv->type == NIB_GGUF_STR) {
        bytes = kv->str.n;
        if (!(kv->str = copy_str(w, kv->str)).p) goto nomem;
    }
    if (kv->type != NIB_GGUF_ARR) return NIB_OK;
    size_t each = strings ? sizeof(nib_str) : gguf_type_bytes(kv->arr_type);
    const void *from = strings && !kv->arr_data ? (const void *)kv->arr_str : kv->arr_data;
    if (!each || kv->arr_n < 0 || (kv->arr_n && !from) ||
        !nib_mul_size((size_t)kv->arr_n, each, &bytes))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected an array of numbers or strings, found %lld of type %s",
                        (long long)kv->arr_n, gguf_type_name(kv->arr_type));
    void *copy = nib_arena_alloc(&w->arena, bytes);
    if (!copy) goto nomem;
    if (!strings) {
        if (kv->arr_n) memcpy(copy, from, bytes);
        kv->arr_data = copy;
        return NIB_OK;
    }
    nib_str *strs = copy;
    nib_gguf_strs it = nib_gguf_strs_of(kv);
    for (int64_t i = 0; i < kv->arr_n; i++) {
        nib_str s = nib_gguf_strs_next(&it);
        bytes = s.n;
        if (!(strs[i] = copy_str(w, s)).p) goto nomem;
    }
    kv->arr_str = strs;
    kv->arr_data = NULL;
    return NIB_OK;
nomem:
    return nib_fail_nomem(e, bytes, "a value");
}

static nib_status check_value(const nib_gguf_kv *kv, nib_error *e) {
    if (!gguf_type_name(kv->type))
        return nib_fail(e, NIB_ERR_ARGUMENT, "expected a type of GGUF, found id %d", (int)kv->type);
    if (gguf_type_is_int(kv->type)) {
        /* Widened values are stored narrow: the narrow one must read back as the wide one. */
        uint8_t raw[8];
        memcpy(raw, &kv->i, sizeof raw);
        int64_t back = gguf_load_i64(kv->type, raw);
        if (back != kv->i || (kv->type == NIB_GGUF_BOOL && back > 1) ||
            (kv->type == NIB_GGUF_U64 && back < 0))
            return nib_fail(e, NIB_ERR_ARGUMENT, "expected a value that a %s holds, found %lld",
                            gguf_type_name(kv->type), (long long)kv->i);
    }
    if (nib_str_eq_c(kv->key, "general.alignment") &&
        !(kv->type == NIB_GGUF_U32 && gguf_alignment_ok(kv->i)))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected a u32 that is a power of two from 8, found %s %lld",
                        gguf_type_name(kv->type), (long long)kv->i);
    return NIB_OK;
}

nib_status nib_gguf_write_kv(nib_gguf_writer *w, const nib_gguf_kv *kv, nib_error *e) {
    NIB_TRY(refuse_after_begin(w, e));
    nib_gguf_kv copy = *kv;
    nib_status s = NIB_OK;
    if (kv->key.n < 1 || kv->key.n > GGUF_MAX_KEY)
        s = nib_fail(e, NIB_ERR_ARGUMENT, "expected a key of 1 to %d bytes, found %zu",
                     GGUF_MAX_KEY, kv->key.n);
    if (s == NIB_OK) s = check_value(kv, e);
    if (s == NIB_OK) s = copy_value(w, &copy, e);
    if (s != NIB_OK) return nib_fail_in(e, s, "'%s': key '%.*s'", w->path, SHOW(kv->key));
    uint32_t at;
    if (nib_strmap_get(&w->kv_index, kv->key, &at)) {
        copy.key = w->kvs[at].key;
        w->kvs[at] = copy;
        return NIB_OK;
    }
    void *kvs = w->kvs;
    copy.key = copy_str(w, kv->key);
    if (!copy.key.p || !grow(&kvs, w->n_kv, &w->cap_kv, sizeof *w->kvs)) goto nomem;
    w->kvs = kvs;
    if (!nib_strmap_set(&w->kv_index, copy.key, (uint32_t)w->n_kv)) goto nomem;
    w->kvs[w->n_kv++] = copy;
    return NIB_OK;
nomem:
    return nib_fail_nomem(e, kv->key.n, "a key");
}

nib_status nib_gguf_write_i64(nib_gguf_writer *w, const char *key, nib_gguf_type t, int64_t v,
                              nib_error *e) {
    if (!gguf_type_is_int(t))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': key '%s': expected an integer type, found type id %d", w->path, key,
                        (int)t);
    return nib_gguf_write_kv(w, &(nib_gguf_kv){.key = nib_str_c(key), .type = t, .i = v}, e);
}

nib_status nib_gguf_write_f32(nib_gguf_writer *w, const char *key, float v, nib_error *e) {
    return nib_gguf_write_kv(w, &(nib_gguf_kv){.key = nib_str_c(key), .type = NIB_GGUF_F32, .f = v},
                             e);
}

nib_status nib_gguf_write_str(nib_gguf_writer *w, const char *key, nib_str v, nib_error *e) {
    return nib_gguf_write_kv(
        w, &(nib_gguf_kv){.key = nib_str_c(key), .type = NIB_GGUF_STR, .str = v}, e);
}

/* ---- tensors ---- */

nib_status nib_gguf_declare(nib_gguf_writer *w, const nib_tensor *t, nib_error *e) {
    NIB_TRY(refuse_after_begin(w, e));
    nib_tensor copy = *t;
    size_t n = strlen(t->name);
    if (n < 1 || n > GGUF_MAX_NAME)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': expected a tensor name of 1 to %d bytes, found %zu", w->path,
                        GGUF_MAX_NAME, n);
    if (nib_strmap_get(&w->tensor_index, nib_str_c(t->name), NULL))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': tensor '%s': expected each tensor once, found it twice", w->path,
                        t->name);
    nib_status s = gguf_check_shape(&copy, e);
    if (s != NIB_OK) return nib_fail_in(e, s, "'%s': tensor '%s'", w->path, t->name);
    /* The alignment may still change; whichever it is, padding to it fits below 2^63 then. */
    if (copy.bytes > MAX_TENSOR_BYTES || w->total > MAX_TENSOR_BYTES - copy.bytes)
        return nib_fail(e, NIB_ERR_LIMIT,
                        "'%s': expected less than 2^62 bytes of tensors, found more", w->path);
    void *tensors = w->tensors;
    copy.name = nib_arena_strndup(&w->arena, t->name, n);
    if (!copy.name || !grow(&tensors, w->n_tensors, &w->cap_tensors, sizeof *w->tensors))
        goto nomem;
    w->tensors = tensors;
    if (!nib_strmap_set(&w->tensor_index, nib_str_c(copy.name), (uint32_t)w->n_tensors)) goto nomem;
    w->tensors[w->n_tensors++] = copy;
    w->total += copy.bytes;
    return NIB_OK;
nomem:
    return nib_fail_nomem(e, n, "a tensor's description");
}

/* ---- bytes ---- */

/* stdio's buffer makes small puts cheap; its error flag is looked at by 'written'. */
static void put(nib_gguf_writer *w, const void *p, size_t n) {
    fwrite(p, 1, n, w->file.f);
}
static void put_u32(nib_gguf_writer *w, uint32_t v) {
    put(w, &v, sizeof v);
}
static void put_u64(nib_gguf_writer *w, uint64_t v) {
    put(w, &v, sizeof v);
}
static void put_str(nib_gguf_writer *w, nib_str s) {
    put_u64(w, s.n);
    put(w, s.p, s.n);
}

static nib_status written(const nib_gguf_writer *w, nib_error *e) {
    if (!ferror(w->file.f)) return NIB_OK;
    return nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", w->path, strerror(errno));
}

static void put_value(nib_gguf_writer *w, const nib_gguf_kv *kv) {
    put_u32(w, (uint32_t)kv->type);
    switch (kv->type) {
    case NIB_GGUF_STR: put_str(w, kv->str); break;
    case NIB_GGUF_F64: put(w, &kv->f, 8); break;
    case NIB_GGUF_F32: {
        float f = (float)kv->f;
        put(w, &f, sizeof f);
        break;
    }
    case NIB_GGUF_ARR:
        put_u32(w, (uint32_t)kv->arr_type);
        put_u64(w, (uint64_t)kv->arr_n);
        if (kv->arr_type != NIB_GGUF_STR)
            put(w, kv->arr_data, (size_t)kv->arr_n * gguf_type_bytes(kv->arr_type));
        else
            for (int64_t i = 0; i < kv->arr_n; i++) put_str(w, kv->arr_str[i]);
        break;
    default:
        put(w, &kv->i, gguf_type_bytes(kv->type)); /* little-endian: the low bytes come first */
    }
}

static nib_status pad(nib_gguf_writer *w, nib_error *e) {
    static const char zeros[64];
    off_t at = ftello(w->file.f);
    if (at < 0) return nib_fail(e, NIB_ERR_IO, "cannot write '%s': %s", w->path, strerror(errno));
    for (size_t n = NIB_ROUND_UP((size_t)at, w->alignment) - (size_t)at; n;) {
        size_t step = NIB_MIN(n, sizeof zeros);
        put(w, zeros, step);
        n -= step;
    }
    return written(w, e);
}

nib_status nib_gguf_begin(nib_gguf_writer *w, nib_error *e) {
    NIB_TRY(refuse_after_begin(w, e));
    uint32_t at;
    w->alignment = nib_strmap_get(&w->kv_index, NIB_STR("general.alignment"), &at)
                       ? (size_t)w->kvs[at].i
                       : GGUF_DEFAULT_ALIGNMENT;
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, w->n_tensors);
    put_u64(w, w->n_kv);
    for (size_t i = 0; i < w->n_kv; i++) {
        put_str(w, w->kvs[i].key);
        put_value(w, &w->kvs[i]);
    }
    size_t offset = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const nib_tensor *t = &w->tensors[i];
        put_str(w, nib_str_c(t->name));
        put_u32(w, (uint32_t)t->n_dims);
        for (int d = 0; d < t->n_dims; d++) put_u64(w, (uint64_t)t->ne[d]);
        put_u32(w, (uint32_t)t->dtype);
        put_u64(w, offset);
        offset = NIB_ROUND_UP(offset + t->bytes, w->alignment);
    }
    NIB_TRY(pad(w, e));
    w->begun = true;
    w->left = w->n_tensors ? w->tensors[0].bytes : 0;
    return NIB_OK;
}

nib_status nib_gguf_write_data(nib_gguf_writer *w, const void *p, size_t n, nib_error *e) {
    if (!w->begun)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%s': expected nib_gguf_begin before the data, found data", w->path);
    const char *from = p;
    while (n) {
        if (w->current == w->n_tensors)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "'%s': expected the data of %zu tensors, found %zu bytes more", w->path,
                            w->n_tensors, n);
        size_t step = NIB_MIN(n, w->left);
        put(w, from, step);
        NIB_TRY(written(w, e));
        from += step, n -= step, w->left -= step;
        if (w->left) break;
        NIB_TRY(pad(w, e));
        if (++w->current < w->n_tensors) w->left = w->tensors[w->current].bytes;
    }
    return NIB_OK;
}

nib_status nib_gguf_commit(nib_gguf_writer *w, nib_error *e) {
    nib_status s;
    if (!w->begun) NIB_TRY_OUT(nib_gguf_begin(w, e)); /* keys only */
    if (w->current < w->n_tensors) {
        s = nib_fail(e, NIB_ERR_ARGUMENT,
                     "'%s': tensor '%s': expected %zu bytes of data more, found none", w->path,
                     w->tensors[w->current].name, w->left);
        goto out;
    }
    s = nib_outfile_commit(&w->file, e);
out:
    nib_gguf_writer_abort(w);
    return s;
}
