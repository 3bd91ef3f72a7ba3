/* Packing into P16 with AVX2: the same permutation of bits as scalar_mm_pack.c, eight rows at a
 * time.
 *
 * Of one row, 32 columns of a plane are taken apart into a byte each: eight quads of four columns.
 * Eight rows of those are transposed as 8 x 8 double words, so that each register holds one quad of
 * eight rows, half a line of the panel, and quads that share a line are shifted together. */
#include <immintrin.h>
#include "kernels/mm.h"
#include "kernels/internal.h"

INLINE __m256i set8(int v) {
    return _mm256_set1_epi8((char)v);
}

/* The bits of a plane of columns [k0, k0 + 32) of a block, a byte each. */
INLINE __m256i take_plane(int bits, int at, int run, const uint8_t *block, int k0) {
    int per = 8 / bits;
    const uint8_t *p = block + at + k0 / (per * run) * run + k0 % run;
    if (run == 1) { /* 32 bits: each byte gets its own, then looks at one bit of it */
        const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
        __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)nib_load_u32(p)), spread);
        return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit), set8(1));
    }
    if (run == 16) { /* 4 bits: 16 columns in the low halves, 16 in the high ones */
        __m128i low = _mm_loadu_si128((const __m128i *)p);
        __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_srli_epi16(low, 4), 1);
        return _mm256_and_si256(v, set8(15));
    }
    __m256i v = _mm256_loadu_si256((const __m256i *)p);
    if (bits == 8) return v;
    __m128i shift = _mm_cvtsi32_si128(bits * (k0 / run % per));
    return _mm256_and_si256(_mm256_srl_epi16(v, shift), set8((1 << bits) - 1));
}

/* Rows of 8 double words become columns. */
INLINE void transpose8(__m256i v[8]) {
    __m256i a[8], b[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* One plane of 32 columns of 8 rows; line: half of the plane's first line. */
INLINE void put_plane(nib_dtype t, int bits, int at, int run, const uint8_t *const *rows, int k0,
                      uint8_t *line) {
    int per = 8 / bits;
    __m256i v[8];
    UNROLL
    for (int r = 0; r < 8; r++) v[r] = take_plane(bits, at, run, rows[r], k0);
    transpose8(v);
    UNROLL
    for (int j = 0; j < 8; j += per, line += 64) {
        __m256i o = v[j];
        UNROLL
        for (int i = 1; i < per; i++) o = _mm256_or_si256(o, _mm256_slli_epi16(v[j + i], bits * i));
        if (t == NIB_Q8_0) o = _mm256_xor_si256(o, set8(-128)); /* has 128 added in the panel */
        _mm256_storeu_si256((__m256i *)line, o);
    }
}

/* 16 bytes of each of 16 rows become 16 lines of 16. */
INLINE void transpose16(__m128i v[16]) {
    __m128i a[16];
    UNROLL
    for (int step = 0; step < 4; step++) { /* each step interleaves row i with row i + 8 */
        UNROLL
        for (int i = 0; i < 8; i++) {
            a[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            a[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, a, sizeof a);
    }
}

INLINE void put_scales(const uint8_t *const *rows, int n_u16, int u16_at, int n_u8, int u8_at,
                       uint8_t *s) {
    for (int i = 0; i < n_u16; i++, s += 2 * NIB_PANEL)
        for (int r = 0; r < NIB_PANEL; r++) memcpy(s + 2 * r, rows[r] + u16_at + 2 * i, 2);
    if (n_u8 == 1)
        for (int r = 0; r < NIB_PANEL; r++) s[r] = rows[r][u8_at];
    if (n_u8 < 2) return;
    __m128i v[NIB_PANEL];
    for (int r = 0; r < NIB_PANEL; r++) {
        uint8_t bytes[16] = {0};
        memcpy(bytes, rows[r] + u8_at, (size_t)n_u8);
        v[r] = _mm_loadu_si128((const __m128i *)bytes);
    }
    transpose16(v);
    for (int i = 0; i < n_u8; i++) _mm_storeu_si128((__m128i *)(s + NIB_PANEL * i), v[i]);
}

typedef struct layout {
    int n_u16, u16_at, n_u8, u8_at, bits, at, run, bits2, at2, run2;
} layout;

/* A whole panel. The layout is constant wherever this is inlined. */
INLINE void pack_quant(nib_dtype t, layout f, const uint8_t *from, size_t row_bytes, int64_t k,
                       uint8_t *panel) {
    const nib_dtype_info *info = nib_dtype_get(t);
    int len = (int)info->block_len;
    uint8_t *scales = panel + (size_t)(k / 32) * 64 * (size_t)(f.bits + f.bits2);
    const uint8_t *rows[NIB_PANEL];
    for (int r = 0; r < NIB_PANEL; r++) rows[r] = from + (size_t)r * row_bytes;
    for (int64_t b = 0; b < k / len; b++) {
        for (int k0 = 0; k0 < len; k0 += 32, panel += 64 * (f.bits + f.bits2)) {
            for (int r = 0; r < NIB_PANEL; r += 8) {
                put_plane(t, f.bits, f.at, f.run, rows + r, k0, panel + 4 * r);
                if (f.bits2)
                    put_plane(t, f.bits2, f.at2, f.run2, rows + r, k0, panel + 64 * f.bits + 4 * r);
            }
        }
        put_scales(rows, f.n_u16, f.u16_at, f.n_u8, f.u8_at, scales);
        scales += NIB_PANEL * (2 * f.n_u16 + f.n_u8);
        for (int r = 0; r < NIB_PANEL; r++) rows[r] += info->block_bytes;
    }
}

/* Panels of F32: 8 rows x 8 columns at a time; of F16 and BF16: pairs of columns as double words,
 * which a shuffle takes apart. */
static void pack_f32(const uint8_t *rows, size_t row_bytes, int64_t k, uint8_t *panel) {
    for (int64_t i = 0; i < k; i += 8)
        for (int r = 0; r < NIB_PANEL; r += 8) {
            __m256i v[8];
            for (int j = 0; j < 8; j++)
                v[j] = _mm256_loadu_si256(
                    (const __m256i *)(rows + (size_t)(r + j) * row_bytes + 4 * (size_t)i));
            transpose8(v);
            for (int j = 0; j < 8; j++)
                _mm256_storeu_si256((__m256i *)(panel + 64 * (size_t)(i + j) + 4 * r), v[j]);
        }
}
static void pack_f16(const uint8_t *rows, size_t row_bytes, int64_t k, uint8_t *panel) {
    const __m256i even_odd = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                                              0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    for (int64_t i = 0; i < k; i += 16)
        for (int r = 0; r < NIB_PANEL; r += 8) {
            __m256i v[8];
            for (int j = 0; j < 8; j++)
                v[j] = _mm256_loadu_si256(
                    (const __m256i *)(rows + (size_t)(r + j) * row_bytes + 2 * (size_t)i));
            transpose8(v);
            for (int j = 0; j < 8; j++) { /* columns 2j and 2j + 1 of 8 rows */
                __m256i w = _mm256_shuffle_epi8(v[j], even_odd);
                w = _mm256_permute4x64_epi64(w, 0xd8);
                uint8_t *to = panel + 32 * (size_t)(i + 2 * j) + 2 * r;
                _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(w));
                _mm_storeu_si128((__m128i *)(to + 32), _mm256_extracti128_si256(w, 1));
            }
        }
}
/* Whole steps are fast, what is left of the row is not. */
static void pack_float(nib_dtype t, const uint8_t *rows, size_t row_bytes, int64_t k,
                       uint8_t *panel) {
    size_t size = t == NIB_F32 ? 4 : 2;
    int64_t whole = k / 16 * 16;
    (t == NIB_F32 ? pack_f32 : pack_f16)(rows, row_bytes, whole, panel);
    for (int64_t i = whole; i < k; i++)
        for (int r = 0; r < NIB_PANEL; r++)
            memcpy(panel + size * (size_t)(i * NIB_PANEL + r),
                   rows + (size_t)r * row_bytes + size * (size_t)i, size);
}

#define NIB_P16(T, FORM, ...)                                                                      \
    static void pack_##T(const uint8_t *rows, size_t row_bytes, int64_t k, uint8_t *panel) {       \
        pack_quant(NIB_##T, (layout){__VA_ARGS__}, rows, row_bytes, k, panel);                     \
    }
#include "kernels/p16.def"

void nib_avx2_pack(nib_dtype t, const void *rows, size_t row_bytes, int n_rows, int64_t k,
                   uint8_t *panel) {
    static void (*const packers[])(const uint8_t *rows, size_t row_bytes, int64_t k,
                                   uint8_t *panel) = {
#define NIB_P16(T, ...) [NIB_##T] = pack_##T,
#include "kernels/p16.def"
    };
    if (n_rows < NIB_PANEL)
        nib_scalar_pack(t, rows, row_bytes, n_rows, k, panel);
    else if (!nib_mm_format(t))
        pack_float(t, rows, row_bytes, k, panel);
    else
        packers[t](rows, row_bytes, k, panel);
}
