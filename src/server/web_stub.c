/* Replies without a model, so that the page can be looked at: a fixed text, word by word, that says
 * what it is. */
#include "server/web.h"

enum { WORD_MS = 25 };

struct web_stub {
    nib_listener fn;
    void *arg;
    struct event *timer;
    nib_buf text;
    size_t at;
    int64_t n_words;
    bool stopped;
    double start;
};

static void end(web_stub *x) {
    nib_reply reply = {.finish = x->stopped ? "interrupted" : "stop",
                       .n_generated = x->n_words,
                       .generate_seconds = nib_now() - x->start};
    x->text.data[x->at] = 0;
    reply.text = x->text.data;
    x->fn(x->arg, &(nib_event){.kind = NIB_EVENT_REPLY, .reply = &reply});
    x->fn(x->arg, &(nib_event){.kind = NIB_EVENT_END, .status = NIB_OK}); /* frees x */
}

static void on_word(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    web_stub *x = arg;
    if (x->stopped || x->at == x->text.len) {
        end(x);
        return;
    }
    const char *p = x->text.data + x->at;
    size_t n = strspn(p, " \n");
    n += strcspn(p + n, " \n");
    char word[256];
    snprintf(word, sizeof word, "%.*s", (int)n, p);
    nib_piece piece = {.kind = NIB_PIECE_ANSWER, .text = word, .len = strlen(word)};
    x->at += n;
    x->n_words++;
    struct timeval wait = {0, WORD_MS * 1000};
    evtimer_add(x->timer, &wait);
    x->fn(x->arg, &(nib_event){.kind = NIB_EVENT_PIECE, .piece = &piece});
}

web_stub *web_stub_start(nib_server *s, const char *message, nib_listener fn, void *arg) {
    web_stub *x = nib_calloc(1, sizeof *x);
    if (!x) return NULL;
    *x = (web_stub){.fn = fn, .arg = arg, .start = nib_now()};
    size_t shown =
        nib_utf8_complete(message, strcspn(message, "\n") > 120 ? 120 : strcspn(message, "\n"));
    nib_buf_puts(&x->text,
                 "**Stub reply.** No model is loaded, so this text was made up by the page "
                 "itself. You wrote:\n\n> ");
    /* one word of the message may be long: pieces are cut at spaces */
    nib_buf_put(&x->text, message, shown);
    nib_buf_puts(&x->text,
                 "\n\nWith a model, its answer would stand here, with *Markdown* and code:\n\n"
                 "```sh\nnib serve MODEL.gguf   # start it with a model\n```\n");
    x->timer = evtimer_new(s->base, on_word, x);
    struct timeval wait = {0, WORD_MS * 1000};
    if (!x->text.failed && x->timer && evtimer_add(x->timer, &wait) == 0) return x;
    web_stub_free(x);
    return NULL;
}

void web_stub_finish(web_stub *x) {
    struct timeval now = {0, 0};
    x->stopped = true;
    evtimer_add(x->timer, &now);
}

void web_stub_free(web_stub *x) {
    if (!x) return;
    if (x->timer) event_free(x->timer);
    nib_buf_free(&x->text);
    nib_free(x);
}
