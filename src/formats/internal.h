/* formats, inside: what the reader and the writer of GGUF hold in common. */
#ifndef NIB_FORMATS_INTERNAL_H
#define NIB_FORMATS_INTERNAL_H
#include "formats/formats.h"

#define GGUF_DEFAULT_ALIGNMENT 32
#define GGUF_MAX_NAME                                                                              \
    255 /* bytes of a tensor's name; the format's text says 64, files exceed it                    \
         */
#define GGUF_MAX_KEY 65535

/* A name that comes from a file, as the arguments of %.*s: at most 64 bytes of it. */
#define SHOW(s) (int)NIB_MIN((s).n, (size_t)64), (s).p

/* "u32", "string", ...; NULL for an unknown id. */
const char *gguf_type_name(uint32_t type);
/* Bytes of a scalar; 0 for strings, arrays and unknown ids. */
size_t gguf_type_bytes(uint32_t type);
bool gguf_type_is_float(nib_gguf_type t);
/* Any of the integers, or bool. */
bool gguf_type_is_int(nib_gguf_type t);
/* A power of two that is a multiple of 8. */
bool gguf_alignment_ok(int64_t a);
/* The raw little-endian element at p, of an integer type or bool. A u64 above INT64_MAX comes out
 * negative. */
int64_t gguf_load_i64(nib_gguf_type t, const void *p);

/* Checks a tensor's dimensions and dtype and sets t->bytes: 1 to 4 dimensions of at least 1, rows
 * of whole blocks, a size that overflows nowhere. The message does not name the tensor. */
nib_status gguf_check_shape(nib_tensor *t, nib_error *e);
#endif
