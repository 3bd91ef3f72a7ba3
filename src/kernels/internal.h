/* What the kernel files share among themselves. */
#ifndef NIB_KERNELS_INTERNAL_H
#define NIB_KERNELS_INTERNAL_H
#include "kernels/kernels.h"

/* Writes the names of the features found ("avx2 fma f16c ..."), as isa.def spells them. */
void nib_cpu_detect(char *out, size_t n);
#endif
