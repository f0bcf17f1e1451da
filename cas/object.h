/* SPDX-License-Identifier: Apache-2.0 */
/* File objects: the content of regular files, named by fs-verity digest, kept
 * as chunks in blocks in packs. Reading side; cas/publish.h writes. */
#ifndef CAS_OBJECT_H
#define CAS_OBJECT_H

#include "cas/store.h"

struct cas_object_info {
        uint64_t size_bytes;
        uint32_t chunk_count;
};
/* Errors: NOTFOUND. */
int cas_object_stat(struct cas_store *s, const struct cas_hash *id, struct cas_object_info *out,
                    struct cas_err *err) CAS_MUST_CHECK;

/* Where a piece of an object lies: `length_bytes` of it, from `object_offset`,
 * are found `chunk_offset` into the decoded block. */
struct cas_extent {
        uint64_t object_offset;
        uint32_t length_bytes;
        uint32_t chunk_offset;
        uint64_t pack_id;
        uint64_t block_offset;       /* of the block's frame in the pack file */
        uint32_t block_stored_bytes; /* length of the frame there */
        uint32_t block_raw_bytes;    /* decoded */
        uint64_t block_checksum;     /* XXH3-64 of the decoded bytes */
        uint8_t codec;               /* enum cas_codec */
};
/* The extents of chunks first_chunk and on, at most `max`. *count 0 past the end. */
int cas_object_extents(struct cas_store *s, const struct cas_hash *id, uint32_t first_chunk,
                       struct cas_extent *out, uint32_t max, uint32_t *count,
                       struct cas_err *err) CAS_MUST_CHECK;
/* How the store has an object cut: chunks `first` and on, at most `max`; *count 0 past the end.
 * *offset: where the first of them begins in the object. Another store may have it cut otherwise.
 */
struct cas_object_chunk {
        struct cas_hash name; /* SHA-256 of its bytes; of an only chunk the object's own digest */
        uint32_t length_bytes;
};
int cas_object_chunks(struct cas_store *s, const struct cas_hash *id, uint32_t first,
                      struct cas_object_chunk *out, uint32_t max, uint32_t *count, uint64_t *offset,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Whether the store has such a chunk. */
int cas_chunk_find(struct cas_store *s, const struct cas_hash *name, uint32_t length_bytes,
                   bool *out, struct cas_err *err) CAS_MUST_CHECK;
/* A chunk of whatever object, by the SHA-256 of its bytes: exactly length_bytes of it to `out`.
 * They are not compared with that name again. Errors: NOTFOUND (no chunk of that name and length).
 */
int cas_chunk_read(struct cas_store *s, const struct cas_hash *name, uint32_t length_bytes,
                   void *out, struct cas_err *err) CAS_MUST_CHECK;
/* A read-only descriptor of a pack's home copy; the caller closes it. It stays readable
 * when the pack is moved or collected. Errors: NOTFOUND, UNSUPPORTED (it is remote), IO. */
int cas_pack_open_fd(struct cas_store *s, uint64_t pack_id, int *out_fd,
                     struct cas_err *err) CAS_MUST_CHECK;
/* A pack for readers in other processes, who read, decode and verify by themselves. */
struct cas_pack_fds {
        int home_fd;  /* of its home copy; -1: it is remote, or cannot be reached now. The caller's
                       */
        int cache_fd; /* pieces of it at their offsets, holes elsewhere; -1: none. The caller's */
        bool wants_touched; /* what is read of it should be told: cas_pack_touched */
};
/* Errors: NOTFOUND, IO. */
int cas_pack_open_fds(struct cas_store *s, uint64_t pack_id, struct cas_pack_fds *out,
                      struct cas_err *err) CAS_MUST_CHECK;
/* Brings bytes of a pack to where they can be read: at their offset in *out_fd (read-only, the
 * caller's). `bad`: where that was before they turned out to be other bytes; they are brought anew,
 * to where they stay. Blocks. Errors: NOTFOUND, IO, BUSY, INVALID. */
int cas_block_bring(struct cas_store *s, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                    bool bad, int *out_fd, struct cas_err *err) CAS_MUST_CHECK;
/* So many bytes of a pack were read by another process. was_bad: its cache had others there, which
 * go. */
void cas_pack_touched(struct cas_store *s, uint64_t pack_id, uint64_t offset, uint32_t bytes,
                      bool was_bad);
/* Reads one block's frame from a pack descriptor, decodes and verifies it into
 * out (block_raw_bytes of it). Needs no store: `lamina fs` uses it too.
 * scratch is kept between calls. Errors: CORRUPT, IO, LIMIT. */
int cas_block_read(int pack_fd, const struct cas_extent *extent, void *out, struct cas_buf *scratch,
                   struct cas_err *err) CAS_MUST_CHECK;

/* Reads up to len bytes at offset; fewer only at the end. Uses a small cache of
 * decoded blocks. */
int cas_object_pread(struct cas_store *s, const struct cas_hash *id, uint64_t offset, void *buf,
                     size_t len, size_t *out_len, struct cas_err *err) CAS_MUST_CHECK;
/* Whole object, appended. Errors: LIMIT (> max_bytes). */
int cas_object_read(struct cas_store *s, const struct cas_hash *id, size_t max_bytes,
                    struct cas_buf *out, struct cas_err *err) CAS_MUST_CHECK;
/* Streams the whole object to fn in order; fn returns 0 or -code with err filled. */
int cas_object_each(struct cas_store *s, const struct cas_hash *id,
                    int (*fn)(void *arg, const void *data, size_t len, struct cas_err *err),
                    void *arg, struct cas_err *err) CAS_MUST_CHECK;

#endif
