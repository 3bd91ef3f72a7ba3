/* A Hugging Face folder becomes a GGUF file, or one in the cache. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "convert/internal.h"

/* "1.2B": how many parameters there are, in two digits at least. */
static nib_status put_size(conv_model *m, nib_error *e) {
    static const struct {
        double above, unit;
        char letter;
    } units[] = {{1e12, 1e12, 'T'}, {1e9, 1e9, 'B'}, {1e6, 1e6, 'M'}, {0, 1e3, 'K'}};
    double n = 0;
    char text[32];
    for (size_t i = 0; i < m->n_tensors; i++) {
        const conv_tensor *t = &m->tensors[i];
        n += (double)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
    }
    size_t u = 0;
    while (!(n > units[u].above)) u++;
    double v = n / units[u].unit;
    snprintf(text, sizeof text, "%.*f%c", v < 9.5 ? 1 : 0, v, units[u].letter);
    return conv_put_str(m, NULL, "general.size_label", nib_str_c(text), e);
}

/* What most of the weights are. */
static const char *source_type(const conv_model *m) {
    uint64_t bytes[3] = {0};
    static const nib_dtype types[] = {NIB_BF16, NIB_F16, NIB_F32};
    static const char *const names[] = {"bf16", "f16", "f32"};
    for (size_t i = 0; i < m->n_tensors; i++)
        for (int k = 0; k < 3; k++)
            if (m->tensors[i].n_dims > 1 && m->tensors[i].src_type == types[k])
                bytes[k] += m->tensors[i].src_bytes;
    int best = 0;
    for (int k = 1; k < 3; k++)
        if (bytes[k] > bytes[best]) best = k;
    return names[best];
}

nib_status conv_hf_gather(conv_model *m, conv_hf *h, const char *folder, const char *pre,
                          nib_error *e) {
    NIB_TRY(conv_hf_open(h, folder, e));
    NIB_TRY(nib_st_open(&m->st, folder, e));
    NIB_TRY(conv_hf_keys(m, h, e));
    NIB_TRY(conv_hf_tensors(m, h, e));
    NIB_TRY(conv_hf_vocab(m, h, pre, e));
    return put_size(m, e);
}

nib_status nib_convert_to_gguf(const char *folder, const char *out, const nib_convert_params *p,
                               nib_convert_result *result, nib_error *e) {
    const nib_convert_params none = {0};
    conv_model m;
    conv_hf h = {0};
    nib_status s;
    if (!p) p = &none;
    conv_model_init(&m);
    const conv_mix *mix;
    NIB_TRY_OUT(conv_hf_gather(&m, &h, folder, p->pre, e));
    const char *type = p->type && strcmp(p->type, "auto") != 0 ? p->type : source_type(&m);
    NIB_TRY_OUT(conv_mix_find(type, &mix, e));
    NIB_TRY_OUT(conv_mix_apply(&m, mix, NULL, 0, false, e));
    NIB_TRY_OUT(conv_write_gguf(&m, out, p, true, e));
    if (result) conv_result(&m, result);
out:
    conv_hf_close(&h);
    conv_model_free(&m);
    return s;
}

/* ---- the cache ---- */

/* Every file of the folder counts that a conversion could read: name, size and time. */
static nib_status fingerprint(const char *folder, const nib_convert_params *p, uint64_t *out,
                              nib_error *e) {
    DIR *d = opendir(folder);
    if (!d) return nib_fail(e, NIB_ERR_IO, "cannot read '%s': %s", folder, strerror(errno));
    uint64_t sum = nib_hash(folder, strlen(folder), 1), type = 0;
    for (struct dirent *f; (f = readdir(d));) {
        struct stat st;
        if (f->d_name[0] == '.' || fstatat(dirfd(d), f->d_name, &st, 0) || !S_ISREG(st.st_mode))
            continue;
        uint64_t parts[3] = {(uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                             (uint64_t)st.st_mtim.tv_nsec};
        uint64_t one = nib_hash(f->d_name, strlen(f->d_name), 2);
        sum += nib_hash(parts, sizeof parts, one); /* in whatever order */
    }
    closedir(d);
    if (p->type) type = nib_hash(p->type, strlen(p->type), 3);
    *out = nib_hash(&type, sizeof type, sum);
    return NIB_OK;
}

static nib_status make_folders(const char *path, nib_error *e) {
    char *copy = nib_strdup(path);
    if (!copy) return nib_fail_nomem(e, strlen(path), "a file name");
    nib_status s = NIB_OK;
    for (char *p = copy + 1; s == NIB_OK; p++) {
        bool end = !*p;
        if (*p != '/' && !end) continue;
        *p = 0;
        if (mkdir(copy, 0777) && errno != EEXIST)
            s = nib_fail(e, NIB_ERR_IO, "cannot make the folder '%s': %s", copy, strerror(errno));
        if (end) break;
        *p = '/';
    }
    nib_free(copy);
    return s;
}

nib_status nib_convert_cached(const char *folder, const nib_convert_params *p, char **out,
                              nib_error *e) {
    const nib_convert_params none = {0};
    if (!p) p = &none;
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    nib_buf path = {0};
    uint64_t key;
    nib_status s = NIB_OK;
    char *real = realpath(folder, NULL); /* of the C library */
    if (!real) return nib_fail(e, NIB_ERR_IO, "cannot read '%s': %s", folder, strerror(errno));
    if ((s = fingerprint(real, p, &key, e)) != NIB_OK) goto out;
    if (cache && *cache == '/')
        nib_buf_printf(&path, "%s/nib/converted", cache);
    else
        nib_buf_printf(&path, "%s/.cache/nib/converted", home && *home ? home : "/tmp");
    if (path.failed) {
        s = nib_fail_nomem(e, 64, "a file name");
        goto out;
    }
    NIB_TRY_OUT(make_folders(path.data, e));
    const char *slash = strrchr(real, '/');
    nib_buf_printf(&path, "/%.80s-%016llx.gguf", slash[1] ? slash + 1 : "model",
                   (unsigned long long)key);
    char *name = path.failed ? NULL : nib_strdup(path.data);
    if (!name) {
        s = nib_fail_nomem(e, 64, "a file name");
        goto out;
    }
    if (access(name, R_OK) != 0) s = nib_convert_to_gguf(folder, name, p, NULL, e);
    if (s == NIB_OK)
        *out = name;
    else
        nib_free(name);
out:
    free(real);
    nib_buf_free(&path);
    return s;
}
