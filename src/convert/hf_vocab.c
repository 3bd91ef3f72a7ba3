/* The vocabulary: which of a folder's tokenizer files holds it, and its keys in GGUF.
 *
 * tokenizer.model (SentencePiece) wins where it is there, as with the peers; then tokenizer.json
 * (byte-level BPE, SentencePiece-style BPE, WordPiece); then the older vocab.json with merges.txt,
 * or vocab.txt. Ids without a token, up to config.json's vocab_size, become "[PAD<id>]". */
#include <stdlib.h>
#include "convert/internal.h"

enum { MAX_VOCAB = 1 << 24 };

nib_status conv_vocab_init(conv_vocab *v, int64_t n, nib_error *e) {
    if (n < 1 || n > MAX_VOCAB)
        return nib_fail(e, NIB_ERR_FORMAT, "the vocabulary has %lld tokens: expected 1 to %d",
                        (long long)n, MAX_VOCAB);
    nib_arena *a = &v->m->arena;
    v->n = n;
    v->tokens = nib_arena_calloc(a, (size_t)n, sizeof *v->tokens);
    v->scores = nib_arena_alloc(a, (size_t)n * sizeof *v->scores);
    v->types = nib_arena_alloc(a, (size_t)n * sizeof *v->types);
    if (!v->tokens || !v->scores || !v->types)
        return nib_fail_nomem(e, (size_t)n * 24, "the vocabulary");
    for (int64_t i = 0; i < n; i++) v->scores[i] = -10000, v->types[i] = 5;
    return NIB_OK;
}

/* Ids that got no token. */
static nib_status fill_holes(conv_vocab *v, nib_error *e) {
    for (int64_t i = 0; i < v->n; i++) {
        if (v->tokens[i].p) continue;
        char text[32];
        int n = snprintf(text, sizeof text, "[PAD%lld]", (long long)i);
        v->tokens[i] = (nib_str){nib_arena_strndup(&v->m->arena, text, (size_t)n), (size_t)n};
        v->types[i] = 5;
        if (!v->tokens[i].p) return nib_fail_nomem(e, 16, "a token");
    }
    return NIB_OK;
}

/* ---- the older files ---- */

/* vocab.txt: a token a line, in the order of ids. */
static nib_status from_lines(conv_vocab *v, const conv_hf *h, int64_t n_config, nib_error *e) {
    nib_buf text = {0};
    nib_status s = conv_hf_bytes(h, "vocab.txt", 64 << 20, &text, e);
    if (s != NIB_OK) goto out;
    int64_t n = 0;
    for (size_t i = 0; i < text.len; i++) n += text.data[i] == '\n';
    if (text.len && text.data[text.len - 1] != '\n') n++;
    char *copy = nib_arena_strndup(&v->m->arena, text.data, text.len);
    if (!copy) {
        s = nib_fail_nomem(e, text.len, "vocab.txt");
        goto out;
    }
    NIB_TRY_OUT(conv_vocab_init(v, NIB_MAX(n, n_config), e));
    static const char *const control[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (int64_t i = 0; i < n; i++) {
        const char *end = strchr(copy, '\n');
        size_t len = end ? (size_t)(end - copy) : strlen(copy);
        nib_str token = {copy, len};
        if (len && copy[len - 1] == '\r') token.n--;
        v->types[i] = 1;
        for (size_t k = 0; k < NIB_ARRAY_LEN(control); k++)
            if (nib_str_eq_c(token, control[k])) v->types[i] = 3;
        v->tokens[i] = token;
        copy += len + 1;
    }
    v->model = "bert";
    v->phantom = true;
out:
    nib_buf_free(&text);
    return s;
}

/* merges.txt: "a b" a line, after a first line "#version: ...". */
static nib_status read_merges(conv_vocab *v, const conv_hf *h, nib_error *e) {
    nib_buf text = {0};
    nib_status s = conv_hf_bytes(h, "merges.txt", 64 << 20, &text, e);
    if (s != NIB_OK || !text.data) goto out;
    size_t n = 1;
    for (size_t i = 0; i < text.len; i++) n += text.data[i] == '\n';
    char *copy = nib_arena_strndup(&v->m->arena, text.data, text.len);
    v->merges = nib_arena_alloc(&v->m->arena, n * sizeof *v->merges);
    if (!copy || !v->merges) {
        s = nib_fail_nomem(e, text.len, "merges.txt");
        goto out;
    }
    bool first = true;
    while (*copy) {
        size_t len = strcspn(copy, "\n"), used = len;
        if (used && copy[used - 1] == '\r') used--;
        if (used && !(first && copy[0] == '#')) v->merges[v->n_merges++] = (nib_str){copy, used};
        first = false;
        copy += len + (copy[len] == '\n');
    }
out:
    nib_buf_free(&text);
    return s;
}

/* vocab.json and merges.txt are what tokenizer.json has inside: read as if they were one. */
static nib_status from_pair(conv_vocab *v, conv_hf *h, int64_t n_config, bool *found,
                            nib_error *e) {
    json_t *vocab = NULL, *added = NULL;
    nib_status s;
    *found = false;
    NIB_TRY_OUT(conv_hf_json(h, "vocab.json", &vocab, e));
    if (!vocab) return NIB_OK;
    NIB_TRY_OUT(conv_hf_json(h, "added_tokens.json", &added, e));
    json_t *list = json_array();
    const char *text;
    json_t *id;
    json_object_foreach(added, text, id) json_array_append_new(
        list, json_pack("{s:s, s:O, s:b}", "content", text, "id", id, "special", 0));
    h->tokenizer =
        json_pack("{s:{s:s, s:O}, s:o, s:{s:s, s:b}}", "model", "type", "BPE", "vocab", vocab,
                  "added_tokens", list, "pre_tokenizer", "type", "ByteLevel", "use_regex", 1);
    if (!h->tokenizer) {
        s = nib_fail(e, NIB_ERR_FORMAT, "'%s/added_tokens.json' is not as expected", h->folder);
        goto out;
    }
    *found = true;
    NIB_TRY_OUT(conv_vocab_json(v, h, n_config, e));
    s = read_merges(v, h, e);
out:
    json_decref(vocab);
    json_decref(added);
    return s;
}

static nib_status find_vocab(conv_vocab *v, conv_hf *h, int64_t n_config, nib_buf *spm,
                             nib_error *e) {
    bool found = false;
    NIB_TRY(conv_hf_bytes(h, "tokenizer.model", 64 << 20, spm, e));
    if (spm->len && !(h->family->bit & (GPT2 | GPTNEOX | BERT | NOMIC | PHI2))) {
        nib_status s = conv_vocab_sentencepiece(v, n_config, spm->data, spm->len, e);
        if (s == NIB_OK) return NIB_OK;
        if (!h->tokenizer) return nib_fail_in(e, s, "'%s/tokenizer.model'", h->folder);
        /* Llama 3 has a file of this name in another format */
    }
    if (h->tokenizer) {
        nib_status s = conv_vocab_json(v, h, n_config, e);
        return s == NIB_OK ? s : nib_fail_in(e, s, "'%s/tokenizer.json'", h->folder);
    }
    NIB_TRY(from_pair(v, h, n_config, &found, e));
    if (found) return NIB_OK;
    nib_buf lines = {0};
    nib_status s = conv_hf_bytes(h, "vocab.txt", 64 << 20, &lines, e);
    found = lines.data != NULL;
    nib_buf_free(&lines);
    if (s != NIB_OK) return s;
    if (found) return from_lines(v, h, n_config, e);
    return nib_fail(e, NIB_ERR_NOT_FOUND,
                    "'%s' has no vocabulary: expected tokenizer.json, tokenizer.model, vocab.json "
                    "with merges.txt, or vocab.txt",
                    h->folder);
}

/* ---- tokens that were added later ---- */

/* Control tokens that fine-tunes forgot to mark as such. */
static bool looks_special(nib_str s) {
    static const char *const whole[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    static const char *const ends[][2] = {
        {"<|", "|>"}, {"<\xef\xbd\x9c", "\xef\xbd\x9c>"}, {"<unused", ">"}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(whole); i++)
        if (nib_str_eq_c(s, whole[i])) return true;
    for (size_t i = 0; i < NIB_ARRAY_LEN(ends); i++) {
        size_t a = strlen(ends[i][0]), b = strlen(ends[i][1]);
        if (s.n >= a + b && memcmp(s.p, ends[i][0], a) == 0 &&
            memcmp(s.p + s.n - b, ends[i][1], b) == 0)
            return true;
    }
    return false;
}

/* Spaces that SentencePiece writes as U+2581. */
static nib_status plain_spaces(conv_vocab *v, nib_str *s, nib_error *e) {
    char *out = nib_arena_alloc(&v->m->arena, s->n + 1);
    size_t n = 0;
    if (!out) return nib_fail_nomem(e, s->n, "a token");
    for (size_t i = 0; i < s->n;) {
        if (s->n - i >= 3 && memcmp(s->p + i, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = s->p[i++];
        }
    }
    *s = (nib_str){out, n};
    return NIB_OK;
}

/* One added token: its text and type replace what was there. */
static nib_status add_token(conv_vocab *v, const conv_hf *h, int64_t id, const json_t *content,
                            bool special, bool scored, nib_error *e) {
    if (id < 0) return nib_fail(e, NIB_ERR_FORMAT, "an added token has the id %lld", (long long)id);
    if (id >= v->n) {
        nib_log(NIB_LOG_WARN, "'%s': an added token's id %lld is beyond the vocabulary of %lld",
                h->folder, (long long)id, (long long)v->n);
        return NIB_OK;
    }
    nib_str text = {json_string_value(content), json_string_length(content)};
    if (!text.p) return nib_fail(e, NIB_ERR_FORMAT, "an added token has no text");
    special |= h->family->bit != PHI3 && looks_special(text);
    if (!special && h->family->bit != PHI3) {
        NIB_TRY(plain_spaces(v, &text, e));
    } else {
        text.p = nib_arena_strndup(&v->m->arena, text.p, text.n);
        if (!text.p) return nib_fail_nomem(e, text.n, "a token");
    }
    v->tokens[id] = text;
    v->types[id] = special ? 3 : 4;
    if (scored) v->scores[id] = -1000;
    return NIB_OK;
}

/* Of a SentencePiece model: added_tokens.json, then tokenizer_config.json's list. */
static nib_status later_tokens(conv_vocab *v, const conv_hf *h, nib_error *e) {
    json_t *added = NULL;
    const char *text;
    json_t *t;
    nib_status s;
    NIB_TRY_OUT(conv_hf_json(h, "added_tokens.json", &added, e));
    json_object_foreach(added, text, t) {
        if (!json_is_integer(t)) {
            s = nib_fail(e, NIB_ERR_FORMAT, "'%s/added_tokens.json': expected ids", h->folder);
            goto out;
        }
        json_t *content = json_string(text);
        s = add_token(v, h, json_integer_value(t), content, false, true, e);
        json_decref(content);
        if (s != NIB_OK) goto out;
    }
    json_object_foreach(json_object_get(h->tok_config, "added_tokens_decoder"), text, t) {
        char *end;
        long long id = strtoll(text, &end, 10);
        if (!*text || *end) {
            s = nib_fail(e, NIB_ERR_FORMAT,
                         "'%s/tokenizer_config.json': added_tokens_decoder: expected ids, found "
                         "'%.20s'",
                         h->folder, text);
            goto out;
        }
        NIB_TRY_OUT(add_token(v, h, id, json_object_get(t, "content"),
                              json_is_true(json_object_get(t, "special")), true, e));
    }
    size_t i;
    if (h->family->bit == PHI3) /* its lists of added tokens are spread over both files */
        json_array_foreach(json_object_get(h->tokenizer, "added_tokens"), i, t)
            NIB_TRY_OUT(add_token(v, h, json_integer_value(json_object_get(t, "id")),
                                  json_object_get(t, "content"),
                                  json_is_true(json_object_get(t, "special")), true, e));
out:
    json_decref(added);
    return s;
}

static nib_status json_added(conv_vocab *v, const conv_hf *h, nib_error *e) {
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(h->tokenizer, "added_tokens"), i, t) {
        const json_t *id = json_object_get(t, "id");
        if (!json_is_integer(id))
            return nib_fail(e, NIB_ERR_FORMAT, "added_tokens: entry %zu has no id", i);
        NIB_TRY(add_token(v, h, json_integer_value(id), json_object_get(t, "content"),
                          json_is_true(json_object_get(t, "special")), false, e));
    }
    return NIB_OK;
}

/* ---- keys ---- */

/* WordPiece as GGUF has it: a word begins with U+2581, a continuation has no ##. */
static nib_status make_phantom(conv_vocab *v, nib_error *e) {
    for (int64_t i = 0; i < v->n; i++) {
        nib_str s = v->tokens[i];
        if (v->types[i] == 3) continue;
        if (s.n >= 2 && s.p[0] == '#' && s.p[1] == '#') {
            v->tokens[i] = (nib_str){s.p + 2, s.n - 2};
            continue;
        }
        char *p = nib_arena_alloc(&v->m->arena, s.n + 3);
        if (!p) return nib_fail_nomem(e, s.n + 3, "a token");
        memcpy(p, "\xe2\x96\x81", 3);
        if (s.n) memcpy(p + 3, s.p, s.n);
        v->tokens[i] = (nib_str){p, s.n + 3};
    }
    return NIB_OK;
}

static nib_status put_array(conv_model *m, const char *key, nib_gguf_type t, int64_t n,
                            const void *p, nib_error *e) {
    nib_gguf_kv kv = {.key = nib_str_c(key), .type = NIB_GGUF_ARR, .arr_type = t, .arr_n = n};
    if (t == NIB_GGUF_STR)
        kv.arr_str = p;
    else
        kv.arr_data = p;
    return conv_put(m, &kv, e);
}

static nib_status put_vocab(conv_vocab *v, nib_error *e) {
    conv_model *m = v->m;
    bool spm = strcmp(v->model, "llama") == 0;
    NIB_TRY(conv_put_str(m, NULL, "tokenizer.ggml.model", nib_str_c(v->model), e));
    NIB_TRY(conv_put_str(m, NULL, "tokenizer.ggml.pre", nib_str_c(v->pre), e));
    NIB_TRY(put_array(m, "tokenizer.ggml.tokens", NIB_GGUF_STR, v->n, v->tokens, e));
    if (spm) NIB_TRY(put_array(m, "tokenizer.ggml.scores", NIB_GGUF_F32, v->n, v->scores, e));
    NIB_TRY(put_array(m, "tokenizer.ggml.token_type", NIB_GGUF_I32, v->n, v->types, e));
    if (v->n_merges && !spm)
        NIB_TRY(put_array(m, "tokenizer.ggml.merges", NIB_GGUF_STR, v->n_merges, v->merges, e));
    return NIB_OK;
}

/* Keys a family gets beside its vocabulary. */
static nib_status put_family(conv_model *m, const conv_hf *h, const conv_vocab *v, nib_error *e) {
    bool spm = strcmp(v->model, "llama") == 0;
    const json_t *prefix = json_object_get(h->tok_config, "add_prefix_space");
    if (h->family->bit & (GEMMA2 | GEMMA3) && spm)
        NIB_TRY(conv_put_int(m, NULL, "tokenizer.ggml.add_space_prefix", NIB_GGUF_BOOL, 0, e));
    if (h->family->bit & (LLAMA | SMOLLM3 | GRANITE) && json_is_boolean(prefix))
        NIB_TRY(conv_put_int(m, NULL, "tokenizer.ggml.add_space_prefix", NIB_GGUF_BOOL,
                             json_is_true(prefix), e));
    if (h->family->bit & (BERT | NOMIC)) {
        int64_t types = 1;
        NIB_TRY(conv_hf_int(h, "type_vocab_size", 0, 1 << 20, false, &types, e));
        NIB_TRY(conv_put_int(m, NULL, "tokenizer.ggml.token_type_count", NIB_GGUF_U32, types, e));
    }
    if (h->family->bit == PHI2)
        NIB_TRY(conv_put_int(m, NULL, "tokenizer.ggml.add_bos_token", NIB_GGUF_BOOL, 0, e));
    if (h->family->bit & (LLAMA | GRANITE) && v->n == 49152)
        NIB_TRY(conv_put_int(m, NULL, "tokenizer.ggml.add_bos_token", NIB_GGUF_BOOL, 0, e));
    return NIB_OK;
}

nib_status conv_hf_vocab(conv_model *m, const conv_hf *source, const char *pre, nib_error *e) {
    conv_hf h = *source; /* from_pair may set its tokenizer */
    conv_vocab v = {.m = m};
    nib_buf spm = {0};
    int64_t n_config = 0;
    nib_status s;
    NIB_TRY_OUT(conv_hf_int(&h, "vocab_size", 1, MAX_VOCAB, false, &n_config, e));
    NIB_TRY_OUT(find_vocab(&v, &h, n_config, &spm, e));
    bool pieces = spm.len && v.model && strcmp(v.model, "llama") == 0 && !v.merges;
    NIB_TRY_OUT(pieces ? later_tokens(&v, &h, e) : json_added(&v, &h, e));
    NIB_TRY_OUT(fill_holes(&v, e));
    if (v.phantom) NIB_TRY_OUT(make_phantom(&v, e));
    if (pre) {
        v.pre = pre;
    } else if (strcmp(v.model, "gpt2") != 0) {
        v.pre = v.phantom ? h.family->pres : "default";
        if (!*v.pre) v.pre = "default";
    } else {
        NIB_TRY_OUT(conv_pretokenizer_name(&h, &m->arena, &v.pre, e));
    }
    NIB_TRY_OUT(put_vocab(&v, e));
    NIB_TRY_OUT(conv_hf_special(m, &h, &v, e));
    s = put_family(m, &h, &v, e);
out:
    if (h.tokenizer != source->tokenizer) json_decref(h.tokenizer);
    nib_buf_free(&spm);
    return s;
}
