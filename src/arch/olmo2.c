/* OLMo 2: RMSNorm on what each half adds, not on what it takes; RMSNorm over all of q and all of k.
 * OLMo 3 runs under the same name: sliding windows in three layers of four, whose rotation is not
 * scaled. */
#include "arch/internal.h"

bool nib_arch_olmo2(nib_reader *r) {
    nib_desc *d = r->d;
    d->qk_full = true;
    int64_t window;
    if (!nib_read_i64_or(r, "attention.sliding_window", 0, 1 << 28, 0, &window)) return false;
    if (!nib_read_eps(r) || !nib_read_rope(r, NIB_ROPE_NEOX) || !nib_bind_head(r, 0)) return false;
    d->rope[1] = d->rope[0];
    d->rope[1].scale = 1;
    d->rope[1].yarn = false;
    d->rope[1].attn_factor = 1;
    const nib_gguf_kv *pattern = NULL;
    if (window && nib_gguf_find(r->g, "olmo2.attention.sliding_window_pattern") &&
        nib_gguf_arr(r->g, "olmo2.attention.sliding_window_pattern", false, &pattern, r->e) !=
            NIB_OK)
        return false;
    for (int i = 0; i < d->n_layer; i++) {
        nib_layer *l = &d->layers[i];
        bool windowed =
            pattern && i < pattern->arr_n ? nib_gguf_arr_i64(pattern, i) != 0 : i % 4 < 3;
        if (window && windowed) l->window = window, l->rope = 1;
        if (!nib_bind_qkv(r, i, 0)) return false;
        if (!nib_bind_norm(r, &l->q_norm, i, "attn_q_norm", (int64_t)d->n_head * d->d, 0))
            return false;
        if (!nib_bind_norm(r, &l->k_norm, i, "attn_k_norm", (int64_t)d->n_kv * d->d, 0))
            return false;
        if (!nib_bind_norm(r, &l->attn_post_norm, i, "post_attention_norm", d->n_embd, 0))
            return false;
        if (!nib_bind_ffn(r, i, true, 0)) return false;
        if (!nib_bind_norm(r, &l->ffn_post_norm, i, "post_ffw_norm", d->n_embd, 0)) return false;
    }
    return true;
}
