/* Matrix products with NEON and its dot product: sdot adds to each of four sums the products of
 * four bytes with sign, and takes its second operand's four bytes from one lane, so 16 columns of a
 * token are one register that serves four steps.
 *
 * Half a panel, 8 rows x 32 columns, is unpacked into 16 of the 32 registers and all tokens of the
 * block pass over it, two at a time: four chains of eight sdot. Weights are loaded and unpacked
 * once for up to 32 tokens, and nothing expanded goes through memory; a tile of tokens that keeps
 * its sums in registers instead would load each weight once for four tokens, and save no
 * arithmetic.
 *
 * All weights fit a byte with sign. Codes that lie above their weights are put right by a
 * subtraction while they are unpacked, or, where few tokens would share that, afterwards by the
 * sums of the activations. Either way the integers are the same. */
#ifndef __clang__
#pragma GCC optimize("no-schedule-insns") /* gcc would load so far ahead that sums spill */
#endif
#include "kernels/lanes_neon.h"
#define MM_PANELS 1
#include "kernels/mm_body.h"
#include "kernels/mm_round_body.h"

enum { TOKENS = 32, FEW = 4 }; /* a turn; when codes are corrected afterwards */

/* A row of p16.def; constant wherever it is used. raw: codes stay above their weights. */
typedef struct spec {
    nib_dtype t;
    mm_form form;
    int bits, bits2;
    size_t code_bytes, scale_bytes;
    bool raw;
} spec;

INLINE bool has_min(spec f) {
    return f.form == MM_MIN;
}
/* Of blocks of 256: scales belong to 16 columns each, not 32. */
INLINE bool has_16(spec f) {
    return f.t == NIB_Q6_K || f.t == NIB_Q3_K || f.t == NIB_Q2_K;
}
/* How far codes lie above weights: a power of two, or 0. (Q3_K: its scales have their sign turned.)
 */
INLINE int above(spec f) {
    return f.t == NIB_Q4_0   ? 8
           : f.t == NIB_Q5_0 ? 16
           : f.t == NIB_Q6_K ? 32
           : f.t == NIB_Q3_K ? 4
                             : 0;
}
/* The levels that codes stand for, or NULL. */
INLINE const int8_t *levels(spec f) {
    return f.t == NIB_MXFP4                         ? nib_mm_fp4
           : f.t == NIB_IQ4_NL || f.t == NIB_IQ4_XS ? nib_mm_iq4
                                                    : NULL;
}

INLINE uint8x16_t shift(uint8x16_t v, int left) {
    return left > 0 ? v << vdupq_n_u8((uint8_t)left) : v >> vdupq_n_u8((uint8_t)-left);
}

/* Weights of 8 rows, 32 columns: w[h][j] holds columns 4j..4j+3 of rows 4h..4h+3. p: the first
 * line, at the first row. */
INLINE void weights8(spec f, const uint8_t *p, int8x16_t w[2][8]) {
    int per = 8 / f.bits;
    UNROLL
    for (int h = 0; h < 2; h++, p += 16) {
        UNROLL
        for (int j = 0; j < 8; j++) {
            uint8x16_t v = shift(vld1q_u8(p + 64 * (j / per)), -f.bits * (j % per));
            if (f.t == NIB_Q8_0) v ^= vdupq_n_u8(128);
            if (j % per < per - 1) v &= vdupq_n_u8((uint8_t)((1 << f.bits) - 1));
            if (f.bits2) {
                int per2 = 8 / f.bits2;
                uint8x16_t high = vld1q_u8(p + 64 * (f.bits + j / per2));
                uint8x16_t mask = vdupq_n_u8((uint8_t)(((1 << f.bits2) - 1) << f.bits));
                v = vbslq_u8(mask, shift(high, f.bits - f.bits2 * (j % per2)), v);
            }
            w[h][j] = vreinterpretq_s8_u8(v);
            if (levels(f)) w[h][j] = vqtbl1q_s8(vld1q_s8(levels(f)), v);
            if (above(f) && !f.raw) w[h][j] = vsubq_s8(w[h][j], vdupq_n_s8((int8_t)above(f)));
        }
    }
}

/* sum + 16 columns (the first, or from w[h][4] on) of 8 rows times those of one token */
INLINE void dot16(int32x4_t sum[2], const int8x16_t w[2][8], int from, int8x16_t x) {
#define QUAD(I)                                                                                    \
    sum[0] = vdotq_laneq_s32(sum[0], w[0][from + (I)], x, I);                                      \
    sum[1] = vdotq_laneq_s32(sum[1], w[1][from + (I)], x, I);
    QUAD(0) QUAD(1) QUAD(2) QUAD(3)
#undef QUAD
}

/* ---- blocks of 32 ---- */

typedef struct scales8 {
    float32x4_t s[2], m[2];
} scales8;

/* The scales of 8 rows of a block. p: the block's scales; r: the first row. */
INLINE scales8 scales_of_8(spec f, const uint8_t *p, int r) {
    scales8 g = {0};
    UNROLL
    for (int h = 0; h < 2; h++, r += 4) {
        if (f.t == NIB_MXFP4) {
            /* 2^(e - 128) by its bits; the two smallest are subnormal */
            uint32x4_t e = {p[r], p[r + 1], p[r + 2], p[r + 3]};
            uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
            uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
            g.s[h] = vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), tiny, normal));
            continue;
        }
        g.s[h] = half4(p + 2 * r);
        if (has_min(f)) g.m[h] = half4(p + 2 * NIB_PANEL + 2 * r);
    }
    return g;
}

/* One block of 8 rows times nt tokens. at: of the activation's arrays; acc: of the first row. */
INLINE void step(spec f, int nt, const int8x16_t w[2][8], const scales8 *sc, const nib_act *a,
                 int64_t at, float *acc) {
    /* above is 128 >> down */
    int down = f.t == NIB_Q4_0 ? 4 : 3;
    int32x4_t sum[2][2];
    UNROLL
    for (int i = 0; i < nt; i++) {
        const int8_t *q = a->q + (at + i) * 32;
        sum[i][0] = sum[i][1] = vdupq_n_s32(f.raw && above(f) ? a->bias[at + i] >> down : 0);
        dot16(sum[i], w, 0, vld1q_s8(q));
        dot16(sum[i], w, 4, vld1q_s8(q + 16));
    }
    UNROLL
    for (int i = 0; i < nt; i++, acc += NIB_PANEL) {
        float32x4_t v[2] = {vld1q_f32(acc), vld1q_f32(acc + 4)};
        float d = a->d[at + i], ds = has_min(f) ? a->ds[at + i] : 0;
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (has_min(f)) v[h] = vfmaq_n_f32(v[h], sc->m[h], ds);
            v[h] = vfmaq_f32(v[h], vcvtq_f32_s32(sum[i][h]), vmulq_n_f32(sc->s[h], d));
            vst1q_f32(acc + 4 * h, v[h]);
        }
    }
}

INLINE void take_turn(spec f, const mm_turn *o) {
    const nib_act a = *o->a; /* a copy, for compilers take stores to reach the original */
    const int nt = o->nt;
    const uint8_t *p = o->codes, *s = o->scales;
    for (int64_t g = o->g0; g < o->g1; g++, p += f.code_bytes, s += f.scale_bytes)
        for (int r = 0; r < NIB_PANEL; r += 8) {
            int8x16_t w[2][8];
            weights8(f, p + 4 * r, w);
            scales8 sc = scales_of_8(f, s, r);
            int64_t at = g * a.n_tok + o->t0;
            float *acc = o->acc + r;
            int i = 0;
            for (; i < nt - 1; i += 2, acc += 2 * NIB_PANEL) step(f, 2, w, &sc, &a, at + i, acc);
            if (i < nt) step(f, 1, w, &sc, &a, at + i, acc);
        }
}

/* ---- blocks of 256 ---- */

/* Integer scales, and what the sums of the activations are multiplied with: minima, or scales where
 * codes are raw; [32 or 16 columns][16 rows]. */
typedef struct super {
    _Alignas(16) int32_t sc[16][NIB_PANEL];
    int16_t side[16][NIB_PANEL];
} super;

INLINE bool has_side(spec f) {
    return has_min(f) || (f.raw && above(f));
}

INLINE void super_scales(spec f, const uint8_t *p, super *o) {
    mm_super u;
    mm_super_scales(f.t, p, &u);
    for (int i = 0; i < (has_16(f) ? 16 : 8); i++)
        for (int r = 0; r < NIB_PANEL; r += 8) {
            int16x8_t sc = vmovl_s8(vld1_s8(u.sc[i] + r));
            if (f.t == NIB_Q3_K) sc = vnegq_s16(sc);
            vst1q_s32(o->sc[i] + r, vmovl_s16(vget_low_s16(sc)));
            vst1q_s32(o->sc[i] + r + 4, vmovl_high_s16(sc));
            if (has_min(f)) sc = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(u.min[i] + r)));
            if (has_side(f)) vst1q_s16(o->side[i] + r, sc);
        }
}

/* 32 columns of 8 rows times nt tokens, added to isum. q: of the first token. */
INLINE void step_k(spec f, int nt, const int8x16_t w[2][8], const int32x4_t sc[2][2],
                   const int8_t *q, int32_t *isum) {
    UNROLL
    for (int i = 0; i < nt; i++, isum += NIB_PANEL) {
        int32x4_t v[2] = {vld1q_s32(isum), vld1q_s32(isum + 4)};
        int32x4_t sum[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        dot16(sum, w, 0, vld1q_s8(q + 64 * i));
        if (has_16(f)) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                v[h] = vmlaq_s32(v[h], sum[h], sc[0][h]);
                sum[h] = vdupq_n_s32(0);
            }
        }
        dot16(sum, w, 4, vld1q_s8(q + 64 * i + 16));
        UNROLL
        for (int h = 0; h < 2; h++) vst1q_s32(isum + 4 * h, vmlaq_s32(v[h], sum[h], sc[1][h]));
    }
}

/* out += eight lines of side, 8 rows from r on, times sums of activations */
INLINE void add_side(const int16_t (*side)[NIB_PANEL], int r, const int16_t *ks, int32x4_t out[2]) {
    int16x8_t k = vld1q_s16(ks);
#define LINE(I)                                                                                    \
    {                                                                                              \
        int16x8_t v = vld1q_s16(side[I] + r);                                                      \
        out[0] = vmlal_laneq_s16(out[0], vget_low_s16(v), k, I);                                   \
        out[1] = vmlal_high_laneq_s16(out[1], v, k, I);                                            \
    }
    LINE(0) LINE(1) LINE(2) LINE(3) LINE(4) LINE(5) LINE(6) LINE(7)
#undef LINE
}

/* A block ends: its integers become floats. at: block and token; isum, acc: of row r. */
INLINE void finish_k(spec f, const super *u, const uint8_t *s, int r, const nib_act *a, int64_t at,
                     const int32_t *isum, float *acc) {
    int32x4_t side[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    if (has_side(f)) {
        if (has_16(f)) {
            add_side(u->side, r, a->ks16 + at * 16, side);
            add_side(u->side + 8, r, a->ks16 + at * 16 + 8, side);
        } else {
            add_side(u->side, r, a->ks32 + at * 8, side);
        }
    }
    UNROLL
    for (int h = 0; h < 2; h++, r += 4) {
        int32x4_t sum = vld1q_s32(isum + 4 * h);
        if (above(f) && f.raw) sum = vmlsq_n_s32(sum, side[h], above(f));
        float32x4_t d = half4(s + 2 * r);
        float32x4_t v = vmulq_f32(vcvtq_f32_s32(sum), f.t == NIB_Q3_K ? vnegq_f32(d) : d);
        if (has_min(f)) {
            float32x4_t m = vnegq_f32(half4(s + 2 * NIB_PANEL + 2 * r));
            v = vfmaq_f32(v, vcvtq_f32_s32(side[h]), m);
        }
        vst1q_f32(acc + 4 * h, vfmaq_n_f32(vld1q_f32(acc + 4 * h), v, a->kd[at]));
    }
}

INLINE void take_turn_k(spec f, const mm_turn *o) {
    const nib_act a = *o->a;
    const int nt = o->nt;
    const uint8_t *p = o->codes, *s = o->scales;
    for (int64_t g = o->g0; g < o->g1; s += f.scale_bytes) {
        super u;
        _Alignas(64) int32_t isum[TOKENS][NIB_PANEL];
        super_scales(f, s, &u);
        memset(isum, 0, sizeof *isum * (size_t)nt);
        int64_t at = g / 8 * a.n_tok + o->t0;
        for (int j = 0; j < 8; j++, g++, p += f.code_bytes)
            for (int r = 0; r < NIB_PANEL; r += 8) {
                int8x16_t w[2][8];
                int32x4_t sc[2][2];
                weights8(f, p + 4 * r, w);
                UNROLL
                for (int part = 0; part < 2; part++) {
                    const int32_t *from = u.sc[has_16(f) ? 2 * j + part : j] + r;
                    sc[part][0] = vld1q_s32(from), sc[part][1] = vld1q_s32(from + 4);
                }
                const int8_t *q = a.kq + (g / 2 * a.n_tok + o->t0) * 64 + 32 * (g % 2);
                int i = 0;
                for (; i < nt - 1; i += 2) step_k(f, 2, w, sc, q + 64 * i, isum[i] + r);
                if (i < nt) step_k(f, 1, w, sc, q + 64 * i, isum[i] + r);
            }
        for (int r = 0; r < NIB_PANEL; r += 8)
            for (int i = 0; i < nt; i++)
                finish_k(f, &u, s, r, &a, at + i, isum[i] + r, o->acc + i * NIB_PANEL + r);
    }
}

/* ---- one function a format, for few tokens and for many ---- */

#define TURNS(OF, T, FORM, N_U16, U16_AT, N_U8, U8_AT, BITS, AT, RUN, BITS2, ...)                  \
    TURN(OF, few_##T, T, FORM, N_U16, N_U8, BITS, BITS2, true)                                     \
    TURN(OF, many_##T, T, FORM, N_U16, N_U8, BITS, BITS2, false)
#define TURN(OF, NAME, T, FORM, N_U16, N_U8, BITS, BITS2, RAW)                                     \
    static void turn_##NAME(const mm_turn *o) {                                                    \
        OF((spec){NIB_##T, MM_##FORM, BITS, BITS2, 64 * ((BITS) + (BITS2)),                        \
                  NIB_PANEL * (2 * (N_U16) + (N_U8)), RAW},                                        \
           o);                                                                                     \
    }
#define NIB_P16(...)  TURNS(take_turn, __VA_ARGS__)
#define NIB_P16K(...) TURNS(take_turn_k, __VA_ARGS__)
#include "kernels/p16.def"

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    static void (*const turns[][2])(const mm_turn *o) = {
#define NIB_P16(T, ...) [NIB_##T] = {turn_many_##T, turn_few_##T},
#include "kernels/p16.def"
    };
    if (nib_mm_format(w->dtype))
        nib_mm_walk(w, a, p0, p1, y, ldy, scratch, TOKENS, turns[w->dtype][a->n_tok <= FEW]);
    else
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
}

void nib_arm_neon_mm(nib_kernels *k) {
    k->quantise = quantise;
    k->quantise_k = quantise_k;
    k->matmul = matmul;
    k->matmul_fast = NULL;
}
