/* Template source, a NUL, and the variables as JSON: parsed and rendered under small limits.
 * Whatever comes out must be valid UTF-8 covered by spans. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include "chat/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const nib_rendered *r) {
    size_t at = 0;
    for (size_t i = 0; i < r->n_spans; i++) {
        if (r->spans[i].start != at || !r->spans[i].len) abort();
        at += r->spans[i].len;
    }
    if (at != r->text.len) abort();
    if (at && !nib_utf8_valid(r->text.data, at)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *src = (const char *)data, *vars = memchr(src, 0, size);
    size_t n = vars ? (size_t)(vars - src) : size;
    json_t *v = NULL;
    if (vars) nib_json_parse(vars + 1, size - n - 1, &v, NULL);
    if (!v) v = json_object();
    nib_template *t;
    nib_error e;
    if (nib_template_parse(&t, src, n, &e) == NIB_OK) {
        static const char *const trusted[] = {"bos_token", NULL};
        nib_render_options o = {
            .now = 1700000000, .max_output = 1 << 20, .max_steps = 300000, .trusted = trusted};
        nib_rendered r;
        if (nib_template_render(t, v, &o, &r, &e) == NIB_OK) {
            check(&r);
            nib_rendered_continue(&r, "go on ", 6, &e);
            check(&r);
            nib_rendered_free(&r);
        }
        nib_template_free(t);
    }
    json_decref(v);
    return 0;
}
