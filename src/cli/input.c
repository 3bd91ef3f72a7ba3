/* What the commands read: lines, token ids, text from arguments, files and standard input. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>
#include "cli/cli.h"

enum { MAX_TEXT = 256 << 20 };

nib_status nib_read_line(FILE *f, nib_buf *line, bool *end, nib_error *e) {
    nib_buf_clear(line);
    nib_buf_put(line, "", 0);
    int c;
    while ((c = getc_unlocked(f)) != EOF && c != '\n')
        if (!nib_buf_putc(line, (char)c))
            return nib_fail(e, NIB_ERR_LIMIT, "a line of more than %zu bytes", line->len);
    if (c == EOF && ferror(f))
        return nib_fail(e, NIB_ERR_IO, "cannot read the input: %s", strerror(errno));
    if (line->len && line->data[line->len - 1] == '\r') line->data[--line->len] = 0;
    *end = c == EOF && line->len == 0;
    return NIB_OK;
}

nib_status nib_read_text(nib_cli *c, int from, const char *file, const char *what, nib_buf *out,
                         nib_error *e) {
    if (file && from < c->argc)
        return nib_cli_usage(c, e, "%s: %s is given twice: as an argument and as a file",
                             c->command->name, what);
    if (file) return nib_file_read(file, MAX_TEXT, out, e);
    for (int i = from; i < c->argc; i++) {
        if (i > from) nib_buf_putc(out, ' ');
        nib_buf_puts(out, c->argv[i]);
    }
    if (from < c->argc) return out->failed ? nib_fail_nomem(e, out->len, what) : NIB_OK;
    if (isatty(STDIN_FILENO))
        return nib_cli_usage(
            c, e,
            "%s: %s is missing: give it as an argument or on standard input ('nib %s --help')",
            c->command->name, what, c->command->name);
    return nib_file_read("-", MAX_TEXT, out, e);
}

nib_status nib_parse_ids(const char *text, size_t n, nib_ids *out, nib_error *e) {
    for (size_t i = 0; i < n;) {
        if (isspace((unsigned char)text[i]) ||
            strchr(",[]", text[i])) { /* strchr also skips NUL bytes */
            i++;
            continue;
        }
        char word[16];
        size_t len = 0;
        while (i + len < n && len < sizeof word - 1 && text[i + len] &&
               !isspace((unsigned char)text[i + len]) && !strchr(",[]", text[i + len]))
            len++;
        memcpy(word, text + i, len);
        word[len] = 0;
        int64_t id;
        NIB_TRY(nib_parse_int("token id", word, 0, INT32_MAX, &id, e));
        if (!nib_ids_push(out, (int32_t)id)) return nib_fail_nomem(e, out->len * 4, "token ids");
        i += len;
    }
    return NIB_OK;
}

nib_status nib_check_ids(const int32_t *ids, size_t n, int64_t n_vocab, nib_error *e) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return nib_fail(
                e, NIB_ERR_ARGUMENT,
                "token id %d at place %zu is out of range: this vocabulary has 0 to %lld",
                (int)ids[i], i, (long long)n_vocab - 1);
    return NIB_OK;
}

json_t *nib_json_text(const char *p, size_t n) {
    if (nib_utf8_valid(p, n)) return json_stringn(p, n);
    nib_buf b = {0};
    for (size_t i = 0; i < n;) {
        int32_t cp;
        char out[4];
        i += nib_utf8_decode(p + i, n - i, &cp);
        nib_buf_put(&b, out, nib_utf8_encode(cp, out));
    }
    json_t *v = b.failed ? NULL : json_stringn(b.data, b.len);
    nib_buf_free(&b);
    return v;
}

bool nib_confirm(bool yes, const char *fmt, ...) {
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) return false;
    char question[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(question, sizeof question, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s %s ", question, yes ? "[Y/n]" : "[y/N]");
    fflush(stderr);
    nib_buf line = {0};
    bool end = false;
    bool read = nib_read_line(stdin, &line, &end, NULL) == NIB_OK && !end;
    const char *answer = line.data ? line.data + strspn(line.data, " \t") : "";
    bool agreed = *answer ? *answer == 'y' || *answer == 'Y' : yes;
    nib_buf_free(&line);
    return read && agreed;
}
