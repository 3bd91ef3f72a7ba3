/* How far scores lie from a reference: Kullback-Leibler divergence of the distributions after each
 * token, in nats.
 *
 *   kl N_VOCAB REFERENCE.f32 OTHER.f32 ...    a line a file: mean, 99.9th percentile, share of
 * equal first choices
 *
 * Files are float32 [n_tokens, n_vocab], as nib logits writes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int n_vocab;

static int row(FILE *f, float *out) {
    return fread(out, sizeof *out, (size_t)n_vocab, f) == (size_t)n_vocab;
}

/* log of the sum of exp, and the first choice. */
static double log_sum(const float *x, int *top) {
    *top = 0;
    for (int i = 1; i < n_vocab; i++)
        if (x[i] > x[*top]) *top = i;
    double sum = 0;
    for (int i = 0; i < n_vocab; i++) sum += exp((double)x[i] - (double)x[*top]);
    return log(sum) + (double)x[*top];
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 4 || (n_vocab = atoi(argv[1])) < 1) {
        fprintf(stderr, "usage: kl N_VOCAB REFERENCE.f32 OTHER.f32 ...\n");
        return 2;
    }
    float *p = malloc((size_t)n_vocab * sizeof *p), *q = malloc((size_t)n_vocab * sizeof *q);
    for (int i = 3; i < argc; i++) {
        FILE *a = fopen(argv[2], "rb"), *b = fopen(argv[i], "rb");
        if (!p || !q || !a || !b) {
            fprintf(stderr, "kl: cannot read '%s' and '%s'\n", argv[2], argv[i]);
            return 1;
        }
        double *kl = NULL, sum = 0;
        int n = 0, same = 0;
        while (row(a, p) && row(b, q)) {
            int top_p, top_q;
            double sp = log_sum(p, &top_p), sq = log_sum(q, &top_q), d = 0;
            for (int v = 0; v < n_vocab; v++) {
                double lp = (double)p[v] - sp;
                d += exp(lp) * (lp - ((double)q[v] - sq));
            }
            kl = realloc(kl, (size_t)(n + 1) * sizeof *kl);
            kl[n++] = d;
            sum += d;
            same += top_p == top_q;
        }
        fclose(a);
        fclose(b);
        if (!n) {
            fprintf(stderr, "kl: '%s' and '%s' share no row of %d\n", argv[2], argv[i], n_vocab);
            return 1;
        }
        qsort(kl, (size_t)n, sizeof *kl, ascending);
        printf("%d %.9f %.9f %.4f\n", n, sum / n, kl[(int)ceil(0.999 * n) - 1], (double)same / n);
        free(kl);
    }
    free(p);
    free(q);
    return 0;
}
