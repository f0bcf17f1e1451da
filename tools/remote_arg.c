/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/remote_arg.h"

#include <openssl/crypto.h>

#include "registry/authfile.h"
#include "tools/access.h"

int remote_address_parse(const char *text, struct remote_address *out, struct cas_err *err)
{
        const char *slash = strchr(text, '/');
        size_t len = slash ? (size_t)(slash - text) : 0;
        bool host = len > 0 && len < REMOTE_HOST_BYTES &&
                    (memchr(text, '.', len) || memchr(text, ':', len) ||
                     (len == 9 && strncmp(text, "localhost", 9) == 0));
        if (!host)
                return cas_fail(err, CAS_E_INVALID,
                                "%.200s names no registry: write HOST/NAME:TAG, such as "
                                "docker.io/library/alpine:3",
                                text);
        (void)snprintf(out->host, sizeof(out->host), "%.*s", (int)len, text);
        return cas_ref_parse(slash + 1, &out->ref, err);
}

const char *remote_reference(const struct remote_address *a, char out[CAS_DIGEST_TEXT_BYTES])
{
        if (a->ref.digest.alg == CAS_DIGEST_NONE)
                return a->ref.tag;
        return cas_digest_text(&a->ref.digest, out);
}

static bool says_no(const char *text)
{
        return strcmp(text, "no") == 0 || strcmp(text, "false") == 0;
}

int remote_args_check(const struct remote_args *a, struct cas_err *err)
{
        if (a->tls_verify && !says_no(a->tls_verify) && strcmp(a->tls_verify, "yes") != 0 &&
            strcmp(a->tls_verify, "true") != 0)
                return cas_fail(err, CAS_E_INVALID, "--tls-verify is yes or no");
        if (a->jobs > REG_TRANSFER_JOBS_MAX)
                return cas_fail(err, CAS_E_INVALID, "--jobs: at most %d", REG_TRANSFER_JOBS_MAX);
        if (a->password_stdin && !a->user)
                return cas_fail(err, CAS_E_INVALID, "--password-stdin needs --user");
        if (a->all_platforms && a->platform)
                return cas_fail(err, CAS_E_INVALID, "--platform or --all-platforms, not both");
        return 0;
}

/* The first line of standard input. */
static int read_password(char *out, size_t out_bytes, struct cas_err *err)
{
        size_t len = 0;
        ssize_t n;
        char c;
        while ((n = read(STDIN_FILENO, &c, 1)) == 1 && c != '\n') {
                if (len + 1 == out_bytes || c == 0)
                        return cas_fail(err, CAS_E_INVALID, "the password is too long");
                out[len++] = c;
        }
        if (len > 0 && out[len - 1] == '\r')
                len--;
        out[len] = 0;
        return 0;
}

static int add_given_user(json_t *call, const struct remote_args *a, struct cas_err *err)
{
        const char *colon = strchr(a->user, ':');
        cas_cleanup_free char *user =
                cas_xstrndup(a->user, colon ? (size_t)(colon - a->user) : strlen(a->user));
        char password[4096] = "";
        int rc = 0;
        if (a->password_stdin)
                rc = read_password(password, sizeof(password), err);
        else if (!colon)
                rc = cas_fail(err, CAS_E_INVALID,
                              "--user without a password: add --password-stdin");
        if (rc == 0)
                rc = access_arg(call, "user", user, err);
        if (rc == 0)
                rc = access_arg(call, "password", a->password_stdin ? password : colon + 1, err);
        OPENSSL_cleanse(password, sizeof(password));
        return rc;
}

static int add_credentials(json_t *call, const struct remote_args *a,
                           const struct remote_address *address, struct cas_err *err)
{
        reg_cleanup_credentials struct reg_credentials c = {0};
        if (a->user)
                return add_given_user(call, a, err);
        if (reg_authfile_find(a->authfile, address->host, address->ref.repo, &c, err) < 0 ||
            access_arg(call, "user", c.user, err) < 0 ||
            access_arg(call, "password", c.password, err) < 0 ||
            access_arg(call, "identityToken", c.identity_token, err) < 0)
                return -(int)err->code;
        return 0;
}

int remote_args_add(json_t *call, const struct remote_args *a, const struct remote_address *address,
                    struct cas_err *err)
{
        char text[CAS_DIGEST_TEXT_BYTES];
        if (remote_args_check(a, err) < 0 || access_arg(call, "host", address->host, err) < 0 ||
            access_arg(call, "repository", address->ref.repo, err) < 0 ||
            access_arg(call, "reference", remote_reference(address, text), err) < 0 ||
            access_arg(call, "platform", a->platform, err) < 0 ||
            add_credentials(call, a, address, err) < 0)
                return -(int)err->code;
        json_object_set_new(call, "allPlatforms", json_boolean(a->all_platforms));
        json_object_set_new(call, "referrers", json_boolean(a->referrers));
        json_object_set_new(call, "plainHttp", json_boolean(a->plain_http));
        json_object_set_new(call, "insecure",
                            json_boolean(a->tls_verify && says_no(a->tls_verify)));
        json_object_set_new(call, "jobs", json_integer((json_int_t)a->jobs));
        return 0;
}

int remote_client(bool insecure, unsigned jobs, struct reg_httpc **out, struct cas_err *err)
{
        unsigned connections = REG_TRANSFER_CONNECTIONS(jobs ? jobs : REG_TRANSFER_JOBS);
        struct reg_httpc_config config = {.connections_per_host = connections,
                                          .connections = 2 * connections,
                                          .host_certs = true,
                                          .insecure = insecure};
        return reg_httpc_new(&config, out, err);
}

void remote_result_add(json_t *into, const struct reg_transfer_result *r)
{
        json_object_set_new(into, "moved", json_integer((json_int_t)r->moved));
        json_object_set_new(into, "reused", json_integer((json_int_t)r->reused));
        json_object_set_new(into, "mounted", json_integer((json_int_t)r->mounted));
        json_object_set_new(into, "leftOut", json_integer((json_int_t)r->left_out));
        json_object_set_new(into, "bytes", json_integer((json_int_t)r->moved_bytes));
}
