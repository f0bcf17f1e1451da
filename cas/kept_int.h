/* SPDX-License-Identifier: Apache-2.0 */
/* Kept frames: zstd frames of a layer's blob that are stored as they came, each as a block of one
 * chunk, so that mounts read files from them and the blob is made of the same bytes again
 * (spec/recipe-zstd.md, kind 4). A file object that is kept so keeps its chunks for good: a second
 * blob with other frames of the same file has those as bytes of its own recipe. Private to cas. */
#ifndef CAS_KEPT_INT_H
#define CAS_KEPT_INT_H

#include "cas/codec.h"
#include "cas/packset_int.h"
#include "cas/publish.h"

struct cas_kept_frame {
        const void *stored; /* one zstd frame … */
        const void *plain;  /* … and what it decodes to: 1 to CAS_CHUNK_BYTES_MAX bytes */
        uint32_t stored_bytes, plain_bytes;
};

/* Adds the file object `id`, or replaces the chunks that it has, by so many frames in order. The
 * caller holds cas_keeping_lock from looking at what is there until the publication's commit, gives
 * no other objects to the publication between begin and end, and has seen that none of the chunks
 * is kept as another frame. Errors: CORRUPT (the frames are not that object), BUSY (another
 * publication brings one of the chunks), NOSPACE, IO. */
int cas_publish_kept_begin(struct cas_publish *p, const struct cas_hash *id, uint32_t frame_count,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_kept_frame(struct cas_publish *p, const struct cas_kept_frame *frame,
                           struct cas_err *err) CAS_MUST_CHECK;
int cas_publish_kept_end(struct cas_publish *p, struct cas_err *err) CAS_MUST_CHECK;

/* Name of one of so many chunks of an object. */
void cas_kept_name(const struct cas_hash *id, uint32_t frame_count, const void *plain, size_t len,
                   struct cas_hash *out);

void cas_keeping_lock(struct cas_store *s);
void cas_keeping_unlock(struct cas_store *s);

/* The frame that a chunk of an object is kept as; out is cleared. Errors: NOTFOUND (the object),
 * CORRUPT (that chunk is no kept frame). */
int cas_object_frame(struct cas_store *s, const struct cas_hash *id, uint32_t chunk,
                     struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;

/* That of a chunk, if it is kept so; else *is_kept is false, also when there is no such chunk. */
int cas_chunk_frame(struct cas_store *s, const struct cas_hash *chunk, struct cas_buf *out,
                    bool *is_kept, struct cas_err *err) CAS_MUST_CHECK;

/* The ingest's side of the three above. */
int cas_ingest_kept_begin(struct cas_ingest *in, const struct cas_hash *id, uint32_t frame_count,
                          struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_kept_frame(struct cas_ingest *in, const struct cas_kept_frame *frame,
                          struct cas_err *err) CAS_MUST_CHECK;
int cas_ingest_kept_end(struct cas_ingest *in, struct cas_err *err) CAS_MUST_CHECK;
/* Whether it replaces chunks, so that its batch is to be written with packset.replacing held. */
bool cas_ingest_replaces(const struct cas_ingest *in);

#endif
