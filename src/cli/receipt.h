/* receipt - what changing a model cost, as a table and as JSON. */
#ifndef NIB_CLI_RECEIPT_H
#define NIB_CLI_RECEIPT_H
#include "cli/host.h"
#include "eval/eval.h"

/* Compares with a progress bar, under Ctrl-C and the memory watch. p: its progress, cancel and
 * engine are filled in here (but n_threads, where it is given). text NULL: the sample. */
nib_status nib_receipt_make(nib_cli *c, const char *reference, const char *other, const char *text,
                            nib_quality_params *p, nib_quality *out, nib_error *e);
/* The table, for people. */
void nib_receipt_print(const nib_quality *q);
/* NULL when out of memory. */
struct json_t *nib_receipt_json(const nib_quality *q);
/* As JSON in a file, whole or not at all. */
nib_status nib_receipt_write(const nib_quality *q, const char *path, nib_error *e);
#endif
