/* The hub's list of files, and references to models: what the list lets through is a path inside a
 * repo, of a sensible size; what parses as a reference is printed and parses again as the same. */
#include <stdint.h>
#include <stdlib.h>
#include "hub/hub.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void list(const char *p, size_t n) {
    nib_hub_listing l;
    if (nib_hub_listing_read(p, n, &l, NULL) != NIB_OK) return;
    for (size_t i = 0; i < l.n; i++) {
        const nib_hub_file *f = &l.files[i];
        size_t digits = strlen(f->digest);
        if (!nib_hub_name_ok(f->name, strlen(f->name))) abort();
        if (f->size != UINT64_MAX && f->size > (uint64_t)1 << 50) abort();
        if (digits != 0 && digits != 40 && digits != 64) abort();
    }
    if (strlen(l.commit) != 40) abort();
    nib_hub_listing_free(&l);
}

static void name(const char *text) {
    nib_hub_ref r, again;
    char quant[32];
    size_t stem;
    int part, parts;
    nib_hub_quant_of(text, quant);
    nib_hub_split_of(text, &stem, &part, &parts);
    nib_hub_pick(&text, 1, "");
    if (nib_hub_parse(text, "http://hub.example", &r, NULL) != NIB_OK) return;
    const char *slash = strchr(r.repo, '/');
    if (!slash || strchr(slash + 1, '/') || strstr(r.repo, "--") || strstr(r.repo, "..")) abort();
    if (*r.want && !nib_hub_name_ok(r.want, strlen(r.want))) abort();
    if (!nib_hub_name_ok(r.revision, strlen(r.revision))) abort();
    if (nib_hub_parse(nib_hub_ref_text(&r), "http://hub.example", &again, NULL) != NIB_OK) abort();
    if (strcmp(r.repo, again.repo) != 0 || strcmp(r.want, again.want) != 0 ||
        strcmp(r.revision, again.revision) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = nib_strndup((const char *)data, size);
    if (!text) return 0;
    list((const char *)data, size);
    name(text);
    nib_free(text);
    return 0;
}
