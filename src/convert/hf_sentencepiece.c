/* tokenizer.model: SentencePiece's model, a protocol buffer (sentencepiece_model.proto).
 *
 * Of ModelProto only field 1 is needed: the pieces, each a message {1: text, 2: score (float),
 * 3: type}, in the order of ids. Everything else is skipped by its wire type. Bounds: a length
 * never leaves what is left of its message; a varint has at most ten bytes; messages are read one
 * level deep. */
#include "convert/internal.h"

typedef struct proto {
    const uint8_t *p;
    size_t n, at;
} proto;

static bool varint(proto *b, uint64_t *out) {
    uint64_t v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (b->at >= b->n) return false;
        uint8_t c = b->p[b->at++];
        if (shift < 64) v |= (uint64_t)(c & 127) << shift;
        if (c < 128) {
            *out = v;
            return true;
        }
    }
    return false;
}

/* The next field: its number, and its value: a number, or bytes. */
typedef struct field {
    uint64_t number, value;
    int wire;
    const uint8_t *p;
    size_t n;
} field;

static bool next_field(proto *b, field *f) {
    uint64_t tag, n;
    if (!varint(b, &tag)) return false;
    *f = (field){.number = tag >> 3, .wire = (int)(tag & 7)};
    switch (f->wire) {
    case 0: return varint(b, &f->value);
    case 1: n = 8; break;
    case 2:
        if (!varint(b, &n)) return false;
        break;
    case 5: n = 4; break;
    default: return false; /* groups are not used */
    }
    if (n > b->n - b->at) return false;
    f->p = b->p + b->at;
    f->n = (size_t)n;
    b->at += f->n;
    return true;
}

static bool read_piece(conv_vocab *v, int64_t id, const field *whole) {
    proto b = {whole->p, whole->n, 0};
    nib_str text = {"", 0};
    float score = 0;
    uint64_t type = 1;
    while (b.at < b.n) {
        field f;
        if (!next_field(&b, &f)) return false;
        if (f.number == 1 && f.wire == 2) text = (nib_str){(const char *)f.p, f.n};
        if (f.number == 2 && f.wire == 5) memcpy(&score, f.p, 4);
        if (f.number == 3 && f.wire == 0) type = f.value;
    }
    text.p = nib_arena_strndup(&v->m->arena, text.n ? text.p : "", text.n);
    if (type < 1 || type > 6 || !(score > -1e30f && score < 1e30f) || !text.p) return false;
    v->tokens[id] = text;
    v->scores[id] = score;
    v->types[id] = type == 4 ? 1 : (int32_t)type; /* as the peers have it */
    return true;
}

nib_status conv_vocab_sentencepiece(conv_vocab *v, int64_t n_config, const void *p, size_t n,
                                    nib_error *e) {
    proto b = {p, n, 0};
    field f;
    int64_t count = 0;
    while (b.at < b.n) {
        if (!next_field(&b, &f))
            return nib_fail(e, NIB_ERR_FORMAT,
                            "expected a SentencePiece model, found something "
                            "else at byte %zu",
                            b.at);
        count += f.number == 1 && f.wire == 2;
    }
    if (!count)
        return nib_fail(e, NIB_ERR_FORMAT, "expected a SentencePiece model, found no pieces");
    NIB_TRY(conv_vocab_init(v, n_config ? n_config : count, e));
    b.at = 0;
    for (int64_t id = 0; b.at < b.n && next_field(&b, &f);) {
        if (f.number != 1 || f.wire != 2) continue;
        if (id >= v->n) {
            nib_log(NIB_LOG_WARN,
                    "tokenizer.model has %lld pieces, config.json's vocab_size is "
                    "%lld: the rest is left out",
                    (long long)count, (long long)v->n);
            break;
        }
        if (!read_piece(v, id, &f))
            return nib_fail(e, NIB_ERR_FORMAT, "piece %lld of the SentencePiece model is damaged",
                            (long long)id);
        id++;
    }
    v->model = "llama";
    return NIB_OK;
}
