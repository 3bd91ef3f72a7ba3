/* What the files of the tokenizer room share. Nothing outside the room includes this.
 *
 *   vocab.c      the vocabulary of a GGUF file: texts, pieces, types, special ids
 *   kinds.def    the tokenizer kinds: spm.c, bpe.c, wordpiece.c
 *   presplit.c   byte-level BPE's words (presplit.def)
 *   merge.c      pair merging by rank, n log n, shared by spm.c and bpe.c
 *   trie.c       byte strings -> ids, shared by special.c and wordpiece.c
 *   special.c    control and user-defined tokens found in a text
 *   normalize.c  UTF-8 repair, NFC, NFD
 *   tokenize.c   one call: fragments, the word cache
 *   detok.c      ids -> text */
#ifndef NIB_TOKENIZER_INTERNAL_H
#define NIB_TOKENIZER_INTERNAL_H
#include "tokenizer/tokenizer.h"

enum {
    TOK_MAX_TEXT = 1 << 30, /* bytes of one call: symbols are counted in 32 bits */
    /* How far from its place an entry of a hash table may lie: ten times what real vocabularies
     * show. More is a file made to turn look-ups into searches, and is refused. */
    TOK_MAX_PROBES = 512
};

/* ---- trie.c ---- */

/* Nodes are numbered in the order of their creation, the root is 0; edges live in one hash table
 * keyed by (node, byte), so memory is proportional to the strings added. */
typedef struct tok_edge {
    uint32_t key, child; /* child 0: free */
} tok_edge;
typedef struct tok_trie {
    tok_edge *edges;
    uint32_t mask, n_nodes, cap;
    int32_t *value;   /* of a node: the id whose text ends here, or -1 */
    uint32_t *parent; /* and the byte that leads here from it, in the low 8 bits */
} tok_trie;
/* Adds p[0..n), read from its end when 'reversed'. False when out of memory, over 2^24 nodes or
 * TOK_MAX_PROBES. */
bool nib_tok_trie_add(tok_trie *t, const char *p, size_t n, bool reversed, int32_t value);
static inline uint32_t tok_trie_place(const tok_trie *t, uint32_t key, uint32_t probe) {
    return ((key * 0x9e3779b1u >> 7) + probe) & t->mask;
}
static inline uint32_t tok_trie_step(const tok_trie *t, uint32_t node, uint8_t byte) {
    if (!t->edges) return 0;
    uint32_t key = node << 8 | byte;
    for (uint32_t k = 0; k < TOK_MAX_PROBES; k++) {
        const tok_edge *e = &t->edges[tok_trie_place(t, key, k)];
        if (e->key == key || !e->child) return e->child;
    }
    return 0;
}
void nib_tok_trie_free(tok_trie *t);

/* ---- special.c ---- */

/* Which token, if any, starts at a place: see special.c. */
typedef struct tok_special {
    tok_trie trie;
    uint32_t *fail;
    int32_t *any,
        *user; /* of a node: the longest token of any kind, the longest user-defined one; or -1 */
    bool has_user;
} tok_special;
typedef struct tok_hit {
    uint32_t at;
    int32_t id;
} tok_hit;
typedef struct tok_hits {
    tok_hit *data;
    size_t len, cap;
} tok_hits;

/* ---- merge.c ---- */

/* A symbol of a word: bytes [at, at + n); n 0: merged into the one before. */
typedef struct tok_sym {
    uint32_t at, n;
    int32_t prev, next; /* -1: none */
    int32_t id;         /* -1: no token */
    int32_t merged; /* what it becomes with the next symbol, and how early: TOK_NO_PAIR = never */
    uint32_t rank, queued; /* queued: the rank under which merge.c has it in its heap */
} tok_sym;
#define TOK_NO_PAIR UINT32_MAX
typedef struct tok_merge {
    tok_sym *sym;
    uint64_t *heap;
    size_t n_sym, cap_sym, n_heap, cap_heap;
} tok_merge;
/* The rank of merging a and b (lower: earlier), TOK_NO_PAIR when they don't merge; *id gets the
 * token. */
typedef uint32_t (*tok_pair_fn)(const void *arg, const tok_sym *a, const tok_sym *b, int32_t *id);
bool nib_tok_merge_push(tok_merge *m, uint32_t at, uint32_t n, int32_t id);
/* Merges the pushed symbols, lowest rank first, leftmost first among equals. False when out of
 * memory. What is left is read from sym[0] along 'next'. */
bool nib_tok_merge_run(tok_merge *m, tok_pair_fn pair, const void *arg);
void nib_tok_merge_free(tok_merge *m);

/* ---- presplit.c ---- */

typedef struct tok_presplit tok_presplit; /* compiled patterns */
typedef struct tok_family {
    const char *names; /* tokenizer.ggml.pre, separated by spaces */
    unsigned flags;
    const char *patterns[6];
} tok_family;
enum {
    TOK_NFC = 1,         /* text is normalised to NFC first */
    TOK_KEEP_SPACES = 2, /* detokenising does not tidy spaces before punctuation */
    TOK_WHOLE_WORDS = 4, /* a word that is a token is that token, whatever the merges say */
    TOK_ADD_BOS = 8      /* unless tokenizer.ggml.add_bos_token says otherwise */
};
/* The row of a name; NULL when there is none. */
const tok_family *nib_tok_family(nib_str name);
nib_status nib_tok_presplit_new(tok_presplit **out, const tok_family *f, nib_error *e);
void nib_tok_presplit_free(tok_presplit *ps);

/* ---- one call (tokenize.c) ---- */

typedef struct tok_word {
    const char *p;         /* NULL: free */
    uint32_t n, at, n_ids; /* its ids stand at out->data[at] */
} tok_word;
typedef struct tok_cps {
    int32_t *data;
    size_t cap;
} tok_cps;
typedef struct tok_call {
    nib_ids *out;
    nib_error *e;
    nib_arena keep; /* texts that cached words point into */
    tok_word *words;
    size_t n_words; /* a power of two */
    tok_merge merge;
    tok_cps cps, marks; /* scratch of normalize.c */
    void *match;        /* presplit.c's */
    const struct nib_tokenizer *t;
} tok_call;
/* Encodes one word at most TOK_MAX_TEXT long. p stays valid until the call ends. */
typedef nib_status (*tok_word_fn)(tok_call *c, const char *p, size_t n);
/* The same through the cache of words already met in this call. */
nib_status nib_tok_cached_word(tok_call *c, const char *p, size_t n, tok_word_fn fn);
/* Splits p[0..n), valid UTF-8, into words and hands each to fn through the cache. */
nib_status nib_tok_presplit_run(const tok_presplit *ps, tok_call *c, const char *p, size_t n,
                                tok_word_fn fn);
void nib_tok_match_free(tok_call *c);
nib_status nib_tok_put(tok_call *c, int32_t id); /* appends an id; ids < 0 are dropped */

/* ---- normalize.c ---- */

/* *p, *n become valid UTF-8 in NFC (when nfc): the text itself when it is already, else a copy in
 * c->keep. */
nib_status nib_tok_clean(tok_call *c, const char **p, size_t *n, bool nfc);
/* c->cps gets the code points of p[0..n), canonically decomposed and ordered when nfd; bytes that
 * are not UTF-8 become U+FFFD. */
nib_status nib_tok_decompose(tok_call *c, const char *p, size_t n, bool nfd, size_t *n_cps);

/* ---- kinds ---- */

typedef struct tok_kind {
    const char *model, *name; /* tokenizer.ggml.model; nib_tokenizer_info.kind */
    /* Called with texts, types and by_text in place; fills pieces and t->own. */
    nib_status (*init)(nib_tokenizer *t, const nib_gguf *g, nib_error *e);
    void (*fini)(nib_tokenizer *t);
    /* Encodes text between special tokens; prefixed: a space may be put in front. */
    nib_status (*encode)(tok_call *c, const char *p, size_t n, bool prefixed);
} tok_kind;
#define NIB_TOK_KIND(name) extern const tok_kind nib_tok_##name;
#include "tokenizer/kinds.def"
#undef NIB_TOK_KIND

/* Texts and pieces of all tokens in one block; that of token i begins at at[i] and ends at
 * at[i + 1]. It is the text and, where the piece is another string, the piece behind it. In front
 * stands one byte: 0 when the piece is the text, else the piece's length plus one, or
 * TOK_LONG_PIECE and that number in the next four bytes. */
enum { TOK_LONG_PIECE = 255 };
typedef struct tok_strings {
    char *data;
    uint32_t *at;
} tok_strings;
typedef struct tok_spelling {
    nib_str text, piece;
} tok_spelling;

/* Text -> id: an open-addressing table at most 2/3 full. The texts are the vocabulary's own, so a
 * slot is 32 bits: the id below, as many bits of the hash as are left above, all ones when free.
 * This table's cache misses are most of what loading costs. */
typedef struct tok_map {
    uint32_t *slots;
    uint32_t n_slots;
    int id_bits;
} tok_map;

struct nib_tokenizer {
    nib_tokenizer_info info;
    const tok_kind *kind;
    void *own; /* the kind's tables */
    tok_strings
        strings;      /* texts, as the vocabulary spells them; pieces, the bytes they stand for */
    uint8_t *type;    /* nib_token_type */
    int32_t ends[64]; /* the tokens that end a generation */
    int n_ends;
    tok_map by_text;      /* every token with a text */
    int32_t byte_id[256]; /* the token of a single byte, or -1 */
    tok_special special;
    bool add_prefix;  /* SentencePiece's space in front */
    bool tidy_spaces; /* detokenising removes spaces before punctuation */
    bool add_sep;     /* SEP behind the text */
    char *pre, *chat_template;
};

/* ---- vocab.c ---- */

static inline tok_spelling tok_spell(const nib_tokenizer *t, int32_t id) {
    const char *p = t->strings.data + t->strings.at[id];
    const char *end = t->strings.data + t->strings.at[id + 1];
    uint32_t own = (uint8_t)*p++;
    if (own == 0) return (tok_spelling){{p, (size_t)(end - p)}, {p, (size_t)(end - p)}};
    if (own == TOK_LONG_PIECE) {
        memcpy(&own, p, 4);
        p += 4;
    }
    size_t n = (size_t)(end - p) - (own - 1);
    return (tok_spelling){{p, n}, {p + n, own - 1}};
}
static inline nib_str tok_text(const nib_tokenizer *t, int32_t id) {
    return tok_spell(t, id).text;
}
/* The pieces: fn writes the bytes that a token of type NORMAL stands for, at most one more than its
 * text has, and says how many; byte tokens stand for their byte, control and user-defined ones for
 * their text. Fills t->byte_id too. */
typedef size_t (*tok_piece_fn)(char *out, nib_str text);
nib_status nib_tok_fill_pieces(nib_tokenizer *t, tok_piece_fn fn, nib_error *e);
/* The byte a "<0x41>" stands for, or -1. */
int nib_tok_byte_value(nib_str text);
/* The ids of n <= TOK_BATCH texts, or -1: the cache misses of a batch overlap. */
enum { TOK_BATCH = 64 };
void nib_tok_find_batch(const nib_tokenizer *t, const nib_str *texts, int32_t *ids, size_t n);
/* Whether a token may come out of ordinary text. */
static inline bool tok_is_plain(const nib_tokenizer *t, int32_t id) {
    uint8_t type = t->type[id];
    return type == NIB_TOKEN_NORMAL || type == NIB_TOKEN_USER || type == NIB_TOKEN_UNUSED;
}
/* The id of a plain token spelled so, or -1. */
static inline int32_t tok_find_plain(const nib_tokenizer *t, const char *p, size_t n) {
    int32_t id = nib_token_find(t, (nib_str){p, n});
    return id >= 0 && tok_is_plain(t, id) ? id : -1;
}

nib_status nib_tok_special_init(nib_tokenizer *t, nib_error *e);
void nib_tok_special_free(tok_special *s);
/* The places where special tokens start, the last first; with 'control', control and unknown tokens
 * too. At each place the longest token. */
bool nib_tok_special_find(const nib_tokenizer *t, const char *p, size_t n, bool control,
                          tok_hits *hits);
#endif
