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

/* ---- without reference data ---- */

static void halves_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = nib_f16_to_f32((uint16_t)h);
        int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
        double value = e == 31 ? INFINITY : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        if (e == 31 && m)
            assert_true(f != f);
        else
            assert_true(f == (h & 0x8000 ? -value : value) && !signbit(f) == !(h & 0x8000));
        if (f != f)
            assert_true((nib_f32_to_f16(f) & 0x7fff) > 0x7c00);
        else
            assert_int_equal(nib_f32_to_f16(f), h);
    }
    /* Between each pair of neighbours: the middle goes to the even one, next to it to the nearer
     * one. */
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double lo = nib_f16_to_f32((uint16_t)h),
               hi = h == 0x7bff ? 65536 : nib_f16_to_f32((uint16_t)(h + 1));
        float mid = (float)((lo + hi) / 2); /* exact */
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            float m = sign ? -mid : mid;
            assert_int_equal(nib_f32_to_f16(m), sign | (h + (h & 1)));
            assert_int_equal(nib_f32_to_f16(nextafterf(m, 0)), sign | h);
            assert_int_equal(nib_f32_to_f16(nextafterf(m, sign ? -INFINITY : INFINITY)),
                             sign | (h + 1));
        }
    }
    static const struct {
        uint32_t f;
        uint16_t h, b;
    } odd[] = {
        {0x00000001, 0, 0},                                         /* smallest single */
        {0x7f7fffff, 0x7c00, 0x7f80},                               /* largest */
        {0xff800000, 0xfc00, 0xff80},                               /* -inf */
        {0x7f800001, 0x7e00, 0x7fc0},                               /* NaNs stay NaN, quiet */
        {0xffffffff, 0xffff, 0xffff}, {0x3f808000, 0x3c04, 0x3f80}, /* bf16 ties: to even, down */
        {0x3f818000, 0x3c0c, 0x3f82},                               /* and up */
        {0x3f808001, 0x3c04, 0x3f81},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(odd); i++) {
        assert_int_equal(nib_f32_to_f16(nib_bits_f32(odd[i].f)), odd[i].h);
        assert_int_equal(nib_f32_to_bf16(nib_bits_f32(odd[i].f)), odd[i].b);
    }
    /* The row conversions are the same functions. */
    float x[5] = {0.1f, -65519, 1e-7f, -0.0f, 3}, y[5];
    uint16_t h[5], b[5];
    nib_dtype_get(NIB_F16)->from_f32(x, h, 5, NULL);
    nib_dtype_get(NIB_BF16)->from_f32(x, b, 5, NULL);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(h[i], nib_f32_to_f16(x[i]));
        assert_int_equal(b[i], nib_f32_to_bf16(x[i]));
    }
    nib_dtype_get(NIB_F32)->to_f32(x, y, 5);
    assert_memory_equal(x, y, sizeof x);
}

static void table_answers(void **state) {
    (void)state;
    nib_dtype t;
    assert_true(nib_dtype_parse("q4_k", &t));
    assert_int_equal(t, NIB_Q4_K);
    assert_true(nib_dtype_parse("Iq2_xXs", &t));
    assert_int_equal(t, NIB_IQ2_XXS);
    assert_false(nib_dtype_parse("Q4_K_M", &t));
    assert_false(nib_dtype_parse("", &t));
    assert_int_equal(t, NIB_IQ2_XXS);
    static const uint32_t unknown[] = {4, 5, 9, 15, 31, 38, 43, 255, UINT32_MAX};
    for (size_t i = 0; i < NIB_ARRAY_LEN(unknown); i++) assert_null(nib_dtype_get(unknown[i]));
    assert_int_equal(nib_dtype_bytes(NIB_Q4_K, 512), 288);
    assert_int_equal(nib_dtype_bytes(NIB_Q4_K, 0), 0);
    assert_int_equal(nib_dtype_bytes(NIB_Q4_K, 511), 0);
    assert_int_equal(nib_dtype_bytes(NIB_Q4_K, -256), 0);
    assert_int_equal(nib_dtype_bytes(NIB_F32, INT64_MAX), 0);
    assert_int_equal(nib_dtype_bytes((nib_dtype)200, 256), 0);
    nib_tensor v = {.ne = {3, 5, 7, 1}};
    assert_int_equal(nib_tensor_count(&v), 105);
}

/* A block of zeros but for some bytes, and some of the weights it stands for, worked out by hand.
 * End: at -1. */
#define END                                                                                        \
    { -1, 0 }
static const struct hand {
    nib_dtype t;
    struct {
        int at, byte;
    } set[20];
    struct {
        int i;
        float w;
    } want[8];
} hands[] = {
    /* 2 (q - 8) */
    {NIB_Q4_0, {{1, 0x40}, {2, 0x9f}, END}, {{0, 14}, {16, 2}, {1, -16}, {31, -16}, END}},
    {NIB_Q4_0,
     {{0, 0xff}, {1, 0x7b}, {2, 0x0f}, END},
     {{0, 7 * 65504.0f}, {16, -8 * 65504.0f}, END}},
    {NIB_Q4_0, {{0, 1}, {2, 0x09}, END}, {{0, 0x1p-24f}, {16, -0x1p-21f}, END}},
    {NIB_Q4_0, {{1, 0xc0}, {2, 0x0f}, END}, {{0, -14}, {16, 16}, END}},
    /* q - 2 */
    {NIB_Q4_1, {{1, 0x3c}, {3, 0xc0}, {19, 0xf1}, END}, {{15, -1}, {31, 13}, {0, -2}, END}},
    /* (q - 16) / 2, fifth bits of weights 0 and 31 */
    {NIB_Q5_0, {{1, 0x38}, {2, 1}, {5, 0x80}, {6, 0x0f}, END}, {{0, 7.5f}, {16, -8}, {31, 0}, END}},
    {NIB_Q5_1,
     {{1, 0x38}, {3, 0x3c}, {4, 1}, {7, 0x80}, {8, 0x0f}, END},
     {{0, 16.5f}, {31, 9}, {1, 1}, END}},
    {NIB_Q8_0, {{1, 0x24}, {2, 0x80}, {33, 127}, END}, {{0, -2}, {31, 127 / 64.0f}, {1, 0}, END}},
    /* group 0: 15 q - 1; group 2: q - 1.5; group 4: 0; group 6: 2 q */
    {NIB_Q2_K,
     {{0, 0x2f}, {2, 0x31}, {6, 2}, {16, 0xe7}, {81, 0x3c}, {83, 0x38}, END},
     {{0, 44}, {1, -1}, {32, -0.5f}, {33, -1.5f}, {64, 0}, {96, 6}, {255, 0}, END}},
    /* group 0: 5 (q - 4); group 15: -32 (q - 4) */
    {NIB_Q3_K,
     {{0, 1}, {31, 0x80}, {32, 3}, {96, 5}, {104, 2}, {109, 0x3c}, END},
     {{0, 15}, {1, -20}, {255, 0}, {254, 128}, END}},
    /* group 0: 3 q - 5; group 4, whose scale and min are spread: 58 q - 18 */
    {NIB_Q4_K,
     {{1, 0x3c}, {3, 0x3c}, {4, 0xc3}, {8, 0x45}, {12, 0x2a}, {16, 0x9c}, {80, 7}, END},
     {{0, 31}, {1, -5}, {32, 0}, {128, 388}, {129, -18}, {160, 0}, END}},
    {NIB_Q5_K,
     {{1, 0x3c}, {3, 0x3c}, {4, 0xc3}, {8, 0x45}, {12, 0x2a}, {16, 0x11}, {48, 0x0c}, END},
     {{0, 79}, {1, -5}, {32, 0}, {128, 910}, {129, -18}, END}},
    /* group 0: -64 (q - 32); group 4: 63.5 (q - 32); group 15: q - 32 */
    {NIB_Q6_K,
     {{0, 15},
      {127, 0x10},
      {128, 3},
      {191, 0x80},
      {192, 0x80},
      {196, 127},
      {207, 2},
      {209, 0x38},
      END},
     {{0, -1984}, {1, 2048}, {64, -2032}, {255, 1}, {254, -32}, END}},
    {NIB_IQ4_NL,
     {{1, 0x3c}, {2, 0xf0}, {3, 0x78}, END},
     {{0, -127}, {16, 113}, {1, 1}, {17, -10}, END}},
    /* group 0: 1 level; group 7: -32 level */
    {NIB_IQ4_XS,
     {{1, 0x3c}, {2, 2}, {4, 1}, {8, 0x8f}, END},
     {{0, 113}, {16, 1}, {1, -127}, {255, 32 * 127}, END}},
    /* group 0: scale 1, odd signs get an eighth; group 7: scale 31, last eight of index 255 */
    {NIB_IQ2_XXS,
     {{1, 0x48}, {6, 1}, {61, 255}, {65, 0xf0}, END},
     {{0, -8}, {1, 8}, {7, -8}, {8, 8}, {248, 248}, {249, 775}, {255, 1333}, END}},
    /* first eight: index 511, sign of 0; scale 1. The next eight: index 192, two signs */
    {NIB_IQ2_XS,
     {{1, 0x48}, {2, 0xff}, {3, 3}, {4, 192}, {5, 6}, END},
     {{0, -43}, {1, 43}, {7, -43}, {8, -25}, {9, -43}, {15, 8}, {16, 8}, END}},
    /* index 384 + sign of 0; second sixteen at scale 31: index 1023 */
    {NIB_IQ2_S,
     {{1, 0x48}, {2, 128}, {34, 1}, {4, 255}, {66, 0x31}, {74, 0xf0}, END},
     {{0, -8}, {1, 25}, {6, 43}, {16, 1333}, {23, 1333}, {24, 248}, END}},
    {NIB_IQ3_XXS,
     {{1, 0x44}, {2, 255}, {3, 96}, {66, 0x11}, {97, 0xf0}, END},
     {{0, -4}, {1, 28}, {3, 62}, {4, -4}, {5, 36}, {7, 12}, {255, 4 * 31}, END}},
    /* indices 511 and 192; second 32 at scale 31 */
    {NIB_IQ3_S,
     {{1, 0x3c}, {2, 255}, {3, 192}, {66, 1}, {74, 0x82}, {106, 0xf0}, END},
     {{0, 1}, {1, -1}, {3, 15}, {4, 11}, {7, -3}, {32, 31}, END}},
    /* group 0: scale 1, +1/8, index 768; group 7: scale 15, -1/8, last index 2047 */
    {NIB_IQ1_S,
     {{1, 0x3c}, {34, 3}, {33, 255}, {49, 0xfe}, {48, 0}, END},
     {{0, -0.875f}, {1, 0.125f}, {2, 1.125f}, {255, 13.125f}, END}},
    /* d = 1 spread over the tops of the scale words; the last eight: index 2047, -1/8, scale 15 */
    {NIB_IQ1_M,
     {{32, 3}, {31, 255}, {47, 0xf0}, {53, 0xc0}, {54, 0}, {55, 0x3e}, END},
     {{0, -0.875f}, {2, 1.125f}, {255, 13.125f}, END}},
    /* 0x80 = ceil(121 * 256 / 243): digits 1 1 1 1 1; 0xff: all 2 */
    {NIB_TQ1_0,
     {{0, 0x80}, {1, 0xff}, {32, 0xff}, {48, 0xff}, {53, 0x3c}, END},
     {{0, 0}, {128, 0}, {1, 1}, {129, 1}, {2, -1}, {160, 1}, {240, 1}, {255, -1}}},
    {NIB_TQ2_0, {{0, 0x86}, {65, 0x40}, END}, {{0, 2}, {32, 0}, {64, -2}, {96, 2}, {255, -2}, END}},
    {NIB_MXFP4,
     {{0, 127}, {1, 0xf7}, {2, 0x19}, END},
     {{0, 6}, {16, -6}, {1, -0.5f}, {17, 0.5f}, {2, 0}, END}},
    {NIB_MXFP4, {{0, 0}, {1, 0x17}, END}, {{0, 0x1.8p-125f}, {16, 0x1p-128f}, END}},
    {NIB_MXFP4, {{0, 254}, {1, 0x02}, END}, {{0, 0x1p127f}, END}},
    /* groups at 1, 2^-9, 448 and 0 */
    {NIB_NVFP4,
     {{0, 0x38}, {1, 1}, {2, 0x7e}, {3, 0x7f}, {4, 0xf7}, {12, 7}, {20, 7}, {28, 7}, END},
     {{0, 6}, {8, -6}, {16, 6 * 0x1p-9f}, {32, 6 * 448}, {48, 0}, END}},
    {NIB_Q1_0, {{1, 0x3c}, {2, 5}, {17, 0x80}, END}, {{0, 1}, {1, -1}, {2, 1}, {127, 1}, END}},
    {NIB_Q2_0, {{1, 0x3c}, {2, 0xe4}, END}, {{0, -1}, {1, 0}, {2, 1}, {3, 2}, {63, -1}, END}},
};

static void blocks_by_hand(void **state) {
    (void)state;
    int n_checked = 0;
    bool seen[64] = {false};
    for (size_t k = 0; k < NIB_ARRAY_LEN(hands); k++) {
        const struct hand *h = &hands[k];
        const nib_dtype_info *t = nib_dtype_get((uint32_t)h->t);
        uint8_t raw[256 + 1] = {0}, *block = raw + 1; /* odd address: blocks lie anywhere */
        float w[256];
        for (int i = 0; h->set[i].at >= 0 && (i == 0 || h->set[i].at + h->set[i].byte); i++)
            block[h->set[i].at] = (uint8_t)h->set[i].byte;
        t->to_f32(block, w, t->block_len);
        for (int i = 0; i < 8 && h->want[i].i >= 0; i++, n_checked++)
            if (w[h->want[i].i] != h->want[i].w)
                fail_msg("%s (case %zu) weight %d: want %g, got %g", t->name, k, h->want[i].i,
                         h->want[i].w, w[h->want[i].i]);
        seen[h->t] = true;
    }
    for (uint32_t id = 0; id < 64; id++) /* every packed format has a case */
        if (nib_dtype_get(id) && nib_dtype_get(id)->block_len > 1) assert_true(seen[id]);
    print_message("blocks by hand: %zu cases, %d weights\n", NIB_ARRAY_LEN(hands), n_checked);
}

#define EACH_WRITABLE(t)                                                                           \
    for (uint32_t id_ = 0; id_ < 64; id_++)                                                        \
        for (const nib_dtype_info *t = nib_dtype_get(id_); t && t->from_f32; t = NULL)

enum { N = 4096 };
static float xs[N], ws[N], ys[N];
static uint8_t made[N * 4], again[N * 4];

static double relative(const nib_dtype_info *t, const float *w) {
    double e = error_of(t, made, xs, w, N), all = 0;
    for (int i = 0; i < N; i++) all += (w ? w[i] : 1) * (double)xs[i] * xs[i];
    return sqrt(e / all);
}

/* Root mean square error of normal weights, relative to theirs: what was measured when this was
 * written, and 1 % of room. */
static void errors_stay_where_they_were(void **state) {
    (void)state;
    static const struct {
        nib_dtype t;
        double plain, weighted;
    } bound[] = {
        {NIB_F16, 0.00020702, 0.00020471}, {NIB_BF16, 0.0016746, 0.0017049},
        {NIB_Q8_0, 0.0053031, 0.0054178},  {NIB_Q4_0, 0.07917, 0.072186},
        {NIB_Q4_1, 0.068152, 0.059881},    {NIB_Q5_0, 0.039531, 0.036775},
        {NIB_Q5_1, 0.033079, 0.029773},    {NIB_Q2_K, 0.25505, 0.22302},
        {NIB_Q3_K, 0.14166, 0.13062},      {NIB_Q4_K, 0.068223, 0.060481},
        {NIB_Q5_K, 0.033805, 0.031281},    {NIB_Q6_K, 0.016302, 0.014653},
        {NIB_IQ4_NL, 0.072436, 0.066617},  {NIB_IQ4_XS, 0.072981, 0.067377},
        {NIB_MXFP4, 0.10984, 0.10681},     {NIB_NVFP4, 0.088501, 0.081903},
    };
    nib_rng r = {42, 0};
    for (int i = 0; i < N; i++)
        xs[i] = 0.02f * nib_rng_normal(&r), ws[i] = expf(nib_rng_normal(&r));
    for (size_t k = 0; k < NIB_ARRAY_LEN(bound); k++) {
        const nib_dtype_info *t = nib_dtype_get((uint32_t)bound[k].t);
        t->from_f32(xs, made, N, NULL);
        double plain = relative(t, NULL), unaware = relative(t, ws);
        t->from_f32(xs, made, N, ws);
        double weighted = relative(t, ws);
        if (!(plain <= 1.01 * bound[k].plain && weighted <= 1.01 * bound[k].weighted))
            fail_msg("%s: %.5f, weighted %.5f", t->name, plain, weighted);
        assert_true(weighted <= unaware);
    }
}

/* Values that a block can hold exactly come back exactly. */
static void the_lattice_survives(void **state) {
    (void)state;
    static const nib_dtype types[] = {NIB_F32,  NIB_F16,  NIB_BF16,   NIB_Q4_0,  NIB_Q4_1, NIB_Q5_0,
                                      NIB_Q5_1, NIB_Q8_0, NIB_IQ4_NL, NIB_MXFP4, NIB_NVFP4};
    nib_rng r = {7, 0};
    for (size_t k = 0; k < NIB_ARRAY_LEN(types); k++) {
        const nib_dtype_info *t = nib_dtype_get((uint32_t)types[k]);
        int64_t n = NIB_MAX(t->block_len, 64) / t->block_len * t->block_len;
        for (int round = 0; round < 50; round++) {
            for (int i = 0; i < n; i++) { /* every code of each type, both ends in every 16 */
                static const int8_t e2m1[] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
                static const int8_t iq4[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                             1,    13,   25,  38,  53,  69,  89,  113};
                int u = i % 16 == 0 ? 0 : i % 16 == 1 ? 31 : (int)(nib_rng_u64(&r) & 31);
                bool four = types[k] == NIB_Q4_0 || types[k] == NIB_Q4_1;
                float v = types[k] == NIB_IQ4_NL                           ? iq4[u / 2]
                          : types[k] == NIB_MXFP4 || types[k] == NIB_NVFP4 ? e2m1[u * 14 / 31]
                          : types[k] == NIB_Q8_0 ? (u ? 127 - u * 254 / 31 : 127)
                                                 : (four ? u / 2 - 8 : u - 16);
                xs[i] = v * 0x1p-5f;
            }
            t->from_f32(xs, made, n, NULL);
            t->to_f32(made, ys, n);
            for (int i = 0; i < n; i++)
                if (xs[i] != ys[i])
                    fail_msg("%s weight %d: %g came back as %g", t->name, i, xs[i], ys[i]);
        }
    }
}

static void any_input_gives_some_block(void **state) {
    (void)state;
    nib_rng r = {3, 0};
    int n_cases = 0;
    for (int kind = 0; kind < 16; kind++) {
        for (int i = 0; i < N; i++) {
            float g = nib_rng_normal(&r), v = g;
            switch (kind) {
            case 0: v = 0; break;
            case 1: v = -0.0f; break;
            case 2: v = 0.75f; break;
            case 3: v = -3; break;
            case 4: v = i % 256 == 77 ? 1000.0f : 0; break;
            case 5: v = g * 1e-7f; break;  /* scales at the bottom of f16 */
            case 6: v = g * 1e-12f; break; /* below it */
            case 7: v = g * 1e-42f; break; /* not even normal */
            case 8: v = g * 1e6f; break;   /* scales at the top of f16 */
            case 9: v = g * 1e30f; break;  /* above it */
            case 10: v = i % 2 ? 3e38f : -3e38f; break;
            case 11: v = i % 300 == 5 ? NAN : g; break;
            case 12: v = i % 300 == 5 ? INFINITY : g; break;
            case 13: v = NAN; break;
            case 14: v = i / 32 % 2 ? g : g * 1e-5f; break; /* loud and quiet blocks */
            case 15: v = nib_bits_f32((uint32_t)nib_rng_u64(&r)); break;
            }
            xs[i] = v;
        }
        for (int weighting = 0; weighting < 6; weighting++) {
            for (int i = 0; i < N; i++) {
                float w = (float)nib_rng_double(&r);
                ws[i] = weighting == 1   ? w
                        : weighting == 2 ? 0
                        : weighting == 3 ? -w
                        : weighting == 4 ? (i % 40 ? w : NAN)
                                         : (i % 40 ? w * 1e-38f : INFINITY);
            }
            EACH_WRITABLE(t) {
                t->from_f32(xs, made, N, weighting ? ws : NULL);
                t->to_f32(made, ys, N);
                n_cases++;
                bool plain = id_ == NIB_F32 || id_ == NIB_F16 || id_ == NIB_BF16;
                if (kind > 10 && kind != 14) continue; /* no promise but to return */
                double e = 0, all = 0;
                for (int i = 0; i < N; i++) {
                    if (!plain && !isfinite(ys[i]))
                        fail_msg("%s kind %d: %g became %g", t->name, kind, xs[i], ys[i]);
                    e += ((double)xs[i] - ys[i]) * ((double)xs[i] - ys[i]),
                        all += (double)xs[i] * xs[i];
                }
                /* zeros stay zeros; else storing is never worse than storing nothing */
                if (!plain && !weighting && !(e <= all))
                    fail_msg("%s kind %d: error %g of %g", t->name, kind, e, all);
            }
        }
    }
    print_message("any input: %d encodings\n", n_cases);
}

/* Both give the same bytes, for 8 groups and for 19, which fill no number of lanes. */
static void same_fit(const fit_ops *wide, const fit_ops *narrow) {
    static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    const fit_levels levels[] = {{8, -4, NULL}, {16, 0, table}};
    enum { MOST = 19 };
    uint8_t code[2][MOST * 32], s[2][32], k[2][MOST];
    uint16_t d[2][2 * MOST];
    float scale[MOST * 3];
    for (int i = 0; i < MOST * 3; i++) scale[i] = 0.02f * (float)(i % 24 + 1);
    for (int i = 0; i + MOST * 32 <= N; i += 256)
        for (int weighted = 0; weighted < 2; weighted++)
            for (int what = 0; what < 16; what++) {
                const float *x = xs + i, *w = weighted ? ws + i : NULL;
                const fit_levels *lv = &levels[what % 2];
                int n = what < 10 ? 8 : MOST;
                memset(code, 0, sizeof code), memset(s, 0, sizeof s), memset(d, 0, sizeof d),
                    memset(k, 0, sizeof k);
                for (int v = 0; v < 2; v++) {
                    const fit_ops *f = v ? wide : narrow;
                    switch (what) {
                    case 0:
                    case 1:
                    case 10:
                    case 11: f->scale(lv, 32, x, w, n, d[v], code[v]); break;
                    case 2:
                    case 3:
                    case 12:
                    case 13: f->choose(lv, 32, x, w, n, 3, scale, k[v], code[v]); break;
                    case 4:
                    case 5:
                    case 14:
                    case 15:
                        f->affine(what % 2 ? 32 : 16, x, w, n, d[v], d[v] + MOST, code[v]);
                        break;
                    case 6:
                    case 7:
                        f->super_scale(lv, what == 6 ? 16 : 32, -32, 31, x, w, d[v], (int8_t *)s[v],
                                       code[v]);
                        break;
                    default:
                        f->super_affine(what == 8 ? 4 : 16, what == 8 ? 16 : 32,
                                        what == 8 ? 15 : 63, x, w, d[v], d[v] + 1, s[v], s[v] + 16,
                                        code[v]);
                    }
                }
                assert_memory_equal(code[0], code[1], sizeof code[0]);
                assert_memory_equal(s[0], s[1], sizeof s[0]);
                assert_memory_equal(d[0], d[1], sizeof d[0]);
                assert_memory_equal(k[0], k[1], sizeof k[0]);
            }
}

/* The bytes of a block depend on that block alone: not on how many are given at once, nor on the
 * vector width. */
static void blocks_stand_alone(void **state) {
    (void)state;
    nib_rng r = {11, 0};
    for (int i = 0; i < N; i++)
        xs[i] = nib_rng_normal(&r) * expf(nib_rng_normal(&r)), ws[i] = expf(2 * nib_rng_normal(&r));
    for (int weighted = 0; weighted < 2; weighted++) EACH_WRITABLE(t) {
            t->from_f32(xs, made, N, weighted ? ws : NULL);
            for (int64_t i = 0, step = t->block_len; i < N; i += step)
                t->from_f32(xs + i, again + i / step * t->block_bytes, step,
                            weighted ? ws + i : NULL);
            assert_memory_equal(made, again, N / t->block_len * t->block_bytes);
        }
    same_fit(nib_fit(), &nib_fit_narrow);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) same_fit(&nib_fit_avx2, &nib_fit_narrow);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(table_answers),
        cmocka_unit_test(blocks_by_hand),
        cmocka_unit_test(errors_stay_where_they_were),
        cmocka_unit_test(the_lattice_survives),
        cmocka_unit_test(any_input_gives_some_block),
        cmocka_unit_test(blocks_stand_alone),
        cmocka_unit_test(decode_matches_the_reference),
        cmocka_unit_test(encode_is_no_worse_than_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
