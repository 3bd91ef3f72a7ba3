/* The frame of a page: list of conversations, bar, messages, the field to write in. */
#include <time.h>
#include "server/web.h"

/* ---- sending ---- */

static void put_headers(nib_http *r) {
    nib_http_set(r, "Content-Security-Policy",
                 "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                 "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    /* with no-referrer browsers would call the origin of our own forms "null" */
    nib_http_set(r, "Referrer-Policy", "same-origin");
    nib_http_set(r, "Cache-Control", "no-store");
    nib_http_set(r, "Vary", "HX-Request, Cookie");
}

void web_send(nib_http *r, int status, nib_buf *b) {
    put_headers(r);
    if (b->failed)
        nib_http_reply(r, 503, "text/plain; charset=utf-8", "out of memory", 13);
    else
        nib_http_reply(r, status, "text/html; charset=utf-8", b->data ? b->data : "", b->len);
    nib_buf_free(b);
}

void web_begin_stream(nib_http *r, nib_buf *b) {
    put_headers(r);
    nib_http_stream(r, 200, "text/html; charset=utf-8");
    if (b->len) nib_http_write(r, b->data, b->len);
    nib_buf_free(b);
}

void web_fail(nib_http *r, const nib_error *e) {
    nib_http_error(r, nib_http_status_of(e, NULL), NULL, NULL, "%s", e->message);
}

void web_go(nib_http *r, int64_t talk, int64_t at) {
    char to[80];
    int n =
        talk ? snprintf(to, sizeof to, "/c/%lld", (long long)talk) : snprintf(to, sizeof to, "/");
    if (at) snprintf(to + n, sizeof to - (size_t)n, "#m%lld", (long long)at);
    nib_http_redirect(r, to);
}

/* ---- pieces ---- */

void web_put_icon(nib_buf *b, const char *name) {
    nib_buf_puts(b, "<svg class=\"icon\" aria-hidden=\"true\"><use href=\"");
    web_put_asset(b, "icons.svg");
    nib_html(b, "#%s\"></use></svg>", name);
}

void web_put_partial(nib_buf *b, const char *target, const char *swap) {
    nib_html(b, "<hx-partial hx-target=\"%s\" hx-swap=\"%s\">", target, swap);
}

void web_put_partial_end(nib_buf *b) {
    nib_buf_puts(b, "</hx-partial>");
}

static void put_csrf(nib_buf *b, const char *token) {
    nib_html(b, "<input type=\"hidden\" name=\"csrf\" value=\"%s\">", token);
}

void web_put_context(int64_t n_ctx, int64_t used, nib_buf *b) {
    int64_t total = n_ctx;
    if (!total) return;
    const char *level = used * 10 < total * 6     ? "green"
                        : used * 100 < total * 85 ? "yellow"
                                                  : "red";
    nib_html(b,
             "<label class=\"context %s\" title=\"Tokens of this conversation, and what the model "
             "can take in\"><progress max=\"%lld\" value=\"%lld\" aria-label=\"Context used\">"
             "</progress><span>%lld / %lld</span></label>",
             level, (long long)total, (long long)NIB_MIN(used, total), (long long)used,
             (long long)total);
}

int64_t web_used(const nib_turns *t) {
    for (size_t i = t->n; i-- > 0;)
        if (t->v[i].n_prompt) return t->v[i].n_prompt + t->v[i].n_generated;
    return 0;
}

void web_put_banner(nib_http *r, nib_buf *b) {
    switch (nib_server_get_state(r->server)) {
    case NIB_SERVER_READY: break;
    case NIB_SERVER_LOADING:
        nib_buf_puts(b,
                     "<p class=\"banner\" role=\"status\" hx-get=\"/ui/banner\""
                     " hx-trigger=\"load delay:700ms\" hx-target=\"#banner\" hx-swap=\"innerHTML\">"
                     "The model is being loaded\xe2\x80\xa6</p>");
        break;
    case NIB_SERVER_NO_MODEL:
        nib_buf_puts(b,
                     "<p class=\"banner stub\" role=\"note\"><strong>Stub mode.</strong> There is "
                     "no model: replies are made up by the page itself, so that you can look "
                     "around. Start <code>nib serve MODEL.gguf</code> for real ones.</p>");
    }
}

void web_put_greeting(nib_http *r, const web_page *p, nib_buf *b) {
    static const char *const starters[][2] = {
        {"Explain", "Explain how a transformer predicts the next word, for a curious beginner."},
        {"Write", "Write a short, warm thank-you note to a neighbour."},
        {"Code", "Write a C function that reverses the words of a sentence in place."},
        {"Plan", "Plan a quiet weekend with one walk, one book and one good meal."},
    };
    time_t now = time(NULL);
    struct tm tm = {0};
    localtime_r(&now, &tm);
    const char *token = web_token(r);
    nib_html(b,
             "<section class=\"greeting\" id=\"greeting\"><h2>Good %s</h2>"
             "<p>Everything you write stays on this machine.</p><div class=\"starters\">",
             tm.tm_hour >= 5 && tm.tm_hour < 12    ? "morning"
             : tm.tm_hour >= 12 && tm.tm_hour < 18 ? "afternoon"
                                                   : "evening");
    for (size_t i = 0; i < NIB_ARRAY_LEN(starters); i++) {
        nib_buf_puts(b, "<form method=\"post\" action=\"/ui/say\" hx-post=\"/ui/say\""
                        " hx-target=\"#messages\" hx-swap=\"beforeend\">");
        put_csrf(b, token);
        nib_html(b,
                 "<input type=\"hidden\" name=\"talk\" value=\"0\">"
                 "<input type=\"hidden\" name=\"parent\" value=\"0\">"
                 "<input type=\"hidden\" name=\"model\" value=\"%s\">"
                 "<input type=\"hidden\" name=\"text\" value=\"%s\">"
                 "<button class=\"starter\"><strong>%s</strong><span>%s</span></button></form>",
                 p->choice ? p->choice->name : "", starters[i][1], starters[i][0], starters[i][1]);
    }
    nib_buf_puts(b, "</div></section>\n");
}

/* ---- the list of conversations ---- */

typedef struct listing {
    nib_buf *b;
    int64_t current;
    const char *token;
    int n;
} listing;

/* \1 and \2 around what was found become <mark>. */
static void put_snippet(nib_buf *b, const char *text) {
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, "\1\2");
        nib_put_html(b, p, n);
        p += n;
        if (*p) nib_buf_puts(b, *p++ == 1 ? "<mark>" : "</mark>");
    }
}

static bool put_line(void *arg, const nib_talk_line *t) {
    listing *l = arg;
    long long id = (long long)t->id;
    l->n++;
    nib_html(l->b, "<li><a href=\"/c/%lld\"", id);
    if (t->id == l->current) nib_buf_puts(l->b, " aria-current=\"page\"");
    nib_html(l->b, "><span class=\"title\">%s</span>", t->title);
    if (t->snippet) {
        nib_buf_puts(l->b, "<small>");
        put_snippet(l->b, t->snippet);
        nib_buf_puts(l->b, "</small>");
    }
    nib_html(
        l->b,
        "</a><details class=\"more\"><summary class=\"tool\" aria-label=\"What to do with %s\">",
        t->title);
    web_put_icon(l->b, "more");
    nib_html(
        l->b,
        "</summary><div class=\"menu\"><form method=\"post\" action=\"/ui/rename\""
        " hx-post=\"/ui/rename\" hx-target=\"#talks\"><input type=\"hidden\" name=\"csrf\""
        " value=\"%s\"><input type=\"hidden\" name=\"talk\" value=\"%lld\">"
        "<input type=\"hidden\" name=\"current\" value=\"%lld\">"
        "<label>Name<input name=\"title\" value=\"%s\" required maxlength=\"200\"></label>"
        "<button class=\"button\">Rename</button></form>"
        "<p class=\"exports\">Export as <a href=\"/ui/export/%lld?as=md\" download>Markdown</a>"
        " <a href=\"/ui/export/%lld?as=json\" download>JSON</a>"
        " <a href=\"/ui/export/%lld?as=pdf\" download>PDF</a></p>"
        "<details class=\"sure\"><summary class=\"button\">Delete\xe2\x80\xa6</summary>"
        "<form method=\"post\" action=\"/ui/delete\"><input type=\"hidden\" name=\"csrf\""
        " value=\"%s\"><input type=\"hidden\" name=\"talk\" value=\"%lld\">"
        "<input type=\"hidden\" name=\"current\" value=\"%lld\">"
        "<button class=\"button danger\">Delete for good</button></form></details>"
        "</div></details></li>\n",
        l->token, id, (long long)l->current, t->title, id, id, id, l->token, id,
        (long long)l->current);
    return true;
}

void web_put_list(nib_http *r, const char *words, int64_t current, nib_buf *b) {
    nib_error e;
    listing l = {b, current, web_token(r), 0};
    nib_buf_puts(b, "<ul>\n");
    if (nib_talk_list(web_store(r), words, 200, put_line, &l, &e) != NIB_OK)
        nib_html(b, "<li class=\"none\">%s</li>", e.message);
    else if (!l.n)
        nib_html(b, "<li class=\"none\">%s</li>",
                 words && *words ? "Nothing found." : "No conversations yet.");
    nib_buf_puts(b, "</ul>\n");
}

/* ---- menus of the bar ---- */

void web_put_settings(const web_page *p, nib_buf *b) {
    static const char *const thinks[] = {"As the model does", "On", "Off"};
    static const nib_talk fresh = {.temp = -1, .retention = -1};
    const nib_talk *t = p->talk ? p->talk : &fresh;
    nib_buf_puts(b, "<details class=\"settings\"><summary class=\"tool\" title=\"Settings\""
                    " aria-label=\"Settings of this conversation\">");
    web_put_icon(b, "settings");
    nib_buf_puts(b, "</summary><form class=\"menu\" method=\"post\" action=\"/ui/settings\">");
    put_csrf(b, p->token);
    nib_html(b,
             "<input type=\"hidden\" name=\"talk\" value=\"%lld\">"
             "<label>System text<textarea name=\"system\" rows=\"4\" placeholder=\"Who the model "
             "is, and how it should answer\">\n%s</textarea></label>",
             (long long)t->id, t->system ? t->system : "");
    nib_buf_puts(b, "<label>Temperature<input name=\"temp\" type=\"number\" min=\"0\" max=\"2\""
                    " step=\"any\" placeholder=\"the model's own\" value=\"");
    if (t->temp >= 0) nib_buf_printf(b, "%.3g", t->temp);
    nib_buf_puts(b, "\"></label><label>Exchanges the model is shown<input name=\"retention\""
                    " type=\"number\" min=\"1\" max=\"10000\" placeholder=\"all\" value=\"");
    if (t->retention > 0) nib_buf_printf(b, "%d", t->retention);
    nib_buf_puts(b, "\"></label><label>Thinking<select name=\"think\">");
    for (int i = 0; i < 3; i++)
        nib_html(b, "<option value=\"%d\"%s>%s</option>", i, t->think == i ? " selected" : "",
                 thinks[i]);
    nib_buf_puts(b, "</select></label><button class=\"button primary\">Save</button></form>"
                    "</details>");
}

static void put_theme(nib_http *r, nib_buf *b, const char *token) {
    static const char *const names[][2] = {
        {"auto", "As the system"}, {"light", "Light"}, {"dark", "Dark"}};
    const char *now = nib_http_cookie(r, "nib_theme");
    nib_buf_puts(b, "<form class=\"theme\" method=\"post\" action=\"/ui/theme\">");
    put_csrf(b, token);
    nib_html(b,
             "<input type=\"hidden\" name=\"back\" value=\"%s\">"
             "<fieldset><legend class=\"hidden\">Theme</legend>",
             strncmp(r->path, "/c/", 3) == 0 ? r->path : "/");
    for (size_t i = 0; i < NIB_ARRAY_LEN(names); i++) {
        nib_html(b,
                 "<button name=\"theme\" value=\"%s\" class=\"tool\" title=\"%s\""
                 " aria-label=\"Theme: %s\" aria-pressed=\"%s\">",
                 names[i][0], names[i][1], names[i][1],
                 strcmp(now ? now : "auto", names[i][0]) == 0 ? "true" : "false");
        web_put_icon(b, names[i][0]);
        nib_buf_puts(b, "</button>");
    }
    nib_buf_puts(b, "</fieldset></form>");
}

/* ---- the frame ---- */

static void put_head(nib_http *r, const char *title, nib_buf *b) {
    const char *theme = nib_http_cookie(r, "nib_theme");
    bool fixed = theme && (strcmp(theme, "light") == 0 || strcmp(theme, "dark") == 0);
    nib_html(b, "<!doctype html>\n<html lang=\"en\"");
    if (fixed) nib_html(b, " data-theme=\"%s\"", theme);
    nib_html(b,
             ">\n<head>\n<meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1, "
             "viewport-fit=cover, interactive-widget=resizes-content\">\n"
             "<meta name=\"color-scheme\" content=\"light dark\">\n"
             "<title>%s</title>\n<link rel=\"icon\" href=\"",
             title);
    web_put_asset(b, "icon.svg");
    nib_buf_puts(b, "\">\n<link rel=\"stylesheet\" href=\"");
    web_put_asset(b, "nib.css");
    nib_buf_puts(b, "\">\n");
    if (web_asset_find("htmx.min.js") && web_asset_find("hx-sse.min.js")) {
        static const char *const scripts[] = {"htmx.min.js", "hx-sse.min.js", "nib.js"};
        nib_buf_puts(b, "<meta name=\"htmx-config\" content=\"");
        nib_html(b, "%s",
                 "{\"includeIndicatorCSS\":false,\"extensions\":\"sse\",\"history\":\"reload\","
                 "\"morphIgnore\":[\"data-htmx-powered\",\"open\"]}");
        nib_buf_puts(b, "\">\n");
        for (size_t i = 0; i < NIB_ARRAY_LEN(scripts); i++) {
            nib_buf_puts(b, "<script defer src=\"");
            web_put_asset(b, scripts[i]);
            nib_buf_puts(b, "\"></script>\n");
        }
    }
    nib_buf_puts(b, "</head>\n");
}

void web_put_page_begin(nib_http *r, const web_page *p, nib_buf *b) {
    int64_t id = p->talk ? p->talk->id : 0;
    const char *title = p->talk ? p->talk->title : web_unnamed;
    put_head(r, title, b);
    nib_buf_puts(b, "<body>\n<a class=\"skip\" href=\"#text\">To the message field</a>\n"
                    "<input type=\"checkbox\" id=\"drawer\" class=\"drawer\""
                    " aria-label=\"Show the list of conversations\">\n"
                    "<aside class=\"side\" aria-label=\"Conversations\">\n<div class=\"brand\">"
                    "<a class=\"logo\" href=\"/\">nib</a>"
                    "<a class=\"button primary\" href=\"/\">");
    web_put_icon(b, "plus");
    nib_html(
        b,
        "New</a></div>\n<form role=\"search\" action=\"/\" method=\"get\">"
        "<label class=\"hidden\" for=\"q\">Search conversations</label>"
        "<input type=\"search\" id=\"q\" name=\"q\" placeholder=\"Search\" autocomplete=\"off\""
        " value=\"%s\" hx-get=\"/ui/talks\" hx-include=\"#say-ids [name=talk]\""
        " hx-trigger=\"input delay:200ms\" hx-target=\"#talks\"></form>\n<nav id=\"talks\" "
        "aria-label=\"List\">",
        p->words ? p->words : "");
    web_put_list(r, p->words, id, b);
    nib_buf_puts(b, "</nav>\n");
    put_theme(r, b, p->token);
    nib_html(b, "</aside>\n<label class=\"scrim\" for=\"drawer\" aria-hidden=\"true\"></label>\n"
                "<main>\n<header class=\"bar\"><label class=\"tool menu-button\" for=\"drawer\""
                " aria-hidden=\"true\">");
    web_put_icon(b, "menu");
    nib_html(b, "</label><h1 id=\"title\">%s</h1>", title);
    nib_buf_puts(b, "<span id=\"pick\">");
    web_put_models(r, p, b);
    nib_buf_puts(b, "</span>");
    nib_buf_puts(b, "<span id=\"context\">");
    web_put_context(p->choice ? p->choice->n_ctx : 0, web_used(p->turns), b);
    nib_buf_puts(b, "</span>");
    nib_buf_puts(b, "<span id=\"settings\">");
    web_put_settings(p, b);
    nib_buf_puts(b, "</span>");
    nib_buf_puts(b, "</header>\n<div id=\"banner\">");
    web_put_banner(r, b);
    nib_buf_puts(b, "</div>\n<div id=\"messages\" class=\"messages\" tabindex=\"-1\">\n");
    if (!p->turns->n) web_put_greeting(r, p, b);
}

void web_put_composer_ids(int64_t talk, int64_t parent, nib_buf *b) {
    nib_html(b,
             "<input type=\"hidden\" name=\"talk\" value=\"%lld\">"
             "<input type=\"hidden\" name=\"parent\" value=\"%lld\">",
             (long long)talk, (long long)parent);
}

/* Whether the model is going to think, as far as can be known: where its template asks, it does so
 * unless told not to. */
static bool thinks(const web_choice *m, const nib_talk *talk) {
    if (talk && talk->think) return talk->think == 1;
    return m && m->thinks;
}

void web_put_say_ids(const web_choice *m, const nib_talk *talk, int64_t parent, nib_buf *b) {
    web_put_composer_ids(talk ? talk->id : 0, parent, b);
    nib_html(b,
             "<input type=\"hidden\" name=\"model\" value=\"%s\">"
             "<input type=\"hidden\" name=\"think-shown\" value=\"%d\">",
             m ? m->name : "", thinks(m, talk));
}

void web_put_page_end(const web_page *p, nib_buf *b) {
    int64_t last = p->turns->n ? p->turns->v[p->turns->n - 1].id : 0;
    nib_buf_puts(b, "</div>\n<form id=\"say\" class=\"say\" method=\"post\" action=\"/ui/say\""
                    " hx-post=\"/ui/say\" hx-target=\"#messages\" hx-swap=\"beforeend\">");
    put_csrf(b, p->token);
    nib_buf_puts(b, "<span id=\"say-ids\">");
    web_put_say_ids(p->choice, p->talk, last, b);
    nib_html(b,
             "</span><label class=\"hidden\" for=\"text\">Your message</label>"
             "<textarea id=\"text\" name=\"text\" rows=\"1\" required%s placeholder=\"Write a "
             "message, or / for commands\"></textarea><div class=\"row\">"
             "<label class=\"switch\" title=\"Let the model think first, where it can\">"
             "<input type=\"checkbox\" name=\"think\" value=\"1\"%s><span>Think</span></label>"
             "<span class=\"hint needs-js\">Enter sends, Shift+Enter breaks the line</span>"
             "<button class=\"send\" aria-label=\"Send\" title=\"Send\">",
             p->turns->n ? "" : " autofocus", thinks(p->choice, p->talk) ? " checked" : "");
    web_put_icon(b, "send");
    nib_buf_puts(b,
                 "</button></div></form>\n</main>\n"
                 "<div id=\"announce\" class=\"hidden\" aria-live=\"polite\"></div>\n"
                 "<div id=\"toasts\" class=\"toasts\" role=\"alert\"></div>\n"
                 "<dialog id=\"palette\" class=\"palette\" aria-label=\"Commands\">"
                 "<label class=\"hidden\" for=\"command\">Command</label>"
                 "<input id=\"command\" autocomplete=\"off\" spellcheck=\"false\" role=\"combobox\""
                 " aria-expanded=\"true\" aria-controls=\"commands\" placeholder=\"Command\">"
                 "<ul id=\"commands\" role=\"listbox\"></ul></dialog>\n</body>\n</html>\n");
}

/* ---- errors ---- */

static void put_login(nib_http *r, nib_buf *b) {
    nib_buf_puts(b, "<form method=\"post\" action=\"/ui/login\">");
    put_csrf(b, web_token(r));
    nib_buf_puts(b, "<label>Key<input name=\"key\" type=\"password\" required autofocus"
                    " autocomplete=\"current-password\"></label>"
                    "<button class=\"button primary\">Go on</button></form>");
}

void nib_web_error(nib_http *r, int status, const char *message, nib_buf *out) {
    if (web_has_htmx(r)) {
        web_put_partial(out, "#toasts", "beforeend");
        nib_html(out, "<p class=\"toast\">%s</p>", message);
        web_put_partial_end(out);
        return;
    }
    put_headers(r);
    put_head(r, "nib", out);
    nib_buf_puts(out, "<body class=\"alone\"><main class=\"card\"><h1>");
    if (status == 401)
        nib_buf_puts(out, "Who is there?</h1><p>This server asks for a key.</p>");
    else
        nib_html(out, "That did not work</h1><p>%s</p>", message);
    if (status == 401)
        put_login(r, out);
    else
        nib_buf_puts(out, "<p><a class=\"button\" href=\"/\">To the conversations</a></p>");
    nib_buf_puts(out, "</main></body></html>\n");
}
