/* What the files of OpenAI's API share. */
#ifndef NIB_SERVER_API_OPENAI_H
#define NIB_SERVER_API_OPENAI_H
#include "server/api.h"

extern const nib_field nib_openai_fields[]; /* of chat and completions alike */
void nib_openai_put_head(nib_said *x, const char *object, nib_buf *b); /* {"id": ... */
void nib_openai_put_usage(nib_said *x, nib_buf *b);                    /* "usage":{...} */
void nib_openai_end_stream(nib_said *x);                               /* data: [DONE] */
void nib_openai_failed(nib_said *x, const nib_error *e);

/* Vectors: brings them to the wanted length; false: the client was told. */
bool nib_cut_vectors(nib_said *x);
void nib_put_vector(nib_buf *b, const float *v, size_t n);

nib_status nib_openai_chat_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_openai_completion_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_openai_embedding_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_responses_read(nib_ask *a, const json_t *body, nib_error *e);
#endif
