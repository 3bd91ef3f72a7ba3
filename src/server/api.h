/* What the APIs share: reading a request (fields.c), and turning events into what they reply
 * (answer.c). An API is a table of the fields it takes and a voice that says things its way. */
#ifndef NIB_SERVER_API_H
#define NIB_SERVER_API_H
#include <jansson.h>
#include "server/server.h"

/* ---- reading ---- */

/* A request of an API, read. What q needs lies in q's arena, texts of the ask itself in 'arena'. */
typedef struct nib_ask {
    nib_request *q;
    nib_arena *arena;
    const char *model;
    bool stream, include_usage, echo;
    bool logprobs;
    int64_t top_logprobs, n;
    /* Several prompts are read one by one: 'which' says whose turn it is. The others than the first
     * end up in 'more'. */
    size_t which, n_prompts;
    nib_request **more;
    const char **echoes; /* with echo: each prompt's text */
    int64_t best_of;
    bool base64;        /* embeddings as base64 */
    int64_t dimensions; /* 0: all */
    const char *param;  /* the field that an error is about */
    /* limits */
    int64_t max_tokens;
    int max_messages;
    /* of single APIs */
    const char *system, *previous; /* a system text beside the messages; an earlier response's id */
    bool add_special, parse_special, with_pieces; /* of /tokenize */
    bool store;
    int64_t n_before; /* of the messages, those of the earlier response */
    json_t *metadata;
    bool keep_given; /* how long the model is to stay afterwards */
    double keep;     /* seconds; < 0: for ever */
} nib_ask;

typedef enum nib_field_kind {
    NIB_FIELD_FLOAT,  /* float of the request, at */
    NIB_FIELD_INT,    /* int32_t of the request, at */
    NIB_FIELD_SWITCH, /* bool of the ask, at */
    NIB_FIELD_WHOLE,  /* int64_t of the ask, at */
    NIB_FIELD_TEXT,   /* const char * of the ask, at */
    NIB_FIELD_CALL,   /* set */
    NIB_FIELD_IGNORE, /* makes no difference to the reply */
    NIB_FIELD_REFUSE  /* not supported: only null, false, 0, "" and empty lists pass */
} nib_field_kind;
typedef nib_status (*nib_field_fn)(nib_ask *a, const char *name, const json_t *v, nib_error *e);
typedef struct nib_field {
    const char *name;
    nib_field_kind kind;
    size_t at;
    double min, max;
    nib_field_fn set;
} nib_field;
#define NIB_FLOAT(name, field, min, max)                                                           \
    { name, NIB_FIELD_FLOAT, offsetof(nib_request, field), min, max, NULL }
#define NIB_INT(name, field, min, max)                                                             \
    { name, NIB_FIELD_INT, offsetof(nib_request, field), min, max, NULL }
#define NIB_SWITCH(name, field)                                                                    \
    { name, NIB_FIELD_SWITCH, offsetof(nib_ask, field), 0, 1, NULL }
#define NIB_WHOLE(name, field, min, max)                                                           \
    { name, NIB_FIELD_WHOLE, offsetof(nib_ask, field), min, max, NULL }
#define NIB_TEXT(name, field)                                                                      \
    { name, NIB_FIELD_TEXT, offsetof(nib_ask, field), 0, 0, NULL }
#define NIB_CALL(name, set)                                                                        \
    { name, NIB_FIELD_CALL, 0, 0, 0, set }
#define NIB_IGNORE(name)                                                                           \
    { name, NIB_FIELD_IGNORE, 0, 0, 0, NULL }
#define NIB_REFUSE(name)                                                                           \
    { name, NIB_FIELD_REFUSE, 0, 0, 0, NULL }
#define NIB_FIELDS_END                                                                             \
    { NULL, NIB_FIELD_IGNORE, 0, 0, 0, NULL }

/* Reads every field of an object by the table. A field that stands in no table is refused by name;
 * null counts as absent. On failure a->param names the field. */
nib_status nib_fields_read(nib_ask *a, const json_t *object, const nib_field *const *tables,
                           nib_error *e);
/* A new ask with the server's limits, and the request; false: the client was told. */
bool nib_ask_init(nib_ask *a, nib_http *r);
void nib_ask_free(nib_ask *a);

/* Setters that several APIs use. */
extern const nib_field nib_sampling_fields[]; /* temperature, top_p, ... by the names of peers */
nib_status nib_set_messages(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_stop(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_seed(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_logit_bias(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_max_tokens(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_effort(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_template_kwargs(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_prompt(nib_ask *a, const char *name, const json_t *v, nib_error *e);
/* "5m", "1h30m", "300ms", "-1"; a number is seconds; below 0 is for ever. */
nib_status nib_set_keep(nib_ask *a, const char *name, const json_t *v, nib_error *e);
nib_status nib_set_texts(nib_ask *a, const char *name, const json_t *v, nib_error *e);
/* Appends the text of a message's content: a string, or a list of text parts. */
nib_status nib_content_text(const json_t *v, const char *what, nib_buf *out, nib_error *e);
/* "name: expected WHAT, found ..." */
nib_status nib_expected(const char *name, const char *what, const json_t *found, nib_error *e);
/* Adds a message; system ones before all others join the system text. */
nib_status nib_add_message(nib_ask *a, const char *role, const char *text, const char *thinking,
                           nib_error *e);
/* A system text before the one there is. */
nib_status nib_prepend_system(nib_ask *a, const char *text, nib_error *e);
/* A copy for q; NULL when out of memory. */
char *nib_keep_text(nib_ask *a, const char *p, size_t n);

/* ---- answering ---- */

/* Reads an API's JSON body into an ask. On failure a->param names the field. */
typedef nib_status (*nib_read_fn)(nib_ask *a, const json_t *body, nib_error *e);

typedef struct nib_choice {
    nib_buf text, thinking, odds; /* odds: JSON, as the voice writes it */
    nib_buf unsent_odds;
    const char *finish; /* NULL: goes on */
    int64_t n_prompt, n_cached, n_generated, n_thought;
    int64_t n_chars;  /* of the tokens whose odds were told */
    const char *stop; /* the stop text that ended it, in r's arena; or NULL */
    double prompt_seconds, generate_seconds, first_token_seconds;
    uint64_t seed;
    bool spoke, thought; /* something was streamed of either */
} nib_choice;

typedef struct nib_said nib_said;
/* How an API says things. All on the I/O thread; a streamed answer uses begin, piece, reply, end; a
 * whole one only whole. Any may be NULL. */
typedef struct nib_voice {
    const char *stream_type; /* of a streamed reply */
    void (*begin)(nib_said *x);
    void (*piece)(nib_said *x, int index, const nib_piece *p);
    void (*odds)(nib_said *x, int index, const nib_odds *o);
    void (*reply)(nib_said *x, int index);
    void (*end)(nib_said *x);
    void (*whole)(nib_said *x);
    void (*failed)(nib_said *x, const nib_error *e); /* after the stream has begun */
    void (*keep)(
        nib_said *x); /* before an answer that is to be stored is told: in NIB_LANE_STORE */
} nib_voice;
struct nib_said {
    nib_http *r;
    nib_ask ask;
    const nib_voice *voice;
    nib_choice *choices;
    int n, n_each;    /* replies, and to each prompt */
    int64_t n_prompt; /* tokens of all prompts */
    double start;
    int64_t created;
    char id[48];
    int part,
        n_parts; /* for voices that stream in parts: the kind of the open one, how many before */
    int64_t n_events; /* for voices that number them */
    nib_buf out;
    nib_messages messages; /* what a voice wants to remember */
    float **vectors;       /* [n][n_embd] */
    size_t n_embd;
    int64_t *vector_tokens;
};
/* Takes over the ask and answers it. id_prefix: "chatcmpl-". */
void nib_said_start(nib_http *r, nib_ask *ask, const nib_voice *voice, const char *id_prefix);
/* The same, and takes over messages, for the voice: x->messages. */
void nib_said_start_with(nib_http *r, nib_ask *ask, const nib_voice *voice, const char *id_prefix,
                         nib_messages *messages);
/* The whole way of most endpoints: body, ask, answer. Long bodies are read in NIB_LANE_TEXT. */
void nib_api_read(nib_http *r, nib_read_fn read, const nib_voice *v, const char *id_prefix);
nib_lane nib_api_lane(const nib_http *r); /* where its body is to be read */
/* Sends what is in x->out: as an SSE event, or as a line; and clears it. */
void nib_said_sse(nib_said *x, const char *event);
void nib_said_line(nib_said *x);
void nib_said_reply(nib_said *x); /* sends x->out as the whole reply */
int64_t nib_said_generated(const nib_said *x);
int64_t nib_said_cached(const nib_said *x);
/* "stop" or "length", as most APIs say it. */
const char *nib_finish_word(const nib_choice *c);
void nib_make_id(char *out, size_t n, const char *prefix);
/* 2026-01-31T12:00:00.123456Z */
void nib_put_time(nib_buf *b);
const nib_tokenizer *nib_said_tokenizer(const nib_said *x);
void nib_put_token_text(nib_buf *b, const nib_tokenizer *t, int32_t id); /* a JSON string */

/* Readers, for the fuzzer; each API's own file. */
nib_status nib_anthropic_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_ollama_chat_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_ollama_generate_read(nib_ask *a, const json_t *body, nib_error *e);
nib_status nib_llama_completion_read(nib_ask *a, const json_t *body, nib_error *e);
#endif
