/* line - lines typed at a terminal: editing, history, completion, pastes of several lines. */
#ifndef NIB_CLI_LINE_H
#define NIB_CLI_LINE_H
#include "base/base.h"

typedef struct nib_line nib_line;

typedef enum nib_line_end {
    NIB_LINE_OK,
    NIB_LINE_EOF,         /* Ctrl-D on an empty line, or the terminal is gone */
    NIB_LINE_INTERRUPTED, /* Ctrl-C: the line is dropped */
    NIB_LINE_FAILED       /* out of memory */
} nib_line_end;

/* Completes the word before the cursor of 'line' (cursor bytes, not NUL-terminated): appends
 * candidates, each followed by a newline, and sets *start to where the word begins. A candidate
 * that ends with '/' or '"' gets no space after it. */
typedef void (*nib_complete_fn)(void *arg, const char *line, size_t cursor, size_t *start,
                                nib_buf *candidates);

/* history: a file that keeps lines between runs; NULL: none. Standard input and output must be a
 * terminal. */
nib_status nib_line_open(nib_line **out, const char *history, nib_complete_fn complete, void *arg,
                         nib_error *e);
void nib_line_close(nib_line *l);
/* One line, without its end; a pasted or recalled text may hold newlines. */
nib_line_end nib_line_read(nib_line *l, const char *prompt, nib_buf *out);
/* Whether typed keys are not echoed, while a reply is shown; they wait for the next line. */
void nib_line_quiet(nib_line *l, bool on);
/* Adds a text to the history, here and in the file. */
void nib_line_remember(nib_line *l, const char *text);
/* $XDG_STATE_HOME/nib/history, its folders made; false when there is no home. */
bool nib_line_history_path(char *out, size_t n);
#endif
