/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: what travels between two laminas in one answer (spec/peer.md). Pure
 * encoding: no state, thread-safe. */
#ifndef REG_PEER_FRAME_H
#define REG_PEER_FRAME_H

#include "cas/buf.h"
#include "cas/digest.h"

#define REG_PEER_FRAME_TYPE "application/vnd.lamina.frame"

enum reg_peer_frame_kind {
        REG_PEER_CONTENT = 0, /* bytes: of one object, of a part of one, or of a group's objects */
        REG_PEER_CHUNKS = 1,  /* a page of the list of an object's chunks */
        REG_PEER_IDS = 2,     /* digests of objects */
};

#define REG_PEER_FRAME_HEAD_BYTES 24
#define REG_PEER_RAW_BYTES_MAX (4 * 1024 * 1024)  /* decoded content of any frame */
#define REG_PEER_GROUP_BYTES (1024 * 1024)        /* a group, or a part, ends once it has these */
#define REG_PEER_PART_BYTES_MAX (2 * 1024 * 1024) /* of a large object in one answer */
#define REG_PEER_SMALL_BYTES_MAX (256 * 1024)     /* objects up to this travel whole */
#define REG_PEER_PAGE_CHUNKS 8192                 /* entries of a page of chunks */
#define REG_PEER_CHUNK_ENTRY_BYTES (CAS_HASH_BYTES + 4)
#define REG_PEER_IDS_MAX 65536 /* of one frame */

struct reg_peer_frame {
        enum reg_peer_frame_kind kind;
        uint64_t object_bytes; /* of the whole object; of a group: of its objects; IDS: 0 */
        struct cas_buf raw;    /* owned */
};
void reg_peer_frame_release(struct reg_peer_frame *f);
#define reg_cleanup_peer_frame __attribute__((cleanup(reg_peer_frame_release)))

/* Compresses where that wins something. len is at most REG_PEER_RAW_BYTES_MAX (asserted). */
void reg_peer_frame_encode(enum reg_peer_frame_kind kind, uint64_t object_bytes, const void *raw,
                           size_t len, struct cas_buf *out);
/* Any bytes; no more than raw_max are decoded. Errors: CORRUPT, LIMIT, UNSUPPORTED (version). */
int reg_peer_frame_decode(const void *data, size_t len, size_t raw_max, struct reg_peer_frame *out,
                          struct cas_err *err) CAS_MUST_CHECK;
/* The longest frame whose content is at most so long. */
#define REG_PEER_FRAME_BYTES_MAX(RAW_BYTES) (REG_PEER_FRAME_HEAD_BYTES + (size_t)(RAW_BYTES))

/* A page of a list of chunks, as it stands in the content of a CHUNKS frame. */
struct reg_peer_chunk {
        struct cas_hash sha256;
        uint32_t length_bytes; /* 1 to CAS_CHUNK_BYTES_MAX */
};
struct reg_peer_page {
        uint64_t offset;               /* of the first chunk in the object */
        struct reg_peer_chunk *chunks; /* owned */
        size_t count;
};
void reg_peer_page_release(struct reg_peer_page *page);
#define reg_cleanup_peer_page __attribute__((cleanup(reg_peer_page_release)))
void reg_peer_page_encode(const struct reg_peer_page *page, struct cas_buf *out);
/* Chunks lie within the object's length. Errors: CORRUPT. */
int reg_peer_page_decode(const struct reg_peer_frame *frame, struct reg_peer_page *out,
                         struct cas_err *err) CAS_MUST_CHECK;

#endif
