/* SPDX-License-Identifier: Apache-2.0 */
/* Whole images between registries and the store. Blobs travel side by side; names
 * change last, so that an image is there with all that it needs, or not at all.
 * What came before a failure stays, and is not moved again. All block. */
#ifndef REG_PULL_H
#define REG_PULL_H

#include "cas/image.h"
#include "registry/fetch.h"

#define REG_TRANSFER_JOBS 4
#define REG_TRANSFER_JOBS_MAX 32
#define REG_TRANSFER_STREAMS 3
/* Connections to one host that so many jobs may want. */
#define REG_TRANSFER_CONNECTIONS(jobs) ((jobs) * (REG_TRANSFER_STREAMS + 1) + 4)

struct reg_transfer_options {
        const struct cas_platform *platform; /* of an index; NULL: all */
        bool referrers;                      /* what refers to the image (signatures …), too */
        unsigned jobs;                       /* blobs at a time; 0: REG_TRANSFER_JOBS */
        bool proved; /* of pulls: nothing counts as here but what the repository has already: so an
                      * image of somebody who knows digests alone gets nothing of others */
        const struct cas_progress *progress; /* may be NULL */
};
struct reg_transfer_result {
        struct cas_manifest_info info;
        uint64_t moved_bytes;                    /* of blobs, over the network */
        size_t moved, reused, mounted, left_out; /* blobs; left_out: foreign ones */
        size_t documents;
};

/* reference: a tag or a digest. to: the name here; its tag may be "". Durable on return. */
int reg_pull(struct cas_store *s, struct reg_remote *from, const char *repo, const char *reference,
             const struct cas_ref *to, const struct reg_transfer_options *options,
             struct reg_transfer_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* tag "": by digest alone. Errors: NOTFOUND (of the store), those of the registry. */
int reg_push(struct cas_store *s, const struct cas_ref *ref, struct reg_remote *to,
             const char *repo, const char *tag, const struct reg_transfer_options *options,
             struct reg_transfer_result *out, struct cas_err *err) CAS_MUST_CHECK;
/* Without any store: blobs are streamed, or mounted where both are one registry. */
int reg_copy(struct reg_remote *from, const char *from_repo, const char *reference,
             struct reg_remote *to, const char *repo, const char *tag,
             const struct reg_transfer_options *options, struct reg_transfer_result *out,
             struct cas_err *err) CAS_MUST_CHECK;

/* Documents of a registry for a plan (reg_plan_source.read); arg is one of these. */
struct reg_remote_docs {
        struct reg_remote *remote;
        const char *repo;
        struct cas_store *store; /* looked into first; may be NULL */
};
int reg_remote_doc_read(void *docs, const struct cas_digest *digest, struct cas_buf *out,
                        struct cas_err *err) CAS_MUST_CHECK;
/* Adds what refers to `subject` there: by the referrers API, else by the fallback tag. */
int reg_plan_add_referrers(struct reg_plan *p, struct reg_remote *r, const char *repo,
                           const struct cas_digest *subject, struct cas_store *store,
                           struct cas_err *err) CAS_MUST_CHECK;

#endif
