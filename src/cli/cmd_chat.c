/* nib chat: a conversation at the terminal, or line by line through pipes. */
#include "cli/models.h"
#include "cli/repl.h"

static nib_status set_bytes(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_bytes(o->name, value, o->to, e);
}

const nib_option nib_opts_chat[] = {
    {"kv-disk", 0, "SIZE", set_bytes, &nib_repl_kv_disk, 0, 0,
     "what the caches of kept conversations may take on disk, so that /load need not have the "
     "model "
     "read one again; 0 uses none (default: 2G, or 5 % of the free disk when that is less)",
     NULL},
    NIB_OPT_GROUP("Replies", nib_text_options),
    NIB_OPT_GROUP("Sampling", nib_sampling_options),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

nib_status nib_cmd_chat(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 0, 1, "MODEL", e));
    return nib_repl_run(c, c->argc ? c->argv[0] : nib_hub_alias_default()->name, e);
}
