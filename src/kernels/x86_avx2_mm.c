/* Matrix products with AVX2. There is no instruction that adds four products of bytes: vpmaddubsw
 * adds two, of an unsigned weight and a signed activation, to 16 bits and saturates there. So
 * weights stay raw codes wherever they are short, and 16-bit sums go as far as they cannot
 * overflow: up to 4 bits (15 * 127 * 2 a step)   all 8 steps of a group of 32 columns, then one
 * widening up to 5 bits                         4 steps up to 6 bits                         2
 * steps 8 bits, with sign                    1 step of |w| and sign(w) * activation: 128 * 127 * 2
 * fits What a code lies above its weight is put right by the activation's bias. Where a half block
 * has an integer scale (Q3_K, Q2_K), the widening multiplies by it, which costs nothing.
 *
 * Half a panel, 8 rows, is unpacked into 8 registers and all tokens of the block pass over it; sums
 * of floats are in the first cache. The same code serves one token and many. */
#include "kernels/lanes_avx2.h"
#define MM_PANELS 1
#include "kernels/mm_body.h"

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256(p);
}
INLINE __m256i bcast32(const void *p) {
    return _mm256_set1_epi32((int)nib_load_u32(p));
}
INLINE __m256i set8(int v) {
    return _mm256_set1_epi8((char)v);
}
INLINE __m256i shift16(__m256i v, int left) { /* within words: mask afterwards */
    return left > 0 ? _mm256_slli_epi16(v, left) : _mm256_srli_epi16(v, -left);
}
INLINE __m256i bits(__m256i v, int left, int mask) {
    return _mm256_and_si256(shift16(v, left), set8(mask));
}

INLINE bool is_5bit(nib_dtype t) {
    return t == NIB_Q5_0 || t == NIB_Q5_1 || t == NIB_Q5_K;
}
INLINE bool is_level(nib_dtype t) {
    return t == NIB_IQ4_NL || t == NIB_IQ4_XS;
}
INLINE bool is_signed(nib_dtype t) {
    return t == NIB_Q8_0 || is_level(t);
}
INLINE bool has_super(nib_dtype t) {
    return t == NIB_Q2_K || t == NIB_Q3_K || t == NIB_Q4_K || t == NIB_Q5_K || t == NIB_Q6_K ||
           t == NIB_IQ4_XS;
}

/* Codes of 8 rows (those from byte 'half' of each line on), 32 columns. MXFP4's levels have 16
 * added. */
INLINE void codes8(nib_dtype t, const uint8_t *p, int half, __m256i w[8]) {
    p += half;
    if (t == NIB_Q8_0) {
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = _mm256_xor_si256(load256(p + 64 * j), set8(-128));
        return;
    }
    if (t == NIB_Q2_K || t == NIB_Q3_K) {
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = bits(load256(p + 64 * (j / 4)), -2 * (j % 4), 3);
        __m256i high = t == NIB_Q3_K ? load256(p + 128) : w[0];
        UNROLL
        for (int j = 0; j < 8; j++)
            if (t == NIB_Q3_K) w[j] = _mm256_or_si256(w[j], bits(high, 2 - j, 4));
        return;
    }
    UNROLL
    for (int j = 0; j < 8; j++) w[j] = bits(load256(p + 64 * (j / 2)), -4 * (j % 2), 15);
    if (is_5bit(t)) {
        __m256i high = load256(p + 256);
        UNROLL
        for (int j = 0; j < 8; j++) w[j] = _mm256_or_si256(w[j], bits(high, 4 - j, 16));
    }
    if (t == NIB_Q6_K) {
        UNROLL
        for (int j = 0; j < 8; j++)
            w[j] =
                _mm256_or_si256(w[j], bits(load256(p + 256 + 64 * (j / 4)), 4 - 2 * (j % 4), 48));
    }
    if (is_level(t) || t == NIB_MXFP4) {
        __m128i levels =
            _mm_loadu_si128((const __m128i *)(t == NIB_MXFP4 ? nib_mm_fp4 : nib_mm_iq4));
        if (t == NIB_MXFP4) levels = _mm_add_epi8(levels, _mm_set1_epi8(16));
        UNROLL
        for (int j = 0; j < 8; j++)
            w[j] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), w[j]);
    }
}

INLINE __m256 f16x8(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE __m256 u8x8(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE __m256 s8x8(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
INLINE __m256 negate(__m256 v) {
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

/* The scales of 8 rows; by: what the widening multiplies 16-bit sums with, each half block's own or
 * ones. */
typedef struct scales8 {
    __m256 s[2], m[2];
    __m256i by[2];
} scales8;

/* p: the block's scales; r: the first row; j: which group of the block. */
INLINE void scales_of_8(nib_dtype t, const uint8_t *p, const mm_super *u, int j, int r,
                        scales8 *g) {
    const uint8_t *d = p + 2 * r, *d2 = p + 2 * NIB_PANEL + 2 * r;
    g->by[0] = g->by[1] = _mm256_set1_epi16(1);
    switch (t) {
    case NIB_MXFP4: {
        /* 2^(e - 128) by its bits; the two smallest are subnormal */
        __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + r)));
        __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        g->s[0] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny));
        return;
    }
    case NIB_Q4_1:
    case NIB_Q5_1: g->s[0] = f16x8(d), g->m[0] = f16x8(d2); return;
    case NIB_Q4_K:
    case NIB_Q5_K:
        g->s[0] = _mm256_mul_ps(f16x8(d), s8x8(u->sc[j] + r));
        g->m[0] = _mm256_mul_ps(negate(f16x8(d2)), u8x8(u->min[j] + r));
        return;
    case NIB_Q6_K:
        UNROLL
        for (int h = 0; h < 2; h++) g->s[h] = _mm256_mul_ps(f16x8(d), s8x8(u->sc[2 * j + h] + r));
        return;
    case NIB_Q3_K:
    case NIB_Q2_K:
        g->s[0] = t == NIB_Q3_K ? negate(f16x8(d)) : f16x8(d);
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i sc =
                _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(u->sc[2 * j + h] + r)));
            if (t == NIB_Q3_K) sc = _mm256_sub_epi32(_mm256_setzero_si256(), sc);
            sc = _mm256_and_si256(sc, _mm256_set1_epi32(0xffff));
            g->by[h] = _mm256_or_si256(sc, _mm256_slli_epi32(sc, 16));
            if (t == NIB_Q2_K)
                g->m[h] = _mm256_mul_ps(negate(f16x8(d2)), u8x8(u->min[2 * j + h] + r));
        }
        return;
    case NIB_IQ4_XS: g->s[0] = _mm256_mul_ps(f16x8(d), s8x8(u->sc[j] + r)); return;
    default: g->s[0] = f16x8(d); return;
    }
}

/* Sum of w . q over operands [j0, j0 + n), starting at 'start' in 16 bits, widened every 'run'
 * steps and multiplied by. */
INLINE __m256i dots(bool with_sign, const __m256i w[8], const int8_t *q, int j0, int n, int run,
                    __m256i start, __m256i by) {
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int i = 0; i < n; i += run) {
        __m256i part = start;
        UNROLL
        for (int j = j0 + i; j < j0 + i + run; j++) {
            __m256i x = bcast32(q + 4 * j);
            __m256i pairs =
                with_sign ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), _mm256_sign_epi8(x, w[j]))
                          : _mm256_maddubs_epi16(w[j], x);
            part = _mm256_add_epi16(part, pairs);
        }
        part = _mm256_madd_epi16(part, by);
        sum = i ? _mm256_add_epi32(sum, part) : part;
        start = _mm256_setzero_si256();
    }
    return sum;
}

/* One group of columns of 8 rows and all tokens of the turn. at: of the activation's arrays; acc:
 * [nt][16]. */
INLINE void group8(nib_dtype t, const __m256i w[8], const scales8 *g, const nib_act *a, int64_t at,
                   int nt, float *acc) {
    const __m256i zero = _mm256_setzero_si256();
    int run = is_signed(t) ? 1 : t == NIB_Q6_K ? 2 : is_5bit(t) || t == NIB_MXFP4 ? 4 : 8;
    /* how far the code lies above the weight: 128 >> down */
    bool above = t == NIB_Q4_0 || t == NIB_Q5_0 || t == NIB_MXFP4;
    int down = t == NIB_Q4_0 ? 4 : 3;
    for (int i = 0; i < nt; i++, at++, acc += NIB_PANEL) {
        const int8_t *q = a->q + at * 32;
        __m256 v = _mm256_load_ps(acc), d = _mm256_broadcast_ss(a->d + at);
        if (t == NIB_Q6_K) {
            __m256i bias[2], sum[2];
            UNROLL
            for (int h = 0; h < 2; h++) {
                bias[h] = _mm256_set1_epi32(a->biash[2 * at + h] >> 2);
                sum[h] =
                    _mm256_add_epi32(dots(false, w, q, 4 * h, 4, run, zero, g->by[0]), bias[h]);
            }
            __m256 f = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[0]), g->s[0]);
            f = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[1]), g->s[1], f);
            _mm256_store_ps(acc, _mm256_fmadd_ps(f, d, v));
            continue;
        }
        __m256i sum;
        if (t == NIB_Q3_K || t == NIB_Q2_K) {
            __m256i half[2];
            UNROLL
            for (int h = 0; h < 2; h++) {
                /* Q3_K's codes lie 4 above: -4 * the sum of q, at most 8128, in the even words */
                __m256i start = zero;
                if (t == NIB_Q3_K) start = _mm256_set1_epi32((a->biash[2 * at + h] >> 5) & 0xffff);
                half[h] = dots(false, w, q, 4 * h, 4, 4, start, g->by[h]);
            }
            sum = _mm256_add_epi32(half[0], half[1]);
        } else {
            sum = dots(is_signed(t), w, q, 0, 8, run, zero, g->by[0]);
            if (above) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(a->bias[at] >> down));
        }
        if (t == NIB_Q4_1 || t == NIB_Q5_1 || t == NIB_Q4_K || t == NIB_Q5_K)
            v = _mm256_fmadd_ps(g->m[0], _mm256_broadcast_ss(a->ds + at), v);
        if (t == NIB_Q2_K) {
            v = _mm256_fmadd_ps(g->m[0], _mm256_broadcast_ss(a->dh + 2 * at), v);
            v = _mm256_fmadd_ps(g->m[1], _mm256_broadcast_ss(a->dh + 2 * at + 1), v);
        }
        _mm256_store_ps(acc,
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(g->s[0], d), v));
    }
}

INLINE void take_turn(nib_dtype t, size_t code_bytes, size_t scale_bytes, const mm_turn *o) {
    const uint8_t *p = o->codes, *s = o->scales;
    int64_t n_tok = o->a->n_tok, at = o->g0 * n_tok + o->t0;
    mm_super u;
    int groups = has_super(t) ? 8 : 1;
    for (int64_t g = o->g0; g < o->g1; s += scale_bytes) {
        mm_super_scales(t, s, &u);
        for (int j = 0; j < groups; j++, g++, p += code_bytes, at += n_tok)
            for (int r = 0; r < NIB_PANEL; r += 8) {
                __m256i w[8];
                scales8 sc;
                codes8(t, p, 4 * r, w);
                scales_of_8(t, s, &u, j, r, &sc);
                group8(t, w, &sc, o->a, at, o->nt, o->acc + r);
            }
    }
}

#define NIB_P16(T, FORM, N_U16, U16_AT, N_U8, U8_AT, BITS, AT, RUN, BITS2, ...)                    \
    static void turn_##T(const mm_turn *o) {                                                       \
        take_turn(NIB_##T, 64 * ((BITS) + (BITS2)), NIB_PANEL * (2 * (N_U16) + (N_U8)), o);        \
    }
#include "kernels/p16.def"
#undef NIB_P16

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    static void (*const turns[])(const mm_turn *o) = {
#define NIB_P16(T, ...) [NIB_##T] = turn_##T,
#include "kernels/p16.def"
#undef NIB_P16
    };
    if (nib_mm_format(w->dtype))
        nib_mm_walk(w, a, p0, p1, y, ldy, scratch, 32, turns[w->dtype]);
    else
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_avx2_mm(nib_kernels *k) {
    k->pack = nib_avx2_pack;
    k->quantise = quantise;
    k->matmul = matmul;
}
