#include "server/internal.h"
void nib_apis_free(nib_server *s) {
    (void)s;
}
