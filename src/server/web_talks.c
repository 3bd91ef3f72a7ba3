/* Whole pages, and what is done with conversations: list, name, delete, write out, settings. */
#include "server/web.h"

/* ---- pages ---- */

static void show_root(nib_http *r) {
    static const nib_turns none = {0};
    nib_buf b = {0};
    web_page p = {.turns = &none, .words = nib_http_query(r, "q"), .token = web_token(r)};
    p.choice = web_choice_named(r, nib_http_query(r, "model")); /* before anything was said */
    if (!p.choice) p.choice = web_choice_of(r, NULL);
    web_put_page_begin(r, &p, &b);
    web_put_page_end(&p, &b);
    web_send(r, 200, &b);
}

void nib_get_root(nib_http *r) {
    if (nib_http_wants_html(r)) {
        web_take_choices(r);
        nib_http_next(r, NIB_LANE_STORE, show_root);
        return;
    }
    /* what clients of Ollama look for */
    nib_http_reply(r, 200, "text/plain; charset=utf-8", "Ollama is running", 17);
}

/* A page that grows with its last message: what is before that and after. */
typedef struct growing {
    nib_turns turns;
    nib_buf before, after;
} growing;

static void drop_growing(nib_http *r) {
    growing *g = r->state;
    nib_turns_free(&g->turns);
    nib_buf_free(&g->before);
    nib_buf_free(&g->after);
}

static void follow(nib_http *r) {
    growing *g = r->state;
    const nib_turn *last = &g->turns.v[g->turns.n - 1];
    growing own = *g;
    *g = (growing){.turns = own.turns}; /* goes when r does, or when a watcher takes r's state */
    if (web_reply_follow(r, last, &own.before, &own.after)) {
        nib_turns_free(&own.turns);
        return;
    }
    web_put_message(last, web_token(r), true, &own.before);
    nib_buf_put(&own.before, own.after.data ? own.after.data : "", own.after.len);
    nib_buf_free(&own.after);
    web_send(r, 200, &own.before);
}

/* The last message may be growing: a script watches it, or the page itself grows. */
static void show(nib_http *r, web_page *p, nib_turns *turns) {
    nib_buf b = {0}, end = {0};
    size_t n = p->turns->n;
    const nib_turn *last = n ? &p->turns->v[n - 1] : NULL;
    bool grows = last && last->state == NIB_TURN_GROWING && !web_has_scripts(r) &&
                 strcmp(r->method, "GET") == 0;
    web_put_page_begin(r, p, &b);
    nib_turns shown = {p->turns->v, grows ? n - 1 : n, 0};
    web_page part = *p;
    part.turns = &shown;
    web_put_messages(&part, &b);
    web_put_page_end(p, &end);
    growing *g = grows ? nib_arena_calloc(&r->arena, 1, sizeof *g) : NULL;
    if (g) {
        *g = (growing){*turns, b, end};
        *turns = (nib_turns){0};
        r->state = g;
        r->on_gone = drop_growing;
        nib_http_next(r, NIB_LANE_IO, follow);
        return;
    }
    if (grows) web_put_message(last, p->token, true, &b);
    nib_buf_put(&b, end.data ? end.data : "", end.len);
    nib_buf_free(&end);
    web_send(r, 200, &b);
}

void nib_get_talk(nib_http *r) {
    int64_t id, edit = 0;
    nib_error e;
    nib_talk talk = {0};
    nib_turns turns = {0};
    if (!web_path_id(r, &id)) return;
    nib_status s = nib_talk_get(web_store(r), id, &talk, &e);
    if (s == NIB_OK) s = nib_turn_path(web_store(r), id, 0, &turns, &e);
    if (s != NIB_OK) {
        web_fail(r, &e);
        nib_talk_free(&talk);
        return;
    }
    const char *which = nib_http_query(r, "edit");
    if (which && nib_parse_int("edit", which, 0, 9e15, &edit, &e) != NIB_OK) edit = 0;
    web_page p = {
        &talk, &turns, edit, nib_http_query(r, "q"), web_token(r), web_choice_of(r, &talk)};
    show(r, &p, &turns);
    nib_talk_free(&talk);
    nib_turns_free(&turns);
}

void nib_get_talks(nib_http *r) {
    int64_t current = 0;
    nib_error e;
    const char *which = nib_http_query(r, "talk");
    if (which && nib_parse_int("talk", which, 0, 9e15, &current, &e) != NIB_OK) current = 0;
    nib_buf b = {0};
    web_put_list(r, nib_http_query(r, "q"), current, &b);
    web_send(r, 200, &b);
}

void nib_get_banner(nib_http *r) {
    nib_buf b = {0};
    web_put_banner(r, &b);
    if (!b.len)
        nib_http_set(r, "HX-Refresh", "true"); /* the model is there: its name, its context */
    web_send(r, 200, &b);
}

/* ---- forms ---- */

static bool take(nib_http *r, nib_talk *talk, int64_t *current) {
    int64_t id;
    nib_error e;
    if (!web_form_ok(r) || !web_form_id(r, "talk", &id)) return false;
    const char *which = nib_http_form(r, "current");
    *current = 0;
    if (which && nib_parse_int("current", which, 0, 9e15, current, &e) != NIB_OK) *current = 0;
    if (nib_talk_get(web_store(r), id, talk, &e) == NIB_OK) return true;
    web_fail(r, &e);
    return false;
}

void nib_post_rename(nib_http *r) {
    nib_talk talk = {0};
    nib_error e;
    int64_t current;
    if (!take(r, &talk, &current)) return;
    const char *title = web_form_text(r, "title");
    size_t n = strlen(title);
    char *own = talk.title;
    talk.title = (char *)title;
    nib_status s = NIB_OK;
    if (!n || n > 1000 || !nib_utf8_valid(title, n) || strchr(title, '\n'))
        s = nib_fail(&e, NIB_ERR_ARGUMENT, "A name is one line of at most 1000 bytes.");
    if (s == NIB_OK) s = nib_talk_set(web_store(r), &talk, &e);
    if (s != NIB_OK) {
        web_fail(r, &e);
    } else if (!web_has_htmx(r)) {
        web_go(r, current, 0);
    } else {
        nib_buf b = {0};
        web_put_list(r, NULL, current, &b);
        if (current == talk.id) {
            web_put_partial(&b, "#title", "innerHTML");
            nib_html(&b, "%s", title);
            web_put_partial_end(&b);
        }
        web_send(r, 200, &b);
    }
    talk.title = own;
    nib_talk_free(&talk);
}

static void stop_replies(nib_http *r) {
    web_replies_stop(r->server, *(int64_t *)r->state);
}

void nib_post_delete(nib_http *r) {
    nib_talk talk = {0};
    nib_error e;
    int64_t current;
    if (!take(r, &talk, &current)) return;
    int64_t *deleted = nib_arena_alloc(&r->arena, sizeof *deleted);
    nib_status s = deleted ? nib_talk_delete(web_store(r), talk.id, &e)
                           : nib_fail_nomem(&e, sizeof *deleted, "a number");
    if (s == NIB_OK) {
        if (r->server->web->kv) nib_kvdisk_forget(r->server->web->kv, talk.id);
        *deleted = talk.id;
        r->state = deleted;
        web_go(r, current == talk.id ? 0 : current, 0);
        nib_http_next(r, NIB_LANE_IO, stop_replies);
    } else {
        web_fail(r, &e);
    }
    nib_talk_free(&talk);
}

static nib_status settings_of(nib_http *r, nib_talk *talk, nib_error *e) {
    const char *temp = web_form_text(r, "temp"), *retention = web_form_text(r, "retention"),
               *think = web_form_text(r, "think");
    int64_t n = -1, t = 0;
    talk->temp = -1;
    if (*temp) NIB_TRY(nib_parse_num("temperature", temp, 0, 2, &talk->temp, e));
    if (*retention) NIB_TRY(nib_parse_int("exchanges", retention, 1, 10000, &n, e));
    if (*think) NIB_TRY(nib_parse_int("thinking", think, 0, 2, &t, e));
    talk->retention = (int)n;
    talk->think = (int)t;
    return NIB_OK;
}

void nib_post_settings(nib_http *r) {
    int64_t id;
    nib_talk talk = {0};
    nib_error e;
    if (!web_form_ok(r) || !web_form_id(r, "talk", &id)) return;
    const char *system = web_form_text(r, "system");
    nib_status s = NIB_OK;
    if (!nib_utf8_valid(system, strlen(system)))
        s = nib_fail(&e, NIB_ERR_ARGUMENT, "The system text is not UTF-8.");
    if (s == NIB_OK && !id) s = nib_talk_new(web_store(r), web_unnamed, &id, &e);
    if (s == NIB_OK) s = nib_talk_get(web_store(r), id, &talk, &e);
    if (s == NIB_OK) s = settings_of(r, &talk, &e);
    if (s == NIB_OK) {
        char *own = talk.system;
        talk.system = *system ? (char *)system : NULL;
        s = nib_talk_set(web_store(r), &talk, &e);
        talk.system = own;
    }
    if (s == NIB_OK)
        web_go(r, id, 0);
    else
        web_fail(r, &e);
    nib_talk_free(&talk);
}

void nib_post_theme(nib_http *r) {
    static const char *const themes[] = {"auto", "light", "dark"};
    if (!web_form_ok(r)) return;
    const char *wanted = web_form_text(r, "theme"), *back = web_form_text(r, "back");
    char cookie[80];
    for (size_t i = 0; i < NIB_ARRAY_LEN(themes); i++)
        if (strcmp(wanted, themes[i]) == 0) {
            snprintf(cookie, sizeof cookie,
                     "nib_theme=%s; Path=/; Max-Age=31536000; SameSite=Strict", themes[i]);
            nib_http_set(r, "Set-Cookie", cookie);
        }
    bool ours = strncmp(back, "/c/", 3) == 0 && strspn(back + 3, "0123456789") == strlen(back + 3);
    if (web_has_htmx(r))
        nib_http_reply(r, 204, NULL, "", 0);
    else
        nib_http_redirect(r, ours ? back : "/");
}

/* The key of a server that asks for one, kept by the browser. */
void nib_post_login(nib_http *r) {
    if (!web_form_ok(r)) return;
    const char *key = web_form_text(r, "key");
    char cookie[600];
    for (const char *p = key; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || strchr(";,\"\\", *p)) key = "";
    if (!*key || strlen(key) > 500) {
        nib_http_error(r, 400, NULL, "key", "That cannot be a key.");
        return;
    }
    snprintf(cookie, sizeof cookie, "nib_key=%s; Path=/; HttpOnly; SameSite=Strict", key);
    nib_http_set(r, "Set-Cookie", cookie);
    nib_http_redirect(r, "/");
}

/* ---- writing out ---- */

typedef struct export {
    nib_talk talk;
    nib_messages messages;
    const struct form *form;
}
export;
static const struct form {
    const char *as, *type;
    nib_lane lane;
    nib_status (*make)(const nib_transcript *, nib_buf *, nib_error *);
} forms[] = {
    {"md", "text/markdown; charset=utf-8", NIB_LANE_TEXT, nib_transcript_markdown},
    {"json", "application/json", NIB_LANE_TEXT, nib_transcript_json},
    {"pdf", "application/pdf", NIB_LANE_PAPER, nib_transcript_pdf},
};

static void drop_export(nib_http *r) {
    export *x = r->state;
    nib_messages_free(&x->messages);
    nib_talk_free(&x->talk);
}

static void send_export(nib_http *r) {
    const export *x = r->state;
    nib_transcript t = {x->talk.title, x->talk.model, x->talk.system, x->talk.updated,
                        &x->messages};
    nib_buf b = {0};
    nib_error e;
    char name[80];
    if (x->form->make(&t, &b, &e) == NIB_OK) {
        snprintf(name, sizeof name, "attachment; filename=\"conversation-%lld.%s\"",
                 (long long)x->talk.id, x->form->as);
        nib_http_set(r, "Content-Disposition", name);
        nib_http_set(r, "Cache-Control", "no-store");
        nib_http_reply(r, 200, x->form->type, b.data, b.len);
    } else {
        web_fail(r, &e);
    }
    nib_buf_free(&b);
}

void nib_get_export(nib_http *r) {
    int64_t id;
    nib_error e;
    nib_turns turns = {0};
    const struct form *form = NULL;
    if (!web_path_id(r, &id)) return;
    const char *as = nib_http_query(r, "as");
    for (size_t i = 0; i < NIB_ARRAY_LEN(forms); i++)
        if (strcmp(as ? as : "md", forms[i].as) == 0) form = &forms[i];
    if (!form) {
        nib_http_error(r, 400, NULL, "as", "A conversation can be written as md, json or pdf.");
        return;
    }
    export *x = nib_arena_calloc(&r->arena, 1, sizeof *x);
    nib_status s = x ? NIB_OK : nib_fail_nomem(&e, sizeof *x, "an export");
    if (x) {
        x->form = form;
        r->state = x;
        r->on_gone = drop_export;
    }
    if (s == NIB_OK) s = nib_talk_get(web_store(r), id, &x->talk, &e);
    if (s == NIB_OK) s = nib_turn_path(web_store(r), id, 0, &turns, &e);
    if (s == NIB_OK) s = nib_turns_messages(&turns, &x->messages, &e);
    if (s == NIB_OK)
        nib_http_next(r, form->lane, send_export);
    else
        web_fail(r, &e);
    nib_turns_free(&turns);
}
