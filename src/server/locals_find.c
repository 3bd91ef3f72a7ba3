/* Finding models: what was named, what lies in folders, what was pulled; what their headers say;
 * and their digests.
 *
 * Runs on threads of its own: nothing here touches the server but its settings. A header is read
 * once for each state of a file (path, size, time). The digest of a pulled file is known from its
 * name; that of another one is computed when the model is first used, by a thread that yields to
 * all others, and remembered in a file of lines "DIGEST SIZE TIME PATH". */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "hub/hub.h"
#include "server/internal.h"

enum { DEPTH = 4, MOST_MODELS = 4096, MOST_DIGESTS = 4096 };

void nib_look_free(nib_look *l) {
    nib_free(l->arch);
    nib_free(l->title);
    nib_free(l->chat_template);
    *l = (nib_look){0};
}

static void found_free(nib_found_model *f) {
    nib_free(f->name);
    nib_free(f->longer);
    nib_free(f->other);
    nib_free(f->path);
    nib_look_free(&f->look);
}

void nib_found_list_free(nib_found_list *l) {
    for (size_t i = 0; i < l->n; i++) found_free(&l->v[i]);
    nib_free(l->v);
    *l = (nib_found_list){0};
}

/* ---- what a header says ---- */

static char *text_of(const nib_gguf *g, const char *key) {
    nib_str s;
    if (nib_gguf_str(g, key, &s, NULL) != NIB_OK || !s.n || !nib_utf8_valid(s.p, s.n)) return NULL;
    return nib_strndup(s.p, s.n);
}

static int64_t number_of(const nib_gguf *g, const char *arch, const char *key) {
    char full[160];
    int64_t v;
    snprintf(full, sizeof full, "%s.%s", arch, key);
    return nib_gguf_i64(g, full, 0, INT64_MAX, &v, NULL) == NIB_OK ? v : 0;
}

static bool look_at(const char *path, nib_look *out) {
    nib_gguf *g;
    nib_look l = {0};
    const nib_gguf_kv *tokens;
    if (nib_gguf_open(&g, path, NULL) != NIB_OK) return false;
    l.arch = text_of(g, "general.architecture");
    const char *arch = l.arch ? l.arch : "";
    l.title = text_of(g, "general.name");
    l.chat_template = text_of(g, "tokenizer.chat_template");
    for (int64_t i = 0; i < nib_gguf_n_tensors(g); i++)
        l.n_params += (uint64_t)nib_tensor_count(nib_gguf_tensor_at(g, i));
    nib_model_quant(g, l.quant);
    l.n_ctx_train = number_of(g, arch, "context_length");
    l.n_embd = number_of(g, arch, "embedding_length");
    l.n_layer = number_of(g, arch, "block_count");
    l.n_ff = number_of(g, arch, "feed_forward_length");
    l.n_head = number_of(g, arch, "attention.head_count");
    l.n_head_kv = number_of(g, arch, "attention.head_count_kv");
    l.head_dim = number_of(g, arch, "attention.key_length");
    if (!l.n_head_kv) l.n_head_kv = l.n_head;
    if (!l.head_dim && l.n_head) l.head_dim = l.n_embd / l.n_head;
    if (nib_gguf_arr(g, "tokenizer.ggml.tokens", true, &tokens, NULL) == NIB_OK)
        l.n_vocab = tokens->arr_n;
    l.causal = !strstr(arch, "bert");
    nib_gguf_close(g);
    *out = l;
    return true;
}

static void look(nib_found_model *f, const nib_found_list *known) {
    for (size_t i = 0; i < known->n; i++) {
        const nib_found_model *k = &known->v[i];
        if (strcmp(k->path, f->path) == 0 && k->bytes == f->bytes && k->when == f->when) return;
    }
    f->looked = look_at(f->path, &f->look);
}

/* ---- files ---- */

/* Size and time of a model's file; of a split one of all parts, which must be there. */
static bool measure(const char *path, uint64_t *bytes, time_t *when) {
    struct stat st;
    size_t stem;
    int part, parts = 1;
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    *bytes = (uint64_t)st.st_size;
    *when = st.st_mtime;
    if (!nib_hub_split_of(path, &stem, &part, &parts)) return true;
    *bytes = 0;
    for (int i = 1; i <= parts; i++) {
        char other[NIB_HUB_PATH];
        int n = snprintf(other, sizeof other, "%.*s-%05d-of-%05d.gguf", (int)stem, path, i, parts);
        if (n < 0 || (size_t)n >= sizeof other || stat(other, &st)) return false;
        *bytes += (uint64_t)st.st_size;
    }
    return true;
}

/* A name that can be shown and typed: what a file is called without its folder, ending and number
 * of parts. */
static char *name_of(const char *text, size_t n) {
    size_t stem;
    int part, parts;
    char *name = nib_strndup(text, n);
    if (!name) return NULL;
    if (nib_hub_split_of(name, &stem, &part, &parts)) name[stem] = 0;
    n = strlen(name);
    if (n > 5 && strcasecmp(name + n - 5, ".gguf") == 0) name[n -= 5] = 0;
    bool valid = nib_utf8_valid(name, n);
    for (char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '"' || *p == '\'' ||
            (!valid && (*p & 0x80)))
            *p = '_';
    if (*name) return name;
    nib_free(name);
    return nib_strdup("model");
}

/* Takes over the texts. */
static void add(nib_found_list *l, nib_found_model f) {
    bool ok = f.name && f.path && l->n < MOST_MODELS;
    if (ok && l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 16;
        nib_found_model *v = nib_realloc(l->v, cap * sizeof *v);
        ok = v != NULL;
        if (ok) l->v = v, l->cap = cap;
    }
    if (ok)
        l->v[l->n++] = f;
    else
        found_free(&f);
}

/* The one that is the same file. */
static nib_found_model *same(nib_found_list *l, const char *path) {
    struct stat a, b;
    if (stat(path, &a)) return NULL;
    for (size_t i = 0; i < l->n; i++)
        if (stat(l->v[i].path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
            return &l->v[i];
    return NULL;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcasecmp((*a)->d_name, (*b)->d_name);
}

static void walk(nib_found_list *l, const char *folder, int depth, const atomic_bool *quit) {
    struct dirent **items = NULL;
    int n = scandir(folder, &items, NULL, by_name);
    const char *slash = strrchr(folder, '/'), *last = slash ? slash + 1 : folder;
    for (int i = 0; i < n; i++) {
        const char *item = items[i]->d_name;
        char path[NIB_HUB_PATH];
        struct stat st;
        int len = snprintf(path, sizeof path, "%s/%s", folder, item);
        if (*item != '.' && len > 0 && (size_t)len < sizeof path && !atomic_load(quit) &&
            stat(path, &st) == 0) {
            nib_found_model f = {0};
            if (S_ISDIR(st.st_mode)) {
                if (depth > 1) walk(l, path, depth - 1, quit);
            } else if (nib_hub_is_model(item) && measure(path, &f.bytes, &f.when) &&
                       !same(l, path)) {
                char longer[1024];
                f.name = name_of(item, strlen(item));
                len = snprintf(longer, sizeof longer, "%s/%s", last, item);
                if (len > 0 && (size_t)len < sizeof longer) f.longer = name_of(longer, (size_t)len);
                f.path = nib_strdup(path);
                add(l, f);
            }
        }
        free(items[i]);
    }
    free(items);
}

static void add_given(nib_found_list *l, const nib_server_model *m) {
    nib_found_model f = {.path = nib_strdup(m->path)};
    const char *slash = strrchr(m->path, '/'), *base = slash ? slash + 1 : m->path;
    measure(m->path, &f.bytes, &f.when); /* else opening it says what is wrong */
    f.name = m->name ? name_of(m->name, strlen(m->name)) : name_of(base, strlen(base));
    if (m->name) f.other = name_of(base, strlen(base));
    if (slash && slash > m->path) {
        const char *folder = slash - 1;
        while (folder > m->path && folder[-1] != '/') folder--;
        f.longer = name_of(folder, strlen(folder));
    }
    add(l, f);
}

static void add_pulled(nib_found_list *l, const nib_hub_model *m) {
    nib_found_model f = {.bytes = m->bytes, .when = m->when}, *known = same(l, m->path);
    char full[2048];
    const char *name = nib_hub_model_name(m);
    if (!*m->file || !nib_hub_is_model(m->file)) return; /* a folder of safetensors; a part */
    snprintf(full, sizeof full, "%s:%s", m->repo, *m->quant ? m->quant : m->file);
    if (known) { /* named on the command line, too */
        if (!*known->digest) memcpy(known->digest, m->digest, sizeof known->digest);
        nib_free(known->other);
        known->other = name_of(name, strlen(name));
        return;
    }
    f.name = name_of(name, strlen(name));
    f.other = name_of(full, strlen(full));
    f.path = nib_strdup(m->path);
    memcpy(f.digest, m->digest, sizeof f.digest);
    add(l, f);
}

void nib_locals_search(const nib_server_params *p, const nib_found_list *known,
                       const atomic_bool *quit, nib_found_list *out) {
    nib_hub h = {.cache = (char *)p->cache};
    nib_hub_model *pulled = NULL;
    size_t n = 0;
    for (size_t i = 0; i < p->n_models; i++) add_given(out, &p->models[i]);
    for (const char *const *f = p->folders; f && *f; f++) walk(out, *f, DEPTH, quit);
    if (p->cache && nib_hub_list(&h, &pulled, &n, NULL) == NIB_OK)
        for (size_t i = 0; i < n; i++) add_pulled(out, &pulled[i]);
    nib_hub_list_free(pulled, n);
    for (size_t i = 0; known && i < out->n && !atomic_load(quit); i++) look(&out->v[i], known);
}

/* ---- digests ---- */

static void put_line(nib_buf *b, const char *digest, uint64_t bytes, time_t when,
                     const char *path) {
    nib_buf_printf(b, "%s %llu %lld %s\n", digest, (unsigned long long)bytes, (long long)when,
                   path);
}

/* The line about path in text; NULL: none. */
static const char *line_of(const char *text, const char *path, size_t *n) {
    for (const char *p = text; p && *p; p += *n) {
        *n = strcspn(p, "\n");
        const char *at = p;
        for (int i = 0; i < 3 && at < p + *n; i++) at += strcspn(at, " \n") + 1;
        size_t len = (size_t)(p + *n - at);
        *n += p[*n] == '\n';
        if (at < p + *n && len == strlen(path) && memcmp(at, path, len) == 0) return p;
    }
    return NULL;
}

bool nib_locals_digest(const char *digests, const char *path, uint64_t bytes, time_t when,
                       const atomic_bool *quit, char out[65]) {
    nib_buf text = {0}, line = {0}, fresh = {0};
    char *real = realpath(path, NULL); /* of the C library */
    size_t n = 0;
    bool ok = false;
    nib_error e;
    if (!real || strchr(real, '\n')) goto out;
    if (digests) nib_file_read(digests, 4 << 20, &text, NULL);
    const char *known = line_of(text.data, real, &n);
    if (known && n > 66) {
        char digest[65];
        memcpy(digest, known, 64);
        digest[64] = 0;
        put_line(&line, digest, bytes, when, real);
        ok = !line.failed && line.len == n && memcmp(line.data, known, n) == 0 &&
             strspn(digest, "0123456789abcdef") == 64;
        if (ok) memcpy(out, digest, sizeof digest);
    }
    if (ok) goto out;
    ok = nib_hub_sha256(path, quit, out, NULL) == NIB_OK;
    if (!ok || !digests) goto out;
    put_line(&fresh, out, bytes, when, real);
    int kept = 1;
    for (const char *at = text.data; at && *at && kept < MOST_DIGESTS; kept++) {
        size_t len = strcspn(at, "\n");
        if (at != known) nib_buf_put(&fresh, at, len), nib_buf_putc(&fresh, '\n');
        at += len + (at[len] == '\n');
    }
    if (!fresh.failed && nib_file_write(digests, fresh.data, fresh.len, &e) != NIB_OK)
        nib_log(NIB_LOG_DEBUG, "digests are not remembered: %s", e.message);
out:
    free(real);
    nib_buf_free(&text);
    nib_buf_free(&line);
    nib_buf_free(&fresh);
    return ok;
}
