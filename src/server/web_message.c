/* One message of a page: its text, thoughts, and what can be done with it. */
#include "server/web.h"

static void put_hidden(nib_buf *b, const char *token, int64_t message) {
    nib_html(b,
             "<input type=\"hidden\" name=\"csrf\" value=\"%s\">"
             "<input type=\"hidden\" name=\"message\" value=\"%lld\">",
             token, (long long)message);
}

/* A form of one button that acts on a message. */
static void put_action(nib_buf *b, const char *token, int64_t message, const char *action,
                       const char *icon, const char *label, bool on) {
    nib_html(b, "<form method=\"post\" action=\"%s\" hx-post=\"%s\" hx-swap=\"none\">", action,
             action);
    put_hidden(b, token, message);
    nib_html(b, "<button class=\"tool\" title=\"%s\" aria-label=\"%s\"%s>", label, label,
             on ? "" : " disabled");
    web_put_icon(b, icon);
    nib_buf_puts(b, "</button></form>");
}

/* < 2 / 3 > */
static void put_branches(nib_buf *b, const nib_turn *t, const char *token) {
    if (t->n_siblings < 2) return;
    nib_buf_puts(b, "<span class=\"branches\">");
    put_action(b, token, t->previous_id, "/ui/choose", "left", "The version before",
               t->previous_id != 0);
    nib_html(b, "<span>%d / %d</span>", t->sibling, t->n_siblings);
    put_action(b, token, t->next_id, "/ui/choose", "right", "The next version", t->next_id != 0);
    nib_buf_puts(b, "</span>");
}

static void put_copy(nib_buf *b, const nib_turn *t) {
    nib_html(b,
             "<button type=\"button\" class=\"tool copy needs-js\" title=\"Copy\""
             " aria-label=\"Copy this message\" data-of=\"m%lld\">",
             (long long)t->id);
    web_put_icon(b, "copy");
    nib_buf_puts(b, "</button>");
}

static const char *remark(const nib_turn *t) {
    static const struct {
        const char *finish, *text;
    } remarks[] = {
        {"length", "cut off: as long as a reply may be"},
        {"time", "cut off: its time was over"},
        {"context", "cut off: the context is full"},
        {"interrupted", "stopped"},
    };
    for (size_t i = 0; t->finish && i < NIB_ARRAY_LEN(remarks); i++)
        if (strcmp(t->finish, remarks[i].finish) == 0) return remarks[i].text;
    return NULL;
}

static void put_numbers(nib_buf *b, const nib_turn *t) {
    nib_buf_puts(b, "<span class=\"numbers\">");
    if (t->n_generated)
        nib_html(b, "%lld token%s", (long long)t->n_generated, t->n_generated == 1 ? "" : "s");
    if (t->n_generated && t->seconds > 0)
        nib_html(b, " \xc2\xb7 %.1f tok/s", (double)t->n_generated / t->seconds);
    if (t->n_cached > 0)
        nib_html(b,
                 " \xc2\xb7 <span title=\"tokens of the prompt that were still known\">%lld kept"
                 "</span>",
                 (long long)t->n_cached);
    if (remark(t)) nib_html(b, "%s%s", t->n_generated ? " \xc2\xb7 " : "", remark(t));
    nib_buf_puts(b, "</span>");
}

void web_put_footer(const nib_turn *t, const char *token, nib_buf *b) {
    bool user = strcmp(t->role, "user") == 0;
    nib_html(b, "<footer id=\"m%lld-foot\">", (long long)t->id);
    if (t->state == NIB_TURN_GROWING) {
        put_action(b, token, t->id, "/ui/stop", "stop", "Stop", true);
        nib_html(b, "<span class=\"numbers\" id=\"m%lld-live\"></span>", (long long)t->id);
    } else {
        put_branches(b, t, token);
        put_copy(b, t);
        if (user) {
            nib_html(b,
                     "<a class=\"tool\" href=\"/c/%lld?edit=%lld#m%lld\" hx-get=\"/ui/edit/%lld\""
                     " hx-target=\"#m%lld\" hx-swap=\"outerHTML\" title=\"Edit\""
                     " aria-label=\"Edit this message\">",
                     (long long)t->talk, (long long)t->id, (long long)t->id, (long long)t->id,
                     (long long)t->id);
            web_put_icon(b, "edit");
            nib_buf_puts(b, "</a>");
        } else {
            put_action(b, token, t->id, "/ui/again", "again", "Answer again", true);
            put_numbers(b, t);
        }
    }
    nib_buf_puts(b, "</footer>");
}

void web_put_thoughts(const char *text, size_t n, nib_buf *b) {
    if (n) nib_markdown(text, n, b);
}

static void put_text(const nib_turn *t, nib_buf *b) {
    if (strcmp(t->role, "user") == 0)
        nib_html(b, "<p class=\"plain\">%s</p>", t->content);
    else
        nib_markdown(t->content, strlen(t->content), b);
    if (t->error && t->state == NIB_TURN_FAILED)
        nib_html(b, "<p class=\"wrong\" role=\"alert\">%s</p>", t->error);
}

static const char *who_said(const nib_turn *t) {
    return strcmp(t->role, "user") == 0 ? "You" : t->model ? t->model : "nib";
}

void web_put_message(const nib_turn *t, const char *token, bool live, nib_buf *b) {
    bool user = strcmp(t->role, "user") == 0, growing = t->state == NIB_TURN_GROWING;
    nib_html(b, "<article id=\"m%lld\" class=\"msg %s%s\" aria-label=\"%s\"", (long long)t->id,
             user ? "user" : "reply", growing ? " live" : "", who_said(t));
    if (growing && live)
        nib_html(b,
                 " aria-busy=\"true\" hx-sse:connect=\"/ui/stream/%lld\" hx-sse:close=\"done\""
                 " hx-target=\"#m%lld-text\" hx-swap=\"innerMorph\"",
                 (long long)t->id, (long long)t->id);
    nib_buf_puts(b, ">");
    web_put_message_inside(t, token, b);
    nib_buf_puts(b, "</article>\n");
}

void web_put_message_head(const nib_turn *t, nib_buf *b) {
    if (strcmp(t->role, "user") != 0) {
        nib_html(b,
                 "<header>%s</header><details class=\"thoughts\"><summary>Thoughts</summary>"
                 "<div class=\"md\" id=\"m%lld-thinking\">",
                 who_said(t), (long long)t->id);
        if (t->thinking) web_put_thoughts(t->thinking, strlen(t->thinking), b);
        nib_buf_puts(b, "</div></details>");
    }
    nib_html(b, "<div class=\"md text\" id=\"m%lld-text\">", (long long)t->id);
}

void web_put_message_inside(const nib_turn *t, const char *token, nib_buf *b) {
    web_put_message_head(t, b);
    put_text(t, b);
    if (t->state == NIB_TURN_GROWING)
        nib_buf_puts(b, "<span class=\"waiting\" aria-hidden=\"true\"></span>");
    nib_buf_puts(b, "</div>");
    if (t->state != NIB_TURN_GROWING)
        nib_html(b, "<textarea class=\"raw\" hidden readonly tabindex=\"-1\">\n%s</textarea>",
                 t->content);
    web_put_footer(t, token, b);
}

void web_put_edit(const nib_turn *t, const char *token, nib_buf *b) {
    nib_html(b,
             "<article id=\"m%lld\" class=\"msg user editing\"><form class=\"edit\" method=\"post\""
             " action=\"/ui/edit\" hx-post=\"/ui/edit\" hx-swap=\"none\">",
             (long long)t->id);
    put_hidden(b, token, t->id);
    nib_html(b,
             "<label class=\"hidden\" for=\"edit%lld\">Edit the message</label>"
             "<textarea id=\"edit%lld\" name=\"text\" rows=\"3\" required autofocus>\n%s</textarea>"
             "<div class=\"row\"><a class=\"button\" href=\"/c/%lld#m%lld\""
             " hx-get=\"/ui/message/%lld\" hx-target=\"#m%lld\" hx-swap=\"outerHTML\">Cancel</a>"
             "<button class=\"button primary\">Send</button></div></form></article>\n",
             (long long)t->id, (long long)t->id, t->content, (long long)t->talk, (long long)t->id,
             (long long)t->id, (long long)t->id);
}

void web_put_messages(const web_page *p, nib_buf *b) {
    for (size_t i = 0; i < p->turns->n; i++) {
        const nib_turn *t = &p->turns->v[i];
        if (t->id == p->edit && strcmp(t->role, "user") == 0)
            web_put_edit(t, p->token, b);
        else
            web_put_message(t, p->token, true, b);
    }
}
