/* score - what models say about each token of a text, side by side; and one model's answers kept in
 * a file for another time. */
#ifndef NIB_EVAL_SCORE_H
#define NIB_EVAL_SCORE_H
#include "eval/eval.h"

/* What is known of one scored token. [0] the reference, [1] the other. */
typedef struct nib_scored {
    double nll[2]; /* -log of the probability given to the token that came */
    double kl;
    int32_t top[2]; /* first choices */
} nib_scored;

/* Distributions, 16 bits a probability, in an unnamed file: written front to back, then read so. A
 * row holds logits up to a constant: steps of a 65535th of their range. */
typedef struct nib_logfile {
    FILE *f;
    size_t row_bytes;
} nib_logfile;
/* In $TMPDIR or /var/tmp; NIB_ERR_IO when n_rows would not fit there. */
nib_status nib_logfile_open(nib_logfile *l, int64_t n_rows, int64_t n_vocab, nib_error *e);
void nib_logfile_close(nib_logfile *l);
size_t nib_logfile_row_bytes(int64_t n_vocab);
void nib_logfile_encode(const float *logits, int64_t n_vocab, void *row);
void nib_logfile_decode(const void *row, int64_t n_vocab, float *logits);
nib_status nib_logfile_write(nib_logfile *l, const void *rows, int64_t n, nib_error *e);
nib_status nib_logfile_rewind(nib_logfile *l, nib_error *e);
nib_status nib_logfile_read(nib_logfile *l, void *rows, int64_t n, nib_error *e);

typedef struct nib_score_job {
    const nib_chunks *chunks;
    nib_engine *engine[2]; /* the reference's may be NULL with 'from', the other's may always be */
    nib_logfile *to;       /* NULL, or where the reference's distributions go */
    nib_logfile *from;     /* NULL, or where they come from; its nll and top are in out already */
    nib_scored *out;       /* [nib_score_count(chunks)] */
    double seconds[2];     /* added up: spent reading */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
} nib_score_job;
/* Tokens that are scored: those of the second half of each chunk that have a successor. */
int64_t nib_score_count(const nib_chunks *c);
/* Bytes of memory nib_score takes beside the engines. */
size_t nib_score_memory(int64_t n_vocab);
/* The same numbers whatever the number of threads. NIB_ERR_FORMAT when a model's scores are not
 * finite. */
nib_status nib_score(nib_score_job *j, nib_error *e);

/* Mean and its standard error of n numbers 'step' doubles apart. */
nib_estimate nib_mean_of(const double *v, int64_t n, int64_t step);
#endif
