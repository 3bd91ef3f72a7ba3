/* speak - a reply as it streams: thoughts and answer, progress of the prompt, timing. */
#ifndef NIB_CLI_SPEAK_H
#define NIB_CLI_SPEAK_H
#include "cli/host.h"
#include "cli/wrap.h"

/* What shows a reply. On a terminal: wrapped, thoughts dim; else exactly the answer's text. */
typedef struct nib_speaker {
    FILE *f; /* NULL: nothing is shown */
    bool terminal, thoughts;
    nib_wrap wrap;
    nib_progress bar;
    bool thinking, hinted, spoke;
} nib_speaker;
/* thoughts: show them (on a terminal; elsewhere they never are). */
void nib_speaker_start(nib_speaker *s, FILE *f, bool thoughts);
/* A nib_piece_fn; arg: the nib_speaker. */
bool nib_speaker_piece(void *arg, const nib_piece *p);
void nib_speaker_put(nib_speaker *s, const char *text, size_t n);
/* Ends the line. */
void nib_speaker_end(nib_speaker *s);
/* "[42 tokens, 1.3 s, 32.1 tok/s]" and why it ended, when that is worth a word. */
void nib_print_timing(FILE *f, const nib_reply *reply);
#endif
