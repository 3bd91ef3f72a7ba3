/* jinja_rows.h - the functions that rows of the .def files name. */
#ifndef NIB_CHAT_JINJA_ROWS_H
#define NIB_CHAT_JINJA_ROWS_H
#include "chat/jinja.h"

#define JINJA_ROW_FN(fn)            nib_status jrow_##fn(jrun *j, const jcall *c, jvalue *out);
#define FILTER(name, fn, params)    JINJA_ROW_FN(fn)
#define LAZY(name, fn, params)      JINJA_ROW_FN(fn)
#define TEST(name, fn, params)      JINJA_ROW_FN(fn)
#define GLOBAL(name, fn, params)    JINJA_ROW_FN(fn)
#define METHOD(t, name, fn, params) JINJA_ROW_FN(fn)
#define MUTATOR(t, name)
#include "chat/jinja_filters.def"
#include "chat/jinja_globals.def"
#include "chat/jinja_methods.def"
#include "chat/jinja_tests.def"
#undef FILTER
#undef LAZY
#undef TEST
#undef GLOBAL
#undef METHOD
#undef MUTATOR
#undef JINJA_ROW_FN
#endif
