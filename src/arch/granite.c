/* Granite 3: Llama with four scales: on the embedding, on what each half adds, on scores, and
 * (divided by) on logits. */
#include "arch/internal.h"

bool nib_arch_granite(nib_reader *r) {
    nib_desc *d = r->d;
    float logits;
    if (!nib_arch_llama(r)) return false;
    if (!nib_read_f32_or(r, "embedding_scale", 1, &d->embd_scale)) return false;
    if (!nib_read_f32_or(r, "residual_scale", 1, &d->residual_scale)) return false;
    if (!nib_read_f32_or(r, "attention.scale", d->attn_scale, &d->attn_scale)) return false;
    if (!nib_read_f32_or(r, "logit_scale", 1, &logits)) return false;
    if (logits == 0) {
        nib_fail(r->e, NIB_ERR_FORMAT, "key 'granite.logit_scale' is 0: logits are divided by it");
        return false;
    }
    d->logit_scale = 1 / logits;
    return true;
}
