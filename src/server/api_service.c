/* What a server says of itself: /health, /v1/models. */
#include <time.h>
#include "server/api.h"

void nib_get_health(nib_http *r) {
    switch (nib_server_get_state(r->server)) {
    case NIB_SERVER_LOADING: nib_http_error(r, 503, "loading", NULL, "Loading model"); return;
    case NIB_SERVER_NO_MODEL:
        nib_http_reply(r, 200, "application/json", "{\"status\":\"no model\"}", 21);
        return;
    case NIB_SERVER_READY: nib_http_reply(r, 200, "application/json", "{\"status\":\"ok\"}", 15);
    }
}

static json_t *model_object(nib_http *r) {
    nib_sched *s = nib_server_sched(r->server);
    const char *name = nib_server_model_name(r->server);
    if (!s) return NULL;
    const nib_model_info *info = nib_model_get_info(nib_sched_model(s));
    return json_pack("{s:s, s:s, s:I, s:s, s:{s:I, s:I, s:I, s:I, s:I}}", "id", name, "object",
                     "model", "created", (json_int_t)time(NULL), "owned_by", "nib", "meta", "n_ctx",
                     (json_int_t)nib_sched_n_ctx(s), "n_ctx_train", (json_int_t)info->n_ctx_train,
                     "n_embd", (json_int_t)info->n_embd, "n_params", (json_int_t)info->n_params,
                     "size", (json_int_t)info->file_bytes);
}

void nib_get_openai_models(nib_http *r) {
    json_t *list = json_array(), *model = model_object(r);
    if (model) json_array_append_new(list, model);
    nib_http_json_reply(r, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void nib_get_openai_model(nib_http *r) {
    json_t *model = model_object(r);
    if (model && strcmp(r->rest, nib_server_model_name(r->server)) == 0) {
        nib_http_json_reply(r, 200, model);
        return;
    }
    json_decref(model);
    nib_http_error(r, 404, "model_not_found", "model",
                   "The model '%.100s' does not exist: '%s' does", r->rest,
                   nib_server_model_name(r->server));
}
