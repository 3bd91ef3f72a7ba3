/* Responses that an API remembers, so that a program can go on from one, also after a restart.
 *
 * Each row is whole: the conversation up to and with the reply, and the reply's JSON. What was not
 * used for longest goes first when there are too many, and what nobody used for a month goes. The
 * table is made when it is first needed, beside the conversations. */
#include <sqlite3.h>
#include "store/internal.h"

static const char table[] =
    "CREATE TABLE IF NOT EXISTS responses (id TEXT NOT NULL UNIQUE, client INTEGER NOT NULL,"
    " used REAL NOT NULL, bytes INTEGER NOT NULL, n_before INTEGER NOT NULL,"
    " messages TEXT NOT NULL, body TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS responses_used ON responses(used, bytes);";

void nib_response_free(nib_response *r) {
    nib_free(r->id);
    nib_free(r->messages);
    nib_free(r->body);
    *r = (nib_response){0};
}

static nib_status delete_old(nib_store *s, nib_error *e) {
    static const double month = NIB_RESPONSES_DAYS * 86400.0;
    sqlite3_stmt *q;
    NIB_TRY(
        store_query(s, &q, e, "DELETE FROM responses WHERE used < ?", "d", store_now() - month));
    NIB_TRY(store_do(s, q, e));
    NIB_TRY(store_query(s, &q, e,
                        "DELETE FROM responses WHERE rowid IN (SELECT at FROM"
                        " (SELECT rowid AS at, row_number() OVER newest AS n,"
                        "  sum(bytes) OVER newest AS total FROM responses"
                        "  WINDOW newest AS (ORDER BY used DESC, rowid DESC"
                        "   ROWS UNBOUNDED PRECEDING))"
                        " WHERE n > ? OR total > ?)",
                        "ii", (int64_t)NIB_RESPONSES_MOST, (int64_t)NIB_RESPONSES_BYTES));
    return store_do(s, q, e);
}

nib_status nib_response_put(nib_store *s, const nib_response *r, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_begin(s, e));
    nib_status st = store_exec(s, table, e);
    if (st == NIB_OK)
        st = store_query(s, &q, e,
                         "REPLACE INTO responses(id, client, used, bytes, n_before, messages, body)"
                         " VALUES (?, ?, ?, ?, ?, ?, ?)",
                         "sidiiss", r->id, (int64_t)r->client, store_now(),
                         (int64_t)(strlen(r->messages) + strlen(r->body)), r->n_before, r->messages,
                         r->body);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK) st = delete_old(s, e);
    return store_end(s, st, e);
}

static nib_status not_found(const char *id, nib_error *e) {
    return nib_fail(
        e, NIB_ERR_NOT_FOUND,
        "Response with id '%.60s' not found: it was never stored, or has been forgotten", id);
}

nib_status nib_response_get(nib_store *s, const char *id, uint64_t client, nib_response *out,
                            nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    nib_response r = {.client = client};
    NIB_TRY(store_exec(s, table, e));
    NIB_TRY(store_query(s, &q, e, "UPDATE responses SET used = ? WHERE id = ? AND client = ?",
                        "dsi", store_now(), id, (int64_t)client));
    NIB_TRY(store_do(s, q, e));
    NIB_TRY(store_query(s, &q, e,
                        "SELECT id, n_before, messages, body FROM responses"
                        " WHERE id = ? AND client = ?",
                        "si", id, (int64_t)client));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row) return not_found(id, e);
    r.n_before = sqlite3_column_int64(q, 1);
    nib_status st = store_column(q, 0, &r.id, e);
    if (st == NIB_OK) st = store_column(q, 2, &r.messages, e);
    if (st == NIB_OK) st = store_column(q, 3, &r.body, e);
    sqlite3_reset(q);
    if (st == NIB_OK)
        *out = r;
    else
        nib_response_free(&r);
    return st;
}

nib_status nib_response_delete(nib_store *s, const char *id, uint64_t client, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_exec(s, table, e));
    NIB_TRY(store_query(s, &q, e, "DELETE FROM responses WHERE id = ? AND client = ?", "si", id,
                        (int64_t)client));
    NIB_TRY(store_do(s, q, e));
    return sqlite3_changes(s->db) ? NIB_OK : not_found(id, e);
}
