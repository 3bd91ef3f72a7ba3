/* Pre-splitting: patterns of presplit.def, compiled by PCRE2 and run by its JIT where the system
 * allows one.
 *
 * PCRE2 with UTF and UCP means by \p{L}, \p{N} what the models' own regular expression library
 * means. Its \s does not: it takes U+180E as a space, so white space is spelled out. No pattern
 * here needs more than linear time: each consumes a whole run of what it looks at, or gives up at
 * its first character. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include "tokenizer/internal.h"

/* White_Space of Unicode without the two line ends, and with them, for use inside [ ]. */
#define BLANK                                                                                      \
    "\\t\\x0b\\x0c "                                                                               \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WS           BLANK "\\r\\n"
#define SPACES       "[" WS "]+(?![^" WS "])|[" WS "]+"
#define LINES        "[" WS "]*[\\r\\n]+|" SPACES
#define DIGIT        "\\p{N}"
#define GPT2         "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CL100K(digits)                                                                             \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?[^" WS                         \
                 "\\p{L}\\p{N}]+[\\r\\n]*|" LINES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" suffix "|\\p{N}" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
#define CJK   "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* clang-format off */
/* Upper, lower and title case as of Unicode 11, with the gaps of the published pattern. */
#define CASED_LETTERS \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}" \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}" \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}" \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}" \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}" \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}" \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}" \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}" \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}" \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}" \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}" \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}" \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}" \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}" \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}" \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}" \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}" \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
/* clang-format on */

static const tok_family families[] = {
#define NIB_TOK_FAMILY(names, flags, ...) {names, flags, {__VA_ARGS__}},
#include "tokenizer/presplit.def"
#undef NIB_TOK_FAMILY
};

enum { MAX_LEVELS = NIB_ARRAY_LEN(((tok_family *)0)->patterns) };

struct tok_presplit {
    pcre2_general_context *memory;
    pcre2_code *code[MAX_LEVELS];
    bool jit[MAX_LEVELS];
    int n;
};

const tok_family *nib_tok_family(nib_str name) {
    for (size_t i = 0; name.n && i < NIB_ARRAY_LEN(families); i++) {
        for (const char *p = families[i].names; *p;) {
            size_t len = strcspn(p, " ");
            if (nib_str_eq((nib_str){p, len}, name)) return &families[i];
            p += len;
            p += strspn(p, " ");
        }
    }
    return NULL;
}

static void *get_memory(size_t n, void *unused) {
    (void)unused;
    return nib_alloc(n);
}
static void give_memory(void *p, void *unused) {
    (void)unused;
    nib_free(p);
}

nib_status nib_tok_presplit_new(tok_presplit **out, const tok_family *f, nib_error *e) {
    tok_presplit *ps = nib_calloc(1, sizeof *ps);
    if (!ps) return nib_fail_nomem(e, sizeof *ps, "a pre-splitter");
    nib_status s = NIB_OK;
    pcre2_compile_context *cc = NULL;
    ps->memory = pcre2_general_context_create(get_memory, give_memory, NULL);
    if (ps->memory) cc = pcre2_compile_context_create(ps->memory);
    if (!cc) {
        s = nib_fail_nomem(e, 256, "a pre-splitter");
        goto out;
    }
    for (; ps->n < (int)MAX_LEVELS && f->patterns[ps->n]; ps->n++) {
        int code;
        PCRE2_SIZE at;
        pcre2_code *re =
            pcre2_compile((PCRE2_SPTR)f->patterns[ps->n], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &at, cc);
        if (!re) {
            char why[120];
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            s = nib_fail(e, code == PCRE2_ERROR_HEAP_FAILED ? NIB_ERR_NOMEM : NIB_ERR_INTERNAL,
                         "pre-splitter '%s': %s at %zu of pattern %d", f->names, why, at,
                         ps->n + 1);
            goto out;
        }
        ps->code[ps->n] = re;
        ps->jit[ps->n] = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
    }
out:
    pcre2_compile_context_free(cc);
    if (s == NIB_OK)
        *out = ps;
    else
        nib_tok_presplit_free(ps);
    return s;
}

void nib_tok_presplit_free(tok_presplit *ps) {
    if (!ps) return;
    for (int i = 0; i < ps->n; i++) pcre2_code_free(ps->code[i]);
    pcre2_general_context_free(ps->memory);
    nib_free(ps);
}

void nib_tok_match_free(tok_call *c) {
    pcre2_match_data_free(c->match);
}

/* The next match of pattern 'level' in p[from..n); false in *found when there is none. */
static nib_status next_match(const tok_presplit *ps, tok_call *c, int level, const char *p,
                             size_t n, size_t from, size_t *start, size_t *end) {
    PCRE2_SPTR s = (PCRE2_SPTR)p;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (ps->jit[level])
        rc = pcre2_jit_match(ps->code[level], s, n, from, PCRE2_NOTEMPTY, c->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(ps->code[level], s, n, from,
                         PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, c->match, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *start = *end = n;
        return NIB_OK;
    }
    if (rc < 0)
        return nib_fail(c->e, rc == PCRE2_ERROR_NOMEMORY ? NIB_ERR_NOMEM : NIB_ERR_LIMIT,
                        "splitting the text into words failed (PCRE2 error %d)", rc);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(c->match);
    *start = at[0], *end = at[1];
    return NIB_OK;
}

static nib_status split(const tok_presplit *ps, tok_call *c, int level, const char *p, size_t n,
                        tok_word_fn fn) {
    if (level == ps->n) return nib_tok_cached_word(c, p, n, fn);
    for (size_t at = 0; at < n;) {
        size_t start = n, end = n;
        NIB_TRY(next_match(ps, c, level, p, n, at, &start, &end));
        if (start > at) NIB_TRY(split(ps, c, level + 1, p + at, start - at, fn));
        if (end > start) NIB_TRY(split(ps, c, level + 1, p + start, end - start, fn));
        at = end;
    }
    return NIB_OK;
}

nib_status nib_tok_presplit_run(const tok_presplit *ps, tok_call *c, const char *p, size_t n,
                                tok_word_fn fn) {
    if (!c->match) c->match = pcre2_match_data_create(1, ps->memory);
    if (!c->match) return nib_fail_nomem(c->e, 128, "a regular expression match");
    return split(ps, c, 0, p, n, fn);
}
