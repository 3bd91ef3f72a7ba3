/* Packing into P16 and back, in plain C: a permutation of bits driven by p16.def, so every format
 * shares it.
 *
 * The unit of work is a word: the codes of four neighbouring columns (k..k+3) of one row, one a
 * byte. A plane of the file gives its bits of a word with one load, shift and mask, because codes
 * k..k+3 lie in consecutive bytes there; only the one-bit planes of Q5_0 and Q5_1, where they lie
 * in one nibble, need a spread. Unpacking is the same walk in the other direction and rebuilds the
 * file's block, of which the format's own to_f32 then makes floats: there is no second dequantiser
 * to keep in step. */
#include "kernels/mm.h"
#include "kernels/internal.h"

enum { BLOCK_MAX = 256 };

static uint32_t load(const uint8_t *p) {
    return nib_load_u32(p);
}
static void store_or(uint8_t *p, uint32_t v) {
    v |= nib_load_u32(p);
    memcpy(p, &v, 4);
}

static uint32_t plane_mask(const mm_plane *pl) {
    return 0x01010101u * ((1u << pl->bits) - 1);
}

/* Where the file keeps this plane's bits of column k: the byte, and the shift inside it. */
static int file_byte(const mm_plane *pl, int k) {
    int per = 8 / pl->bits;
    return pl->at + k / (per * pl->run) * pl->run + k % pl->run;
}
static int file_shift(const mm_plane *pl, int k) {
    return pl->bits * (k / pl->run % (8 / pl->bits));
}

static uint32_t file_word(const mm_plane *pl, const uint8_t *block, int k) {
    const uint8_t *p = block + file_byte(pl, k);
    if (pl->run > 1) return load(p) >> file_shift(pl, k) & plane_mask(pl);
    /* four bits of one nibble: multiply to put bit i at position 8i, then mask */
    return ((uint32_t)(*p >> (k & 4)) & 15) * 0x00204081u & 0x01010101u;
}

static void put_file_word(const mm_plane *pl, uint8_t *block, int k, uint32_t v) {
    uint8_t *p = block + file_byte(pl, k);
    if (pl->run > 1)
        store_or(p, v << file_shift(pl, k));
    else
        *p |= (uint8_t)((v * 0x10204080u >> 28) << (k & 4));
}

/* Q8_0 is signed in the file and has 128 added in the panel. */
static uint32_t flip(nib_dtype t) {
    return t == NIB_Q8_0 ? 0x80808080u : 0;
}

static void pack_float(size_t size, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t k,
                       uint8_t *panel) {
    for (int64_t i = 0; i < k; i++, panel += size * NIB_PANEL)
        for (int r = 0; r < n_rows; r++)
            memcpy(panel + size * (size_t)r, rows + (size_t)r * row_bytes + size * (size_t)i, size);
}

void nib_scalar_pack(nib_dtype t, const void *rows, size_t row_bytes, int n_rows, int64_t k,
                     uint8_t *panel) {
    const nib_dtype_info *info = nib_dtype_get(t);
    const mm_format *f = nib_mm_format(t);
    memset(panel, 0, nib_mat_panel_bytes(t, k));
    if (!f) {
        pack_float(info->block_bytes, rows, row_bytes, n_rows, k, panel);
        return;
    }
    int len = (int)info->block_len;
    int64_t n_blocks = k / len;
    uint8_t *scales = panel + (size_t)(k / 32) * f->code_bytes;
    for (int64_t b = 0; b < n_blocks; b++) {
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *block =
                (const uint8_t *)rows + (size_t)r * row_bytes + (size_t)b * info->block_bytes;
            uint8_t *codes = panel + (size_t)(b * len / 32) * f->code_bytes + 4 * r;
            for (int k0 = 0; k0 < len; k0 += 32, codes += f->code_bytes) {
                uint8_t *line = codes;
                for (int i = 0; i < 2 && f->plane[i].bits; i++) {
                    const mm_plane *pl = &f->plane[i];
                    int per = 8 / pl->bits;
                    for (int j = 0; j < 8; j++)
                        store_or(line + 64 * (j / per), (file_word(pl, block, k0 + 4 * j) ^ flip(t))
                                                            << pl->bits * (j % per));
                    line += 64 * pl->bits;
                }
            }
            uint8_t *s = scales + (size_t)b * f->scale_bytes;
            for (int i = 0; i < f->n_u16; i++, s += 2 * NIB_PANEL)
                memcpy(s + 2 * r, block + f->u16_at + 2 * i, 2);
            for (int i = 0; i < f->n_u8; i++, s += NIB_PANEL) s[r] = block[f->u8_at + i];
        }
    }
}

/* One block of one row, as it stands in the file. */
static void rebuild_block(nib_dtype t, const mm_format *f, int len, const uint8_t *codes,
                          const uint8_t *scales, int r, uint8_t *block) {
    memset(block, 0, nib_dtype_get(t)->block_bytes);
    codes += 4 * r;
    for (int k0 = 0; k0 < len; k0 += 32, codes += f->code_bytes) {
        const uint8_t *line = codes;
        for (int i = 0; i < 2 && f->plane[i].bits; i++) {
            const mm_plane *pl = &f->plane[i];
            int per = 8 / pl->bits;
            for (int j = 0; j < 8; j++) {
                uint32_t v = load(line + 64 * (j / per)) >> pl->bits * (j % per);
                put_file_word(pl, block, k0 + 4 * j, (v & plane_mask(pl)) ^ flip(t));
            }
            line += 64 * pl->bits;
        }
    }
    for (int i = 0; i < f->n_u16; i++, scales += 2 * NIB_PANEL)
        memcpy(block + f->u16_at + 2 * i, scales + 2 * r, 2);
    for (int i = 0; i < f->n_u8; i++, scales += NIB_PANEL) block[f->u8_at + i] = scales[r];
}

static void unpack_row(const nib_mat *w, int64_t row, float *dst) {
    const nib_dtype_info *info = nib_dtype_get(w->dtype);
    if (!w->packed) {
        info->to_f32(w->data + (size_t)row * w->stride, dst, w->k);
        return;
    }
    const uint8_t *panel = w->data + (size_t)(row / NIB_PANEL) * w->stride;
    int r = (int)(row % NIB_PANEL);
    const mm_format *f = nib_mm_format(w->dtype);
    if (!f) {
        size_t size = info->block_bytes;
        for (int64_t k = 0; k < w->k; k++, panel += size * NIB_PANEL)
            info->to_f32(panel + size * (size_t)r, dst + k, 1);
        return;
    }
    int len = (int)info->block_len;
    const uint8_t *scales = panel + (size_t)(w->k / 32) * f->code_bytes;
    for (int64_t b = 0; b < w->k / len; b++) {
        uint8_t block[BLOCK_MAX];
        rebuild_block(w->dtype, f, len, panel + (size_t)(b * len / 32) * f->code_bytes,
                      scales + (size_t)b * f->scale_bytes, r, block);
        info->to_f32(block, dst + b * len, len);
    }
}

void nib_scalar_mm_pack(nib_kernels *k) {
    k->pack = nib_scalar_pack;
    k->unpack_row = unpack_row;
}
