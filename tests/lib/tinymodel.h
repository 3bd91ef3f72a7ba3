/* A small model of seeded random weights that tests write themselves, so that they stand without
 * reference data. It speaks nonsense, always the same. */
#ifndef NIB_TINYMODEL_H
#define NIB_TINYMODEL_H
#include "formats/formats.h"
#include "testlib.h"

typedef struct test_tiny {
    const char *arch; /* NULL: "llama" (or "bert" for an embedder) */
    const char *name; /* NULL: "tiny model" (or "tiny embedder") */
    bool embedder;    /* one layer of a bert, and a WordPiece vocabulary */
    nib_dtype dtype;  /* of the matrices; 0 is F32 */
    int n_layer;      /* 0: 2 */
    int n_embd;       /* 0: 64; a multiple of 64. Heads are 32 wide; two share one kv head */
    int64_t n_ctx;    /* 0: 512 */
    const char *chat_template; /* NULL: none */
    uint64_t seed;
} test_tiny;

/* The vocabulary: <unk> <s> </s>, the 256 bytes from 3, <|im_start|> 259, <|im_end|> 260, ASCII,
 * some words. */
enum { TEST_TINY_VOCAB = 384, TEST_TINY_IM_START = 259, TEST_TINY_IM_END = 260 };
/* Writes it to <test_tmp()>/<name> and returns that path (static ring of buffers). o may be NULL.
 */
const char *test_tiny_model(const char *name, const test_tiny *o);

/* <|im_start|>role ... <|im_end|>, as many small models have it. */
extern const char test_chatml[];
#endif
