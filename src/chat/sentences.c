/* Where sentences end.
 *
 * A run of . ? ! (or their kin in other scripts) with the quotes and brackets behind it is a
 * candidate; what follows and, for a single full stop, the word before it decide. Commas, colons
 * and newlines never end a sentence. Code fences hold none. A stop glued to what follows (3.14,
 * example.com) is none, except in scripts written without spaces.
 *
 * A walk looks at text that may still grow, and tells whether more text could change the answer. */
#include <utf8proc.h>
#include "chat/text_internal.h"

/* ---- characters ---- */

/* Marks that end a sentence besides ".?!"; wide: of scripts that put no space behind them. */
static const struct {
    int32_t cp;
    bool wide;
} terminators[] = {
    {0x3002, true},  /* ideographic full stop */
    {0xff0e, true},  /* full-width . */
    {0xff01, true},  /* full-width ! */
    {0xff1f, true},  /* full-width ? */
    {0xff61, true},  /* half-width ideographic full stop */
    {0x2026, false}, /* ellipsis */
    {0x203c, false}, /* !! */
    {0x2047, false}, /* ?? */
    {0x2048, false}, /* ?! */
    {0x2049, false}, /* !? */
    {0x061f, false}, /* Arabic ? */
    {0x06d4, false}, /* Urdu full stop */
    {0x0589, false}, /* Armenian full stop */
    {0x0964, false}, /* danda */
    {0x0965, false}, /* double danda */
    {0x1362, false}, /* Ethiopic full stop */
    {0x104b, true},  /* Myanmar section */
    {0x17d4, true},  /* Khmer khan */
};
static bool is_terminator(int32_t cp, bool *wide) {
    *wide = false;
    if (cp < 0x80) return cp == '.' || cp == '?' || cp == '!';
    for (size_t i = 0; i < NIB_ARRAY_LEN(terminators); i++)
        if (terminators[i].cp == cp) {
            *wide = terminators[i].wide;
            return true;
        }
    return false;
}

static bool is_quote(int32_t cp) {
    return cp == '"' || cp == '\'' || cp == 0x2019 || cp == 0x201d || cp == 0xbb || cp == 0x203a;
}
/* What may stand between the mark and the space: quotes, brackets, emphasis; also of East Asian
 * texts. */
static bool is_closer(int32_t cp) {
    if (is_quote(cp)) return true;
    if (cp < 0x80) return cp > 0 && strchr(")]}*_`~", cp);
    return cp == 0x300d || cp == 0x300f || cp == 0x3011 || cp == 0x300b || cp == 0xff09 ||
           cp == 0x3009 || cp == 0x201c /* closes in German */;
}

static bool is_wide_script(int32_t cp) {
    return (cp >= 0x3000 && cp < 0xa000) || (cp >= 0xac00 && cp < 0xd800) ||
           (cp >= 0xff00 && cp < 0xfff0) || (cp >= 0x20000 && cp < 0x30000);
}

/* ---- what follows ---- */

typedef enum follower {
    NOTHING, /* the text ends */
    NEW_LINE,
    UPPER,
    LOWER, /* also "I", which says nothing about where a sentence begins */
    DIGIT,
    OTHER
} follower;

/* What follows text[at], which is a space: *open when more text could change the answer. */
static follower follower_of(const nib_sentence_walk *w, size_t at, bool *open) {
    *open = false;
    for (; at < w->len && nib_is_space(w->p[at]); at++)
        if (w->p[at] == '\n') return NEW_LINE;
    while (at < w->len && nib_is_one_of(w->p[at], "\"'([*_"))
        at++; /* an opening quote tells nothing */
    if (at == w->len) {
        *open = true;
        return NOTHING;
    }
    int32_t cp;
    size_t n = nib_utf8_decode(w->p + at, w->len - at, &cp);
    if (cp >= '0' && cp <= '9') return DIGIT;
    if (cp == 'I') {
        *open = at + n == w->len;
        /* "I ", "I'm", and the typographic apostrophe's first byte */
        return *open || nib_is_one_of(w->p[at + n], " \t\n\r'\xe2") ? LOWER : UPPER;
    }
    utf8proc_category_t c = utf8proc_category(cp);
    if (c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT) return UPPER;
    return c == UTF8PROC_CATEGORY_LL ? LOWER : OTHER;
}

/* ---- what stands before a single full stop ---- */

typedef enum stop_kind {
    STOP_PLAIN,
    STOP_NEVER,
    STOP_NUMBER, /* no end when a digit follows */
    STOP_UPPER,  /* an end when an upper-case word or a line's end follows */
    STOP_LAST    /* an end when the line ends here */
} stop_kind;

static const struct {
    const char *word;
    stop_kind kind;
} abbreviations[] = {
#define NIB_ABBREVIATION(word, kind) {word, STOP_##kind},
#include "chat/abbreviations.def"
#undef NIB_ABBREVIATION
};

static bool is_end(stop_kind kind, follower f) {
    switch (kind) {
    case STOP_NEVER: return false;
    case STOP_NUMBER: return f != DIGIT;
    case STOP_UPPER: return f == NOTHING || f == NEW_LINE || f == UPPER;
    case STOP_LAST: return f == NOTHING || f == NEW_LINE;
    case STOP_PLAIN: break;
    }
    return true;
}

/* The full stop at text[at]: what the word before it makes of it. */
static stop_kind kind_of_stop(const nib_sentence_walk *w, size_t at) {
    enum { LONGEST = 8 }; /* longer than any abbreviation */
    const char *p = w->p;
    size_t from = at, n_dots = 0;
    while (from > w->line && at - from <= LONGEST &&
           (nib_is_letter(p[from - 1]) || nib_is_digit(p[from - 1]) || p[from - 1] == '.')) {
        from--;
        n_dots += p[from] == '.';
    }
    size_t n = at - from;
    if (n == 0 || n > LONGEST) return STOP_PLAIN;
    if (from > w->line && (p[from - 1] & 0x80))
        return STOP_PLAIN;         /* the end of a word in another script */
    bool first = from <= w->words; /* on its line */
    size_t n_digits = 0;
    for (size_t i = from; i < at; i++) n_digits += nib_is_digit(p[i]);
    if (first && (n_digits == n || n == 1)) return STOP_LAST; /* "1. ", "a. ": a list */
    if (n_digits) return STOP_PLAIN;
    char word[LONGEST + 1] = {0};
    for (size_t i = 0; i < n; i++) word[i] = p[from + i] == '.' ? '.' : (char)(p[from + i] | 32);
    for (size_t i = 0; i < NIB_ARRAY_LEN(abbreviations); i++)
        if (strcmp(word, abbreviations[i].word) == 0) return abbreviations[i].kind;
    if (n == 1) { /* "J. Smith", but "and I."; "p. 5" */
        if (p[from] == 'I') return STOP_PLAIN;
        return p[from] < 'a' ? STOP_LAST : STOP_NUMBER;
    }
    if (n_dots && n == 2 * n_dots + 1) return STOP_LAST; /* U.S.A. */
    return STOP_PLAIN;
}

/* ---- walking ---- */

static size_t start_line(nib_sentence_walk *w, size_t at) {
    w->line = w->words = at;
    while (w->words < w->len && nib_is_one_of(w->p[w->words], " \t>#*-")) w->words++;
    size_t i = at;
    while (i < w->len && (w->p[i] == ' ' || w->p[i] == '\t')) i++;
    if (i + 3 > w->len || (w->p[i] != '`' && w->p[i] != '~')) return at;
    if (nib_run_length(w->p, w->len, i) < 3) return at;
    if (!w->fence)
        w->fence = w->p[i];
    else if (w->fence == w->p[i])
        w->fence = 0;
    return i + nib_run_length(w->p, w->len, i);
}

bool nib_sentence_next(nib_sentence_walk *w, size_t *end, nib_sentence_certainty *certainty) {
    if (!w->begun) {
        w->begun = true;
        w->at = start_line(w, 0);
    }
    while (w->at < w->len) {
        size_t i = w->at;
        if (w->p[i] == '\n') {
            w->at = start_line(w, i + 1);
            continue;
        }
        int32_t cp;
        bool wide;
        size_t n = nib_utf8_decode(w->p + i, w->len - i, &cp);
        if (w->fence || !is_terminator(cp, &wide)) {
            w->at = i + n;
            continue;
        }
        bool ellipsis = true, quoted = false, any_wide = false;
        size_t j = i, n_marks = 0;
        for (; j < w->len; j += n, n_marks++) {
            n = nib_utf8_decode(w->p + j, w->len - j, &cp);
            if (!is_terminator(cp, &wide)) break;
            any_wide |= wide;
            ellipsis = ellipsis && (cp == '.' || cp == 0x2026);
        }
        bool single = n_marks == 1 && w->p[i] == '.';
        for (; j < w->len; j += n) {
            n = nib_utf8_decode(w->p + j, w->len - j, &cp);
            if (!is_closer(cp)) break;
            quoted |= is_quote(cp);
        }
        w->at = j;
        bool open = false; /* what follows may still change */
        follower f = NOTHING;
        if (j < w->len && nib_is_space(w->p[j])) {
            f = follower_of(w, j, &open);
        } else if (j < w->len) {
            nib_utf8_decode(w->p + j, w->len - j, &cp);
            if (!any_wide && !is_wide_script(cp)) continue;
            f = OTHER;
        }
        stop_kind kind = single ? kind_of_stop(w, i) : STOP_PLAIN;
        bool ends = is_end(kind, f), depends = kind != STOP_PLAIN; /* on what follows */
        if (kind == STOP_NEVER) continue;
        if (ellipsis && !single) {
            depends = true;
            ends = f != LOWER && f != DIGIT;
        } else if (quoted && !any_wide) { /* "Stop!" he said. */
            depends = true;
            ends = ends && f != LOWER;
        }
        bool unsure = j == w->len || (open && depends);
        if (!ends && !unsure) continue;
        *end = j;
        *certainty = !unsure ? NIB_SENTENCE_SURE
                     : ends  ? NIB_SENTENCE_IF_LAST
                             : NIB_SENTENCE_UNLESS_LAST;
        return true;
    }
    return false;
}

/* The n-th end of a text that is whole, or SIZE_MAX; *n_found: how many there are up to it. */
static size_t end_of_whole(const char *text, size_t len, int n, int *n_found) {
    nib_sentence_walk w = {.p = text, .len = len};
    size_t end;
    nib_sentence_certainty c;
    *n_found = 0;
    while (*n_found < n && nib_sentence_next(&w, &end, &c))
        if (c != NIB_SENTENCE_UNLESS_LAST && ++*n_found == n) return end;
    return SIZE_MAX;
}

int nib_sentence_count(const char *text, size_t len) {
    int n;
    end_of_whole(text, len, INT32_MAX, &n);
    return n;
}

size_t nib_piece_end(const char *text, size_t len, size_t from) {
    while (from < len && nib_is_space(text[from])) from++;
    const char *nl = from < len ? memchr(text + from, '\n', len - from) : NULL;
    size_t line = nl ? (size_t)(nl - text) : SIZE_MAX;
    while (nl && nib_is_space(text[line - 1])) line--;
    nib_sentence_walk w = {.p = text, .len = len};
    size_t end;
    nib_sentence_certainty c;
    while (nib_sentence_next(&w, &end, &c))
        if (end > from && c == NIB_SENTENCE_SURE) return NIB_MIN(end, line);
    return line;
}

size_t nib_sentence_end(const char *text, size_t len, int n) {
    int n_found;
    return end_of_whole(text, len, n, &n_found);
}
