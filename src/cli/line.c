/* Lines typed at a terminal, through libedit where it is built in, else as the terminal gives them.
 *
 * libedit edits one line. A newline inside a text (pasted, recalled, or put there with Alt-Enter)
 * is shown as the symbol U+2424 and turned back when the line is read; the history file, one entry
 * a line, uses the same symbol. Ctrl-C arrives as a signal whose handler (host.c) sets a flag: the
 * read returns, and the line is dropped. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include "cli/host.h"
#include "cli/line.h"
#ifdef NIB_HAVE_EDIT
#include <histedit.h>
#endif

#define NEWLINE_SYMBOL "\342\220\244"
enum { HISTORY_LINES = 1000, MAX_LINE = 16 << 20 };

struct nib_line {
    struct termios before; /* the terminal's mode as it was, when has_mode */
    bool has_mode;
    char *history_path;
    nib_complete_fn complete;
    void *complete_arg;
    bool editing;
#ifdef NIB_HAVE_EDIT
    EditLine *el;
    History *history;
    char prompt[64];
#endif
};

bool nib_line_history_path(char *out, size_t n) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int len;
    if (state && *state == '/')
        len = snprintf(out, n, "%s/nib/history", state);
    else if (home && *home == '/')
        len = snprintf(out, n, "%s/.local/state/nib/history", home);
    else
        return false;
    if (len < 0 || (size_t)len >= n) return false;
    for (char *p = out + 1; (p = strchr(p, '/')); p++) { /* make the folders on the way */
        *p = 0;
        if (mkdir(out, 0700) && errno != EEXIST) return false;
        *p = '/';
    }
    return true;
}

/* The terminal as it was found, without some of its local modes. */
static void set_mode(const nib_line *l, tcflag_t without) {
    struct termios t = l->before;
    if (!l->has_mode) return;
    t.c_lflag &= ~without;
    if (without & ICANON) t.c_cc[VMIN] = 1, t.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
}

/* For an end that does not come by nib_line_close. */
static const nib_line *open_line;
static void restore_mode(void) {
    if (open_line) set_mode(open_line, 0);
}

void nib_line_quiet(nib_line *l, bool on) {
    if (!l->editing) set_mode(l, on ? (tcflag_t)ECHO : 0);
}

/* Waits until there is something to read. false: a signal came; it wakes this through a pipe, so
 * none is lost between a look at its flag and the wait. */
static bool wait_for_input(void) {
    struct pollfd p[2] = {{STDIN_FILENO, POLLIN, 0}, {nib_wake_fd(), POLLIN, 0}};
    if (nib_interrupted()) return false;
    if (poll(p, 2, -1) < 0 || p[1].revents) {
        nib_wake_drain();
        return false;
    }
    return true;
}

/* The plain way: the terminal's own line editing. */
static nib_line_end read_plain(const char *prompt, nib_buf *out) {
    fputs(prompt, stdout);
    fflush(stdout);
    while (!wait_for_input())
        if (nib_interrupted()) return NIB_LINE_INTERRUPTED;
    bool end;
    errno = 0;
    if (nib_read_line(stdin, out, &end, NULL) != NIB_OK) {
        clearerr(stdin);
        return errno == EINTR ? NIB_LINE_INTERRUPTED : NIB_LINE_FAILED;
    }
    return end ? NIB_LINE_EOF : NIB_LINE_OK;
}

#ifdef NIB_HAVE_EDIT
static bool put_replaced(nib_buf *b, const char *text, size_t n, nib_str from, const char *to) {
    for (size_t i = 0; i < n;) {
        if (i + from.n <= n && memcmp(text + i, from.p, from.n) == 0) {
            nib_buf_puts(b, to);
            i += from.n;
        } else {
            nib_buf_putc(b, text[i++]);
        }
    }
    return !b->failed;
}

/* The file keeps what several chats at once typed; when it has grown to twice the limit, its older
 * half goes. */
static void append_history(nib_line *l, const char *shown) {
    if (!l->history_path) return;
    int fd = open(l->history_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    FILE *f = fdopen(fd, "a");
    if (!f) {
        close(fd);
        return;
    }
    fprintf(f, "%s\n", shown);
    fclose(f);
}

static void each_history(nib_line *l, void (*fn)(nib_line *l, const char *entry)) {
    nib_buf b = {.max = MAX_LINE};
    if (!l->history_path || nib_file_read(l->history_path, MAX_LINE, &b, NULL) != NIB_OK) {
        nib_buf_free(&b);
        return;
    }
    size_t n_lines = 0, skip;
    for (size_t i = 0; i < b.len; i++) n_lines += b.data[i] == '\n';
    skip = n_lines > HISTORY_LINES ? n_lines - HISTORY_LINES : 0;
    char *p = b.data;
    for (; skip && (p = strchr(p, '\n')); skip--) p++;
    if (n_lines > 2 * HISTORY_LINES && p)
        nib_file_write(l->history_path, p, b.len - (size_t)(p - b.data), NULL);
    for (char *end; p && (end = strchr(p, '\n')); p = end + 1) {
        *end = 0;
        if (*p) fn(l, p);
    }
    nib_buf_free(&b);
}

static volatile sig_atomic_t resized, stopped;
static void on_resize(int sig) {
    (void)sig;
    resized = 1;
    nib_wake();
}
static void on_stop(int sig) {
    (void)sig;
    stopped = 1;
    nib_wake();
}
static void catch_signal(int sig, void (*fn)(int)) {
    struct sigaction a = {.sa_handler = fn};
    sigemptyset(&a.sa_mask);
    sigaction(sig, &a, NULL);
}

static nib_line *line_of(EditLine *el) {
    nib_line *l;
    el_get(el, EL_CLIENTDATA, &l);
    return l;
}

/* Ctrl-Z: the terminal gets its own mode back while nib is stopped. */
static void stop_here(EditLine *el) {
    stopped = 0;
    fputs("\033[?2004l", stdout);
    fflush(stdout);
    el_set(el, EL_PREP_TERM, 0);
    set_mode(line_of(el), 0);
    signal(SIGTSTP, SIG_DFL);
    raise(SIGTSTP);
    catch_signal(SIGTSTP, on_stop);
    el_set(el, EL_PREP_TERM, 1);
    fputs("\033[?2004h", stdout);
    fflush(stdout);
    el_set(el, EL_REFRESH);
}

static int read_byte(EditLine *el, char *c) {
    for (;;) {
        bool ready = wait_for_input();
        if (nib_interrupted()) return -1;
        if (resized) {
            resized = 0;
            el_resize(el); /* the next key draws the line anew */
        }
        if (stopped) stop_here(el);
        if (!ready) continue;
        ssize_t n = read(STDIN_FILENO, c, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

static int read_char(EditLine *el, wchar_t *out) {
    char c[4];
    size_t n = 0;
    int32_t cp = -1;
    int got = read_byte(el, &c[n++]);
    if (got <= 0) return got;
    while (nib_utf8_complete(c, n) == 0 && n < sizeof c)
        if ((got = read_byte(el, &c[n++])) <= 0) return got;
    nib_utf8_decode(c, n, &cp);
    *out = cp < 0 ? 0xfffd : (wchar_t)cp;
    return 1;
}

static char *prompt_of(EditLine *el) {
    return line_of(el)->prompt;
}

/* Text that stands in the line as it is, newlines shown as symbols and other control characters
 * dropped. */
static bool insert_text(EditLine *el, const char *p, size_t n) {
    nib_buf b = {.max = MAX_LINE};
    while (n && p[n - 1] == '\n') n--;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n')
            nib_buf_puts(&b, NEWLINE_SYMBOL);
        else if (p[i] == '\t')
            nib_buf_puts(&b, "    ");
        else if ((unsigned char)p[i] >= 0x20 && p[i] != 0x7f)
            nib_buf_putc(&b, p[i]);
    }
    bool ok = !b.failed && (!b.len || el_insertstr(el, b.data) == 0);
    nib_buf_free(&b);
    return ok;
}

/* After ESC [ 2 0 0 ~ the terminal sends a paste, as it is, up to ESC [ 2 0 1 ~. */
static unsigned char on_paste(EditLine *el, int ch) {
    static const char end[] = "\033[201~";
    (void)ch;
    nib_buf b = {.max = MAX_LINE};
    char c;
    while (read_byte(el, &c) > 0) {
        if (c == '\r') c = '\n';
        nib_buf_putc(&b, c);
        if (b.len >= sizeof end - 1 &&
            memcmp(b.data + b.len - (sizeof end - 1), end, sizeof end - 1) == 0) {
            b.len -= sizeof end - 1;
            break;
        }
    }
    bool ok = insert_text(el, b.data ? b.data : "", b.len);
    nib_buf_free(&b);
    return ok ? CC_REFRESH : CC_ERROR;
}

static unsigned char on_newline(EditLine *el, int ch) {
    (void)ch;
    return el_insertstr(el, NEWLINE_SYMBOL) == 0 ? CC_REFRESH : CC_ERROR;
}

/* Ctrl-G: the line in the user's editor. */
static unsigned char on_editor(EditLine *el, int ch) {
    (void)ch;
    const char *editor = getenv("VISUAL");
    if (!editor || !*editor) editor = getenv("EDITOR");
    if (!editor || !*editor) editor = "vi";
    char path[] = "/tmp/nib-message-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return CC_ERROR;
    const LineInfo *line = el_line(el);
    nib_buf b = {.max = MAX_LINE};
    put_replaced(&b, line->buffer, (size_t)(line->lastchar - line->buffer), NIB_STR(NEWLINE_SYMBOL),
                 "\n");
    nib_buf_putc(&b, '\n');
    bool written = !b.failed && write(fd, b.data, b.len) == (ssize_t)b.len;
    close(fd);
    unsigned char result = CC_ERROR;
    if (written) {
        fputs("\033[?2004l", stdout);
        fflush(stdout);
        el_set(el, EL_PREP_TERM, 0);
        set_mode(line_of(el), 0);
        nib_buf command = {0};
        nib_buf_printf(&command, "%s '%s'", editor, path);
        int status = command.failed ? -1 : system(command.data);
        nib_buf_free(&command);
        el_set(el, EL_PREP_TERM, 1);
        fputs("\033[?2004h", stdout);
        fflush(stdout);
        nib_buf_clear(&b);
        if (status == 0 && nib_file_read(path, MAX_LINE, &b, NULL) == NIB_OK) {
            line = el_line(el);
            el_cursor(el, (int)(line->lastchar - line->cursor));
            el_deletestr(el, (int)(line->lastchar - line->buffer));
            insert_text(el, b.data, b.len);
        }
        result = CC_REDISPLAY;
    }
    unlink(path);
    nib_buf_free(&b);
    return result;
}

static void list_candidates(const char *list) {
    int columns = nib_columns(stdout), widest = 0;
    for (const char *p = list; *p; p += strcspn(p, "\n") + 1)
        widest = NIB_MAX(widest, nib_text_width(p, strcspn(p, "\n")));
    int per_line = NIB_MAX(1, columns / (widest + 2)), i = 0;
    fputc('\n', stdout);
    for (const char *p = list; *p; p += strcspn(p, "\n") + 1) {
        int n = (int)strcspn(p, "\n");
        bool last = ++i % per_line == 0 || !p[n + 1];
        fprintf(stdout, "%.*s", n, p);
        if (last)
            fputc('\n', stdout);
        else
            fprintf(stdout, "%*s", widest + 2 - nib_text_width(p, (size_t)n), "");
    }
    fflush(stdout);
}

static unsigned char on_tab(EditLine *el, int ch) {
    (void)ch;
    nib_line *l = line_of(el);
    const LineInfo *line = el_line(el);
    size_t cursor = (size_t)(line->cursor - line->buffer), start = cursor;
    nib_buf list = {.max = 1 << 20};
    nib_buf_puts(&list, "");
    l->complete(l->complete_arg, line->buffer, cursor, &start, &list);
    unsigned char result = CC_ERROR;
    if (list.failed || !list.len) goto out;
    /* what all candidates begin with */
    size_t common = strcspn(list.data, "\n"), n = 0;
    for (char *p = list.data; *p; p += strcspn(p, "\n") + 1, n++) {
        size_t same = 0;
        while (same < common && p[same] == list.data[same]) same++;
        common = same;
    }
    common = nib_utf8_complete(list.data, common);
    size_t typed = cursor - start;
    char last = common ? list.data[common - 1] : 0;
    if (n == 1 && last != '/' && last != '"') list.data[common++] = ' '; /* over its newline */
    if (common > typed) {
        list.data[common] = 0;
        result = el_insertstr(el, list.data + typed) == 0 ? CC_REFRESH : CC_ERROR;
    } else if (n > 1) {
        list_candidates(list.data);
        result = CC_REDISPLAY;
    }
out:
    nib_buf_free(&list);
    return result;
}

static void enter_history(nib_line *l, const char *entry) {
    HistEvent ev;
    history(l->history, &ev, H_ENTER, entry);
}

static bool open_editor(nib_line *l) {
    const char *term = getenv("TERM");
    if (!term || !*term || strcmp(term, "dumb") == 0) return true; /* plain lines */
    l->el = el_init("nib", stdin, stdout, stderr);
    l->history = history_init();
    if (!l->el || !l->history) return false;
    HistEvent ev;
    history(l->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(l->history, &ev, H_SETUNIQUE, 1);
    el_set(l->el, EL_CLIENTDATA, l);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_SIGNAL, 0);
    el_set(l->el, EL_PROMPT_ESC, prompt_of, '\1');
    el_set(l->el, EL_HIST, history, l->history);
    el_set(l->el, EL_GETCFN, read_char);
    el_set(l->el, EL_ADDFN, "nib-paste", "Insert a paste", on_paste);
    el_set(l->el, EL_ADDFN, "nib-newline", "Insert a newline", on_newline);
    el_set(l->el, EL_ADDFN, "nib-editor", "Edit the line in $EDITOR", on_editor);
    el_set(l->el, EL_ADDFN, "nib-complete", "Complete a word", on_tab);
    static const char *const keys[][2] = {
        {"\033[200~", "nib-paste"},       {"\033\r", "nib-newline"},
        {"\033\n", "nib-newline"},        {"^G", "nib-editor"},
        {"^I", "nib-complete"},           {"^R", "em-inc-search-prev"},
        {"^W", "ed-delete-prev-word"},    {"^U", "vi-kill-line-prev"},
        {"^L", "ed-clear-screen"},        {"\033[A", "ed-prev-history"},
        {"\033[B", "ed-next-history"},    {"\033OA", "ed-prev-history"},
        {"\033OB", "ed-next-history"},    {"\033[C", "ed-next-char"},
        {"\033[D", "ed-prev-char"},       {"\033OC", "ed-next-char"},
        {"\033OD", "ed-prev-char"},       {"\033[H", "ed-move-to-beg"},
        {"\033[F", "ed-move-to-end"},     {"\033OH", "ed-move-to-beg"},
        {"\033OF", "ed-move-to-end"},     {"\033[1~", "ed-move-to-beg"},
        {"\033[4~", "ed-move-to-end"},    {"\033[3~", "ed-delete-next-char"},
        {"\033[1;5C", "em-next-word"},    {"\033[1;5D", "ed-prev-word"},
        {"\033b", "ed-prev-word"},        {"\033f", "em-next-word"},
        {"\033d", "em-delete-next-word"}, {"\033\177", "ed-delete-prev-word"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(keys); i++)
        el_set(l->el, EL_BIND, keys[i][0], keys[i][1], NULL);
    el_source(l->el, NULL); /* the user's ~/.editrc has the last word */
    each_history(l, enter_history);
    l->editing = true;
    return true;
}

static nib_line_end read_edited(nib_line *l, const char *prompt, nib_buf *out) {
    const nib_style *st = nib_style_of(stdout);
    /* libedit puts an escape sequence out with the character after it: the prompt's last is a space
     */
    int n_visible = (int)strlen(prompt) - 1;
    if (*st->bold)
        snprintf(l->prompt, sizeof l->prompt, "\1%s%s\1%.*s\1%s\1 ", st->bold, st->cyan, n_visible,
                 prompt, st->reset);
    else
        snprintf(l->prompt, sizeof l->prompt, "%s", prompt);
    catch_signal(SIGWINCH, on_resize);
    catch_signal(SIGTSTP, on_stop);
    fputs("\033[?2004h", stdout); /* pastes come marked */
    fflush(stdout);
    el_set(l->el, EL_PREP_TERM, 1); /* before the prompt is seen, and answered */
    int n = 0;
    const char *line = el_gets(l->el, &n);
    /* Keys typed while a reply streams wait, unechoed and as they are, for the next prompt. */
    set_mode(l, (tcflag_t)ECHO | ICANON);
    fputs("\033[?2004l", stdout);
    fflush(stdout);
    signal(SIGWINCH, SIG_DFL);
    signal(SIGTSTP, SIG_DFL);
    if (nib_interrupted()) return NIB_LINE_INTERRUPTED;
    if (!line || n <= 0) return NIB_LINE_EOF;
    size_t len = (size_t)n;
    while (len && (line[len - 1] == '\n' || line[len - 1] == '\r')) len--;
    nib_buf_clear(out);
    nib_buf_put(out, "", 0);
    return put_replaced(out, line, len, NIB_STR(NEWLINE_SYMBOL), "\n") ? NIB_LINE_OK
                                                                       : NIB_LINE_FAILED;
}
#endif

nib_status nib_line_open(nib_line **out, const char *history, nib_complete_fn complete, void *arg,
                         nib_error *e) {
    nib_line *l = nib_calloc(1, sizeof *l);
    if (!l) return nib_fail_nomem(e, sizeof *l, "the line editor");
    l->complete = complete;
    l->complete_arg = arg;
    if (history) l->history_path = nib_strdup(history);
    l->has_mode = tcgetattr(STDIN_FILENO, &l->before) == 0;
    open_line = l;
    nib_forced_exit = restore_mode;
#ifdef NIB_HAVE_EDIT
    if (!open_editor(l)) {
        nib_line_close(l);
        return nib_fail(e, NIB_ERR_NOMEM, "cannot start the line editor");
    }
#endif
    *out = l;
    return NIB_OK;
}

void nib_line_close(nib_line *l) {
    if (!l) return;
#ifdef NIB_HAVE_EDIT
    if (l->el) el_end(l->el);
    if (l->history) history_end(l->history);
#endif
    set_mode(l, 0);
    open_line = NULL;
    nib_free(l->history_path);
    nib_free(l);
}

nib_line_end nib_line_read(nib_line *l, const char *prompt, nib_buf *out) {
#ifdef NIB_HAVE_EDIT
    if (l->editing) return read_edited(l, prompt, out);
#endif
    (void)l;
    return read_plain(prompt, out);
}

void nib_line_remember(nib_line *l, const char *text) {
#ifdef NIB_HAVE_EDIT
    nib_buf b = {.max = MAX_LINE};
    if (l->editing && *text &&
        put_replaced(&b, text, strlen(text), NIB_STR("\n"), NEWLINE_SYMBOL)) {
        enter_history(l, b.data);
        append_history(l, b.data);
    }
    nib_buf_free(&b);
#else
    (void)l, (void)text; /* nothing could recall it */
#endif
}
