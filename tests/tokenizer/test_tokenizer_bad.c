/* Vocabularies no model has: each is refused with one line that says what is wrong, or does no
 * harm. */
#include <stdlib.h>
#include "testlib.h"
#include "tokvocab.h"

static const tv_token few[] = {{"<unk>", 0, 2}, {"a", -1, 1}, {"b", -2, 1}, {"ab", -3, 1}};

static void model(tokvocab *v, const char *name) {
    tv_str(v, "tokenizer.ggml.model", name);
}
static void texts(tokvocab *v, size_t n) {
    nib_str s[4];
    for (size_t i = 0; i < n; i++) s[i] = nib_str_c(few[i].text);
    tv_strings(v, "tokenizer.ggml.tokens", s, n);
}
static void scores(tokvocab *v, size_t n) {
    float f[8] = {0};
    tv_floats(v, "tokenizer.ggml.scores", f, n);
}
static void types(tokvocab *v, size_t n, int32_t last) {
    int32_t t[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    t[n - 1] = last;
    tv_ints(v, "tokenizer.ggml.token_type", t, n);
}
static void llama(tokvocab *v) {
    model(v, "llama");
    tv_tokens(v, few, 4, false);
}
static void gpt2(tokvocab *v) {
    tv_byte_level(v, NULL, 0, NULL, 0);
}

static void no_model(tokvocab *v) {
    texts(v, 4);
}
static void model_is_a_number(tokvocab *v) {
    tv_id(v, "tokenizer.ggml.model", 3);
}
static void unknown_model(tokvocab *v) {
    model(v, "t5"), texts(v, 4);
}
static void no_tokens(tokvocab *v) {
    model(v, "llama");
}
static void tokens_are_numbers(tokvocab *v) {
    int32_t x[2] = {1, 2};
    model(v, "llama"), tv_ints(v, "tokenizer.ggml.tokens", x, 2);
}
static void tokens_are_a_string(tokvocab *v) {
    model(v, "llama"), tv_str(v, "tokenizer.ggml.tokens", "a");
}
static void empty_vocabulary(tokvocab *v) {
    model(v, "llama"), texts(v, 0);
}
static void same_token_twice(tokvocab *v) {
    nib_str s[3] = {NIB_STR("a"), NIB_STR("b"), NIB_STR("a")};
    model(v, "llama"), tv_strings(v, "tokenizer.ggml.tokens", s, 3), scores(v, 3);
}
static void no_scores(tokvocab *v) {
    model(v, "llama"), texts(v, 4);
}
static void short_scores(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 3);
}
static void long_scores(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 5);
}
static void scores_are_strings(tokvocab *v) {
    nib_str s[4] = {NIB_STR("1"), NIB_STR("2"), NIB_STR("3"), NIB_STR("4")};
    model(v, "llama"), texts(v, 4), tv_strings(v, "tokenizer.ggml.scores", s, 4);
}
static void score_is_nan(tokvocab *v) {
    const uint32_t nan_bits = 0x7fc00000u;
    float f[4] = {0};
    memcpy(&f[2], &nan_bits, 4);
    model(v, "llama"), texts(v, 4), tv_floats(v, "tokenizer.ggml.scores", f, 4);
}
static void short_types(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 4), types(v, 3, 1);
}
static void type_seven(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 4), types(v, 4, 7);
}
static void type_negative(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 4), types(v, 4, -1);
}
static void byte_without_number(tokvocab *v) {
    model(v, "llama"), texts(v, 4), scores(v, 4), types(v, 4, 6);
}
static void bos_out_of_range(tokvocab *v) {
    llama(v), tv_id(v, "tokenizer.ggml.bos_token_id", 4);
}
static void eos_out_of_range(tokvocab *v) {
    llama(v), tv_id(v, "tokenizer.ggml.eos_token_id", 0xfffffffe);
}
static void eom_out_of_range(tokvocab *v) {
    llama(v), tv_id(v, "tokenizer.ggml.eom_token_id", 70000);
}
static void bos_is_a_string(tokvocab *v) {
    llama(v), tv_str(v, "tokenizer.ggml.bos_token_id", "1");
}
static void add_bos_is_a_string(tokvocab *v) {
    llama(v), tv_str(v, "tokenizer.ggml.add_bos_token", "true");
}
static void template_is_a_number(tokvocab *v) {
    llama(v), tv_id(v, "tokenizer.chat_template", 1);
}
static void pre_is_a_number(tokvocab *v) {
    gpt2(v), tv_id(v, "tokenizer.ggml.pre", 1);
}
static void no_merges(tokvocab *v) {
    model(v, "gpt2"), texts(v, 4);
}
static void merge_without_space(tokvocab *v) {
    nib_str s[2] = {NIB_STR("a b"), NIB_STR("ab")};
    model(v, "gpt2"), texts(v, 4), tv_strings(v, "tokenizer.ggml.merges", s, 2);
}
static void merges_are_numbers(tokvocab *v) {
    int32_t x[2] = {1, 2};
    model(v, "gpt2"), texts(v, 4), tv_ints(v, "tokenizer.ggml.merges", x, 2);
}

/* Texts of one hash: nib_hash takes 8 bytes a step, and flipping bit 63 of one step is undone by
 * flipping bits 63 and 31 of the next. Ten such pairs of steps make 1024 texts. */
static void texts_of_one_hash(tokvocab *v) {
    enum { N = 1000, STEPS = 20 };
    static uint64_t block[N][STEPS];
    nib_str s[N];
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < STEPS; k++) {
            bool flip = i >> (k / 2) & 1;
            block[i][k] = 0x6161616161616161u ^
                          (flip ? (uint64_t)1 << 63 | (k % 2 ? (uint64_t)1 << 31 : 0) : 0);
        }
        s[i] = (nib_str){(const char *)block[i], sizeof block[i]};
        assert_int_equal(nib_hash(s[i].p, s[i].n, 0), nib_hash(s[0].p, s[0].n, 0));
    }
    model(v, "llama"), tv_strings(v, "tokenizer.ggml.tokens", s, N);
}

static void each_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        void (*fill)(tokvocab *v);
        nib_status status;
        const char *says;
    } cases[] = {
#define CASE(fill, status, says) {#fill, fill, NIB_ERR_##status, says}
        CASE(no_model, NOT_FOUND, "tokenizer.ggml.model"),
        CASE(model_is_a_number, FORMAT, "tokenizer.ggml.model"),
        CASE(unknown_model, UNSUPPORTED, "'t5'"),
        CASE(no_tokens, NOT_FOUND, "tokenizer.ggml.tokens"),
        CASE(tokens_are_numbers, FORMAT, "tokenizer.ggml.tokens"),
        CASE(tokens_are_a_string, FORMAT, "tokenizer.ggml.tokens"),
        CASE(empty_vocabulary, FORMAT, "0 entries"),
        CASE(same_token_twice, FORMAT, "entries 0 and 2 are both 'a'"),
        CASE(texts_of_one_hash, LIMIT, "entry 512 hashes like 512 others"),
        CASE(no_scores, NOT_FOUND, "tokenizer.ggml.scores"),
        CASE(short_scores, FORMAT, "3 entries, the vocabulary 4"),
        CASE(long_scores, FORMAT, "5 entries, the vocabulary 4"),
        CASE(scores_are_strings, FORMAT, "tokenizer.ggml.scores"),
        CASE(score_is_nan, FORMAT, "entry 2 is not a number"),
        CASE(short_types, FORMAT, "3 entries, the vocabulary 4"),
        CASE(type_seven, FORMAT, "entry 3 is 7"),
        CASE(type_negative, FORMAT, "entry 3 is -1"),
        CASE(byte_without_number, FORMAT, "<0xNN>"),
        CASE(bos_out_of_range, FORMAT, "bos_token_id is 4, but the vocabulary has 4"),
        CASE(eos_out_of_range, FORMAT, "eos_token_id is 4294967294"),
        CASE(eom_out_of_range, FORMAT, "eom_token_id is 70000"),
        CASE(bos_is_a_string, FORMAT, "bos_token_id"),
        CASE(add_bos_is_a_string, FORMAT, "add_bos_token"),
        CASE(template_is_a_number, FORMAT, "chat_template"),
        CASE(pre_is_a_number, FORMAT, "tokenizer.ggml.pre"),
        CASE(no_merges, NOT_FOUND, "tokenizer.ggml.merges"),
        CASE(merge_without_space, FORMAT, "entry 1, 'ab'"),
        CASE(merges_are_numbers, FORMAT, "tokenizer.ggml.merges"),
#undef CASE
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_error e = {0};
        tokvocab v = {0};
        cases[i].fill(&v);
        nib_buf f = tv_file(&v);
        nib_tokenizer *t = NULL;
        nib_status s = tv_load(&t, f.data, f.len, &e);
        if (s != cases[i].status || !strstr(e.message, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].name, nib_status_text(s), e.message);
        assert_null(t);
        assert_null(strchr(e.message, '\n'));
        nib_buf_free(&f);
    }
    print_message("hostile vocabularies: %zu refused\n", NIB_ARRAY_LEN(cases));
}

static nib_tokenizer *make(tokvocab *v) {
    nib_error e;
    nib_tokenizer *t;
    nib_buf f = tv_file(v);
    test_ok(tv_load(&t, f.data, f.len, &e), &e);
    nib_buf_free(&f);
    return t;
}

static void expect_ids(const nib_tokenizer *t, const char *text, unsigned flags,
                       const int32_t *want, size_t n) {
    nib_error e;
    nib_ids ids = {0};
    test_ok(nib_tokenize(t, text, strlen(text), flags, &ids, &e), &e);
    assert_int_equal(ids.len, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(ids.data[i], want[i]);
    nib_ids_free(&ids);
}

static void odd_but_harmless(void **state) {
    (void)state;
    /* One token, and none of the special ids llama has by default. */
    tokvocab v = {0};
    static const tv_token one[] = {{"a", 0, 1}};
    model(&v, "llama"), tv_tokens(&v, one, 1, false);
    nib_tokenizer *t = make(&v);
    const nib_tokenizer_info *in = nib_tokenizer_get_info(t);
    assert_true(in->bos == -1 && in->eos == -1 && !in->add_bos);
    expect_ids(t, "a", NIB_TOK_SPECIAL | NIB_TOK_NO_PREFIX, (int32_t[]){0}, 1);
    expect_ids(t, "b", NIB_TOK_NO_PREFIX, (int32_t[]){0}, 1); /* the unknown token */
    nib_tokenizer_free(t);
    /* Empty texts, of any number and type; ids that say "none". */
    static const tv_token empty[] = {{"", 0, 1},  {"", 0, 3}, {"", 0, 4},
                                     {"a", 0, 1}, {"", 0, 5}, {"z", 0, 0}};
    model(&v, "llama"), tv_tokens(&v, empty, 6, false);
    tv_id(&v, "tokenizer.ggml.unknown_token_id", 0xffffffff);
    t = make(&v);
    expect_ids(t, "aa", NIB_TOK_PARSE | NIB_TOK_NO_PREFIX, (int32_t[]){3, 3}, 2);
    assert_int_equal(nib_token_piece(t, 1, true).n, 0);
    nib_tokenizer_free(t);
    /* A byte-level vocabulary without most bytes, and merges of what is not there. */
    nib_str merges[3] = {NIB_STR("a b"), NIB_STR("a q"), NIB_STR("q r")};
    model(&v, "gpt2"), texts(&v, 4), tv_strings(&v, "tokenizer.ggml.merges", merges, 3);
    t = make(&v);
    expect_ids(t, "ab cab", 0, (int32_t[]){3, 3}, 2);
    nib_tokenizer_free(t);
    /* A token that is not UTF-8, and one of 300,000 bytes that a text is full of the beginnings of.
     */
    static char huge[300001];
    memset(huge, 'a', sizeof huge - 1);
    const tv_token wild[] = {
        {"\xff\xe2\x96", 0, 1}, {huge, 0, 3}, {"a", -1, 1}, {"\xe2\x96\x81", 0, 1}};
    model(&v, "llama"), tv_tokens(&v, wild, 4, false);
    tv_id(&v, "tokenizer.ggml.unknown_token_id", 3);
    t = make(&v);
    nib_error e;
    nib_ids ids = {0};
    test_ok(nib_tokenize(t, huge, 299999, NIB_TOK_PARSE, &ids, &e), &e);
    assert_int_equal(ids.len, 1 + 299999);
    ids.len = 0;
    test_ok(nib_tokenize(t, huge, 300000, NIB_TOK_PARSE, &ids, &e), &e);
    assert_int_equal(ids.len, 1);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
}

/* Every allocation fails once, of loading and of tokenising. */
static void every_allocation_may_fail(void **state) {
    (void)state;
    void (*const fill[])(tokvocab * v) = {llama, gpt2};
    for (size_t k = 0; k < NIB_ARRAY_LEN(fill); k++) {
        tokvocab v = {0};
        fill[k](&v);
        tv_str(&v, "tokenizer.chat_template", "x");
        tv_str(&v, "general.architecture", "gptneox");
        nib_buf f = tv_file(&v), text = {0};
        for (int i = 0; i < 40; i++)
            nib_buf_printf(&text, "some words %d e\xcc\x81\xcc\xa7\xff ", i);
        int failures = 0;
        for (long n = 1;; n++) {
            nib_error e = {0};
            nib_tokenizer *t = NULL;
            nib_ids ids = {0};
            nib_alloc_fail_after(n);
            nib_status s = tv_load(&t, f.data, f.len, &e);
            if (s == NIB_OK) s = nib_tokenize(t, text.data, text.len, NIB_TOK_PARSE, &ids, &e);
            nib_alloc_fail_after(0);
            nib_tokenizer_free(t);
            nib_ids_free(&ids);
            if (s == NIB_OK) break;
            assert_true(s == NIB_ERR_NOMEM || s == NIB_ERR_LIMIT);
            assert_true(e.message[0]);
            failures++;
            assert_true(n < 2000);
        }
        assert_true(failures > 15);
        nib_buf_free(&f);
        nib_buf_free(&text);
    }
}

/* Every prefix of a file, and every byte of it changed: refused, or a tokenizer that works. */
static void broken_files(void **state) {
    (void)state;
    tokvocab v = {0};
    llama(&v);
    tv_id(&v, "tokenizer.ggml.bos_token_id", 1);
    nib_buf f = tv_file(&v);
    int loaded = 0, refused = 0;
    for (size_t i = 0; i < f.len * 4; i++) {
        nib_error e;
        nib_tokenizer *t;
        size_t at = i % f.len;
        char old = f.data[at];
        static const uint8_t other[] = {0, 0xff, 0x80};
        size_t n = i < f.len ? at : f.len;
        if (i >= f.len) f.data[at] = (char)(old ^ (i / f.len == 1 ? 1 : other[i / f.len - 1]));
        if (tv_load(&t, f.data, n, &e) == NIB_OK) {
            nib_ids ids = {0};
            loaded += nib_tokenize(t, "ab <unk> a", 10, NIB_TOK_PARSE | NIB_TOK_SPECIAL, &ids,
                                   &e) == NIB_OK;
            nib_ids_free(&ids);
            nib_tokenizer_free(t);
        } else {
            refused++;
        }
        f.data[at] = old;
    }
    assert_true(loaded > 10 && refused > 100);
    nib_buf_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_refused),
        cmocka_unit_test(odd_but_harmless),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(broken_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
