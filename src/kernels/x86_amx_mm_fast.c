/* FAST products (mm.h) with AMX.
 *
 * Rounded weights are signed bytes with one scale a group, so a tile of 64 columns is as deep as a
 * tile can be, and the sums of a group stay in tiles until it ends. A unit is two panels and 32
 * tokens: four tiles of sums, two of weights, two of activations, four products for four loads.
 * While a unit multiplies, the sums of the one before become floats. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 32 };

/* [panel + 2 * token / 16][token % 16][row] */
typedef int32_t sums[4][16][NIB_PANEL];

typedef struct job {
    const avx512_fast *w; /* two */
    const nib_act *a;
    int64_t g, tile; /* the group, its first 64 columns */
    __mmask16 rows[2];
    float *acc; /* [T][2][16] */
    float *y;   /* where they go from the last group on */
    int64_t ldy;
    bool first, last;
} job;

/* 64 columns. */
INLINE void multiply(const avx512_fast *w, int i, const int8_t *q) {
    TILE_LOAD(4, q, 64);
    TILE_LOAD(6, w[0].w[16 * i], 64);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, w[1].w[16 * i], 64);
    TILE_DOT(1, 4, 7);
    TILE_LOAD(5, q + 16 * 64, 64);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
}

/* Vectors [i, i + n) of the 64 of a unit become floats. */
INLINE void add(const job *o, const sums sum, int64_t t0, int i, int n) {
    const float *d = o->a->kd + o->g * o->a->n_tok + t0, *acc = o->acc + t0 * 2 * NIB_PANEL;
    bool out = o->last && t0 + NT <= o->a->n_tok;
    float *to = out ? o->y + t0 * o->ldy : (float *)(uintptr_t)acc;
    int64_t ld = out ? o->ldy : 2 * NIB_PANEL;
    __mmask16 before = o->first ? 0 : 0xffff;
    __m512 s[2] = {_mm512_load_ps(o->w[0].s), _mm512_load_ps(o->w[1].s)};
    UNROLL
    for (int j = i; j < i + n; j++) {
        int h = j / 32, t = j / 2 % 16 + 16 * h, r = j % 2;
        __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(sum[2 * h + r][t % 16]));
        v = _mm512_fmadd_ps(_mm512_mul_ps(v, s[r]), _mm512_set1_ps(d[t]),
                            _mm512_maskz_load_ps(before, acc + (2 * t + r) * NIB_PANEL));
        _mm512_mask_storeu_ps(to + t * ld + r * NIB_PANEL, o->rows[r], v);
    }
}

INLINE void pass(int n_tiles, const job *o) {
    sums sum[2];
    int64_t step = o->a->n_tok * 64, n_tok = o->a->n_tok;
    const int8_t *q = o->a->kq + o->tile * step;
    int odd = 0;
    for (int64_t t0 = 0; t0 < n_tok + NT; t0 += NT, odd = !odd, q += NT * 64) {
        bool more = t0<n_tok, old = t0> 0;
        if (more) {
            TILE_ZERO(0);
            TILE_ZERO(1);
            TILE_ZERO(2);
            TILE_ZERO(3);
        }
        UNROLL
        for (int i = 0; i < n_tiles; i++) {
            if (more) multiply(o->w, i, q + i * step);
            if (old)
                add(o, sum[!odd], t0 - NT, 64 * i / n_tiles,
                    64 * (i + 1) / n_tiles - 64 * i / n_tiles);
        }
        if (more) {
            TILE_STORE(0, sum[odd][0]);
            TILE_STORE(1, sum[odd][1]);
            TILE_STORE(2, sum[odd][2]);
            TILE_STORE(3, sum[odd][3]);
        }
    }
}
static void tile_1(const job *o) {
    pass(1, o);
}
static void tile_2(const job *o) {
    pass(2, o);
}
static void tile_3(const job *o) {
    pass(3, o);
}
static void tile_4(const job *o) {
    pass(4, o);
}
static void (*const passes[])(const job *o) = {tile_1, tile_2, tile_3, tile_4};

static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

void nib_amx_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                         int64_t ldy, void *scratch) {
    avx512_fast *pieces = nib_mm_work(w, scratch);
    job o = {.w = pieces, .a = a, .acc = nib_mm_sums(w, scratch), .ldy = ldy};
    int together = w->packed ? 2 : 1;
    int64_t n_groups = nib_fast_groups(w->k);
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        o.y = y + p * NIB_PANEL;
        const uint8_t *panel[2];
        o.rows[1] = 0; /* a lone panel is multiplied twice: rare, and not worth code of its own */
        for (int r = 0; r < nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (o.g = 0; o.g < n_groups; o.g++) {
            o.tile = nib_fast_group(w->k, o.g);
            for (int r = 0; r < 2; r++)
                nib_avx512_fast_expand(w, panel[r % nr], o.g, false, &pieces[r]);
            o.first = o.g == 0;
            o.last = o.g + 1 == n_groups;
            passes[nib_fast_group(w->k, o.g + 1) - o.tile - 1](&o);
        }
        int64_t t0 = a->n_tok / NT * NT; /* fewer than 32 tokens wait in acc */
        nib_avx512_put(w, o.acc + t0 * 2 * NIB_PANEL, a->n_tok - t0, p, nr, y + t0 * ldy, ldy);
    }
    TILE_RELEASE();
}
