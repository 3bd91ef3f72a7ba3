/* Sixteen floats in four NEON registers. What each function means: lanes_scalar.h. */
#ifndef NIB_KERNELS_LANES_H
#define NIB_KERNELS_LANES_H
#include <arm_neon.h>
#include <math.h>
#include "kernels/internal.h"

/* At every optimisation level: debug builds would spend their time in calls. */
#define LANE static inline __attribute__((always_inline))

typedef struct v16 {
    float32x4_t v[4];
} v16;

#define EACH4(expr)                                                                                \
    v16 r;                                                                                         \
    for (int i = 0; i < 4; i++) r.v[i] = (expr);                                                   \
    return r

LANE v16 v_set1(float x) {
    EACH4(vdupq_n_f32(x));
}
LANE v16 v_load(const float *p) {
    EACH4(vld1q_f32(p + 4 * i));
}
LANE void v_store(float *p, v16 a) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
LANE v16 v_load_n(const float *p, int64_t n) {
    if (n >= 16) return v_load(p);
    float t[16] = {0};
    for (int i = 0; i < n; i++) t[i] = p[i];
    return v_load(t);
}
LANE void v_store_n(float *p, v16 a, int64_t n) {
    if (n >= 16) {
        v_store(p, a);
        return;
    }
    float t[16];
    v_store(t, a);
    for (int i = 0; i < n; i++) p[i] = t[i];
}

LANE v16 v_add(v16 a, v16 b) {
    EACH4(vaddq_f32(a.v[i], b.v[i]));
}
LANE v16 v_sub(v16 a, v16 b) {
    EACH4(vsubq_f32(a.v[i], b.v[i]));
}
LANE v16 v_mul(v16 a, v16 b) {
    EACH4(vmulq_f32(a.v[i], b.v[i]));
}
LANE v16 v_div(v16 a, v16 b) {
    EACH4(vdivq_f32(a.v[i], b.v[i]));
}
LANE v16 v_fma(v16 a, v16 b, v16 c) {
    EACH4(vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
LANE v16 v_neg(v16 a) {
    EACH4(vnegq_f32(a.v[i]));
}
LANE v16 v_abs(v16 a) {
    EACH4(vabsq_f32(a.v[i]));
}
/* not vmaxq: it orders zeros and prefers NaN */
LANE v16 v_max(v16 a, v16 b) {
    EACH4(vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
LANE v16 v_min(v16 a, v16 b) {
    EACH4(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
LANE v16 v_copysign(v16 size, v16 sign) {
    EACH4(vbslq_f32(vdupq_n_u32(0x80000000u), sign.v[i], size.v[i]));
}
LANE v16 v_if_negative(v16 x, v16 a, v16 b) {
    EACH4(vbslq_f32(vcltzq_f32(x.v[i]), a.v[i], b.v[i]));
}

LANE float32x4_t pow2_4(int32x4_t e) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23));
}
LANE float32x4_t scale2_4(float32x4_t p, float32x4_t n) {
    const int32x4_t e = vcvtq_s32_f32(n), half = vshrq_n_s32(e, 1);
    return vmulq_f32(vmulq_f32(p, pow2_4(half)), pow2_4(vsubq_s32(e, half)));
}
LANE v16 v_scale2(v16 p, v16 n) {
    EACH4(scale2_4(p.v[i], n.v[i]));
}

LANE float v_sum(v16 a) {
    float32x4_t s = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    s = vaddq_f32(s, vextq_f32(s, s, 2));
    return vgetq_lane_f32(s, 0) + vgetq_lane_f32(s, 1);
}
LANE float v_max_of(v16 a) {
    float t[16];
    v_store(t, a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
    return t[0];
}
LANE unsigned v_equal(v16 a, v16 b) {
    const uint32x4_t bits = {1, 2, 4, 8};
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= vaddvq_u32(vandq_u32(vceqq_f32(a.v[i], b.v[i]), bits)) << 4 * i;
    return r;
}

LANE void v_unzip(v16 a, v16 b, v16 *even, v16 *odd) {
    for (int i = 0; i < 2; i++) {
        even->v[i] = vuzp1q_f32(a.v[2 * i], a.v[2 * i + 1]),
        odd->v[i] = vuzp2q_f32(a.v[2 * i], a.v[2 * i + 1]);
        even->v[i + 2] = vuzp1q_f32(b.v[2 * i], b.v[2 * i + 1]),
                    odd->v[i + 2] = vuzp2q_f32(b.v[2 * i], b.v[2 * i + 1]);
    }
}
LANE void v_zip(v16 even, v16 odd, v16 *a, v16 *b) {
    for (int i = 0; i < 2; i++) {
        a->v[2 * i] = vzip1q_f32(even.v[i], odd.v[i]),
                 a->v[2 * i + 1] = vzip2q_f32(even.v[i], odd.v[i]);
        b->v[2 * i] = vzip1q_f32(even.v[i + 2], odd.v[i + 2]),
                 b->v[2 * i + 1] = vzip2q_f32(even.v[i + 2], odd.v[i + 2]);
    }
}

LANE v16 v_load_f16(const void *p) {
    EACH4(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 8 * i))));
}
LANE v16 v_set1_f16(const void *p) {
    const float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(nib_load_u16(p))));
    return (v16){{x, x, x, x}};
}
LANE v16 v_load_bf16(const void *p) {
    EACH4(vreinterpretq_f32_u32(
        vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * i)), 16)));
}
LANE void v_store_f16(uint16_t *p, v16 a) {
    for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
LANE v16 floats_of_i8(int8x16_t x) {
    const int16x8_t lo = vmovl_s8(vget_low_s8(x)), hi = vmovl_high_s8(x);
    return (v16){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))}};
}
LANE v16 v_load_i8(const void *p) {
    return floats_of_i8(vld1q_s8(p));
}
LANE void v_store_i8(int8_t *p, v16 a) {
    int16x8_t lo =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[0])), vmovn_s32(vcvtnq_s32_f32(a.v[1])));
    int16x8_t hi =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[2])), vmovn_s32(vcvtnq_s32_f32(a.v[3])));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
LANE void v_load_i8_quads(const void *p, v16 out[4]) {
    const int8x16x4_t x = vld4q_s8(p);
    for (int j = 0; j < 4; j++) out[j] = floats_of_i8(x.val[j]);
}
#undef EACH4
#endif
