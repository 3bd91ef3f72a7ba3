/* nib embed: texts to vectors, one a line. */
#include <unistd.h>
#include "cli/host.h"
#include "cli/watch.h"

static bool raw_length;
static int format;
static const char *file;

static nib_status set_format(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_choice(o->name, value, o->arg, &format, e);
}

enum { JSON, F32 }; /* as in the row below */
const nib_option nib_opts_embed[] = {
    NIB_OPT_TEXT("file", 'f', "FILE", &file,
                 "read the texts from FILE, one a line (- for standard input)"),
    {"format", 0, "json|f32", set_format, NULL, 0, 0, "a JSON array a line, or raw float32 numbers",
     NULL},
    NIB_OPT_SWITCH("no-normalise", 0, &raw_length,
                   "leave the vectors as long as they come; normally their length is 1"),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

typedef struct embedder {
    nib_cli *cli;
    nib_host host;
    float *vector;
    size_t n;
    nib_buf line;
} embedder;

static nib_status one_text(embedder *m, const char *text, size_t len, nib_error *e) {
    nib_ids ids = {0};
    nib_status s;
    NIB_TRY_OUT(
        nib_tokenize(nib_model_tokenizer(m->host.model), text, len, NIB_TOK_SPECIAL, &ids, e));
    NIB_TRY_OUT(
        nib_engine_embed(m->host.engine, ids.data, (int64_t)ids.len, !raw_length, m->vector, e));
    if (format == F32) {
        fwrite(m->vector, sizeof *m->vector, m->n, stdout);
    } else {
        nib_buf_clear(&m->line);
        for (size_t i = 0; i < m->n; i++)
            nib_buf_printf(&m->line, "%s%.9g", i ? "," : "[", (double)m->vector[i]);
        if (m->line.failed) NIB_TRY_OUT(nib_fail_nomem(e, m->line.len, "a vector"));
        printf("%s]\n", m->line.data);
    }
    fflush(stdout);
out:
    nib_ids_free(&ids);
    return s;
}

static nib_status each_line(embedder *m, FILE *f, const char *name, nib_error *e) {
    nib_buf line = {0};
    nib_status s;
    for (long number = 1;; number++) {
        bool end;
        NIB_TRY_OUT(nib_read_line(f, &line, &end, e));
        if (end) break;
        if ((s = one_text(m, line.data, line.len, e)) != NIB_OK) {
            nib_fail_in(e, s, "%s, line %ld", name, number);
            break;
        }
    }
out:
    nib_buf_free(&line);
    return s;
}

nib_status nib_cmd_embed(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1 << 20, "MODEL", e));
    if (file && c->argc > 1)
        return nib_cli_usage(c, e, "embed: texts are given twice: as arguments and as a file");
    bool standard = file ? strcmp(file, "-") == 0 : c->argc == 1;
    if (standard && !file && isatty(STDIN_FILENO))
        return nib_cli_usage(
            c, e,
            "embed: a text is missing: give it as an argument, in a file, or on standard input");
    if (format == F32 && isatty(STDOUT_FILENO))
        return nib_cli_usage(
            c, e, "embed: float32 numbers are not for a terminal: redirect the output to a file");
    embedder m = {.cli = c};
    FILE *f = NULL;
    nib_status s;
    nib_interrupt_catch();
    if (!standard && file && !(f = fopen(file, "re"))) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND, "cannot open '%s': %m", file);
        goto out;
    }
    NIB_TRY_OUT(nib_host_open(&m.host, c->argv[0], e));
    m.n = (size_t)nib_model_get_info(m.host.model)->n_embd;
    m.vector = nib_alloc(m.n * sizeof *m.vector);
    if (!m.vector) NIB_TRY_OUT(nib_fail_nomem(e, m.n * sizeof *m.vector, "a vector"));
    if (f || standard) {
        s = each_line(&m, f ? f : stdin, f ? file : "standard input", e);
    } else {
        for (int i = 1; i < c->argc; i++)
            NIB_TRY_OUT(one_text(&m, c->argv[i], strlen(c->argv[i]), e));
    }
out:
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(c, e);
    nib_watch_stop();
    if (f) fclose(f);
    nib_free(m.vector);
    nib_buf_free(&m.line);
    nib_host_close(&m.host);
    return s;
}
