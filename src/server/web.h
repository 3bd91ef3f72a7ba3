/* web - the chat pages: what their files share.
 *
 * A page is made on the server and works by itself: links, forms, and replies that stream as HTML.
 * Where the browser runs our scripts, htmx sends the same forms and puts the fragments that come
 * back in their places, and replies come as server-sent events. A form is answered by a redirect
 * without htmx (no HX-Request header) and by fragments with it.
 *
 * A reply belongs to the server, not to the request that asked for it: it is written into the store
 * piece by piece, before anybody is shown the piece, and any number of streams may watch it. A
 * stream that begins later, or again, is first shown everything there is.
 *
 * What needs the store is done in its lane; replies, which are the I/O thread's, are begun, stopped
 * and watched by a handler that follows there (nib_http_next). */
#ifndef NIB_SERVER_WEB_H
#define NIB_SERVER_WEB_H
#include <assert.h>
#include "server/internal.h"
#include "store/store.h"

typedef struct nib_web {
    nib_store *store;
    nib_kvdisk *kv; /* of conversations; NULL: they are in memory */
    uint8_t secret[16];
    struct web_reply *replies; /* under way */
} nib_web;

/* In its lane alone. */
static inline nib_store *web_store(const nib_http *r) {
    assert(nib_lane_now() == NIB_LANE_STORE);
    return r->server->web->store;
}

/* What pages say about a model, as it was when the request came: the list itself is the I/O
 * thread's. */
typedef struct web_choice {
    const char *name, *other, *title, *arch; /* other, title, arch: may be NULL */
    char quant[32];
    uint64_t bytes, n_params;
    int64_t n_ctx;     /* 0: it was never loaded */
    const char *state; /* "loaded", "loading", or NULL */
    bool thinks;       /* its template asks whether it is to */
} web_choice;
typedef struct web_choices {
    web_choice *v;
    size_t n;
    const web_choice *usual; /* the one meant when nothing is said; NULL: there is none */
} web_choices;
/* Who answers in a conversation: the model it was given, where that is still here, else the usual
 * one. talk may be NULL; NULL: there is no model. */
const web_choice *web_choice_of(const nib_http *r, const nib_talk *talk);
const web_choice *web_choice_named(const nib_http *r, const char *name);

/* What a conversation is called before anything was said. */
static const char web_unnamed[] = "New conversation";

/* ---- who asks (web_session.c) ---- */

/* The token that forms of this browser carry; sets its cookie when it has none yet. NULL: out of
 * memory. As long as r lives. */
const char *web_token(nib_http *r);
/* Whether a posted form carries it. If not, the client was told so. */
bool web_form_ok(nib_http *r);
bool web_has_htmx(const nib_http *r); /* htmx sent this */
bool web_has_scripts(nib_http *r);    /* our script has run in this browser */
/* A number of the form or the path; false: the client was told that there is none. */
bool web_form_id(nib_http *r, const char *name, int64_t *out);
bool web_path_id(nib_http *r, int64_t *out);
/* Fields of forms with their line ends made '\n' and without space around; "" when absent. */
const char *web_form_text(nib_http *r, const char *name);

/* ---- answers (web_page.c) ---- */

/* Sends b, which they free, as HTML: whole, or as the beginning of a stream. */
void web_send(nib_http *r, int status, nib_buf *b);
void web_begin_stream(nib_http *r, nib_buf *b);
/* e in the right form for whoever asked. */
void web_fail(nib_http *r, const nib_error *e);
/* After a form without htmx: to conversation 'talk' (0: the first page), at message 'at' (0: none).
 */
void web_go(nib_http *r, int64_t talk, int64_t at);
/* Everything up to and within the messages, and everything from their end on. */
typedef struct web_page {
    const nib_talk *talk; /* NULL: a new one */
    const nib_turns *turns;
    int64_t edit;      /* message shown as a form; 0: none */
    const char *words; /* searched for; may be NULL */
    const char *token;
    const web_choice *choice; /* who will answer; NULL: no model */
} web_page;
void web_put_page_begin(nib_http *r, const web_page *p, nib_buf *b);
void web_put_page_end(const web_page *p, nib_buf *b);
/* What the field's form needs to know: where the next message belongs. */
void web_put_composer_ids(int64_t talk, int64_t parent, nib_buf *b);
/* The same for the field itself, and how its switch stands. */
void web_put_say_ids(const web_choice *m, const nib_talk *talk, int64_t parent, nib_buf *b);
void web_put_list(nib_http *r, const char *words, int64_t current, nib_buf *b);
/* "120 / 2048": tokens of the conversation against what the context holds. */
int64_t web_used(const nib_turns *t); /* tokens that the last reply's prompt and text were */
void web_put_context(int64_t n_ctx, int64_t used, nib_buf *b);
/* The choice of a model for the conversation, and its settings. */
void web_put_models(nib_http *r, const web_page *p, nib_buf *b);
void web_put_settings(const web_page *p, nib_buf *b);
void web_put_banner(nib_http *r, nib_buf *b); /* when there is no model, or not yet */
void web_put_greeting(nib_http *r, const web_page *p, nib_buf *b);
/* <svg> with a symbol of icons.svg. */
void web_put_icon(nib_buf *b, const char *name);
/* An address of a file of ours that changes with its contents. */
void web_put_asset(nib_buf *b, const char *name);
/* What begins and ends a part of the page that htmx puts where 'target' says. */
void web_put_partial(nib_buf *b, const char *target, const char *swap);
void web_put_partial_end(nib_buf *b);

/* ---- messages (web_message.c) ---- */

/* One message with its actions. live: it still grows, and is watched by a script. */
void web_put_message(const nib_turn *t, const char *token, bool live, nib_buf *b);
/* What stands in its element; of that, up to where its text begins. */
void web_put_message_inside(const nib_turn *t, const char *token, nib_buf *b);
void web_put_message_head(const nib_turn *t, nib_buf *b);
void web_put_messages(const web_page *p, nib_buf *b);
void web_put_edit(const nib_turn *t, const char *token, nib_buf *b);
/* What of a reply changes while it grows. */
void web_put_thoughts(const char *text, size_t n, nib_buf *b);
void web_put_footer(const nib_turn *t, const char *token, nib_buf *b);

/* ---- replies (web_reply.c) ---- */

/* All on the I/O thread.
 * Answers what turns hold with message 'id' (GROWING, empty). Failing becomes the message's error.
 */
void web_reply_start(nib_http *r, const nib_talk *talk, const nib_turns *turns, int64_t id);
void web_reply_stop(nib_server *s, int64_t id);
void web_replies_stop(nib_server *s, int64_t talk);
void web_replies_end(nib_server *s); /* all of them, as they are */
/* Streams it to r as events; also when it is whole already. */
void web_reply_watch(nib_http *r, int64_t id);
/* Streams it to r as HTML, between the parts of a page, which it takes over. False: it is not
 * growing, and nothing was done. */
bool web_reply_follow(nib_http *r, const nib_turn *t, nib_buf *before, nib_buf *after);
/* How much of text[from..n) is whole blocks of Markdown: a part that can be shown for good. */
size_t web_whole_blocks(const char *text, size_t from, size_t n);
/* web_stub.c: replies without a model. */
typedef struct web_stub web_stub;
web_stub *web_stub_start(nib_server *s, const char *message, nib_listener fn, void *arg);
void web_stub_finish(web_stub *x);
void web_stub_free(web_stub *x);

/* ---- files of ours (web_assets.c, made from web/ by cmake/embed.cmake) ---- */

typedef struct web_asset {
    const char *name, *type, *version;
    const unsigned char *data;
    size_t n;
} web_asset;
extern const web_asset web_assets[];
extern const size_t web_n_assets;
const web_asset *web_asset_find(const char *name);
#endif
