/* Three questions that could come next, thought up by the model after a reply. The page asks for
 * them on its own; when it goes away, or goes on, the generation ends with the request. */
#include <ctype.h>
#include "server/web.h"

enum { MOST_TOKENS = 72, MOST = 3, SHORTEST = 6, LONGEST = 90 };
static const char ask[] =
    "Suggest three short questions that I could ask next about this, from my point of view. Write "
    "each on a line of its own, without numbers, quotes or any other words.";

typedef struct state {
    int64_t talk, parent;
    const char *model; /* its name; NULL: there is none */
    nib_request *q;    /* until it is submitted */
    nib_buf html;
    bool sent;
} state;

/* What is left of a line without numbers, bullets and quotes around it. */
static nib_str trimmed(const char *p, size_t n) {
    while (n && (isdigit((unsigned char)*p) || strchr(" \t.)-*\"'#", *p))) p++, n--;
    while (n && strchr(" \t\"'*\r", p[n - 1])) n--;
    return (nib_str){p, n};
}

static void put_suggestions(nib_http *r, const char *text) {
    state *st = r->state;
    nib_buf *b = &st->html;
    const char *token = web_token(r);
    int n_made = 0;
    for (const char *p = text; *p && n_made < MOST;) {
        size_t n = strcspn(p, "\n");
        nib_str s = trimmed(p, n);
        p += n + (p[n] == '\n');
        if (s.n < SHORTEST || s.n > LONGEST || !nib_utf8_valid(s.p, s.n)) continue;
        if (!n_made++)
            nib_buf_puts(b, "<div class=\"suggestions\" role=\"group\""
                            " aria-label=\"Questions you could ask\">");
        char line[LONGEST + 1];
        snprintf(line, sizeof line, "%.*s", (int)s.n, s.p);
        nib_html(b,
                 "<form method=\"post\" action=\"/ui/say\" hx-post=\"/ui/say\""
                 " hx-target=\"#messages\" hx-swap=\"beforeend\">"
                 "<input type=\"hidden\" name=\"csrf\" value=\"%s\">",
                 token);
        web_put_composer_ids(st->talk, st->parent, b);
        nib_html(b,
                 "<input type=\"hidden\" name=\"text\" value=\"%s\"><button class=\"chip\">%s"
                 "</button></form>",
                 line, line);
    }
    if (n_made) nib_buf_puts(b, "</div>");
}

static void deliver(nib_http *r) {
    state *st = r->state;
    if (st->sent) return;
    st->sent = true;
    web_send(r, 200, &st->html);
}

static void on_event(nib_http *r, const nib_event *ev) {
    if (ev->kind == NIB_EVENT_REPLY) put_suggestions(r, ev->reply->text);
    if (ev->kind == NIB_EVENT_END) deliver(r); /* nothing, where it failed */
}

static void on_gone(nib_http *r) {
    state *st = r->state;
    nib_request_free(st->q);
    nib_buf_free(&st->html);
    nib_free(st);
}

static nib_status make_request(nib_http *r, const nib_turns *turns, const nib_talk *talk,
                               nib_request *q, nib_error *e) {
    NIB_TRY(nib_turns_messages(turns, &q->messages, e));
    NIB_TRY(nib_messages_add(&q->messages, "user", ask, NULL, e));
    q->p.think = NIB_THINK_OFF;
    q->p.max_tokens = MOST_TOKENS;
    q->p.max_seconds = 10;
    q->client = r->client;
    if (talk->system &&
        !(q->p.system = nib_arena_strndup(&q->arena, talk->system, strlen(talk->system))))
        return nib_fail_nomem(e, 1, "a request");
    return NIB_OK;
}

/* On the I/O thread, the model loaded. */
static void generate(nib_http *r) {
    state *st = r->state;
    nib_request *q = st->q;
    st->q = NULL;
    q->p.sampling = nib_model_sampling(nib_http_model(r));
    nib_http_generate(r, q, on_event);
}

/* Nothing is loaded for it; and a model without a template does not talk, but goes on with texts.
 */
static void begin(nib_http *r) {
    state *st = r->state;
    nib_local *m = st->model ? nib_locals_find(r->server, st->model, false) : NULL;
    if (m && m->state == NIB_LOCAL_READY && nib_sched_template(m->sched))
        nib_http_with(r, m, generate);
    else
        deliver(r);
}

void nib_get_suggest(nib_http *r) {
    int64_t id;
    nib_turns one = {0}, turns = {0};
    nib_talk talk = {0};
    nib_error e;
    nib_status s;
    if (!web_path_id(r, &id)) return;
    state *st = nib_calloc(1, sizeof *st);
    if (!st) {
        nib_http_error(r, 503, NULL, NULL, "out of memory");
        return;
    }
    r->state = st;
    r->on_gone = on_gone;
    st->parent = id;
    NIB_TRY_OUT(nib_turn_get(web_store(r), id, &one, &e));
    NIB_TRY_OUT(nib_turn_path(web_store(r), one.v[0].talk, id, &turns, &e));
    NIB_TRY_OUT(nib_talk_get(web_store(r), one.v[0].talk, &talk, &e));
    const web_choice *m = web_choice_of(r, &talk);
    st->talk = talk.id;
    st->model = m ? m->name : NULL;
    st->q = nib_request_new(NULL);
    s = st->q ? make_request(r, &turns, &talk, st->q, &e)
              : nib_fail_nomem(&e, sizeof *st->q, "suggestions");
out:
    if (s == NIB_OK)
        nib_http_next(r, NIB_LANE_IO, begin);
    else
        web_fail(r, &e);
    nib_turns_free(&one);
    nib_turns_free(&turns);
    nib_talk_free(&talk);
}
