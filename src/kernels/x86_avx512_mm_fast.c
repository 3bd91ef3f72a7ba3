/* FAST products (mm.h) with AVX-512 and VNNI.
 *
 * Rounding a weight again is one multiplication of words: (code * r + c) >> 8, where r and c belong
 * to 16 or 32 columns of a row and come from the scales alone, so weights are looked at once. A
 * group of two panels lies in the first cache while all tokens pass over it; sums leave the
 * registers at its end. */
#include "kernels/lanes_avx512.h"
#include "kernels/mm_fast_body.h"
#include "kernels/x86_avx512_mm.h"

/* ---- weights ---- */

INLINE __m512i words(const float v[NIB_PANEL]) { /* each twice, for the two words of a row */
    __m512i i = _mm512_cvtps_epi32(_mm512_load_ps(v));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, i, _mm512_slli_epi32(i, 16));
}

/* 4 columns of each row. */
INLINE __m512i round_codes(__m512i code, __m512i mul, __m512i add) {
    __m512i even = _mm512_and_si512(code, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(code, 8);
    even = _mm512_add_epi16(_mm512_mullo_epi16(even, mul), add);
    odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, mul), add);
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, _mm512_srli_epi16(even, 8), odd);
}
INLINE __m512i round_values(__m512i v, __m512i mul) {
    __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8), odd = _mm512_srai_epi16(v, 8);
    even = _mm512_mulhrs_epi16(even, mul);
    odd = _mm512_mulhrs_epi16(odd, mul);
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaau, even, _mm512_slli_epi16(odd, 8));
}

/* p: codes, sp: scales; n columns */
INLINE void expand(nib_dtype t, const uint8_t *p, const uint8_t *sp, int n, __m512i flip,
                   avx512_fast *o) {
    const fast_format f = fast_format_of(t);
    fast_scales s;
    if (has_super(t)) {
        super plain;
        super_scales(t, sp, &plain);
        __m512 d = t == NIB_Q3_K ? negate(f16x16(sp)) : f16x16(sp), m = d; /* Q3_K: 32 - sc */
        if (f.min) m = super_m(sp);
        for (int j = 0; j < n / f.part; j++) {
            _mm512_store_ps(s.mul[j], _mm512_mul_ps(_mm512_cvtepi32_ps(s8x16(plain.sc[j])), d));
            if (f.min)
                _mm512_store_ps(s.add[j],
                                _mm512_mul_ps(_mm512_cvtepi32_ps(s8x16(plain.min[j])), m));
        }
    } else {
        for (int j = 0; j < n / f.part; j++) {
            scales sc = block_scales(t, sp + (size_t)j * scale_bytes_of(t));
            _mm512_store_ps(s.mul[j], sc.s);
            if (f.min) _mm512_store_ps(s.add[j], sc.m);
        }
    }
    fast_requantise(f, n / f.part, &s);
    _mm512_store_ps(o->s, _mm512_load_ps(s.s));
    for (int g = 0; g < n / 32; g++, p += code_bytes_of(t)) {
        __m512i w[8];
        codes(t, p, w);
        UNROLL
        for (int h = 0; h < 32 / f.part; h++) {
            int j = g * (32 / f.part) + h;
            __m512i mul = words(s.mul[j]), add = f.wide ? mul : words(s.add[j]);
            UNROLL
            for (int i = h * f.part / 4; i < (h + 1) * f.part / 4; i++) {
                if (f.wide) w[i] = _mm512_xor_si512(w[i], set8(128));
                if (t == NIB_Q8_0) w[i] = _mm512_max_epi8(w[i], set8(-127));
                w[i] = f.wide ? round_values(w[i], mul) : round_codes(w[i], mul, add);
                _mm512_store_si512(o->w[8 * g + i], _mm512_xor_si512(w[i], flip));
            }
        }
    }
}

#define FORMATS(X)                                                                                 \
    X(Q4_0)                                                                                        \
    X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS)
#define EXPAND(T)                                                                                  \
    static void expand_##T(const uint8_t *p, const uint8_t *s, int n, __m512i flip,                \
                           avx512_fast *o) {                                                       \
        expand(NIB_##T, p, s, n, flip, o);                                                         \
    }
FORMATS(EXPAND)
#define ROW(T) [NIB_##T] = expand_##T,
static void (*const expanders[])(const uint8_t *p, const uint8_t *s, int n, __m512i flip,
                                 avx512_fast *o) = {FORMATS(ROW)};
#undef ROW

void nib_avx512_fast_expand(const nib_mat *w, const uint8_t *panel, int64_t g, bool add_128,
                            avx512_fast *out) {
    const mm_format *f = nib_mm_format(w->dtype);
    int64_t from = nib_fast_group(w->k, g), to = nib_fast_group(w->k, g + 1);
    int64_t block = from * 64 / nib_dtype_get(w->dtype)->block_len;
    const uint8_t *sp =
        panel + (size_t)(w->k / 32) * f->code_bytes + (size_t)block * f->scale_bytes;
    expanders[w->dtype](panel + (size_t)from * 2 * f->code_bytes, sp, (int)(to - from) * 64,
                        set8(add_128 ? 128 : 0), out);
}

/* ---- products ---- */

enum { MOST = 12 }; /* tokens a tile: 2 x 12 sums */

INLINE void tile(int nt, const avx512_job *o, int64_t t0) {
    int64_t n_tok = o->a->n_tok, at = o->piece * n_tok + t0;
    int64_t from = nib_fast_group(o->a->k, o->piece), end = nib_fast_group(o->a->k, o->piece + 1);
    const int8_t *q = o->a->kq + (from * n_tok + t0) * 64;
    const avx512_fast *w = o->w;
    __m512i sum[2][MOST];
    UNROLL
    for (int t = 0; t < nt; t++) sum[0][t] = sum[1][t] = bcast32(o->a->kbias + at + t);
    for (int64_t i = 0; i < end - from; i++, q += n_tok * 64) {
        UNROLL
        for (int t = 0; t < nt; t++) /* the next tile's */
            _mm_prefetch((const char *)q + 64 * (nt + t), _MM_HINT_T0);
        for (int64_t t = i; t < nt; t += end - from) ask_for_sums(o, t0 + t);
        for (int j = 0; j < 16; j += 4) {
            UNROLL
            for (int jj = j; jj < j + 4; jj++) {
                __m512i w0, w1;
                KEEP_ORDER();
                w0 = _mm512_load_si512(w[0].w[16 * i + jj]);
                w1 = _mm512_load_si512(w[1].w[16 * i + jj]);
                UNROLL
                for (int t = 0; t < nt; t++) {
                    __m512i x = bcast32(q + 64 * t + 4 * jj);
                    sum[0][t] = dpbusd(sum[0][t], w0, x);
                    sum[1][t] = dpbusd(sum[1][t], w1, x);
                }
            }
        }
    }
    const float *d = o->a->kd + at;
    UNROLL
    for (int r = 0; r < 2; r++) {
        __m512 s = _mm512_load_ps(w[r].s);
        KEEP_ORDER();
        UNROLL
        for (int t = 0; t < nt; t++) {
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][t]), s);
            v = _mm512_fmadd_ps(v, _mm512_set1_ps(d[t]), sums_before(o, t0 + t, r));
            keep_sums(o, t0 + t, r, v);
        }
    }
}

#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define TILE(NT)                                                                                   \
    static void tile_##NT(const avx512_job *o, int64_t t0) {                                       \
        tile(NT, o, t0);                                                                           \
    }
EACH(TILE)
#define ROW(NT) tile_##NT,
static const avx512_tile tiles[MOST] = {EACH(ROW)};

static void expand_group(const nib_mat *w, const uint8_t *panel, int64_t g, void *out) {
    nib_avx512_fast_expand(w, panel, g, true, out);
}

void nib_avx512_matmul_fast(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                            int64_t ldy, void *scratch) {
    avx512_way way = {.n_pieces = nib_fast_groups(w->k),
                      .columns = 256,
                      .bytes = sizeof(avx512_fast),
                      .expand = expand_group,
                      .tiles = tiles,
                      .most = MOST};
    nib_avx512_walk(&way, w, a, p0, p1, y, ldy, scratch);
}
