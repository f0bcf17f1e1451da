/* SPDX-License-Identifier: Apache-2.0 */
/* What is said to those who are refused: how to prove who they are, when to come
 * again, or that it is of no use. */
#include "cas/log.h"
#include "registry/access_int.h"
#include "registry/reg_err.h"
#include "registry/token_endpoint.h"

void reg_challenge_scope(const char *repo, unsigned actions, struct cas_buf *out)
{
        if (!repo) {
                cas_buf_append_str(out, "registry:catalog:*");
                return;
        }
        /* who pushes looks first at what is there */
        if (actions & REG_ACTION_PUSH)
                actions |= REG_ACTION_PULL;
        cas_buf_printf(out, "repository:%s:", repo);
        reg_actions_text(actions, out);
}

/* What may stand in Host, and goes into a header of ours. */
static bool host_valid(const char *host)
{
        size_t len = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789.-_:[]");
        return len > 0 && len <= 255 && !host[len];
}

void reg_challenge_realm(const struct reg_access *a, const struct reg_http_req *req,
                         struct cas_buf *out)
{
        const char *host = reg_http_header(req, "Host");
        if (a->settings->realm)
                cas_buf_append_str(out, a->settings->realm);
        else if (host && host_valid(host))
                cas_buf_printf(out, "%s://%s%s", reg_http_is_https(req) ? "https" : "http", host,
                               REG_TOKEN_PATH);
        else
                cas_buf_append_str(out, REG_TOKEN_PATH);
}

static void challenge_bearer(struct reg_access *a, struct reg_http_req *req,
                             const struct reg_identity *identity, const char *repo,
                             unsigned actions)
{
        cas_cleanup_buf struct cas_buf text = CAS_BUF_INIT;
        const char *service = a->settings->service ? a->settings->service : REG_SERVICE_DEFAULT;
        cas_buf_append_str(&text, "Bearer realm=\"");
        reg_challenge_realm(a, req, &text);
        cas_buf_printf(&text, "\",service=\"%s\"", service);
        if (actions) {
                cas_buf_append_str(&text, ",scope=\"");
                reg_challenge_scope(repo, actions, &text);
                cas_buf_append_str(&text, "\"");
        }
        if (identity && identity->grants)
                cas_buf_append_str(&text, ",error=\"insufficient_scope\"");
        else if (reg_access_scheme(reg_http_header(req, "Authorization"), "Bearer"))
                cas_buf_append_str(&text, ",error=\"invalid_token\"");
        reg_http_reply_header(req, "WWW-Authenticate", cas_buf_str(&text));
}

void reg_access_disbelieved(struct reg_access *a, const struct reg_http_req *req)
{
        const char *header = reg_http_header(req, "Authorization");
        char target[REG_AUDIT_BYTES], why[REG_AUDIT_BYTES];
        struct cas_err err = CAS_ERR_INIT;
        const char *token = reg_access_scheme(header, "Bearer");
        if (!header || a->settings->audit == REG_AUDIT_OFF)
                return;
        if (token && a->tokens)
                reg_tokens_why(a->tokens, token, &err);
        else if (token || !reg_access_scheme(header, "Basic"))
                (void)cas_fail(&err, CAS_E_DENIED, "the scheme is not taken");
        else
                (void)cas_fail(&err, CAS_E_DENIED, "name or password");
        cas_log(CAS_LOG_INFO, "audit",
                "what=login result=refused why=\"%s\" client=%s target=\"%s\"",
                reg_audit_text(err.msg, why), reg_http_client(req),
                reg_audit_text(reg_http_target(req), target));
}

static void refuse_unknown(struct reg_access *a, struct reg_http_req *req,
                           const struct reg_identity *identity, const char *repo, unsigned actions)
{
        const char *realm = a->settings->realm ? a->settings->realm : REG_SERVICE_DEFAULT;
        if (a->settings->basic)
                reg_http_reply_headerf(req, "WWW-Authenticate", "Basic realm=\"%s\"", realm);
        else
                challenge_bearer(a, req, identity, repo, actions);
        reg_reply_status(req, 401, "UNAUTHORIZED", "authentication required");
}

void reg_access_refuse(struct reg_access *a, struct reg_http_req *req,
                       const struct reg_identity *identity, enum reg_verdict verdict,
                       const char *repo, unsigned actions)
{
        cas_assert(verdict != REG_ALLOWED);
        cas_assert(verdict != REG_LATER);
        if (verdict == REG_LIMITED) {
                reg_access_retry_after(a, req, identity ? identity->user : "");
                reg_reply_status(req, 429, "TOOMANYREQUESTS", "too many requests");
        } else if (verdict == REG_FORBIDDEN) {
                reg_reply_code(req, REG_E_DENIED, "not permitted to this user");
        } else {
                refuse_unknown(a, req, identity, repo, actions);
        }
}
