/* What the text-handling files share: which bytes of a text are prose, and walking its sentences.
 */
#ifndef NIB_CHAT_TEXT_INTERNAL_H
#define NIB_CHAT_TEXT_INTERNAL_H
#include "chat/chat.h"

/* What a byte of Markdown-like text belongs to (textmap.c). Only prose may be changed. */
typedef enum nib_text_class {
    NIB_TEXT_PROSE,
    NIB_TEXT_LEAD,    /* indentation and markers that begin a line: "  - ", "> ", "## ", "1. " */
    NIB_TEXT_KEEP,    /* code (fenced, indented, inline), table rows, rules */
    NIB_TEXT_URL,     /* a word that is an address */
    NIB_TEXT_NEWLINE, /* \n, and \r before it */
} nib_text_class;
/* Fills class_of[0..len). Linear in len for ordinary text. A fence that is not closed reaches to
 * the end. */
void nib_text_map(const char *text, size_t len, uint8_t *class_of);

/* Sentence ends from the start of a text on (sentences.c). Zero-initialise with p and len. */
typedef struct nib_sentence_walk {
    const char *p;
    size_t len, at;
    size_t line, words; /* where the current line begins, and its first word */
    char fence;         /* inside a code fence of this character */
    bool begun;
} nib_sentence_walk;
typedef enum nib_sentence_certainty {
    NIB_SENTENCE_SURE,       /* no further text can undo or move it */
    NIB_SENTENCE_IF_LAST,    /* an end if the text ends here; further text may undo or move it */
    NIB_SENTENCE_UNLESS_LAST /* none if the text ends here; further text may make it one */
} nib_sentence_certainty;
/* The byte after the next sentence's end; false when there is none. Only the last answer can be
 * unsure. */
bool nib_sentence_next(nib_sentence_walk *w, size_t *end, nib_sentence_certainty *certainty);

static inline bool nib_is_letter(char c) {
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}
static inline bool nib_is_digit(char c) {
    return c >= '0' && c <= '9';
}
static inline bool nib_is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool nib_is_one_of(char c, const char *set) {
    return c && strchr(set, c);
}
/* The length of the run of one byte at text[at]. */
static inline size_t nib_run_length(const char *text, size_t len, size_t at) {
    size_t i = at;
    while (i < len && text[i] == text[at]) i++;
    return i - at;
}
#endif
