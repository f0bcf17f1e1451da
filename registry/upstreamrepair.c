/* SPDX-License-Identifier: Apache-2.0 */
/* A blob that is damaged here is asked for where its repository comes from. */
#include "registry/registry.h"
#include "registry/upstream_int.h"

#define PIECE_BYTES (128 * 1024)

int reg_blob_take(struct reg_remote *remote, const char *repo, const struct cas_digest *digest,
                  struct cas_publish *p, struct cas_err *err)
{
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        struct reg_remote_failure failure;
        cas_cleanup_free uint8_t *buf = cas_xmalloc(PIECE_BYTES);
        uint64_t bytes;
        size_t n = 0;
        int rc = reg_remote_blob_open(remote, repo, digest, 0, &blob, &bytes, &failure, err);
        if (rc == 0)
                rc = cas_publish_blob_begin(p, digest->alg, err);
        do {
                if (rc == 0)
                        rc = reg_remote_blob_read(blob, buf, PIECE_BYTES, &n, err);
                if (rc == 0 && n > 0)
                        rc = cas_publish_blob_write(p, buf, n, err);
        } while (rc == 0 && n > 0);
        if (rc == 0)
                return cas_publish_blob_end(p, digest, NULL, NULL, err);
        cas_publish_blob_drop(p);
        return rc;
}

int reg_blob_from_upstream(struct reg_registry *r, const char *repo,
                           const struct cas_digest *digest, struct cas_publish *p,
                           struct cas_err *err)
{
        struct reg_route route = {0};
        struct reg_remote *remote;
        struct reg_remote_failure failure;
        bool ns_used;
        if (strlen(repo) >= sizeof(route.repo))
                return cas_fail(err, CAS_E_NOTFOUND, "no upstream");
        memcpy(route.repo, repo, strlen(repo));
        struct reg_upstream *up = reg_upstream_of(r->upstreams, NULL, &route, &ns_used);
        if (!up)
                return cas_fail(err, CAS_E_NOTFOUND, "%s has no upstream", repo);
        const char *there = repo + (up->prefix[0] ? strlen(up->prefix) + 1 : 0);
        int rc = reg_upstream_remote(up, &remote, &failure, err);
        return rc < 0 ? rc : reg_blob_take(remote, there, digest, p, err);
}
