/* Values that people type: what is taken, and that nothing else is. */
#include "testlib.h"

static void numbers(void **state) {
    (void)state;
    nib_error e;
    int64_t n;
    double x;
    test_ok(nib_parse_int("n", "-3", -5, 5, &n, &e), &e);
    assert_int_equal(n, -3);
    static const char *const bad[] = {"",    "x",  "3x", "6", "-6", "99999999999999999999",
                                      "1.5", "0x3"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_int_equal(nib_parse_int("n", bad[i], -5, 5, &n, &e), NIB_ERR_ARGUMENT);
    assert_string_equal(e.message, "n: expected a whole number from -5 to 5, found '0x3'");
    assert_int_equal(n, -3); /* untouched */
    test_ok(nib_parse_num("x", "0.25", 0, 1, &x, &e), &e);
    assert_true(x == 0.25);
    static const char *const bad_nums[] = {"", "nan", "inf", "1.1", "-0.1", "0.5.5", "half"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad_nums); i++)
        assert_int_equal(nib_parse_num("x", bad_nums[i], 0, 1, &x, &e), NIB_ERR_ARGUMENT);
}

static void sizes(void **state) {
    (void)state;
    nib_error e;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"800M", 800000000},
                {"1.5G", 1500000000},
                {"2GiB", 2147483648},
                {"2 GB", 2000000000},
                {"4k", 4000},
                {"7B", 7},
                {"1KiB", 1024}};
    uint64_t n = 1;
    for (size_t i = 0; i < NIB_ARRAY_LEN(good); i++) {
        test_ok(nib_parse_bytes("size", good[i].text, &n, &e), &e);
        assert_true(n == good[i].bytes);
    }
    static const char *const bad[] = {"", "G", "-1G", "nan", "1e30", "2X", "2GBB", "99999999T"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_int_equal(nib_parse_bytes("size", bad[i], &n, &e), NIB_ERR_ARGUMENT);
}

static void choices(void **state) {
    (void)state;
    nib_error e;
    int i = -1;
    test_ok(nib_parse_choice("kv", "q8_0", "f16|f32|q8_0", &i, &e), &e);
    assert_int_equal(i, 2);
    static const char *const bad[] = {"", "f1", "f16|f32", "q8_00"};
    for (size_t k = 0; k < NIB_ARRAY_LEN(bad); k++)
        assert_int_equal(nib_parse_choice("kv", bad[k], "f16|f32|q8_0", &i, &e), NIB_ERR_ARGUMENT);
    assert_int_equal(i, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers), cmocka_unit_test(sizes),
                                       cmocka_unit_test(choices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
