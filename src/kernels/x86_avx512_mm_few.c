/* Products with few tokens, straight from the packed panels: every weight byte is loaded once,
 * unpacked in registers and multiplied with each token. */
#include "kernels/x86_avx512_mm.h"

INLINE int excess_bits(nib_dtype t) {
    return excess(t) == 128  ? 7
           : excess(t) == 32 ? 5
           : excess(t) == 16 ? 4
           : excess(t) == 8  ? 3
                             : 2;
}

/* Left to themselves, loads wait for memory while nothing is multiplied: the processor looks ahead
 * too little, and its own prefetchers do not cross from one panel's turn to the next. */
enum { AHEAD = 2048 };
INLINE void fetch(const uint8_t *p, size_t n) {
    UNROLL
    for (size_t i = 0; i < n; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* ---- blocks of 32 ---- */

INLINE void take_turn(nib_dtype t, int nt, const mm_turn *r) {
    const nib_act *a = r->a;
    __m512 acc[AVX512_FEW];
    UNROLL
    for (int i = 0; i < nt; i++) acc[i] = _mm512_load_ps(r->acc + i * NIB_PANEL);
    const uint8_t *p = r->codes, *s = r->scales;
    int64_t at = r->g0 * a->n_tok + r->t0;
    for (int64_t g = r->g0; g < r->g1; g++, at += a->n_tok) {
        const int8_t *q = a->q + at * 32;
        __m512i w[8];
        fetch(p + AHEAD, code_bytes_of(t));
        codes(t, p, w);
        scales sc = block_scales(t, s);
        UNROLL
        for (int i = 0; i < nt; i++, q += 32) {
            __m512i sum = _mm512_setzero_si512();
            if (excess(t)) sum = _mm512_set1_epi32(a->bias[at + i] >> (7 - excess_bits(t)));
            UNROLL
            for (int j = 0; j < 8; j++) sum = dpbusd(sum, w[j], bcast32(q + 4 * j));
            if (has_min(t)) acc[i] = _mm512_fmadd_ps(sc.m, _mm512_set1_ps(a->ds[at + i]), acc[i]);
            acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                                     _mm512_mul_ps(sc.s, _mm512_set1_ps(a->d[at + i])), acc[i]);
        }
        p += code_bytes_of(t);
        s += scale_bytes_of(t);
    }
    UNROLL
    for (int i = 0; i < nt; i++) _mm512_store_ps(r->acc + i * NIB_PANEL, acc[i]);
}

/* ---- blocks of 256 ---- */

INLINE void take_turn_k(nib_dtype t, int nt, const mm_turn *r) {
    const nib_act *a = r->a;
    int64_t n_tok = a->n_tok;
    const int parts = has_16(t) ? 2 : 1, n_side = 4 * parts, lines = 8 / parts;
    const uint8_t *p = r->codes, *s = r->scales;
    for (int64_t g = r->g0; g < r->g1; g += 8, s += scale_bytes_of(t)) {
        const int8_t *q = a->kq + (g / 2 * n_tok + r->t0) * 64;
        int64_t at = g / 8 * n_tok + r->t0;
        super plain;
        __m512i isum[AVX512_FEW], side[AVX512_FEW];
        fetch(s + scale_bytes_of(t), scale_bytes_of(t));
        super_scales(t, s, &plain);
        UNROLL
        for (int i = 0; i < nt; i++) side[i] = _mm512_setzero_si512();
        const int8_t(*from)[NIB_PANEL] = has_min(t) ? plain.min : plain.sc;
        UNROLL
        for (int j = 0; j < n_side; j++) {
            __m512i x = pairs(from + 2 * j);
            UNROLL
            for (int i = 0; i < nt; i++)
                side[i] =
                    dpwssd(side[i], x,
                           bcast32((has_16(t) ? a->ks16 + (at + i) * 16 : a->ks32 + (at + i) * 8) +
                                   2 * j));
        }
        UNROLL
        for (int i = 0; i < nt; i++)
            isum[i] = has_min(t)
                          ? _mm512_setzero_si512()
                          : _mm512_sub_epi32(_mm512_setzero_si512(),
                                             _mm512_slli_epi32(side[i], (unsigned)excess_bits(t)));
        for (int j = 0; j < 8; j++, p += code_bytes_of(t)) {
            __m512i w[8];
            fetch(p + AHEAD, code_bytes_of(t));
            codes(t, p, w);
            UNROLL
            for (int h = 0; h < parts; h++) {
                __m512i sc = s8x16(plain.sc[parts * j + h]);
                UNROLL
                for (int i = 0; i < nt; i++) {
                    __m512i sum = _mm512_setzero_si512();
                    UNROLL
                    for (int l = 0; l < lines; l++)
                        sum = dpbusd(sum, w[lines * h + l],
                                     bcast32(q + 64 * i + 4 * (lines * h + l)));
                    isum[i] = _mm512_add_epi32(isum[i], _mm512_mullo_epi32(sum, sc));
                }
            }
            q += j % 2 ? n_tok * 64 - 32 : 32;
        }
        __m512 d = super_s(t, s);
        UNROLL
        for (int i = 0; i < nt; i++) {
            float *acc = r->acc + i * NIB_PANEL;
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[i]), d);
            if (has_min(t)) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(side[i]), super_m(s), v);
            v = _mm512_fmadd_ps(v, _mm512_set1_ps(a->kd[at + i]), _mm512_load_ps(acc));
            _mm512_store_ps(acc, v);
        }
    }
}

/* One function a format and number of tokens. */
#define TURN(T, N, OF)                                                                             \
    static void turn_##N##_##T(const mm_turn *r) {                                                 \
        OF(NIB_##T, N, r);                                                                         \
    }
#define TURNS(T, OF)                                                                               \
    TURN(T, 1, OF)                                                                                 \
    TURN(T, 2, OF)                                                                                 \
    TURN(T, 3, OF)                                                                                 \
    TURN(T, 4, OF) TURN(T, 5, OF) TURN(T, 6, OF) TURN(T, 7, OF) TURN(T, 8, OF)
#define NIB_P16(T, ...)  TURNS(T, take_turn)
#define NIB_P16K(T, ...) TURNS(T, take_turn_k)
#include "kernels/p16.def"

typedef void (*turn_fn)(const mm_turn *r);
turn_fn nib_avx512_turn(nib_dtype t, int64_t n_tok) {
    static const turn_fn turns[][AVX512_FEW] = {
#define NIB_P16(T, ...)                                                                            \
    [NIB_##T] = {turn_1_##T, turn_2_##T, turn_3_##T, turn_4_##T,                                   \
                 turn_5_##T, turn_6_##T, turn_7_##T, turn_8_##T},
#include "kernels/p16.def"
    };
    return turns[t][n_tok - 1];
}
