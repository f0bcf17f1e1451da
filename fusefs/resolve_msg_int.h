/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the resolve protocol, spec/resolve.md: encoding and checked
 * decoding. No I/O. */
#ifndef FFS_RESOLVE_MSG_INT_H
#define FFS_RESOLVE_MSG_INT_H

#include "cas/object.h"

#define FFS_RESOLVE_MAGIC UINT32_C(0x3152534c) /* "LSR1" */
#define FFS_RESOLVE_REQUEST_BYTES 56           /* every request; reads follow one of TOUCHED */
#define FFS_RESOLVE_TOUCH_BYTES 24
#define FFS_RESOLVE_TOUCHES_MAX 256 /* of one request */
#define FFS_RESOLVE_REQUEST_BYTES_MAX                                                              \
        (FFS_RESOLVE_REQUEST_BYTES + FFS_RESOLVE_TOUCHES_MAX * FFS_RESOLVE_TOUCH_BYTES)
#define FFS_RESOLVE_FILL_BYTES_MAX (UINT32_C(8) << 20)
#define FFS_RESOLVE_REPLY_HEAD_BYTES 40
#define FFS_RESOLVE_EXTENT_BYTES 56
#define FFS_RESOLVE_EXTENTS_MAX 512 /* of one reply */
#define FFS_RESOLVE_REPLY_BYTES_MAX                                                                \
        (FFS_RESOLVE_REPLY_HEAD_BYTES + FFS_RESOLVE_EXTENTS_MAX * FFS_RESOLVE_EXTENT_BYTES)

enum ffs_resolve_type {
        FFS_RESOLVE_PING = 1,
        FFS_RESOLVE_EXTENTS = 2,
        FFS_RESOLVE_PACK = 3,
        FFS_RESOLVE_FILL = 4,
        FFS_RESOLVE_TOUCHED = 5,
};

/* What was read of a pack without the owner. */
struct ffs_resolve_touch {
        uint64_t pack_id, offset;
        uint32_t bytes;
        bool was_bad; /* the pack's cache had other bytes there */
};

struct ffs_resolve_request {
        enum ffs_resolve_type type;
        bool asks_again;        /* knows the answer BUSY: the object is on its way */
        bool knows_tiers;       /* PACK: reads the flags of the answer */
        bool was_bad;           /* FILL: what the pack's cache has there are other bytes */
        uint64_t tag;           /* comes back in the reply */
        struct cas_hash object; /* EXTENTS */
        uint32_t first_chunk;
        uint32_t count_max; /* 1 … FFS_RESOLVE_EXTENTS_MAX */
        uint64_t pack_id;   /* PACK, FILL */
        uint64_t offset;    /* FILL: of a frame in the pack */
        uint32_t bytes;     /* its length, to FFS_RESOLVE_FILL_BYTES_MAX */
        uint32_t touches;   /* TOUCHED: how many follow, 1 … FFS_RESOLVE_TOUCHES_MAX */
};

struct ffs_resolve_reply {
        enum ffs_resolve_type type;
        uint64_t tag;
        enum cas_code code;  /* CAS_OK, or why not; the rest is then zero */
        uint64_t size_bytes; /* EXTENTS: of the object */
        uint32_t chunk_count;
        uint32_t first_chunk;
        uint32_t count;
        /* PACK, for a client that reads them: which descriptors come along, in this order; and
         * whether to tell what was read. An owner that does not know them gives a home copy. */
        bool home, cache, wants_touched;
        bool fills; /* what is in neither is to be asked for by FILL */
};

void ffs_resolve_request_encode(const struct ffs_resolve_request *r,
                                uint8_t out[FFS_RESOLVE_REQUEST_BYTES]);
void ffs_resolve_touch_encode(const struct ffs_resolve_touch *t,
                              uint8_t out[FFS_RESOLVE_TOUCH_BYTES]);
/* Number i of a request that was decoded. */
void ffs_resolve_touch_decode(const void *msg, uint32_t i, struct ffs_resolve_touch *out);
/* Errors: INVALID. */
int ffs_resolve_request_decode(const void *msg, size_t len, struct ffs_resolve_request *out,
                               struct cas_err *err) CAS_MUST_CHECK;
/* Appends the reply. extents (r->count of them) may be NULL when that is 0. */
void ffs_resolve_reply_encode(const struct ffs_resolve_reply *r, const struct cas_extent *extents,
                              struct cas_buf *out);
/* extents has room for FFS_RESOLVE_EXTENTS_MAX, or is NULL where none are wanted. What it gives is
 * in bounds: lengths within the named limits, extents in order without gaps, within the object and
 * their blocks. Errors: INVALID. */
int ffs_resolve_reply_decode(const void *msg, size_t len, struct ffs_resolve_reply *out,
                             struct cas_extent *extents, struct cas_err *err) CAS_MUST_CHECK;

#endif
