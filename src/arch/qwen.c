/* Qwen2: Llama with rotation of halves and biases on q, k, v. Qwen3: no biases, and RMSNorm on
 * every query and key head. */
#include "arch/internal.h"

static bool fill(nib_reader *r, bool qk_norm) {
    nib_desc *d = r->d;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, 0)) return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        if (!nib_bind_norm(r, &l->attn_norm, i, "attn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_qkv(r, i, qk_norm ? NIB_BIAS_OPTIONAL : NIB_BIAS)) return false;
        if (qk_norm && !nib_bind_norm(r, &l->q_norm, i, "attn_q_norm", d->d, 0)) return false;
        if (qk_norm && !nib_bind_norm(r, &l->k_norm, i, "attn_k_norm", d->d, 0)) return false;
        if (!nib_bind_norm(r, &l->ffn_norm, i, "ffn_norm", d->n_embd, 0)) return false;
        if (!nib_bind_ffn(r, i, true, 0)) return false;
    }
    return true;
}

bool nib_arch_qwen2(nib_reader *r) {
    return fill(r, false);
}
bool nib_arch_qwen3(nib_reader *r) {
    return fill(r, true);
}
