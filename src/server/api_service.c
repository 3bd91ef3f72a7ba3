/* What a server says of itself: /health, /v1/models. */
#include "server/api.h"
#include "server/locals.h"

void nib_get_health(nib_http *r) {
    switch (nib_server_get_state(r->server)) {
    case NIB_SERVER_LOADING: nib_http_error(r, 503, "loading", NULL, "Loading model"); return;
    case NIB_SERVER_NO_MODEL:
        nib_http_reply(r, 200, "application/json", "{\"status\":\"no model\"}", 21);
        return;
    case NIB_SERVER_READY: nib_http_reply(r, 200, "application/json", "{\"status\":\"ok\"}", 15);
    }
}

static const char *status_of(const nib_local *m) {
    switch (m->state) {
    case NIB_LOCAL_READY: return "loaded";
    case NIB_LOCAL_COMING: return "loading";
    case NIB_LOCAL_LEAVING: return "unloading";
    default: return "unloaded";
    }
}

static json_t *model_object(const nib_local *m) {
    json_t *meta = json_pack("{s:I}", "size", (json_int_t)m->bytes);
    if (m->looked) {
        json_object_set_new(meta, "n_ctx_train", json_integer(m->look.n_ctx_train));
        json_object_set_new(meta, "n_embd", json_integer(m->look.n_embd));
        json_object_set_new(meta, "n_params", json_integer((json_int_t)m->look.n_params));
    }
    if (m->n_ctx) json_object_set_new(meta, "n_ctx", json_integer(m->n_ctx));
    return json_pack("{s:s, s:s, s:I, s:s, s:{s:s}, s:o}", "id", m->name, "object", "model",
                     "created", (json_int_t)m->when, "owned_by", "nib", "status", "value",
                     status_of(m), "meta", meta);
}

void nib_get_openai_models(nib_http *r) {
    json_t *list = json_array();
    nib_locals_refresh(r->server);
    for (size_t i = 0; i < nib_locals_n(r->server); i++)
        json_array_append_new(list, model_object(nib_locals_at(r->server, i)));
    nib_http_json_reply(r, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void nib_get_openai_model(nib_http *r) {
    const nib_local *m = nib_locals_find(r->server, r->rest, false);
    nib_buf b = {0};
    if (m && *r->rest) {
        nib_http_json_reply(r, 200, model_object(m));
        return;
    }
    nib_locals_put_names(r->server, &b);
    nib_http_error(r, 404, "model_not_found", "model", "model '%.100s' not found: %s", r->rest,
                   b.failed ? "" : b.data);
    nib_buf_free(&b);
}
