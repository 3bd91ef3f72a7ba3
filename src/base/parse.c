/* Values that people type: numbers, sizes, choices. Each error says what was expected and what was
 * found. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "base/base.h"

nib_status nib_parse_int(const char *what, const char *text, double min, double max, int64_t *out,
                         nib_error *e) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)v < min || (double)v > max)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "%s: expected a whole number from %.0f to %.0f, found '%.60s'", what, min,
                        max, text);
    *out = v;
    return NIB_OK;
}

nib_status nib_parse_num(const char *what, const char *text, double min, double max, double *out,
                         nib_error *e) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < min || v > max)
        return nib_fail(e, NIB_ERR_ARGUMENT, "%s: expected a number from %g to %g, found '%.60s'",
                        what, min, max, text);
    *out = v;
    return NIB_OK;
}

nib_status nib_parse_bytes(const char *what, const char *text, uint64_t *out, nib_error *e) {
    static const char letters[] = "KMGT";
    char *end;
    double v = strtod(text, &end), unit = 1;
    bool ok = end != text && isfinite(v) && v >= 0;
    while (*end == ' ') end++;
    const char *letter = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
    if (letter) {
        end++;
        unit = pow(*end == 'i' ? 1024 : 1000, (double)(letter - letters + 1));
        end += *end == 'i';
    }
    end += *end == 'B' || *end == 'b';
    if (!ok || *end || v * unit > 9e18)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "%s: expected a size such as 800M or 1.5G, found '%.60s'", what, text);
    *out = (uint64_t)(v * unit);
    return NIB_OK;
}

nib_status nib_parse_choice(const char *what, const char *text, const char *choices, int *out,
                            nib_error *e) {
    size_t n = strlen(text);
    int i = 0;
    for (const char *p = choices;; i++) {
        size_t len = strcspn(p, "|");
        if (len == n && strncmp(p, text, n) == 0) {
            *out = i;
            return NIB_OK;
        }
        p += len;
        if (!*p++) break;
    }
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s: expected %s, found '%.60s'", what, choices, text);
}
