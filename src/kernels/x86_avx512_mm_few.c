/* Products with few tokens, straight from the packed panels: every weight byte is loaded once,
 * unpacked in registers and multiplied with each token. Reading memory is all that should take
 * time.
 *
 * One thread reads as fast as it can when several streams are open and none rests for long: four
 * panels are walked side by side, 32 columns of each in turn (a kilobyte or two of each in turn:
 * a quarter less). Left to themselves, loads wait for memory while nothing is multiplied, for the
 * processor looks ahead too little; so lines are asked for AHEAD groups before they are wanted, and
 * at the end of a panel in the one that its stream comes to next. Panels are multiplied in pairs,
 * which share the loads of activations. */
#include "kernels/x86_avx512_mm.h"

enum { WIDE = 4, AHEAD = 8 };

/* Loops over tokens stay loops. */
#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define ROLLED _Pragma("GCC unroll 1")
#endif

typedef struct job {
    const uint8_t *panel; /* the first */
    size_t stride;        /* to the next */
    ptrdiff_t next;       /* from a panel to the one its stream comes to after it; 0: none */
    const nib_act *a;
    int64_t n_groups;
    float *y;
    int64_t ldy;
    __mmask16 last; /* rows of the last panel */
} job;

INLINE void fetch(const uint8_t *p, size_t n) {
    UNROLL
    for (size_t i = 0; i < n; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

INLINE void put(int nr, int nt, const job *o, const __m512 acc[AVX512_FEW][WIDE]) {
    ROLLED
    for (int i = 0; i < nt; i++) {
        UNROLL
        for (int r = 0; r < nr; r++)
            _mm512_mask_storeu_ps(o->y + i * o->ldy + r * NIB_PANEL, r == nr - 1 ? o->last : 0xffff,
                                  acc[i][r]);
    }
}

/* ---- blocks of 32 ---- */

/* nr panels, 'of' at once, x nt tokens, all there are. With one token everything stays in
 * registers. */
INLINE void walk(nib_dtype t, int nr, int of, int nt, const job *o) {
    const nib_act *a = o->a;
    const size_t line = code_bytes_of(t), side = scale_bytes_of(t);
    const int64_t n = o->n_groups, soon = NIB_MIN(AHEAD, n);
    const uint8_t *p = o->panel, *s = p + (size_t)n * line;
    ptrdiff_t ahead = soon * (ptrdiff_t)line, ahead_s = soon * (ptrdiff_t)side;
    __m512 acc[AVX512_FEW][WIDE];
    ROLLED
    for (int i = 0; i < nt; i++) {
        UNROLL
        for (int r = 0; r < nr; r++) acc[i][r] = _mm512_setzero_ps();
    }
    int64_t at = 0;
    for (int64_t g = 0, end = n - soon; g < n;) {
        for (; g < end; g++, p += line, s += side, at += nt) {
            UNROLL
            for (int r0 = 0; r0 < nr; r0 += of) {
                __m512i w[2][8];
                scales sc[2];
                UNROLL
                for (int r = 0; r < of; r++) {
                    size_t from = (size_t)(r0 + r) * o->stride;
                    fetch(p + from + ahead, line);
                    fetch(s + from + ahead_s, side);
                    codes(t, p + from, w[r]);
                    sc[r] = block_scales(t, s + from);
                }
                ROLLED
                for (int i = 0; i < nt; i++) {
                    const int8_t *q = a->q + (at + i) * 32;
                    __m512i sum[2], x;
                    x = excess(t) ? _mm512_set1_epi32(a->bias[at + i] >> (7 - excess_bits(t)))
                                  : _mm512_setzero_si512();
                    sum[0] = sum[1] = x;
                    UNROLL
                    for (int j = 0; j < 8; j++) {
                        x = bcast32(q + 4 * j);
                        UNROLL
                        for (int r = 0; r < of; r++) sum[r] = dpbusd(sum[r], w[r][j], x);
                    }
                    __m512 d = _mm512_set1_ps(a->d[at + i]), ds = d;
                    if (has_min(t)) ds = _mm512_set1_ps(a->ds[at + i]);
                    UNROLL
                    for (int r = 0; r < of; r++) {
                        __m512 v = acc[i][r0 + r];
                        if (has_min(t)) v = _mm512_fmadd_ps(sc[r].m, ds, v);
                        acc[i][r0 + r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]),
                                                         _mm512_mul_ps(sc[r].s, d), v);
                    }
                }
            }
        }
        end = n;
        ahead = o->next ? o->next - (n - soon) * (ptrdiff_t)line : 0;
        ahead_s = o->next ? o->next - (n - soon) * (ptrdiff_t)side : 0;
    }
    put(nr, nt, o, acc);
}

/* ---- blocks of 256 ---- */

/* Sums of 16 columns fit a signed word (15 * 127 * 16 does): one instruction scales and adds. */
INLINE bool fits_word(nib_dtype t) {
    return t == NIB_Q4_K || t == NIB_Q3_K || t == NIB_Q2_K;
}

INLINE void walk_k(nib_dtype t, int nr, int of, int nt, const job *o) {
    const nib_act *a = o->a;
    const size_t line = code_bytes_of(t), side = scale_bytes_of(t);
    const int parts = has_16(t) || fits_word(t) ? 2 : 1, lines = 8 / parts;
    const int n_min = has_min(t) ? has_16(t) ? 8 : 4 : 0; /* pairs of minima */
    const int64_t n = o->n_groups / 8;
    const uint8_t *p = o->panel, *s = p + (size_t)o->n_groups * line;
    __m512 acc[AVX512_FEW][WIDE];
    ROLLED
    for (int i = 0; i < nt; i++) {
        UNROLL
        for (int r = 0; r < nr; r++) acc[i][r] = _mm512_setzero_ps();
    }
    /* what is asked for is the block after: of the same panel, or the first of the stream's next */
    const ptrdiff_t block = (ptrdiff_t)(8 * line), block_s = (ptrdiff_t)side;
    const ptrdiff_t aheads[2] = {block, o->next ? o->next - (n - 1) * block : 0},
                    aheads_s[2] = {block_s, o->next ? o->next - (n - 1) * block_s : 0};
    int64_t b = 0, at = 0;
    do {
        super plain[WIDE];
        __m512i isum[AVX512_FEW][WIDE], above[AVX512_FEW], mins[WIDE][8];
        const bool end = b == n - 1;
        const ptrdiff_t ahead = aheads[end], ahead_s = aheads_s[end];
        UNROLL
        for (int r = 0; r < nr; r++) {
            const uint8_t *sr = s + (size_t)r * o->stride;
            fetch(sr + ahead_s, side);
            super_scales(t, sr, &plain[r]);
            UNROLL
            for (int j = 0; j < n_min; j++) mins[r][j] = pairs(plain[r].min + 2 * j);
        }
        ROLLED
        for (int i = 0; i < nt; i++) {
            /* sums start with what codes lie above weights */
            if (excess(t)) {
                __m256i sums = _mm256_loadu_si256((
                    const __m256i *)(has_16(t) ? a->ks16 + (at + i) * 16 : a->ks32 + (at + i) * 8));
                above[i] = _mm512_sub_epi32(
                    _mm512_setzero_si512(),
                    _mm512_slli_epi32(_mm512_cvtepi16_epi32(sums), (unsigned)excess_bits(t)));
            }
            UNROLL
            for (int r = 0; r < nr; r++) isum[i][r] = _mm512_setzero_si512();
        }
        const int8_t *q = a->kq + 4 * at * 64;
        for (int j = 0; j < 8; q += j % 2 ? nt * 64 - 32 : 32, p += line, j++) {
            UNROLL
            for (int r0 = 0; r0 < nr; r0 += of) {
                __m512i w[2][8];
                UNROLL
                for (int r = 0; r < of; r++) {
                    const uint8_t *pr = p + (size_t)(r0 + r) * o->stride;
                    fetch(pr + ahead, line);
                    codes(t, pr, w[r]);
                }
                ROLLED
                for (int i = 0; i < nt; i++) {
                    UNROLL
                    for (int h = 0; h < parts; h++) {
                        __m512i sum[2], x = _mm512_setzero_si512();
                        if (excess(t)) x = bcast32((const int32_t *)&above[i] + parts * j + h);
                        sum[0] = sum[1] = x;
                        UNROLL
                        for (int l = lines * h; l < lines * (h + 1); l++) {
                            x = bcast32(q + i * 64 + 4 * l);
                            UNROLL
                            for (int r = 0; r < of; r++) sum[r] = dpbusd(sum[r], w[r][l], x);
                        }
                        UNROLL
                        for (int r = 0; r < of; r++) {
                            __m512i *to = &isum[i][r0 + r];
                            __m512i sc = s8x16(plain[r0 + r].sc[has_16(t) ? 2 * j + h : j]);
                            /* of a sum the upper word is its sign only: times nothing */
                            if (t == NIB_Q3_K) sc = _mm512_and_si512(sc, _mm512_set1_epi32(65535));
                            *to = fits_word(t)
                                      ? dpwssd(*to, sum[r], sc)
                                      : _mm512_add_epi32(*to, _mm512_mullo_epi32(sum[r], sc));
                        }
                    }
                }
            }
        }
        ROLLED
        for (int i = 0; i < nt; i++) {
            __m512 d = _mm512_set1_ps(a->kd[at + i]);
            __m512i imin[WIDE];
            UNROLL
            for (int r = 0; r < nr; r++) imin[r] = _mm512_setzero_si512();
            UNROLL
            for (int j = 0; j < n_min; j++) {
                const int16_t *sums = has_16(t) ? a->ks16 + (at + i) * 16 : a->ks32 + (at + i) * 8;
                __m512i x = bcast32(sums + 2 * j);
                UNROLL
                for (int r = 0; r < nr; r++) imin[r] = dpwssd(imin[r], mins[r][j], x);
            }
            UNROLL
            for (int r = 0; r < nr; r++) {
                const uint8_t *sr = s + (size_t)r * o->stride;
                __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[i][r]), super_s(t, sr));
                if (has_min(t)) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(imin[r]), super_m(sr), v);
                acc[i][r] = _mm512_fmadd_ps(v, d, acc[i][r]);
            }
        }
        s += side, at += nt;
    } while (++b < n);
    put(nr, nt, o, acc);
}

/* Of a format: any number of tokens, one panel or four; one token, two panels or four. */
#define FEW(T, OF)                                                                                 \
    static void mm_few_1_##T(const job *o) {                                                       \
        OF(NIB_##T, 1, 1, (int)o->a->n_tok, o);                                                    \
    }                                                                                              \
    static void mm_few_4_##T(const job *o) {                                                       \
        OF(NIB_##T, WIDE, 2, (int)o->a->n_tok, o);                                                 \
    }                                                                                              \
    static void mm_one_2_##T(const job *o) {                                                       \
        OF(NIB_##T, 2, 1, 1, o);                                                                   \
    }                                                                                              \
    static void mm_one_4_##T(const job *o) {                                                       \
        OF(NIB_##T, WIDE, 1, 1, o);                                                                \
    }
#define NIB_P16(T, ...)  FEW(T, walk)
#define NIB_P16K(T, ...) FEW(T, walk_k)
#include "kernels/p16.def"

void nib_avx512_mm_few(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    static void (*const of[][4])(const job *o) = {
#define NIB_P16(T, ...) [NIB_##T] = {mm_few_1_##T, mm_few_4_##T, mm_one_2_##T, mm_one_4_##T},
#include "kernels/p16.def"
    };
    job o = {.stride = w->stride, .a = a, .n_groups = w->k / 32, .ldy = ldy};
    for (int64_t p = p0, nr; p < p1; p += nr) {
        bool one = a->n_tok == 1;
        nr = !w->packed ? 1 : p1 - p >= WIDE ? WIDE : one && p1 - p >= 2 ? 2 : 1;
        o.panel = nib_mm_panel(w, p, scratch);
        o.next = w->packed && p + 2 * nr <= p1 ? nr * (ptrdiff_t)w->stride : 0;
        o.y = y + p * NIB_PANEL;
        o.last = (__mmask16)((1u << nib_mm_rows(w, p + nr - 1)) - 1);
        of[w->dtype][nr == 1 ? 0 : nr == 2 ? 2 : one ? 3 : 1](&o);
    }
}
