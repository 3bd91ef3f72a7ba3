/* The chat: read a message or a command, answer, until the user leaves.
 *
 * At a terminal: line editing, colours, timings. Otherwise every line of standard input is a
 * message, every reply goes to standard output as plain text, and the first error ends it with its
 * exit status. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "cli/repl.h"
#include "cli/watch.h"

/* ---- one reply ---- */

nib_status nib_repl_say(nib_repl *r, const char *user, nib_error *e) {
    NIB_TRY(nib_settings_ready(&r->settings, e));
    NIB_TRY(nib_repl_settings_changed(r, e));
    nib_interrupt_clear();
    nib_speaker sp;
    nib_reply reply = {0};
    nib_speaker_start(&sp, stdout, r->interactive && !r->settings.hide_thoughts);
    nib_status s = user ? nib_dialog_say(r->dialog, user, nib_speaker_piece, &sp, &reply, e)
                        : nib_dialog_regenerate(r->dialog, nib_speaker_piece, &sp, &reply, e);
    nib_speaker_end(&sp);
    if (s == NIB_OK) {
        r->last = reply;
        r->last.text = r->last.thinking = NULL;
        r->n_replies++;
        r->n_tokens += reply.n_generated;
        r->seconds += reply.generate_seconds;
        if (r->interactive) nib_print_timing(stdout, &reply);
    }
    bool cancelled =
        s == NIB_ERR_CANCELLED || (s == NIB_OK && nib_interrupted() && !r->interactive);
    return nib_watch_fired(NULL) || cancelled ? nib_host_cancelled(r->cli, e) : s;
}

const char *nib_repl_last_prompt(const nib_repl *r) {
    const nib_messages *m = nib_dialog_messages(r->dialog);
    for (size_t i = m->n; i-- > 0;)
        if (strcmp(m->v[i].role, "user") == 0) return m->v[i].content;
    return NULL;
}

/* ---- models and settings ---- */

nib_status nib_repl_open(nib_host *host, const char *path, nib_error *e) {
    nib_host h;
    NIB_TRY(nib_host_open(&h, path, e));
    if (!nib_model_get_info(h.model)->causal) {
        nib_host_close(&h);
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "'%s' is an embedding model: it cannot chat ('nib embed' runs it)", path);
    }
    *host = h;
    return NIB_OK;
}

nib_status nib_repl_settings_changed(nib_repl *r, nib_error *e) {
    *nib_dialog_params_of(r->dialog) = r->settings.p;
    return nib_dialog_params_changed(r->dialog, e);
}

/* ---- reading ---- */

/* One more line from whoever types. */
static nib_line_end read_line(nib_repl *r, nib_line *editor, const char *prompt, nib_buf *out,
                              nib_error *e) {
    nib_interrupt_clear();
    if (editor) return nib_line_read(editor, prompt, out);
    bool end;
    errno = 0;
    if (nib_read_line(stdin, out, &end, e) == NIB_OK) return end ? NIB_LINE_EOF : NIB_LINE_OK;
    if (errno == EINTR && nib_interrupted()) {
        r->cli->exit_code = 130;
        nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
    }
    return NIB_LINE_FAILED;
}

static bool ends_with_quotes(const nib_buf *b) {
    size_t n = b->len;
    while (n && b->data[n - 1] == ' ') n--;
    return n >= 3 && memcmp(b->data + n - 3, "\"\"\"", 3) == 0;
}

/* A message: one line; lines joined by a backslash at their end; or everything between two """. */
static nib_line_end read_message(nib_repl *r, nib_line *editor, nib_buf *m, nib_error *e) {
    nib_buf line = {0};
    nib_line_end end = read_line(r, editor, ">>> ", m, e);
    if (end != NIB_LINE_OK) return end;
    size_t indent = strspn(m->data, " ");
    bool block = strncmp(m->data + indent, "\"\"\"", 3) == 0;
    if (block) {
        m->len -= indent + 3;
        memmove(m->data, m->data + indent + 3, m->len + 1);
    }
    for (;;) {
        bool more = block ? !ends_with_quotes(m) : m->len && m->data[m->len - 1] == '\\';
        if (!more) break;
        if (!block) m->data[--m->len] = 0;
        end = read_line(r, editor, "... ", &line, e);
        if (end != NIB_LINE_OK) break;
        nib_buf_putc(m, '\n');
        nib_buf_put(m, line.data, line.len);
    }
    nib_buf_free(&line);
    if (block && ends_with_quotes(m)) m->len = (size_t)(strrchr(m->data, '"') - m->data) - 2;
    if (block) { /* the quotes may stand on lines of their own */
        while (m->len && strchr(" \n", m->data[m->len - 1])) m->len--;
        m->data[m->len] = 0;
        size_t skip = strspn(m->data, " ");
        skip = m->data[skip] == '\n' ? skip + 1 : 0;
        m->len -= skip;
        memmove(m->data, m->data + skip, m->len + 1);
    }
    if (end == NIB_LINE_EOF) end = NIB_LINE_OK; /* what there is so far is the message */
    if (end == NIB_LINE_OK && m->failed) {
        nib_fail(e, NIB_ERR_LIMIT, "the message is too long");
        return NIB_LINE_FAILED;
    }
    return end;
}

static void greet(const nib_repl *r) {
    const nib_style *st = nib_style_of(stdout);
    const nib_model_info *m = nib_model_get_info(r->host.model);
    printf("%s%s%s %s(%s, %s parameters, context of %lld tokens)%s\n%s", st->bold, m->name,
           st->reset, st->dim, m->quant, nib_count_text(m->n_params),
           (long long)nib_engine_n_ctx(r->host.engine), st->reset, st->dim);
    nib_print_wrapped(
        stdout, "Type a message. /help shows the commands, Ctrl-C stops a reply, Ctrl-D leaves.", 0,
        0, nib_columns(stdout));
    fputs(st->reset, stdout);
}

/* ---- the loop ---- */

static nib_status loop(nib_repl *r, nib_line *editor, nib_error *e) {
    const nib_style *st = nib_style_of(stderr);
    nib_buf message = {0};
    nib_status s = NIB_OK;
    while (!r->quit && !nib_ending()) {
        *e = (nib_error){0};
        nib_line_end end = read_message(r, editor, &message, e);
        if (nib_ending()) break;
        if (end == NIB_LINE_INTERRUPTED) {
            fputs("^C\n", stdout);
            continue;
        }
        if (end == NIB_LINE_EOF) {
            if (r->interactive) printf("\n");
            break;
        }
        if (end == NIB_LINE_FAILED) {
            s = e->code != NIB_OK ? e->code : nib_fail(e, NIB_ERR_IO, "cannot read the input");
            break;
        }
        if (strspn(message.data, " \t\n") == message.len) continue;
        if (editor) nib_line_remember(editor, message.data);
        const char *text = message.data;
        if (editor) nib_line_quiet(editor, true);
        if (nib_repl_is_command(text))
            s = nib_repl_command_run(r, text, e);
        else
            s = nib_repl_say(r, strncmp(text, "//", 2) == 0 ? text + 1 : text, e);
        if (editor) nib_line_quiet(editor, false);
        if (s == NIB_OK) continue;
        if (!r->interactive || nib_watch_fired(NULL) || nib_ending()) break;
        r->cli->exit_code = 0; /* an interrupted reply does not end the chat */
        fflush(stdout);
        fprintf(stderr, "%s%s%s\n", st->red, e->message, st->reset);
        s = NIB_OK;
    }
    nib_buf_free(&message);
    return nib_ending() ? nib_host_cancelled(r->cli, e) : s;
}

nib_status nib_repl_run(nib_cli *c, const char *path, nib_error *e) {
    nib_repl r = {.cli = c, .interactive = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    nib_line *editor = NULL;
    nib_status s;
    nib_interrupt_catch();
    NIB_TRY_OUT(nib_repl_open(&r.host, path, e));
    r.settings.p = nib_dialog_defaults(r.host.model);
    NIB_TRY_OUT(nib_settings_given(&r.settings, e));
    NIB_TRY_OUT(nib_dialog_new(&r.dialog, r.host.engine, &r.settings.p, e));
    if (r.interactive) {
        char history[4096];
        bool keep = nib_line_history_path(history, sizeof history);
        NIB_TRY_OUT(nib_line_open(&editor, keep ? history : NULL, nib_repl_complete, &r, e));
        greet(&r);
    }
    s = loop(&r, editor, e);
out:
    if (s == NIB_ERR_CANCELLED && !c->exit_code) s = nib_host_cancelled(c, e);
    nib_watch_stop();
    nib_line_close(editor);
    nib_dialog_free(r.dialog);
    nib_host_close(&r.host);
    nib_kvdisk_close(r.kv);
    nib_settings_free(&r.settings);
    return s;
}
