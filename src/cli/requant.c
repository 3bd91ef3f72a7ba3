/* --quantize: the plan of nib quantize, followed while a model is loaded. */
#include <ctype.h>
#include <unistd.h>
#include "cli/requant.h"
#include "convert/convert.h"
#include "eval/eval.h"

struct nib_requant {
    nib_quantize_report report;
    nib_strmap index; /* of names into the report */
    char type[16];    /* in capitals */
};

void nib_requant_free(nib_requant *r) {
    if (!r) return;
    nib_strmap_free(&r->index);
    nib_quantize_report_free(&r->report);
    nib_free(r);
}

static nib_status make(nib_requant **out, const char *path, const char *type, bool again,
                       nib_error *e) {
    nib_quantize_params p = {.type = type, .requantize = again};
    nib_requant *r = nib_calloc(1, sizeof *r);
    if (!r) return nib_fail_nomem(e, sizeof *r, "a quantisation");
    nib_status s = nib_quantize(path, NULL, &p, &r->report, e);
    for (size_t i = 0; i < r->report.n_tensors && s == NIB_OK; i++)
        if (!nib_strmap_set(&r->index, nib_str_c(r->report.tensors[i].name), (uint32_t)i))
            s = nib_fail_nomem(e, 16, "a quantisation");
    for (size_t i = 0; type[i] && i + 1 < sizeof r->type; i++)
        r->type[i] = (char)toupper((unsigned char)type[i]);
    if (s == NIB_OK)
        *out = r;
    else
        nib_requant_free(r);
    return s;
}

static bool retype(void *arg, const char *tensor, nib_dtype *type) {
    const nib_requant *r = arg;
    uint32_t i;
    if (!nib_strmap_get(&r->index, nib_str_c(tensor), &i)) return false;
    *type = r->report.tensors[i].to;
    return true;
}

void nib_requant_apply(const nib_requant *r, nib_model_params *mp) {
    if (!r) return;
    mp->retype = retype;
    mp->retype_arg = (void *)(uintptr_t)r;
    mp->retyped_as = r->type;
}

/* ---- auto ---- */

/* Whether a run fits, and the tokens a second its weights allow. */
static nib_status try(const nib_requant *r, const char *path, const nib_engine_params *p,
                      double bytes_per_s, bool *fits, double *speed, nib_error *e) {
    nib_model *m;
    nib_plan plan;
    nib_model_params mp = {.plan_only = true};
    nib_requant_apply(r, &mp);
    NIB_TRY(nib_model_open(&m, path, &mp, e));
    nib_engine_plan(m, p, &plan);
    /* every weight is read once a token, but for the table of tokens unless it is the output too */
    uint64_t bytes = r ? r->report.bytes_after : nib_model_get_info(m)->weight_bytes;
    const nib_tensor *table = nib_gguf_tensor(nib_model_gguf(m), "token_embd.weight");
    if (table && nib_gguf_tensor(nib_model_gguf(m), "output.weight")) {
        nib_dtype t = table->dtype;
        if (r) (void)retype((void *)(uintptr_t)r, table->name, &t);
        bytes -= NIB_MIN(bytes, nib_dtype_bytes(t, nib_tensor_count(table)));
    }
    *fits = plan.fits;
    *speed = bytes_per_s / (double)NIB_MAX(bytes, 1);
    nib_model_release(m);
    return NIB_OK;
}

static nib_status choose(nib_requant **out, const char *path, double wanted,
                         const nib_engine_params *p, nib_error *e) {
    static const char *const levels[] = {NULL,     "q8_0",   "q6_k", "q5_k_m",
                                         "q4_k_m", "q3_k_m", "q2_k"};
    nib_probe probe;
    nib_requant *r = NULL, *fastest = NULL;
    double speed = 0;
    bool fits = false, any = false, done = false;
    nib_status s = NIB_OK;
    NIB_TRY(nib_probe_machine(&probe, p->n_threads, e));
    for (size_t i = 0; i < NIB_ARRAY_LEN(levels) && !done; i++) {
        nib_error why;
        r = NULL;
        /* what is quantised already stays as it is */
        if (levels[i] && make(&r, path, levels[i], false, &why) != NIB_OK) {
            if (why.code == NIB_ERR_ARGUMENT) break;
            *e = why;
            s = why.code;
            goto out;
        }
        if ((s = try(r, path, p, probe.read_bytes_per_s, &fits, &speed, e)) != NIB_OK) goto out;
        if (fits || i + 1 == NIB_ARRAY_LEN(levels)) { /* the last is the best there is */
            nib_requant_free(fastest);
            fastest = r;
            r = NULL;
            any = true;
            done = fits && speed >= wanted;
        }
        nib_requant_free(r);
        r = NULL;
    }
    if (any && isatty(STDERR_FILENO)) {
        const nib_style *st = nib_style_of(stderr);
        fprintf(stderr, "%s%s: up to %.3g tokens a second can be expected here%s\n", st->dim,
                fastest ? fastest->type : "The file's own format", speed, st->reset);
    }
    *out = fastest;
    return NIB_OK;
out:
    nib_requant_free(r);
    nib_requant_free(fastest);
    return s;
}

nib_status nib_requant_choose(nib_requant **out, const char *path, const char *type, double speed,
                              const nib_engine_params *p, nib_error *e) {
    *out = NULL;
    if (strcmp(type, "auto") == 0) return choose(out, path, speed, p, e);
    NIB_TRY(make(out, path, type, true, e));
    if ((*out)->report.n_requantized)
        nib_warn("%zu tensors of '%s' were quantised before: expect worse than from the original",
                 (*out)->report.n_requantized, path);
    return NIB_OK;
}
