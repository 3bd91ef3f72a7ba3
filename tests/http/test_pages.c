/* The chat pages: what they say to browsers with scripts and without, whom they refuse, and that
 * nothing anybody wrote becomes markup. */
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "htmlcheck.h"
#include "httpclient.h"
#include "scriptmodel.h"
#include "store/store.h"
#include "tinymodel.h"

/* Thinks, then answers with what would hurt if it became markup. */
static const char *thinker(void) {
    static const test_line lines[] = {{"\n", "<think>", 9},
                                      {"<think>", "Hmm <b>", 9},
                                      {"Hmm <b>", "</think>", 9},
                                      {"</think>", "**Yes** ", 9},
                                      {"**Yes** ", "<script>alert(1)</script>", 9},
                                      {"<script>alert(1)</script>", "[x](javascript:y)", 9},
                                      {NULL, NULL, 0}};
    return test_script_model("thinker.gguf", test_chatml, 4096, lines);
}
static const char *endless(void) {
    static const test_line lines[] = {
        {"\n", "one ", 9}, {"one ", "two ", 9}, {"two ", "one ", 9}, {NULL, NULL, 0}};
    return test_script_model("endless.gguf", test_chatml, 65536, lines);
}

/* ---- a browser ---- */

static char cookie[128], token[64];

static const char *headers(bool htmx, bool posts) {
    static char h[400];
    snprintf(h, sizeof h, "Accept: text/html\r\n%s%s%s%s%s", *cookie ? "Cookie: " : "", cookie,
             *cookie ? "\r\n" : "", htmx ? "HX-Request: true\r\n" : "",
             posts ? "Content-Type: application/x-www-form-urlencoded\r\n" : "");
    return h;
}

static test_reply *look(test_server *s, const char *path) {
    return test_ask(s->port, "GET", path, headers(false, false), NULL);
}

static test_reply *submit(test_server *s, bool htmx, const char *path, const char *fmt, ...)
    NIB_PRINTF(4, 5);
static test_reply *submit(test_server *s, bool htmx, const char *path, const char *fmt, ...) {
    char body[4096];
    int n = snprintf(body, sizeof body, "csrf=%s&", token);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(body + n, sizeof body - (size_t)n, fmt, ap);
    va_end(ap);
    return test_ask(s->port, "POST", path, headers(htmx, true), body);
}

static void has(const test_reply *r, const char *part) {
    if (!r->body.data || !strstr(r->body.data, part))
        fail_msg("status %d, without '%s': %.6000s", r->status, part, r->body.data);
}
static void lacks(const test_reply *r, const char *part) {
    if (r->body.data && strstr(r->body.data, part))
        fail_msg("with '%s': %.6000s", part, r->body.data);
}

/* A page that is sound: well formed, nothing that runs, the headers that say so. */
static void sound(const test_reply *r) {
    const char *wrong = html_wrong(r->body.data, NULL);
    if (wrong) fail_msg("%s\n%.8000s", wrong, r->body.data);
    const char *csp = test_header(r, "Content-Security-Policy");
    assert_non_null(csp);
    assert_non_null(strstr(csp, "default-src 'none'; script-src 'self';"));
    assert_null(strstr(csp, "unsafe"));
    lacks(r, "<script>");
    assert_string_equal(test_header(r, "Cache-Control"), "no-store");
}

/* A fresh browser opens the first page. */
static void browse(test_server *s) {
    *cookie = 0;
    test_reply *r = look(s, "/");
    assert_int_equal(r->status, 200);
    const char *set = test_header(r, "Set-Cookie");
    assert_non_null(set);
    assert_non_null(strstr(set, "HttpOnly"));
    assert_non_null(strstr(set, "SameSite=Strict"));
    snprintf(cookie, sizeof cookie, "%.*s", (int)strcspn(set, ";"), set);
    const char *at = strstr(r->body.data, "name=\"csrf\" value=\"");
    assert_non_null(at);
    snprintf(token, sizeof token, "%.32s", at + 19);
}

static test_server *serve(const char *model) {
    nib_server_params p = test_serve_params(model);
    test_server *s = test_serve(&p);
    browse(s);
    return s;
}

/* The page of conversation 1 once its reply is there. */
static test_reply *whole(test_server *s, const char *path) {
    for (int i = 0; i < 100 * TEST_PATIENCE; i++) {
        test_reply *r = look(s, path);
        if (r->body.data && !strstr(r->body.data, "/ui/stop") &&
            !strstr(r->body.data, "hx-sse:connect"))
            return r;
        usleep(10000);
    }
    fail_msg("the reply does not end");
    return NULL;
}

/* ---- with forms alone ---- */

static void without_scripts(void **state) {
    (void)state;
    test_server *s = serve(thinker());
    test_reply *r = look(s, "/");
    sound(r);
    has(r, "action=\"/ui/say\"");
    r = submit(s, false, "/ui/say",
               "talk=0&parent=0&text=Is+1+%%3C+2%%3F%%0D%%0A%%3Cscript%%3E&think-shown=1");
    assert_int_equal(r->status, 303);
    assert_string_equal(test_header(r, "Location"), "/c/1#m2");
    r = look(s, "/c/1"); /* streams until the reply is whole, and then the rest of the page */
    assert_int_equal(r->status, 200);
    sound(r);
    has(r, "Is 1 &lt; 2?\n&lt;script&gt;");
    has(r, "<strong>Yes</strong> &lt;script&gt;alert(1)&lt;/script&gt;x</p>");
    has(r, "</html>");
    has(r, "name=\"parent\" value=\"2\"");
    r = whole(s, "/c/1");
    sound(r);
    has(r, "Hmm &lt;b&gt;"); /* the thought */
    has(r, "<title>Is 1 &lt; 2?</title>");
    lacks(r, "href=\"javascript");
    /* a second exchange below the first; its prompt begins as the first one's did */
    r = submit(s, false, "/ui/say", "talk=1&parent=2&text=More");
    assert_string_equal(test_header(r, "Location"), "/c/1#m4");
    has(whole(s, "/c/1"), "id=\"m4\"");
    /* nothing to say; a conversation and a message there are none of */
    assert_int_equal(submit(s, false, "/ui/say", "talk=1&parent=4&text=+%%0A")->status, 400);
    assert_int_equal(submit(s, false, "/ui/say", "talk=9&parent=0&text=a")->status, 404);
    assert_int_equal(submit(s, false, "/ui/say", "talk=1&parent=99&text=a")->status, 404);
    assert_int_equal(submit(s, false, "/ui/say", "talk=x&parent=0&text=a")->status, 400);
    assert_int_equal(submit(s, false, "/ui/say", "talk=1&parent=4&text=%%FF")->status, 400);
    assert_int_equal(look(s, "/c/99")->status, 404);
    assert_int_equal(look(s, "/c/1x")->status, 404);
    assert_int_equal(look(s, "/c/-1")->status, 404);
    sound(look(s, "/c/99"));
    test_serve_stop(s);
}

static void versions(void **state) {
    (void)state;
    test_server *s = serve(thinker());
    submit(s, false, "/ui/say", "talk=0&parent=0&text=First");
    whole(s, "/c/1");
    test_reply *r = look(s, "/c/1?edit=1");
    sound(r);
    has(r, "action=\"/ui/edit\"");
    r = submit(s, false, "/ui/edit", "message=1&text=Second");
    assert_string_equal(test_header(r, "Location"), "/c/1#m3");
    r = whole(s, "/c/1");
    has(r, "<p class=\"plain\">Second</p>");
    lacks(r, "<p class=\"plain\">First</p>");
    has(r, "<span>2 / 2</span>");
    submit(s, false, "/ui/choose", "message=1");
    r = look(s, "/c/1");
    has(r, "<p class=\"plain\">First</p>");
    has(r, "id=\"m2\"");
    r = submit(s, false, "/ui/again", "message=2");
    assert_string_equal(test_header(r, "Location"), "/c/1#m5");
    r = whole(s, "/c/1");
    has(r, "id=\"m5\"");
    lacks(r, "id=\"m2\"");
    sound(r);
    assert_int_equal(submit(s, false, "/ui/again", "message=1")->status, 400);
    assert_int_equal(submit(s, false, "/ui/edit", "message=2&text=x")->status, 400);
    assert_int_equal(submit(s, false, "/ui/edit", "message=1&text=")->status, 400);
    /* with htmx: the messages as they are now */
    r = submit(s, true, "/ui/choose", "message=2");
    assert_int_equal(r->status, 200);
    has(r, "<hx-partial hx-target=\"#messages\"");
    has(r, "id=\"m2\"");
    assert_null(html_wrong(r->body.data, NULL));
    test_serve_stop(s);
}

static void conversations(void **state) {
    (void)state;
    test_server *s = serve(NULL);
    submit(s, false, "/ui/say", "talk=0&parent=0&text=About+tulips");
    submit(s, false, "/ui/say", "talk=0&parent=0&text=About+lentils");
    test_reply *r = look(s, "/?q=tulip");
    sound(r);
    has(r, "About <mark>tulips</mark>");
    lacks(r, "href=\"/c/2\"");
    r = look(s, "/ui/talks?q=lentil&talk=2");
    has(r, "aria-current=\"page\"");
    lacks(r, "href=\"/c/1\"");
    assert_int_equal(submit(s, false, "/ui/rename", "talk=1&title=%%3Cb%%3ENew")->status, 303);
    r = look(s, "/");
    has(r, "&lt;b&gt;New");
    sound(r);
    r = submit(s, true, "/ui/rename", "talk=1&title=Newer&current=1");
    has(r, "#title");
    assert_int_equal(submit(s, false, "/ui/rename", "talk=1&title=")->status, 400);
    assert_int_equal(submit(s, false, "/ui/rename", "talk=7&title=x")->status, 404);
    /* settings */
    r = submit(s, false, "/ui/settings",
               "talk=1&system=Be+%%22odd%%22.&temp=0.5&retention=3&think=2");
    assert_string_equal(test_header(r, "Location"), "/c/1");
    r = whole(s, "/c/1");
    has(r, "Be &quot;odd&quot;.");
    has(r, "value=\"0.5\"");
    has(r, "value=\"3\"");
    assert_int_equal(submit(s, false, "/ui/settings", "talk=1&temp=warm")->status, 400);
    assert_int_equal(submit(s, false, "/ui/settings", "talk=1&retention=0")->status, 400);
    /* written out */
    r = look(s, "/ui/export/1?as=md");
    has(r, "# Newer\n");
    has(r, "About tulips");
    assert_string_equal(test_header(r, "Content-Disposition"),
                        "attachment; filename=\"conversation-1.md\"");
    r = look(s, "/ui/export/1?as=json");
    assert_string_equal(test_json_text(r, "format"), "nib-dialog");
    assert_string_equal(test_json_text(r, "messages.0.content"), "About tulips");
    assert_int_equal(look(s, "/ui/export/1?as=exe")->status, 400);
    assert_int_equal(look(s, "/ui/export/9?as=md")->status, 404);
    r = look(s, "/ui/export/1?as=pdf");
    assert_true(r->status == 200 ? strncmp(r->body.data, "%PDF", 4) == 0 : r->status == 400);
    assert_int_equal(submit(s, false, "/ui/delete", "talk=2&current=2")->status, 303);
    assert_int_equal(look(s, "/c/2")->status, 404);
    /* themes */
    r = submit(s, false, "/ui/theme", "theme=dark&back=/c/1");
    assert_non_null(strstr(test_header(r, "Set-Cookie"), "nib_theme=dark"));
    assert_string_equal(test_header(r, "Location"), "/c/1");
    r = submit(s, false, "/ui/theme", "theme=dark&back=//evil.example");
    assert_string_equal(test_header(r, "Location"), "/");
    test_serve_stop(s);
}

static void without_a_model(void **state) {
    (void)state;
    test_server *s = serve(NULL);
    has(look(s, "/"), "Stub mode.");
    submit(s, false, "/ui/say", "talk=0&parent=0&text=Hello+%%3Cscript%%3E");
    test_reply *r = look(s, "/c/1");
    sound(r);
    has(r, "<strong>Stub reply.</strong>");
    has(r, "Hello &lt;script&gt;");
    test_serve_stop(s);
}

/* ---- who is refused ---- */

static void forged_forms(void **state) {
    (void)state;
    test_server *s = serve(NULL);
    static const char *const forms[] = {"say",    "again",    "edit",  "choose", "stop", "rename",
                                        "delete", "settings", "theme", "login",  "model"};
    char path[64], good[64], other[128];
    snprintf(good, sizeof good, "%s", token);
    submit(s, false, "/ui/say", "talk=0&parent=0&text=x");
    for (size_t i = 0; i < NIB_ARRAY_LEN(forms); i++) {
        snprintf(path, sizeof path, "/ui/%s", forms[i]);
        *token = 0;
        assert_int_equal(submit(s, false, path, "talk=1&message=1&text=a")->status, 403);
        snprintf(token, sizeof token, "%032d", 7);
        assert_int_equal(submit(s, false, path, "talk=1&message=1&text=a")->status, 403);
        snprintf(token, sizeof token, "%s", good);
        assert_int_equal(test_ask(s->port, "POST", path,
                                  "Content-Type: application/x-www-form-urlencoded\r\n",
                                  "talk=1&message=1&text=a")
                             ->status,
                         403);
    }
    /* the token of one browser is no other's */
    snprintf(other, sizeof other, "%s", cookie);
    browse(s);
    assert_string_not_equal(token, good);
    snprintf(cookie, sizeof cookie, "%s", other);
    assert_int_equal(submit(s, false, "/ui/delete", "talk=1")->status, 403);
    snprintf(token, sizeof token, "%s", good);
    /* another site's page */
    char h[500];
    snprintf(h, sizeof h, "%sOrigin: https://evil.example\r\n", headers(false, true));
    char body[100];
    snprintf(body, sizeof body, "csrf=%s&talk=1", token);
    assert_int_equal(test_ask(s->port, "POST", "/ui/delete", h, body)->status, 403);
    /* a refusal as a note of the page */
    *token = 0;
    test_reply *r = submit(s, true, "/ui/delete", "talk=1");
    assert_int_equal(r->status, 403);
    has(r, "<hx-partial hx-target=\"#toasts\"");
    assert_int_equal(look(s, "/c/1")->status, 200); /* it is still there */
    /* GET changes nothing */
    assert_int_equal(look(s, "/ui/delete")->status, 405);
    test_serve_stop(s);
}

static void with_a_key(void **state) {
    (void)state;
    char path[256];
    nib_error e;
    snprintf(path, sizeof path, "%s/keys", test_tmp());
    test_ok(nib_file_write(path, "sesame\n", 7, &e), &e);
    nib_server_params p = test_serve_params(NULL);
    p.key_file = path;
    test_server *s = test_serve(&p);
    *cookie = 0;
    test_reply *r = look(s, "/");
    assert_int_equal(r->status, 401);
    has(r, "action=\"/ui/login\"");
    lacks(r, "id=\"talks\"");
    const char *set = test_header(r, "Set-Cookie"),
               *at = strstr(r->body.data, "name=\"csrf\" value=\"");
    assert_true(set && at);
    snprintf(cookie, sizeof cookie, "%.*s", (int)strcspn(set, ";"), set);
    snprintf(token, sizeof token, "%.32s", at + 19);
    assert_int_equal(look(s, "/c/1")->status, 401);
    assert_int_equal(submit(s, false, "/ui/say", "talk=0&parent=0&text=x")->status, 401);
    assert_int_equal(test_get(s->port, "/assets/nib.css")->status, 200);
    r = submit(s, false, "/ui/login", "key=sesame");
    assert_int_equal(r->status, 303);
    set = test_header(r, "Set-Cookie");
    assert_non_null(strstr(set, "HttpOnly"));
    size_t n = strlen(cookie);
    snprintf(cookie + n, sizeof cookie - n, "; %.*s", (int)strcspn(set, ";"), set);
    assert_int_equal(look(s, "/")->status, 200);
    assert_int_equal(submit(s, false, "/ui/login", "key=a%%0D%%0ASet-Cookie:+b")->status, 400);
    test_serve_stop(s);
}

/* ---- streams ---- */

/* The texts of all events of a name, joined. */
static char *texts(const test_reply *r, const char *event) {
    nib_buf b = {0};
    char head[64];
    nib_buf_puts(&b, "");
    snprintf(head, sizeof head, "event: %s\ndata: ", event);
    for (const char *p = r->body.data; (p = strstr(p, head)) != NULL;) {
        p += strlen(head);
        json_t *v = json_loadb(p, strcspn(p, "\n"), 0, NULL);
        assert_non_null(v);
        const char *text = json_string_value(json_object_get(v, "text"));
        if (text) nib_buf_puts(&b, text);
        json_decref(v);
    }
    return b.data;
}

static void streams(void **state) {
    (void)state;
    test_server *s = serve(thinker());
    test_reply *r = submit(s, true, "/ui/say", "talk=0&parent=0&text=Hi");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "HX-Push-Url"), "/c/1");
    has(r, "hx-sse:connect=\"/ui/stream/2\"");
    has(r, "<hx-partial hx-target=\"#say-ids\"");
    assert_null(html_wrong(r->body.data, NULL));
    r = look(s, "/ui/stream/2");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "Content-Type"), "text/event-stream; charset=utf-8");
    has(r, "event: done\ndata: {\"finish\":\"stop\"");
    has(r, "&lt;script&gt;");
    lacks(r, "</strong> <script"); /* in HTML; JSON may say so */
    whole(s, "/c/1");
    /* the same again, now from the store: at once, with the whole message */
    r = look(s, "/ui/stream/2");
    has(r, "<strong>Yes</strong>");
    has(r, "Hmm &lt;b&gt;");
    has(r, "event: done");
    assert_int_equal(look(s, "/ui/stream/99")->status, 404);
    test_serve_stop(s);
}

/* Another model for a conversation, with forms alone and with htmx; names are text like any other.
 */
static void models(void **state) {
    (void)state;
    static const test_line lines[] = {{"\n", "I am beta", 9}, {NULL, NULL, 0}};
    char odd[300], beta[300];
    nib_server_params p = test_serve_params(endless());
    const nib_server_model more[] = {{.path = odd}, {.path = beta}};
    snprintf(beta, sizeof beta, "%s", test_script_model("beta.gguf", test_chatml, 4096, lines));
    snprintf(odd, sizeof odd, "%s", test_script_model("<b>&amp;.gguf", test_chatml, 4096, lines));
    p.model_name = NULL;
    p.models = more;
    p.n_models = 2;
    p.model_memory = 1; /* one at a time */
    p.max_seconds = 2;  /* others wait for so long */
    test_server *s = test_serve(&p);
    browse(s);
    test_reply *r = look(s, "/");
    sound(r);
    has(r, "value=\"&lt;b&gt;&amp;amp;\"");
    has(r, "<li aria-current=\"true\"><button name=\"model\" value=\"endless\">");
    r = submit(s, false, "/ui/model", "talk=0&model=%%3Cb%%3E%%26amp%%3B");
    assert_int_equal(r->status, 303);
    assert_string_equal(test_header(r, "Location"), "/?model=%3Cb%3E%26amp%3B");
    r = look(s, "/?model=%3Cb%3E%26amp%3B");
    sound(r);
    has(r, "<li aria-current=\"true\"><button name=\"model\" value=\"&lt;b&gt;&amp;amp;\">");
    has(r, "<input type=\"hidden\" name=\"model\" value=\"&lt;b&gt;&amp;amp;\">");
    assert_int_equal(submit(s, false, "/ui/model", "talk=0&model=nobody")->status, 404);
    assert_int_equal(submit(s, false, "/ui/model", "talk=0")->status, 404);
    assert_int_equal(submit(s, false, "/ui/model", "talk=9&model=beta")->status, 404);
    /* the first message says who answers; the conversation remembers it */
    submit(s, false, "/ui/say", "talk=0&parent=0&model=beta&text=Who%%3F");
    r = whole(s, "/c/1");
    sound(r);
    has(r, "<header>beta</header>");
    has(r, "I am beta");
    has(r, "value=\"beta\"><strong>beta</strong>");
    /* in mid-conversation */
    r = submit(s, false, "/ui/model", "talk=1&model=endless");
    assert_string_equal(test_header(r, "Location"), "/c/1");
    submit(s, false, "/ui/say", "talk=1&parent=2&text=And+now%%3F");
    r = whole(s, "/c/1");
    has(r, "<header>endless</header>");
    has(r, "one two");
    r = submit(s, true, "/ui/model", "talk=1&model=beta");
    assert_int_equal(r->status, 200);
    assert_null(html_wrong(r->body.data, NULL));
    has(r, "<hx-partial hx-target=\"#pick\"");
    has(r, "<li aria-current=\"true\"><button name=\"model\" value=\"beta\">");
    has(r, "name=\"talk\" value=\"1\"");
    has(look(s, "/c/1"), "<li aria-current=\"true\"><button name=\"model\" value=\"beta\">");
    /* while the first still answers somebody the other one waits, and says so */
    submit(s, false, "/ui/say", "talk=0&parent=0&model=endless&text=Long");
    submit(s, true, "/ui/say", "talk=0&parent=0&model=beta&text=More");
    r = look(s, "/ui/stream/8");
    has(r, "\"phase\":\"loading\"");
    has(r, "\"model\":\"beta\",\"load_done\":");
    has(r, "beta to be loaded");
    has(r, "I am beta");
    has(r, "event: done");
    /* stopped while it waits: once more where the machine stood still until the wait was over */
    for (int last = 8;; last += 4) {
        submit(s, false, "/ui/say", "talk=0&parent=0&model=endless&text=Long");
        submit(s, false, "/ui/say", "talk=3&parent=%d&text=Never+mind", last);
        submit(s, false, "/ui/stop", "message=%d", last + 4);
        r = whole(s, "/c/3");
        if (last >= 8 + 4 * 20 || strstr(r->body.data, "Stopped before anything was said.")) break;
    }
    has(r, "Stopped before anything was said.");
    test_serve_stop(s);
}

static void suggestions(void **state) {
    (void)state;
    static const test_line lines[] = {
        {"\n", "1. \"Why <so>?\"", 9}, {"1. \"Why <so>?\"", "</s>", 9}, {NULL, NULL, 0}};
    test_server *s = serve(test_script_model("asks.gguf", test_chatml, 4096, lines));
    submit(s, false, "/ui/say", "talk=0&parent=0&text=Hi");
    whole(s, "/c/1");
    test_reply *r = look(s, "/ui/suggest/2");
    assert_int_equal(r->status, 200);
    assert_null(html_wrong(r->body.data, NULL));
    has(r, "<button class=\"chip\">Why &lt;so&gt;?</button>"); /* without its number and quotes */
    has(r, "name=\"parent\" value=\"2\"");
    assert_int_equal(look(s, "/ui/suggest/99")->status, 404);
    assert_int_equal(look(s, "/ui/suggest/x")->status, 404);
    test_serve_stop(s);
    s = serve(thinker()); /* what it says stays text */
    submit(s, false, "/ui/say", "talk=0&parent=0&text=Hi");
    whole(s, "/c/1");
    r = look(s, "/ui/suggest/2");
    assert_null(html_wrong(r->body.data, NULL));
    lacks(r, "<script");
    test_serve_stop(s);
}

/* The switch says what the model is going to do, and changes it only when it is moved. */
static void thinking(void **state) {
    (void)state;
    test_server *s = serve(thinker());
    has(look(s, "/"), "name=\"think-shown\" value=\"0\"");
    submit(s, false, "/ui/say", "talk=0&parent=0&text=a&think-shown=0");
    has(whole(s, "/c/1"), "<option value=\"0\" selected>"); /* as the model does */
    submit(s, false, "/ui/say", "talk=1&parent=2&text=b&think-shown=0&think=1");
    test_reply *r = whole(s, "/c/1");
    has(r, "<option value=\"1\" selected>");
    has(r, "name=\"think\" value=\"1\" checked");
    submit(s, false, "/ui/say", "talk=1&parent=4&text=c&think-shown=1");
    r = whole(s, "/c/1");
    has(r, "<option value=\"2\" selected>");
    lacks(r, "name=\"think\" value=\"1\" checked");
    /* with htmx the field learns how its switch stands now */
    has(submit(s, true, "/ui/say", "talk=1&parent=6&text=d&think-shown=0&think=1"),
        "name=\"think-shown\" value=\"1\"");
    test_serve_stop(s);
}

/* Sends a GET by hand, and reads what comes within a time. */
static void listen_to(test_server *s, const char *path, const char *more, size_t bytes,
                      nib_buf *out) {
    nib_buf b = {0};
    nib_buf_printf(&b, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s%s\r\n", path,
                   headers(false, false), more);
    int fd = test_connect(s->port);
    test_send(fd, b.data, b.len);
    nib_buf_free(&b);
    char some[4096];
    nib_buf_puts(out, "");
    while (out->len < bytes) {
        struct pollfd p = {fd, POLLIN, 0};
        int tries = 0; /* short ones, so that a process that was stopped for long does not fail */
        while (poll(&p, 1, 500) <= 0)
            if (++tries == 40) fail_msg("no more of %s: %.3000s", path, out->data);
        ssize_t n = recv(fd, some, sizeof some, 0);
        if (n <= 0) break;
        nib_buf_put(out, some, (size_t)n);
    }
    close(fd);
}

/* Everybody leaves in mid-stream; the reply goes on, and whoever comes back misses nothing. */
static void resumed(void **state) {
    (void)state;
    test_server *s = serve(endless());
    submit(s, true, "/ui/say", "talk=0&parent=0&text=Count");
    nib_buf first = {0};
    listen_to(s, "/ui/stream/2", "", 3000, &first);
    /* the id of the last whole event, and what was told until then */
    char id[64] = "";
    nib_buf told = {0};
    nib_buf_puts(&told, "");
    char *end = NULL;
    for (char *p = first.data; (p = strstr(p, "\n\n")) != NULL; p += 2) end = p;
    assert_non_null(end);
    *end = 0;
    for (char *p = first.data; (p = strstr(p, "id: ")) != NULL; p += 4) sscanf(p, "id: %63s", id);
    test_reply part = {.body = {.data = first.data}};
    char *before = texts(&part, "token");
    size_t thought, text;
    assert_int_equal(sscanf(id, "%zu.%zu", &thought, &text), 2);
    assert_int_equal(text, strlen(before));
    assert_true(text > 0);
    nib_buf rest = {0};
    char header[100];
    snprintf(header, sizeof header, "Last-Event-ID: %s\r\nConnection: close\r\n", id);
    listen_to(s, "/ui/stream/2", header, SIZE_MAX, &rest);
    assert_non_null(strstr(rest.data, "event: done\ndata: {\"finish\":\"length\""));
    test_reply r = {.body = {.data = rest.data}};
    char *after = texts(&r, "token");
    nib_buf all = {0};
    nib_buf_printf(&all, "%s%s", before, after);
    for (size_t i = 0; i + 8 <= all.len; i += 8) assert_memory_equal(all.data + i, "one two ", 8);
    assert_non_null(strstr(whole(s, "/c/1")->body.data, "cut off: as long as a reply may be"));
    nib_buf_free(&first);
    nib_buf_free(&told);
    nib_buf_free(&rest);
    nib_buf_free(&all);
    nib_free(before);
    nib_free(after);
    test_serve_stop(s);
}

static void stopped(void **state) {
    (void)state;
    test_server *s = serve(endless());
    submit(s, true, "/ui/say", "talk=0&parent=0&text=Count");
    nib_buf some = {0};
    listen_to(s, "/ui/stream/2", "", 2000, &some);
    nib_buf_free(&some);
    /* nothing may follow a reply that is still being written */
    assert_int_equal(submit(s, true, "/ui/say", "talk=1&parent=2&text=And")->status, 409);
    assert_int_equal(submit(s, true, "/ui/again", "message=2")->status, 409);
    assert_int_equal(submit(s, true, "/ui/stop", "message=2")->status, 204);
    test_reply *r = whole(s, "/c/1");
    has(r, "stopped");
    has(r, "one two one");
    assert_int_equal(submit(s, true, "/ui/stop", "message=2")->status,
                     204); /* too late: no matter */
    /* deleted while it is written */
    submit(s, true, "/ui/say", "talk=0&parent=0&text=Count");
    assert_int_equal(submit(s, false, "/ui/delete", "talk=2")->status, 303);
    assert_int_equal(look(s, "/c/2")->status, 404);
    test_serve_stop(s);
}

/* The server stops in mid-reply: what there is, is kept. */
static void server_stops(void **state) {
    (void)state;
    char path[256];
    nib_error e;
    nib_store *store;
    nib_turns t = {0};
    snprintf(path, sizeof path, "%s/stops.db", test_tmp());
    nib_server_params p = test_serve_params(endless());
    p.store = path;
    test_server *s = test_serve(&p);
    browse(s);
    submit(s, true, "/ui/say", "talk=0&parent=0&text=Count");
    nib_buf some = {0};
    listen_to(s, "/ui/stream/2", "", 2000, &some);
    nib_buf_free(&some);
    test_serve_stop(s);
    test_ok(nib_store_open(&store, path, &e), &e);
    test_ok(nib_turn_get(store, 2, &t, &e), &e);
    assert_int_not_equal(t.v[0].state, NIB_TURN_GROWING);
    assert_memory_equal(t.v[0].content, "one two one", 11);
    assert_string_equal(t.v[0].finish, "interrupted");
    nib_turns_free(&t);
    nib_store_close(store);
}

/* kill -9 in mid-reply: all that was shown is in the store. */
static void killed(void **state) {
    (void)state;
    char path[256];
    nib_error e;
    nib_store *store;
    nib_turns t = {0};
    snprintf(path, sizeof path, "%s/killed.db", test_tmp());
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(fd[1], 2);
        execl(NIB_COMMAND, "nib", "serve", endless(), "--port", "0", "--store", path, "--threads",
              "1", "--ignore-memory", (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    FILE *log = fdopen(fd[0], "r");
    char line[512];
    test_server s = {0};
    while (fgets(line, sizeof line, log)) {
        const char *at = strstr(line, "listening on http://");
        if (at) s.port = atoi(strrchr(at, ':') > at ? strstr(at, "127.0.0.1:") + 10 : "0");
        if (strstr(line, "ready")) break;
    }
    assert_true(s.port > 0);
    browse(&s);
    submit(&s, true, "/ui/say", "talk=0&parent=0&text=Count");
    nib_buf shown = {0};
    listen_to(&s, "/ui/stream/2", "", 20000, &shown);
    kill(child, SIGKILL);
    int status;
    waitpid(child, &status, 0);
    fclose(log);
    char *end = NULL;
    for (char *p = shown.data; (p = strstr(p, "\n\n")) != NULL; p += 2) end = p;
    assert_non_null(end);
    *end = 0;
    test_reply r = {.body = {.data = shown.data}};
    char *told = texts(&r, "token");
    assert_true(strlen(told) > 100);
    test_ok(nib_store_open(&store, path, &e), &e);
    test_ok(nib_store_recover(store, &e), &e);
    test_ok(nib_turn_get(store, 2, &t, &e), &e);
    assert_true(strlen(t.v[0].content) >= strlen(told));
    assert_memory_equal(t.v[0].content, told, strlen(told));
    nib_turns_free(&t);
    nib_store_close(store);
    nib_free(told);
    nib_buf_free(&shown);
}

static void files_of_ours(void **state) {
    (void)state;
    test_server *s = serve(NULL);
    test_reply *r = look(s, "/");
    const char *at = strstr(r->body.data, "/assets/nib.css?v=");
    char path[80];
    assert_non_null(at);
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, "\""), at);
    r = look(s, path);
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "Content-Type"), "text/css; charset=utf-8");
    assert_non_null(strstr(test_header(r, "Cache-Control"), "immutable"));
    lacks(r, "url(");
    r = look(s, "/assets/icons.svg");
    assert_string_equal(test_header(r, "Content-Type"), "image/svg+xml");
    assert_int_equal(look(s, "/assets/../CMakeLists.txt")->status, 404);
    assert_int_equal(look(s, "/assets/")->status, 404);
    r = test_get(s->port, "/");
    assert_string_equal(r->body.data, "Ollama is running");
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_scripts), cmocka_unit_test(versions),
        cmocka_unit_test(conversations),   cmocka_unit_test(without_a_model),
        cmocka_unit_test(forged_forms),    cmocka_unit_test(with_a_key),
        cmocka_unit_test(streams),         cmocka_unit_test(resumed),
        cmocka_unit_test(models),          cmocka_unit_test(suggestions),
        cmocka_unit_test(thinking),        cmocka_unit_test(stopped),
        cmocka_unit_test(server_stops),    cmocka_unit_test(killed),
        cmocka_unit_test(files_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
