/* Autocorrect: an unknown word becomes the nearest word of a dictionary.
 *
 * The dictionary is one sorted array of words in one pool of lower-case characters. That array is
 * its own trie: the words that share a prefix are a range, and the next character splits the range
 * by bisection. A search walks these ranges with one row of edit distances (optimal string
 * alignment: a swap of neighbours is one edit) and leaves a range when the whole row is beyond the
 * limit, so it needs no index beside the words.
 *
 * Rather none than a wrong correction: only whole words of letters in prose (nib_text_map) are
 * looked at, and words that are short, capitalised inside a sentence, oddly cased or glued to
 * digits and signs are left alone. */
#include <stdlib.h>
#include <utf8proc.h>
#include "chat/text_internal.h"

enum {
    MAX_WORD = 48, /* characters; nobody mistypes a longer one */
    MAX_EDITS = 2,
    MIN_LENGTH = 3,       /* shorter words are too close to too many others */
    TWO_EDITS_LENGTH = 5, /* from here on two edits still leave most of the word */
    MAX_FILE = 64 << 20
};

typedef struct word {
    uint32_t at; /* in the pool */
    uint16_t len;
    bool name; /* listed with a capital only: known, but never proposed */
    uint32_t count;
} word;
struct nib_dictionary {
    word *words; /* sorted by characters */
    size_t n_words, cap;
    int32_t *pool;
    size_t n_pool, pool_cap;
};

/* ---- characters ---- */

static bool is_letter(int32_t cp) {
    if (cp < 0x80) return cp > 0 && nib_is_letter((char)cp);
    utf8proc_category_t c = utf8proc_category(cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || c == UTF8PROC_CATEGORY_MN;
}
static bool is_apostrophe(int32_t cp) {
    return cp == '\'' || cp == 0x2019;
}

/* A word as lower-case characters, and how it was cased. */
typedef struct spelling {
    int32_t c[MAX_WORD];
    size_t n, n_upper;
    bool first_upper;
    bool plain; /* letters only, no apostrophe inside */
} spelling;
/* false when it is no word: too long, or something other than letters with apostrophes between. */
static bool spell(nib_str s, spelling *w) {
    *w = (spelling){.plain = true};
    while (s.n) {
        int32_t cp;
        size_t k = nib_utf8_decode(s.p, s.n, &cp);
        if (cp < 0 || w->n == MAX_WORD) return false;
        if (is_apostrophe(cp)) {
            if (w->n == 0 || k == s.n) return false;
            w->plain = false;
            cp = '\'';
        } else if (!is_letter(cp)) {
            return false;
        }
        int32_t low = utf8proc_tolower(cp);
        if (low != cp) {
            w->n_upper++;
            w->first_upper |= w->n == 0;
        }
        w->c[w->n++] = low;
        s.p += k, s.n -= k;
    }
    return w->n > 0;
}

/* ---- the dictionary ---- */

static int compare(const int32_t *a, size_t n, const int32_t *b, size_t m) {
    for (size_t i = 0; i < n && i < m; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return n == m ? 0 : n < m ? -1 : 1;
}

static int compare_words(const void *x, const void *y, void *pool) {
    const word *a = x, *b = y;
    const int32_t *p = pool;
    return compare(p + a->at, a->len, p + b->at, b->len);
}

static bool is_known(const nib_dictionary *d, const int32_t *c, size_t n) {
    size_t lo = 0, hi = d->n_words;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int o = compare(d->pool + d->words[mid].at, d->words[mid].len, c, n);
        if (o == 0) return true;
        if (o < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return false;
}

static bool grow(void **p, size_t *cap, size_t size, size_t need) {
    if (need <= *cap) return true;
    size_t fresh = NIB_MAX(*cap * 2, NIB_MAX(need, (size_t)1024)), bytes;
    if (!nib_mul_size(fresh, size, &bytes)) return false;
    void *q = nib_realloc(*p, bytes);
    if (!q) return false;
    *p = q;
    *cap = fresh;
    return true;
}

static nib_status add(nib_dictionary *d, const spelling *w, uint32_t count, nib_error *e) {
    if (!grow((void **)&d->words, &d->cap, sizeof *d->words, d->n_words + 1) ||
        !grow((void **)&d->pool, &d->pool_cap, sizeof *d->pool, d->n_pool + w->n))
        return nib_fail_nomem(e, d->n_pool * sizeof *d->pool, "the dictionary");
    memcpy(d->pool + d->n_pool, w->c, w->n * sizeof *w->c);
    d->words[d->n_words++] = (word){(uint32_t)d->n_pool, (uint16_t)w->n, w->first_upper, count};
    d->n_pool += w->n;
    return NIB_OK;
}

/* One line: "word", "word count", empty, or a comment. */
static nib_status add_line(nib_dictionary *d, nib_str line, size_t number, nib_error *e) {
    while (line.n && nib_is_space(line.p[line.n - 1])) line.n--;
    while (line.n && nib_is_space(*line.p)) line.p++, line.n--;
    if (line.n == 0 || *line.p == '#') return NIB_OK;
    nib_str w = line;
    for (size_t i = 0; i < line.n; i++)
        if (nib_is_space(line.p[i])) {
            w.n = i;
            break;
        }
    uint64_t count = 0;
    if (w.n < line.n) {
        size_t i = w.n;
        while (nib_is_space(line.p[i])) i++;
        for (; i < line.n && nib_is_digit(line.p[i]) && count < UINT32_MAX; i++)
            count = count * 10 + (uint64_t)(line.p[i] - '0');
        while (i < line.n && nib_is_digit(line.p[i])) i++;
        if (i < line.n)
            return nib_fail(
                e, NIB_ERR_FORMAT,
                "dictionary, line %zu: expected \"word\" or \"word count\", found '%.*s'", number,
                (int)NIB_MIN(line.n, (size_t)40), line.p);
    }
    spelling s;
    if (!spell(w, &s))
        return NIB_OK; /* lists hold "3rd" and "x-ray" too: nothing that is corrected here */
    return add(d, &s, (uint32_t)NIB_MIN(count, (uint64_t)UINT32_MAX), e);
}

/* Sorted, each word once, with the sum of its counts. */
static void finish(nib_dictionary *d) {
    qsort_r(d->words, d->n_words, sizeof *d->words, compare_words, d->pool);
    size_t n = 0;
    for (size_t i = 0; i < d->n_words; i++) {
        word *last = n ? &d->words[n - 1] : NULL;
        if (last && compare_words(last, &d->words[i], d->pool) == 0) {
            last->name = last->name && d->words[i].name;
            uint64_t sum = (uint64_t)last->count + d->words[i].count;
            last->count = (uint32_t)NIB_MIN(sum, (uint64_t)UINT32_MAX);
        } else {
            d->words[n++] = d->words[i];
        }
    }
    d->n_words = n;
}

nib_status nib_dictionary_from_text(nib_dictionary **out, const char *p, size_t n, nib_error *e) {
    if (n > MAX_FILE)
        return nib_fail(e, NIB_ERR_LIMIT, "dictionary: expected at most %d MiB, found %zu bytes",
                        MAX_FILE >> 20, n);
    nib_dictionary *d = nib_calloc(1, sizeof *d);
    if (!d) return nib_fail_nomem(e, sizeof *d, "the dictionary");
    nib_status s = NIB_OK;
    size_t number = 1;
    for (size_t at = 0; at < n; number++) {
        const char *nl = memchr(p + at, '\n', n - at);
        size_t end = nl ? (size_t)(nl - p) : n;
        NIB_TRY_OUT(add_line(d, (nib_str){p + at, end - at}, number, e));
        at = end + 1;
    }
    if (d->n_words == 0) {
        s = nib_fail(e, NIB_ERR_FORMAT,
                     "dictionary: expected lines \"word\" or \"word count\", found no word");
        goto out;
    }
    finish(d);
    *out = d;
    d = NULL;
out:
    nib_dictionary_free(d);
    return s;
}

nib_status nib_dictionary_open(nib_dictionary **out, const char *path, nib_error *e) {
    nib_buf text = {.max = MAX_FILE};
    nib_status s = nib_file_read(path, MAX_FILE, &text, e);
    if (s == NIB_OK) {
        s = nib_dictionary_from_text(out, text.data ? text.data : "", text.len, e);
        if (s != NIB_OK) s = nib_fail_in(e, s, "%s", path);
    }
    nib_buf_free(&text);
    return s;
}

void nib_dictionary_free(nib_dictionary *d) {
    if (!d) return;
    nib_free(d->words);
    nib_free(d->pool);
    nib_free(d);
}

/* ---- search ---- */

typedef struct search {
    const nib_dictionary *d;
    const spelling *w;
    uint8_t row[MAX_WORD + MAX_EDITS + 2]
               [MAX_WORD + 1]; /* row[depth][i]: prefix of depth to w->c[0..i) */
    int32_t prefix[MAX_WORD + MAX_EDITS + 2];
    unsigned limit; /* edits the best so far needs, or the most allowed */
    const word *best;
} search;

/* a is a better proposal than the best one, at the same distance. */
static bool preferable(const search *s, const word *a) {
    const word *b = s->best;
    if (a->count != b->count) return a->count > b->count;
    int32_t first = s->w->c[0]; /* slips are rare at the first letter */
    bool fa = s->d->pool[a->at] == first, fb = s->d->pool[b->at] == first;
    if (fa != fb) return fa;
    size_t n = s->w->n;
    return (a->len == n) != (b->len == n) && a->len == n;
}

/* Fills the row of prefix[0..depth) from the ones before; false when all of it is beyond the limit.
 */
static bool next_row(search *s, size_t depth) {
    const int32_t *c = s->w->c;
    uint8_t *cur = s->row[depth], *prev = s->row[depth - 1];
    int32_t p = s->prefix[depth - 1];
    unsigned least = cur[0] = (uint8_t)depth;
    for (size_t i = 1; i <= s->w->n; i++) {
        unsigned v = prev[i - 1] + (c[i - 1] != p);
        v = NIB_MIN(v, prev[i] + 1u);
        v = NIB_MIN(v, cur[i - 1] + 1u);
        if (depth > 1 && i > 1 && c[i - 2] == p && c[i - 1] == s->prefix[depth - 2])
            v = NIB_MIN(v, s->row[depth - 2][i - 2] + 1u);
        cur[i] = (uint8_t)v;
        least = NIB_MIN(least, v);
    }
    return least <= s->limit;
}

/* Words [lo, hi) share prefix[0..depth), whose row is filled. Depth is bounded by the word's length
 * and the limit. */
static void walk(search *s, size_t lo, size_t hi, size_t depth) {
    const word *words = s->d->words;
    const int32_t *pool = s->d->pool;
    if (words[lo].len == depth) { /* sorted: the prefix itself comes first */
        unsigned edits = s->row[depth][s->w->n];
        if (!words[lo].name && edits <= s->limit && edits > 0 &&
            (!s->best || edits < s->limit || preferable(s, &words[lo]))) {
            s->best = &words[lo];
            s->limit = edits;
        }
        lo++;
    }
    if (depth >= s->w->n + MAX_EDITS) return;
    while (lo < hi) {
        int32_t c = pool[words[lo].at + depth];
        size_t a = lo, b = hi; /* words[a] has c, words[b] has not: gallop, then bisect */
        for (size_t step = 1; a + step < b; step *= 2) {
            if (pool[words[a + step].at + depth] != c) {
                b = a + step;
                break;
            }
            a += step;
        }
        while (b - a > 1) {
            size_t mid = a + (b - a) / 2;
            if (pool[words[mid].at + depth] == c)
                a = mid;
            else
                b = mid;
        }
        s->prefix[depth] = c;
        if (next_row(s, depth + 1)) walk(s, lo, b, depth + 1);
        lo = b;
    }
}

static const word *nearest(const nib_dictionary *d, const spelling *w, unsigned limit) {
    search s;
    s.d = d;
    s.w = w;
    s.limit = limit;
    s.best = NULL;
    for (size_t i = 0; i <= w->n; i++) s.row[0][i] = (uint8_t)i;
    walk(&s, 0, d->n_words, 0);
    return s.best;
}

/* ---- text ---- */

static void put_word(const nib_dictionary *d, const word *w, const spelling *as, nib_buf *out) {
    for (size_t i = 0; i < w->len; i++) {
        int32_t cp = d->pool[w->at + i];
        if (as->n_upper == as->n || (i == 0 && as->first_upper)) cp = utf8proc_toupper(cp);
        char utf8[4];
        nib_buf_put(out, utf8, nib_utf8_encode(cp, utf8));
    }
}

typedef struct corrector {
    const nib_dictionary *d;
    nib_buf *out;
    bool starts;   /* the next word begins a sentence */
    bool shouting; /* no lower-case letter anywhere: capitals say nothing */
} corrector;

static void put_core(corrector *c, nib_str core) {
    spelling w;
    const word *fix = NULL;
    if (spell(core, &w) && w.plain && w.n >= MIN_LENGTH && !is_known(c->d, w.c, w.n)) {
        bool lower = w.n_upper == 0, title = w.first_upper && w.n_upper == 1;
        bool upper = c->shouting && w.n_upper == w.n;
        unsigned limit = w.n >= TWO_EDITS_LENGTH && !title ? MAX_EDITS : 1;
        if (lower || upper || (title && c->starts)) fix = nearest(c->d, &w, limit);
    }
    if (fix)
        put_word(c->d, fix, &w, c->out);
    else
        nib_buf_put(c->out, core.p, core.n);
}

/* The length of the signs that may stand around a word, from its front or its back. */
static size_t signs(nib_str t, bool front) {
    size_t n = 0;
    while (n < t.n) {
        if (front) {
            int32_t cp;
            size_t k = nib_utf8_decode(t.p + n, t.n - n, &cp);
            if (!(cp > 0 && cp < 0x80 && strchr("\"'([{*_", cp)) && cp != 0x201c && cp != 0x2018 &&
                cp != 0xab)
                break;
            n += k;
        } else {
            char b = t.p[t.n - n - 1];
            size_t k = strchr("\"')]}*_.,;:!?", b) && b ? 1 : 0;
            static const char *const wide[] = {"\u201d", "\u2019", "\u2026", "\u00bb"};
            for (size_t i = 0; !k && i < NIB_ARRAY_LEN(wide); i++) {
                size_t m = strlen(wide[i]);
                if (t.n - n >= m && memcmp(t.p + t.n - n - m, wide[i], m) == 0) k = m;
            }
            if (!k) break;
            n += k;
        }
    }
    return n;
}

static void put_token(corrector *c, nib_str t) {
    size_t front = signs(t, true);
    nib_str rest = {t.p + front, t.n - front};
    size_t back = signs(rest, false);
    nib_str core = {rest.p, rest.n - back};
    nib_buf_put(c->out, t.p, front);
    put_core(c, core);
    nib_buf_put(c->out, core.p + core.n, back);
    if (core.n) c->starts = false;
    for (size_t i = 0; i < back; i++)
        if (nib_is_one_of(core.p[core.n + i], ".!?:")) c->starts = true;
}

static bool has_lower(const char *text, size_t len, const uint8_t *k) {
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = nib_utf8_decode(text + i, len - i, &cp);
        if (k[i] == NIB_TEXT_PROSE && cp > 0 && utf8proc_category(cp) == UTF8PROC_CATEGORY_LL)
            return true;
        i += n;
    }
    return false;
}

nib_status nib_autocorrect(const nib_dictionary *d, const char *text, size_t len, nib_buf *out,
                           nib_error *e) {
    uint8_t *k = nib_alloc(len);
    if (!k) return nib_fail_nomem(e, len, "the map of a text");
    nib_text_map(text, len, k);
    size_t start = out->len;
    corrector c = {.d = d, .out = out, .starts = true, .shouting = !has_lower(text, len, k)};
    for (size_t i = 0; i < len && !out->failed;) {
        size_t j = i;
        while (j < len && k[j] == NIB_TEXT_PROSE && !nib_is_space(text[j])) j++;
        if (j == i) {
            if (k[i] == NIB_TEXT_NEWLINE || k[i] == NIB_TEXT_LEAD) c.starts = true;
            if (k[i] == NIB_TEXT_KEEP || k[i] == NIB_TEXT_URL) c.starts = false;
            nib_buf_putc(out, text[i++]);
            continue;
        }
        /* Glued to code or an address on either side: part of a longer sign. */
        bool glued = (i > 0 && (k[i - 1] == NIB_TEXT_KEEP || k[i - 1] == NIB_TEXT_URL)) ||
                     (j < len && (k[j] == NIB_TEXT_KEEP || k[j] == NIB_TEXT_URL));
        if (glued)
            nib_buf_put(out, text + i, j - i);
        else
            put_token(&c, (nib_str){text + i, j - i});
        i = j;
    }
    nib_free(k);
    if (out->failed) {
        out->len = start;
        return nib_fail_nomem(e, len, "a corrected text");
    }
    return NIB_OK;
}
