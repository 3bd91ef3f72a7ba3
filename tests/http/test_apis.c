/* Every API says the same reply its own way: whole and streamed, thoughts apart, errors in its
 * shape. The models say what a script tells them, so texts are known. */
#include "talkers.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static void sse_is(const test_reply *r, const char *path, const char *expected) {
    char *text = test_sse_text(r, path);
    assert_string_equal(text, expected);
    free(text);
}

/* ---- OpenAI ---- */

static void openai_chat(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/chat/completions", "{" CHAT ",\"max_tokens\":3}");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "Content-Type"), "application/json");
    text_is(r, "object", "chat.completion");
    text_is(r, "choices.0.message.role", "assistant");
    text_is(r, "choices.0.message.content", "onetwothree");
    text_is(r, "choices.0.finish_reason", "length");
    assert_int_equal(test_json_int(r, "usage.completion_tokens"), 3);
    assert_int_equal(test_json_int(r, "usage.total_tokens"),
                     test_json_int(r, "usage.prompt_tokens") + 3);
    r = test_post(s->port, "/v1/chat/completions",
                  "{" CHAT ",\"max_tokens\":3,\"stop\":[\"twoth\"],\"n\":2}");
    text_is(r, "choices.0.message.content", "one");
    text_is(r, "choices.1.message.content", "one");
    text_is(r, "choices.1.finish_reason", "stop");
    /* parts, developer, logprobs, bias */
    r = test_post(s->port, "/v1/chat/completions",
                  "{\"messages\":[{\"role\":\"developer\",\"content\":\"Be good\"},{\"role\":"
                  "\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Go\"}]}],\"temperature\":0,"
                  "\"max_completion_tokens\":2,\"logprobs\":true,\"top_logprobs\":2,\"tools\":null,"
                  "\"user\":\"me\",\"response_format\":{\"type\":\"text\"}}");
    assert_int_equal(r->status, 200);
    text_is(r, "choices.0.logprobs.content.1.token", "two");
    text_is(r, "choices.0.logprobs.content.1.top_logprobs.0.token", "two");
    assert_true(json_real_value(test_json(r, "choices.0.logprobs.content.0.logprob")) <= 0);
    assert_int_equal(test_json_int(r, "choices.0.logprobs.content.0.bytes.0"), 'o');
}

static void openai_stream(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/chat/completions",
                              "{" CHAT ",\"max_tokens\":4,\"stream\":true,\"stream_options\":"
                              "{\"include_usage\":true}}");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "Content-Type"), "text/event-stream");
    assert_true(r->n_chunks >= 5);
    sse_is(r, "choices.0.delta.content", "onetwothreeone");
    sse_is(r, "choices.0.delta.role", "assistant");
    sse_is(r, "choices.0.finish_reason", "length");
    has(r, "\"choices\":[],\"usage\":{\"prompt_tokens\":");
    assert_string_equal(r->body.data + r->body.len - 16, "\n\ndata: [DONE]\n\n");
    r = test_post(thinker->port, "/v1/chat/completions", "{" CHAT ",\"stream\":true}");
    sse_is(r, "choices.0.delta.reasoning_content", "hmm");
    sse_is(r, "choices.0.delta.content", "yes");
    sse_is(r, "choices.0.finish_reason", "stop");
    r = test_post(thinker->port, "/v1/chat/completions", "{" CHAT "}");
    text_is(r, "choices.0.message.reasoning_content", "hmm");
    text_is(r, "choices.0.message.content", "yes");
}

static void openai_completions(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/completions",
                              "{\"prompt\":\"one!\",\"max_tokens\":2,\"temperature\":0,\"echo\":"
                              "true}");
    text_is(r, "object", "text_completion");
    text_is(r, "choices.0.text", "one!twothree");
    r = test_post(s->port, "/v1/completions",
                  "{\"prompt\":[\"one!\"],\"max_tokens\":3,\"temperature\":0,\"stream\":true}");
    sse_is(r, "choices.0.text", "twothreeone");
    assert_int_equal(test_post(s->port, "/v1/completions", "{}")->status, 400);
    assert_int_equal(test_post(s->port, "/v1/completions", "{\"prompt\":[999999]}")->status, 400);
}

static void openai_embeddings(void **state) {
    (void)state;
    test_reply *r = test_post(s->port, "/v1/embeddings", "{\"input\":[\"one\",\"two\"]}");
    assert_int_equal(r->status, 200);
    json_t *v = test_json(r, "data.1.embedding");
    double sum = 0;
    size_t n = json_array_size(v);
    for (size_t i = 0; i < n; i++) sum += pow(json_number_value(json_array_get(v, i)), 2);
    assert_true(n > 8 && fabs(sum - 1) < 1e-5);
    double first = json_number_value(json_array_get(v, 0));
    r = test_post(s->port, "/v1/embeddings",
                  "{\"input\":\"two\",\"encoding_format\":\"base64\",\"user\":\"x\"}");
    assert_int_equal(strlen(test_json_text(r, "data.0.embedding")), (n * 4 + 2) / 3 * 4);
    /* the same number, by hand: the first four bytes are six characters' worth */
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *text = test_json_text(r, "data.0.embedding");
    uint64_t bits = 0;
    for (int i = 0; i < 6; i++) bits = bits << 6 | (uint64_t)(strchr(digits, text[i]) - digits);
    uint8_t bytes[4];
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(bits >> (28 - 8 * i));
    float f;
    memcpy(&f, bytes, 4);
    assert_true(fabs((double)f - first) < 1e-6);
    assert_int_equal(
        test_post(s->port, "/v1/embeddings", "{\"input\":\"a\",\"dimensions\":99999}")->status,
        400);
    assert_int_equal(test_post(s->port, "/v1/embeddings", "{\"input\":[]}")->status, 400);
    assert_int_equal(test_post(s->port, "/v1/embeddings", "{\"input\":\"\"}")->status, 400);
}

static void openai_responses(void **state) {
    (void)state;
    char id[64], body[512];
    test_reply *r = test_post(s->port, "/v1/responses",
                              "{\"input\":\"Go\",\"max_output_tokens\":3,\"temperature\":0,"
                              "\"instructions\":\"Be good\",\"metadata\":{\"a\":\"b\"}}");
    assert_int_equal(r->status, 200);
    text_is(r, "status", "incomplete");
    text_is(r, "incomplete_details.reason", "max_output_tokens");
    text_is(r, "output.0.content.0.text", "onetwothree");
    text_is(r, "metadata.a", "b");
    int64_t n = test_json_int(r, "usage.input_tokens");
    snprintf(id, sizeof id, "%s", test_json_text(r, "id"));
    /* it is remembered */
    snprintf(body, sizeof body, "/v1/responses/%s", id);
    r = test_get(s->port, body);
    text_is(r, "id", id);
    snprintf(body, sizeof body,
             "{\"input\":\"Go\",\"max_output_tokens\":2,\"temperature\":0,\"store\":false,"
             "\"previous_response_id\":\"%s\"}",
             id);
    r = test_post(s->port, "/v1/responses", body);
    assert_int_equal(r->status, 200);
    assert_true(test_json_int(r, "usage.input_tokens") > n);
    text_is(r, "previous_response_id", id);
    snprintf(body, sizeof body, "/v1/responses/%s", test_json_text(r, "id"));
    assert_int_equal(test_get(s->port, body)->status, 404); /* not stored */
    snprintf(body, sizeof body, "/v1/responses/%s", id);
    r = test_ask(s->port, "DELETE", body, NULL, NULL);
    assert_true(json_is_true(test_json(r, "deleted")));
    assert_int_equal(test_get(s->port, body)->status, 404);
    r = test_post(s->port, "/v1/responses",
                  "{\"input\":\"a\",\"previous_response_id\":\"resp_x\"}");
    assert_int_equal(r->status, 404);
    /* streamed */
    r = test_post(thinker->port, "/v1/responses",
                  "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":"
                  "\"Go\"}]}],\"temperature\":0,\"stream\":true}");
    static const char *const events[] = {"response.created",
                                         "response.in_progress",
                                         "response.output_item.added",
                                         "response.reasoning_text.delta",
                                         "response.reasoning_text.done",
                                         "response.output_item.done",
                                         "response.output_item.added",
                                         "response.content_part.added",
                                         "response.output_text.delta",
                                         "response.output_text.done",
                                         "response.content_part.done",
                                         "response.output_item.done",
                                         "response.completed"};
    const char *p = r->body.data;
    for (size_t i = 0; i < NIB_ARRAY_LEN(events); i++) {
        char line[64];
        snprintf(line, sizeof line, "event: %s\n", events[i]);
        p = strstr(p, line);
        if (!p) fail_msg("event %zu, %s, is missing in: %s", i, events[i], r->body.data);
        p += 1;
    }
    has(r, "\"sequence_number\":12");
    has(r, "\"reasoning_tokens\":");
    assert_int_equal(test_post(s->port, "/v1/responses", "{}")->status, 400);
    r = test_post(s->port, "/v1/responses", "{\"input\":\"a\",\"background\":true}");
    text_is(r, "error.param", "background");
}

/* ---- Anthropic ---- */

static void anthropic(void **state) {
    (void)state;
    test_reply *r =
        test_post(s->port, "/v1/messages",
                  "{\"model\":\"m\",\"max_tokens\":3,\"temperature\":0,\"system\":[{\"type\":"
                  "\"text\",\"text\":\"Be good\",\"cache_control\":{\"type\":\"ephemeral\"}}],"
                  "\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}]}");
    assert_int_equal(r->status, 200);
    text_is(r, "type", "message");
    text_is(r, "content.0.text", "onetwothree");
    text_is(r, "stop_reason", "max_tokens");
    assert_int_equal(test_json_int(r, "usage.output_tokens"), 3);
    r = test_post(s->port, "/v1/messages",
                  "{\"max_tokens\":9,\"stop_sequences\":[\"three\"]," CHAT "}");
    text_is(r, "content.0.text", "onetwo");
    text_is(r, "stop_reason", "stop_sequence");
    text_is(r, "stop_sequence", "three");
    /* the last message is gone on with */
    r = test_post(s->port, "/v1/messages",
                  "{\"max_tokens\":2,\"temperature\":0,\"messages\":[{\"role\":\"user\","
                  "\"content\":\"Go\"},{\"role\":\"assistant\",\"content\":\"one!\"}]}");
    text_is(r, "content.0.text", "twothree");
    r = test_post(
        thinker->port, "/v1/messages",
        "{\"max_tokens\":9,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}," CHAT
        ",\"stream\":true}");
    static const char *const events[] = {"message_start",       "ping",
                                         "content_block_start", "content_block_delta",
                                         "content_block_delta", "content_block_stop",
                                         "content_block_start", "content_block_delta",
                                         "content_block_stop",  "message_delta",
                                         "message_stop"};
    const char *p = r->body.data;
    for (size_t i = 0; i < NIB_ARRAY_LEN(events); i++) {
        char line[64];
        snprintf(line, sizeof line, "event: %s\n", events[i]);
        p = strstr(p, line);
        if (!p) fail_msg("event %zu, %s, is missing in: %s", i, events[i], r->body.data);
        p += 1;
    }
    sse_is(r, "delta.thinking", "hmm");
    sse_is(r, "delta.text", "yes");
    sse_is(r, "delta.stop_reason", "end_turn");
    r = test_post(s->port, "/v1/messages/count_tokens", "{" CHAT "}");
    assert_true(test_json_int(r, "input_tokens") > 3);
    r = test_post(s->port, "/v1/messages", "{" CHAT "}");
    assert_int_equal(r->status, 400);
    text_is(r, "type", "error");
    text_is(r, "error.type", "invalid_request_error");
    r = test_post(s->port, "/v1/messages",
                  "{\"max_tokens\":2,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
                  "\"image\"}]}]}");
    assert_int_equal(r->status, 400);
    has(r, "image");
}

/* ---- Ollama ---- */

static void ollama(void **state) {
    (void)state;
    test_reply *r =
        test_post(s->port, "/api/chat",
                  "{\"model\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}"
                  "],\"options\":{\"temperature\":0,\"num_predict\":3,\"num_ctx\":512}}");
    assert_int_equal(r->status, 200);
    assert_string_equal(test_header(r, "Content-Type"), "application/x-ndjson");
    int lines = 0;
    for (const char *p = r->body.data; (p = strchr(p, '\n')); p++) lines++;
    assert_int_equal(lines, 4);
    has(r, "\"message\":{\"role\":\"assistant\",\"content\":\"one\"},\"done\":false}\n");
    has(r, "\"done\":true,\"done_reason\":\"length\",\"total_duration\":");
    r = test_post(thinker->port, "/api/chat",
                  "{\"stream\":false,\"think\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                  "\"Go\"}],\"options\":{\"temperature\":0}}");
    text_is(r, "message.content", "yes");
    text_is(r, "message.thinking", "hmm");
    text_is(r, "done_reason", "stop");
    assert_true(test_json_int(r, "eval_duration") > 0);
    r = test_post(s->port, "/api/generate",
                  "{\"prompt\":\"Go\",\"system\":\"Be good\",\"stream\":false,\"options\":"
                  "{\"temperature\":0,\"num_predict\":2}}");
    text_is(r, "response", "onetwo");
    r = test_post(s->port, "/api/generate",
                  "{\"prompt\":\"two!\",\"raw\":true,\"stream\":false,\"options\":"
                  "{\"temperature\":0,\"num_predict\":2}}");
    text_is(r, "response", "twothree");
    text_is(test_post(s->port, "/api/generate", "{\"model\":\"x\"}"), "done_reason", "load");
    text_is(test_post(s->port, "/api/chat", "{\"model\":\"x\",\"messages\":[],\"keep_alive\":0}"),
            "done_reason", "unload");
    r = test_post(s->port, "/api/embed", "{\"input\":[\"one\",\"two\"],\"dimensions\":4}");
    assert_int_equal(json_array_size(test_json(r, "embeddings.1")), 4);
    r = test_post(s->port, "/api/embeddings", "{\"prompt\":\"one\"}");
    assert_true(json_array_size(test_json(r, "embedding")) > 4);
    text_is(test_get(s->port, "/api/tags"), "models.0.name", "tiny");
    text_is(test_get(s->port, "/api/ps"), "models.0.details.format", "gguf");
    text_is(test_get(s->port, "/api/version"), "version", nib_version());
    text_is(test_post(s->port, "/api/show", "{\"model\":\"x\"}"), "capabilities.0", "completion");
    assert_string_equal(test_get(s->port, "/")->body.data, "Ollama is running");
    r = test_post(s->port, "/api/chat", "{\"messages\":[{\"role\":\"user\"}],\"format\":\"json\"}");
    assert_int_equal(r->status, 400);
    assert_true(*test_json_text(r, "error"));
    r = test_post(
        s->port, "/api/chat",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"options\":{\"mood\":1}}");
    assert_int_equal(r->status, 400);
    has(r, "mood");
}

/* ---- llama.cpp ---- */

static void llama(void **state) {
    (void)state;
    test_reply *r =
        test_post(s->port, "/completion",
                  "{\"prompt\":\"one!\",\"n_predict\":2,\"temperature\":0,\"n_probs\":1}");
    text_is(r, "content", "twothree");
    text_is(r, "stop_type", "limit");
    text_is(r, "completion_probabilities.1.token", "three");
    assert_int_equal(test_json_int(r, "timings.predicted_n"), 2);
    r = test_post(s->port, "/completion",
                  "{\"prompt\":\"one!\",\"n_predict\":9,\"stop\":\"one\",\"temperature\":0,"
                  "\"stream\":true}");
    sse_is(r, "content", "twothree");
    sse_is(r, "stopping_word", "one");
    assert_null(strstr(r->body.data, "[DONE]"));
    r = test_post(s->port, "/apply-template",
                  "{\"messages\":[{\"role\":\"user\",\"content\":\"Go\"}]}");
    has(r, "<|im_start|>user\\nGo<|im_end|>");
    r = test_post(s->port, "/tokenize", "{\"content\":\"!<|im_end|>\",\"with_pieces\":true}");
    has(r, "\"piece\":\"!\"},{\"id\":260,\"piece\":\"<|im_end|>\"}]}");
    r = test_post(s->port, "/tokenize", "{\"content\":\"<|im_end|>\",\"parse_special\":false}");
    assert_null(strstr(r->body.data, "260"));
    r = test_post(s->port, "/tokenize", "{\"content\":\"!\"}");
    int64_t id = test_json_int(r, "tokens.1"); /* behind the space that begins every text */
    char body[64];
    snprintf(body, sizeof body, "{\"tokens\":[%lld,%lld]}", (long long)id, (long long)id);
    text_is(test_post(s->port, "/detokenize", body), "content", "!!");
    assert_int_equal(test_post(s->port, "/detokenize", "{\"tokens\":[-1]}")->status, 400);
    assert_int_equal(test_post(s->port, "/tokenize", "{\"content\":1}")->status, 400);
    r = test_get(s->port, "/props");
    assert_int_equal(test_json_int(r, "total_slots"), 4);
    assert_int_equal(test_json_int(r, "default_generation_settings.n_ctx"), 1024);
    assert_int_equal(json_array_size(test_json(test_get(s->port, "/slots"), "")), 4);
    r = test_get(s->port, "/metrics");
    has(r, "nib_time_to_first_token_seconds_bucket{model=\"tiny\",le=\"+Inf\"}");
    has(r, "nib_generated_tokens_total{model=\"tiny\"} ");
}

/* A prompt sent again is found, and the reply is the same to the bit. */
static void prefixes_are_found(void **state) {
    (void)state;
    nib_server_params p = test_serve_params(
        test_tiny_model("t.gguf", &(test_tiny){.chat_template = test_chatml, .n_ctx = 1024}));
    test_server *t = test_serve(&p);
    nib_buf b = {0};
    nib_buf_puts(&b, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 40; i++) nib_buf_printf(&b, "number %d ", i);
    nib_buf_puts(&b, "\"}],\"temperature\":0,\"max_tokens\":20,\"logprobs\":true}");
    test_reply *r = test_post(t->port, "/v1/chat/completions", b.data);
    assert_int_equal(test_json_int(r, "usage.prompt_tokens_details.cached_tokens"), 0);
    char *cold = json_dumps(test_json(r, "choices"), 0);
    r = test_post(t->port, "/v1/chat/completions", b.data);
    assert_true(test_json_int(r, "usage.prompt_tokens_details.cached_tokens") >= 192);
    char *warm = json_dumps(test_json(r, "choices"), 0);
    assert_string_equal(cold, warm);
    free(cold);
    free(warm);
    nib_buf_free(&b);
    test_serve_stop(t);
}

static void too_long_is_typed(void **state) {
    (void)state;
    nib_buf b = {0};
    nib_buf_puts(&b, "\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 2000; i++) nib_buf_puts(&b, "xyz ");
    nib_buf_puts(&b, "\"}]}");
    nib_buf q = {0};
    nib_buf_printf(&q, "{%s", b.data);
    test_reply *r = test_post(s->port, "/v1/chat/completions", q.data);
    assert_int_equal(r->status, 400);
    text_is(r, "error.code", "context_length_exceeded");
    nib_buf_clear(&q);
    nib_buf_printf(&q, "{\"stream\":true,%s", b.data);
    r = test_post(s->port, "/v1/chat/completions", q.data); /* known before the stream begins */
    assert_int_equal(r->status, 400);
    text_is(r, "error.code", "context_length_exceeded");
    nib_buf_clear(&q);
    nib_buf_printf(&q, "{\"max_tokens\":1,%s", b.data);
    r = test_post(s->port, "/v1/messages", q.data);
    assert_int_equal(r->status, 400);
    has(r, "maximum context length");
    nib_buf_free(&b);
    nib_buf_free(&q);
}

static void embedders_embed(void **state) {
    (void)state;
    nib_server_params p =
        test_serve_params(test_tiny_model("e.gguf", &(test_tiny){.embedder = true}));
    test_server *t = test_serve(&p);
    test_reply *r = test_post(t->port, "/v1/embeddings", "{\"input\":\"a b\"}");
    assert_int_equal(r->status, 200);
    r = test_post(t->port, "/v1/chat/completions", "{" CHAT "}");
    assert_int_equal(r->status, 400);
    text_is(r, "error.code", "unsupported");
    text_is(test_post(t->port, "/api/show", "{}"), "capabilities.0", "embedding");
    test_serve_stop(t);
}

/* Every route is described. */
static void openapi(void **state) {
    (void)state;
    test_reply *r = test_get(s->port, "/openapi.json");
    assert_int_equal(r->status, 200);
    json_t *paths = json_incref(test_json(r, "paths"));
    for (size_t i = 0; i < nib_n_routes; i++) {
        char path[128], method[16];
        const nib_route *t = &nib_routes[i];
        size_t n = strlen(t->path);
        bool open = t->path[n - 1] == '*';
        snprintf(path, sizeof path, "%.*s%s", (int)(n - open), t->path, open ? "{id}" : "");
        for (n = 0; n < sizeof method - 1 && t->method[n]; n++)
            method[n] = (char)(t->method[n] | 0x20);
        method[n] = 0;
        const json_t *op = json_object_get(json_object_get(paths, path), method);
        if (!op) fail_msg("%s %s is not described", t->method, t->path);
        bool body = json_object_get(op, "requestBody") != NULL;
        if (t->flags & NIB_ROUTE_MODEL && t->dialect != NIB_HTML &&
            strcmp(t->method, "POST") == 0 && !body)
            fail_msg("%s has no schema in openapi.json", t->path);
    }
    json_decref(paths);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(openai_chat),
        cmocka_unit_test(openai_stream),
        cmocka_unit_test(openai_completions),
        cmocka_unit_test(openai_embeddings),
        cmocka_unit_test(openai_responses),
        cmocka_unit_test(anthropic),
        cmocka_unit_test(ollama),
        cmocka_unit_test(llama),
        cmocka_unit_test(prefixes_are_found),
        cmocka_unit_test(too_long_is_typed),
        cmocka_unit_test(embedders_embed),
        cmocka_unit_test(openapi),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
