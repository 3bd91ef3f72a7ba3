/* Safetensors, reading: maps the files of a model and proves their headers.
 *
 * A file is: the length of the header (u64, little-endian), the header, the tensors' data. The
 * header is one JSON object: a tensor's name gives {"dtype", "shape", "data_offsets": [begin,
 * end]}, offsets counted from the first byte of data; "__metadata__" holds strings. A model larger
 * than one file has an index, model.safetensors.index.json, whose "weight_map" gives each tensor's
 * file.
 *
 * Invariants: the header is at most MAX_HEADER bytes and inside the file; of every tensor,
 * product(shape) * bytes of its format == end - begin; sorted by begin, tensors follow each other
 * without gap or overlap from 0 to the end of the file (the format demands it, and so a truncated
 * file cannot open). An index names plain files of its own folder only.
 *
 * Source: the safetensors format description (huggingface/safetensors, README). */
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "formats/internal.h"

enum { MAX_HEADER = 32 << 20, MAX_FILES = 4096, MAX_INDEX = 64 << 20 };
#define DAMAGED "the file is damaged or incomplete: fetch it again"

static const struct {
    const char *name;
    size_t bytes;
    bool is_float;
    nib_dtype dtype;
} st_formats[] = {
    {"F32", 4, true, NIB_F32},      {"F16", 2, true, NIB_F16},      {"BF16", 2, true, NIB_BF16},
    {"F64", 8, false, NIB_F32},     {"I64", 8, false, NIB_F32},     {"I32", 4, false, NIB_F32},
    {"I16", 2, false, NIB_F32},     {"I8", 1, false, NIB_F32},      {"U64", 8, false, NIB_F32},
    {"U32", 4, false, NIB_F32},     {"U16", 2, false, NIB_F32},     {"U8", 1, false, NIB_F32},
    {"BOOL", 1, false, NIB_F32},    {"F8_E4M3", 1, false, NIB_F32}, {"F8_E5M2", 1, false, NIB_F32},
    {"F8_E8M0", 1, false, NIB_F32},
};

typedef struct st_file {
    nib_filemap map;
    bool mapped;
    const char *path; /* in the arena */
    int64_t first, n; /* its tensors */
} st_file;

struct nib_st {
    nib_arena arena;
    st_file *files;
    int64_t n_files;
    nib_st_tensor *tensors;
    int64_t n_tensors, cap_tensors;
    nib_strmap index;
};

/* ---- one header ---- */

static nib_status read_shape(nib_st_tensor *t, const json_t *v, size_t each, size_t *bytes,
                             nib_error *e) {
    if (!json_is_array(v) || json_array_size(v) > NIB_ST_MAX_DIMS)
        return nib_fail(e, NIB_ERR_FORMAT, "'shape': expected a list of at most %d numbers",
                        NIB_ST_MAX_DIMS);
    t->n_dims = (int)json_array_size(v);
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *d = json_array_get(v, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0 ||
            json_integer_value(d) > (json_int_t)1 << 48)
            return nib_fail(e, NIB_ERR_FORMAT, "'shape': expected whole numbers from 0 to 2^48");
        t->shape[i] = json_integer_value(d);
        if (!nib_mul_size(n, (size_t)t->shape[i], &n))
            return nib_fail(e, NIB_ERR_FORMAT, "'shape': its product overflows");
    }
    if (n > INT64_MAX / 8 || !nib_mul_size(n, each, bytes))
        return nib_fail(e, NIB_ERR_FORMAT, "'shape': its product overflows");
    t->count = (int64_t)n;
    return NIB_OK;
}

static nib_status read_entry(nib_st_tensor *t, const json_t *v, const uint8_t *data, size_t n_data,
                             nib_error *e) {
    const json_t *offsets = json_object_get(v, "data_offsets");
    const char *format = json_string_value(json_object_get(v, "dtype"));
    size_t k = 0, bytes;
    if (!json_is_object(v) || !format)
        return nib_fail(e, NIB_ERR_FORMAT, "expected an object with dtype, shape and data_offsets");
    while (k < NIB_ARRAY_LEN(st_formats) && strcmp(st_formats[k].name, format) != 0) k++;
    if (k == NIB_ARRAY_LEN(st_formats))
        return nib_fail(e, NIB_ERR_UNSUPPORTED, "dtype '%.40s' is not known", format);
    t->format = st_formats[k].name;
    t->is_float = st_formats[k].is_float;
    t->dtype = st_formats[k].dtype;
    NIB_TRY(read_shape(t, json_object_get(v, "shape"), st_formats[k].bytes, &bytes, e));
    const json_t *b = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(end))
        return nib_fail(e, NIB_ERR_FORMAT, "'data_offsets': expected two numbers");
    json_int_t from = json_integer_value(b), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > n_data)
        return nib_fail(
            e, NIB_ERR_FORMAT,
            "'data_offsets' are %lld to %lld, but the file holds %zu bytes of data; " DAMAGED,
            (long long)from, (long long)to, n_data);
    if ((size_t)(to - from) != bytes)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'data_offsets' span %lld bytes, but shape and dtype %s make %zu",
                        (long long)(to - from), format, bytes);
    t->data = data + from;
    t->bytes = bytes;
    return NIB_OK;
}

static int by_place(const void *a, const void *b) {
    const nib_st_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1
                               : x->bytes > y->bytes; /* empty ones before the one they precede */
}

static nib_status check_places(const nib_st_tensor *t, int64_t n, const uint8_t *data, size_t bytes,
                               nib_error *e) {
    const uint8_t *at = data;
    for (int64_t i = 0; i < n; i++) {
        if (t[i].data != at)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "tensor '%.64s' begins at byte %zu of the data, expected %zu: tensors "
                            "overlap or leave a gap",
                            t[i].name, (size_t)((const uint8_t *)t[i].data - data),
                            (size_t)(at - data));
        at += t[i].bytes;
    }
    if (at != data + bytes)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "%zu bytes of data, of which the header describes %zu; " DAMAGED, bytes,
                        (size_t)(at - data));
    return NIB_OK;
}

static nib_status add_entries(nib_st *st, st_file *f, json_t *header, const uint8_t *data,
                              size_t n_data, nib_error *e) {
    int64_t want = st->n_tensors + (int64_t)json_object_size(header);
    if (want > st->cap_tensors) {
        int64_t cap = NIB_MAX(want, st->cap_tensors * 2);
        nib_st_tensor *p = nib_realloc(st->tensors, (size_t)cap * sizeof *p);
        if (!p) return nib_fail_nomem(e, (size_t)cap * sizeof *p, "tensors");
        st->tensors = p;
        st->cap_tensors = cap;
    }
    const char *name;
    json_t *v;
    f->first = st->n_tensors;
    json_object_foreach(header, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        nib_st_tensor t = {0};
        if (strlen(name) < 1 || strlen(name) > GGUF_MAX_NAME)
            return nib_fail(e, NIB_ERR_FORMAT, "expected names of 1 to %d bytes, found '%.64s'",
                            GGUF_MAX_NAME, name);
        nib_status s = read_entry(&t, v, data, n_data, e);
        if (s != NIB_OK) return nib_fail_in(e, s, "tensor '%.64s'", name);
        t.name = nib_arena_strndup(&st->arena, name, strlen(name));
        if (!t.name) return nib_fail_nomem(e, strlen(name), "a tensor's name");
        st->tensors[st->n_tensors++] = t;
    }
    f->n = st->n_tensors - f->first;
    if (!f->n) return check_places(NULL, 0, data, n_data, e);
    qsort(st->tensors + f->first, (size_t)f->n, sizeof(nib_st_tensor), by_place);
    return check_places(st->tensors + f->first, f->n, data, n_data, e);
}

static nib_status read_header(nib_st *st, st_file *f, nib_error *e) {
    const uint8_t *p = f->map.data;
    size_t n = f->map.size;
    uint64_t len;
    if (n < 8)
        return nib_fail(e, NIB_ERR_FORMAT, "expected a header, found %zu bytes; " DAMAGED, n);
    memcpy(&len, p, 8);
    if (n >= 9 && (memcmp(p, "GGUF", 4) == 0 || memcmp(p, "version ", 8) == 0))
        return nib_fail(e, NIB_ERR_FORMAT,
                        p[0] == 'G' ? "this is a GGUF file, not safetensors"
                                    : "this is a Git LFS pointer: fetch the file itself (git lfs "
                                      "pull)");
    if (len > n - 8 || len > MAX_HEADER || len < 2)
        return nib_fail(
            e, NIB_ERR_FORMAT,
            "the header claims %llu bytes: expected 2 to %zu (the file has %zu); " DAMAGED,
            (unsigned long long)len, NIB_MIN(n - 8, (size_t)MAX_HEADER), n);
    if (p[8] != '{')
        return nib_fail(e, NIB_ERR_FORMAT,
                        "expected a JSON object after the header's length, "
                        "found byte 0x%02x: this is no safetensors file",
                        p[8]);
    json_t *header;
    nib_status s = nib_json_parse((const char *)p + 8, (size_t)len, &header, e);
    if (s != NIB_OK) return nib_fail_in(e, s, "header");
    s = json_is_object(header) ? add_entries(st, f, header, p + 8 + len, n - 8 - (size_t)len, e)
                               : nib_fail(e, NIB_ERR_FORMAT, "the header is no JSON object");
    json_decref(header);
    return s;
}

/* ---- files ---- */

static nib_status build_index(nib_st *st, nib_error *e) {
    if (!nib_strmap_reserve(&st->index, (size_t)st->n_tensors))
        return nib_fail_nomem(e, (size_t)st->n_tensors * 16, "the index of tensors");
    for (int64_t i = 0; i < st->n_tensors; i++) {
        nib_str name = nib_str_c(st->tensors[i].name);
        if (nib_strmap_get(&st->index, name, NULL))
            return nib_fail(e, NIB_ERR_FORMAT, "tensor '%.64s' is in two files: expected one",
                            st->tensors[i].name);
        if (!nib_strmap_set(&st->index, name, (uint32_t)i)) return nib_fail_nomem(e, 16, "a name");
    }
    return NIB_OK;
}

/* Opens files[0..n): names in 'folder', or one whole path when folder is NULL. */
static nib_status open_files(nib_st *st, const char *folder, char **names, int64_t n,
                             nib_error *e) {
    st->files = nib_calloc((size_t)n, sizeof *st->files);
    if (!st->files) return nib_fail_nomem(e, (size_t)n * sizeof *st->files, "files");
    for (int64_t i = 0; i < n; i++) {
        st_file *f = &st->files[i];
        nib_buf path = {0};
        if (folder) nib_buf_printf(&path, "%s/", folder);
        if (nib_buf_puts(&path, names[i]))
            f->path = nib_arena_strndup(&st->arena, path.data, path.len);
        nib_buf_free(&path);
        if (!f->path) return nib_fail_nomem(e, strlen(names[i]), "a file name");
        NIB_TRY(nib_filemap_open(&f->map, f->path, e));
        f->mapped = true;
        st->n_files++;
        nib_status s = read_header(st, f, e);
        if (s != NIB_OK) return nib_fail_in(e, s, "'%s'", f->path);
    }
    return build_index(st, e);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names, int64_t n) {
    for (int64_t i = 0; i < n; i++) nib_free(names[i]);
    nib_free(names);
}

/* The files an index names, sorted, each once. */
static nib_status index_files(const json_t *map, char ***out, int64_t *n_out, nib_error *e) {
    size_t n = json_object_size(map);
    if (!json_is_object(map) || n < 1)
        return nib_fail(e, NIB_ERR_FORMAT, "expected 'weight_map', an object of tensors");
    char **all = nib_alloc(n * sizeof *all), **names;
    if (!all) return nib_fail_nomem(e, n * sizeof *all, "the index");
    const char *tensor;
    json_t *v;
    size_t k = 0;
    nib_status s = NIB_OK;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v) {
        const char *name = json_string_value(v);
        if (!name || !*name || strchr(name, '/') || name[0] == '.') {
            s = nib_fail(e, NIB_ERR_FORMAT,
                         "tensor '%.64s': expected the name of a file beside "
                         "the index, found '%.64s'",
                         tensor, name ? name : "no string");
            goto out;
        }
        all[k++] = (char *)(uintptr_t)name;
    }
    qsort(all, k, sizeof *all, by_text);
    n = 0;
    for (size_t i = 0; i < k; i++)
        if (!n || strcmp(all[n - 1], all[i]) != 0) all[n++] = all[i];
    if (n > MAX_FILES) {
        s = nib_fail(e, NIB_ERR_LIMIT, "%zu files: expected at most %d", n, MAX_FILES);
        goto out;
    }
    names = nib_calloc(n, sizeof *names);
    for (size_t i = 0; names && i < n; i++) {
        if ((names[i] = nib_strdup(all[i]))) continue;
        free_names(names, (int64_t)i);
        names = NULL;
    }
    if (!names) {
        s = nib_fail_nomem(e, n * sizeof *names, "the index");
        goto out;
    }
    *out = names;
    *n_out = (int64_t)n;
out:
    nib_free(all);
    return s;
}

/* Everything the index promises must be there, in the file it says. */
static nib_status check_index(const nib_st *st, const json_t *map, nib_error *e) {
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v) {
        const char *file = json_string_value(v);
        uint32_t at;
        if (!nib_strmap_get(&st->index, nib_str_c(tensor), &at))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "tensor '%.64s' should be in '%.64s', but is not there", tensor, file);
        int64_t k = 0;
        while (at >= st->files[k].first + st->files[k].n) k++;
        const char *slash = strrchr(st->files[k].path, '/');
        if (strcmp(slash ? slash + 1 : st->files[k].path, file) != 0)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "tensor '%.64s' should be in '%.64s', but is in "
                            "'%s'",
                            tensor, file, st->files[k].path);
    }
    return NIB_OK;
}

static nib_status open_index(nib_st *st, const char *folder, const char *path, nib_error *e) {
    nib_buf text = {.max = MAX_INDEX + 1};
    json_t *v = NULL;
    char **names = NULL;
    int64_t n = 0;
    nib_status s;
    NIB_TRY_OUT(nib_file_read(path, MAX_INDEX, &text, e));
    if ((s = nib_json_parse(text.data, text.len, &v, e)) != NIB_OK) {
        nib_fail_in(e, s, "'%s'", path);
        goto out;
    }
    const json_t *map = json_object_get(v, "weight_map");
    if ((s = index_files(map, &names, &n, e)) != NIB_OK) {
        nib_fail_in(e, s, "'%s'", path);
        goto out;
    }
    if ((s = open_files(st, folder, names, n, e)) != NIB_OK) {
        nib_fail_in(e, s, "a file that '%s' names", path);
        goto out;
    }
    if ((s = check_index(st, map, e)) != NIB_OK) nib_fail_in(e, s, "'%s'", path);
out:
    free_names(names, n);
    json_decref(v);
    nib_buf_free(&text);
    return s;
}

/* model-0000K-of-0000N.safetensors without an index, in order; all of one N. */
static nib_status open_parts(nib_st *st, const char *folder, nib_error *e) {
    char **names = NULL;
    int64_t n = 0;
    unsigned k, of, all = 0;
    bool pickled = false;
    nib_status s = NIB_OK;
    DIR *d = opendir(folder);
    for (struct dirent *f; d && (f = readdir(d));) {
        const char *dot = strrchr(f->d_name, '.');
        pickled |= dot && (strcmp(dot, ".bin") == 0 || strcmp(dot, ".pt") == 0);
        int end = 0;
        if (sscanf(f->d_name, "model-%5u-of-%5u.safetensors%n", &k, &of, &end) != 2 ||
            (size_t)end != strlen(f->d_name) || n >= MAX_FILES)
            continue;
        char **more = nib_realloc(names, (size_t)(n + 1) * sizeof *names);
        if (more) names = more;
        if (!more || !(names[n] = nib_strdup(f->d_name))) {
            s = nib_fail_nomem(e, sizeof *names, "a file name");
            goto out;
        }
        n++;
        all = of;
    }
    if (!n) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND,
                     pickled ? "'%s' has its weights as PyTorch pickles, which can run code: "
                               "expected model.safetensors; save it again with safetensors"
                             : "'%s' has no weights: expected model.safetensors, or "
                               "model.safetensors.index.json and the files it names",
                     folder);
        goto out;
    }
    if ((unsigned)n != all) {
        s = nib_fail(e, NIB_ERR_FORMAT, "'%s' holds %lld of %u files of weights: fetch the others",
                     folder, (long long)n, all);
        goto out;
    }
    qsort(names, (size_t)n, sizeof *names, by_text);
    s = open_files(st, folder, names, n, e);
out:
    if (d) closedir(d);
    free_names(names, n);
    return s;
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static nib_status open_path(nib_st *st, const char *path, nib_error *e) {
    char *one = (char *)(uintptr_t)path;
    nib_str p = nib_str_c(path), index = NIB_STR(".index.json");
    nib_buf name = {0};
    nib_status s;
    if (!is_folder(path)) {
        if (p.n < index.n || memcmp(p.p + p.n - index.n, index.p, index.n) != 0)
            return open_files(st, NULL, &one, 1, e);
        const char *slash = strrchr(path, '/');
        nib_buf_put(&name, slash ? path : ".", slash ? (size_t)(slash - path) : 1);
        s = name.failed ? nib_fail_nomem(e, p.n, "a file name")
                        : open_index(st, name.len ? name.data : "/", path, e);
        nib_buf_free(&name);
        return s;
    }
    nib_buf_printf(&name, "%s/model.safetensors.index.json", path);
    if (name.failed) {
        s = nib_fail_nomem(e, p.n, "a file name");
    } else if (access(name.data, F_OK) == 0) {
        s = open_index(st, path, name.data, e);
    } else {
        nib_buf_clear(&name);
        nib_buf_printf(&name, "%s/model.safetensors", path);
        one = name.data;
        s = access(one, F_OK) == 0 ? open_files(st, NULL, &one, 1, e) : open_parts(st, path, e);
    }
    nib_buf_free(&name);
    return s;
}

nib_status nib_st_open(nib_st **out, const char *path, nib_error *e) {
    nib_st *st = nib_calloc(1, sizeof *st);
    if (!st) return nib_fail_nomem(e, sizeof *st, "a safetensors file");
    nib_arena_init(&st->arena, 0);
    nib_status s = open_path(st, path, e);
    if (s == NIB_OK)
        *out = st;
    else
        nib_st_close(st);
    return s;
}

nib_status nib_st_open_memory(nib_st **out, const void *p, size_t n, nib_error *e) {
    nib_st *st = nib_calloc(1, sizeof *st);
    if (!st) return nib_fail_nomem(e, sizeof *st, "a safetensors file");
    nib_arena_init(&st->arena, 0);
    nib_status s;
    st->files = nib_calloc(1, sizeof *st->files);
    if (!st->files) {
        s = nib_fail_nomem(e, sizeof *st->files, "files");
        goto out;
    }
    st->n_files = 1;
    st->files[0].map = (nib_filemap){.data = p, .size = n};
    st->files[0].path = "(memory)";
    NIB_TRY_OUT(read_header(st, &st->files[0], e));
    NIB_TRY_OUT(build_index(st, e));
    *out = st;
    return NIB_OK;
out:
    nib_st_close(st);
    return s;
}

void nib_st_close(nib_st *st) {
    if (!st) return;
    for (int64_t i = 0; st->files && i < st->n_files; i++)
        if (st->files[i].mapped) nib_filemap_close(&st->files[i].map);
    nib_free(st->files);
    nib_free(st->tensors);
    nib_strmap_free(&st->index);
    nib_arena_free(&st->arena);
    nib_free(st);
}

int64_t nib_st_n_tensors(const nib_st *st) {
    return st->n_tensors;
}
const nib_st_tensor *nib_st_tensor_at(const nib_st *st, int64_t i) {
    return &st->tensors[i];
}
const nib_st_tensor *nib_st_find(const nib_st *st, const char *name) {
    uint32_t at;
    return nib_strmap_get(&st->index, nib_str_c(name), &at) ? &st->tensors[at] : NULL;
}
int64_t nib_st_n_files(const nib_st *st) {
    return st->n_files;
}
const char *nib_st_file_at(const nib_st *st, int64_t i) {
    return st->files[i].path;
}

void nib_st_drop(const nib_st *st, const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = NIB_ROUND_UP((uintptr_t)p, page), to = ((uintptr_t)p + n) / page * page;
    for (int64_t i = 0; i < st->n_files; i++) {
        uintptr_t base = (uintptr_t)st->files[i].map.data;
        if (!st->files[i].mapped || (uintptr_t)p < base ||
            (uintptr_t)p + n > base + st->files[i].map.size)
            continue;
        if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
    }
}
