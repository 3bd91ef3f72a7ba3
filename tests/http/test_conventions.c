/* What clients of each API rely on, field by field: several prompts, log probabilities, the order
 * of a stream's events, times, and what is refused by name. The models say what a script tells
 * them. */
#include "talkers.h"
#include <jansson.h>
#include <stdlib.h>

#define CHAT_MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}]"

/* The request is refused, and the field named. */
static void refused(const char *path, const char *body, const char *param) {
    test_reply *r = test_post(s->port, path, body);
    if (r->status != 400) fail_msg("%s %s: %d %s", path, body, r->status, r->body.data);
    if (!strstr(r->body.data, param)) fail_msg("%s is not named: %s", param, r->body.data);
}

/* ---- several prompts ---- */

static void several_prompts(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/completions",
                              "{\"prompt\":[\"one!\",\"two?\",\"!\"],\"max_tokens\":2,"
                              "\"temperature\":0,\"n\":2,\"echo\":true}");
    assert_int_equal(r->status, 200);
    static const char *const texts[] = {"one!twothree", "one!twothree", "two?threeone",
                                        "two?threeone", "!twothree",    "!twothree"};
    assert_int_equal(json_array_size(test_json(r, "choices")), 6);
    for (int i = 0; i < 6; i++) {
        char path[40];
        snprintf(path, sizeof path, "choices.%d.text", i);
        text_is(r, path, texts[i]);
        snprintf(path, sizeof path, "choices.%d.index", i);
        assert_int_equal(test_json_int(r, path), i);
    }
    assert_int_equal(test_json_int(r, "usage.completion_tokens"), 12);
    int64_t n_prompt = test_json_int(r, "usage.prompt_tokens");
    assert_true(n_prompt >= 3);
    /* lists of ids, and one list of ids */
    r = test_post(s->port, "/tokenize", "{\"content\":\"one!\",\"add_special\":true}");
    char ids[256], body[700];
    char *list = json_dumps(test_json(r, "tokens"), JSON_COMPACT);
    snprintf(ids, sizeof ids, "%s", list);
    free(list);
    snprintf(body, sizeof body, "{\"prompt\":[%s,%s],\"max_tokens\":1,\"temperature\":0}", ids,
             ids);
    r = test_post(s->port, "/v1/completions", body);
    text_is(r, "choices.0.text", "two");
    text_is(r, "choices.1.text", "two");
    snprintf(body, sizeof body, "{\"prompt\":%s,\"max_tokens\":1,\"temperature\":0}", ids);
    r = test_post(s->port, "/v1/completions", body);
    text_is(r, "choices.0.text", "two");
    assert_int_equal(json_array_size(test_json(r, "choices")), 1);
    /* streamed: each chunk says whose it is, and there is one end */
    r = test_post(
        s->port, "/v1/completions",
        "{\"prompt\":[\"one!\",\"two?\"],\"max_tokens\":2,\"temperature\":0,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true}}");
    assert_int_equal(r->status, 200);
    has(r, "\"index\":0,\"text\":\"two\"");
    has(r, "\"index\":1,\"text\":\"three\"");
    has(r, "\"completion_tokens\":4");
    const char *done = strstr(r->body.data, "data: [DONE]");
    assert_non_null(done);
    assert_null(strstr(done + 5, "data: [DONE]"));
    /* one that is wrong is an error of the request */
    snprintf(body, sizeof body, "{\"prompt\":[\"one\",[99999999]]}");
    assert_int_equal(test_post(s->port, "/v1/completions", body)->status, 400);
    nib_buf text = {0};
    nib_buf_puts(&text, "{\"max_tokens\":2,\"prompt\":[\"one\",\"");
    for (int i = 0; i < 3000; i++) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"]}");
    r = test_post(s->port, "/v1/completions", text.data);
    assert_int_equal(r->status, 400);
    text_is(r, "error.code", "context_length_exceeded");
    nib_buf_clear(&text);
    nib_buf_puts(&text, "{\"prompt\":[\"a\"");
    for (int i = 0; i < 64; i++) nib_buf_puts(&text, ",\"a\"");
    nib_buf_puts(&text, "]}");
    refused("/v1/completions", text.data, "prompt");
    nib_buf_free(&text);
    refused("/v1/completions", "{\"prompt\":[]}", "prompt");
    refused("/v1/completions", "{\"prompt\":[1,\"a\"]}", "prompt");
    refused("/api/generate", "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}", "prompt");
    nib_sched_stats st;
    double until = nib_now() + TEST_PATIENCE;
    do { /* what was cancelled is over */
        assert_true(nib_now() < until);
        nib_sched_get_stats(nib_server_sched(s->server), &st);
    } while (st.n_running || st.n_waiting);
}

static void several_prompts_of_llama(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/completion",
                              "{\"prompt\":[\"one!\",\"!\"],\"n_predict\":2,\"temperature\":0}");
    assert_int_equal(r->status, 200);
    text_is(r, "0.content", "twothree");
    text_is(r, "1.content", "twothree");
    assert_int_equal(test_json_int(r, "1.index"), 1);
    assert_true(test_json_int(r, "1.tokens_evaluated") > 0);
    r = test_post(s->port, "/completion",
                  "{\"prompt\":[\"one!\",\"two?\"],\"n_predict\":1,\"temperature\":0,"
                  "\"stream\":true}");
    has(r, "{\"index\":1,\"content\":\"three\",");
    r = test_post(s->port, "/completion",
                  "{\"prompt\":[\"one!\"],\"n_predict\":1,\"temperature\":0}");
    text_is(r, "content", "two"); /* one prompt: no list */
}

static void log_probabilities(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/completions",
                              "{\"prompt\":\"one!\",\"max_tokens\":3,\"temperature\":0,"
                              "\"logprobs\":2}");
    assert_int_equal(r->status, 200);
    text_is(r, "choices.0.logprobs.tokens.2", "one");
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.0"), 0);
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.1"), 3);
    assert_int_equal(test_json_int(r, "choices.0.logprobs.text_offset.2"), 8);
    assert_int_equal(json_object_size(test_json(r, "choices.0.logprobs.top_logprobs.0")), 2);
    r = test_post(s->port, "/v1/completions",
                  "{\"prompt\":\"one!\",\"max_tokens\":2,\"temperature\":0,\"logprobs\":0,"
                  "\"stream\":true}");
    has(r, "\"text_offset\":[3]");
    refused("/v1/completions", "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1}", "logprobs");
    refused("/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix");
    refused("/v1/completions", "{\"prompt\":\"a\",\"best_of\":3}", "best_of");
    refused("/v1/completions", "{\"prompt\":\"a\",\"best_of\":1,\"n\":2}", "best_of");
    assert_int_equal(test_post(s->port, "/v1/completions",
                               "{\"prompt\":\"a\",\"best_of\":2,\"n\":2,\"max_tokens\":1}")
                         ->status,
                     200);
}

/* ---- OpenAI chat ---- */

static void chat_fields(void **state) {
    (void)state;
    static const char path[] = "/v1/chat/completions";
    test_reply *r = test_post(thinker->port, path, "{" CHAT "}");
    assert_true(test_json_int(r, "usage.completion_tokens_details.reasoning_tokens") > 0);
    assert_true(test_json_int(r, "usage.completion_tokens_details.reasoning_tokens") <
                test_json_int(r, "usage.completion_tokens"));
    assert_int_equal(test_json_int(r, "usage.prompt_tokens_details.cached_tokens"), 0);
    assert_true(json_is_null(test_json(r, "choices.0.message.refusal")));
    assert_true(json_is_null(test_json(r, "choices.0.logprobs")));
    /* the same prompt again, longer than a page, is known */
    nib_buf text = {0};
    nib_buf_puts(&text, "{\"temperature\":0,\"max_tokens\":1,\"messages\":[{\"role\":\"user\","
                        "\"content\":[{\"type\":\"text\",\"text\":\"");
    for (int i = 0; i < 100; i++) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"},{\"type\":\"text\",\"text\":\"Go\"}]}]}");
    assert_int_equal(test_post(s->port, path, text.data)->status, 200);
    r = test_post(s->port, path, text.data);
    assert_true(test_json_int(r, "usage.prompt_tokens_details.cached_tokens") >= 64);
    nib_buf_free(&text);
    refused(path, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content");
    refused(path, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content");
    refused(path, "{" CHAT ",\"tools\":[{\"type\":\"function\"}]}", "tools");
    refused(path, "{" CHAT ",\"response_format\":{\"type\":\"json_object\"}}", "response_format");
    refused(path, "{" CHAT ",\"logit_bias\":{\"a\":1}}", "logit_bias");
    refused(path, "{" CHAT ",\"top_logprobs\":1}", "top_logprobs");
    refused(path, "{" CHAT ",\"no_such_field\":1}", "no_such_field");
    refused(path, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
            "image_url");
    assert_int_equal(test_post(s->port, path,
                               "{" CHAT ",\"max_tokens\":1,\"tools\":[],\"n\":null,\"stop\":null,"
                               "\"logit_bias\":{},\"seed\":-7,\"user\":\"me\",\"store\":false}")
                         ->status,
                     200);
    r = test_post(s->port, path,
                  "{" CHAT ",\"max_tokens\":2,\"n\":2,\"stream\":true,\"logprobs\":true,"
                  "\"stream_options\":{\"include_usage\":true}}");
    has(r, "\"index\":1,\"delta\":{\"content\":\"one\"");
    has(r, "\"top_logprobs\":[]");
    const char *usage = strstr(r->body.data, "\"choices\":[],\"usage\":{");
    assert_non_null(usage);
    assert_true(usage < strstr(r->body.data, "data: [DONE]"));
}

/* ---- Ollama ---- */

static void ollama_fields(void **state) {
    (void)state;
    test_reply *r = test_post(thinker->port, "/api/chat",
                              "{\"model\":\"m\",\"stream\":false,\"think\":true," CHAT_MESSAGES
                              ",\"options\":{\"temperature\":0,\"num_ctx\":2048,\"mirostat\":0,"
                              "\"tfs_z\":1,\"num_predict\":-1,\"seed\":1,\"stop\":[\"zzz\"],"
                              "\"repeat_last_n\":0,\"min_p\":0.0}}");
    if (r->status != 200) fail_msg("%s", r->body.data);
    text_is(r, "message.thinking", "hmm");
    text_is(r, "message.content", "yes");
    text_is(r, "done_reason", "stop");
    assert_true(json_is_true(test_json(r, "done")));
    const char *at = test_json_text(r, "created_at");
    assert_true(strlen(at) == 27 && at[10] == 'T' && at[26] == 'Z');
    /* nanoseconds: whole numbers, and the parts are not more than the whole */
    int64_t total = test_json_int(r, "total_duration");
    assert_true(total > 1000);
    assert_true(test_json_int(r, "prompt_eval_duration") + test_json_int(r, "eval_duration") <=
                total);
    assert_in_range(test_json_int(r, "load_duration"), 0, total);
    assert_true(test_json_int(r, "eval_count") > 0);
    /* streamed: lines, of which the last alone is done */
    r = test_post(s->port, "/api/generate",
                  "{\"model\":\"m\",\"prompt\":\"Go\",\"options\":{\"num_predict\":2,"
                  "\"temperature\":0}}");
    assert_string_equal(test_header(r, "Content-Type"), "application/x-ndjson");
    has(r, "\"response\":\"one\",\"done\":false}\n");
    has(r, "\"done_reason\":\"length\"");
    assert_int_equal(r->body.data[r->body.len - 1], '\n');
    static const char *const refusals[][2] = {
        {"\"format\":\"json\"", "format"},
        {"\"tools\":[{}]", "tools"},
        {"\"options\":{\"mirostat\":1}", "mirostat"},
        {"\"options\":{\"tfs_z\":0.5}", "tfs_z"},
        {"\"options\":{\"nonsense\":1}", "nonsense"},
        {"\"truncate\":true", "truncate"},
        {"\"think\":5", "think"},
    };
    for (size_t i = 0; i < NIB_ARRAY_LEN(refusals); i++) {
        char body[300];
        snprintf(body, sizeof body, "{\"model\":\"m\"," CHAT_MESSAGES ",%s}", refusals[i][0]);
        refused("/api/chat", body, refusals[i][1]);
    }
    refused("/api/generate", "{\"prompt\":\"a\",\"raw\":true,\"system\":\"b\"}", "system");
    refused("/api/generate", "{\"prompt\":\"a\",\"images\":[\"x\"]}", "images");
    refused("/api/generate", "{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix");
    refused("/api/embed", "{\"input\":\"a\",\"truncate\":true}", "truncate");
}

/* ---- Anthropic ---- */

static void in_order(const test_reply *r, const char *const *parts, size_t n) {
    const char *p = r->body.data;
    for (size_t i = 0; i < n; i++) {
        p = strstr(p, parts[i]);
        if (!p) fail_msg("'%s' is missing, or too early, in: %s", parts[i], r->body.data);
        p++;
    }
}

static void anthropic_fields(void **state) {
    (void)state;
    test_reply *r = test_post(thinker->port, "/v1/messages",
                              "{\"model\":\"m\",\"max_tokens\":50,\"stream\":true," CHAT
                              ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}}");
    static const char *const events[] = {"event: message_start\n",
                                         "event: content_block_start\n",
                                         "\"index\":0,\"content_block\":{\"type\":\"thinking\"",
                                         "{\"type\":\"thinking_delta\",\"thinking\":\"hmm\"}",
                                         "{\"type\":\"signature_delta\"",
                                         "event: content_block_stop\n",
                                         "\"index\":1,\"content_block\":{\"type\":\"text\"",
                                         "{\"type\":\"text_delta\",\"text\":\"yes\"}",
                                         "{\"type\":\"content_block_stop\",\"index\":1}",
                                         "event: message_delta\n",
                                         "\"stop_reason\":\"end_turn\",\"stop_sequence\":null}",
                                         "event: message_stop\n"};
    in_order(r, events, NIB_ARRAY_LEN(events));
    r = test_post(s->port, "/v1/messages",
                  "{\"model\":\"m\",\"max_tokens\":9," CHAT ",\"stop_sequences\":[\"three\"],"
                  "\"system\":[{\"type\":\"text\",\"text\":\"Be\",\"cache_control\":{\"type\":"
                  "\"ephemeral\"}},{\"type\":\"text\",\"text\":\" good\"}],\"metadata\":"
                  "{\"user_id\":\"x\"}}");
    text_is(r, "stop_reason", "stop_sequence");
    text_is(r, "stop_sequence", "three");
    text_is(r, "content.0.text", "onetwo");
    int64_t n = test_json_int(r, "usage.input_tokens");
    r = test_post(s->port, "/v1/messages/count_tokens",
                  "{\"model\":\"m\"," CHAT_MESSAGES ",\"system\":\"Be good\"}");
    assert_int_equal(test_json_int(r, "input_tokens"), n);
    nib_buf text = {0};
    nib_buf_puts(&text, "{\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 3000; i++) nib_buf_puts(&text, "word ");
    nib_buf_puts(&text, "\"}]}");
    r = test_post(s->port, "/v1/messages", text.data);
    assert_int_equal(r->status, 400);
    assert_int_equal(strncmp(test_json_text(r, "error.message"), "prompt is too long", 18), 0);
    nib_buf_free(&text);
    refused("/v1/messages", "{" CHAT "}", "max_tokens");
    refused("/v1/messages", "{\"max_tokens\":1," CHAT ",\"tools\":[{\"name\":\"x\"}]}", "tools");
    refused("/v1/messages", "{\"max_tokens\":1," CHAT ",\"top_p\":7}", "top_p");
    refused("/v1/messages",
            "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
            "\"image\"}]}]}",
            "image");
    refused("/v1/messages",
            "{\"max_tokens\":1,\"messages\":[{\"role\":\"system\",\"content\":\"x\"}]}", "role");
}

/* ---- llama.cpp ---- */

static void llama_fields(void **state) {
    (void)state;
    /* half a character is no text: its bytes */
    test_reply *r =
        test_post(s->port, "/tokenize", "{\"content\":\"\xc3\xa9\",\"with_pieces\":true}");
    has(r, "\"piece\":[195]");
    has(r, "\"piece\":[169]");
    r = test_post(s->port, "/tokenize", "{\"content\":\"</s>\",\"parse_special\":false}");
    size_t plain = json_array_size(test_json(r, "tokens"));
    r = test_post(s->port, "/tokenize", "{\"content\":\"</s>\"}");
    assert_true(json_array_size(test_json(r, "tokens")) < plain);
    r = test_post(s->port, "/tokenize", "{\"content\":\"\"}");
    assert_int_equal(json_array_size(test_json(r, "tokens")), 0);
    r = test_post(s->port, "/detokenize", "{\"tokens\":[]}");
    text_is(r, "content", "");
    refused("/tokenize", "{}", "content");
    refused("/tokenize", "{\"content\":5}", "content");
    refused("/tokenize", "{\"content\":\"a\",\"with_piece\":true}", "with_piece");
    refused("/tokenize", "{\"content\":\"a\",\"add_special\":1}", "add_special");
    refused("/detokenize", "{\"tokens\":[5],\"x\":1}", "x");
    refused("/detokenize", "{\"tokens\":[99999999]}", "tokens");
    refused("/detokenize", "{\"tokens\":\"a\"}", "tokens");
    refused("/apply-template", "{}", "messages");
    /* what programs send by default is taken; what would change the reply is not */
    r = test_post(s->port, "/completion",
                  "{\"prompt\":\"one!\",\"n_predict\":3,\"temperature\":0,\"mirostat\":0,"
                  "\"mirostat_tau\":5.0,\"dry_multiplier\":0.0,\"dry_base\":1.75,"
                  "\"xtc_probability\":0,\"xtc_threshold\":0.1,\"dynatemp_range\":0,\"min_keep\":0,"
                  "\"t_max_predict_ms\":60000,\"logit_bias\":[[5,-1.5],[6,false]],\"id_slot\":-1,"
                  "\"cache_prompt\":true,\"typical_p\":1.0,\"stop\":[],\"grammar\":\"\"}");
    if (r->status != 200) fail_msg("%s", r->body.data);
    text_is(r, "content", "twothreeone");
    text_is(r, "stop_type", "limit");
    assert_int_equal(test_json_int(r, "tokens_predicted"), 3);
    assert_int_equal(test_json_int(r, "timings.predicted_n"), 3);
    assert_true(json_is_false(test_json(r, "has_new_line")));
    refused("/completion", "{\"prompt\":\"a\",\"mirostat\":2}", "mirostat");
    refused("/completion", "{\"prompt\":\"a\",\"dry_multiplier\":0.8}", "dry_multiplier");
    refused("/completion", "{\"prompt\":\"a\",\"grammar\":\"root ::= x\"}", "grammar");
    refused("/completion", "{\"prompt\":\"a\",\"logit_bias\":[[\"a\",1]]}", "logit_bias");
    refused("/completion", "{\"prompt\":\"a\",\"logit_bias\":[[5]]}", "logit_bias");
    refused("/completion", "{\"n_predict\":1}", "prompt");
}

/* Prometheus: every name is explained once, buckets only rise. */
static void metrics(void **state) {
    (void)state;
    test_reply *r = test_get(s->port, "/metrics");
    assert_int_equal(r->status, 200);
    static const char *const histograms[] = {"nib_time_to_first_token_seconds",
                                             "nib_inter_token_seconds"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(histograms); i++) {
        char name[80];
        long long before = 0, n = 0;
        int n_buckets = 0;
        snprintf(name, sizeof name, "# TYPE %s histogram\n", histograms[i]);
        has(r, name);
        snprintf(name, sizeof name, "%s_bucket{", histograms[i]);
        for (const char *p = r->body.data; (p = strstr(p, name)); n_buckets++) {
            p = strchr(p, '}') + 1;
            n = atoll(p);
            assert_true(n >= before);
            before = n;
        }
        assert_true(n_buckets > 8 && n > 0);
        snprintf(name, sizeof name, "%s_count{model=\"tiny\"} %lld\n", histograms[i], n);
        has(r, name);
    }
    for (const char *p = r->body.data; *p; p = strchr(p, '\n') + 1) {
        assert_true(strncmp(p, "# HELP nib_", 11) == 0 || strncmp(p, "# TYPE nib_", 11) == 0 ||
                    strncmp(p, "nib_", 4) == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_prompts),   cmocka_unit_test(several_prompts_of_llama),
        cmocka_unit_test(log_probabilities), cmocka_unit_test(chat_fields),
        cmocka_unit_test(ollama_fields),     cmocka_unit_test(anthropic_fields),
        cmocka_unit_test(llama_fields),      cmocka_unit_test(metrics),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
