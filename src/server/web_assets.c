/* GET /assets/NAME: files of ours. Their addresses change with their contents, so browsers may keep
 * them for good. */
#include "server/web.h"

const web_asset *web_asset_find(const char *name) {
    for (size_t i = 0; i < web_n_assets; i++)
        if (strcmp(web_assets[i].name, name) == 0) return &web_assets[i];
    return NULL;
}

void web_put_asset(nib_buf *b, const char *name) {
    const web_asset *a = web_asset_find(name);
    nib_html(b, "/assets/%s?v=%s", name, a ? a->version : "0");
}

void nib_get_asset(nib_http *r) {
    const web_asset *a = web_asset_find(r->rest);
    if (!a) {
        nib_http_error(r, 404, NULL, NULL, "There is no file of that name.");
        return;
    }
    const char *asked = nib_http_query(r, "v");
    nib_http_set(r, "Cache-Control",
                 asked && strcmp(asked, a->version) == 0 ? "public, max-age=31536000, immutable"
                                                         : "no-cache");
    nib_http_reply(r, 200, a->type, a->data, a->n);
}
