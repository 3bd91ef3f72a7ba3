/* nib run: one prompt, one reply, on standard output. */
#include <jansson.h>
#include <unistd.h>
#include "cli/repl.h"
#include "cli/watch.h"

static const char *prompt_text, *prompt_file;
static bool raw, parse_special, echo, as_json, show_stats;
const nib_option nib_opts_run[] = {
    NIB_OPT_TEXT("prompt", 'p', "TEXT", &prompt_text,
                 "the prompt; with --file, what stands before the file's text"),
    NIB_OPT_TEXT("file", 'f', "FILE", &prompt_file,
                 "read the prompt from FILE (- for standard input)"),
    NIB_OPT_SWITCH("raw", 'r', &raw, "no chat template: continue the text as it is"),
    NIB_OPT_SWITCH("parse-special", 0, &parse_special,
                   "with --raw, take control tokens spelled in the prompt for those tokens"),
    NIB_OPT_SWITCH("echo", 0, &echo, "with --raw, print the prompt before what follows it"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print the reply and its numbers as JSON when it is done"),
    NIB_OPT_SWITCH("stats", 0, &show_stats,
                   "print tokens, seconds and tok/s on standard error afterwards"),
    NIB_OPT_GROUP("Replies", nib_text_options),
    NIB_OPT_GROUP("Sampling", nib_sampling_options),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

/* --prompt, --file, both in this order, or standard input. */
static nib_status read_prompt(nib_cli *c, nib_buf *out, nib_error *e) {
    if (prompt_text && !nib_buf_puts(out, prompt_text))
        return nib_fail_nomem(e, strlen(prompt_text), "the prompt");
    if (prompt_text && !prompt_file) return NIB_OK;
    if (prompt_text) nib_buf_putc(out, '\n');
    if (!prompt_file && isatty(STDIN_FILENO))
        return nib_cli_usage(c, e,
                             "run: a prompt is missing: -p TEXT, -f FILE or standard input ('nib "
                             "run --help' shows an example)");
    NIB_TRY(nib_file_read(prompt_file ? prompt_file : "-", 256 << 20, out, e));
    if (!raw) /* a file's last newline is no part of a message */
        while (out->len && out->data[out->len - 1] == '\n') out->data[--out->len] = 0;
    return NIB_OK;
}

static nib_status print_json(const nib_model *m, const nib_reply *r, nib_error *e) {
    double speed = r->generate_seconds > 0 ? (double)r->n_generated / r->generate_seconds : 0;
    const nib_model_info *info = nib_model_get_info(m);
    return nib_print_json(
        json_pack("{s:o, s:o, s:o, s:s, s:{s:I, s:I, s:I}, s:{s:f, s:f, s:f}, s:f, s:I}", "model",
                  nib_json_text(info->name, strlen(info->name)), "text",
                  nib_json_text(r->text, strlen(r->text)), "thinking",
                  r->thinking ? nib_json_text(r->thinking, strlen(r->thinking)) : json_null(),
                  "finish", r->finish, "tokens", "prompt", (json_int_t)r->n_prompt, "cached",
                  (json_int_t)r->n_cached, "generated", (json_int_t)r->n_generated, "seconds",
                  "prompt", r->prompt_seconds, "first_token", r->first_token_seconds, "generation",
                  r->generate_seconds, "tokens_per_second", speed, "seed", (json_int_t)r->seed),
        e);
}

nib_status nib_cmd_run(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "MODEL", e));
    if ((echo || parse_special) && !raw)
        return nib_cli_usage(c, e, "run: --%s goes with --raw", echo ? "echo" : "parse-special");
    nib_repl r = {.cli = c};
    nib_buf prompt = {0};
    nib_reply reply = {0};
    nib_status s;
    nib_interrupt_catch();
    NIB_TRY_OUT(read_prompt(c, &prompt, e));
    const char *text = prompt.data ? prompt.data : "";
    NIB_TRY_OUT(nib_repl_open(&r.host, c->argv[0], e));
    r.settings.p = nib_dialog_defaults(r.host.model);
    r.settings.p.raw = raw;
    r.settings.p.parse_special = parse_special;
    NIB_TRY_OUT(nib_settings_given(&r.settings, e));
    NIB_TRY_OUT(nib_settings_ready(&r.settings, e));
    NIB_TRY_OUT(nib_dialog_new(&r.dialog, r.host.engine, &r.settings.p, e));
    bool terminal = isatty(STDOUT_FILENO);
    nib_speaker sp;
    nib_speaker_start(&sp, as_json ? NULL : stdout, terminal && !r.settings.hide_thoughts);
    if (echo && !as_json) nib_speaker_put(&sp, text, prompt.len);
    s = raw ? nib_dialog_complete(r.dialog, text, prompt.len, nib_speaker_piece, &sp, &reply, e)
            : nib_dialog_say(r.dialog, text, nib_speaker_piece, &sp, &reply, e);
    nib_speaker_end(&sp);
    if (s == NIB_OK && as_json) s = print_json(r.host.model, &reply, e);
    if (s == NIB_OK && show_stats) nib_print_timing(stderr, &reply);
    if (nib_watch_fired(NULL) || s == NIB_ERR_CANCELLED || (s == NIB_OK && nib_interrupted()))
        s = nib_host_cancelled(c, e);
out:
    if (s == NIB_ERR_CANCELLED && !c->exit_code) s = nib_host_cancelled(c, e);
    nib_watch_stop();
    nib_dialog_free(r.dialog);
    nib_host_close(&r.host);
    nib_settings_free(&r.settings);
    nib_buf_free(&prompt);
    return s;
}
