/* nib: the command. */
#include <stdio.h>
#include "base/base.h"
int main(void) {
    printf("nib %s\n", nib_version());
    return 0;
}
