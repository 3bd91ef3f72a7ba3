/* Products in floats, which every set shares, written once on 16 lanes (lanes_<isa>.h): F32, F16,
 * BF16; formats without a packed form are expanded.
 *
 * A product's output is one chain of fused multiply-adds over k, and only many outputs at a time
 * keep the units busy: tiles of panels and tokens whose sums fill the registers (MM_PANELS, the
 * includer's choice: 4 where there are many, else 1). Weights become floats a piece of columns at a
 * time, in the first cache, and all tokens pass over it. */
#include "kernels/mm.h"

enum { F32_WIDE = 4 }; /* panels of a tile at most */
/* Tokens of one: with 2 panels, or with 1 where a register holds half of one, 24 or 12 sums. */
enum { F32_TOKENS = MM_PANELS > 1 ? NIB_TILE_T : NIB_TILE_T / 2 };
_Static_assert(F32_WIDE *MM_EXPAND_K *NIB_PANEL * sizeof(float) <= MM_SCRATCH,
               "the scratch holds the pieces");

/* A tile's share of a product: n columns. */
typedef struct f32_job {
    const uint8_t *w; /* of the first panel, */
    size_t panel;     /* so many bytes before the next */
    const float *x;   /* [n][width] */
    int64_t n, width;
    const float *from; /* [tokens][ld_from]: sums of the columns before; NULL: there are none */
    float *to;         /* [tokens][ld_to], of the last panel so many rows */
    int64_t ld_from, ld_to;
    int last_rows;
    const uint8_t *ask; /* weights that are wanted soon: a line a column is asked for, and the */
    size_t ask_step[2]; /* next one lies so far on, taken in turn */
} f32_job;

INLINE v16 f32_weights(nib_dtype t, const uint8_t *p) {
    if (t == NIB_F16) return v_load_f16(p);
    if (t == NIB_BF16) return v_load_bf16(p);
    return v_load((const float *)(const void *)p);
}

/* Weights that come from memory as a tile goes are asked for so many bytes early. */
enum { AHEAD_F32 = 2048 };

/* nr panels x nt tokens. Four panels have so few tokens that they always come from memory. */
INLINE void f32_tile(nib_dtype t, int nr, int nt, const f32_job *o) {
    const uint8_t *w = o->w, *ask = o->ask;
    const size_t panel = o->panel, line = NIB_PANEL * (t == NIB_F32 ? 4 : 2);
    const size_t both_steps = o->ask_step[0] + o->ask_step[1];
    size_t ask_step = o->ask_step[0];
    const int64_t width = MM_PANELS > 1 ? nt : o->width, ld_from = o->ld_from, ld_to = o->ld_to;
    const float *from = o->from, *x = o->x, *end = x + o->n * width;
    float *to = o->to;
    const int last_rows = o->last_rows;
    v16 acc[F32_WIDE][F32_TOKENS];
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int i = 0; i < nt; i++)
            acc[r][i] = from ? v_load(from + i * ld_from + r * NIB_PANEL) : v_set1(0);
    }
    for (; x < end; x += width, w += line) {
        v16 v[F32_WIDE];
        if (nr < F32_WIDE) {
            __builtin_prefetch(ask);
            ask += ask_step;
            /* not worth an instruction where floats of a piece are used again and again */
            if (nr == 2 && t != NIB_F32) ask_step = both_steps - ask_step;
        }
        UNROLL
        for (int r = 0; r < nr; r++) {
            if (nr == F32_WIDE) __builtin_prefetch(w + (size_t)r * panel + AHEAD_F32);
            v[r] = f32_weights(t, w + (size_t)r * panel);
        }
        UNROLL
        for (int i = 0; i < nt; i++) {
            v16 xi = v_set1(x[i]);
            UNROLL
            for (int r = 0; r < nr; r++) acc[r][i] = v_fma(v[r], xi, acc[r][i]);
        }
    }
    UNROLL
    for (int i = 0; i < nt; i++, to += ld_to) {
        UNROLL
        for (int r = 0; r < nr - 1; r++) v_store(to + r * NIB_PANEL, acc[r][i]);
        v_store_n(to + (nr - 1) * NIB_PANEL, acc[nr - 1][i], last_rows);
    }
}

/* One function a format, number of panels and number of tokens, in tables [panels / 2][tokens - 1].
 * Sets with few registers have one panel, and four with one token; the others also two panels with
 * many tokens, four with few: what comes from memory then has four streams. */
typedef void (*f32_fn)(const f32_job *o);
#define F32_TILE(T, NR, NT)                                                                        \
    static void f32_##T##_##NR##_##NT(const f32_job *o) {                                          \
        f32_tile(NIB_##T, NR, NT, o);                                                              \
    }
#define F32_TO_6(X, T, NR) X(T, NR, 2) X(T, NR, 3) X(T, NR, 4) X(T, NR, 5) X(T, NR, 6)
#define F32_TO_12(X, T, NR)                                                                        \
    X(T, NR, 7) X(T, NR, 8) X(T, NR, 9) X(T, NR, 10) X(T, NR, 11) X(T, NR, 12)
#define F32_CELL(T, NR, NT) [NR / 2][NT - 1] = f32_##T##_##NR##_##NT,
#if MM_PANELS > 1
#define F32_ALL(X, T)                                                                              \
    X(T, 1, 1)                                                                                     \
    F32_TO_6(X, T, 1) F32_TO_12(X, T, 1) X(T, 2, 6) F32_TO_12(X, T, 2) X(T, 4, 1) F32_TO_6(X, T, 4)
#else
#define F32_ALL(X, T) X(T, 1, 1) F32_TO_6(X, T, 1) X(T, 4, 1)
#endif
#define F32_FORMAT(T)                                                                              \
    F32_ALL(F32_TILE, T)                                                                           \
    static const f32_fn f32_tiles_##T[F32_WIDE / 2 + 1][F32_TOKENS] = {F32_ALL(F32_CELL, T)};
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

/* Halves are read as they are when no more than so many tokens use them. */
enum { F32_DIRECT = MM_PANELS > 1 ? 48 : NIB_TILE_T };

static void matmul_f32(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    const int64_t n_tok = a->n_tok, n_tiles = nib_tiles(n_tok);
    bool halves = w->dtype == NIB_F16 || w->dtype == NIB_BF16;
    bool direct = w->packed && (n_tok <= F32_DIRECT || !halves);
    const f32_fn(*tiles)[F32_TOKENS] = !direct || !halves    ? f32_tiles_F32
                                       : w->dtype == NIB_F16 ? f32_tiles_F16
                                                             : f32_tiles_BF16;
    const size_t line = NIB_PANEL * (halves ? 2 : 4); /* of a column, packed */
    /* a single tile of tokens goes through whole rows */
    const int64_t step = direct && n_tiles == 1 ? w->k : NIB_TILE_K;
    const int64_t expanded = w->packed ? NIB_TILE_K : MM_EXPAND_K;
    const int64_t together = n_tok == 1 ? F32_WIDE : MM_PANELS == 1 ? 1 : n_tok <= 6 ? F32_WIDE : 2;
    float *pieces = nib_mm_work(w, scratch), *sums = nib_mm_sums(w, scratch);
    for (int64_t p = p0, n_panels; p < p1; p += n_panels) {
        n_panels = p1 - p >= together ? together : 1;
        for (int64_t k0 = 0; k0 < w->k; k0 += step) {
            const uint8_t *there = w->data + (size_t)p * w->stride + (size_t)k0 * line;
            f32_job o = {.w = there, .panel = w->stride, .n = NIB_MIN(step, w->k - k0)};
            if (!direct) {
                o.w = (const uint8_t *)(pieces + k0 % expanded * NIB_PANEL);
                o.panel = (size_t)expanded * NIB_PANEL * sizeof(float);
                for (int64_t r = 0; r < n_panels && k0 % expanded == 0; r++)
                    f32_expand(w, p + r, k0, (int)NIB_MIN(expanded, w->k - k0),
                               pieces + r * expanded * NIB_PANEL);
            }
            /* Between pieces sums wait in scratch: rows of y are powers of two apart and would fall
             * on the same few lines of the cache. */
            bool first = k0 == 0, last = k0 + o.n == w->k;
            o.ld_from = n_panels * NIB_PANEL;
            o.ld_to = last ? ldy : o.ld_from;
            o.last_rows = last ? nib_mm_rows(w, p + n_panels - 1) : NIB_PANEL;
            /* The columns after these, or the first of the next panels: each tile asks for those of
             * one panel. A single tile asks for its own, of two panels in turn, or for the whole
             * next panel. */
            const uint8_t *next =
                last ? w->data + (size_t)(p + n_panels) * w->stride : there + (size_t)step * line;
            int64_t to_ask = w->packed ? n_panels : 0;
            for (int64_t i = 0; i < n_tiles; i++) {
                const int64_t t0 = nib_tile(n_tok, i), width = nib_tile(n_tok, i + 1) - t0;
                const int64_t parts = (width + F32_TOKENS - 1) / F32_TOKENS;
                o.width = width;
                for (int64_t j = 0, c = 0, end; j < parts; j++, c = end) {
                    end = width * (j + 1) / parts;
                    o.x = a->tiled + k0 * n_tok + t0 * o.n + c;
                    o.from = first ? NULL : sums + (t0 + c) * o.ld_from;
                    o.to = last ? y + p * NIB_PANEL + (t0 + c) * ldy : sums + (t0 + c) * o.ld_from;
                    o.ask = to_ask > 0 ? next : o.w;
                    o.ask_step[0] = o.ask_step[1] = to_ask > 0 ? line : 0;
                    if (n_panels == 2 && n_tiles == 1 && direct && halves) {
                        o.ask = o.w + AHEAD_F32;
                        o.ask_step[0] = w->stride;
                        o.ask_step[1] = 2 * line - w->stride;
                    }
                    tiles[n_panels / 2][end - c - 1](&o);
                    next += w->stride;
                    to_ask--;
                }
            }
        }
    }
}
