/* The files of a Hugging Face folder from bytes. The first byte chooses: a SentencePiece model,
 * tokenizer.json, tokenizer_config.json or config.json of some family. */
#include <stdlib.h>
#include "convert/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *parse(const uint8_t *data, size_t size) {
    json_t *v = NULL;
    nib_error e;
    if (nib_json_parse((const char *)data, size, &v, &e) != NIB_OK) return NULL;
    if (json_is_object(v)) return v;
    json_decref(v);
    return NULL;
}

static void check(nib_status s, const nib_error *e) {
    if (s != NIB_OK && (!e->message[0] || strchr(e->message, '\n'))) abort();
}

static const char small_tokenizer[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,"
    "\"ab\":3},\"merges\":[\"a b\"]}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const archs[] = {"llama", "phi3",       "bert",    "gemma3",   "gptneox",
                                        "olmo2", "nomic-bert", "granite", "stablelm", "qwen3"};
    if (!size) return 0;
    nib_error e = {0};
    conv_model m;
    conv_model_init(&m);
    conv_hf h = {.folder = "/nonexistent",
                 .family = conv_family_of_arch(nib_str_c(archs[data[0] / 4 % 10]))};
    json_t *v = data[0] % 4 ? parse(data + 1, size - 1) : NULL;
    switch (data[0] % 4) {
    case 0: {
        conv_vocab vocab = {.m = &m};
        check(conv_vocab_sentencepiece(&vocab, 0, data + 1, size - 1, &e), &e);
        break;
    }
    case 1:
        h.tokenizer = v;
        if (v) check(conv_hf_vocab(&m, &h, NULL, &e), &e);
        break;
    case 2:
        h.tok_config = v;
        h.tokenizer = parse((const uint8_t *)small_tokenizer, sizeof small_tokenizer - 1);
        check(conv_hf_vocab(&m, &h, NULL, &e), &e);
        break;
    default:
        h.config = v;
        if (v) check(conv_hf_keys(&m, &h, &e), &e);
    }
    conv_hf_close(&h);
    conv_model_free(&m);
    return 0;
}
