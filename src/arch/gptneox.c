/* GPT-NeoX, Pythia: LayerNorm, partial rotation, GELU, biases; attention and feed-forward side by
 * side, each on a norm of its own, or one after the other. */
#include "arch/internal.h"

bool nib_arch_gptneox(nib_reader *r) {
    nib_desc *d = r->d;
    d->norm = NIB_NORM_LAYER;
    d->act = NIB_ACTIVATION_GELU_TANH;
    if (!nib_read_bool_or(r, "use_parallel_residual", true, &d->parallel)) return false;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, NIB_BIAS))
        return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, NIB_BIAS)) return false;
        if (!nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, NIB_BIAS)) return false;
        if (!nib_bind_qkv(r, i, NIB_BIAS) || !nib_bind_ffn(r, i, false, NIB_BIAS)) return false;
    }
    return true;
}
