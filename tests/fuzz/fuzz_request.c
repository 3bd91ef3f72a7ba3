/* Every reader of requests, over one JSON body. The first byte chooses the API. */
#include <jansson.h>
#include "server/api.h"
#include "server/api_openai.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const nib_read_fn readers[] = {nib_openai_chat_read,      nib_openai_completion_read,
                                          nib_openai_embedding_read, nib_responses_read,
                                          nib_anthropic_read,        nib_ollama_chat_read,
                                          nib_ollama_generate_read,  nib_llama_completion_read};
    json_t *body;
    nib_error e;
    if (size < 1 || nib_json_parse((const char *)data + 1, size - 1, &body, &e) != NIB_OK) return 0;
    if (json_is_object(body)) {
        nib_arena arena;
        nib_arena_init(&arena, 1 << 24);
        nib_ask a = {.q = nib_request_new(NULL),
                     .arena = &arena,
                     .n = 1,
                     .max_tokens = 2048,
                     .max_messages = 64};
        if (a.q) {
            nib_status s = readers[data[0] % NIB_ARRAY_LEN(readers)](&a, body, &e);
            if (s == NIB_OK && a.q->p.max_tokens > 2048) __builtin_trap();
            if (s != NIB_OK && !e.message[0]) __builtin_trap();
        }
        nib_ask_free(&a);
        nib_arena_free(&arena);
    }
    json_decref(body);
    return 0;
}
