/* Matrix products with AMX, blocks of 32: the integer sums of many tokens by tiles, on top of the
 * AVX-512 set.
 *
 * A piece of two panels is expanded to signed bytes; a group of 32 columns, 8 lines of 64 bytes, is
 * a B tile as it stands, and a group's activations, NT tokens of 32 bytes, are an A tile. A tile
 * product is half as deep as it could be, for the scales change every 32 columns: but integer sums
 * are exact, so the floats follow the order of mm.h and the results are those of every other set.
 *
 * What bounds this is turning sums into floats: one panel of NT tokens stays in registers while its
 * groups go by in a pipeline. Group g multiplies while the sums of g - 2 are stored and those of
 * g - LATE are added: a store waits for its product, and a load of what was stored for the store to
 * reach the cache, which it does only when all before it is done. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 16, RING = 8, LATE = 6 };

/* Tiles 0-3: sums of groups in turn; 4, 5: activations; 6, 7: weights. */
static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = i < 6 ? NT : 8;
        c.row_bytes[i] = i == 4 || i == 5 ? 32 : 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

typedef struct job {
    const avx512_piece *w;
    const nib_act *a;
    int64_t g0; /* the piece's first group in a */
    int n_groups;
    int nr;            /* panels */
    __mmask16 rows[2]; /* of each */
    float *acc;        /* [T][2][16] */
    float *y;          /* where sums go after the last piece */
    int64_t ldy;
    bool first, last;
} job;

typedef int32_t sums[NT][NIB_PANEL];

#define START(C, A, B)                                                                             \
    do {                                                                                           \
        TILE_LOAD(A, q, 32);                                                                       \
        TILE_LOAD(B, w->w[g], 64);                                                                 \
        TILE_ZERO(C);                                                                              \
        TILE_DOT(C, A, B);                                                                         \
    } while (0)

INLINE void add(bool min, const avx512_piece *w, unsigned g, const float *d, const float *ds,
                const sums sum, __m512 acc[NT]) {
    __m512 s = _mm512_load_ps(w->s[g]), m = _mm512_setzero_ps();
    if (min) m = _mm512_load_ps(w->m[g]);
    UNROLL
    for (int t = 0; t < NT; t++) {
        if (min) acc[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(ds[t]), acc[t]);
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum[t])),
                                 _mm512_mul_ps(s, _mm512_set1_ps(d[t])), acc[t]);
    }
}

/* Step g of the pipeline, g % 4 = C: groups g, g - 2 and g - LATE. */
#define STEP(C, A, B, STORED)                                                                      \
    if (g < n) {                                                                                   \
        START(C, A, B);                                                                            \
        q += step * 32;                                                                            \
    }                                                                                              \
    if (g >= 2 && g - 2 < n) TILE_STORE(STORED, sum[(g - 2) % RING]);                              \
    if (g >= LATE) {                                                                               \
        add(min, w, g - LATE, d, ds, sum[(g - LATE) % RING], acc);                                 \
        d += step;                                                                                 \
        ds += step;                                                                                \
    }                                                                                              \
    if (++g == n + LATE) break;

/* Panel r, tokens [t0, t0 + NT). */
INLINE void tile(bool min, const job *o, int64_t t0, int r) {
    _Alignas(64) sums sum[RING];
    const avx512_piece *w = o->w + r;
    const nib_act *a = o->a;
    int64_t step = a->n_tok, at = o->g0 * step + t0;
    const int8_t *q = a->q + at * 32;
    const float *d = a->d + at, *ds = a->ds + at;
    float *to = o->acc + (t0 * 2 + r) * NIB_PANEL;
    __m512 acc[NT];
    __mmask16 before = o->first ? 0 : 0xffff;
    UNROLL
    for (int t = 0; t < NT; t++) acc[t] = _mm512_maskz_load_ps(before, to + t * 2 * NIB_PANEL);
    for (unsigned g = 0, n = (unsigned)o->n_groups;;) {
        STEP(0, 4, 6, 2)
        STEP(1, 5, 7, 3)
        STEP(2, 4, 6, 0)
        STEP(3, 5, 7, 1)
    }
    int64_t ld = 2 * NIB_PANEL;
    if (o->last && t0 + NT <= a->n_tok) to = o->y + t0 * o->ldy + r * NIB_PANEL, ld = o->ldy;
    UNROLL
    for (int t = 0; t < NT; t++) _mm512_mask_storeu_ps(to + t * ld, o->rows[r], acc[t]);
}

static void tile_plain(const job *o, int64_t t0, int r) {
    tile(false, o, t0, r);
}
static void tile_min(const job *o, int64_t t0, int r) {
    tile(true, o, t0, r);
}

static void many(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                 void *scratch) {
    avx512_piece *pieces = nib_mm_work(w, scratch);
    int64_t n_groups = w->k / 32;
    void (*tiles)(const job *o, int64_t t0, int r) =
        nib_mm_format(w->dtype)->form == MM_MIN ? tile_min : tile_plain;
    job o = {.w = pieces, .a = a, .acc = nib_mm_sums(w, scratch), .ldy = ldy};
    int together = w->packed ? 2 : 1;
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        o.nr = (int)NIB_MIN(together, p1 - p);
        o.y = y + p * NIB_PANEL;
        const uint8_t *panel[2];
        for (int r = 0; r < o.nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (o.g0 = 0; o.g0 < n_groups; o.g0 += AVX512_PIECE) {
            o.n_groups = (int)NIB_MIN(AVX512_PIECE, n_groups - o.g0);
            o.first = o.g0 == 0;
            o.last = o.g0 + AVX512_PIECE >= n_groups;
            for (int r = 0; r < o.nr; r++)
                nib_avx512_expand(w, panel[r], o.g0, o.n_groups, false, &pieces[r]);
            for (int64_t t0 = 0; t0 < a->n_tok; t0 += NT)
                for (int r = 0; r < o.nr; r++) {
                    if (o.last) /* rows of y are far apart, and not in the cache */
                        for (int t = 0; t < NT && t0 + NT + t < a->n_tok; t++)
                            fetch_to_write(o.y + (t0 + NT + t) * ldy + r * NIB_PANEL);
                    tiles(&o, t0, r);
                }
        }
        int64_t t0 = a->n_tok / NT * NT; /* fewer than 16 tokens wait in acc */
        nib_avx512_put(w, o.acc + t0 * 2 * NIB_PANEL, a->n_tok - t0, p, o.nr, y + t0 * ldy, ldy);
    }
    TILE_RELEASE();
}

/* Tokens from which on tiles are faster. */
enum { ENOUGH = 48, ENOUGH_K = 25 };

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
    k->matmul_fast = nib_amx_matmul_fast;
}
