/* The chat as a person uses it: through a pseudo-terminal, with keys. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "testlib.h"
#include "tinymodel.h"

static pid_t child;
static int terminal;
static nib_buf seen; /* all the chat has written */
static size_t at;    /* what the test has looked at */

/* Large enough that a reply lasts seconds, so that there is time to interrupt it. */
static const char *slow_model(void) {
    static const char *path;
    if (!path)
        path = test_tiny_model("slow.gguf", &(test_tiny){.seed = 3,
                                                         .n_embd = 512,
                                                         .n_layer = 6,
                                                         .n_ctx = 8192,
                                                         .chat_template = test_chatml});
    return path;
}
static const char *model(void) {
    static const char *path;
    if (!path)
        path = test_tiny_model(
            "chat.gguf", &(test_tiny){.seed = 1, .n_ctx = 4096, .chat_template = test_chatml});
    return path;
}

static void start(const char *term, const char *model_path, const char *a, const char *b) {
    struct winsize size = {.ws_row = 40, .ws_col = 100};
    nib_buf_free(&seen);
    seen = (nib_buf){0};
    nib_buf_puts(&seen, "");
    at = 0;
    /* libedit does not free the names of keys, nor fontconfig its tables */
    char leaks[256], options[512];
    nib_error e;
    snprintf(leaks, sizeof leaks, "%s/leaks", test_tmp());
    test_ok(nib_file_write(leaks, "leak:libedit\nleak:fontconfig\nleak:pango\n", 40, &e), &e);
    snprintf(options, sizeof options, "print_suppressions=0:suppressions=%s", leaks);
    child = forkpty(&terminal, NULL, NULL, &size);
    assert_true(child >= 0);
    if (child == 0) {
        setenv("XDG_STATE_HOME", test_tmp(), 1);
        setenv("HOME", test_tmp(), 1);
        setenv("TERM", term, 1);
        setenv("LSAN_OPTIONS", options, 1);
        setenv("ASAN_OPTIONS", "fast_unwind_on_malloc=0", 1);
        if (strcmp(term, "no-color") == 0)
            setenv("TERM", "xterm", 1), setenv("NO_COLOR", "1", 1);
        else
            unsetenv("NO_COLOR");
        if (chdir(test_tmp())) _exit(127);
        /* end-of-turn tokens are banned: the model would end its nonsense at random */
        execl(NIB_COMMAND, "nib", "chat", model_path, "--logit-bias", "2=-inf", "--logit-bias",
              "260=-inf", "--seed", "7", a, b, (char *)NULL);
        _exit(127);
    }
}

static void keys(const char *text) {
    assert_int_equal(write(terminal, text, strlen(text)), strlen(text));
}

/* Waits until 'text' has been written after what was expected before. */
static void expect(const char *text) {
    double limit = nib_now() + 30;
    for (;;) {
        char *found = seen.data ? strstr(seen.data + at, text) : NULL;
        if (found) {
            at = (size_t)(found - seen.data) + strlen(text);
            return;
        }
        struct pollfd p = {terminal, POLLIN, 0};
        char chunk[4096];
        ssize_t n = 0;
        if (poll(&p, 1, 200) > 0) n = read(terminal, chunk, sizeof chunk);
        for (ssize_t i = 0; i < n; i++)
            if (chunk[i]) nib_buf_putc(&seen, chunk[i]);
        if (n < 0 || nib_now() > limit) {
            kill(child, SIGKILL);
            fail_msg("expected '%s'; the chat wrote:\n%s", text, seen.data + at);
        }
    }
}

static int end_status(void) {
    int w;
    char chunk[4096];
    double limit = nib_now() + 30;
    pid_t done = 0;
    while (done == 0 && nib_now() < limit) {
        struct pollfd p = {terminal, POLLIN, 0};
        if (poll(&p, 1, 50) > 0) {
            ssize_t n = read(terminal, chunk, sizeof chunk);
            for (ssize_t i = 0; i < n; i++)
                if (chunk[i]) nib_buf_putc(&seen, chunk[i]);
        }
        done = waitpid(child, &w, WNOHANG);
    }
    close(terminal);
    if (done != child) {
        kill(child, SIGKILL);
        fail_msg("the chat did not end; it wrote:\n%s", seen.data + at);
    }
    return WIFEXITED(w) ? WEXITSTATUS(w) : 128 + WTERMSIG(w);
}

static void prompt(void) {
    expect(">>>");
}
static void line(const char *text) {
    keys(text);
    keys("\r");
}

/* The i-th message of a saved conversation, counted from the end when negative. */
static const char *saved(const char *name, int i, const char *key) {
    static json_t *v;
    char path[256];
    nib_buf b = {0};
    nib_error e;
    json_decref(v);
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    test_ok(nib_json_parse(b.data, b.len, &v, &e), &e);
    nib_buf_free(&b);
    const json_t *list = json_object_get(v, "messages");
    size_t n = json_array_size(list);
    return json_string_value(
        json_object_get(json_array_get(list, i < 0 ? n - (size_t)-i : (size_t)i), key));
}
static size_t n_saved(const char *name) {
    for (int n = 0;; n++)
        if (!saved(name, n, "role")) return (size_t)n;
}

static void test_conversation(void **state) {
    (void)state;
    start("xterm", model(), "-n", "20");
    expect("tiny model");
    expect("Ctrl-D leaves");
    prompt();
    line("hello");
    expect("20 tokens, ");
    expect(" tok/s");
    expect("stopped at the limit of tokens]");
    prompt();
    line("\"\"\"");
    expect("...");
    line("line one");
    expect("...");
    line("  line two\"\"\"");
    expect("tok/s");
    prompt();
    line("up\\");
    expect("...");
    line("down");
    expect("tok/s");
    prompt();
    line("//etc is a folder");
    expect("tok/s");
    prompt();
    line("/save one.json");
    expect("Saved in one.json");
    prompt();
    assert_int_equal(n_saved("one.json"), 8);
    assert_string_equal(saved("one.json", 0, "content"), "hello");
    assert_string_equal(saved("one.json", 2, "content"), "line one\n  line two");
    assert_string_equal(saved("one.json", 4, "content"), "up\ndown");
    assert_string_equal(saved("one.json", 6, "content"), "/etc is a folder");
    line("/undo");
    expect("Taken back: /etc is a folder");
    line("/regen");
    expect("tok/s");
    line("/save two.json");
    expect("Saved");
    assert_int_equal(n_saved("two.json"), 6);
    line("/clear");
    expect("forgotten");
    line("/undo");
    expect("nothing to undo");
    line("/load one.json");
    expect("8 messages");
    line("/stats");
    expect("messages");
    expect("8");
    prompt();
    keys("\004");
    assert_int_equal(end_status(), 0);
    assert_non_null(strstr(seen.data, "\033[2m")); /* dim timings: colour on a terminal */
}

#ifdef NIB_HAVE_EDIT
static void test_keys(void **state) {
    (void)state;
    start("xterm", model(), "-n", "5");
    prompt();
    keys("\033[200~pasted\r\ttwice\033[201~\r"); /* one message, tab and newline kept */
    expect("tok/s");
    prompt();
    keys("caf\303\251\033\rau lait\177\r"); /* Alt-Enter, backspace */
    expect("tok/s");
    prompt();
    line("/save keys.json");
    expect("Saved");
    prompt();
    assert_string_equal(saved("keys.json", 0, "content"), "pasted\n    twice");
    assert_string_equal(saved("keys.json", 2, "content"), "caf\303\251\nau lai");
    line("/clear");
    expect("forgotten");
    prompt();
    keys("/sats\033[D\033[D\033[Dt\r"); /* a letter put in between */
    expect("threads");
    prompt();
    keys("\033[A\r"); /* up: the same again */
    expect("threads");
    prompt();
    keys("/ret\t3\r");
    expect("last 3 exchanges");
    prompt();
    keys("/s\t"); /* ambiguous: listed */
    expect("/save");
    expect("/system");
    keys("\003");
    prompt();
    keys("/save tab.json\r");
    expect("Saved");
    keys("/load ta\t\r");
    expect("0 messages from tab.json");
    prompt();
    keys("half a line\003"); /* dropped */
    expect("^C");
    prompt();
    line("/set temp 0.25");
    expect("temp is 0.25.");
    keys("word other\027\025/retention 2\r"); /* Ctrl-W, Ctrl-U */
    expect("last 2 exchanges");
    prompt();
    line("/set");
    expect("temp");
    expect("0.25");
    expect("seed");
    prompt();
    line("/frob");
    expect("unknown command /frob");
    line("/sav x");
    expect("did you mean /save?");
    line("/set tmep 1");
    expect("did you mean 'temp'?");
    line("-retention_4");
    expect("last 4 exchanges");
    line("/think hide");
    expect("think is hide.");
    line("/system Be brief.");
    expect("set");
    line("/system");
    expect("Be brief.");
    prompt();
    line("/quit");
    assert_int_equal(end_status(), 0);
    char path[256];
    struct stat st;
    nib_buf b = {0};
    nib_error e;
    snprintf(path, sizeof path, "%s/nib/history", test_tmp());
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    assert_non_null(strstr(b.data, "/retention 3\n"));
    assert_non_null(strstr(b.data, "pasted\342\220\244"));
    assert_null(strstr(b.data, "half a line"));
    nib_buf_free(&b);
    /* the next chat remembers */
    start("xterm", model(), "-n", "5");
    prompt();
    keys("\033[A\033[A\033[A\r");
    expect("Be brief.");
    prompt();
    keys("\004");
    assert_int_equal(end_status(), 0);
}
#endif

static void test_interrupt(void **state) {
    (void)state;
    start("xterm", slow_model(), "-n", "6000");
    prompt();
    line("speak");
    usleep(500000);
    keys("\003");
    expect("interrupted]");
    prompt();
    line("/save cut.json");
    expect("Saved");
    assert_int_equal(n_saved("cut.json"), 2);
    assert_true(strlen(saved("cut.json", 1, "content")) > 0); /* what there was is kept */
    assert_null(strstr(seen.data, "^C"));                     /* nothing is echoed into a reply */
    line("go on");
    usleep(300000);
    kill(child, SIGTERM); /* in the middle of a reply: it ends in order */
    assert_int_equal(end_status(), 128 + SIGTERM);
    start("xterm", model(), "-n", "5");
    prompt();
    kill(child, SIGTERM); /* at the prompt: the terminal gets its mode back */
    assert_int_equal(end_status(), 128 + SIGTERM);
}

static void test_files(void **state) {
    (void)state;
    start("xterm", model(), "-n", "12");
    prompt();
    line("/regen");
    expect("no reply to make again");
    line("/compare x.gguf");
    expect("ask one first");
    line("caf\303\251 \344\270\255");
    expect("tok/s");
    line("/export talk.md");
    expect("Written to talk.md");
    line("/export talk.json");
    expect("Written to talk.json");
    line("/export talk.txt");
    expect(".md, .json or .pdf");
    line("/export talk.pdf");
#ifdef NIB_HAVE_PANGO
    expect("Written to talk.pdf");
#else
    expect("libpango1.0-dev");
#endif
    line("-export");
    expect("Written to chat-20");
    line("/export /nonexistent/a.md");
    expect("/nonexistent/a.md");
    line("/load /nonexistent");
    expect("No such file");
    line("/compare slow.gguf");
    expect("|");
    expect("tiny model");
    expect("tok/s");
    expect("tok/s");
    line("/model /nonexistent.gguf");
    expect("No such file");
    line("/model slow.gguf");
    expect("Going on with tiny model");
    line("/model");
    expect("slow.gguf");
    line("/model chat.gguf");
    expect("Going on");
    line("/benchmark");
    expect("prompt");
    expect(" +- ");
    expect("generation");
    expect(" +- ");
    prompt();
    line("/save end.json");
    expect("Saved");
    assert_int_equal(n_saved("end.json"), 2); /* none of that cost the conversation */
    assert_string_equal(saved("end.json", 0, "content"), "caf\303\251 \344\270\255");
    assert_string_equal(saved("talk.json", 0, "content"), "caf\303\251 \344\270\255");
    line("/help");
    expect("/benchmark");
    prompt();
    keys("\004");
    assert_int_equal(end_status(), 0);
    char path[256];
    nib_buf b = {0};
    nib_error e;
    snprintf(path, sizeof path, "%s/talk.md", test_tmp());
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    assert_non_null(strstr(b.data, "## You\n\ncaf\303\251 \344\270\255\n"));
    nib_buf_free(&b);
#ifdef NIB_HAVE_PANGO
    snprintf(path, sizeof path, "%s/talk.pdf", test_tmp());
    test_ok(nib_file_read(path, 1 << 20, &b, &e), &e);
    assert_int_equal(strncmp(b.data, "%PDF-", 5), 0);
    assert_true(b.len > 2000);
    nib_buf_free(&b);
#endif
}

/* No terminfo to speak of: plain lines, no escape sequences. */
static void test_dumb(void **state) {
    (void)state;
    start("dumb", model(), "-n", "5");
    prompt();
    line("hello");
    expect("tok/s");
    prompt();
    keys("garbage\003");
    prompt();
    keys("\004");
    assert_int_equal(end_status(), 0);
    assert_null(strstr(seen.data, "\033["));
}

static void test_no_color(void **state) {
    (void)state;
    start("no-color", model(), "-n", "5");
    prompt();
    line("hello");
    expect("tok/s");
    prompt();
    line("/help");
    expect("/quit");
    prompt();
    keys("\004");
    assert_int_equal(end_status(), 0);
    static const char *const colours[] = {"\033[1m", "\033[2m", "\033[31m", "\033[36m"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(colours); i++) assert_null(strstr(seen.data, colours[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef NIB_HAVE_EDIT
        cmocka_unit_test(test_keys),
#endif
        cmocka_unit_test(test_conversation), cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_files),        cmocka_unit_test(test_dumb),
        cmocka_unit_test(test_no_color),
    };
    slow_model();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
