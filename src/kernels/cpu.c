/* Which instructions this processor and this kernel (operating system) offer. */
#include "kernels/internal.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
/* Tiles are 8 KiB of state: Linux lets a process use them only when it asks (since 5.16). */
static bool may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

void nib_cpu_detect(char *out, size_t n) {
    nib_buf b = {.max = n};
#if defined(__x86_64__)
    /* gcc's builtin also checks that the system saves the wide registers */
    __builtin_cpu_init();
#define NIB_FOUND(f, text)                                                                         \
    if (__builtin_cpu_supports(f)) nib_buf_puts(&b, text " ")
    NIB_FOUND("sse4.2", "sse4.2");
    NIB_FOUND("avx", "avx");
    NIB_FOUND("avx2", "avx2");
    NIB_FOUND("fma", "fma");
    unsigned a, bx, c, d;
    if (__builtin_cpu_supports("avx") && __get_cpuid(1, &a, &bx, &c, &d) && (c & bit_F16C))
        nib_buf_puts(&b, "f16c ");
    NIB_FOUND("avx512f", "avx512f");
    NIB_FOUND("avx512bw", "avx512bw");
    NIB_FOUND("avx512dq", "avx512dq");
    NIB_FOUND("avx512vl", "avx512vl");
    NIB_FOUND("avx512vnni", "avx512vnni");
    NIB_FOUND("avx512vbmi", "avx512vbmi");
    NIB_FOUND("avx512bf16", "avx512bf16");
    if (__get_cpuid_count(7, 0, &a, &bx, &c, &d) && (d & (1u << 24)) && may_use_tiles()) {
        nib_buf_puts(&b, "amx_tile ");
        if (d & (1u << 22)) nib_buf_puts(&b, "amx_bf16 ");
        if (d & (1u << 25)) nib_buf_puts(&b, "amx_int8 ");
    }
#undef NIB_FOUND
#elif defined(__aarch64__)
    unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(AT_HWCAP2);
    nib_buf_puts(&b, "asimd ");
    if (cap & (1ul << 10)) nib_buf_puts(&b, "fphp asimdhp ");
    if (cap & (1ul << 20)) nib_buf_puts(&b, "asimddp ");
    if (cap2 & (1ul << 13)) nib_buf_puts(&b, "i8mm ");
#endif
    if (b.len && b.data[b.len - 1] == ' ') b.data[b.len - 1] = 0;
    snprintf(out, n, "%s", b.data ? b.data : "");
    nib_buf_free(&b);
}
