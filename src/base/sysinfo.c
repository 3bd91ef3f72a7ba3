/* What this machine and this process may use: processors, memory, time. */
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "base/base.h"

static bool read_text(const char *path, char *buf, size_t n) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t got = fread(buf, 1, n - 1, f);
    fclose(f);
    buf[got] = 0;
    return got > 0;
}

static uint64_t meminfo(const char *text, const char *key) {
    const char *p = strstr(text, key);
    return p ? strtoull(p + strlen(key), NULL, 10) * 1024 : 0;
}

/* The smallest limit on the way from this process's cgroup to the root, and what is used under it.
 */
static void cgroup_memory(uint64_t *limit, uint64_t *used) {
    char line[1024], path[1280], text[64];
    *limit = *used = 0;
    if (!read_text("/proc/self/cgroup", line, sizeof line)) return;
    char *rel = strstr(line, "0::");
    if (!rel) { /* version 1 */
        if (read_text("/sys/fs/cgroup/memory/memory.limit_in_bytes", text, sizeof text)) {
            uint64_t v = strtoull(text, NULL, 10);
            if (v && v < (uint64_t)1 << 60) {
                *limit = v;
                if (read_text("/sys/fs/cgroup/memory/memory.usage_in_bytes", text, sizeof text))
                    *used = strtoull(text, NULL, 10);
            }
        }
        return;
    }
    rel += 3;
    rel[strcspn(rel, "\n")] = 0;
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", strcmp(rel, "/") ? rel : "");
        if (read_text(path, text, sizeof text) && strncmp(text, "max", 3) != 0) {
            uint64_t v = strtoull(text, NULL, 10);
            if (v && (!*limit || v < *limit)) {
                *limit = v;
                snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current",
                         strcmp(rel, "/") ? rel : "");
                *used = read_text(path, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
            }
        }
        char *slash = strrchr(rel, '/');
        if (!slash || slash == rel) break;
        *slash = 0;
    }
}

static int count_cores(const cpu_set_t *cpus, int n_cpu) {
    int seen[1024], n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, cpus)) continue;
        char path[128], text[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 cpu);
        if (!read_text(path, text, sizeof text)) return n_cpu;
        int first = atoi(text), known = 0;
        for (int i = 0; i < n; i++) known |= seen[i] == first;
        if (!known && n < (int)NIB_ARRAY_LEN(seen)) seen[n++] = first;
    }
    return n ? n : n_cpu;
}

void nib_sysinfo_read(nib_sysinfo *s) {
    *s = (nib_sysinfo){.n_cpu = 1, .n_core = 1};
    cpu_set_t cpus;
    if (!sched_getaffinity(0, sizeof cpus, &cpus)) {
        s->n_cpu = CPU_COUNT(&cpus);
        s->n_core = count_cores(&cpus, s->n_cpu);
    }
    char text[8192];
    if (read_text("/sys/fs/cgroup/cpu.max", text, sizeof text)) {
        long quota = 0, period = 0;
        if (sscanf(text, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
            int n = (int)((quota + period - 1) / period);
            s->n_cpu = NIB_MIN(s->n_cpu, n);
            s->n_core = NIB_MIN(s->n_core, n);
        }
    }
    if (read_text("/proc/meminfo", text, sizeof text)) {
        s->mem_total = meminfo(text, "MemTotal:");
        s->mem_available = meminfo(text, "MemAvailable:");
    } else {
        long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
        if (pages > 0 && page > 0)
            s->mem_total = s->mem_available = (uint64_t)pages * (uint64_t)page;
    }
    uint64_t limit, used;
    cgroup_memory(&limit, &used);
    if (limit && limit < s->mem_total) {
        s->cgroup_limit = limit;
        uint64_t left = limit > used ? limit - used : 0;
        s->mem_available = NIB_MIN(s->mem_available, left);
    }
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (f) {
        char line[512];
        while (fgets(line, sizeof line, f)) {
            if (strncmp(line, "model name", 10) != 0) continue;
            char *p = strchr(line, ':');
            if (!p) break;
            p += 1 + strspn(p + 1, " \t");
            p[strcspn(p, "\n")] = 0;
            snprintf(s->cpu_name, sizeof s->cpu_name, "%.95s", p);
            break;
        }
        fclose(f);
    }
    if (!s->cpu_name[0]) snprintf(s->cpu_name, sizeof s->cpu_name, "unknown processor");
}

uint64_t nib_rss(void) {
    char text[256];
    unsigned long size, resident;
    if (!read_text("/proc/self/statm", text, sizeof text)) return 0;
    if (sscanf(text, "%lu %lu", &size, &resident) != 2) return 0;
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

double nib_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
