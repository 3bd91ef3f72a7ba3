/* JSON in, JSON out: what was written must read back, and be written the same again. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *v, *again;
    nib_error e;
    nib_buf first = {0}, second = {0};
    if (nib_json_parse((const char *)data, size, &v, &e) != NIB_OK) return 0;
    if (nib_json_write(v, &first, &e) != NIB_OK) abort();
    if (nib_json_parse(first.data, first.len, &again, &e) != NIB_OK) abort();
    if (nib_json_write(again, &second, &e) != NIB_OK) abort();
    if (first.len != second.len || memcmp(first.data, second.data, first.len)) abort();
    json_decref(v);
    json_decref(again);
    nib_buf_free(&first);
    nib_buf_free(&second);
    return 0;
}
