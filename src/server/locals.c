/* The list of models, wishes, and who comes and goes: locals.h says how it is meant. */
#include <assert.h>
#include <malloc.h>
#include <sched.h>
#include "server/internal.h"

static const double REFRESH = 1, /* seconds before the folders are looked through again */
    TELL = 5;                    /* between two lines of the log about loading */

typedef struct nib_locals {
    nib_local **v;
    size_t n, cap;
    size_t n_given;
    nib_wish *first, *last;
    int n_wishes;
    /* tasks under way */
    nib_loading *loading;
    nib_local *coming, *going; /* the one it loads; the one being unloaded */
    nib_local *restore;        /* left to make room for another */
    bool crowded;              /* the next to come needs others to leave */
    bool starting;             /* the first model is being loaded */
    bool searching, hashing;
    nib_task load, unload, find, hash;
    nib_found_list known, found; /* as last found; being found */
    nib_hashing hashed;
    double searched, told;
    bool turning, again, ended;
    atomic_bool quit;
} nib_locals;

size_t nib_locals_n(const nib_server *s) {
    return s->locals->n;
}
bool nib_locals_quit(const nib_server *s) {
    return atomic_load(&s->locals->quit);
}
nib_local *nib_locals_at(const nib_server *s, size_t i) {
    return s->locals->v[i];
}

/* ---- the list ---- */

static void local_free(nib_local *m) {
    nib_free(m->name);
    nib_free(m->other);
    nib_free(m->path);
    nib_look_free(&m->look);
    nib_free(m);
}

/* Names are the same that differ in what people leave out: case, ".gguf", ":latest", where it came
 * from. */
static nib_str bare(const char *name) {
    static const char *const before[] = {"hf.co/", "huggingface.co/", "hf:"};
    static const char *const behind[] = {":latest", ".gguf"};
    nib_str s = nib_str_c(name);
    for (size_t i = 0; i < NIB_ARRAY_LEN(before); i++) {
        size_t n = strlen(before[i]);
        if (s.n > n && strncasecmp(s.p, before[i], n) == 0) s.p += n, s.n -= n;
    }
    for (size_t i = 0; i < NIB_ARRAY_LEN(behind); i++) {
        size_t n = strlen(behind[i]);
        if (s.n > n && strncasecmp(s.p + s.n - n, behind[i], n) == 0) s.n -= n;
    }
    return s;
}

static bool alike(const char *a, const char *b) {
    nib_str x = bare(a), y = bare(b);
    return x.n == y.n && strncasecmp(x.p, y.p, x.n) == 0;
}

static nib_local *named(const nib_locals *m, const char *name) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->v[i]->name, name) == 0) return m->v[i];
    for (size_t i = 0; i < m->n; i++)
        if (alike(m->v[i]->name, name)) return m->v[i];
    for (size_t i = 0; i < m->n; i++)
        if (m->v[i]->other && alike(m->v[i]->other, name)) return m->v[i];
    return NULL;
}

nib_local *nib_locals_latest(nib_server *s) {
    nib_local *best = NULL;
    for (size_t i = 0; i < s->locals->n; i++) {
        nib_local *m = s->locals->v[i];
        if (m->state == NIB_LOCAL_READY && (!best || m->latest > best->latest)) best = m;
    }
    return best;
}

/* Names that are not known mean it: the only one on the command line, as with a server that has no
 * other. */
static nib_local *any_name(const nib_server *s) {
    return s->locals->n_given == 1 && !(s->p.folders && *s->p.folders) ? s->locals->v[0] : NULL;
}

nib_local *nib_locals_find(nib_server *s, const char *name, bool any) {
    nib_locals *m = s->locals;
    if (name && *name) {
        nib_local *found = named(m, name);
        return found || !any ? found : any_name(s);
    }
    if (m->n_given) return m->v[0];
    nib_local *latest = nib_locals_latest(s);
    return latest ? latest : m->n == 1 ? m->v[0] : NULL;
}

void nib_locals_put_names(nib_server *s, nib_buf *b) {
    enum { SHOWN = 8 };
    const nib_locals *m = s->locals;
    if (!m->v || !m->n) {
        nib_buf_puts(b, "there are no models (nib pull NAME brings one)");
        return;
    }
    for (size_t i = 0; i < m->n && i < SHOWN; i++) {
        assert(m->v[i]);
        const char *before = i ? ", " : m->n == 1 ? "there is " : "there are ";
        nib_buf_printf(b, "%s'%.100s'", before, m->v[i]->name);
    }
    if (m->n > SHOWN) nib_buf_printf(b, " and %zu more", m->n - SHOWN);
}

/* A name that no other model has; takes over. */
static char *unique(const nib_locals *m, const nib_found_model *f) {
    char name[1200];
    if (!named(m, f->name)) return nib_strdup(f->name);
    if (f->longer && !named(m, f->longer)) return nib_strdup(f->longer);
    for (int i = 2; i < 10000; i++) {
        snprintf(name, sizeof name, "%.1000s-%d", f->longer ? f->longer : f->name, i);
        if (!named(m, name)) return nib_strdup(name);
    }
    return NULL;
}

static nib_local *at_path(const nib_locals *m, const char *path) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->v[i]->path, path) == 0) return m->v[i];
    return NULL;
}

/* What is known of a file that is on the list; takes the look. */
static void update(nib_local *m, nib_found_model *f) {
    bool changed = m->bytes != f->bytes || m->when != f->when;
    m->gone = false;
    m->bytes = f->bytes;
    m->when = f->when;
    if (changed) m->hashed = false, m->digest[0] = 0;
    if (*f->digest) memcpy(m->digest, f->digest, sizeof m->digest);
    if (!f->looked || (m->looked && !changed)) return;
    nib_look_free(&m->look);
    m->look = f->look;
    m->looked = true;
    f->look = (nib_look){0};
    f->looked = false;
}

static void insert(nib_server *s, nib_found_model *f) {
    nib_locals *m = s->locals;
    nib_local *x = nib_calloc(1, sizeof *x);
    if (x && m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 16;
        nib_local **v = nib_realloc(m->v, cap * sizeof *v);
        if (!v) {
            nib_free(x);
            return;
        }
        m->v = v;
        m->cap = cap;
    }
    if (!x) return;
    x->name = unique(m, f);
    x->path = nib_strdup(f->path);
    if (f->other && strcmp(f->other, f->name) != 0) x->other = nib_strdup(f->other);
    x->params = (nib_model_params){.n_threads = s->p.model.n_threads, .f32 = s->p.model.f32};
    if (!x->name || !x->path) {
        local_free(x);
        return;
    }
    update(x, f);
    m->v[m->n++] = x;
}

/* Brings the list up to date. The first ones found are those of the command line, in order. */
static void merge(nib_server *s, nib_found_list *found) {
    nib_locals *m = s->locals;
    for (size_t i = 0; i < m->n; i++) m->v[i]->gone = true;
    for (size_t i = 0; i < found->n; i++) {
        nib_local *known = at_path(m, found->v[i].path);
        if (known)
            update(known, &found->v[i]);
        else
            insert(s, &found->v[i]);
    }
    nib_locals_turn(s);
}

/* Files that went, once nobody has them any more. */
static void drop_gone(nib_locals *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        nib_local *x = m->v[i];
        bool wanted = x->given || !x->gone || x->state != NIB_LOCAL_AWAY || x->n_users;
        for (const nib_wish *w = m->first; w && !wanted; w = w->next) wanted = w->local == x;
        if (wanted) {
            m->v[n++] = x;
            continue;
        }
        if (m->restore == x) m->restore = NULL;
        local_free(x);
    }
    m->n = n;
}

/* ---- looking through folders ---- */

static void search(void *arg) {
    nib_server *s = arg;
    nib_locals *m = s->locals;
    nib_locals_search(&s->p, &m->known, &m->quit, &m->found);
}

static void searched(void *arg) {
    nib_server *s = arg;
    nib_locals *m = s->locals;
    m->searching = false;
    m->searched = nib_now();
    if (!atomic_load(&m->quit)) merge(s, &m->found);
    nib_found_list_free(&m->known);
    m->known = m->found;
    m->found = (nib_found_list){0};
    nib_locals_turn(s);
}

/* False: it is recent enough. */
static bool start_search(nib_server *s) {
    nib_locals *m = s->locals;
    if (m->searching) return true;
    if (m->ended || (m->searched > 0 && nib_now() - m->searched < REFRESH)) return false;
    if (!s->p.cache && !(s->p.folders && *s->p.folders) && m->searched > 0) return false;
    m->searching = true;
    m->find = (nib_task){.lane = NIB_LANE_FIND, .work = search, .done = searched, .arg = s};
    nib_task_start(s, &m->find);
    return m->searching;
}

void nib_locals_refresh(nib_server *s) {
    start_search(s);
}

/* ---- digests ---- */

static void hash(void *arg) {
    nib_hashing *x = &((nib_server *)arg)->locals->hashed;
    struct sched_param none = {0};
    pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
    x->ok = nib_locals_digest(x->digests, x->path, x->bytes, x->when, x->quit, x->digest);
}

static void hashed(void *arg) {
    nib_server *s = arg;
    nib_locals *m = s->locals;
    nib_hashing *x = &m->hashed;
    nib_local *l = at_path(m, x->path);
    m->hashing = false;
    if (l && x->ok && l->bytes == x->bytes && l->when == x->when)
        memcpy(l->digest, x->digest, sizeof l->digest);
    nib_free(x->path);
}

/* Of a model that is in use and has none yet: others' files are not read for it. */
static void start_hashing(nib_server *s) {
    nib_locals *m = s->locals;
    for (size_t i = 0; i < m->n && !m->hashing && !m->coming; i++) {
        nib_local *l = m->v[i];
        if (l->state != NIB_LOCAL_READY || *l->digest || l->hashed) continue;
        m->hashed = (nib_hashing){.path = nib_strdup(l->path),
                                  .digests = s->p.digests,
                                  .bytes = l->bytes,
                                  .when = l->when,
                                  .quit = &m->quit};
        if (!m->hashed.path) return;
        l->hashed = m->hashing = true;
        m->hash = (nib_task){.lane = NIB_LANE_HASH, .work = hash, .done = hashed, .arg = s};
        nib_task_start(s, &m->hash);
    }
}

/* ---- users ---- */

nib_status nib_parse_keep(const char *what, const char *text, double *seconds, nib_error *e) {
    static const struct {
        const char *unit;
        double seconds;
    } units[] = {{"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}, {"h", 3600}, {"m", 60}, {"s", 1}};
    bool below = *text == '-';
    const char *p = text + (below || *text == '+');
    double sum = 0;
    bool ok = *p != 0;
    while (ok && *p) {
        size_t n = strspn(p, "0123456789."), u = 0;
        char number[32];
        double v;
        ok = n && n < sizeof number;
        if (!ok) break;
        snprintf(number, sizeof number, "%.*s", (int)n, p);
        bool alone = p[n] == 0 && sum == 0;
        while (u < NIB_ARRAY_LEN(units) && strncmp(p + n, units[u].unit, strlen(units[u].unit)))
            u++;
        ok = nib_parse_num(what, number, 0, 1e12, &v, NULL) == NIB_OK &&
             (alone || u < NIB_ARRAY_LEN(units));
        if (!ok) break;
        sum += v * (alone ? 1 : units[u].seconds);
        p += n + (alone ? 0 : strlen(units[u].unit));
    }
    if (!ok)
        return nib_fail(e, NIB_ERR_ARGUMENT,
                        "%s: expected a time such as 5m, 90s, 0 or -1 (for ever), found '%.40s'",
                        what, text);
    *seconds = below && sum > 0 ? -1 : sum;
    return NIB_OK;
}

void nib_local_enter(nib_local *m) {
    m->n_users++;
}

void nib_local_leave(nib_server *s, nib_local *m) {
    m->n_users--;
    m->idle_since = nib_now();
    if (!m->n_users) nib_locals_turn(s);
}

void nib_local_keep(nib_server *s, nib_local *m, double seconds) {
    m->keep = seconds;
    if (!m->n_users) nib_locals_turn(s);
}

/* ---- wishes ---- */

static void put_wish(nib_locals *m, nib_wish *w) {
    w->waits = true;
    w->prev = m->last;
    w->next = NULL;
    *(m->last ? &m->last->next : &m->first) = w;
    m->last = w;
    m->n_wishes++;
}

static void take_wish(nib_locals *m, nib_wish *w) {
    *(w->prev ? &w->prev->next : &m->first) = w->next;
    *(w->next ? &w->next->prev : &m->last) = w->prev;
    w->prev = w->next = NULL;
    w->waits = false;
    m->n_wishes--;
}

void nib_wish_drop(nib_server *s, nib_wish *w) {
    if (w->waits) take_wish(s->locals, w);
}

static void refuse(nib_wish *w, nib_status code, const char *message) {
    nib_error e;
    nib_fail(&e, code, "%s", message);
    w->fn(w, NULL, &e);
}

static void grant(nib_wish *w, nib_local *l) {
    l->n_users++;
    l->latest = nib_now();
    w->fn(w, l, NULL);
}

static void wait_in_line(nib_server *s, nib_wish *w) {
    char message[100];
    nib_locals *m = s->locals;
    if (m->ended || s->n_stops) {
        refuse(w, NIB_ERR_CANCELLED, "the server is shutting down");
    } else if (m->n_wishes >= s->p.n_queue) {
        snprintf(message, sizeof message,
                 "%d requests are waiting for a model already: try again in a moment", m->n_wishes);
        refuse(w, NIB_ERR_LIMIT, message);
    } else {
        put_wish(m, w);
        nib_locals_turn(s);
    }
}

void nib_wish_for(nib_server *s, nib_wish *w, nib_local *l) {
    w->local = l;
    if (l->state == NIB_LOCAL_READY && !s->locals->ended)
        grant(w, l);
    else
        wait_in_line(s, w);
}

static void unknown(nib_server *s, nib_wish *w) {
    nib_buf b = {0};
    if (w->name && *w->name)
        nib_buf_printf(&b, "model '%.100s' not found: ", w->name);
    else
        nib_buf_puts(&b, "'model': expected the name of a model: ");
    nib_locals_put_names(s, &b);
    refuse(w, w->name && *w->name ? NIB_ERR_NOT_FOUND : NIB_ERR_ARGUMENT,
           b.failed ? "model not found" : b.data);
    nib_buf_free(&b);
}

void nib_wish_by_name(nib_server *s, nib_wish *w, const char *name) {
    nib_local *l = nib_locals_find(s, name, true);
    w->name = name;
    w->local = NULL;
    if (l) {
        /* it may have been pulled just now: known by the next request */
        if (name && *name && l == any_name(s) && named(s->locals, name) != l) start_search(s);
        nib_wish_for(s, w, l);
    } else if (name && *name && start_search(s)) {
        wait_in_line(s, w);
    } else {
        unknown(s, w);
    }
}

/* ---- coming and going ---- */

void nib_locals_progress(const nib_server *s, uint64_t *done, uint64_t *total) {
    const nib_loading *l = s->locals->loading;
    *done = l ? atomic_load(&l->done) : 0;
    *total = l ? atomic_load(&l->total) : 0;
}

void nib_local_put_progress(const nib_server *s, const nib_local *l, nib_buf *b) {
    uint64_t done, total;
    nib_locals_progress(s, &done, &total);
    if (l->state != NIB_LOCAL_COMING)
        nib_buf_printf(b, "waiting for %s to be loaded", l->name);
    else if (total)
        nib_buf_printf(b, "loading %s, %d %%", l->name,
                       (int)(100.0 * (double)done / (double)total));
    else
        nib_buf_printf(b, "loading %s", l->name);
}

static void work_load(void *arg) {
    nib_locals_load(((nib_server *)arg)->locals->loading);
}

/* What those who wait for l are told; the file's path is the log's business. */
static void fail_wishes(nib_server *s, nib_local *l, const nib_error *e) {
    nib_locals *m = s->locals;
    nib_error told;
    nib_status code = e->code;
    if (code != NIB_ERR_MEMORY_FIT && code != NIB_ERR_NOMEM && code != NIB_ERR_CANCELLED)
        code = NIB_ERR_IO;
    nib_fail(&told, code, "model '%.100s' could not be loaded: %.300s", l->name, e->message);
    for (nib_wish *w = m->first; w;) {
        if (w->local != l) {
            w = w->next;
            continue;
        }
        take_wish(m, w);
        refuse(w, code, told.message);
        w = m->first; /* whoever was told may have made or dropped others */
    }
}

static void loaded(void *arg) {
    nib_server *s = arg;
    nib_locals *m = s->locals;
    nib_loading *x = m->loading;
    nib_local *l = m->coming;
    bool starting = m->starting;
    m->loading = NULL;
    m->coming = NULL;
    m->starting = false;
    l->state = NIB_LOCAL_AWAY;
    if (x->status == NIB_OK) {
        l->state = NIB_LOCAL_READY;
        l->sched = x->sched;
        l->held = x->held;
        l->keep = s->p.keep;
        l->latest = l->idle_since = nib_now();
        l->n_ctx = nib_sched_n_ctx(x->sched);
        s->n_loads++;
        m->restore = NULL;
        atomic_store(&s->sched, x->sched);
        nib_log(NIB_LOG_INFO, "ready: %s, %lld tokens of context, loaded in %.1f s", l->name,
                (long long)l->n_ctx, x->seconds);
    } else if (x->crowded) {
        m->crowded = true;
    } else if (starting) {
        s->load_error = x->error;
        atomic_store(&s->load_failed, true);
        event_active(s->stop_event, EV_TIMEOUT, 0);
    } else if (!m->ended) {
        s->n_load_failures++;
        nib_log(NIB_LOG_WARN, "%s could not be loaded: %s", l->name, x->error.message);
        fail_wishes(s, l, &x->error);
    }
    if (starting) nib_server_set_state(s);
    nib_free(x->path);
    nib_free(x->name);
    nib_free(x);
    nib_locals_turn(s);
}

static size_t n_loaded(const nib_locals *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += m->v[i]->sched != NULL;
    return n;
}

static void start_load(nib_server *s, nib_local *l) {
    nib_locals *m = s->locals;
    nib_error e;
    nib_loading *x = nib_calloc(1, sizeof *x);
    bool ok = x && (x->path = nib_strdup(l->path)) && (x->name = nib_strdup(l->name));
    if (ok) {
        x->server = s;
        x->params = l->params;
        x->engine = s->p.engine;
        x->n_queue = s->p.n_queue;
        x->alone = n_loaded(m) == 0;
        x->most = s->p.model_memory;
        for (size_t i = 0; i < m->n; i++) x->others += m->v[i]->sched ? m->v[i]->held : 0;
        x->quit = &m->quit;
        m->loading = x;
        m->coming = l;
        l->state = NIB_LOCAL_COMING;
        m->told = nib_now();
        if (!m->starting) nib_log(NIB_LOG_INFO, "loading %s", l->name);
        m->load = (nib_task){.lane = NIB_LANE_LOAD, .work = work_load, .done = loaded, .arg = s};
        nib_task_start(s, &m->load);
        return;
    }
    if (x) nib_free(x->path), nib_free(x->name);
    nib_free(x);
    nib_fail_nomem(&e, 1, "a model");
    fail_wishes(s, l, &e);
}

static void work_unload(void *arg) {
    nib_sched_free(((nib_server *)arg)->locals->going->sched);
#ifdef __GLIBC__
    malloc_trim(0); /* what was many small pieces goes back to the system too */
#endif
}

static void unloaded(void *arg) {
    nib_server *s = arg;
    nib_locals *m = s->locals;
    nib_local *l = m->going;
    m->going = NULL;
    l->sched = NULL;
    l->state = NIB_LOCAL_AWAY;
    m->crowded = false;
    nib_log(NIB_LOG_INFO, "unloaded %s", l->name);
    nib_locals_turn(s);
}

static void start_unload(nib_server *s, nib_local *l) {
    nib_locals *m = s->locals;
    nib_local *latest;
    m->going = l;
    l->state = NIB_LOCAL_GOING;
    latest = nib_locals_latest(s);
    atomic_store(&s->sched, latest ? latest->sched : NULL);
    m->unload = (nib_task){.lane = NIB_LANE_LOAD, .work = work_unload, .done = unloaded, .arg = s};
    nib_task_start(s, &m->unload);
}

/* Who leaves: those whose time is over; when there are too many, or memory is short, the one not
 * used for longest. */
static void choose_leaving(nib_server *s) {
    nib_locals *m = s->locals;
    nib_local *oldest = NULL;
    int n_ready = 0, n_leaving = 0;
    for (size_t i = 0; i < m->n; i++) {
        nib_local *l = m->v[i];
        n_leaving += l->state == NIB_LOCAL_LEAVING || l->state == NIB_LOCAL_GOING;
        if (l->state != NIB_LOCAL_READY) continue;
        if (!l->n_users && l->keep >= 0 && nib_now() - l->idle_since >= l->keep) {
            l->state = NIB_LOCAL_LEAVING;
            n_leaving++;
            continue;
        }
        n_ready++;
        if (!oldest || l->latest < oldest->latest) oldest = l;
    }
    bool crowded = m->crowded && !n_leaving;
    if (oldest && (n_ready > s->p.max_models || crowded)) {
        oldest->state = NIB_LOCAL_LEAVING;
        if (crowded) m->restore = oldest;
    } else if (crowded) {
        m->crowded = false; /* there is nobody left to leave */
    }
}

/* The first in line whose model is not on its way; or the one that left for nothing. */
static nib_local *next_to_come(nib_server *s) {
    nib_locals *m = s->locals;
    for (nib_wish *w = m->first; w; w = w->next)
        if (w->local && w->local->state == NIB_LOCAL_AWAY) return w->local;
    nib_local *l = m->restore;
    m->restore = NULL;
    return l && !m->first && !n_loaded(m) && l->state == NIB_LOCAL_AWAY ? l : NULL;
}

/* Grants and answers what can be; true: something was. */
static bool grant_one(nib_server *s) {
    nib_locals *m = s->locals;
    for (nib_wish *w = m->first; w; w = w->next) {
        if (w->local ? w->local->state != NIB_LOCAL_READY : m->searching) continue;
        take_wish(m, w);
        nib_local *l = w->local ? w->local : nib_locals_find(s, w->name, true);
        if (l)
            nib_wish_for(s, w, l);
        else
            unknown(s, w);
        return true;
    }
    return false;
}

void nib_locals_turn(nib_server *s) {
    nib_locals *m = s->locals;
    m->again = true;
    if (m->turning || m->ended) return;
    m->turning = true;
    while (m->again) {
        m->again = false;
        while (grant_one(s)) {
        }
        choose_leaving(s);
        for (size_t i = 0; i < m->n && !m->going; i++)
            if (m->v[i]->state == NIB_LOCAL_LEAVING && !m->v[i]->n_users) start_unload(s, m->v[i]);
        if (!m->coming && !m->crowded && !s->n_stops && n_loaded(m) <= (size_t)s->p.max_models) {
            nib_local *l = next_to_come(s);
            if (l) start_load(s, l);
        }
    }
    m->turning = false;
}

/* ---- the server's ---- */

nib_status nib_locals_open(nib_server *s, nib_error *e) {
    nib_locals *m = s->locals = nib_calloc(1, sizeof *m);
    nib_found_list found = {0};
    if (!m) return nib_fail_nomem(e, sizeof *m, "the list of models");
    nib_locals_search(&s->p, NULL, &m->quit, &found);
    merge(s, &found);
    nib_found_list_free(&found);
    for (size_t i = 0; i < s->p.n_models; i++) {
        nib_local *l = at_path(m, s->p.models[i].path);
        if (!l) return nib_fail_nomem(e, 1, "the list of models");
        if (!l->given) l->params = s->p.models[i].params;
        m->n_given += !l->given;
        l->given = true;
    }
    return NIB_OK;
}

void nib_locals_start(nib_server *s) {
    nib_locals *m = s->locals;
    start_search(s);
    if (!s->p.model_path) return;
    m->starting = true;
    start_load(s, m->v[0]);
}

void nib_locals_tick(nib_server *s) {
    nib_locals *m = s->locals;
    double now = nib_now();
    drop_gone(m);
    nib_locals_turn(s);
    start_hashing(s);
    if (!m->coming || now - m->told < TELL) return;
    nib_buf b = {0};
    m->told = now;
    nib_local_put_progress(s, m->coming, &b);
    if (!b.failed) nib_log(NIB_LOG_INFO, "%s", b.data);
    nib_buf_free(&b);
}

void nib_locals_stop_wishes(nib_server *s) {
    nib_locals *m = s->locals;
    atomic_store(&m->quit, true);
    while (m->first) {
        nib_wish *w = m->first;
        take_wish(m, w);
        refuse(w, NIB_ERR_CANCELLED, "the server is shutting down");
    }
}

void nib_locals_end(nib_server *s) {
    if (!s->locals) return;
    s->locals->ended = true;
    atomic_store(&s->locals->quit, true);
}

void nib_locals_unload_all(nib_server *s) {
    nib_locals *m = s->locals;
    atomic_store(&s->sched, NULL);
    for (size_t i = 0; m && i < m->n; i++) {
        nib_sched_free(m->v[i]->sched);
        m->v[i]->sched = NULL;
        m->v[i]->state = NIB_LOCAL_AWAY;
    }
}

void nib_locals_close(nib_server *s) {
    nib_locals *m = s->locals;
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) local_free(m->v[i]);
    nib_free(m->v);
    nib_found_list_free(&m->known);
    nib_free(m);
    s->locals = NULL;
}
