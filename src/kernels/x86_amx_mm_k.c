/* Matrix products with AMX, blocks of 256.
 *
 * The integer scale of 16 or 32 columns is multiplied into the weight, which then takes up to 14
 * bits with sign: two operands, the low bytes without sign and the high bytes with it. So the sum
 * of all 256 columns stays in a tile each and leaves it once: isum = 256 * high + low, exactly.
 * Q2_K and Q3_K need the low bytes only, with sign. Minima times sums of 16 activations are a
 * product of tiles too, of bfloat16: minima are exact in those, sums as two of them, and all that
 * is added up are whole numbers below 2^24, which floats hold exactly in any order.
 *
 * A unit is two panels, 16 tokens and one block: four tiles of sums. Activations come from the
 * second cache once a unit, evenly spread among its products, and past the first, which they would
 * only fill. While a unit multiplies, the sums of the one before become floats. Their tiles are
 * stored one by one, each just before the unit's first product into it, so that products never wait
 * for all.
 *
 * The rest is keeping data near. Blocks of two panels are expanded into the first cache, which they
 * and what a unit touches just fill, and all tokens pass over them. Columns go in pieces, so that
 * all tokens' activations of a piece stay in the second cache while the panels pass over them;
 * between pieces floats wait in y. Rows of a large y are far apart and gone from the cache when
 * somebody reads them: they are written past the caches. */
#include "kernels/x86_amx_mm.h"
#include "kernels/internal.h"

enum { NT = 16 };               /* tokens of a unit */
enum { PIECE_BYTES = 3 << 19 }; /* of activations */
enum { LARGE = 2 << 20 };       /* bytes of y that no second cache keeps for who reads it */

typedef struct block {
    _Alignas(64) uint8_t low[4][16][64], high[4][16][64];
} block;
typedef struct factors {
    _Alignas(64) uint32_t min[16][NIB_PANEL]; /* [columns / 16]: each twice, as bfloat16 */
    float s[NIB_PANEL], m[NIB_PANEL];
} factors;
/* Sums of a unit, by panel. */
typedef struct sums {
    _Alignas(64) int32_t low[2][16][NIB_PANEL], high[2][16][NIB_PANEL];
    float min[2][16][NIB_PANEL];
} sums;

/* What the scratch holds. Factors outlive the block they came with: blocks take turns. */
typedef struct space {
    block w[2];
    factors f[2][2]; /* [turn][panel] */
    sums sum;
} space;
_Static_assert(sizeof(space) <= MM_SCRATCH, "the scratch holds it");

/* p: codes, s: scales of the block; of what is asked for a part goes out with each group. */
INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, block *o, factors *f,
                   mm_ask *ask) {
    super plain;
    super_scales(t, s, &plain);
    for (int g = 0; g < 8; g++, p += code_bytes_of(t)) {
        __m512i w[8];
        codes(t, p, w);
        mm_ask_some(ask);
        UNROLL
        for (int i = 0; i < 8; i++) {
            __m512i high, low = fold(t, w[i], plain.sc[has_16(t) ? 2 * g + i / 4 : g], &high);
            _mm512_store_si512(o->low[g / 2][g % 2 * 8 + i], low);
            if (!is_folded(t)) _mm512_store_si512(o->high[g / 2][g % 2 * 8 + i], high);
        }
    }
    _mm512_store_ps(f->s, super_s(t, s));
    if (!has_min(t)) return;
    for (int i = 0; i < 16; i++) {
        __m512i min = s8x16(plain.min[has_16(t) ? i : i / 2]);
        min = _mm512_castps_si512(_mm512_cvtepi32_ps(min));
        _mm512_store_si512(f->min[i], _mm512_or_si512(min, _mm512_srli_epi32(min, 16)));
    }
    _mm512_store_ps(f->m, super_m(s));
}

#define NIB_P16(...)
#define NIB_P16K(T, ...)                                                                           \
    static void expand_##T(const uint8_t *p, const uint8_t *s, block *o, factors *f,               \
                           mm_ask *ask) {                                                          \
        expand(NIB_##T, p, s, o, f, ask);                                                          \
    }
#include "kernels/p16.def"
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, block *o, factors *f,
                                 mm_ask *ask) = {
#define NIB_P16(...)
#define NIB_P16K(T, ...) [NIB_##T] = expand_##T,
#include "kernels/p16.def"
};

typedef struct job {
    const nib_mat *m;
    const nib_act *a;
    space *o;
    const uint8_t *panel[2];
    int nr;            /* panels */
    __mmask16 rows[2]; /* of each */
    int64_t b0, b1;    /* the piece */
    int64_t direct;    /* tokens before it go from and to y, not acc */
    float *acc;        /* [T][2][16] */
    float *y;          /* of the first panel */
    int64_t ldy;
    bool past; /* whole lines of y go past the caches */
    int64_t p; /* the first panel */
    mm_ask *ask;
} job;

/* Block b of the panels. What memory is asked for is the one after the next: at the next one's turn
 * it is there. */
static void expand_block(const job *o, int64_t b) {
    const mm_format *f = nib_mm_format(o->m->dtype);
    mm_ask_for(o->ask, o->p, 256 * (b + 2), 256);
    for (int r = 0; r < o->nr; r++) {
        const uint8_t *p = o->panel[r], *s = p + (size_t)(o->m->k / 32) * f->code_bytes;
        expanders[o->m->dtype](p + (size_t)b * 8 * f->code_bytes, s + (size_t)b * f->scale_bytes,
                               &o->o->w[r], &o->o->f[b % 2][r], o->ask);
    }
}

/* A unit, for later: where its floats come from and go to; those of the second panel stand behind
 * those of the first. */
typedef struct unit {
    const factors *f; /* [panel] */
    const float *d, *from;
    float *to;
    int64_t from_step, to_step;
    const float *far; /* its rows of y, where from is those, or to without 'past' */
    bool past;        /* to is rows of y that go past the caches */
} unit;
INLINE unit unit_of(const job *o, int64_t b, int64_t t0) {
    static const _Alignas(64) float zeros[2 * NIB_PANEL];
    float *acc = o->acc + t0 * 2 * NIB_PANEL, *y = o->y + t0 * o->ldy;
    unit x = {.f = o->o->f[b % 2],
              .d = o->a->kd + b * o->a->n_tok + t0,
              .from = acc,
              .to = acc,
              .from_step = 2 * NIB_PANEL,
              .to_step = 2 * NIB_PANEL};
    if (t0 >= o->direct) return x;
    if (b == o->b0) x.from = b ? y : zeros, x.from_step = b ? o->ldy : 0;
    if (b + 1 == o->b1) x.to = y, x.to_step = o->ldy;
    x.past = x.to == y && o->past;
    if (x.from == y || (x.to == y && !x.past)) x.far = y;
    return x;
}
/* Asks for a quarter of its rows of y: they are far apart, and not in the cache. */
INLINE void fetch(const unit *x, int quarter, int64_t ldy) {
    if (x->far)
        for (int t = 4 * quarter; t < 4 * quarter + 4; t++) {
            fetch_to_write(x->far + t * ldy);
            fetch_to_write(x->far + t * ldy + NIB_PANEL);
        }
}

/* Tokens [i, i + n) of a unit become floats. */
INLINE void add_to(bool past, bool both, bool has_m, bool two, const unit *x, const sums *sum,
                   int i, int n) {
    const float *from = x->from + i * x->from_step;
    float *to = x->to + i * x->to_step;
    __m512 s[2], m[2];
    UNROLL
    for (int r = 0; r < 2; r++) s[r] = _mm512_load_ps(x->f[r].s), m[r] = _mm512_load_ps(x->f[r].m);
    UNROLL
    for (int t = i; t < i + n; t++, from += x->from_step, to += x->to_step) {
        __m512 d = _mm512_set1_ps(x->d[t]);
        UNROLL
        for (int r = 0; r < 2; r++) {
            if (r && !two) break;
            __m512i isum = _mm512_load_si512(sum->low[r][t]);
            if (both) {
                __m512i high = _mm512_load_si512(sum->high[r][t]);
                isum = _mm512_add_epi32(isum, _mm512_slli_epi32(high, 8));
            }
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum), s[r]);
            if (has_m) v = _mm512_fmadd_ps(_mm512_load_ps(sum->min[r][t]), m[r], v);
            v = _mm512_fmadd_ps(v, d, _mm512_loadu_ps(from + r * NIB_PANEL));
            if (past)
                _mm512_stream_ps(to + r * NIB_PANEL, v);
            else
                _mm512_storeu_ps(to + r * NIB_PANEL, v);
        }
    }
}

INLINE void add(bool both, bool has_m, bool two, const unit *x, const sums *sum, int i, int n) {
    if (x->past)
        add_to(true, both, has_m, two, x, sum, i, n);
    else
        add_to(false, both, has_m, two, x, sum, i, n);
}

/* Tiles 0 and 1 are low and high sums of the first panel, 2 and 3 of the second, 4 is activations,
 * 5 weights, 6 sums of activations, 7 what minima make of them. */
INLINE void multiply_min(const factors *f) {
    TILE_LOAD(5, f->min, 64);
    TILE_ZERO(7);
    TILE_DOT_BF16(7, 6, 5);
}
/* 64 columns, number i of a block, of one panel: low sums to tile A, high ones to B. A unit's first
 * product into a tile comes after what the tile holds of the unit before is stored. */
#define MULTIPLY(A, B, r)                                                                          \
    do {                                                                                           \
        TILE_LOAD(5, w[r].low[i], 64);                                                             \
        RENEW(A, before->low[r]);                                                                  \
        if (both) {                                                                                \
            TILE_DOT_U(A, 4, 5);                                                                   \
            TILE_LOAD(5, w[r].high[i], 64);                                                        \
            RENEW(B, before->high[r]);                                                             \
            TILE_DOT(B, 4, 5);                                                                     \
        } else {                                                                                   \
            TILE_DOT(A, 4, 5);                                                                     \
        }                                                                                          \
    } while (0)
#define RENEW(c, to)                                                                               \
    do {                                                                                           \
        if (i == 0) {                                                                              \
            TILE_STORE(c, to);                                                                     \
            TILE_ZERO(c);                                                                          \
        }                                                                                          \
    } while (0)
INLINE void multiply(bool both, bool two, const block *w, int i, const int8_t *q, sums *before) {
    TILE_LOAD_ONCE(4, q, 64);
    MULTIPLY(0, 1, 0);
    if (two) MULTIPLY(2, 3, 1);
}

/* One piece of the panels, all tokens. */
INLINE void pass(bool both, bool has_m, const job *o) {
    sums *sum = &o->o->sum;
    const nib_act *a = o->a;
    const block *w = o->o->w;
    const bool two = o->nr == 2;
    int64_t step = a->n_tok * 64;
    unit x = {0};
    for (int64_t b = o->b0; b < o->b1; b++) {
        const int8_t *q = a->kq + b * 4 * step;
        const uint32_t *ks = a->ksbf + b * a->n_tok * 16;
        expand_block(o, b);
        for (int64_t t0 = 0; t0 < a->n_tok; t0 += NT, q += NT * 64, ks += NT * 16) {
            unit next = unit_of(o, b, t0);
            fetch(&next, 0, o->ldy);
            mm_ask_some(o->ask);
            multiply(both, two, w, 0, q, sum);
            if (has_m && two) TILE_STORE(7, sum->min[1]);
            fetch(&next, 1, o->ldy);
            mm_ask_some(o->ask);
            multiply(both, two, w, 1, q + step, sum);
            if (x.f) add(both, has_m, two, &x, sum, 0, 5);
            fetch(&next, 2, o->ldy);
            mm_ask_some(o->ask);
            multiply(both, two, w, 2, q + 2 * step, sum);
            if (x.f) add(both, has_m, two, &x, sum, 5, 6);
            fetch(&next, 3, o->ldy);
            mm_ask_some(o->ask);
            if (has_m) {
                TILE_LOAD_ONCE(6, ks, 64);
                multiply_min(&next.f[0]);
            }
            multiply(both, two, w, 3, q + 3 * step, sum);
            if (x.f) add(both, has_m, two, &x, sum, 5 + 6, 16 - 5 - 6);
            if (has_m) {
                TILE_STORE(7, sum->min[0]);
                if (two) multiply_min(&next.f[1]);
            }
            x = next;
        }
    }
    TILE_STORE(0, sum->low[0]);
    if (both) TILE_STORE(1, sum->high[0]);
    TILE_STORE(2, sum->low[1]);
    if (both) TILE_STORE(3, sum->high[1]);
    if (has_m) TILE_STORE(7, sum->min[1]);
    if (x.f) add(both, has_m, two, &x, sum, 0, 16);
}
static void pass_plain(const job *o) {
    pass(true, false, o);
}
static void pass_min(const job *o) {
    pass(true, true, o);
}
static void pass_folded(const job *o) {
    pass(false, false, o);
}
static void pass_folded_min(const job *o) {
    pass(false, true, o);
}
static void (*const passes[])(const job *o) = {
    [NIB_Q4_K] = pass_min,   [NIB_Q5_K] = pass_min,    [NIB_IQ4_XS] = pass_plain,
    [NIB_Q6_K] = pass_plain, [NIB_Q3_K] = pass_folded, [NIB_Q2_K] = pass_folded_min,
};

/* Floats of the tokens that are not direct, from y or to it. */
static void move(const job *o, bool out) {
    for (int64_t t = o->direct; t < o->a->n_tok; t++)
        for (int r = 0; r < o->nr; r++) {
            float *acc = o->acc + (t * 2 + r) * NIB_PANEL, *y = o->y + t * o->ldy + r * NIB_PANEL;
            if (out)
                _mm512_mask_storeu_ps(y, o->rows[r], _mm512_load_ps(acc));
            else
                _mm512_store_ps(acc, _mm512_maskz_loadu_ps(o->b0 ? o->rows[r] : 0, y));
        }
}

static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

void nib_amx_mm_k(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                  void *scratch) {
    job o = {
        .m = w, .a = a, .o = nib_mm_work(w, scratch), .acc = nib_mm_sums(w, scratch), .ldy = ldy};
    int together = w->packed ? 2 : 1;
    int64_t n_blocks = w->k / 256, most = NIB_MAX(PIECE_BYTES / (a->n_tok * 256), 2);
    int64_t n_pieces = w->packed ? (n_blocks + most - 1) / most : 1;
    o.past = a->n_tok * ldy * (int64_t)sizeof *y >= LARGE &&
             (((uintptr_t)y | (uintptr_t)ldy * sizeof *y) & 63) == 0;
    mm_ask ask = {
        .w = w, .p1 = p1, .together = together, .calls = 16 + 4 * ((a->n_tok + NT - 1) / NT)};
    o.ask = &ask;
    configure();
    for (int64_t i = 0; i < n_pieces; i++) {
        o.b0 = n_blocks * i / n_pieces;
        o.b1 = n_blocks * (i + 1) / n_pieces;
        ask.k0 = 256 * o.b0;
        ask.k1 = 256 * o.b1;
        for (int64_t p = p0; p < p1; p += together) {
            o.nr = (int)NIB_MIN(together, p1 - p);
            o.y = y + p * NIB_PANEL;
            o.p = p;
            o.direct = a->n_tok / NT * NT;
            for (int r = 0; r < o.nr; r++) {
                o.panel[r] = nib_mm_panel(w, p + r, scratch);
                o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
                if (o.rows[r] != 0xffff) o.direct = 0;
            }
            move(&o, false);
            passes[w->dtype](&o);
            move(&o, true);
        }
    }
    TILE_RELEASE();
    _mm_sfence();
}
