/* What llama.cpp does with a file, to be set beside nib. Built and called by compare.sh,
 * quality.sh and quantise.sh against the prebuilt CPU library of npm's node-llama-cpp.
 *
 *   llamacpp speed MODEL THREADS PP TG DEPTH BATCH    one line: prompt and generation, tokens a
 * second, after a warm-up llamacpp logits MODEL THREADS IDS OUT             float32 [n, n_vocab],
 * as nib logits writes them
 *   llamacpp quantise MODEL THREADS OUT TYPE             one line: seconds; TYPE as nib quantize
 * has it
 *
 * A prompt is decoded 512 tokens at a time and only its last logits are asked for; generated tokens
 * ask for theirs in every sequence, in step. Tokens are arbitrary: speed does not depend on them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "llama.h"

enum { CHUNK = 512 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void silent(enum ggml_log_level level, const char *text, void *arg) {
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static void die(const char *what) {
    fprintf(stderr, "llamacpp: %s\n", what);
    exit(1);
}

static void put(struct llama_batch *b, int token, int pos, int seq, int wants_logits) {
    int i = b->n_tokens++;
    b->token[i] = token;
    b->pos[i] = pos;
    b->n_seq_id[i] = 1;
    b->seq_id[i][0] = seq;
    b->logits[i] = (int8_t)wants_logits;
}

static void decode(struct llama_context *c, struct llama_batch *b) {
    if (llama_decode(c, *b) != 0) die("llama_decode failed");
    llama_synchronize(c);
    b->n_tokens = 0;
}

/* Tokens [from, to) of a sequence. */
static void prompt(struct llama_context *c, struct llama_batch *b, int seq, int from, int to) {
    for (int pos = from; pos < to; pos++) {
        put(b, 1 + (pos * 31 + seq) % 5000, pos, seq, pos == to - 1);
        if (b->n_tokens == CHUNK || pos == to - 1) decode(c, b);
    }
}

static void generate(struct llama_context *c, struct llama_batch *b, int n_seq, int from, int n) {
    for (int i = 0; i < n; i++) {
        for (int s = 0; s < n_seq; s++) put(b, 1 + (i * 17 + s) % 5000, from + i, s, 1);
        decode(c, b);
    }
}

static struct llama_context *open_context(struct llama_model *m, int n_ctx, int n_seq,
                                          int threads) {
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = (uint32_t)(n_ctx * n_seq);
    p.n_seq_max = (uint32_t)n_seq;
    p.n_batch = p.n_ubatch = CHUNK;
    p.n_threads = p.n_threads_batch = threads;
    p.no_perf = true;
    struct llama_context *c = llama_init_from_model(m, p);
    if (!c) die("no context");
    return c;
}

static void speed(struct llama_model *m, int threads, int pp, int tg, int depth, int n_seq) {
    int longest = pp > tg ? pp : tg;
    struct llama_context *c = open_context(m, depth + longest + 32, n_seq, threads);
    struct llama_batch b = llama_batch_init(CHUNK, 0, 1);
    double pp_s = 0, tg_s = 0;
    for (int round = 0; round < 2; round++) { /* the first warms up */
        llama_memory_clear(llama_get_memory(c), true);
        for (int s = 0; s < n_seq; s++) prompt(c, &b, s, 0, depth);
        double t = seconds();
        if (pp) prompt(c, &b, 0, depth, depth + pp);
        pp_s = seconds() - t;
        llama_memory_seq_rm(llama_get_memory(c), 0, depth, -1);
        t = seconds();
        generate(c, &b, n_seq, depth, tg);
        tg_s = seconds() - t;
    }
    printf("%.3f %.3f\n", pp ? pp / pp_s : 0, tg ? (double)tg * n_seq / tg_s : 0);
}

static void logits(struct llama_model *m, int threads, const char *ids, const char *out) {
    FILE *in = fopen(ids, "r"), *to = fopen(out, "wb");
    if (!in || !to) die("cannot open the files of ids and logits");
    int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(m)), id, n = 0;
    struct llama_context *c = open_context(m, 4096, 1, threads);
    struct llama_batch b = llama_batch_init(CHUNK, 0, 1);
    for (int more = 1; more;) {
        more = fscanf(in, "%d%*[ ,\n]", &id) >= 1;
        if (more) put(&b, id, n++, 0, 1);
        if (b.n_tokens == CHUNK || (!more && b.n_tokens)) {
            int held = b.n_tokens;
            decode(c, &b);
            for (int i = 0; i < held; i++)
                fwrite(llama_get_logits_ith(c, i), sizeof(float), (size_t)n_vocab, to);
        }
    }
    if (fclose(to) != 0) die("cannot write the logits");
}

static void quantise(const char *in, int threads, const char *out, const char *type) {
    static const struct {
        const char *name;
        enum llama_ftype type;
    } types[] = {
        {"f16", LLAMA_FTYPE_MOSTLY_F16},       {"bf16", LLAMA_FTYPE_MOSTLY_BF16},
        {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
        {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},
        {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},     {"q2_k", LLAMA_FTYPE_MOSTLY_Q2_K},
        {"q3_k_s", LLAMA_FTYPE_MOSTLY_Q3_K_S}, {"q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M},
        {"q3_k_l", LLAMA_FTYPE_MOSTLY_Q3_K_L}, {"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S},
        {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"q5_k_s", LLAMA_FTYPE_MOSTLY_Q5_K_S},
        {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M}, {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},
        {"iq4_nl", LLAMA_FTYPE_MOSTLY_IQ4_NL}, {"iq4_xs", LLAMA_FTYPE_MOSTLY_IQ4_XS},
    };
    struct llama_model_quantize_params p = llama_model_quantize_default_params();
    p.nthread = threads;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, type) != 0) continue;
        p.ftype = types[i].type;
        double start = seconds();
        if (llama_model_quantize(in, out, &p) != 0) die("cannot quantise");
        printf("%.3f\n", seconds() - start);
        return;
    }
    die("a type that it does not make");
}

int main(int argc, char **argv) {
    int quantises = argc == 6 && strcmp(argv[1], "quantise") == 0;
    int measures = argc == 8 && strcmp(argv[1], "speed") == 0;
    if (!quantises && !measures && !(argc == 6 && strcmp(argv[1], "logits") == 0)) {
        fprintf(stderr, "usage: see the head of llamacpp.c\n");
        return 2;
    }
    llama_log_set(silent, NULL);
    ggml_backend_load_all_from_path(getenv("PEER_LIBS"));
    llama_backend_init();
    if (quantises) {
        quantise(argv[2], atoi(argv[3]), argv[4], argv[5]);
        return 0;
    }
    struct llama_model *m = llama_model_load_from_file(argv[2], llama_model_default_params());
    if (!m) die("cannot load the model");
    int threads = atoi(argv[3]);
    if (measures)
        speed(m, threads, atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), atoi(argv[7]));
    else
        logits(m, threads, argv[4], argv[5]);
    return 0;
}
