/* Runs a fuzz target over files and folders given as arguments, then over seeded mutations of each:
 * the corpus as a plain test, with any compiler.
 * NIB_FUZZ_MUTATIONS (default 40) mutations a file, from NIB_FUZZ_SEED (default 1). */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state = 1;
static uint64_t next_random(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static long n_files, n_runs, n_mutations = 40;

static size_t mutate(uint8_t *p, size_t n) {
    static const uint64_t wild[] = {0,
                                    1,
                                    0x7f,
                                    0xff,
                                    0x7fff,
                                    0xffff,
                                    0x7fffffff,
                                    0xffffffff,
                                    0x7fffffffffffffffu,
                                    0xffffffffffffffffu,
                                    0x100000000u};
    int n_edits = 1 + (int)(next_random() % 4);
    for (int i = 0; i < n_edits && n > 0; i++) {
        size_t at = (size_t)(next_random() % n);
        if (next_random() % 2) at = (size_t)(next_random() % (n < 512 ? n : 512)); /* headers */
        uint64_t w = wild[next_random() % (sizeof wild / sizeof *wild)];
        size_t len = (size_t)1 << (next_random() % 4);
        switch (next_random() % 5) {
        case 0: p[at] ^= (uint8_t)(1u << (next_random() % 8)); break;
        case 1: p[at] = (uint8_t)next_random(); break;
        case 2: memcpy(p + at, &w, at + len <= n ? len : n - at); break;
        case 3: n = at; break;
        default: {
            size_t from = (size_t)(next_random() % n);
            size_t m = next_random() % 32;
            if (from + m > n) m = n - from;
            if (at + m > n) m = n - at;
            memmove(p + at, p + from, m);
        }
        }
    }
    return n;
}

static void run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    uint8_t *whole = malloc((size_t)n + 1);
    if (!whole || fread(whole, 1, (size_t)n, f) != (size_t)n) exit(1);
    fclose(f);
    n_files++;
    for (long i = 0; i <= n_mutations; i++) {
        uint8_t *p =
            malloc((size_t)n ? (size_t)n : 1); /* exact size: a read past the end is seen */
        if (!p) exit(1);
        memcpy(p, whole, (size_t)n);
        LLVMFuzzerTestOneInput(p, i ? mutate(p, (size_t)n) : (size_t)n);
        n_runs++;
        free(p);
    }
    free(whole);
}

static void run_path(const char *path) {
    struct stat st;
    if (stat(path, &st)) {
        perror(path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **list;
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (list[i]->d_name[0] != '.') {
            char sub[4096];
            snprintf(sub, sizeof sub, "%s/%s", path, list[i]->d_name);
            run_path(sub);
        }
        free(list[i]);
    }
    if (n >= 0) free(list);
}

int main(int argc, char **argv) {
    const char *s = getenv("NIB_FUZZ_MUTATIONS");
    if (s) n_mutations = atol(s);
    if ((s = getenv("NIB_FUZZ_SEED"))) state = strtoull(s, NULL, 10);
    for (int i = 1; i < argc; i++) run_path(argv[i]);
    printf("%ld files, %ld inputs, no finding\n", n_files, n_runs);
    return n_files ? 0 : 1;
}
