/* BERT-type embedders: no causal mask, norms on the sum after each half, no output matrix. bert:
 * learnt positions, GELU, biases. nomic-bert: rotation, SwiGLU, no biases. Both add the embedding
 * of token type 0. */
#include "arch/internal.h"

static bool fill(nib_reader *r, bool gated, int flags) {
    nib_desc *d = r->d;
    d->norm = NIB_NORM_LAYER;
    d->causal = false;
    const float *types;
    if (!nib_read_eps(r)) return false;
    const nib_tensor *t = nib_gguf_tensor(r->g, "token_types.weight");
    if (t) {
        if (!nib_bind_floats(r, &types, "token_types.weight", t->ne[1] * d->n_embd, 0))
            return false;
        d->type_embd = types;
    }
    if (!nib_bind_norm(r, &d->embd_norm, -1, "token_embd_norm", d->n_embd, NIB_BIAS)) return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_qkv(r, i, flags) || !nib_bind_ffn(r, i, gated, flags)) return false;
        if (!nib_bind_norm(r, &l->attn_sum_norm, i, "attn_output_norm", d->n_embd, NIB_BIAS))
            return false;
        if (!nib_bind_norm(r, &l->ffn_sum_norm, i, "layer_output_norm", d->n_embd, NIB_BIAS))
            return false;
    }
    return true;
}

bool nib_arch_bert(nib_reader *r) {
    r->d->act = NIB_ACTIVATION_GELU_TANH;
    return nib_bind_positions(r) && fill(r, false, NIB_BIAS_OPTIONAL);
}

bool nib_arch_nomic_bert(nib_reader *r) {
    return nib_read_rope(r, NIB_ROPE_NEOX) && fill(r, true, NIB_BIAS_OPTIONAL);
}
