/* convert - models between formats: Hugging Face folders, GGUF files, smaller GGUF files.
 *
 * All three ways are one machine: a list of keys, a list of tensors with where their rows come from
 * and the format they are to have, and a stream that makes and writes them tensor by tensor with
 * all threads, so that memory stays small whatever the model's size. Files appear under their final
 * name only when whole. */
#ifndef NIB_CONVERT_H
#define NIB_CONVERT_H
#include "formats/formats.h"

/* What every conversion may be told. Zeroes are the defaults. */
typedef struct nib_convert_params {
    const char *type; /* a row of quant_mixes.def, or "auto"; NULL is auto: what the source has */
    const char *pre;  /* tokenizer.ggml.pre, where it cannot be known; NULL: found out */
    int n_threads;    /* 0: physical cores */
    bool force;       /* write weights that are not finite, or too large for the format */
    uint64_t shard_bytes; /* to a folder: the most a file holds; 0: 5 GB */
    /* Told of bytes read, of a total; from the calling thread. May be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
    const atomic_bool *cancel; /* stops with NIB_ERR_CANCELLED; may be NULL */
} nib_convert_params;

/* What was written. */
typedef struct nib_convert_result {
    uint64_t n_tensors, n_params, bytes; /* bytes of tensors */
    char type[16];                       /* the mix, or the format */
} nib_convert_result;

/* Whether path is a folder with a config.json. */
bool nib_convert_is_hf(const char *path);
/* A Hugging Face folder (config.json, safetensors, tokenizer files) to a GGUF file. Errors name the
 * file, key or tensor, what was expected and what was found. result may be NULL. */
nib_status nib_convert_to_gguf(const char *folder, const char *out, const nib_convert_params *p,
                               nib_convert_result *result, nib_error *e);
/* A GGUF file to a Hugging Face folder, which is made when it is not there; quantised weights
 * become F16 unless type says f32 or bf16. */
nib_status nib_convert_to_hf(const char *gguf, const char *folder, const nib_convert_params *p,
                             nib_convert_result *result, nib_error *e);
/* The GGUF of a folder, made in the user's cache ($XDG_CACHE_HOME/nib/converted) when it is not
 * there yet: its name depends on the folder's files, their sizes and times. *out: its path, to be
 * freed. */
nib_status nib_convert_cached(const char *folder, const nib_convert_params *p, char **out,
                              nib_error *e);

/* The i-th type that can be written ("f16", "q4_k_m", ...), NULL at the end. */
const char *nib_quantize_type_at(size_t i);
#endif
