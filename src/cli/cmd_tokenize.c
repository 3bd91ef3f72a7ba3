/* nib tokenize: text to token ids, for people and, with --jsonl, for programs. */
#include <jansson.h>
#include "cli/cli.h"
#include "cli/tokens.h"

static bool as_json, as_jsonl, no_special, parse_special;
static const char *file;
const nib_option nib_opts_tokenize[] = {
    NIB_OPT_TEXT("file", 'f', "FILE", &file, "read the text from FILE (- for standard input)"),
    NIB_OPT_SWITCH("no-special", 0, &no_special,
                   "do not add the BOS and EOS tokens that the model wants"),
    NIB_OPT_SWITCH("parse-special", 0, &parse_special,
                   "take control tokens spelled in the text, such as <|im_end|>, for those tokens"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print {\"ids\", \"pieces\"}"),
    NIB_OPT_SWITCH(
        "jsonl", 0, &as_jsonl,
        "read one object {\"text\" or \"hex\", \"add_special\", \"parse_special\"} a line, print "
        "{\"ids\", \"detok\"} for each"),
    NIB_OPT_END,
};

static nib_status from_hex(const json_t *v, nib_buf *out, nib_error *e) {
    size_t n = json_string_length(v);
    const char *p = json_string_value(v);
    for (size_t i = 0; i < n; i += 2) {
        unsigned byte;
        char digits[3] = {p[i], i + 1 < n ? p[i + 1] : 0, 0};
        if (strspn(digits, "0123456789abcdefABCDEF") != 2 || sscanf(digits, "%2x", &byte) != 1)
            return nib_fail(e, NIB_ERR_ARGUMENT,
                            "\"hex\": expected pairs of hexadecimal digits, found '%.2s' at %zu",
                            digits, i);
        if (!nib_buf_putc(out, (char)byte)) return nib_fail_nomem(e, n, "text");
    }
    return NIB_OK;
}

static nib_status flag(const json_t *v, const char *key, bool fallback, unsigned bit,
                       unsigned *flags, nib_error *e) {
    const json_t *b = json_object_get(v, key);
    if (b && !json_is_boolean(b))
        return nib_fail(e, NIB_ERR_ARGUMENT, "\"%s\": expected true or false", key);
    if (b ? json_is_true(b) : fallback) *flags |= bit;
    return NIB_OK;
}

static nib_status one_line(const nib_tokenizer *t, const json_t *v, nib_error *e) {
    const json_t *text = json_object_get(v, "text"), *hex = json_object_get(v, "hex");
    if (json_is_string(text) == json_is_string(hex))
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "expected an object with one of the strings \"text\" and \"hex\"");
    nib_buf bytes = {0};
    nib_ids ids = {0};
    unsigned flags = 0;
    nib_status s;
    NIB_TRY_OUT(flag(v, "add_special", !no_special, NIB_TOK_SPECIAL, &flags, e));
    NIB_TRY_OUT(flag(v, "parse_special", parse_special, NIB_TOK_PARSE, &flags, e));
    if (hex)
        NIB_TRY_OUT(from_hex(hex, &bytes, e));
    else if (!nib_buf_put(&bytes, json_string_value(text), json_string_length(text)))
        NIB_TRY_OUT(nib_fail_nomem(e, json_string_length(text), "text"));
    NIB_TRY_OUT(nib_tokenize(t, bytes.data ? bytes.data : "", bytes.len, flags, &ids, e));
    s = nib_print_ids_detok(t, ids.data, ids.len, e);
out:
    nib_buf_free(&bytes);
    nib_ids_free(&ids);
    return s;
}

static nib_status print_json(const nib_tokenizer *t, const nib_ids *ids, nib_error *e) {
    json_t *list = json_array(), *pieces = json_array();
    for (size_t i = 0; i < ids->len; i++) {
        nib_str p = nib_token_text(t, ids->data[i]);
        json_array_append_new(list, json_integer(ids->data[i]));
        json_array_append_new(pieces, nib_json_text(p.p, p.n));
    }
    return nib_print_json(json_pack("{s:o, s:o}", "ids", list, "pieces", pieces), e);
}

nib_status nib_cmd_tokenize(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, as_jsonl ? 1 : 1 << 20, "MODEL", e));
    nib_tokenizer *t = NULL;
    nib_buf text = {0};
    nib_ids ids = {0};
    nib_status s;
    NIB_TRY_OUT(nib_tokenizer_open(&t, c->argv[0], e));
    if (as_jsonl) {
        NIB_TRY_OUT(nib_each_json_line(t, one_line, e));
        goto out;
    }
    NIB_TRY_OUT(nib_read_text(c, 1, file, "the text", &text, e));
    unsigned flags = (no_special ? 0 : NIB_TOK_SPECIAL) | (parse_special ? NIB_TOK_PARSE : 0);
    NIB_TRY_OUT(nib_tokenize(t, text.data ? text.data : "", text.len, flags, &ids, e));
    if (as_json) {
        s = print_json(t, &ids, e);
    } else {
        for (size_t i = 0; i < ids.len; i++) printf("%s%d", i ? " " : "", (int)ids.data[i]);
        printf("\n");
    }
out:
    nib_tokenizer_free(t);
    nib_buf_free(&text);
    nib_ids_free(&ids);
    return s;
}
