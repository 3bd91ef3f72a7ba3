/* What the store's files share: statements. */
#ifndef NIB_STORE_INTERNAL_H
#define NIB_STORE_INTERNAL_H
#include "store/store.h"
struct sqlite3;
struct sqlite3_stmt;

struct nib_store {
    struct sqlite3 *db;
    char *path;
    struct {
        const char *sql; /* by address: a literal of ours */
        struct sqlite3_stmt *stmt;
    } statements[48];
    size_t n_statements;
};

/* The last failure of SQLite, with the file's name. */
nib_status store_fail(nib_store *s, nib_error *e);
#define store_fail(...) nib_failed(store_fail(__VA_ARGS__))
/* A statement ready to step, prepared once for each literal. types: 'i' int64_t, 'd' double, 's'
 * text, NULL for none, which must live until the statement is done. */
nib_status store_query(nib_store *s, struct sqlite3_stmt **out, nib_error *e, const char *sql,
                       const char *types, ...);
/* *row: there is one more; without one the statement is over. Whoever stops earlier resets it. */
nib_status store_step(nib_store *s, struct sqlite3_stmt *q, bool *row, nib_error *e);
nib_status store_do(nib_store *s, struct sqlite3_stmt *q,
                    nib_error *e); /* rows are of no interest */
nib_status store_column(struct sqlite3_stmt *q, int column, char **out, nib_error *e);
nib_status store_exec(nib_store *s, const char *sql, nib_error *e);
/* A transaction, and its end: kept when st is NIB_OK, else undone. Returns st, or why it failed. */
nib_status store_begin(nib_store *s, nib_error *e);
nib_status store_end(nib_store *s, nib_status st, nib_error *e);
double store_now(void);
#endif
