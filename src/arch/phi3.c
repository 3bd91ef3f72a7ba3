/* Phi-3, 3.5 and 4-mini: Llama with q, k, v in one matrix and gate, up in another, rotation of
 * halves, and longrope: one set of frequency factors up to the original context length, another
 * beyond it. */
#include "arch/internal.h"

bool nib_arch_phi3(nib_reader *r) {
    nib_desc *d = r->d;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, 0)) return false;
    int64_t window;
    if (!nib_read_i64_or(r, "attention.sliding_window", 0, 1 << 28, 0, &window)) return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        l->window = window;
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_qkv(r, i, NIB_BIAS_OPTIONAL)) return false;
        if (!nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_ffn(r, i, true, 0)) return false;
    }
    return true;
}
