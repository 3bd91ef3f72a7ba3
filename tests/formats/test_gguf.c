/* GGUF that is well formed: what is written reads back, split sets join, every golden model opens,
 * and every allocation may fail. What is malformed stands in test_gguf_bad.c. */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "formats/formats.h"
#include "testlib.h"

static const char *tmp_path(const char *name) {
    static char ring[32][256];
    static int at;
    char *p = ring[at++ & 31];
    snprintf(p, sizeof ring[0], "%s/%s", test_tmp(), name);
    return p;
}

/* A model of keys of every type and two tensors, one of whole blocks; data are the bytes 0, 1, 2,
 * ... */
static nib_status write_sample(const char *path, nib_error *e) {
    nib_gguf_writer *w = NULL;
    nib_status s;
    NIB_TRY(nib_gguf_writer_new(&w, path, e));
    NIB_TRY_OUT(nib_gguf_write_str(w, "general.architecture", NIB_STR("wrong"), e));
    NIB_TRY_OUT(nib_gguf_write_str(w, "general.architecture", NIB_STR("llama"), e)); /* replaces */
    NIB_TRY_OUT(nib_gguf_write_i64(w, "u8", NIB_GGUF_U8, 255, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "i8", NIB_GGUF_I8, -128, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "u16", NIB_GGUF_U16, 65535, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "i16", NIB_GGUF_I16, -32768, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "u32", NIB_GGUF_U32, UINT32_MAX, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "i32", NIB_GGUF_I32, INT32_MIN, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "u64", NIB_GGUF_U64, INT64_MAX, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "i64", NIB_GGUF_I64, INT64_MIN, e));
    NIB_TRY_OUT(nib_gguf_write_i64(w, "yes", NIB_GGUF_BOOL, 1, e));
    NIB_TRY_OUT(nib_gguf_write_f32(w, "f32", 1.5f, e));
    NIB_TRY_OUT(nib_gguf_write_f32(w, "nan", NAN, e));
    NIB_TRY_OUT(nib_gguf_write_kv(
        w, &(nib_gguf_kv){.key = NIB_STR("f64"), .type = NIB_GGUF_F64, .f = 0.1}, e));
    NIB_TRY_OUT(nib_gguf_write_str(w, "empty", (nib_str){NULL, 0}, e));
    const nib_str words[] = {NIB_STR("alpha"), NIB_STR(""), NIB_STR("g\xc3\xa4mma")};
    const int16_t numbers[] = {-3, 0, 7};
    const float floats[] = {0.5f, -2, INFINITY};
    const uint8_t bools[] = {0, 1};
    const nib_gguf_kv arrays[] = {
        {.key = NIB_STR("words"),
         .type = NIB_GGUF_ARR,
         .arr_type = NIB_GGUF_STR,
         .arr_n = 3,
         .arr_str = words},
        {.key = NIB_STR("numbers"),
         .type = NIB_GGUF_ARR,
         .arr_type = NIB_GGUF_I16,
         .arr_n = 3,
         .arr_data = numbers},
        {.key = NIB_STR("floats"),
         .type = NIB_GGUF_ARR,
         .arr_type = NIB_GGUF_F32,
         .arr_n = 3,
         .arr_data = floats},
        {.key = NIB_STR("bools"),
         .type = NIB_GGUF_ARR,
         .arr_type = NIB_GGUF_BOOL,
         .arr_n = 2,
         .arr_data = bools},
        {.key = NIB_STR("none"), .type = NIB_GGUF_ARR, .arr_type = NIB_GGUF_U64, .arr_n = 0},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(arrays); i++)
        NIB_TRY_OUT(nib_gguf_write_kv(w, &arrays[i], e));
    NIB_TRY_OUT(nib_gguf_declare(
        w, &(nib_tensor){.name = "a.weight", .dtype = NIB_F32, .n_dims = 2, .ne = {3, 3, 1, 1}},
        e));
    NIB_TRY_OUT(nib_gguf_declare(
        w, &(nib_tensor){.name = "b.weight", .dtype = NIB_Q8_0, .n_dims = 3, .ne = {64, 2, 2, 1}},
        e));
    NIB_TRY_OUT(nib_gguf_begin(w, e));
    uint8_t data[36 + 8 * 34];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)i;
    NIB_TRY_OUT(nib_gguf_write_data(w, data, 40, e)); /* across the boundary of the two tensors */
    NIB_TRY_OUT(nib_gguf_write_data(w, data + 40, sizeof data - 40, e));
    return nib_gguf_commit(w, e);
out:
    nib_gguf_writer_abort(w);
    return s;
}

static void check_sample(const nib_gguf *g) {
    nib_error e;
    int64_t i;
    float f;
    bool yes = false;
    nib_str s;
    const nib_gguf_kv *kv;
    assert_int_equal(nib_gguf_n_kv(g), 19);
    test_ok(nib_gguf_str(g, "general.architecture", &s, &e), &e);
    assert_true(nib_str_eq_c(s, "llama"));
    test_ok(nib_gguf_str(g, "empty", &s, &e), &e);
    assert_int_equal(s.n, 0);
    static const struct {
        const char *key;
        int64_t v;
    } ints[] = {{"u8", 255},         {"i8", -128},       {"u16", 65535},     {"i16", -32768},
                {"u32", UINT32_MAX}, {"i32", INT32_MIN}, {"u64", INT64_MAX}, {"i64", INT64_MIN}};
    for (size_t k = 0; k < NIB_ARRAY_LEN(ints); k++) {
        test_ok(nib_gguf_i64(g, ints[k].key, INT64_MIN, INT64_MAX, &i, &e), &e);
        assert_true(i == ints[k].v);
    }
    test_ok(nib_gguf_bool(g, "yes", &yes, &e), &e);
    assert_true(yes);
    test_ok(nib_gguf_f32(g, "f32", &f, &e), &e);
    assert_true(f == 1.5f);
    test_ok(nib_gguf_f32(g, "f64", &f, &e), &e);
    assert_true(f == 0.1f);
    test_ok(nib_gguf_f32(g, "i8", &f, &e), &e);
    assert_true(f == -128);
    test_ok(nib_gguf_arr(g, "words", true, &kv, &e), &e);
    assert_int_equal(kv->arr_n, 3);
    nib_gguf_strs words = nib_gguf_strs_of(kv);
    assert_true(nib_str_eq_c(nib_gguf_strs_next(&words), "alpha"));
    assert_true(nib_gguf_strs_next(&words).n == 0);
    assert_true(nib_str_eq_c(nib_gguf_strs_next(&words), "g\xc3\xa4mma"));
    assert_true(words.left == 0 && nib_gguf_strs_next(&words).n == 0);
    test_ok(nib_gguf_arr(g, "numbers", false, &kv, &e), &e);
    assert_true(nib_gguf_arr_i64(kv, 0) == -3 && nib_gguf_arr_i64(kv, 2) == 7 &&
                nib_gguf_arr_f64(kv, 0) == -3);
    test_ok(nib_gguf_arr(g, "floats", false, &kv, &e), &e);
    assert_true(nib_gguf_arr_f64(kv, 0) == 0.5 && nib_gguf_arr_i64(kv, 1) == -2 &&
                nib_gguf_arr_i64(kv, 2) == 0);
    test_ok(nib_gguf_arr(g, "bools", false, &kv, &e), &e);
    assert_true(nib_gguf_arr_i64(kv, 0) == 0 && nib_gguf_arr_i64(kv, 1) == 1);
    test_ok(nib_gguf_arr(g, "none", false, &kv, &e), &e);
    assert_int_equal(kv->arr_n, 0);

    assert_int_equal(nib_gguf_n_tensors(g), 2);
    const nib_tensor *a = nib_gguf_tensor(g, "a.weight"), *b = nib_gguf_tensor(g, "b.weight");
    assert_ptr_equal(a, nib_gguf_tensor_at(g, 0));
    assert_true(a && b && a->bytes == 36 && b->bytes == 8 * 34 && a->n_dims == 2 && b->n_dims == 3);
    assert_true(b->ne[0] == 64 && b->ne[1] == 2 && b->ne[2] == 2 && b->ne[3] == 1);
    for (size_t k = 0; k < 36; k++) assert_int_equal(((const uint8_t *)a->data)[k], k);
    for (size_t k = 0; k < b->bytes; k++)
        assert_int_equal(((const uint8_t *)b->data)[k], (uint8_t)(36 + k));
    assert_null(nib_gguf_tensor(g, "c.weight"));
    assert_null(nib_gguf_find(g, "c"));
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g;
    const char *path = tmp_path("sample.gguf");
    test_ok(write_sample(path, &e), &e);
    test_ok(nib_gguf_open(&g, path, &e), &e);
    assert_string_equal(nib_gguf_path(g), path);
    assert_int_equal(nib_gguf_version(g), 3);
    assert_int_equal((uintptr_t)nib_gguf_tensor(g, "b.weight")->data % 32, 0);
    check_sample(g);
    /* Dropped pages come back with the same bytes. */
    for (int64_t i = 0; i < 2; i++)
        nib_gguf_drop(g, nib_gguf_tensor_at(g, i)->data, nib_gguf_tensor_at(g, i)->bytes);
    nib_gguf_drop(g, nib_gguf_find(g, "general.architecture")->str.p,
                  1 << 20); /* past the end: ignored */
    check_sample(g);
    nib_gguf_close(g);
}

/* The bytes of the sample file, for reading from memory. */
static nib_buf sample_bytes(void) {
    nib_error e;
    nib_buf b = {0};
    const char *path = tmp_path("bytes.gguf");
    test_ok(write_sample(path, &e), &e);
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    return b;
}

static void version_2_reads_alike(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g;
    nib_buf b = sample_bytes();
    assert_int_equal(b.data[4], 3);
    b.data[4] = 2;
    test_ok(nib_gguf_open_memory(&g, b.data, b.len, &e), &e);
    assert_int_equal(nib_gguf_version(g), 2);
    assert_int_equal(nib_gguf_file_bytes(g), b.len);
    nib_gguf_drop(g, b.data, b.len); /* not a mapping: the bytes stay */
    check_sample(g);
    nib_gguf_close(g);
    nib_buf_free(&b);
}

static void lookups_say_what_was_expected(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g;
    nib_buf b = sample_bytes();
    test_ok(nib_gguf_open_memory(&g, b.data, b.len, &e), &e);
    int64_t i = 77;
    float f = 77;
    bool yes = true;
    nib_str s = NIB_STR("77");
    const nib_gguf_kv *kv = NULL;
#define FAILS(call, status, text)                                                                  \
    assert_int_equal(call, status);                                                                \
    assert_string_equal(e.message, "'(memory)': key " text)
    FAILS(nib_gguf_i64(g, "block_count", 1, 9, &i, &e), NIB_ERR_NOT_FOUND,
          "'block_count': expected an integer, found no such key");
    FAILS(nib_gguf_i64(g, "u8", 1, 9, &i, &e), NIB_ERR_FORMAT,
          "'u8': expected an integer from 1 to 9, found 255");
    FAILS(nib_gguf_i64(g, "f32", 1, 9, &i, &e), NIB_ERR_FORMAT,
          "'f32': expected an integer, found f32");
    FAILS(nib_gguf_i64(g, "yes", 0, 9, &i, &e), NIB_ERR_FORMAT,
          "'yes': expected an integer, found bool");
    FAILS(nib_gguf_f32(g, "empty", &f, &e), NIB_ERR_FORMAT,
          "'empty': expected a number, found string");
    FAILS(nib_gguf_f32(g, "nan", &f, &e), NIB_ERR_FORMAT,
          "'nan': expected a finite number, found nan");
    FAILS(nib_gguf_bool(g, "u8", &yes, &e), NIB_ERR_FORMAT, "'u8': expected a bool, found u8");
    FAILS(nib_gguf_str(g, "words", &s, &e), NIB_ERR_FORMAT,
          "'words': expected a string, found array of string");
    FAILS(nib_gguf_arr(g, "words", false, &kv, &e), NIB_ERR_FORMAT,
          "'words': expected an array of numbers, found array of string");
    FAILS(nib_gguf_arr(g, "numbers", true, &kv, &e), NIB_ERR_FORMAT,
          "'numbers': expected an array of strings, found array of i16");
    FAILS(nib_gguf_arr(g, "u8", true, &kv, &e), NIB_ERR_FORMAT,
          "'u8': expected an array of strings, found u8");
#undef FAILS
    assert_true(i == 77 && f == 77 && yes && s.n == 2 && !kv); /* untouched */
    nib_gguf_close(g);
    nib_buf_free(&b);
}

static void writer_refuses_misuse(void **state) {
    (void)state;
    nib_error e;
    nib_gguf_writer *w;
    const char *path = tmp_path("misuse.gguf");
    nib_tensor t = {.name = "t", .dtype = NIB_Q8_0, .n_dims = 1, .ne = {32, 1, 1, 1}};
    test_ok(nib_gguf_writer_new(&w, path, &e), &e);
#define REFUSED(call, text)                                                                        \
    assert_int_not_equal(call, NIB_OK);                                                            \
    if (!strstr(e.message, text)) fail_msg("expected '%s' in '%s'", text, e.message)
    REFUSED(nib_gguf_write_i64(w, "k", NIB_GGUF_U8, 256, &e),
            "expected a value that a u8 holds, found 256");
    REFUSED(nib_gguf_write_i64(w, "k", NIB_GGUF_BOOL, 2, &e),
            "expected a value that a bool holds, found 2");
    REFUSED(nib_gguf_write_i64(w, "k", NIB_GGUF_U64, -1, &e),
            "expected a value that a u64 holds, found -1");
    REFUSED(nib_gguf_write_i64(w, "k", NIB_GGUF_F32, 1, &e), "expected an integer type");
    REFUSED(nib_gguf_write_str(w, "", NIB_STR("v"), &e),
            "expected a key of 1 to 65535 bytes, found 0");
    REFUSED(nib_gguf_write_i64(w, "general.alignment", NIB_GGUF_U32, 24, &e), "power of two");
    nib_gguf_kv nested = {
        .key = NIB_STR("k"), .type = NIB_GGUF_ARR, .arr_type = NIB_GGUF_ARR, .arr_n = 1};
    REFUSED(nib_gguf_write_kv(w, &nested, &e), "expected an array of numbers or strings");
    t.ne[0] = 33;
    REFUSED(nib_gguf_declare(w, &t, &e),
            "tensor 't': expected rows of whole Q8_0 blocks of 32 values, found rows of 33");
    t.ne[0] = 32;
    REFUSED(nib_gguf_write_data(w, "x", 1, &e), "expected nib_gguf_begin before the data");
    test_ok(nib_gguf_declare(w, &t, &e), &e);
    REFUSED(nib_gguf_declare(w, &t, &e), "tensor 't': expected each tensor once, found it twice");
    test_ok(nib_gguf_begin(w, &e), &e);
    REFUSED(nib_gguf_write_str(w, "k", NIB_STR("v"), &e),
            "expected keys and tensors before the data");
    uint8_t zeros[35] = {0};
    REFUSED(nib_gguf_write_data(w, zeros, 35, &e),
            "expected the data of 1 tensors, found 1 bytes more");
    nib_gguf_writer_abort(w);
    assert_int_not_equal(access(path, F_OK), 0);

    test_ok(nib_gguf_writer_new(&w, path, &e), &e);
    test_ok(nib_gguf_declare(w, &t, &e), &e);
    test_ok(nib_gguf_begin(w, &e), &e);
    test_ok(nib_gguf_write_data(w, zeros, 20, &e), &e);
    REFUSED(nib_gguf_commit(w, &e), "tensor 't': expected 14 bytes of data more, found none");
    assert_int_not_equal(access(path, F_OK), 0);
    REFUSED(nib_gguf_writer_new(&w, tmp_path("no/such/folder.gguf"), &e), "no/such/folder.gguf");
    nib_tensor huge = {.name = "h", .dtype = NIB_F32, .n_dims = 1, .ne = {INT64_MAX / 8, 1, 1, 1}};
    test_ok(nib_gguf_writer_new(&w, path, &e), &e);
    test_ok(nib_gguf_declare(w, &huge, &e), &e);
    REFUSED(nib_gguf_declare(w, &t, &e), "expected less than 2^62 bytes of tensors");
    nib_gguf_writer_abort(w);
#undef REFUSED
}

static void alignment_is_the_files_own(void **state) {
    (void)state;
    nib_error e;
    for (int64_t a = 8; a <= 4096; a *= 8) {
        nib_gguf_writer *w;
        nib_gguf *g;
        const char *path = tmp_path("aligned.gguf");
        test_ok(nib_gguf_writer_new(&w, path, &e), &e);
        test_ok(nib_gguf_write_i64(w, "general.alignment", NIB_GGUF_U32, a, &e), &e);
        for (int i = 0; i < 3; i++) {
            char name[] = {'t', (char)('0' + i), 0};
            test_ok(
                nib_gguf_declare(
                    w,
                    &(nib_tensor){.name = name, .dtype = NIB_F32, .n_dims = 1, .ne = {3, 1, 1, 1}},
                    &e),
                &e);
        }
        test_ok(nib_gguf_begin(w, &e), &e);
        float data[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
        test_ok(nib_gguf_write_data(w, data, sizeof data, &e), &e);
        test_ok(nib_gguf_commit(w, &e), &e);
        test_ok(nib_gguf_open(&g, path, &e), &e);
        for (int i = 0; i < 3; i++) {
            const float *p = nib_gguf_tensor_at(g, i)->data;
            assert_int_equal((uintptr_t)p % (uintptr_t)a, 0);
            assert_true(p[0] == (float)(3 * i) && p[2] == (float)(3 * i + 2));
        }
        nib_gguf_close(g);
    }
}

/* ---- split sets ---- */

/* One part: keys split.*, and one tensor of four floats, all equal to 'no'. */
static void write_part(const char *path, int no, int count, int n_tensors, const char *tensor) {
    nib_error e;
    nib_gguf_writer *w;
    test_ok(nib_gguf_writer_new(&w, path, &e), &e);
    if (no == 0) test_ok(nib_gguf_write_str(w, "general.architecture", NIB_STR("llama"), &e), &e);
    if (no >= 0) test_ok(nib_gguf_write_i64(w, "split.no", NIB_GGUF_U16, no, &e), &e);
    if (count > 0) test_ok(nib_gguf_write_i64(w, "split.count", NIB_GGUF_U16, count, &e), &e);
    test_ok(nib_gguf_write_i64(w, "split.tensors.count", NIB_GGUF_I32, n_tensors, &e), &e);
    test_ok(nib_gguf_declare(
                w, &(nib_tensor){.name = tensor, .dtype = NIB_F32, .n_dims = 1, .ne = {4, 1, 1, 1}},
                &e),
            &e);
    test_ok(nib_gguf_begin(w, &e), &e);
    float v = (float)no;
    for (int i = 0; i < 4; i++) test_ok(nib_gguf_write_data(w, &v, sizeof v, &e), &e);
    test_ok(nib_gguf_commit(w, &e), &e);
}

static void write_set(void) {
    static const char *const names[] = {"a", "b", "c"};
    char path[64];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "set-%05d-of-00003.gguf", i + 1);
        write_part(tmp_path(path), i, 3, 3, names[i]);
    }
}

static void split_set_opens_by_any_part(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g;
    write_set();
    for (int given = 1; given <= 3; given++) {
        char name[64];
        snprintf(name, sizeof name, "set-%05d-of-00003.gguf", given);
        test_ok(nib_gguf_open(&g, tmp_path(name), &e), &e);
        assert_string_equal(nib_gguf_path(g), tmp_path("set-00001-of-00003.gguf"));
        assert_int_equal(nib_gguf_n_tensors(g), 3);
        assert_non_null(nib_gguf_find(g, "general.architecture"));
        for (int i = 0; i < 3; i++) {
            const nib_tensor *t = nib_gguf_tensor(g, (const char[]){(char)('a' + i), 0});
            assert_non_null(t);
            assert_true(*(const float *)t->data == (float)i);
            nib_gguf_drop(g, t->data, t->bytes);
        }
        nib_gguf_close(g);
    }
}

static void split_fails(const char *path, nib_status status, const char *text) {
    nib_error e = {0};
    nib_gguf *g = NULL;
    assert_int_equal(nib_gguf_open(&g, path, &e), status);
    assert_null(g);
    if (!strstr(e.message, text)) fail_msg("expected '%s' in '%s'", text, e.message);
}

static void split_set_must_be_whole(void **state) {
    (void)state;
    const char *first = tmp_path("set-00001-of-00003.gguf"),
               *third = tmp_path("set-00003-of-00003.gguf");
    write_set();
    unlink(third);
    split_fails(first, NIB_ERR_NOT_FOUND,
                "part 3 of 3 (all parts must lie in one folder): cannot open");
    write_part(third, 1, 3, 3, "c");
    split_fails(first, NIB_ERR_FORMAT,
                "set-00003-of-00003.gguf': key 'split.no': expected 2 to 2, found 1");
    split_fails(third, NIB_ERR_FORMAT, "expected part 3 of 3 by its name, found part 2 of 3");
    write_part(third, 2, 4, 3, "c");
    split_fails(first, NIB_ERR_FORMAT, "key 'split.count': expected 3 to 3, found 4");
    write_part(third, 2, 3, 4, "c");
    split_fails(first, NIB_ERR_FORMAT, "key 'split.tensors.count': expected 3 to 3, found 4");
    write_part(third, 2, 3, 3, "a");
    split_fails(first, NIB_ERR_FORMAT, "tensor 'a': expected each tensor once, found it twice");
    write_part(third, 2, 0, 3, "c");
    split_fails(first, NIB_ERR_FORMAT, "part of a split model without key 'split.count'");
    write_part(third, 2, 3, 3, "c");
    write_part(first, -1, 3, 3, "a");
    split_fails(first, NIB_ERR_FORMAT, "part of a split model without key 'split.no'");
    write_part(first, 3, 3, 3, "a");
    split_fails(first, NIB_ERR_FORMAT, "key 'split.no': expected 0 to 2, found 3");
    const char *alone = tmp_path("renamed.gguf");
    write_part(alone, 1, 3, 3, "b");
    split_fails(
        alone, NIB_ERR_ARGUMENT,
        "is part 2 of 3 of a split model: expected it to be named NAME-00002-of-00003.gguf");
}

static void a_set_of_one_is_a_file(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g;
    write_part(tmp_path("one.gguf"), 0, 1, 1, "a");
    test_ok(nib_gguf_open(&g, tmp_path("one.gguf"), &e), &e);
    assert_int_equal(nib_gguf_n_tensors(g), 1);
    nib_gguf_close(g);
}

/* ---- the fuzz corpus is what the writer writes ---- */

/* Compares path with tests/fuzz/corpus/gguf/<name>; NIB_UPDATE=1 in the environment writes it
 * there. */
static void check_corpus(const char *path, const char *name) {
    nib_error e;
    nib_buf fresh = {0}, kept = {0};
    char committed[512];
    snprintf(committed, sizeof committed, NIB_SOURCE_DIR "/tests/fuzz/corpus/gguf/%s", name);
    test_ok(nib_file_read(path, 1 << 20, &fresh, &e), &e);
    if (getenv("NIB_UPDATE")) test_ok(nib_file_write(committed, fresh.data, fresh.len, &e), &e);
    test_ok(nib_file_read(committed, 1 << 20, &kept, &e), &e);
    if (kept.len != fresh.len || memcmp(kept.data, fresh.data, kept.len))
        fail_msg("%s is not what the writer writes now: run with NIB_UPDATE=1 when that is meant",
                 name);
    nib_buf_free(&fresh);
    nib_buf_free(&kept);
}

static void corpus_is_what_the_writer_writes(void **state) {
    (void)state;
    nib_error e;
    test_ok(write_sample(tmp_path("sample.gguf"), &e), &e);
    check_corpus(tmp_path("sample.gguf"), "sample.gguf");
    write_part(tmp_path("part.gguf"), 0, 1, 1, "blk.0.attn_q.weight");
    check_corpus(tmp_path("part.gguf"), "part.gguf");
    nib_gguf_writer *w;
    test_ok(nib_gguf_writer_new(&w, tmp_path("keys.gguf"), &e), &e);
    test_ok(nib_gguf_write_str(w, "general.architecture", NIB_STR("llama"), &e), &e);
    test_ok(nib_gguf_commit(w, &e), &e);
    check_corpus(tmp_path("keys.gguf"), "keys.gguf");
}

/* ---- every allocation fails once ---- */

static void opening_survives_failed_allocations(void **state) {
    (void)state;
    nib_error e;
    write_set();
    const char *first = tmp_path("set-00001-of-00003.gguf");
    nib_status s = NIB_ERR_NOMEM;
    long n = 0;
    while (s != NIB_OK) {
        nib_gguf *g = NULL;
        nib_alloc_fail_after(++n);
        s = nib_gguf_open(&g, first, &e);
        nib_alloc_fail_after(0);
        if (s != NIB_OK) {
            assert_int_equal(s, NIB_ERR_NOMEM);
            assert_null(g);
            assert_non_null(strstr(e.message, "out of memory"));
        }
        nib_gguf_close(g);
        assert_true(n < 200);
    }
    print_message("reading: %ld allocations failed in turn\n", n - 1);
    assert_true(n > 15);
}

static void writing_survives_failed_allocations(void **state) {
    (void)state;
    nib_error e;
    const char *path = tmp_path("nomem.gguf");
    nib_status s = NIB_ERR_NOMEM;
    long n = 0;
    while (s != NIB_OK) {
        nib_alloc_fail_after(++n);
        s = write_sample(path, &e);
        nib_alloc_fail_after(0);
        if (s != NIB_OK) {
            assert_int_equal(s, NIB_ERR_NOMEM);
            assert_int_not_equal(access(path, F_OK), 0);
        }
        assert_true(n < 200);
    }
    print_message("writing: %ld allocations failed in turn\n", n - 1);
    assert_true(n > 5);
}

/* ---- golden models ---- */

static void check_golden(const char *name, json_t *golden) {
    nib_error e;
    nib_gguf *g;
    const char *path = test_shared_path("golden/%s/model.gguf", name);
    test_ok(nib_gguf_open(&g, path, &e), &e);
    json_t *size =
        json_object_get(json_object_get(json_object_get(golden, "files"), "model.gguf"), "bytes");
    assert_int_equal(nib_gguf_file_bytes(g), json_integer_value(size));
    nib_str arch;
    test_ok(nib_gguf_str(g, "general.architecture", &arch, &e), &e);
    assert_true(nib_str_eq_c(arch, json_string_value(json_object_get(golden, "arch"))));
    const nib_tensor *t = nib_gguf_tensor(g, "token_embd.weight");
    assert_non_null(t);
    assert_int_equal(t->ne[0], json_integer_value(json_object_get(golden, "n_embd")));
    json_t *n_vocab = json_object_get(golden, "n_vocab");
    if (n_vocab) assert_int_equal(t->ne[1], json_integer_value(n_vocab));
    json_t *types = json_object_get(golden, "tensor_types");
    int64_t counts[64] = {0}, n = 0;
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) counts[nib_gguf_tensor_at(g, i)->dtype]++;
    const char *id;
    json_t *count;
    json_object_foreach(types, id, count) {
        assert_int_equal(counts[atoi(id)], json_integer_value(count));
        n += json_integer_value(count);
    }
    if (types) assert_int_equal(n, nib_gguf_n_tensors(g));
    nib_gguf_close(g);
}

static void golden_models_open(void **state) {
    (void)state;
    if (!test_shared()) return test_skip("no shared data");
    struct dirent **list;
    int n = scandir(test_shared_path("golden"), &list, NULL, alphasort), n_models = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        nib_buf text = {0};
        const char *path = test_shared_path("golden/%s/golden.json", list[i]->d_name);
        if (list[i]->d_name[0] != '.' && nib_file_read(path, 1 << 20, &text, NULL) == NIB_OK) {
            nib_error e;
            json_t *golden;
            test_ok(nib_json_parse(text.data, text.len, &golden, &e), &e);
            check_golden(list[i]->d_name, golden);
            json_decref(golden);
            n_models++;
        }
        nib_buf_free(&text);
        free(list[i]);
    }
    free(list);
    print_message("gguf: %d golden models opened\n", n_models);
    assert_true(n_models > 50);
}

/* Files without tensors: keys and a vocabulary. */
static void vocabularies_open(void **state) {
    (void)state;
    if (!test_shared()) return test_skip("no shared data");
    struct dirent **list;
    int n = scandir(test_shared_path("conformance/tokenizers"), &list, NULL, alphasort);
    int n_files = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        nib_error e;
        nib_gguf *g;
        const char *name = list[i]->d_name;
        const char *path = test_shared_path("conformance/tokenizers/%s/vocab.gguf", name);
        if (name[0] != '.' && access(path, R_OK) == 0) {
            const nib_gguf_kv *tokens;
            test_ok(nib_gguf_open(&g, path, &e), &e);
            assert_int_equal(nib_gguf_n_tensors(g), 0);
            test_ok(nib_gguf_arr(g, "tokenizer.ggml.tokens", true, &tokens, &e), &e);
            assert_true(tokens->arr_n > 10000);
            nib_gguf_close(g);
            n_files++;
        }
        free(list[i]);
    }
    free(list);
    print_message("gguf: %d vocabularies opened\n", n_files);
    assert_true(n_files > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(version_2_reads_alike),
        cmocka_unit_test(lookups_say_what_was_expected),
        cmocka_unit_test(writer_refuses_misuse),
        cmocka_unit_test(alignment_is_the_files_own),
        cmocka_unit_test(split_set_opens_by_any_part),
        cmocka_unit_test(split_set_must_be_whole),
        cmocka_unit_test(a_set_of_one_is_a_file),
        cmocka_unit_test(corpus_is_what_the_writer_writes),
        cmocka_unit_test(opening_survives_failed_allocations),
        cmocka_unit_test(writing_survives_failed_allocations),
        cmocka_unit_test(golden_models_open),
        cmocka_unit_test(vocabularies_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
