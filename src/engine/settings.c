/* Settings of replies by name: rows of settings.def and of sample/params.def. One place for command
 * lines, /set and the library's callers. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include "engine/engine.h"

typedef enum setting_kind { I32, I64, F64, SWITCH, CALL } setting_kind;
typedef struct setting {
    const char *name, *arg, *help;
    setting_kind kind;
    size_t offset;
    nib_status (*set)(nib_settings *s, const char *value, nib_error *e);
    double min, max;
} setting;

static nib_status replace(char **to, const char *value, nib_error *e) {
    char *copy = nib_strdup(value);
    if (!copy) return nib_fail_nomem(e, strlen(value), "a setting");
    nib_free(*to);
    *to = copy;
    return NIB_OK;
}

static nib_status set_stop(nib_settings *s, const char *value, nib_error *e) {
    if (!*value || strcmp(value, "none") == 0) {
        for (size_t i = 0; i < s->n_stop; i++) nib_free(s->stop[i]);
        s->n_stop = 0;
        s->p.stop = NULL;
        return NIB_OK;
    }
    char **list = nib_realloc(s->stop, (s->n_stop + 2) * sizeof *list);
    if (!list) return nib_fail_nomem(e, s->n_stop * sizeof *list, "stop strings");
    s->stop = list;
    if (s->p.stop) s->p.stop = (const char *const *)list; /* it may have moved */
    if (!(list[s->n_stop] = nib_strdup(value)))
        return nib_fail_nomem(e, strlen(value), "a stop string");
    list[++s->n_stop] = NULL;
    s->p.stop = (const char *const *)list;
    return NIB_OK;
}

static nib_status set_retention(nib_settings *s, const char *value, nib_error *e) {
    int64_t n = -1;
    if (strcmp(value, "all") != 0 && nib_parse_int("retention", value, 0, 1e6, &n, NULL) != NIB_OK)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "retention: expected a number of exchanges or all, found '%.60s'", value);
    s->p.retention = (int)n;
    return NIB_OK;
}

static nib_status set_think(nib_settings *s, const char *value, nib_error *e) {
    int i;
    NIB_TRY(nib_parse_choice("think", value, "auto|on|off|hide", &i, e));
    s->hide_thoughts = i == 3;
    if (i == 0) s->p.think = NIB_THINK_AUTO;
    if (i == 1) s->p.think = NIB_THINK_ON;
    if (i == 2) s->p.think = NIB_THINK_OFF;
    return NIB_OK;
}

static nib_status set_autocorrect(nib_settings *s, const char *value, nib_error *e) {
    int i;
    NIB_TRY(nib_parse_choice("autocorrect", value, "off|input|output|both", &i, e));
    s->p.autocorrect_input = i & 1;
    s->p.autocorrect_output = i >> 1;
    return NIB_OK;
}

static nib_status set_dictionary(nib_settings *s, const char *value, nib_error *e) {
    NIB_TRY(replace(&s->dictionary_path, value, e));
    nib_dictionary_free(s->dictionary);
    s->dictionary = NULL;
    s->p.dictionary = NULL;
    return NIB_OK;
}

static nib_status add_bias(nib_settings *s, nib_logit_bias bias, nib_error *e) {
    int n = s->p.sampling.n_bias;
    nib_logit_bias *list = nib_realloc(s->bias, ((size_t)n + 1) * sizeof *list);
    if (!list) return nib_fail_nomem(e, ((size_t)n + 1) * sizeof *list, "logit biases");
    list[n] = bias;
    s->p.sampling.bias = s->bias = list;
    s->p.sampling.n_bias = n + 1;
    return NIB_OK;
}

static nib_status set_logit_bias(nib_settings *s, const char *value, nib_error *e) {
    char *end;
    long id = strtol(value, &end, 10);
    bool ok = end != value && *end == '=' && id >= 0 && id <= INT32_MAX;
    const char *number = ok ? end + 1 : value;
    double bias = strtod(number, &end);
    if (!ok || end == number || *end || isnan(bias))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "logit_bias: expected ID=BIAS, such as 15=-inf, found '%.60s'", value);
    return add_bias(s, (nib_logit_bias){(int32_t)id, (float)bias}, e);
}

static nib_status set_system(nib_settings *s, const char *value, nib_error *e) {
    NIB_TRY(replace(&s->system, value, e));
    s->p.system = *value ? s->system : NULL;
    return NIB_OK;
}

/* A row's field is used by offset or as the end of a function's name: each kind picks its part. */
#define OFFSET_I32(f)    offsetof(nib_dialog_params, f), NULL
#define OFFSET_I64(f)    OFFSET_I32(f)
#define OFFSET_F64(f)    OFFSET_I32(f)
#define OFFSET_SWITCH(f) OFFSET_I32(f)
#define OFFSET_CALL(f)   0, set_##f
static const setting settings[] = {
#define NIB_SETTING(name, letter, arg, kind, field, min, max, help)                                \
    {name, arg, help, kind, OFFSET_##kind(field), min, max},
#include "engine/settings.def"
#undef NIB_SETTING
};

/* a is b, where '-' and '_' are the same. */
static bool names(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !(*a == '-' && *b == '_')) return false;
    return !*a && !*b;
}

static const char *const sampling_names[] = {
#define NIB_SAMPLE_PARAM(field, kind, name, aliases, min, max, help) name,
#include "sample/params.def"
#undef NIB_SAMPLE_PARAM
};

const char *nib_settings_name(size_t i) {
    if (i < NIB_ARRAY_LEN(settings)) return settings[i].name;
    i -= NIB_ARRAY_LEN(settings);
    return i < NIB_ARRAY_LEN(sampling_names) ? sampling_names[i] : NULL;
}

nib_status nib_settings_set(nib_settings *s, const char *name, const char *value, nib_error *e) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(settings); i++) {
        const setting *d = &settings[i];
        if (!names(name, d->name)) continue;
        void *to = (char *)&s->p + d->offset;
        int64_t n;
        int on;
        switch (d->kind) {
        case I32:
            NIB_TRY(nib_parse_int(d->name, value, d->min, d->max, &n, e));
            *(int *)to = (int)n;
            return NIB_OK;
        case I64: return nib_parse_int(d->name, value, d->min, d->max, to, e);
        case F64: return nib_parse_num(d->name, value, d->min, d->max, to, e);
        case SWITCH:
            NIB_TRY(nib_parse_choice(d->name, value, "off|on", &on, e));
            *(bool *)to = on;
            return NIB_OK;
        case CALL: return d->set(s, value, e);
        }
    }
    nib_error inner;
    nib_status status = nib_sample_set(&s->p.sampling, name, value, &inner);
    if (status == NIB_OK) return NIB_OK;
    bool known = false;
    for (size_t i = 0; i < NIB_ARRAY_LEN(sampling_names); i++)
        known |= names(name, sampling_names[i]);
    const char *all[NIB_ARRAY_LEN(settings) + NIB_ARRAY_LEN(sampling_names)];
    for (size_t i = 0; i < NIB_ARRAY_LEN(all); i++) all[i] = nib_settings_name(i);
    const char *near = known ? NULL : nib_str_nearest(name, all, NIB_ARRAY_LEN(all));
    if (near) return nib_fail(e, status, "no setting '%.40s': did you mean '%s'?", name, near);
    return nib_fail(e, status, "%s", inner.message);
}

static void put_value(const nib_settings *s, const setting *d, nib_buf *out) {
    const void *at = (const char *)&s->p + d->offset;
    const nib_dialog_params *p = &s->p;
    switch (d->kind) {
    case I32: nib_buf_printf(out, "%d", *(const int *)at); return;
    case I64: nib_buf_printf(out, "%lld", (long long)*(const int64_t *)at); return;
    case F64: nib_buf_printf(out, "%g", *(const double *)at); return;
    case SWITCH: nib_buf_puts(out, *(const bool *)at ? "on" : "off"); return;
    case CALL: break;
    }
    size_t before = out->len;
    if (d->set == set_stop) {
        for (size_t i = 0; i < s->n_stop; i++)
            nib_buf_printf(out, "%s\"%s\"", i ? " " : "", s->stop[i]);
    } else if (d->set == set_retention) {
        if (p->retention < 0)
            nib_buf_puts(out, "all");
        else
            nib_buf_printf(out, "%d", p->retention);
    } else if (d->set == set_think) {
        static const char *const words[] = {"auto", "on", "off"};
        nib_buf_puts(out, s->hide_thoughts ? "hide" : words[p->think]);
    } else if (d->set == set_autocorrect) {
        static const char *const words[] = {"off", "input", "output", "both"};
        nib_buf_puts(out, words[(int)p->autocorrect_input + 2 * (int)p->autocorrect_output]);
    } else if (d->set == set_dictionary) {
        nib_buf_puts(out, s->dictionary_path ? s->dictionary_path : "");
    } else if (d->set == set_logit_bias) {
        for (int i = 0; i < p->sampling.n_bias; i++)
            nib_buf_printf(out, "%s%d=%g", i ? " " : "", (int)p->sampling.bias[i].token,
                           (double)p->sampling.bias[i].bias);
    } else if (d->set == set_system) {
        nib_buf_puts(out, p->system ? p->system : "");
    }
    if (out->len == before) nib_buf_puts(out, "none");
}

nib_status nib_settings_get(const nib_settings *s, const char *name, nib_buf *out, nib_error *e) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(settings); i++)
        if (names(name, settings[i].name)) {
            put_value(s, &settings[i], out);
            return out->failed ? nib_fail_nomem(e, out->len, "a setting") : NIB_OK;
        }
    char text[64];
    NIB_TRY(nib_sample_get(&s->p.sampling, name, text, sizeof text, e));
    return nib_buf_puts(out, text) ? NIB_OK : nib_fail_nomem(e, out->len, "a setting");
}

nib_status nib_settings_take(nib_settings *s, const nib_dialog_params *p, nib_error *e) {
    nib_settings fresh = {.p = *p, .hide_thoughts = s->hide_thoughts};
    nib_status status = NIB_OK;
    fresh.p.stop = NULL;
    fresh.p.sampling.bias = NULL;
    fresh.p.sampling.n_bias = 0;
    if (p->system) status = set_system(&fresh, p->system, e);
    for (const char *const *v = p->stop; v && *v && status == NIB_OK; v++)
        status = set_stop(&fresh, *v, e);
    for (int i = 0; i < p->sampling.n_bias && status == NIB_OK; i++)
        status = add_bias(&fresh, p->sampling.bias[i], e);
    if (status != NIB_OK) {
        nib_settings_free(&fresh);
        return status;
    }
    fresh.dictionary = s->dictionary;
    fresh.dictionary_path = s->dictionary_path;
    fresh.p.dictionary = s->p.dictionary;
    s->dictionary = NULL;
    s->dictionary_path = NULL;
    nib_settings_free(s);
    *s = fresh;
    return NIB_OK;
}

nib_status nib_settings_ready(nib_settings *s, nib_error *e) {
    bool wanted = s->p.autocorrect_input || s->p.autocorrect_output;
    if (!wanted || s->dictionary) return NIB_OK;
    if (!s->dictionary_path)
        return nib_fail(
            e, NIB_ERR_ARGUMENT,
            "autocorrect needs a dictionary: name a file of words with the setting 'dictionary'");
    NIB_TRY(nib_dictionary_open(&s->dictionary, s->dictionary_path, e));
    s->p.dictionary = s->dictionary;
    return NIB_OK;
}

void nib_settings_free(nib_settings *s) {
    for (size_t i = 0; i < s->n_stop; i++) nib_free(s->stop[i]);
    nib_free(s->stop);
    nib_free(s->system);
    nib_free(s->dictionary_path);
    nib_free(s->bias);
    nib_dictionary_free(s->dictionary);
    *s = (nib_settings){0};
}
