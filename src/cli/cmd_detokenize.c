/* nib detokenize: token ids to text. */
#include <jansson.h>
#include "cli/cli.h"
#include "cli/tokens.h"

static bool as_jsonl, special;
static const char *file;
const nib_option nib_opts_detokenize[] = {
    NIB_OPT_TEXT("file", 'f', "FILE", &file, "read the ids from FILE (- for standard input)"),
    NIB_OPT_SWITCH("special", 0, &special, "print control tokens as they are spelled"),
    NIB_OPT_SWITCH("jsonl", 0, &as_jsonl,
                   "read one object {\"ids\"} a line, print {\"ids\", \"detok\"} for each"),
    NIB_OPT_END,
};

static nib_status one_line(const nib_tokenizer *t, const json_t *v, nib_error *e) {
    const json_t *list = json_object_get(v, "ids");
    if (!json_is_array(list))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected an object with \"ids\", an array of numbers");
    nib_ids ids = {0};
    nib_status s = NIB_OK;
    for (size_t i = 0; i < json_array_size(list) && s == NIB_OK; i++) {
        const json_t *x = json_array_get(list, i);
        json_int_t id = json_integer_value(x);
        if (!json_is_integer(x) || id < 0 || id > INT32_MAX)
            s = nib_fail(e, NIB_ERR_ARGUMENT,
                         "\"ids\": expected token ids, found something else at place %zu", i);
        else if (!nib_ids_push(&ids, (int32_t)id))
            s = nib_fail_nomem(e, ids.len * 4, "token ids");
    }
    if (s == NIB_OK) s = nib_check_ids(ids.data, ids.len, nib_tokenizer_get_info(t)->n_vocab, e);
    if (s == NIB_OK) s = nib_print_ids_detok(t, ids.data, ids.len, e);
    nib_ids_free(&ids);
    return s;
}

nib_status nib_cmd_detokenize(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, as_jsonl ? 1 : 1 << 20, "MODEL", e));
    nib_tokenizer *t = NULL;
    nib_buf text = {0}, out = {0};
    nib_ids ids = {0};
    nib_status s;
    NIB_TRY_OUT(nib_tokenizer_open(&t, c->argv[0], e));
    if (as_jsonl) {
        NIB_TRY_OUT(nib_each_json_line(t, one_line, e));
        goto out;
    }
    NIB_TRY_OUT(nib_read_text(c, 1, file, "a token id", &text, e));
    NIB_TRY_OUT(nib_parse_ids(text.data ? text.data : "", text.len, &ids, e));
    NIB_TRY_OUT(nib_check_ids(ids.data, ids.len, nib_tokenizer_get_info(t)->n_vocab, e));
    NIB_TRY_OUT(nib_detokenize(t, ids.data, ids.len, special, &out, e));
    if (out.len) fwrite(out.data, 1, out.len, stdout);
    putchar('\n');
out:
    nib_tokenizer_free(t);
    nib_buf_free(&text);
    nib_buf_free(&out);
    nib_ids_free(&ids);
    return s;
}
