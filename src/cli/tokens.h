/* tokens - what tokenize and detokenize share. */
#ifndef NIB_CLI_TOKENS_H
#define NIB_CLI_TOKENS_H
#include "tokenizer/tokenizer.h"

struct json_t;
/* The tokenizer of a model file, without the model. */
nib_status nib_tokenizer_open(nib_tokenizer **out, const char *model, nib_error *e);
/* {"ids": [...], "detok": "..."} and the end of the line; bytes that are not UTF-8 come as
 * "detok_hex". */
nib_status nib_print_ids_detok(const nib_tokenizer *t, const int32_t *ids, size_t n, nib_error *e);
/* Calls fn for every object of standard input, one a line (empty lines are skipped). Errors name
 * the line. */
nib_status nib_each_json_line(const nib_tokenizer *t,
                              nib_status (*fn)(const nib_tokenizer *t, const struct json_t *v,
                                               nib_error *e),
                              nib_error *e);
#endif
