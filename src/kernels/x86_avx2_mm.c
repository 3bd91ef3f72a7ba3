/* clang-format off */
/* Matrix products with AVX2. There is no instruction that adds four products of bytes: vpmaddubsw
 * adds two, of an unsigned weight and a signed activation, to 16 bits and saturates there. So
 * weights stay raw codes wherever they are short, and 16-bit sums go as far as they cannot
 * overflow:
 *   up to 4 bits (15 * 127 * 2 a step)   all 8 steps of 32 columns, then one widening
 *   up to 5 bits                         4 steps
 *   up to 6 bits                         2 steps
 *   8 bits, with sign                    1 step of |w| and sign(w) * activation: 128 * 127 * 2 fits
 * What a code lies above its weight is put right by the sums of activations. The widening multiplies,
 * which costs nothing: by one, or by the integer scale in blocks of 256.
 *
 * Half a panel, 8 rows, is unpacked into 8 registers and all tokens of the block pass over it; sums
 * are in the first cache. The same code serves one token and many. */
/* clang-format on */
#include "kernels/lanes_avx2.h"
#define MM_PANELS 1
#include "kernels/mm_body.h"
#include "kernels/mm_round_body.h"
#include "kernels/x86_avx2_mm.h"

/* Sum of w . q over operands [j0, j0 + n), in 16 bits, widened every few steps and multiplied by.
 */
INLINE __m256i dots(nib_dtype t, const __m256i w[8], const int8_t *q, int j0, int n, __m256i by) {
    __m256i sum = _mm256_setzero_si256();
    const int run = steps(t);
    UNROLL
    for (int i = 0; i < n; i += run) {
        __m256i part = _mm256_setzero_si256();
        UNROLL
        for (int j = j0 + i; j < j0 + i + run; j++) {
            __m256i pairs = dot(t, w[j], bcast32(q + 4 * j));
            part = j == j0 + i ? pairs : _mm256_add_epi16(part, pairs);
        }
        part = _mm256_madd_epi16(part, by);
        sum = i ? _mm256_add_epi32(sum, part) : part;
    }
    return sum;
}

/* A turn from now. */
enum { AHEAD = 2048 };

/* ---- blocks of 32 ---- */

INLINE void take_turn(nib_dtype t, size_t code_bytes, size_t scale_bytes, const mm_turn *o) {
    const nib_act *a = o->a;
    const uint8_t *p = o->codes, *s = o->scales;
    for (int64_t g = o->g0; g < o->g1; g++, p += code_bytes, s += scale_bytes) {
        fetch(p + AHEAD, code_bytes);
        for (int r = 0; r < NIB_PANEL; r += 8) {
            __m256i w[8];
            UNROLL
            for (int l = 0; l < 8; l++) w[l] = code(t, p + 4 * r, l);
            scales8 sc = scales_of_8(t, s, r);
            int64_t at = g * a->n_tok + o->t0;
            float *acc = o->acc + r;
            for (int i = 0; i < o->nt; i++, at++, acc += NIB_PANEL) {
                __m256i sum = dots(t, w, a->q + at * 32, 0, 8, _mm256_set1_epi16(1));
                if (down(t)) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(a->bias[at] >> down(t)));
                __m256 v = _mm256_load_ps(acc), d = _mm256_broadcast_ss(a->d + at);
                if (has_min(t)) v = _mm256_fmadd_ps(sc.m, _mm256_broadcast_ss(a->ds + at), v);
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(sc.s, d), v);
                _mm256_store_ps(acc, v);
            }
        }
    }
}

/* ---- blocks of 256 ---- */

/* Pairs of words: integer scales twice; what makes up for codes that lie above their weights, or
 * minima, as [32 or 16 columns, two at a time]. */
typedef struct super {
    _Alignas(32) int32_t sc[16][NIB_PANEL], side[8][NIB_PANEL];
} super;

INLINE int32_t pair_of(int low, int high) {
    return (int32_t)((uint32_t)low & 0xffff) | (int32_t)((uint32_t)high << 16);
}

INLINE void super_scales(nib_dtype t, const uint8_t *p, super *o) {
    mm_super u;
    mm_super_scales(t, p, &u);
    int above = t == NIB_Q6_K ? -32 : t == NIB_Q3_K ? 4 : 0;
    for (int i = 0; i < (has_16(t) ? 16 : 8); i++)
        for (int r = 0; r < NIB_PANEL; r++) {
            int sc = t == NIB_Q3_K ? -u.sc[i][r] : u.sc[i][r];
            o->sc[i][r] = pair_of(sc, sc);
        }
    for (int i = 0; i < (has_16(t) ? 8 : 4); i++)
        for (int r = 0; r < NIB_PANEL; r++)
            o->side[i][r] = has_min(t)
                                ? pair_of(u.min[2 * i][r], u.min[2 * i + 1][r])
                                : pair_of(u.sc[2 * i][r] * above, u.sc[2 * i + 1][r] * above);
}

enum { TOKENS = 32 }; /* a turn */

INLINE void take_turn_k(nib_dtype t, size_t code_bytes, size_t scale_bytes, const mm_turn *o) {
    const nib_act *a = o->a;
    const uint8_t *p = o->codes, *s = o->scales;
    int64_t n_tok = a->n_tok;
    for (int64_t g = o->g0; g < o->g1; s += scale_bytes) {
        super u;
        _Alignas(32) int32_t isum[TOKENS][NIB_PANEL];
        fetch(s + scale_bytes, scale_bytes);
        super_scales(t, s, &u);
        int64_t at = g / 8 * n_tok + o->t0;
        for (int j = 0; j < 8; j++, g++, p += code_bytes) {
            fetch(p + AHEAD, code_bytes);
            for (int r = 0; r < NIB_PANEL; r += 8) {
                __m256i w[8], sc[2];
                UNROLL
                for (int l = 0; l < 8; l++) w[l] = code(t, p + 4 * r, l);
                for (int h = 0; h < 2; h++) sc[h] = load256(u.sc[has_16(t) ? 2 * j + h : j] + r);
                const int8_t *q = a->kq + (g / 2 * n_tok + o->t0) * 64 + 32 * (g % 2);
                for (int i = 0; i < o->nt; i++, q += 64) {
                    __m256i sum;
                    if (has_16(t))
                        sum = _mm256_add_epi32(dots(t, w, q, 0, 4, sc[0]),
                                               dots(t, w, q, 4, 4, sc[1]));
                    else
                        sum = dots(t, w, q, 0, 8, sc[0]);
                    __m256i *to = (__m256i *)(isum[i] + r);
                    *to = j ? _mm256_add_epi32(*to, sum) : sum;
                }
            }
        }
        for (int r = 0; r < NIB_PANEL; r += 8) {
            __m256 d = f16x8(s + 2 * r), m = d;
            if (t == NIB_Q3_K) d = negate(d);
            if (has_min(t)) m = negate(f16x8(s + 2 * NIB_PANEL + 2 * r));
            for (int i = 0; i < o->nt; i++) {
                __m256i sum = load256(isum[i] + r), side = _mm256_setzero_si256();
                const int16_t *ks = has_16(t) ? a->ks16 + (at + i) * 16 : a->ks32 + (at + i) * 8;
                for (int l = 0; l < (t == NIB_IQ4_XS ? 0 : has_16(t) ? 8 : 4); l++)
                    side = _mm256_add_epi32(
                        side, _mm256_madd_epi16(load256(u.side[l] + r), bcast32(ks + 2 * l)));
                if (!has_min(t)) sum = _mm256_add_epi32(sum, side);
                __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), d);
                if (has_min(t)) v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(side), m, v);
                float *acc = o->acc + i * NIB_PANEL + r;
                _mm256_store_ps(acc, _mm256_fmadd_ps(v, _mm256_broadcast_ss(a->kd + at + i),
                                                     _mm256_load_ps(acc)));
            }
        }
    }
}

#define TURN(OF, T, FORM, N_U16, U16_AT, N_U8, U8_AT, BITS, AT, RUN, BITS2, ...)                   \
    static void turn_##T(const mm_turn *o) {                                                       \
        OF(NIB_##T, 64 * ((BITS) + (BITS2)), NIB_PANEL * (2 * (N_U16) + (N_U8)), o);               \
    }
#define NIB_P16(...)  TURN(take_turn, __VA_ARGS__)
#define NIB_P16K(...) TURN(take_turn_k, __VA_ARGS__)
#include "kernels/p16.def"

static void matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch) {
    static void (*const turns[])(const mm_turn *o) = {
#define NIB_P16(T, ...) [NIB_##T] = turn_##T,
#include "kernels/p16.def"
    };
    if (nib_mm_format(w->dtype) && a->n_tok == 1)
        nib_avx2_mm_one(w, a, p0, p1, y, scratch);
    else if (nib_mm_format(w->dtype))
        nib_mm_walk(w, a, p0, p1, y, ldy, scratch, TOKENS, turns[w->dtype]);
    else
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_avx2_mm(nib_kernels *k) {
    k->pack = nib_avx2_pack;
    k->quantise = quantise;
    k->quantise_k = quantise_k;
    k->matmul = matmul;
    k->matmul_fast = NULL;
}
