/* A hub to test against: an HTTP server on two ports of the loopback interface, one the hub (API,
 * and redirects), one the store it redirects to. It can be told to misbehave. */
#ifndef NIB_TESTHUB_H
#define NIB_TESTHUB_H
#include "testlib.h"

#define TEST_COMMIT "0123456789abcdef0123456789abcdef01234567"
enum { TEST_MAX_FILES = 8 };

typedef struct test_hub_file {
    const char *name;
    uint8_t *data;
    size_t n;
    char sha256[65];
    bool small; /* no LFS: the list has git's SHA-1 */
} test_hub_file;

/* How to behave, and what happened; reset by test_hub_reset. Set before requests are made. */
typedef struct test_hub_state {
    const char *api_text; /* instead of the list */
    int api_status;       /* instead of 200 */
    const char *api_code; /* x-error-code */
    const char *token;    /* wanted by the hub: 401 without it */
    bool no_ranges;       /* the store ignores Range */
    bool no_redirect;     /* the hub serves the bytes itself */
    bool wrong_range;     /* the store answers with another range than asked for */
    int fail_status;      /* the store's answer to the next 'fails' requests */
    int fails;
    int retry_after;  /* its Retry-After, when not 0 */
    int cuts;         /* the next answers end early ... */
    size_t cut_after; /* ... after so many bytes */
    int flips;        /* times the byte at flip_at is sent inverted */
    size_t flip_at;
    int hangs;         /* the next answers send their head, and then nothing */
    size_t per_second; /* bytes of a connection; 0: no limit */
    /* what happened */
    long n_api, n_resolve, n_store; /* requests */
    size_t sent;                    /* bytes of files */
    bool token_at_hub, token_at_store, through_proxy;
    int most; /* answers under way at once */
} test_hub_state;
extern test_hub_state test_hub;
extern test_hub_file test_hub_files[TEST_MAX_FILES];

/* Starts it once; sets HF_ENDPOINT, HF_HUB_CACHE (a fresh folder) and a clean environment, and
 * forgets files and behaviour. */
void test_hub_reset(void);
/* A file of n pseudo-random bytes at USER/REPO. Returns it. */
test_hub_file *test_hub_add(const char *name, size_t n, bool small);
/* A file of these bytes, which are copied. */
test_hub_file *test_hub_add_bytes(const char *name, const void *p, size_t n);
int test_hub_port(bool store);
const char *test_hub_cache(void);
/* What 'sent' has, read safely while requests run. */
size_t test_hub_sent(void);
#endif
