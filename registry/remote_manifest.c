/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests of a remote registry: read whole, and compared with their digest. */
#include "cas/limits.h"
#include "registry/remote_int.h"

static const char *const accept_headers[] = {"Accept: " CAS_MT_OCI_INDEX ", " CAS_MT_OCI_MANIFEST
                                             ", " CAS_MT_DOCKER_LIST ", " CAS_MT_DOCKER_MANIFEST
                                             ", */*;q=0.1",
                                             NULL};

/* The digest that a header names. False when there is none that is known. */
static bool header_digest(const struct reg_httpc_transfer *t, struct cas_digest *out)
{
        struct cas_err unused = CAS_ERR_INIT;
        const char *text = reg_httpc_header(t, "Docker-Content-Digest");
        return text && cas_digest_parse(text, out, &unused) == 0;
}

static int exchange(struct reg_remote *r, const char *method, const char *repo,
                    const char *reference, struct reg_httpc_transfer **out,
                    struct reg_remote_failure *failure, struct cas_err *err)
{
        char name[REG_REMOTE_REPO_BYTES];
        cas_cleanup_free char *path =
                cas_xasprintf("%s/manifests/%s", reg_remote_repo(r, repo, name), reference);
        struct reg_remote_request q = {.method = method,
                                       .path = path,
                                       .scope_repo = name,
                                       .actions = "pull",
                                       .headers = accept_headers};
        return reg_remote_exchange(r, &q, out, failure, err);
}

/* The type without parameters; what only says "some bytes" is taken from the document. */
static int take_media_type(const struct reg_httpc_transfer *t, const struct cas_buf *body,
                           char out[static 256], struct cas_err *err)
{
        const char *type = reg_httpc_header(t, "Content-Type");
        size_t len = type ? strcspn(type, "; \t") : 0;
        out[0] = 0;
        if (len < 256 && len > 0)
                (void)snprintf(out, 256, "%.*s", (int)len, type);
        if (cas_media_type_is_manifest(out))
                return 0;
        cas_cleanup_manifest struct cas_manifest m = {0};
        if (cas_manifest_parse(body->data, body->len_bytes, NULL, &m, err) < 0)
                return -(int)err->code;
        (void)snprintf(out, 256, "%s", m.media_type);
        return 0;
}

static int check(const struct reg_httpc_transfer *t, const char *reference,
                 const struct cas_buf *body, struct cas_manifest_info *info, struct cas_err *err)
{
        struct cas_digest wanted, got;
        struct cas_err unused = CAS_ERR_INIT;
        bool named = strchr(reference, ':') && cas_digest_parse(reference, &wanted, &unused) == 0;
        bool told = named || header_digest(t, &wanted);
        cas_digest_of(told ? wanted.alg : CAS_DIGEST_SHA256, body->data, body->len_bytes, &got);
        if (told && !cas_digest_equal(&wanted, &got))
                return cas_fail(err, CAS_E_CORRUPT, "manifest %s: its bytes have another digest",
                                reference);
        *info = (struct cas_manifest_info){.digest = got, .size_bytes = body->len_bytes};
        return take_media_type(t, body, info->media_type, err);
}

/* Whether the registry's reference still names `known`. One that does not say is asked for all. */
static int look(struct reg_remote *r, const char *repo, const char *reference,
                const struct cas_digest *known, bool *unchanged, struct reg_remote_failure *failure,
                struct cas_err *err)
{
        reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
        struct cas_digest now;
        struct reg_remote_failure why = {0};
        int rc = exchange(r, "HEAD", repo, reference, &t, &why, err);
        if (failure)
                *failure = why;
        if (rc < 0) /* some registries know no HEAD here */
                return why.status == 405 || why.status == 403 || why.status == 400 ? 0 : rc;
        *unchanged = header_digest(t, &now) && cas_digest_equal(&now, known);
        return 0;
}

int reg_remote_manifest(struct reg_remote *r, const char *repo, const char *reference,
                        const struct cas_digest *known, struct cas_buf *out,
                        struct cas_manifest_info *info, bool *unchanged,
                        struct reg_remote_failure *failure, struct cas_err *err)
{
        bool same = false;
        if (known && look(r, repo, reference, known, &same, failure, err) < 0)
                return -(int)err->code;
        if (unchanged)
                *unchanged = same;
        if (same)
                return 0;
        for (unsigned attempt = 0;; attempt++) {
                reg_cleanup_transfer struct reg_httpc_transfer *t = NULL;
                cas_cleanup_buf struct cas_buf body = CAS_BUF_INIT;
                if (exchange(r, "GET", repo, reference, &t, failure, err) < 0)
                        return -(int)err->code;
                int rc = reg_httpc_read_all(t, CAS_MANIFEST_BYTES_MAX, &body, err);
                if (rc == 0)
                        rc = check(t, reference, &body, info, err);
                if (rc == 0)
                        cas_buf_append(out, body.data, body.len_bytes);
                if (rc == 0 || err->code != CAS_E_IO || attempt + 1 >= r->config.attempts)
                        return rc;
                remote_pause(attempt, &(struct reg_remote_failure){0});
        }
}
