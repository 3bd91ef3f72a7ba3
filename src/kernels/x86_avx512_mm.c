/* Matrix products with AVX-512 and VNNI: the choice between the ways to compute one.
 *
 * Few tokens (x86_avx512_mm_few.c): weights are read once and used straight from the packed panel;
 * memory is the limit, and four panels are walked at a time because one stream does not fill it.
 * Many (x86_avx512_mm_many.c, and ..._k.c for blocks of 256): a piece of two panels is expanded to
 * bytes in the first cache and all tokens pass over it in register tiles; the walk over pieces is
 * here. Both follow the order of
 * sums in mm.h, so where one ends and the other begins is a matter of speed alone. */
#include "kernels/lanes_avx512.h"
#define MM_PANELS 4
#include "kernels/mm_body.h"
#include "kernels/x86_avx512_mm.h"

void nib_avx512_walk(const avx512_way *way, const nib_mat *w, const nib_act *a, int64_t p0,
                     int64_t p1, float *y, int64_t ldy, void *scratch) {
    uint8_t *pieces = nib_mm_work(w, scratch);
    float *sums = nib_mm_sums(w, scratch);
    int64_t n_tiles = (a->n_tok + way->most - 1) / way->most;
    int together = w->packed ? 2 : 1;
    mm_ask ask = {.w = w, .p1 = p1, .together = together, .k1 = w->k, .calls = n_tiles};
    for (int64_t p = p0; p < p1; p += together) {
        int nr = (int)NIB_MIN(together, p1 - p);
        avx512_job o = {.w = pieces, .a = a, .sums = sums, .to = sums, .ld = 2 * NIB_PANEL};
        const uint8_t *panel[2];
        for (int r = 0; r < nr; r++) {
            panel[r] = nib_mm_panel(w, p + r, scratch);
            o.rows[r] = (__mmask16)((1u << nib_mm_rows(w, p + r)) - 1);
        }
        for (; o.piece < way->n_pieces; o.piece++) {
            if (o.piece > 0) memcpy(o.some, o.rows, sizeof o.rows);
            if (o.piece == way->n_pieces - 1) o.to = y + p * NIB_PANEL, o.ld = ldy;
            /* a lone panel is multiplied twice: rare, and not worth code of its own */
            for (int r = 0; r < 2; r++)
                way->expand(w, panel[r % nr], o.piece, pieces + (size_t)r * way->bytes);
            mm_ask_for(&ask, p, NIB_MIN((o.piece + 1) * way->columns, w->k), way->columns);
            /* tiles of nearly equal numbers of tokens waste least */
            for (int64_t i = 0, t0 = 0, t1; i < n_tiles; i++, t0 = t1) {
                t1 = a->n_tok * (i + 1) / n_tiles;
                mm_ask_some(&ask);
                way->tiles[t1 - t0 - 1](&o, t0);
            }
        }
    }
}

void nib_avx512_matmul(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                       int64_t ldy, void *scratch) {
    if (!nib_mm_format(w->dtype))
        matmul_f32(w, a, p0, p1, y, ldy, scratch);
    else if (a->n_tok <= AVX512_FEW)
        nib_avx512_mm_few(w, a, p0, p1, y, ldy, scratch);
    else if (nib_mat_act(w->dtype) == NIB_ACT_Q8K)
        nib_avx512_mm_many_k(w, a, p0, p1, y, ldy, scratch);
    else
        nib_avx512_mm_many(w, a, p0, p1, y, ldy, scratch);
}

void nib_x86_avx512_mm(nib_kernels *k) {
    k->quantise = nib_avx512_quantise;
    k->quantise_k = nib_avx512_quantise_k;
    k->quantise_fast = nib_avx512_quantise_fast;
    k->matmul = nib_avx512_matmul;
    k->matmul_fast = nib_avx512_matmul_fast;
}
