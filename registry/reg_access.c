/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/access_int.h"

#include <stdatomic.h>
#include <stdio.h>
#include <strings.h>

#include "cas/log.h"
#include "registry/reg_clock.h"

/* Somebody who mistypes is let be; somebody who guesses is not. */
static const struct reg_rate failures_default = {.count = 10, .period_s = 60, .burst = 20};

/* ---- making it ---- */

static struct reg_limiter *limiter_of(const struct reg_rate *rate)
{
        return reg_limiter_new(rate->count, rate->period_s, rate->burst);
}

static void open_limits(struct reg_access *a, const struct reg_access_limits *limits)
{
        bool given = limits && limits->failed_logins.count;
        a->failures = limiter_of(given ? &limits->failed_logins : &failures_default);
        for (size_t i = 0; limits && i < limits->request_count; i++) {
                a->requests[i].limiter = limiter_of(&limits->requests[i]);
                a->requests[i].per_user = limits->requests[i].per_user;
                a->request_count++;
        }
        for (size_t i = 0; limits && i < limits->pull_count; i++) {
                a->pulls[i].limiter = limiter_of(&limits->pulls[i]);
                a->pulls[i].per_user = limits->pulls[i].per_user;
                a->pull_count++;
        }
}

static int open_parts(struct reg_access *a, const struct reg_access_config *config,
                      struct cas_err *err)
{
        const struct reg_access_settings *s = a->settings;
        int rc = 0;
        open_limits(a, config->limits);
        a->logins = reg_logins_new();
        if (config->groups && !config->rules)
                return cas_fail(err, CAS_E_INVALID, "[group %s] is in no [rule]",
                                config->groups->items[0].name);
        if (config->quotas)
                rc = reg_quotas_new(config->quotas, config->store, &a->quotas, err);
        if (rc < 0 || !a->checked)
                return rc;
        rc = reg_rights_new(config->rules, config->groups, &a->rights, err);
        if (rc == 0 && s->htpasswd)
                rc = reg_htpasswd_open(s->htpasswd, &a->htpasswd, err);
        if (rc == 0 && s->htpasswd)
                a->passwords = reg_passwords_new(a->htpasswd, a->logins, a->failures);
        if (rc == 0 && (s->issuer || s->token_keys || s->token_keys_url || !s->basic))
                rc = reg_tokens_new(s, config->store, a->logins, &a->tokens, err);
        return rc < 0 ? cas_err_wrap(err, "access") : 0;
}

int reg_access_new(const struct reg_access_config *config, struct reg_access **out,
                   struct cas_err *err)
{
        struct reg_access *a = cas_xcalloc(1, sizeof(*a));
        a->settings = config && config->settings ? config->settings : &a->defaults;
        a->checked = config && (config->settings || config->rules);
        int rc = config ? open_parts(a, config, err) : 0;
        if (rc < 0) {
                reg_access_free(a);
                return rc;
        }
        *out = a;
        return 0;
}

void reg_access_free(struct reg_access *a)
{
        if (!a)
                return;
        reg_quotas_free(a->quotas);
        reg_tokens_free(a->tokens);
        reg_passwords_free(a->passwords);
        reg_htpasswd_free(a->htpasswd);
        reg_logins_free(a->logins);
        reg_rights_free(a->rights);
        reg_limiter_free(a->failures);
        for (size_t i = 0; i < REG_RATES_MAX; i++) {
                reg_limiter_free(a->requests[i].limiter);
                reg_limiter_free(a->pulls[i].limiter);
        }
        free(a);
}

void reg_access_listen(struct reg_access *a, struct reg_events *events)
{
        if (a->quotas)
                reg_quotas_listen(a->quotas, events);
}

int reg_access_reload(struct reg_access *a, struct cas_err *err)
{
        struct cas_err other = CAS_ERR_INIT;
        int passwords = a->htpasswd ? reg_htpasswd_refresh(a->htpasswd, true, err) : 0;
        int tokens = a->tokens ? reg_tokens_reload(a->tokens, &other) : 0;
        if (passwords == 0 && tokens < 0)
                *err = other;
        return passwords < 0 ? passwords : tokens;
}

void reg_access_watch(struct reg_access *a)
{
        struct cas_err err = CAS_ERR_INIT;
        uint64_t now = reg_clock_s(), before = atomic_load(&a->watched_s);
        if (now == before || !atomic_compare_exchange_strong(&a->watched_s, &before, now))
                return;
        if (a->htpasswd) {
                uint64_t generation = reg_htpasswd_generation(a->htpasswd);
                if (reg_htpasswd_refresh(a->htpasswd, false, &err) < 0)
                        cas_log(CAS_LOG_ERROR, "access", "reload=failed message=\"%s\"", err.msg);
                else if (reg_htpasswd_generation(a->htpasswd) != generation)
                        cas_log(CAS_LOG_INFO, "access", "reload=ok what=htpasswd");
        }
        if (a->tokens)
                reg_tokens_watch(a->tokens);
}

/* ---- rates ---- */

/* Names cannot be taken for addresses. */
static void rate_key(bool per_user, const char *client, const char *user, char out[512])
{
        if (per_user && user[0])
                (void)snprintf(out, 512, "user %s", user);
        else
                (void)snprintf(out, 512, "%s", client);
}

/* Whether the last part but one of a target that is not split yet is this. */
static bool is_below(const char *target, const char *part)
{
        size_t len = strcspn(target, "?"), part_len = strlen(part);
        const char *last = memrchr(target, '/', len);
        return last && (size_t)(last - target) > part_len && last[-1 - (ssize_t)part_len] == '/' &&
               memcmp(last - part_len, part, part_len) == 0;
}

/* What is answered from memory is asked about before its target is split; only targets that are
 * written in the usual way are answered so. */
static bool is_manifest_pull(const struct reg_http_req *req)
{
        const struct reg_uri *uri = reg_http_uri(req);
        if (reg_http_method(req) != REG_HTTP_GET)
                return false;
        if (uri->segment_count == 0)
                return is_below(reg_http_target(req), "manifests");
        return uri->segment_count >= 3 &&
               strcmp(uri->segments[uri->segment_count - 2], "manifests") == 0;
}

bool reg_access_take(struct reg_access *a, const struct reg_http_req *req, const char *user)
{
        char client[REG_CLIENT_KEY_BYTES], key[512];
        uint64_t now = reg_clock_ns(), wait_ns;
        if (a->request_count == 0 && a->pull_count == 0)
                return true;
        reg_client_key(reg_http_client(req), client);
        for (size_t i = 0; i < a->request_count; i++) {
                rate_key(a->requests[i].per_user, client, user, key);
                if (!reg_limiter_take(a->requests[i].limiter, key, now, &wait_ns))
                        return false;
        }
        for (size_t i = 0; i < a->pull_count && is_manifest_pull(req); i++) {
                rate_key(a->pulls[i].per_user, client, user, key);
                if (!reg_limiter_take(a->pulls[i].limiter, key, now, &wait_ns))
                        return false;
        }
        return true;
}

void reg_access_retry_after(struct reg_access *a, struct reg_http_req *req, const char *user)
{
        char client[REG_CLIENT_KEY_BYTES], key[512];
        uint64_t now = reg_clock_ns(), wait_ns = 0;
        reg_client_key(reg_http_client(req), client);
        if (a->failures && !user[0])
                wait_ns = reg_limiter_wait_ns(a->failures, client, now);
        for (size_t i = 0; i < a->request_count; i++) {
                rate_key(a->requests[i].per_user, client, user, key);
                wait_ns =
                        cas_max_u64(wait_ns, reg_limiter_wait_ns(a->requests[i].limiter, key, now));
        }
        for (size_t i = 0; i < a->pull_count && is_manifest_pull(req); i++) {
                rate_key(a->pulls[i].per_user, client, user, key);
                wait_ns = cas_max_u64(wait_ns, reg_limiter_wait_ns(a->pulls[i].limiter, key, now));
        }
        reg_http_reply_headerf(req, "Retry-After", "%llu",
                               (unsigned long long)(wait_ns / 1000000000 + 1));
}

/* ---- who asks ---- */

const char *reg_access_scheme(const char *header, const char *scheme)
{
        size_t len = strlen(scheme);
        if (!header || strncasecmp(header, scheme, len) != 0 || header[len] != ' ')
                return NULL;
        return header + len + strspn(header + len, " ");
}

/* A client without a user's name says so by an empty one, with an empty password. */
static enum reg_verdict check_password(struct reg_access *a, const struct reg_http_req *req,
                                       const struct reg_credentials *c, bool may_block)
{
        char client[REG_CLIENT_KEY_BYTES];
        if (!c->user[0])
                return c->password[0] ? REG_UNAUTHORIZED : REG_ALLOWED;
        if (!a->passwords)
                return REG_UNAUTHORIZED;
        reg_client_key(reg_http_client(req), client);
        return reg_passwords_check(a->passwords, c, client, may_block);
}

enum reg_verdict reg_access_basic(struct reg_access *a, const struct reg_http_req *req,
                                  const char *credentials, bool may_block, struct reg_identity *out)
{
        struct reg_credentials c;
        *out = (struct reg_identity){0};
        if (!credentials) {
                const char *name =
                        a->settings->certificates ? reg_http_client_cert_name(req) : NULL;
                if (name && reg_user_valid(name))
                        (void)snprintf(out->user, sizeof(out->user), "%s", name);
                return REG_ALLOWED;
        }
        if (!reg_credentials_parse(credentials, &c))
                return REG_UNAUTHORIZED;
        enum reg_verdict verdict = check_password(a, req, &c, may_block);
        if (verdict == REG_ALLOWED)
                (void)snprintf(out->user, sizeof(out->user), "%s", c.user);
        explicit_bzero(&c, sizeof(c));
        return verdict;
}

const char *reg_audit_text(const char *text, char out[REG_AUDIT_BYTES])
{
        size_t i = 0;
        for (; text[i] && i < REG_AUDIT_BYTES - 1; i++) {
                char c = text[i];
                out[i] = (unsigned char)c < ' ' || c == '"' || c == '\\' || c == 0x7f ? '?' : c;
        }
        out[i] = '\0';
        return out;
}

enum reg_verdict reg_access_identify(struct reg_access *a, const struct reg_http_req *req,
                                     bool may_block, struct reg_identity *out)
{
        const char *header = reg_http_header(req, "Authorization");
        *out = (struct reg_identity){0};
        if (!a->checked)
                return REG_ALLOWED;
        reg_access_watch(a);
        const char *token = reg_access_scheme(header, "Bearer");
        if (token && a->tokens)
                return reg_tokens_identify(a->tokens, token, may_block, out);
        const char *basic = reg_access_scheme(header, "Basic");
        if (header && !basic)
                return REG_UNAUTHORIZED;
        return reg_access_basic(a, req, basic, may_block, out);
}

/* ---- what they may do ---- */

static unsigned actions_of(const struct reg_access *a, const struct reg_identity *identity,
                           const char *repo)
{
        if (!identity->grants)
                return reg_rights_of(a->rights, identity->user, repo);
        unsigned granted = reg_grants_of(identity->grants, repo);
        if (granted && reg_grants_ours(identity->grants))
                granted &= reg_rights_of(a->rights, identity->user, repo);
        return granted;
}

/* The API as such (no action), or the catalog (pull), which shows what may be pulled. */
static enum reg_verdict decide_general(const struct reg_access *a,
                                       const struct reg_identity *identity, unsigned actions)
{
        if (identity->grants)
                return actions == 0 || reg_grants_catalog(identity->grants) ? REG_ALLOWED
                                                                            : REG_UNAUTHORIZED;
        if (identity->user[0])
                return REG_ALLOWED;
        bool lists = actions != 0 && a->settings->basic && reg_rights_any_public(a->rights);
        return lists ? REG_ALLOWED : REG_UNAUTHORIZED;
}

static enum reg_verdict decide(const struct reg_access *a, const struct reg_identity *identity,
                               const char *repo, unsigned actions)
{
        if (!a->checked)
                return REG_ALLOWED;
        if (!repo)
                return decide_general(a, identity, actions);
        if ((actions_of(a, identity, repo) & actions) == actions)
                return REG_ALLOWED;
        if (!identity->user[0])
                return REG_UNAUTHORIZED;
        /* another token may do, but not where the rules forbid it to the user */
        bool token_lacks = identity->grants &&
                           (!reg_grants_ours(identity->grants) ||
                            (reg_rights_of(a->rights, identity->user, repo) & actions) == actions);
        return token_lacks ? REG_UNAUTHORIZED : REG_FORBIDDEN;
}

/* Whether the request is told: each refusal, and what changes something. */
static bool is_told(const struct reg_access *a, const struct reg_http_req *req,
                    const struct reg_identity *identity, enum reg_verdict verdict, const char *repo)
{
        if (a->settings->audit != REG_AUDIT_CHANGES || !a->checked)
                return a->checked && a->settings->audit == REG_AUDIT_ALL;
        if (verdict != REG_ALLOWED) /* but for the question how to prove who one is */
                return repo || identity->user[0] || identity->grants;
        switch (reg_http_method(req)) {
        case REG_HTTP_PUT:
        case REG_HTTP_POST:
        case REG_HTTP_DELETE:
                return repo != NULL;
        case REG_HTTP_GET:
        case REG_HTTP_HEAD:
        case REG_HTTP_PATCH: /* one of many pieces; the PUT is told */
        case REG_HTTP_OTHER:
                return false;
        }
        return false;
}

static const char *method_name(enum reg_http_method method)
{
        static const char *const names[] = {
                [REG_HTTP_GET] = "GET",     [REG_HTTP_HEAD] = "HEAD",
                [REG_HTTP_POST] = "POST",   [REG_HTTP_PUT] = "PUT",
                [REG_HTTP_PATCH] = "PATCH", [REG_HTTP_DELETE] = "DELETE",
                [REG_HTTP_OTHER] = "other",
        };
        return names[method];
}

static void audit(struct reg_access *a, const struct reg_http_req *req,
                  const struct reg_identity *identity, const char *repo, unsigned actions,
                  enum reg_verdict verdict)
{
        cas_cleanup_buf struct cas_buf wanted = CAS_BUF_INIT;
        char user[REG_AUDIT_BYTES], target[REG_AUDIT_BYTES];
        const char *why = "";
        if (!is_told(a, req, identity, verdict, repo))
                return;
        if (verdict == REG_FORBIDDEN)
                why = " why=rules";
        else if (verdict == REG_UNAUTHORIZED)
                why = identity->grants ? " why=token" : " why=anonymous";
        reg_actions_text(actions, &wanted);
        cas_log(CAS_LOG_INFO, "audit",
                "what=%s result=%s%s user=\"%s\" client=%s repository=\"%s\" method=%s "
                "target=\"%s\"",
                actions ? cas_buf_str(&wanted) : "api",
                verdict == REG_ALLOWED ? "allowed" : "refused", why,
                reg_audit_text(identity->user, user), reg_http_client(req), repo ? repo : "",
                method_name(reg_http_method(req)), reg_audit_text(reg_http_target(req), target));
}

enum reg_verdict reg_access_check(struct reg_access *a, const struct reg_http_req *req,
                                  const struct reg_identity *identity, const char *repo,
                                  unsigned actions)
{
        if (!reg_access_take(a, req, identity->user))
                return REG_LIMITED;
        if (!a->checked)
                return REG_ALLOWED;
        enum reg_verdict verdict = decide(a, identity, repo, actions);
        audit(a, req, identity, repo, actions, verdict);
        return verdict;
}

bool reg_access_allows(struct reg_access *a, const struct reg_identity *identity, const char *repo,
                       unsigned actions)
{
        return decide(a, identity, repo, actions) == REG_ALLOWED;
}

bool reg_access_lists(struct reg_access *a, const struct reg_identity *identity, const char *repo)
{
        if (!a->checked)
                return true;
        if (identity->grants && reg_grants_catalog(identity->grants)) {
                if (!reg_grants_ours(identity->grants))
                        return true;
                return (reg_rights_of(a->rights, identity->user, repo) & REG_ACTION_PULL) != 0;
        }
        return (actions_of(a, identity, repo) & REG_ACTION_PULL) != 0;
}

bool reg_access_public(struct reg_access *a, const char *repo)
{
        if (!a->checked)
                return true;
        return repo && (reg_rights_of(a->rights, "", repo) & REG_ACTION_PULL) != 0;
}

uint64_t reg_access_room(struct reg_access *a, const struct reg_identity *identity CAS_UNUSED,
                         const char *repo)
{
        return a->quotas ? reg_quotas_room(a->quotas, repo) : UINT64_MAX;
}

void reg_access_uploaded(struct reg_access *a, const char *repo, uint64_t add, uint64_t sub)
{
        if (a->quotas)
                reg_quotas_uploaded(a->quotas, repo, add, sub);
}
