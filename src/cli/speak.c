/* Replies as they stream. */
#include <unistd.h>
#include "cli/speak.h"

void nib_speaker_start(nib_speaker *s, FILE *f, bool thoughts) {
    *s = (nib_speaker){.f = f, .terminal = f && isatty(fileno(f))};
    s->thoughts = thoughts && s->terminal;
    s->wrap = (nib_wrap){.f = f, .width = s->terminal ? nib_columns(f) : 0};
    nib_progress_start(&s->bar, "Reading", false);
}

void nib_speaker_put(nib_speaker *s, const char *text, size_t n) {
    if (s->f && n) nib_wrap_put(&s->wrap, text, n);
}

bool nib_speaker_piece(void *arg, const nib_piece *p) {
    nib_speaker *s = arg;
    if (p->kind == NIB_PIECE_PROMPT) {
        nib_progress_show(&s->bar, (uint64_t)p->done, (uint64_t)p->total);
        return true;
    }
    nib_progress_end(&s->bar);
    bool thought = p->kind == NIB_PIECE_THOUGHT;
    const nib_style *st = s->f ? nib_style_of(s->f) : NULL;
    if (!s->f || p->len == 0) return true;
    if (thought && !s->thoughts) {
        if (s->terminal && !s->hinted && !s->spoke) {
            fprintf(s->f, "%sthinking ...%s", st->dim, st->reset);
            fflush(s->f);
            s->hinted = true;
        }
        return true;
    }
    if (s->hinted) {
        fputs("\r\033[K", s->f);
        s->hinted = false;
    }
    if (thought && !s->thinking) fputs(st->dim, s->f);
    if (!thought && s->thinking) {
        nib_wrap_end(&s->wrap);
        fprintf(s->f, "%s%s", st->reset, s->wrap.column ? "\n\n" : "\n");
        nib_wrap_line(&s->wrap);
    }
    s->thinking = thought;
    s->spoke = true;
    nib_speaker_put(s, p->text, p->len);
    return true;
}

void nib_speaker_end(nib_speaker *s) {
    nib_progress_end(&s->bar);
    if (!s->f) return;
    nib_wrap_end(&s->wrap);
    if (s->thinking) fputs(nib_style_of(s->f)->reset, s->f);
    if (s->hinted) fputs("\r\033[K", s->f);
    if (s->wrap.column) fputc('\n', s->f);
    nib_wrap_free(&s->wrap);
    fflush(s->f);
}

void nib_print_timing(FILE *f, const nib_reply *reply) {
    const nib_style *st = nib_style_of(f);
    double speed =
        reply->generate_seconds > 0 ? (double)reply->n_generated / reply->generate_seconds : 0;
    fprintf(f, "%s[%lld tokens, %.1f s, %.1f tok/s", st->dim, (long long)reply->n_generated,
            reply->prompt_seconds + reply->generate_seconds, speed);
    static const char *const reasons[][2] = {
        {"length", "stopped at the limit of tokens"},
        {"time", "stopped at the time limit"},
        {"context", "the context is full"},
        {"interrupted", "interrupted"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(reasons); i++)
        if (reply->finish && strcmp(reply->finish, reasons[i][0]) == 0)
            fprintf(f, ", %s", reasons[i][1]);
    fprintf(f, "]%s\n", st->reset);
}
