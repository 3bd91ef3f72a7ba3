/* GGUF, reading: maps the files of a model and proves every byte of their headers before anyone
 * uses one.
 *
 * A file is: "GGUF", version, number of tensors, number of keys; the keys; the tensors'
 * descriptions; padding to the alignment; the tensors' data at offsets counted from there. All of
 * it is little-endian, and strings and counts are u64 (version 1 had u32: refused). A large model
 * may be split: the parts are whole GGUF files, of which the first holds all keys of interest, and
 * each holds the descriptions of the tensors whose data it carries.
 *
 * Invariants: a cursor never passes the end of its file; nothing is allocated by a count before the
 * bytes that the count claims, at their smallest, were seen to fit in what is left of the file;
 * strings of keys and values point into the map, tensor names are copied (callers want them
 * NUL-terminated); everything else lives in one arena. After opening, all tensors of a part lie
 * inside it, aligned, and disjoint.
 *
 * Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3; the split keys are those
 * that llama.cpp's gguf-split writes. */
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "formats/internal.h"

/* The smallest encodings: what a claimed count must at least be able to take from the file. */
enum {
    MIN_KV_BYTES = 8 + 1 + 4 + 1,             /* key length, one character, type, a bool */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* name, n_dims, one dimension, type, offset */
    MIN_STR_BYTES = 8,
};
#define DAMAGED "the file is damaged or incomplete: fetch it again"

/* One file of the model. */
typedef struct gguf_part {
    nib_filemap map;
    bool mapped;      /* else the bytes are the caller's */
    const char *path; /* in the arena */
    uint32_t version;
    int64_t n_kv, n_tensors;
    nib_gguf_kv *kvs;
    nib_strmap kv_index;
    nib_tensor *tensors;
} gguf_part;

struct nib_gguf {
    nib_arena arena;
    gguf_part *parts;
    int64_t n_parts;
    nib_tensor *tensors; /* of all parts, in order */
    int64_t n_tensors;
    nib_strmap tensor_index;
};

/* Where reading stands: at <= n always. */
typedef struct cursor {
    const uint8_t *p;
    size_t n, at;
    nib_arena *arena;
} cursor;

/* ---- scalars and strings ---- */

static nib_status truncated(const cursor *c, uint64_t want, const char *what, nib_error *e) {
    return nib_fail(
        e, NIB_ERR_FORMAT,
        "%s at byte %zu: expected %llu bytes, found %zu before the end of the file; " DAMAGED, what,
        c->at, (unsigned long long)want, c->n - c->at);
}

static nib_status take(cursor *c, uint64_t n, const char *what, const uint8_t **out, nib_error *e) {
    if (n > c->n - c->at) return truncated(c, n, what, e);
    *out = c->p + c->at;
    c->at += (size_t)n;
    return NIB_OK;
}

static nib_status take_u32(cursor *c, const char *what, uint32_t *out, nib_error *e) {
    const uint8_t *p;
    NIB_TRY(take(c, 4, what, &p, e));
    *out = nib_load_u32(p);
    return NIB_OK;
}

static nib_status take_u64(cursor *c, const char *what, uint64_t *out, nib_error *e) {
    const uint8_t *p;
    NIB_TRY(take(c, 8, what, &p, e));
    memcpy(out, p, 8);
    return NIB_OK;
}

static nib_status take_str(cursor *c, const char *what, nib_str *out, nib_error *e) {
    uint64_t n;
    const uint8_t *p;
    NIB_TRY(take_u64(c, what, &n, e));
    NIB_TRY(take(c, n, what, &p, e));
    *out = (nib_str){(const char *)p, (size_t)n};
    return NIB_OK;
}

/* A count of things that take at least 'each' bytes of the file. */
static nib_status take_count(cursor *c, const char *what, size_t each, int64_t *out, nib_error *e) {
    uint64_t n;
    NIB_TRY(take_u64(c, what, &n, e));
    if (n > (c->n - c->at) / each || n > INT32_MAX)
        return nib_fail(
            e, NIB_ERR_FORMAT,
            "%s: expected at most %zu (the file has %zu more bytes), found %llu; " DAMAGED, what,
            NIB_MIN((c->n - c->at) / each, (size_t)INT32_MAX), c->n - c->at, (unsigned long long)n);
    *out = (int64_t)n;
    return NIB_OK;
}

/* ---- header ---- */

/* What people hand to a GGUF reader by mistake, known by its first bytes. */
static const struct {
    const char *bytes;
    size_t n;
    const char *what;
} lookalikes[] = {
    {"version https://git-lfs", 23, "a Git LFS pointer: fetch the file itself (git lfs pull)"},
    {"PK\3\4", 4, "a zip or PyTorch file: convert it to GGUF first"},
    {"\x80\2", 2, "a Python pickle: convert it to GGUF first"},
    {"<!DOCTYPE", 9, "a web page: the download went wrong"},
    {"<!doctype", 9, "a web page: the download went wrong"},
    {"<html", 5, "a web page: the download went wrong"},
    {"\x1f\x8b", 2, "gzip data: unpack it first"},
    {"tjgg", 4, "an old GGML file from before GGUF: convert the model again"},
    {"lmgg", 4, "an old GGML file from before GGUF: convert the model again"},
    {"fmgg", 4, "an old GGML file from before GGUF: convert the model again"},
};

static nib_status not_gguf(const cursor *c, nib_error *e) {
    if (c->n == 0)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected a GGUF model, found an empty file; fetch it again");
    char found[4 * 4 + 1];
    int len = 0;
    for (size_t i = 0; i < NIB_MIN(c->n, (size_t)4); i++)
        len += snprintf(found + len, sizeof found - (size_t)len,
                        c->p[i] >= 0x20 && c->p[i] < 0x7f ? "%c" : "\\x%02x", c->p[i]);
    const char *what = "name a .gguf model file";
    for (size_t i = 0; i < NIB_ARRAY_LEN(lookalikes); i++)
        if (c->n >= lookalikes[i].n && !memcmp(c->p, lookalikes[i].bytes, lookalikes[i].n))
            what = lookalikes[i].what;
    /* safetensors: a u64 length, then a JSON object */
    if (c->n > 9 && c->p[8] == '{' && !c->p[6] && !c->p[7])
        what = "a safetensors file: convert it to GGUF first";
    return nib_fail(e, NIB_ERR_FORMAT,
                    "expected 'GGUF' in the first four bytes, found '%s': not a GGUF model; %s",
                    found, what);
}

static nib_status parse_header(cursor *c, gguf_part *part, nib_error *e) {
    if (c->n < 4 || memcmp(c->p, "GGUF", 4)) return not_gguf(c, e);
    c->at = 4;
    uint32_t v;
    NIB_TRY(take_u32(c, "version", &v, e));
    if (v && !(v & 0xffff))
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "expected a little-endian GGUF file, found a big-endian one (version %u); "
                        "convert it for this byte order",
                        (unsigned)__builtin_bswap32(v));
    if (v != 2 && v != 3)
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "expected GGUF version 2 or 3, found %u; %s", v,
                        v == 0   ? DAMAGED
                        : v == 1 ? "convert the model again"
                                 : "this nib is too old for the file");
    part->version = v;
    /* Each count is bounded by the rest of the file; the keys' count after the tensors' is read. */
    NIB_TRY(take_count(c, "number of tensors", MIN_TENSOR_BYTES, &part->n_tensors, e));
    return take_count(c, "number of keys", MIN_KV_BYTES, &part->n_kv, e);
}

/* ---- keys ---- */

/* A scalar of type t at p into kv; false when it is a bool that is neither 0 nor 1, or too large.
 */
static bool load_scalar(nib_gguf_type t, const uint8_t *p, int64_t *i, double *f) {
    if (t == NIB_GGUF_F32) {
        *f = nib_bits_f32(nib_load_u32(p));
    } else if (t == NIB_GGUF_F64) {
        memcpy(f, p, 8);
    } else {
        *i = gguf_load_i64(t, p);
        return !(t == NIB_GGUF_BOOL && *i > 1) && !(t == NIB_GGUF_U64 && *i < 0);
    }
    return true;
}

static nib_status bad_scalar(nib_gguf_type t, int64_t i, nib_error *e) {
    return t == NIB_GGUF_BOOL
               ? nib_fail(e, NIB_ERR_FORMAT, "expected a bool of 0 or 1, found %lld; " DAMAGED,
                          (long long)i)
               : nib_fail(e, NIB_ERR_UNSUPPORTED, "expected an integer below 2^63, found %llu",
                          (unsigned long long)i);
}

static nib_status parse_array(cursor *c, nib_gguf_kv *kv, nib_error *e) {
    uint32_t type;
    NIB_TRY(take_u32(c, "array type", &type, e));
    if (!gguf_type_name(type))
        return nib_fail(e, NIB_ERR_FORMAT, "expected an element type up to %d, found %u; " DAMAGED,
                        NIB_GGUF_F64, (unsigned)type);
    if (type == NIB_GGUF_ARR)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "expected an array of numbers or strings, found an array of arrays");
    kv->arr_type = (nib_gguf_type)type;
    size_t each = type == NIB_GGUF_STR ? MIN_STR_BYTES : gguf_type_bytes(type);
    NIB_TRY(take_count(c, "array length", each, &kv->arr_n, e));
    if (type != NIB_GGUF_STR) {
        const uint8_t *p;
        NIB_TRY(take(c, (uint64_t)kv->arr_n * each, "array", &p, e));
        kv->arr_data = p;
        if (type != NIB_GGUF_BOOL && type != NIB_GGUF_U64) return NIB_OK;
        for (int64_t k = 0; k < kv->arr_n; k++) {
            int64_t i;
            double f;
            if (!load_scalar(kv->arr_type, p + (size_t)k * each, &i, &f))
                return bad_scalar(kv->arr_type, i, e);
        }
        return NIB_OK;
    }
    kv->arr_data = c->p + c->at;
    nib_str s;
    for (int64_t k = 0; k < kv->arr_n; k++) NIB_TRY(take_str(c, "array string", &s, e));
    return NIB_OK;
}

static nib_status parse_value(cursor *c, nib_gguf_kv *kv, nib_error *e) {
    uint32_t type;
    NIB_TRY(take_u32(c, "value type", &type, e));
    if (!gguf_type_name(type))
        return nib_fail(e, NIB_ERR_FORMAT, "expected a value type up to %d, found %u; " DAMAGED,
                        NIB_GGUF_F64, (unsigned)type);
    kv->type = (nib_gguf_type)type;
    if (type == NIB_GGUF_STR) return take_str(c, "string", &kv->str, e);
    if (type == NIB_GGUF_ARR) return parse_array(c, kv, e);
    const uint8_t *p;
    NIB_TRY(take(c, gguf_type_bytes(type), "value", &p, e));
    return load_scalar(kv->type, p, &kv->i, &kv->f) ? NIB_OK : bad_scalar(kv->type, kv->i, e);
}

static nib_status parse_kvs(cursor *c, gguf_part *part, nib_error *e) {
    size_t bytes = (size_t)part->n_kv * sizeof *part->kvs;
    part->kvs = nib_arena_calloc(c->arena, (size_t)part->n_kv, sizeof *part->kvs);
    if (!part->kvs || !nib_strmap_reserve(&part->kv_index, (size_t)part->n_kv))
        return nib_fail_nomem(e, bytes, "the keys of a model file");
    for (int64_t i = 0; i < part->n_kv; i++) {
        nib_gguf_kv *kv = &part->kvs[i];
        nib_status s = take_str(c, "key name", &kv->key, e);
        if (s != NIB_OK)
            return nib_fail_in(e, s, "key %lld of %lld", (long long)i + 1, (long long)part->n_kv);
        if (kv->key.n < 1 || kv->key.n > GGUF_MAX_KEY)
            return nib_fail(
                e, NIB_ERR_FORMAT,
                "key %lld of %lld: expected a name of 1 to %d bytes, found %zu; " DAMAGED,
                (long long)i + 1, (long long)part->n_kv, GGUF_MAX_KEY, kv->key.n);
        s = parse_value(c, kv, e);
        if (s != NIB_OK) return nib_fail_in(e, s, "key '%.*s'", SHOW(kv->key));
        if (nib_strmap_get(&part->kv_index, kv->key, NULL))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "key '%.*s': expected each key once, found it twice; " DAMAGED,
                            SHOW(kv->key));
        if (!nib_strmap_set(&part->kv_index, kv->key, (uint32_t)i))
            return nib_fail_nomem(e, bytes, "the keys of a model file");
    }
    return NIB_OK;
}

static const nib_gguf_kv *find(const gguf_part *part, nib_str key) {
    uint32_t i;
    return nib_strmap_get(&part->kv_index, key, &i) ? &part->kvs[i] : NULL;
}

/* ---- tensors ---- */

static nib_status parse_name(cursor *c, nib_tensor *t, nib_error *e) {
    nib_str name;
    NIB_TRY(take_str(c, "tensor name", &name, e));
    if (name.n < 1 || name.n > GGUF_MAX_NAME || memchr(name.p, 0, name.n))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected a name of 1 to %d bytes without zero bytes, found %zu bytes "
                        "'%.*s'; " DAMAGED,
                        GGUF_MAX_NAME, name.n, SHOW(name));
    t->name = nib_arena_strndup(c->arena, name.p, name.n);
    return t->name ? NIB_OK : nib_fail_nomem(e, name.n, "a tensor's name");
}

static nib_status parse_shape(cursor *c, nib_tensor *t, uint64_t *offset, nib_error *e) {
    uint32_t n_dims, dtype;
    NIB_TRY(take_u32(c, "number of dimensions", &n_dims, e));
    if (n_dims < 1 || n_dims > NIB_MAX_DIMS)
        return nib_fail(e, NIB_ERR_FORMAT, "expected 1 to %d dimensions, found %u; " DAMAGED,
                        NIB_MAX_DIMS, (unsigned)n_dims);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < NIB_MAX_DIMS; i++) {
        uint64_t ne = 1;
        if (i < t->n_dims) NIB_TRY(take_u64(c, "dimension", &ne, e));
        if (ne < 1 || ne > INT64_MAX)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "expected dimension %d to be from 1 to 2^63-1, found %llu; " DAMAGED, i,
                            (unsigned long long)ne);
        t->ne[i] = (int64_t)ne;
    }
    NIB_TRY(take_u32(c, "tensor type", &dtype, e));
    t->dtype = (nib_dtype)dtype;
    NIB_TRY(take_u64(c, "tensor offset", offset, e));
    return gguf_check_shape(t, e);
}

static int by_address(const void *a, const void *b) {
    const nib_tensor *x = *(const nib_tensor *const *)a, *y = *(const nib_tensor *const *)b;
    return ((const char *)x->data > (const char *)y->data) -
           ((const char *)x->data < (const char *)y->data);
}

static nib_status check_disjoint(const gguf_part *part, nib_error *e) {
    size_t bytes = (size_t)part->n_tensors * sizeof(nib_tensor *);
    const nib_tensor **sorted = nib_alloc(bytes);
    if (!sorted) return nib_fail_nomem(e, bytes, "the order of a file's tensors");
    for (int64_t i = 0; i < part->n_tensors; i++) sorted[i] = &part->tensors[i];
    qsort(sorted, (size_t)part->n_tensors, sizeof *sorted, by_address);
    nib_status s = NIB_OK;
    for (int64_t i = 1; i < part->n_tensors && s == NIB_OK; i++) {
        const nib_tensor *a = sorted[i - 1], *b = sorted[i];
        if ((const char *)b->data < (const char *)a->data + a->bytes)
            s = nib_fail(e, NIB_ERR_FORMAT,
                         "tensor '%.64s': expected bytes of its own, found them overlapping tensor "
                         "'%s'; " DAMAGED,
                         b->name, a->name);
    }
    nib_free(sorted);
    return s;
}

static nib_status parse_tensors(cursor *c, gguf_part *part, nib_error *e) {
    int64_t alignment = GGUF_DEFAULT_ALIGNMENT;
    const nib_gguf_kv *kv = find(part, NIB_STR("general.alignment"));
    if (kv) {
        if (!gguf_type_is_int(kv->type))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "key 'general.alignment': expected an integer, found %s",
                            gguf_type_name(kv->type));
        if (!gguf_alignment_ok(kv->i))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "key 'general.alignment': expected a power of two from 8 to 2^31, "
                            "found %lld; " DAMAGED,
                            (long long)kv->i);
        alignment = kv->i;
    }
    size_t n = (size_t)part->n_tensors;
    part->tensors = nib_arena_calloc(c->arena, n, sizeof *part->tensors);
    uint64_t *offsets = nib_alloc(n * sizeof *offsets);
    nib_status s = NIB_OK;
    if (!part->tensors || !offsets) {
        s = nib_fail_nomem(e, n * sizeof *part->tensors, "the tensors of a model file");
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        nib_tensor *t = &part->tensors[i];
        if ((s = parse_name(c, t, e)) != NIB_OK) {
            nib_fail_in(e, s, "tensor %zu of %zu", i + 1, n);
            goto out;
        }
        if ((s = parse_shape(c, t, &offsets[i], e)) != NIB_OK) {
            nib_fail_in(e, s, "tensor '%.64s'", t->name);
            goto out;
        }
    }
    /* A file without tensors (a vocabulary) may end right after its keys. */
    uint64_t start = NIB_ROUND_UP((uint64_t)c->at, (uint64_t)alignment);
    uint64_t room = start < c->n ? c->n - start : 0;
    for (size_t i = 0; i < n; i++) {
        nib_tensor *t = &part->tensors[i];
        if (offsets[i] % (uint64_t)alignment) {
            s = nib_fail(e, NIB_ERR_FORMAT,
                         "tensor '%.64s': expected an offset that is a multiple of %lld, found "
                         "%llu; " DAMAGED,
                         t->name, (long long)alignment, (unsigned long long)offsets[i]);
            goto out;
        }
        if (offsets[i] > room || t->bytes > room - offsets[i]) {
            s = nib_fail(
                e, NIB_ERR_FORMAT,
                "tensor '%.64s': expected %zu bytes at offset %llu of the data, found %llu "
                "bytes of data in the "
                "file; " DAMAGED,
                t->name, t->bytes, (unsigned long long)offsets[i], (unsigned long long)room);
            goto out;
        }
        t->data = c->p + start + offsets[i];
    }
    s = check_disjoint(part, e);
out:
    nib_free(offsets);
    return s;
}

/* ---- parts ---- */

static nib_status parse_part(nib_gguf *g, gguf_part *part, nib_error *e) {
    cursor c = {part->map.data, part->map.size, 0, &g->arena};
    nib_status s = parse_header(&c, part, e);
    if (s == NIB_OK) s = parse_kvs(&c, part, e);
    if (s == NIB_OK) s = parse_tensors(&c, part, e);
    return s == NIB_OK ? s : nib_fail_in(e, s, "'%s'", part->path);
}

/* Appends a part that is then g's to release, whatever happens. */
static nib_status new_part(nib_gguf *g, const char *path, gguf_part **out, nib_error *e) {
    gguf_part *grown = nib_realloc(g->parts, (size_t)(g->n_parts + 1) * sizeof *grown);
    if (!grown) return nib_fail_nomem(e, sizeof *grown, "a model file");
    g->parts = grown;
    gguf_part *part = &grown[g->n_parts];
    *part = (gguf_part){.path = nib_arena_strndup(&g->arena, path, strlen(path))};
    if (!part->path) return nib_fail_nomem(e, strlen(path), "a file name");
    g->n_parts++;
    *out = part;
    return NIB_OK;
}

static nib_status open_part(nib_gguf *g, const char *path, nib_error *e) {
    gguf_part *part;
    NIB_TRY(new_part(g, path, &part, e));
    NIB_TRY(nib_filemap_open(&part->map, path, e));
    part->mapped = true;
    return parse_part(g, part, e);
}

static void close_parts(nib_gguf *g) {
    for (int64_t i = 0; i < g->n_parts; i++) {
        nib_strmap_free(&g->parts[i].kv_index);
        if (g->parts[i].mapped) nib_filemap_close(&g->parts[i].map);
    }
    g->n_parts = 0;
}

/* An integer key of a split file, from min to max; absent gives 'otherwise' (negative: refused). */
static nib_status split_key(const gguf_part *part, const char *key, int64_t min, int64_t max,
                            int64_t otherwise, int64_t *out, nib_error *e) {
    const nib_gguf_kv *kv = find(part, nib_str_c(key));
    if (!kv && otherwise >= 0) {
        *out = otherwise;
        return NIB_OK;
    }
    if (!kv)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s': part of a split model without key '%s'; split the model again",
                        part->path, key);
    if (!gguf_type_is_int(kv->type))
        return nib_fail(e, NIB_ERR_FORMAT, "'%s': key '%s': expected an integer, found %s",
                        part->path, key, gguf_type_name(kv->type));
    if (kv->i < min || kv->i > max)
        return nib_fail(e, NIB_ERR_FORMAT, "'%s': key '%s': expected %lld to %lld, found %lld",
                        part->path, key, (long long)min, (long long)max, (long long)kv->i);
    *out = kv->i;
    return NIB_OK;
}

/* The length of NAME in "NAME-0000K-of-0000N.gguf", K and N; false when path is not of that form.
 */
static bool split_name(const char *path, int *prefix, long *no, long *count) {
    static const char shape[] = "-00000-of-00000.gguf";
    size_t n = strlen(path), m = sizeof shape - 1;
    if (n < m) return false;
    const char *tail = path + n - m;
    for (size_t i = 0; i < m; i++) {
        bool digit = tail[i] >= '0' && tail[i] <= '9';
        if (shape[i] == '0' ? !digit : tail[i] != shape[i]) return false;
    }
    *prefix = (int)(n - m);
    *no = strtol(tail + 1, NULL, 10);
    *count = strtol(tail + 10, NULL, 10);
    return true;
}

/* g->parts[0] is a part of a set of 'count'; opens the whole set in order. */
static nib_status open_set(nib_gguf *g, const char *path, int64_t no, int64_t count, nib_error *e) {
    int prefix;
    long name_no, name_count;
    if (!split_name(path, &prefix, &name_no, &name_count))
        return nib_fail(
            e, NIB_ERR_ARGUMENT,
            "'%s' is part %lld of %lld of a split model: expected it to be named "
            "NAME-%05lld-of-%05lld.gguf, so that the other parts can be found; rename the parts",
            path, (long long)no + 1, (long long)count, (long long)no + 1, (long long)count);
    if (name_no != no + 1 || name_count != count)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s': expected part %ld of %ld by its name, found part %lld of %lld by "
                        "its keys split.no and "
                        "split.count; rename the parts",
                        path, name_no, name_count, (long long)no + 1, (long long)count);
    nib_buf name = {0};
    nib_status s = NIB_OK;
    if (no) close_parts(g);
    for (int64_t i = no ? 0 : 1; i < count; i++) {
        nib_buf_clear(&name);
        if (!nib_buf_printf(&name, "%.*s-%05lld-of-%05lld.gguf", prefix, path, (long long)i + 1,
                            (long long)count)) {
            s = nib_fail_nomem(e, strlen(path), "a file name");
            break;
        }
        if ((s = open_part(g, name.data, e)) != NIB_OK) {
            nib_fail_in(e, s, "part %lld of %lld (all parts must lie in one folder)",
                        (long long)i + 1, (long long)count);
            break;
        }
        int64_t part_no, part_count;
        const gguf_part *part = &g->parts[g->n_parts - 1];
        if ((s = split_key(part, "split.no", i, i, -1, &part_no, e)) != NIB_OK) break;
        if ((s = split_key(part, "split.count", count, count, -1, &part_count, e)) != NIB_OK) break;
    }
    nib_buf_free(&name);
    return s;
}

/* Gathers the tensors of all parts under their names. */
static nib_status index_tensors(nib_gguf *g, nib_error *e) {
    int64_t n = 0;
    for (int64_t p = 0; p < g->n_parts; p++) n += g->parts[p].n_tensors;
    if (g->n_parts > 1) {
        for (int64_t p = 0; p < g->n_parts; p++) {
            int64_t declared;
            NIB_TRY(split_key(&g->parts[p], "split.tensors.count", n, n, n, &declared, e));
        }
    }
    g->tensors = nib_arena_calloc(&g->arena, (size_t)n, sizeof *g->tensors);
    if (!g->tensors || !nib_strmap_reserve(&g->tensor_index, (size_t)n))
        return nib_fail_nomem(e, (size_t)n * sizeof *g->tensors, "the tensors of a model");
    for (int64_t p = 0; p < g->n_parts; p++) {
        for (int64_t i = 0; i < g->parts[p].n_tensors; i++) {
            const nib_tensor *t = &g->parts[p].tensors[i];
            if (nib_strmap_get(&g->tensor_index, nib_str_c(t->name), NULL))
                return nib_fail(
                    e, NIB_ERR_FORMAT,
                    "'%s': tensor '%.64s': expected each tensor once, found it twice; " DAMAGED,
                    g->parts[p].path, t->name);
            if (!nib_strmap_set(&g->tensor_index, nib_str_c(t->name), (uint32_t)g->n_tensors))
                return nib_fail_nomem(e, sizeof *t, "the tensors of a model");
            g->tensors[g->n_tensors++] = *t;
        }
    }
    return NIB_OK;
}

static nib_status new_gguf(nib_gguf **out, nib_error *e) {
    nib_gguf *g = nib_calloc(1, sizeof *g);
    if (!g) return nib_fail_nomem(e, sizeof *g, "a model file");
    nib_arena_init(&g->arena, 0);
    *out = g;
    return NIB_OK;
}

nib_status nib_gguf_open(nib_gguf **out, const char *path, nib_error *e) {
    nib_gguf *g;
    NIB_TRY(new_gguf(&g, e));
    nib_status s;
    NIB_TRY_OUT(open_part(g, path, e));
    int64_t count, no = 0;
    NIB_TRY_OUT(split_key(&g->parts[0], "split.count", 0, UINT16_MAX, 0, &count, e));
    if (count > 1) {
        NIB_TRY_OUT(split_key(&g->parts[0], "split.no", 0, count - 1, -1, &no, e));
        NIB_TRY_OUT(open_set(g, path, no, count, e));
    }
    NIB_TRY_OUT(index_tensors(g, e));
    *out = g;
    return NIB_OK;
out:
    nib_gguf_close(g);
    return s;
}

nib_status nib_gguf_open_memory(nib_gguf **out, const void *p, size_t n, nib_error *e) {
    nib_gguf *g;
    gguf_part *part;
    NIB_TRY(new_gguf(&g, e));
    nib_status s;
    NIB_TRY_OUT(new_part(g, "(memory)", &part, e));
    part->map = (nib_filemap){.data = p, .size = n};
    NIB_TRY_OUT(parse_part(g, part, e));
    int64_t count;
    NIB_TRY_OUT(split_key(part, "split.count", 0, 1, 0, &count, e));
    NIB_TRY_OUT(index_tensors(g, e));
    *out = g;
    return NIB_OK;
out:
    nib_gguf_close(g);
    return s;
}

void nib_gguf_close(nib_gguf *g) {
    if (!g) return;
    close_parts(g);
    nib_strmap_free(&g->tensor_index);
    nib_arena_free(&g->arena);
    nib_free(g->parts);
    nib_free(g);
}

/* ---- what callers ask ---- */

const char *nib_gguf_path(const nib_gguf *g) {
    return g->parts[0].path;
}
uint32_t nib_gguf_version(const nib_gguf *g) {
    return g->parts[0].version;
}
int64_t nib_gguf_n_kv(const nib_gguf *g) {
    return g->parts[0].n_kv;
}
const nib_gguf_kv *nib_gguf_kv_at(const nib_gguf *g, int64_t i) {
    return &g->parts[0].kvs[i];
}
int64_t nib_gguf_n_tensors(const nib_gguf *g) {
    return g->n_tensors;
}
const nib_tensor *nib_gguf_tensor_at(const nib_gguf *g, int64_t i) {
    return &g->tensors[i];
}

uint64_t nib_gguf_file_bytes(const nib_gguf *g) {
    uint64_t n = 0;
    for (int64_t i = 0; i < g->n_parts; i++) n += g->parts[i].map.size;
    return n;
}

const nib_gguf_kv *nib_gguf_find(const nib_gguf *g, const char *key) {
    return find(&g->parts[0], nib_str_c(key));
}

const nib_tensor *nib_gguf_tensor(const nib_gguf *g, const char *name) {
    uint32_t i;
    return nib_strmap_get(&g->tensor_index, nib_str_c(name), &i) ? &g->tensors[i] : NULL;
}

/* Finds key or fails with NOT_FOUND, naming what was expected. */
static nib_status need(const nib_gguf *g, const char *key, const char *expected,
                       const nib_gguf_kv **out, nib_error *e) {
    *out = nib_gguf_find(g, key);
    if (*out) return NIB_OK;
    return nib_fail(e, NIB_ERR_NOT_FOUND, "'%s': key '%s': expected %s, found no such key",
                    nib_gguf_path(g), key, expected);
}

static nib_status mistyped(const nib_gguf *g, const nib_gguf_kv *kv, const char *expected,
                           nib_error *e) {
    bool arr = kv->type == NIB_GGUF_ARR;
    return nib_fail(e, NIB_ERR_FORMAT, "'%s': key '%.*s': expected %s, found %s%s%s",
                    nib_gguf_path(g), SHOW(kv->key), expected, gguf_type_name(kv->type),
                    arr ? " of " : "", arr ? gguf_type_name(kv->arr_type) : "");
}

nib_status nib_gguf_i64(const nib_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                        nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(need(g, key, "an integer", &kv, e));
    if (!gguf_type_is_int(kv->type) || kv->type == NIB_GGUF_BOOL)
        return mistyped(g, kv, "an integer", e);
    if (kv->i < min || kv->i > max)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s': key '%s': expected an integer from %lld to %lld, found %lld",
                        nib_gguf_path(g), key, (long long)min, (long long)max, (long long)kv->i);
    *out = kv->i;
    return NIB_OK;
}

nib_status nib_gguf_f32(const nib_gguf *g, const char *key, float *out, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(need(g, key, "a number", &kv, e));
    double v;
    if (gguf_type_is_float(kv->type))
        v = kv->f;
    else if (gguf_type_is_int(kv->type) && kv->type != NIB_GGUF_BOOL)
        v = (double)kv->i;
    else
        return mistyped(g, kv, "a number", e);
    if (!isfinite((float)v))
        return nib_fail(e, NIB_ERR_FORMAT, "'%s': key '%s': expected a finite number, found %g",
                        nib_gguf_path(g), key, v);
    *out = (float)v;
    return NIB_OK;
}

nib_status nib_gguf_bool(const nib_gguf *g, const char *key, bool *out, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(need(g, key, "a bool", &kv, e));
    if (kv->type != NIB_GGUF_BOOL) return mistyped(g, kv, "a bool", e);
    *out = kv->i != 0;
    return NIB_OK;
}

nib_status nib_gguf_str(const nib_gguf *g, const char *key, nib_str *out, nib_error *e) {
    const nib_gguf_kv *kv;
    NIB_TRY(need(g, key, "a string", &kv, e));
    if (kv->type != NIB_GGUF_STR) return mistyped(g, kv, "a string", e);
    *out = kv->str;
    return NIB_OK;
}

nib_status nib_gguf_arr(const nib_gguf *g, const char *key, bool strings, const nib_gguf_kv **out,
                        nib_error *e) {
    const char *expected = strings ? "an array of strings" : "an array of numbers";
    const nib_gguf_kv *kv;
    NIB_TRY(need(g, key, expected, &kv, e));
    if (kv->type != NIB_GGUF_ARR || (kv->arr_type == NIB_GGUF_STR) != strings)
        return mistyped(g, kv, expected, e);
    *out = kv;
    return NIB_OK;
}

double nib_gguf_arr_f64(const nib_gguf_kv *kv, int64_t i) {
    int64_t v = 0;
    double f = 0;
    size_t each = gguf_type_bytes(kv->arr_type);
    load_scalar(kv->arr_type, (const uint8_t *)kv->arr_data + (size_t)i * each, &v, &f);
    return gguf_type_is_float(kv->arr_type) ? f : (double)v;
}

int64_t nib_gguf_arr_i64(const nib_gguf_kv *kv, int64_t i) {
    if (gguf_type_is_float(kv->arr_type)) {
        double f = nib_gguf_arr_f64(kv, i);
        return f >= -0x1p63 && f < 0x1p63 ? (int64_t)f : 0;
    }
    size_t each = gguf_type_bytes(kv->arr_type);
    return gguf_load_i64(kv->arr_type, (const uint8_t *)kv->arr_data + (size_t)i * each);
}

int64_t nib_gguf_n_parts(const nib_gguf *g) {
    return g->n_parts;
}

const nib_filemap *nib_gguf_part(const nib_gguf *g, int64_t i, const char **path) {
    *path = g->parts[i].path;
    return &g->parts[i].map;
}

void nib_gguf_drop(const nib_gguf *g, const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p;
    for (int64_t i = 0; i < g->n_parts; i++) {
        const gguf_part *part = &g->parts[i];
        uintptr_t start = (uintptr_t)part->map.data;
        /* Only a mapping: heap memory would come back as zeros. */
        if (!part->mapped || at < start || at - start > part->map.size ||
            n > part->map.size - (at - start))
            continue;
        uintptr_t from = NIB_ROUND_UP(at, page), to = (at + n) / page * page;
        if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
    }
}

void nib_gguf_drop_all(const nib_gguf *g) {
    for (int64_t i = 0; i < g->n_parts; i++)
        if (g->parts[i].mapped && g->parts[i].map.size)
            madvise((void *)(uintptr_t)g->parts[i].map.data, g->parts[i].map.size, MADV_DONTNEED);
}
