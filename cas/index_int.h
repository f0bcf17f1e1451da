/* SPDX-License-Identifier: Apache-2.0 */
/* The index: RocksDB by its C API behind typed records (spec/index.md). Private
 * to cas. Reads see what was written; one batch is atomic across all families.
 * Thread-safe, but a batch belongs to one thread. */
#ifndef CAS_INDEX_INT_H
#define CAS_INDEX_INT_H

#include "cas/lease.h"
#include "cas/publish.h"

struct cas_index;
struct cas_batch;

/* Where one chunk lies. */
struct cas_chunk_record {
        uint64_t pack_id;
        uint64_t block_offset;       /* of the frame in the pack file */
        uint32_t block_stored_bytes; /* of the frame */
        uint32_t block_raw_bytes;
        uint64_t block_checksum; /* XXH3-64 of the decoded block */
        uint32_t chunk_offset;   /* in the decoded block */
        uint32_t length_bytes;
        uint8_t codec;
};
/* A chunk of an object of several. An object of one chunk has no list: the
 * chunk's name is the object's. An empty object has no chunk. */
struct cas_chunk_ref {
        struct cas_hash chunk;
        uint32_t length_bytes;
};
struct cas_object_record {
        uint64_t size_bytes;
        uint32_t chunk_count;
};
struct cas_pack_record {
        uint32_t tier;
        bool sealed;
        uint64_t size_bytes;    /* of the file, when sealed; else what was synced last */
        struct cas_hash sha256; /* of the file, when sealed: its name elsewhere */
};

int cas_index_get_chunk(struct cas_index *ix, const struct cas_hash *chunk,
                        struct cas_chunk_record *out, struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_object(struct cas_index *ix, const struct cas_hash *id,
                         struct cas_object_record *out, struct cas_err *err) CAS_MUST_CHECK;
/* Chunks first and on of an object's list; *count 0 past the end or when there is no list. */
int cas_index_get_object_chunks(struct cas_index *ix, const struct cas_hash *id, uint32_t first,
                                struct cas_chunk_ref *out, uint32_t max, uint32_t *count,
                                struct cas_err *err) CAS_MUST_CHECK;
int cas_index_get_pack(struct cas_index *ix, uint64_t pack_id, struct cas_pack_record *out,
                       struct cas_err *err) CAS_MUST_CHECK;
int cas_index_each_pack(struct cas_index *ix,
                        bool (*fn)(void *arg, uint64_t pack_id, const struct cas_pack_record *rec),
                        void *arg, struct cas_err *err) CAS_MUST_CHECK;

struct cas_batch *cas_batch_new(void);
void cas_batch_free(struct cas_batch *b);
CAS_DEFINE_CLEANUP(cas_cleanup_batch_, struct cas_batch *, cas_batch_free);
#define cas_cleanup_batch __attribute__((cleanup(cas_cleanup_batch_)))
void cas_batch_put_chunk(struct cas_batch *b, const struct cas_hash *chunk,
                         const struct cas_chunk_record *rec);
void cas_batch_del_chunk(struct cas_batch *b, const struct cas_hash *chunk);
/* refs NULL when chunk_count is 0 or 1. */
void cas_batch_put_object(struct cas_batch *b, const struct cas_hash *id, uint64_t size_bytes,
                          const struct cas_chunk_ref *refs, uint32_t chunk_count);
void cas_batch_del_object(struct cas_batch *b, const struct cas_hash *id);
void cas_batch_put_pack(struct cas_batch *b, uint64_t pack_id, const struct cas_pack_record *rec);
void cas_batch_del_pack(struct cas_batch *b, uint64_t pack_id);
/* Atomic; durable on return. Empties the batch. */
int cas_index_write(struct cas_index *ix, struct cas_batch *b, struct cas_err *err) CAS_MUST_CHECK;

#endif
