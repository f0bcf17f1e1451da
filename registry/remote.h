/* SPDX-License-Identifier: Apache-2.0 */
/* A registry elsewhere, as a client sees it: the OCI distribution-spec's
 * requests with authentication, retries and resumption. Used by pull, push and
 * copy, by the pull-through cache, and by lazy mounts.
 *
 * Thread-safe: calls run in parallel. All block. Transient failures (connection, 408, 429, 500,
 * 502, 503, 504) are tried again, as Retry-After says, else with growing pauses. */
#ifndef REG_REMOTE_H
#define REG_REMOTE_H

#include "cas/image.h"
#include "registry/httpc.h"

struct reg_remote_config {
        struct reg_httpc *http; /* borrowed */
        const char *host;       /* "HOST[:PORT]"; docker.io is registry-1.docker.io */
        bool plain_http;        /* else https; loopback addresses: https, then http */
        /* Where credentials come from: given, else (unless anonymous) the auth files of podman and
         * docker and their credential helpers. */
        const char *user, *password; /* may be NULL */
        const char *identity_token;  /* in place of a password: a refresh token; may be NULL */
        const char *auth_file;       /* may be NULL: the usual places */
        bool anonymous;
        unsigned attempts; /* 0: 5 */
        bool impatient;    /* what the registry answers is final: only what breaks is tried again */
        const char *ns;    /* sent as ?ns= on pulls; may be NULL */
};
struct reg_remote;
int reg_remote_open(const struct reg_remote_config *config, struct reg_remote **out,
                    struct cas_err *err) CAS_MUST_CHECK;
void reg_remote_close(struct reg_remote *r);
CAS_DEFINE_CLEANUP(reg_cleanup_remote_, struct reg_remote *, reg_remote_close);
#define reg_cleanup_remote __attribute__((cleanup(reg_cleanup_remote_)))
const char *reg_remote_host(const struct reg_remote *r); /* as given; borrowed */
/* What its answers have said so far: a lamina says so in each (registry/peer.h). */
enum reg_remote_kind { REG_REMOTE_UNKNOWN, REG_REMOTE_OTHER, REG_REMOTE_LAMINA };
enum reg_remote_kind reg_remote_kind(const struct reg_remote *r);
/* How the registry calls a repository: at docker.io, what has no slash is in "library/". Paths of
 * exchanges have it; the other functions see to it themselves. `out` has
 * REG_REMOTE_REPO_BYTES; returns out. */
#define REG_REMOTE_REPO_BYTES (CAS_REPO_NAME_BYTES_MAX + 16)
char *reg_remote_repo(const struct reg_remote *r, const char *repo, char *out);

/* What went wrong at the last HTTP answer, for those who answer others with it. */
struct reg_remote_failure {
        unsigned status;        /* 0: there was no answer */
        unsigned retry_after_s; /* 0: not said */
};
/* Longer pauses than this are not waited for: BUSY at once. */
#define REG_REMOTE_PAUSE_MAX_S 120

/* One exchange with authentication and retries; path is below /v2/ ("NAME/tags/list?n=5"), begins
 * with "/" (whole), or is a URL: credentials go to the registry's own scheme, host and port alone.
 * body_read may be called from offset 0 again. scope_repo and actions ("pull", "pull,push") say
 * what for. Statuses below 400, and those in `accept` (0-terminated; may be NULL), are success.
 * Errors: NOTFOUND (404), DENIED (401, 403), BUSY (429, 503 to the last), INVALID (other 4xx), IO.
 * failure may be NULL. */
struct reg_remote_request {
        const char *method, *path;
        const char *scope_repo, *actions;
        const char *from_repo; /* which is pulled from, too: mounts; may be NULL */
        const char *const *headers;
        const void *body;
        uint64_t body_bytes;
        int (*body_read)(void *arg, uint64_t offset, void *buf, size_t len, size_t *out_len,
                         struct cas_err *err);
        void *body_arg;
        const unsigned *accept;
        bool once; /* do not try again */
};
int reg_remote_exchange(struct reg_remote *r, const struct reg_remote_request *request,
                        struct reg_httpc_transfer **out, struct reg_remote_failure *failure,
                        struct cas_err *err) CAS_MUST_CHECK;

/* A manifest or index by tag or digest text, at most CAS_MANIFEST_BYTES_MAX; its digest is checked
 * (reference's when that is one, else Docker-Content-Digest when given). known (may be NULL): the
 * digest that is here already: *unchanged true, and no body, when the registry says that it is
 * still this one (by HEAD, which registries do not count as a pull). Errors: as above, CORRUPT
 * (another digest). */
int reg_remote_manifest(struct reg_remote *r, const char *repo, const char *reference,
                        const struct cas_digest *known, struct cas_buf *out,
                        struct cas_manifest_info *info, bool *unchanged,
                        struct reg_remote_failure *failure, struct cas_err *err) CAS_MUST_CHECK;

/* A blob from `offset` on, as a stream that goes on by itself (Range) when a connection breaks. Its
 * digest is for the reader to check. *out_bytes: the blob's whole length (UINT64_MAX: not said). */
struct reg_remote_blob;
int reg_remote_blob_open(struct reg_remote *r, const char *repo, const struct cas_digest *digest,
                         uint64_t offset, struct reg_remote_blob **out, uint64_t *out_bytes,
                         struct reg_remote_failure *failure, struct cas_err *err) CAS_MUST_CHECK;
/* At most `bytes` of it. *ranges (may be NULL): whether the registry serves ranges. Errors:
 * UNSUPPORTED (offset > 0, and it does not), and as above. */
int reg_remote_blob_open_range(struct reg_remote *r, const char *repo,
                               const struct cas_digest *digest, uint64_t offset, uint64_t bytes,
                               struct reg_remote_blob **out, uint64_t *out_bytes, bool *ranges,
                               struct reg_remote_failure *failure,
                               struct cas_err *err) CAS_MUST_CHECK;
/* A layer that is kept elsewhere, from one of its URLs (http or https), without credentials. */
int reg_remote_blob_open_url(struct reg_remote *r, const char *url, uint64_t offset,
                             struct reg_remote_blob **out, uint64_t *out_bytes,
                             struct reg_remote_failure *failure,
                             struct cas_err *err) CAS_MUST_CHECK;
/* A cas_source_fn. *out_len 0: the end. */
int reg_remote_blob_read(void *blob, void *buf, size_t len, size_t *out_len,
                         struct cas_err *err) CAS_MUST_CHECK;
/* The whole of a blob goes into a publication as its open blob (cas/publish.h), digest checked.
 * When it fails, the publication is as it was. */
int reg_blob_take(struct reg_remote *remote, const char *repo, const struct cas_digest *digest,
                  struct cas_publish *p, struct cas_err *err) CAS_MUST_CHECK;
void reg_remote_blob_close(struct reg_remote_blob *b);
CAS_DEFINE_CLEANUP(reg_cleanup_remote_blob_, struct reg_remote_blob *, reg_remote_blob_close);
#define reg_cleanup_remote_blob __attribute__((cleanup(reg_cleanup_remote_blob_)))

#endif
