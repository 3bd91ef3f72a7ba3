/* base - what every room stands on: errors, memory, strings, files, threads, random numbers.
 *
 * Rules kept here and relied on everywhere:
 *  - all heap memory comes from nib_alloc & co., so tests can fail the n-th allocation and count
 * them;
 *  - sizes that come from outside are multiplied with nib_mul_size, never with a bare '*';
 *  - a growing buffer has a maximum; a file appears under its final name only when whole. */
#ifndef NIB_BASE_H
#define NIB_BASE_H
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include "nib.h"

#define NIB_PRINTF(f, a)    __attribute__((format(printf, f, a)))
#define NIB_ARRAY_LEN(a)    (sizeof(a) / sizeof((a)[0]))
#define NIB_MIN(a, b)       ((a) < (b) ? (a) : (b))
#define NIB_MAX(a, b)       ((a) > (b) ? (a) : (b))
#define NIB_ROUND_UP(n, to) (((n) + (to)-1) / (to) * (to))

/* ---- errors (error.c) ---- */

/* Fills *e (when not NULL) and returns code, so that failing is one statement. */
nib_status nib_fail(nib_error *e, nib_status code, const char *fmt, ...) NIB_PRINTF(3, 4);
/* Puts "text: " in front of e->message, e.g. the file an inner error happened in; returns e's code
 * (code when e is NULL). */
nib_status nib_fail_in(nib_error *e, nib_status code, const char *fmt, ...) NIB_PRINTF(3, 4);
#define NIB_TRY(call)                                                                              \
    do {                                                                                           \
        nib_status nib_try_ = (call);                                                              \
        if (nib_try_ != NIB_OK) return nib_try_;                                                   \
    } while (0)
/* The same, with cleanup: needs a local 'nib_status s' and a label 'out'. */
#define NIB_TRY_OUT(call)                                                                          \
    do {                                                                                           \
        if ((s = (call)) != NIB_OK) goto out;                                                      \
    } while (0)
/* "out of memory: N bytes for WHAT" */
nib_status nib_fail_nomem(nib_error *e, size_t bytes, const char *what);
/* A failure is never NIB_OK: said to the compiler too, so that it does not warn of outputs that
 * only success sets. */
static inline nib_status nib_failed(nib_status s) {
    if (s == NIB_OK) __builtin_unreachable();
    return s;
}
#define nib_fail(...)       nib_failed(nib_fail(__VA_ARGS__))
#define nib_fail_in(...)    nib_failed(nib_fail_in(__VA_ARGS__))
#define nib_fail_nomem(...) nib_failed(nib_fail_nomem(__VA_ARGS__))

/* ---- memory (alloc.c) ---- */

/* As malloc/calloc/realloc, and free (nib_free, in nib.h); NULL on failure, size 0 gives a valid
 * pointer. Any thread. */
void *nib_alloc(size_t bytes);
void *nib_calloc(size_t n, size_t bytes);
void *nib_realloc(void *p, size_t bytes);
char *nib_strdup(const char *s);
char *nib_strndup(const char *s, size_t n);
/* Zeroed, 64-byte aligned (page-aligned), huge pages asked for when large; released with the same
 * size. For weights, KV and scratch. */
void *nib_alloc_pages(size_t bytes);
void nib_free_pages(void *p, size_t bytes);
/* The content of [p, p + bytes), a part of such an allocation, is not needed any more: its whole
 * pages go back to the system and read as zeros until they are written. */
void nib_drop_pages(void *p, size_t bytes);
/* Gives memory that was freed back to the system, where the allocator kept it. Any thread. */
void nib_alloc_trim(void);
/* false when a*b overflows; else *out = a*b. */
bool nib_mul_size(size_t a, size_t b, size_t *out);
/* Test hooks: the n-th allocation from now fails (0: none); the number of allocations so far. */
void nib_alloc_fail_after(long n);
long nib_alloc_count(void);

/* An arena: many allocations, one lifetime. Not thread-safe. */
typedef struct nib_arena {
    struct nib_arena_block *head;
    size_t used, max; /* bytes; max 0 = 16 GiB */
} nib_arena;
void nib_arena_init(nib_arena *a, size_t max_bytes);
/* Uninitialised, 16-byte aligned; NULL when out of memory or over max. */
void *nib_arena_alloc(nib_arena *a, size_t bytes);
void *nib_arena_calloc(nib_arena *a, size_t n, size_t bytes);
char *nib_arena_strndup(nib_arena *a, const char *s, size_t n);
void nib_arena_reset(nib_arena *a); /* forgets all, keeps the first block */
void nib_arena_free(nib_arena *a);

/* A growing byte buffer with a maximum. Zero-initialise with a max (0 = 1 GiB). data is
 * NUL-terminated after every successful put. After a failed put the buffer is unchanged and
 * 'failed' stays set, so a chain of puts may be checked once. */
typedef struct nib_buf {
    char *data;
    size_t len, cap, max;
    bool failed;
} nib_buf;
bool nib_buf_put(nib_buf *b, const void *p, size_t n);
bool nib_buf_puts(nib_buf *b, const char *s);
bool nib_buf_putc(nib_buf *b, char c);
bool nib_buf_printf(nib_buf *b, const char *fmt, ...) NIB_PRINTF(2, 3);
bool nib_buf_reserve(nib_buf *b, size_t n_more);
void nib_buf_clear(nib_buf *b); /* len = 0, keeps memory */
void nib_buf_free(nib_buf *b);

/* A growing array of int32, used for token ids. Same rules as nib_buf (max in items, 0 = 2^28). */
typedef struct nib_ids {
    int32_t *data;
    size_t len, cap, max;
    bool failed;
} nib_ids;
bool nib_ids_push(nib_ids *v, int32_t id);
bool nib_ids_append(nib_ids *v, const int32_t *p, size_t n);
void nib_ids_free(nib_ids *v);

/* ---- strings (str.c, strmap.c, utf8.c) ---- */

/* A view of bytes that someone else owns; not NUL-terminated. */
typedef struct nib_str {
    const char *p;
    size_t n;
} nib_str;
#define NIB_STR(lit) ((nib_str){(lit), sizeof(lit) - 1})
nib_str nib_str_c(const char *s);
bool nib_str_eq(nib_str a, nib_str b);
bool nib_str_eq_c(nib_str a, const char *s);
bool nib_str_starts(nib_str s, nib_str prefix);
/* Edit distance (Damerau-Levenshtein, optimal string alignment) of byte strings, at most 'limit'
 * (then limit). */
size_t nib_str_distance(nib_str a, nib_str b, size_t limit);
/* The candidate nearest to s, or NULL when none is near enough to be worth suggesting. */
const char *nib_str_nearest(const char *s, const char *const *candidates, size_t n);

/* A string -> u32 hash map; keys are not copied and must outlive the map. */
typedef struct nib_strmap {
    struct nib_strmap_slot *slots;
    size_t len, cap;
} nib_strmap;
bool nib_strmap_reserve(nib_strmap *m, size_t n);
/* Adds or replaces; false when out of memory. */
bool nib_strmap_set(nib_strmap *m, nib_str key, uint32_t value);
bool nib_strmap_get(const nib_strmap *m, nib_str key, uint32_t *value);
void nib_strmap_free(nib_strmap *m);
uint64_t nib_hash(const void *p, size_t n, uint64_t seed);

/* Decodes one character of p[0..n). Returns the bytes consumed (1..4, n > 0) and the code point, or
 * -1 in *cp for an invalid sequence, whose maximal invalid prefix is consumed (Unicode 3.9, best
 * practice). */
size_t nib_utf8_decode(const char *p, size_t n, int32_t *cp);
/* Writes 1..4 bytes; returns how many (U+FFFD for an invalid cp). */
size_t nib_utf8_encode(int32_t cp, char out[4]);
/* The length of the longest prefix that ends on a character boundary: bytes after it are an
 * incomplete character that more input could complete. */
size_t nib_utf8_complete(const char *p, size_t n);
bool nib_utf8_valid(const char *p, size_t n);

/* ---- values that people type (parse.c) ---- */

/* Whole numbers and decimals, of the whole text, in [min, max]; 'what' names the value in the
 * error. */
nib_status nib_parse_int(const char *what, const char *text, double min, double max, int64_t *out,
                         nib_error *e);
nib_status nib_parse_num(const char *what, const char *text, double min, double max, double *out,
                         nib_error *e);
/* Bytes: "800M", "1.5G", "2GiB", plain bytes. */
nib_status nib_parse_bytes(const char *what, const char *text, uint64_t *out, nib_error *e);
/* The index of text among the |-separated words of 'choices'. */
nib_status nib_parse_choice(const char *what, const char *text, const char *choices, int *out,
                            nib_error *e);

/* ---- log (log.c) ---- */
typedef enum nib_log_level {
    NIB_LOG_ERROR,
    NIB_LOG_WARN,
    NIB_LOG_INFO,
    NIB_LOG_DEBUG
} nib_log_level;
typedef void (*nib_log_fn)(void *arg, nib_log_level level, const char *line);
/* Process-wide; the default receiver drops everything. Any thread may log. */
void nib_log_set(nib_log_fn fn, void *arg, nib_log_level max_level);
void nib_log(nib_log_level level, const char *fmt, ...) NIB_PRINTF(2, 3);

/* ---- files (file.c) ---- */

/* Which file it is, and whether it was written since: all of it is equal, or it is another file. */
typedef struct nib_filestamp {
    uint64_t dev, ino, size, mtime_ns, ctime_ns;
} nib_filestamp;
nib_status nib_file_stamp(const char *path, nib_filestamp *out, nib_error *e);

/* A read-only mapping of a regular file. */
typedef struct nib_filemap {
    const uint8_t *data;
    size_t size;
    nib_filestamp stamp; /* when it was opened */
} nib_filemap;
/* Errors name the path and say what it is when it is no regular file. An empty file maps to size 0.
 */
nib_status nib_filemap_open(nib_filemap *m, const char *path, nib_error *e);
void nib_filemap_close(nib_filemap *m);
/* Reads a whole file (at most max bytes) or standard input for "-". */
nib_status nib_file_read(const char *path, size_t max, nib_buf *out, nib_error *e);

/* A file that is written beside its final name and renamed there when whole. */
typedef struct nib_outfile {
    FILE *f;
    char *path, *temp;
} nib_outfile;
nib_status nib_outfile_open(nib_outfile *o, const char *path, nib_error *e);
/* Flushes to disk and renames; on failure the temporary file is removed. */
nib_status nib_outfile_commit(nib_outfile *o, nib_error *e);
void nib_outfile_abort(nib_outfile *o); /* harmless after commit */
nib_status nib_file_write(const char *path, const void *p, size_t n, nib_error *e);

/* ---- threads (pool.c) ---- */

/* A pool of n-1 workers and the calling thread. nib_pool_run has every thread call fn(arg, tid, n)
 * and returns when all have; inside fn, nib_pool_barrier is a meeting of all n. Workers spin ~20 us
 * for the next job, then sleep. One caller at a time. */
typedef struct nib_pool nib_pool;
typedef void (*nib_pool_fn)(void *arg, int tid, int n_threads);
nib_status nib_pool_create(nib_pool **out, int n_threads,
                           nib_error *e); /* 1..256; pins when n <= cores */
void nib_pool_free(nib_pool *p);
int nib_pool_size(const nib_pool *p);
void nib_pool_run(nib_pool *p, nib_pool_fn fn, void *arg);
void nib_pool_barrier(nib_pool *p);
/* A number every thread of the pool may take from: the next chunk of a dynamic phase. Reset by
 * thread 0 between two barriers. */
typedef struct nib_counter {
    _Alignas(64) atomic_int_fast64_t v;
} nib_counter;
int64_t nib_counter_take(nib_counter *c, int64_t n); /* returns the old value */

/* ---- random numbers (rng.c) ---- */

/* Counter-based (SplitMix64 of seed and counter): state is two numbers that can be saved and
 * rewound. */
typedef struct nib_rng {
    uint64_t seed, counter;
} nib_rng;
uint64_t nib_rng_u64(nib_rng *r);
double nib_rng_double(nib_rng *r); /* [0, 1), 53 bits */
float nib_rng_normal(nib_rng *r);
uint64_t nib_entropy(void); /* from the system, for "no seed given" */

/* ---- machine (sysinfo.c) ---- */
typedef struct nib_sysinfo {
    int n_cpu;              /* logical processors this process may use (affinity, cgroup quota) */
    int n_core;             /* physical cores among them */
    uint64_t mem_total;     /* bytes */
    uint64_t mem_available; /* bytes: MemAvailable, bounded by the cgroup's limit */
    uint64_t cgroup_limit;  /* bytes; 0 = none */
    char cpu_name[96];
} nib_sysinfo;
void nib_sysinfo_read(nib_sysinfo *s);
uint64_t nib_rss(void); /* resident bytes of this process */
double nib_now(void);   /* monotonic seconds */

/* ---- JSON (json.c): jansson behind a thin face ---- */
struct json_t;
/* Parses exactly one value; nesting at most 200, duplicate keys refused. Errors give line and
 * column. */
nib_status nib_json_parse(const char *p, size_t n, struct json_t **out, nib_error *e);
/* Appends v as compact JSON (doubles with 9 significant digits). */
nib_status nib_json_write(const struct json_t *v, nib_buf *out, nib_error *e);

#endif
