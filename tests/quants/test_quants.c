/* Number formats: every reference vector, and cases computed by hand that need no reference data.
 */
#include <jansson.h>
#include <math.h>
#include "testlib.h"
#include "tensor/tensor.h"

static int order(float f) {
    int32_t i = (int32_t)nib_f32_bits(f);
    return i < 0 ? INT32_MIN - i : i;
}

static void read_file(nib_buf *b, const char *type, const char *ext) {
    nib_error e;
    test_ok(nib_file_read(test_shared_path("golden/quants/%s.%s", type, ext), 1 << 20, b, &e), &e);
}

static void decode_matches_the_reference(void **state) {
    (void)state;
    if (!test_shared()) {
        test_skip("no reference data");
        return;
    }
    nib_error e;
    nib_buf b = {0};
    test_ok(nib_file_read(test_shared_path("golden/quants/index.json"), 1 << 20, &b, &e), &e);
    json_t *index;
    test_ok(nib_json_parse(b.data, b.len, &index, &e), &e);
    nib_buf_free(&b);
    json_t *types = json_object_get(index, "types"), *t;
    size_t i;
    int n_types = 0;
    long n_values = 0, n_ulp = 0, n_wrong = 0;
    json_array_foreach(types, i, t) {
        const char *name = json_string_value(json_object_get(t, "type"));
        nib_dtype dtype;
        assert_true(nib_dtype_parse(name, &dtype));
        assert_int_equal(dtype, json_integer_value(json_object_get(t, "id")));
        const nib_dtype_info *info = nib_dtype_get(dtype);
        assert_int_equal(info->block_len, json_integer_value(json_object_get(t, "block_size")));
        assert_int_equal(info->block_bytes, json_integer_value(json_object_get(t, "type_size")));
        int64_t n = json_integer_value(json_object_get(t, "n_values"));
        nib_buf blocks = {0}, want = {0};
        read_file(&blocks, name, "blocks");
        read_file(&want, name, "f32");
        assert_int_equal(blocks.len, nib_dtype_bytes(dtype, n));
        assert_int_equal(want.len, n * 4);
        float *got = nib_alloc(want.len);
        info->to_f32(blocks.data, got, n);
        for (int64_t k = 0; k < n; k++) {
            float w;
            memcpy(&w, want.data + 4 * k, 4);
            int d = abs(order(w) - order(got[k]));
            n_ulp += d == 1;
            if (d > 1 && n_wrong++ < 10)
                print_message("%s[%ld]: want %.9g, got %.9g\n", name, (long)k, w, got[k]);
        }
        n_types++, n_values += n;
        nib_free(got);
        nib_buf_free(&blocks);
        nib_buf_free(&want);
    }
    json_decref(index);
    print_message("quants: %d types, %ld values, %ld off by one ulp, %ld differ\n", n_types,
                  n_values, n_ulp, n_wrong);
    assert_int_equal(n_wrong, 0);
    assert_true(n_types >= 27);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_matches_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
