/* GGUF that lies: each way a header can be wrong, alone, with the line the user reads. The files
 * are spelled byte by byte here (the writer refuses to write them). Mutations at random are
 * tests/fuzz/fuzz_gguf.c. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "formats/formats.h"
#include "testlib.h"

/* ---- spelling a file ---- */

static nib_buf b; /* the file being spelled */

static void u8(uint8_t v) {
    nib_buf_put(&b, &v, 1);
}
static void u32(uint32_t v) {
    nib_buf_put(&b, &v, 4);
}
static void u64(uint64_t v) {
    nib_buf_put(&b, &v, 8);
}
static void str(const char *s) {
    u64(strlen(s));
    nib_buf_puts(&b, s);
}
static void head(uint32_t version, uint64_t n_tensors, uint64_t n_kv) {
    nib_buf_puts(&b, "GGUF");
    u32(version);
    u64(n_tensors);
    u64(n_kv);
}
static void key(const char *name, uint32_t type) {
    str(name);
    u32(type);
}
static void array(const char *name, uint32_t type, uint64_t n) {
    key(name, NIB_GGUF_ARR);
    u32(type);
    u64(n);
}
static void tensor(const char *name, uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset) {
    str(name);
    u32(2);
    u64(ne0);
    u64(ne1);
    u32(type);
    u64(offset);
}
/* Pads to the data and adds n bytes of it. */
static void data(size_t n) {
    while (b.len % 32 || n) {
        if (b.len % 32 == 0) {
            while (n) u8(0), n--;
            return;
        }
        u8(0);
    }
}

/* ---- one way of being wrong each ---- */

static void empty(void) {}
static void one_byte(void) {
    u8('G');
}
static void text(void) {
    nib_buf_puts(&b, "Once upon a time");
}
static void controls(void) {
    nib_buf_puts(&b, "\x7f"
                     "ELF\2\1");
}
static void zip(void) {
    nib_buf_puts(&b, "PK\3\4....");
}
static void lfs(void) {
    nib_buf_puts(&b, "version https://git-lfs.github.com/spec/v1\noid sha256:");
}
static void html(void) {
    nib_buf_puts(&b, "<!DOCTYPE html><html>");
}
static void ggml(void) {
    nib_buf_puts(&b, "tjgg\3");
}
static void safetensors(void) {
    u64(9);
    nib_buf_puts(&b, "{\"a\":{}} ");
}
static void magic_only(void) {
    nib_buf_puts(&b, "GGUF");
}
static void version_0(void) {
    head(0, 0, 0);
}
static void version_1(void) {
    head(1, 0, 0);
}
static void version_4(void) {
    head(4, 0, 0);
}
static void big_endian(void) {
    head(0x03000000, 0, 0);
}
static void half_count(void) {
    nib_buf_puts(&b, "GGUF");
    u32(3);
    u32(0);
}
static void wild_tensors(void) {
    head(3, UINT64_MAX, 0);
}
static void wild_keys(void) {
    head(3, 0, (uint64_t)1 << 40);
}
static void more_keys_than_bytes(void) {
    head(3, 0, 3);
    key("a", NIB_GGUF_U8), u8(1);
    key("b", NIB_GGUF_U8), u8(1);
}
static void key_missing(void) {
    head(3, 0, 2);
    key("a.longer.name.to.leave.room", NIB_GGUF_U8), u8(1);
}
static void wild_key_length(void) {
    head(3, 0, 1);
    u64(UINT64_MAX);
    data(32);
}
static void key_without_name(void) {
    head(3, 0, 1);
    key("", NIB_GGUF_U32), u32(1);
    data(0);
}
static void unknown_value_type(void) {
    head(3, 0, 1);
    key("k", 13), u64(0);
}
static void value_cut(void) {
    head(3, 0, 1);
    key("k", NIB_GGUF_U64), u32(0);
}
static void string_cut(void) {
    head(3, 0, 1);
    key("k", NIB_GGUF_STR), u64(100);
    nib_buf_puts(&b, "short");
}
static void bool_of_2(void) {
    head(3, 0, 1);
    key("k", NIB_GGUF_BOOL), u8(2);
}
static void huge_u64(void) {
    head(3, 0, 1);
    key("k", NIB_GGUF_U64), u64((uint64_t)1 << 63);
}
static void key_twice(void) {
    head(3, 0, 2);
    key("k", NIB_GGUF_U8), u8(1);
    key("k", NIB_GGUF_U8), u8(1);
}
static void nested_array(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_ARR, 1), u64(0);
}
static void unknown_element_type(void) {
    head(3, 0, 1);
    array("k", 77, 1), u64(0);
}
static void wild_array(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_F32, (uint64_t)1 << 62), u64(0);
}
static void wild_string_array(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_STR, 1 << 20), u64(0);
}
static void string_in_array_cut(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_STR, 2), str("fine"), u64(9);
}
static void bools_of_3(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_BOOL, 2), u8(1), u8(3);
}
static void huge_u64s(void) {
    head(3, 0, 1);
    array("k", NIB_GGUF_U64, 1), u64(UINT64_MAX);
}
static void alignment(uint32_t type, uint64_t v) {
    head(3, 1, 1);
    key("general.alignment", type);
    nib_buf_put(&b, &v, type == NIB_GGUF_U32 ? 4 : 8);
    tensor("t", 4, 1, 0, 0);
    data(32);
}
static void alignment_0(void) {
    alignment(NIB_GGUF_U32, 0);
}
static void alignment_4(void) {
    alignment(NIB_GGUF_U32, 4);
}
static void alignment_24(void) {
    alignment(NIB_GGUF_U32, 24);
}
static void alignment_wild(void) {
    alignment(NIB_GGUF_U64, (uint64_t)1 << 40);
}
static void alignment_float(void) {
    alignment(NIB_GGUF_F64, 0);
}
static void name_cut(void) {
    head(3, 1, 0);
    u64(60);
    data(32);
    b.len = 70;
}
static void name_empty(void) {
    head(3, 1, 0);
    tensor("", 4, 1, 0, 0);
    data(32);
}
static void name_long(void) {
    char long_name[300];
    memset(long_name, 'x', sizeof long_name);
    long_name[256] = 0;
    head(3, 1, 0);
    tensor(long_name, 4, 1, 0, 0);
    data(32);
}
static void name_with_zero(void) {
    head(3, 1, 0);
    tensor("a_b", 4, 1, 0, 0);
    b.data[24 + 8 + 1] = 0;
    data(32);
}
static void shape_cut(void) {
    head(3, 1, 0);
    tensor("t", 4, 1, 0, 0);
    b.len -= 8;
}
static void n_dims(uint32_t n) {
    head(3, 1, 0);
    str("t");
    u32(n);
    for (int i = 0; i < 6; i++) u64(1);
    data(32);
}
static void no_dims(void) {
    n_dims(0);
}
static void dims_5(void) {
    n_dims(5);
}
static void shape(uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset) {
    head(3, 1, 0);
    tensor("blk.0.attn_q.weight", ne0, ne1, type, offset);
    data(64);
}
static void dim_zero(void) {
    shape(4, 0, 0, 0);
}
static void dim_huge(void) {
    shape((uint64_t)1 << 63, 1, 0, 0);
}
static void product_overflows(void) {
    shape((uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0);
}
static void product_over_63_bits(void) {
    shape((uint64_t)1 << 32, (uint64_t)1 << 31, 0, 0);
}
static void bytes_overflow(void) {
    shape((uint64_t)1 << 62, 1, 0, 0);
}
static void unknown_dtype(void) {
    shape(32, 1, 4, 0);
}
static void wild_dtype(void) {
    shape(32, 1, UINT32_MAX, 0);
}
static void broken_blocks(void) {
    shape(33, 32, 8, 0);
}
static void offset_misaligned(void) {
    shape(4, 1, 0, 8);
}
static void offset_past_end(void) {
    shape(4, 1, 0, (uint64_t)1 << 40);
}
static void offset_wraps(void) {
    shape(4, 1, 0, UINT64_MAX - 31);
}
static void data_cut(void) {
    shape(17, 1, 0, 0);
}
static void no_data(void) {
    head(3, 1, 0);
    tensor("t", 4, 1, 0, 0);
}
static void two(uint64_t offset_a, uint64_t offset_b, const char *name_b) {
    head(3, 2, 0);
    tensor("a", 12, 1, 0, offset_a);
    tensor(name_b, 4, 1, 0, offset_b);
    data(128);
}
static void overlap(void) {
    two(0, 32, "b");
}
static void overlap_same(void) {
    two(32, 32, "b");
}
static void overlap_reversed(void) {
    two(32, 64, "b");
}
static void tensor_twice(void) {
    two(0, 64, "a");
}
static void second_tensor_missing(void) {
    head(3, 2, 0);
    tensor("a.name.long.enough.to.hold.one.more", 4, 1, 0, 0);
}
static void part_in_memory(void) {
    head(3, 0, 1);
    key("split.count", NIB_GGUF_U16), u8(3), u8(0);
}

#define ONE_FILE "; the file is damaged or incomplete: fetch it again"
static const struct {
    const char *name;
    void (*spell)(void);
    nib_status status;
    const char *message;
} cases[] = {
#define CASE(name, status, message)                                                                \
    { #name, name, NIB_ERR_##status, message }
    CASE(empty, FORMAT, "expected a GGUF model, found an empty file; fetch it again"),
    CASE(one_byte, FORMAT,
         "expected 'GGUF' in the first four bytes, found 'G': not a GGUF model; name a .gguf model "
         "file"),
    CASE(text, FORMAT,
         "expected 'GGUF' in the first four bytes, found 'Once': not a GGUF model; name a .gguf "
         "model file"),
    CASE(controls, FORMAT,
         "expected 'GGUF' in the first four bytes, found '\\x7fELF': not a GGUF model; name a "
         ".gguf model file"),
    CASE(zip, FORMAT,
         "found 'PK\\x03\\x04': not a GGUF model; a zip or PyTorch file: convert it to GGUF first"),
    CASE(lfs, FORMAT,
         "found 'vers': not a GGUF model; a Git LFS pointer: fetch the file itself (git lfs pull)"),
    CASE(html, FORMAT, "found '<!DO': not a GGUF model; a web page: the download went wrong"),
    CASE(ggml, FORMAT,
         "found 'tjgg': not a GGUF model; an old GGML file from before GGUF: convert the model "
         "again"),
    CASE(safetensors, FORMAT, "not a GGUF model; a safetensors file: convert it to GGUF first"),
    CASE(magic_only, FORMAT,
         "version at byte 4: expected 4 bytes, found 0 before the end of the file" ONE_FILE),
    CASE(version_0, UNSUPPORTED, "expected GGUF version 2 or 3, found 0; the file is damaged"),
    CASE(version_1, UNSUPPORTED, "expected GGUF version 2 or 3, found 1; convert the model again"),
    CASE(version_4, UNSUPPORTED,
         "expected GGUF version 2 or 3, found 4; this nib is too old for the file"),
    CASE(big_endian, UNSUPPORTED,
         "expected a little-endian GGUF file, found a big-endian one (version 3); convert it for "
         "this byte order"),
    CASE(half_count, FORMAT,
         "number of tensors at byte 8: expected 8 bytes, found 4 before the end of the "
         "file" ONE_FILE),
    CASE(wild_tensors, FORMAT,
         "number of tensors: expected at most 0 (the file has 8 more bytes), found "
         "18446744073709551615" ONE_FILE),
    CASE(wild_keys, FORMAT,
         "number of keys: expected at most 0 (the file has 0 more bytes), found "
         "1099511627776" ONE_FILE),
    CASE(more_keys_than_bytes, FORMAT,
         "number of keys: expected at most 2 (the file has 28 more bytes), found 3" ONE_FILE),
    CASE(key_missing, FORMAT,
         "key 2 of 2: key name at byte 64: expected 8 bytes, found 0 before the end of the "
         "file" ONE_FILE),
    CASE(wild_key_length, FORMAT,
         "key 1 of 1: key name at byte 32: expected 18446744073709551615 bytes, found 32 before "
         "the end of the file" ONE_FILE),
    CASE(key_without_name, FORMAT,
         "key 1 of 1: expected a name of 1 to 65535 bytes, found 0" ONE_FILE),
    CASE(unknown_value_type, FORMAT, "key 'k': expected a value type up to 12, found 13" ONE_FILE),
    CASE(
        value_cut, FORMAT,
        "key 'k': value at byte 37: expected 8 bytes, found 4 before the end of the file" ONE_FILE),
    CASE(string_cut, FORMAT,
         "key 'k': string at byte 45: expected 100 bytes, found 5 before the end of the "
         "file" ONE_FILE),
    CASE(bool_of_2, FORMAT, "key 'k': expected a bool of 0 or 1, found 2" ONE_FILE),
    CASE(huge_u64, UNSUPPORTED,
         "key 'k': expected an integer below 2^63, found 9223372036854775808"),
    CASE(key_twice, FORMAT, "key 'k': expected each key once, found it twice" ONE_FILE),
    CASE(nested_array, UNSUPPORTED,
         "key 'k': expected an array of numbers or strings, found an array of arrays"),
    CASE(unknown_element_type, FORMAT,
         "key 'k': expected an element type up to 12, found 77" ONE_FILE),
    CASE(wild_array, FORMAT,
         "key 'k': array length: expected at most 2 (the file has 8 more bytes), found "
         "4611686018427387904" ONE_FILE),
    CASE(wild_string_array, FORMAT,
         "key 'k': array length: expected at most 1 (the file has 8 more bytes), found "
         "1048576" ONE_FILE),
    CASE(string_in_array_cut, FORMAT,
         "key 'k': array string at byte 69: expected 9 bytes, found 0 before the end of the "
         "file" ONE_FILE),
    CASE(bools_of_3, FORMAT, "key 'k': expected a bool of 0 or 1, found 3" ONE_FILE),
    CASE(huge_u64s, UNSUPPORTED,
         "key 'k': expected an integer below 2^63, found 18446744073709551615"),
    CASE(alignment_0, FORMAT,
         "key 'general.alignment': expected a power of two from 8 to 2^31, found 0" ONE_FILE),
    CASE(alignment_4, FORMAT,
         "key 'general.alignment': expected a power of two from 8 to 2^31, found 4" ONE_FILE),
    CASE(alignment_24, FORMAT,
         "key 'general.alignment': expected a power of two from 8 to 2^31, found 24" ONE_FILE),
    CASE(alignment_wild, FORMAT,
         "key 'general.alignment': expected a power of two from 8 to 2^31, found "
         "1099511627776" ONE_FILE),
    CASE(alignment_float, FORMAT, "key 'general.alignment': expected an integer, found f64"),
    CASE(name_cut, FORMAT,
         "tensor 1 of 1: tensor name at byte 32: expected 60 bytes, found 38 before the end of the "
         "file" ONE_FILE),
    CASE(name_empty, FORMAT,
         "tensor 1 of 1: expected a name of 1 to 255 bytes without zero bytes, found 0 bytes "
         "''" ONE_FILE),
    CASE(name_long, FORMAT,
         "tensor 1 of 1: expected a name of 1 to 255 bytes without zero bytes, found 256 bytes "
         "'xxx"),
    CASE(name_with_zero, FORMAT,
         "tensor 1 of 1: expected a name of 1 to 255 bytes without zero bytes, found 3 bytes "
         "'a'" ONE_FILE),
    CASE(shape_cut, FORMAT,
         "tensor 't': tensor offset at byte 57: expected 8 bytes, found 0 before the end of the "
         "file" ONE_FILE),
    CASE(no_dims, FORMAT, "tensor 't': expected 1 to 4 dimensions, found 0" ONE_FILE),
    CASE(dims_5, FORMAT, "tensor 't': expected 1 to 4 dimensions, found 5" ONE_FILE),
#define Q "tensor 'blk.0.attn_q.weight': "
    CASE(dim_zero, FORMAT, Q "expected dimension 1 to be from 1 to 2^63-1, found 0" ONE_FILE),
    CASE(dim_huge, FORMAT,
         Q "expected dimension 0 to be from 1 to 2^63-1, found 9223372036854775808" ONE_FILE),
    CASE(product_overflows, FORMAT,
         Q "expected fewer than 2^63 values, found dimensions 4294967296 x 4294967296 x 1 x 1"),
    CASE(product_over_63_bits, FORMAT,
         Q "expected fewer than 2^63 values, found dimensions 4294967296 x 2147483648 x 1 x 1"),
    CASE(bytes_overflow, FORMAT,
         Q "expected a size below 2^64 bytes, found 4611686018427387904 values of F32"),
    CASE(unknown_dtype, UNSUPPORTED,
         Q "expected a known number format, found type id 4; this nib cannot read the file, or the "
           "file is damaged"),
    CASE(wild_dtype, UNSUPPORTED,
         Q "expected a known number format, found type id 4294967295; this nib cannot read"),
    CASE(broken_blocks, FORMAT,
         Q "expected rows of whole Q8_0 blocks of 32 values, found rows of 33"),
    CASE(offset_misaligned, FORMAT,
         Q "expected an offset that is a multiple of 32, found 8" ONE_FILE),
    CASE(offset_past_end, FORMAT,
         Q "expected 16 bytes at offset 1099511627776 of the data, found 64 bytes of data in the "
           "file" ONE_FILE),
    CASE(offset_wraps, FORMAT,
         Q "expected 16 bytes at offset 18446744073709551584 of the data, found 64 bytes of data "
           "in the file" ONE_FILE),
    CASE(data_cut, FORMAT,
         Q
         "expected 68 bytes at offset 0 of the data, found 64 bytes of data in the file" ONE_FILE),
    CASE(no_data, FORMAT,
         "tensor 't': expected 16 bytes at offset 0 of the data, found 0 bytes of data in the "
         "file" ONE_FILE),
    CASE(overlap, FORMAT,
         "tensor 'b': expected bytes of its own, found them overlapping tensor 'a'" ONE_FILE),
    CASE(overlap_same, FORMAT, "expected bytes of its own, found them overlapping tensor"),
    CASE(overlap_reversed, FORMAT,
         "tensor 'b': expected bytes of its own, found them overlapping tensor 'a'" ONE_FILE),
    CASE(tensor_twice, FORMAT, "tensor 'a': expected each tensor once, found it twice" ONE_FILE),
    CASE(second_tensor_missing, FORMAT,
         "tensor 2 of 2: tensor name at byte 99: expected 8 bytes, found 0 before the end of the "
         "file" ONE_FILE),
    CASE(part_in_memory, FORMAT, "key 'split.count': expected 0 to 1, found 3"),
};

static void check_refused(const char *name, const char *path, nib_status s, nib_status expected,
                          const nib_gguf *g, const nib_error *e, const char *message) {
    if (s != expected || e->code != expected)
        fail_msg("%s: expected status '%s', got '%s' (%s)", name, nib_status_text(expected),
                 nib_status_text(s), e->message);
    assert_null(g);
    if (strncmp(e->message + 1, path, strlen(path)) || !strstr(e->message, message))
        fail_msg("%s: expected \"'%s': ... %s\", got \"%s\"", name, path, message, e->message);
}

static void every_lie_is_refused_by_name(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/bad.gguf", test_tmp());
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e = {0};
        nib_gguf *g = NULL;
        nib_buf_clear(&b);
        cases[i].spell();
        assert_false(b.failed);
        char *exact = malloc(b.len ? b.len : 1); /* so that a read past the end is seen */
        assert_non_null(exact);
        if (b.len) memcpy(exact, b.data, b.len);
        nib_status s = nib_gguf_open_memory(&g, exact, b.len, &e);
        free(exact);
        check_refused(cases[i].name, "(memory)", s, cases[i].status, g, &e, cases[i].message);
        if (cases[i].spell == part_in_memory)
            continue; /* from a file another message: test_gguf.c */
        test_ok(nib_file_write(path, b.data ? b.data : "", b.len, &e), &e);
        s = nib_gguf_open(&g, path, &e);
        check_refused(cases[i].name, path, s, cases[i].status, g, &e, cases[i].message);
        assert_int_equal(nib_gguf_open(&g, path, NULL),
                         cases[i].status); /* without a place for the message */
    }
    print_message("gguf: %zu kinds of malformed file refused\n", NIB_ARRAY_LEN(cases));
    nib_buf_free(&b);
}

static void what_is_no_file_is_named(void **state) {
    (void)state;
    nib_error e;
    nib_gguf *g = NULL;
    char path[128], line[300];
    assert_int_equal(nib_gguf_open(&g, test_tmp(), &e), NIB_ERR_IO);
    snprintf(line, sizeof line, "'%s' is a directory: expected a file", test_tmp());
    assert_string_equal(e.message, line);
    snprintf(path, sizeof path, "%s/missing.gguf", test_tmp());
    assert_int_equal(nib_gguf_open(&g, path, &e), NIB_ERR_NOT_FOUND);
    snprintf(line, sizeof line, "cannot open '%s': No such file or directory", path);
    assert_string_equal(e.message, line);
    snprintf(path, sizeof path, "%s/pipe.gguf", test_tmp());
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(nib_gguf_open(&g, path, &e), NIB_ERR_IO);
    snprintf(line, sizeof line, "'%s' is a pipe: expected a file", path);
    assert_string_equal(e.message, line);
    assert_int_equal(nib_gguf_open(&g, "", &e), NIB_ERR_NOT_FOUND);
    assert_null(g);
}

/* A file cut at any byte is refused, and reads nothing past its end. */
static void every_truncation_is_refused(void **state) {
    (void)state;
    nib_buf_clear(&b);
    head(3, 2, 4);
    key("general.architecture", NIB_GGUF_STR), str("llama");
    array("tokens", NIB_GGUF_STR, 3), str("a"), str("bc"), str("");
    array("scores", NIB_GGUF_F32, 2), u32(0), u32(0);
    key("n", NIB_GGUF_U32), u32(7);
    tensor("a", 12, 1, 0, 0);
    tensor("b", 4, 1, 0, 64);
    data(80);
    nib_gguf *g = NULL;
    nib_error e;
    test_ok(nib_gguf_open_memory(&g, b.data, b.len, &e), &e);
    nib_gguf_close(g);
    for (size_t n = 0; n < b.len; n++) {
        char *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, b.data, n);
        assert_int_equal(nib_gguf_open_memory(&g, exact, n, &e), NIB_ERR_FORMAT);
        assert_true(strlen(e.message) > 20);
        free(exact);
    }
    nib_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_lie_is_refused_by_name),
        cmocka_unit_test(what_is_no_file_is_named),
        cmocka_unit_test(every_truncation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
