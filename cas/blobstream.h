/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a blob wherever it is: from its verbatim file, or from a regeneration. Regenerations are
 * shared: whoever wants bytes that one under way is to make reads along with it, at a pace of his
 * own, since what is made is put aside until the last reader has gone. */
#ifndef CAS_BLOBSTREAM_H
#define CAS_BLOBSTREAM_H

#include "cas/store.h"

struct cas_blob_stream;
/* Bytes from `offset` on, at most `bytes` (UINT64_MAX: to the end). When as many regenerations are
 * under way as the store's configuration allows, waits for one to end (`wait`), or fails: BUSY, try
 * again soon. Errors: NOTFOUND, BUSY, INVALID (offset past the end). */
int cas_blob_stream_open(struct cas_store *s, const struct cas_digest *digest, uint64_t offset,
                         uint64_t bytes, bool wait, struct cas_blob_stream **out,
                         struct cas_err *err) CAS_MUST_CHECK;
void cas_blob_stream_close(struct cas_blob_stream *st);
CAS_DEFINE_CLEANUP(cas_cleanup_blob_stream_, struct cas_blob_stream *, cas_blob_stream_close);
#define cas_cleanup_blob_stream __attribute__((cleanup(cas_cleanup_blob_stream_)))

/* Bytes that are left to be read. */
uint64_t cas_blob_stream_left(const struct cas_blob_stream *st);
/* Goes to another byte of what was opened: [offset, offset + bytes) at opening. A regeneration
 * makes all of that once, in order, and what was made is kept for the stream: going back costs
 * nothing, going ahead waits. */
void cas_blob_stream_seek(struct cas_blob_stream *st, uint64_t offset);
/* A descriptor of the whole verbatim file, which is the caller's from then on, and the offset where
 * the stream stands; -1 when the blob is regenerated. */
int cas_blob_stream_take_fd(struct cas_blob_stream *st, uint64_t *out_offset);
/* A cas_source_fn: blocks until there is something; *out_len 0 is the end. Errors: CORRUPT, IO,
 * NOSPACE. */
int cas_blob_stream_read(void *stream, void *buf, size_t len, size_t *out_len,
                         struct cas_err *err) CAS_MUST_CHECK;
/* The same without waiting for the regeneration: *out_len 0 before the end means that there is
 * nothing yet; `wake` is then called once, from any thread, when another call makes sense. It may
 * be called before this returns; never after close has returned. It must not call back. */
int cas_blob_stream_poll(struct cas_blob_stream *st, void *buf, size_t len, size_t *out_len,
                         void (*wake)(void *arg), void *arg, struct cas_err *err) CAS_MUST_CHECK;

/* For metrics and tests. */
struct cas_blob_stream_counts {
        uint64_t started, joined, refused, failed; /* regenerations; readers that joined one; … */
        unsigned running;
};
void cas_blob_stream_counts(struct cas_store *s, struct cas_blob_stream_counts *out);

#endif
