/* Shared by the tests: where things are, and how to skip honestly. */
#ifndef NIB_TESTLIB_H
#define NIB_TESTLIB_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/base.h"

/* The folder of reference data (NIB_SHARED in the environment, or ../shared beside the checkout);
 * NULL when absent. */
const char *test_shared(void);
/* "<shared>/<fmt...>" in a static ring of buffers. */
const char *test_shared_path(const char *fmt, ...) NIB_PRINTF(1, 2);
/* Skips the running test with a message, or fails it when NIB_TEST_NO_SKIP=1. */
void test_skip(const char *why);
/* Fails with the error's message unless s is NIB_OK. */
void test_ok(nib_status s, const nib_error *e);
/* Whether to take fewer rounds and to leave out limits of time, since each costs ten times as much:
 * under sanitizers, and with NIB_TEST_QUICK=1 in the environment (emulators). */
bool test_quick(void);
/* A fresh temporary folder, removed at exit. */
const char *test_tmp(void);
#endif
