/* What happens to a text before it is cut into words: bytes that are not UTF-8 become U+FFFD, one
 * for each maximal invalid sequence, and where the model's family asks for it the text is brought
 * into NFC or NFD.
 *
 * utf8proc knows the decompositions, classes and compositions. The canonical ordering in between is
 * done here, because utf8proc sorts by swapping neighbours, which takes quadratic time on a long
 * run of combining marks. Most text is in NFC already: only the stretches that might not be are
 * taken apart, and a text without any is not copied. Source: Unicode Standard Annex 15. */
#include <utf8proc.h>
#include "tokenizer/internal.h"

static nib_status no_room(tok_call *c, size_t bytes) {
    return nib_fail_nomem(c->e, bytes, "a normalised text");
}

static bool reserve(tok_cps *v, size_t n) {
    if (n <= v->cap) return true;
    size_t cap = NIB_MAX(n, v->cap * 2);
    int32_t *data = nib_realloc(v->data, cap * sizeof *data);
    if (!data) return false;
    v->data = data, v->cap = cap;
    return true;
}

static size_t ascii_prefix(const char *p, size_t n) {
    size_t i = 0;
    for (uint64_t w; i + 8 <= n; i += 8) {
        memcpy(&w, p + i, 8);
        if (w & 0x8080808080808080u) break;
    }
    while (i < n && !((uint8_t)p[i] & 0x80)) i++;
    return i;
}

static int class_of(int32_t cp) {
    return utf8proc_get_property(cp)->combining_class;
}

/* Stable order by combining class of every run of marks; a class fits a byte. */
static bool order_marks(tok_cps *tmp, int32_t *cps, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        bool sorted = true;
        for (int last = 0, ccc; end < n && (ccc = class_of(cps[end])) != 0; last = ccc, end++)
            sorted &= ccc >= last;
        if (!sorted) {
            size_t m = end - i, at[257] = {0};
            if (!reserve(tmp, m)) return false;
            memcpy(tmp->data, cps + i, m * sizeof *cps);
            for (size_t k = 0; k < m; k++) at[class_of(tmp->data[k]) + 1]++;
            for (int k = 1; k < 257; k++) at[k] += at[k - 1];
            for (size_t k = 0; k < m; k++) cps[i + at[class_of(tmp->data[k])]++] = tmp->data[k];
        }
        i = end + 1;
    }
    return true;
}

nib_status nib_tok_decompose(tok_call *c, const char *p, size_t n, bool nfd, size_t *n_cps) {
    /* A character of one or two bytes becomes at most 3 code points, a longer one at most 4:
     * checked below. */
    size_t cap = n * 2 + 4, len = 0;
    if (!reserve(&c->cps, cap)) return no_room(c, cap * sizeof(int32_t));
    int32_t *out = c->cps.data;
    for (size_t i = 0; i < n;) {
        int32_t cp;
        i += nib_utf8_decode(p + i, n - i, &cp);
        if (cp < 0) cp = 0xfffd;
        if (!nfd || cp < 0xc0) {
            out[len++] = cp;
            continue;
        }
        int unused = 0;
        utf8proc_ssize_t k = utf8proc_decompose_char(cp, out + len, (utf8proc_ssize_t)(cap - len),
                                                     UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &unused);
        if (k < 0 || (size_t)k > cap - len)
            return nib_fail(c->e, NIB_ERR_INTERNAL,
                            "utf8proc: U+%04X has no decomposition that fits", (unsigned)cp);
        len += (size_t)k;
    }
    if (nfd && !order_marks(&c->marks, out, len)) return no_room(c, len * sizeof *out);
    *n_cps = len;
    return NIB_OK;
}

/* Whether a character may be otherwise in NFC: marks and the later jamo may join what stands before
 * them, others change by themselves or not at all, whatever their neighbours. */
static bool may_change(int32_t cp) {
    if (cp < 0) return true;
    if (cp < 0x300 || (cp >= 0xac00 && cp <= 0xd7a3)) return false;
    if (cp >= 0x1160 && cp <= 0x11ff) return true;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return true;
    default: break;
    }
    int32_t d[8];
    int unused = 0;
    const utf8proc_option_t options = UTF8PROC_COMPOSE | UTF8PROC_STABLE;
    utf8proc_ssize_t k = utf8proc_decompose_char(cp, d, NIB_ARRAY_LEN(d), options, &unused);
    if (k == 1 && d[0] == cp) return false;
    if (k < 1 || k > (utf8proc_ssize_t)NIB_ARRAY_LEN(d)) return true;
    k = utf8proc_normalize_utf32(d, k, options);
    return k != 1 || d[0] != cp;
}

/* The next stretch of p[at..n) to work on: with nfc, characters that may change and the one before
 * them, else invalid bytes. Empty at n when there is none. */
static void next_stretch(const char *p, size_t n, size_t at, bool nfc, size_t *start, size_t *end) {
    bool found = false;
    size_t before = at;
    *start = *end = n;
    for (size_t i = at, len; i < n; i += len) {
        size_t plain = ascii_prefix(p + i, n - i);
        if (plain) {
            if (found) break;
            before = i + plain - 1;
            len = plain;
            continue;
        }
        int32_t cp;
        len = nib_utf8_decode(p + i, n - i, &cp);
        bool wanted = nfc ? may_change(cp) : cp < 0;
        if (found && !wanted) break;
        if (wanted && !found) *start = nfc ? before : i;
        if (wanted) *end = i + len;
        found |= wanted;
        before = i;
    }
}

nib_status nib_tok_clean(tok_call *c, const char **text, size_t *n_text, bool nfc) {
    const char *p = *text;
    const size_t n = *n_text;
    size_t start, end, w = 0, room = n;
    for (size_t at = 0; at < n; at = end) {
        next_stretch(p, n, at, nfc, &start, &end);
        room += 2 * (end -
                     start); /* neither repair nor NFC makes UTF-8 more than three times as long */
    }
    if (room == n) return NIB_OK;
    char *out = nib_arena_alloc(&c->keep, room);
    if (!out) return no_room(c, room);
    for (size_t at = 0; at < n; at = end) {
        next_stretch(p, n, at, nfc, &start, &end);
        memcpy(out + w, p + at, start - at);
        w += start - at;
        size_t len;
        NIB_TRY(nib_tok_decompose(c, p + start, end - start, nfc, &len));
        utf8proc_ssize_t k = (utf8proc_ssize_t)len;
        if (nfc) k = utf8proc_normalize_utf32(c->cps.data, k, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (k < 0) return nib_fail(c->e, NIB_ERR_INTERNAL, "utf8proc: %s", utf8proc_errmsg(k));
        for (utf8proc_ssize_t i = 0; i < k; i++) {
            char buf[4];
            size_t m = nib_utf8_encode(c->cps.data[i], buf);
            if (m > room - w)
                return nib_fail(c->e, NIB_ERR_INTERNAL,
                                "NFC made a text more than three times as long");
            memcpy(out + w, buf, m);
            w += m;
        }
    }
    *text = out;
    *n_text = w;
    return NIB_OK;
}
