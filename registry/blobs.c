/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs of a repository: reading and unlinking. A blob that the store has is
 * served only where it is linked: names are what access is granted by. */
#include "registry/registry_int.h"

/* The blob that the path names, and that the repository links. False: answered. */
static bool find_linked(struct reg_call *call, struct cas_digest *out)
{
        struct cas_err err = CAS_ERR_INIT;
        bool linked = false;
        if (cas_digest_parse(call->route.last, out, &err) < 0 ||
            cas_blob_linked(call->store, call->route.repo, out, &linked, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
                return false;
        }
        if (!linked)
                reg_reply_code(call->req, REG_E_BLOB_UNKNOWN, "the repository has no such blob");
        return linked;
}

static void serve_blob(struct reg_call *call)
{
        struct cas_digest digest;
        struct reg_content content = {
                .pull = REG_EVENT_PULL_BLOB,
                .digest = &digest,
                .media_type = "application/octet-stream",
        };
        if (!find_linked(call, &digest))
                return;
        if (call->registry->shared)
                call->keep = false; /* it depends on who asks */
        if (reg_shared_blob_redirect(call, &digest, &content.size_bytes) ||
            reg_reply_content(call, &content, REG_ABOUT_BLOB))
                reg_call_tell(call, (struct reg_event){.kind = REG_EVENT_PULL_BLOB,
                                                       .digest = digest,
                                                       .media_type = content.media_type,
                                                       .bytes = content.size_bytes});
}

/* Who is told that a blob is here does not push it: it stays for long enough to be named. */
static void renew_work(struct reg_call *call)
{
        struct cas_digest digest;
        struct cas_err err = CAS_ERR_INIT;
        if (cas_digest_parse(call->route.last, &digest, &err) < 0 ||
            cas_blob_renew(call->store, call->route.repo, &digest, &err) < 0)
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
        else
                serve_blob(call);
}

void reg_blob_get(struct reg_call *call)
{
        struct cas_digest digest;
        struct cas_err err = CAS_ERR_INIT;
        bool waits = false;
        if (cas_digest_parse(call->route.last, &digest, &err) < 0 ||
            cas_blob_waits(call->store, call->route.repo, &digest, &waits, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
                return;
        }
        if (waits)
                call->keep = false; /* each who asks begins its grace anew */
        if (waits && reg_http_method(call->req) == REG_HTTP_HEAD)
                reg_call_work(call, renew_work);
        else
                serve_blob(call);
}

static int unlink_blob(struct reg_call *call, const struct cas_digest *digest, struct cas_err *err)
{
        cas_cleanup_publish struct cas_publish *p = NULL;
        int rc = cas_publish_begin(call->store, &p, err);
        if (rc == 0)
                rc = cas_publish_blob_unlink(p, call->route.repo, digest, err);
        if (rc == 0)
                rc = cas_publish_commit(p, err);
        return rc;
}

static void blob_delete_work(struct reg_call *call)
{
        struct cas_digest digest;
        struct cas_err err = CAS_ERR_INIT;
        if (!find_linked(call, &digest))
                return;
        if (unlink_blob(call, &digest, &err) < 0) {
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
                return;
        }
        reg_call_tell(call, (struct reg_event){.kind = REG_EVENT_DELETE_BLOB, .digest = digest});
        reg_http_reply_header(call->req, "Cache-Control", REG_CACHE_NONE);
        reg_http_reply_empty(call->req, 202);
}

void reg_blob_delete(struct reg_call *call)
{
        reg_call_work(call, blob_delete_work);
}
