/* Conversations as PDF: pango lays out text of any script, cairo writes the pages.
 *
 * A4 with margins; a title, then a heading and text for every turn. Text is placed line by line, so
 * that any line may be the last of a page; a heading never is. Code between ``` lines is set in a
 * fixed width on grey.
 *
 * The libraries are opened when the first PDF is asked for. Linked, they and the thirty libraries
 * that they need would take 4 MB and 3 ms of every start of nib. */
#include "store/store.h"
#ifdef NIB_HAVE_PANGO
#include <cairo-pdf.h>
#include <dlfcn.h>
#include <pango/pangocairo.h>
#include <pthread.h>

#define LIBRARY "libpangocairo-1.0.so.0" /* needs cairo, pango and gobject itself */
static struct {
#define NIB_PDF_FUNCTION(name) __typeof__(name) *name;
#include "store/pdf_functions.def"
#undef NIB_PDF_FUNCTION
} lib;
static bool opened;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_library(void) {
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* for good: glib cannot be closed */
    opened = handle != NULL;
    if (!opened) return;
#define NIB_PDF_FUNCTION(name)                                                                     \
    opened &= (*(void **)(void *)&lib.name = dlsym(handle, #name)) != NULL;
#include "store/pdf_functions.def"
#undef NIB_PDF_FUNCTION
}

static const double PAGE_W = 595, PAGE_H = 842, MARGIN = 64; /* points */

typedef struct page {
    cairo_t *cr;
    double y;
    int number;
    int n_unknown; /* characters that no font here has */
} page;

typedef enum look { TITLE, DATE, HEADING, BODY, THOUGHT, CODE } look;
static const struct {
    const char *font;
    double grey, before, after,
        keep; /* points; keep: free space a block wants below its first line */
} looks[] = {
    [TITLE] = {"Sans Bold 18", 0, 0, 4, 60},       [DATE] = {"Sans 9", 0.45, 0, 14, 0},
    [HEADING] = {"Sans Bold 11", 0, 14, 3, 40},    [BODY] = {"Serif 11", 0, 0, 6, 0},
    [THOUGHT] = {"Serif Italic 10", 0.4, 0, 6, 0}, [CODE] = {"Monospace 9", 0, 0, 0, 0},
};

static void put_page_number(page *p) {
    char text[16];
    snprintf(text, sizeof text, "%d", p->number);
    PangoLayout *layout = lib.pango_cairo_create_layout(p->cr);
    PangoFontDescription *font = lib.pango_font_description_from_string("Sans 9");
    lib.pango_layout_set_font_description(layout, font);
    lib.pango_layout_set_text(layout, text, -1);
    int w;
    lib.pango_layout_get_size(layout, &w, NULL);
    lib.cairo_set_source_rgb(p->cr, 0.45, 0.45, 0.45);
    lib.cairo_move_to(p->cr, (PAGE_W - (double)w / PANGO_SCALE) / 2, PAGE_H - MARGIN / 2 - 8);
    lib.pango_cairo_show_layout(p->cr, layout);
    lib.pango_font_description_free(font);
    lib.g_object_unref(layout);
}

static void next_page(page *p) {
    put_page_number(p);
    lib.cairo_show_page(p->cr);
    p->number++;
    p->y = MARGIN;
}

static void put_block(page *p, const char *text, size_t n, look k) {
    double width = PAGE_W - 2 * MARGIN, indent = k == CODE ? 8 : k == THOUGHT ? 12 : 0;
    PangoLayout *layout = lib.pango_cairo_create_layout(p->cr);
    PangoFontDescription *font = lib.pango_font_description_from_string(looks[k].font);
    lib.pango_layout_set_font_description(layout, font);
    lib.pango_layout_set_width(layout, (int)((width - 2 * indent) * PANGO_SCALE));
    lib.pango_layout_set_wrap(layout, PANGO_WRAP_WORD_CHAR);
    lib.pango_layout_set_spacing(layout, 2 * PANGO_SCALE);
    lib.pango_layout_set_text(layout, text, (int)n);
    p->n_unknown += lib.pango_layout_get_unknown_glyphs_count(layout);
    if (p->y > MARGIN) p->y += looks[k].before;
    PangoLayoutIter *iter = lib.pango_layout_get_iter(layout);
    bool first = true;
    do {
        PangoRectangle r;
        int top, bottom;
        lib.pango_layout_iter_get_line_extents(iter, NULL, &r);
        lib.pango_layout_iter_get_line_yrange(iter, &top, &bottom);
        double height = (double)(bottom - top) / PANGO_SCALE;
        if (p->y + height + (first ? looks[k].keep : 0) > PAGE_H - MARGIN) next_page(p);
        if (k == CODE) {
            lib.cairo_set_source_rgb(p->cr, 0.95, 0.95, 0.95);
            lib.cairo_rectangle(p->cr, MARGIN, p->y, width, height + 0.5);
            lib.cairo_fill(p->cr);
        }
        lib.cairo_set_source_rgb(p->cr, looks[k].grey, looks[k].grey, looks[k].grey);
        double base = (double)(lib.pango_layout_iter_get_baseline(iter) - top) / PANGO_SCALE;
        lib.cairo_move_to(p->cr, MARGIN + indent + (double)r.x / PANGO_SCALE, p->y + base);
        lib.pango_cairo_show_layout_line(p->cr, lib.pango_layout_iter_get_line_readonly(iter));
        p->y += height;
        first = false;
    } while (lib.pango_layout_iter_next_line(iter));
    lib.pango_layout_iter_free(iter);
    p->y += looks[k].after;
    lib.pango_font_description_free(font);
    lib.g_object_unref(layout);
}

/* Paragraphs, and code between ``` lines. */
static void put_text(page *p, const char *text, look k) {
    bool fenced = false;
    while (*text) {
        size_t n = strcspn(text, "\n");
        if (strncmp(text + strspn(text, " "), "```", 3) == 0) {
            fenced = !fenced;
            p->y += 5;
        } else if (n || fenced) {
            put_block(p, n ? text : " ", n ? n : 1, fenced ? CODE : k);
        }
        text += n + (text[n] == '\n');
    }
}

/* pango wants UTF-8; models may have written anything. */
static nib_status put_clean(page *p, const char *text, look k, nib_error *e) {
    nib_buf b = {0};
    size_t n = strlen(text);
    nib_buf_put(&b, "", 0);
    for (size_t i = 0; i < n;) {
        int32_t cp;
        char out[4];
        i += nib_utf8_decode(text + i, n - i, &cp);
        if (cp >= 0x20 || cp < 0 || cp == '\n' || cp == '\t')
            nib_buf_put(&b, out, nib_utf8_encode(cp, out));
    }
    if (!b.failed) put_text(p, b.data, k);
    nib_status s = b.failed ? nib_fail_nomem(e, n, "text for a page") : NIB_OK;
    nib_buf_free(&b);
    return s;
}

static cairo_status_t write_some(void *out, const unsigned char *p, unsigned n) {
    return nib_buf_put(out, p, n) ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

nib_status nib_transcript_pdf(const nib_transcript *t, nib_buf *out, nib_error *e) {
    pthread_once(&once, open_library);
    if (!opened)
        return nib_fail(e, NIB_ERR_UNSUPPORTED,
                        "PDF export needs " LIBRARY
                        ", which cannot be opened: install libpangocairo-1.0-0, or export .md");
    char date[64];
    nib_transcript_date(t, date, sizeof date);
    cairo_surface_t *surface =
        lib.cairo_pdf_surface_create_for_stream(write_some, out, PAGE_W, PAGE_H);
    lib.cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_TITLE, t->title);
    page p = {lib.cairo_create(surface), MARGIN, 1, 0};
    nib_status s;
    NIB_TRY_OUT(put_clean(&p, t->title, TITLE, e));
    NIB_TRY_OUT(put_clean(&p, date, DATE, e));
    if (t->system && *t->system) {
        NIB_TRY_OUT(put_clean(&p, "System", HEADING, e));
        NIB_TRY_OUT(put_clean(&p, t->system, BODY, e));
    }
    for (size_t i = 0; i < t->messages->n; i++) {
        const nib_message *m = &t->messages->v[i];
        NIB_TRY_OUT(put_clean(&p, nib_transcript_speaker(t, m), HEADING, e));
        if (m->thinking) NIB_TRY_OUT(put_clean(&p, m->thinking, THOUGHT, e));
        NIB_TRY_OUT(put_clean(&p, m->content, BODY, e));
    }
    put_page_number(&p);
out:
    lib.cairo_destroy(p.cr);
    lib.cairo_surface_finish(surface);
    cairo_status_t bad = lib.cairo_surface_status(surface);
    lib.cairo_surface_destroy(surface);
    if (s == NIB_OK && bad)
        s = nib_fail(e, out->failed ? NIB_ERR_NOMEM : NIB_ERR_INTERNAL, "cannot make the PDF: %s",
                     lib.cairo_status_to_string(bad));
    if (s == NIB_OK && p.n_unknown)
        nib_log(NIB_LOG_WARN,
                "no font here has %d of the characters: install fonts for that script, such as "
                "fonts-noto-cjk",
                p.n_unknown);
    return s;
}
#else
nib_status nib_transcript_pdf(const nib_transcript *t, nib_buf *out, nib_error *e) {
    (void)t, (void)out;
    return nib_fail(
        e, NIB_ERR_UNSUPPORTED,
        "PDF export is not built in: install libpango1.0-dev and build nib again, or export .md");
}
#endif
