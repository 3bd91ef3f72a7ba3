/* What the pages keep: the conversations, and the key that their forms' tokens are made with. */
#include "server/web.h"

nib_status nib_web_open(nib_server *s, nib_error *e) {
    nib_buf path = {0};
    nib_web *w = nib_calloc(1, sizeof *w);
    nib_status st = NIB_OK;
    if (!w) return nib_fail_nomem(e, sizeof *w, "the pages");
    if (s->p.store)
        nib_buf_puts(&path, s->p.store);
    else if (nib_store_default_path(&path, e) == NIB_ERR_NOT_FOUND)
        nib_buf_puts(&path, ":memory:"); /* a user without a home */
    if (path.failed || !path.len) st = s->p.store ? nib_fail_nomem(e, 1, "a path") : e->code;
    if (st == NIB_OK) st = nib_store_open(&w->store, path.data, e);
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
