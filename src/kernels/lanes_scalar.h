/* Sixteen floats without vector instructions: the meaning of every lane operation.
 *
 * A lanes_<isa>.h defines the type v16 and the functions below; vecmath.h, vec_body.h and
 * attn_body.h are written once on top of them and included by each set, so that sets can differ
 * only here. Every function works lane by lane and rounds once; v_max, v_min and the comparisons
 * are the C expressions shown, NaN included. */
#ifndef NIB_KERNELS_LANES_H
#define NIB_KERNELS_LANES_H
#include <math.h>
#include "kernels/internal.h"

#ifdef __SANITIZE_ADDRESS__
/* every operation is a loop full of checks: inlined, they take a compiler minutes */
#define LANE static __attribute__((noinline, unused))
#else
#define LANE static inline
#endif

typedef struct v16 {
    float v[16];
} v16;

#define LANES(expr)                                                                                \
    v16 r;                                                                                         \
    for (int i = 0; i < 16; i++) r.v[i] = (expr);                                                  \
    return r

LANE v16 v_set1(float x) {
    LANES(x);
}
LANE v16 v_load(const float *p) {
    LANES(p[i]);
}
/* The first n lanes (n >= 1, all when n > 16); the others are +0. */
LANE v16 v_load_n(const float *p, int64_t n) {
    LANES(i < n ? p[i] : 0.0f);
}
LANE void v_store(float *p, v16 a) {
    for (int i = 0; i < 16; i++) p[i] = a.v[i];
}
LANE void v_store_n(float *p, v16 a, int64_t n) {
    for (int i = 0; i < 16 && i < n; i++) p[i] = a.v[i];
}

LANE v16 v_add(v16 a, v16 b) {
    LANES(a.v[i] + b.v[i]);
}
LANE v16 v_sub(v16 a, v16 b) {
    LANES(a.v[i] - b.v[i]);
}
LANE v16 v_mul(v16 a, v16 b) {
    LANES(a.v[i] * b.v[i]);
}
LANE v16 v_div(v16 a, v16 b) {
    LANES(a.v[i] / b.v[i]);
}
LANE v16 v_fma(v16 a, v16 b, v16 c) {
    LANES(fmaf(a.v[i], b.v[i], c.v[i]));
}
LANE v16 v_neg(v16 a) {
    LANES(-a.v[i]);
}
LANE v16 v_abs(v16 a) {
    LANES(fabsf(a.v[i]));
}
LANE v16 v_max(v16 a, v16 b) {
    LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
LANE v16 v_min(v16 a, v16 b) {
    LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
LANE v16 v_copysign(v16 size, v16 sign) {
    LANES(copysignf(size.v[i], sign.v[i]));
}
/* x < 0 ? a : b */
LANE v16 v_if_negative(v16 x, v16 a, v16 b) {
    LANES(x.v[i] < 0 ? a.v[i] : b.v[i]);
}

LANE float scale2(float p, float n) {
    int32_t e = (int32_t)(nib_f32_bits(n + 0x1.8p23f) - 0x4b400000u), half = e >> 1;
    p *= nib_bits_f32((uint32_t)(half + 127) << 23);
    return p * nib_bits_f32((uint32_t)(e - half + 127) << 23);
}
/* p * 2^n rounded once, for whole n in [-150, 128] and 1/2 < |p| < 2 (two steps: the first is
 * exact). */
LANE v16 v_scale2(v16 p, v16 n) {
    LANES(scale2(p.v[i], n.v[i]));
}

/* Rule 3's tree: i with i+8, i+4, i+2, i+1. */
LANE float v_sum(v16 a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
/* The same tree with v_max(lane i, lane i + half). */
LANE float v_max_of(v16 a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
/* Bit i: lane i of a equals lane i of b. */
LANE unsigned v_equal(v16 a, v16 b) {
    unsigned r = 0;
    for (int i = 0; i < 16; i++) r |= (unsigned)(a.v[i] == b.v[i]) << i;
    return r;
}

/* 32 floats a0..a15 b0..b15 -> those at even and those at odd places; and back. */
LANE void v_unzip(v16 a, v16 b, v16 *even, v16 *odd) {
    for (int i = 0; i < 8; i++) {
        even->v[i] = a.v[2 * i], even->v[i + 8] = b.v[2 * i];
        odd->v[i] = a.v[2 * i + 1], odd->v[i + 8] = b.v[2 * i + 1];
    }
}
LANE void v_zip(v16 even, v16 odd, v16 *a, v16 *b) {
    for (int i = 0; i < 8; i++) {
        a->v[2 * i] = even.v[i], b->v[2 * i] = even.v[i + 8];
        a->v[2 * i + 1] = odd.v[i], b->v[2 * i + 1] = odd.v[i + 8];
    }
}

/* 16 half floats; rounds to nearest even. */
LANE v16 v_load_f16(const void *p) {
    LANES(nib_f16_to_f32(nib_load_u16((const uint8_t *)p + 2 * i)));
}
/* One half float in all lanes. */
LANE v16 v_set1_f16(const void *p) {
    return v_set1(nib_f16_to_f32(nib_load_u16(p)));
}
/* 16 bfloat16. */
LANE v16 v_load_bf16(const void *p) {
    LANES(nib_bf16_to_f32(nib_load_u16((const uint8_t *)p + 2 * i)));
}
LANE void v_store_f16(uint16_t *p, v16 a) {
    for (int i = 0; i < 16; i++) p[i] = nib_f32_to_f16(a.v[i]);
}
/* 16 bytes with sign; rounds to nearest even, |a| <= 127. */
LANE v16 v_load_i8(const void *p) {
    LANES(((const int8_t *)p)[i]);
}
LANE void v_store_i8(int8_t *p, v16 a) {
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)(int32_t)(nib_f32_bits(a.v[i] + 0x1.8p23f) - 0x4b400000u);
}
/* [16][4] bytes with sign: lane i of out[j] is byte 4 i + j times lane i of scale, a half float. */
LANE void v_load_i8_quads(const void *p, v16 scale, v16 out[4]) {
    const int8_t *q = p;
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 16; i++) out[j].v[i] = (float)q[4 * i + j] * scale.v[i];
}

/* To whole numbers, ties to even, |a| < 2^22. */
LANE v16 v_round(v16 a) {
    LANES((a.v[i] + 0x1.8p23f) - 0x1.8p23f);
}
/* 16 integers of 16 bits; rounds to nearest even, |a| < 2^15. */
LANE void v_store_i16(int16_t *p, v16 a) {
    for (int i = 0; i < 16; i++)
        p[i] = (int16_t)(int32_t)(nib_f32_bits(a.v[i] + 0x1.8p23f) - 0x4b400000u);
}

/* Sixteen 32-bit integers; what they are multiplied from: a line of sixteen pairs of 16 bits, and
 * one such pair for all lanes. */
typedef struct w16 {
    int32_t v[16];
} w16;
typedef struct line16 {
    int16_t v[16][2];
} line16;
typedef struct pair16 {
    int16_t v[2];
} pair16;
LANE w16 w_zero(void) {
    return (w16){{0}};
}
LANE line16 w_line(const int16_t *p) {
    line16 r;
    memcpy(&r, p, sizeof r);
    return r;
}
LANE pair16 w_pair(const int16_t *p) {
    return (pair16){{p[0], p[1]}};
}
/* sum + x . line, lane by lane, modulo 2^32 */
LANE w16 w_dot(w16 sum, pair16 x, line16 l) {
    for (int i = 0; i < 16; i++)
        sum.v[i] = (int32_t)((uint32_t)sum.v[i] + (uint32_t)(x.v[0] * l.v[i][0]) +
                             (uint32_t)(x.v[1] * l.v[i][1]));
    return sum;
}
LANE v16 w_floats(w16 a) {
    LANES((float)a.v[i]);
}
#undef LANES
#endif
