/* Attention with AMX: the cache type BF16 (attn_bf16.h), any number of queries.
 *
 * Keys and values are tiles where they lie. Up to 32 queries at a time, two blocks of 16, go over a
 * chunk: the scores of one page are multiplied while those of the page before become weights, two
 * registers of scores to one of weights, for 2^x is a rounding to a whole number and a look into a
 * table. So scores stay in the first cache. Then weights are multiplied with values.
 *
 * Two blocks share the tiles on their right, which come from the second cache, past the first; more
 * blocks would push out their own scores and weights. */
#include "kernels/lanes_avx512.h"
#include "kernels/vecmath.h"
#include "kernels/attn_parts.h"
#include "kernels/attn_bf16.h"
#include "kernels/x86_amx.h"

enum {
    NQ = 32,
    PAGES = NIB_ATTN_PAGES,
    /* between rows; not powers of two, for such lines push each other out */
    X_ROW = NIB_PAGE + 16, /* floats: scores */
    W_ROW = CHUNK + 32     /* numbers: weights */
};

/* Up to NQ queries. */
typedef struct rows {
    int n;
    span s[NQ], some, every; /* what each sees, what some of them see, and what all see */
    float max[NQ];           /* the score whose weight is 1 */
    float from[NQ];          /* what its n (attn_bf16.h) takes besides */
    _Alignas(64) float sum[NQ][16];
} rows;

typedef struct room {
    int k_tiles, v_tiles;           /* of 32 columns of keys, and of 16 of values */
    int out_row;                    /* floats: Dv in whole 64s */
    uint16_t *q;                    /* [NQ][32 * k_tiles] */
    float *scores;                  /* [2][NQ][X_ROW]: of even pages and of odd ones */
    uint16_t *weights;              /* [NQ][W_ROW] */
    float *out;                     /* [NQ][out_row] */
    const bf16_tile *v[CHUNK / 32]; /* [v_tiles] each */
} room;

/* 32 positions of V from 'first' on, and zeros for what nobody has 'seen': it may hold anything. */
static const bf16_tile *only_seen(const bf16_tile *v, int n, int first, span seen, bf16_tile *to) {
    _Alignas(64) uint16_t keep[16][2];
    for (int p = 0; p < 32; p++)
        keep[bf16_row(p)][p % 2] = first + p >= seen.lo && first + p < seen.hi ? 0xffff : 0;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < 16; r++)
            _mm512_store_si512(to[i][r],
                               _mm512_and_si512(_mm512_loadu_si512(v[i][r]),
                                                _mm512_set1_epi32((int)nib_load_u32(keep[r]))));
    return to;
}

static room room_of(const nib_attn *a, span seen) {
    room r = {.k_tiles = bf16_k_tiles(a->d),
              .v_tiles = bf16_v_tiles(a->dv),
              .out_row = (int)NIB_ROUND_UP((size_t)a->dv, 64)};
    r.scores = a->scratch;
    r.out = r.scores + 2 * NQ * X_ROW;
    r.weights = (uint16_t *)(void *)(r.out + NQ * r.out_row);
    r.q = r.weights + NQ * W_ROW;
    bf16_tile *edge = (bf16_tile *)(void *)(r.q + NQ * 32 * r.k_tiles); /* [2][v_tiles] */
    for (int p = seen.lo & ~31; p < seen.hi; p += 32) {
        const bf16_tile *v = (const bf16_tile *)(const void *)a->v[p / NIB_PAGE];
        v += p % NIB_PAGE / 32 * r.v_tiles;
        const bool whole = p >= seen.lo && p + 32 <= seen.hi;
        if (!whole) v = only_seen(v, r.v_tiles, p, seen, edge + (p < seen.lo ? 0 : r.v_tiles));
        r.v[p / 32] = v;
    }
    return r;
}

/* ---- products ----
 * Tiles 0-3: sums; 4, 5: on the left; 6, 7: on the right. */

/* The unit of the tiles goes to sleep when nothing was multiplied for some 300 ns, and takes as
 * long to wake up. So where vectors work for longer than half of that it gets a product that nobody
 * needs; the sums are zeroed before they count. */
LANE void stay_awake(void) {
    TILE_DOT_BF16(0, 4, 6);
}

/* Left operands and sums have so many rows. */
static void configure(int n) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = (uint8_t)(i < 6 ? n : 16);
        c.row_bytes[i] = 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}
/* On the left rows of 'row' numbers, a tile further with every step; on the right
 * right[step][at + i * next], i < n. One block of rows takes up to four of those, two take two.
 * out: rows of out_row floats. */
LANE void product(bool two, int n, int steps, const uint16_t *left, int row,
                  const bf16_tile *const *right, int at, int next, float *out, int out_row) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int i = 0; i < steps; i++, left += 32) {
        const bf16_tile *b = right[i] + at;
        TILE_LOAD(4, left, 2 * row);
        TILE_LOAD_ONCE(6, b[0], 64);
        TILE_DOT_BF16(0, 4, 6);
        if (n > 1) {
            TILE_LOAD_ONCE(7, b[next], 64);
            TILE_DOT_BF16(1, 4, 7);
        }
        if (two) {
            TILE_LOAD(5, left + 16 * row, 2 * row);
            TILE_DOT_BF16(2, 5, 6);
            if (n > 1) TILE_DOT_BF16(3, 5, 7);
            continue;
        }
        if (n > 2) {
            TILE_LOAD_ONCE(6, b[2 * next], 64);
            TILE_DOT_BF16(2, 4, 6);
        }
        if (n > 3) {
            TILE_LOAD_ONCE(7, b[3 * next], 64);
            TILE_DOT_BF16(3, 4, 7);
        }
    }
    float *after = two ? out + 16 * out_row : out + 32;
    TILE_STORE_ROWS(0, out, 4 * out_row);
    if (n > 1) TILE_STORE_ROWS(1, out + 16, 4 * out_row);
    if (two || n > 2) TILE_STORE_ROWS(2, after, 4 * out_row);
    if (two ? n > 1 : n > 3) TILE_STORE_ROWS(3, after + 16, 4 * out_row);
}

/* The scores of a page. */
static void score(const nib_attn *a, const room *r, bool two, int page) {
    const int n = r->k_tiles;
    const bf16_tile *k = (const bf16_tile *)(const void *)a->k[page],
                    *right[NIB_KV_BF16_MAX_D / 32];
    float *x = r->scores + page % 2 * NQ * X_ROW;
    for (int i = 0; i < n; i++) right[i] = k + i;
    if (!two) {
        product(false, 4, n, r->q, 32 * n, right, 0, n, x, X_ROW);
        return;
    }
    product(true, 2, n, r->q, 32 * n, right, 0, n, x, X_ROW);
    product(true, 2, n, r->q, 32 * n, right, 2 * n, n, x + 32, X_ROW);
}
/* Weights times values. */
static void mix(const room *r, bool two, span seen) {
    const int first = seen.lo / 32, steps = (seen.hi + 31) / 32 - first;
    const uint16_t *w = r->weights + 32 * first;
    const bf16_tile *const *v = r->v + first;
    for (int c = 0, n; c < r->v_tiles; c += n) {
        float *out = r->out + 16 * c;
        n = NIB_MIN(two ? 2 : 4, r->v_tiles - c);
#define MIX(two, n) product(two, n, steps, w, W_ROW, v, c, 1, out, r->out_row)
        switch (two ? n : 2 + n) {
        case 1: MIX(true, 1); break;
        case 2: MIX(true, 2); break;
        case 3: MIX(false, 1); break;
        case 4: MIX(false, 2); break;
        case 5: MIX(false, 3); break;
        default: MIX(false, 4);
        }
#undef MIX
    }
}

/* ---- the softmax ---- */

/* Row i's weights count from this score; NaN when it is none. */
static inline void count_from(rows *o, int i, float score) {
    o->max[i] = fabsf(score) < INFINITY ? score : NAN;
    o->from[i] = fmaf(-o->max[i], BF16_LOG2E, BF16_ONE);
}
/* Scores [64] of positions from 'first' on: capped, and -INFINITY where they are not seen. */
static void hide(const nib_attn *a, span s, int first, float *x) {
    const uint64_t seen = _bzhi_u64(~0ull, (unsigned)NIB_MAX(NIB_MIN(s.hi - first, 64), 0)) &
                          ~_bzhi_u64(~0ull, (unsigned)NIB_MAX(NIB_MIN(s.lo - first, 64), 0));
    for (int i = 0; i < NIB_PAGE; i += 16) {
        v16 y = v_load(x + i);
        if (a->softcap > 0) y = v_softcap(y, a->softcap);
        v_store(x + i, _mm512_mask_mov_ps(v_set1(-INFINITY), (__mmask16)(seen >> i), y));
    }
}

LANE __m512i whole_numbers(const float *x, v16 from) {
    /* NaN, too, becomes the largest, which is NaN again as a bfloat16 */
    const v16 y = v_fma(v_load(x), v_set1(BF16_LOG2E), from);
    return _mm512_cvtps_epi32(v_min(y, v_set1(BF16_MOST)));
}
/* A row of a page's scores becomes weights, which are added to 'sum'. */
LANE void soften_row(const float *x, float from_, uint16_t *w, float *sum_) {
    const __m512i low = _mm512_loadu_si512(bf16_mantissa),
                  high = _mm512_loadu_si512(bf16_mantissa + 64),
                  exponent = _mm512_set1_epi16((short)0xff80), ones = _mm512_set1_epi16(0x3f80);
    const v16 from = v_set1(from_);
    v16 sum = v_load(sum_);
    UNROLL for (int i = 0; i < NIB_PAGE; i += 32) {
        const __m512i n =
            _mm512_packus_epi32(whole_numbers(x + i, from), whole_numbers(x + i + 16, from));
        const __m512i mantissa = _mm512_permutex2var_epi8(low, n, high),
                      p = _mm512_ternarylogic_epi32(exponent, n, mantissa, 0xca);
        _mm512_storeu_si512(w + i, p);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)p, (__m512bh)ones);
    }
    v_store(sum_, sum);
}

/* The scores of a page become weights. */
static void soften(const nib_attn *a, const room *r, rows *o, int page) {
    const int first = page * NIB_PAGE;
    float *x = r->scores + page % 2 * NQ * X_ROW;
    uint16_t *w = r->weights + first;
    if (a->softcap > 0 || first < o->every.lo || first + NIB_PAGE > o->every.hi)
        for (int i = 0; i < o->n; i++) hide(a, o->s[i], first, x + i * X_ROW);
    if (first <= o->every.lo)
        for (int i = 0; i < o->n; i++) {
            const int at = o->s[i].lo - first;
            if (at >= 0 && at < NIB_PAGE && o->s[i].lo < o->s[i].hi)
                count_from(o, i, x[i * X_ROW + at]);
        }
    int i = 0;
    for (; i + 4 <= o->n; i += 4) {
        if (i == NQ / 2) stay_awake();
        UNROLL for (int j = i; j < i + 4; j++)
            soften_row(x + j * X_ROW, o->from[j], w + j * W_ROW, o->sum[j]);
    }
    for (; i < o->n; i++) soften_row(x + i * X_ROW, o->from[i], w + i * W_ROW, o->sum[i]);
}

/* Rare: rows in which weights grew too large, or something is NaN, count from their largest score.
 */
static void soften_again(const nib_attn *a, const room *r, rows *o, uint32_t which) {
    for (int i = 0; i < o->n; i++)
        if (which >> i & 1) o->max[i] = -INFINITY, v_store(o->sum[i], v_set1(0));
    for (int again = 0; again < 2; again++) {
        for (int page = o->some.lo / NIB_PAGE; page * NIB_PAGE < o->some.hi; page++) {
            score(a, r, o->n > 16, page);
            for (int i = 0; i < o->n; i++) {
                float *x = r->scores + (page % 2 * NQ + i) * X_ROW;
                if (!(which >> i & 1)) continue;
                hide(a, o->s[i], page * NIB_PAGE, x);
                if (again)
                    soften_row(x, o->from[i], r->weights + i * W_ROW + page * NIB_PAGE, o->sum[i]);
                else /* NaN stays */
                    for (int j = 0; j < NIB_PAGE; j++)
                        o->max[i] = x[j] <= o->max[i]        ? o->max[i]
                                    : o->max[i] != o->max[i] ? NAN
                                                             : x[j];
            }
        }
        for (int i = 0; i < o->n && !again; i++)
            if (which >> i & 1) count_from(o, i, o->max[i]);
    }
}

/* ---- all of it ---- */

/* Queries [q0, q0 + n) come in. */
static void bring(const nib_attn *a, const room *r, int q0, int n, rows *o) {
    o->n = n;
    o->some = (span){CHUNK, 0}, o->every = (span){0, CHUNK};
    for (int i = 0; i < n; i++) {
        const span s = query_span(a, q0 + i);
        if (i % (NQ / 2) == NQ / 4) stay_awake();
        o->s[i] = s;
        o->some = join(o->some, s);
        o->every = (span){NIB_MAX(o->every.lo, s.lo), NIB_MIN(o->every.hi, s.hi)};
        o->max[i] = -INFINITY, o->from[i] = 0;
        v_store(o->sum[i], v_set1(0));
        const uint16_t *from = (const uint16_t *)(const void *)a->q[q0 + i];
        uint16_t *to = r->q + i * 32 * r->k_tiles;
        for (int j = 0; j < a->d; j += 32) {
            const __mmask32 there = _bzhi_u32(~0u, (unsigned)NIB_MIN(a->d - j, 32));
            _mm512_storeu_si512(to + j, _mm512_maskz_loadu_epi16(there, from + j));
        }
    }
}

/* Up to 16 queries' output from this chunk, x [n][out_row], joins that of earlier ones. */
static void join_rows(const nib_attn *a, const room *r, int q, int n, const float *x,
                      const float *sum, const blend *w) {
    for (int i = 0; i < n; i++, x += r->out_row) {
        float *o = a->o + (int64_t)(q + i) * a->dv;
        const v16 now = v_set1(w->now[i]), before = v_set1(w->before[i]);
        int c = 0;
        if (sum[i] != sum[i]) {
            for (; c < a->dv; c++) o[c] = NAN;
        } else if (a->more) {
            for (; c + 16 <= a->dv; c += 16)
                v_store(o + c, v_fma(v_load(x + c), now, v_mul(v_load(o + c), before)));
        } else {
            for (; c + 16 <= a->dv; c += 16) v_store(o + c, v_load(x + c));
        }
        if (c < a->dv) join_out(a, q + i, c, v_load(x + c), w, i);
    }
}

static void attend(const nib_attn *a, const room *r, int q0, int n) {
    rows o;
    const bool two = n > 16;
    bring(a, r, q0, n, &o);
    const int page0 = o.some.lo / NIB_PAGE, page1 = (o.some.hi + NIB_PAGE - 1) / NIB_PAGE;
    for (int page = page0; page <= page1 && page0 < page1; page++) {
        if (page < page1) score(a, r, two, page);
        if (page > page0) soften(a, r, &o, page - 1);
    }
    float sum[NQ];
    uint32_t odd = 0;
    for (int i = 0; i < n; i++) {
        sum[i] = v_sum(v_load(o.sum[i]));
        odd |= (uint32_t) !(sum[i] < BF16_FAR) << i;
    }
    if (odd) {
        soften_again(a, r, &o, odd);
        for (int i = 0; i < n; i++) sum[i] = v_sum(v_load(o.sum[i]));
    }
    if (page0 < page1)
        mix(r, two, o.some);
    else
        memset(r->out, 0, sizeof(float) * (size_t)(NQ * r->out_row));
    for (int i = 0; i < n; i += 16) {
        const int m = NIB_MIN(16, n - i);
        blend w;
        stay_awake();
        join_chunk(a, q0 + i, m, o.max + i, sum + i, &w);
        join_rows(a, r, q0 + i, m, r->out + i * r->out_row, sum + i, &w);
    }
}

static void attn(const nib_attn *a) {
    if (a->type != NIB_KV_BF16) {
        nib_avx512_attn(a);
        return;
    }
    span all = {CHUNK, 0};
    for (int i = 0; i < a->n_q; i++) all = join(all, query_span(a, i));
    const room r = room_of(a, all);
    configure(NIB_MIN(a->n_q, 16));
    for (int q0 = 0; q0 < a->n_q; q0 += NQ) attend(a, &r, q0, NIB_MIN(NQ, a->n_q - q0));
    TILE_RELEASE();
}

void nib_x86_amx_vec(nib_kernels *k) {
    k->kv = NIB_KV_BF16;
    k->attn = attn;
}
