/* What is done in a conversation: say, answer again, edit, choose a version, stop; and the streams
 * of replies. */
#include "server/web.h"

/* What a form's handler leaves for the I/O thread: the reply 'id' to what turns hold is to be
 * begun, or ended. */
typedef struct task {
    nib_talk talk;
    nib_turns turns;
    int64_t id;
} task;

static void drop_task(nib_http *r) {
    task *t = r->state;
    nib_talk_free(&t->talk);
    nib_turns_free(&t->turns);
}

/* NULL: the client was told. */
static task *new_task(nib_http *r) {
    task *t = nib_arena_calloc(&r->arena, 1, sizeof *t);
    if (!t) {
        nib_http_error(r, 503, NULL, NULL, "out of memory");
        return NULL;
    }
    r->state = t;
    r->on_gone = drop_task;
    return t;
}

static void begin_reply(nib_http *r) {
    const task *t = r->state;
    web_reply_start(r, &t->talk, &t->turns, t->id);
}

static void end_reply(nib_http *r) {
    web_reply_stop(r->server, ((const task *)r->state)->id);
}

/* A form was answered: the page's messages as they are now, for htmx, else the page anew. */
static void show_all(nib_http *r, const nib_talk *talk, int64_t at) {
    nib_turns turns = {0};
    nib_error e;
    if (!web_has_htmx(r)) {
        web_go(r, talk->id, at);
        return;
    }
    if (nib_turn_path(web_store(r), talk->id, 0, &turns, &e) != NIB_OK) {
        web_fail(r, &e);
        return;
    }
    nib_buf b = {0};
    web_page p = {.turns = &turns, .token = web_token(r)};
    web_put_partial(&b, "#messages", "innerHTML");
    web_put_messages(&p, &b);
    web_put_partial_end(&b);
    web_put_partial(&b, "#say-ids", "innerHTML");
    web_put_say_ids(web_choice_of(r, talk), talk, turns.n ? turns.v[turns.n - 1].id : 0, &b);
    web_put_partial_end(&b);
    nib_turns_free(&turns);
    web_send(r, 200, &b);
}

/* A new reply to the message 'to', which begins as soon as the handler is over. false: it could not
 * be, and the client was told. */
static bool answer(nib_http *r, task *t, int64_t to) {
    nib_error e;
    const web_choice *m = web_choice_of(r, &t->talk);
    nib_status s = nib_turn_path(web_store(r), t->talk.id, to, &t->turns, &e);
    if (s == NIB_OK)
        s = nib_turn_add(web_store(r), t->talk.id, to, "assistant", "", m ? m->name : "stub",
                         NIB_TURN_GROWING, &t->id, &e);
    if (s == NIB_OK)
        nib_http_next(r, NIB_LANE_IO, begin_reply);
    else
        web_fail(r, &e);
    return s == NIB_OK;
}

/* The beginning of what was said, as the conversation's name. */
static void make_title(const char *text, char *out, size_t size) {
    size_t n = strcspn(text, "\n");
    if (n >= size) {
        n = nib_utf8_complete(text, size - 5);
        size_t cut = n;
        while (cut > size / 2 && text[cut - 1] != ' ') cut--;
        if (cut > size / 2) n = cut - 1;
        snprintf(out, size, "%.*s\xe2\x80\xa6", (int)n, text);
    } else {
        snprintf(out, size, "%.*s", (int)n, text);
    }
}

/* A conversation remembers who answers in it, from its first message on. True: that changed. */
static bool take_model(nib_http *r, nib_talk *talk) {
    const web_choice *m = talk->model ? NULL : web_choice_named(r, nib_http_form(r, "model"));
    if (!m) m = web_choice_of(r, talk);
    if (!m || (talk->model && strcmp(talk->model, m->name) == 0)) return false;
    char *name = nib_strdup(m->name);
    if (!name) return false;
    nib_free(talk->model);
    talk->model = name;
    return true;
}

/* The talk of a form: made when it is 0. false: the client was told why not. */
static bool take_talk(nib_http *r, const char *text, nib_talk *talk, bool *made) {
    int64_t id;
    nib_error e;
    if (!web_form_id(r, "talk", &id)) return false;
    nib_status s = NIB_OK;
    *made = id == 0;
    if (id == 0) {
        char title[64];
        make_title(text, title, sizeof title);
        s = nib_talk_new(web_store(r), title, &id, &e);
    }
    if (s == NIB_OK) s = nib_talk_get(web_store(r), id, talk, &e);
    bool changed = s == NIB_OK && take_model(r, talk);
    if (s == NIB_OK && nib_http_form(r, "think-shown")) {
        bool on = nib_http_form(r, "think") != NULL;
        if (on != (strcmp(nib_http_form(r, "think-shown"), "1") == 0)) { /* somebody moved it */
            talk->think = on ? 1 : 2;
            changed = true;
        }
    }
    if (changed) s = nib_talk_set(web_store(r), talk, &e);
    if (s != NIB_OK) web_fail(r, &e);
    return s == NIB_OK;
}

/* A conversation that began with its settings gets a name from its first message. */
static void name_it(nib_http *r, nib_talk *talk, const char *text) {
    char title[64];
    nib_error e;
    if (strcmp(talk->title, web_unnamed) != 0) return;
    make_title(text, title, sizeof title);
    char *own = nib_strdup(title);
    if (!own) return;
    nib_free(talk->title);
    talk->title = own;
    if (nib_talk_set(web_store(r), talk, &e) != NIB_OK)
        nib_log(NIB_LOG_WARN, "a conversation keeps its name: %s", e.message);
}

/* Whether a message may follow 'parent': not while that still grows. */
static bool may_follow(nib_http *r, int64_t parent) {
    nib_turns one = {0};
    nib_error e;
    if (!parent) return true;
    if (nib_turn_get(web_store(r), parent, &one, &e) != NIB_OK) {
        web_fail(r, &e);
        return false;
    }
    bool growing = one.v[0].state == NIB_TURN_GROWING;
    nib_turns_free(&one);
    if (growing)
        nib_http_error(r, 409, NULL, NULL, "The reply is still being written: stop it first.");
    return !growing;
}

/* What was said, and its reply, put below the others. */
static void show_new(nib_http *r, const nib_talk *talk, bool first, int64_t said, int64_t reply) {
    nib_turns turns = {0};
    nib_error e;
    nib_buf b = {0};
    char path[40];
    if (!web_has_htmx(r)) {
        web_go(r, talk->id, reply);
        return;
    }
    if (nib_turn_path(web_store(r), talk->id, reply, &turns, &e) != NIB_OK) {
        web_fail(r, &e);
        return;
    }
    const char *token = web_token(r);
    for (size_t i = 0; i < turns.n; i++)
        if (turns.v[i].id >= said) web_put_message(&turns.v[i], token, true, &b);
    nib_turns_free(&turns);
    web_put_partial(&b, "#say-ids", "innerHTML");
    web_put_say_ids(web_choice_of(r, talk), talk, reply, &b);
    web_put_partial_end(&b);
    web_put_partial(&b, "#talks", "innerMorph");
    web_put_list(r, NULL, talk->id, &b);
    web_put_partial_end(&b);
    if (first) { /* forms of the bar are about it from now on */
        web_page p = {.talk = talk, .token = token, .choice = web_choice_of(r, talk)};
        web_put_partial(&b, "#pick", "innerHTML");
        web_put_models(r, &p, &b);
        web_put_partial_end(&b);
        web_put_partial(&b, "#settings", "innerHTML");
        web_put_settings(&p, &b);
        web_put_partial_end(&b);
        web_put_partial(&b, "#title", "innerHTML");
        nib_html(&b, "%s", talk->title);
        web_put_partial_end(&b);
        web_put_partial(&b, "#greeting", "delete");
        web_put_partial_end(&b);
        snprintf(path, sizeof path, "/c/%lld", (long long)talk->id);
        nib_http_set(r, "HX-Push-Url", path);
    }
    web_send(r, 200, &b);
}

void nib_post_say(nib_http *r) {
    int64_t parent, said = 0;
    nib_error e;
    bool made;
    if (!web_form_ok(r) || !web_form_id(r, "parent", &parent)) return;
    const char *text = web_form_text(r, "text");
    if (!*text) {
        nib_http_error(r, 400, NULL, "text", "There is nothing to send.");
        return;
    }
    if (!nib_utf8_valid(text, strlen(text))) {
        nib_http_error(r, 400, NULL, "text", "The message is not UTF-8.");
        return;
    }
    task *t = new_task(r);
    if (!t || !may_follow(r, parent) || !take_talk(r, text, &t->talk, &made)) return;
    if (!t->talk.leaf && !made) name_it(r, &t->talk, text);
    if (nib_turn_add(web_store(r), t->talk.id, parent, "user", text, NULL, NIB_TURN_WHOLE, &said,
                     &e) != NIB_OK)
        web_fail(r, &e);
    else if (answer(r, t, said))
        show_new(r, &t->talk, t->talk.leaf == 0, said, t->id);
}

/* The message that a form is about, and its conversation, which the task owns. */
static task *take_message(nib_http *r, nib_turns *one) {
    int64_t id;
    nib_error e;
    if (!web_form_ok(r) || !web_form_id(r, "message", &id)) return NULL;
    task *t = new_task(r);
    if (!t) return NULL;
    nib_status s = nib_turn_get(web_store(r), id, one, &e);
    if (s == NIB_OK && (s = nib_talk_get(web_store(r), one->v[0].talk, &t->talk, &e)) != NIB_OK)
        nib_turns_free(one);
    if (s != NIB_OK) web_fail(r, &e);
    return s == NIB_OK ? t : NULL;
}

void nib_post_again(nib_http *r) {
    nib_turns one = {0};
    task *t = take_message(r, &one);
    if (!t) return;
    const nib_turn *m = &one.v[0];
    if (strcmp(m->role, "assistant") != 0 || !m->parent)
        nib_http_error(r, 400, NULL, "message", "Only replies can be made again.");
    else if (m->state == NIB_TURN_GROWING)
        nib_http_error(r, 409, NULL, NULL, "The reply is still being written: stop it first.");
    else if (answer(r, t, m->parent))
        show_all(r, &t->talk, t->id);
    nib_turns_free(&one);
}

void nib_post_edit(nib_http *r) {
    nib_turns one = {0};
    nib_error e;
    int64_t said = 0;
    task *t = take_message(r, &one);
    if (!t) return;
    const nib_turn *m = &one.v[0];
    const char *text = web_form_text(r, "text");
    if (strcmp(m->role, "user") != 0)
        nib_http_error(r, 400, NULL, "message", "Only your own messages can be edited.");
    else if (!*text || !nib_utf8_valid(text, strlen(text)))
        nib_http_error(r, 400, NULL, "text", "There is nothing to send.");
    else if (nib_turn_add(web_store(r), t->talk.id, m->parent, "user", text, NULL, NIB_TURN_WHOLE,
                          &said, &e) != NIB_OK)
        web_fail(r, &e);
    else if (answer(r, t, said))
        show_all(r, &t->talk, said);
    nib_turns_free(&one);
}

void nib_post_choose(nib_http *r) {
    nib_turns one = {0};
    nib_error e;
    task *t = take_message(r, &one);
    if (!t) return;
    if (nib_turn_choose(web_store(r), one.v[0].id, &e) != NIB_OK)
        web_fail(r, &e);
    else
        show_all(r, &t->talk, one.v[0].id);
    nib_turns_free(&one);
}

void nib_post_stop(nib_http *r) {
    nib_turns one = {0};
    task *t = take_message(r, &one);
    if (!t) return;
    t->id = one.v[0].id;
    if (web_has_htmx(r))
        nib_http_reply(r, 204, NULL, "", 0);
    else
        web_go(r, t->talk.id, t->id);
    nib_http_next(r, NIB_LANE_IO, end_reply);
    nib_turns_free(&one);
}

/* ---- looking ---- */

static void show_one(nib_http *r, void (*put)(const nib_turn *, const char *, nib_buf *)) {
    int64_t id;
    nib_turns one = {0};
    nib_error e;
    if (!web_path_id(r, &id)) return;
    if (nib_turn_get(web_store(r), id, &one, &e) != NIB_OK) {
        web_fail(r, &e);
        return;
    }
    nib_buf b = {0};
    put(&one.v[0], web_token(r), &b);
    nib_turns_free(&one);
    web_send(r, 200, &b);
}

static void put_message(const nib_turn *t, const char *token, nib_buf *b) {
    web_put_message(t, token, true, b);
}

void nib_get_message(nib_http *r) {
    show_one(r, put_message);
}

void nib_get_edit(nib_http *r) {
    show_one(r, web_put_edit);
}

void nib_get_stream(nib_http *r) {
    int64_t id;
    if (web_path_id(r, &id)) web_reply_watch(r, id);
}
