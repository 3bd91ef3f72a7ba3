/* Messages: a tree for each conversation. */
#include <sqlite3.h>
#include "store/internal.h"

static void free_turn(nib_turn *t) {
    nib_free(t->role);
    nib_free(t->content);
    nib_free(t->thinking);
    nib_free(t->model);
    nib_free(t->finish);
    nib_free(t->error);
}

void nib_turns_free(nib_turns *t) {
    for (size_t i = 0; i < t->n; i++) free_turn(&t->v[i]);
    nib_free(t->v);
    *t = (nib_turns){0};
}

static nib_status push(nib_turns *t, const nib_turn *turn, nib_error *e) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        nib_turn *v = nib_realloc(t->v, cap * sizeof *v);
        if (!v) return nib_fail_nomem(e, cap * sizeof *v, "a conversation");
        t->v = v;
        t->cap = cap;
    }
    t->v[t->n++] = *turn;
    return NIB_OK;
}

/* ---- writing ---- */

static nib_status touch(nib_store *s, int64_t talk, int64_t leaf, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_query(s, &q, e, "UPDATE talks SET leaf = ?, updated = ? WHERE id = ?", "idi",
                        leaf, store_now(), talk));
    NIB_TRY(store_do(s, q, e));
    if (sqlite3_changes(s->db) == 0)
        return nib_fail(e, NIB_ERR_NOT_FOUND, "there is no conversation %lld", (long long)talk);
    return NIB_OK;
}

static nib_status index_turn(nib_store *s, int64_t id, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_query(s, &q, e,
                        "REPLACE INTO words(rowid, text, talk)"
                        " SELECT id, content, talk FROM turns WHERE id = ?",
                        "i", id));
    return store_do(s, q, e);
}

/* Inside a transaction. */
static nib_status insert(nib_store *s, int64_t talk, int64_t parent, const nib_message *m,
                         const char *model, nib_turn_state state, int64_t *id, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_query(s, &q, e,
                        "INSERT INTO turns(talk, parent, role, content, thinking, model, state,"
                        " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        "iissssid", talk, parent, m->role, m->content, m->thinking, model,
                        (int64_t)state, store_now()));
    NIB_TRY(store_do(s, q, e));
    *id = sqlite3_last_insert_rowid(s->db);
    return state == NIB_TURN_GROWING ? NIB_OK : index_turn(s, *id, e);
}

nib_status nib_turn_add(nib_store *s, int64_t talk, int64_t parent, const char *role,
                        const char *content, const char *model, nib_turn_state state, int64_t *id,
                        nib_error *e) {
    sqlite3_stmt *q;
    bool row = true;
    int64_t made = 0;
    nib_message m = {(char *)role, (char *)content, NULL};
    NIB_TRY(store_begin(s, e));
    nib_status st = NIB_OK;
    if (parent) {
        st = store_query(s, &q, e, "SELECT 1 FROM turns WHERE id = ? AND talk = ?", "ii", parent,
                         talk);
        if (st == NIB_OK) st = store_step(s, q, &row, e);
        if (st == NIB_OK && row) sqlite3_reset(q);
        if (st == NIB_OK && !row)
            st = nib_fail(e, NIB_ERR_NOT_FOUND, "there is no message %lld in conversation %lld",
                          (long long)parent, (long long)talk);
    }
    if (st == NIB_OK) st = insert(s, talk, parent, &m, model, state, &made, e);
    if (st == NIB_OK) st = touch(s, talk, made, e);
    NIB_TRY(store_end(s, st, e));
    *id = made;
    return NIB_OK;
}

nib_status nib_turn_grow(nib_store *s, int64_t id, const char *content, const char *thinking,
                         nib_error *e) {
    sqlite3_stmt *q;
    if (content && !thinking)
        NIB_TRY(store_query(s, &q, e, "UPDATE turns SET content = content || ? WHERE id = ?", "si",
                            content, id));
    else
        NIB_TRY(store_query(s, &q, e,
                            "UPDATE turns SET content = content || coalesce(?1, ''),"
                            " thinking = coalesce(thinking, '') || coalesce(?2, '') WHERE id = ?3",
                            "ssi", content, thinking, id));
    return store_do(s, q, e);
}

nib_status nib_turn_finish(nib_store *s, const nib_turn *t, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_begin(s, e));
    nib_status st =
        store_query(s, &q, e,
                    "UPDATE turns SET state = ?, content = ?, thinking = ?, model = ?, finish = ?,"
                    " error = ?, n_prompt = ?, n_cached = ?, n_generated = ?, seconds = ?"
                    " WHERE id = ?",
                    "isssssiiidi", (int64_t)t->state, t->content, t->thinking, t->model, t->finish,
                    t->error, t->n_prompt, t->n_cached, t->n_generated, t->seconds, t->id);
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK) st = index_turn(s, t->id, e);
    return store_end(s, st, e);
}

nib_status nib_store_recover(nib_store *s, nib_error *e) {
    sqlite3_stmt *q;
    NIB_TRY(store_begin(s, e));
    nib_status st = store_query(s, &q, e,
                                "REPLACE INTO words(rowid, text, talk)"
                                " SELECT id, content, talk FROM turns WHERE state = 1",
                                "");
    if (st == NIB_OK) st = store_do(s, q, e);
    if (st == NIB_OK)
        st = store_query(s, &q, e,
                         "UPDATE turns SET finish = 'interrupted',"
                         " error = 'nib ended while this was being written.',"
                         " state = CASE WHEN content = '' THEN 2 ELSE 0 END WHERE state = 1",
                         "");
    if (st == NIB_OK) st = store_do(s, q, e);
    return store_end(s, st, e);
}

/* ---- reading ---- */

static nib_status read_turn(sqlite3_stmt *q, nib_turn *t, nib_error *e) {
    *t = (nib_turn){
        .id = sqlite3_column_int64(q, 0),
        .talk = sqlite3_column_int64(q, 1),
        .parent = sqlite3_column_int64(q, 2),
        .state = (nib_turn_state)sqlite3_column_int(q, 9),
        .n_prompt = sqlite3_column_int64(q, 10),
        .n_cached = sqlite3_column_int64(q, 11),
        .n_generated = sqlite3_column_int64(q, 12),
        .seconds = sqlite3_column_double(q, 13),
        .created = sqlite3_column_double(q, 14),
    };
    char **texts[] = {&t->role, &t->content, &t->thinking, &t->model, &t->finish, &t->error};
    nib_status st = NIB_OK;
    for (size_t i = 0; i < NIB_ARRAY_LEN(texts) && st == NIB_OK; i++)
        st = store_column(q, 3 + (int)i, texts[i], e);
    if (st != NIB_OK) free_turn(t);
    return st;
}

/* Where t stands among the messages with its parent. */
static nib_status read_siblings(nib_store *s, nib_turn *t, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e, "SELECT id FROM turns WHERE talk = ? AND parent = ? ORDER BY id",
                        "ii", t->talk, t->parent));
    for (;;) {
        NIB_TRY(store_step(s, q, &row, e));
        if (!row) return NIB_OK;
        int64_t id = sqlite3_column_int64(q, 0);
        t->n_siblings++;
        if (id == t->id) t->sibling = t->n_siblings;
        if (id < t->id) t->previous_id = id;
        if (id > t->id && !t->next_id) t->next_id = id;
    }
}

nib_status nib_turn_get(nib_store *s, int64_t id, nib_turns *out, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    nib_turn t;
    NIB_TRY(store_query(s, &q, e,
                        "SELECT id, talk, parent, role, content, thinking, model, finish, error,"
                        " state, n_prompt, n_cached, n_generated, seconds, created"
                        " FROM turns WHERE id = ?",
                        "i", id));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row) return nib_fail(e, NIB_ERR_NOT_FOUND, "there is no message %lld", (long long)id);
    nib_status st = read_turn(q, &t, e);
    sqlite3_reset(q);
    NIB_TRY(st);
    st = read_siblings(s, &t, e);
    nib_turns one = {0};
    if (st == NIB_OK) st = push(&one, &t, e);
    if (st != NIB_OK) {
        free_turn(&t);
        return st;
    }
    *out = one;
    return NIB_OK;
}

nib_status nib_turn_path(nib_store *s, int64_t talk, int64_t leaf, nib_turns *out, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    nib_turns turns = {0};
    /* depth: a path cannot be longer than the tree, whatever the file says */
    NIB_TRY(store_query(s, &q, e,
                        "WITH RECURSIVE up(id, parent, depth) AS ("
                        " SELECT id, parent, 0 FROM turns WHERE talk = ?1 AND id ="
                        "  CASE WHEN ?2 = 0 THEN (SELECT leaf FROM talks WHERE id = ?1) ELSE ?2 END"
                        " UNION ALL SELECT t.id, t.parent, depth + 1 FROM turns t JOIN up"
                        " ON t.id = up.parent WHERE t.talk = ?1 AND depth < 100000)"
                        " SELECT t.id, t.talk, t.parent, role, content, thinking, model, finish,"
                        " error, state, n_prompt, n_cached, n_generated, seconds, created"
                        " FROM up JOIN turns t ON t.id = up.id ORDER BY depth DESC",
                        "ii", talk, leaf));
    nib_status st;
    for (;;) {
        nib_turn t;
        st = store_step(s, q, &row, e);
        if (st != NIB_OK || !row) break;
        st = read_turn(q, &t, e);
        if (st == NIB_OK && (st = push(&turns, &t, e)) != NIB_OK) free_turn(&t);
        if (st != NIB_OK) {
            sqlite3_reset(q);
            break;
        }
    }
    for (size_t i = 0; i < turns.n && st == NIB_OK; i++) st = read_siblings(s, &turns.v[i], e);
    if (st == NIB_OK)
        *out = turns;
    else
        nib_turns_free(&turns);
    return st;
}

nib_status nib_turn_choose(nib_store *s, int64_t id, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    int64_t talk = 0, leaf = id;
    NIB_TRY(store_query(s, &q, e, "SELECT talk FROM turns WHERE id = ?", "i", id));
    NIB_TRY(store_step(s, q, &row, e));
    if (!row) return nib_fail(e, NIB_ERR_NOT_FOUND, "there is no message %lld", (long long)id);
    talk = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    /* children are newer than their parents, so this ends whatever the file says */
    NIB_TRY(store_query(s, &q, e,
                        "WITH RECURSIVE down(id) AS (SELECT ?1 UNION ALL"
                        " SELECT (SELECT max(t.id) FROM turns t WHERE t.talk = ?2"
                        "  AND t.parent = down.id AND t.id > down.id) FROM down"
                        " WHERE down.id IS NOT NULL) SELECT max(id) FROM down",
                        "ii", id, talk));
    NIB_TRY(store_step(s, q, &row, e));
    if (row) {
        leaf = sqlite3_column_int64(q, 0);
        sqlite3_reset(q);
    }
    NIB_TRY(store_query(s, &q, e, "UPDATE talks SET leaf = ? WHERE id = ?", "ii", leaf, talk));
    return store_do(s, q, e);
}

/* ---- as plain lists of messages ---- */

/* The newest child of parent that says the same as m; 0: none. */
static nib_status find_child(nib_store *s, int64_t talk, int64_t parent, const nib_message *m,
                             int64_t *id, nib_error *e) {
    sqlite3_stmt *q;
    bool row;
    NIB_TRY(store_query(s, &q, e,
                        "SELECT max(id) FROM turns WHERE talk = ? AND parent = ? AND role = ?"
                        " AND content = ? AND state <> 1",
                        "iiss", talk, parent, m->role, m->content));
    NIB_TRY(store_step(s, q, &row, e));
    *id = row ? sqlite3_column_int64(q, 0) : 0;
    if (row) sqlite3_reset(q);
    return NIB_OK;
}

nib_status nib_turn_sync(nib_store *s, int64_t talk, const nib_messages *m, const char *model,
                         nib_error *e) {
    int64_t at = 0;
    NIB_TRY(store_begin(s, e));
    nib_status st = NIB_OK;
    for (size_t i = 0; i < m->n && st == NIB_OK; i++) {
        const nib_message *one = &m->v[i];
        int64_t child = 0;
        bool reply = strcmp(one->role, "assistant") == 0;
        st = find_child(s, talk, at, one, &child, e);
        if (st == NIB_OK && !child)
            st = insert(s, talk, at, one, reply ? model : NULL, NIB_TURN_WHOLE, &child, e);
        at = child;
    }
    if (st == NIB_OK) st = touch(s, talk, at, e);
    return store_end(s, st, e);
}

nib_status nib_turns_messages(const nib_turns *t, nib_messages *out, nib_error *e) {
    nib_messages_truncate(out, 0);
    for (size_t i = 0; i < t->n; i++) {
        const nib_turn *v = &t->v[i];
        if (v->state == NIB_TURN_FAILED && !*v->content) continue;
        NIB_TRY(nib_messages_add(out, v->role, v->content, v->thinking, e));
    }
    return NIB_OK;
}
