/* Browsers: the cookie that tells them apart, and the token their forms must carry.
 *
 * The token is SipHash of the cookie under a key kept with the conversations, so it outlives the
 * server, and nothing has to be remembered. Another site can make a browser send a form and,
 * without SameSite, its cookie; the token it cannot know. */
#include <stdlib.h>
#include "server/web.h"

/* ---- SipHash-2-4 (Aumasson, Bernstein 2012) ---- */

static uint64_t rotated(uint64_t x, int n) {
    return x << n | x >> (64 - n);
}
static void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = rotated(v[1], 13) ^ v[0], v[0] = rotated(v[0], 32);
    v[2] += v[3], v[3] = rotated(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotated(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotated(v[1], 17) ^ v[2], v[2] = rotated(v[2], 32);
}
static uint64_t load(const uint8_t *p, size_t n) {
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}
static uint64_t siphash(const uint8_t key[16], const char *text, size_t n) {
    const uint8_t *p = (const uint8_t *)text;
    uint64_t a = load(key, 8), b = load(key + 8, 8);
    uint64_t v[4] = {a ^ 0x736f6d6570736575, b ^ 0x646f72616e646f6d, a ^ 0x6c7967656e657261,
                     b ^ 0x7465646279746573};
    for (size_t i = 0; i <= n / 8; i++) {
        size_t left = n - 8 * i;
        uint64_t m = left >= 8 ? load(p + 8 * i, 8) : load(p + 8 * i, left) | (uint64_t)n << 56;
        v[3] ^= m;
        sip_round(v), sip_round(v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- tokens ---- */

enum { ID_LENGTH = 32 };

static const char *browser(nib_http *r) {
    const char *id = nib_http_cookie(r, "nib_sid");
    return id && strlen(id) == ID_LENGTH && strspn(id, "0123456789abcdef") == ID_LENGTH ? id : NULL;
}

static void make_token(const nib_http *r, const char *id, char out[ID_LENGTH + 1]) {
    char text[ID_LENGTH + 2];
    uint64_t half[2];
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "%s%d", id, i);
        half[i] = siphash(r->server->web->secret, text, strlen(text));
    }
    snprintf(out, ID_LENGTH + 1, "%016llx%016llx", (unsigned long long)half[0],
             (unsigned long long)half[1]);
}

const char *web_token(nib_http *r) {
    char fresh[ID_LENGTH + 1], cookie[160];
    const char *id = browser(r);
    if (r->own->token) return r->own->token;
    if (!id) {
        snprintf(fresh, sizeof fresh, "%016llx%016llx", (unsigned long long)nib_entropy(),
                 (unsigned long long)nib_entropy());
        snprintf(cookie, sizeof cookie,
                 "nib_sid=%s; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict", fresh);
        nib_http_set(r, "Set-Cookie", cookie);
        id = fresh;
    }
    char *token = nib_arena_alloc(&r->arena, ID_LENGTH + 1);
    if (token) make_token(r, id, token);
    return r->own->token = token ? token : "";
}

bool web_form_ok(nib_http *r) {
    char token[ID_LENGTH + 1];
    const char *id = browser(r), *given = nib_http_form(r, "csrf");
    unsigned char differ = !id || !given || strlen(given) != ID_LENGTH;
    if (!differ) {
        make_token(r, id, token);
        for (int i = 0; i < ID_LENGTH; i++) differ |= (unsigned char)(token[i] ^ given[i]);
    }
    if (differ)
        nib_http_error(r, 403, "csrf", "csrf",
                       "This page is out of date: load it again, then try once more.");
    return !differ;
}

/* ---- what the browser can ---- */

bool web_has_htmx(const nib_http *r) {
    return nib_http_header(r, "HX-Request") != NULL;
}

bool web_has_scripts(nib_http *r) {
    return web_asset_find("htmx.min.js") && nib_http_cookie(r, "nib_js");
}

/* ---- fields ---- */

static bool to_id(const char *text, int64_t *out) {
    nib_error e;
    return text && nib_parse_int("", text, 0, 9e15, out, &e) == NIB_OK;
}

bool web_form_id(nib_http *r, const char *name, int64_t *out) {
    if (to_id(nib_http_form(r, name), out)) return true;
    nib_http_error(r, 400, NULL, name, "the form lacks a number named '%s'", name);
    return false;
}

bool web_path_id(nib_http *r, int64_t *out) {
    if (to_id(r->rest, out)) return true;
    nib_http_error(r, 404, NULL, NULL, "There is no such page.");
    return false;
}

const char *web_form_text(nib_http *r, const char *name) {
    const char *given = nib_http_form(r, name);
    if (!given) return "";
    given += strspn(given, " \t\r\n");
    char *text = nib_arena_strndup(&r->arena, given, strlen(given)), *to = text;
    if (!text) return "";
    for (const char *p = text; *p; p++)
        if (*p != '\r' || p[1] != '\n') *to++ = *p;
    while (to > text && strchr(" \t\r\n", to[-1])) to--;
    *to = 0;
    return text;
}
