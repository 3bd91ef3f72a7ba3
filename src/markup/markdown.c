/* Markdown to HTML on md4c's callbacks.
 *
 * md4c finds the structure; what is written is ours, so nothing passes that is not spelled here:
 * every text is escaped, raw HTML is switched off, addresses are checked after their entities have
 * been resolved. Headings are two levels lower, since the page has headings of its own. */
#include <md4c.h>
#include <strings.h>
#include "markup/markup.h"

enum { MAX_DEPTH = 40 /* of lists and quotes; deeper ones are not indented further */ };

typedef struct page {
    nib_buf *out;
    const char *text;
    size_t text_len;
    nib_buf code; /* of the code block under way */
    char lang[32];
    bool in_code;
    int depth;
    struct {
        MD_SPANTYPE type;
        const char *tag; /* NULL: none was written */
    } spans[64];
    int n_spans;
} page;

/* ---- attributes ---- */

/* Entities become the characters they stand for, or stay as they are spelled. */
static void put_entity(nib_buf *b, const char *p, size_t n) {
    static const struct {
        const char *name;
        char c;
    } named[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(named); i++)
        if (strlen(named[i].name) == n && memcmp(named[i].name, p, n) == 0) {
            nib_buf_putc(b, named[i].c);
            return;
        }
    if (n > 3 && p[1] == '#') {
        bool hex = (p[2] | 32) == 'x';
        int32_t cp = 0;
        for (size_t i = hex ? 3 : 2; i + 1 < n && cp <= 0x10ffff; i++) {
            int digit = p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10;
            cp = cp * (hex ? 16 : 10) + digit;
        }
        char text[4];
        if (cp == 0) cp = -1;
        nib_buf_put(b, text, nib_utf8_encode(cp, text));
        return;
    }
    nib_buf_put(b, p, n);
}

static void put_attribute(nib_buf *b, const MD_ATTRIBUTE *a) {
    for (int i = 0; a->text && a->substr_offsets[i] < a->size; i++) {
        const char *p = a->text + a->substr_offsets[i];
        size_t n = a->substr_offsets[i + 1] - a->substr_offsets[i];
        if (a->substr_types[i] == MD_TEXT_ENTITY)
            put_entity(b, p, n);
        else
            nib_buf_put(b, p, n);
    }
}

/* Whether a link may lead there. */
static bool allowed(const char *url, size_t n) {
    static const char *const schemes[] = {"http://", "https://", "mailto:"};
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)url[i] <= ' ' || url[i] == 0x7f || url[i] == '\\') return false;
    for (size_t i = 0; i < NIB_ARRAY_LEN(schemes); i++) {
        size_t len = strlen(schemes[i]);
        if (n > len && strncasecmp(url, schemes[i], len) == 0) return true;
    }
    return false;
}

/* Whether an <a> was written. */
static bool open_link(page *g, const MD_ATTRIBUTE *href) {
    nib_buf url = {.max = 8192};
    put_attribute(&url, href);
    bool ok = !url.failed && url.len && allowed(url.data, url.len);
    for (int i = 0; i < g->n_spans; i++) /* a picture in a link */
        ok = ok && !(g->spans[i].tag && strcmp(g->spans[i].tag, "a") == 0);
    if (ok) {
        nib_buf_puts(g->out, "<a href=\"");
        nib_put_html(g->out, url.data, url.len);
        nib_buf_puts(g->out, "\" rel=\"noopener noreferrer nofollow\" target=\"_blank\">");
    }
    nib_buf_free(&url);
    return ok;
}

/* ---- spans: md4c 0.4.8 may tell of their ends in the wrong order, or not at all (~~) ---- */

static const char *plain_span(MD_SPANTYPE type) {
    switch (type) {
    case MD_SPAN_EM: return "em";
    case MD_SPAN_STRONG: return "strong";
    case MD_SPAN_CODE: return "code";
    case MD_SPAN_DEL: return "del";
    default: return NULL;
    }
}

static int enter_span(MD_SPANTYPE type, void *detail, void *arg) {
    page *g = arg;
    if (g->n_spans == (int)NIB_ARRAY_LEN(g->spans)) return 0;
    const char *tag = plain_span(type);
    if (tag)
        nib_buf_printf(g->out, "<%s>", tag);
    else if (type == MD_SPAN_A && open_link(g, &((MD_SPAN_A_DETAIL *)detail)->href))
        tag = "a";
    else if (type == MD_SPAN_IMG && open_link(g, &((MD_SPAN_IMG_DETAIL *)detail)->src))
        tag = "a"; /* the page loads nothing from elsewhere */
    g->spans[g->n_spans].type = type;
    g->spans[g->n_spans++].tag = tag;
    return g->out->failed;
}

static void close_spans(page *g, int down_to) {
    while (g->n_spans > down_to) {
        const char *tag = g->spans[--g->n_spans].tag;
        if (tag) nib_buf_printf(g->out, "</%s>", tag);
    }
}

static int leave_span(MD_SPANTYPE type, void *detail, void *arg) {
    page *g = arg;
    (void)detail;
    for (int i = g->n_spans - 1; i >= 0; i--)
        if (g->spans[i].type == type) {
            close_spans(g, i);
            break;
        }
    return g->out->failed;
}

/* ---- blocks ---- */

static void open_code(page *g, const MD_BLOCK_CODE_DETAIL *d) {
    nib_buf lang = {.max = 256};
    put_attribute(&lang, &d->lang);
    g->in_code = true;
    g->lang[0] = 0;
    for (size_t i = 0; !lang.failed && i < lang.len && i + 1 < sizeof g->lang; i++) {
        char c = lang.data[i];
        bool plain =
            (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || strchr("+-#._", c);
        if (!plain || !c) break;
        g->lang[i] = c;
        g->lang[i + 1] = 0;
    }
    nib_buf_free(&lang);
}

static void close_code(page *g) {
    nib_html(g->out,
             "<figure class=\"code\"><figcaption><span>%s</span><button type=\"button\""
             " class=\"copy-code\">Copy</button></figcaption><pre tabindex=\"0\"><code>",
             g->lang[0] ? g->lang : "text");
    nib_highlight(nib_str_c(g->lang), g->code.data ? g->code.data : "", g->code.len, g->out);
    nib_buf_puts(g->out, "</code></pre></figure>\n");
    if (g->code.failed) g->out->failed = true;
    nib_buf_clear(&g->code);
    g->in_code = false;
}

static void cell(page *g, const char *name, const MD_BLOCK_TD_DETAIL *d) {
    static const char *const classes[] = {"", " class=\"left\"", " class=\"center\"",
                                          " class=\"right\""};
    nib_buf_printf(g->out, "<%s%s>", name, classes[d->align & 3]);
}

static void list_item(page *g, const MD_BLOCK_LI_DETAIL *d) {
    if (d->is_task)
        nib_buf_printf(g->out, "<li class=\"task\"><input type=\"checkbox\" disabled%s> ",
                       d->task_mark == ' ' ? "" : " checked");
    else
        nib_buf_puts(g->out, "<li>");
}

static const char *plain_block(MD_BLOCKTYPE type) {
    switch (type) {
    case MD_BLOCK_QUOTE: return "blockquote";
    case MD_BLOCK_UL: return "ul";
    case MD_BLOCK_OL: return "ol";
    case MD_BLOCK_LI: return "li";
    case MD_BLOCK_P: return "p";
    case MD_BLOCK_THEAD: return "thead";
    case MD_BLOCK_TBODY: return "tbody";
    case MD_BLOCK_TR: return "tr";
    case MD_BLOCK_TH: return "th";
    case MD_BLOCK_TD: return "td";
    default: return NULL;
    }
}

static bool nests(MD_BLOCKTYPE type) {
    return type == MD_BLOCK_QUOTE || type == MD_BLOCK_UL || type == MD_BLOCK_OL ||
           type == MD_BLOCK_LI;
}

static int heading(const void *detail) {
    return (int)NIB_MIN(((const MD_BLOCK_H_DETAIL *)detail)->level + 2, 6U);
}

static int enter_block(MD_BLOCKTYPE type, void *detail, void *arg) {
    page *g = arg;
    close_spans(g, 0);
    if (nests(type) && ++g->depth > MAX_DEPTH) return g->out->failed;
    switch (type) {
    case MD_BLOCK_H: nib_buf_printf(g->out, "<h%d>", heading(detail)); break;
    case MD_BLOCK_CODE: open_code(g, detail); break;
    case MD_BLOCK_HR: nib_buf_puts(g->out, "<hr>\n"); break;
    case MD_BLOCK_TABLE: nib_buf_puts(g->out, "<div class=\"table\"><table>"); break;
    case MD_BLOCK_TH: cell(g, "th", detail); break;
    case MD_BLOCK_TD: cell(g, "td", detail); break;
    case MD_BLOCK_LI: list_item(g, detail); break;
    case MD_BLOCK_OL: {
        unsigned start = ((MD_BLOCK_OL_DETAIL *)detail)->start;
        if (start == 1)
            nib_buf_puts(g->out, "<ol>\n");
        else
            nib_buf_printf(g->out, "<ol start=\"%u\">\n", start);
        break;
    }
    default:
        if (plain_block(type)) nib_buf_printf(g->out, "<%s>", plain_block(type));
    }
    return g->out->failed;
}

static int leave_block(MD_BLOCKTYPE type, void *detail, void *arg) {
    page *g = arg;
    close_spans(g, 0);
    if (nests(type) && g->depth-- > MAX_DEPTH) return g->out->failed;
    switch (type) {
    case MD_BLOCK_H: nib_buf_printf(g->out, "</h%d>\n", heading(detail)); break;
    case MD_BLOCK_CODE: close_code(g); break;
    case MD_BLOCK_TABLE: nib_buf_puts(g->out, "</table></div>\n"); break;
    default:
        if (plain_block(type)) nib_buf_printf(g->out, "</%s>\n", plain_block(type));
    }
    return g->out->failed;
}

/* ---- text ---- */

/* Bytes of a piece that lie in the text: md4c 0.4.8 sometimes reports more than there are. Pieces
 * from elsewhere are md4c's own constants. */
static MD_SIZE inside(const page *g, const MD_CHAR *text, MD_SIZE n) {
    uintptr_t at = (uintptr_t)text, from = (uintptr_t)g->text, end = from + g->text_len;
    return at < from || at > end ? n : (MD_SIZE)NIB_MIN(n, end - at);
}

static int put_text(MD_TEXTTYPE type, const MD_CHAR *text, MD_SIZE n, void *arg) {
    page *g = arg;
    n = inside(g, text, n);
    nib_buf entity = {.max = 256};
    if (g->in_code) {
        nib_buf_put(&g->code, type == MD_TEXT_NULLCHAR ? "\xef\xbf\xbd" : text,
                    type == MD_TEXT_NULLCHAR ? 3 : n);
        return g->code.failed;
    }
    switch (type) {
    case MD_TEXT_NULLCHAR: nib_buf_puts(g->out, "\xef\xbf\xbd"); break;
    case MD_TEXT_BR: nib_buf_puts(g->out, "<br>\n"); break;
    case MD_TEXT_SOFTBR: nib_buf_putc(g->out, '\n'); break;
    case MD_TEXT_ENTITY:
        put_entity(&entity, text, n);
        nib_put_html(g->out, entity.data ? entity.data : "", entity.len);
        nib_buf_free(&entity);
        break;
    default: nib_put_html(g->out, text, n);
    }
    return g->out->failed;
}

/* ---- the whole ---- */

/* Zeros behind the copy that md4c is given: it looks past the end of a text here and there. */
enum { SLACK = 64 };

static void plain(const char *text, size_t n, nib_buf *out) {
    nib_buf_puts(out, "<p class=\"plain\">");
    nib_put_html(out, text, n);
    nib_buf_puts(out, "</p>\n");
}

void nib_markdown(const char *text, size_t n, nib_buf *out) {
    const MD_PARSER parser = {
        .flags = MD_FLAG_NOHTML | MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_TASKLISTS |
                 MD_FLAG_PERMISSIVEURLAUTOLINKS,
        .enter_block = enter_block,
        .leave_block = leave_block,
        .enter_span = enter_span,
        .leave_span = leave_span,
        .text = put_text,
    };
    /* md4c fills the rows of a table up to its widest: text squared without this bound */
    nib_buf made = {.max = 64 * n + 4096};
    page g = {.out = &made, .text_len = n};
    char *copy = n <= NIB_MARKDOWN_MAX ? nib_calloc(1, n + SLACK) : NULL;
    if (copy && n) memcpy(copy, text, n);
    g.text = copy;
    if (copy && md_parse(copy, (MD_SIZE)n, &parser, &g) == 0 && !made.failed)
        nib_buf_put(out, made.data ? made.data : "", made.len);
    else
        plain(text, n, out);
    nib_buf_free(&made);
    nib_buf_free(&g.code);
    nib_free(copy);
}
