/* SPDX-License-Identifier: Apache-2.0 */
/* The tables through which others plug into the store: tiering implements
 * `cas_backend_ops` (where packs live), lazy pull, repair and S3 implement
 * `cas_remote_ops` (content that is elsewhere). Optional operations may be NULL.
 * All operations are called from many threads at once. */
#ifndef CAS_BACKEND_H
#define CAS_BACKEND_H

#include "cas/store.h"

struct cas_backend;

struct cas_backend_ops {
        /* Creates the file of a new pack, to be written through the store's I/O table: gives a
         * directory descriptor (borrowed) and the pack's tier number, kept in the index. */
        int (*pack_place)(struct cas_backend *b, uint64_t pack_id, int *out_dirfd,
                          uint32_t *out_tier, struct cas_err *err);
        /* The directory (borrowed) in which a sealed or open pack of that tier lies. */
        int (*pack_dir)(struct cas_backend *b, uint64_t pack_id, uint32_t tier, int *out_dirfd,
                        struct cas_err *err);
        /* Calls fn with the number and directory of each tier: fsck and rebuild walk them. */
        int (*tier_each)(struct cas_backend *b,
                         int (*fn)(void *arg, uint32_t tier, int dirfd, struct cas_err *err),
                         void *arg, struct cas_err *err);
        /* Optional: a block of the pack was read (heat). Must not block. */
        void (*pack_touched)(struct cas_backend *b, uint64_t pack_id, uint32_t bytes);
        void (*close)(struct cas_backend *b);
};
/* Implementations embed this as their first member. */
struct cas_backend {
        const struct cas_backend_ops *ops;
};

/* Content that is elsewhere: what a layer that has not wholly come is made of. */
struct cas_remote;
struct cas_publish;
struct cas_layer_record;
struct cas_remote_ops {
        /* Adds objects of the layer to a publication, which the caller commits; chunks that are
         * here already do not travel. Ids are checked. Blocks. Errors: NOTFOUND, CORRUPT (other
         * bytes than their name says), DENIED, BUSY (try again), IO. */
        int (*fetch_objects)(struct cas_remote *r, const struct cas_digest *layer,
                             const struct cas_hash *ids, size_t count, struct cas_publish *p,
                             struct cas_err *err);
        /* All files of the layer are here: adds its blob, by a recipe that is proved here or by its
         * bytes, and its record as a decoded layer, and commits. Blocks. Errors: as above. */
        int (*finish_layer)(struct cas_remote *r, struct cas_store *s,
                            const struct cas_layer_record *layer, uint64_t blob_bytes,
                            const struct cas_progress *progress, struct cas_err *err);
        void (*close)(struct cas_remote *r);
};
/* Implementations embed this as their first member. */
struct cas_remote {
        const struct cas_remote_ops *ops;
};

#endif
