/* Expanding a piece of a packed panel with blocks of 32 for products with many tokens: weights as
 * bytes, scales as floats.
 *
 * A weight that may be negative comes out as a signed byte, or with 128 added as an unsigned one:
 * vpdpbusd wants the latter, AMX takes either. */
#include "kernels/x86_avx512_mm.h"

INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *s, int n_groups, __m512i flip,
                   const avx512_expanded *o) {
    for (int g = 0; g < n_groups; g++, p += code_bytes_of(t), s += scale_bytes_of(t)) {
        __m512i w[8];
        codes(t, p, w);
        UNROLL
        for (int i = 0; i < 8; i++) {
            if (excess(t)) w[i] = _mm512_xor_si512(_mm512_sub_epi8(w[i], set8(excess(t))), flip);
            _mm512_store_si512(o->w[g][i], w[i]);
        }
        scales sc = block_scales(t, s);
        _mm512_store_ps(o->s[g], sc.s);
        if (has_min(t)) _mm512_store_ps(o->m[g], sc.m);
    }
}

#define NIB_P16K(...)
#define NIB_P16(T, ...)                                                                            \
    static void expand_##T(const uint8_t *p, const uint8_t *s, int n, __m512i flip,                \
                           const avx512_expanded *o) {                                             \
        expand(NIB_##T, p, s, n, flip, o);                                                         \
    }
#include "kernels/p16.def"
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, int n, __m512i flip,
                                 const avx512_expanded *o) = {
#define NIB_P16K(...)
#define NIB_P16(T, ...) [NIB_##T] = expand_##T,
#include "kernels/p16.def"
};

void nib_avx512_expand(const nib_mat *w, const uint8_t *panel, int64_t g, int n, bool add_128,
                       const avx512_expanded *out) {
    const mm_format *f = nib_mm_format(w->dtype);
    const uint8_t *s = panel + (size_t)(w->k / 32) * f->code_bytes;
    expanders[w->dtype](panel + (size_t)g * f->code_bytes, s + (size_t)g * f->scale_bytes, n,
                        set8(add_128 ? 128 : 0), out);
}
