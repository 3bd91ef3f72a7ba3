/* All heap memory: plain allocations, page allocations for large arrays, arenas, buffers. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include "base/base.h"

static atomic_long n_allocs, fail_after;

static bool may_alloc(void) {
    atomic_fetch_add_explicit(&n_allocs, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) == 0) return true;
    return atomic_fetch_sub(&fail_after, 1) != 1;
}

void nib_alloc_fail_after(long n) {
    atomic_store(&fail_after, n);
}
long nib_alloc_count(void) {
    return atomic_load(&n_allocs);
}

void *nib_alloc(size_t bytes) {
    return may_alloc() ? malloc(bytes ? bytes : 1) : NULL;
}
void *nib_calloc(size_t n, size_t bytes) {
    return may_alloc() ? calloc(n ? n : 1, bytes ? bytes : 1) : NULL;
}
void *nib_realloc(void *p, size_t bytes) {
    return may_alloc() ? realloc(p, bytes ? bytes : 1) : NULL;
}
void nib_free(void *p) {
    free(p);
}

char *nib_strndup(const char *s, size_t n) {
    char *p = n < SIZE_MAX ? nib_alloc(n + 1) : NULL;
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}
char *nib_strdup(const char *s) {
    return nib_strndup(s, strlen(s));
}

void *nib_alloc_pages(size_t bytes) {
    if (!may_alloc()) return NULL;
    void *p =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    if (bytes >= (size_t)4 << 20) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}
void nib_free_pages(void *p, size_t bytes) {
    if (p) munmap(p, bytes ? bytes : 1);
}

void nib_drop_pages(void *p, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p;
    uintptr_t from = NIB_ROUND_UP(at, page), to = (at + bytes) / page * page;
    if (p && from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

void nib_alloc_trim(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

bool nib_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* ---- arena: a list of blocks, the newest first, each twice the one before up to 1 MiB ---- */

struct nib_arena_block {
    struct nib_arena_block *next;
    size_t used, cap;
    _Alignas(16) char data[];
};

void nib_arena_init(nib_arena *a, size_t max_bytes) {
    *a = (nib_arena){.max = max_bytes ? max_bytes : (size_t)16 << 30};
}

void *nib_arena_alloc(nib_arena *a, size_t bytes) {
    if (bytes > a->max || a->used > a->max - bytes) return NULL;
    size_t need = NIB_ROUND_UP(bytes ? bytes : 1, 16);
    struct nib_arena_block *b = a->head;
    if (!b || b->cap - b->used < need) {
        size_t cap = b ? NIB_MIN(b->cap * 2, (size_t)1 << 20) : 4096;
        cap = NIB_MAX(cap, need);
        struct nib_arena_block *fresh = nib_alloc(sizeof *fresh + cap);
        if (!fresh) return NULL;
        *fresh = (struct nib_arena_block){.next = b, .cap = cap};
        a->head = b = fresh;
    }
    void *p = b->data + b->used;
    b->used += need;
    a->used += need;
    return p;
}

void *nib_arena_calloc(nib_arena *a, size_t n, size_t bytes) {
    size_t total;
    if (!nib_mul_size(n, bytes, &total)) return NULL;
    void *p = nib_arena_alloc(a, total);
    return p ? memset(p, 0, total) : NULL;
}

char *nib_arena_strndup(nib_arena *a, const char *s, size_t n) {
    char *p = n < SIZE_MAX ? nib_arena_alloc(a, n + 1) : NULL;
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void nib_arena_reset(nib_arena *a) {
    while (a->head && a->head->next) {
        struct nib_arena_block *b = a->head;
        a->head = b->next;
        nib_free(b);
    }
    if (a->head) a->head->used = 0;
    a->used = 0;
}

void nib_arena_free(nib_arena *a) {
    nib_arena_reset(a);
    nib_free(a->head);
    a->head = NULL;
}

/* ---- buffers ---- */

/* Grows *data of items of 'size' bytes so that n_more fit after len (plus one spare item). */
static bool grow(void **data, size_t len, size_t *cap, size_t max, size_t size, size_t n_more) {
    if (n_more > max || len > max - n_more) return false;
    size_t need = len + n_more + 1;
    if (need <= *cap) return true;
    size_t fresh = NIB_MAX(*cap * 2, need);
    if (fresh < 64) fresh = 64;
    size_t bytes;
    if (!nib_mul_size(fresh, size, &bytes)) return false;
    void *p = nib_realloc(*data, bytes);
    if (!p) return false;
    *data = p;
    *cap = fresh;
    return true;
}

bool nib_buf_reserve(nib_buf *b, size_t n_more) {
    void *p = b->data;
    if (b->failed || !grow(&p, b->len, &b->cap, b->max ? b->max : (size_t)1 << 30, 1, n_more)) {
        b->failed = true;
        return false;
    }
    b->data = p;
    return true;
}

bool nib_buf_put(nib_buf *b, const void *p, size_t n) {
    if (!nib_buf_reserve(b, n)) return false;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}
bool nib_buf_puts(nib_buf *b, const char *s) {
    return nib_buf_put(b, s, strlen(s));
}
bool nib_buf_putc(nib_buf *b, char c) {
    return nib_buf_put(b, &c, 1);
}

bool nib_buf_printf(nib_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && nib_buf_reserve(b, (size_t)n);
    if (ok) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return ok;
}

void nib_buf_clear(nib_buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}
void nib_buf_free(nib_buf *b) {
    nib_free(b->data);
    *b = (nib_buf){.max = b->max};
}

bool nib_ids_append(nib_ids *v, const int32_t *ids, size_t n) {
    void *p = v->data;
    if (v->failed ||
        !grow(&p, v->len, &v->cap, v->max ? v->max : (size_t)1 << 28, sizeof *ids, n)) {
        v->failed = true;
        return false;
    }
    v->data = p;
    if (n) memcpy(v->data + v->len, ids, n * sizeof *ids);
    v->len += n;
    return true;
}
bool nib_ids_push(nib_ids *v, int32_t id) {
    return nib_ids_append(v, &id, 1);
}
void nib_ids_free(nib_ids *v) {
    nib_free(v->data);
    *v = (nib_ids){.max = v->max};
}
