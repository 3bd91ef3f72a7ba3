/* chat - what stands between people and tokens: templates, messages, and what is done to text. Pure
 * functions of their arguments: no model, no threads. (The generation loop that uses them is
 * engine/dialog.) */
#ifndef NIB_CHAT_H
#define NIB_CHAT_H
#include "base/base.h"
struct json_t;

/* ---- templates (jinja_*.c): the Jinja subset that models ship with ---- */

typedef struct nib_template nib_template;
/* Parses src (UTF-8, at most 1 MiB); nesting is limited. Errors give line and what was expected.
 * Immutable and shareable. */
nib_status nib_template_parse(nib_template **out, const char *src, size_t n, nib_error *e);
void nib_template_free(nib_template *t);

typedef struct nib_render_options {
    int64_t now; /* seconds, for strftime_now, as local time without zone; NIB_NOW: the clock */
    size_t max_output;          /* bytes; 0 = 16 MiB */
    uint64_t max_steps;         /* 0 = 20 million evaluation steps */
    const char *const *trusted; /* variables whose text is template text: "bos_token", ...;
                                   NULL-terminated, or NULL */
} nib_render_options;
#define NIB_NOW INT64_MIN

/* A run of output that all came from the template, or all from the data: data is never parsed for
 * control tokens. Trusted are the template's text, numbers and other constants it wrote itself, the
 * variables named in 'trusted', and messages[i].role where it is the name of a role ("user",
 * "assistant", ...): templates write '<|' + role + '|>'. */
typedef struct nib_span {
    size_t start, len;
    bool trusted;
} nib_span;
typedef struct nib_rendered {
    nib_buf text;
    nib_span *spans; /* cover text exactly, in order */
    size_t n_spans;
} nib_rendered;
void nib_rendered_free(nib_rendered *r);
/* vars: a JSON object, every key a variable; null is none, absent is undefined. NIB_ERR_TEMPLATE:
 * raised by the template (its message, nothing else) or failed inside ("template line N: ...").
 * NIB_ERR_LIMIT: too many steps, too much text, memory (256 MiB) or nesting. Needs 1 MiB of stack
 * at most. */
nib_status nib_template_render(const nib_template *t, const struct json_t *vars,
                               const nib_render_options *o, nib_rendered *out, nib_error *e);
/* So that the model goes on with the last message: cuts r after the last place where the message's
 * content stands (white space at its ends aside), as transformers' continue_final_message does.
 * NIB_ERR_NOT_FOUND: it stands nowhere. */
nib_status nib_rendered_continue(nib_rendered *r, const char *content, size_t n, nib_error *e);

/* ---- messages (messages.c) ---- */

typedef struct nib_message {
    char *role, *content, *thinking; /* thinking: NULL when none */
} nib_message;
typedef struct nib_messages {
    nib_message *v;
    size_t n, cap;
} nib_messages;
nib_status nib_messages_add(nib_messages *m, const char *role, const char *content,
                            const char *thinking, nib_error *e);
void nib_messages_truncate(nib_messages *m, size_t n);
void nib_messages_free(nib_messages *m);
/* JSON: [{"role","content","thinking"?}, ...] both ways. From JSON replaces what m holds. */
nib_status nib_messages_to_json(const nib_messages *m, struct json_t **out, nib_error *e);
nib_status nib_messages_from_json(nib_messages *m, const struct json_t *v, nib_error *e);
/* The last n exchanges (a user message and what follows it; the one being asked counts, so at least
 * 1); n < 0: all. Returns the first index to send. */
size_t nib_messages_window(const nib_messages *m, int n_exchanges);
/* Renders system (NULL: none) + messages[first..) with t, or as "User: ...\nAssistant:" when t is
 * NULL. Where t refuses or ignores system messages, the system text goes in front of the first user
 * message, and the log says so. extra: further template variables (enable_thinking, tools, ...),
 * may be NULL. bos, eos: the text of those tokens, may be NULL; a template writes bos itself, the
 * rendering without one does not. A message's thinking is given to templates as reasoning_content
 * and as thinking. */
nib_status nib_chat_render(const nib_template *t, const char *system, const nib_messages *m,
                           size_t first, bool add_generation_prompt, const char *bos,
                           const char *eos, const struct json_t *extra, int64_t now,
                           nib_rendered *out, nib_error *e);

/* ---- text handling ---- */

/* Stops (stops.c): looks at the text of a reply as it grows. */
typedef struct nib_stops {
    const char *const *strings; /* NULL-terminated, or NULL */
    int n_sentences;            /* 0: off */
} nib_stops;
/* How much of text[0..len) is surely part of the reply ('safe': nothing later can turn it into a
 * stop), and whether it is over ('stopped'; text ends at safe). 'from': everything before it was
 * found safe earlier. Stop strings are cut off; a sentence's end is kept. */
typedef struct nib_stop_result {
    size_t safe;
    bool stopped;
    const char *reason;
} nib_stop_result;
nib_stop_result nib_stops_check(const nib_stops *s, const char *text, size_t len, size_t from,
                                bool final);

/* Sentences (sentences.c): the number of sentences that end in text; .?! and their full-width kin
 * end one, not in abbreviations, numbers, ellipses in mid-sentence; commas never. */
int nib_sentence_count(const char *text, size_t len);
/* The byte after the n-th sentence's end, or SIZE_MAX. */
size_t nib_sentence_end(const char *text, size_t len, int n);
/* Where the first finished piece of text behind 'from' ends, or SIZE_MAX: a sentence whose end no
 * further text can move, or a line (without its newline). A piece begins with the white space
 * before it. */
size_t nib_piece_end(const char *text, size_t len, size_t from);

/* Clean-up (cleanup.c): collapses repeated spaces and repeated punctuation ("!!!!" -> "!", "..."
 * stays), drops spaces before ",.;:!?"; never touches apostrophes, newlines, code (fenced, indented
 * or inline), addresses, tables, markers and indentation of lines, non-ASCII text. Idempotent; and
 * of a clean text that ends in no space, with more behind it, only what is behind it changes.
 * Appends to out. */
nib_status nib_text_cleanup(const char *text, size_t len, nib_buf *out, nib_error *e);

/* Autocorrect (autocorrect.c): word frequencies from a plain dictionary, edit distance at most 2,
 * case kept; words with digits, in code, capitalised mid-sentence names, or known are left alone.
 */
typedef struct nib_dictionary nib_dictionary;
/* "word count" lines, or words alone. */
nib_status nib_dictionary_open(nib_dictionary **out, const char *path, nib_error *e);
nib_status nib_dictionary_from_text(nib_dictionary **out, const char *p, size_t n, nib_error *e);
void nib_dictionary_free(nib_dictionary *d);
nib_status nib_autocorrect(const nib_dictionary *d, const char *text, size_t len, nib_buf *out,
                           nib_error *e);

/* Thinking (thinking.c): splits a reply, as it streams, into thoughts and answer. Tag pairs are
 * rows of thinking.def
 * (<think>, <thinking>, <|channel|>analysis ..., [THINK]). Text that may be the start of a tag is
 * held back; the result is the same however the reply is cut into chunks. Tags count where a reply
 * begins and after a thought, not in the answer. */
typedef struct nib_think_split {
    bool inside; /* in a thought; set before the first put when the prompt already opened one */
    int tag;     /* the row whose closing tag is awaited, from 1; 0: none, or (inside) any */
    nib_buf held;
    bool trim, answering, any; /* drop space next; the answer has begun; a thought was put out */
} nib_think_split;
/* final: nothing more comes, what is held goes out. NIB_ERR_NOMEM is the only failure. */
nib_status nib_think_put(nib_think_split *s, const char *text, size_t len, bool final,
                         nib_buf *thought, nib_buf *answer);
void nib_think_free(nib_think_split *s);
/* Whether a rendered prompt ends with an opened thought. */
bool nib_think_open(const char *prompt, size_t len);
/* What closes the thought that s is in ("</think>" when the prompt opened it). */
nib_str nib_think_closing(const nib_think_split *s);
/* Whether a control token spelled so is part of some tag, so that nib_think_put must see it. */
bool nib_think_spells(nib_str word);
#endif
