/* One function per row of archs.def: fills r->d after nib_read_common. False: the error is in r. */
#ifndef NIB_ARCH_INTERNAL_H
#define NIB_ARCH_INTERNAL_H
#include "arch/arch.h"
#define NIB_ARCH(name, suffix, text) bool nib_arch_##suffix(nib_reader *r);
#include "arch/archs.def"
#undef NIB_ARCH
#endif
