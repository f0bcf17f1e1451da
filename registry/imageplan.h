/* SPDX-License-Identifier: Apache-2.0 */
/* What makes up an image, wherever it is: its documents (manifests and indexes),
 * children before those that name them, and its blobs, each once. Pull, push and
 * copy begin with it. A plan is used by one thread. */
#ifndef REG_IMAGEPLAN_H
#define REG_IMAGEPLAN_H

#include "cas/image.h"
#include "cas/map.h"

#define REG_PLAN_DOCS_MAX 2000
#define REG_PLAN_DOC_BYTES_MAX (UINT64_C(128) << 20) /* of all documents */
#define REG_PLAN_BLOBS_MAX 100000
#define REG_PLAN_URLS_MAX 8

struct reg_plan_doc {
        struct cas_manifest_info info;
        struct cas_buf bytes;
        bool has_subject;
};
struct reg_plan_blob {
        struct cas_digest digest;
        uint64_t size_bytes;
        char media_type[256];
        bool layer;
        bool foreign; /* need not be anywhere */
        char **urls;  /* owned, NULL-terminated: where a foreign one is; or NULL */
};
struct reg_plan {
        struct reg_plan_doc *docs; /* owned */
        size_t doc_count;
        struct reg_plan_blob *blobs; /* owned */
        size_t blob_count;
        uint64_t doc_bytes;
        struct cas_map *seen_docs, *seen_blobs; /* owned */
        bool complete;                          /* no child of an index was left out */
};
void reg_plan_release(struct reg_plan *p);
#define reg_cleanup_plan __attribute__((cleanup(reg_plan_release)))

/* Where documents come from. NOTFOUND of a child leaves that out. */
struct reg_plan_source {
        int (*read)(void *arg, const struct cas_digest *digest, struct cas_buf *out,
                    struct cas_err *err);
        void *arg;
        const struct cas_platform *platform; /* of an index, the child that fits best; NULL: all */
};
/* Adds the document and all below it. bytes is copied. Errors: INVALID, LIMIT, CORRUPT, NOTFOUND
 * (nothing for the platform; the message lists what there is), those of the source. */
int reg_plan_add(struct reg_plan *p, const struct reg_plan_source *source,
                 const struct cas_manifest_info *info, const struct cas_buf *bytes,
                 struct cas_err *err) CAS_MUST_CHECK;

#endif
