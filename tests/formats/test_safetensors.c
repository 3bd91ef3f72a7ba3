/* Safetensors: what is written reads back; what is damaged is refused with one line that says what.
 */
#include <unistd.h>
#include "formats/formats.h"
#include "testlib.h"

static char *in_tmp(const char *name) {
    static char path[4][512];
    static int at;
    char *p = path[at++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", test_tmp(), name);
    return p;
}

/* A file of two tensors: a [2, 3] of F32 and b [4] of BF16. */
static void write_two(const char *path, const char *a, const char *b) {
    nib_error e;
    nib_st_writer *w;
    const int64_t sa[] = {2, 3}, sb[] = {4};
    const float fa[] = {1, 2, 3, 4, 5, 6};
    const uint16_t fb[] = {0x3f80, 0x4000, 0x4040, 0x4080};
    unlink(path);
    test_ok(nib_st_writer_new(&w, path, &e), &e);
    test_ok(nib_st_declare(w, a, NIB_F32, 2, sa, &e), &e);
    test_ok(nib_st_declare(w, b, NIB_BF16, 1, sb, &e), &e);
    test_ok(nib_st_begin(w, &e), &e);
    test_ok(nib_st_write_data(w, fa, sizeof fa, &e), &e);
    assert_int_equal(access(path, F_OK), -1); /* not under its name before it is whole */
    test_ok(nib_st_write_data(w, fb, sizeof fb, &e), &e);
    test_ok(nib_st_commit(w, &e), &e);
}

static void test_round_trip(void **state) {
    (void)state;
    nib_error e;
    nib_st *st;
    char *path = in_tmp("two.safetensors");
    write_two(path, "a", "b");
    test_ok(nib_st_open(&st, path, &e), &e);
    assert_int_equal(nib_st_n_tensors(st), 2);
    const nib_st_tensor *a = nib_st_find(st, "a"), *b = nib_st_find(st, "b");
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->n_dims, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->dtype, NIB_F32);
    assert_int_equal(b->dtype, NIB_BF16);
    assert_int_equal(b->bytes, 8);
    float six;
    memcpy(&six, (const char *)a->data + 20, 4);
    assert_true(six == 6);
    assert_null(nib_st_find(st, "c"));
    nib_st_drop(st, a->data, a->bytes);
    memcpy(&six, (const char *)a->data + 20, 4);
    assert_true(six == 6);
    nib_st_close(st);
}

static void test_writer_refuses(void **state) {
    (void)state;
    nib_error e;
    nib_st_writer *w;
    const int64_t shape[] = {4};
    char *path = in_tmp("never.safetensors");
    test_ok(nib_st_writer_new(&w, path, &e), &e);
    assert_int_equal(nib_st_declare(w, "a\"b", NIB_F32, 1, shape, &e), NIB_ERR_ARGUMENT);
    assert_int_equal(nib_st_declare(w, "a", NIB_Q8_0, 1, shape, &e), NIB_ERR_ARGUMENT);
    test_ok(nib_st_declare(w, "a", NIB_F32, 1, shape, &e), &e);
    test_ok(nib_st_begin(w, &e), &e);
    assert_int_equal(nib_st_write_data(w, "12345678901234567", 17, &e), NIB_ERR_ARGUMENT);
    assert_int_equal(nib_st_commit(w, &e), NIB_ERR_ARGUMENT); /* nothing was written */
    assert_int_equal(access(path, F_OK), -1);
}

/* ---- damaged headers ---- */

static nib_status open_header(const char *header, size_t n_data, char *message) {
    static _Alignas(8) uint8_t file[4096];
    uint64_t n = strlen(header);
    memset(file, 0, sizeof file);
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    nib_error e = {0};
    nib_st *st = NULL;
    /* in memory of exactly this size, so that a sanitizer sees a read beyond it */
    uint8_t *p = nib_alloc(8 + n + n_data);
    memcpy(p, file, 8 + n + n_data);
    nib_status s = nib_st_open_memory(&st, p, 8 + n + n_data, &e);
    if (s == NIB_OK) nib_st_close(st);
    nib_free(p);
    strcpy(message, s == NIB_OK ? "" : e.message);
    return s;
}

static void test_bad_headers(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        const char *says;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
        {"{}", 0, NULL},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, NULL},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}", 0, NULL},
        {"[1]", 0, "JSON object"},
        {"{\"a\":1}", 0, "expected an object"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "F31"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "damaged"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "describes 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "make 12"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "make 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "0 to 2^48"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.5],\"data_offsets\":[0,8]}}", 8, "whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[281474976710656,281474976710656],\"data_offsets\":["
         "0,8]}}",
         8, "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
         "at most 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,16]}}", 8, "two numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         4, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
         12, "gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\"", 0, "JSON"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "1 to 255"},
    };
    char message[NIB_ARRAY_LEN(((nib_error *)0)->message)];
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_status s = open_header(cases[i].header, cases[i].n_data, message);
        if (!cases[i].says && s != NIB_OK) fail_msg("case %zu: %s", i, message);
        if (cases[i].says && (s == NIB_OK || !strstr(message, cases[i].says)))
            fail_msg("case %zu: expected '%s', found '%s'", i, cases[i].says, message);
    }
}

/* The length in front of the header lies; the file is cut anywhere. */
static void test_truncated(void **state) {
    (void)state;
    char *path = in_tmp("cut.safetensors");
    write_two(path, "a", "b");
    nib_buf whole = {0};
    nib_error e;
    test_ok(nib_file_read(path, 1 << 20, &whole, &e), &e);
    for (size_t n = 0; n < whole.len; n++) {
        uint8_t *p = nib_alloc(n);
        nib_st *st = NULL;
        if (n) memcpy(p, whole.data, n);
        assert_int_not_equal(nib_st_open_memory(&st, p, n, &e), NIB_OK);
        assert_null(strchr(e.message, '\n'));
        nib_free(p);
    }
    static const uint64_t lengths[] = {0, 1, UINT64_MAX, UINT64_MAX - 8, 1ull << 40, 1ull << 63};
    for (size_t i = 0; i < NIB_ARRAY_LEN(lengths); i++) {
        nib_st *st = NULL;
        memcpy(whole.data, &lengths[i], 8);
        assert_int_equal(nib_st_open_memory(&st, whole.data, whole.len, &e), NIB_ERR_FORMAT);
    }
    nib_buf_free(&whole);
    char *gguf = in_tmp("x.gguf");
    test_ok(nib_file_write(gguf, "GGUF\3\0\0\0\0\0\0\0", 12, &e), &e);
    nib_st *st;
    assert_int_not_equal(nib_st_open(&st, gguf, &e), NIB_OK);
    assert_non_null(strstr(e.message, "GGUF"));
}

/* ---- several files ---- */

static void index_json(const char *text) {
    nib_error e;
    test_ok(nib_file_write(in_tmp("model.safetensors.index.json"), text, strlen(text), &e), &e);
}

static void refused(const char *path, const char *says) {
    nib_error e;
    nib_st *st = NULL;
    nib_status s = nib_st_open(&st, path, &e);
    if (s == NIB_OK || !strstr(e.message, says))
        fail_msg("expected '%s', found '%s'", says, s == NIB_OK ? "success" : e.message);
}

static void test_index(void **state) {
    (void)state;
    nib_error e;
    nib_st *st;
    const char *folder = test_tmp();
    write_two(in_tmp("model-00001-of-00002.safetensors"), "a", "b");
    refused(folder, "1 of 2 files");
    write_two(in_tmp("model-00002-of-00002.safetensors"), "c", "d");
    test_ok(nib_st_open(&st, folder, &e), &e); /* without an index */
    assert_int_equal(nib_st_n_files(st), 2);
    assert_int_equal(nib_st_n_tensors(st), 4);
    nib_st_close(st);
    index_json("{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
               "\"b\":\"model-00001-of-00002.safetensors\","
               "\"c\":\"model-00002-of-00002.safetensors\","
               "\"d\":\"model-00002-of-00002.safetensors\"}}");
    test_ok(nib_st_open(&st, folder, &e), &e);
    assert_int_equal(nib_st_n_tensors(st), 4);
    nib_st_close(st);
    test_ok(nib_st_open(&st, in_tmp("model.safetensors.index.json"), &e), &e);
    nib_st_close(st);
    index_json("{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"z\":"
               "\"model-00001-of-00002.safetensors\"}}");
    refused(folder, "'z'");
    index_json("{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"c\":"
               "\"model-00001-of-00002.safetensors\",\"d\":\"model-00002-of-00002.safetensors\"}}");
    refused(folder, "'c'");
    index_json("{\"weight_map\":{\"a\":\"missing.safetensors\"}}");
    refused(folder, "missing.safetensors");
    index_json("{\"weight_map\":{\"a\":\"../etc/passwd\"}}");
    refused(folder, "beside the index");
    index_json("{\"weight_map\":{\"a\":7}}");
    refused(folder, "beside the index");
    index_json("{\"weight_map\":{}}");
    refused(folder, "weight_map");
    index_json("{");
    refused(folder, "JSON");
    write_two(in_tmp("model-00002-of-00002.safetensors"), "a", "d");
    unlink(in_tmp("model.safetensors.index.json"));
    refused(folder, "two files");
    unlink(in_tmp("model-00001-of-00002.safetensors"));
    unlink(in_tmp("model-00002-of-00002.safetensors"));
    refused(folder, "no weights");
    test_ok(nib_file_write(in_tmp("pytorch_model.bin"), "x", 1, &e), &e);
    refused(folder, "pickle");
    unlink(in_tmp("pytorch_model.bin"));
    refused(in_tmp("nowhere"), "nowhere");
}

/* Every allocation failed in turn: an error each time, and nothing is lost. */
static void test_no_memory(void **state) {
    (void)state;
    char *path = in_tmp("mem.safetensors");
    write_two(path, "a", "b");
    nib_buf whole = {0};
    nib_error e;
    test_ok(nib_file_read(path, 1 << 20, &whole, &e), &e);
    int failed = 0;
    for (long n = 1; n < 100; n++) {
        nib_st *st = NULL;
        nib_alloc_fail_after(n);
        nib_status s = nib_st_open_memory(&st, whole.data, whole.len, &e);
        nib_alloc_fail_after(0);
        if (s == NIB_OK) {
            nib_st_close(st);
            break;
        }
        failed++;
        assert_int_equal(s, NIB_ERR_NOMEM);
    }
    assert_true(failed >= 4);
    nib_buf_free(&whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_index),       cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
