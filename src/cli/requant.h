/* requant - weights quantised while they are loaded: --quantize of the commands that run a model.
 */
#ifndef NIB_CLI_REQUANT_H
#define NIB_CLI_REQUANT_H
#include "cli/host.h"

/* Which format each tensor of a file becomes. */
typedef struct nib_requant nib_requant;
/* Of the model at path: 'type' is a type of nib quantize, or "auto": the widest one with which the
 * plan for p fits in memory and at least 'speed' tokens a second are to be expected (by the weights
 * a token reads and what this machine reads in a second); the file's own when that will do. *out
 * NULL: the file's own. Says on a terminal what it chose. */
nib_status nib_requant_choose(nib_requant **out, const char *path, const char *type, double speed,
                              const nib_engine_params *p, nib_error *e);
void nib_requant_free(nib_requant *r);
/* Fills in mp's retype; r must outlive the loading. Nothing for NULL. */
void nib_requant_apply(const nib_requant *r, nib_model_params *mp);
#endif
