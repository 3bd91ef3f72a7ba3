/* String -> u32: open addressing, linear probing, at most 2/3 full. */
#include <pthread.h>
#include "base/base.h"

struct nib_strmap_slot {
    nib_str key; /* p NULL: free */
    uint32_t value, hash;
};

uint64_t nib_hash(const void *data, size_t n, uint64_t seed) {
    /* Multiply-fold in 8-byte steps; quality enough for tables, not for security. */
    const uint8_t *p = data;
    uint64_t h = seed ^ (n * 0x9e3779b97f4a7c15u);
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
        p += 8, n -= 8;
    }
    uint64_t w = 0;
    if (n >= 4) { /* the bytes that both halves read are the same in both */
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        w = low | (uint64_t)high << (n - 4) * 8;
    } else if (n) {
        w = p[0] | (uint64_t)p[n / 2] << n / 2 * 8 | (uint64_t)p[n - 1] << (n - 1) * 8;
    }
    h = (h ^ w) * 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 29);
}

/* Keys come from strangers, who could make nib_hash collide: a multiplication folded by a seed they
 * cannot know keeps look-ups short. */
static uint64_t secret;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void draw_secret(void) {
    secret = nib_entropy() | 1;
}

static uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint32_t hash_of(nib_str key) {
    pthread_once(&once, draw_secret);
    uint64_t h = secret ^ key.n, w = 0;
    const char *p = key.p;
    size_t n = key.n;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = fold(h ^ w, secret ^ 0xff51afd7ed558ccdu);
    }
    w = 0;
    if (n) memcpy(&w, p, n);
    return (uint32_t)fold(h ^ w, secret ^ 0xc4ceb9fe1a85ec53u);
}

static struct nib_strmap_slot *slot_for(const nib_strmap *m, nib_str key, uint32_t hash) {
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct nib_strmap_slot *s = &m->slots[i];
        if (!s->key.p || (s->hash == hash && nib_str_eq(s->key, key))) return s;
    }
}

bool nib_strmap_reserve(nib_strmap *m, size_t n) {
    if (n > SIZE_MAX / 4) return false;
    size_t cap = NIB_MAX(m->cap, (size_t)16);
    while (cap / 3 * 2 <= n) cap *= 2;
    if (cap == m->cap) return true;
    nib_strmap fresh = {.slots = nib_calloc(cap, sizeof *fresh.slots), .cap = cap, .len = m->len};
    if (!fresh.slots) return false;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].key.p) *slot_for(&fresh, m->slots[i].key, m->slots[i].hash) = m->slots[i];
    nib_free(m->slots);
    *m = fresh;
    return true;
}

bool nib_strmap_set(nib_strmap *m, nib_str key, uint32_t value) {
    if (!nib_strmap_reserve(m, m->len + 1)) return false;
    if (!key.p) key.p = "";
    uint32_t hash = hash_of(key);
    struct nib_strmap_slot *s = slot_for(m, key, hash);
    if (!s->key.p) m->len++;
    *s = (struct nib_strmap_slot){key, value, hash};
    return true;
}

bool nib_strmap_get(const nib_strmap *m, nib_str key, uint32_t *value) {
    if (!m->cap) return false;
    if (!key.p) key.p = "";
    const struct nib_strmap_slot *s = slot_for(m, key, hash_of(key));
    if (!s->key.p) return false;
    if (value) *value = s->value;
    return true;
}

void nib_strmap_free(nib_strmap *m) {
    nib_free(m->slots);
    *m = (nib_strmap){0};
}
