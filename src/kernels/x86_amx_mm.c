/* Matrix products with AMX, blocks of 32: the integer sums of many tokens by tiles, on top of the
 * AVX-512 set.
 *
 * A group of 32 columns of a panel, expanded to signed bytes, 8 lines of 64, is a B tile as it
 * stands, and a group's activations, NT tokens of 32 bytes, are an A tile. A tile product is half
 * as deep as it could be, for the scales change every 32 columns: but integer sums are exact, so
 * the floats follow the order of mm.h and the results are those of every other set.
 *
 * What bounds this is turning sums into floats. While tiles work, the core does one multiplication
 * or conversion a cycle instead of two, but additions and subtractions of floats as ever. So sums
 * are not converted: a tile starts at the bits of the float 1.5 * 2^23 instead of at zero, and what
 * it then holds are the bits of the float 1.5 * 2^23 + sum (|sum| <= 32 * 128 * 127 < 2^22), from
 * which a subtraction, exact, takes the sum.
 *
 * Work goes in batches: a pair of panels, NT tokens, a few groups. While a batch multiplies, the
 * sums of the one before become floats, 8 tokens of both panels in registers at a time: each
 * activation's scale is then loaded once for both. A tile is stored a few products after its own
 * began, and read a batch later: a store waits for its product, and a load of what was stored for
 * the store to reach the cache, which it does only when all before it is done.
 *
 * All tokens pass over BATCH groups of four panels, then over the next ones: little enough that
 * both batches' sums stay in the first cache too. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 16, BATCH = 4 };
enum { WIDE = MM_PANELS_MOST }; /* panels at a time: pairs */

/* BATCH groups of a panel. Scales of those before are still wanted when weights are not. */
typedef struct piece {
    _Alignas(64) uint8_t w[BATCH][8][64];
    float s[2][BATCH][NIB_PANEL], m[2][BATCH][NIB_PANEL];
} piece;
_Static_assert(WIDE * sizeof(piece) <= MM_SCRATCH, "the scratch holds them");

/* Tiles 0-3: sums; 4, 5: activations; 6, 7: weights. */
static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = i < 6 ? NT : 8;
        c.row_bytes[i] = i == 4 || i == 5 ? 32 : 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

#define FLOAT_AT 12582912.0f /* 1.5 * 2^23 */
static const _Alignas(64) float start[NIB_PANEL] = {
    FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT,
    FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT, FLOAT_AT};

/* FLOAT_AT + sum */
typedef struct sums {
    _Alignas(64) float v[NT][NIB_PANEL];
} sums;

typedef struct job {
    const nib_mat *w;
    const nib_act *a;
    int nr; /* panels */
    const uint8_t *panel[WIDE];
    __mmask16 rows[WIDE];
    piece *piece; /* [WIDE] */
    float *acc;   /* [T][WIDE][16] */
    float *y;     /* of the first panel */
    int64_t ldy;
    int64_t p; /* the first panel */
    mm_ask *ask;
} job;

/* Where a batch is read, and its floats. */
typedef struct batch {
    const uint8_t *w; /* its first group in the piece of the pair's first panel */
    const float *s, *m;
    const int8_t *q;
    const float *d, *ds;
    int64_t step, ds_step; /* tokens from a group to the next */
    float *acc;
} batch;
enum { NEXT_PANEL = sizeof(piece), NEXT_ACC = WIDE * NIB_PANEL };

/* Groups [g, g + n). Of two the second may be past the end of the rows: its weights and scales are
 * zeros then, and multiplied with numbers that are finite, as d is and ds may not be. */
INLINE batch batch_of(const job *o, int n, int64_t g, int64_t t0, int pair) {
    const piece *w = o->piece + 2 * pair;
    int64_t n_tok = o->a->n_tok, at = g * n_tok + t0;
    const float *d = o->a->d + at, *ds = o->a->ds + at;
    bool whole = n == BATCH || g + n <= o->a->k / 32;
    return (batch){.w = w->w[0][0],
                   .s = w->s[g / n % 2][0],
                   .m = w->m[g / n % 2][0],
                   .q = o->a->q + at * 32,
                   .d = d,
                   .ds = ds,
                   .step = whole ? n_tok : 0,
                   .ds_step = whole ? n_tok : d - ds,
                   .acc = o->acc + t0 * NEXT_ACC + 2 * pair * NIB_PANEL};
}
static void expand(const job *o, int n, int64_t g) {
    int there = (int)NIB_MIN(n, o->a->k / 32 - g);
    mm_ask_for(o->ask, o->p, 32 * (g + there), 32 * BATCH);
    /* a panel without a partner is multiplied with itself: rare */
    for (int r = 0; r < (o->nr + 1) / 2 * 2; r++) {
        piece *w = o->piece + r;
        avx512_expanded to = {w->w, w->s[g / n % 2], w->m[g / n % 2]};
        nib_avx512_expand(o->w, o->panel[NIB_MIN(r, o->nr - 1)], g, there, false, &to);
        mm_ask_some(o->ask);
        if (there == n) continue;
        memset(to.w[there], 0, sizeof *to.w);
        memset(to.s[there], 0, sizeof *to.s);
        memset(to.m[there], 0, sizeof *to.m);
    }
}

/* Unit i of a batch is group i / 2 of panel i % 2, multiplied into tile i % 4. */
#define PRODUCT(C, A, B)                                                                           \
    do {                                                                                           \
        if (C % 2 == 0) TILE_LOAD(A, q, 32);                                                       \
        TILE_LOAD(B, w, 64);                                                                       \
        TILE_LOAD_EACH(C, start);                                                                  \
        TILE_DOT(C, A, B);                                                                         \
    } while (0)
INLINE void multiply(const batch *b, int i) {
    const int8_t *q = b->q + i / 2 * b->step * 32;
    const uint8_t *w = b->w + i % 2 * NEXT_PANEL + i / 2 * 512;
    switch (i % 4) {
    case 0: PRODUCT(0, 4, 6); return;
    case 1: PRODUCT(1, 4, 7); return;
    case 2: PRODUCT(2, 5, 6); return;
    default: PRODUCT(3, 5, 7); return;
    }
}
INLINE void keep(int i, sums *to) {
    switch (i % 4) {
    case 0: TILE_STORE(0, to[i].v); return;
    case 1: TILE_STORE(1, to[i].v); return;
    case 2: TILE_STORE(2, to[i].v); return;
    default: TILE_STORE(3, to[i].v); return;
    }
}

/* Addresses that follow from p stand alone: put together with others they need too many registers.
 */
#define FORGET(p) __asm__("" : "+r"(p))

/* Step i of a batch of n groups takes group i % n of both panels and of tokens 0-7, then of 8-15,
 * whose floats are in v meanwhile. */
INLINE void take_floats(int n, const batch *b, int i, __m512 v[2][8]) {
    const float *acc = b->acc + i / n * 8 * NEXT_ACC;
    UNROLL
    for (int t = 0; t < 8; t++) {
        v[0][t] = _mm512_load_ps(acc + t * NEXT_ACC);
        v[1][t] = _mm512_load_ps(acc + t * NEXT_ACC + NIB_PANEL);
    }
}
INLINE void leave_floats(int n, const batch *b, int i, const __m512 v[2][8]) {
    float *acc = b->acc + i / n * 8 * NEXT_ACC;
    UNROLL
    for (int t = 0; t < 8; t++) {
        _mm512_store_ps(acc + t * NEXT_ACC, v[0][t]);
        _mm512_store_ps(acc + t * NEXT_ACC + NIB_PANEL, v[1][t]);
    }
}
INLINE void add_minima(int n, const batch *b, int i, __m512 v[2][8]) {
    const float *ds = b->ds + i % n * b->ds_step + i / n * 8, *m = b->m + i % n * NIB_PANEL;
    FORGET(ds);
    __m512 m0 = _mm512_load_ps(m), m1 = _mm512_load_ps(m + NEXT_PANEL / sizeof(float));
    UNROLL
    for (int t = 0; t < 8; t++) {
        __m512 x = _mm512_set1_ps(ds[t]);
        v[0][t] = _mm512_fmadd_ps(m0, x, v[0][t]);
        v[1][t] = _mm512_fmadd_ps(m1, x, v[1][t]);
    }
}
INLINE __m512 sum_of(const float *v) {
    return _mm512_sub_ps(_mm512_load_ps(v), _mm512_set1_ps(FLOAT_AT));
}
INLINE void add_sums(int n, const batch *b, int i, const sums *sum, __m512 v[2][8]) {
    int j = i % n, first = i / n * 8;
    const float *d = b->d + j * b->step + first, *s = b->s + j * NIB_PANEL;
    FORGET(d);
    __m512 s0 = _mm512_load_ps(s), s1 = _mm512_load_ps(s + NEXT_PANEL / sizeof(float));
    UNROLL
    for (int t = 0; t < 8; t++) {
        __m512 x = _mm512_set1_ps(d[t]);
        v[0][t] = _mm512_fmadd_ps(sum_of(sum[2 * j].v[first + t]), _mm512_mul_ps(s0, x), v[0][t]);
        v[1][t] =
            _mm512_fmadd_ps(sum_of(sum[2 * j + 1].v[first + t]), _mm512_mul_ps(s1, x), v[1][t]);
    }
}

/* All tokens' floats go from acc to y. */
static void put(const job *o) {
    for (int64_t t = 0; t < o->a->n_tok; t++)
        for (int r = 0; r < o->nr; r++)
            _mm512_mask_storeu_ps(o->y + t * o->ldy + r * NIB_PANEL, o->rows[r],
                                  _mm512_load_ps(o->acc + t * NEXT_ACC + r * NIB_PANEL));
}

/* Step i of a pipeline of batches of n groups: tiles of b are multiplied and kept in 'now', sums of
 * the batch before are added. Either may be missing. Multiplications of floats, slow beside tiles,
 * must not stand too many together: of formats with minima half of them waits for the store. */
INLINE void step(bool min, int n, int i, const batch *b, sums *now, const batch *old, sums *before,
                 __m512 v[2][8]) {
    int late = n == BATCH ? 3 : 2; /* units: at most n, for step n - 1 reads the last */
    if (i % n == 0 && old) take_floats(n, old, i, v);
    if (min && old) add_minima(n, old, i, v);
    if (i < late && old) keep(2 * n + i - late, before);
    if (i >= late && b) keep(i - late, now);
    if (min && old) add_sums(n, old, i, before, v);
    if (b) multiply(b, i);
    if (!min && old) add_sums(n, old, i, before, v);
    if (i % n == n - 1 && old) leave_floats(n, old, i, v);
}
INLINE void steps(bool min, int n, const batch *b, sums *now, const batch *old, sums *before) {
    __m512 v[2][8];
    step(min, n, 0, b, now, old, before, v);
    step(min, n, 1, b, now, old, before, v);
    step(min, n, 2, b, now, old, before, v);
    step(min, n, 3, b, now, old, before, v);
    if (n == 2) return;
    step(min, n, 4, b, now, old, before, v);
    step(min, n, 5, b, now, old, before, v);
    step(min, n, 6, b, now, old, before, v);
    step(min, n, 7, b, now, old, before, v);
}

/* Groups [g, g1), all tokens, in batches of n groups. */
INLINE void pass(bool min, int n, const job *o, int64_t g, int64_t g1) {
    sums ring[2][2 * BATCH];
    sums *now = ring[0], *before = ring[1];
    int64_t t0 = 0;
    int pair = 0;
    expand(o, n, g);
    batch b = batch_of(o, n, g, t0, pair);
    steps(min, n, &b, now, NULL, NULL);
    for (;;) {
        batch old = b;
        sums *free = before;
        before = now;
        now = free;
        if (++pair >= (o->nr + 1) / 2) pair = 0, t0 += NT;
        if (t0 >= o->a->n_tok) {
            t0 = 0;
            if ((g += n) >= g1) break;
            expand(o, n, g);
        }
        b = batch_of(o, n, g, t0, pair);
        steps(min, n, &b, now, &old, before);
        mm_ask_some(o->ask);
    }
    steps(min, n, NULL, NULL, &b, before);
}
static void tile_plain(const job *o, int64_t g, int64_t g1) {
    pass(false, BATCH, o, g, g1);
}
static void tile_plain_2(const job *o, int64_t g, int64_t g1) {
    pass(false, 2, o, g, g1);
}
static void tile_min(const job *o, int64_t g, int64_t g1) {
    pass(true, BATCH, o, g, g1);
}
static void tile_min_2(const job *o, int64_t g, int64_t g1) {
    pass(true, 2, o, g, g1);
}
/* [form][0: batches of BATCH groups, 1: what they leave] */
static void (*const passes[][2])(const job *o, int64_t g, int64_t g1) = {
    [MM_PLAIN] = {tile_plain, tile_plain_2}, [MM_MIN] = {tile_min, tile_min_2}};

static void many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                 void *scratch) {
    void (*const *by)(const job *o, int64_t g, int64_t g1) = passes[nib_mm_format(w->dtype)->form];
    job o = {.w = w,
             .a = a,
             .piece = nib_mm_work(w, scratch),
             .acc = nib_mm_sums(w, scratch),
             .ldy = ldy};
    int64_t n_groups = w->k / 32, whole = n_groups / BATCH * BATCH, together = w->packed ? WIDE : 1;
    mm_ask ask = {.w = w, .p1 = p1, .together = together, .k1 = w->k};
    o.ask = &ask;
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        o.nr = (int)NIB_MIN(together, p1 - p);
        o.y = y + p * NIB_PANEL;
        o.p = p;
        ask.calls = o.nr + (o.nr + 1) / 2 * ((a->n_tok + NT - 1) / NT);
        for (int r = 0; r < o.nr; r++) {
            o.panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        memset(o.acc, 0, (size_t)NIB_ROUND_UP(a->n_tok, NT) * NEXT_ACC * sizeof(float));
        if (whole) by[0](&o, 0, whole);
        if (whole < n_groups) by[1](&o, whole, n_groups);
        put(&o);
    }
    TILE_RELEASE();
}

/* Whether tiles are faster than AVX-512, which has no use for whole sixteens: formats with minima
 * gain so little that few tokens may be missing, and start later, as does Q8_0, whose weights take
 * longest to come from memory. */
static bool suits(nib_dtype t, int64_t n_tok) {
    bool min = nib_mm_format(t)->form == MM_MIN;
    int64_t least = min || t == NIB_Q8_0 ? 28 : 24, missing = NIB_ROUND_UP(n_tok, NT) - n_tok;
    return n_tok >= least && missing * (min ? 8 : 2) <= n_tok;
}
enum { LEAST_K = 15 }; /* the tokens from which on they are, for blocks of 256 */

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    nib_act_kind kind = nib_mat_act(w->dtype);
    if (kind == NIB_ACT_Q8K && a->n_tok >= LEAST_K)
        nib_amx_mm_k(w, a, p0, p1, y, ldy, scratch);
    else if (kind == NIB_ACT_Q8 && suits(w->dtype, a->n_tok))
        many(w, a, p0, p1, y, ldy, scratch);
    else
        nib_avx512_matmul(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_amx_mm(nib_kernels *k) {
    k->matmul = matmul;
    k->matmul_fast = nib_amx_matmul_fast;
}
