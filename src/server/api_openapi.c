/* GET /openapi.json: the rows of routes.def, joined with the schemas of openapi.json (embedded when
 * nib is built), which also says which request has which schema: "x-requests". */
#include "server/api.h"
#include "openapi_text.h" /* generated: nib_openapi_text[] */

static json_t *reference(const char *name) {
    return json_pack("{s:s+}", "$ref", "#/components/schemas/", name);
}

static json_t *body_of(const json_t *requests, const nib_route *t) {
    char key[128];
    snprintf(key, sizeof key, "%s %s", t->method, t->path);
    const char *name = json_string_value(json_object_get(requests, key));
    if (!name) return NULL;
    return json_pack("{s:b, s:{s:{s:o}}}", "required", true, "content", "application/json",
                     "schema", reference(name));
}

static json_t *operation(const json_t *requests, const nib_route *t) {
    static const char *const tags[] = {"OpenAI and service", "Ollama", "Anthropic", "Pages"},
                             *const errors[] = {"Error", "OllamaError", "AnthropicError", "Error"};
    json_t *op =
        json_pack("{s:s, s:[s], s:{s:{s:s}, s:{s:s, s:{s:{s:o}}}}}", "summary", t->summary, "tags",
                  tags[t->dialect], "responses", "200", "description",
                  "As the API's own documentation says", "default", "description", "An error",
                  "content", "application/json", "schema", reference(errors[t->dialect]));
    json_t *body = body_of(requests, t);
    if (op && body) json_object_set_new(op, "requestBody", body);
    if (op && t->flags & NIB_ROUTE_OPEN) json_object_set_new(op, "security", json_array());
    size_t n = strlen(t->path);
    if (op && t->path[n - 1] == '*')
        json_object_set_new(op, "parameters",
                            json_pack("[{s:s, s:s, s:b, s:{s:s}}]", "name", "id", "in", "path",
                                      "required", true, "schema", "type", "string"));
    return op;
}

void nib_get_openapi(nib_http *r) {
    nib_error e;
    json_t *doc;
    if (nib_json_parse(nib_openapi_text, sizeof nib_openapi_text - 1, &doc, &e) != NIB_OK) {
        nib_http_error(r, 500, NULL, NULL, "%s", e.message);
        return;
    }
    json_t *paths = json_object(), *requests = json_incref(json_object_get(doc, "x-requests"));
    for (size_t i = 0; i < nib_n_routes; i++) {
        const nib_route *t = &nib_routes[i];
        char path[128], method[16];
        size_t n = strlen(t->path);
        snprintf(path, sizeof path, t->path[n - 1] == '*' ? "%.*s{id}" : "%.*s",
                 (int)(t->path[n - 1] == '*' ? n - 1 : n), t->path);
        snprintf(method, sizeof method, "%s", t->method);
        for (char *p = method; *p; p++) *p = (char)(*p | 0x20);
        if (!json_object_get(paths, path)) json_object_set_new(paths, path, json_object());
        json_object_set_new(json_object_get(paths, path), method, operation(requests, t));
    }
    json_object_set_new(doc, "paths", paths);
    json_object_del(doc, "x-requests");
    json_decref(requests);
    nib_http_json_reply(r, 200, doc);
}
