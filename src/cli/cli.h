/* cli - the nib command: what its files share.
 *
 * A command is one file, cmd_<name>.c, and one row of commands.def, which is also its help text,
 * its man page and its shell completion. Options are rows of tables, so nothing about one is
 * written twice. A command returns nib_status; main prints the one line of the error and chooses
 * the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Results go to standard output;
 * whatever else there is to say (errors, warnings, progress) to standard error. */
#ifndef NIB_CLI_H
#define NIB_CLI_H
#include "base/base.h"

/* ---- commands (main.c) ---- */

typedef struct nib_cli {
    const struct nib_command *command;
    int argc; /* operands: what is left after the options */
    char **argv;
    bool usage;    /* the error is the caller's usage: exit status 2 */
    int exit_code; /* when the command itself succeeds; normally 0 */
} nib_cli;

typedef struct nib_option nib_option;
/* One row: an option, or (name NULL, group set) a further table under a heading. A table ends with
 * a zero row. */
struct nib_option {
    const char *name; /* long name, without leading dashes; '_' is typed as '-' */
    char letter;      /* short name, or 0 */
    const char *arg;  /* what the help calls its value; "a|b|c" also completes; NULL: a switch */
    nib_status (*set)(const nib_option *o, const char *value, nib_error *e);
    void *to;
    double min, max; /* of numbers */
    const char *help;
    const nib_option *group;
};
typedef struct nib_command {
    const char *name, *operands, *summary, *details, *example;
    const nib_option *options;
    nib_status (*run)(nib_cli *c, nib_error *e);
} nib_command;

/* All of them, in the order of commands.def. */
extern const nib_command nib_commands[];
extern const size_t nib_n_commands;
const nib_command *nib_command_find(const char *name); /* NULL when unknown */
/* Commands near to a wrong name: NULL when none is. */
const char *nib_command_nearest(const char *name);

/* Fills e and marks the error as one of usage. Returns NIB_ERR_ARGUMENT. */
nib_status nib_cli_usage(nib_cli *c, nib_error *e, const char *fmt, ...) NIB_PRINTF(3, 4);
/* Usage error unless there are min..max operands; 'what' names them in the message. */
nib_status nib_cli_operands(nib_cli *c, int min, int max, const char *what, nib_error *e);

#define NIB_CMD(name, operands, summary, details, example)                                         \
    nib_status nib_cmd_##name(nib_cli *c, nib_error *e);                                           \
    extern const nib_option nib_opts_##name[];
#include "cli/commands.def"
#undef NIB_CMD

/* ---- options (options.c) ---- */

nib_status nib_opt_switch(const nib_option *o, const char *value, nib_error *e); /* to: bool */
nib_status nib_opt_text(const nib_option *o, const char *value,
                        nib_error *e);                                        /* to: const char * */
nib_status nib_opt_int(const nib_option *o, const char *value, nib_error *e); /* to: int64_t */
#define NIB_OPT_SWITCH(name, letter, to, help)                                                     \
    { name, letter, NULL, nib_opt_switch, to, 0, 0, help, NULL }
#define NIB_OPT_TEXT(name, letter, arg, to, help)                                                  \
    { name, letter, arg, nib_opt_text, to, 0, 0, help, NULL }
#define NIB_OPT_INT(name, letter, arg, to, min, max, help)                                         \
    { name, letter, arg, nib_opt_int, to, min, max, help, NULL }
#define NIB_OPT_GROUP(heading, table)                                                              \
    { NULL, 0, NULL, NULL, NULL, 0, 0, heading, table }
#define NIB_OPT_END                                                                                \
    { NULL, 0, NULL, NULL, NULL, 0, 0, NULL, NULL }

/* Walks a table and its groups: start with *depth = 0 in a zeroed walk; false at the end. */
typedef struct nib_option_walk {
    const nib_option *at[4];
    const char *heading; /* of the row just given; NULL: the command's own */
    int depth;
} nib_option_walk;
/* The long name as it is typed: '_' is '-'. In a small ring of static buffers. */
const char *nib_option_name(const nib_option *o);
void nib_options_start(nib_option_walk *w, const nib_option *table);
const nib_option *nib_options_next(nib_option_walk *w); /* NULL at the end */

/* Parses argv[1..) by c->command's table; leaves the operands in c. --help gives NIB_OK with *help
 * set. */
nib_status nib_options_parse(nib_cli *c, int argc, char **argv, bool *help, nib_error *e);

/* ---- input (input.c) ---- */

/* The next line without its end; *end when there is none. The line is NUL-terminated and may hold
 * NULs. */
nib_status nib_read_line(FILE *f, nib_buf *line, bool *end, nib_error *e);
/* A text: operands from..argc joined by spaces, or 'file', or standard input when that is no
 * terminal. */
nib_status nib_read_text(nib_cli *c, int from, const char *file, const char *what, nib_buf *out,
                         nib_error *e);
/* Asks on the terminal: Enter is 'yes' or no as yes says. false when there is no terminal. */
bool nib_confirm(bool yes, const char *fmt, ...) NIB_PRINTF(2, 3);
/* Whole numbers separated by white space or commas, perhaps in brackets. */
nib_status nib_parse_ids(const char *text, size_t n, nib_ids *out, nib_error *e);
nib_status nib_check_ids(const int32_t *ids, size_t n, int64_t n_vocab, nib_error *e);
/* A JSON string of any bytes: invalid UTF-8 becomes U+FFFD. NULL when out of memory. */
struct json_t *nib_json_text(const char *p, size_t n);

/* ---- help (help.c), man page and completions (completion.c) ---- */
void nib_help_all(FILE *f);
void nib_help_command(FILE *f, const nib_command *c);
/* "bash", "zsh", "fish" or "man"; false when unknown. */
bool nib_completion_write(FILE *f, const char *kind);

/* ---- output (output.c) ---- */

/* Escape sequences for a stream, or empty strings when it is no terminal (or NO_COLOR is set). */
typedef struct nib_style {
    const char *dim, *bold, *red, *green, *cyan, *reset;
} nib_style;
const nib_style *nib_style_of(FILE *f);
/* "1.5 GB", "151 MB": decimal, three digits, in a ring of static buffers. */
const char *nib_bytes_text(uint64_t n);
/* "1.2 B", "260 K": counts of parameters. */
const char *nib_count_text(uint64_t n);
/* Columns of the terminal behind f; 80 when unknown, 0 when f is no terminal. */
int nib_columns(FILE *f);
/* Columns that text takes on a terminal. */
int nib_text_width(const char *text, size_t n);
/* Prints text in lines of at most 'width' columns after 'indent' spaces; the first line starts at
 * column 'at'. */
void nib_print_wrapped(FILE *f, const char *text, int indent, int at, int width);
struct json_t;
/* Prints v as one line of JSON (indented on a terminal) and releases it. v NULL: out of memory. */
nib_status nib_print_json(struct json_t *v, nib_error *e);
nib_status nib_print_json_line(struct json_t *v, nib_error *e); /* one line, always */
/* "nib: warning: ..." on standard error. */
void nib_warn(const char *fmt, ...) NIB_PRINTF(1, 2);
#endif
