/* settings - how replies are made, from the command line. */
#ifndef NIB_CLI_SETTINGS_H
#define NIB_CLI_SETTINGS_H
#include "cli/cli.h"
#include "engine/engine.h"

/* Two tables of options. What they collect is applied by nib_settings_given, once the model's
 * defaults are known. */
extern const nib_option nib_text_options[], nib_sampling_options[];
nib_status nib_settings_given(nib_settings *s, nib_error *e);
#endif
