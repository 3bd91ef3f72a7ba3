/* Runs the nib command as a user would, and looks at what comes back. */
#ifndef NIB_TESTCMD_H
#define NIB_TESTCMD_H
#include "testlib.h"

/* What the last run left; valid until the next. */
typedef struct test_result {
    nib_buf out, err; /* standard output and standard error, NUL-terminated */
    int status;       /* exit status, or 128 + signal */
} test_result;
extern test_result ran;

/* Runs nib with words of 'line' as arguments: split at spaces; '...' keeps spaces; %s and friends
 * are filled in before. input: standard input, NULL for none. Kills the command after a minute.
 * Returns its exit status. */
int test_nib(const char *input, const char *line, ...) NIB_PRINTF(2, 3);
/* Fails the test, showing the whole run, unless: */
void test_status(int expected);
void test_out_has(const char *part);
void test_err_has(const char *part);
/* The run failed as all must: exit status, exactly one line "nib: ..." on standard error, and it
 * contains 'part'. */
void test_failed(int status, const char *part);
#endif
