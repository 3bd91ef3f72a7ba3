/* nib serve as a person starts it: what it refuses, that it answers, that a signal ends it in
 * order. */
#include "httpclient.h"
#include "testcmd.h"
#include "tinymodel.h"
#ifdef NIB_HAVE_SERVER
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void refuses(void **state) {
    (void)state;
    test_nib(NULL, "serve --host 0.0.0.0");
    test_failed(1, "--api-key-file");
    test_nib(NULL, "serve /no/such/model.gguf");
    test_failed(1, "/no/such/model.gguf");
    test_nib(NULL, "serve --port 99999");
    test_failed(2, "port");
    test_nib(NULL, "serve --host no.such.host.invalid --api-key-file /dev/null");
    test_failed(1, "no key");
    test_nib(NULL, "serve /no/such/a.gguf /no/such/b.gguf"); /* several are possible */
    test_failed(1, "/no/such/a.gguf");
}

static void serves_and_ends(void **state) {
    (void)state;
    const char *model = test_tiny_model("serve.gguf", &(test_tiny){.chat_template = test_chatml});
    char log[256];
    snprintf(log, sizeof log, "%s/serve.log", test_tmp());
    pid_t child = fork();
    if (child == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 2);
        execl(NIB_COMMAND, "nib", "serve", model, "--port", "0", "--threads", "1", (char *)NULL);
        _exit(127);
    }
    nib_buf text = {0};
    int port = 0;
    double until = nib_now() + 300; /* a machine may stand still for a minute */
    while (!port) {
        assert_true(nib_now() < until);
        usleep(20000);
        nib_buf_clear(&text);
        if (nib_file_read(log, 1 << 20, &text, NULL) != NIB_OK || !text.len) continue;
        const char *at = strstr(text.data, "http://127.0.0.1:");
        if (at && strstr(text.data, "ready")) port = atoi(at + 17);
    }
    test_reply *r = test_post(port, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"secret words\"}],"
                              "\"max_tokens\":2}");
    assert_int_equal(r->status, 200);
    kill(child, SIGTERM);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    nib_buf_clear(&text);
    test_ok(nib_file_read(log, 1 << 20, &text, NULL), NULL);
    assert_non_null(strstr(text.data, "POST /v1/chat/completions 200"));
    assert_null(strstr(text.data, "secret"));
    nib_buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(serves_and_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void refuses(void **state) {
    (void)state;
    test_nib(NULL, "serve");
    test_failed(1, "libevent-dev");
}
int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
