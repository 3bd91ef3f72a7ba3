/* Tokenizer files of a folder from GGUF's keys.
 *
 * gpt2 (byte-level BPE) and bert (WordPiece) become tokenizer.json, the latter vocab.txt too. llama
 * (SentencePiece) becomes tokenizer.model, which says all there is, and a tokenizer.json for
 * programs without SentencePiece: there pairs are merged in the order of the scores of what they
 * make. tokenizer_config.json has special tokens, flags, added tokens and the chat template. */
#include <stdlib.h>
#include "convert/internal.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

typedef struct out_vocab {
    int64_t n;
    nib_str *tokens;
    const nib_gguf_kv *scores, *types, *merges; /* NULL when absent */
    nib_str model;
} out_vocab;

static int64_t type_at(const out_vocab *v, int64_t i) {
    return v->types ? nib_gguf_arr_i64(v->types, i) : NORMAL;
}
static double score_at(const out_vocab *v, int64_t i) {
    return v->scores ? nib_gguf_arr_f64(v->scores, i) : 0;
}

static nib_status read_array(const conv_hf_out *o, const char *key, bool strings, int64_t n,
                             const nib_gguf_kv **out, nib_error *e) {
    *out = NULL;
    if (!nib_gguf_find(o->g, key)) return NIB_OK;
    NIB_TRY(nib_gguf_arr(o->g, key, strings, out, e));
    if (n < 0 || (*out)->arr_n == n) return NIB_OK;
    return nib_fail(e, NIB_ERR_FORMAT, "%s has %lld entries, the vocabulary %lld", key,
                    (long long)(*out)->arr_n, (long long)n);
}

static nib_status read_vocab(const conv_hf_out *o, out_vocab *v, nib_error *e) {
    const nib_gguf_kv *tokens;
    NIB_TRY(nib_gguf_str(o->g, "tokenizer.ggml.model", &v->model, e));
    NIB_TRY(nib_gguf_arr(o->g, "tokenizer.ggml.tokens", true, &tokens, e));
    v->n = tokens->arr_n;
    v->tokens = nib_alloc((size_t)v->n * sizeof *v->tokens);
    if (!v->tokens) return nib_fail_nomem(e, (size_t)v->n * sizeof *v->tokens, "the vocabulary");
    nib_gguf_strs it = nib_gguf_strs_of(tokens);
    for (int64_t i = 0; i < v->n; i++) v->tokens[i] = nib_gguf_strs_next(&it);
    NIB_TRY(read_array(o, "tokenizer.ggml.scores", false, v->n, &v->scores, e));
    NIB_TRY(read_array(o, "tokenizer.ggml.token_type", false, v->n, &v->types, e));
    return read_array(o, "tokenizer.ggml.merges", true, -1, &v->merges, e);
}

static nib_status not_text(const char *what, int64_t i, nib_error *e) {
    return nib_fail(e, NIB_ERR_UNSUPPORTED, "%s %lld is not UTF-8 that JSON can hold", what,
                    (long long)i);
}

/* ---- tokenizer_config.json ---- */

static json_t *added_json(nib_str text, bool special, bool with_id, int64_t id) {
    json_t *t =
        json_pack("{s:o?, s:b, s:b, s:b, s:b, s:b}", "content", json_stringn(text.p, text.n),
                  "lstrip", 0, "normalized", 0, "rstrip", 0, "single_word", 0, "special", special);
    if (t && with_id) json_object_set_new(t, "id", json_integer(id));
    return t;
}

static nib_status out_specials(conv_hf_out *o, const out_vocab *v, nib_error *e) {
    static const char *const table[][2] = {{"bos_token_id", "bos"},
                                           {"eos_token_id", "eos"},
                                           {"unknown_token_id", "unk"},
                                           {"padding_token_id", "pad"},
                                           {"seperator_token_id", "sep"},
                                           {"cls_token_id", "cls"},
                                           {"mask_token_id", "mask"},
                                           {"add_bos_token", NULL},
                                           {"add_eos_token", NULL},
                                           {"add_sep_token", NULL},
                                           {"add_space_prefix", "add_prefix_space"}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(table); i++) {
        char key[64], name[32];
        snprintf(key, sizeof key, "tokenizer.ggml.%s", table[i][0]);
        const nib_gguf_kv *kv = nib_gguf_find(o->g, key);
        if (!kv || kv->type == NIB_GGUF_ARR || kv->type == NIB_GGUF_STR) continue;
        if (kv->type == NIB_GGUF_BOOL) {
            json_object_set_new(o->tok_config, table[i][1] ? table[i][1] : table[i][0],
                                json_boolean(kv->i));
            continue;
        }
        if (kv->i < 0 || kv->i >= v->n || !table[i][1]) continue;
        json_t *text = json_stringn(v->tokens[kv->i].p, v->tokens[kv->i].n);
        if (!text) return not_text("token", kv->i, e);
        snprintf(name, sizeof name, "%s_token", table[i][1]);
        json_object_set_new(o->tok_config, name, text);
        snprintf(name, sizeof name, "%s_token_id", table[i][1]);
        json_object_set_new(o->config, name, json_integer(kv->i));
        if (i < 2) json_object_set_new(o->generation, name, json_integer(kv->i));
    }
    nib_str text;
    if (nib_gguf_str(o->g, "tokenizer.chat_template", &text, NULL) == NIB_OK) {
        json_t *t = json_stringn(text.p, text.n);
        if (!t) return nib_fail(e, NIB_ERR_FORMAT, "tokenizer.chat_template is not UTF-8");
        json_object_set_new(o->tok_config, "chat_template", t);
    }
    const nib_gguf_kv *types = nib_gguf_find(o->g, "tokenizer.ggml.token_type_count");
    if (types && types->type != NIB_GGUF_ARR)
        json_object_set_new(o->config, "type_vocab_size", json_integer(types->i));
    return NIB_OK;
}

/* Tokens that are whole, and matched before anything else. Of SentencePiece only those that were
 * added to its model, which their score tells. */
static bool is_added(const out_vocab *v, int64_t i, bool spm) {
    int64_t t = type_at(v, i);
    return t == USER || (t == CONTROL && (!spm || score_at(v, i) == -1000));
}

static nib_status out_decoder(conv_hf_out *o, const out_vocab *v, bool spm, nib_error *e) {
    json_t *all = json_object();
    for (int64_t i = 0; i < v->n; i++) {
        char id[24];
        if (!is_added(v, i, spm)) continue;
        snprintf(id, sizeof id, "%lld", (long long)i);
        json_t *t = added_json(v->tokens[i], type_at(v, i) == CONTROL, false, i);
        if (t && json_is_string(json_object_get(t, "content"))) {
            json_object_set_new(all, id, t);
            continue;
        }
        json_decref(t);
        json_decref(all);
        return not_text("token", i, e);
    }
    json_object_set_new(o->tok_config, "added_tokens_decoder", all);
    return NIB_OK;
}

/* ---- tokenizer.json ---- */

/* BOS in front, EOS behind, as the flags say; NULL for neither. */
static json_t *processor_json(const conv_hf_out *o, bool bert) {
    const char *bos = json_string_value(
                   json_object_get(o->tok_config, bert ? "cls_token" : "bos_token")),
               *eos = json_string_value(
                   json_object_get(o->tok_config, bert ? "sep_token" : "eos_token"));
    const json_t *ids = o->config;
    bool front = bos && (bert || json_is_true(json_object_get(o->tok_config, "add_bos_token"))),
         back = eos && (bert || json_is_true(json_object_get(o->tok_config, "add_eos_token")));
    if (!front && !back) return json_null();
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();
    const char *texts[2] = {front ? bos : NULL, back ? eos : NULL};
    const char *keys[2] = {bert ? "cls_token_id" : "bos_token_id",
                           bert ? "sep_token_id" : "eos_token_id"};
    for (int i = 0; i < 2; i++)
        if (texts[i])
            json_object_set_new(tokens, texts[i],
                                json_pack("{s:s, s:[I], s:[s]}", "id", texts[i], "ids",
                                          json_integer_value(json_object_get(ids, keys[i])),
                                          "tokens", texts[i]));
    for (int k = 0; k < 2; k++) {
        json_t *list = k ? pair : single;
        if (front)
            json_array_append_new(
                list, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", bos, "type_id", 0));
        json_array_append_new(list,
                              json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
        if (k && bert)
            json_array_append_new(
                list, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", eos, "type_id", 0));
        if (k)
            json_array_append_new(list,
                                  json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
        if (back)
            json_array_append_new(
                list, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", eos, "type_id", k && bert));
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", tokens);
}

static nib_status write_tokenizer(conv_hf_out *o, const out_vocab *v, json_t *model,
                                  json_t *normalizer, json_t *pre, json_t *decoder, bool bert,
                                  nib_error *e) {
    json_t *added = json_array();
    nib_status s = NIB_OK;
    for (int64_t i = 0; i < v->n && s == NIB_OK; i++) {
        int64_t type = type_at(v, i);
        if (type != CONTROL && type != USER && type != UNKNOWN) continue;
        json_t *t = added_json(v->tokens[i], type != USER, true, i);
        if (!t || !json_is_string(json_object_get(t, "content"))) s = not_text("token", i, e);
        json_array_append_new(added, t);
    }
    json_t *all =
        json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                  "padding", "added_tokens", added, "normalizer", normalizer, "pre_tokenizer", pre,
                  "post_processor", processor_json(o, bert), "decoder", decoder, "model", model);
    if (s == NIB_OK)
        s = all ? conv_out_json(o, "tokenizer.json", all, e)
                : nib_fail_nomem(e, 64, "tokenizer.json");
    json_decref(all);
    return s;
}

/* Texts to ids, of the tokens that are no added ones. */
static nib_status vocab_json(const out_vocab *v, bool all, json_t **out, nib_error *e) {
    json_t *vocab = json_object();
    for (int64_t i = 0; i < v->n; i++) {
        int64_t type = type_at(v, i);
        if (type == UNUSED || (!all && (type == CONTROL || type == USER))) continue;
        if (memchr(v->tokens[i].p, 0, v->tokens[i].n) ||
            json_object_setn_new(vocab, v->tokens[i].p, v->tokens[i].n, json_integer(i))) {
            json_decref(vocab);
            return not_text("token", i, e);
        }
    }
    *out = vocab;
    return NIB_OK;
}

static nib_status out_bpe(conv_hf_out *o, const out_vocab *v, nib_error *e) {
    nib_str pre = NIB_STR("gpt-2");
    (void)nib_gguf_str(o->g, "tokenizer.ggml.pre", &pre, NULL);
    json_t *pre_json = NULL, *normalizer = NULL, *vocab = NULL, *merges = json_array();
    bool whole = false;
    nib_status s;
    if (!conv_pretokenizer_json(pre, &pre_json, &normalizer, &whole)) {
        s = nib_fail(e, NIB_ERR_UNSUPPORTED,
                     "tokenizer.ggml.pre is '%.*s', which nib cannot spell for tokenizer.json",
                     (int)NIB_MIN(pre.n, (size_t)40), pre.p);
        goto out;
    }
    NIB_TRY_OUT(vocab_json(v, false, &vocab, e));
    nib_gguf_strs it = v->merges ? nib_gguf_strs_of(v->merges) : (nib_gguf_strs){0};
    for (int64_t i = 0; it.left; i++) {
        nib_str m = nib_gguf_strs_next(&it);
        if (json_array_append_new(merges, json_stringn(m.p, m.n))) {
            s = not_text("merge", i, e);
            goto out;
        }
    }
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", whole, "vocab", vocab, "merges", merges);
    json_t *decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                                "trim_offsets", 1, "use_regex", 1);
    json_object_set_new(o->tok_config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    return write_tokenizer(o, v, model, normalizer, pre_json, decoder, false, e);
out:
    json_decref(pre_json);
    json_decref(normalizer);
    json_decref(vocab);
    json_decref(merges);
    return s;
}

/* ---- WordPiece ---- */

/* A token as vocab.txt has it: without U+2581, or with ##. */
static bool plain_piece(nib_buf *out, nib_str t, int64_t type) {
    nib_buf_clear(out);
    bool word = t.n >= 3 && memcmp(t.p, "\xe2\x96\x81", 3) == 0;
    if (type == CONTROL || type == UNKNOWN) return nib_buf_put(out, t.p, t.n);
    if (word) return nib_buf_put(out, t.p + 3, t.n - 3);
    return nib_buf_puts(out, "##") && nib_buf_put(out, t.p, t.n);
}

static nib_status out_wordpiece(conv_hf_out *o, const out_vocab *v, nib_error *e) {
    nib_buf lines = {0}, one = {0};
    json_t *vocab = json_object();
    nib_status s = NIB_OK;
    for (int64_t i = 0; i < v->n && s == NIB_OK; i++) {
        if (!plain_piece(&one, v->tokens[i], type_at(v, i)) ||
            !nib_buf_put(&lines, one.data, one.len) || !nib_buf_putc(&lines, '\n'))
            s = nib_fail_nomem(e, lines.len, "vocab.txt");
        else if (memchr(one.data, '\n', one.len) || memchr(one.data, 0, one.len) ||
                 json_object_setn_new(vocab, one.data, one.len, json_integer(i)))
            s = not_text("token", i, e);
    }
    if (s == NIB_OK) s = conv_out_bytes(o, "vocab.txt", lines.data, lines.len, e);
    nib_buf_free(&lines);
    nib_buf_free(&one);
    if (s != NIB_OK) {
        json_decref(vocab);
        return s;
    }
    json_object_set_new(o->tok_config, "tokenizer_class", json_string("BertTokenizer"));
    bool lower = true;
    (void)nib_gguf_bool(o->g, "tokenizer.ggml.normalizer.lowercase", &lower, NULL);
    json_object_set_new(o->tok_config, "do_lower_case", json_boolean(lower));
    return write_tokenizer(
        o, v,
        json_pack("{s:s, s:s, s:s, s:i, s:o}", "type", "WordPiece", "unk_token", "[UNK]",
                  "continuing_subword_prefix", "##", "max_input_chars_per_word", 100, "vocab",
                  vocab),
        json_pack("{s:s, s:b, s:b, s:n, s:b}", "type", "BertNormalizer", "clean_text", 1,
                  "handle_chinese_chars", 1, "strip_accents", "lowercase", lower),
        json_pack("{s:s}", "type", "BertPreTokenizer"),
        json_pack("{s:s, s:s, s:b}", "type", "WordPiece", "prefix", "##", "cleanup", 1), true, e);
}

/* ---- SentencePiece ---- */

static void put_varint(nib_buf *b, uint64_t v) {
    while (v >= 128) {
        nib_buf_putc(b, (char)((v & 127) | 128));
        v >>= 7;
    }
    nib_buf_putc(b, (char)v);
}

static void put_bytes(nib_buf *b, int field, const void *p, size_t n) {
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    nib_buf_put(b, p, n);
}

static void put_number(nib_buf *b, int field, uint64_t v) {
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, v);
}

/* The flags of training and of the normaliser that readers of the model look at. */
static void put_specs(nib_buf *out, const conv_hf_out *o) {
    static const struct {
        const char *key;
        int field;
    } ids[] = {{"unk_token_id", 40}, {"bos_token_id", 41}, {"eos_token_id", 42}};
    nib_buf spec = {0};
    put_number(&spec, 3, 2);  /* model_type: BPE */
    put_number(&spec, 35, 1); /* byte_fallback */
    for (size_t i = 0; i < NIB_ARRAY_LEN(ids); i++) {
        const json_t *v = json_object_get(o->config, ids[i].key);
        put_number(&spec, ids[i].field, (uint64_t)(v ? json_integer_value(v) : -1));
    }
    put_bytes(out, 2, spec.data ? spec.data : "", spec.len);
    nib_buf_clear(&spec);
    put_bytes(&spec, 1, "identity", 8);
    const json_t *prefix = json_object_get(o->tok_config, "add_prefix_space");
    put_number(&spec, 3, !json_is_false(prefix)); /* add_dummy_prefix */
    put_number(&spec, 4, 0);                      /* remove_extra_whitespaces */
    put_number(&spec, 5, 1);                      /* escape_whitespaces */
    put_bytes(out, 3, spec.data ? spec.data : "", spec.len);
    if (spec.failed) out->failed = true;
    nib_buf_free(&spec);
}

static nib_status out_spm_model(const conv_hf_out *o, const out_vocab *v, nib_error *e) {
    nib_buf all = {0}, piece = {0};
    for (int64_t i = 0; i < v->n; i++) {
        float score = (float)score_at(v, i);
        int64_t type = type_at(v, i);
        nib_buf_clear(&piece);
        put_bytes(&piece, 1, v->tokens[i].p, v->tokens[i].n);
        put_varint(&piece, 2 << 3 | 5);
        nib_buf_put(&piece, &score, 4);
        if (type != NORMAL) put_number(&piece, 3, (uint64_t)type);
        put_bytes(&all, 1, piece.data, piece.len);
    }
    put_specs(&all, o);
    nib_status s = all.failed || piece.failed
                       ? nib_fail_nomem(e, all.len, "tokenizer.model")
                       : conv_out_bytes(o, "tokenizer.model", all.data, all.len, e);
    nib_buf_free(&all);
    nib_buf_free(&piece);
    return s;
}

typedef struct merge {
    double score;
    uint32_t whole, left, right;
    uint32_t at; /* bytes of left */
} merge;

/* Best score first; then as the tokens come, which is how the peers' merges lie. */
static int by_score(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->whole != y->whole) return x->whole < y->whole ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return x->right < y->right ? -1 : x->right > y->right;
}

/* All pairs of pieces that make a piece. */
static nib_status find_merges(const out_vocab *v, merge **out, size_t *n_out, nib_error *e) {
    nib_strmap ids = {0};
    merge *list = NULL;
    size_t n = 0, cap = 0;
    nib_status s = NIB_OK;
    for (int64_t i = 0; i < v->n && s == NIB_OK; i++)
        if (type_at(v, i) == NORMAL && !nib_strmap_set(&ids, v->tokens[i], (uint32_t)i))
            s = nib_fail_nomem(e, 16, "merges");
    for (int64_t i = 0; i < v->n && s == NIB_OK; i++) {
        nib_str t = v->tokens[i];
        if (type_at(v, i) != NORMAL || t.n > 256) continue; /* longer ones are runs of spaces */
        for (size_t k = 1; k < t.n && s == NIB_OK; k++) {
            uint32_t l, r;
            if ((t.p[k] & 0xc0) == 0x80 || !nib_strmap_get(&ids, (nib_str){t.p, k}, &l) ||
                !nib_strmap_get(&ids, (nib_str){t.p + k, t.n - k}, &r))
                continue;
            if (n == cap) {
                cap = cap ? cap * 2 : 4096;
                merge *more = nib_realloc(list, cap * sizeof *list);
                if (!more) {
                    s = nib_fail_nomem(e, cap * sizeof *list, "merges");
                    break;
                }
                list = more;
            }
            list[n++] = (merge){score_at(v, i), (uint32_t)i, l, r, (uint32_t)k};
        }
    }
    nib_strmap_free(&ids);
    if (s != NIB_OK) {
        nib_free(list);
        return s;
    }
    if (n) qsort(list, n, sizeof *list, by_score);
    *out = list;
    *n_out = n;
    return NIB_OK;
}

static nib_status out_sentencepiece(conv_hf_out *o, const out_vocab *v, nib_error *e) {
    json_t *vocab = NULL, *list = json_array();
    merge *merges = NULL;
    size_t n = 0;
    nib_status s;
    NIB_TRY_OUT(out_spm_model(o, v, e));
    NIB_TRY_OUT(vocab_json(v, true, &vocab, e));
    NIB_TRY_OUT(find_merges(v, &merges, &n, e));
    for (size_t i = 0; i < n; i++) {
        nib_str t = v->tokens[merges[i].whole];
        json_array_append_new(list, json_pack("[s#, s#]", t.p, (int)merges[i].at,
                                              t.p + merges[i].at, (int)(t.n - merges[i].at)));
    }
    nib_free(merges);
    const char *unk = json_string_value(json_object_get(o->tok_config, "unk_token"));
    bool prefix = !json_is_false(json_object_get(o->tok_config, "add_prefix_space"));
    json_t *model =
        json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", unk, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                  1, "byte_fallback", 1, "ignore_merges", 0, "vocab", vocab, "merges", list);
    json_t *replace = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                "content", "\xe2\x96\x81");
    json_t *normalizer =
        prefix ? json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type",
                           "Prepend", "prepend", "\xe2\x96\x81", replace)
               : replace;
    json_t *decoder =
        json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type",
                  "Sequence", "decoders", "type", "Replace", "pattern", "String", "\xe2\x96\x81",
                  "content", " ", "type", "ByteFallback", "type", "Fuse", "type", "Strip",
                  "content", " ", "start", (int)prefix, "stop", 0);
    json_object_set_new(o->tok_config, "tokenizer_class", json_string("LlamaTokenizer"));
    return write_tokenizer(o, v, model, normalizer, json_null(), decoder, false, e);
out:
    json_decref(vocab);
    json_decref(list);
    return s;
}

nib_status conv_out_vocab(conv_hf_out *o, nib_error *e) {
    out_vocab v = {0};
    nib_status s;
    NIB_TRY_OUT(read_vocab(o, &v, e));
    bool spm = nib_str_eq_c(v.model, "llama"), bert = nib_str_eq_c(v.model, "bert");
    if (!spm && !bert && !nib_str_eq_c(v.model, "gpt2")) {
        s = nib_fail(e, NIB_ERR_UNSUPPORTED,
                     "tokenizer.ggml.model is '%.*s': nib converts llama, gpt2 and bert",
                     (int)NIB_MIN(v.model.n, (size_t)40), v.model.p);
        goto out;
    }
    NIB_TRY_OUT(out_specials(o, &v, e));
    NIB_TRY_OUT(out_decoder(o, &v, spm, e));
    s = spm ? out_sentencepiece(o, &v, e) : bert ? out_wordpiece(o, &v, e) : out_bpe(o, &v, e);
    if (s == NIB_OK) s = conv_out_json(o, "tokenizer_config.json", o->tok_config, e);
out:
    nib_free(v.tokens);
    return s;
}
