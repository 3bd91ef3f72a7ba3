/* Matrices and activations as the kernels see them: sizes, and the one description of the packed
 * layout (p16.def).
 *
 * Everything that does not depend on an instruction set stands here: which formats pack, how many
 * bytes things take, and the slow but exact ways to look at a matrix that is not packed. */
#include "kernels/mm.h"

static const mm_format formats[] = {
#define NIB_P16(T, FORM, NU16, U16AT, NU8, U8AT, B0, AT0, R0, B1, AT1, R1)                         \
    [NIB_##T] = {.known = true,                                                                    \
                 .form = MM_##FORM,                                                                \
                 .n_u16 = NU16,                                                                    \
                 .u16_at = U16AT,                                                                  \
                 .n_u8 = NU8,                                                                      \
                 .u8_at = U8AT,                                                                    \
                 .plane = {{B0, AT0, R0}, {B1, AT1, R1}},                                          \
                 .code_bytes = ((B0) + (B1)) * 64,                                                 \
                 .scale_bytes = (2 * (NU16) + (NU8)) * NIB_PANEL},
#include "kernels/p16.def"
};

const int8_t nib_mm_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};
const int8_t nib_mm_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

const mm_format *nib_mm_format(nib_dtype t) {
    if ((unsigned)t >= NIB_ARRAY_LEN(formats) || !formats[t].known) return NULL;
    return &formats[t];
}

static bool is_float(nib_dtype t) {
    return t == NIB_F32 || t == NIB_F16 || t == NIB_BF16;
}

nib_act_kind nib_mat_act(nib_dtype t) {
    if (!nib_mm_format(t)) return NIB_ACT_F32;
    return nib_dtype_get(t)->block_len == 256 ? NIB_ACT_Q8K : NIB_ACT_Q8;
}

bool nib_mat_can_fast(nib_dtype t, int64_t k) {
    return nib_mm_format(t) && t != NIB_MXFP4 && k > 0 && k % 64 == 0 &&
           k % nib_dtype_get(t)->block_len == 0;
}

bool nib_mat_can_pack(nib_dtype t, int64_t k) {
    if (is_float(t)) return k > 0;
    return nib_mm_format(t) && k > 0 && k % nib_dtype_get(t)->block_len == 0;
}

size_t nib_mat_panel_bytes(nib_dtype t, int64_t k) {
    return NIB_PANEL * nib_dtype_bytes(t, k);
}

/* ---- activations ---- */

static size_t part(size_t bytes) {
    return NIB_ROUND_UP(bytes, (size_t)64);
}

/* What may be read past the last token of kq, and of the arrays by group. */
enum { PAST_KQ = 2048, PAST_GROUP = 32 * 4, PAST_KSBF = 2048 };

size_t nib_act_bytes(int64_t n_tok, int64_t k) {
    size_t n = (size_t)(n_tok * (k / 32)), nk = (size_t)(n_tok * (k / 256));
    size_t ng = (size_t)(n_tok * nib_fast_groups(k)) * 4 + PAST_GROUP;
    return part(n * 32) + 3 * part(n * 4) + part(n * 32 + PAST_KQ) + 2 * part(ng) + part(nk * 32) +
           part(nk * 16 + 256) + part(nk) + part(nk * 64 + PAST_KSBF) +
           part((size_t)(n_tok * k) * sizeof(float));
}

void nib_act_bind(nib_act *a, void *mem, int64_t n_tok, int64_t k) {
    size_t n = (size_t)(n_tok * (k / 32));
    uint8_t *p = mem;
    a->n_tok = n_tok;
    a->k = k;
    a->fast = false;
    a->q = (int8_t *)p;
    p += part(n * 32);
    a->d = (float *)(void *)p;
    p += part(n * 4);
    a->ds = (float *)(void *)p;
    p += part(n * 4);
    a->bias = (int32_t *)(void *)p;
    p += part(n * 4);
    size_t nk = (size_t)(n_tok * (k / 256));
    size_t ng = (size_t)(n_tok * nib_fast_groups(k)) * 4 + PAST_GROUP;
    a->kq = (int8_t *)p;
    p += part(n * 32 + PAST_KQ);
    a->kd = (float *)(void *)p;
    p += part(ng);
    a->kbias = (int32_t *)(void *)p;
    p += part(ng);
    a->ks16 = (int16_t *)(void *)p;
    p += part(nk * 32);
    a->ks32 = (int16_t *)(void *)p;
    p += part(nk * 16 + 256);
    a->calm = p;
    p += part(nk);
    a->ksbf = (uint32_t *)(void *)p;
    p += part(nk * 64 + PAST_KSBF);
    a->tiled = (float *)(void *)p;
}

/* n columns of nt tokens of a tile that is 'width' wide. */
static inline void tile_piece(const float *x, int64_t ldx, int64_t n, int64_t nt, int64_t width,
                              float *to) {
    for (int64_t k = 0; k < n; k++, to += width)
        for (int64_t i = 0; i < nt; i++) to[i] = x[i * ldx + k];
}

void nib_act_tile(nib_act *a, int64_t t0, int64_t t1) {
    for (int64_t i = 0; i < nib_tiles(a->n_tok); i++) {
        int64_t from = nib_tile(a->n_tok, i), end = nib_tile(a->n_tok, i + 1), width = end - from;
        int64_t t = NIB_MAX(from, t0), nt = NIB_MIN(end, t1) - t;
        if (nt <= 0) continue;
        for (int64_t k0 = 0; k0 < a->k; k0 += NIB_TILE_K) {
            int64_t n = NIB_MIN(NIB_TILE_K, a->k - k0);
            const float *x = a->x + t * a->ldx + k0;
            float *to = a->tiled + k0 * a->n_tok + from * n + (t - from);
            if (nt == NIB_TILE_T)
                tile_piece(x, a->ldx, n, NIB_TILE_T, NIB_TILE_T, to);
            else
                tile_piece(x, a->ldx, n, nt, width, to);
        }
    }
}

void nib_mat_ask(const nib_mat *w, int64_t p, int64_t n) {
    enum { CODES = 2048, SCALES = 256 };
    if (!w->packed) return;
    const mm_format *f = nib_mm_format(w->dtype);
    size_t codes = f ? (size_t)(w->k / 32) * f->code_bytes : w->stride, scales = w->stride - codes;
    n = NIB_MIN(n, (w->n + NIB_PANEL - 1) / NIB_PANEL - p);
    for (size_t at = 0; at < CODES; at += 64)
        for (int64_t i = 0; i < n; i++) {
            const uint8_t *panel = w->data + (size_t)(p + i) * w->stride;
            if (at < codes) __builtin_prefetch(panel + at);
            if (at < SCALES && at < scales) __builtin_prefetch(panel + codes + at);
        }
}

/* ---- matrices that are not packed ---- */

size_t nib_matmul_scratch(int64_t n_tok, int64_t k) {
    size_t sums = MM_PANELS_MOST * NIB_PANEL * sizeof(float) * (size_t)NIB_ROUND_UP(n_tok, 32);
    return NIB_PANEL * sizeof(float) * (size_t)k + MM_SCRATCH + sums + 64;
}

const uint8_t *nib_mm_panel(const nib_mat *w, int64_t p, void *scratch) {
    if (w->packed) return w->data + (size_t)p * w->stride;
    const uint8_t *rows = w->data + (size_t)p * NIB_PANEL * w->stride;
    nib_kernels_get()->pack(w->dtype, rows, w->stride, nib_mm_rows(w, p), w->k, scratch);
    return scratch;
}

void nib_mm_expand_f32(const nib_mat *w, int64_t p, int64_t k0, int n, float *out) {
    const nib_dtype_info *info = nib_dtype_get(w->dtype);
    size_t at = (size_t)(k0 / info->block_len) * info->block_bytes;
    float row[MM_EXPAND_K];
    int n_rows = nib_mm_rows(w, p);
    for (int r = 0; r < NIB_PANEL; r++) {
        if (r < n_rows)
            info->to_f32(w->data + (size_t)(p * NIB_PANEL + r) * w->stride + at, row, n);
        for (int k = 0; k < n; k++) out[k * NIB_PANEL + r] = r < n_rows ? row[k] : 0;
    }
}

/* ---- walking ---- */

enum { TURN = 4 }; /* groups a turn; a block where that is more */

void nib_mm_walk(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y, int64_t ldy,
                 void *scratch, int most, void (*turn)(const mm_turn *o)) {
    const mm_format *f = nib_mm_format(w->dtype);
    int64_t n_groups = w->k / 32, block = nib_dtype_get(w->dtype)->block_len / 32;
    int64_t step = NIB_MAX(block, TURN);
    int64_t streams = w->packed ? MM_STREAMS : 1; /* there is one scratch to pack into */
    float *acc = nib_mm_work(w, scratch);
    for (int64_t p = p0; p < p1; p += streams) {
        int64_t n = NIB_MIN(streams, p1 - p);
        const uint8_t *panel[MM_STREAMS];
        for (int64_t i = 0; i < n; i++) panel[i] = nib_mm_panel(w, p + i, scratch);
        for (int64_t t0 = 0; t0 < a->n_tok; t0 += most) {
            mm_turn o = {.a = a, .t0 = t0, .nt = (int)NIB_MIN(most, a->n_tok - t0)};
            int64_t each = o.nt * NIB_PANEL;
            memset(acc, 0, sizeof(float) * (size_t)(each * n));
            for (o.g0 = 0; o.g0 < n_groups; o.g0 = o.g1) {
                o.g1 = NIB_MIN(o.g0 + step, n_groups);
                for (int64_t i = 0; i < n; i++) {
                    o.codes = panel[i] + (size_t)o.g0 * f->code_bytes;
                    o.scales = panel[i] + (size_t)n_groups * f->code_bytes +
                               (size_t)(o.g0 / block) * f->scale_bytes;
                    o.acc = acc + i * each;
                    turn(&o);
                }
            }
            for (int64_t i = 0; i < n; i++)
                for (int t = 0; t < o.nt; t++)
                    memcpy(y + (t0 + t) * ldy + (p + i) * NIB_PANEL, acc + i * each + t * NIB_PANEL,
                           sizeof(float) * (size_t)nib_mm_rows(w, p + i));
        }
    }
}
