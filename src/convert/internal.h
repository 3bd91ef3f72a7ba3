/* What the files of convert share. */
#ifndef NIB_CONVERT_INTERNAL_H
#define NIB_CONVERT_INTERNAL_H
#include <jansson.h>
#include "convert/convert.h"

/* ---- families (families.def) ---- */

enum {
#define NIB_FAMILY(BIT, ...) CONV_ROW_##BIT,
#include "convert/families.def"
#undef NIB_FAMILY
    CONV_N_FAMILIES
};
enum {
#define NIB_FAMILY(BIT, ...) BIT = 1 << CONV_ROW_##BIT,
#include "convert/families.def"
#undef NIB_FAMILY
};
typedef struct conv_family {
    unsigned bit;
    const char *arch;       /* general.architecture */
    const char *classes;    /* of transformers, separated by '|', the first for writing */
    const char *model_type; /* config.json's, for writing */
    const char *prefix;     /* in front of most tensor names, for writing */
    const char *pres; /* tokenizer.ggml.pre names the family is known by, for ambiguous ones */
    double rope_theta, eps; /* where config.json leaves them out */
} conv_family;
const conv_family *conv_family_of_class(const char *name); /* NULL when unknown */
const conv_family *conv_family_of_arch(nib_str arch);
const char *conv_family_list(void); /* "LlamaForCausalLM, ..." */

/* ---- what is to be written ---- */

/* Where the rows of a tensor lie in its source. Rows of a vector are its elements. */
typedef enum conv_order {
    CONV_AS_IS,
    CONV_PAIRS,     /* halves of a head's rows become neighbouring pairs (rotation of pairs) */
    CONV_HALVES,    /* and back */
    CONV_QKV,       /* q, k, v of each head become all q, all k, all v */
    CONV_HEADS_QKV, /* and back */
    CONV_TRANSPOSE, /* the source is [K, N] */
} conv_order;
typedef struct conv_tensor {
    const char *name;
    int n_dims;
    int64_t ne[NIB_MAX_DIMS]; /* fastest first, as written */
    nib_dtype type;           /* as written */
    nib_dtype wanted;         /* what the mix asked for, before a fallback */
    size_t bytes;             /* as written */
    nib_dtype src_type;
    const void *src;
    size_t src_bytes;
    conv_order order;
    int64_t heads;
    float add;               /* to every weight */
    const float *importance; /* [n_importance]: of a row, or of a row of each of ne[2] parts */
    int64_t n_importance;
} conv_tensor;
typedef struct conv_model {
    nib_arena arena;
    nib_gguf_kv *kvs;
    size_t n_kv, cap_kv;
    conv_tensor *tensors;
    size_t n_tensors, cap_tensors;
    nib_gguf *gguf; /* the source: one of the two */
    nib_st *st;
} conv_model;
void conv_model_init(conv_model *m);
void conv_model_free(conv_model *m);

/* Keys; an equal key is replaced. Strings and arrays must live as long as the model. */
nib_status conv_put(conv_model *m, const nib_gguf_kv *kv, nib_error *e);
nib_status conv_put_int(conv_model *m, const char *arch, const char *key, nib_gguf_type t,
                        int64_t v, nib_error *e); /* arch NULL: key is whole */
nib_status conv_put_f32(conv_model *m, const char *arch, const char *key, double v, nib_error *e);
nib_status conv_put_str(conv_model *m, const char *arch, const char *key, nib_str v, nib_error *e);
const nib_gguf_kv *conv_find(const conv_model *m, const char *key);
/* Adds a copy; name is copied too. */
nib_status conv_add_tensor(conv_model *m, const conv_tensor *t, nib_error *e);
/* Sets bytes from type and ne; false when the row does not fit the format's blocks. */
bool conv_set_type(conv_tensor *t, nib_dtype type);

/* Counts of what m will be. */
void conv_result(const conv_model *m, nib_convert_result *out);

/* ---- the stream (convert_stream.c) ---- */

typedef nib_status (*conv_sink)(void *arg, const void *p, size_t n, nib_error *e);
typedef struct conv_stream conv_stream;
nib_status conv_stream_new(conv_stream **out, const conv_model *m, const nib_convert_params *p,
                           nib_error *e);
void conv_stream_free(conv_stream *s);
/* Makes the bytes of t, in order. */
nib_status conv_stream_tensor(conv_stream *s, const conv_tensor *t, conv_sink sink, void *arg,
                              nib_error *e);
/* Keys and tensors of m as a GGUF file at path, which nib can run when 'check' is set: else the
 * error says why not, and no file is left. Sources must not be path. */
nib_status conv_write_gguf(conv_model *m, const char *path, const nib_convert_params *p, bool check,
                           nib_error *e);
/* Fails when the disk of path has less than 'bytes' left. */
nib_status conv_check_space(const char *path, uint64_t bytes, nib_error *e);
/* Whether both paths are one file that exists. */
bool conv_same_file(const char *a, const char *b);

/* ---- types (quant_types.c) ---- */

typedef struct conv_mix conv_mix; /* a row of quant_mixes.def */
/* The named mix; the error lists near or all names. */
nib_status conv_mix_find(const char *name, const conv_mix **out, nib_error *e);
/* Gives every tensor its type, by rules ("PATTERN=TYPE") first, falling back where a row does not
 * fit, and puts general.file_type and general.quantization_version. */
nib_status conv_mix_apply(conv_model *m, const conv_mix *mix, const char *const *rules,
                          size_t n_rules, bool imatrix, nib_error *e);
const char *conv_mix_name(const conv_mix *mix);

/* ---- Hugging Face folders ---- */

typedef struct conv_hf {
    const char *folder;
    const conv_family *family;
    json_t *config;     /* config.json, with text_config's values in front */
    json_t *tokenizer;  /* tokenizer.json; NULL when absent, as the following */
    json_t *tok_config; /* tokenizer_config.json */
    json_t *generation; /* generation_config.json */
} conv_hf;
/* Everything of a folder: keys, tensors, vocabulary; types are not set yet. */
nib_status conv_hf_gather(conv_model *m, conv_hf *h, const char *folder, const char *pre,
                          nib_error *e);
nib_status conv_hf_open(conv_hf *h, const char *folder, nib_error *e);
void conv_hf_close(conv_hf *h);
/* A JSON file of the folder; *out NULL when it is not there. */
nib_status conv_hf_json(const conv_hf *h, const char *name, json_t **out, nib_error *e);
/* The bytes of a file of the folder; out->data NULL when it is not there. */
nib_status conv_hf_bytes(const conv_hf *h, const char *name, size_t max, nib_buf *out,
                         nib_error *e);
/* Of config: the first of the '|'-separated names that is there and not null; NULL when none is. */
const json_t *conv_hf_value(const conv_hf *h, const char *names);
/* Whole numbers in [min, max]; absent: NIB_OK and *out as it was, unless required. */
nib_status conv_hf_int(const conv_hf *h, const char *names, int64_t min, int64_t max, bool required,
                       int64_t *out, nib_error *e);
nib_status conv_hf_num(const conv_hf *h, const char *names, bool required, double *out,
                       nib_error *e);

/* config.json to keys (hf_keys.c, hf_rope.c). */
nib_status conv_hf_keys(conv_model *m, const conv_hf *h, nib_error *e);
nib_status conv_hf_rope(conv_model *m, const conv_hf *h, nib_error *e);
/* Tensors of m->st (hf_tensors.c). */
nib_status conv_hf_tensors(conv_model *m, const conv_hf *h, nib_error *e);
/* Tokenizer files to keys (hf_vocab.c). */
nib_status conv_hf_vocab(conv_model *m, const conv_hf *h, const char *pre, nib_error *e);

/* A vocabulary on its way (hf_vocab.c and what it calls). */
typedef struct conv_vocab {
    conv_model *m; /* its arena holds all of this */
    const char *model;
    const char *pre;
    int64_t n;
    nib_str *tokens;
    float *scores;
    int32_t *types;
    nib_str *merges;
    int64_t n_merges;
    bool phantom; /* WordPiece: words get U+2581, continuations lose ## */
} conv_vocab;
/* Room for n tokens, all "[PAD<i>]", unused. */
nib_status conv_vocab_init(conv_vocab *v, int64_t n, nib_error *e);
/* tokenizer.model, a SentencePiece model (hf_sentencepiece.c). bytes live as long as v. */
nib_status conv_vocab_sentencepiece(conv_vocab *v, int64_t n_config, const void *p, size_t n,
                                    nib_error *e);
/* tokenizer.json of any kind (hf_vocab_json.c). */
nib_status conv_vocab_json(conv_vocab *v, const conv_hf *h, int64_t n_config, nib_error *e);
/* The pre-tokenizer's name from tokenizer.json (hf_pretokenizer.c). */
nib_status conv_pretokenizer_name(const conv_hf *h, nib_arena *arena, const char **out,
                                  nib_error *e);
/* The other way: its "pre_tokenizer" and "normalizer" of tokenizer.json (new references; normalizer
 * may be null). false: the name is not known. */
bool conv_pretokenizer_json(nib_str pre, json_t **pre_tokenizer, json_t **normalizer,
                            bool *ignore_merges);
/* Special ids, flags and chat template (hf_special.c). */
nib_status conv_hf_special(conv_model *m, const conv_hf *h, const conv_vocab *v, nib_error *e);

/* ---- and back ---- */

typedef struct conv_hf_out {
    const char *folder;
    const nib_gguf *g;
    const conv_family *family;
    json_t *config, *tok_config, *generation;
} conv_hf_out;
nib_status conv_out_keys(conv_hf_out *o, nib_error *e); /* hf_keys.c: fills config */
nib_status conv_out_rope(conv_hf_out *o, conv_model *m, nib_error *e);
nib_status conv_out_tensors(conv_hf_out *o, conv_model *m, nib_error *e);
nib_status conv_out_vocab(conv_hf_out *o, nib_error *e); /* writes tokenizer files */
nib_status conv_out_json(const conv_hf_out *o, const char *name, const json_t *v, nib_error *e);
nib_status conv_out_bytes(const conv_hf_out *o, const char *name, const void *p, size_t n,
                          nib_error *e);
/* "<arch>.<key>" of o->g, or NULL. */
const nib_gguf_kv *conv_out_key(const conv_hf_out *o, const char *key);
#endif
