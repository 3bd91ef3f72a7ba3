#include "testcmd.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

extern char **environ;
test_result ran;
static char command_line[8192];

static void split(char *line, char **argv, size_t max) {
    size_t n = 0;
    argv[n++] = NIB_COMMAND;
    for (char *p = line; *p;) {
        p += strspn(p, " ");
        if (!*p) break;
        if (n + 1 >= max) fail_msg("too many arguments");
        char *to = p, *word = p;
        bool quoted = false;
        for (; *p && (quoted || *p != ' '); p++) {
            if (*p == '\'')
                quoted = !quoted;
            else
                *to++ = *p;
        }
        bool more = *p != 0;
        *to = 0;
        p += more;
        argv[n++] = word;
    }
    argv[n] = NULL;
}

static void read_some(int fd, nib_buf *b, struct pollfd *slot) {
    char chunk[65536];
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n > 0)
        nib_buf_put(b, chunk, (size_t)n);
    else if (n == 0 || errno != EINTR)
        slot->fd = -1;
}

int test_nib(const char *input, const char *line, ...) {
    va_list ap;
    va_start(ap, line);
    vsnprintf(command_line, sizeof command_line, line, ap);
    va_end(ap);
    char words[sizeof command_line], *argv[64];
    snprintf(words, sizeof words, "%s", command_line);
    split(words, argv, NIB_ARRAY_LEN(argv));

    nib_buf_free(&ran.out);
    nib_buf_free(&ran.err);
    ran = (test_result){0};
    nib_buf_puts(&ran.out, "");
    nib_buf_puts(&ran.err, "");
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        fail_msg("no pipes");
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, in[0], 0);
    posix_spawn_file_actions_adddup2(&fa, out[1], 1);
    posix_spawn_file_actions_adddup2(&fa, err[1], 2);
    pid_t pid;
    if (posix_spawn(&pid, NIB_COMMAND, &fa, NULL, argv, environ))
        fail_msg("cannot start %s", NIB_COMMAND);
    posix_spawn_file_actions_destroy(&fa);
    close(in[0]), close(out[1]), close(err[1]);
    signal(SIGPIPE, SIG_IGN);

    size_t left = input ? strlen(input) : 0;
    struct pollfd fds[3] = {
        {out[0], POLLIN, 0}, {err[0], POLLIN, 0}, {left ? in[1] : -1, POLLOUT, 0}};
    if (!left) close(in[1]), in[1] = -1;
    double start = nib_now();
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        if (nib_now() - start > 60) {
            kill(pid, SIGKILL);
            fail_msg("nib %s: still running after a minute", command_line);
        }
        poll(fds, 3, 1000);
        if (fds[0].fd >= 0 && fds[0].revents) read_some(out[0], &ran.out, &fds[0]);
        if (fds[1].fd >= 0 && fds[1].revents) read_some(err[0], &ran.err, &fds[1]);
        if (fds[2].fd >= 0 && fds[2].revents) {
            ssize_t n = write(in[1], input, left);
            if (n > 0) input += n, left -= (size_t)n;
            if (left == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
                close(in[1]), in[1] = fds[2].fd = -1;
        }
    }
    if (in[1] >= 0) close(in[1]);
    close(out[0]), close(err[0]);
    int w;
    while (waitpid(pid, &w, 0) < 0 && errno == EINTR) {
    }
    return ran.status = WIFEXITED(w) ? WEXITSTATUS(w) : 128 + WTERMSIG(w);
}

static void show(const char *what) {
    fail_msg(
        "nib %s: %s\n--- exit status %d, standard output:\n%.4000s\n--- standard error:\n%.4000s",
        command_line, what, ran.status, ran.out.data, ran.err.data);
}

void test_status(int expected) {
    char text[64];
    snprintf(text, sizeof text, "expected exit status %d", expected);
    if (ran.status != expected) show(text);
}

static void has(const nib_buf *b, const char *name, const char *part) {
    char text[1024];
    snprintf(text, sizeof text, "expected '%s' on %s", part, name);
    if (!strstr(b->data, part)) show(text);
}
void test_out_has(const char *part) {
    has(&ran.out, "standard output", part);
}
void test_err_has(const char *part) {
    has(&ran.err, "standard error", part);
}

void test_failed(int status, const char *part) {
    test_status(status);
    test_err_has(part);
    const char *end = strchr(ran.err.data, '\n');
    if (strncmp(ran.err.data, "nib: ", 5) != 0 || !end || end[1])
        show("expected exactly one line 'nib: ...' on standard error");
}
