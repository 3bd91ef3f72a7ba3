/* formats - model files: GGUF and safetensors, read and written.
 *
 * Everything read is hostile: after nib_gguf_open succeeds, every key, string, array and tensor
 * lies inside the mapped files, every count was checked, every tensor's bytes match its dimensions,
 * names are unique, and no two tensors overlap. What a key means is the caller's business. Format:
 * ggml's docs/gguf.md, versions 2 and 3, little-endian. */
#ifndef NIB_FORMATS_H
#define NIB_FORMATS_H
#include "tensor/tensor.h"

typedef enum nib_gguf_type {
#define NIB_GGUF_TYPE(NAME, c_type, bytes, text) NIB_GGUF_##NAME,
#include "formats/gguf_types.def"
#undef NIB_GGUF_TYPE
} nib_gguf_type;

/* One key. Scalars are widened: integers and bool into i (u64 above INT64_MAX is refused at open),
 * floats into f. */
typedef struct nib_gguf_kv {
    nib_str key;
    nib_gguf_type type;
    int64_t i;
    double f;
    nib_str str;
    nib_gguf_type arr_type; /* arrays: element type (no nested arrays: refused at open) */
    int64_t arr_n;
    /* Scalars: raw little-endian elements, unaligned. Strings: NULL, or as the file has them, each
     * a u64 length and its bytes. */
    const void *arr_data;
    const nib_str *arr_str; /* strings of a key to be written, when arr_data is NULL */
} nib_gguf_kv;

typedef struct nib_gguf nib_gguf;

/* Opens path and, when it is any part of a split set (NAME-0000K-of-0000N.gguf), all parts: the
 * keys are those of the first part, the tensors those of all. The files must not shrink while they
 * are open. */
nib_status nib_gguf_open(nib_gguf **out, const char *path, nib_error *e);
/* The same over bytes in memory, which must outlive the handle; for tests and fuzzing. Alignment of
 * p: 8. */
nib_status nib_gguf_open_memory(nib_gguf **out, const void *p, size_t n, nib_error *e);
void nib_gguf_close(nib_gguf *g);

const char *nib_gguf_path(const nib_gguf *g);
/* The files it was read from, bytes and stamp; those of memory have no stamp. */
int64_t nib_gguf_n_parts(const nib_gguf *g);
const nib_filemap *nib_gguf_part(const nib_gguf *g, int64_t i, const char **path);
uint32_t nib_gguf_version(const nib_gguf *g);
uint64_t nib_gguf_file_bytes(const nib_gguf *g); /* all parts */
int64_t nib_gguf_n_kv(const nib_gguf *g);
const nib_gguf_kv *nib_gguf_kv_at(const nib_gguf *g, int64_t i);
const nib_gguf_kv *nib_gguf_find(const nib_gguf *g, const char *key); /* NULL when absent */
int64_t nib_gguf_n_tensors(const nib_gguf *g);
const nib_tensor *nib_gguf_tensor_at(const nib_gguf *g, int64_t i);
const nib_tensor *nib_gguf_tensor(const nib_gguf *g, const char *name); /* NULL when absent */

/* Typed look-ups. Absent: NIB_ERR_NOT_FOUND (message names the key). Wrong type or out of range:
 * NIB_ERR_FORMAT. Any integer type serves for integers; F32/F64 and integers for floats. */
nib_status nib_gguf_i64(const nib_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                        nib_error *e);
nib_status nib_gguf_f32(const nib_gguf *g, const char *key, float *out, nib_error *e); /* finite */
nib_status nib_gguf_bool(const nib_gguf *g, const char *key, bool *out, nib_error *e);
nib_status nib_gguf_str(const nib_gguf *g, const char *key, nib_str *out, nib_error *e);
/* An array of the given kind: strings, to be taken one after another with a nib_gguf_strs, or
 * numbers converted by nib_gguf_arr_i64/_f64 below. */
nib_status nib_gguf_arr(const nib_gguf *g, const char *key, bool strings, const nib_gguf_kv **out,
                        nib_error *e);
/* 0 <= i < arr_n; numbers and bools only. A float that no int64 holds gives 0. */
int64_t nib_gguf_arr_i64(const nib_gguf_kv *kv, int64_t i);
double nib_gguf_arr_f64(const nib_gguf_kv *kv, int64_t i);

/* The strings of an array, in order. They are not indexed when a file is opened: a vocabulary has
 * hundreds of thousands, which are read once. */
typedef struct nib_gguf_strs {
    const nib_str *str;
    const uint8_t *p;
    int64_t left;
} nib_gguf_strs;
static inline nib_gguf_strs nib_gguf_strs_of(const nib_gguf_kv *kv) {
    return (nib_gguf_strs){kv->arr_str, (const uint8_t *)kv->arr_data, kv->arr_n};
}
/* The next one, empty behind the last. */
static inline nib_str nib_gguf_strs_next(nib_gguf_strs *it) {
    if (it->left <= 0) return (nib_str){"", 0};
    it->left--;
    if (!it->p) return *it->str++;
    uint64_t n;
    memcpy(&n, it->p, 8);
    nib_str s = {(const char *)it->p + 8, (size_t)n};
    it->p += 8 + n;
    return s;
}

/* Tells the kernel that [p, p+n) of a mapped file is not needed soon: its whole pages leave this
 * process's memory and are read again when touched. Nothing happens for bytes that are not in a
 * mapped file of g. Any thread. */
void nib_gguf_drop(const nib_gguf *g, const void *p, size_t n);
void nib_gguf_drop_all(const nib_gguf *g); /* all bytes of all parts */

/* ---- writing: add keys and tensor descriptions, begin, write each tensor's bytes in order, commit
 * ---- */
typedef struct nib_gguf_writer nib_gguf_writer;
nib_status nib_gguf_writer_new(nib_gguf_writer **out, const char *path, nib_error *e);
nib_status nib_gguf_write_kv(nib_gguf_writer *w, const nib_gguf_kv *kv,
                             nib_error *e); /* replaces an equal key */
nib_status nib_gguf_write_i64(nib_gguf_writer *w, const char *key, nib_gguf_type t, int64_t v,
                              nib_error *e);
nib_status nib_gguf_write_f32(nib_gguf_writer *w, const char *key, float v, nib_error *e);
nib_status nib_gguf_write_str(nib_gguf_writer *w, const char *key, nib_str v, nib_error *e);
nib_status nib_gguf_declare(nib_gguf_writer *w, const nib_tensor *t,
                            nib_error *e); /* data is not looked at */
nib_status nib_gguf_begin(nib_gguf_writer *w, nib_error *e);
nib_status nib_gguf_write_data(nib_gguf_writer *w, const void *p, size_t n, nib_error *e);
/* Fails when not every declared byte was written; the file appears under its name only here. Frees
 * w either way. */
nib_status nib_gguf_commit(nib_gguf_writer *w, nib_error *e);
void nib_gguf_writer_abort(nib_gguf_writer *w);

/* ---- safetensors: a JSON header and the tensors' bytes, perhaps in several files ----
 *
 * Read with the same promise: after opening, every tensor lies inside its mapped file, its bytes
 * match its shape and format, names are unique, no two tensors of a file overlap and no byte is
 * left over. */
enum { NIB_ST_MAX_DIMS = 8 };
typedef struct nib_st_tensor {
    const char *name;
    const char *format; /* as the file spells it: "BF16", "F32", "I64", ... */
    bool is_float;      /* F32, F16 or BF16: then dtype says which; others have no nib_dtype */
    nib_dtype dtype;
    int n_dims;
    int64_t shape[NIB_ST_MAX_DIMS]; /* slowest first, as the file has it; may be 0 */
    int64_t count;                  /* product of shape */
    const void *data;               /* at any alignment */
    size_t bytes;
} nib_st_tensor;

typedef struct nib_st nib_st;
/* path: a .safetensors file, a model.safetensors.index.json, or a folder that holds one of them
 * (or files model-0000K-of-0000N.safetensors). Of an index every tensor must be where it says. */
nib_status nib_st_open(nib_st **out, const char *path, nib_error *e);
/* One file's bytes, which must outlive the handle. */
nib_status nib_st_open_memory(nib_st **out, const void *p, size_t n, nib_error *e);
void nib_st_close(nib_st *st);
int64_t nib_st_n_tensors(const nib_st *st);
const nib_st_tensor *nib_st_tensor_at(const nib_st *st, int64_t i); /* files in order, by offset */
const nib_st_tensor *nib_st_find(const nib_st *st, const char *name); /* NULL when absent */
int64_t nib_st_n_files(const nib_st *st);
const char *nib_st_file_at(const nib_st *st, int64_t i);
/* As nib_gguf_drop. */
void nib_st_drop(const nib_st *st, const void *p, size_t n);

/* Writing one file: declare all, begin, write each tensor's bytes in that order, commit. */
typedef struct nib_st_writer nib_st_writer;
nib_status nib_st_writer_new(nib_st_writer **out, const char *path, nib_error *e);
/* F32, F16 and BF16; shape slowest first. */
nib_status nib_st_declare(nib_st_writer *w, const char *name, nib_dtype t, int n_dims,
                          const int64_t *shape, nib_error *e);
nib_status nib_st_begin(nib_st_writer *w, nib_error *e);
nib_status nib_st_write_data(nib_st_writer *w, const void *p, size_t n, nib_error *e);
/* As nib_gguf_commit. */
nib_status nib_st_commit(nib_st_writer *w, nib_error *e);
void nib_st_writer_abort(nib_st_writer *w);
#endif
