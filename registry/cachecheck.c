/* SPDX-License-Identifier: Apache-2.0 */
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/random.h>

#include "cas/json.h"
#include "cas/names.h"
#include "registry/cachecheck_int.h"
#include "registry/challenge.h"

#define UNMOVED_TIMEOUT_MS 30000
#define TOKEN_BYTES_MAX ((size_t)64 * 1024)

/* What is pushed. */

static void content_named(struct reg_check *c, struct reg_check_content *content, const char *noun)
{
        struct cas_digest digest;
        cas_digest_of(CAS_DIGEST_SHA256, content->bytes.data, content->bytes.len_bytes, &digest);
        cas_digest_text(&digest, content->digest);
        content->path = cas_xasprintf("/v2/%s/%s/%s", c->repo, noun, content->digest);
}

/* Words after a line that nobody else has: what is compressible shows who compresses. */
static void make_blob(struct reg_check *c, const char *id)
{
        struct cas_buf *b = &c->blob.bytes;
        cas_buf_printf(b, "lamina --check-cdn %s\n", id);
        for (unsigned i = 0; b->len_bytes < REG_CHECK_BLOB_BYTES; i++)
                cas_buf_printf(b, "line %u of content that comes through the cache\n", i);
        b->len_bytes = REG_CHECK_BLOB_BYTES;
        content_named(c, &c->blob, "blobs");
}

/* The blob stands for config and layer alike: it is never unpacked. */
static void make_manifest(struct reg_check *c, unsigned which, const char *id)
{
        struct cas_buf *b = &c->manifests[which].bytes;
        cas_buf_printf(b,
                       "{\"schemaVersion\":2,"
                       "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
                       "\"artifactType\":\"application/vnd.lamina.check\","
                       "\"config\":{\"mediaType\":\"application/vnd.lamina.check\","
                       "\"digest\":\"%s\",\"size\":%zu},\"layers\":[],"
                       "\"annotations\":{\"lamina.check\":\"%s %u\",\"padding\":\"",
                       c->blob.digest, c->blob.bytes.len_bytes, id, which);
        for (unsigned i = 0; i < 100; i++) /* enough that a proxy would compress it */
                cas_buf_append_str(b, "manifests are not compressed ");
        cas_buf_append_str(b, "\"}}");
        content_named(c, &c->manifests[which], "manifests");
}

static void prepare(struct reg_check *c)
{
        uint8_t random[8];
        char id[2 * sizeof(random) + 1];
        cas_assert(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                (void)snprintf(id + 2 * i, 3, "%02x", random[i]);
        c->repo = c->config->repo ? cas_xstrdup(c->config->repo)
                                  : cas_xasprintf("lamina-check/%s", id);
        c->tag = cas_xasprintf("lamina-check-%s", id);
        c->tag_path = cas_xasprintf("/v2/%s/manifests/%s", c->repo, c->tag);
        make_blob(c, id);
        make_manifest(c, 0, id);
        make_manifest(c, 1, id);
}

/* Who asks */

static char *basic_authorization(const struct reg_check *c)
{
        cas_cleanup_free char *plain = cas_xasprintf(
                "%s:%s", c->config->user, c->config->password ? c->config->password : "");
        size_t len = strlen(plain);
        cas_cleanup_free char *coded = cas_xmalloc(4 * (len / 3 + 1) + 1);
        (void)EVP_EncodeBlock((unsigned char *)coded, (const unsigned char *)plain, (int)len);
        return cas_xasprintf("Authorization: Basic %s", coded);
}

/* A token for everything that is done to the repository. */
static int fetch_token(struct reg_check *c, const struct reg_challenge *challenge,
                       struct cas_err *err)
{
        cas_cleanup_free char *basic = basic_authorization(c);
        cas_cleanup_free char *url =
                cas_xasprintf("%s%cservice=%s&scope=repository:%s:pull,push,delete",
                              challenge->realm, strchr(challenge->realm, '?') ? '&' : '?',
                              challenge->service ? challenge->service : "", c->repo);
        reg_cleanup_answer struct reg_check_answer a = {0};
        struct reg_check_ask get = {
                .method = "GET", .path = url, .headers = {basic}, .anonymous = true};
        cas_cleanup_json json_t *doc = NULL;
        const char *token = NULL;
        int rc = reg_check_ask(c, &get, &a, err);
        if (rc == 0 && a.status != 200)
                rc = cas_fail(err, CAS_E_INVALID, "%s: status %u", challenge->realm, a.status);
        if (rc == 0)
                rc = cas_json_parse(a.body.data, a.body.len_bytes, TOKEN_BYTES_MAX, &doc, err);
        if (rc == 0)
                rc = cas_json_string_in(doc, "token", &token, err);
        if (rc == 0 && !token)
                rc = cas_json_string_in(doc, "access_token", &token, err);
        if (rc == 0 && !token)
                rc = cas_fail(err, CAS_E_INVALID, "%s: no token", challenge->realm);
        if (rc == 0)
                c->authorization = cas_xasprintf("Authorization: Bearer %s", token);
        return rc;
}

/* A realm that only the inside knows sends clients nowhere, or their passwords in the clear. */
static void judge_realm(struct reg_check *c, const char *realm)
{
        bool https = strncmp(c->base, "https://", 8) == 0;
        if (https && strncmp(realm, "https://", 8) != 0)
                reg_check_wrong(c, "realm",
                                "pass Host and X-Forwarded-Proto on, and let the registry trust "
                                "the proxy ([registry] trusted_proxies)",
                                "tokens are to be fetched from %.200s: not over https", realm);
}

static int authorize(struct reg_check *c, struct cas_err *err)
{
        reg_cleanup_answer struct reg_check_answer a = {0};
        int rc =
                reg_check_ask(c, &(struct reg_check_ask){.method = "GET", .path = "/v2/"}, &a, err);
        if (rc < 0)
                return rc;
        if (a.status != 200 && a.status != 401)
                return cas_fail(err, CAS_E_INVALID, "%s/v2/: status %u: this is no registry",
                                c->base, a.status);
        reg_cleanup_challenge struct reg_challenge challenge = {0};
        rc = reg_challenge_parse(reg_check_header(&a, "WWW-Authenticate"), &challenge, err);
        if (rc < 0)
                return rc;
        if (challenge.kind == REG_CHALLENGE_BEARER)
                judge_realm(c, challenge.realm);
        if (!c->config->user)
                return a.status == 401 ? cas_fail(err, CAS_E_INVALID,
                                                  "it wants to know who asks: give --user and "
                                                  "--password-file")
                                       : 0;
        if (challenge.kind == REG_CHALLENGE_BEARER)
                return fetch_token(c, &challenge, err);
        c->authorization = basic_authorization(c);
        return 0;
}

/* The checks, in order: the first pushes what those after it pull, the last moves the tag. */
static const struct {
        const char *name;
        int (*run)(struct reg_check *c, struct cas_err *err);
} checks[] = {
        {"content", reg_check_content},
        {"head", reg_check_head},
        {"redirect", reg_check_redirect},
        {"compression", reg_check_compression},
        {"range", reg_check_range},
        {"ranges", reg_check_ranges},
        {"revalidation", reg_check_revalidation},
        {"private", reg_check_private},
        {"header-size", reg_check_large_headers},
        {"location", reg_check_location_given},
        {"upload-size", reg_check_large_upload},
        {"moved-tag", reg_check_moved_tag},
};

static void run_checks(struct reg_check *c)
{
        for (size_t i = 0; i < CAS_COUNT(checks); i++) {
                struct cas_err err = CAS_ERR_INIT;
                if (checks[i].run(c, &err) < 0)
                        reg_check_wrong(c, checks[i].name, NULL, "%s", err.msg);
        }
}

static void check_release(struct reg_check *c)
{
        struct reg_check_content *contents[] = {&c->blob, &c->manifests[0], &c->manifests[1]};
        for (size_t i = 0; i < CAS_COUNT(contents); i++) {
                cas_buf_release(&contents[i]->bytes);
                free(contents[i]->path);
        }
        free(c->base);
        free(c->repo);
        free(c->tag);
        free(c->tag_path);
        free(c->authorization);
        if (c->http)
                reg_httpc_free(c->http);
}

/* Scheme and host alone: the registry's paths begin at the root. */
static int read_url(const char *url, char **out, struct cas_err *err)
{
        size_t scheme = strncmp(url, "https://", 8) == 0  ? 8
                        : strncmp(url, "http://", 7) == 0 ? 7
                                                          : 0;
        size_t host = scheme ? strcspn(url + scheme, "/?#") : 0;
        const char *rest = url + scheme + host;
        if (host == 0 || (rest[0] && strcmp(rest, "/") != 0 && strcmp(rest, "/v2/") != 0 &&
                          strcmp(rest, "/v2") != 0))
                return cas_fail(err, CAS_E_INVALID,
                                "not the address of a registry such as https://example.com: %.200s",
                                url);
        *out = cas_xasprintf("%.*s", (int)(scheme + host), url);
        return 0;
}

int reg_cachecheck_run(const struct reg_cachecheck_config *config,
                       void (*tell)(void *arg, const struct reg_finding *finding), void *arg,
                       unsigned *out_wrong, struct cas_err *err)
{
        struct reg_check c = {.config = config, .tell = tell, .tell_arg = arg};
        struct reg_httpc_config http = {.idle_timeout_ms = UNMOVED_TIMEOUT_MS,
                                        .http1_only = true,
                                        .insecure = config->insecure};
        int rc = 0;
        if (config->repo && !cas_repo_name_valid(config->repo))
                rc = cas_fail(err, CAS_E_INVALID, "not the name of a repository: %.128s",
                              config->repo);
        if (rc == 0)
                rc = read_url(config->url, &c.base, err);
        if (rc == 0)
                rc = reg_httpc_new(&http, &c.http, err);
        if (rc == 0) {
                prepare(&c);
                rc = authorize(&c, err);
        }
        if (rc == 0) {
                rc = reg_check_missing(&c, err);
                if (rc == 0)
                        run_checks(&c);
                reg_check_clean(&c);
        }
        *out_wrong = c.wrong;
        check_release(&c);
        return rc;
}
