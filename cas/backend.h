/* SPDX-License-Identifier: Apache-2.0 */
/* The tables through which others plug into the store: tiering implements
 * `cas_backend_ops` (where packs live), lazy pull, repair and S3 implement
 * `cas_remote_ops` (content that is elsewhere). Optional operations may be NULL.
 * All operations are called from many threads at once. */
#ifndef CAS_BACKEND_H
#define CAS_BACKEND_H

#include "cas/store.h"

struct cas_backend;

/* How densely the blocks of a pack are written. Numbers are in the index. */
enum cas_pack_density {
        CAS_PACK_FAST = 0,    /* lz4, as imports and pushes write */
        CAS_PACK_DEFAULT = 1, /* CAS_CONDENSE_DEFAULT */
        CAS_PACK_COLD = 2,    /* CAS_CONDENSE_COLD */
};

/* What a tier is to the store. Tier 0 is the store's own directory, and always there. */
#define CAS_TIER_OWN 0
#define CAS_TIER_ANY UINT32_MAX
struct cas_tier_info {
        uint32_t tier;
        const char *name; /* borrowed until the backend is closed */
        bool remote;      /* no directory: packs come and go whole, blocks are read by ranges */
        bool reachable;   /* false: it failed, or was refused; what lies there cannot be read now */
        bool writable;    /* new packs may be put there */
        bool shared; /* remote, and other stores' packs lie there too: what this one does not know
                      * of is not its garbage */
        bool counts_reads; /* `touched` is of use: there is more than one tier */
        uint8_t density;   /* enum cas_pack_density: what home copies there are written with */
};
/* A sealed pack, as one that lies elsewhere is known: its id and its content's name. */
struct cas_pack_file {
        uint64_t pack_id;
        uint64_t size_bytes;
        struct cas_hash sha256; /* of the file */
        int64_t put_unix_s;     /* told by remote_each: when it was put; 0: nobody knows */
};
/* Where a piece of a pack can be read: at the same offset in `fd`. */
struct cas_block_place {
        int fd;      /* borrowed until block_close */
        void *token; /* the backend's */
};
/* A block's frame in a pack. */
struct cas_block_range {
        uint64_t offset;
        uint32_t bytes;
};

/* A pack has one home copy, on the tier that its record in the index names. Everything else of it
 * is a cache, and the backend's alone. */
struct cas_backend_ops {
        /* Chooses where a new pack is written (never a remote tier): `want` when it is not
         * CAS_TIER_ANY, else the fastest that has room. Gives its directory (borrowed). May block
         * for room, for a stated time. Errors: NOSPACE, UNSUPPORTED (no such tier), IO. */
        int (*pack_place)(struct cas_backend *b, uint64_t pack_id, uint32_t want, int *out_dirfd,
                          uint32_t *out_tier, struct cas_err *err);
        /* Optional. Before so many bytes are appended to a pack there: room for them is taken. May
         * block for room, for a stated time. Errors: NOSPACE. */
        int (*pack_grow)(struct cas_backend *b, uint32_t tier, uint64_t bytes, struct cas_err *err);
        /* Optional. They are there no more, or were not written after all. When the backend is
         * made, all bytes of files in the directories count as taken: what is cut off or removed by
         * recovery is given back. */
        void (*pack_shrunk)(struct cas_backend *b, uint32_t tier, uint64_t bytes);
        /* Optional. Before so many bytes of a blob or an upload are written in the store's own
         * directory. What goes there again is not told: it is looked at now and then. May block for
         * room, for a stated time. Errors: NOSPACE. */
        int (*own_grow)(struct cas_backend *b, uint64_t bytes, struct cas_err *err);
        /* The directory (borrowed) in which a sealed or open pack of that tier lies. Errors:
         * UNSUPPORTED (no such tier, or a remote one), IO (it is not reachable). */
        int (*pack_dir)(struct cas_backend *b, uint64_t pack_id, uint32_t tier, int *out_dirfd,
                        struct cas_err *err);
        /* Errors: UNSUPPORTED (no such tier). */
        int (*tier_info)(struct cas_backend *b, uint32_t tier, struct cas_tier_info *out,
                         struct cas_err *err);
        /* Calls fn with each tier and its directory (-1: remote, or not reachable): fsck and
         * rebuild walk them. */
        int (*tier_each)(struct cas_backend *b,
                         int (*fn)(void *arg, const struct cas_tier_info *tier, int dirfd,
                                   struct cas_err *err),
                         void *arg, struct cas_err *err);

        /* ---- remote tiers; NULL: there are none ---- */
        /* The bytes of fd become the pack's home copy: durable on return, by that name for good.
         * Putting what is there is success. Errors: NOSPACE, IO, BUSY (try again later). */
        int (*remote_put)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                          int fd, struct cas_err *err);
        /* All of it, to the beginning of fd; the digest is compared. Errors: NOTFOUND, CORRUPT (fd
         * has what there is), IO, BUSY. */
        int (*remote_get)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                          int fd, struct cas_err *err);
        /* Absent is success. */
        int (*remote_delete)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                             struct cas_err *err);
        /* Calls fn with all packs that are there. */
        int (*remote_each)(struct cas_backend *b, uint32_t tier,
                           int (*fn)(void *arg, const struct cas_pack_file *pack,
                                     struct cas_err *err),
                           void *arg, struct cas_err *err);

        /* ---- reading blocks where it is not the home copy that is read; NULL: it always is ----
         * Only readers of content come here: what walks packs (collection, scrub, recoding) reads
         * home copies, and leaves caches and heat alone. */
        /* A read of bytes of the pack, which counts as touching it, and where it is done: a cache,
         * to which they are brought first when the tier is remote, or the home copy. They may turn
         * out to be gone or torn there (a cache after a power cut): the caller, who verifies,
         * closes the place as `bad` then and asks again, twice at most. home_fd: of the home copy,
         * -1 of a remote one. Blocks. Errors: NOTFOUND (the home copy is gone), IO, BUSY. */
        int (*block_open)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                          int home_fd, uint64_t offset, uint32_t bytes, struct cas_block_place *out,
                          struct cas_err *err);
        void (*block_close)(struct cas_backend *b, struct cas_block_place *place, bool bad);
        /* For readers in other processes: a descriptor (the caller's) of the pack's cache, in which
         * pieces of it stand at their offsets and holes where they are not here; -1: there is none,
         * and what is remote is given out block by block. */
        int (*cache_open)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                          int *out_fd, struct cas_err *err);
        /* Optional: blocks of one pack, by offset, that will be read soon are brought to where they
         * are read fast, neighbours in one read; those that are there, or not worth it, are passed
         * over. stop (may be NULL) is asked between reads. Blocks. Errors: BUSY (stopped, or there
         * is no room), NOTFOUND, IO. */
        int (*blocks_bring)(struct cas_backend *b, uint32_t tier, const struct cas_pack_file *pack,
                            int home_fd, const struct cas_block_range *ranges, size_t count,
                            bool (*stop)(void *arg), void *stop_arg, struct cas_err *err);
        /* Optional: so many bytes of a pack were read (heat) without block_open. Must not block. */
        void (*touched)(struct cas_backend *b, uint32_t tier, uint64_t pack_id, uint64_t offset,
                        uint32_t bytes);
        /* Optional: the pack has gone, or is on another tier now: what is cached of it, and what is
         * known of its heat, goes. */
        void (*pack_gone)(struct cas_backend *b, uint64_t pack_id);

        void (*close)(struct cas_backend *b);
};
/* Implementations embed this as their first member. */
struct cas_backend {
        const struct cas_backend_ops *ops;
};

/* The backend of an open store; borrowed until it is closed. */
struct cas_backend *cas_store_backend(struct cas_store *s);

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
