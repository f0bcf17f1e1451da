/* SPDX-License-Identifier: Apache-2.0 */
/* What a flight asks the upstream, and what becomes of the answer. */
#include <fcntl.h>

#include "cas/json.h"
#include "cas/log.h"
#include "registry/upstream_int.h"

#define BLOB_PIECE_BYTES (128 * 1024)

/* ---- manifests ---- */

/* What the tag names here; false when nothing does. */
static bool known_digest(struct reg_flight *f, struct cas_digest *out)
{
        struct cas_store *s = f->up->set->store;
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_manifest_info info;
        return cas_tag_get(s, f->repo, f->what, out, &ignored) == 0 &&
               cas_manifest_stat(s, f->repo, out, &info, &ignored) == 0;
}

static int manifest_store(struct reg_flight *f, bool by_digest, const struct cas_buf *body,
                          const struct cas_manifest_info *info)
{
        const struct cas_manifest_put_options options = {
                .repo = f->repo,
                .tag = by_digest ? NULL : f->what,
                .media_type = info->media_type,
                .expected = &info->digest,
                .allow_sparse = true,
                .linked_only = true,
                .allow_absent = true,
        };
        return cas_manifest_put(f->up->set->store, &options, body->data, body->len_bytes, NULL,
                                &f->err);
}

/* The upstream has no such tag any more. */
static void tag_gone(struct reg_flight *f)
{
        struct cas_err err = CAS_ERR_INIT;
        if (cas_manifest_delete(f->up->set->store, f->repo, f->what, NULL, NULL, NULL, &err) < 0)
                cas_log(CAS_LOG_WARN, "upstream", "repository=%s tag=%s error=\"%s\"", f->repo,
                        f->what, err.msg);
}

static void run_manifest(struct reg_flight *f, struct reg_remote *remote)
{
        struct cas_digest known, asked;
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_manifest_info info = {0};
        cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
        bool by_digest = cas_digest_parse(f->what, &asked, &ignored) == 0;
        bool have = !by_digest && known_digest(f, &known), unchanged = false;
        f->rc = reg_remote_manifest(remote, f->remote, f->what, have ? &known : NULL, &body, &info,
                                    &unchanged, &f->failure, &f->err);
        if (f->rc == 0 && !unchanged)
                f->rc = manifest_store(f, by_digest, &body, &info);
        else if (f->rc == -CAS_E_NOTFOUND && have)
                tag_gone(f);
        if (f->rc == 0 || f->rc == -CAS_E_NOTFOUND)
                reg_upstream_note(f->up, f->repo, f->what, f->rc == 0);
}

/* ---- blobs ---- */

/* The session that takes the blob, with a descriptor for those who read along. */
static int session_open(struct reg_flight *f, const struct cas_digest *digest,
                        struct cas_upload **out)
{
        struct cas_store *s = f->up->set->store;
        const struct cas_upload_info info = {
                .owner = "upstream", .alg = digest->alg, .digest = *digest};
        char id[CAS_UPLOAD_ID_BYTES];
        int rc = cas_upload_begin(s, f->repo, &info, id, &f->err);
        if (rc == 0)
                rc = cas_upload_open(s, f->repo, id, out, &f->err);
        if (rc == 0)
                rc = cas_upload_reader(*out, &f->fd, &f->err);
        return rc;
}

static int blob_take(struct reg_flight *f, struct reg_remote_blob *blob, struct cas_upload *session)
{
        cas_cleanup_free uint8_t *buf = cas_xmalloc(BLOB_PIECE_BYTES);
        size_t n = 0;
        do {
                int rc = reg_remote_blob_read(blob, buf, BLOB_PIECE_BYTES, &n, &f->err);
                if (rc == 0 && n > 0 && n > f->total_bytes - cas_upload_bytes(session))
                        rc = cas_fail(&f->err, CAS_E_CORRUPT, "%s is longer than it was said to be",
                                      f->what);
                if (rc == 0 && n > 0)
                        rc = cas_upload_append(session, buf, n, &f->err);
                if (rc < 0)
                        return rc;
                reg_flight_blob_more(f, cas_upload_bytes(session));
        } while (n > 0);
        return 0;
}

static void run_blob(struct reg_flight *f, struct reg_remote *remote)
{
        struct cas_digest digest;
        struct cas_err ignored = CAS_ERR_INIT;
        struct cas_upload *session = NULL;
        reg_cleanup_remote_blob struct reg_remote_blob *blob = NULL;
        f->rc = cas_digest_parse(f->what, &digest, &f->err);
        if (f->rc == 0)
                f->rc = reg_remote_blob_open(remote, f->remote, &digest, 0, &blob, &f->total_bytes,
                                             &f->failure, &f->err);
        if (f->rc == 0 && f->total_bytes != UINT64_MAX && f->total_bytes > CAS_UPLOAD_BYTES_MAX)
                f->rc = cas_fail(&f->err, CAS_E_LIMIT, "%s is too large", f->what);
        if (f->rc == 0)
                f->rc = session_open(f, &digest, &session);
        if (f->rc == 0) {
                if (f->total_bytes != UINT64_MAX)
                        reg_flight_arrive(f, REG_FLIGHT_ARRIVING);
                f->rc = blob_take(f, blob, session);
        }
        if (f->rc == 0)
                f->rc = cas_upload_finish(session, &digest, &f->err);
        if (f->rc < 0 && session && cas_upload_cancel(session, &ignored) < 0)
                cas_upload_close(session);
        if (f->rc < 0)
                reg_flight_close(f);
        reg_flight_blob_end(f, f->rc < 0);
}

static void run_blob_head(struct reg_flight *f, struct reg_remote *remote)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/blobs/%s", f->remote, f->what);
        const struct reg_remote_request request = {
                .method = "HEAD", .path = path, .scope_repo = f->remote, .actions = "pull"};
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        f->rc = reg_remote_exchange(remote, &request, &t, &f->failure, &f->err);
        if (f->rc == 0)
                f->total_bytes = reg_httpc_length(t);
        if (f->rc == 0 && f->total_bytes == UINT64_MAX)
                f->rc = cas_fail(&f->err, CAS_E_IO, "%s does not say how long %s is",
                                 f->up->config->name, f->what);
}

/* ---- lists ---- */

/* `<…/tags/list?QUERY>; rel="next"` as a link of ours to `path`; NULL when there is none. Owned by
 * the caller. */
static char *next_link(const struct reg_flight *f, const char *name, const char *path,
                       const char *link)
{
        if (!link || link[0] != '<' || !strstr(link, "rel=\"next\""))
                return NULL;
        const char *query = strchr(link, '?'), *end = strchr(link, '>');
        if (!query || !end || query > end)
                return NULL;
        int len = (int)(end - query);
        for (int i = 0; i < len; i++) { /* it goes into a header of ours */
                if (query[i] <= ' ' || query[i] >= 127)
                        return NULL;
        }
        return cas_xasprintf("</v2/%s/%.*s%.*s%s%s>; rel=\"next\"", name, (int)strcspn(path, "?"),
                             path, len, query, f->ns_used ? "&ns=" : "",
                             f->ns_used ? f->up->config->name : "");
}

/* The list under the name that its clients know. */
static int run_list_body(struct reg_flight *f, const char *name, const struct cas_buf *bytes)
{
        cas_cleanup_json json_t *doc = NULL;
        if (cas_json_parse(bytes->data, bytes->len_bytes, REG_UPSTREAM_LIST_BYTES_MAX, &doc,
                           &f->err) < 0)
                return -(int)f->err.code;
        if (!json_is_object(doc))
                return cas_fail(&f->err, CAS_E_CORRUPT, "%s: not a list", f->what);
        if (strncmp(f->what, "tags/", 5) == 0)
                (void)json_object_set_new(doc, "name", json_string(name));
        cas_json_append(doc, &f->body);
        return 0;
}

static void run_list(struct reg_flight *f, struct reg_remote *remote)
{
        cas_cleanup_free char *path = cas_xasprintf("%s/%s", f->remote, f->what);
        const struct reg_remote_request request = {
                .method = "GET", .path = path, .scope_repo = f->remote, .actions = "pull"};
        const char *name = f->ns_used ? f->remote : f->repo;
        cas_cleanup_buf struct cas_buf bytes = CAS_BUF_INIT;
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        f->rc = reg_remote_exchange(remote, &request, &t, &f->failure, &f->err);
        if (f->rc == 0)
                f->rc = reg_httpc_read_all(t, REG_UPSTREAM_LIST_BYTES_MAX, &bytes, &f->err);
        if (f->rc == 0)
                f->rc = run_list_body(f, name, &bytes);
        if (f->rc == 0)
                f->next_link = next_link(f, name, f->what, reg_httpc_header(t, "Link"));
}

void reg_flight_run(struct reg_flight *f)
{
        struct reg_remote *remote;
        if (f->up->shared) {
                reg_flight_run_shared(f);
                return;
        }
        f->rc = reg_upstream_remote(f->up, &remote, &f->failure, &f->err);
        bool asked = f->rc == 0;
        if (asked) {
                switch (f->kind) {
                case REG_FLIGHT_MANIFEST:
                        run_manifest(f, remote);
                        break;
                case REG_FLIGHT_BLOB:
                        run_blob(f, remote);
                        break;
                case REG_FLIGHT_BLOB_HEAD:
                        run_blob_head(f, remote);
                        break;
                case REG_FLIGHT_LIST:
                        run_list(f, remote);
                        break;
                }
        }
        if (f->rc == 0)
                return;
        struct cas_digest here;
        char what[REG_HTTP_LOG_TEXT_BYTES];
        f->stale = f->kind == REG_FLIGHT_MANIFEST && f->rc != -CAS_E_NOTFOUND &&
                   known_digest(f, &here) && reg_upstream_stale_ok(f->up, f->repo, f->what);
        if (!asked)
                return;
        cas_log(f->rc == -CAS_E_NOTFOUND ? CAS_LOG_DEBUG : CAS_LOG_WARN, "upstream",
                "host=%s repository=%s what=\"%s\" status=%u stale=%s error=\"%s\"",
                f->up->config->name, f->remote, reg_http_log_text(f->what, what), f->failure.status,
                f->stale ? "yes" : "no", f->err.msg);
        if (f->rc == -CAS_E_IO || f->rc == -CAS_E_BUSY || f->rc == -CAS_E_LIMIT)
                reg_upstream_failed(f->up, &f->failure);
}
