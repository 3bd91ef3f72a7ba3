/* Conversations of the pages after the server was started anew: their keys and values are on disk,
 * theirs alone, and go when they go. */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "httpclient.h"
#include "scriptmodel.h"
#include "store/store.h"
#include "tinymodel.h"

static nib_error e;
static char cookie[128], token[64], store[4096], model[4096];

static const char long_text[] =
    "Tell+me+about+tulips+and+lentils,+about+leaves+and+roots,+how+they+came+here,+and+by+whom,+"
    "and+"
    "when,+and+what+for,+and+what+became+of+those+who+brought+them,+and+of+their+gardens";

static const char *headers(bool posts) {
    static char h[400];
    snprintf(h, sizeof h, "Accept: text/html\r\n%s%s%s%s", *cookie ? "Cookie: " : "", cookie,
             *cookie ? "\r\n" : "",
             posts ? "Content-Type: application/x-www-form-urlencoded\r\n" : "");
    return h;
}

static void browse(test_server *s) {
    *cookie = 0;
    test_reply *r = test_ask(s->port, "GET", "/", headers(false), NULL);
    const char *set = test_header(r, "Set-Cookie"), *at;
    assert_non_null(set);
    snprintf(cookie, sizeof cookie, "%.*s", (int)strcspn(set, ";"), set);
    assert_non_null(at = strstr(r->body.data, "name=\"csrf\" value=\""));
    snprintf(token, sizeof token, "%.32s", at + 19);
}

static test_server *serve_with(uint64_t kv_disk, int n_seq, int64_t kv_tokens) {
    nib_server_params p = test_serve_params(model);
    p.store = store;
    p.kv_disk = kv_disk;
    p.engine.n_ctx = 1024;
    p.engine.n_seq = n_seq;
    p.engine.kv_tokens = kv_tokens;
    p.max_tokens = 40;
    test_server *s = test_serve(&p);
    browse(s);
    return s;
}
static test_server *serve(uint64_t kv_disk) {
    return serve_with(kv_disk, 4, 0);
}

/* Posts a form; and the page of a conversation, which ends with its reply. */
static int submit(test_server *s, const char *path, const char *fields) {
    char body[1000];
    snprintf(body, sizeof body, "csrf=%s&%s", token, fields);
    return test_ask(s->port, "POST", path, headers(true), body)->status;
}
static void say(test_server *s, int64_t talk, const char *fields) {
    char path[32];
    assert_int_equal(submit(s, "/ui/say", fields), 303);
    snprintf(path, sizeof path, "/c/%lld", (long long)talk);
    assert_int_equal(test_ask(s->port, "GET", path, headers(false), NULL)->status, 200);
}

/* What the store says of a message. */
static nib_turn message(int64_t id) {
    nib_store *st;
    nib_turns one = {0};
    test_ok(nib_store_open(&st, store, &e), &e);
    test_ok(nib_turn_get(st, id, &one, &e), &e);
    nib_turn t = one.v[0];
    nib_turns_free(&one);
    nib_store_close(st);
    return t;
}

static int files(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    for (struct dirent *f; dir && (f = readdir(dir));) {
        char inner[4096];
        size_t len = strlen(f->d_name);
        if (f->d_name[0] == '.') continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, f->d_name) >= (int)sizeof inner) continue;
        if (len > 3 && strcmp(f->d_name + len - 3, ".kv") == 0)
            n++;
        else
            n += files(inner);
    }
    if (dir) closedir(dir);
    return n;
}
static int kept_files(void) {
    char path[4096];
    snprintf(path, sizeof path, "%.4000s-kv", store);
    return files(path);
}

static double metric(test_server *s, const char *name) {
    test_reply *r = test_get(s->port, "/metrics");
    char line[80];
    snprintf(line, sizeof line, "\nnib_%s", name);
    const char *at = strstr(r->body.data, line);
    return at ? atof(at + strlen(line) + strcspn(at + strlen(line), " ")) : -1;
}

static int make_model(void **state) { /* its replies end with their limit only */
    static const test_line lines[] = {
        {"\n", "one ", 9}, {"one ", "two ", 9}, {"two ", "one ", 9}, {NULL, NULL, 0}};
    (void)state;
    snprintf(model, sizeof model, "%s", test_script_model("kvdisk.gguf", test_chatml, 1024, lines));
    return 0;
}

static void fresh_store(const char *name) {
    snprintf(store, sizeof store, "%s/%s", test_tmp(), name);
}

static void a_conversation_is_taken_up_again(void **state) {
    char fields[400];
    (void)state;
    fresh_store("again.db");
    test_server *s = serve(NIB_KVDISK_AUTO);
    snprintf(fields, sizeof fields, "talk=0&parent=0&text=%s", long_text);
    say(s, 1, fields);
    test_serve_stop(s); /* writes what is still to be written */
    assert_int_equal(message(2).n_cached, 0);
    int64_t whole = (message(2).n_prompt + message(2).n_generated - 1) / NIB_PAGE;
    assert_true(whole >= 2);
    assert_int_equal(kept_files(), whole);
    s = serve(NIB_KVDISK_AUTO);
    say(s, 1, "talk=1&parent=2&text=And+more%3F");
    int64_t cached = message(4).n_cached;
    assert_true(cached >= NIB_PAGE);
    assert_int_equal(cached % NIB_PAGE, 0);
    assert_true(metric(s, "kv_disk_pages_read_total") == (double)(cached / NIB_PAGE));
    assert_true(metric(s, "prompt_tokens_cached_total") == (double)cached);
    assert_true(metric(s, "kv_disk_bytes") > 0);
    /* another conversation that begins alike finds nothing on disk, but what is in memory */
    test_serve_stop(s);
    s = serve(NIB_KVDISK_AUTO);
    say(s, 2, fields);
    assert_int_equal(message(6).n_cached, 0);
    assert_true(metric(s, "kv_disk_pages_read_total") == 0);
    /* what programs ask for is nobody's conversation */
    int n = -1, now = 0;
    for (int i = 0; i < 200 && n != now; i++) { /* the second conversation's pages arrive */
        n = now;
        usleep(20000);
        now = kept_files();
    }
    test_reply *r = test_post(s->port, "/v1/chat/completions",
                              "{\"messages\":[{\"role\":\"user\",\"content\":\"A text that is long "
                              "enough for more than one page of sixty-four tokens, and then some, "
                              "and some more.\"}],\"max_tokens\":70}");
    assert_int_equal(r->status, 200);
    test_serve_stop(s);
    assert_int_equal(kept_files(), now);
    /* deleted: its files too, others' not */
    s = serve(NIB_KVDISK_AUTO);
    assert_int_equal(submit(s, "/ui/delete", "talk=1&current=0"), 303);
    assert_true(kept_files() > 0);
    assert_true(kept_files() < now);
    assert_int_equal(submit(s, "/ui/delete", "talk=2&current=0"), 303);
    assert_int_equal(kept_files(), 0);
    test_serve_stop(s);
    assert_int_equal(kept_files(), 0);
}

/* A conversation that went while no server looked takes its files along at the next start. Without
 * room there are none, and replies are as good. */
static void swept_and_switched_off(void **state) {
    char fields[400];
    nib_store *st;
    (void)state;
    fresh_store("swept.db");
    snprintf(fields, sizeof fields, "talk=0&parent=0&text=%s", long_text);
    test_server *s = serve(NIB_KVDISK_AUTO);
    say(s, 1, fields);
    say(s, 2, fields);
    test_serve_stop(s);
    int n = kept_files();
    assert_true(n >= 4);
    test_ok(nib_store_open(&st, store, &e), &e);
    test_ok(nib_talk_delete(st, 2, &e), &e);
    nib_store_close(st);
    s = serve(NIB_KVDISK_AUTO);
    assert_true(kept_files() < n);
    test_serve_stop(s);
    s = serve(0);
    assert_int_equal(kept_files(), 0);
    say(s, 1, "talk=1&parent=2&text=And+more%3F");
    assert_int_equal(message(6).n_cached, 0);
    test_serve_stop(s);
    assert_int_equal(kept_files(), 0);
    /* no place for them: everything else works */
    fresh_store("blocked.db");
    char path[4096];
    snprintf(path, sizeof path, "%.4000s-kv", store);
    test_ok(nib_file_write(path, "x", 1, &e), &e);
    s = serve(NIB_KVDISK_AUTO);
    say(s, 1, fields);
    assert_true(message(2).n_generated > 0);
    assert_true(metric(s, "kv_disk_bytes") < 0);
    test_serve_stop(s);
}

/* Memory forgets a conversation because others need the room; the disk does not. */
static void evicted_from_memory(void **state) {
    char fields[400], ask[1200];
    (void)state;
    fresh_store("evicted.db");
    snprintf(fields, sizeof fields, "talk=0&parent=0&text=%s", long_text);
    test_server *s = serve_with(NIB_KVDISK_AUTO, 1, 0); /* sixteen pages */
    say(s, 1, fields);
    say(s, 1, "talk=1&parent=2&text=More%3F");
    int64_t kept = message(4).n_cached;
    assert_true(kept >= NIB_PAGE); /* from memory */
    assert_true(metric(s, "kv_disk_pages_read_total") == 0);
    for (int i = 0; i < 2; i++) {
        memset(ask, 'a' + i, sizeof ask);
        memcpy(ask, "{\"prompt\":\"", 11);
        strcpy(ask + 950, "\",\"max_tokens\":8}");
        assert_int_equal(test_post(s->port, "/v1/completions", ask)->status, 200);
    }
    say(s, 1, "talk=1&parent=4&text=And+more%3F");
    assert_true(message(6).n_cached >= kept);
    assert_true(metric(s, "kv_disk_pages_read_total") == (double)(message(6).n_cached / NIB_PAGE));
    test_serve_stop(s);
}

/* Several conversations at a time, more than there is room for, twice. */
static void many_at_a_time(void **state) {
    enum { N = 6 };
    char fields[400], path[32];
    (void)state;
    fresh_store("many.db");
    int64_t last[N + 1] = {0};
    for (int round = 0; round < 2; round++) {
        int n_kept = 0;
        test_server *s = serve_with(NIB_KVDISK_AUTO, 3, 1024);
        for (int64_t i = 1; i <= N; i++) {
            snprintf(fields, sizeof fields, "talk=%lld&parent=%lld&text=%lld.+%s",
                     (long long)(round ? i : 0), (long long)last[i], (long long)i, long_text);
            assert_int_equal(submit(s, "/ui/say", fields), 303);
            last[i] = round * 2 * N + 2 * i;
        }
        for (int64_t i = 1; i <= N; i++) {
            snprintf(path, sizeof path, "/c/%lld", (long long)i);
            assert_int_equal(test_ask(s->port, "GET", path, headers(false), NULL)->status, 200);
            nib_turn t = message(last[i]);
            assert_int_equal(t.state, NIB_TURN_WHOLE);
            assert_int_equal(t.n_generated, 40);
            n_kept += t.n_cached >= NIB_PAGE; /* pages may be wanted before they are written */
        }
        if (round) assert_true(n_kept > 0);
        if (round) assert_true(metric(s, "kv_disk_pages_read_total") >= n_kept);
        test_serve_stop(s);
    }
}

/* kill -9 at any moment: what is on disk is whole, and the conversation goes on. */
static void killed(void **state) {
    char fields[400], line[512];
    (void)state;
    fresh_store("killed.db");
    int64_t last = 0;
    for (int round = 0; round < 3; round++) {
        int fd[2], status;
        assert_int_equal(pipe(fd), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            dup2(fd[1], 2);
            execl(NIB_COMMAND, "nib", "serve", model, "--port", "0", "--store", store, "--threads",
                  "1", "--ctx", "1024", "-n", "40", "--ignore-memory", (char *)NULL);
            _exit(127);
        }
        close(fd[1]);
        FILE *log = fdopen(fd[0], "r");
        test_server s = {0};
        while (fgets(line, sizeof line, log) && !strstr(line, "ready:")) {
            const char *at = strstr(line, "127.0.0.1:");
            if (at) s.port = atoi(at + 10);
        }
        assert_true(s.port > 0);
        browse(&s);
        snprintf(fields, sizeof fields, "talk=%d&parent=%lld&text=%s", round > 0, (long long)last,
                 round ? "More%3F" : long_text);
        say(&s, 1, fields);
        last += 2;
        usleep((unsigned)round * 2000);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        fclose(log);
        assert_int_equal(message(last).state, NIB_TURN_WHOLE);
    }
    test_server *s = serve(NIB_KVDISK_AUTO);
    snprintf(fields, sizeof fields, "talk=1&parent=%lld&text=More%%3F", (long long)last);
    say(s, 1, fields);
    assert_true(message(last + 2).n_generated > 0);
    assert_true(metric(s, "kv_disk_pages_refused_total") == 0);
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation_is_taken_up_again),
        cmocka_unit_test(swept_and_switched_off),
        cmocka_unit_test(evicted_from_memory),
        cmocka_unit_test(many_at_a_time),
        cmocka_unit_test(killed),
    };
    return cmocka_run_group_tests(tests, make_model, NULL);
}
