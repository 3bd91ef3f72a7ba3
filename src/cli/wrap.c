/* Word wrap of a stream: a word is held back until it is whole, then goes on this line or the next.
 *
 * Code (between ``` lines, or indented by four spaces) and tables (lines that start with '|') are
 * left as they are. Wide characters, written without spaces, are words of their own. */
#include <wchar.h>
#include "cli/cli.h"
#include "cli/wrap.h"

static void put_word(nib_wrap *w) {
    if (!w->word.len) return;
    const char *text = w->word.data;
    if (!w->line_started) {
        if (strncmp(text, "```", 3) == 0) w->fenced = !w->fenced, w->exact = true;
        if (w->fenced || w->spaces >= 4 || text[0] == '|') w->exact = true;
        w->line_started = true;
    }
    int width = nib_text_width(text, w->word.len);
    if (!w->exact && w->column > 0 && w->column + w->spaces + width > w->width) {
        fputc('\n', w->f);
        w->column = 0;
        w->spaces = 0;
    }
    fprintf(w->f, "%*s", w->spaces, "");
    fwrite(text, 1, w->word.len, w->f);
    w->column += w->spaces + width;
    w->spaces = 0;
    nib_buf_clear(&w->word);
}

void nib_wrap_line(nib_wrap *w) {
    w->column = w->spaces = 0;
    w->exact = w->line_started = false;
}

void nib_wrap_put(nib_wrap *w, const char *text, size_t n) {
    if (w->width <= 0) {
        fwrite(text, 1, n, w->f);
        if (n) w->column = text[n - 1] != '\n';
        fflush(w->f);
        return;
    }
    for (size_t i = 0; i < n;) {
        int32_t cp;
        size_t len = nib_utf8_decode(text + i, n - i, &cp);
        if (cp == '\n') {
            put_word(w);
            fputc('\n', w->f);
            nib_wrap_line(w);
        } else if (cp == ' ' || cp == '\t') {
            put_word(w);
            w->spaces += cp == ' ' ? 1 : 4;
        } else if (cp >= 0x20 && (cp < 0x7f || cp > 0x9f)) {
            bool wide = wcwidth((wchar_t)cp) == 2;
            if (wide || w->word.len > 256) put_word(w);
            nib_buf_put(&w->word, text + i, len);
            if (wide) put_word(w);
        }
        i += len;
    }
    fflush(w->f);
}

void nib_wrap_end(nib_wrap *w) {
    put_word(w);
    fflush(w->f);
}

void nib_wrap_free(nib_wrap *w) {
    nib_buf_free(&w->word);
}
