/* The file of a page: whatever lies in its place, what is taken for the page is the page, and what
 * is not is removed. The corpus holds one that is right. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "kvdisk/kvdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGE_BYTES = 128 };
static char folder[64], path[256];
static nib_kvdisk *disk;
static nib_page_store store;
static nib_page_key key;
static int32_t tokens[NIB_PAGE];
static uint8_t page[PAGE_BYTES];

static void tidy(void) {
    nib_kvdisk_forget(disk, 1);
    nib_kvdisk_close(disk);
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command)) abort();
}

static void start(void) {
    static const uint8_t secret[16] = "of the corpus", identity[16] = "of a model";
    const nib_page_key before = {{0}};
    nib_error e;
    snprintf(folder, sizeof folder, "/tmp/nib-fuzz-kvdisk-%ld", (long)getpid());
    if (nib_kvdisk_open(&disk, folder, secret, 1 << 20, &e) != NIB_OK ||
        nib_kvdisk_bind(disk, identity, PAGE_BYTES, &store, &e) != NIB_OK)
        abort();
    for (int i = 0; i < NIB_PAGE; i++) tokens[i] = 3 * i;
    for (int i = 0; i < PAGE_BYTES; i++) page[i] = (uint8_t)i;
    store.name(store.arg, &before, tokens, &key);
    if (!store.keep(store.arg, 1, &key, tokens, page)) abort(); /* makes its folder */
    char find[300];
    snprintf(find, sizeof find, "find %s -name '*.kv'", folder);
    FILE *f = popen(find, "r");
    if (!f || !fgets(path, sizeof path, f) || pclose(f)) abort();
    path[strcspn(path, "\n")] = 0;
    atexit(tidy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool started;
    uint8_t got[PAGE_BYTES];
    if (!started) start();
    started = true;
    FILE *f = fopen(path, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f)) abort();
    bool found = store.fetch(store.arg, 1, &key, tokens, got);
    if (found && memcmp(got, page, sizeof got) != 0) abort();
    if (found != (access(path, F_OK) == 0)) abort();
    return 0;
}
