/* nib serve: the engine over HTTP. */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cli/models.h"
#include "cli/watch.h"
#ifdef NIB_HAVE_SERVER
#include "server/server.h"

enum { MAX_LIST = 32 };
static const char *host, *store, *key_file, *name, *cors[MAX_LIST + 1], *allowed[MAX_LIST + 1];
static int64_t port = -1, parallel, queue, max_tokens, rate = -1, connections, messages;
static uint64_t max_body, kv_disk = NIB_KVDISK_AUTO;
static double max_seconds = -1, grace = -1, keep = -1;
static const char *folders[MAX_LIST + 1];
static int64_t max_models;
static uint64_t model_memory;
static bool quiet, only;

static nib_status add_to(const nib_option *o, const char *value, nib_error *e) {
    const char **list = o->to;
    for (int i = 0; i < MAX_LIST; i++)
        if (!list[i]) {
            list[i] = value;
            return NIB_OK;
        }
    return nib_fail(e, NIB_ERR_ARGUMENT, "%s: at most %d", o->name, MAX_LIST);
}

static nib_status set_number(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_num(o->name, value, o->min, o->max, o->to, e);
}

static nib_status set_bytes(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_bytes(o->name, value, o->to, e);
}

static nib_status set_keep(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_keep(o->name, value, o->to, e);
}

const nib_option nib_opts_serve[] = {
    NIB_OPT_TEXT("host", 'H', "ADDRESS", &host,
                 "address to listen on (default: 127.0.0.1); others than this machine's own need "
                 "--api-key-file"),
    NIB_OPT_INT("port", 'p', "N", &port, 0, 65535,
                "port to listen on (default: 8080; 0 is any that is free)"),
    NIB_OPT_TEXT("name", 0, "NAME", &name,
                 "what clients call the (first) model (default: the file's name)"),
    {"models", 0, "DIR", add_to, folders, 0, 0,
     "offer the models of this folder too, to be loaded when they are asked for; may be given "
     "several times",
     NULL},
    NIB_OPT_SWITCH("only", 0, &only, "offer only what is named here, not what 'nib ls' lists"),
    NIB_OPT_INT("max_models", 0, "N", &max_models, 1, 64,
                "models that are loaded at a time; another takes the place of the one not used for "
                "longest (default: 1)"),
    {"models_memory", 0, "SIZE", set_bytes, &model_memory, 0, 0,
     "load further models beside the first while all take at most this, such as 8G (default: what "
     "is free)",
     NULL},
    {"keep_alive", 0, "TIME", set_keep, &keep, 0, 0,
     "unload a model that was not used for this long, such as 5m; -1 is never (default: -1)", NULL},
    NIB_OPT_INT("parallel", 'P', "N", &parallel, 1, 256,
                "replies at a time, each with a context of its own (default: 4)"),
    NIB_OPT_INT("queue", 0, "N", &queue, 1, 65536,
                "requests that may wait for their turn; further ones get 429 (default: 64)"),
    NIB_OPT_TEXT("api-key-file", 0, "FILE", &key_file,
                 "keys, one a line, of which clients must show one"),
    {"cors", 0, "ORIGIN", add_to, cors, 0, 0,
     "let pages of this origin use the server, such as https://example.org; may be given several "
     "times; * is any",
     NULL},
    {"allow_host", 0, "NAME", add_to, allowed, 0, 0,
     "a name this server may be called by, beside localhost and addresses; may be given several "
     "times",
     NULL},
    NIB_OPT_INT("max_tokens", 'n', "N", &max_tokens, 1, 1 << 24,
                "tokens of a reply: the default, and the most a client gets (default: 2048)"),
    {"max_seconds", 0, "S", set_number, &max_seconds, 0, 1e6,
     "time of a reply, which then ends as it is; 0 is no limit (default: 30)", NULL},
    NIB_OPT_INT("rate", 0, "N", &rate, 0, 1000000,
                "generations a client may start in a minute; 0 is no limit (default: 300)"),
    {"max_body", 0, "SIZE", set_bytes, &max_body, 0, 0,
     "the largest request, such as 16M (default: 4M)", NULL},
    NIB_OPT_INT("max_messages", 0, "N", &messages, 1, 1000000,
                "messages of a conversation (default: 1024)"),
    NIB_OPT_INT("max_connections", 0, "N", &connections, 1, 100000,
                "connections at a time; further ones wait (default: 1024)"),
    {"grace", 0, "S", set_number, &grace, 0, 3600,
     "seconds that replies may take to end when the server is stopped (default: 5)", NULL},
    NIB_OPT_TEXT("store", 0, "FILE", &store,
                 "where the pages keep conversations (default: where 'nib chat' does); :memory: "
                 "keeps them until the server ends"),
    {"kv_disk", 0, "SIZE", set_bytes, &kv_disk, 0, 0,
     "what conversations' caches may take beside that file, so that one that is opened again need "
     "not be read by the model again; 0 keeps none (default: 2G, or 5 % of the free disk when that "
     "is less)",
     NULL},
    NIB_OPT_SWITCH("quiet", 'q', &quiet, "no line for each request"),
    NIB_OPT_GROUP("Model and memory", nib_host_options),
    NIB_OPT_END,
};

static nib_server *server;

static void on_signal(int sig) {
    (void)sig;
    nib_server_stop(server);
}

static void catch_signals(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < NIB_ARRAY_LEN(signals); i++) sigaction(signals[i], &a, NULL);
}

static void log_line(void *arg, nib_log_level level, const char *line) {
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    (void)arg;
    fprintf(stderr, "nib: %s%s\n", names[level], line);
}

static void settings(nib_server_params *p) {
    p->engine = *nib_host_params();
    p->engine.n_seq = parallel ? (int)parallel : 4;
    p->host = host;
    if (port >= 0) p->port = (int)port;
    p->store = store;
    p->kv_disk = kv_disk;
    if (queue) p->n_queue = (int)queue;
    p->key_file = key_file;
    p->cors = cors;
    p->hosts = allowed;
    if (max_tokens) p->max_tokens = max_tokens;
    if (max_seconds >= 0) p->max_seconds = max_seconds;
    if (max_body) p->max_body = max_body;
    if (messages) p->max_messages = (int)messages;
    if (connections) p->max_connections = (int)connections;
    if (rate >= 0) p->rate = (int)rate;
    if (grace >= 0) p->grace = grace;
    p->folders = folders;
    if (max_models) p->max_models = (int)max_models;
    p->model_memory = model_memory;
    p->keep = keep;
}

/* Where digests of files are remembered; its folder is made. False: nowhere. */
static bool digests_path(char *out, size_t size) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = cache && *cache == '/' ? snprintf(out, size, "%s", cache)
            : home && *home        ? snprintf(out, size, "%s/.cache", home)
                                   : -1;
    if (n < 0 || (size_t)n + 16 >= size) return false;
    mkdir(out, 0777);
    snprintf(out + n, size - (size_t)n, "/nib");
    mkdir(out, 0777);
    snprintf(out + n, size - (size_t)n, "/nib/digests");
    return true;
}

static nib_status check_folders(nib_error *e) {
    for (const char *const *f = folders; *f; f++) {
        struct stat st;
        if (stat(*f, &st) || !S_ISDIR(st.st_mode))
            return nib_fail(e, NIB_ERR_NOT_FOUND, "--models: '%s' is no folder", *f);
    }
    return NIB_OK;
}

/* The models named on the command line. */
typedef struct named {
    nib_found found[MAX_LIST];
    nib_server_model models[MAX_LIST];
    size_t n;
} named;

static void named_free(named *all) {
    for (size_t i = 0; i < all->n; i++) nib_found_free(&all->found[i]);
}

static nib_status find_named(const nib_cli *c, named *all, nib_error *e) {
    for (int i = 0; i < c->argc; i++) {
        nib_found *f = &all->found[i];
        NIB_TRY(nib_host_find(f, c->argv[i], e));
        all->n++;
        nib_filemap file = {0};
        NIB_TRY(nib_filemap_open(&file, f->path, e)); /* said before all else */
        nib_filemap_close(&file);
        all->models[i] = (nib_server_model){.path = f->path, .params = f->params};
        if (strcmp(f->path, c->argv[i]) != 0) all->models[i].name = c->argv[i]; /* an alias */
    }
    if (all->n && name) all->models[0].name = name;
    return NIB_OK;
}

static void log_start(const nib_server_params *p) {
    const char *at = p->host ? p->host : "127.0.0.1";
    int where = nib_server_port(server);
    size_t n = nib_server_n_models(server);
    if (p->model_path)
        nib_log(NIB_LOG_INFO, "listening on http://%s:%d, loading the model; Ctrl-C stops", at,
                where);
    else if (n)
        nib_log(NIB_LOG_INFO,
                "listening on http://%s:%d, ready to load any of %zu model%s; Ctrl-C stops", at,
                where, n, n == 1 ? "" : "s");
    else
        nib_log(NIB_LOG_INFO,
                "listening on http://%s:%d without a model (nib serve MODEL); Ctrl-C stops", at,
                where);
}

nib_status nib_cmd_serve(nib_cli *c, nib_error *e) {
    static named all;
    static char digests[NIB_HUB_PATH];
    nib_models hub = {0};
    nib_status s;
    NIB_TRY(nib_cli_operands(c, 0, MAX_LIST, "models", e));
    nib_server_params p = nib_server_defaults();
    settings(&p);
    NIB_TRY_OUT(check_folders(e));
    bool found = nib_models_open(&hub, NULL) == NIB_OK; /* a machine without a home has no cache */
    NIB_TRY_OUT(find_named(c, &all, e));
    p.model.n_threads = p.engine.n_threads;
    if (all.n) {
        p.model_path = all.models[0].path;
        p.model_name = all.models[0].name;
        p.model = all.models[0].params;
        p.models = all.models + 1;
        p.n_models = all.n - 1;
    }
    if (found && !only) p.cache = hub.hub.cache;
    if (digests_path(digests, sizeof digests)) p.digests = digests;
    p.quit = &nib_cancel;
    nib_log_set(log_line, NULL, quiet ? NIB_LOG_WARN : NIB_LOG_INFO);
    NIB_TRY_OUT(nib_server_new(&server, &p, e));
    NIB_TRY_OUT(nib_host_watch(e));
    catch_signals();
    log_start(&p);
    s = nib_server_run(server, e);
    if (s == NIB_OK && nib_watch_fired(e)) s = NIB_ERR_MEMORY_FIT;
out:
    nib_watch_stop();
    nib_server_free(server);
    named_free(&all);
    nib_models_close(&hub);
    return s;
}

#else

static nib_status set_keep(const nib_option *o, const char *value, nib_error *e) {
    return nib_parse_keep(o->name, value, o->to, e);
}

const nib_option nib_opts_serve[] = {NIB_OPT_END};

nib_status nib_cmd_serve(nib_cli *c, nib_error *e) {
    (void)c;
    return nib_fail(e, NIB_ERR_UNSUPPORTED,
                    "this nib was built without its server: install libevent-dev and build again");
}
#endif
