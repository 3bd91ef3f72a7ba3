/* Where the hub and its cache are, as the environment says; and paths below the cache. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hub/internal.h"

static const char *env(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

nib_status nib_hub_path(char *out, nib_error *e, const char *fmt, ...) {
    char line[NIB_HUB_PATH];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= NIB_HUB_PATH)
        return nib_fail(e, NIB_ERR_LIMIT, "a path is longer than %d bytes: '%.100s...'",
                        NIB_HUB_PATH, line);
    memcpy(out, line, (size_t)n + 1);
    return NIB_OK;
}

nib_status nib_hub_repo_dir(const nib_hub *h, const char *repo, char *out, nib_error *e) {
    const char *slash = strchr(repo, '/');
    if (!slash) return nib_hub_path(out, e, "%s/models--%s", h->cache, repo);
    return nib_hub_path(out, e, "%s/models--%.*s--%s", h->cache, (int)(slash - repo), repo,
                        slash + 1);
}

static nib_status make_dir(const char *dir, nib_error *e) {
    struct stat st;
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && stat(dir, &st) == 0 && S_ISDIR(st.st_mode)))
        return NIB_OK;
    int n = errno == EEXIST ? ENOTDIR : errno;
    return nib_fail(e, NIB_ERR_IO,
                    "cannot create the folder '%.300s': %s (HF_HUB_CACHE names another place for "
                    "models)",
                    dir, strerror(n));
}

nib_status nib_hub_mkdirs(const char *dir, nib_error *e) {
    char path[NIB_HUB_PATH];
    struct stat st;
    if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)) return NIB_OK;
    NIB_TRY(nib_hub_path(path, e, "%s", dir));
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) NIB_TRY(make_dir(path, e));
        *p = '/';
    }
    return make_dir(path, e);
}

nib_status nib_hub_mkdirs_above(const char *path, nib_error *e) {
    char dir[NIB_HUB_PATH];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return NIB_OK;
    NIB_TRY(nib_hub_path(dir, e, "%.*s", (int)(slash - path), path));
    return nib_hub_mkdirs(dir, e);
}

bool nib_hub_cancelled(const nib_hub *h) {
    return h->cancel && atomic_load(h->cancel);
}

nib_status nib_hub_sleep(const nib_hub *h, double seconds, nib_error *e) {
    for (double end = nib_now() + seconds, left; (left = end - nib_now()) > 0;) {
        if (nib_hub_cancelled(h)) return nib_fail(e, NIB_ERR_CANCELLED, "interrupted");
        usleep((useconds_t)(1e6 * NIB_MIN(left, 0.1)));
    }
    return NIB_OK;
}

/* A token is one line of visible characters: anything else could smuggle headers. */
static nib_status take_token(nib_hub *h, const char *text, const char *from, nib_error *e) {
    size_t start = strspn(text, " \t\r\n"), n = strcspn(text + start, " \t\r\n");
    if (text[start + n + strspn(text + start + n, " \t\r\n")])
        return nib_fail(e, NIB_ERR_ARGUMENT, "%s holds more than one word: expected a token", from);
    for (size_t i = 0; i < n; i++)
        if (text[start + i] <= ' ' || text[start + i] > '~')
            return nib_fail(e, NIB_ERR_ARGUMENT, "%s holds a character no token has", from);
    if (n && !(h->token = nib_strndup(text + start, n))) return nib_fail_nomem(e, n, "the token");
    return NIB_OK;
}

static nib_status find_token(nib_hub *h, const char *home, nib_error *e) {
    static const char *const names[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(names); i++)
        if (env(names[i])) return take_token(h, env(names[i]), names[i], e);
    char path[NIB_HUB_PATH];
    if (env("HF_TOKEN_PATH"))
        NIB_TRY(nib_hub_path(path, e, "%s", env("HF_TOKEN_PATH")));
    else
        NIB_TRY(nib_hub_path(path, e, "%s/token", home));
    nib_buf text = {0};
    nib_status s = NIB_OK;
    if (access(path, R_OK) == 0 && nib_file_read(path, 4096, &text, NULL) == NIB_OK)
        s = take_token(h, text.data, path, e);
    nib_buf_free(&text);
    return s;
}

/* "~/x" is x in the user's folder. */
static nib_status expand(char *out, const char *path, nib_error *e) {
    if (path[0] == '~' && path[1] == '/' && env("HOME"))
        return nib_hub_path(out, e, "%s%s", env("HOME"), path + 1);
    return nib_hub_path(out, e, "%s", path);
}

nib_status nib_hub_open(nib_hub *h, nib_error *e) {
    nib_hub fresh = {.connections = 4, .retries = 8, .timeout = 20, .pause = 1, .max_wait = 300};
    char home[NIB_HUB_PATH], cache[NIB_HUB_PATH];
    nib_status s;
    if (env("HF_HOME"))
        NIB_TRY_OUT(expand(home, env("HF_HOME"), e));
    else if (env("XDG_CACHE_HOME"))
        NIB_TRY_OUT(nib_hub_path(home, e, "%s/huggingface", env("XDG_CACHE_HOME")));
    else
        NIB_TRY_OUT(nib_hub_path(home, e, "%s/.cache/huggingface", env("HOME") ? env("HOME") : ""));
    const char *given = env("HF_HUB_CACHE") ? env("HF_HUB_CACHE") : env("HUGGINGFACE_HUB_CACHE");
    if (given)
        NIB_TRY_OUT(expand(cache, given, e));
    else
        NIB_TRY_OUT(nib_hub_path(cache, e, "%s/hub", home));
    size_t n = strlen(cache);
    while (n > 1 && cache[n - 1] == '/') cache[--n] = 0;

    const char *at = env("HF_ENDPOINT") ? env("HF_ENDPOINT") : "https://huggingface.co";
    if (strncmp(at, "http://", 7) != 0 && strncmp(at, "https://", 8) != 0) {
        s = nib_fail(e, NIB_ERR_ARGUMENT,
                     "HF_ENDPOINT: expected https://HOST or http://HOST, found '%.100s'", at);
        goto out;
    }
    size_t len = strlen(at);
    while (len && at[len - 1] == '/') len--;
    const char *ca = env("SSL_CERT_FILE") ? env("SSL_CERT_FILE") : env("CURL_CA_BUNDLE");
    fresh.endpoint = nib_strndup(at, len);
    fresh.cache = nib_strdup(cache);
    fresh.ca_file = ca ? nib_strdup(ca) : NULL;
    if (!fresh.endpoint || !fresh.cache || (ca && !fresh.ca_file))
        NIB_TRY_OUT(nib_fail_nomem(e, NIB_HUB_PATH, "the hub's settings"));
    static const char *const offline[] = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"};
    for (size_t i = 0; i < NIB_ARRAY_LEN(offline); i++) {
        static const char *const yes[] = {"1", "ON", "on", "YES", "yes", "TRUE", "true", "True"};
        const char *v = env(offline[i]);
        for (size_t k = 0; v && k < NIB_ARRAY_LEN(yes); k++)
            fresh.offline |= strcmp(v, yes[k]) == 0;
    }
    NIB_TRY_OUT(find_token(&fresh, home, e));
    *h = fresh;
    return NIB_OK;
out:
    nib_hub_close(&fresh);
    return s;
}

void nib_hub_close(nib_hub *h) {
    nib_free(h->endpoint);
    nib_free(h->cache);
    nib_free(h->token);
    nib_free(h->ca_file);
    *h = (nib_hub){0};
}
