/* /compare: the last question, asked of another model too, and both answers side by side. */
#include "cli/repl.h"

typedef struct answer {
    const char *name, *text;
    nib_reply reply;
    bool timed;
} answer;

/* The next line of text that fits in 'width' columns: its bytes; *skip: what to pass over after it.
 */
static size_t next_line(const char *text, int width, size_t *skip) {
    size_t n = strcspn(text, "\n"), fits = 0, space = 0;
    int columns = 0;
    while (fits < n) {
        int32_t cp;
        size_t len = nib_utf8_decode(text + fits, n - fits, &cp);
        int w = nib_text_width(text + fits, len);
        if (columns + w > width) break;
        if (cp == ' ') space = fits;
        columns += w;
        fits += len;
    }
    *skip = fits == n ? text[n] == '\n' : 0;
    if (fits < n && text[fits] == ' ')
        *skip = 1;
    else if (fits < n && space)
        fits = space, *skip = 1;
    if (fits == 0 && n > 0) { /* one character wider than the column */
        int32_t cp;
        fits = nib_utf8_decode(text, n, &cp);
    }
    return fits;
}

static void put_cell(const char *text, size_t n, int width) {
    int used = 0;
    for (size_t i = 0; i < n;) { /* control characters must not reach the terminal */
        int32_t cp;
        size_t len = nib_utf8_decode(text + i, n - i, &cp);
        if (cp >= 0x20 && (cp < 0x7f || cp > 0x9f)) {
            fwrite(text + i, 1, len, stdout);
            used += nib_text_width(text + i, len);
        }
        i += len;
    }
    printf("%*s", NIB_MAX(0, width - used), "");
}

static void side_by_side(const answer *a, const answer *b, int columns) {
    const nib_style *st = nib_style_of(stdout);
    int width = (columns - 3) / 2;
    const char *left = a->text, *right = b->text;
    size_t skip;
    fputs(st->bold, stdout);
    put_cell(a->name, next_line(a->name, width, &skip), width);
    printf("%s %s|%s %s", st->reset, st->dim, st->reset, st->bold);
    put_cell(b->name, next_line(b->name, width, &skip), 0);
    printf("%s\n", st->reset);
    while (*left || *right) {
        size_t n = next_line(left, width, &skip);
        put_cell(left, n, width);
        left += n + skip;
        printf(" %s|%s ", st->dim, st->reset);
        n = next_line(right, width, &skip);
        put_cell(right, n, 0);
        right += n + skip;
        putchar('\n');
    }
}

static void one_after_other(const answer *a, int width) {
    const nib_style *st = nib_style_of(stdout);
    printf("%s%s%s\n", st->bold, a->name, st->reset);
    nib_wrap w = {.f = stdout, .width = width};
    nib_wrap_put(&w, a->text, strlen(a->text));
    nib_wrap_end(&w);
    if (w.column) putchar('\n');
    nib_wrap_free(&w);
}

static void print_timing(const answer *a) {
    const nib_style *st = nib_style_of(stdout);
    if (!a->timed) return;
    printf("%s%s%s ", st->dim, a->name, st->reset);
    nib_print_timing(stdout, &a->reply);
}

nib_status nib_repl_compare(nib_repl *r, const char *path, nib_error *e) {
    const nib_messages *m = nib_dialog_messages(r->dialog);
    const char *prompt = nib_repl_last_prompt(r);
    if (!prompt || strcmp(m->v[m->n - 1].role, "assistant") != 0)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "/compare asks another model the last question: ask one first");
    nib_host other = {0};
    nib_dialog *dialog = NULL;
    nib_messages before = {0};
    nib_speaker quiet;
    nib_settings *set = &r->settings;
    answer here = {.name = nib_model_get_info(r->host.model)->name, .text = m->v[m->n - 1].content};
    nib_status s;
    for (size_t i = 0; m->v[i].content != prompt; i++)
        NIB_TRY_OUT(nib_messages_add(&before, m->v[i].role, m->v[i].content, m->v[i].thinking, e));
    if (r->last.finish) { /* the same draw of random numbers for both, where this session made the
                             answer */
        here.reply = r->last;
        here.timed = true;
    }
    NIB_TRY_OUT(nib_repl_open(&other, path, e));
    nib_dialog_params p = set->p;
    if (here.timed) p.sampling.seed = here.reply.seed, p.sampling.seed_given = true;
    NIB_TRY_OUT(nib_dialog_new(&dialog, other.engine, &p, e));
    NIB_TRY_OUT(nib_dialog_set_messages(dialog, &before, e));
    answer there = {.name = nib_model_get_info(other.model)->name, .timed = true};
    nib_speaker_start(&quiet, NULL, false);
    nib_interrupt_clear();
    s = nib_dialog_say(dialog, prompt, nib_speaker_piece, &quiet, &there.reply, e);
    nib_speaker_end(&quiet);
    if (s == NIB_ERR_CANCELLED) s = nib_host_cancelled(r->cli, e);
    if (s != NIB_OK) goto out;
    there.text = there.reply.text;
    int columns = r->interactive ? nib_columns(stdout) : 0;
    if (columns >= 72) {
        side_by_side(&here, &there, columns);
    } else {
        one_after_other(&here, columns);
        putchar('\n');
        one_after_other(&there, columns);
    }
    print_timing(&here);
    print_timing(&there);
out:
    nib_dialog_free(dialog);
    nib_host_close(&other);
    nib_messages_free(&before);
    return s;
}
