/* Attention of one chunk, on 16 lanes: included by vec_body.h, after the set has said how many
 * queries a register block holds (ATTN_Q) and how many vectors wide it is (ATTN_W: of K tiles of 16
 * positions, of V 16 columns); ATTN_Q * ATTN_W sums stay in registers.
 *
 * The arithmetic is one recipe for every cache type: K and V are read as floats, which is exact for
 * all of them (a half float scale times an 8-bit integer fits 24 bits), and multiplied with fmaf in
 * the order kernels.h states. A query's numbers come from its own positions only, so neighbours and
 * the shape of the batch do not matter.
 *
 * Queries go in groups of GROUP. Per group, K is unpacked to floats a few tiles at a time and V a
 * few columns at a time, into buffers that stay in the first-level cache while the group's register
 * blocks run over them. */
#ifndef NIB_KERNELS_ATTN_BODY_H
#define NIB_KERNELS_ATTN_BODY_H
#include "kernels/attn_parts.h"

enum {
    GROUP = NIB_ATTN_GROUP, /* queries that share an unpacked piece of K or V */
    DEPTH = 128,            /* of K's D columns at a time; wider heads continue the sums */
    /* floats between packed queries: no power of two, or they would share cache sets */
    Q_ROW = DEPTH + 16,
    SPAN = 128, /* positions of V at a time */
    COLS = 16 * ATTN_W
};

/* ---- the scores ---- */

/* K as [column][tile][16 positions]: ATTN_W tiles from 'tile' on, columns [d0, d0 + nd). */
static void unpack_k(const nib_attn *a, int tile, int d0, int nd, float *out) {
    const size_t per_page = NIB_PAGE / 16;
    for (int t = 0; t < ATTN_W; t++, out += 16) {
        const uint8_t *page = a->k[(size_t)(tile + t) / per_page];
        const size_t at = (size_t)(tile + t) % per_page;
        switch (a->type) {
        case NIB_KV_I16:  /* attn_int.h */
        case NIB_KV_BF16: /* attn_bf16.h */
        case NIB_KV_AUTO:
        case NIB_KV_N_TYPES: break;
        case NIB_KV_F16:
            page += 32 * (at * (size_t)a->d + (size_t)d0);
            for (int i = 0; i < nd; i++) v_store(out + i * COLS, v_load_f16(page + 32 * i));
            break;
        case NIB_KV_F32:
            page += 64 * (at * (size_t)a->d + (size_t)d0);
            for (int i = 0; i < nd; i++)
                v_store(out + i * COLS, v_load((const float *)(const void *)page + 16 * i));
            break;
        case NIB_KV_Q8_0:
            page += 544 * (at * (size_t)a->d + (size_t)d0) / 32;
            for (int i = 0; i < nd; i += 32, page += 544) {
                const v16 scale = v_load_f16(page);
                for (int g = 0; g < 8; g++) {
                    v16 q[4];
                    v_load_i8_quads(page + 32 + 64 * g, scale, q);
                    for (int j = 0; j < 4; j++) v_store(out + (i + 4 * g + j) * COLS, q[j]);
                }
            }
        }
    }
}

/* What will be read soon: 'step' bytes further for each column multiplied. */
typedef struct soon {
    const uint8_t *p;
    size_t step;
} soon;

/* Scores of nq queries against ATTN_W tiles: goes on from the scores there unless 'fresh'. */
LANE void score_block(int nq, const float *q, const float *k, int nd, bool fresh, float *scores,
                      soon v) {
    v16 sum[ATTN_Q][ATTN_W];
    for (int i = 0; i < nq; i++)
        for (int t = 0; t < ATTN_W; t++)
            sum[i][t] = fresh ? v_set1(0) : v_load(scores + i * ROW + 16 * t);
    for (int d = 0; d < nd; d++, k += COLS, q++, v.p += v.step) {
        __builtin_prefetch(v.p, 0, 2);
        v16 row[ATTN_W];
        for (int t = 0; t < ATTN_W; t++) row[t] = v_load(k + 16 * t);
        for (int i = 0; i < nq; i++) {
            const v16 x = v_set1(q[i * Q_ROW]);
            for (int t = 0; t < ATTN_W; t++) sum[i][t] = v_fma(x, row[t], sum[i][t]);
        }
    }
    for (int i = 0; i < nq; i++)
        for (int t = 0; t < ATTN_W; t++) v_store(scores + i * ROW + 16 * t, sum[i][t]);
}

/* ---- the weighted sum ---- */

/* n columns (16 when more) of 'rows' positions 'step' bytes apart. Reads nothing past them. */
static void unpack_f16(const uint8_t *p, size_t step, int n, int rows, float *out) {
    uint16_t part[16] = {0};
    if (n >= 16)
        for (int i = 0; i < rows; i++, p += step, out += COLS) v_store(out, v_load_f16(p));
    else
        for (int i = 0; i < rows; i++, p += step, out += COLS) {
            memcpy(part, p, 2 * (size_t)n);
            v_store(out, v_load_f16(part));
        }
}

/* Whole blocks of 32 a row; the columns begin 'skip' values into one (0 or 16). */
static void unpack_q8(const uint8_t *p, size_t step, size_t skip, int rows, float *out) {
    for (int i = 0; i < rows; i++, p += step, out += COLS) {
        const uint8_t *b = p;
        v16 scale = v_set1_f16(b);
        for (size_t c = skip; c < skip + COLS; c += 16) {
            if (c > skip && c % 32 == 0) {
                b += 34;
                scale = v_set1_f16(b);
            }
            v_store(out + (c - skip), v_mul(v_load_i8(b + 2 + c % 32), scale));
        }
    }
}

/* V as [position][COLS]: columns [c0, c0 + nc), missing ones 0, of positions [lo, hi). */
static void unpack_v(const nib_attn *a, int c0, int nc, int lo, int hi, float *out) {
    const size_t dv = (size_t)a->dv;
    for (int p = lo, rows; p < hi; p += rows, out += rows * COLS) {
        const uint8_t *page = a->v[p / NIB_PAGE];
        const size_t at = (size_t)(p % NIB_PAGE) * dv + (size_t)c0;
        rows = NIB_MIN(hi - p, NIB_PAGE - p % NIB_PAGE);
        if (a->type == NIB_KV_Q8_0) {
            unpack_q8(page + at / 32 * 34, dv / 32 * 34, at % 32, rows, out);
            continue;
        }
        for (int c = 0; c < COLS; c += 16) {
            const int n = nc - c;
            float *to = out + c;
            if (n <= 0)
                for (int i = 0; i < rows; i++) v_store(to + i * COLS, v_set1(0));
            else if (a->type == NIB_KV_F16)
                unpack_f16(page + 2 * (at + (size_t)c), 2 * dv, n, rows, to);
            else {
                const float *f = (const float *)(const void *)page + at + c;
                for (int i = 0; i < rows; i++, f += dv) v_store(to + i * COLS, v_load_n(f, n));
            }
        }
    }
}

/* out [nq, COLS] += weights of n positions times V. */
LANE void mix_block(int nq, const float *weights, const float *v, int n, float *out) {
    v16 sum[ATTN_Q][ATTN_W];
    for (int i = 0; i < nq; i++)
        for (int t = 0; t < ATTN_W; t++) sum[i][t] = v_load(out + i * COLS + 16 * t);
    for (int p = 0; p < n; p++, v += COLS, weights++) {
        v16 row[ATTN_W];
        for (int t = 0; t < ATTN_W; t++) row[t] = v_load(v + 16 * t);
        for (int i = 0; i < nq; i++) {
            const v16 x = v_set1(weights[i * ROW]);
            for (int t = 0; t < ATTN_W; t++) sum[i][t] = v_fma(x, row[t], sum[i][t]);
        }
    }
    for (int i = 0; i < nq; i++)
        for (int t = 0; t < ATTN_W; t++) v_store(out + i * COLS + 16 * t, sum[i][t]);
}

/* ---- a group ---- */

/* Turns one query's scores into weights exp(score - m); returns their sum. */
static float softmax_row(float *x, span s, float softcap, float *m_out) {
    const int t0 = s.lo & ~15, t1 = (s.hi + 15) & ~15;
    if (softcap > 0)
        for (int i = t0; i < t1; i += 16) v_store(x + i, v_softcap(v_load(x + i), softcap));
    for (int i = t0; i < s.lo; i++) x[i] = -INFINITY;
    for (int i = s.hi; i < t1; i++) x[i] = -INFINITY;
    v16 top = v_set1(-INFINITY), sum = v_set1(0);
    for (int i = t0; i < t1; i += 16) top = v_max(v_load(x + i), top);
    float m = v_max_of(top);
    if (m == -INFINITY)
        m = NAN; /* something was seen, but nothing that can be weighed: not the same as empty */
    const v16 vm = v_set1(m);
    for (int i = t0; i < t1; i += 16) {
        v16 e = v_exp(v_sub(v_load(x + i), vm));
        sum = v_add(sum, e);
        v_store(x + i, e);
    }
    *m_out = m;
    return v_sum(sum);
}

typedef struct block {
    int first, n;
    span seen;
} block;

static void score(const block *b, const float *q, const float *k, int nd, bool fresh, float *scores,
                  soon v) {
    q += b->first * Q_ROW, scores += b->first * ROW;
    switch (b->n) {
#define X(N)                                                                                       \
    case N: score_block(N, q, k, nd, fresh, scores, v); break;
        ATTN_CASES(X)
#undef X
    }
}

static void mix(int first, int n, const float *weights, const float *v, int p0, int lo, int hi,
                float *out) {
    if (lo >= hi) return;
    weights += first * ROW + lo, v += (lo - p0) * COLS, out += first * COLS;
    switch (n) {
#define X(N)                                                                                       \
    case N: mix_block(N, weights, v, hi - lo, out); break;
        ATTN_CASES(X)
#undef X
    }
}

/* Those queries of a block whose own positions go beyond what all share: as far as they see the
 * same, together. */
static void mix_rest(const block *b, const span *s, const float *weights, const float *v, int p0,
                     span part, float *out) {
    if (part.lo >= part.hi) return;
    for (int i = b->first, end = i + b->n, n; i < end; i += n) {
        const span own = {NIB_MAX(part.lo, s[i].lo), NIB_MIN(part.hi, s[i].hi)};
        for (n = 1; i + n < end && s[i + n].lo == s[i].lo && s[i + n].hi == s[i].hi; n++) {
        }
        mix(i, n, weights, v, p0, own.lo, own.hi, out);
    }
}

/* Positions 'part', unpacked at v: those that all queries of the block see in one go. */
static void mix_span(const block *b, const span *s, const float *weights, const float *v, span part,
                     float *out) {
    span all = part;
    for (int i = b->first; i < b->first + b->n; i++)
        all.lo = NIB_MAX(all.lo, s[i].lo), all.hi = NIB_MIN(all.hi, s[i].hi);
    if (all.lo >= all.hi) all.lo = all.hi = part.hi;
    mix_rest(b, s, weights, v, part.lo, (span){part.lo, all.lo}, out);
    mix(b->first, b->n, weights, v, part.lo, all.lo, all.hi, out);
    mix_rest(b, s, weights, v, part.lo, (span){all.hi, part.hi}, out);
}

static void attn_group(const nib_attn *a, int q0, int n) {
    _Alignas(64) float packed[GROUP * Q_ROW], piece[NIB_MAX(DEPTH, SPAN) * COLS], out[GROUP * COLS];
    span s[GROUP];
    block blocks[GROUP];
    float *scores = a->scratch;
    float m[GROUP], sum[GROUP];
    blend w[GROUP / 16];
    span all = {CHUNK, 0};
    const int n_blocks = (n + ATTN_Q - 1) / ATTN_Q;
    for (int j = 0, at = 0; j < n_blocks; j++) {
        block b = {
            .first = at, .n = (n - at + n_blocks - j - 1) / (n_blocks - j), .seen = {CHUNK, 0}};
        for (; at < b.first + b.n; at++) {
            s[at] = query_span(a, q0 + at);
            b.seen = join(b.seen, s[at]);
        }
        all = join(all, b.seen);
        blocks[j] = b;
    }

    /* While K is multiplied, the V of the same positions comes in: when decoding, memory is the
     * limit. */
    const size_t v_row = nib_kv_head_bytes(a->type, a->dv) / NIB_PAGE,
                 v_step = v_row * COLS / (size_t)a->d;
    for (int d0 = 0; d0 < a->d; d0 += DEPTH) {
        const int nd = NIB_MIN(DEPTH, a->d - d0);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < nd; j += 16)
                v_store(packed + i * Q_ROW + j, v_load_n(a->q[q0 + i] + d0 + j, nd - j));
        for (int p = all.lo / COLS * COLS; p < all.hi; p += COLS) {
            const uint8_t *page = a->v[p / NIB_PAGE] + v_row * (size_t)(p % NIB_PAGE);
            const soon v = {page + v_step * (size_t)d0, v_step};
            unpack_k(a, p / 16, d0, nd, piece);
            for (const block *b = blocks; b < blocks + n_blocks; b++)
                if (b->seen.lo < p + COLS && p < b->seen.hi)
                    score(b, packed, piece, nd, d0 == 0, scores + p, v);
        }
    }

    for (int i = 0; i < n; i++) {
        m[i] = -INFINITY;
        sum[i] = 0;
        if (s[i].lo < s[i].hi) sum[i] = softmax_row(scores + i * ROW, s[i], a->softcap, &m[i]);
    }
    for (int i = 0; i < n; i += 16)
        join_chunk(a, q0 + i, NIB_MIN(n - i, 16), m + i, sum + i, &w[i / 16]);

    for (int c0 = 0; c0 < a->dv; c0 += COLS) {
        const int nc = NIB_MIN(COLS, a->dv - c0);
        for (int j = 0; j < n * COLS; j += 16) v_store(out + j, v_set1(0));
        for (int p0 = all.lo; p0 < all.hi; p0 += SPAN) {
            const span part = {p0, NIB_MIN(p0 + SPAN, all.hi)};
            unpack_v(a, c0, nc, part.lo, part.hi, piece);
            for (const block *b = blocks; b < blocks + n_blocks; b++)
                mix_span(b, s, scores, piece, part, out);
        }
        for (int i = 0; i < n; i++)
            for (int j = 0; j < nc; j += 16)
                join_out(a, q0 + i, c0 + j, v_load(out + i * COLS + j), &w[i / 16], i % 16);
    }
}
#endif
