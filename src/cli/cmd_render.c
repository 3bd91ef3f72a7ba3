/* nib render: what a chat template makes of given variables. */
#include <jansson.h>
#include <time.h>
#include "chat/chat.h"
#include "cli/cli.h"
#include "cli/tokens.h"

enum { MAX_TEMPLATE = 4 << 20, MAX_VARS = 64 << 20 };
static const char *template_path, *vars_path, *now_text;
const nib_option nib_opts_render[] = {
    NIB_OPT_TEXT("template", 't', "FILE|MODEL", &template_path,
                 "the template: a text file, or a model that has one"),
    NIB_OPT_TEXT("vars", 'v', "FILE", &vars_path,
                 "a JSON object; every key is a variable of the template (- for standard input)"),
    NIB_OPT_TEXT("now", 0, "TIME", &now_text, "the clock of the template, as 2026-01-15T10:30:00"),
    NIB_OPT_END,
};

static nib_status parse_now(const char *text, int64_t *out, nib_error *e) {
    struct tm t = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &t);
    if (!end || *end) {
        t = (struct tm){0};
        end = strptime(text, "%Y-%m-%d", &t);
    }
    if (!end || *end)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "now: expected a time such as 2026-01-15T10:30:00, found '%.60s'", text);
    *out = timegm(&t); /* the template's clock has no zone */
    return NIB_OK;
}

/* The variable's text is that token's, unless the caller gave the variable. */
static void add_token(json_t *vars, const char *name, const nib_tokenizer *t, int32_t id) {
    if (json_object_get(vars, name)) return;
    nib_str text = id >= 0 ? nib_token_text(t, id) : NIB_STR("");
    json_object_set_new(vars, name, nib_json_text(text.p, text.n));
}

static nib_status read_model(nib_buf *text, json_t *vars, nib_error *e) {
    nib_tokenizer *t;
    NIB_TRY(nib_tokenizer_open(&t, template_path, e));
    const nib_tokenizer_info *info = nib_tokenizer_get_info(t);
    nib_status s = NIB_OK;
    if (!info->chat_template) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND, "'%s' has no chat template", template_path);
    } else if (!nib_buf_puts(text, info->chat_template)) {
        s = nib_fail_nomem(e, strlen(info->chat_template), "a template");
    } else {
        add_token(vars, "bos_token", t, info->bos);
        add_token(vars, "eos_token", t, info->eos);
    }
    nib_tokenizer_free(t);
    return s;
}

static bool is_model(const char *path) {
    char magic[4] = "";
    FILE *f = fopen(path, "re");
    if (!f) return true; /* by another name, or not there: finding it says which */
    bool is = fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    fclose(f);
    return is;
}

nib_status nib_cmd_render(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 0, "nothing", e));
    if (!template_path)
        return nib_cli_usage(
            c, e, "render: --template is missing ('nib render --help' shows an example)");
    if (!vars_path)
        return nib_cli_usage(c, e,
                             "render: --vars is missing ('nib render --help' shows an example)");
    nib_render_options o = {.now = NIB_NOW};
    if (now_text && parse_now(now_text, &o.now, e) != NIB_OK) {
        c->usage = true;
        return NIB_ERR_ARGUMENT;
    }
    nib_buf text = {0}, json = {0};
    json_t *vars = NULL;
    nib_template *t = NULL;
    nib_rendered out = {0};
    nib_status s;
    NIB_TRY_OUT(nib_file_read(vars_path, MAX_VARS, &json, e));
    if ((s = nib_json_parse(json.data, json.len, &vars, e)) == NIB_OK && !json_is_object(vars))
        s = nib_fail(e, NIB_ERR_FORMAT, "expected a JSON object whose keys are variables");
    if (s != NIB_OK) {
        nib_fail_in(e, s, "%s", strcmp(vars_path, "-") ? vars_path : "standard input");
        goto out;
    }
    NIB_TRY_OUT(is_model(template_path) ? read_model(&text, vars, e)
                                        : nib_file_read(template_path, MAX_TEMPLATE, &text, e));
    if ((s = nib_template_parse(&t, text.data, text.len, e)) != NIB_OK) {
        nib_fail_in(e, s, "%s", template_path);
        goto out;
    }
    NIB_TRY_OUT(nib_template_render(t, vars, &o, &out, e));
    if (out.text.len) fwrite(out.text.data, 1, out.text.len, stdout);
out:
    nib_rendered_free(&out);
    nib_template_free(t);
    json_decref(vars);
    nib_buf_free(&text);
    nib_buf_free(&json);
    return s;
}
