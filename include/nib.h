/* nib.h - the public interface of libnib, and the only public header.
 *
 * Opaque handles; every fallible call returns a nib_status and, on failure, fills the caller's nib_error
 * (may be NULL). Outputs are untouched on failure. The library never prints, exits or aborts on input.
 * Unless a call says otherwise, a handle may be used by one thread at a time; a nib_model may be shared.
 * Strings are UTF-8. This header compiles alone as C11 and as C++. */
#ifndef NIB_H
#define NIB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define NIB_API __attribute__((visibility("default")))
#else
#define NIB_API
#endif

/* Status codes: X(name, short text). The codes are stable; new ones are added at the end. */
#define NIB_STATUS_LIST(X)                                                                         \
    X(OK, "ok")                                                                                    \
    X(ERR_NOMEM, "out of memory")                                                                  \
    X(ERR_IO, "input/output error")                                                                \
    X(ERR_NOT_FOUND, "not found")                                                                  \
    X(ERR_FORMAT, "malformed data")                                                                \
    X(ERR_UNSUPPORTED, "not supported")                                                            \
    X(ERR_ARGUMENT, "invalid argument")                                                            \
    X(ERR_LIMIT, "limit exceeded")                                                                 \
    X(ERR_CONTEXT, "context length exceeded")                                                      \
    X(ERR_CANCELLED, "cancelled")                                                                  \
    X(ERR_TEMPLATE, "template error")                                                              \
    X(ERR_MEMORY_FIT, "does not fit in memory")                                                    \
    X(ERR_INTERNAL, "internal error")

typedef enum nib_status {
#define NIB_STATUS_ENUM(name, text) NIB_##name,
    NIB_STATUS_LIST(NIB_STATUS_ENUM)
#undef NIB_STATUS_ENUM
} nib_status;

/* One line that says what was expected, what was found and what to do. */
typedef struct nib_error {
    nib_status code;
    char message[500];
} nib_error;

/* The short text of a status; never NULL. */
NIB_API const char *nib_status_text(nib_status s);
/* The library's version, as "0.1.0". */
NIB_API const char *nib_version(void);

#ifdef __cplusplus
}
#endif
#endif
