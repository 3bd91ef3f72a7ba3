/* Token ids and JSON lines: the shared part of tokenize and detokenize. */
#include <jansson.h>
#include "cli/models.h"
#include "cli/tokens.h"

nib_status nib_tokenizer_open(nib_tokenizer **out, const char *model, nib_error *e) {
    nib_gguf *g = NULL;
    char *path;
    NIB_TRY(nib_model_find(model, &path, e));
    nib_status s = nib_gguf_open(&g, path, e);
    if (s == NIB_OK && (s = nib_tokenizer_from_gguf(out, g, e)) != NIB_OK)
        nib_fail_in(e, s, "%s", path);
    nib_gguf_close(g);
    nib_free(path);
    return s;
}

nib_status nib_print_ids_detok(const nib_tokenizer *t, const int32_t *ids, size_t n, nib_error *e) {
    nib_buf text = {0}, hex = {0};
    json_t *v = NULL, *list = NULL;
    nib_status s;
    NIB_TRY_OUT(nib_detokenize(t, ids, n, true, &text, e));
    list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    const char *p = text.data ? text.data : "";
    if (nib_utf8_valid(p, text.len)) {
        v = json_pack("{s:o, s:s%}", "ids", list, "detok", p, text.len);
    } else {
        for (size_t i = 0; i < text.len; i++) nib_buf_printf(&hex, "%02x", (unsigned char)p[i]);
        v = json_pack("{s:o, s:s%}", "ids", list, "detok_hex", hex.data, hex.len);
    }
    s = nib_print_json_line(v, e);
out:
    nib_buf_free(&text);
    nib_buf_free(&hex);
    return s;
}

nib_status nib_each_json_line(const nib_tokenizer *t,
                              nib_status (*fn)(const nib_tokenizer *t, const json_t *v,
                                               nib_error *e),
                              nib_error *e) {
    nib_buf line = {0};
    nib_status s;
    for (long number = 1;; number++) {
        bool end;
        NIB_TRY_OUT(nib_read_line(stdin, &line, &end, e));
        if (end) break;
        if (strspn(line.data, " \t") == line.len) continue;
        json_t *v = NULL;
        s = nib_json_parse(line.data, line.len, &v, e);
        if (s == NIB_OK && !json_is_object(v))
            s = nib_fail(e, NIB_ERR_FORMAT, "expected a JSON object");
        if (s == NIB_OK) s = fn(t, v, e);
        json_decref(v);
        if (s != NIB_OK) {
            nib_fail_in(e, s, "line %ld", number);
            goto out;
        }
        fflush(stdout); /* whoever asks line by line waits for the answer */
    }
out:
    nib_buf_free(&line);
    return s;
}
