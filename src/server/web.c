/* What the pages keep: the conversations, and the key that their forms' tokens are made with. */
#include "server/web.h"

static bool talk_lives(void *arg, int64_t id) {
    nib_talk talk;
    nib_error e;
    nib_status s = nib_talk_get(arg, id, &talk, &e);
    if (s == NIB_OK) nib_talk_free(&talk);
    return s != NIB_ERR_NOT_FOUND;
}

/* Conversations do without a cache on disk when there can be none. */
static void open_kv(nib_server *s, const char *path) {
    nib_web *w = s->web;
    nib_buf folder = {0};
    nib_error e;
    if (strcmp(path, ":memory:") == 0) return;
    nib_buf_printf(&folder, "%s-kv", path);
    nib_status st = folder.failed
                        ? nib_fail_nomem(&e, 1, "a path")
                        : nib_kvdisk_open(&w->kv, folder.data, w->secret, s->p.kv_disk, &e);
    nib_buf_free(&folder);
    if (st == NIB_OK)
        nib_kvdisk_sweep(w->kv, talk_lives, w->store);
    else
        nib_log(NIB_LOG_WARN, "conversations' caches are not kept on disk: %s", e.message);
}

static bool go_on(void *arg, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    return !nib_locals_quit(arg);
}

void nib_web_attach(nib_server *s, nib_engine *en) {
    nib_kvdisk *kv = s->web->kv;
    nib_error e;
    if (!kv || !s->p.kv_disk || !nib_model_get_info(nib_engine_model(en))->causal) return;
    if (nib_kvdisk_attach(kv, en, go_on, s, &e) != NIB_OK)
        nib_log(NIB_LOG_WARN, "conversations' caches are not kept on disk: %s", e.message);
}

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
        nib_buf_clear(&path);
        nib_buf_puts(&path, ":memory:");
        st = nib_store_open(&w->store, ":memory:", e);
    }
    if (st == NIB_OK) st = nib_store_recover(w->store, e);
    if (st == NIB_OK) st = nib_store_secret(w->store, w->secret, e);
    s->web = w;
    if (st == NIB_OK) open_kv(s, path.data);
    nib_buf_free(&path);
    if (st == NIB_OK) return NIB_OK;
    nib_web_close(s);
    return nib_fail_in(e, st, "conversations (--store FILE keeps them elsewhere)");
}

void nib_web_close(nib_server *s) {
    if (!s->web) return;
    if (s->web->store) web_replies_end(s);
    nib_kvdisk_close(s->web->kv);
    nib_store_close(s->web->store);
    nib_free(s->web);
    s->web = NULL;
}
