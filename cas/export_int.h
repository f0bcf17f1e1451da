/* SPDX-License-Identifier: Apache-2.0 */
/* What an export writes: the documents and blobs that an image leads to, each
 * once. Private to cas/export*.c and tests. */
#ifndef CAS_EXPORT_INT_H
#define CAS_EXPORT_INT_H

#include "cas/map.h"
#include "cas/progress.h"
#include "cas/transfer.h"

struct cas_export_blob {
        struct cas_digest digest;
        uint64_t size_bytes;
};
struct cas_export {
        struct cas_store *s;
        struct cas_ref ref;
        struct cas_manifest_info top;  /* what goes into index.json */
        struct cas_export_blob *blobs; /* owned; documents after what they name */
        size_t blob_count;
        struct cas_map *seen; /* owned; digests in blobs */
        struct cas_progress_sum progress;
};

/* The name of the image at the target: `given`, else what an import takes back as the same
 * reference. "" when the reference has a digest only. Owned by the caller. */
char *cas_export_name(const struct cas_ref *ref, const char *given);
/* Writes a blob in order to fn, and compares its digest. */
int cas_export_blob_each(struct cas_export *ex, const struct cas_export_blob *b,
                         int (*fn)(void *arg, const void *data, size_t len, struct cas_err *err),
                         void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* index.json with this image in it: `old` (may be NULL) without entries of that name, then it. */
int cas_export_index(const struct cas_export *ex, const char *name, const struct cas_buf *old,
                     struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

int cas_export_layout(struct cas_export *ex, const struct cas_transfer_address *to,
                      struct cas_err *err) CAS_MUST_CHECK;
int cas_export_oci_archive(struct cas_export *ex, const struct cas_transfer_address *to,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_export_docker_archive(struct cas_export *ex, const struct cas_image *image,
                              const struct cas_transfer_address *to,
                              struct cas_err *err) CAS_MUST_CHECK;

#endif
