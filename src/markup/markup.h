/* markup - text that people and models wrote, as HTML that can do no harm.
 *
 * Nothing of the text becomes markup but what Markdown makes of it: raw HTML is text, links lead to
 * http, https and mailto only, pictures are not loaded. Pure functions; any thread. */
#ifndef NIB_MARKUP_H
#define NIB_MARKUP_H
#include "base/base.h"

/* ---- HTML (html.c) ---- */

/* Text for HTML, in elements and in quoted attributes. */
void nib_put_html(nib_buf *b, const char *p, size_t n);
/* As nib_buf_printf, except that what %s puts in is text, so it is escaped. Conversions: %s, %d,
 * %lld, %zu, %.Nf, %%. */
bool nib_html(nib_buf *b, const char *fmt, ...) NIB_PRINTF(2, 3);

/* ---- Markdown (markdown.c) ---- */

/* Appends HTML for text[0..n): CommonMark with tables, task lists, strikethrough and bare
 * addresses. Whatever a text is cut off after is closed, so a text may be shown while it grows.
 * What is too long (NIB_MARKDOWN_MAX) or fails becomes plain text. */
enum { NIB_MARKDOWN_MAX = 256 << 10 };
void nib_markdown(const char *text, size_t n, nib_buf *out);

/* ---- code (highlight.c) ---- */

/* Appends code as HTML, its words in <span class="..."> of k keyword, s string, c comment, n
 * number, f function. lang: as after ```; one that languages.def does not know gives no spans. */
void nib_highlight(nib_str lang, const char *code, size_t n, nib_buf *out);
#endif
