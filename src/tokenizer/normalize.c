/* What happens to a text before it is cut into words: bytes that are not UTF-8 become U+FFFD, one
 * for each maximal invalid sequence, and where the model's family asks for it the text is brought
 * into NFC or NFD.
 *
 * utf8proc knows the decompositions, classes and compositions. The canonical ordering in between is
 * done here, because utf8proc sorts by swapping neighbours, which takes quadratic time on a long
 * run of combining marks. Source: Unicode Standard Annex 15. */
#include <utf8proc.h>
#include "tokenizer/internal.h"

static nib_status no_room(tok_call *c, size_t bytes) {
    return nib_fail_nomem(c->e, bytes, "a normalised text");
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

/* Stable order by combining class of every run of marks; a class fits a byte. */
static bool order_marks(tok_call *c, int32_t *cps, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        int last = 0;
        bool sorted = true;
        for (int ccc; end < n && (ccc = utf8proc_get_property(cps[end])->combining_class) != 0;
             end++) {
            sorted &= ccc >= last;
            last = ccc;
        }
        if (!sorted) {
            size_t m = end - i, at[257] = {0};
            int32_t *tmp = nib_arena_alloc(&c->keep, m * sizeof *tmp);
            if (!tmp) return false;
            memcpy(tmp, cps + i, m * sizeof *tmp);
            for (size_t k = 0; k < m; k++) at[utf8proc_get_property(tmp[k])->combining_class + 1]++;
            for (int k = 1; k < 257; k++) at[k] += at[k - 1];
            for (size_t k = 0; k < m; k++)
                cps[i + at[utf8proc_get_property(tmp[k])->combining_class]++] = tmp[k];
        }
        i = end + 1;
    }
    return true;
}

nib_status nib_tok_decompose(tok_call *c, const char *p, size_t n, bool nfd, int32_t **cps,
                             size_t *n_cps) {
    /* A character of one or two bytes becomes at most 3 code points, a longer one at most 4
     * (checked below). */
    size_t cap = n * 2 + 4, len = 0;
    int32_t *out = nib_arena_alloc(&c->keep, cap * sizeof *out);
    if (!out) return no_room(c, cap * sizeof *out);
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
    if (nfd && !order_marks(c, out, len)) return no_room(c, len * sizeof *out);
    *cps = out;
    *n_cps = len;
    return NIB_OK;
}

nib_status nib_tok_clean(tok_call *c, const char **text, size_t *n_text, bool nfc) {
    const char *p = *text;
    size_t n = *n_text, n_bad = 0;
    bool compose = false;
    for (size_t i = ascii_prefix(p, n); i < n; i += ascii_prefix(p + i, n - i)) {
        int32_t cp;
        i += nib_utf8_decode(p + i, n - i, &cp);
        if (cp < 0) n_bad++;
        if (cp >= 0x300) compose = nfc; /* everything below is in NFC, whatever its neighbours */
    }
    if (!n_bad && !compose) return NIB_OK;
    int32_t *cps;
    size_t len, w = 0;
    NIB_TRY(nib_tok_decompose(c, p, n, compose, &cps, &len));
    if (compose) {
        utf8proc_ssize_t k = utf8proc_normalize_utf32(cps, (utf8proc_ssize_t)len,
                                                      UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (k < 0) return nib_fail(c->e, NIB_ERR_INTERNAL, "utf8proc: %s", utf8proc_errmsg(k));
        len = (size_t)k;
    }
    char *out = nib_arena_alloc(&c->keep, len * 4);
    if (!out) return no_room(c, len * 4);
    for (size_t i = 0; i < len; i++) w += nib_utf8_encode(cps[i], out + w);
    *text = out;
    *n_text = w;
    return NIB_OK;
}
