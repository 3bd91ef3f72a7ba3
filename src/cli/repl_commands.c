/* The commands of a chat: rows of repl_commands.def, one function each. */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "cli/repl.h"

static nib_status need_arg(const char *arg, const char *command, const char *what, nib_error *e) {
    if (*arg) return NIB_OK;
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s wants %s", command, what);
}

/* What happened, for a person; a program that pipes lines in gets replies only. */
static void NIB_PRINTF(2, 3) note(const nib_repl *r, const char *fmt, ...) {
    if (!r->interactive) return;
    const nib_style *st = nib_style_of(stdout);
    va_list ap;
    va_start(ap, fmt);
    fputs(st->dim, stdout);
    vprintf(fmt, ap);
    printf("%s\n", st->reset);
    va_end(ap);
}

static nib_status do_help(nib_repl *r, const char *arg, nib_error *e) {
    (void)r, (void)arg, (void)e;
    const nib_style *st = nib_style_of(stdout);
    int columns = nib_columns(stdout), width = columns ? columns : 100;
    enum { COLUMN = 32 };
    for (size_t i = 0; i < nib_n_repl_commands; i++) {
        const nib_repl_command *c = &nib_repl_commands[i];
        int n = printf("%s/%s%s %s", st->cyan, c->name, st->reset, c->args);
        n -= (int)(strlen(st->cyan) + strlen(st->reset));
        printf("%*s", NIB_MAX(1, COLUMN - n), "");
        nib_print_wrapped(stdout, c->help, COLUMN, COLUMN, width);
    }
    printf("%sAlso: -export, -benchmark, -retention_N.%s\n\n", st->dim, st->reset);
    static const char *const keys[][2] = {
        {"Ctrl-C", "stop a reply and keep it; at the prompt, drop the line"},
        {"Ctrl-D", "leave"},
        {"Ctrl-R", "search the history"},
        {"Ctrl-G", "write the message in $EDITOR"},
        {"Alt-Enter", "a new line inside the message; so does \\ at the end of a line"},
        {"\"\"\"", "begins and ends a text of several lines"},
        {"//text", "a message that begins with /"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(keys); i++)
        printf("%s%-*s%s", st->cyan, COLUMN, keys[i][0], st->reset),
            nib_print_wrapped(stdout, keys[i][1], COLUMN, COLUMN, width);
    return NIB_OK;
}

static nib_status do_clear(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg, (void)e;
    nib_dialog_clear(r->dialog);
    r->last = (nib_reply){0};
    note(r, "The conversation is forgotten.");
    return NIB_OK;
}

static nib_status do_undo(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg;
    const char *prompt = nib_repl_last_prompt(r);
    char text[64];
    snprintf(text, sizeof text, "%.60s", prompt ? prompt : "");
    size_t n = nib_utf8_complete(text, strcspn(text, "\n"));
    if (!nib_dialog_undo(r->dialog))
        return nib_fail(e, NIB_ERR_ARGUMENT, "there is nothing to undo");
    r->last = (nib_reply){0};
    note(r, "Taken back: %.*s%s", (int)n, text, prompt && n >= 56 ? " ..." : "");
    return NIB_OK;
}

static nib_status do_regen(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg;
    if (!nib_repl_last_prompt(r))
        return nib_fail(e, NIB_ERR_ARGUMENT, "there is no reply to make again");
    return nib_repl_say(r, NULL, e);
}

static nib_status do_save(nib_repl *r, const char *arg, nib_error *e) {
    NIB_TRY(need_arg(arg, "/save", "a name, or a file such as talk.json", e));
    if (nib_repl_is_name(arg)) {
        NIB_TRY(nib_repl_keep(r, arg, e));
        note(r, "Kept as \"%s\": /load %s goes on with it, and 'nib serve' shows it.", arg, arg);
        return NIB_OK;
    }
    NIB_TRY(nib_dialog_save(r->dialog, arg, e));
    note(r, "Saved in %s.", arg);
    return NIB_OK;
}

static nib_status do_load(nib_repl *r, const char *arg, nib_error *e) {
    NIB_TRY(need_arg(arg, "/load", "a name or a file, as given to /save", e));
    nib_status s = NIB_ERR_NOT_FOUND;
    if (nib_repl_is_name(arg)) s = nib_repl_resume(r, arg, e);
    if (s == NIB_ERR_NOT_FOUND && !(nib_repl_is_name(arg) && access(arg, F_OK)))
        s = nib_dialog_load(r->dialog, arg, e);
    NIB_TRY(s);
    NIB_TRY(nib_settings_take(&r->settings, nib_dialog_params_of(r->dialog), e));
    r->last = (nib_reply){0};
    note(r, "%zu messages from %s.", nib_dialog_messages(r->dialog)->n, arg);
    return NIB_OK;
}

static nib_status do_list(nib_repl *r, const char *arg, nib_error *e) {
    (void)r;
    return nib_repl_list(arg, e);
}

static nib_status do_export(nib_repl *r, const char *arg, nib_error *e) {
    char name[64];
    if (!*arg) {
        time_t now = time(NULL);
        struct tm t;
        strftime(name, sizeof name, "chat-%Y%m%d-%H%M%S.md", localtime_r(&now, &t));
        arg = name;
    }
    NIB_TRY(nib_repl_export(r, arg, e));
    note(r, "Written to %s.", arg);
    return NIB_OK;
}

static nib_status change(nib_repl *r, const char *name, const char *value, nib_error *e) {
    NIB_TRY(nib_settings_set(&r->settings, name, value, e));
    return nib_repl_settings_changed(r, e);
}

static nib_status do_set(nib_repl *r, const char *arg, nib_error *e) {
    const nib_style *st = nib_style_of(stdout);
    for (size_t i = 0; !*arg && nib_settings_name(i); i++) {
        nib_buf value = {0};
        NIB_TRY(nib_settings_get(&r->settings, nib_settings_name(i), &value, e));
        printf("%s%-18s%s %s\n", st->cyan, nib_settings_name(i), st->reset, value.data);
        nib_buf_free(&value);
    }
    if (!*arg) return NIB_OK;
    char name[64];
    size_t n = strcspn(arg, " =\t");
    snprintf(name, sizeof name, "%.*s", (int)n, arg);
    const char *value = arg + n + strspn(arg + n, " =\t");
    if (!*value)
        return nib_fail(e, NIB_ERR_ARGUMENT, "/set %s wants a value ('/set' lists all settings)",
                        name);
    NIB_TRY(change(r, name, value, e));
    note(r, "%s is %s.", name, value);
    return NIB_OK;
}

static nib_status do_system(nib_repl *r, const char *arg, nib_error *e) {
    if (*arg) {
        NIB_TRY(change(r, "system", strcmp(arg, "none") == 0 ? "" : arg, e));
        note(r, *arg && strcmp(arg, "none") ? "The system message is set."
                                            : "There is no system message now.");
        return NIB_OK;
    }
    printf("%s\n", r->settings.p.system ? r->settings.p.system : "There is no system message.");
    return NIB_OK;
}

static nib_status do_think(nib_repl *r, const char *arg, nib_error *e) {
    NIB_TRY(need_arg(arg, "/think", "one of on, off, hide and auto", e));
    NIB_TRY(change(r, "think", arg, e));
    note(r, "think is %s.", arg);
    return NIB_OK;
}

static nib_status do_retention(nib_repl *r, const char *arg, nib_error *e) {
    if (*arg) NIB_TRY(change(r, "retention", arg, e));
    int n = r->settings.p.retention;
    if (n < 0)
        note(r, "The model is shown all exchanges.");
    else
        note(r, "The model is shown the last %d exchange%s.", n, n == 1 ? "" : "s");
    return NIB_OK;
}

static nib_status do_stats(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg, (void)e;
    const nib_style *st = nib_style_of(stdout);
    const nib_model_info *m = nib_model_get_info(r->host.model);
    int64_t used = nib_dialog_context_used(r->dialog), n_ctx = nib_engine_n_ctx(r->host.engine);
    nib_sysinfo sys;
    nib_sysinfo_read(&sys);
#define ROW(name, ...)                                                                             \
    printf("%s%-10s%s ", st->cyan, name, st->reset), printf(__VA_ARGS__), putchar('\n')
    ROW("model", "%s, %s, %s, %s parameters", m->name, m->arch, m->quant,
        nib_count_text(m->n_params));
    ROW("context", "%lld of %lld tokens (%.0f %%)", (long long)used, (long long)n_ctx,
        n_ctx ? 100.0 * (double)used / (double)n_ctx : 0.0);
    ROW("messages", "%zu", nib_dialog_messages(r->dialog)->n);
    ROW("replies", "%lld, %lld tokens, %.1f tok/s", (long long)r->n_replies, (long long)r->n_tokens,
        r->seconds > 0 ? (double)r->n_tokens / r->seconds : 0.0);
    if (r->last.finish) {
        ROW("prompt", "%lld tokens, %lld of them known from before, in %.2f s",
            (long long)r->last.n_prompt, (long long)r->last.n_cached, r->last.prompt_seconds);
        ROW("reply", "%lld tokens in %.2f s, the first after %.2f s, seed %llu",
            (long long)r->last.n_generated, r->last.generate_seconds, r->last.first_token_seconds,
            (unsigned long long)r->last.seed);
    }
    ROW("threads", "%d", nib_engine_threads(r->host.engine));
    ROW("memory", "%s used by nib, %s of %s available", nib_bytes_text(nib_rss()),
        nib_bytes_text(sys.mem_available),
        nib_bytes_text(sys.cgroup_limit ? sys.cgroup_limit : sys.mem_total));
#undef ROW
    return NIB_OK;
}

static nib_status do_compare(nib_repl *r, const char *arg, nib_error *e) {
    NIB_TRY(need_arg(arg, "/compare", "a model file", e));
    return nib_repl_compare(r, arg, e);
}

/* The new model is opened beside the old one; where memory is short for both, the old one goes
 * first. */
static nib_status do_model(nib_repl *r, const char *arg, nib_error *e) {
    if (!*arg) {
        printf("%s\n", nib_model_get_info(r->host.model)->path);
        return NIB_OK;
    }
    nib_host fresh = {0};
    nib_dialog *dialog = NULL;
    nib_messages kept = {0};
    const nib_messages *m = nib_dialog_messages(r->dialog);
    char *old_path = nib_strdup(nib_model_get_info(r->host.model)->path);
    nib_status s = old_path ? NIB_OK : nib_fail_nomem(e, 1, "a path");
    for (size_t i = 0; i < m->n && s == NIB_OK; i++)
        s = nib_messages_add(&kept, m->v[i].role, m->v[i].content, m->v[i].thinking, e);
    if (s != NIB_OK) goto out;
    s = nib_repl_open(&fresh, arg, e);
    if (s == NIB_ERR_MEMORY_FIT) {
        nib_dialog_free(r->dialog);
        r->dialog = NULL;
        nib_host_close(&r->host);
        s = nib_repl_open(&fresh, arg, e);
        if (s != NIB_OK) {
            nib_error again;
            if (nib_repl_open(&fresh, old_path, &again) != NIB_OK) {
                r->quit = true;
                nib_fail(e, s, "neither '%s' nor the model before could be opened: %s", arg,
                         again.message);
                goto out;
            }
        }
    }
    if (!fresh.model) goto out;
    nib_error inner;
    nib_status made = nib_dialog_new(&dialog, fresh.engine, &r->settings.p, &inner);
    if (made == NIB_OK) made = nib_dialog_set_messages(dialog, &kept, &inner);
    if (made != NIB_OK) {
        nib_dialog_free(dialog);
        nib_host_close(&fresh);
        r->quit = !r->dialog;
        if (e) *e = inner;
        s = made;
        goto out;
    }
    nib_dialog_free(r->dialog);
    nib_host_close(&r->host);
    r->host = fresh;
    r->dialog = dialog;
    r->last = (nib_reply){0};
    if (s == NIB_OK) note(r, "Going on with %s.", nib_model_get_info(r->host.model)->name);
out:
    nib_messages_free(&kept);
    nib_free(old_path);
    return s;
}

static nib_status do_benchmark(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg;
    return nib_repl_benchmark(r, e);
}

static nib_status do_quit(nib_repl *r, const char *arg, nib_error *e) {
    (void)arg, (void)e;
    r->quit = true;
    return NIB_OK;
}

const nib_repl_command nib_repl_commands[] = {
#define NIB_REPL_COMMAND(name, args, help) {#name, args, help, do_##name},
#define NIB_REPL_ALIAS(other, name)
#include "cli/repl_commands.def"
#undef NIB_REPL_COMMAND
#undef NIB_REPL_ALIAS
};
const size_t nib_n_repl_commands = NIB_ARRAY_LEN(nib_repl_commands);

static const struct {
    const char *other, *name;
} aliases[] = {
#define NIB_REPL_COMMAND(name, args, help)
#define NIB_REPL_ALIAS(other, name) {#other, #name},
#include "cli/repl_commands.def"
#undef NIB_REPL_COMMAND
#undef NIB_REPL_ALIAS
};

/* "-export", "-benchmark" and "-retention_4" as the first word, and nothing else that begins with a
 * dash. */
static bool is_classic(const char *line) {
    static const char *const words[] = {"-export", "-benchmark", "-retention_"};
    size_t n = strcspn(line, " ");
    for (size_t i = 0; i < 2; i++)
        if (n == strlen(words[i]) && strncmp(line, words[i], n) == 0) return true;
    size_t head = strlen(words[2]);
    return n > head && strncmp(line, words[2], head) == 0 && !line[n] &&
           (strspn(line + head, "0123456789") == n - head || strcmp(line + head, "all") == 0);
}

bool nib_repl_is_command(const char *line) {
    return (line[0] == '/' && line[1] != '/') || is_classic(line);
}

nib_status nib_repl_command_run(nib_repl *r, const char *line, nib_error *e) {
    char name[64];
    const char *p = line + 1;
    size_t n = strcspn(p, line[0] == '-' ? " _" : " \t\n");
    snprintf(name, sizeof name, "%.*s", (int)NIB_MIN(n, sizeof name - 1), p);
    p += n;
    p += strspn(p, line[0] == '-' ? " _" : " \t\n");
    char *arg = nib_strdup(p);
    if (!arg) return nib_fail_nomem(e, strlen(p), "a command");
    for (size_t len = strlen(arg); len && strchr(" \t\n", arg[len - 1]); len--) arg[len - 1] = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(aliases); i++)
        if (strcmp(name, aliases[i].other) == 0) snprintf(name, sizeof name, "%s", aliases[i].name);
    nib_status s = NIB_ERR_ARGUMENT;
    const nib_repl_command *found = NULL;
    for (size_t i = 0; i < nib_n_repl_commands; i++)
        if (strcmp(name, nib_repl_commands[i].name) == 0) found = &nib_repl_commands[i];
    if (found) {
        s = found->run(r, arg, e);
    } else {
        const char *names[NIB_ARRAY_LEN(nib_repl_commands)];
        for (size_t i = 0; i < nib_n_repl_commands; i++) names[i] = nib_repl_commands[i].name;
        const char *near = nib_str_nearest(name, names, nib_n_repl_commands);
        if (near)
            nib_fail(
                e, s,
                "unknown command /%s: did you mean /%s? (/help lists all; //%s sends it as text)",
                name, near, name);
        else
            nib_fail(e, s, "unknown command /%s (/help lists all; //%s sends it as text)", name,
                     name);
    }
    nib_free(arg);
    return s;
}

/* ---- completion ---- */

static void add_candidate(nib_buf *list, const char *head, const char *name, const char *tail) {
    nib_buf_printf(list, "%s%s%s\n", head, name, tail);
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void complete_path(const char *word, nib_buf *list) {
    char folder[4096];
    const char *slash = strrchr(word, '/');
    size_t n = slash ? (size_t)(slash - word) + 1 : 0;
    if (n >= sizeof folder - 256) return;
    snprintf(folder, sizeof folder, "%.*s", (int)n, word);
    const char *begin = word + n;
    struct dirent **entries;
    int count = scandir(n ? folder : ".", &entries, NULL, by_name);
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        bool hidden = name[0] == '.' && begin[0] != '.';
        if (!hidden && strcmp(name, ".") && strcmp(name, "..") &&
            strncmp(name, begin, strlen(begin)) == 0 && !strchr(name, '\n')) {
            char path[sizeof folder + 256];
            struct stat st;
            snprintf(path, sizeof path, "%s%s", folder, name);
            add_candidate(list, folder, name,
                          stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? "/" : "");
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
}

static void complete_words(const char *words, const char *word, nib_buf *list) {
    for (const char *p = words; *p; p += *p == '|') {
        char choice[32];
        size_t n = strcspn(p, "|");
        snprintf(choice, sizeof choice, "%.*s", (int)n, p);
        if (strncmp(choice, word, strlen(word)) == 0) add_candidate(list, "", choice, "");
        p += n;
    }
}

void nib_repl_complete(void *arg, const char *line, size_t cursor, size_t *start, nib_buf *list) {
    (void)arg;
    char text[4096];
    if (cursor == 0 || line[0] != '/' || cursor >= sizeof text) return;
    memcpy(text, line, cursor);
    text[cursor] = 0;
    char *space = strchr(text, ' ');
    if (!space) {
        *start = 0;
        for (size_t i = 0; i < nib_n_repl_commands; i++)
            if (strncmp(nib_repl_commands[i].name, text + 1, cursor - 1) == 0)
                add_candidate(list, "/", nib_repl_commands[i].name, "");
        return;
    }
    *space = 0;
    const char *name = text + 1, *word = space + 1;
    word += strspn(word, " ");
    *start = (size_t)(word - text);
    for (size_t i = 0; i < nib_n_repl_commands; i++) {
        const nib_repl_command *c = &nib_repl_commands[i];
        if (strcmp(c->name, name) != 0) continue;
        if (strstr(c->args, "FILE") || strstr(c->args, "MODEL"))
            complete_path(word, list);
        else if (strcmp(name, "think") == 0)
            complete_words(c->args, word, list);
        else if (strcmp(name, "set") == 0 && !strchr(word, ' '))
            for (size_t k = 0; nib_settings_name(k); k++)
                if (strncmp(nib_settings_name(k), word, strlen(word)) == 0)
                    add_candidate(list, "", nib_settings_name(k), "");
        return;
    }
}
