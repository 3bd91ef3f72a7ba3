/* StableLM 2: LayerNorm, partial rotation, SwiGLU. The 12B variant has LayerNorm on query and key
 * heads (each head its own weights) and no second norm: attention and feed-forward then stand side
 * by side. */
#include "arch/internal.h"

bool nib_arch_stablelm(nib_reader *r) {
    nib_desc *d = r->d;
    d->norm = d->qk_norm = NIB_NORM_LAYER;
    d->qk_per_head = true;
    d->parallel = !nib_has_tensor(r, 0, "ffn_norm.weight");
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, NIB_BIAS))
        return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, NIB_BIAS)) return false;
        if (!nib_bind_qkv(r, i, NIB_BIAS_OPTIONAL)) return false;
        if (!nib_bind_norm(r, &l->q_norm, i, "attn_q_norm", (int64_t)d->n_head * d->d,
                           NIB_OPTIONAL))
            return false;
        if (!nib_bind_norm(r, &l->k_norm, i, "attn_k_norm", (int64_t)d->n_kv * d->d, NIB_OPTIONAL))
            return false;
        if (!d->parallel && !nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, NIB_BIAS))
            return false;
        if (!nib_bind_ffn(r, i, true, 0)) return false;
    }
    return true;
}
