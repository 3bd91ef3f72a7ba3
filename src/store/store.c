/* The file of conversations: SQLite with a write-ahead log.
 *
 * A transaction is in the log before a call returns, and the system writes the log out even when
 * the process is killed: so what was shown after a call is not lost. (Only a crash of the machine
 * itself can take the last moments, as the log is not forced to the disk with each piece.)
 *
 * Full-text search has a table of its own: a message's row is written when the message is whole, a
 * conversation's title stands there under its id made negative. */
#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include "store/internal.h"

enum { SCHEMA = 1, WAIT_MS = 5000 };

static const char schema[] =
    "CREATE TABLE talks (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, system TEXT,"
    " model TEXT, temp REAL NOT NULL DEFAULT -1, think INTEGER NOT NULL DEFAULT 0,"
    " retention INTEGER NOT NULL DEFAULT -1, created REAL NOT NULL, updated REAL NOT NULL,"
    " leaf INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX talks_updated ON talks(updated);"
    "CREATE TABLE turns (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " talk INTEGER NOT NULL REFERENCES talks(id) ON DELETE CASCADE, parent INTEGER NOT NULL,"
    " role TEXT NOT NULL, content TEXT NOT NULL, thinking TEXT, model TEXT, finish TEXT,"
    " error TEXT, state INTEGER NOT NULL, n_prompt INTEGER NOT NULL DEFAULT 0,"
    " n_cached INTEGER NOT NULL DEFAULT 0, n_generated INTEGER NOT NULL DEFAULT 0,"
    " seconds REAL NOT NULL DEFAULT 0, created REAL NOT NULL);"
    "CREATE INDEX turns_parent ON turns(talk, parent);"
    "CREATE INDEX turns_growing ON turns(state) WHERE state = 1;"
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);"
    "CREATE VIRTUAL TABLE words USING fts5(text, talk UNINDEXED,"
    " tokenize = 'unicode61 remove_diacritics 2');"
    "PRAGMA user_version = 1;";

/* ---- statements ---- */

#undef store_fail
nib_status store_fail(nib_store *s, nib_error *e) {
    int code = sqlite3_errcode(s->db) & 0xff;
    nib_status st = code == SQLITE_NOMEM                              ? NIB_ERR_NOMEM
                    : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? NIB_ERR_FORMAT
                                                                      : NIB_ERR_IO;
    return nib_fail(e, st, "%s: %s", s->path, sqlite3_errmsg(s->db));
}
#define store_fail(...) nib_failed(store_fail(__VA_ARGS__))

nib_status store_query(nib_store *s, struct sqlite3_stmt **out, nib_error *e, const char *sql,
                       const char *types, ...) {
    size_t i = 0;
    while (i < s->n_statements && s->statements[i].sql != sql) i++;
    if (i == s->n_statements) {
        if (i == NIB_ARRAY_LEN(s->statements))
            return nib_fail(e, NIB_ERR_INTERNAL, "too many kinds of statements");
        if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i].stmt,
                               NULL))
            return store_fail(s, e);
        s->statements[i].sql = sql;
        s->n_statements++;
    }
    sqlite3_stmt *q = s->statements[i].stmt;
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    va_list ap;
    va_start(ap, types);
    int bad = 0;
    for (int k = 0; types[k] && !bad; k++) {
        const char *text;
        switch (types[k]) {
        case 'i': bad = sqlite3_bind_int64(q, k + 1, va_arg(ap, int64_t)); break;
        case 'd': bad = sqlite3_bind_double(q, k + 1, va_arg(ap, double)); break;
        default: /* 's' */
            text = va_arg(ap, const char *);
            if (text) bad = sqlite3_bind_text(q, k + 1, text, -1, SQLITE_STATIC);
        }
    }
    va_end(ap);
    if (bad) return store_fail(s, e);
    *out = q;
    return NIB_OK;
}

nib_status store_step(nib_store *s, struct sqlite3_stmt *q, bool *row, nib_error *e) {
    int r = sqlite3_step(q);
    *row = r == SQLITE_ROW;
    if (r == SQLITE_ROW) return NIB_OK;
    nib_status st = r == SQLITE_DONE ? NIB_OK : store_fail(s, e);
    sqlite3_reset(q);
    return st;
}

nib_status store_do(nib_store *s, struct sqlite3_stmt *q, nib_error *e) {
    bool row;
    NIB_TRY(store_step(s, q, &row, e));
    sqlite3_reset(q);
    return NIB_OK;
}

nib_status store_column(struct sqlite3_stmt *q, int column, char **out, nib_error *e) {
    const char *text = (const char *)sqlite3_column_text(q, column);
    *out = NULL;
    if (!text) return NIB_OK;
    size_t n = (size_t)sqlite3_column_bytes(q, column);
    if (!(*out = nib_strndup(text, n))) return nib_fail_nomem(e, n, "a conversation");
    return NIB_OK;
}

nib_status store_exec(nib_store *s, const char *sql, nib_error *e) {
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) ? store_fail(s, e) : NIB_OK;
}

nib_status store_begin(nib_store *s, nib_error *e) {
    return store_exec(s, "BEGIN IMMEDIATE", e);
}

nib_status store_end(nib_store *s, nib_status st, nib_error *e) {
    if (st == NIB_OK) st = store_exec(s, "COMMIT", e);
    if (st != NIB_OK) sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

double store_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- opening ---- */

static nib_status make_folders(char *path, nib_error *e) {
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        int bad = mkdir(path, 0700) && errno != EEXIST ? errno : 0;
        if (bad) nib_fail(e, NIB_ERR_IO, "cannot make the folder '%s': %s", path, strerror(bad));
        *p = '/';
        if (bad) return NIB_ERR_IO;
    }
    return NIB_OK;
}

nib_status nib_store_default_path(nib_buf *out, nib_error *e) {
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    nib_buf_clear(out);
    if (data && *data == '/')
        nib_buf_printf(out, "%s/nib/conversations.db", data);
    else if (home && *home)
        nib_buf_printf(out, "%s/.local/share/nib/conversations.db", home);
    else
        return nib_fail(e, NIB_ERR_NOT_FOUND,
                        "no place for conversations: neither XDG_DATA_HOME nor HOME is set");
    if (out->failed) return nib_fail_nomem(e, 1, "a path");
    return make_folders(out->data, e);
}

static nib_status random_secret(nib_store *s, nib_error *e) {
    uint64_t secret[2] = {nib_entropy(), nib_entropy()};
    sqlite3_stmt *q;
    NIB_TRY(store_query(s, &q, e, "INSERT INTO secrets VALUES ('pages', ?)", ""));
    if (sqlite3_bind_blob(q, 1, secret, sizeof secret, SQLITE_TRANSIENT)) return store_fail(s, e);
    return store_do(s, q, e);
}

static nib_status prepare_schema(nib_store *s, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_begin(s, e)); /* one process at a time makes the tables */
    nib_status st = store_query(s, &q, e, "PRAGMA user_version", "");
    if (st == NIB_OK) st = store_step(s, q, &row, e);
    int64_t found = st == NIB_OK && row ? sqlite3_column_int64(q, 0) : 0;
    if (st == NIB_OK) sqlite3_reset(q);
    if (st == NIB_OK && found > SCHEMA)
        st = nib_fail(e, NIB_ERR_UNSUPPORTED,
                      "%s: conversations of a newer nib (version %lld, this one knows %d)", s->path,
                      (long long)found, SCHEMA);
    if (st == NIB_OK && found == 0) {
        st = store_exec(s, schema, e);
        if (st == NIB_OK) st = random_secret(s, e);
    }
    return store_end(s, st, e);
}

nib_status nib_store_open(nib_store **out, const char *path, nib_error *e) {
    nib_store *s = nib_calloc(1, sizeof *s);
    if (!s || !(s->path = nib_strdup(path))) {
        nib_free(s);
        return nib_fail_nomem(e, sizeof *s, "the conversations");
    }
    mode_t before = umask(0077); /* what people said is nobody else's business */
    int bad = sqlite3_open_v2(
        path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    nib_status st = NIB_OK;
    if (bad) st = s->db ? store_fail(s, e) : nib_fail_nomem(e, 1, "the conversations");
    if (st == NIB_OK) {
        sqlite3_busy_timeout(s->db, WAIT_MS);
        st = store_exec(s,
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                        "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;"
                        "PRAGMA trusted_schema = OFF; PRAGMA cache_size = -1024;",
                        e);
    }
    if (st == NIB_OK) st = prepare_schema(s, e);
    umask(before);
    if (st == NIB_OK)
        *out = s;
    else
        nib_store_close(s);
    return st;
}

void nib_store_close(nib_store *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_statements; i++) sqlite3_finalize(s->statements[i].stmt);
    sqlite3_close(s->db);
    nib_free(s->path);
    nib_free(s);
}

nib_status nib_store_secret(nib_store *s, uint8_t secret[16], nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e, "SELECT value FROM secrets WHERE name = 'pages'", ""));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row || sqlite3_column_bytes(q, 0) != 16) {
        if (row) sqlite3_reset(q);
        return nib_fail(e, NIB_ERR_FORMAT, "%s: the secret is missing", s->path);
    }
    memcpy(secret, sqlite3_column_blob(q, 0), 16);
    sqlite3_reset(q);
    return NIB_OK;
}
