/* The quantisers of nib and of ggml on the same weights: the error each leaves, and how long it
 * takes, on one thread.
 *
 *   blocks [MODEL.gguf]     a row a format: nib's squared error over ggml's, for normal weights,
 * for heavy-tailed ones, and for both with importances; then for the model's matrices, if one is
 * given; and nib's speed over ggml's, without and with importances
 *
 * With importances the error is weighted by them, which is what both are told to make small. Rows
 * of a matrix share theirs, as an importance matrix has it. Both libraries number formats alike.
 * Built and called by blocks.sh. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "formats/formats.h"
#include "ggml.h"

enum { COLUMNS = 1024, ROWS = 256, N = COLUMNS * ROWS };

static float x[N], y[N], w[N], columns[COLUMNS];
static unsigned char blocks[2][N * 4];

static double weighted_error(const nib_dtype_info *t, const void *made, int64_t n,
                             const float *weights) {
    double sum = 0;
    t->to_f32(made, y, n);
    for (int64_t i = 0; i < n; i++)
        sum += (weights ? (double)weights[i] : 1) * ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sum;
}

typedef struct outcome {
    double error[2], seconds[2]; /* nib's, ggml's */
} outcome;

static void both(uint32_t id, int64_t rows, int64_t k, const float *weights, outcome *o) {
    const nib_dtype_info *t = nib_dtype_get(id);
    double start = nib_now();
    t->from_f32(x, blocks[0], rows * k, weights ? w : NULL);
    o->seconds[0] += nib_now() - start;
    start = nib_now();
    ggml_quantize_chunk((enum ggml_type)id, x, blocks[1], 0, rows, k, weights);
    o->seconds[1] += nib_now() - start;
    for (int who = 0; who < 2; who++)
        o->error[who] += weighted_error(t, blocks[who], rows * k, weights ? w : NULL);
}

static void draw(int heavy) {
    nib_rng r = {heavy ? 2 : 1, 0};
    for (int i = 0; i < N; i++) {
        float v = 0.02f * nib_rng_normal(&r);
        x[i] = heavy ? v * expf(0.7f * nib_rng_normal(&r)) : v;
    }
    for (int i = 0; i < COLUMNS; i++) columns[i] = expf(1.5f * nib_rng_normal(&r));
    for (int i = 0; i < N; i++) w[i] = columns[i % COLUMNS];
}

/* Some rows of each matrix. */
static outcome model(const nib_gguf *g, uint32_t id) {
    outcome o = {0};
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        int64_t k = t->ne[0], rows = N / k < t->ne[1] ? N / k : t->ne[1];
        if (t->n_dims != 2 || k > N || k % nib_dtype_get(id)->block_len) continue;
        nib_dtype_get(t->dtype)->to_f32(t->data, x, rows * k);
        both(id, rows, k, NULL, &o);
    }
    return o;
}

int main(int argc, char **argv) {
    static const uint32_t types[] = {NIB_Q8_0,   NIB_Q4_0,   NIB_Q4_1, NIB_Q5_0, NIB_Q5_1,
                                     NIB_Q2_K,   NIB_Q3_K,   NIB_Q4_K, NIB_Q5_K, NIB_Q6_K,
                                     NIB_IQ4_NL, NIB_IQ4_XS, NIB_MXFP4};
    nib_gguf *g = NULL;
    nib_error e;
    if (argc > 1 && nib_gguf_open(&g, argv[1], &e) != NIB_OK) {
        fprintf(stderr, "blocks: %s\n", e.message);
        return 1;
    }
    printf("| format | normal | heavy tails | normal, importances | heavy tails, importances |%s "
           "speed | speed, importances |\n|---|---:|---:|---:|---:|---:|---:|%s\n",
           g ? " model |" : "", g ? "---:|" : "");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        outcome speed[2] = {0};
        printf("| %s |", nib_dtype_get(types[i])->name);
        for (int weighted = 0; weighted < 2; weighted++)
            for (int heavy = 0; heavy < 2; heavy++) {
                outcome o = {0};
                draw(heavy);
                both(types[i], ROWS, COLUMNS, weighted ? columns : NULL, &o);
                printf(" %.3f |", o.error[0] / o.error[1]);
                for (int who = 0; who < 2; who++) speed[weighted].seconds[who] += o.seconds[who];
            }
        if (g) {
            outcome o = model(g, types[i]);
            printf(" %.3f |", o.error[0] / o.error[1]);
        }
        for (int k = 0; k < 2; k++) printf(" %.2f |", speed[k].seconds[1] / speed[k].seconds[0]);
        printf("\n");
        fflush(stdout);
    }
    nib_gguf_close(g);
    return 0;
}
