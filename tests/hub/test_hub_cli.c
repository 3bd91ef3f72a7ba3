/* pull, ls, rm, verify and the names of models, as a person types them. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "testcmd.h"
#include "testhub.h"
#include "tinymodel.h"

enum { MB = 1 << 20 };
extern char **environ;

/* A model that runs, as a file of the hub. */
static test_hub_file *add_model(const char *name) {
    nib_error e;
    nib_buf b = {0};
    test_ok(nib_file_read(test_tiny_model("hub.gguf", NULL), (size_t)1 << 28, &b, &e), &e);
    test_hub_file *f = test_hub_add_bytes(name, b.data, b.len);
    nib_buf_free(&b);
    return f;
}

static const char *in_cache(const char *name) {
    static char ring[4][1200];
    static int at;
    char *out = ring[at++ & 3];
    snprintf(out, sizeof ring[0], "%s/models--USER--REPO/%s", test_hub_cache(), name);
    return out;
}

static void test_life(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = add_model("tiny-Q4_K_M.gguf");
    test_nib(NULL, "ls");
    test_status(0);
    test_out_has("No models");
    test_nib(NULL, "show USER/REPO");
    test_failed(1, "nib pull hf.co/USER/REPO");
    test_nib(NULL, "pull --dry-run USER/REPO");
    test_status(0);
    test_out_has("tiny-Q4_K_M.gguf");
    assert_int_equal(test_hub.n_resolve, 0);
    test_nib(NULL, "pull USER/REPO");
    test_status(0);
    test_out_has("snapshots/" TEST_COMMIT "/tiny-Q4_K_M.gguf\n");
    test_err_has("licence mit");
    test_nib(NULL, "pull --json USER/REPO");
    test_status(0);
    test_out_has("\"commit\": \"" TEST_COMMIT "\"");
    test_out_has(f->sha256);
    assert_int_equal(ran.err.len > 0, 1);
    static const char *const runs[] = {"show USER/REPO", "tokenize hf.co/USER/REPO:q4_k_m hello",
                                       "run USER/REPO:tiny-Q4_K_M.gguf --raw -p a -n 2 --seed 1",
                                       "render --template USER/REPO --vars -"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(runs); i++) {
        test_nib("{\"messages\": []}", "%s", runs[i]);
        if (i < 3) test_status(0);
        if (i == 3) test_failed(1, "template"); /* the model was found: it has none */
    }
    test_nib(NULL, "convert USER/REPO -o %s/folder", test_tmp());
    test_status(0);
    test_nib(NULL, "show USER/REPO:Q8_0");
    test_failed(1, "nib pull hf.co/USER/REPO:Q8_0");
#ifdef NIB_HAVE_SERVER
    test_nib(NULL, "serve USER/REPO:Q8_0");
    test_failed(1, "nib pull hf.co/USER/REPO:Q8_0");
#endif
    test_nib(NULL, "ls");
    test_status(0);
    test_out_has("USER/REPO:Q4_K_M");
    test_out_has("1 model,");
    test_nib(NULL, "ls --json");
    test_status(0);
    test_out_has("\"quantisation\": \"Q4_K_M\"");
    test_out_has("\"format\": \"gguf\"");
    test_nib(NULL, "ls --aliases");
    test_status(0);
    test_out_has("smollm2-135m");
    test_nib(NULL, "verify");
    test_status(0);
    test_out_has("ok       USER/REPO:Q4_K_M");
    /* a byte goes bad */
    char blob[200];
    snprintf(blob, sizeof blob, "blobs/%s", f->sha256);
    int fd = open(in_cache(blob), O_WRONLY);
    assert_int_equal(pwrite(fd, "\x5a", 1, (off_t)f->n - 1), 1);
    close(fd);
    test_nib(NULL, "verify USER/REPO");
    test_status(1);
    test_out_has("damaged");
    test_err_has("1 model is damaged");
    test_nib(NULL, "verify --json");
    test_status(1);
    test_out_has("\"result\": \"damaged\"");
    test_nib(NULL, "rm USER/REPO");
    test_failed(2, "--yes");
    test_nib(NULL, "rm -y USER/REPO");
    test_status(0);
    test_out_has("removed USER/REPO:Q4_K_M");
    assert_int_not_equal(access(in_cache(""), F_OK), 0); /* not even its folder */
    test_nib(NULL, "rm -y USER/REPO");
    test_failed(1, "not on this machine");
}

static void test_errors(void **state) {
    (void)state;
    test_hub_reset();
    test_nib(NULL, "pull");
    test_failed(2, "missing");
    test_nib(NULL, "pull nosuch");
    test_failed(2, "no alias 'nosuch'");
    test_nib(NULL, "pull smollm2-135n");
    test_failed(2, "did you mean 'smollm2-135m'");
    test_nib(NULL, "pull --sha256 5 https://example.com/x.gguf");
    test_failed(2, "64 digits");
    test_nib(NULL, "pull USER/NOTHERE");
    test_failed(1, "404");
    test_hub_add("a-Q8_0.gguf", 100, false);
    test_nib(NULL, "pull USER/REPO:Q2_K");
    test_failed(1, "it has Q8_0");
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
    test_nib(NULL, "pull USER/REPO");
    test_failed(1, "no network");
    setenv("HF_HUB_OFFLINE", "1", 1);
    test_nib(NULL, "pull USER/REPO");
    test_failed(1, "HF_HUB_OFFLINE");
    unsetenv("HF_HUB_OFFLINE");
}

/* Another tool's cache: two commits, a shared blob, a model of its own kind, rubbish. */
static void test_foreign_cache(void **state) {
    (void)state;
    test_hub_reset();
    char line[4000];
    snprintf(
        line, sizeof line,
        "mkdir -p '%s' && cd '%s' && mkdir -p models--USER--REPO/blobs models--USER--REPO/refs "
        "models--USER--REPO/snapshots/%.39s0 models--USER--REPO/snapshots/%s .locks "
        "datasets--a--b models--broken models--gpt2/snapshots/x/deep && cd models--USER--REPO && "
        "cp '%s' blobs/aa && ln -s ../../blobs/aa snapshots/%.39s0/m-Q8_0.gguf && "
        "ln -s ../../blobs/aa snapshots/%s/m-Q8_0.gguf && printf %s > refs/main && "
        "printf old > blobs/bb && ln -s ../../blobs/bb snapshots/%.39s0/m-Q4_0.gguf && "
        "ln -s ../../blobs/none snapshots/%s/gone-F16.gguf && printf {} > "
        "snapshots/%s/config.json && printf plain > ../models--gpt2/snapshots/x/deep/q-F32.gguf",
        test_hub_cache(), test_hub_cache(), TEST_COMMIT, TEST_COMMIT,
        test_tiny_model("foreign.gguf", NULL), TEST_COMMIT, TEST_COMMIT, TEST_COMMIT, TEST_COMMIT,
        TEST_COMMIT, TEST_COMMIT);
    assert_int_equal(system(line), 0);
    test_nib(NULL, "ls");
    test_status(0);
    test_out_has("USER/REPO:Q8_0");
    test_out_has("USER/REPO:Q4_0");
    test_out_has("gpt2:F32");
    test_out_has("3 models");
    test_nib(NULL, "show USER/REPO"); /* refs/main's commit comes first, though Q4_0 is nearer */
    test_status(0);
    test_out_has("snapshots/" TEST_COMMIT "/m-Q8_0.gguf");
    test_nib(NULL, "verify USER/REPO:Q8_0");
    test_status(0);
    test_out_has("unknown");
    test_nib(NULL, "rm -y USER/REPO");
    test_failed(1, "which of");
    test_nib(NULL, "rm -y USER/REPO:Q8_0");
    test_status(0);
    assert_int_not_equal(access(in_cache("blobs/aa"), F_OK), 0);
    assert_int_equal(access(in_cache("blobs/bb"), F_OK), 0);
    assert_int_equal(access(in_cache("snapshots/" TEST_COMMIT "/config.json"), F_OK), 0);
    assert_int_equal(access(in_cache("refs/main"), F_OK), 0);
    test_nib(NULL, "rm -y gpt2:F32");
    test_failed(1, "no alias"); /* such old names have no reference */
}

/* A blob that another file needs stays; links out of the cache are nobody's business. */
static void test_shared_blob(void **state) {
    (void)state;
    test_hub_reset();
    char line[3000], out[600];
    snprintf(out, sizeof out, "%s/precious", test_tmp());
    snprintf(line, sizeof line,
             "mkdir -p '%s/models--USER--REPO/blobs' '%s/models--USER--REPO/snapshots/%s' && cd "
             "'%s/models--USER--REPO' && printf x > blobs/aa && printf y > '%s' && ln -s "
             "../../blobs/aa snapshots/%s/a-Q8_0.gguf && ln -s ../../blobs/aa "
             "snapshots/%s/copy.bin && ln -s '%s' snapshots/%s/b-Q4_0.gguf",
             test_hub_cache(), test_hub_cache(), TEST_COMMIT, test_hub_cache(), out, TEST_COMMIT,
             TEST_COMMIT, out, TEST_COMMIT);
    assert_int_equal(system(line), 0);
    test_nib(NULL, "rm -y USER/REPO:Q8_0 USER/REPO:Q4_0");
    test_status(0);
    assert_int_equal(access(in_cache("blobs/aa"), F_OK), 0);
    assert_int_equal(access(out, F_OK), 0);
}

/* kill -9 in the middle, again and again: the file is whole in the end, and little came twice. */
static void test_kill(void **state) {
    (void)state;
    test_hub_reset();
    const test_hub_file *f = test_hub_add("m-Q8_0.gguf", 6 * MB, false);
    test_hub.per_second = MB; /* of each of four connections */
    int kills = 0;
    for (size_t goal = MB; goal < 6 * MB; goal += 2 * MB, kills++) {
        char *argv[] = {(char[]){"nib"}, (char[]){"pull"}, (char[]){"USER/REPO"}, NULL};
        posix_spawn_file_actions_t fa;
        posix_spawn_file_actions_init(&fa);
        posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
        pid_t pid;
        assert_int_equal(posix_spawn(&pid, NIB_COMMAND, &fa, NULL, argv, environ), 0);
        posix_spawn_file_actions_destroy(&fa);
        double start = nib_now();
        while (test_hub_sent() < goal + MB / 2 && nib_now() - start < 20) usleep(5000);
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        usleep(100000); /* the server notices */
    }
    assert_int_equal(kills, 3);
    test_nib(NULL, "ls");
    test_status(0);
    test_out_has("1 unfinished download, ");
    test_hub.per_second = 0;
    test_nib(NULL, "pull USER/REPO");
    test_status(0);
    nib_buf b = {0};
    nib_error e;
    test_ok(nib_file_read(in_cache("snapshots/" TEST_COMMIT "/m-Q8_0.gguf"), 8 * MB, &b, &e), &e);
    assert_int_equal(b.len, f->n);
    assert_memory_equal(b.data, f->data, f->n);
    nib_buf_free(&b);
    print_message("%zu bytes came for %zu, after %d kills\n", test_hub_sent(), f->n, kills);
    assert_true(test_hub_sent() < f->n + (size_t)kills * 3 * MB);
    test_nib(NULL, "rm --unfinished");
    test_status(0);
    test_out_has("removed 0 unfinished");
}

/* Runs nib at a terminal, answers its first question, and returns all it showed. */
static const char *at_terminal(const char *answer, int *status, const char *a, const char *b) {
    static char shown[8192];
    size_t n = 0;
    int fd;
    fflush(stdout);
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    if (pid == 0) {
        execl(NIB_COMMAND, "nib", a, b, (char *)NULL);
        _exit(99);
    }
    double start = nib_now();
    bool answered = false;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (nib_now() - start > 60) kill(pid, SIGKILL);
        poll(&p, 1, 100);
        ssize_t k = p.revents ? read(fd, shown + n, sizeof shown - 1 - n) : 0;
        if (p.revents && k <= 0) break;
        n += (size_t)k;
        shown[n] = 0;
        if (answered || (!strstr(shown, "[Y/n] ") && !strstr(shown, "[y/N] "))) continue;
        answered = true;
        assert_int_equal(write(fd, answer, strlen(answer)), (ssize_t)strlen(answer));
    }
    waitpid(pid, status, 0);
    close(fd);
    return shown;
}

/* At a terminal a missing model is offered, and removing one is asked about. */
static void test_questions(void **state) {
    (void)state;
    int status;
    test_hub_reset();
    add_model("tiny-Q4_K_M.gguf");
    const char *shown = at_terminal("n\n", &status, "show", "USER/REPO");
    assert_non_null(strstr(shown, "hf.co/USER/REPO is not on this machine. Pull it? [Y/n]"));
    assert_non_null(strstr(shown, "nib pull hf.co/USER/REPO"));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_int_equal(test_hub.n_api, 0); /* nothing is asked of the hub before the answer */
    shown = at_terminal("\n", &status, "show", "USER/REPO");
    assert_non_null(strstr(shown, "architecture"));
    assert_int_equal(status, 0);
    shown = at_terminal("\n", &status, "rm", "USER/REPO");
    assert_non_null(strstr(shown, "Remove USER/REPO:Q4_K_M"));
    test_nib(NULL, "show USER/REPO");
    test_status(0); /* Enter is no */
    shown = at_terminal("y\n", &status, "rm", "USER/REPO");
    assert_non_null(strstr(shown, "freed"));
    test_nib(NULL, "show USER/REPO");
    test_failed(1, "nib pull");
    shown = at_terminal("n\n", &status, "chat", NULL);
    assert_non_null(
        strstr(shown, "qwen2.5-0.5b (491 MB, licence Apache-2.0) is not on this machine"));
    setenv("HF_HUB_OFFLINE", "1", 1);
    shown = at_terminal("y\n", &status, "show", "USER/REPO");
    assert_null(strstr(shown, "[Y/n]"));
    unsetenv("HF_HUB_OFFLINE");
}

/* Ctrl-C ends a pull in order. */
static void test_interrupt(void **state) {
    (void)state;
    int status;
    test_hub_reset();
    test_hub_add("m-Q8_0.gguf", 6 * MB, false);
    test_hub.per_second = MB;
    int fd;
    char shown[4096] = "";
    fflush(stdout);
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    if (pid == 0) {
        execl(NIB_COMMAND, "nib", "pull", "USER/REPO", (char *)NULL);
        _exit(99);
    }
    double start = nib_now();
    while (test_hub_sent() < 2 * MB && nib_now() - start < 60) usleep(5000);
    assert_int_equal(write(fd, "\003", 1), 1);
    size_t n = 0;
    for (ssize_t k; (k = read(fd, shown + n, sizeof shown - 1 - n)) > 0;) n += (size_t)k;
    shown[n] = 0;
    waitpid(pid, &status, 0);
    close(fd);
    assert_int_equal(WEXITSTATUS(status), 130);
    assert_non_null(strstr(shown, "interrupted: what has arrived is kept"));
}

static void test_unfinished(void **state) {
    (void)state;
    test_hub_reset();
    test_hub_add("m-Q8_0.gguf", 2 * MB, false);
    test_hub.cuts = 1000;
    test_hub.cut_after = 0;
    test_nib(NULL, "pull --retries 0 USER/REPO");
    test_status(1);
    test_err_has("gave up after 1 try: ");
    test_err_has("what has arrived is kept");
    test_nib(NULL, "ls");
    test_out_has("1 unfinished download");
    test_nib(NULL, "rm --unfinished");
    test_status(0);
    test_out_has("removed 1 unfinished");
    test_nib(NULL, "ls");
    assert_null(strstr(ran.out.data, "unfinished"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),          cmocka_unit_test(test_errors),
        cmocka_unit_test(test_foreign_cache), cmocka_unit_test(test_shared_blob),
        cmocka_unit_test(test_kill),          cmocka_unit_test(test_unfinished),
        cmocka_unit_test(test_questions),     cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
