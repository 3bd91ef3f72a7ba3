/* Rounding activations to 8 bits (kernels.h says how), written once on 16 lanes (lanes_<isa>.h).
 * The AVX-512 set has its own, x86_avx512_round.c. */
#ifndef NIB_KERNELS_MM_ROUND_BODY_H
#define NIB_KERNELS_MM_ROUND_BODY_H
#include <float.h>
#include "kernels/mm.h"

/* NaN as 0, infinities as the largest float: rare, hence apart. */
static void tame_block(const float *x, int n, float *out) {
    for (int i = 0; i < n; i++)
        out[i] = x[i] != x[i] ? 0 : x[i] > FLT_MAX ? FLT_MAX : x[i] < -FLT_MAX ? -FLT_MAX : x[i];
}

/* The block of a token, which is number 'at' in the arrays. */
INLINE void round_32(const float *src, nib_act *a, int64_t at) {
    const v16 magic = v_set1(0x1.8p23f); /* adding it rounds to a whole number, nearest even */
    v16 v[2] = {v_load(src), v_load(src + 16)};
    v16 size = v_max(v_abs(v[0]), v_abs(v[1]));
    /* x - x is 0 for every x but those; size alone could miss a NaN */
    v16 odd = v_add(v_sub(v[0], v[0]), v_sub(v[1], v[1]));
    if (v_equal(odd, odd) != 0xffff) {
        float tamed[32];
        tame_block(src, 32, tamed);
        v[0] = v_load(tamed), v[1] = v_load(tamed + 16);
        size = v_max(v_abs(v[0]), v_abs(v[1]));
    }
    float max = v_max_of(size);
    bool some = max >= 0x1p-100f; /* below, 127 / max would overflow or lose bits */
    float d = some ? max / 127 : 0, inverse = some ? 127 / max : 0;
    v16 q[2];
    for (int h = 0; h < 2; h++) {
        q[h] = v_sub(v_add(v_mul(v[h], v_set1(inverse)), magic), magic);
        v_store_i8(a->q + at * 32 + 16 * h, q[h]);
    }
    nib_mm_act_sums(a, at, d, (int32_t)v_sum(v_add(q[0], q[1]))); /* exact */
}

/* Whole numbers of at most 2032 as pairs of bfloat16: multiples of 16, and what is left. */
INLINE void split_sums(const int16_t *sum, uint32_t *o) {
    for (int i = 0; i < 16; i++) {
        float low = (float)(sum[i] & 15), high = (float)(sum[i] & ~15);
        o[i] = nib_f32_bits(high) >> 16 | (nib_f32_bits(low) & 0xffff0000u);
    }
}

INLINE void round_256(const float *src, nib_act *a, int64_t b, int64_t t) {
    const v16 magic = v_set1(0x1.8p23f);
    float tamed[256];
    v16 size = v_abs(v_load(src)), odd = v_set1(0);
    for (int i = 0; i < 256; i += 16) {
        v16 v = v_load(src + i);
        size = v_max(size, v_abs(v));
        odd = v_add(odd, v_sub(v, v));
    }
    if (v_equal(odd, odd) != 0xffff) {
        tame_block(src, 256, tamed);
        src = tamed;
        size = v_abs(v_load(src));
        for (int i = 16; i < 256; i += 16) size = v_max(size, v_abs(v_load(src + i)));
    }
    float max = v_max_of(size);
    bool some = max >= 0x1p-100f;
    v16 inverse = v_set1(some ? 127 / max : 0);
    int64_t at = b * a->n_tok + t;
    int16_t *s16 = a->ks16 + at * 16, *s32 = a->ks32 + at * 8;
    bool calm = true;
    for (int i = 0; i < 16; i++) {
        v16 q = v_sub(v_add(v_mul(v_load(src + 16 * i), inverse), magic), magic);
        v_store_i8(a->kq + ((4 * b + i / 4) * a->n_tok + t) * 64 + 16 * (i % 4), q);
        /* their sum and that of their sizes in one, exactly: below 2^11 and 2^23 */
        int32_t both = (int32_t)v_sum(v_add(v_mul(v_abs(q), v_set1(4096)), q));
        int32_t sizes = (both + 2048) >> 12;
        s16[i] = (int16_t)(both - sizes * 4096);
        calm &= sizes <= NIB_CALM;
    }
    split_sums(s16, a->ksbf + at * 16);
    for (int i = 0; i < 8; i++) s32[i] = (int16_t)(s16[2 * i] + s16[2 * i + 1]);
    a->kd[at] = some ? max / 127 : 0;
    a->calm[at] = calm;
}

/* So many tokens have a block rounded before the next block: what is written for them lies side by
 * side, in lines that threads would otherwise take from each other again and again. */
enum { TOGETHER = 16 };

static void quantise(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t first = t0, end; first < t1; first = end) {
        end = NIB_MIN(first + TOGETHER, t1);
        for (int64_t b = 0; b < a->k / 32; b++)
            for (int64_t t = first; t < end; t++)
                round_32(x + t * ldx + b * 32, a, b * a->n_tok + t);
    }
}

static void quantise_k(const float *x, int64_t ldx, int64_t t0, int64_t t1, nib_act *a) {
    for (int64_t first = t0, end; first < t1; first = end) {
        end = NIB_MIN(first + TOGETHER, t1);
        for (int64_t b = 0; b < a->k / 256; b++)
            for (int64_t t = first; t < end; t++) round_256(x + t * ldx + b * 256, a, b, t);
    }
}
#endif
