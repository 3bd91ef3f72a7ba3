/* wrap - text as it streams onto a terminal, wrapped at words. */
#ifndef NIB_CLI_WRAP_H
#define NIB_CLI_WRAP_H
#include "base/base.h"

/* Set f, and width in columns; 0: text goes out as it comes (pipes and files). */
typedef struct nib_wrap {
    FILE *f;
    int width;
    int column, spaces; /* where the line stands; spaces not yet written */
    bool fenced, exact; /* inside ```; this line is code or a table: not wrapped */
    bool line_started;
    nib_buf word;
} nib_wrap;
/* Whole characters. On a terminal control characters other than newline and tab are dropped: a
 * model must not steer it. */
void nib_wrap_put(nib_wrap *w, const char *text, size_t n);
void nib_wrap_end(nib_wrap *w);  /* writes what is held back; the column stays */
void nib_wrap_line(nib_wrap *w); /* the caller began a new line */
void nib_wrap_free(nib_wrap *w);
#endif
