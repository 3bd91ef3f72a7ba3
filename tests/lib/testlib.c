#include "testlib.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const char *test_shared(void) {
    const char *dir = getenv("NIB_SHARED");
    if (!dir || !*dir) dir = NIB_SHARED_DIR;
    struct stat st;
    return stat(dir, &st) == 0 && S_ISDIR(st.st_mode) ? dir : NULL;
}

const char *test_shared_path(const char *fmt, ...) {
    static char ring[8][1024];
    static int at;
    char *p = ring[at++ & 7];
    const char *dir = test_shared();
    int n = snprintf(p, sizeof ring[0], "%s/", dir ? dir : "(no shared data)");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p + n, sizeof ring[0] - (size_t)n, fmt, ap);
    va_end(ap);
    return p;
}

void test_skip(const char *why) {
    const char *no = getenv("NIB_TEST_NO_SKIP");
    if (no && *no == '1') fail_msg("would skip: %s", why);
    print_message("skipped: %s\n", why);
    skip();
}

bool test_quick(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    const char *s = getenv("NIB_TEST_QUICK");
    return s && *s == '1';
#endif
}

void test_ok(nib_status s, const nib_error *e) {
    if (s != NIB_OK) fail_msg("%s: %s", nib_status_text(s), e ? e->message : "");
}

static char tmp[64];
static void remove_tmp(void) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", tmp);
    if (system(cmd)) fprintf(stderr, "could not remove %s\n", tmp);
}
const char *test_tmp(void) {
    if (!tmp[0]) {
        snprintf(tmp, sizeof tmp, "/tmp/nib-test-XXXXXX");
        if (!mkdtemp(tmp)) fail_msg("no temporary folder");
        atexit(remove_tmp);
    }
    return tmp;
}

/* What fontconfig keeps for good; LeakSanitizer asks. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libfontconfig\nleak:libpango\n";
}

/* The same of ThreadSanitizer: libraries it does not see into. libevent closes and opens pipes
 * under locks of its own; drawing a PDF goes through tables that are made once. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "race:libfontconfig\nrace:libpango\nrace:libglib\nrace:libcairo\nrace:libharfbuzz\n"
           "race:libevent\n";
}
