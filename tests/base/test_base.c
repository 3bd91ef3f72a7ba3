/* The base room: buffers with a maximum, arenas, maps, UTF-8, JSON, files, the pool. */
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>
#include "testlib.h"

static void buf_has_a_maximum(void **state) {
    (void)state;
    nib_buf b = {.max = 10};
    assert_true(nib_buf_puts(&b, "12345"));
    assert_false(nib_buf_puts(&b, "678901"));
    assert_int_equal(b.len, 5);
    assert_string_equal(b.data, "12345");
    assert_false(nib_buf_putc(&b, 'x')); /* stays failed */
    nib_buf_free(&b);
}

static void arena_grows_and_resets(void **state) {
    (void)state;
    nib_arena a;
    nib_arena_init(&a, 1 << 20);
    for (int i = 0; i < 1000; i++) {
        char *p = nib_arena_alloc(&a, 100);
        assert_non_null(p);
        memset(p, i, 100);
    }
    assert_null(nib_arena_alloc(&a, 1 << 20));
    nib_arena_reset(&a);
    assert_int_equal(a.used, 0);
    assert_non_null(nib_arena_alloc(&a, 1 << 20));
    nib_arena_free(&a);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (long n = 1; n < 8; n++) {
        nib_alloc_fail_after(n);
        nib_buf b = {0};
        for (int i = 0; i < 5; i++) nib_buf_printf(&b, "%0*d", 300 << i, i);
        nib_alloc_fail_after(0);
        assert_int_equal(b.failed, n <= 5);
        nib_buf_free(&b);
    }
}

static void map_finds_what_was_set(void **state) {
    (void)state;
    static char keys[5000][8];
    nib_strmap m = {0};
    for (int i = 0; i < 5000; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        assert_true(nib_strmap_set(&m, nib_str_c(keys[i]), (uint32_t)i));
    }
    uint32_t v;
    for (int i = 0; i < 5000; i++) {
        assert_true(nib_strmap_get(&m, nib_str_c(keys[i]), &v));
        assert_int_equal(v, i);
    }
    assert_false(nib_strmap_get(&m, NIB_STR("absent"), &v));
    nib_strmap_free(&m);
}

static void utf8_takes_each_bad_sequence_once(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        int n;
        int32_t cps[6];
    } cases[] = {
        {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 4, {'a', 0xe9, 0x20ac, 0x1f600}},
        {"\xf0\x9f\x98z", 2, {-1, 'z'}},
        {"\xc0\x80", 2, {-1, -1}},
        {"\xed\xa0\x80", 3, {-1, -1, -1}},
        {"\xf4\x90\x80\x80", 4, {-1, -1, -1, -1}},
        {"\xe2\x82", 1, {-1}},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        const char *p = cases[i].bytes;
        size_t n = strlen(p);
        int k = 0;
        while (n) {
            int32_t cp;
            size_t len = nib_utf8_decode(p, n, &cp);
            assert_int_equal(cp, cases[i].cps[k]);
            k++, p += len, n -= len;
        }
        assert_int_equal(k, cases[i].n);
    }
    assert_int_equal(nib_utf8_complete("ab\xf0\x9f\x98", 5), 2);
    assert_int_equal(nib_utf8_complete("ab\xf0\x9f\x98\x80", 6), 6);
    assert_int_equal(nib_utf8_complete("ab\xff", 3), 3);
    assert_int_equal(nib_utf8_complete("\xc3", 1), 0);
}

static void nearest_word(void **state) {
    (void)state;
    static const char *const words[] = {"--temp", "--top-k", "--seed", "--threads"};
    assert_string_equal(nib_str_nearest("--tmep", words, 4), "--temp");
    assert_string_equal(nib_str_nearest("--thread", words, 4), "--threads");
    assert_null(nib_str_nearest("--completely-else", words, 4));
    assert_int_equal(nib_str_distance(NIB_STR("abcd"), NIB_STR("acbd"), 9), 1);
}

static void json_is_strict(void **state) {
    (void)state;
    nib_error e;
    json_t *v;
    test_ok(nib_json_parse("{\"a\":[1,2.5,\"x\"]}", 17, &v, &e), &e);
    nib_buf b = {0};
    test_ok(nib_json_write(v, &b, &e), &e);
    assert_string_equal(b.data, "{\"a\":[1,2.5,\"x\"]}");
    nib_buf_free(&b);
    json_decref(v);
    static const char *const bad[] = {"",         "{",   "[01]", "{\"a\":1,\"a\":2}",
                                      "\"\xff\"", "nul", "[1]x"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++)
        assert_int_equal(nib_json_parse(bad[i], strlen(bad[i]), &v, &e), NIB_ERR_FORMAT);
    char deep[600];
    memset(deep, '[', sizeof deep);
    assert_int_equal(nib_json_parse(deep, sizeof deep, &v, &e), NIB_ERR_LIMIT);
}

static void files_appear_whole(void **state) {
    (void)state;
    nib_error e;
    char path[128];
    snprintf(path, sizeof path, "%s/file", test_tmp());
    nib_outfile o;
    test_ok(nib_outfile_open(&o, path, &e), &e);
    fputs("half", o.f);
    fflush(o.f);
    assert_int_not_equal(access(path, F_OK), 0);
    nib_outfile_abort(&o);
    test_ok(nib_file_write(path, "whole", 5, &e), &e);
    nib_filemap m;
    test_ok(nib_filemap_open(&m, path, &e), &e);
    assert_int_equal(m.size, 5);
    nib_filemap_close(&m);
    assert_int_equal(nib_filemap_open(&m, test_tmp(), &e), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "directory"));
    assert_int_equal(nib_filemap_open(&m, "/nowhere/x", &e), NIB_ERR_NOT_FOUND);
}

typedef struct count_job {
    nib_pool *pool;
    atomic_long sum;
    long seen[4];
    nib_counter next;
} count_job;

static void count(void *arg, int tid, int n) {
    count_job *j = arg;
    for (int round = 0; round < 200; round++) {
        atomic_fetch_add(&j->sum, 1);
        nib_pool_barrier(j->pool);
        /* between two barriers everybody sees the same sum */
        if (atomic_load(&j->sum) != (long)(round + 1) * n) j->seen[tid]++;
        nib_pool_barrier(j->pool);
    }
    while (nib_counter_take(&j->next, 3) < 100) {
    }
}

static void pool_meets_at_barriers(void **state) {
    (void)state;
    nib_error e;
    for (int n = 1; n <= 4; n++) {
        count_job j = {0};
        test_ok(nib_pool_create(&j.pool, n, &e), &e);
        for (int round = 0; round < 20; round++) {
            atomic_store(&j.sum, 0);
            atomic_store(&j.next.v, 0);
            nib_pool_run(j.pool, count, &j);
            assert_int_equal(atomic_load(&j.sum), 200 * n);
            if (round == 10) usleep(2000); /* workers fall asleep and wake again */
        }
        for (int i = 0; i < 4; i++) assert_int_equal(j.seen[i], 0);
        nib_pool_free(j.pool);
    }
    nib_pool *p;
    assert_int_equal(nib_pool_create(&p, 0, &e), NIB_ERR_ARGUMENT);
}

static void rng_depends_on_seed_and_counter_alone(void **state) {
    (void)state;
    nib_rng a = {42, 0}, b = {42, 0};
    for (int i = 0; i < 10; i++) assert_true(nib_rng_u64(&a) == nib_rng_u64(&b));
    nib_rng c = {42, 5};
    b.counter = 5;
    assert_true(nib_rng_u64(&c) == nib_rng_u64(&b));
    double sum = 0;
    for (int i = 0; i < 10000; i++) {
        double v = nib_rng_double(&a);
        assert_true(v >= 0 && v < 1);
        sum += v;
    }
    assert_true(sum > 4800 && sum < 5200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_has_a_maximum),
        cmocka_unit_test(arena_grows_and_resets),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(map_finds_what_was_set),
        cmocka_unit_test(utf8_takes_each_bad_sequence_once),
        cmocka_unit_test(nearest_word),
        cmocka_unit_test(json_is_strict),
        cmocka_unit_test(files_appear_whole),
        cmocka_unit_test(pool_meets_at_barriers),
        cmocka_unit_test(rng_depends_on_seed_and_counter_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
