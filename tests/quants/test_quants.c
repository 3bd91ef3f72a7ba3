/* Number formats: every reference vector, both ways, and cases that stand without reference data.
 */
#include <jansson.h>
#include <math.h>
#include "testlib.h"
#include "tensor/fit.h"

/* Distance in units of the last place. */
static int64_t ulps(float a, float b) {
    int32_t x = (int32_t)nib_f32_bits(a), y = (int32_t)nib_f32_bits(b);
    int64_t i = x < 0 ? -(int64_t)(x & INT32_MAX) : x, j = y < 0 ? -(int64_t)(y & INT32_MAX) : y;
    return i > j ? i - j : j - i;
}

static void read_file(nib_buf *b, const char *type, const char *ext) {
    nib_error e;
    test_ok(nib_file_read(test_shared_path("golden/quants/%s.%s", type, ext), 1 << 20, b, &e), &e);
}

/* The reference vectors' types; NULL, after saying so, where there are none. */
static json_t *reference_types(json_t **index) {
    if (!test_shared()) {
        test_skip("no reference data");
        return NULL;
    }
    nib_error e;
    nib_buf b = {0};
    test_ok(nib_file_read(test_shared_path("golden/quants/index.json"), 1 << 20, &b, &e), &e);
    test_ok(nib_json_parse(b.data, b.len, index, &e), &e);
    nib_buf_free(&b);
    return json_object_get(*index, "types");
}

static void decode_matches_the_reference(void **state) {
    (void)state;
    json_t *index, *types = reference_types(&index), *t;
    if (!types) return;
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
            n_ulp += ulps(w, got[k]) == 1;
            if (ulps(w, got[k]) > 1 && n_wrong++ < 10)
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

static double error_of(const nib_dtype_info *t, const void *blocks, const float *x, const float *w,
                       int64_t n) {
    float *y = nib_alloc((size_t)n * 4);
    double sum = 0;
    t->to_f32(blocks, y, n);
    for (int64_t i = 0; i < n; i++)
        sum += (w ? w[i] : 1) * ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    nib_free(y);
    return sum;
}

/* The squared error of each quantiser on the reference inputs, over that of the reference blocks.
 */
static void encode_is_no_worse_than_the_reference(void **state) {
    (void)state;
    json_t *index, *types = reference_types(&index), *t;
    if (!types) return;
    size_t i;
    int n_types = 0, n_worse = 0;
    nib_buf line = {0};
    json_array_foreach(types, i, t) {
        const char *name = json_string_value(json_object_get(t, "type"));
        const nib_dtype_info *info =
            nib_dtype_get((uint32_t)json_integer_value(json_object_get(t, "id")));
        if (!info->from_f32) continue;
        int64_t n = json_integer_value(json_object_get(t, "n_quantised"));
        nib_buf blocks = {0}, src = {0};
        read_file(&blocks, name, "blocks");
        read_file(&src, name, "src.f32");
        assert_int_equal(src.len, n * 4);
        float *x = nib_alloc(src.len);
        memcpy(x, src.data, src.len);
        uint8_t *mine = nib_alloc(blocks.len);
        info->from_f32(x, mine, n, NULL);
        double r = error_of(info, mine, x, NULL, n) / error_of(info, blocks.data, x, NULL, n);
        nib_buf_printf(&line, " %s %.3f", info->name, r);
        n_types++, n_worse += !(r <= 1);
        nib_free(x), nib_free(mine);
        nib_buf_free(&blocks), nib_buf_free(&src);
    }
    json_decref(index);
    print_message("quantisers: %d types, %d worse than the reference; error ratio:%s\n", n_types,
                  n_worse, line.data);
    nib_buf_free(&line);
    assert_int_equal(n_worse, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_matches_the_reference),
        cmocka_unit_test(encode_is_no_worse_than_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
