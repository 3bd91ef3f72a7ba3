/* nib compare-quality: how far one model's predictions are from another's, and what each costs. */
#include "cli/receipt.h"

static const char *text;
static nib_quality_params params;
static bool as_json;
const nib_option nib_opts_compare_quality[] = {
    NIB_OPT_TEXT("text", 'f', "FILE", &text, "the text (default: a small one of English and code)"),
    NIB_OPT_INT("chunks", 0, "N", &params.eval.n_chunks, 1, INT32_MAX,
                "use at most N chunks of the text"),
    NIB_OPT_SWITCH("no-speed", 0, &params.no_speed, "do not time generation"),
    NIB_OPT_SWITCH("one-at-a-time", 0, &params.one_at_a_time,
                   "never hold both models in memory; the first one's probabilities go to a "
                   "temporary file, 2 bytes for each token of the vocabulary"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print one JSON object"),
    NIB_OPT_GROUP("Models and memory (--ctx: the length of a chunk, 512 unless said)",
                  nib_host_options),
    NIB_OPT_END,
};

nib_status nib_cmd_compare_quality(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 2, 2, c->argc ? "OTHER" : "REFERENCE", e));
    nib_quality q;
    NIB_TRY(nib_receipt_make(c, c->argv[0], c->argv[1], text, &params, &q, e));
    if (as_json) return nib_print_json(nib_receipt_json(&q), e);
    nib_receipt_print(&q);
    return NIB_OK;
}
