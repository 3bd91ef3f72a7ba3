/* Any bytes as Markdown: HTML that is well formed and can do no harm. */
#include <stdlib.h>
#include "../lib/htmlcheck.h"
#include "markup/markup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_buf out = {0};
    nib_markdown((const char *)data, size, &out);
    const char *wrong = out.data ? html_wrong(out.data, html_of_markdown) : NULL;
    if (wrong) {
        fprintf(stderr, "%s\n%s\n", wrong, out.data);
        abort();
    }
    nib_buf_free(&out);
    return 0;
}
