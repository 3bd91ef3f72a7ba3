/* nib convert: a Hugging Face folder to GGUF, or GGUF to a folder. */
#include <jansson.h>
#include <sys/stat.h>
#include "cli/models.h"
#include "convert/convert.h"

static const char *out_path, *type, *pre;
static int64_t threads;
static uint64_t shard;
static bool force, as_json;

static nib_status set_size(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_bytes(o->name, value, o->to, e);
}

const nib_option nib_opts_convert[] = {
    NIB_OPT_TEXT("output", 'o', "FILE|DIR", &out_path,
                 "what to write: a GGUF file, or a new folder (default: beside the input)"),
    NIB_OPT_TEXT("type", 0, "auto|f16|bf16|f32|q8_0|q4_k_m|...", &type,
                 "format of the weights (default: auto, what the input has); to a folder: auto, "
                 "f16, bf16 or f32"),
    NIB_OPT_TEXT("pre", 0, "NAME", &pre,
                 "the pre-tokenizer's name, where nib cannot tell (gpt-2, llama-bpe, qwen2, ...)"),
    NIB_OPT_INT("threads", 't', "N", &threads, 1, 256, "threads (default: physical cores)"),
    {"shard-size", 0, "SIZE", set_size, &shard, 0, 0,
     "to a folder: the most a file of weights holds (default: 5G)", NULL},
    NIB_OPT_SWITCH("force", 0, &force,
                   "write weights that are not finite all the same, and over a folder's model"),
    NIB_OPT_SWITCH("json", 0, &as_json, "print what was written as JSON"),
    NIB_OPT_END,
};

static void on_progress(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* "models/x" gives "models/x.gguf", "x.gguf" gives "x-hf". */
static nib_status default_output(const char *in, bool folder, nib_buf *out, nib_error *e) {
    size_t n = strlen(in);
    while (folder && n > 1 && in[n - 1] == '/') n--;
    if (!folder && n > 5 && strcmp(in + n - 5, ".gguf") == 0) n -= 5;
    nib_buf_put(out, in, n);
    nib_buf_puts(out, folder ? ".gguf" : "-hf");
    return out->failed ? nib_fail_nomem(e, n, "a file name") : NIB_OK;
}

nib_status nib_cmd_convert(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "DIR|MODEL", e));
    nib_buf fallback = {0};
    char *in = NULL;
    nib_convert_result r = {0};
    nib_progress bar;
    nib_status s;
    NIB_TRY_OUT(nib_model_path(c->argv[0], &in, e));
    bool folder = is_folder(in);
    if (!out_path) {
        /* What was pulled stays as it is: the output goes to this folder. */
        bool pulled = strcmp(in, c->argv[0]) != 0;
        const char *slash = pulled ? strrchr(c->argv[0], '/') : NULL;
        const char *beside = slash ? slash + 1 : c->argv[0];
        NIB_TRY_OUT(default_output(beside, folder, &fallback, e));
        out_path = fallback.data;
    }
    nib_convert_params p = {.type = type,
                            .pre = pre,
                            .n_threads = (int)threads,
                            .force = force,
                            .shard_bytes = shard,
                            .progress = on_progress,
                            .progress_arg = &bar,
                            .cancel = &nib_cancel};
    double start = nib_now();
    nib_interrupt_catch();
    nib_progress_start(&bar, "Converting", true);
    s = folder ? nib_convert_to_gguf(in, out_path, &p, &r, e)
               : nib_convert_to_hf(in, out_path, &p, &r, e);
    nib_progress_end(&bar);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s != NIB_OK) goto out;
    if (as_json)
        s = nib_print_json(json_pack("{s:o, s:s, s:I, s:I, s:I, s:f}", "output",
                                     nib_json_text(out_path, strlen(out_path)), "type", r.type,
                                     "tensors", (json_int_t)r.n_tensors, "parameters",
                                     (json_int_t)r.n_params, "bytes", (json_int_t)r.bytes,
                                     "seconds", nib_now() - start),
                           e);
    else
        printf("%s: %s parameters, %s, %s of weights, in %.1f s\n", out_path,
               nib_count_text(r.n_params), r.type, nib_bytes_text(r.bytes), nib_now() - start);
out:
    nib_buf_free(&fallback);
    nib_free(in);
    return s;
}
