/* Views of bytes, and the nearest of several words. */
#include "base/base.h"

nib_str nib_str_c(const char *s) {
    return (nib_str){s, strlen(s)};
}
bool nib_str_eq(nib_str a, nib_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
bool nib_str_eq_c(nib_str a, const char *s) {
    return nib_str_eq(a, nib_str_c(s));
}
bool nib_str_starts(nib_str s, nib_str prefix) {
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

size_t nib_str_distance(nib_str a, nib_str b, size_t limit) {
    enum { MAX = 256 }; /* words, not documents */
    size_t gap = a.n > b.n ? a.n - b.n : b.n - a.n;
    if (gap >= limit || a.n > MAX || b.n > MAX) return limit;
    uint16_t rows[3][MAX + 1];
    uint16_t *before = rows[0], *prev = rows[1], *cur = rows[2];
    for (size_t j = 0; j <= b.n; j++) prev[j] = (uint16_t)j;
    for (size_t i = 1; i <= a.n; i++) {
        cur[0] = (uint16_t)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned cost = a.p[i - 1] != b.p[j - 1];
            unsigned v = prev[j - 1] + cost;
            v = NIB_MIN(v, prev[j] + 1u);
            v = NIB_MIN(v, cur[j - 1] + 1u);
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1])
                v = NIB_MIN(v, before[j - 2] + 1u);
            cur[j] = (uint16_t)v;
        }
        uint16_t *t = before;
        before = prev, prev = cur, cur = t;
    }
    return NIB_MIN((size_t)prev[b.n], limit);
}

const char *nib_str_nearest(const char *s, const char *const *candidates, size_t n) {
    nib_str word = nib_str_c(s);
    size_t best =
        NIB_MAX(word.n / 3, (size_t)2) + 1; /* one slip in three letters is still a slip */
    const char *found = NULL;
    for (size_t i = 0; i < n; i++) {
        size_t d = nib_str_distance(word, nib_str_c(candidates[i]), best);
        if (d < best) best = d, found = candidates[i];
    }
    return found;
}
