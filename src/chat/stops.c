/* When a reply is over, by its text: stop strings, which are cut off, and a number of sentences,
 * which are kept.
 *
 * Text that may still become a stop string, or that follows what may still turn out to be the last
 * sentence's end, is not safe to show. The answer for a text is the same however it arrived. */
#include "chat/text_internal.h"

/* The first stop string in text[from..len), or len. */
static size_t first_match(const nib_stops *s, const char *text, size_t len, size_t from) {
    size_t first = len;
    for (const char *const *w = s->strings; w && *w; w++) {
        size_t n = strlen(*w);
        if (n == 0 || from + n > len) continue;
        const char *p = memmem(text + from, len - from, *w, n);
        if (p && (size_t)(p - text) < first) first = (size_t)(p - text);
    }
    return first;
}

/* Where the longest end of text begins that is the beginning of a stop string, or len. */
static size_t first_partial(const nib_stops *s, const char *text, size_t len, size_t from) {
    size_t first = len;
    for (const char *const *w = s->strings; w && *w; w++) {
        size_t n = strlen(*w);
        for (size_t k = NIB_MIN(n ? n - 1 : 0, len - from); k > 0 && len - k < first; k--)
            if (memcmp(text + len - k, *w, k) == 0) first = len - k;
    }
    return first;
}

nib_stop_result nib_stops_check(const nib_stops *s, const char *text, size_t len, size_t from,
                                bool final) {
    from = NIB_MIN(from, len);
    size_t cut = first_match(s, text, len, from), hold = len;
    if (s->n_sentences > 0) {
        nib_sentence_walk w = {.p = text, .len = len};
        size_t end = 0;
        nib_sentence_certainty c = NIB_SENTENCE_SURE;
        int n = 0;
        while (n < s->n_sentences && nib_sentence_next(&w, &end, &c)) n++;
        if (n == s->n_sentences && end <= cut) {
            if (c == NIB_SENTENCE_SURE || (final && c == NIB_SENTENCE_IF_LAST))
                return (nib_stop_result){end, true, "sentences"};
            hold = end;
        }
    }
    if (cut < len) return (nib_stop_result){cut, true, "stop"};
    if (final) return (nib_stop_result){len, false, NULL};
    return (nib_stop_result){NIB_MIN(hold, first_partial(s, text, len, from)), false, NULL};
}
