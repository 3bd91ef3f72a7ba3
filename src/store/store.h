/* store - conversations that last: kept in SQLite, found again, written out for people to read.
 *
 * A conversation is a tree of messages: editing one, or answering again, adds a sibling and takes
 * nothing away. Its leaf says which path through the tree is the conversation as it is shown.
 * Times are seconds since 1970. A store belongs to one thread at a time; any number of processes
 * may have the same file open. Every call that changes something is one transaction, which a killed
 * process cannot undo (the file's journal is a write-ahead log). */
#ifndef NIB_STORE_H
#define NIB_STORE_H
#include "chat/chat.h"

/* ---- the file (store.c) ---- */

typedef struct nib_store nib_store;
/* Where conversations of this user are: $XDG_DATA_HOME/nib/conversations.db, by default below
 * ~/.local/share. Makes the folders. NIB_ERR_NOT_FOUND: no home either. */
nib_status nib_store_default_path(nib_buf *out, nib_error *e);
/* Opens or makes it; ":memory:" lives as long as the store. Errors name the path. */
nib_status nib_store_open(nib_store **out, const char *path, nib_error *e);
void nib_store_close(nib_store *s);
/* Replies that no process is writing any more: what there is of them becomes the reply. For whoever
 * writes replies, before it begins. */
nib_status nib_store_recover(nib_store *s, nib_error *e);
/* 16 random bytes that were made with the file and stay the same. */
nib_status nib_store_secret(nib_store *s, uint8_t secret[16], nib_error *e);

/* ---- conversations ---- */

typedef struct nib_talk {
    int64_t id;
    char *title, *system, *model; /* system, model: NULL when none; model: who answered last */
    double temp;                  /* < 0: the model's own */
    int think;                    /* nib_dialog_params.think: 0 as the model does, 1 on, 2 off */
    int retention;                /* exchanges that reach the model; < 0 all */
    double created, updated;
    int64_t leaf; /* 0: no message yet */
} nib_talk;
void nib_talk_free(nib_talk *t);
nib_status nib_talk_new(nib_store *s, const char *title, int64_t *id, nib_error *e);
nib_status nib_talk_get(nib_store *s, int64_t id, nib_talk *out, nib_error *e);
/* The one that was changed last among those of this title. */
nib_status nib_talk_find(nib_store *s, const char *title, int64_t *id, nib_error *e);
/* Title, system text, model, temp, think and retention become those of t. */
nib_status nib_talk_set(nib_store *s, const nib_talk *t, nib_error *e);
nib_status nib_talk_delete(nib_store *s, int64_t id, nib_error *e);

/* One line of a list of conversations. */
typedef struct nib_talk_line {
    int64_t id;
    const char *title;
    const char *snippet; /* where the words were found, between \1 and \2; NULL without a search */
    double updated;
    int64_t n_messages;
} nib_talk_line;
/* Calls fn for each, last changed first, or with words (not NULL, not empty) those that contain
 * them all, best first. fn returns false to end it. */
typedef bool (*nib_talk_fn)(void *arg, const nib_talk_line *line);
nib_status nib_talk_list(nib_store *s, const char *words, int64_t limit, nib_talk_fn fn, void *arg,
                         nib_error *e);

/* ---- messages ---- */

typedef enum nib_turn_state {
    NIB_TURN_WHOLE,
    NIB_TURN_GROWING, /* its reply is being written */
    NIB_TURN_FAILED,  /* error says why; content is what there was */
} nib_turn_state;
typedef struct nib_turn {
    int64_t id, talk, parent; /* parent 0: the first of the conversation */
    char *role, *content;
    char *thinking, *model, *finish, *error; /* NULL when none */
    nib_turn_state state;
    int64_t n_prompt, n_cached, n_generated; /* tokens, as in nib_reply */
    double seconds;                          /* of generating */
    double created;
    int sibling, n_siblings;      /* which of the messages with this parent, from 1 */
    int64_t previous_id, next_id; /* siblings; 0: none */
} nib_turn;
typedef struct nib_turns {
    nib_turn *v;
    size_t n, cap;
} nib_turns;
void nib_turns_free(nib_turns *t);
/* Adds a message below parent (0: as a first one) and makes it the leaf. model: who says it; NULL:
 * none. */
nib_status nib_turn_add(nib_store *s, int64_t talk, int64_t parent, const char *role,
                        const char *content, const char *model, nib_turn_state state, int64_t *id,
                        nib_error *e);
/* Appends to a growing message; either may be NULL. */
nib_status nib_turn_grow(nib_store *s, int64_t id, const char *content, const char *thinking,
                         nib_error *e);
/* The message is over: state, content, thinking, model, finish, error and numbers become those of
 * t. */
nib_status nib_turn_finish(nib_store *s, const nib_turn *t, nib_error *e);
/* One message: out->v[0]. */
nib_status nib_turn_get(nib_store *s, int64_t id, nib_turns *out, nib_error *e);
/* From the first message to 'leaf' (0: the conversation's), in order. */
nib_status nib_turn_path(nib_store *s, int64_t talk, int64_t leaf, nib_turns *out, nib_error *e);
/* The conversation goes on below message id: the leaf becomes its newest descendant. */
nib_status nib_turn_choose(nib_store *s, int64_t id, nib_error *e);
/* Makes messages the shown path: what the tree has of them is kept, the rest is added. */
nib_status nib_turn_sync(nib_store *s, int64_t talk, const nib_messages *m, const char *model,
                         nib_error *e);
/* Without failed ones that are empty. Replaces what out holds. */
nib_status nib_turns_messages(const nib_turns *t, nib_messages *out, nib_error *e);

/* ---- responses of an API (responses.c) ---- */

enum { NIB_RESPONSES_MOST = 1024, NIB_RESPONSES_BYTES = 64 << 20, NIB_RESPONSES_DAYS = 30 };
typedef struct nib_response {
    char *id;
    uint64_t client;       /* only whoever made it sees it */
    int64_t n_before;      /* of the messages, those of earlier responses */
    char *messages, *body; /* JSON */
} nib_response;
void nib_response_free(nib_response *r);
/* Keeps it, and forgets those not used for longest, as far as there are more than the limits. */
nib_status nib_response_put(nib_store *s, const nib_response *r, nib_error *e);
/* It counts as used. NIB_ERR_NOT_FOUND: there is none, or it is another client's. */
nib_status nib_response_get(nib_store *s, const char *id, uint64_t client, nib_response *out,
                            nib_error *e);
nib_status nib_response_delete(nib_store *s, const char *id, uint64_t client, nib_error *e);

/* ---- writing out (transcript.c, transcript_pdf.c) ---- */

/* What is written, once, for every form. */
typedef struct nib_transcript {
    const char *title, *model, *system; /* model, system: may be NULL */
    double when;
    const nib_messages *messages;
} nib_transcript;
/* "You", the model's name, or another role's. */
const char *nib_transcript_speaker(const nib_transcript *t, const nib_message *m);
void nib_transcript_date(const nib_transcript *t, char *out, size_t size);
/* Append to out. JSON is what nib_dialog_load takes. */
nib_status nib_transcript_markdown(const nib_transcript *t, nib_buf *out, nib_error *e);
nib_status nib_transcript_json(const nib_transcript *t, nib_buf *out, nib_error *e);
nib_status nib_transcript_pdf(const nib_transcript *t, nib_buf *out, nib_error *e);
#endif
