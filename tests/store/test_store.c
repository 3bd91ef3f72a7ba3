/* Conversations: the tree, lists and search, what a killed process leaves, hostile files, and the
 * written forms. */
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "store/store.h"
#include "testlib.h"

static nib_error e;

static nib_store *memory(void) {
    nib_store *s;
    test_ok(nib_store_open(&s, ":memory:", &e), &e);
    return s;
}

static const char *fresh_path(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    return path;
}

static int64_t add(nib_store *s, int64_t talk, int64_t parent, const char *role, const char *text) {
    int64_t id;
    test_ok(nib_turn_add(s, talk, parent, role, text, NULL, NIB_TURN_WHOLE, &id, &e), &e);
    return id;
}

static void check_path(nib_store *s, int64_t talk, int64_t leaf, const char *expected) {
    nib_turns t;
    nib_buf b = {0};
    nib_buf_puts(&b, "");
    test_ok(nib_turn_path(s, talk, leaf, &t, &e), &e);
    for (size_t i = 0; i < t.n; i++) nib_buf_printf(&b, "%s%s", i ? " > " : "", t.v[i].content);
    assert_string_equal(b.data, expected);
    nib_buf_free(&b);
    nib_turns_free(&t);
}

static void test_tree(void **state) {
    (void)state;
    nib_store *s = memory();
    int64_t talk, other;
    test_ok(nib_talk_new(s, "One", &talk, &e), &e);
    test_ok(nib_talk_new(s, "Two", &other, &e), &e);
    check_path(s, talk, 0, "");
    int64_t q1 = add(s, talk, 0, "user", "q1"), a1 = add(s, talk, q1, "assistant", "a1");
    int64_t q2 = add(s, talk, a1, "user", "q2"), a2 = add(s, talk, q2, "assistant", "a2");
    check_path(s, talk, 0, "q1 > a1 > q2 > a2");
    /* another answer, and another question further up */
    int64_t b1 = add(s, talk, q1, "assistant", "b1");
    check_path(s, talk, 0, "q1 > b1");
    int64_t r1 = add(s, talk, 0, "user", "r1");
    check_path(s, talk, 0, "r1");
    test_ok(nib_turn_choose(s, a1, &e), &e);
    check_path(s, talk, 0, "q1 > a1 > q2 > a2");
    test_ok(nib_turn_choose(s, q1, &e), &e); /* its newest end is under b1 */
    check_path(s, talk, 0, "q1 > b1");
    check_path(s, talk, a2, "q1 > a1 > q2 > a2");
    nib_turns t;
    test_ok(nib_turn_get(s, b1, &t, &e), &e);
    assert_int_equal(t.v[0].sibling, 2);
    assert_int_equal(t.v[0].n_siblings, 2);
    assert_int_equal(t.v[0].previous_id, a1);
    assert_int_equal(t.v[0].next_id, 0);
    nib_turns_free(&t);
    test_ok(nib_turn_get(s, q1, &t, &e), &e);
    assert_int_equal(t.v[0].next_id, r1);
    nib_turns_free(&t);
    /* what does not belong together */
    int64_t id = -1;
    assert_int_equal(nib_turn_add(s, other, q1, "user", "x", NULL, NIB_TURN_WHOLE, &id, &e),
                     NIB_ERR_NOT_FOUND);
    assert_int_equal(nib_turn_add(s, 99, 0, "user", "x", NULL, NIB_TURN_WHOLE, &id, &e) == NIB_OK,
                     false);
    assert_int_equal(id, -1);
    assert_int_equal(nib_turn_get(s, 12345, &t, &e), NIB_ERR_NOT_FOUND);
    assert_int_equal(nib_turn_choose(s, 12345, &e), NIB_ERR_NOT_FOUND);
    check_path(s, other, q1, ""); /* a leaf of another conversation leads nowhere */
    test_ok(nib_talk_delete(s, talk, &e), &e);
    assert_int_equal(nib_talk_delete(s, talk, &e), NIB_ERR_NOT_FOUND);
    assert_int_equal(nib_turn_get(s, q1, &t, &e), NIB_ERR_NOT_FOUND);
    nib_store_close(s);
}

static void test_settings(void **state) {
    (void)state;
    nib_store *s = memory();
    nib_talk t;
    int64_t id, found;
    test_ok(nib_talk_new(s, "First", &id, &e), &e);
    test_ok(nib_talk_get(s, id, &t, &e), &e);
    assert_null(t.system);
    assert_true(t.temp < 0 && t.think == 0 && t.retention < 0 && t.leaf == 0);
    nib_free(t.title);
    t.title = nib_strdup("Zweite 'Fassung'");
    t.system = nib_strdup("Be brief.");
    t.temp = 0.25;
    t.think = 2;
    t.retention = 4;
    test_ok(nib_talk_set(s, &t, &e), &e);
    nib_talk_free(&t);
    test_ok(nib_talk_find(s, "Zweite 'Fassung'", &found, &e), &e);
    assert_int_equal(found, id);
    test_ok(nib_talk_get(s, id, &t, &e), &e);
    assert_string_equal(t.system, "Be brief.");
    assert_true(t.temp == 0.25 && t.think == 2 && t.retention == 4);
    t.id = 77;
    assert_int_equal(nib_talk_set(s, &t, &e), NIB_ERR_NOT_FOUND);
    nib_talk_free(&t);
    assert_int_equal(nib_talk_find(s, "First", &found, &e), NIB_ERR_NOT_FOUND);
    nib_store_close(s);
}

typedef struct lines {
    char text[512];
    int n, most;
} lines;
static bool take(void *arg, const nib_talk_line *l) {
    lines *to = arg;
    size_t at = strlen(to->text);
    snprintf(to->text + at, sizeof to->text - at, "%s%s%s%s", at ? "|" : "", l->title,
             l->snippet ? ": " : "", l->snippet ? l->snippet : "");
    return ++to->n != to->most;
}
static const char *listed(nib_store *s, const char *words, int64_t limit, int most) {
    static lines to;
    to = (lines){.most = most};
    test_ok(nib_talk_list(s, words, limit, take, &to, &e), &e);
    return to.text;
}

static void test_search(void **state) {
    (void)state;
    nib_store *s = memory();
    int64_t a, b, c, m;
    test_ok(nib_talk_new(s, "Garden", &a, &e), &e);
    test_ok(nib_talk_new(s, "Kitchen", &b, &e), &e);
    test_ok(nib_talk_new(s, "Müll", &c, &e), &e);
    add(s, b, 0, "user", "How long do lentils cook?");
    m = add(s, a, 0, "user", "When do I plant tulips?");
    add(s, a, m, "assistant", "Plant tulips in autumn; tulips like the cold.");
    assert_string_equal(listed(s, NULL, 10, 0), "Garden|Kitchen|Müll");
    assert_string_equal(listed(s, "   ", 10, 0), "Garden|Kitchen|Müll");
    assert_string_equal(listed(s, "", 2, 0), "Garden|Kitchen");
    assert_string_equal(listed(s, "", 10, 1), "Garden");
    assert_string_equal(listed(s, "lentil", 10, 0), "Kitchen: How long do \1lentils\2 cook?");
    assert_non_null(strstr(listed(s, "tulips autumn", 10, 0), "\1tulips\2"));
    assert_null(strchr(listed(s, "tulips", 10, 0), '|')); /* once, though found twice */
    assert_string_equal(listed(s, "tulips lentils", 10, 0), "");
    assert_string_equal(listed(s, "muell", 10, 0), "");
    assert_string_equal(listed(s, "mull", 10, 0), "Müll: \1Müll\2");
    /* none of this is query language */
    static const char *const odd[] = {
        "\"",    "\"\"", "a OR", "NOT",        "text:x", "*",     "(",
        "NEAR(", "^",    "-",    "tulips AND", "\x01",   "{a b}", "'; DROP TABLE turns"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(odd); i++) listed(s, odd[i], 10, 0);
    /* growing replies are found when they are whole; other conversations are not touched */
    int64_t g;
    test_ok(nib_turn_add(s, b, 0, "assistant", "", NULL, NIB_TURN_GROWING, &g, &e), &e);
    test_ok(nib_turn_grow(s, g, "Twenty ", NULL, &e), &e);
    test_ok(nib_turn_grow(s, g, "minutes.", "So.", &e), &e);
    assert_string_equal(listed(s, "minutes", 10, 0), "");
    nib_turns t;
    test_ok(nib_turn_get(s, g, &t, &e), &e);
    assert_string_equal(t.v[0].content, "Twenty minutes.");
    assert_string_equal(t.v[0].thinking, "So.");
    assert_int_equal(t.v[0].state, NIB_TURN_GROWING);
    t.v[0].state = NIB_TURN_WHOLE;
    t.v[0].n_generated = 7;
    t.v[0].finish = nib_strdup("stop");
    test_ok(nib_turn_finish(s, &t.v[0], &e), &e);
    nib_turns_free(&t);
    assert_non_null(strstr(listed(s, "minutes", 10, 0), "Kitchen"));
    test_ok(nib_turn_get(s, g, &t, &e), &e);
    assert_int_equal(t.v[0].n_generated, 7);
    assert_string_equal(t.v[0].finish, "stop");
    nib_turns_free(&t);
    test_ok(nib_talk_delete(s, b, &e), &e);
    assert_string_equal(listed(s, "minutes", 10, 0), "");
    assert_string_equal(listed(s, "kitchen", 10, 0), "");
    nib_store_close(s);
}

/* A process writes a reply piece by piece, tells of each when it is kept, and is killed. */
static void test_killed(void **state) {
    (void)state;
    const char *path = fresh_path("killed.db");
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        nib_store *s;
        int64_t talk, id;
        char piece[16];
        if (nib_store_open(&s, path, NULL) || nib_talk_new(s, "t", &talk, NULL) ||
            nib_turn_add(s, talk, 0, "assistant", "", NULL, NIB_TURN_GROWING, &id, NULL))
            _exit(1);
        for (int i = 0;; i++) {
            snprintf(piece, sizeof piece, "%d,", i);
            if (nib_turn_grow(s, id, piece, NULL, NULL)) _exit(1);
            if (write(fd[1], piece, strlen(piece)) < 0) _exit(1);
        }
    }
    close(fd[1]);
    nib_buf shown = {0};
    char some[512];
    while (shown.len < 600) {
        ssize_t n = read(fd[0], some, sizeof some);
        assert_true(n > 0);
        nib_buf_put(&shown, some, (size_t)n);
    }
    kill(child, SIGKILL);
    ssize_t n;
    while ((n = read(fd[0], some, sizeof some)) > 0) nib_buf_put(&shown, some, (size_t)n);
    close(fd[0]);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    nib_store *s;
    nib_turns t;
    test_ok(nib_store_open(&s, path, &e), &e);
    test_ok(nib_store_recover(s, &e), &e);
    test_ok(nib_turn_get(s, 1, &t, &e), &e);
    assert_memory_equal(t.v[0].content, shown.data, shown.len);
    assert_int_equal(t.v[0].state, NIB_TURN_WHOLE);
    assert_string_equal(t.v[0].finish, "interrupted");
    nib_turns_free(&t);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    nib_store_close(s);
    nib_buf_free(&shown);
}

/* Two stores on one file, as 'nib chat' beside 'nib serve'. */
static void *write_many(void *path) {
    nib_store *s;
    nib_error mine;
    int64_t talk, id;
    if (nib_store_open(&s, path, &mine)) return (void *)"not opened";
    bool ok = nib_talk_new(s, "both", &talk, &mine) == NIB_OK;
    for (int i = 0; i < 100 && ok; i++)
        ok = nib_turn_add(s, talk, 0, "user", "text", NULL, NIB_TURN_WHOLE, &id, &mine) == NIB_OK;
    nib_store_close(s);
    return ok ? NULL : (void *)"failed";
}
static void test_two_at_once(void **state) {
    (void)state;
    char path[4096];
    snprintf(path, sizeof path, "%s", fresh_path("both.db"));
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, path), 0);
    for (size_t i = 0; i < 3; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    nib_store *s;
    uint8_t a[16], b[16];
    test_ok(nib_store_open(&s, path, &e), &e);
    assert_string_equal(listed(s, NULL, 10, 0), "both|both|both");
    test_ok(nib_store_secret(s, a, &e), &e);
    nib_store_close(s);
    test_ok(nib_store_open(&s, path, &e), &e);
    test_ok(nib_store_secret(s, b, &e), &e);
    assert_memory_equal(a, b, 16);
    nib_store_close(s);
}

static void test_bad_files(void **state) {
    (void)state;
    nib_store *s = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", fresh_path("noise.db"));
    char noise[8192];
    nib_rng r = {1, 0};
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)nib_rng_u64(&r);
    test_ok(nib_file_write(path, noise, sizeof noise, &e), &e);
    assert_int_equal(nib_store_open(&s, path, &e), NIB_ERR_FORMAT);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(nib_store_open(&s, "/nonexistent/x.db", &e), NIB_ERR_IO);
    assert_null(s);
    /* of a newer nib */
    snprintf(path, sizeof path, "%s", fresh_path("newer.db"));
    test_ok(nib_store_open(&s, path, &e), &e);
    nib_store_close(s);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 60, SEEK_SET); /* user_version, big-endian */
    fwrite("\0\0\0\x63", 1, 4, f);
    fclose(f);
    assert_int_equal(nib_store_open(&s, path, &e), NIB_ERR_UNSUPPORTED);
    /* bytes changed at random places: errors, never a crash or a hang */
    snprintf(path, sizeof path, "%s", fresh_path("hurt.db"));
    test_ok(nib_store_open(&s, path, &e), &e);
    int64_t talk;
    test_ok(nib_talk_new(s, "words here", &talk, &e), &e);
    int64_t at = 0;
    for (int i = 0; i < 40; i++) at = add(s, talk, at, i % 2 ? "assistant" : "user", "some words");
    nib_store_close(s);
    nib_buf whole = {0};
    test_ok(nib_file_read(path, 1 << 24, &whole, &e), &e);
    for (int round = 0; round < (test_quick() ? 20 : 100); round++) {
        char *copy = nib_alloc(whole.len);
        memcpy(copy, whole.data, whole.len);
        for (int k = 0; k < 20; k++) {
            uint64_t x = nib_rng_u64(&r);
            copy[100 + x % (whole.len - 100)] = (char)(x >> 56);
        }
        test_ok(nib_file_write(path, copy, whole.len, &e), &e);
        nib_free(copy);
        if (nib_store_open(&s, path, &e) != NIB_OK) continue;
        nib_turns t;
        lines to = {0};
        if (nib_turn_path(s, 1, 0, &t, &e) == NIB_OK) nib_turns_free(&t);
        nib_talk_list(s, "words", 10, take, &to, &e);
        nib_turn_choose(s, 1, &e);
        nib_store_close(s);
    }
    nib_buf_free(&whole);
}

static void test_sync(void **state) {
    (void)state;
    nib_store *s = memory();
    nib_messages m = {0};
    int64_t talk;
    nib_turns t;
    test_ok(nib_talk_new(s, "cli", &talk, &e), &e);
    test_ok(nib_messages_add(&m, "user", "hello", NULL, &e), &e);
    test_ok(nib_messages_add(&m, "assistant", "hi", "greet back", &e), &e);
    test_ok(nib_turn_sync(s, talk, &m, "tiny", &e), &e);
    test_ok(nib_turn_sync(s, talk, &m, "tiny", &e), &e); /* twice is once */
    test_ok(nib_messages_add(&m, "user", "more", NULL, &e), &e);
    test_ok(nib_turn_sync(s, talk, &m, "tiny", &e), &e);
    check_path(s, talk, 0, "hello > hi > more");
    nib_messages_truncate(&m, 1);
    test_ok(nib_messages_add(&m, "assistant", "good day", NULL, &e), &e);
    test_ok(nib_turn_sync(s, talk, &m, "tiny", &e), &e);
    check_path(s, talk, 0, "hello > good day");
    test_ok(nib_turn_path(s, talk, 0, &t, &e), &e);
    assert_int_equal(t.v[0].n_siblings, 1);
    assert_int_equal(t.v[1].n_siblings, 2);
    assert_string_equal(t.v[1].model, "tiny");
    test_ok(nib_turns_messages(&t, &m, &e), &e);
    assert_int_equal(m.n, 2);
    nib_turns_free(&t);
    nib_messages_free(&m);
    nib_store_close(s);
}

static void test_transcripts(void **state) {
    (void)state;
    nib_messages m = {0}, back = {0};
    test_ok(nib_messages_add(&m, "user", "What is 1 < 2?", NULL, &e), &e);
    test_ok(nib_messages_add(&m, "assistant", "True.\n```c\nint x;\n```\n\xff", "a\nb", &e), &e);
    nib_transcript t = {"Sums", "tiny", "Be brief.", 0, &m};
    nib_buf b = {0};
    test_ok(nib_transcript_markdown(&t, &b, &e), &e);
    assert_non_null(strstr(b.data, "# Sums\n"));
    assert_non_null(strstr(b.data, "## You\n\nWhat is 1 < 2?\n"));
    assert_non_null(strstr(b.data, "## tiny\n\n> a\n> b\n\nTrue."));
    nib_buf_clear(&b);
    nib_status pdf = nib_transcript_pdf(&t, &b, &e);
    if (pdf == NIB_OK)
        assert_memory_equal(b.data, "%PDF-", 5);
    else
        assert_int_equal(pdf, NIB_ERR_UNSUPPORTED);
    nib_buf_clear(&b);
    t.title = "\xff";
    assert_int_equal(nib_transcript_json(&t, &b, &e), NIB_ERR_ARGUMENT);
    t.title = "Sums";
    nib_buf_clear(&b);
    test_ok(nib_transcript_json(&t, &b, &e), &e);
    json_t *root;
    test_ok(nib_json_parse(b.data, b.len, &root, &e), &e);
    test_ok(nib_messages_from_json(&back, json_object_get(root, "messages"), &e), &e);
    assert_int_equal(back.n, 2);
    assert_string_equal(back.v[1].thinking, "a\nb");
    json_decref(root);
    nib_messages_free(&back);
    nib_messages_free(&m);
    nib_buf_free(&b);
}

/* Every allocation fails in turn: an error, and nothing half-done. */
static void test_memory(void **state) {
    (void)state;
    for (long n = 1;; n++) {
        nib_store *s = memory();
        int64_t talk, id = 0;
        nib_turns t = {0};
        test_ok(nib_talk_new(s, "x", &talk, &e), &e);
        add(s, talk, 0, "user", "q");
        nib_alloc_fail_after(n);
        nib_status st = nib_turn_path(s, talk, 0, &t, &e);
        nib_talk got = {0};
        if (st == NIB_OK) st = nib_talk_get(s, talk, &got, &e);
        nib_alloc_fail_after(0);
        nib_talk_free(&got);
        nib_turns_free(&t);
        test_ok(nib_turn_add(s, talk, 0, "user", "again", NULL, NIB_TURN_WHOLE, &id, &e), &e);
        nib_store_close(s);
        if (st == NIB_OK) break;
        assert_int_equal(st, NIB_ERR_NOMEM);
        assert_true(n < 50);
    }
}

/* ---- responses ---- */

static nib_status put_response(nib_store *s, const char *id, uint64_t client, size_t bytes) {
    nib_buf body = {0};
    nib_buf_puts(&body, "\"");
    nib_buf_reserve(&body, bytes);
    while (body.len < bytes) nib_buf_puts(&body, "0123456789abcdef");
    nib_response r = {(char *)id, client, 2, "[]", body.data};
    nib_status st = nib_response_put(s, &r, &e);
    nib_buf_free(&body);
    return st;
}

static bool is_there(nib_store *s, const char *id, uint64_t client) {
    nib_response r = {0};
    nib_status st = nib_response_get(s, id, client, &r, &e);
    if (st != NIB_OK) assert_int_equal(st, NIB_ERR_NOT_FOUND);
    if (st == NIB_OK) assert_string_equal(r.id, id);
    if (st == NIB_OK) assert_int_equal(r.n_before, 2);
    nib_response_free(&r);
    return st == NIB_OK;
}

/* Kept in the file, for their clients alone, and no more than the limits. */
static void test_responses(void **state) {
    (void)state;
    const char *path = fresh_path("responses.db");
    nib_store *s;
    char id[40];
    test_ok(nib_store_open(&s, path, &e), &e);
    assert_false(is_there(s, "resp_a", 1));
    assert_int_equal(nib_response_delete(s, "resp_a", 1, &e), NIB_ERR_NOT_FOUND);
    test_ok(put_response(s, "resp_a", UINT64_MAX, 10), &e);
    test_ok(put_response(s, "resp_b", 2, 10), &e);
    nib_store_close(s);
    test_ok(nib_store_open(&s, path, &e), &e);
    assert_true(is_there(s, "resp_a", UINT64_MAX));
    assert_false(is_there(s, "resp_a", 2));
    assert_int_equal(nib_response_delete(s, "resp_b", 1, &e), NIB_ERR_NOT_FOUND);
    test_ok(nib_response_delete(s, "resp_b", 2, &e), &e);
    assert_false(is_there(s, "resp_b", 2));
    nib_store_close(s);
    /* number: the least recently used goes */
    s = memory();
    for (int i = 0; i < NIB_RESPONSES_MOST; i++) {
        snprintf(id, sizeof id, "resp_%d", i);
        test_ok(put_response(s, id, 1, 10), &e);
    }
    assert_true(is_there(s, "resp_0", 1)); /* used again */
    test_ok(put_response(s, "resp_new", 1, 10), &e);
    assert_true(is_there(s, "resp_0", 1));
    assert_true(is_there(s, "resp_2", 1));
    assert_false(is_there(s, "resp_1", 1));
    /* bytes */
    test_ok(put_response(s, "resp_big", 1, NIB_RESPONSES_BYTES / 2), &e);
    test_ok(put_response(s, "resp_bigger", 1, NIB_RESPONSES_BYTES / 2 + 1000), &e);
    assert_false(is_there(s, "resp_big", 1));
    assert_false(is_there(s, "resp_0", 1));
    assert_true(is_there(s, "resp_bigger", 1));
    nib_store_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_search),      cmocka_unit_test(test_killed),
        cmocka_unit_test(test_two_at_once), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_sync),        cmocka_unit_test(test_transcripts),
        cmocka_unit_test(test_memory),      cmocka_unit_test(test_responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
