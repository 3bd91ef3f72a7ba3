/* The manual page and the completions of three shells, printed from the same rows as the help. */
#include "cli/repl.h"

/* An argument written a|b|c completes with these words; one in capitals stands for a value. */
static bool is_choice(const char *arg) {
    return arg && strchr(arg, '|') && !strpbrk(arg, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
}
static bool is_file(const char *arg) {
    return arg && (strstr(arg, "FILE") || strstr(arg, "MODEL") || strstr(arg, "PATH"));
}

static void put_words(FILE *f, const char *choices) {
    for (const char *p = choices; *p; p++) fputc(*p == '|' ? ' ' : *p, f);
}

/* Text inside single quotes of a shell. */
static void put_quoted(FILE *f, const char *text) {
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", f);
        else
            fputc(*text == '\n' ? ' ' : *text, f);
    }
}

static void bash(FILE *f) {
    fputs("# bash completion for nib, made by 'nib completion bash'\n"
          "_nib() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} "
          "command=${COMP_WORDS[1]}\n"
          "    COMPREPLY=()\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "        COMPREPLY=($(compgen -W '--help --version",
          f);
    for (size_t i = 0; i < nib_n_commands; i++) fprintf(f, " %s", nib_commands[i].name);
    fputs("' -- \"$cur\"))\n        return\n    fi\n    case $command in\n", f);
    for (size_t i = 0; i < nib_n_commands; i++) {
        const nib_command *c = &nib_commands[i];
        nib_option_walk w;
        fprintf(f, "    %s)\n", c->name);
        bool any = false;
        nib_options_start(&w, c->options);
        for (const nib_option *o; (o = nib_options_next(&w));) {
            if (!is_choice(o->arg)) continue;
            fprintf(f, "%s        --%s) COMPREPLY=($(compgen -W '",
                    any ? "" : "        case $prev in\n", nib_option_name(o));
            put_words(f, o->arg);
            fputs("' -- \"$cur\")); return ;;\n", f);
            any = true;
        }
        if (any) fputs("        esac\n", f);
        fputs("        if [[ $cur == -* ]]; then\n            COMPREPLY=($(compgen -W '--help", f);
        nib_options_start(&w, c->options);
        for (const nib_option *o; (o = nib_options_next(&w));)
            fprintf(f, " --%s", nib_option_name(o));
        fputs("' -- \"$cur\")); return\n        fi\n", f);
        if (strcmp(c->name, "help") == 0) {
            fputs("        COMPREPLY=($(compgen -W '", f);
            for (size_t k = 0; k < nib_n_commands; k++) fprintf(f, "%s ", nib_commands[k].name);
            fputs("' -- \"$cur\")); return\n", f);
        } else if (is_choice(c->operands)) {
            fputs("        COMPREPLY=($(compgen -W '", f);
            put_words(f, c->operands);
            fputs("' -- \"$cur\")); return\n", f);
        }
        fputs("        ;;\n", f);
    }
    fputs("    esac\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -o filenames -F _nib "
          "nib\n",
          f);
}

/* In a zsh specification, [ ] : and \ have a meaning. */
static void put_zsh(FILE *f, const char *text) {
    for (; *text; text++) {
        if (strchr("[]:\\", *text)) fputc('\\', f);
        if (*text == '\'')
            fputs("'\\''", f);
        else
            fputc(*text == '\n' ? ' ' : *text, f);
    }
}

static void zsh(FILE *f) {
    fputs("#compdef nib\n# zsh completion for nib, made by 'nib completion zsh'\n_nib() {\n"
          "    local -a commands\n    commands=(\n",
          f);
    for (size_t i = 0; i < nib_n_commands; i++) {
        fprintf(f, "        '%s:", nib_commands[i].name);
        put_quoted(f, nib_commands[i].summary);
        fputs("'\n", f);
    }
    fputs(
        "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        "
        "return\n    fi\n"
        "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n",
        f);
    for (size_t i = 0; i < nib_n_commands; i++) {
        const nib_command *c = &nib_commands[i];
        fprintf(f, "    %s)\n        _arguments '(-h --help)'{-h,--help}'[show help]'", c->name);
        nib_option_walk w;
        nib_options_start(&w, c->options);
        for (const nib_option *o; (o = nib_options_next(&w));) {
            fprintf(f, " \\\n            ");
            if (o->letter)
                fprintf(f, "'*'{-%c,--%s}'[", o->letter, nib_option_name(o));
            else
                fprintf(f, "'*--%s[", nib_option_name(o));
            put_zsh(f, o->help);
            fputc(']', f);
            if (o->arg) {
                fputc(':', f);
                put_zsh(f, is_choice(o->arg) ? "value" : o->arg);
                fputc(':', f);
                if (is_choice(o->arg)) {
                    fputc('(', f);
                    put_words(f, o->arg);
                    fputc(')', f);
                } else if (is_file(o->arg)) {
                    fputs("_files", f);
                }
            }
            fputc('\'', f);
        }
        if (is_choice(c->operands)) {
            fputs(" \\\n            '1:what:(", f);
            put_words(f, c->operands);
            fputs(")'", f);
        } else if (strcmp(c->name, "help") == 0) {
            fputs(" \\\n            '1:command:->command'", f);
        } else if (*c->operands) {
            fputs(" \\\n            '*:file:_files'", f);
        }
        fputc('\n', f);
        if (strcmp(c->name, "help") == 0)
            fputs("        [[ $state == command ]] && _describe command commands\n", f);
        fputs("        ;;\n", f);
    }
    fputs("    esac\n}\nif [ \"$funcstack[1]\" = _nib ]; then _nib \"$@\"; else compdef _nib nib; "
          "fi\n",
          f);
}

static void fish(FILE *f) {
    fputs("# fish completion for nib, made by 'nib completion fish'\n", f);
    for (size_t i = 0; i < nib_n_commands; i++) {
        const nib_command *c = &nib_commands[i];
        fprintf(f, "complete -c nib -n __fish_use_subcommand -f -a %s -d '", c->name);
        put_quoted(f, c->summary);
        fputs("'\n", f);
        nib_option_walk w;
        nib_options_start(&w, c->options);
        for (const nib_option *o; (o = nib_options_next(&w));) {
            fprintf(f, "complete -c nib -n '__fish_seen_subcommand_from %s' -l %s", c->name,
                    nib_option_name(o));
            if (o->letter) fprintf(f, " -s %c", o->letter);
            if (o->arg) fputs(is_file(o->arg) ? " -r" : " -x", f);
            if (is_choice(o->arg)) {
                fputs(" -a '", f);
                put_words(f, o->arg);
                fputc('\'', f);
            }
            fputs(" -d '", f);
            put_quoted(f, o->help);
            fputs("'\n", f);
        }
        bool help = strcmp(c->name, "help") == 0;
        if (help || is_choice(c->operands)) {
            fprintf(f, "complete -c nib -n '__fish_seen_subcommand_from %s' -f -a '", c->name);
            for (size_t k = 0; help && k < nib_n_commands; k++)
                fprintf(f, "%s ", nib_commands[k].name);
            if (!help) put_words(f, c->operands);
            fputs("'\n", f);
        }
    }
}

/* roff: backslashes and hyphens are escaped, a line must not begin with a dot or a quote. */
static void put_roff(FILE *f, const char *text) {
    bool start = true;
    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\'')) fputs("\\&", f);
        if (*text == '\\')
            fputs("\\e", f);
        else if (*text == '-')
            fputs("\\-", f);
        else
            fputc(*text, f);
        start = *text == '\n';
    }
}

static void man(FILE *f) {
    fprintf(f, ".TH NIB 1 \"\" \"nib %s\" \"User Commands\"\n", nib_version());
    fputs(".SH NAME\nnib \\- run, chat with and look into small language models\n"
          ".SH SYNOPSIS\n.B nib\n.I COMMAND\n.RI [ OPTIONS ]\n"
          ".SH DESCRIPTION\n.B nib\nruns small language models from GGUF files on the CPU of this "
          "machine.\n"
          ".SH COMMANDS\n",
          f);
    for (size_t i = 0; i < nib_n_commands; i++) {
        const nib_command *c = &nib_commands[i];
        fprintf(f, ".SS nib %s%s", c->name, *c->operands ? " " : "");
        put_roff(f, c->operands);
        fputc('\n', f);
        put_roff(f, c->summary);
        fputs(".\n", f);
        put_roff(f, c->details);
        fputc('\n', f);
        nib_option_walk w;
        const char *heading = NULL;
        nib_options_start(&w, c->options);
        for (const nib_option *o; (o = nib_options_next(&w));) {
            if (w.heading && w.heading != heading) {
                fputs(".PP\n", f);
                put_roff(f, w.heading);
                fputs(":\n", f);
            }
            heading = w.heading;
            fputs(".TP\n", f);
            if (o->letter) fprintf(f, "\\fB\\-%c\\fR, ", o->letter);
            fputs("\\fB\\-\\-", f);
            put_roff(f, nib_option_name(o));
            fputs("\\fR", f);
            if (o->arg) {
                fputs(" \\fI", f);
                put_roff(f, o->arg);
                fputs("\\fR", f);
            }
            fputc('\n', f);
            put_roff(f, o->help);
            fputc('\n', f);
        }
        fputs(".PP\nExample:\n.PP\n.nf\n.RS\n", f);
        put_roff(f, c->example);
        fputs("\n.RE\n.fi\n", f);
    }
    fputs(".SH IN A CHAT\nA line that begins with / is a command.\n", f);
    for (size_t i = 0; i < nib_n_repl_commands; i++) {
        const nib_repl_command *c = &nib_repl_commands[i];
        fprintf(f, ".TP\n\\fB/%s\\fR \\fI", c->name);
        put_roff(f, c->args);
        fputs("\\fR\n", f);
        put_roff(f, c->help);
        fputc('\n', f);
    }
    fputs(
        ".SH EXIT STATUS\n0 when done, 1 when something failed, 2 for wrong usage, 130 when "
        "interrupted.\n"
        ".SH ENVIRONMENT\n"
        ".TP\n\\fBNIB_CPU\\fR\nlimits the instruction set: scalar, avx2, avx512.\n"
        ".TP\n\\fBNIB_LOG\\fR\nhow much is logged on standard error: error, warn, info or debug.\n"
        ".TP\n\\fBNO_COLOR\\fR\nturns colours off.\n"
        ".TP\n\\fBEDITOR\\fR\nopened by Ctrl\\-G in a chat, to write a long message.\n"
        ".SH FILES\n"
        ".TP\n\\fI$XDG_STATE_HOME/nib/history\\fR\nlines typed in chats "
        "(~/.local/state/nib/history).\n",
        f);
}

bool nib_completion_write(FILE *f, const char *kind) {
    if (strcmp(kind, "bash") == 0)
        bash(f);
    else if (strcmp(kind, "zsh") == 0)
        zsh(f);
    else if (strcmp(kind, "fish") == 0)
        fish(f);
    else if (strcmp(kind, "man") == 0)
        man(f);
    else
        return false;
    return true;
}
