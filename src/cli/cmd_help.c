/* nib help: what a command does. */
#include "cli/cli.h"

const nib_option nib_opts_help[] = {NIB_OPT_END};

nib_status nib_cmd_help(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 1, "a command", e));
    if (c->argc == 0) {
        nib_help_all(stdout);
        return NIB_OK;
    }
    const nib_command *command = nib_command_find(c->argv[0]);
    if (command) {
        nib_help_command(stdout, command);
        return NIB_OK;
    }
    const char *near = nib_command_nearest(c->argv[0]);
    if (near)
        return nib_cli_usage(c, e, "help: unknown command '%.80s': did you mean '%s'?", c->argv[0],
                             near);
    return nib_cli_usage(c, e, "help: unknown command '%.80s' ('nib --help' lists all)",
                         c->argv[0]);
}
