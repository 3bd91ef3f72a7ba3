/* Matrix products with AMX: the integer sums of many tokens by tiles, on top of the AVX-512 set.
 *
 * A piece of two panels is expanded to signed bytes as for vpdpbusd; its group of 32 columns, 8
 * lines of 64 bytes, is a B tile as it stands, and a group's activations, NT tokens of 32 bytes,
 * are an A tile. A tile product is half as deep as it could be, for the scales change every 32
 * columns: but integer sums are exact, so the floats follow the order of mm.h and the results are
 * those of every other set.
 *
 * Turning sums into floats takes longer than the products, so NT tokens x 2 panels of floats stay
 * in registers, and what the next group needs is started before the last one's sums are stored: a
 * store that waits for its product holds up all behind it. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 12 }; /* tokens a tile: with 2 panels, 24 of 32 registers hold sums */

/* Tiles 0-3: sums of panels 0 and 1, of even and odd groups; 4, 5: activations; 6, 7: weights. */
static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = (uint8_t)(i < 6 ? NT : 8);
        c.row_bytes[i] = i == 4 || i == 5 ? 32 : 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

/* Starts the products of group g of the piece; q: its activations. */
INLINE void start_even(int nr, const avx512_piece *w, int g, const int8_t *q) {
    TILE_LOAD(4, q, 32);
    TILE_LOAD(6, w[0].w[g], 64);
    TILE_ZERO(0);
    TILE_DOT(0, 4, 6);
    if (nr == 1) return;
    TILE_LOAD(7, w[1].w[g], 64);
    TILE_ZERO(1);
    TILE_DOT(1, 4, 7);
}
INLINE void start_odd(int nr, const avx512_piece *w, int g, const int8_t *q) {
    TILE_LOAD(5, q, 32);
    TILE_LOAD(6, w[0].w[g], 64);
    TILE_ZERO(2);
    TILE_DOT(2, 5, 6);
    if (nr == 1) return;
    TILE_LOAD(7, w[1].w[g], 64);
    TILE_ZERO(3);
    TILE_DOT(3, 5, 7);
}

/* The sums of one group: [panel][token][16 rows]. */
typedef int32_t sums[2][NT][NIB_PANEL];

/* Adds the sums of group g; at: of the activation's arrays. */
INLINE void add_sums(bool min, int nr, const avx512_piece *w, int g, const nib_act *a, int64_t at,
                     sums sum, __m512 acc[2][NT]) {
    UNROLL
    for (int t = 0; t < NT; t++) {
        __m512 d = _mm512_set1_ps(a->d[at + t]);
        UNROLL
        for (int r = 0; r < nr; r++) {
            __m512 v = acc[r][t], f = _mm512_cvtepi32_ps(_mm512_load_si512(sum[r][t]));
            if (min)
                v = _mm512_fmadd_ps(_mm512_load_ps(w[r].m[g]), _mm512_set1_ps(a->ds[at + t]), v);
            acc[r][t] = _mm512_fmadd_ps(f, _mm512_mul_ps(_mm512_load_ps(w[r].s[g]), d), v);
        }
    }
}

typedef struct job {
    const avx512_piece *w;
    const nib_act *a;
    int64_t g0; /* the piece's first group in a */
    int n_groups;
    bool first; /* of the row: sums start at zero */
    float *y;   /* of the first panel */
    int64_t ldy;
    __mmask16 rows[2];
} job;

/* nr panels x NT tokens from t0 on, of which the first n_used are wanted. */
INLINE void tile(bool min, int nr, const job *o, int64_t t0, float *y, int n_used) {
    int64_t n_tok = o->a->n_tok, at = o->g0 * n_tok + t0;
    __m512 acc[2][NT];
    UNROLL
    for (int t = 0; t < NT; t++) {
        UNROLL
        for (int r = 0; r < nr; r++) {
            __mmask16 rows = o->first || t >= n_used ? 0 : o->rows[r];
            acc[r][t] = _mm512_maskz_loadu_ps(rows, y + t * o->ldy + r * NIB_PANEL);
        }
    }
    _Alignas(64) sums sum;
    const int8_t *q = o->a->q + at * 32;
    int n = o->n_groups;
    start_even(nr, o->w, 0, q);
    for (int g = 0; g < n; g += 2) {
        q += n_tok * 32;
        if (g + 1 < n) start_odd(nr, o->w, g + 1, q);
        TILE_STORE(0, sum[0]);
        if (nr == 2) TILE_STORE(1, sum[1]);
        add_sums(min, nr, o->w, g, o->a, at, sum, acc);
        at += n_tok;
        if (g + 1 == n) break;
        q += n_tok * 32;
        if (g + 2 < n) start_even(nr, o->w, g + 2, q);
        TILE_STORE(2, sum[0]);
        if (nr == 2) TILE_STORE(3, sum[1]);
        add_sums(min, nr, o->w, g + 1, o->a, at, sum, acc);
        at += n_tok;
    }
    UNROLL
    for (int t = 0; t < NT; t++) {
        UNROLL
        for (int r = 0; r < nr; r++) {
            __mmask16 rows = t >= n_used ? 0 : o->rows[r];
            _mm512_mask_storeu_ps(y + t * o->ldy + r * NIB_PANEL, rows, acc[r][t]);
        }
    }
}

#define TILE(FORM, NR)                                                                             \
    static void tile_##FORM##_##NR(const job *o, int64_t t0, float *y, int n_used) {               \
        tile(MM_##FORM == MM_MIN, NR, o, t0, y, n_used);                                           \
    }
TILE(PLAIN, 1)
TILE(PLAIN, 2)
TILE(MIN, 1)
TILE(MIN, 2)
static void (*const tiles[][2])(const job *o, int64_t t0, float *y, int n_used) = {
    [MM_PLAIN] = {tile_PLAIN_1, tile_PLAIN_2}, [MM_MIN] = {tile_MIN_1, tile_MIN_2}};

/* The last tokens of a piece, fewer than a tile takes: copied, with zeros behind them. */
typedef struct tail {
    _Alignas(64) int8_t q[AVX512_PIECE][NT][32];
    float d[AVX512_PIECE][NT], ds[AVX512_PIECE][NT];
} tail;

static nib_act copy_tail(const job *o, int64_t t0, tail *to) {
    const nib_act *a = o->a;
    size_t n = (size_t)(a->n_tok - t0);
    memset(to, 0, sizeof *to);
    nib_act r = {.n_tok = NT, .q = to->q[0][0], .d = to->d[0], .ds = to->ds[0]};
    for (int g = 0; g < o->n_groups; g++) {
        int64_t from = (o->g0 + g) * a->n_tok + t0, at = (int64_t)g * NT;
        memcpy(r.q + at * 32, a->q + from * 32, n * 32);
        memcpy(r.d + at, a->d + from, n * sizeof(float));
        memcpy(r.ds + at, a->ds + from, n * sizeof(float));
    }
    return r;
}

static void many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                 void *scratch) {
    avx512_piece *pieces = nib_mm_work(w, scratch);
    mm_form form = nib_mm_format(w->dtype)->form;
    int64_t n_groups = w->k / 32;
    int together = w->packed ? 2 : 1;
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        const uint8_t *panel[2];
        job o = {.w = pieces, .a = a, .ldy = ldy};
        for (int r = 0; r < nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (o.g0 = 0; o.g0 < n_groups; o.g0 += AVX512_PIECE) {
            o.n_groups = (int)NIB_MIN(AVX512_PIECE, n_groups - o.g0);
            o.first = o.g0 == 0;
            for (int r = 0; r < nr; r++)
                nib_avx512_expand(w, panel[r], o.g0, o.n_groups, false, &pieces[r]);
            float *out = y + p * NIB_PANEL;
            int64_t t0 = 0;
            for (; t0 + NT <= a->n_tok; t0 += NT) tiles[form][nr - 1](&o, t0, out + t0 * ldy, NT);
            if (t0 == a->n_tok) continue;
            tail rest;
            nib_act few = copy_tail(&o, t0, &rest);
            job last = o;
            last.a = &few;
            last.g0 = 0;
            tiles[form][nr - 1](&last, 0, out + t0 * ldy, (int)(a->n_tok - t0));
        }
    }
    TILE_RELEASE();
}

/* Tokens from which on tiles are faster. */
enum { ENOUGH = 20, ENOUGH_K = 8 };

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    nib_act_kind kind = nib_mat_act(w->dtype);
    if (kind == NIB_ACT_Q8K && a->n_tok >= ENOUGH_K)
        nib_amx_mm_k(w, a, p0, p1, y, ldy, scratch);
    else if (kind == NIB_ACT_Q8 && a->n_tok >= ENOUGH)
        many(w, a, p0, p1, y, ldy, scratch);
    else
        nib_avx512_matmul(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_amx_mm(nib_kernels *k) {
    k->matmul = matmul;
}
