/* Pages on disk: what comes back has the bits that computing gives; what is damaged, foreign or of
 * another model does not come back; and there is never more than there may be. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "kvdisk/kvdisk.h"
#include "testlib.h"
#include "tinymodel.h"

enum { N_IDS = 200, PAGES = N_IDS / NIB_PAGE };
static const uint8_t secret[16] = "0123456789abcde";
static nib_error e;
static int32_t ids[N_IDS];

/* ---- making ---- */

static int make_ids(void **state) {
    nib_rng r = {1, 0};
    (void)state;
    for (int i = 0; i < N_IDS; i++) ids[i] = (int32_t)(nib_rng_u64(&r) % TEST_TINY_VOCAB);
    return 0;
}

/* A folder of its own for each test. */
static const char *folder(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    return path;
}

static nib_kvdisk *disk(const char *name, uint64_t max_bytes) {
    nib_kvdisk *d;
    test_ok(nib_kvdisk_open(&d, folder(name), secret, max_bytes, &e), &e);
    return d;
}

typedef struct wanted {
    const test_tiny *tiny;
    nib_model_params model;
    nib_engine_params engine;
} wanted;

static nib_engine *engine(const wanted *w, nib_kvdisk *d) {
    static const test_tiny plain = {.n_embd = 128};
    nib_engine_params p = w->engine;
    nib_model *m;
    nib_engine *en;
    const test_tiny *t = w->tiny ? w->tiny : &plain;
    char name[64];
    struct stat st;
    snprintf(name, sizeof name, "kv-%d-%d-%d.gguf", t->n_embd, (int)t->dtype, (int)t->seed);
    const char *path = folder(name);
    if (stat(path, &st)) path = test_tiny_model(name, t); /* once: its stamp is to stay */
    test_ok(nib_model_open(&m, path, &w->model, &e), &e);
    if (!p.n_threads) p.n_threads = 1;
    if (!p.n_ctx) p.n_ctx = 256;
    test_ok(nib_engine_new(&en, m, &p, &e), &e);
    nib_model_release(m);
    if (d) test_ok(nib_kvdisk_attach(d, en, NULL, NULL, &e), &e);
    return en;
}

static nib_seq *sequence(nib_engine *en) {
    nib_seq *s;
    test_ok(nib_seq_new(&s, en, &e), &e);
    return s;
}

/* Computes ids, from what the sequence holds of them on; the last logits. */
static float *finish(nib_seq *s, nib_engine *en) {
    const float *logits;
    int64_t n = nib_seq_len(s);
    size_t bytes = (size_t)nib_model_get_info(nib_engine_model(en))->n_vocab * sizeof *logits;
    test_ok(nib_seq_eval(s, ids + n, N_IDS - n, &logits, &e), &e);
    float *copy = nib_alloc(bytes);
    memcpy(copy, logits, bytes);
    return copy;
}

/* Puts the pages of ids on disk for an owner. */
static void fill(const wanted *w, nib_kvdisk *d, int64_t owner) {
    nib_engine *en = engine(w, d);
    nib_seq *s = sequence(en);
    nib_free(finish(s, en));
    nib_seq_keep(s, owner);
    nib_engine_free(en); /* waits until they are there */
}

/* How many tokens a new engine finds. */
static int64_t found(const wanted *w, nib_kvdisk *d, int64_t owner) {
    nib_engine *en = engine(w, d);
    int64_t n = nib_seq_restore(sequence(en), ids, N_IDS, owner);
    nib_engine_free(en);
    return n;
}

/* Calls fn with every file below a folder that ends so; returns how many there are. */
static int files(const char *path, const char *end, void (*fn)(const char *path)) {
    int n = 0;
    DIR *dir = opendir(path);
    if (!dir) return 0;
    for (struct dirent *f; (f = readdir(dir));) {
        char inner[4096];
        struct stat st;
        if (f->d_name[0] == '.') continue;
        assert_true(snprintf(inner, sizeof inner, "%s/%s", path, f->d_name) < (int)sizeof inner);
        assert_int_equal(lstat(inner, &st), 0);
        assert_int_equal(st.st_mode & 077, 0); /* nobody else's business */
        if (S_ISDIR(st.st_mode)) {
            n += files(inner, end, fn);
            continue;
        }
        size_t len = strlen(inner), m = strlen(end);
        if (len < m || strcmp(inner + len - m, end) != 0) continue;
        n++;
        if (fn) fn(inner);
    }
    closedir(dir);
    return n;
}

/* As nib_file_write does, but for waiting until the disk has it. */
static void put(const char *path, const char *p, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

/* ---- what comes back ---- */

static void restored_is_exact(void **state) {
    (void)state;
    static const nib_kv_type kinds[] = {NIB_KV_I16, NIB_KV_F16, NIB_KV_F32, NIB_KV_Q8_0,
                                        NIB_KV_BF16};
    nib_kvdisk *d = disk("exact", NIB_KVDISK_AUTO);
    for (size_t k = 0; k < NIB_ARRAY_LEN(kinds); k++) {
        if (!nib_kv_suits_machine(kinds[k])) continue;
        wanted w = {.engine = {.kv = kinds[k], .batch = 50, .n_threads = 2}},
               cold = {.engine = {.kv = kinds[k]}};
        nib_engine *en = engine(&cold, NULL);
        float *want = finish(sequence(en), en);
        nib_engine_free(en);
        assert_int_equal(found(&w, d, 7), 0);
        fill(&w, d, 7);
        assert_int_equal(files(folder("exact"), ".kv", NULL), PAGES * (int)(k + 1));
        w.engine = (nib_engine_params){.kv = kinds[k], .n_ctx = 512, .n_seq = 2};
        en = engine(&w, d);
        nib_seq *a = sequence(en), *b = sequence(en);
        assert_int_equal(nib_seq_restore(a, ids, N_IDS, 8), 0); /* not this owner's */
        assert_int_equal(nib_seq_restore(a, ids, N_IDS, 7), PAGES * NIB_PAGE);
        assert_memory_equal(nib_seq_tokens(a), ids, PAGES * NIB_PAGE * sizeof *ids);
        float *got = finish(a, en);
        assert_memory_equal(got, want, TEST_TINY_VOCAB * sizeof *got);
        nib_free(got);
        /* known in memory from now on, also as a part of more */
        assert_int_equal(nib_seq_adopt(b, ids, 2 * NIB_PAGE), 2 * NIB_PAGE);
        assert_int_equal(nib_seq_restore(b, ids, N_IDS, 7), PAGES * NIB_PAGE);
        got = finish(b, en);
        assert_memory_equal(got, want, TEST_TINY_VOCAB * sizeof *got);
        nib_free(got);
        nib_free(want);
        nib_engine_free(en);
    }
    assert_int_equal(files(folder("exact"), ".tmp", NULL), 0);
    nib_kvdisk_stats s = nib_kvdisk_get_stats(d);
    assert_int_equal(s.n_written, NIB_ARRAY_LEN(kinds) * PAGES);
    assert_int_equal(s.n_refused, 0);
    nib_kvdisk_close(d);
}

/* Only the same model, loaded the same way, into the same kind of cache. */
static bool to_q8(void *arg, const char *tensor, nib_dtype *type) {
    (void)arg;
    *type = NIB_Q8_0;
    return strstr(tensor, "attn_v") != NULL;
}

static void others_are_not_taken(void **state) {
    (void)state;
    nib_kvdisk *d = disk("others", NIB_KVDISK_AUTO);
    const test_tiny finetune = {.n_embd = 128, .seed = 5},
                    quantised = {.n_embd = 128, .dtype = NIB_Q8_0};
    const wanted first = {0}, others[] = {{.tiny = &finetune},
                                          {.tiny = &quantised},
                                          {.model = {.retype = to_q8}},
                                          {.engine = {.fast_prompt = true}},
                                          {.engine = {.kv = NIB_KV_F32}},
                                          {.engine = {.kv = NIB_KV_Q8_0}}};
    fill(&first, d, 1);
    assert_int_equal(found(&first, d, 1), PAGES * NIB_PAGE);
    for (size_t i = 0; i < NIB_ARRAY_LEN(others); i++) {
        assert_int_equal(found(&others[i], d, 1), 0);
        fill(&others[i], d, 1);
        assert_int_equal(found(&others[i], d, 1), PAGES * NIB_PAGE);
    }
    assert_int_equal(found(&first, d, 1), PAGES * NIB_PAGE); /* they live side by side */
    /* other tokens: one at the end of the second page */
    ids[2 * NIB_PAGE - 1] ^= 1;
    assert_int_equal(found(&first, d, 1), NIB_PAGE);
    ids[2 * NIB_PAGE - 1] ^= 1;
    /* expanded to floats: of quantised weights other bits */
    const wanted floats = {.tiny = &quantised, .model = {.f32 = true}};
    assert_int_equal(found(&floats, d, 1), 0);
    nib_kvdisk_close(d);
}

/* One byte of one weight, at the end of the file, makes another model; a remembered hash is only
 * for files as they were. */
static void a_model_is_told_by_all_its_bytes(void **state) {
    (void)state;
    const test_tiny own = {.n_embd = 128, .seed = 77};
    const wanted w = {.tiny = &own};
    nib_kvdisk *d = disk("bytes", NIB_KVDISK_AUTO);
    fill(&w, d, 1);
    assert_int_equal(files(folder("bytes"), ".model", NULL), 0); /* too new to be remembered */
    char path[4096];
    snprintf(path, sizeof path, "%s", folder("kv-128-0-77.gguf"));
    if (!test_quick()) {
        sleep(4);
        assert_int_equal(found(&w, d, 1), PAGES * NIB_PAGE);
        assert_int_equal(files(folder("bytes"), ".model", NULL), 1);
        assert_int_equal(found(&w, d, 1), PAGES * NIB_PAGE);
    }
    int fd = open(path, O_RDWR);
    uint8_t byte;
    off_t at = lseek(fd, -64, SEEK_END);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(found(&w, d, 1), 0);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    assert_int_equal(found(&w, d, 1), PAGES * NIB_PAGE);
    nib_kvdisk_close(d);
}

static bool stop(void *arg, uint64_t done, uint64_t total) {
    assert_true(done <= total && total > 0);
    ++*(int *)arg;
    return false;
}

static void hashing_can_be_stopped(void **state) {
    (void)state;
    const test_tiny own = {.n_embd = 128, .seed = 78};
    const wanted w = {.tiny = &own};
    nib_kvdisk *d = disk("stopped", NIB_KVDISK_AUTO);
    nib_engine *en = engine(&w, NULL);
    int n = 0;
    assert_int_equal(nib_kvdisk_attach(d, en, stop, &n, &e), NIB_ERR_CANCELLED);
    assert_int_equal(n, 1);
    assert_false(nib_engine_has_store(en));
    assert_int_equal(nib_seq_restore(sequence(en), ids, N_IDS, 1), 0);
    nib_engine_free(en);
    nib_kvdisk_close(d);
}

/* The n-th allocation fails: there is no store, or pages are not kept, or not found; nothing else.
 */
static void memory_may_fail(void **state) {
    (void)state;
    const wanted w = {0};
    nib_kvdisk *d = disk("memory", NIB_KVDISK_AUTO);
    for (int n = 1; n < 40; n++) {
        nib_engine *en = engine(&w, NULL);
        nib_seq *a = sequence(en), *b = sequence(en);
        nib_free(finish(a, en));
        nib_alloc_fail_after(n);
        nib_error own;
        nib_status s = nib_kvdisk_attach(d, en, NULL, NULL, &own);
        assert_true(s == NIB_OK || s == NIB_ERR_NOMEM);
        nib_seq_keep(a, 1);
        nib_engine_flush_store(en);
        int64_t got = nib_seq_restore(b, ids, NIB_PAGE, 1);
        assert_true(got == 0 || got == NIB_PAGE);
        nib_alloc_fail_after(0);
        nib_engine_free(en);
    }
    assert_int_equal(found(&w, d, 1), PAGES * NIB_PAGE);
    nib_kvdisk_close(d);
}

static void spoil_note(const char *path) {
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "x", 1, 3), 1);
    close(fd);
}

static void a_spoilt_note_is_not_believed(void **state) {
    (void)state;
    const wanted w = {0};
    nib_kvdisk *d = disk("notes", NIB_KVDISK_AUTO);
    fill(&w, d, 1);
    files(folder("notes"), ".model", spoil_note);
    assert_int_equal(found(&w, d, 1), PAGES * NIB_PAGE);
    nib_kvdisk_close(d);
}

/* ---- hostile files ---- */

/* Pages without an engine: 'n' bytes each, filled with their number. */
enum { SMALL = 300 };
typedef struct loose {
    nib_page_store store;
    nib_page_key keys[8];
    int32_t tokens[8][NIB_PAGE];
    uint8_t pages[8][SMALL];
} loose;

static void loose_open(loose *x, nib_kvdisk *d, uint8_t identity) {
    const uint8_t id[16] = {identity};
    nib_page_key before = {{0}};
    test_ok(nib_kvdisk_bind(d, id, SMALL, &x->store, &e), &e);
    for (int i = 0; i < 8; i++) {
        for (int k = 0; k < NIB_PAGE; k++) x->tokens[i][k] = i * 1000 + k;
        memset(x->pages[i], i + 1, SMALL);
        x->store.name(x->store.arg, &before, x->tokens[i], &x->keys[i]);
        before = x->keys[i];
    }
}

static bool keep(loose *x, int64_t owner, int i) {
    return x->store.keep(x->store.arg, owner, &x->keys[i], x->tokens[i], x->pages[i]);
}

static bool fetch(loose *x, int64_t owner, int i) {
    uint8_t page[SMALL];
    bool is = x->store.fetch(x->store.arg, owner, &x->keys[i], x->tokens[i], page);
    if (is) assert_memory_equal(page, x->pages[i], SMALL);
    return is;
}

static char the_path[4096];
static void note_path(const char *path) {
    snprintf(the_path, sizeof the_path, "%s", path);
}

static void spoilt_files_are_removed(void **state) {
    (void)state;
    nib_kvdisk *d = disk("spoilt", NIB_KVDISK_AUTO);
    loose x;
    nib_buf whole = {0};
    loose_open(&x, d, 1);
    assert_true(keep(&x, 3, 0));
    assert_int_equal(files(folder("spoilt"), ".kv", note_path), 1);
    test_ok(nib_file_read(the_path, 1 << 20, &whole, &e), &e);
    int n_refused = 0;
    for (size_t at = 0; at < whole.len; at++) { /* every byte counts */
        whole.data[at] ^= 0x10;
        put(the_path, whole.data, whole.len);
        whole.data[at] ^= 0x10;
        assert_false(fetch(&x, 3, 0));
        assert_int_not_equal(access(the_path, F_OK), 0);
        n_refused++;
    }
    for (size_t n = 0; n < whole.len; n += n < 400 ? 7 : 50) { /* cut off */
        put(the_path, whole.data, n);
        assert_false(fetch(&x, 3, 0));
        n_refused++;
    }
    nib_buf_puts(&whole, "more");
    put(the_path, whole.data, whole.len);
    assert_false(fetch(&x, 3, 0));
    whole.len -= 4;
    assert_int_equal(nib_kvdisk_get_stats(d).n_refused, n_refused + 1);
    /* a link, a pipe, a folder in its place */
    char other[4096];
    snprintf(other, sizeof other, "%s", folder("elsewhere"));
    put(other, whole.data, whole.len);
    assert_int_equal(symlink(other, the_path), 0);
    assert_false(fetch(&x, 3, 0));
    unlink(the_path);
    assert_int_equal(mkfifo(the_path, 0600), 0);
    assert_false(fetch(&x, 3, 0));
    unlink(the_path);
    assert_int_equal(mkdir(the_path, 0700), 0);
    assert_false(fetch(&x, 3, 0));
    rmdir(the_path);
    /* whole again */
    put(the_path, whole.data, whole.len);
    assert_true(fetch(&x, 3, 0));
    /* under another page's name */
    char moved[4096];
    assert_true(keep(&x, 3, 1));
    snprintf(moved, sizeof moved, "%s", the_path);
    unlink(moved);
    files(folder("spoilt"), ".kv", note_path);
    put(the_path, whole.data, whole.len);
    assert_false(fetch(&x, 3, 1));
    nib_buf_free(&whole);
    nib_kvdisk_close(d);
}

/* A file of somebody else's, sound in itself. */
static void foreign_files_are_refused(void **state) {
    (void)state;
    static const uint8_t other_secret[16] = "another secret!";
    nib_kvdisk *d = disk("mine", NIB_KVDISK_AUTO), *other;
    loose x, y;
    nib_buf theirs = {0};
    test_ok(nib_kvdisk_open(&other, folder("theirs"), other_secret, NIB_KVDISK_AUTO, &e), &e);
    loose_open(&x, d, 1);
    loose_open(&y, other, 1);
    assert_memory_equal(x.keys, y.keys, sizeof x.keys);
    assert_true(keep(&y, 3, 0));
    files(folder("theirs"), ".kv", note_path);
    test_ok(nib_file_read(the_path, 1 << 20, &theirs, &e), &e);
    assert_true(keep(&x, 3, 0));
    files(folder("mine"), ".kv", note_path);
    put(the_path, theirs.data, theirs.len);
    assert_false(fetch(&x, 3, 0));
    assert_int_equal(nib_kvdisk_get_stats(d).n_refused, 1);
    nib_buf_free(&theirs);
    nib_kvdisk_close(other);
    nib_kvdisk_close(d);
}

/* ---- what is removed ---- */

static void the_longest_unused_goes_first(void **state) {
    (void)state;
    enum { FILE_BYTES = 336 + SMALL };
    nib_kvdisk *d = disk("cap", 10 * FILE_BYTES + 5);
    loose x;
    loose_open(&x, d, 1);
    for (int64_t owner = 1; owner <= 3; owner++)
        for (int i = 0; i < 3; i++) {
            assert_true(keep(&x, owner, i));
            usleep(10000); /* times of folders have grains */
        }
    assert_true(fetch(&x, 1, 0)); /* used just now: 2 is the oldest */
    assert_true(keep(&x, 4, 0));
    assert_int_equal(nib_kvdisk_get_stats(d).bytes, 10 * FILE_BYTES);
    usleep(10000);
    assert_true(keep(&x, 4, 1));
    assert_true(fetch(&x, 1, 2));
    assert_false(fetch(&x, 2, 0));
    assert_true(fetch(&x, 3, 2));
    assert_true(fetch(&x, 4, 1));
    assert_int_equal(nib_kvdisk_get_stats(d).bytes, 8 * FILE_BYTES);
    nib_kvdisk_close(d);
    /* a smaller disk: one conversation of eight pages gets what there is, and keeps it */
    d = disk("cap", 5 * FILE_BYTES);
    loose_open(&x, d, 1);
    for (int i = 0; i < 8; i++) assert_int_equal(keep(&x, 9, i), i < 5);
    for (int i = 0; i < 8; i++) assert_int_equal(fetch(&x, 9, i), i < 5);
    assert_int_equal(files(folder("cap"), ".kv", NULL), 5);
    nib_kvdisk_close(d);
}

static bool lives(void *arg, int64_t owner) {
    (void)arg;
    return owner == 2;
}

static void forgetting(void **state) {
    (void)state;
    nib_kvdisk *d = disk("forget", NIB_KVDISK_AUTO);
    loose x;
    loose_open(&x, d, 1);
    for (int64_t owner = 1; owner <= 3; owner++) assert_true(keep(&x, owner, 0));
    nib_kvdisk_forget(d, 1);
    assert_false(fetch(&x, 1, 0));
    assert_false(keep(&x, 1, 1)); /* it was under way */
    assert_int_equal(files(folder("forget"), "", NULL), 2);
    nib_kvdisk_sweep(d, lives, NULL);
    assert_int_equal(files(folder("forget"), "", NULL), 1);
    assert_true(fetch(&x, 2, 0));
    /* what a killed process was writing, and what somebody writes now; a link is nobody's folder */
    static const struct timespec past[2] = {{1000000, 0}, {1000000, 0}};
    files(folder("forget"), ".kv", note_path);
    char begun[4096], link[4096], left[4096];
    snprintf(begun, sizeof begun, "%.4000s.77-0.tmp", the_path);
    snprintf(left, sizeof left, "%.4000s.66-0.tmp", the_path);
    put(begun, "x", 1);
    put(left, "x", 1);
    assert_int_equal(utimensat(AT_FDCWD, left, past, 0), 0);
    assert_int_equal(mkdir(folder("target"), 0700), 0);
    put(folder("target/mine.kv"), "x", 1);
    *strrchr(the_path, '/') = 0;
    *strrchr(the_path, '/') = 0;
    snprintf(link, sizeof link, "%.4000s/5", the_path);
    assert_int_equal(symlink(folder("target"), link), 0);
    nib_kvdisk_sweep(d, lives, NULL);
    assert_int_equal(access(begun, F_OK), 0);
    assert_int_not_equal(access(left, F_OK), 0);
    assert_int_equal(access(folder("target/mine.kv"), F_OK), 0);
    unlink(link);
    nib_kvdisk_close(d);
    /* opened with no room: all goes */
    d = disk("forget", 0);
    nib_kvdisk_sweep(d, lives, NULL);
    assert_int_equal(files(folder("forget"), "", NULL), 0);
    loose_open(&x, d, 1);
    assert_false(keep(&x, 2, 0));
    nib_kvdisk_close(d);
}

/* Folders of other versions and secrets go; what is not ours stays. */
static void other_versions_go(void **state) {
    (void)state;
    char path[4096];
    nib_kvdisk_close(disk("versions", NIB_KVDISK_AUTO));
    static const struct {
        const char *name;
        bool stays;
    } rows[] = {{"v0.1-00000000/5/aa.kv", false},  {"v1.999-12345678/12/bb.kv", false},
                {"v1.1-00000000/bb.model", false}, {"notes/5/aa.kv", true},
                {"v1.1-0000000/5/aa.kv", true},    {"v9.9-00000000/5/letter.txt", true}};
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < NIB_ARRAY_LEN(rows); i++) {
            snprintf(path, sizeof path, "%.3000s/%s", folder("versions"), rows[i].name);
            if (round) {
                assert_int_equal(access(path, F_OK) == 0, rows[i].stays);
                continue;
            }
            for (char *p = path + strlen(folder("versions")) + 1; (p = strchr(p, '/'));
                 *p++ = '/') {
                *p = 0;
                mkdir(path, 0700);
            }
            put(path, "x", 1);
            if (i + 1 == NIB_ARRAY_LEN(rows)) nib_kvdisk_close(disk("versions", NIB_KVDISK_AUTO));
        }
}

static void no_place(void **state) {
    (void)state;
    nib_kvdisk *d = NULL;
    test_ok(nib_file_write(folder("a-file"), "x", 1, &e), &e);
    assert_int_equal(nib_kvdisk_open(&d, folder("a-file"), secret, 1, &e), NIB_ERR_IO);
    assert_int_equal(nib_kvdisk_open(&d, "/proc/none/kv", secret, 1, &e), NIB_ERR_IO);
    assert_null(d);
}

/* ---- beside computing ---- */

/* A store that takes its time, and counts. */
typedef struct slow {
    atomic_int n_kept;
    atomic_bool open;
} slow;
static void slow_name(void *arg, const nib_page_key *before, const int32_t *tokens,
                      nib_page_key *out) {
    (void)arg;
    uint64_t h = nib_hash(tokens, NIB_PAGE * sizeof *tokens, nib_hash(before, sizeof *before, 1));
    *out = (nib_page_key){{0}};
    memcpy(out, &h, sizeof h);
}
static bool slow_fetch(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                       void *page) {
    (void)arg, (void)owner, (void)key, (void)tokens, (void)page;
    return false;
}
static bool slow_keep(void *arg, int64_t owner, const nib_page_key *key, const int32_t *tokens,
                      const void *page) {
    slow *s = arg;
    (void)owner, (void)key, (void)tokens, (void)page;
    atomic_fetch_add(&s->n_kept, 1);
    for (int i = 0; i < 200 && !atomic_load(&s->open); i++) usleep(1000);
    return true;
}

/* Pages that wait to be written do not stand in the way of those who need room. */
static void waiting_pages_give_way(void **state) {
    (void)state;
    slow store = {0};
    nib_page_store p = {&store, slow_name, slow_fetch, slow_keep};
    const wanted w = {.engine = {.n_ctx = 256}}; /* four pages */
    nib_engine *en = engine(&w, NULL);
    test_ok(nib_engine_set_store(en, &p, &e), &e);
    assert_int_not_equal(nib_engine_set_store(en, &p, &e), NIB_OK);
    nib_seq *s = sequence(en);
    nib_free(finish(s, en));
    for (int i = 0; i < 5; i++) nib_seq_keep(s, 1);
    nib_seq_rewind(s, 0);
    assert_true(nib_engine_kv(en).n_free < 4);
    nib_free(finish(s, en)); /* needs all four */
    assert_true(atomic_load(&store.n_kept) < 5 * PAGES);
    atomic_store(&store.open, true);
    nib_seq_keep(s, 1);
    nib_engine_flush_store(en);
    nib_seq_rewind(s, 0);
    assert_int_equal(nib_engine_kv(en).n_free, 4);
    nib_engine_free(en);
}

/* The store from several threads at once. */
typedef struct mill {
    loose *x;
    nib_kvdisk *d;
    int64_t owner;
} mill;
static void *grind(void *arg) {
    mill *m = arg;
    for (int round = 0; round < 40; round++)
        for (int i = 0; i < 8; i++) {
            keep(m->x, m->owner, i);
            fetch(m->x, m->owner % 3 + 1, i);
            if (round % 8 == 7 && i == 0) nib_kvdisk_sweep(m->d, lives, NULL);
            nib_kvdisk_get_stats(m->d);
        }
    nib_kvdisk_forget(m->d, m->owner);
    return NULL;
}
static void many_threads(void **state) {
    (void)state;
    nib_kvdisk *d = disk("threads", 12 * 700);
    loose x;
    mill m[3];
    pthread_t t[3];
    loose_open(&x, d, 1);
    for (int i = 0; i < 3; i++) {
        m[i] = (mill){&x, d, i + 1};
        assert_int_equal(pthread_create(&t[i], NULL, grind, &m[i]), 0);
    }
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    assert_int_equal(nib_kvdisk_get_stats(d).n_refused, 0);
    assert_int_equal(files(folder("threads"), "", NULL), 0);
    nib_kvdisk_close(d);
}

/* ---- conversations ---- */

static nib_dialog *dialog(nib_engine *en) {
    nib_dialog *d;
    nib_dialog_params p = nib_dialog_defaults(nib_engine_model(en));
    p.sampling.seed = 3, p.sampling.seed_given = true;
    p.max_tokens = 90;
    p.ignore_end = true;
    test_ok(nib_dialog_new(&d, en, &p, &e), &e);
    return d;
}

static void a_dialog_goes_on(void **state) {
    (void)state;
    const test_tiny tiny = {.n_embd = 128, .n_ctx = 1024, .chat_template = test_chatml, .seed = 9};
    const wanted w = {.tiny = &tiny, .engine = {.n_ctx = 1024}};
    nib_kvdisk *k = disk("dialog", NIB_KVDISK_AUTO);
    nib_engine *en = engine(&w, k);
    nib_dialog *d = dialog(en);
    nib_messages said = {0};
    nib_reply r;
    test_ok(nib_dialog_say(d,
                           "Tell me about tulips and lentils, about leaves and roots, about how "
                           "they were brought here, and by whom, and when, and what for.",
                           NULL, NULL, &r, &e),
            &e);
    for (size_t i = 0; i < 2; i++) {
        const nib_message *m = &nib_dialog_messages(d)->v[i];
        test_ok(nib_messages_add(&said, m->role, m->content, m->thinking, &e), &e);
    }
    nib_dialog_keep(d, 4);
    test_ok(nib_dialog_say(d, "And more?", NULL, NULL, &r, &e), &e);
    char *want = nib_strdup(r.text);
    int64_t n_prompt = r.n_prompt;
    nib_dialog_free(d);
    nib_engine_free(en);
    for (int warm = 0; warm < 2; warm++) {
        en = engine(&w, k);
        d = dialog(en);
        test_ok(nib_dialog_set_messages(d, &said, &e), &e);
        if (warm) assert_true(nib_dialog_restore(d, 4) >= NIB_PAGE);
        test_ok(nib_dialog_say(d, "And more?", NULL, NULL, &r, &e), &e);
        assert_string_equal(r.text, want);
        assert_int_equal(r.n_prompt, n_prompt);
        if (warm)
            assert_true(r.n_cached >= NIB_PAGE && r.n_cached % NIB_PAGE == 0);
        else
            assert_int_equal(r.n_cached, 0);
        assert_true(nib_dialog_restore(d, 4) >= NIB_PAGE); /* what it holds already stays */
        nib_dialog_free(d);
        nib_engine_free(en);
    }
    nib_free(want);
    nib_messages_free(&said);
    nib_kvdisk_close(k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restored_is_exact),
        cmocka_unit_test(others_are_not_taken),
        cmocka_unit_test(a_model_is_told_by_all_its_bytes),
        cmocka_unit_test(a_spoilt_note_is_not_believed),
        cmocka_unit_test(hashing_can_be_stopped),
        cmocka_unit_test(memory_may_fail),
        cmocka_unit_test(spoilt_files_are_removed),
        cmocka_unit_test(foreign_files_are_refused),
        cmocka_unit_test(the_longest_unused_goes_first),
        cmocka_unit_test(forgetting),
        cmocka_unit_test(other_versions_go),
        cmocka_unit_test(no_place),
        cmocka_unit_test(waiting_pages_give_way),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(a_dialog_goes_on),
    };
    return cmocka_run_group_tests(tests, make_ids, NULL);
}
