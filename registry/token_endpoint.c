/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/token_endpoint.h"

#include <stdio.h>
#include <strings.h>

#include "cas/json.h"
#include "cas/log.h"
#include "registry/access_int.h"
#include "registry/reg_clock.h"
#include "registry/reg_err.h"

#define FORM_BYTES_MAX REG_URI_BYTES_MAX /* it is read as a query */

static bool is_token_path(const struct reg_http_req *req)
{
        const struct reg_uri *uri = reg_http_uri(req);
        return uri->segment_count == 2 && strcmp(uri->segments[0], "v2") == 0 &&
               strcmp(uri->segments[1], "token") == 0;
}

/* ---- what is granted ---- */

/* The part of the scope that the user may have. */
static bool grant(struct reg_access *a, struct reg_grants *grants, const char *user,
                  struct reg_scope scope)
{
        if (scope.type == REG_SCOPE_REPOSITORY)
                scope.actions &= reg_rights_of(a->rights, user, scope.repo);
        return reg_grants_add(grants, &scope);
}

/* Every `scope` of the query, each one or several with spaces between. */
static int grant_all(struct reg_access *a, struct reg_grants *grants, const char *user,
                     const struct reg_uri *uri, struct cas_err *err)
{
        for (size_t i = 0; i < uri->param_count; i++) {
                if (strcmp(uri->params[i].name, "scope") != 0)
                        continue;
                for (const char *at = uri->params[i].value; *at;) {
                        struct reg_scope scope;
                        size_t len = strcspn(at, " ");
                        if (len > 0 && reg_scope_parse(at, len, &scope, err) < 0)
                                return -(int)err->code;
                        if (len > 0 && !grant(a, grants, user, scope))
                                return cas_fail(err, CAS_E_LIMIT, "more than %d scopes",
                                                REG_GRANTS_MAX);
                        at += len + (at[len] == ' ');
                }
        }
        return 0;
}

static void audit(struct reg_access *a, struct reg_http_req *req, const char *user,
                  const char *result, const char *why)
{
        char name[REG_AUDIT_BYTES], reason[REG_AUDIT_BYTES];
        if (a->settings->audit == REG_AUDIT_OFF ||
            (a->settings->audit == REG_AUDIT_CHANGES && !user[0] && strcmp(result, "allowed") == 0))
                return;
        cas_log(CAS_LOG_INFO, "audit", "what=token result=%s%s%s%s user=\"%s\" client=%s", result,
                why[0] ? " why=\"" : "", reg_audit_text(why, reason), why[0] ? "\"" : "",
                reg_audit_text(user, name), reg_http_client(req));
}

/* ---- answers ---- */

static void reply_token(struct reg_http_req *req, const char *token, const char *refresh,
                        uint64_t lifetime_s)
{
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        char issued[32];
        time_t now = (time_t)reg_clock_unix_s();
        struct tm parts;
        (void)gmtime_r(&now, &parts);
        (void)strftime(issued, sizeof(issued), "%Y-%m-%dT%H:%M:%SZ", &parts);
        cas_cleanup_json json_t *doc = json_pack(
                "{s:s, s:s, s:s, s:I, s:s}", "token", token, "access_token", token, "token_type",
                "Bearer", "expires_in", (json_int_t)lifetime_s, "issued_at", issued);
        cas_assert(doc != NULL);
        if (refresh)
                (void)json_object_set_new(doc, "refresh_token", json_string(refresh));
        cas_json_append(doc, &body);
        reg_http_reply_header(req, "Content-Type", "application/json");
        reg_http_reply_header(req, "Cache-Control", "no-store");
        reg_http_reply_buf(req, 200, &body);
}

static void reply_invalid(struct reg_access *a, struct reg_http_req *req, const char *user,
                          const struct cas_err *err)
{
        audit(a, req, user, "refused", err->msg);
        reg_reply_status(req, 400, "UNSUPPORTED", err->msg);
}

/* A token for the user ("": anonymous), who has proved to be it. */
static void give(struct reg_access *a, struct reg_http_req *req, const char *user,
                 const struct reg_uri *uri, bool refreshable)
{
        cas_cleanup_buf struct cas_buf token = CAS_BUF_INIT, refresh = CAS_BUF_INIT;
        struct cas_err err = CAS_ERR_INIT;
        struct cas_hash stamp;
        uint64_t lifetime_s;
        struct reg_grants *grants = reg_grants_new(true);
        int rc = grant_all(a, grants, user, uri, &err);
        if (rc == 0)
                rc = reg_tokens_issue(a->tokens, user, grants, &token, &lifetime_s, &err);
        reg_grants_unref(grants);
        refreshable = refreshable && a->htpasswd && reg_htpasswd_stamp(a->htpasswd, user, &stamp);
        if (rc == 0 && refreshable)
                rc = reg_tokens_issue_refresh(a->tokens, user, &stamp, &refresh, &err);
        if (rc < 0) {
                reply_invalid(a, req, user, &err);
                return;
        }
        audit(a, req, user, "allowed", "");
        reply_token(req, cas_buf_str(&token), refreshable ? cas_buf_str(&refresh) : NULL,
                    lifetime_s);
}

static void refuse(struct reg_access *a, struct reg_http_req *req, const char *user,
                   enum reg_verdict verdict)
{
        if (verdict == REG_LIMITED) {
                reg_access_retry_after(a, req, "");
                reg_reply_status(req, 429, "TOOMANYREQUESTS", "too many requests");
                return;
        }
        audit(a, req, user, "refused", "name or password");
        reg_http_reply_header(req, "WWW-Authenticate", "Basic realm=\"" REG_SERVICE_DEFAULT "\"");
        reg_reply_status(req, 401, "UNAUTHORIZED", "name or password is wrong");
}

/* ---- GET ---- */

static bool param_is(const struct reg_uri *uri, const char *name, const char *value)
{
        const char *text = reg_uri_param(uri, name);
        return text && strcmp(text, value) == 0;
}

/* False: to be done where blocking is allowed. */
static bool get(struct reg_access *a, struct reg_http_req *req, bool may_block)
{
        const char *header = reg_http_header(req, "Authorization");
        const char *basic = reg_access_scheme(header, "Basic");
        const struct reg_uri *uri = reg_http_uri(req);
        struct reg_identity who = {0};
        enum reg_verdict verdict = REG_UNAUTHORIZED;
        if (!header || basic)
                verdict = reg_access_basic(a, req, basic, may_block, &who);
        if (verdict == REG_LATER)
                return false;
        if (verdict == REG_ALLOWED)
                give(a, req, who.user, uri, param_is(uri, "offline_token", "true"));
        else
                refuse(a, req, "", verdict);
        return true;
}

static void get_blocking(void *arg, struct reg_http_req *req)
{
        bool done = get(arg, req, true);
        cas_assert(done);
}

/* ---- POST ---- */

static int form_parse(const struct cas_buf *body, struct reg_uri *out, struct cas_err *err)
{
        cas_cleanup_free char *target = cas_xasprintf("/?%s", cas_buf_str(body));
        if (strlen(target) != body->len_bytes + 2)
                return cas_fail(err, CAS_E_INVALID, "a NUL in the form");
        return reg_uri_parse(target, out, err);
}

static enum reg_verdict form_password(struct reg_access *a, struct reg_http_req *req,
                                      const struct reg_uri *form, char user[REG_USER_BYTES_MAX + 1])
{
        struct reg_credentials c;
        char client[REG_CLIENT_KEY_BYTES];
        const char *name = reg_uri_param(form, "username");
        const char *password = reg_uri_param(form, "password");
        if (!a->passwords || !name || !password || !reg_user_valid(name) ||
            strlen(password) > REG_PASSWORD_BYTES_MAX)
                return REG_UNAUTHORIZED;
        (void)snprintf(c.user, sizeof(c.user), "%s", name);
        (void)snprintf(c.password, sizeof(c.password), "%s", password);
        (void)snprintf(user, REG_USER_BYTES_MAX + 1, "%s", name);
        reg_client_key(reg_http_client(req), client);
        enum reg_verdict verdict = reg_passwords_check(a->passwords, &c, client, true);
        explicit_bzero(&c, sizeof(c));
        return verdict;
}

static enum reg_verdict form_refresh(struct reg_access *a, const struct reg_uri *form,
                                     char user[REG_USER_BYTES_MAX + 1])
{
        struct cas_err err = CAS_ERR_INIT;
        const char *token = reg_uri_param(form, "refresh_token");
        if (!a->htpasswd || !token ||
            reg_tokens_refresh_user(a->tokens, token, a->htpasswd, user, &err) < 0)
                return REG_UNAUTHORIZED;
        return REG_ALLOWED;
}

static void post_end(struct reg_http_req *req, void *state, const struct cas_buf *body)
{
        struct reg_access *a = state;
        struct cas_err err = CAS_ERR_INIT;
        char user[REG_USER_BYTES_MAX + 1] = "";
        enum reg_verdict verdict;
        reg_cleanup_uri struct reg_uri form = {0};
        if (form_parse(body, &form, &err) < 0) {
                reply_invalid(a, req, "", &err);
                return;
        }
        if (param_is(&form, "grant_type", "password")) {
                verdict = form_password(a, req, &form, user);
        } else if (param_is(&form, "grant_type", "refresh_token")) {
                verdict = form_refresh(a, &form, user);
        } else {
                (void)cas_fail(&err, CAS_E_INVALID, "grant_type: password or refresh_token");
                reply_invalid(a, req, "", &err);
                return;
        }
        if (verdict == REG_ALLOWED)
                give(a, req, user, &form, param_is(&form, "access_type", "offline"));
        else
                refuse(a, req, user, verdict);
}

static void post_too_long(struct reg_http_req *req, void *state CAS_UNUSED)
{
        reg_reply_code(req, REG_E_TOO_LARGE, "the form is too long");
}

static void post(struct reg_access *a, struct reg_http_req *req)
{
        static const struct reg_http_whole_ops ops = {
                .bytes_max = FORM_BYTES_MAX,
                .end = post_end,
                .too_long = post_too_long,
        };
        reg_http_accept_whole(req, &ops, a);
}

bool reg_token_serve(struct reg_access *a, struct reg_http_req *req)
{
        if (!a->checked || !a->tokens || !reg_tokens_ours(a->tokens) || !is_token_path(req))
                return false;
        reg_access_watch(a);
        if (!reg_access_take(a, req, "")) {
                refuse(a, req, "", REG_LIMITED);
        } else if (reg_http_method(req) == REG_HTTP_POST) {
                post(a, req);
        } else if (reg_http_method(req) != REG_HTTP_GET) {
                reg_http_reply_header(req, "Allow", "GET, POST");
                reg_reply_code(req, REG_E_UNSUPPORTED, "not possible here");
        } else if (!get(a, req, false)) {
                reg_http_defer(req, get_blocking, a);
        }
        return true;
}
