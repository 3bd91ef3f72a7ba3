/* A model that says what a test scripts: its next token depends on the last one alone, by a table.
 * So that a dialog's every path (stops, thoughts, corrections) can be walked on purpose, through
 * the real engine and tokenizer. */
#ifndef NIB_SCRIPTMODEL_H
#define NIB_SCRIPTMODEL_H
#include "testlib.h"

/* After 'from' comes 'to', the more likely the greater the weight (a difference of 1 is certain but
 * at high temperatures). Tokens: "\n" and other single bytes, printable characters, "<s>", "</s>",
 * "<|im_start|>", "<|im_end|>", or any other text, which becomes a token of the vocabulary
 * ("+<tag>": a control token). After tokens without a row comes "</s>". */
typedef struct test_line {
    const char *from, *to;
    float weight;
} test_line;
/* lines end with a NULL 'from'. Writes <test_tmp()>/<name>; returns its path. */
const char *test_script_model(const char *name, const char *chat_template, int64_t n_ctx,
                              const test_line *lines);
#endif
