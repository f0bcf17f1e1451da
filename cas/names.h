/* SPDX-License-Identifier: Apache-2.0 */
/* Names: repositories, their tags, manifests, blob links and referrers.
 * Reading side; cas/publish.h writes. Lists are sorted byte-wise. */
#ifndef CAS_NAMES_H
#define CAS_NAMES_H

#include "cas/limits.h"
#include "cas/store.h"

/* Grammar of the OCI distribution-spec: repository names and tags. */
bool cas_repo_name_valid(const char *repo);
bool cas_tag_valid(const char *tag);

/* A reference as people write it: NAME[:TAG][@DIGEST]. Tag defaults to "latest" when neither
 * tag nor digest is given; with a digest, the tag may be empty. */
struct cas_ref {
        char repo[CAS_REPO_NAME_BYTES_MAX + 1];
        char tag[CAS_TAG_BYTES_MAX + 1]; /* "" when none */
        struct cas_digest digest;        /* alg NONE when none */
};
int cas_ref_parse(const char *text, struct cas_ref *out, struct cas_err *err) CAS_MUST_CHECK;

struct cas_manifest_info {
        struct cas_digest digest;
        char media_type[256];
        uint64_t size_bytes;
};
/* Errors: NOTFOUND (message says whether the repository or the tag is missing). */
int cas_tag_get(struct cas_store *s, const char *repo, const char *tag, struct cas_digest *out,
                struct cas_err *err) CAS_MUST_CHECK;
int cas_manifest_stat(struct cas_store *s, const char *repo, const struct cas_digest *digest,
                      struct cas_manifest_info *out, struct cas_err *err) CAS_MUST_CHECK;
/* The manifest a reference names: by digest when it has one, else by tag. */
int cas_ref_resolve(struct cas_store *s, const struct cas_ref *ref, struct cas_manifest_info *out,
                    struct cas_err *err) CAS_MUST_CHECK;
/* A repository exists while it has a tag, a manifest or a blob link. */
int cas_repo_exists(struct cas_store *s, const char *repo, bool *out,
                    struct cas_err *err) CAS_MUST_CHECK;

/* A number that changes with the names of the repository (and, rarely, with those of others). Read
 * before names are looked at, it says later whether what was seen still holds: it changes after
 * new names can be seen, and before their commit returns. Costs nothing. */
uint64_t cas_names_generation(struct cas_store *s, const char *repo);

/* Each calls fn in byte order for names after `last` (exclusive; NULL or "": from the
 * start) until fn returns false or all are seen. */
int cas_repo_each(struct cas_store *s, const char *last, bool (*fn)(void *arg, const char *repo),
                  void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_tag_each(struct cas_store *s, const char *repo, const char *last,
                 bool (*fn)(void *arg, const char *tag, const struct cas_digest *manifest),
                 void *arg, struct cas_err *err) CAS_MUST_CHECK;
int cas_manifest_each(struct cas_store *s, const char *repo,
                      bool (*fn)(void *arg, const struct cas_manifest_info *m), void *arg,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Blobs that are linked to the repository (cas_blob_linked). */
int cas_blob_link_each(struct cas_store *s, const char *repo,
                       bool (*fn)(void *arg, const struct cas_digest *blob), void *arg,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_referrer_each(struct cas_store *s, const char *repo, const struct cas_digest *subject,
                      bool (*fn)(void *arg, const struct cas_digest *referrer), void *arg,
                      struct cas_err *err) CAS_MUST_CHECK;

#endif
