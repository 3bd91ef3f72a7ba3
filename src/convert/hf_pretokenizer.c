/* The pre-tokenizer: tokenizer.json describes it, GGUF has a name for it (pretokenizers.def).
 *
 * The peers tell them apart by the ids of a test text, with one row a model; the description itself
 * is what decides how text is cut, so it is the fingerprint here. */
#include "convert/internal.h"

static const struct {
    const char *normalizer;
    bool ignore_merges;
    const char *steps, *names;
} pres[] = {
#define NIB_PRE(normalizer, ignore_merges, steps, names) {normalizer, ignore_merges, steps, names},
#include "convert/pretokenizers.def"
#undef NIB_PRE
};

/* The next of the words of a list; empty at its end. */
static nib_str next_word(const char **p) {
    *p += strspn(*p, " ");
    nib_str w = {*p, strcspn(*p, " ")};
    *p += w.n;
    return w;
}

static bool has_word(const char *words, nib_str word) {
    for (nib_str w; (w = next_word(&words)).n;)
        if (nib_str_eq(w, word)) return true;
    return false;
}

/* ---- in ---- */

static bool add_step(nib_buf *out, const json_t *step) {
    const char *type = json_string_value(json_object_get(step, "type"));
    if (!type) return false;
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        json_t *part;
        json_array_foreach(json_object_get(step, "pretokenizers"), i, part) {
            const char *inner = json_string_value(json_object_get(part, "type"));
            if (!inner || strcmp(inner, "Sequence") == 0 || !add_step(out, part)) return false;
        }
        return true;
    }
    const json_t *use = json_object_get(step, "use_regex");
    bool bytes = strcmp(type, "ByteLevel") == 0;
    if (bytes && json_is_false(use)) return true;
    if (out->len) nib_buf_putc(out, '\n');
    if (strcmp(type, "Split") != 0) return nib_buf_puts(out, type);
    const json_t *pattern = json_object_get(step, "pattern");
    const char *text = json_string_value(json_object_get(pattern, "Regex"));
    if (!text) text = json_string_value(json_object_get(pattern, "String"));
    return text && nib_buf_puts(out, "Split:") && nib_buf_puts(out, text);
}

/* NFC, alone or in a sequence, or nothing that changes how nib must cut. */
static const char *normalizer_of(const conv_hf *h) {
    const json_t *n = json_object_get(h->tokenizer, "normalizer");
    const char *type = json_string_value(json_object_get(n, "type"));
    if (!type) return "";
    if (strcmp(type, "NFC") == 0) return "NFC";
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(n, "normalizers"), i, v) {
        const char *t = json_string_value(json_object_get(v, "type"));
        if (t && strcmp(t, "NFC") == 0) return "NFC";
    }
    return "";
}

nib_status conv_pretokenizer_name(const conv_hf *h, nib_arena *arena, const char **out,
                                  nib_error *e) {
    nib_buf steps = {.max = 1 << 16};
    bool whole =
        json_is_true(json_object_get(json_object_get(h->tokenizer, "model"), "ignore_merges"));
    const char *normalizer = normalizer_of(h), *found = NULL;
    bool known = add_step(&steps, json_object_get(h->tokenizer, "pre_tokenizer")) && steps.len;
    if (steps.failed) {
        nib_buf_free(&steps);
        return nib_fail_nomem(e, 64, "the pre-tokenizer's description");
    }
    /* exactly, then with another normalizer or merge rule */
    for (int loose = 0; known && loose < 2 && !found; loose++)
        for (size_t i = 0; i < NIB_ARRAY_LEN(pres) && !found; i++) {
            if (strcmp(pres[i].steps, steps.data) != 0) continue;
            if (!loose &&
                (strcmp(pres[i].normalizer, normalizer) != 0 || pres[i].ignore_merges != whole))
                continue;
            found = pres[i].names;
        }
    if (!found)
        nib_fail(e, NIB_ERR_UNSUPPORTED,
                 "'%s/tokenizer.json': nib has no name for this pre-tokenizer ('%.80s'): name the "
                 "nearest with --pre, such as gpt-2, llama-bpe or qwen2",
                 h->folder, steps.len ? steps.data : "none");
    nib_buf_free(&steps);
    if (!found) return NIB_ERR_UNSUPPORTED;
    const char *own = h->family->pres, *words = found;
    nib_str first = next_word(&words);
    for (nib_str w; (w = next_word(&own)).n;)
        if (has_word(found, w)) {
            first = w;
            break;
        }
    char *name = nib_arena_strndup(arena, first.p, first.n);
    if (!name) return nib_fail_nomem(e, first.n, "a name");
    *out = name;
    return NIB_OK;
}

/* ---- out ---- */

static json_t *step_json(const char *p, size_t n) {
    if (n > 6 && memcmp(p, "Split:", 6) == 0)
        return json_pack("{s:s, s:{s:s#}, s:s, s:b}", "type", "Split", "pattern", "Regex", p + 6,
                         (int)(n - 6), "behavior", "Isolated", "invert", 0);
    if (n == 6 && memcmp(p, "Digits", 6) == 0)
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 1);
}

bool conv_pretokenizer_json(nib_str pre, json_t **pre_tokenizer, json_t **normalizer,
                            bool *ignore_merges) {
    for (size_t i = 0; i < NIB_ARRAY_LEN(pres); i++) {
        if (!has_word(pres[i].names, pre)) continue;
        json_t *list = json_array();
        bool bytes = false;
        for (const char *p = pres[i].steps; *p;) {
            size_t n = strcspn(p, "\n");
            bytes |= n == 9 && memcmp(p, "ByteLevel", 9) == 0;
            json_array_append_new(list, step_json(p, n));
            p += n + (p[n] == '\n');
        }
        if (!bytes)
            json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                                  "add_prefix_space", 0, "trim_offsets", 1,
                                                  "use_regex", 0));
        *pre_tokenizer = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
        *normalizer =
            *pres[i].normalizer ? json_pack("{s:s}", "type", pres[i].normalizer) : json_null();
        *ignore_merges = pres[i].ignore_merges;
        return *pre_tokenizer != NULL;
    }
    return false;
}
