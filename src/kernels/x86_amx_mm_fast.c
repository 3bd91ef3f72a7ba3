/* FAST products (mm.h) with AMX.
 *
 * Rounded weights are signed bytes with one scale a group, so a tile of 64 columns is as deep as a
 * tile can be, and the sums of a group stay in tiles until it ends. A unit is two panels, 32 tokens
 * and one group: four tiles of sums, two of weights, two of activations, four products for four
 * loads. While a unit multiplies, the sums of the one before become floats.
 *
 * The rest is keeping data near. Columns go in pieces, so that all tokens' activations of a piece
 * stay in the second cache while the panels pass over them, four at a time, rounded once into
 * scratch. Two pairs of panels take turns, so that activations come from the second cache only
 * every other time. Tokens go in blocks, whose floats stay near over the groups of a piece; between
 * pieces they wait in y. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { BLOCK = 256 };           /* tokens; a multiple of those of a unit */
enum { NT = 32 };               /* tokens of a unit */
enum { WIDE = MM_PANELS_MOST }; /* panels at a time: two pairs */
enum { PIECE_BYTES = 1 << 20 }; /* of activations */
enum { MOST_GROUPS = 8 };       /* of a piece: what the scratch holds */
_Static_assert(WIDE == 4, "two pairs");
_Static_assert(WIDE *MOST_GROUPS * sizeof(avx512_fast) <= MM_SCRATCH, "the scratch holds a piece");

/* [panel + 2 * token / 16][token % 16][row] */
typedef struct sums {
    _Alignas(64) int32_t v[4][16][NIB_PANEL];
} sums;

typedef struct job {
    const nib_act *a;
    const avx512_fast *w; /* [group of the piece][WIDE] */
    int n_pairs;
    __mmask16 rows[WIDE];   /* 0 for panels that are not there */
    int64_t g0, g1;         /* the piece */
    int64_t tb, te, direct; /* the block of tokens; those before 'direct' go from and to y */
    float *acc;             /* [BLOCK][WIDE][16] */
    float *y;               /* of the first panel */
    int64_t ldy;
    mm_ask ask;
} job;

/* 64 columns. */
INLINE void multiply(const avx512_fast *w, int i, const int8_t *q) {
    TILE_LOAD_ONCE(4, q, 64);
    TILE_LOAD(6, w[0].w[16 * i], 64);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, w[1].w[16 * i], 64);
    TILE_DOT(1, 4, 7);
    TILE_LOAD_ONCE(5, q + 16 * 64, 64);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
}

/* Where a unit's floats come from and go to. */
typedef struct way {
    const float *from, *d;
    float *to;
    int64_t from_step, to_step;
    const avx512_fast *w;
} way;
static const _Alignas(64) float zeros[2 * NIB_PANEL];
INLINE way way_of(const job *o, int64_t g, int64_t t0, int pair) {
    float *acc = o->acc + ((t0 - o->tb) * WIDE + 2 * pair) * NIB_PANEL;
    float *y = o->y + t0 * o->ldy + 2 * pair * NIB_PANEL;
    way x = {.from = acc,
             .to = acc,
             .from_step = WIDE * NIB_PANEL,
             .to_step = WIDE * NIB_PANEL,
             .w = o->w + WIDE * (g - o->g0) + 2 * pair,
             .d = o->a->kd + g * o->a->n_tok + t0};
    if (t0 >= o->direct) return x;
    if (g == o->g0) x.from = o->g0 ? y : zeros, x.from_step = o->g0 ? o->ldy : 0;
    if (g + 1 == o->g1) x.to = y, x.to_step = o->ldy;
    return x;
}

/* Tokens [i, i + n) of a unit become floats. */
INLINE void add(const way *x, const sums *sum, int i, int n) {
    __m512 s0 = _mm512_load_ps(x->w[0].s), s1 = _mm512_load_ps(x->w[1].s);
    UNROLL
    for (int t = i; t < i + n; t++) {
        const float *from = x->from + t * x->from_step;
        float *to = x->to + t * x->to_step;
        __m512 d = _mm512_set1_ps(x->d[t]);
        __m512 v0 = _mm512_cvtepi32_ps(_mm512_load_si512(sum->v[t / 16 * 2][t % 16]));
        __m512 v1 = _mm512_cvtepi32_ps(_mm512_load_si512(sum->v[t / 16 * 2 + 1][t % 16]));
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_mul_ps(v0, s0), d, _mm512_loadu_ps(from)));
        _mm512_storeu_ps(to + NIB_PANEL, _mm512_fmadd_ps(_mm512_mul_ps(v1, s1), d,
                                                         _mm512_loadu_ps(from + NIB_PANEL)));
    }
}

/* The block's tokens times groups [g0, g1) of the piece, which have n_tiles tiles each. */
INLINE void pass(int n_tiles, job *o, int64_t g0, int64_t g1) {
    sums sum[2];
    int64_t step = o->a->n_tok * 64, n = (o->te - o->tb + NT - 1) / NT;
    const int8_t *q = o->a->kq + nib_fast_group(o->a->k, g0) * step + o->tb * 64;
    int64_t g = g0, t = o->tb;
    int pair = 0;
    way x = {0};
    for (bool odd = false;; odd = !odd) {
        bool more = g < g1;
        const avx512_fast *w = o->w + WIDE * (g - o->g0) + 2 * pair;
        if (more) {
            TILE_ZERO(0);
            TILE_ZERO(1);
            TILE_ZERO(2);
            TILE_ZERO(3);
        }
        UNROLL
        for (int i = 0; i < n_tiles; i++) {
            if (more) multiply(w, i, q + i * step);
            if (x.to)
                add(&x, &sum[!odd], NT * i / n_tiles, NT * (i + 1) / n_tiles - NT * i / n_tiles);
        }
        if (!more) return;
        TILE_STORE(0, sum[odd].v[0]);
        TILE_STORE(1, sum[odd].v[1]);
        TILE_STORE(2, sum[odd].v[2]);
        TILE_STORE(3, sum[odd].v[3]);
        mm_ask_some(&o->ask);
        x = way_of(o, g, t, pair);
        if (++pair < o->n_pairs) continue;
        pair = 0;
        q += NT * 64;
        if ((t += NT) >= o->te) t = o->tb, g++, q += n_tiles * step - n * NT * 64;
    }
}
static void tile_1(job *o, int64_t g0, int64_t g1) {
    pass(1, o, g0, g1);
}
static void tile_2(job *o, int64_t g0, int64_t g1) {
    pass(2, o, g0, g1);
}
static void tile_3(job *o, int64_t g0, int64_t g1) {
    pass(3, o, g0, g1);
}
static void tile_4(job *o, int64_t g0, int64_t g1) {
    pass(4, o, g0, g1);
}
static void (*const passes[])(job *o, int64_t g0, int64_t g1) = {tile_1, tile_2, tile_3, tile_4};

/* Floats of tokens [direct, te), from y or to it: those of partial units and panels. */
static void move(const job *o, bool out) {
    for (int64_t t = o->direct; t < o->te; t++)
        for (int r = 0; r < 2 * o->n_pairs; r++) {
            float *acc = o->acc + ((t - o->tb) * WIDE + r) * NIB_PANEL;
            float *y = o->y + t * o->ldy + r * NIB_PANEL;
            if (out)
                _mm512_mask_storeu_ps(y, o->rows[r], _mm512_load_ps(acc));
            else
                _mm512_store_ps(acc, _mm512_maskz_loadu_ps(o->g0 ? o->rows[r] : 0, y));
        }
}

static int64_t tiles_of(int64_t k, int64_t g) {
    return nib_fast_group(k, g + 1) - nib_fast_group(k, g);
}

/* One piece of the panels, all tokens. */
static void multiply_piece(job *o) {
    int64_t n_tok = o->a->n_tok;
    bool whole = true;
    for (int r = 0; r < 2 * o->n_pairs; r++) whole &= o->rows[r] == 0xffff;
    for (o->tb = 0; o->tb < n_tok; o->tb = o->te) {
        o->te = NIB_MIN(o->tb + BLOCK, n_tok);
        o->direct = whole ? o->te / NT * NT : o->tb;
        move(o, false);
        for (int64_t g = o->g0, end; g < o->g1; g = end) {
            int64_t n = tiles_of(o->a->k, g);
            for (end = g + 1; end < o->g1 && tiles_of(o->a->k, end) == n;) end++;
            passes[n - 1](o, g, end);
        }
        move(o, true);
    }
}

static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

void nib_amx_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                         int64_t ldy, void *scratch) {
    avx512_fast *pieces = nib_mm_work(w, scratch);
    int64_t n_groups = nib_fast_groups(w->k), together = w->packed ? WIDE : 1;
    int64_t most = NIB_MIN(NIB_MAX(PIECE_BYTES / (a->n_tok * 256), 2), MOST_GROUPS);
    int64_t n_pieces = (n_groups + most - 1) / most;
    job o = {.a = a, .w = pieces, .acc = nib_mm_sums(w, scratch), .ldy = ldy};
    o.ask = (mm_ask){.w = w, .p1 = p1, .together = together};
    configure();
    for (int64_t i = 0; i < n_pieces; i++) {
        o.g0 = n_groups * i / n_pieces;
        o.g1 = n_groups * (i + 1) / n_pieces;
        o.ask.k0 = 64 * nib_fast_group(w->k, o.g0);
        o.ask.k1 = 64 * nib_fast_group(w->k, o.g1);
        for (int64_t p = p0; p < p1; p += together) {
            int64_t nr = NIB_MIN(together, p1 - p);
            o.n_pairs = nr > 2 ? 2 : 1;
            /* a panel without a partner is multiplied with itself: rare */
            for (int r = 0; r < 2 * o.n_pairs; r++) {
                const uint8_t *panel = nib_mm_panel(w, p + NIB_MIN(r, nr - 1), scratch);
                o.rows[r] = r < nr ? (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1) : 0;
                for (int64_t g = o.g0; g < o.g1; g++)
                    nib_avx512_fast_expand(w, panel, g, false, &pieces[WIDE * (g - o.g0) + r]);
            }
            o.ask.calls = (o.g1 - o.g0) * o.n_pairs * ((a->n_tok + NT - 1) / NT);
            mm_ask_for(&o.ask, p, o.ask.k1, o.ask.k1 - o.ask.k0);
            o.y = y + p * NIB_PANEL;
            multiply_piece(&o);
        }
    }
    TILE_RELEASE();
}
