/* SPDX-License-Identifier: Apache-2.0 */
/* Verbatim copies of condensed blobs, as a cache (cas/blobcache.c). Private to cas. */
#ifndef CAS_BLOBCACHE_INT_H
#define CAS_BLOBCACHE_INT_H

#include "cas/record_int.h"

/* What is used when, in memory: after opening the store the order is that of the files' times. */
struct cas_blobcache;
struct cas_blobcache *cas_blobcache_new(void);
void cas_blobcache_free(struct cas_blobcache *c);
/* A copy was opened. */
void cas_blobcache_used(struct cas_blobcache *c, const struct cas_digest *digest);

/* Who gives a blob's file its name and tells the index, or takes it away, excludes the other: files
 * and records change together. Publications share it while they commit; held for a sync at most. */
void cas_blob_files_lock(struct cas_store *s, bool exclusive);
void cas_blob_files_unlock(struct cas_store *s);

/* Errors: NOTFOUND, naming the blob. */
int cas_blob_record_get(struct cas_store *s, const struct cas_digest *digest,
                        struct cas_blob_record *out, struct cas_err *err) CAS_MUST_CHECK;
void cas_batch_put_blob(struct cas_batch *b, const struct cas_digest *digest,
                        const struct cas_blob_record *rec);
/* The blob, which has a file and a proved recipe, has become a cache: it is known here. */
void cas_blobcache_add(struct cas_blobcache *c, const struct cas_digest *digest, uint64_t bytes);
/* Its file has gone, with the blob. */
void cas_blobcache_forget(struct cas_blobcache *c, const struct cas_digest *digest);

#endif
