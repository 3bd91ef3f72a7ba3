/* Options: tables of rows, read with getopt_long.
 *
 * A row says its names, what its value is called and where it goes; the same rows print the help,
 * the man page and the shell completions. A wrong name is answered with the nearest right one. */
#include <getopt.h>
#include "cli/cli.h"

enum { MAX_OPTIONS = 128, MAX_NAME = 40 };

static void dashes(char *name) {
    for (; *name && *name != '='; name++)
        if (*name == '_') *name = '-';
}

const char *nib_option_name(const nib_option *o) {
    static char ring[8][MAX_NAME];
    static int at;
    char *out = ring[at++ & 7];
    snprintf(out, MAX_NAME, "%s", o->name);
    dashes(out);
    return out;
}

void nib_options_start(nib_option_walk *w, const nib_option *table) {
    *w = (nib_option_walk){.at = {table}};
}

const nib_option *nib_options_next(nib_option_walk *w) {
    for (;;) {
        const nib_option *o = w->at[w->depth];
        if (!o->name && !o->group) {
            if (w->depth == 0) return NULL;
            w->depth--;
            w->heading = NULL;
            continue;
        }
        w->at[w->depth]++;
        if (o->name) return o;
        if (w->depth + 1 < (int)NIB_ARRAY_LEN(w->at)) {
            w->at[++w->depth] = o->group;
            w->heading = o->help;
        }
    }
}

static nib_status unknown_option(nib_cli *c, const char *given, const nib_option *const *rows,
                                 size_t n, nib_error *e) {
    const char *names[MAX_OPTIONS + 1];
    char spelled[MAX_OPTIONS][MAX_NAME];
    size_t n_names = 0;
    for (size_t i = 0; i < n; i++) {
        snprintf(spelled[i], sizeof spelled[i], "%s", nib_option_name(rows[i]));
        names[n_names++] = spelled[i];
    }
    names[n_names++] = "help";
    const char *near = NULL;
    char word[64];
    if (given[0] == '-' && given[1] == '-') {
        snprintf(word, sizeof word, "%.*s", (int)strcspn(given + 2, "="), given + 2);
        for (size_t i = 0; i < n_names && !near; i++) /* the beginning of a name, first of all */
            if (word[0] && strncmp(names[i], word, strlen(word)) == 0) near = names[i];
        if (!near) near = nib_str_nearest(word, names, n_names);
    }
    const char *name = c->command->name;
    if (near)
        return nib_cli_usage(
            c, e, "%s: unknown option '%s': did you mean '--%s'? ('nib %s --help' lists all)", name,
            given, near, name);
    return nib_cli_usage(c, e, "%s: unknown option '%s' ('nib %s --help' lists all)", name, given,
                         name);
}

nib_status nib_options_parse(nib_cli *c, int argc, char **argv, bool *help, nib_error *e) {
    const nib_option *rows[MAX_OPTIONS];
    struct option longs[MAX_OPTIONS + 2];
    char shorts[2 * MAX_OPTIONS + 4] = ":h";
    char spelled[MAX_OPTIONS][MAX_NAME];
    size_t n = 0, n_shorts = 2;
    nib_option_walk w;
    nib_options_start(&w, c->command->options);
    for (const nib_option *o; (o = nib_options_next(&w)) && n < MAX_OPTIONS; n++) {
        rows[n] = o;
        snprintf(spelled[n], sizeof spelled[n], "%s", nib_option_name(o));
        longs[n] = (struct option){spelled[n], o->arg ? required_argument : no_argument, NULL,
                                   (int)n + 256};
        if (o->letter) {
            shorts[n_shorts++] = o->letter;
            if (o->arg) shorts[n_shorts++] = ':';
        }
    }
    shorts[n_shorts] = 0;
    longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    longs[n + 1] = (struct option){0};

    for (int i = 1; i < argc; i++) { /* --top_k is --top-k */
        char word[MAX_NAME + 2];
        snprintf(word, sizeof word, "%s", argv[i]);
        dashes(word);
        for (size_t k = 0; k < n; k++) {
            size_t len = strlen(spelled[k]) + 2;
            if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, spelled[k], len - 2) == 0 &&
                (argv[i][len] == '=' || argv[i][len] == 0))
                memcpy(argv[i], word, len);
        }
    }
    optind = 1;
    opterr = 0;
    const char *name = c->command->name;
    for (;;) {
        int at = optind;
        int k = getopt_long(argc, argv, shorts, longs, NULL);
        if (k == -1) break;
        if (k == 'h') {
            *help = true;
            return NIB_OK;
        }
        const nib_option *o = NULL;
        for (size_t i = 0; i < n; i++)
            if (k == (int)i + 256 || (k < 256 && k == rows[i]->letter)) o = rows[i];
        if (k == ':') {
            const char *given = argv[optind - 1];
            return nib_cli_usage(c, e, "%s: option '%s' wants a value ('nib %s --help')", name,
                                 given, name);
        }
        if (!o) {
            /* A long name stands at argv[optind - 1]; a letter may stand inside a bundle. */
            const char *given = optind > at ? argv[optind - 1] : argv[at];
            char letter[3] = {'-', (char)optopt, 0};
            if (optopt > 255) /* a switch that was given a value, as --json=yes */
                return nib_cli_usage(c, e, "%s: option '--%s' takes no value", name,
                                     spelled[optopt - 256]);
            if (optopt && strncmp(given, "--", 2) != 0) given = letter;
            return unknown_option(c, given, rows, n, e);
        }
        nib_status s = o->set(o, optarg, e);
        if (s != NIB_OK) {
            c->usage = true;
            return s;
        }
    }
    c->argc = argc - optind;
    c->argv = argv + optind;
    return NIB_OK;
}

nib_status nib_opt_switch(const nib_option *o, const char *value, nib_error *e) {
    (void)value, (void)e;
    *(bool *)o->to = true;
    return NIB_OK;
}

nib_status nib_opt_text(const nib_option *o, const char *value, nib_error *e) {
    (void)e;
    *(const char **)o->to = value;
    return NIB_OK;
}

nib_status nib_opt_int(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_int(o->name, value, o->min, o->max, o->to, e);
}
