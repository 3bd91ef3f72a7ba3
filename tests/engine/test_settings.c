/* Settings of replies by name: what each takes, what it refuses, what it says. */
#include "engine/engine.h"
#include "testlib.h"

static nib_error e;

static const char *get(const nib_settings *s, const char *name) {
    static nib_buf b;
    nib_buf_clear(&b);
    test_ok(nib_settings_get(s, name, &b, &e), &e);
    return b.data;
}

/* Every setting can be shown, and taken back as it is shown where it has a value. */
static void every_setting(void **state) {
    (void)state;
    nib_settings s = {.p.sampling = nib_sample_defaults(), .p.retention = -1};
    size_t n = 0;
    for (; nib_settings_name(n); n++) {
        char value[256];
        snprintf(value, sizeof value, "%s", get(&s, nib_settings_name(n)));
        assert_true(*value);
        if (strcmp(value, "none") != 0)
            test_ok(nib_settings_set(&s, nib_settings_name(n), value, &e), &e);
        assert_string_equal(get(&s, nib_settings_name(n)), value);
        assert_int_equal(nib_settings_set(&s, nib_settings_name(n), "", NULL) == NIB_OK,
                         strcmp(nib_settings_name(n), "stop") == 0 ||
                             strcmp(nib_settings_name(n), "system") == 0 ||
                             strcmp(nib_settings_name(n), "dictionary") == 0);
    }
    print_message("%zu settings\n", n);
    assert_true(n > 20);
    nib_settings_free(&s);
}

static void values(void **state) {
    (void)state;
    static const struct {
        const char *name, *value, *shown;
    } good[] = {
        {"max-tokens", "50", "50"},
        {"max_seconds", "1.5", "1.5"},
        {"stop_sentences", "5", "5"},
        {"retention", "4", "4"},
        {"retention", "all", "all"},
        {"think", "hide", "hide"},
        {"think", "off", "off"},
        {"correct", "on", "on"},
        {"autocorrect", "both", "both"},
        {"logit-bias", "15=-inf", "15=-inf"},
        {"logit_bias", "3=1.5", "15=-inf 3=1.5"},
        {"system", "Be brief.", "Be brief."},
        {"system", "", "none"},
        {"stop", "END", "\"END\""},
        {"stop", "###", "\"END\" \"###\""},
        {"stop", "none", "none"},
        {"temp", "0.5", "0.5"},
        {"top-k", "7", "7"},
    };
    nib_settings s = {.p.sampling = nib_sample_defaults()};
    for (size_t i = 0; i < NIB_ARRAY_LEN(good); i++) {
        test_ok(nib_settings_set(&s, good[i].name, good[i].value, &e), &e);
        assert_string_equal(get(&s, good[i].name), good[i].shown);
    }
    assert_int_equal(s.p.max_tokens, 50);
    assert_int_equal(s.p.sampling.n_bias, 2);
    assert_null(s.p.system);
    assert_null(s.p.stop);
    static const char *const bad[][3] = {
        {"max_tokens", "-1", "max_tokens: expected a whole number"},
        {"max_tokens", "ten", "found 'ten'"},
        {"max_seconds", "nan", "max_seconds: expected a number"},
        {"retention", "-1", "retention: expected a number of exchanges or all"},
        {"think", "maybe", "think: expected auto|on|off|hide, found 'maybe'"},
        {"correct", "yes", "correct: expected off|on"},
        {"logit_bias", "15", "logit_bias: expected ID=BIAS"},
        {"logit_bias", "15=nan", "logit_bias"},
        {"logit_bias", "-1=2", "logit_bias"},
        {"max_token", "5", "did you mean 'max_tokens'?"},
        {"tepm", "1", "did you mean 'temp'?"},
        {"zzzzzz", "1", "zzzzzz"},
        {"temp", "hot", "temp"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(bad); i++) {
        assert_int_equal(nib_settings_set(&s, bad[i][0], bad[i][1], &e), NIB_ERR_ARGUMENT);
        if (!strstr(e.message, bad[i][2])) fail_msg("%s: expected '%s'", e.message, bad[i][2]);
    }
    assert_int_equal(s.p.max_tokens, 50); /* a refused value changes nothing */
    nib_settings_free(&s);
}

static void dictionary(void **state) {
    (void)state;
    nib_settings s = {.p.sampling = nib_sample_defaults()};
    test_ok(nib_settings_ready(&s, &e), &e);
    test_ok(nib_settings_set(&s, "autocorrect", "input", &e), &e);
    assert_int_equal(nib_settings_ready(&s, &e), NIB_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "dictionary"));
    test_ok(nib_settings_set(&s, "dictionary", "/nonexistent", &e), &e);
    assert_int_equal(nib_settings_ready(&s, &e), NIB_ERR_NOT_FOUND);
    char path[256];
    snprintf(path, sizeof path, "%s/words", test_tmp());
    test_ok(nib_file_write(path, "the 100\ncat 10\n", 15, &e), &e);
    test_ok(nib_settings_set(&s, "dictionary", path, &e), &e);
    test_ok(nib_settings_ready(&s, &e), &e);
    assert_non_null(s.p.dictionary);
    nib_settings_free(&s);
}

/* The n-th allocation fails, for every n: an error, nothing lost, nothing leaked. */
static void no_memory(void **state) {
    (void)state;
    for (long n = 1; n < 40; n++) {
        nib_settings s = {.p.sampling = nib_sample_defaults()};
        nib_alloc_fail_after(n);
        nib_status a = nib_settings_set(&s, "stop", "one", NULL),
                   b = nib_settings_set(&s, "stop", "two", NULL),
                   c = nib_settings_set(&s, "system", "x", NULL),
                   d = nib_settings_set(&s, "logit_bias", "1=1", NULL);
        nib_alloc_fail_after(0);
        assert_true((a | b | c | d) == NIB_OK || n < 10);
        assert_int_equal(s.n_stop, (a == NIB_OK) + (b == NIB_OK));
        nib_settings_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_setting), cmocka_unit_test(values),
                                       cmocka_unit_test(dictionary), cmocka_unit_test(no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
