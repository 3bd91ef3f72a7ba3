/* Which bytes of a text are prose: the part of Markdown (CommonMark 0.31) that clean-up and
 * autocorrect must respect.
 *
 * Line by line: fences, indented code, table rows and rules are kept whole, and what begins other
 * lines (indentation, list and quote markers, heading marks) is marked as lead. Then backtick spans
 * and addresses are cut out of the remaining prose. More text can only turn prose into kept text
 * from an opening backtick on, never the reverse. */
#include "chat/text_internal.h"

static size_t skip_spaces(const char *t, size_t at, size_t end) {
    while (at < end && (t[at] == ' ' || t[at] == '\t')) at++;
    return at;
}

/* Past a marker of a list, quote or heading that a space or the line's end follows, or 'at' when
 * there is none. */
static size_t skip_marker(const char *t, size_t at, size_t end) {
    size_t i = at;
    if (i < end && t[i] == '>') return i + 1;
    if (i < end && (t[i] == '-' || t[i] == '+' || t[i] == '*')) {
        i++;
    } else if (i < end && t[i] == '#') {
        while (i < end && t[i] == '#') i++;
    } else {
        while (i < end && i - at < 9 && nib_is_digit(t[i])) i++;
        if (i == at || i == end || (t[i] != '.' && t[i] != ')')) return at;
        i++;
    }
    return i == end || t[i] == ' ' || t[i] == '\t' ? i : at;
}

/* Where the words of the line begin. */
static size_t lead_end(const char *t, size_t at, size_t end) {
    for (;;) {
        size_t next = skip_marker(t, skip_spaces(t, at, end), end);
        if (next == skip_spaces(t, at, end)) return next;
        at = next;
    }
}

static bool is_indented_code(const char *t, size_t at, size_t end) {
    size_t n = 0;
    while (at + n < end && t[at + n] == ' ' && n < 4) n++;
    return n == 4 || (at + n < end && t[at + n] == '\t');
}

/* "---", "* * *", "===": nothing but one or more of -_*= and spaces. */
static bool is_rule(const char *t, size_t at, size_t end) {
    size_t n = 0;
    for (; at < end; at++) {
        if (t[at] == ' ' || t[at] == '\t') continue;
        if (!nib_is_one_of(t[at], "-_*=")) return false;
        n++;
    }
    return n > 0;
}

/* A fence at 'at': its length (3 or more), else 0. */
static size_t fence_at(const char *t, size_t at, size_t end) {
    if (at >= end || (t[at] != '`' && t[at] != '~')) return 0;
    size_t n = nib_run_length(t, end, at);
    if (n < 3 || (t[at] == '`' && memchr(t + at + n, '`', end - at - n))) return 0;
    return n;
}

static void map_lines(const char *t, size_t len, uint8_t *k) {
    char fence = 0;
    size_t fence_len = 0;
    for (size_t at = 0; at < len;) {
        const char *nl = memchr(t + at, '\n', len - at);
        size_t next = nl ? (size_t)(nl - t) + 1 : len, end = nl ? next - 1 : len;
        if (nl && end > at && t[end - 1] == '\r') end--;
        size_t words = lead_end(t, at, end), n = fence_at(t, words, end);
        nib_text_class c = NIB_TEXT_KEEP;
        if (fence) {
            /* The closing line holds nothing else and is at least as long. */
            if (n >= fence_len && t[words] == fence && skip_spaces(t, words + n, end) == end)
                fence = 0;
        } else if (n) {
            fence = t[words], fence_len = n;
        } else if (words < end && !is_indented_code(t, at, end) && !is_rule(t, at, end) &&
                   t[words] != '|') {
            c = NIB_TEXT_PROSE;
        }
        memset(k + at, c, end - at);
        if (c == NIB_TEXT_PROSE) memset(k + at, NIB_TEXT_LEAD, words - at);
        memset(k + end, NIB_TEXT_NEWLINE, next - end);
        at = next;
    }
}

/* Where the paragraph around 'at' ends: at a blank line or a line that is kept whole. */
static size_t paragraph_end(const char *t, size_t len, const uint8_t *k, size_t at) {
    for (; at < len; at++) {
        if (k[at] == NIB_TEXT_KEEP) return at;
        if (t[at] != '\n') continue;
        size_t i = skip_spaces(t, at + 1, len);
        if (i == len || k[i] == NIB_TEXT_NEWLINE) return at;
    }
    return len;
}

static void map_inline_code(const char *t, size_t len, uint8_t *k) {
    size_t paragraph = 0;
    for (size_t i = 0; i < len;) {
        if (k[i] != NIB_TEXT_PROSE || t[i] != '`') {
            i += k[i] == NIB_TEXT_PROSE && t[i] == '\\' ? 2 : 1; /* \` is a plain backtick */
            continue;
        }
        size_t n = nib_run_length(t, len, i), j = i + n;
        if (i >= paragraph) paragraph = paragraph_end(t, len, k, i);
        while (j < paragraph) {
            size_t m = t[j] == '`' ? nib_run_length(t, paragraph, j) : 0;
            if (m == n) break;
            j += m ? m : 1;
        }
        if (j < paragraph) {
            memset(k + i, NIB_TEXT_KEEP, j + n - i);
            i = j + n;
        } else {
            i += n;
        }
    }
}

static bool is_word_byte(char c) {
    return nib_is_letter(c) || nib_is_digit(c) || (c & 0x80);
}

/* scheme://..., www.x, name@host.x */
static bool is_address(const char *w, size_t n) {
    if (n > 4 && memcmp(w, "www.", 4) == 0 && is_word_byte(w[4])) return true;
    for (size_t i = 1; i + 3 < n; i++) {
        if (memcmp(w + i, "://", 3) == 0 && nib_is_letter(w[i - 1])) return true;
        if (w[i] != '@' || !is_word_byte(w[i - 1])) continue;
        for (size_t j = i + 2; j + 1 < n; j++)
            if (w[j] == '.' && is_word_byte(w[j - 1]) && is_word_byte(w[j + 1])) return true;
        return false;
    }
    return false;
}

static void map_addresses(const char *t, size_t len, uint8_t *k) {
    for (size_t i = 0; i < len;) {
        size_t j = i;
        while (j < len && k[j] == NIB_TEXT_PROSE && !nib_is_space(t[j]) && t[j] != '`') j++;
        size_t w = i;
        while (w < j && nib_is_one_of(t[w], "([<{\"'*_")) w++;
        if (j > w && is_address(t + w, j - w)) memset(k + w, NIB_TEXT_URL, j - w);
        i = j + 1;
    }
}

void nib_text_map(const char *text, size_t len, uint8_t *class_of) {
    map_lines(text, len, class_of);
    map_inline_code(text, len, class_of);
    map_addresses(text, len, class_of);
}
