/* /save NAME, /load NAME, /list: conversations in the store that the pages of 'nib serve' show too.
 */
#include <time.h>
#include "cli/repl.h"
#include "store/store.h"

bool nib_repl_is_name(const char *arg) {
    return *arg && !strpbrk(arg, "./");
}

uint64_t nib_repl_kv_disk = NIB_KVDISK_AUTO;

static nib_status open_store(nib_store **s, nib_error *e) {
    nib_buf path = {0};
    nib_status st = nib_store_default_path(&path, e);
    if (st == NIB_OK) st = nib_store_open(s, path.data, e);
    nib_buf_free(&path);
    return st;
}

static bool on_hash(void *arg, uint64_t done, uint64_t total) {
    nib_progress_show(arg, done, total);
    return !atomic_load(&nib_cancel);
}

/* The engine's page store is the one that 'nib serve' has beside the same conversations. */
static nib_status attach(nib_repl *r, nib_store *store, nib_error *e) {
    nib_buf path = {0};
    uint8_t secret[16];
    nib_status s = NIB_OK;
    if (nib_engine_has_store(r->host.engine)) return NIB_OK;
    if (!r->kv) {
        s = nib_store_default_path(&path, e);
        nib_buf_puts(&path, "-kv");
        if (s == NIB_OK && path.failed) s = nib_fail_nomem(e, 1, "a path");
        if (s == NIB_OK) s = nib_store_secret(store, secret, e);
        if (s == NIB_OK) s = nib_kvdisk_open(&r->kv, path.data, secret, nib_repl_kv_disk, e);
        nib_buf_free(&path);
    }
    if (s != NIB_OK) return s;
    nib_progress bar; /* the first time with this model */
    nib_progress_start(&bar, "Hashing the model", true);
    s = nib_kvdisk_attach(r->kv, r->host.engine, on_hash, &bar, e);
    nib_progress_end(&bar);
    return s;
}

/* What was computed of conversation id goes to disk, or comes from there. Without a disk it is
 * computed again: a loss of time, not an error. */
static void exchange_pages(nib_repl *r, nib_store *store, int64_t id, bool out) {
    nib_error e;
    if (!nib_repl_kv_disk) return;
    if (attach(r, store, &e) != NIB_OK)
        nib_log(NIB_LOG_WARN, "conversations' caches are not kept on disk: %s", e.message);
    else if (out)
        nib_dialog_keep(r->dialog, id);
    else
        nib_dialog_restore(r->dialog, id);
}

nib_status nib_repl_keep(nib_repl *r, const char *name, nib_error *e) {
    nib_store *store;
    nib_talk talk = {0};
    int64_t id;
    const char *model = nib_model_get_info(r->host.model)->name;
    const nib_dialog_params *p = &r->settings.p;
    NIB_TRY(open_store(&store, e));
    nib_status s = nib_talk_find(store, name, &id, e);
    if (s == NIB_ERR_NOT_FOUND) s = nib_talk_new(store, name, &id, e);
    if (s == NIB_OK) s = nib_turn_sync(store, id, nib_dialog_messages(r->dialog), model, e);
    if (s == NIB_OK) s = nib_talk_get(store, id, &talk, e);
    if (s == NIB_OK) {
        nib_talk now = talk;
        now.system = (char *)p->system;
        now.model = (char *)model;
        now.temp = (double)p->sampling.temperature;
        now.think = (int)p->think;
        now.retention = p->retention;
        s = nib_talk_set(store, &now, e);
    }
    if (s == NIB_OK) exchange_pages(r, store, id, true);
    nib_talk_free(&talk);
    nib_store_close(store);
    return s;
}

nib_status nib_repl_resume(nib_repl *r, const char *name, nib_error *e) {
    nib_store *store;
    nib_talk talk = {0};
    nib_turns turns = {0};
    nib_messages messages = {0};
    int64_t id;
    NIB_TRY(open_store(&store, e));
    nib_status s;
    NIB_TRY_OUT(nib_talk_find(store, name, &id, e));
    NIB_TRY_OUT(nib_talk_get(store, id, &talk, e));
    NIB_TRY_OUT(nib_turn_path(store, id, 0, &turns, e));
    NIB_TRY_OUT(nib_turns_messages(&turns, &messages, e));
    nib_dialog_params *p = nib_dialog_params_of(r->dialog), before = *p;
    p->system = talk.system;
    p->retention = talk.retention;
    if (talk.temp >= 0) p->sampling.temperature = (float)talk.temp;
    p->think = talk.think == 1 ? NIB_THINK_ON : talk.think == 2 ? NIB_THINK_OFF : NIB_THINK_AUTO;
    if ((s = nib_dialog_params_changed(r->dialog, e)) != NIB_OK) {
        *p = before;
        goto out;
    }
    s = nib_dialog_set_messages(r->dialog, &messages, e);
    if (s == NIB_OK) exchange_pages(r, store, id, false);
out:
    nib_messages_free(&messages);
    nib_turns_free(&turns);
    nib_talk_free(&talk);
    nib_store_close(store);
    return s;
}

static bool print_line(void *arg, const nib_talk_line *line) {
    const nib_style *st = nib_style_of(stdout);
    char date[32];
    time_t when = (time_t)line->updated;
    struct tm t;
    strftime(date, sizeof date, "%Y-%m-%d %H:%M", localtime_r(&when, &t));
    printf("%s%s%s  %s %s(%lld)%s\n", st->dim, date, st->reset, line->title, st->dim,
           (long long)line->n_messages, st->reset);
    ++*(int *)arg;
    return true;
}

nib_status nib_repl_list(const char *words, nib_error *e) {
    nib_store *store;
    int n = 0;
    NIB_TRY(open_store(&store, e));
    nib_status s = nib_talk_list(store, words, 50, print_line, &n, e);
    nib_store_close(store);
    if (s == NIB_OK && n == 0)
        puts(*words ? "Nothing of that kind is kept." : "Nothing is kept yet: /save NAME does it.");
    return s;
}
