/* nib: one command whose subcommands are the rows of commands.def.
 *
 * Exit status: 0 done, 1 failed (one line "nib: ..." on standard error), 2 wrong usage, 130
 * interrupted. A reader that goes away (nib ... | head) ends nib quietly; a standard output that
 * cannot be written is an error. */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include "cli/cli.h"

const nib_command nib_commands[] = {
#define NIB_CMD_AS(name, typed, operands, summary, details, example)                               \
    {typed, operands, summary, details, example, nib_opts_##name, nib_cmd_##name},
#define NIB_CMD(name, ...) NIB_CMD_AS(name, #name, __VA_ARGS__)
#include "cli/commands.def"
#undef NIB_CMD
};
const size_t nib_n_commands = NIB_ARRAY_LEN(nib_commands);

const nib_command *nib_command_find(const char *name) {
    for (size_t i = 0; i < nib_n_commands; i++)
        if (strcmp(nib_commands[i].name, name) == 0) return &nib_commands[i];
    return NULL;
}

const char *nib_command_nearest(const char *name) {
    const char *names[NIB_ARRAY_LEN(nib_commands)];
    for (size_t i = 0; i < nib_n_commands; i++) names[i] = nib_commands[i].name;
    return nib_str_nearest(name, names, nib_n_commands);
}

nib_status nib_cli_usage(nib_cli *c, nib_error *e, const char *fmt, ...) {
    char line[sizeof e->message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    c->usage = true;
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s", line);
}

nib_status nib_cli_operands(nib_cli *c, int min, int max, const char *what, nib_error *e) {
    const char *name = c->command->name;
    if (c->argc < min)
        return nib_cli_usage(c, e,
                             "%s: %s is missing: nib %s %s ('nib %s --help' shows an example)",
                             name, what, name, c->command->operands, name);
    if (c->argc > max)
        return nib_cli_usage(
            c, e, "%s: one argument too many: '%.80s' ('nib %s --help' shows an example)", name,
            c->argv[max], name);
    return NIB_OK;
}

static void log_line(void *arg, nib_log_level level, const char *line) {
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    (void)arg;
    fprintf(stderr, "nib: %s%s\n", names[level], line);
}

static void log_start(void) {
    const char *want = getenv("NIB_LOG");
    static const char *const names[] = {"error", "warn", "info", "debug"};
    nib_log_level level = NIB_LOG_WARN;
    for (size_t i = 0; want && i < NIB_ARRAY_LEN(names); i++)
        if (strcmp(want, names[i]) == 0) level = (nib_log_level)i;
    nib_log_set(log_line, NULL, level);
}

static int fail(const nib_error *e, int status) {
    fflush(stdout);
    fprintf(stderr, "nib: %s\n", e->message);
    return status;
}

/* All output has reached its file, or that is the error. */
static int finish(int status) {
    bool bad = ferror(stdout);
    errno = 0;
    bad |= fflush(stdout) != 0;
    if (!bad || errno == EPIPE) return status;
    fprintf(stderr, "nib: cannot write to standard output%s%s\n", errno ? ": " : "",
            errno ? strerror(errno) : "");
    return status ? status : 1;
}

static int run_command(const nib_command *command, int argc, char **argv) {
    nib_cli c = {.command = command};
    nib_error e = {0};
    bool help = false;
    nib_status s = nib_options_parse(&c, argc, argv, &help, &e);
    if (s == NIB_OK && help) {
        nib_help_command(stdout, command);
        return 0;
    }
    if (s == NIB_OK) s = command->run(&c, &e);
    if (s != NIB_OK) return fail(&e, c.usage ? 2 : c.exit_code ? c.exit_code : 1);
    return c.exit_code;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        nib_help_all(stderr);
        return 2;
    }
    const char *name = argv[1];
    const nib_command *command = nib_command_find(name);
    if (command) return run_command(command, argc - 1, argv + 1);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        nib_help_all(stdout);
        return 0;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("nib %s\n", nib_version());
        return 0;
    }
    static const char *const options[] = {"--help", "--version"};
    bool option = name[0] == '-';
    const char *near = option ? nib_str_nearest(name, options, 2) : nib_command_nearest(name);
    nib_error e;
    if (near)
        nib_fail(&e, NIB_ERR_ARGUMENT,
                 "unknown %s '%.80s': did you mean '%s'? ('nib --help' lists all)",
                 option ? "option" : "command", name, near);
    else
        nib_fail(&e, NIB_ERR_ARGUMENT, "unknown %s '%.80s' ('nib --help' lists all)",
                 option ? "option" : "command", name);
    return fail(&e, 2);
}

/* Standard streams that the caller closed must not be taken by the first file that is opened. */
static void open_streams(void) {
    while (true) {
        FILE *f = fopen("/dev/null", "r+");
        if (!f) return;
        if (fileno(f) > STDERR_FILENO) {
            fclose(f);
            return;
        }
    }
}

int main(int argc, char **argv) {
    open_streams();
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error to report, not a crash */
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8"); /* nib's text is UTF-8 */
    log_start();
    return finish(dispatch(argc, argv));
}
