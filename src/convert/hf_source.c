/* A Hugging Face folder: its JSON files, and which family it is. */
#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>
#include "convert/internal.h"

enum { MAX_JSON = 256 << 20 }; /* the largest tokenizer.json files have some 40 MB */

static const conv_family families[] = {
#define NIB_FAMILY(BIT, arch, classes, model_type, prefix, pres, theta, eps)                       \
    {BIT, arch, classes, model_type, prefix, pres, theta, eps},
#include "convert/families.def"
#undef NIB_FAMILY
};

/* Whether 'name' is one of the '|'-separated words. */
static bool among(const char *words, const char *name) {
    size_t n = strlen(name);
    for (const char *p = words; *p; p += strspn(p, "|")) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, name, n) == 0) return true;
        p += len;
    }
    return false;
}

const conv_family *conv_family_of_class(const char *name) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(families); i++)
        if (*name && among(families[i].classes, name)) return &families[i];
    return NULL;
}

const conv_family *conv_family_of_arch(nib_str arch) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(families); i++)
        if (nib_str_eq_c(arch, families[i].arch)) return &families[i];
    return NULL;
}

const char *conv_family_list(void) {
    static const char list[] =
#define NIB_FAMILY(BIT, arch, classes, ...) ", " arch
#include "convert/families.def"
#undef NIB_FAMILY
        ;
    return list + 2;
}

/* ---- files ---- */

static nib_status file_path(const conv_hf *h, const char *name, nib_buf *out, nib_error *e) {
    nib_buf_printf(out, "%s/%s", h->folder, name);
    return out->failed ? nib_fail_nomem(e, strlen(name), "a file name") : NIB_OK;
}

nib_status conv_hf_bytes(const conv_hf *h, const char *name, size_t max, nib_buf *out,
                         nib_error *e) {
    nib_buf path = {0};
    out->max = max + 1;
    nib_status s = file_path(h, name, &path, e);
    if (s == NIB_OK && (access(path.data, F_OK) == 0 || errno != ENOENT))
        s = nib_file_read(path.data, max, out, e);
    nib_buf_free(&path);
    return s;
}

nib_status conv_hf_json(const conv_hf *h, const char *name, json_t **out, nib_error *e) {
    nib_buf text = {0};
    nib_status s = conv_hf_bytes(h, name, MAX_JSON, &text, e);
    if (s == NIB_OK && !text.data) {
        *out = NULL;
        return NIB_OK;
    }
    if (s == NIB_OK) {
        json_t *v;
        s = nib_json_parse(text.data, text.len, &v, e);
        if (s != NIB_OK) {
            nib_fail_in(e, s, "'%s/%s'", h->folder, name);
        } else if (!json_is_object(v)) {
            s = nib_fail(e, NIB_ERR_FORMAT, "'%s/%s': expected a JSON object", h->folder, name);
            json_decref(v);
        } else {
            *out = v;
        }
    }
    nib_buf_free(&text);
    return s;
}

bool nib_convert_is_hf(const char *path) {
    nib_buf name = {0};
    struct stat st;
    bool yes = stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
               nib_buf_printf(&name, "%s/config.json", path) && access(name.data, F_OK) == 0;
    nib_buf_free(&name);
    return yes;
}

static nib_status find_family(conv_hf *h, nib_error *e) {
    const json_t *list = json_object_get(h->config, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name)
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s/config.json': expected \"architectures\", a list with the name of the "
                        "model's class",
                        h->folder);
    h->family = conv_family_of_class(name);
    if (h->family) return NIB_OK;
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "'%s' is a %.60s, which nib does not run; it runs the families %s", h->folder,
                    name, conv_family_list());
}

nib_status conv_hf_open(conv_hf *h, const char *folder, nib_error *e) {
    conv_hf fresh = {.folder = folder};
    nib_status s;
    NIB_TRY_OUT(conv_hf_json(&fresh, "config.json", &fresh.config, e));
    if (!fresh.config) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND,
                     "'%s' has no config.json: expected a folder as Hugging Face has them", folder);
        goto out;
    }
    NIB_TRY_OUT(find_family(&fresh, e));
    json_t *text = json_object_get(fresh.config, "text_config");
    if (json_is_object(text) && json_object_update(fresh.config, text)) {
        s = nib_fail_nomem(e, 64, "config.json");
        goto out;
    }
    NIB_TRY_OUT(conv_hf_json(&fresh, "tokenizer.json", &fresh.tokenizer, e));
    NIB_TRY_OUT(conv_hf_json(&fresh, "tokenizer_config.json", &fresh.tok_config, e));
    NIB_TRY_OUT(conv_hf_json(&fresh, "generation_config.json", &fresh.generation, e));
    *h = fresh;
    return NIB_OK;
out:
    conv_hf_close(&fresh);
    return s;
}

void conv_hf_close(conv_hf *h) {
    json_decref(h->config);
    json_decref(h->tokenizer);
    json_decref(h->tok_config);
    json_decref(h->generation);
    *h = (conv_hf){0};
}

/* ---- values ---- */

const json_t *conv_hf_value(const conv_hf *h, const char *names) {
    for (const char *p = names; *p; p += strspn(p, "|")) {
        size_t n = strcspn(p, "|");
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        const json_t *v = json_object_get(h->config, name);
        if (v && !json_is_null(v)) return v;
        p += n;
    }
    return NULL;
}

static nib_status missing(const conv_hf *h, const char *names, nib_error *e) {
    return nib_fail(e, NIB_ERR_FORMAT, "'%s/config.json': '%.*s' is missing: a %s needs it",
                    h->folder, (int)strcspn(names, "|"), names, h->family->arch);
}

nib_status conv_hf_int(const conv_hf *h, const char *names, int64_t min, int64_t max, bool required,
                       int64_t *out, nib_error *e) {
    const json_t *v = conv_hf_value(h, names);
    if (!v) return required ? missing(h, names, e) : NIB_OK;
    double f = json_number_value(v);
    /* some writers give whole numbers as 4096.0 */
    if (!json_is_number(v) || !(f >= (double)min && f <= (double)max) || f != floor(f))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s/config.json': '%.*s': expected a whole number from %lld to %lld",
                        h->folder, (int)strcspn(names, "|"), names, (long long)min, (long long)max);
    *out = json_is_integer(v) ? json_integer_value(v) : (int64_t)f;
    return NIB_OK;
}

nib_status conv_hf_num(const conv_hf *h, const char *names, bool required, double *out,
                       nib_error *e) {
    const json_t *v = conv_hf_value(h, names);
    if (!v) return required ? missing(h, names, e) : NIB_OK;
    double f = json_number_value(v);
    if (!json_is_number(v) || !isfinite((float)f))
        return nib_fail(e, NIB_ERR_FORMAT,
                        "'%s/config.json': '%.*s': expected a number that a float holds", h->folder,
                        (int)strcspn(names, "|"), names);
    *out = f;
    return NIB_OK;
}
