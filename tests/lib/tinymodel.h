/* A small seeded model that tests write themselves, so that they stand without reference data. */
#ifndef NIB_TINYMODEL_H
#define NIB_TINYMODEL_H
#include "testlib.h"
#include "formats/formats.h"

typedef struct test_tiny {
    uint64_t seed;             /* of the weights */
    const char *chat_template; /* NULL: none */
    int n_layer;               /* of a llama; 0: 2 */
    int64_t n_ctx;             /* 0: 256 */
    bool embedder;             /* a bert instead of a llama */
} test_tiny;

/* llama (2 layers, width 64, 2 heads of 32 sharing 1 kv head) or bert (1 layer), float weights, a
 * SentencePiece (WordPiece for bert) vocabulary: <unk> <s> </s>, the 256 bytes, <|im_start|>
 * <|im_end|>, letters and a few words. Returns path, below test_tmp(), valid until the eighth next
 * call. Options may be NULL. */
const char *test_tiny_model(const char *name, const test_tiny *o);

enum { TEST_TINY_VOCAB = 320 };
/* <|im_start|>role\n...<|im_end|>\n, as many small models have it. */
extern const char test_chatml[];
#endif
