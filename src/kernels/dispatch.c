/* Chooses the kernels: scalar first, then each instruction set of isa.def that this machine has. */
#include <pthread.h>
#include <stdlib.h>
#include "kernels/kernels.h"
#include "kernels/internal.h"

/* A set may lack either half (its file is absent, or for another processor): CMake defines
 * NIB_HAS_mm_<prefix> and NIB_HAS_vec_<prefix> as 1 or 0. */
#define PRESENT_0(fn)     NULL
#define PRESENT_1(fn)     fn
#define PRESENT_(has, fn) PRESENT_##has(fn)
#define PRESENT(has, fn)  PRESENT_(has, fn)

typedef struct isa_row {
    const char *prefix, *needs;
    void (*mm)(nib_kernels *k);
    void (*vec)(nib_kernels *k);
} isa_row;
static const isa_row rows[] = {
#define NIB_ISA(prefix, cpu, flags, needs)                                                         \
    {#prefix, needs, PRESENT(NIB_HAS_mm_##prefix, nib_##prefix##_mm),                              \
     PRESENT(NIB_HAS_vec_##prefix, nib_##prefix##_vec)},
#include "kernels/isa.def"
#undef NIB_ISA
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static nib_kernels sets[N_ROWS];
static bool supported[N_ROWS];
static int best;
static char features[512];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool has(const char *feature, size_t n) {
    const char *p = features;
    while ((p = strstr(p, feature)) != NULL) {
        /* strstr finds prefixes too: compare the whole word */
        if ((p == features || p[-1] == ' ') && (p[n] == ' ' || p[n] == 0)) return true;
        p += n;
    }
    return false;
}

static bool has_all(const char *needs) {
    char word[32];
    while (*needs) {
        size_t n = strcspn(needs, " ");
        if (n >= sizeof word) return false;
        memcpy(word, needs, n);
        word[n] = 0;
        if (!has(word, n)) return false;
        needs += n + (needs[n] == ' ');
    }
    return true;
}

/* NIB_CPU may give a row's name with or without its processor prefix: x86_avx2 or avx2. */
static bool is_named(const isa_row *r, const char *name) {
    const char *bare = strchr(r->prefix, '_');
    return strcmp(r->prefix, name) == 0 || (bare && strcmp(bare + 1, name) == 0);
}

static void init(void) {
    nib_cpu_detect(features, sizeof features);
    nib_kernels k = {0};
    const char *limit = getenv("NIB_CPU");
    bool open = true;
    for (int i = 0; i < N_ROWS; i++) {
        const isa_row *r = &rows[i];
        supported[i] = (r->mm || r->vec) && has_all(r->needs);
        if (supported[i]) {
            if (r->mm) r->mm(&k);
            if (r->vec) r->vec(&k);
            const char *bare = strchr(r->prefix, '_');
            k.name = bare ? bare + 1 : r->prefix;
            if (open) best = i;
        }
        sets[i] = k;
        if (limit && is_named(r, limit)) open = false;
    }
}

const nib_kernels *nib_kernels_get(void) {
    pthread_once(&once, init);
    return &sets[best];
}

const nib_kernels *nib_kernels_upto(const char *isa) {
    pthread_once(&once, init);
    for (int i = 0; i < N_ROWS; i++)
        if (is_named(&rows[i], isa)) return supported[i] ? &sets[i] : NULL;
    return NULL;
}

const char *nib_cpu_features(void) {
    pthread_once(&once, init);
    return features;
}
