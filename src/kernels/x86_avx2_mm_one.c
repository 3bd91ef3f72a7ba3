/* Products with one token with AVX2, straight from the packed panels.
 *
 * Four panels are walked side by side, 32 columns of each in turn: one thread reads memory as fast
 * as it can when several streams are open and none rests for long. The 16 rows of a panel are two
 * registers, which share the loads of activations; codes are unpacked as they are multiplied. */
#include "kernels/x86_avx2_mm.h"

enum { WIDE = 4, AHEAD = 8 }; /* panels; groups */

typedef struct job {
    const uint8_t *panel; /* the first */
    size_t stride;        /* to the next */
    int nr;               /* panels */
    ptrdiff_t next;       /* from a panel to the one its stream comes to after it; 0: none */
    const nib_act *a;
    int64_t n_groups;
    float *acc; /* [nr][16], 32-byte aligned */
} job;

/* Loops over panels stay loops. */
#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define ROLLED _Pragma("GCC unroll 1")
#endif

/* Both sums are to be had here, not as a tree of everything at the end, and nothing is loaded
 * before its turn: there are 16 registers. */
#define SETTLE(sum) __asm__("" : "+x"((sum)[0]), "+x"((sum)[1])::"memory")

/* Operands [j0, j0 + n) of 16 rows . q, 16-bit sums multiplied by by[h], into sum[h]: added unless
 * j0 is 0. */
INLINE void dots(nib_dtype t, const uint8_t *p, const int8_t *q, int j0, int n, const __m256i by[2],
                 __m256i sum[2]) {
    const int run = steps(t);
    UNROLL
    for (int i = j0; i < j0 + n; i += run) {
        __m256i part[2];
        UNROLL
        for (int j = i; j < i + run; j++) {
            __m256i x = bcast32(q + 4 * j);
            UNROLL
            for (int h = 0; h < 2; h++) {
                __m256i pairs = dot(t, code(t, p + 32 * h, j), x);
                part[h] = j == i ? pairs : _mm256_add_epi16(part[h], pairs);
            }
            SETTLE(part);
        }
        UNROLL
        for (int h = 0; h < 2; h++) {
            part[h] = _mm256_madd_epi16(part[h], by[h]);
            sum[h] = i == 0 ? part[h] : _mm256_add_epi32(sum[h], part[h]);
        }
        SETTLE(sum);
    }
}

/* ---- blocks of 32 ---- */

INLINE void walk(nib_dtype t, size_t line, size_t side, const job *o) {
    const nib_act *a = o->a;
    const int64_t n = o->n_groups, soon = NIB_MIN(AHEAD, n);
    const __m256i one[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    const uint8_t *p = o->panel, *s = p + (size_t)n * line;
    ptrdiff_t ahead = soon * (ptrdiff_t)line, ahead_s = soon * (ptrdiff_t)side;
    for (int64_t g = 0; g < n; g++, p += line, s += side) {
        if (g == n - soon) {
            ahead = o->next ? o->next - g * (ptrdiff_t)line : 0;
            ahead_s = o->next ? o->next - g * (ptrdiff_t)side : 0;
        }
        __m256 d = _mm256_broadcast_ss(a->d + g), ds = d;
        if (has_min(t)) ds = _mm256_broadcast_ss(a->ds + g);
        ROLLED
        for (int r = 0; r < o->nr; r++) {
            const uint8_t *pr = p + (size_t)r * o->stride, *sr = s + (size_t)r * o->stride;
            __m256i sum[2];
            fetch(pr + ahead, line);
            fetch(sr + ahead_s, side);
            dots(t, pr, a->q + g * 32, 0, 8, one, sum);
            UNROLL
            for (int h = 0; h < 2; h++) {
                scales8 sc = scales_of_8(t, sr, 8 * h);
                float *acc = o->acc + r * NIB_PANEL + 8 * h;
                __m256 v = _mm256_load_ps(acc);
                if (down(t))
                    sum[h] = _mm256_add_epi32(sum[h], _mm256_set1_epi32(a->bias[g] >> down(t)));
                if (has_min(t)) v = _mm256_fmadd_ps(sc.m, ds, v);
                v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[h]), _mm256_mul_ps(sc.s, d), v);
                _mm256_store_ps(acc, v);
            }
        }
    }
}

/* ---- blocks of 256 ---- */

/* A byte of each of 8 rows twice, as words. bytes: 16 rows; h: which 8. */
INLINE __m256i twice(bool with_sign, const int8_t *bytes, int h) {
    const __m256i at =
        _mm256_add_epi8(_mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4,
                                         5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7),
                        set8(8 * h));
    __m256i v = _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)bytes)), at);
    return with_sign ? _mm256_srai_epi16(v, 8) : _mm256_srli_epi16(v, 8);
}

/* Sums over the block's scales, or minima, times the sums of activations they stand for. */
INLINE void side_sums(bool with_sign, int n, const int8_t (*of)[NIB_PANEL], const int16_t *sums,
                      __m256i out[2]) {
    out[0] = out[1] = _mm256_setzero_si256();
    UNROLL
    for (int i = 0; i < n; i += 2) {
        __m128i a = _mm_load_si128((const __m128i *)of[i]),
                b = _mm_load_si128((const __m128i *)of[i + 1]);
        __m128i pairs[2] = {_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)};
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i w = with_sign ? _mm256_cvtepi8_epi16(pairs[h]) : _mm256_cvtepu8_epi16(pairs[h]);
            out[h] = _mm256_add_epi32(out[h], _mm256_madd_epi16(w, bcast32(sums + i)));
        }
        SETTLE(out);
    }
}

INLINE void walk_k(nib_dtype t, size_t line, size_t side, const job *o) {
    const nib_act *a = o->a;
    const bool with_sign = t == NIB_Q6_K || t == NIB_Q3_K || t == NIB_IQ4_XS;
    const int parts = has_16(t) ? 2 : 1, above = t == NIB_Q6_K ? 5 : 2; /* as a power of two */
    const int64_t n = o->n_groups / 8;
    const uint8_t *p = o->panel, *s = p + (size_t)o->n_groups * line;
    ptrdiff_t ahead = 8 * (ptrdiff_t)line, ahead_s = (ptrdiff_t)side;
    for (int64_t b = 0; b < n; b++, s += side) {
        _Alignas(32) mm_super u[WIDE];
        _Alignas(32) int32_t isum[WIDE][NIB_PANEL];
        if (b == n - 1) {
            ahead = o->next ? o->next - b * ahead : 0;
            ahead_s = o->next ? o->next - b * ahead_s : 0;
        }
        ROLLED
        for (int r = 0; r < o->nr; r++) {
            const uint8_t *sr = s + (size_t)r * o->stride;
            fetch(sr + ahead_s, side);
            mm_super_scales(t, sr, &u[r]);
        }
        for (int j = 0; j < 8; j++, p += line) {
            const int8_t *q = a->kq + b * 256 + 32 * j;
            ROLLED
            for (int r = 0; r < o->nr; r++) {
                const uint8_t *pr = p + (size_t)r * o->stride;
                __m256i sum[2], by[2];
                fetch(pr + ahead, line);
                UNROLL
                for (int i = 0; i < parts; i++) {
                    UNROLL
                    for (int h = 0; h < 2; h++) by[h] = twice(with_sign, u[r].sc[parts * j + i], h);
                    dots(t, pr, q, 8 / parts * i, 8 / parts, by, sum);
                }
                UNROLL
                for (int h = 0; h < 2; h++) {
                    __m256i *to = (__m256i *)(isum[r] + 8 * h);
                    *to = j ? _mm256_add_epi32(*to, sum[h]) : sum[h];
                }
            }
        }
        __m256 kd = _mm256_broadcast_ss(a->kd + b);
        const int16_t *sums = has_16(t) ? a->ks16 + b * 16 : a->ks32 + b * 8;
        ROLLED
        for (int r = 0; r < o->nr; r++) {
            const uint8_t *sr = s + (size_t)r * o->stride;
            __m256i more[2];
            if (has_min(t))
                side_sums(false, 8 * parts, (const int8_t(*)[NIB_PANEL])u[r].min, sums, more);
            else if (t != NIB_IQ4_XS)
                side_sums(true, 16, (const int8_t(*)[NIB_PANEL])u[r].sc, sums, more);
            UNROLL
            for (int h = 0; h < 2; h++) {
                __m256i sum = load256(isum[r] + 8 * h);
                __m256 d = f16x8(sr + 16 * h), *acc = (__m256 *)(o->acc + r * NIB_PANEL + 8 * h);
                if (!has_min(t) && t != NIB_IQ4_XS)
                    sum = _mm256_sub_epi32(sum, _mm256_slli_epi32(more[h], above));
                if (t == NIB_Q3_K) { /* its weights are 4 - code, its scale counts as -d */
                    sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
                    d = negate(d);
                }
                __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), d);
                if (has_min(t))
                    v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(more[h]),
                                        negate(f16x8(sr + 2 * NIB_PANEL + 16 * h)), v);
                *acc = _mm256_fmadd_ps(v, kd, *acc);
            }
        }
    }
}

#define ONE(OF, T, FORM, N_U16, U16_AT, N_U8, U8_AT, BITS, AT, RUN, BITS2, ...)                    \
    static void mm_one_##T(const job *o) {                                                         \
        OF(NIB_##T, 64 * ((BITS) + (BITS2)), NIB_PANEL * (2 * (N_U16) + (N_U8)), o);               \
    }
#define NIB_P16(...)  ONE(walk, __VA_ARGS__)
#define NIB_P16K(...) ONE(walk_k, __VA_ARGS__)
#include "kernels/p16.def"

void nib_avx2_mm_one(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                     void *scratch) {
    static void (*const of[])(const job *o) = {
#define NIB_P16(T, ...) [NIB_##T] = mm_one_##T,
#include "kernels/p16.def"
    };
    _Alignas(32) float acc[WIDE][NIB_PANEL];
    job o = {.stride = w->stride, .a = a, .n_groups = w->k / 32, .acc = acc[0]};
    for (int64_t p = p0; p < p1; p += o.nr) {
        o.nr = w->packed ? (int)NIB_MIN(WIDE, p1 - p) : 1; /* there is one scratch to pack into */
        o.panel = nib_mm_panel(w, p, scratch);
        o.next = w->packed && p + 2 * o.nr <= p1 ? o.nr * (ptrdiff_t)w->stride : 0;
        memset(acc, 0, sizeof acc);
        of[w->dtype](&o);
        for (int r = 0; r < o.nr; r++)
            memcpy(y + (p + r) * NIB_PANEL, acc[r], sizeof(float) * (size_t)nib_mm_rows(w, p + r));
    }
}
