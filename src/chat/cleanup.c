/* Clean-up of a model's prose: repeated spaces and punctuation, and spaces before punctuation.
 *
 * One pass. Only bytes that nib_text_map calls prose are looked at, and of these only spaces and
 * ",.;:!?". What was put out is never taken back except the end of a run of punctuation that more
 * of the same joins; therefore cleaning is idempotent, and cleaning a clean text with more behind
 * it changes only what is behind it: live correction counts on both.
 *
 * When in doubt, text stays: punctuation glued to what follows it (.5, :), ?q=, 1..3, std::), at
 * the start of a line
 * (!!! note), after a slash (../..), ellipses and the space before one. */
#include "chat/text_internal.h"

typedef struct cleaner {
    const char *t;
    size_t len;
    const uint8_t *k;
    nib_buf *out;
    size_t line; /* in out: where the prose of this line begins */
    size_t run;  /* in out: punctuation before it is of another kind and is not joined */
} cleaner;

static bool is_punct(char c) {
    return c && strchr(",.;:!?", c);
}
static bool is_closer(char c) {
    return c && strchr("\"')]}*", c);
}

static bool ends_word(const cleaner *c, size_t i) {
    return i >= c->len || nib_is_space(c->t[i]);
}

/* The tail of what was put out, back to 'run', that is punctuation. */
static size_t punct_tail(const cleaner *c) {
    size_t i = c->out->len;
    while (i > c->run && is_punct(c->out->data[i - 1])) i--;
    return i;
}

/* Adds one mark to the run of punctuation that begins at 'from' in out. */
static void join(nib_buf *out, size_t from, char m) {
    size_t n = out->len;
    if (m == '.') {
        if (n >= from + 3 && memcmp(out->data + n - 3, "...", 3) == 0) return;
    } else if (m == '!' || m == '?') { /* "?!" is one mark: of a run of both, the first of each */
        for (; n > from && (out->data[n - 1] == '!' || out->data[n - 1] == '?'); n--)
            if (out->data[n - 1] == m) return;
    } else if (m != ':' && n > from && out->data[n - 1] == m) {
        return;
    }
    nib_buf_putc(out, m);
}

/* "word.." is a slip of the key; "1..", "../.." and " .." may mean something. */
static void single_dot(cleaner *c, size_t from, size_t next) {
    nib_buf *out = c->out;
    size_t n = out->len;
    if (n < from + 2 || memcmp(out->data + n - 2, "..", 2) != 0 || !ends_word(c, next)) return;
    if (n > from + 2 && out->data[n - 3] == '.') return;
    if (n < c->line + 3) return;
    char before = out->data[n - 3];
    if (nib_is_letter(before) || is_closer(before) || (before & 0x80) || is_punct(before))
        out->data[--out->len] = 0;
}

/* Punctuation text[i..j); 'spaces' stood before it. */
static void put_punct(cleaner *c, size_t i, size_t j, bool spaces) {
    const char *t = c->t;
    nib_buf *out = c->out;
    char next = j < c->len ? t[j] : 0;
    bool at_end = ends_word(c, j), dots = j - i >= 2 && t[i] == '.' && t[i + 1] == '.';
    bool in_class = j >= c->len || c->k[j] == NIB_TEXT_PROSE || c->k[j] == NIB_TEXT_NEWLINE;
    bool marks = true; /* only ",.!?" may close up before a bracket: " :)" and " ;)" are faces */
    for (size_t m = i; m < j; m++) marks = marks && t[m] != ':' && t[m] != ';';
    size_t from = punct_tail(c);
    bool drop = spaces && !dots && in_class && (at_end || (marks && is_closer(next))) &&
                out->len > c->line && from > c->line && (out->len > c->run || c->run == c->line) &&
                !strchr("/\\", out->data[out->len - 1]);
    if (spaces && !drop) {
        nib_buf_putc(out, ' ');
        from = out->len;
    }
    bool collapse = in_class && (at_end || (marks && (is_closer(next) || (next & 0x80)))) &&
                    from > c->line && !strchr("/\\\t", out->data[from - 1]);
    if (!collapse) {
        nib_buf_put(out, t + i, j - i);
        return;
    }
    for (size_t m = i; m < j; m++) join(out, from, t[m]);
    if (!spaces || drop) single_dot(c, from, j);
}

nib_status nib_text_cleanup(const char *text, size_t len, nib_buf *out, nib_error *e) {
    uint8_t *k = nib_alloc(len);
    if (!k) return nib_fail_nomem(e, len, "the map of a text");
    nib_text_map(text, len, k);
    size_t start = out->len;
    cleaner c = {.t = text, .len = len, .k = k, .out = out, .line = start, .run = start};
    for (size_t i = 0; i < len && !out->failed;) {
        if (k[i] != NIB_TEXT_PROSE) {
            nib_buf_putc(out, text[i]);
            c.run = out->len;
            if (k[i] == NIB_TEXT_NEWLINE || k[i] == NIB_TEXT_LEAD) c.line = out->len;
            i++;
            continue;
        }
        size_t j = i;
        while (j < len && k[j] == NIB_TEXT_PROSE && text[j] == ' ') j++;
        size_t n_spaces = j - i, m = j;
        while (m < len && k[m] == NIB_TEXT_PROSE && is_punct(text[m])) m++;
        if (m > j) {
            put_punct(&c, j, m, n_spaces > 0);
        } else if (n_spaces) {
            /* Two spaces before a newline are a line break in Markdown. */
            bool breaks = n_spaces > 1 && j < len && k[j] == NIB_TEXT_NEWLINE;
            nib_buf_puts(out, breaks ? "  " : " ");
        } else {
            nib_buf_putc(out, text[m++]);
        }
        i = m;
    }
    nib_free(k);
    if (out->failed) {
        out->len = start;
        return nib_fail_nomem(e, len, "a cleaned text");
    }
    return NIB_OK;
}
