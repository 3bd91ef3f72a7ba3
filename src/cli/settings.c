/* Settings of replies as command-line options: the rows of engine/settings.def and
 * sample/params.def. */
#include "cli/settings.h"

enum { MAX_GIVEN = 256 };
static struct { const char *name, *value; } given[MAX_GIVEN];
static size_t n_given;

/* Kept for when the model's defaults are known, but checked now: a wrong value is wrong usage. */
static nib_status collect(const nib_option *o, const char *value, nib_error *e) {
    if (!value) value = "on";
    nib_settings scratch = {.p.sampling = nib_sample_defaults()};
    nib_status s = nib_settings_set(&scratch, o->name, value, e);
    nib_settings_free(&scratch);
    NIB_TRY(s);
    if (n_given == MAX_GIVEN) return nib_fail(e, NIB_ERR_LIMIT, "more than %d settings", MAX_GIVEN);
    given[n_given].name = o->name;
    given[n_given++].value = value;
    return NIB_OK;
}

const nib_option nib_text_options[] = {
#define NIB_SETTING(name, letter, arg, kind, field, min, max, help)                                \
    {name, letter, arg, collect, NULL, 0, 0, help, NULL},
#include "engine/settings.def"
#undef NIB_SETTING
    NIB_OPT_END,
};

const nib_option nib_sampling_options[] = {
#define NIB_SAMPLE_PARAM(field, kind, name, aliases, min, max, help)                               \
    {name, 0, "N", collect, NULL, 0, 0, help, NULL},
#include "sample/params.def"
#undef NIB_SAMPLE_PARAM
    NIB_OPT_END,
};

nib_status nib_settings_given(nib_settings *s, nib_error *e) {
    for (size_t i = 0; i < n_given; i++)
        NIB_TRY(nib_settings_set(s, given[i].name, given[i].value, e));
    return NIB_OK;
}
