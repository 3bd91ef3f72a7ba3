/* hub - models from the Hugging Face hub (or any server that speaks its API), and from plain URLs.
 *
 * Files live in the hub's own cache layout, shared with every other tool that keeps to it:
 *
 *     CACHE/models--USER--REPO/blobs/<sha256>            the bytes, under the hash they must have
 *                             /snapshots/<commit>/<file> a relative link to the blob
 *                             /refs/<revision>           the commit a name like "main" stands for
 *
 * Nothing is copied or moved: a file another tool pulled is used where it lies. A file appears in
 * blobs/ only when it is whole and its hash is right; until then it is <name>.nib-part, beside a
 * journal of what has arrived, from which any later pull goes on (fetch.c). Files of plain URLs lie
 * in the same layout, as models--HOST--NAME-<hash of the URL>.
 *
 * Everything the server says is hostile: names are checked before they become paths, sizes before
 * they become files. The token goes to the endpoint only, never to where it redirects. */
#ifndef NIB_HUB_H
#define NIB_HUB_H
#include <time.h>
#include "base/base.h"

enum { NIB_HUB_PATH = 4096, NIB_HUB_NAME = 512 };

/* ---- where and how (env.c) ---- */

typedef enum nib_hub_stage {
    NIB_HUB_WAITING,  /* for another process that pulls the same file */
    NIB_HUB_CHECKING, /* what an interrupted pull left */
    NIB_HUB_FETCHING,
    NIB_HUB_RETRYING, /* the server is given a pause; 'why' says what happened */
    NIB_HUB_HASHING,  /* all is here, the last bytes are being hashed */
    NIB_HUB_REPAIRING /* the hash was wrong: looking for the damage */
} nib_hub_stage;
typedef struct nib_hub_progress {
    nib_hub_stage stage;
    const char *file;
    uint64_t done, total; /* bytes of all files of the pull */
    const char *why;      /* of NIB_HUB_RETRYING, else NULL */
} nib_hub_progress;

typedef struct nib_hub {
    char *endpoint; /* "https://huggingface.co": no slash at the end */
    char *cache;    /* the folder of models--USER--REPO folders */
    char *token;    /* NULL: none */
    char *ca_file;  /* certificates to trust instead of the system's; NULL: the system's */
    bool offline;
    int connections;           /* parallel ranges of one file */
    int retries;               /* pauses in a row that end without a new byte, before giving up */
    double timeout;            /* seconds: to connect, and without (nearly) any byte */
    double pause, max_wait;    /* seconds: the first pause (they double), the longest obeyed */
    const atomic_bool *cancel; /* may be NULL; looked at ten times a second */
    void (*progress)(void *arg, const nib_hub_progress *p); /* may be NULL */
    void *progress_arg;
} nib_hub;
/* As the environment says: HF_ENDPOINT; HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME,
 * XDG_CACHE_HOME; HF_TOKEN, HF_TOKEN_PATH, the token file of HF_HOME; HF_HUB_OFFLINE;
 * SSL_CERT_FILE, CURL_CA_BUNDLE. Proxies are curl's: HTTPS_PROXY, NO_PROXY. */
nib_status nib_hub_open(nib_hub *h, nib_error *e);
void nib_hub_close(nib_hub *h);

/* ---- names of models (ref.c) ---- */

typedef struct nib_hub_alias {
    const char *name, *repo, *want, *licence;
    int64_t n_ctx;
    uint64_t bytes;
} nib_hub_alias;
extern const nib_hub_alias nib_hub_aliases[];
extern const size_t nib_hub_n_aliases;
const nib_hub_alias *nib_hub_alias_find(const char *name); /* NULL when there is none */
/* What 'nib chat' talks with when no model is named. */
const nib_hub_alias *nib_hub_alias_default(void);

typedef struct nib_hub_ref {
    const nib_hub_alias *alias;  /* NULL: not by alias */
    char repo[NIB_HUB_NAME];     /* "USER/REPO"; of a URL "HOST/NAME-HASH" */
    char revision[NIB_HUB_NAME]; /* "main", a branch, a tag or a commit */
    char want[NIB_HUB_NAME];     /* a quantisation, a file of the repo (ends in .gguf), or "" */
    char url[2048];              /* a plain URL; "" when on the hub */
} nib_hub_ref;
/* ALIAS[:QUANT] | [hf.co/ | hf: | huggingface.co/]USER/REPO[@REVISION][:QUANT | :FILE] | URL. A URL
 * of the hub's pages or files (of endpoint, when not NULL, too) is a reference to the repo.
 * NIB_ERR_NOT_FOUND: text has none of these forms. NIB_ERR_ARGUMENT: it has, with a mistake. */
nib_status nib_hub_parse(const char *text, const char *endpoint, nib_hub_ref *out, nib_error *e);
/* How a person writes it: the alias, or hf.co/USER/REPO:WANT, or the URL. In a ring of static
 * buffers. */
const char *nib_hub_ref_text(const nib_hub_ref *r);

/* The quantisation a file's name states, in capitals ("Q4_K_M", "UD-Q4_K_XL", "F16"); "" when none.
 */
void nib_hub_quant_of(const char *file, char out[32]);
/* Whether name is NAME-0000P-of-0000N.gguf; *stem is the length of NAME. */
bool nib_hub_split_of(const char *name, size_t *stem, int *part, int *parts);
/* A file one can run: GGUF, no projector for images, no importance matrix, no later part. */
bool nib_hub_is_model(const char *name);
/* The model among files that the reference means: the index of its (first) file, -1 when there is
 * none. Without a quantisation Q4_K_M, or the nearest there is. */
ptrdiff_t nib_hub_pick(const char *const *names, size_t n, const char *want);
/* A path inside a repo that may become a path here: relative, no "..", nothing that is not
 * printable.
 */
bool nib_hub_name_ok(const char *name, size_t n);

/* ---- what the hub has (api.c) ---- */

typedef struct nib_hub_file {
    char *name;
    uint64_t size;
    char digest[65]; /* SHA-256 in hex; of small files git's SHA-1 (40 digits); "" unknown */
    bool here;       /* in the cache */
} nib_hub_file;
/* Files of one commit. */
typedef struct nib_hub_listing {
    nib_arena arena;
    char commit[41];
    char licence[64];
    bool gated;
    nib_hub_file *files;
    size_t n;
} nib_hub_listing;
/* Reads the API's answer. Everything in it was checked when this succeeds. */
nib_status nib_hub_listing_read(const char *json, size_t n, nib_hub_listing *out, nib_error *e);
void nib_hub_listing_free(nib_hub_listing *l);

/* ---- pulling (pull.c) ---- */

typedef struct nib_hub_plan {
    nib_hub_ref ref;
    nib_hub_listing files; /* those of the model, first part first */
    char etag[256];        /* of a plain URL's file, as sent; "" when there is none */
    uint64_t bytes;        /* of all */
    uint64_t missing;      /* not in the cache, not even in part */
} nib_hub_plan;
/* What a pull would fetch. Asks the hub. want_source: the safetensors of a repo with what belongs
 * to them, instead of a GGUF model. sha256: what a plain URL's file must have, or NULL. */
nib_status nib_hub_plan_make(const nib_hub *h, const nib_hub_ref *ref, bool want_source,
                             const char *sha256, nib_hub_plan *out, nib_error *e);
void nib_hub_plan_free(nib_hub_plan *p);
/* Fetches it: path[NIB_HUB_PATH] is then the model's (first) file, or the folder of a source.
 * NIB_ERR_LIMIT: the disk is too small, and nothing was written. */
nib_status nib_hub_pull(const nib_hub *h, nib_hub_plan *p, char *path, nib_error *e);

/* ---- what is here (cache.c, remove.c) ---- */

typedef struct nib_hub_model {
    char *repo, *file; /* file: of the repo, the first part; "" is a folder of safetensors */
    char *path;
    char commit[41];
    char quant[32];
    char digest[65];            /* SHA-256 of the (first) file, as the hub gave it; "" unknown */
    const nib_hub_alias *alias; /* the alias that means this model, or NULL */
    uint64_t bytes;             /* of all parts */
    int parts;
    time_t when; /* it came */
} nib_hub_model;
/* All models of the cache, sorted by name. Split models with parts missing are left out. An absent
 * cache is an empty one. */
nib_status nib_hub_list(const nib_hub *h, nib_hub_model **out, size_t *n, nib_error *e);
void nib_hub_list_free(nib_hub_model *m, size_t n);
/* How a person names m on the command line. In a ring of static buffers of the thread. */
const char *nib_hub_model_name(const nib_hub_model *m);
/* The model of the cache that the reference means. single: refuses to choose among several of the
 * repo. NIB_ERR_NOT_FOUND says how to pull it. */
nib_status nib_hub_find(const nib_hub *h, const nib_hub_ref *ref, bool single, nib_hub_model *out,
                        nib_error *e);
void nib_hub_model_free(nib_hub_model *m);
/* The file that the reference means, when it is in the cache: path[NIB_HUB_PATH]. Does not ask the
 * hub. */
nib_status nib_hub_resolve(const nib_hub *h, const nib_hub_ref *ref, char *path, nib_error *e);

/* Takes the model away: its links from every snapshot, and the blobs that no other link needs.
 * *freed: bytes. */
nib_status nib_hub_remove(const nib_hub *h, const nib_hub_model *m, uint64_t *freed, nib_error *e);
/* Downloads that were not finished: bytes on disk; with 'remove' they go. Those under way are left
 * alone. */
nib_status nib_hub_unfinished(const nib_hub *h, bool remove, uint64_t *bytes, int *n, nib_error *e);

/* Hashes every file of the model again. *known: how many had a hash to be held to.
 * NIB_ERR_FORMAT names the file that differs. */
nib_status nib_hub_verify(const nib_hub *h, const nib_hub_model *m, int *known, nib_error *e);
/* The SHA-256 of any file, in hex. cancel may be NULL. */
nib_status nib_hub_sha256(const char *path, const atomic_bool *cancel, char out[65], nib_error *e);
#endif
