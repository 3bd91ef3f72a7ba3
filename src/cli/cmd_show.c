/* nib show: what a model file is, and what running it takes. */
#include <jansson.h>
#include <math.h>
#include "cli/models.h"

static bool as_json, show_template, show_tensors, show_keys;
const nib_option nib_opts_show[] = {
    NIB_OPT_SWITCH("json", 0, &as_json, "print JSON"),
    NIB_OPT_SWITCH("template", 0, &show_template, "print the chat template and nothing else"),
    NIB_OPT_SWITCH("tensors", 0, &show_tensors, "list the tensors too"),
    NIB_OPT_SWITCH("keys", 0, &show_keys, "list the keys of the file too"),
    NIB_OPT_END,
};

/* Memory at one context length, for the two kinds of cache. */
typedef struct need {
    int64_t n_ctx;
    uint64_t own, q8_0; /* bytes in all; 0: this cache does not suit the model */
    bool own_fits, q8_0_fits;
} need;
enum { MAX_NEEDS = 8 };

static uint64_t plan_for(const nib_model *m, int64_t n_ctx, nib_kv_type kv, bool *fits) {
    if (!nib_model_kv_bytes(m, kv, 1)) return 0;
    nib_engine_params p = {.n_ctx = n_ctx, .kv = kv};
    nib_plan plan;
    nib_engine_plan(m, &p, &plan);
    *fits = plan.fits;
    return plan.total;
}

static int find_needs(const nib_model *m, need *out) {
    const nib_model_info *i = nib_model_get_info(m);
    int n = 0;
    for (int64_t ctx = 2048; n < MAX_NEEDS - 1 && ctx < i->n_ctx_train; ctx *= 2)
        out[n++].n_ctx = ctx;
    out[n++].n_ctx = i->n_ctx_train;
    for (int k = 0; k < n; k++) {
        out[k].own_fits = out[k].q8_0_fits = false;
        out[k].own = plan_for(m, out[k].n_ctx, NIB_KV_AUTO, &out[k].own_fits);
        out[k].q8_0 = plan_for(m, out[k].n_ctx, NIB_KV_Q8_0, &out[k].q8_0_fits);
    }
    return n;
}

/* Bytes of weights by format, the largest first. */
typedef struct share {
    const char *name;
    uint64_t bytes;
    int n;
} share;
enum { MAX_SHARES = 64 };

static int find_shares(const nib_gguf *g, share *out) {
    int n = 0;
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        const char *name = nib_dtype_get(t->dtype)->name;
        int k = 0;
        while (k < n && out[k].name != name) k++;
        if (k == n) out[n++] = (share){name, 0, 0};
        out[k].bytes += t->bytes;
        out[k].n++;
    }
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && out[k].bytes > out[k - 1].bytes; k--) {
            share t = out[k];
            out[k] = out[k - 1];
            out[k - 1] = t;
        }
    return n;
}

static uint64_t kv_per_token(const nib_model *m, nib_kv_type t) {
    return nib_model_kv_bytes(m, t, NIB_PAGE) / NIB_PAGE;
}

static json_t *text(const char *s) {
    return s ? nib_json_text(s, strlen(s)) : json_null();
}
static json_t *number(uint64_t v) {
    return json_integer((json_int_t)v);
}

static json_t *tensors_json(const nib_gguf *g) {
    json_t *list = json_array();
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer(t->ne[d]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o}", "name", text(t->name), "type",
                                              nib_dtype_get(t->dtype)->name, "shape", shape));
    }
    return list;
}

/* Arrays, which may be long, as their length. */
static json_t *keys_json(const nib_gguf *g) {
    json_t *all = json_object();
    for (int64_t i = 0; i < nib_gguf_n_kv(g); i++) {
        const nib_gguf_kv *kv = nib_gguf_kv_at(g, i);
        json_t *v;
        switch (kv->type) {
        case NIB_GGUF_STR: v = nib_json_text(kv->str.p, kv->str.n); break;
        case NIB_GGUF_ARR: v = json_pack("{s:I}", "array_of", (json_int_t)kv->arr_n); break;
        case NIB_GGUF_F32:
        case NIB_GGUF_F64: v = isfinite(kv->f) ? json_real(kv->f) : json_null(); break;
        case NIB_GGUF_BOOL: v = json_boolean(kv->i); break;
        default: v = json_integer(kv->i);
        }
        json_t *key = nib_json_text(kv->key.p, kv->key.n);
        if (key)
            json_object_set_new(all, json_string_value(key), v);
        else
            json_decref(v);
        json_decref(key);
    }
    return all;
}

static nib_status print_json(const nib_model *m, const char *unsupported, nib_error *e) {
    const nib_model_info *i = nib_model_get_info(m);
    const nib_tokenizer_info *t = nib_tokenizer_get_info(nib_model_tokenizer(m));
    share shares[MAX_SHARES];
    need needs[MAX_NEEDS];
    nib_sysinfo sys;
    nib_sysinfo_read(&sys);
    json_t *mix = json_object(), *memory = json_array();
    int n = find_shares(nib_model_gguf(m), shares);
    for (int k = 0; k < n; k++) json_object_set_new(mix, shares[k].name, number(shares[k].bytes));
    n = i->has_weights && i->causal ? find_needs(m, needs) : 0;
    for (int k = 0; k < n; k++) {
        json_array_append_new(
            memory,
            json_pack("{s:I, s:I, s:b, s:I, s:b}", "context", (json_int_t)needs[k].n_ctx, "default",
                      (json_int_t)needs[k].own, "default_fits", needs[k].own_fits, "q8_0",
                      (json_int_t)needs[k].q8_0, "q8_0_fits", needs[k].q8_0_fits));
    }
    json_t *v = json_pack(
        "{s:o, s:o, s:o, s:I, s:I, s:I, s:s, s:o, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
        "name", text(i->name), "path", text(i->path), "architecture", text(i->arch), "parameters",
        (json_int_t)i->n_params, "file_bytes", (json_int_t)i->file_bytes, "weight_bytes",
        (json_int_t)i->weight_bytes, "quantisation", i->quant, "weights_by_format", mix, "causal",
        i->causal, "context", (json_int_t)i->n_ctx_train, "layers", (json_int_t)i->n_layer,
        "embedding", (json_int_t)i->n_embd, "heads", (json_int_t)i->n_head, "kv_heads",
        (json_int_t)i->n_head_kv, "head_width", (json_int_t)i->head_dim, "feed_forward",
        (json_int_t)i->n_ff, "vocabulary", (json_int_t)i->n_vocab);
    if (v) {
        json_object_set_new(v, "tokenizer",
                            json_pack("{s:s, s:s, s:i, s:i, s:i, s:b, s:b}", "kind", t->kind, "pre",
                                      t->pre, "tokens", t->n_vocab, "bos", t->bos, "eos", t->eos,
                                      "add_bos", t->add_bos, "add_eos", t->add_eos));
        json_object_set_new(v, "chat_template", text(i->chat_template));
        json_object_set_new(v, "runs", json_boolean(i->has_weights));
        if (unsupported) json_object_set_new(v, "unsupported", text(unsupported));
        if (show_keys) json_object_set_new(v, "keys", keys_json(nib_model_gguf(m)));
        if (show_tensors) json_object_set_new(v, "tensors", tensors_json(nib_model_gguf(m)));
        json_object_set_new(v, "kv_bytes_per_token",
                            json_pack("{s:o, s:o}", "default", number(kv_per_token(m, NIB_KV_AUTO)),
                                      "q8_0", number(kv_per_token(m, NIB_KV_Q8_0))));
        json_object_set_new(v, "memory", memory);
        json_object_set_new(v, "available_bytes", number(sys.mem_available));
    } else {
        json_decref(memory);
    }
    return nib_print_json(v, e);
}

static void row(const char *name) {
    const nib_style *st = nib_style_of(stdout);
    printf("%s%-13s%s ", st->bold, name, st->reset);
}

/* Text from the file, which may hold anything. */
static void put_plain(const char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        int32_t cp;
        char out[4];
        i += nib_utf8_decode(p + i, n - i, &cp);
        if (cp == '\n')
            fputs("\\n", stdout);
        else if (cp < 0 || (cp >= 0x20 && (cp < 0x7f || cp > 0x9f)))
            fwrite(out, 1, nib_utf8_encode(cp, out), stdout);
    }
}

static void put_need(uint64_t bytes, bool fits) {
    const nib_style *st = nib_style_of(stdout);
    if (!bytes)
        printf("%-20s", "-");
    else
        printf("%-9s %s%-9s%s ", nib_bytes_text(bytes), fits ? st->green : st->red,
               fits ? "fits" : "too much", st->reset);
}

static void print_memory(const nib_model *m) {
    need needs[MAX_NEEDS];
    nib_sysinfo sys;
    nib_sysinfo_read(&sys);
    int n = find_needs(m, needs);
    uint64_t own = kv_per_token(m, NIB_KV_AUTO), q8_0 = kv_per_token(m, NIB_KV_Q8_0);
    row("KV cache");
    printf("%s a token", nib_bytes_text(own));
    if (q8_0) printf(", %s in q8_0", nib_bytes_text(q8_0));
    printf(": %s at 2048\n", nib_bytes_text(nib_model_kv_bytes(m, NIB_KV_AUTO, 2048)));
    row("memory"), printf("%-10s%-20s%-20s(%s available here)\n", "context", "with KV",
                          "with q8_0 KV", nib_bytes_text(sys.mem_available));
    for (int k = 0; k < n; k++) {
        row(""), printf("%-10lld", (long long)needs[k].n_ctx);
        put_need(needs[k].own, needs[k].own_fits);
        put_need(needs[k].q8_0, needs[k].q8_0_fits);
        putchar('\n');
    }
}

static void print_people(const nib_model *m, const char *unsupported) {
    const nib_model_info *i = nib_model_get_info(m);
    const nib_tokenizer_info *t = nib_tokenizer_get_info(nib_model_tokenizer(m));
    share shares[MAX_SHARES];
    row("name"), put_plain(i->name, strlen(i->name)), putchar('\n');
    row("file"), put_plain(i->path, strlen(i->path)),
        printf(", %s\n", nib_bytes_text(i->file_bytes));
    if (i->has_weights) {
        row("architecture");
        printf("%s: %lld layers, width %lld, %lld heads of %lld (%lld for keys and values), "
               "feed-forward %lld%s\n",
               i->arch, (long long)i->n_layer, (long long)i->n_embd, (long long)i->n_head,
               (long long)i->head_dim, (long long)i->n_head_kv, (long long)i->n_ff,
               i->causal ? "" : "; an embedder");
        row("parameters"), printf("%s\n", nib_count_text(i->n_params));
        row("quantisation"), printf("%s (", i->quant);
        int n = find_shares(nib_model_gguf(m), shares);
        for (int k = 0; k < n; k++)
            printf("%s%s %.0f %%", k ? ", " : "", shares[k].name,
                   100.0 * (double)shares[k].bytes / (double)i->weight_bytes);
        printf(" of %s)\n", nib_bytes_text(i->weight_bytes));
        row("context"), printf("%lld tokens\n", (long long)i->n_ctx_train);
    } else if (unsupported) {
        row("parameters"), printf("%s in %lld tensors\n", nib_count_text(i->n_params),
                                  (long long)nib_gguf_n_tensors(nib_model_gguf(m)));
        row("runs"), printf("no: %s\n", unsupported);
    } else {
        row("weights"), printf("none: a vocabulary only\n");
    }
    row("tokenizer"), printf("%s%s%s, %d tokens", t->kind, *t->pre ? " " : "", t->pre, t->n_vocab);
    if (t->bos >= 0) printf(", BOS %d%s", t->bos, t->add_bos ? " (added)" : "");
    if (t->eos >= 0) printf(", EOS %d%s", t->eos, t->add_eos ? " (added)" : "");
    putchar('\n');
    row("template");
    if (i->chat_template)
        printf("Jinja, %zu bytes ('nib show --template' prints it)\n", strlen(i->chat_template));
    else if (i->causal)
        printf("none: messages are written as \"User: ...\" and \"Assistant:\"\n");
    else
        printf("none\n");
    if (i->has_weights && i->causal) print_memory(m);
}

static void print_tensors(const nib_gguf *g) {
    printf("\n");
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++) {
        const nib_tensor *t = nib_gguf_tensor_at(g, i);
        printf("%-7s ", nib_dtype_get(t->dtype)->name);
        char shape[96];
        int n = 0;
        for (int d = 0; d < t->n_dims; d++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", d ? " x " : "",
                          (long long)t->ne[d]);
        printf("%-24s ", shape);
        put_plain(t->name, strlen(t->name));
        putchar('\n');
    }
}

static void print_keys(const nib_gguf *g) {
    printf("\n");
    for (int64_t i = 0; i < nib_gguf_n_kv(g); i++) {
        const nib_gguf_kv *kv = nib_gguf_kv_at(g, i);
        put_plain(kv->key.p, kv->key.n);
        printf(" = ");
        switch (kv->type) {
        case NIB_GGUF_STR:
            putchar('"');
            put_plain(kv->str.p, NIB_MIN(kv->str.n, (size_t)200));
            printf(kv->str.n > 200 ? "\" ...\n" : "\"\n");
            break;
        case NIB_GGUF_ARR: printf("[%lld values]\n", (long long)kv->arr_n); break;
        case NIB_GGUF_F32:
        case NIB_GGUF_F64: printf("%.9g\n", kv->f); break;
        case NIB_GGUF_BOOL: puts(kv->i ? "true" : "false"); break;
        default: printf("%lld\n", (long long)kv->i);
        }
    }
}

/* A family nib does not know can still be looked into: info has what the keys say. */
static nib_status open_any(const char *path, nib_model **m, nib_error *why, nib_error *e) {
    nib_gguf *g;
    NIB_TRY(nib_gguf_open(&g, path, e));
    nib_model_params p = {.plan_only = true, .vocab_only = nib_gguf_n_tensors(g) == 0};
    nib_gguf_close(g);
    nib_status s = nib_model_open(m, path, &p, e);
    if (s != NIB_ERR_UNSUPPORTED) return s;
    *why = *e;
    p.vocab_only = true;
    return nib_model_open(m, path, &p, NULL) == NIB_OK ? NIB_OK : s;
}

nib_status nib_cmd_show(nib_cli *c, nib_error *e) {
    NIB_TRY(nib_cli_operands(c, 1, 1, "MODEL", e));
    nib_model *m;
    nib_error unsupported = {0};
    char *path;
    NIB_TRY(nib_model_find(c->argv[0], &path, e));
    nib_status s = open_any(path, &m, &unsupported, e);
    nib_free(path);
    if (s != NIB_OK) return s;
    const char *template = nib_model_get_info(m)->chat_template;
    if (show_template && !template) {
        s = nib_fail(e, NIB_ERR_NOT_FOUND, "'%s' has no chat template", c->argv[0]);
    } else if (show_template) {
        fputs(template, stdout);
    } else if (as_json) {
        s = print_json(m, unsupported.code ? unsupported.message : NULL, e);
    } else {
        print_people(m, unsupported.code ? unsupported.message : NULL);
        if (show_keys) print_keys(nib_model_gguf(m));
        if (show_tensors) print_tensors(nib_model_gguf(m));
    }
    nib_model_release(m);
    return s;
}
