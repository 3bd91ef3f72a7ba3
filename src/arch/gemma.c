/* Gemma 2: scaled embedding, RMSNorm before and after each half, GeGLU, soft caps on scores and
 * logits, a sliding window in every other layer. Gemma 3: no caps, RMSNorm on query and key heads,
 * a window in five layers of six, which rotate with a base (and without scaling) of their own. */
#include <math.h>
#include "arch/internal.h"

static bool fill(nib_reader *r) {
    nib_desc *d = r->d;
    d->act = NIB_ACTIVATION_GELU_TANH;
    d->embd_scale = sqrtf((float)d->n_embd);
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, 0)) return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_qkv(r, i, 0)) return false;
        if (!nib_bind_norm(r, &l->attn_post_norm, i, "post_attention_norm", d->n_embd, 0))
            return false;
        if (!nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_ffn(r, i, true, 0)) return false;
        if (!nib_bind_norm(r, &l->ffn_post_norm, i, "post_ffw_norm", d->n_embd, 0)) return false;
    }
    return true;
}

/* The 27B models scale scores by embedding / heads; their number of layers tells them apart, as no
 * key does. */
static void scale_27b(nib_desc *d, int n_layer) {
    if (d->n_layer == n_layer) d->attn_scale = 1.0f / sqrtf((float)d->n_embd / (float)d->n_head);
}

bool nib_arch_gemma2(nib_reader *r) {
    nib_desc *d = r->d;
    int64_t window;
    if (!nib_read_f32_or(r, "attn_logit_softcapping", 50, &d->attn_softcap)) return false;
    if (!nib_read_f32_or(r, "final_logit_softcapping", 30, &d->final_softcap)) return false;
    if (!nib_read_i64_or(r, "attention.sliding_window", 1, 1 << 28, 4096, &window) || !fill(r))
        return false;
    for (int i = 0; i < d->n_layer; i += 2) d->layers[i].window = window;
    scale_27b(d, 46);
    return true;
}

bool nib_arch_gemma3(nib_reader *r) {
    nib_desc *d = r->d;
    int64_t window;
    float base;
    if (!nib_read_i64_or(r, "attention.sliding_window", 1, 1 << 28, 1024, &window)) return false;
    if (!nib_read_f32_or(r, "rope.freq_base_swa", 10000, &base)) return false;
    if (!nib_read_f32_or(r, "final_logit_softcapping", 0, &d->final_softcap) || !fill(r))
        return false;
    d->rope[1] = d->rope[0];
    d->rope[1].base = (double)base;
    d->rope[1].scale = 1;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_norm(r, &l->q_norm, i, "attn_q_norm", d->d, 0)) return false;
        if (!nib_bind_norm(r, &l->k_norm, i, "attn_k_norm", d->d, 0)) return false;
        if (i % 6 < 5) l->window = window, l->rope = 1;
    }
    scale_27b(d, 62);
    return true;
}
