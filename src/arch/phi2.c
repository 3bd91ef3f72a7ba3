/* Phi-1, 1.5 and 2: LayerNorm, partial rotation, attention and feed-forward side by side on one
 * norm, GELU, biases everywhere, the output matrix included. */
#include "arch/internal.h"

bool nib_arch_phi2(nib_reader *r) {
    nib_desc *d = r->d;
    d->norm = NIB_NORM_LAYER;
    d->parallel = true;
    d->act = NIB_ACTIVATION_GELU_TANH;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, NIB_BIAS))
        return false;
    for (int i = 0; i < d->n_layer; i++) {
        if (!nib_bind_norm(r, &d->layers[i].attn_norm, i, "attn_norm", d->n_embd, NIB_BIAS))
            return false;
        if (!nib_bind_qkv(r, i, NIB_BIAS) || !nib_bind_ffn(r, i, false, NIB_BIAS)) return false;
    }
    return true;
}
