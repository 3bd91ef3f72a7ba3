/* Several models in one server: what is told about them, names, switching while others are
 * answered, loads that fail, models that leave. The models say what a script tells them, each its
 * own. */
#include "httpclient.h"
#include "hub/hub.h"
#include "scriptmodel.h"
#include "tinymodel.h"
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASK(model, more)                                                                           \
    "{\"model\":\"" model                                                                          \
    "\",\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}],\"temperature\":0" more "}"

static const char *const names[] = {"alpha", "beta", "gamma"};

/* "alpha alpha alpha ..." without end, and so on. */
static const char *model(const char *name) {
    static char word[3][16], path[3][300];
    int i = name[0] == 'a' ? 0 : name[0] == 'b' ? 1 : 2;
    char file[32];
    if (*path[i]) return path[i];
    snprintf(word[i], sizeof word[i], "%s ", names[i]);
    const test_line lines[] = {
        {"\n", word[i], 9}, {"!", word[i], 9}, {word[i], word[i], 9}, {NULL, NULL, 0}};
    snprintf(file, sizeof file, "%s.gguf", name);
    snprintf(path[i], sizeof path[i], "%s", test_script_model(file, test_chatml, 4096, lines));
    return path[i];
}

/* alpha at the start, beta and gamma to be asked for. */
static test_server *serve(int max_models, nib_server_params *change) {
    static const char *paths[3];
    static nib_server_model further[2];
    for (int i = 0; i < 3; i++)
        if (!paths[i]) paths[i] = model(names[i]);
    nib_server_params p = change ? *change : test_serve_params(paths[0]);
    p.model_path = paths[0];
    p.model_name = NULL;
    for (int i = 0; i < 2; i++) further[i] = (nib_server_model){.path = paths[i + 1]};
    p.models = further;
    p.n_models = 2;
    p.max_models = max_models;
    return test_serve(&p);
}

static void text_is(const test_reply *r, const char *path, const char *expected) {
    const char *found = test_json_text(r, path);
    if (strcmp(found, expected))
        fail_msg("%s is '%s', not '%s': %d %s", path, found, expected, r->status, r->body.data);
}

static test_reply *chat(test_server *s, const char *name) {
    char body[300];
    snprintf(body, sizeof body, ASK("%s", ",\"max_tokens\":3"), name);
    return test_post(s->port, "/v1/chat/completions", body);
}

/* Names of the models that are loaded, joined. */
static const char *loaded(test_server *s) {
    static char out[200];
    test_reply *r = test_get(s->port, "/api/ps");
    const json_t *list = test_json(r, "models");
    out[0] = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        snprintf(out + strlen(out), sizeof out - strlen(out), "%s%s", i ? " " : "",
                 json_string_value(json_object_get(json_array_get(list, i), "name")));
    return out;
}

static void wait_loaded(test_server *s, const char *expected) {
    double until = nib_now() + 20;
    while (strcmp(loaded(s), expected)) {
        if (nib_now() > until) fail_msg("loaded: '%s', expected '%s'", loaded(s), expected);
        usleep(2000);
    }
}

/* ---- what is told ---- */

static void lists_tell_the_truth(void **state) {
    (void)state;
    test_server *s = serve(1, NULL);
    test_reply *r = test_get(s->port, "/v1/models");
    assert_int_equal(json_array_size(test_json(r, "data")), 3);
    text_is(r, "data.0.id", "alpha");
    text_is(r, "data.0.status.value", "loaded");
    text_is(r, "data.1.id", "beta");
    text_is(r, "data.1.status.value", "unloaded");
    assert_true(test_json_int(r, "data.1.meta.size") > 100000);
    assert_true(test_json_int(r, "data.0.meta.n_ctx") == 4096);
    /* headers are read behind the server's back */
    double until = nib_now() + 10;
    while (!*test_json_text(r = test_get(s->port, "/api/tags"), "models.1.details.family")) {
        assert_true(nib_now() < until);
        usleep(2000);
    }
    text_is(r, "models.1.name", "beta");
    text_is(r, "models.1.details.family", "llama");
    text_is(r, "models.1.details.quantization_level", "F32");
    assert_true(test_json_int(r, "models.1.size") > 100000);
    text_is(r, "models.1.digest", ""); /* not known, so not told */
    /* of a model that is in use it is computed */
    char digest[65];
    nib_error e;
    test_ok(nib_hub_sha256(model("alpha"), NULL, digest, &e), &e);
    while (!*test_json_text(r = test_get(s->port, "/api/tags"), "models.0.digest")) {
        assert_true(nib_now() < until);
        usleep(2000);
    }
    text_is(r, "models.0.digest", digest);
    r = test_get(s->port, "/api/ps");
    assert_int_equal(json_array_size(test_json(r, "models")), 1);
    text_is(r, "models.0.name", "alpha");
    text_is(r, "models.0.digest", digest);
    assert_true(test_json_int(r, "models.0.size") > 100000);
    assert_int_equal(test_json_int(r, "models.0.context_length"), 4096);
    assert_non_null(strstr(test_json_text(r, "models.0.expires_at"), "2318-"));
    /* one that is not loaded can be looked at */
    r = test_post(s->port, "/api/show", "{\"model\":\"gamma\"}");
    assert_int_equal(r->status, 200);
    text_is(r, "details.family", "llama");
    text_is(r, "capabilities.0", "completion");
    assert_true(strlen(test_json_text(r, "template")) > 20);
    text_is(test_get(s->port, "/v1/models/gamma"), "id", "gamma");
    assert_string_equal(loaded(s), "alpha");
    test_serve_stop(s);
}

/* A plain file's digest is computed once. */
static void digests_are_remembered(void **state) {
    (void)state;
    char path[256];
    nib_error e;
    nib_buf text = {0};
    snprintf(path, sizeof path, "%s/digests", test_tmp());
    nib_server_params p = test_serve_params(NULL);
    p.digests = path;
    const char *last = "/alpha.gguf\n";
    for (int round = 0; round < 2; round++) {
        test_server *s = serve(1, &p);
        double until = nib_now() + 10;
        while (!*test_json_text(test_get(s->port, "/api/tags"), "models.0.digest")) {
            assert_true(nib_now() < until);
            usleep(2000);
        }
        if (round == 1) /* what was remembered is believed */
            text_is(test_get(s->port, "/api/tags"), "models.0.digest",
                    "00000000000000000000000000000000000000000000000000000000000000ff");
        test_serve_stop(s);
        nib_buf_clear(&text);
        test_ok(nib_file_read(path, 10000, &text, &e), &e);
        assert_string_equal(text.data + text.len - strlen(last), last);
        memset(text.data, '0', 62);
        memset(text.data + 62, 'f', 2);
        test_ok(nib_file_write(path, text.data, text.len, &e), &e);
    }
    nib_buf_free(&text);
}

/* ---- names ---- */

static void unknown_names(void **state) {
    (void)state;
    test_server *s = serve(1, NULL);
    test_reply *r = chat(s, "delta");
    assert_int_equal(r->status, 404);
    text_is(r, "error.code", "model_not_found");
    text_is(r, "error.param", "model");
    text_is(r, "error.message", "model 'delta' not found: there are 'alpha', 'beta', 'gamma'");
    r = test_post(s->port, "/api/chat", ASK("delta", ""));
    assert_int_equal(r->status, 404);
    text_is(r, "error", "model 'delta' not found: there are 'alpha', 'beta', 'gamma'");
    r = test_post(s->port, "/v1/messages", ASK("delta", ",\"max_tokens\":3"));
    assert_int_equal(r->status, 404);
    text_is(r, "type", "error");
    text_is(r, "error.type", "not_found_error");
    static const char *const others[] = {"/v1/completions", "/v1/embeddings", "/v1/responses",
                                         "/api/generate",   "/api/embed",     "/completion",
                                         "/tokenize",       "/apply-template"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(others); i++)
        assert_int_equal(test_post(s->port, others[i],
                                   "{\"model\":\"delta\",\"prompt\":\"a\",\"input\":\"a\","
                                   "\"content\":\"a\"}")
                             ->status,
                         404);
    assert_int_equal(test_post(s->port, "/api/show", "{\"model\":\"delta\"}")->status, 404);
    assert_int_equal(test_get(s->port, "/v1/models/delta")->status, 404);
    assert_int_equal(test_get(s->port, "/props?model=delta")->status, 404);
    /* no path leads anywhere */
    static const char *const paths[] = {"/etc/passwd", "../alpha", "alpha.gguf/", "./alpha.gguf"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(paths); i++)
        assert_int_equal(chat(s, paths[i])->status, 404);
    /* the first one when nothing is said; endings and case make no difference */
    text_is(test_post(s->port, "/v1/chat/completions",
                      "{\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}],\"max_tokens\":2}"),
            "model", "alpha");
    text_is(chat(s, ""), "model", "alpha");
    text_is(chat(s, "alpha:latest"), "model", "alpha");
    text_is(chat(s, "Alpha.GGUF"), "model", "alpha");
    assert_int_equal(
        test_post(s->port, "/v1/chat/completions", "{\"model\":5,\"messages\":[]}")->status, 400);
    test_serve_stop(s);
}

/* With one model on the command line every name is good; those of others still mean them. */
static void one_model_takes_any_name(void **state) {
    (void)state;
    char folder[256], path[300];
    nib_server_params p = test_serve_params(model("alpha"));
    p.model_name = NULL;
    test_server *s = test_serve(&p);
    text_is(chat(s, "gpt-4o"), "model", "alpha");
    assert_int_equal(test_post(s->port, "/api/show", "{\"model\":\"llama3\"}")->status, 200);
    assert_int_equal(test_get(s->port, "/v1/models/gpt-4o")->status, 404); /* a list is a list */
    test_serve_stop(s);
    /* a cache as 'nib pull' fills it */
    snprintf(folder, sizeof folder, "%s/hub", test_tmp());
    mkdir(folder, 0700);
    static const char *const parts[] = {
        "/models--ann--pets", "/models--ann--pets/blobs", "/models--ann--pets/snapshots",
        "/models--ann--pets/snapshots/0123456789012345678901234567890123456789"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(parts); i++) {
        snprintf(path, sizeof path, "%s%s", folder, parts[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    char blob[400], digest[65];
    nib_error e;
    const char *beta = model("beta");
    test_ok(nib_hub_sha256(beta, NULL, digest, &e), &e);
    snprintf(blob, sizeof blob, "%s/models--ann--pets/blobs/%s", folder, digest);
    assert_int_equal(link(beta, blob), 0);
    snprintf(blob, sizeof blob, "../../blobs/%s", digest);
    snprintf(path + strlen(path), sizeof path - strlen(path), "/pets-Q8_0.gguf");
    assert_int_equal(symlink(blob, path), 0);
    p.cache = folder;
    s = test_serve(&p);
    test_reply *r = test_get(s->port, "/api/tags");
    assert_int_equal(json_array_size(test_json(r, "models")), 2);
    text_is(r, "models.1.name", "ann/pets:Q8_0");
    text_is(r, "models.1.digest", digest);
    text_is(chat(s, "gpt-4o"), "model", "alpha");
    text_is(chat(s, "ann/pets:Q8_0"), "model", "ann/pets:Q8_0");
    text_is(chat(s, "hf.co/ann/pets:q8_0"), "choices.0.message.content", "beta beta beta");
    text_is(chat(s, "gpt-4o"), "model", "alpha");
    test_serve_stop(s);
    /* with no model on the command line, the cache alone: nothing is loaded until it is asked for
     */
    p.model_path = NULL;
    s = test_serve(&p);
    assert_string_equal(test_json_text(test_get(s->port, "/health"), "status"), "ok");
    assert_string_equal(loaded(s), "");
    assert_int_equal(test_get(s->port, "/props")->status, 503);
    assert_int_equal(test_get(s->port, "/slots")->status, 503);
    assert_int_equal(chat(s, "gpt-4o")->status, 404);
    text_is(chat(s, ""), "model", "ann/pets:Q8_0"); /* the only one */
    assert_string_equal(loaded(s), "ann/pets:Q8_0");
    test_serve_stop(s);
}

/* Folders are looked through again when a name is not known. */
static void models_that_come_and_go(void **state) {
    (void)state;
    char folder[256], sub[300], path[400];
    snprintf(folder, sizeof folder, "%s/folder", test_tmp());
    snprintf(sub, sizeof sub, "%s/deep", folder);
    mkdir(folder, 0700);
    mkdir(sub, 0700);
    snprintf(path, sizeof path, "%s/beta.gguf", folder);
    assert_int_equal(link(model("beta"), path), 0);
    snprintf(path, sizeof path, "%s/mmproj-beta.gguf", folder); /* no model */
    test_ok(nib_file_write(path, "x", 1, NULL), NULL);
    nib_server_params p = test_serve_params(model("alpha"));
    p.model_name = NULL;
    p.folders = (const char *const[]){folder, NULL};
    test_server *s = test_serve(&p);
    assert_int_equal(json_array_size(test_json(test_get(s->port, "/v1/models"), "data")), 2);
    usleep(1100000); /* it was looked through just now */
    assert_int_equal(chat(s, "gamma")->status, 404);
    snprintf(path, sizeof path, "%s/gamma.gguf", sub);
    assert_int_equal(link(model("gamma"), path), 0);
    usleep(1100000);
    text_is(chat(s, "gamma"), "choices.0.message.content", "gamma gamma gamma");
    /* the same name twice: both can be named */
    snprintf(path, sizeof path, "%s/alpha.gguf", sub);
    nib_buf copy = {0};
    test_ok(nib_file_read(model("gamma"), 1 << 26, &copy, NULL), NULL);
    test_ok(nib_file_write(path, copy.data, copy.len, NULL), NULL);
    nib_buf_free(&copy);
    usleep(1100000);
    text_is(chat(s, "deep/alpha"), "choices.0.message.content", "gamma gamma gamma");
    text_is(chat(s, "alpha"), "choices.0.message.content", "alpha alpha alpha");
    /* a file that went is forgotten */
    assert_int_equal(unlink(path), 0);
    double until = nib_now() + 10;
    while (json_array_size(test_json(test_get(s->port, "/v1/models"), "data")) != 3) {
        assert_true(nib_now() < until);
        usleep(50000);
    }
    assert_int_equal(chat(s, "deep/alpha")->status, 404);
    test_serve_stop(s);
}

/* ---- switching ---- */

static void switching(void **state) {
    (void)state;
    test_server *s = serve(1, NULL);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 3; i++) {
            char text[64];
            test_reply *r = chat(s, names[i]);
            snprintf(text, sizeof text, "%s %s %s", names[i], names[i], names[i]);
            text_is(r, "choices.0.message.content", text);
            text_is(r, "model", names[i]);
            wait_loaded(s, names[i]);
        }
    test_reply *r = test_post(s->port, "/api/generate",
                              "{\"model\":\"beta\",\"prompt\":\"a\",\"stream\":false,"
                              "\"options\":{\"num_predict\":3}}");
    text_is(r, "model", "beta");
    assert_true(test_json_int(r, "load_duration") > 100000);
    r = test_post(s->port, "/v1/messages", ASK("beta", ",\"max_tokens\":3"));
    text_is(r, "model", "beta");
    text_is(r, "content.0.text", "beta beta beta");
    /* slots, settings and counts are those of a model */
    r = test_get(s->port, "/props");
    text_is(r, "model_alias", "beta");
    assert_int_equal(test_get(s->port, "/props?model=beta")->status, 200);
    assert_int_equal(json_array_size(test_json(test_get(s->port, "/slots?model=beta"), "")), 4);
    r = test_get(s->port, "/props?model=alpha");
    assert_int_equal(r->status, 503);
    text_is(r, "error.code", "model_not_loaded");
    r = test_get(s->port, "/metrics");
    assert_non_null(strstr(r->body.data, "nib_replies_total{model=\"beta\"} "));
    assert_null(strstr(r->body.data, "{model=\"alpha\"}"));
    assert_non_null(strstr(r->body.data, "\nnib_models_loaded 1\n"));
    assert_non_null(strstr(r->body.data, "\nnib_models 3\n"));
    test_serve_stop(s);
    /* room for two: the one not used for longest goes */
    s = serve(2, NULL);
    chat(s, "beta");
    assert_string_equal(loaded(s), "alpha beta");
    chat(s, "alpha");
    chat(s, "gamma");
    wait_loaded(s, "alpha gamma");
    r = test_get(s->port, "/metrics");
    assert_non_null(strstr(r->body.data, "nib_replies_total{model=\"alpha\"} "));
    assert_non_null(strstr(r->body.data, "nib_replies_total{model=\"gamma\"} "));
    test_serve_stop(s);
}

static int open_stream(test_server *s, const char *name, int n_tokens) {
    char body[300], head[512];
    int n = snprintf(body, sizeof body, ASK("%s", ",\"max_tokens\":%d,\"stream\":true"), name,
                     n_tokens);
    int fd = test_connect(s->port);
    test_send(fd, head,
              (size_t)snprintf(head, sizeof head,
                               "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                               "Content-Length: %d\r\n\r\n%s",
                               n, body));
    return fd;
}

/* The whole of a stream is its own model's, and as long as it should be. */
static void end_stream(int fd, const char *name, int n_tokens) {
    test_reply r = {0};
    nib_buf expected = {0};
    test_receive(fd, &r);
    close(fd);
    if (r.status != 200) fail_msg("%s: %d %s", name, r.status, r.body.data);
    char *text = test_sse_text(&r, "choices.0.delta.content");
    for (int i = 0; i < n_tokens; i++) nib_buf_printf(&expected, "%s%s", i ? " " : "", name);
    assert_string_equal(text, expected.data);
    assert_non_null(strstr(r.body.data, "data: [DONE]"));
    nib_buf_clear(&expected);
    nib_buf_printf(&expected, "\"model\":\"%s\"", name);
    assert_non_null(strstr(r.body.data, expected.data));
    free(text);
    nib_buf_free(&expected);
    test_reply_free(&r);
}

/* What is under way ends as it would have, however much is asked of others meanwhile. */
static void switching_under_streams(void **state) {
    (void)state;
    enum { N = 60 };
    nib_server_params p = test_serve_params(NULL);
    p.n_queue = 2 * N;
    for (int max_models = 1; max_models <= 2; max_models++)
        for (int tight = 0; tight < 2; tight++) {
            p.model_memory = tight; /* one byte: never two at a time */
            test_server *s = serve(max_models, &p);
            int fds[N];
            for (int i = 0; i < N; i++) fds[i] = open_stream(s, names[i % 3], 5 + i);
            assert_int_equal(test_get(s->port, "/health")->status, 200);
            for (int i = 0; i < N; i++) end_stream(fds[i], names[i % 3], 5 + i);
            test_serve_stop(s);
        }
}

typedef struct asker {
    test_server *s;
    unsigned seed;
    int n;
} asker;

static void *ask_many(void *arg) {
    asker *a = arg;
    for (int i = 0; i < a->n; i++) {
        int k = rand_r(&a->seed) % 3, n = 1 + rand_r(&a->seed) % 30;
        int fd = open_stream(a->s, names[k], n);
        if (rand_r(&a->seed) % 5 == 0) /* leaves, perhaps while the model is loaded */
            close(fd);
        else
            end_stream(fd, names[k], n);
    }
    return NULL;
}

static void switching_to_and_fro(void **state) {
    (void)state;
    enum { N = 6 };
    for (int max_models = 1; max_models <= 2; max_models++) {
        test_server *s = serve(max_models, NULL);
        pthread_t threads[N];
        asker askers[N];
        for (int i = 0; i < N; i++) {
            askers[i] = (asker){s, (unsigned)(i + 10 * max_models), test_quick() ? 8 : 25};
            assert_int_equal(pthread_create(&threads[i], NULL, ask_many, &askers[i]), 0);
        }
        for (int i = 0; i < N; i++) pthread_join(threads[i], NULL);
        assert_int_equal(chat(s, "alpha")->status, 200);
        test_serve_stop(s);
    }
}

/* ---- waiting ---- */

/* While alpha cannot leave, those who want beta wait: so many, then 429. The rest goes on. */
static void the_queue_has_an_end(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(NULL);
    p.n_queue = 2;
    p.model_memory = 1;
    p.max_tokens = 1 << 20;
    p.max_seconds = 1.5;
    test_server *s = serve(1, &p);
    char some[4096];
    int busy = open_stream(s, "alpha", 4000);
    assert_true(recv(busy, some, sizeof some, 0) > 0);
    int one = open_stream(s, "beta", 3), two = open_stream(s, "beta", 4);
    double until = nib_now() + 1;
    test_reply *r;
    do r = chat(s, "beta");
    while (r->status == 200 && nib_now() < until);
    assert_int_equal(r->status, 429);
    assert_non_null(test_header(r, "Retry-After"));
    text_is(r, "error.code", "rate_limit_exceeded");
    assert_string_equal(loaded(s), "alpha");
    assert_int_equal(test_get(s->port, "/health")->status, 200);
    assert_int_equal(test_get(s->port, "/v1/models")->status, 200);
    end_stream(one, "beta", 3);
    end_stream(two, "beta", 4);
    wait_loaded(s, "beta");
    close(busy);
    /* stopping: who waits is told */
    busy = open_stream(s, "beta", 4000);
    assert_true(recv(busy, some, sizeof some, 0) > 0);
    one = open_stream(s, "alpha", 3);
    usleep(50000);
    nib_server_stop(s->server);
    test_reply told = {0};
    test_receive(one, &told);
    assert_int_equal(told.status, 503);
    test_reply_free(&told);
    close(one);
    close(busy);
    test_serve_stop(s);
}

/* ---- what goes wrong ---- */

static void failed_loads(void **state) {
    (void)state;
    char folder[256], path[400];
    snprintf(folder, sizeof folder, "%s/broken", test_tmp());
    mkdir(folder, 0700);
    nib_buf bytes = {0};
    test_ok(nib_file_read(model("beta"), 1 << 26, &bytes, NULL), NULL);
    snprintf(path, sizeof path, "%s/half.gguf", folder);
    test_ok(nib_file_write(path, bytes.data, bytes.len / 2, NULL), NULL);
    snprintf(path, sizeof path, "%s/noise.gguf", folder);
    test_ok(nib_file_write(path, "GGUF, it says", 13, NULL), NULL);
    snprintf(path, sizeof path, "%s/whole.gguf", folder);
    test_ok(nib_file_write(path, bytes.data, bytes.len, NULL), NULL);
    nib_buf_free(&bytes);
    nib_server_params p = test_serve_params(model("alpha"));
    p.model_name = NULL;
    p.folders = (const char *const[]){folder, NULL};
    test_server *s = test_serve(&p);
    static const char *const broken[] = {"half", "noise"};
    int busy = open_stream(s, "alpha", 100);
    for (size_t i = 0; i < 2; i++) {
        test_reply *r = chat(s, broken[i]);
        assert_int_equal(r->status, 500);
        text_is(r, "error.code", "model_load_failed");
        assert_non_null(strstr(test_json_text(r, "error.message"), broken[i]));
        assert_string_equal(loaded(s), "alpha");
    }
    end_stream(busy, "alpha", 100);
    text_is(chat(s, "alpha"), "model", "alpha");
    test_serve_stop(s);
    /* alpha has to leave first; then the other one cannot come: alpha is back */
    p.model_memory = 1;
    p.max_seconds = 0.7;
    s = test_serve(&p);
    char some[4096];
    busy = open_stream(s, "alpha", 4000);
    assert_true(recv(busy, some, sizeof some, 0) > 0);
    int one = open_stream(s, "whole", 3);
    usleep(200000);
    assert_int_equal(unlink(path), 0);
    test_reply told = {0};
    test_receive(one, &told);
    assert_int_equal(told.status, 500);
    text_is(&told, "error.code", "model_load_failed");
    test_reply_free(&told);
    close(one);
    close(busy);
    wait_loaded(s, "alpha");
    text_is(chat(s, "alpha"), "model", "alpha");
    test_serve_stop(s);
}

/* ---- keep_alive ---- */

#define GENERATE(model, more) "{\"model\":\"" model "\"" more "}"
static void models_leave_when_told(void **state) {
    (void)state;
    test_server *s = serve(2, NULL);
    test_reply *r = test_post(s->port, "/api/generate", GENERATE("beta", ""));
    assert_int_equal(r->status, 200);
    text_is(r, "done_reason", "load");
    text_is(r, "model", "beta");
    assert_string_equal(loaded(s), "alpha beta");
    r = test_post(s->port, "/api/chat", GENERATE("beta", ",\"messages\":[],\"keep_alive\":0"));
    text_is(r, "done_reason", "unload");
    wait_loaded(s, "alpha");
    r = test_post(s->port, "/api/generate", GENERATE("beta", ",\"keep_alive\":\"0\""));
    text_is(r, "done_reason", "unload"); /* which it was */
    assert_string_equal(loaded(s), "alpha");
    r = test_post(s->port, "/api/generate", GENERATE("delta", ",\"keep_alive\":0"));
    assert_int_equal(r->status, 404);
    /* after a reply */
    r = test_post(s->port, "/api/generate",
                  GENERATE("beta", ",\"prompt\":\"a\",\"stream\":false,\"keep_alive\":\"300ms\","
                                   "\"options\":{\"num_predict\":3}"));
    assert_int_equal(r->status, 200);
    r = test_get(s->port, "/api/ps");
    assert_null(strstr(test_json_text(r, "models.1.expires_at"), "2318"));
    wait_loaded(s, "alpha");
    /* for ever; and the default again once it was unloaded */
    test_post(s->port, "/api/generate", GENERATE("beta", ",\"keep_alive\":-1"));
    r = test_get(s->port, "/api/ps");
    assert_non_null(strstr(test_json_text(r, "models.1.expires_at"), "2318"));
    test_post(s->port, "/api/generate", GENERATE("beta", ",\"keep_alive\":\"1h30m\""));
    r = test_get(s->port, "/api/ps");
    assert_null(strstr(test_json_text(r, "models.1.expires_at"), "2318"));
    static const char *const wrong[] = {"\"soon\"", "\"5 parsecs\"", "\"\"", "true",
                                        "[]",       "\"5m-\""};
    for (size_t i = 0; i < NIB_ARRAY_LEN(wrong); i++) {
        char body[200];
        snprintf(body, sizeof body, GENERATE("beta", ",\"prompt\":\"a\",\"keep_alive\":%s"),
                 wrong[i]);
        assert_int_equal(test_post(s->port, "/api/generate", body)->status, 400);
        snprintf(body, sizeof body, GENERATE("beta", ",\"keep_alive\":%s"), wrong[i]);
        assert_int_equal(test_post(s->port, "/api/generate", body)->status, 400);
    }
    /* a stream under way ends first */
    int fd = open_stream(s, "beta", 300);
    char some[64];
    assert_true(recv(fd, some, 1, MSG_PEEK) > 0);
    test_post(s->port, "/api/generate", GENERATE("beta", ",\"keep_alive\":0"));
    end_stream(fd, "beta", 300);
    wait_loaded(s, "alpha");
    test_serve_stop(s);
    nib_server_params p = test_serve_params(NULL);
    p.keep = 0.3; /* the server's own */
    s = serve(1, &p);
    wait_loaded(s, "");
    assert_int_equal(test_get(s->port, "/health")->status, 200);
    text_is(chat(s, "alpha"), "model", "alpha");
    test_serve_stop(s);
}

static void times(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double seconds;
    } rows[] = {{"5m", 300},   {"1h30m", 5400}, {"300ms", 0.3},  {"90", 90},
                {"0", 0},      {"-1", -1},      {"-1m", -1},     {"-0", 0},
                {"1.5s", 1.5}, {"0s", 0},       {"2h3m4s", 7384}};
    static const char *const wrong[] = {
        "", "-", "m", "5x", "5m3", "1e3", "5 m", "..", "99999999999999999999h"};
    double v;
    nib_error e;
    for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
        test_ok(nib_parse_keep("t", rows[i].text, &v, &e), &e);
        if (v < rows[i].seconds - 1e-9 || v > rows[i].seconds + 1e-9)
            fail_msg("%s is %g", rows[i].text, v);
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(wrong); i++)
        assert_int_equal(nib_parse_keep("t", wrong[i], &v, &e), NIB_ERR_ARGUMENT);
}

/* What a model took goes back to the system. */
static void memory_returns(void **state) {
    (void)state;
    const char *big = test_tiny_model(
        "big.gguf", &(test_tiny){.n_embd = 1024, .n_layer = 8, .chat_template = test_chatml});
    nib_server_params p = test_serve_params(NULL);
    nib_server_model more = {.path = big};
    p.models = &more;
    p.n_models = 1;
    test_server *s = test_serve(&p);
    uint64_t before = nib_rss(), most = 0, after = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(chat(s, "big")->status, 200);
        most = nib_rss();
        test_post(s->port, "/api/generate", GENERATE("big", ",\"keep_alive\":0"));
        wait_loaded(s, "");
        after = nib_rss();
    }
    /* a sanitizer's memory is its own */
    if (!test_quick() && most < before + (30 << 20))
        fail_msg("the model took %llu", (unsigned long long)most);
    if (!test_quick() && after > before + (8 << 20))
        fail_msg("%llu before, %llu with it, %llu after", (unsigned long long)before,
                 (unsigned long long)most, (unsigned long long)after);
    test_serve_stop(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_tell_the_truth),    cmocka_unit_test(digests_are_remembered),
        cmocka_unit_test(unknown_names),           cmocka_unit_test(one_model_takes_any_name),
        cmocka_unit_test(models_that_come_and_go), cmocka_unit_test(switching),
        cmocka_unit_test(switching_under_streams), cmocka_unit_test(switching_to_and_fro),
        cmocka_unit_test(the_queue_has_an_end),    cmocka_unit_test(failed_loads),
        cmocka_unit_test(models_leave_when_told),  cmocka_unit_test(times),
        cmocka_unit_test(memory_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
