/* Hugging Face folders that tests write by hand. */
#ifndef NIB_HFFOLDER_H
#define NIB_HFFOLDER_H
#include <sys/stat.h>
#include "formats/formats.h"
#include "testlib.h"

/* "<test_tmp()>/<name>" in a ring of buffers. */
static inline const char *hf_path(const char *name) {
    static char ring[8][600];
    static int at;
    char *p = ring[at++ & 7];
    snprintf(p, sizeof ring[0], "%s/%s", test_tmp(), name);
    return p;
}

/* Makes the folder and writes one of its files. */
static inline void hf_file(const char *folder, const char *name, const void *p, size_t n) {
    char path[700];
    nib_error e;
    mkdir(hf_path(folder), 0777);
    snprintf(path, sizeof path, "%s/%s", hf_path(folder), name);
    test_ok(nib_file_write(path, p, n, &e), &e);
}
static inline void hf_text(const char *folder, const char *name, const char *text) {
    hf_file(folder, name, text, strlen(text));
}

/* Tensors of a model.safetensors in the making: floats named, shaped, filled by a formula. */
typedef struct hf_tensor {
    const char *name;
    int64_t rows, columns; /* rows 0: a vector */
    float base;            /* value at [r][c]: base + r + c / 1024 */
} hf_tensor;
static inline float hf_value(const hf_tensor *t, int64_t r, int64_t c) {
    return t->base + (float)r + (float)c / 1024;
}
static inline void hf_weights(const char *folder, nib_dtype type, const hf_tensor *list, size_t n) {
    nib_error e;
    nib_st_writer *w;
    char path[700];
    mkdir(hf_path(folder), 0777);
    snprintf(path, sizeof path, "%s/model.safetensors", hf_path(folder));
    test_ok(nib_st_writer_new(&w, path, &e), &e);
    for (size_t i = 0; i < n; i++) {
        int64_t shape[2] = {list[i].rows, list[i].columns};
        bool vector = !list[i].rows;
        test_ok(nib_st_declare(w, list[i].name, type, vector ? 1 : 2, shape + vector, &e), &e);
    }
    test_ok(nib_st_begin(w, &e), &e);
    for (size_t i = 0; i < n; i++) {
        int64_t rows = NIB_MAX(list[i].rows, 1), columns = list[i].columns;
        const nib_dtype_info *info = nib_dtype_get(type);
        float *f = nib_alloc((size_t)columns * sizeof *f);
        void *out = nib_alloc((size_t)columns * 4);
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < columns; c++) f[c] = hf_value(&list[i], r, c);
            info->from_f32(f, out, columns, NULL);
            test_ok(nib_st_write_data(w, out, (size_t)columns * info->block_bytes, &e), &e);
        }
        nib_free(f);
        nib_free(out);
    }
    test_ok(nib_st_commit(w, &e), &e);
}

/* A byte-level BPE tokenizer.json of the 256 bytes' letters, three merges and one control token,
 * with the given pre-tokenizer and extra keys of the top level. Ids: bytes 0-255, "th" 256, "the"
 * 257,
 * "\xc4\xa0t" 258, <|end|> 259. */
enum { HF_BPE_VOCAB = 260 };
static inline char *hf_bpe_json(const char *pre_tokenizer, const char *model_extra,
                                const char *extra) {
    nib_buf b = {0};
    nib_buf_printf(&b,
                   "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":259,\"content\":\"<|end|>\","
                   "\"special\":true}],\"pre_tokenizer\":%s,%s\"model\":{\"type\":\"BPE\",%s"
                   "\"vocab\":{",
                   pre_tokenizer, extra, model_extra);
    int odd = 0;
    for (int i = 0; i < 256; i++) {
        bool plain = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        char text[4];
        size_t n = nib_utf8_encode(plain ? i : 256 + odd++, text);
        bool escape = text[0] == '"' || text[0] == '\\';
        nib_buf_printf(&b, "%s\"%s%.*s\":%d", i ? "," : "", escape ? "\\" : "", (int)n, text, i);
    }
    nib_buf_puts(&b,
                 ",\"th\":256,\"the\":257,\"\xc4\xa0t\":258},\"merges\":[\"t h\",[\"th\",\"e\"],"
                 "\"\xc4\xa0 t\"]}}");
    assert_false(b.failed);
    return b.data;
}
#define HF_BYTELEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#endif
