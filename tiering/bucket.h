/* SPDX-License-Identifier: Apache-2.0 */
/* A tier in a bucket (spec/tiering.md): packs as whole, immutable objects that are named by their
 * content, and the marker that says whose they are. The backend's remote_* operations and the cache
 * of blocks stand on this. Thread-safe; calls block, with the time limits and tries of s3.h. */
#ifndef TIERING_BUCKET_H
#define TIERING_BUCKET_H

#include "cas/backend.h"
#include "tiering/s3.h"

struct tier_bucket;
struct tier_bucket_config {
        const struct s3_config *s3; /* borrowed for the call */
        const char *store_id;       /* cas_store_id() */
        uint32_t tier;
        const char *name; /* of the tier */
};
/* Makes the prefix of the bucket this tier's: tries out what the store can do, and puts the marker.
 * One that has this marker already is success. Errors: DENIED (it is another store's or tier's, or
 * has objects and no marker), UNSUPPORTED (no ranges), and s3.h's. */
int tier_bucket_make(const struct tier_bucket_config *config, struct cas_err *err) CAS_MUST_CHECK;
/* Reads the marker; nothing is written. Errors: NOTFOUND (there is none: an empty or wrong place),
 * DENIED (another store's or tier's), and s3.h's. */
int tier_bucket_open(const struct tier_bucket_config *config, struct tier_bucket **out,
                     struct cas_err *err) CAS_MUST_CHECK;
/* No call may be under way. */
void tier_bucket_close(struct tier_bucket *b);
CAS_DEFINE_CLEANUP(tier_cleanup_bucket_, struct tier_bucket *, tier_bucket_close);
#define tier_cleanup_bucket __attribute__((cleanup(tier_cleanup_bucket_)))
/* What is under way and all that comes fails soon, with BUSY. Does not wait. */
void tier_bucket_break(struct tier_bucket *b);
/* The marker goes: nothing of ours is there any more. Errors: BUSY (packs are there). */
int tier_bucket_unmake(struct tier_bucket *b, struct cas_err *err) CAS_MUST_CHECK;

/* As cas_backend_ops has them (cas/backend.h). */
int tier_bucket_put(struct tier_bucket *b, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err) CAS_MUST_CHECK;
int tier_bucket_get(struct tier_bucket *b, const struct cas_pack_file *pack, int fd,
                    struct cas_err *err) CAS_MUST_CHECK;
int tier_bucket_delete(struct tier_bucket *b, const struct cas_pack_file *pack,
                       struct cas_err *err) CAS_MUST_CHECK;
/* In order of their keys. Keys that are no pack's are passed over. Uploads that broke off over a
 * day ago are aborted on the way. */
int tier_bucket_each(struct tier_bucket *b,
                     int (*fn)(void *arg, const struct cas_pack_file *pack, struct cas_err *err),
                     void *arg, struct cas_err *err) CAS_MUST_CHECK;
/* Exactly len bytes of the pack at offset, unverified. Errors: NOTFOUND, CORRUPT, BUSY, IO. */
int tier_bucket_read(struct tier_bucket *b, const struct cas_pack_file *pack, uint64_t offset,
                     void *out, size_t len, struct cas_err *err) CAS_MUST_CHECK;

/* Of the probe when the tier was made; borrowed. */
const struct s3_abilities *tier_bucket_abilities(const struct tier_bucket *b);
void tier_bucket_counts(struct tier_bucket *b, struct s3_counts *out);

#endif
