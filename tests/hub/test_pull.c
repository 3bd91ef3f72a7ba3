/* Pulling from a hub that behaves, and from ones that do not. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
#include "hub/hub.h"
#include "testhub.h"

enum { CHUNK = 256 << 10, MB = 1 << 20 };

static nib_hub hub;
static nib_error e;
static char path[NIB_HUB_PATH];
static int stages[NIB_HUB_REPAIRING + 1];

static void count_stages(void *arg, const nib_hub_progress *p) {
    (void)arg;
    assert_true(p->stage == NIB_HUB_RETRYING || p->done <= p->total || p->total == 0);
    stages[p->stage]++;
}

static void open_hub(void) {
    test_ok(nib_hub_open(&hub, &e), &e);
    hub.pause = 0.01;
    hub.timeout = 5;
    hub.retries = 3;
    hub.progress = count_stages;
    memset(stages, 0, sizeof stages);
}

static nib_status pull_as(const char *text, bool source, const char *sha256) {
    nib_hub_ref r;
    nib_hub_plan plan;
    nib_status s = nib_hub_parse(text, hub.endpoint, &r, &e);
    if (s == NIB_OK) s = nib_hub_plan_make(&hub, &r, source, sha256, &plan, &e);
    if (s != NIB_OK) return s;
    s = nib_hub_pull(&hub, &plan, path, &e);
    nib_hub_plan_free(&plan);
    return s;
}
static nib_status pull(const char *text) {
    return pull_as(text, false, NULL);
}

static void same_file(const char *file, const test_hub_file *f) {
    nib_buf b = {0};
    test_ok(nib_file_read(file, (size_t)1 << 28, &b, &e), &e);
    assert_int_equal(b.len, f->n);
    assert_memory_equal(b.data, f->data, f->n);
    nib_buf_free(&b);
}

static const char *in_cache(const char *name) {
    static char ring[4][1200];
    static int at;
    char *out = ring[at++ & 3];
    snprintf(out, sizeof ring[0], "%s/models--USER--REPO/%s", test_hub_cache(), name);
    return out;
}
static bool exists(const char *p) {
    return access(p, F_OK) == 0;
}
static const char *part_of(const test_hub_file *f, const char *end) {
    static char name[200];
    snprintf(name, sizeof name, "blobs/%s.nib-part%s", f->sha256, end);
    return in_cache(name);
}

static void test_plain_pull(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("sub/m-Q4_K_M.gguf", 5 * MB + 123, false);
    test_hub_add("m-Q8_0.gguf", MB, false);
    setenv("HF_TOKEN", "hf_secret", 1);
    test_hub.token = "hf_secret";
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    char target[300], want[300];
    ssize_t n = readlink(path, target, sizeof target - 1);
    assert_true(n > 0);
    target[n] = 0;
    snprintf(want, sizeof want, "../../../blobs/%s", f->sha256);
    assert_string_equal(target, want);
    nib_buf ref = {0};
    test_ok(nib_file_read(in_cache("refs/main"), 100, &ref, &e), &e);
    assert_string_equal(ref.data, TEST_COMMIT);
    nib_buf_free(&ref);
    assert_false(exists(part_of(f, "")) || exists(part_of(f, ".journal")));
    assert_int_equal(test_hub_sent(), f->n); /* not a byte twice */
    assert_true(test_hub.token_at_hub);
    assert_false(test_hub.token_at_store); /* another port is another host */
    assert_true(test_hub.n_resolve > 1);
    long n_requests = test_hub.n_store;
    test_ok(pull("hf.co/USER/REPO"), &e); /* it is here */
    assert_int_equal(test_hub.n_store, n_requests);
    test_ok(pull("USER/REPO:q8_0"), &e);
    same_file(path, &test_hub_files[1]);
    nib_hub_close(&hub);
    unsetenv("HF_TOKEN");
}

static void test_parallel(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 6 * MB, false);
    test_hub.per_second = 2 * MB;
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub.most, hub.connections);
    assert_true(stages[NIB_HUB_FETCHING] > 2);
    nib_hub_close(&hub);
}

static void test_odd_sizes(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK};
    for (size_t i = 0; i < NIB_ARRAY_LEN(sizes); i++) {
        test_hub_reset();
        const test_hub_file *f = test_hub_add("m.gguf", sizes[i], i & 1); /* SHA-256 and git's */
        open_hub();
        test_ok(pull("USER/REPO"), &e);
        same_file(path, f);
        nib_hub_close(&hub);
    }
}

static void test_split_and_source(void **state) {
    (void)state;
    test_hub_reset();
    test_hub_add("README.md", 100, true);
    test_hub_add("m-Q4_K_M-00002-of-00002.gguf", MB, false);
    test_hub_add("m-Q4_K_M-00001-of-00002.gguf", MB + 5, false);
    test_hub_add("config.json", 300, true);
    test_hub_add("model.safetensors", MB, false);
    test_hub_add("x-Q6_K-00001-of-00003.gguf", 10, false); /* parts are missing */
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, &test_hub_files[2]);
    assert_true(exists(in_cache("snapshots/" TEST_COMMIT "/m-Q4_K_M-00002-of-00002.gguf")));
    assert_false(exists(in_cache("snapshots/" TEST_COMMIT "/config.json")));
    assert_int_equal(pull("USER/REPO:Q6_K"), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "1 of the 3 parts"));
    test_ok(pull_as("USER/REPO", true, NULL), &e);
    assert_string_equal(path, in_cache("snapshots/" TEST_COMMIT));
    same_file(in_cache("snapshots/" TEST_COMMIT "/config.json"), &test_hub_files[3]);
    same_file(in_cache("snapshots/" TEST_COMMIT "/model.safetensors"), &test_hub_files[4]);
    nib_hub_model *list;
    size_t n;
    test_ok(nib_hub_list(&hub, &list, &n, &e), &e);
    assert_int_equal(n, 2);
    assert_string_equal(list[0].file, "");
    assert_int_equal(list[0].bytes, MB);
    assert_int_equal(list[1].parts, 2);
    assert_int_equal(list[1].bytes, 2 * MB + 5);
    nib_hub_list_free(list, n);
    nib_hub_close(&hub);
}

static void test_url(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 2 * MB + 1, false);
    char url[200];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/some/m.gguf?sig=1", test_hub_port(true));
    setenv("HF_TOKEN", "hf_secret", 1);
    open_hub();
    assert_int_equal(pull_as(url, false, TEST_COMMIT "0123456789abcdef01234567"), NIB_ERR_FORMAT);
    assert_int_equal(pull(url), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "no GGUF file"));
    memcpy(f->data, "GGUF", 4);
    f = test_hub_add_bytes("m2.gguf", f->data, f->n);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/some/m2.gguf?sig=1", test_hub_port(true));
    test_ok(pull(url), &e);
    same_file(path, f);
    assert_false(test_hub.token_at_store); /* a token is for the hub only */
    char blob[1200];
    ssize_t n = readlink(path, blob, sizeof blob - 1);
    assert_true(n > 64 && strncmp(blob + n - 64, f->sha256, 64) == 0);
    nib_hub_ref r;
    char found[NIB_HUB_PATH];
    test_ok(nib_hub_parse(url, NULL, &r, &e), &e);
    test_ok(nib_hub_resolve(&hub, &r, found, &e), &e);
    assert_string_equal(found, path);
    nib_hub_close(&hub);
    unsetenv("HF_TOKEN");
}

/* Going on with a URL's file: only while the server says that it is the same. */
static void test_url_resume(void **state) {
    (void)state;
    for (int changed = 0; changed < 2; changed++) {
        test_hub_reset();
        test_hub_file *f = test_hub_add("m.gguf", 4 * MB, false);
        memcpy(f->data, "GGUF", 4);
        f = test_hub_add_bytes("u.gguf", f->data, f->n);
        char url[200];
        snprintf(url, sizeof url, "http://127.0.0.1:%d/u.gguf", test_hub_port(true));
        open_hub();
        hub.retries = 0;
        hub.connections = 1;
        test_hub.per_second = 8 * MB; /* little is in the pipe when it is cut */
        nib_hub_ref r;
        nib_hub_plan plan;
        test_ok(nib_hub_parse(url, NULL, &r, &e), &e);
        test_ok(nib_hub_plan_make(&hub, &r, false, NULL, &plan, &e), &e);
        test_hub.cuts = 1;
        test_hub.cut_after = 3 * MB / 2;
        assert_int_equal(nib_hub_pull(&hub, &plan, path, &e), NIB_ERR_IO);
        nib_hub_plan_free(&plan);
        test_hub.per_second = 0;
        if (changed) {
            f->data[3 * MB] ^= 1;
            f = test_hub_add_bytes("u.gguf", f->data, f->n);
        }
        size_t before = test_hub_sent();
        test_ok(pull(url), &e);
        same_file(path, f);
        size_t came = test_hub_sent() - before;
        if (changed)
            assert_true(came >= f->n);
        else
            assert_true(came < 4 * MB - MB / 2);
        nib_hub_close(&hub);
    }
}

static void test_statuses(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *code, *token, *says;
    } cases[] = {
        {401, "RepoNotFound", NULL, "no such model"}, {401, "GatedRepo", NULL, "HF_TOKEN"},
        {403, "GatedRepo", "hf_x", "licence"},        {404, "RepoNotFound", NULL, "404"},
        {404, "RevisionNotFound", NULL, "revision"},  {418, NULL, NULL, "418"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(cases); i++) {
        test_hub_reset();
        test_hub_add("m.gguf", 1000, false);
        test_hub.api_status = cases[i].status;
        test_hub.api_code = cases[i].code;
        if (cases[i].token) setenv("HF_TOKEN", cases[i].token, 1);
        open_hub();
        assert_int_not_equal(pull("USER/REPO"), NIB_OK);
        if (!strstr(e.message, cases[i].says)) fail_msg("%s", e.message);
        assert_int_equal(test_hub.n_api, 1); /* not asked again */
        nib_hub_close(&hub);
    }
    test_hub_reset();
    test_hub_add("m.gguf", 1000, false);
    test_hub.api_status = 500;
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_int_equal(test_hub.n_api, 1 + hub.retries);
    /* a file that is gone between list and download */
    test_hub.api_status = 0;
    test_hub.fails = 100;
    test_hub.fail_status = 404;
    assert_int_equal(pull("USER/REPO"), NIB_ERR_NOT_FOUND);
    nib_hub_close(&hub);
}

static void test_busy_server(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 4 * MB, false);
    test_hub.fails = 2;
    test_hub.fail_status = 429;
    test_hub.retry_after = 1;
    open_hub();
    double start = nib_now();
    test_ok(pull("USER/REPO"), &e);
    assert_true(nib_now() - start >= 1); /* it asked for a second */
    same_file(path, f);
    assert_true(stages[NIB_HUB_RETRYING] > 0);
    nib_hub_close(&hub);

    test_hub_reset();
    test_hub_add("m.gguf", MB, false);
    test_hub.fails = 100;
    test_hub.fail_status = 429;
    test_hub.retry_after = 4000;
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "later than nib waits"));
    test_hub.fail_status = 503;
    test_hub.retry_after = 0;
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    if (!strstr(e.message, "gave up after 4 tries")) fail_msg("%s", e.message);
    test_hub.fails = 3;
    test_ok(pull("USER/REPO"), &e);
    nib_hub_close(&hub);
}

static void test_cut(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 6 * MB, false);
    test_hub.cuts = 20;
    test_hub.cut_after = 100001; /* less than a chunk: what came is kept all the same */
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_in_range(test_hub_sent(), f->n, f->n + 20 * 256 * 1024); /* what the pipe held is lost */
    nib_hub_close(&hub);
}

static void test_no_ranges(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 3 * MB, false);
    test_hub.no_ranges = true;
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub_sent(), f->n);
    nib_hub_close(&hub);
    /* cut once: from the start again */
    test_hub_reset();
    f = test_hub_add("m.gguf", 3 * MB, false);
    test_hub.no_ranges = true;
    test_hub.cuts = 1;
    test_hub.cut_after = 2 * MB;
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub_sent(), f->n + 2 * MB);
    /* always cut at the same place: it ends */
    nib_hub_close(&hub);
    test_hub_reset();
    f = test_hub_add("m.gguf", 3 * MB, false);
    test_hub.no_ranges = true;
    test_hub.cuts = 1000;
    test_hub.cut_after = 2 * MB;
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "gave up"));
    /* going on with half a file, at a server that has lost its ranges */
    test_hub.cuts = 0;
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    nib_hub_close(&hub);
}

static void test_wrong_answers(void **state) {
    (void)state;
    test_hub_reset();
    test_hub_add("m.gguf", 3 * MB, false);
    test_hub.wrong_range = true;
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "another range"));
    test_hub.wrong_range = false;
    test_ok(pull("USER/REPO"), &e);
    same_file(path, &test_hub_files[0]);
    nib_hub_close(&hub);
    /* the file has another size than the list said */
    test_hub_reset();
    test_hub_add("m.gguf", 3 * MB, false);
    test_hub.api_text = "{\"sha\": \"" TEST_COMMIT "\", \"siblings\": [{\"rfilename\": \"m.gguf\", "
                        "\"size\": 1000000}]}";
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "expected 1000000"));
    static const char *const lists[] = {
        "{\"sha\": \"" TEST_COMMIT
        "\", \"siblings\": [{\"rfilename\": \"../../m.gguf\", \"size\": 5}]}",
        "{\"sha\": \"" TEST_COMMIT "\", \"siblings\": [{\"rfilename\": \"m.gguf\", \"size\": -5}]}",
        "{\"sha\": \"" TEST_COMMIT "\", \"siblings\": [{\"rfilename\": \"m.gguf\"}]}",
        "{\"sha\": \"" TEST_COMMIT "\", \"siblings\": []}",
        "{\"sha\": \"../../../../../../../../../../../../etc\", \"siblings\": []}",
        "<html>hello</html>",
        "{\"error\": \"no\"}",
        "{\"sha\": \"",
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(lists); i++) {
        test_hub.api_text = lists[i];
        assert_int_not_equal(pull("USER/REPO"), NIB_OK);
        assert_false(strchr(e.message, '\n'));
    }
    nib_hub_model *list;
    size_t n;
    test_ok(nib_hub_list(&hub, &list, &n, &e), &e);
    assert_int_equal(n, 0);
    nib_hub_list_free(list, n);
    nib_hub_close(&hub);
}

/* A list that promises a file larger than the disk: nothing is written. */
static void test_no_room(void **state) {
    (void)state;
    test_hub_reset();
    test_hub.api_text = "{\"sha\": \"" TEST_COMMIT "\", \"siblings\": [{\"rfilename\": \"m.gguf\", "
                        "\"size\": 1125899906842624}]}";
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_LIMIT);
    assert_non_null(strstr(e.message, "GB are free"));
    assert_false(exists(in_cache("blobs")));
    nib_hub_close(&hub);
    /* a limit that statvfs does not know of */
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 2 * MB, false);
    open_hub();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit limit = {MB, MB};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        nib_status s = pull("USER/REPO");
        _exit(s == NIB_ERR_IO && strstr(e.message, "too large") ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    nib_hub_close(&hub);
}

static void test_dead(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 2 * MB, false);
    test_hub.hangs = 1; /* then it comes to life */
    open_hub();
    hub.timeout = 1;
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    nib_hub_close(&hub);

    test_hub_reset();
    test_hub_add("m.gguf", 2 * MB, false);
    test_hub.per_second = 50; /* alive, as it were */
    open_hub();
    hub.timeout = 1;
    hub.retries = 0;
    double start = nib_now();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_true(nib_now() - start < 60);
    nib_hub_close(&hub);
    /* nobody there */
    test_hub_reset();
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
    open_hub();
    start = nib_now();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_true(nib_now() - start < 30);
    assert_non_null(strstr(e.message, "no network"));
    nib_hub_close(&hub);
    setenv("HF_ENDPOINT", "http://no-such-host.invalid", 1);
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "no-such-host.invalid"));
    nib_hub_close(&hub);
}

static atomic_bool cancel;
static void cancel_soon(void *arg, const nib_hub_progress *p) {
    (void)arg;
    if (p->done > 2 * MB) atomic_store(&cancel, true);
}

/* Interrupted, then a byte on the disk goes bad: of all that had come only its chunk is fetched. */
static void test_bad_disk(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 8 * MB, false);
    test_hub.per_second = 4 * MB;
    open_hub();
    hub.cancel = &cancel;
    atomic_store(&cancel, false);
    hub.progress = cancel_soon;
    hub.connections = 1;
    assert_int_equal(pull("USER/REPO"), NIB_ERR_CANCELLED);
    size_t before = test_hub_sent();
    assert_true(exists(part_of(f, ".journal")));
    int fd = open(part_of(f, ""), O_RDWR);
    uint8_t b;
    assert_int_equal(pread(fd, &b, 1, CHUNK + 1000), 1);
    b ^= 1;
    assert_int_equal(pwrite(fd, &b, 1, CHUNK + 1000), 1);
    close(fd);
    atomic_store(&cancel, false);
    hub.progress = count_stages;
    test_hub.per_second = 0;
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    /* one chunk more than the file, and what was under way at the interruption */
    assert_in_range(test_hub_sent(), f->n + CHUNK, f->n + CHUNK + (size_t)MB);
    assert_true(before > 2 * MB && stages[NIB_HUB_CHECKING] > 0);
    nib_hub_close(&hub);
}

/* The server sends one byte wrong, once: its chunk is found and replaced. */
static void test_flip(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 8 * MB, false);
    test_hub.flips = 1;
    test_hub.flip_at = 5 * CHUNK + 77;
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub_sent(), f->n + 6 * CHUNK); /* chunks 0 to 5 once more, no further */
    assert_true(stages[NIB_HUB_REPAIRING] > 0);
    nib_hub_close(&hub);
    /* wrong for good: an end with a clear error, and no file */
    test_hub_reset();
    f = test_hub_add("m.gguf", 2 * MB, false);
    f = &test_hub_files[0];
    test_hub.flips = 1000;
    test_hub.flip_at = 5 * CHUNK + 77;
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, "arrived damaged twice"));
    assert_int_equal(test_hub_sent(), 2 * f->n);
    assert_false(exists(in_cache("snapshots")));
    /* and it heals, with what is here */
    test_hub.flips = 0;
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub_sent(), 2 * f->n + 6 * CHUNK);
    nib_hub_close(&hub);
    /* without ranges there is only everything again */
    test_hub_reset();
    f = test_hub_add("m.gguf", MB, false);
    test_hub.no_ranges = true;
    test_hub.flips = 1;
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_int_equal(test_hub_sent(), 2 * f->n);
    nib_hub_close(&hub);
}

/* A journal that is cut, or of something else, or nonsense. */
static void test_bad_journal(void **state) {
    (void)state;
    static const char *const journals[] = {
        "",
        "nib-part 1 999 262144 x\n0 262144 0\n",
        "nib-part 1 %zu 262144 %s\n0 262144 0123456789abcdef\n1 99999999999999 1\n-1 5 5\n3 ",
        "nib-part 1 %zu 262144 %s\n77777 1 1\n",
        "nib-part 1 %zu 262144 %s\n\n\n\xff\xff\n0\n0 1\n0 0 0\n",
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(journals); i++) {
        test_hub_reset();
        const test_hub_file *f = test_hub_add("m.gguf", MB, false);
        open_hub();
        char text[400], line[1200];
        snprintf(line, sizeof line, "mkdir -p '%s'; head -c %zu /dev/zero > '%s'",
                 in_cache("blobs"), f->n, part_of(f, ""));
        assert_int_equal(system(line), 0);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, journals[i], f->n, f->sha256);
#pragma GCC diagnostic pop
        test_ok(nib_file_write(part_of(f, ".journal"), text, strlen(text), &e), &e);
        test_ok(pull("USER/REPO"), &e);
        same_file(path, f);
        nib_hub_close(&hub);
    }
}

static void *pull_in_thread(void *arg) {
    nib_hub h;
    nib_error why;
    nib_hub_ref r;
    nib_hub_plan plan;
    char where[NIB_HUB_PATH];
    nib_status s = nib_hub_open(&h, &why);
    h.pause = 0.01;
    if (s == NIB_OK) s = nib_hub_parse("USER/REPO", NULL, &r, &why);
    if (s == NIB_OK) s = nib_hub_plan_make(&h, &r, false, NULL, &plan, &why);
    if (s == NIB_OK) {
        s = nib_hub_pull(&h, &plan, where, &why);
        nib_hub_plan_free(&plan);
    }
    nib_hub_close(&h);
    *(nib_status *)arg = s;
    return NULL;
}

static void test_two_at_once(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 4 * MB, false);
    test_hub.per_second = 4 * MB;
    pthread_t t[3];
    nib_status s[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, pull_in_thread, &s[i]), 0);
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(s[i], NIB_OK);
    }
    assert_int_equal(test_hub_sent(), f->n); /* one pulled, the others waited */
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    nib_hub_close(&hub);
}

static void test_offline_and_settings(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", MB, false);
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    nib_hub_close(&hub);
    setenv("HF_HUB_OFFLINE", "1", 1);
    open_hub();
    assert_true(hub.offline);
    long n_api = test_hub.n_api;
    assert_int_equal(pull("USER/REPO"), NIB_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "HF_HUB_OFFLINE"));
    assert_int_equal(test_hub.n_api, n_api);
    nib_hub_ref r;
    test_ok(nib_hub_parse("USER/REPO", NULL, &r, &e), &e);
    test_ok(nib_hub_resolve(&hub, &r, path, &e), &e);
    same_file(path, f);
    nib_hub_close(&hub);
    /* where things are */
    static const struct {
        const char *name, *value, *cache;
    } places[] = {
        {"HOME", "/h", "/h/.cache/huggingface/hub"},
        {"XDG_CACHE_HOME", "/x", "/x/huggingface/hub"},
        {"HF_HOME", "/hf", "/hf/hub"},
        {"HUGGINGFACE_HUB_CACHE", "/old/", "/old"},
        {"HF_HUB_CACHE", "/new", "/new"},
    };
    char home[600];
    snprintf(home, sizeof home, "%s", getenv("HOME") ? getenv("HOME") : "/");
    unsetenv("HF_HUB_CACHE"), unsetenv("HF_HOME");
    for (size_t i = 0; i < NIB_ARRAY_LEN(places); i++) {
        setenv(places[i].name, places[i].value, 1);
        test_ok(nib_hub_open(&hub, &e), &e);
        assert_string_equal(hub.cache, places[i].cache);
        nib_hub_close(&hub);
    }
    setenv("HOME", home, 1);
    unsetenv("XDG_CACHE_HOME");
    /* the token file; and a token that would be two headers */
    test_hub_reset();
    assert_int_equal(mkdir(getenv("HF_HOME"), 0777), 0);
    char token[700];
    snprintf(token, sizeof token, "%s/token", getenv("HF_HOME"));
    test_ok(nib_file_write(token, "hf_abc\n", 7, &e), &e);
    test_ok(nib_hub_open(&hub, &e), &e);
    assert_string_equal(hub.token, "hf_abc");
    nib_hub_close(&hub);
    setenv("HF_TOKEN", "a\r\nX-Evil: 1", 1);
    assert_int_equal(nib_hub_open(&hub, &e), NIB_ERR_ARGUMENT);
    setenv("HF_TOKEN", "ok", 1);
    setenv("HF_ENDPOINT", "ftp://x", 1);
    assert_int_equal(nib_hub_open(&hub, &e), NIB_ERR_ARGUMENT);
}

static void test_proxy(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", MB, false);
    char proxy[64];
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", test_hub_port(false));
    test_hub.no_redirect = true;
    setenv("HF_ENDPOINT", "http://hub.invalid", 1);
    setenv("http_proxy", proxy, 1);
    unsetenv("no_proxy");
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    assert_true(test_hub.through_proxy);
    nib_hub_close(&hub);
}

/* A cache that cannot be written to. */
static void test_no_write(void **state) {
    (void)state;
    test_hub_reset();
    test_hub_add("m.gguf", MB, false);
    test_ok(nib_file_write(test_hub_cache(), "", 0, &e),
            &e); /* a file where the folder should be */
    open_hub();
    assert_int_equal(pull("USER/REPO"), NIB_ERR_IO);
    assert_non_null(strstr(e.message, "HF_HUB_CACHE"));
    nib_hub_close(&hub);
    test_hub_reset();
    test_hub_add("m.gguf", MB, false);
    assert_int_equal(mkdir(test_hub_cache(), 0555), 0);
    open_hub();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (getuid() == 0 && setuid(65534)) _exit(2);
        nib_status s = pull("USER/REPO");
        _exit(s == NIB_ERR_IO && strstr(e.message, "Permission denied") ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    nib_hub_close(&hub);
}

/* Whatever allocation fails: an error and no leak, and the next pull brings the file. */
static void test_no_memory(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m.gguf", 300000, false);
    int failed = 0;
    for (long n = 1; n < 60; n++) {
        open_hub();
        hub.retries = 0;
        nib_alloc_fail_after(n);
        nib_status s = pull("USER/REPO");
        nib_alloc_fail_after(0);
        if (s == NIB_OK)
            same_file(path, f);
        else
            failed++;
        nib_hub_close(&hub);
    }
    assert_true(failed > 10);
    open_hub();
    test_ok(pull("USER/REPO"), &e);
    same_file(path, f);
    nib_hub_close(&hub);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_pull),    cmocka_unit_test(test_parallel),
        cmocka_unit_test(test_odd_sizes),     cmocka_unit_test(test_split_and_source),
        cmocka_unit_test(test_url),           cmocka_unit_test(test_url_resume),
        cmocka_unit_test(test_statuses),      cmocka_unit_test(test_busy_server),
        cmocka_unit_test(test_cut),           cmocka_unit_test(test_no_ranges),
        cmocka_unit_test(test_wrong_answers), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_dead),          cmocka_unit_test(test_bad_disk),
        cmocka_unit_test(test_flip),          cmocka_unit_test(test_bad_journal),
        cmocka_unit_test(test_two_at_once),   cmocka_unit_test(test_offline_and_settings),
        cmocka_unit_test(test_proxy),         cmocka_unit_test(test_no_write),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
