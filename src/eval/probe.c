/* What the machine can do: memory read from several streams a thread, the best number of them, and
 * 8-bit multiply-adds from registers with the best instruction the kernels use. Beside these a
 * model's speed is a share, which other machines can be compared by. */
#include "eval/eval.h"

/* How many streams a thread reads at once: what suits a machine best differs. */
static const int stream_counts[] = {2, 4, 8};
enum { RUN = 256 };

typedef struct read_job {
    const uint8_t *p;
    size_t bytes;
    int streams;
    atomic_uint_fast64_t sink; /* so that nothing is optimised away */
} read_job;

/* The same loop for several widths of vector: with narrow loads a processor runs out of room for
 * loads in flight before memory is busy. */
#define NIB_READ(name, target, type)                                                               \
    target static void name(const uint8_t *base, size_t part, int streams, uint64_t *out) {        \
        type a = {0}, b = {0}, c = {0}, d = {0};                                                   \
        for (size_t at = 0; at < part; at += RUN)                                                  \
            for (int s = 0; s < streams; s++) {                                                    \
                const type *p = (const type *)(const void *)(base + (size_t)s * part + at);        \
                for (size_t i = 0; i < RUN / sizeof *p; i += 4)                                    \
                    a |= p[i], b |= p[i + 1], c |= p[i + 2], d |= p[i + 3];                        \
            }                                                                                      \
        a |= b | c | d;                                                                            \
        *out = a[0];                                                                               \
    }
typedef uint64_t wide128 __attribute__((vector_size(16)));
NIB_READ(read_128, , wide128)
#if defined(__x86_64__)
typedef uint64_t wide256 __attribute__((vector_size(32)));
typedef uint64_t wide512 __attribute__((vector_size(64)));
NIB_READ(read_256, __attribute__((target("avx2"))), wide256)
NIB_READ(read_512, __attribute__((target("avx512f"))), wide512)
#endif

static void read_streams(void *arg, int tid, int n) {
    read_job *j = arg;
    size_t part = j->bytes / (size_t)n / (size_t)j->streams / RUN * RUN;
    const uint8_t *base = j->p + (size_t)(tid * j->streams) * part;
    uint64_t sum;
#if defined(__x86_64__)
    if (nib_kernels_upto("avx512"))
        read_512(base, part, j->streams, &sum);
    else if (nib_kernels_upto("avx2"))
        read_256(base, part, j->streams, &sum);
    else
#endif
        read_128(base, part, j->streams, &sum);
    atomic_fetch_or(&j->sink, sum);
}

typedef struct dot_job {
    double ops; /* of one thread */
    bool wide;
} dot_job;
enum { ROUNDS = 2000000 };

#if defined(__x86_64__)
#define NIB_TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define NIB_CLOBBERS                                                                               \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"
#define NIB_DOT(i) "vpdpbusd %%zmm31, %%zmm31, %%zmm" #i "\n"
__attribute__((target("avx512f,avx512vnni"))) static void dots_512(void) {
    for (int i = 0; i < ROUNDS; i++) __asm__ volatile(NIB_TWELVE(NIB_DOT)::: NIB_CLOBBERS);
}
/* Without VNNI a product of 32 pairs takes three instructions; the first two bound it. */
#define NIB_PAIRS(i) "vpmaddubsw %%ymm15, %%ymm14, %%ymm" #i "\n"
__attribute__((target("avx2"))) static void dots_256(void) {
    for (int i = 0; i < ROUNDS; i++) __asm__ volatile(NIB_TWELVE(NIB_PAIRS)::: NIB_CLOBBERS);
}
static void dots(void *arg, int tid, int n) {
    dot_job *j = arg;
    (void)n;
    if (tid == 0) j->ops = (double)ROUNDS * 12 * (j->wide ? 64 : 32) * 2;
    if (j->wide)
        dots_512();
    else
        dots_256();
}
#else
static void dots(void *arg, int tid, int n) { /* unknown here */
    (void)tid, (void)n;
    ((dot_job *)arg)->ops = 0;
}
#endif

static double timed(nib_pool *pool, nib_pool_fn fn, void *arg) {
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double t = nib_now();
        nib_pool_run(pool, fn, arg);
        best = NIB_MIN(best, nib_now() - t);
    }
    return best;
}

nib_status nib_probe_machine(nib_probe *out, int n_threads, nib_error *e) {
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    nib_pool *pool;
    NIB_TRY(nib_pool_create(&pool, n_threads ? n_threads : si.n_core, e));
    read_job r = {.bytes = (size_t)512 << 20};
    if (si.mem_available / 4 < r.bytes) r.bytes = (size_t)(si.mem_available / 4);
    uint8_t *p = nib_alloc_pages(r.bytes);
    if (!p) {
        nib_pool_free(pool);
        return nib_fail_nomem(e, r.bytes, "the memory probe");
    }
    memset(p, 1, r.bytes);
    r.p = p;
    out->read_bytes_per_s = 0;
    for (size_t i = 0; i < NIB_ARRAY_LEN(stream_counts); i++) {
        r.streams = stream_counts[i];
        double speed = (double)r.bytes / timed(pool, read_streams, &r);
        out->read_bytes_per_s = NIB_MAX(out->read_bytes_per_s, speed);
    }
    dot_job d = {.wide = nib_kernels_upto("avx512") != NULL};
    double seconds = timed(pool, dots, &d);
    out->int8_ops_per_s = d.ops * nib_pool_size(pool) / seconds;
    nib_free_pages(p, r.bytes);
    nib_pool_free(pool);
    return NIB_OK;
}
