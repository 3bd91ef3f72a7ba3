/* Many replies at once: what comes is what a dialog alone would have said, whatever was cached, who
 * else was there, and whether there was room. */
#include "engine/engine.h"
#include "scriptmodel.h"
#include "testlib.h"
#include "tinymodel.h"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static nib_error e;

/* ---- listening ---- */

typedef struct listener {
    pthread_mutex_t lock;
    pthread_cond_t heard;
    nib_buf text[4];
    char finish[4][16];
    int64_t n_prompt, n_cached, n_generated;
    int n_pieces, n_replies, n_ready, n_vectors;
    float first;
    bool ended;
    nib_status status;
    char message[500];
    nib_job *job;
    int n_progress;
} listener;

static void on_event(void *arg, const nib_event *ev) {
    listener *l = arg;
    pthread_mutex_lock(&l->lock);
    assert_false(l->ended);
    switch (ev->kind) {
    case NIB_EVENT_READY:
        l->n_ready++;
        l->n_prompt = ev->n_prompt;
        break;
    case NIB_EVENT_PIECE:
        l->n_pieces++;
        l->n_progress += ev->piece->kind == NIB_PIECE_PROMPT;
        if (ev->piece->kind == NIB_PIECE_ANSWER)
            nib_buf_put(&l->text[ev->index], ev->piece->text, ev->piece->len);
        break;
    case NIB_EVENT_REPLY:
        l->n_replies++;
        l->n_cached = ev->reply->n_cached;
        l->n_generated += ev->reply->n_generated;
        snprintf(l->finish[ev->index], 16, "%s", ev->reply->finish);
        break;
    case NIB_EVENT_VECTOR:
        l->n_vectors++;
        l->first = ev->vector[0];
        break;
    case NIB_EVENT_END:
        l->ended = true;
        l->status = ev->status;
        if (ev->error) snprintf(l->message, sizeof l->message, "%s", ev->error->message);
        break;
    }
    pthread_cond_broadcast(&l->heard);
    pthread_mutex_unlock(&l->lock);
}

static listener *listener_new(void) {
    listener *l = calloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->heard, NULL);
    return l;
}
static void wait_end(listener *l) {
    pthread_mutex_lock(&l->lock);
    while (!l->ended) pthread_cond_wait(&l->heard, &l->lock);
    pthread_mutex_unlock(&l->lock);
}
static void wait_pieces(listener *l, int n) {
    pthread_mutex_lock(&l->lock);
    while (l->n_pieces < n && !l->ended) pthread_cond_wait(&l->heard, &l->lock);
    pthread_mutex_unlock(&l->lock);
}
static void done(listener *l) {
    nib_job_release(l->job);
    for (int i = 0; i < 4; i++) nib_buf_free(&l->text[i]);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->heard);
    free(l);
}
static const char *text(const listener *l, int i) {
    return l->text[i].len ? l->text[i].data : "";
}

/* ---- making ---- */

static const char *model_path(void) {
    return test_tiny_model("sched.gguf", &(test_tiny){.chat_template = test_chatml, .n_ctx = 1024});
}

static nib_sched *make(const char *path, int n_seq, int64_t n_ctx, int64_t kv_tokens, int n_queue) {
    nib_model *m;
    nib_engine *en;
    nib_sched *s;
    test_ok(nib_model_open(&m, path, NULL, &e), &e);
    nib_engine_params p = {.n_threads = 1,
                           .n_ctx = n_ctx,
                           .n_seq = n_seq,
                           .kv_tokens = kv_tokens,
                           .batch = 128,
                           .ignore_memory = true};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_model_release(m);
    nib_sched_params sp = {.n_queue = n_queue, .chunk = 16};
    test_ok(nib_sched_new(&s, en, &sp, &e), &e);
    return s;
}

static nib_request *ask(nib_sched *s, const char *user, int64_t max_tokens) {
    nib_request *q = nib_request_new(nib_sched_model(s));
    assert_non_null(q);
    q->p.sampling.temperature = 0;
    q->p.max_tokens = max_tokens;
    q->p.now = 1700000000;
    test_ok(nib_messages_add(&q->messages, "user", user, NULL, &e), &e);
    return q;
}

static listener *start(nib_sched *s, nib_request *q) {
    listener *l = listener_new();
    test_ok(nib_sched_submit(s, q, on_event, l, &l->job, &e), &e);
    return l;
}

static nib_sched_stats stats(nib_sched *s) {
    nib_sched_stats st;
    nib_sched_get_stats(s, &st);
    return st;
}

/* What a dialog says, alone. */
static bool ignore_end;
static char *alone(const char *path, const char *user, int64_t max_tokens, float temp,
                   uint64_t seed) {
    nib_model *m;
    nib_engine *en;
    nib_dialog *d;
    nib_reply r;
    test_ok(nib_model_open(&m, path, NULL, &e), &e);
    nib_engine_params p = {.n_threads = 2, .n_ctx = 1024, .batch = 32, .ignore_memory = true};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_dialog_params q = nib_dialog_defaults(m);
    q.sampling.temperature = temp;
    q.sampling.seed = seed;
    q.sampling.seed_given = true;
    q.max_tokens = max_tokens;
    q.ignore_end = ignore_end;
    q.now = 1700000000;
    test_ok(nib_dialog_new(&d, en, &q, &e), &e);
    test_ok(nib_dialog_say(d, user, NULL, NULL, &r, &e), &e);
    char *copy = strdup(r.text);
    nib_dialog_free(d);
    nib_engine_free(en);
    nib_model_release(m);
    return copy;
}

static char *repeated(const char *word, int n) {
    nib_buf b = {0};
    for (int i = 0; i < n; i++) nib_buf_printf(&b, "%s%d ", word, i);
    return b.data;
}

/* ---- tests ---- */

static void many_say_what_one_says(void **state) {
    (void)state;
    enum { N = 24 };
    nib_sched *s = make(model_path(), 8, 1024, 0, 64);
    listener *l[N];
    char user[N][64], *expected[N];
    for (int i = 0; i < N; i++) {
        snprintf(user[i], sizeof user[i], "Say %d things about %c", i * 7, 'a' + i);
        expected[i] = alone(model_path(), user[i], 20, i % 2 ? 0.9f : 0, (uint64_t)i);
    }
    for (int round = 0; round < 2; round++) { /* the second finds much of it cached */
        for (int i = 0; i < N; i++) {
            nib_request *q = ask(s, user[i], 20);
            q->p.sampling.temperature = i % 2 ? 0.9f : 0;
            q->p.sampling.seed = (uint64_t)i;
            q->p.sampling.seed_given = true;
            q->client = (uint64_t)i % 3;
            l[i] = start(s, q);
        }
        for (int i = 0; i < N; i++) {
            wait_end(l[i]);
            assert_int_equal(l[i]->status, NIB_OK);
            assert_int_equal(l[i]->n_ready, 1);
            assert_string_equal(text(l[i], 0), expected[i]);
            done(l[i]);
        }
    }
    assert_int_equal(stats(s).n_replies, 2 * N);
    nib_sched_free(s);
    for (int i = 0; i < N; i++) free(expected[i]);
}

static void a_cached_beginning_changes_nothing(void **state) {
    (void)state;
    char *text_ = repeated("word", 60), *user[3];
    nib_buf b = {0};
    for (int i = 0; i < 3; i++) { /* the same beginning, ends of their own */
        nib_buf_clear(&b);
        nib_buf_printf(&b, "%s and then %d", text_, i);
        user[i] = strdup(b.data);
    }
    nib_sched *s = make(model_path(), 2, 1024, 0, 0);
    for (int i = 0; i < 6; i++) {
        char *expected = alone(model_path(), user[i % 3], 16, 0, 0);
        nib_request *q = ask(s, user[i % 3], 16);
        q->no_cache = i == 5;
        listener *l = start(s, q);
        wait_end(l);
        assert_string_equal(text(l, 0), expected);
        if (i == 0 || i == 5)
            assert_int_equal(l->n_cached, 0);
        else
            assert_true(l->n_cached >= 256 && l->n_cached % NIB_PAGE == 0);
        done(l);
        free(expected);
    }
    nib_sched_stats st = stats(s);
    assert_true(st.cached_tokens >= 4 * 256 && st.kv.n_kept > 0);
    nib_sched_free(s);
    for (int i = 0; i < 3; i++) free(user[i]);
    free(text_);
    nib_buf_free(&b);
}

static void several_replies_share_a_prompt(void **state) {
    (void)state;
    nib_sched *s = make(model_path(), 3, 1024, 0, 0);
    nib_request *q = ask(s, "Tell me of the sea, at some length, please", 16);
    q->n = 4;
    q->p.sampling.temperature = 1;
    q->p.sampling.seed = 5;
    q->p.sampling.seed_given = true;
    listener *l = start(s, q);
    wait_end(l);
    assert_int_equal(l->n_replies, 4);
    for (int i = 0; i < 4; i++) {
        char *expected = alone(model_path(), "Tell me of the sea, at some length, please", 16, 1,
                               5 + (uint64_t)i);
        assert_string_equal(text(l, i), expected);
        free(expected);
    }
    done(l);
    nib_sched_free(s);
}

static void a_small_pool_preempts_and_forgets_nothing(void **state) {
    (void)state;
    enum { N = 8 };
    nib_sched *s = make(model_path(), 4, 512, 512, 64); /* one whole context for four replies */
    char *user = repeated("Count ", 16), *expected[N];
    listener *l[N];
    nib_buf b = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < N; i++) {
            nib_buf_clear(&b);
            nib_buf_printf(&b, "%d %s", i, user);
            ignore_end = true;
            if (pass == 0) expected[i] = alone(model_path(), b.data, 120, 0, 0);
            ignore_end = false;
            if (pass == 0) continue;
            nib_request *q = ask(s, b.data, 120);
            q->p.ignore_end = true;
            l[i] = start(s, q);
        }
    for (int i = 0; i < N; i++) {
        wait_end(l[i]);
        assert_int_equal(l[i]->status, NIB_OK);
        assert_string_equal(text(l[i], 0), expected[i]);
        done(l[i]);
        free(expected[i]);
    }
    nib_sched_stats st;
    do /* END is told before the slot is empty */
        st = stats(s);
    while (st.n_running);
    assert_int_equal(st.kv.n_free + st.kv.n_kept, st.kv.n_pages);
    assert_true(st.n_preempted > 0);
    nib_sched_free(s);
    nib_buf_free(&b);
    free(user);
}

static void the_context_ends_a_reply(void **state) {
    (void)state;
    nib_sched *s = make(model_path(), 2, 128, 0, 0);
    nib_request *q = ask(s, "Go on and on", 0);
    q->p.ignore_end = true;
    listener *l = start(s, q);
    wait_end(l);
    assert_string_equal(l->finish[0], "context");
    assert_int_equal(l->n_prompt + l->n_generated, 128 + 1); /* the last token is not computed */
    done(l);
    char *user = repeated("too long ", 40);
    l = start(s, ask(s, user, 0));
    wait_end(l);
    assert_int_equal(l->status, NIB_ERR_CONTEXT);
    assert_non_null(strstr(l->message, "128 tokens"));
    assert_int_equal(l->n_ready, 0);
    done(l);
    free(user);
    nib_sched_free(s);
}

/* "one two three one two three ..." */
static const char *endless(void) {
    static const test_line lines[] = {{"\n", "one", 9},
                                      {"one", "two", 9},
                                      {"two", "three", 9},
                                      {"three", "one", 9},
                                      {NULL, NULL, 0}};
    return test_script_model("sched-endless.gguf", test_chatml, 4096, lines);
}

static void cancelling(void **state) {
    (void)state;
    nib_sched *s = make(endless(), 2, 4096, 0, 0);
    listener *l[5];
    for (int i = 0; i < 5; i++) l[i] = start(s, ask(s, "Go", 0));
    wait_pieces(l[0], 10);
    nib_job_cancel(l[4]->job); /* waits */
    nib_job_cancel(l[0]->job); /* runs */
    wait_end(l[0]);
    wait_end(l[4]);
    assert_int_equal(l[0]->status, NIB_ERR_CANCELLED);
    assert_int_equal(l[4]->status, NIB_ERR_CANCELLED);
    wait_pieces(l[1], 5);
    nib_job_finish(l[1]->job); /* ends well */
    wait_end(l[1]);
    assert_int_equal(l[1]->status, NIB_OK);
    assert_string_equal(l[1]->finish[0], "interrupted");
    /* a listener that is full: the others go on */
    wait_pieces(l[2], 5);
    nib_job_pause(l[2]->job, true);
    wait_pieces(l[3], 50);
    nib_job_pause(l[2]->job, false);
    nib_job_cancel(l[2]->job);
    nib_sched_free(s); /* with one still running */
    wait_end(l[2]);
    wait_end(l[3]);
    assert_int_equal(l[3]->status, NIB_ERR_CANCELLED);
    for (int i = 0; i < 5; i++) done(l[i]);
}

static void a_long_prompt_can_be_cancelled_and_stops_no_one(void **state) {
    (void)state;
    nib_sched *s = make(model_path(), 2, 1024, 0, 0);
    char *user = repeated("long ", 110);
    listener *a = start(s, ask(s, "short", 40));
    wait_pieces(a, 2);
    listener *b = start(s, ask(s, user, 5));
    wait_pieces(b, 1);
    nib_job_cancel(b->job);
    wait_end(b);
    assert_int_equal(b->status, NIB_ERR_CANCELLED);
    assert_int_equal(b->n_replies, 0);
    wait_end(a);
    assert_int_equal(a->status, NIB_OK);
    done(a);
    done(b);
    free(user);
    nib_sched_free(s);
}

static void limits_and_fairness(void **state) {
    (void)state;
    nib_sched *s = make(endless(), 1, 4096, 0, 3);
    listener *l[4], *extra = listener_new();
    l[0] = start(s, ask(s, "Go", 0));
    wait_pieces(l[0], 1);
    for (int i = 1; i < 4; i++) {
        nib_request *q = ask(s, "Go", 3);
        q->client = i == 3; /* another client came last */
        l[i] = start(s, q);
    }
    nib_request *q = ask(s, "Go", 3);
    assert_int_equal(nib_sched_submit(s, q, on_event, extra, &extra->job, &e), NIB_ERR_LIMIT);
    nib_request_free(q);
    free(extra);
    assert_int_equal(stats(s).n_refused, 1);
    nib_job_cancel(l[0]->job);
    for (int i = 0; i < 4; i++) {
        wait_end(l[i]);
        if (i) assert_string_equal(text(l[i], 0), "onetwothree");
        done(l[i]);
    }
    /* time */
    q = ask(s, "Go", 0);
    q->p.max_seconds = 0.05;
    listener *t = start(s, q);
    wait_end(t);
    assert_int_equal(t->status, NIB_OK);
    assert_string_equal(t->finish[0], "time");
    assert_true(t->text[0].len > 0);
    done(t);
    nib_sched_free(s);
}

static void texts_are_embedded_beside_replies(void **state) {
    (void)state;
    nib_sched *s = make(model_path(), 2, 1024, 0, 0);
    listener *a = start(s, ask(s, "Hello", 30));
    nib_request *q = nib_request_new(nib_sched_model(s));
    q->texts = nib_arena_calloc(&q->arena, 3, sizeof *q->texts);
    q->n_texts = 3;
    for (int i = 0; i < 3; i++) q->texts[i].text = NIB_STR("a text");
    listener *l = start(s, q);
    wait_end(l);
    assert_int_equal(l->n_vectors, 3);
    assert_true(l->first != 0);
    wait_end(a);
    assert_int_equal(a->status, NIB_OK);
    done(a);
    done(l);
    /* only the prompt */
    q = ask(s, "Hello", 3);
    q->dry = true;
    l = start(s, q);
    wait_end(l);
    assert_int_equal(l->status, NIB_OK);
    assert_true(l->n_prompt > 5 && l->n_replies == 0);
    done(l);
    nib_sched_free(s);
}

/* Pages: shared, copied when written to, given back. */
static void forks_share_pages(void **state) {
    (void)state;
    nib_model *m;
    nib_engine *en;
    nib_seq *a, *b, *c;
    const float *la, *lb;
    test_ok(nib_model_open(&m, model_path(), NULL, &e), &e);
    nib_engine_params p = {.n_threads = 1, .n_ctx = 512, .n_seq = 3, .ignore_memory = true};
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    test_ok(nib_seq_new(&a, en, &e), &e);
    test_ok(nib_seq_new(&b, en, &e), &e);
    test_ok(nib_seq_new(&c, en, &e), &e);
    int32_t ids[300];
    for (int i = 0; i < 300; i++) ids[i] = 3 + i % 250;
    test_ok(nib_seq_eval(a, ids, 200, NULL, &e), &e);
    int64_t free_before = nib_engine_kv(en).n_free;
    test_ok(nib_seq_fork(b, a, 170, &e), &e);
    assert_int_equal(nib_engine_kv(en).n_free, free_before); /* nothing copied yet */
    int32_t other = 77;
    test_ok(nib_seq_eval(b, &other, 1, &lb, &e), &e);
    assert_int_equal(nib_engine_kv(en).n_free, free_before - 1);
    size_t n = (size_t)nib_model_get_info(m)->n_vocab * sizeof(float);
    float *kept = malloc(n);
    memcpy(kept, lb, n);
    /* the same from the beginning */
    test_ok(nib_seq_eval(c, ids, 170, NULL, &e), &e);
    test_ok(nib_seq_eval(c, &other, 1, &la, &e), &e);
    assert_memory_equal(kept, la, n);
    /* a did not change under b */
    nib_seq_rewind(c, 170);
    test_ok(nib_seq_eval(c, ids + 170, 31, &la, &e), &e);
    memcpy(kept, la, n);
    test_ok(nib_seq_eval(a, ids + 200, 1, &la, &e), &e);
    assert_memory_equal(kept, la, n);
    /* kept after its sequence, found again, given up under pressure */
    nib_seq_publish(a);
    nib_seq_free(a);
    nib_seq_free(b);
    nib_seq_rewind(c, 0);
    assert_int_equal(nib_engine_kv(en).n_kept, 3);
    assert_int_equal(nib_seq_adopt(c, ids, 192), 192);
    assert_int_equal(nib_engine_kv(en).n_kept, 0);
    test_ok(nib_seq_eval(c, ids + 192, 9, &la, &e), &e);
    assert_memory_equal(kept, la, n);
    nib_seq_rewind(c, 0);
    assert_int_equal(nib_seq_adopt(c, ids + 1, 192), 0); /* another text */
    assert_int_equal(nib_seq_adopt(c, ids, 100), 64);
    nib_seq_rewind(c, 0);
    nib_engine_forget(en);
    assert_int_equal(nib_engine_kv(en).n_free, nib_engine_kv(en).n_pages);
    free(kept);
    nib_engine_free(en);
    nib_model_release(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forks_share_pages),
        cmocka_unit_test(many_say_what_one_says),
        cmocka_unit_test(a_cached_beginning_changes_nothing),
        cmocka_unit_test(several_replies_share_a_prompt),
        cmocka_unit_test(a_small_pool_preempts_and_forgets_nothing),
        cmocka_unit_test(the_context_ends_a_reply),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(a_long_prompt_can_be_cancelled_and_stops_no_one),
        cmocka_unit_test(limits_and_fairness),
        cmocka_unit_test(texts_are_embedded_beside_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
