/* repl - the chat: what its files share. */
#ifndef NIB_CLI_REPL_H
#define NIB_CLI_REPL_H
#include "cli/host.h"
#include "cli/line.h"
#include "cli/settings.h"
#include "cli/speak.h"
#include "kvdisk/kvdisk.h"

typedef struct nib_repl {
    nib_cli *cli;
    nib_host host;
    nib_settings settings;
    nib_dialog *dialog;
    nib_kvdisk *kv;   /* of kept conversations; NULL until one is kept or continued */
    bool interactive; /* both ends are a terminal */
    bool quit;
    int64_t n_replies, n_tokens; /* of this session */
    double seconds;
    nib_reply last; /* numbers of the last reply; its texts are gone */
} nib_repl;

/* One slash command (repl_commands.def). arg: what follows the name, trimmed. */
typedef struct nib_repl_command {
    const char *name, *args, *help;
    nib_status (*run)(nib_repl *r, const char *arg, nib_error *e);
} nib_repl_command;
extern const nib_repl_command nib_repl_commands[];
extern const size_t nib_n_repl_commands;

/* Whether a typed line is a command: "/word ...", or one of the classic "-word" ones. */
bool nib_repl_is_command(const char *line);
nib_status nib_repl_command_run(nib_repl *r, const char *line, nib_error *e);
/* nib_complete_fn over a nib_repl. */
void nib_repl_complete(void *arg, const char *line, size_t cursor, size_t *start,
                       nib_buf *candidates);

/* Opens a model that can chat, ready to run. */
nib_status nib_repl_open(nib_host *host, const char *path, nib_error *e);
/* The whole chat. */
nib_status nib_repl_run(nib_cli *c, const char *path, nib_error *e);
/* Tells the dialog what r->settings say now. */
nib_status nib_repl_settings_changed(nib_repl *r, nib_error *e);
/* Generates and prints a reply: to 'user', or again to the last message when user is NULL. */
nib_status nib_repl_say(nib_repl *r, const char *user, nib_error *e);
/* The last user message of the conversation; NULL when there is none. */
const char *nib_repl_last_prompt(const nib_repl *r);

nib_status nib_repl_compare(nib_repl *r, const char *path, nib_error *e); /* compare.c */
nib_status nib_repl_benchmark(nib_repl *r, nib_error *e);                 /* measure.c */
/* Writes the conversation: .md, .json or .pdf by the name's ending (export.c). */
nib_status nib_repl_export(const nib_repl *r, const char *path, nib_error *e);

/* Kept conversations, the ones the pages of 'nib serve' show too (keep.c). A name is what has
 * neither a slash nor a dot; everything else is a file. */
extern uint64_t nib_repl_kv_disk; /* --kv-disk */
bool nib_repl_is_name(const char *arg);
nib_status nib_repl_keep(nib_repl *r, const char *name, nib_error *e);
/* NIB_ERR_NOT_FOUND: there is none of that name. */
nib_status nib_repl_resume(nib_repl *r, const char *name, nib_error *e);
/* Prints them, the last ones first; words: only those in which they stand. */
nib_status nib_repl_list(const char *words, nib_error *e);
#endif
