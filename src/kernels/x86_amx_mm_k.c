/* Matrix products with AMX, blocks of 256.
 *
 * The integer scale of 16 or 32 columns is multiplied into the weight, which then takes up to 14
 * bits with sign: two operands, the low bytes without sign and the high bytes with it. So the sum
 * of all 256 columns stays in a tile each and leaves it once: isum = 256 * high + low, exactly.
 * Q2_K and Q3_K need the low bytes only, with sign.
 *
 * A block of two panels is expanded into the first cache (16 KiB: 4 tiles of 16 rows x 64 columns,
 * times low and high, times two panels); tokens pass over it 16 at a time. While the tiles multiply
 * 16 tokens, the vector units turn the sums of the 16 before into floats: the two run side by side
 * only because their instructions are mixed here. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 16 };

typedef struct block {
    _Alignas(64) uint8_t low[4][16][64], high[4][16][64];
    int32_t min[8][NIB_PANEL]; /* pairs of words */
    float s[NIB_PANEL], m[NIB_PANEL];
} block;
_Static_assert(2 * sizeof(block) <= MM_SCRATCH, "the scratch holds two blocks");

/* p: codes, s: scales of the block */
INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, block *o) {
    super plain;
    super_scales(t, s, &plain);
    for (int g = 0; g < 8; g++, p += code_bytes_of(t)) {
        __m512i w[8];
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

/* The sums of NT tokens: low and high, [panel][token][16 rows]. */
typedef struct sums {
    _Alignas(64) int32_t low[2][NT][NIB_PANEL], high[2][NT][NIB_PANEL];
} sums;

typedef struct job {
    const block *w; /* two */
    const nib_act *a;
    int64_t b;
    float *acc; /* [T][2][16] */
} job;

/* 64 columns of 16 tokens; q: theirs. */
INLINE void multiply(bool both, const block *w, int i, const int8_t *q) {
    TILE_LOAD(4, q, 64);
    TILE_LOAD(5, w[0].low[i], 64);
    if (both) {
        TILE_DOT_U(0, 4, 5);
        TILE_LOAD(6, w[0].high[i], 64);
        TILE_DOT(1, 4, 6);
        TILE_LOAD(7, w[1].low[i], 64);
        TILE_DOT_U(2, 4, 7);
        TILE_LOAD(5, w[1].high[i], 64);
        TILE_DOT(3, 4, 5);
    } else {
        TILE_DOT(0, 4, 5);
        TILE_LOAD(7, w[1].low[i], 64);
        TILE_DOT(2, 4, 7);
    }
}

/* The sums of tokens [i, i + n) of the 16 from t0 on go into acc. */
INLINE void add(bool both, int n_min, const job *o, const sums *sum, int64_t t0, int i, int n) {
    const block *w = o->w;
    const nib_act *a = o->a;
    int64_t at = o->b * a->n_tok + t0;
    const int16_t *ks = n_min == 8 ? a->ks16 + at * 16 : a->ks32 + at * 8;
    float *acc = o->acc + t0 * 2 * NIB_PANEL;
    UNROLL
    for (int t = i; t < i + n; t++) {
        __m512 d = _mm512_set1_ps(a->kd[at + t]);
        __m512i imin[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        UNROLL
        for (int j = 0; j < n_min; j++) {
            __m512i x = bcast32(ks + t * 2 * n_min + 2 * j);
            imin[0] = dpwssd(imin[0], _mm512_load_si512(w[0].min[j]), x);
            imin[1] = dpwssd(imin[1], _mm512_load_si512(w[1].min[j]), x);
        }
        UNROLL
        for (int r = 0; r < 2; r++) {
            __m512i isum = _mm512_load_si512(sum->low[r][t]);
            if (both)
                isum = _mm512_add_epi32(isum,
                                        _mm512_slli_epi32(_mm512_load_si512(sum->high[r][t]), 8));
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum), _mm512_load_ps(w[r].s));
            if (n_min) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imin[r]), _mm512_load_ps(w[r].m), v);
            float *to = acc + t * 32 + r * NIB_PANEL;
            _mm512_store_ps(to, _mm512_fmadd_ps(v, d, _mm512_load_ps(to)));
        }
    }
}

/* One block of two panels and all tokens. */
INLINE void pass(bool both, int n_min, const job *o) {
    sums sum[2];
    int64_t n_tok = o->a->n_tok, n = (n_tok + NT - 1) / NT;
    const int8_t *q = o->a->kq + o->b * 4 * n_tok * 64;
    for (int64_t i = 0; i <= n; i++, q += NT * 64) {
        sums *to = &sum[i % 2];
        const sums *from = &sum[(i + 1) % 2];
        if (i < n) {
            TILE_ZERO(0);
            TILE_ZERO(2);
            if (both) {
                TILE_ZERO(1);
                TILE_ZERO(3);
            }
        }
        for (int j = 0; j < 4; j++) {
            if (i < n) multiply(both, o->w, j, q + j * n_tok * 64);
            if (i) add(both, n_min, o, from, (i - 1) * NT, 4 * j, 4);
        }
        if (i == n) break;
        TILE_STORE(0, to->low[0]);
        TILE_STORE(2, to->low[1]);
        if (both) {
            TILE_STORE(1, to->high[0]);
            TILE_STORE(3, to->high[1]);
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
    static void expand_##T(const uint8_t *p, const uint8_t *s, block *o) {                         \
        expand(NIB_##T, p, s, o);                                                                  \
    }
#include "kernels/p16.def"
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, block *o) = {
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
    job o = {.w = blocks, .a = a, .acc = nib_mm_sums(w, scratch)};
    int together = w->packed ? 2 : 1;
    configure();
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        const uint8_t *panel[2];
        for (int r = 0; r < nr; r++) panel[r] = nib_mm_panel(w, p + r, scratch);
        memset(o.acc, 0, sizeof(float) * (size_t)(a->n_tok * 2 * NIB_PANEL));
        for (o.b = 0; o.b < w->k / 256; o.b++) {
            /* a lone panel is multiplied twice: rare, and not worth code of its own */
            for (int r = 0; r < 2; r++)
                expanders[w->dtype](panel[r % nr] + (size_t)o.b * 8 * f->code_bytes,
                                    panel[r % nr] + (size_t)(w->k / 32) * f->code_bytes +
                                        (size_t)o.b * f->scale_bytes,
                                    &blocks[r]);
            passes[w->dtype](&o);
        }
        nib_avx512_put(w, o.acc, a->n_tok, p, nr, y, ldy);
    }
    TILE_RELEASE();
}
