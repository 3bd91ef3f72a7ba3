/* Sampling settings by name: one row of params.def each, read here for setting, showing and
 * checking. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "sample/internal.h"

typedef enum param_kind { FLOAT, INT, SEED } param_kind;
typedef struct param {
    const char *name, *aliases;
    param_kind kind;
    size_t offset;
    double min, max;
} param;

static const param params[] = {
#define NIB_SAMPLE_PARAM(field, kind, name, aliases, min, max, help)                               \
    {name, aliases, kind, offsetof(nib_sample_params, field), min, max},
#include "sample/params.def"
#undef NIB_SAMPLE_PARAM
};

nib_sample_params nib_sample_defaults(void) {
    return (nib_sample_params){.temperature = 0.8f,
                               .top_k = 40,
                               .top_p = 0.95f,
                               .min_p = 0.05f,
                               .typical_p = 1,
                               .repeat_penalty = 1,
                               .penalty_window = 64};
}

/* a names b, where '-' and '_' are the same; b ends at a space or its end. */
static bool names(const char *a, const char *b) {
    for (; *a && *b && *b != ' '; a++, b++)
        if (*a != *b && !(*a == '-' && *b == '_')) return false;
    return !*a && (!*b || *b == ' ');
}

static const param *find(const char *name) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(params); i++) {
        if (names(name, params[i].name)) return &params[i];
        for (const char *a = params[i].aliases; a && *a;) {
            if (names(name, a)) return &params[i];
            a = strchr(a, ' ');
            if (a) a++;
        }
    }
    return NULL;
}

static nib_status unknown(const char *name, nib_error *e) {
    const char *all[NIB_ARRAY_LEN(params)];
    for (size_t i = 0; i < NIB_ARRAY_LEN(params); i++) all[i] = params[i].name;
    const char *near = nib_str_nearest(name, all, NIB_ARRAY_LEN(params));
    return nib_fail(e, NIB_ERR_ARGUMENT, "no sampling setting '%.40s'%s%s%s", name,
                    near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static nib_status out_of_range(const param *d, const char *found, nib_error *e) {
    const char *what = d->kind == INT ? "whole number" : "number";
    if (d->max >= INT32_MAX)
        return nib_fail(e, NIB_ERR_ARGUMENT, "%s: expected a %s from %g up, found '%.40s'", d->name,
                        what, d->min, found);
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s: expected a %s from %g to %g, found '%.40s'", d->name,
                    what, d->min, d->max, found);
}

nib_status nib_sample_set(nib_sample_params *p, const char *name, const char *value, nib_error *e) {
    const param *d = find(name);
    if (!d) return unknown(name, e);
    char *field = (char *)p + d->offset, *end;
    errno = 0;
    if (d->kind == SEED) {
        if (strcmp(value, "random") == 0 || strcmp(value, "-1") == 0) {
            p->seed_given = false;
            return NIB_OK;
        }
        uint64_t v = strtoull(value, &end, 10);
        if (*value < '0' || *value > '9' || *end || errno)
            return nib_fail(
                e, NIB_ERR_ARGUMENT,
                "seed: expected a whole number from 0 to %llu or 'random', found '%.40s'",
                (unsigned long long)UINT64_MAX, value);
        p->seed = v;
        p->seed_given = true;
        return NIB_OK;
    }
    double v = strtod(value, &end);
    if (end == value || *end || !(v >= d->min && v <= d->max)) return out_of_range(d, value, e);
    if (d->kind == INT && v != floor(v)) return out_of_range(d, value, e);
    if (d->kind == FLOAT)
        *(float *)(void *)field = (float)v;
    else
        *(int32_t *)(void *)field = (int32_t)v;
    return NIB_OK;
}

nib_status nib_sample_get(const nib_sample_params *p, const char *name, char *out, size_t n,
                          nib_error *e) {
    const param *d = find(name);
    if (!d) return unknown(name, e);
    const char *field = (const char *)p + d->offset;
    if (d->kind == FLOAT)
        snprintf(out, n, "%g", (double)*(const float *)(const void *)field);
    else if (d->kind == INT)
        snprintf(out, n, "%d", (int)*(const int32_t *)(const void *)field);
    else if (p->seed_given)
        snprintf(out, n, "%llu", (unsigned long long)p->seed);
    else
        snprintf(out, n, "random");
    return NIB_OK;
}

nib_status nib_sample_check(const nib_sample_params *p, nib_error *e) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(params); i++) {
        const param *d = &params[i];
        const char *field = (const char *)p + d->offset;
        if (d->kind == SEED) continue;
        double v = d->kind == FLOAT ? (double)*(const float *)(const void *)field
                                    : (double)*(const int32_t *)(const void *)field;
        /* 0.01f is a little less than 0.01: bounds are compared as the field holds them. */
        bool ok = d->kind == FLOAT ? v >= (double)(float)d->min && v <= (double)(float)d->max
                                   : v >= d->min && v <= d->max;
        if (ok) continue;
        char found[48];
        snprintf(found, sizeof found, "%g", v);
        return out_of_range(d, found, e);
    }
    return NIB_OK;
}
