/* Attention with AMX: the cache type BF16 (attn_bf16.h), any number of queries.
 *
 * Keys and values are tiles where they lie. Up to 32 queries at a time, two blocks of 16, go over a
 * chunk: while the scores of one page are multiplied those of the page before become weights, two
 * registers of scores to one of weights, for 2^x is a rounding to a whole number and a look into a
 * table. Then weights are multiplied with values, while the last page becomes weights and what is
 * done joins earlier chunks. Tiles and vectors work at the same time only where their instructions
 * are neighbours: so after every product come some rows of what vectors have to do.
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
    int q0, n;
    span s[NQ], some, every; /* what each sees, what some of them see, and what all see */
    /* of whole registers; what is past n counts for nothing */
    _Alignas(64) float max[NQ]; /* the score whose weight is 1 */
    float from[NQ];             /* what its n (attn_bf16.h) takes besides */
    float sum[NQ];              /* of weights */
    float now[NQ], before[NQ];  /* of a blend */
    float added[NQ][16];        /* the sum, 16 times */
} rows;

typedef struct room {
    bool whole;                     /* every query sees the whole chunk */
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

static room room_of(const nib_attn *a, bool all, span seen) {
    room r = {.whole = all,
              .k_tiles = bf16_k_tiles(a->d),
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

/* ---- the softmax ---- */

/* The weights of some rows count from these scores; NaN where one is none. */
static void count_from(rows *o, uint32_t which) {
    for (int i = 0; i < NQ; i += 16) {
        const __mmask16 these = (__mmask16)(which >> i);
        const v16 x = v_load(o->max + i);
        const __mmask16 none =
            _mm512_mask_cmp_ps_mask(these, _mm512_abs_ps(x), v_set1(INFINITY), _CMP_NLT_UQ);
        const v16 max = _mm512_mask_mov_ps(x, none, v_set1(NAN));
        v_store(o->max + i, max);
        _mm512_mask_store_ps(o->from + i, these,
                             _mm512_fnmadd_ps(max, v_set1(BF16_LOG2E), v_set1(BF16_ONE)));
    }
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
static float *scores_of(const room *r, int page) {
    return r->scores + page % 2 * NQ * X_ROW;
}
/* Scores of a page get ready to become weights. */
static void prepare(const nib_attn *a, const room *r, rows *o, int page) {
    const int first = page * NIB_PAGE;
    float *x = scores_of(r, page);
    if (a->softcap > 0 || first < o->every.lo || first + NIB_PAGE > o->every.hi)
        for (int i = 0; i < o->n; i++) hide(a, o->s[i], first, x + i * X_ROW);
    if (first > o->every.lo) return;
    uint32_t which = 0;
    for (int i = 0; i < o->n; i++) {
        const int at = o->s[i].lo - first;
        if (at < 0 || at >= NIB_PAGE || o->s[i].lo >= o->s[i].hi) continue;
        o->max[i] = x[i * X_ROW + at];
        which |= 1u << i;
    }
    count_from(o, which);
}

LANE __m512i whole_numbers(const float *x, v16 from) {
    /* NaN, too, becomes the largest, which is NaN again as a bfloat16 */
    const v16 y = v_fma(v_load(x), v_set1(BF16_LOG2E), from);
    return _mm512_cvtps_epi32(v_min(y, v_set1(BF16_MOST)));
}
/* A row of a page's scores becomes weights. */
LANE void soften_row(const float *x, const float *from_, uint16_t *w) {
    const __m512i less = _mm512_loadu_si512(bf16_less);
    const v16 from = v_set1(*from_);
    UNROLL for (int i = 0; i < NIB_PAGE; i += 32) {
        const __m512i n =
            _mm512_packus_epi32(whole_numbers(x + i, from), whole_numbers(x + i + 16, from));
        const __m512i too_much =
            _mm512_maskz_permutexvar_epi8(0x5555555555555555, _mm512_srli_epi16(n, 1), less);
        _mm512_storeu_si512(w + i, _mm512_sub_epi16(n, too_much));
    }
}

/* ---- what vectors do between products ---- */

enum { NOTHING, SOFTEN, JOIN }; /* known where it is inlined: 'what' */
typedef struct chores {
    int n; /* rows left */
    /* SOFTEN: scores of a page become weights */
    const float *x, *from;
    uint16_t *w;
    /* JOIN: the chunk's output joins what earlier chunks gave */
    const float *out, *now, *before;
    float *o;
    int out_row, dv;
    bool more;
} chores;

static chores softening(const room *r, const rows *o, int page) {
    return (chores){.n = o->n > 16 ? NQ : o->n, /* what is past n does no harm, asking costs */
                    .x = scores_of(r, page),
                    .from = o->from,
                    .w = r->weights + page * NIB_PAGE};
}
static chores joining(const nib_attn *a, const room *r, const rows *o) {
    return (chores){.n = o->n,
                    .out = r->out,
                    .now = o->now,
                    .before = o->before,
                    .o = a->o + (int64_t)o->q0 * a->dv,
                    .out_row = r->out_row,
                    .dv = a->dv,
                    .more = a->more};
}
LANE void join_row(const chores *c) {
    const v16 now = v_set1(*c->now), before = v_set1(*c->before);
    for (int i = 0; i < c->dv; i += 16) {
        const int n = c->dv - i;
        v16 x = v_load(c->out + i);
        if (c->more) x = v_fma(x, now, v_mul(v_load_n(c->o + i, n), before));
        v_store_n(c->o + i, x, n);
    }
}
/* n rows of it; nothing when fewer are left, where that is not 'sure' not to be. */
LANE chores some(chores c, int what, int n, bool sure) {
    if (what == NOTHING || (!sure && c.n < n)) return c;
    UNROLL for (int i = 0; i < n; i++) {
        if (what == SOFTEN) {
            soften_row(c.x, c.from, c.w);
            c.x += X_ROW, c.from++, c.w += W_ROW;
        } else {
            join_row(&c);
            c.out += c.out_row, c.now++, c.before++, c.o += c.dv;
        }
    }
    c.n -= n;
    return c;
}
LANE chores rest(chores c, int what) {
    while (what && c.n >= 4) c = some(c, what, 4, true);
    while (what && c.n > 0) c = some(c, what, 1, true);
    return c;
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
 * 'each' rows of c come after every product (some), all that are left before step 'ready'; those
 * that are left then are returned. out: rows of out_row floats. */
LANE chores product(bool two, int n, int steps, const uint16_t *left, int row,
                    const bf16_tile *const *right, int at, int next, float *out, int out_row,
                    chores c, int what, int each, bool sure, int ready) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int i = 0; i < steps; i++, left += 32) {
        const bf16_tile *b = right[i] + at;
        if (i == ready) c = rest(c, what);
        TILE_LOAD(4, left, 2 * row);
        TILE_LOAD_ONCE(6, b[0], 64);
        TILE_DOT_BF16(0, 4, 6);
        c = some(c, what, each, sure);
        if (two) {
            TILE_LOAD(5, left + 16 * row, 2 * row);
            TILE_DOT_BF16(2, 5, 6);
            c = some(c, what, each, sure);
        }
        if (n > 1) {
            TILE_LOAD_ONCE(7, b[next], 64);
            TILE_DOT_BF16(1, 4, 7);
            c = some(c, what, each, sure);
        }
        if (two && n > 1) {
            TILE_DOT_BF16(3, 5, 7);
            c = some(c, what, each, sure);
        }
        if (!two && n > 2) {
            TILE_LOAD_ONCE(6, b[2 * next], 64);
            TILE_DOT_BF16(2, 4, 6);
            c = some(c, what, each, sure);
        }
        if (!two && n > 3) {
            TILE_LOAD_ONCE(7, b[3 * next], 64);
            TILE_DOT_BF16(3, 4, 7);
            c = some(c, what, each, sure);
        }
    }
    float *after = two ? out + 16 * out_row : out + 32;
    TILE_STORE_ROWS(0, out, 4 * out_row);
    if (n > 1) TILE_STORE_ROWS(1, out + 16, 4 * out_row);
    if (two || n > 2) TILE_STORE_ROWS(2, after, 4 * out_row);
    if (two ? n > 1 : n > 3) TILE_STORE_ROWS(3, after + 16, 4 * out_row);
    return c;
}

/* The scores of a page. */
LANE void score(const nib_attn *a, const room *r, bool two, int page, chores c, int what) {
    const int n = r->k_tiles;
    const bf16_tile *k = (const bf16_tile *)(const void *)a->k[page],
                    *right[NIB_KV_BF16_MAX_D / 32];
    float *x = scores_of(r, page);
    for (int i = 0; i < n; i++) right[i] = k + i;
#define SCORE(n, each, sure)                                                                       \
    for (int i = 0; i < 2; i++)                                                                    \
    c = product(true, 2, n, r->q, 32 * (n), right, 2 * i * (n), n, x + 32 * i, X_ROW, c, what,     \
                each, sure, -1)
    if (!two)
        c = product(false, 4, n, r->q, 32 * n, right, 0, n, x, X_ROW, c, what, 2, false, -1);
    else if (n == 2) /* as many rows as products, or twice as many: code without branches */
        UNROLL SCORE(2, 2, what == SOFTEN);
    else if (n == 4)
        UNROLL SCORE(4, 1, what == SOFTEN);
    else
        SCORE(n, 1, false);
#undef SCORE
    rest(c, what);
}

/* Weights times values, columns from 16 * at on; if the last page's scores only become weights
 * here, that page waits for them. */
LANE void mix(const room *r, bool two, span seen, int at, chores c, int what) {
    const int first = seen.lo / 32, steps = (seen.hi + 31) / 32 - first;
    const int last = (seen.hi - 1) / NIB_PAGE * (NIB_PAGE / 32) - first;
    const int ready = what == SOFTEN ? NIB_MAX(last, 0) : -1, n = r->v_tiles - at;
    const uint16_t *w = r->weights + 32 * first;
    const bf16_tile *const *v = r->v + first;
    float *out = r->out + 16 * at;
#define MIX(n)                                                                                     \
    c = product(two, n, steps, w, W_ROW, v, at, 1, out, r->out_row, c, what, 2, false, ready)
    if (n == 1)
        MIX(1);
    else if (n == 2 || two)
        MIX(2);
    else if (n == 3)
        MIX(3);
    else
        MIX(4);
#undef MIX
}

/* The sums of weights. */
LANE void add_up(const room *r, bool two, rows *o) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    const int first = o->some.lo / 32, steps = (o->some.hi + 31) / 32 - first;
    const uint16_t *w = r->weights + 32 * first;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_LOAD_EACH(6, &ones);
    for (int i = 0; i < steps; i++, w += 32) {
        TILE_LOAD(4, w, 2 * W_ROW);
        TILE_DOT_BF16(0, 4, 6);
        if (!two) continue;
        TILE_LOAD(5, w + 16 * W_ROW, 2 * W_ROW);
        TILE_DOT_BF16(1, 5, 6);
    }
    TILE_STORE(0, o->added);
    if (two) TILE_STORE(1, o->added[16]);
    for (int i = 0; i < o->n; i++) o->sum[i] = o->added[i][0];
}

/* ---- all of it ---- */

/* Rare: rows in which weights grew too large, or something is NaN, count from their largest score.
 */
static __attribute__((noinline)) void soften_again(const nib_attn *a, const room *r, rows *o,
                                                   uint32_t which) {
    const chores none = {.n = 0};
    for (int again = 0; again < 2; again++) {
        for (int i = 0; i < o->n && !again; i++)
            if (which >> i & 1) o->max[i] = -INFINITY;
        for (int page = o->some.lo / NIB_PAGE; page * NIB_PAGE < o->some.hi; page++) {
            if (o->n > 16)
                score(a, r, true, page, none, NOTHING);
            else
                score(a, r, false, page, none, NOTHING);
            for (int i = 0; i < o->n; i++) {
                float *x = scores_of(r, page) + i * X_ROW;
                if (!(which >> i & 1)) continue;
                hide(a, o->s[i], page * NIB_PAGE, x);
                if (again)
                    soften_row(x, o->from + i, r->weights + i * W_ROW + page * NIB_PAGE);
                else /* NaN stays */
                    for (int j = 0; j < NIB_PAGE; j++)
                        o->max[i] = x[j] <= o->max[i]        ? o->max[i]
                                    : o->max[i] != o->max[i] ? NAN
                                                             : x[j];
            }
        }
        if (!again) count_from(o, which);
    }
}

/* Queries [q0, q0 + n) come in. */
static void bring(const nib_attn *a, const room *r, int q0, int n, rows *o) {
    o->q0 = q0, o->n = n;
    o->some = r->whole ? (span){0, CHUNK} : (span){CHUNK, 0}, o->every = (span){0, CHUNK};
    for (int i = 0; i < NQ; i += 16) {
        v_store(o->max + i, v_set1(-INFINITY));
        v_store(o->from + i, v_set1(0));
        v_store(o->sum + i, v_set1(0));
    }
    for (int i = 0; i < n; i++) {
        const span s = r->whole ? o->every : query_span(a, q0 + i);
        if (i % (NQ / 2) == NQ / 4) stay_awake();
        o->s[i] = s;
        if (!r->whole) {
            o->some = join(o->some, s);
            o->every = (span){NIB_MAX(o->every.lo, s.lo), NIB_MIN(o->every.hi, s.hi)};
        }
        const uint16_t *from = (const uint16_t *)(const void *)a->q[q0 + i];
        uint16_t *to = r->q + i * 32 * r->k_tiles;
        for (int j = 0; j < a->d; j += 32) {
            const __mmask32 there = _bzhi_u32(~0u, (unsigned)NIB_MIN(a->d - j, 32));
            _mm512_storeu_si512(to + j, _mm512_maskz_loadu_epi16(there, from + j));
        }
    }
}

/* Queries [q0, q0 + n). What is left of those before is done beside the first product; what is left
 * of these is to join them (joining). */
LANE void attend(const nib_attn *a, const room *r, bool two, int q0, int n, rows *o,
                 chores before) {
    const chores none = {.n = 0};
    bring(a, r, q0, n, o);
    const int page0 = o->some.lo / NIB_PAGE, page1 = (o->some.hi + NIB_PAGE - 1) / NIB_PAGE;
    uint32_t odd = 0;
    if (page0 < page1) {
        score(a, r, two, page0, before, JOIN);
        prepare(a, r, o, page0);
        for (int page = page0 + 1; page < page1; page++) {
            score(a, r, two, page, softening(r, o, page - 1), SOFTEN);
            prepare(a, r, o, page);
        }
        const int step = two ? 2 : 4;
        for (bool again = false;; again = true) {
            if (!again)
                mix(r, two, o->some, 0, softening(r, o, page1 - 1), SOFTEN);
            else
                mix(r, two, o->some, 0, none, NOTHING);
            for (int i = step; i < r->v_tiles; i += step) mix(r, two, o->some, i, none, NOTHING);
            add_up(r, two, o);
            if (again) break;
            for (int i = 0; i < n; i += 16)
                odd |=
                    (uint32_t)_mm512_cmp_ps_mask(v_load(o->sum + i), v_set1(BF16_FAR), _CMP_NLT_UQ)
                    << i;
            odd &= _bzhi_u32(~0u, (unsigned)n);
            if (!odd) break;
            soften_again(a, r, o, odd);
        }
    } else {
        rest(before, JOIN);
        memset(r->out, 0, sizeof(float) * (size_t)(NQ * r->out_row));
    }
    for (int i = 0; i < n; i += 16) {
        blend w;
        join_chunk(a, q0 + i, NIB_MIN(16, n - i), o->max + i, o->sum + i, &w);
        v_store(o->now + i, v_load(w.now)), v_store(o->before + i, v_load(w.before));
    }
    for (int i = 0; odd && i < n; i++)
        for (int c = 0; c < r->out_row && o->sum[i] != o->sum[i]; c++)
            r->out[i * r->out_row + c] = NAN;
}

static void attn(const nib_attn *a) {
    if (a->type != NIB_KV_BF16) {
        nib_avx512_attn(a);
        return;
    }
    int64_t lo = 0, hi = INT64_MAX;
    for (int i = 0; i < a->n_q; i++) lo = NIB_MAX(lo, a->lo[i]), hi = NIB_MIN(hi, a->hi[i]);
    const bool whole = lo <= a->pos0 && hi >= a->pos0 + CHUNK;
    span all = whole ? (span){0, CHUNK} : (span){CHUNK, 0};
    for (int i = 0; i < a->n_q && !whole; i++) all = join(all, query_span(a, i));
    const room r = room_of(a, whole, all);
    configure(NIB_MIN(a->n_q, 16));
    rows o[2];
    chores left = {.n = 0};
    for (int q0 = 0, i = 0; q0 < a->n_q; q0 += NQ, i ^= 1) {
        if (a->n_q - q0 > 16)
            attend(a, &r, true, q0, NIB_MIN(NQ, a->n_q - q0), o + i, left);
        else
            attend(a, &r, false, q0, a->n_q - q0, o + i, left);
        left = joining(a, &r, o + i);
    }
    rest(left, JOIN);
    TILE_RELEASE();
}

void nib_x86_amx_vec(nib_kernels *k) {
    k->kv = NIB_KV_BF16;
    k->attn = attn;
}
