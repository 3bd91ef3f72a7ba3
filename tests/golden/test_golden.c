/* Reference models: each folder of <shared>/golden that holds a model is run and compared with its
 * reference output, within the tolerances its golden.json gives. Differences are in units of the
 * output's deviation. */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include "testlib.h"
#include "engine/engine.h"

typedef struct error_stat {
    double max, rms;
} error_stat;

static float *read_floats(const char *path, size_t *n) {
    nib_buf b = {0};
    nib_error e;
    test_ok(nib_file_read(path, (size_t)1 << 28, &b, &e), &e);
    *n = b.len / 4;
    return (float *)(void *)b.data;
}

static bool exists(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static error_stat compare(const float *a, const float *b, size_t n, double std) {
    error_stat s = {0, 0};
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]) / std;
        if (!(d <= s.max)) s.max = d; /* NaN too */
        s.rms += d * d;
    }
    s.rms = sqrt(s.rms / (double)n);
    return s;
}

typedef struct sink {
    float *to;
    int64_t n_vocab;
} sink;
static void collect(void *arg, int64_t i, const float *logits) {
    sink *s = arg;
    memcpy(s->to + i * s->n_vocab, logits, (size_t)s->n_vocab * sizeof *logits);
}

static double number(const json_t *g, const char *a, const char *b, const char *c) {
    json_t *v = json_object_get(json_object_get(json_object_get(g, a), b), c);
    if (!v) fail_msg("golden.json has no %s.%s.%s", a, b, c);
    return json_number_value(v);
}

static void read_tokens(const char *dir, nib_ids *ids) {
    nib_buf text = {0};
    nib_error e;
    test_ok(nib_file_read(test_shared_path("golden/%s/tokens.txt", dir), 1 << 20, &text, &e), &e);
    char *p = text.data, *end;
    for (long v; v = strtol(p, &end, 10), end != p; p = end)
        assert_true(nib_ids_push(ids, (int32_t)v));
    nib_buf_free(&text);
}

/* Runs the model; returns [n_tokens, width] of logits, or hidden states for encoders. */
static float *run(const char *dir, const json_t *g, const nib_model_params *mp, nib_kv_type kv,
                  int threads, int batch, size_t *n, float **embd) {
    nib_error e;
    nib_model *m;
    test_ok(nib_model_open(&m, test_shared_path("golden/%s/model.gguf", dir), mp, &e), &e);
    nib_engine *en;
    nib_engine_params p = {.n_threads = threads,
                           .kv = kv,
                           .batch = batch,
                           .n_ctx = json_integer_value(json_object_get(g, "n_ctx"))};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    const nib_model_info *info = nib_model_get_info(m);
    nib_ids ids = {0};
    read_tokens(dir, &ids);
    int64_t width = info->causal ? info->n_vocab : info->n_embd;
    *n = ids.len * (size_t)width;
    float *out = malloc(*n * sizeof *out);
    if (info->causal) {
        nib_seq *s;
        test_ok(nib_seq_new(&s, en, &e), &e);
        sink to = {out, width};
        test_ok(nib_seq_eval_all(s, ids.data, (int64_t)ids.len, collect, &to, &e), &e);
    } else {
        test_ok(nib_engine_hidden(en, ids.data, (int64_t)ids.len, out, &e), &e);
        *embd = malloc((size_t)width * sizeof **embd);
        test_ok(nib_engine_embed(en, ids.data, (int64_t)ids.len, false, *embd, &e), &e);
    }
    nib_ids_free(&ids);
    nib_engine_free(en);
    nib_model_release(m);
    return out;
}

static bool verbose;

/* Against one reference file, if it is there. */
static int check(const char *dir, const char *file, const float *got, size_t n, double std,
                 double max, double rms) {
    const char *path = test_shared_path("golden/%s/%s", dir, file);
    if (!exists(path)) return 0;
    size_t n_ref;
    float *ref = read_floats(path, &n_ref);
    if (n_ref != n) fail_msg("%s/%s: %zu values, computed %zu", dir, file, n_ref, n);
    error_stat s = compare(got, ref, n, std);
    nib_free(ref);
    bool good = s.max <= max && s.rms <= rms;
    if (verbose || !good)
        print_message("%-22s %-20s max %.2e (%.0e) rms %.2e (%.0e)%s\n", dir, file, s.max, max,
                      s.rms, rms, good ? "" : "   DIFFERS");
    if (!good) fail();
    return 1;
}

static json_t *golden_json(const char *dir) {
    json_error_t je;
    json_t *g = json_load_file(test_shared_path("golden/%s/golden.json", dir), 0, &je);
    if (!g) fail_msg("%s/golden.json: %s", dir, je.text);
    return g;
}

static int one(const char *dir) {
    json_t *g = golden_json(dir);
    double std = json_number_value(json_object_get(g, "std"));
    nib_model_params mp = {0};
    size_t n;
    float *embd = NULL;
    int checks = 0;
    bool quantised =
        json_object_get(json_object_get(g, "tolerance"), "vs_dequant_rounded_activations") != NULL;
    float *out = run(dir, g, &mp, NIB_KV_F32, 2, 0, &n, &embd);
    if (!quantised) {
        static const char *const sets[2][4] = {
            {"logits.f32", "hidden.f32", "embd.f32", "vs_llamacpp"},
            {"logits_f64.f32", "hidden_f64.f32", "embd_f64.f32", "vs_float64"}};
        for (int i = 0; i < 2; i++) {
            if (!json_object_get(json_object_get(g, "tolerance"), sets[i][3])) continue;
            double max = number(g, "tolerance", sets[i][3], "max"),
                   rms = number(g, "tolerance", sets[i][3], "rms");
            checks += check(dir, sets[i][0], out, n, std, max, rms);
            checks += check(dir, sets[i][1], out, n, std, max, rms);
            size_t width = json_integer_value(json_object_get(g, "n_embd"));
            if (embd) checks += check(dir, sets[i][2], embd, width, std, max, rms);
        }
        /* the smaller caches, against the same reference; BF16 is for models whose activations are
         * rounded coarser still */
        static const nib_kv_type caches[] = {NIB_KV_F16, NIB_KV_I16, NIB_KV_BF16};
        for (int i = 0; i < 3 && exists(test_shared_path("golden/%s/logits.f32", dir)); i++) {
            if (!nib_kv_suits_machine(caches[i])) continue;
            float *small = run(dir, g, &mp, caches[i], 2, 0, &n, &embd);
            const double slack = caches[i] == NIB_KV_BF16 ? 4 : 1;
            checks += check(dir, "logits.f32", small, n, std, slack * 3e-2, slack * 5e-3);
            free(small);
        }
    } else {
        /* as it runs: activations rounded to 8 bits; then with float activations on the same
         * weights */
        checks += check(dir, "logits_dequant.f32", out, n, std,
                        number(g, "tolerance", "vs_dequant_rounded_activations", "max"),
                        number(g, "tolerance", "vs_dequant_rounded_activations", "rms"));
        mp.f32 = true;
        float *exact = run(dir, g, &mp, NIB_KV_F32, 2, 0, &n, &embd);
        checks += check(dir, "logits_dequant.f32", exact, n, std, 1e-3, 1e-4);
        free(exact);
    }
    free(out);
    free(embd);
    json_decref(g);
    if (!checks) fail_msg("%s: nothing was compared", dir);
    return checks;
}

static int is_model(const struct dirent *d) {
    return d->d_name[0] != '.' && exists(test_shared_path("golden/%s/model.gguf", d->d_name));
}

static void reference_models(void **state) {
    (void)state;
    if (!test_shared()) test_skip("no reference data beside the checkout");
    verbose = getenv("NIB_TEST_VERBOSE") != NULL;
    const char *only = getenv("NIB_TEST_ONLY");
    struct dirent **list;
    int n = scandir(test_shared_path("golden"), &list, is_model, alphasort), models = 0, checks = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        if (!only || strcmp(only, list[i]->d_name) == 0) {
            checks += one(list[i]->d_name);
            models++;
        }
        free(list[i]);
    }
    free(list);
    print_message("golden: %d models, %d comparisons within tolerance\n", models, checks);
}

/* The promise: the same bits whatever the threads, the chunks, the cache and the company. */
static void same_bits(void **state) {
    (void)state;
    if (!test_shared()) test_skip("no reference data beside the checkout");
    static const char *const models[] = {"llama",        "gemma3",     "olmo3",        "qwen3",
                                         "stablelm-par", "phi2",       "quant-q4_k_m", "quant-q8_0",
                                         "quant-f16",    "quant-iq2_s"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(models); i++) {
        json_t *g = golden_json(models[i]);
        nib_model_params mp = {0};
        size_t n;
        float *embd = NULL;
        static const nib_kv_type caches[] = {NIB_KV_I16, NIB_KV_F16, NIB_KV_BF16};
        const nib_kv_type kv = nib_kv_suits_machine(caches[i % 3]) ? caches[i % 3] : NIB_KV_I16;
        float *ref = run(models[i], g, &mp, kv, 1, 0, &n, &embd);
        static const int threads[] = {2, 3, 1, 2, 2}, batches[] = {0, 0, 1, 7, 9};
        for (int j = 0; j < 5; j++) {
            float *got = run(models[i], g, &mp, kv, threads[j], batches[j], &n, &embd);
            if (memcmp(got, ref, n * sizeof *got) != 0)
                fail_msg("%s: %d threads, chunks of %d give other bits", models[i], threads[j],
                         batches[j]);
            free(got);
        }
        free(ref);
        json_decref(g);
    }
    print_message("same bits: %zu models, 1-3 threads, chunks of 1, 7, 9 and all\n",
                  NIB_ARRAY_LEN(models));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reference_models),
                                       cmocka_unit_test(same_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
