/* A GGUF file becomes a Hugging Face folder: config.json, safetensors (in parts with an index when
 * they are large), tokenizer files, generation_config.json. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "convert/internal.h"

static const uint64_t DEFAULT_SHARD = 5000000000;

static nib_status out_path(const conv_hf_out *o, const char *name, nib_buf *path, nib_error *e) {
    nib_buf_printf(path, "%s/%s", o->folder, name);
    return path->failed ? nib_fail_nomem(e, strlen(name), "a file name") : NIB_OK;
}

nib_status conv_out_bytes(const conv_hf_out *o, const char *name, const void *p, size_t n,
                          nib_error *e) {
    nib_buf path = {0};
    nib_status s = out_path(o, name, &path, e);
    char *slash = s == NIB_OK && strchr(name, '/') ? strrchr(path.data, '/') : NULL;
    if (slash) {
        *slash = 0;
        if (mkdir(path.data, 0777) && errno != EEXIST)
            s = nib_fail(e, NIB_ERR_IO, "cannot make the folder '%s': %s", path.data,
                         strerror(errno));
        *slash = '/';
    }
    if (s == NIB_OK) s = nib_file_write(path.data, p, n, e);
    nib_buf_free(&path);
    return s;
}

static int put(const char *p, size_t n, void *arg) {
    return nib_buf_put(arg, p, n) ? 0 : -1;
}

nib_status conv_out_json(const conv_hf_out *o, const char *name, const json_t *v, nib_error *e) {
    nib_buf text = {0};
    /* 9 digits give every float back; people read these files */
    nib_status s = json_dump_callback(v, put, &text, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) ||
                           !nib_buf_putc(&text, '\n')
                       ? nib_fail_nomem(e, text.len, name)
                       : conv_out_bytes(o, name, text.data, text.len, e);
    nib_buf_free(&text);
    return s;
}

/* ---- weights ---- */

static nib_status to_st(void *arg, const void *p, size_t n, nib_error *e) {
    return nib_st_write_data(arg, p, n, e);
}

static nib_status write_shard(const conv_hf_out *o, conv_stream *stream, const conv_model *m,
                              size_t from, size_t to, const char *name, nib_error *e) {
    nib_buf path = {0};
    nib_st_writer *w = NULL;
    nib_status s;
    NIB_TRY_OUT(out_path(o, name, &path, e));
    NIB_TRY_OUT(nib_st_writer_new(&w, path.data, e));
    for (size_t i = from; i < to; i++) {
        const conv_tensor *t = &m->tensors[i];
        int64_t shape[NIB_MAX_DIMS];
        for (int d = 0; d < t->n_dims; d++) shape[d] = t->ne[t->n_dims - 1 - d];
        NIB_TRY_OUT(nib_st_declare(w, t->name, t->type, t->n_dims, shape, e));
    }
    NIB_TRY_OUT(nib_st_begin(w, e));
    for (size_t i = from; i < to; i++)
        NIB_TRY_OUT(conv_stream_tensor(stream, &m->tensors[i], to_st, w, e));
    s = nib_st_commit(w, e);
    w = NULL;
out:
    nib_st_writer_abort(w);
    nib_buf_free(&path);
    return s;
}

/* Where each part begins; the number of parts. */
static size_t cut(const conv_model *m, uint64_t most, size_t *starts) {
    size_t n = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!n || bytes + m->tensors[i].bytes > most) {
            starts[n++] = i;
            bytes = 0;
        }
        bytes += m->tensors[i].bytes;
    }
    starts[n] = m->n_tensors;
    return n;
}

static nib_status write_weights(const conv_hf_out *o, conv_model *m, const nib_convert_params *p,
                                nib_error *e) {
    size_t *starts = nib_alloc((m->n_tensors + 1) * sizeof *starts);
    conv_stream *stream = NULL;
    json_t *map = json_object();
    nib_status s;
    if (!starts || !map) {
        s = nib_fail_nomem(e, m->n_tensors * 8, "the index");
        goto out;
    }
    NIB_TRY_OUT(conv_stream_new(&stream, m, p, e));
    size_t n = cut(m, p->shard_bytes ? p->shard_bytes : DEFAULT_SHARD, starts);
    uint64_t total = 0;
    for (size_t k = 0; k < n; k++) {
        char name[64] = "model.safetensors";
        if (n > 1) snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, n);
        NIB_TRY_OUT(write_shard(o, stream, m, starts[k], starts[k + 1], name, e));
        for (size_t i = starts[k]; i < starts[k + 1]; i++) {
            json_object_set_new(map, m->tensors[i].name, json_string(name));
            total += m->tensors[i].bytes;
        }
    }
    if (n > 1) {
        json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total,
                                  "weight_map", map);
        s = index ? conv_out_json(o, "model.safetensors.index.json", index, e)
                  : nib_fail_nomem(e, 64, "the index");
        json_decref(index);
    }
out:
    json_decref(map);
    conv_stream_free(stream);
    nib_free(starts);
    return s;
}

/* F32, F16 and BF16 stay unless asked otherwise; what is quantised becomes F16. */
static nib_status set_types(conv_hf_out *o, conv_model *m, const nib_convert_params *p,
                            nib_error *e) {
    static const struct {
        const char *name;
        nib_dtype type;
    } types[] = {{"f32", NIB_F32}, {"f16", NIB_F16}, {"bf16", NIB_BF16}};
    static const char *const torch[] = {"float32", "float16", "bfloat16"};
    uint64_t bytes[3] = {0};
    int asked = -1;
    for (int i = 0; i < 3; i++)
        if (p->type && strcasecmp(p->type, types[i].name) == 0) asked = i;
    if (asked < 0 && p->type && strcmp(p->type, "auto") != 0)
        return nib_fail(e, NIB_ERR_ARGUMENT, "'%.20s': safetensors hold f32, f16 or bf16 (or auto)",
                        p->type);
    for (size_t i = 0; i < m->n_tensors; i++) {
        conv_tensor *t = &m->tensors[i];
        nib_dtype type = nib_dtype_get(t->src_type)->block_len > 1 ? NIB_F16 : t->src_type;
        if (asked >= 0 && (t->n_dims > 1 || t->src_type != NIB_F32)) type = types[asked].type;
        if (!conv_set_type(t, type))
            return nib_fail(e, NIB_ERR_FORMAT, "tensor '%s' is too large", t->name);
        for (int k = 0; k < 3; k++)
            if (types[k].type == type) bytes[k] += t->bytes;
    }
    int best = 0;
    for (int k = 1; k < 3; k++)
        if (bytes[k] > bytes[best]) best = k;
    json_object_set_new(o->config, "torch_dtype", json_string(torch[best]));
    return NIB_OK;
}

static nib_status write_folder(conv_hf_out *o, conv_model *m, const nib_convert_params *p,
                               nib_error *e) {
    NIB_TRY(conv_out_keys(o, e));
    NIB_TRY(conv_out_tensors(o, m, e));
    NIB_TRY(conv_out_rope(o, m, e));
    NIB_TRY(set_types(o, m, p, e));
    uint64_t bytes = 1 << 20;
    nib_buf probe = {0};
    for (size_t i = 0; i < m->n_tensors; i++) bytes += m->tensors[i].bytes;
    NIB_TRY(out_path(o, "model.safetensors", &probe, e));
    nib_status s = conv_check_space(probe.data, bytes, e);
    nib_buf_free(&probe);
    if (s != NIB_OK) return s;
    NIB_TRY(conv_out_vocab(o, e));
    if (json_object_size(o->generation))
        NIB_TRY(conv_out_json(o, "generation_config.json", o->generation, e));
    NIB_TRY(write_weights(o, m, p, e));
    /* last: with it the folder is a model */
    return conv_out_json(o, "config.json", o->config, e);
}

nib_status nib_convert_to_hf(const char *gguf, const char *folder, const nib_convert_params *p,
                             nib_convert_result *result, nib_error *e) {
    const nib_convert_params none = {0};
    conv_hf_out o = {.folder = folder,
                     .config = json_object(),
                     .tok_config = json_object(),
                     .generation = json_object()};
    conv_model m;
    nib_str arch;
    nib_status s;
    if (!p) p = &none;
    conv_model_init(&m);
    if (!o.config || !o.tok_config || !o.generation) {
        s = nib_fail_nomem(e, 64, "JSON");
        goto out;
    }
    NIB_TRY_OUT(nib_gguf_open(&m.gguf, gguf, e));
    o.g = m.gguf;
    NIB_TRY_OUT(nib_gguf_str(o.g, "general.architecture", &arch, e));
    if (!(o.family = conv_family_of_arch(arch))) {
        s = nib_fail(e, NIB_ERR_UNSUPPORTED,
                     "architecture '%.*s' cannot be converted: nib knows %s",
                     (int)NIB_MIN(arch.n, (size_t)60), arch.p, conv_family_list());
        goto out;
    }
    if (mkdir(folder, 0777) && errno != EEXIST) {
        s = nib_fail(e, NIB_ERR_IO, "cannot make the folder '%s': %s", folder, strerror(errno));
        goto out;
    }
    struct stat st;
    if (stat(folder, &st) || !S_ISDIR(st.st_mode)) {
        s = nib_fail(e, NIB_ERR_ARGUMENT, "'%s' is no folder: expected one to write to", folder);
        goto out;
    }
    nib_buf old = {0};
    NIB_TRY_OUT(out_path(&o, "config.json", &old, e));
    if (access(old.data, F_OK) == 0 && !p->force)
        s = nib_fail(e, NIB_ERR_ARGUMENT,
                     "'%s' holds a model already: expected a new folder, or --force to write over "
                     "it",
                     folder);
    nib_buf_free(&old);
    if (s == NIB_OK) s = write_folder(&o, &m, p, e);
    if (s == NIB_OK && result) conv_result(&m, result);
out:
    json_decref(o.config);
    json_decref(o.tok_config);
    json_decref(o.generation);
    conv_model_free(&m);
    return s;
}
