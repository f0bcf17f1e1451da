/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the resolve protocol, spec/resolve.md: encoding and checked
 * decoding. No I/O. */
#ifndef FFS_RESOLVE_MSG_INT_H
#define FFS_RESOLVE_MSG_INT_H

#include "cas/object.h"

#define FFS_RESOLVE_MAGIC UINT32_C(0x3152534c) /* "LSR1" */
#define FFS_RESOLVE_REQUEST_BYTES 56           /* every request has this length */
#define FFS_RESOLVE_REPLY_HEAD_BYTES 40
#define FFS_RESOLVE_EXTENT_BYTES 56
#define FFS_RESOLVE_EXTENTS_MAX 512 /* of one reply */
#define FFS_RESOLVE_REPLY_BYTES_MAX                                                                \
        (FFS_RESOLVE_REPLY_HEAD_BYTES + FFS_RESOLVE_EXTENTS_MAX * FFS_RESOLVE_EXTENT_BYTES)

enum ffs_resolve_type {
        FFS_RESOLVE_PING = 1,
        FFS_RESOLVE_EXTENTS = 2,
        FFS_RESOLVE_PACK = 3,
};

struct ffs_resolve_request {
        enum ffs_resolve_type type;
        bool asks_again;        /* knows the answer BUSY: the object is on its way */
        uint64_t tag;           /* comes back in the reply */
        struct cas_hash object; /* EXTENTS */
        uint32_t first_chunk;
        uint32_t count_max; /* 1 … FFS_RESOLVE_EXTENTS_MAX */
        uint64_t pack_id;   /* PACK */
};

struct ffs_resolve_reply {
        enum ffs_resolve_type type;
        uint64_t tag;
        enum cas_code code;  /* CAS_OK, or why not; the rest is then zero */
        uint64_t size_bytes; /* EXTENTS: of the object */
        uint32_t chunk_count;
        uint32_t first_chunk;
        uint32_t count;
};

void ffs_resolve_request_encode(const struct ffs_resolve_request *r,
                                uint8_t out[FFS_RESOLVE_REQUEST_BYTES]);
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
