/* ops - the operations a model is made of, for one worker of a running program.
 *
 * Every op is called by all workers with the same arguments (SPMD) and does its worker's share. Ops
 * do not wait at the end: the program calls nib_sync where the next op needs what others wrote.
 * Inputs and outputs are explicit and distinct unless stated, so that a training pass can keep what
 * a backward needs beside each call.
 *
 * Few tokens (T <= NIB_FEW) are handled differently from many, without changing a bit: element-wise
 * work is done by every worker for all tokens into memory of its own, which saves the barrier that
 * sharing it would need.
 *
 * Legend: T tokens, E embedding, H heads, K kv heads, D head width, F feed-forward, V vocabulary.
 */
#ifndef NIB_OPS_H
#define NIB_OPS_H
#include "backend/backend.h"

enum { NIB_FEW = 8 };

typedef struct nib_linear {
    nib_mat w;         /* [N, K]; data NULL: the model has no such layer */
    const float *bias; /* [N] or NULL */
    const char *name;  /* of the file's tensor that holds w, perhaps beside others */
} nib_linear;

typedef enum nib_norm_kind { NIB_NORM_RMS, NIB_NORM_LAYER } nib_norm_kind;
typedef struct nib_norm {
    const float *w, *b; /* w NULL: the model has no such norm */
} nib_norm;
typedef enum nib_activation {
    NIB_ACTIVATION_SILU,
    NIB_ACTIVATION_GELU_TANH,
    NIB_ACTIVATION_GELU_ERF
} nib_activation;

/* The tokens a worker handles in element-wise work: all of them when T is few, else its share. */
typedef struct nib_rows {
    int64_t t0, t1;
} nib_rows;
nib_rows nib_op_rows(const nib_worker *w, int64_t n_tok);

/* y = norm(x), row by row; y may be x. */
void nib_op_norm(nib_worker *w, nib_rows r, nib_norm_kind kind, const nib_norm *n, float eps,
                 const float *x, float *y, int64_t width);
/* Quantises rows of a->x (this worker's own when T is few) into those arrays of a that matrices
 * l[0..n) want (a->fast set before); the model may lack some of them. */
void nib_op_quantise(nib_worker *w, nib_rows r, int n, const nib_linear *const *l, nib_act *a);

/* y_i [T, N_i] = x W_i^T + b_i for n matrices over one input, shared by panels of 16 rows. */
void nib_op_linear(nib_worker *w, int n, const nib_linear *const *l, const nib_act *a,
                   float *const *y);
/* y [T, F] = act(x Wg^T + bg) * (x Wu^T + bu); gate NULL: y = act(x Wu^T + bu). */
void nib_op_linear_act(nib_worker *w, const nib_linear *gate, const nib_linear *up,
                       nib_activation act, const nib_act *a, float *y);
/* Scratch one worker needs for either. */
size_t nib_op_linear_scratch(int64_t n_tok, int64_t k);

/* ---- positions ---- */
typedef struct nib_rope {
    nib_rope_kind kind;
    int n_rot;
    const double *freq; /* [n_rot/2] radians a position */
    float mscale;       /* multiplies cos and sin */
} nib_rope;
/* cs [T][n_rot/2][2] for the rows' positions. */
void nib_op_rope_table(nib_rows r, const nib_rope *rope, const int64_t *pos, float *cs);

/* ---- attention over the paged cache ---- */
/* A run: consecutive tokens of a batch that belong to one sequence, at consecutive positions. */
typedef struct nib_run {
    int64_t t0, n;         /* tokens of the batch */
    int64_t pos0;          /* position of the first */
    uint8_t *const *pages; /* the sequence's pages, by position / NIB_PAGE */
    int64_t out0;          /* row of attention's output that the first token's goes to */
} nib_run;

typedef struct nib_attention {
    int n_head, n_kv, d, dv;
    nib_kv_type kv;
    size_t layer_offset;     /* of this layer inside a page */
    size_t k_bytes, v_bytes; /* of one head in one page; a head's V follows its K */
    float scale;             /* of scores */
    float softcap;           /* 0: none */
    int64_t window;          /* 0: all positions before; n: the last n, oneself included */
    bool causal;             /* false: all positions of the run */
    const nib_rope *rope;    /* NULL: none in this layer */
    const float *cs;         /* its table, by token of the batch */
    nib_norm_kind qk_kind;
    nib_norm q_norm, k_norm;
    bool qk_full; /* one norm over all heads; else one per head */
    int64_t q_norm_step,
        k_norm_step; /* per head: how far apart the heads' weights are (0: shared) */
    float eps;
    float *parts; /* nib_op_attention_parts bytes, shared by all workers */
} nib_attention;

/* Norms and rotates q and k, puts k and v into the cache, then attends: out [rows, H*Dv].
 * q [T, H*D] and k [T, K*D] are changed in place. wanted: the parts of runs whose output is wanted,
 * the same as runs when T is few. Contains the barriers it needs between its own phases. */
void nib_op_attention(nib_worker *w, const nib_attention *a, const nib_run *runs, int n_runs,
                      const nib_run *wanted, int n_wanted, int64_t n_tok, float *q, float *k,
                      const float *v, float *out);
size_t nib_op_attention_scratch(int d, int dv);
/* Memory for the unmerged results of a token whose chunks are shared out, so many at a time. */
enum { NIB_ATTN_WAVE = 16 };
size_t nib_op_attention_parts(int n_head, int dv);

/* y [t] = scale * row ids[t] of m (token embedding). */
void nib_op_lookup(nib_worker *w, nib_rows r, const nib_mat *m, const int32_t *ids, float scale,
                   float *y);
#endif
