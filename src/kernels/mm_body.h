/* Products in floats, which every set shares, written once on 16 lanes (lanes_<isa>.h).
 *
 * A product's output is one chain of fused multiply-adds over k, and only many outputs at a time
 * keep the units busy: tiles are MM_PANELS panels (the includer's choice: 1, or 4 where registers
 * are plenty) x up to 6 tokens, and 4 panels x 1 token, which also keeps four streams of memory
 * open. */
#include "kernels/mm.h"

/* F32, F16, BF16; formats without a packed form are expanded. */
enum { F32_WIDE = 4, F32_TOKENS = 6 }; /* panels, tokens of a tile at most */
enum { F32_PIECE = 128 };              /* columns of an expanded piece: 8 KiB a panel */
_Static_assert(F32_WIDE *MM_EXPAND_K *NIB_PANEL * sizeof(float) <= MM_SCRATCH,
               "the scratch holds the pieces");

typedef struct f32_job {
    const uint8_t *w[F32_WIDE]; /* at column k0 */
    const nib_act *a;
    int64_t k0, n;
    float *y; /* of the first panel */
    int64_t ldy;
    int last; /* rows of the last panel */
} f32_job;

INLINE v16 f32_weights(nib_dtype t, const uint8_t *p) {
    if (t == NIB_F16) return v_load_f16(p);
    if (t == NIB_BF16) return v_load_bf16(p);
    return v_load((const float *)(const void *)p);
}

/* One token reads weights from memory: they are asked for early. */
enum { AHEAD_F32 = 2048 };

/* nr panels x nt tokens from t0 on, added to what y holds. */
INLINE void f32_tile(nib_dtype t, int nr, int nt, const f32_job *o, int64_t t0) {
    const float *x = o->a->x + t0 * o->a->ldx + o->k0;
    int64_t ldx = o->a->ldx, n = o->n;
    size_t line = NIB_PANEL * (t == NIB_F32 ? 4 : 2);
    v16 acc[F32_WIDE][F32_TOKENS];
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int i = 0; i < nt; i++)
            acc[r][i] = v_load_n(o->y + (t0 + i) * o->ldy + r * NIB_PANEL,
                                 r == nr - 1 ? o->last : NIB_PANEL);
    }
    for (int64_t k = 0; k < n; k++) {
        v16 v[F32_WIDE];
        UNROLL
        for (int r = 0; r < nr; r++) {
            const uint8_t *w = o->w[r] + (size_t)k * line;
            if (nt == 1) __builtin_prefetch(w + AHEAD_F32);
            v[r] = f32_weights(t, w);
        }
        UNROLL
        for (int i = 0; i < nt; i++) {
            v16 xi = v_set1(x[i * ldx + k]);
            UNROLL
            for (int r = 0; r < nr; r++) acc[r][i] = v_fma(v[r], xi, acc[r][i]);
        }
    }
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int i = 0; i < nt; i++)
            v_store_n(o->y + (t0 + i) * o->ldy + r * NIB_PANEL, acc[r][i],
                      r == nr - 1 ? o->last : NIB_PANEL);
    }
}

/* One function a format, number of panels and number of tokens. */
typedef void (*f32_fn)(const f32_job *o, int64_t t0);
#define F32_TILE(T, NR, NT)                                                                        \
    static void f32_##T##_##NR##_##NT(const f32_job *o, int64_t t0) {                              \
        f32_tile(NIB_##T, NR, NT, o, t0);                                                          \
    }
#define F32_TILES(T, NR)                                                                           \
    F32_TILE(T, NR, 2)                                                                             \
    F32_TILE(T, NR, 3)                                                                             \
    F32_TILE(T, NR, 4)                                                                             \
    F32_TILE(T, NR, 5)                                                                             \
    F32_TILE(T, NR, 6)
#define F32_ROW(T, NR)                                                                             \
    {                                                                                              \
        f32_##T##_##NR##_1, f32_##T##_##NR##_2, f32_##T##_##NR##_3, f32_##T##_##NR##_4,            \
            f32_##T##_##NR##_5, f32_##T##_##NR##_6                                                 \
    }
#if MM_PANELS > 1
#define F32_FORMAT(T)                                                                              \
    F32_TILE(T, 1, 1)                                                                              \
    F32_TILES(T, 1)                                                                                \
    F32_TILE(T, 4, 1)                                                                              \
    F32_TILES(T, 4)                                                                                \
    static const f32_fn f32_tiles_##T[2][F32_TOKENS] = {F32_ROW(T, 1), F32_ROW(T, 4)};
#else
#define F32_FORMAT(T)                                                                              \
    F32_TILE(T, 1, 1)                                                                              \
    F32_TILES(T, 1)                                                                                \
    F32_TILE(T, 4, 1)                                                                              \
    static const f32_fn f32_tiles_##T[2][F32_TOKENS] = {F32_ROW(T, 1), {f32_##T##_4_1}};
#endif
F32_FORMAT(F32)
F32_FORMAT(F16)
F32_FORMAT(BF16)

/* Columns [k0, k0+n) of a panel as floats. */
static void f32_expand(const nib_mat *w, int64_t p, int64_t k0, int n, float *out) {
    if (!w->packed) {
        nib_mm_expand_f32(w, p, k0, n, out);
        return;
    }
    const uint8_t *from = w->data + (size_t)p * w->stride + (size_t)k0 * 2 * NIB_PANEL;
    for (int k = 0; k < n; k++, out += NIB_PANEL, from += 2 * NIB_PANEL)
        v_store(out, f32_weights(w->dtype, from));
}

static void matmul_f32(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    float *pieces = nib_mm_work(w, scratch);
    /* Halves are read as they are when no more than two tiles of tokens use them. */
    bool few = a->n_tok <= F32_TOKENS;
    bool direct = w->packed && (a->n_tok <= 2 * F32_TOKENS || w->dtype == NIB_F32);
    int64_t step = !w->packed ? MM_EXPAND_K : few ? w->k : F32_PIECE;
    const f32_fn(*tiles)[F32_TOKENS] = !direct || w->dtype == NIB_F32 ? f32_tiles_F32
                                       : w->dtype == NIB_F16          ? f32_tiles_F16
                                                                      : f32_tiles_BF16;
    int64_t n_tiles = (a->n_tok + F32_TOKENS - 1) / F32_TOKENS;
    int64_t together = a->n_tok == 1 ? F32_WIDE : MM_PANELS;
    float *sums = nib_mm_sums(w, scratch);
    for (int64_t p = p0, n_panels; p < p1; p += n_panels) {
        n_panels = p1 - p >= together ? together : 1;
        int64_t width = (n_panels - 1) * NIB_PANEL + nib_mm_rows(w, p + n_panels - 1);
        float *out = y + p * NIB_PANEL;
        f32_job o = {.a = a, .ldy = ldy, .y = out, .last = nib_mm_rows(w, p + n_panels - 1)};
        /* Between pieces sums wait in scratch: rows of y are powers of two apart and would fall on
         * the same few lines of the cache. */
        if (!few) o.y = sums, o.ldy = n_panels * NIB_PANEL, o.last = NIB_PANEL;
        for (int64_t t = 0; t < a->n_tok; t++)
            memset(o.y + t * o.ldy, 0, sizeof(float) * (size_t)(few ? width : o.ldy));
        for (int64_t k0 = 0; k0 < w->k; k0 += step) {
            o.k0 = k0;
            o.n = NIB_MIN(step, w->k - k0);
            for (int64_t r = 0; r < n_panels; r++) {
                size_t size = w->dtype == NIB_F32 ? 4 : 2;
                if (direct) {
                    o.w[r] = w->data + (size_t)(p + r) * w->stride + (size_t)k0 * size * NIB_PANEL;
                    continue;
                }
                float *piece = pieces + r * step * NIB_PANEL;
                f32_expand(w, p + r, k0, (int)o.n, piece);
                o.w[r] = (const uint8_t *)piece;
            }
            /* tiles of nearly equal numbers of tokens waste least */
            for (int64_t i = 0, t0 = 0, t1; i < n_tiles; i++, t0 = t1) {
                t1 = a->n_tok * (i + 1) / n_tiles;
                tiles[n_panels > 1][t1 - t0 - 1](&o, t0);
            }
        }
        for (int64_t t = 0; t < a->n_tok && !few; t++)
            memcpy(out + t * ldy, sums + t * o.ldy, sizeof(float) * (size_t)width);
    }
}
