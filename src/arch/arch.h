/* arch - model families: a file's metadata becomes a description, and one program runs any
 * description.
 *
 * A family is one file (arch/<name>.c) that fills a nib_desc through the reader's helpers, and one
 * row of archs.def. It computes nothing: what the families share is in decoder.c, once. Adding a
 * family whose blocks are combinations of what nib_desc can say needs no new computation. */
#ifndef NIB_ARCH_H
#define NIB_ARCH_H
#include "formats/formats.h"
#include "ops/ops.h"

enum { NIB_ROPE_TABLES = 2 };

typedef struct nib_layer {
    nib_norm attn_norm; /* before attention; absent: attention takes x as it is */
    nib_linear q, k, v, o;
    nib_norm q_norm, k_norm;
    nib_norm attn_post_norm; /* on attention's output, before it is added */
    nib_norm attn_sum_norm;  /* on x after attention was added (post-norm encoders) */
    nib_norm ffn_norm; /* before the feed-forward; absent: takes x (with parallel: what attention
                          took) */
    nib_linear gate, up, down; /* gate absent: down(act(up x)) */
    nib_norm ffn_post_norm, ffn_sum_norm;
    int64_t window; /* positions attention sees, itself included; 0: all */
    int rope;       /* which table rotates q and k; -1: none */
} nib_layer;

/* How a family rotates, before the context is known. */
typedef struct nib_rope_desc {
    nib_rope_kind kind;
    int n_rot;
    double base;
    double scale;         /* positions are multiplied by it (1/factor) */
    const float *factors; /* [n_rot/2] divide the frequencies; NULL: none */
    const float
        *factors_long; /* used instead when the context is longer than n_ctx_orig; NULL: none */
    float attn_factor;
    bool yarn;
    float yarn_ext, yarn_beta_fast, yarn_beta_slow;
    int64_t n_ctx_orig;
} nib_rope_desc;

typedef struct nib_desc {
    const char *arch;
    int64_t n_vocab, n_ctx_train, n_embd, n_ff;
    int n_layer, n_head, n_kv, d, dv; /* d: width of a query and key head, dv: of a value head */
    bool causal;
    nib_norm_kind norm;
    float eps;
    bool parallel;    /* x + attention(norm x) + ffn(norm x) */
    bool qk_full;     /* q_norm, k_norm over all heads at once */
    bool qk_per_head; /* their weights differ from head to head */
    nib_norm_kind qk_norm;
    nib_activation act;
    float attn_scale, attn_softcap, final_softcap;
    float embd_scale, residual_scale, logit_scale; /* logit_scale multiplies */
    nib_rope_desc rope[NIB_ROPE_TABLES];
    nib_mat tok_embd;       /* [V, E] */
    nib_mat pos_embd;       /* [positions, E]; data NULL: none */
    const float *type_embd; /* [E], type 0; NULL: none */
    nib_norm embd_norm, out_norm;
    nib_linear head; /* absent in encoders; shares tok_embd's data when tied */
    bool tied;
    nib_layer *layers; /* [n_layer] */
} nib_desc;

/* ---- reading (reader.c) ---- */

/* Where a description is read from. Small tensors (norms, biases, factors) become floats in the
 * arena; matrices are bound as rows of the file and listed, to be uploaded. */
typedef struct nib_reader {
    const nib_gguf *g;
    nib_arena *arena;
    nib_desc *d;
    const char *arch;    /* prefix of the keys */
    nib_upload *uploads; /* in the arena */
    int64_t n_uploads, cap_uploads;
    uint64_t n_bound; /* tensors used */
    nib_error *e;
} nib_reader;

/* Reads everything: looks the family up, fills *d. Memory comes from the arena; matrices stay in
 * g's mapping. The error names key or tensor, what was expected and what was found. */
nib_status nib_desc_read(nib_desc *d, nib_reader *r, const nib_gguf *g, nib_arena *arena,
                         nib_error *e);
/* The families nib runs, for messages: "llama, qwen2, ...". */
const char *nib_arch_list(void);

/* Keys: "<arch>.<key>". _or: the default when absent. All leave the first error in r and return
 * false. */
bool nib_read_i64(nib_reader *r, const char *key, int64_t min, int64_t max, int64_t *out);
bool nib_read_i64_or(nib_reader *r, const char *key, int64_t min, int64_t max, int64_t fallback,
                     int64_t *out);
bool nib_read_f32_or(nib_reader *r, const char *key, float fallback, float *out);
bool nib_read_bool_or(nib_reader *r, const char *key, bool fallback, bool *out);
bool nib_read_eps(nib_reader *r);                      /* the norm's epsilon, by d->norm */
bool nib_read_rope(nib_reader *r, nib_rope_kind kind); /* rope[0]: width, base, scaling */

enum { NIB_OPTIONAL = 1, NIB_BIAS = 2 /* must have one */, NIB_BIAS_OPTIONAL = 4 };
/* Tensors; layer < 0: name is whole, else it is "blk.<layer>.<name>". ".weight" and ".bias" are
 * added. */
bool nib_bind_norm(nib_reader *r, nib_norm *n, int layer, const char *name, int64_t width,
                   int flags);
bool nib_bind_linear(nib_reader *r, nib_linear *l, int layer, const char *name, int64_t n,
                     int64_t k, int flags);
/* Rows of a fused matrix [sum of n_i, k] as separate layers. */
bool nib_bind_fused(nib_reader *r, int count, nib_linear *const *l, const int64_t *n, int layer,
                    const char *name, int64_t k, int flags);
bool nib_bind_floats(nib_reader *r, const float **out, const char *name, int64_t n, int flags);
bool nib_has_tensor(const nib_reader *r, int layer, const char *name); /* with its suffix */

/* What most families have; each returns false with the error in r. */
bool nib_read_common(
    nib_reader *r); /* sizes and embeddings: called before a family's own function */
bool nib_bind_head(nib_reader *r, int flags); /* output norm, output or tied */
bool nib_bind_positions(nib_reader *r);       /* learnt positions; they bound the context */
bool nib_bind_qkv(nib_reader *r, int layer, int flags); /* fused or separate, with o */
bool nib_bind_ffn(nib_reader *r, int layer, bool gated,
                  int flags); /* gate, up, down; up may hold both */

/* ---- running (decoder.c) ---- */

/* What matrices are given, numbered: NIB_INPUTS for each layer, then the output matrix's. */
typedef enum nib_input_kind {
    NIB_INPUT_ATTN,     /* q, k, v */
    NIB_INPUT_ATTN_OUT, /* o */
    NIB_INPUT_FFN,      /* up, gate */
    NIB_INPUT_FFN_OUT,  /* down */
    NIB_INPUTS
} nib_input_kind;

/* The tokens of one forward pass. */
typedef struct nib_batch {
    int64_t n_tok;
    const int32_t *ids;
    const int64_t *pos;
    const nib_run *runs;
    int n_runs;
    const int64_t *outputs; /* tokens whose logits (or hidden states) are wanted, ascending */
    int64_t n_out;
    float *hidden;                /* [n_out, E] after the last norm, when wanted; else NULL */
    float *logits;                /* [n_out, V], when wanted; else NULL */
    bool fast;                    /* see nib_engine_params.fast_prompt */
    const nib_observer *observer; /* shown every matrix's input; NULL: nobody looks */
} nib_batch;

/* What a pass needs beside the weights: made once for the largest batch. */
typedef struct nib_decoder {
    const nib_desc *d;
    nib_kv_type kv;
    int64_t max_tok;
    size_t layer_bytes, k_bytes, v_bytes; /* of a layer in a page; of one head's K and V */
    nib_rope rope[NIB_ROPE_TABLES];
    float *cs[NIB_ROPE_TABLES];
    float *x, *xn, *q, *k, *v, *att, *y, *y2, *h, *parts;
    void *act_memory;
    size_t own_offset; /* of a worker's private part in its scratch */
    void *memory;      /* holds nothing between passes */
    double *freqs;     /* of all tables */
    size_t memory_bytes, scratch_bytes;
} nib_decoder;

/* Bytes of memory and of scratch per thread a decoder would take, without taking them. */
void nib_decoder_measure(const nib_desc *d, int64_t max_tok, size_t *memory, size_t *scratch);
/* n_ctx: the context it will run with (some families rotate differently in long ones). */
nib_status nib_decoder_new(nib_decoder *x, const nib_desc *d, nib_kv_type kv, int64_t n_ctx,
                           int64_t max_tok, nib_error *e);
void nib_decoder_free(nib_decoder *x);
/* Gives the memory of its buffers back until the next pass. */
void nib_decoder_rest(nib_decoder *x);
/* The cache that AUTO is: I16 where weights meet 8-bit activations and the heads suit it, else F16.
 * Any other type is itself. */
nib_kv_type nib_decoder_kv(const nib_desc *d, nib_kv_type kv);
/* Bytes of a page, without a decoder; 0: the head width does not suit the type. */
size_t nib_decoder_page_bytes(const nib_desc *d, nib_kv_type kv);
/* The forward pass, on all threads of be, whose scratch was reserved. */
void nib_decoder_run(const nib_decoder *x, nib_backend *be, const nib_batch *b);
/* Its last step alone: logits [n, V] of hidden states [n, E] that a pass gave, n <= max_tok. The
 * same bits as when the pass gives them. */
void nib_decoder_head(const nib_decoder *x, nib_backend *be, float *hidden, int64_t n,
                      float *logits);
#endif
