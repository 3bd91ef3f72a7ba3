/* kernels - the arithmetic, as pure functions of a range: scalar truth first, then instruction sets
 * that override it.
 *
 * A kernel set is one table of function pointers. scalar fills every slot; each later row of
 * isa.def that the machine supports overrides the slots it has (NIB_CPU=scalar|avx2|avx512 in the
 * environment stops earlier). Every override is held to the scalar one BIT FOR BIT: that is what
 * makes results independent of thread count, batch shape and prompt chunking, and of the machine,
 * too, where the cache type is the same (nib_kernels.kv is what the default depends on). Hence the
 * rules:
 *
 *  1. An output has one lane, and its sum over K runs in one fixed order, whatever the number of
 * tokens or rows.
 *  2. No contraction by the compiler (-ffp-contract=off): where a fused multiply-add is meant, it
 * is written (fmaf).
 *  3. A sum over n floats has 16 lanes: lane i adds elements i, i+16, ... in order (fmaf for
 * products); the lanes are then added as a tree: i with i+8, i with i+4, i with i+2, i with i+1.
 * Elements past n are skipped, not padded.
 *  4. exp, tanh and friends are one polynomial, written in vecmath.h, the same steps in every set.
 *
 * Legend: T tokens, N rows of a weight matrix (outputs), K columns (inputs), D head width. */
#ifndef NIB_KERNELS_H
#define NIB_KERNELS_H
#include "tensor/tensor.h"

/* ---- weights in P16 ----
 * 16 rows form a panel; inside, four consecutive k of each of the 16 rows lie together:
 * [K/4][16][4] bytes, one 512-bit operand of a dot-product instruction a line, so outputs never
 * need a horizontal sum. The layout of each format stands at the head of its kernel file. A packed
 * matrix takes exactly the bytes of the rows it came from (rows padded with zeros to 16). Formats
 * that have no packed form stay as they are in the file and are expanded panel by panel at use. */
typedef struct nib_mat {
    nib_dtype dtype;
    bool packed;
    int64_t n, k;        /* rows (outputs), columns (inputs) */
    const uint8_t *data; /* packed: ceil(n/16) panels; else n rows as in the file */
    size_t stride;       /* bytes of a panel, or of a row */
} nib_mat;

enum { NIB_PANEL = 16 };
/* What multiplies a matrix; bits, because the consumers of one input may want several. */
typedef enum nib_act_kind {
    NIB_ACT_Q8 = 1,
    NIB_ACT_Q8K = 2,
    NIB_ACT_FAST = 4,
    NIB_ACT_F32 = 8
} nib_act_kind;

/* What multiplies a weight matrix. Float formats (F32, F16, BF16) and those without a packed form
 * take the floats (F32); formats with blocks of 32 columns take 8-bit integers with one scale per
 * 32 (Q8), formats with blocks of 256 the same with one scale per 256 (Q8K): x ~ d * q, d = max|x|
 * / 127, q = nearest-even(x * (127 / max|x|)). NaN counts as 0, infinity as the largest float, a
 * block whose max|x| is below 2^-100 as zeros; |q| <= 127. The arrays run by block of columns, then
 * by token.
 *
 * FAST: what matmul_fast takes, the same rounding with a scale per group of up to 256 columns
 * (nib_fast_group), for K a multiple of 64. Where K is a multiple of 256 that is Q8K's kq and kd.
 *
 * F32: the same floats in the order in which a product takes them: pieces of NIB_TILE_K columns
 * (the last may be shorter), in each the tiles of tokens (nib_tile), in each [column][token]. In
 * rows, what a product takes at a time lies in several places, a power of two apart.
 */
typedef struct nib_act {
    int64_t n_tok, k;
    bool fast;      /* matrices that can be are multiplied by matmul_fast */
    const float *x; /* [T, K], rows ldx floats apart */
    int64_t ldx;
    int8_t *q; /* [K/32][T][32], 64-byte aligned */
    float *d;  /* [K/32][T] */
    float *ds; /* [K/32][T]: d * the sum of the block's q, for formats with minima */
    int32_t
        *bias;  /* [K/32][T]: -128 * the sum of the block's q, for weights stored with 128 added */
    int8_t *kq; /* [K/64][T][64], 64-byte aligned; two tiles past the last token may be read */
    float *kd;  /* [K/256, rounded up][T] */
    int32_t *kbias; /* FAST only: [as kd][T], -128 * the sum of the group's q */
    int16_t *ks16;  /* [K/256][T][16]: sums of 16 q each */
    int16_t *ks32;  /* [K/256][T][8]: sums of 32 q each */
    uint8_t *calm;  /* [K/256][T]: 1 where the sizes of no 16 q add up to more than NIB_CALM */
    /* [K/256][T][16]: ks16 as pairs of bfloat16 that add up to it, 64-byte aligned; two tiles
     * past the last token may be read */
    uint32_t *ksbf;
    float *tiled; /* F32: [T * K], as above */
} nib_act;
/* Of at most 16 * 127. Of activations that are spread normally two blocks in a thousand are not
 * calm. */
enum { NIB_CALM = 1023 };
size_t nib_act_bytes(int64_t n_tok, int64_t k); /* for all arrays together, in 64-byte parts */
void nib_act_bind(nib_act *a, void *mem, int64_t n_tok,
                  int64_t k); /* sets n_tok, k and the arrays inside mem; not fast */

/* Tiles of nearly equal numbers of tokens: i has [nib_tile(n_tok, i), nib_tile(n_tok, i + 1)). */
enum { NIB_TILE_T = 12, NIB_TILE_K = 128 };
static inline int64_t nib_tiles(int64_t n_tok) {
    return (n_tok + NIB_TILE_T - 1) / NIB_TILE_T;
}
static inline int64_t nib_tile(int64_t n_tok, int64_t i) {
    return n_tok * i / nib_tiles(n_tok);
}
/* Tokens [t0, t1) of a->x into a->tiled. */
void nib_act_tile(nib_act *a, int64_t t0, int64_t t1);

nib_act_kind nib_mat_act(nib_dtype t);
/* From so many tokens on matmul_fast is the faster one. */
enum { NIB_FAST_LEAST = 32 };
/* Whether it takes the matrix. */
bool nib_mat_can_fast(nib_dtype t, int64_t k);
/* FAST groups of a row: g covers tiles of 64 columns [nib_fast_group(k, g), nib_fast_group(k, g +
 * 1)), as evenly as can be, at most four. */
static inline int64_t nib_fast_groups(int64_t k) {
    return (k / 64 + 3) / 4;
}
static inline int64_t nib_fast_group(int64_t k, int64_t g) {
    return k / 64 * g / nib_fast_groups(k);
}
bool nib_mat_can_pack(nib_dtype t, int64_t k); /* K must be whole blocks */
size_t nib_mat_panel_bytes(nib_dtype t, int64_t k);
/* Asks memory for what a product with few tokens reads first of up to n panels from p on. */
void nib_mat_ask(const nib_mat *w, int64_t p, int64_t n);

/* ---- the key/value cache ----
 * A page holds NIB_PAGE positions of one layer's kv heads. Per kv head: K in tiles of 16 positions,
 *   F32, F16: [NIB_PAGE/16][D][16];  Q8_0: [NIB_PAGE/16][D/32]{16 f16 scales, [8][16][4] int8}
 * and V by position: F32, F16: [NIB_PAGE][D]; Q8_0: [NIB_PAGE][D/32]{f16 scale, 32 int8}
 *
 * I16, which takes as much as F16, is for attention in integers (attn_int.h): a float scale a
 * position and vectors of integers of 16 bits, in pairs that are multiplied together,
 *   K: {[NIB_PAGE] f32 scales, [NIB_PAGE/16][D/2][16][2] int16}, turned by a Hadamard transform,
 *   V: {[NIB_PAGE] f32 scales, [NIB_PAGE/2][D to whole 16s][2] int16}
 * for D of whole fours up to NIB_KV_I16_MAX_D. BF16 is for tiles of bfloat16 (attn_bf16.h has its
 * layout), D up to NIB_KV_BF16_MAX_D padded to whole 32s. */
/* clang-format off */
#define NIB_KV_TYPES(X) X(AUTO, "auto") X(I16, "i16") X(F16, "f16") X(F32, "f32") X(Q8_0, "q8_0") X(BF16, "bf16")
#define NIB_KV_BAR(T, name) "|" name
#define NIB_KV_CHOICE (&(NIB_KV_TYPES(NIB_KV_BAR))[1]) /* "auto|i16|...", for nib_parse_choice */
typedef enum nib_kv_type { /* AUTO: whoever makes a cache decides; kernels never see it */
#define X(T, name) NIB_KV_##T,
    NIB_KV_TYPES(X)
#undef X
    NIB_KV_N_TYPES
} nib_kv_type;
/* clang-format on */
const char *nib_kv_name(nib_kv_type t);
/* Whether it is for this machine: BF16 is for those with tiles, and unbearably slow elsewhere. */
bool nib_kv_suits_machine(nib_kv_type t);
/* Pages are kept on disk and used again by later builds: raise this when their layout, the number
 * of a type, or the arithmetic of anything that ends up in them changes (matrices, norms, rotation,
 * quantising while loading). */
enum { NIB_KV_VERSION = 4 };
enum { NIB_PAGE = 64, NIB_ATTN_CHUNK = 256, NIB_ATTN_PAGES = NIB_ATTN_CHUNK / NIB_PAGE };
enum { NIB_ATTN_GROUP = 96 }; /* queries whose scores are kept at once */
/* Floats between their rows: not a power of two, for such lines push each other out. */
enum { NIB_ATTN_ROW = NIB_ATTN_CHUNK + 16 };
enum {
    /* Of a query, a key and a value as a vector, and of the weights of a chunk together: sums stay
     * below 2^31. */
    NIB_KV_I16_MOST = 32000,
    NIB_KV_I16_MAX_D = 512,
    NIB_KV_I16_HEAD = NIB_PAGE * 4, /* bytes of scales before the integers */
    NIB_KV_BF16_MAX_D = 512,
};
size_t nib_kv_head_bytes(nib_kv_type t,
                         int d); /* of K, and of V, of one head in one page; 0: D does not suit */

/* One chunk of attention: n_q query vectors that share a kv head against the positions
 * [pos0, pos0 + NIB_ATTN_CHUNK), of which query i sees [lo[i], hi[i]). Scores are q.k (q comes
 * scaled), soft-capped when softcap > 0 (cap * tanh(s / cap)). Output, unnormalised: m = largest
 * score (-INFINITY when none is seen), s = sum of exp(score - m), o = sum of exp(score - m) * v.
 * Chunks start at multiples of NIB_ATTN_CHUNK always, and are merged in ascending order with
 * attn_merge: so a token's result is the same in prefill and decode. Order of sums: a score over D
 * by fmaf, ascending; s as rule 3 over the position's lane (pos % 16); o over positions, ascending.
 * F16, F32 and Q8_0 count as the floats they stand for (exact: a half float scale times 8 bits fits
 * a float). With I16 queries are what attn_query made of them, and scores and weighted sums are
 * exact integers, scaled once. BF16 is a recipe of its own (attn_bf16.h), and its m may be another
 * score than the largest. A query that sees NaN gets NaN, never "empty". Of K whole tiles are
 * read (BF16: pages), of V only what is seen (I16: pairs of positions; BF16: whole 32s). */
typedef struct nib_attn {
    nib_kv_type type;
    int d, dv;
    /* this head's part of each page; NULL outside the first to the last position that any query
     * sees */
    const uint8_t *k[NIB_ATTN_PAGES], *v[NIB_ATTN_PAGES];
    int64_t pos0;
    int n_q;
    const float *const *q; /* [n_q] pointers to D floats; I16: as attn_query left them */
    const int64_t *lo, *hi;
    float softcap;
    bool more;        /* m, s and o hold what earlier chunks gave: they become those of all, with
                         the numbers that attn_merge would give */
    float *m, *s, *o; /* [n_q], [n_q], [n_q, Dv] */
    float *scratch;   /* nib_attn_scratch bytes, 64-byte aligned */
} nib_attn;
/* Room for the scores, sums and packed queries of NIB_ATTN_GROUP. */
size_t nib_attn_scratch(int d, int dv);

typedef enum nib_rope_kind {
    NIB_ROPE_NONE,
    NIB_ROPE_PAIR,
    NIB_ROPE_NEOX
} nib_rope_kind; /* (2i,2i+1) or (i,i+n/2) */

typedef struct nib_kernels {
    const char *name; /* of the highest set in use: "scalar", "avx2", "avx512" ... */

    /* -- matrices (files <isa>_mm*.c) -- */
    /* rows: n_rows <= 16 rows as in the file, row_bytes apart; panel: nib_mat_panel_bytes; missing
     * rows become zero. */
    void (*pack)(nib_dtype t, const void *rows, size_t row_bytes, int n_rows, int64_t k,
                 uint8_t *panel);
    /* One row of a matrix (packed or not) as floats: exactly what the format's to_f32 gives. */
    void (*unpack_row)(const nib_mat *w, int64_t row, float *dst);
    /* Tokens [t0, t1) of x [T, K] into a (a->n_tok, a->k bound before): quantise fills the arrays
     * of Q8, K a multiple of 32; quantise_k those of Q8K, K a multiple of 256. */
    void (*quantise)(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
    void (*quantise_k)(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
    void (*quantise_fast)(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a);
    /* y[t*ldy + row] = sum over k of w[row][k] * a[t][k] for all tokens and rows of panels [p0,
     * p1); rows past w->n are not written. Per block of the activations an exact integer sum, then
     * fmaf into the output, ascending; mm.h states the order. scratch: nib_matmul_scratch bytes. */
    void (*matmul)(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch);
    /* The same over weights that are rounded once more, to 8 bits with one scale per row and FAST
     * group, so that integer sums become floats only once a group: faster for many tokens, and not
     * quite what the file says. mm.h states the rule. NULL: this set has nothing to gain. */
    void (*matmul_fast)(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                        int64_t ldy, void *scratch);

    /* -- vectors (files <isa>_vec*.c) -- */
    /* y may be x. w, b may be NULL. Means and sums as rule 3. */
    void (*rms_norm)(const float *x, const float *w, float eps, int64_t n, float *y);
    void (*layer_norm)(const float *x, const float *w, const float *b, float eps, int64_t n,
                       float *y);
    void (*add)(float *y, const float *x, int64_t n);                 /* y += x */
    void (*add_scaled)(float *y, const float *x, float s, int64_t n); /* y = fmaf(s, x, y) */
    void (*scale)(float *y, float s, int64_t n);
    /* y = f(x) * u; u NULL: y = f(x); y may be x */
    void (*silu)(float *y, const float *x, const float *u, int64_t n);
    void (*gelu_tanh)(float *y, const float *x, const float *u, int64_t n);
    void (*gelu_erf)(float *y, const float *x, const float *u, int64_t n);
    void (*softcap)(float *x, float cap, int64_t n);         /* cap * tanh(x / cap) */
    float (*dot)(const float *a, const float *b, int64_t n); /* rule 3 */
    /* Rotates the first n_rot of x [D] in place; cs: n_rot/2 pairs (cos, sin). */
    void (*rope)(float *x, const float *cs, int n_rot, nib_rope_kind kind);
    /* Puts K [D] and V [Dv] of one position (0 <= at < NIB_PAGE) of one head into its page. */
    void (*kv_store)(nib_kv_type t, const float *k, int d, const float *v, int dv, int at,
                     uint8_t *k_page, uint8_t *v_page);
    /* The cache type that attention with 8 significant bits is fastest with: I16 or BF16. */
    nib_kv_type kv;
    /* Brings a query [D], scaled, into the form that attn takes it in, in place: nothing to do but
     * for I16 and BF16. */
    void (*attn_query)(nib_kv_type t, float *q, int d);
    void (*attn)(const nib_attn *a);
    /* (m,s,o) of a <- the union of a and b. -INFINITY means empty on either side. */
    void (*attn_merge)(float *ma, float *sa, float *oa, float mb, float sb, const float *ob,
                       int dv);
    void (*attn_finish)(float *o, float s, int dv); /* o /= s (zeros when s is 0) */
    int64_t (*argmax)(
        const float *x,
        int64_t n); /* lowest index of the largest; NaN never wins; 0 when all are NaN */
} nib_kernels;

/* The set for this machine; made once, thread-safe. */
const nib_kernels *nib_kernels_get(void);
/* The set up to a named row ("scalar", "x86_avx2", ...): for tests and benches. NULL when unknown
 * or unsupported. */
const nib_kernels *nib_kernels_upto(const char *isa);
/* Bytes of scratch one thread needs for matmul with up to n_tok tokens. */
size_t nib_matmul_scratch(int64_t n_tok, int64_t k);
/* Space-separated processor features found, for people. */
const char *nib_cpu_features(void);
#endif
