/* Text handling on any bytes: nothing crashes, cleaning twice is cleaning once, and splitting
 * thoughts loses nothing. */
#include <stdlib.h>
#include "chat/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok) {
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 16) return 0;
    const char *p = (const char *)data;
    nib_buf once = {0}, twice = {0}, fixed = {0}, thought = {0}, answer = {0};
    require(nib_text_cleanup(p, size, &once, NULL) == NIB_OK);
    require(nib_text_cleanup(once.data ? once.data : "", once.len, &twice, NULL) == NIB_OK);
    require(once.len == twice.len &&
            (once.len == 0 || memcmp(once.data, twice.data, once.len) == 0));

    int n = nib_sentence_count(p, size);
    require(n == 0 || nib_sentence_end(p, size, n) <= size);
    require(nib_sentence_end(p, size, n + 1) == SIZE_MAX);
    const char *const strings[] = {"User:", "\n\n", NULL};
    nib_stops stops = {strings, 3};
    size_t safe = 0;
    for (size_t at = 0; at <= size; at += 1 + size / 8) {
        nib_stop_result r = nib_stops_check(&stops, p, at, safe, false);
        require(r.safe <= at);
        safe = r.safe;
        if (r.stopped) break;
    }

    nib_think_split s = {.inside = size % 2};
    for (size_t at = 0; at < size; at += 3)
        require(nib_think_put(&s, p + at, NIB_MIN(size - at, (size_t)3), at + 3 >= size, &thought,
                              &answer) == NIB_OK);
    require(thought.len + answer.len <= 2 * size);
    nib_think_free(&s);

    nib_dictionary *d = NULL; /* the input as a dictionary, and a text corrected by it */
    if (nib_dictionary_from_text(&d, p, size, NULL) == NIB_OK)
        require(nib_autocorrect(d, p, size, &fixed, NULL) == NIB_OK);
    nib_dictionary_free(d);
    nib_buf_free(&once);
    nib_buf_free(&twice);
    nib_buf_free(&fixed);
    nib_buf_free(&thought);
    nib_buf_free(&answer);
    return 0;
}
