/* Case and character classes by Unicode, as Python's str has them: upper('ß') is 'SS', lower('ΑΣ')
 * ends in a final sigma. The tables are utf8proc's; the full mappings it lacks are in
 * jinja_case.def. */
#include "chat/jinja_rows.h"
#include <utf8proc.h>

static const struct {
    int32_t cp;
    const char *upper, *title;
} special[] = {
#define CASE_ROW(cp, upper, title) {cp, upper, title},
#include "chat/jinja_case.def"
#undef CASE_ROW
};

static const char *find_special(int32_t cp, bool title) {
    size_t lo = 0, hi = NIB_ARRAY_LEN(special);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (special[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == NIB_ARRAY_LEN(special) || special[lo].cp != cp) return NULL;
    return title ? special[lo].title : special[lo].upper;
}

enum { UNCASED, IS_UPPER, IS_LOWER, IS_TITLE };

static int class_of(int32_t cp) {
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z' ? IS_UPPER : cp >= 'a' && cp <= 'z' ? IS_LOWER : 0;
    if (utf8proc_category(cp) == UTF8PROC_CATEGORY_LT) return IS_TITLE;
    return utf8proc_isupper(cp) ? IS_UPPER : utf8proc_islower(cp) ? IS_LOWER : 0;
}

static bool is_letter(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

/* A sigma that ends a word: a cased letter before it, none after. */
static bool final_sigma(const jstring *s, size_t at, size_t after) {
    int32_t cp;
    if (at == 0) return false;
    size_t before = at - 1;
    while (before > 0 && (s->p[before] & 0xc0) == 0x80) before--;
    nib_utf8_decode(s->p + before, at - before, &cp);
    if (!class_of(cp)) return false;
    if (after == s->n) return true;
    nib_utf8_decode(s->p + after, s->n - after, &cp);
    return !class_of(cp);
}

static void put_char(jout *o, int32_t cp, uint8_t taint) {
    char utf8[4];
    jinja_out_put(o, utf8, nib_utf8_encode(cp, utf8), taint);
}

static void put_cased(jout *o, const jstring *s, size_t at, size_t after, int32_t cp, jcase how) {
    uint8_t taint = jinja_taint_at(s, at);
    const char *many =
        how == CASE_UPPER || how == CASE_TITLE ? find_special(cp, how == CASE_TITLE) : NULL;
    if (how == CASE_LOWER && cp == 0x130) many = "i\u0307";
    if (many) {
        jinja_out_puts(o, many, taint);
    } else if (how == CASE_FOLD) {
        utf8proc_int32_t folded[8];
        utf8proc_ssize_t n = utf8proc_decompose_char(cp, folded, 8, UTF8PROC_CASEFOLD, NULL);
        for (utf8proc_ssize_t i = 0; i < n && i < 8; i++) put_char(o, folded[i], taint);
    } else if (how == CASE_LOWER) {
        put_char(o, cp == 0x3a3 && final_sigma(s, at, after) ? 0x3c2 : utf8proc_tolower(cp), taint);
    } else {
        put_char(o, how == CASE_UPPER ? utf8proc_toupper(cp) : utf8proc_totitle(cp), taint);
    }
}

/* The mapping that character number i of a string gets. */
static jcase mapping(jcase how, size_t i, int class, bool after_cased) {
    switch (how) {
    case CASE_TITLE: return after_cased ? CASE_LOWER : CASE_TITLE;
    case CASE_CAPITALIZE: return i ? CASE_LOWER : CASE_TITLE;
    case CASE_SWAP: return class == IS_UPPER ? CASE_LOWER : CASE_UPPER;
    default: return how;
    }
}

static char ascii_cased(char c, jcase how) {
    if (how == CASE_LOWER || how == CASE_FOLD) return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    return c >= 'a' && c <= 'z' ? (char)(c & ~0x20) : c;
}

nib_status jinja_recase(jrun *j, const jstring *s, jcase how, jvalue *out) {
    jout o;
    jinja_out_init(&o, j);
    NIB_TRY(jinja_charge(j, 2 * JINJA_CHARS(s->n)));
    bool after_cased = false;
    char run[256]; /* ASCII of one provenance, put in one piece */
    size_t n_run = 0, n;
    uint8_t run_taint = 0;
    for (size_t i = 0, at = 0; at < s->n && o.st == NIB_OK; i++, at += n) {
        int32_t cp;
        n = nib_utf8_decode(s->p + at, s->n - at, &cp);
        int class = class_of(cp);
        jcase to = mapping(how, i, class, after_cased);
        after_cased = class != UNCASED;
        uint8_t taint = jinja_taint_at(s, at);
        if (n_run == sizeof run || taint != run_taint || cp >= 0x80) {
            jinja_out_put(&o, run, n_run, run_taint);
            n_run = 0;
            run_taint = taint;
        }
        if (cp < 0x80)
            run[n_run++] = ascii_cased((char)cp, to);
        else
            put_cased(&o, s, at, at + n, cp, to);
    }
    jinja_out_put(&o, run, n_run, run_taint);
    return jinja_out_finish(&o, out);
}

static nib_status recase(jrun *j, const jcall *c, jcase how, jvalue *out) {
    const jstring *s;
    NIB_TRY(jinja_to_string(j, c->self, &s)); /* the filters of these names take anything */
    return jinja_recase(j, s, how, out);
}
nib_status jrow_upper(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_UPPER, out);
}
nib_status jrow_lower(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_LOWER, out);
}
nib_status jrow_capitalize(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_CAPITALIZE, out);
}
nib_status jrow_str_title(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_TITLE, out);
}
nib_status jrow_str_swapcase(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_SWAP, out);
}
nib_status jrow_str_casefold(jrun *j, const jcall *c, jvalue *out) {
    return recase(j, c, CASE_FOLD, out);
}

/* ---- classes ---- */

static bool is_decimal(int32_t cp) {
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_ND;
}
static bool is_digit(int32_t cp) {
    return is_decimal(cp) || cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || cp == 0x2070 ||
           (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089);
}
static bool is_numeric(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}
static bool is_alnum(int32_t cp) {
    return is_letter(cp) || is_numeric(cp);
}
static bool is_ascii(int32_t cp) {
    return cp < 0x80;
}

/* Whether all characters are of a class, and there is one. */
static nib_status all(jrun *j, const jcall *c, bool (*is)(int32_t), bool when_empty, jvalue *out) {
    const jstring *s = c->self.s;
    bool yes = s->n ? true : when_empty;
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    for (size_t at = 0, n; yes && at < s->n; at += n) {
        int32_t cp;
        n = nib_utf8_decode(s->p + at, s->n - at, &cp);
        yes = is(cp);
    }
    *out = jv_bool(yes);
    return NIB_OK;
}
nib_status jrow_str_isalpha(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_letter, false, out);
}
nib_status jrow_str_isalnum(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_alnum, false, out);
}
nib_status jrow_str_isascii(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_ascii, true, out);
}
nib_status jrow_str_isdecimal(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_decimal, false, out);
}
nib_status jrow_str_isdigit(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_digit, false, out);
}
nib_status jrow_str_isnumeric(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, is_numeric, false, out);
}
nib_status jrow_str_isspace(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, jinja_is_space, false, out);
}
nib_status jrow_str_isprintable(jrun *j, const jcall *c, jvalue *out) {
    return all(j, c, jinja_is_printable, true, out);
}

/* Whether all cased characters are of the wanted class, and there is one. */
static nib_status all_cased(jrun *j, const jcall *c, int wanted, jvalue *out) {
    const jstring *s;
    NIB_TRY(jinja_to_string(j, c->self, &s));
    bool yes = true, any = false, after_cased = false;
    NIB_TRY(jinja_charge(j, JINJA_CHARS(s->n)));
    for (size_t at = 0, n; yes && at < s->n; at += n) {
        int32_t cp;
        n = nib_utf8_decode(s->p + at, s->n - at, &cp);
        int class = class_of(cp);
        if (class != UNCASED && wanted == IS_TITLE)
            yes = (class == IS_LOWER) == after_cased;
        else if (class != UNCASED)
            yes = class == wanted;
        any |= class != UNCASED;
        after_cased = class != UNCASED;
    }
    *out = jv_bool(yes && any);
    return NIB_OK;
}
nib_status jrow_isupper(jrun *j, const jcall *c, jvalue *out) {
    return all_cased(j, c, IS_UPPER, out);
}
nib_status jrow_islower(jrun *j, const jcall *c, jvalue *out) {
    return all_cased(j, c, IS_LOWER, out);
}
nib_status jrow_str_istitle(jrun *j, const jcall *c, jvalue *out) {
    return all_cased(j, c, IS_TITLE, out);
}
