/* nib chat: a conversation at the terminal, or line by line through pipes. */
#include "cli/repl.h"

const nib_option nib_opts_chat[] = {
    NIB_OPT_GROUP("Replies", nib_text_options),
    NIB_OPT_GROUP("Sampling", nib_sampling_options),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

nib_status nib_cmd_chat(nib_cli *c, nib_error *e) {
    if (c->argc == 0)
        return nib_cli_usage(
            c, e,
            "chat: which model? Give a .gguf file, as in: nib chat models/smollm2-135m-q4_k_m.gguf "
            "('nib show FILE' tells whether a model fits this machine)");
    NIB_TRY(nib_cli_operands(c, 1, 1, "MODEL", e));
    return nib_repl_run(c, c->argv[0], e);
}
