/* Help, printed from the rows of commands.def and the option tables. */
#include "cli/cli.h"

static int width_of(FILE *f) {
    int columns = nib_columns(f);
    return columns == 0 || columns > 100 ? 100 : columns;
}

void nib_help_all(FILE *f) {
    const nib_style *st = nib_style_of(f);
    fprintf(
        f, "%snib%s %s: run, chat with and look into small language models on your own machine\n\n",
        st->bold, st->reset, nib_version());
    fprintf(f, "%sUsage:%s nib COMMAND [OPTIONS] ...\n\n%sCommands:%s\n", st->bold, st->reset,
            st->bold, st->reset);
    for (size_t i = 0; i < nib_n_commands; i++) {
        fprintf(f, "  %s%-12s%s", st->cyan, nib_commands[i].name, st->reset);
        nib_print_wrapped(f, nib_commands[i].summary, 14, 14, width_of(f));
    }
    fprintf(f, "\n'nib COMMAND --help' tells more and shows an example; 'nib --version' prints the "
               "version.\n");
    fprintf(f, "\n%sExample:%s\n  nib chat model.gguf\n", st->bold, st->reset);
}

static void print_option(FILE *f, const nib_option *o, int width) {
    const nib_style *st = nib_style_of(f);
    enum { COLUMN = 30 };
    char left[96];
    char letter[8] = "    ";
    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    int n = snprintf(left, sizeof left, "  %s--%s%s%s", letter, nib_option_name(o),
                     o->arg ? " " : "", o->arg ? o->arg : "");
    fprintf(f, "%s%s%s", st->cyan, left, st->reset);
    if (n + 2 > COLUMN)
        fprintf(f, "\n%*s", COLUMN, "");
    else
        fprintf(f, "%*s", COLUMN - n, "");
    nib_print_wrapped(f, o->help, COLUMN, COLUMN, width);
}

void nib_help_command(FILE *f, const nib_command *c) {
    const nib_style *st = nib_style_of(f);
    int width = width_of(f);
    fprintf(f, "%snib %s%s: %s\n\n", st->bold, c->name, st->reset, c->summary);
    fprintf(f, "%sUsage:%s nib %s%s%s [OPTIONS]\n\n", st->bold, st->reset, c->name,
            *c->operands ? " " : "", c->operands);
    nib_print_wrapped(f, c->details, 0, 0, width);
    const char *heading = "Options";
    fprintf(f, "\n%s%s:%s\n", st->bold, heading, st->reset);
    nib_option_walk w;
    nib_options_start(&w, c->options);
    for (const nib_option *o; (o = nib_options_next(&w));) {
        if (w.heading && w.heading != heading) {
            heading = w.heading;
            fprintf(f, "\n%s%s:%s\n", st->bold, heading, st->reset);
        }
        print_option(f, o, width);
    }
    if (strcmp(heading, "Options") != 0) fprintf(f, "\n");
    static const nib_option help = {"help", 'h', NULL, NULL, NULL, 0, 0, "show this", NULL};
    print_option(f, &help, width);
    fprintf(f, "\n%sExample:%s\n", st->bold, st->reset);
    for (const char *p = c->example; *p;) {
        size_t n = strcspn(p, "\n");
        bool remark = p[0] == '#';
        fprintf(f, "  %s%.*s%s\n", remark ? st->dim : "", (int)n, p, remark ? st->reset : "");
        p += n + (p[n] == '\n');
    }
}
