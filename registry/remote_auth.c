/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials and tokens for a remote registry: nothing is sent before it is
 * asked for; then by Basic, or by a token of the server that the registry names. */
#include <openssl/evp.h>

#include "cas/json.h"
#include "registry/httpc_int.h"
#include "registry/remote_int.h"

#define TOKEN_LIFE_S 60 /* when it is not said */
#define TOKEN_LIFE_MAX_S 86400
#define KNOWN_MAX 64

static void wipe_free(char *text)
{
        if (text)
                OPENSSL_cleanse(text, strlen(text));
        free(text);
}

static void token_free(struct remote_token *t)
{
        free(t->scope);
        wipe_free(t->header);
        free(t);
}

void remote_auth_release(struct reg_remote *r)
{
        for (struct remote_token *t = r->tokens, *next; t; t = next) {
                next = t->next;
                token_free(t);
        }
        for (struct remote_known *k = r->known, *next; k; k = next) {
                next = k->next;
                free(k->repo);
                reg_credentials_release(&k->credentials);
                free(k);
        }
        reg_challenge_release(&r->challenge);
}

/* Credentials. */

static char *copy_of(const char *text)
{
        return text ? cas_xstrdup(text) : NULL;
}

static void copy_credentials(const struct reg_credentials *from, struct reg_credentials *out)
{
        out->user = copy_of(from->user);
        out->password = copy_of(from->password);
        out->identity_token = copy_of(from->identity_token);
}

static bool known_credentials(struct reg_remote *r, const char *repo, struct reg_credentials *out)
{
        bool found = false;
        cas_mutex_lock(&r->mutex);
        for (struct remote_known *k = r->known; k && !found; k = k->next) {
                found = strcmp(k->repo, repo) == 0;
                if (found)
                        copy_credentials(&k->credentials, out);
        }
        cas_mutex_unlock(&r->mutex);
        return found;
}

static void remember_credentials(struct reg_remote *r, const char *repo,
                                 const struct reg_credentials *c)
{
        cas_mutex_lock(&r->mutex);
        if (r->known_count < KNOWN_MAX) {
                struct remote_known *k = cas_xcalloc(1, sizeof(*k));
                k->repo = cas_xstrdup(repo);
                copy_credentials(c, &k->credentials);
                k->next = r->known;
                r->known = k;
                r->known_count++;
        }
        cas_mutex_unlock(&r->mutex);
}

static int credentials_for(struct reg_remote *r, const char *repo, struct reg_credentials *out,
                           struct cas_err *err)
{
        const struct reg_remote_config *c = &r->config;
        if (c->identity_token) {
                out->identity_token = cas_xstrdup(c->identity_token);
                return 0;
        }
        if (c->user) {
                out->user = cas_xstrdup(c->user);
                out->password = cas_xstrdup(c->password ? c->password : "");
                return 0;
        }
        if (c->anonymous || known_credentials(r, repo, out))
                return 0;
        if (reg_authfile_find(c->auth_file, c->host, repo, out, err) < 0)
                return -(int)err->code;
        remember_credentials(r, repo, out);
        return 0;
}

/* Owned; NULL without a password. */
static char *basic_header(const struct reg_credentials *c)
{
        if (!c->user)
                return NULL;
        char *plain = cas_xasprintf("%s:%s", c->user, c->password);
        size_t len = strlen(plain);
        char *coded = cas_xcalloc(1, (len + 2) / 3 * 4 + 1);
        (void)EVP_EncodeBlock((unsigned char *)coded, (unsigned char *)plain, (int)len);
        char *header = cas_xasprintf("Authorization: Basic %s", coded);
        wipe_free(plain);
        wipe_free(coded);
        return header;
}

/* Tokens. */

static char *request_scope(const struct reg_remote_request *q)
{
        if (!q->scope_repo)
                return cas_xstrdup("");
        const char *actions = q->actions ? q->actions : "pull";
        if (q->from_repo && strcmp(q->from_repo, q->scope_repo) != 0)
                return cas_xasprintf("repository:%s:%s repository:%s:pull", q->scope_repo, actions,
                                     q->from_repo);
        return cas_xasprintf("repository:%s:%s", q->scope_repo, actions);
}

static char *cached_token(struct reg_remote *r, const char *scope)
{
        char *header = NULL;
        uint64_t now = remote_now_ns();
        cas_mutex_lock(&r->mutex);
        for (struct remote_token *t = r->tokens; t && !header; t = t->next) {
                if (t->until_ns > now && strcmp(t->scope, scope) == 0)
                        header = cas_xstrdup(t->header);
        }
        cas_mutex_unlock(&r->mutex);
        return header;
}

/* Drops the tokens of this scope, those that are over, and the oldest beyond the limit. */
static void cache_token(struct reg_remote *r, struct remote_token *fresh)
{
        uint64_t now = remote_now_ns();
        unsigned count = 1;
        cas_mutex_lock(&r->mutex);
        fresh->next = r->tokens;
        r->tokens = fresh;
        for (struct remote_token **at = &fresh->next; *at;) {
                struct remote_token *t = *at;
                if (t->until_ns <= now || strcmp(t->scope, fresh->scope) == 0 ||
                    count >= REMOTE_TOKENS_MAX) {
                        *at = t->next;
                        token_free(t);
                } else {
                        at = &t->next;
                        count++;
                }
        }
        r->token_count = count;
        cas_mutex_unlock(&r->mutex);
}

static void forget_token(struct reg_remote *r, const char *header)
{
        cas_mutex_lock(&r->mutex);
        for (struct remote_token *t = r->tokens; t; t = t->next) {
                if (strcmp(t->header, header) == 0)
                        t->until_ns = 0;
        }
        cas_mutex_unlock(&r->mutex);
}

/* The token server may be anybody's, so passwords go to it by TLS, or where the registry itself is
 * reached without, to the same host. */
static int check_realm(struct reg_remote *r, const char *realm, struct cas_err *err)
{
        cas_cleanup_free char *url = NULL, *origin = NULL, *base_url = NULL, *base_origin = NULL;
        cas_cleanup_free char *base = remote_base(r);
        if (httpc_url(realm, NULL, &url, &origin, err) < 0)
                return cas_err_wrap(err, "token server");
        if (httpc_url(base, NULL, &base_url, &base_origin, err) < 0)
                return -(int)err->code;
        if (strncmp(origin, "https:", 6) == 0)
                return httpc_redirect_allowed(base_origin, origin, err);
        const char *a = strstr(origin, "://") + 3, *b = strstr(base_origin, "://") + 3;
        size_t a_len = (size_t)(strrchr(a, ':') - a), b_len = (size_t)(strrchr(b, ':') - b);
        if (strncmp(base_origin, "http:", 5) == 0 && a_len == b_len && strncmp(a, b, a_len) == 0)
                return 0;
        return cas_fail(err, CAS_E_DENIED, "token server %.100s: not by https", realm);
}

static void append_escaped(struct cas_buf *out, const char *text)
{
        for (; *text; text++) {
                unsigned char c = (unsigned char)*text;
                if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                    strchr("-._~:/", c))
                        cas_buf_append_byte(out, c);
                else
                        cas_buf_printf(out, "%%%02X", c);
        }
}

static void append_param(struct cas_buf *out, const char *name, const char *value)
{
        bool query = out->len_bytes > 0 && strchr(cas_buf_str(out), '?');
        bool form = out->len_bytes == 0 || !strstr(cas_buf_str(out), "://");
        if (out->len_bytes > 0)
                cas_buf_append_byte(out, form || query ? '&' : '?');
        cas_buf_append_str(out, name);
        cas_buf_append_byte(out, '=');
        append_escaped(out, value);
}

/* GET realm?service=…&scope=…&scope=…, with Basic where there is a password. */
static int ask_by_get(struct reg_remote *r, const struct reg_challenge *c, const char *scope,
                      const struct reg_credentials *credentials, struct reg_httpc_transfer **out,
                      struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf url = CAS_BUF_INIT;
        cas_cleanup_free char *scopes = cas_xstrdup(scope);
        char *rest;
        cas_buf_append_str(&url, c->realm);
        if (c->service)
                append_param(&url, "service", c->service);
        for (char *s = strtok_r(scopes, " ", &rest); s; s = strtok_r(NULL, " ", &rest))
                append_param(&url, "scope", s);
        if (credentials->user)
                append_param(&url, "account", credentials->user);
        char *basic = basic_header(credentials);
        const char *headers[] = {basic, NULL};
        struct reg_httpc_request q = {.method = "GET",
                                      .url = cas_buf_str(&url),
                                      .headers = headers,
                                      .from_elsewhere = !atomic_load(&r->was_near)};
        int rc = reg_httpc_begin(r->config.http, &q, out, err);
        wipe_free(basic);
        return rc;
}

static int ask_by_post(struct reg_remote *r, const struct reg_challenge *c, const char *scope,
                       const struct reg_credentials *credentials, struct reg_httpc_transfer **out,
                       struct cas_err *err)
{
        struct cas_buf form = CAS_BUF_INIT;
        static const char *const headers[] = {"Content-Type: application/x-www-form-urlencoded",
                                              NULL};
        append_param(&form, "grant_type", "refresh_token");
        append_param(&form, "service", c->service ? c->service : "");
        append_param(&form, "client_id", "lamina");
        if (*scope)
                append_param(&form, "scope", scope);
        append_param(&form, "refresh_token", credentials->identity_token);
        struct reg_httpc_request q = {.method = "POST",
                                      .url = c->realm,
                                      .headers = headers,
                                      .body = form.data,
                                      .body_bytes = form.len_bytes,
                                      .no_redirects = true,
                                      .from_elsewhere = !atomic_load(&r->was_near)};
        int rc = reg_httpc_begin(r->config.http, &q, out, err);
        OPENSSL_cleanse(form.data, form.len_bytes);
        cas_buf_release(&form);
        return rc;
}

static bool token_valid(const char *token)
{
        if (!token || !*token || strlen(token) > REMOTE_TOKEN_BYTES_MAX)
                return false;
        for (; *token; token++) {
                if (*token <= ' ' || *token > '~')
                        return false;
        }
        return true;
}

static int take_token(struct reg_httpc_transfer *t, struct remote_token *out, struct cas_err *err)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        cas_cleanup_json json_t *j = NULL;
        const char *token, *access;
        uint64_t life;
        if (reg_httpc_read_all(t, REMOTE_TOKEN_ANSWER_BYTES_MAX, &body, err) < 0 ||
            cas_json_parse(body.data, body.len_bytes, REMOTE_TOKEN_ANSWER_BYTES_MAX, &j, err) < 0 ||
            cas_json_string_in(j, "token", &token, err) < 0 ||
            cas_json_string_in(j, "access_token", &access, err) < 0 ||
            cas_json_u64_in(j, "expires_in", TOKEN_LIFE_S, &life, err) < 0)
                return -(int)err->code;
        if (!token || !*token)
                token = access;
        if (!token_valid(token))
                return cas_fail(err, CAS_E_INVALID, "an answer without a token that can be used");
        life = cas_min_u64(life, TOKEN_LIFE_MAX_S);
        out->header = cas_xasprintf("Authorization: Bearer %s", token);
        /* A tenth is left for clocks, and for the request that it is sent with. */
        out->until_ns = remote_now_ns() + life * 900000000;
        OPENSSL_cleanse(body.data, body.len_bytes);
        return 0;
}

static int ask_once(struct reg_remote *r, const struct reg_challenge *c, const char *scope,
                    const struct reg_credentials *credentials, struct remote_token *out,
                    bool *transient, struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        int rc = credentials->identity_token ? ask_by_post(r, c, scope, credentials, &t, err)
                                             : ask_by_get(r, c, scope, credentials, &t, err);
        *transient = rc < 0 && (err->code == CAS_E_IO || err->code == CAS_E_LIMIT);
        if (rc < 0)
                return rc;
        unsigned status = reg_httpc_status(t);
        *transient = remote_is_transient(status);
        if (status == 429 || status == 503)
                return cas_fail(err, CAS_E_BUSY, "HTTP %u", status);
        if (status >= 500)
                return cas_fail(err, CAS_E_IO, "HTTP %u", status);
        if (status != 200)
                return cas_fail(err, CAS_E_DENIED, "HTTP %u%s", status,
                                credentials->user || credentials->identity_token
                                        ? ": the credentials are refused"
                                        : "");
        return take_token(t, out, err);
}

static int fetch_token(struct reg_remote *r, const struct reg_challenge *c, const char *scope,
                       const struct reg_credentials *credentials, char **header,
                       struct cas_err *err)
{
        struct remote_token *fresh = cas_xcalloc(1, sizeof(*fresh));
        cas_cleanup_free char *shown = httpc_url_shown(c->realm);
        int rc;
        for (unsigned attempt = 0;; attempt++) {
                bool transient = false;
                struct cas_err why = CAS_ERR_INIT;
                rc = ask_once(r, c, scope, credentials, fresh, &transient, &why);
                if (rc == 0 || !transient || attempt + 1 >= r->config.attempts) {
                        if (rc < 0)
                                *err = why;
                        break;
                }
                remote_pause(attempt, &(struct reg_remote_failure){0});
        }
        if (rc < 0) {
                token_free(fresh);
                return cas_err_wrap(err, "token server %s", shown);
        }
        fresh->scope = cas_xstrdup(scope);
        *header = cas_xstrdup(fresh->header);
        cache_token(r, fresh);
        return 0;
}

static void copy_challenge(struct reg_remote *r, struct reg_challenge *out)
{
        cas_mutex_lock(&r->mutex);
        out->kind = r->challenge.kind;
        out->realm = copy_of(r->challenge.realm);
        out->service = copy_of(r->challenge.service);
        cas_mutex_unlock(&r->mutex);
}

static int bearer_header(struct reg_remote *r, const struct reg_challenge *c,
                         const struct reg_remote_request *request, const char *wider,
                         const char *forget, char **header, struct cas_err *err)
{
        cas_cleanup_free char *scope = request_scope(request);
        if (wider && !strstr(scope, wider)) {
                char *both = *scope ? cas_xasprintf("%s %s", scope, wider) : cas_xstrdup(wider);
                free(scope);
                scope = both;
        }
        if (forget)
                forget_token(r, forget);
        cas_mutex_lock(&r->fetching);
        int rc = 0;
        *header = cached_token(r, scope);
        if (!*header) {
                reg_cleanup_credentials struct reg_credentials credentials = {0};
                rc = check_realm(r, c->realm, err);
                if (rc == 0)
                        rc = credentials_for(r, request->scope_repo ? request->scope_repo : "",
                                             &credentials, err);
                if (rc == 0)
                        rc = fetch_token(r, c, scope, &credentials, header, err);
        }
        cas_mutex_unlock(&r->fetching);
        return rc;
}

int remote_auth_header(struct reg_remote *r, const struct reg_remote_request *request,
                       const char *wider, const char *forget, char **header, struct cas_err *err)
{
        reg_cleanup_challenge struct reg_challenge c = {0};
        reg_cleanup_credentials struct reg_credentials credentials = {0};
        *header = NULL;
        copy_challenge(r, &c);
        switch (c.kind) {
        case REG_CHALLENGE_NONE:
                return 0;
        case REG_CHALLENGE_BEARER:
                return bearer_header(r, &c, request, wider, forget, header, err);
        case REG_CHALLENGE_BASIC:
                break;
        }
        if (credentials_for(r, request->scope_repo ? request->scope_repo : "", &credentials, err) <
            0)
                return -(int)err->code;
        *header = basic_header(&credentials);
        return 0;
}

int remote_auth_challenged(struct reg_remote *r, const struct reg_httpc_transfer *t, bool *asks,
                           char **wider, struct cas_err *err)
{
        reg_cleanup_challenge struct reg_challenge best = {0};
        const char *line;
        for (size_t i = 0; (line = reg_httpc_header_at(t, "WWW-Authenticate", i)); i++) {
                reg_cleanup_challenge struct reg_challenge c = {0};
                if (reg_challenge_parse(line, &c, err) < 0)
                        return cas_err_wrap(err, "%s", r->config.host);
                if (c.kind > best.kind) {
                        reg_challenge_release(&best);
                        best = c;
                        c = (struct reg_challenge){0};
                }
        }
        *asks = best.kind != REG_CHALLENGE_NONE;
        if (!*asks)
                return 0;
        *wider = cas_steal(&best.scope);
        cas_mutex_lock(&r->mutex);
        reg_challenge_release(&r->challenge);
        r->challenge = best;
        best = (struct reg_challenge){0};
        cas_mutex_unlock(&r->mutex);
        return 0;
}
