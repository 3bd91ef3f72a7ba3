/* Conversations as a list: made, found, named, deleted. */
#include <sqlite3.h>
#include "store/internal.h"

void nib_talk_free(nib_talk *t) {
    nib_free(t->title);
    nib_free(t->system);
    nib_free(t->model);
    *t = (nib_talk){0};
}

static nib_status index_title(nib_store *s, int64_t id, const char *title, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_query(s, &q, e, "REPLACE INTO words(rowid, text, talk) VALUES (?, ?, ?)", "isi",
                        -id, title, id));
    return store_do(s, q, e);
}

nib_status nib_talk_new(nib_store *s, const char *title, int64_t *id, nib_error *e) {
    sqlite3_stmt *q;
    int64_t made = 0;
    double now = store_now();
    NIB_TRY(store_begin(s, e));
    nib_status st =
        store_query(s, &q, e, "INSERT INTO talks(title, created, updated) VALUES (?, ?, ?)", "sdd",
                    title, now, now);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK) {
        made = sqlite3_last_insert_rowid(s->db);
        st = index_title(s, made, title, e);
    }
    NIB_TRY(store_end(s, st, e));
    *id = made;
    return NIB_OK;
}

static nib_status no_talk(int64_t id, nib_error *e) {
    return nib_fail(e, NIB_ERR_NOT_FOUND, "there is no conversation %lld", (long long)id);
}

nib_status nib_talk_get(nib_store *s, int64_t id, nib_talk *out, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    nib_talk t = {.id = id};
    NIB_TRY(
        store_query(s, &q, e,
                    "SELECT title, system, model, temp, think, retention, created, updated, leaf"
                    " FROM talks WHERE id = ?",
                    "i", id));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row) return no_talk(id, e);
    nib_status st = store_column(q, 0, &t.title, e);
    if (st == NIB_OK) st = store_column(q, 1, &t.system, e);
    if (st == NIB_OK) st = store_column(q, 2, &t.model, e);
    t.temp = sqlite3_column_double(q, 3);
    t.think = sqlite3_column_int(q, 4);
    t.retention = sqlite3_column_int(q, 5);
    t.created = sqlite3_column_double(q, 6);
    t.updated = sqlite3_column_double(q, 7);
    t.leaf = sqlite3_column_int64(q, 8);
    sqlite3_reset(q);
    if (st == NIB_OK)
        *out = t;
    else
        nib_talk_free(&t);
    return st;
}

nib_status nib_talk_find(nib_store *s, const char *title, int64_t *id, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e,
                        "SELECT id FROM talks WHERE title = ? ORDER BY updated DESC LIMIT 1", "s",
                        title));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row)
        return nib_fail(e, NIB_ERR_NOT_FOUND, "there is no conversation named '%.200s'", title);
    *id = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return NIB_OK;
}

nib_status nib_talk_set(nib_store *s, const nib_talk *t, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_begin(s, e));
    nib_status st = store_query(s, &q, e,
                                "UPDATE talks SET title = ?, system = ?, model = ?, temp = ?,"
                                " think = ?, retention = ? WHERE id = ?",
                                "sssdiii", t->title, t->system, t->model, t->temp,
                                (int64_t)t->think, (int64_t)t->retention, t->id);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK && sqlite3_changes(s->db) == 0) st = no_talk(t->id, e);
    if (st == NIB_OK) st = index_title(s, t->id, t->title, e);
    return store_end(s, st, e);
}

nib_status nib_talk_delete(nib_store *s, int64_t id, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_begin(s, e));
    nib_status st = store_query(s, &q, e,
                                "DELETE FROM words WHERE rowid = -?1 OR rowid IN"
                                " (SELECT id FROM turns WHERE talk = ?1)",
                                "i", id);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK) st = store_query(s, &q, e, "DELETE FROM turns WHERE talk = ?", "i", id);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK) st = store_query(s, &q, e, "DELETE FROM talks WHERE id = ?", "i", id);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK && sqlite3_changes(s->db) == 0) st = no_talk(id, e);
    return store_end(s, st, e);
}

/* ---- lists ---- */

/* What a person typed as a query of FTS5: every word in quotes, so that none is an operator, and
 * the beginning of a longer word too. */
static bool put_query(nib_buf *b, const char *words) {
    for (const char *p = words; *p;) {
        p += strspn(p, " \t\r\n");
        size_t n = strcspn(p, " \t\r\n");
        if (!n) break;
        nib_buf_puts(b, b->len ? " \"" : "\"");
        for (size_t i = 0; i < n; i++) {
            if (p[i] == '"') nib_buf_putc(b, '"');
            nib_buf_putc(b, p[i]);
        }
        nib_buf_puts(b, "\"*");
        p += n;
    }
    return !b->failed;
}

/* A conversation may be found many times, once for each of its messages: the best one counts. */
static nib_status search(nib_store *s, const char *query, int64_t limit, nib_talk_fn fn, void *arg,
                         nib_error *e) {
    enum { MOST = 200 }; /* messages looked at */
    int64_t seen[MOST];
    size_t n_seen = 0;
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e,
                        "SELECT w.talk, t.title, t.updated,"
                        " (SELECT count(*) FROM turns WHERE turns.talk = t.id),"
                        " snippet(words, 0, char(1), char(2), '...', 12)"
                        " FROM words w JOIN talks t ON t.id = w.talk"
                        " WHERE words MATCH ? ORDER BY w.rank LIMIT 200",
                        "s", query));
    for (;;) {
        NIB_TRY(store_step(s, q, &row, e));
        if (!row) return NIB_OK;
        nib_talk_line line = {
            .id = sqlite3_column_int64(q, 0),
            .title = (const char *)sqlite3_column_text(q, 1),
            .updated = sqlite3_column_double(q, 2),
            .n_messages = sqlite3_column_int64(q, 3),
            .snippet = (const char *)sqlite3_column_text(q, 4),
        };
        bool known = false;
        for (size_t i = 0; i < n_seen; i++) known |= seen[i] == line.id;
        if (known) continue;
        seen[n_seen++] = line.id;
        if (!fn(arg, &line) || (int64_t)n_seen == limit || n_seen == MOST) break;
    }
    sqlite3_reset(q);
    return NIB_OK;
}

nib_status nib_talk_list(nib_store *s, const char *words, int64_t limit, nib_talk_fn fn, void *arg,
                         nib_error *e) {
    nib_buf query = {.max = 1 << 16};
    if (words && !put_query(&query, words)) {
        nib_buf_free(&query);
        return nib_fail(e, NIB_ERR_LIMIT, "that is too much to search for");
    }
    if (query.len) {
        nib_status st = search(s, query.data, limit, fn, arg, e);
        nib_buf_free(&query);
        return st;
    }
    nib_buf_free(&query);
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e,
                        "SELECT id, title, updated,"
                        " (SELECT count(*) FROM turns WHERE turns.talk = talks.id)"
                        " FROM talks ORDER BY updated DESC, id DESC LIMIT ?",
                        "i", limit));
    for (;;) {
        NIB_TRY(store_step(s, q, &row, e));
        if (!row) return NIB_OK;
        nib_talk_line line = {
            .id = sqlite3_column_int64(q, 0),
            .title = (const char *)sqlite3_column_text(q, 1),
            .updated = sqlite3_column_double(q, 2),
            .n_messages = sqlite3_column_int64(q, 3),
        };
        if (!fn(arg, &line)) break;
    }
    sqlite3_reset(q);
    return NIB_OK;
}
