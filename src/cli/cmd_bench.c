/* nib bench: how fast models run here, and what share that is of what the machine can do. */
#include <jansson.h>
#include <stdlib.h>
#include "cli/models.h"
#include "eval/eval.h"

enum { MAX_LIST = 32 };
static const char *pp = "512", *tg = "64", *depth = "0", *batch = "1", *threads = "0", *kv = "auto";
static int64_t reps = 5;
static bool as_json, as_csv, no_probe, profile, fast;
const nib_option nib_opts_bench[] = {
    NIB_OPT_TEXT("pp", 0, "LIST", &pp, "prompt lengths in tokens, 0 for none (512)"),
    NIB_OPT_TEXT("tg", 0, "LIST", &tg, "tokens to generate, 0 for none (64)"),
    NIB_OPT_TEXT("depth", 0, "LIST", &depth, "tokens in the context before (0)"),
    NIB_OPT_TEXT("batch", 0, "LIST", &batch, "sequences generating together (1)"),
    NIB_OPT_TEXT("threads", 't', "LIST", &threads, "threads, 0 for physical cores (0)"),
    NIB_OPT_TEXT("kv", 0, "LIST", &kv,
                 "formats of the key/value cache: i16, bf16, f16, f32, q8_0 (auto)"),
    NIB_OPT_INT("reps", 'r', "N", &reps, 1, 1000, "timed runs after one warm-up (5)"),
    NIB_OPT_SWITCH("fast-prompt", 0, &fast,
                   "with weights rounded once more in prompts; tests are then named \"... fast\""),
    NIB_OPT_SWITCH("no-probe", 0, &no_probe, "do not measure the machine's own limits"),
    NIB_OPT_SWITCH("profile", 0, &profile,
                   "show where each test's time goes: per operation, barriers included"),
    NIB_OPT_SWITCH("json", 0, &as_json,
                   "print {\"machine\", \"results\": [{\"test\", \"tok_per_s\", ...}]}"),
    NIB_OPT_SWITCH("csv", 0, &as_csv, "print comma-separated values"),
    NIB_OPT_END,
};

typedef struct list {
    int64_t v[MAX_LIST];
    int n;
} list;

static nib_status parse_list(nib_cli *c, const char *name, const char *text, int64_t min,
                             int64_t max, list *out, nib_error *e) {
    out->n = 0;
    for (const char *p = text; *p;) {
        char *end;
        long long v = strtoll(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < min || v > max || out->n == MAX_LIST)
            return nib_cli_usage(
                c, e, "bench: --%s '%s': expected at most %d numbers from %lld to %lld, like 1,8",
                name, text, MAX_LIST, (long long)min, (long long)max);
        out->v[out->n++] = v;
        p = *end ? end + 1 : end;
    }
    return NIB_OK;
}

/* ---- printing ---- */

typedef struct row {
    const nib_model_info *m;
    nib_bench_result r;
    int threads;
    const char *kv;
    double share;                /* of the machine's limit; 0 unknown */
    const nib_profile *profiles; /* of each thread; NULL: none */
} row;

typedef struct report {
    json_t *results;
    bool headed;
    char quant[32];
} report;

/* Milliseconds of one token (of all sequences together, when several) in a section, the threads'
 * mean. */
static double section_ms(const row *x, int section) {
    double sum = 0, tokens = (double)x->r.test.n * x->r.reps;
    for (int t = 0; t < x->threads; t++) sum += x->profiles[t].seconds[section];
    return sum * 1e3 / x->threads / tokens;
}

static double barriers(const row *x) {
    return (double)x->profiles[0].n_barriers / ((double)x->r.test.n * x->r.reps);
}

static void print_profile(const row *x, const char *name) {
    double all = 0;
    for (int s = 0; s < NIB_N_SECTIONS; s++) all += section_ms(x, s);
    printf("\n%s: where a token's %.4g ms go (%.3g barriers)\n\n", name, all, barriers(x));
    printf("| | ms | share |\n|---|---:|---:|\n");
    for (int s = 0; s < NIB_N_SECTIONS; s++) {
        double ms = section_ms(x, s);
        printf("| %s | %.4g | %.1f %% |\n", nib_section_name((nib_section)s), ms, ms / all * 100);
    }
    printf("\n");
}

static json_t *profile_json(const row *x) {
    json_t *o = json_pack("{s:f}", "barriers_per_token", barriers(x)), *parts = json_object();
    for (int s = 0; s < NIB_N_SECTIONS; s++)
        json_object_set_new(parts, nib_section_name((nib_section)s), json_real(section_ms(x, s)));
    json_object_set_new(o, "ms_per_token", parts);
    return o;
}

static void print_row(report *out, const row *x) {
    char name[64];
    nib_bench_name(&x->r.test, name, sizeof name);
    if (fast) snprintf(name + strlen(name), sizeof name - strlen(name), " fast");
    if (as_json) {
        json_t *o = json_pack(
            "{s:o, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:i, s:I, s:I, s:i, s:i, s:s, s:b}", "model",
            nib_json_text(x->m->name, strlen(x->m->name)), "arch", x->m->arch, "quant", x->m->quant,
            "test", name, "tok_per_s", x->r.median, "mean", x->r.mean, "deviation", x->r.deviation,
            "best", x->r.best, "reps", x->r.reps, "tokens", (json_int_t)x->r.test.n, "depth",
            (json_int_t)x->r.test.depth, "batch", x->r.test.batch, "threads", x->threads, "kv",
            x->kv, "fast_prompt", fast);
        if (x->share > 0) json_object_set_new(o, "share_of_limit", json_real(x->share));
        if (x->profiles) json_object_set_new(o, "profile", profile_json(x));
        json_array_append_new(out->results, o);
        return;
    }
    if (as_csv) {
        if (!out->headed)
            printf("model,quant,threads,kv,test,median,mean,deviation,best,share_of_limit\n");
        printf("\"%s\",%s,%d,%s,%s,%.3f,%.3f,%.3f,%.3f,%.3f\n", x->m->name, x->m->quant, x->threads,
               x->kv, name, x->r.median, x->r.mean, x->r.deviation, x->r.best, x->share);
    } else {
        if (!out->headed) {
            printf("| model | quant | threads | kv | test | tok/s (median) | mean ± deviation | "
                   "share of limit |\n");
            printf("|---|---|---:|---|---|---:|---:|---:|\n");
        }
        printf("| %s | %s | %d | %s | %s | %.2f | %.2f ± %.2f | ", x->m->name, x->m->quant,
               x->threads, x->kv, name, x->r.median, x->r.mean, x->r.deviation);
        if (x->share > 0)
            printf("%.0f %% |\n", x->share * 100);
        else
            printf("– |\n");
    }
    out->headed = true;
    if (x->profiles && !as_csv) {
        print_profile(x, name);
        out->headed = false;
    }
    fflush(stdout);
}

/* What the machine's limits allow of this test: bytes for generation, multiply-adds for prompts. */
static double share(const nib_model *m, nib_kv_type type, const nib_bench_result *r,
                    const nib_probe *p) {
    const nib_model_info *info = nib_model_get_info(m);
    if (r->test.kind == NIB_BENCH_GENERATE) {
        if (p->read_bytes_per_s <= 0) return 0;
        double positions = (double)r->test.depth + (double)r->test.n / 2;
        double kv_bytes = positions * (double)nib_model_kv_bytes(m, type, NIB_PAGE) / NIB_PAGE;
        double bytes = (double)nib_bench_token_bytes(m) / r->test.batch + kv_bytes;
        return r->median * bytes / p->read_bytes_per_s;
    }
    if (p->int8_ops_per_s <= 0) return 0;
    /* every matrix but the token table and the head, once a token; and attention's scores and sums
     */
    double table = (double)(info->n_vocab * info->n_embd);
    double matrices = (double)info->n_params -
                      table * (nib_gguf_tensor(nib_model_gguf(m), "output.weight") ? 2 : 1);
    double seen = (double)r->test.depth + (double)r->test.n / 2;
    double attention = 2 * seen * (double)(info->n_head * info->head_dim * info->n_layer);
    return r->median * 2 * (matrices + attention) / p->int8_ops_per_s;
}

static nib_status one_engine(nib_model *m, int n_threads, nib_kv_type type, const list *lists,
                             const nib_probe *p, report *out, nib_error *e) {
    const list *lp = &lists[0], *lt = &lists[1], *ld = &lists[2], *lb = &lists[3];
    int64_t n_ctx = 1;
    int n_seq = 1;
    for (int d = 0; d < ld->n; d++) {
        for (int i = 0; i < lp->n; i++) n_ctx = NIB_MAX(n_ctx, ld->v[d] + lp->v[i] + 1);
        for (int i = 0; i < lt->n; i++) n_ctx = NIB_MAX(n_ctx, ld->v[d] + lt->v[i] + 1);
    }
    for (int b = 0; b < lb->n; b++) n_seq = NIB_MAX(n_seq, (int)lb->v[b]);
    nib_engine_params ep = {
        .n_threads = n_threads, .n_ctx = n_ctx, .kv = type, .n_seq = n_seq, .fast_prompt = fast};
    nib_engine *en;
    NIB_TRY(nib_engine_new(&en, m, &ep, e));
    nib_engine_set_cancel(en, &nib_cancel);
    row x = {.m = nib_model_get_info(m),
             .threads = nib_engine_threads(en),
             .kv = nib_kv_name(nib_engine_kv_type(en))};
    nib_status s = NIB_OK;
    nib_profile *profiles = nib_alloc((size_t)x.threads * sizeof *profiles);
    if (!profiles)
        NIB_TRY_OUT(nib_fail_nomem(e, (size_t)x.threads * sizeof *profiles, "the profile"));
    if (profile) x.profiles = profiles;
    for (int d = 0; d < ld->n; d++) {
        for (int kind = 0; kind < 2; kind++) {
            const list *lens = kind == NIB_BENCH_PROMPT ? lp : lt;
            int n_batch = kind == NIB_BENCH_PROMPT ? 1 : lb->n;
            for (int i = 0; i < lens->n; i++) {
                for (int b = 0; b < n_batch && lens->v[i] > 0; b++) {
                    nib_bench_test t = {(nib_bench_kind)kind, lens->v[i], ld->v[d],
                                        kind == NIB_BENCH_PROMPT ? 1 : (int)lb->v[b]};
                    memset(profiles, 0, (size_t)x.threads * sizeof *profiles);
                    NIB_TRY_OUT(
                        nib_bench_run(en, &t, (int)reps, profile ? profiles : NULL, &x.r, e));
                    x.share = share(m, type, &x.r, p);
                    print_row(out, &x);
                }
            }
        }
    }
out:
    nib_engine_free(en);
    nib_free(profiles);
    return s;
}

/* Time from nothing to the first token of a reply to a 16-token prompt. */
static nib_status first_token(const char *path, int n_threads, double *load, double *first,
                              nib_error *e) {
    double t0 = nib_now();
    nib_model *m;
    nib_model_params mp = {.n_threads = n_threads};
    NIB_TRY(nib_model_open(&m, path, &mp, e));
    *load = nib_now() - t0;
    nib_engine_params ep = {.n_threads = n_threads, .n_ctx = 64};
    nib_engine *en = NULL;
    nib_seq *seq;
    nib_status s = nib_engine_new(&en, m, &ep, e);
    if (s == NIB_OK) s = nib_seq_new(&seq, en, e);
    int32_t ids[16];
    for (int i = 0; i < 16; i++) ids[i] = (int32_t)((i * 37 + 11) % nib_model_get_info(m)->n_vocab);
    const float *logits;
    if (s == NIB_OK) s = nib_seq_eval(seq, ids, 16, &logits, e);
    *first = nib_now() - t0;
    nib_engine_free(en);
    nib_model_release(m);
    return s;
}

static nib_status one_model(const char *path, const list *lists, const list *kinds,
                            const nib_probe *p, report *out, json_t *loads, nib_error *e) {
    const list *lt = &lists[4];
    double load, first;
    NIB_TRY(first_token(path, (int)lt->v[0], &load, &first, e));
    nib_model *m;
    nib_model_params mp = {.n_threads = (int)lt->v[0]};
    NIB_TRY(nib_model_open(&m, path, &mp, e));
    const nib_model_info *info = nib_model_get_info(m);
    nib_status s = NIB_OK;
    if (!info->causal)
        NIB_TRY_OUT(nib_fail(e, NIB_ERR_UNSUPPORTED,
                             "'%s' is an embedding model: bench measures generation", path));
    for (int t = 0; t < lt->n; t++)
        for (int k = 0; k < kinds->n; k++)
            NIB_TRY_OUT(one_engine(m, (int)lt->v[t], (nib_kv_type)kinds->v[k], lists, p, out, e));
    json_array_append_new(loads, json_pack("{s:o, s:f, s:f, s:I}", "model",
                                           nib_json_text(info->name, strlen(info->name)),
                                           "load_seconds", load, "first_token_seconds", first,
                                           "resident_bytes", (json_int_t)nib_rss()));
    if (!as_json && !as_csv)
        printf("\n%s: loaded in %.3f s, first token of a 16-token prompt after %.3f s, %s "
               "resident\n\n",
               info->name, load, first, nib_bytes_text(nib_rss()));
    out->headed = as_csv;
out:
    nib_model_release(m);
    return s;
}

nib_status nib_cmd_bench(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1 << 10, "MODEL", e));
    list lists[5], kinds = {.n = 0};
    NIB_TRY(parse_list(c, "pp", pp, 0, 1 << 20, &lists[0], e));
    NIB_TRY(parse_list(c, "tg", tg, 0, 1 << 20, &lists[1], e));
    NIB_TRY(parse_list(c, "depth", depth, 0, 1 << 22, &lists[2], e));
    NIB_TRY(parse_list(c, "batch", batch, 1, 256, &lists[3], e));
    NIB_TRY(parse_list(c, "threads", threads, 0, 256, &lists[4], e));
    if (!lists[2].n || !lists[3].n || !lists[4].n)
        return nib_cli_usage(c, e,
                             "bench: --depth, --batch and --threads need at least one number");
    char kinds_text[128];
    snprintf(kinds_text, sizeof kinds_text, "%s", kv);
    for (char *p = strtok(kinds_text, ","); p && kinds.n < MAX_LIST; p = strtok(NULL, ",")) {
        int i;
        if (nib_parse_choice("--kv", p, NIB_KV_CHOICE, &i, e) != NIB_OK) {
            c->usage = true;
            return NIB_ERR_ARGUMENT;
        }
        kinds.v[kinds.n++] = i;
    }
    nib_interrupt_catch();
    nib_probe p = {0};
    if (!no_probe) NIB_TRY(nib_probe_machine(&p, (int)lists[4].v[0], e));
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    if (!as_json && !as_csv) {
        printf("%s, kernels %s", si.cpu_name, nib_kernels_get()->name);
        if (!no_probe)
            printf(", reads %.1f GB/s, %.0f 8-bit Gop/s", p.read_bytes_per_s / 1e9,
                   p.int8_ops_per_s / 1e9);
        printf("\n\n");
    }
    report out = {.results = json_array()};
    json_t *loads = json_array();
    nib_status s = NIB_OK;
    for (int i = 0; i < c->argc && s == NIB_OK; i++) {
        char *path = NULL;
        s = nib_model_find(c->argv[i], &path, e);
        if (s == NIB_OK) s = one_model(path, lists, &kinds, &p, &out, loads, e);
        nib_free(path);
    }
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    if (s == NIB_OK && as_json)
        return nib_print_json(json_pack("{s:{s:s, s:s, s:f, s:f}, s:o, s:o}", "machine", "cpu",
                                        si.cpu_name, "kernels", nib_kernels_get()->name,
                                        "read_bytes_per_s", p.read_bytes_per_s, "int8_ops_per_s",
                                        p.int8_ops_per_s, "models", loads, "results", out.results),
                              e);
    json_decref(loads);
    json_decref(out.results);
    return s;
}
