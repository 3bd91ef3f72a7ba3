/* nib chat: a conversation at the terminal, or line by line through pipes. */
#include "cli/models.h"
#include "cli/repl.h"

const nib_option nib_opts_chat[] = {
    NIB_OPT_GROUP("Replies", nib_text_options),
    NIB_OPT_GROUP("Sampling", nib_sampling_options),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

nib_status nib_cmd_chat(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 1, "MODEL", e));
    return nib_repl_run(c, c->argc ? c->argv[0] : nib_hub_alias_default()->name, e);
}
