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

/* White_Space of Unicode, for use inside [ ]. */
#define WS                                                                                         \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
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
#define BLOOM " ?[^(" WS "|.,!?…。，、।۔،)]+"
#define CJK   "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* clang-format off */
#define CASED_LETTERS \
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼ\\x{1fbe}ῂ-ῄῆ-ῌῐ-ΐ" \
    "ῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
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
            s = nib_fail(e, code == PCRE2_ERROR_NOMEMORY ? NIB_ERR_NOMEM : NIB_ERR_INTERNAL,
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
