/* Attention of the cache type BF16 in plain C: what attn_bf16.h says, step by step. */
#include <math.h>
#include "kernels/lanes_scalar.h"
#include "kernels/vecmath.h"

#include "kernels/attn_parts.h"
#include "kernels/attn_bf16.h"

/* clang-format off */
const uint8_t bf16_less[64] = {
     0,  1,  1,  2,  2,  3,  4,  4,  5,  5,  5,  6,  6,  7,  7,  8,
     8,  8,  9,  9,  9,  9, 10, 10, 10, 10, 10, 11, 11, 11, 11, 11,
    11, 11, 11, 11, 11, 11, 11, 11, 11, 10, 10, 10, 10, 10,  9,  9,
     9,  8,  8,  8,  7,  7,  6,  6,  5,  5,  4,  3,  3,  2,  1,  1,
};
/* clang-format on */

/* Half away from zero; what is too large becomes infinite, NaN stays. */
static uint16_t to_bf16(float x) {
    uint32_t bits = nib_f32_bits(x);
    if (x != x) return 0x7fc0;
    return (uint16_t)((bits + 0x8000) >> 16);
}
static float from_bf16(uint16_t x) {
    return nib_bits_f32((uint32_t)x << 16);
}

void nib_bf16_query(float *q, int d) {
    uint16_t *to = (uint16_t *)(void *)q; /* never ahead of what is read */
    for (int i = 0; i < d; i++) {
        const uint16_t x = to_bf16(q[i]);
        memcpy(to + i, &x, sizeof x);
    }
}

/* A position that is not all numbers gets a key of NaN, for those who see it, and values of zero,
 * for those who do not: zero weights meet them. */
void nib_bf16_store(const float *k, int d, const float *v, int dv, int at, uint8_t *k_page,
                    uint8_t *v_page) {
    const int nk = bf16_k_tiles(d), nv = bf16_v_tiles(dv), p = at % 32;
    bool good = true;
    for (int i = 0; i < d; i++) good &= (to_bf16(k[i]) & 0x7fff) < 0x7f80;
    for (int i = 0; i < dv; i++) good &= (to_bf16(v[i]) & 0x7fff) < 0x7f80;
    bf16_tile *kt = (bf16_tile *)(void *)k_page + at / 16 * nk,
              *vt = (bf16_tile *)(void *)v_page + at / 32 * nv;
    for (int i = 0; i < 32 * nk; i++)
        kt[i / 32][i % 32 / 2][at % 16 * 2 + i % 2] = good ? i < d ? to_bf16(k[i]) : 0 : 0x7fc0;
    for (int i = 0; i < dv; i++)
        vt[i / 16][bf16_row(p)][i % 16 * 2 + p % 2] = good ? to_bf16(v[i]) : 0;
}

/* ---- a product of tiles ---- */

static float flush(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}
/* One number of it: a: 32 in a row, b: a column of 16 pairs, 32 numbers apart. */
static float dot_32(float sum, const uint16_t *a, const uint16_t *b) {
    float half[2] = {0};
    for (int i = 0; i < 32; i++) {
        const float x = flush(from_bf16(a[i])), y = flush(from_bf16(b[32 * (i / 2) + i % 2]));
        half[i % 2] = flush(fmaf(x, y, half[i % 2]));
    }
    return flush(sum + flush(half[0] + half[1]));
}

static float score(const nib_attn *a, const uint16_t *q, int p) {
    const int nk = bf16_k_tiles(a->d);
    const bf16_tile *k =
        (const bf16_tile *)(const void *)a->k[p / NIB_PAGE] + p % NIB_PAGE / 16 * nk;
    float sum = 0;
    for (int i = 0; i < nk; i++) sum = dot_32(sum, q + 32 * i, k[i][0] + 2 * (p % 16));
    return sum;
}

/* Scores become weights, as the rows and pairs of V stand; returns their sum. */
static float soften(const float *x, float max, uint16_t w[CHUNK]) {
    const float from = fmaf(-max, BF16_LOG2E, BF16_ONE);
    uint16_t ones[16 * 32];
    float sum = 0;
    for (int i = 0; i < 16 * 32; i++) ones[i] = 0x3f80;
    for (int b = 0; b < CHUNK; b += 32) {
        for (int p = 0; p < 32; p++) {
            const float y = fmaf(x[b + p], BF16_LOG2E, from);
            const float n = !(y < BF16_MOST) ? BF16_MOST : y > 0 ? rintf(y) : 0;
            const unsigned bits = (unsigned)n;
            w[b + 2 * bf16_row(p) + p % 2] = (uint16_t)(bits - bf16_less[bits % 128 / 2]);
        }
        sum = dot_32(sum, w + b, ones);
    }
    return sum;
}

void nib_bf16_attn(const nib_attn *a) {
    uint16_t q[NIB_KV_BF16_MAX_D], w[CHUNK];
    float x[CHUNK];
    const int nv = bf16_v_tiles(a->dv);
    for (int i = 0; i < a->n_q; i++) {
        const span s = query_span(a, i);
        float m = -INFINITY, sum = 0, most = -INFINITY;
        memset(q, 0, sizeof q);
        memcpy(q, a->q[i], (size_t)a->d * sizeof *q);
        for (int p = 0; p < CHUNK; p++) {
            x[p] = -INFINITY;
            if (p < s.lo || p >= s.hi) continue;
            x[p] = score(a, q, p);
            if (a->softcap > 0) {
                v16 y = v_softcap(v_set1(x[p]), a->softcap);
                x[p] = y.v[0];
            }
            if (!(x[p] <= most)) most = most != most ? NAN : x[p];
        }
        const bool some = s.lo < s.hi;
        if (some) {
            m = x[s.lo];
            sum = fabsf(m) < INFINITY ? soften(x, m, w) : NAN;
            if (!(sum < BF16_FAR)) {
                m = fabsf(most) < INFINITY ? most : NAN;
                sum = m == m ? soften(x, m, w) : NAN;
            }
        }
        blend join = {.now = {1}};
        join_chunk(a, i, 1, &m, &sum, &join);
        for (int c = 0; c < a->dv; c++) {
            float out = sum != sum ? NAN : 0;
            for (int b = s.lo / 32 * 32; some && sum == sum && b < s.hi; b += 32) {
                const bf16_tile *v = (const bf16_tile *)(const void *)a->v[b / NIB_PAGE] +
                                     b % NIB_PAGE / 32 * nv + c / 16;
                bf16_tile seen = {{0}}; /* what is not may hold anything */
                for (int p = NIB_MAX(s.lo - b, 0); p < NIB_MIN(s.hi - b, 32); p++)
                    seen[bf16_row(p)][p % 2] = (*v)[bf16_row(p)][c % 16 * 2 + p % 2];
                out = dot_32(out, w + b, seen[0]);
            }
            float *o = a->o + (int64_t)i * a->dv + c;
            if (a->more) out = fmaf(out, join.now[0], *o * join.before[0]);
            *o = out;
        }
    }
}
