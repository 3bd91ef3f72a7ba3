/* Conversations as files: {"format": "nib-dialog", "version": 1, "model", "system", "params",
 * "messages"}.
 *
 * Settings are rows: sampling ones of sample/params.def, by the names and texts that
 * nib_sample_set takes, others of settings.def. A file may leave any of them out. Logit biases and
 * the dictionary belong to a model and a machine: they are not saved. */
#include <jansson.h>
#include "engine/dialog_internal.h"

enum { VERSION = 1, MAX_FILE = 64 << 20 };

typedef struct field {
    const char *name;
    enum { WHOLE, SMALL, NUMBER, FLAG } kind; /* int64_t, int, double, bool */
    size_t offset;
} field;
/* clang-format off */
#define FIELD(kind, f)        {#f, kind, offsetof(nib_dialog_params, f)},
#define FIELD_I64(f)          FIELD(WHOLE, f)
#define FIELD_I32(f)          FIELD(SMALL, f)
#define FIELD_F64(f)          FIELD(NUMBER, f)
#define FIELD_SWITCH(f)       FIELD(FLAG, f)
#define FIELD_CALL(f)         /* by hand: the rows below, "think", "stop" and "system" */
static const field fields[] = {
#define NIB_SETTING(name, letter, arg, kind, f, min, max, help) FIELD_##kind(f)
#include "engine/settings.def"
#undef NIB_SETTING
    FIELD(SMALL, retention)
    FIELD(FLAG, autocorrect_input)
    FIELD(FLAG, autocorrect_output)
    FIELD(FLAG, raw)
    FIELD(FLAG, parse_special)
};
/* clang-format on */
static const char *const samplings[] = {
#define NIB_SAMPLE_PARAM(field, kind, name, aliases, min, max, help) name,
#include "sample/params.def"
#undef NIB_SAMPLE_PARAM
};
static const char think_words[] = "auto|on|off"; /* in the order of the enum */

/* ---- saving ---- */

static json_t *field_to_json(const field *f, const nib_dialog_params *p) {
    const void *v = (const char *)p + f->offset;
    switch (f->kind) {
    case WHOLE: return json_integer(*(const int64_t *)v);
    case SMALL: return json_integer(*(const int *)v);
    case NUMBER: return json_real(*(const double *)v);
    case FLAG: return json_boolean(*(const bool *)v);
    }
    return NULL;
}

static json_t *params_to_json(const nib_dialog_params *p) {
    json_t *o = json_object(), *stop = json_array();
    bool ok = o && stop;
    for (size_t i = 0; ok && i < NIB_ARRAY_LEN(samplings); i++) {
        char text[64];
        ok = nib_sample_get(&p->sampling, samplings[i], text, sizeof text, NULL) == NIB_OK &&
             json_object_set_new(o, samplings[i], json_string(text)) == 0;
    }
    for (size_t i = 0; ok && i < NIB_ARRAY_LEN(fields); i++)
        ok = json_object_set_new(o, fields[i].name, field_to_json(&fields[i], p)) == 0;
    const char *word = think_words;
    for (int i = 0; i < (int)p->think; i++) word = strchr(word, '|') + 1;
    ok = ok && json_object_set_new(o, "think", json_stringn(word, strcspn(word, "|"))) == 0;
    for (const char *const *s = p->stop; ok && s && *s; s++)
        ok = json_array_append_new(stop, json_string(*s)) == 0;
    ok = ok && json_object_set(o, "stop", stop) == 0;
    json_decref(stop);
    if (ok) return o;
    json_decref(o);
    return NULL;
}

nib_status nib_dialog_save(const nib_dialog *d, const char *path, nib_error *e) {
    json_t *messages = NULL, *params = params_to_json(&d->applied), *root = json_object();
    const char *system = d->applied.system;
    nib_buf text = {0};
    nib_status s = nib_messages_to_json(&d->messages, &messages, e);
    if (s != NIB_OK) goto out;
    bool ok =
        params && root && json_object_set_new(root, "format", json_string("nib-dialog")) == 0 &&
        json_object_set_new(root, "version", json_integer(VERSION)) == 0 &&
        json_object_set_new(root, "model", json_string(d->info->name)) == 0 &&
        json_object_set_new(root, "system", system ? json_string(system) : json_null()) == 0 &&
        json_object_set(root, "params", params) == 0 &&
        json_object_set(root, "messages", messages) == 0;
    if (!ok) {
        s = nib_fail(e, NIB_ERR_ARGUMENT,
                     "the conversation cannot be saved: its settings or system text are not UTF-8");
        goto out;
    }
    NIB_TRY_OUT(nib_json_write(root, &text, e));
    if (!nib_buf_putc(&text, '\n')) {
        s = nib_fail_nomem(e, text.len, "a conversation");
        goto out;
    }
    s = nib_file_write(path, text.data, text.len, e);
out:
    nib_buf_free(&text);
    json_decref(messages);
    json_decref(params);
    json_decref(root);
    return s;
}

/* ---- loading ---- */

static nib_status mistyped(const char *name, const char *expected, nib_error *e) {
    return nib_fail(e, NIB_ERR_FORMAT, "\"%s\": expected %s", name, expected);
}

static nib_status field_from_json(const field *f, const json_t *v, nib_dialog_params *p,
                                  nib_error *e) {
    void *to = (char *)p + f->offset;
    if (f->kind == FLAG) {
        if (!json_is_boolean(v)) return mistyped(f->name, "true or false", e);
        *(bool *)to = json_is_true(v);
        return NIB_OK;
    }
    if (f->kind == NUMBER) {
        if (!json_is_number(v)) return mistyped(f->name, "a number", e);
        *(double *)to = json_number_value(v);
        return NIB_OK;
    }
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || (f->kind == SMALL && (n < INT32_MIN || n > INT32_MAX)))
        return mistyped(f->name, "a whole number", e);
    if (f->kind == SMALL)
        *(int *)to = (int)n;
    else
        *(int64_t *)to = n;
    return NIB_OK;
}

/* *stop points into o afterwards. */
static nib_status stop_from_json(const json_t *v, const char ***stop, nib_error *e) {
    size_t n = json_array_size(v);
    if (!json_is_array(v)) return mistyped("stop", "a list of strings", e);
    const char **list = nib_calloc(n + 1, sizeof *list);
    if (!list) return nib_fail_nomem(e, n * sizeof *list, "stop strings");
    for (size_t i = 0; i < n; i++)
        if (!(list[i] = json_string_value(json_array_get(v, i)))) {
            nib_free(list);
            return mistyped("stop", "a list of strings", e);
        }
    *stop = list;
    return NIB_OK;
}

static nib_status params_from_json(const json_t *o, nib_dialog_params *p, const char ***stop,
                                   nib_error *e) {
    const json_t *v;
    if (!json_is_object(o)) return mistyped("params", "an object", e);
    for (size_t i = 0; i < NIB_ARRAY_LEN(samplings); i++) {
        if (!(v = json_object_get(o, samplings[i]))) continue;
        if (!json_is_string(v)) return mistyped(samplings[i], "a string", e);
        NIB_TRY(nib_sample_set(&p->sampling, samplings[i], json_string_value(v), e));
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(fields); i++)
        if ((v = json_object_get(o, fields[i].name))) NIB_TRY(field_from_json(&fields[i], v, p, e));
    if ((v = json_object_get(o, "think"))) {
        int word = 0;
        if (!json_is_string(v)) return mistyped("think", "a string", e);
        NIB_TRY(nib_parse_choice("think", json_string_value(v), think_words, &word, e));
        p->think = word == 1 ? NIB_THINK_ON : word == 2 ? NIB_THINK_OFF : NIB_THINK_AUTO;
    }
    if ((v = json_object_get(o, "stop"))) {
        NIB_TRY(stop_from_json(v, stop, e));
        p->stop = *stop;
    }
    return NIB_OK;
}

/* Messages alone, as other programs keep them: settings stay as they are. */
static nib_status load_messages(nib_dialog *d, const json_t *list, nib_error *e) {
    nib_messages messages = {0};
    nib_status s = nib_messages_from_json(&messages, list, e);
    if (s == NIB_OK) s = nib_dialog_set_messages(d, &messages, e);
    nib_messages_free(&messages);
    return s;
}

static nib_status load(nib_dialog *d, const json_t *root, nib_error *e) {
    const char *format = json_string_value(json_object_get(root, "format")),
               *model = json_string_value(json_object_get(root, "model"));
    const json_t *version = json_object_get(root, "version"),
                 *params = json_object_get(root, "params"),
                 *system = json_object_get(root, "system");
    const json_t *list = json_is_array(root) ? root : json_object_get(root, "messages");
    if (!format && json_array_size(list) > 0) return load_messages(d, list, e);
    if (!format || strcmp(format, "nib-dialog") != 0)
        return nib_fail(e, NIB_ERR_FORMAT, "expected a conversation saved by nib");
    if (!json_is_integer(version) || json_integer_value(version) != VERSION)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "expected version %d of the conversation format, found %lld", VERSION,
                        (long long)json_integer_value(version));
    if (system && !json_is_null(system) && !json_is_string(system))
        return mistyped("system", "a string or null", e);
    nib_dialog_params p = d->applied;
    nib_messages messages = {0};
    const char **stop = NULL;
    nib_status s = NIB_OK;
    if (system) p.system = json_string_value(system);
    if (params) NIB_TRY_OUT(params_from_json(params, &p, &stop, e));
    NIB_TRY_OUT(nib_messages_from_json(&messages, list, e));
    nib_dialog_params before = d->p;
    d->p = p;
    s = nib_dialog_params_changed(d, e);
    if (s != NIB_OK) {
        d->p = before;
        goto out;
    }
    s = nib_dialog_set_messages(d, &messages, e);
    if (model && strcmp(model, d->info->name) != 0)
        nib_log(NIB_LOG_WARN, "this conversation was held with '%s', not '%s'", model,
                d->info->name);
out:
    nib_messages_free(&messages);
    nib_free(stop);
    return s;
}

nib_status nib_dialog_load(nib_dialog *d, const char *path, nib_error *e) {
    nib_buf text = {.max = MAX_FILE};
    json_t *root = NULL;
    nib_status s;
    NIB_TRY_OUT(nib_file_read(path, MAX_FILE, &text, e));
    s = nib_json_parse(text.data ? text.data : "", text.len, &root, e);
    if (s == NIB_OK) s = load(d, root, e);
    if (s != NIB_OK) s = nib_fail_in(e, s, "%s", path);
out:
    json_decref(root);
    nib_buf_free(&text);
    return s;
}
