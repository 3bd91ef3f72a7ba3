/* What the pages keep: the conversations, and the key that their forms' tokens are made with. */
#include "server/web.h"

nib_status nib_web_open(nib_server *s, nib_error *e) {
    nib_buf path = {0};
    nib_web *w = nib_calloc(1, sizeof *w);
    nib_error own;
    if (!e) e = &own;
    nib_status st = NIB_OK;
    if (!w) return nib_fail_nomem(e, sizeof *w, "the pages");
    if (s->p.store)
        nib_buf_puts(&path, s->p.store);
    else
        st = nib_store_default_path(&path, e);
    if (path.failed) st = nib_fail_nomem(e, 1, "a path");
    if (st == NIB_OK) st = nib_store_open(&w->store, path.data, e);
    if (st != NIB_OK && st != NIB_ERR_NOMEM && !s->p.store) { /* APIs work without a home */
        nib_log(NIB_LOG_WARN, "conversations are kept until the server ends (--store FILE): %s",
                e->message);
        st = nib_store_open(&w->store, ":memory:", e);
    }
    if (st == NIB_OK) st = nib_store_recover(w->store, e);
    if (st == NIB_OK) st = nib_store_secret(w->store, w->secret, e);
    nib_buf_free(&path);
    s->web = w;
    if (st == NIB_OK) return NIB_OK;
    nib_web_close(s);
    return nib_fail_in(e, st, "conversations (--store FILE keeps them elsewhere)");
}

void nib_web_close(nib_server *s) {
    if (!s->web) return;
    if (s->web->store) web_replies_end(s);
    nib_store_close(s->web->store);
    nib_free(s->web);
    s->web = NULL;
}
