/* Sixteen floats in four NEON registers. What each function means: lanes_scalar.h. */
#ifndef NIB_KERNELS_LANES_H
#define NIB_KERNELS_LANES_H
#include <arm_neon.h>
#include <math.h>
#include "kernels/internal.h"

/* At every optimisation level: debug builds would spend their time in calls. */
#define LANE static inline __attribute__((always_inline))

/* Four members, not an array of four: gcc keeps those in registers. */
typedef struct v16 {
    float32x4_t a, b, c, d; /* lanes 0-3, 4-7, 8-11, 12-15 */
} v16;

#define EACH(f, x)     ((v16){f((x).a), f((x).b), f((x).c), f((x).d)})
#define EACH2(f, x, y) ((v16){f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)})
#define EACH3(f, x, y, z)                                                                          \
    ((v16){f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c),                 \
           f((x).d, (y).d, (z).d)})

LANE v16 v_set1(float x) {
    const float32x4_t y = vdupq_n_f32(x);
    return (v16){y, y, y, y};
}
LANE v16 v_load(const float *p) {
    return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
LANE void v_store(float *p, v16 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
/* Up to four, by lanes: an array on the stack would cost calls of memcpy, and spills around them.
 */
LANE float32x4_t load4_n(const float *p, int64_t n) {
    float32x4_t x = vdupq_n_f32(0);
    if (n >= 4) return vld1q_f32(p);
    if (n > 0) x = vld1q_lane_f32(p, x, 0);
    if (n > 1) x = vld1q_lane_f32(p + 1, x, 1);
    if (n > 2) x = vld1q_lane_f32(p + 2, x, 2);
    return x;
}
LANE void store4_n(float *p, float32x4_t x, int64_t n) {
    if (n >= 4) {
        vst1q_f32(p, x);
        return;
    }
    if (n > 0) vst1q_lane_f32(p, x, 0);
    if (n > 1) vst1q_lane_f32(p + 1, x, 1);
    if (n > 2) vst1q_lane_f32(p + 2, x, 2);
}
LANE v16 v_load_n(const float *p, int64_t n) {
    if (n >= 16) return v_load(p);
    return (v16){load4_n(p, n), load4_n(p + 4, n - 4), load4_n(p + 8, n - 8),
                 load4_n(p + 12, n - 12)};
}
LANE void v_store_n(float *p, v16 x, int64_t n) {
    if (n >= 16) {
        v_store(p, x);
        return;
    }
    store4_n(p, x.a, n);
    store4_n(p + 4, x.b, n - 4);
    store4_n(p + 8, x.c, n - 8);
    store4_n(p + 12, x.d, n - 12);
}

LANE float32x4_t fma4(float32x4_t x, float32x4_t y, float32x4_t z) {
    return vfmaq_f32(z, x, y);
}
/* not vmaxq: it orders zeros and prefers NaN */
LANE float32x4_t max4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
LANE float32x4_t min4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcltq_f32(x, y), x, y);
}
LANE float32x4_t copysign4(float32x4_t size, float32x4_t sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, size);
}
LANE float32x4_t if_negative4(float32x4_t x, float32x4_t y, float32x4_t z) {
    return vbslq_f32(vcltzq_f32(x), y, z);
}
LANE float32x4_t pow2_4(int32x4_t e) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23));
}
LANE float32x4_t scale2_4(float32x4_t p, float32x4_t n) {
    const int32x4_t e = vcvtq_s32_f32(n), half = vshrq_n_s32(e, 1);
    return vmulq_f32(vmulq_f32(p, pow2_4(half)), pow2_4(vsubq_s32(e, half)));
}

LANE v16 v_add(v16 x, v16 y) {
    return EACH2(vaddq_f32, x, y);
}
LANE v16 v_sub(v16 x, v16 y) {
    return EACH2(vsubq_f32, x, y);
}
LANE v16 v_mul(v16 x, v16 y) {
    return EACH2(vmulq_f32, x, y);
}
LANE v16 v_div(v16 x, v16 y) {
    return EACH2(vdivq_f32, x, y);
}
LANE v16 v_fma(v16 x, v16 y, v16 z) {
    return EACH3(fma4, x, y, z);
}
LANE v16 v_neg(v16 x) {
    return EACH(vnegq_f32, x);
}
LANE v16 v_abs(v16 x) {
    return EACH(vabsq_f32, x);
}
LANE v16 v_max(v16 x, v16 y) {
    return EACH2(max4, x, y);
}
LANE v16 v_min(v16 x, v16 y) {
    return EACH2(min4, x, y);
}
LANE v16 v_copysign(v16 size, v16 sign) {
    return EACH2(copysign4, size, sign);
}
LANE v16 v_if_negative(v16 x, v16 y, v16 z) {
    return EACH3(if_negative4, x, y, z);
}
LANE v16 v_scale2(v16 p, v16 n) {
    return EACH2(scale2_4, p, n);
}

LANE float v_sum(v16 x) {
    float32x4_t s = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    s = vaddq_f32(s, vextq_f32(s, s, 2));
    return vgetq_lane_f32(s, 0) + vgetq_lane_f32(s, 1);
}
LANE float v_max_of(v16 x) {
    float32x4_t s = max4(max4(x.a, x.c), max4(x.b, x.d));
    s = max4(s, vextq_f32(s, s, 2));
    const float a = vgetq_lane_f32(s, 0), b = vgetq_lane_f32(s, 1);
    return a > b ? a : b;
}
LANE unsigned equal4(float32x4_t x, float32x4_t y) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(x, y), bits));
}
LANE unsigned v_equal(v16 x, v16 y) {
    return equal4(x.a, y.a) | equal4(x.b, y.b) << 4 | equal4(x.c, y.c) << 8 |
           equal4(x.d, y.d) << 12;
}

LANE void v_unzip(v16 x, v16 y, v16 *even, v16 *odd) {
    *even = (v16){vuzp1q_f32(x.a, x.b), vuzp1q_f32(x.c, x.d), vuzp1q_f32(y.a, y.b),
                  vuzp1q_f32(y.c, y.d)};
    *odd = (v16){vuzp2q_f32(x.a, x.b), vuzp2q_f32(x.c, x.d), vuzp2q_f32(y.a, y.b),
                 vuzp2q_f32(y.c, y.d)};
}
LANE void v_zip(v16 even, v16 odd, v16 *x, v16 *y) {
    *x = (v16){vzip1q_f32(even.a, odd.a), vzip2q_f32(even.a, odd.a), vzip1q_f32(even.b, odd.b),
               vzip2q_f32(even.b, odd.b)};
    *y = (v16){vzip1q_f32(even.c, odd.c), vzip2q_f32(even.c, odd.c), vzip1q_f32(even.d, odd.d),
               vzip2q_f32(even.d, odd.d)};
}

LANE float32x4_t half4(const uint8_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
LANE v16 v_load_f16(const void *p) {
    const uint8_t *q = p;
    return (v16){half4(q), half4(q + 8), half4(q + 16), half4(q + 24)};
}
LANE v16 v_set1_f16(const void *p) {
    const float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(nib_load_u16(p))));
    return (v16){x, x, x, x};
}
LANE float32x4_t bfloat4(const uint8_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
LANE v16 v_load_bf16(const void *p) {
    const uint8_t *q = p;
    return (v16){bfloat4(q), bfloat4(q + 8), bfloat4(q + 16), bfloat4(q + 24)};
}
LANE void v_store_f16(uint16_t *p, v16 x) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x.a)));
    vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(x.b)));
    vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(x.c)));
    vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(x.d)));
}
LANE v16 floats_of_i8(int8x16_t x) {
    const int16x8_t lo = vmovl_s8(vget_low_s8(x)), hi = vmovl_high_s8(x);
    return (v16){vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
                 vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))};
}
LANE v16 v_load_i8(const void *p) {
    return floats_of_i8(vld1q_s8(p));
}
LANE void v_store_i8(int8_t *p, v16 x) {
    const int16x8_t lo =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.a)), vmovn_s32(vcvtnq_s32_f32(x.b)));
    const int16x8_t hi =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.c)), vmovn_s32(vcvtnq_s32_f32(x.d)));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
LANE void v_load_i8_quads(const void *p, v16 scale, v16 out[4]) {
    const int8x16x4_t x = vld4q_s8(p);
    for (int j = 0; j < 4; j++) out[j] = v_mul(floats_of_i8(x.val[j]), scale);
}

LANE v16 v_round(v16 x) {
    return EACH(vrndnq_f32, x);
}
LANE void v_store_i16(int16_t *p, v16 x) {
    vst1_s16(p, vmovn_s32(vcvtnq_s32_f32(x.a)));
    vst1_s16(p + 4, vmovn_s32(vcvtnq_s32_f32(x.b)));
    vst1_s16(p + 8, vmovn_s32(vcvtnq_s32_f32(x.c)));
    vst1_s16(p + 12, vmovn_s32(vcvtnq_s32_f32(x.d)));
}

typedef struct w16 {
    int32x4_t a, b, c, d;
} w16;
/* first and second of each pair, lanes 0-7 and 8-15 */
typedef struct line16 {
    int16x8_t e, o, e2, o2;
} line16;
typedef int16x4_t pair16;
LANE w16 w_zero(void) {
    const int32x4_t z = vdupq_n_s32(0);
    return (w16){z, z, z, z};
}
LANE line16 w_line(const int16_t *p) {
    const int16x8x2_t x = vld2q_s16(p), y = vld2q_s16(p + 16);
    return (line16){x.val[0], x.val[1], y.val[0], y.val[1]};
}
LANE pair16 w_pair(const int16_t *p) {
    return vreinterpret_s16_u32(vdup_n_u32(nib_load_u32(p)));
}
LANE w16 w_dot(w16 s, pair16 x, line16 l) {
    s.a = vmlal_lane_s16(vmlal_lane_s16(s.a, vget_low_s16(l.e), x, 0), vget_low_s16(l.o), x, 1);
    s.b = vmlal_high_lane_s16(vmlal_high_lane_s16(s.b, l.e, x, 0), l.o, x, 1);
    s.c = vmlal_lane_s16(vmlal_lane_s16(s.c, vget_low_s16(l.e2), x, 0), vget_low_s16(l.o2), x, 1);
    s.d = vmlal_high_lane_s16(vmlal_high_lane_s16(s.d, l.e2, x, 0), l.o2, x, 1);
    return s;
}
LANE v16 w_floats(w16 x) {
    return EACH(vcvtq_f32_s32, x);
}
#endif
