/* The tokenizer on vocabularies small enough to follow by hand, and against slow, obvious spellings
 * of the same rules on random ones. */
#include <stdlib.h>
#include <time.h>
#include <utf8proc.h>
#include "testlib.h"
#include "tokvocab.h"

static nib_tokenizer *make(tokvocab *v) {
    nib_error e;
    nib_tokenizer *t;
    nib_buf f = tv_file(v);
    test_ok(tv_load(&t, f.data, f.len, &e), &e);
    nib_buf_free(&f);
    return t;
}

static nib_ids encode(const nib_tokenizer *t, const char *p, size_t n, unsigned flags) {
    nib_error e;
    nib_ids ids = {0};
    test_ok(nib_tokenize(t, p, n, flags, &ids, &e), &e);
    return ids;
}

/* text must become exactly the tokens spelled in want, separated by '|'. */
static void expect(const nib_tokenizer *t, const char *text, unsigned flags, const char *want) {
    nib_ids ids = encode(t, text, strlen(text), flags);
    nib_buf b = {0};
    for (size_t i = 0; i < ids.len; i++) {
        nib_str s = nib_token_text(t, ids.data[i]);
        if (i) nib_buf_putc(&b, '|');
        nib_buf_put(&b, s.p, s.n);
    }
    nib_buf_put(&b, "", 0);
    assert_string_equal(b.data, want);
    nib_buf_free(&b);
    nib_ids_free(&ids);
}

static void expect_detok(const nib_tokenizer *t, const nib_ids *ids, bool special,
                         const char *want) {
    nib_error e;
    nib_buf b = {0};
    test_ok(nib_detokenize(t, ids->data, ids->len, special, &b, &e), &e);
    nib_buf_put(&b, "", 0);
    assert_string_equal(b.data, want);
    nib_buf_free(&b);
}

static nib_rng rng = {.seed = 11};
static size_t below(size_t n) {
    return (size_t)(nib_rng_u64(&rng) % n);
}

/* ---- SentencePiece ---- */

#define SPACE "\xe2\x96\x81"
static const tv_token spm_rows[] = {
    {"<unk>", 0, NIB_TOKEN_UNKNOWN},     {"<s>", 0, NIB_TOKEN_CONTROL},
    {"</s>", 0, NIB_TOKEN_CONTROL},      {SPACE, -10, NIB_TOKEN_NORMAL},
    {"h", -20, NIB_TOKEN_NORMAL},        {"e", -20, NIB_TOKEN_NORMAL},
    {"l", -20, NIB_TOKEN_NORMAL},        {"o", -20, NIB_TOKEN_NORMAL},
    {"a", -20, NIB_TOKEN_NORMAL},        {"ll", -1, NIB_TOKEN_NORMAL},
    {SPACE "h", -2, NIB_TOKEN_NORMAL},   {SPACE "he", -3, NIB_TOKEN_NORMAL},
    {"llo", -4, NIB_TOKEN_NORMAL},       {"aa", -5, NIB_TOKEN_NORMAL},
    {SPACE SPACE, -6, NIB_TOKEN_NORMAL}, {"o" SPACE, -30, NIB_TOKEN_NORMAL},
    {"[U]", 0, NIB_TOKEN_USER},          {"[U][V]", 0, NIB_TOKEN_USER},
};

static nib_tokenizer *spm(bool prefix) {
    tokvocab v = {0};
    tv_str(&v, "tokenizer.ggml.model", "llama");
    tv_tokens(&v, spm_rows, NIB_ARRAY_LEN(spm_rows), true);
    tv_id(&v, "tokenizer.ggml.unknown_token_id", 256);
    tv_id(&v, "tokenizer.ggml.bos_token_id", 257);
    tv_id(&v, "tokenizer.ggml.eos_token_id", 258);
    tv_bool(&v, "tokenizer.ggml.add_space_prefix", prefix);
    tv_str(&v, "tokenizer.chat_template", "{{ messages }}");
    return make(&v);
}

static void sentencepiece(void **state) {
    (void)state;
    nib_tokenizer *t = spm(true);
    const nib_tokenizer_info *in = nib_tokenizer_get_info(t);
    assert_string_equal(in->kind, "spm");
    assert_string_equal(in->chat_template, "{{ messages }}");
    assert_int_equal(in->bos, 257);
    assert_int_equal(in->eos, 258);
    assert_int_equal(in->pad, -1);
    assert_true(in->add_bos && !in->add_eos);
    expect(t, "hello", 0, SPACE "he|llo");
    expect(t, "hello", NIB_TOK_SPECIAL, "<s>|" SPACE "he|llo");
    expect(t, "hello", NIB_TOK_NO_PREFIX, "h|e|llo");
    expect(t, "", NIB_TOK_SPECIAL, "<s>");
    expect(t, "", 0, "");
    expect(t, "aaa", NIB_TOK_NO_PREFIX, "aa|a"); /* equal scores: from the left */
    expect(t, "aaaa aa", 0, SPACE "|aa|aa|" SPACE "|aa");
    expect(t, "o o", NIB_TOK_NO_PREFIX, "o" SPACE "|o"); /* a token across a space */
    expect(t, "   h", NIB_TOK_NO_PREFIX, SPACE SPACE "|" SPACE "h");
    expect(t, "\xc3\xa9", 0, SPACE "|<0xC3>|<0xA9>");
    expect(t, "a\xff\xe2\x82", NIB_TOK_NO_PREFIX, "a|<0xFF>|<0xE2>|<0x82>");
    /* What is written like a control token is text unless parsed; user-defined tokens always are
     * tokens. */
    expect(t, "<s>", NIB_TOK_NO_PREFIX, "<0x3C>|<0x73>|<0x3E>");
    expect(t, "<s>he</s>", NIB_TOK_PARSE, "<s>|" SPACE "he|</s>");
    expect(t, "a[U]a", 0, SPACE "|a|[U]|" SPACE "|a");
    expect(t, "[U][V][U]", 0, "[U][V]|[U]");
    expect(t, "<0x41>", NIB_TOK_NO_PREFIX, "<0x3C>|<0x30>|<0x78>|<0x34>|<0x31>|<0x3E>");
    nib_tokenizer_free(t);
    t = spm(false);
    expect(t, "hello", 0, "h|e|llo");
    nib_tokenizer_free(t);
}

static void sentencepiece_back(void **state) {
    (void)state;
    nib_tokenizer *t = spm(true);
    nib_ids ids = encode(t, "hello \xc3\xa9 <s>he", 14, NIB_TOK_PARSE);
    expect_detok(t, &ids, true, "hello \xc3\xa9 <s> he");
    expect_detok(t, &ids, false, "hello \xc3\xa9  he");
    /* The stream: a byte at a time where the vocabulary has bytes, never half a character. */
    nib_buf b = {0};
    nib_detok d = {.at_start = true};
    for (size_t i = 0; i < ids.len; i++) {
        assert_int_equal(nib_detok_put(&d, t, ids.data[i], false, &b), NIB_OK);
        assert_true(nib_utf8_valid(b.data, b.len));
    }
    assert_int_equal(nib_detok_flush(&d, &b), NIB_OK);
    assert_string_equal(b.data, "hello \xc3\xa9  he");
    nib_buf_free(&b);
    nib_ids_free(&ids);
    assert_int_equal(nib_token_piece(t, 257, false).n, 0);
    assert_true(nib_str_eq_c(nib_token_piece(t, 257, true), "<s>"));
    assert_true(nib_str_eq_c(nib_token_piece(t, 256 + 11, false), " he"));
    assert_true(nib_str_eq_c(nib_token_piece(t, 0x41, false), "A"));
    assert_int_equal(nib_token_piece(t, -1, true).n, 0);
    assert_int_equal(nib_token_text(t, 1 << 20).n, 0);
    assert_int_equal(nib_token_find(t, NIB_STR("llo")), 256 + 12);
    assert_int_equal(nib_token_find(t, NIB_STR("lloo")), -1);
    assert_int_equal(nib_token_find(t, NIB_STR("")), -1);
    assert_int_equal(nib_token_get_type(t, 257), NIB_TOKEN_CONTROL);
    nib_tokenizer_free(t);
}

/* Any bytes, in any portions, come out as the whole would: each invalid sequence once as U+FFFD. */
static void stream_keeps_characters_whole(void **state) {
    (void)state;
    static const char *const parts[] = {
        "a",    "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80", "\xf0\x9f",         "\xe4\xb8",
        "\xff", "\xc3",     "\x80",         "\xed\xa0\x80",     "\xf4\x90\x80\x80", " "};
    nib_tokenizer *t = spm(true);
    for (int round = 0; round < 2000; round++) {
        nib_buf raw = {0}, want = {0}, got = {0};
        nib_detok d = {0};
        for (size_t i = below(12); i-- > 0;) nib_buf_puts(&raw, parts[below(NIB_ARRAY_LEN(parts))]);
        for (size_t i = 0; i < raw.len; i++) {
            size_t before = got.len;
            assert_int_equal(nib_detok_put(&d, t, (uint8_t)raw.data[i], false, &got), NIB_OK);
            if (got.len > before) assert_true(nib_utf8_valid(got.data + before, got.len - before));
        }
        assert_int_equal(nib_detok_flush(&d, &got), NIB_OK);
        for (size_t i = 0; i < raw.len;) {
            int32_t cp;
            size_t n = nib_utf8_decode(raw.data + i, raw.len - i, &cp);
            if (cp < 0)
                nib_buf_puts(&want, "\xef\xbf\xbd");
            else
                nib_buf_put(&want, raw.data + i, n);
            i += n;
        }
        assert_int_equal(want.len, got.len);
        if (want.len) assert_memory_equal(want.data, got.data, want.len);
        nib_buf_free(&raw);
        nib_buf_free(&want);
        nib_buf_free(&got);
    }
    nib_tokenizer_free(t);
}

/* ---- byte-level BPE ---- */

static const char *const merges[] = {"h e",        "l l",         "he ll", "hell o",
                                     "\xc4\xa0 w", "\xc4\xa0w o", "r l",   "\xc4\x8a \xc4\x8a",
                                     "i s",        "' s",         "a b"};
static const tv_token bpe_rows[] = {
    {"<|endoftext|>", 0, NIB_TOKEN_CONTROL},
    {"<|im_end|>", 0, NIB_TOKEN_CONTROL},
    {"xyz", 0, NIB_TOKEN_NORMAL},
    {"  ", 0, NIB_TOKEN_USER},
    {"</s>", 0, NIB_TOKEN_NORMAL},
    {"[|]", 0, NIB_TOKEN_CONTROL},
};

static nib_tokenizer *byte_level(const char *pre) {
    tokvocab v = {0};
    tv_byte_level(&v, merges, NIB_ARRAY_LEN(merges), bpe_rows, NIB_ARRAY_LEN(bpe_rows));
    if (pre) tv_str(&v, "tokenizer.ggml.pre", pre);
    return make(&v);
}

static void byte_level_bpe(void **state) {
    (void)state;
    nib_tokenizer *t = byte_level("gpt-2");
    const nib_tokenizer_info *in = nib_tokenizer_get_info(t);
    assert_string_equal(in->kind, "bpe");
    assert_string_equal(in->pre, "gpt-2");
    assert_int_equal(in->bos, -1);
    assert_false(in->add_bos);
    expect(t, "hello", 0, "hello");
    expect(t, "hello world", 0, "hello|\xc4\xa0wo|rl|d");
    expect(t, "lll", 0, "ll|l");
    expect(t, "this's", 0, "t|h|is|'s"); /* the word ends before 's */
    expect(t, "\n\n\n", 0, "\xc4\x8a\xc4\x8a|\xc4\x8a");
    expect(t, "\xc3\xa9", 0, "\xc3\x83|\xc2\xa9");
    expect(t, "xyz", 0, "x|y|z");   /* no merges lead there */
    expect(t, "a  b", 0, "a|  |b"); /* user-defined */
    expect(t, "<|im_end|>", NIB_TOK_PARSE, "<|im_end|>");
    expect(t, "</s>", NIB_TOK_PARSE, "<|/|s|>"); /* an ordinary entry */
    nib_ids ids = encode(t, "<|im_end|>", 10, 0);
    assert_int_equal(ids.len, 10);
    expect_detok(t, &ids, false, "<|im_end|>");
    nib_ids_free(&ids);
    assert_true(nib_token_is_eog(t, nib_token_find(t, NIB_STR("<|im_end|>"))));
    assert_true(nib_token_is_eog(t, nib_token_find(t, NIB_STR("<|endoftext|>"))));
    assert_false(nib_token_is_eog(t, nib_token_find(t, NIB_STR("</s>"))));
    assert_false(nib_token_is_eog(t, -1));
    assert_int_equal(in->eot, nib_token_find(t, NIB_STR("<|im_end|>")));
    nib_tokenizer_free(t);
    t = byte_level("llama-bpe"); /* a word that is a token needs no merges, but never becomes a
                                    control token */
    expect(t, "xyz", 0, "xyz");
    expect(t, "[|]", 0, "[|||]");
    expect(t, "[|]", NIB_TOK_PARSE, "[|]");
    nib_tokenizer_free(t);
}

static char last_line[400];
static void keep_line(void *arg, nib_log_level level, const char *line) {
    (void)arg;
    (void)level;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static void unknown_family_warns(void **state) {
    (void)state;
    nib_log_set(keep_line, NULL, NIB_LOG_WARN);
    last_line[0] = 0;
    nib_tokenizer *t = byte_level("never-heard-of");
    assert_non_null(strstr(last_line, "never-heard-of"));
    expect(t, "hello world", 0, "hello|\xc4\xa0wo|rl|d");
    nib_tokenizer_free(t);
    last_line[0] = 0;
    t = byte_level(NULL); /* no name, no architecture */
    assert_non_null(strstr(last_line, "GPT-2"));
    nib_tokenizer_free(t);
    tokvocab v = {0}; /* no name, but an architecture that says it */
    last_line[0] = 0;
    tv_byte_level(&v, merges, NIB_ARRAY_LEN(merges), bpe_rows, NIB_ARRAY_LEN(bpe_rows));
    tv_str(&v, "general.architecture", "gptneox");
    t = make(&v);
    assert_int_equal(last_line[0], 0);
    expect(t, "e\xcc\x81", 0, "\xc3\x83|\xc2\xa9"); /* NFC */
    nib_tokenizer_free(t);
    nib_log_set(NULL, NULL, NIB_LOG_ERROR);
}

/* A vocabulary of bytes only shows what a text was normalised to. */
static void nfc_where_declared(void **state) {
    (void)state;
    static const uint32_t pool[] = {
        'a',    'e',    ' ',    '\n',   0xe9,   0x300,  0x301,  0x308,  0x323,   0x327,
        0x345,  0x1100, 0x1161, 0x11a8, 0xac00, 0xac01, 0x212b, 0x2126, 0x1e9b,  0x915,
        0x93c,  0x958,  0x9c7,  0x9be,  0x4e2d, 0xf900, 0x304b, 0x3099, 0x1d15e, 0x1f600,
        0x1fb4, 0x3b1,  0x313,  0x5d3,  0x5bc,  0xfb33, 0x622,  0x627,  0x653,   0x1ee7};
    tokvocab v = {0};
    tv_byte_level(&v, NULL, 0, NULL, 0);
    tv_str(&v, "tokenizer.ggml.pre", "qwen2");
    nib_tokenizer *t = make(&v);
    for (int round = 0; round < 5000; round++) {
        nib_buf raw = {0}, got = {0};
        for (size_t i = below(16); i-- > 0;) {
            char c[4];
            nib_buf_put(&raw, c, nib_utf8_encode((int32_t)pool[below(NIB_ARRAY_LEN(pool))], c));
        }
        nib_buf_put(&raw, "", 0);
        utf8proc_uint8_t *want = utf8proc_NFC((const utf8proc_uint8_t *)raw.data);
        nib_ids ids = encode(t, raw.data, raw.len, 0);
        for (size_t i = 0; i < ids.len; i++) nib_buf_putc(&got, (char)ids.data[i]);
        nib_buf_put(&got, "", 0);
        assert_string_equal(got.data, (char *)want);
        free(want);
        nib_ids_free(&ids);
        nib_buf_free(&raw);
        nib_buf_free(&got);
    }
    nib_tokenizer_free(t);
}

/* ---- against the obvious algorithms ---- */

typedef struct piece {
    char text[64];
} piece;

/* Letters as pieces, and the word they make. */
static size_t random_word(size_t letters, size_t longest, piece *p, char *text) {
    size_t n = 1 + below(longest);
    for (size_t i = 0; i < n; i++) {
        text[i] = (char)('a' + below(letters));
        p[i] = (piece){{text[i]}};
    }
    text[n] = 0;
    return n;
}

/* Joins p[i] and the one behind it. */
static size_t join(piece *p, size_t n, size_t i) {
    piece both;
    snprintf(both.text, sizeof both.text, "%.31s%.31s", p[i].text, p[i + 1].text);
    p[i] = both;
    memmove(p + i + 1, p + i + 2, (n - i - 2) * sizeof *p);
    return n - 1;
}

static void expect_pieces(const nib_tokenizer *t, const char *text, unsigned flags, const piece *p,
                          size_t n) {
    nib_buf want = {0};
    for (size_t i = 0; i < n; i++) nib_buf_printf(&want, "%s%s", i ? "|" : "", p[i].text);
    expect(t, text, flags, want.data);
    nib_buf_free(&want);
}

static void spm_as_the_slow_way(void **state) {
    (void)state;
    for (int round = 0; round < 300; round++) {
        static char names[80][12];
        tv_token rows[80] = {{"<unk>", 0, NIB_TOKEN_UNKNOWN}};
        size_t n_rows = 1, letters = 2 + below(3);
        for (size_t i = 0; i < letters; i++, n_rows++) {
            snprintf(names[n_rows], sizeof names[0], "%c", (char)('a' + i));
            rows[n_rows] = (tv_token){names[n_rows], -100, NIB_TOKEN_NORMAL};
        }
        for (size_t tries = 5 + below(60); tries > 0; tries--) {
            char s[12] = {0};
            for (size_t i = 0, n = 2 + below(4); i < n; i++) s[i] = (char)('a' + below(letters));
            bool known = false;
            for (size_t i = 1; i < n_rows; i++) known |= strcmp(names[i], s) == 0;
            if (known) continue;
            strcpy(names[n_rows], s);
            rows[n_rows] =
                (tv_token){names[n_rows], -(float)below(12), NIB_TOKEN_NORMAL}; /* ties */
            n_rows++;
        }
        tokvocab v = {0};
        tv_str(&v, "tokenizer.ggml.model", "llama");
        tv_tokens(&v, rows, n_rows, false);
        nib_tokenizer *t = make(&v);
        char text[41];
        piece p[40];
        size_t n = random_word(letters, 40, p, text);
        for (;;) {
            size_t best = n;
            float score = 0;
            for (size_t i = 0; i + 1 < n; i++) {
                char both[128];
                snprintf(both, sizeof both, "%.63s%.63s", p[i].text, p[i + 1].text);
                for (size_t r = 1; r < n_rows; r++)
                    if (strcmp(names[r], both) == 0 && (best == n || rows[r].score > score))
                        best = i, score = rows[r].score;
            }
            if (best == n) break;
            n = join(p, n, best);
        }
        expect_pieces(t, text, NIB_TOK_NO_PREFIX, p, n);
        nib_tokenizer_free(t);
    }
}

static void bpe_as_the_slow_way(void **state) {
    (void)state;
    for (int round = 0; round < 300; round++) {
        static char names[60][24], pairs[60][26];
        const char *rules[60];
        size_t n_names = 0, letters = 2 + below(3), n_rules = 0;
        for (; n_names < letters; n_names++)
            snprintf(names[n_names], sizeof names[0], "%c", (char)('a' + n_names));
        for (int tries = 0; tries < 200 && n_names < 50; tries++) {
            const char *a = names[below(n_names)], *b = names[below(n_names)];
            char both[48];
            snprintf(both, sizeof both, "%s%s", a, b);
            bool known = strlen(both) >= 20;
            for (size_t i = 0; i < n_names; i++) known |= strcmp(names[i], both) == 0;
            if (known) continue;
            snprintf(pairs[n_rules], sizeof pairs[0], "%s %s", a, b);
            rules[n_rules] = pairs[n_rules];
            n_rules++;
            memcpy(names[n_names++], both, strlen(both) + 1);
        }
        tokvocab v = {0};
        tv_byte_level(&v, rules, n_rules, NULL, 0);
        tv_str(&v, "tokenizer.ggml.pre", "gpt-2");
        nib_tokenizer *t = make(&v);
        char text[61];
        piece p[60];
        size_t n = random_word(letters, 60, p, text);
        for (;;) {
            size_t best = n, rank = n_rules;
            for (size_t i = 0; i + 1 < n; i++) {
                char rule[130];
                snprintf(rule, sizeof rule, "%.63s %.63s", p[i].text, p[i + 1].text);
                for (size_t r = 0; r < rank; r++)
                    if (strcmp(rules[r], rule) == 0) best = i, rank = r;
            }
            if (best == n) break;
            n = join(p, n, best);
        }
        expect_pieces(t, text, 0, p, n);
        nib_tokenizer_free(t);
    }
}

static void special_tokens_leftmost_longest(void **state) {
    (void)state;
    for (int round = 0; round < 300; round++) {
        static char names[12][10];
        tv_token rows[12];
        size_t n_rows = 0;
        while (n_rows < 12) {
            char s[10] = {0};
            for (size_t i = 0, n = 2 + below(6); i < n; i++) s[i] = (char)('a' + below(2));
            bool known = false;
            for (size_t i = 0; i < n_rows; i++) known |= strcmp(names[i], s) == 0;
            if (known) continue;
            strcpy(names[n_rows], s);
            rows[n_rows] =
                (tv_token){names[n_rows], 0, below(2) ? NIB_TOKEN_USER : NIB_TOKEN_CONTROL};
            n_rows++;
        }
        tokvocab v = {0};
        tv_byte_level(&v, NULL, 0, rows, n_rows);
        tv_str(&v, "tokenizer.ggml.pre", "gpt-2");
        nib_tokenizer *t = make(&v);
        char text[65] = {0};
        for (size_t i = 0, n = below(64); i < n; i++)
            text[i] = (char)('a' + (below(12) == 0 ? 2 : below(2)));
        for (unsigned parse = 0; parse < 2; parse++) {
            nib_buf want = {0};
            nib_buf_put(&want, "", 0);
            for (size_t i = 0; text[i];) {
                size_t best = 0;
                for (size_t r = 0; r < n_rows; r++) {
                    size_t n = strlen(names[r]);
                    if ((parse || rows[r].type == NIB_TOKEN_USER) && n > best &&
                        strncmp(text + i, names[r], n) == 0)
                        best = n;
                }
                if (!best) best = 1;
                nib_buf_printf(&want, "%s%.*s", i ? "|" : "", (int)best, text + i);
                i += best;
            }
            expect(t, text, parse ? NIB_TOK_PARSE : 0, want.data);
            nib_buf_free(&want);
        }
        nib_tokenizer_free(t);
    }
}

/* ---- WordPiece ---- */

static const tv_token marked[] = {
    {"[PAD]", 0, 3},       {"[UNK]", 0, 3},
    {"[CLS]", 0, 3},       {"[SEP]", 0, 3},
    {"[MASK]", 0, 3},      {SPACE "un", 0, 1},
    {SPACE "caf", 0, 1},   {"e", 0, 1},
    {"aff", 0, 1},         {"able", 0, 1},
    {SPACE "a", 0, 1},     {"a", 0, 1},
    {SPACE ",", 0, 1},     {SPACE "\xe4\xb8\xad", 0, 1},
    {SPACE "unaff", 0, 1}, {SPACE "A", 0, 1},
};
static const tv_token hashed[] = {
    {"[PAD]", 0, 3},  {"[UNK]", 0, 3},        {"[CLS]", 0, 3}, {"[SEP]", 0, 3},
    {"[MASK]", 0, 3}, {"un", 0, 1},           {"caf", 0, 1},   {"##e", 0, 1},
    {"##aff", 0, 1},  {"##able", 0, 1},       {"a", 0, 1},     {"##a", 0, 1},
    {",", 0, 1},      {"\xe4\xb8\xad", 0, 1}, {"unaff", 0, 1}, {"A", 0, 1},
};

static nib_tokenizer *wordpiece(const tv_token *rows, bool cased) {
    tokvocab v = {0};
    tv_str(&v, "tokenizer.ggml.model", "bert");
    tv_tokens(&v, rows, NIB_ARRAY_LEN(marked), false);
    tv_id(&v, "tokenizer.ggml.padding_token_id", 0);
    tv_id(&v, "tokenizer.ggml.unknown_token_id", 1);
    tv_id(&v, "tokenizer.ggml.cls_token_id", 2);
    tv_id(&v, "tokenizer.ggml.seperator_token_id", 3);
    if (cased) tv_bool(&v, "tokenizer.ggml.normalizer.lowercase", false);
    return make(&v);
}

static void word_pieces(void **state) {
    (void)state;
    nib_tokenizer *t = wordpiece(marked, false);
    expect(t, "unaffable, CAF\xc3\x89", 0, SPACE "unaff|able|" SPACE ",|" SPACE "caf|e");
    expect(t, "cafe\xcc\x81  a\ta", 0, SPACE "caf|e|" SPACE "a|" SPACE "a");
    expect(t,
           "a\xe4\xb8\xad"
           "a",
           0, SPACE "a|" SPACE "\xe4\xb8\xad|" SPACE "a");
    expect(t, "unx a", 0, "[UNK]|" SPACE "a"); /* the whole word is unknown */
    expect(t,
           "a\x01\xff"
           "a",
           0, SPACE "a|a"); /* control characters and broken bytes are dropped */
    expect(t, "a", NIB_TOK_SPECIAL, "[CLS]|" SPACE "a|[SEP]");
    expect(t, "[MASK]", NIB_TOK_PARSE, "[MASK]");
    expect(t, "[MASK]", 0, "[UNK]|[UNK]|[UNK]");
    expect(t, "", 0, "");
    char longest[102];
    memset(longest, 'a', 101);
    longest[101] = 0;
    expect(t, longest, 0, "[UNK]");
    nib_ids ids = encode(t, longest, 100, 0);
    assert_int_equal(ids.len, 100);
    nib_ids_free(&ids);
    ids = encode(t, "un a, a", 7, 0);
    expect_detok(t, &ids, true, " un a, a");
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    t = wordpiece(marked, true);
    expect(t, "A a CAF", 0, SPACE "A|" SPACE "a|[UNK]");
    nib_tokenizer_free(t);
    t = wordpiece(hashed, false); /* the published spelling */
    expect(t, "unaffable, CAF\xc3\x89", 0, "unaff|##able|,|caf|##e");
    ids = encode(t, "unaffable", 9, 0);
    expect_detok(t, &ids, true, " unaffable");
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
}

/* ---- ends of a generation ---- */

static void ends(void **state) {
    (void)state;
    static const tv_token rows[] = {
        {"<|end|>", 0, 3}, {"<|return|>", 0, 3}, {"<|call|>", 0, 3}, {"</s>", 0, 4}};
    tokvocab v = {0};
    tv_byte_level(&v, NULL, 0, rows,
                  NIB_ARRAY_LEN(rows)); /* harmony: <|end|> ends a message only */
    nib_tokenizer *t = make(&v);
    assert_false(nib_token_is_eog(t, 256));
    assert_true(nib_token_is_eog(t, 257) && nib_token_is_eog(t, 258) && nib_token_is_eog(t, 259));
    assert_int_equal(nib_tokenizer_get_info(t)->eot, 257);
    expect(t, "</s>", 0, "<|/|s|>"); /* user-defined in the file, but no user shall end a turn */
    nib_tokenizer_free(t);
    tv_byte_level(&v, NULL, 0, rows, 1);
    tv_id(&v, "tokenizer.ggml.eos_token_id", 65);
    tv_id(&v, "tokenizer.ggml.eom_token_id", 66);
    tv_id(&v, "tokenizer.ggml.padding_token_id", 99999); /* left behind by a fine-tune: ignored */
    t = make(&v);
    assert_true(nib_token_is_eog(t, 256) && nib_token_is_eog(t, 65) && nib_token_is_eog(t, 66));
    assert_false(nib_token_is_eog(t, 67));
    assert_int_equal(nib_tokenizer_get_info(t)->eot, 256);
    assert_int_equal(nib_tokenizer_get_info(t)->pad, -1);
    nib_tokenizer_free(t);
}

/* ---- size and company ---- */

static void time_is_linear(void **state) {
    (void)state;
    const size_t N = test_quick() ? 100000 : 1000000;
    nib_tokenizer *kinds[] = {spm(true),
                              byte_level("gpt-2"),
                              byte_level("llama-bpe"),
                              byte_level("qwen2"),
                              byte_level("gpt-4o"),
                              byte_level("deepseek-llm"),
                              byte_level("jais-2"),
                              byte_level("bloom"),
                              wordpiece(marked, false)};
    static const char *const units[] = {"a",
                                        " ",
                                        "\n",
                                        "l",
                                        "A",
                                        "7",
                                        "'s",
                                        "ab",
                                        "!",
                                        " a",
                                        "\r\n",
                                        "\xe4\xb8\xad",
                                        "\xcc\x81\xcc\xa7",
                                        "\xcc\xa7\xcc\x81",
                                        "<",
                                        "\xff",
                                        "\xe2\x80\x83"};
    char *text = malloc(N + 8);
    assert_non_null(text);
    double slowest = 0;
    for (size_t k = 0; k < NIB_ARRAY_LEN(kinds); k++) {
        for (size_t u = 0; u < NIB_ARRAY_LEN(units); u++) {
            size_t n = 0, len = strlen(units[u]);
            while (n + len <= N) memcpy(text + n, units[u], len), n += len;
            clock_t start = clock();
            nib_ids ids = encode(kinds[k], text, n, NIB_TOK_PARSE);
            double s = (double)(clock() - start) / CLOCKS_PER_SEC;
            slowest = NIB_MAX(slowest, s);
            assert_true(s < 10); /* a quadratic step would take hours; sanitizers a second or two */
            nib_ids_free(&ids);
        }
        nib_tokenizer_free(kinds[k]);
    }
    print_message("%zu bytes of each of %zu repeated texts with %zu tokenizers: at most %.2f s\n",
                  N, NIB_ARRAY_LEN(units), NIB_ARRAY_LEN(kinds), slowest);
    free(text);
}

typedef struct shared_job {
    const nib_tokenizer *t;
    const char *text;
    nib_ids ids[4];
} shared_job;

static void tokenize_once(void *arg, int tid, int n_threads) {
    (void)n_threads;
    shared_job *j = arg;
    nib_error e;
    for (int i = 0; i < 20; i++) {
        j->ids[tid].len = 0;
        if (nib_tokenize(j->t, j->text, strlen(j->text), NIB_TOK_PARSE, &j->ids[tid], &e) != NIB_OK)
            return;
    }
}

static void any_number_of_threads(void **state) {
    (void)state;
    nib_error e;
    nib_pool *pool;
    nib_tokenizer *t = byte_level("qwen2");
    nib_buf b = {0};
    for (int i = 0; i < 200; i++) nib_buf_printf(&b, "hello world %d, cafe\xcc\x81<|im_end|>\n", i);
    shared_job j = {.t = t, .text = b.data};
    test_ok(nib_pool_create(&pool, 4, &e), &e);
    nib_pool_run(pool, tokenize_once, &j);
    nib_pool_free(pool);
    assert_true(j.ids[0].len > 1000);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(j.ids[i].len, j.ids[0].len);
        assert_memory_equal(j.ids[i].data, j.ids[0].data, j.ids[0].len * sizeof(int32_t));
        if (i) nib_ids_free(&j.ids[i]);
    }
    nib_ids_free(&j.ids[0]);
    nib_buf_free(&b);
    nib_tokenizer_free(t);
}

/* Texts and pieces of every length about where their description grows: token 2n is n times 'a',
 * whose piece is the same, 2n + 1 is n spaces, whose text is three times as long, with 'b' behind.
 */
static void strings_of_all_lengths(void **state) {
    (void)state;
    enum { N = 600 };
    static char text[2 * N][3 * N + 1];
    static nib_str s[2 * N];
    static float score[2 * N];
    for (size_t n = 0; n < N; n++) {
        memset(text[2 * n], 'a', n);
        for (size_t i = 0; i < n; i++) memcpy(text[2 * n + 1] + 3 * i, SPACE, 3);
        text[2 * n + 1][3 * n] = 'b';
        s[2 * n] = (nib_str){text[2 * n], n};
        s[2 * n + 1] = (nib_str){text[2 * n + 1], 3 * n + 1};
    }
    tokvocab v = {0};
    tv_str(&v, "tokenizer.ggml.model", "llama");
    tv_strings(&v, "tokenizer.ggml.tokens", s, 2 * N);
    tv_floats(&v, "tokenizer.ggml.scores", score, 2 * N);
    nib_tokenizer *t = make(&v);
    for (int32_t id = 0; id < 2 * N; id++) {
        nib_str p = nib_token_piece(t, id, true);
        size_t n = (size_t)id / 2;
        assert_true(nib_str_eq(nib_token_text(t, id), s[id]));
        assert_int_equal(nib_token_find(t, s[id]), id ? id : -1);
        assert_int_equal(p.n, n + (size_t)(id % 2));
        for (size_t i = 0; i < n; i++) assert_int_equal(p.p[i], id % 2 ? ' ' : 'a');
        if (id % 2) assert_int_equal(p.p[n], 'b');
    }
    assert_int_equal(nib_token_find(t, NIB_STR("ab")), -1);
    nib_tokenizer_free(t);
}

static void ids_are_appended_or_untouched(void **state) {
    (void)state;
    nib_error e;
    nib_tokenizer *t = byte_level("gpt-2");
    nib_ids ids = {.max = 4};
    assert_true(nib_ids_push(&ids, 7));
    test_ok(nib_tokenize(t, "hello", 5, 0, &ids, &e), &e);
    assert_int_equal(ids.len, 2);
    assert_int_equal(nib_tokenize(t, "xxxxxxxxx", 9, 0, &ids, &e), NIB_ERR_LIMIT);
    assert_int_equal(ids.len, 2);
    assert_int_equal(ids.data[0], 7);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentencepiece),
        cmocka_unit_test(sentencepiece_back),
        cmocka_unit_test(stream_keeps_characters_whole),
        cmocka_unit_test(byte_level_bpe),
        cmocka_unit_test(unknown_family_warns),
        cmocka_unit_test(nfc_where_declared),
        cmocka_unit_test(spm_as_the_slow_way),
        cmocka_unit_test(bpe_as_the_slow_way),
        cmocka_unit_test(special_tokens_leftmost_longest),
        cmocka_unit_test(word_pieces),
        cmocka_unit_test(ends),
        cmocka_unit_test(time_is_linear),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(strings_of_all_lengths),
        cmocka_unit_test(ids_are_appended_or_untouched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
