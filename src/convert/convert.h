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

/* ---- quantising (quantize.c) ---- */

/* What a quantisation is told. Zeroes are the defaults; type is required. */
typedef struct nib_quantize_params {
    const char *type;         /* a row of quant_mixes.def: "q4_k_m", "f16", ... */
    const char *const *rules; /* "PATTERN=FORMAT" for tensors whose name the extended regular
                                 expression finds; the first that fits decides, before the mix */
    size_t n_rules;
    /* The importance of a tensor's columns, or NULL when there is none: *n values, one a column of
     * a row, or one a column of each of ne[2] parts. They stay valid while the call runs. */
    const float *(*importance)(void *arg, const char *tensor, int64_t *n);
    void *importance_arg;
    const char *importance_file; /* named in the output's keys; may be NULL */
    int n_threads;               /* 0: physical cores */
    bool force;                  /* write weights that are not finite */
    bool requantize;             /* weights that are quantised already may be quantised again */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes of the source */
    void *progress_arg;
    const atomic_bool *cancel;
} nib_quantize_params;

typedef struct nib_quantize_tensor {
    const char *name;
    int n_dims;
    int64_t ne[NIB_MAX_DIMS];
    nib_dtype from, to;
    nib_dtype wanted; /* what the mix says: differs from 'to' where rows do not fill its blocks */
    uint64_t bytes_before, bytes_after;
    bool important; /* importance was used */
} nib_quantize_tensor;
typedef struct nib_quantize_report {
    nib_quantize_tensor *tensors;
    size_t n_tensors;
    uint64_t n_params, bytes_before, bytes_after;
    size_t n_fallback;    /* tensors whose format is not the mix's */
    size_t n_requantized; /* tensors that were quantised before, otherwise */
    size_t n_important;
    nib_arena arena; /* owns the rest */
} nib_quantize_report;

/* Writes the GGUF file 'in' (or the Hugging Face folder) as 'type' to the file 'out'. out NULL:
 * only reckons. report may be NULL; when given and the call succeeds, free it. */
nib_status nib_quantize(const char *in, const char *out, const nib_quantize_params *p,
                        nib_quantize_report *report, nib_error *e);
void nib_quantize_report_free(nib_quantize_report *r);

/* The i-th type that can be written ("f16", "q4_k_m", ...), NULL at the end. */
const char *nib_quantize_type_at(size_t i);
#endif
