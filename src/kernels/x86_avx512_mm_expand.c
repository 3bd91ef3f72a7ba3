/* Expanding a piece of a packed panel for products with many tokens: weights as bytes, scales as
 * floats.
 *
 * A weight that may be negative comes out as a signed byte, or with 128 added as an unsigned one:
 * vpdpbusd wants the latter, AMX takes either. Q3_K and Q2_K come with the integer scales of their
 * half blocks multiplied in, for (sc-32)*(4-code) and sc*code fit a byte. */
#include "kernels/x86_avx512_mm.h"

INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, int n_groups, __m512i flip,
                   avx512_piece *o) {
    for (int g = 0; g < n_groups; s += scale_bytes_of(t)) {
        super plain;
        int groups = 1;
        if (has_super(t)) {
            groups = 8;
            super_scales(t, s, &plain);
        }
        for (int j = 0; j < groups; j++, g++, p += code_bytes_of(t)) {
            __m512i w[8];
            scales sc;
            codes(t, p, w);
            group_scales(t, s, &plain, j, &sc);
            UNROLL
            for (int i = 0; i < 8; i++) {
                if (t == NIB_Q3_K || t == NIB_Q2_K) {
                    /* four codes of a row by its scale, as words: even bytes, then odd ones */
                    __m512i by = _mm512_and_si512(sc.sc[i / 4], _mm512_set1_epi32(0xffff));
                    by = _mm512_or_si512(by, _mm512_slli_epi32(by, 16));
                    __m512i even = _mm512_and_si512(w[i], _mm512_set1_epi16(255));
                    __m512i odd = _mm512_srli_epi16(w[i], 8);
                    if (t == NIB_Q3_K) {
                        even = _mm512_sub_epi16(_mm512_set1_epi16(4), even);
                        odd = _mm512_sub_epi16(_mm512_set1_epi16(4), odd);
                    }
                    even = _mm512_mullo_epi16(even, by);
                    odd = _mm512_mullo_epi16(odd, by);
                    w[i] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(odd, 8), even,
                                                     _mm512_set1_epi16(255), 0xf8);
                    if (t == NIB_Q3_K) w[i] = _mm512_xor_si512(w[i], flip);
                } else if (excess(t)) {
                    w[i] = _mm512_xor_si512(_mm512_sub_epi8(w[i], set8(excess(t))), flip);
                }
                _mm512_store_si512(o->w[g][i], w[i]);
            }
            for (int h = 0; h < 2; h++) {
                if (h == 0 || form_of(t) == MM_HALF) _mm512_store_ps(o->s[g][h], sc.s[h]);
                if ((h == 0 && form_of(t) == MM_MIN) || form_of(t) == MM_MIN16)
                    _mm512_store_ps(o->m[g][h], sc.m[h]);
            }
        }
    }
}

#define NIB_P16(T, ...)                                                                            \
    static void expand_##T(const uint8_t *p, const uint8_t *s, int n, __m512i flip,                \
                           avx512_piece *o) {                                                      \
        expand(NIB_##T, p, s, n, flip, o);                                                         \
    }
#include "kernels/p16.def"
#undef NIB_P16
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, int n, __m512i flip,
                                 avx512_piece *o) = {
#define NIB_P16(T, ...) [NIB_##T] = expand_##T,
#include "kernels/p16.def"
#undef NIB_P16
};

void nib_avx512_expand(const nib_mat *w, const uint8_t *panel, int64_t g, int n, bool add_128,
                       avx512_piece *out) {
    const mm_format *f = nib_mm_format(w->dtype);
    int64_t block = nib_dtype_get(w->dtype)->block_len / 32;
    const uint8_t *s = panel + (size_t)(w->k / 32) * f->code_bytes;
    expanders[w->dtype](panel + (size_t)g * f->code_bytes, s + (size_t)(g / block) * f->scale_bytes,
                        n, set8(add_128 ? 128 : 0), out);
}
