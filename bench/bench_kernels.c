/* Speed of the matrix kernels, one format and number of tokens at a time.
 *
 *   bench_kernels [isa=NAME] [fast=1] [threads=N] [n=ROWS] [k=COLUMNS] [mb=MEGABYTES] [ms=N]
 * [t=1,2,512] [FORMAT ...]
 *
 * Weights of one line are several matrices of [n, k], together larger than mb, so that they come
 * from memory, as a model's do, unless mb is small. Each figure is the best of several passes, in
 * processor time. GB/s counts weight bytes. Beside it stands the share of what this machine did a
 * moment before: reading memory from four streams a thread, and for x86 vpdpbusd or fused
 * multiply-adds from registers. Machines whose cores are shared drift: compare neighbours.
 */
#include <stdlib.h>
#include <time.h>
#include "kernels/kernels.h"

static const char *arg(int argc, char **argv, const char *key, const char *fallback) {
    size_t n = strlen(key);
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], key, n) && argv[i][n] == '=') return argv[i] + n + 1;
    return fallback;
}

/* ---- what the machine can do ---- */

typedef struct probe {
    const uint8_t *p;
    size_t bytes;
    double ops;
    _Atomic uint64_t sink;
} probe;

static void read_streams(void *arg_, int tid, int n) {
    probe *o = arg_;
    enum { STREAMS = 4, RUN = 512 };
    size_t part = o->bytes / (size_t)n / STREAMS / RUN * RUN;
    const uint8_t *base = o->p + (size_t)tid * STREAMS * part;
    uint64_t sum[8] = {0};
    for (size_t at = 0; at < part; at += RUN)
        for (int s = 0; s < STREAMS; s++) {
            const uint64_t *p = (const uint64_t *)(const void *)(base + (size_t)s * part + at);
            for (int i = 0; i < RUN / 8; i += 8)
                for (int j = 0; j < 8; j++) sum[j] |= p[i + j];
        }
    for (int j = 1; j < 8; j++) sum[0] |= sum[j];
    atomic_fetch_or(&o->sink, sum[0]);
}

#if defined(__x86_64__)
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define ONE(i)    "vpdpbusd %%zmm31, %%zmm31, %%zmm" #i "\n"
__attribute__((target("avx512f,avx512vnni"))) static void many_dots(void *arg_, int tid, int n) {
    (void)tid, (void)n, (void)arg_;
    for (int i = 0; i < 500000; i++)
        __asm__ volatile(TWELVE(ONE)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                               "xmm8", "xmm9", "xmm10", "xmm11");
}
#undef ONE
#define ONE(i) "vfmadd231ps %%ymm15, %%ymm15, %%ymm" #i "\n"
__attribute__((target("avx2,fma"))) static void many_fmas(void *arg_, int tid, int n) {
    (void)tid, (void)n, (void)arg_;
    for (int i = 0; i < 500000; i++)
        __asm__ volatile(TWELVE(ONE)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                               "xmm8", "xmm9", "xmm10", "xmm11");
}
#endif

/* Processor time of the busiest thread: waiting for a core is not the kernels' doing. */
typedef struct timed {
    nib_pool_fn fn;
    void *arg;
    double seconds[256];
} timed;

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_timed(void *arg_, int tid, int n) {
    timed *o = arg_;
    double t = thread_seconds();
    o->fn(o->arg, tid, n);
    o->seconds[tid] = thread_seconds() - t;
}

static double rate_of(nib_pool *pool, nib_pool_fn fn, void *arg_, double work) {
    timed o = {.fn = fn, .arg = arg_};
    nib_pool_run(pool, run_timed, &o);
    double most = 0;
    for (int i = 0; i < nib_pool_size(pool); i++) most = NIB_MAX(most, o.seconds[i]);
    return work / most;
}

/* ---- products ---- */

typedef struct run {
    void (*matmul)(const nib_mat *w, const nib_act *a, int64_t p0, int64_t p1, float *y,
                   int64_t ldy, void *scratch);
    nib_mat *w;
    int n_mats;
    nib_act a;
    float *y;
    uint8_t *scratch;
    size_t scratch_bytes;
} run;

static void all_products(void *arg_, int tid, int n) {
    run *o = arg_;
    for (int i = 0; i < o->n_mats; i++) {
        int64_t panels = (o->w[i].n + NIB_PANEL - 1) / NIB_PANEL;
        int64_t p0 = panels * tid / n, p1 = panels * (tid + 1) / n;
        o->matmul(&o->w[i], &o->a, p0, p1, o->y, o->w[i].n,
                  o->scratch + (size_t)tid * o->scratch_bytes);
    }
}

static void *take(size_t n) {
    void *p = nib_alloc_pages(n);
    if (!p) {
        fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", n);
        exit(1);
    }
    return p;
}

int main(int argc, char **argv) {
    const char *isa = arg(argc, argv, "isa", NULL);
    const nib_kernels *k = isa ? nib_kernels_upto(isa) : nib_kernels_get();
    if (!k) {
        fprintf(stderr, "bench_kernels: this machine has no '%s'\n", isa);
        return 1;
    }
    bool fast = atoi(arg(argc, argv, "fast", "0")) && k->matmul_fast;
    nib_sysinfo si;
    nib_sysinfo_read(&si);
    int threads = atoi(arg(argc, argv, "threads", "0"));
    double seconds = atof(arg(argc, argv, "ms", "200")) * 1e-3;
    if (threads < 1) threads = si.n_core;
    int64_t n = atoll(arg(argc, argv, "n", "2048")), cols = atoll(arg(argc, argv, "k", "2048"));
    size_t bytes = (size_t)atoll(arg(argc, argv, "mb", "300")) << 20;
    const char *tokens = arg(argc, argv, "t", "1,2,4,8,16,64,512");
    nib_pool *pool;
    nib_error e = {0};
    if (nib_pool_create(&pool, threads, &e) != NIB_OK) {
        fprintf(stderr, "bench_kernels: %s\n", e.message);
        return 1;
    }
    printf("%s, set %s%s, %d threads, N %lld, K %lld\n", si.cpu_name, k->name,
           fast ? " (fast)" : "", threads, (long long)n, (long long)cols);

    /* one matrix at least, of floats at most */
    size_t largest = (size_t)NIB_ROUND_UP(n, 16) * (size_t)cols * sizeof(float);
    size_t pool_bytes = NIB_MAX(bytes, largest) + ((size_t)1 << 20);
    uint8_t *memory = take(pool_bytes);
    nib_rng rng = {.seed = 1};
    for (size_t i = 0; i + 8 <= pool_bytes; i += 8) { /* numbers of ordinary size in every format */
        uint64_t r = (nib_rng_u64(&rng) & 0x0f0f0f0f0f0f0f0fu) | 0x3030303030303030u;
        memcpy(memory + i, &r, 8);
    }
    printf("%-8s %5s %10s %9s %8s %8s\n", "format", "T", "us", "GB/s", "Gop/s", "of peak");
    static const nib_dtype all[] = {
#define NIB_DTYPE(NAME, ...) NIB_##NAME,
#include "tensor/dtypes.def"
#undef NIB_DTYPE
    };
    bool some = false;
    for (int i = 1; i < argc; i++) some |= !strchr(argv[i], '=');
    for (size_t f = 0; f < NIB_ARRAY_LEN(all); f++) {
        const char *name = nib_dtype_get(all[f])->name;
        bool wanted = !some && nib_mat_can_pack(all[f], cols);
        for (int i = 1; i < argc; i++) wanted |= !strcmp(argv[i], name);
        if (!wanted || cols % nib_dtype_get(all[f])->block_len) continue;
        if (fast && !nib_mat_can_fast(all[f], cols)) continue;
        bool packed = nib_mat_can_pack(all[f], cols);
        size_t stride = packed ? nib_mat_panel_bytes(all[f], cols) : nib_dtype_bytes(all[f], cols);
        size_t mat = stride * (size_t)(packed ? (n + 15) / 16 : n);
        int n_mats = (int)NIB_MIN(NIB_MAX(1, bytes / mat), 4096);
        nib_mat *w = take((size_t)n_mats * sizeof *w);
        for (int i = 0; i < n_mats; i++)
            w[i] = (nib_mat){
                all[f], packed, n, cols, memory + (size_t)i * (bytes / (size_t)n_mats) / 64 * 64,
                stride};
        for (const char *p = tokens; *p;) {
            char *end;
            int64_t n_tok = strtoll(p, &end, 10);
            p = *end ? end + 1 : end;
            run o = {.matmul = fast ? k->matmul_fast : k->matmul, .w = w, .n_mats = n_mats};
            size_t act = nib_act_bytes(n_tok, cols), out = (size_t)(n_tok * n) * 4;
            size_t in = (size_t)(n_tok * cols) * 4;
            void *mem = take(act);
            float *x = take(in);
            for (int64_t i = 0; i < n_tok * cols; i++) x[i] = nib_rng_normal(&rng);
            nib_act_bind(&o.a, mem, n_tok, cols);
            o.a.x = x;
            o.a.ldx = cols;
            k->quantise(x, cols, 0, n_tok, &o.a);
            nib_act_tile(&o.a, 0, n_tok);
            if (fast)
                k->quantise_fast(x, cols, 0, n_tok, &o.a);
            else if (cols % 256 == 0)
                k->quantise_k(x, cols, 0, n_tok, &o.a);
            o.scratch_bytes = NIB_ROUND_UP(nib_matmul_scratch(n_tok, cols), (size_t)64);
            o.scratch = take(o.scratch_bytes * (size_t)threads);
            o.y = take(out);
            double ops = 2.0 * (double)n_tok * (double)n * (double)cols * o.n_mats;
            probe pr = {.p = memory, .bytes = bytes};
            double rate = 0, peak = 0;
            /* Many short passes: some fall between the neighbours' turns. Probes now and then. */
            double spent = 0, since = 1;
            for (int i = 0; i < 3 || spent < seconds; i++) {
                double r = rate_of(pool, all_products, &o, ops);
                rate = NIB_MAX(rate, r);
                spent += ops / r;
                since += ops / r;
                if (since < seconds / 8) continue;
                since = 0;
                if (n_tok < 16)
                    peak = NIB_MAX(peak, rate_of(pool, read_streams, &pr, (double)bytes));
#if defined(__x86_64__)
                else if (nib_mat_act(all[f]) != NIB_ACT_F32 &&
                         strstr(nib_cpu_features(), "avx512vnni"))
                    peak = NIB_MAX(peak, rate_of(pool, many_dots, &pr, 6e6 * 128 * threads));
                else if (strstr(nib_cpu_features(), "fma"))
                    peak = NIB_MAX(peak, rate_of(pool, many_fmas, &pr, 6e6 * 16 * threads));
#endif
            }
            double us = ops / o.n_mats / rate * 1e6,
                   gb = (double)mat * rate / (ops / o.n_mats) * 1e-9;
            double share = n_tok < 16 ? gb * 1e9 / peak : rate / peak;
            printf("%-8s %5lld %10.1f %9.2f %8.1f %7.0f%%\n", name, (long long)n_tok, us, gb,
                   rate * 1e-9, 100 * share);
            fflush(stdout);
            nib_free_pages(o.y, out);
            nib_free_pages(o.scratch, o.scratch_bytes * (size_t)threads);
            nib_free_pages(x, in);
            nib_free_pages(mem, act);
        }
        nib_free_pages(w, (size_t)n_mats * sizeof *w);
    }
    nib_free_pages(memory, pool_bytes);
    nib_pool_free(pool);
    return 0;
}
