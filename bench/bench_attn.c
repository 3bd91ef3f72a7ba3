/* How fast attention is: prefill as a share of the measured FMA peak, alone and behind a long text
 * (deep), decode as bytes of cache a second beside a plain read of the same memory. One thread.
 *
 *   bench_attn [set [prefill|decode|all [type]]]
 *
 * set: scalar, avx2, avx512, amx, neon, or best (default); type: of the cache (default: every) */
#include <math.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include "kernels/kernels.h"

/* ---- the machine ---- */

/* 12 independent chains of fused multiply-adds; returns multiply-adds a call, 0 when the set has
 * none. */
#define PEAK(name, target_, type, set1, fma)                                                       \
    target_ static double name(long n, float *out) {                                               \
        type a[12], x = set1(0.5f), y = set1(0.25f);                                               \
        for (int j = 0; j < 12; j++) a[j] = set1((float)j);                                        \
        for (long i = 0; i < n; i++) {                                                             \
            for (int j = 0; j < 12; j++) a[j] = fma;                                               \
            __asm__ volatile("" : "+r"(i));                                                        \
        }                                                                                          \
        for (int j = 1; j < 12; j++) a[0] = a[0] + a[j];                                           \
        memcpy(out, &a[0], sizeof a[0]);                                                           \
        return (double)n * 12 * (double)(sizeof(type) / sizeof(float));                            \
    }
#if defined(__x86_64__)
PEAK(peak_512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps,
     _mm512_fmadd_ps(a[j], x, y))
PEAK(peak_256, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps,
     _mm256_fmadd_ps(a[j], x, y))
#elif defined(__aarch64__)
PEAK(peak_neon, , float32x4_t, vdupq_n_f32, vfmaq_f32(y, a[j], x))
#endif

static volatile float keep;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double peak_gflops(const nib_kernels *k) {
    double (*fn)(long, float *) = NULL;
    float out[16] = {0};
#if defined(__x86_64__)
    if (strcmp(k->name, "avx512") == 0 || strcmp(k->name, "amx") == 0) fn = peak_512;
    if (strcmp(k->name, "avx2") == 0) fn = peak_256;
#elif defined(__aarch64__)
    if (strcmp(k->name, "neon") == 0) fn = peak_neon;
#endif
    if (!fn) return 0;
    double best = 0;
    for (int i = 0; i < 20; i++) {
        double t = seconds(), n = fn(1000000, out);
        best = fmax(best, 2e-9 * n / (seconds() - t));
        keep = out[0];
    }
    return best;
}

static double read_gbs(const uint8_t *p, size_t n) {
    double best = 0;
    for (int r = 0; r < 3; r++) {
        uint64_t sum[8] = {0}, w[8];
        double t = seconds();
        for (size_t i = 0; i + 64 <= n; i += 64) {
            memcpy(w, p + i, 64);
            for (int j = 0; j < 8; j++) sum[j] ^= w[j];
        }
        best = fmax(best, 1e-9 * (double)n / (seconds() - t));
        for (int j = 1; j < 8; j++) sum[0] ^= sum[j];
        keep = (float)sum[0];
    }
    return best;
}

/* ---- attention ---- */

typedef struct room {
    uint8_t *k, *v; /* pages one after the other */
    size_t page;    /* bytes */
    int n_pages;
    float *q, *m, *s, *o;
    float *scratch;
    const float **qs;
    int64_t *lo, *hi;
} room;
enum { MAX_Q = 512 };

static void *need(void *p) {
    if (!p) {
        fprintf(stderr, "bench_attn: out of memory\n");
        exit(1);
    }
    return p;
}

static void room_make(room *r, const nib_kernels *k, nib_kv_type type, int d, int n_pages) {
    nib_rng rng = {.seed = 1};
    r->page = nib_kv_head_bytes(type, d);
    r->n_pages = n_pages;
    r->k = need(nib_alloc_pages(r->page * (size_t)n_pages));
    r->v = need(nib_alloc_pages(r->page * (size_t)n_pages));
    float x[256];
    for (int p = 0; p < n_pages; p++)
        for (int i = 0; i < NIB_PAGE; i++) {
            if (p > 3) { /* more of the same */
                memcpy(r->k + (size_t)p * r->page, r->k, r->page);
                memcpy(r->v + (size_t)p * r->page, r->v, r->page);
                break;
            }
            for (int j = 0; j < d; j++) x[j] = nib_rng_normal(&rng);
            k->kv_store(type, x, d, x, d, i, r->k + (size_t)p * r->page,
                        r->v + (size_t)p * r->page);
        }
    r->q = need(nib_alloc((size_t)MAX_Q * (size_t)d * 4));
    r->m = need(nib_alloc(MAX_Q * 4));
    r->s = need(nib_alloc(MAX_Q * 4));
    r->o = need(nib_alloc((size_t)MAX_Q * (size_t)d * 4));
    r->scratch = need(aligned_alloc(64, NIB_ROUND_UP(nib_attn_scratch(d, d), 64)));
    r->qs = need(nib_alloc(MAX_Q * sizeof *r->qs));
    r->lo = need(nib_calloc(MAX_Q, sizeof *r->lo));
    r->hi = need(nib_calloc(MAX_Q, sizeof *r->hi));
    for (int i = 0; i < MAX_Q; i++) {
        r->qs[i] = r->q + (size_t)i * (size_t)d;
        for (int j = 0; j < d; j++) r->q[i * d + j] = nib_rng_normal(&rng) / sqrtf((float)d);
        k->attn_query(type, r->q + i * d, d);
    }
}
static void room_free(room *r) {
    nib_free_pages(r->k, r->page * (size_t)r->n_pages);
    nib_free_pages(r->v, r->page * (size_t)r->n_pages);
    nib_free(r->q), nib_free(r->m), nib_free(r->s), nib_free(r->o), free(r->scratch);
    nib_free(r->qs), nib_free(r->lo), nib_free(r->hi);
}

static void run_chunk(const room *r, const nib_kernels *k, nib_kv_type type, int d, int n_q,
                      int chunk) {
    nib_attn a = {.type = type,
                  .d = d,
                  .dv = d,
                  .pos0 = (int64_t)chunk * NIB_ATTN_CHUNK,
                  .n_q = n_q,
                  .q = r->qs,
                  .lo = r->lo,
                  .hi = r->hi,
                  .m = r->m,
                  .s = r->s,
                  .o = r->o,
                  .more = chunk > 0,
                  .scratch = r->scratch};
    for (int p = 0; p < NIB_ATTN_PAGES; p++) {
        size_t at = (size_t)(chunk * NIB_ATTN_PAGES + p) * r->page;
        a.k[p] = r->k + at, a.v[p] = r->v + at;
    }
    k->attn(&a);
}

/* A prompt of 512 tokens, G heads to a kv head, in batches of 512/G tokens: causal. */
static void prefill(const nib_kernels *k, nib_kv_type type, int d, int g, double peak) {
    room r;
    room_make(&r, k, type, d, 8);
    double best_full = 1e9, best_causal = 1e9, work = 0;
    for (int rep = 0; rep < 40; rep++) {
        double t = seconds();
        for (int i = 0; i < MAX_Q; i++) r.hi[i] = 512;
        for (int c = 0; c < 2; c++) run_chunk(&r, k, type, d, MAX_Q, c);
        best_full = fmin(best_full, seconds() - t);
        t = seconds();
        work = 0;
        for (int token = 0; token < 512; token += MAX_Q / g) {
            for (int i = 0; i < MAX_Q; i++) work += (double)(r.hi[i] = token + i / g + 1);
            for (int c = 0; c * NIB_ATTN_CHUNK < token + MAX_Q / g; c++)
                run_chunk(&r, k, type, d, MAX_Q, c);
        }
        best_causal = fmin(best_causal, seconds() - t);
    }
    double full = 4e-9 * MAX_Q * 512 * d / best_full, causal = 4e-9 * work * d / best_causal;
    printf("prefill %-4s D %3d G %d: full %6.1f GFLOP/s (%4.1f %%), causal %6.1f (%4.1f %%)\n",
           nib_kv_name(type), d, g, full, peak > 0 ? 100 * full / peak : 0, causal,
           peak > 0 ? 100 * causal / peak : 0);
    room_free(&r);
}

/* 384 queries, as many as attention takes at once, all of which see 'bytes' of cache. */
static void deep(const nib_kernels *k, nib_kv_type type, int d, size_t bytes) {
    room r;
    const int n_q = 384, n_chunks = (int)(bytes / 2 / nib_kv_head_bytes(type, d)) / NIB_ATTN_PAGES;
    room_make(&r, k, type, d, n_chunks * NIB_ATTN_PAGES);
    for (int i = 0; i < n_q; i++) r.hi[i] = (int64_t)n_chunks * NIB_ATTN_CHUNK;
    double best = 1e9;
    for (int rep = 0; rep < 5; rep++) {
        double t = seconds();
        for (int c = 0; c < n_chunks; c++) run_chunk(&r, k, type, d, n_q, c);
        best = fmin(best, seconds() - t);
    }
    printf("deep    %-4s D %3d     : %5.1f GFLOP/s (%zu MiB of cache)\n", nib_kv_name(type), d,
           4e-9 * n_q * d * n_chunks * NIB_ATTN_CHUNK / best, bytes >> 20);
    room_free(&r);
}

static void decode(const nib_kernels *k, nib_kv_type type, int d, int g, size_t bytes) {
    room r;
    int n_pages = (int)(bytes / 2 / nib_kv_head_bytes(type, d)) / NIB_ATTN_PAGES * NIB_ATTN_PAGES;
    room_make(&r, k, type, d, n_pages);
    double best = 1e9, gb = 2e-9 * (double)r.page * n_pages;
    for (int i = 0; i < MAX_Q; i++) r.hi[i] = (int64_t)n_pages * NIB_PAGE;
    for (int rep = 0; rep < 5; rep++) {
        double t = seconds();
        for (int c = 0; c < n_pages / NIB_ATTN_PAGES; c++) run_chunk(&r, k, type, d, g, c);
        best = fmin(best, seconds() - t);
    }
    printf("decode  %-4s D %3d G %d: %5.1f GB/s of cache (%zu MiB; plain read %5.1f)\n",
           nib_kv_name(type), d, g, gb / best, bytes >> 20,
           read_gbs(r.k, r.page * (size_t)n_pages));
    room_free(&r);
}

int main(int argc, char **argv) {
    const nib_kernels *k =
        argc > 1 && strcmp(argv[1], "best") != 0 ? nib_kernels_upto(argv[1]) : nib_kernels_get();
    if (!k) {
        fprintf(stderr, "bench_attn: no such set on this machine: %s\n", argv[1]);
        return 2;
    }
    double peak = peak_gflops(k);
    printf("%s: FMA peak %.1f GFLOP/s\n", k->name, peak);
    const char *only = argc > 2 ? argv[2] : "all", *type = argc > 3 ? argv[3] : "";
    for (int t = NIB_KV_I16; t < NIB_KV_N_TYPES; t++) {
        if (*type ? strcmp(nib_kv_name((nib_kv_type)t), type) != 0
                  : t == NIB_KV_BF16 && k->kv != NIB_KV_BF16)
            continue; /* plain C is not worth the wait */
        for (int d = 64; d <= 128; d *= 2)
            if (strcmp(only, "decode") != 0) {
                prefill(k, (nib_kv_type)t, d, 4, peak);
                if (peak > 0) deep(k, (nib_kv_type)t, d, 1u << 20);
                if (peak > 0) deep(k, (nib_kv_type)t, d, 64u << 20); /* minutes in plain C */
            }
        if (strcmp(only, "prefill") == 0) continue;
        for (int g = 1; g <= 8; g *= 2) {
            decode(k, (nib_kv_type)t, 64, g, 128u << 20);
            decode(k, (nib_kv_type)t, 64, g, 1u << 20);
        }
        decode(k, (nib_kv_type)t, 128, 4, 128u << 20);
    }
    return 0;
}
