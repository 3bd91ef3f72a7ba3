/* Names of models: aliases, references to repos, URLs, and which file of a repo is meant.
 *
 * What files are called is custom, not rule: the quantisation is the last word of the name that
 * looks like one, a split model's parts end in -0000P-of-0000N.gguf. */
#include <ctype.h>
#include <stdlib.h>
#include "hub/internal.h"

const nib_hub_alias nib_hub_aliases[] = {
#define NIB_ALIAS(name, repo, want, licence, ctx, bytes) {name, repo, want, licence, ctx, bytes},
#include "hub/aliases.def"
#undef NIB_ALIAS
};
const size_t nib_hub_n_aliases = NIB_ARRAY_LEN(nib_hub_aliases);

const nib_hub_alias *nib_hub_alias_find(const char *name) {
    for (size_t i = 0; i < nib_hub_n_aliases; i++)
        if (strcasecmp(nib_hub_aliases[i].name, name) == 0) return &nib_hub_aliases[i];
    return NULL;
}

const nib_hub_alias *nib_hub_alias_default(void) {
    return nib_hub_alias_find("qwen2.5-0.5b");
}

/* ---- file names ---- */

static bool word_start(const char *name, size_t i) {
    return i == 0 || !isalnum((unsigned char)name[i - 1]);
}

/* The length of the quantisation that begins at p: Q4, Q4_0, IQ2_XXS, Q4_K_M, F16, MXFP4_MOE ... */
static size_t quant_len(const char *p) {
    static const char *const floats[] = {"BF16", "FP16", "FP32", "F16", "F32", "MXFP4", "NVFP4"};
    static const char *const more[] = {"XXS", "XXL", "MOE", "XS", "XL", "NL", "0", "1",
                                       "K",   "S",   "M",   "L",  "P",  "2",  "4", "8"};
    size_t n = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(floats) && n == 0; i++)
        if (strncasecmp(p, floats[i], strlen(floats[i])) == 0) n = strlen(floats[i]);
    if (n == 0) {
        n = strncasecmp(p, "IQ", 2) == 0 || strncasecmp(p, "TQ", 2) == 0 ? 2
            : *p == 'Q' || *p == 'q'                                     ? 1
                                                                         : 0;
        if (n == 0 || !isdigit((unsigned char)p[n])) return 0;
        n++;
    }
    for (bool again = true; again && p[n] == '_';) {
        again = false;
        for (size_t i = 0; i < NIB_ARRAY_LEN(more) && !again; i++) {
            size_t k = strlen(more[i]);
            if (strncasecmp(p + n + 1, more[i], k) != 0 || isalnum((unsigned char)p[n + 1 + k]))
                continue;
            n += 1 + k;
            again = true;
        }
    }
    return isalnum((unsigned char)p[n]) ? 0 : n;
}

void nib_hub_quant_of(const char *file, char out[32]) {
    size_t at = 0, n = 0;
    for (size_t i = 0; file[i]; i++) {
        size_t k = word_start(file, i) ? quant_len(file + i) : 0;
        if (k == 0 || k > 24) continue;
        at = i, n = k;
        i += k - 1;
    }
    if (n && at >= 3 && strncasecmp(file + at - 3, "UD-", 3) == 0 && word_start(file, at - 3))
        at -= 3, n += 3;
    for (size_t i = 0; i < n; i++) out[i] = (char)toupper((unsigned char)file[at + i]);
    out[n] = 0;
}

bool nib_hub_split_of(const char *name, size_t *stem, int *part, int *parts) {
    size_t n = strlen(name);
    enum { TAIL = sizeof "-00001-of-00002.gguf" - 1 };
    if (n <= TAIL) return false;
    const char *p = name + n - TAIL;
    if (p[0] != '-' || strncmp(p + 6, "-of-", 4) != 0 || strcmp(p + 15, ".gguf") != 0) return false;
    int v[2] = {0, 0};
    for (int i = 0; i < 5; i++) {
        if (!isdigit((unsigned char)p[1 + i]) || !isdigit((unsigned char)p[10 + i])) return false;
        v[0] = v[0] * 10 + (p[1 + i] - '0');
        v[1] = v[1] * 10 + (p[10 + i] - '0');
    }
    if (v[0] < 1 || v[1] < v[0]) return false;
    *stem = n - TAIL, *part = v[0], *parts = v[1];
    return true;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcasecmp(s + n - k, end) == 0;
}

bool nib_hub_is_model(const char *name) {
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    size_t stem;
    int part = 1, parts;
    if (!ends_with(base, ".gguf") || strncasecmp(base, "mmproj", 6) == 0) return false;
    if (strcasestr(base, "imatrix") || strcasestr(base, "-mmproj")) return false;
    return !nib_hub_split_of(name, &stem, &part, &parts) || part == 1;
}

ptrdiff_t nib_hub_pick(const char *const *names, size_t n, const char *want) {
    static const char *const order[] = {"Q4_K_M", "UD-Q4_K_XL", "Q4_K_L", "Q4_K_S", "Q4_0",
                                        "Q4_1",   "Q4",         "Q5_K_M", "Q5_K_S", "Q5_0",
                                        "Q5_1",   "Q6_K",       "Q8_0",   "IQ4_XS", "IQ4_NL",
                                        "MXFP4",  "Q3_K_M",     "F16",    "BF16",   "F32"};
    char quant[32];
    ptrdiff_t best = -1;
    size_t best_rank = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        const char *slash = strrchr(names[i], '/'), *base = slash ? slash + 1 : names[i];
        if (ends_with(want, ".gguf")) {
            if (strcmp(names[i], want) == 0 || strcmp(base, want) == 0) return (ptrdiff_t)i;
            continue;
        }
        if (!nib_hub_is_model(names[i])) continue;
        nib_hub_quant_of(names[i], quant);
        size_t rank = NIB_ARRAY_LEN(order);
        if (*want) {
            if (strcasecmp(quant, want) != 0) continue;
            rank = 0;
        }
        for (size_t k = 0; !*want && k < NIB_ARRAY_LEN(order); k++)
            if (strcmp(quant, order[k]) == 0) rank = k;
        /* Among equals the shortest name: the plain one. */
        if (rank < best_rank ||
            (rank == best_rank && strlen(names[i]) < strlen(names[(size_t)best])))
            best = (ptrdiff_t)i, best_rank = rank;
    }
    return best;
}

bool nib_hub_name_ok(const char *name, size_t n) {
    if (n == 0 || n > 1024 || name[0] == '/') return false;
    for (size_t i = 0, start = 0; i <= n; i++) {
        if (i < n && name[i] != '/') {
            unsigned char c = (unsigned char)name[i];
            if (c < ' ' || c == 0x7f || c == '\\') return false;
            continue;
        }
        size_t len = i - start;
        if (len == 0 || len > 255) return false;
        if (name[start] == '.' && (len == 1 || (len == 2 && name[start + 1] == '.'))) return false;
        start = i + 1;
    }
    return nib_utf8_valid(name, n);
}

/* ---- references ---- */

/* What users and repos are called on the hub. */
static bool id_ok(const char *p, size_t n) {
    if (n == 0 || n > 96 || p[0] == '.' || p[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)p[i]) && !strchr("-_.", p[i])) return false;
        if (i && p[i] == p[i - 1] && (p[i] == '-' || p[i] == '.')) return false;
    }
    return true;
}

static bool copy(char *out, const char *p, size_t n) {
    if (n >= NIB_HUB_NAME) return false;
    memcpy(out, p, n);
    out[n] = 0;
    return true;
}

static nib_status wrong(const char *text, nib_error *e) {
    return nib_fail(e, NIB_ERR_ARGUMENT,
                    "'%.150s': expected ALIAS, hf.co/USER/REPO[@REVISION][:QUANT] or a URL", text);
}

/* USER/REPO[@REVISION][:QUANT or :FILE]; 'loose': the person did not say that it is on the hub. */
static nib_status parse_repo(const char *text, const char *p, bool loose, nib_hub_ref *r,
                             nib_error *e) {
    size_t user = strcspn(p, "/"), repo = p[user] ? strcspn(p + user + 1, "/@:") : 0;
    const char *rest = p[user] ? p + user + 1 + repo : "";
    bool form = id_ok(p, user) && id_ok(p + user + (p[user] == '/'), repo) && *rest != '/';
    if (loose && (!form || (!*rest && ends_with(p, ".gguf")) || p[0] == '.'))
        return nib_fail(e, NIB_ERR_NOT_FOUND, "'%.150s' is no model of the hub", text);
    if (!form) return wrong(text, e);
    copy(r->repo, p, user + 1 + repo);
    if (*rest == '@') {
        size_t n = strcspn(rest + 1, ":");
        if (!nib_hub_name_ok(rest + 1, n) || !copy(r->revision, rest + 1, n)) return wrong(text, e);
        rest += 1 + n;
    }
    if (*rest == ':') {
        size_t n = strlen(rest + 1);
        if (!nib_hub_name_ok(rest + 1, n) || !copy(r->want, rest + 1, n)) return wrong(text, e);
        if (strcmp(r->want, "latest") == 0) r->want[0] = 0;
    }
    return NIB_OK;
}

/* The part of text after prefix, when it begins with it (whatever the case). */
static const char *after(const char *text, const char *prefix) {
    size_t n = strlen(prefix);
    return strncasecmp(text, prefix, n) == 0 ? text + n : NULL;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : isxdigit((unsigned char)c) ? tolower(c) - 'a' + 10 : -1;
}

/* Of a URL on the hub: USER/REPO, USER/REPO/tree/REV, USER/REPO/resolve/REV/FILE or /blob/. */
static nib_status parse_hub_url(const char *text, const char *p, nib_hub_ref *r, nib_error *e) {
    char path[2048];
    size_t n = 0;
    for (; *p && *p != '?' && *p != '#' && n + 1 < sizeof path; p++) {
        bool escaped = *p == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0;
        path[n++] = escaped ? (char)(hex_digit(p[1]) * 16 + hex_digit(p[2])) : *p;
        if (escaped) p += 2;
    }
    while (n && path[n - 1] == '/') n--;
    path[n] = 0;
    if (strlen(path) != n) return wrong(text, e);
    char *words[5] = {path};
    int n_words = 1;
    for (char *q = path; *q && n_words < 5; q++)
        if (*q == '/') *q = 0, words[n_words++] = q + 1;
    if (n_words < 2 || !id_ok(words[0], strlen(words[0])) || !id_ok(words[1], strlen(words[1])))
        return wrong(text, e);
    snprintf(r->repo, sizeof r->repo, "%.96s/%.96s", words[0], words[1]);
    if (n_words == 2) return NIB_OK;
    bool file = strcmp(words[2], "resolve") == 0 || strcmp(words[2], "blob") == 0;
    if (!file && strcmp(words[2], "tree") != 0) return wrong(text, e);
    if (n_words < 4 || !nib_hub_name_ok(words[3], strlen(words[3])) || strchr(words[3], ':') ||
        !copy(r->revision, words[3], strlen(words[3])))
        return wrong(text, e);
    if (!file) return NIB_OK;
    if (n_words < 5 || !nib_hub_name_ok(words[4], strlen(words[4])) ||
        !ends_with(words[4], ".gguf") || !copy(r->want, words[4], strlen(words[4])))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "'%.150s' is no GGUF file: expected one ending in .gguf", text);
    return NIB_OK;
}

/* Letters, digits and dots; whatever else there is becomes a single '-': "--" is what separates
 * user and repo in the cache. */
static size_t put_plain(char *out, size_t max, const char *p, const char *end) {
    size_t n = 0;
    for (; p < end && n < max; p++) {
        if (isalnum((unsigned char)*p) || (*p == '.' && n && out[n - 1] != '.'))
            out[n++] = *p;
        else if (n && out[n - 1] != '-')
            out[n++] = '-';
    }
    while (n && (out[n - 1] == '-' || out[n - 1] == '.')) n--;
    return n;
}

/* A plain URL: "HOST/NAME-HASH" is its place in the cache. What follows '?' may be a signature that
 * changes, so it is no part of the place. */
static nib_status parse_url(const char *text, nib_hub_ref *r, nib_error *e) {
    size_t n = strlen(text);
    const char *host = strstr(text, "://") + 3, *end = text + strcspn(text, "?#");
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~') return wrong(text, e);
    if (n >= sizeof r->url)
        return nib_fail(e, NIB_ERR_ARGUMENT, "the URL '%.60s...' is longer than %zu bytes", text,
                        sizeof r->url - 1);
    const char *path = host + strcspn(host, "/"), *base = end;
    while (base > path && base[-1] != '/') base--;
    if (path >= end || base == end) return wrong(text, e);
    const char *at = memchr(host, '@', (size_t)(path - host));
    if (at) host = at + 1;
    char place[128], name[64];
    size_t k = put_plain(place, 90, host, path), m = put_plain(name, 60, base, end);
    if (k == 0 || m == 0) return wrong(text, e);
    if (m > 5 && strncasecmp(name + m - 5, ".gguf", 5) == 0) m -= 5;
    while (m > 1 && name[m - 1] == '-') m--;
    snprintf(r->repo, sizeof r->repo, "%.*s/%.*s-%016llx", (int)k, place, (int)m, name,
             (unsigned long long)nib_fingerprint(0, text, (size_t)(end - text)));
    size_t len = (size_t)(end - base);
    if (!nib_hub_name_ok(base, len) || !copy(r->want, base, len)) return wrong(text, e);
    memcpy(r->url, text, n + 1);
    return NIB_OK;
}

nib_status nib_hub_parse(const char *text, const char *endpoint, nib_hub_ref *out, nib_error *e) {
    static const char *const pages[] = {"https://huggingface.co/", "http://huggingface.co/",
                                        "https://www.huggingface.co/", "https://hf.co/",
                                        "http://hf.co/"};
    static const char *const prefixes[] = {"hf.co/", "hf:", "hf://", "huggingface.co/",
                                           "huggingface:"};
    nib_hub_ref r = {.revision = "main"};
    nib_status s = NIB_ERR_NOT_FOUND;
    const char *rest = NULL;
    for (size_t i = 0; i < NIB_ARRAY_LEN(pages) && !rest; i++) rest = after(text, pages[i]);
    if (!rest && endpoint && (rest = after(text, endpoint))) rest = *rest == '/' ? rest + 1 : NULL;
    if (rest) {
        s = parse_hub_url(text, rest, &r, e);
    } else if (after(text, "https://") || after(text, "http://")) {
        s = parse_url(text, &r, e);
    } else {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)NIB_MIN(strcspn(text, ":"), sizeof name - 1),
                 text);
        const char *p = NULL, *want = strchr(text, ':');
        const nib_hub_alias *a = nib_hub_alias_find(name);
        for (size_t i = 0; i < NIB_ARRAY_LEN(prefixes); i++)
            if (after(text, prefixes[i])) p = after(text, prefixes[i]);
        if (a) {
            snprintf(r.repo, sizeof r.repo, "%s", a->repo);
            snprintf(r.want, sizeof r.want, "%s", a->want);
            s = NIB_OK;
            if (!want)
                r.alias = a;
            else if (!nib_hub_name_ok(want + 1, strlen(want + 1)) ||
                     !copy(r.want, want + 1, strlen(want + 1)))
                s = wrong(text, e);
        } else if (p) {
            s = parse_repo(text, p, false, &r, e);
        } else if (strchr(text, '/')) {
            s = parse_repo(text, text, true, &r, e);
        } else {
            const char *names[NIB_ARRAY_LEN(nib_hub_aliases)];
            for (size_t i = 0; i < nib_hub_n_aliases; i++) names[i] = nib_hub_aliases[i].name;
            const char *near = nib_str_nearest(text, names, nib_hub_n_aliases);
            if (near)
                s = nib_fail(
                    e, NIB_ERR_NOT_FOUND,
                    "no alias '%.100s': did you mean '%s'? ('nib ls --aliases' lists them)", text,
                    near);
            else
                s = nib_fail(e, NIB_ERR_NOT_FOUND,
                             "no alias '%.100s' ('nib ls --aliases' lists them; models of the hub "
                             "are written hf.co/USER/REPO)",
                             text);
        }
    }
    if (s == NIB_OK) *out = r;
    return s;
}

const char *nib_hub_ref_text(const nib_hub_ref *r) {
    static char ring[4][2 * NIB_HUB_NAME + 1040];
    static int at;
    if (r->alias) return r->alias->name;
    char *out = ring[at++ & 3];
    bool branch = strcmp(r->revision, "main") != 0;
    if (*r->url)
        snprintf(out, sizeof ring[0], "%s", r->url);
    else
        snprintf(out, sizeof ring[0], "hf.co/%s%s%s%s%s", r->repo, branch ? "@" : "",
                 branch ? r->revision : "", *r->want ? ":" : "", r->want);
    return out;
}
