/* Llama and its many kin: RMSNorm, rotation of neighbouring pairs, SwiGLU, optional biases
 * everywhere. Llama 3's frequency factors come as the tensor rope_freqs. */
#include "arch/internal.h"

bool nib_arch_llama(nib_reader *r) {
    nib_desc *d = r->d;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_PAIR) || !nib_bind_head(r, 0)) return false;
    int64_t window;
    if (!nib_read_i64_or(r, "attention.sliding_window", 0, 1 << 28, 0, &window)) return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        l->window = window; /* Mistral 7B v0.1 */
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_qkv(r, i, NIB_BIAS_OPTIONAL)) return false;
        if (!nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_ffn(r, i, true, NIB_BIAS_OPTIONAL)) return false;
    }
    return true;
}
