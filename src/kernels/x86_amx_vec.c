/* Attention with AMX: the cache type I16, many queries.
 *
 * What attn_int.h multiplies are integers of 8 significant bits, short keys apart, whose sums stay
 * below 2^24: each is a bfloat16. So products of bfloat16 tiles, which add up in floats, give the
 * very sums that integers give, and between them stands the same softmax (attn_parts.h).
 *
 * A chunk's keys and values are turned into tiles once for all queries. Then a block of queries at
 * a time: their scores by rows become weights in place, and these are the left operand of the
 * product with the values as they stand. Tiles and vectors do not work side by side: the unit of
 * the tiles takes some 300 ns to wake up when it had nothing to do for as long, and vectors are
 * slower while it is at work. So blocks are large, though their scores leave the first cache. */
#include "kernels/lanes_avx512.h"
#include "kernels/vecmath.h"
#define SOFT_ROWS 4
#include "kernels/attn_parts.h"
#include "kernels/x86_amx.h"

enum {
    NQ = 64,      /* queries at a time, at most: four tiles */
    ENOUGH = 128, /* from which on tiles are faster */
    RUN = 64      /* keys, and columns of values, that are multiplied side by side: four tiles */
};

typedef uint16_t tile[16][32]; /* of bfloat16: [16][16][2] where it is a right operand */

/* Keys and values lie in the order they are read in. */
typedef struct room {
    int d, dv;     /* D in whole 32s, Dv in whole RUNs */
    tile *k;       /* [CHUNK/RUN][d/32][RUN/16]: 32 columns of 16 keys */
    tile *v;       /* [dv/RUN][CHUNK/32][RUN/16]: 16 columns of 32 values */
    uint16_t *q;   /* [NQ][d] */
    float *out;    /* [NQ][dv] */
    float *scores; /* [NQ][CHUNK]; weights: the first half of each row, as bfloat16 */
} room;

static room room_of(const nib_attn *a) {
    room r = {.d = (int)NIB_ROUND_UP((size_t)a->d, 32),
              .dv = (int)NIB_ROUND_UP((size_t)a->dv, RUN)};
    r.scores = a->scratch;
    r.out = r.scores + NQ * ROW;
    r.q = (uint16_t *)(void *)(r.out + NQ * r.dv);
    r.k = (tile *)(void *)(r.q + NQ * r.d);
    r.v = r.k + CHUNK / 16 * (r.d / 32);
    return r;
}

/* ---- integers to bfloat16 ---- */

static inline __m512i bits(__m512 x) {
    return _mm512_castps_si512(x);
}
/* 32 integers of 16 bits, each a bfloat16. */
LANE __m512i bf16_of(__m512i x) {
    const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 16), 16)),
                 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 16));
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(bits(even), 16), 0xaaaaaaaa, bits(odd));
}

/* Keys and values of the 32s of positions that someone sees. */
static void bring(const nib_attn *a, const room *r, span seen) {
    const int width = (int)NIB_ROUND_UP((size_t)a->dv, 16);
    for (int p = seen.lo / 16; p < (seen.hi + 15) / 16; p++) {
        const int16_t *k = ints_of(a->k[p * 16 / NIB_PAGE]) + p * 16 % NIB_PAGE * a->d;
        tile *to = r->k + p / 4 * (r->d / 32) * 4 + p % 4;
        for (int i = 0; i < r->d; i += 2)
            _mm512_storeu_si512(to[i / 32 * 4][i / 2 % 16],
                                i < a->d ? bf16_of(_mm512_loadu_si512(k + 16 * i))
                                         : _mm512_setzero_si512());
    }
    for (int p = seen.lo / 32 * 16; p < (seen.hi + 31) / 32 * 16; p++) {
        const int16_t *v = ints_of(a->v[p / (NIB_PAGE / 2)]) + p % (NIB_PAGE / 2) * width * 2;
        for (int i = 0; i < width; i += 16) {
            tile *to = r->v + (i / RUN * (CHUNK / 32) + p / 16) * 4 + i / 16 % 4;
            _mm512_storeu_si512((*to)[p % 16], bf16_of(_mm512_loadu_si512(v + 2 * i)));
        }
    }
}
/* Whole 32s, zeros behind D. */
static void bring_query(const float *query, int d, uint16_t *to) {
    const int16_t *q = (const void *)query;
    for (int i = 0; i < d; i += 32) {
        const __mmask32 there = _bzhi_u32(~0u, (unsigned)NIB_MIN(d - i, 32));
        _mm512_storeu_si512(to + i, bf16_of(_mm512_maskz_loadu_epi16(there, q + i)));
    }
}
/* A row of weights times scales becomes whole numbers in place: the blocks of 16 that it sees, and
 * zeros up to whole 32s of what others see. */
static void bring_weights(float *row, float factor, span own, span seen) {
    const __m512i upper =
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const int t0 = own.lo & ~15, t1 = factor != 0 ? (own.hi + 15) & ~15 : t0;
    const int from = seen.lo & ~31, end = (seen.hi + 31) & ~31;
    for (int i = from; i < NIB_MIN(t0, end); i += 16) v_store(row + i, v_set1(0));
    for (int i = NIB_MAX(t1, from); i < end; i += 16) v_store(row + i, v_set1(0));
    uint16_t *to = (uint16_t *)(void *)row;
    for (int i = from; i < end; i += 32) {
        const v16 a = v_round_bf16(weight_int(v_load(row + i), factor)),
                  b = v_round_bf16(weight_int(v_load(row + i + 16), factor));
        _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(bits(a), upper, bits(b)));
    }
}

/* ---- products ---- */

static void configure(void) {
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}
/* Tiles 0-3: sums; 4: what is on the left of all; 6, 7: on the right. */
LANE void clear(void) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}
LANE void multiply(const void *left, int step, const tile *right) {
    TILE_LOAD(4, left, step);
    TILE_LOAD(6, right[0], 64);
    TILE_DOT_BF16(0, 4, 6);
    TILE_LOAD(7, right[1], 64);
    TILE_DOT_BF16(1, 4, 7);
    TILE_LOAD(6, right[2], 64);
    TILE_DOT_BF16(2, 4, 6);
    TILE_LOAD(7, right[3], 64);
    TILE_DOT_BF16(3, 4, 7);
}
/* x: [NQ][step], from the first column on. */
LANE void keep(float *x, int step) {
    const int bytes = step * (int)sizeof *x;
    TILE_STORE_ROWS(0, x, bytes);
    TILE_STORE_ROWS(1, x + 16, bytes);
    TILE_STORE_ROWS(2, x + 32, bytes);
    TILE_STORE_ROWS(3, x + 48, bytes);
}

/* n queries, whose 16s see 'seen'. */
LANE void score(const room *r, int n, const span *seen) {
    const int steps = r->d / 32;
    for (int p = 0; p < CHUNK; p += RUN)
        for (int i = 0; i < n; i += 16) {
            if (p + RUN <= seen[i / 16].lo || p >= seen[i / 16].hi) continue;
            const uint16_t *q = r->q + i * r->d;
            const tile *k = r->k + p / RUN * steps * 4;
            clear();
            for (int j = 0; j < steps; j++, k += 4) multiply(q + 32 * j, 2 * r->d, k);
            keep(r->scores + i * ROW + p, ROW);
        }
}
/* x: weights of 16 queries. */
LANE void mix(const room *r, span seen, const float *x, float *out) {
    const int first = seen.lo / 32, n = (seen.hi + 31) / 32 - first;
    for (int c = 0; c < r->dv; c += RUN) {
        const tile *v = r->v + (c / RUN * (CHUNK / 32) + first) * 4;
        const uint16_t *w = (const uint16_t *)(const void *)x + 32 * first;
        clear();
        for (int i = 0; i < n; i++, v += 4, w += 32) multiply(w, ROW * 4, v);
        keep(out + c, r->dv);
    }
}

/* Queries [q0, q0 + n). */
static void attend(const nib_attn *a, const room *r, int q0, int n, const float *k_scale,
                   const float *v_scale) {
    span s[NQ], seen[NQ / 16];
    blend w[NQ / 16];
    for (int i = 0; i < n; i++) {
        s[i] = query_span(a, q0 + i);
        seen[i / 16] = i % 16 ? join(seen[i / 16], s[i]) : join((span){CHUNK, 0}, s[i]);
        bring_query(a->q[q0 + i], a->d, r->q + i * r->d);
    }
    score(r, n, seen);
    for (int i = 0; i < n; i += 16) {
        float factor[16], *x = r->scores + i * ROW;
        const int m = NIB_MIN(16, n - i);
        weigh(a, q0 + i, m, s + i, x, k_scale, v_scale, factor, &w[i / 16]);
        for (int j = 0; j < m; j++) bring_weights(x + j * ROW, factor[j], s[i + j], seen[i / 16]);
    }
    for (int i = 0; i < n; i += 16) mix(r, seen[i / 16], r->scores + i * ROW, r->out + i * r->dv);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < a->dv; c += 16)
            join_out(a, q0 + i, c,
                     v_mul(v_load(r->out + i * r->dv + c), v_set1(w[i / 16].unit[i % 16])),
                     &w[i / 16], i % 16);
}

static void attn(const nib_attn *a) {
    _Alignas(64) float k_scale[CHUNK], v_scale[CHUNK];
    if (a->type != NIB_KV_I16 || a->n_q < ENOUGH || a->d < NIB_KV_I16_SHORT_D) {
        nib_avx512_attn(a);
        return;
    }
    const room r = room_of(a);
    span all = {CHUNK, 0};
    for (int i = 0; i < a->n_q; i++) all = join(all, query_span(a, i));
    gather_scales(a, k_scale, v_scale);
    bring(a, &r, all);
    configure();
    for (int q0 = 0; q0 < a->n_q; q0 += NQ)
        attend(a, &r, q0, NIB_MIN(NQ, a->n_q - q0), k_scale, v_scale);
    TILE_RELEASE();
}

void nib_x86_amx_vec(nib_kernels *k) {
    k->attn = attn;
}
