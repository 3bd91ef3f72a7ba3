/* JSON through jansson, which is strict about numbers, keys and UTF-8. */
#include <jansson.h>
#include "base/base.h"

enum { MAX_DEPTH = 200 };

/* jansson limits depth at 2048 frames; ours is lower, so that everything built on a parsed value
 * may recurse. */
static bool depth_ok(const char *p, size_t n) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                in_string = false;
        } else if (p[i] == '"') {
            in_string = true;
        } else if (p[i] == '[' || p[i] == '{') {
            if (++depth > MAX_DEPTH) return false;
        } else if (p[i] == ']' || p[i] == '}') {
            depth--;
        }
    }
    return true;
}

nib_status nib_json_parse(const char *p, size_t n, json_t **out, nib_error *e) {
    if (!depth_ok(p, n))
        return nib_fail(e, NIB_ERR_LIMIT, "JSON nested deeper than %d levels", MAX_DEPTH);
    json_error_t je;
    json_t *v = json_loadb(p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &je);
    if (!v)
        return nib_fail(e, NIB_ERR_FORMAT, "JSON line %d, column %d: %s", je.line, je.column,
                        je.text);
    *out = v;
    return NIB_OK;
}

static int put(const char *p, size_t n, void *arg) {
    return nib_buf_put(arg, p, n) ? 0 : -1;
}

nib_status nib_json_write(const json_t *v, nib_buf *out, nib_error *e) {
    size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9);
    if (json_dump_callback(v, put, out, flags))
        return nib_fail(e, NIB_ERR_NOMEM, "could not write JSON");
    return NIB_OK;
}
