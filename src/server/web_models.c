/* Which model answers in a conversation: the list in the bar, and the form that chooses. */
#include <ctype.h>
#include "server/web.h"

/* ---- what pages know ---- */

static const char *state_of(const nib_local *m) {
    switch (m->state) {
    case NIB_LOCAL_READY:
    case NIB_LOCAL_LEAVING: return "loaded";
    case NIB_LOCAL_COMING: return "loading";
    default: return NULL;
    }
}

static const char *copy(nib_http *r, const char *text) {
    return text ? nib_arena_strndup(&r->arena, text, strlen(text)) : NULL;
}

void web_take_choices(nib_http *r) {
    nib_server *s = r->server;
    size_t n = nib_locals_n(s);
    web_choices *all = nib_arena_calloc(&r->arena, 1, sizeof *all);
    web_choice *v = nib_arena_calloc(&r->arena, n + 1, sizeof *v);
    if (!all || !v) return; /* as if there were none */
    nib_locals_refresh(s);
    const nib_local *usual = nib_locals_find(s, NULL, true);
    if (!usual) usual = nib_locals_latest(s);
    if (!usual && n) usual = nib_locals_at(s, 0);
    all->v = v;
    for (size_t i = 0; i < n; i++) {
        const nib_local *m = nib_locals_at(s, i);
        web_choice *c = &v[all->n];
        const char *tmpl = m->look.chat_template;
        *c = (web_choice){.name = copy(r, m->name),
                          .other = copy(r, m->other),
                          .title = copy(r, m->look.title),
                          .arch = copy(r, m->look.arch),
                          .bytes = m->bytes,
                          .n_params = m->look.n_params,
                          .n_ctx = m->n_ctx,
                          .state = state_of(m),
                          .thinks = tmpl && strstr(tmpl, "enable_thinking")};
        memcpy(c->quant, m->look.quant, sizeof c->quant);
        if (!c->name) continue;
        if (m == usual) all->usual = c;
        all->n++;
    }
    r->own->choices = all;
}

const web_choice *web_choice_named(const nib_http *r, const char *name) {
    const web_choices *all = r->own->choices;
    for (size_t i = 0; all && name && i < all->n; i++)
        if (strcmp(all->v[i].name, name) == 0) return &all->v[i];
    return NULL;
}

const web_choice *web_choice_of(const nib_http *r, const nib_talk *talk) {
    const web_choices *all = r->own->choices;
    const char *name = talk ? talk->model : NULL;
    const web_choice *c = web_choice_named(r, name);
    for (size_t i = 0; all && name && !c && i < all->n; i++) { /* as 'nib chat' calls it */
        const web_choice *x = &all->v[i];
        if ((x->other && strcmp(x->other, name) == 0) || (x->title && strcmp(x->title, name) == 0))
            c = x;
    }
    return c ? c : all ? all->usual : NULL;
}

/* ---- the list ---- */

/* "135 M", "1.7 B" */
static void put_count(nib_buf *b, uint64_t n) {
    if (n >= 1000000000)
        nib_buf_printf(b, "%.1f B", (double)n / 1e9);
    else
        nib_buf_printf(b, "%.*f M", n < 10000000 ? 1 : 0, (double)n / 1e6);
}

static void put_size(nib_buf *b, uint64_t bytes) {
    if (bytes >= 1000000000)
        nib_buf_printf(b, "%.1f GB", (double)bytes / 1e9);
    else
        nib_buf_printf(b, "%.*f MB", bytes < 10000000 ? 1 : 0, (double)bytes / 1e6);
}

static void put_facts(nib_buf *b, const web_choice *m) {
    put_size(b, m->bytes);
    if (*m->quant) nib_html(b, " \xc2\xb7 %s", m->quant);
    if (m->n_params) {
        nib_buf_puts(b, " \xc2\xb7 ");
        put_count(b, m->n_params);
    }
    if (m->arch) nib_html(b, " \xc2\xb7 %s", m->arch);
    if (m->n_ctx) nib_html(b, " \xc2\xb7 %lld tokens", (long long)m->n_ctx);
    if (m->state) nib_html(b, " \xc2\xb7 <span class=\"state\">%s</span>", m->state);
}

void web_put_models(nib_http *r, const web_page *p, nib_buf *b) {
    const web_choices *all = r->own->choices;
    nib_html(b,
             "<details class=\"pick\"><summary class=\"button\" aria-label=\"Model: %s\"><span>%s"
             "</span>",
             p->choice ? p->choice->name : "none", p->choice ? p->choice->name : "no model");
    web_put_icon(b, "down");
    nib_buf_puts(b, "</summary><div class=\"menu\">");
    if (all && all->n) {
        nib_html(b,
                 "<form method=\"post\" action=\"/ui/model\" hx-post=\"/ui/model\""
                 " hx-swap=\"none\"><input type=\"hidden\" name=\"csrf\" value=\"%s\">"
                 "<input type=\"hidden\" name=\"talk\" value=\"%lld\"><ul class=\"models\">",
                 p->token, (long long)(p->talk ? p->talk->id : 0));
        for (size_t i = 0; i < all->n; i++) {
            const web_choice *m = &all->v[i];
            nib_buf_puts(b, m == p->choice ? "<li aria-current=\"true\">" : "<li>");
            nib_html(b, "<button name=\"model\" value=\"%s\"><strong>%s</strong><small>", m->name,
                     m->name);
            put_facts(b, m);
            nib_buf_puts(b, "</small></button></li>");
        }
        nib_buf_puts(b, "</ul></form>");
        if (all->n > 1)
            nib_buf_puts(b, "<p class=\"hint\">Another model answers from the next message on, and "
                            "is loaded then.</p>");
    } else {
        nib_buf_puts(b, "<p class=\"hint\"><code>nib pull smollm2-135m</code> brings a model, and "
                        "<code>nib serve</code> finds it.</p>");
    }
    nib_buf_puts(b, "</div></details>");
}

/* ---- the form ---- */

/* What of a page depends on the model: the choice, the context, what the next message carries. */
static void show(nib_http *r, const nib_talk *talk, const web_choice *m) {
    static const nib_turns none = {0};
    nib_turns turns = {0};
    nib_error e;
    nib_buf b = {0};
    web_page p = {.talk = talk, .turns = &none, .token = web_token(r), .choice = m};
    if (talk && nib_turn_path(web_store(r), talk->id, 0, &turns, &e) != NIB_OK) {
        web_fail(r, &e);
        return;
    }
    web_put_partial(&b, "#pick", "innerHTML");
    web_put_models(r, &p, &b);
    web_put_partial_end(&b);
    web_put_partial(&b, "#context", "innerHTML");
    web_put_context(m->n_ctx, web_used(&turns), &b);
    web_put_partial_end(&b);
    web_put_partial(&b, "#say-ids", "innerHTML");
    web_put_say_ids(m, talk, turns.n ? turns.v[turns.n - 1].id : 0, &b);
    web_put_partial_end(&b);
    if (!talk) { /* its examples carry the model too */
        web_put_partial(&b, "#greeting", "outerHTML");
        web_put_greeting(r, &p, &b);
        web_put_partial_end(&b);
    }
    nib_turns_free(&turns);
    web_send(r, 200, &b);
}

/* Text for the query of an address. */
static void put_escaped(nib_buf *b, const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        nib_buf_printf(b, isalnum(*p) || strchr("-._~", *p) ? "%c" : "%%%02X", *p);
}

void nib_post_model(nib_http *r) {
    int64_t id;
    nib_talk talk = {0};
    nib_error e;
    nib_status s = NIB_OK;
    if (!web_form_ok(r) || !web_form_id(r, "talk", &id)) return;
    const web_choice *m = web_choice_named(r, nib_http_form(r, "model"));
    if (!m) {
        nib_http_error(r, 404, "model_not_found", "model", "There is no such model any more.");
        return;
    }
    if (id) s = nib_talk_get(web_store(r), id, &talk, &e);
    if (id && s == NIB_OK) {
        char *own = talk.model;
        talk.model = (char *)m->name;
        s = nib_talk_set(web_store(r), &talk, &e);
        if (s == NIB_OK && web_has_htmx(r)) show(r, &talk, m);
        talk.model = own;
    }
    if (s != NIB_OK) {
        web_fail(r, &e);
    } else if (!id && web_has_htmx(r)) {
        show(r, NULL, m);
    } else if (!web_has_htmx(r) && id) {
        web_go(r, id, 0);
    } else if (!id) {
        nib_buf to = {0};
        nib_buf_puts(&to, "/?model=");
        put_escaped(&to, m->name);
        nib_http_redirect(r, to.failed ? "/" : to.data);
        nib_buf_free(&to);
    }
    nib_talk_free(&talk);
}
