/* A whole model from bytes: opened, planned for, tokenised with, computed. What loads must run,
 * whatever its numbers are; what does not must say so in one line. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_CTX = 32 };

static void expect_line(nib_status s, const nib_error *e) {
    if (s != NIB_OK && (!e->message[0] || strchr(e->message, '\n'))) abort();
}

static void compute(nib_model *m) {
    const nib_model_info *info = nib_model_get_info(m);
    nib_error e = {0};
    nib_engine *en;
    nib_engine_params p = {.n_threads = 1, .n_ctx = NIB_MIN(N_CTX, info->n_ctx_train)};
    nib_status s = nib_engine_new(&en, m, &p, &e);
    expect_line(s, &e);
    if (s != NIB_OK) return;
    nib_ids ids = {0};
    s = nib_tokenize(nib_model_tokenizer(m), "ab a", 4, NIB_TOK_SPECIAL, &ids, &e);
    expect_line(s, &e);
    int64_t n = NIB_MIN((int64_t)ids.len, nib_engine_n_ctx(en));
    if (s == NIB_OK && n > 0 && info->causal) {
        nib_seq *seq;
        const float *logits;
        s = nib_seq_new(&seq, en, &e);
        if (s == NIB_OK) s = nib_seq_eval(seq, ids.data, n, &logits, &e);
        expect_line(s, &e);
    } else if (s == NIB_OK && n > 0) {
        float *out = nib_alloc((size_t)info->n_embd * sizeof *out);
        if (out) expect_line(nib_engine_embed(en, ids.data, n, true, out, &e), &e);
        nib_free(out);
    }
    nib_ids_free(&ids);
    nib_engine_free(en);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd = memfd_create("model", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    nib_error e = {0};
    nib_model *m = NULL;
    nib_status s = nib_model_open(&m, path, &(nib_model_params){.n_threads = 1}, &e);
    expect_line(s, &e);
    if (s == NIB_OK) {
        compute(m);
        nib_model_release(m);
    }
    close(fd);
    return 0;
}
