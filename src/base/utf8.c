/* UTF-8: decoding that never reads past the end and treats each invalid sequence once. */
#include "base/base.h"

/* How many bytes a lead byte announces, and the range its second byte must lie in (Unicode table
 * 3-7). */
static int lead(uint8_t c, uint8_t *lo, uint8_t *hi) {
    *lo = 0x80, *hi = 0xbf;
    if (c < 0x80) return 1;
    if (c < 0xc2) return 0;
    if (c < 0xe0) return 2;
    if (c < 0xf0) {
        if (c == 0xe0) *lo = 0xa0;
        if (c == 0xed) *hi = 0x9f;
        return 3;
    }
    if (c > 0xf4) return 0;
    if (c == 0xf0) *lo = 0x90;
    if (c == 0xf4) *hi = 0x8f;
    return 4;
}

size_t nib_utf8_decode(const char *s, size_t n, int32_t *cp) {
    const uint8_t *p = (const uint8_t *)s;
    uint8_t lo, hi;
    int len = lead(p[0], &lo, &hi);
    if (len == 1) {
        *cp = p[0];
        return 1;
    }
    *cp = -1;
    if (len == 0) return 1;
    int32_t c = p[0] & (0xff >> (len + 1));
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || p[i] < lo || p[i] > hi) return (size_t)i;
        c = c << 6 | (p[i] & 0x3f);
        lo = 0x80, hi = 0xbf;
    }
    *cp = c;
    return (size_t)len;
}

size_t nib_utf8_encode(int32_t cp, char out[4]) {
    if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) cp = 0xfffd;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t nib_utf8_complete(const char *s, size_t n) {
    /* Only the last three bytes can belong to an incomplete character. */
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = (uint8_t)s[n - back], lo, hi;
        if (c < 0x80) return n;
        if (c < 0xc0) continue;
        int len = lead(c, &lo, &hi);
        if ((size_t)len <= back) return n;
        if (back >= 2 && ((uint8_t)s[n - back + 1] < lo || (uint8_t)s[n - back + 1] > hi)) return n;
        return n - back;
    }
    return n;
}

bool nib_utf8_valid(const char *p, size_t n) {
    while (n) {
        int32_t cp;
        size_t k = nib_utf8_decode(p, n, &cp);
        if (cp < 0) return false;
        p += k, n -= k;
    }
    return true;
}
