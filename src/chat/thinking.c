/* Splitting a reply into thoughts and answer while it streams.
 *
 * A reply begins at a START, where only space may stand before an opening tag of thinking.def. A
 * thought lasts to its closing tag, after which there is a START again. Anything else at a START
 * begins the answer, in which tags are plain text: a model that explains "<think>" to its user is
 * not cut. Space around a thought belongs to neither side.
 *
 * What is put out depends on the text alone, not on how it was cut into chunks: text is held back
 * exactly while more of it could change where it belongs. */
#include "chat/text_internal.h"

typedef struct tag_row {
    enum { THOUGHT, ANSWER } what;
    nib_str open, close;
} tag_row;
static const tag_row rows[] = {
#define NIB_THINK_TAG(what, open, close)                                                           \
    {what, {open, sizeof(open) - 1}, {close, sizeof(close) - 1}},
#include "chat/thinking.def"
#undef NIB_THINK_TAG
};

static bool begins(nib_str whole, nib_str part) {
    return nib_str_starts(whole, part);
}

/* The first closing tag in text: of the row that opened, or of any thought when that is unknown. */
static size_t find_close(const nib_think_split *s, nib_str text, size_t *len) {
    size_t first = SIZE_MAX;
    for (size_t r = 0; r < NIB_ARRAY_LEN(rows); r++) {
        if (s->tag ? (int)r != s->tag - 1 : rows[r].what != THOUGHT) continue;
        const char *p = memmem(text.p, text.n, rows[r].close.p, rows[r].close.n);
        if (p && (size_t)(p - text.p) < first) first = (size_t)(p - text.p), *len = rows[r].close.n;
    }
    return first;
}

/* Where the longest end of text begins that could begin such a closing tag; text.n when none could.
 */
static size_t partial_close(const nib_think_split *s, nib_str text) {
    size_t first = text.n;
    for (size_t r = 0; r < NIB_ARRAY_LEN(rows); r++) {
        if (s->tag ? (int)r != s->tag - 1 : rows[r].what != THOUGHT) continue;
        for (size_t k = NIB_MIN(rows[r].close.n - 1, text.n); k > 0 && text.n - k < first; k--)
            if (memcmp(text.p + text.n - k, rows[r].close.p, k) == 0) first = text.n - k;
    }
    return first;
}

static void consume(nib_think_split *s, size_t n) {
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
}

static size_t space_before(const char *p, size_t n) {
    while (n > 0 && nib_is_space(p[n - 1])) n--;
    return n;
}

/* Each of these takes what it can from s->held and returns whether the state changed, so that more
 * may go. */

static bool at_start(nib_think_split *s, bool final, nib_buf *answer) {
    size_t space = 0;
    while (space < s->held.len && nib_is_space(s->held.data[space])) space++;
    nib_str rest = {s->held.data + space, s->held.len - space};
    if (rest.n == 0 && !final) return false;
    for (size_t r = 0; rest.n > 0 && r < NIB_ARRAY_LEN(rows); r++) {
        if (begins(rest, rows[r].open)) {
            consume(s, space + rows[r].open.n);
            s->tag = (int)r + 1;
            s->trim = true;
            if (rows[r].what == THOUGHT)
                s->inside = true;
            else
                s->answering = true;
            return true;
        }
        if (!final && begins(rows[r].open, rest)) return false;
    }
    if (!s->trim) nib_buf_put(answer, s->held.data, space);
    consume(s, space);
    s->answering = true;
    s->tag = 0;
    return s->held.len > 0;
}

static bool in_thought(nib_think_split *s, bool final, nib_buf *thought) {
    nib_str text = {s->held.data, s->held.len};
    size_t tag_len = 0, close = find_close(s, text, &tag_len);
    size_t end = close != SIZE_MAX ? close : final ? text.n : partial_close(s, text);
    size_t put = space_before(text.p, end), from = 0;
    while (s->trim && from < put && nib_is_space(text.p[from])) from++;
    if (put > from) {
        if (s->trim && s->any) nib_buf_puts(thought, "\n\n"); /* a second thought */
        nib_buf_put(thought, text.p + from, put - from);
        s->trim = false;
        s->any = true;
    }
    if (close == SIZE_MAX) {
        consume(s, final ? text.n : put);
        return false;
    }
    consume(s, close + tag_len);
    s->inside = false;
    s->tag = 0;
    s->trim = true;
    return true;
}

static bool in_answer(nib_think_split *s, bool final, nib_buf *answer) {
    nib_str text = {s->held.data, s->held.len};
    size_t from = 0, tag_len = 0;
    while (s->trim && from < text.n && nib_is_space(text.p[from])) from++;
    size_t close = s->tag ? find_close(s, text, &tag_len) : SIZE_MAX;
    size_t end = close != SIZE_MAX ? close : final || !s->tag ? text.n : partial_close(s, text);
    if (end > from) {
        nib_buf_put(answer, text.p + from, end - from);
        s->trim = false;
    }
    consume(s, close != SIZE_MAX ? close + tag_len : NIB_MAX(end, from));
    if (close == SIZE_MAX) return false;
    s->answering = false;
    s->tag = 0;
    s->trim = true;
    return true;
}

nib_status nib_think_put(nib_think_split *s, const char *text, size_t len, bool final,
                         nib_buf *thought, nib_buf *answer) {
    nib_buf_put(&s->held, text, len);
    bool more = !s->held.failed && s->held.data;
    while (more)
        more = s->inside      ? in_thought(s, final, thought)
               : s->answering ? in_answer(s, final, answer)
                              : at_start(s, final, answer);
    return s->held.failed || thought->failed || answer->failed ? NIB_ERR_NOMEM : NIB_OK;
}

void nib_think_free(nib_think_split *s) {
    nib_buf_free(&s->held);
    *s = (nib_think_split){0};
}

bool nib_think_open(const char *prompt, size_t len) {
    nib_str text = {prompt, space_before(prompt, len)};
    for (size_t r = 0; r < NIB_ARRAY_LEN(rows); r++) {
        size_t n = rows[r].open.n;
        if (rows[r].what == THOUGHT && text.n >= n &&
            memcmp(text.p + text.n - n, rows[r].open.p, n) == 0)
            return true;
    }
    return false;
}

nib_str nib_think_closing(const nib_think_split *s) {
    return rows[s->tag ? s->tag - 1 : 0].close;
}

bool nib_think_spells(nib_str word) {
    for (size_t r = 0; word.n > 0 && r < NIB_ARRAY_LEN(rows); r++)
        if (memmem(rows[r].open.p, rows[r].open.n, word.p, word.n) ||
            memmem(rows[r].close.p, rows[r].close.n, word.p, word.n))
            return true;
    return false;
}
