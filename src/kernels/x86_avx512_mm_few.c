/* Products with few tokens, straight from the packed panels: every weight byte is loaded once,
 * unpacked in registers and multiplied with each token. */
#include "kernels/x86_avx512_mm.h"

INLINE void group_products(nib_dtype t, int nt, const __m512i w[8], const scales *g,
                           const nib_act *a, int64_t at, __m512 acc[]) {
    const int8_t *q = a->q + at * 32;
    int down = excess(t) == 128  ? 0
               : excess(t) == 32 ? 2
               : excess(t) == 16 ? 3
               : excess(t) == 8  ? 4
                                 : 5;
    bool halves = form_of(t) == MM_HALF || t == NIB_Q3_K || t == NIB_Q2_K;
    UNROLL
    for (int i = 0; i < nt; i++, q += 32) {
        __m512 d = _mm512_set1_ps(a->d[at + i]);
        if (!halves) {
            __m512i sum = _mm512_setzero_si512();
            if (excess(t)) sum = _mm512_set1_epi32(a->bias[at + i] >> down);
            UNROLL
            for (int j = 0; j < 8; j++) sum = dpbusd(sum, w[j], bcast32(q + 4 * j));
            if (form_of(t) == MM_MIN)
                acc[i] = _mm512_fmadd_ps(g->m[0], _mm512_set1_ps(a->ds[at + i]), acc[i]);
            acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(g->s[0], d), acc[i]);
            continue;
        }
        __m512i sum[2];
        UNROLL
        for (int h = 0; h < 2; h++) {
            sum[h] = _mm512_setzero_si512();
            if (excess(t)) sum[h] = _mm512_set1_epi32(a->biash[2 * (at + i) + h] >> down);
            UNROLL
            for (int j = 4 * h; j < 4 * h + 4; j++)
                sum[h] = dpbusd(sum[h], w[j], bcast32(q + 4 * j));
        }
        if (form_of(t) == MM_HALF) {
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[0]), g->s[0]);
            v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1]), g->s[1], v);
            acc[i] = _mm512_fmadd_ps(v, d, acc[i]);
            continue;
        }
        __m512i both = _mm512_add_epi32(_mm512_mullo_epi32(sum[0], g->sc[0]),
                                        _mm512_mullo_epi32(sum[1], g->sc[1]));
        if (t == NIB_Q3_K) both = _mm512_sub_epi32(_mm512_setzero_si512(), both);
        if (t == NIB_Q2_K) {
            const float *dh = a->dh + 2 * (at + i);
            acc[i] = _mm512_fmadd_ps(g->m[0], _mm512_set1_ps(dh[0]), acc[i]);
            acc[i] = _mm512_fmadd_ps(g->m[1], _mm512_set1_ps(dh[1]), acc[i]);
        }
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), _mm512_mul_ps(g->s[0], d), acc[i]);
    }
}

INLINE void take_turn(nib_dtype t, int nt, const mm_turn *r) {
    __m512 acc[AVX512_FEW];
    UNROLL
    for (int i = 0; i < nt; i++) acc[i] = _mm512_load_ps(r->acc + i * NIB_PANEL);
    const uint8_t *p = r->codes, *s = r->scales;
    int64_t n_tok = r->a->n_tok, at = r->g0 * n_tok + r->t0;
    for (int64_t g = r->g0; g < r->g1; s += scale_bytes_of(t)) {
        super plain;
        int groups = 1;
        if (has_super(t)) {
            groups = 8;
            super_scales(t, s, &plain);
        }
        for (int j = 0; j < groups; j++, g++, p += code_bytes_of(t), at += n_tok) {
            __m512i w[8];
            scales sc;
            codes(t, p, w);
            group_scales(t, s, &plain, j, &sc);
            group_products(t, nt, w, &sc, r->a, at, acc);
        }
    }
    UNROLL
    for (int i = 0; i < nt; i++) _mm512_store_ps(r->acc + i * NIB_PANEL, acc[i]);
}

/* One function a format and number of tokens. */
#define NIB_P16(T, ...)                                                                            \
    static void turn_1_##T(const mm_turn *r) {                                                     \
        take_turn(NIB_##T, 1, r);                                                                  \
    }                                                                                              \
    static void turn_2_##T(const mm_turn *r) {                                                     \
        take_turn(NIB_##T, 2, r);                                                                  \
    }                                                                                              \
    static void turn_3_##T(const mm_turn *r) {                                                     \
        take_turn(NIB_##T, 3, r);                                                                  \
    }                                                                                              \
    static void turn_4_##T(const mm_turn *r) {                                                     \
        take_turn(NIB_##T, 4, r);                                                                  \
    }
#include "kernels/p16.def"
#undef NIB_P16

typedef void (*turn_fn)(const mm_turn *r);
turn_fn nib_avx512_turn(nib_dtype t, int64_t n_tok) {
    static const turn_fn turns[][AVX512_FEW] = {
#define NIB_P16(T, ...) [NIB_##T] = {turn_1_##T, turn_2_##T, turn_3_##T, turn_4_##T},
#include "kernels/p16.def"
#undef NIB_P16
    };
    return turns[t][n_tok - 1];
}
