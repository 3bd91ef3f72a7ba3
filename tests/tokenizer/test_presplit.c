/* The pre-splitters: every row of presplit.def compiles, and one text full of borders is cut as
 * each family's own tokenizer cuts it (the expected pieces are the Hugging Face library's, run with
 * the models' published patterns). */
#include "testlib.h"
#include "tokenizer/internal.h"

static const char text[] = "I'll PAY 12345\xe2\x82\xac for\tcaf\xc3\xa9's na\xc3\xafve   x!!\n\n  "
                           "\n y = \xe4\xb8\xad\xe6\x96\x87"
                           "ab\xc2\xb7"
                           "3\xd9\xa3 don'T_/DeF";

static const struct {
    const char *family, *pieces; /* separated by '|' */
} cases[] = {
    {"gpt-2", "I|'ll| PAY| 12345|\xe2\x82\xac| for|\t|caf\xc3\xa9|'s| na\xc3\xafve|  | x|!!|\n\n  "
              "\n| y| =| \xe4\xb8\xad\xe6\x96\x87"
              "ab|\xc2\xb7|3\xd9\xa3| don|'|T|_/|DeF"},
    {"smollm", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\t|caf\xc3\xa9|'s| na\xc3\xafve|  | "
               "x|!!|\n\n  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3|\xd9\xa3| don|'|T|_/|DeF"},
    {"llama-bpe", "I|'ll| PAY| |123|45|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
                  "x|!!\n\n|  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
                  "ab|\xc2\xb7|3\xd9\xa3| don|'T|_/|DeF"},
    {"qwen2", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
              "x|!!\n\n|  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
              "ab|\xc2\xb7|3|\xd9\xa3| don|'T|_/|DeF"},
    {"qwen35", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
               "x|!!\n\n|  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3|\xd9\xa3| don|'T|_/|DeF"},
    {"seed-coder", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
                   "x|!!|\n\n  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
                   "ab|\xc2\xb7|3|\xd9\xa3| don|'T|_/|DeF"},
    {"bailingmoe", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
                   "x|!!\n\n|  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
                   "ab|\xc2\xb7|3|\xd9\xa3| don|'T|_/|DeF"},
    {"jais-2", "I|'ll| PAY| |123|45|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | x|!!\n\n| "
               " \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3\xd9\xa3| don|'T|_/|DeF"},
    {"gpt-4o", "I'll| PAY| |123|45|\xe2\x82\xac| for|\tcaf\xc3\xa9's| na\xc3\xafve|  | x|!!\n\n|  "
               "\n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3\xd9\xa3| don'T|_/|De|F"},
    {"tekken", "I|'ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | "
               "x|!!\n\n|  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3|\xd9\xa3| don|'T|_/|De|F"},
    {"bloom", "I'll| PAY| 12345\xe2\x82\xac| for|\t|caf\xc3\xa9's| na\xc3\xafve|  | x|!!\n\n  \n| "
              "y| =| \xe4\xb8\xad\xe6\x96\x87"
              "ab\xc2\xb7"
              "3\xd9\xa3| don'T_/DeF"},
    {"viking", "I'll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\t|caf\xc3\xa9's| na\xc3\xafve|  | "
               "x|!!\n\n  \n| y| =| \xe4\xb8\xad\xe6\x96\x87"
               "ab\xc2\xb7|3|\xd9\xa3| don'T_/DeF"},
    {"deepseek-llm",
     "I|'|ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf|\xc3\xa9|'|s| na|\xc3\xaf|ve|  | x|!!|\n|\n| "
     " |\n| y| =| |\xe4\xb8\xad\xe6\x96\x87|ab|\xc2\xb7|3|\xd9\xa3| don|'|T|_/|DeF"},
    {"deepseek-coder",
     "I|'|ll| PAY| |1|2|3|4|5|\xe2\x82\xac| for|\tcaf\xc3\xa9|'|s| na\xc3\xafve|  | x|!!|\n|\n|  "
     "|\n| y| =| |\xe4\xb8\xad\xe6\x96\x87|ab|\xc2\xb7|3|\xd9\xa3| don|'|T|_/|DeF"},
    {"deepseek-v3",
     "I|'ll| PAY| |123|45|\xe2\x82\xac| for|\tcaf\xc3\xa9|'s| na\xc3\xafve|  | x|!!\n\n|  \n| y| "
     "=| |\xe4\xb8\xad\xe6\x96\x87|ab|\xc2\xb7|3\xd9\xa3| don|'T|_/|DeF"},
    {"falcon", "I|'|ll| PAY| |123|45|\xe2\x82\xac| for|\t|caf\xc3\xa9|'|s| na\xc3\xafve|  | "
               "x|!!|\n\n  \n| y| |=| \xe4\xb8\xad\xe6\x96\x87"
               "ab|\xc2\xb7|3|\xd9\xa3| don|'|T|_/|DeF"},
};

typedef struct recorder {
    tok_call call;
    nib_buf pieces;
} recorder;

static nib_status record(tok_call *c, const char *p, size_t n) {
    recorder *r = (recorder *)c; /* the call is its first member */
    if (r->pieces.len) nib_buf_putc(&r->pieces, '|');
    return nib_buf_put(&r->pieces, p, n) ? NIB_OK : NIB_ERR_NOMEM;
}

static void split(const tok_family *f, const char *p, size_t n, nib_buf *out) {
    nib_error e;
    tok_presplit *ps;
    test_ok(nib_tok_presplit_new(&ps, f, &e), &e);
    recorder r = {.call = {.e = &e}};
    test_ok(nib_tok_presplit_run(ps, &r.call, p, n, record), &e);
    *out = r.pieces;
    nib_buf_put(out, "", 0);
    nib_tok_match_free(&r.call);
    nib_tok_presplit_free(ps);
}

static void borders(void **state) {
    (void)state;
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        nib_buf got;
        const tok_family *f = nib_tok_family(nib_str_c(cases[i].family));
        assert_non_null(f);
        split(f, text, sizeof text - 1, &got);
        assert_string_equal(got.data, cases[i].pieces);
        nib_buf_free(&got);
    }
}

static const char *const rows[] = {
#define NIB_TOK_FAMILY(names, flags, ...) names,
#include "tokenizer/presplit.def"
#undef NIB_TOK_FAMILY
};

/* All of a text comes out, whatever it is, and no name stands in two rows. */
static void every_row(void **state) {
    (void)state;
    static const char odd[] =
        "\t \xe1\xa0\x8e \xf3\xa0\x80\x81\xe2\x80\x8d\r\n\0'S'\xc5\xbf's12\xd9\xa3 "
        "\xc2\x85\xe3\x80\x80(;";
    int n_names = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        nib_buf got;
        const tok_family *f = NULL;
        for (const char *p = rows[i]; *p; p += strspn(p, " ")) {
            size_t n = strcspn(p, " ");
            const tok_family *found = nib_tok_family((nib_str){p, n});
            assert_true(found && (!f || found == f));
            f = found;
            p += n;
            n_names++;
        }
        assert_string_equal(f->names, rows[i]);
        split(f, odd, sizeof odd - 1, &got);
        size_t w = 0;
        for (size_t k = 0; k < got.len; k++)
            if (got.data[k] != '|') got.data[w++] = got.data[k];
        assert_int_equal(w, sizeof odd - 1);
        assert_memory_equal(got.data, odd, w);
        nib_buf_free(&got);
    }
    assert_null(nib_tok_family(NIB_STR("")));
    assert_null(nib_tok_family(NIB_STR("gpt")));
    print_message("pre-splitters: %zu families, %d names, %zu checked border by border\n",
                  NIB_ARRAY_LEN(rows), n_names, NIB_ARRAY_LEN(cases));
}

/* U+180E is no white space to the models' tokenizers, though PCRE2's \\s takes it. */
static void mongolian_vowel_separator(void **state) {
    (void)state;
    nib_buf got;
    split(nib_tok_family(NIB_STR("gpt-2")), "a \xe1\xa0\x8e!", 6, &got);
    assert_string_equal(got.data, "a| \xe1\xa0\x8e!");
    nib_buf_free(&got);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(borders),
        cmocka_unit_test(every_row),
        cmocka_unit_test(mongolian_vowel_separator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
