/* SmolLM3: Llama with no rotation in every 4th layer (NoPE; Yang et al. 2025, "RoPE to NoPE and
 * back again"). */
#include "arch/internal.h"

bool nib_arch_smollm3(nib_reader *r) {
    if (!nib_arch_llama(r)) return false;
    for (int i = 3; i < r->d->n_layer; i += 4) r->d->layers[i].rope = -1;
    return true;
}
