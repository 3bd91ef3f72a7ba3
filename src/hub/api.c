/* What the hub says of a repo: GET /api/models/USER/REPO/revision/REV?blobs=true, as JSON:
 *
 *     {"sha": COMMIT, "gated": false | "auto" | "manual", "cardData": {"license": ...},
 *      "siblings": [{"rfilename": ..., "size": ..., "blobId": SHA-1, "lfs": {"sha256": ...}}]} */
#include <jansson.h>
#include "hub/internal.h"

static const uint64_t max_size = (uint64_t)1 << 50;

static const char *text_of(const json_t *v, const char *key, size_t *n) {
    const json_t *t = json_object_get(v, key);
    if (!json_is_string(t)) return NULL;
    *n = json_string_length(t);
    return json_string_value(t);
}

static bool hex_of(const json_t *v, const char *key, size_t digits, char *out) {
    size_t n;
    const char *t = text_of(v, key, &n);
    if (!t || n != digits || !nib_is_hex(t, digits)) return false;
    memcpy(out, t, digits + 1);
    return true;
}

static nib_status read_file(nib_hub_listing *l, const json_t *v, nib_hub_file *f, nib_error *e) {
    size_t n;
    const char *name = text_of(v, "rfilename", &n);
    if (!name || !nib_hub_name_ok(name, n)) {
        char shown[64];
        size_t k = 0;
        for (size_t i = 0; name && i < n && k + 1 < sizeof shown; i++)
            shown[k++] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
        shown[k] = 0;
        return nib_fail(e, NIB_ERR_FORMAT,
                        "the hub's list has a file name that is no path inside a repo: '%s'",
                        shown);
    }
    const json_t *lfs = json_object_get(v, "lfs"), *size = json_object_get(v, "size");
    if (json_is_object(lfs) && json_object_get(lfs, "size")) size = json_object_get(lfs, "size");
    f->name = nib_arena_strndup(&l->arena, name, n);
    if (!f->name) return nib_fail_nomem(e, n, "the hub's list of files");
    f->size = UINT64_MAX; /* unknown */
    f->here = false;
    if (size && !json_is_null(size)) {
        json_int_t bytes = json_is_integer(size) ? json_integer_value(size) : -1;
        if (bytes < 0 || (uint64_t)bytes > max_size)
            return nib_fail(e, NIB_ERR_FORMAT,
                            "the hub's list has no sensible size for '%.100s': expected bytes",
                            f->name);
        f->size = (uint64_t)bytes;
    }
    f->digest[0] = 0;
    if (!json_is_object(lfs) ||
        (!hex_of(lfs, "sha256", 64, f->digest) && !hex_of(lfs, "oid", 64, f->digest)))
        hex_of(v, "blobId", 40, f->digest);
    return NIB_OK;
}

static void read_licence(nib_hub_listing *l, const json_t *v) {
    size_t n, i;
    const char *t = text_of(json_object_get(v, "cardData"), "license", &n);
    const json_t *tag;
    json_array_foreach(json_object_get(v, "tags"), i, tag) {
        const char *p = json_string_value(tag);
        if (!t && p && strncmp(p, "license:", 8) == 0) t = p + 8;
    }
    size_t k = 0;
    for (; t && t[k] && k + 1 < sizeof l->licence; k++)
        l->licence[k] = t[k] >= ' ' && t[k] <= '~' ? t[k] : '?';
    l->licence[k] = 0;
}

nib_status nib_hub_listing_read(const char *text, size_t n, nib_hub_listing *out, nib_error *e) {
    nib_hub_listing l = {0};
    json_t *v = NULL;
    nib_status s;
    nib_arena_init(&l.arena, 256 << 20);
    if ((s = nib_json_parse(text, n, &v, e)) != NIB_OK) {
        nib_fail_in(e, s, "the hub's answer");
        goto out;
    }
    const json_t *list = json_object_get(v, "siblings"), *gated = json_object_get(v, "gated"),
                 *item;
    if (!json_is_array(list) || !hex_of(v, "sha", 40, l.commit))
        NIB_TRY_OUT(nib_fail(e, NIB_ERR_FORMAT,
                             "the hub's answer has no list of files with its commit: is this "
                             "endpoint a hub?"));
    l.gated = json_is_string(gated) || json_is_true(gated);
    read_licence(&l, v);
    l.files = nib_arena_calloc(&l.arena, json_array_size(list), sizeof *l.files);
    if (!l.files) NIB_TRY_OUT(nib_fail_nomem(e, json_array_size(list), "the hub's list of files"));
    size_t i;
    json_array_foreach(list, i, item) NIB_TRY_OUT(read_file(&l, item, &l.files[l.n++], e));
    json_decref(v);
    *out = l;
    return NIB_OK;
out:
    json_decref(v);
    nib_arena_free(&l.arena);
    return s;
}

void nib_hub_listing_free(nib_hub_listing *l) {
    nib_arena_free(&l->arena);
    *l = (nib_hub_listing){0};
}
