/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts: a blob of another repository becomes one of this, without a byte sent.
 * Only from where the caller may pull: else whoever may push to one repository
 * could find out what is in all of them, and read it. What cannot be mounted,
 * for whatever reason, is a session to push it. */
#include <stdio.h>

#include "cas/shared.h"
#include "registry/uploads_int.h"

/* Without `from`, so many repositories are looked at. */
#define MOUNT_REPOS_MAX 4096

struct source {
        struct reg_call *call;
        const struct cas_digest *digest;
        unsigned looked;
        uint64_t bytes;
        char repo[CAS_REPO_NAME_BYTES_MAX + 1]; /* that has it; "": none */
        int rc;
        struct cas_err *err;
};

/* In the nodes' shared store, where there is one; there it stays for long enough. */
static int look_for(struct source *s, const char *repo, bool *linked)
{
        struct cas_err miss = CAS_ERR_INIT;
        if (!cas_store_shared(s->call->store))
                return cas_blob_linked(s->call->store, repo, s->digest, linked, s->err);
        int rc = cas_shared_hold_blob(s->call->store, repo, s->digest, &s->bytes, &miss);
        *linked = rc == 0;
        if (rc == 0 || rc == -CAS_E_NOTFOUND)
                return 0;
        *s->err = miss;
        return rc;
}

static bool look_in(void *arg, const char *repo)
{
        struct source *s = arg;
        bool linked = false;
        if (!reg_access_allows(s->call->registry->access, s->call->identity, repo, REG_ACTION_PULL))
                return true;
        s->rc = look_for(s, repo, &linked);
        if (s->rc == 0 && linked)
                (void)snprintf(s->repo, sizeof(s->repo), "%s", repo);
        return s->rc == 0 && !linked && ++s->looked < MOUNT_REPOS_MAX;
}

/* Where the blob may be mounted from: the repository that the request names, or any. */
static int find_source(struct source *s)
{
        const char *from = reg_uri_param(reg_http_uri(s->call->req), "from");
        if (from && from[0]) {
                if (cas_repo_name_valid(from))
                        (void)look_in(s, from);
                return s->rc;
        }
        (void)look_in(s, s->call->route.repo); /* the likeliest */
        if (s->rc < 0 || s->repo[0] || cas_store_shared(s->call->store))
                return s->rc; /* of what is shared, each look is a request */
        int rc = cas_repo_each(s->call->store, NULL, look_in, s, s->err);
        return rc < 0 ? rc : s->rc;
}

/* Links it, if it is there and its bytes are. */
static int link_blob(struct source *s, struct cas_publish *p, uint64_t *bytes, bool *mounted)
{
        struct cas_err miss = CAS_ERR_INIT;
        *mounted = false;
        int rc = find_source(s);
        if (rc < 0 || !s->repo[0])
                return rc;
        *bytes = s->bytes;
        if (!cas_store_shared(s->call->store))
                rc = cas_blob_stat(s->call->store, s->digest, bytes, &miss);
        if (rc == -CAS_E_NOTFOUND)
                return 0;
        if (rc < 0) {
                *s->err = miss;
                return rc;
        }
        const struct reg_registry *registry = s->call->registry;
        if (*bytes > reg_access_room(registry->access, s->call->identity, s->call->route.repo))
                return cas_fail(s->err, CAS_E_DENIED, REG_NO_ROOM);
        rc = cas_publish_blob_link(p, s->call->route.repo, s->digest, s->err);
        if (rc == 0)
                rc = cas_publish_commit(p, s->err);
        *mounted = rc == 0;
        return rc;
}

void reg_blob_mount(struct reg_call *call)
{
        struct cas_err err = CAS_ERR_INIT;
        struct cas_digest digest;
        cas_cleanup_publish struct cas_publish *p = NULL;
        uint64_t bytes = 0;
        bool mounted = false;
        if (!reg_query_digest(call, "mount", &digest))
                return;
        struct source source = {.call = call, .digest = &digest, .err = &err};
        int rc = cas_publish_begin(call->store, &p, &err);
        if (rc == 0) {
                cas_publish_renew_links(p);
                cas_publish_keep_blob(p, &digest); /* before the first look */
                rc = link_blob(&source, p, &bytes, &mounted);
        }
        if (rc < 0) {
                reg_reply_err(call->req, REG_ABOUT_BLOB, &err);
        } else if (mounted) {
                reg_call_tell(call, (struct reg_event){.kind = REG_EVENT_MOUNT_BLOB,
                                                       .digest = digest,
                                                       .from_repo = source.repo,
                                                       .media_type = "application/octet-stream",
                                                       .bytes = bytes});
                reg_blob_reply_created(call, &digest);
        } else if (reg_uri_param(reg_http_uri(call->req), "resume")) {
                reg_session_resume(call);
        } else {
                reg_session_begin(call);
        }
}
