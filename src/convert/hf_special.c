/* Special ids, whether they are added, and the chat template: from tokenizer.json's post-processor,
 * tokenizer_config.json, config.json and the template's own file, in the order the peers look. */
#include "convert/internal.h"

enum { BOS, EOS, UNK, SEP, PAD, CLS, MASK, EOT, EOM, N_SPECIAL };
static const struct {
    const char *name, *key;
} specials[N_SPECIAL] = {
    {"bos", "bos_token_id"},       {"eos", "eos_token_id"},     {"unk", "unknown_token_id"},
    {"sep", "seperator_token_id"}, {"pad", "padding_token_id"}, {"cls", "cls_token_id"},
    {"mask", "mask_token_id"},     {"eot", "eot_token_id"},     {"eom", "eom_token_id"}};

typedef struct special {
    const char *token[N_SPECIAL]; /* its text, owned by the JSON */
    int64_t id[N_SPECIAL];        /* -1: none */
    int add[3];                   /* BOS, EOS, SEP: -1 not said */
} special;

/* "<s>", or {"content": "<s>", ...}. */
static const char *token_text(const json_t *config, const char *name) {
    char key[24];
    snprintf(key, sizeof key, "%s_token", name);
    const json_t *v = json_object_get(config, key);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static bool same(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

static const char *special_id(const json_t *part) {
    return json_string_value(json_object_get(json_object_get(part, "SpecialToken"), "id"));
}

/* What a TemplateProcessing says is put around a text. */
static void read_template(special *s, const json_t *p, bool configured) {
    const json_t *single = json_object_get(p, "single"), *pair = json_object_get(p, "pair");
    size_t n = json_array_size(single);
    if (n < 2) return;
    const char *first = special_id(json_array_get(single, 0)),
               *last = special_id(json_array_get(single, n - 1));
    if (first) {
        if (!configured) s->token[BOS] = first;
        s->add[0] = same(first, s->token[BOS]) || same(first, s->token[CLS]);
    }
    if (last) {
        if (configured && !same(last, s->token[EOS])) s->token[EOT] = s->token[EOS];
        s->token[EOS] = last;
        s->add[1] = 1;
    }
    size_t m = json_array_size(pair),
           at = first && same(first, special_id(json_array_get(pair, 0)));
    if (last && m && same(last, special_id(json_array_get(pair, m - 1)))) m--;
    /* what is left: A [sep [eos]] B */
    if (m <= at + 2) return;
    bool add = false;
    for (size_t i = at + 1; i + 1 < m; i++) {
        const char *t = special_id(json_array_get(pair, i));
        bool is_sep = same(t, s->token[SEP]) || same(t, s->token[EOS]);
        add |= is_sep && (i > at + 1 || !last);
    }
    s->add[2] = add;
}

static void read_processors(special *s, const conv_hf *h) {
    const json_t *post = json_object_get(h->tokenizer, "post_processor"),
                 *list = json_object_get(post, "processors");
    size_t n = list ? json_array_size(list) : post != NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *p = list ? json_array_get(list, i) : post;
        const char *type = json_string_value(json_object_get(p, "type"));
        if (same(type, "RobertaProcessing")) {
            s->add[0] = s->add[1] = s->add[2] = 1;
            if (!s->token[CLS])
                s->token[CLS] = json_string_value(json_array_get(json_object_get(p, "cls"), 0));
            if (!s->token[SEP])
                s->token[SEP] = json_string_value(json_array_get(json_object_get(p, "sep"), 0));
        } else if (same(type, "TemplateProcessing")) {
            read_template(s, p, h->tok_config != NULL);
        }
    }
}

/* The id of a token's text: among the added ones, then in the whole vocabulary. */
static int64_t find_id(const conv_hf *h, const conv_vocab *v, const char *text) {
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(h->tokenizer, "added_tokens"), i,
                       t) if (same(json_string_value(json_object_get(t, "content")),
                                   text)) return json_integer_value(json_object_get(t, "id"));
    for (int64_t k = 0; k < v->n; k++)
        if (nib_str_eq_c(v->tokens[k], text)) return k;
    return -1;
}

static void find_ids(special *s, const conv_hf *h, const conv_vocab *v) {
    static const struct {
        const char *key;
        int at;
    } flags[] = {{"add_bos_token", 0}, {"add_eos_token", 1}, {"add_sep_token", 2}};
    for (size_t i = 0; i < NIB_ARRAY_LEN(flags); i++) {
        const json_t *f = json_object_get(h->tok_config, flags[i].key);
        if (json_is_boolean(f)) s->add[flags[i].at] = json_is_true(f);
    }
    for (int i = 0; i < N_SPECIAL; i++) {
        char key[24];
        snprintf(key, sizeof key, "%s_token_id", specials[i].name);
        s->id[i] = s->token[i] ? find_id(h, v, s->token[i]) : -1;
        const json_t *c = json_object_get(h->config, key);
        if (i < EOT && s->id[i] < 0 && json_is_integer(c)) s->id[i] = json_integer_value(c);
        if (s->id[i] >= v->n) s->id[i] = -1;
    }
}

/* ---- the template ---- */

static nib_status put_template(conv_model *m, const char *name, const json_t *text, nib_error *e) {
    char key[128];
    if (!json_is_string(text)) return NIB_OK;
    snprintf(key, sizeof key, "tokenizer.chat_template%s%.60s", name ? "." : "", name ? name : "");
    return conv_put_str(m, NULL, key, (nib_str){json_string_value(text), json_string_length(text)},
                        e);
}

/* Several templates by name: "default" is the template, the others get keys of their own. */
static nib_status put_templates(conv_model *m, const json_t *list, nib_error *e) {
    size_t i, n = 0;
    json_t *t;
    nib_str *names = nib_arena_alloc(&m->arena, json_array_size(list) * sizeof *names + 1);
    if (!names) return nib_fail_nomem(e, 64, "chat templates");
    json_array_foreach(list, i, t) {
        const char *name = json_string_value(json_object_get(t, "name"));
        if (!name ||
            strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
                strlen(name))
            continue;
        bool usual = strcmp(name, "default") == 0;
        NIB_TRY(put_template(m, usual ? NULL : name, json_object_get(t, "template"), e));
        if (usual) continue;
        names[n] = (nib_str){nib_arena_strndup(&m->arena, name, strlen(name)), strlen(name)};
        if (!names[n++].p) return nib_fail_nomem(e, strlen(name), "a template's name");
    }
    if (!n) return NIB_OK;
    return conv_put(m,
                    &(nib_gguf_kv){.key = NIB_STR("tokenizer.chat_templates"),
                                   .type = NIB_GGUF_ARR,
                                   .arr_type = NIB_GGUF_STR,
                                   .arr_n = (int64_t)n,
                                   .arr_str = names},
                    e);
}

static nib_status find_template(conv_model *m, const conv_hf *h, nib_error *e) {
    const json_t *t = json_object_get(h->tok_config, "chat_template");
    if (json_is_string(t)) return put_template(m, NULL, t, e);
    if (json_is_array(t)) return put_templates(m, t, e);
    nib_buf text = {0};
    json_t *file = NULL;
    nib_status s;
    NIB_TRY_OUT(conv_hf_bytes(h, "chat_template.jinja", 4 << 20, &text, e));
    if (text.data) {
        s = nib_utf8_valid(text.data, text.len)
                ? conv_put_str(m, NULL, "tokenizer.chat_template", (nib_str){text.data, text.len},
                               e)
                : nib_fail(e, NIB_ERR_FORMAT, "'%s/chat_template.jinja' is not UTF-8", h->folder);
        goto out;
    }
    NIB_TRY_OUT(conv_hf_json(h, "chat_template.json", &file, e));
    if (file) s = put_template(m, NULL, json_object_get(file, "chat_template"), e);
out:
    json_decref(file);
    nib_buf_free(&text);
    return s;
}

/* Whether the normaliser, or a part of it, makes letters small: 1, 0, or -1 for nothing said.
 * BERT's does unless it says otherwise. */
static int lowercases(const json_t *n, int depth) {
    const char *type = json_string_value(json_object_get(n, "type"));
    int found = -1;
    size_t i;
    json_t *part;
    if (same(type, "Lowercase")) return 1;
    if (same(type, "BertNormalizer")) return !json_is_false(json_object_get(n, "lowercase"));
    if (same(type, "Sequence") && depth < 4)
        json_array_foreach(json_object_get(n, "normalizers"), i, part) {
            int one = lowercases(part, depth + 1);
            found = NIB_MAX(found, one);
        }
    return found;
}

nib_status conv_hf_special(conv_model *m, const conv_hf *h, const conv_vocab *v, nib_error *e) {
    static const char *const adds[] = {"add_bos_token", "add_eos_token", "add_sep_token"};
    special s = {.add = {-1, -1, -1}};
    for (int i = 0; i < EOT; i++) s.token[i] = token_text(h->tok_config, specials[i].name);
    if (h->tokenizer) {
        if (!s.token[BOS]) s.token[BOS] = s.token[CLS];
        if (!s.token[EOS]) s.token[EOS] = s.token[SEP];
    }
    read_processors(&s, h);
    find_ids(&s, h, v);
    for (int i = 0; i < N_SPECIAL; i++) {
        char key[64];
        if (s.id[i] < 0) continue;
        snprintf(key, sizeof key, "tokenizer.ggml.%s", specials[i].key);
        NIB_TRY(conv_put_int(m, NULL, key, NIB_GGUF_U32, s.id[i], e));
    }
    for (int i = 0; i < 3; i++) {
        char key[64];
        if (s.add[i] < 0) continue;
        snprintf(key, sizeof key, "tokenizer.ggml.%s", adds[i]);
        NIB_TRY(conv_put_int(m, NULL, key, NIB_GGUF_BOOL, s.add[i], e));
    }
    int lower = lowercases(json_object_get(h->tokenizer, "normalizer"), 0);
    const json_t *flag = json_object_get(h->tok_config, "do_lower_case");
    if (lower < 0 && v->phantom && json_is_boolean(flag)) lower = json_is_true(flag);
    if (lower > 0 || (lower == 0 && v->phantom))
        NIB_TRY(
            conv_put_int(m, NULL, "tokenizer.ggml.normalizer.lowercase", NIB_GGUF_BOOL, lower, e));
    return find_template(m, h, e);
}
