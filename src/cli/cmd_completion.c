/* nib completion: completions for a shell, and the manual page. */
#include "cli/cli.h"

const nib_option nib_opts_completion[] = {NIB_OPT_END};

nib_status nib_cmd_completion(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "a shell", e));
    if (!nib_completion_write(stdout, c->argv[0]))
        return nib_cli_usage(c, e, "completion: expected bash, zsh, fish or man, found '%.60s'",
                             c->argv[0]);
    return NIB_OK;
}
