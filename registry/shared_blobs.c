/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs at addresses that all repositories share: who asks a repository for one
 * is sent there, and a cache in front keeps it once, whatever repositories it is
 * pulled through. */
#include <time.h>

#include "registry/address.h"
#include "registry/registry_int.h"

struct reg_shared_blobs {
        const struct reg_cache_config *config; /* borrowed */
        struct reg_address_keys *keys;
};

int reg_shared_blobs_new(struct cas_store *s, const struct reg_cache_config *config,
                         struct reg_shared_blobs **out, struct cas_err *err)
{
        *out = NULL;
        if (!config || (config->redirect.count == 0 && !config->key_file))
                return 0;
        struct reg_address_keys *keys;
        int rc = reg_address_keys_open(s, config->key_file, &keys, err);
        if (rc < 0)
                return rc;
        *out = cas_xcalloc(1, sizeof(**out));
        (*out)->config = config;
        (*out)->keys = keys;
        return 0;
}

void reg_shared_blobs_free(struct reg_shared_blobs *b)
{
        if (!b)
                return;
        reg_address_keys_free(b->keys);
        free(b);
}

int reg_shared_blobs_reload(struct reg_shared_blobs *b, struct cas_err *err)
{
        return b ? reg_address_keys_reload(b->keys, err) : 0;
}

static uint64_t now_s(void)
{
        return (uint64_t)time(NULL);
}

static bool client_wants(const struct reg_cache_config *c, const char *client)
{
        if (c->redirect_networks.count > 0 &&
            !reg_networks_have_text(&c->redirect_networks, client))
                return false;
        return !reg_networks_have_text(&c->redirect_off_networks, client);
}

/* HEAD is never sent elsewhere: an answer of 307 to it breaks clients. */
static bool may_be_redirected(const struct reg_call *call)
{
        const struct reg_shared_blobs *b = call->registry->shared;
        return b && reg_http_method(call->req) == REG_HTTP_GET &&
               reg_globs_match(&b->config->redirect, call->route.repo);
}

static bool is_redirected(const struct reg_call *call)
{
        const struct reg_cache_config *c = call->registry->shared->config;
        return client_wants(c, reg_http_client(call->req)) &&
               (c->redirect_private || reg_access_public(call->registry->access, call->route.repo));
}

bool reg_shared_blob_redirect(struct reg_call *call, const struct cas_digest *digest,
                              uint64_t *out_bytes)
{
        struct cas_err err = CAS_ERR_INIT;
        char address[REG_ADDRESS_BYTES_MAX];
        if (!may_be_redirected(call))
                return false;
        call->keep = false; /* the answer depends on who asks, and when */
        if (!is_redirected(call) || cas_blob_stat(call->store, digest, out_bytes, &err) < 0)
                return false; /* what is lost is answered by who serves it */
        const struct reg_shared_blobs *b = call->registry->shared;
        const char *host = b->config->canonical_host;
        reg_address_make(b->keys, digest, now_s(), b->config->redirect_s, address);
        reg_http_reply_headerf(call->req, "Location", "%s%s", host ? host : "", address);
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 307);
        return true;
}

bool reg_shared_blob_serve(struct reg_registry *registry, struct reg_http_req *req)
{
        static const struct reg_identity anonymous;
        const struct reg_uri *uri = reg_http_uri(req);
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        struct reg_call call = {.registry = registry,
                                .store = registry->store,
                                .req = req,
                                .route.last = "",
                                .identity = &anonymous};
        struct reg_content content = {.digest = &digest, .media_type = "application/octet-stream"};
        if (!registry->shared || reg_address_parse(uri, &digest, &err) < 0)
                return false;
        enum reg_http_method method = reg_http_method(req);
        if (method != REG_HTTP_GET && method != REG_HTTP_HEAD) {
                reg_http_reply_header(req, "Allow", "GET, HEAD");
                reg_reply_code(req, REG_E_UNSUPPORTED, "not possible here");
        } else if (reg_address_check(registry->shared->keys, uri, &digest, now_s(), &err) < 0) {
                reg_reply_code(req, REG_E_DENIED, err.msg);
        } else {
                (void)reg_reply_content(&call, &content, REG_ABOUT_BLOB);
        }
        return true;
}
