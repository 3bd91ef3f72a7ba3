/* Matrix products with AMX, blocks of 256.
 *
 * The integer scale of 16 or 32 columns is multiplied into the weight, which then takes up to 14
 * bits with sign: two operands, the low bytes without sign and the high bytes with it. So the sum
 * of all 256 columns stays in a tile each and leaves it once: isum = 256 * high + low, exactly.
 * Q2_K and Q3_K need the low bytes only, with sign.
 *
 * A block of two panels is expanded into the first cache (16 KiB: 4 tiles of 16 rows x 64 columns,
 * times low and high, times two panels); tokens pass over it 16 at a time. Tiles and vector units
 * work side by side only where their instructions are mixed and nothing waits for a product just
 * begun: hence the pipeline in pass(). */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 16 };

typedef struct block {
    _Alignas(64) uint8_t low[4][16][64], high[4][16][64];
    int32_t min[8][NIB_PANEL]; /* pairs of words */
    float s[NIB_PANEL], m[NIB_PANEL];
} block;
_Static_assert(2 * sizeof(block) <= MM_SCRATCH, "the scratch holds two blocks");

/* p: codes, s: scales of the block; then, then_s: from these to those of the block that comes next,
 * which memory is asked for */
INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, ptrdiff_t then,
                   ptrdiff_t then_s, block *o) {
    super plain;
    for (size_t i = 0; i < scale_bytes_of(t); i += 64)
        _mm_prefetch((const char *)s + then_s + i, _MM_HINT_T0);
    super_scales(t, s, &plain);
    for (int g = 0; g < 8; g++, p += code_bytes_of(t)) {
        __m512i w[8];
        for (size_t i = 0; i < code_bytes_of(t); i += 64)
            _mm_prefetch((const char *)p + then + i, _MM_HINT_T0);
        codes(t, p, w);
        UNROLL
        for (int i = 0; i < 8; i++) {
            __m512i high, low = fold(t, w[i], plain.sc[has_16(t) ? 2 * g + i / 4 : g], &high);
            _mm512_store_si512(o->low[g / 2][g % 2 * 8 + i], low);
            if (!is_folded(t)) _mm512_store_si512(o->high[g / 2][g % 2 * 8 + i], high);
        }
    }
    if (has_min(t))
        for (int i = 0; i < (has_16(t) ? 8 : 4); i++)
            _mm512_store_si512(o->min[i], pairs(plain.min + 2 * i));
    _mm512_store_ps(o->s, super_s(t, s));
    if (has_min(t)) _mm512_store_ps(o->m, super_m(s));
}

/* The sums of one panel and NT tokens. */
typedef struct sums {
    _Alignas(64) int32_t low[NT][NIB_PANEL], high[NT][NIB_PANEL];
} sums;

typedef struct job {
    const block *w;
    const nib_act *a;
    int64_t b;         /* which block of the rows */
    int nr;            /* panels */
    __mmask16 rows[2]; /* of each */
    float *acc;        /* [T][2][16] */
    float *y;          /* where they go from the last block on */
    int64_t ldy;
    bool first, last;
} job;

/* A unit is one panel and 16 tokens. Even units multiply into tiles 0 and 1, odd ones into 2 and 3.
 */
INLINE void clear(bool both, bool odd) {
    if (odd) {
        TILE_ZERO(2);
        if (both) TILE_ZERO(3);
    } else {
        TILE_ZERO(0);
        if (both) TILE_ZERO(1);
    }
}
/* 64 columns; q: those of 16 tokens. */
INLINE void multiply(bool both, bool odd, const block *w, int i, const int8_t *q) {
    TILE_LOAD(4, q, 64);
    TILE_LOAD(5, w->low[i], 64);
    if (!both) {
        if (odd)
            TILE_DOT(2, 4, 5);
        else
            TILE_DOT(0, 4, 5);
        return;
    }
    TILE_LOAD(6, w->high[i], 64);
    if (odd) {
        TILE_DOT_U(2, 4, 5);
        TILE_DOT(3, 4, 6);
    } else {
        TILE_DOT_U(0, 4, 5);
        TILE_DOT(1, 4, 6);
    }
}
INLINE void keep(bool both, bool odd, sums *to) {
    if (odd) {
        TILE_STORE(2, to->low);
        if (both) TILE_STORE(3, to->high);
    } else {
        TILE_STORE(0, to->low);
        if (both) TILE_STORE(1, to->high);
    }
}

/* The sums of tokens [i, i + n) of the 16 from t0 on, and panel r, become floats. */
INLINE void add(bool both, int n_min, const job *o, const sums *sum, int64_t t0, int r, int i,
                int n) {
    const nib_act *a = o->a;
    int64_t at = o->b * a->n_tok + t0;
    const int16_t *ks = n_min == 8 ? a->ks16 + at * 16 : a->ks32 + at * 8;
    const float *d = a->kd + at, *acc = o->acc + (t0 * 2 + r) * NIB_PANEL;
    bool out = o->last && t0 + NT <= a->n_tok;
    float *to = out ? o->y + t0 * o->ldy + r * NIB_PANEL : (float *)(uintptr_t)acc;
    int64_t ld = out ? o->ldy : 2 * NIB_PANEL;
    __mmask16 before = o->first ? 0 : 0xffff, rows = o->rows[r];
    __m512i min[8];
    UNROLL
    for (int j = 0; j < n_min; j++) min[j] = _mm512_load_si512(o->w[r].min[j]);
    __m512 s = _mm512_load_ps(o->w[r].s), m = _mm512_load_ps(o->w[r].m);
    UNROLL
    for (int t = i; t < i + n; t++) {
        __m512i isum = _mm512_load_si512(sum->low[t]);
        if (both)
            isum = _mm512_add_epi32(isum, _mm512_slli_epi32(_mm512_load_si512(sum->high[t]), 8));
        __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum), s);
        if (n_min) {
            __m512i imin = _mm512_setzero_si512();
            UNROLL
            for (int j = 0; j < n_min; j++)
                imin = dpwssd_each(imin, min[j], ks + t * 2 * n_min + 2 * j);
            v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imin), m, v);
        }
        v = _mm512_fmadd_ps(v, _mm512_set1_ps(d[t]),
                            _mm512_maskz_load_ps(before, acc + t * 2 * NIB_PANEL));
        _mm512_mask_storeu_ps(to + t * ld, rows, v);
        fetch_to_write(to + (t + NT) * ld); /* rows of y are far apart, and not in the cache */
    }
}

/* One block of the panels and all tokens. Sums of a unit are stored while the next multiplies and
 * turned into floats while the one after that does. */
INLINE void pass(bool both, int n_min, const job *o) {
    sums sum[2];
    const nib_act *a = o->a;
    int64_t step = a->n_tok * 64, n = (a->n_tok + NT - 1) / NT * o->nr;
    const int8_t *q = a->kq + o->b * 4 * step;
    const int8_t *from = q;
    int64_t t0 = 0; /* of the unit that is turned into floats, and its panel */
    int r = 0, rq = 0;
    for (int64_t u = 0; u < n + 2; u += 2) {
        UNROLL
        for (int odd = 0; odd < 2; odd++) {
            const block *w = o->w + rq;
            bool more = u + odd < n, old = u + odd >= 2 && u + odd < n + 2;
            if (more) clear(both, odd);
            if (more) multiply(both, odd, w, 0, from + 0 * step);
            if (more) multiply(both, odd, w, 1, from + 1 * step);
            if (old) add(both, n_min, o, &sum[odd], t0, r, 0, 8);
            if (more) multiply(both, odd, w, 2, from + 2 * step);
            if (u + odd >= 1 && u + odd <= n) keep(both, !odd, &sum[!odd]);
            if (more) multiply(both, odd, w, 3, from + 3 * step);
            if (old) add(both, n_min, o, &sum[odd], t0, r, 8, 8);
            if (++rq == o->nr) rq = 0, from += NT * 64;
            if (old && ++r == o->nr) r = 0, t0 += NT;
        }
    }
}
static void pass_plain(const job *o) {
    pass(true, 0, o);
}
static void pass_min(const job *o) {
    pass(true, 4, o);
}
static void pass_folded(const job *o) {
    pass(false, 0, o);
}
static void pass_folded_min(const job *o) {
    pass(false, 8, o);
}
static void (*const passes[])(const job *o) = {
    [NIB_Q4_K] = pass_min,   [NIB_Q5_K] = pass_min,    [NIB_IQ4_XS] = pass_plain,
    [NIB_Q6_K] = pass_plain, [NIB_Q3_K] = pass_folded, [NIB_Q2_K] = pass_folded_min,
};

#define NIB_P16(...)
#define NIB_P16K(T, ...)                                                                           \
    static void expand_##T(const uint8_t *p, const uint8_t *s, ptrdiff_t then, ptrdiff_t then_s,   \
                           block *o) {                                                             \
        expand(NIB_##T, p, s, then, then_s, o);                                                    \
    }
#include "kernels/p16.def"
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, ptrdiff_t then,
                                 ptrdiff_t then_s, block *o) = {
#define NIB_P16(...)
#define NIB_P16K(T, ...) [NIB_##T] = expand_##T,
#include "kernels/p16.def"
};

static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

void nib_amx_mm_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                  void *scratch) {
    const mm_format *f = nib_mm_format(w->dtype);
    block *blocks = nib_mm_work(w, scratch);
    job o = {.w = blocks, .a = a, .acc = nib_mm_sums(w, scratch), .ldy = ldy};
    int together = w->packed ? 2 : 1;
    int64_t n_blocks = w->k / 256;
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        o.nr = (int)NIB_MIN(together, p1 - p);
        o.y = y + p * NIB_PANEL;
        const uint8_t *panel[2];
        for (int r = 0; r < o.nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (o.b = 0; o.b < n_blocks; o.b++) {
            o.first = o.b == 0;
            o.last = o.b + 1 == n_blocks;
            ptrdiff_t then = (ptrdiff_t)(8 * f->code_bytes), then_s = f->scale_bytes;
            if (o.last) {
                then = w->packed ? together * (ptrdiff_t)w->stride - o.b * then : 0;
                then_s = w->packed ? together * (ptrdiff_t)w->stride - o.b * then_s : 0;
            }
            for (int r = 0; r < o.nr; r++)
                expanders[w->dtype](panel[r] + (size_t)o.b * 8 * f->code_bytes,
                                    panel[r] + (size_t)(w->k / 32) * f->code_bytes +
                                        (size_t)o.b * f->scale_bytes,
                                    then, then_s, &blocks[r]);
            passes[w->dtype](&o);
        }
        int64_t t0 = a->n_tok / NT * NT; /* fewer than 16 tokens wait in acc */
        nib_avx512_put(w, o.acc + t0 * 2 * NIB_PANEL, a->n_tok - t0, p, o.nr, y + t0 * ldy, ldy);
    }
    TILE_RELEASE();
}
